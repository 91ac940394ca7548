//! An engine process comes back: what it holds is compared with what it was given.
//!
//! Attempts that both sides know continue, and results in flight are requested again. Unwanted work
//! is ended or released. What the process was given and does not hold has come to nothing: if it
//! cannot have run, it is given again, whatever it is; else it is a loss.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use furlong_wire::ids::{Attempt, BrokerStart, EngineId};
use furlong_wire::limits::LISTED_MAX;
use furlong_wire::message::{Adopt, CancelAttempts, HeldWork, Register, Release, ToEngine};

use crate::core::attempts::Assignment;
use crate::core::engines::away::Moved;
use crate::core::keys::{AttemptId, ProcessKey, SessionKey, TaskKey};
use crate::core::payloads::budget::BytesOf;
use crate::core::payloads::stored::Stored;
use crate::core::tasks::end::cancelled_before_it_began;
use crate::core::tasks::table::{Queue, State};
use crate::core::turns::work::{TASKS_PER_PART, count};
use crate::core::{ConnectionId, Core, Time};

/// What a process holds, as far as that was not compared with what its engines were given. Until it
/// is, they take nothing.
#[derive(Debug)]
pub(in crate::core) struct Reconciling {
    engines: Vec<EngineId>,
    work: VecDeque<HeldWork>,
    received: Option<Attempt>,
    dropped: Option<Attempt>,
    /// The attempts of this start that it holds, or will when it has read its messages.
    here: BTreeSet<Attempt>,
    /// The last attempt that had been made when it registered.
    made: AttemptId,
    /// Of the engine that is looked at, those that it was given by then, and those not yet looked
    /// at.
    given: VecDeque<AttemptId>,
    next: usize,
}

/// The decisions on the attempts that a process holds.
#[derive(Debug, Default)]
pub(in crate::core) struct Decisions {
    /// The attempts of this start that it holds, or will when it has read its messages.
    pub here: BTreeSet<Attempt>,
    pub adopted: Vec<(Attempt, Attempt)>,
    /// Without force, and with it.
    to_stop: [Vec<Attempt>; 2],
    released: BTreeMap<BrokerStart, Vec<AttemptId>>,
}

/// The engine whose slot has a piece of work, or whose stand-in.
pub(in crate::core) fn engine_that_has(ids: &[EngineId], held: &HeldWork) -> Option<EngineId> {
    ids.get(held.slot as usize % ids.len().max(1)).copied()
}

impl Reconciling {
    /// Takes out of a registration the part that is about work. Ascending, as the process was given
    /// it.
    pub fn take(register: &mut Register, engines: Vec<EngineId>, made: AttemptId) -> Self {
        let mut work = std::mem::take(&mut register.held);
        work.sort_unstable_by_key(|held| held.attempt);
        Self {
            engines,
            here: work.iter().map(|work| work.attempt).collect(),
            work: work.into(),
            received: register.received,
            dropped: register.dropped,
            made,
            given: VecDeque::new(),
            next: 0,
        }
    }

    fn is_over(&self) -> bool {
        self.work.is_empty() && self.given.is_empty() && self.next == self.engines.len()
    }

    /// The next of its engines whose attempts are to be looked at.
    fn next_engine(&mut self) -> Option<EngineId> {
        let id = self.engines.get(self.next).copied()?;
        self.next += 1;
        Some(id)
    }
}

impl Decisions {
    /// Nobody wants it.
    pub fn end(&mut self, attempt: Attempt, finished: bool) {
        if finished {
            self.released.entry(attempt.start).or_default().push(attempt.id);
        } else {
            self.to_stop[0].push(attempt);
        }
    }

    /// It was with an engine that was stopped alone.
    fn end_by_force(&mut self, held: &HeldWork) {
        if held.finished {
            self.end(held.attempt, true);
        } else {
            self.to_stop[1].push(held.attempt);
        }
    }

    /// Nobody wants its result, but it is held under another attempt from now on.
    pub fn adopt_to_end(&mut self, held: &HeldWork, adopted: Attempt) {
        self.adopted.push((held.attempt, adopted));
        if !held.finished {
            self.to_stop[0].push(adopted);
        }
    }
}

