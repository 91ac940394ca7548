//! Batches of messages. What is read is written in one way, which reads as the same again; a batch
//! that is cut between two messages gives the first ones; memory grows with the bytes that are
//! there, not with lengths that are declared.

use furlong_wire::message::{
    FromClient, FromEngine, Greeting, Message, ToClient, ToEngine, decode_batch, decode_next,
    encode_message,
};

use crate::{memory, vectors};

/// As [`Greeting`].
pub fn greeting(data: &[u8]) {
    check::<Greeting>(data);
}

/// As [`FromClient`].
pub fn from_client(data: &[u8]) {
    check::<FromClient>(data);
}

/// As [`ToClient`].
pub fn to_client(data: &[u8]) {
    check::<ToClient>(data);
}

/// As [`FromEngine`].
pub fn from_engine(data: &[u8]) {
    check::<FromEngine>(data);
}

/// As [`ToEngine`].
pub fn to_engine(data: &[u8]) {
    check::<ToEngine>(data);
}

/// Each message of a direction alone, and all of them as one batch.
pub fn seeds(direction: &str) -> Vec<Vec<u8>> {
    let mut seeds = vectors::named(direction);
    seeds.push(seeds.concat());
    seeds
}

/// The longest list in relation to its bytes: one byte makes an empty text, which has 24, and a
/// growing list holds up to three times that while it moves.
const BYTES_PER_BYTE: usize = 96;
/// Whatever the input, a reader may have so much.
const RESERVED: usize = 4 << 10;
/// A list reserves room for its elements when it begins, up to a bound of serde's, and bytes in its
/// place count as elements each, the largest of which has less than this.
const ELEMENT_BYTES: usize = 512;
const RESERVED_BY_LIST: usize = 1 << 20;

fn check<M: Message + PartialEq>(data: &[u8]) {
    let of_list = RESERVED_BY_LIST.min(ELEMENT_BYTES * data.len());
    let bytes_max = RESERVED + of_list + BYTES_PER_BYTE * data.len();
    let (messages, whole) = memory::within(bytes_max, || read::<M>(data));
    let mut batch = Vec::new();
    messages.iter().for_each(|message| encode_message(message, &mut batch));
    let again: Vec<M> =
        decode_batch(&batch).map(|message| message.expect("what is written is read")).collect();
    assert_eq!(again, messages);
    let mut rewritten = Vec::new();
    again.iter().for_each(|message| encode_message(message, &mut rewritten));
    assert_eq!(rewritten, batch);
    assert!(decode_batch::<M>(&data[..whole]).all(|message| message.is_ok()));
}

/// The messages at the front, and how many bytes they take.
fn read<M: Message>(data: &[u8]) -> (Vec<M>, usize) {
    let (mut messages, mut at) = (Vec::new(), 0);
    let mut rest = data;
    while let Some(Ok(message)) = decode_next(&mut rest) {
        let bytes = data.len() - at - rest.len();
        assert!(bytes > 0, "a message has bytes");
        at += bytes;
        messages.push(message);
    }
    (messages, at)
}
