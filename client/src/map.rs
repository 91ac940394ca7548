//! One function over many arguments, in constant memory.

use std::collections::{BTreeMap, VecDeque};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use furlong_wire::message::{Runtime, Targets};
use futures_util::{Stream, stream};

use self::sealed::Encode as _;
use crate::call::{Arguments, CallSpec, Function};
use crate::core::streams::Taken;
use crate::core::tasks::Completion;
use crate::core::{Call, Ticket};
use crate::error::ClientError;
use crate::options::{CheckedOptions, Settings, option_setters};
use crate::outcome::{TaskFailure, TaskOutcome};
use crate::prepared::Prepared;
use crate::shared::Handle;

/// Tasks that a map has under way, unless it is told otherwise: enough to keep a hundred engines
/// busy with short ones.
const WINDOW: usize = 1000;
/// Items that are encoded before the session is locked for them, and taken results that are
/// replaced at once.
const BATCH: usize = 64;

/// One item's place in the input, and what became of it.
pub type MapItem = (usize, TaskOutcome);

/// The input of a map: [`Arguments`] of one function, or whole calls.
pub trait MapInput: sealed::Encode {}

impl MapInput for Arguments {}

impl MapInput for CallSpec {}

mod sealed {
    use super::{Arguments, Call, CallSpec, ClientError, Mapped, Targets};

    /// Becomes a call.
    pub trait Encode {
        /// The call of this item.
        fn encode(self, function: Option<&Mapped>) -> Result<Call, ClientError>;
    }

    impl Encode for Arguments {
        fn encode(self, function: Option<&Mapped>) -> Result<Call, ClientError> {
            function.expect("a map over arguments has a function").call(self)
        }
    }

    impl Encode for CallSpec {
        fn encode(self, _: Option<&Mapped>) -> Result<Call, ClientError> {
            self.prepare(Targets::Shared)
        }
    }
}

/// A map over an iterator, before it begins. See [`crate::Tasks::map`].
pub type IterMapBuilder<I> = MapBuilder<stream::Iter<I>>;

/// A map, before it begins. [`MapBuilder::stream`] begins it.
///
/// Each item is a task of its own. Where items are so short that this costs too much, let the
/// function take a list, and make an item of each list.
#[derive(Debug)]
#[must_use = "nothing is submitted before the stream is polled"]
pub struct MapBuilder<S> {
    handle: Arc<Handle>,
    /// None if each item brings its own.
    function: Option<Function>,
    runtime: Option<Runtime>,
    items: S,
    window: usize,
    ordered: bool,
    cancel_on_drop: bool,
    pub(crate) settings: Settings,
}

impl<S> MapBuilder<S>
where
    S: Stream + Unpin,
    S::Item: MapInput,
{
    pub(crate) fn new(handle: Arc<Handle>, function: Option<Function>, items: S) -> Self {
        let (window, settings) = (WINDOW, Settings::default());
        Self {
            handle,
            function,
            runtime: None,
            items,
            window,
            ordered: false,
            cancel_on_drop: false,
            settings,
        }
    }

    /// Sets what runs the function, if that is not plain from its name ([`Function::runtime`]).
    /// Whole calls say it themselves.
    pub fn runtime(mut self, runtime: Runtime) -> Self {
        self.runtime = Some(runtime);
        self
    }

    /// Sets the maximum of items in flight: submitted, and not yet taken from the stream. 1000 by
    /// default, at least 1.
    pub fn window(mut self, window: usize) -> Self {
        self.window = window.max(1);
        self
    }

    /// Sets whether results come in the items' order, not as they finish. One slow item then holds
    /// up those after it, as the window has no room for more.
    pub fn ordered(mut self, ordered: bool) -> Self {
        self.ordered = ordered;
        self
    }

    /// Sets whether work in flight is cancelled when the stream of results is dropped before its
    /// end. Otherwise it goes on, and its results are lost.
    pub fn cancel_on_drop(mut self, cancel: bool) -> Self {
        self.cancel_on_drop = cancel;
        self
    }

    // Those of each task, unless the items are whole calls, which bring their own.
    option_setters!(settings);

    /// The results. Items are taken as there is room for them, while the stream is polled.
    ///
    /// # Errors
    /// [`ClientError::Options`]. What goes wrong with one item is that item's failure; after the
    /// end of the connection there is one such failure, and no more items are taken.
    pub fn stream(self) -> Result<MapStream<S>, ClientError> {
        let Self { handle, function, runtime, items, window, ordered, cancel_on_drop, settings } =
            self;
        let mapped = function.map(|function| {
            let runtime = runtime.unwrap_or_else(|| function.runtime());
            Mapped::new(runtime, function, &settings)
        });
        let mapped = mapped.transpose()?;
        let stream = handle.shared.with(crate::shared::Core::open_stream);
        let order = ordered.then(Order::default);
        let intake =
            Intake { items, mapped, next: 0, encoded: VecDeque::new(), state: IntakeState::Ready };
        let (ready, failed, ticket) = (VecDeque::new(), None, None);
        Ok(MapStream {
            handle,
            stream,
            intake,
            window,
            cancel_on_drop,
            taken: 0,
            ready,
            failed,
            order,
            ticket,
        })
    }
}

