//! The invariants after each event.

use std::time::Duration;

use furlong_wire::ids::{EngineId, OwnerId, SessionId, TaskId, TaskSeq};
use furlong_wire::limits::KEPT_MS;
use furlong_wire::message::{Assign, ToClient, ToEngine};

use crate::core::tasks::table::{Queue, State, Task};
use crate::core::tests::model::{
    Asked, CLIENTS, Model, Name, OUTSIDER, PROCESSES, Submitted, invariants,
};

impl Model {
    /// `dispatched_once` says that the core has dispatched once since the last check, and not more
    /// often.
    pub fn check(&mut self, dispatched_once: bool) {
        invariants::hold(&self.farm.core);
        self.notes_refusals();
        self.ends_stay();
        // Integers are given in order.
        let last = self.farm.processes.iter().flat_map(|process| process.ids.iter()).max();
        let known = (0..=last.map_or(0, |id| id.0)).map(EngineId);
        self.gone.extend(known.filter(|id| self.farm.core.engines.get(*id).is_none()));
        (0..CLIENTS).for_each(|client| self.hears(client));
        self.every_task_is_somewhere();
        self.who_is_here_has_every_end();
        self.who_asks_is_answered();
        self.nothing_is_overdue();
        self.what_is_to_be_kept_is_kept();
        let given = self.assignments_are_allowed();
        if dispatched_once {
            for engine in given {
                self.the_right_task_was_given(engine);
            }
        }
    }

    /// Notes what was refused. A client that did not hear of it submits it again, as if it never
    /// had.
    fn notes_refusals(&mut self) {
        for (_, session) in self.farm.core.sessions.iter() {
            for n in 1..=session.ledger.submitted.0 {
                let name = (session.id, n);
                if session.ledger.refused.contains(TaskSeq(n)) {
                    self.refused.insert(name);
                } else if session.ledger.tasks.contains(TaskSeq(n)) && self.refused.remove(&name) {
                    self.ends.remove(&name);
                }
            }
        }
    }

    /// A task ends once, and never otherwise afterwards.
    pub fn ends_stay(&mut self) {
        let core = &self.farm.core;
        let of_session = core.sessions.iter().flat_map(|(_, session)| {
            session.ledger.endings.iter().map(|(n, ending)| ((session.id, n.0), *ending))
        });
        let owners = [0, OUTSIDER].map(|client| OwnerId([self.farm.clients[client].owner; 16]));
        let ids = SessionId([0; 16])..=SessionId([255; 16]);
        let sessions =
            owners.into_iter().flat_map(|owner| core.kept.of_owner(Some(owner), ids.clone()));
        let kept = sessions.flat_map(|(key, id)| {
            core.kept
                .tasks_from(key, TaskSeq::MIN)
                .map(move |(n, kept)| ((id, n.0), kept.done.ending()))
        });
        for (name, ending) in of_session.chain(kept) {
            let first = *self.ends.entry(name).or_insert(ending);
            assert_eq!(first, ending, "task {name:?} ends once");
        }
    }

    /// Looks at what a client was told since the last time.
    pub fn hears(&mut self, client: usize) {
        let it = &self.farm.clients[client];
        let session = it.session;
        let messages = it.received[self.clients[client].messages..].to_vec();
        self.clients[client].messages = it.received.len();
        for message in messages {
            let heard = &mut self.clients[client];
            match message {
                ToClient::Finished(finished) => {
                    let name = (session, finished.n.0);
                    assert!(
                        heard.delivered.insert(finished.n.0),
                        "{name:?} is delivered once on a connection"
                    );
                    assert!(!self.acknowledged.contains_key(&name), "{name:?} was acknowledged");
                    self.end_is_just(name, &finished);
                }
                ToClient::Stopped(stopped) => {
                    let name = (session, stopped.n.0);
                    assert!(
                        self.stopped.insert(name),
                        "{name:?} is said once on a connection to have stopped"
                    );
                    assert!(
                        !self.is_unfinished(name),
                        "{name:?} has ended before it is said to have stopped"
                    );
                }
                ToClient::Reply(reply) => {
                    assert!(
                        heard.asked.remove(&reply.request).is_some(),
                        "request {} is answered once",
                        reply.request
                    );
                }
                ToClient::Fetched(fetched) => {
                    let asked = heard.asked.remove(&fetched.request);
                    assert!(asked.is_some(), "request {} is answered once", fetched.request);
                }
                _ => {}
            }
        }
    }

