//! The client's side of a session, as a state machine without I/O, clock or randomness.
//!
//! Commands (`submit_*`, [`Core::cancel`], [`Core::request`], [`Core::close`]) and
//! [`Core::handle_message`] change it. After each of them the shell takes what there is to send
//! ([`Core::poll_outbound`]) and whom to wake ([`Core::take_wakes`]). Before it writes it asks for
//! acknowledgements ([`Core::poll_ack`]), and after it says how much still waits
//! ([`Core::handle_backlog`]).
//!
//! The core wakes nobody, and drops no [`Waiter`] that it was given: it runs under a lock, and
//! either can run code of somebody else, which may come back here. It gives them back.

mod acks;
pub mod bounded_queues;
mod completed;
mod content;
pub mod definitions;
mod flow_control;
pub mod output;
pub mod requests;
pub mod results;
mod resume;
pub mod streams;
pub mod subscriptions;
pub mod tasks;

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::task::Poll;

use furlong_wire::ids::{BrokerStart, SessionId, TaskId, TaskSeq};
use furlong_wire::limits::{LISTED_MAX, OUTPUT_KEPT_BYTES, PUBLISHED_BYTES_MAX};
use furlong_wire::message::{
    self, Cancel, Event, FromClient, Goodbye, Payload, Submit, Targets, TaskTimes, ToClient,
    Welcome,
};
use furlong_wire::payload::{Packed, PayloadSealer, PayloadSecret, SealedPayload};

use self::acks::Acks;
use self::bounded_queues::BoundedQueues;
pub use self::content::{Call, Content};
use self::content::{Names, announced_bytes, task_count};
use self::definitions::Definitions;
use self::flow_control::FlowControl;
pub use self::flow_control::Ticket;
use self::requests::Requests;
use self::results::{Body, Received, Recipient, Results};
use self::resume::{Link, Opening};
use self::streams::{Streams, Taken};
use self::subscriptions::{Piece, Publication, Subscriptions};
use self::tasks::{
    Completion, CompletionKind, Delivery, Forgotten, Listener, Sent, SentCall, Tasks,
};
use crate::error::{ClientError, Disconnected};

/// Bytes of output that wait for one reader: what is kept of two streams, and as much again that is
/// new.
const OUTPUT_FEED_BYTES: usize = 8 * OUTPUT_KEPT_BYTES;
/// Bytes of intermediate data that wait for one reader.
const PUBLISHED_FEED_BYTES: usize = 4 * PUBLISHED_BYTES_MAX as usize;
/// Bytes of events that wait for one reader: some thousands of them.
const EVENT_FEED_BYTES: usize = 256 * 1024;
/// While fewer bytes wait to be sent, more is said again after a cut.
const REPEATED_BACKLOG_BYTES: usize = 1024 * 1024;

/// One session, on one connection after the other.
#[derive(Debug)]
pub struct Core<W> {
    /// The reason why it is over, once it is.
    over: Option<Arc<Disconnected>>,
    /// True if the connection itself is gone, too.
    is_finished: bool,
    opening: Opening,
    link: Link,
    /// True if unfinished work is kept, to be submitted again after a cut.
    keeps_calls: bool,
    /// True if there was a connection before this one: results may come that have come before.
    was_cut: bool,
    next_n: TaskSeq,
    /// Tasks up to this number are with the kernel, so that a cancel may go before what is queued.
    flushed_n: TaskSeq,
    next_transfer: u64,
    next_ticket: u64,
    /// Turns after which an answer is late.
    answer_turns_max: u32,
    /// Turns that the broker has had to say what it knows of the session.
    opening_turns: u32,
    /// Turns that it has had to take a goodbye.
    goodbye_turns: u32,
    /// The start of the broker that has the session.
    start: BrokerStart,
    sealer: PayloadSealer,
    flow: FlowControl,
    acks: Acks,
    tasks: Tasks<W>,
    streams: Streams<W>,
    results: Results,
    definitions: Definitions,
    requests: Requests<W>,
    subscriptions: Subscriptions<W>,
    outputs: BoundedQueues<Piece, W>,
    published: BoundedQueues<Publication, W>,
    events: BoundedQueues<Event, W>,
    outbound: VecDeque<Outbound>,
    /// The callers that wait for room, in the order of their first try.
    waiting: BTreeMap<u64, W>,
    /// The callers that wait until everything is with the kernel.
    flushing: Vec<W>,
    /// The callers that wait for the connection's end.
    closing: Vec<W>,
    wakes: Vec<W>,
}

