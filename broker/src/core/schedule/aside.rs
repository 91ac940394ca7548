//! Work that an engine could not begin: no interpreter, no such program, no descriptors. That is no
//! fault of the task, which goes to another engine and uses no retry; the engine is set aside for
//! such work, and tried again later.
//!
//! An engine that is set aside is in a class of its own (`placement.rs`), whose engines are given
//! that work only when all others that could run it are set aside as well. So what can begin
//! nowhere fails once all engines have tried it. Tasks of a kind that some engine could not begin
//! wait in a queue of their own, lest they keep that engine from work which is behind them.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use furlong_wire::ids::EngineId;
use furlong_wire::message::{
    AttemptFinished, Attempts, ErrorKind, Outcome, Runtime, SetAside as SetAsideStatus, TaskState,
    ToEngine,
};

use super::placement::{Class, Kind, Work};
use crate::core::attempts::Assignment;
use crate::core::keys::{AttemptId, PlacementId, ProcessKey, TaskKey};
use crate::core::payloads::stored::Stored;
use crate::core::tasks::end::cancelled_before_it_began;
use crate::core::tasks::table::{Queue, State, Task};
use crate::core::{Core, Time};

/// An engine that could not begin some work.
#[derive(Clone, PartialEq, Eq, Debug)]
struct SetAside {
    runtime: Runtime,
    cause: String,
    failures: u32,
    /// Until when it gets no such work. Afterwards it is tried, and this is in the past.
    until: Time,
    /// True if that time is to come.
    is_in_force: bool,
}

/// All of them.
#[derive(Debug, Default)]
pub struct AllSetAside {
    table: BTreeMap<(EngineId, Work), SetAside>,
    /// The time at which each is tried again, or else forgotten.
    due: BTreeSet<(Time, EngineId, Work)>,
    /// The number of engines that are set aside for each kind of task now.
    kinds: BTreeMap<Kind, u32>,
}

/// The outcome of beginning an attempt that has ended.
#[derive(Debug)]
pub(in crate::core) enum Beginning {
    /// It has begun.
    Begun,
    /// It has not, and begins elsewhere or later, or was not to begin any longer.
    Elsewhere,
    /// It has not, and can begin nowhere: how it ends.
    Nowhere(Outcome),
}

/// The time for which an engine is set aside at first, doubled each further time in a row.
const FIRST: Duration = Duration::from_secs(1);
/// The maximum of that time.
const LONGEST: Duration = Duration::from_secs(60);
/// The time for which an engine that was not tried again is remembered as having failed.
const REMEMBERED: Duration = Duration::from_secs(600);
/// Engines and kinds of work of which is remembered that they do not go together. Beyond, such
/// tasks fail at once.
const SET_ASIDE_MAX: usize = 4096;
/// Work that is shown for one engine.
const SHOWN_MAX: usize = 64;
/// Characters of a cause that are kept.
const CAUSE_CHARS_MAX: usize = 256;
/// Engines that a reason names.
const NAMED_MAX: usize = 4;

impl AllSetAside {
    /// Returns the time at which something is due.
    pub fn due(&self) -> Option<Time> {
        self.due.first().map(|(at, ..)| *at)
    }

    /// Returns the work that an engine could not begin, for people.
    pub fn of(&self, now: Time, engine: EngineId) -> Vec<SetAsideStatus> {
        let status = |(work, it): (Work, &SetAside)| SetAsideStatus {
            runtime: it.runtime,
            is_whole_runtime: matches!(work, Work::Runtime(_)),
            cause: it.cause.clone(),
            failures: it.failures,
            retry_in_ms: if it.is_in_force { it.until.micros_since(now).div_ceil(1000) } else { 0 },
        };
        self.of_engine(engine).take(SHOWN_MAX).map(status).collect()
    }

    /// Returns true if an engine is set aside for anything now.
    #[cfg(any(test, feature = "invariants"))]
    pub fn is_any_in_force(&self, engine: EngineId) -> bool {
        self.of_engine(engine).any(|(_, it)| it.is_in_force)
    }

    fn of_engine(&self, engine: EngineId) -> impl Iterator<Item = (Work, &SetAside)> {
        let first = (engine, Work::Runtime(Runtime::Native));
        let of_engine = self.table.range(first..).take_while(move |((of, _), _)| *of == engine);
        of_engine.map(|((_, work), it)| (*work, it))
    }

    fn in_force(&self, engine: EngineId) -> BTreeSet<Work> {
        self.of_engine(engine).filter(|(_, it)| it.is_in_force).map(|(work, _)| work).collect()
    }

