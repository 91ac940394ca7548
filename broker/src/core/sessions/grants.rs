//! Tasks that submit tasks: the clients that running attempts have let in, with the authority of
//! their task's owner.
//!
//! An engine names the key of a client that one of its attempts opens. Until the attempt ends,
//! whoever proves that key comes in as if with the token of the task's own session: with its owner,
//! scopes and limits, and never as an administrator. When the attempt is over, so is the session:
//! what it has not kept is cancelled.

use std::collections::BTreeMap;

use furlong_wire::ids::PassKey;
use furlong_wire::keys::PublicKey;
use furlong_wire::limits::{GRANTS_PER_ATTEMPT_MAX, NESTING_MAX};
use furlong_wire::message::{Goodbye, Grant, Granted, RefusalKind, ToClient, ToEngine};
use furlong_wire::token::{Claims, Role};

use super::connect::ENGINE_GRACE;
use crate::core::attempts::Assignment;
use crate::core::keys::{AttemptId, ProcessKey, SessionKey, TaskKey};
use crate::core::turns::work::WORK_PER_CURVE_OPERATION;
use crate::core::{Core, Output, PeerMisbehaved, Refusal, Time};

/// The keys that running attempts have named, and the sessions that came in by them.
#[derive(Debug, Default)]
pub struct Grants {
    by_key: BTreeMap<PassKey, AttemptId>,
    by_attempt: BTreeMap<AttemptId, OfAttempt>,
    /// The keys and sessions of attempts whose tasks were taken from an engine that is away, until
    /// those go elsewhere.
    aside: BTreeMap<(TaskKey, AttemptId), OfAttempt>,
    /// The keys and sessions of attempts that are over.
    over: Vec<OfAttempt>,
}

/// The keys and sessions of one attempt.
#[derive(Debug, Default)]
struct OfAttempt {
    keys: Vec<PassKey>,
    sessions: Vec<SessionKey>,
}

impl Grants {
    /// A session came in by a pass of this attempt.
    pub fn enter(&mut self, attempt: AttemptId, session: SessionKey) {
        self.by_attempt.entry(attempt).or_default().sessions.push(session);
    }

    /// An attempt is over, or nobody wants its end any longer. What it has opened ends with the
    /// next [`Core::dispatch`].
    pub fn note_over(&mut self, attempt: AttemptId) {
        if self.by_attempt.is_empty() {
            return;
        }
        let granted = self.by_attempt.remove(&attempt);
        if let Some(granted) = granted {
            self.end(granted);
        }
    }

    fn end(&mut self, granted: OfAttempt) {
        // At once, so that nobody comes in by them; the sessions when no task is in mid-change.
        granted.keys.iter().for_each(|key| _ = self.by_key.remove(key));
        if !granted.sessions.is_empty() {
            self.over.push(granted);
        }
    }

    /// Returns true if something is to be ended.
    pub fn has_over(&self) -> bool {
        !self.over.is_empty()
    }

    /// A task was taken from an engine that is away: what its attempt has opened stays until it
    /// goes elsewhere.
    pub fn set_aside(&mut self, attempt: AttemptId, task: TaskKey) {
        let granted = self.by_attempt.remove(&attempt);
        if let Some(granted) = granted {
            let before = self.aside.insert((task, attempt), granted);
            assert!(before.is_none(), "attempt {attempt} is set aside twice");
        }
    }

    /// The engine is back, and the attempt goes on.
    pub fn rejoin(&mut self, attempt: AttemptId, task: TaskKey) {
        let granted = self.aside.remove(&(task, attempt));
        if let Some(granted) = granted {
            let before = self.by_attempt.insert(attempt, granted);
            assert!(before.is_none(), "attempt {attempt} is here and set aside");
        }
    }

    /// A task is tried elsewhere, or has ended: what earlier attempts at it have opened is over.
    pub fn note_gone(&mut self, task: TaskKey) {
        if self.aside.is_empty() {
            return;
        }
        let of_task: Vec<OfAttempt> = self
            .aside
            .extract_if((task, AttemptId::MIN)..=(task, AttemptId::MAX), |_, _| true)
            .map(|(_, granted)| granted)
            .collect();
        for granted in of_task {
            self.end(granted);
        }
    }

    /// The sessions that attempts have opened, for the tests.
    #[cfg(any(test, feature = "invariants"))]
    pub fn sessions(&self) -> impl Iterator<Item = (AttemptId, SessionKey)> {
        let aside = self.aside.iter().map(|((_, attempt), granted)| (attempt, granted));
        let all = self.by_attempt.iter().chain(aside);
        all.flat_map(|(attempt, granted)| granted.sessions.iter().map(|key| (*attempt, *key)))
    }

    /// The task of an attempt that is set aside, for the tests.
    #[cfg(any(test, feature = "invariants"))]
    pub fn aside(&self, attempt: AttemptId) -> Option<TaskKey> {
        self.aside.keys().find(|(_, of)| *of == attempt).map(|(task, _)| *task)
    }

    /// The attempts that have named keys, and how many, for the tests.
    #[cfg(any(test, feature = "invariants"))]
    pub fn keys(&self) -> impl Iterator<Item = (AttemptId, usize)> {
        self.by_attempt.iter().map(|(attempt, granted)| (*attempt, granted.keys.len()))
    }
}

