//! What engine processes need not hold any longer: they are told in batches, so that a task costs a byte.

use furlong_wire::message::{Release, ToEngine};

use super::Core;
use super::engines::ProcessKey;
use super::sessions::Done;

/// Attempts in one message, unless their results are large.
const ATTEMPTS_PER_RELEASE: usize = 256;
/// Bytes of results that a process holds in vain, at most.
const RESULT_BYTES_PER_RELEASE: u64 = 1024 * 1024;

/// Attempts of one process that wait to be released: a message goes when there are many or large ones, and else within
/// a second.
#[derive(Debug, Default)]
pub struct Releasing {
    counts: Vec<u64>,
    bytes: u64,
}

impl Core {
    /// Does what is done once a second: tells engine processes what they need not hold any longer.
    pub fn handle_tick(&mut self) {
        let due = self.processes.iter().filter(|(_, process)| !process.releasing.counts.is_empty());
        let due: Vec<ProcessKey> = due.map(|(key, _)| *key).collect();
        due.into_iter().for_each(|key| self.tell_released(key));
    }

    /// Nobody will ask an engine process for the result of an attempt again. One that has come back on another
    /// connection was told when it registered.
    pub(super) fn release_attempt(&mut self, key: ProcessKey, count: u64, result_bytes: u64) {
        let Some(process) = self.processes.get_mut(&key) else { return };
        let releasing = &mut process.releasing;
        releasing.counts.push(count);
        releasing.bytes += result_bytes;
        if releasing.counts.len() >= ATTEMPTS_PER_RELEASE || releasing.bytes >= RESULT_BYTES_PER_RELEASE {
            self.tell_released(key);
        }
    }

    /// An ended task is not held for its session any longer.
    pub(super) fn release_done(&mut self, done: &mut Done) {
        if let (Some(count), Some(process)) = (done.attempt.take(), done.process) {
            let bytes = done.payload.as_ref().map_or(0, super::payloads::Stored::budget_bytes);
            self.release_attempt(process, count, bytes);
        }
    }

    fn tell_released(&mut self, key: ProcessKey) {
        let Some(process) = self.processes.get_mut(&key) else { return };
        let Releasing { counts, .. } = std::mem::take(&mut process.releasing);
        let connection = process.connection;
        self.to_engine(connection, ToEngine::Release(Release::of(self.config.start, counts)));
    }
}
