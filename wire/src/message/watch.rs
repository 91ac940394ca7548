//! Looks at the farm: how it is, and what has changed since the last look.
//!
//! A viewer asks as often as it wants to know. So nothing waits for one that does not read, the
//! broker keeps nothing of it between two looks, and a farm that nobody watches pays nothing.

use serde::{Deserialize, Serialize};

use super::catalogue::codes;
use super::measure::{MachineLoad, SlotLoad};
use super::task::{ErrorKind, RunTimes, Runtime, TaskState};
use crate::ids::{BrokerStart, EngineId, OwnerId, TaskId};

/// A look at the farm.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Look {
    /// The place that the last look has come to; none for the first one.
    pub since: Option<LookPlace>,
    /// True if ended tasks are wanted one by one.
    pub ends: bool,
    /// True if failures are wanted, by type and place.
    pub failures: bool,
    /// True if the distributions of durations are wanted, and not only their percentiles.
    pub ranges: bool,
    /// The series that is wanted, if one is.
    pub series: Option<SeriesStep>,
    /// True if figures of engines' machines are wanted: engines are asked for them now and then as
    /// long as somebody wants them. Left out if false: an older broker knows no such field.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub loads: bool,
}

/// The place that a viewer has come to. It is the broker's, and is given back as it came.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct LookPlace {
    /// The start of the broker that has given it.
    pub start: BrokerStart,
    /// Changes before this look have been told.
    pub told: u64,
    /// The look with which the present round through kinds and engines began.
    pub began: u64,
    /// The next kind of this round.
    pub kind: u32,
    /// The last engine of this round that was told.
    pub engine: Option<EngineId>,
    /// The number of the next ended task.
    pub ends: u64,
}

codes! {
    /// The length of a series' steps.
    SeriesStep {
        /// The last ten minutes.
        1 "1s" Second,
        /// The last three hours.
        2 "10s" TenSeconds,
        /// The last day.
        3 "1min" Minute,
    }
}

codes! {
    /// An engine's state, for people.
    EngineState {
        /// It has nothing to do.
        1 "idle" Idle,
        /// It runs a task.
        2 "busy" Busy,
        /// Its connection is cut; it may come back.
        3 "away" Away,
        /// It takes nothing new, and leaves.
        4 "leaving" Leaving,
        /// It runs a task that has been ended, and does not stop.
        5 "stuck" Stuck,
        /// Its interpreter is being replaced.
        6 "restarting" Restarting,
    }
}

codes! {
    /// A rule that found something to say.
    NoteCode {
        /// Tasks of a kind take less time than what is around them.
        1 "small_tasks" SmallTasks,
        /// An engine takes longer than the others for the same.
        2 "slow_engine" SlowEngine,
        /// Tasks wait, and no engine fits them.
        3 "nobody_fits" NobodyFits,
        /// Payloads fill most of the memory that they may take.
        4 "memory" Memory,
        /// A session does not read its results.
        5 "unread_results" UnreadResults,
        /// Tasks fail with the same error again and again.
        6 "same_failure" SameFailure,
        /// Interpreters of an engine end again and again.
        7 "dying" Dying,
        /// An engine runs a task that has been ended.
        8 "stuck" Stuck,
        /// Results of a kind take longer than their tasks.
        9 "heavy_results" HeavyResults,
        /// An engine cannot begin some work, which goes to others.
        10 "set_aside" SetAside,
        /// A process of engines does not answer. Told only to those who want figures of machines.
        11 "silent" Silent,
    }
}

/// The answer to a [`Look`].
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Seen {
    /// The moment: microseconds since the broker's start.
    pub at_us: u64,
    /// The place for the next look.
    pub place: LookPlace,
    /// True if all that was told before is void: the first look, or another start of the broker.
    pub is_new: bool,
    /// True if there is more to tell now, for the next look.
    pub has_more: bool,
    /// The farm as a whole.
    pub farm: FarmSeen,
    /// Kinds of tasks that have changed.
    pub kinds: Vec<KindSeen>,
    /// Engines that have changed.
    pub engines: Vec<EngineSeen>,
    /// Engines that are gone for good.
    pub gone: Vec<EngineId>,
    /// The owners of tasks.
    pub owners: Vec<OwnerSeen>,
    /// What the rules have to say.
    pub notes: Vec<Note>,
    /// Ended tasks, in the order of their ends.
    pub ends: Vec<EndSeen>,
    /// The number of ended tasks that were forgotten before they could be told here.
    pub ends_missed: u64,
    /// Failures by type and place, the latest first.
    pub failures: Vec<FailureSeen>,
    /// The series that was asked for, the oldest step first.
    pub series: Vec<SeriesRow>,
}