impl Core {
    /// Compares what a process holds with what its engines were given, a part at a time: what it
    /// holds, and then what it does not hold.
    pub(in crate::core) fn reconcile(
        &mut self,
        now: Time,
        key: ProcessKey,
        mut rest: Box<Reconciling>,
    ) {
        let process = self.processes.get(&key).expect("a process that registers is here");
        let connection = process.connection;
        let mut room = TASKS_PER_PART;
        let here = std::mem::take(&mut rest.here);
        let mut decisions = Decisions { here, ..Decisions::default() };
        while room > 0
            && let Some(held) = rest.work.pop_front()
        {
            room -= 1;
            let engine = engine_that_has(&rest.engines, &held);
            if !engine.is_some_and(|id| self.is_slot_of(id, key)) {
                // It was stopped meanwhile.
                decisions.end_by_force(&held);
            } else if held.attempt.start == self.config.start {
                self.judge(now, (key, &rest.engines), &held, &mut decisions);
            } else {
                self.judge_orphan(now, key, &rest.engines, &held, &mut decisions);
            }
        }
        // What it holds comes first and whole: only then is it known what it does not hold.
        rest.here = std::mem::take(&mut decisions.here);
        // Each part's decisions go out with it, before anything that clients want done with them.
        self.send_decisions(connection, decisions);
        while room > 0 {
            let Some(attempt) = rest.given.pop_front() else {
                let Some(id) = rest.next_engine() else { break };
                rest.given = self.given_by(id, rest.made);
                continue;
            };
            room -= 1;
            if !rest.here.contains(&self.attempt(attempt)) {
                self.come_to_nothing(now, attempt, &rest);
            }
        }
        self.turns.work.add(TASKS_PER_PART - room);
        if !rest.is_over() {
            self.turns.rests.insert(connection, rest.into());
            return;
        }
        self.note_reconciled(now, &rest.engines, rest.dropped);
        self.take_into_service(key, rest.engines);
    }

    /// The attempts that an engine had been given by then, the last one first: each goes to the
    /// front of its queue. All that it holds is known: the rest of what was taken from it is
    /// elsewhere for good.
    fn given_by(&mut self, id: EngineId, made: AttemptId) -> VecDeque<AttemptId> {
        let given = self.engines.update(id, |engine| {
            engine.work.moved.clear();
            let assigned = engine.work.assigned.iter().rev().inspect(|_| count(1)).copied();
            assigned.filter(|attempt| *attempt <= made).collect()
        });
        given.unwrap_or_default()
    }

    /// Returns true if an engine is a slot of that process.
    pub(in crate::core) fn is_slot_of(&self, id: EngineId, key: ProcessKey) -> bool {
        self.engines.get(id).is_some_and(|engine| engine.process == Some(key))
    }

    fn judge(
        &mut self,
        now: Time,
        (key, ids): (ProcessKey, &[EngineId]),
        held: &HeldWork,
        decisions: &mut Decisions,
    ) {
        let attempt = held.attempt.id;
        let is_here = |given: &Assignment| self.is_slot_of(given.engine, key);
        let given = self.attempts.get(attempt).copied().filter(is_here);
        let wanted = match given {
            Some(given) => given.stopping.is_none() && self.tasks.get(given.task).is_some(),
            None => self.rejoin(now, engine_that_has(ids, held), attempt),
        };
        match (wanted, held.finished) {
            (true, true) => decisions.adopted.push((held.attempt, held.attempt)),
            (true, false) => {
                // Its lane was that of the connection before, and it may have more to publish.
                let given = self.attempts.get(attempt).expect("what goes on is given");
                let task = self.tasks.get(given.task).expect("what is wanted has a task");
                self.tell_secret(key, task.session);
            }
            (false, true) => {
                // Of a task that was ended while its engine was away.
                if given.is_some() {
                    self.take_back(attempt);
                }
                match self.session_that_had(held) {
                    Some(session) => {
                        let process = self.processes.get_mut(&key);
                        process.expect("it is judged").held_of.insert(session);
                        self.hold_or_release(key, session, held.n, attempt);
                    }
                    None => decisions.end(held.attempt, true),
                }
            }
            (false, false) => {
                let force =
                    given.and_then(|given| given.stopping).is_some_and(|stopping| stopping.force);
                decisions.to_stop[usize::from(force)].push(held.attempt);
                let is_of_the_past =
                    self.attempts.get(attempt).is_none() && attempt <= self.attempts.made();
                if let Some(engine) = engine_that_has(ids, held).filter(|_| is_of_the_past) {
                    // It keeps the engine busy until it has stopped, also if its task goes on
                    // elsewhere.
                    let session = self.session_that_had(held).unwrap_or(SessionKey::NOBODY);
                    let task = TaskKey::NOBODY;
                    let given = Assignment::new(task, (session, held.n), engine, true);
                    self.hold_attempt(given, attempt);
                }
            }
        }
    }

