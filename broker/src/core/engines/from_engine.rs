//! Messages from engine processes.

use std::borrow::Cow;

use bytes::Bytes;
use furlong_wire::ids::{Attempt, TaskSeq};
use furlong_wire::limits::{ASKED_FOR_TRANSFER, ERROR_TEXT_BYTES_MAX, OUTPUT_MESSAGE_BYTES_MAX};
use furlong_wire::message::{
    AttemptFinished, AttemptOutput, Attempts, ErrorKind, Event, FromEngine, Outcome,
    Output as TaskOutput, Payload, Raised, Runtime, SlotDown, Stream, TaskState, ToClient,
};

use super::given_back::is_given_back;
use crate::core::attempts::Assignment;
use crate::core::keys::{AttemptId, ProcessKey, SessionKey};
use crate::core::payloads::arriving::{Account, EarlyEnd, EngineWaiting};
use crate::core::payloads::budget::BytesOf;
use crate::core::payloads::stored::Stored;
use crate::core::schedule::aside::{Beginning, has_not_begun};
use crate::core::schedule::sweep::Reason;
use crate::core::tasks::end::{TaskEnd, cancelled_before_it_began, namespace_lost};
use crate::core::tasks::table::{Queue, State, Task};
use crate::core::{Connected, ConnectionId, Core, Output, PeerMisbehaved, Time};

/// Bytes of the reason why an interpreter has ended.
const CAUSE_BYTES_MAX: usize = 4096;
/// The number of times a task is run again when its engine has cancelled it unasked.
const CANCELS_UNASKED_MAX: u32 = 3;

impl Core {
    /// Takes an engine process's message, with the chunk that belongs to it.
    ///
    /// # Errors
    /// The process is to be closed.
    pub fn handle_from_engine(
        &mut self,
        now: Time,
        connection: ConnectionId,
        message: FromEngine,
        chunk: Option<Bytes>,
    ) -> Result<(), PeerMisbehaved> {
        let Some(Connected::Engine(key)) = self.peers.connections.get(&connection).copied() else {
            return Err(PeerMisbehaved::Order);
        };
        self.begin_message(now, connection)?;
        match message {
            FromEngine::Finished(finished) => self.attempt_finished(now, key, finished),
            FromEngine::Started(started) => self.attempts_started(now, key, &started),
            FromEngine::Output(output) => self.attempt_output(key, output),
            FromEngine::Chunk(announced) => {
                let process = self.processes.get_mut(&key).ok_or(PeerMisbehaved::Order)?;
                let (transfer, chunk) = (announced.transfer, chunk.unwrap_or_default());
                let whole = process.sending.receiving.handle_chunk(transfer, chunk)?;
                whole.map_or(Ok(()), |(waiting, stored)| {
                    self.engine_payload(now, key, transfer, waiting, stored)
                })
            }
            // The shell gives the file itself: see `handle_file`.
            FromEngine::Passed(_) => Err(PeerMisbehaved::Transfer),
            FromEngine::Recalled(recalled) => self.attempts_recalled(now, key, &recalled),
            FromEngine::Register(register) => self.register(now, key, *register),
            FromEngine::SlotDown(down) => self.slot_down(now, key, &down),
            FromEngine::Published(published) => self.attempt_published(key, published),
            FromEngine::Draining(draining) => self.drain(now, key, &draining.reason),
            FromEngine::Grant(grant) => self.grant(key, &grant),
            FromEngine::Lent(lent) => self.lend(now, key, &lent),
            FromEngine::Inspected(seen) => self.inspected(key, seen),
            FromEngine::Measured(measured) => self.measured(now, key, measured),
            FromEngine::Back(back) => self.back(key, &back.attempts),
            // Its engines are lost with the connection, which closes when this batch is done.
            FromEngine::Goodbye(_) => {
                self.stop_giving(key);
                self.outputs.push_back(Output::Close(connection, "goodbye"));
                Ok(())
            }
            // What the broker sends is bounded by the requests that clients may have with it.
            FromEngine::Credit(_) => Ok(()),
            FromEngine::NeedBlob(_) => Err(PeerMisbehaved::Unsupported),
        }
    }

