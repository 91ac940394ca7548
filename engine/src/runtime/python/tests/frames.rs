//! The frames that an interpreter sends: user code can write to the same socket.

use bytes::{BufMut, BytesMut};

use crate::runtime::python::protocol::{Inbox, Incoming};

/// The head of an answer whose body has so many bytes, in one buffer.
fn head(body: u64) -> Vec<u8> {
    let mut head = BytesMut::new();
    for word in [body, 1, 0, 0, 0] {
        head.put_u64_le(word);
    }
    for word in [0, 0, 1] {
        head.put_u32_le(word);
    }
    head.put_slice(&[2, 0, 0, 0]);
    head.to_vec()
}

#[test]
fn room_is_made_as_bytes_come_and_not_as_they_are_declared() {
    let mut inbox = Inbox::default();
    inbox.room().unwrap().extend_from_slice(&head(16 << 30));
    let mut came = 56;
    for _ in 0..100 {
        assert!(inbox.poll_frame().unwrap().is_none());
        let room = inbox.room().unwrap();
        let free = room.capacity() - room.len();
        assert!(free > 0);
        assert!(room.capacity() <= (4 * came).max(2 << 20), "{} for {came}", room.capacity());
        room.put_bytes(1, free.min(64 * 1024));
        came += free.min(64 * 1024);
    }
}

#[test]
fn a_large_frame_comes_whole_in_whatever_pieces() {
    let value: Vec<u8> = (0..5_000_000_u32).map(|n| n as u8).collect();
    let bytes =
        [head(8 + value.len() as u64), (value.len() as u64).to_le_bytes().to_vec(), value.clone()]
            .concat();
    // Behind it one that is small.
    let bytes = [bytes, head(9), 1_u64.to_le_bytes().to_vec(), vec![7]].concat();
    for piece in [40, 1000, 65_536, 10_000_000] {
        let mut inbox = Inbox::default();
        let mut came = Vec::new();
        let mut left = &bytes[..];
        while !left.is_empty() {
            let room = inbox.room().unwrap();
            let (now, later) =
                left.split_at(piece.min(left.len()).min(room.capacity() - room.len()));
            room.extend_from_slice(now);
            left = later;
            while let Some(Incoming::Ended(ended)) = inbox.poll_frame().unwrap() {
                came.extend(ended.buffers);
            }
        }
        assert_eq!(came.len(), 2);
        assert!(came[0] == value && came[1] == [7][..], "in pieces of {piece}");
    }
}

#[test]
fn no_memory_for_a_frame_is_an_error() {
    let mut inbox = Inbox::default();
    inbox.room().unwrap().extend_from_slice(&head(16 << 30));
    assert!(inbox.poll_frame().unwrap().is_none());
    assert!(inbox.grow(isize::MAX as usize).is_err());
}
