use bytes::{BufMut, BytesMut};
use proptest::collection::vec;
use proptest::prelude::*;

use super::command::COMMAND_BYTES_MAX;
use super::*;

const MORE: bool = true;
const LAST: bool = false;

/// RFC 37's bytes, spelled out once, independent of the code under test.
#[rustfmt::skip]
const GREETING: [u8; 64] = [
    0xFF, 0, 0, 0, 0, 0, 0, 0, 0, 0x7F,
    3, 1,
    b'N', b'U', b'L', b'L', 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
    0,
    0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
];

#[rustfmt::skip]
const READY_DEALER: [u8; 30] = [
    0x04, 28,
    5, b'R', b'E', b'A', b'D', b'Y',
    11, b'S', b'o', b'c', b'k', b'e', b't', b'-', b'T', b'y', b'p', b'e',
    0, 0, 0, 6, b'D', b'E', b'A', b'L', b'E', b'R',
];

#[rustfmt::skip]
const READY_ROUTER: [u8; 30] = [
    0x04, 28,
    5, b'R', b'E', b'A', b'D', b'Y',
    11, b'S', b'o', b'c', b'k', b'e', b't', b'-', b'T', b'y', b'p', b'e',
    0, 0, 0, 6, b'R', b'O', b'U', b'T', b'E', b'R',
];

fn greeting_with(offset: usize, byte: u8) -> Vec<u8> {
    let mut greeting = GREETING.to_vec();
    greeting[offset] = byte;
    greeting
}

fn mechanism(name: &str) -> Vec<u8> {
    let mut greeting = GREETING.to_vec();
    greeting[12..32].fill(0);
    greeting[12..12 + name.len()].copy_from_slice(name.as_bytes());
    greeting
}

fn frame(flags: u8, body: &[u8]) -> Vec<u8> {
    let mut out = vec![flags];
    if let Ok(short) = u8::try_from(body.len()) {
        out.push(short);
    } else {
        out[0] |= 0x02;
        out.put_u64(body.len() as u64);
    }
    out.extend_from_slice(body);
    out
}

fn command(name: &str, data: &[u8]) -> Vec<u8> {
    let mut body = vec![name.len() as u8];
    body.extend_from_slice(name.as_bytes());
    body.extend_from_slice(data);
    frame(0x04, &body)
}

fn property(name: &[u8], value: &[u8]) -> Vec<u8> {
    let mut out = vec![name.len() as u8];
    out.extend_from_slice(name);
    out.put_u32(value.len() as u32);
    out.extend_from_slice(value);
    out
}

fn ready(properties: &[(&str, &[u8])]) -> Vec<u8> {
    let data: Vec<u8> =
        properties.iter().flat_map(|(name, value)| property(name.as_bytes(), value)).collect();
    command("READY", &data)
}

fn ready_with(extra: &[(&str, &[u8])]) -> Vec<u8> {
    ready(&[&[("Socket-Type", &b"DEALER"[..])], extra].concat())
}

fn ping(context: &[u8]) -> Vec<u8> {
    command("PING", &[&[0, 100], context].concat())
}

fn long_header(flags: u8, declared: u64) -> Vec<u8> {
    let mut out = vec![flags | 0x02];
    out.put_u64(declared);
    out
}

fn encode(message: &[Vec<u8>]) -> Vec<u8> {
    let mut out = BytesMut::new();
    for (at, body) in message.iter().enumerate() {
        put_frame_header(&mut out, body.len(), at + 1 < message.len());
        out.extend_from_slice(body);
    }
    out.to_vec()
}

fn frames(message: Message) -> Vec<Vec<u8>> {
    std::iter::once(message.envelope).chain(message.chunks).map(|body| body.to_vec()).collect()
}

fn excerpt(text: &str) -> Excerpt {
    Excerpt::new(text.as_bytes())
}

/// The progress of a connection under test.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Greeting,
    Ready,
    Unauthenticated,
    Proved,
}

const STAGES: [Stage; 4] = [Stage::Greeting, Stage::Ready, Stage::Unauthenticated, Stage::Proved];

