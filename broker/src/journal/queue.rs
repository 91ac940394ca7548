//! Entries on their way to the journal's thread.

use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::core::journal::Entry;

/// The entries to be written. Its bound is that of the core's tasks: until an entry is on disk its
/// task is neither accepted nor forgotten, so each adds a few at most.
#[derive(Debug, Default)]
pub(super) struct Queue {
    waiting: Mutex<Waiting>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Waiting {
    entries: VecDeque<(u64, Entry)>,
    is_closed: bool,
}

/// The result of polling the queue.
#[derive(Debug)]
pub(super) enum Taken {
    /// Entries, with their numbers.
    Entries(Vec<(u64, Entry)>),
    /// Nothing came in time.
    Nothing,
    /// Nothing will come any longer.
    Closed,
}

impl Queue {
    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Appends entries.
    pub(super) fn push(&self, entries: Vec<(u64, Entry)>) {
        self.lock().entries.extend(entries);
        self.changed.notify_one();
    }

    /// Nothing comes after this.
    pub(super) fn close(&self) {
        self.lock().is_closed = true;
        self.changed.notify_one();
    }

    /// Waits until there is something, for so long at most, and takes it.
    pub(super) fn take(&self, entries_max: usize, wait: Option<Duration>) -> Taken {
        let is_idle = |waiting: &mut Waiting| waiting.entries.is_empty() && !waiting.is_closed;
        let guard = self.lock();
        let mut waiting = match wait {
            None => self.changed.wait_while(guard, is_idle).unwrap_or_else(PoisonError::into_inner),
            Some(wait) => {
                let waited = self.changed.wait_timeout_while(guard, wait, is_idle);
                waited.unwrap_or_else(PoisonError::into_inner).0
            }
        };
        let few = waiting.entries.len().min(entries_max);
        match (few, waiting.is_closed) {
            (0, true) => Taken::Closed,
            (0, false) => Taken::Nothing,
            _ => Taken::Entries(waiting.entries.drain(..few).collect()),
        }
    }
}
