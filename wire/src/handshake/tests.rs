use super::*;
use crate::record::{RecordOpener, RecordSealer, SEQ_BYTES};
use bytes::BytesMut;

const CLUSTER: ClusterId = ClusterId([3; 32]);
const BROKER_SECRET: [u8; 32] = [11; 32];
const PEER_SECRET: [u8; 32] = [22; 32];

fn public(secret: [u8; 32]) -> [u8; 32] {
    x25519_dalek::x25519(secret, x25519_dalek::X25519_BASEPOINT_BYTES)
}

fn hello() -> Hello {
    Hello::new(HelloBody {
        token: vec![9; 200],
        session: SessionId([4; 16]),
        incarnation: 1,
        role: Role::Client,
        software: "test".into(),
        abilities: 0,
    })
}

struct Run {
    first: Vec<u8>,
    second: Vec<u8>,
    third: Vec<u8>,
    peer_keys: RecordKeys,
    broker: ExpectProof,
}

fn peer() -> (Vec<u8>, ExpectReply) {
    ExpectReply::start(&CLUSTER, &public(BROKER_SECRET), &PEER_SECRET, [33; 32]).unwrap()
}

fn broker() -> ExpectStart {
    ExpectStart::new(&CLUSTER, &BROKER_SECRET, [44; 32]).unwrap()
}

fn run() -> Run {
    let (first, peer) = peer();
    let (second, broker) = broker().handle_start(&first).unwrap();
    let (third, peer_keys) = peer.handle_reply(&second, &hello()).unwrap();
    Run { first, second, third, peer_keys, broker }
}

fn crosses(sealer: &mut RecordSealer, opener: &mut RecordOpener) {
    let mut envelope = [&[0; SEQ_BYTES][..], b"batch"].concat();
    sealer.seal::<Vec<u8>>(&mut envelope, 0, &[]);
    let mut envelope = BytesMut::from(&envelope[..]);
    opener.open::<Vec<u8>>(&mut envelope, &[]).unwrap();
    assert_eq!(&envelope[..], b"batch");
}

#[test]
fn both_sides_come_to_the_same_keys_and_the_broker_learns_who_it_is() {
    let run = run();
    let proof = run.broker.handle_proof(&run.third).unwrap();
    assert_eq!(proof.holder, public(PEER_SECRET));
    assert_eq!(proof.hello, hello());
    let (mut to_broker, mut from_broker) = run.peer_keys.split();
    let (mut to_peer, mut from_peer) = proof.keys.split();
    crosses(&mut to_broker, &mut from_peer);
    crosses(&mut to_peer, &mut from_broker);
}

#[test]
fn every_flipped_bit_of_every_message_ends_the_handshake() {
    let run = run();
    for bit in 0..run.first.len() * 8 {
        let mut message = run.first.clone();
        message[bit / 8] ^= 1 << (bit % 8);
        assert!(broker().handle_start(&message).is_err(), "first message, bit {bit}");
    }
    for bit in 0..run.second.len() * 8 {
        let mut message = run.second.clone();
        message[bit / 8] ^= 1 << (bit % 8);
        assert!(peer().1.handle_reply(&message, &hello()).is_err(), "second message, bit {bit}");
    }
    for bit in 0..run.third.len() * 8 {
        let mut message = run.third.clone();
        message[bit / 8] ^= 1 << (bit % 8);
        let (_, broker) = broker().handle_start(&run.first).unwrap();
        assert!(broker.handle_proof(&message).is_err(), "third message, bit {bit}");
    }
}

#[test]
fn messages_of_any_other_length_are_refused() {
    let run = run();
    for len in (0..FIRST_BYTES).chain(FIRST_BYTES + 1..200) {
        let mut message = run.first.clone();
        message.resize(len, 0);
        assert_eq!(
            broker().handle_start(&message).unwrap_err(),
            HandshakeError::Length { bytes: len }
        );
        assert_eq!(
            peer().1.handle_reply(&message, &hello()).unwrap_err(),
            HandshakeError::Length { bytes: len }
        );
    }
    for len in 0..run.third.len() {
        let (_, broker) = broker().handle_start(&run.first).unwrap();
        assert!(broker.handle_proof(&run.third[..len]).is_err(), "{len} bytes");
    }
}

#[test]
fn another_broker_key_or_cluster_gets_no_reply() {
    let other_key =
        ExpectReply::start(&CLUSTER, &public([12; 32]), &PEER_SECRET, [33; 32]).unwrap().0;
    assert_eq!(broker().handle_start(&other_key).unwrap_err(), HandshakeError::Noise);
    let other = ClusterId([4; 32]);
    let other_cluster =
        ExpectReply::start(&other, &public(BROKER_SECRET), &PEER_SECRET, [33; 32]).unwrap().0;
    assert_eq!(broker().handle_start(&other_cluster).unwrap_err(), HandshakeError::Noise);
}

#[test]
fn a_recorded_third_message_fails_against_a_fresh_broker() {
    let run = run();
    let broker = ExpectStart::new(&CLUSTER, &BROKER_SECRET, [45; 32]).unwrap();
    let (_, broker) = broker.handle_start(&run.first).unwrap();
    assert_eq!(broker.handle_proof(&run.third).unwrap_err(), HandshakeError::Noise);
}

#[test]
fn a_message_reflected_to_its_sender_is_refused() {
    let (first, peer) = peer();
    assert_eq!(peer.handle_reply(&first, &hello()).unwrap_err(), HandshakeError::Noise);
}

#[test]
fn points_of_small_order_are_refused_in_every_place() {
    // The canonical encodings of the points of order 1, 2 and 4, and two of order 8 (RFC 7748 names
    // the class).
    let order_8 = [
        0xe0, 0xeb, 0x7a, 0x7c, 0x3b, 0x41, 0xb8, 0xae, 0x16, 0x56, 0xe3, 0xfa, 0xf1, 0x9f, 0xc4,
        0x6a, 0xda, 0x09, 0x8d, 0xeb, 0x9c, 0x32, 0xb1, 0xfd, 0x86, 0x62, 0x05, 0x16, 0x5f, 0x49,
        0xb8, 0x00,
    ];
    let mut one = [0; 32];
    one[0] = 1;
    let mut minus_one = [0xff; 32];
    (minus_one[0], minus_one[31]) = (0xec, 0x7f);
    for point in [[0; 32], one, minus_one, order_8] {
        let mut first = run().first;
        first[..32].copy_from_slice(&point);
        assert_eq!(broker().handle_start(&first).unwrap_err(), HandshakeError::Noise);
        let mut second = run().second;
        second[..32].copy_from_slice(&point);
        assert_eq!(peer().1.handle_reply(&second, &hello()).unwrap_err(), HandshakeError::Noise);
        assert!(
            ExpectReply::start(&CLUSTER, &point, &PEER_SECRET, [33; 32]).is_err(),
            "as the broker's key"
        );
    }
}

#[test]
fn a_hello_of_another_version_is_known_by_its_version_alone() {
    let (first, peer) = peer();
    let (second, broker) = broker().handle_start(&first).unwrap();
    let other = Hello { version: 7, body: None };
    let (third, _) = peer.handle_reply(&second, &other).unwrap();
    assert_eq!(broker.handle_proof(&third).unwrap().hello, other);
}

#[test]
fn the_same_inputs_give_the_same_bytes() {
    assert_eq!(run().third, run().third);
}
