//! An engine process comes back: what it holds is compared with what it was given.
//!
//! Attempts that both sides know continue, and results in flight are requested again. Unwanted work
//! is ended or released. What the process was given and does not hold has come to nothing: if it
//! cannot have run, it is given again, whatever it is; else it is a loss.

use std::collections::{BTreeMap, BTreeSet};

use furlong_wire::ids::{Attempt, BrokerStart, EngineId};
use furlong_wire::limits::LISTED_MAX;
use furlong_wire::message::{Adopt, CancelAttempts, HeldWork, Register, Release, ToEngine};

use super::engines::ProcessKey;
use super::finish::cancelled_before_it_began;
use super::payloads::{BytesOf, Stored};
use super::sessions::SessionKey;
use super::tasks::{Place, State, TaskKey};
use super::{Assignment, ConnectionId, Core, Time};

/// A shared task that was taken from an engine whose connection was cut.
#[derive(Clone, Copy, Debug)]
pub struct Moved {
    /// As which attempt the engine had it.
    pub count: u64,
    /// The task.
    pub task: TaskKey,
    /// The number of attempts made at it by then.
    pub attempts: u32,
    /// True if the engine had reported that it runs.
    pub started: bool,
}

/// The part of a registration that is about work.
#[derive(Debug)]
pub(super) struct Held {
    work: Vec<HeldWork>,
    received: Option<Attempt>,
    dropped: Option<Attempt>,
}

/// The decisions on the attempts that a process holds.
#[derive(Debug, Default)]
pub(super) struct Decisions {
    /// The attempts of this start that it holds, or will when it has read its messages.
    pub here: BTreeSet<Attempt>,
    pub adopted: Vec<(Attempt, Attempt)>,
    /// Without force, and with it.
    to_stop: [Vec<Attempt>; 2],
    released: BTreeMap<BrokerStart, Vec<u64>>,
}

/// The engine whose slot has a piece of work, or whose stand-in.
pub(super) fn engine_that_has(ids: &[EngineId], held: &HeldWork) -> Option<EngineId> {
    ids.get(held.slot as usize % ids.len().max(1)).copied()
}

impl Held {
    /// Takes it out of a registration, which is kept without it. Ascending, as the process was
    /// given it.
    pub fn take(register: &mut Register) -> Self {
        let mut work = std::mem::take(&mut register.held);
        work.sort_unstable_by_key(|held| held.attempt);
        Self { work, received: register.received, dropped: register.dropped }
    }
}

