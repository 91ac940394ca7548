//! Engines that are stopped on request, and the broker with them: in parts, since there may be very
//! many.

use std::collections::BTreeSet;
use std::ops::Bound;

use furlong_wire::ids::{Attempt, EngineId};
use furlong_wire::limits::SUBMIT_TARGETS_MAX;
use furlong_wire::message::{
    CancelAttempts, EngineShutdown, Event, Reply, ReplyBody, Shutdown, Slots, ToEngine,
};

use super::control::too_many_engines;
use crate::core::keys::{ProcessKey, SessionKey};
use crate::core::turns::work::TASKS_PER_PART;
use crate::core::{ConnectionId, Core, Output, Time};

/// The word to who waits for what was stopped.
const REASON: &str = "stopped on request";

/// Engines that are to be stopped, and how far that has come.
#[derive(Debug)]
pub(in crate::core) struct Stop {
    engines: BTreeSet<EngineId>,
    /// The last one that was stopped.
    last: Option<EngineId>,
    /// Processes of which some engines stay.
    divided: BTreeSet<ProcessKey>,
    /// Engines finish what they run.
    finish: bool,
    /// The broker stops as well.
    broker: bool,
    /// The request to be answered, and the journal's entries when it came.
    request: (u64, u64),
}

impl Stop {
    fn next(&mut self) -> Option<EngineId> {
        let from = self.last.map_or(Bound::Unbounded, Bound::Excluded);
        let next = self.engines.range((from, Bound::Unbounded)).next().copied();
        self.last = next.or(self.last);
        next
    }
}

impl Core {
    /// Stops engines, and the broker if that was asked for. Gives the answer if that was all.
    pub(in crate::core) fn shutdown(
        &mut self,
        now: Time,
        connection: ConnectionId,
        shutdown: &Shutdown,
    ) -> Option<ReplyBody> {
        let engines: BTreeSet<EngineId> = match &shutdown.engines {
            Some(engines) if engines.len() > SUBMIT_TARGETS_MAX => {
                return Some(too_many_engines());
            }
            Some(engines) => engines.iter().copied().collect(),
            None => {
                self.engines.iter().filter(|(_, it)| it.loss.is_none()).map(|(id, _)| id).collect()
            }
        };
        if let Some(id) = engines.iter().find(|id| !self.engines.is_known(**id)) {
            let text = format!("there is no engine {id}; `furlong ids` shows who is there");
            return Some(ReplyBody::Refused(text));
        }
        let (finish, broker) = (shutdown.finish, shutdown.broker);
        let request = (shutdown.request, self.entries());
        let divided = BTreeSet::new();
        let stop = Stop { engines, last: None, divided, finish, broker, request };
        match self.stop_engines(now, stop) {
            Ok(()) => Some(ReplyBody::Done),
            Err(rest) => {
                self.turns.rests.insert(connection, rest.into());
                None
            }
        }
    }

    /// Stops some more, and answers if that was all.
    pub(in crate::core) fn go_on_stopping(
        &mut self,
        now: Time,
        key: SessionKey,
        connection: ConnectionId,
        stop: Stop,
    ) {
        let (request, before) = stop.request;
        match self.stop_engines(now, stop) {
            Ok(()) => {
                let reply = Reply { request, body: ReplyBody::Done };
                self.answer_request(key, connection, reply, before);
            }
            Err(rest) => _ = self.turns.rests.insert(connection, rest.into()),
        }
    }

    /// Stops some of these engines. As an error, what is left.
    pub(in crate::core) fn stop_engines(&mut self, now: Time, mut stop: Stop) -> Result<(), Stop> {
        let began = self.turns.work.done();
        while let Some(id) = stop.next() {
            self.turns.work.add(1);
            self.stop_engine(now, id, &mut stop);
            // Asked after each: an engine with much assigned is a part by itself.
            if self.turns.work.done() - began >= TASKS_PER_PART as u64 {
                return Err(stop);
            }
        }
        if stop.broker {
            self.outputs.push_back(Output::Stop(REASON.to_owned()));
        }
        Ok(())
    }

    /// Stops an engine: with its process, if that goes as a whole, else alone.
    fn stop_engine(&mut self, now: Time, id: EngineId, stop: &mut Stop) {
        // It may have been lost since the request came.
        let Some(engine) = self.engines.get(id).filter(|engine| engine.loss.is_none()) else {
            return;
        };
        match engine.process {
            Some(key) if self.is_divided(key, stop) => self.stop_alone(now, id),
            Some(key) => self.stop_process(key, stop.finish),
            None => self.stop_alone(now, id),
        }
    }

    /// Returns true if some engines of a process stay.
    fn is_divided(&self, key: ProcessKey, stop: &mut Stop) -> bool {
        let process = self.processes.get(&key).expect("an engine's process is here");
        // Each process is looked at once, since it may have a thousand engines that are all named.
        if process.leaving || stop.divided.contains(&key) {
            return !process.leaving;
        }
        self.turns.work.add(process.engines.len());
        let goes = |id: &EngineId| stop.engines.contains(id) || self.engines.get(*id).is_none();
        let is_divided = !process.engines.iter().all(goes);
        if is_divided {
            stop.divided.insert(key);
        }
        is_divided
    }

    /// Tells a process to leave, unless it is about to.
    fn stop_process(&mut self, key: ProcessKey, finish: bool) {
        let process = self.processes.get(&key).expect("an engine's process is here");
        if process.leaving {
            return;
        }
        let connection = process.connection;
        self.stop_giving(key);
        let message = EngineShutdown { reason: REASON.to_owned(), finish };
        self.to_engine(connection, ToEngine::Shutdown(message));
    }

    /// Stops an engine whose process goes on, or is away. Its slot stays there, and is given
    /// nothing any longer.
    fn stop_alone(&mut self, now: Time, id: EngineId) {
        self.tell_slot(id, |slots| ToEngine::Restart(Slots { slots }));
        // Before what it has is listed: what has not gone out need not be stopped.
        self.requeue_withheld(now, id);
        let process = self.engines.get(id).and_then(|engine| engine.process);
        if let Some(key) = process {
            self.release_unsent(key, id);
        }
        // What needs no interpreter is not ended by that.
        let assigned = self.engines.get(id).into_iter().flat_map(|engine| &engine.work.assigned);
        let attempts: Vec<Attempt> = assigned.map(|count| self.attempt(*count)).collect();
        self.turns.work.add(attempts.len());
        if let Some(process) = process.and_then(|key| self.processes.get(&key)) {
            let cancel = |attempts| ToEngine::Cancel(CancelAttempts { attempts, force: true });
            self.to_engine_in_parts(process.connection, &attempts, cancel);
        }
        self.release_orphans(id);
        self.forget_set_aside(id);
        self.lose_engine(now, id, "the engine was stopped on request", true);
        self.tell_subscribers(Event::EngineOffline(id));
    }
}
