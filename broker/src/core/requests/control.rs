//! Client requests about tasks of other sessions and about engines: cancel, purge, signals,
//! restarts, shutdown.

use std::collections::{BTreeMap, BTreeSet};

use furlong_wire::ids::{Attempt, EngineId, OwnerId, TaskSeq};
use furlong_wire::limits::SUBMIT_TARGETS_MAX;
use furlong_wire::message::{Reply, ReplyBody, Restart, Signal, SignalAttempts, Slots, ToEngine};
use furlong_wire::token::Role;

use crate::core::keys::{AttemptId, ProcessKey, SessionKey, TaskKey};
use crate::core::schedule::sweep::Reason;
use crate::core::tasks::table::{State, Task};
use crate::core::turns::shares::Shares;
use crate::core::turns::work::count;
use crate::core::{ConnectionId, Core, Time};

/// Engines for whose new interpreters requests wait, all requests together: shared by owners.
const RESTARTS_WAITING_MAX: usize = 65_536;
/// The signals that there are.
const SIGNALS: std::ops::RangeInclusive<i32> = 1..=64;

/// Requests for new interpreters that are not answered yet.
#[derive(Debug, Default)]
pub struct Restarting {
    /// Each under its number.
    requests: BTreeMap<u64, Request>,
    /// The engines, each with the requests that wait for it.
    waiting: BTreeSet<(EngineId, u64)>,
    made: u64,
    /// Places in it.
    places: Shares<RESTARTS_WAITING_MAX>,
}

/// A request for new interpreters.
#[derive(Debug)]
struct Request {
    owner: OwnerId,
    /// Who is answered, and under which number.
    asker: (ConnectionId, u64),
    /// The engines for which it still waits.
    engines: usize,
}

impl Restarting {
    /// Returns true if nobody waits, for the tests.
    #[cfg(any(test, feature = "invariants"))]
    pub fn is_empty(&self) -> bool {
        self.requests.is_empty() && self.waiting.is_empty() && self.places.are_free()
    }

    fn begin(&mut self, owner: OwnerId, asker: (ConnectionId, u64), ids: &BTreeSet<EngineId>) {
        self.made += 1;
        self.requests.insert(self.made, Request { owner, asker, engines: ids.len() });
        self.waiting.extend(ids.iter().map(|id| (*id, self.made)));
    }

    /// An engine has a new interpreter, or none any longer. Gives the requests that have waited for
    /// just that.
    fn end(&mut self, id: EngineId) -> Vec<(ConnectionId, u64)> {
        let served: Vec<_> = self.waiting.extract_if((id, 0)..=(id, u64::MAX), |_| true).collect();
        let mut done = Vec::new();
        for (_, number) in served {
            count(1);
            let request = self.requests.get_mut(&number);
            let request = request.expect("a request stays while an engine is waited for");
            assert!(request.engines > 0, "a request waits for more engines than it named");
            request.engines -= 1;
            self.places.give_back(request.owner, 1);
            if request.engines == 0 {
                done.push(request.asker);
                self.requests.remove(&number);
            }
        }
        done
    }
}

impl Core {
    /// Ends those of some tasks that have not begun. What an engine has is asked back: whether it
    /// has begun, the engine alone knows. Gives how many those are.
    pub(in crate::core) fn take_tasks_back(
        &mut self,
        now: Time,
        mut unfinished: Vec<TaskKey>,
    ) -> u64 {
        unfinished.retain(|task| self.tasks.get(*task).is_some_and(|task| !task.is_reported()));
        let cancelled = unfinished.len() as u64;
        let mut assigned: BTreeMap<EngineId, Vec<AttemptId>> = BTreeMap::new();
        for task in unfinished {
            match self.tasks.get(task).map(|task| task.state) {
                Some(State::Assigned { engine, attempt, .. })
                    if !self.is_withheld(engine, attempt) =>
                {
                    assigned.entry(engine).or_default().push(attempt);
                }
                // What is withheld has not gone out: it can be ended here, and is not asked back.
                _ => self.cancel_task(now, task, false),
            }
        }
        for (engine, attempts) in assigned {
            for count in &attempts {
                let given = self.attempts.get_mut(*count).expect("what an engine has is given");
                given.is_wanted_back = true;
            }
            // Of an engine that is away this is noted: it ends when the engine is back without it.
            self.recall(engine, attempts);
        }
        cancelled
    }