/// The farm as a whole.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct FarmSeen {
    /// The cluster's name.
    pub cluster_name: String,
    /// Engines that are connected.
    pub engines_online: u32,
    /// Engines whose connection is cut, and which may come back.
    pub engines_away: u32,
    /// Engines that run a task.
    pub engines_busy: u32,
    /// Clients that are connected.
    pub clients: u32,
    /// Tasks that wait for an engine, or for their arguments.
    pub tasks_waiting: u64,
    /// Tasks that wait for other tasks, or for a pause between two attempts.
    pub tasks_held: u64,
    /// Tasks that engines have.
    pub tasks_assigned: u64,
    /// Results that no client has acknowledged.
    pub results_held: u64,
    /// Tasks that were submitted since the broker's start.
    pub tasks_submitted: u64,
    /// Tasks that have ended since then.
    pub tasks_ended: u64,
    /// Tasks of these that did not succeed, and were not cancelled.
    pub tasks_failed: u64,
    /// Tasks of these that were cancelled.
    pub tasks_cancelled: u64,
    /// Times that tasks were run again.
    pub retries: u64,
    /// The moment of the last end: microseconds since the broker's start.
    pub last_end_us: Option<u64>,
    /// Bytes of calls and arguments of ended tasks.
    pub request_bytes: u64,
    /// Bytes of results.
    pub result_bytes: u64,
    /// Payload bytes that the broker holds, and may hold.
    pub payload_bytes: (u64, u64),
    /// The time until all is done, at least and at most, in microseconds; none if too little is
    /// known.
    pub left_us: Option<(u64, u64)>,
    /// The time of the tasks that have ended in the last minute, by phase.
    pub minute: PhaseTimes,
    /// The number of tasks that ended in each of the last 60 s, the oldest first.
    pub ends_per_s: Vec<u32>,
}

/// The time that tasks have spent in each phase, in microseconds.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct PhaseTimes {
    /// They waited for other tasks.
    pub held_us: u64,
    /// They waited for an engine.
    pub queue_us: u64,
    /// They were on the way to their engine or back, or waited there.
    pub way_us: u64,
    /// The parts that engines measure.
    pub run: RunTimes,
}

/// The distribution of a duration.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct SpanSeen {
    /// The number of durations.
    pub count: u64,
    /// The sum in microseconds.
    pub sum_us: u64,
    /// The median.
    pub p50_us: u64,
    /// The 95th percentile.
    pub p95_us: u64,
    /// The number of durations in each range, see [`duration_range`], if that was asked for; ranges
    /// at the end in which there is none are left out.
    pub ranges: Vec<u32>,
}

/// Ranges of durations: each a quarter of an octave wide, from a microsecond to twelve days.
pub const DURATION_RANGES: usize = 160;
/// Ranges for each doubling.
const PER_OCTAVE: u32 = 4;

/// The range in which a duration lies.
pub fn duration_range(us: u64) -> usize {
    if us < u64::from(PER_OCTAVE) {
        return us as usize;
    }
    let octave = us.ilog2();
    let part = (us >> (octave - 2)) as u32 & (PER_OCTAVE - 1);
    (((octave - 1) * PER_OCTAVE + part) as usize).min(DURATION_RANGES - 1)
}

/// The shortest duration of a range, in microseconds.
pub fn range_start_us(range: usize) -> u64 {
    let (octave, part) = (range as u32 / PER_OCTAVE, u64::from(range as u32 % PER_OCTAVE));
    if octave == 0 { part } else { (u64::from(PER_OCTAVE) + part) << (octave - 1) }
}

/// A kind of task: all tasks of one function or program of an owner.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct KindSeen {
    /// The broker's number for it.
    pub id: u32,
    /// Its owner; none if that is not for this viewer.
    pub owner: Option<OwnerId>,
    /// Its runtime.
    pub runtime: Runtime,
    /// Its name; none if it has none, or if that is not for this viewer.
    pub name: Option<String>,
    /// Tasks that were submitted.
    pub submitted: u64,
    /// Tasks that run at this moment.
    pub running: u32,
    /// Tasks that have ended.
    pub ended: u64,
    /// Tasks of these that did not succeed, and were not cancelled.
    pub failed: u64,
    /// Times that tasks were run again.
    pub retries: u64,
    /// Bytes of calls and arguments of ended tasks.
    pub request_bytes: u64,
    /// Bytes of results.
    pub result_bytes: u64,
    /// The wait for an engine.
    pub queue: SpanSeen,
    /// The run of the code.
    pub run: SpanSeen,
    /// The rest of the time at and around the engine: way, load and store.
    pub overhead: SpanSeen,
    /// The time until all are done, at least and at most, in microseconds; none if too little is
    /// known.
    pub left_us: Option<(u64, u64)>,
}