/// A broker's connection at that stage, its output drained.
fn broker_at(stage: Stage) -> Connection {
    let mut broker = Connection::new(Role::Broker);
    let mut input = BytesMut::new();
    if stage != Stage::Greeting {
        input.extend_from_slice(&GREETING);
    }
    if matches!(stage, Stage::Unauthenticated | Stage::Proved) {
        input.extend_from_slice(&READY_DEALER);
    }
    let event = broker.handle_input(&mut input).expect("the handshake is well-formed");
    assert_eq!(event.is_some(), matches!(stage, Stage::Unauthenticated | Stage::Proved));
    if stage == Stage::Proved {
        broker.peer_proved();
    }
    broker.poll_output();
    broker
}

/// Feeds the bytes and returns all messages, and what stopped them if that was an error.
fn drive(
    connection: &mut Connection,
    input: &mut BytesMut,
    bytes: &[u8],
) -> (Vec<Vec<Vec<u8>>>, Option<ZmtpError>) {
    input.extend_from_slice(bytes);
    let mut messages = Vec::new();
    loop {
        let before = input.len();
        let result = connection.handle_input(input);
        assert!(input.len() <= before);
        assert!(connection.bytes_wanted() <= RECORD_BYTES_MAX);
        match result {
            Ok(Some(Event::Message(message))) => messages.push(frames(message)),
            Ok(Some(Event::Ready)) => {}
            Ok(None) => return (messages, None),
            Err(error) => return (messages, Some(error)),
        }
    }
}

fn error_at(stage: Stage, bytes: &[u8]) -> Option<ZmtpError> {
    drive(&mut broker_at(stage), &mut BytesMut::new(), bytes).1
}

#[test]
fn greeting_and_ready_are_the_bytes_of_the_rfc() {
    let mut peer = Connection::new(Role::Peer);
    assert_eq!(peer.poll_output().as_deref(), Some(&GREETING[..]));
    assert_eq!(peer.poll_output(), None);
    assert_eq!(peer.handle_input(&mut BytesMut::from(&GREETING[..])), Ok(None));
    assert_eq!(peer.poll_output().as_deref(), Some(&READY_DEALER[..]));
    assert_eq!(peer.handle_input(&mut BytesMut::from(&READY_ROUTER[..])), Ok(Some(Event::Ready)));

    let mut broker = Connection::new(Role::Broker);
    assert_eq!(broker.poll_output().as_deref(), Some(&GREETING[..]));
    assert_eq!(broker.handle_input(&mut BytesMut::from(&GREETING[..])), Ok(None));
    assert_eq!(broker.poll_output(), None, "the side that binds replies to READY");
    assert_eq!(broker.handle_input(&mut BytesMut::from(&READY_DEALER[..])), Ok(Some(Event::Ready)));
    assert_eq!(broker.poll_output().as_deref(), Some(&READY_ROUTER[..]));
}

#[test]
fn frame_headers_are_short_up_to_255_bytes() {
    let mut out = BytesMut::new();
    put_frame_header(&mut out, 0, LAST);
    put_frame_header(&mut out, 255, MORE);
    put_frame_header(&mut out, 256, LAST);
    put_frame_header(&mut out, 0x0102_0304, MORE);
    let expected =
        [&[0, 0][..], &[1, 255], &[2, 0, 0, 0, 0, 0, 0, 1, 0], &[3, 0, 0, 0, 0, 1, 2, 3, 4]]
            .concat();
    assert_eq!(&out[..], &expected[..]);
}

/// Two connections with a wire between them.
struct Pair {
    broker: Connection,
    peer: Connection,
    to_broker: BytesMut,
    to_peer: BytesMut,
}

impl Pair {
    fn opened() -> Self {
        let (broker, peer) = (Connection::new(Role::Broker), Connection::new(Role::Peer));
        let mut pair = Self { broker, peer, to_broker: BytesMut::new(), to_peer: BytesMut::new() };
        let mut ready = 0;
        for _ in 0..4 {
            pair.carry_output();
            ready += usize::from(
                pair.broker.handle_input(&mut pair.to_broker) == Ok(Some(Event::Ready)),
            );
            ready +=
                usize::from(pair.peer.handle_input(&mut pair.to_peer) == Ok(Some(Event::Ready)));
        }
        assert_eq!(ready, 2);
        assert!(pair.to_broker.is_empty() && pair.to_peer.is_empty());
        pair
    }

