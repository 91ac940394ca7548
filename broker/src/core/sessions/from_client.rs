//! Messages from clients.

use bytes::Bytes;
use furlong_wire::ids::TaskSeq;
use furlong_wire::message::{Cancel, CancelTasks, FromClient, Open, Query, Reply, Request};
use furlong_wire::token::Role;

use crate::core::keys::SessionKey;
use crate::core::turns::rest::{Act, Named};
use crate::core::{Connected, ConnectionId, Core, Output, PeerMisbehaved, Time};

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
        let Some(Connected::Client(key)) = self.peers.connections.get(&connection).copied() else {
            return Err(PeerMisbehaved::Order);
        };
        self.begin_message(now, connection)?;
        match message {
            FromClient::Submit(submit) => self.submit(now, key, submit),
            FromClient::Chunk(announced) => {
                self.client_chunk(now, key, announced.transfer, chunk.unwrap_or_default())
            }
            // The shell gives the file itself: see `handle_file`.
            FromClient::Passed(_) => Err(PeerMisbehaved::Transfer),
            FromClient::Ack(ack) => self.acknowledge(now, key, connection, &ack.ranges.0),
            FromClient::Open(open) => self.open(now, key, connection, open),
            FromClient::Define(define) => self.define(now, key, &define),
            FromClient::Undefine(undefine) => self.undefine(key, undefine.number),
            FromClient::Name(name) => self.name(key, name),
            FromClient::Cancel(cancel) => self.cancel(now, key, connection, &cancel),
            FromClient::Subscribe(wanted) => {
                self.may(key, Role::may_observe)?;
                if wanted.engines {
                    self.peers.events.subscribe(key);
                } else {
                    self.peers.events.unsubscribe(key);
                }
                Ok(())
            }
            FromClient::Goodbye(_) => {
                self.end_session(now, key);
                // Whatever it still says is out of order: it has no session any longer.
                self.peers.connections.remove(&connection);
                self.outputs.push_back(Output::Close(connection, "goodbye"));
                Ok(())
            }
            // Results are given as they come; the bound is the unacknowledged ones that a session
            // may have.
            FromClient::Credit(_) => Ok(()),
            request => self.request(now, key, connection, request),
        }
    }

    /// Handles a numbered request, which is answered under its number.
    fn request(
        &mut self,
        now: Time,
        key: SessionKey,
        connection: ConnectionId,
        message: FromClient,
    ) -> Result<(), PeerMisbehaved> {
        let role = self.sessions.get(key).ok_or(PeerMisbehaved::Order)?.claims.role;
        let (request, what, needed, allowed) = match &message {
            FromClient::Query(it) => {
                (it.request, "ask for the cluster's state", "observer", role.may_observe())
            }
            FromClient::Fetch(it) => (it.request, "fetch results", "client", role.may_cancel()),
            FromClient::CancelTasks(it) => {
                (it.request, "cancel tasks", "client", role.may_cancel())
            }
            FromClient::TakeBack(it) => {
                (it.request, "take tasks back", "client", role.may_cancel())
            }
            FromClient::Purge(it) => (it.request, "purge results", "client", role.may_cancel()),
            FromClient::Signal(it) => {
                (it.request, "send signals", "client", role.may_submit_direct())
            }
            FromClient::Restart(it) => {
                (it.request, "restart engines", "client", role.may_submit_direct())
            }
            FromClient::Revoke(it) => (it.request, "revoke tokens", "admin", role.may_administer()),
            FromClient::Shutdown(it) => {
                (it.request, "stop engines or the broker", "admin", role.may_administer())
            }
            _ => return Err(PeerMisbehaved::Order),
        };
        // The answer waits for what the request brings about in the journal, from here on.
        let before = self.entries();
        let answer = if allowed {
            match message {
                FromClient::Query(Request { query: Query::Inspect(wanted), .. }) => {
                    self.inspect(now, key, connection, (request, &wanted))
                }
                FromClient::Query(Request { query, .. }) => Some(self.answer(now, key, &query)),
                FromClient::Fetch(fetch) => self.fetch(now, key, connection, &fetch),
                FromClient::CancelTasks(CancelTasks { tasks, force, .. }) => self.act_on_tasks(
                    now,
                    key,
                    connection,
                    (request, Act::Cancel { force }),
                    &tasks,
                ),
                FromClient::TakeBack(take) => {
                    self.act_on_tasks(now, key, connection, (request, Act::TakeBack), &take.tasks)
                }
                FromClient::Purge(purge) => {
                    self.act_on_tasks(now, key, connection, (request, Act::Purge), &purge.tasks)
                }
                FromClient::Signal(signal) => Some(self.signal(key, signal)),
                FromClient::Restart(restart) => self.restart(now, key, connection, restart),
                FromClient::Revoke(revoke) => self.revoke(connection, revoke),
                FromClient::Shutdown(shutdown) => self.shutdown(now, connection, &shutdown),
                _ => unreachable!("each of them is a request"),
            }
        } else {
            Some(super::authority::forbidden(role, what, needed))
        };
        if let Some(body) = answer {
            self.answer_request(key, connection, Reply { request, body }, before);
        }
        Ok(())
    }

    pub(in crate::core) fn may(
        &self,
        key: SessionKey,
        allowed: impl Fn(Role) -> bool,
    ) -> Result<(), PeerMisbehaved> {
        let session = self.sessions.get(key).ok_or(PeerMisbehaved::Order)?;
        if allowed(session.claims.role) { Ok(()) } else { Err(PeerMisbehaved::Role) }
    }

    /// The first message of a connection, and once. What the client has not acknowledged is
    /// delivered again, before it hears which submits are known: then it goes on, and must know how
    /// much of its room the results of before occupy.
    fn open(
        &mut self,
        now: Time,
        key: SessionKey,
        connection: ConnectionId,
        open: Open,
    ) -> Result<(), PeerMisbehaved> {
        let session = self.sessions.get_mut(key).ok_or(PeerMisbehaved::Order)?;
        if std::mem::replace(&mut session.link.is_open, true) {
            return Err(PeerMisbehaved::Order);
        }
        let accepted = session.open(now, open)?;
        self.deliver_from(now, key, connection, TaskSeq::MIN, accepted);
        Ok(())
    }

    fn cancel(
        &mut self,
        now: Time,
        key: SessionKey,
        connection: ConnectionId,
        cancel: &Cancel,
    ) -> Result<(), PeerMisbehaved> {
        self.may(key, Role::may_cancel)?;
        check_ascending(&cancel.ranges)?;
        self.act_on(
            now,
            key,
            connection,
            Named::own(Act::Cancel { force: cancel.force }, key, &cancel.ranges),
        );
        Ok(())
    }
}

/// Checks that ranges are ascending and disjoint, so that a task is met once however many ranges
/// there are.
pub(in crate::core) fn check_ascending(
    ranges: &[(TaskSeq, TaskSeq)],
) -> Result<(), PeerMisbehaved> {
    let is_sound = ranges.windows(2).all(|pair| pair[0].1 < pair[1].0)
        && ranges.iter().all(|(first, last)| first <= last);
    if is_sound { Ok(()) } else { Err(PeerMisbehaved::Limit) }
}
