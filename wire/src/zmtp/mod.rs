//! ZMTP 3.1 (RFC 37) with the NULL mechanism, sans I/O: bytes in, messages out.
//!
//! A [`Connection`] is one side of one byte stream. It is a `ROUTER` that takes `DEALER`s
//! ([`Role::Broker`]), a `DEALER` that takes a `ROUTER` ([`Role::Peer`]), or a `ROUTER` for plain
//! `ZeroMQ` programs, `REQ`s and `DEALER`s ([`Role::Gateway`]); nothing else is spoken. It checks
//! every byte as soon as that byte is there, keeps no bytes of its own but the frames of a message
//! that is not complete, and never reserves by a length that the peer declares.
//!
//! NULL neither authenticates nor encrypts: that is done by the handshake and the records inside
//! the messages. Until the caller says [`peer_proved`](Connection::peer_proved), the peer is an
//! unauthenticated peer and has the `PREAUTH_*` limits of [`limits`](crate::limits); afterwards it
//! has the `RECORD_*` ones.
//!
//! ```
//! use bytes::BytesMut;
//! use furlong_wire::zmtp::{Connection, Event, Role, put_frame_header};
//!
//! let (mut broker, mut peer) = (Connection::new(Role::Broker), Connection::new(Role::Peer));
//! let (mut to_broker, mut to_peer) = (BytesMut::new(), BytesMut::new());
//! for _ in 0..3 {
//!     while let Some(bytes) = peer.poll_output() {
//!         to_broker.extend_from_slice(&bytes);
//!     }
//!     broker.handle_input(&mut to_broker)?;
//!     while let Some(bytes) = broker.poll_output() {
//!         to_peer.extend_from_slice(&bytes);
//!     }
//!     peer.handle_input(&mut to_peer)?;
//! }
//!
//! put_frame_header(&mut to_broker, 5, false);
//! to_broker.extend_from_slice(b"hello");
//! match broker.handle_input(&mut to_broker)? {
//!     Some(Event::Message(message)) => assert_eq!(&message.envelope[..], b"hello"),
//!     _ => unreachable!("the broker was past READY and had the whole frame"),
//! }
//! # Ok::<(), furlong_wire::zmtp::ZmtpError>(())
//! ```

use std::mem;

use bytes::{Bytes, BytesMut};

use self::command::COMMAND_BYTES_MAX;
use self::greeting::{ExpectGreeting, GREETING_BYTES};
use self::open::Open;
use self::ready::ExpectReady;
use crate::limits::{
    GATEWAY_FRAMES_MAX, GATEWAY_REQUEST_BYTES_MAX, PREAUTH_BUFFER_BYTES_MAX,
    PREAUTH_FRAME_BYTES_MAX, PREAUTH_FRAMES_MAX, RECORD_BYTES_MAX, RECORD_FRAMES_MAX,
};

mod command;
mod error;
mod frame;
mod greeting;
mod open;
mod ready;
#[cfg(test)]
mod tests;

pub use self::error::{Excerpt, ZmtpError};
pub use self::frame::{FRAME_HEADER_BYTES_MAX, put_frame_header};

/// The side of the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// A `ROUTER`; the other side must be a `DEALER`.
    Broker,
    /// An engine or a client: a `DEALER`; the other side must be a `ROUTER`.
    Peer,
    /// A gateway: a `ROUTER` for plain `ZeroMQ` programs; the other side must be a `REQ` or a
    /// `DEALER`. Nobody proves anything in messages: its limits are those of a request, always.
    Gateway,
}

