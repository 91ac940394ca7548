//! Peers come and go: letting in, resuming, giving up.

use std::collections::BTreeSet;
use std::time::Duration;

use furlong_wire::handshake::HelloBody;
use furlong_wire::ids::TaskSeq;
use furlong_wire::limits::{HEARTBEAT_DEAD_MS, HEARTBEAT_IDLE_MS};
use furlong_wire::message::{Forget, RefusalKind, ToEngine, Welcome};
use furlong_wire::token::Claims;

use super::expiries::Away;
use super::table::{ClientLink, ClientWaiting, Definition, Nesting, Parent, Session};
use crate::core::engines::measured::Measuring;
use crate::core::engines::process::{Process, Sending, Told};
use crate::core::keys::{AttemptId, ProcessKey, SessionKey};
use crate::core::payloads::budget::{BytesOf, Credit};
use crate::core::tasks::table::Task;
use crate::core::turns::chores::{Chore, EndingSession, Manner};
use crate::core::turns::work::{TASKS_PER_PART, WORK_PER_MESSAGE, count};
use crate::core::{Connected, ConnectionId, Core, Output, Refusal, Time};

/// The time an engine may be away before the work that waits for it alone is lost.
pub(in crate::core) const ENGINE_GRACE: Duration = Duration::from_secs(15);
/// The time for which a session without a connection is retained.
pub(in crate::core) const SESSION_GRACE: Duration = Duration::from_secs(600);

/// Sessions, connected or not.
const SESSIONS_MAX: usize = 16_384;

/// A peer whose key and token are proved.
#[derive(Clone, Debug)]
pub struct Peer {
    /// The claims of its token.
    pub claims: Claims,
    /// Its description of itself.
    pub hello: HelloBody,
    /// The address that it came from.
    pub address: String,
    /// The attempt that let it in, if its key is a pass.
    pub pass: Option<AttemptId>,
}

impl Core {
    /// Lets a peer in, or refuses it. On success the welcome is its first record.
    ///
    /// # Errors
    /// The refusal that it is told.
    pub fn handle_connected(
        &mut self,
        connection: ConnectionId,
        peer: Peer,
    ) -> Result<Welcome, Refusal> {
        let claims = peer.claims.clone();
        let (connected, resumed, tasks_max) = if peer.claims.role.may_register_engines() {
            (Connected::Engine(self.admit_process(connection, peer)), false, 0)
        } else {
            let tasks_max = self.session_tasks_max(&peer.claims);
            let (session, resumed) = self.admit_session(connection, peer, tasks_max)?;
            // A session that is resumed with another token goes on under the limits with which it
            // was opened.
            let opened = self.sessions.get(session).expect("it was let in just now");
            let tasks_max = opened.ledger.tasks_max;
            (Connected::Client(session), resumed, tasks_max)
        };
        let before = self.peers.connections.insert(connection, connected);
        assert!(before.is_none(), "{connection:?} is given to two peers");
        self.peers.authority.handle_connected(connection, &claims);
        Ok(Welcome {
            connection: connection.0,
            start: self.config.start,
            cluster_name: self.config.cluster_name.clone(),
            cluster: self.config.cluster,
            software: self.config.software.clone(),
            heartbeat_idle_ms: HEARTBEAT_IDLE_MS,
            heartbeat_dead_ms: HEARTBEAT_DEAD_MS,
            unfinished_tasks_max: tasks_max,
            payload_credit_bytes: self.memory.budget.peer_credit(),
            resumed,
            memory_flag: self.config.memory_flag.to_owned(),
        })
    }

    /// A connection is gone, whoever closed it and why.
    pub fn handle_disconnected(&mut self, now: Time, connection: ConnectionId) {
        self.leave_rest(connection);
        self.peers.authority.handle_disconnected(connection);
        match self.peers.connections.remove(&connection) {
            Some(Connected::Client(key)) => self.client_disconnected(now, connection, key),
            Some(Connected::Engine(key)) => self.process_disconnected(now, key),
            None => {}
        }
        self.dispatch(now);
    }

