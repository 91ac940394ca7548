//! Engines that are lost, with what they have: it goes to others, or is lost with them.
//!
//! An engine may have very much assigned and in its queue, and a process a thousand engines: some
//! of it goes at once, and the rest in later turns. Until then an engine that is lost stays in the
//! table, takes nothing, and does not come back.

use std::collections::VecDeque;

use furlong_wire::ids::EngineId;
use furlong_wire::message::{AttemptRecord, ErrorKind, Event, Outcome, TaskState};

use super::away::{Loss, Moved};
use crate::core::attempts::Assignment;
use crate::core::keys::{AttemptId, ProcessKey, TaskKey};
use crate::core::sessions::connect::ENGINE_GRACE;
use crate::core::sessions::expiries::Away;
use crate::core::tasks::end::TaskEnd;
use crate::core::tasks::table::{Queue, State};
use crate::core::turns::chores::Chore;
use crate::core::turns::work::{TASKS_PER_PART, WORK_PER_MESSAGE};
use crate::core::{Core, Time};

/// Attempts of one task whose record is kept.
const PAST_ATTEMPTS_MAX: usize = 16;
/// Bytes of the reason why one of them did not end its task.
const HOW_BYTES_MAX: usize = 256;

impl Core {
    /// Without a goodbye the process may come back: what may run elsewhere goes there at once, the
    /// rest waits for it.
    pub(in crate::core) fn process_disconnected(&mut self, now: Time, key: ProcessKey) {
        let process = self.processes.remove(&key);
        let mut process = process.expect("a connection of an engine process has its process");
        // At once: whoever walks `known_to` takes it that these processes are here.
        for session in process.told.lanes.keys() {
            let session =
                self.sessions.get_mut(*session).expect("a lane is closed with its session");
            let was_known = session.known_to.remove(&key);
            assert!(was_known, "a process has a lane of a session that does not know it");
        }
        // Before the engines' work is moved: a result that waits there counts as running again.
        self.forget_unsent(key, &process.engines);
        self.forget_arriving(&process);
        self.refuse_inspections_of(key);
        self.recovery.releases.take(key);
        if let Some(class) = process.class.take() {
            self.schedule.placements.leave_class(class);
        }
        self.forget_orphans(&process.engines);
        let mut away = VecDeque::new();
        for &id in &process.engines {
            self.turns.work.add(1);
            // It was stopped alone, and is gone, or is being lost.
            if self.engines.get(id).is_none_or(|engine| engine.process != Some(key)) {
                continue;
            }
            self.forget_set_aside(id);
            self.engines.update(id, |engine| {
                (engine.process, engine.class) = (None, None);
                // It says again what waits there, when it is back.
                engine.work.lent.clear();
                engine.restarting = false;
                engine.work.returning.clear();
            });
            self.note_restarted(id);
            self.tell_subscribers(Event::EngineOffline(id));
            if process.leaving {
                self.lose_engine(now, id, "the engine was stopped", true);
            } else {
                self.peers.expiries.set(Away::Engine(id), now.after(ENGINE_GRACE));
                away.push_back(id);
            }
        }
        self.reassign(now, away);
    }

    /// Moves what unreachable engines have to others, as far as that may run twice: of some now, of
    /// others in later turns, unless they are back.
    pub(in crate::core) fn reassign(&mut self, now: Time, mut engines: VecDeque<EngineId>) {
        let began = self.turns.work.done();
        while let Some(id) = engines.pop_front() {
            let is_away =
                |engine: &super::engine::Engine| engine.process.is_none() && engine.loss.is_none();
            if self.engines.get(id).is_some_and(is_away) {
                self.requeue_withheld(now, id);
                self.reassign_work_of(now, id);
            }
            self.turns.work.add(1);
            if self.turns.work.done() - began >= TASKS_PER_PART as u64 || self.is_turn_over() {
                break;
            }
        }
        if !engines.is_empty() {
            self.turns.chores.push(Chore::Reassign(engines));
        }
    }

    fn reassign_work_of(&mut self, now: Time, id: EngineId) {
        let engine = self.engines.get(id).expect("an engine that is away is in the table");
        let attempts: Vec<AttemptId> = engine.work.assigned.iter().copied().collect();
        self.turns.work.add(attempts.len());
        // The last one first: each goes to the front of its queue.
        for attempt in attempts.into_iter().rev() {
            let given = self.attempts.get(attempt).copied().expect("what an engine has is given");
            // If it was ended, it may still run there: that is said to have stopped when it has.
            let Some(task) = self.tasks.get(given.task) else { continue };
            if task.queue != Queue::Shared || task.at_most_once() {
                continue;
            }
            // Remembered until the engine is back and says what it holds: if nobody else has begun
            // the task by then, it goes on where it was.
            let started = task.is_reported();
            let moved = Moved { task: given.task, attempts: task.tries.attempts, started };
            self.engines.update(id, |engine| engine.work.moved.insert(attempt, moved));
            self.peers.grants.set_aside(attempt, given.task);
            self.suspect(given.task);
            self.take_back(attempt);
            self.retry_or_lose(now, given.task, attempt, "its engine's connection was cut");
        }
    }

