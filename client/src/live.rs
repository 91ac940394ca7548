//! The streams of a running task: its output and what it publishes.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use furlong_wire::ids::{EngineId, TaskSeq};
use furlong_wire::message::{Event, Stream as OutputKind};
use futures_util::Stream;

use crate::core::bounded_queues::Fed;
use crate::core::subscriptions::Piece;
use crate::error::Disconnected;
use crate::outcome::{PayloadFailure, Published};
use crate::shared::Handle;

/// A piece of a task's output.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct OutputPiece {
    /// The attempt at the task that wrote it, from 1: what a later one writes replaces what an
    /// earlier one wrote.
    pub attempt: u32,
    /// The engine that runs that attempt.
    pub engine: EngineId,
    /// Standard output, or standard error.
    pub stream: OutputKind,
    /// The number of bytes of this stream that came before, those that were left out included.
    pub offset: u64,
    /// Bytes before this piece that were left out: not kept, or dropped as the reader was slow.
    pub left_out: u64,
    /// The bytes, as written. Pieces are cut anywhere, in the middle of a character, too.
    pub bytes: Bytes,
}

/// A task's output as it comes: a [`Stream`] of [`OutputPiece`]s, which ends with the task, or the
/// connection.
///
/// The backlog of a slow reader is bounded at 8 MiB; beyond, the oldest pieces go, and the next one
/// says how much is missing before it. The task's report has its beginning and its end in any case.
#[derive(Debug)]
#[must_use = "nothing is read before the stream is polled"]
pub struct OutputStream {
    handle: Arc<Handle>,
    n: TaskSeq,
    feed: usize,
    progress: Progress,
}

impl OutputStream {
    pub(crate) fn new(handle: Arc<Handle>, n: TaskSeq, feed: usize) -> Self {
        Self { handle, n, feed, progress: Progress::default() }
    }
}

impl Stream for OutputStream {
    type Item = OutputPiece;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<OutputPiece>> {
        let Self { handle, feed, progress, .. } = &mut *self;
        poll_output(handle, *feed, progress, context)
    }
}

impl Drop for OutputStream {
    fn drop(&mut self) {
        drop(self.handle.shared.with(|core| core.forget_output(self.n, self.feed)));
    }
}

/// The progress of a reader in the two streams of one attempt.
#[derive(Debug, Default)]
pub(crate) struct Progress {
    attempt: u32,
    stdout: u64,
    stderr: u64,
}

impl Progress {
    /// The piece as a reader sees it. None if it has nothing new.
    fn advance(&mut self, piece: Piece) -> Option<OutputPiece> {
        let Piece { attempt, engine, stream, mut offset, mut bytes } = piece;
        if attempt != self.attempt {
            *self = Self { attempt, ..Self::default() };
        }
        let seen = match stream {
            OutputKind::Stdout => &mut self.stdout,
            OutputKind::Stderr => &mut self.stderr,
        };
        let known =
            usize::try_from(seen.saturating_sub(offset)).unwrap_or(usize::MAX).min(bytes.len());
        bytes = bytes.split_off(known);
        offset += known as u64;
        // An empty piece beyond what has come shows that the end is missing.
        if bytes.is_empty() && offset <= *seen {
            return None;
        }
        let left_out = offset.saturating_sub(*seen);
        *seen = offset + bytes.len() as u64;
        Some(OutputPiece { attempt, engine, stream, offset, left_out, bytes })
    }
}

pub(crate) fn poll_output(
    handle: &Handle,
    feed: usize,
    progress: &mut Progress,
    context: &Context<'_>,
) -> Poll<Option<OutputPiece>> {
    loop {
        let mut replaced = None;
        match ready!(handle.shared.with(|core| core.poll_output(
            feed,
            context.waker(),
            &mut replaced
        ))) {
            Fed::Item(piece) => {
                if let Some(piece) = progress.advance(piece) {
                    return Poll::Ready(Some(piece));
                }
            }
            // The next piece's offset says it better.
            Fed::Missed(_) => {}
            Fed::Over => return Poll::Ready(None),
        }
    }
}

