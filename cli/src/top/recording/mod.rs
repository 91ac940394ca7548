//! A recording of a farm: the looks of a while in a file, and their replay.
//!
//! The file begins with a line that says what it is. Records follow, one for each look: the length
//! of its body (4 bytes), its time (8 bytes: milliseconds since 1970), a mark (1 byte: 1 if it
//! needs none of those before it), numbers with the lowest byte first, and the body in msgpack. A
//! body has the broker's answers as they came, which tell what has changed. A record is written in
//! one piece, and what is written is never changed: after a crash all records but the last one are
//! whole.

mod player;
mod read;
mod scene;
#[cfg(test)]
mod tests;
mod write;

use furlong_client::TaskId;
use furlong_wire::message::{Seen, TaskRecord};
use serde::{Deserialize, Serialize};

pub use player::{Move, Player, clock};
pub use read::Recording;
pub use scene::Reel;
pub use write::Recorder;

/// The first line of a file of this version.
const FIRST_LINE: &str = "furlong recording 1\n";
/// The same without the version.
const FIRST_WORDS: &str = "furlong recording ";
/// Bytes in front of a record's body.
const HEAD_BYTES: usize = 13;
/// Bytes of a body at most: far more than a look at the largest farm takes.
const BODY_BYTES_MAX: u32 = 256 << 20;
/// The mark of a record that needs none of those before it.
const WHOLE: u8 = 1;
/// Ended tasks that a record has at most; the others are counted.
const ENDS_MAX: usize = 500;

/// The body of a record.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
struct Body {
    /// The broker's endpoint.
    endpoint: String,
    /// The broker's answers.
    seen: Vec<Seen>,
    /// Tasks that have not ended: those that are new, and those that have changed.
    queue: Vec<TaskRecord>,
    /// Tasks that are no longer among them.
    left: Vec<TaskId>,
}
