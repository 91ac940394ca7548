//! The order of sending to one peer, and the records made of what waits: messages already encoded
//! where they will be sealed, and payloads chunk by chunk. No socket.

use std::any::TypeId;
use std::collections::VecDeque;
use std::io::IoSlice;

use bytes::{Buf, Bytes, BytesMut};
use furlong_wire::aead::TAG_BYTES;
use furlong_wire::limits::{
    BATCH_BYTES_TARGET, CHUNK_MESSAGE_BYTES_MAX, MESSAGE_BYTES_MAX, RECORD_BYTES_MAX,
    RECORD_CHUNK_BYTES_MAX, RECORD_FRAMES_MAX,
};
use furlong_wire::message::{Direction, Message, Passed, encode_message};
use furlong_wire::payload::{SealedPayload, chunk_bytes};
use furlong_wire::record::{ENVELOPE_OVERHEAD_BYTES, RecordSealer, SEQ_BYTES};
use furlong_wire::zmtp::{FRAME_HEADER_BYTES_MAX, put_frame_header};

use crate::file::{FileId, FiledPayload};

/// The source of a payload's chunks: sealed here as they are needed, or passed on as they came.
#[derive(Clone, Debug)]
pub enum Chunks {
    /// Sealed when there is room for them on the wire.
    Sealed(Box<SealedPayload>),
    /// Sealed by somebody else.
    Stored(Vec<Bytes>),
    /// In a memory file, and sealed as they are needed if the peer cannot be passed the file.
    Filed(Box<FiledPayload>),
}

impl From<SealedPayload> for Chunks {
    fn from(payload: SealedPayload) -> Self {
        Self::Sealed(Box::new(payload))
    }
}

impl Chunks {
    fn count(&self) -> u32 {
        match self {
            Self::Sealed(payload) => payload.chunk_count(),
            Self::Filed(filed) => filed.sealed().chunk_count(),
            Self::Stored(chunks) => chunks.len() as u32,
        }
    }

    /// The payload, to be sealed. None if others have sealed it.
    pub fn payload(&self) -> Option<&SealedPayload> {
        match self {
            Self::Sealed(payload) => Some(payload),
            Self::Filed(filed) => Some(filed.sealed()),
            Self::Stored(_) => None,
        }
    }

    /// The bytes of others that these chunks hold.
    fn stored_bytes(&self) -> usize {
        match self {
            Self::Sealed(_) => 0,
            Self::Stored(chunks) => chunks.iter().map(Bytes::len).sum(),
            Self::Filed(filed) => {
                let sealed = filed.sealed();
                sealed.bytes() as usize + sealed.chunk_count() as usize * TAG_BYTES
            }
        }
    }

    /// The length of a chunk, which costs nothing; [`Chunks::chunk`] seals it.
    fn chunk_bytes(&self, index: u32) -> usize {
        let bytes = match self {
            Self::Sealed(payload) => payload.bytes(),
            Self::Filed(filed) => filed.sealed().bytes(),
            Self::Stored(chunks) => return chunks[index as usize].len(),
        };
        chunk_bytes(bytes, index).expect("a transfer ends with its last chunk")
    }

    fn chunk(&self, index: u32) -> Bytes {
        match self {
            Self::Sealed(payload) => payload.chunk(index),
            Self::Filed(filed) => filed.sealed().chunk(index),
            Self::Stored(chunks) => chunks[index as usize].clone(),
        }
    }
}