    /// Returns true if an engine will be sent an attempt that is assigned to it only when the
    /// journal has it.
    fn is_withheld(&self, engine: EngineId, attempt: AttemptId) -> bool {
        self.engines.get(engine).is_some_and(|engine| engine.work.withheld.contains(&attempt))
    }

    /// Forgets what is kept of some tasks of a session, and does not keep those whose end its
    /// client has not acknowledged. Gives how many those are.
    pub(in crate::core) fn purge_range(
        &mut self,
        key: SessionKey,
        first: TaskSeq,
        last: TaskSeq,
    ) -> usize {
        let session = self.sessions.get_mut(key);
        let kept_later = session.map_or(0, |session| session.keep_no_longer(first, last));
        let kept: Vec<TaskSeq> =
            self.kept.tasks_from(key, first).map(|(n, _)| n).take_while(|n| *n <= last).collect();
        let purged = kept.len();
        for n in kept {
            self.purge_kept(key, n);
        }
        kept_later + purged
    }

    /// Those who wait for an end that is on its way to the journal hear of it first.
    fn purge_kept(&mut self, session: SessionKey, n: TaskSeq) {
        match self.kept.get_mut(session, n) {
            Some(done) if done.is_unwritten => done.is_purged = true,
            _ => _ = self.forget_kept(session, n),
        }
    }

    /// Sends a signal to what the owner's tasks run on engines.
    pub(in crate::core) fn signal(&mut self, key: SessionKey, signal: Signal) -> ReplyBody {
        let Signal { engines, signal, .. } = signal;
        if !SIGNALS.contains(&signal) {
            return ReplyBody::Refused(format!("there is no signal {signal}; they are 1 to 64"));
        }
        let engines = match self.named(key, &engines) {
            Ok(engines) => engines,
            Err(refused) => return refused,
        };
        for id in engines {
            let engine = self.engines.get(id).expect("engines that are named are there");
            self.turns.work.add(engine.work.assigned.len() + 1);
            let own = |count: &&AttemptId| {
                let task = self.attempts.get(**count).and_then(|given| self.tasks.get(given.task));
                task.is_some_and(|task| self.may_touch(key, task))
            };
            let attempts: Vec<Attempt> =
                engine.work.assigned.iter().filter(own).map(|count| self.attempt(*count)).collect();
            let process = engine.process.and_then(|key| self.processes.get(&key));
            if let Some(connection) = process.map(|process| process.connection) {
                let signal = |attempts| ToEngine::Signal(SignalAttempts { attempts, signal });
                self.to_engine_in_parts(connection, &attempts, signal);
            }
        }
        ReplyBody::Done
    }

    /// Gives engines new interpreters. The answer comes when the old ones are gone.
    pub(in crate::core) fn restart(
        &mut self,
        now: Time,
        key: SessionKey,
        connection: ConnectionId,
        restart: Restart,
    ) -> Option<ReplyBody> {
        let engines = match self.named(key, &restart.engines) {
            Ok(engines) => engines,
            Err(refused) => return Some(refused),
        };
        let foreign = engines.iter().find(|id| self.serves_others(key, **id));
        if let Some(id) = foreign {
            let text = format!(
                "engine {id} has tasks of another owner; an `admin` capability may restart it"
            );
            return Some(ReplyBody::Refused(text));
        }
        let away = engines
            .iter()
            .find(|id| self.engines.get(**id).is_none_or(|engine| engine.process.is_none()));
        if let Some(id) = away {
            return Some(ReplyBody::Refused(format!(
                "engine {id} is not connected now; try again when it is back"
            )));
        }
        if engines.is_empty() {
            return Some(ReplyBody::Done);
        }
        let owner = self.sessions.get(key).expect("who asks is here").owner();
        if !self.peers.restarting.places.take(owner, engines.len()) {
            return Some(ReplyBody::Refused(
                "too many restarts wait for their engines; wait for those".to_owned(),
            ));
        }
        self.peers.restarting.begin(owner, (connection, restart.request), &engines);
        for id in engines {
            let how = "its interpreter was restarted on request".to_owned();
            self.sweep(now, id, None, Reason::NamespaceLost(how, None));
            // A restart that is under way serves this request too.
            if self.engines.update(id, |engine| std::mem::replace(&mut engine.restarting, true))
                == Some(false)
            {
                self.tell_slot(id, |slots| ToEngine::Restart(Slots { slots }));
            }
        }
        None
    }

