//! Results that wait: an attempt has ended, and its engine holds a result for which there is no
//! room here yet.
//!
//! The engine's slot goes on meanwhile, with tasks of other sessions: while a session's results
//! wait, no task of it is given to anybody. They are asked for when there is room, the smallest
//! first, and the room is shared: what a session holds here of results that its client has not
//! acknowledged is never more than what it leaves free. So one that does not read holds itself up,
//! and however many do, there is room for others. A session that has nothing here may take what
//! there is.

use std::collections::{BTreeMap, BTreeSet};

use furlong_wire::ids::EngineId;
use furlong_wire::message::{
    AttemptFinished, Attempts, ErrorKind, Outcome, RunTimes, TaskState, ToEngine,
};

use super::arriving::Account;
use super::stored::Stored;
use crate::core::attempts::Assignment;
use crate::core::engines::engine::Engine;
use crate::core::engines::process::Process;
use crate::core::keys::{AttemptId, PlacementId, ProcessKey, SessionKey};
use crate::core::payloads::budget::BytesOf;
use crate::core::schedule::sweep::Reason;
use crate::core::tasks::end::TaskEnd;
use crate::core::tasks::table::State;
use crate::core::{Core, Time};

/// The sessions with results that wait.
#[derive(Debug, Default)]
pub struct Backlog {
    sessions: BTreeMap<SessionKey, Behind>,
    /// The room that each of them needs for its next result.
    by_need: BTreeSet<(u64, SessionKey)>,
    /// The session of each result, and its size, by the attempt.
    results: BTreeMap<AttemptId, (SessionKey, u64)>,
}

/// A session with results that wait.
#[derive(Debug, Default)]
struct Behind {
    /// The pending results: size in bytes and attempt.
    results: BTreeSet<(u64, AttemptId)>,
    need: u64,
    /// The queues in which its tasks are passed over.
    parked: Parked,
}

/// The queues in which tasks of a session are passed over.
#[derive(Debug, Default)]
pub struct Parked {
    /// Shared queues.
    placements: BTreeSet<PlacementId>,
    /// Engines' own.
    engines: BTreeSet<EngineId>,
}

impl Backlog {
    /// Returns true if a session has pending results.
    pub fn holds(&self, session: SessionKey) -> bool {
        !self.sessions.is_empty() && self.sessions.contains_key(&session)
    }

    /// The same, from a shared queue, in which its tasks are passed over if so.
    pub fn parks_in(&mut self, session: SessionKey, placement: PlacementId) -> bool {
        if self.sessions.is_empty() {
            return false;
        }
        let behind = self.sessions.get_mut(&session);
        behind.map(|behind| behind.parked.placements.insert(placement)).is_some()
    }

    /// The same, from an engine's own queue.
    pub fn parks_at(&mut self, session: SessionKey, engine: EngineId) -> bool {
        if self.sessions.is_empty() {
            return false;
        }
        self.sessions.get_mut(&session).map(|behind| behind.parked.engines.insert(engine)).is_some()
    }

    /// Returns the number and total bytes of a session's pending results.
    pub fn of_session(&self, session: SessionKey) -> (usize, u64) {
        let results = self.sessions.get(&session).map(|behind| &behind.results);
        results
            .map_or((0, 0), |results| (results.len(), results.iter().map(|(bytes, _)| bytes).sum()))
    }

    /// Returns the size of an attempt's pending result, in bytes.
    #[cfg(any(test, feature = "invariants"))]
    pub fn bytes_of(&self, attempt: AttemptId) -> Option<u64> {
        self.results.get(&attempt).map(|(_, bytes)| *bytes)
    }

    /// Returns the number of pending results.
    pub fn len(&self) -> usize {
        self.results.len()
    }

    fn add(&mut self, session: SessionKey, unread: u64, attempt: AttemptId, bytes: u64) {
        let before = self.results.insert(attempt, (session, bytes));
        assert!(before.is_none(), "attempt {attempt} has two results that wait");
        self.sessions.entry(session).or_default().results.insert((bytes, attempt));
        self.note_unread(session, unread);
    }

