//! A trace of the farm, from looks at it.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::time::Duration;

use furlong_host::durations;
use furlong_wire::ids::EngineId;
use furlong_wire::message::{EndSeen, ErrorKind, RunTimes, Runtime, SeriesStep};

use super::{Trace, TracedTask, TracedTimes, shown};
use crate::Client;
use crate::error::ClientError;
use crate::watch::{Picture, Wanted};

/// A moment that bounds a trace.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum TraceMoment {
    /// So long before the trace is made.
    Ago(Duration),
    /// Microseconds since 1970, by the broker's clock.
    Unix(u64),
}

/// The tasks that a trace is of: those that were at work between two moments. By default all that
/// the broker remembers.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct TraceRange {
    /// Tasks that ended before are left out.
    pub from: Option<TraceMoment>,
    /// Tasks that began later are left out.
    pub to: Option<TraceMoment>,
    /// Tasks of other kinds are left out: the name of a function, with its module or without, or of
    /// a program.
    pub kind: Option<String>,
}

impl TraceRange {
    /// The last minutes, as people write them: `10m`.
    ///
    /// # Errors
    /// The problem with it, for people.
    pub fn last(text: &str) -> Result<Self, String> {
        let ago = durations::limit(text)?;
        Ok(Self { from: Some(TraceMoment::Ago(ago)), ..Self::default() })
    }
}

/// The reason why there is no trace.
#[derive(Clone, Debug, thiserror::Error)]
pub enum TraceError {
    /// The broker was not asked, or does not answer.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// The broker knows no kind of that name.
    #[error("there are no tasks of `{name}`; kinds are: {known}")]
    NoKind {
        /// The name.
        name: String,
        /// Some names that there are.
        known: String,
    },
}

/// Names of kinds that an error has at most.
const NAMES_TOLD_MAX: usize = 10;

/// What looks have told.
struct Told {
    picture: Picture,
    /// The broker's start: microseconds since 1970.
    zero_unix_us: u64,
    /// The moment of the trace: ends after it are left out.
    until_us: u64,
    /// Ended tasks of those that this viewer may see.
    ended: u64,
    ends: Vec<EndSeen>,
}

impl Client {
    /// Makes a trace of what the broker remembers: the last 65 536 tasks that have ended, those of
    /// this client's owner, or all for an administrator. `progress` is told how many tasks were
    /// read, and of how many at most.
    ///
    /// # Errors
    /// The connection is gone, the broker refuses, or there is no kind of the name in `range`.
    ///
    /// ```no_run
    /// # use furlong_client::Client;
    /// # async fn export(client: &Client) -> Result<(), Box<dyn std::error::Error>> {
    /// use furlong_client::{TraceFormat, TraceRange};
    ///
    /// let trace = client.trace(&TraceRange::last("10m")?, |_, _| {}).await?;
    /// std::fs::write("run.pftrace", trace.written(TraceFormat::Perfetto))?;
    /// # Ok(())
    /// # }
    /// ```
    pub async fn trace(
        &self,
        range: &TraceRange,
        mut progress: impl FnMut(u64, u64),
    ) -> Result<Trace, TraceError> {
        // None each time that another broker has taken the place of the one that was asked.
        let mut told = loop {
            if let Some(told) = self.read_ends(&mut progress).await? {
                break told;
            }
        };
        let window = window(range, &told);
        let (step, step_s) = match told.until_us.saturating_sub(window.0) / 1_000_000 {
            0..600 => (SeriesStep::Second, 1),
            600..10_800 => (SeriesStep::TenSeconds, 10),
            _ => (SeriesStep::Minute, 60),
        };
        let wanted = Wanted { failures: true, series: Some(step), ..Wanted::default() };
        // What changes meanwhile is not wanted, so that one look is enough.
        self.look(&mut told.picture, wanted).await?;
        let mut trace = traced(&told, window, range.kind.as_deref())?;
        if told.picture.start().is_some_and(|start| start.0 == trace.zero_unix_us) {
            trace.add_series(&told.picture.series, step_s);
        }
        Ok(trace)
    }