/// Somebody who waits for something here, as the shell knows them: it is given back when that has
/// come, and the shell wakes whom it means.
pub trait Waiter: Clone {
    /// Returns true if the other one is the same: it need not be kept beside this one.
    fn is_same(&self, other: &Self) -> bool;
}

/// Something to send.
#[derive(Debug)]
pub enum Outbound {
    /// A message, in the order of all messages.
    Message(FromClient),
    /// A message that goes before what is queued.
    Control(FromClient),
    /// The chunks of a payload that the message before announced under this number.
    Transfer(u64, SealedPayload),
}

/// A task that was submitted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Submitted {
    pub n: TaskSeq,
    pub key: usize,
}

/// The number of a submit's first task, the large definition that its tasks need, and what another
/// connection needs.
type Sending = (TaskSeq, Option<u32>, Option<Arc<SentCall>>);

impl<W: Waiter> Core<W> {
    /// A new session, which begins with its payload secret: fresh random bytes. It can go on after
    /// a cut if it `comes_back`, and if it does not end with its connection. If it `hides_names`,
    /// the broker is told no names of kinds of tasks and no types of errors.
    pub fn new(
        session: SessionId,
        secret: PayloadSecret,
        cancel_on_disconnect: bool,
        comes_back: bool,
        hides_names: bool,
        welcome: &Welcome,
    ) -> Self {
        let (secret_of, names) = (secret.clone(), Names::default());
        let opening = Opening { secret: secret_of, cancel_on_disconnect, hides_names, names };
        let open = opening.open(TaskSeq::MIN);
        let credit_bytes = welcome.payload_credit_bytes;
        let mut flow = FlowControl::new(welcome.unfinished_tasks_max, credit_bytes);
        flow.set_memory_flag(&welcome.memory_flag);
        Self {
            over: None,
            is_finished: false,
            opening,
            link: Link::Up,
            keeps_calls: comes_back && !cancel_on_disconnect,
            was_cut: false,
            next_n: TaskSeq::FIRST,
            flushed_n: TaskSeq::MIN,
            next_transfer: 1,
            next_ticket: 0,
            answer_turns_max: u32::MAX,
            opening_turns: 0,
            goodbye_turns: 0,
            start: welcome.start,
            sealer: secret.request_key(&session).into_sealer(),
            flow,
            acks: Acks::default(),
            tasks: Tasks::default(),
            streams: Streams::default(),
            results: Results::new(session, secret),
            definitions: Definitions::new(credit_bytes),
            requests: Requests::default(),
            subscriptions: Subscriptions::default(),
            outputs: BoundedQueues::new(OUTPUT_FEED_BYTES),
            published: BoundedQueues::new(PUBLISHED_FEED_BYTES),
            events: BoundedQueues::new(EVENT_FEED_BYTES),
            outbound: VecDeque::from([Outbound::Message(open)]),
            waiting: BTreeMap::new(),
            flushing: Vec::new(),
            closing: Vec::new(),
            wakes: Vec::new(),
        }
    }

    /// Submits a call for the shared queue.
    pub fn submit_shared(
        &mut self,
        call: &mut Call,
        listener: Listener<W>,
    ) -> Result<Submitted, ClientError> {
        let stays = call.stays();
        let (n, large, call) = self.send_submit(call)?;
        let sent = call.map(|call| Sent { target: None, call, repeated: false, cancelled: None });
        Ok(Submitted { n, key: self.tasks.insert(n, listener, sent, (large, stays)) })
    }

    /// The last task that was submitted, or [`TaskSeq::MIN`].
    pub fn submitted(&self) -> TaskSeq {
        self.next_n - 1
    }

    /// The numbers of those that have not ended, sorted.
    pub fn unfinished(&self) -> Vec<TaskSeq> {
        self.tasks.unfinished().into_iter().map(|(n, _)| n).collect()
    }

    /// Submits a call for engines: one task each, in their order.
    pub fn submit_direct(&mut self, call: &mut Call) -> Result<Vec<Submitted>, ClientError> {
        let Targets::Engines(engines) = call.targets.clone() else { return Ok(Vec::new()) };
        let stays = call.stays();
        let (first, large, call) = self.send_submit(call)?;
        let tasks = first.onward().zip(engines).map(|(n, engine)| {
            let call = call.clone();
            let sent = call.map(|call| Sent {
                target: Some(engine),
                call,
                repeated: false,
                cancelled: None,
            });
            let needs = (large, stays);
            Submitted { n, key: self.tasks.insert(n, Listener::Future(None), sent, needs) }
        });
        Ok(tasks.collect())
    }

