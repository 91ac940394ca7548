//! The broker's memory as one sum.
//!
//! - payload chunks, kept output, inline definitions, long options, dependencies, reasons: half of
//!   `--memory`
//! - what waits for peers that do not read as fast as they ask: an eighth, of which each has a
//!   share of what is free
//! - records of ended tasks that are kept: [`KEPT_BYTES`] each, as many as fit a sixteenth
//! - unfinished and unacknowledged tasks: [`TASK_BYTES`] and an inline payload (call or result)
//!   each, as many as fit the rest
//! - unauthenticated peers: [`PENDING_BYTES`] each, [`PENDING_MAX`], [`WAITING_MAX`] and
//!   [`CALLERS_MAX`] of them
//! - read buffers of peers: [`READ_BUFFER_BYTES`] for each connection
//! - entries on their way to the journal: a few for each durable task, with its payload
//! - what waits for engines: [`OUT_QUEUE_BYTES_MAX`] for each connection, and no more than the
//!   tasks that they are given
//! - what is counted for those who look: the last ends, kinds, failures and series, at most 14 MiB
//!   (`core/watch/`); and the last figures of each engine process, 16 bytes a slot
//!   (`core/engines/measured.rs`)
//!
//! All but the last five are what users fill; they share `--memory` (by default a quarter of the
//! machine's), and payloads and tasks are shared among the sessions, so that one leaves room for
//! others (`core/payloads/budget.rs`, `core/payloads/backlog.rs`). The others are
//! bounded by themselves, or by the number of file descriptors, from which the listener takes its
//! permits.

use furlong_wire::limits::{
    CALLERS_MAX, INLINE_PAYLOAD_BYTES_MAX, KEPT_RECORDS_MAX, PENDING_MAX, PREAUTH_BUFFER_BYTES_MAX,
    RECORD_BYTES_MAX, UNFINISHED_TASKS_MAX, WAITING_MAX,
};

/// A task's record in the core's tables, and its result's after it.
pub const TASK_BYTES: u64 = 1000;
/// The record of an ended task that is kept, with an inline result.
pub const KEPT_BYTES: u64 = TASK_BYTES + INLINE_PAYLOAD_BYTES_MAX as u64;
/// An unauthenticated peer: its buffer, its handshake, its task.
pub const PENDING_BYTES: u64 = PREAUTH_BUFFER_BYTES_MAX as u64 + 8 * 1024;
/// A peer's read buffer: a record, and the start of the next.
pub const READ_BUFFER_BYTES: u64 = 2 * RECORD_BYTES_MAX as u64;
/// Encoded messages that wait for a peer. Who lets more gather is closed.
pub const OUT_QUEUE_BYTES_MAX: usize = 64 * 1024 * 1024;

/// The broker's memory limits.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Memory {
    /// Bytes of payload chunks, and of what else is charged for.
    pub payload_bytes_max: u64,
    /// Unfinished and unacknowledged tasks.
    pub tasks_max: u64,
    /// Records of ended tasks that are kept.
    pub kept_max: usize,
    /// Bytes that wait for all clients together.
    pub out_bytes_max: usize,
}

impl Memory {
    /// Divides `--memory`.
    pub fn of(bytes: u64) -> Self {
        let pending = PENDING_BYTES * (PENDING_MAX + WAITING_MAX + CALLERS_MAX) as u64;
        let (payloads, out, kept) = (bytes / 2, bytes / 8, bytes / 16);
        let tasks = (bytes - payloads - out - kept).saturating_sub(pending);
        let task_bytes = TASK_BYTES + INLINE_PAYLOAD_BYTES_MAX as u64;
        let fitting = |bytes: u64| usize::try_from(bytes).unwrap_or(usize::MAX);
        Self {
            payload_bytes_max: payloads,
            tasks_max: (tasks / task_bytes).clamp(1_000, UNFINISHED_TASKS_MAX),
            kept_max: fitting(kept / KEPT_BYTES).clamp(1_000, KEPT_RECORDS_MAX),
            out_bytes_max: fitting(out),
        }
    }
}