/// The queue towards one peer.
///
/// [`Outbox::push`] and [`Outbox::push_transfer`] take what is to be sent, [`Outbox::poll_slices`]
/// hands out the bytes to write, and [`Outbox::handle_written`] says how many of them have left.
/// What was pushed since the last write goes together in one record, or in several of about 8 KiB;
/// nothing waits to fill one. The order is control, then messages, then chunks, round-robin over
/// payloads; a record carries at most 256 KiB of chunks, so nothing waits behind more. No record is
/// longer than its receiver takes.
#[derive(Debug)]
pub struct Outbox {
    sealer: RecordSealer,
    /// The catalogue of its messages, and how one of them announces a chunk.
    direction: TypeId,
    put_chunk: fn(u64, &mut Vec<u8>),
    control: Batches,
    batches: Batches,
    /// Transfers that may be sent, in the order of their turns.
    transfers: VecDeque<Transfer>,
    /// Transfers whose announcements are not sealed yet, in that order.
    unannounced: VecDeque<Transfer>,
    /// Steps so far of the choice of chunks: what it costs, for the tests.
    #[cfg(test)]
    steps: usize,
    stored_bytes: usize,
    /// Sealed frames that the socket has not taken.
    sealed: VecDeque<Bytes>,
    sealed_bytes: usize,
    /// PONGs, which go between two records.
    codec_bytes: Bytes,
    waiting_bytes: usize,
    written_bytes: u64,
    heartbeat: bool,
}

/// Encoded messages that wait to be sealed. Each batch has room in front, and becomes one record.
#[derive(Debug, Default)]
struct Batches {
    waiting: VecDeque<Vec<u8>>,
    /// Batches that were begun, and that were sealed: a transfer may follow once the batch that
    /// announces it is sealed.
    begun: u64,
    sealed: u64,
}

impl Batches {
    /// Appends a message to the last batch, or to a new one. A long message has a batch of its own.
    /// Returns its length.
    fn push<M: Message>(&mut self, message: &M) -> usize {
        if self.waiting.back().is_none_or(|batch| batch.len() >= BATCH_BYTES_TARGET) {
            self.begin(vec![0; FRONT_BYTES]);
        }
        let batch = self.waiting.back_mut().expect("a batch was just made if there was none");
        let before = batch.len();
        encode_message(message, batch);
        let bytes = batch.len() - before;
        debug_assert!(
            bytes <= MESSAGE_BYTES_MAX,
            "a message of {bytes} bytes: it must be split where it is made"
        );
        if bytes > BATCH_BYTES_TARGET && before > FRONT_BYTES {
            let own = [&[0; FRONT_BYTES], &batch[before..]].concat();
            batch.truncate(before);
            self.begin(own);
        }
        bytes
    }

    fn begin(&mut self, batch: Vec<u8>) {
        self.waiting.push_back(batch);
        self.begun += 1;
    }

    /// Takes the next batch, to be sealed.
    fn pop(&mut self) -> Option<Vec<u8>> {
        let batch = self.waiting.pop_front()?;
        self.sealed += 1;
        Some(batch)
    }
}

#[derive(Debug)]
struct Transfer {
    number: u64,
    chunks: Chunks,
    next: u32,
    announced_in: u64,
}

impl Transfer {
    fn next_bytes(&self) -> usize {
        self.chunks.chunk_bytes(self.next)
    }
}

/// Room in front of a batch: the frame's header and the record's sequence number.
const FRONT_BYTES: usize = FRAME_HEADER_BYTES_MAX + SEQ_BYTES;
/// Slices in one vectored write.
pub const SLICES_MAX: usize = 64;

