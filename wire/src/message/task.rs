//! The parts of messages that describe a task.

use std::fmt;

use serde::de::{Error, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::catalogue::codes;
use crate::ids::{EngineId, InstanceId, TaskId};
use crate::limits::{ERROR_TYPE_BYTES_MAX, INLINE_PAYLOAD_BYTES_MAX};
use crate::payload::InlineBytes;

codes! {
    /// The runtime of a task.
    Runtime {
        /// A Rust function in the engine's binary.
        1 "native" Native,
        /// A Python interpreter.
        2 "python" Python,
        /// A process of its own.
        3 "command" Command,
        /// None: a value that a client has put at the broker, for other tasks.
        4 "value" Value,
    }
}

codes! {
    /// The end of a task: exactly one of these.
    TaskState {
        /// It returned.
        1 "succeeded" Succeeded,
        /// It raised, or it could not be run.
        2 "failed" Failed,
        /// Somebody ended it, or what it waited for failed.
        3 "cancelled" Cancelled,
        /// One of its limits passed.
        4 "timed_out" TimedOut,
        /// The process that ran it is gone.
        5 "lost" Lost,
    }
}

codes! {
    /// The reason that a task did not succeed: stable, in JSON and as classes of the client
    /// libraries.
    ErrorKind {
        /// The user's code raised; the payload has the exception.
        1 "remote" Remote,
        /// There is no engine to run it.
        2 "no_engines" NoEngines,
        /// An engine that it names is not there.
        3 "unknown_engine" UnknownEngine,
        /// The capability does not allow it.
        4 "forbidden" Forbidden,
        /// The engine or its interpreter died.
        5 "engine_lost" EngineLost,
        /// Cancelled by its owner.
        6 "cancelled" Cancelled,
        /// An earlier task of the same session failed on that engine.
        7 "aborted" Aborted,
        /// It waited longer than `queue_timeout`.
        8 "queue_timeout" QueueTimeout,
        /// It ran longer than `run_timeout`.
        9 "run_timeout" RunTimeout,
        /// A task that it depends on did not end as demanded.
        10 "dependency" Dependency,
        /// A limit of the broker.
        11 "busy" Busy,
        /// The submit asks for something that this broker does not do.
        12 "unsupported" Unsupported,
        /// The payload could not be opened or read.
        13 "payload" Payload,
        /// The command ended with a code other than 0, or by a signal.
        14 "exit" Exit,
        /// The broker's journal could not be written, which a durable task needs.
        15 "journal" Journal,
        /// From engines alone: it did not begin there, and neither would others of its kind.
        16 "not_begun" NotBegun,
        /// From engines alone: it did not begin there, and neither would any other task of its
        /// runtime.
        17 "no_runtime" NoRuntime,
        /// From engines alone: it was stopped because the job ends in which its engine runs.
        18 "given_back" GivenBack,
    }
}

codes! {
    /// A stream of output.
    Stream {
        /// Standard output.
        1 "stdout" Stdout,
        /// Standard error.
        2 "stderr" Stderr,
    }
}

/// A payload, as a message carries or announces it.
#[derive(Clone, PartialEq, Eq)]
pub enum Payload {
    /// In the message itself.
    Inline(InlineBytes),
    /// In chunks that follow.
    Chunked {
        /// The sender's number for the transfer, on this connection.
        transfer: u64,
        /// The payload's counter under its key.
        counter: u64,
        /// Bytes before sealing.
        bytes: u64,
        /// The engine process that sealed it, if it is a result.
        instance: Option<InstanceId>,
    },
}

impl Payload {
    /// Bytes of the payload, which count against a budget.
    pub fn bytes(&self) -> u64 {
        match self {
            Self::Inline(inline) => inline.len() as u64,
            Self::Chunked { bytes, .. } => *bytes,
        }
    }
}

impl fmt::Debug for Payload {
    /// Shows sizes only: a payload is the user's, and logs are read by others.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Inline(inline) => write!(f, "Inline({} bytes)", inline.len()),
            Self::Chunked { transfer, bytes, .. } => {
                write!(f, "Chunked({bytes} bytes as transfer {transfer})")
            }
        }
    }
}

impl Serialize for Payload {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Inline(inline) => serializer.serialize_bytes(inline),
            Self::Chunked { transfer, counter, bytes, instance } => {
                (transfer, counter, bytes, instance).serialize(serializer)
            }
        }
    }
}

impl<'de> Deserialize<'de> for Payload {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(PayloadVisitor)
    }
}

struct PayloadVisitor;

impl<'de> Visitor<'de> for PayloadVisitor {
    type Value = Payload;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an inline payload or an announcement")
    }

    fn visit_bytes<E: Error>(self, bytes: &[u8]) -> Result<Payload, E> {
        if bytes.len() > INLINE_PAYLOAD_BYTES_MAX {
            return Err(E::custom("an inline payload over the limit"));
        }
        Ok(Payload::Inline(InlineBytes::copy_from_slice(bytes)))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Payload, A::Error> {
        let missing = || A::Error::custom("an announcement has four parts");
        Ok(Payload::Chunked {
            transfer: seq.next_element()?.ok_or_else(missing)?,
            counter: seq.next_element()?.ok_or_else(missing)?,
            bytes: seq.next_element()?.ok_or_else(missing)?,
            instance: seq.next_element()?.ok_or_else(missing)?,
        })
    }
}

