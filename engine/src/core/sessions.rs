//! The sessions whose tasks an engine process runs: keys, definitions, and what each may send
//! unasked.

use std::collections::BTreeMap;

use bytes::Bytes;
use furlong_link::file::{FiledPayload, PayloadFile};
use furlong_wire::call::{ReplyHeader, encode_reply};
use furlong_wire::ids::{InstanceId, SessionId};
use furlong_wire::payload::{
    Packed, PayloadError, PayloadKey, PayloadOpener, PayloadSealer, PayloadSecret,
};

/// The sessions of a process.
#[derive(Debug)]
pub struct Sessions {
    instance: InstanceId,
    known: BTreeMap<SessionId, Session>,
    /// The first counter of new sealers: beyond all that forgotten ones have used, since a session
    /// that comes back comes with the same key.
    counter_floor: u64,
}

#[derive(Debug)]
struct Session {
    secret: PayloadSecret,
    requests: PayloadKey,
    results: PayloadSealer,
    /// The first counter of that sealer.
    first_counter: u64,
    definitions: BTreeMap<u32, Option<Bytes>>,
    /// None until the broker has opened it on this connection.
    lane: Option<Lane>,
    /// True if the broker is not told the types of its errors.
    hides_names: bool,
}

/// The allowance of a session for large payloads sent unasked, on one connection: others' do not
/// wait for them.
#[derive(Debug)]
pub struct Lane {
    first: u64,
    granted: u64,
    announced: u64,
}

impl Lane {
    /// Counts a result, if its bytes may go unasked.
    fn announce(&mut self, bytes: u64) -> bool {
        let fits =
            self.announced.checked_add(bytes).is_some_and(|announced| announced <= self.granted);
        self.announced += if fits { bytes } else { 0 };
        assert!(!fits || self.announced <= self.granted, "{} bytes go unasked", self.announced);
        fits
    }

    /// True if so many published bytes may go: within the credit, or as the one payload that
    /// overdraws it when all else has come back. Nobody asks for published data.
    pub fn may_publish(&self, bytes: u64) -> bool {
        let has_all_back = self.announced.saturating_add(self.first) <= self.granted;
        has_all_back || bytes <= self.granted.saturating_sub(self.announced)
    }

    /// Counts published data that go.
    fn publish(&mut self, bytes: u64) {
        self.announced = self.announced.saturating_add(bytes);
    }
}

impl Sessions {
    /// None known.
    pub fn new(instance: InstanceId) -> Self {
        Self { instance, known: BTreeMap::new(), counter_floor: 0 }
    }

    /// The process's instance, which enters its keys.
    pub fn instance(&self) -> InstanceId {
        self.instance
    }

    /// Learns a session's secret. One that is known already keeps its sealer: a second one would
    /// repeat nonces.
    pub fn learn(&mut self, id: SessionId, secret: &PayloadSecret, hides_names: bool) {
        if let Some(known) = self.known.get_mut(&id).filter(|known| known.secret == *secret) {
            known.hides_names = hides_names;
            return;
        }
        self.forget(id);
        let session = Session {
            requests: secret.request_key(&id),
            results: secret.result_key(&id, &self.instance).into_sealer_from(self.counter_floor),
            first_counter: self.counter_floor,
            secret: secret.clone(),
            definitions: BTreeMap::new(),
            lane: None,
            hides_names,
        };
        self.known.insert(id, session);
    }

    /// Nothing goes unasked on a new connection before the broker says how much.
    pub fn handle_connected(&mut self) {
        self.known.values_mut().for_each(|session| session.lane = None);
    }

    /// So many bytes of a session may go unasked at first.
    pub fn open_lane(&mut self, id: SessionId, first: u64) {
        let lane = Lane { first, granted: first, announced: 0 };
        let session = self.known.get_mut(&id).expect("a lane is that of a session just learnt");
        session.lane = Some(lane);
    }

    /// So many bytes of a session may have gone unasked, in all.
    pub fn grant(&mut self, id: SessionId, total: u64) {
        // A word about a session that is over may still be on its way.
        let lane = self.known.get_mut(&id).and_then(|session| session.lane.as_mut());
        if let Some(lane) = lane {
            lane.granted = lane.granted.max(total);
        }
    }

    /// Returns true if a result may go unasked, and counts it if so.
    pub fn announce(&mut self, id: SessionId, bytes: u64) -> bool {
        let lane = self.known.get_mut(&id).and_then(|session| session.lane.as_mut());
        lane.is_some_and(|lane| lane.announce(bytes))
    }