    /// Notes a failure. Those of tasks that were given to the engine at once count once. False if
    /// that is one too many.
    fn add(&mut self, now: Time, key: (EngineId, Work), runtime: Runtime, cause: &str) -> bool {
        let before = self.table.get(&key).map(|it| (it.failures, it.is_in_force));
        if before.is_some_and(|(_, is_in_force)| is_in_force) {
            return true;
        }
        if before.is_none() && self.table.len() >= SET_ASIDE_MAX {
            return false;
        }
        // It was tried again, and has failed again: the next time is twice as far away.
        self.remove(key);
        let failures = before.map_or(0, |(failures, _)| failures).saturating_add(1);
        let wait = FIRST.saturating_mul(1 << (failures - 1).min(16)).min(LONGEST);
        let (cause, until) = (cause.chars().take(CAUSE_CHARS_MAX).collect(), now.after(wait));
        self.table.insert(key, SetAside { runtime, cause, failures, until, is_in_force: true });
        let is_new = self.due.insert((until, key.0, key.1));
        assert!(is_new, "engine {} is set aside twice for {:?}", key.0, key.1);
        self.count(key.1, true);
        true
    }

    /// Forgets a failure. Whether the engine was set aside for it now.
    fn remove(&mut self, key: (EngineId, Work)) -> bool {
        let Some(it) = self.table.remove(&key) else { return false };
        let due = if it.is_in_force { it.until } else { it.until.after(REMEMBERED) };
        let was_due = self.due.remove(&(due, key.0, key.1));
        assert!(was_due, "engine {} would be set aside for ever", key.0);
        if it.is_in_force {
            self.count(key.1, false);
        }
        it.is_in_force
    }

    /// The next engine that may be tried again, or whose failure is remembered no longer.
    fn poll_due(&mut self, now: Time) -> Option<EngineId> {
        let (_, engine, work) = *self.due.first().filter(|(at, ..)| *at <= now)?;
        self.due.pop_first();
        let it = self.table.get_mut(&(engine, work)).expect("what is due is in the table");
        if std::mem::replace(&mut it.is_in_force, false) {
            self.due.insert((it.until.after(REMEMBERED), engine, work));
            self.count(work, false);
        } else {
            self.table.remove(&(engine, work));
        }
        Some(engine)
    }

    fn count(&mut self, work: Work, more: bool) {
        let Work::Kind(kind) = work else { return };
        let count = self.kinds.entry(kind).or_default();
        assert!(more || *count > 0, "no engine is set aside for {kind:?}");
        *count = if more { *count + 1 } else { *count - 1 };
        if *count == 0 {
            self.kinds.remove(&kind);
        }
    }
}

/// Returns true if an attempt ends as one that its engine could not begin: of such a one the engine
/// holds nothing.
pub(in crate::core) fn has_not_begun(finished: &AttemptFinished) -> bool {
    let kind = finished.outcome.error.as_ref().map(|error| error.kind);
    matches!(kind, Some(ErrorKind::NotBegun | ErrorKind::NoRuntime))
}

impl Core {
    /// Checks if an ended attempt had begun. If not, its engine is set aside, and the task goes to
    /// another one, if there is one that is not.
    pub(in crate::core) fn begin_elsewhere(
        &mut self,
        now: Time,
        given: Assignment,
        finished: &AttemptFinished,
    ) -> Beginning {
        let error = finished.outcome.error.as_ref().filter(|_| has_not_begun(finished));
        let Some(error) = error else { return Beginning::Begun };
        let cause = error.text.as_str();
        self.take_back(finished.attempt.id);
        let nowhere =
            Beginning::Nowhere(Outcome::error(TaskState::Failed, ErrorKind::Remote, cause));
        // It was ended before, and what was known of its kind is gone with it.
        let Some(task) = self.tasks.get(given.task) else { return nowhere };
        // A missing interpreter is the runtime's fault; a program or function, that of its kind.
        let of_kind = self.kind_of(task).filter(|_| error.kind == ErrorKind::NotBegun);
        let work = of_kind.map_or(Work::Runtime(task.runtime), Work::Kind);
        // An engine that leaves takes nothing any longer in any case.
        let takes_work =
            self.engines.get(given.engine).is_some_and(|engine| engine.class.is_some());
        let is_known = !takes_work
            || self.schedule.set_aside.add(now, (given.engine, work), task.runtime, cause);
        self.put_in_class(given.engine);
        if given.is_wanted_back {
            self.end(now, given.task, cancelled_before_it_began());
            return Beginning::Elsewhere;
        }
        let task = self.tasks.get(given.task).expect("nothing has ended it since");
        // Its arguments may have gone with it, and nobody else could be given them.
        let may_move = task.queue == Queue::Shared && !matches!(task.payload, Stored::Sent(_));
        if !is_known || !may_move || !self.begins_somewhere(task) {
            return nowhere;
        }
        self.note_attempt(now, given, &format!("it did not begin: {cause}"));
        self.requeue(now, given.task);
        Beginning::Elsewhere
    }

