//! The handshake. A message that is changed or cut on its way does not open, and no bytes of an
//! unauthenticated peer's do; a hello that can be read crosses unchanged.
//!
//! The first byte of an input chooses what the rest stands for: a change of one of the three
//! messages, bytes in the place of one, or the body of a hello. The peer's ephemeral key comes from
//! the input: a fuzzer sees what a tag is compared with, and would copy it if the same tag were
//! right for the input with the copy.

use furlong_wire::handshake::{
    ExpectProof, ExpectReply, ExpectStart, HandshakeError, Hello, HelloBody, Proof,
};
use furlong_wire::ids::{ClusterId, SessionId};
use furlong_wire::limits::{PREAUTH_FRAME_BYTES_MAX, TOKEN_BYTES_MAX};
use furlong_wire::record::RecordKeys;
use furlong_wire::token::Role;
use sha2::{Digest, Sha256};

use crate::input::Input;
use crate::vectors::{self, secrets};

/// See the module.
pub fn run(data: &[u8]) {
    let run = Run { seed: Sha256::digest(data).into() };
    let mut input = Input::new(data);
    match (input.below(7), input.rest()) {
        (6, body) => rmp_serde::from_slice(body).into_iter().for_each(|body| run.crosses(body)),
        (place @ 0..3, change) => run.ends_if(place, |message| changed(message, change)),
        (place, bytes) => run.ends_if(place - 3, |_| bytes.to_vec()),
    }
}

/// A change of each message, the messages of the document, and the body of a hello.
pub fn seeds() -> Vec<Vec<u8>> {
    let body = rmp_serde::to_vec(&body()).expect("a hello has no type that msgpack cannot hold");
    let changes = [
        &[0, 0, 0, 1][..],
        &[1, 40, 0, 128],
        &[2, 0, 1, 1],
        &[0, 0, 0, 0],
        &[1],
        &[2, 255, 255, 9],
    ];
    let messages = (3..).zip(
        ["handshake message 1", "handshake message 2", "handshake message 3"].map(vectors::one),
    );
    let rest = messages.chain([(6, body)]).map(|(choice, bytes)| [&[choice], &bytes[..]].concat());
    changes.into_iter().map(<[u8]>::to_vec).chain(rest).collect()
}

/// One handshake.
struct Run {
    /// Of the peer's ephemeral key. The broker's is the document's.
    seed: [u8; 32],
}

impl Run {
    fn start(&self) -> (Vec<u8>, ExpectReply) {
        let server = vectors::array("server public key");
        let started = ExpectReply::start(&cluster(), &server, &secrets::HOLDER, self.seed);
        started.expect("the broker's key is a good one")
    }

    /// Does it with something else in the place of one message. It must end there, unless that is
    /// the message.
    fn ends_if(&self, place: usize, instead: impl Fn(&[u8]) -> Vec<u8>) {
        let mut is_same = true;
        let finished = self.finish(&Hello::new(body()), |at, message| {
            if at != place {
                return message;
            }
            let other = instead(&message);
            is_same = other == message;
            other
        });
        assert_eq!(finished.is_ok(), is_same);
    }

    /// Does it; each message goes through `on_its_way` with its place.
    fn finish(
        &self,
        hello: &Hello,
        mut on_its_way: impl FnMut(usize, Vec<u8>) -> Vec<u8>,
    ) -> Result<(Proof, RecordKeys), HandshakeError> {
        let (first, expect_reply) = self.start();
        let (second, expect_proof): (_, ExpectProof) =
            expect_start().handle_start(&on_its_way(0, first))?;
        let (third, of_peer) = expect_reply.handle_reply(&on_its_way(1, second), hello)?;
        Ok((expect_proof.handle_proof(&on_its_way(2, third))?, of_peer))
    }

    fn crosses(&self, body: HelloBody) {
        let is_short = body.token.len() <= TOKEN_BYTES_MAX;
        let hello = Hello::new(body);
        let mut third_bytes = 0;
        let finished = self.finish(&hello, |_, message| {
            third_bytes = message.len();
            message
        });
        assert_eq!(finished.is_ok(), is_short && third_bytes <= PREAUTH_FRAME_BYTES_MAX);
        let Ok((proof, of_peer)) = finished else { return };
        assert_eq!((&proof.hello, proof.holder), (&hello, vectors::array("holder public key")));
        assert_eq!((&*proof.keys.send, &*proof.keys.receive), (&*of_peer.receive, &*of_peer.send));
    }
}

/// Cut or longer, or with some bits flipped: as pairs of a place and a mask say.
fn changed(message: &[u8], change: &[u8]) -> Vec<u8> {
    let mut changed = message.to_vec();
    let (flips, rest) = change.as_chunks::<3>();
    for [low, high, mask] in flips {
        let at = usize::from(u16::from_le_bytes([*low, *high]));
        match changed.len() {
            len if at < len => changed[at] ^= mask,
            len => changed.truncate(at % (len + 1)),
        }
    }
    changed.extend_from_slice(rest);
    changed
}

fn expect_start() -> ExpectStart {
    ExpectStart::new(&cluster(), &secrets::SERVER, secrets::BROKER_EPHEMERAL)
        .expect("the secrets are good ones")
}

fn cluster() -> ClusterId {
    ClusterId(vectors::array("cluster id"))
}

fn body() -> HelloBody {
    HelloBody {
        token: vectors::one("token"),
        session: SessionId([9; 16]),
        incarnation: 1,
        role: Role::Client,
        software: "furlong 0.1.0".to_owned(),
        abilities: 0,
    }
}
