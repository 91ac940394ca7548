//! Completion of tasks: each ends once, and its result is retained until the client has it.

use furlong_wire::ids::TaskSeq;
use furlong_wire::limits::ASKED_FOR_TRANSFER;
use furlong_wire::message::{
    CancelAttempts, Credit, EngineCredit, ErrorKind, Finished, Runtime, TaskState, TaskTimes,
    ToClient, ToEngine, Unshare,
};

use super::end::DependencyEnd;
use super::end::{BEFORE_IT_BEGAN, TaskEnd};
use super::ended::{EndedTask, TaskSummary};
use super::table::{State, Task};
use crate::core::attempts::Stopping;
use crate::core::keys::{AttemptId, ProcessKey, SessionKey, TaskKey};
use crate::core::payloads::budget::BytesOf;
use crate::core::payloads::stored::Stored;
use crate::core::schedule::sweep::Reason;
use crate::core::sessions::from_client::check_ascending;
use crate::core::sessions::table::Session;
use crate::core::turns::rest::Rest;
use crate::core::turns::work::{TASKS_PER_PART, count};
use crate::core::{ConnectionId, Core, Output, PeerMisbehaved, Time};

/// Chunks that are freed at once.
const DISCARDED_AT_ONCE_MAX: usize = 8;

const WHILE_IT_RAN: &str = "cancelled while an engine had it";
const BEFORE_IT_WAS_TOLD: &str =
    "cancelled when it had ended, while its result waited for room at the broker";
const AND_MAY_GO_ON: &str = "cancelled while an engine had it; code that does not respond to the \
                             interrupt goes on there and keeps the engine busy, until it returns \
                             or is cancelled with force";

impl Core {
    /// Ends a task, unless it has ended: the first end wins.
    pub(in crate::core) fn end(&mut self, now: Time, key: TaskKey, ended: TaskEnd) {
        // Out of the table first: whatever follows finds no task of this key, and ends it no second
        // time. A second end is normal: a result that comes when its task was cancelled.
        let Some(mut task) = self.tasks.remove(key) else { return };
        if let State::Assigned { attempt, .. } = task.state {
            // Also of one that is cancelled and runs on: nobody works for it any longer.
            self.peers.grants.note_over(attempt);
        }
        self.peers.grants.note_gone(key);
        let unsent = self.drop_unsent(&task);
        self.leave_queue(key, &mut task);
        // Only what an engine had has followers: what is queued may have been submitted before a
        // task that never began.
        let failed = ended.outcome.state != TaskState::Succeeded && is_with_engine(task.state);
        let aborts = (failed && task.aborts_followers()).then_some(task.target()).flatten();
        let (session, n, payload) =
            (task.session, task.n, std::mem::replace(&mut task.payload, Stored::Refused));
        let inputs = task.more_if_any().map(|more| std::mem::take(&mut more.inputs));
        let (kind, has_run) = (task.kind.id, ended.attempt.is_some());
        let mut done = self.done(now, &mut task, &payload, ended);
        self.see_end(now, (session, n), kind, has_run, &done);
        // A durable end is told when the journal has it: a restart could bring another one.
        done.is_unwritten = self.note_ended(session, n, &mut done, &payload);
        self.charge_done(&mut done);
        let ending = done.ending();
        let is_wanted = done.what.stays() || self.waiting.dependents.want_value(key);
        if ending.succeeded && is_wanted {
            self.become_value(session, &mut done);
        }
        if !done.is_unwritten {
            let followers = done.what.take_followers();
            self.answer_followers_with(now, session, n, &done, followers);
        }
        self.note_end(key, ending, done.value);
        self.tally.finished += 1;
        self.hand_to_session(now, session, n, done, ending);
        // After the session has its end, for which the attempt is held.
        if let Some((process, attempt)) = unsent {
            self.hold_or_release(process, session, n, attempt);
        }
        self.release_request(session, &payload);
        self.let_go_of_inputs(inputs.unwrap_or_default());
        // Tasks behind it may share its payload, which is freed with the last clone.
        self.discard(Some(payload));
        if let Some(target) = aborts {
            self.sweep(now, target, Some(session), Reason::Aborted);
        }
        // Last, since dependents may end in turn. A session that is over goes with its last task.
        self.tell_dependents(now);
        self.forget_departed(session);
    }

