//! What clients say.

use std::sync::Arc;

use bytes::Bytes;
use furlong_wire::ids::EngineId;
use furlong_wire::limits::{NAME_BYTES_MAX, SUBMIT_TARGETS_MAX};
use furlong_wire::message::{
    Accepted, Cancel, Define, ErrorKind, FromClient, Payload, Reply, ReplyBody, Request, Submit, Targets, TaskOptions,
    TaskState, ToClient,
};

use super::finish::Ended;
use super::payloads::Stored;
use super::sessions::{ClientWaiting, Definition, SessionKey};
use super::tasks::{State, Submitted, TaskKey, submitted};
use super::{Connected, ConnectionId, Core, Output, PeerMisbehaved, Time};

/// Definitions that a session may have.
const DEFINITIONS_MAX: usize = 4096;

impl Core {
    /// Takes a client's message, with the chunk that belongs to it.
    ///
    /// # Errors
    /// The client is to be closed.
    pub fn handle_from_client(
        &mut self,
        now: Time,
        connection: ConnectionId,
        message: FromClient,
        chunk: Option<Bytes>,
    ) -> Result<(), PeerMisbehaved> {
        let Some(Connected::Client(key)) = self.connections.get(&connection).copied() else {
            return Err(PeerMisbehaved::Order);
        };
        match message {
            FromClient::Submit(submit) => self.submit(now, key, &submit),
            FromClient::Chunk(announced) => self.client_chunk(now, key, announced.transfer, chunk.unwrap_or_default()),
            FromClient::Ack(ack) => self.acknowledge(key, &ack.ranges),
            FromClient::Open(open) => self.open(key, connection, open.secret),
            FromClient::Define(define) => self.define(key, &define),
            FromClient::Cancel(cancel) => self.cancel(now, key, &cancel),
            FromClient::Query(request) => self.query(now, key, connection, &request),
            FromClient::Subscribe(wanted) => {
                self.may(key, furlong_wire::token::Role::may_observe)?;
                if wanted.engines {
                    self.sessions.subscribe(key);
                }
                Ok(())
            }
            FromClient::Goodbye(_) => {
                self.end_session(now, key);
                self.connections.remove(&connection);
                self.outputs.push_back(Output::Close(connection, "goodbye"));
                Ok(())
            }
            // Results are given as they come; the bound is the unacknowledged ones that a session may have.
            FromClient::Credit(_) => Ok(()),
            FromClient::Revoke(revoke) => self.revoke(key, connection, revoke),
            FromClient::Shutdown(shutdown) => {
                let body = self.stop(key)?;
                self.to_client(connection, ToClient::Reply(Reply { request: shutdown.request, body }));
                Ok(())
            }
            FromClient::Signal(_)
            | FromClient::Restart(_)
            | FromClient::CancelTasks(_)
            | FromClient::Fetch(_)
            | FromClient::Purge(_) => Err(PeerMisbehaved::Unsupported),
        }
    }

    fn may(&self, key: SessionKey, allowed: impl Fn(furlong_wire::token::Role) -> bool) -> Result<(), PeerMisbehaved> {
        let session = self.sessions.get(key).ok_or(PeerMisbehaved::Order)?;
        if allowed(session.claims.role) { Ok(()) } else { Err(PeerMisbehaved::Role) }
    }

    /// The first message of a connection. What the client has not acknowledged is delivered again.
    fn open(
        &mut self,
        key: SessionKey,
        connection: ConnectionId,
        secret: furlong_wire::payload::PayloadSecret,
    ) -> Result<(), PeerMisbehaved> {
        let session = self.sessions.get_mut(key).ok_or(PeerMisbehaved::Order)?;
        if session.secret.get_or_insert_with(|| secret.clone()) != &secret {
            return Err(PeerMisbehaved::Order);
        }
        let accepted = session.submitted;
        let undelivered: Vec<u64> = session.done.keys().copied().collect();
        self.to_client(connection, ToClient::Accepted(Accepted { n: accepted }));
        undelivered.into_iter().for_each(|n| self.deliver(key, n));
        Ok(())
    }

