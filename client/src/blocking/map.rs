//! Maps.

use std::time::Duration;

use furlong_wire::message::Runtime;
use futures_util::StreamExt;

use super::check_outside;
use super::park::{block_on, block_on_for};
use crate::error::ClientError;
use crate::map::{IterMapBuilder, MapInput, MapItem};
use crate::options::option_setters;

/// A map, before it begins. See [`crate::MapBuilder`].
#[derive(Debug)]
#[must_use = "nothing is submitted before the iterator is used"]
pub struct MapBuilder<I> {
    builder: IterMapBuilder<I>,
}

impl<I> MapBuilder<I>
where
    I: Iterator,
    I::Item: MapInput,
{
    pub(super) fn new(builder: IterMapBuilder<I>) -> Self {
        Self { builder }
    }

    /// Sets what runs the function, if that is not plain from its name.
    pub fn runtime(self, runtime: Runtime) -> Self {
        Self { builder: self.builder.runtime(runtime) }
    }

    /// Sets the maximum number of items in flight.
    pub fn window(self, window: usize) -> Self {
        Self { builder: self.builder.window(window) }
    }

    /// Sets whether results come in the order of the items.
    pub fn ordered(self, ordered: bool) -> Self {
        Self { builder: self.builder.ordered(ordered) }
    }

    /// Sets whether work in flight is cancelled when the iterator is dropped before its end.
    pub fn cancel_on_drop(self, cancel: bool) -> Self {
        Self { builder: self.builder.cancel_on_drop(cancel) }
    }

    option_setters!(builder.settings);

    /// The results. Items are taken as there is room for them, while the results are taken.
    pub fn start(self) -> Result<MapIter<I>, ClientError> {
        check_outside()?;
        Ok(MapIter { stream: self.builder.stream()? })
    }
}

/// The results of a map. See [`crate::MapStream`].
#[derive(Debug)]
#[must_use = "nothing is submitted before the iterator is used"]
pub struct MapIter<I> {
    stream: crate::MapStream<futures_util::stream::Iter<I>>,
}

impl<I> MapIter<I> {
    /// Cancels what is under way, and takes no more items. Their ends still come.
    pub fn cancel(&mut self) {
        self.stream.cancel();
    }

    /// Cancels; with `force`, an interpreter that does not respond to the interrupt is killed.
    pub fn cancel_with(&mut self, force: bool) {
        self.stream.cancel_with(force);
    }

    /// Takes no more items; what is under way goes on, and its results come.
    pub fn stop(&mut self) {
        self.stream.stop();
    }
}

impl<I> MapIter<I>
where
    I: Iterator,
    I::Item: MapInput,
{
    /// The next result like [`Iterator::next`], but waits not longer than `timeout`; none if none
    /// has come by then.
    pub fn next_timeout(&mut self, timeout: Duration) -> Option<Option<MapItem>> {
        block_on_for(self.stream.next(), timeout)
    }
}

impl<I> Iterator for MapIter<I>
where
    I: Iterator,
    I::Item: MapInput,
{
    type Item = MapItem;

    fn next(&mut self) -> Option<MapItem> {
        block_on(self.stream.next())
    }
}
