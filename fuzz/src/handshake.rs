//! The handshake. No message opens but those that were written for this broker and this peer; a hello that can be read
//! crosses unchanged.
//!
//! The first byte of an input chooses what the rest stands for: one of the three messages, or the body of a hello.

use std::sync::LazyLock;

use furlong_wire::handshake::{ExpectProof, ExpectReply, ExpectStart, Hello, HelloBody};
use furlong_wire::ids::ClusterId;
use furlong_wire::limits::{PREAUTH_FRAME_BYTES_MAX, PROTOCOL_VERSION, TOKEN_BYTES_MAX};

use crate::input::Input;
use crate::vectors::{self, secrets};

/// The three messages of the document.
static KNOWN: LazyLock<[Vec<u8>; 3]> =
    LazyLock::new(|| ["handshake message 1", "handshake message 2", "handshake message 3"].map(vectors::one));

/// What the third message adds to its hello.
const THIRD_OVERHEAD_BYTES: usize = 64;

/// See the module.
pub fn run(data: &[u8]) {
    let mut input = Input::new(data);
    match (input.below(4), input.rest()) {
        (0, first) => {
            let opened = expect_start().handle_start(first).is_ok();
            assert_eq!(opened, first == KNOWN[0], "the first message");
        }
        (1, second) => {
            let opened = expect_reply().1.handle_reply(second, &hello()).is_ok();
            assert_eq!(opened, second == KNOWN[1], "the second message");
        }
        (2, third) => {
            let opened = expect_proof(&KNOWN[0]).1.handle_proof(third).is_ok();
            assert_eq!(opened, third == KNOWN[2], "the third message");
        }
        (_, body) => rmp_serde::from_slice(body).into_iter().for_each(crosses),
    }
}

/// Each message of the document, and the body of its hello.
pub fn seeds() -> Vec<Vec<u8>> {
    let body = rmp_serde::to_vec(&hello().body).expect("a hello has no type that msgpack cannot hold");
    let inputs = (0_u8..).zip(KNOWN.iter().chain([&body]));
    inputs.map(|(choice, bytes)| [&[choice][..], bytes].concat()).collect()
}

fn expect_start() -> ExpectStart {
    ExpectStart::new(&cluster(), &secrets::SERVER, secrets::BROKER_EPHEMERAL).expect("the secrets are good ones")
}

fn expect_reply() -> (Vec<u8>, ExpectReply) {
    let server = vectors::array("server public key");
    let started = ExpectReply::start(&cluster(), &server, &secrets::HOLDER, secrets::PEER_EPHEMERAL);
    started.expect("the broker's key is a good one")
}

fn expect_proof(first: &[u8]) -> (Vec<u8>, ExpectProof) {
    expect_start().handle_start(first).expect("the peer's first message opens")
}

fn cluster() -> ClusterId {
    ClusterId(vectors::array("cluster id"))
}

/// The hello of the document's third message.
fn hello() -> Hello {
    let proof = expect_proof(&KNOWN[0]).1.handle_proof(&KNOWN[2]);
    proof.expect("the document's message opens").hello
}

fn crosses(body: HelloBody) {
    let is_short = body.token.len() <= TOKEN_BYTES_MAX;
    let hello = Hello { version: PROTOCOL_VERSION, body: Some(body) };
    let (first, expect_reply) = expect_reply();
    let (second, expect_proof) = expect_proof(&first);
    let (third, of_peer) = expect_reply.handle_reply(&second, &hello).expect("the broker's reply opens");
    let proof = expect_proof.handle_proof(&third);
    let fits = third.len() <= PREAUTH_FRAME_BYTES_MAX && third.len() >= THIRD_OVERHEAD_BYTES;
    assert_eq!(proof.is_ok(), fits && is_short);
    let Ok(proof) = proof else { return };
    assert_eq!((&proof.hello, proof.holder), (&hello, vectors::array("holder public key")));
    assert_eq!((&*proof.keys.send, &*proof.keys.receive), (&*of_peer.receive, &*of_peer.send));
}
