//! Payloads: what the broker passes on without opening.
//!
//! A payload is a list of buffers, laid out as one string of bytes. Up to
//! [`INLINE_PAYLOAD_BYTES_MAX`] it travels inside its message (the envelope protects it hop by
//! hop); larger, it is cut into chunks that the sender seals once and the final receiver opens
//! once, under a key that both derive from the client session's [`PayloadSecret`].
//!
//! ```text
//! inline    count u8 | length u16 LE, for each | the buffers
//! chunked   count u32 LE | 0 u32 | length u64 LE, for each
//!           | then each buffer, from the next multiple of 64
//! chunk i   ciphertext | tag
//!           nonce = i u32 LE || counter u64 LE, AAD = kind u8 || bytes u64 LE || last u8
//! ```
//!
//! A chunk's bytes depend on nothing but key, counter, index and content. So a chunk can be sealed
//! when there is room for it on the wire, and sealed again for a re-send: the bytes are the same.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use hkdf::Hkdf;
use serde::{Deserialize, Serialize};
use sha2::Sha256;
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

use crate::aead::{KEY_BYTES, Key, Nonce, TAG_BYTES};
use crate::ids::{InstanceId, SessionId};
use crate::limits::{
    BUFFER_ALIGNMENT, CHUNK_BYTES_MAX, INLINE_PAYLOAD_BYTES_MAX, PAYLOAD_BUFFERS_MAX,
    PAYLOAD_BYTES_MAX,
};
pub use crate::small::InlineBytes;
pub use layout::Table;

mod layout;

/// The secret of a client's session, from which the keys of its payloads come. Made by the client
/// process, told to the broker, and by it to the engine processes that run the session's tasks and
/// to other processes of the same owner.
#[derive(Clone, PartialEq, Eq, Zeroize, ZeroizeOnDrop)]
pub struct PayloadSecret([u8; KEY_BYTES]);

impl PayloadSecret {
    /// A secret of bytes that must be fresh from the system's random generator.
    pub fn new(bytes: [u8; KEY_BYTES]) -> Self {
        Self(bytes)
    }

    /// The bytes, for keeping them sealed. Whoever copies them has to erase the copy.
    pub fn expose(&self) -> &[u8; KEY_BYTES] {
        &self.0
    }

    /// The key of this session's requests, which its client process alone seals.
    pub fn request_key(&self, session: &SessionId) -> PayloadKey {
        self.derive(PayloadKind::Request, &[b"request", &session.0[..]])
    }

    /// The key of this session's results from one engine process, which alone seals under it.
    pub fn result_key(&self, session: &SessionId, instance: &InstanceId) -> PayloadKey {
        self.derive(PayloadKind::Result, &[b"result", &session.0[..], &instance.0[..]])
    }

    fn derive(&self, kind: PayloadKind, info: &[&[u8]]) -> PayloadKey {
        let mut key = Zeroizing::new([0; KEY_BYTES]);
        let expanded = Hkdf::<Sha256>::new(None, &self.0).expand_multi_info(info, &mut *key);
        expanded.expect("32 bytes are within HKDF's bound");
        PayloadKey { key: Arc::new(Key::new(&key)), kind }
    }
}

impl Serialize for PayloadSecret {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(&self.0)
    }
}

impl<'de> Deserialize<'de> for PayloadSecret {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        serde_bytes::ByteArray::<KEY_BYTES>::deserialize(deserializer)
            .map(|bytes| Self(bytes.into_array()))
    }
}

impl fmt::Debug for PayloadSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PayloadSecret(..)")
    }
}

/// The direction of a payload; it enters each chunk's associated data.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum PayloadKind {
    Request = 1,
    Result = 2,
}

/// A key of payloads: of a session's requests, or of its results from one engine process.
#[derive(Clone, Debug)]
pub struct PayloadKey {
    key: Arc<Key>,
    kind: PayloadKind,
}

impl PayloadKey {
    /// The sealer under this key. Make one for each key in a process: it holds the counter that
    /// makes nonces unique.
    pub fn into_sealer(self) -> PayloadSealer {
        self.into_sealer_from(0)
    }

