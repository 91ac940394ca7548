//! The content of a call on its way to the wire: buffers first, then packed, once.

use bytes::Bytes;
use furlong_wire::payload::{Packed, PayloadSealer};

use crate::error::ClientError;

/// Call header and arguments.
#[derive(Debug)]
pub enum Content {
    /// Not yet packed.
    Buffers(Bytes, Vec<Bytes>),
    /// For the wire.
    Packed(Packed),
}

impl Content {
    /// Prepares the buffers for the wire, once. Returns the bytes that count against the credit.
    pub(super) fn pack(&mut self, sealer: &mut PayloadSealer) -> Result<u64, ClientError> {
        // Once, though the submit may be refused and tried again: what is packed has its number
        // under the session's key already.
        if let Self::Buffers(header, data) = self {
            *self = Self::Packed(
                sealer.pack_with_header(std::mem::take(header), std::mem::take(data))?,
            );
        }
        Ok(match self {
            Self::Packed(packed) => announced_bytes(packed),
            Self::Buffers(..) => unreachable!("it was packed a moment ago"),
        })
    }

    /// Gives the content away, for the wire.
    pub(super) fn take(&mut self, sealer: &mut PayloadSealer) -> Result<Packed, ClientError> {
        match std::mem::replace(self, Self::Buffers(Bytes::new(), Vec::new())) {
            Self::Packed(packed) => Ok(packed),
            Self::Buffers(header, data) => Ok(sealer.pack_with_header(header, data)?),
        }
    }
}

/// Bytes that count against the credit: those of chunks.
pub(super) fn announced_bytes(packed: &Packed) -> u64 {
    match packed {
        Packed::Inline(_) => 0,
        Packed::Chunked(sealed) => sealed.bytes(),
    }
}
