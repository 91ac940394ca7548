//! The outcome of a task: its result, or its failure, each with a report.

use std::sync::Arc;

use bytes::Bytes;
use furlong_wire::call::{Codec, Display, HeaderError, RemoteError, ReplyHeader, decode_reply};
use furlong_wire::ids::{EngineId, SessionId, TaskId, TaskSeq};
use furlong_wire::message::{ErrorKind, Outcome, TaskError, TaskRecord, TaskState, TaskTimes};
use furlong_wire::payload::{PayloadError, unpack_inline_call};
use serde::de::DeserializeOwned;

use crate::core::output::Output;
use crate::core::results::Body;
use crate::core::tasks::{Completion, CompletionKind, Outputs};
use crate::error::{ClientError, Disconnected};

/// A task that succeeded.
#[derive(Clone, PartialEq, Debug)]
pub struct TaskResult {
    /// The engine's answer: `Returned`, `Displayed`, `Executed`, or `Exited` with code 0.
    pub header: ReplyHeader,
    /// The value, in the header's codec: one buffer for JSON and msgpack, a pickle and its buffers,
    /// or raw buffers.
    pub data: Vec<Bytes>,
    /// The report of what happened to the task.
    pub report: TaskReport,
}

impl TaskResult {
    /// The codec of the value, if a function has returned one.
    pub fn codec(&self) -> Option<Codec> {
        self.header.codec()
    }

    /// The displays of the function or the code, in order.
    pub fn displays(&self) -> &[Display] {
        self.header.displays()
    }

    /// The value of a function that was called with JSON.
    pub fn json<T: DeserializeOwned>(&self) -> Result<T, DecodeError> {
        self.check_here()?;
        from_json(&self.header, &self.data)
    }

    /// The value of a function that was called with msgpack.
    pub fn msgpack<T: DeserializeOwned>(&self) -> Result<T, DecodeError> {
        self.check_here()?;
        from_msgpack(&self.header, &self.data)
    }

    fn check_here(&self) -> Result<(), DecodeError> {
        match self.report.stays {
            Some(bytes) if self.data.is_empty() => Err(DecodeError::Stays(bytes)),
            _ => Ok(()),
        }
    }
}

/// Intermediate data of a task that runs.
#[derive(Clone, PartialEq, Debug)]
pub struct Published {
    /// Counts what all tasks of the session publish: it rises with each, and what is kept is that
    /// with the highest.
    pub number: u64,
    /// The encoding of the data.
    pub header: ReplyHeader,
    /// The value, like a result's.
    pub data: Vec<Bytes>,
}

impl Published {
    /// The value, if it was published as JSON.
    pub fn json<T: DeserializeOwned>(&self) -> Result<T, DecodeError> {
        from_json(&self.header, &self.data)
    }

    /// The value, if it was published as msgpack.
    pub fn msgpack<T: DeserializeOwned>(&self) -> Result<T, DecodeError> {
        from_msgpack(&self.header, &self.data)
    }

    pub(crate) fn bytes(&self) -> usize {
        self.data.iter().map(Bytes::len).sum()
    }
}

fn from_json<T: DeserializeOwned>(header: &ReplyHeader, data: &[Bytes]) -> Result<T, DecodeError> {
    serde_json::from_slice(value(header, data, Codec::Json)?).map_err(DecodeError::Json)
}

fn from_msgpack<T: DeserializeOwned>(
    header: &ReplyHeader,
    data: &[Bytes],
) -> Result<T, DecodeError> {
    rmp_serde::from_slice(value(header, data, Codec::Msgpack)?).map_err(DecodeError::Msgpack)
}

fn value<'a>(
    header: &ReplyHeader,
    data: &'a [Bytes],
    wanted: Codec,
) -> Result<&'a Bytes, DecodeError> {
    let codec = header.codec().ok_or(DecodeError::NoValue)?;
    if codec != wanted {
        return Err(DecodeError::Codec { wanted, codec });
    }
    data.first().ok_or(DecodeError::NoValue)
}