/// The results of a map: a [`Stream`] of each item's place and what became of it.
///
/// Dropping it does not cancel what is under way, unless [`MapBuilder::cancel_on_drop`] says so;
/// [`MapStream::cancel`] does.
#[derive(Debug)]
#[must_use = "nothing is submitted before the stream is polled"]
pub struct MapStream<S> {
    handle: Arc<Handle>,
    /// Its key in the session.
    stream: usize,
    intake: Intake<S>,
    window: usize,
    cancel_on_drop: bool,
    /// Items that the reader has, so that the rest up to the next one are under way.
    taken: u64,
    /// Ends that came, in the order of their coming.
    ready: VecDeque<(u64, Completion)>,
    /// An item that could not be submitted: at most one, as no more are taken before it is told.
    failed: Option<(u64, ClientError)>,
    order: Option<Order>,
    ticket: Ticket,
}

/// The items, on their way to the session.
#[derive(Debug)]
struct Intake<S> {
    items: S,
    mapped: Option<Mapped>,
    next: u64,
    encoded: VecDeque<(u64, Result<Call, ClientError>)>,
    state: IntakeState,
}

/// The function of a map over arguments, and the options of its tasks.
#[derive(Debug)]
pub struct Mapped {
    function: Prepared,
    options: Option<CheckedOptions>,
}

impl Mapped {
    fn new(runtime: Runtime, function: Function, settings: &Settings) -> Result<Self, ClientError> {
        let options = settings.check()?;
        Ok(Self { function: Prepared::new(runtime, function)?, options })
    }

