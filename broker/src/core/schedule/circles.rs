//! Circles that cannot resolve: tasks that wait for a task which can begin only when one of them
//! has ended.
//!
//! A shared task always finds a place ([`super::lending`]). A task for one engine alone does not,
//! if what occupies that engine's interpreter waits for it: directly, or one task for the other
//! over several engines.

use std::collections::BTreeSet;
use std::time::Duration;

use furlong_wire::ids::EngineId;
use furlong_wire::limits::NESTING_MAX;
use furlong_wire::message::{ErrorKind, TaskState};

use crate::core::engines::engine::Engine;
use crate::core::keys::{AttemptId, SessionKey, TaskKey};
use crate::core::sessions::table::Session;
use crate::core::tasks::end::TaskEnd;
use crate::core::tasks::table::{State, Task};
use crate::core::{Core, Time};

/// The time for which a circle is left alone: a task that waits in it may be about to go on
/// without.
const PATIENCE: Duration = Duration::from_secs(1);

impl Core {
    /// Returns the reason that a task for one engine alone can never begin, if so.
    pub(in crate::core) fn circle(&self, task: &Task) -> Option<String> {
        let is_given = matches!(task.state, State::Assigned { .. } | State::Unsent { .. });
        let engine = task.queue.engine().filter(|_| !is_given)?;
        let waiting = self.ancestors(task.session);
        let occupant = self.occupant(engine).filter(|_| !waiting.is_empty())?;
        if !self.leads_to(occupant, &waiting, &mut BTreeSet::new()) {
            return None;
        }
        let given = self.attempts.get(occupant).expect("what an engine has is given");
        // What is held of an earlier start has no session here, and no name.
        let name = self.sessions.get(given.session)?.id.prefix();
        let how = if waiting.contains(&occupant) {
            "which waits for this one"
        } else {
            "which waits for one that does"
        };
        Some(format!(
            "a circle: engine {engine} runs task {name}:{n}, {how}, and could begin it only after that has ended; call \
             the function itself, or submit to the shared queue or to another engine",
            n = given.n
        ))
    }

    /// The attempts on whose behalf a session is there, one for the other.
    fn ancestors(&self, key: SessionKey) -> BTreeSet<AttemptId> {
        let parent = |session: &Session| session.nesting.parent.map(|parent| parent.attempt);
        let mut found = BTreeSet::new();
        let mut next = self.sessions.get(key).and_then(parent);
        // Bounded, and each once: sessions that wait for each other's tasks may be a circle too.
        while let Some(attempt) = next.filter(|_| found.len() <= NESTING_MAX as usize) {
            // It may be over, and its session not yet ended for that.
            let Some(given) = self.attempts.get(attempt).filter(|_| found.insert(attempt)) else {
                break;
            };
            next = self.sessions.get(given.session).and_then(parent);
        }
        found
    }

    /// The attempt that occupies an engine's own interpreter.
    fn occupant(&self, id: EngineId) -> Option<AttemptId> {
        let engine = self.engines.get(id)?;
        engine.work.assigned.iter().copied().find(|attempt| !engine.work.stood_in.contains(attempt))
    }

    /// Returns true if an attempt is one of these, or waits for one of them.
    fn leads_to(
        &self,
        attempt: AttemptId,
        targets: &BTreeSet<AttemptId>,
        seen: &mut BTreeSet<AttemptId>,
    ) -> bool {
        if targets.contains(&attempt) {
            return true;
        }
        let Some(given) = self.attempts.get(attempt).filter(|_| seen.insert(attempt)) else {
            return false;
        };
        let is_lent = |engine: &Engine| engine.work.lent.iter().any(|loan| loan.attempt == attempt);
        // It waits for nobody, and ends by itself.
        if !self.engines.get(given.engine).is_some_and(is_lent) {
            return false;
        }
        let sessions = self.sessions.of_parent(attempt);
        let tasks = sessions
            .inspect(|_| self.turns.work.add(1))
            .flat_map(|session| session.ledger.tasks.iter())
            .filter_map(|(_, key)| self.tasks.get(*key));
        let mut next = tasks.filter_map(|task| match task.state {
            State::Assigned { attempt, .. } | State::Unsent { attempt, .. } => Some(attempt),
            _ => self.occupant(task.queue.engine()?),
        });
        next.any(|attempt| self.leads_to(attempt, targets, seen))
    }

    /// Ends those of new tasks that could only begin after the task that has submitted them, with
    /// which they end.
    pub(in crate::core) fn refuse_circles(
        &mut self,
        now: Time,
        key: SessionKey,
        tasks: &[TaskKey],
    ) {
        // At once only where it is certain: the submitter itself occupies the engine. A circle over
        // several engines may resolve, and is looked at again in a while.
        let ancestors = self.ancestors(key);
        for task in tasks {
            let engine = self.tasks.get(*task).and_then(|task| task.queue.engine());
            if engine
                .and_then(|engine| self.occupant(engine))
                .is_some_and(|occupant| ancestors.contains(&occupant))
            {
                self.end_circle(now, *task);
            }
        }
        self.look_for_circles(now);
    }

    /// Something waits from now on. If that closes a circle, it is looked at again in a while.
    pub(in crate::core) fn look_for_circles(&mut self, now: Time) {
        if self.schedule.circles_at.is_none() && !self.circular().is_empty() {
            self.schedule.circles_at = Some(now.after(PATIENCE));
        }
    }

    /// Breaks circles that have been there for a while.
    pub(in crate::core) fn end_circles(&mut self, now: Time) {
        if self.schedule.circles_at.is_some_and(|at| at <= now) {
            self.schedule.circles_at = None;
            for task in self.circular() {
                // One that has been broken may have been part of another.
                self.end_circle(now, task);
            }
        }
    }

    /// Tasks of running tasks that wait for ever.
    fn circular(&self) -> Vec<TaskKey> {
        let blocked = self.engines.lenders().filter(|(_, engine)| engine.is_blocked());
        // All tasks of a session that wait there are in the same circles.
        let of_engine = |engine: &Engine| {
            let first =
                engine.queue.one_of_each_session(&self.tasks).filter_map(|key| self.tasks.get(key));
            let circular =
                first.filter(|task| self.is_bound(task.session) && self.circle(task).is_some());
            let sessions: BTreeSet<SessionKey> = circular.map(|task| task.session).collect();
            let is_circular = |key: &TaskKey| {
                self.tasks.get(*key).is_some_and(|it| sessions.contains(&it.session))
            };
            if sessions.is_empty() {
                Vec::new()
            } else {
                engine.queue.iter().filter(is_circular).collect()
            }
        };
        blocked.flat_map(|(_, engine)| of_engine(engine)).collect()
    }

    /// Ends a task that can never begin; what is kept may begin when who waits for it has been
    /// ended.
    fn end_circle(&mut self, now: Time, key: TaskKey) {
        let Some(task) =
            self.tasks.get(key).filter(|task| !task.keep() && task.durable().is_none())
        else {
            return;
        };
        let Some(text) = self.circle(task) else { return };
        let engine = task.queue.engine();
        let ended = TaskEnd::by_broker(TaskState::Failed, ErrorKind::Unsupported, text);
        self.end(now, key, TaskEnd { engine, ..ended });
    }

    /// Returns true if a session ends with a running attempt.
    pub(in crate::core) fn is_bound(&self, key: SessionKey) -> bool {
        self.sessions
            .get(key)
            .and_then(|session| session.nesting.parent)
            .is_some_and(|parent| parent.is_bound)
    }
}