    /// An engine has begun a task: it is set aside no longer for such ones.
    pub(in crate::core) fn note_begun(&mut self, given: Assignment) {
        if self.schedule.set_aside.table.is_empty() {
            return;
        }
        // It was ended meanwhile. The next task that begins will say the same.
        let Some(task) = self.tasks.get(given.task) else { return };
        let of_kind = self.kind_of(task).map(Work::Kind);
        for work in [Some(Work::Runtime(task.runtime)), of_kind].into_iter().flatten() {
            if self.schedule.set_aside.remove((given.engine, work)) {
                self.put_in_class(given.engine);
            }
        }
    }

    /// Engines that were set aside for long enough are tried again.
    pub(in crate::core) fn retry_set_aside(&mut self, now: Time) {
        while let Some(engine) = self.schedule.set_aside.poll_due(now) {
            self.put_in_class(engine);
        }
    }

    /// An engine takes nothing any longer, or its connection is gone. When it is back, it is tried.
    pub(in crate::core) fn forget_set_aside(&mut self, engine: EngineId) {
        let all: Vec<Work> =
            self.schedule.set_aside.of_engine(engine).map(|(work, _)| work).collect();
        for work in all {
            self.schedule.set_aside.remove((engine, work));
        }
        self.put_in_class(engine);
    }

    /// Puts an engine into the class of its process, or into one of its own if it is set aside for
    /// some work.
    fn put_in_class(&mut self, id: EngineId) {
        let engine = self.engines.get(id).expect("an engine that is set aside is in the table");
        let (old, takes_work) = (engine.own_class, engine.class.is_some());
        let process = engine.process.and_then(|key| self.processes.get(&key));
        // A process that leaves has none any longer.
        let of_process = process.and_then(|process| process.class).filter(|_| takes_work);
        let set_aside = self.schedule.set_aside.in_force(id);
        let class = of_process
            .and_then(|class| self.schedule.placements.class(class))
            .filter(|_| !set_aside.is_empty());
        let own = class.map(|class| Class { set_aside, ..class.clone() });
        let own = own.map(|class| self.schedule.placements.enter_class(class));
        self.engines
            .update(id, |engine| (engine.class, engine.own_class) = (own.or(of_process), own));
        // Last: if it is the one that was just entered, it must not be forgotten in between.
        if let Some(class) = old {
            self.schedule.placements.leave_class(class);
        }
    }

    fn kind_of(&self, task: &Task) -> Option<Kind> {
        Some((self.owner(task.session)?, task.kind.number))
    }

    /// Returns true if an engine is here that could run a task, and is not set aside for such ones.
    fn begins_somewhere(&self, task: &Task) -> bool {
        let kind = self.kind_of(task);
        let takes = |class: &Class| {
            !class.set_aside.contains(&Work::Runtime(task.runtime))
                && !kind.is_some_and(|kind| class.set_aside.contains(&Work::Kind(kind)))
        };
        let here = self
            .schedule
            .placements
            .meeting(task.placement)
            .filter(|class| self.engines.has(*class));
        here.into_iter().filter_map(|class| self.schedule.placements.class(class)).any(takes)
    }

    /// Puts tasks that stand first and that some engine could not begin into a queue of their own.
    pub(in crate::core) fn queue_apart(&mut self, waiting: &mut Vec<PlacementId>) {
        if self.schedule.set_aside.kinds.is_empty() {
            return;
        }
        for placement in waiting.clone() {
            // One after the other, as long as such a task is the first: it would keep the engine
            // that could not begin it from those behind it.
            while let Some((key, apart)) = self.first_apart(placement) {
                self.move_first(placement, key, apart);
                if !waiting.contains(&apart) {
                    waiting.push(apart);
                }
            }
        }
        waiting.retain(|placement| self.schedule.placements.is_named(*placement));
    }

