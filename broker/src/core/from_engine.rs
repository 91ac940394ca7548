//! What engine processes say.

use bytes::Bytes;
use furlong_wire::ids::{Attempt, EngineId};
use furlong_wire::limits::{NAME_BYTES_MAX, OUTPUT_MESSAGE_BYTES_MAX, SLOTS_PER_PROCESS_MAX};
use furlong_wire::message::{
    AttemptFinished, AttemptOutput, Attempts, CancelAttempts, ErrorKind, Event, FromEngine, Outcome,
    Output as TaskOutput, Payload, Register, Registered, SlotDown, TaskState, ToClient, ToEngine,
};

use super::engines::ProcessKey;
use super::finish::Ended;
use super::from_client::{announced_bytes, transfer_of};
use super::payloads::Stored;
use super::tasks::State;
use super::{Connected, ConnectionId, Core, Given, Output, PeerMisbehaved, Time};

/// Bytes of an engine's text about a task's end: the exception itself is in the payload.
const ERROR_TEXT_BYTES_MAX: usize = 4096;

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
        let Some(Connected::Engine(key)) = self.connections.get(&connection).copied() else {
            return Err(PeerMisbehaved::Order);
        };
        match message {
            FromEngine::Finished(finished) => self.attempt_finished(now, key, finished),
            FromEngine::Started(started) => self.attempts_started(key, &started),
            FromEngine::Output(output) => self.attempt_output(key, output),
            FromEngine::Chunk(announced) => {
                let process = self.processes.get_mut(&key).ok_or(PeerMisbehaved::Order)?;
                match process.receiving.handle_chunk(announced.transfer, chunk.unwrap_or_default())? {
                    Some((finished, stored)) => self.result_is_whole(now, key, finished, Some(stored)),
                    None => Ok(()),
                }
            }
            FromEngine::Recalled(recalled) => self.attempts_recalled(key, &recalled),
            FromEngine::Register(register) => self.register(now, key, *register),
            FromEngine::SlotDown(down) => self.slot_down(key, &down),
            FromEngine::Goodbye(_) => {
                self.processes.get_mut(&key).ok_or(PeerMisbehaved::Order)?.leaving = true;
                self.outputs.push_back(Output::Close(connection, "goodbye"));
                Ok(())
            }
            // What the broker sends is bounded by the requests that clients may have with it.
            FromEngine::Credit(_) => Ok(()),
            FromEngine::Published(_) | FromEngine::NeedBlob(_) | FromEngine::Draining(_) => {
                Err(PeerMisbehaved::Unsupported)
            }
        }
    }

    fn register(&mut self, now: Time, key: ProcessKey, register: Register) -> Result<(), PeerMisbehaved> {
        let process = self.processes.get_mut(&key).ok_or(PeerMisbehaved::Order)?;
        if process.register.is_some() {
            return Err(PeerMisbehaved::Order);
        }
        if !within_limits(&register) {
            return Err(PeerMisbehaved::Limit);
        }
        let foreign = |uuid| self.engines.belongs_to_another(uuid, register.instance);
        if register.slots.iter().any(|slot| foreign(slot.uuid)) {
            return Err(PeerMisbehaved::Attempt);
        }
        let connection = process.connection;
        let instance = register.instance;
        let mut ids = Vec::with_capacity(register.slots.len());
        for (slot, uuid, wanted) in (0..).zip(&register.slots).map(|(slot, it)| (slot, it.uuid, it.wanted)) {
            let id = self.engines.admit(uuid, wanted);
            if let Some(old) = self.engines.get(id).and_then(|engine| engine.process) {
                self.take_over(now, old);
            }
            self.engines.update(id, |engine| {
                (engine.process, engine.slot, engine.given_up) = (Some(key), slot, None);
                engine.instance = Some(instance);
            });
            ids.push(id);
        }
        let held = register.held.iter().map(|held| held.attempt).collect::<Vec<_>>();
        let process = self.processes.get_mut(&key).ok_or(PeerMisbehaved::Order)?;
        process.engines.clone_from(&ids);
        process.register = Some(register);
        self.to_engine(connection, ToEngine::Registered(Registered { engines: ids.clone() }));
        self.reconcile(now, &ids, &held, connection);
        for id in ids {
            self.direct_ready.insert(id);
            self.tell_subscribers(Event::EngineOnline(id));
        }
        self.outputs.push_back(Output::SaveRoster(self.engines.roster()));
        Ok(())
    }

    /// An engine has come back on a new connection before the old one was found dead.
    fn take_over(&mut self, now: Time, old: ProcessKey) {
        let Some(connection) = self.processes.get(&old).map(|process| process.connection) else { return };
        self.outputs.push_back(Output::Close(connection, "the engine has a newer connection"));
        self.handle_disconnected(now, connection);
    }

    /// Compares what an engine holds with what it was given. What neither side still wants is ended.
    fn reconcile(&mut self, now: Time, ids: &[EngineId], held: &[Attempt], connection: ConnectionId) {
        let ours = |attempt: &Attempt| attempt.start == self.config.start && self.attempts.contains_key(&attempt.count);
        let unknown: Vec<Attempt> = held.iter().copied().filter(|attempt| !ours(attempt)).collect();
        if !unknown.is_empty() {
            let cancel = CancelAttempts { attempts: unknown, force: false };
            self.to_engine(connection, ToEngine::Cancel(cancel));
        }
        for &id in ids {
            let Some(engine) = self.engines.get(id) else { continue };
            let given: Vec<u64> = engine.assigned.iter().copied().collect();
            for count in given {
                if held.contains(&self.attempt(count)) {
                    continue;
                }
                if let Some(given) = self.take_back(count) {
                    let how = "its connection was cut while the task or its result was on the way";
                    self.retry_or_lose(now, given.task, count, how);
                }
            }
        }
    }

    /// Checks that an attempt is one that this process was given. None if it is of another start of the broker.
    fn given(&self, key: ProcessKey, attempt: Attempt) -> Result<Option<Given>, PeerMisbehaved> {
        if attempt.start != self.config.start {
            return Ok(None);
        }
        let Some(given) = self.attempts.get(&attempt.count).copied() else {
            // It was moved elsewhere while the engine was away: a late report is normal.
            return if attempt.count <= self.attempts_made { Ok(None) } else { Err(PeerMisbehaved::Attempt) };
        };
        let process = self.engines.get(given.engine).and_then(|engine| engine.process);
        if process == Some(key) { Ok(Some(given)) } else { Err(PeerMisbehaved::Attempt) }
    }

    fn attempts_started(&mut self, key: ProcessKey, started: &Attempts) -> Result<(), PeerMisbehaved> {
        for attempt in &started.attempts {
            let Some(given) = self.given(key, *attempt)? else { continue };
            let Some(task) = self.tasks.get_mut(given.task) else { continue };
            match task.state {
                State::Assigned { engine, attempt: current, .. } if current == attempt.count => {
                    task.transition(State::Assigned { engine, attempt: current, started: true });
                }
                _ => {}
            }
        }
        Ok(())
    }

    fn attempt_output(&mut self, key: ProcessKey, output: AttemptOutput) -> Result<(), PeerMisbehaved> {
        if output.bytes.len() > OUTPUT_MESSAGE_BYTES_MAX {
            return Err(PeerMisbehaved::Limit);
        }
        let Some(given) = self.given(key, output.attempt)? else { return Ok(()) };
        let Some(task) = self.tasks.get(given.task) else { return Ok(()) };
        let connection = self.sessions.get(task.session).and_then(|session| session.connection);
        if let Some(connection) = connection {
            let AttemptOutput { stream, offset, bytes, .. } = output;
            let message = TaskOutput { n: task.n, attempt: task.attempts, engine: given.engine, stream, offset, bytes };
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
            error.text.truncate(kept);
        }
        let wanted = self.given(key, finished.attempt)?.is_some_and(|given| self.tasks.get(given.task).is_some());
        let Some(payload) = finished.payload.clone() else {
            return self.result_is_whole(now, key, finished, None);
        };
        let process = self.processes.get_mut(&key).ok_or(PeerMisbehaved::Order)?;
        process.receiving.check(&payload)?;
        process.credit.announce(announced_bytes(&payload))?;
        if let Payload::Inline(bytes) = &payload {
            let stored = Stored::Inline(bytes.clone());
            return self.result_is_whole(now, key, finished, Some(stored));
        }
        if wanted && !matches!(self.admit_payload(&payload), Stored::Refused) {
            let process = self.processes.get_mut(&key).ok_or(PeerMisbehaved::Order)?;
            return process.receiving.expect(transfer_of(&payload), &payload, Some(finished));
        }
        // Nobody wants it, or there is no room: its bytes are read past, and may be sent again as others.
        let process = self.processes.get_mut(&key).ok_or(PeerMisbehaved::Order)?;
        process.receiving.expect(transfer_of(&payload), &payload, None)?;
        self.grant_to_engine(key, announced_bytes(&payload));
        self.result_is_whole(now, key, finished, Some(Stored::Refused))
    }

    /// An attempt has ended, and its result is here.
    fn result_is_whole(
        &mut self,
        now: Time,
        key: ProcessKey,
        finished: AttemptFinished,
        payload: Option<Stored>,
    ) -> Result<(), PeerMisbehaved> {
        let Some(given) = self.given(key, finished.attempt)? else {
            self.release_result(payload.as_ref(), Some(key));
            return Ok(());
        };
        self.take_back(finished.attempt.count);
        self.engines.update(given.engine, |engine| {
            engine.finished += 1;
            engine.busy_us = engine.busy_us.saturating_add(finished.run_us);
        });
        if let Some(task) = self.tasks.get(given.task) {
            let (class, session) = (task.class, task.session);
            if let Some(session) = self.sessions.get_mut(session) {
                session.kinds.handle_run(class, finished.run_us);
            }
        }
        let outcome = match &payload {
            Some(Stored::Refused) => {
                let (_, total) = self.budget.state();
                let text =
                    format!("its result did not fit the broker's payload memory ({total} bytes); use `--memory`");
                Outcome::error(TaskState::Failed, ErrorKind::Busy, text)
            }
            _ => finished.outcome,
        };
        let payload = payload.filter(|stored| !matches!(stored, Stored::Refused));
        let ended = Ended { outcome, engine: Some(given.engine), run_us: finished.run_us, payload, process: Some(key) };
        self.end(now, given.task, ended);
        Ok(())
    }

    fn attempts_recalled(&mut self, key: ProcessKey, recalled: &Attempts) -> Result<(), PeerMisbehaved> {
        // The last one first: each goes to the front of its queue.
        for attempt in recalled.attempts.iter().rev() {
            if self.given(key, *attempt)?.is_some()
                && let Some(given) = self.take_back(attempt.count)
            {
                self.requeue(given.task);
            }
        }
        Ok(())
    }

    fn slot_down(&mut self, key: ProcessKey, down: &SlotDown) -> Result<(), PeerMisbehaved> {
        let process = self.processes.get(&key).ok_or(PeerMisbehaved::Order)?;
        let id = *process.engines.get(down.slot as usize).ok_or(PeerMisbehaved::Limit)?;
        let cause: String = down.cause.chars().take(4096).collect();
        self.tell_subscribers(Event::EngineRestarted(id, cause));
        Ok(())
    }
}

fn within_limits(register: &Register) -> bool {
    let names = register.labels.iter().chain([&register.host]);
    let mut uuids: Vec<_> = register.slots.iter().map(|slot| slot.uuid).collect();
    uuids.sort_unstable();
    let distinct = uuids.windows(2).all(|pair| pair[0] != pair[1]);
    distinct
        && !register.slots.is_empty()
        && register.slots.len() <= SLOTS_PER_PROCESS_MAX
        && register.labels.len() <= 64
        && register.cwd.len() <= 4096
        && register.python.as_ref().is_none_or(|python| python.len() <= 4096)
        && names.into_iter().all(|name| name.len() <= NAME_BYTES_MAX)
}