    /// The sealer under this key, from that counter on: for a process that may meet a key again
    /// after it has forgotten it, and so must never go back.
    pub fn into_sealer_from(self, counter: u64) -> PayloadSealer {
        PayloadSealer { key: self, counter }
    }

    /// A payload that somebody has announced under this key, from where it lies open.
    pub fn into_sealed(self, counter: u64, source: Arc<dyn PayloadSource>) -> SealedPayload {
        SealedPayload { key: self, counter, content: Content::Source(source) }
    }

    fn aad(&self, payload_bytes: u64, last: bool) -> [u8; 10] {
        let mut aad = [0; 10];
        aad[0] = self.kind as u8;
        aad[1..9].copy_from_slice(&payload_bytes.to_le_bytes());
        aad[9] = u8::from(last);
        aad
    }
}

fn nonce(index: u32, counter: u64) -> Nonce {
    let mut nonce = [0; 12];
    nonce[..4].copy_from_slice(&index.to_le_bytes());
    nonce[4..].copy_from_slice(&counter.to_le_bytes());
    nonce
}

/// Gives each payload its counter. It is not `Clone`: two sealers under one key would repeat a
/// nonce.
#[derive(Debug)]
pub struct PayloadSealer {
    key: PayloadKey,
    counter: u64,
}

impl PayloadSealer {
    /// The counter of the next large payload.
    pub fn counter(&self) -> u64 {
        self.counter
    }

    /// Prepares buffers for the wire: inline if they are small, else a payload whose chunks are
    /// sealed as they are asked for.
    pub fn pack(&mut self, buffers: Vec<Bytes>) -> Result<Packed, PayloadError> {
        match pack_inline(buffers.iter()) {
            Some(inline) => Ok(Packed::Inline(inline)),
            None => self.seal(buffers),
        }
    }

    /// The same of a header and the data after it.
    pub fn pack_with_header(
        &mut self,
        header: Bytes,
        data: Vec<Bytes>,
    ) -> Result<Packed, PayloadError> {
        match pack_inline(std::iter::once(&header).chain(&data)) {
            Some(inline) => Ok(Packed::Inline(inline)),
            None => self.seal(std::iter::once(header).chain(data).collect()),
        }
    }

    fn seal(&mut self, buffers: Vec<Bytes>) -> Result<Packed, PayloadError> {
        let table = Table::of(&sizes(&buffers))?;
        let counter = self.counter;
        self.counter += 1;
        let content = Content::Buffers(table, buffers);
        Ok(Packed::Chunked(SealedPayload { key: self.key.clone(), counter, content }))
    }

    /// The same of a payload that is laid out already.
    pub fn seal_source(&mut self, source: Arc<dyn PayloadSource>) -> SealedPayload {
        let counter = self.counter;
        self.counter += 1;
        self.key.clone().into_sealed(counter, source)
    }
}

/// Buffers, ready for the wire. Clones are the same payload, for sending it again: their sealed
/// chunks are equal.
#[derive(Clone, Debug)]
pub enum Packed {
    /// Small: for the message itself.
    Inline(InlineBytes),
    /// Large: to be announced, and followed by its chunks.
    Chunked(SealedPayload),
}

/// A large payload whose chunks can be asked for in any order, any number of times.
#[derive(Clone, Debug)]
pub struct SealedPayload {
    key: PayloadKey,
    counter: u64,
    content: Content,
}

/// The bytes of a payload before sealing.
#[derive(Clone, Debug)]
enum Content {
    Buffers(Table, Vec<Bytes>),
    Source(Arc<dyn PayloadSource>),
}

/// A payload that lies somewhere as it is laid out, and never changes.
pub trait PayloadSource: fmt::Debug + Send + Sync {
    /// Its length.
    fn bytes(&self) -> u64;

    /// Fills `part` with the bytes from `start` on.
    ///
    /// # Errors
    /// The system's.
    fn read_at(&self, start: u64, part: &mut [u8]) -> std::io::Result<()>;
}