    /// Reads all that has ended until now. None if the broker was started again meanwhile.
    async fn read_ends(
        &self,
        progress: &mut impl FnMut(u64, u64),
    ) -> Result<Option<Told>, ClientError> {
        let mut picture = Picture::default();
        while self.look(&mut picture, Wanted::default()).await? {}
        let (start, until_us) = (picture.start(), picture.at_us);
        let zero_unix_us = start.map_or(0, |start| start.0);
        let own = picture.owners.iter().filter(|owner| owner.owner.is_some());
        let ended = own.map(|owner| owner.ended).sum();
        picture.rewind_ends();
        let mut ends: Vec<EndSeen> = Vec::new();
        let wanted = Wanted { ends: true, ..Wanted::default() };
        loop {
            let has_more = self.look(&mut picture, wanted).await?;
            if picture.start() != start {
                return Ok(None);
            }
            let told = std::mem::take(&mut picture.ends);
            // On a busy farm ends come faster than they are told: those from now on are not wanted.
            let is_late = told.back().is_some_and(|end| end.at_us > until_us);
            ends.extend(told.into_iter().filter(|end| end.at_us <= until_us));
            progress(ends.len() as u64, ended);
            if !has_more || is_late {
                break;
            }
        }
        Ok(Some(Told { picture, zero_unix_us, until_us, ended, ends }))
    }
}

/// The first and the last moment of a range, in microseconds since the broker's start.
fn window(range: &TraceRange, told: &Told) -> (u64, u64) {
    let moment = |moment: TraceMoment| match moment {
        TraceMoment::Ago(ago) => told.until_us.saturating_sub(ago.as_micros() as u64),
        TraceMoment::Unix(us) => us.saturating_sub(told.zero_unix_us),
    };
    let oldest = told.ends.iter().map(|end| end.at_us.saturating_sub(total_us(end))).min();
    let from = range.from.map_or(oldest.unwrap_or(told.until_us), moment);
    (from, range.to.map_or(u64::MAX, moment))
}

/// The trace of what was told, as far as it is in that time and of that kind.
fn traced(
    told: &Told,
    (from_us, to_us): (u64, u64),
    only: Option<&str>,
) -> Result<Trace, TraceError> {
    let picture = &told.picture;
    let mut names = Names::default();
    let is_wanted = |id: u32| only.is_none_or(|only| is_named(picture, id, only));
    if let Some(name) = only.filter(|_| !picture.kinds.keys().any(|id| is_wanted(*id))) {
        return Err(no_kind(picture, name));
    }
    let errors: HashMap<(ErrorKind, u32), &str> = picture
        .failures
        .iter()
        .filter(|failure| !failure.type_name.is_empty())
        .map(|failure| ((failure.error, failure.fingerprint), &*failure.type_name))
        .collect();
    let in_range = |task: &TracedTask| {
        let began_us = task.times.assigned_us.unwrap_or(task.times.submitted_us);
        task.times.ended_us >= from_us && began_us <= to_us
    };
    let mut tasks = Vec::with_capacity(told.ends.len());
    for end in told.ends.iter().filter(|end| is_wanted(end.kind)) {
        let mut task = ended(end, names.place(picture, end.kind));
        if in_range(&task) {
            task.error = end.error.map(|kind| {
                let raised = errors.get(&(kind, end.fingerprint));
                raised.map_or(kind.as_str(), |name| name).to_owned()
            });
            tasks.push(task);
        }
    }
    for task in running(told, |id| is_wanted(id).then(|| names.place(picture, id))) {
        if in_range(&task) {
            tasks.push(task);
        }
    }
    let hosts: BTreeMap<EngineId, String> =
        picture.engines.iter().map(|(id, engine)| (*id, engine.host.clone())).collect();
    // What was forgotten ended before all that is remembered.
    let reaches_back = told.ends.first().is_none_or(|end| end.at_us > from_us);
    let missed = told.ended.saturating_sub(told.ends.len() as u64);
    let trace = Trace::new(tasks, names.all, &hosts);
    Ok(Trace {
        cluster: shown(&picture.farm.cluster_name),
        zero_unix_us: told.zero_unix_us,
        forgotten: if reaches_back && only.is_none() { missed } else { 0 },
        ..trace
    })
}

/// Returns true if a kind has this name: for a function of Python with or without its module.
fn is_named(picture: &Picture, id: u32, name: &str) -> bool {
    let own = picture.kind_name(id);
    let is_python = picture.kinds.get(&id).is_some_and(|kind| kind.runtime == Runtime::Python);
    own == name || is_python && own.strip_suffix(name).is_some_and(|module| module.ends_with('.'))
}