impl Core {
    /// Returns the rights of the holder of a key that a running attempt has named, and that
    /// attempt.
    ///
    /// # Errors
    /// The reason that it may not come in, for people.
    pub fn pass(&self, now: Time, key: [u8; 32]) -> Result<(Claims, AttemptId), Refusal> {
        // Its engine may be away, or not be back since the broker was started: who waits a little
        // finds it again.
        let is_awaited =
            now < Time::default().after(ENGINE_GRACE) || !self.peers.grants.aside.is_empty();
        let unknown = || {
            let text = "the task that opened this client has ended, or has been cancelled: its \
                        client ends with it";
            let kind = if is_awaited { RefusalKind::Busy } else { RefusalKind::Unauthorized };
            Refusal { kind, text: text.to_owned() }
        };
        let attempt = *self.peers.grants.by_key.get(&PassKey(key)).ok_or_else(unknown)?;
        let given = self.attempts.get(attempt).ok_or_else(unknown)?;
        let mut claims = self.sessions.get(given.session).ok_or_else(unknown)?.claims.clone();
        claims.holder = PublicKey(key);
        // Code on an engine does its owner's work. Nobody has sent it there to run the cluster.
        claims.role = if claims.role == Role::Admin { Role::Client } else { claims.role };
        Ok((claims, attempt))
    }

    /// Checks that one more session may come in by a pass.
    pub(in crate::core) fn check_pass(&mut self, pass: Option<AttemptId>) -> Result<(), Refusal> {
        let Some(granted) = pass.and_then(|attempt| self.peers.grants.by_attempt.get_mut(&attempt))
        else {
            return Ok(());
        };
        // Those that have left by themselves count no longer.
        let sessions = &self.sessions;
        granted
            .sessions
            .retain(|key| sessions.get(*key).is_some_and(|session| !session.departure.departed));
        if granted.sessions.len() < GRANTS_PER_ATTEMPT_MAX {
            return Ok(());
        }
        let text =
            format!("a task has at most {GRANTS_PER_ATTEMPT_MAX} clients open at once; close some");
        Err(Refusal { kind: RefusalKind::Busy, text })
    }

    /// An engine says that an attempt wants to let a client in.
    pub(in crate::core) fn grant(
        &mut self,
        key: ProcessKey,
        grant: &Grant,
    ) -> Result<(), PeerMisbehaved> {
        let Grant { attempt, key: pass } = *grant;
        let given = self.given(key, attempt)?;
        let id = attempt.id;
        let refusal = match given {
            Some(given) => self.refusal_of_grant(given, id, pass),
            None => Some("the task has ended, or has been taken from this engine".to_owned()),
        };
        if refusal.is_none() && self.peers.grants.by_key.insert(pass, id).is_none() {
            self.peers.grants.by_attempt.entry(id).or_default().keys.push(pass);
        }
        let connection = self.processes.get(&key).ok_or(PeerMisbehaved::Order)?.connection;
        self.to_engine(connection, ToEngine::Granted(Granted { attempt, key: pass, refusal }));
        Ok(())
    }

    /// Returns the reason that an attempt may not let this key in, if so.
    fn refusal_of_grant(
        &self,
        given: Assignment,
        attempt: AttemptId,
        pass: PassKey,
    ) -> Option<String> {
        let is_wanted = self.tasks.get(given.task).is_some_and(|task| task.is_assigned_as(attempt));
        let Some(session) = self.sessions.get(given.session).filter(|_| is_wanted) else {
            return Some("the task has ended, or has been cancelled".to_owned());
        };
        if session.claims.limits.no_nested {
            return Some(
                "the capability of this task's owner forbids its tasks to submit others (`furlong cap issue \
                 --no-nested`); ask who issued it for another"
                    .to_owned(),
            );
        }
        if session.nesting.depth >= NESTING_MAX {
            return Some(format!(
                "tasks that submit tasks nest at most {NESTING_MAX} deep, and this one is as deep"
            ));
        }
        let of_attempt =
            self.peers.grants.by_attempt.get(&attempt).map_or(0, |granted| granted.keys.len());
        match self.peers.grants.by_key.get(&pass) {
            Some(of) if *of == attempt => None,
            Some(_) => Some("the key is another task's; make a fresh one".to_owned()),
            None if of_attempt >= GRANTS_PER_ATTEMPT_MAX => Some(format!(
                "a task may open at most {GRANTS_PER_ATTEMPT_MAX} clients; open one, and use it again"
            )),
            None if !self.is_sound(pass) => Some("the key is a weak X25519 key".to_owned()),
            None => None,
        }
    }

    /// Whether a key is none of those with which anybody may come in. It takes an operation on the
    /// curve.
    fn is_sound(&self, pass: PassKey) -> bool {
        self.turns.work.add(WORK_PER_CURVE_OPERATION);
        PublicKey(pass.0).is_sound()
    }

    /// Ends the sessions of attempts that are over. What they have to keep goes on.
    pub(in crate::core) fn end_what_is_over(&mut self, now: Time) {
        while let Some(granted) = self.peers.grants.over.pop() {
            for key in granted.sessions {
                let Some(session) =
                    self.sessions.get(key).filter(|session| !session.departure.departed)
                else {
                    // It has said goodbye before its task ended.
                    continue;
                };
                let connection = session.link.connection;
                self.end_session(now, key);
                let Some(connection) = connection else { continue };
                let reason = "the task that opened this client has ended".to_owned();
                self.to_client(connection, ToClient::Goodbye(Goodbye { reason }));
                self.peers.authority.handle_disconnected(connection);
                self.peers.connections.remove(&connection);
                self.outputs.push_back(Output::Close(connection, "its task has ended"));
            }
        }
    }
}