    fn carry_output(&mut self) {
        self.to_broker.extend_from_slice(&self.peer.poll_output().unwrap_or_default());
        self.to_peer.extend_from_slice(&self.broker.poll_output().unwrap_or_default());
    }
}

#[test]
fn two_connections_complete_ready_and_exchange() {
    let mut pair = Pair::opened();
    pair.broker.peer_proved();
    let to_broker = vec![b"envelope".to_vec(), vec![7; 300], Vec::new()];
    let to_peer = vec![b"welcome".to_vec()];
    let got = drive(&mut pair.broker, &mut pair.to_broker, &encode(&to_broker));
    assert_eq!(got, (vec![to_broker], None));
    let got = drive(&mut pair.peer, &mut pair.to_peer, &encode(&to_peer));
    assert_eq!(got, (vec![to_peer], None));
}

#[test]
fn foreign_dealers_are_accepted() {
    let zmtp_3_0 = greeting_with(11, 0);
    let libzmq_padding = greeting_with(8, 1);
    let filler = greeting_with(63, 9);
    let later = greeting_with(10, 4);
    let readies = [
        ready_with(&[]),
        ready_with(&[("Identity", b"")]),
        ready_with(&[("identity", &[0xFF; 255])]),
        ready(&[("SOCKET-TYPE", b"DEALER"), ("X-Anything", b""), ("X-Anything", &[0; 100])]),
        ready_with(&[("X", &b"x"[..]); 15]),
    ];
    for greeting in [GREETING.to_vec(), zmtp_3_0, libzmq_padding, filler, later] {
        for ready in &readies {
            let mut input = BytesMut::from(&[&greeting[..], ready].concat()[..]);
            assert_eq!(
                Connection::new(Role::Broker).handle_input(&mut input),
                Ok(Some(Event::Ready))
            );
            assert!(input.is_empty());
        }
    }
}

#[test]
fn a_wrong_greeting_is_refused_at_its_first_wrong_byte() {
    let null = |name| ZmtpError::MechanismNotNull { mechanism: excerpt(name) };
    let cases = [
        (0, b"GET / HTTP/1.1".to_vec(), ZmtpError::NotZmtp { offset: 0, byte: b'G' }),
        // ZMTP 1.0, without and with a long identity, and ZMTP 2.0.
        (0, vec![1, 0], ZmtpError::NotZmtp { offset: 0, byte: 1 }),
        (9, greeting_with(9, 0), ZmtpError::NotZmtp { offset: 9, byte: 0 }),
        (10, greeting_with(10, 1), ZmtpError::VersionTooOld { major: 1 }),
        (10, greeting_with(10, 2), ZmtpError::VersionTooOld { major: 2 }),
        (12, mechanism("PLAIN"), null("PLAIN")),
        (12, mechanism("CURVE"), null("CURVE")),
        (16, mechanism("NULLS"), null("NULLS")),
        (15, mechanism("NUL"), null("NUL")),
        (12, mechanism(""), null("")),
        (31, greeting_with(31, b'\n'), null("NULL\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\n")),
        (32, greeting_with(32, 1), ZmtpError::AsServer { value: 1 }),
    ];
    for (at, bytes, expected) in cases {
        assert_eq!(error_at(Stage::Greeting, &bytes), Some(expected.clone()));
        assert_eq!(error_at(Stage::Greeting, &bytes[..at]), None, "{expected}");
        assert!(error_at(Stage::Greeting, &bytes[..=at]).is_some(), "{expected}");
    }
}

