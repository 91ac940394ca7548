//! Peers come and go: letting in, resuming, giving up.

use std::time::Duration;

use furlong_wire::handshake::HelloBody;
use furlong_wire::ids::EngineId;
use furlong_wire::limits::{HEARTBEAT_DEAD_MS, HEARTBEAT_IDLE_MS};
use furlong_wire::message::{
    AttemptRecord, ErrorKind, Event, Forget, Outcome, RefusalKind, TaskState, ToClient, ToEngine, Welcome,
};
use furlong_wire::token::Claims;

use super::chores::{Chore, Ending};
use super::engines::{Engine, Process, ProcessKey};
use super::finish::Ended;
use super::payloads::{BytesOf, Credit, Receiving};
use super::reconcile::Moved;
use super::release::Releasing;
use super::sessions::{ClientWaiting, Definition, Parent, Session, SessionKey};
use super::tasks::{Place, State, Task};
use super::work::{TASKS_PER_PART, WORK_PER_TURN, count};
use super::{Connected, ConnectionId, Core, Given, Output, Refusal, Time};

/// How long an engine may be away before what waits for it alone is lost.
pub(super) const ENGINE_GRACE: Duration = Duration::from_secs(15);
/// How long a session without connection is kept.
pub(super) const SESSION_GRACE: Duration = Duration::from_secs(600);

/// Attempts of one task whose record is kept.
const PAST_ATTEMPTS_MAX: usize = 16;
/// Bytes of the reason why one of them did not end its task.
const HOW_BYTES_MAX: usize = 256;
/// Sessions, connected or not.
const SESSIONS_MAX: usize = 16_384;

/// A peer whose key and token are proved.
#[derive(Clone, Debug)]
pub struct Peer {
    /// What its token says.
    pub claims: Claims,
    /// What it says of itself.
    pub hello: HelloBody,
    /// The address that it came from.
    pub address: String,
    /// The attempt that let it in, if its key is a pass.
    pub pass: Option<u64>,
}

impl Core {
    /// Lets a peer in, or refuses it. On success the welcome is its first record.
    ///
    /// # Errors
    /// The refusal that it is told.
    pub fn handle_connected(&mut self, connection: ConnectionId, peer: Peer) -> Result<Welcome, Refusal> {
        let claims = peer.claims.clone();
        let (connected, resumed, tasks_max) = if peer.claims.role.may_register_engines() {
            (Connected::Engine(self.admit_process(connection, peer)), false, 0)
        } else {
            let tasks_max = self.session_tasks_max(&peer.claims);
            let (session, resumed) = self.admit_session(connection, peer, tasks_max)?;
            // A session that is resumed with another token goes on under the limits with which it was opened.
            let tasks_max = self.sessions.get(session).map_or(tasks_max, |session| session.tasks_max);
            (Connected::Client(session), resumed, tasks_max)
        };
        self.connections.insert(connection, connected);
        self.authority.handle_connected(connection, &claims);
        Ok(Welcome {
            connection: connection.0,
            start: self.config.start,
            cluster_name: self.config.cluster_name.clone(),
            cluster: self.config.cluster,
            software: self.config.software.clone(),
            heartbeat_idle_ms: HEARTBEAT_IDLE_MS,
            heartbeat_dead_ms: HEARTBEAT_DEAD_MS,
            unfinished_tasks_max: tasks_max,
            payload_credit_bytes: self.budget.peer_credit(),
            resumed,
            memory_flag: self.config.memory_flag.to_owned(),
        })
    }

    /// A connection is gone, whoever closed it and why.
    pub fn handle_disconnected(&mut self, now: Time, connection: ConnectionId) {
        self.authority.handle_disconnected(connection);
        self.leave_rest(connection);
        match self.connections.remove(&connection) {
            Some(Connected::Client(key)) => self.client_disconnected(now, connection, key),
            Some(Connected::Engine(key)) => self.process_disconnected(now, key),
            None => {}
        }
        self.dispatch(now);
    }

    /// A peer has broken the protocol, and its key proves that it was that peer. Its session ends at once with all that
    /// it has: others do not pay for it any longer. The connection is gone.
    pub fn handle_misbehaved(&mut self, now: Time, connection: ConnectionId) {
        if let Some(Connected::Client(key)) = self.connections.get(&connection).copied() {
            self.end_session_with_all(now, key, "its client broke the protocol");
        }
        self.handle_disconnected(now, connection);
    }