    /// Builds the retained record of a task that has ended.
    fn done(&self, now: Time, task: &mut Task, payload: &Stored, ended: TaskEnd) -> Box<EndedTask> {
        let target = task.target();
        let submitted_unix_us = task.submitted_unix_us(self.config.start);
        let (assigned_us, finished_us) =
            (task.times.assigned.map(|at| task.since_submit(at)), task.since_submit(now));
        let outlives_session = task.keep() || task.durable().is_some();
        let session = self.sessions.get(task.session).filter(|_| outlives_session);
        let name =
            session.and_then(|session| session.kinds.names.get(task.runtime, task.kind.number));
        let what = TaskSummary {
            runtime: task.runtime,
            class: task.kind.number,
            name: name.cloned(),
            target,
            losses: task.tries.losses,
            request_bytes: match ended.value {
                Some(value) => self.memory.values.get(value).bytes(),
                None => payload.bytes(),
            },
            queued_us: task.times.queued_us,
            gave_way: false,
            durable: task.take_durable(),
            more: task.take_more(),
            options: task.options.take(),
        };
        Box::new(EndedTask {
            times: TaskTimes { submitted_unix_us, assigned_us, finished_us, run: ended.run },
            outcome: ended.outcome,
            engine: ended.engine.or(target),
            attempts: task.tries.begun(),
            payload: ended.payload,
            value: ended.value,
            lane: ended.lane,
            held: ended.process.zip(ended.attempt),
            is_unwritten: false,
            is_purged: false,
            what,
        })
    }

    /// Gives an ended task to its session, or keeps it if nobody will come for it.
    fn hand_to_session(
        &mut self,
        now: Time,
        key: SessionKey,
        n: TaskSeq,
        mut done: Box<EndedTask>,
        ending: DependencyEnd,
    ) {
        let session = self.sessions.get_mut(key).expect("a session outlives its tasks");
        let before = session.ledger.tasks.remove(n);
        assert!(before.is_some(), "task {n} ends, and its session does not have it");
        self.peers.quotas.end_task(session.counted_by);
        self.tally.remember_end(session, n, ending, &self.config);
        if !session.departure.departed {
            let before = session.ledger.done.insert(n, done);
            assert!(before.is_none(), "task {n} has ended twice");
            self.tally.results_held += 1;
            return self.deliver(key, n);
        }
        session.ledger.keep_fewer(u64::from(done.what.keep()));
        // Nobody of this session will read it: it does not count as unread, kept or not.
        self.note_read(key, &mut done);
        if done.what.outlives_session() {
            self.keep(now, key, n, done, false);
        } else {
            self.drop_done(done);
        }
    }

    /// A task has ended otherwise than its attempt, whose result waits and is not wanted: the
    /// process that holds it, and the attempt.
    fn drop_unsent(&mut self, task: &Task) -> Option<(ProcessKey, AttemptId)> {
        let State::Unsent { engine, attempt } = task.state else { return None };
        // None if its result has come, or can never fit: then it was taken back for that.
        self.take_back(attempt)?;
        self.engines.get(engine).and_then(|engine| engine.process).map(|process| (process, attempt))
    }

    /// A task has ended: nothing waits with it or for it any longer. Its entry in a queue stays
    /// until there are more such than others: then all go, so that a cancel costs little, and a
    /// loop of submits and cancels no memory.
    fn leave_queue(&mut self, key: TaskKey, task: &mut Task) {
        if let Some(at) = task.deadline() {
            self.waiting.deadlines.remove(at, key);
        }
        if let Some(waits) = task.more_if_any().and_then(|more| more.waits.take()) {
            self.forget_waits(key, &waits);
        }
        self.waiting.leave(task.state);
        let tasks = &self.tasks;
        match (task.state, task.queue.engine()) {
            (State::Assigned { .. } | State::Unsent { .. }, engine) => {
                // Those behind it may have waited for its end.
                if let Some(engine) = engine {
                    self.schedule.direct_ready.insert(engine);
                }
            }
            (State::Pausing, Some(engine)) => {
                self.engines.update(engine, |engine| engine.queue.forget_apart(key));
            }
            (_, Some(engine)) => {
                let session = task.session;
                // Its entry may be the first of its line, and what is behind it ready now.
                self.engines.update(engine, |engine| {
                    engine.queue.count_ended(session, task.n, tasks);
                    engine.queue.note(session, tasks);
                });
                self.schedule.direct_ready.insert(engine);
            }
            (State::Queued, None) => {
                self.schedule.placements.count_waiting(task.placement, false);
                self.schedule.placements.count_stale(task.placement, tasks);
            }
            (State::Receiving | State::Waiting | State::Pausing, None) => {}
        }
        self.schedule.placements.leave(task.placement);
    }