#[test]
fn a_wrong_ready_is_refused() {
    let refused =
        |found| ZmtpError::SocketTypeRefused { found: excerpt(found), accepted: "DEALER" };
    let dealer = property(b"Socket-Type", b"DEALER");
    let cut = |len: usize| command("READY", &dealer[..len]);
    let before_ready = |name| ZmtpError::CommandBeforeReady { name: excerpt(name) };
    let cases = [
        (frame(0x00, b"message"), ZmtpError::MessageBeforeReady),
        (vec![0x03], ZmtpError::MessageBeforeReady),
        (vec![0x05], ZmtpError::CommandWithMore),
        (vec![0x08], ZmtpError::ReservedFlags { flags: 0x08 }),
        (command("PING", &[0, 0]), before_ready("PING")),
        (command("HELLO", &[]), before_ready("HELLO")),
        (command("ready", &[]), before_ready("ready")),
        (
            command("ERROR", b"\x07no\nmore"),
            ZmtpError::RefusedByPeer { reason: excerpt("no\nmore") },
        ),
        (command("ERROR", b"\x07no"), ZmtpError::MalformedCommand { bytes: 9 }),
        (frame(0x04, b""), ZmtpError::MalformedCommand { bytes: 0 }),
        (frame(0x04, b"\0READY"), ZmtpError::MalformedCommand { bytes: 6 }),
        (frame(0x04, b"\x06READY"), ZmtpError::MalformedCommand { bytes: 6 }),
        (ready(&[]), ZmtpError::SocketTypeMissing),
        (ready(&[("Identity", b"me")]), ZmtpError::SocketTypeMissing),
        (ready(&[("Socket-Type", b"REP")]), refused("REP")),
        (ready(&[("Socket-Type", b"STREAM")]), refused("STREAM")),
        (ready(&[("Socket-Type", b"ROUTER")]), refused("ROUTER")),
        (ready(&[("Socket-Type", b"dealer")]), refused("dealer")),
        (ready(&[("Socket-Type", b"")]), refused("")),
        (ready_with(&[("socket-type", b"DEALER")]), ZmtpError::SocketTypeTwice),
        (ready_with(&[("X", &b""[..]); 16]), ZmtpError::TooManyProperties { properties_max: 16 }),
        (ready_with(&[("Identity", &[b'x'; 256])]), ZmtpError::IdentityTooLong { bytes: 256 }),
        (ready_with(&[("", b"")]), ZmtpError::MalformedPropertyName { bytes: 0 }),
        (ready_with(&[("a b", b"")]), ZmtpError::MalformedPropertyName { bytes: 3 }),
        (ready_with(&[("\u{e9}", b"")]), ZmtpError::MalformedPropertyName { bytes: 2 }),
        (cut(5), ZmtpError::MalformedPropertyName { bytes: 11 }),
        (cut(15), ZmtpError::MalformedPropertyValue { bytes_left: 3 }),
        (cut(21), ZmtpError::MalformedPropertyValue { bytes_left: 9 }),
        (
            command("READY", b"\x01X\xFF\xFF\xFF\xFF"),
            ZmtpError::MalformedPropertyValue { bytes_left: 4 },
        ),
    ];
    for (bytes, expected) in cases {
        assert_eq!(error_at(Stage::Ready, &bytes), Some(expected), "{}", bytes.escape_ascii());
    }
}

#[test]
fn a_refused_socket_type_is_answered_with_error() {
    let mut broker = broker_at(Stage::Ready);
    let bytes = ready(&[("Socket-Type", b"PUB")]);
    assert!(drive(&mut broker, &mut BytesMut::new(), &bytes).1.is_some());
    let answer = broker.poll_output().expect("RFC 37: SHOULD return an ERROR command");
    let mut peer = Connection::new(Role::Peer);
    let error = drive(&mut peer, &mut BytesMut::new(), &[&GREETING[..], &answer].concat()).1;
    assert_eq!(
        error,
        Some(ZmtpError::RefusedByPeer { reason: excerpt("Socket-Type-not-accepted") })
    );
}

#[test]
fn misuse_after_ready_is_refused() {
    let unknown = |name| ZmtpError::UnknownCommand { name: excerpt(name) };
    let cases = [
        (READY_DEALER.to_vec(), ZmtpError::SecondReady),
        (command("ERROR", b"\x03why"), ZmtpError::RefusedByPeer { reason: excerpt("why") }),
        (command("SUBSCRIBE", b"all"), unknown("SUBSCRIBE")),
        (command("CANCEL", b""), unknown("CANCEL")),
        (command("ping", &[0, 0]), unknown("ping")),
        (command("PING", &[0]), ZmtpError::MalformedCommand { bytes: 6 }),
        (ping(&[1; 17]), ZmtpError::PingContextTooLong { bytes: 17 }),
        (command("PONG", &[1; 17]), ZmtpError::PingContextTooLong { bytes: 17 }),
        (vec![0x05], ZmtpError::CommandWithMore),
        (vec![0x07], ZmtpError::CommandWithMore),
        (vec![0x80], ZmtpError::ReservedFlags { flags: 0x80 }),
        (vec![0x09], ZmtpError::ReservedFlags { flags: 0x09 }),
    ];
    for (bytes, expected) in cases {
        for stage in [Stage::Unauthenticated, Stage::Proved] {
            assert_eq!(error_at(stage, &bytes), Some(expected.clone()), "{}", bytes.escape_ascii());
        }
    }
}

