//! Which task goes to which engine, and when.
//!
//! An engine's own queue goes before the shared one. A shared task goes to the engine with the least in hand. Engines
//! get more than one task only of kinds that were short lately; when an engine has nothing while another still has such
//! tasks in hand, it is asked to give some back.

use std::time::Duration;

use furlong_wire::ids::EngineId;
use furlong_wire::message::{Assign, Attempts, EngineDefine, ErrorKind, Secret, TaskState, ToEngine, Work};

use super::finish::Ended;
use super::sessions::Definition;
use super::tasks::{State, Task, TaskKey};
use super::{Core, Given, Output, Time};

/// How long an engine may keep short tasks in hand while another has nothing, before some are taken back.
const RECALL_AFTER: Duration = Duration::from_millis(2);
/// How many busy engines are looked at for work that an idle one could take over.
const BUSY_SCAN_MAX: usize = 8;
/// How many tasks of an engine's queue are looked at to find one whose payload has come.
const QUEUE_SCAN_MAX: usize = 64;

impl Core {
    /// Gives engines what they can take. Call it after each batch of messages.
    pub fn dispatch(&mut self, now: Time) {
        while let Some(id) = self.direct_ready.pop_first() {
            self.dispatch_direct(now, id);
        }
        if self.shared_len > 0 {
            for runtime in furlong_wire::message::Runtime::ALL {
                self.dispatch_shared(now, *runtime);
            }
        }
        self.recall_for_idle(now);
    }

    fn dispatch_direct(&mut self, now: Time, id: EngineId) {
        while let Some(key) = self.next_direct(id) {
            let Some(task) = self.tasks.get(key) else { continue };
            let runtime = task.runtime;
            let runs = self.engines.get(id).and_then(|engine| engine.process).and_then(|key| self.processes.get(&key));
            if runs.is_some_and(|process| process.runs(runtime)) {
                self.assign(now, key, id);
            } else {
                let text =
                    format!("engine {id} does not run {runtime} tasks; `furlong status` shows what each one runs");
                self.end(now, key, Ended::by_broker(TaskState::Failed, ErrorKind::Unsupported, text));
            }
        }
    }

    /// Takes the next task of an engine's own queue that it can be given now: the first of a session whose payload is
    /// here.
    fn next_direct(&mut self, id: EngineId) -> Option<TaskKey> {
        let engine = self.engines.get(id)?;
        // One that leaves gets nothing new: what waits for it ends with its connection.
        self.processes.get(&engine.process?).filter(|process| !process.leaving)?;
        let mut blocked = Vec::new();
        let mut found = None;
        for (place, &key) in engine.queue.iter().enumerate().take(QUEUE_SCAN_MAX) {
            match self.tasks.get(key) {
                None => {
                    found = Some(place);
                    break;
                }
                Some(task) if task.state == State::Receiving => blocked.push(task.session),
                Some(task) if blocked.contains(&task.session) => {}
                Some(task) => {
                    let limit = if task.aborts_followers() { 1 } else { self.prefetch(task) };
                    found = (engine.assigned_direct < limit).then_some(place);
                    break;
                }
            }
        }
        let place = found?;
        self.engines.update(id, |engine| engine.queue.remove(place)).flatten()
    }

    fn dispatch_shared(&mut self, now: Time, runtime: furlong_wire::message::Runtime) {
        loop {
            let tasks = &self.tasks;
            let queue = self.shared.entry(runtime).or_default();
            let counts = |key| tasks.get(key).is_some_and(|task| task.state == State::Queued);
            let Some(key) = queue.peek(counts) else { return };
            let Some(task) = self.tasks.get(key) else { return };
            let limit = self.prefetch(task);
            let mut candidates = self.engines.by_load(limit);
            let Some(engine) = candidates.find(|id| self.engine_runs(*id, runtime)) else { return };
            drop(candidates);
            self.shared.entry(runtime).or_default().pop();
            self.shared_len -= 1;
            self.assign(now, key, engine);
        }
    }

    fn engine_runs(&self, id: EngineId, runtime: furlong_wire::message::Runtime) -> bool {
        let process = self.engines.get(id).and_then(|engine| engine.process);
        process.and_then(|key| self.processes.get(&key)).is_some_and(|process| process.runs(runtime))
    }

    /// How many tasks of this one's kind an engine may have at once.
    fn prefetch(&self, task: &Task) -> u32 {
        if task.at_most_once() {
            return 1;
        }
        self.sessions.get(task.session).map_or(1, |session| session.kinds.prefetch(task.class))
    }

