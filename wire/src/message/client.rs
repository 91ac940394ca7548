//! Bodies of the messages between clients and the broker.

use serde::{Deserialize, Serialize};

use super::catalogue::{bodies, body, hot_bodies};
use super::ranges::Ranges;
use super::status::{Query, ReplyBody, TaskRecord};
use super::task::{Outcome, Payload, Runtime, Stream, Targets, TaskOptions, TaskTimes};
use crate::ids::{EngineId, SessionId, TaskId, TaskSeq, TokenId};
use crate::payload::PayloadSecret;

bodies! {
    /// A client's first message.
    Open {
        /// The secret of the session's payloads.
        secret: PayloadSecret,
        /// True if the session ends with its connection: its tasks are cancelled at once, except
        /// those to be retained.
        cancel_on_disconnect: bool,
        /// The highest task number that the session had given when it first came to this start of
        /// the broker: an earlier start may have had it.
        submitted: TaskSeq,
        /// True if the session tells no names of its kinds of tasks, and its engines no types of
        /// errors.
        hides_names: bool,
    }

    /// The name of a kind of task, for people. It is said once for each kind, on each connection.
    KindName {
        /// The kind, as submits have it.
        class: u32,
        /// The runtime of its tasks.
        runtime: Runtime,
        /// The name, of at most [`NAME_BYTES_MAX`](crate::limits::NAME_BYTES_MAX) bytes.
        name: String,
    }

    /// A blob for a whole session.
    Define {
        /// Its number in the session.
        number: u32,
        /// The blob.
        payload: Payload,
    }

    /// Ends tasks of this session.
    Cancel {
        /// First and last number of each range.
        ranges: Vec<(TaskSeq, TaskSeq)>,
        /// True if an interpreter that does not respond to the interrupt is killed.
        force: bool,
    }

    /// Ends tasks of any session of the same owner.
    CancelTasks {
        /// The client's number for the request.
        request: u64,
        /// The tasks; those that are unknown are passed over.
        tasks: Vec<TaskRange>,
        /// True if an interpreter that does not respond to the interrupt is killed.
        force: bool,
    }

    /// A definition that can go: no unfinished task names it, and no later one will.
    Undefine {
        /// Its number in the session.
        number: u32,
    }

    /// Ends those tasks of any session of the same owner that have not begun.
    TakeBack {
        /// The client's number for the request.
        request: u64,
        /// The tasks; those that are unknown or run are passed over.
        tasks: Vec<TaskRange>,
    }

    /// Tasks of one session.
    TaskRange {
        /// The session that submitted them.
        session: SessionId,
        /// The first number.
        first: TaskSeq,
        /// The last number.
        last: TaskSeq,
    }

    /// A signal for what the same owner's tasks run on engines.
    Signal {
        /// The client's number for the request.
        request: u64,
        /// The engines.
        engines: Vec<EngineId>,
        /// The signal's number.
        signal: i32,
    }

    /// New interpreters for engines. The reply comes when all of them have ended the old one.
    Restart {
        /// The client's number for the request.
        request: u64,
        /// The engines.
        engines: Vec<EngineId>,
    }

    /// A question.
    Request {
        /// The client's number for it.
        request: u64,
        /// The query.
        query: Query,
    }

    /// The events a client wants.
    Subscribe {
        /// Engines that come and go.
        engines: bool,
    }

    /// Wants a task's record and result: at once, or when it has ended.
    Fetch {
        /// The client's number for the request.
        request: u64,
        /// The session that submitted it, which must be of the same owner.
        session: SessionId,
        /// The task's number there.
        n: TaskSeq,
        /// True if the answer is to come when the task has ended. Otherwise it comes now, and may
        /// have no result.
        wait: bool,
        /// True if its output is wanted: what is retained of it now, then what comes.
        output: bool,
    }

    /// Kept results that are no longer wanted, of any session of the same owner.
    Purge {
        /// The client's number for the request.
        request: u64,
        /// The tasks. Those that have not ended are passed over.
        tasks: Vec<TaskRange>,
    }

    /// Tokens that shall no longer be valid.
    Revoke {
        /// The client's number for the request.
        request: u64,
        /// Their ids.
        tokens: Vec<TokenId>,
    }

    /// Stops engines.
    Shutdown {
        /// The client's number for the request.
        request: u64,
        /// The engines; none for all of them.
        engines: Option<Vec<EngineId>>,
        /// True if engines finish what they run.
        finish: bool,
        /// True if the broker ends as well.
        broker: bool,
    }

    /// The broker's knowledge of a session.
    Accepted {
        /// It knows every task up to this number, or has forgotten it after its end,
        n: TaskSeq,
        /// but for these: first and last number of each range. Their payloads did not come whole.
        missing: Vec<(TaskSeq, TaskSeq)>,
        /// The definitions that it has.
        definitions: Vec<u32>,
    }

    /// A piece of a task's output.
    Output {
        /// The task's number in the session.
        n: TaskSeq,
        /// The attempt that wrote this, from 1: a later one's output replaces that of an earlier
        /// one.
        attempt: u32,
        /// The engine that runs it.
        engine: EngineId,
        /// The stream.
        stream: Stream,
        /// The number of bytes of the stream that came before. A gap is output that was not
        /// retained.
        offset: u64,
        /// The bytes, as written.
        #[serde(with = "serde_bytes")]
        bytes: Vec<u8>,
    }

    /// Intermediate data of a running task.
    Published {
        /// The task's number in the session.
        n: TaskSeq,
        /// The data.
        payload: Payload,
    }

    /// The answer to a request.
    Reply {
        /// The client's number for it.
        request: u64,
        /// The answer.
        body: ReplyBody,
    }

    /// A task that was cancelled while an engine had it: nothing of it runs any longer.
    Stopped {
        /// The task's number in the session.
        n: TaskSeq,
    }

    /// The result of a [`Fetch`].
    Fetched {
        /// The client's number for the request.
        request: u64,
        /// The task's record.
        record: Box<TaskRecord>,
        /// The secret of the session that submitted it, with which its result is opened; with the
        /// first result of that session on this connection.
        secret: Option<PayloadSecret>,
        /// Its result, if it has ended and has one that is kept.
        payload: Option<Payload>,
    }

    /// A piece of the output of a task that was asked for by [`Fetch`].
    FetchedOutput {
        /// The client's number for the request.
        request: u64,
        /// The attempt that wrote this, from 1.
        attempt: u32,
        /// The engine that runs it.
        engine: EngineId,
        /// The stream.
        stream: Stream,
        /// The number of bytes of the stream that came before. A gap is output that was not
        /// retained.
        offset: u64,
        /// The bytes, as written.
        #[serde(with = "serde_bytes")]
        bytes: Vec<u8>,
    }
}