    /// Submits a call whose result goes to a stream.
    pub fn submit_streamed(
        &mut self,
        call: &mut Call,
        stream: usize,
        index: u64,
    ) -> Result<(), ClientError> {
        self.submit_shared(call, Listener::Stream(stream, index))?;
        self.streams.expect(stream);
        Ok(())
    }

    /// Checks a call against the session's credit, and sends it. Returns the number of its first
    /// task, and what is kept of it for the next connection; between them the definition that they
    /// need, if that is large.
    fn send_submit(&mut self, call: &mut Call) -> Result<Sending, ClientError> {
        self.check_open()?;
        if !self.is_up() {
            return Err(ClientError::Busy);
        }
        let count = task_count(&call.targets);
        self.check_inputs(call.options.as_deref())?;
        // Before anything is taken: up to the last check a refusal must leave all as it was, since
        // the caller tries the same call again.
        self.say_name(call);
        self.do_without_definition(call);
        let announced = call.content.pack(&mut self.sealer)?;
        let defined =
            call.definition.as_ref().map(|definition| self.define(definition)).transpose()?;
        let (define, packed) = defined.unzip();
        let packed = packed.flatten();
        let lasting = packed.as_ref().map_or(0, announced_bytes);
        // What has arrived and was not said occupies places that may be just those that are
        // missing, and values that were let go the memory of others.
        let is_value = call.runtime == message::Runtime::Value;
        if !self.flow.has_tasks(count) || (is_value && self.acks.are_due()) {
            self.send_acks();
        }
        self.flow.check(count, announced + lasting)?;
        self.flow.take(count, announced + lasting, lasting);
        if let (Some(number), Some(packed), Some(definition)) = (define, packed, &call.definition) {
            self.definitions.insert(definition.hash, number, packed.clone());
            self.send_definition(number, packed);
        }
        let large = call
            .definition
            .as_ref()
            .and_then(|definition| self.definitions.begin_use(definition, count));
        let n = self.next_n;
        self.next_n += count;
        assert!(self.flushed_n < n, "task {n} is with the kernel before it is submitted");
        let targets = std::mem::replace(&mut call.targets, Targets::Shared);
        let (runtime, class, mut options) = (call.runtime, call.class, call.options.take());
        self.leave_out_met(n, options.as_deref_mut());
        let packed = call.content.take(&mut self.sealer)?;
        let kept = self.keeps_calls.then(|| {
            let (mut options, packed) = (options.clone(), packed.clone());
            let own = TaskId { session: self.results.session(), n };
            options.iter_mut().for_each(|options| completed::part(own, n + count - 1, options));
            Arc::new(SentCall { runtime, class, define, options, packed })
        });
        self.send_payload(packed, |payload| {
            FromClient::Submit(Submit { n, targets, runtime, class, define, options, payload })
        });
        Ok((n, large, kept))
    }

    fn send_payload(&mut self, packed: Packed, message: impl FnOnce(Payload) -> FromClient) {
        match packed {
            Packed::Inline(bytes) => {
                self.outbound.push_back(Outbound::Message(message(Payload::Inline(bytes))));
            }
            Packed::Chunked(sealed) => {
                let transfer = self.next_transfer;
                self.next_transfer += 1;
                let (counter, bytes) = (sealed.counter(), sealed.bytes());
                let payload = Payload::Chunked { transfer, counter, bytes, instance: None };
                self.outbound.push_back(Outbound::Message(message(payload)));
                self.outbound.push_back(Outbound::Transfer(transfer, sealed));
            }
        }
    }

    /// Ends tasks, by ranges of their numbers. The broker's answer is their end.
    pub fn cancel(&mut self, ranges: &[(TaskSeq, TaskSeq)], force: bool) {
        for n in ranges.iter().flat_map(|(first, last)| first.through(*last)) {
            // Noted also while there is a connection: it may be cut before the cancel has arrived.
            if let Some(sent) = self.tasks.sent_mut(n) {
                sent.cancelled = Some(force || sent.cancelled == Some(true));
            }
        }
        if self.over.is_some() || !self.is_up() {
            // The next connection begins with what was cancelled.
            return;
        }
        for ranges in ranges.chunks(LISTED_MAX) {
            let last = ranges.iter().map(|(_, last)| *last).max().unwrap_or_default();
            let cancel = FromClient::Cancel(Cancel { ranges: ranges.to_vec(), force });
            // A cancel that overtakes its own submit would find nothing.
            let is_flushed = last <= self.flushed_n;
            let outbound =
                if is_flushed { Outbound::Control(cancel) } else { Outbound::Message(cancel) };
            self.outbound.push_back(outbound);
        }
    }

