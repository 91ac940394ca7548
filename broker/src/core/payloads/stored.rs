//! Payloads that the broker holds: as they came, never opened or mapped.

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use furlong_link::file::{FileContent, FiledPayload};
use furlong_link::peer::outbox::Chunks;
use furlong_wire::ids::InstanceId;
use furlong_wire::limits::PAYLOAD_BYTES_MAX;
use furlong_wire::message::Payload;
use furlong_wire::payload::{InlineBytes, PayloadKey, chunk_bytes, chunk_count};

use crate::core::PeerMisbehaved;
use crate::core::journal::rows::{Blob, Chunked};

/// A payload in the broker's memory. Clones share the bytes.
#[derive(Clone, Debug)]
pub enum Stored {
    /// It came inside its message.
    Inline(InlineBytes),
    /// It came in chunks; all of them, once its task is queued.
    Chunked(Arc<ChunkedPayload>),
    /// It came in chunks, which have gone to the one engine that will ever run the task. Its bytes
    /// count until the task has ended, as those on the way do.
    Sent(u64),
    /// It did not fit the budget; what was to happen with it fails.
    Refused,
}

/// A payload in chunks.
#[derive(Debug)]
pub struct ChunkedPayload {
    counter: u64,
    bytes: u64,
    instance: Option<InstanceId>,
    /// The number under which engine processes have it, if several tasks need it.
    share: Option<u64>,
    /// The task under whose number the journal has it.
    row: OnceLock<u64>,
    content: Content,
}

/// The bytes of a payload.
#[derive(Clone, PartialEq, Debug)]
pub enum Content {
    /// As its sender sealed them.
    Chunks(Vec<Bytes>),
    /// Open: its sender, on this machine, has passed it in a memory file.
    Filed(FiledPayload),
}

impl Content {
    /// Its chunks, one after the other; those of a file are sealed as they are asked for.
    pub fn chunks(&self) -> impl Iterator<Item = Bytes> {
        let (stored, filed) = match self {
            Self::Chunks(chunks) => (&chunks[..], None),
            Self::Filed(filed) => (&[][..], Some(filed.sealed())),
        };
        let filed =
            filed.into_iter().flat_map(|sealed| (0..sealed.chunk_count()).map(|n| sealed.chunk(n)));
        stored.iter().cloned().chain(filed)
    }
}

impl From<Content> for Chunks {
    fn from(content: Content) -> Self {
        match content {
            Content::Chunks(chunks) => Self::Stored(chunks),
            Content::Filed(filed) => Self::Filed(Box::new(filed)),
        }
    }
}

impl Stored {
    /// The payload as a message to a peer has it, under the peer's transfer number, and the chunks
    /// that follow.
    pub fn announce(&self, transfer: impl FnOnce() -> u64) -> (Payload, Option<(u64, Chunks)>) {
        match self {
            Self::Inline(bytes) => (Payload::Inline(bytes.clone()), None),
            Self::Sent(_) | Self::Refused => (Payload::Inline(InlineBytes::new()), None),
            Self::Chunked(payload) => {
                let transfer = transfer();
                let ChunkedPayload { counter, bytes, instance, .. } = **payload;
                (
                    Payload::Chunked { transfer, counter, bytes, instance },
                    Some((transfer, payload.content.clone().into())),
                )
            }
        }
    }

    /// Bytes that count against the payload budget: those of chunks.
    pub fn budget_bytes(&self) -> u64 {
        match self {
            Self::Chunked(payload) => payload.bytes,
            Self::Sent(bytes) => *bytes,
            Self::Inline(_) | Self::Refused => 0,
        }
    }

    /// Bytes of the payload.
    pub fn bytes(&self) -> u64 {
        match self {
            Self::Chunked(payload) => payload.bytes,
            Self::Sent(bytes) => *bytes,
            Self::Inline(bytes) => bytes.len() as u64,
            Self::Refused => 0,
        }
    }

    /// Returns true if another clone of it is held elsewhere.
    pub fn is_held_elsewhere(&self) -> bool {
        matches!(self, Self::Chunked(payload) if Arc::strong_count(payload) > 1)
    }

    /// The number under which engine processes have it, if several tasks need it.
    pub fn share(&self) -> Option<u64> {
        match self {
            Self::Chunked(payload) => payload.share,
            Self::Inline(_) | Self::Sent(_) | Self::Refused => None,
        }
    }

    /// As the journal takes it for a task: with its chunks, if it has not had them before. None if
    /// they are not here.
    pub fn blob(&self, row: u64) -> Option<Blob> {
        match self {
            Self::Inline(bytes) => Some(Blob::Inline(bytes.clone())),
            Self::Sent(_) | Self::Refused => None,
            Self::Chunked(payload) => {
                // The first of the tasks that share it brings the chunks, the others name it.
                let of = *payload.row.get_or_init(|| row);
                let ChunkedPayload { counter, bytes, instance, .. } = **payload;
                let content = (of == row).then(|| payload.content.clone());
                Some(Blob::Chunked(Chunked { of, counter, bytes, instance, content }))
            }
        }
    }