    /// Sends a result to the client, if it is connected.
    pub(in crate::core) fn deliver(&mut self, key: SessionKey, n: TaskSeq) {
        let Self { sessions, memory, outputs, .. } = self;
        let session = sessions.get_mut(key).expect("a session outlives its results");
        // A client that is not here gets it when it is back, and one that has just opened its
        // session in the order of its numbers.
        let Some(connection) = session.link.connection.filter(|_| !session.is_told_later(n)) else {
            return;
        };
        let done = session.ledger.done.get(n).filter(|done| !done.is_unwritten);
        let Some(done) = done else { return };
        let stays = done.value.is_some() && done.what.stays();
        let transfer = || {
            // What stays is announced, and comes to who asks for it.
            if stays {
                return ASKED_FOR_TRANSFER;
            }
            session.link.next_transfer += 1;
            session.link.next_transfer
        };
        let result = match done.value {
            Some(id) => Some(memory.values.get(id)),
            None => done.payload.as_ref(),
        };
        let (payload, chunks) = result.map(|stored| stored.announce(transfer)).unzip();
        // Before the end: a client that has seen the end expects no more output.
        for end in done.written(n).into_iter().flatten().filter(|end| end.offset > 0) {
            outputs.push_back(Output::ToClient(connection, ToClient::Output(end)));
        }
        outputs.push_back(Output::ToClient(
            connection,
            ToClient::Finished(Finished {
                n,
                outcome: done.outcome.clone(),
                engine: done.engine,
                attempts: done.attempts,
                times: done.times,
                payload,
            }),
        ));
        if let Some((transfer, chunks)) = chunks.flatten().filter(|_| !stays) {
            outputs.push_back(Output::Transfer(connection, transfer, chunks));
        }
    }

    /// The client has results: they need not be held for it. Of very many some are let go now.
    pub(in crate::core) fn acknowledge(
        &mut self,
        now: Time,
        key: SessionKey,
        connection: ConnectionId,
        ranges: &[(TaskSeq, TaskSeq)],
    ) -> Result<(), PeerMisbehaved> {
        check_ascending(ranges)?;
        let mut room = TASKS_PER_PART;
        for (place, &(first, last)) in ranges.iter().enumerate() {
            let session = self.sessions.get_mut(key).ok_or(PeerMisbehaved::Order)?;
            session.ledger.refused.remove(first, last);
            if first == last {
                // So they come when several engines work on one session's tasks in turn.
                let received = session.ledger.done.remove(first);
                room = room.saturating_sub(1);
                if let Some(done) = received {
                    self.let_go_of_received(now, key, first, done);
                }
            } else {
                let received = session.ledger.done.remove_first(first, last, room.max(1));
                room = room.saturating_sub(received.len() + 1);
                let until = received.last().map_or(last, |(n, _)| *n);
                for (n, done) in received {
                    self.let_go_of_received(now, key, n, done);
                }
                if room == 0 && until < last {
                    let rest = [&[(until + 1, last)], &ranges[place + 1..]].concat();
                    self.turns.work.add(TASKS_PER_PART);
                    self.turns.rests.insert(connection, Rest::Received(rest));
                    return Ok(());
                }
            }
            if room == 0 && place + 1 < ranges.len() {
                self.turns.work.add(TASKS_PER_PART);
                self.turns.rests.insert(connection, Rest::Received(ranges[place + 1..].to_vec()));
                return Ok(());
            }
        }
        self.turns.work.add(TASKS_PER_PART - room);
        Ok(())
    }

