//! Submission of tasks: they are checked, numbered, stored with their arguments and queued.

use std::sync::Arc;

use bytes::Bytes;
use furlong_wire::AtLeastOne;
use furlong_wire::ids::{EngineId, TaskId};
use furlong_wire::limits::{NAME_BYTES_MAX, SUBMIT_TARGETS_MAX};
use furlong_wire::message::{ErrorKind, Payload, Runtime, Submit, Targets, TaskOptions, TaskState};
use furlong_wire::payload::InlineBytes;

use super::end::{TaskEnd, unmet, unmet_again};
use super::extras::TaskInput;
use super::table::{Queue, State, Submitted, Task, submitted};
use super::waits::Waits;
use crate::core::keys::{PlacementId, SessionKey, TaskKey};
use crate::core::payloads::budget::BytesOf;
use crate::core::payloads::stored::Stored;
use crate::core::schedule::time_left::demanded_s;
use crate::core::sessions::table::{Admission, ClientWaiting, Definition};
use crate::core::{Core, PeerMisbehaved, Time};

impl Core {
    pub(in crate::core) fn submit(
        &mut self,
        now: Time,
        key: SessionKey,
        mut submit: Submit,
    ) -> Result<(), PeerMisbehaved> {
        let (shared, tasks_count) = match &submit.targets {
            Targets::Shared => (true, 1),
            Targets::Engines(engines) => (false, engines.len()),
        };
        let options = submit.options.as_deref();
        if tasks_count > SUBMIT_TARGETS_MAX
            || options.is_some_and(|options| !within_limits(options))
        {
            return Err(PeerMisbehaved::Limit);
        }
        let session = self.sessions.get_mut(key).filter(|session| session.secret.is_some());
        let session = session.ok_or(PeerMisbehaved::Order)?;
        // Whatever comes of it: its chunks follow in any case, and count until they have been read.
        session.link.receiving.check(&submit.payload)?;
        session.link.credit.announce(announced_bytes(&submit.payload))?;
        let repeated = options.is_some_and(|options| options.repeated);
        // The ends that a session remembers are bounded. What is kept has ended all the same.
        let is_kept = repeated && self.kept.get(key, submit.n).is_some();
        let dependencies = options.map_or(0, dependencies);
        match session.admit(submit.n, tasks_count, repeated)? {
            Admission::New if !is_kept => session.note_new(&mut submit),
            Admission::Refused if !is_kept => self.forget_refusal(key, submit.n),
            Admission::Missing(task) => return self.receive_again(now, key, task, &submit.payload),
            Admission::New | Admission::Known | Admission::Refused => {
                let payload = &submit.payload;
                session.link.receiving.expect(transfer_of(payload), payload, None)?;
                self.read_past(key, payload, &Stored::Refused);
                return Ok(());
            }
        }
        self.turns.work.add(tasks_count + dependencies);
        let stored = self.admit_payload(key, &submit.payload);
        if let Some(refusal) = self.why_refused(key, &submit, tasks_count as u64, &stored) {
            return self.turn_away(now, key, &submit, &stored, &refusal);
        }
        // Demands are entered before the tasks that name them: a placement without a task is gone.
        let placement = self.enter_placement(key, &submit, tasks_count as u64);
        // The targets share the options: they may be long, and the targets many.
        let options = submit.options.take().map(|options| Arc::new(*options));
        let of_all = (placement.unwrap_or_else(|plain| plain), options.as_ref());
        let tasks = self.enter_tasks(now, key, &submit, of_all, &stored);
        let has_room = options
            .as_ref()
            .is_none_or(|options| self.charge_options(tasks.iter().copied(), options));
        let refusal = match placement {
            Err(_) => Some(too_many_demands()),
            Ok(_) if !has_room => {
                Some(TaskEnd::by_broker(TaskState::Failed, ErrorKind::Busy, self.no_memory(0)))
            }
            Ok(_) => self.refusal(&tasks),
        };
        if let Some(refusal) = refusal {
            return self.refuse(now, key, &submit.payload, &stored, tasks, &refusal);
        }
        // Only a task for one engine can wait for what occupies that engine.
        let may_be_circles = !shared && self.is_bound(key);
        let placed: Vec<TaskKey> = tasks.iter().copied().filter(|_| may_be_circles).collect();
        self.place(now, key, &submit.payload, options.as_deref(), stored, tasks)?;
        if may_be_circles {
            self.refuse_circles(now, key, &placed);
        }
        Ok(())
    }

