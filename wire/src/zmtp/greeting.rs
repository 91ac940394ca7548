//! The greeting: 64 bytes that each side sends first (RFC 37, "Formal Grammar").

use bytes::{Buf, BytesMut};

use super::command;
use super::error::{Excerpt, ZmtpError};
use super::ready::ExpectReady;
use super::{Progress, Role, Shared};

/// Bytes of a greeting.
pub(super) const GREETING_BYTES: usize = 64;

const SIGNATURE_FIRST: usize = 0;
const SIGNATURE_LAST: usize = 9;
const VERSION_MAJOR: usize = 10;
const VERSION_MINOR: usize = 11;
const MECHANISM: usize = 12;
const AS_SERVER: usize = 32;

/// NULL's name, padded to the length of the field.
const MECHANISM_NULL: &[u8; AS_SERVER - MECHANISM] = b"NULL\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0";

/// Appends our greeting: ZMTP 3.1, NULL, not as-server.
pub(super) fn put_greeting(out: &mut BytesMut) {
    let mut greeting = [0; GREETING_BYTES];
    greeting[SIGNATURE_FIRST] = 0xFF;
    greeting[SIGNATURE_LAST] = 0x7F;
    greeting[VERSION_MAJOR] = 3;
    greeting[VERSION_MINOR] = 1;
    greeting[MECHANISM..AS_SERVER].copy_from_slice(MECHANISM_NULL);
    out.extend_from_slice(&greeting);
}

/// Nothing, or a part of the other side's greeting, has been read.
#[derive(Debug)]
pub(super) struct ExpectGreeting;

impl ExpectGreeting {
    pub(super) fn handle_input(
        self,
        input: &mut BytesMut,
        shared: &mut Shared,
    ) -> Result<Progress<Self, ExpectReady>, ZmtpError> {
        check_prefix(&input[..input.len().min(GREETING_BYTES)])?;
        if input.len() < GREETING_BYTES {
            shared.bytes_wanted = GREETING_BYTES - input.len();
            return Ok(Progress::Waiting(self));
        }
        input.advance(GREETING_BYTES);
        // The side that connects sends READY first and the side that binds replies ("The NULL
        // Security Mechanism"), so an unauthenticated peer that has not said what it is gets no
        // more than the greeting.
        if shared.role == Role::Peer {
            command::put_ready(&mut shared.output.buffer, Role::Peer);
        }
        Ok(Progress::Done(ExpectReady))
    }
}

/// Checks as much of a greeting as there is, so that a wrong first byte is an error before the
/// second comes.
///
/// It begins anew at each call: 64 calls for 64 single bytes are 2080 comparisons, cheaper than the
/// reads.
fn check_prefix(greeting: &[u8]) -> Result<(), ZmtpError> {
    for (offset, &byte) in greeting.iter().enumerate() {
        match offset {
            SIGNATURE_FIRST if byte != 0xFF => return Err(ZmtpError::NotZmtp { offset, byte }),
            SIGNATURE_LAST if byte != 0x7F => return Err(ZmtpError::NotZmtp { offset, byte }),
            // "A peer MUST accept higher protocol versions as valid": the higher one downgrades, or
            // closes.
            VERSION_MAJOR if byte < 3 => return Err(ZmtpError::VersionTooOld { major: byte }),
            MECHANISM..AS_SERVER if byte != MECHANISM_NULL[offset - MECHANISM] => {
                return Err(mechanism_error(greeting));
            }
            AS_SERVER if byte != 0 => return Err(ZmtpError::AsServer { value: byte }),
            // The padding and the filler MUST NOT be interpreted, and any minor version will do.
            _ => {}
        }
    }
    Ok(())
}

fn mechanism_error(greeting: &[u8]) -> ZmtpError {
    let field = &greeting[MECHANISM..greeting.len().min(AS_SERVER)];
    let name_bytes = field.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
    ZmtpError::MechanismNotNull { mechanism: Excerpt::new(&field[..name_bytes]) }
}
