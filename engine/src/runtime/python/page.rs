//! Memory that an interpreter's worker shares with us, for what it can no longer say when it dies.
//!
//! The worker writes there which attempt it begins, and keeps there the replies that it has not
//! sent yet. So of many jobs that were sent ahead it is known after any death which have ended and
//! which one ran; no other had begun. Of a job that is a part of a map it is known which of its
//! items ran. All of this costs the worker two stores in memory for a job, and us a read after a
//! death.
//!
//! ```text
//! attempt u64 LE    the last one that began
//! bytes u64 LE      length of the replies
//! first u64 LE      of a map: the item that runs, counted from 0 within the job
//! items u64 LE      how many items from there on may be the one that runs; 0 if no map runs
//! replies           frames, as on the socket
//! text              where the threads are, written at a signal (`looks.rs`)
//! ```

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use crate::runtime::SlotJob;
use rustix::fs::{MemfdFlags, SeekFrom, ftruncate, memfd_create, seek};

/// The memory of one interpreter.
#[derive(Debug)]
pub(super) struct Page {
    memory: OwnedFd,
}

impl Page {
    /// Asks the system for it.
    pub(super) fn new() -> io::Result<Self> {
        let memory = memfd_create("furlong-worker", MemfdFlags::CLOEXEC)?;
        ftruncate(&memory, PAGE_BYTES as u64)?;
        Ok(Self { memory })
    }

    /// The file by which the worker maps it.
    pub(super) fn file(&self) -> BorrowedFd<'_> {
        self.memory.as_fd()
    }

    /// The attempt that began last.
    pub(super) fn last_begun(&self) -> SlotJob {
        SlotJob(u64::from_le_bytes(self.word(0)))
    }

    /// The items of a map that may be the one that runs: the first of them, and how many.
    pub(super) fn items(&self) -> Option<(u64, u64)> {
        let [first, items] = [16, 24].map(|at| u64::from_le_bytes(self.word(at)));
        (items > 0).then_some((first, items))
    }

    /// The replies that were not sent, or of which only a part was.
    pub(super) fn unsent(&self) -> Vec<u8> {
        let bytes = u64::from_le_bytes(self.word(8)).min((PAGE_BYTES - HEAD_BYTES) as u64);
        let mut replies = vec![0; bytes as usize];
        let read =
            rustix::io::pread(&self.memory, &mut replies[..], HEAD_BYTES as u64).unwrap_or(0);
        replies.truncate(read);
        replies
    }

    /// Forgets what was written behind the replies, and lets the next go there.
    pub(super) fn clear_written(&self) -> io::Result<()> {
        ftruncate(&self.memory, PAGE_BYTES as u64)?;
        seek(&self.memory, SeekFrom::Start(PAGE_BYTES as u64))?;
        Ok(())
    }

    /// The first bytes of what was written there.
    pub(super) fn written(&self, bytes_max: usize) -> Vec<u8> {
        let mut written = vec![0; bytes_max];
        let read = rustix::io::pread(&self.memory, &mut written[..], PAGE_BYTES as u64);
        written.truncate(read.unwrap_or(0));
        written
    }

    fn word(&self, at: u64) -> [u8; 8] {
        let mut word = [0; 8];
        // Memory that is ours can be read; code that made it shorter has lost what was in it.
        let _ = rustix::io::pread(&self.memory, &mut word[..], at);
        word
    }
}

/// The same numbers as in `channel.py`.
const PAGE_BYTES: usize = HEAD_BYTES + 64 * 1024;
const HEAD_BYTES: usize = 32;
