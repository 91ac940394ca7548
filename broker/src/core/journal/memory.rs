//! A journal in memory: what a file is to do, for tests and simulations.

use std::collections::BTreeMap;

use furlong_wire::payload::InlineBytes;

use super::rows::{Blob, Content, EndRow, Entry, SessionRow, TaskRow};
use super::{RestoreError, Restoring};

/// Everything that was written, without a disk.
#[derive(Clone, Debug, Default)]
pub struct MemoryJournal {
    sessions: BTreeMap<u32, SessionRow>,
    definitions: BTreeMap<(u32, u32), Blob>,
    tasks: BTreeMap<u64, TaskRow>,
    ends: BTreeMap<u64, EndRow>,
}

impl MemoryJournal {
    /// Writes an entry.
    pub fn write(&mut self, entry: Entry) {
        match entry {
            Entry::Session(row) => _ = self.sessions.insert(row.key, *row),
            Entry::Departed(key) => {
                if let Some(row) = self.sessions.get_mut(&key) {
                    row.departed = true;
                }
            }
            Entry::Definition(session, number, source) => {
                _ = self.definitions.insert((session, number), source);
            }
            Entry::Task(row) => _ = self.tasks.insert(row.id, *row),
            Entry::Begun(id) => {
                if let Some(row) = self.tasks.get_mut(&id) {
                    row.begun = true;
                }
            }
            Entry::Met(id, met) => {
                if let Some(row) = self.tasks.get_mut(&id) {
                    row.met.push(met);
                }
            }
            Entry::Ended(row) => _ = self.ends.insert(row.id, *row),
            Entry::Delivered(id, delivered_us) => {
                if let Some(row) = self.ends.get_mut(&id) {
                    row.delivered_us = Some(delivered_us);
                }
            }
            Entry::Forgotten(id) => {
                self.ends.remove(&id);
                let Some(TaskRow { payload: Blob::Chunked(chunked), .. }) = self.tasks.remove(&id)
                else {
                    return;
                };
                // Another one that shares the chunks has them from now on.
                let heir = self.tasks.values_mut().find_map(|row| match &mut row.payload {
                    Blob::Chunked(other) if other.of == chunked.of => Some(other),
                    _ => None,
                });
                if let Some(heir) = heir {
                    heir.content = heir.content.take().or(chunked.content.clone());
                }
            }
        }
    }

    /// Gives a core what there is, but for what ended before that moment.
    ///
    /// # Errors
    /// The part that does not fit the core.
    pub fn restore(
        &mut self,
        core: &mut Restoring<'_>,
        ended_before_unix_us: u64,
    ) -> Result<(), RestoreError> {
        self.tidy(ended_before_unix_us);
        self.sessions().for_each(|row| core.session(row.clone()));
        let (ended, unfinished): (Vec<_>, Vec<_>) =
            self.rows().into_iter().partition(|(_, end)| end.is_some());
        unfinished.into_iter().try_for_each(|(task, end)| core.task(task, end))?;
        for ((session, number), source) in self.definitions() {
            core.definition(*session, *number, source.clone())?;
        }
        ended.into_iter().try_for_each(|(task, end)| core.task(task, end))
    }

    /// Forgets what ended before a moment, and what belongs to nothing.
    pub fn tidy(&mut self, ended_before_unix_us: u64) {
        let old = self.ends.values().filter(|row| row.ended_unix_us < ended_before_unix_us);
        let old: Vec<u64> = old.map(|row| row.id).collect();
        for id in old {
            self.write(Entry::Forgotten(id));
        }
        // In this order: ends go with their tasks, and sessions with their last task.
        self.ends.retain(|id, _| self.tasks.contains_key(id));
        self.sessions.retain(|key, _| self.tasks.values().any(|row| row.session == *key));
        self.definitions.retain(|(session, _), _| self.sessions.contains_key(session));
    }

    /// The sessions.
    pub fn sessions(&self) -> impl Iterator<Item = &SessionRow> {
        self.sessions.values()
    }

    /// The definitions, by session and number.
    pub fn definitions(&self) -> impl Iterator<Item = (&(u32, u32), &Blob)> {
        self.definitions.iter()
    }

    /// The tasks, each with its end if it has ended. Chunks that several share come with the first
    /// one.
    pub fn rows(&self) -> Vec<(TaskRow, Option<EndRow>)> {
        let of = |row: &TaskRow| match &row.payload {
            Blob::Chunked(chunked) => Some((chunked.of, chunked.content.clone()?)),
            Blob::Inline(_) => None,
        };
        let mut shared: BTreeMap<u64, Content> = self.tasks.values().filter_map(of).collect();
        let rows = self.tasks.values().map(|row| {
            let (mut row, end) = (row.clone(), self.ends.get(&row.id).cloned());
            match &mut row.payload {
                payload if end.is_some() => *payload = Blob::Inline(InlineBytes::new()),
                Blob::Chunked(chunked) => chunked.content = shared.remove(&chunked.of),
                Blob::Inline(_) => {}
            }
            let end = end.map(|end| EndRow { request_chunks: None, ..end });
            (row, end)
        });
        rows.collect()
    }

    /// Returns the number of tasks, and the number of those that have ended.
    pub fn counts(&self) -> (usize, usize) {
        (self.tasks.len(), self.tasks.keys().filter(|id| self.ends.contains_key(id)).count())
    }
}
