//! The peer's way in: from a door to a connection that carries records.

use std::time::Duration;

use furlong_wire::capability::{Door, Endpoint};
use furlong_wire::handshake::{ExpectReply, HandshakeError, Hello, HelloBody};
use furlong_wire::limits::{HANDSHAKE_TIMEOUT_MS, HEARTBEAT_DEAD_MS};
use furlong_wire::message::{Greeting, RefusalKind, Welcome, decode_batch};
use furlong_wire::record::RecordSealer;
use furlong_wire::zmtp::Role;
use rand::TryRng;
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::incoming::Incoming;
use crate::local;
use crate::peer::inbox::ReceiveError;
use crate::pending::{PendingError, PendingPeer};
use crate::stream::{ReadHalf, WriteHalf, split};

/// The total time allowed to a broker on this machine before its port is tried.
const LOCAL_TIMEOUT: Duration = Duration::from_secs(2);

/// A connection whose handshake is done and whose broker said welcome.
#[derive(Debug)]
pub struct Dialed {
    /// The incoming side, from the broker.
    pub incoming: Incoming,
    /// The way to the broker.
    pub socket: WriteHalf,
    /// Seals what goes to the broker.
    pub sealer: RecordSealer,
    /// The broker's welcome.
    pub welcome: Welcome,
    /// The endpoint that answered.
    pub endpoint: Endpoint,
}

/// Connects to the first endpoint of a door that answers.
///
/// # Errors
/// The last endpoint's error, or at once a refusal: the others are the same broker.
pub async fn dial(door: Door<'_>, hello: &HelloBody) -> Result<Dialed, DialError> {
    let mut last = DialError::NoEndpoint;
    for endpoint in door.endpoints {
        let deadline = Duration::from_millis(HANDSHAKE_TIMEOUT_MS);
        match timeout(deadline, dial_endpoint(door, endpoint, hello)).await {
            Ok(Ok(dialed)) => return Ok(dialed),
            Ok(Err(error @ DialError::Refused { .. })) => return Err(error),
            Ok(Err(error)) => last = error,
            Err(_) => last = DialError::Timeout { endpoint: endpoint.clone() },
        }
    }
    Err(last)
}

/// By pipes if the broker is on this machine, else by TCP.
async fn dial_endpoint(
    door: Door<'_>,
    endpoint: &Endpoint,
    hello: &HelloBody,
) -> Result<Dialed, DialError> {
    // Whoever has taken the name of the broker's pipes, or stands in line there, keeps nobody from
    // the port.
    match timeout(LOCAL_TIMEOUT, dial_local(door, endpoint, hello)).await {
        Ok(Ok(dialed)) => return Ok(dialed),
        Ok(Err(error @ DialError::Refused { .. })) => return Err(error),
        Ok(Err(_)) | Err(_) => {}
    }
    let failed = |error| DialError::Connect { endpoint: endpoint.clone(), error };
    let socket = TcpStream::connect((endpoint.host(), endpoint.port())).await.map_err(failed)?;
    prepare_socket(&socket).map_err(failed)?;
    shake_hands(split(socket), door, endpoint, hello).await
}

async fn dial_local(
    door: Door<'_>,
    endpoint: &Endpoint,
    hello: &HelloBody,
) -> Result<Dialed, DialError> {
    let connected = local::connect(&door.cluster, endpoint.port()).await;
    let halves =
        connected.map_err(|error| DialError::Connect { endpoint: endpoint.clone(), error })?;
    shake_hands(halves, door, endpoint, hello).await
}

async fn shake_hands(
    halves: (ReadHalf, WriteHalf),
    door: Door<'_>,
    endpoint: &Endpoint,
    hello: &HelloBody,
) -> Result<Dialed, DialError> {
    let at = || endpoint.clone();
    let mut pending = PendingPeer::new(halves, Role::Peer);
    let failed = |error| DialError::Handshake { endpoint: at(), error };
    pending.ready().await.map_err(failed)?;
    let (first, expect) = ExpectReply::start(
        &door.cluster,
        &door.server_key.0,
        door.secret.expose(),
        random_bytes(),
    )?;
    pending.send(&first).await.map_err(failed)?;
    let reply = pending.receive().await.map_err(failed)?;
    let (third, keys) = expect.handle_reply(&reply, &Hello::new(hello.clone()))?;
    pending.send(&third).await.map_err(failed)?;
    let (sealer, opener) = keys.split();
    let (mut incoming, socket) = pending.prove(opener);
    let welcome = greeting(&mut incoming, endpoint).await?;
    Ok(Dialed { incoming, socket, sealer, welcome, endpoint: at() })
}