    /// A payload of a process is whole: what waits for it goes on.
    pub(in crate::core) fn engine_payload(
        &mut self,
        now: Time,
        key: ProcessKey,
        transfer: u64,
        waiting: EngineWaiting,
        stored: Stored,
    ) -> Result<(), PeerMisbehaved> {
        let (finished, ended) = match waiting {
            EngineWaiting::Finished(finished, account) => (finished, (Some(stored), account)),
            EngineWaiting::Published(published, session, end) => {
                let process = self.processes.get_mut(&key).ok_or(PeerMisbehaved::Order)?;
                process.sending.publishing.remove(&(published.attempt, transfer));
                self.pass_on(key, &published, &stored);
                self.return_published(key, session, stored.budget_bytes());
                let Some(end) = end else { return Ok(()) };
                // The end was faster: it came in its message, and the data apart.
                let EarlyEnd { finished, payload, account } = *end;
                (finished, (payload, account))
            }
        };
        let given = self.given(key, finished.attempt)?;
        self.attempt_ended(now, key, given, finished, ended);
        Ok(())
    }

    /// Checks that an attempt is one that this process was given. None if it is of another start of
    /// the broker.
    pub(in crate::core) fn given(
        &self,
        key: ProcessKey,
        attempt: Attempt,
    ) -> Result<Option<Assignment>, PeerMisbehaved> {
        if attempt.start != self.config.start {
            return Ok(None);
        }
        let Some(given) = self.attempts.get(attempt.id).copied() else {
            // It was moved elsewhere while the engine was away: a late report is normal.
            return if attempt.id <= self.attempts.made() {
                Ok(None)
            } else {
                Err(PeerMisbehaved::Attempt)
            };
        };
        let engine = self.engines.get(given.engine);
        if engine.is_some_and(|engine| engine.loss.is_some()) {
            // It is lost with its engine, which was stopped alone.
            return Ok(None);
        }
        let process = engine.and_then(|engine| engine.process);
        if process == Some(key) { Ok(Some(given)) } else { Err(PeerMisbehaved::Attempt) }
    }

    fn attempts_started(
        &mut self,
        now: Time,
        key: ProcessKey,
        started: &Attempts,
    ) -> Result<(), PeerMisbehaved> {
        for attempt in &started.attempts {
            let Some(given) = self.given(key, *attempt)? else { continue };
            // What runs does not come back, if it was recalled.
            if self.engines.get(given.engine).is_some_and(|engine| !engine.work.recalled.is_empty())
            {
                self.engines
                    .update(given.engine, |engine| engine.work.recalled.remove(&attempt.id));
            }
            // It was ended, and runs on until the engine has stopped it.
            let Some(task) = self.tasks.get_mut(given.task) else { continue };
            // The result of another one waits at the engine: then this is no news.
            if let State::Assigned { engine, attempt: current, .. } = task.state {
                assert!(current == attempt.id, "{attempt:?} is not its task's, {current} is");
                task.transition(State::Assigned { engine, attempt: current, started: true });
                task.more_mut().started.get_or_insert(now);
                if task.options.is_some() {
                    self.set_deadline(now, given.task);
                }
            }
        }
        Ok(())
    }

    fn attempt_output(
        &mut self,
        key: ProcessKey,
        output: AttemptOutput,
    ) -> Result<(), PeerMisbehaved> {
        if output.bytes.len() > OUTPUT_MESSAGE_BYTES_MAX {
            return Err(PeerMisbehaved::Limit);
        }
        let Some(given) = self.given(key, output.attempt)? else { return Ok(()) };
        // Written after the task was ended: its client has its end, and expects nothing after it.
        let Some(task) = self.tasks.get_mut(given.task) else { return Ok(()) };
        let AttemptOutput { stream, offset, bytes, .. } = output;
        let (attempt, session, keep) = (task.tries.begun(), task.session, task.keep());
        let more = task.more_mut();
        let freed = more.output.begin(attempt);
        let is_within_limits = more.output.count(stream, offset, bytes.len());
        let followed = more.followers.iter().any(|follower| follower.output);
        self.memory.budget.release(BytesOf::Other, freed);
        if !is_within_limits {
            return Err(PeerMisbehaved::Limit);
        }
        // The end of a stream whose last bytes were left out: it was said by its offset.
        if bytes.is_empty() {
            return Ok(());
        }
        if keep
            && self.reserve(
                BytesOf::Other,
                more_bytes(self.tasks.get(given.task), stream, offset, bytes.len()),
            )
        {
            let task = self.tasks.get_mut(given.task).expect("making room ends no task");
            task.more_mut().output.keep(stream, offset, &bytes);
        }
        let message =
            TaskOutput { n: given.n, attempt, engine: given.engine, stream, offset, bytes };
        if followed {
            self.tell_followers(given.task, &message);
        }
        let connection = self.sessions.get(session).and_then(|session| session.link.connection);
        if let Some(connection) = connection {
            self.to_client(connection, ToClient::Output(message));
        }
        Ok(())
    }

