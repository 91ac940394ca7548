//! Writes a recording: a record for each look, at the end of a file.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions, TryLockError};
use std::io::{Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use furlong_client::TaskId;
use furlong_wire::message::{Seen, TaskRecord, TaskState};

use super::read::whole_bytes;
use super::{BODY_BYTES_MAX, Body, ENDS_MAX, FIRST_LINE, HEAD_BYTES, WHOLE};

/// A recording that goes on.
#[derive(Debug)]
pub struct Recorder {
    file: File,
    path: PathBuf,
    /// The end of the last record.
    end: u64,
    endpoint: String,
    is_begun: bool,
    /// Tasks that have not ended, as the file has them.
    queue: BTreeMap<TaskId, TaskRecord>,
}

impl Recorder {
    /// Opens a file, or makes it, readable by its owner alone. A recording that is there goes on;
    /// the part of a record at its end, which a crash has left, is taken away. Returns the number
    /// of its bytes as well.
    ///
    /// # Errors
    /// The file is none of ours, or somebody records into it now, or it cannot be written.
    pub fn open(path: &Path, endpoint: String) -> Result<(Self, u64)> {
        let named = || format!("cannot record into {}", path.display());
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false).mode(0o600);
        let mut file = options.open(path).with_context(named)?;
        if !file.metadata().with_context(named)?.is_file() {
            bail!("{}: it is not a file", named());
        }
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => bail!("{}: another process does so now", named()),
            Err(TryLockError::Error(error)) => return Err(error).with_context(named),
        }
        let bytes = file.metadata().with_context(named)?.len();
        let end = if bytes == 0 {
            file.write_all(FIRST_LINE.as_bytes()).with_context(named)?;
            FIRST_LINE.len() as u64
        } else {
            whole_bytes(&file, path)?
        };
        file.set_len(end).with_context(named)?;
        file.seek(SeekFrom::Start(end)).with_context(named)?;
        let (path, queue) = (path.to_owned(), BTreeMap::new());
        let recorder = Self { file, path, end, endpoint, is_begun: false, queue };
        Ok((recorder, bytes.saturating_sub(end)))
    }

    /// Writes a look down: the broker's answers, and the tasks that have not ended.
    ///
    /// # Errors
    /// The file cannot be written. It then ends with the record before.
    pub fn add(&mut self, unix_ms: u64, mut seen: Vec<Seen>, queue: &[TaskRecord]) -> Result<()> {
        let is_whole = !self.is_begun || seen.iter().any(|seen| seen.is_new);
        if is_whole {
            self.queue.clear();
        }
        leave_ends_out(&mut seen);
        let (queue, left) = self.changes(queue);
        let body = Body { endpoint: self.endpoint.clone(), seen, queue, left };
        let mut record = vec![0; HEAD_BYTES];
        rmp_serde::encode::write(&mut record, &body).context("a look cannot be encoded")?;
        let body_bytes = (record.len() - HEAD_BYTES) as u64;
        if body_bytes > u64::from(BODY_BYTES_MAX) {
            bail!("a look of {body_bytes} bytes is too large for a recording");
        }
        record[..4].copy_from_slice(&(body_bytes as u32).to_le_bytes());
        record[4..12].copy_from_slice(&unix_ms.to_le_bytes());
        record[12] = if is_whole { WHOLE } else { 0 };
        if let Err(error) = self.file.write_all(&record) {
            // What is left of the record would be cut by the next one who opens the file, too.
            let _ = self.file.set_len(self.end);
            return Err(error).with_context(|| format!("cannot write {}", self.path.display()));
        }
        self.end += record.len() as u64;
        self.is_begun = true;
        Ok(())
    }

    /// The tasks that are new or have changed since the last record, and those that are gone.
    fn changes(&mut self, queue: &[TaskRecord]) -> (Vec<TaskRecord>, Vec<TaskId>) {
        let now: BTreeMap<TaskId, &TaskRecord> =
            queue.iter().map(|record| (record.id, record)).collect();
        let left: Vec<TaskId> =
            self.queue.keys().filter(|id| !now.contains_key(id)).copied().collect();
        let is_changed = |record: &&TaskRecord| {
            self.queue.get(&record.id).is_none_or(|old| !is_same(old, record))
        };
        let changed: Vec<TaskRecord> = now.into_values().filter(is_changed).cloned().collect();
        for id in &left {
            self.queue.remove(id);
        }
        self.queue.extend(changed.iter().map(|record| (record.id, record.clone())));
        (changed, left)
    }
}

/// Returns true if nothing but the time has gone on.
fn is_same(one: &TaskRecord, other: &TaskRecord) -> bool {
    let mut times = one.times;
    times.now_us = other.times.now_us;
    times == other.times && TaskRecord { times, ..one.clone() } == *other
}

/// Leaves out ended tasks of which there are too many: those that succeeded, and the earlier ones
/// first. They are counted as missed.
fn leave_ends_out(seen: &mut [Seen]) {
    let is_failed = |state: &TaskState| !matches!(state, TaskState::Succeeded);
    let all: usize = seen.iter().map(|seen| seen.ends.len()).sum();
    let mut surplus = all.saturating_sub(ENDS_MAX);
    for failures_go in [false, true] {
        for seen in seen.iter_mut() {
            let before = seen.ends.len();
            seen.ends.retain(|end| {
                let goes = surplus > 0 && (failures_go || !is_failed(&end.state));
                surplus -= usize::from(goes);
                !goes
            });
            seen.ends_missed += (before - seen.ends.len()) as u64;
        }
    }
}
