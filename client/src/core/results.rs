//! Results that come in chunks.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use furlong_wire::ids::{InstanceId, SessionId, TaskSeq};
use furlong_wire::limits::ASKED_FOR_TRANSFER;
use furlong_wire::message::{Payload, TaskRecord};
use furlong_wire::payload::{
    InlineBytes, PayloadError, PayloadKey, PayloadOpener, PayloadSecret, buffers_of,
};

use super::tasks::Completion;
use super::{Core, Waiter};
use crate::outcome::PayloadFailure;

/// Keys that are kept; beyond, all are made anew when they are needed.
const KEYS_MAX: usize = 1024;
/// Sessions whose results can be opened here. The broker tells each secret once.
const SECRETS_MAX: usize = 65_536;

/// The payloads that the broker is sending, by its transfer numbers.
#[derive(Debug)]
pub struct Results {
    session: SessionId,
    secrets: BTreeMap<SessionId, PayloadSecret>,
    keys: BTreeMap<(SessionId, InstanceId), PayloadKey>,
    transfers: BTreeMap<u64, Receiving>,
    /// Of the transfers, those of intermediate data, by the task's number.
    published: BTreeSet<(TaskSeq, u64)>,
}

#[derive(Debug)]
struct Receiving {
    to: Recipient,
    opener: PayloadOpener,
    /// The task's end, which has come before what it published.
    then: Option<Box<Received>>,
}

/// Whom a payload is for.
#[derive(Debug)]
pub enum Recipient {
    /// A task, by its key, and how it ended.
    Task(usize, Completion),
    /// The followers of a task, by its number: intermediate data, which are numbered, too.
    Published(TaskSeq, u64),
    /// The request that asked for a task, by its number.
    Request(u64, Box<TaskRecord>),
}

/// The body that a task's payload turned out to hold.
#[derive(Debug)]
pub enum Body {
    /// There is none.
    None,
    /// As it came in its message.
    Inline(InlineBytes),
    /// Opened.
    Buffers(Vec<Bytes>),
    /// It stays at the broker, and has so many bytes.
    Elsewhere(u64),
    /// It cannot be opened.
    Failed(PayloadFailure),
}

impl Body {
    /// Returns false if it is here alone. A result that was to stay, and found no room at the
    /// broker, comes in chunks; a short one that stays is here, too.
    pub fn may_stay(&self) -> bool {
        !matches!(self, Self::Buffers(_) | Self::Failed(_))
    }

    /// Bytes that the broker holds for it.
    pub fn bytes(&self) -> u64 {
        match self {
            Self::None | Self::Failed(_) => 0,
            Self::Inline(bytes) => bytes.len() as u64,
            Self::Elsewhere(bytes) => *bytes,
            Self::Buffers(buffers) => buffers.iter().map(|buffer| buffer.len() as u64).sum(),
        }
    }
}

/// A payload that is complete, or broken.
#[derive(Debug)]
pub struct Received {
    /// Whom it is for.
    pub to: Recipient,
    /// The payload.
    pub body: Body,
    /// The item that was held for it: the end of a task, of whose intermediate data this is the
    /// last.
    pub then: Option<Box<Received>>,
}

impl Results {
    /// Opens what is sealed for this session.
    pub fn new(session: SessionId, secret: PayloadSecret) -> Self {
        let secrets = BTreeMap::from([(session, secret)]);
        Self {
            session,
            secrets,
            keys: BTreeMap::new(),
            transfers: BTreeMap::new(),
            published: BTreeSet::new(),
        }
    }

    /// The session whose results these are.
    pub fn session(&self) -> SessionId {
        self.session
    }

    /// Opens what is sealed for that session as well.
    pub fn learn(&mut self, session: SessionId, secret: PayloadSecret) {
        if self.secrets.len() < SECRETS_MAX {
            self.secrets.entry(session).or_insert(secret);
        }
    }

    /// Takes a payload of this session as a message carries or announces it. Gives it back if
    /// nothing more has to come. The end of a task is held while intermediate data of it are on the
    /// way: they belong to its report.
    pub fn handle_payload(&mut self, to: Recipient, payload: Option<Payload>) -> Option<Received> {
        self.handle_payload_of(self.session, to, payload)
    }

    /// The body of a payload that came in its message. Gives the payload back if it did not, and
    /// if the data of some task are on the way, which may have to come first.
    pub fn take_inline(&self, payload: Option<Payload>) -> Result<Body, Option<Payload>> {
        match payload {
            Some(Payload::Inline(bytes)) if self.published.is_empty() => Ok(Body::Inline(bytes)),
            other => Err(other),
        }
    }

