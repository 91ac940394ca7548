//! The session on its next connection, after one was cut: what is said again, and in which order.
//!
//! The client opens its session, the broker says what it knows of it (`Accepted`), and the client
//! submits the rest once more: first definitions, then tasks in the order of their numbers, as far
//! as the credit goes. Then come cancels and requests. Until that is done, new submits wait.

use std::collections::{BTreeMap, VecDeque};

use furlong_wire::ids::{TaskId, TaskSeq};
use furlong_wire::message::{
    Accepted, ErrorKind, FromClient, Open, Outcome, Submit, Subscribe, Targets, TaskOptions,
    TaskState, TaskTimes, Undefine, Welcome,
};
use furlong_wire::payload::PayloadSecret;

use super::content::{Call, Names};
use super::results::Body;
use super::tasks::{Completion, CompletionKind, Sent};
use super::{Core, Outbound, Waiter, announced_bytes};
use crate::error::ClientError;

/// The state of the session's connection to the broker.
#[derive(Debug)]
pub(super) enum Link {
    /// Everything that was said has gone out on this connection.
    Up,
    /// There is no connection.
    Away,
    /// There is one again, and the broker has not said what it knows.
    Opening,
    /// The rest that must be said again: definitions, then tasks.
    Repeating(VecDeque<u32>, VecDeque<TaskSeq>),
}

/// The opening of a session on each of its connections.
#[derive(Debug)]
pub(super) struct Opening {
    pub secret: PayloadSecret,
    /// The highest number of a task that an earlier start of the broker may have had.
    pub submitted: TaskSeq,
    pub cancel_on_disconnect: bool,
    pub hides_names: bool,
    /// The names of its kinds of tasks, which are said on each connection.
    pub names: Names,
}

/// Submits that are said again in one go.
const REPEATED_AT_ONCE: usize = 1024;

impl<W: Waiter> Core<W> {
    /// Returns the number of unfinished tasks.
    pub fn unfinished_count(&self) -> usize {
        self.tasks.unfinished_count()
    }

    /// Returns true if the session can go on, on another connection.
    pub fn can_come_back(&self) -> bool {
        self.keeps_calls && self.over.is_none()
    }

    /// The connection was cut. What it was about to carry is given up, to be said again on the next
    /// one.
    pub fn handle_cut(&mut self) {
        self.link = Link::Away;
        self.was_cut = true;
        // A cancel must not overtake a submit that is said again.
        self.flushed_n = TaskSeq::MIN;
        // Whatever was half said or half received: the other side forgets it, too.
        self.outbound.clear();
        self.results.clear();
        self.tasks.handle_cut();
        // The broker delivers again what it does not know to have arrived.
        self.flow.handle_acknowledged(self.acks.handle_cut());
        self.acks.staying.handle_cut();
        self.want_inputs(|_| true);
        self.cut_requests();
        self.cut_watches();
    }

    /// There is a connection again, with a broker that takes so much. False if the broker has ended
    /// the session meanwhile, and the connection is to be closed.
    pub fn handle_reconnected(&mut self, welcome: &Welcome) -> bool {
        // Another start of the broker knows no session, and takes it up as the client says it.
        if !welcome.resumed && welcome.start == self.start {
            return false;
        }
        if welcome.start != self.start {
            (self.start, self.opening.submitted) = (welcome.start, self.next_n - 1);
        }
        self.link = Link::Opening;
        self.opening_turns = 0;
        self.next_transfer = 1;
        self.flow.begin(welcome.unfinished_tasks_max, welcome.payload_credit_bytes);
        let open = self.opening.open();
        self.outbound.push_back(Outbound::Message(open));
        let names = self.opening.names.all().map(FromClient::Name).map(Outbound::Message);
        self.outbound.extend(names);
        true
    }

    /// Says the name of a call's kind, if this is its first one.
    pub(super) fn say_name(&mut self, call: &Call) {
        if self.opening.hides_names {
            return;
        }
        if let Some(name) = self.opening.names.name(call) {
            self.outbound.push_back(Outbound::Message(FromClient::Name(name)));
        }
    }