    fn submit(&mut self, now: Time, key: SessionKey, submit: &Submit) -> Result<(), PeerMisbehaved> {
        let targets: &[EngineId] = match &submit.targets {
            Targets::Shared => &[],
            Targets::Engines(engines) => engines,
        };
        let shared = submit.targets == Targets::Shared;
        let count = if shared { 1 } else { targets.len() };
        let options = submit.options.as_deref();
        if count > SUBMIT_TARGETS_MAX || options.is_some_and(|options| !within_limits(options)) {
            return Err(PeerMisbehaved::Limit);
        }
        let session = self.sessions.get_mut(key).ok_or(PeerMisbehaved::Order)?;
        if session.secret.is_none() {
            return Err(PeerMisbehaved::Order);
        }
        session.receiving.check(&submit.payload)?;
        session.credit.announce(announced_bytes(&submit.payload))?;
        if !session.admit(submit.n, count)? {
            session.receiving.expect(transfer_of(&submit.payload), &submit.payload, None)?;
            self.read_past(key, &submit.payload, &Stored::Refused);
            return Ok(());
        }
        let stored = self.admit_payload(&submit.payload);
        // The targets share the options: they may be long, and the targets many.
        let options = submit.options.clone().map(|options| Arc::new(*options));
        let tasks: Vec<TaskKey> = (submit.n..submit.n + count as u64)
            .zip(targets.iter().map(|id| Some(*id)).chain(shared.then_some(None)))
            .map(|(n, target)| {
                let options = options.as_ref();
                let (runtime, class, define) = (submit.runtime, submit.class, submit.define);
                let part = Submitted { target, runtime, class, define, options };
                let task = self.tasks.insert(submitted(key, n, part, stored.clone(), now));
                let session = self.sessions.get_mut(key).expect("the session was there a moment ago");
                session.tasks.insert(n, task);
                task
            })
            .collect();
        self.place(now, key, submit, stored, tasks)
    }

    /// Queues tasks whose payload is here; others wait for theirs.
    fn place(
        &mut self,
        now: Time,
        key: SessionKey,
        submit: &Submit,
        stored: Stored,
        tasks: Vec<TaskKey>,
    ) -> Result<(), PeerMisbehaved> {
        let refusal = tasks.first().and_then(|task| self.refusal(*task, &stored));
        let whole = matches!(submit.payload, Payload::Inline(_));
        if let Some(refusal) = refusal {
            let session = self.sessions.get_mut(key).ok_or(PeerMisbehaved::Order)?;
            session.receiving.expect(transfer_of(&submit.payload), &submit.payload, None)?;
            self.read_past(key, &submit.payload, &stored);
            tasks.into_iter().for_each(|task| self.end(now, task, refusal.clone()));
            return Ok(());
        }
        for &task in &tasks {
            self.join_engine_queue(now, task);
            if whole {
                self.payload_is_whole(now, task, stored.clone());
            }
        }
        if whole {
            return Ok(());
        }
        let session = self.sessions.get_mut(key).ok_or(PeerMisbehaved::Order)?;
        session.receiving.expect(transfer_of(&submit.payload), &submit.payload, Some(ClientWaiting::Tasks(tasks)))
    }

    /// Why a task cannot be accepted, if so.
    fn refusal(&self, key: TaskKey, stored: &Stored) -> Option<Ended> {
        let task = self.tasks.get(key)?;
        let role = self.sessions.get(task.session)?.claims.role;
        let allowed = if task.target.is_some() { role.may_submit_direct() } else { role.may_submit_shared() };
        if !allowed {
            let what = if task.target.is_some() { "engines by their ids" } else { "the shared queue" };
            let text = format!("the capability's role `{role}` may not use {what}; ask for a `client` capability");
            return Some(Ended::by_broker(TaskState::Failed, ErrorKind::Forbidden, text));
        }
        if matches!(stored, Stored::Refused) {
            let (_, total) = self.budget.state();
            let text =
                format!("the broker's payload memory ({total} bytes) is full; wait, or start it with more `--memory`");
            return Some(Ended::by_broker(TaskState::Failed, ErrorKind::Busy, text));
        }
        if self.tasks.len() as u64 + self.results_held > self.config.session_tasks_max {
            let text =
                "the broker holds as many tasks as its memory takes; take results, or start it with more `--memory`";
            return Some(Ended::by_broker(TaskState::Failed, ErrorKind::Busy, text));
        }
        let option = task.options.as_deref().and_then(unserved_option)?;
        let text = format!("the option `{option}` is not served by this version of the broker");
        Some(Ended::by_broker(TaskState::Failed, ErrorKind::Unsupported, text))
    }