    fn let_go_of_received(
        &mut self,
        now: Time,
        key: SessionKey,
        n: TaskSeq,
        mut done: Box<EndedTask>,
    ) {
        self.tally.let_go(1);
        self.note_read(key, &mut done);
        if done.what.keep() {
            let session = self.sessions.get_mut(key).expect("a session outlives its results");
            session.ledger.keep_fewer(1);
            self.keep(now, key, n, done, true);
        } else {
            self.drop_done(done);
        }
    }

    /// A session does not hold an ended task any longer: others pay for its result, if it stays at
    /// all.
    pub(in crate::core) fn note_read(&mut self, key: SessionKey, done: &mut EndedTask) {
        let bytes = done.payload.as_ref().map_or(0, Stored::budget_bytes);
        if bytes > 0 {
            self.memory.budget.keep_result(bytes);
            self.count_read(key, bytes);
            if let Some(lane) = done.lane.take() {
                self.return_to_lane(lane, key, bytes);
            }
        }
    }

    /// Gives memory back: many chunks are not freed in one go, which would keep everybody waiting.
    pub(in crate::core) fn discard(&mut self, payload: Option<Stored>) {
        // Mostly there are none, and this is on every task's way.
        let Some(payload) = payload.filter(|stored| matches!(stored, Stored::Chunked(_))) else {
            return;
        };
        let chunks = payload.into_chunks();
        if chunks.len() > DISCARDED_AT_ONCE_MAX {
            self.outputs.push_back(Output::Discard(chunks));
        }
    }

    /// An engine process may have sent so many bytes of a session unasked.
    pub(in crate::core) fn grant_to_lane(
        &mut self,
        key: ProcessKey,
        session: SessionKey,
        payload_bytes_total: u64,
    ) {
        let process = self.processes.get(&key).expect("a lane is closed with its process");
        let of = self.sessions.get(session).expect("a lane is closed with its session");
        let (connection, session) = (process.connection, of.id);
        self.to_engine(connection, ToEngine::Credit(EngineCredit { session, payload_bytes_total }));
    }

    /// A client may announce so many bytes more.
    pub(in crate::core) fn grant_to_client(&mut self, key: SessionKey, bytes: u64) {
        let session = self.sessions.get_mut(key).expect("a session outlives its requests");
        let payload_bytes_total = session.link.credit.grant(bytes);
        if let Some(connection) = session.link.connection {
            self.to_client(connection, ToClient::Credit(Credit { payload_bytes_total }));
        }
    }

    /// Frees the bytes of a request, once no task needs them; the client may send as many again.
    pub(in crate::core) fn release_request(&mut self, key: SessionKey, payload: &Stored) {
        let bytes = payload.budget_bytes();
        // The tasks of a submit share it: the last one that ends finds itself alone with it.
        if bytes == 0 || payload.is_held_elsewhere() {
            return;
        }
        if let Some(share) = payload.share() {
            self.end_share(key, share);
        }
        self.free_request(key, bytes);
    }

    /// Frees bytes that were reserved for a request.
    pub(in crate::core) fn free_request(&mut self, key: SessionKey, bytes: u64) {
        self.memory.budget.release(BytesOf::Request, bytes);
        let session = self.sessions.get(key).expect("a session outlives its requests");
        self.peers.quotas.release(session.counted_by, bytes);
        self.grant_to_client(key, bytes);
    }

    /// The processes that have a shared payload of a session need it no longer.
    pub(in crate::core) fn end_share(&mut self, key: SessionKey, share: u64) {
        let session = self.sessions.get(key);
        for process in session.into_iter().flat_map(|session| &session.known_to) {
            count(1);
            let process = self.processes.get_mut(process);
            let process = process.expect("a session is known to processes that are here");
            if process.told.shares.remove(&share) {
                let message = ToEngine::Unshare(Unshare { share });
                self.outputs.push_back(Output::ToEngine(process.connection, message));
            }
        }
    }

