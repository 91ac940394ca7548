//! Requests that the broker answers one by one: questions, controls, and fetches of any session's
//! tasks.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::task::Poll;

use bytes::Buf;
use furlong_wire::ids::TaskId;
use furlong_wire::limits::{FETCHES_WAITING_MAX, MESSAGE_BYTES_MAX};
use furlong_wire::message::{
    Fetch, Fetched, FetchedOutput, FromClient, Query, ReplyBody, Request, Stream, TaskRecord,
    encoded_bytes,
};

use super::results::{Body, Recipient};
use super::resume::Link;
use super::subscriptions::Piece;
use super::tasks::Outputs;
use super::{Core, Outbound, Waiter};
use crate::error::ClientError;

/// The broker's answer to a request.
#[derive(Debug)]
pub enum Answer {
    /// In so many words.
    Reply(ReplyBody),
    /// A task.
    Task(Box<FetchedTask>),
    /// There is none, though the broker has been there for so many turns.
    Late(u32),
    /// The connection was cut twice when it was awaited: what comes cannot be read, and why.
    Unsound(Arc<str>),
}

/// A task as it was fetched.
#[derive(Debug)]
pub struct FetchedTask {
    pub record: TaskRecord,
    pub body: Body,
    pub outputs: Option<Box<Outputs>>,
}

/// The requests of which the answer was not taken, by number.
#[derive(Debug)]
pub struct Requests<W> {
    pending: BTreeMap<u64, Pending<W>>,
    /// Fetches that wait at the broker, though perhaps nobody waits here any longer.
    at_broker: BTreeSet<u64>,
    /// Bytes of output that fetches hold together.
    output_bytes: usize,
}

#[derive(Debug)]
struct Pending<W> {
    answer: Option<Answer>,
    /// The message to send again after a cut; none if it must not be done twice.
    message: Option<FromClient>,
    waiter: Option<W>,
    /// The output of a fetched task.
    outputs: Option<Box<Outputs>>,
    /// The follower of its output.
    follower: Option<usize>,
    /// The progress of the follower in each stream of each attempt: after a cut it begins anew.
    fed: BTreeMap<(u32, Stream), u64>,
    /// Turns that it has waited while the broker could have answered.
    turns: u32,
    /// After how many turns the answer is late; none if it may take as long as a task.
    turns_max: Option<u32>,
    /// The number of times that the connection was cut since it was first asked.
    cuts: u32,
}

/// Turns that an answer has at least which waits for a disk, or for interpreters to end.
const SLOW_TURNS_MIN: u32 = 120;
/// Turns that a goodbye has to reach the broker.
const GOODBYE_TURNS_MAX: u32 = 2;

impl<W> Default for Requests<W> {
    fn default() -> Self {
        Self { pending: BTreeMap::new(), at_broker: BTreeSet::new(), output_bytes: 0 }
    }
}

impl<W> Pending<W> {
    fn new(message: Option<FromClient>, turns_max: Option<u32>) -> Self {
        Self {
            answer: None,
            message,
            waiter: None,
            outputs: None,
            follower: None,
            fed: BTreeMap::new(),
            turns: 0,
            turns_max,
            cuts: 0,
        }
    }
}

impl<W> Requests<W> {
    /// So many bytes of output are held no longer.
    fn release_output(&mut self, bytes: usize) {
        assert!(bytes <= self.output_bytes, "what fetches hold is counted as it comes");
        self.output_bytes -= bytes;
    }
}

impl<W: Waiter> Core<W> {
    /// Sends a request, made for its number. The answer comes from [`Core::poll_answer`].
    ///
    /// # Errors
    /// [`ClientError::TooLong`] if no record could carry it.
    pub fn request(&mut self, message: impl FnOnce(u64) -> FromClient) -> Result<u64, ClientError> {
        self.check_open()?;
        let request = self.new_ticket();
        let message = message(request);
        let bytes = encoded_bytes(&message);
        if bytes > MESSAGE_BYTES_MAX {
            return Err(ClientError::TooLong { bytes, bytes_max: MESSAGE_BYTES_MAX });
        }
        // What waits for a task has no limit, and what waits for a disk or for interpreters a long
        // one.
        let turns_max = match &message {
            FromClient::Fetch(fetch) if fetch.wait => None,
            FromClient::Query(Request { query: Query::Inspect(inspection), .. }) => {
                let seconds = inspection.sampling.map_or(0, |sampling| sampling.length_ms / 1000);
                Some(self.answer_turns_max.saturating_add(seconds))
            }
            FromClient::Restart(_) | FromClient::Revoke(_) => {
                Some(self.answer_turns_max.max(SLOW_TURNS_MIN))
            }
            _ => Some(self.answer_turns_max),
        };
        // Done twice these do something else: another signal, another interpreter.
        let repeats = !matches!(
            message,
            FromClient::Signal(_) | FromClient::Restart(_) | FromClient::Shutdown(_)
        );
        if self.is_up() {
            self.outbound.push_back(Outbound::Message(message.clone()));
        } else if !repeats {
            return Err(ClientError::Interrupted);
        }
        let message = (repeats && self.keeps_calls).then_some(message);
        self.requests.pending.insert(request, Pending::new(message, turns_max));
        Ok(request)
    }