/// The targets of a submit's tasks. On the wire: nil, or the array of engines.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Targets {
    /// One task, on whichever engine is free.
    Shared,
    /// One task for each of these engines, in its own queue.
    Engines(Vec<EngineId>),
}

impl Serialize for Targets {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Shared => serializer.serialize_none(),
            Self::Engines(engines) => engines.serialize(serializer),
        }
    }
}

impl<'de> Deserialize<'de> for Targets {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Option::deserialize(deserializer).map(|engines| engines.map_or(Self::Shared, Self::Engines))
    }
}

/// The options of a submit that differ from the defaults.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct TaskOptions {
    /// A name for people and selectors.
    pub label: Option<String>,
    /// Higher runs first; 0 is the default.
    pub priority: i32,
    /// The number of times a shared task is run again after the loss of its engine; none for the
    /// default.
    pub retries: Option<u32>,
    /// The number of times it is run again after an error of its own.
    pub error_retries: u32,
    /// The delay before it is run again after an error, doubled each time up to a minute.
    pub backoff_ms: u64,
    /// True if the task may not run again after a loss.
    pub at_most_once: bool,
    /// The maximum time to wait for an engine.
    pub queue_timeout_ms: Option<u64>,
    /// The maximum run time.
    pub run_timeout_ms: Option<u64>,
    /// Tasks that must end first.
    pub after: Vec<Dependency>,
    /// True if one of `after` is enough, instead of all.
    pub after_any: bool,
    /// Tasks that must end first, and on whose engine it must run.
    pub follow: Vec<Dependency>,
    /// True if one of `follow` is enough, instead of all.
    pub follow_any: bool,
    /// Labels that its engine must have.
    pub require: Vec<String>,
    /// True if result and output are retained after they were acknowledged.
    pub keep: bool,
    /// True if a failure ends what the same session has already queued on that engine.
    pub abort_on_error: bool,
    /// True if a direct task may run after its engine's interpreter was replaced.
    pub restart_safe: bool,
    /// True if the journal must have it before it is accepted.
    pub durable: bool,
    /// True if this repeats the submit of an earlier connection: its task may be known, or may have
    /// run.
    pub repeated: bool,
    /// Tasks of the same owner whose results are values in its arguments, in order: each must
    /// succeed first.
    pub inputs: Vec<TaskId>,
    /// True if its result stays at the broker until the client acknowledges its end: the value is
    /// sent only to who asks for it.
    pub stay: bool,
    /// The time that its engine must have left, if that says when it ends.
    pub time_request_ms: Option<u64>,
}

/// A condition on another task.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Dependency {
    /// The other task, of the same owner.
    pub task: TaskId,
    /// Its success satisfies.
    pub success: bool,
    /// Its failure satisfies.
    pub failure: bool,
}

/// The end of a task.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Outcome {
    /// The terminal state.
    pub state: TaskState,
    /// The reason, unless it succeeded.
    pub error: Option<Box<TaskError>>,
}

impl Outcome {
    /// The outcome of a task that returned.
    pub const SUCCEEDED: Self = Self { state: TaskState::Succeeded, error: None };

    /// An outcome other than success.
    pub fn error(state: TaskState, kind: ErrorKind, text: impl Into<String>) -> Self {
        Self { state, error: Some(Box::new(TaskError { kind, text: text.into(), raised: None })) }
    }
}

/// The reason that a task did not succeed.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct TaskError {
    /// For programs.
    pub kind: ErrorKind,
    /// For people: what happened and what to do next, in one line. Empty for [`ErrorKind::Remote`].
    pub text: String,
    /// What the user's code raised, as far as the broker is told. The rest is in the payload.
    pub raised: Option<Raised>,
}

/// The part of a user's error that its engine tells the broker, so that errors can be counted.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Raised {
    /// The type, of at most [`ERROR_TYPE_BYTES_MAX`] bytes.
    pub type_name: String,
    /// A number that errors of one type from one line of the user's code have in common.
    pub fingerprint: u32,
}

impl Raised {
    /// An error of this type, whose name is cut to what a message takes.
    pub fn new(type_name: &str, fingerprint: u32) -> Self {
        let end = type_name.floor_char_boundary(ERROR_TYPE_BYTES_MAX);
        Self { type_name: type_name[..end].to_owned(), fingerprint }
    }
}

/// The times of a task's events, by the broker's clock.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct TaskTimes {
    /// Microseconds since 1970.
    pub submitted_unix_us: u64,
    /// Microseconds from submit to the last assignment to an engine.
    pub assigned_us: Option<u64>,
    /// Microseconds from submit to its end.
    pub finished_us: u64,
    /// The parts of the last attempt that its engine has measured.
    pub run: RunTimes,
}

/// The parts of an attempt's time on its engine, by that one's clock, in microseconds.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct RunTimes {
    /// From the receipt of its assignment until the engine began with it: it waited for its
    /// arguments, behind others, and on the way to an interpreter.
    pub began_us: u64,
    /// Its function and arguments were loaded, or its program was started.
    pub load_us: u64,
    /// Its code ran.
    pub run_us: u64,
    /// Its value was encoded.
    pub store_us: u64,
}

impl RunTimes {
    /// Code that ran for so long, and took no time for anything else.
    pub fn ran(run_us: u64) -> Self {
        Self { run_us, ..Self::default() }
    }

    /// The time for which the attempt occupied its engine.
    pub fn busy_us(&self) -> u64 {
        self.load_us.saturating_add(self.run_us).saturating_add(self.store_us)
    }
}
