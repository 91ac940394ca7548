//! Releases of what engine processes no longer need to hold, sent in batches so that a task costs
//! one byte.

use std::collections::{BTreeMap, BTreeSet};

use furlong_wire::ids::TaskSeq;
use furlong_wire::message::Release;

use crate::core::Core;
use crate::core::keys::{AttemptId, ProcessKey, SessionKey};
use crate::core::tasks::ended::EndedTask;
use crate::core::turns::chores::Chore;
use crate::core::turns::work::TASKS_PER_PART;

/// Attempts in one message, unless their results are large.
const ATTEMPTS_PER_RELEASE: usize = 256;
/// Bytes of results that a process holds in vain, at most.
const RESULT_BYTES_PER_RELEASE: u64 = 1024 * 1024;
/// Processes that are told at once, each of [`ATTEMPTS_PER_RELEASE`] attempts at most.
const PROCESSES_PER_PART: usize = 64;

/// Attempts that wait to be released, of each process that has some: a message goes when there are
/// many or large ones, and else within a second.
#[derive(Debug, Default)]
pub struct Releases {
    waiting: BTreeMap<ProcessKey, Releasing>,
}

#[derive(Debug, Default)]
struct Releasing {
    attempts: Vec<AttemptId>,
    bytes: u64,
}

impl Releases {
    /// Adds an attempt. Returns true if its process is to be told now.
    fn add(&mut self, key: ProcessKey, attempt: AttemptId, result_bytes: u64) -> bool {
        let Releasing { attempts, bytes } = self.waiting.entry(key).or_default();
        attempts.push(attempt);
        *bytes += result_bytes;
        attempts.len() >= ATTEMPTS_PER_RELEASE || *bytes >= RESULT_BYTES_PER_RELEASE
    }

    /// Takes out what waits for a process, which is told of it, or is gone.
    pub fn take(&mut self, key: ProcessKey) -> Vec<AttemptId> {
        self.waiting.remove(&key).map(|releasing| releasing.attempts).unwrap_or_default()
    }

    /// The processes for which something waits, from this one on.
    pub fn from(&self, first: ProcessKey) -> impl Iterator<Item = ProcessKey> {
        self.waiting.range(first..).map(|(key, _)| *key)
    }
}

impl Core {
    /// Does what is done once a second: tells engine processes what they need not hold any longer.
    pub fn handle_tick(&mut self) {
        self.tell_released_from(ProcessKey(0));
    }

    /// Tells some processes, from this one on, and the others in later turns.
    pub(in crate::core) fn tell_released_from(&mut self, first: ProcessKey) {
        let part: Vec<ProcessKey> =
            self.recovery.releases.from(first).take(PROCESSES_PER_PART).collect();
        for key in &part {
            self.tell_released(*key);
        }
        if let Some(last) = part.get(PROCESSES_PER_PART - 1) {
            self.turns.chores.push(Chore::TellReleased(ProcessKey(last.0 + 1)));
        }
    }

    /// Nobody will ask an engine process for the result of an attempt again. One that has come back
    /// on another connection was told when it registered.
    pub(in crate::core) fn release_attempt(
        &mut self,
        key: ProcessKey,
        attempt: AttemptId,
        result_bytes: u64,
    ) {
        let is_here = self.processes.contains_key(&key);
        if is_here && self.recovery.releases.add(key, attempt, result_bytes) {
            self.tell_released(key);
        }
    }

    /// An ended task is not held for its session any longer.
    pub(in crate::core) fn release_done(&mut self, done: &mut EndedTask) {
        if let Some((process, attempt)) = done.held.take() {
            let bytes = done
                .payload
                .as_ref()
                .map_or(0, crate::core::payloads::stored::Stored::budget_bytes);
            self.release_attempt(process, attempt, bytes);
        }
    }

    /// An attempt of a task that has ended, in whatever way, is held until that end is
    /// acknowledged: should the broker be killed, it is all that says that the task has run.
    /// Otherwise it is released.
    pub(in crate::core) fn hold_or_release(
        &mut self,
        key: ProcessKey,
        session: SessionKey,
        n: TaskSeq,
        attempt: AttemptId,
    ) {
        // None if its session is over, or its client has acknowledged the end already.
        let held = self
            .sessions
            .ended_mut(session, n)
            .map(|done| &mut done.held)
            .filter(|held| held.is_none_or(|(_, other)| other == attempt));
        let is_held = held.is_some();
        if let Some(held) = held {
            *held = Some((key, attempt));
        }
        if !is_held {
            self.release_attempt(key, attempt, 0);
        }
    }

    /// A process that leaves cannot hold anything for later. It holds what it was given of sessions
    /// that it knows, and what it held when it came back: some of that is released now, from this
    /// task on, and the rest in later turns.
    pub(in crate::core) fn release_all_from(
        &mut self,
        key: ProcessKey,
        (first, n): (SessionKey, TaskSeq),
    ) {
        // Its connection may be gone since an earlier part.
        let Some(process) = self.processes.get(&key) else { return };
        let mut room = TASKS_PER_PART;
        let mut attempts = Vec::new();
        let mut next = None;
        let told = process.told.lanes.range(first..).map(|(of, _)| *of).take(room);
        let sessions: BTreeSet<SessionKey> =
            told.chain(process.held_of.range(first..).copied().take(room)).collect();
        for of in sessions {
            let Some(session) = self.sessions.get_mut(of) else { continue };
            let from = if of == first { n } else { TaskSeq::MIN };
            let ended: Vec<TaskSeq> =
                session.ledger.done.range(from, TaskSeq::MAX).take(room).map(|(n, _)| n).collect();
            for n in &ended {
                let held = session.ledger.done.get_mut(*n).map(|done| &mut done.held);
                let of_process = held.and_then(|held| held.take_if(|(process, _)| *process == key));
                attempts.extend(of_process.map(|(_, attempt)| attempt));
            }
            // A session is a step, too: a process may know very many that have nothing.
            room = room.saturating_sub(ended.len() + 1);
            if room == 0 {
                next = Some((of, ended.last().map_or(from, |last| *last + 1)));
                break;
            }
        }
        self.turns.work.add(TASKS_PER_PART - room);
        for attempt in attempts {
            self.release_attempt(key, attempt, 0);
        }
        match next {
            Some(next) => self.turns.chores.push(Chore::ReleaseAll(key, next)),
            None => self.tell_released(key),
        }
    }

    fn tell_released(&mut self, key: ProcessKey) {
        // A process that leaves may have nothing to be told of.
        let attempts = self.recovery.releases.take(key);
        let process = self.processes.get(&key).filter(|_| !attempts.is_empty());
        let Some(connection) = process.map(|process| process.connection) else { return };
        self.turns.work.add(1);
        self.send_release(connection, Release::of(self.config.start, attempts));
    }
}
