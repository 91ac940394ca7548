//! Data that peers send in chunks.

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;
use furlong_wire::limits::CHUNK_BYTES_MAX;
use furlong_wire::message::{Chunk, Payload};
use furlong_wire::payload::{chunk_bytes, chunk_count};

/// The payloads that a peer sends, and its credit.
#[derive(Debug, Default)]
pub struct Sending {
    transfers_made: u64,
    pub granted: u64,
    announced: u64,
    /// Chunks that have not been sent, by transfer.
    pub chunks: BTreeMap<u64, VecDeque<Bytes>>,
}

impl Sending {
    /// A connection is there: transfers and credit begin anew.
    pub fn begin(&mut self, credit: u64) {
        *self = Self { granted: credit, ..Self::default() };
    }

    pub fn may_announce(&self, bytes: u64) -> bool {
        self.announced + bytes <= self.granted
    }

    /// A payload of that many bytes, whose chunks are sent later, one by one.
    pub fn chunked(&mut self, bytes: u64) -> Payload {
        self.transfers_made += 1;
        self.announced += bytes;
        let chunk = |index| Bytes::from_static(&ZEROS[..chunk_bytes(bytes, index).unwrap()]);
        self.chunks.insert(self.transfers_made, (0..chunk_count(bytes)).map(chunk).collect());
        Payload::Chunked { transfer: self.transfers_made, counter: 0, bytes, instance: None }
    }

    pub fn next_chunk(&mut self) -> Option<(Chunk, Bytes)> {
        let mut entry = self.chunks.first_entry()?;
        let transfer = *entry.key();
        let chunk = entry.get_mut().pop_front()?;
        if entry.get().is_empty() {
            entry.remove();
        }
        Some((Chunk { transfer }, chunk))
    }
}

/// The bytes from which chunks are cut.
static ZEROS: [u8; CHUNK_BYTES_MAX + 16] = [0; CHUNK_BYTES_MAX + 16];
