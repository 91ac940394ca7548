//! Work of an earlier start of the broker, which engines still hold.
//!
//! A client that returns submits again what it waits for. What an engine holds of it is matched: it
//! goes on as an attempt of this broker. What no engine holds waits a moment for those that were
//! there before, since it may have run. Tasks that no client asks for are ended.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use furlong_wire::ids::{Attempt, BrokerStart, EngineId, SessionId, TaskSeq};
use furlong_wire::message::{CancelAttempts, HeldWork, Release, ToEngine};

use super::claims::fits;
use super::reconcile::{Decisions, engine_that_has};
use crate::core::attempts::Assignment;
use crate::core::keys::{AttemptId, ProcessKey, SessionKey, TaskKey};
use crate::core::schedule::sweep::Reason;
use crate::core::sessions::connect::SESSION_GRACE;
use crate::core::tasks::table::{State, Task};
use crate::core::turns::chores::Chore;
use crate::core::turns::work::{TASKS_PER_PART, count};
use crate::core::{Core, Time};

/// The time allowed to a client that has returned to say what it waits for.
const CLAIM_WAIT: Duration = Duration::from_secs(60);

/// Attempts of an earlier start held by engines, and tasks that wait for them. As many as
/// registrations name: one cut off names its own again.
#[derive(Debug, Default)]
pub struct Orphans {
    pub(super) by_attempt: BTreeMap<Attempt, Orphan>,
    /// Those that a client may still ask for.
    pub(super) by_task: BTreeMap<(SessionId, TaskSeq), Attempt>,
    pub(super) by_engine: BTreeSet<(EngineId, Attempt)>,
    pub(super) expiries: BTreeSet<(Time, Attempt)>,
    /// Engines of the roster that have not registered.
    pub(super) awaited: BTreeSet<EngineId>,
    /// Engines that have dropped results of an earlier start, or whose work of such was given up
    /// since nobody came who could ask for it.
    pub(super) lossy: BTreeSet<EngineId>,
    /// Tasks that wait for them.
    pub(super) waiting: BTreeSet<TaskKey>,
    /// The matched attempts, and their attempts of this start: until the engine has heard of one,
    /// it speaks of the old one.
    pub(super) matched: BTreeMap<Attempt, AttemptId>,
}

/// The attempts before and after all others.
const FIRST: Attempt = Attempt { start: BrokerStart(0), id: AttemptId::MIN };
const LAST: Attempt = Attempt { start: BrokerStart(u64::MAX), id: AttemptId::MAX };
/// Stands for the task of work that ends none.
const NO_TASK: (SessionKey, TaskSeq) = (SessionKey::NOBODY, TaskSeq::MIN);

/// An attempt of an earlier start.
#[derive(Clone, Copy, Debug)]
pub(super) struct Orphan {
    pub(super) task: (SessionId, TaskSeq),
    pub(super) engine: EngineId,
    /// The attempt under which it occupies its engine, while it runs.
    pub(super) occupies: Option<AttemptId>,
    pub(super) expires: Time,
}

impl Orphans {
    /// None yet; these engines are awaited.
    pub fn new(awaited: BTreeSet<EngineId>) -> Self {
        Self { awaited, ..Self::default() }
    }

    /// Returns true if every engine of the roster has registered.
    pub fn awaits_nobody(&self) -> bool {
        self.awaited.is_empty()
    }

    /// Returns the time at which the next one is ended.
    pub fn expires(&self) -> Option<Time> {
        self.expiries.first().map(|(at, _)| *at)
    }

    fn add(&mut self, attempt: Attempt, orphan: Orphan) {
        self.by_task.insert(orphan.task, attempt);
        self.expiries.insert((orphan.expires, attempt));
        self.hold(attempt, orphan);
    }

    /// An engine holds it, whether or not anybody can ask for it.
    fn hold(&mut self, attempt: Attempt, orphan: Orphan) {
        let is_new = self.by_engine.insert((orphan.engine, attempt));
        let before = self.by_attempt.insert(attempt, orphan);
        assert!(is_new && before.is_none(), "{attempt:?} is held twice");
    }

    /// Nobody can ask for it any longer.
    fn disown(&mut self, attempt: Attempt) -> Option<Orphan> {
        let orphan = *self.by_attempt.get(&attempt)?;
        self.expiries.remove(&(orphan.expires, attempt));
        if self.by_task.get(&orphan.task) == Some(&attempt) {
            self.by_task.remove(&orphan.task);
        }
        Some(orphan)
    }