#[test]
fn huge_declared_lengths_are_refused_with_the_header() {
    let command_too_long =
        |bytes| ZmtpError::CommandTooLong { bytes, bytes_max: COMMAND_BYTES_MAX };
    let message_too_long = |bytes, bytes_max| ZmtpError::MessageTooLong { bytes, bytes_max };
    for declared in [513, 1 << 46, (1 << 63) - 1, 1 << 63, u64::MAX] {
        for stage in [Stage::Ready, Stage::Unauthenticated, Stage::Proved] {
            assert_eq!(
                error_at(stage, &long_header(0x04, declared)),
                Some(command_too_long(declared))
            );
        }
    }
    for declared in [RECORD_BYTES_MAX as u64 + 1, 1 << 46, (1 << 63) - 1, 1 << 63, u64::MAX] {
        let header = long_header(0x00, declared);
        assert_eq!(error_at(Stage::Ready, &header), Some(ZmtpError::MessageBeforeReady));
        assert_eq!(
            error_at(Stage::Unauthenticated, &header),
            Some(message_too_long(declared, 4096 - 9))
        );
        assert_eq!(
            error_at(Stage::Proved, &header),
            Some(message_too_long(declared, RECORD_BYTES_MAX))
        );
        let second = [frame(0x01, b"1234"), header].concat();
        let total = declared.saturating_add(4);
        assert_eq!(
            error_at(Stage::Proved, &second),
            Some(message_too_long(total, RECORD_BYTES_MAX))
        );
    }
}

#[test]
fn a_pending_peer_gets_one_frame_that_fits_its_buffer() {
    let largest = encode(&[vec![1; PREAUTH_FRAME_BYTES_MAX - FRAME_HEADER_BYTES_MAX]]);
    assert_eq!(largest.len(), PREAUTH_BUFFER_BYTES_MAX);
    let (messages, error) =
        drive(&mut broker_at(Stage::Unauthenticated), &mut BytesMut::new(), &largest);
    assert_eq!((messages.len(), error), (1, None));
    let too_large = long_header(0, PREAUTH_FRAME_BYTES_MAX as u64 - 8);
    assert!(matches!(
        error_at(Stage::Unauthenticated, &too_large),
        Some(ZmtpError::MessageTooLong { bytes: 4088, .. })
    ));
    assert_eq!(
        error_at(Stage::Unauthenticated, &[0x01]),
        Some(ZmtpError::TooManyFrames { frames_max: 1 })
    );
}

#[test]
fn limits_rise_between_two_messages_of_one_read() {
    let mut broker = broker_at(Stage::Unauthenticated);
    let record = vec![b"record".to_vec(), vec![1; 9000]];
    let mut input = BytesMut::from(&[encode(&[b"third".to_vec()]), encode(&record)].concat()[..]);
    assert!(matches!(broker.handle_input(&mut input), Ok(Some(Event::Message(_)))));
    assert_eq!(input.len(), encode(&record).len(), "nothing behind the event is consumed");
    broker.peer_proved();
    assert_eq!(drive(&mut broker, &mut input, &[]), (vec![record], None));
}

