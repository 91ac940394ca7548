//! A trace of a farm: the tasks that have ended, each with its times, for programs that draw them.
//!
//! All times are the broker's: an engine's own measurements are laid between the moment at which
//! the broker gave it a task and the one at which it was told of the end, so that no clocks of two
//! machines are compared. `layout` sees to it that slices of an engine never overlap.

mod chrome;
mod gather;
mod html;
mod layout;
mod perfetto;
mod svg;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use furlong_host::printable;
use furlong_wire::ids::{EngineId, TaskId};
use furlong_wire::message::{RunTimes, SeriesRow, TaskState};

pub use gather::{TraceError, TraceMoment, TraceRange};
use layout::Occupied;
pub(crate) use svg::escaped;

/// Characters of a name that a trace has at most.
const NAME_CHARACTERS_MAX: usize = 200;

/// A figure of a series: its name, how it is read, and by what it is divided.
type Figure = (&'static str, fn(&SeriesRow) -> f32, f32);

/// Tasks of a farm with their times, and the engines that ran them.
#[derive(Clone, Debug, Default)]
pub struct Trace {
    /// The cluster's name.
    pub cluster: String,
    /// The moment from which all times count: microseconds since 1970, by the broker's clock.
    pub zero_unix_us: u64,
    /// Names of kinds of tasks, to which [`TracedTask::kind`] points.
    pub kinds: Vec<String>,
    /// Tasks, in the order of their ends; those that still run come last.
    pub tasks: Vec<TracedTask>,
    /// Engines with what they ran, by their hosts and integers.
    pub engines: Vec<EngineTrack>,
    /// Figures of the whole farm.
    pub counters: Vec<Counter>,
    /// Tasks that had ended and of which the broker no longer knew the times, or that ended faster
    /// than they could be read.
    pub forgotten: u64,
}

/// A task.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TracedTask {
    /// Its id.
    pub id: TaskId,
    /// Its kind: an index into the trace's names.
    pub kind: usize,
    /// The engine that it ran on last, if it came to one.
    pub engine: Option<EngineId>,
    /// Its terminal state; none if it still runs.
    pub state: Option<TaskState>,
    /// The type of what its code raised, or the kind of its error.
    pub error: Option<String>,
    /// The number of attempts.
    pub attempts: u32,
    /// Bytes of call and arguments, and of the result.
    pub bytes: (u64, u64),
    /// Its times.
    pub times: TracedTimes,
}

impl TracedTask {
    /// True if it has ended, and neither succeeded nor was cancelled.
    pub fn has_failed(&self) -> bool {
        self.state.is_some_and(|it| !matches!(it, TaskState::Succeeded | TaskState::Cancelled))
    }

    /// The state for people and programs.
    pub fn state_text(&self) -> &'static str {
        self.state.map_or("running", TaskState::as_str)
    }
}

/// The times of a task, in microseconds from the trace's zero.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct TracedTimes {
    /// The broker had it.
    pub submitted_us: u64,
    /// It had all that it needed to run; for a task of which that is not known, its submit.
    pub queued_us: u64,
    /// It was given to its engine, the last time.
    pub assigned_us: Option<u64>,
    /// Its end; of a task that runs, the moment of the trace.
    pub ended_us: u64,
    /// The parts of its last attempt, as its engine has measured them.
    pub run: RunTimes,
}

/// An engine.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct EngineTrack {
    /// Its integer.
    pub id: EngineId,
    /// Its host; empty if it is away or gone.
    pub host: String,
    /// The lanes of its slices. An engine has one, unless a task that waited for others lent its
    /// slot to them.
    pub lanes: Vec<Vec<Slice>>,
}

/// The run of a task. Slices of a lane are in the order of their times and do not overlap.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Slice {
    /// The task: an index into the trace's tasks.
    pub task: usize,
    /// The beginning, in microseconds from the trace's zero.
    pub start_us: u64,
    /// Function and arguments were loaded.
    pub loaded_us: u64,
    /// The code had run.
    pub ran_us: u64,
    /// The value was encoded.
    pub end_us: u64,
}

impl Slice {
    /// The parts that took time: name, beginning, end. None if there is but one.
    pub fn parts(&self) -> impl Iterator<Item = (&'static str, u64, u64)> {
        let parts = [
            ("load", self.start_us, self.loaded_us),
            ("run", self.loaded_us, self.ran_us),
            ("store", self.ran_us, self.end_us),
        ];
        let is_one = self.loaded_us == self.start_us && self.ran_us == self.end_us;
        parts.into_iter().filter(move |(_, start, end)| !is_one && end > start)
    }
}

/// A figure over time.
#[derive(Clone, PartialEq, Debug)]
pub struct Counter {
    /// Its name.
    pub name: &'static str,
    /// Moments, in microseconds from the trace's zero, and values from there on.
    pub points: Vec<(u64, f64)>,
}

/// A format of trace files.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum TraceFormat {
    /// The protobuf of Perfetto.
    Perfetto,
    /// The JSON of Chrome's `chrome://tracing`.
    Chrome,
    /// A picture.
    Svg,
    /// A page with everything in it.
    Html,
}

impl TraceFormat {
    /// Every format.
    pub const ALL: [Self; 4] = [Self::Perfetto, Self::Chrome, Self::Svg, Self::Html];

    /// The format's name.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Perfetto => "perfetto",
            Self::Chrome => "chrome",
            Self::Svg => "svg",
            Self::Html => "html",
        }
    }

    /// The format that the ending of a file's name means.
    pub fn of_file(name: &str) -> Option<Self> {
        let (stem, ending) = name.rsplit_once('.')?;
        match ending.to_ascii_lowercase().as_str() {
            _ if stem.is_empty() => None,
            "pftrace" | "perfetto-trace" | "pb" => Some(Self::Perfetto),
            "json" => Some(Self::Chrome),
            "svg" => Some(Self::Svg),
            "html" | "htm" => Some(Self::Html),
            _ => None,
        }
    }
}

