//! Payloads that peers on this machine have passed in memory files, in place of chunks.

use furlong_link::file::FileContent;
use furlong_wire::ids::{InstanceId, SessionId};
use furlong_wire::payload::{PayloadKey, PayloadSecret};

use crate::core::payloads::arriving::EngineWaiting;
use crate::core::{Connected, ConnectionId, Core, PeerMisbehaved, Time};

impl Core {
    /// A peer has passed the payload of a transfer in a memory file.
    ///
    /// # Errors
    /// The peer is to be closed.
    pub fn handle_file(
        &mut self,
        now: Time,
        connection: ConnectionId,
        transfer: u64,
        content: FileContent,
    ) -> Result<(), PeerMisbehaved> {
        let connected = self.peers.connections.get(&connection).copied();
        self.begin_message(now, connection)?;
        match connected {
            Some(Connected::Client(key)) => {
                let session = self.sessions.get_mut(key).ok_or(PeerMisbehaved::Order)?;
                let secret = session.secret.as_ref().ok_or(PeerMisbehaved::Order)?;
                let key_of = |_: &_, _: Option<&InstanceId>| secret.request_key(&session.id);
                let whole = session.link.receiving.handle_file(transfer, content, key_of)?;
                whole.map_or(Ok(()), |(waiting, stored)| {
                    self.client_payload(now, key, waiting, stored)
                })
            }
            Some(Connected::Engine(key)) => {
                let (sessions, kept) = (&self.sessions, &self.kept);
                let key_of = |waiting: &EngineWaiting, instance: Option<&InstanceId>| {
                    let session = waiting.session();
                    let of = sessions.get(session).map(|it| (it.id, it.secret.as_ref()));
                    result_key(of.or_else(|| kept.id_and_secret(session)), instance)
                };
                let process = self.processes.get_mut(&key).ok_or(PeerMisbehaved::Order)?;
                let whole = process.sending.receiving.handle_file(transfer, content, key_of)?;
                whole.map_or(Ok(()), |(waiting, stored)| {
                    self.engine_payload(now, key, transfer, waiting, stored)
                })
            }
            None => Err(PeerMisbehaved::Order),
        }
    }
}

/// The key of a result. Of a session that is over nobody asks for it: then any key will do.
fn result_key(
    of: Option<(SessionId, Option<&PayloadSecret>)>,
    instance: Option<&InstanceId>,
) -> PayloadKey {
    let none = (SessionId([0; 16]), None);
    let (session, secret) = of.unwrap_or(none);
    let instance = instance.copied().unwrap_or(InstanceId([0; 16]));
    match secret {
        Some(secret) => secret.result_key(&session, &instance),
        None => PayloadSecret::new([0; 32]).result_key(&session, &instance),
    }
}