/// Waits for the broker's first record.
async fn greeting(incoming: &mut Incoming, endpoint: &Endpoint) -> Result<Welcome, DialError> {
    let record = loop {
        if let Some(record) = incoming.poll_record()? {
            break record;
        }
        let closed = |error| DialError::Handshake { endpoint: endpoint.clone(), error };
        match incoming.read().await {
            Ok(0) => return Err(closed(PendingError::Closed)),
            Ok(_) => {}
            Err(error) => return Err(closed(error.into())),
        }
    };
    let mut messages = decode_batch::<Greeting>(&record.batch);
    match messages.next() {
        Some(Ok(Greeting::Welcome(welcome))) => Ok(welcome),
        Some(Ok(Greeting::Refused(refused))) => {
            Err(DialError::Refused { kind: refused.kind, text: refused.text })
        }
        _ => Err(DialError::Greeting),
    }
}

/// Sets what every connection of Furlong has: no delay for small writes, and an end when what was
/// sent is not acknowledged for 15 s, so that a peer that has vanished does not hold its queue for
/// ever.
///
/// # Errors
/// The socket's.
pub fn prepare_socket(socket: &TcpStream) -> std::io::Result<()> {
    rustix::net::sockopt::set_tcp_user_timeout(socket, HEARTBEAT_DEAD_MS as u32)?;
    socket.set_nodelay(true)
}

/// Fresh bytes of the system's random generator.
///
/// # Panics
/// If the system gives none: nothing secure can be done then.
pub fn random_bytes<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    rand::rngs::SysRng.try_fill_bytes(&mut bytes).expect("the system gives random bytes");
    bytes
}

/// The error when there is no connection.
#[derive(Debug, thiserror::Error)]
pub enum DialError {
    /// Nobody answers.
    #[error(
        "no broker answers at {endpoint}: {error}. Is it running? `furlong cluster start` or `broker` starts one"
    )]
    Connect {
        /// The endpoint.
        endpoint: Endpoint,
        /// The system's word.
        error: std::io::Error,
    },
    /// Somebody answers, too slowly or not at all.
    #[error(
        "no answer from {endpoint} in {} s: is that a Furlong broker, and reachable?",
        HANDSHAKE_TIMEOUT_MS / 1000
    )]
    Timeout {
        /// The endpoint.
        endpoint: Endpoint,
    },
    /// It ended before the proof. A broker that does not accept the key just closes.
    #[error(
        "{endpoint} broke off the handshake ({error}): the capability file is of another cluster or of an earlier \
         `--fresh` start; take the present one from the broker's `security` folder"
    )]
    Handshake {
        /// The endpoint.
        endpoint: Endpoint,
        /// The problem.
        error: PendingError,
    },
    /// The answering peer does not have the key of the capability.
    #[error(
        "what answers has not the broker's key ({0}): the capability file is of another cluster, or somebody listens in"
    )]
    Key(#[from] HandshakeError),
    /// The broker said no.
    #[error("the broker refuses: {text}")]
    Refused {
        /// The reason, for programs.
        kind: RefusalKind,
        /// The reason, for people.
        text: String,
    },
    /// The first record was unsound.
    #[error("the broker's first record is unsound: {0}")]
    Receive(#[from] ReceiveError),
    /// The first record was no greeting.
    #[error("the broker's first record is no greeting: it speaks another version")]
    Greeting,
    /// The capability has none.
    #[error("the capability file names no endpoint")]
    NoEndpoint,
}

impl DialError {
    /// Returns true if another try, later, may succeed.
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Refused { kind, .. } => *kind == RefusalKind::Busy,
            Self::Connect { .. } | Self::Timeout { .. } | Self::Handshake { .. } => true,
            Self::Key(_) | Self::Receive(_) | Self::Greeting | Self::NoEndpoint => false,
        }
    }
}
