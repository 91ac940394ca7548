//! Below the handshake: greetings, commands and frames that no ZeroMQ library sends.

use furlong_tests::farm::Farm;
use furlong_tests::raw::{RawPeer, command, greeting, long_header, message, property, ready};
use furlong_tests::session::RawSession;
use furlong_wire::limits::RECORD_BYTES_MAX;
use furlong_wire::token::Role;

use crate::{CLOSED, PENDING_GROWTH_BYTES_MAX};

const MORE: u8 = 0x01;
const LONG: u8 = 0x02;
const COMMAND: u8 = 0x04;

/// More than anybody may send, up to more than anybody could have.
const HUGE: [u64; 6] = [200 << 20, 1 << 32, 1 << 46, (1 << 63) - 1, 1 << 63, u64::MAX];

/// Sends the bytes on a connection of their own and checks that the broker closes it.
fn expect_closed(farm: &Farm, what: &str, parts: &[&[u8]]) {
    let mut peer = RawPeer::connect(farm.port());
    peer.send(&parts.concat());
    assert!(peer.is_closed_within(CLOSED), "still open after {what}");
}

#[test]
fn a_huge_declared_length_is_refused_and_costs_nothing() {
    let mut farm = Farm::start();
    let capability = farm.capability(Role::Client);
    for flags in [LONG, LONG | MORE, LONG | COMMAND] {
        for bytes in HUGE {
            let header = long_header(flags, bytes);
            let what = format!("a frame with flags {flags:#04x} of {bytes} bytes");
            expect_closed(&farm, &format!("{what}, before READY"), &[&greeting(), &header, b"x"]);
            expect_closed(
                &farm,
                &format!("{what}, after READY"),
                &[&greeting(), &ready(), &header, b"x"],
            );
            let mut session = RawSession::client(farm.port(), &capability);
            session.peer.send(&[&header[..], b"x"].concat());
            assert!(session.peer.is_closed_within(CLOSED), "still open after {what}, in a session");
        }
    }
    let mut session = RawSession::client(farm.port(), &capability);
    session.peer.send(&long_header(LONG, RECORD_BYTES_MAX as u64 + 1));
    assert!(session.peer.is_closed_within(CLOSED), "still open after a record of a byte too much");
    farm.check_healthy(PENDING_GROWTH_BYTES_MAX);
}

#[test]
fn a_greeting_of_another_protocol_is_refused() {
    let mut farm = Farm::start();
    let changed = |offset: usize, bytes: &[u8]| {
        let mut greeting = greeting();
        greeting[offset..offset + bytes.len()].copy_from_slice(bytes);
        greeting
    };
    let cases = [
        ("a wrong signature", changed(0, &[0x7F])),
        ("a wrong end of the signature", changed(9, &[0x00])),
        ("ZMTP 1.0", changed(10, &[0])),
        ("ZMTP 2.0", changed(10, &[1])),
        ("ZMTP 2.1", changed(10, &[2])),
        ("PLAIN", changed(12, b"PLAIN")),
        ("CURVE", changed(12, b"CURVE")),
        ("no mechanism", changed(12, &[0; 20])),
        ("a mechanism of garbage", changed(12, &[0xA5; 20])),
        ("a mechanism that begins with NULL", changed(12, b"NULLX")),
        ("as-server", changed(32, &[1])),
    ];
    for (what, greeting) in cases {
        expect_closed(&farm, what, &[&greeting, &ready()]);
    }
    expect_closed(&farm, "HTTP", &[b"GET / HTTP/1.1\r\nHost: farm\r\n\r\n"]);
    expect_closed(
        &farm,
        "TLS",
        &[&[0x16, 0x03, 0x01, 0x02, 0x00, 0x01, 0x00, 0x01, 0xfc, 0x03, 0x03]],
    );
    farm.check_healthy(PENDING_GROWTH_BYTES_MAX);
}