impl SealedPayload {
    /// The payload's counter under its key.
    pub fn counter(&self) -> u64 {
        self.counter
    }

    /// Bytes of the payload before sealing.
    pub fn bytes(&self) -> u64 {
        match &self.content {
            Content::Buffers(table, _) => table.total(),
            Content::Source(source) => source.bytes(),
        }
    }

    /// The pieces of the payload as it is laid out, each with its place; what lies between them is
    /// zero. None if it is laid out somewhere already.
    pub fn pieces(&self) -> Option<impl Iterator<Item = (u64, &[u8])>> {
        match &self.content {
            Content::Buffers(table, buffers) => Some(table.pieces(buffers)),
            Content::Source(_) => None,
        }
    }

    /// Returns the number of its chunks.
    pub fn chunk_count(&self) -> u32 {
        chunk_count(self.bytes())
    }

    /// Seals chunk `index`.
    ///
    /// # Panics
    /// If there is no such chunk.
    pub fn chunk(&self, index: u32) -> Bytes {
        assert!(index < self.chunk_count(), "chunk {index} of {}", self.chunk_count());
        let start = u64::from(index) * CHUNK_BYTES_MAX as u64;
        let len = (self.bytes() - start).min(CHUNK_BYTES_MAX as u64) as usize;
        let mut chunk = Vec::with_capacity(len + TAG_BYTES);
        match &self.content {
            Content::Buffers(table, buffers) => table.copy_range(buffers, start, len, &mut chunk),
            Content::Source(source) => {
                chunk.resize(len, 0);
                if source.read_at(start, &mut chunk).is_err() {
                    // Without a tag that fits, its receiver refuses it: nobody takes it for data.
                    chunk.resize(len + TAG_BYTES, 0);
                    return chunk.into();
                }
            }
        }
        let aad = self.key.aad(self.bytes(), index + 1 == self.chunk_count());
        let tag = self.key.key.seal_in_place(nonce(index, self.counter), &aad, &mut chunk);
        chunk.extend_from_slice(&tag);
        chunk.into()
    }
}

impl PayloadSource for Bytes {
    fn bytes(&self) -> u64 {
        self.len() as u64
    }

    fn read_at(&self, start: u64, part: &mut [u8]) -> std::io::Result<()> {
        let start = start as usize;
        let bytes = self.get(start..start + part.len()).ok_or(std::io::ErrorKind::UnexpectedEof)?;
        part.copy_from_slice(bytes);
        Ok(())
    }
}

fn sizes(buffers: &[Bytes]) -> Vec<u64> {
    buffers.iter().map(|buffer| buffer.len() as u64).collect()
}

/// Returns the number of chunks of a payload of so many bytes.
pub fn chunk_count(payload_bytes: u64) -> u32 {
    u32::try_from(payload_bytes.div_ceil(CHUNK_BYTES_MAX as u64)).expect("16 GiB are 65 553 chunks")
}

/// Returns the size of chunk `index` of a payload of so many bytes, its tag included; none if there
/// is no such chunk.
pub fn chunk_bytes(payload_bytes: u64, index: u32) -> Option<usize> {
    let start = u64::from(index) * CHUNK_BYTES_MAX as u64;
    let left = payload_bytes.checked_sub(start).filter(|left| *left > 0)?;
    Some(left.min(CHUNK_BYTES_MAX as u64) as usize + TAG_BYTES)
}

/// Opens the chunks of one payload, in order, each straight into one aligned buffer.
///
/// The buffer grows as chunks come: an announcement alone costs no memory, and a payload at most
/// eight times what has come of it, or 1 MiB. Growing eightfold copies a seventh of what has come.
///
/// The order of calls: [`PayloadOpener::new`], [`PayloadOpener::handle_chunk`] until
/// [`PayloadOpener::is_complete`], then [`PayloadOpener::into_buffers`].
#[derive(Debug)]
pub struct PayloadOpener {
    key: PayloadKey,
    counter: u64,
    payload_bytes: u64,
    next: u32,
    /// `front` unused bytes, so that the payload begins at a multiple of [`BUFFER_ALIGNMENT`], then
    /// what was opened.
    opened: Vec<u8>,
    front: usize,
}

