//! The framing, both sides. The same events and the same bytes to send, however the input is cut;
//! memory bounded by what has come; messages that were read read the same when they are written
//! again.
//!
//! The first byte of an input chooses the side and how many events go before the peer has proved
//! itself, the second how the rest is cut.

use std::mem::discriminant;

use bytes::BytesMut;
use furlong_wire::limits::RECORD_BYTES_MAX;
use furlong_wire::zmtp::{Connection, Event, Message, Role, ZmtpError, put_frame_header};

use crate::input::Input;
use crate::{memory, vectors};

/// See the module.
pub fn run(data: &[u8]) {
    let mut input = Input::new(data);
    let (choice, cut, bytes) = (input.byte(), input.byte(), input.rest());
    let role = if choice & 1 == 0 { Role::Broker } else { Role::Peer };
    let proved_after = usize::from(choice >> 1);
    // A frame is split from the input without a copy; a message has up to 1024 of them, listed.
    let whole = memory::within(256 * 1024 + 4 * bytes.len(), || {
        hear(role, proved_after, std::iter::once(bytes))
    });
    // At least one piece, as the whole is one.
    let pieces = std::iter::once(&[][..]).chain(bytes.chunks(usize::from(cut).max(1)));
    let cut = hear(role, proved_after, pieces);
    // Only PINGs whose answers cannot be written meanwhile depend on how they come: those in one
    // read are too many.
    let is_flood = |heard: &Heard| matches!(heard.end, Some(ZmtpError::PingFlood { .. }));
    if !is_flood(&whole) && !is_flood(&cut) {
        assert_eq!((&whole.events, &whole.sent), (&cut.events, &cut.sent));
        assert_eq!(whole.end.as_ref().map(discriminant), cut.end.as_ref().map(discriminant));
    }
    let messages: Vec<&Message> = whole.events.iter().filter_map(message).collect();
    let again = crosses(&messages);
    assert!(messages.into_iter().eq(again.iter().filter_map(message)), "what is written is read");
}

/// The openings of the document with messages of both lengths of header, a PING, and an ERROR.
pub fn seeds() -> Vec<Vec<u8>> {
    let greeting = vectors::one("zmtp greeting");
    let mut messages = BytesMut::new();
    put_message(&mut messages, &[&vectors::array::<48>("handshake message 1")]);
    put_message(&mut messages, &[&[1; 40], &[2; 300], &[]]);
    let commands: [&[u8]; 3] =
        [b"\x04\x0b\x04PING\x00\x00abcd", b"\x04\x09\x04PONGabcd", b"\x04\x09\x05ERROR\x02no"];
    let mut seeds = Vec::new();
    for (choice, ready) in [(0, "zmtp READY of the peer"), (1, "zmtp READY of the broker")] {
        let opening = [&greeting[..], &vectors::one(ready)].concat();
        for rest in commands.into_iter().chain([&messages[..], &messages[..52]]) {
            seeds.push([&[choice | 4, 7][..], &opening, rest].concat());
        }
    }
    seeds
}

/// The reaction of a connection to its input.
struct Heard {
    events: Vec<Event>,
    /// The bytes that it wanted sent.
    sent: Vec<u8>,
    end: Option<ZmtpError>,
}

fn hear<'a>(role: Role, proved_after: usize, pieces: impl Iterator<Item = &'a [u8]>) -> Heard {
    let mut connection = Connection::new(role);
    let mut heard = Heard { events: Vec::new(), sent: Vec::new(), end: None };
    let mut input = BytesMut::new();
    for piece in pieces {
        input.extend_from_slice(piece);
        loop {
            let before = input.len();
            let event = connection.handle_input(&mut input);
            assert!(input.len() <= before && connection.bytes_wanted() <= RECORD_BYTES_MAX);
            heard.sent.extend(std::iter::from_fn(|| connection.poll_output()).flatten());
            match event {
                Ok(Some(event)) => heard.events.push(event),
                Ok(None) => break,
                Err(error) => {
                    assert_eq!(connection.handle_input(&mut input), Err(ZmtpError::Closed));
                    heard.end = Some(error);
                    return heard;
                }
            }
            if heard.events.len() == proved_after {
                connection.peer_proved();
            }
        }
    }
    heard
}

fn message(event: &Event) -> Option<&Message> {
    match event {
        Event::Message(message) => Some(message),
        Event::Ready => None,
    }
}

/// Writes messages, and reads them as a broker whose peer has proved itself.
fn crosses(messages: &[&Message]) -> Vec<Event> {
    let mut bytes =
        [vectors::one("zmtp greeting"), vectors::one("zmtp READY of the peer")].concat();
    let mut written = BytesMut::new();
    for message in messages {
        let frames = std::iter::once(&message.envelope).chain(&message.chunks);
        put_message(&mut written, &frames.map(|frame| &frame[..]).collect::<Vec<_>>());
    }
    bytes.extend_from_slice(&written);
    let heard = hear(Role::Broker, 1, std::iter::once(&bytes[..]));
    assert_eq!(heard.end, None);
    heard.events
}

fn put_message(out: &mut BytesMut, frames: &[&[u8]]) {
    for (number, frame) in frames.iter().enumerate() {
        put_frame_header(out, frame.len(), number + 1 < frames.len());
        out.extend_from_slice(frame);
    }
}