    fn attempt_finished(
        &mut self,
        now: Time,
        key: ProcessKey,
        mut finished: AttemptFinished,
    ) -> Result<(), PeerMisbehaved> {
        if let Some(error) = &mut finished.outcome.error {
            let kept = error.text.floor_char_boundary(ERROR_TEXT_BYTES_MAX);
            // Its room is given back as well: the text is charged for by its length.
            error.text.truncate(kept);
            error.text.shrink_to_fit();
            if let Some(raised) = &mut error.raised {
                *raised = Raised::new(&raised.type_name, raised.fingerprint);
            }
        }
        if has_not_begun(&finished) && finished.attempt.start != self.config.start {
            finished.attempt = self.orphan_not_begun(key, finished.attempt);
        }
        let given = self.given(key, finished.attempt)?;
        let (payload, transfer, bytes) = match finished.payload.take() {
            None => {
                self.attempt_ended(now, key, given, finished, (None, Account::NONE));
                return Ok(());
            }
            Some(Payload::Inline(bytes)) => {
                self.attempt_ended(
                    now,
                    key,
                    given,
                    finished,
                    (Some(Stored::Inline(bytes)), Account::NONE),
                );
                return Ok(());
            }
            Some(payload @ Payload::Chunked { transfer, bytes, .. }) => (payload, transfer, bytes),
        };
        self.processes.get(&key).ok_or(PeerMisbehaved::Order)?.sending.receiving.check(&payload)?;
        // Nothing is on the way: the engine holds it until there is room.
        if transfer == ASKED_FOR_TRANSFER {
            return self.attempt_waits(now, key, given, finished, bytes);
        }
        let account = self.admit_result(key, given, finished.attempt, bytes)?;
        let process = self.processes.get_mut(&key).ok_or(PeerMisbehaved::Order)?;
        if let Some(account) = account {
            return process.sending.receiving.expect(
                transfer,
                &payload,
                Some(EngineWaiting::Finished(finished, account)),
            );
        }
        // Nobody wants it, or there is no room: its bytes are read past.
        process.sending.receiving.expect(transfer, &payload, None)?;
        self.attempt_ended(now, key, given, finished, (Some(Stored::Refused), Account::NONE));
        Ok(())
    }

    /// An attempt has ended, and its result is to be asked for.
    fn attempt_waits(
        &mut self,
        now: Time,
        key: ProcessKey,
        given: Option<Assignment>,
        finished: AttemptFinished,
        bytes: u64,
    ) -> Result<(), PeerMisbehaved> {
        let Some((given, task)) =
            given.and_then(|given| Some((given, self.tasks.get(given.task)?)))
        else {
            self.attempt_ended(now, key, given, finished, (None, Account::NONE));
            return Ok(());
        };
        if matches!(task.state, State::Unsent { .. }) {
            return Err(PeerMisbehaved::Order);
        }
        if let Some(outcome) =
            self.how_it_ended(now, key, given, &finished, (finished.outcome.clone(), bytes))
        {
            self.result_waits(now, key, given, AttemptFinished { outcome, ..finished }, bytes);
        }
        Ok(())
    }