    /// A direct task takes its place in its engine's queue at once, so that the order is that of the submits.
    fn join_engine_queue(&mut self, now: Time, key: TaskKey) {
        let Some(target) = self.tasks.get(key).and_then(|task| task.target) else { return };
        if self.engines.update(target, |engine| engine.queue.push_back(key)).is_none() {
            let text = format!("there is no engine {target}; `furlong ids` shows who is there");
            self.end(now, key, Ended::by_broker(TaskState::Failed, ErrorKind::UnknownEngine, text));
        }
    }

    /// A task has its arguments: it is queued, or waits for the definition that it names.
    fn payload_is_whole(&mut self, now: Time, key: TaskKey, stored: Stored) {
        let Some(task) = self.tasks.get_mut(key) else { return };
        task.payload = stored;
        let Some(number) = task.define else { return self.queue(key) };
        let session = self.sessions.get_mut(task.session).expect("a session outlives its tasks");
        let text = match session.definitions.get_mut(&number) {
            Some(Definition::Here(Stored::Refused)) => {
                "the broker's payload memory was full when its function was sent"
            }
            Some(Definition::Here(_)) => return self.queue(key),
            Some(Definition::Receiving(waiting)) => return waiting.push(key),
            None => "it names a definition that was never sent",
        };
        self.end(now, key, Ended::by_broker(TaskState::Failed, ErrorKind::Payload, text));
    }

    /// A task has everything that it needs to run.
    fn queue(&mut self, key: TaskKey) {
        let Some(task) = self.tasks.get_mut(key) else { return };
        task.transition(State::Queued);
        let (priority, session, runtime) = (task.priority(), task.session, task.runtime);
        if let Some(target) = task.target {
            self.direct_ready.insert(target);
        } else {
            self.shared_len += 1;
            self.shared.entry(runtime).or_default().push(priority, session, key);
        }
    }

    fn client_chunk(&mut self, now: Time, key: SessionKey, transfer: u64, chunk: Bytes) -> Result<(), PeerMisbehaved> {
        let session = self.sessions.get_mut(key).ok_or(PeerMisbehaved::Order)?;
        let Some((waiting, stored)) = session.receiving.handle_chunk(transfer, chunk)? else { return Ok(()) };
        match waiting {
            ClientWaiting::Definition(number) => {
                let before = session.definitions.insert(number, Definition::Here(stored));
                let Some(Definition::Receiving(waiting)) = before else { return Err(PeerMisbehaved::Order) };
                for task in waiting {
                    let payload = self.tasks.get(task).map(|task| task.payload.clone());
                    payload.into_iter().for_each(|payload| self.payload_is_whole(now, task, payload));
                }
            }
            ClientWaiting::Tasks(tasks) => {
                let live = tasks.into_iter().filter(|task| self.tasks.get(*task).is_some()).collect::<Vec<_>>();
                if live.is_empty() {
                    self.release_request(key, &stored);
                }
                let Some((last, others)) = live.split_last() else { return Ok(()) };
                others.iter().for_each(|task| self.payload_is_whole(now, *task, stored.clone()));
                // The last one gets this clone: whichever task ends last must find that nobody else holds the payload.
                self.payload_is_whole(now, *last, stored);
            }
        }
        Ok(())
    }

    fn define(&mut self, key: SessionKey, define: &Define) -> Result<(), PeerMisbehaved> {
        self.may(key, |role| role.may_submit_direct() || role.may_submit_shared())?;
        let session = self.sessions.get_mut(key).ok_or(PeerMisbehaved::Order)?;
        session.receiving.check(&define.payload)?;
        session.credit.announce(announced_bytes(&define.payload))?;
        if session.definitions.len() >= DEFINITIONS_MAX || session.definitions.contains_key(&define.number) {
            return Err(PeerMisbehaved::Limit);
        }
        let stored = self.admit_payload(&define.payload);
        let session = self.sessions.get_mut(key).ok_or(PeerMisbehaved::Order)?;
        let whole = matches!(define.payload, Payload::Inline(_)) || matches!(stored, Stored::Refused);
        let waiting = (!whole).then_some(ClientWaiting::Definition(define.number));
        let definition = if whole { Definition::Here(stored) } else { Definition::Receiving(Vec::new()) };
        let refused = matches!(definition, Definition::Here(Stored::Refused));
        session.definitions.insert(define.number, definition);
        session.receiving.expect(transfer_of(&define.payload), &define.payload, waiting)?;
        if refused {
            self.read_past(key, &define.payload, &Stored::Refused);
        }
        Ok(())
    }

