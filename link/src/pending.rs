//! A connection before its peer is proved: small buffers, single frames, nothing kept.

use bytes::{BufMut, BytesMut};
use furlong_wire::limits::PREAUTH_BUFFER_BYTES_MAX;
use furlong_wire::record::RecordOpener;
use furlong_wire::zmtp::{self, Event, Role, ZmtpError, put_frame_header};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::incoming::Incoming;
use crate::stream::{ReadHalf, WriteHalf};

/// A connection that speaks ZMTP and carries the messages of a handshake.
///
/// The order of calls: [`PendingPeer::ready`], then [`PendingPeer::send`] and
/// [`PendingPeer::receive`] as the handshake has it, then [`PendingPeer::prove`]. Deadlines are the
/// caller's: dropping the future closes the connection.
#[derive(Debug)]
pub struct PendingPeer {
    read: ReadHalf,
    write: WriteHalf,
    buffer: BytesMut,
    zmtp: zmtp::Connection,
}

impl PendingPeer {
    /// Takes a fresh connection.
    pub fn new((read, write): (ReadHalf, WriteHalf), role: Role) -> Self {
        Self { read, write, buffer: BytesMut::new(), zmtp: zmtp::Connection::new(role) }
    }

    /// Exchanges greetings and READY.
    pub async fn ready(&mut self) -> Result<(), PendingError> {
        match self.event().await? {
            Event::Ready => self.flush().await,
            Event::Message(_) => Err(PendingError::Order),
        }
    }

    /// The next message, which has one frame.
    pub async fn receive(&mut self) -> Result<BytesMut, PendingError> {
        match self.event().await? {
            Event::Message(message) => Ok(message.envelope),
            Event::Ready => Err(PendingError::Order),
        }
    }

    /// Waits until the peer leaves. What it says meanwhile is kept, as far as there is room for it.
    pub async fn left(&mut self) -> PendingError {
        loop {
            let room = PREAUTH_BUFFER_BYTES_MAX.saturating_sub(self.buffer.len());
            if room == 0 {
                return std::future::pending().await;
            }
            match self.read.read_buf(&mut (&mut self.buffer).limit(room)).await {
                Ok(0) => return PendingError::Closed,
                Ok(_) => {}
                Err(error) => return error.into(),
            }
        }
    }

    /// Sends a message of one frame.
    pub async fn send(&mut self, message: &[u8]) -> Result<(), PendingError> {
        let mut frame = BytesMut::with_capacity(message.len() + zmtp::FRAME_HEADER_BYTES_MAX);
        put_frame_header(&mut frame, message.len(), false);
        frame.extend_from_slice(message);
        self.write.write_all(&frame).await?;
        Ok(())
    }

    /// The peer is proved: from here on there are records, with their larger limits.
    pub fn prove(mut self, opener: RecordOpener) -> (Incoming, WriteHalf) {
        self.zmtp.peer_proved();
        (Incoming::new(self.read, self.buffer, self.zmtp, opener), self.write)
    }

    async fn event(&mut self) -> Result<Event, PendingError> {
        loop {
            let event = self.zmtp.handle_input(&mut self.buffer);
            // Also after an error: the codec may have an ERROR for the peer.
            let flushed = self.flush().await;
            if let Some(event) = event? {
                return Ok(event);
            }
            flushed?;
            let room = PREAUTH_BUFFER_BYTES_MAX - self.buffer.len();
            if self.read.read_buf(&mut (&mut self.buffer).limit(room)).await? == 0 {
                return Err(PendingError::Closed);
            }
        }
    }

    async fn flush(&mut self) -> Result<(), PendingError> {
        while let Some(bytes) = self.zmtp.poll_output() {
            self.write.write_all(&bytes).await?;
        }
        Ok(())
    }
}

/// The reason that a connection ended before its peer was proved.
#[derive(Debug, thiserror::Error)]
pub enum PendingError {
    /// Not ZMTP, or beyond its limits.
    #[error(transparent)]
    Zmtp(#[from] ZmtpError),
    /// A message where READY was due, or the other way round.
    #[error("a message of the handshake came out of order")]
    Order,
    /// The other side closed.
    #[error("the other side closed the connection")]
    Closed,
    /// The socket failed.
    #[error(transparent)]
    Io(#[from] std::io::Error),
}