    /// Takes an announced result into the budget. None if nobody wants it, or if there is no room.
    fn admit_result(
        &mut self,
        key: ProcessKey,
        given: Option<Assignment>,
        attempt: Attempt,
        bytes: u64,
    ) -> Result<Option<Account>, PeerMisbehaved> {
        let is_wanted = given.is_some_and(|given| self.tasks.get(given.task).is_some());
        let process = self.processes.get_mut(&key).ok_or(PeerMisbehaved::Order)?;
        let is_of_now = attempt.start == self.config.start;
        if let Some((session, reserved)) =
            is_of_now.then(|| process.sending.taken.remove(&attempt.id)).flatten()
        {
            let account = Account { session, lane: None };
            if !is_wanted || reserved != bytes {
                self.free_result(account, reserved);
            }
            // It was asked for by its length, and its room is reserved: a longer one would have
            // none.
            return if reserved == bytes {
                Ok(is_wanted.then_some(account))
            } else {
                Err(PeerMisbehaved::Transfer)
            };
        }
        let Some(given) = given else { return Ok(None) };
        let is_unsent = |task: &Task| matches!(task.state, State::Unsent { .. });
        if self.tasks.get(given.task).is_some_and(is_unsent) {
            return Err(PeerMisbehaved::Order);
        }
        let session = given.session;
        let is_within =
            process.told.lanes.get_mut(&session).is_some_and(|lane| lane.announce(bytes));
        if is_within {
            // Within its lane it always fits, wanted or not: that is what the lane's credit is for.
            self.memory.budget.hold_unasked(bytes);
        } else if !is_wanted || !self.reserve(BytesOf::Result, bytes) {
            // An owner may have chosen another one's session id: the engine has one lane for both.
            return Ok(None);
        }
        self.count_unread(session, bytes);
        let account = Account { session, lane: is_within.then_some(key) };
        if !is_wanted {
            self.free_result(account, bytes);
        }
        Ok(is_wanted.then_some(account))
    }

    /// An attempt has ended, and its result is here. That is told when what it has published is
    /// here as well.
    fn attempt_ended(
        &mut self,
        now: Time,
        key: ProcessKey,
        given: Option<Assignment>,
        finished: AttemptFinished,
        (payload, account): (Option<Stored>, Account),
    ) {
        match self.published_by(key, finished.attempt) {
            None => {}
            Some(Some(_)) => return self.release_result(account, payload.as_ref()),
            Some(end) => return *end = Some(Box::new(EarlyEnd { finished, payload, account })),
        }
        let Some(given) = given else {
            self.release_result(account, payload.as_ref());
            if finished.attempt.start == self.config.start {
                self.release_attempt(key, finished.attempt.id, 0);
            } else {
                self.orphan_ended(key, finished.attempt);
            }
            return;
        };
        let is_told = |task: &Task| matches!(task.state, State::Unsent { .. });
        let bytes = payload.as_ref().map_or(0, Stored::budget_bytes);
        let outcome = if self.tasks.get(given.task).is_some_and(is_told) {
            self.take_back(finished.attempt.id);
            Some(finished.outcome.clone())
        } else {
            let outcome = match &payload {
                Some(Stored::Refused) => {
                    Outcome::error(TaskState::Failed, ErrorKind::Busy, self.no_room_for_result())
                }
                _ => finished.outcome.clone(),
            };
            self.how_it_ended(now, key, given, &finished, (outcome, bytes))
        };
        let Some(outcome) = outcome else { return self.release_result(account, payload.as_ref()) };
        if self.tasks.get(given.task).is_none() {
            self.hold_or_release(key, given.session, given.n, finished.attempt.id);
            return self.release_result(account, payload.as_ref());
        }
        let payload = payload.filter(|stored| !matches!(stored, Stored::Refused));
        let (engine, process, attempt) = (Some(given.engine), Some(key), Some(finished.attempt.id));
        let (run, lane) = (finished.times, account.lane);
        self.end(
            now,
            given.task,
            TaskEnd { outcome, engine, run, payload, value: None, lane, process, attempt },
        );
    }