    /// A session holds so many bytes of results now that its client has not acknowledged.
    fn note_unread(&mut self, session: SessionKey, unread: u64) {
        // Mostly nothing of a session waits.
        let Some(behind) = self.sessions.get_mut(&session) else { return };
        let next = behind.results.first().map_or(0, |(bytes, _)| *bytes);
        // As much is left free as it has then.
        let need = if unread == 0 { next } else { unread.saturating_add(next.saturating_mul(2)) };
        self.by_need.remove(&(behind.need, session));
        behind.need = need;
        self.by_need.insert((need, session));
    }

    /// A result waits no longer. If it was the last one of its session: where that is passed over.
    fn remove(
        &mut self,
        unread: impl Fn(SessionKey) -> u64,
        attempt: AttemptId,
    ) -> Option<(SessionKey, Parked)> {
        let (session, bytes) = self.results.remove(&attempt)?;
        let behind = self.sessions.get_mut(&session);
        let behind = behind.expect("a session with a result that waits is behind");
        let was_here = behind.results.remove(&(bytes, attempt));
        assert!(was_here, "attempt {attempt} has a result of {bytes} bytes that waits");
        if !behind.results.is_empty() {
            self.note_unread(session, unread(session));
            return None;
        }
        let behind = self.sessions.remove(&session).expect("it was there a moment ago");
        let was_here = self.by_need.remove(&(behind.need, session));
        assert!(was_here, "{session:?} is behind, and not in the order of needs");
        Some((session, behind.parked))
    }

    /// The result for which the least room is needed: how much, whose, of which attempt, how large.
    fn first(&self) -> Option<(u64, SessionKey, AttemptId, u64)> {
        let (need, session) = *self.by_need.first()?;
        let behind = self.sessions.get(&session).expect("a session with a need is behind");
        let first = behind.results.first();
        let (bytes, attempt) = *first.expect("a session that is behind has a result that waits");
        Some((need, session, attempt, bytes))
    }
}

impl Core {
    /// An attempt has ended, whose engine holds the result until there is room for it, and can do
    /// something else.
    pub(in crate::core) fn result_waits(
        &mut self,
        now: Time,
        key: ProcessKey,
        given: Assignment,
        finished: AttemptFinished,
        bytes: u64,
    ) {
        let attempt = finished.attempt.id;
        let task = self.tasks.get_mut(given.task).expect("a task whose result is wanted is there");
        task.transition(State::Unsent { engine: given.engine, attempt });
        let request =
            if task.payload.is_held_elsewhere() { 0 } else { task.payload.budget_bytes() };
        let aborts = task.aborts_followers() && finished.outcome.state != TaskState::Succeeded;
        self.set_deadline(now, given.task);
        if request.saturating_add(bytes) > self.memory.budget.payload_bytes_max() {
            // Whatever the others do, it would not fit beside its own request.
            return self.refuse_result(now, key, given, &finished);
        }
        // It was taken back as one that has ended: for its slot it has. The result is still there.
        self.attempts.insert(attempt, given);
        let is_new = self.engines.update(given.engine, |engine| engine.work.unsent.insert(attempt));
        assert!(is_new == Some(true), "attempt {attempt} waits twice, or at no engine");
        let session = self.sessions.get(given.session).expect("a session outlives its tasks");
        let unread = session.unread_bytes;
        self.memory.backlog.add(given.session, unread, attempt, bytes);
        if aborts {
            // What is behind it must not be given out before its end is told.
            self.sweep(now, given.engine, Some(given.session), Reason::Aborted);
        }
        // It cannot hold it for long: out of turn, if there is room at all.
        if self.processes.get(&key).is_some_and(|process| process.leaving) {
            self.take_result(key, given.session, attempt, bytes);
        }
    }