#[test]
fn a_ready_of_every_bad_kind_is_refused() {
    let mut farm = Farm::start();
    let dealer = property(b"Socket-Type", b"DEALER");
    let with = |more: &[u8]| command(b"READY", &[&dealer[..], more].concat());
    let mut multipart = ready();
    multipart[0] |= MORE;
    let cases = [
        ("no property", command(b"READY", b"")),
        ("Socket-Type REP", command(b"READY", &property(b"Socket-Type", b"REP"))),
        ("Socket-Type STREAM", command(b"READY", &property(b"Socket-Type", b"STREAM"))),
        ("an empty Socket-Type", command(b"READY", &property(b"Socket-Type", b""))),
        ("two Socket-Types", with(&dealer)),
        ("an empty name", with(&property(b"", b"value"))),
        ("a name that is not UTF-8", with(&property(b"\xff\xfe", b"value"))),
        ("an Identity of 256 bytes", with(&property(b"Identity", &[b'i'; 256]))),
        (
            "an Identity that declares 4 GiB",
            with(&[&b"\x08Identity\xff\xff\xff\xff"[..], b"i"].concat()),
        ),
        ("a name longer than the command", with(b"\xffname")),
        ("a cut value length", with(b"\x01n\x00\x00")),
        ("a hundred properties", with(&property(b"n", b"").repeat(100))),
        ("another command", command(b"HELLO", &dealer)),
        ("READY in lower case", command(b"ready", &dealer)),
        ("an empty command", vec![COMMAND, 0]),
        ("a name longer than its frame", vec![COMMAND, 2, 200, b'R']),
        ("PING before READY", command(b"PING", &[0, 1])),
        ("READY in two frames", multipart),
        ("reserved flags", vec![0x08, 0]),
        ("all flags", vec![0xFF; 9]),
        ("a message instead", message(&[b"hello"])),
        ("100 MB of READY", [&long_header(LONG | COMMAND, 100_000_000)[..], b"\x05READY"].concat()),
        ("a million properties", command(b"READY", &property(b"n", b"").repeat(1_000_000))),
    ];
    for (what, ready) in cases {
        expect_closed(&farm, what, &[&greeting(), &ready]);
    }
    farm.check_healthy(PENDING_GROWTH_BYTES_MAX);
}

#[test]
fn an_identity_is_read_and_gives_nothing() {
    let farm = Farm::start();
    for identity in [&b""[..], &[b'i'; 255], b"victim", b"victim"] {
        let mut peer = RawPeer::connect(farm.port());
        let properties =
            [property(b"Socket-Type", b"DEALER"), property(b"Identity", identity)].concat();
        peer.send(&[&greeting()[..], &command(b"READY", &properties)].concat());
        assert!(peer.receive_ready().is_ok(), "an Identity of {} bytes is refused", identity.len());
    }
}

#[test]
fn commands_that_have_no_place_close_the_connection() {
    let mut farm = Farm::start();
    let capability = farm.capability(Role::Client);
    let cases = [
        ("a second READY", ready()),
        ("an unknown command", command(b"SUBSCRIBE", b"topic")),
        ("a PING with a context of 17 bytes", command(b"PING", &[0; 19])),
        ("a PING without a time", command(b"PING", b"")),
        ("an ERROR", command(b"ERROR", b"\x03bad")),
        ("a command with MORE", vec![COMMAND | MORE, 6, 4, b'P', b'I', b'N', b'G', 0]),
        ("reserved flags", vec![0x80, 0]),
    ];
    for (what, bytes) in cases {
        expect_closed(&farm, what, &[&greeting(), &ready(), &bytes]);
        let mut session = RawSession::client(farm.port(), &capability);
        session.peer.send(&bytes);
        assert!(session.peer.is_closed_within(CLOSED), "still open after {what}, in a session");
    }
    farm.check_healthy(PENDING_GROWTH_BYTES_MAX);
}

#[test]
fn endless_frames_of_one_message_are_refused() {
    let mut farm = Farm::start();
    let capability = farm.capability(Role::Client);
    for body in [&b""[..], b"x"] {
        let mut frame = vec![MORE, body.len() as u8];
        frame.extend_from_slice(body);
        let many = frame.repeat(100_000);
        expect_closed(&farm, "endless frames", &[&greeting(), &ready(), &many]);
        let mut session = RawSession::client(farm.port(), &capability);
        session.peer.send(&many);
        assert!(
            session.peer.is_closed_within(CLOSED),
            "still open after endless frames, in a session"
        );
    }
    farm.check_healthy(PENDING_GROWTH_BYTES_MAX);
}

#[test]
fn a_flood_of_pings_is_answered_within_a_bound_or_refused() {
    let mut farm = Farm::start();
    let capability = farm.capability(Role::Client);
    let pings = command(b"PING", &[0; 18]).repeat(10_000);
    expect_closed(&farm, "a flood of PINGs", &[&greeting(), &ready(), &pings]);
    let mut session = RawSession::client(farm.port(), &capability);
    // Neither is read: what the broker would answer waits there.
    while session.peer.send(&pings) {}
    farm.check_healthy(PENDING_GROWTH_BYTES_MAX);
}
