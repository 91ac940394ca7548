//! The socket from one peer: reads into its inbox, a turn at a time.

use bytes::{BufMut, Bytes, BytesMut};
use furlong_wire::record::RecordOpener;
use furlong_wire::zmtp;
use tokio::io::AsyncReadExt;

use crate::peer::inbox::{Inbox, ReceiveError, Record};
use crate::stream::ReadHalf;

/// Bytes read from one peer before all others have their turn, however much more of it is there.
/// Tokio alone lets a task go on for 128 reads of a socket that is always ready: 32 MiB of large
/// chunks, a tenth of a second.
const READ_TURN_BYTES: usize = 64 * 1024;

/// The stream from one peer. [`Incoming::read`] waits for bytes, [`Incoming::poll_record`] takes
/// them apart.
#[derive(Debug)]
pub struct Incoming {
    socket: ReadHalf,
    inbox: Inbox,
    /// Bytes read since the others had their turn.
    turn_bytes: usize,
}

impl Incoming {
    /// A stream whose handshake is done. `buffer` holds what was read beyond it.
    pub fn new(
        socket: ReadHalf,
        buffer: BytesMut,
        zmtp: zmtp::Connection,
        opener: RecordOpener,
    ) -> Self {
        Self { socket, inbox: Inbox::new(buffer, zmtp, opener), turn_bytes: 0 }
    }

    /// Waits for bytes and returns how many came; none at the end of the stream. Nothing is lost
    /// when it is dropped.
    ///
    /// # Errors
    /// The socket's: the connection is over.
    pub async fn read(&mut self) -> std::io::Result<usize> {
        if self.turn_bytes >= READ_TURN_BYTES {
            tokio::task::yield_now().await;
            self.turn_bytes = 0;
        }
        let room = self.inbox.room();
        let bytes = self.socket.read_buf(&mut room.limit(READ_TURN_BYTES)).await?;
        self.turn_bytes += bytes;
        Ok(bytes)
    }

    /// The next record of what was read.
    ///
    /// # Errors
    /// Those of [`Inbox::poll_record`].
    pub fn poll_record(&mut self) -> Result<Option<Record>, ReceiveError> {
        self.inbox.poll_record()
    }

    /// Bytes that the ZMTP codec wants sent, between two records.
    pub fn poll_codec_output(&mut self) -> Option<Bytes> {
        self.inbox.poll_codec_output()
    }

    /// Gives back the read buffer while there is nothing in it: an idle connection holds no memory.
    pub fn shrink(&mut self) {
        self.inbox.shrink();
    }
}