    /// An engine is gone, and what waits for it alone is lost.
    pub(in crate::core) fn lose_engine(
        &mut self,
        now: Time,
        id: EngineId,
        how: &'static str,
        is_for_ever: bool,
    ) {
        let loss = Loss { how, is_for_ever };
        let known = self.engines.update(id, |engine| {
            (engine.process, engine.class) = (None, None);
            engine.work.lent.clear();
            engine.loss.replace(loss)
        });
        let known = known.expect("an engine that is given up was here, or awaited");
        self.peers.expiries.cancel(Away::Engine(id));
        self.requeue_withheld(now, id);
        self.forget_orphans(&[id]);
        self.no_longer_await(now, &[id]);
        self.note_restarted(id);
        // If it was lost before, a chore is at the rest of it already.
        if known.is_none() && (self.is_turn_over() || !self.lose_part_of_engine(now, id)) {
            self.turns.chores.push(Chore::LoseEngine(id));
        }
    }

    /// Loses a part of what an engine has that is lost, and takes it out of the table with the last
    /// one. Whether that was all.
    pub(in crate::core) fn lose_part_of_engine(&mut self, now: Time, id: EngineId) -> bool {
        let Some((engine, loss)) =
            self.engines.get(id).and_then(|engine| Some((engine, engine.loss?)))
        else {
            // Its next registration, which waits for that, has lost the last part meanwhile.
            return true;
        };
        // The last one first: each goes to the front of its queue.
        let given: Vec<AttemptId> =
            engine.work.assigned.iter().rev().take(TASKS_PER_PART).copied().collect();
        let room = TASKS_PER_PART - given.len();
        let waiting: Vec<TaskKey> = engine.queue.iter().take(room).collect();
        self.turns.work.add(given.len() + waiting.len() + WORK_PER_MESSAGE);
        for attempt in given {
            let given = self.take_back(attempt).expect("what an engine has is given");
            self.suspect(given.task);
            self.retry_or_lose(now, given.task, attempt, loss.how);
        }
        let is_all = waiting.len() < room;
        for task in waiting {
            let how = loss.how;
            let text = format!(
                "engine {id} is gone before the task began ({how}); `furlong ids` shows who is there"
            );
            self.end(now, task, TaskEnd::by_broker(TaskState::Lost, ErrorKind::EngineLost, text));
        }
        if is_all {
            self.schedule.direct_ready.remove(&id);
            if loss.is_for_ever {
                self.engines.remove_for_ever(id)
            } else {
                self.engines.remove(id)
            };
        }
        is_all
    }

    /// An attempt came to nothing through no fault of the task: runs it again if that is allowed,
    /// else it is lost.
    pub(in crate::core) fn retry_or_lose(
        &mut self,
        now: Time,
        key: TaskKey,
        attempt: AttemptId,
        how: &str,
    ) {
        // It was ended while the engine had it.
        let Some(task) = self.tasks.get_mut(key) else { return };
        let State::Assigned { engine, attempt: current, .. } = task.state else {
            unreachable!("attempt {attempt} is lost, and its task is {:?}", task.state)
        };
        assert!(current == attempt, "attempt {attempt} is not its task's, {current} is");
        // Only what was reported to run counts: another task may be what has ended the engine.
        let started = task.is_reported();
        task.tries.losses += u32::from(started);
        let tried = task.tries.losses;
        if task.queue == Queue::Shared && tried <= task.losses_allowed() && !task.at_most_once() {
            if started {
                let given = Assignment::new(key, (task.session, task.n), engine, false);
                self.note_attempt(now, given, how);
            }
            self.requeue(now, key);
            return;
        }
        let text = match (task.queue, task.at_most_once()) {
            (Queue::Shared, true) => {
                format!(
                    "engine {engine} was lost with this at-most-once task, which may have run ({how})"
                )
            }
            (Queue::Shared, false) => format!(
                "lost with its engine {tried} times, lastly engine {engine} ({how}): does it kill what runs it?"
            ),
            _ => format!("engine {engine} was lost while it had the task ({how})"),
        };
        let outcome = Outcome::error(TaskState::Lost, ErrorKind::EngineLost, text);
        self.end(now, key, TaskEnd { outcome, engine: Some(engine), ..TaskEnd::default() });
    }

    /// Notes an attempt that did not end its task.
    pub(in crate::core) fn note_attempt(&mut self, now: Time, given: Assignment, how: &str) {
        let task = self.tasks.get(given.task).expect("an attempt that others follow has its task");
        let assigned_us = task.times.assigned.map_or(0, |at| task.since_submit(at));
        let ended_us = task.since_submit(now);
        let how = how[..how.floor_char_boundary(HOW_BYTES_MAX)].to_owned();
        let record = AttemptRecord { engine: given.engine, assigned_us, ended_us, how };
        self.charge_past(given.task, record, PAST_ATTEMPTS_MAX);
    }
}
