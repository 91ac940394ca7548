//! Releases of what engine processes no longer need to hold, sent in batches so that a task costs
//! one byte.

use furlong_wire::message::Release;

use super::Core;
use super::engines::ProcessKey;
use super::sessions::{Done, SessionKey};

/// Attempts in one message, unless their results are large.
const ATTEMPTS_PER_RELEASE: usize = 256;
/// Bytes of results that a process holds in vain, at most.
const RESULT_BYTES_PER_RELEASE: u64 = 1024 * 1024;

/// Attempts of one process that wait to be released: a message goes when there are many or large
/// ones, and else within a second.
#[derive(Debug, Default)]
pub struct Releasing {
    counts: Vec<u64>,
    bytes: u64,
}

impl Core {
    /// Does what is done once a second: tells engine processes what they need not hold any longer.
    pub fn handle_tick(&mut self) {
        let processes: Vec<ProcessKey> = self.processes.keys().copied().collect();
        for key in processes {
            self.tell_released(key);
        }
    }

    /// Nobody will ask an engine process for the result of an attempt again. One that has come back
    /// on another connection was told when it registered.
    pub(super) fn release_attempt(&mut self, key: ProcessKey, count: u64, result_bytes: u64) {
        let Some(process) = self.processes.get_mut(&key) else { return };
        let releasing = &mut process.releasing;
        releasing.counts.push(count);
        releasing.bytes += result_bytes;
        if releasing.counts.len() >= ATTEMPTS_PER_RELEASE
            || releasing.bytes >= RESULT_BYTES_PER_RELEASE
        {
            self.tell_released(key);
        }
    }

    /// An ended task is not held for its session any longer.
    pub(super) fn release_done(&mut self, done: &mut Done) {
        if let Some((process, count)) = done.held.take() {
            let bytes = done.payload.as_ref().map_or(0, super::payloads::Stored::budget_bytes);
            self.release_attempt(process, count, bytes);
        }
    }

    /// An attempt of a task that has ended, in whatever way, is held until that end is
    /// acknowledged: should the broker be killed, it is all that says that the task has run.
    /// Otherwise it is released.
    pub(super) fn hold_or_release(
        &mut self,
        key: ProcessKey,
        session: SessionKey,
        n: u64,
        count: u64,
    ) {
        let done = self.sessions.get_mut(session).and_then(|session| session.done.get_mut(n));
        let held = done
            .map(|done| &mut done.held)
            .filter(|held| held.is_none_or(|(_, other)| other == count));
        let is_held = held.is_some();
        if let Some(held) = held {
            *held = Some((key, count));
        }
        if !is_held {
            self.release_attempt(key, count, 0);
        }
    }

    /// A process that leaves cannot hold anything for later. It holds what it was given of sessions
    /// that it knows.
    pub(super) fn release_all_of(&mut self, key: ProcessKey) {
        let known = self.processes.get(&key).map(|process| &process.lanes);
        let sessions: Vec<SessionKey> =
            known.into_iter().flat_map(|lanes| lanes.keys()).copied().collect();
        let mut counts = Vec::new();
        for session in sessions {
            let Some(session) = self.sessions.get_mut(session) else { continue };
            let ended: Vec<u64> = session.done.iter().map(|(n, _)| n).collect();
            self.work.add(ended.len());
            for n in ended {
                let held = session.done.get_mut(n).map(|done| &mut done.held);
                let of_process = held.and_then(|held| held.take_if(|(process, _)| *process == key));
                counts.extend(of_process.map(|(_, count)| count));
            }
        }
        for count in counts {
            self.release_attempt(key, count, 0);
        }
        self.tell_released(key);
    }

    fn tell_released(&mut self, key: ProcessKey) {
        let Some(process) = self.processes.get_mut(&key) else { return };
        let Releasing { counts, .. } = std::mem::take(&mut process.releasing);
        if counts.is_empty() {
            return;
        }
        let connection = process.connection;
        self.send_release(connection, Release::of(self.config.start, counts));
    }
}
