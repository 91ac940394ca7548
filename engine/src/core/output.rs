//! The kept part of a job's output: its start as it comes, and its end when the job has ended. The
//! whole comes with the result, if that was asked for.

use std::collections::VecDeque;

use bytes::Bytes;
use furlong_wire::limits::{OUTPUT_KEPT_BYTES, OUTPUT_MESSAGE_BYTES_MAX, OUTPUT_WHOLE_BYTES_MAX};

/// One stream of one job.
#[derive(Debug, Default)]
pub struct Kept {
    /// Bytes that came in all.
    total: u64,
    /// The last bytes that came beyond the start.
    tail: VecDeque<u8>,
    /// All bytes, if they are wanted and not too many.
    whole: Option<Vec<u8>>,
}

impl Kept {
    /// A stream of which nothing is to be left out.
    pub fn whole() -> Self {
        Self { whole: Some(Vec::new()), ..Self::default() }
    }

    /// Takes output. Gives the pieces to send now, each with its offset.
    pub fn handle_output(&mut self, bytes: &[u8]) -> Vec<(u64, Vec<u8>)> {
        let room = (OUTPUT_KEPT_BYTES as u64).saturating_sub(self.total) as usize;
        let (now, later) = bytes.split_at(room.min(bytes.len()));
        let pieces = pieces(self.total, now);
        self.total += bytes.len() as u64;
        self.tail.extend(&later[later.len().saturating_sub(OUTPUT_KEPT_BYTES)..]);
        let over = self.tail.len().saturating_sub(OUTPUT_KEPT_BYTES);
        self.tail.drain(..over);
        assert!(self.tail.len() as u64 <= self.total, "{} of {}", self.tail.len(), self.total);
        // All or nothing: what has a gap cannot stand for the whole.
        self.whole =
            self.whole.take().filter(|whole| whole.len() + bytes.len() <= OUTPUT_WHOLE_BYTES_MAX);
        self.whole.iter_mut().for_each(|whole| whole.extend_from_slice(bytes));
        pieces
    }

    /// All that was written; empty if it is not wanted or was too much.
    pub fn take_whole(&mut self) -> Bytes {
        self.whole.take().unwrap_or_default().into()
    }

    /// Bytes that came in all.
    pub fn total(&self) -> u64 {
        self.total
    }

    /// The job has ended: gives the pieces of its last output.
    pub fn take_end(&mut self) -> Vec<(u64, Vec<u8>)> {
        let tail = Vec::from(std::mem::take(&mut self.tail));
        pieces(self.total - tail.len() as u64, &tail)
    }
}

fn pieces(offset: u64, bytes: &[u8]) -> Vec<(u64, Vec<u8>)> {
    let chunks = bytes.chunks(OUTPUT_MESSAGE_BYTES_MAX);
    chunks
        .scan(offset, |at, chunk| {
            Some((std::mem::replace(at, *at + chunk.len() as u64), chunk.to_vec()))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]

        #[test]
        fn start_and_end_are_kept_with_their_offsets(
            lengths in proptest::collection::vec(0usize..400_000, 0..12), whole: bool
        ) {
            let mut kept = if whole { Kept::whole() } else { Kept::default() };
            let mut written = Vec::new();
            let mut pieces = Vec::new();
            for length in lengths {
                let places = written.len()..written.len() + length;
                let bytes: Vec<u8> = places.map(|i| (i % 251) as u8).collect();
                pieces.extend(kept.handle_output(&bytes));
                written.extend(bytes);
            }
            pieces.extend(kept.take_end());
            let mut seen = 0;
            for (offset, bytes) in &pieces {
                let start = *offset as usize;
                prop_assert!(start >= seen && bytes.len() <= OUTPUT_MESSAGE_BYTES_MAX);
                prop_assert_eq!(&written[start..start + bytes.len()], &bytes[..]);
                seen = start + bytes.len();
            }
            let sent: usize = pieces.iter().map(|(_, bytes)| bytes.len()).sum();
            prop_assert_eq!(sent, written.len().min(2 * OUTPUT_KEPT_BYTES));
            prop_assert_eq!(seen, written.len());
            prop_assert_eq!(&kept.take_whole()[..], if whole { &written[..] } else { &[] });
        }
    }
}
