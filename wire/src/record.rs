//! Records: what crosses a connection after the handshake, sealed hop by hop.
//!
//! A record is one ZeroMQ message. Its first frame is the envelope, `seq u64 LE | ciphertext of a
//! batch of messages | tag`; the frames after it are payload chunks, sealed end to end
//! ([`crate::payload`]). The envelope's associated data are the `seq` and each chunk's length and
//! tag, so it authenticates which chunks belong to it, and in which order.

use bytes::{Buf, BytesMut};
use zeroize::Zeroizing;

use crate::aead::{KEY_BYTES, Key, OpenError, TAG_BYTES, counter_nonce};

/// Bytes before the batch: the sequence number.
pub const SEQ_BYTES: usize = 8;
/// Bytes that sealing adds to a batch.
pub const ENVELOPE_OVERHEAD_BYTES: usize = SEQ_BYTES + TAG_BYTES;

/// The two keys of a connection, from the handshake.
pub struct RecordKeys {
    /// Seals what this side sends.
    pub send: Zeroizing<[u8; KEY_BYTES]>,
    /// Opens what it receives.
    pub receive: Zeroizing<[u8; KEY_BYTES]>,
}

impl RecordKeys {
    /// The sealer and the opener of this side, both at sequence number 0.
    pub fn split(self) -> (RecordSealer, RecordOpener) {
        (RecordSealer::new(&self.send), RecordOpener::new(&self.receive))
    }
}

impl std::fmt::Debug for RecordKeys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("RecordKeys(..)")
    }
}

/// Seals the records of one direction. It is not `Clone`: two sealers under one key would repeat a
/// nonce.
#[derive(Debug)]
pub struct RecordSealer {
    key: Key,
    seq: u64,
    aad: Vec<u8>,
}

impl RecordSealer {
    fn new(key: &[u8; KEY_BYTES]) -> Self {
        Self { key: Key::new(key), seq: 0, aad: Vec::new() }
    }

    /// Makes `out[start..]` an envelope. There the caller has put [`SEQ_BYTES`] of room and then
    /// the batch; the tag is appended. Call it as the last step before the socket: the records must
    /// leave in the order in which they were sealed.
    ///
    /// # Panics
    /// If a chunk is shorter than a tag, or after 2^64 - 1 records: both would be errors of this
    /// program.
    pub fn seal<C: AsRef<[u8]>>(&mut self, out: &mut Vec<u8>, start: usize, chunks: &[C]) {
        let seq = self.seq;
        self.seq = seq.checked_add(1).expect("2^64 records take longer than the machine lasts");
        out[start..start + SEQ_BYTES].copy_from_slice(&seq.to_le_bytes());
        let known = fill_aad(&mut self.aad, seq, chunks);
        assert!(known.is_some(), "a sealed chunk has a tag");
        let tag =
            self.key.seal_in_place(counter_nonce(seq), &self.aad, &mut out[start + SEQ_BYTES..]);
        out.extend_from_slice(&tag);
    }
}

/// Opens the records of one direction.
#[derive(Debug)]
pub struct RecordOpener {
    key: Key,
    expected: u64,
    aad: Vec<u8>,
}

impl RecordOpener {
    fn new(key: &[u8; KEY_BYTES]) -> Self {
        Self { key: Key::new(key), expected: 0, aad: Vec::new() }
    }

    /// Opens an envelope in place: afterwards it holds the batch alone.
    ///
    /// # Errors
    /// After any error the session is over: the connection must be closed.
    pub fn open<C: AsRef<[u8]>>(
        &mut self,
        envelope: &mut BytesMut,
        chunks: &[C],
    ) -> Result<(), RecordError> {
        if envelope.len() < ENVELOPE_OVERHEAD_BYTES {
            return Err(RecordError::Short { bytes: envelope.len() });
        }
        let seq = envelope.get_u64_le();
        if seq != self.expected {
            return Err(RecordError::Sequence { expected: self.expected, received: seq });
        }
        self.expected = seq.checked_add(1).ok_or(RecordError::Exhausted)?;
        fill_aad(&mut self.aad, seq, chunks).ok_or(RecordError::ChunkShort)?;
        self.key.open_in_place(counter_nonce(seq), &self.aad, envelope)?;
        envelope.truncate(envelope.len() - TAG_BYTES);
        Ok(())
    }
}

/// The reason that a record is refused. All but [`RecordError::Exhausted`] are the peer's fault, or
/// an attacker's.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum RecordError {
    /// No room for a sequence number and a tag.
    #[error(
        "a record's envelope has {bytes} bytes, less than the {ENVELOPE_OVERHEAD_BYTES} of its frame"
    )]
    Short {
        /// Its length.
        bytes: usize,
    },
    /// Replayed, skipped, or of another connection.
    #[error("record {received} came where {expected} was due")]
    Sequence {
        /// The next number.
        expected: u64,
        /// The number that came.
        received: u64,
    },
    /// A chunk without room for its tag.
    #[error("a payload chunk is shorter than its tag")]
    ChunkShort,
    /// The sequence numbers are used up.
    #[error("the connection has used all its sequence numbers")]
    Exhausted,
    /// Changed on the way, or not sealed by the peer.
    #[error(transparent)]
    Open(#[from] OpenError),
}

