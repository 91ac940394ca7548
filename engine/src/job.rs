//! Jobs, and what becomes of them: the words that the core and the runtimes have in common. A core
//! knows no runtime, and a runtime no core.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use furlong_link::file::PayloadFile;
use furlong_wire::call::{CallHeader, Codec, RemoteError, ReplyHeader};
use furlong_wire::ids::{PassKey, SessionId};
use furlong_wire::message::{RunTimes, Sampling};

/// A slot's number within its engine process.
pub type SlotIndex = u32;

/// An attempt, by the number that this process has given it: 1, 2, 3, ... It stays the same when a
/// later start of the broker adopts the attempt, and gives it another id.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Default)]
pub struct SlotJob(pub u64);

impl fmt::Display for SlotJob {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// One attempt at a task, ready to run.
#[derive(Debug)]
pub struct Job {
    /// The attempt.
    pub attempt: SlotJob,
    /// The session that submitted the task.
    pub session: SessionId,
    /// The call to run.
    pub header: Arc<CallHeader>,
    /// The source that the header's definition holds, when it was sent apart from the call.
    pub definition: Option<Bytes>,
    /// The buffers after the header, each aligned to 64 bytes.
    pub data: Vec<Bytes>,
    /// The memory file in which these lie, if they came in one, for a process that can map it.
    pub file: Option<Box<DataFile>>,
    /// Results of other tasks, and values that the client has put at the broker, which stand in the
    /// arguments by their places here.
    pub inputs: Option<Box<[Input]>>,
}

impl Job {
    /// No later job has the input of this key, so that nobody needs to keep it for one.
    pub(crate) fn keep_no_input(&mut self, key: u64) {
        let inputs = self.inputs.iter_mut().flatten();
        inputs.filter(|input| input.key == Some(key)).for_each(|input| input.key = None);
    }
}

/// A result or value that a job has as an input.
#[derive(Clone, Debug)]
pub struct Input {
    /// Inputs of this key are the same one; in this process no other one ever has it. None if no
    /// later job has it.
    pub key: Option<u64>,
    /// The result's header.
    pub header: ReplyHeader,
    /// The buffers after the header, each aligned to 64 bytes.
    pub data: Vec<Bytes>,
    /// The memory file in which these lie, if they came in one.
    pub file: Option<Box<DataFile>>,
}

/// The memory file in which the data of a job lie.
#[derive(Clone, Debug)]
pub struct DataFile {
    /// The file.
    pub file: PayloadFile,
    /// The place of each buffer in it: offset and size.
    pub places: Vec<(u64, u64)>,
}

/// A job's end, as a result's payload: header and data.
#[derive(Debug)]
pub struct AttemptEnd {
    /// Its outcome.
    pub outcome: AttemptOutcome,
    /// The payload's first buffer.
    pub header: ReplyHeader,
    /// The buffers after it.
    pub data: Vec<Bytes>,
    /// The whole payload in a memory file, header and all; then there are no buffers.
    pub file: Option<PayloadFile>,
    /// The parts of its time.
    pub times: JobTimes,
    /// The signal that ended its process, if one did that nobody here has sent.
    pub killed_by: Option<i32>,
    /// What errors of one type from one line of the user's code have in common, if it raised one
    /// and its runtime knows the line.
    pub fingerprint: Option<u32>,
}

/// The parts of a job's time, in microseconds of the process's clock.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct JobTimes {
    /// When it began; none of one that did not.
    pub begun_at_us: Option<u64>,
    /// Its function and arguments were loaded, or its program was started.
    pub load_us: u64,
    /// Its code ran.
    pub run_us: u64,
    /// Its value was encoded.
    pub store_us: u64,
}

impl JobTimes {
    /// The time for which the job was the one that ran.
    pub fn busy_us(&self) -> u64 {
        self.load_us.saturating_add(self.run_us).saturating_add(self.store_us)
    }

    /// As the broker is told them, of a job whose assignment came at that time.
    pub fn since(&self, received_us: u64) -> RunTimes {
        let Self { begun_at_us, load_us, run_us, store_us } = *self;
        let began_us = begun_at_us.map_or(0, |at| at.saturating_sub(received_us));
        RunTimes { began_us, load_us, run_us, store_us }
    }
}

