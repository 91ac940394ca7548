//! The cost of a message, counted while it is handled, so that no peer's message keeps the others
//! waiting for long.
//!
//! The unit is a task, an engine, a session or a range that is looked at. The shell lets others
//! have their turn when a peer's messages have cost [`WORK_PER_TURN`], and a message that names
//! very many tasks is handled in parts ([`super::rest`]).

use std::cell::Cell;

/// Work after which others have their turn: less than a millisecond. A no-op waits for some turns
/// of who asks without end: at its submit, at the engine's word, at its result.
pub const WORK_PER_TURN: u64 = 4096;
/// What each message costs beside what it looks at: a thousand small ones are a turn.
pub(in crate::core) const WORK_PER_MESSAGE: usize = 4;
/// What an operation on the curve costs: some 40 microseconds.
pub(in crate::core) const WORK_PER_CURVE_OPERATION: usize = 256;
/// Tasks that one part of a message ends, frees or sends.
pub(in crate::core) const TASKS_PER_PART: usize = 256;
/// Bytes of an answer that count as one unit.
const BYTES_PER_STEP: usize = 64;

/// The work that was done so far.
#[derive(Debug, Default)]
pub struct Work(Cell<u64>);

impl Work {
    /// So many were looked at.
    #[inline]
    pub fn add(&self, steps: usize) {
        self.0.set(self.0.get().wrapping_add(steps as u64));
        count(steps);
    }

    /// An answer of so many bytes was made.
    #[inline]
    pub fn add_bytes(&self, bytes: usize) {
        self.add(bytes / BYTES_PER_STEP);
    }

    /// All of it so far.
    pub fn done(&self) -> u64 {
        self.0.get()
    }
}

#[cfg(any(test, feature = "invariants"))]
thread_local! {
    static STEPS: Cell<u64> = const { Cell::new(0) };
}

/// Counts what a loop over tasks, engines, sessions or ranges looks at: for the tests, which
/// compare it with what a message names. Without them it is nothing.
#[inline]
pub(in crate::core) fn count(steps: usize) {
    #[cfg(any(test, feature = "invariants"))]
    STEPS.with(|counted| counted.set(counted.get().wrapping_add(steps as u64)));
    #[cfg(not(any(test, feature = "invariants")))]
    let _ = steps;
}

/// Steps of this thread so far.
#[cfg(test)]
pub(in crate::core) fn steps() -> u64 {
    STEPS.with(Cell::get)
}