    /// Takes a payload of any session.
    pub fn handle_payload_of(
        &mut self,
        session: SessionId,
        to: Recipient,
        payload: Option<Payload>,
    ) -> Option<Received> {
        let body = match payload {
            None => Body::None,
            Some(Payload::Inline(bytes)) => Body::Inline(bytes),
            // Nothing of it is on the way: it comes to who asks for it.
            Some(Payload::Chunked { transfer: ASKED_FOR_TRANSFER, bytes, .. }) => {
                Body::Elsewhere(bytes)
            }
            Some(Payload::Chunked { transfer, counter, bytes, instance }) => {
                match self.opener(session, counter, bytes, instance) {
                    Ok(opener) if opener.is_complete() => open(opener),
                    Ok(opener) => {
                        self.begin(transfer, Receiving { to, opener, then: None });
                        return None;
                    }
                    Err(failure) => Body::Failed(failure),
                }
            }
        };
        self.unless_held(Received { to, body, then: None })
    }

    /// Takes a chunk. Chunks of transfers that are unknown here, or have failed, are read past.
    pub fn handle_chunk(&mut self, transfer: u64, chunk: &[u8]) -> Option<Received> {
        let receiving = self.transfers.get_mut(&transfer)?;
        let opened = receiving.opener.handle_chunk(chunk);
        if opened.is_ok() && !receiving.opener.is_complete() {
            return None;
        }
        let Receiving { to, opener, then } = self.end(transfer)?;
        let body = opened.map_or_else(|error| Body::Failed(error.into()), |()| open(opener));
        self.complete(to, body, then)
    }

    fn complete(
        &mut self,
        to: Recipient,
        body: Body,
        then: Option<Box<Received>>,
    ) -> Option<Received> {
        // An end that was held for this may have to wait for others of its task, still on their
        // way.
        let then = then.and_then(|then| self.unless_held(*then)).map(Box::new);
        self.unless_held(Received { to, body, then })
    }

    /// Takes the content of the memory file that a payload was passed in. One of a transfer that is
    /// unknown here is let go.
    pub fn handle_file(
        &mut self,
        transfer: u64,
        content: Result<Bytes, PayloadError>,
    ) -> Option<Received> {
        let Receiving { to, opener, then } = self.end(transfer)?;
        let whole = content
            .and_then(|content| opener.check_whole(content.len() as u64).map(|()| content))
            .and_then(|content| buffers_of(&content));
        let body = whole.map_or_else(|error| Body::Failed(error.into()), Body::Buffers);
        self.complete(to, body, then)
    }

    /// Gives a payload back, unless it ends a task of which intermediate data are on the way.
    fn unless_held(&mut self, received: Received) -> Option<Received> {
        if let Recipient::Task(_, ended) = &received.to
            && let Some((_, transfer)) =
                self.published.range((ended.n, 0)..=(ended.n, u64::MAX)).next()
            && let Some(published) = self.transfers.get_mut(transfer)
        {
            published.then = Some(Box::new(received));
            return None;
        }
        Some(received)
    }

    fn begin(&mut self, transfer: u64, receiving: Receiving) {
        // A number that comes again names another payload: the first will not come whole.
        drop(self.end(transfer));
        if let Recipient::Published(n, _) = receiving.to {
            self.published.insert((n, transfer));
        }
        self.transfers.insert(transfer, receiving);
    }

    fn end(&mut self, transfer: u64) -> Option<Receiving> {
        let receiving = self.transfers.remove(&transfer)?;
        if let Recipient::Published(n, _) = receiving.to {
            self.published.remove(&(n, transfer));
        }
        Some(receiving)
    }

    /// Nothing more will come.
    pub fn clear(&mut self) {
        self.transfers.clear();
        self.published.clear();
    }

    fn opener(
        &mut self,
        session: SessionId,
        counter: u64,
        bytes: u64,
        instance: Option<InstanceId>,
    ) -> Result<PayloadOpener, PayloadFailure> {
        let secret = self.secrets.get(&session).ok_or(PayloadFailure::NoSecret)?;
        // No engine has made it: a client has put it at the broker.
        let Some(instance) = instance else {
            return Ok(PayloadOpener::new(secret.request_key(&session), counter, bytes)?);
        };
        // All at once: engine processes come and go, and which keys are of use again nobody knows.
        if self.keys.len() >= KEYS_MAX && !self.keys.contains_key(&(session, instance)) {
            self.keys.clear();
        }
        let key = self
            .keys
            .entry((session, instance))
            .or_insert_with(|| secret.result_key(&session, &instance));
        Ok(PayloadOpener::new(key.clone(), counter, bytes)?)
    }
}

fn open(opener: PayloadOpener) -> Body {
    opener.into_buffers().map_or_else(|error| Body::Failed(error.into()), Body::Buffers)
}

impl<W: Waiter> Core<W> {
    /// Takes a payload that was passed in a memory file: its content, mapped or copied.
    pub fn handle_file(&mut self, transfer: u64, content: Result<Bytes, PayloadError>) {
        if let Some(received) = self.results.handle_file(transfer, content) {
            self.receive(received);
        }
    }
}
