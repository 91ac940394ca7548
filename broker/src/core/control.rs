//! What clients ask about tasks of other sessions, and about engines: cancel, purge, signals, restarts, shutdown.

use std::collections::{BTreeMap, BTreeSet};

use furlong_wire::ids::{Attempt, EngineId, OwnerId};
use furlong_wire::message::{
    CancelAttempts, CancelTasks, EngineShutdown, ErrorKind, Purge, Reply, ReplyBody, Restart, Shutdown, Signal,
    SignalAttempts, Slots, TakeBack, TaskRange, TaskState, ToEngine,
};
use furlong_wire::token::Role;

use super::finish::Ended;
use super::sessions::{Session, SessionKey};
use super::tasks::{State, Task, TaskKey};
use super::{ConnectionId, Core, Output, ProcessKey, Stopping, Time};

/// Restarts that wait for their engines.
const RESTARTS_WAITING_MAX: usize = 4096;
/// Ranges of tasks in one request.
const RANGES_MAX: usize = 4096;
/// The signals that there are.
const SIGNALS: std::ops::RangeInclusive<i32> = 1..=64;

/// A request for new interpreters that is not answered yet.
#[derive(Debug)]
pub struct Restarting {
    connection: ConnectionId,
    request: u64,
    engines: BTreeSet<EngineId>,
}

impl Core {
    /// Cancels tasks of any session of the same owner.
    pub(super) fn cancel_tasks(&mut self, now: Time, key: SessionKey, cancel: &CancelTasks) -> ReplyBody {
        if let Some(refused) = too_many(&cancel.tasks) {
            return refused;
        }
        for range in cancel.tasks.iter().filter(|_| cancel.force) {
            let session = self.session_of(key, range).map(|(session, _)| session);
            session.into_iter().for_each(|session| self.force_stopping(now, session, range.first, range.last));
        }
        let (unfinished, ended) = self.unfinished_of(key, &cancel.tasks);
        let cancelled = unfinished.len() as u64;
        unfinished.into_iter().for_each(|task| self.cancel_task(now, task, cancel.force));
        ReplyBody::Cancelled(cancelled, ended)
    }

    /// Ends what has not begun, of any session of the same owner. What an engine has is asked back: whether it has
    /// begun, the engine alone knows.
    pub(super) fn take_tasks_back(&mut self, now: Time, key: SessionKey, take: &TakeBack) -> ReplyBody {
        if let Some(refused) = too_many(&take.tasks) {
            return refused;
        }
        let (mut unfinished, ended) = self.unfinished_of(key, &take.tasks);
        unfinished.retain(|task| self.tasks.get(*task).is_some_and(|task| !task.is_reported()));
        let cancelled = unfinished.len() as u64;
        let mut assigned: BTreeMap<EngineId, Vec<u64>> = BTreeMap::new();
        for task in unfinished {
            match self.tasks.get(task).map(|task| task.state) {
                Some(State::Assigned { engine, attempt, .. }) if !self.is_withheld(engine, attempt) => {
                    assigned.entry(engine).or_default().push(attempt);
                }
                _ => self.cancel_task(now, task, false),
            }
        }
        for (engine, attempts) in assigned {
            for count in &attempts {
                self.attempts.get_mut(*count).into_iter().for_each(|given| given.is_wanted_back = true);
            }
            self.recall(engine, attempts);
        }
        ReplyBody::Cancelled(cancelled, ended)
    }

    /// Whether an engine will be sent an attempt that it has in hand only when the journal has it.
    fn is_withheld(&self, engine: EngineId, attempt: u64) -> bool {
        self.engines.get(engine).is_some_and(|engine| engine.withheld.contains(&attempt))
    }

    /// The unfinished ones of some tasks of the same owner, and how many of them are known to have ended.
    fn unfinished_of(&self, key: SessionKey, tasks: &[TaskRange]) -> (BTreeSet<TaskKey>, u64) {
        let (mut unfinished, mut ended) = (BTreeSet::new(), 0);
        for range in tasks {
            let session = self.session_of(key, range).and_then(|(session, _)| self.sessions.get(session));
            let Some(session) = session else { continue };
            unfinished.extend(session.tasks.range(range.first, range.last).map(|(_, task)| *task));
            ended += session.endings.range(range.first, range.last).count() as u64;
        }
        (unfinished, ended)
    }

