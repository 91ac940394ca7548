//! Questions about the cluster, their answers, and events.

use serde::{Deserialize, Serialize};

use super::catalogue::codes;
use super::inspect::{Inspection, InspectionSeen};
use super::task::{Outcome, RunTimes, Runtime};
use super::watch::{Look, Seen};
use crate::ids::{BrokerStart, EngineId, EngineUuid, TaskId, TaskSeq};

/// A question that a client can ask.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Query {
    /// The integers of the engines that are online.
    Engines,
    /// The same, of those after this one: what follows an answer that was not all.
    EnginesAfter(EngineId),
    /// The whole picture.
    Status,
    /// The question that continues an incomplete answer.
    StatusAfter(StatusPlace),
    /// The owner's tasks: those that have not ended, and those whose record is kept.
    Tasks(Box<TaskQuery>),
    /// How the farm is, and what has changed since the last look.
    Look(Box<Look>),
    /// Where an interpreter is now, or where it is over a time.
    Inspect(Inspection),
}

/// The progress of an answer through the processes and then the engines of a cluster.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StatusPlace {
    /// To this process, by the broker's number for it.
    Process(u64),
    /// Through all processes, and to this engine.
    Engine(EngineId),
}

/// A filter for the tasks of its owner that a client wants to know about. Unset fields do not
/// matter.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct TaskQuery {
    /// The session, by the prefix that people write.
    pub session: Option<String>,
    /// Of the session that was opened last of those that have such tasks.
    pub newest_session: bool,
    /// Numbers from this one.
    pub first: Option<TaskSeq>,
    /// Numbers up to this one.
    pub last: Option<TaskSeq>,
    /// The label; `*` stands for any characters.
    pub label: Option<String>,
    /// Only those that have not ended, or only those that have.
    pub ended: Option<bool>,
    /// Go on after this task: what an earlier answer said.
    pub after: Option<TaskId>,
    /// So many at most; the broker may give fewer at once.
    pub limit: u32,
}

codes! {
    /// The phase of a task, for people.
    TaskPhase {
        /// Its arguments are on the way.
        1 "receiving" Receiving,
        /// It waits for other tasks, or for a pause between two attempts.
        2 "waiting" Waiting,
        /// It waits for an engine.
        3 "queued" Queued,
        /// An engine has it and has not said that it runs.
        4 "assigned" Assigned,
        /// It runs.
        5 "running" Running,
        /// It has ended.
        6 "ended" Ended,
    }
}

/// The record of a task.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct TaskRecord {
    /// The task.
    pub id: TaskId,
    /// Its name for people.
    pub label: Option<String>,
    /// The name of its kind of task, if its session has said it.
    pub name: Option<String>,
    /// Its runtime.
    pub runtime: Runtime,
    /// The engine that it names; none for the shared queue.
    pub target: Option<EngineId>,
    /// Higher runs first.
    pub priority: i32,
    /// Its state.
    pub phase: TaskPhase,
    /// Its outcome.
    pub outcome: Option<Outcome>,
    /// The reason that it does not run yet, for people: one line.
    pub waits: Option<String>,
    /// The engine that has or had it.
    pub engine: Option<EngineId>,
    /// The number of times it was given to an engine.
    pub attempts: u32,
    /// The number of attempts that were lost after they had begun.
    pub losses: u32,
    /// The number of attempts that raised and were followed by another.
    pub errors: u32,
    /// Bytes of call and arguments.
    pub request_bytes: u64,
    /// Bytes of the result.
    pub result_bytes: u64,
    /// Bytes written to standard output.
    pub stdout_bytes: u64,
    /// Bytes written to standard error.
    pub stderr_bytes: u64,
    /// True if result and output are retained.
    pub kept: bool,
    /// The times of its events.
    pub times: RecordTimes,
    /// The attempts before the last one.
    pub past: Vec<AttemptRecord>,
}

/// The times of a task's events: microseconds since its submit, by the broker's clock.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct RecordTimes {
    /// The submit, in microseconds since 1970.
    pub submitted_unix_us: u64,
    /// It had all that it needed to run.
    pub queued_us: Option<u64>,
    /// It was last given to an engine.
    pub assigned_us: Option<u64>,
    /// The engine's report that it runs. Short tasks end before there is one.
    pub started_us: Option<u64>,
    /// Its end.
    pub finished_us: Option<u64>,
    /// The client's word that it has the result.
    pub delivered_us: Option<u64>,
    /// The parts of the last attempt that its engine has measured.
    pub run: RunTimes,
    /// The broker's time of this record.
    pub now_us: u64,
}

/// An attempt that did not end its task.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct AttemptRecord {
    /// The engine.
    pub engine: EngineId,
    /// The time at which the engine was given it: microseconds since the submit.
    pub assigned_us: u64,
    /// The time at which it had failed: microseconds since the submit.
    pub ended_us: u64,
    /// The attempt's fate, for people: one line.
    pub how: String,
}