    /// Returns true if published data of a session may go, and counts them if so.
    pub fn publish(&mut self, id: SessionId, bytes: u64) -> bool {
        let lane = self.known.get_mut(&id).and_then(|session| session.lane.as_mut());
        let Some(lane) = lane.filter(|lane| lane.may_publish(bytes)) else { return false };
        lane.publish(bytes);
        true
    }

    /// Returns true if the broker is not told the types of a session's errors.
    pub fn hides_names(&self, id: SessionId) -> bool {
        self.known.get(&id).is_none_or(|session| session.hides_names)
    }

    /// A session's lane, if it is known and the broker has opened it on this connection.
    pub fn lane(&self, id: SessionId) -> Option<&Lane> {
        self.known.get(&id).and_then(|session| session.lane.as_ref())
    }

    /// The session is over.
    pub fn forget(&mut self, id: SessionId) {
        if let Some(session) = self.known.remove(&id) {
            // The key is made of the session's secret and this process: the same for the next
            // sealer.
            let used = session.results.counter();
            assert!(used >= session.first_counter, "a sealer counts upwards: nonces never repeat");
            self.counter_floor = self.counter_floor.max(used);
        }
    }

    /// Returns true if the session's secret is here.
    pub fn knows(&self, id: SessionId) -> bool {
        self.known.contains_key(&id)
    }

    /// Returns the opener of a large payload of a session; none if the session is unknown.
    /// `of` is the engine process that sealed it as a result; otherwise it is of a client.
    pub fn opener(
        &self,
        id: SessionId,
        of: Option<InstanceId>,
        counter: u64,
        bytes: u64,
    ) -> Option<Result<PayloadOpener, PayloadError>> {
        let session = self.known.get(&id)?;
        let key = of.map(|instance| session.secret.result_key(&id, &instance));
        let key = key.unwrap_or_else(|| session.requests.clone());
        Some(PayloadOpener::new(key, counter, bytes))
    }

    /// Prepares a result for the wire.
    ///
    /// # Errors
    /// The reason why it cannot be sent, for people.
    pub fn pack(
        &mut self,
        id: SessionId,
        header: &ReplyHeader,
        data: Vec<Bytes>,
    ) -> Result<Packed, String> {
        let session = self.known.get_mut(&id).ok_or("the client's session has ended")?;
        session
            .results
            .pack_with_header(encode_reply(header), data)
            .map_err(|error| error.to_string())
    }

    /// Prepares a result that is in a memory file, header and all.
    ///
    /// # Errors
    /// The reason why it cannot be sent, for people.
    pub fn seal_file(&mut self, id: SessionId, file: PayloadFile) -> Result<FiledPayload, String> {
        let session = self.known.get_mut(&id).ok_or("the client's session has ended")?;
        Ok(FiledPayload::seal(file, &mut session.results))
    }

    /// Keeps a definition; none if it did not arrive whole.
    pub fn define(&mut self, id: SessionId, number: u32, blob: Option<Bytes>) {
        if let Some(session) = self.known.get_mut(&id) {
            session.definitions.insert(number, blob);
        }
    }

    /// No later work names a definition.
    pub fn undefine(&mut self, id: SessionId, number: u32) {
        if let Some(session) = self.known.get_mut(&id) {
            session.definitions.remove(&number);
        }
    }

    /// Returns true if a definition has come, whole or not.
    pub fn is_defined(&self, id: SessionId, number: u32) -> bool {
        self.known.get(&id).is_some_and(|session| session.definitions.contains_key(&number))
    }

    /// A definition, if it is here.
    pub fn definition(&self, id: SessionId, number: u32) -> Option<Bytes> {
        self.known.get(&id)?.definitions.get(&number)?.clone()
    }
}

#[cfg(test)]
mod tests {
    use furlong_wire::call::Codec;

    use super::*;

    #[test]
    fn a_session_that_comes_back_never_repeats_a_counter() {
        let mut sessions = Sessions::new(InstanceId([1; 16]));
        let (id, secret) = (SessionId([2; 16]), PayloadSecret::new([3; 32]));
        let mut counters = Vec::new();
        for _ in 0..3 {
            sessions.learn(id, &secret, false);
            sessions.learn(id, &secret, false);
            let Ok(Packed::Chunked(sealed)) = sessions.pack(
                id,
                &ReplyHeader::Returned { codec: Codec::Raw },
                vec![vec![0; 5_000].into()],
            ) else {
                panic!("not large")
            };
            counters.push(sealed.counter());
            sessions.forget(id);
        }
        assert_eq!(counters, [0, 1, 2]);
    }
}