    /// Cancels a task: from now on it is cancelled, whatever its engine still does.
    pub(in crate::core) fn cancel_task(&mut self, now: Time, key: TaskKey, force: bool) {
        self.cancel_task_for(now, key, force, None);
    }

    /// The same for a reason that its client has not given.
    pub(in crate::core) fn cancel_task_for(
        &mut self,
        now: Time,
        key: TaskKey,
        force: bool,
        why: Option<&str>,
    ) {
        // Of several that are cancelled, an earlier one may have ended this one: as its follower.
        let Some(task) = self.tasks.get(key) else { return };
        let (session, n) = (task.session, task.n);
        let (engine, text) = match task.state {
            State::Assigned { engine, .. } => {
                let may_go_on = !force && task.runtime == Runtime::Python;
                (Some(engine), if may_go_on { AND_MAY_GO_ON } else { WHILE_IT_RAN })
            }
            State::Unsent { engine, .. } => (Some(engine), BEFORE_IT_WAS_TOLD),
            _ => (None, BEFORE_IT_BEGAN),
        };
        let text = why.map_or_else(|| text.to_owned(), |why| format!("{text}: {why}"));
        // An engine had it, and runs it no longer: it waits for another attempt, or its result for
        // room.
        let is_back =
            task.times.assigned.is_some() && !matches!(task.state, State::Assigned { .. });
        // While the task is still there, and says which engine has it.
        self.stop_attempt(now, key, force);
        let ended = TaskEnd::by_broker(TaskState::Cancelled, ErrorKind::Cancelled, text);
        self.end(now, key, TaskEnd { engine, ..ended });
        if is_back {
            self.tell_stopped(session, n);
        }
    }

    /// Tells the engine that has a task to stop it. An interpreter that does not respond to the
    /// interrupt is killed only if that is forced: what any task has left in its namespace, be it
    /// of the task's own session, is not the cancel's to end.
    pub(in crate::core) fn stop_attempt(&mut self, now: Time, key: TaskKey, force: bool) {
        let task = self.tasks.get(key).expect("a task is stopped before it ends");
        let State::Assigned { attempt, .. } = task.state else { return };
        let session = self.sessions.get_mut(task.session).expect("a session outlives its tasks");
        // Its client wants to know when nothing of the task runs any longer, which may be late.
        session.ledger.stopping.insert((task.n, attempt));
        self.tell_to_stop(now, attempt, force);
    }

    /// Of tasks that have been ended, kills what still runs and does not respond to its interrupt.
    pub(in crate::core) fn force_stopping(
        &mut self,
        now: Time,
        session: SessionKey,
        first: TaskSeq,
        last: TaskSeq,
    ) {
        assert!(first <= last, "a range from {first} to {last}");
        let session = self.sessions.get(session).expect("a session is there while its tasks end");
        let attempts =
            session.ledger.stopping.range((first, AttemptId::MIN)..=(last, AttemptId::MAX));
        let attempts: Vec<AttemptId> = attempts.map(|(_, attempt)| *attempt).collect();
        for attempt in attempts {
            self.tell_to_stop(now, attempt, true);
        }
    }

    fn tell_to_stop(&mut self, now: Time, attempt: AttemptId, force: bool) {
        let given =
            self.attempts.get_mut(attempt).expect("what is to stop is still with an engine");
        let owner = self.sessions.get(given.session).map(Session::owner);
        // The first force counts: what was submitted after that is for the next interpreter.
        let known = given.stopping.filter(|stopping| stopping.force);
        given.stopping = Some(known.unwrap_or(Stopping { force, since: now, owner }));
        let engine = self.engines.get(given.engine);
        let engine = engine.expect("an engine stays while it has an attempt");
        // One that is away is told when it is back: what it holds is compared with this.
        if let Some(process) = engine.process.and_then(|key| self.processes.get(&key)) {
            let cancel = CancelAttempts { attempts: vec![self.attempt(attempt)], force };
            self.to_engine(process.connection, ToEngine::Cancel(cancel));
        }
    }
}

/// Returns true if a task has been given to an engine, and to no other since.
fn is_with_engine(state: State) -> bool {
    matches!(state, State::Assigned { .. } | State::Unsent { .. })
}