fn no_kind(picture: &Picture, name: &str) -> TraceError {
    let mut names: Vec<String> =
        picture.kinds.values().filter_map(|kind| kind.name.as_deref().map(shown)).collect();
    names.sort_unstable();
    names.dedup();
    let more = names.len().saturating_sub(NAMES_TOLD_MAX);
    names.truncate(NAMES_TOLD_MAX);
    if more > 0 {
        names.push(format!("and {more} more"));
    }
    let known = if names.is_empty() { "none yet".to_owned() } else { names.join(", ") };
    TraceError::NoKind { name: shown(name), known }
}

/// The names of kinds, each once.
#[derive(Default)]
struct Names {
    all: Vec<String>,
    places: HashMap<u32, usize>,
}

impl Names {
    fn place(&mut self, picture: &Picture, id: u32) -> usize {
        *self.places.entry(id).or_insert_with(|| {
            self.all.push(picture.kind_name(id));
            self.all.len() - 1
        })
    }
}

/// All of a task's time.
fn total_us(end: &EndSeen) -> u64 {
    let phases = &end.phases;
    phases.held_us.saturating_add(phases.queue_us).saturating_add(at_engine_us(end))
}

/// The time for which the engine had it.
fn at_engine_us(end: &EndSeen) -> u64 {
    let run = &end.phases.run;
    end.phases.way_us.saturating_add(run.began_us).saturating_add(run.busy_us())
}

fn ended(end: &EndSeen, kind: usize) -> TracedTask {
    let before_us = |us: u64| end.at_us.saturating_sub(us);
    let at_engine_us = at_engine_us(end);
    let times = TracedTimes {
        // A task of the journal was submitted before this broker's start.
        submitted_us: before_us(total_us(end)),
        queued_us: before_us(at_engine_us.saturating_add(end.phases.queue_us)),
        assigned_us: end.engine.map(|_| before_us(at_engine_us)),
        ended_us: end.at_us,
        run: end.phases.run,
    };
    TracedTask {
        id: end.task,
        kind,
        engine: end.engine,
        state: Some(end.state),
        error: None,
        attempts: end.attempts,
        bytes: (end.request_bytes, end.result_bytes),
        times,
    }
}

/// The tasks that run at the moment of the trace. One that was given to its engine early waits
/// there for what was before it.
fn running(told: &Told, mut kind: impl FnMut(u32) -> Option<usize>) -> Vec<TracedTask> {
    let has_ended: HashSet<_> = told.ends.iter().map(|end| end.task).collect();
    let mut free_us: HashMap<EngineId, u64> = HashMap::new();
    let engines = told.picture.engines.values();
    let running: Vec<_> = engines
        .filter_map(|engine| {
            let seen = engine.running?;
            let task = seen.task.filter(|task| !has_ended.contains(task))?;
            Some((engine.id, task, seen, told.until_us.saturating_sub(seen.for_us)))
        })
        .collect();
    let given: HashMap<EngineId, u64> =
        running.iter().map(|(id, .., at_us)| (*id, *at_us)).collect();
    for end in &told.ends {
        if let Some((id, at_us)) = end.engine.and_then(|id| Some((id, *given.get(&id)?)))
            && end.at_us > at_us
            && end.at_us.saturating_sub(at_engine_us(end)) <= at_us
        {
            let free = free_us.entry(id).or_default();
            *free = end.at_us.max(*free);
        }
    }
    let task = |(engine, id, seen, at_us): (EngineId, _, _, u64)| {
        let seen: furlong_wire::message::RunningSeen = seen;
        let began_us = free_us.get(&engine).map_or(0, |free| free.saturating_sub(at_us));
        Some(TracedTask {
            id,
            kind: kind(seen.kind)?,
            engine: Some(engine),
            state: None,
            error: None,
            attempts: 0,
            bytes: (0, 0),
            times: TracedTimes {
                submitted_us: at_us,
                queued_us: at_us,
                assigned_us: Some(at_us),
                ended_us: told.until_us,
                run: RunTimes { began_us, ..RunTimes::default() },
            },
        })
    };
    running.into_iter().filter_map(task).collect()
}