/// The limits on what may be pending for a client, out of what may be pending for all of them
/// together.
///
/// A client that is asking is answered as it takes the answers: while more waits for it than
/// [`OutQueues::asks_max`], nothing more is read from it. What comes without being asked for, ends
/// and events, closes it when more than [`OutQueues::waits_max`] waits. Both are shares of what is
/// still free, so that all together never fill more than there is, however many they are, and one
/// alone has plenty.
#[derive(Debug)]
pub struct OutQueues {
    most: usize,
    /// Bytes that may wait for one that asks, at least and at most.
    asks: (usize, usize),
    waiting: std::cell::Cell<usize>,
}

/// Least that may wait for a client that is asking, whatever waits for others.
const ASKS_LEAST: usize = 16 * 1024;
/// Most that may wait for one: more than a client that reads lets gather.
const ASKS_MOST: usize = 4 * 1024 * 1024;
/// Least that may wait for a client without its being closed.
const WAITS_LEAST: usize = 256 * 1024;

impl OutQueues {
    /// Queues that hold so many bytes together.
    pub fn new(most: usize) -> Self {
        Self { most, asks: (ASKS_LEAST, ASKS_MOST), waiting: std::cell::Cell::new(0) }
    }

    /// The same, where fewer bytes may wait for a client that asks: for simulations.
    pub fn asking(most: usize, asks_most: usize) -> Self {
        Self { asks: (ASKS_LEAST.min(asks_most), asks_most), ..Self::new(most) }
    }

    /// Records that the number of bytes pending for one of them has changed.
    pub fn change(&self, before: usize, now: usize) {
        self.waiting.set((self.waiting.get() + now).saturating_sub(before));
    }

    fn free(&self) -> usize {
        self.most.saturating_sub(self.waiting.get())
    }

    /// Bytes that may wait for a client whose next question is read.
    pub fn asks_max(&self) -> usize {
        (self.free() / 8).clamp(self.asks.0, self.asks.1)
    }

    /// Bytes that may wait for a client at all.
    pub fn waits_max(&self) -> usize {
        self.free().clamp(WAITS_LEAST, OUT_QUEUE_BYTES_MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gibibyte_holds_a_hundred_and_sixty_thousand_tasks_of_the_largest_kind() {
        let memory = Memory::of(1 << 30);
        assert_eq!(memory.payload_bytes_max, 512 << 20);
        assert!((150_000..170_000).contains(&memory.tasks_max), "{}", memory.tasks_max);
        let tasks = memory.tasks_max * (TASK_BYTES + 1_024);
        let kept = memory.kept_max as u64 * KEPT_BYTES;
        assert!(memory.payload_bytes_max + memory.out_bytes_max as u64 + tasks + kept <= 1 << 30);
    }

    #[test]
    fn one_client_has_plenty_and_many_share_what_there_is() {
        let queues = OutQueues::new(64 << 20);
        assert_eq!((queues.asks_max(), queues.waits_max()), (ASKS_MOST, 64 << 20));
        let mut waiting = vec![0; 500];
        // Each takes what it may, again and again.
        for _ in 0..20 {
            for own in &mut waiting {
                let before = *own;
                *own = before.max(queues.asks_max());
                queues.change(before, *own);
            }
        }
        let all: usize = waiting.iter().sum();
        assert!(all <= (64 << 20) + waiting.len() * ASKS_LEAST, "{all} bytes wait");
        waiting.iter().for_each(|own| queues.change(*own, 0));
        assert_eq!(queues.asks_max(), ASKS_MOST);
    }

    #[test]
    fn who_fills_more_than_what_is_free_has_to_go() {
        let queues = OutQueues::new(64 << 20);
        queues.change(0, 33 << 20);
        assert!(queues.waits_max() < 33 << 20);
        queues.change(33 << 20, 31 << 20);
        assert!(queues.waits_max() > 31 << 20);
    }
}