    /// The broker says what it knows of the session.
    pub(super) fn handle_accepted(&mut self, accepted: &Accepted) {
        // On a session's first connection there is nothing to say again.
        if !matches!(self.link, Link::Opening) {
            return;
        }
        // The ranges ascend.
        let missing = &accepted.missing;
        let range_of = |n| missing.get(missing.partition_point(|(_, last)| *last < n));
        let is_missing = |n| range_of(n).is_some_and(|(first, _)| *first <= n);
        let mut tasks = Vec::new();
        for n in self.held() {
            // It may name none that an earlier start had, though it has some of their results.
            if self.acks.staying.was_said(n) {
                continue;
            }
            let Some(sent) = self.sent_mut(n) else { continue };
            sent.repeated |= n > accepted.n || is_missing(n);
            if sent.repeated {
                tasks.push(n);
            }
        }
        self.want_inputs(|sent| sent.repeated);
        // What stayed until it was known what is to be said again.
        self.release_unwanted();
        tasks.sort_unstable();
        let tasks = VecDeque::from(tasks);
        let is_there = |number: &u32| accepted.definitions.contains(number);
        let definitions = self.definitions.numbers().filter(|number| !is_there(number)).collect();
        // What was let go when the connection was cut.
        let surplus = accepted
            .definitions
            .iter()
            .filter(|number| self.definitions.packed(**number).is_none());
        let surplus = surplus
            .map(|number| Outbound::Message(FromClient::Undefine(Undefine { number: *number })));
        self.outbound.extend(surplus);
        self.link = Link::Repeating(definitions, tasks);
        // Results of before, of which the broker had not been told: they occupy what is submitted
        // now.
        self.send_acks();
        self.repeat();
    }

    /// Says again what is left, as far as there is room for it.
    pub(super) fn repeat(&mut self) {
        for _ in 0..REPEATED_AT_ONCE {
            let Link::Repeating(definitions, tasks) = &self.link else { return };
            let (definition, task) = (definitions.front().copied(), tasks.front().copied());
            let went = match (definition, task) {
                (Some(number), _) => self.repeat_definition(number),
                (None, Some(n)) => self.repeat_task(n),
                (None, None) => return self.resume_session(),
            };
            let Link::Repeating(definitions, tasks) = &mut self.link else {
                unreachable!("what is said again ends when nothing is left")
            };
            match definition {
                _ if !went => return,
                Some(_) => _ = definitions.pop_front(),
                None => {
                    let said = tasks.pop_front().expect("it was said a moment ago");
                    // What comes next may have the place of a result that stayed for this.
                    if self.acks.staying.want_no_longer(said) {
                        self.release_unwanted();
                        self.send_acks();
                    }
                }
            }
        }
    }

    /// The tasks of which the broker may have to be told once more, by their numbers.
    fn held(&self) -> Vec<TaskSeq> {
        let unfinished = self.tasks.unfinished().into_iter().map(|(n, _)| n);
        unfinished.chain(self.acks.staying.numbers()).collect()
    }

    fn sent_mut(&mut self, n: TaskSeq) -> Option<&mut Sent> {
        self.tasks.sent_mut(n).or_else(|| self.acks.staying.sent_mut(n))
    }

    /// The inputs of those tasks are to stay until these are said again.
    fn want_inputs(&mut self, are_of: impl Fn(&Sent) -> bool) {
        let session = self.results.session();
        let mut inputs = BTreeMap::new();
        let mut held = self.held();
        held.sort_unstable();
        for n in held {
            let sent = self.sent_mut(n).filter(|sent| are_of(sent));
            let options = sent.and_then(|sent| sent.call.options.as_deref()).into_iter();
            // Of other sessions' results others decide how long they stay.
            let own = options.flat_map(|it| &it.inputs).filter(|task| task.session == session);
            inputs.extend(own.map(|task| (task.n, n)));
        }
        self.acks.staying.want(inputs);
    }

    fn repeat_definition(&mut self, number: u32) -> bool {
        let packed = self.definitions.packed(number).expect("nothing is let go before all is said");
        let bytes = announced_bytes(&packed);
        if !self.flow.has_bytes(bytes) {
            return false;
        }
        self.flow.take(0, bytes, bytes);
        self.send_definition(number, packed);
        true
    }