impl AttemptEnd {
    /// An end without a value, and without a time.
    pub fn without_data(outcome: AttemptOutcome, header: ReplyHeader) -> Self {
        let times = JobTimes::default();
        let data = Vec::new();
        Self { outcome, header, data, file: None, times, killed_by: None, fingerprint: None }
    }

    /// The end of a job that was cancelled while it waited.
    pub(crate) fn cancelled_before_it_began() -> Self {
        let header = ReplyHeader::Raised(error("Cancelled", "cancelled before it began"));
        Self::without_data(AttemptOutcome::Cancelled, header)
    }
}

/// The outcome of a job.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum AttemptOutcome {
    /// It returned.
    Succeeded,
    /// It raised, or could not be run: the header has the error.
    Failed,
    /// The program ended with another exit code than 0, or by a signal: the text says which, and
    /// quotes the last lines of its stderr.
    Exited(String),
    /// It was cancelled before its end.
    Cancelled,
    /// The process that ran it died; the text says how (exit code, signal, last lines of stderr).
    Lost(String),
    /// It was stopped because the job ends in which the engine runs: it may run again elsewhere.
    GivenBack,
    /// It did not begin, through no fault of its own: the header has the error.
    NotBegun(Unable),
}

/// The work that an engine cannot begin.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Unable {
    /// Anything of this runtime: there is no interpreter, no memory for a process, no descriptor.
    Runtime,
    /// Jobs of this kind: there is no such program, function or directory.
    Kind,
}

/// The stream that output came on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum OutputStream {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}

/// An event of a slot. A job's output comes before its end.
#[derive(Debug)]
pub enum SlotEvent {
    /// Output of the job that runs.
    Output {
        /// The attempt that wrote it.
        attempt: SlotJob,
        /// The stream.
        stream: OutputStream,
        /// The bytes, as written.
        bytes: Bytes,
    },
    /// Output that belongs to no job: for the engine's log.
    StrayOutput {
        /// The stream.
        stream: OutputStream,
        /// The bytes, as written.
        bytes: Bytes,
    },
    /// A job has ended.
    Finished {
        /// The attempt.
        attempt: SlotJob,
        /// Its result.
        reply: AttemptEnd,
    },
    /// An interpreter takes jobs.
    Up,
    /// The interpreter has ended and its namespace is gone. The end of the job that it ran comes
    /// after this.
    Down {
        /// Exit code or signal, and the last lines of stderr.
        cause: String,
    },
    /// Jobs that had not begun when the interpreter ended: they are given back.
    Recalled {
        /// The identifier.
        attempts: Vec<SlotJob>,
    },
    /// The answer to a look at the interpreter.
    Looked {
        /// The look.
        look: Box<Look>,
        /// The attempt that ran.
        attempt: Option<SlotJob>,
        /// What was seen, as JSON; or why nothing was.
        seen: Result<Vec<u8>, String>,
    },
    /// The running job asks for something.
    Asked {
        /// The attempt.
        attempt: SlotJob,
        /// The request.
        ask: Ask,
    },
}

impl SlotEvent {
    /// The answer to a look where there is no interpreter.
    pub fn not_looked(look: Look) -> Self {
        let seen = Err("no Python interpreter runs there now".to_owned());
        Self::Looked { look: Box::new(look), attempt: None, seen }
    }
}

/// A look at an interpreter.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Look {
    /// The broker's number for it.
    pub number: u64,
    /// The attempt that must run. None for whatever runs.
    pub attempt: Option<SlotJob>,
    /// Sessions whose tasks are shown, with the lines of their source.
    pub sessions: Vec<SessionId>,
    /// True if others are shown as well.
    pub all: bool,
    /// How it is sampled. None for one look.
    pub sampling: Option<Sampling>,
}

/// A request of a running job to its engine.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Ask {
    /// To let the holder of this key in as a client of the job's owner.
    Pass(PassKey),
    /// That its slot be lent: it waits for tasks of these sessions.
    Waits(Vec<SessionId>),
    /// It no longer does.
    GoesOn,
}

/// The data that a running job has published: header's codec and buffers.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Published {
    /// The encoding of the buffers.
    pub codec: Codec,
    /// The data.
    pub buffers: Vec<Bytes>,
}

/// An error that the engine itself raises, in the form of a remote exception.
pub fn error(type_name: &str, message: &str) -> RemoteError {
    RemoteError {
        type_name: type_name.into(),
        message: message.into(),
        traceback: String::new(),
        execution: None,
    }
}