/// The reason why a result's value is not available in the wanted form.
#[derive(Debug, thiserror::Error)]
pub enum DecodeError {
    /// It is in another codec.
    #[error(
        "the result is encoded as {codec:?}, not as {wanted:?}; it comes back as the arguments went"
    )]
    Codec {
        /// The codec that was asked for.
        wanted: Codec,
        /// The actual value.
        codec: Codec,
    },
    /// It stays at the broker.
    #[error("the result, of {0} bytes, stays at the cluster; get it with `Client::fetch`")]
    Stays(u64),
    /// There is no value: code was executed.
    #[error(
        "the task executed code and has no value; its header may have the last expression's `repr`"
    )]
    NoValue,
    /// JSON of another shape.
    #[error("the result is not of the wanted type: {0}")]
    Json(#[source] serde_json::Error),
    /// Msgpack of another shape.
    #[error("the result is not of the wanted type: {0}")]
    Msgpack(#[source] rmp_serde::decode::Error),
}

/// How a task ended, for its client: its result, or why there is none.
pub type TaskOutcome = Result<TaskResult, TaskFailure>;

/// A task that did not succeed, or whose end is unknown.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{error}{}", in_parentheses(self.report.engine))]
pub struct TaskFailure {
    /// The cause.
    pub error: Box<FailureKind>,
    /// The report of what happened to the task.
    pub report: Box<TaskReport>,
}

impl TaskFailure {
    /// The stable kind of the failure; none if the broker did not say one, as the connection or the
    /// submit failed.
    pub fn kind(&self) -> Option<ErrorKind> {
        match &*self.error {
            FailureKind::Remote(..) => Some(ErrorKind::Remote),
            FailureKind::Broker(error, _) => Some(error.kind),
            FailureKind::Exit { .. } => Some(ErrorKind::Exit),
            FailureKind::Payload(_) => Some(ErrorKind::Payload),
            FailureKind::Disconnected(_) | FailureKind::Submit(_) => None,
        }
    }

    /// The terminal state; none if it is unknown here.
    pub fn state(&self) -> Option<TaskState> {
        match &*self.error {
            FailureKind::Remote(..) | FailureKind::Exit { .. } => Some(TaskState::Failed),
            FailureKind::Broker(_, state) => Some(*state),
            FailureKind::Payload(_) | FailureKind::Disconnected(_) | FailureKind::Submit(_) => None,
        }
    }

    /// The remote exception, if it was one.
    pub fn remote(&self) -> Option<&RemoteError> {
        match &*self.error {
            FailureKind::Remote(error, _) => Some(error),
            _ => None,
        }
    }

    /// The engine's details of the remote exception beyond its texts: a Python engine's is
    /// explained in PROTOCOL.md.
    pub fn remote_details(&self) -> &[Bytes] {
        match &*self.error {
            FailureKind::Remote(_, details) => details,
            _ => &[],
        }
    }

    /// The code that a command ended with, if it ended so.
    pub fn exit_code(&self) -> Option<i32> {
        match &*self.error {
            FailureKind::Exit { code, .. } => *code,
            _ => None,
        }
    }

    /// The number of the signal that ended a command, if one did.
    pub fn signal(&self) -> Option<i32> {
        match &*self.error {
            FailureKind::Exit { signal, .. } => *signal,
            _ => None,
        }
    }

    pub(crate) fn unsubmitted(session: SessionId, error: ClientError) -> Self {
        let kind = match error {
            ClientError::Disconnected(why) => FailureKind::Disconnected(why),
            error => FailureKind::Submit(error),
        };
        Self::new(kind, TaskReport::unsubmitted(session))
    }

    fn new(error: FailureKind, report: TaskReport) -> Self {
        Self { error: Box::new(error), report: Box::new(report) }
    }
}

/// The reason why a task has no result.
#[derive(Clone, Debug, thiserror::Error)]
pub enum FailureKind {
    /// The user's code raised. Beside the texts stands what else its engine says of it.
    #[error("{0}")]
    Remote(RemoteError, Vec<Bytes>),
    /// The broker or the engine ended the task.
    #[error("{}: {}", .0.kind, .0.text)]
    Broker(TaskError, TaskState),
    /// A command ended with a code other than 0, or by a signal.
    #[error("{text}")]
    Exit {
        /// Its exit code; none if a signal ended it.
        code: Option<i32>,
        /// The signal that ended it.
        signal: Option<i32>,
        /// The description of what happened, for people.
        text: String,
    },
    /// The task ended, but what it sent cannot be read.
    #[error(transparent)]
    Payload(#[from] PayloadFailure),
    /// The connection ended before the task did.
    #[error(transparent)]
    Disconnected(Arc<Disconnected>),
    /// The task could not be submitted: only from a map, whose items are submitted as it goes.
    #[error("not submitted: {0}")]
    Submit(ClientError),
}

/// The reason why what a task sent cannot be read.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum PayloadFailure {
    /// It cannot be opened.
    #[error("the task's result cannot be opened: {0}; run it again")]
    Open(#[from] PayloadError),
    /// It has no header that is known here.
    #[error("the task's result cannot be read: {0}")]
    Header(#[from] HeaderError),
    /// It is announced without the engine process that sealed it.
    #[error(
        "the task's result is announced without the engine process that sealed it: the broker speaks another version"
    )]
    NoSender,
    /// It is of a session whose secret the broker did not tell.
    #[error(
        "the task's result is of another session, whose secret the broker did not tell: it speaks another version"
    )]
    NoSecret,
    /// It says that it succeeded, and has no result.
    #[error("the task's result is missing: its engine speaks another version")]
    Missing,
}

