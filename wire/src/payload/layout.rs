//! The places of a payload's buffers in the string of bytes that it is laid out as.

use std::ops::Range;

use bytes::Bytes;

use super::PayloadError;
use crate::limits::{BUFFER_ALIGNMENT, PAYLOAD_BUFFERS_MAX, PAYLOAD_BYTES_MAX};

/// The table at the front of a payload, and the place of each buffer.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Table {
    /// The table of lengths, as it travels.
    bytes: Vec<u8>,
    /// Start and end of each buffer, in order.
    places: Vec<(u64, u64)>,
    total: u64,
}

impl Table {
    /// The table for buffers of these sizes.
    ///
    /// # Errors
    /// They are too many, or too large together.
    pub fn of(sizes: &[u64]) -> Result<Self, PayloadError> {
        let mut table = Vec::with_capacity(8 + 8 * sizes.len());
        table.extend_from_slice(&(sizes.len() as u64).to_le_bytes());
        sizes.iter().for_each(|size| table.extend_from_slice(&size.to_le_bytes()));
        Self::place(table)
    }

    /// Its bytes, with which the payload begins.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The place of each buffer, in order.
    pub fn places(&self) -> impl Iterator<Item = Range<u64>> {
        self.places.iter().map(|(start, end)| *start..*end)
    }

    /// Bytes of the whole payload.
    pub fn total(&self) -> u64 {
        self.total
    }

    /// Reads the table at the start of a whole payload; the lengths must fill the payload exactly.
    pub(super) fn parse(payload: &[u8]) -> Result<Self, PayloadError> {
        let count = payload
            .first_chunk::<8>()
            .map(|count| u64::from_le_bytes(*count))
            .ok_or(PayloadError::Layout)?;
        if count > PAYLOAD_BUFFERS_MAX as u64 {
            return Err(PayloadError::Buffers { count });
        }
        let table = payload.get(..8 + 8 * count as usize).ok_or(PayloadError::Layout)?;
        let layout = Self::place(table.to_vec())?;
        if layout.total == payload.len() as u64 { Ok(layout) } else { Err(PayloadError::Layout) }
    }

    fn place(table: Vec<u8>) -> Result<Self, PayloadError> {
        let lengths = table[8..].chunks_exact(8).map(|length| {
            let length = length.try_into().expect("chunks of eight bytes have eight bytes");
            u64::from_le_bytes(length)
        });
        if lengths.len() > PAYLOAD_BUFFERS_MAX {
            return Err(PayloadError::Buffers { count: lengths.len() as u64 });
        }
        let mut total = table.len() as u64;
        let mut places = Vec::with_capacity(lengths.len());
        for length in lengths {
            let start = total.next_multiple_of(BUFFER_ALIGNMENT as u64);
            let end = start.checked_add(length).filter(|end| *end <= PAYLOAD_BYTES_MAX);
            let end = end.ok_or(PayloadError::Large { bytes: start.saturating_add(length) })?;
            places.push((start, end));
            total = end;
        }
        Ok(Self { bytes: table, places, total })
    }

    pub(super) fn into_ranges(self) -> impl Iterator<Item = Range<usize>> {
        self.places.into_iter().map(|(start, end)| start as usize..end as usize)
    }

    /// The pieces of the laid-out payload, each with its place: the table and the buffers. What
    /// lies between them is zero.
    pub(super) fn pieces<'a>(
        &'a self,
        buffers: &'a [Bytes],
    ) -> impl Iterator<Item = (u64, &'a [u8])> {
        let buffers = self.places.iter().zip(buffers).map(|((at, _), buffer)| (*at, &buffer[..]));
        std::iter::once((0, &self.bytes[..])).chain(buffers)
    }

    /// Appends `len` bytes of the laid-out payload from `start` on: table, buffers, and zeros
    /// between them.
    pub(super) fn copy_range(&self, buffers: &[Bytes], start: u64, len: usize, out: &mut Vec<u8>) {
        let end = start + len as u64;
        let first = self.places.partition_point(|(_, place_end)| *place_end <= start);
        let table =
            std::iter::once((0, &self.bytes[..])).filter(|_| start < self.bytes.len() as u64);
        let rest = self.places[first..]
            .iter()
            .zip(&buffers[first..])
            .map(|((at, _), buffer)| (*at, &buffer[..]));
        let base = out.len();
        for (at, bytes) in table.chain(rest.take_while(|(at, _)| *at < end)) {
            let from = start.saturating_sub(at).min(bytes.len() as u64) as usize;
            let to = (end - at).min(bytes.len() as u64) as usize;
            out.resize(base + (at.max(start) - start) as usize, 0);
            out.extend_from_slice(&bytes[from..to.max(from)]);
        }
        out.resize(base + len, 0);
    }
}