    /// A peer has broken the protocol, and its key proves that it was that peer. Its session ends
    /// at once with all that it has: others do not pay for it any longer. The connection is gone.
    pub fn handle_misbehaved(&mut self, now: Time, connection: ConnectionId) {
        if let Some(Connected::Client(key)) = self.peers.connections.get(&connection).copied() {
            self.end_session_with_all(now, key, "its client broke the protocol");
        }
        self.handle_disconnected(now, connection);
    }

    pub(in crate::core) fn session_tasks_max(&self, claims: &Claims) -> u64 {
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
            ends: None,
            engines: Vec::new(),
            class: None,
            leaving: false,
            is_draining: false,
            told: Told::default(),
            sending: Sending::default(),
            held_of: BTreeSet::default(),
            measuring: Measuring::of(peer.hello.abilities),
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
                let text = "the broker has as many sessions as it takes; close some, or wait \
                            until old ones expire";
                return Err(Refusal { kind: RefusalKind::Busy, text: text.to_owned() });
            }
            self.check_pass(peer.pass)?;
            if self.kept.is_known(peer.claims.owner, peer.hello.session) {
                // Its tasks would have the names of those that are kept.
                return Err(session_is_over());
            }
            self.peers.quotas.enter(&peer.claims);
            let (pass, session) = (peer.pass, self.new_session(connection, peer, tasks_max));
            let key = self.sessions.insert(session);
            if let Some(attempt) = pass {
                self.peers.grants.enter(attempt, key);
            }
            return Ok((key, false));
        };
        let session = self.sessions.get(key).expect("a session that was found is there");
        if session.departure.departed {
            return Err(session_is_over());
        }
        if session.claims.holder != peer.claims.holder {
            let text = "this session belongs to another capability of the same owner".to_owned();
            return Err(Refusal { kind: RefusalKind::Unauthorized, text });
        }
        // The newest connection wins: otherwise two of them would take the session from each other.
        if session.link.incarnation >= peer.hello.incarnation {
            let text =
                "this session has a newer connection; start a session of your own".to_owned();
            return Err(Refusal { kind: RefusalKind::Superseded, text });
        }
        // A client notices a cut before the broker does: its old connection may still be here.
        if let Some(old) = session.link.connection {
            self.outputs.push_back(Output::Close(old, "the session has a newer connection"));
            self.leave_rest(old);
            self.follow_no_longer(key, old);
            self.peers.connections.remove(&old);
            self.abandon_transfers(key);
        }
        let credit = Credit::new(self.memory.budget.peer_credit());
        let session = self.sessions.get_mut(key).expect("a session that was found is there");
        session.link.connection = Some(connection);
        (session.link.is_open, session.link.undelivered_from) = (false, None);
        session.link.incarnation = peer.hello.incarnation;
        session.claims = peer.claims;
        session.link.credit = credit;
        session.link.next_transfer = 0;
        session.link.fetches = 0;
        self.peers.expiries.cancel(Away::Session(key));
        Ok((key, true))
    }

    fn new_session(&self, connection: ConnectionId, peer: Peer, tasks_max: u64) -> Session {
        let parent = peer.pass.map(|attempt| Parent { attempt, is_bound: true });
        let depth = peer.pass.map_or(0, |attempt| self.depth_of(attempt) + 1);
        let link = ClientLink {
            connection: Some(connection),
            incarnation: peer.hello.incarnation,
            credit: Credit::new(self.memory.budget.peer_credit()),
            ..ClientLink::default()
        };
        Session {
            nesting: Nesting { parent, depth },
            link,
            served: self.schedule.shared_given,
            ..Session::new(peer.hello.session, peer.claims, tasks_max)
        }
    }

    /// The session stays for a while: its tasks go on, its results wait.
    fn client_disconnected(&mut self, now: Time, connection: ConnectionId, key: SessionKey) {
        let Some(session) = self
            .sessions
            .get_mut(key)
            .filter(|session| session.link.connection == Some(connection))
        else {
            // It has a newer connection, or is over.
            return;
        };
        session.link.connection = None;
        self.follow_no_longer(key, connection);
        let session = self.sessions.get_mut(key).expect("it was there a moment ago");
        if session.departure.cancel_on_disconnect {
            return self.end_session(now, key);
        }
        self.peers.expiries.set(Away::Session(key), now.after(SESSION_GRACE));
        self.abandon_transfers(key);
    }

    /// Drops a session's incomplete transfers: its connection is gone. It sends them again on the
    /// next one.
    fn abandon_transfers(&mut self, key: SessionKey) {
        let session = self.sessions.get_mut(key).expect("a session outlives its connection");
        session.link.connection = None;
        // Asked before they are abandoned: afterwards there is nothing left to count.
        let abandoned_bytes = session.link.receiving.abandoned_bytes();
        let abandoned = session.link.receiving.abandon();
        self.memory.budget.release(BytesOf::Request, abandoned_bytes);
        self.peers.quotas.release(session.counted_by, abandoned_bytes);
        for waiting in abandoned {
            match waiting {
                ClientWaiting::Tasks(tasks) => {
                    let unfinished = tasks.iter().filter_map(|task| self.tasks.get(*task));
                    session.ledger.missing.extend(unfinished.map(|task| task.n));
                }
                ClientWaiting::Definition(number) => {
                    if let Some(Definition::Receiving(waiting)) =
                        session.definitions.remove(&number)
                    {
                        session.definitions.insert(number, Definition::Missing(waiting));
                    }
                }
            }
        }
    }

    /// Ends a session: its tasks are cancelled and its results dropped, except those that are to be
    /// kept. Of very many some end now, and the others in later turns.
    pub(in crate::core) fn end_session(&mut self, now: Time, key: SessionKey) {
        self.begin_to_end(now, EndingSession { key, manner: Manner::AsWanted, next: None });
    }

    /// Ends a session whose client has not come back: all its results are kept.
    pub(in crate::core) fn end_session_keeping_all(&mut self, now: Time, key: SessionKey) {
        self.begin_to_end(now, EndingSession { key, manner: Manner::KeepingAll, next: None });
    }

    fn begin_to_end(&mut self, now: Time, ending: EndingSession) {
        let key = ending.key;
        let Some(session) =
            self.sessions.get_mut(key).filter(|session| !session.departure.is_ending)
        else {
            // A chore is at it already.
            return;
        };
        // What goes on is not for this client any longer.
        session.link.connection = None;
        (session.departure.departed, session.departure.is_ending) = (true, true);
        let (token, id) = (session.counted_by, session.id);
        let abandoned_bytes = session.link.receiving.abandoned_bytes();
        session.link.receiving.abandon();
        self.memory.budget.release(BytesOf::Request, abandoned_bytes);
        self.peers.quotas.release(token, abandoned_bytes);
        self.peers.expiries.cancel(Away::Session(key));
        self.peers.events.unsubscribe(key);
        self.end_orphans_of(id);
        if self.is_turn_over() {
            return self.turns.chores.push(Chore::EndSession(ending));
        }
        self.end_part_of(now, ending);
    }

    /// Ends a part of what a session has that is over.
    pub(in crate::core) fn end_part_of(&mut self, now: Time, ending: EndingSession) {
        let EndingSession { key, next, .. } = ending;
        // Two chores may be at it: the second ends what the first lets go on, and either may have
        // come upon the last task.
        let Some(session) = self.sessions.get_mut(key) else { return };
        let mut room = TASKS_PER_PART;
        if next.is_none() {
            let done = session.ledger.done.remove_first(TaskSeq::MIN, TaskSeq::MAX, room);
            let keeps = done.iter().filter(|(_, done)| done.what.keep()).count();
            session.ledger.keep_fewer(keeps as u64);
            room -= done.len();
            self.tally.let_go(done.len() as u64);
            for (n, mut done) in done {
                self.note_read(key, &mut done);
                if ending.manner.keeps_all() || done.what.outlives_session() {
                    self.keep(now, key, n, done, false);
                } else {
                    self.drop_done(done);
                }
            }
            self.turns.work.add(TASKS_PER_PART - room);
            if room == 0 {
                return self.turns.chores.push(Chore::EndSession(ending));
            }
            self.note_departed(key);
        }
        let session = self.sessions.get(key).expect("a session that is being ended is there");
        let from = next.unwrap_or(TaskSeq::MIN);
        let tasks = session.ledger.tasks.range(from, TaskSeq::MAX).take(room);
        let tasks: Vec<_> = tasks.map(|(n, task)| (n, *task)).collect();
        let next = tasks.get(room - 1).and_then(|(n, _)| n.checked_add(1));
        self.turns.work.add(tasks.len() + WORK_PER_MESSAGE);
        for (_, task) in tasks {
            let goes_on = ending.manner.lets_go_on()
                && self.tasks.get(task).is_some_and(Task::outlives_session);
            if !goes_on {
                self.cancel_task_for(now, task, false, ending.manner.why());
            }
        }
        if next.is_some() {
            return self.turns.chores.push(Chore::EndSession(EndingSession { next, ..ending }));
        }
        // It may be gone with its last task, if another chore has come to its end before. If there
        // are results, another chore is at them still.
        if let Some(session) = self.sessions.get_mut(key) {
            session.departure.is_ending = !session.ledger.done.is_empty();
        }
        self.forget_departed(key);
    }

    /// Ends a session with all that it has: also what was to be kept is cancelled. Its client hears
    /// of as many ends as one turn has; why it has to go, it is told in any case.
    pub(in crate::core) fn end_session_with_all(&mut self, now: Time, key: SessionKey, why: &str) {
        let Some(session) = self.sessions.get(key) else { return };
        let at_once = if self.is_turn_over() { 0 } else { TASKS_PER_PART };
        let tasks: Vec<_> =
            session.ledger.tasks.iter().take(at_once).map(|(_, task)| *task).collect();
        self.turns.work.add(tasks.len());
        for task in tasks {
            self.cancel_task_for(now, task, false, Some(why));
        }
        let manner = Manner::WithAll(why.into());
        if self.sessions.get(key).is_some_and(|session| session.departure.is_ending) {
            // What is to be kept is let go on by that: not so any longer.
            return self.turns.chores.push(Chore::EndSession(EndingSession {
                key,
                manner,
                next: Some(TaskSeq::MIN),
            }));
        }
        self.begin_to_end(now, EndingSession { key, manner, next: None });
    }

    /// Forgets a session that is over, once its last kept task has ended.
    pub(in crate::core) fn forget_departed(&mut self, key: SessionKey) {
        let is_over = |session: &Session| {
            session.departure.departed
                && !session.departure.is_ending
                && session.ledger.tasks.is_empty()
        };
        if !self.sessions.get(key).is_some_and(is_over) {
            return;
        }
        let session = self.sessions.remove(key).expect("it was there a moment ago");
        assert!(session.ledger.done.is_empty(), "a session that is over holds no results");
        for definition in session.definitions.into_values() {
            self.release_definition(session.counted_by, definition);
        }
        self.release_names(session.counted_by, session.kinds.names.bytes());
        self.peers.quotas.leave(session.counted_by);
        self.tally.forget_ends(session.ledger.endings.len());
        for process in session.known_to {
            count(1);
            let process = self.processes.get_mut(&process);
            let process = process.expect("a session is known to processes that are here");
            process
                .told
                .definitions
                .extract_if((key, 0)..=(key, u32::MAX), |_| true)
                .for_each(drop);
            if let Some(lane) = process.told.lanes.remove(&key) {
                self.memory.budget.close_lane(&lane);
                let forget = ToEngine::Forget(Forget { session: session.id });
                self.outputs.push_back(Output::ToEngine(process.connection, forget));
            }
        }
    }
}

fn session_is_over() -> Refusal {
    let text = "this session has ended; start a session of your own".to_owned();
    Refusal { kind: RefusalKind::Superseded, text }
}