    /// Gives the tasks of a submit their places in the table, one for each target. Whatever comes
    /// of them, each of them ends.
    fn enter_tasks(
        &mut self,
        now: Time,
        key: SessionKey,
        submit: &Submit,
        (placement, options): (PlacementId, Option<&Arc<TaskOptions>>),
        stored: &Stored,
    ) -> AtLeastOne<TaskKey> {
        let targets: &[EngineId] = match &submit.targets {
            Targets::Shared => &[],
            Targets::Engines(engines) => engines,
        };
        let is_durable =
            self.recovery.journal.is_there() && options.is_some_and(|options| options.durable);
        let kind = self.seen_kind(key, submit.runtime, submit.class);
        self.see_submitted(now, key, kind, targets.len().max(1) as u64);
        let mut enter = |n, target| {
            let Submit { runtime, class, define, .. } = *submit;
            let durable = is_durable.then(|| self.recovery.journal.begin());
            let part =
                Submitted { target, placement, runtime, class, kind, define, options, durable };
            let task = self.tasks.insert(submitted(key, n, part, stored.clone(), now));
            let session = self.sessions.get_mut(key).expect("the session was there a moment ago");
            let before = session.ledger.tasks.insert(n, task);
            assert!(before.is_none(), "a session has two tasks {n}");
            session.ledger.keeps += u64::from(options.is_some_and(|options| options.keep));
            self.peers.quotas.begin_task(session.counted_by);
            task
        };
        let first = enter(submit.n, targets.first().copied());
        let others = (submit.n + 1).onward().zip(targets.iter().skip(1));
        AtLeastOne { first, others: others.map(|(n, id)| enter(n, Some(*id))).collect() }
    }

    /// Takes the arguments of a task that is here without them: the connection was cut when they
    /// were on the way.
    fn receive_again(
        &mut self,
        now: Time,
        key: SessionKey,
        task: TaskKey,
        payload: &Payload,
    ) -> Result<(), PeerMisbehaved> {
        let stored = self.admit_payload(key, payload);
        let refused = matches!(stored, Stored::Refused);
        let waits = (!refused).then(|| ClientWaiting::Tasks(AtLeastOne::new(task)));
        let session = self.sessions.get_mut(key).ok_or(PeerMisbehaved::Order)?;
        session.link.receiving.expect(transfer_of(payload), payload, waits)?;
        if refused {
            self.read_past(key, payload, &stored);
            let text = self.no_memory(0);
            self.end(now, task, TaskEnd::by_broker(TaskState::Failed, ErrorKind::Busy, text));
        } else if matches!(payload, Payload::Inline(_)) {
            self.take_payload(now, task, stored);
        }
        Ok(())
    }

    /// Registers the demands of the tasks. As an error, the plain demands, if there are too many
    /// different ones.
    fn enter_placement(
        &mut self,
        key: SessionKey,
        submit: &Submit,
        tasks: u64,
    ) -> Result<PlacementId, PlacementId> {
        let session = self.sessions.get(key).expect("a session that submits is here");
        let (scopes, depth) = (&session.claims.scopes[..], session.nesting.depth);
        let require = submit.options.as_ref().map_or(&[][..], |options| &options.require);
        let nested = (depth, demanded_s(submit.options.as_deref()));
        let placements = &mut self.schedule.placements;
        let entered = placements.enter(submit.runtime, require, scopes, nested, tasks);
        // The tasks are entered all the same: they have numbers, and each of them ends. They are
        // refused with these demands, and never queued.
        entered.ok_or_else(|| {
            self.schedule
                .placements
                .enter(submit.runtime, &[], &[], (0, 0), tasks)
                .expect("the plain demands are always there")
        })
    }

    /// Ends tasks that cannot be accepted, and reads past their payload.
    fn refuse(
        &mut self,
        now: Time,
        key: SessionKey,
        payload: &Payload,
        stored: &Stored,
        tasks: AtLeastOne<TaskKey>,
        refusal: &TaskEnd,
    ) -> Result<(), PeerMisbehaved> {
        let session = self.sessions.get_mut(key).ok_or(PeerMisbehaved::Order)?;
        session.link.receiving.expect(transfer_of(payload), payload, None)?;
        self.read_past(key, payload, stored);
        for key in tasks {
            let task = self.tasks.get_mut(key).expect("a task of this submit has not ended");
            let engine = task.target();
            // It has not joined its engine's queue, which would count it out.
            task.queue = Queue::Shared;
            let TaskEnd { outcome, .. } = refusal;
            self.end(now, key, TaskEnd { outcome: outcome.clone(), engine, ..TaskEnd::default() });
        }
        Ok(())
    }