    pub(super) fn session_tasks_max(&self, claims: &Claims) -> u64 {
        match claims.limits.unfinished_tasks_max {
            0 => self.config.session_tasks_max(),
            limit => limit.min(self.config.session_tasks_max()),
        }
    }

    fn admit_process(&mut self, connection: ConnectionId, peer: Peer) -> ProcessKey {
        // A connection's number is never given twice, so it serves for the process too.
        let key = ProcessKey(connection.0);
        let process = Process {
            connection,
            address: peer.address,
            software: peer.hello.software,
            register: None,
            engines: Vec::new(),
            lanes: std::collections::BTreeMap::new(),
            taken: std::collections::BTreeMap::new(),
            assigned_session: None,
            definitions: std::collections::BTreeSet::new(),
            receiving: Receiving::default(),
            publishing: std::collections::BTreeSet::new(),
            class: None,
            shares: std::collections::BTreeSet::new(),
            next_transfer: 0,
            leaving: false,
            is_draining: false,
            releasing: Releasing::default(),
        };
        self.processes.insert(key, process);
        key
    }

    fn admit_session(
        &mut self,
        connection: ConnectionId,
        peer: Peer,
        tasks_max: u64,
    ) -> Result<(SessionKey, bool), Refusal> {
        let Some(key) = self.sessions.find(peer.claims.owner, peer.hello.session) else {
            if self.sessions.len() >= SESSIONS_MAX || !self.sessions.has_keys() {
                let text =
                    "the broker has as many sessions as it takes; close some, or wait until old ones expire".to_owned();
                return Err(Refusal { kind: RefusalKind::Busy, text });
            }
            self.check_pass(peer.pass)?;
            if self.kept.is_known(peer.claims.owner, peer.hello.session) {
                // Its tasks would have the names of those that are kept.
                return Err(session_is_over());
            }
            self.quotas.enter(&peer.claims);
            let (pass, session) = (peer.pass, self.new_session(connection, peer, tasks_max));
            let key = self.sessions.insert(session);
            pass.into_iter().for_each(|attempt| self.grants.enter(attempt, key));
            return Ok((key, false));
        };
        let session = self.sessions.get(key).expect("a session that was found is there");
        if session.departed {
            return Err(session_is_over());
        }
        if session.claims.holder != peer.claims.holder {
            let text = "this session belongs to another capability of the same owner".to_owned();
            return Err(Refusal { kind: RefusalKind::Unauthorized, text });
        }
        if session.incarnation >= peer.hello.incarnation {
            let text = "this session has a newer connection; start a session of your own".to_owned();
            return Err(Refusal { kind: RefusalKind::Superseded, text });
        }
        if let Some(old) = session.connection {
            self.outputs.push_back(Output::Close(old, "the session has a newer connection"));
            self.leave_rest(old);
            self.follow_no_longer(key, old);
            self.connections.remove(&old);
            self.abandon_transfers(key);
        }
        let credit = Credit::new(self.budget.peer_credit());
        let session = self.sessions.get_mut(key).expect("a session that was found is there");
        session.connection = Some(connection);
        (session.is_open, session.undelivered_from) = (false, None);
        session.incarnation = peer.hello.incarnation;
        session.claims = peer.claims;
        session.expires = None;
        session.credit = credit;
        session.next_transfer = 0;
        session.fetches = 0;
        Ok((key, true))
    }

    fn new_session(&self, connection: ConnectionId, peer: Peer, tasks_max: u64) -> Session {
        let parent = peer.pass.map(|attempt| Parent { attempt, is_bound: true });
        Session {
            parent,
            depth: peer.pass.map_or(0, |attempt| self.depth_of(attempt) + 1),
            connection: Some(connection),
            incarnation: peer.hello.incarnation,
            served: self.shared_given,
            credit: Credit::new(self.budget.peer_credit()),
            ..Session::new(peer.hello.session, peer.claims, tasks_max)
        }
    }