    pub(super) fn remove(&mut self, attempt: Attempt) -> Option<Orphan> {
        self.disown(attempt)?;
        let orphan = self.by_attempt.remove(&attempt)?;
        let was_here = self.by_engine.remove(&(orphan.engine, attempt));
        assert!(was_here, "{attempt:?} is held by an engine that does not have it");
        Some(orphan)
    }

    /// A client that is here, or an engine that leaves, does not wait for so long.
    fn shorten(&mut self, attempt: Attempt, expires: Time) {
        let Some(orphan) =
            self.by_attempt.get_mut(&attempt).filter(|orphan| orphan.expires > expires)
        else {
            return;
        };
        // One that nobody can ask for any longer has no time at which it goes.
        if self.expiries.remove(&(std::mem::replace(&mut orphan.expires, expires), attempt)) {
            self.expiries.insert((expires, attempt));
        }
    }

    /// It is still waited for.
    fn extend(&mut self, attempt: Attempt, expires: Time) {
        let orphan = self.by_attempt.get_mut(&attempt).expect("what is asked for is held");
        let before = std::mem::replace(&mut orphan.expires, expires);
        let was_here = self.expiries.remove(&(before, attempt));
        assert!(was_here, "{attempt:?} has no time at which it goes");
        self.expiries.insert((expires, attempt));
    }

    /// Those that a client of the session may ask for, from this task on.
    fn of_session(
        &self,
        session: SessionId,
        from: TaskSeq,
    ) -> impl Iterator<Item = (TaskSeq, Attempt)> {
        let of_session = self.by_task.range((session, from)..=(session, TaskSeq::MAX));
        of_session.inspect(|_| count(1)).map(|((_, n), attempt)| (*n, *attempt))
    }

    fn of_engines(&self, engines: &[EngineId]) -> Vec<Attempt> {
        let of_engine = |id: &EngineId| {
            self.by_engine.range((*id, FIRST)..=(*id, LAST)).map(|(_, attempt)| *attempt)
        };
        engines.iter().flat_map(of_engine).inspect(|_| count(1)).collect()
    }

    /// Returns true if nobody can ask for an attempt, which an engine holds, any longer.
    #[cfg(any(test, feature = "invariants"))]
    pub fn is_disowned(&self, attempt: Attempt) -> bool {
        let orphan = self.by_attempt.get(&attempt);
        orphan.is_some_and(|orphan| self.by_task.get(&orphan.task) != Some(&attempt))
    }

    /// Returns their number, for the tests.
    #[cfg(test)]
    pub fn len(&self) -> usize {
        self.by_attempt.len()
    }
}

/// Handling of engines and sessions.
impl Core {
    /// An engine holds work of an earlier start.
    pub(in crate::core) fn judge_orphan(
        &mut self,
        now: Time,
        key: ProcessKey,
        ids: &[EngineId],
        held: &HeldWork,
        decisions: &mut Decisions,
    ) {
        // Named twice, or by two processes: an honest one has it once, and the first that names it
        // is believed.
        if self.recovery.orphans.by_attempt.contains_key(&held.attempt) {
            return decisions.end(held.attempt, held.finished);
        }
        let sessions: Vec<SessionKey> = self.sessions.with_id(held.session);
        let task = sessions
            .iter()
            .find_map(|session| self.sessions.get(*session)?.ledger.tasks.get(held.n).copied());
        let asked = sessions.iter().any(|session| self.has_ended_or_gone_on(*session, held.n));
        let Some(engine) = engine_that_has(ids, held) else {
            return decisions.end(held.attempt, held.finished);
        };
        // Its client knows an end, or another attempt is under way: nobody wants this one.
        if asked {
            return self.end_held(engine, held, decisions);
        }
        if let Some(task) = task.and_then(|key| self.tasks.get(key))
            && let State::Assigned { engine: of_task, attempt, .. } = task.state
        {
            let session = task.session;
            let attempt = self.attempt(attempt);
            if of_task != engine || decisions.here.contains(&attempt) {
                return self.end_held(engine, held, decisions);
            }
            // It was matched, and the engine has not heard of that.
            decisions.here.insert(attempt);
            if !held.finished {
                self.tell_secret(key, session);
            }
            return decisions.adopted.push((held.attempt, attempt));
        }
        let id = (held.session, held.n);
        if let Some(other) = self.recovery.orphans.by_task.get(&id).copied() {
            // It was tried twice. What has ended is as good as any.
            let runs = self
                .recovery
                .orphans
                .by_attempt
                .get(&other)
                .is_some_and(|other| other.occupies.is_some());
            if !(runs && held.finished) {
                return self.end_held(engine, held, decisions);
            }
            self.end_orphan(other);
        }
        let expires = self.end_of_wait(now, &sessions);
        // What has ended keeps no slot busy.
        let occupies = (!held.finished).then(|| self.occupy(engine, NO_TASK));
        self.recovery.orphans.add(held.attempt, Orphan { task: id, engine, occupies, expires });
        let Some(task) = task
            .filter(|task| self.tasks.get(*task).is_some_and(|task| may_be_matched(task, engine)))
        else {
            return;
        };
        self.match_orphan(now, key, task, held.attempt);
        if let Some(State::Assigned { attempt, .. }) = self.tasks.get(task).map(|task| task.state) {
            // Should it hold the task under another attempt, too, that one is not wanted.
            decisions.here.insert(self.attempt(attempt));
        }
    }