    /// Forgets kept results of any session of the same owner.
    pub(super) fn purge(&mut self, key: SessionKey, purge: &Purge) -> ReplyBody {
        if let Some(refused) = too_many(&purge.tasks) {
            return refused;
        }
        let Some(owner) = self.owner(key) else { return ReplyBody::Done };
        for range in &purge.tasks {
            self.keep_no_longer(owner, range);
            let of_range = |(_, id): &(SessionKey, _)| *id == range.session;
            let Some((session, _)) = self.kept.sessions(owner).find(of_range) else { continue };
            let tasks = self.kept.tasks_from(session, range.first).take_while(|(n, _)| *n <= range.last);
            let numbers: Vec<u64> = tasks.map(|(n, _)| n).collect();
            numbers.into_iter().for_each(|n| self.purge_kept(session, n));
        }
        ReplyBody::Done
    }

    /// Those who wait for an end that is on its way to the journal hear of it first.
    fn purge_kept(&mut self, session: SessionKey, n: u64) {
        match self.kept.get_mut(session, n) {
            Some(done) if done.is_unwritten => done.is_purged = true,
            _ => _ = self.forget_kept(session, n),
        }
    }

    /// Tasks that have ended and whose session has not said that it knows are not kept when it does.
    fn keep_no_longer(&mut self, owner: OwnerId, range: &TaskRange) {
        let session = self.sessions.find(owner, range.session).and_then(|key| self.sessions.get_mut(key));
        let Some(session) = session else { return };
        let ended = session.done.range(range.first, range.last).filter(|(_, done)| done.what.keep());
        let ended: Vec<u64> = ended.map(|(n, _)| n).collect();
        for n in ended {
            session.done.get_mut(n).into_iter().for_each(|done| done.what.keep_no_longer());
        }
    }

    /// Sends a signal to what the owner's tasks run on engines.
    pub(super) fn signal(&mut self, key: SessionKey, signal: &Signal) -> ReplyBody {
        if !SIGNALS.contains(&signal.signal) {
            return ReplyBody::Refused(format!("there is no signal {}; they are 1 to 64", signal.signal));
        }
        if let Some(refused) = self.beyond(key, &signal.engines) {
            return refused;
        }
        for id in &signal.engines {
            let Some(engine) = self.engines.get(*id) else { continue };
            let own = |count: &&u64| {
                let task = self.attempts.get(**count).and_then(|given| self.tasks.get(given.task));
                task.is_some_and(|task| self.may_touch(key, task))
            };
            let attempts: Vec<Attempt> = engine.assigned.iter().filter(own).map(|count| self.attempt(*count)).collect();
            let process = engine.process.and_then(|key| self.processes.get(&key));
            if let Some(connection) = process.filter(|_| !attempts.is_empty()).map(|process| process.connection) {
                let message = SignalAttempts { attempts, signal: signal.signal };
                self.to_engine(connection, ToEngine::Signal(message));
            }
        }
        ReplyBody::Done
    }

    /// Gives engines new interpreters. The answer comes when the old ones are gone.
    pub(super) fn restart(
        &mut self,
        now: Time,
        key: SessionKey,
        connection: ConnectionId,
        restart: &Restart,
    ) -> Option<ReplyBody> {
        if let Some(refused) = self.beyond(key, &restart.engines) {
            return Some(refused);
        }
        if self.restarting.len() >= RESTARTS_WAITING_MAX {
            return Some(ReplyBody::Refused("too many restarts wait for their engines; wait for those".to_owned()));
        }
        let foreign = restart.engines.iter().find(|id| self.serves_others(key, **id));
        if let Some(id) = foreign {
            let text = format!("engine {id} has tasks of another owner; an `admin` capability may restart it");
            return Some(ReplyBody::Refused(text));
        }
        let away =
            restart.engines.iter().find(|id| self.engines.get(**id).is_none_or(|engine| engine.process.is_none()));
        if let Some(id) = away {
            return Some(ReplyBody::Refused(format!("engine {id} is not connected now; try again when it is back")));
        }
        let engines: BTreeSet<EngineId> = restart.engines.iter().copied().collect();
        if engines.is_empty() {
            return Some(ReplyBody::Done);
        }
        for id in &engines {
            self.lose_namespace(now, *id, "its interpreter was restarted on request", None);
            // A restart that is under way serves this request too.
            if self.engines.update(*id, |engine| std::mem::replace(&mut engine.restarting, true)) == Some(false) {
                self.tell_slot(*id, |slots| ToEngine::Restart(Slots { slots }));
            }
        }
        self.restarting.push(Restarting { connection, request: restart.request, engines });
        None
    }

