use super::*;
use proptest::prelude::*;

const SESSION: SessionId = SessionId([1; 16]);

fn key() -> PayloadKey {
    PayloadSecret::new([5; 32]).request_key(&SESSION)
}

fn sealed(buffers: &[Bytes]) -> SealedPayload {
    match key().into_sealer().pack(buffers.to_vec()) {
        Ok(Packed::Chunked(sealed)) => sealed,
        other => panic!("not chunked: {other:?}"),
    }
}

fn open(sealed: &SealedPayload) -> Result<Vec<Bytes>, PayloadError> {
    let mut opener = PayloadOpener::new(key(), sealed.counter(), sealed.bytes())?;
    for index in 0..sealed.chunk_count() {
        opener.handle_chunk(&sealed.chunk(index))?;
    }
    opener.into_buffers()
}

fn buffer_of(len: usize, seed: u8) -> Bytes {
    (0..len).map(|i| (i as u8).wrapping_mul(31).wrapping_add(seed)).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn buffers_arrive_as_they_were_and_aligned(
        lengths in proptest::collection::vec(0usize..300_000, 0..6),
    ) {
        let buffers: Vec<Bytes> =
            lengths.iter().zip(1..).map(|(len, seed)| buffer_of(*len, seed)).collect();
        let arrived = match key().into_sealer().pack(buffers.clone()).unwrap() {
            Packed::Inline(inline) => {
                prop_assert!(inline.len() <= INLINE_PAYLOAD_BYTES_MAX);
                unpack_inline(&inline).unwrap()
            }
            Packed::Chunked(sealed) => {
                let arrived = open(&sealed).unwrap();
                let mut addresses = arrived.iter().map(|buffer| buffer.as_ptr().addr());
                prop_assert!(addresses.all(|address| address % BUFFER_ALIGNMENT == 0));
                arrived
            }
        };
        prop_assert_eq!(arrived, buffers);
    }

    #[test]
    fn small_buffers_travel_inline(lengths in proptest::collection::vec(0usize..100, 0..9)) {
        let buffers: Vec<Bytes> =
            lengths.iter().zip(1..).map(|(len, seed)| buffer_of(*len, seed)).collect();
        let packed = key().into_sealer().pack(buffers.clone()).unwrap();
        let Packed::Inline(inline) = packed else { panic!("not inline") };
        prop_assert_eq!(unpack_inline(&inline).unwrap(), buffers);
    }

    #[test]
    fn any_inline_bytes_are_read_or_refused(
        bytes in proptest::collection::vec(any::<u8>(), 0..100),
    ) {
        let inline = InlineBytes::from(bytes);
        if let Ok(buffers) = unpack_inline(&inline) {
            prop_assert_eq!(pack_inline(buffers.iter()), Some(inline.clone()));
            let (header, data) = unpack_inline_call(&inline).unwrap();
            prop_assert_eq!(header, buffers.first().map_or(&[][..], |buffer| buffer));
            prop_assert_eq!(&data[..], buffers.get(1..).unwrap_or_default());
        }
    }

    #[test]
    fn any_table_is_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        if let Ok(table) = Table::parse(&bytes) {
            prop_assert!(table.places().all(|range| range.end <= bytes.len() as u64));
        }
    }

    #[test]
    fn a_flipped_bit_of_a_chunk_is_found(bit in any::<prop::sample::Index>()) {
        let sealed = sealed(&[buffer_of(2000, 1)]);
        let mut chunk = sealed.chunk(0).to_vec();
        let bit = bit.index(chunk.len() * 8);
        chunk[bit / 8] ^= 1 << (bit % 8);
        let mut opener = PayloadOpener::new(key(), 0, sealed.bytes()).unwrap();
        prop_assert_eq!(opener.handle_chunk(&chunk), Err(PayloadError::Forged { index: 0 }));
    }
}

