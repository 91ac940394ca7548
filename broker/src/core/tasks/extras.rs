//! What few tasks have, beside what all have.

use furlong_wire::ids::TaskId;
use furlong_wire::message::AttemptRecord;

use super::waits::Waits;
use crate::core::keys::ValueId;
use crate::core::payloads::output::KeptOutput;
use crate::core::{ConnectionId, Time};

/// The extras that few tasks have.
#[derive(Debug, Default)]
pub struct TaskExtras {
    /// Attempts that raised and were followed by another.
    pub errors: u32,
    /// Attempts that their engines have cancelled, which nobody had asked for.
    pub cancels_unasked: u32,
    /// Attempts that were stopped with the jobs of their engines.
    pub given_back: u32,
    /// True if an engine was lost with it assigned and not yet reported as running: it may be what
    /// ends engines.
    pub is_suspect: bool,
    /// The time at which its engine reported that it runs.
    pub started: Option<Time>,
    /// True if its run has ended on an engine that is away, and holds the result: it counts as a
    /// run, without a limit.
    pub has_run: bool,
    /// The time at which something is due for it.
    pub deadline: Option<Time>,
    /// The end of its pause.
    pub pause_ends: Option<Time>,
    /// The results that its code has as inputs, in order.
    pub inputs: Vec<TaskInput>,
    /// The tasks it waits for.
    pub waits: Option<Box<Waits>>,
    /// The attempts before this one.
    pub past: Vec<AttemptRecord>,
    /// Its output, and the retained part of it.
    pub output: KeptOutput,
    /// The clients that wait for its end.
    pub followers: Vec<Follower>,
}

/// A result that a task's code has as an input.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TaskInput {
    /// The task that makes it, of the same owner.
    pub task: TaskId,
    /// The value, once that task has ended: this task is one of its users.
    pub value: Option<ValueId>,
}

/// A client that has asked for a task that has not ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Follower {
    /// The connection for the answer.
    pub connection: ConnectionId,
    /// Its number for the request.
    pub request: u64,
    /// True if it wants the output.
    pub output: bool,
}
