//! Traffic after READY: messages, with PINGs between them.

use bytes::BytesMut;

use super::command::{self, Command, PONGS_PENDING_MAX};
use super::error::{Excerpt, ZmtpError};
use super::frame::{BoundedFrame, Flags, Frame};
use super::{Limits, Message, Output, Shared};

/// Greeting and READY are done; messages flow.
#[derive(Debug, Default)]
pub(super) struct Open {
    /// The frames so far of a message that is not complete: at most `frames_max`.
    partial: Option<Message>,
    /// Bytes of those frames: at most `message_bytes_max`.
    partial_bytes: usize,
}

impl Open {
    /// Takes the next whole message from the front of `input`, answering the PINGs before it.
    ///
    /// libzmq may send a PING between two frames of one message, although RFC 37's grammar has none
    /// there: it is answered.
    pub(super) fn handle_input(
        &mut self,
        input: &mut BytesMut,
        shared: &mut Shared,
    ) -> Result<Option<Message>, ZmtpError> {
        while let Some(flags) = Flags::read(input)? {
            if flags.is_command() {
                let Some(body) = command::take_command(flags, input, shared)? else { break };
                handle_command(&body, shared.limits, &mut shared.output)?;
                continue;
            }
            self.check_frames(flags, shared.limits)?;
            let Some(frame) = flags.frame(input) else { break };
            let frame = self.check_bytes(frame, shared.limits)?;
            let Some(body) = frame.take(input, &mut shared.bytes_wanted) else { break };
            if let Some(message) = self.append(body, flags.has_more()) {
                return Ok(Some(message));
            }
        }
        Ok(None)
    }

    /// Refuses a frame that promises more frames than a message may have. Empty frames count: they
    /// too cost a place.
    fn check_frames(&self, flags: Flags, limits: Limits) -> Result<(), ZmtpError> {
        let frames_before = self.partial.as_ref().map_or(0, |partial| 1 + partial.chunks.len());
        if flags.has_more() && frames_before + 1 >= limits.frames_max {
            return Err(ZmtpError::TooManyFrames { frames_max: limits.frames_max });
        }
        Ok(())
    }

    /// Refuses a declared length that would make the message too long, before its bytes come.
    fn check_bytes(&self, frame: Frame, limits: Limits) -> Result<BoundedFrame, ZmtpError> {
        let bytes_max = limits.message_bytes_max;
        frame.within(bytes_max.saturating_sub(self.partial_bytes)).ok_or_else(|| {
            let bytes = frame.body_bytes.saturating_add(self.partial_bytes as u64);
            ZmtpError::MessageTooLong { bytes, bytes_max }
        })
    }

    /// Adds a frame; the message, if that was its last one. A message of one frame passes through
    /// without an allocation.
    fn append(&mut self, body: BytesMut, more: bool) -> Option<Message> {
        let bytes = body.len();
        let message = match self.partial.take() {
            None => Message { envelope: body, chunks: Vec::new() },
            Some(mut partial) => {
                partial.chunks.push(body);
                partial
            }
        };
        if more {
            self.partial = Some(message);
            self.partial_bytes += bytes;
            return None;
        }
        self.partial_bytes = 0;
        Some(message)
    }
}

/// RFC 37 has no rule for commands that a socket does not know. We close: none that a DEALER or
/// ROUTER sends is missing here, and to ignore them would be a free channel for a flood.
fn handle_command(body: &[u8], limits: Limits, output: &mut Output) -> Result<(), ZmtpError> {
    match Command::parse(body)? {
        Command::Ping { context } => {
            // One read may bring many, if this process has stood still. The answers to the first
            // say that it is back.
            if output.pongs_pending < PONGS_PENDING_MAX {
                output.pongs_pending += 1;
                command::put_pong(&mut output.buffer, context);
            } else if !limits.passes_pings {
                return Err(ZmtpError::PingFlood { pings_max: PONGS_PENDING_MAX });
            }
            Ok(())
        }
        Command::Pong => Ok(()),
        Command::Ready { .. } => Err(ZmtpError::SecondReady),
        Command::Error { reason } => Err(ZmtpError::RefusedByPeer { reason: Excerpt::new(reason) }),
        Command::Other { name } => Err(ZmtpError::UnknownCommand { name: Excerpt::new(name) }),
    }
}