    /// An engine's interpreter is gone, or the engine itself: answers those who have asked for that.
    pub(super) fn note_restarted(&mut self, id: EngineId) {
        let waits = |it: &mut Restarting| {
            it.engines.remove(&id);
            it.engines.is_empty()
        };
        let done: Vec<Restarting> = self.restarting.extract_if(.., waits).collect();
        for Restarting { connection, request, .. } in done {
            self.answer_later(connection, Reply { request, body: ReplyBody::Done });
        }
    }

    /// What waits for an engine and may need its namespace is lost with that: all but what the owner who has forced a
    /// cancel there has submitted after that, which is meant for the next one.
    pub(super) fn lose_namespace(&mut self, now: Time, id: EngineId, how: &str, forced: Option<Stopping>) {
        let Some(engine) = self.engines.get(id) else { return };
        let is_spared = |task: &Task| {
            let owner = self.sessions.get(task.session).map(Session::owner);
            forced.is_some_and(|forced| task.submitted > forced.since && owner.is_some() && owner == forced.owner)
        };
        let needs = |task: &Task| task.needs_namespace() && !is_spared(task);
        let needs = |key: &TaskKey| self.tasks.get(*key).is_some_and(needs);
        let lost: Vec<TaskKey> = engine.queue.iter().filter(needs).collect();
        for key in lost {
            self.end(now, key, namespace_lost(id, how));
        }
    }

    /// Stops engines, and the broker if that was asked for.
    pub(super) fn shutdown(&mut self, now: Time, shutdown: &Shutdown) -> ReplyBody {
        let engines: BTreeSet<EngineId> = match &shutdown.engines {
            Some(engines) => engines.iter().copied().collect(),
            None => self.engines.iter().map(|(id, _)| id).collect(),
        };
        if let Some(id) = engines.iter().find(|id| self.engines.get(**id).is_none()) {
            return ReplyBody::Refused(format!("there is no engine {id}; `furlong ids` shows who is there"));
        }
        let reason = "stopped on request".to_owned();
        let whole: Vec<ProcessKey> = self
            .processes
            .iter()
            .filter(|(_, process)| {
                process.register.is_some()
                    && process.engines.iter().all(|id| engines.contains(id) || self.engines.get(*id).is_none())
            })
            .map(|(key, _)| *key)
            .collect();
        for key in whole {
            self.stop_giving(key);
            let Some(process) = self.processes.get(&key) else { continue };
            let message = EngineShutdown { reason: reason.clone(), finish: shutdown.finish };
            self.to_engine(process.connection, ToEngine::Shutdown(message));
        }
        // Some engines of a process: their slots stay there, and are given nothing any longer.
        for id in engines {
            let process =
                self.engines.get(id).and_then(|engine| engine.process).and_then(|key| self.processes.get(&key));
            if process.is_some_and(|process| process.leaving) {
                continue;
            }
            let process = process.map(|process| process.connection);
            self.tell_slot(id, |slots| ToEngine::Restart(Slots { slots }));
            self.requeue_withheld(now, id);
            // What needs no interpreter is not ended by that.
            let given = self.engines.get(id).map_or_else(Vec::new, |engine| engine.assigned.iter().copied().collect());
            let attempts: Vec<Attempt> = given.into_iter().map(|count| self.attempt(count)).collect();
            if let Some(process) = process.filter(|_| !attempts.is_empty()) {
                self.to_engine(process, ToEngine::Cancel(CancelAttempts { attempts, force: true }));
            }
            self.release_orphans(id);
            self.forget_set_aside(id);
            let engine = self.engines.remove_for_ever(id);
            self.lose_engine(now, id, engine, "the engine was stopped on request");
            self.tell_subscribers(furlong_wire::message::Event::EngineOffline(id));
        }
        if shutdown.broker {
            self.outputs.push_back(Output::Stop(reason));
        }
        ReplyBody::Done
    }