/// An answer.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ReplyBody {
    /// To [`Query::Engines`] and [`Query::EnginesAfter`]: sorted, and the last of them.
    Engines(Vec<EngineId>),
    /// The same, and there are more after the last of these.
    SomeEngines(Vec<EngineId>),
    /// To [`Query::Status`].
    Status(Box<ClusterStatus>),
    /// The request is refused: why and what to do, in one line.
    Refused(String),
    /// The request is done.
    Done,
    /// To a cancel of tasks: how many are cancelled from now on, and how many had ended before.
    Cancelled(u64, u64),
    /// To [`Query::Tasks`]: in the order of sessions and numbers, and where to go on if that was
    /// not all. There may be more even if these are none: one answer looks at a bounded number of
    /// tasks.
    Tasks(Vec<TaskRecord>, Option<TaskId>),
    /// To [`Query::Look`].
    Seen(Box<Seen>),
    /// To [`Query::Inspect`].
    Inspected(InspectionSeen),
}

/// An event, for subscribers.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Event {
    /// An engine is here.
    EngineOnline(EngineId),
    /// An engine has left, or its connection is cut.
    EngineOffline(EngineId),
    /// An engine's interpreter ended, and its namespace with it: the cause.
    EngineRestarted(EngineId, String),
}

/// The cluster, as the broker sees it.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct ClusterStatus {
    /// The cluster's name.
    pub cluster_name: String,
    /// This start of the broker: microseconds since 1970.
    pub start: BrokerStart,
    /// The time since the broker's start.
    pub uptime_ms: u64,
    /// The broker's process id.
    pub pid: u32,
    /// Its software.
    pub software: String,
    /// Clients that are connected.
    pub clients: u64,
    /// Tasks in the shared queue that no engine has.
    pub tasks_waiting: u64,
    /// Tasks that wait for other tasks, or for a pause between attempts.
    pub tasks_held: u64,
    /// Tasks that engines have.
    pub tasks_assigned: u64,
    /// Results that no client has acknowledged.
    pub results_held: u64,
    /// Tasks that have ended since the start.
    pub tasks_finished: u64,
    /// Payload bytes that the broker holds, and may hold.
    pub payload_bytes: (u64, u64),
    /// The engine processes that are connected; of a long list, one page.
    pub processes: Vec<ProcessStatus>,
    /// The engines, by integer; of a long list, one page.
    pub engines: Vec<EngineStatus>,
    /// The place from which to go on, if this page is not the last.
    pub more: Option<StatusPlace>,
}

/// An engine process.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ProcessStatus {
    /// Its host's name.
    pub host: String,
    /// Its process id there.
    pub pid: u32,
    /// Its working directory.
    pub cwd: String,
    /// Its software.
    pub software: String,
    /// The runtimes that it offers.
    pub runtimes: Vec<Runtime>,
    /// Its Python interpreter.
    pub python: Option<String>,
    /// The environment of its tasks: versions, and the variables that matter.
    pub environment: Vec<(String, String)>,
    /// True if it takes nothing new.
    pub leaving: bool,
    /// Its labels.
    pub labels: Vec<String>,
    /// The address that it came from.
    pub address: String,
    /// Its engines.
    pub engines: Vec<EngineId>,
    /// The job of a batch system in which it runs.
    pub job: Option<String>,
    /// The time until it stops what it runs and leaves, if that is known.
    pub ends_in_ms: Option<u64>,
}

/// An engine.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct EngineStatus {
    /// Its integer.
    pub id: EngineId,
    /// Its uuid.
    pub uuid: EngineUuid,
    /// True if it is connected.
    pub online: bool,
    /// Tasks that it has been given.
    pub tasks_assigned: u64,
    /// Tasks in its own queue at the broker.
    pub tasks_queued: u64,
    /// Tasks that it has ended.
    pub tasks_finished: u64,
    /// The total time its code has run.
    pub busy_us: u64,
    /// Attempts whose task has ended, and which the engine has not ended: a native function that
    /// does not look at its cancel.
    pub stuck: u64,
    /// The work that it could not begin lately.
    pub set_aside: Vec<SetAside>,
}

/// Work that an engine could not begin: it goes to other engines for a while.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct SetAside {
    /// The runtime of such tasks.
    pub runtime: Runtime,
    /// True if this is all work of the runtime; otherwise it is one kind of task, such as one
    /// program.
    pub is_whole_runtime: bool,
    /// The reason that the last task did not begin, for people: one line.
    pub cause: String,
    /// The number of such failures in a row.
    pub failures: u32,
    /// The time until the engine is given such work again; 0 if it may be by now.
    pub retry_in_ms: u64,
}
