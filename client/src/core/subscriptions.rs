//! Subscriptions of single-task handles beyond the end: output and intermediate data as they come,
//! and whether a cancelled task still runs. Most tasks have no such handle, and cost nothing here.

use std::collections::BTreeMap;
use std::task::Poll;

use bytes::Bytes;
use furlong_wire::ids::{EngineId, TaskSeq};
use furlong_wire::message::{
    ErrorKind, Event, FromClient, Published as PublishedMessage, Stream, Subscribe,
};

use super::bounded_queues::{Fed, Weigh};
use super::results::{Body, Recipient};
use super::tasks::{Completion, CompletionKind};
use super::{Core, Outbound, Waiter};
use crate::error::ClientError;
use crate::outcome::{PayloadFailure, Published, read_published};

/// A piece of output, as it came.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Piece {
    pub attempt: u32,
    pub engine: EngineId,
    pub stream: Stream,
    pub offset: u64,
    pub bytes: Bytes,
}

/// Intermediate data, or why they cannot be read.
pub type Publication = Result<Published, PayloadFailure>;

/// The followers of tasks, by the task's number.
#[derive(Debug)]
pub struct Subscriptions<W> {
    watched: BTreeMap<TaskSeq, Subscription>,
    stops: BTreeMap<TaskSeq, Stop<W>>,
    /// Intermediate data of all tasks are numbered together.
    publications: u64,
}

#[derive(Debug, Default)]
struct Subscription {
    outputs: Vec<usize>,
    published: Vec<usize>,
}

/// The state of a task's stop: whether it still runs somewhere.
#[derive(Debug)]
struct Stop<W> {
    /// It has ended, and an engine has to say that it has stopped.
    is_due: bool,
    has_stopped: bool,
    /// The connection was cut when it was due: whether it has been said nobody knows.
    is_unknown: bool,
    waiters: Vec<W>,
}

impl Weigh for Piece {
    fn bytes(&self) -> usize {
        self.bytes.len()
    }
}

impl Weigh for Publication {
    fn bytes(&self) -> usize {
        self.as_ref().map_or(0, Published::bytes)
    }
}

impl Weigh for Event {
    fn bytes(&self) -> usize {
        match self {
            Self::EngineRestarted(_, cause) => cause.len(),
            Self::EngineOnline(_) | Self::EngineOffline(_) => 0,
        }
    }
}

impl<W> Default for Subscriptions<W> {
    fn default() -> Self {
        Self { watched: BTreeMap::new(), stops: BTreeMap::new(), publications: 0 }
    }
}

impl<W> Default for Stop<W> {
    fn default() -> Self {
        Self { is_due: false, has_stopped: false, is_unknown: false, waiters: Vec::new() }
    }
}

impl<W> Subscriptions<W> {
    pub(super) fn is_idle(&self) -> bool {
        self.watched.is_empty() && self.stops.is_empty()
    }

    fn settle(&mut self, n: TaskSeq) {
        if self
            .watched
            .get(&n)
            .is_some_and(|watch| watch.outputs.is_empty() && watch.published.is_empty())
        {
            self.watched.remove(&n);
        }
    }
}

impl Completion {
    /// True if the broker has still to say that the task has stopped: it ended a task that an
    /// engine had been given. After the end of the connection it is due for ever, as nobody can
    /// tell.
    pub fn is_stop_due(&self) -> bool {
        let CompletionKind::Finished(outcome, _) = &self.end else { return true };
        let kind = outcome.error.as_ref().map(|error| error.kind);
        let by_broker = matches!(kind, Some(ErrorKind::Cancelled | ErrorKind::RunTimeout));
        by_broker && self.times.assigned_us.is_some()
    }
}

impl<W: Waiter> Core<W> {
    /// A reader of a task's output: of what is kept of it so far, then of what comes.
    pub fn open_output(&mut self, n: TaskSeq, key: Option<usize>) -> usize {
        let feed = self.outputs.open();
        // In one step with what follows: nothing is missed between, and nothing comes twice.
        for piece in key.map_or_else(Vec::new, |key| self.tasks.kept_output(key)) {
            self.outputs.push(feed, piece);
        }
        if self.is_unfinished(key) {
            self.subscriptions.watched.entry(n).or_default().outputs.push(feed);
        } else {
            self.outputs.finish(feed);
        }
        feed
    }

    /// A reader of a task's intermediate data: of the last that came, then of what comes.
    pub fn open_published(&mut self, n: TaskSeq, key: Option<usize>) -> usize {
        let feed = self.published.open();
        if let Some(last) = key.and_then(|key| self.latest_published(key)) {
            self.published.push(feed, Ok(last));
        }
        if self.is_unfinished(key) {
            self.subscriptions.watched.entry(n).or_default().published.push(feed);
        } else {
            self.published.finish(feed);
        }
        feed
    }

