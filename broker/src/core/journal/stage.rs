//! How far the journal is with a task.

/// The journal's state of a task.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Durable {
    /// Its number there.
    pub id: u64,
    /// The stage that it has reached.
    pub stage: Stage,
    /// True if it may have begun, if it may run once only; else, true if it may have run before
    /// this start.
    pub begun: bool,
    /// The time between its submit and the broker's start, in microseconds.
    pub age_us: u64,
}

/// The stage that a task has reached in the journal.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Stage {
    /// It does not know it: arguments are missing.
    Unknown,
    /// Nothing is missing but tasks that it waits for or that stand before it at its engine, which
    /// the journal must have first.
    Behind,
    /// On its way to the disk.
    Noted,
    /// On the disk.
    Written,
}
