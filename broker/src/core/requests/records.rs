//! Records of tasks, for people: where a task is, why it waits, what became of its attempts.

use std::collections::BTreeMap;

use furlong_wire::ids::{EngineId, TaskId, TaskSeq};
use furlong_wire::message::{RecordTimes, TaskOptions, TaskPhase, TaskRecord};

use crate::core::journal::stage::Stage;
use crate::core::keys::{PlacementId, SessionKey, TaskKey};
use crate::core::payloads::stored::Stored;
use crate::core::sessions::table::{Definition, Session};
use crate::core::tasks::ended::EndedTask;
use crate::core::tasks::extras::TaskExtras;
use crate::core::tasks::table::{Queue, State, Task};
use crate::core::{Core, Time};

/// Bytes of the reason why a task waits: of many dependencies the first ones are named.
const NAMED_MAX: usize = 4;

/// Tasks before one in its engine's queue that are counted.
const BEFORE_MAX: usize = 1000;

/// Engines that fit each set of demands, and those of them that are stuck: worked out once for an
/// answer.
#[derive(Debug, Default)]
pub(in crate::core) struct Fitting(BTreeMap<PlacementId, (usize, usize)>);

impl Core {
    /// The record of a task that has not ended.
    pub(in crate::core) fn record(
        &self,
        now: Time,
        key: TaskKey,
        fitting: &mut Fitting,
    ) -> Option<TaskRecord> {
        let task = self.tasks.get(key)?;
        let session = self.sessions.get(task.session)?;
        let since = |at: Time| task.since_submit(at);
        // It has not come to a queue, and the field is still 0.
        let queued = match task.state {
            State::Receiving | State::Waiting => None,
            _ => Some(task.times.queued_us),
        };
        let times = RecordTimes {
            submitted_unix_us: task.submitted_unix_us(self.config.start),
            queued_us: queued,
            assigned_us: task.times.assigned.map(since),
            started_us: task.more().and_then(|more| more.started).map(since),
            now_us: since(now),
            ..RecordTimes::default()
        };
        let base = base(task.options.as_deref(), task.more());
        let name = session.kinds.names.get(task.runtime, task.kind.number);
        Some(TaskRecord {
            id: TaskId { session: session.id, n: task.n },
            name: name.map(ToString::to_string),
            runtime: task.runtime,
            target: task.target(),
            phase: phase(task.state),
            waits: self.why_it_waits(now, task, fitting),
            engine: engine_of(task),
            attempts: task.tries.begun(),
            losses: task.tries.losses,
            request_bytes: task.payload.bytes(),
            times,
            ..base
        })
    }

    /// The record of a task that has ended. Its session may be over.
    pub(in crate::core) fn record_of_done(
        &self,
        now: Time,
        id: TaskId,
        (session, done): (Option<&Session>, &EndedTask),
        delivered_us: Option<u64>,
    ) -> TaskRecord {
        let what = &done.what;
        let more = what.more.as_deref();
        let submitted = done.times.submitted_unix_us;
        // Times of the core are kept from the broker's start on.
        let since = |at: Time| at.unix_us(self.config.start).saturating_sub(submitted);
        let times = RecordTimes {
            submitted_unix_us: submitted,
            queued_us: Some(what.queued_us),
            assigned_us: done.times.assigned_us,
            started_us: more.and_then(|more| more.started).map(since),
            finished_us: Some(done.times.finished_us),
            delivered_us,
            run: done.times.run,
            now_us: since(now),
        };
        let gave_way = "its result and output gave way to other payloads; a broker with more \
                        memory keeps more";
        let of_session = || session?.kinds.names.get(what.runtime, what.class);
        let name = what.name.as_ref().or_else(of_session);
        TaskRecord {
            id,
            name: name.map(ToString::to_string),
            runtime: what.runtime,
            target: what.target,
            phase: TaskPhase::Ended,
            outcome: Some(done.outcome.clone()),
            waits: what.gave_way.then(|| gave_way.to_owned()),
            engine: done.engine,
            attempts: done.attempts,
            losses: what.losses,
            request_bytes: what.request_bytes,
            result_bytes: self.result_of(done).map_or(0, Stored::bytes),
            kept: what.outlives_session() && !what.gave_way,
            times,
            ..base(what.options.as_deref(), more)
        }
    }

