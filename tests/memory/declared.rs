//! Memory that a peer's bytes cost: what has come of them, never what they declare.

mod allocator;

use furlong_wire::call::decode_reply;
use furlong_wire::ids::SessionId;
use furlong_wire::limits::PAYLOAD_BYTES_MAX;
use furlong_wire::message::{FromClient, FromEngine, Message, ToClient, ToEngine, decode_batch};
use furlong_wire::payload::{PayloadOpener, PayloadSecret};

use allocator::counted;

/// The bytes that were held at once for this, beyond those before.
fn peak_bytes(f: impl FnOnce()) -> u64 {
    let ((), [_, peak]) = counted(f);
    peak
}

/// Decodes bytes that must be refused.
type Decode = fn(&[u8]);

fn is_refused<M: Message>(batch: &[u8]) {
    assert!(decode_batch::<M>(batch).next().is_some_and(|message| message.is_err()));
}

// One test, since others would allocate beside it.
#[test]
fn memory_is_taken_for_what_has_come() {
    const MANY: [u8; 5] = [0xdd, 0x00, 0xff, 0xff, 0xff];
    const SOME: [u8; 3] = [0xdc, 0xff, 0xff];
    let lists: [(&[u8], Decode); 12] = [
        (&[0x92, 19, 0x92], is_refused::<FromClient>),
        (&[0x92, 20, 0x93, 1], is_refused::<FromClient>),
        (&[0x92, 22, 0x93, 1], is_refused::<FromClient>),
        (&[0x92, 26, 0x91], is_refused::<FromClient>),
        (&[0x92, 28, 0x92, 1], is_refused::<FromClient>),
        (&[0x92, 32, 0x93, 1], is_refused::<ToClient>),
        (
            &[0x92, 37, 0x92, 1, 0x81, 0xa7, b'e', b'n', b'g', b'i', b'n', b'e', b's'],
            is_refused::<ToClient>,
        ),
        (
            &[0x92, 37, 0x92, 1, 0x81, 0xa5, b't', b'a', b's', b'k', b's', 0x92],
            is_refused::<ToClient>,
        ),
        (&[0x92, 48, 0x91], is_refused::<ToEngine>),
        (&[0x92, 61, 0x91], is_refused::<ToEngine>),
        (&[0x92, 65, 0x91], is_refused::<FromEngine>),
        (&[0x92, 74, 0x92, 0x92, 1, 1], is_refused::<FromEngine>),
    ];
    for (front, decode) in lists {
        for declared in [&MANY[..], &SOME] {
            let batch = [front, declared, &[0; 40]].concat();
            let peak = peak_bytes(|| decode(&batch));
            assert!(peak <= 64 * batch.len() as u64, "{peak} bytes for {batch:?}");
        }
    }
    let header = [&[0x81, 0xa9][..], b"displayed", &[0x92, 1], &MANY].concat();
    let peak = peak_bytes(|| assert!(decode_reply(&header).is_err()));
    assert!(peak <= 64 * header.len() as u64, "{peak} bytes for a header");
    let key = PayloadSecret::new([1; 32]).request_key(&SessionId::default());
    let announced = || PayloadOpener::new(key.clone(), 0, PAYLOAD_BYTES_MAX).unwrap();
    let peak = peak_bytes(|| drop((0..1_000).map(|_| announced()).collect::<Vec<_>>()));
    assert!(peak <= 1_000_000, "{peak} bytes for a thousand announcements");
}
