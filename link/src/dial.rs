//! The peer's way in: from a door to a connection that carries records.

use std::future::poll_fn;
use std::net::IpAddr;
use std::pin::Pin;
use std::task::Poll;
use std::time::Duration;

use furlong_wire::capability::{Door, Endpoint};
use furlong_wire::handshake::{ExpectReply, HandshakeError, Hello, HelloBody};
use furlong_wire::limits::{HANDSHAKE_TIMEOUT_MS, HEARTBEAT_DEAD_MS};
use furlong_wire::message::{Greeting, RefusalKind, Welcome, decode_batch};
use furlong_wire::record::RecordSealer;
use furlong_wire::zmtp::Role;
use rand::TryRng;
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep, timeout};

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

/// Connects to the endpoint of a door that answers first. They are tried in their order, each a
/// moment after the one before, or as soon as that has failed: one that drops everything, as a
/// firewall does, delays nobody for long.
///
/// # Errors
/// The last endpoint's error, or at once a refusal: the others are the same broker.
pub async fn dial(door: Door<'_>, hello: &HelloBody) -> Result<Dialed, DialError> {
    let (mut rest, mut tries) = (door.endpoints.iter(), Tries::default());
    let mut last = None;
    let mut next = std::pin::pin!(sleep(Duration::ZERO));
    loop {
        tokio::select! {
            biased;
            outcome = tries.next(), if !tries.0.is_empty() => match outcome {
                Ok(dialed) => return Ok(dialed),
                // The broker has let another one of these in: its welcome is on the way.
                Err(error) if error.is_superseded() => _ = last.get_or_insert(error),
                Err(error @ DialError::Refused { .. }) => return Err(error),
                Err(error) => {
                    if !last.as_ref().is_some_and(DialError::is_superseded) {
                        last = Some(error);
                    }
                    next.as_mut().reset(Instant::now());
                }
            },
            () = &mut next, if !rest.as_slice().is_empty() => {
                let endpoint = rest.next().expect("it is not empty");
                tries.0.push(Box::pin(dial_within(door, endpoint, hello)));
                next.as_mut().reset(Instant::now() + STAGGER);
            }
            else => return Err(last.map_or(DialError::NoEndpoint, |it| it.at(door.endpoints))),
        }
    }
}

/// The time after which the next endpoint is tried beside those before.
const STAGGER: Duration = Duration::from_millis(250);

/// An endpoint that is tried.
type Try<'a> = Pin<Box<dyn Future<Output = Result<Dialed, DialError>> + Send + 'a>>;

/// Endpoints that are tried.
#[derive(Default)]
struct Tries<'a>(Vec<Try<'a>>);

impl Tries<'_> {
    /// The outcome of the first that has one. Nothing is lost if it is called anew.
    async fn next(&mut self) -> Result<Dialed, DialError> {
        poll_fn(|context| {
            let mut polled = self.0.iter_mut().map(|it| it.as_mut().poll(context)).enumerate();
            let ready = polled.find_map(|(at, poll)| match poll {
                Poll::Ready(outcome) => Some((at, outcome)),
                Poll::Pending => None,
            });
            let Some((at, outcome)) = ready else { return Poll::Pending };
            drop(self.0.remove(at));
            Poll::Ready(outcome)
        })
        .await
    }
}

async fn dial_within(
    door: Door<'_>,
    endpoint: &Endpoint,
    hello: &HelloBody,
) -> Result<Dialed, DialError> {
    let deadline = Duration::from_millis(HANDSHAKE_TIMEOUT_MS);
    let dialed = timeout(deadline, dial_endpoint(door, endpoint, hello)).await;
    dialed.unwrap_or_else(|_| Err(DialError::Timeout { endpoint: endpoint.clone() }))
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
    /// Nobody answers, and the capability names this machine alone.
    #[error(
        "no broker answers at {endpoint}: {error}. Is it running? `furlong cluster start` or `broker` starts one. The \
         capability file names only this machine: a broker elsewhere has to be started with --location"
    )]
    ConnectHere {
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
    fn is_superseded(&self) -> bool {
        matches!(self, Self::Refused { kind: RefusalKind::Superseded, .. })
    }

    /// The same, of a door with these endpoints.
    fn at(self, endpoints: &[Endpoint]) -> Self {
        let is_here = |it: &Endpoint| it.host().parse().is_ok_and(|ip: IpAddr| ip.is_loopback());
        match self {
            Self::Connect { endpoint, error } if endpoints.iter().all(is_here) => {
                Self::ConnectHere { endpoint, error }
            }
            other => other,
        }
    }

    /// Returns true if another try, later, may succeed.
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Refused { kind, .. } => *kind == RefusalKind::Busy,
            Self::Connect { .. }
            | Self::ConnectHere { .. }
            | Self::Timeout { .. }
            | Self::Handshake { .. } => true,
            Self::Key(_) | Self::Receive(_) | Self::Greeting | Self::NoEndpoint => false,
        }
    }
}