#[test]
fn a_record_has_at_most_its_frames_and_bytes() {
    let most_frames = vec![Vec::new(); RECORD_FRAMES_MAX];
    let got = drive(&mut broker_at(Stage::Proved), &mut BytesMut::new(), &encode(&most_frames));
    assert_eq!(got, (vec![most_frames], None));
    let endless = [0x01, 0].repeat(RECORD_FRAMES_MAX);
    assert_eq!(error_at(Stage::Proved, &endless[..endless.len() - 2]), None);
    let too_many = Some(ZmtpError::TooManyFrames { frames_max: RECORD_FRAMES_MAX });
    assert_eq!(error_at(Stage::Proved, &endless[..endless.len() - 1]), too_many);

    let most_bytes = vec![vec![1; RECORD_BYTES_MAX - 10], vec![2; 10]];
    let mut broker = broker_at(Stage::Proved);
    let mut input = BytesMut::new();
    assert_eq!(
        drive(&mut broker, &mut input, &encode(&most_bytes)),
        (vec![most_bytes.clone()], None)
    );
    assert_eq!(
        drive(&mut broker, &mut input, &encode(&most_bytes)),
        (vec![most_bytes], None),
        "the count starts anew"
    );
    let one_more = encode(&[vec![1; RECORD_BYTES_MAX - 10], vec![2; 11]]);
    let bytes = RECORD_BYTES_MAX as u64 + 1;
    let too_long = Some(ZmtpError::MessageTooLong { bytes, bytes_max: RECORD_BYTES_MAX });
    assert_eq!(error_at(Stage::Proved, &one_more[..one_more.len() - 11]), too_long);
}

#[test]
fn a_ping_is_answered_even_inside_a_message() {
    let mut broker = broker_at(Stage::Proved);
    let bytes =
        [frame(0x01, b"a"), ping(b"context"), frame(0x00, b"b"), ping(b""), command("PONG", b"x")]
            .concat();
    let got = drive(&mut broker, &mut BytesMut::new(), &bytes);
    assert_eq!(got, (vec![vec![b"a".to_vec(), b"b".to_vec()]], None));
    let pongs = [&[0x04, 12, 4][..], b"PONGcontext", &[0x04, 5, 4], b"PONG"].concat();
    assert_eq!(broker.poll_output().as_deref(), Some(&pongs[..]));
}

#[test]
fn of_many_pings_in_one_read_the_first_are_answered() {
    let mut broker = broker_at(Stage::Proved);
    let mut input = BytesMut::new();
    for _ in 0..3 {
        assert_eq!(drive(&mut broker, &mut input, &ping(b"0123456789abcdef").repeat(8)).1, None);
        assert_eq!(broker.poll_output().map(|pongs| pongs.len()), Some(8 * 23));
    }
    // As they wait for a process that has stood still for a while.
    let waiting = [ping(b"0123456789abcdef").repeat(1_000), frame(0x00, b"after")].concat();
    assert_eq!(drive(&mut broker, &mut input, &waiting), (vec![vec![b"after".to_vec()]], None));
    assert_eq!(broker.poll_output().map(|pongs| pongs.len()), Some(8 * 23));
    let flood = ping(b"").repeat(9);
    let mut of_pending = broker_at(Stage::Unauthenticated);
    assert_eq!(
        drive(&mut of_pending, &mut input, &flood).1,
        Some(ZmtpError::PingFlood { pings_max: 8 })
    );
}

#[test]
fn nothing_is_read_after_an_error() {
    for (stage, bytes) in
        [(Stage::Greeting, vec![0]), (Stage::Ready, vec![0]), (Stage::Proved, vec![0xFF])]
    {
        let mut broker = broker_at(stage);
        assert!(drive(&mut broker, &mut BytesMut::new(), &bytes).1.is_some());
        let mut input = BytesMut::from(&encode(&[b"good".to_vec()])[..]);
        assert_eq!(broker.handle_input(&mut input), Err(ZmtpError::Closed));
        assert_eq!(input.len(), 6);
        assert_eq!(broker.bytes_wanted(), 0);
    }
}

#[test]
fn bytes_wanted_is_what_completes_the_frame() {
    let mut broker = Connection::new(Role::Broker);
    assert_eq!(broker.bytes_wanted(), 64);
    let mut input = BytesMut::new();
    let mut step = |broker: &mut Connection, bytes: &[u8]| {
        assert_eq!(drive(broker, &mut input, bytes).1, None);
        broker.bytes_wanted()
    };
    assert_eq!(step(&mut broker, &GREETING[..60]), 4);
    assert_eq!(step(&mut broker, &GREETING[60..]), 0);
    assert_eq!(step(&mut broker, &READY_DEALER[..2]), 28);
    assert_eq!(step(&mut broker, &READY_DEALER[2..]), 0);
    broker.peer_proved();
    let message = encode(&[vec![1; RECORD_BYTES_MAX]]);
    assert_eq!(step(&mut broker, &message[..8]), 0);
    assert_eq!(step(&mut broker, &message[8..9]), RECORD_BYTES_MAX);
    assert_eq!(step(&mut broker, &message[9..1009]), RECORD_BYTES_MAX - 1000);
    assert_eq!(step(&mut broker, &message[1009..]), 0);
}

