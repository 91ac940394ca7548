//! Streams as iterators that wait.

use std::time::Duration;

use futures_util::{Stream, StreamExt};

use super::check_outside;
use super::park::{block_on, block_on_for};
use crate::error::ClientError;
use crate::live::OutputPiece;
use crate::owner::Fetched;

/// An iterator over what comes by and by: it waits for the next item.
///
/// Output is an `Iter<OutputStream>`, what a task publishes an `Iter<PublishedStream>`, events are
/// an `Iter<Events>`, records an `Iter<TaskRecords>`: what the items mean is said at these.
#[derive(Debug)]
#[must_use = "nothing is read before it is used"]
pub struct Iter<S> {
    stream: S,
}

impl<S: Stream + Unpin> Iter<S> {
    pub(super) fn new(stream: S) -> Self {
        Self { stream }
    }

    /// The next item like [`Iterator::next`], but waits not longer than `timeout`; none if none has
    /// come by then.
    pub fn next_timeout(&mut self, timeout: Duration) -> Option<Option<S::Item>> {
        block_on_for(self.stream.next(), timeout)
    }
}

impl<S: Stream + Unpin> Iterator for Iter<S> {
    type Item = S::Item;

    fn next(&mut self) -> Option<S::Item> {
        block_on(self.stream.next())
    }
}

/// A task that is followed: an iterator over its output, which ends with the task. See
/// [`crate::Follow`].
#[derive(Debug)]
#[must_use = "nothing is read before it is used"]
pub struct Follow {
    follow: crate::Follow,
}

impl Follow {
    pub(super) fn new(follow: crate::Follow) -> Self {
        Self { follow }
    }

    /// The next piece like [`Iterator::next`], but waits not longer than `timeout`; none if none
    /// has come by then.
    pub fn next_timeout(&mut self, timeout: Duration) -> Option<Option<OutputPiece>> {
        block_on_for(self.follow.next(), timeout)
    }

    /// The task as it ended: waits until it does.
    pub fn ended(self) -> Result<Fetched, ClientError> {
        check_outside()?;
        block_on(self.follow.ended())
    }
}

impl Iterator for Follow {
    type Item = OutputPiece;

    fn next(&mut self) -> Option<OutputPiece> {
        block_on(self.follow.next())
    }
}
