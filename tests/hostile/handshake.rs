//! The handshake: forged, replayed, out of order, changed on the way.

use furlong_link::dial::random_bytes;
use furlong_tests::farm::Farm;
use furlong_tests::raw::{Closed, RawPeer, message};
use furlong_tests::session::{Answer, Credentials, RawSession, shake_hands};
use furlong_tests::wait::{SOON, eventually};
use furlong_wire::handshake::{ExpectReply, FIRST_BYTES};
use furlong_wire::keys::SecretKey;
use furlong_wire::token::Role;

use crate::{CLOSED, PENDING_GROWTH_BYTES_MAX};

/// A connection past READY; honest ones too are turned away while the rate of handshakes is used
/// up.
fn connect_ready(farm: &Farm) -> RawPeer {
    let mut connected = Err(Closed);
    eventually(SOON, || {
        connected = RawPeer::connect_ready(farm.port());
        connected.is_ok()
    });
    connected.expect("unauthenticated peers are admitted")
}

/// A connection on which the broker has answered the first message.
fn answered(farm: &Farm, credentials: &Credentials) -> (RawPeer, Vec<u8>, ExpectReply, Vec<u8>) {
    let mut answered = None;
    eventually(SOON, || {
        let mut peer = connect_ready(farm);
        let (first, expect) = credentials.start();
        peer.send(&message(&[&first]));
        answered = peer.receive().ok().map(|reply| (peer, first, expect, reply.envelope.to_vec()));
        answered.is_some()
    });
    answered.expect("the broker answers a good first message")
}

/// Sends the messages, and checks that the broker closes the connection without an answer to the
/// last one.
fn expect_closed(mut peer: RawPeer, what: &str, messages: &[&[u8]]) {
    for bytes in messages {
        peer.send(&message(&[bytes]));
    }
    assert!(peer.receive().is_err(), "an answer to {what}");
    assert!(peer.is_closed_within(CLOSED), "still open after {what}");
}

#[test]
fn first_messages_of_random_bytes_are_refused_whatever_their_length() {
    let mut farm = Farm::start();
    let random: [u8; 4096] = random_bytes();
    for bytes in (0..80).chain([100, 255, 256, 1000, 4086, 4087, 4088, 4096]) {
        expect_closed(connect_ready(&farm), &format!("{bytes} random bytes"), &[&random[..bytes]]);
    }
    farm.check_healthy(PENDING_GROWTH_BYTES_MAX);
}

#[test]
fn a_first_message_in_two_frames_or_twice_is_refused() {
    let mut farm = Farm::start();
    let credentials = Credentials::of(&farm.capability(Role::Client));
    let (first, _) = credentials.start();
    let mut peer = connect_ready(&farm);
    peer.send(&message(&[&first[..20], &first[20..]]));
    assert!(peer.is_closed_within(CLOSED), "still open after a first message in two frames");
    let (peer, first, ..) = answered(&farm, &credentials);
    expect_closed(peer, "a first message where the third is due", &[&first]);
    farm.check_healthy(PENDING_GROWTH_BYTES_MAX);
}

#[test]
fn a_flipped_bit_of_the_first_message_is_refused() {
    let mut farm = Farm::start();
    let credentials = Credentials::of(&farm.capability(Role::Client));
    for bit in (0..FIRST_BYTES * 8).step_by(3) {
        // X25519 ignores the point's highest bit (RFC 7748, section 5), but the transcript's hash
        // does not.
        let (mut first, _) = credentials.start();
        first[bit / 8] ^= 1 << (bit % 8);
        expect_closed(
            connect_ready(&farm),
            &format!("a first message with bit {bit} flipped"),
            &[&first],
        );
    }
    farm.check_healthy(PENDING_GROWTH_BYTES_MAX);
}

#[test]
fn a_flipped_bit_of_the_third_message_is_refused() {
    let mut farm = Farm::start();
    let credentials = Credentials::of(&farm.capability(Role::Client));
    let mut bit = 0;
    loop {
        let (peer, _, expect, reply) = answered(&farm, &credentials);
        let (mut third, _) = expect.handle_reply(&reply, &credentials.hello()).unwrap();
        if bit >= third.len() * 8 {
            break;
        }
        third[bit / 8] ^= 1 << (bit % 8);
        expect_closed(peer, &format!("a third message with bit {bit} flipped"), &[&third]);
        // A prime, so that each bit of a byte has its turn.
        bit += 37;
    }
    farm.check_healthy(PENDING_GROWTH_BYTES_MAX);
}