impl Role {
    /// The `Socket-Type` that this side announces.
    pub const fn socket_type(self) -> &'static str {
        match self {
            Self::Broker | Self::Gateway => "ROUTER",
            Self::Peer => "DEALER",
        }
    }

    /// Every `Socket-Type` that this side accepts, for people.
    pub const fn socket_type_accepted(self) -> &'static str {
        match self {
            Self::Broker => Self::Peer.socket_type(),
            Self::Peer => Self::Broker.socket_type(),
            Self::Gateway => "REQ or DEALER",
        }
    }

    /// Returns true if this side accepts a `Socket-Type`.
    fn accepts(self, socket_type: &[u8]) -> bool {
        match self {
            Self::Gateway => matches!(socket_type, b"REQ" | b"DEALER"),
            _ => socket_type == self.socket_type_accepted().as_bytes(),
        }
    }

    /// The limits at the beginning of a connection.
    const fn limits(self) -> Limits {
        match self {
            Self::Broker | Self::Peer => Limits::PENDING_PEER,
            Self::Gateway => Limits::REQUEST,
        }
    }
}

/// The result of [`Connection::handle_input`].
#[derive(Debug, PartialEq, Eq)]
pub enum Event {
    /// Greeting and READY are done: messages may be sent, behind what [`Connection::poll_output`]
    /// still has. Comes once.
    Ready,
    /// A whole message.
    Message(Message),
}

/// A whole message: its frames' bodies, split from the input without a copy.
#[derive(Debug, PartialEq, Eq)]
pub struct Message {
    /// The first frame.
    pub envelope: BytesMut,
    /// The others; empty, and not allocated, when there are none.
    pub chunks: Vec<BytesMut>,
}

/// One side of a ZMTP connection.
///
/// In a loop: write all that [`poll_output`](Self::poll_output) gives, before any message; read
/// bytes, as many as [`bytes_wanted`](Self::bytes_wanted) hints; call
/// [`handle_input`](Self::handle_input) until it returns `Ok(None)`. Call
/// [`peer_proved`](Self::peer_proved) once, between two events. After an error write what
/// `poll_output` has, if that can be done at once, and close: the connection reads nothing any
/// more.
#[derive(Debug)]
pub struct Connection {
    state: State,
    shared: Shared,
}

impl Connection {
    /// A new connection. Its greeting is queued at once, as RFC 37 wants of a peer without older
    /// versions.
    pub fn new(role: Role) -> Self {
        let mut output = Output::default();
        greeting::put_greeting(&mut output.buffer);
        let shared = Shared { role, limits: role.limits(), output, bytes_wanted: GREETING_BYTES };
        Self { state: State::ExpectGreeting(ExpectGreeting), shared }
    }

    /// All bytes that the codec itself wants sent: greeting, READY, PONGs, ERROR. To be written
    /// before any message's bytes that are not begun yet.
    ///
    /// Poll when the bytes can be written: what waits in here is bounded (beyond some PINGs, a
    /// proved peer's are not answered, and an unauthenticated peer's are an error), what the caller
    /// has taken out is not.
    pub fn poll_output(&mut self) -> Option<Bytes> {
        self.shared.output.poll()
    }

    /// Takes the bytes of the next event from the front of `input`, and none behind it. `Ok(None)`:
    /// more bytes are needed.
    ///
    /// Of a frame that is not complete only the header is looked at; its bytes stay in `input`.
    ///
    /// # Errors
    ///
    /// Any error ends the connection; later calls return [`ZmtpError::Closed`].
    pub fn handle_input(&mut self, input: &mut BytesMut) -> Result<Option<Event>, ZmtpError> {
        self.shared.bytes_wanted = 0;
        let result = match &mut self.state {
            State::Open(open) => open
                .handle_input(input, &mut self.shared)
                .map(|message| message.map(Event::Message)),
            _ => self.handle_opening(input),
        };
        if result.is_err() {
            self.state = State::Closed;
        }
        result
    }

    /// Raises the limits of an unauthenticated peer to those of a peer that has proved who it is. A
    /// gateway never calls it.
    pub fn peer_proved(&mut self) {
        self.shared.limits = Limits::PROVED;
    }