#[test]
fn chunks_fill_records_exactly_at_the_boundaries() {
    for extra in [0, 1, 2] {
        let len = 2 * CHUNK_BYTES_MAX - BUFFER_ALIGNMENT + extra - 1;
        let sealed = sealed(&[buffer_of(len, 3)]);
        assert_eq!(sealed.chunk_count(), if extra < 2 { 2 } else { 3 });
        for index in 0..sealed.chunk_count() {
            assert_eq!(chunk_bytes(sealed.bytes(), index), Some(sealed.chunk(index).len()));
        }
        assert_eq!(chunk_bytes(sealed.bytes(), sealed.chunk_count()), None);
        assert_eq!(open(&sealed).unwrap(), [buffer_of(len, 3)]);
    }
}

#[test]
fn chunks_out_of_order_of_another_payload_or_session_are_refused() {
    let sealed = sealed(&[buffer_of(CHUNK_BYTES_MAX * 2, 1)]);
    let opener = |key| PayloadOpener::new(key, 0, sealed.bytes()).unwrap();
    assert_eq!(
        opener(key()).handle_chunk(&sealed.chunk(1)),
        Err(PayloadError::Forged { index: 0 })
    );
    let mut other_counter = PayloadOpener::new(key(), 1, sealed.bytes()).unwrap();
    assert_eq!(
        other_counter.handle_chunk(&sealed.chunk(0)),
        Err(PayloadError::Forged { index: 0 })
    );
    let secret = PayloadSecret::new([5; 32]);
    for other in [
        secret.request_key(&SessionId([2; 16])),
        secret.result_key(&SESSION, &InstanceId([1; 16])),
        PayloadSecret::new([6; 32]).request_key(&SESSION),
    ] {
        assert_eq!(
            opener(other).handle_chunk(&sealed.chunk(0)),
            Err(PayloadError::Forged { index: 0 })
        );
    }
}

#[test]
fn an_incomplete_payload_gives_no_buffers() {
    let sealed = sealed(&[buffer_of(CHUNK_BYTES_MAX * 2, 1)]);
    let mut opener = PayloadOpener::new(key(), 0, sealed.bytes()).unwrap();
    opener.handle_chunk(&sealed.chunk(0)).unwrap();
    assert!(!opener.is_complete());
    assert_eq!(opener.into_buffers(), Err(PayloadError::Layout));
}

#[test]
fn memory_is_taken_as_chunks_come_and_not_as_they_are_declared() {
    // As many announcements as a peer likes: none of them costs a buffer.
    let declared = |bytes| PayloadOpener::new(key(), 0, bytes).unwrap();
    assert!(
        (0..2_000).map(|_| declared(PAYLOAD_BYTES_MAX)).all(|opener| opener.opened.capacity() == 0)
    );
    let slack = BUFFER_ALIGNMENT + TAG_BYTES;
    let sealed = sealed(&[buffer_of(60 * CHUNK_BYTES_MAX, 1), buffer_of(5, 2)]);
    let mut opener = declared(sealed.bytes());
    for index in 0..sealed.chunk_count() {
        opener.handle_chunk(&sealed.chunk(index)).unwrap();
        let come = (index as usize + 1) * CHUNK_BYTES_MAX;
        let most =
            (8 * (come + TAG_BYTES)).max(FIRST_ROOM_BYTES as usize).min(sealed.bytes() as usize)
                + slack;
        assert!(opener.opened.capacity() <= most, "{} bytes for {come}", opener.opened.capacity());
    }
    let arrived = opener.into_buffers().unwrap();
    assert_eq!(arrived, [buffer_of(60 * CHUNK_BYTES_MAX, 1), buffer_of(5, 2)]);
    assert!(arrived.iter().all(|buffer| buffer.as_ptr().addr() % BUFFER_ALIGNMENT == 0));
}

#[test]
fn a_payload_beyond_the_limit_is_refused_before_memory_is_taken() {
    let error = PayloadOpener::new(key(), 0, PAYLOAD_BYTES_MAX + 1).unwrap_err();
    assert_eq!(error, PayloadError::Large { bytes: PAYLOAD_BYTES_MAX + 1 });
}
