//! How tasks end: once, with their result kept until the client has it.

use furlong_wire::ids::EngineId;
use furlong_wire::message::{
    CancelAttempts, Credit, ErrorKind, Finished, Outcome, TaskState, TaskTimes, ToClient, ToEngine,
};

use super::engines::ProcessKey;
use super::payloads::Stored;
use super::sessions::{Done, SessionKey};
use super::tasks::{State, TaskKey};
use super::{Core, PeerMisbehaved, Time};

/// Entries of ended tasks that a queue may hold at least.
const ENDED_KEPT: u64 = 64;

/// How a task ended, and with what.
#[derive(Clone, Debug)]
pub(super) struct Ended {
    /// Its terminal state.
    pub outcome: Outcome,
    /// The engine that ended it.
    pub engine: Option<EngineId>,
    /// How long it ran there.
    pub run_us: u64,
    /// Its result.
    pub payload: Option<Stored>,
    /// The process that sent the result.
    pub process: Option<ProcessKey>,
}

impl Default for Ended {
    fn default() -> Self {
        Self { outcome: Outcome::SUCCEEDED, engine: None, run_us: 0, payload: None, process: None }
    }
}

impl Ended {
    /// Ended by the broker's decision.
    pub fn by_broker(state: TaskState, kind: ErrorKind, text: impl Into<String>) -> Self {
        Self { outcome: Outcome::error(state, kind, text), ..Self::default() }
    }
}

impl Core {
    /// Ends a task, unless it has ended: the first end wins.
    pub(super) fn end(&mut self, now: Time, key: TaskKey, ended: Ended) {
        let Some(task) = self.tasks.remove(key) else {
            self.release_result(ended.payload.as_ref(), ended.process);
            return;
        };
        self.leave_queue(&task);
        // Only what an engine had has followers: what is queued may have been submitted before a task that never began.
        let failed = ended.outcome.state != TaskState::Succeeded && matches!(task.state, State::Assigned { .. });
        let done = Done {
            times: TaskTimes {
                submitted_unix_us: task.submitted.unix_us(self.config.start),
                assigned_us: task.assigned.map(|at| at.micros_since(task.submitted)),
                finished_us: now.micros_since(task.submitted),
                run_us: ended.run_us,
            },
            outcome: ended.outcome,
            engine: ended.engine.or(task.target),
            attempts: task.attempts,
            payload: ended.payload,
            process: ended.process,
        };
        self.finished += 1;
        self.results_held += 1;
        let session = self.sessions.get_mut(task.session).expect("a session outlives its tasks");
        session.tasks.remove(&task.n);
        session.done.insert(task.n, done);
        self.deliver(task.session, task.n);
        self.release_request(task.session, &task.payload);
        // Those behind it may have waited for its payload.
        task.target.into_iter().for_each(|target| _ = self.direct_ready.insert(target));
        let aborts = (failed && task.aborts_followers()).then_some(task.target).flatten();
        let session = task.session;
        // Followers may share its payload, which is freed with the last clone.
        drop(task);
        if let Some(target) = aborts {
            self.abort_followers(now, session, target);
        }
    }

    /// A task has ended while it waited. Its entry stays in the queue until there are more such than others: then all
    /// go, so that a cancel costs little, and a loop of submits and cancels no memory.
    fn leave_queue(&mut self, task: &super::tasks::Task) {
        let tasks = &self.tasks;
        let lives = |key: TaskKey| tasks.get(key).is_some();
        match (task.state, task.target) {
            (State::Queued, None) => {
                self.shared_len -= 1;
                self.shared_ended += 1;
                if self.shared_ended > ENDED_KEPT && self.shared_ended > self.shared_len {
                    self.shared_ended = 0;
                    self.shared.values_mut().for_each(|queue| queue.retain(lives));
                }
            }
            (State::Queued | State::Receiving, Some(target)) => {
                self.engines.update(target, |engine| {
                    engine.ended_in_queue += 1;
                    if engine.ended_in_queue > ENDED_KEPT && engine.ended_in_queue * 2 > engine.queue.len() as u64 {
                        engine.ended_in_queue = 0;
                        engine.queue.retain(|key| lives(*key));
                    }
                });
            }
            (State::Receiving, None) | (State::Assigned { .. }, _) => {}
        }
    }

