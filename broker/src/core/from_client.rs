//! What clients say.

use bytes::Bytes;
use furlong_wire::message::{Cancel, FromClient, Open, Reply, Request, TaskState, ToClient};
use furlong_wire::token::Role;

use super::sessions::SessionKey;
use super::tasks::TaskKey;
use super::{Connected, ConnectionId, Core, Output, PeerMisbehaved, Time};

impl Core {
    /// Takes a client's message, with the chunk that belongs to it.
    ///
    /// # Errors
    /// The client is to be closed.
    pub fn handle_from_client(
        &mut self,
        now: Time,
        connection: ConnectionId,
        message: FromClient,
        chunk: Option<Bytes>,
    ) -> Result<(), PeerMisbehaved> {
        let Some(Connected::Client(key)) = self.connections.get(&connection).copied() else {
            return Err(PeerMisbehaved::Order);
        };
        match message {
            FromClient::Submit(submit) => self.submit(now, key, submit),
            FromClient::Chunk(announced) => self.client_chunk(now, key, announced.transfer, chunk.unwrap_or_default()),
            FromClient::Ack(ack) => self.acknowledge(now, key, &ack.ranges.0),
            FromClient::Open(open) => self.open(now, key, connection, open),
            FromClient::Define(define) => self.define(now, key, &define),
            FromClient::Undefine(undefine) => self.undefine(key, undefine.number),
            FromClient::Cancel(cancel) => self.cancel(now, key, &cancel),
            FromClient::Subscribe(wanted) => {
                self.may(key, Role::may_observe)?;
                self.sessions.subscribe(key, wanted.engines);
                Ok(())
            }
            FromClient::Goodbye(_) => {
                self.end_session(now, key);
                self.connections.remove(&connection);
                self.outputs.push_back(Output::Close(connection, "goodbye"));
                Ok(())
            }
            // Results are given as they come; the bound is the unacknowledged ones that a session may have.
            FromClient::Credit(_) => Ok(()),
            request => self.request(now, key, connection, request),
        }
    }

    /// What has a number, and is answered under it.
    fn request(
        &mut self,
        now: Time,
        key: SessionKey,
        connection: ConnectionId,
        message: FromClient,
    ) -> Result<(), PeerMisbehaved> {
        let role = self.sessions.get(key).ok_or(PeerMisbehaved::Order)?.claims.role;
        let (request, what, needed, allowed) = match &message {
            FromClient::Query(it) => (it.request, "ask for the cluster's state", "observer", role.may_observe()),
            FromClient::Fetch(it) => (it.request, "fetch results", "client", role.may_cancel()),
            FromClient::CancelTasks(it) => (it.request, "cancel tasks", "client", role.may_cancel()),
            FromClient::TakeBack(it) => (it.request, "take tasks back", "client", role.may_cancel()),
            FromClient::Purge(it) => (it.request, "purge results", "client", role.may_cancel()),
            FromClient::Signal(it) => (it.request, "send signals", "client", role.may_submit_direct()),
            FromClient::Restart(it) => (it.request, "restart engines", "client", role.may_submit_direct()),
            FromClient::Revoke(it) => (it.request, "revoke tokens", "admin", role.may_administer()),
            FromClient::Shutdown(it) => (it.request, "stop engines or the broker", "admin", role.may_administer()),
            _ => return Err(PeerMisbehaved::Order),
        };
        let before = self.entries();
        let answer = if allowed {
            match message {
                FromClient::Query(Request { query, .. }) => Some(self.answer(now, key, &query)),
                FromClient::Fetch(fetch) => self.fetch(now, key, connection, &fetch),
                FromClient::CancelTasks(cancel) => Some(self.cancel_tasks(now, key, &cancel)),
                FromClient::TakeBack(take) => Some(self.take_tasks_back(now, key, &take)),
                FromClient::Purge(purge) => Some(self.purge(key, &purge)),
                FromClient::Signal(signal) => Some(self.signal(key, &signal)),
                FromClient::Restart(restart) => self.restart(now, key, connection, &restart),
                FromClient::Revoke(revoke) => self.revoke(connection, revoke),
                FromClient::Shutdown(shutdown) => Some(self.shutdown(now, &shutdown)),
                _ => return Err(PeerMisbehaved::Order),
            }
        } else {
            Some(super::authority::forbidden(role, what, needed))
        };
        if let Some(body) = answer {
            self.answer_request(key, connection, Reply { request, body }, before);
        }
        Ok(())
    }

    pub(super) fn may(&self, key: SessionKey, allowed: impl Fn(Role) -> bool) -> Result<(), PeerMisbehaved> {
        let session = self.sessions.get(key).ok_or(PeerMisbehaved::Order)?;
        if allowed(session.claims.role) { Ok(()) } else { Err(PeerMisbehaved::Role) }
    }

    /// The first message of a connection. What the client has not acknowledged is delivered again, before it hears
    /// which submits are known: then it goes on, and must know how much of its room the results of before occupy.
    fn open(&mut self, now: Time, key: SessionKey, connection: ConnectionId, open: Open) -> Result<(), PeerMisbehaved> {
        let session = self.sessions.get_mut(key).ok_or(PeerMisbehaved::Order)?;
        let accepted = session.open(now, open)?;
        let id = session.id;
        // What is on its way to the journal is delivered when it is there.
        let undelivered = session.done.iter().filter(|(_, done)| !done.is_unwritten);
        let undelivered: Vec<(u64, TaskState)> = undelivered.map(|(n, done)| (n, done.outcome.state)).collect();
        for (n, state) in undelivered {
            self.deliver(key, n);
            let was_stopped = matches!(state, TaskState::Cancelled | TaskState::TimedOut);
            let still_runs = self.sessions.get(key).is_some_and(|session| session.is_stopping(n));
            if was_stopped && !still_runs {
                // It may have been said when nobody was there to hear it.
                self.tell_stopped(key, n);
            }
        }
        self.to_client(connection, ToClient::Accepted(accepted));
        self.hasten_orphans_of(now, id);
        Ok(())
    }

    fn cancel(&mut self, now: Time, key: SessionKey, cancel: &Cancel) -> Result<(), PeerMisbehaved> {
        self.may(key, Role::may_cancel)?;
        let session = self.sessions.get(key).ok_or(PeerMisbehaved::Order)?;
        // Ascending and disjoint, so that a task is met once however many ranges there are.
        let ascending = cancel.ranges.windows(2).all(|pair| pair[0].1 < pair[1].0);
        if !ascending || cancel.ranges.iter().any(|(first, last)| first > last) {
            return Err(PeerMisbehaved::Limit);
        }
        let ranges = cancel.ranges.iter();
        let tasks: Vec<TaskKey> =
            ranges.flat_map(|(first, last)| session.tasks.range(*first, *last)).map(|(_, task)| *task).collect();
        if cancel.force {
            cancel.ranges.iter().for_each(|(first, last)| self.force_stopping(now, key, *first, *last));
        }
        tasks.into_iter().for_each(|task| self.cancel_task(now, task, cancel.force));
        Ok(())
    }
}