    fn call(&self, arguments: Arguments) -> Result<Call, ClientError> {
        let call = self.function.call(arguments, self.options.clone())?;
        Ok(call.into_call(Targets::Shared))
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum IntakeState {
    /// There may be items.
    Ready,
    /// There is no item yet; the reader is woken when there is one.
    Pending,
    /// There are no more.
    Exhausted,
}

/// Results that came before their turn.
#[derive(Debug, Default)]
struct Order {
    next: u64,
    early: BTreeMap<u64, TaskOutcome>,
}

impl<S> MapStream<S> {
    /// Cancels what is under way, and takes no more items. Their ends still come.
    pub fn cancel(&mut self) {
        self.cancel_with(false);
    }

    /// Cancels; with `force`, an interpreter that does not respond to the interrupt is killed.
    pub fn cancel_with(&mut self, force: bool) {
        self.intake.stop();
        self.handle.shared.with(|core| core.cancel_stream(self.stream, force));
    }

    /// Takes no more items; what is under way goes on, and its results come.
    pub fn stop(&mut self) {
        self.intake.stop();
    }
}

impl<S> Stream for MapStream<S>
where
    S: Stream + Unpin,
    S::Item: MapInput,
{
    type Item = MapItem;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<MapItem>> {
        loop {
            let in_turn = self.order.as_mut().and_then(Order::pop);
            let Some((index, result)) = (match in_turn {
                Some(item) => Some(item),
                None => ready!(self.poll_any(context)),
            }) else {
                return Poll::Ready(None);
            };
            match &mut self.order {
                Some(order) if index != order.next => {
                    order.early.insert(index, result);
                }
                order => {
                    if let Some(order) = order {
                        order.next += 1;
                    }
                    self.taken += 1;
                    let index = usize::try_from(index)
                        .expect("a process counts no more items than addresses");
                    return Poll::Ready(Some((index, result)));
                }
            }
        }
    }
}

impl<S> MapStream<S>
where
    S: Stream + Unpin,
    S::Item: MapInput,
{
    /// The next end in the order of coming, without regard to `order`.
    fn poll_any(&mut self, context: &mut Context<'_>) -> Poll<Option<(u64, TaskOutcome)>> {
        let session = self.handle.shared.session;
        loop {
            // Room is used in batches: a result at a time would lock the session for each.
            if self.room() >= BATCH.min(self.window) || self.ready.is_empty() {
                self.submit(context);
            }
            if let Some((index, ended)) = self.ready.pop_front() {
                return Poll::Ready(Some((index, ended.into_result(session))));
            }
            if let Some((index, error)) = self.failed.take() {
                if matches!(error, ClientError::Disconnected(_)) {
                    self.intake.stop();
                }
                return Poll::Ready(Some((index, Err(TaskFailure::unsubmitted(session, error)))));
            }
            let Self { handle, stream, ready, .. } = self;
            match handle.shared.with(|core| core.poll_stream(*stream, ready, context.waker())) {
                Taken::Waiting(_replaced) => return Poll::Pending,
                Taken::Idle if self.intake.is_done() => return Poll::Ready(None),
                // The session's credit is used up by others: they wake this task when there is
                // room.
                Taken::Idle if self.ticket.is_some() => return Poll::Pending,
                Taken::Idle if self.intake.state == IntakeState::Pending => return Poll::Pending,
                Taken::Some | Taken::Idle => {}
            }
        }
    }

    /// Items that may be submitted now.
    fn room(&self) -> usize {
        let under_way = self.intake.next - self.taken - self.intake.encoded.len() as u64;
        self.window.saturating_sub(usize::try_from(under_way).unwrap_or(usize::MAX))
    }

    /// Takes items and submits them, until window, iterator or credit are used up.
    fn submit(&mut self, context: &mut Context<'_>) {
        while self.failed.is_none() {
            let room = self.room();
            self.intake.encode(room.min(BATCH), context);
            if self.intake.encoded.is_empty() {
                break;
            }
            let Self { handle, stream, intake, ticket, failed, .. } = self;
            let is_busy = handle.shared.with(|core| {
                while let Some((index, call)) = intake.encoded.front_mut() {
                    let submitted = match call {
                        Ok(call) => core.submit_streamed(call, *stream, *index),
                        Err(error) => Err(error.clone()),
                    };
                    match submitted {
                        Ok(()) => {}
                        Err(ClientError::Busy) => {
                            return (true, core.wait_for_room(ticket, context.waker()));
                        }
                        Err(error) => {
                            *failed = Some((*index, error));
                            intake.encoded.pop_front();
                            break;
                        }
                    }
                    intake.encoded.pop_front();
                }
                (false, core.stop_waiting(ticket.take()))
            });
            if is_busy.0 {
                break;
            }
        }
    }
}

impl<S> Intake<S>
where
    S: Stream + Unpin,
    S::Item: MapInput,
{
    /// Takes items until that many are encoded, or there are none now.
    fn encode(&mut self, wanted: usize, context: &mut Context<'_>) {
        while self.encoded.len() < wanted && self.state != IntakeState::Exhausted {
            match Pin::new(&mut self.items).poll_next(context) {
                Poll::Ready(Some(item)) => {
                    self.state = IntakeState::Ready;
                    self.encoded.push_back((self.next, item.encode(self.mapped.as_ref())));
                    self.next += 1;
                }
                Poll::Ready(None) => self.state = IntakeState::Exhausted,
                Poll::Pending => {
                    self.state = IntakeState::Pending;
                    return;
                }
            }
        }
    }
}

impl<S> Intake<S> {
    /// Takes no more items, and gives up those that were not submitted.
    fn stop(&mut self) {
        self.state = IntakeState::Exhausted;
        self.next -= self.encoded.len() as u64;
        self.encoded.clear();
    }

    fn is_done(&self) -> bool {
        self.state == IntakeState::Exhausted && self.encoded.is_empty()
    }
}

impl Order {
    /// The result whose turn it is, if it has come.
    fn pop(&mut self) -> Option<(u64, TaskOutcome)> {
        self.early.remove(&self.next).map(|result| (self.next, result))
    }
}

impl<S> Drop for MapStream<S> {
    fn drop(&mut self) {
        if self.cancel_on_drop {
            self.cancel();
        }
        let ticket = self.ticket.take();
        drop(
            self.handle
                .shared
                .with(|core| (core.forget_stream(self.stream), core.stop_waiting(ticket))),
        );
    }
}

#[cfg(test)]
mod tests;