    fn assign(&mut self, now: Time, key: TaskKey, engine: EngineId) {
        self.attempts_made += 1;
        let count = self.attempts_made;
        let attempt = self.attempt(count);
        let Some(task) = self.tasks.get_mut(key) else { return };
        task.transition(State::Assigned { engine, attempt: count, started: false });
        task.attempts += 1;
        task.assigned = Some(now);
        let direct = task.target.is_some();
        self.attempts.insert(count, Given { task: key, engine, direct });
        let place = self.engines.update(engine, |engine| {
            engine.assigned.insert(count);
            engine.assigned_direct += u32::from(direct);
            (engine.process, engine.slot)
        });
        let Some((Some(process_key), slot)) = place else { return };
        self.tell_session(process_key, key);
        let (Some(task), Some(process)) = (self.tasks.get(key), self.processes.get_mut(&process_key)) else { return };
        let (payload, transfer) = task.payload.announce(|| {
            process.next_transfer += 1;
            process.next_transfer
        });
        let session = self.sessions.get(task.session).expect("a session outlives its tasks").id;
        let work = vec![Work { slot, n: task.n, attempt }];
        let connection = process.connection;
        let assign = Assign { work, session, runtime: task.runtime, define: task.define, share: None, payload };
        self.to_engine(connection, ToEngine::Assign(assign));
        if let Some((number, chunks)) = transfer {
            self.outputs.push_back(Output::Transfer(connection, number, chunks));
        }
    }

    /// Tells a process what it must know before a task: the session's secret, the definition.
    fn tell_session(&mut self, process_key: super::ProcessKey, task: TaskKey) {
        let (Some(task), Some(process)) = (self.tasks.get(task), self.processes.get_mut(&process_key)) else { return };
        let session = self.sessions.get(task.session).expect("a session outlives its tasks");
        let connection = process.connection;
        if process.sessions.insert(task.session)
            && let Some(secret) = session.secret.clone()
        {
            let message = ToEngine::Secret(Secret { session: session.id, secret });
            self.outputs.push_back(Output::ToEngine(connection, message));
        }
        let Some(number) = task.define else { return };
        let Some(Definition::Here(blob)) = session.definitions.get(&number) else { return };
        if process.definitions.insert((task.session, number)) {
            let (payload, transfer) = blob.announce(|| {
                process.next_transfer += 1;
                process.next_transfer
            });
            let message = ToEngine::Define(EngineDefine { session: session.id, number, payload });
            self.outputs.push_back(Output::ToEngine(connection, message));
            if let Some((number, chunks)) = transfer {
                self.outputs.push_back(Output::Transfer(connection, number, chunks));
            }
        }
    }

    /// An engine no longer has an attempt.
    pub(super) fn take_back(&mut self, count: u64) -> Option<Given> {
        let given = self.attempts.remove(&count)?;
        let waits = self.engines.update(given.engine, |engine| {
            engine.assigned.remove(&count);
            engine.recalled.remove(&count);
            engine.assigned_direct -= u32::from(given.direct);
            !engine.queue.is_empty()
        });
        if waits == Some(true) {
            self.direct_ready.insert(given.engine);
        }
        Some(given)
    }

    /// A task goes back to the front of its queue.
    pub(super) fn requeue(&mut self, key: TaskKey) {
        let Some(task) = self.tasks.get_mut(key) else { return };
        task.transition(State::Queued);
        let (priority, session, runtime) = (task.priority(), task.session, task.runtime);
        if let Some(target) = task.target {
            self.engines.update(target, |engine| engine.queue.push_front(key));
            self.direct_ready.insert(target);
        } else {
            self.shared_len += 1;
            self.shared.entry(runtime).or_default().push_front(priority, session, key);
        }
    }

    /// Asks the busiest engine for half of what it has in hand, if another has nothing and could run it.
    fn recall_for_idle(&mut self, now: Time) {
        self.recall_at = None;
        let Some(idle) = self.engines.by_load(1).next() else { return };
        let busy = self.engines.busiest().take(BUSY_SCAN_MAX).find_map(|id| Some((id, self.spare(id, idle)?)));
        let Some((id, (oldest, counts))) = busy else { return };
        if now < oldest.after(RECALL_AFTER) {
            self.recall_at = Some(oldest.after(RECALL_AFTER));
            return;
        }
        let process = self.engines.get(id).and_then(|engine| engine.process);
        let Some(connection) = process.and_then(|key| self.processes.get(&key)).map(|process| process.connection)
        else {
            return;
        };
        // The newest first: each one that comes back goes to the front of its queue.
        let attempts = counts.iter().map(|count| self.attempt(*count)).collect();
        self.engines.update(id, |engine| engine.recalled.extend(counts));
        self.to_engine(connection, ToEngine::Recall(Attempts { attempts }));
    }

    /// What an engine has in hand beyond what it runs, of shared work that `idle` can run: when the oldest of its tasks
    /// was assigned, and half of the attempts, the newest first. None if there is nothing to take, or some was asked
    /// for already.
    fn spare(&self, id: EngineId, idle: EngineId) -> Option<(Time, Vec<u64>)> {
        let engine = self.engines.get(id).filter(|engine| engine.load() >= 2 && engine.recalled.is_empty())?;
        let task = |count: &u64| self.attempts.get(count).and_then(|given| self.tasks.get(given.task));
        let oldest = engine.assigned.iter().find_map(|count| task(count)?.assigned)?;
        let movable = |count: &&u64| {
            task(count).is_some_and(|task| task.target.is_none() && self.engine_runs(idle, task.runtime))
        };
        let half = (engine.load() as usize / 2).max(1);
        // The first in hand is what it runs.
        let counts: Vec<u64> = engine.assigned.iter().skip(1).rev().filter(movable).take(half).copied().collect();
        (!counts.is_empty()).then_some((oldest, counts))
    }
}