hot_bodies! {
    /// Tasks with one payload: one for the shared queue, or one for each engine named.
    Submit {
        /// The number of the first task; the others follow it.
        n: TaskSeq,
        /// Their targets.
        targets: Targets,
        /// Their runtime.
        runtime: Runtime,
        /// Tasks of one kind take about as long as each other: a number that the client makes of
        /// the function.
        class: u32,
        /// The definition that the call needs.
        define: Option<u32>,
        /// The options that differ from the defaults.
        options: Option<Box<TaskOptions>>,
        /// Call header and arguments.
        payload: Payload,
    }

    /// Results that have arrived.
    Ack {
        /// Their task numbers.
        ranges: Ranges,
    }

    /// A task's end. It is repeated on each connection of the session until it is acknowledged.
    Finished {
        /// The task's number in the session.
        n: TaskSeq,
        /// Its outcome.
        outcome: Outcome,
        /// The engine that ran it, if one did.
        engine: Option<EngineId>,
        /// The number of attempts.
        attempts: u32,
        /// The times of its events.
        times: TaskTimes,
        /// The result: reply header and data. None if there is none.
        payload: Option<Payload>,
    }
}

impl From<TaskId> for TaskRange {
    /// One task alone.
    fn from(TaskId { session, n }: TaskId) -> Self {
        Self { session, first: n, last: n }
    }
}
