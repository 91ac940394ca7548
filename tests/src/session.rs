//! A handshake done by hand, and the connection after it, where records can be forged.

use furlong_link::dial::random_bytes;
use furlong_wire::capability::Capability;
use furlong_wire::handshake::{ExpectReply, Hello, HelloBody};
use furlong_wire::ids::{ClusterId, SessionId, TaskSeq};
use furlong_wire::limits::PROTOCOL_VERSION;
use furlong_wire::message::{
    Direction, FromClient, Greeting, Message, Open, Refused, Welcome, decode_batch, encode_message,
};
use furlong_wire::payload::PayloadSecret;
use furlong_wire::record::{RecordOpener, RecordSealer, SEQ_BYTES};
use furlong_wire::token::Role;

use crate::raw::{Closed, RawPeer, message};

/// The credentials that a peer shows in a handshake. Each part can be made wrong.
#[derive(Clone, Debug)]
pub struct Credentials {
    /// The cluster, which the prologue names.
    pub cluster: ClusterId,
    /// The key that the broker should have.
    pub broker_key: [u8; 32],
    /// The peer's own secret.
    pub secret: [u8; 32],
    /// The protocol version.
    pub version: u32,
    /// Token, role and session.
    pub hello: HelloBody,
}

impl Credentials {
    /// Those of a capability, with a new session.
    pub fn of(capability: &Capability) -> Self {
        Self {
            cluster: capability.cluster_id(),
            broker_key: capability.server_key().0,
            secret: *capability.holder_secret().expose(),
            version: PROTOCOL_VERSION,
            hello: HelloBody {
                token: capability.token().as_bytes().to_vec(),
                session: SessionId(random_bytes()),
                incarnation: 1,
                role: capability.role(),
                software: "furlong-tests".to_owned(),
                abilities: 0,
            },
        }
    }

    /// The same with another role in the hello.
    #[must_use]
    pub fn with_role(mut self, role: Role) -> Self {
        self.hello.role = role;
        self
    }

    /// The first message of a handshake, and what expects the second.
    ///
    /// # Panics
    /// If the broker's key is of small order: then there is no first message.
    pub fn start(&self) -> (Vec<u8>, ExpectReply) {
        let started =
            ExpectReply::start(&self.cluster, &self.broker_key, &self.secret, random_bytes());
        started.expect("the broker's key is sound")
    }

    /// Returns the content of the third message.
    pub fn hello(&self) -> Hello {
        let body = (self.version == PROTOCOL_VERSION).then(|| self.hello.clone());
        Hello { version: self.version, body }
    }
}

/// The outcome of a handshake.
#[derive(Debug)]
pub enum Answer {
    /// The peer is in.
    Welcome(Box<RawSession>),
    /// The broker told why not.
    Refused(Refused),
    /// The broker closed the connection and told nothing.
    Closed,
}

impl Answer {
    /// The session.
    ///
    /// # Panics
    /// If the peer was not let in.
    pub fn session(self) -> RawSession {
        match self {
            Self::Welcome(session) => *session,
            other => panic!("the peer is not let in: {other:?}"),
        }
    }

    /// The reason for people, if the broker told one.
    pub fn refusal(self) -> Option<String> {
        match self {
            Self::Refused(refused) => Some(refused.text),
            Self::Welcome(_) | Self::Closed => None,
        }
    }
}

/// A connection whose handshake is done.
#[derive(Debug)]
pub struct RawSession {
    /// The connection.
    pub peer: RawPeer,
    /// Seals records to the broker.
    pub sealer: RecordSealer,
    opener: RecordOpener,
    /// The broker's welcome.
    pub welcome: Welcome,
}

/// Shakes hands with the broker at the port.
pub fn shake_hands(port: u16, credentials: &Credentials) -> Answer {
    try_shake_hands(port, credentials).unwrap_or(Answer::Closed)
}

