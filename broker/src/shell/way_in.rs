//! The way in: from a connection that anybody may open to a peer that has proved itself.

use std::time::Duration;

use bytes::BytesMut;
use furlong_link::dial::random_bytes;
use furlong_link::incoming::Incoming;
use furlong_link::pending::{PendingError, PendingPeer};
use furlong_link::stream::{ReadHalf, WriteHalf};
use furlong_wire::handshake::{ExpectStart, FIRST_BYTES, HandshakeError};
use furlong_wire::limits::{GREETING_TIMEOUT_MS, PROTOCOL_VERSION};
use furlong_wire::message::{Greeting, RefusalKind, Refused, encode_message};
use furlong_wire::record::{RecordSealer, SEQ_BYTES};
use furlong_wire::token::{Claims, Token, TokenError};
use furlong_wire::zmtp::{self, FRAME_HEADER_BYTES_MAX, put_frame_header};
use tokio::io::AsyncWriteExt;
use tokio::time::timeout;

use super::entrance::Address;
use super::{PendingPlace, Shell};
use crate::core::{AttemptId, Peer, Refusal, Serves};

/// An unauthenticated peer that has proved its key and whose token is sound.
pub(super) struct Proved {
    pub(super) peer: Peer,
    pub(super) incoming: Incoming,
    pub(super) socket: WriteHalf,
    pub(super) sealer: RecordSealer,
}

/// Lets an unauthenticated peer prove itself.
pub(super) async fn shake_hands(
    shell: &Shell,
    serves: Serves,
    halves: (ReadHalf, WriteHalf),
    address: Address,
    place: &PendingPlace,
) -> Result<Proved, RejectedPeer> {
    let mut pending = PendingPeer::new(halves, zmtp::Role::Broker);
    let greeted = timeout(Duration::from_millis(GREETING_TIMEOUT_MS), pending.ready()).await;
    greeted.map_err(|_| RejectedPeer::Deadline)??;
    let first = first_message(&mut pending, place).await?;
    let key = &shell.identity.key;
    let expect =
        ExpectStart::new(&shell.identity.cluster, key.server_secret.expose(), random_bytes())?;
    let (second, expect) = expect.handle_start(&first)?;
    place.handle_right_message();
    pending.send(&second).await?;
    let third = pending.receive().await?;
    let proof = expect.handle_proof(&third)?;
    let (mut sealer, opener) = proof.keys.split();
    let (incoming, mut socket) = pending.prove(opener);
    let Some(hello) = proof.hello.body else {
        // The token's form is unknown too, but the peer holds the broker's public key: it may know
        // why.
        let text = format!(
            "the broker speaks version {PROTOCOL_VERSION} of the protocol, this peer version {}; install the same \
             Furlong on both sides",
            proof.hello.version
        );
        let refusal = Refusal { kind: RefusalKind::Version, text };
        refuse(shell, address, &refusal, &mut socket, &mut sealer).await;
        return Err(RejectedPeer::Version { version: proof.hello.version });
    };
    // The client of a running task has no token.
    let is_pass = hello.token.is_empty();
    let holder = if is_pass {
        None
    } else {
        let token = Token::from_bytes(hello.token.clone())?;
        Some(token.verify(&key.issuer_key, shell.identity.cluster)?.prove_holder(&proof.holder)?)
    };
    // Also here, so that nobody comes in with a token that was revoked a moment ago.
    shell.obey_revocations().await;
    let admitted = match holder {
        Some(holder) => Ok((holder.claims().clone(), None)),
        None => pass_of(shell, proof.holder),
    };
    let checked = admitted.and_then(|(claims, pass)| {
        let (core, revoked) = (shell.core.borrow(), shell.revocations.tokens());
        core.check_admission(shell.now(), serves, (&claims, &hello), &revoked)?;
        Ok((claims, pass))
    });
    let (claims, pass) = match checked {
        Ok(admitted) => admitted,
        Err(refusal) => {
            refuse(shell, address, &refusal, &mut socket, &mut sealer).await;
            return Err(RejectedPeer::Unauthorized);
        }
    };
    let peer = Peer { claims, hello, address: address.to_string(), pass };
    Ok(Proved { peer, incoming, socket, sealer })
}

/// The first message of a handshake, once it may be worked on.
async fn first_message(
    pending: &mut PendingPeer,
    place: &PendingPlace,
) -> Result<BytesMut, RejectedPeer> {
    let first = pending.receive().await?;
    if first.len() != FIRST_BYTES {
        return Err(HandshakeError::Length { bytes: first.len() }.into());
    }
    // Before any curve operation: a flood of handshakes must not cost the farm its processor. Nor
    // may those who have left take the admissions of those who wait.
    tokio::select! {
        is_admitted = place.admission() => is_admitted.then_some(first).ok_or(RejectedPeer::Busy),
        error = pending.left() => Err(error.into()),
    }
}

/// The claims of a task's owner for the holder of this key, and the attempt whose pass it is.
fn pass_of(shell: &Shell, holder: [u8; 32]) -> Result<(Claims, Option<AttemptId>), Refusal> {
    let (claims, attempt) = shell.core.borrow().pass(shell.now(), holder)?;
    Ok((claims, Some(attempt)))
}

/// Tells who has proved its key why it is not let in.
pub(super) async fn refuse(
    shell: &Shell,
    address: Address,
    refusal: &Refusal,
    socket: &mut WriteHalf,
    sealer: &mut RecordSealer,
) {
    shell.log_rejected(address, &RejectedPeer::Refused { text: refusal.text.clone() });
    let refused = Refused { kind: refusal.kind, text: refusal.text.clone() };
    let _ =
        timeout(Duration::from_secs(1), greet(&Greeting::Refused(refused), socket, sealer)).await;
}

/// Sends the first record.
pub(super) async fn greet(
    greeting: &Greeting,
    socket: &mut WriteHalf,
    sealer: &mut RecordSealer,
) -> std::io::Result<()> {
    let mut envelope = vec![0; SEQ_BYTES];
    encode_message(greeting, &mut envelope);
    sealer.seal::<&[u8]>(&mut envelope, 0, &[]);
    let mut frame = BytesMut::with_capacity(envelope.len() + FRAME_HEADER_BYTES_MAX);
    put_frame_header(&mut frame, envelope.len(), false);
    frame.extend_from_slice(&envelope);
    timeout(Duration::from_secs(1), socket.write_all(&frame)).await?
}

/// The reason that an unauthenticated peer is turned away. Only the log shows it.
#[derive(Debug, thiserror::Error)]
pub(super) enum RejectedPeer {
    #[error("it did not finish the handshake in time")]
    Deadline,
    #[error("too many handshakes at once")]
    Busy,
    #[error("it cannot be given a connection: {0}")]
    Arrival(#[from] std::io::Error),
    #[error(transparent)]
    Pending(#[from] PendingError),
    #[error(transparent)]
    Handshake(#[from] HandshakeError),
    #[error(transparent)]
    Token(#[from] TokenError),
    #[error("it speaks version {version} of the protocol")]
    Version { version: u32 },
    #[error("its token does not allow what it wants")]
    Unauthorized,
    #[error("refused: {text}")]
    Refused { text: String },
}