impl Decisions {
    /// Nobody wants it.
    pub fn end(&mut self, attempt: Attempt, finished: bool) {
        if finished {
            self.released.entry(attempt.start).or_default().push(attempt.count);
        } else {
            self.to_stop[0].push(attempt);
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
    /// Compares what a process holds with what its engines were given.
    pub(super) fn reconcile(&mut self, now: Time, key: ProcessKey, ids: &[EngineId], held: &Held) {
        let Some(connection) = self.processes.get(&key).map(|process| process.connection) else {
            return;
        };
        let mut moved = BTreeMap::new();
        for id in ids {
            let of_engine = self
                .engines
                .update(*id, |engine| std::mem::take(&mut engine.moved))
                .unwrap_or_default();
            moved.extend(of_engine.into_iter().map(|it| (it.count, (*id, it))));
        }
        // The last one of each first: it goes to the front of its queue.
        let engines = ids.iter().filter_map(|id| self.engines.get(*id));
        let given: Vec<u64> =
            engines.flat_map(|engine| engine.assigned.iter().rev().copied()).collect();
        let here = held.work.iter().map(|work| work.attempt).collect();
        let mut decisions = Decisions { here, ..Decisions::default() };
        for work in &held.work {
            if work.attempt.start == self.config.start {
                self.judge(
                    now,
                    (key, ids),
                    work,
                    moved.remove(&work.attempt.count),
                    &mut decisions,
                );
            } else {
                self.judge_orphan(now, key, ids, work, &mut decisions);
            }
        }
        let here = std::mem::take(&mut decisions.here);
        self.send_decisions(connection, decisions);
        for count in given
            .into_iter()
            .filter(|count| !here.contains(&self.attempt(*count)))
            .collect::<Vec<_>>()
        {
            self.come_to_nothing(now, count, held);
        }
        self.note_reconciled(now, ids, held.dropped);
    }

    fn judge(
        &mut self,
        now: Time,
        (key, ids): (ProcessKey, &[EngineId]),
        held: &HeldWork,
        moved: Option<(EngineId, Moved)>,
        decisions: &mut Decisions,
    ) {
        let count = held.attempt.count;
        let is_here = |given: &Assignment| {
            self.engines.get(given.engine).and_then(|engine| engine.process) == Some(key)
        };
        let given = self.attempts.get(count).copied().filter(is_here);
        let wanted = match given {
            Some(given) => given.stopping.is_none() && self.tasks.get(given.task).is_some(),
            None => moved.is_some_and(|(engine, moved)| self.rejoin(now, engine, moved)),
        };
        match (wanted, held.finished) {
            (true, true) => decisions.adopted.push((held.attempt, held.attempt)),
            (true, false) => {}
            (false, true) => {
                // Of a task that was ended while its engine was away.
                if given.is_some() {
                    self.take_back(count);
                }
                match self.session_that_had(held) {
                    Some(session) => self.hold_or_release(key, session, held.n, count),
                    None => decisions.end(held.attempt, true),
                }
            }
            (false, false) => {
                let force =
                    given.and_then(|given| given.stopping).is_some_and(|stopping| stopping.force);
                decisions.to_stop[usize::from(force)].push(held.attempt);
                let is_of_the_past =
                    self.attempts.get(count).is_none() && count <= self.attempts_made;
                if let Some(engine) = engine_that_has(ids, held).filter(|_| is_of_the_past) {
                    // It keeps the engine busy until it has stopped, also if its task goes on
                    // elsewhere.
                    let session = self.session_that_had(held).unwrap_or(SessionKey::NOBODY);
                    let task = TaskKey::NOBODY;
                    let given = Assignment::new(task, (session, held.n), engine, true);
                    self.hold_attempt(given, count);
                }
            }
        }
    }

    /// The session whose client has not acknowledged the end of a task.
    pub(super) fn session_that_had(&self, held: &HeldWork) -> Option<SessionKey> {
        let mut sessions = self.sessions.with_id(held.session).into_iter();
        sessions.rfind(|key| {
            self.sessions.get(*key).is_some_and(|session| session.done.get(held.n).is_some())
        })
    }

    /// A task that was taken from an engine is still there: unless it went elsewhere meanwhile, the
    /// attempt goes on.
    fn rejoin(&mut self, now: Time, engine: EngineId, moved: Moved) -> bool {
        let Moved { count, task: key, attempts, started } = moved;
        let Some(task) = self.tasks.get_mut(key) else { return false };
        if task.state != State::Queued || task.place != Place::Shared || task.attempts != attempts {
            return false;
        }
        task.transition(State::Assigned { engine, attempt: count, started: false });
        if started {
            // It was no loss after all.
            task.transition(State::Assigned { engine, attempt: count, started });
            task.losses -= 1;
            let noted = task.more_mut().past.pop();
            self.budget
                .release(BytesOf::Other, noted.map_or(0, |attempt| attempt.how.len() as u64));
        }
        self.grants.rejoin(count, key);
        let (session, n, placement) = (task.session, task.n, task.placement);
        self.placements.count_waiting(placement, false);
        self.hold_attempt(Assignment::new(key, (session, n), engine, false), count);
        self.set_deadline(now, key);
        true
    }

    /// An engine has an attempt that is noted for it only now.
    pub(super) fn hold_attempt(&mut self, given: Assignment, count: u64) {
        self.attempts.insert(count, given);
        self.engines.update(given.engine, |engine| {
            let at = engine.assigned.partition_point(|other| *other < count);
            engine.assigned.insert(at, count);
            engine.assigned_direct += u32::from(given.direct);
        });
    }

    /// The process does not hold an attempt that it was given.
    fn come_to_nothing(&mut self, now: Time, count: u64, held: &Held) {
        let attempt = Some(self.attempt(count));
        let Some(given) = self.take_back(count) else { return };
        let Some(task) = self.tasks.get(given.task) else { return };
        let never_came = attempt > held.received;
        // What it was given later than the last result that it has dropped, and neither runs nor
        // has ended there, it gave back, or its arguments were on the way.
        let never_ran =
            attempt > held.dropped && !matches!(task.state, State::Assigned { started: true, .. });
        let may_wait = task.place == Place::Shared || never_came || !task.needs_namespace();
        if never_ran && given.is_wanted_back {
            self.end(now, given.task, cancelled_before_it_began());
        } else if never_ran && may_wait && !matches!(task.payload, Stored::Sent(_)) {
            self.requeue(now, given.task);
        } else {
            let how = "its connection was cut while the task or its result was on the way";
            self.retry_or_lose(now, given.task, count, how);
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
