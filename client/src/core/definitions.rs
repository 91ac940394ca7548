//! Functions that are sent once a session, and then named by number.

use std::sync::Arc;

use bytes::Bytes;
use furlong_wire::call::{Call as HeaderCall, CallHeader, decode_header, encode_header};
use furlong_wire::ids::FunctionHash;
use furlong_wire::message::{Define, FromClient};
use furlong_wire::os_text::OsText;
use furlong_wire::payload::Packed;
use serde_bytes::ByteBuf;

use super::{Call, Content, Core};
use crate::error::ClientError;

/// Definitions that a session makes of functions; what comes later goes with each of its calls.
const FUNCTIONS_MAX: usize = 4000;
/// Definitions that a session makes; the broker bounds them at 4096.
const DEFINITIONS_MAX: usize = 4090;

/// What is sent once a session.
#[derive(Debug)]
pub struct Definition {
    /// What tells it from others.
    pub hash: FunctionHash,
    /// The text, or whatever it is.
    pub source: Bytes,
    /// What does without it.
    pub instead: Option<Instead>,
}

/// How to call a function that finds no room among the definitions.
#[derive(Debug)]
pub struct Instead {
    /// The function, for the header of each call.
    pub function: Bytes,
    /// The definition that is needed all the same.
    pub definition: Option<Arc<Definition>>,
}

impl Definition {
    /// One that calls cannot do without.
    pub fn new(hash: FunctionHash, source: Bytes) -> Self {
        Self { hash, source, instead: None }
    }
}

impl Core {
    /// Puts the function into the call's header if the session has defined so many that this one finds no room.
    pub(super) fn do_without_definition(&self, call: &mut Call) {
        let Some(definition) = &call.definition else { return };
        if self.definitions.len() < FUNCTIONS_MAX || self.definitions.contains_key(&definition.hash) {
            return;
        }
        let (Some(instead), Content::Buffers(header, _)) = (&definition.instead, &mut call.content) else { return };
        let Ok(mut decoded) = decode_header::<CallHeader>(header) else { return };
        match &mut decoded.call {
            HeaderCall::Source { source, .. } => {
                *source = Some(OsText::from_bytes(instead.function.to_vec()));
            }
            HeaderCall::Pickled(pickled) => pickled.blob = Some(ByteBuf::from(&instead.function[..])),
            _ => return,
        }
        *header = encode_header(&decoded).into();
        call.definition = instead.definition.clone();
    }

    /// The number of a definition, and what is to be sent if the broker does not have it.
    pub(super) fn define(&mut self, definition: &Definition) -> Result<(u32, Option<Packed>), ClientError> {
        if let Some((number, _)) = self.definitions.get(&definition.hash) {
            return Ok((*number, None));
        }
        if self.definitions.len() >= DEFINITIONS_MAX {
            return Err(ClientError::TooManyFunctions { functions_max: DEFINITIONS_MAX });
        }
        let number = self.definitions.len() as u32 + 1;
        Ok((number, Some(self.sealer.pack(vec![definition.source.clone()])?)))
    }

    pub(super) fn send_definition(&mut self, number: u32, packed: Packed) {
        self.send_payload(packed, |payload| FromClient::Define(Define { number, payload }));
    }
}
