//! The disk of the journal, as quick as a test wants it.

use std::collections::VecDeque;
use std::time::Duration;

use crate::core::journal::{Entry, MemoryJournal};
use crate::core::tests::farm::peers::Farm;
use crate::core::{Config, Core, Roster};

/// The disk of the journal.
#[derive(Debug, Default)]
pub struct Disk {
    pub journal: MemoryJournal,
    /// On the way to it.
    pub unwritten: VecDeque<(u64, Entry)>,
    /// True if a write takes until [`Farm::sync`].
    pub is_slow: bool,
}

/// The retention time of ended tasks in the journal.
pub const JOURNAL_KEEP: Duration = Duration::from_hours(24);

impl Farm {
    /// With a journal, of which the disk is quick.
    pub fn with_journal(payload_bytes_max: u64, session_tasks_max: u64) -> Self {
        let mut farm = Self::with_limits(payload_bytes_max, session_tasks_max);
        let config = Config { journal_keep: Some(JOURNAL_KEEP), ..farm.core.config.clone() };
        farm.core = Core::new(config, &Roster::default());
        farm
    }

    /// Completes all writes to the disk that are in flight.
    pub fn sync(&mut self) {
        while !self.disk.unwritten.is_empty() {
            self.sync_once();
        }
    }

    /// Completes the writes to the disk that are in flight now; those they lead to are then in
    /// flight.
    pub fn sync_once(&mut self) {
        let Some((last, _)) = self.disk.unwritten.back() else { return };
        let last = *last;
        self.disk.unwritten.drain(..).for_each(|(_, entry)| self.disk.journal.write(entry));
        self.core.handle_journaled(self.now, last, Ok(()));
        self.pump();
    }

    /// The next write to the disk fails, and what is tried again is not there before the broker is
    /// killed.
    pub fn lose_unwritten(&mut self) {
        let Some((last, _)) = self.disk.unwritten.drain(..).last() else { return };
        self.core.handle_journaled(self.now, last, Err("no space left on device"));
        self.pump();
    }

    /// The next write to the disk fails: what is on its way is lost, but for what is not refused.
    pub fn fail_to_sync(&mut self) {
        let Some((last, _)) = self.disk.unwritten.back() else { return };
        let last = *last;
        for (_, entry) in self.disk.unwritten.drain(..) {
            if !matches!(entry, Entry::Task(_)) {
                self.disk.journal.write(entry);
            }
        }
        self.core.handle_journaled(self.now, last, Err("no space left on device"));
        self.pump();
    }
}