    /// The session whose client has not acknowledged the end of a task.
    pub(in crate::core) fn session_that_had(&self, held: &HeldWork) -> Option<SessionKey> {
        let mut sessions = self.sessions.with_id(held.session).into_iter();
        sessions.rfind(|key| {
            self.sessions.get(*key).is_some_and(|session| session.ledger.done.get(held.n).is_some())
        })
    }

    /// A task that was taken from an engine is still there: unless it went elsewhere meanwhile, the
    /// attempt goes on.
    fn rejoin(&mut self, now: Time, engine: Option<EngineId>, attempt: AttemptId) -> bool {
        let Some(engine) = engine else { return false };
        let moved =
            self.engines.update(engine, |engine| engine.work.moved.remove(&attempt)).flatten();
        let Some(Moved { task: key, attempts, started }) = moved else { return false };
        // It has ended since, or somebody else has begun it: two would run it.
        let Some(task) = self.tasks.get_mut(key) else { return false };
        if task.state != State::Queued
            || task.queue != Queue::Shared
            || task.tries.attempts != attempts
        {
            return false;
        }
        task.transition(State::Assigned { engine, attempt, started: false });
        if started {
            // It was no loss after all.
            task.transition(State::Assigned { engine, attempt, started });
            assert!(task.tries.losses > 0, "the loss of attempt {attempt} was not counted");
            task.tries.losses -= 1;
            let noted = task.more_mut().past.pop().expect("a loss that counts is noted");
            self.memory.budget.release(BytesOf::Other, noted.how.len() as u64);
        }
        self.peers.grants.rejoin(attempt, key);
        let (session, n, placement) = (task.session, task.n, task.placement);
        self.schedule.placements.count_waiting(placement, false);
        self.hold_attempt(Assignment::new(key, (session, n), engine, false), attempt);
        self.set_deadline(now, key);
        true
    }

    /// An engine has an attempt that is noted for it only now.
    pub(in crate::core) fn hold_attempt(&mut self, given: Assignment, attempt: AttemptId) {
        self.attempts.insert(attempt, given);
        let held = self.engines.update(given.engine, |engine| {
            // It may be older than others that the engine has: not at the end.
            let at = engine.work.assigned.partition_point(|other| *other < attempt);
            engine.work.assigned.insert(at, attempt);
            engine.work.assigned_direct += u32::from(given.direct);
        });
        assert!(held.is_some(), "attempt {attempt} is with an engine that is not there");
    }

    /// The process does not hold an attempt that it was given.
    fn come_to_nothing(&mut self, now: Time, id: AttemptId, held: &Reconciling) {
        let attempt = Some(self.attempt(id));
        // It has been given back, or has ended, since an earlier part looked at what was given.
        let Some(given) = self.take_back(id) else { return };
        // Its task was ended while the engine was away: now it has stopped, too.
        let Some(task) = self.tasks.get(given.task) else { return };
        let never_came = attempt > held.received;
        // What it was given later than the last result that it has dropped, and neither runs nor
        // has ended there, it gave back, or its arguments were on the way.
        let never_ran =
            attempt > held.dropped && !matches!(task.state, State::Assigned { started: true, .. });
        let may_wait = task.queue == Queue::Shared || never_came || !task.needs_namespace();
        if never_ran && given.is_wanted_back {
            self.end(now, given.task, cancelled_before_it_began());
        } else if never_ran && may_wait && !matches!(task.payload, Stored::Sent(_)) {
            self.requeue(now, given.task);
        } else {
            let how = "its connection was cut while the task or its result was on the way";
            self.retry_or_lose(now, given.task, id, how);
        }
    }

    fn send_decisions(&mut self, connection: ConnectionId, decisions: Decisions) {
        let adopt = |attempts| ToEngine::Adopt(Adopt { attempts });
        self.to_engine_in_parts(connection, &decisions.adopted, adopt);
        for (attempts, force) in decisions.to_stop.iter().zip([false, true]) {
            let cancel = |attempts| ToEngine::Cancel(CancelAttempts { attempts, force });
            self.to_engine_in_parts(connection, attempts, cancel);
        }
        for (start, counts) in decisions.released {
            for counts in counts.chunks(LISTED_MAX) {
                self.send_release(connection, Release::of(start, counts.to_vec()));
            }
        }
    }
}
