//! Revocation and expiry of tokens while their holders are connected. Also what administrators may
//! do to the broker itself.

use std::collections::{BTreeMap, BTreeSet};

use furlong_wire::capability::RevokedTokens;
use furlong_wire::ids::{OwnerId, TokenId};
use furlong_wire::limits::CLOCK_TOLERANCE_S;
use furlong_wire::message::{Goodbye, Reply, ReplyBody, Revoke, ToClient, ToEngine};
use furlong_wire::token::{Claims, Role};

use crate::core::keys::SessionKey;
use crate::core::{Connected, ConnectionId, Core, Output, Time};

/// Revocations that may be on their way to the disk at once: what an administrator can make the
/// broker remember.
const REVOCATIONS_MAX: usize = 16;

/// The tokens of the connected peers.
#[derive(Debug, Default)]
pub struct Authority {
    holders: BTreeMap<ConnectionId, Holder>,
    /// Those that expire, the next one first.
    by_expiry: BTreeSet<(u64, ConnectionId)>,
    revocations: usize,
}

#[derive(Clone, Copy, Debug)]
struct Holder {
    owner: OwnerId,
    token: TokenId,
    expires_s: u64,
}

impl Authority {
    /// A peer with this token was let in.
    pub fn handle_connected(&mut self, connection: ConnectionId, claims: &Claims) {
        let (owner, token, expires_s) = (claims.owner, claims.token_id, claims.expires_s);
        let before = self.holders.insert(connection, Holder { owner, token, expires_s });
        assert!(before.is_none(), "{connection:?} is let in twice");
        if expires_s != Claims::NEVER {
            self.by_expiry.insert((expires_s, connection));
        }
    }

    /// The owner for whom a peer was let in.
    pub fn owner(&self, connection: ConnectionId) -> Option<OwnerId> {
        self.holders.get(&connection).map(|holder| holder.owner)
    }

    /// A connection is gone.
    pub fn handle_disconnected(&mut self, connection: ConnectionId) {
        if let Some(holder) = self.holders.remove(&connection) {
            self.by_expiry.remove(&(holder.expires_s, connection));
        }
    }
}

impl Core {
    /// These tokens are no longer good: who is here with one of them has to go, and sessions that
    /// were opened with one end, also those that are away. Their tasks are cancelled.
    pub fn handle_revoked(&mut self, now: Time, revoked: &RevokedTokens) {
        let holders = self.peers.authority.holders.iter();
        let gone: Vec<(ConnectionId, String)> = holders
            .filter_map(|(connection, holder)| Some((*connection, revoked.refusal(holder.token)?)))
            .collect();
        for (connection, reason) in gone {
            self.dismiss(now, connection, reason, "its token is revoked");
        }
        // Also those that are away, which have no holder: they must not come back to their tasks.
        let refusal = |claims: &Claims| revoked.refusal(claims.token_id);
        let away = self
            .sessions
            .iter()
            .filter_map(|(key, session)| Some((key, refusal(&session.claims)?)));
        let away: Vec<(SessionKey, String)> = away.collect();
        for (key, why) in away {
            self.end_session_with_all(now, key, &why);
        }
        self.dispatch(now);
    }

    /// Returns the time at which [`Core::expire_tokens`] has work: the next expiry of a connected
    /// peer's token.
    pub(in crate::core) fn next_token_expiry(&self) -> Option<Time> {
        let (expires_s, _) = self.peers.authority.by_expiry.first()?;
        let unix_us = expires_s.saturating_add(CLOCK_TOLERANCE_S).saturating_mul(1_000_000);
        Some(Time(unix_us.saturating_sub(self.config.start.0)))
    }

    /// Closes peers whose token has expired, with the same tolerance as at the handshake.
    pub(in crate::core) fn expire_tokens(&mut self, now: Time) {
        if self.next_token_expiry().is_none_or(|at| at > now) {
            return;
        }
        while let Some((_, connection)) =
            self.next_token_expiry().filter(|at| *at <= now).and(self.first_to_expire())
        {
            let reason = "the capability's token has expired; ask who runs the cluster for another"
                .to_owned();
            self.dismiss(now, connection, reason, "its token has expired");
        }
        self.dispatch(now);
    }

    fn first_to_expire(&self) -> Option<(u64, ConnectionId)> {
        self.peers.authority.by_expiry.first().copied()
    }

    /// Tells a peer why, ends what it has here, and closes its connection.
    fn dismiss(
        &mut self,
        now: Time,
        connection: ConnectionId,
        reason: String,
        close: &'static str,
    ) {
        // First: whatever follows must not find its token here once more.
        self.peers.authority.handle_disconnected(connection);
        let goodbye = Goodbye { reason };
        match self.peers.connections.get(&connection).copied() {
            Some(Connected::Client(key)) => {
                // Before the goodbye, so that the ends of its tasks still reach it.
                self.end_session_with_all(now, key, &goodbye.reason);
                self.to_client(connection, ToClient::Goodbye(goodbye));
            }
            Some(Connected::Engine(key)) => {
                // As one that has said goodbye itself: nobody waits for it.
                let process = self.processes.get_mut(&key);
                process.expect("a connection of an engine process has its process").leaving = true;
                self.to_engine(connection, ToEngine::Goodbye(goodbye));
            }
            None => return,
        }
        self.handle_disconnected(now, connection);
        self.outputs.push_back(Output::Close(connection, close));
    }

    /// Returns true if a connection that was let in is still served.
    pub fn is_served(&self, connection: ConnectionId) -> bool {
        self.peers.connections.contains_key(&connection)
    }

    /// An administrator revokes tokens. The reply comes when they are revoked for good, see
    /// [`Core::handle_revocation`], unless it is a refusal.
    pub(in crate::core) fn revoke(
        &mut self,
        connection: ConnectionId,
        revoke: Revoke,
    ) -> Option<ReplyBody> {
        if self.peers.authority.revocations >= REVOCATIONS_MAX {
            let text = "other tokens are being revoked at this moment; try again";
            return Some(ReplyBody::Refused(text.to_owned()));
        }
        self.peers.authority.revocations += 1;
        self.outputs.push_back(Output::Revoke(connection, revoke.request, revoke.tokens));
        None
    }

    /// Handles the result of an [`Output::Revoke`]: all tokens revoked now, or why the list could
    /// not be written.
    pub fn handle_revocation(
        &mut self,
        now: Time,
        connection: ConnectionId,
        request: u64,
        written: Result<&RevokedTokens, String>,
    ) {
        assert!(self.peers.authority.revocations > 0, "a revocation is answered twice");
        self.peers.authority.revocations -= 1;
        let body = match &written {
            Ok(_) => ReplyBody::Done,
            Err(text) => ReplyBody::Refused(format!("nothing is revoked: {text}")),
        };
        self.answer_later(connection, Reply { request, body });
        if let Ok(revoked) = written {
            self.handle_revoked(now, revoked);
        }
    }
}

/// The refusal of a request that a role may not make, and a role that may.
pub(in crate::core) fn forbidden(role: Role, what: &str, needed: &str) -> ReplyBody {
    ReplyBody::Refused(format!(
        "the capability's role `{role}` may not {what}; ask for one of role `{needed}`"
    ))
}