    /// Returns the end that an attempt's end brings to its task. None if it is tried again.
    fn how_it_ended(
        &mut self,
        now: Time,
        key: ProcessKey,
        given: Assignment,
        finished: &AttemptFinished,
        (outcome, result_bytes): (Outcome, u64),
    ) -> Option<Outcome> {
        if is_given_back(finished) {
            return self.end_given_back(now, key, given, finished);
        }
        let outcome = match self.begin_elsewhere(now, given, finished) {
            Beginning::Elsewhere => {
                self.release_attempt(key, finished.attempt.id, 0);
                return None;
            }
            Beginning::Nowhere(nowhere) => nowhere,
            Beginning::Begun => {
                self.count_run(given, finished, result_bytes);
                outcome
            }
        };
        if self.runs_again_after(now, given, &outcome)
            || self.runs_again_after_cancel(now, given, &outcome)
        {
            self.release_attempt(key, finished.attempt.id, 0);
            return None;
        }
        Some(outcome)
    }

    /// An attempt has begun, and has ended after so long a run.
    fn count_run(&mut self, given: Assignment, finished: &AttemptFinished, result_bytes: u64) {
        let busy_us = finished.times.busy_us();
        self.take_back_ended(finished.attempt.id, busy_us);
        self.note_begun(given);
        // It was ended meanwhile, and interrupted: such a run says nothing of its kind.
        let Some(task) = self.tasks.get(given.task) else { return };
        let session = self.sessions.get_mut(task.session).expect("a session outlives its tasks");
        session.kinds.times.handle_run(task.kind.number, busy_us, result_bytes);
    }

    /// Returns true if a task that raised is run again. It is queued, or waits for that, if so.
    fn runs_again_after(&mut self, now: Time, given: Assignment, outcome: &Outcome) -> bool {
        let raised = matches!(
            outcome.error.as_ref().map(|error| error.kind),
            Some(ErrorKind::Remote | ErrorKind::Exit)
        );
        let Some(task) = self.tasks.get_mut(given.task).filter(|_| raised) else { return false };
        let errors = task.more().map_or(0, |more| more.errors);
        // A direct task runs once, in the order of its queue: its submit could not ask for more.
        if task.target().is_some() || errors >= task.errors_allowed() {
            return false;
        }
        task.more_mut().errors += 1;
        let raised = outcome.error.as_ref().and_then(|error| error.raised.as_ref());
        let how = raised.map_or(Cow::Borrowed("it raised"), |raised| {
            Cow::Owned(format!("it raised {}", raised.type_name))
        });
        self.note_attempt(now, given, &how);
        self.pause(now, given.task, errors + 1);
        true
    }

    /// An earlier start of the broker has cancelled an attempt that was matched: perhaps as another
    /// one had taken its place. Whether the task is run again; if its client has cancelled it, it
    /// says so again. An engine that goes on to cancel what nobody has cancelled is believed after
    /// some attempts.
    fn runs_again_after_cancel(&mut self, now: Time, given: Assignment, outcome: &Outcome) -> bool {
        let again = |task: &Task| {
            let unasked = task.more().map_or(0, |more| more.cancels_unasked);
            task.queue == Queue::Shared && !task.at_most_once() && unasked < CANCELS_UNASKED_MAX
        };
        if outcome.state != TaskState::Cancelled || !self.tasks.get(given.task).is_some_and(again) {
            return false;
        }
        let task = self.tasks.get_mut(given.task).expect("it was there a moment ago");
        task.more_mut().cancels_unasked += 1;
        self.note_attempt(now, given, "its engine cancelled it, which nobody had asked for");
        self.requeue(now, given.task);
        true
    }

