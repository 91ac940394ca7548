//! The data waiting to be written to the interpreter.

use std::collections::VecDeque;
use std::io;

use bytes::{Buf, Bytes, BytesMut};

use super::protocol::{Control, Request, put_request_header};
use super::requests::Requests;

/// Frames in order: small ones gathered into one write, the buffers of large ones as they are.
#[derive(Debug, Default)]
pub(super) struct Outbox {
    pieces: VecDeque<Bytes>,
    small: BytesMut,
}

impl Outbox {
    /// Queues a job.
    pub(super) fn push(&mut self, request: Request) {
        if request.is_large() {
            self.close_small();
            self.pieces.extend(request.into_pieces());
        } else {
            request.encode_small(&mut self.small);
        }
    }

    /// Queues a control message.
    pub(super) fn push_control(&mut self, control: Control) {
        control.encode(&mut self.small);
    }

    /// Queues a control message with a body.
    pub(super) fn push_frame(&mut self, number: u64, kind: u8, flags: u8, body: &[u8]) {
        put_request_header(&mut self.small, body.len(), number, kind, flags, 0, 0);
        self.small.extend_from_slice(body);
    }

    /// Returns true if everything was written.
    pub(super) fn is_empty(&self) -> bool {
        self.pieces.is_empty() && self.small.is_empty()
    }

    /// Writes as much as the socket takes now.
    pub(super) fn write_to(&mut self, requests: &mut Requests) -> io::Result<()> {
        self.close_small();
        while let Some(piece) = self.pieces.front_mut() {
            match requests.try_write(piece) {
                Ok(written) => piece.advance(written),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error),
            }
            if piece.is_empty() {
                self.pieces.pop_front();
            }
        }
        requests.forget_room();
        Ok(())
    }

    fn close_small(&mut self) {
        if !self.small.is_empty() {
            self.pieces.push_back(self.small.split().freeze());
        }
    }
}