    fn why_it_waits(&self, now: Time, task: &Task, fitting: &mut Fitting) -> Option<String> {
        if let Some(circle) = self.circle(task) {
            return Some(circle);
        }
        if task.state == State::Queued && self.memory.backlog.holds(task.session) {
            return Some(format!(
                "no task of its session is given out: {}",
                self.what_is_not_read(task.session)
            ));
        }
        match (task.state, task.queue) {
            (State::Receiving, _) => Some(self.what_has_not_come(task).to_owned()),
            (State::Waiting, _) => task.more()?.waits.as_ref().map(|waits| {
                let pending = waits.keys().count();
                self.turns.work.add(pending);
                let named: Vec<String> =
                    waits.pending().take(NAMED_MAX).map(|task| task.to_string()).collect();
                let others = pending - named.len();
                let others =
                    if others == 0 { String::new() } else { format!(" and {others} more") };
                format!("it waits for the end of {}{others}", named.join(", "))
            }),
            (State::Pausing, _) => {
                let wait_ms = task.more()?.pause_ends?.micros_since(now) / 1000;
                Some(match task.tries.attempts {
                    0 => format!(
                        "it may have run before the broker was started again, and waits up to {wait_ms} ms for engines \
                         that may have it"
                    ),
                    _ => format!("it raised, and runs again in {wait_ms} ms"),
                })
            }
            (State::Queued, Queue::Shared) => Some(self.why_shared_waits(now, task, fitting)),
            (State::Queued, Queue::Direct(engine) | Queue::Pinned(engine)) => {
                Some(self.why_direct_waits(task, engine))
            }
            (State::Assigned { engine, started: false, .. }, _) => Some(format!(
                "engine {engine} has it, and has not said that it runs: it has just been given it, or others run \
                 first{}",
                self.what_is_stuck(engine)
            )),
            (State::Unsent { engine, .. }, _) => Some(format!(
                "it has ended on engine {engine}, which holds its result: {}",
                self.what_is_not_read(task.session)
            )),
            (State::Assigned { .. }, _) => None,
        }
    }

    /// Says why results of a session wait for room.
    fn what_is_not_read(&self, session: SessionKey) -> String {
        let (waiting, bytes) = self.memory.backlog.of_session(session);
        let unread = self.sessions.get(session).map_or(0, |session| session.unread_bytes);
        format!(
            "{waiting} results of {bytes} bytes wait at engines until the session's client has read some of the \
             {unread} bytes that are here for it, or others make room"
        )
    }