    /// Cancels what is unfinished of a stream.
    pub fn cancel_stream(&mut self, stream: usize, force: bool) {
        self.cancel(&self.tasks.ranges_of_stream(stream), force);
    }

    /// Takes a task's end, or keeps the waiter until it comes.
    pub fn poll_task(
        &mut self,
        key: usize,
        waiter: &W,
        replaced: &mut Option<W>,
    ) -> Poll<Box<Completion>> {
        self.tasks.poll(key, waiter).map_or_else(
            |before| {
                *replaced = before;
                Poll::Pending
            },
            Poll::Ready,
        )
    }

    /// Returns true if a task's end can be taken.
    pub fn has_ended(&self, key: usize) -> bool {
        self.tasks.has_ended(key)
    }

    /// Nobody waits for a task any longer. It goes on.
    pub fn forget_task(&mut self, key: usize) -> Option<Forgotten<W>> {
        self.tasks.forget(key)
    }

    /// A new stream of results.
    pub fn open_stream(&mut self) -> usize {
        self.streams.open()
    }

    /// Takes what has come for a stream; if nothing has, keeps the waiter.
    pub fn poll_stream(
        &mut self,
        stream: usize,
        into: &mut VecDeque<(u64, Completion)>,
        waiter: &W,
    ) -> Taken<W> {
        self.streams.poll(stream, into, waiter)
    }

    /// Nobody reads a stream any longer; its tasks go on. What it held is given back, to be dropped
    /// by the caller.
    pub fn forget_stream(&mut self, stream: usize) -> (VecDeque<(u64, Completion)>, Option<W>) {
        self.streams.forget(stream)
    }

    /// Takes a message of the broker, with its chunk if it is one.
    pub fn handle_message(&mut self, message: ToClient, chunk: Option<&[u8]>) {
        match message {
            ToClient::Finished(finished) => {
                let Some(key) = self.tasks.begin_end(finished.n) else {
                    return self.ended_again(&finished);
                };
                let (ended, payload) = Completion::of(finished);
                match self.results.take_inline(payload) {
                    Ok(body) => self.receive_end(key, ended, body),
                    Err(payload) => {
                        let to = Recipient::Task(key, ended);
                        if let Some(received) = self.results.handle_payload(to, payload) {
                            self.receive(received);
                        }
                    }
                }
            }
            ToClient::Chunk(announced) => {
                if let Some(received) =
                    self.results.handle_chunk(announced.transfer, chunk.unwrap_or_default())
                {
                    self.receive(received);
                }
            }
            ToClient::Output(output) => {
                let message::Output { n, attempt, engine, stream, offset, bytes } = output;
                self.handle_output(
                    n,
                    Piece { attempt, engine, stream, offset, bytes: bytes.into() },
                );
            }
            ToClient::Published(published) => self.handle_published(published),
            ToClient::Stopped(stopped) => self.handle_stopped(stopped.n),
            ToClient::Event(event) => self.handle_event(&event),
            ToClient::Fetched(fetched) => self.handle_fetched(fetched),
            ToClient::FetchedOutput(output) => self.handle_fetched_output(output),
            ToClient::Credit(credit) => {
                self.flow.handle_credit(credit.payload_bytes_total);
                self.repeat();
                self.wake_waiting();
            }
            ToClient::Reply(reply) => self.handle_reply(reply.request, reply.body),
            ToClient::Accepted(accepted) => self.handle_accepted(&accepted),
            // The shell closes after a goodbye, and gives a file itself (`handle_file`).
            ToClient::Goodbye(_) | ToClient::Passed(_) => {}
        }
    }

    fn receive(&mut self, received: Received) {
        let Received { to, body, then } = received;
        match to {
            Recipient::Task(task, ended) => self.receive_end(task, ended, body),
            Recipient::Published(n, number) => self.publish(n, number, body),
            Recipient::Request(request, record) => self.answer_fetch(request, *record, body),
        }
        if let Some(then) = then {
            self.receive(*then);
        }
    }

    fn receive_end(&mut self, task: usize, mut ended: Completion, body: Body) {
        let (n, bytes) = (ended.n, body.bytes());
        let stays = self.tasks.stays(task) && body.may_stay();
        if ended.has_succeeded() && (stays || self.acks.staying.is_wanted(n)) {
            ended.stays = stays.then_some(bytes);
            let sent = self.tasks.sent_mut(n).map(|sent| sent.clone());
            self.acks.staying.insert(n, sent, bytes, stays);
        } else {
            self.acks.push(n, bytes);
        }
        if let CompletionKind::Finished(_, empty) = &mut ended.end {
            *empty = body;
        }
        self.deliver(task, ended);
    }

