//! The disk of the broker's journal: it takes its time, fails for a while, and loses what was on
//! the way when the broker is killed.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use furlong_broker::core::journal::{Entry, MemoryJournal, Restoring};
use furlong_broker::core::{Core, Time};
use furlong_wire::ids::SessionId;

use crate::world::{Event, World};

/// A journal, in one life of the broker after the other.
#[derive(Default, Debug)]
pub struct Disk {
    journal: MemoryJournal,
    unwritten: VecDeque<(u64, Entry)>,
    /// The number of those that are being written.
    writing: usize,
    /// Entries that could not be written, to be tried again.
    waiting: Vec<Entry>,
    /// Writes fail before that time.
    pub fails_until: u64,
    /// After a write that has failed, the others fail until then without a try.
    tried_again_at: u64,
    /// True if one has ever failed.
    pub has_failed: bool,
    /// Tasks that it has, and that have not ended there: their sessions and numbers.
    open: BTreeMap<u64, (SessionId, u64)>,
    /// Tasks that it has or had.
    accepted: BTreeSet<(SessionId, u64)>,
    /// Those of them that may have begun, if they may run once only.
    begun: BTreeSet<(SessionId, u64)>,
    sessions: BTreeMap<u32, SessionId>,
}

/// The time until the broker retries a write that failed, in microseconds.
const TRIED_AGAIN_US: u64 = 1_000_000;
/// The time that ended tasks are retained, in microseconds.
pub const JOURNAL_KEEP_US: u64 = 3_600_000_000;

impl Disk {
    fn write(&mut self, entry: Entry) {
        match &entry {
            Entry::Session(row) => _ = self.sessions.insert(row.key, row.id),
            Entry::Task(row) => {
                let name = (self.sessions[&row.session], row.n.0);
                self.open.insert(row.id, name);
                self.accepted.insert(name);
                if row.begun || row.options.repeated {
                    self.begun.insert(name);
                }
            }
            Entry::Begun(id) => self.begun.extend(self.open.get(id)),
            Entry::Ended(row) => _ = self.open.remove(&row.id),
            Entry::Forgotten(id) => _ = self.open.remove(id),
            _ => {}
        }
        self.journal.write(entry);
    }

    /// Returns true if it has a task, or had it until nobody could ask for it any longer.
    pub fn has_accepted(&self, session: SessionId, n: u64) -> bool {
        self.accepted.contains(&(session, n))
    }

    /// Returns true if it says that a task which may run once only may have begun.
    pub fn has_begun(&self, session: SessionId, n: u64) -> bool {
        self.begun.contains(&(session, n))
    }

    /// Returns true if it has a task, and not its end.
    pub fn is_open(&self, session: SessionId, n: u64) -> bool {
        self.open.values().any(|name| *name == (session, n))
    }

    /// Returns true if writes fail now. The journal's thread tries once a second then, and what
    /// comes meanwhile fails with what had failed: so arguments that several tasks share are not
    /// missing for some of them alone.
    fn fails(&self, now: u64) -> bool {
        self.fails_until > now || self.tried_again_at > now
    }

    /// The broker is killed. What is being written may be on the disk or not.
    pub fn loses_what_is_on_the_way(&mut self, now: u64, is_written: bool) {
        let writing: Vec<_> = self.unwritten.drain(..self.writing).collect();
        if is_written && !self.fails(now) {
            for entry in std::mem::take(&mut self.waiting)
                .into_iter()
                .chain(writing.into_iter().map(|it| it.1))
            {
                self.write(entry);
            }
        }
        self.unwritten.clear();
        self.waiting.clear();
        (self.writing, self.tried_again_at) = (0, 0);
    }

    /// The tasks that it has, and whose ends it does not have.
    pub fn open(&self) -> impl Iterator<Item = (SessionId, u64)> {
        self.open.values().copied()
    }

    /// Gives a broker's core back what is there.
    pub fn restore(&mut self, core: &mut Core, now_unix_us: u64) {
        let mut restoring = Restoring::new(core);
        let ended_before = now_unix_us.saturating_sub(JOURNAL_KEEP_US);
        self.journal
            .restore(&mut restoring, ended_before)
            .expect("what was held before fits again");
        restoring.finish(Time::default());
    }

    /// Describes the remaining tasks, for people: nothing when all have ended and nobody can ask
    /// for them any longer.
    pub fn left(&self) -> Option<String> {
        let (tasks, ended) = self.journal.counts();
        let open: Vec<_> = self.open.values().take(5).collect();
        (tasks > 0 || !self.open.is_empty() || !self.waiting.is_empty()).then(|| {
            format!("the journal still has {tasks} tasks, {ended} of them ended; open are {open:?}")
        })
    }
}

impl World {
    /// The core wants something written.
    pub fn disk_takes(&mut self, number: u64, entry: Entry) {
        self.broker.disk.unwritten.push_back((number, entry));
        self.disk_begins();
    }

    /// Begins to write what has gathered, if nothing is being written.
    fn disk_begins(&mut self) {
        let disk = &mut self.broker.disk;
        if disk.writing > 0 || disk.unwritten.is_empty() {
            return;
        }
        disk.writing = disk.unwritten.len();
        let takes = if self.dice.one_in(20) { 200_000 } else { self.setup.disk_us };
        let wait = self.dice.below(takes);
        self.after(wait, Event::DiskWrites(self.broker.life));
    }

    /// A write has come to its end.
    pub fn disk_writes(&mut self, life: u64) {
        let now = self.broker.time(self.now);
        if life != self.broker.life || self.broker.core.is_none() {
            return;
        }
        let disk = &mut self.broker.disk;
        let fails = disk.fails(self.now);
        let written: Vec<(u64, Entry)> =
            disk.unwritten.drain(..std::mem::take(&mut disk.writing)).collect();
        // A try to write again what could not be written says that, too.
        let through = written.last().map_or(0, |(number, _)| *number);
        let is_news = !fails || through > 0;
        let entries = written.into_iter().map(|(_, entry)| entry);
        if fails {
            disk.has_failed = true;
            if disk.tried_again_at <= self.now {
                disk.tried_again_at = self.now + TRIED_AGAIN_US;
            }
            disk.waiting.extend(entries.filter(|entry| !matches!(entry, Entry::Task(_))));
            self.note(|_| "a write to the journal fails".to_owned());
            self.after(TRIED_AGAIN_US, Event::DiskWrites(life));
        } else {
            let entries: Vec<Entry> =
                std::mem::take(&mut disk.waiting).into_iter().chain(entries).collect();
            for entry in entries {
                disk.write(entry);
            }
        }
        let result = if fails { Err("no space left on device") } else { Ok(()) };
        if let Some(core) = self.broker.core.as_mut().filter(|_| is_news) {
            core.handle_journaled(now, through, result);
            self.broker_flush();
        }
        self.disk_begins();
    }
}
