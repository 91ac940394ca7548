//! A call on its way to the wire: its content is buffers first, then packed, once.

use std::sync::Arc;

use bytes::Bytes;
use furlong_wire::message::{Runtime, Targets, TaskOptions};
use furlong_wire::payload::{Packed, PayloadSealer};

use super::definitions::Definition;
use crate::error::ClientError;

/// A call, ready to be submitted. After a refusal it can be submitted again.
#[derive(Debug)]
pub struct Call {
    pub targets: Targets,
    pub runtime: Runtime,
    pub class: u32,
    pub definition: Option<Arc<Definition>>,
    pub options: Option<Box<TaskOptions>>,
    pub content: Content,
}

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

impl Call {
    /// Returns true if its results stay at the broker.
    pub(super) fn stays(&self) -> bool {
        self.runtime == Runtime::Value || self.options.as_ref().is_some_and(|it| it.stay)
    }
}

/// The number of tasks that a submit makes.
pub(super) fn task_count(targets: &Targets) -> u64 {
    match targets {
        Targets::Shared => 1,
        Targets::Engines(engines) => engines.len() as u64,
    }
}
