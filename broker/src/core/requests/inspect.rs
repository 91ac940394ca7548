//! Looks at interpreters: passed on to the engine, and answered when that has answered.
//!
//! Frames show code. So a task's are shown to its owner alone, and to administrators without the
//! lines of source. The engine knows what runs at the moment, and shows nothing else.

use std::collections::{BTreeMap, BTreeSet};

use furlong_wire::ids::{EngineId, OwnerId, TaskId};
use furlong_wire::limits::{
    ERROR_TEXT_BYTES_MAX, INSPECT_SESSIONS_MAX, INSPECTED_BYTES_MAX, SAMPLES_PER_S_MAX,
    SAMPLING_MS_MAX,
};
use furlong_wire::message::{
    Inspect, Inspectable, Inspected, Inspection, InspectionSeen, Reply, ReplyBody, ToEngine,
};
use furlong_wire::token::Role;

use crate::core::keys::{AttemptId, ProcessKey, SessionKey, TaskKey};
use crate::core::sessions::authority::forbidden;
use crate::core::sessions::expiries::Away;
use crate::core::tasks::table::State;
use crate::core::turns::shares::Shares;
use crate::core::{ConnectionId, Core, PeerMisbehaved, Time};

/// Looks that wait for their engines, all together: shared by owners.
const WAITING_MAX: usize = 1024;
/// Looks of one session that begin within a second.
const PER_SECOND_MAX: u32 = 64;
const SECOND_US: u64 = 1_000_000;
/// An engine has so long to answer, after the last sample.
const ANSWER_US: u64 = 10 * SECOND_US;

/// Looks that are not answered yet.
#[derive(Debug, Default)]
pub struct Inspections {
    waiting: BTreeMap<u64, Waiting>,
    of_process: BTreeSet<(ProcessKey, u64)>,
    made: u64,
    places: Shares<WAITING_MAX>,
    /// When the present second of each session that looks began, and how often it has looked.
    seconds: BTreeMap<SessionKey, (Time, u32)>,
}

#[derive(Debug)]
struct Waiting {
    owner: OwnerId,
    /// Who is answered, and under which number.
    asker: (ConnectionId, u64),
    engine: EngineId,
    process: ProcessKey,
}

impl Inspections {
    /// Returns true if nobody waits, for the tests.
    #[cfg(any(test, feature = "invariants"))]
    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty() && self.of_process.is_empty() && self.places.are_free()
    }

    /// Counts a look of a session, and returns false if that has looked too often.
    fn count(&mut self, now: Time, key: SessionKey) -> bool {
        self.seconds.retain(|_, (began, _)| now.micros_since(*began) < SECOND_US);
        let (_, count) = self.seconds.entry(key).or_insert((now, 0));
        *count += 1;
        *count <= PER_SECOND_MAX
    }

    fn take(&mut self, number: u64) -> Option<Waiting> {
        let waiting = self.waiting.remove(&number)?;
        self.of_process.remove(&(waiting.process, number));
        self.places.give_back(waiting.owner, 1);
        Some(waiting)
    }
}

/// The interpreter that is asked: the engine, and what must run there.
struct Found {
    engine: EngineId,
    attempt: Option<AttemptId>,
}

impl Core {
    /// Asks an engine where its interpreter is. Gives the answer if it is a refusal.
    pub(in crate::core) fn inspect(
        &mut self,
        now: Time,
        key: SessionKey,
        connection: ConnectionId,
        (request, wanted): (u64, &Inspection),
    ) -> Option<ReplyBody> {
        self.try_inspect(now, key, (connection, request), wanted).err()
    }

    fn try_inspect(
        &mut self,
        now: Time,
        key: SessionKey,
        asker: (ConnectionId, u64),
        wanted: &Inspection,
    ) -> Result<(), ReplyBody> {
        let refused = |text: String| ReplyBody::Refused(text);
        let claims = &self.sessions.get(key).expect("who asks has a session").claims;
        let (role, owner) = (claims.role, claims.owner);
        if !role.may_cancel() {
            return Err(forbidden(role, "look at interpreters", "client"));
        }
        if wanted.sampling.is_some_and(|sampling| {
            !(1..=SAMPLING_MS_MAX).contains(&sampling.length_ms)
                || !(1..=SAMPLES_PER_S_MAX).contains(&sampling.per_s)
        }) {
            let seconds = SAMPLING_MS_MAX / 1000;
            return Err(refused(format!(
                "an interpreter is sampled for at most {seconds} s, and {SAMPLES_PER_S_MAX} times a second"
            )));
        }
        if !self.peers.inspections.count(now, key) {
            let text = "the session looks at interpreters too often; look again in a second";
            return Err(refused(text.to_owned()));
        }
        let found = self.find_interpreter(key, wanted.of)?;
        let id = found.engine;
        let engine = self.engines.get(id).expect("an engine that was found is in the table");
        let slot = engine.slot;
        let all = role == Role::Admin;
        let own = self.own_assigned(key, id);
        if own.is_empty() && !all {
            return Err(refused(format!(
                "engine {id} has no task of yours now, and what others run is shown to an `admin` alone"
            )));
        }
        let process =
            engine.process.and_then(|process| Some((process, self.processes.get(&process)?)));
        let Some((process, to)) = process.map(|(key, process)| (key, process.connection)) else {
            let text = format!("engine {id} is not connected now; try again when it is back");
            return Err(refused(text));
        };
        if !self.peers.inspections.places.take(owner, 1) {
            let text = "too many looks wait for their engines; wait for those";
            return Err(refused(text.to_owned()));
        }
        let sessions: BTreeSet<SessionKey> = own.into_iter().chain([key]).collect();
        let sessions = sessions.into_iter().filter_map(|key| Some(self.sessions.get(key)?.id));
        let sessions = sessions.take(INSPECT_SESSIONS_MAX).collect();
        let inspections = &mut self.peers.inspections;
        inspections.made += 1;
        // No number of an earlier start: an answer to that may still come.
        let number = self.config.start.0.wrapping_add(inspections.made);
        inspections.waiting.insert(number, Waiting { owner, asker, engine: id, process });
        inspections.of_process.insert((process, number));
        let length_us = wanted.sampling.map_or(0, |it| u64::from(it.length_ms) * 1000);
        let until = Time(now.0 + length_us + ANSWER_US);
        self.peers.expiries.set(Away::Answer(number), until);
        let attempt = found.attempt.map(|attempt| self.attempt(attempt));
        let sampling = wanted.sampling;
        let inspect = Inspect { number, slot, attempt, sessions, all, sampling };
        self.to_engine(to, ToEngine::Inspect(inspect));
        Ok(())
    }