/// The data that a task publishes, as they come: a [`Stream`] which ends with the task, or the
/// connection.
///
/// The backlog of a slow reader is bounded at 64 MiB; beyond, the oldest data go. A task that is
/// tried again publishes again.
#[derive(Debug)]
#[must_use = "nothing is read before the stream is polled"]
pub struct PublishedStream {
    handle: Arc<Handle>,
    n: TaskSeq,
    feed: usize,
}

impl PublishedStream {
    pub(crate) fn new(handle: Arc<Handle>, n: TaskSeq, feed: usize) -> Self {
        Self { handle, n, feed }
    }
}

impl Stream for PublishedStream {
    type Item = Result<Published, PayloadFailure>;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        loop {
            let mut replaced = None;
            let shared = &self.handle.shared;
            match ready!(shared.with(|core| core.poll_published(
                self.feed,
                context.waker(),
                &mut replaced
            ))) {
                Fed::Item(publication) => return Poll::Ready(Some(publication)),
                Fed::Missed(_) => {}
                Fed::Over => return Poll::Ready(None),
            }
        }
    }
}

impl Drop for PublishedStream {
    fn drop(&mut self) {
        drop(self.handle.shared.with(|core| core.forget_published(self.n, self.feed)));
    }
}

/// The events of the cluster: a [`Stream`] of [`Event`]s, from [`crate::Client::subscribe`].
///
/// The backlog of a slow reader is bounded; beyond, the oldest events go, and
/// [`EventsError::Missed`] says how many. After [`EventsError::Disconnected`] the stream ends.
#[derive(Debug)]
#[must_use = "nothing is read before the stream is polled"]
pub struct Events {
    handle: Arc<Handle>,
    feed: usize,
    is_over: bool,
}

/// The error that comes in place of events.
#[derive(Clone, Debug, thiserror::Error)]
pub enum EventsError {
    /// The reader was too slow.
    #[error(
        "{0} events were missed, as they were not read in time; ask for the cluster's status to know what is"
    )]
    Missed(u64),
    /// The connection is over.
    #[error(transparent)]
    Disconnected(Arc<Disconnected>),
}

impl Events {
    pub(crate) fn new(handle: Arc<Handle>, feed: usize) -> Self {
        Self { handle, feed, is_over: false }
    }
}

impl Stream for Events {
    type Item = Result<Event, EventsError>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if self.is_over {
            return Poll::Ready(None);
        }
        let mut replaced = None;
        let polled = self.handle.shared.with(|core| {
            let fed = core.poll_event(self.feed, context.waker(), &mut replaced);
            fed.map(|fed| (fed, core.why_over()))
        });
        Poll::Ready(match ready!(polled) {
            (Fed::Item(event), _) => Some(Ok(event)),
            (Fed::Missed(events), _) => Some(Err(EventsError::Missed(events))),
            (Fed::Over, why) => {
                self.is_over = true;
                why.map(|why| Err(EventsError::Disconnected(why)))
            }
        })
    }
}

impl Drop for Events {
    fn drop(&mut self) {
        drop(self.handle.shared.with(|core| core.unsubscribe(self.feed)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn piece(attempt: u32, offset: u64, bytes: &'static [u8]) -> Piece {
        Piece {
            attempt,
            engine: EngineId(0),
            stream: OutputKind::Stdout,
            offset,
            bytes: Bytes::from_static(bytes),
        }
    }

    #[test]
    fn a_reader_sees_no_byte_twice_and_every_gap() {
        let mut progress = Progress::default();
        let mut read = |attempt, offset, bytes| {
            let seen = progress.advance(piece(attempt, offset, bytes));
            seen.map(|piece| (piece.offset, piece.left_out, piece.bytes))
        };
        assert_eq!(read(1, 0, b"one "), Some((0, 0, "one ".into())));
        assert_eq!(read(1, 2, b"e two"), Some((4, 0, "two".into())));
        assert_eq!(read(1, 0, b"one "), None);
        assert_eq!(read(1, 10, b"three"), Some((10, 3, "three".into())));
        assert_eq!(read(2, 0, b"one"), Some((0, 0, "one".into())));
        assert_eq!(read(2, 3, b""), None);
        assert_eq!(read(2, 9, b""), Some((9, 6, "".into())));
    }
}