    /// The moment until which an attempt waits to be claimed: a client that is here says soon what
    /// it waits for; another may yet come back, also to a session that the journal had.
    fn end_of_wait(&self, now: Time, sessions: &[SessionKey]) -> Time {
        let here = sessions.iter().filter_map(|session| self.sessions.get(*session)?.opened);
        let claims = here.map(|opened| opened.after(CLAIM_WAIT));
        claims.fold(now.after(SESSION_GRACE), Time::min)
    }

    /// Nobody wants what an engine holds. It occupies the engine until it has stopped.
    fn end_held(&mut self, engine: EngineId, held: &HeldWork, decisions: &mut Decisions) {
        if let Some(session) = self.session_that_had(held) {
            // The task has ended otherwise, and its client does not know that yet. Should this
            // broker be killed before, what the engine holds is all that says that the task has
            // run: it is held as an attempt of this start.
            let id = self.occupy(engine, (session, held.n));
            self.note_matched(held.attempt, id);
            return decisions.adopt_to_end(held, self.attempt(id));
        }
        decisions.end(held.attempt, held.finished);
        if !held.finished {
            let (task, occupies) = ((held.session, held.n), Some(self.occupy(engine, NO_TASK)));
            let orphan = Orphan { task, engine, occupies, expires: Time(u64::MAX) };
            self.recovery.orphans.hold(held.attempt, orphan);
        }
    }

    fn has_ended_or_gone_on(&self, key: SessionKey, n: TaskSeq) -> bool {
        let session = self.sessions.get(key).expect("a session that was found is there");
        let task = session.ledger.tasks.get(n).and_then(|task| self.tasks.get(*task));
        let tried_elsewhere =
            |task: &Task| task.tries.attempts > 0 && !matches!(task.state, State::Assigned { .. });
        (session.departure.departed || session.knows(n)) && task.is_none_or(tried_elsewhere)
    }

    /// While the work runs, its engine is as busy as with work of this start. `of` is the task
    /// whose end is held with it, or [`NO_TASK`].
    fn occupy(&mut self, engine: EngineId, of: (SessionKey, TaskSeq)) -> AttemptId {
        let id = self.attempts.next();
        // As work of its own queue, which nothing recalls and nothing moves elsewhere.
        self.hold_attempt(Assignment::new(TaskKey::NOBODY, of, engine, true), id);
        id
    }

    /// Work no longer keeps its engine busy under this id, if it did.
    pub(super) fn vacate(&mut self, occupies: Option<AttemptId>) {
        if let Some(id) = occupies {
            let given = self.take_back(id);
            assert!(given.is_some(), "attempt {id} keeps an engine busy that does not have it");
        }
    }

    /// An engine of the roster is here, and has said what it holds.
    pub(in crate::core) fn note_reconciled(
        &mut self,
        now: Time,
        ids: &[EngineId],
        dropped: Option<Attempt>,
    ) {
        if dropped.is_some_and(|attempt| attempt.start != self.config.start) {
            self.recovery.orphans.lossy.extend(ids);
            ids.iter().for_each(|id| self.sweep(now, *id, None, Reason::Repeated));
        }
        self.no_longer_await(now, ids);
    }

    /// These engines are here, or given up.
    pub(in crate::core) fn no_longer_await(&mut self, now: Time, ids: &[EngineId]) {
        // Only when the last one comes: nothing waits for engines once none is awaited.
        let before = self.recovery.orphans.awaited.len();
        ids.iter().for_each(|id| _ = self.recovery.orphans.awaited.remove(id));
        if before == 0 || !self.recovery.orphans.awaited.is_empty() {
            return;
        }
        self.recovery.journal.end_reconciling();
        let waiting = std::mem::take(&mut self.recovery.orphans.waiting);
        self.end_waits_for_roster(now, waiting);
    }

