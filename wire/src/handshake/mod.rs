//! The handshake: `Noise_XK_25519_ChaChaPoly_SHA256`, three messages, one `ZeroMQ` message each.
//!
//! ```text
//! peer -> broker   1: e, es
//! broker -> peer   2: e, ee
//! peer -> broker   3: s, se, payload = Hello
//! ```
//!
//! XK: the peer knows the broker's key from its capability, both sides use an ephemeral key, and
//! the peer's own key and token travel encrypted in the third message, so a recording can be
//! neither opened later nor replayed. What `CurveZMQ` calls HELLO, WELCOME, INITIATE and READY are
//! these three messages and the broker's first record.
//!
//! Each state is a type that is named for what it expects, and a message consumes it. The peer goes
//! [`ExpectReply::start`], [`ExpectReply::handle_reply`]; the broker [`ExpectStart::new`],
//! [`ExpectStart::handle_start`], [`ExpectProof::handle_proof`].

mod noise;

use serde::{Deserialize, Serialize};
use snow::{Builder, HandshakeState};
use zeroize::Zeroizing;

use crate::aead::{KEY_BYTES, TAG_BYTES};
use crate::ids::{ClusterId, SessionId};
use crate::limits::{PREAUTH_FRAME_BYTES_MAX, PROTOCOL_VERSION, TOKEN_BYTES_MAX};
use crate::msgpack;
use crate::record::RecordKeys;
use crate::token::Role;
use noise::Primitives;

/// Bytes of the first and of the second message: a point and the tag of an empty payload.
pub const FIRST_BYTES: usize = KEY_BYTES + TAG_BYTES;
/// Bytes of the second message.
pub const SECOND_BYTES: usize = FIRST_BYTES;

const SUITE: &str = "Noise_XK_25519_ChaChaPoly_SHA256";
const PROLOGUE: &[u8] = b"furlong/1";

/// The peer's description of itself in the third message.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Hello {
    /// The protocol version that the peer speaks.
    pub version: u32,
    /// Everything else; none if the version is not ours, since its form is then unknown.
    pub body: Option<HelloBody>,
}

/// The part of a [`Hello`] whose form depends on the version.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct HelloBody {
    /// The token, exactly as the capability file holds it.
    #[serde(with = "serde_bytes")]
    pub token: Vec<u8>,
    /// The peer's session: the same for as long as its process lives.
    pub session: SessionId,
    /// Grows with each connection of the session; the highest one wins.
    pub incarnation: u64,
    /// The role that the peer claims: its token's.
    pub role: Role,
    /// The program and its version, for people.
    pub software: String,
    /// The questions that the peer answers beyond the first messages of this version, a bit each
    /// ([`ANSWERS_MEASURE`](crate::message::ANSWERS_MEASURE)); bits that are unknown are ignored.
    pub abilities: u64,
}

impl Hello {
    /// A hello of this version.
    pub fn new(body: HelloBody) -> Self {
        Self { version: PROTOCOL_VERSION, body: Some(body) }
    }

    fn encode(&self) -> Vec<u8> {
        let mut bytes = self.version.to_le_bytes().to_vec();
        if let Some(body) = &self.body {
            rmp_serde::encode::write(&mut bytes, body)
                .expect("a hello has no type that msgpack cannot hold");
        }
        bytes
    }

    fn decode(bytes: &[u8]) -> Result<Self, HandshakeError> {
        let (version, rest) = bytes.split_first_chunk::<4>().ok_or(HandshakeError::Hello)?;
        let version = u32::from_le_bytes(*version);
        if version != PROTOCOL_VERSION {
            return Ok(Self { version, body: None });
        }
        let body: HelloBody = msgpack::from_bytes(rest).map_err(|_| HandshakeError::Hello)?;
        if body.token.len() > TOKEN_BYTES_MAX {
            return Err(HandshakeError::Hello);
        }
        Ok(Self { version, body: Some(body) })
    }
}

/// The peer, after its first message: it expects the broker's reply.
#[derive(Debug)]
pub struct ExpectReply {
    noise: HandshakeState,
}

impl ExpectReply {
    /// Begins a handshake with the broker of that public key. Returns the first message.
    ///
    /// `ephemeral_seed` must be fresh from the system's random generator.
    ///
    /// # Errors
    /// [`HandshakeError::Noise`] if the broker's public key is a point of small order.
    pub fn start(
        cluster: &ClusterId,
        broker_key: &[u8; KEY_BYTES],
        secret: &[u8; KEY_BYTES],
        ephemeral_seed: [u8; KEY_BYTES],
    ) -> Result<(Vec<u8>, Self), HandshakeError> {
        let prologue = prologue(cluster);
        let builder = builder(ephemeral_seed).prologue(&prologue)?.local_private_key(secret)?;
        let mut noise = builder.remote_public_key(broker_key)?.build_initiator()?;
        let first = write(&mut noise, &[])?;
        Ok((first, Self { noise }))
    }

    /// Takes the broker's reply and gives the third message, with the hello in it, and the keys of
    /// the records.
    pub fn handle_reply(
        mut self,
        reply: &[u8],
        hello: &Hello,
    ) -> Result<(Vec<u8>, RecordKeys), HandshakeError> {
        exact_length(reply, SECOND_BYTES)?;
        read(&mut self.noise, reply)?;
        let third = write(&mut self.noise, &hello.encode())?;
        let (to_broker, to_peer) = split(self.noise)?;
        Ok((third, RecordKeys { send: to_broker, receive: to_peer }))
    }
}