    /// Queues tasks whose payload is here; others wait for theirs.
    fn place(
        &mut self,
        now: Time,
        key: SessionKey,
        payload: &Payload,
        options: Option<&TaskOptions>,
        stored: Stored,
        tasks: AtLeastOne<TaskKey>,
    ) -> Result<(), PeerMisbehaved> {
        // Asked once for all targets, before any of them is in a queue: all are accepted, or none.
        let waits = options.map_or(Ok(None), |options| self.waits_for(key, &tasks, options));
        // After the dependencies: of tasks that are unknown those say more.
        let inputs = waits.and_then(|waits| {
            let inputs = options.map_or(Ok(Vec::new()), |options| self.inputs_of(key, options));
            inputs.map(|inputs| (waits, inputs)).map_err(|text| Box::new(refused(options, &text)))
        });
        let (waits, inputs) = match inputs {
            Err(refusal) => return self.refuse(now, key, payload, &stored, tasks, &refusal),
            Ok(waits) => waits,
        };
        let whole = matches!(payload, Payload::Inline(_));
        for &task in tasks.iter() {
            self.join(now, task, waits.as_ref(), &inputs);
            if whole {
                self.take_payload(now, task, stored.clone());
            }
        }
        // Each of the tasks is a user of its own.
        self.let_go_of_inputs(inputs);
        if whole {
            return Ok(());
        }
        let share = (tasks.len() > 1).then(|| {
            self.memory.shares_made += 1;
            self.memory.shares_made
        });
        let session = self.sessions.get_mut(key).ok_or(PeerMisbehaved::Order)?;
        let waiting = Some(ClientWaiting::Tasks(tasks));
        session.link.receiving.expect_share(transfer_of(payload), payload, waiting, share)
    }

    /// Returns the dependencies for which a submit's tasks wait. As an error, why they cannot be
    /// accepted.
    fn waits_for(
        &self,
        key: SessionKey,
        tasks: &AtLeastOne<TaskKey>,
        options: &TaskOptions,
    ) -> Result<Option<Waits>, Box<TaskEnd>> {
        let session = self.sessions.get(key).expect("a session outlives its tasks");
        let first = self.tasks.get(tasks.first).expect("a task of this submit has not ended").n;
        let own = TaskId { session: session.id, n: first };
        self.waits_of(session.owner(), own, options, &[])
            .map_err(|text| Box::new(refused(Some(options), &text)))
    }

    /// Why tasks cannot be accepted as they are, if so.
    fn refusal(&self, tasks: &AtLeastOne<TaskKey>) -> Option<TaskEnd> {
        let task = self.tasks.get(tasks.first).expect("a task of this submit has not ended");
        let options = task.options.as_deref()?;
        let text = contradiction(options, task.runtime, task.queue != Queue::Shared)
            .or_else(|| self.not_durable(task.session, options))?;
        Some(TaskEnd::by_broker(TaskState::Failed, ErrorKind::Unsupported, text))
    }