    /// Tasks have waited for engines of the roster, all of which are here or given up: some of them
    /// go on, and the others in later turns.
    pub(in crate::core) fn end_waits_for_roster(
        &mut self,
        now: Time,
        mut waiting: BTreeSet<TaskKey>,
    ) {
        for _ in 0..TASKS_PER_PART {
            let Some(key) = waiting.pop_first() else { return };
            self.turns.work.add(1);
            // It may have been matched, cancelled, or have raised at this start since it was noted.
            if self
                .tasks
                .get(key)
                .is_some_and(|task| task.state == State::Pausing && task.tries.attempts == 0)
            {
                self.wait_for_roster(now, key);
            }
        }
        if !waiting.is_empty() {
            self.turns.chores.push(Chore::EndWaits(waiting));
        }
    }

    /// Of an engine that has dropped results: what waits for it and was submitted before may be
    /// among them.
    pub(in crate::core) fn lose_repeated(&mut self, now: Time, key: TaskKey) {
        if self
            .tasks
            .get(key)
            .is_some_and(|task| task.state == State::Queued && self.may_have_run(task))
        {
            self.lose_unmatched(now, key);
        }
    }

    /// A process is gone: it names what it holds again when it is back.
    pub(in crate::core) fn forget_orphans(&mut self, engines: &[EngineId]) {
        for attempt in self.recovery.orphans.of_engines(engines) {
            let orphan = self.recovery.orphans.remove(attempt).expect("what an engine has is held");
            self.vacate(orphan.occupies);
        }
    }

    /// An engine is stopped alone: its process stays, and need not hold what has ended there.
    pub(in crate::core) fn release_orphans(&mut self, engine: EngineId) {
        for attempt in self.recovery.orphans.of_engines(&[engine]) {
            if self
                .recovery
                .orphans
                .by_attempt
                .get(&attempt)
                .is_some_and(|orphan| orphan.occupies.is_none())
            {
                self.end_orphan(attempt);
            }
        }
    }

    /// A process that leaves waits for the word on what has ended there.
    pub(in crate::core) fn shorten_orphans(&mut self, now: Time, engines: &[EngineId]) {
        for attempt in self.recovery.orphans.of_engines(engines) {
            self.recovery.orphans.shorten(attempt, now.after(CLAIM_WAIT));
        }
    }

    /// A client is here, and will say what it waits for.
    pub(in crate::core) fn shorten_orphans_of(&mut self, now: Time, session: SessionId) {
        self.shorten_orphans_from(session, TaskSeq::MIN, now.after(CLAIM_WAIT));
    }

    /// What engines hold of a session's tasks, from this one on, waits until then at most: some of
    /// it now, the rest in later turns.
    pub(in crate::core) fn shorten_orphans_from(
        &mut self,
        session: SessionId,
        from: TaskSeq,
        until: Time,
    ) {
        let part: Vec<(TaskSeq, Attempt)> =
            self.recovery.orphans.of_session(session, from).take(TASKS_PER_PART).collect();
        self.turns.work.add(part.len());
        for (_, attempt) in &part {
            self.recovery.orphans.shorten(*attempt, until);
        }
        if let Some((last, _)) = part.get(TASKS_PER_PART - 1) {
            self.turns.chores.push(Chore::ShortenOrphans(session, *last + 1, until));
        }
    }

    /// A client will not ask for anything any longer: what engines hold for it ends, some of it now
    /// and the rest in later turns.
    pub(in crate::core) fn end_orphans_of(&mut self, session: SessionId) {
        let room = if self.is_turn_over() { 1 } else { TASKS_PER_PART };
        let part: Vec<(TaskSeq, Attempt)> =
            self.recovery.orphans.of_session(session, TaskSeq::MIN).take(room).collect();
        self.turns.work.add(part.len());
        for (_, attempt) in &part {
            self.end_orphan(*attempt);
        }
        if part.len() == room {
            self.turns.chores.push(Chore::EndOrphans(session));
        }
    }

    /// Ends what nobody has asked for in time.
    pub(in crate::core) fn expire_orphans(&mut self, now: Time) {
        // Very many have their turn later.
        for _ in 0..TASKS_PER_PART {
            let first =
                self.recovery.orphans.expiries.first().copied().filter(|(at, _)| *at <= now);
            let Some((_, attempt)) = first else { return };
            self.turns.work.add(1);
            if self.is_asked_for(attempt) {
                self.recovery.orphans.extend(attempt, now.after(CLAIM_WAIT));
            } else {
                self.note_unasked(attempt);
                self.end_orphan(attempt);
            }
        }
    }