#[test]
fn a_third_message_cut_or_longer_is_refused() {
    let mut farm = Farm::start();
    let credentials = Credentials::of(&farm.capability(Role::Client));
    for length in [0, 1, 47, 48, 63, 64, 100, usize::MAX] {
        let (peer, _, expect, reply) = answered(&farm, &credentials);
        let (mut third, _) = expect.handle_reply(&reply, &credentials.hello()).unwrap();
        third.push(0);
        third.truncate(length);
        expect_closed(peer, &format!("a third message of {} bytes", third.len()), &[&third]);
    }
    farm.check_healthy(PENDING_GROWTH_BYTES_MAX);
}

#[test]
fn a_recorded_handshake_opens_nothing() {
    let mut farm = Farm::start();
    let credentials = Credentials::of(&farm.capability(Role::Client));
    let (mut peer, first, expect, reply) = answered(&farm, &credentials);
    let (third, _) = expect.handle_reply(&reply, &credentials.hello()).unwrap();
    peer.send(&message(&[&third]));
    peer.peer_proved();
    assert!(peer.receive().is_ok(), "the honest one is let in");
    for what in ["on another connection", "after a restart of the broker"] {
        let mut replayed = connect_ready(&farm);
        replayed.send(&message(&[&first]));
        assert!(replayed.receive().is_ok(), "a first message has nothing that is used once");
        expect_closed(replayed, &format!("a replay {what}"), &[&third]);
        farm.restart_after_sigkill();
    }
    let (other, ..) = answered(&farm, &credentials);
    expect_closed(other, "the third message of another connection", &[&third]);
    farm.check_healthy(PENDING_GROWTH_BYTES_MAX);
}

#[test]
fn what_follows_the_third_message_must_be_a_record() {
    let mut farm = Farm::start();
    let capability = farm.capability(Role::Client);
    let credentials = Credentials::of(&capability);
    let (mut peer, first, expect, reply) = answered(&farm, &credentials);
    let (third, _) = expect.handle_reply(&reply, &credentials.hello()).unwrap();
    for after in [&third, &first, &reply] {
        let mut session = RawSession::client(farm.port(), &capability);
        session.peer.send(&message(&[after]));
        assert!(
            session.peer.is_closed_within(CLOSED),
            "still open after a handshake message in a session"
        );
    }
    peer.send(&message(&[&third, b"and more"]));
    assert!(peer.is_closed_within(CLOSED), "still open after a third message in two frames");
    farm.check_healthy(PENDING_GROWTH_BYTES_MAX);
}

#[test]
fn points_of_small_order_are_refused() {
    let mut farm = Farm::start();
    let mut one = [0; 32];
    one[0] = 1;
    let order_8 = [
        0xe0, 0xeb, 0x7a, 0x7c, 0x3b, 0x41, 0xb8, 0xae, 0x16, 0x56, 0xe3, 0xfa, 0xf1, 0x9f, 0xc4,
        0x6a, 0xda, 0x09, 0x8d, 0xeb, 0x9c, 0x32, 0xb1, 0xfd, 0x86, 0x62, 0x05, 0x16, 0x5f, 0x49,
        0xb8, 0x00,
    ];
    let mut minus_one = [0xff; 32];
    (minus_one[0], minus_one[31]) = (0xec, 0x7f);
    for point in [[0; 32], one, order_8, minus_one, [0xff; 32]] {
        let first = [&point[..], &[0; 16]].concat();
        expect_closed(connect_ready(&farm), "a point of small order", &[&first]);
    }
    farm.check_healthy(PENDING_GROWTH_BYTES_MAX);
}

#[test]
fn another_key_cluster_or_version_opens_nothing() {
    let mut farm = Farm::start();
    let good = Credentials::of(&farm.capability(Role::Client));
    let mut other = good.clone();
    other.broker_key = SecretKey::from_bytes([9; 32]).public().0;
    assert!(
        matches!(shake_hands(farm.port(), &other), Answer::Closed),
        "with another broker's key"
    );
    let mut other = good.clone();
    other.cluster.0[0] ^= 1;
    assert!(
        matches!(shake_hands(farm.port(), &other), Answer::Closed),
        "with another cluster's id"
    );
    let mut other = good.clone();
    other.version += 1;
    let refusal = shake_hands(farm.port(), &other).refusal().expect("another version is told why");
    assert!(refusal.contains("version 1") && refusal.contains("version 2"), "{refusal}");
    shake_hands(farm.port(), &good).session();
    farm.check_healthy(PENDING_GROWTH_BYTES_MAX);
}

#[test]
fn a_brokers_own_messages_reflected_to_it_open_nothing() {
    let mut farm = Farm::start();
    let credentials = Credentials::of(&farm.capability(Role::Client));
    let (peer, _, _, reply) = answered(&farm, &credentials);
    expect_closed(peer, "the second message sent back", &[&reply]);
    expect_closed(connect_ready(&farm), "a second message as the first", &[&reply]);
    farm.check_healthy(PENDING_GROWTH_BYTES_MAX);
}