    /// A process takes nothing new.
    pub(super) fn stop_giving(&mut self, key: ProcessKey) {
        let Some(process) = self.processes.get_mut(&key) else { return };
        process.leaving = true;
        if let Some(class) = process.class.take() {
            self.placements.leave_class(class);
        }
        for id in process.engines.clone() {
            if self.engines.get(id).is_some_and(|engine| engine.process == Some(key)) {
                self.forget_set_aside(id);
            }
            self.engines.update(id, |engine| {
                if engine.process == Some(key) {
                    engine.class = None;
                }
            });
        }
    }

    fn tell_slot(&mut self, id: EngineId, message: impl FnOnce(Vec<u32>) -> ToEngine) {
        let Some(engine) = self.engines.get(id) else { return };
        let slot = engine.slot;
        if let Some(process) = engine.process.and_then(|key| self.processes.get(&key)) {
            self.to_engine(process.connection, message(vec![slot]));
        }
    }

    /// Why a session may do nothing to engines, if so: they are not there, or out of its scope.
    fn beyond(&self, key: SessionKey, engines: &[EngineId]) -> Option<ReplyBody> {
        let scopes = &self.sessions.get(key)?.claims.scopes;
        for id in engines {
            let Some(engine) = self.engines.get(*id) else {
                return Some(ReplyBody::Refused(format!("there is no engine {id}; `furlong ids` shows who is there")));
            };
            let class = engine.class.and_then(|class| self.placements.class(class));
            let in_scope = |class: &super::placement::Class| scopes.iter().any(|scope| class.labels.contains(scope));
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

    /// Whether an engine has tasks of other owners, which a session that is not an admin's may not disturb.
    fn serves_others(&self, key: SessionKey, id: EngineId) -> bool {
        let Some(engine) = self.engines.get(id) else { return false };
        let given = engine.assigned.iter().filter_map(|count| self.attempts.get(*count)).map(|given| given.task);
        let foreign = |task: TaskKey| self.tasks.get(task).is_some_and(|task| !self.may_touch(key, task));
        given.chain(engine.queue.iter()).any(foreign)
    }

    fn may_touch(&self, key: SessionKey, task: &Task) -> bool {
        let claims = |key| self.sessions.get(key).map(|session| &session.claims);
        let (Some(own), Some(of_task)) = (claims(key), claims(task.session)) else { return false };
        own.role == Role::Admin || own.owner == of_task.owner
    }

    pub(super) fn owner(&self, key: SessionKey) -> Option<OwnerId> {
        self.sessions.get(key).map(super::sessions::Session::owner)
    }

    fn session_of(&self, key: SessionKey, range: &TaskRange) -> Option<(SessionKey, OwnerId)> {
        let owner = self.owner(key)?;
        Some((self.sessions.find(owner, range.session)?, owner))
    }
}

/// The end of a task that needed a namespace which is gone.
pub(super) fn namespace_lost(id: EngineId, how: &str) -> Ended {
    let text = format!(
        "the namespace of engine {id} was lost before the task began ({how}); set it up again, or mark tasks that do \
         not need it as restart-safe"
    );
    Ended { engine: Some(id), ..Ended::by_broker(TaskState::Lost, ErrorKind::EngineLost, text) }
}

fn too_many(ranges: &[TaskRange]) -> Option<ReplyBody> {
    let text = format!("a request names at most {RANGES_MAX} ranges of tasks; ask in parts");
    (ranges.len() > RANGES_MAX).then_some(ReplyBody::Refused(text))
}