    /// A client may ask for it all the same, later: one that submits again in the order of its
    /// numbers, and has no credit for those before, or one that stood still for longer than
    /// anything waits for it. Then it may have run.
    fn note_unasked(&mut self, attempt: Attempt) {
        let orphan = self.recovery.orphans.by_attempt.get(&attempt).expect("what goes is held");
        let (engine, (id, n)) = (orphan.engine, orphan.task);
        let sessions = self.sessions.with_id(id);
        if sessions.is_empty() {
            self.recovery.orphans.lossy.insert(engine);
        }
        for key in sessions {
            let session = self.sessions.get_mut(key).expect("a session that was found is there");
            session.ledger.unasked.insert(n);
        }
    }

    /// Returns true if a client has submitted the task again and it awaits arguments, or others
    /// that ran before it then, and run once more.
    fn is_asked_for(&self, attempt: Attempt) -> bool {
        let orphan = self.recovery.orphans.by_attempt.get(&attempt);
        let Orphan { task: (id, n), .. } = orphan.expect("what goes is held");
        let sessions =
            self.sessions.with_id(*id).into_iter().filter_map(|key| self.sessions.get(key));
        let mut tasks =
            sessions.filter_map(|session| self.tasks.get(*session.ledger.tasks.get(*n)?));
        self.recovery.orphans.by_task.get(&(*id, *n)) == Some(&attempt)
            && tasks.any(|task| matches!(task.state, State::Receiving | State::Waiting))
    }

    /// An attempt of an earlier start has ended.
    pub(in crate::core) fn orphan_ended(&mut self, key: ProcessKey, attempt: Attempt) {
        let engine = self
            .recovery
            .orphans
            .by_attempt
            .get(&attempt)
            .and_then(|orphan| self.engines.get(orphan.engine));
        if engine.is_some_and(|engine| engine.process == Some(key))
            && let Some(orphan) = self.recovery.orphans.by_attempt.get_mut(&attempt)
        {
            let (task, occupied) = (orphan.task, orphan.occupies.take());
            self.vacate(occupied);
            // Its result waits at the engine for a client that may still ask.
            if self.recovery.orphans.by_task.get(&task) == Some(&attempt) {
                return;
            }
            self.recovery.orphans.remove(attempt);
        }
        if let Some(process) = self.processes.get(&key) {
            self.send_release(process.connection, Release::of(attempt.start, vec![attempt.id]));
        }
    }

    /// An attempt of an earlier start has not begun, and its engine holds it no longer. If it was
    /// matched meanwhile: as which attempt.
    pub(in crate::core) fn orphan_not_begun(
        &mut self,
        key: ProcessKey,
        attempt: Attempt,
    ) -> Attempt {
        let orphan = self
            .recovery
            .orphans
            .by_attempt
            .get(&attempt)
            .and_then(|orphan| self.engines.get(orphan.engine));
        if orphan.is_some_and(|engine| engine.process == Some(key)) {
            let orphan = self.recovery.orphans.remove(attempt).expect("it was found just now");
            self.vacate(orphan.occupies);
            return attempt;
        }
        // The engine had not heard of the match when it said so.
        self.recovery.orphans.matched.remove(&attempt).map_or(attempt, |id| self.attempt(id))
    }

    /// Tells its engine that nobody wants it. It occupies the engine until that has stopped it.
    fn end_orphan(&mut self, attempt: Attempt) {
        let orphan = self.recovery.orphans.disown(attempt).expect("what is ended is held");
        let process = self.engines.get(orphan.engine).and_then(|engine| engine.process);
        let connection =
            process.and_then(|key| self.processes.get(&key)).map(|process| process.connection);
        if orphan.occupies.is_none() {
            self.recovery.orphans.remove(attempt);
        }
        // An engine that is away names what it holds when it is back, and is told then.
        let Some(connection) = connection else { return };
        if orphan.occupies.is_some() {
            let cancel = CancelAttempts { attempts: vec![attempt], force: false };
            self.to_engine(connection, ToEngine::Cancel(cancel));
        } else {
            self.send_release(connection, Release::of(attempt.start, vec![attempt.id]));
        }
    }
}

/// Returns true if a task has what it needs, is assigned to no engine, and may be on that engine.
fn may_be_matched(task: &Task, engine: EngineId) -> bool {
    task.tries.attempts == 0
        && matches!(task.state, State::Queued | State::Pausing)
        && fits(task, engine)
}
