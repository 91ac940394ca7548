//! `run/roster.json`: which engine had which integer, for a later start.
//!
//! The first line is a roster, each of the others a change of it, as JSON. Changes are appended
//! before an engine gets its first task, since a later start must know whom to wait for; when there
//! are many, the file is written anew.

use std::fs::File;
use std::io::Write;
use std::path::PathBuf;

use anyhow::{Context, Result};
use furlong_host::home::ClusterDir;
use furlong_host::private_file::{read_private, write_private_soon};

use crate::core::{Roster, RosterChange};

/// The file, open for what changes.
#[derive(Debug)]
pub(super) struct RosterFile {
    path: PathBuf,
    /// None before it was written by this broker, and after an error.
    file: Option<File>,
    changes: usize,
    changes_max: usize,
    /// True if all of it is on the disk.
    is_synced: bool,
}

const BYTES_MAX: u64 = 64 * 1024 * 1024;
/// Changes for which the file is not written anew.
const CHANGES_MIN: usize = 1024;

impl RosterFile {
    /// The file of a cluster.
    pub(super) fn of(dir: &ClusterDir) -> Self {
        Self { path: dir.roster(), file: None, changes: 0, changes_max: 0, is_synced: true }
    }

    /// The roster of a broker that did not stop gracefully; a new one otherwise.
    pub(super) fn read(&self) -> Roster {
        let Ok(text) = read_private(&self.path, BYTES_MAX) else { return Roster::default() };
        let mut lines = text.lines();
        let first = lines.next().and_then(|line| serde_json::from_str(line).ok());
        let mut roster: Roster = first.unwrap_or_default();
        // The last one may have been cut off.
        let changes = lines.map_while(|line| serde_json::from_str::<RosterChange>(line).ok());
        changes.for_each(|change| roster.apply(change));
        roster
    }

    /// Keeps what has changed: with the system, which is enough if the broker alone is killed.
    pub(super) fn note(&mut self, changes: &[RosterChange], whole: impl FnOnce() -> Roster) {
        let is_full = self.changes + changes.len() > self.changes_max;
        let noted = if is_full { self.write(&whole()) } else { self.append(changes) };
        if let Err(error) = noted {
            self.file = None;
            self.changes_max = 0;
            tracing::warn!("engines may get other ids after a restart of the broker: {error:#}");
        }
    }

    /// Puts it on the disk, if it is not there.
    pub(super) fn sync(&mut self) {
        let Some(file) = self.file.as_ref().filter(|_| !self.is_synced) else { return };
        self.is_synced = true;
        if let Err(error) = file.sync_data() {
            tracing::warn!("{} is not on the disk: {error}", self.path.display());
        }
    }

    /// The cluster has ended: its engines' integers begin at 0 again.
    pub(super) fn remove(&self) {
        let _ = std::fs::remove_file(&self.path);
    }

    fn append(&mut self, changes: &[RosterChange]) -> Result<()> {
        let mut lines = Vec::new();
        for change in changes {
            serde_json::to_writer(&mut lines, change).context("a change is plain data")?;
            lines.push(b'\n');
        }
        let file = self.file.as_mut().context("the file is not open")?;
        file.write_all(&lines).with_context(|| format!("cannot write {}", self.path.display()))?;
        self.changes += changes.len();
        self.is_synced = false;
        Ok(())
    }

    fn write(&mut self, roster: &Roster) -> Result<()> {
        let mut text = serde_json::to_vec(roster).context("the roster is plain data")?;
        text.push(b'\n');
        write_private_soon(&self.path, &text)?;
        // It is ours, and in a folder that others cannot write.
        let file = File::options().append(true).open(&self.path);
        self.file = Some(file.with_context(|| format!("cannot open {}", self.path.display()))?);
        (self.changes, self.changes_max) = (0, CHANGES_MIN.max(2 * roster.engines.len()));
        self.is_synced = false;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use furlong_host::home::Home;
    use furlong_wire::ids::{EngineId, EngineUuid};

    use super::*;

    fn uuid(n: u32) -> EngineUuid {
        EngineUuid(u128::from(n).to_le_bytes())
    }

    #[test]
    fn what_changes_is_appended_and_read_again_also_when_the_last_line_is_cut_off() {
        let folder = tempfile::tempdir().unwrap();
        let dir = Home::at(folder.path()).cluster(&"c".parse().unwrap());
        furlong_host::private_file::ensure_private_dir(&dir.run()).unwrap();
        let mut file = RosterFile::of(&dir);
        assert_eq!(file.read(), Roster::default());
        let (mut roster, mut written) = (Roster::default(), 0);
        for n in 0..10_000 {
            let change = RosterChange::Here(EngineId(n), uuid(n));
            roster.apply(change);
            let mut is_whole = false;
            file.note(&[change], || {
                is_whole = true;
                roster.clone()
            });
            written += usize::from(is_whole);
        }
        assert_eq!(file.read(), roster);
        assert!(written <= 6, "it was written as a whole {written} times");
        file.sync();
        file.note(&[RosterChange::Away(EngineId(7)), RosterChange::Left(EngineId(8))], || {
            panic!("there is room")
        });
        let text = std::fs::read(dir.roster()).unwrap();
        std::fs::write(dir.roster(), &text[..text.len() - 3]).unwrap();
        roster.apply(RosterChange::Away(EngineId(7)));
        assert_eq!(file.read(), roster);
        file.remove();
        assert_eq!(file.read(), Roster::default());
    }
}
