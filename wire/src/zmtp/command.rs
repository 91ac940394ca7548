//! Commands: one frame with a name and data (RFC 37, "Commands").

use bytes::{BufMut, BytesMut};

use super::error::ZmtpError;
use super::frame::{Flags, put_header};
use super::{Role, Shared};

/// Bytes of a command's body. The longest that a DEALER or ROUTER has reason to send is a READY
/// with an Identity of 255 bytes: `6 + 22 + 268 = 296`. The rest is for properties that we ignore,
/// such as libzmq's `X-` metadata.
pub(super) const COMMAND_BYTES_MAX: usize = 512;

/// Bytes of the context of a PING or PONG ("Connection Heartbeating").
const PING_CONTEXT_BYTES_MAX: usize = 16;

/// PONGs that wait to be sent: "a peer should not send more than a small number of PING commands
/// without receiving PONG replies". Those beyond are left without an answer, or end an
/// unauthenticated peer's connection.
pub(super) const PONGS_PENDING_MAX: usize = 8;

/// The reason sent to a peer whose Socket-Type we refuse. No spaces: RFC 37's grammar has only
/// visible characters here.
const REFUSAL: &[u8] = b"Socket-Type-not-accepted";

/// Takes the command at the front of `input` from there; `None` if it is not complete.
pub(super) fn take_command(
    flags: Flags,
    input: &mut BytesMut,
    shared: &mut Shared,
) -> Result<Option<BytesMut>, ZmtpError> {
    let Some(frame) = flags.frame(input) else { return Ok(None) };
    let frame = frame.within(COMMAND_BYTES_MAX).ok_or(ZmtpError::CommandTooLong {
        bytes: frame.body_bytes,
        bytes_max: COMMAND_BYTES_MAX,
    })?;
    Ok(frame.take(input, &mut shared.bytes_wanted))
}

/// A command, its data checked as far as that depends on the command alone.
pub(super) enum Command<'a> {
    Ready { metadata: &'a [u8] },
    Error { reason: &'a [u8] },
    Ping { context: &'a [u8] },
    Pong,
    Other { name: &'a [u8] },
}

impl<'a> Command<'a> {
    pub(super) fn parse(body: &'a [u8]) -> Result<Self, ZmtpError> {
        let malformed = ZmtpError::MalformedCommand { bytes: body.len() };
        let Some((name, data)) = split_short(body) else { return Err(malformed) };
        match name {
            b"" => Err(malformed),
            b"READY" => Ok(Self::Ready { metadata: data }),
            b"ERROR" => match split_short(data) {
                Some((reason, [])) => Ok(Self::Error { reason }),
                _ => Err(malformed),
            },
            b"PING" => {
                // The time-to-live is a hint to hang up early on a silent peer; our own heartbeat
                // does that for everyone.
                let Some((_ttl, context)) = data.split_at_checked(2) else { return Err(malformed) };
                check_context(context).map(|()| Self::Ping { context })
            }
            b"PONG" => check_context(data).map(|()| Self::Pong),
            name => Ok(Self::Other { name }),
        }
    }

    pub(super) fn name(&self) -> &'a [u8] {
        match self {
            Self::Ready { .. } => b"READY",
            Self::Error { .. } => b"ERROR",
            Self::Ping { .. } => b"PING",
            Self::Pong => b"PONG",
            Self::Other { name } => name,
        }
    }
}

/// Splits a string with a length of one byte from the front.
pub(super) fn split_short(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (&len, rest) = bytes.split_first()?;
    rest.split_at_checked(usize::from(len))
}

fn check_context(context: &[u8]) -> Result<(), ZmtpError> {
    if context.len() > PING_CONTEXT_BYTES_MAX {
        return Err(ZmtpError::PingContextTooLong { bytes: context.len() });
    }
    Ok(())
}

/// Appends READY with our Socket-Type. We announce no Identity: the broker would ignore it.
pub(super) fn put_ready(out: &mut BytesMut, role: Role) {
    const NAME: &[u8] = b"Socket-Type";
    let value = role.socket_type().as_bytes();
    put_name(out, b"READY", 1 + NAME.len() + 4 + value.len());
    out.put_u8(NAME.len() as u8);
    out.put_slice(NAME);
    out.put_u32(value.len() as u32);
    out.put_slice(value);
}

/// Appends the ERROR that a peer with the wrong Socket-Type SHOULD get ("The Socket-Type
/// Property").
pub(super) fn put_error(out: &mut BytesMut) {
    put_name(out, b"ERROR", 1 + REFUSAL.len());
    out.put_u8(REFUSAL.len() as u8);
    out.put_slice(REFUSAL);
}

/// Appends the answer to a PING.
pub(super) fn put_pong(out: &mut BytesMut, context: &[u8]) {
    put_name(out, b"PONG", context.len());
    out.put_slice(context);
}

/// Appends a command's header and name; `data_bytes` of data come next.
fn put_name(out: &mut BytesMut, name: &[u8], data_bytes: usize) {
    put_header(out, Flags::COMMAND, 1 + name.len() + data_bytes);
    out.put_u8(name.len() as u8);
    out.put_slice(name);
}
