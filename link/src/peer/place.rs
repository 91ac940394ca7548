//! The place of a message in the queue of its peer: what goes before everything else, and what a
//! slow reader can do without.

use furlong_wire::message::{
    Direction, FromClient, FromEngine, Payload, Published, ToClient, ToEngine,
};

/// Bytes that wait for a client beyond which output and intermediate data are left out for it.
pub const EXTRAS_QUEUE_BYTES_MAX: usize = 16 * 1024 * 1024;
/// The same for kept output that a client has asked for.
pub const FETCHED_QUEUE_BYTES_MAX: usize = 48 * 1024 * 1024;

/// The place of a message in a queue.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum QueuePlace {
    /// Behind all that were queued before.
    InOrder,
    /// Before all messages, and so before the chunks of all payloads.
    First,
    /// In order, or nowhere while too much waits: the reader gets a gap, and is not closed for what
    /// a task writes.
    Dispensable {
        /// By which limit.
        kind: Dispensable,
        /// The transfer that it announces, which goes or stays with it.
        transfer: Option<u64>,
    },
}

/// Messages that a slow reader can do without.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Dispensable {
    /// Output and intermediate data, as they come.
    Extra,
    /// Kept output. It was asked for, and is not written while nobody reads.
    Fetched,
}

/// Bytes that wait for a peer beyond which its dispensable messages are left out.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LeftOutAbove {
    /// For [`Dispensable::Extra`].
    pub extra_bytes: usize,
    /// For [`Dispensable::Fetched`].
    pub fetched_bytes: usize,
}

impl Default for LeftOutAbove {
    fn default() -> Self {
        Self { extra_bytes: EXTRAS_QUEUE_BYTES_MAX, fetched_bytes: FETCHED_QUEUE_BYTES_MAX }
    }
}

impl LeftOutAbove {
    /// The limit for messages of this kind.
    pub fn of(&self, kind: Dispensable) -> usize {
        match kind {
            Dispensable::Extra => self.extra_bytes,
            Dispensable::Fetched => self.fetched_bytes,
        }
    }
}

/// A message whose kind says its place.
pub trait Placed: Direction + 'static {
    /// Its place among what waits.
    fn place(&self) -> QueuePlace {
        QueuePlace::InOrder
    }
}

impl Placed for ToClient {
    fn place(&self) -> QueuePlace {
        let dispensable = |kind, transfer| QueuePlace::Dispensable { kind, transfer };
        match self {
            // Without bytes it says how many there were, which is not left out.
            Self::Output(output) if output.bytes.is_empty() => QueuePlace::InOrder,
            Self::Published(Published { payload: Payload::Chunked { transfer, .. }, .. }) => {
                dispensable(Dispensable::Extra, Some(*transfer))
            }
            Self::Output(_) | Self::Published(_) => dispensable(Dispensable::Extra, None),
            Self::FetchedOutput(_) => dispensable(Dispensable::Fetched, None),
            _ => QueuePlace::InOrder,
        }
    }
}

impl Placed for ToEngine {
    fn place(&self) -> QueuePlace {
        match self {
            // They must not wait behind a payload: it may be the one of the work that they end.
            Self::Cancel(_) | Self::Signal(_) | Self::Recall(_) => QueuePlace::First,
            _ => QueuePlace::InOrder,
        }
    }
}

/// A client's cancels may go first, too, but only if what they cancel has left: its core says so.
impl Placed for FromClient {}

impl Placed for FromEngine {}