#[test]
fn what_a_peer_says_is_escaped_and_cut() {
    assert_eq!(excerpt("a\r\n\x1b[31m\"").as_str(), r#"a\r\n\x1b[31m\""#);
    assert_eq!(Excerpt::new(&[0xFF; 65]).as_str(), format!("{}...", r"\xff".repeat(64)));
    let error = error_at(Stage::Ready, &command("ERROR", &[&[255][..], &[0; 255]].concat()));
    assert!(error.expect("ERROR is an error").to_string().len() < 350);
}

fn message() -> impl Strategy<Value = Vec<Vec<u8>>> {
    let body = prop_oneof![4 => vec(any::<u8>(), 0..40), 1 => vec(any::<u8>(), 250..600)];
    vec(body, 1..5)
}

/// Cuts the bytes at arbitrary places, at times next to each other or not at all.
fn pieces(bytes: &[u8], cuts: &[prop::sample::Index]) -> Vec<Vec<u8>> {
    let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(bytes.len() + 1)).collect();
    cuts.extend([0, bytes.len()]);
    cuts.sort_unstable();
    cuts.windows(2).map(|pair| bytes[pair[0]..pair[1]].to_vec()).collect()
}

proptest! {
    #[test]
    fn encode_then_decode_is_the_identity(message in message()) {
        let got = drive(&mut broker_at(Stage::Proved), &mut BytesMut::new(), &encode(&message));
        prop_assert_eq!(got, (vec![message], None));
    }

    #[test]
    fn any_split_of_the_stream_gives_the_same_events(
        messages in vec(message(), 0..6),
        pings in vec(vec(any::<u8>(), 0..=16), 0..6),
        cuts in vec(any::<prop::sample::Index>(), 0..40),
        flip in prop::option::of((any::<prop::sample::Index>(), any::<u8>())),
    ) {
        let mut stream = READY_DEALER.to_vec();
        for at in 0..messages.len().max(pings.len()) {
            stream.extend(pings.get(at).map(|context| ping(context)).unwrap_or_default());
            stream.extend(messages.get(at).map(|message| encode(message)).unwrap_or_default());
        }
        if let Some((index, bits)) = flip {
            let at = index.index(stream.len());
            stream[at] ^= bits;
        }
        let run = |pieces: &[Vec<u8>]| {
            let mut broker = broker_at(Stage::Ready);
            broker.peer_proved();
            let mut input = BytesMut::new();
            let mut all = Vec::new();
            for piece in pieces {
                let (messages, error) = drive(&mut broker, &mut input, piece);
                all.extend(messages);
                if error.is_some() {
                    return (all, error, broker.poll_output());
                }
            }
            (all, None, broker.poll_output())
        };
        let whole = run(&[stream.clone()]);
        prop_assert_eq!(&whole, &run(&pieces(&stream, &cuts)));
        if flip.is_none_or(|(_, bits)| bits == 0) {
            prop_assert_eq!((whole.0, whole.1), (messages, None));
        }
    }

    /// `drive` asserts that `input` never grows and `bytes_wanted` is bounded. Bytes are drawn
    /// mostly from those that look like frames.
    #[test]
    fn random_bytes_never_panic(
        stage in prop::sample::select(&STAGES[..]),
        pieces in vec(vec(prop_oneof![0_u8..8, Just(0xFF), any::<u8>()], 0..80), 0..10),
    ) {
        let mut broker = broker_at(stage);
        let mut input = BytesMut::new();
        for piece in &pieces {
            if drive(&mut broker, &mut input, piece).1.is_some() {
                break;
            }
        }
        prop_assert!(broker.poll_output().is_none_or(|output| output.len() <= 300));
    }

    #[test]
    fn random_metadata_never_panics(data in vec(prop_oneof![0_u8..12, any::<u8>()], 0..300)) {
        let error = error_at(Stage::Ready, &command("READY", &data));
        prop_assert!(error.is_some_and(|error| !error.to_string().contains('\n')));
    }
}