    fn deliver(&mut self, key: usize, mut ended: Completion) {
        let (n, is_stop_due) = (ended.n, ended.is_stop_due());
        // While the task is in its table, which knows what it needed.
        if let Some(number) = self.tasks.large_definition(key) {
            self.definitions.end_use(number);
        }
        let (woken, has_future) = match self.tasks.end(key, &mut ended) {
            Delivery::Future => (self.tasks.keep(key, ended), true),
            Delivery::Stream(stream, index) => (self.streams.push(stream, index, ended), false),
            Delivery::Nobody => {
                // Nobody can ask for it, or let it go.
                self.release(n);
                (None, false)
            }
        };
        self.wakes.extend(woken);
        self.end_watch(n, is_stop_due, has_future);
    }

    /// The acknowledgement of what has arrived, if it is to be sent now: with other messages
    /// always, alone when it is due.
    pub fn poll_ack(&mut self, others_go: bool) -> Option<FromClient> {
        let is_due = others_go || self.acks.are_due() || !self.waiting.is_empty();
        if !is_due || self.over.is_some() {
            return None;
        }
        let (ack, results) = self.acks.take()?;
        self.flow.handle_acknowledged(results);
        self.wake_waiting();
        Some(ack)
    }

    fn send_acks(&mut self) {
        while let Some(ack) = self.poll_ack(true) {
            self.outbound.push_back(Outbound::Message(ack));
        }
    }

    /// Returns what is to be sent next.
    pub fn poll_outbound(&mut self) -> Option<Outbound> {
        self.outbound.pop_front()
    }

    /// That many bytes wait to be sent.
    pub fn handle_backlog(&mut self, bytes: usize) {
        if self.flow.handle_backlog(bytes) {
            self.wake_waiting();
        }
        if bytes < REPEATED_BACKLOG_BYTES {
            self.repeat();
        }
    }

    /// Ends the session gracefully: says goodbye, and ends everything that is unfinished here.
    pub fn close(&mut self, why: &Arc<Disconnected>) {
        if self.over.is_none() {
            // What has arrived need not be kept for anybody.
            self.send_acks();
            let goodbye = Goodbye { reason: "the client closes".into() };
            self.outbound.push_back(Outbound::Message(FromClient::Goodbye(goodbye)));
            self.disconnect(why);
        }
    }

    /// The session is over: everything that is unfinished ends, and later calls fail. Only the
    /// first reason counts.
    pub fn disconnect(&mut self, why: &Arc<Disconnected>) {
        if self.over.is_some() {
            return;
        }
        self.over = Some(Arc::clone(why));
        // First: what is half here must not come upon a task that has ended.
        self.results.clear();
        self.acks.staying.clear();
        for (n, key) in self.tasks.unfinished() {
            let (engine, attempts, times, outputs) = (None, 0, TaskTimes::default(), None);
            let end = CompletionKind::Disconnected(Arc::clone(why));
            let stays = None;
            self.deliver(key, Completion { n, engine, attempts, times, outputs, stays, end });
        }
        self.end_requests();
        self.end_watches();
        self.wakes.append(&mut self.flushing);
        self.wake_waiting();
    }

    /// The connection itself is gone.
    pub fn finish(&mut self) {
        self.is_finished = true;
        self.wakes.append(&mut self.closing);
    }

    /// Waits until the connection itself is gone.
    pub fn poll_finished(&mut self, waiter: &W) -> Poll<()> {
        if self.is_finished {
            return Poll::Ready(());
        }
        if !self.closing.iter().any(|known| known.is_same(waiter)) {
            self.closing.push(waiter.clone());
        }
        Poll::Pending
    }

    /// Whom to wake now, without the lock.
    pub fn take_wakes(&mut self) -> Vec<W> {
        std::mem::take(&mut self.wakes)
    }

    /// Returns true if the session is over, though the connection may not be.
    pub fn is_over(&self) -> bool {
        self.over.is_some()
    }

    /// Returns the reason why the session is over, if it is.
    pub fn why_over(&self) -> Option<Arc<Disconnected>> {
        self.over.clone()
    }

    fn check_open(&self) -> Result<(), ClientError> {
        self.over.as_ref().map_or(Ok(()), |why| Err(ClientError::Disconnected(Arc::clone(why))))
    }

    fn new_ticket(&mut self) -> u64 {
        self.next_ticket += 1;
        self.next_ticket
    }
}

#[cfg(test)]
mod tests;
