//! Errors of a ZMTP connection.

use std::fmt;

/// The reason that a connection ended.
///
/// After every one of these the connection is closed; each variant says whose fault it is.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ZmtpError {
    /// Peer incompatible: it does not speak ZMTP 2 or later. An HTTP client or a port scanner ends
    /// here.
    #[error("not a ZMTP 3 peer: byte {offset} of its greeting is {byte:#04x}")]
    NotZmtp {
        /// The position of the byte in the greeting, from 0.
        offset: usize,
        /// The actual value.
        byte: u8,
    },
    /// Peer incompatible: its ZMTP is older than 3.0.
    #[error("the peer speaks ZMTP {major}, at least 3.0 is needed")]
    VersionTooOld {
        /// The greeting's major version; 1 is what ZMTP 2.0 sends.
        major: u8,
    },
    /// Peer incompatible: it wants another security mechanism than NULL, such as CURVE or PLAIN.
    #[error("the peer's security mechanism is \"{mechanism}\", it must be \"NULL\"")]
    MechanismNotNull {
        /// As much of its name as had arrived.
        mechanism: Excerpt,
    },
    /// Peer misbehaved: RFC 37 says that as-server MUST be zero with NULL.
    #[error("the peer's greeting has as-server {value:#04x}, with the NULL mechanism it must be 0")]
    AsServer {
        /// The value of the byte.
        value: u8,
    },

    /// Peer misbehaved: flag bits 7-3 MUST be zero.
    #[error("a frame has reserved flag bits set: {flags:#04x}")]
    ReservedFlags {
        /// The whole flags byte.
        flags: u8,
    },
    /// Peer misbehaved: a command is always one frame.
    #[error("a command has the MORE flag")]
    CommandWithMore,
    /// Peer misbehaved: a declared length is above what any command needs.
    #[error("a command of {bytes} bytes, at most {bytes_max} are accepted")]
    CommandTooLong {
        /// The declared length of its body.
        bytes: u64,
        /// The limit.
        bytes_max: usize,
    },
    /// Peer misbehaved: a declared length would make the message longer than is accepted from it
    /// now.
    #[error("a message of {bytes} bytes, at most {bytes_max} are accepted from this peer now")]
    MessageTooLong {
        /// The frames so far, and the declared length of the next one.
        bytes: u64,
        /// The limit.
        bytes_max: usize,
    },
    /// Peer misbehaved: MORE on the last frame that a message may have.
    #[error(
        "a message of more than {frames_max} frames, which is all that is accepted from this peer now"
    )]
    TooManyFrames {
        /// The limit.
        frames_max: usize,
    },
    /// Peer misbehaved: a message frame where READY is due.
    #[error("a message before READY")]
    MessageBeforeReady,

    /// Peer misbehaved: the body of a command is not a name and its data, or the data is not what
    /// the name asks for.
    #[error("a malformed command of {bytes} bytes")]
    MalformedCommand {
        /// The length of its body.
        bytes: usize,
    },
    /// Peer misbehaved: a command other than READY during the NULL handshake.
    #[error("the command \"{name}\" before READY")]
    CommandBeforeReady {
        /// Its name.
        name: Excerpt,
    },
    /// Peer misbehaved: a command that no DEALER or ROUTER sends after READY.
    #[error("the command \"{name}\" is not known here")]
    UnknownCommand {
        /// Its name.
        name: Excerpt,
    },
    /// Peer misbehaved: READY comes once.
    #[error("a second READY")]
    SecondReady,
    /// The peer's choice: it sent ERROR and is going to close. Its reason has no defined meaning
    /// (RFC 37).
    #[error("the peer refused with the reason \"{reason}\"")]
    RefusedByPeer {
        /// The peer's message.
        reason: Excerpt,
    },

    /// Peer misbehaved: READY has more properties than are accepted.
    #[error("READY has more than {properties_max} properties")]
    TooManyProperties {
        /// The limit.
        properties_max: usize,
    },
    /// Peer misbehaved: the name of a property of READY is empty, cut short, or not printable
    /// ASCII.
    #[error(
        "a property of READY has a name of {bytes} bytes that is empty, cut short or not printable ASCII"
    )]
    MalformedPropertyName {
        /// The declared length of the name.
        bytes: usize,
    },
    /// Peer misbehaved: the value of a property of READY, or its length, ends behind the command.
    #[error(
        "a property of READY has a value that is cut short: {bytes_left} bytes are left for it"
    )]
    MalformedPropertyValue {
        /// The number of bytes left in the command after the name.
        bytes_left: usize,
    },
    /// Peer incompatible: it does not say what kind of socket it is.
    #[error("READY has no Socket-Type")]
    SocketTypeMissing,
    /// Peer misbehaved: two Socket-Types.
    #[error("READY has two Socket-Types")]
    SocketTypeTwice,
    /// Peer incompatible: some other kind of socket was pointed at this port.
    #[error("the peer is a \"{found}\" socket, it must be a {accepted}")]
    SocketTypeRefused {
        /// Its Socket-Type.
        found: Excerpt,
        /// The only one that is accepted.
        accepted: &'static str,
    },
    /// Peer misbehaved: an Identity is 0 to 255 bytes.
    #[error("READY has an Identity of {bytes} bytes, at most 255 are allowed")]
    IdentityTooLong {
        /// Its length.
        bytes: usize,
    },

    /// Peer misbehaved: a PING's or PONG's context MUST NOT exceed 16 bytes.
    #[error("a PING or PONG with a context of {bytes} bytes, at most 16 are allowed")]
    PingContextTooLong {
        /// Its length.
        bytes: usize,
    },

    /// Peer misbehaved: it sends PINGs, and does not prove itself.
    #[error("more than {pings_max} PINGs at once before the proof")]
    PingFlood {
        /// The limit.
        pings_max: usize,
    },

    /// Local: the caller goes on reading a connection that has failed. The first error said why.
    #[error("the ZMTP connection has failed already")]
    Closed,
}

/// A few bytes that a peer sent, made safe to print: escaped, so that they cannot forge a line of
/// the log, and cut.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Excerpt(Box<str>);

impl Excerpt {
    /// Bytes of the peer's text that are kept; each prints as at most four characters.
    pub const BYTES_MAX: usize = 64;

    pub(super) fn new(bytes: &[u8]) -> Self {
        let kept = &bytes[..bytes.len().min(Self::BYTES_MAX)];
        let ellipsis = if kept.len() < bytes.len() { "..." } else { "" };
        Self(format!("{}{ellipsis}", kept.escape_ascii()).into_boxed_str())
    }

    /// The escaped text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Excerpt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