    fn repeat_task(&mut self, n: TaskSeq) -> bool {
        // It may have ended meanwhile.
        let sent = self.sent_mut(n).filter(|sent| sent.repeated);
        let Some(sent) = sent.cloned() else { return true };
        let call = &sent.call;
        let bytes = announced_bytes(&call.packed);
        if let Err(ClientError::PayloadTooLarge { .. }) = self.flow.check(1, bytes) {
            self.end_too_large(n, bytes);
            return true;
        }
        if !self.flow.has_bytes(bytes) {
            return false;
        }
        self.flow.take(0, bytes, 0);
        self.acks.staying.make_again(n);
        let mut options =
            TaskOptions { repeated: true, ..call.options.as_deref().cloned().unwrap_or_default() };
        self.leave_out_met(n, Some(&mut options));
        let options = Some(Box::new(options));
        let targets = sent.target.map_or(Targets::Shared, |engine| Targets::Engines(vec![engine]));
        let (runtime, class, define) = (call.runtime, call.class, call.define);
        self.send_payload(call.packed.clone(), |payload| {
            FromClient::Submit(Submit { n, targets, runtime, class, define, options, payload })
        });
        true
    }

    /// The broker that is there now need not know how the session's earlier tasks have ended.
    pub(super) fn leave_out_met(&self, n: TaskSeq, options: Option<&mut TaskOptions>) {
        if let Some(options) = options.filter(|options| !options.after.is_empty()) {
            self.tasks.ends.leave_out_met(TaskId { session: self.results.session(), n }, options);
        }
    }

    /// The broker that is there now takes less than the one to which this was submitted.
    fn end_too_large(&mut self, n: TaskSeq, bytes: u64) {
        // Its end has come, and only the payload of that is still on the way.
        let Some(key) = self.tasks.begin_end(n) else {
            return self.end_stay(n, false);
        };
        let text = format!(
            "its arguments have {bytes} bytes, more than the broker takes since it was started again with less memory"
        );
        let end = CompletionKind::Finished(
            Outcome::error(TaskState::Lost, ErrorKind::Payload, text),
            Body::None,
        );
        let (engine, attempts, times, outputs) = (None, 0, TaskTimes::default(), None);
        self.flow.handle_acknowledged(1);
        self.deliver(key, Completion { n, engine, attempts, times, outputs, stays: None, end });
    }

    /// Everything that the broker did not know was said again: the rest follows, and the session
    /// goes on.
    fn resume_session(&mut self) {
        // First, since a cancel goes out only on a connection that is up.
        self.link = Link::Up;
        let mut cancelled: [Vec<(TaskSeq, TaskSeq)>; 2] = Default::default();
        for (n, _) in self.tasks.unfinished() {
            let force = self.tasks.sent_mut(n).and_then(|sent| sent.cancelled);
            if let Some(force) = force {
                cancelled[usize::from(force)].push((n, n));
            }
        }
        for (ranges, force) in cancelled.into_iter().zip([false, true]) {
            self.cancel(&ranges, force);
        }
        if !self.events.is_empty() {
            self.outbound
                .push_back(Outbound::Message(FromClient::Subscribe(Subscribe { engines: true })));
        }
        self.repeat_requests();
        self.wake_waiting();
    }

    /// Returns true if what is said now goes out on this connection.
    pub(super) fn is_up(&self) -> bool {
        matches!(self.link, Link::Up)
    }
}

impl Opening {
    /// The opening of a session that no broker has had yet.
    pub(super) fn new(
        secret: PayloadSecret,
        cancel_on_disconnect: bool,
        hides_names: bool,
    ) -> Self {
        let (submitted, names) = (TaskSeq::MIN, Names::default());
        Self { secret, submitted, cancel_on_disconnect, hides_names, names }
    }

    /// The message that says it.
    pub(super) fn open(&self) -> FromClient {
        let Self { secret, submitted, cancel_on_disconnect, hides_names, .. } = self;
        FromClient::Open(Open {
            secret: secret.clone(),
            cancel_on_disconnect: *cancel_on_disconnect,
            submitted: *submitted,
            hides_names: *hides_names,
        })
    }
}