    fn is_unfinished(&self, key: Option<usize>) -> bool {
        self.over.is_none() && key.is_some_and(|key| !self.tasks.has_ended(key))
    }

    /// The last intermediate data of a task whose end was not taken.
    pub fn latest_published(&self, key: usize) -> Option<Published> {
        self.tasks.published(key)
    }

    pub fn written(
        &self,
        key: usize,
        stream: furlong_wire::message::Stream,
    ) -> super::output::Output {
        self.tasks.written(key, stream)
    }

    pub fn poll_output(
        &mut self,
        feed: usize,
        waiter: &W,
        replaced: &mut Option<W>,
    ) -> Poll<Fed<Piece>> {
        self.outputs.poll(feed, waiter, replaced)
    }

    pub fn poll_published(
        &mut self,
        feed: usize,
        waiter: &W,
        replaced: &mut Option<W>,
    ) -> Poll<Fed<Publication>> {
        self.published.poll(feed, waiter, replaced)
    }

    /// Nobody reads this output any longer.
    pub fn forget_output(&mut self, n: TaskSeq, feed: usize) -> Option<W> {
        if let Some(watch) = self.subscriptions.watched.get_mut(&n) {
            watch.outputs.retain(|of| *of != feed);
            self.subscriptions.settle(n);
        }
        self.outputs.forget(feed)
    }

    /// Nobody reads the output of a fetched task any longer.
    pub fn forget_follower(&mut self, feed: usize) -> Option<W> {
        self.outputs.forget(feed)
    }

    /// Nobody reads these intermediate data any longer.
    pub fn forget_published(&mut self, n: TaskSeq, feed: usize) -> Option<W> {
        if let Some(watch) = self.subscriptions.watched.get_mut(&n) {
            watch.published.retain(|of| *of != feed);
            self.subscriptions.settle(n);
        }
        self.published.forget(feed)
    }

    pub(super) fn handle_output(&mut self, n: TaskSeq, piece: Piece) {
        self.tasks.handle_output(n, &piece);
        if let Some(watch) = self.subscriptions.watched.get(&n) {
            for feed in &watch.outputs {
                self.wakes.extend(self.outputs.push(*feed, piece.clone()));
            }
        }
    }

    pub(super) fn handle_published(&mut self, published: PublishedMessage) {
        let PublishedMessage { n, payload } = published;
        self.subscriptions.publications += 1;
        let number = self.subscriptions.publications;
        if let Some(received) =
            self.results.handle_payload(Recipient::Published(n, number), Some(payload))
        {
            self.publish(n, number, received.body);
        }
    }

    /// Intermediate data are here, or cannot be read. `number` is their place in the order in which
    /// they were announced.
    pub(super) fn publish(&mut self, n: TaskSeq, number: u64, body: Body) {
        let publication = read_published(number, body);
        if let Ok(published) = &publication {
            self.tasks.handle_published(n, published);
        }
        let Some(watch) = self.subscriptions.watched.get(&n) else { return };
        for feed in &watch.published {
            self.wakes.extend(self.published.push(*feed, publication.clone()));
        }
    }

    /// A task has ended: nothing more comes for who follows it.
    pub(super) fn end_watch(&mut self, n: TaskSeq, is_stop_due: bool, has_future: bool) {
        // Somebody may still ask by the task's handle whether it runs.
        if is_stop_due && has_future {
            self.subscriptions.stops.entry(n).or_default();
        }
        if self.subscriptions.is_idle() {
            return;
        }
        if let Some(stop) = self.subscriptions.stops.get_mut(&n) {
            stop.is_due = is_stop_due;
            stop.has_stopped |= !is_stop_due;
            if stop.has_stopped {
                self.wakes.append(&mut stop.waiters);
            }
        }
        let Some(watch) = self.subscriptions.watched.get(&n) else { return };
        for feed in &watch.outputs {
            self.wakes.extend(self.outputs.finish(*feed));
        }
        for feed in &watch.published {
            self.wakes.extend(self.published.finish(*feed));
        }
    }

    pub(super) fn handle_stopped(&mut self, n: TaskSeq) {
        if let Some(stop) = self.subscriptions.stops.get_mut(&n) {
            stop.has_stopped = true;
            self.wakes.append(&mut stop.waiters);
        }
    }

