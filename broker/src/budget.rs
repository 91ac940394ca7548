//! The broker's memory as one sum.
//!
//! | what | how much | how many |
//! |---|---|---|
//! | payload chunks, kept output | half of `--memory`; a payload beyond a quarter of it leaves a quarter to others | |
//! | unfinished and unacknowledged tasks | [`TASK_BYTES`] and an inline payload each way | what fits the other half |
//! | strangers | [`STRANGER_BYTES`] | [`STRANGERS_MAX`] and [`CALLERS_MAX`] |
//! | read buffers of peers | [`READ_BUFFER_BYTES`] | connections |
//! | entries on their way to the journal | a few for each durable task, with its payload | as tasks |
//! | out-queues of peers | [`OUT_QUEUE_BYTES_MAX`], for at most 10 s without progress | connections |
//!
//! The first two are what users fill; they share `--memory` (by default a quarter of the machine's). The others are
//! bounded by the number of file descriptors, from which the listener takes its permits.

use furlong_wire::limits::{
    CALLERS_MAX, INLINE_PAYLOAD_BYTES_MAX, PREAUTH_BUFFER_BYTES_MAX, RECORD_BYTES_MAX, STRANGERS_MAX,
    UNFINISHED_TASKS_MAX,
};

/// A task's record in the core's tables, and its result's after it.
pub const TASK_BYTES: u64 = 600;
/// A stranger: its buffer, its handshake, its task.
pub const STRANGER_BYTES: u64 = PREAUTH_BUFFER_BYTES_MAX as u64 + 8 * 1024;
/// A peer's read buffer: a record, and the start of the next.
pub const READ_BUFFER_BYTES: u64 = 2 * RECORD_BYTES_MAX as u64;
/// Encoded messages that wait for a peer. Who lets more gather is closed.
pub const OUT_QUEUE_BYTES_MAX: usize = 64 * 1024 * 1024;
/// Bytes that wait for a client beyond which output and intermediate data are left out for it.
pub const EXTRAS_QUEUE_BYTES_MAX: usize = 16 * 1024 * 1024;
/// The same for kept output that a client has asked for.
pub const FETCHED_QUEUE_BYTES_MAX: usize = 48 * 1024 * 1024;

/// What the broker may hold.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Memory {
    /// Bytes of payload chunks.
    pub payload_bytes_max: u64,
    /// Unfinished and unacknowledged tasks.
    pub tasks_max: u64,
}

impl Memory {
    /// Divides `--memory`.
    pub fn of(bytes: u64) -> Self {
        let task_bytes = TASK_BYTES + 2 * INLINE_PAYLOAD_BYTES_MAX as u64;
        let strangers = STRANGER_BYTES * (STRANGERS_MAX + CALLERS_MAX) as u64;
        Self {
            payload_bytes_max: bytes / 2,
            tasks_max: ((bytes / 2).saturating_sub(strangers) / task_bytes).clamp(1_000, UNFINISHED_TASKS_MAX),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gibibyte_holds_two_hundred_thousand_tasks_of_the_largest_kind() {
        let memory = Memory::of(1 << 30);
        assert_eq!(memory.payload_bytes_max, 512 << 20);
        assert!((190_000..210_000).contains(&memory.tasks_max), "{}", memory.tasks_max);
        assert!(memory.payload_bytes_max + memory.tasks_max * (TASK_BYTES + 2_048) <= 1 << 30);
    }
}