    /// Asks engines for the results for which there is room.
    pub(in crate::core) fn take_results(&mut self, now: Time) {
        while let Some((need, session, attempt, bytes)) = self.memory.backlog.first() {
            let process = self
                .attempts
                .get(attempt)
                .and_then(|given| self.engines.get(given.engine)?.process);
            let process = process.expect("the results of an engine that is away do not wait");
            let has_room = need <= self.memory.budget.room(self.kept.heavy_bytes());
            if has_room && self.take_result(process, session, attempt, bytes) {
                continue;
            }
            if !self.is_stuck_for_room() {
                return;
            }
            // One fails, so that the others need not: its request is freed with it.
            let given = self.take_back(attempt).expect("what waits is given");
            let (attempt, outcome) = (self.attempt(attempt), Outcome::SUCCEEDED);
            self.refuse_result(
                now,
                process,
                given,
                &AttemptFinished { attempt, outcome, times: RunTimes::default(), payload: None },
            );
        }
    }

    /// Asks for all that a process holds, as far as there is room at all: it wants to leave.
    pub(in crate::core) fn take_results_of(&mut self, key: ProcessKey) {
        let engines =
            self.processes.get(&key).map_or_else(Vec::new, |process| process.engines.clone());
        let engines = engines.iter().filter_map(|id| self.engines.get(*id));
        let unsent: Vec<AttemptId> =
            engines.flat_map(|engine| engine.work.unsent.iter().copied()).collect();
        for attempt in unsent {
            let result = self.memory.backlog.results.get(&attempt).copied();
            if let Some((session, bytes)) = result {
                self.take_result(key, session, attempt, bytes);
            }
        }
    }

    /// Asks for a result, if it fits.
    fn take_result(
        &mut self,
        key: ProcessKey,
        session: SessionKey,
        attempt: AttemptId,
        bytes: u64,
    ) -> bool {
        if !self.reserve(BytesOf::Result, bytes) {
            return false;
        }
        // Counted before it leaves: what its session needs for the next one depends on that.
        self.count_unread(session, bytes);
        self.leave_backlog(attempt);
        let attempts = vec![self.attempt(attempt)];
        let process =
            self.processes.get_mut(&key).expect("what waits is at a process that is here");
        let before = process.sending.taken.insert(attempt, (session, bytes));
        assert!(before.is_none(), "the result of attempt {attempt} is asked for twice");
        let connection = process.connection;
        self.to_engine(connection, ToEngine::Take(Attempts { attempts }));
        true
    }

    /// Returns true if nothing will make room for pending results: no client has any to read, no
    /// task is about to end.
    fn is_stuck_for_room(&self) -> bool {
        !self.memory.budget.has_results() && self.attempts.len() == self.memory.backlog.len()
    }

    /// A result does not fit, and never will: its task fails.
    fn refuse_result(
        &mut self,
        now: Time,
        key: ProcessKey,
        given: Assignment,
        finished: &AttemptFinished,
    ) {
        let outcome = Outcome::error(TaskState::Failed, ErrorKind::Busy, self.no_room_for_result());
        let (engine, process, attempt) = (Some(given.engine), Some(key), Some(finished.attempt.id));
        let run = finished.times;
        self.end(
            now,
            given.task,
            TaskEnd { outcome, engine, run, process, attempt, ..TaskEnd::default() },
        );
    }

    pub(in crate::core) fn no_room_for_result(&self) -> String {
        let (_, total) = self.memory.budget.state();
        format!(
            "its result did not fit the broker's payload memory ({total} bytes); use `{}`",
            self.config.memory_flag
        )
    }

    /// A result does not wait any longer. If it was its session's last one, tasks of that session
    /// are given out again.
    pub(in crate::core) fn leave_backlog(&mut self, attempt: AttemptId) {
        if self.memory.backlog.len() == 0 {
            return;
        }
        let sessions = &self.sessions;
        let unread = |key| sessions.get(key).map_or(0, |session| session.unread_bytes);
        let Some((session, parked)) = self.memory.backlog.remove(unread, attempt) else { return };
        for placement in parked.placements {
            // Its last task may have ended while it was passed over.
            if self.schedule.placements.is_named(placement) {
                self.schedule
                    .placements
                    .get_mut(placement)
                    .queue
                    .resume(session, self.schedule.shared_given);
            }
        }
        for engine in parked.engines {
            let tasks = &self.tasks;
            self.engines.update(engine, |engine| engine.queue.note(session, tasks));
            self.schedule.direct_ready.insert(engine);
        }
    }