/// The broker, before an unauthenticated peer's first message.
#[derive(Debug)]
pub struct ExpectStart {
    noise: HandshakeState,
}

impl ExpectStart {
    /// Is ready for an unauthenticated peer. `ephemeral_seed` must be fresh from the system's
    /// random generator.
    ///
    /// # Errors
    /// [`HandshakeError::Noise`] is an error of this program here.
    pub fn new(
        cluster: &ClusterId,
        broker_secret: &[u8; KEY_BYTES],
        ephemeral_seed: [u8; KEY_BYTES],
    ) -> Result<Self, HandshakeError> {
        let prologue = prologue(cluster);
        let noise = builder(ephemeral_seed)
            .prologue(&prologue)?
            .local_private_key(broker_secret)?
            .build_responder()?;
        Ok(Self { noise })
    }

    /// Takes the first message and gives the second. The length is checked before any curve
    /// operation.
    pub fn handle_start(mut self, first: &[u8]) -> Result<(Vec<u8>, ExpectProof), HandshakeError> {
        exact_length(first, FIRST_BYTES)?;
        read(&mut self.noise, first)?;
        let second = write(&mut self.noise, &[])?;
        Ok((second, ExpectProof { noise: self.noise }))
    }
}

/// The broker, after its reply: it expects the proof of the peer's key.
#[derive(Debug)]
pub struct ExpectProof {
    noise: HandshakeState,
}

impl ExpectProof {
    /// Takes the third message. The peer has then proved that it holds the secret of
    /// `Proof::holder`; whether that key may do anything is for the token in the hello to say.
    pub fn handle_proof(mut self, third: &[u8]) -> Result<Proof, HandshakeError> {
        if third.len() < KEY_BYTES + 2 * TAG_BYTES || third.len() > PREAUTH_FRAME_BYTES_MAX {
            return Err(HandshakeError::Length { bytes: third.len() });
        }
        let hello = Hello::decode(&read(&mut self.noise, third)?)?;
        let holder = self
            .noise
            .get_remote_static()
            .and_then(|key| key.try_into().ok())
            .ok_or(HandshakeError::Noise)?;
        let (to_broker, to_peer) = split(self.noise)?;
        Ok(Proof { holder, hello, keys: RecordKeys { send: to_peer, receive: to_broker } })
    }
}

/// A peer that has proved its key.
#[derive(Debug)]
pub struct Proof {
    /// The X25519 public key whose secret the peer holds.
    pub holder: [u8; KEY_BYTES],
    /// The peer's message.
    pub hello: Hello,
    /// The keys of the records, from the broker's side.
    pub keys: RecordKeys,
}

/// The reason that a handshake ends. The other side learns nothing of it: the connection is closed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum HandshakeError {
    /// No message of the handshake has this length.
    #[error("a handshake message of {bytes} bytes")]
    Length {
        /// Its length.
        bytes: usize,
    },
    /// Sealed for another key or cluster, changed on the way, or a point of small order.
    #[error("the handshake failed: another key, another cluster, or changed on the way")]
    Noise,
    /// The third message's payload has not the form of this version.
    #[error("the hello cannot be read")]
    Hello,
}

impl From<snow::Error> for HandshakeError {
    fn from(_: snow::Error) -> Self {
        Self::Noise
    }
}

fn builder<'a>(ephemeral_seed: [u8; KEY_BYTES]) -> Builder<'a> {
    let primitives = Primitives { ephemeral_seed: Zeroizing::new(ephemeral_seed) };
    Builder::with_resolver(
        SUITE.parse().expect("the suite's name is a valid Noise name"),
        Box::new(primitives),
    )
}

fn prologue(cluster: &ClusterId) -> Vec<u8> {
    [PROLOGUE, &cluster.0[..]].concat()
}

fn exact_length(message: &[u8], bytes: usize) -> Result<(), HandshakeError> {
    if message.len() == bytes {
        Ok(())
    } else {
        Err(HandshakeError::Length { bytes: message.len() })
    }
}

fn write(noise: &mut HandshakeState, payload: &[u8]) -> Result<Vec<u8>, HandshakeError> {
    let mut message = vec![0; payload.len() + KEY_BYTES + 3 * TAG_BYTES];
    let len = noise.write_message(payload, &mut message)?;
    message.truncate(len);
    Ok(message)
}

fn read(noise: &mut HandshakeState, message: &[u8]) -> Result<Vec<u8>, HandshakeError> {
    let mut payload = vec![0; message.len()];
    let len = noise.read_message(message, &mut payload)?;
    payload.truncate(len);
    Ok(payload)
}

type SecretBytes = Zeroizing<[u8; KEY_BYTES]>;

/// The keys towards the broker and towards the peer. Only a finished handshake gives them.
fn split(mut noise: HandshakeState) -> Result<(SecretBytes, SecretBytes), HandshakeError> {
    if !noise.is_handshake_finished() {
        return Err(HandshakeError::Noise);
    }
    let (to_broker, to_peer) = noise.dangerously_get_raw_split();
    Ok((Zeroizing::new(to_broker), Zeroizing::new(to_peer)))
}

#[cfg(test)]
mod tests;