    /// Each task of a living session is unfinished, or done, or acknowledged, or was refused and
    /// its client may not know it: exactly one of these. Of a session that is over, only what is to
    /// be kept goes on.
    fn every_task_is_somewhere(&self) {
        for (_, session) in self.farm.core.sessions.iter() {
            for n in 1..=session.ledger.submitted.0 {
                let name = (session.id, n);
                let acknowledged = self.acknowledged.contains_key(&name);
                let refused = session.ledger.refused.contains(TaskSeq(n));
                let places = [
                    session.ledger.tasks.contains(TaskSeq(n)),
                    session.ledger.done.contains(TaskSeq(n)),
                    acknowledged,
                    refused,
                ];
                if session.departure.departed {
                    assert!(
                        !places[0] || self.tasks[&name].options.keep,
                        "{name:?} goes on for nobody"
                    );
                    continue;
                }
                let count = places.into_iter().filter(|it| *it).count();
                assert_eq!(count, 1, "{name:?} is (here, done, gone, refused): {places:?}");
            }
        }
    }

    /// Asserts that each connected client was told of every end that it has not acknowledged.
    fn who_is_here_has_every_end(&self) {
        for (client, heard) in
            self.clients.iter().enumerate().filter(|(client, _)| self.client_is_here(*client))
        {
            let session = self
                .session(self.farm.clients[client].session)
                .expect("a connected client has a session");
            let untold =
                session.ledger.done.iter().map(|(n, _)| n.0).find(|n| !heard.delivered.contains(n));
            assert_eq!(untold, None, "client {client} was not told of that task's end");
        }
    }

    /// Whoever waits for an answer waits for something that has not happened.
    fn who_asks_is_answered(&self) {
        for heard in &self.clients {
            for (request, asked) in &heard.asked {
                let waits = match asked {
                    Asked::Nothing => false,
                    Asked::Task(name) => self.is_unfinished(*name),
                    Asked::Restart(id) => {
                        self.farm.core.engines.get(*id).is_some_and(|engine| engine.restarting)
                    }
                };
                assert!(waits, "request {request} waits for nothing: {asked:?}");
            }
        }
    }

    /// Nobody waits longer for an engine than its submit says.
    fn nothing_is_overdue(&self) {
        let now = self.farm.now;
        for (_, session) in self.farm.core.sessions.iter() {
            for (n, key) in session.ledger.tasks.iter() {
                let task = self.farm.core.tasks.get(*key).expect("it is unfinished");
                let Submitted { options, at, .. } = &self.tasks[&(session.id, n.0)];
                let waits = task.tries.attempts == 0;
                let limit = options.queue_timeout_ms.filter(|_| waits).map(Duration::from_millis);
                assert!(
                    limit.is_none_or(|limit| now <= at.after(limit)),
                    "task {n} waits too long"
                );
                assert!(
                    task.deadline().is_none_or(|deadline| now <= deadline),
                    "task {n} is overdue"
                );
            }
        }
    }

    /// Asserts that results to be retained are there for an hour after their client has them, if
    /// nobody purges them. Of a task that was refused nothing is retained.
    fn what_is_to_be_kept_is_kept(&self) {
        for (&(session, n), at) in &self.acknowledged {
            let Submitted { owner, options, .. } = &self.tasks[&(session, n)];
            let is_kept =
                self.farm.core.kept.find(*owner, TaskId { session, n: TaskSeq(n) }).is_some();
            let hour = at.after(Duration::from_millis(KEPT_MS));
            let is_result =
                !self.refused.contains(&(session, n)) && !self.purged.contains(&(session, n));
            let is_wanted = options.keep && is_result && self.farm.now < hour;
            assert_eq!(is_kept, is_wanted, "task {n} was acknowledged");
        }
    }

    /// Looks at what engines were told since the last time. Gives the engines that were given
    /// something.
    fn assignments_are_allowed(&mut self) -> Vec<EngineId> {
        let mut engines = Vec::new();
        for process in 0..PROCESSES {
            let received =
                self.farm.processes[process].received[self.processes[process].messages..].to_vec();
            self.processes[process].messages += received.len();
            for message in received {
                let told = &mut self.processes[process];
                match message {
                    ToEngine::Registered(_) => {
                        told.sessions.clear();
                        told.definitions.clear();
                        told.shares.clear();
                    }
                    ToEngine::Secret(secret) => {
                        assert!(told.sessions.insert(secret.session), "a secret is told once");
                    }
                    ToEngine::Define(it) => {
                        assert!(
                            told.definitions.insert((it.session, it.number)),
                            "a definition is sent once"
                        );
                    }
                    ToEngine::Share(share) => {
                        assert!(told.shares.insert(share.share), "a payload is shared once");
                    }
                    ToEngine::Unshare(share) => {
                        assert!(told.shares.remove(&share.share), "it was shared");
                    }
                    ToEngine::Forget(forget) => {
                        told.sessions.remove(&forget.session);
                        told.definitions.retain(|(session, _)| *session != forget.session);
                    }
                    ToEngine::Restart(slots) => told.restarts.extend(slots.slots),
                    ToEngine::Assign(assign) => {
                        engines.extend(self.assignment_is_allowed(process, &assign));
                    }
                    _ => {}
                }
            }
        }
        engines
    }

