//! Tasks that were submitted to an earlier start of the broker: each is matched with what engines
//! hold, waits for those that may have it, or is lost.

use std::time::Duration;

use furlong_wire::ids::{Attempt, EngineId};
use furlong_wire::message::{Adopt, ErrorKind, Outcome, TaskState, ToEngine};

use crate::core::attempts::Assignment;
use crate::core::keys::{AttemptId, ProcessKey, TaskKey};
use crate::core::sessions::connect::ENGINE_GRACE;
use crate::core::tasks::end::TaskEnd;
use crate::core::tasks::table::{Queue, State, Task};
use crate::core::{Core, Time};

/// The time, from the broker's start, that a task that may have run waits for the engines of the
/// roster.
pub(in crate::core) const ROSTER_WAIT: Duration = Duration::from_secs(1);
/// The same for a task that may run once only.
const ROSTER_WAIT_ONCE: Duration = ENGINE_GRACE;
/// Matches that are remembered after their attempts have ended.
const MATCHED_KEPT: usize = 256;

/// Handling of tasks that were submitted to an earlier start.
impl Core {
    /// A task that has all that it needs. Whether it is not to be queued: it is matched, or waits,
    /// or is lost.
    pub(in crate::core) fn claim(&mut self, now: Time, key: TaskKey) -> bool {
        let Some(task) = self.tasks.get(key).filter(|task| self.may_have_run(task)) else {
            return false;
        };
        let session = self.sessions.get(task.session).expect("a session outlives its tasks");
        let orphan = self.recovery.orphans.by_task.get(&(session.id, task.n)).copied();
        if let Some((attempt, orphan)) =
            orphan.and_then(|it| Some((it, *self.recovery.orphans.by_attempt.get(&it)?)))
            && fits(task, orphan.engine)
            && let Some(process) = self.engines.get(orphan.engine).and_then(|engine| engine.process)
        {
            self.match_orphan(now, process, key, attempt);
            return true;
        }
        match task.queue.engine() {
            // It waits in its engine's queue, which is matched when the engine comes.
            Some(engine)
                if !self.recovery.orphans.lossy.contains(&engine)
                    && !session.ledger.unasked.contains(&task.n) =>
            {
                false
            }
            Some(_) => {
                self.lose_unmatched(now, key);
                true
            }
            None => self.wait_for_roster(now, key),
        }
    }

    /// Returns true if a task was submitted to an earlier start, and was not given to an engine at
    /// this one.
    pub(in crate::core) fn may_have_run(&self, task: &Task) -> bool {
        task.tries.attempts == 0
            && task.may_be_repeated()
            && self
                .sessions
                .get(task.session)
                .is_some_and(|session| task.n <= session.ledger.before)
    }

    /// A shared task may be with an engine that is not here yet: it waits. Whether it does, or is
    /// lost.
    pub(super) fn wait_for_roster(&mut self, now: Time, key: TaskKey) -> bool {
        let task = self.tasks.get_mut(key).expect("a task that is claimed has not ended");
        if task.durable().is_some_and(|durable| durable.begun) && !task.at_most_once() {
            // Nothing shared is given out before the roster's engines are here.
            return false;
        }
        // An engine that was given up is no longer in the roster, and may come back all the same.
        let wait = match (task.at_most_once(), self.recovery.orphans.awaited.is_empty()) {
            (false, true) => Duration::ZERO,
            (false, false) | (true, true) => ROSTER_WAIT,
            (true, false) => ROSTER_WAIT_ONCE,
        };
        let until = Time::default().after(wait);
        if until <= now {
            return self.end_wait(now, key);
        }
        // One that waited for other tasks is counted already.
        if task.state != State::Pausing {
            self.waiting.held += u64::from(task.state != State::Waiting);
            task.transition(State::Pausing);
        }
        task.more_mut().pause_ends = Some(until);
        self.set_deadline(now, key);
        self.recovery.orphans.waiting.insert(key);
        true
    }

    /// No engine has a task that may have run. Whether it has left the way to its queue.
    pub(in crate::core) fn end_wait(&mut self, now: Time, key: TaskKey) -> bool {
        let task = self.tasks.get_mut(key).expect("a task that waits has not ended");
        if task.at_most_once() {
            self.lose_unmatched(now, key);
            return true;
        }
        if task.state == State::Pausing {
            task.more_mut().pause_ends = None;
            self.queue_again(now, key);
            return true;
        }
        false
    }

    pub(super) fn lose_unmatched(&mut self, now: Time, key: TaskKey) {
        let away: Vec<String> =
            self.recovery.orphans.awaited.iter().take(8).map(ToString::to_string).collect();
        let away = if away.is_empty() {
            "no engine holds it".to_owned()
        } else {
            format!("engines that were here then have not come back: {}", away.join(", "))
        };
        let text = format!(
            "it was submitted before the broker was started again and may have run, which is not allowed twice; {away}"
        );
        let outcome = Outcome::error(TaskState::Lost, ErrorKind::EngineLost, text);
        self.end(now, key, TaskEnd { outcome, ..TaskEnd::default() });
    }

    /// A task is what an engine holds of an earlier start: it goes on as an attempt of this one.
    pub(super) fn match_orphan(
        &mut self,
        now: Time,
        process: ProcessKey,
        key: TaskKey,
        attempt: Attempt,
    ) {
        let orphan = self.recovery.orphans.remove(attempt).expect("what is matched is held");
        // From now on it is the task that keeps the engine busy.
        self.vacate(orphan.occupies);
        let task = self.tasks.get_mut(key).expect("a task that is matched has not ended");
        let (session, n, placement, engine) = (task.session, task.n, task.placement, orphan.engine);
        let direct = task.queue != Queue::Shared;
        let was_queued = task.state == State::Queued;
        self.waiting.leave(task.state);
        // Along the edges of every task's life: it is queued, given out, and reported to run.
        if !was_queued {
            task.transition(State::Queued);
        }
        let id = self.attempts.next();
        task.transition(State::Assigned { engine, attempt: id, started: false });
        task.transition(State::Assigned { engine, attempt: id, started: true });
        (task.tries.attempts, task.times.assigned) = (1, Some(now));
        let more = task.more_mut();
        (more.started, more.has_run, more.pause_ends) = (None, false, None);
        if direct {
            let tasks = &self.tasks;
            self.engines.update(engine, |engine| engine.queue.take_out(session, key, tasks));
        } else if was_queued {
            self.schedule.placements.count_waiting(placement, false);
        }
        self.hold_attempt(Assignment::new(key, (session, n), engine, direct), id);
        self.set_deadline(now, key);
        self.note_matched(attempt, id);
        // First, as before any task: the secret also opens the lane for the result.
        self.tell_session(process, key);
        let process = self.processes.get(&process).expect("a process that holds work is here");
        let (connection, attempts) = (process.connection, vec![(attempt, self.attempt(id))]);
        self.to_engine(connection, ToEngine::Adopt(Adopt { attempts }));
    }

    pub(super) fn note_matched(&mut self, attempt: Attempt, id: AttemptId) {
        let (attempts, matched) = (&self.attempts, &mut self.recovery.orphans.matched);
        // Those whose attempts have ended are of no use, and go when they are the most.
        if matched.len() >= MATCHED_KEPT + 2 * attempts.len() {
            matched.retain(|_, id| attempts.get(*id).is_some());
        }
        matched.insert(attempt, id);
    }
}

/// Returns true if a task may be on that engine.
pub(super) fn fits(task: &Task, engine: EngineId) -> bool {
    task.queue.engine().is_none_or(|of_task| of_task == engine)
}