    fn find_interpreter(&self, key: SessionKey, of: Inspectable) -> Result<Found, ReplyBody> {
        let id = match of {
            Inspectable::Engine(id) => id,
            Inspectable::Task(task) => return self.find_running(key, task),
        };
        self.beyond(key, &BTreeSet::from([id])).map_or(Ok(()), Err)?;
        Ok(Found { engine: id, attempt: None })
    }

    fn find_running(&self, key: SessionKey, id: TaskId) -> Result<Found, ReplyBody> {
        let claims = &self.sessions.get(key).expect("who asks has a session").claims;
        let owner = (claims.role != Role::Admin).then_some(claims.owner);
        let mut sessions = self.sessions.of_owner(owner, id.session..=id.session);
        let task = sessions.find_map(|(session, _)| {
            let task = *self.sessions.get(session)?.ledger.tasks.get(id.n)?;
            self.tasks.get(task)
        });
        match task.map(|task| task.state) {
            Some(State::Assigned { engine, attempt, .. }) => {
                Ok(Found { engine, attempt: Some(attempt) })
            }
            Some(State::Unsent { .. }) | None => Err(ReplyBody::Refused(format!(
                "{id} does not run: it has ended, or this owner has no such task"
            ))),
            Some(_) => Err(ReplyBody::Refused(format!(
                "{id} does not run yet; `furlong explain {id}` says why"
            ))),
        }
    }

    /// The sessions of the asker's owner that have tasks at an engine.
    fn own_assigned(&self, key: SessionKey, id: EngineId) -> Vec<SessionKey> {
        let owner = self.owner(key);
        let engine = self.engines.get(id).expect("an engine that was found is in the table");
        self.turns.work.add(engine.work.assigned.len() + 1);
        let given = engine.work.assigned.iter().filter_map(|attempt| self.attempts.get(*attempt));
        let of_task = |task: TaskKey| Some(self.tasks.get(task)?.session);
        let sessions = given.filter_map(|given| of_task(given.task));
        sessions.filter(|session| self.owner(*session) == owner).collect()
    }

    /// An engine has answered.
    pub(in crate::core) fn inspected(
        &mut self,
        key: ProcessKey,
        seen: Inspected,
    ) -> Result<(), PeerMisbehaved> {
        let Inspected { number, attempt, refusal, contents } = seen;
        let refusal_bytes = refusal.as_ref().map_or(0, String::len);
        if contents.len() > INSPECTED_BYTES_MAX || refusal_bytes > ERROR_TEXT_BYTES_MAX {
            return Err(PeerMisbehaved::Limit);
        }
        // It came too late, or is none of this process's.
        if !self.peers.inspections.of_process.contains(&(key, number)) {
            return Ok(());
        }
        let task = attempt.filter(|attempt| attempt.start == self.config.start);
        let task = task.and_then(|attempt| self.tasks.get(self.attempts.get(attempt.id)?.task));
        let task = task.and_then(|task| {
            Some(TaskId { session: self.sessions.get(task.session)?.id, n: task.n })
        });
        self.answer_inspection(number, |engine| match refusal {
            Some(why) => ReplyBody::Refused(format!("engine {engine}: {why}")),
            None => ReplyBody::Inspected(InspectionSeen { engine, task, contents }),
        });
        Ok(())
    }

    /// An engine process is gone: nobody waits for what it has not said.
    pub(in crate::core) fn refuse_inspections_of(&mut self, process: ProcessKey) {
        let range = (process, 0)..=(process, u64::MAX);
        let numbers: Vec<u64> =
            self.peers.inspections.of_process.range(range).map(|(_, number)| *number).collect();
        self.turns.work.add(numbers.len());
        for number in numbers {
            self.answer_inspection(number, |engine| {
                ReplyBody::Refused(format!("engine {engine} was lost before it answered"))
            });
        }
    }

    /// An engine does not answer.
    pub(in crate::core) fn refuse_inspection(&mut self, number: u64) {
        self.answer_inspection(number, |engine| {
            let seconds = ANSWER_US / SECOND_US;
            ReplyBody::Refused(format!("engine {engine} has not answered within {seconds} s"))
        });
    }

    fn answer_inspection(&mut self, number: u64, body: impl FnOnce(EngineId) -> ReplyBody) {
        let Some(waiting) = self.peers.inspections.take(number) else { return };
        self.peers.expiries.cancel(Away::Answer(number));
        let (connection, request) = waiting.asker;
        self.answer_later(connection, Reply { request, body: body(waiting.engine) });
    }
}