    /// A session holds a result more, whose bytes are in the budget.
    pub(in crate::core) fn count_unread(&mut self, key: SessionKey, bytes: u64) {
        let session = self.sessions.get_mut(key).expect("a session outlives its results");
        session.unread_bytes += bytes;
        self.memory.backlog.note_unread(key, session.unread_bytes);
    }

    /// A session does not hold a result any longer.
    pub(in crate::core) fn count_read(&mut self, key: SessionKey, bytes: u64) {
        // It may be over, with a result of a cancelled task still on its way.
        let Some(session) = self.sessions.get_mut(key) else { return };
        assert!(bytes <= session.unread_bytes, "{bytes} bytes of {} unread", session.unread_bytes);
        session.unread_bytes -= bytes;
        self.memory.backlog.note_unread(key, session.unread_bytes);
    }

    /// A process is gone: what it holds it names again when it is back, as any other attempt.
    pub(in crate::core) fn forget_unsent(&mut self, key: ProcessKey, engines: &[EngineId]) {
        for &id in engines {
            let unsent = |engine: &mut Engine| std::mem::take(&mut engine.work.unsent);
            let is_here = self.engines.get(id).is_some_and(|engine| engine.process == Some(key));
            let unsent =
                is_here.then(|| self.engines.update(id, unsent)).flatten().unwrap_or_default();
            for attempt in unsent {
                self.leave_backlog(attempt);
                let given = self.attempts.get(attempt).copied().expect("what waits is given");
                let task = self.tasks.get_mut(given.task);
                let task = task.expect("a task that ends takes back its result that waits");
                task.transition(State::Assigned { engine: id, attempt, started: true });
                // It has ended there: no limit of its run is due any longer. A run it was, all the
                // same.
                let more = task.more_mut();
                (more.started, more.has_run) = (None, true);
                self.attempts.remove(attempt);
                self.hold_attempt(given, attempt);
            }
        }
    }

    /// An engine is stopped alone: its process stays, and need not hold the results of the engine
    /// that wait.
    pub(in crate::core) fn release_unsent(&mut self, key: ProcessKey, id: EngineId) {
        let unsent = self
            .engines
            .get(id)
            .map_or_else(Vec::new, |engine| engine.work.unsent.iter().copied().collect());
        self.forget_unsent(key, &[id]);
        for count in unsent {
            self.release_attempt(key, count, 0);
        }
    }

    /// A process is gone: frees what was on its way from there.
    pub(in crate::core) fn forget_arriving(&mut self, process: &Process) {
        process.told.lanes.values().for_each(|lane| self.memory.budget.close_lane(lane));
        let arriving: Vec<(Account, u64)> = process.arriving().collect();
        for (account, bytes) in arriving {
            self.free_result(account, bytes);
        }
        self.memory.budget.release(BytesOf::Other, process.passing_bytes());
    }

    /// Frees a result's bytes, which its session held.
    pub(in crate::core) fn free_result(&mut self, Account { session, lane }: Account, bytes: u64) {
        if bytes > 0 {
            self.memory.budget.release(BytesOf::Result, bytes);
            self.count_read(session, bytes);
            if let Some(lane) = lane {
                self.return_to_lane(lane, session, bytes);
            }
        }
    }

    /// The same of one that is here.
    pub(in crate::core) fn release_result(&mut self, account: Account, payload: Option<&Stored>) {
        self.free_result(account, payload.map_or(0, Stored::budget_bytes));
    }

    /// Returns bytes that came unasked to their lane: the process may send as much again.
    pub(in crate::core) fn return_to_lane(
        &mut self,
        key: ProcessKey,
        session: SessionKey,
        bytes: u64,
    ) {
        // None if the process is gone, or the session over: what is still held of a lane that was
        // closed counts on until now.
        let lane =
            self.processes.get_mut(&key).and_then(|process| process.told.lanes.get_mut(&session));
        self.memory.budget.release_unasked(bytes, lane.is_some());
        let total = lane.map(|lane| lane.release(bytes));
        if let Some(total) = total {
            self.grant_to_lane(key, session, total);
        }
    }
}