/// An engine.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct EngineSeen {
    /// Its integer.
    pub id: EngineId,
    /// Its host; empty while it is away.
    pub host: String,
    /// Its process there; 0 while it is away.
    pub pid: u32,
    /// Its state.
    pub state: EngineState,
    /// The task that it runs.
    pub running: Option<RunningSeen>,
    /// Tasks that it has been given.
    pub assigned: u32,
    /// Tasks in its own queue at the broker.
    pub queued: u32,
    /// Tasks that it has ended.
    pub ended: u64,
    /// Tasks of these that did not succeed.
    pub failed: u64,
    /// The total time for which its code has run.
    pub busy_us: u64,
    /// The number of its interpreters that have ended unasked.
    pub deaths: u32,
    /// The time that it takes for a task, in per cent of what is usual for such tasks; none if that
    /// is not known.
    pub pace_percent: Option<u32>,
    /// Its last figures, if the look wants them and there are any. Left out if not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub load: Option<EngineLoad>,
}

/// The last figures of an engine.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct EngineLoad {
    /// The moment at which they came: microseconds since the broker's start. An engine that does
    /// not answer any longer has an old one.
    pub heard_us: u64,
    /// The time that its process took to answer, with the way there and back.
    pub answer_us: u64,
    /// The figures of its own processes.
    pub slot: SlotLoad,
    /// Its machine.
    pub machine: MachineLoad,
}

/// A task that runs.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct RunningSeen {
    /// The task; none if it is not for this viewer.
    pub task: Option<TaskId>,
    /// Its kind.
    pub kind: u32,
    /// The time since it was given to the engine, in microseconds.
    pub for_us: u64,
}

/// The owner of tasks.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct OwnerSeen {
    /// The owner; none for all others together, if they are not for this viewer.
    pub owner: Option<OwnerId>,
    /// Its sessions.
    pub sessions: u32,
    /// Tasks that were submitted.
    pub submitted: u64,
    /// Tasks that have ended.
    pub ended: u64,
    /// Tasks of these that did not succeed, and were not cancelled.
    pub failed: u64,
    /// The total time for which their code has run.
    pub busy_us: u64,
    /// Bytes of calls and arguments of ended tasks.
    pub request_bytes: u64,
    /// Bytes of results.
    pub result_bytes: u64,
}

/// Something that a rule found.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Note {
    /// The rule.
    pub code: NoteCode,
    /// The kind of task, if it is about one.
    pub kind: Option<u32>,
    /// The engine, if it is about one.
    pub engine: Option<EngineId>,
    /// How many: tasks, ends, bytes, as the rule says.
    pub count: u64,
    /// The measure that has passed its bound, in per cent.
    pub percent: u64,
    /// What else it is about, as it came from elsewhere: a label, a type of error, a host.
    pub text: String,
}

/// An ended task.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct EndSeen {
    /// The task.
    pub task: TaskId,
    /// Its kind.
    pub kind: u32,
    /// The engine that ended it, if one did.
    pub engine: Option<EngineId>,
    /// Its terminal state.
    pub state: TaskState,
    /// The kind of its error.
    pub error: Option<ErrorKind>,
    /// The number that its error has in common with others, or 0.
    pub fingerprint: u32,
    /// The number of attempts.
    pub attempts: u32,
    /// The moment of its end: microseconds since the broker's start.
    pub at_us: u64,
    /// The time in each phase.
    pub phases: PhaseTimes,
    /// Bytes of call and arguments.
    pub request_bytes: u64,
    /// Bytes of the result.
    pub result_bytes: u64,
}

/// Failures of one type at one place.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct FailureSeen {
    /// The kind of error.
    pub error: ErrorKind,
    /// The type of what the code raised; empty if it is another error.
    pub type_name: String,
    /// The number that errors from one place have in common.
    pub fingerprint: u32,
    /// The kind of task of the last one.
    pub kind: u32,
    /// The number of tasks.
    pub count: u64,
    /// The moment of the first one: microseconds since the broker's start.
    pub first_us: u64,
    /// The moment of the last one.
    pub last_us: u64,
    /// Engines on which it happened, some of them.
    pub engines: Vec<EngineId>,
    /// The last such task; none if it is not for this viewer.
    pub sample: Option<TaskId>,
}

/// A step of a series.
#[derive(Clone, Copy, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct SeriesRow {
    /// The beginning of the step: seconds since the broker's start.
    pub at_s: u64,
    /// Tasks that ended.
    pub ended: f32,
    /// Tasks of these that did not succeed, and were not cancelled.
    pub failed: f32,
    /// Tasks that were submitted.
    pub submitted: f32,
    /// Seconds of waiting for an engine, of the tasks that ended.
    pub queue_s: f32,
    /// Seconds of waiting at an engine.
    pub began_s: f32,
    /// Seconds on the way to an engine and back.
    pub way_s: f32,
    /// Seconds of loading functions and arguments.
    pub load_s: f32,
    /// Seconds of running code.
    pub run_s: f32,
    /// Seconds of encoding values.
    pub store_s: f32,
    /// Bytes of calls and arguments.
    pub request_bytes: f32,
    /// Bytes of results.
    pub result_bytes: f32,
    /// Unfinished tasks at the end of the step.
    pub unfinished: f32,
    /// Tasks that engines had at the end of the step.
    pub assigned: f32,
    /// Engines that were connected at the end of the step.
    pub engines: f32,
}