    /// The number under which the journal has its chunks.
    pub fn row(&self) -> Option<u64> {
        match self {
            Self::Chunked(payload) => payload.row.get().copied(),
            Self::Inline(_) | Self::Sent(_) | Self::Refused => None,
        }
    }

    /// Restores a payload from the journal.
    pub fn restored(chunked: Chunked, share: Option<u64>) -> Self {
        let Chunked { of, counter, bytes, instance, content } = chunked;
        let content = content.unwrap_or(Content::Chunks(Vec::new()));
        Self::Chunked(Arc::new(ChunkedPayload {
            counter,
            bytes,
            instance,
            share,
            row: OnceLock::from(of),
            content,
        }))
    }

    /// The chunks in memory, if nobody else holds them. (A file frees itself.)
    pub fn into_chunks(self) -> Vec<Bytes> {
        let content = match self {
            Self::Chunked(payload) => Arc::into_inner(payload).map(|payload| payload.content),
            Self::Inline(_) | Self::Sent(_) | Self::Refused => None,
        };
        match content {
            Some(Content::Chunks(chunks)) => chunks,
            Some(Content::Filed(_)) | None => Vec::new(),
        }
    }
}

/// The payloads that one connection is sending.
#[derive(Debug)]
pub struct Receiving<W> {
    transfers: BTreeMap<u64, Transfer<W>>,
}

impl<W> Default for Receiving<W> {
    fn default() -> Self {
        Self { transfers: BTreeMap::new() }
    }
}

#[derive(Debug)]
struct Transfer<W> {
    counter: u64,
    bytes: u64,
    instance: Option<InstanceId>,
    share: Option<u64>,
    /// Those that have come.
    chunks: Vec<Bytes>,
    /// The recipient that waits for the payload; none if it was refused, and is only read past.
    waiting: Option<W>,
}

impl<W> Transfer<W> {
    fn into_stored(self, content: Content) -> Option<(W, Stored)> {
        let Self { counter, bytes, instance, share, chunks: _, waiting } = self;
        let row = OnceLock::new();
        let payload = ChunkedPayload { counter, bytes, instance, share, row, content };
        waiting.map(|waiting| (waiting, Stored::Chunked(Arc::new(payload))))
    }
}

impl<W> Receiving<W> {
    /// Expects the chunks of an announced payload, for which `waiting` waits; none to drop them as
    /// they come.
    pub fn expect(
        &mut self,
        transfer: u64,
        payload: &Payload,
        waiting: Option<W>,
    ) -> Result<(), PeerMisbehaved> {
        self.expect_share(transfer, payload, waiting, None)
    }

    /// The same, of a payload that engine processes will have under a number.
    pub fn expect_share(
        &mut self,
        transfer: u64,
        payload: &Payload,
        waiting: Option<W>,
        share: Option<u64>,
    ) -> Result<(), PeerMisbehaved> {
        self.check(payload)?;
        let Payload::Chunked { counter, bytes, instance, .. } = *payload else { return Ok(()) };
        let chunks = Vec::new();
        let expected = Transfer { counter, bytes, instance, share, chunks, waiting };
        let before = self.transfers.insert(transfer, expected);
        assert!(before.is_none(), "transfer {transfer} is under way twice");
        Ok(())
    }

    /// Checks that an announcement can be expected. To be called before anything is reserved for
    /// it.
    pub fn check(&self, payload: &Payload) -> Result<(), PeerMisbehaved> {
        let Payload::Chunked { transfer, bytes, .. } = payload else { return Ok(()) };
        let sound = *bytes > 0
            && *bytes <= PAYLOAD_BYTES_MAX
            && self.transfers.len() < TRANSFERS_MAX
            && !self.transfers.contains_key(transfer);
        if sound { Ok(()) } else { Err(PeerMisbehaved::Transfer) }
    }

    /// Takes a chunk. When it was the last one, gives back what waited, and the payload.
    pub fn handle_chunk(
        &mut self,
        transfer: u64,
        chunk: Bytes,
    ) -> Result<Option<(W, Stored)>, PeerMisbehaved> {
        let receiving = self.transfers.get_mut(&transfer).ok_or(PeerMisbehaved::Transfer)?;
        let index = receiving.chunks.len() as u32;
        if chunk_bytes(receiving.bytes, index) != Some(chunk.len()) {
            return Err(PeerMisbehaved::Transfer);
        }
        // A refused payload is read past: its chunks count as come, and are not kept.
        receiving.chunks.push(match &receiving.waiting {
            Some(_) if chunk.len() < ALONE_BYTES_MIN => Bytes::copy_from_slice(&chunk),
            Some(_) => chunk,
            None => Bytes::new(),
        });
        if receiving.chunks.len() as u32 != chunk_count(receiving.bytes) {
            return Ok(None);
        }
        let mut transfer = self.transfers.remove(&transfer).expect("it was looked at just now");
        let chunks = std::mem::take(&mut transfer.chunks);
        Ok(transfer.into_stored(Content::Chunks(chunks)))
    }

