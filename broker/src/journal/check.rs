//! The check of a journal's integrity: `furlong journal check`.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use furlong_wire::keys::AtRestKey;
use serde::Serialize;

use super::file;
use super::read::Reader;
use super::seal::SecretSealer;
use crate::core::journal::TaskRow;

/// The report of a journal check.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize)]
pub struct JournalReport {
    /// The version of its tables.
    pub version: i64,
    /// Sessions with durable tasks.
    pub sessions: u64,
    /// Tasks that have not ended.
    pub unfinished: u64,
    /// Tasks that have ended, and are kept.
    pub ended: u64,
    /// Bytes of the file.
    pub bytes: u64,
    /// Any problem with it.
    pub problems: Vec<String>,
}

/// Reads all of a journal that no broker has open. With the key of its cluster, secrets are opened
/// too.
///
/// # Errors
/// A file that is no journal, or that a broker has open.
pub fn check(path: &Path, key: Option<&AtRestKey>) -> Result<JournalReport> {
    let bytes =
        path.metadata().with_context(|| format!("there is no journal {}", path.display()))?.len();
    ensure!(bytes > 0, "{} is empty", path.display());
    let database = file::open_to_read(path)?;
    let version = database.pragma_query_value(None, "user_version", |row| row.get(0))?;
    let mut report = JournalReport { version, bytes, ..JournalReport::default() };
    let mut rows = database.prepare("PRAGMA integrity_check(20)")?;
    let found = rows.query_map([], |row| row.get::<_, String>(0))?;
    report.problems = found.filter_map(Result::ok).filter(|text| text != "ok").collect();
    if report.problems.is_empty()
        && let Err(error) = read(&database, key, &mut report)
    {
        report.problems.push(format!("{error:#}"));
    }
    Ok(report)
}

fn read(
    database: &rusqlite::Connection,
    key: Option<&AtRestKey>,
    report: &mut JournalReport,
) -> Result<()> {
    let sealer = key.map(SecretSealer::new);
    let mut reader = Reader::new(database)?;
    let mut keys = std::collections::BTreeSet::new();
    reader.sessions(|session, secret| {
        report.sessions += 1;
        keys.insert(session.key);
        let is_sealed =
            sealer.as_ref().is_none_or(|sealer| sealer.open(&session.id, secret).is_some());
        ensure!(
            is_sealed,
            "the secret of session {} is sealed with another key",
            session.id.prefix()
        );
        Ok(())
    })?;
    reader.definitions(|_, _, _| Ok(()))?;
    let is_of_a_session = |task: &TaskRow| {
        ensure!(keys.contains(&task.session), "task {} is of a session that is not there", task.id);
        Ok(())
    };
    reader.unfinished(|task| {
        report.unfinished += 1;
        is_of_a_session(&task)
    })?;
    reader.ended(|task, _| {
        report.ended += 1;
        is_of_a_session(&task)
    })
}
