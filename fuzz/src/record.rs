//! Records. What was sealed opens in its order; a record that is changed, cut, repeated, left out,
//! or whose chunks are, does not open, and no bytes of an unauthenticated peer's do.
//!
//! An input is a list of records: what is in each, and what becomes of it on its way. The key comes
//! from the input: a fuzzer sees what a tag is compared with, and would copy it if the same tag
//! were right for the input with the copy.

use bytes::BytesMut;
use furlong_wire::record::{RecordKeys, RecordOpener, RecordSealer, SEQ_BYTES};
use sha2::{Digest, Sha256};

use crate::input::Input;
use crate::vectors;

const RECORDS_MAX: usize = 16;

/// See the module.
pub fn run(data: &[u8]) {
    let (mut sealer, mut opener) = pair(data);
    assert!(
        opener.open::<Vec<u8>>(&mut BytesMut::from(data), &[]).is_err(),
        "nobody has sealed this"
    );
    (_, opener) = pair(data);
    let mut input = Input::new(data);
    for _ in 0..RECORDS_MAX {
        if input.is_empty() {
            return;
        }
        let batch_bytes = input.below(64);
        let batch = input.bytes(batch_bytes);
        let mut chunks: Vec<Vec<u8>> =
            (0..input.below(4)).map(|_| vec![input.byte(); 16 + input.below(8)]).collect();
        let mut envelope = seal(&mut sealer, batch, &chunks);
        let (original, of) = (envelope.clone(), chunks.clone());
        change(&mut input, &mut envelope, &mut chunks);
        let is_same = envelope == original && tags(&chunks).eq(tags(&of));
        let outcome = opener.open(&mut envelope, &chunks);
        assert_eq!(outcome.is_ok(), is_same, "{outcome:?}");
        if outcome.is_err() {
            return;
        }
        assert_eq!(&envelope[..], batch);
        let again = opener.open(&mut original.clone(), &of);
        assert!(again.is_err(), "a record is opened once");
    }
}

/// The envelopes of the document, and records of which the last ones are changed.
pub fn seeds() -> Vec<Vec<u8>> {
    let mut seeds = vectors::named("record 0 of the peer: Open and Submit, envelope");
    seeds.extend(vectors::named("record 2 of the peer: heartbeat, envelope"));
    for changed in 0..8 {
        seeds.push(
            [&[3][..], b"abc", &[2, 7, 0, 9, 4, 0, 2][..], b"de", &[2, 7, 0, 9, 4, changed, 1, 1]]
                .concat(),
        );
    }
    seeds
}

fn pair(data: &[u8]) -> (RecordSealer, RecordOpener) {
    let key: [u8; 32] = Sha256::digest(data).into();
    let keys = || RecordKeys { send: key.into(), receive: key.into() };
    (keys().split().0, keys().split().1)
}

fn seal(sealer: &mut RecordSealer, batch: &[u8], chunks: &[Vec<u8>]) -> BytesMut {
    let mut envelope = [&[0; SEQ_BYTES], batch].concat();
    sealer.seal(&mut envelope, 0, chunks);
    BytesMut::from(&envelope[..])
}

/// Returns the tags of a record's chunks: how long they are and how they end.
fn tags(chunks: &[Vec<u8>]) -> impl Iterator<Item = (usize, &[u8])> {
    chunks.iter().map(|chunk| (chunk.len(), &chunk[chunk.len().saturating_sub(16)..]))
}

fn change(input: &mut Input<'_>, envelope: &mut BytesMut, chunks: &mut Vec<Vec<u8>>) {
    match input.below(8) {
        1 => flip(input, envelope),
        2 => envelope.truncate(input.below(envelope.len())),
        3 => envelope.extend_from_slice(&[input.byte()]),
        4 => _ = chunks.pop(),
        5 => chunks.reverse(),
        6 => chunks.first_mut().into_iter().for_each(|chunk| flip(input, chunk)),
        7 => chunks.push(vec![input.byte(); input.below(40)]),
        _ => {}
    }
}

fn flip(input: &mut Input<'_>, bytes: &mut [u8]) {
    let at = input.below(bytes.len());
    bytes[at] ^= input.byte();
}