    /// The first task of a queue, and where it is to wait, if its kind has a queue of its own.
    fn first_apart(&mut self, placement: PlacementId) -> Option<(TaskKey, PlacementId)> {
        if !self.schedule.placements.is_named(placement)
            || self.schedule.placements.get(placement).demands.kind.is_some()
        {
            return None;
        }
        let (tasks, sessions, backlog) = (&self.tasks, &self.sessions, &mut self.memory.backlog);
        let served = |key| sessions.get(key).map_or(0, |session| session.served);
        let parks = |session| backlog.parks_in(session, placement);
        let queue = &mut self.schedule.placements.get_mut(placement).queue;
        let key = queue.peek(|key| tasks.is_queued_in(key, placement), served, parks)?;
        let task = self.tasks.get(key).expect("what is queued has not ended");
        let kind =
            self.kind_of(task).filter(|kind| self.schedule.set_aside.kinds.contains_key(kind))?;
        // Where all are set aside for it, it is tried wherever there is room.
        self.begins_somewhere(task).then_some(())?;
        Some((key, self.schedule.placements.enter_kind(placement, kind)?))
    }

    fn move_first(&mut self, from: PlacementId, key: TaskKey, to: PlacementId) {
        let given = self.schedule.shared_given;
        let first = self.schedule.placements.get_mut(from).queue.pop(given);
        assert!(first == key, "{first:?} is the first, and not {key:?}");
        let task = self.tasks.get_mut(key).expect("what is queued has not ended");
        task.placement = to;
        let (priority, session) = (task.priority(), task.session);
        self.schedule.placements.get_mut(to).queue.push(priority, session, key, given);
        self.schedule.placements.count_waiting(to, true);
        self.schedule.placements.count_waiting(from, false);
        self.schedule.placements.leave(from);
    }

    /// Says which engines could run a task and are set aside for such ones, and why. Empty if there
    /// are none.
    pub(in crate::core) fn why_engines_are_set_aside(&self, now: Time, task: &Task) -> String {
        let kind = self.kind_of(task).map(Work::Kind);
        let of_task = |((engine, work), it): (&(EngineId, Work), &SetAside)| {
            let is_meant = *work == Work::Runtime(task.runtime) || Some(*work) == kind;
            let seconds = it.until.micros_since(now).div_ceil(1_000_000);
            (is_meant && it.is_in_force).then(|| {
                format!(
                    "; engine {engine} is set aside for such tasks for {seconds} s: {}",
                    it.cause
                )
            })
        };
        let all = self.schedule.set_aside.table.iter().inspect(|_| self.turns.work.add(1));
        all.filter_map(of_task).take(NAMED_MAX).collect()
    }

    /// An engine was lost that had been assigned a task. If it had not said that the task runs,
    /// that may have ended it all the same: from now on the task is given alone, and its engine
    /// says that it begins before it does.
    pub(in crate::core) fn suspect(&mut self, key: TaskKey) {
        // What an engine is only to stop, it has for no task.
        let Some(task) = self.tasks.get_mut(key) else { return };
        let is_shared = task.queue == Queue::Shared && !task.at_most_once();
        if is_shared && matches!(task.state, State::Assigned { .. }) && !task.is_reported() {
            task.more_mut().is_suspect = true;
        }
    }

    /// Tells a process to say that a suspect begins before it does.
    pub(in crate::core) fn announce_suspect(
        &mut self,
        process: ProcessKey,
        key: TaskKey,
        attempt: AttemptId,
    ) {
        if !self.tasks.get(key).is_some_and(Task::is_suspect) {
            return;
        }
        let process = self.processes.get(&process).expect("what is given work is here");
        let (connection, attempts) = (process.connection, vec![self.attempt(attempt)]);
        self.to_engine(connection, ToEngine::Announce(Attempts { attempts }));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::tests::farm::peers::{Farm, shared};

    #[test]
    fn engines_set_aside_are_bounded_and_a_task_beyond_fails_at_once() {
        let mut farm = Farm::default();
        let (client, bad, good) = (farm.client(), farm.engine(), farm.engine());
        let of_nobody = |n: u32| (EngineId(1_000 + n), Work::Runtime(Runtime::Python));
        let mut fill = |n| {
            farm.core.schedule.set_aside.add(farm.now, of_nobody(n), Runtime::Python, "no such")
        };
        assert!((0..4_096).all(&mut fill) && !fill(4_096));
        assert!(fill(7), "one that is known is no other one");
        for is_full in [true, false] {
            let n = farm.submit(client, shared());
            assert_eq!(farm.assigned(bad), [n]);
            let outcome = Outcome::error(TaskState::Failed, ErrorKind::NotBegun, "there is none");
            farm.finish_with(bad, outcome, 0, None);
            let failed = Some((TaskState::Failed, Some(ErrorKind::Remote)));
            assert_eq!(farm.end_of(client, n), if is_full { failed } else { None });
            assert_eq!(farm.assigned(good).contains(&n), !is_full);
            farm.core.schedule.set_aside.remove(of_nobody(7));
        }
        assert_eq!(farm.core.schedule.set_aside.table.len(), 4_096);
    }
}