/// The report of what happened to a task.
#[derive(Clone, PartialEq, Debug)]
pub struct TaskReport {
    /// The task; number 0 if it was never submitted.
    pub id: TaskId,
    /// The engine that ran it, if one did.
    pub engine: Option<EngineId>,
    /// The number of attempts.
    pub attempts: u32,
    /// The times of events, by the broker's clock.
    pub times: TaskTimes,
    /// Its standard output.
    pub stdout: Output,
    /// Its standard error.
    pub stderr: Output,
    /// The last of what it published while it ran.
    pub published: Option<Box<Published>>,
    /// Bytes of its result, if that stays at the broker: it comes with [`Client::fetch`]. A short
    /// one is here, too.
    ///
    /// [`Client::fetch`]: crate::Client::fetch
    pub stays: Option<u64>,
}

impl TaskReport {
    fn unsubmitted(session: SessionId) -> Self {
        let id = TaskId { session, n: TaskSeq::MIN };
        let (stdout, stderr) = (Output::default(), Output::default());
        Self {
            id,
            engine: None,
            attempts: 0,
            times: TaskTimes::default(),
            stdout,
            stderr,
            published: None,
            stays: None,
        }
    }

    /// That of a task which has ended, by its record.
    pub(crate) fn of_record(record: &TaskRecord, outputs: Option<Box<Outputs>>) -> Self {
        let outputs = outputs.map_or_else(Outputs::default, |outputs| *outputs);
        let Outputs { mut stdout, mut stderr, published, .. } = outputs;
        stdout.skip_to(record.stdout_bytes);
        stderr.skip_to(record.stderr_bytes);
        let times = TaskTimes {
            submitted_unix_us: record.times.submitted_unix_us,
            assigned_us: record.times.assigned_us,
            finished_us: record.times.finished_us.unwrap_or_default(),
            run: record.times.run,
        };
        let TaskRecord { id, engine, attempts, .. } = *record;
        let published = published.map(Box::new);
        Self { id, engine, attempts, times, stdout, stderr, published, stays: None }
    }
}