    /// An engine's interpreter is gone, or the engine itself: answers those who have asked for
    /// that.
    pub(in crate::core) fn note_restarted(&mut self, id: EngineId) {
        for (connection, request) in self.peers.restarting.end(id) {
            self.answer_later(connection, Reply { request, body: ReplyBody::Done });
        }
    }

    /// A process takes nothing new.
    pub(in crate::core) fn stop_giving(&mut self, key: ProcessKey) {
        let process = self.processes.get_mut(&key).expect("a process that leaves is here");
        process.leaving = true;
        if let Some(class) = process.class.take() {
            self.schedule.placements.leave_class(class);
        }
        for id in process.engines.clone() {
            // One that was stopped alone is gone, or is being lost.
            if self.is_slot_of(id, key) {
                self.forget_set_aside(id);
                self.engines.update(id, |engine| engine.class = None);
            }
        }
    }

    pub(in crate::core) fn tell_slot(
        &mut self,
        id: EngineId,
        message: impl FnOnce(Vec<u32>) -> ToEngine,
    ) {
        let engine =
            self.engines.get(id).expect("an engine that is told something is in the table");
        let slot = engine.slot;
        if let Some(process) = engine.process.and_then(|key| self.processes.get(&key)) {
            self.to_engine(process.connection, message(vec![slot]));
        }
    }

    /// The engines that a request names, each once; or why it is refused.
    fn named(
        &self,
        key: SessionKey,
        engines: &[EngineId],
    ) -> Result<BTreeSet<EngineId>, ReplyBody> {
        if engines.len() > SUBMIT_TARGETS_MAX {
            return Err(too_many_engines());
        }
        let engines: BTreeSet<EngineId> = engines.iter().copied().collect();
        self.beyond(key, &engines).map_or(Ok(engines), Err)
    }

    /// Returns the reason that a session may do nothing to engines, if so: they are not there, or
    /// out of its scope.
    pub(in crate::core) fn beyond(
        &self,
        key: SessionKey,
        engines: &BTreeSet<EngineId>,
    ) -> Option<ReplyBody> {
        let session = self.sessions.get(key).expect("a session that asks is here");
        let scopes = &session.claims.scopes;
        for id in engines {
            self.turns.work.add(1);
            let Some(engine) = self.engines.get(*id) else {
                return Some(ReplyBody::Refused(format!(
                    "there is no engine {id}; `furlong ids` shows who is there"
                )));
            };
            // An engine that takes nothing at present shows no labels: it is out of any scope.
            let class = engine.class.and_then(|class| self.schedule.placements.class(class));
            let in_scope = |class: &crate::core::schedule::placement::Class| {
                scopes.iter().any(|scope| class.labels.contains(scope))
            };
            if !scopes.is_empty() && !class.is_some_and(in_scope) {
                let text = format!(
                    "the capability is for engines with one of the labels {}: not engine {id}",
                    scopes.join(", ")
                );
                return Some(ReplyBody::Refused(text));
            }
        }
        None
    }

    /// Returns true if an engine has tasks of other owners, which a session that is not an admin's
    /// may not disturb.
    fn serves_others(&self, key: SessionKey, id: EngineId) -> bool {
        let engine = self.engines.get(id).expect("engines that are named are there");
        let given = engine
            .work
            .assigned
            .iter()
            .filter_map(|count| self.attempts.get(*count))
            .map(|given| given.task);
        let foreign = |task: TaskKey| {
            self.turns.work.add(1);
            self.tasks.get(task).is_some_and(|task| !self.may_touch(key, task))
        };
        // Of the tasks that wait, one for each session: it is theirs, or another owner's.
        given.chain(engine.queue.one_of_each_session(&self.tasks)).any(foreign)
    }

    fn may_touch(&self, key: SessionKey, task: &Task) -> bool {
        let claims = |key| self.sessions.get(key).map(|session| &session.claims);
        let own = claims(key).expect("a session that asks is here");
        let of_task = claims(task.session).expect("a session outlives its tasks");
        own.role == Role::Admin || own.owner == of_task.owner
    }

    pub(in crate::core) fn owner(&self, key: SessionKey) -> Option<OwnerId> {
        self.sessions.get(key).map(crate::core::sessions::table::Session::owner)
    }
}

pub(in crate::core) fn too_many_engines() -> ReplyBody {
    ReplyBody::Refused(format!(
        "a request names at most {SUBMIT_TARGETS_MAX} engines; ask in parts"
    ))
}