    /// Gives the answer to a request the time that a disk may take.
    pub fn wait_for_disk(&mut self, request: u64) {
        let pending = self.requests.pending.get_mut(&request).and_then(|it| it.turns_max.as_mut());
        if let Some(turns) = pending {
            *turns = SLOW_TURNS_MIN.max(*turns);
        }
    }

    /// After so many turns an answer of the broker is late; never if nothing is said.
    pub fn set_answer_turns_max(&mut self, turns: u32) {
        self.answer_turns_max = turns;
    }

    /// Another turn of the connection, in which what had come was read. Call it only if the broker
    /// has what was said, or takes nothing of it. False if the session cannot go on: the broker
    /// does not say what it knows of it.
    pub fn handle_turn(&mut self) -> bool {
        self.count_turn();
        self.opening_turns =
            if matches!(self.link, Link::Opening) { self.opening_turns + 1 } else { 0 };
        self.opening_turns <= self.answer_turns_max
    }

    /// Another turn. True if the session is over and its goodbye has had its time to be taken.
    pub fn count_goodbye_turn(&mut self) -> bool {
        self.goodbye_turns += u32::from(self.is_over());
        self.goodbye_turns > GOODBYE_TURNS_MAX
    }

    /// Another turn in which the broker could have answered what it was asked, and what is late by
    /// that.
    fn count_turn(&mut self) {
        for pending in self.requests.pending.values_mut().filter(|it| it.answer.is_none()) {
            pending.turns = pending.turns.saturating_add(1);
            if pending.turns_max.is_some_and(|most| pending.turns > most) {
                pending.answer = Some(Answer::Late(pending.turns - 1));
                self.wakes.extend(pending.waiter.take());
            }
        }
    }

    /// The connection was cut twice, as what comes cannot be read: what was asked on both is not
    /// asked again. False if there is no such request.
    pub fn give_up_requests(&mut self, why: &str) -> bool {
        let why: Arc<str> = Arc::from(why);
        let mut given_up = 0;
        for pending in
            self.requests.pending.values_mut().filter(|it| it.answer.is_none() && it.cuts >= 2)
        {
            pending.answer = Some(Answer::Unsound(Arc::clone(&why)));
            self.wakes.extend(pending.waiter.take());
            given_up += 1;
        }
        given_up > 0
    }

    /// Asks for a task of any session of the same owner, now or when it has ended. With `follow`,
    /// its output is also fed to a reader, whose key comes second.
    ///
    /// # Errors
    /// [`ClientError::Busy`] if too many wait.
    pub fn fetch(
        &mut self,
        task: TaskId,
        wait: bool,
        follow: bool,
    ) -> Result<(u64, Option<usize>), ClientError> {
        if wait && self.requests.at_broker.len() >= FETCHES_WAITING_MAX {
            return Err(ClientError::Busy);
        }
        let TaskId { session, n } = task;
        let request = self.request(|request| {
            FromClient::Fetch(Fetch { request, session, n, wait, output: true })
        })?;
        if wait {
            self.requests.at_broker.insert(request);
        }
        let follower = follow.then(|| self.outputs.open());
        let pending = self.requests.pending.get_mut(&request).expect("it was asked a moment ago");
        pending.follower = follower;
        Ok((request, follower))
    }

    /// The answer to a request. A waiter that it replaces is given back in `replaced`.
    pub fn poll_answer(
        &mut self,
        request: u64,
        waiter: &W,
        replaced: &mut Option<W>,
    ) -> Poll<Result<Answer, ClientError>> {
        let Some(pending) = self.requests.pending.get_mut(&request) else {
            return Poll::Ready(Err(self.check_open().err().unwrap_or(ClientError::Interrupted)));
        };
        let Some(answer) = pending.answer.take() else {
            *replaced = pending.waiter.replace(waiter.clone());
            return Poll::Pending;
        };
        self.requests.pending.remove(&request);
        Poll::Ready(Ok(answer))
    }

    /// Nobody waits for an answer any longer; a follower of the output is to be forgotten by
    /// itself. The waiter is given back, to be dropped by the caller.
    pub fn forget_request(&mut self, request: u64) -> Option<W> {
        let pending = self.requests.pending.remove(&request)?;
        self.requests.release_output(pending.outputs.map_or(0, |outputs| outputs.kept_bytes()));
        pending.waiter
    }