    /// Sends a result to the client, if it is connected.
    pub(super) fn deliver(&mut self, key: SessionKey, n: u64) {
        let Some(session) = self.sessions.get_mut(key) else { return };
        let (Some(connection), Some(done)) = (session.connection, session.done.get(&n)) else { return };
        let transfer = || {
            session.next_transfer += 1;
            session.next_transfer
        };
        let (payload, chunks) = done.payload.as_ref().map(|stored| stored.announce(transfer)).unzip();
        let finished = Finished {
            n,
            outcome: done.outcome.clone(),
            engine: done.engine,
            attempts: done.attempts,
            times: done.times,
            payload,
        };
        self.to_client(connection, ToClient::Finished(finished));
        if let Some((transfer, chunks)) = chunks.flatten() {
            self.outputs.push_back(super::Output::Transfer(connection, transfer, chunks));
        }
    }

    /// The client has results: they need not be kept.
    pub(super) fn acknowledge(&mut self, key: SessionKey, ranges: &[(u64, u64)]) -> Result<(), PeerMisbehaved> {
        for &(first, last) in ranges.iter().filter(|(first, last)| first <= last) {
            // Taken out in place: to split and join the map would touch every result that is held.
            let session = self.sessions.get_mut(key).ok_or(PeerMisbehaved::Order)?;
            let received: Vec<_> = session.done.extract_if(first..=last, |_, _| true).collect();
            self.results_held -= received.len() as u64;
            for (_, done) in received {
                self.release_result(done.payload.as_ref(), done.process);
            }
        }
        Ok(())
    }

    /// Frees a result's bytes; the engine process that sent it may send as many again.
    pub(super) fn release_result(&mut self, payload: Option<&Stored>, process: Option<ProcessKey>) {
        let bytes = payload.map_or(0, Stored::budget_bytes);
        if bytes == 0 {
            return;
        }
        self.budget.release(bytes);
        process.into_iter().for_each(|key| self.grant_to_engine(key, bytes));
    }

    /// An engine process may announce so many bytes more.
    pub(super) fn grant_to_engine(&mut self, key: ProcessKey, bytes: u64) {
        let Some(process) = self.processes.get_mut(&key) else { return };
        let payload_bytes_total = process.credit.grant(bytes);
        let connection = process.connection;
        self.to_engine(connection, ToEngine::Credit(Credit { payload_bytes_total }));
    }

    /// A client may announce so many bytes more.
    pub(super) fn grant_to_client(&mut self, key: SessionKey, bytes: u64) {
        let Some(session) = self.sessions.get_mut(key) else { return };
        let payload_bytes_total = session.credit.grant(bytes);
        if let Some(connection) = session.connection {
            self.to_client(connection, ToClient::Credit(Credit { payload_bytes_total }));
        }
    }

    /// Frees the bytes of a request, once no task needs them; the client may send as many again.
    pub(super) fn release_request(&mut self, key: SessionKey, payload: &Stored) {
        let bytes = payload.budget_bytes();
        if bytes == 0 || payload.is_shared() {
            return;
        }
        self.budget.release(bytes);
        self.grant_to_client(key, bytes);
    }

    /// Cancels a task: from now on it is cancelled, whatever its engine still does.
    pub(super) fn cancel_task(&mut self, now: Time, key: TaskKey, force: bool) {
        let Some(task) = self.tasks.get(key) else { return };
        let text = match task.state {
            State::Assigned { engine, attempt, .. } => {
                let process = self.engines.get(engine).and_then(|engine| engine.process);
                if let Some(connection) = process.and_then(|key| self.processes.get(&key)).map(|it| it.connection) {
                    let attempts = vec![self.attempt(attempt)];
                    self.to_engine(connection, ToEngine::Cancel(CancelAttempts { attempts, force }));
                }
                "cancelled while an engine had it"
            }
            State::Queued | State::Receiving => "cancelled before it began",
        };
        self.end(now, key, Ended::by_broker(TaskState::Cancelled, ErrorKind::Cancelled, text));
    }

    /// After an error, what the same session had already queued on that engine does not run.
    fn abort_followers(&mut self, now: Time, session: SessionKey, target: EngineId) {
        let Some(engine) = self.engines.get(target) else { return };
        let of_session =
            |key: &TaskKey| self.tasks.get(*key).is_some_and(|task| task.session == session && task.aborts_followers());
        let followers: Vec<TaskKey> = engine.queue.iter().copied().filter(of_session).collect();
        for key in followers {
            let text = format!("aborted: an earlier task of this session failed on engine {target}");
            self.end(now, key, Ended::by_broker(TaskState::Cancelled, ErrorKind::Aborted, text));
        }
    }
}