/// Room for the first chunks of a payload: most payloads fit, and are never copied.
const FIRST_ROOM_BYTES: u64 = 1024 * 1024;

impl PayloadOpener {
    /// Expects an announced payload. The caller has taken the bytes from its budget.
    ///
    /// # Errors
    /// [`PayloadError::Large`] beyond the protocol's bound.
    pub fn new(key: PayloadKey, counter: u64, payload_bytes: u64) -> Result<Self, PayloadError> {
        if payload_bytes > PAYLOAD_BYTES_MAX {
            return Err(PayloadError::Large { bytes: payload_bytes });
        }
        Ok(Self { key, counter, payload_bytes, next: 0, opened: Vec::new(), front: 0 })
    }

    /// Checks that the whole payload, come in another way, has the announced size.
    ///
    /// # Errors
    /// [`PayloadError::Layout`] if it has another, or if chunks of it have come.
    pub fn check_whole(&self, payload_bytes: u64) -> Result<(), PayloadError> {
        if self.next == 0 && payload_bytes == self.payload_bytes {
            Ok(())
        } else {
            Err(PayloadError::Layout)
        }
    }

    /// Takes the next chunk.
    ///
    /// # Errors
    /// The payload is lost after any error; other payloads are not concerned.
    pub fn handle_chunk(&mut self, chunk: &[u8]) -> Result<(), PayloadError> {
        if chunk_bytes(self.payload_bytes, self.next) != Some(chunk.len()) {
            return Err(PayloadError::ChunkLength { index: self.next, bytes: chunk.len() });
        }
        self.make_room(chunk.len())?;
        let aad =
            self.key.aad(self.payload_bytes, self.next + 1 == chunk_count(self.payload_bytes));
        let start = self.opened.len();
        self.opened.extend_from_slice(chunk);
        let opened = self.key.key.open_in_place(
            nonce(self.next, self.counter),
            &aad,
            &mut self.opened[start..],
        );
        opened.map_err(|_| PayloadError::Forged { index: self.next })?;
        self.opened.truncate(self.opened.len() - TAG_BYTES);
        self.next += 1;
        Ok(())
    }

    /// Makes room for a chunk with its tag, and for more of the payload.
    fn make_room(&mut self, chunk_bytes: usize) -> Result<(), PayloadError> {
        if self.opened.capacity() - self.opened.len() >= chunk_bytes {
            return Ok(());
        }
        let come = (self.opened.len() - self.front + chunk_bytes) as u64;
        let room = (8 * come).max(FIRST_ROOM_BYTES).min(self.payload_bytes) as usize;
        let mut grown: Vec<u8> = Vec::new();
        let no_memory = PayloadError::Memory { bytes: self.payload_bytes };
        grown.try_reserve_exact(room + BUFFER_ALIGNMENT + TAG_BYTES).map_err(|_| no_memory)?;
        let front = grown.as_ptr().addr().wrapping_neg() % BUFFER_ALIGNMENT;
        grown.resize(front, 0);
        grown.extend_from_slice(&self.opened[self.front..]);
        (self.opened, self.front) = (grown, front);
        Ok(())
    }

    /// Returns true if every chunk has come.
    pub fn is_complete(&self) -> bool {
        self.next == chunk_count(self.payload_bytes)
    }

    /// The buffers, each at a multiple of 64 bytes, all of them views of one allocation.
    pub fn into_buffers(self) -> Result<Vec<Bytes>, PayloadError> {
        if !self.is_complete() {
            return Err(PayloadError::Layout);
        }
        buffers_of(&Bytes::from(self.opened).slice(self.front..))
    }
}

/// The buffers of a payload that is whole, as it is laid out, in place.
///
/// # Errors
/// Those of [`places_in`].
pub fn buffers_of(payload: &Bytes) -> Result<Vec<Bytes>, PayloadError> {
    Ok(places_in(payload)?.map(|place| payload.slice(place)).collect())
}