impl Outbox {
    /// An empty queue of messages of one direction, sealed under the connection's key.
    pub fn new<M: Direction + 'static>(sealer: RecordSealer) -> Self {
        Self {
            sealer,
            direction: TypeId::of::<M>(),
            put_chunk: |transfer, batch| encode_message(&M::chunk(transfer), batch),
            control: Batches::default(),
            batches: Batches::default(),
            transfers: VecDeque::new(),
            unannounced: VecDeque::new(),
            #[cfg(test)]
            steps: 0,
            stored_bytes: 0,
            sealed: VecDeque::new(),
            sealed_bytes: 0,
            codec_bytes: Bytes::new(),
            waiting_bytes: 0,
            written_bytes: 0,
            heartbeat: false,
        }
    }

    /// Queues a message, of at most [`MESSAGE_BYTES_MAX`].
    pub fn push<M: Direction + 'static>(&mut self, message: &M) {
        self.check_direction::<M>();
        self.waiting_bytes += self.batches.push(message);
    }

    /// Queues a message that goes before all others: a cancel, a signal.
    pub fn push_control<M: Direction + 'static>(&mut self, message: &M) {
        self.check_direction::<M>();
        self.waiting_bytes += self.control.push(message);
    }

    /// A message of another direction would be read as something else, or end the connection.
    fn check_direction<M: 'static>(&self) {
        debug_assert_eq!(self.direction, TypeId::of::<M>(), "a message of another direction");
    }

    /// Queues the message that the payload of a transfer was passed in a memory file. The message
    /// that announces it must have been pushed before.
    pub fn push_passed<M: Direction + 'static>(&mut self, transfer: u64, file: FileId) {
        let FileId { device, inode } = file;
        self.push(&M::passed(Passed { transfer, device, inode }));
    }

    /// Queues the chunks of a payload. The message that announces it under this number must have
    /// been pushed before.
    pub fn push_transfer(&mut self, number: u64, chunks: Chunks) {
        self.stored_bytes += chunks.stored_bytes();
        self.unannounced.push_back(Transfer {
            number,
            chunks,
            next: 0,
            announced_in: self.batches.begun,
        });
    }

    /// Returns true if chunks wait that are not sealed yet.
    pub fn has_transfers(&self) -> bool {
        self.transfers.len() + self.unannounced.len() > 0
    }

    /// Lets the next write send a record even if there is nothing to say.
    pub fn push_heartbeat(&mut self) {
        self.heartbeat = true;
    }

    /// Queues PONGs of the ZMTP codec, to go between two records. While earlier ones wait, they are
    /// dropped: a peer that does not read makes no more of them, and what waits says the same.
    pub fn push_codec_bytes(&mut self, bytes: Bytes) {
        if self.codec_bytes.is_empty() {
            self.codec_bytes = bytes;
        }
    }

    /// Returns true if there is nothing left to write.
    pub fn is_empty(&self) -> bool {
        self.sealed.is_empty() && !self.has_next()
    }

    /// Bytes that wait here, without payloads whose chunks have not been asked for.
    pub fn queued_bytes(&self) -> usize {
        self.waiting_bytes + self.sealed_bytes + self.codec_bytes.len()
    }

    /// Bytes that the socket has taken so far: whether the peer reads.
    pub fn written_bytes(&self) -> u64 {
        self.written_bytes
    }

    /// Bytes of payloads made by others that wait here: the chunks that are held, and have not been
    /// asked for.
    pub fn stored_bytes(&self) -> usize {
        self.stored_bytes
    }

    /// Puts the next bytes to write into `slices`, at most `bytes_max`, and returns the number of
    /// slices. Seals the next record if all before it has left; none if there is nothing to say.
    pub fn poll_slices<'a>(
        &'a mut self,
        slices: &mut [IoSlice<'a>; SLICES_MAX],
        bytes_max: usize,
    ) -> usize {
        if self.sealed.is_empty() && !self.seal_next() {
            return 0;
        }
        let (mut count, mut room) = (0, bytes_max);
        for (slice, bytes) in slices.iter_mut().zip(&self.sealed) {
            let part = &bytes[..bytes.len().min(room)];
            *slice = IoSlice::new(part);
            count += 1;
            room -= part.len();
            if room == 0 {
                break;
            }
        }
        count
    }

    /// So many of the bytes that [`Outbox::poll_slices`] has handed out have left.
    ///
    /// # Panics
    /// If there were not so many: a bug of the caller.
    pub fn handle_written(&mut self, mut bytes: usize) {
        self.sealed_bytes -= bytes;
        self.written_bytes += bytes as u64;
        while bytes > 0 {
            let front = self.sealed.front_mut().expect("no more was sent than there was");
            let part = bytes.min(front.len());
            front.advance(part);
            bytes -= part;
            if front.is_empty() {
                self.sealed.pop_front();
            }
        }
    }

    fn has_next(&self) -> bool {
        let batches = self.control.waiting.len() + self.batches.waiting.len();
        self.heartbeat || batches > 0 || self.has_transfers() || !self.codec_bytes.is_empty()
    }

    /// Seals the next record into `sealed`. False if there is nothing to say.
    fn seal_next(&mut self) -> bool {
        if !self.has_next() {
            return false;
        }
        if !self.codec_bytes.is_empty() {
            let pongs = std::mem::take(&mut self.codec_bytes);
            self.push_sealed(pongs);
            return true;
        }
        self.heartbeat = false;
        let mut batch = self
            .control
            .pop()
            .or_else(|| self.batches.pop())
            .unwrap_or_else(|| vec![0; FRONT_BYTES]);
        self.waiting_bytes -= batch.len() - FRONT_BYTES;
        let chunks = self.take_chunks(&mut batch);
        self.sealer.seal(&mut batch, FRAME_HEADER_BYTES_MAX, &chunks);
        let bytes =
            batch.len() - FRAME_HEADER_BYTES_MAX + chunks.iter().map(Bytes::len).sum::<usize>();
        debug_assert!(
            bytes <= RECORD_BYTES_MAX,
            "a record of {bytes} bytes, more than its receiver takes"
        );
        self.push_sealed(with_frame_header(batch, !chunks.is_empty()));
        let mut left = chunks.len();
        for chunk in chunks {
            left -= 1;
            let mut header = BytesMut::with_capacity(FRAME_HEADER_BYTES_MAX);
            put_frame_header(&mut header, chunk.len(), left > 0);
            self.push_sealed(header.freeze());
            self.push_sealed(chunk);
        }
        true
    }

    /// Takes the chunks that go with this batch and appends the messages that say whose they are.
    ///
    /// The first chunk that does not fit ends the record and has the first turn in the next one. So
    /// each step but the last takes a chunk, and only what is sent is sealed, however many
    /// transfers wait: sealing what is then left out cost the square of their number.
    fn take_chunks(&mut self, batch: &mut Vec<u8>) -> Vec<Bytes> {
        let sealed = self.batches.sealed;
        while let Some(transfer) =
            self.unannounced.pop_front_if(|transfer| transfer.announced_in <= sealed)
        {
            #[cfg(test)]
            (self.steps += 1);
            self.transfers.push_back(transfer);
        }
        let mut chunks = Vec::new();
        let envelope = batch.len() - FRONT_BYTES + ENVELOPE_OVERHEAD_BYTES;
        let mut room = RECORD_CHUNK_BYTES_MAX.min(RECORD_BYTES_MAX.saturating_sub(envelope));
        while chunks.len() + 1 < RECORD_FRAMES_MAX {
            #[cfg(test)]
            (self.steps += 1);
            let fits =
                |transfer: &mut Transfer| transfer.next_bytes() + CHUNK_MESSAGE_BYTES_MAX <= room;
            let Some(transfer) = self.transfers.pop_front_if(fits) else { break };
            chunks.push(self.take_chunk(transfer, batch));
            room -= chunks.last().map_or(0, Bytes::len) + CHUNK_MESSAGE_BYTES_MAX;
        }
        chunks
    }

    /// Takes the next chunk of a transfer, which then waits for its next turn if it has more.
    fn take_chunk(&mut self, mut transfer: Transfer, batch: &mut Vec<u8>) -> Bytes {
        let chunk = transfer.chunks.chunk(transfer.next);
        if !matches!(transfer.chunks, Chunks::Sealed(_)) {
            self.stored_bytes -= chunk.len();
        }
        (self.put_chunk)(transfer.number, batch);
        transfer.next += 1;
        if transfer.next < transfer.chunks.count() {
            self.transfers.push_back(transfer);
        }
        chunk
    }

    fn push_sealed(&mut self, bytes: Bytes) {
        self.sealed_bytes += bytes.len();
        self.sealed.push_back(bytes);
    }
}

/// Puts the frame's header right before the envelope, in the room that was left for it.
fn with_frame_header(mut batch: Vec<u8>, more: bool) -> Bytes {
    let mut header = BytesMut::with_capacity(FRAME_HEADER_BYTES_MAX);
    put_frame_header(&mut header, batch.len() - FRAME_HEADER_BYTES_MAX, more);
    let unused = FRAME_HEADER_BYTES_MAX - header.len();
    batch[unused..FRAME_HEADER_BYTES_MAX].copy_from_slice(&header);
    let mut frame = Bytes::from(batch);
    frame.advance(unused);
    frame
}

#[cfg(test)]
mod tests;