impl Completion {
    /// The result or the failure that a task's end amounts to.
    pub(crate) fn into_result(self, session: SessionId) -> TaskOutcome {
        let Self { n, engine, attempts, times, outputs, stays, end } = self;
        let Outputs { stdout, stderr, published, .. } =
            outputs.map_or_else(Outputs::default, |outputs| *outputs);
        let (id, published) = (TaskId { session, n }, published.map(Box::new));
        let report = TaskReport { id, engine, attempts, times, stdout, stderr, published, stays };
        match end {
            CompletionKind::Finished(outcome, body) => result_of(outcome, body, report),
            CompletionKind::Disconnected(why) => {
                Err(TaskFailure::new(FailureKind::Disconnected(why), report))
            }
        }
    }
}

/// The result or the failure that an outcome amounts to.
pub(crate) fn result_of(outcome: Outcome, body: Body, mut report: TaskReport) -> TaskOutcome {
    let mut read = read_body(body);
    if let Ok(Some((ReplyHeader::Exited { .. }, data))) = &mut read {
        let outputs = [&mut report.stdout, &mut report.stderr];
        outputs.into_iter().zip(data.drain(..)).for_each(|(output, whole)| output.replace(&whole));
    }
    match read_end(outcome, read) {
        Ok((header, data)) => Ok(TaskResult { header, data, report }),
        Err(kind) => Err(TaskFailure::new(kind, report)),
    }
}

/// Reads intermediate data, which are laid out like a result.
pub(crate) fn read_published(number: u64, body: Body) -> Result<Published, PayloadFailure> {
    let (header, data) = read_body(body)?.ok_or(PayloadFailure::Missing)?;
    Ok(Published { number, header, data })
}

/// The header and data of a success, or what failed.
fn read_end(outcome: Outcome, read: ReadBody) -> Result<(ReplyHeader, Vec<Bytes>), FailureKind> {
    let Outcome { state, error } = outcome;
    match (state, error, read) {
        (
            TaskState::Succeeded | TaskState::Failed,
            _,
            Ok(Some((ReplyHeader::Raised(error), details))),
        ) => Err(FailureKind::Remote(error, details)),
        (
            TaskState::Failed,
            Some(error),
            Ok(Some((ReplyHeader::Exited { code, signal, .. }, _))),
        ) if error.kind == ErrorKind::Exit => {
            Err(FailureKind::Exit { code, signal, text: error.text })
        }
        (TaskState::Succeeded, _, Ok(Some(read))) => Ok(read),
        (TaskState::Succeeded, _, Ok(None)) => Err(PayloadFailure::Missing.into()),
        // What the broker says of a failure is worth more than that its traceback cannot be read.
        (state, Some(error), _) if !error.text.is_empty() => {
            Err(FailureKind::Broker(*error, state))
        }
        (_, _, Err(failure)) => Err(failure.into()),
        (state, error, Ok(_)) => {
            let kind = error.map_or(ErrorKind::Remote, |error| error.kind);
            let text = format!("the task ended as `{state}`, and nothing more is known");
            Err(FailureKind::Broker(TaskError { kind, text, raised: None }, state))
        }
    }
}

/// Header and data, if there is a payload.
type ReadBody = Result<Option<(ReplyHeader, Vec<Bytes>)>, PayloadFailure>;

fn read_body(body: Body) -> ReadBody {
    match body {
        Body::None => Ok(None),
        Body::Inline(payload) => {
            let (header, data) = unpack_inline_call(&payload)?;
            Ok(Some((decode_reply(header)?, data)))
        }
        Body::Buffers(buffers) => {
            let mut data = buffers.into_iter();
            let header = decode_reply(&data.next().unwrap_or_default())?;
            Ok(Some((header, data.collect())))
        }
        // Whoever reads it without a look at the report finds no value.
        Body::Elsewhere(_) => Ok(Some((ReplyHeader::Returned { codec: Codec::Raw }, Vec::new()))),
        Body::Failed(failure) => Err(failure),
    }
}

fn in_parentheses(engine: Option<EngineId>) -> String {
    engine.map_or_else(String::new, |engine| format!(" (engine {engine})"))
}