    fn what_has_not_come(&self, task: &Task) -> &'static str {
        if task.durable().is_some_and(|durable| durable.stage == Stage::Noted) {
            return "it is being written to the broker's journal";
        }
        let definitions = self.sessions.get(task.session).map(|session| &session.definitions);
        let number = task.define.unwrap_or_default();
        match definitions.and_then(|definitions| definitions.get(&number)) {
            Some(Definition::Receiving(_) | Definition::Missing(_)) => {
                "the source of its function is on the way from the client"
            }
            _ => "its arguments are on the way from the client",
        }
    }

    /// Returns the number of engines that fit these demands, and of those with an ended task that
    /// does not respond to its interrupt.
    fn fitting(&self, id: PlacementId) -> (usize, usize) {
        let classes = self.schedule.placements.classes(id, &self.engines);
        let engines = classes.iter().flat_map(|class| self.engines.engines_of(*class));
        let is_stuck = |engine: &EngineId| {
            let assigned =
                self.engines.get(*engine).into_iter().flat_map(|engine| &engine.work.assigned);
            assigned.inspect(|_| self.turns.work.add(1)).any(|count| self.is_stuck(*count))
        };
        let engines = engines.inspect(|_| self.turns.work.add(1));
        engines
            .fold((0, 0), |(fitting, stuck), id| (fitting + 1, stuck + usize::from(is_stuck(&id))))
    }

    fn why_shared_waits(&self, now: Time, task: &Task, fitting: &mut Fitting) -> String {
        let placement = self.schedule.placements.get(task.placement);
        let (fitting, stuck) =
            *fitting.0.entry(task.placement).or_insert_with(|| self.fitting(task.placement));
        if fitting == 0 {
            let demands = &placement.demands;
            let labels = match demands.require.as_slice() {
                [] => String::new(),
                labels => format!(" and has the labels {}", labels.join(", ")),
            };
            let scopes = match demands.scopes.as_slice() {
                [] => String::new(),
                scopes => format!(" and one of the capability's labels {}", scopes.join(", ")),
            };
            return format!(
                "no engine is online that runs {}{labels}{scopes}; start one",
                demands.runtime
            );
        }
        let classes = self.schedule.placements.classes(task.placement, &self.engines);
        if let Some(text) = self.no_engine_has_time(now, placement, classes.iter().copied()) {
            return text;
        }
        assert!(placement.waiting > 0, "a task that waits is not counted");
        let others = placement.waiting - 1;
        let stuck = match stuck {
            0 => String::new(),
            stuck => format!(
                ", {stuck} of them with a task that has ended and does not respond to its interrupt"
            ),
        };
        let aside = self.why_engines_are_set_aside(now, task);
        format!(
            "the engines that could run it ({fitting}) are busy{stuck}; {others} others wait in the same queue{aside}"
        )
    }

    fn why_direct_waits(&self, task: &Task, id: EngineId) -> String {
        let engine = self.engines.get(id).filter(|engine| engine.loss.is_none());
        let Some(engine) = engine else { return format!("engine {id} is gone") };
        if engine.process.is_none() {
            return format!(
                "the connection of engine {id} is cut; the task waits up to 15 s for its return"
            );
        }
        if engine.restarting {
            return format!("engine {id} gets a new interpreter");
        }
        let before = engine
            .queue
            .from((task.session, TaskSeq::MIN), task.session)
            .take_while(|(_, n, _)| *n < task.n)
            .filter(|(.., key)| self.tasks.get(*key).is_some());
        let before = before.take(BEFORE_MAX).count();
        self.turns.work.add(before);
        let before =
            if before == BEFORE_MAX { format!("at least {before}") } else { before.to_string() };
        let stuck = self.what_is_stuck(id);
        format!(
            "engine {id} is busy; {before} tasks of the same session come before it there{stuck}"
        )
    }

    /// Says what an engine still runs though it has ended, and what to do about it; nothing if
    /// there is no such task.
    fn what_is_stuck(&self, id: EngineId) -> String {
        let assigned = self.engines.get(id).into_iter().flat_map(|engine| &engine.work.assigned);
        let assigned = assigned.inspect(|_| self.turns.work.add(1));
        let mut stuck = assigned
            .filter(|count| self.is_stuck(**count))
            .filter_map(|count| self.attempts.get(*count));
        let Some(given) = stuck.next() else { return String::new() };
        let session =
            self.sessions.get(given.session).map(|session| session.id).unwrap_or_default();
        let task = TaskId { session, n: given.n };
        format!(
            "; it still runs {task}, which has ended and does not respond to its interrupt: a cancel with force, or a \
             restart, ends that with the interpreter and its variables"
        )
    }
}

fn phase(state: State) -> TaskPhase {
    match state {
        State::Receiving => TaskPhase::Receiving,
        State::Waiting | State::Pausing => TaskPhase::Waiting,
        State::Queued => TaskPhase::Queued,
        State::Assigned { started: false, .. } => TaskPhase::Assigned,
        State::Assigned { started: true, .. } | State::Unsent { .. } => TaskPhase::Running,
    }
}

/// The engine that has a task, or to which it is bound.
pub(in crate::core) fn engine_of(task: &Task) -> Option<EngineId> {
    match task.state {
        State::Assigned { engine, .. } | State::Unsent { engine, .. } => Some(engine),
        _ => task.queue.engine(),
    }
}

/// Returns the common part of both kinds of records.
fn base(options: Option<&TaskOptions>, more: Option<&TaskExtras>) -> TaskRecord {
    TaskRecord {
        id: TaskId { session: furlong_wire::ids::SessionId::default(), n: TaskSeq::MIN },
        label: options.and_then(|options| options.label.clone()),
        name: None,
        runtime: furlong_wire::message::Runtime::Native,
        target: None,
        priority: options.map_or(0, |options| options.priority),
        phase: TaskPhase::Ended,
        outcome: None,
        waits: None,
        engine: None,
        attempts: 0,
        losses: 0,
        errors: more.map_or(0, |more| more.errors),
        request_bytes: 0,
        result_bytes: 0,
        stdout_bytes: more.map_or(0, |more| more.output.stdout_bytes),
        stderr_bytes: more.map_or(0, |more| more.output.stderr_bytes),
        kept: options.is_some_and(|options| options.keep),
        times: RecordTimes::default(),
        past: more.map_or_else(Vec::new, |more| more.past.clone()),
    }
}
