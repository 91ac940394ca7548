//! Reads a recording: where its records are, and one of them at a time.

use std::fs::File;
use std::io::{BufRead as _, BufReader, ErrorKind, Read as _};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};

use super::{BODY_BYTES_MAX, Body, FIRST_LINE, FIRST_WORDS, HEAD_BYTES, WHOLE};

/// A recording.
#[derive(Debug)]
pub struct Recording {
    file: File,
    path: PathBuf,
    records: Vec<Record>,
    /// Bytes at the end of the file that are no whole record.
    pub cut_bytes: u64,
}

/// A record: where it is, and when it was written.
#[derive(Clone, Copy, Debug)]
struct Record {
    /// The place of its body.
    at: u64,
    bytes: u32,
    unix_ms: u64,
    is_whole: bool,
}

impl Recording {
    /// Opens a recording, which may go on meanwhile.
    ///
    /// # Errors
    /// There is no such file, it is no recording or one of another version, or it has no look.
    pub fn open(path: &Path) -> Result<Self> {
        let file = File::open(path).with_context(|| format!("cannot read {}", path.display()))?;
        let (records, cut_bytes) = find_records(&file, path)?;
        let shown = path.display();
        ensure!(!records.is_empty(), "{shown} has no whole look: nothing can be replayed");
        ensure!(records[0].is_whole, "{shown} does not begin with a look at the whole farm");
        Ok(Self { file, path: path.to_owned(), records, cut_bytes })
    }

    /// The times of the looks since the first one, in milliseconds: they only ever become later.
    pub fn times_ms(&self) -> Vec<u64> {
        let first = self.records.first().map_or(0, |record| record.unix_ms);
        let mut latest = 0;
        let times = self.records.iter().map(|record| record.unix_ms.saturating_sub(first));
        times
            .map(|time| {
                latest = time.max(latest);
                latest
            })
            .collect()
    }

    /// The time of a look: milliseconds since 1970.
    pub fn unix_ms(&self, look: usize) -> u64 {
        self.records.get(look).map_or(0, |record| record.unix_ms)
    }

    /// The last look up to this one that needs none of those before it.
    pub fn whole_before(&self, look: usize) -> usize {
        (0..=look).rev().find(|look| self.records[*look].is_whole).unwrap_or(0)
    }

    /// A look.
    pub(super) fn read(&self, look: usize) -> Result<Body> {
        read_body(&self.file, self.records[look])
            .with_context(|| format!("{}: look {} cannot be read", self.path.display(), look + 1))
    }
}

/// The end of the last whole record.
///
/// # Errors
/// The file is no recording, or cannot be read.
pub(super) fn whole_bytes(file: &File, path: &Path) -> Result<u64> {
    let (records, _) = find_records(file, path)?;
    let end =
        records.last().map_or(FIRST_LINE.len() as u64, |last| last.at + u64::from(last.bytes));
    Ok(end)
}

/// The whole records of a file, and how many bytes are left at its end.
fn find_records(file: &File, path: &Path) -> Result<(Vec<Record>, u64)> {
    let (mut records, mut cut_bytes) = find_heads(file, path)?;
    // The last one may have its length and no more: blocks that a crash left without contents.
    if let Some(last) = records.last().copied()
        && read_body(file, last).is_err()
    {
        records.pop();
        cut_bytes += HEAD_BYTES as u64 + u64::from(last.bytes);
    }
    Ok((records, cut_bytes))
}

fn find_heads(file: &File, path: &Path) -> Result<(Vec<Record>, u64)> {
    let shown = path.display();
    let failed = || format!("cannot read {shown}");
    let all = file.metadata().with_context(failed)?.len();
    let mut reader = BufReader::new(file);
    let mut line = Vec::new();
    let most = FIRST_LINE.len() as u64 + 8;
    reader.by_ref().take(most).read_until(b'\n', &mut line).with_context(failed)?;
    if line != FIRST_LINE.as_bytes() {
        let version = str::from_utf8(&line).ok().and_then(|line| line.strip_prefix(FIRST_WORDS));
        match version.and_then(|version| version.trim_end().parse::<u32>().ok()) {
            Some(version) => bail!(
                "{shown} is a recording of version {version}, not 1: another Furlong has made it"
            ),
            None => bail!("{shown} is not a recording of `furlong top --record`"),
        }
    }
    let (mut at, mut records) = (FIRST_LINE.len() as u64, Vec::new());
    let mut head = [0; HEAD_BYTES];
    loop {
        match reader.read_exact(&mut head) {
            Ok(()) => {}
            Err(error) if error.kind() == ErrorKind::UnexpectedEof => break,
            Err(error) => return Err(error).with_context(failed),
        }
        let [b0, b1, b2, b3, t0, t1, t2, t3, t4, t5, t6, t7, mark] = head;
        let bytes = u32::from_le_bytes([b0, b1, b2, b3]);
        let body = at + HEAD_BYTES as u64;
        let end = body + u64::from(bytes);
        if bytes == 0 || end > all {
            break;
        }
        let is_sound = bytes <= BODY_BYTES_MAX && mark <= WHOLE;
        ensure!(
            is_sound,
            "{shown} is damaged: record {} has no such length or mark",
            records.len() + 1
        );
        let unix_ms = u64::from_le_bytes([t0, t1, t2, t3, t4, t5, t6, t7]);
        records.push(Record { at: body, bytes, unix_ms, is_whole: mark == WHOLE });
        reader.seek_relative(i64::from(bytes)).with_context(failed)?;
        at = end;
    }
    Ok((records, all.saturating_sub(at)))
}

fn read_body(file: &File, record: Record) -> Result<Body> {
    let mut bytes = vec![0; record.bytes as usize];
    file.read_exact_at(&mut bytes, record.at)?;
    Ok(rmp_serde::from_slice(&bytes)?)
}

#[cfg(test)]
impl Recording {
    /// The place of a look's body in the file.
    pub fn body(&self, look: usize) -> std::ops::Range<usize> {
        let Record { at, bytes, .. } = self.records[look];
        at as usize..at as usize + bytes as usize
    }
}