fn try_shake_hands(port: u16, credentials: &Credentials) -> Result<Answer, Closed> {
    Caller::call(port, credentials)?.prove(&credentials.hello())
}

/// A peer in the middle of a handshake: it has sent a right first message, and has the answer.
#[derive(Debug)]
pub struct Caller {
    peer: RawPeer,
    expect: ExpectReply,
    reply: Vec<u8>,
}

impl Caller {
    /// Connects and sends the first message.
    ///
    /// # Errors
    /// If the broker closes the connection.
    pub fn call(port: u16, credentials: &Credentials) -> Result<Self, Closed> {
        let mut peer = RawPeer::connect_ready(port)?;
        let (first, expect) = credentials.start();
        peer.send(&message(&[&first]));
        let reply = peer.receive()?.envelope.to_vec();
        Ok(Self { peer, expect, reply })
    }

    /// Sends the third message, and takes the broker's word.
    ///
    /// # Errors
    /// If the broker closes the connection.
    pub fn prove(self, hello: &Hello) -> Result<Answer, Closed> {
        let Self { mut peer, expect, reply } = self;
        let (third, keys) = expect.handle_reply(&reply, hello).map_err(|_| Closed)?;
        peer.send(&message(&[&third]));
        peer.peer_proved();
        let (sealer, mut opener) = keys.split();
        let mut greeting = peer.receive()?;
        opener.open(&mut greeting.envelope, &greeting.chunks).map_err(|_| Closed)?;
        match decode_batch::<Greeting>(&greeting.envelope).next() {
            Some(Ok(Greeting::Welcome(welcome))) => {
                Ok(Answer::Welcome(Box::new(RawSession { peer, sealer, opener, welcome })))
            }
            Some(Ok(Greeting::Refused(refused))) => Ok(Answer::Refused(refused)),
            _ => Err(Closed),
        }
    }
}

impl RawSession {
    /// Shakes hands as a client that is let in, and opens its session.
    ///
    /// # Panics
    /// If it is not let in.
    pub fn client(port: u16, capability: &Capability) -> Self {
        Self::client_with_id(port, capability).1
    }

    /// The same, with the session's id.
    ///
    /// # Panics
    /// If it is not let in.
    pub fn client_with_id(port: u16, capability: &Capability) -> (SessionId, Self) {
        let credentials = Credentials::of(capability);
        let mut session = shake_hands(port, &credentials).session();
        session.send(&[FromClient::Open(Open {
            secret: PayloadSecret::new([7; 32]),
            cancel_on_disconnect: false,
            submitted: TaskSeq::MIN,
            hides_names: false,
        })]);
        (credentials.hello.session, session)
    }

    /// Seals messages as the next record, and does not send it: its envelope.
    pub fn seal<M: Direction>(&mut self, messages: &[M], chunks: &[Vec<u8>]) -> Vec<u8> {
        let mut envelope = vec![0; SEQ_BYTES];
        for message in messages {
            encode_message(message, &mut envelope);
        }
        self.sealer.seal(&mut envelope, 0, chunks);
        envelope
    }

    /// Sends messages as one record. False if the broker does not take it.
    pub fn send<M: Direction>(&mut self, messages: &[M]) -> bool {
        let envelope = self.seal(messages, &[]);
        self.peer.send(&message(&[&envelope]))
    }

    /// The messages of the next record that has any.
    ///
    /// # Errors
    /// If the broker closes the connection, or sends none in ten seconds.
    pub fn receive<M: Message>(&mut self) -> Result<Vec<M>, Closed> {
        loop {
            let mut record = self.peer.receive()?;
            self.opener.open(&mut record.envelope, &record.chunks).map_err(|_| Closed)?;
            let messages: Vec<M> =
                decode_batch(&record.envelope).collect::<Result<_, _>>().map_err(|_| Closed)?;
            if !messages.is_empty() {
                return Ok(messages);
            }
        }
    }
}