    /// Requeues attempts that had not begun, or ends those their client wants back. Of an engine's
    /// own queue nothing else is recalled: such a task comes back because its interpreter is gone,
    /// or the engine leaves.
    fn attempts_recalled(
        &mut self,
        now: Time,
        key: ProcessKey,
        recalled: &Attempts,
    ) -> Result<(), PeerMisbehaved> {
        // The one that was given last comes first: each goes to the front of its queue.
        let is_of_now = |attempt: &Attempt| attempt.start == self.config.start;
        let (mut attempts, before): (Vec<Attempt>, Vec<Attempt>) =
            recalled.attempts.iter().partition(|it| is_of_now(it));
        attempts.extend(before.into_iter().map(|attempt| self.orphan_not_begun(key, attempt)));
        attempts.sort_unstable_by_key(|attempt| std::cmp::Reverse(attempt.id));
        for attempt in &attempts {
            let Some(given) = self.given(key, *attempt)?.and_then(|_| self.take_back(attempt.id))
            else {
                continue;
            };
            // It was ended while the engine had it: that it never began, nobody asks any longer.
            let Some(task) = self.tasks.get_mut(given.task) else { continue };
            task.tries.recalled += 1;
            if given.is_wanted_back {
                self.end(now, given.task, cancelled_before_it_began());
                continue;
            }
            let leaving = self.processes.get(&key).expect("a process that reports is here").leaving;
            let down = self.engines.get(given.engine).and_then(|engine| engine.down_cause.clone());
            if task.queue != Queue::Shared
                && (task.needs_namespace() || task.runs_on_one_attempt() || leaving)
            {
                let how = if leaving {
                    "the engine is leaving".to_owned()
                } else {
                    down.unwrap_or_default()
                };
                self.end(now, given.task, namespace_lost(given.engine, &first_line(&how)));
            } else {
                self.requeue(now, given.task);
            }
        }
        Ok(())
    }

    fn slot_down(
        &mut self,
        now: Time,
        key: ProcessKey,
        down: &SlotDown,
    ) -> Result<(), PeerMisbehaved> {
        let process = self.processes.get(&key).ok_or(PeerMisbehaved::Order)?;
        let connection = process.connection;
        let id = *process.engines.get(down.slot as usize).ok_or(PeerMisbehaved::Limit)?;
        let cause = down.cause[..down.cause.floor_char_boundary(CAUSE_BYTES_MAX)].to_owned();
        let was_restarting = self.engines.update(id, |engine| {
            engine.down_cause = Some(cause.clone());
            engine.counts.deaths += u32::from(!engine.restarting);
            std::mem::take(&mut engine.restarting)
        });
        // What was queued before the request was ended with that; what came after is for the new
        // interpreter.
        if was_restarting == Some(false) {
            let lost = Reason::NamespaceLost(first_line(&cause), self.forced_stop(id));
            self.sweep(now, id, None, lost);
            self.recall_direct(id);
        }
        // What needs no namespace comes back, to be run by the next interpreter before anything
        // else.
        let returns = |attempt: &AttemptId| {
            let task = self.attempts.get(*attempt).and_then(|given| self.tasks.get(given.task));
            task.is_some_and(|task| {
                task.runtime == Runtime::Python
                    && task.queue != Queue::Shared
                    && !task.needs_namespace()
            })
        };
        let assigned = self.engines.get(id).into_iter().flat_map(|engine| &engine.work.assigned);
        let returning = assigned.copied().filter(returns).collect();
        self.engines.update(id, |engine| engine.work.returning = returning);
        self.schedule.direct_ready.insert(id);
        self.note_restarted(id);
        self.tell_subscribers(Event::EngineRestarted(id, cause));
        self.wait_until_told(connection);
        Ok(())
    }

    /// A process takes nothing new: what waits for its engines alone will never run.
    fn drain(&mut self, now: Time, key: ProcessKey, reason: &str) -> Result<(), PeerMisbehaved> {
        let process = self.processes.get_mut(&key).filter(|process| process.register.is_some());
        let process = process.ok_or(PeerMisbehaved::Order)?;
        if std::mem::replace(&mut process.is_draining, true) {
            // It has said so before.
            return Ok(());
        }
        let engines = process.engines.clone();
        // First, so that nothing is added to what is asked for and released from here on.
        self.stop_giving(key);
        self.take_results_of(key);
        self.shorten_orphans(now, &engines);
        self.release_all_from(key, (SessionKey(0), TaskSeq::MIN));
        let reason: String = reason.chars().take(256).collect();
        for id in engines {
            self.sweep(now, id, None, Reason::Leaving(reason.clone()));
        }
        Ok(())
    }
}

/// Bytes that a piece of output takes if it is kept.
fn more_bytes(task: Option<&Task>, stream: Stream, offset: u64, bytes: usize) -> u64 {
    let output = task.and_then(Task::more).map(|more| &more.output);
    output.map_or(0, |output| output.more_bytes(stream, offset, bytes))
}

fn first_line(text: &str) -> String {
    text.lines().next().unwrap_or_default().to_owned()
}