    fn cancel(&mut self, now: Time, key: SessionKey, cancel: &Cancel) -> Result<(), PeerMisbehaved> {
        let session = self.sessions.get(key).ok_or(PeerMisbehaved::Order)?;
        // Ascending and disjoint, so that a task is met once however many ranges there are.
        let ascending = cancel.ranges.windows(2).all(|pair| pair[0].1 < pair[1].0);
        if !ascending || cancel.ranges.iter().any(|(first, last)| first > last) {
            return Err(PeerMisbehaved::Limit);
        }
        let ranges = cancel.ranges.iter();
        let tasks: Vec<TaskKey> =
            ranges.flat_map(|(first, last)| session.tasks.range(first..=last)).map(|(_, task)| *task).collect();
        tasks.into_iter().for_each(|task| self.cancel_task(now, task, cancel.force));
        Ok(())
    }

    fn query(
        &mut self,
        now: Time,
        key: SessionKey,
        connection: ConnectionId,
        request: &Request,
    ) -> Result<(), PeerMisbehaved> {
        let role = self.sessions.get(key).ok_or(PeerMisbehaved::Order)?.claims.role;
        let body = if role.may_observe() {
            self.answer(now, &request.query)
        } else {
            ReplyBody::Refused(format!("the capability's role `{role}` may not ask for the cluster's state"))
        };
        self.to_client(connection, ToClient::Reply(Reply { request: request.request, body }));
        Ok(())
    }

    /// Takes a payload into the budget; its chunks, if it has any, are still to come.
    pub(super) fn admit_payload(&mut self, payload: &Payload) -> Stored {
        match payload {
            Payload::Inline(bytes) => Stored::Inline(bytes.clone()),
            Payload::Chunked { bytes, .. } if self.budget.reserve(*bytes) => Stored::Inline(Bytes::new()),
            Payload::Chunked { .. } => Stored::Refused,
        }
    }

    /// Gives back what was reserved for a payload that is read past, and lets the client send as many bytes again.
    fn read_past(&mut self, key: SessionKey, payload: &Payload, stored: &Stored) {
        let bytes = announced_bytes(payload);
        if bytes > 0 && !matches!(stored, Stored::Refused) {
            self.budget.release(bytes);
        }
        if bytes > 0 {
            self.grant_to_client(key, bytes);
        }
    }
}

/// What an announcement counts against credit and budget: chunked payloads only.
pub(super) fn announced_bytes(payload: &Payload) -> u64 {
    match payload {
        Payload::Inline(_) => 0,
        Payload::Chunked { bytes, .. } => *bytes,
    }
}

/// The transfer of an announcement.
pub(super) fn transfer_of(payload: &Payload) -> u64 {
    match payload {
        Payload::Inline(_) => 0,
        Payload::Chunked { transfer, .. } => *transfer,
    }
}

fn within_limits(options: &TaskOptions) -> bool {
    let names = options.label.iter().chain(&options.require);
    options.after.len() + options.follow.len() <= SUBMIT_TARGETS_MAX
        && options.require.len() <= 64
        && names.into_iter().all(|name| name.len() <= NAME_BYTES_MAX)
}

/// The first option that this version does not serve.
fn unserved_option(options: &TaskOptions) -> Option<&'static str> {
    let unserved = [
        ("queue_timeout", options.queue_timeout_ms.is_some()),
        ("run_timeout", options.run_timeout_ms.is_some()),
        ("after", !options.after.is_empty()),
        ("follow", !options.follow.is_empty()),
        ("require", !options.require.is_empty()),
        ("keep", options.keep),
        ("restart_safe", options.restart_safe),
        ("durable", options.durable),
    ];
    unserved.into_iter().find(|(_, asked)| *asked).map(|(name, _)| name)
}