    /// The session stays for a while: its tasks go on, its results wait.
    fn client_disconnected(&mut self, now: Time, connection: ConnectionId, key: SessionKey) {
        let Some(session) = self.sessions.get_mut(key).filter(|session| session.connection == Some(connection)) else {
            return;
        };
        session.connection = None;
        self.follow_no_longer(key, connection);
        let Some(session) = self.sessions.get_mut(key) else { return };
        if session.cancel_on_disconnect {
            return self.end_session(now, key);
        }
        let expires = now.after(SESSION_GRACE);
        session.expires = Some(expires);
        self.expiry_at = Some(self.expiry_at.map_or(expires, |at| at.min(expires)));
        self.abandon_transfers(key);
    }

    /// What a session was sending does not come whole: its connection is gone. It sends it again on the next one.
    fn abandon_transfers(&mut self, key: SessionKey) {
        let Some(session) = self.sessions.get_mut(key) else { return };
        session.connection = None;
        let abandoned_bytes = session.receiving.abandoned_bytes();
        let abandoned = session.receiving.abandon();
        self.budget.release(BytesOf::Request, abandoned_bytes);
        self.quotas.release(session.counted_by, abandoned_bytes);
        for waiting in abandoned {
            match waiting {
                ClientWaiting::Tasks(tasks) => {
                    let unfinished = tasks.iter().filter_map(|task| self.tasks.get(*task));
                    session.missing.extend(unfinished.map(|task| task.n));
                }
                ClientWaiting::Definition(number) => {
                    if let Some(Definition::Receiving(waiting)) = session.definitions.remove(&number) {
                        session.definitions.insert(number, Definition::Missing(waiting));
                    }
                }
            }
        }
    }

    /// Ends a session: its tasks are cancelled and its results dropped, except those that are to be kept. Of very many
    /// some end now, and the others in later turns.
    pub(super) fn end_session(&mut self, now: Time, key: SessionKey) {
        self.begin_to_end(now, key, false);
    }

    fn begin_to_end(&mut self, now: Time, key: SessionKey, keeps_all: bool) {
        let Some(session) = self.sessions.get_mut(key).filter(|session| !session.is_ending) else { return };
        // What goes on is not for this client any longer.
        (session.connection, session.expires) = (None, None);
        (session.departed, session.is_ending) = (true, true);
        let (token, id) = (session.counted_by, session.id);
        let abandoned_bytes = session.receiving.abandoned_bytes();
        session.receiving.abandon();
        self.budget.release(BytesOf::Request, abandoned_bytes);
        self.quotas.release(token, abandoned_bytes);
        self.end_orphans_of(id);
        self.end_part_of(now, Ending { key, keeps_all, next: None });
    }

    /// Ends a part of what a session has that is over.
    pub(super) fn end_part_of(&mut self, now: Time, ending: Ending) {
        let Ending { key, keeps_all, next } = ending;
        let Some(session) = self.sessions.get_mut(key) else { return };
        let mut room = TASKS_PER_PART;
        if next.is_none() {
            let done = session.done.remove_first(0, u64::MAX, room);
            session.keeps -= done.iter().filter(|(_, done)| done.what.keep()).count() as u64;
            room -= done.len();
            self.results_held -= done.len() as u64;
            for (n, mut done) in done {
                self.note_read(key, &mut done);
                if keeps_all || done.what.outlives_session() {
                    self.keep(now, key, n, done, false);
                } else {
                    self.drop_done(*done);
                }
            }
            self.work.add(TASKS_PER_PART - room);
            if room == 0 {
                return self.chores.push_back(Chore::EndSession(ending));
            }
            self.note_departed(key);
        }
        let Some(session) = self.sessions.get(key) else { return };
        let tasks = session.tasks.range(next.unwrap_or(0), u64::MAX).take(room);
        let tasks: Vec<_> = tasks.map(|(n, task)| (n, *task)).collect();
        let next = tasks.get(room - 1).and_then(|(n, _)| n.checked_add(1));
        self.work.add(tasks.len() + 1);
        for (_, task) in tasks {
            let goes_on = self.tasks.get(task).is_some_and(Task::outlives_session);
            if !goes_on {
                self.cancel_task(now, task, false);
            }
        }
        if next.is_some() {
            return self.chores.push_back(Chore::EndSession(Ending { next, ..ending }));
        }
        self.sessions.get_mut(key).into_iter().for_each(|session| session.is_ending = false);
        self.forget_departed(key);
    }

