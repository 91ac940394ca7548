//! Payloads. Any layout is read or refused, its buffers are views of what has come, and packing
//! them again gives the same; a chunk that is changed does not open.
//!
//! The input is an inline payload, and what a chunked one holds.

use bytes::Bytes;
use furlong_wire::aead::Key;
use furlong_wire::ids::SessionId;
use furlong_wire::limits::{BUFFER_ALIGNMENT, CHUNK_BYTES_MAX, INLINE_PAYLOAD_BYTES_MAX};
use furlong_wire::payload::{
    InlineBytes, Packed, PayloadKey, PayloadOpener, PayloadSealer, PayloadSecret, unpack_inline,
    unpack_inline_call,
};
use hkdf::Hkdf;
use sha2::Sha256;

use crate::vectors::{self, secrets};

const SESSION: SessionId = SessionId([9; 16]);

/// See the module.
pub fn run(data: &[u8]) {
    if data.len() <= INLINE_PAYLOAD_BYTES_MAX {
        inline(data);
    }
    if !data.is_empty() && data.len() <= CHUNK_BYTES_MAX {
        chunked(data);
    }
}

/// The inline payload of the document, and the beginning of its chunked one.
pub fn seeds() -> Vec<Vec<u8>> {
    let layout = |lengths: &[u64], bytes: usize| {
        let mut payload = (lengths.len() as u64).to_le_bytes().to_vec();
        lengths.iter().for_each(|length| payload.extend_from_slice(&length.to_le_bytes()));
        payload.resize(bytes, 1);
        payload
    };
    let chunked =
        [layout(&[], 8), layout(&[0], 64), layout(&[15, 1024], 1152), layout(&[15, 3000], 3128)];
    vectors::named("inline payload").into_iter().chain(chunked).collect()
}

fn inline(data: &[u8]) {
    let payload = InlineBytes::copy_from_slice(data);
    let (buffers, call) = (unpack_inline(&payload), unpack_inline_call(&payload));
    assert_eq!(buffers.is_ok(), call.is_ok());
    let (Ok(buffers), Ok((header, rest))) = (buffers, call) else { return };
    assert_eq!(buffers.first().map_or(&[][..], |first| first), header);
    assert_eq!(buffers.get(1..).unwrap_or_default(), rest);
    match sealer().pack(buffers) {
        Ok(Packed::Inline(again)) => assert_eq!(&again[..], data, "an inline payload has one form"),
        other => panic!("what was inline is so again: {other:?}"),
    }
}

fn chunked(data: &[u8]) {
    let bytes = data.len() as u64;
    let chunk = seal(data);
    let mut opener = PayloadOpener::new(key(), 0, bytes).expect("there is memory for one chunk");
    opener.handle_chunk(&chunk).expect("what was sealed opens");
    assert!(opener.is_complete() && opener.handle_chunk(&chunk).is_err());
    let mut changed = chunk;
    let at = usize::from(data[0]) % changed.len();
    changed[at] ^= 1;
    let mut strict = PayloadOpener::new(key(), 0, bytes).expect("there is memory for one chunk");
    assert!(strict.handle_chunk(&changed).is_err() && strict.into_buffers().is_err());
    let Ok(buffers) = opener.into_buffers() else { return };
    assert!(buffers.iter().map(Bytes::len).sum::<usize>() <= data.len());
    let aligned = |buffer: &Bytes| {
        buffer.is_empty() || buffer.as_ptr().addr().is_multiple_of(BUFFER_ALIGNMENT)
    };
    assert!(buffers.iter().all(aligned));
    assert_eq!(crosses(buffers.clone()), buffers);
}

/// Packs and opens.
fn crosses(buffers: Vec<Bytes>) -> Vec<Bytes> {
    match sealer().pack(buffers).expect("what was a payload is one again") {
        Packed::Inline(inline) => unpack_inline(&inline).expect("what is packed is unpacked"),
        Packed::Chunked(sealed) => {
            let opener = PayloadOpener::new(key(), sealed.counter(), sealed.bytes());
            let mut opener = opener.expect("there is memory for it");
            (0..sealed.chunk_count()).for_each(|index| {
                opener.handle_chunk(&sealed.chunk(index)).expect("what was sealed opens");
            });
            opener.into_buffers().expect("what is packed is unpacked")
        }
    }
}

fn key() -> PayloadKey {
    PayloadSecret::new(secrets::PAYLOAD).request_key(&SESSION)
}

fn sealer() -> PayloadSealer {
    key().into_sealer()
}

/// The one chunk of a payload that holds anything, by the words of PROTOCOL.md: the sealer of the
/// product writes only layouts that are right.
fn seal(data: &[u8]) -> Vec<u8> {
    let mut key = [0; 32];
    let expanded = Hkdf::<Sha256>::new(None, &secrets::PAYLOAD)
        .expand_multi_info(&[b"request", &SESSION.0], &mut key);
    expanded.expect("32 bytes are within HKDF's bound");
    let aad = [&[1][..], &(data.len() as u64).to_le_bytes(), &[1]].concat();
    let mut chunk = data.to_vec();
    let tag = Key::new(&key).seal_in_place([0; 12], &aad, &mut chunk);
    chunk.extend_from_slice(&tag);
    chunk
}