    pub(super) fn handle_reply(&mut self, request: u64, body: ReplyBody) {
        self.end_wait(request);
        self.answer(request, Answer::Reply(body));
    }

    pub(super) fn handle_fetched(&mut self, fetched: Fetched) {
        let Fetched { request, record, secret, payload } = fetched;
        self.end_wait(request);
        let session = record.id.session;
        if let Some(secret) = secret {
            self.results.learn(session, secret);
        }
        // The broker has answered: its result takes as long as it takes.
        if let Some(pending) = self.requests.pending.get_mut(&request) {
            pending.turns_max = None;
        }
        let to = Recipient::Request(request, record);
        if let Some(received) = self.results.handle_payload_of(session, to, payload) {
            self.receive(received);
        }
    }

    pub(super) fn handle_fetched_output(&mut self, output: FetchedOutput) {
        let FetchedOutput { request, attempt, engine, stream, offset, bytes } = output;
        let Requests { pending, output_bytes, .. } = &mut self.requests;
        // Nobody waits for it any longer, and of that the broker is not told.
        let Some(pending) = pending.get_mut(&request) else { return };
        // The broker is at it, however long all of the output takes.
        pending.turns = 0;
        let mut piece = Piece { attempt, engine, stream, offset, bytes: bytes.into() };
        pending.outputs.get_or_insert_default().handle_piece(output_bytes, &piece);
        let Some(follower) = pending.follower else { return };
        let fed = pending.fed.entry((attempt, stream)).or_default();
        // After a cut the broker begins anew: the reader has the beginning already.
        let known = fed.saturating_sub(offset).min(piece.bytes.len() as u64);
        piece.bytes.advance(known as usize);
        piece.offset += known;
        *fed = (*fed).max(piece.offset + piece.bytes.len() as u64);
        if !piece.bytes.is_empty() {
            self.wakes.extend(self.outputs.push(follower, piece));
        }
    }

    /// A fetched task is here, with its result.
    pub(super) fn answer_fetch(&mut self, request: u64, record: TaskRecord, body: Body) {
        let outputs =
            self.requests.pending.get_mut(&request).and_then(|pending| pending.outputs.take());
        self.requests.release_output(outputs.as_ref().map_or(0, |outputs| outputs.kept_bytes()));
        self.answer(request, Answer::Task(Box::new(FetchedTask { record, body, outputs })));
    }

    fn answer(&mut self, request: u64, answer: Answer) {
        let Some(pending) = self.requests.pending.get_mut(&request) else { return };
        pending.answer = Some(answer);
        let follower = pending.follower.and_then(|follower| self.outputs.finish(follower));
        self.wakes.extend(pending.waiter.take().into_iter().chain(follower));
    }

    /// The broker has one waiting fetch less.
    fn end_wait(&mut self, request: u64) {
        if self.requests.at_broker.remove(&request) {
            self.wake_waiting();
        }
    }

    /// The connection was cut: what must not be done twice has no answer any longer, the rest is
    /// asked again.
    pub(super) fn cut_requests(&mut self) {
        let Requests { pending, at_broker, output_bytes } = &mut self.requests;
        at_broker.clear();
        for it in pending.values_mut().filter(|it| it.answer.is_none()) {
            let bytes = it.outputs.take().map_or(0, |outputs| outputs.kept_bytes());
            assert!(bytes <= *output_bytes, "what fetches hold is counted as it comes");
            *output_bytes -= bytes;
            (it.turns, it.cuts) = (0, it.cuts + 1);
            if it.message.is_none() {
                self.wakes.extend(it.waiter.take());
            }
        }
        pending.retain(|_, it| it.answer.is_some() || it.message.is_some());
    }

    /// Asks again what was not answered before a cut.
    pub(super) fn repeat_requests(&mut self) {
        for (request, pending) in self.requests.pending.iter().filter(|(_, it)| it.answer.is_none())
        {
            let Some(message) = pending.message.clone() else { continue };
            if matches!(&message, FromClient::Fetch(fetch) if fetch.wait) {
                self.requests.at_broker.insert(*request);
            }
            self.outbound.push_back(Outbound::Message(message));
        }
    }

    /// The connection is over: who waits learns it. Answers that have come can still be taken.
    pub(super) fn end_requests(&mut self) {
        let requests = &mut self.requests;
        requests.at_broker.clear();
        self.wakes
            .extend(requests.pending.values_mut().filter_map(|pending| pending.waiter.take()));
        requests.pending.retain(|_, pending| pending.answer.is_some());
    }
}