    /// Returns the reason that tasks cannot be durable, if they are to be.
    fn not_durable(&self, session: SessionKey, options: &TaskOptions) -> Option<&'static str> {
        if !options.durable {
            return None;
        }
        if !self.recovery.journal.is_there() {
            return Some(
                "`durable` needs a journal, which this broker does not have; start it with `--journal FILE`",
            );
        }
        let session = self.sessions.get(session).expect("a session outlives its tasks");
        if session.departure.cancel_on_disconnect {
            return Some(
                "`durable` and `cancel_on_disconnect` contradict each other; leave one of them out",
            );
        }
        // After a restart nobody would know of the other one, and this one would never run.
        let others = options.after.iter().chain(&options.follow).map(|demand| demand.task);
        let waits_for_memory =
            others.into_iter().any(|other| self.is_in_memory_alone(session.owner(), other));
        waits_for_memory.then_some(
            "a durable task can wait for durable ones alone: submit the other as `durable` too",
        )
    }

    pub(in crate::core) fn no_memory(&self, of_token: u64) -> String {
        let (_, total) = self.memory.budget.state();
        let token = match of_token {
            0 => String::new(),
            most => format!(" or the capability's limit of {most} bytes is reached"),
        };
        let flag = self.config.memory_flag;
        format!(
            "the broker's payload memory ({total} bytes) is full{token}; wait, or start it with more: {flag}"
        )
    }

    /// A direct task takes its place in its engine's queue at once, so that the order is that of
    /// the submits. What depends on others is noted.
    fn join(&mut self, now: Time, key: TaskKey, waits: Option<&Waits>, inputs: &[TaskInput]) {
        let task = self.tasks.get(key).expect("a task of this submit has not ended");
        let (target, session, placement, n) = (task.target(), task.session, task.placement, task.n);
        let is_durable = task.durable().is_some();
        if task.options.is_some() {
            self.set_deadline(now, key);
        }
        if let Some(target) = target {
            let Some(engine) = self.engines.get(target).filter(|engine| engine.loss.is_none())
            else {
                let text = format!("there is no engine {target}; `furlong ids` shows who is there");
                return self.end(
                    now,
                    key,
                    TaskEnd::by_broker(TaskState::Failed, ErrorKind::UnknownEngine, text),
                );
            };
            // An engine that is away has no class: its task is checked when it is given out.
            let class = engine.class.and_then(|class| self.schedule.placements.class(class));
            let demands = &self.schedule.placements.get(placement).demands;
            let out_of_scope = class.is_some_and(|class| !demands.are_in_scope(class)).then(|| {
                format!(
                    "the capability is for engines with one of the labels {}, which engine {target} does not have",
                    demands.scopes.join(", ")
                )
            });
            let tasks = &self.tasks;
            let is_repeated = tasks.get(key).is_some_and(Task::may_be_repeated);
            // Also if it is about to be refused: it leaves the queue as any other that ends.
            self.engines.update(target, |engine| {
                if is_repeated {
                    // Later ones may be here already, from the journal.
                    engine.queue.put_in_order(session, key, tasks);
                } else {
                    engine.queue.push_back(session, n, key);
                }
                engine.queue.note(session, tasks);
            });
            if is_durable {
                self.recovery.journal.line_up(session, target, n, key);
            }
            if let Some(text) = out_of_scope {
                return self.end(
                    now,
                    key,
                    TaskEnd::by_broker(TaskState::Failed, ErrorKind::Forbidden, text),
                );
            }
        }
        if !inputs.is_empty() {
            let users = inputs.iter().filter_map(|input| input.value);
            users.for_each(|value| self.memory.values.add_user(value));
            let task = self.tasks.get_mut(key).expect("a task that joins has not ended");
            task.more_mut().inputs = inputs.to_vec();
        }
        if let Some(waits) = waits {
            self.begin_to_wait(key, waits.clone());
        }
    }

    /// A task has its arguments: it is queued, or waits for the definition that it names.
    pub(in crate::core) fn take_payload(&mut self, now: Time, key: TaskKey, stored: Stored) {
        // It may have ended before its arguments were here: cancelled, or for want of its engine.
        let Some(task) = self.tasks.get_mut(key) else { return };
        task.payload = stored;
        if task.runtime == Runtime::Value {
            return self.put_value(now, key);
        }
        let Some(number) = task.define else { return self.admit_with_arguments(now, key) };
        let session = self.sessions.get_mut(task.session).expect("a session outlives its tasks");
        let text = match session.definitions.get_mut(&number) {
            Some(Definition::Here(Stored::Refused)) => {
                "the broker's payload memory was full when its function was sent"
            }
            Some(Definition::Here(_)) => return self.admit_with_arguments(now, key),
            Some(Definition::Receiving(waiting) | Definition::Missing(waiting)) => {
                return waiting.push(key);
            }
            None => "it names a definition that was never sent",
        };
        self.end(now, key, TaskEnd::by_broker(TaskState::Failed, ErrorKind::Payload, text));
    }

    /// A task has arguments and definition: it is queued, or waits for other tasks.
    pub(in crate::core) fn admit_with_arguments(&mut self, now: Time, key: TaskKey) {
        if self.waits_for_journal(key) {
            return;
        }
        match self.still_waits(key) {
            Ok(false) => self.queue(now, key),
            Ok(true) => {
                let task = self.tasks.get_mut(key).expect("a task that waits has not ended");
                task.transition(State::Waiting);
                self.waiting.held += 1;
            }
            Err(text) => self.end(now, key, unmet(&text)),
        }
    }

    pub(in crate::core) fn client_chunk(
        &mut self,
        now: Time,
        key: SessionKey,
        transfer: u64,
        chunk: Bytes,
    ) -> Result<(), PeerMisbehaved> {
        let session = self.sessions.get_mut(key).ok_or(PeerMisbehaved::Order)?;
        let whole = session.link.receiving.handle_chunk(transfer, chunk)?;
        whole.map_or(Ok(()), |(waiting, stored)| self.client_payload(now, key, waiting, stored))
    }

    /// A client's payload is whole: what waits for it goes on.
    pub(in crate::core) fn client_payload(
        &mut self,
        now: Time,
        key: SessionKey,
        waiting: ClientWaiting,
        stored: Stored,
    ) -> Result<(), PeerMisbehaved> {
        match waiting {
            ClientWaiting::Definition(number) => {
                return self.take_definition(now, key, number, stored);
            }
            ClientWaiting::Tasks(tasks) => {
                let live = tasks
                    .into_iter()
                    .filter(|task| self.tasks.get(*task).is_some())
                    .collect::<Vec<_>>();
                if live.is_empty() {
                    self.release_request(key, &stored);
                }
                // All of them were cancelled while it was on the way.
                let Some((last, others)) = live.split_last() else { return Ok(()) };
                others.iter().for_each(|task| self.take_payload(now, *task, stored.clone()));
                // The last one gets this clone: whichever task ends last must find that nobody else
                // holds the payload.
                self.take_payload(now, *last, stored);
            }
        }
        Ok(())
    }

    /// Takes a client's payload into the budget; its chunks, if it has any, are still to come.
    pub(in crate::core) fn admit_payload(&mut self, key: SessionKey, payload: &Payload) -> Stored {
        let bytes = match payload {
            // Not in the budget: the table of tasks counts a task with its inline payloads.
            Payload::Inline(bytes) => return Stored::Inline(bytes.clone()),
            Payload::Chunked { bytes, .. } => bytes,
        };
        let token = self.sessions.get(key).expect("a session that announces is here").counted_by;
        if !self.peers.quotas.reserve(token, *bytes) {
            return Stored::Refused;
        }
        if !self.reserve(BytesOf::Request, *bytes) {
            self.peers.quotas.release(token, *bytes);
            return Stored::Refused;
        }
        Stored::Inline(InlineBytes::new())
    }

    /// Gives back what was reserved for a payload that is read past, and lets the client send as
    /// many bytes again.
    pub(in crate::core) fn read_past(
        &mut self,
        key: SessionKey,
        payload: &Payload,
        stored: &Stored,
    ) {
        match announced_bytes(payload) {
            0 => {}
            bytes if matches!(stored, Stored::Refused) => self.grant_to_client(key, bytes),
            bytes => self.free_request(key, bytes),
        }
    }
}

