//! The journal's file: an SQLite database that one thread writes.
//!
//! Entries that come while a transaction is written go together into the next one. So a lone entry
//! waits for one write to the disk, and many share it. What could not be written is tried again
//! each second, but for tasks that were to be accepted, whose clients have been told.

mod check;
mod file;
mod queue;
mod read;
mod rows;
mod seal;
mod write;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result};
use furlong_wire::ids::ClusterId;
use furlong_wire::keys::AtRestKey;
use rusqlite::Connection;
use tokio::sync::mpsc::{Receiver, Sender, channel};

pub use check::{JournalReport, check};
pub use read::Restored;

use crate::core::journal::{Entry, Restoring};
use queue::{Queue, Taken};
use seal::SecretSealer;
use write::{TRIED_AGAIN_AFTER, Writer};

/// Entries in one transaction, at most.
const ENTRIES_PER_COMMIT_MAX: usize = 16_384;
/// Commits of which the network thread has not heard: beyond, the journal waits for it.
const WRITTEN_WAITING_MAX: usize = 64;

/// An open journal that nobody else can open.
#[derive(Debug)]
pub struct Journal {
    path: PathBuf,
    database: Connection,
    sealer: SecretSealer,
}

/// The thread that writes a journal.
#[derive(Debug)]
pub struct JournalThread {
    queue: Arc<Queue>,
    thread: JoinHandle<()>,
}

/// The journal's progress: the last entry, and whether everything up to it is on disk.
pub type Written = (u64, Result<(), String>);

impl Journal {
    /// Opens a journal, or makes it.
    ///
    /// # Errors
    /// A network file system, another broker that has it open, a file that is no journal or that of
    /// another cluster, or of a later version.
    pub fn open(path: &Path, cluster: ClusterId, key: &AtRestKey) -> Result<Self> {
        let database = file::open(path, cluster)?;
        Ok(Self { path: path.to_owned(), database, sealer: SecretSealer::new(key) })
    }

    /// Gives a core back what an earlier start wrote, but for what ended longer than `keep` ago. It
    /// is not finished.
    ///
    /// # Errors
    /// A damaged file, or more than the broker's memory holds.
    pub fn restore(
        &self,
        core: &mut Restoring<'_>,
        keep: Duration,
        now_unix_us: u64,
    ) -> Result<Restored> {
        let keep_us = u64::try_from(keep.as_micros()).unwrap_or(u64::MAX);
        let restored = file::tidy(&self.database, now_unix_us.saturating_sub(keep_us))
            .map_err(anyhow::Error::from)
            .and_then(|()| read::restore(&self.database, &self.sealer, core));
        restored.with_context(|| format!("cannot read the journal {}", self.path.display()))
    }

    /// Lets a thread write from now on. It says how far it is.
    ///
    /// # Errors
    /// If the system has no more threads.
    pub fn start(self) -> Result<(JournalThread, Receiver<Written>)> {
        let queue = Arc::new(Queue::default());
        let (written, heard) = channel(WRITTEN_WAITING_MAX);
        let entries = queue.clone();
        let run =
            move || run(&entries, &written, Writer::new(self.database, self.sealer, self.path));
        let thread = std::thread::Builder::new().name("journal".into()).spawn(run);
        Ok((
            JournalThread { queue, thread: thread.context("cannot start the journal's thread")? },
            heard,
        ))
    }
}

impl JournalThread {
    /// Gives it entries, with their numbers.
    pub fn write(&self, entries: Vec<(u64, Entry)>) {
        self.queue.push(entries);
    }

    /// Waits until everything is written.
    pub fn finish(self) {
        self.queue.close();
        if self.thread.join().is_err() {
            tracing::error!("the journal's thread has panicked");
        }
    }
}

fn run(entries: &Queue, written: &Sender<Written>, mut writer: Writer) {
    loop {
        let wait = writer.has_failed().then_some(TRIED_AGAIN_AFTER);
        let batch = match entries.take(ENTRIES_PER_COMMIT_MAX, wait) {
            Taken::Entries(batch) => batch,
            Taken::Nothing => {
                if writer.try_again() {
                    let _ = written.blocking_send((0, Ok(())));
                }
                continue;
            }
            Taken::Closed => return writer.finish(),
        };
        let Some(through) = batch.last().map(|(number, _)| *number) else { continue };
        let result = writer.write(batch.into_iter().map(|(_, entry)| entry).collect());
        // It fails where nobody listens any longer: the broker stops.
        let _ = written.blocking_send((through, result));
    }
}

#[cfg(test)]
mod tests;