impl fmt::Display for TraceFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl FromStr for TraceFormat {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let found = Self::ALL.into_iter().find(|format| format.as_str() == text);
        found.ok_or_else(|| "a format is perfetto, chrome, svg or html".to_owned())
    }
}

impl Trace {
    /// A trace of these tasks. Hosts are those of the engines that are known; the tasks are put in
    /// the order of their ends, and names are made fit to be shown.
    pub fn new(
        mut tasks: Vec<TracedTask>,
        kinds: Vec<String>,
        hosts: &BTreeMap<EngineId, String>,
    ) -> Self {
        tasks.sort_by_key(|task| (task.state.is_none(), task.times.ended_us));
        for error in tasks.iter_mut().filter_map(|task| task.error.as_mut()) {
            *error = shown(error);
        }
        let kinds: Vec<String> = kinds.iter().map(|name| shown(name)).collect();
        assert!(tasks.iter().all(|task| task.kind < kinds.len()), "each kind has a name");
        let engines = engines(&tasks, hosts);
        Self { kinds, tasks, engines, ..Self::default() }
    }

    /// Adds the figures of a series whose steps are that long, as far as they are in this trace's
    /// time.
    pub fn add_series(&mut self, series: &[SeriesRow], step_s: u64) {
        let (from_us, to_us) = self.span_us();
        let figures: [Figure; 4] = [
            ("tasks unfinished", |row| row.unfinished, 1.0),
            ("tasks at engines", |row| row.assigned, 1.0),
            ("engines online", |row| row.engines, 1.0),
            ("ends per second", |row| row.ended, step_s as f32),
        ];
        let in_time = |row: &&SeriesRow| {
            let at_us = row.at_s * 1_000_000;
            at_us + step_s * 1_000_000 > from_us && at_us <= to_us
        };
        for (name, of, divisor) in figures {
            let rows = series.iter().filter(in_time);
            let point = |row: &SeriesRow| {
                ((row.at_s * 1_000_000).max(from_us), f64::from(of(row) / divisor))
            };
            self.counters.push(Counter { name, points: rows.map(point).collect() });
        }
    }

    /// The time of the first submit or run, and of the last end.
    pub fn span_us(&self) -> (u64, u64) {
        let from = self.tasks.iter().map(|task| task.times.submitted_us).min().unwrap_or(0);
        let to = self.tasks.iter().map(|task| task.times.ended_us).max().unwrap_or(0);
        (from, to)
    }

    /// The name of a task's kind.
    pub fn name(&self, task: &TracedTask) -> &str {
        &self.kinds[task.kind]
    }

    /// The name of an engine's host, for people.
    pub fn host_name<'a>(&self, engine: &'a EngineTrack) -> &'a str {
        match &*engine.host {
            // A client that looks at its own tasks does not know hosts.
            "" if self.engines.iter().all(|it| it.host.is_empty()) => "engines",
            "" => "away or gone",
            host => host,
        }
    }

    /// Says in a sentence how many tasks it has, and of how many.
    pub fn extent(&self) -> String {
        let (told, forgotten) = (self.tasks.len() as u64, self.forgotten);
        let tasks = if told == 1 { "task" } else { "tasks" };
        match forgotten {
            0 => format!("{told} {tasks}"),
            _ => format!(
                "the last {told} of {} tasks: the broker has forgotten the times of {forgotten}",
                told + forgotten
            ),
        }
    }

    /// The trace in a format.
    pub fn written(&self, format: TraceFormat) -> Vec<u8> {
        match format {
            TraceFormat::Perfetto => perfetto::written(self),
            TraceFormat::Chrome => chrome::written(self).into_bytes(),
            TraceFormat::Svg => self.svg().into_bytes(),
            TraceFormat::Html => html::written(self).into_bytes(),
        }
    }

    /// The trace as a picture, which is dark where its reader's screen is.
    pub fn svg(&self) -> String {
        svg::written(self)
    }
}

/// A text from elsewhere: nothing in it has an effect, and it is not too long.
fn shown(text: &str) -> String {
    let text = printable::line(text);
    match text.char_indices().nth(NAME_CHARACTERS_MAX) {
        None => text.into_owned(),
        Some((end, _)) => format!("{}...", &text[..end]),
    }
}

/// What each engine ran, by hosts and integers.
fn engines(tasks: &[TracedTask], hosts: &BTreeMap<EngineId, String>) -> Vec<EngineTrack> {
    let mut occupied: BTreeMap<EngineId, Vec<Occupied>> =
        hosts.keys().map(|id| (*id, Vec::new())).collect();
    for (place, task) in tasks.iter().enumerate() {
        if let Some((engine, assigned_us)) = task.engine.zip(task.times.assigned_us) {
            let busy = task.times.run.busy_us() > 0 || task.state == Some(TaskState::Succeeded);
            // What was cancelled before it began has not run.
            if busy || task.state.is_none() {
                let of_engine = occupied.entry(engine).or_default();
                of_engine.push(Occupied::new(place, task, assigned_us));
            }
        }
    }
    let tracks = occupied.into_iter().map(|(id, occupied)| EngineTrack {
        id,
        host: hosts.get(&id).map(|host| shown(host)).unwrap_or_default(),
        lanes: layout::lanes(occupied),
    });
    let mut tracks: Vec<EngineTrack> = tracks.collect();
    tracks.sort_by(|one, other| (&one.host, one.id).cmp(&(&other.host, other.id)));
    tracks
}