/// `seq`, then for each chunk its length (u32 LE) and its last 16 bytes. None if a chunk has no
/// room for a tag.
fn fill_aad<C: AsRef<[u8]>>(aad: &mut Vec<u8>, seq: u64, chunks: &[C]) -> Option<()> {
    aad.clear();
    aad.extend_from_slice(&seq.to_le_bytes());
    for chunk in chunks {
        let chunk = chunk.as_ref();
        let tag = chunk.len().checked_sub(TAG_BYTES)?;
        aad.extend_from_slice(&u32::try_from(chunk.len()).ok()?.to_le_bytes());
        aad.extend_from_slice(&chunk[tag..]);
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn pair() -> (RecordSealer, RecordOpener) {
        (RecordSealer::new(&[7; 32]), RecordOpener::new(&[7; 32]))
    }

    fn seal(sealer: &mut RecordSealer, batch: &[u8], chunks: &[Vec<u8>]) -> BytesMut {
        let mut out = b"before".to_vec();
        out.extend_from_slice(&[0; SEQ_BYTES]);
        out.extend_from_slice(batch);
        sealer.seal(&mut out, 6, chunks);
        BytesMut::from(&out[6..])
    }

    proptest! {
        #[test]
        fn what_was_sealed_opens_in_order(
            records in proptest::collection::vec(
                (
                    proptest::collection::vec(any::<u8>(), 0..200),
                    proptest::collection::vec(
                        proptest::collection::vec(any::<u8>(), 16..64),
                        0..4,
                    ),
                ),
                1..6,
            ),
        ) {
            let (mut sealer, mut opener) = pair();
            for (batch, chunks) in records {
                let mut envelope = seal(&mut sealer, &batch, &chunks);
                prop_assert_eq!(envelope.len(), batch.len() + ENVELOPE_OVERHEAD_BYTES);
                prop_assert_eq!(opener.open(&mut envelope, &chunks), Ok(()));
                prop_assert_eq!(&envelope[..], &batch[..]);
            }
        }

        #[test]
        fn a_flipped_bit_of_envelope_or_chunk_tag_is_refused(
            batch in proptest::collection::vec(any::<u8>(), 0..100),
            bit in any::<prop::sample::Index>(),
            in_chunk: bool,
        ) {
            let (mut sealer, mut opener) = pair();
            let mut chunks = vec![vec![1; 40], vec![2; 16]];
            let mut envelope = seal(&mut sealer, &batch, &chunks);
            if in_chunk {
                let bit = bit.index(TAG_BYTES * 8);
                chunks[0][24 + bit / 8] ^= 1 << (bit % 8);
            } else {
                let bit = bit.index(envelope.len() * 8);
                envelope[bit / 8] ^= 1 << (bit % 8);
            }
            prop_assert!(opener.open(&mut envelope, &chunks).is_err());
        }
    }

    #[test]
    fn replayed_skipped_and_truncated_records_are_refused() {
        let (mut sealer, mut opener) = pair();
        let first = seal(&mut sealer, b"first", &[]);
        let second = seal(&mut sealer, b"second", &[]);
        assert_eq!(
            opener.open::<Vec<u8>>(&mut second.clone(), &[]),
            Err(RecordError::Sequence { expected: 0, received: 1 })
        );
        for len in 0..first.len() {
            let (_, mut opener) = pair();
            assert!(
                opener.open::<Vec<u8>>(&mut BytesMut::from(&first[..len]), &[]).is_err(),
                "{len} bytes"
            );
        }
        assert_eq!(opener.open::<Vec<u8>>(&mut first.clone(), &[]), Ok(()));
        assert_eq!(
            opener.open::<Vec<u8>>(&mut first.clone(), &[]),
            Err(RecordError::Sequence { expected: 1, received: 0 })
        );
    }

    #[test]
    fn chunks_swapped_dropped_added_or_too_short_are_refused() {
        let chunks = vec![vec![1; 20], vec![2; 20]];
        let sealed = seal(&mut pair().0, b"batch", &chunks);
        let (one, two) = (chunks[0].clone(), chunks[1].clone());
        for wrong in [
            vec![two.clone(), one.clone()],
            vec![one.clone()],
            vec![],
            vec![one.clone(), two, one],
            vec![vec![]],
        ] {
            assert!(pair().1.open(&mut sealed.clone(), &wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn the_last_sequence_number_ends_the_session() {
        let (mut sealer, mut opener) = pair();
        (sealer.seq, opener.expected) = (u64::MAX - 1, u64::MAX - 1);
        let mut envelope = seal(&mut sealer, b"last", &[]);
        assert_eq!(opener.open::<Vec<u8>>(&mut envelope, &[]), Ok(()));
        let mut over = BytesMut::from(&[0xff; 40][..]);
        assert_eq!(opener.open::<Vec<u8>>(&mut over, &[]), Err(RecordError::Exhausted));
    }
}