/// Returns the places of the buffers in a payload that is whole, as it is laid out.
///
/// # Errors
/// [`PayloadError::Layout`] and others: its sender is broken.
pub fn places_in(payload: &[u8]) -> Result<impl Iterator<Item = Range<usize>>, PayloadError> {
    Table::parse(payload).map(Table::into_ranges)
}

/// Splits an inline payload into its buffers.
pub fn unpack_inline(payload: &InlineBytes) -> Result<Vec<Bytes>, PayloadError> {
    Ok(places(payload)?.map(|place| payload.slice(place)).collect())
}

/// Splits an inline payload into its first buffer, which is the header, and the others. Without any
/// buffer the header is empty.
pub fn unpack_inline_call(payload: &InlineBytes) -> Result<(&[u8], Vec<Bytes>), PayloadError> {
    let mut places = places(payload)?;
    let header = places.next().map_or(&[][..], |place| &payload[place]);
    let mut data = Vec::with_capacity(places.len());
    places.for_each(|place| data.push(payload.slice(place)));
    Ok((header, data))
}

/// Returns the positions of the buffers of an inline payload: one after the other, to its end.
fn places(payload: &[u8]) -> Result<impl ExactSizeIterator<Item = Range<usize>>, PayloadError> {
    let (&count, rest) = payload.split_first().ok_or(PayloadError::Layout)?;
    let lengths = rest.get(..2 * usize::from(count)).ok_or(PayloadError::Layout)?;
    let lengths = lengths
        .chunks_exact(2)
        .map(|length| usize::from(u16::from_le_bytes([length[0], length[1]])));
    let mut start = 1 + 2 * lengths.len();
    if start + lengths.clone().sum::<usize>() != payload.len() {
        return Err(PayloadError::Layout);
    }
    Ok(lengths.map(move |length| {
        let place = start..start + length;
        start = place.end;
        place
    }))
}

fn pack_inline<'a>(buffers: impl Iterator<Item = &'a Bytes> + Clone) -> Option<InlineBytes> {
    let (count, bytes) = buffers
        .clone()
        .fold((0, 1), |(count, bytes), buffer| (count + 1, bytes + 2 + buffer.len()));
    let (count, table) = (u8::try_from(count).ok()?, 2 * count);
    if bytes > INLINE_PAYLOAD_BYTES_MAX {
        return None;
    }
    Some(InlineBytes::filled(bytes, |place| {
        place[0] = count;
        let (lengths, mut rest) = place[1..].split_at_mut(table);
        for (buffer, length) in buffers.zip(lengths.chunks_exact_mut(2)) {
            length.copy_from_slice(&(buffer.len() as u16).to_le_bytes());
            let (here, after) = rest.split_at_mut(buffer.len());
            here.copy_from_slice(buffer);
            rest = after;
        }
    }))
}

/// The reason that a payload cannot be packed or opened.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum PayloadError {
    /// Beyond the protocol's bound.
    #[error(
        "a payload of {bytes} bytes is over the limit of {PAYLOAD_BYTES_MAX}: send it in parts, or as a file"
    )]
    Large {
        /// Its size.
        bytes: u64,
    },
    /// Too many buffers.
    #[error("a payload of {count} buffers is over the limit of {PAYLOAD_BUFFERS_MAX}")]
    Buffers {
        /// Their number.
        count: u64,
    },
    /// The memory cannot be had.
    #[error("no memory for a payload of {bytes} bytes")]
    Memory {
        /// Its size.
        bytes: u64,
    },
    /// A chunk of another length than its place demands: its sender is broken.
    #[error("chunk {index} of a payload has {bytes} bytes, not what its place demands")]
    ChunkLength {
        /// The index of the chunk.
        index: u32,
        /// Its length.
        bytes: usize,
    },
    /// Changed on the way, or sealed under another key.
    #[error("chunk {index} of a payload was changed on the way, or is of another payload")]
    Forged {
        /// The index of the chunk.
        index: u32,
    },
    /// The lengths of the buffers do not fill the payload: its sender is broken.
    #[error("the buffers of a payload do not fill it exactly")]
    Layout,
}

#[cfg(test)]
mod tests;