    /// Ends a session with all that it has: also what was to be kept is cancelled, and its client hears of it.
    pub(super) fn end_session_with_all(&mut self, now: Time, key: SessionKey, why: &str) {
        let Some(session) = self.sessions.get(key) else { return };
        let tasks: Vec<_> = session.tasks.iter().map(|(_, task)| *task).collect();
        tasks.into_iter().for_each(|task| self.cancel_task_for(now, task, false, Some(why)));
        self.end_session(now, key);
    }

    /// Forgets a session that is over, once its last kept task has ended.
    pub(super) fn forget_departed(&mut self, key: SessionKey) {
        let is_over = |session: &Session| session.departed && !session.is_ending && session.tasks.is_empty();
        if !self.sessions.get(key).is_some_and(is_over) {
            return;
        }
        let Some(session) = self.sessions.remove(key) else { return };
        for definition in session.definitions.into_values() {
            self.release_definition(session.counted_by, definition);
        }
        self.quotas.leave(session.counted_by);
        self.ends_remembered -= session.endings.len();
        for process in session.known_to {
            count(1);
            let Some(process) = self.processes.get_mut(&process) else { continue };
            process.definitions.extract_if((key, 0)..=(key, u32::MAX), |_| true).for_each(drop);
            if let Some(lane) = process.lanes.remove(&key) {
                self.budget.close_lane(&lane);
                let forget = ToEngine::Forget(Forget { session: session.id });
                self.outputs.push_back(Output::ToEngine(process.connection, forget));
            }
        }
    }

    /// Without a goodbye the process may come back: what may run elsewhere goes there at once, the rest waits for it.
    fn process_disconnected(&mut self, now: Time, key: ProcessKey) {
        let Some(mut process) = self.processes.remove(&key) else { return };
        for session in process.lanes.keys() {
            self.sessions.get_mut(*session).into_iter().for_each(|session| _ = session.known_to.remove(&key));
        }
        self.forget_unsent(key, &process.engines);
        self.forget_arriving(&process);
        if let Some(class) = process.class.take() {
            self.placements.leave_class(class);
        }
        self.forget_orphans(&process.engines);
        for &id in &process.engines {
            if self.engines.get(id).is_none_or(|engine| engine.process != Some(key)) {
                continue;
            }
            let given_up = now.after(ENGINE_GRACE);
            self.forget_set_aside(id);
            self.engines.update(id, |engine| {
                (engine.process, engine.class, engine.given_up) = (None, None, Some(given_up));
                // It says again what waits there, when it is back.
                engine.lent.clear();
                engine.restarting = false;
                engine.returning.clear();
            });
            self.requeue_withheld(now, id);
            self.note_restarted(id);
            self.expiry_at = Some(self.expiry_at.map_or(given_up, |at| at.min(given_up)));
            self.tell_subscribers(Event::EngineOffline(id));
            if process.leaving {
                let engine = self.engines.remove_for_ever(id);
                self.lose_engine(now, id, engine, "the engine was stopped");
            } else {
                self.reassign(now, id);
            }
        }
    }

    /// Moves what an unreachable engine has to others, as far as it may run twice.
    fn reassign(&mut self, now: Time, id: EngineId) {
        let Some(engine) = self.engines.get(id) else { return };
        let attempts: Vec<u64> = engine.assigned.iter().copied().collect();
        // The last one first: each goes to the front of its queue.
        for count in attempts.into_iter().rev() {
            let Some(given) = self.attempts.get(count).copied() else { continue };
            // If it was ended, it may still run there: that is said to have stopped when it has.
            let Some(task) = self.tasks.get(given.task) else { continue };
            if task.place != Place::Shared || task.at_most_once() {
                continue;
            }
            let started = task.is_reported();
            let moved = Moved { count, task: given.task, attempts: task.attempts, started };
            self.engines.update(id, |engine| engine.moved.push(moved));
            self.grants.set_aside(count, given.task);
            self.suspect(given.task);
            self.take_back(count);
            self.retry_or_lose(now, given.task, count, "its engine's connection was cut");
        }
    }

