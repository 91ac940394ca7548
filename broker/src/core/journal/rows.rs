//! The rows of the journal, which the core writes and gets back at the next start.

use std::sync::Arc;

use furlong_wire::ids::{EngineId, InstanceId, SessionId, TaskId, TaskSeq};
use furlong_wire::message::{AttemptRecord, Outcome, RunTimes, Runtime, TaskOptions, TaskTimes};
use furlong_wire::payload::{InlineBytes, PayloadSecret};
use furlong_wire::token::Claims;

use crate::core::payloads::output::Piece;
pub use crate::core::payloads::stored::Content;

/// A change of the journal. They take effect in the order in which the core gave them.
#[derive(Clone, Debug)]
pub enum Entry {
    /// A session has its first durable task.
    Session(Box<SessionRow>),
    /// A session is over; its durable tasks go on.
    Departed(u32),
    /// A definition that durable tasks of a session name: its session, its number, its source.
    Definition(u32, u32, Blob),
    /// A task is accepted.
    Task(Box<TaskRow>),
    /// A task that may run once only may have begun.
    Begun(u64),
    /// A task on which another waited has ended.
    Met(u64, Met),
    /// A task has ended.
    Ended(Box<EndRow>),
    /// The client has the result, which is kept: microseconds from the task's submit to that.
    Delivered(u64, u64),
    /// Nobody can ask for a task any longer.
    Forgotten(u64),
}

/// A session with durable tasks.
#[derive(Clone, Debug)]
pub struct SessionRow {
    /// Its number in the journal.
    pub key: u32,
    /// Its id.
    pub id: SessionId,
    /// The rights that its token granted.
    pub claims: Claims,
    /// The secret of its payloads.
    pub secret: PayloadSecret,
    /// True if it is over.
    pub departed: bool,
}

/// A task, as it was accepted.
#[derive(Clone, PartialEq, Debug)]
pub struct TaskRow {
    /// Its number in the journal: ascending with the submits.
    pub id: u64,
    /// Its session's number in the journal.
    pub session: u32,
    /// Its number in the session.
    pub n: TaskSeq,
    /// The engine that its submit named.
    pub target: Option<EngineId>,
    /// Its runtime.
    pub runtime: Runtime,
    /// Its kind.
    pub class: u32,
    /// The name of that.
    pub name: Option<Arc<str>>,
    /// The definition that it needs.
    pub define: Option<u32>,
    /// The options that differ from the defaults.
    pub options: Arc<TaskOptions>,
    /// Call header and arguments.
    pub payload: Blob,
    /// The time of its submit: microseconds since 1970.
    pub submitted_unix_us: u64,
    /// True if it may have begun, if it may run once only.
    pub begun: bool,
    /// Those that it was to wait for and that have ended as demanded.
    pub met: Vec<Met>,
}

/// A dependency that has ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Met {
    /// The task.
    pub task: TaskId,
    /// True if it succeeded.
    pub succeeded: bool,
    /// The engine that ran it, if one did.
    pub engine: Option<EngineId>,
}

/// A task's end.
#[derive(Clone, PartialEq, Debug)]
pub struct EndRow {
    /// The task's number in the journal.
    pub id: u64,
    /// The time of its end: microseconds since 1970.
    pub ended_unix_us: u64,
    /// Its outcome.
    pub outcome: Outcome,
    /// The engine that ran it.
    pub engine: Option<EngineId>,
    /// The number of attempts.
    pub attempts: u32,
    /// The number of its attempts that were lost.
    pub losses: u32,
    /// The number of its attempts that raised and were followed by another.
    pub errors: u32,
    /// Microseconds from submit to the last assignment.
    pub assigned_us: Option<u64>,
    /// Microseconds from submit to its end.
    pub finished_us: u64,
    /// The parts of the last attempt that its engine has measured.
    pub run: RunTimes,
    /// Bytes of its call and arguments.
    pub request_bytes: u64,
    /// The chunks of its arguments, if it had such: [`Chunked::of`]. They are of no use any longer.
    pub request_chunks: Option<u64>,
    /// The attempts before the last one.
    pub past: Vec<AttemptRecord>,
    /// Its result.
    pub payload: Option<Blob>,
    /// Its output, as far as it is retained.
    pub output: Vec<Piece>,
    /// Bytes of standard output and of standard error, kept or not.
    pub output_bytes: (u64, u64),
    /// The time at which its client had the result: microseconds from its submit.
    pub delivered_us: Option<u64>,
}

impl EndRow {
    /// The times of a task that was submitted then: microseconds since 1970.
    pub fn times(&self, submitted_unix_us: u64) -> TaskTimes {
        let Self { assigned_us, finished_us, run, .. } = *self;
        TaskTimes { submitted_unix_us, assigned_us, finished_us, run }
    }
}

/// A payload.
#[derive(Clone, PartialEq, Debug)]
pub enum Blob {
    /// Inside its row.
    Inline(InlineBytes),
    /// In chunks.
    Chunked(Chunked),
}

/// A payload in chunks, as the client or an engine process sealed them.
#[derive(Clone, PartialEq, Debug)]
pub struct Chunked {
    /// The number of the task whose arguments it was at first: those of one submit share it.
    pub of: u64,
    /// Its counter under its key.
    pub counter: u64,
    /// Bytes before sealing.
    pub bytes: u64,
    /// The engine process that sealed it, if it is a result.
    pub instance: Option<InstanceId>,
    /// Its bytes. None if another row has them.
    pub content: Option<Content>,
}