    /// Takes the memory file that a payload was passed in. Gives back what waited, and the payload.
    /// `key` is the one under which the recipient would open chunks.
    pub fn handle_file(
        &mut self,
        transfer: u64,
        content: FileContent,
        key: impl FnOnce(&W, Option<&InstanceId>) -> PayloadKey,
    ) -> Result<Option<(W, Stored)>, PeerMisbehaved> {
        let transfer = self.transfers.remove(&transfer).ok_or(PeerMisbehaved::Transfer)?;
        if !transfer.chunks.is_empty() || content.bytes() != transfer.bytes {
            return Err(PeerMisbehaved::Transfer);
        }
        let Some(waiting) = &transfer.waiting else { return Ok(None) };
        let key = key(waiting, transfer.instance.as_ref());
        let filed = FiledPayload::new(content, key, transfer.counter);
        Ok(transfer.into_stored(Content::Filed(filed)))
    }

    /// Returns the waiting recipients, and the number of bytes for which each waits.
    pub fn waiting_with_bytes(&self) -> impl Iterator<Item = (&W, u64)> {
        let waiting = self.transfers.values();
        waiting.filter_map(|transfer| Some((transfer.waiting.as_ref()?, transfer.bytes)))
    }

    /// Returns the recipient that waits for a transfer, to be changed.
    pub fn waiting_mut(&mut self, transfer: u64) -> Option<&mut W> {
        self.transfers.get_mut(&transfer)?.waiting.as_mut()
    }

    /// The budget's bytes of the payloads that never came whole.
    pub fn abandoned_bytes(&self) -> u64 {
        let kept = self.transfers.values().filter(|transfer| transfer.waiting.is_some());
        kept.map(|transfer| transfer.bytes).sum()
    }

    /// Ends all transfers: the connection is gone. Gives back what waited.
    pub fn abandon(&mut self) -> Vec<W> {
        std::mem::take(&mut self.transfers)
            .into_values()
            .filter_map(|transfer| transfer.waiting)
            .collect()
    }
}

/// Chunks of fewer bytes are copied: they came in a buffer with others, up to 64 KiB, which they
/// would keep alone.
const ALONE_BYTES_MIN: usize = 32 * 1024;
/// Transfers that one connection may have under way.
const TRANSFERS_MAX: usize = 65_536;

#[cfg(test)]
mod tests {
    use super::*;

    fn announced(bytes: u64) -> Payload {
        Payload::Chunked { transfer: 1, counter: 0, bytes, instance: None }
    }

    #[test]
    fn chunks_come_whole_and_go_out_as_they_came() {
        let mut receiving = Receiving::default();
        receiving.expect(1, &announced(2_000), Some("task")).unwrap();
        let chunk = Bytes::from(vec![7; 2_016]);
        let (waiting, stored) = receiving.handle_chunk(1, chunk.clone()).unwrap().unwrap();
        assert_eq!(waiting, "task");
        let (payload, transfer) = stored.announce(|| 42);
        assert_eq!(
            payload,
            Payload::Chunked { transfer: 42, counter: 0, bytes: 2_000, instance: None }
        );
        let Some((42, Chunks::Stored(chunks))) = transfer else { panic!("{transfer:?}") };
        assert_eq!(chunks, [chunk]);
    }

    #[test]
    fn unknown_repeated_and_misshapen_transfers_are_misbehaviour() {
        let mut receiving = Receiving::default();
        assert_eq!(receiving.handle_chunk(1, Bytes::new()).unwrap_err(), PeerMisbehaved::Transfer);
        receiving.expect(1, &announced(2_000), Some(())).unwrap();
        assert_eq!(
            receiving.expect(1, &announced(2_000), Some(())).unwrap_err(),
            PeerMisbehaved::Transfer
        );
        assert_eq!(
            receiving.expect(2, &announced(0), Some(())).unwrap_err(),
            PeerMisbehaved::Transfer
        );
        let long = Bytes::from(vec![7; 2_017]);
        assert_eq!(receiving.handle_chunk(1, long).unwrap_err(), PeerMisbehaved::Transfer);
    }

    #[test]
    fn a_refused_payload_is_read_past() {
        let mut receiving = Receiving::<()>::default();
        receiving.expect(1, &announced(2_000), None).unwrap();
        assert!(receiving.handle_chunk(1, Bytes::from(vec![7; 2_016])).unwrap().is_none());
        assert_eq!(receiving.handle_chunk(1, Bytes::new()).unwrap_err(), PeerMisbehaved::Transfer);
    }

    #[test]
    fn transfers_of_one_connection_are_bounded_and_an_end_makes_room() {
        let mut receiving = Receiving::default();
        let announced =
            |transfer| Payload::Chunked { transfer, counter: 0, bytes: 8, instance: None };
        let mut expect = |transfer| receiving.expect(transfer, &announced(transfer), Some(()));
        assert!((0..65_536).all(|transfer| expect(transfer).is_ok()));
        assert_eq!(expect(65_536), Err(PeerMisbehaved::Transfer));
        assert!(receiving.handle_chunk(7, Bytes::from(vec![7; 24])).unwrap().is_some());
        assert_eq!(receiving.expect(65_536, &announced(65_536), None), Ok(()));
    }
}
