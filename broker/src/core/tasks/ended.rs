//! Tasks that have ended: what is left of each until nobody asks for it.

use std::sync::Arc;

use furlong_wire::ids::{EngineId, TaskSeq};
use furlong_wire::message::{
    FetchedOutput, Outcome, Output as TaskOutput, Runtime, Stream, TaskOptions, TaskState,
    TaskTimes,
};

use super::end::DependencyEnd;
use super::extras::{Follower, TaskExtras};
use crate::core::journal::stage::Durable;
use crate::core::keys::{AttemptId, ProcessKey, ValueId};
use crate::core::payloads::output::Piece;
use crate::core::payloads::stored::Stored;

/// An ended task, kept until its client has acknowledged it.
#[derive(Debug)]
pub struct EndedTask {
    /// Its outcome.
    pub outcome: Outcome,
    /// The engine that ran it.
    pub engine: Option<EngineId>,
    /// The number of attempts.
    pub attempts: u32,
    /// The times of its events.
    pub times: TaskTimes,
    /// Its result, unless that is a value.
    pub payload: Option<Stored>,
    /// The value that its result is: others need it, or it stays.
    pub value: Option<ValueId>,
    /// The engine process whose lane the result came by, if it came unasked.
    pub lane: Option<ProcessKey>,
    /// The engine process that holds it until it is acknowledged or dropped, and as which attempt.
    pub held: Option<(ProcessKey, AttemptId)>,
    /// True if its end is on its way to the journal, and may not be reported before.
    pub is_unwritten: bool,
    /// True if nobody wants it any longer once it is there.
    pub is_purged: bool,
    /// The summary of the task.
    pub what: TaskSummary,
}

/// The summary of a task that has ended.
#[derive(Debug)]
pub struct TaskSummary {
    /// The runtime that ran it.
    pub runtime: Runtime,
    /// Its kind.
    pub class: u32,
    /// The name of that, if it outlives the session, which has it until then.
    pub name: Option<Arc<str>>,
    /// The engine that its submit named.
    pub target: Option<EngineId>,
    /// The options that differed from the defaults.
    pub options: Option<Arc<TaskOptions>>,
    /// Bytes of its call and arguments.
    pub request_bytes: u64,
    /// The number of its attempts that were lost.
    pub losses: u32,
    /// Microseconds from its submit until it had all that it needed.
    pub queued_us: u64,
    /// True if its result and output were dropped for want of memory.
    pub gave_way: bool,
    /// The journal's state of it.
    pub durable: Option<Box<Durable>>,
    /// The extras that few tasks have.
    pub more: Option<Box<TaskExtras>>,
}

impl TaskSummary {
    /// Returns true if result and output are retained after the client has them.
    pub fn keep(&self) -> bool {
        self.options.as_ref().is_some_and(|options| options.keep)
    }

    /// Returns true if its result stays at the broker until its client acknowledges its end.
    pub fn stays(&self) -> bool {
        self.runtime == Runtime::Value || self.options.as_ref().is_some_and(|options| options.stay)
    }

    /// Nobody wants it kept.
    pub fn keep_no_longer(&mut self) {
        self.options.iter_mut().for_each(|options| Arc::make_mut(options).keep = false);
    }

    /// Returns true if somebody may ask for it when its session is over.
    pub fn outlives_session(&self) -> bool {
        self.keep() || self.durable.is_some()
    }

    /// Takes out the clients that wait for it.
    pub fn take_followers(&mut self) -> Vec<Follower> {
        self.more.as_mut().map(|more| std::mem::take(&mut more.followers)).unwrap_or_default()
    }

    /// Bytes of kept output.
    pub fn output_bytes(&self) -> u64 {
        self.more.as_ref().map_or(0, |more| more.output.kept_bytes())
    }

    /// Drops kept output, and says how much it was.
    pub fn drop_output(&mut self) -> u64 {
        self.more.as_mut().map_or(0, |more| more.output.drop_pieces())
    }
}

impl EndedTask {
    /// Bytes that count against the payload budget: of its result, its output and its record.
    pub fn budget_bytes(&self) -> u64 {
        self.payload.as_ref().map_or(0, Stored::budget_bytes)
            + self.what.output_bytes()
            + self.record_bytes()
    }

    /// The lengths of what the task has written, as empty pieces at the ends of its streams: pieces
    /// may have been left out for its client, and the last ones would not be missed. None of the
    /// many tasks that write nothing.
    pub fn written(&self, n: TaskSeq) -> Option<[TaskOutput; 2]> {
        let (output, engine) = (&self.what.more.as_ref()?.output, self.engine?);
        let end = |stream, offset| TaskOutput {
            n,
            attempt: output.attempt(),
            engine,
            stream,
            offset,
            bytes: Vec::new(),
        };
        let ends =
            [end(Stream::Stdout, output.stdout_bytes), end(Stream::Stderr, output.stderr_bytes)];
        ends.iter().any(|end| end.offset > 0).then_some(ends)
    }

    /// Returns its retained output, as the answer to a request.
    pub fn output(&self, request: u64) -> impl Iterator<Item = FetchedOutput> {
        let (attempt, engine) = (self.attempts, self.engine.unwrap_or(EngineId(0)));
        let pieces = self.what.more.as_ref().map_or(&[][..], |more| more.output.pieces());
        pieces.iter().map(move |Piece { stream, offset, bytes }| {
            let (stream, offset, bytes) = (*stream, *offset, bytes.clone());
            FetchedOutput { request, attempt, engine, stream, offset, bytes }
        })
    }

    /// Returns its end as its dependents see it.
    pub fn ending(&self) -> DependencyEnd {
        DependencyEnd { succeeded: self.outcome.state == TaskState::Succeeded, engine: self.engine }
    }
}
