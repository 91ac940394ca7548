//! READY: the whole handshake of the NULL mechanism (RFC 37, "The NULL Security Mechanism").

use bytes::BytesMut;

use super::command::{self, Command};
use super::error::{Excerpt, ZmtpError};
use super::frame::Flags;
use super::open::Open;
use super::{Progress, Role, Shared};

/// Properties of a READY. libzmq and the `zeromq` crate send one or two.
const PROPERTIES_MAX: usize = 16;

/// Bytes of an Identity ("The Identity Property").
const IDENTITY_BYTES_MAX: usize = 255;

/// The greeting was good; READY is due.
#[derive(Debug)]
pub(super) struct ExpectReady;

impl ExpectReady {
    pub(super) fn handle_input(
        self,
        input: &mut BytesMut,
        shared: &mut Shared,
    ) -> Result<Progress<Self, Open>, ZmtpError> {
        let Some(flags) = Flags::read(input)? else { return Ok(Progress::Waiting(self)) };
        if !flags.is_command() {
            return Err(ZmtpError::MessageBeforeReady);
        }
        let Some(body) = command::take_command(flags, input, shared)? else {
            return Ok(Progress::Waiting(self));
        };
        match Command::parse(&body)? {
            Command::Ready { metadata } => {
                check_metadata(metadata, shared)?;
                if shared.role != Role::Peer {
                    command::put_ready(&mut shared.output.buffer, shared.role);
                }
                Ok(Progress::Done(Open::default()))
            }
            Command::Error { reason } => {
                Err(ZmtpError::RefusedByPeer { reason: Excerpt::new(reason) })
            }
            other => Err(ZmtpError::CommandBeforeReady { name: Excerpt::new(other.name()) }),
        }
    }
}

/// Checks the properties. Nothing of them is kept: the Identity names nobody here, so that a peer
/// cannot take another's place by announcing its name.
fn check_metadata(mut metadata: &[u8], shared: &mut Shared) -> Result<(), ZmtpError> {
    let mut socket_type = None;
    let mut properties = 0;
    while !metadata.is_empty() {
        properties += 1;
        if properties > PROPERTIES_MAX {
            return Err(ZmtpError::TooManyProperties { properties_max: PROPERTIES_MAX });
        }
        let (name, value) = take_property(&mut metadata)?;
        // "Metadata names SHALL be case-insensitive."
        if name.eq_ignore_ascii_case(b"Socket-Type") {
            if socket_type.replace(value).is_some() {
                return Err(ZmtpError::SocketTypeTwice);
            }
        } else if name.eq_ignore_ascii_case(b"Identity") && value.len() > IDENTITY_BYTES_MAX {
            return Err(ZmtpError::IdentityTooLong { bytes: value.len() });
        }
    }
    let accepted = shared.role.socket_type_accepted();
    let error = match socket_type {
        Some(found) if shared.role.accepts(found) => return Ok(()),
        Some(found) => ZmtpError::SocketTypeRefused { found: Excerpt::new(found), accepted },
        None => ZmtpError::SocketTypeMissing,
    };
    command::put_error(&mut shared.output.buffer);
    Err(error)
}

/// Takes a property, its name and value, from the front of the metadata.
fn take_property<'a>(metadata: &mut &'a [u8]) -> Result<(&'a [u8], &'a [u8]), ZmtpError> {
    let name_bytes = metadata.first().map_or(0, |len| usize::from(*len));
    let (name, rest) = command::split_short(metadata)
        .filter(|(name, _)| !name.is_empty() && name.iter().all(u8::is_ascii_graphic))
        .ok_or(ZmtpError::MalformedPropertyName { bytes: name_bytes })?;
    let (value, rest) =
        split_value(rest).ok_or(ZmtpError::MalformedPropertyValue { bytes_left: rest.len() })?;
    *metadata = rest;
    Ok((name, value))
}

/// Splits a string with a length of four bytes from the front.
fn split_value(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (len, rest) = bytes.split_first_chunk()?;
    rest.split_at_checked(usize::try_from(u32::from_be_bytes(*len)).ok()?)
}
