//! Bytes of one peer taken apart: frames, then opened records, then messages with their chunks. No
//! socket.

use bytes::{Bytes, BytesMut};
use furlong_wire::message::{Direction, MessageError, decode_next};
use furlong_wire::record::{RecordError, RecordOpener};
use furlong_wire::zmtp::{self, ZmtpError};

use crate::pass::NotPassed;

/// Room for one read, while nothing larger is announced. About a hundred small messages: enough to
/// make little of the read itself, few enough that what comes of them is under way while the next
/// ones are read. With 64 KiB, client, broker and engines worked by turns, and a farm of two
/// engines ran a third fewer no-ops a second.
const READ_BYTES: usize = 16 * 1024;

/// The bytes from one peer. They go into [`Inbox::room`], and [`Inbox::poll_record`] takes them
/// apart.
#[derive(Debug)]
pub struct Inbox {
    buffer: BytesMut,
    zmtp: zmtp::Connection,
    opener: RecordOpener,
}

/// One record, opened.
#[derive(Debug)]
pub struct Record {
    /// The batch of messages.
    pub batch: BytesMut,
    /// The chunk frames, each for one `Chunk` message of the batch, in order.
    pub chunks: Vec<BytesMut>,
}

impl Record {
    /// Its messages, each with the chunk that belongs to it. After an error there is no further
    /// item.
    pub fn into_messages<M: Direction>(self) -> Messages<M> {
        let chunks = self.chunks.into_iter();
        let direction = std::marker::PhantomData;
        Messages { batch: self.batch, decoded: 0, chunks, chunk: None, direction }
    }
}

/// The messages of a record, decoded as they are asked for.
#[derive(Debug)]
pub struct Messages<M> {
    batch: BytesMut,
    /// Bytes of the messages that were given.
    decoded: usize,
    chunks: std::vec::IntoIter<BytesMut>,
    /// The chunk of the message that was given last.
    chunk: Option<BytesMut>,
    direction: std::marker::PhantomData<fn() -> M>,
}

impl<M: Direction> Messages<M> {
    /// The next message, without the chunk that belongs to it: that is in [`Messages::chunk`] until
    /// the next call. Small messages are moved less often so than by the iterator.
    #[inline]
    pub fn next_message(&mut self) -> Option<Result<M, ReceiveError>> {
        let mut rest = &self.batch[self.decoded..];
        let next = decode_next::<M>(&mut rest);
        self.decoded = self.batch.len() - rest.len();
        match next {
            Some(Ok(message)) if message.chunk_transfer().is_none() => return Some(Ok(message)),
            Some(Ok(message)) => {
                self.chunk = self.chunks.next();
                if self.chunk.is_some() {
                    return Some(Ok(message));
                }
            }
            Some(Err(error)) => return Some(Err(self.fail(error.into()))),
            None if self.chunks.as_slice().is_empty() => return None,
            None => {}
        }
        Some(Err(self.fail(ReceiveError::ChunkCount)))
    }

    /// The chunk of the last message, once.
    #[inline]
    pub fn chunk(&mut self) -> Option<BytesMut> {
        self.chunk.take()
    }

    #[cold]
    fn fail(&mut self, error: ReceiveError) -> ReceiveError {
        self.decoded = self.batch.len();
        self.chunks = Vec::new().into_iter();
        error
    }
}

impl<M: Direction> Iterator for Messages<M> {
    type Item = Result<(M, Option<BytesMut>), ReceiveError>;

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        let message = self.next_message()?;
        Some(message.map(|message| (message, self.chunk())))
    }
}

impl Inbox {
    /// A stream whose handshake is done. `buffer` holds what was read beyond it.
    pub fn new(buffer: BytesMut, zmtp: zmtp::Connection, opener: RecordOpener) -> Self {
        Self { buffer, zmtp, opener }
    }

    /// The buffer to which the next bytes are appended, with room for them.
    pub fn room(&mut self) -> &mut BytesMut {
        let wanted = self.zmtp.bytes_wanted();
        // A large frame gets a buffer of its own size, so that its chunk keeps no more memory alive
        // than its own. The rest of a frame whose room is there already is read into that.
        let room = self.buffer.capacity() - self.buffer.len();
        if wanted == 0 || room < wanted {
            self.buffer.reserve(if wanted > READ_BYTES { wanted } else { READ_BYTES });
        }
        &mut self.buffer
    }

    /// Gives back the read buffer while there is nothing in it: an idle connection holds no memory.
    pub fn shrink(&mut self) {
        if self.buffer.is_empty() {
            self.buffer = BytesMut::new();
        }
    }

    /// The next record of what was read.
    ///
    /// # Errors
    /// The peer broke the protocol, or an attacker did: the connection must be closed.
    pub fn poll_record(&mut self) -> Result<Option<Record>, ReceiveError> {
        let Some(event) = self.zmtp.handle_input(&mut self.buffer)? else { return Ok(None) };
        let zmtp::Event::Message(message) = event else { return Err(ReceiveError::Order) };
        let zmtp::Message { envelope: mut batch, chunks } = message;
        self.opener.open(&mut batch, &chunks)?;
        Ok(Some(Record { batch, chunks }))
    }

    /// Bytes that the ZMTP codec wants sent, between two records.
    pub fn poll_codec_output(&mut self) -> Option<Bytes> {
        self.zmtp.poll_output()
    }
}

/// The reason that a peer's input is refused.
#[derive(Debug, thiserror::Error)]
pub enum ReceiveError {
    /// Not ZMTP, or beyond its limits.
    #[error(transparent)]
    Zmtp(#[from] ZmtpError),
    /// A frame that has no place here.
    #[error("a second READY")]
    Order,
    /// Forged, replayed, or out of order.
    #[error(transparent)]
    Record(#[from] RecordError),
    /// A batch that cannot be read.
    #[error(transparent)]
    Message(#[from] MessageError),
    /// As many chunk frames as `Chunk` messages must come.
    #[error("a record's chunks and its messages about them do not match")]
    ChunkCount,
    /// A memory file that is not here, or is not sound.
    #[error(transparent)]
    File(#[from] NotPassed),
}