/// Returns the bytes that an announcement counts against credit and budget: chunked payloads only.
pub(in crate::core) fn announced_bytes(payload: &Payload) -> u64 {
    match payload {
        Payload::Inline(_) => 0,
        Payload::Chunked { bytes, .. } => *bytes,
    }
}

/// The transfer of an announcement.
pub(in crate::core) fn transfer_of(payload: &Payload) -> u64 {
    match payload {
        Payload::Inline(_) => 0,
        Payload::Chunked { transfer, .. } => *transfer,
    }
}

fn within_limits(options: &TaskOptions) -> bool {
    let names = options.label.iter().chain(&options.require);
    options.after.len() + options.follow.len() + options.inputs.len() <= SUBMIT_TARGETS_MAX
        && options.require.len() <= 64
        && names.into_iter().all(|name| name.len() <= NAME_BYTES_MAX)
}

/// Returns the contradiction of a task's options with each other, or with what this version does.
fn contradiction(options: &TaskOptions, runtime: Runtime, direct: bool) -> Option<&'static str> {
    if !options.inputs.is_empty() && runtime == Runtime::Value {
        return Some("a value that is put here is run by no engine, and has no inputs");
    }
    let is_of_values = options.stay || !options.inputs.is_empty() || runtime == Runtime::Value;
    if options.durable && is_of_values {
        return Some(
            "`durable` and results that stay, or are inputs, contradict each other: those are in memory alone",
        );
    }
    if options.error_retries > 0 && options.at_most_once {
        return Some(
            "`at_most_once` and `error_retries` contradict each other; leave one of them out",
        );
    }
    if options.error_retries > 0 && direct {
        return Some(
            "`error_retries` is for the shared queue: a direct task runs once, in the order of its queue",
        );
    }
    None
}

/// The work of looking for what a task waits for.
fn dependencies(options: &TaskOptions) -> usize {
    options.after.len() + options.follow.len() + 2 * options.inputs.len()
}

fn too_many_demands() -> TaskEnd {
    let text =
        "the broker has as many different sets of required labels as it takes; use fewer of them";
    TaskEnd::by_broker(TaskState::Failed, ErrorKind::Busy, text)
}

/// The end of a task whose demands cannot be met.
fn refused(options: Option<&TaskOptions>, text: &str) -> TaskEnd {
    if options.is_some_and(|options| options.repeated) { unmet_again(text) } else { unmet(text) }
}