    /// Returns the number of bytes beyond the last `input` that complete the frame (or greeting)
    /// being read; 0 if unknown.
    ///
    /// Never more than [`RECORD_BYTES_MAX`], or [`GATEWAY_REQUEST_BYTES_MAX`] for a gateway,
    /// whatever the peer declares.
    pub fn bytes_wanted(&self) -> usize {
        self.shared.bytes_wanted
    }

    /// Greeting and READY.
    fn handle_opening(&mut self, input: &mut BytesMut) -> Result<Option<Event>, ZmtpError> {
        loop {
            // A `?` leaves `Closed` behind, which is what an error means.
            match mem::replace(&mut self.state, State::Closed) {
                State::ExpectGreeting(state) => {
                    match state.handle_input(input, &mut self.shared)? {
                        Progress::Waiting(state) => {
                            self.state = State::ExpectGreeting(state);
                            return Ok(None);
                        }
                        Progress::Done(next) => self.state = State::ExpectReady(next),
                    }
                }
                State::ExpectReady(state) => match state.handle_input(input, &mut self.shared)? {
                    Progress::Waiting(state) => {
                        self.state = State::ExpectReady(state);
                        return Ok(None);
                    }
                    Progress::Done(next) => {
                        self.state = State::Open(next);
                        return Ok(Some(Event::Ready));
                    }
                },
                State::Open(_) | State::Closed => return Err(ZmtpError::Closed),
            }
        }
    }
}

/// The input that the connection expects next. A state's transition consumes it.
#[derive(Debug)]
enum State {
    ExpectGreeting(ExpectGreeting),
    ExpectReady(ExpectReady),
    Open(Open),
    Closed,
}

/// The outcome of a state that was given input.
enum Progress<Waiting, Done> {
    Waiting(Waiting),
    Done(Done),
}

/// The state that a connection has in every phase.
#[derive(Debug)]
struct Shared {
    role: Role,
    limits: Limits,
    output: Output,
    /// See [`Connection::bytes_wanted`]. A state sets it when it has to wait inside a frame.
    bytes_wanted: usize,
}

/// The limits on the cost of one message.
#[derive(Clone, Copy, Debug)]
struct Limits {
    /// Bytes of a message, all its frames' bodies together.
    message_bytes_max: usize,
    /// Frames of a message.
    frames_max: usize,
    /// True if PINGs beyond those that can be answered now are left without an answer. Otherwise
    /// they end the connection.
    passes_pings: bool,
}

impl Limits {
    /// The header counts too: so a frame that is allowed always fits the unauthenticated peer's
    /// read buffer, and never waits for ever.
    const PENDING_PEER: Self = Self {
        message_bytes_max: PREAUTH_FRAME_BYTES_MAX - FRAME_HEADER_BYTES_MAX,
        frames_max: PREAUTH_FRAMES_MAX,
        passes_pings: false,
    };
    const PROVED: Self = Self {
        message_bytes_max: RECORD_BYTES_MAX,
        frames_max: RECORD_FRAMES_MAX,
        passes_pings: true,
    };
    const REQUEST: Self = Self {
        message_bytes_max: GATEWAY_REQUEST_BYTES_MAX,
        frames_max: GATEWAY_FRAMES_MAX,
        passes_pings: true,
    };
}

const _: () = assert!(PREAUTH_FRAME_BYTES_MAX <= PREAUTH_BUFFER_BYTES_MAX);
const _: () = assert!(FRAME_HEADER_BYTES_MAX + COMMAND_BYTES_MAX <= PREAUTH_BUFFER_BYTES_MAX);

/// The codec's own bytes that wait to be sent: at most greeting, READY, ERROR and
/// `PONGS_PENDING_MAX` PONGs, about 300 bytes.
#[derive(Debug, Default)]
struct Output {
    buffer: BytesMut,
    pongs_pending: usize,
}

impl Output {
    fn poll(&mut self) -> Option<Bytes> {
        self.pongs_pending = 0;
        (!self.buffer.is_empty()).then(|| self.buffer.split().freeze())
    }
}