    /// An engine was taken out of the table: what waits for it alone is lost.
    pub(super) fn lose_engine(&mut self, now: Time, id: EngineId, engine: Option<Engine>, how: &str) {
        let Some(engine) = engine else { return };
        self.forget_orphans(&[id]);
        self.no_longer_await(now, &[id]);
        self.direct_ready.remove(&id);
        self.note_restarted(id);
        for count in engine.assigned.iter().rev() {
            let Some(given) = self.attempts.remove(*count) else { continue };
            self.grants.note_over(*count);
            self.note_stopped(*count, &given);
            self.suspect(given.task);
            self.retry_or_lose(now, given.task, *count, how);
        }
        for task in engine.queue.iter() {
            let text = format!("engine {id} is gone before the task began ({how}); `furlong ids` shows who is there");
            self.end(now, task, Ended::by_broker(TaskState::Lost, ErrorKind::EngineLost, text));
        }
    }

    /// An attempt came to nothing through no fault of the task: runs it again if that is allowed, else it is lost.
    pub(super) fn retry_or_lose(&mut self, now: Time, key: super::TaskKey, attempt: u64, how: &str) {
        let Some(task) = self.tasks.get_mut(key) else { return };
        let State::Assigned { engine, attempt: current, .. } = task.state else { return };
        if current != attempt {
            return;
        }
        let started = task.is_reported();
        task.losses += u32::from(started);
        let tried = task.losses;
        if task.place == Place::Shared && tried <= task.losses_allowed() && !task.at_most_once() {
            if started {
                let given = Given::new(key, (task.session, task.n), engine, false);
                self.note_attempt(now, given, how);
            }
            self.requeue(now, key);
            return;
        }
        let text = match (task.place, task.at_most_once()) {
            (Place::Shared, true) => {
                format!("engine {engine} was lost with this at-most-once task, which may have run ({how})")
            }
            (Place::Shared, false) => format!(
                "lost with its engine {tried} times, lastly engine {engine} ({how}): does it kill what runs it?"
            ),
            _ => format!("engine {engine} was lost while it had the task ({how})"),
        };
        let outcome = Outcome::error(TaskState::Lost, ErrorKind::EngineLost, text);
        self.end(now, key, Ended { outcome, engine: Some(engine), ..Ended::default() });
    }

    /// Notes an attempt that did not end its task.
    pub(super) fn note_attempt(&mut self, now: Time, given: Given, how: &str) {
        let Some(task) = self.tasks.get(given.task) else { return };
        let assigned_us = task.assigned.map_or(0, |at| task.since_submit(at));
        let ended_us = task.since_submit(now);
        let how = how[..how.floor_char_boundary(HOW_BYTES_MAX)].to_owned();
        let record = AttemptRecord { engine: given.engine, assigned_us, ended_us, how };
        self.charge_past(given.task, record, PAST_ATTEMPTS_MAX);
    }

    /// Forgets sessions and engines that stayed away too long.
    pub(super) fn expire(&mut self, now: Time) {
        let due = |at: Option<Time>| at.is_some_and(|at| at <= now);
        let sessions: Vec<_> = self.sessions.iter().filter(|(_, s)| due(s.expires)).map(|(key, _)| key).collect();
        let away = |engine: &Engine| engine.process.is_none() && due(engine.given_up);
        let engines: Vec<_> = self.engines.iter().filter(|(_, e)| away(e)).map(|(id, _)| id).collect();
        let began = self.work.done();
        for session in sessions {
            // The client has not come back: what it has not fetched is kept for other processes of its owner.
            self.begin_to_end(now, session, true);
            if self.work.done() - began >= WORK_PER_TURN {
                // The others are due, and have their turn later.
                break;
            }
        }
        for id in engines {
            let engine = self.engines.remove(id);
            self.lose_engine(now, id, engine, "its connection was cut, and it did not come back within 15 s");
        }
        let sessions = self.sessions.iter().filter_map(|(_, session)| session.expires);
        let engines = self.engines.iter().filter(|(_, engine)| engine.process.is_none());
        self.expiry_at = sessions.chain(engines.filter_map(|(_, engine)| engine.given_up)).min();
        self.dispatch(now);
    }

    /// Tells those who asked.
    pub(super) fn tell_subscribers(&mut self, event: Event) {
        let subscribers = self.sessions.subscribers();
        self.work.add(subscribers.len());
        for key in subscribers {
            let connection = self.sessions.get(key).and_then(|session| session.connection);
            if let Some(connection) = connection {
                self.to_client(connection, ToClient::Event(event.clone()));
            }
        }
    }
}

fn session_is_over() -> Refusal {
    let text = "this session has ended; start a session of your own".to_owned();
    Refusal { kind: RefusalKind::Superseded, text }
}