    /// From now on it is noted whether the task still runs, until [`Core::forget_stop`].
    pub fn watch_stop(&mut self, n: TaskSeq, key: Option<usize>) {
        if self.is_unfinished(key) {
            self.subscriptions.stops.entry(n).or_default();
        }
    }

    /// Returns true if a task that was cancelled still runs.
    pub fn is_stopping(&self, n: TaskSeq) -> bool {
        self.subscriptions.stops.get(&n).is_some_and(|stop| !stop.has_stopped)
    }

    /// Waits until nothing of a task runs any longer.
    pub fn poll_stopped(&mut self, n: TaskSeq, waiter: &W) -> Poll<Result<(), ClientError>> {
        // What nobody noted had ended in some other way than by a cancel.
        let Some(stop) = self.subscriptions.stops.get_mut(&n).filter(|stop| !stop.has_stopped)
        else {
            return Poll::Ready(Ok(()));
        };
        if let Some(why) = &self.over {
            return Poll::Ready(Err(ClientError::Disconnected(std::sync::Arc::clone(why))));
        }
        // To wait for ever would be wrong, and so would be to say that it has stopped.
        if stop.is_unknown {
            return Poll::Ready(Err(ClientError::Interrupted));
        }
        if !stop.waiters.iter().any(|known| known.is_same(waiter)) {
            stop.waiters.push(waiter.clone());
        }
        Poll::Pending
    }

    /// Cancels all that has not ended, and notes whether it still runs. With `force`, also what
    /// does not stop.
    pub fn cancel_all(&mut self, force: bool) {
        for (n, _) in self.tasks.unfinished() {
            self.subscriptions.stops.entry(n).or_default();
        }
        let running =
            self.subscriptions.stops.iter().filter(|(_, stop)| !stop.has_stopped).map(|(n, _)| *n);
        let mut ranges: Vec<(TaskSeq, TaskSeq)> = Vec::new();
        for n in running {
            match ranges.last_mut() {
                Some((_, last)) if *last + 1 == n => *last = n,
                _ => ranges.push((n, n)),
            }
        }
        self.cancel(&ranges, force);
    }

    /// Waits until nothing that was cancelled runs any longer.
    pub fn poll_all_stopped(&mut self, waiter: &W) -> Poll<Result<(), ClientError>> {
        let running = self.subscriptions.stops.iter().find(|(_, stop)| !stop.has_stopped);
        running.map(|(n, _)| *n).map_or(Poll::Ready(Ok(())), |n| self.poll_stopped(n, waiter))
    }

    /// Nobody wants to know any longer whether a task runs. The waiters are given back.
    pub fn forget_stop(&mut self, n: TaskSeq) -> Vec<W> {
        self.subscriptions.stops.remove(&n).map_or_else(Vec::new, |stop| stop.waiters)
    }

    /// A reader of events, the first of which asks the broker for them.
    pub fn subscribe(&mut self) -> Result<usize, ClientError> {
        self.check_open()?;
        if self.events.is_empty() {
            self.outbound
                .push_back(Outbound::Message(FromClient::Subscribe(Subscribe { engines: true })));
        }
        Ok(self.events.open())
    }

    pub fn poll_event(
        &mut self,
        feed: usize,
        waiter: &W,
        replaced: &mut Option<W>,
    ) -> Poll<Fed<Event>> {
        self.events.poll(feed, waiter, replaced)
    }

    /// Nobody reads these events any longer.
    pub fn unsubscribe(&mut self, feed: usize) -> Option<W> {
        let waiter = self.events.forget(feed);
        if self.events.is_empty() && self.over.is_none() {
            self.outbound
                .push_back(Outbound::Message(FromClient::Subscribe(Subscribe { engines: false })));
        }
        waiter
    }

    pub(super) fn handle_event(&mut self, event: &Event) {
        for feed in self.events.keys() {
            self.wakes.extend(self.events.push(feed, event.clone()));
        }
    }

    /// The connection was cut: the word that something has stopped may be lost.
    pub(super) fn cut_watches(&mut self) {
        for stop in
            self.subscriptions.stops.values_mut().filter(|stop| stop.is_due && !stop.has_stopped)
        {
            stop.is_unknown = true;
            self.wakes.append(&mut stop.waiters);
        }
    }

    /// The connection is over: nothing more comes to any reader, and nobody learns any longer what
    /// runs.
    pub(super) fn end_watches(&mut self) {
        self.wakes.extend(self.outputs.finish_all());
        self.wakes.extend(self.published.finish_all());
        self.wakes.extend(self.events.finish_all());
        for stop in self.subscriptions.stops.values_mut() {
            self.wakes.append(&mut stop.waiters);
        }
    }
}