    fn assignment_is_allowed(&mut self, process: usize, assign: &Assign) -> Vec<EngineId> {
        let session = assign.session.expect("it was noted when it came");
        let told = &self.processes[process];
        assert!(!told.drains, "a process that drains is given nothing");
        assert!(told.sessions.contains(&session), "the secret comes before the first task");
        let is_defined = |number| told.definitions.contains(&(session, number));
        assert!(
            assign.define.is_none_or(is_defined),
            "a definition comes before the first task that needs it"
        );
        assert!(
            assign.share.is_none_or(|share| told.shares.contains(&share)),
            "a share comes before its first task"
        );
        let engines: Vec<EngineId> = assign
            .work
            .iter()
            .map(|work| self.farm.processes[process].ids[work.slot as usize])
            .collect();
        for (work, engine) in assign.work.iter().zip(&engines) {
            let name = (session, work.n.0);
            self.engine_fits(process, *engine, name);
            self.dependencies_are_met(*engine, name);
            self.is_given_as_often_as_allowed(*engine, name);
        }
        engines
    }

    fn engine_fits(&self, process: usize, engine: EngineId, name: Name) {
        let (task, it) = (&self.tasks[&name], &self.farm.processes[process]);
        assert!(!task.is_stray, "{name:?} depends on what its owner cannot name");
        assert!(it.runtimes.contains(&task.runtime), "{name:?} needs another runtime");
        assert!(
            task.options.require.iter().all(|label| it.labels.contains(label)),
            "{name:?} needs other labels"
        );
        let in_scope =
            task.scopes.is_empty() || task.scopes.iter().any(|scope| it.labels.contains(scope));
        assert!(in_scope, "{name:?} is for other engines");
        assert!(
            task.target.is_none_or(|target| target == engine),
            "{name:?} is for another engine"
        );
    }

    /// Asserts that begun work that may run once only or is bound to an engine is not given again.
    /// Others are run again as often as their submit says.
    fn is_given_as_often_as_allowed(&mut self, engine: EngineId, name: Name) {
        let Submitted { target, ref options, .. } = self.tasks[&name];
        let given = self.given.entry(name).or_default();
        *given += 1;
        let once = options.at_most_once || target.is_some();
        let runs = self.runs.get(&name).copied().unwrap_or_default();
        let again = if once { 0 } else { options.retries.unwrap_or(3) + options.error_retries };
        assert!(runs <= again, "{name:?} has run {runs} times, and is given again");
        if target.is_some() {
            let before = self.order.insert((engine, name.0), name.1);
            let is_next = before.is_none_or(|before| before < name.1) || *given > 1;
            assert!(is_next, "engine {engine} got {name:?} after {before:?}");
        }
    }

    /// An engine that was idle got what goes first: of its own queue, and then by priority.
    fn the_right_task_was_given(&self, id: EngineId) {
        let core = &self.farm.core;
        let Some(engine) = core.engines.get(id).filter(|engine| engine.load() == 1) else { return };
        let given =
            core.attempts.get(engine.work.assigned[0]).and_then(|given| core.tasks.get(given.task));
        let Some(given) = given.filter(|task| task.queue == Queue::Shared) else { return };
        let goes_first = engine.takes_direct() && engine.queue.has_ready();
        assert!(!goes_first, "engine {id} was given shared work before its own");
        let unfinished = core
            .sessions
            .iter()
            .flat_map(|(_, session)| session.ledger.tasks.iter().map(|(_, key)| *key));
        // Who does not read results is passed over.
        let waits = |task: &&Task| {
            task.state == State::Queued
                && task.queue == Queue::Shared
                && !core.memory.backlog.holds(task.session)
                && engine.class.is_some_and(|class| {
                    core.schedule.placements.fits(task.placement, class, &core.engines)
                })
        };
        let first = unfinished
            .filter_map(|key| core.tasks.get(key))
            .filter(waits)
            .map(Task::priority)
            .max();
        assert!(
            first.is_none_or(|first| first <= given.priority()),
            "engine {id} was given task {} first",
            given.n
        );
    }
}
