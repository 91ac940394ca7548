//! Results that come in chunks.

use std::collections::BTreeMap;

use bytes::Bytes;
use furlong_wire::ids::{InstanceId, SessionId};
use furlong_wire::message::Payload;
use furlong_wire::payload::{PayloadKey, PayloadOpener, PayloadSecret};

use super::tasks::Ended;
use crate::outcome::PayloadFailure;

/// Keys that are kept; beyond, all are made anew when they are needed.
const KEYS_MAX: usize = 1024;

/// The payloads that the broker is sending, by its transfer numbers.
#[derive(Debug)]
pub struct Results {
    session: SessionId,
    secret: PayloadSecret,
    keys: BTreeMap<InstanceId, PayloadKey>,
    transfers: BTreeMap<u64, Receiving>,
}

#[derive(Debug)]
struct Receiving {
    task: usize,
    ended: Ended,
    opener: PayloadOpener,
}

/// What a task's payload turned out to be.
#[derive(Debug)]
pub enum Body {
    /// There is none.
    None,
    /// As it came in its message.
    Inline(Bytes),
    /// Opened.
    Buffers(Vec<Bytes>),
    /// It cannot be opened.
    Failed(PayloadFailure),
}

impl Body {
    /// Bytes that the broker holds for it.
    pub fn bytes(&self) -> u64 {
        match self {
            Self::None | Self::Failed(_) => 0,
            Self::Inline(bytes) => bytes.len() as u64,
            Self::Buffers(buffers) => buffers.iter().map(|buffer| buffer.len() as u64).sum(),
        }
    }
}

/// A task whose payload is complete, or broken.
#[derive(Debug)]
pub struct Received {
    /// The task's key.
    pub task: usize,
    /// How it ended, without its payload.
    pub ended: Ended,
    /// Its payload.
    pub body: Body,
}

impl Results {
    /// Opens what is sealed for this session.
    pub fn new(session: SessionId, secret: PayloadSecret) -> Self {
        Self { session, secret, keys: BTreeMap::new(), transfers: BTreeMap::new() }
    }

    /// Takes a payload as a message carries or announces it. Returns the task if nothing more has to come.
    pub fn handle_payload(&mut self, task: usize, ended: Ended, payload: Option<Payload>) -> Option<Received> {
        let body = match payload {
            None => Body::None,
            Some(Payload::Inline(bytes)) => Body::Inline(bytes),
            Some(Payload::Chunked { transfer, counter, bytes, instance }) => {
                match self.opener(counter, bytes, instance) {
                    Ok(opener) if opener.is_complete() => open(opener),
                    Ok(opener) => {
                        self.transfers.insert(transfer, Receiving { task, ended, opener });
                        return None;
                    }
                    Err(failure) => Body::Failed(failure),
                }
            }
        };
        Some(Received { task, ended, body })
    }

    /// Takes a chunk. Chunks of transfers that are unknown here, or have failed, are read past.
    pub fn handle_chunk(&mut self, transfer: u64, chunk: &[u8]) -> Option<Received> {
        let receiving = self.transfers.get_mut(&transfer)?;
        let opened = receiving.opener.handle_chunk(chunk);
        if opened.is_ok() && !receiving.opener.is_complete() {
            return None;
        }
        let Receiving { task, ended, opener } = self.transfers.remove(&transfer)?;
        let body = opened.map_or_else(|error| Body::Failed(error.into()), |()| open(opener));
        Some(Received { task, ended, body })
    }

    /// Nothing more will come.
    pub fn clear(&mut self) {
        self.transfers.clear();
    }

    fn opener(
        &mut self,
        counter: u64,
        bytes: u64,
        instance: Option<InstanceId>,
    ) -> Result<PayloadOpener, PayloadFailure> {
        let instance = instance.ok_or(PayloadFailure::NoSender)?;
        if self.keys.len() >= KEYS_MAX && !self.keys.contains_key(&instance) {
            self.keys.clear();
        }
        let key = self.keys.entry(instance).or_insert_with(|| self.secret.result_key(&self.session, &instance));
        Ok(PayloadOpener::new(key.clone(), counter, bytes)?)
    }
}

fn open(opener: PayloadOpener) -> Body {
    opener.into_buffers().map_or_else(|error| Body::Failed(error.into()), Body::Buffers)
}
