//! What looks have told of ended tasks becomes rows.

use std::collections::HashMap;
use std::hash::Hash;
use std::path::Path;

use anyhow::Result;
use furlong_client::Picture;
use furlong_wire::ids::{EngineId, SessionId};
use furlong_wire::message::{EndSeen, ErrorKind};
use rusqlite::{Connection, OptionalExtension as _, params};

use super::file::{WritableFile, bytes};

/// Names that are remembered with the numbers of their rows.
const NAMES_MAX: usize = 4096;
/// Rows that are deleted in one step: a reader waits no longer than that takes.
const STEP_ROWS: i64 = 20_000;
/// Pages that are given back to the system in one step.
const STEP_PAGES: i64 = 8_192;
/// Two gaps of one cause that are so close are one.
const GAP_JOINS_US: u64 = 10_000_000;

/// The bounds of a history.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Bounds {
    /// Tasks that ended longer ago are deleted.
    pub keep_us: u64,
    /// Bytes of the file, beyond which the oldest tasks are deleted.
    pub bytes_max: u64,
}

/// One start of the broker, as far as it is written down.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Start {
    /// Microseconds since 1970.
    unix_us: u64,
    /// The moment of the last end that was told, and of the last look.
    told_to_us: u64,
}

/// Writes a history.
#[derive(Debug)]
pub struct Writer {
    file: WritableFile,
    bounds: Bounds,
    start: Option<Start>,
    /// Ends of this session that could not be told, as the picture counts them.
    missed: u64,
    hosts: HashMap<EngineId, String>,
    rows: Rows,
}

/// Names, with the numbers of their rows.
#[derive(Debug, Default)]
struct Rows {
    sessions: HashMap<SessionId, i64>,
    hosts: HashMap<String, i64>,
    kinds: HashMap<(String, &'static str, String), i64>,
    errors: HashMap<(ErrorKind, u32), (i64, bool)>,
}

impl Writer {
    /// Opens a history, or makes it.
    ///
    /// # Errors
    /// See [`WritableFile::open`].
    pub fn open(path: &Path, cluster: (&str, &str), bounds: Bounds) -> Result<Self> {
        let file = WritableFile::open(path, cluster.0, cluster.1)?;
        Ok(Self {
            file,
            bounds,
            start: None,
            missed: 0,
            hosts: HashMap::new(),
            rows: Rows::default(),
        })
    }

    /// A start of the broker is looked at. Returns the number of the first end that is not written
    /// down; what has ended under another start, and was not, is a gap.
    pub fn begin(&mut self, picture: &Picture) -> Result<u64> {
        let unix_us = picture.start().map_or(0, |start| start.0);
        let now_us = unix_us + picture.at_us;
        let database = &self.file.database;
        let known = "SELECT next, told_to_us FROM starts WHERE start_us = ?1";
        let known = database
            .query_row(known, [unix_us as i64], |row| Ok((row.get(0)?, row.get(1)?)))
            .optional()?;
        let (next, told_to_us): (i64, i64) = known.unwrap_or((0, unix_us as i64));
        if known.is_none() {
            let last = "SELECT looked_us FROM starts ORDER BY looked_us DESC LIMIT 1";
            let last: Option<i64> = database.query_row(last, [], |row| row.get(0)).optional()?;
            if let Some(last) = last {
                let until = (unix_us as i64).max(last);
                let why = "the broker was started again, and its memory of the last tasks went";
                add_gap(database, (last as u64, until as u64), None, why)?;
            }
            database.execute(
                "INSERT INTO starts (start_us, next, looked_us, told_to_us) VALUES (?1, 0, ?2, ?1)",
                params![unix_us as i64, now_us as i64],
            )?;
        }
        self.start = Some(Start { unix_us, told_to_us: told_to_us as u64 });
        self.missed = 0;
        self.hosts.clear();
        Ok(next as u64)
    }

    /// Writes down what was told since the last time, in one step. If that is not all, the next one
    /// who writes asks for it again, and a task that is there already stays as it is.
    pub fn take(&mut self, picture: &Picture, ends: &[EndSeen], is_all: bool) -> Result<()> {
        let Some(start) = self.start else { return Ok(()) };
        let engines = picture.engines.iter().filter(|(_, engine)| !engine.host.is_empty());
        self.hosts.extend(engines.map(|(id, engine)| (*id, engine.host.clone())));
        let now_us = start.unix_us + picture.at_us;
        let database = &self.file.database;
        let transaction = database.unchecked_transaction()?;
        let written = self.rows.write(&transaction, picture, (start.unix_us, &self.hosts), ends);
        if written.is_err() {
            // Numbers of rows that are not there.
            self.rows = Rows::default();
        }
        written?;
        if !is_all {
            return Ok(transaction.commit()?);
        }
        let missed = picture.ends_missed.saturating_sub(self.missed);
        if missed > 0 {
            let until = ends.first().map_or(now_us, |end| start.unix_us + end.at_us);
            let from = start.told_to_us.min(until);
            let why = "more tasks ended than the broker remembers until it was asked";
            add_gap(&transaction, (from, until), Some(missed), why)?;
        }
        let told_to_us = ends.last().map_or(start.told_to_us, |end| start.unix_us + end.at_us);
        transaction
            .prepare_cached(
                "UPDATE starts SET next = ?2, looked_us = ?3, told_to_us = ?4 WHERE start_us = ?1",
            )?
            .execute(params![
                start.unix_us as i64,
                picture.next_end() as i64,
                now_us as i64,
                told_to_us as i64
            ])?;
        let sees_all = picture.owners.iter().all(|owner| owner.owner.is_some());
        if !sees_all {
            transaction.execute("UPDATE about SET sees_all = 0 WHERE sees_all = 1", [])?;
        }
        transaction.commit()?;
        self.missed = picture.ends_missed;
        self.start = Some(Start { told_to_us, ..start });
        Ok(())
    }

    /// Deletes what is beyond the bounds, in steps: true says that there is more to delete.
    pub fn forget(&mut self, now_us: u64) -> Result<bool> {
        let database = &self.file.database;
        let oldest = now_us.saturating_sub(self.bounds.keep_us) as i64;
        let transaction = database.unchecked_transaction()?;
        let mut deleted = delete_oldest(&transaction, oldest)?;
        if deleted == 0 && bytes(&transaction)? > self.bounds.bytes_max {
            deleted = delete_oldest(&transaction, i64::MAX)?;
        }
        if deleted > 0 {
            transaction.execute("DELETE FROM gaps WHERE to_us < ?1", [oldest])?;
            transaction.execute_batch(
                "DELETE FROM sessions WHERE NOT EXISTS
                     (SELECT 1 FROM ends WHERE ends.session = sessions.id);",
            )?;
            self.rows.sessions.clear();
        }
        transaction.commit()?;
        to_its_end(database, &format!("PRAGMA incremental_vacuum({STEP_PAGES})"))?;
        Ok(deleted as i64 == STEP_ROWS)
    }

    /// Lets SQLite look at how the tables are used, as it advises from time to time.
    pub fn optimise(&self) -> Result<()> {
        Ok(to_its_end(&self.file.database, "PRAGMA optimize")?)
    }
}

impl Rows {
    fn write(
        &mut self,
        database: &Connection,
        picture: &Picture,
        (start_us, hosts): (u64, &HashMap<EngineId, String>),
        ends: &[EndSeen],
    ) -> Result<()> {
        self.note_types(database, picture)?;
        let mut insert = database.prepare_cached(
            "INSERT OR IGNORE INTO ends (ended_us, session, n, kind, engine, host, state, error,
                 attempts, held_us, queue_us, way_us, began_us, load_us, run_us, store_us,
                 request_bytes, result_bytes)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17,
                 ?18)",
        )?;
        let mut kinds: HashMap<u32, i64> = HashMap::new();
        for end in ends {
            let session = self.session(database, end.task.session)?;
            let find = || self.kind(database, picture, end.kind);
            let kind = kinds.get(&end.kind).copied().map_or_else(find, Ok)?;
            kinds.insert(end.kind, kind);
            let host = end.engine.and_then(|engine| hosts.get(&engine));
            let host = host.map(|host| self.host(database, host)).transpose()?;
            let error = end
                .error
                .map(|error| self.error(database, (error, end.fingerprint), ""))
                .transpose()?;
            let (phases, run) = (&end.phases, &end.phases.run);
            insert.execute(params![
                (start_us + end.at_us) as i64,
                session,
                end.task.n.0 as i64,
                kind,
                end.engine.map(|engine| engine.0),
                host,
                end.state.as_str(),
                error,
                end.attempts,
                phases.held_us as i64,
                phases.queue_us as i64,
                phases.way_us as i64,
                run.began_us as i64,
                run.load_us as i64,
                run.run_us as i64,
                run.store_us as i64,
                end.request_bytes as i64,
                end.result_bytes as i64,
            ])?;
        }
        Ok(())
    }

    /// Failures come with the types of what was raised, ends only with their fingerprints.
    fn note_types(&mut self, database: &Connection, picture: &Picture) -> Result<()> {
        for failure in picture.failures.iter().filter(|failure| !failure.type_name.is_empty()) {
            self.error(database, (failure.error, failure.fingerprint), &failure.type_name)?;
        }
        Ok(())
    }

    fn session(&mut self, database: &Connection, session: SessionId) -> Result<i64> {
        let find = |database: &Connection| {
            let name = session.to_string();
            let sql = "INSERT INTO sessions (name, short) VALUES (?1, ?2)
                 ON CONFLICT DO UPDATE SET short = short RETURNING id";
            let mut found = database.prepare_cached(sql)?;
            found.query_row(params![name, session.prefix()], |row| row.get(0))
        };
        Ok(remembered(&mut self.sessions, session, || find(database))?)
    }

    fn host(&mut self, database: &Connection, host: &str) -> Result<i64> {
        if let Some(row) = self.hosts.get(host) {
            return Ok(*row);
        }
        let sql = "INSERT INTO hosts (name) VALUES (?1)
             ON CONFLICT DO UPDATE SET name = name RETURNING id";
        let find = || database.prepare_cached(sql)?.query_row([host], |row| row.get(0));
        Ok(remembered(&mut self.hosts, host.to_owned(), find)?)
    }

    fn kind(&mut self, database: &Connection, picture: &Picture, id: u32) -> Result<i64> {
        let kind = picture.kinds.get(&id);
        let owner = kind.and_then(|kind| kind.owner).map(|owner| owner.to_string());
        let (owner, name) = (owner.unwrap_or_default(), picture.kind_name(id));
        let runtime = kind.map_or("", |kind| kind.runtime.as_str());
        let sql = "INSERT INTO kinds (owner, runtime, name) VALUES (?1, ?2, ?3)
             ON CONFLICT DO UPDATE SET name = name RETURNING id";
        let row = params![owner, runtime, name];
        let find = || database.prepare_cached(sql)?.query_row(row, |row| row.get(0));
        Ok(remembered(&mut self.kinds, (owner.clone(), runtime, name.clone()), find)?)
    }

    fn error(
        &mut self,
        database: &Connection,
        error: (ErrorKind, u32),
        type_name: &str,
    ) -> Result<i64> {
        if let Some((row, has_type)) = self.errors.get(&error)
            && (*has_type || type_name.is_empty())
        {
            return Ok(*row);
        }
        let sql = "INSERT INTO errors (error, fingerprint, type) VALUES (?1, ?2, ?3)
             ON CONFLICT DO UPDATE SET type = iif(excluded.type = '', type, excluded.type)
             RETURNING id";
        let row = params![error.0.as_str(), error.1, type_name];
        let row = database.prepare_cached(sql)?.query_row(row, |row| row.get(0))?;
        make_room(&mut self.errors);
        self.errors.insert(error, (row, !type_name.is_empty()));
        Ok(row)
    }
}

fn remembered<K: Hash + Eq>(
    rows: &mut HashMap<K, i64>,
    name: K,
    find: impl FnOnce() -> rusqlite::Result<i64>,
) -> rusqlite::Result<i64> {
    if let Some(row) = rows.get(&name) {
        return Ok(*row);
    }
    let row = find()?;
    make_room(rows);
    rows.insert(name, row);
    Ok(row)
}

fn make_room<K, V>(rows: &mut HashMap<K, V>) {
    if rows.len() >= NAMES_MAX {
        rows.clear();
    }
}

/// Says that something may be missing; one that goes on from the last gap makes that longer.
fn add_gap(
    database: &Connection,
    (from_us, to_us): (u64, u64),
    ends: Option<u64>,
    why: &str,
) -> rusqlite::Result<()> {
    let (from_us, to_us, ends) = (from_us as i64, to_us as i64, ends.map(|ends| ends as i64));
    let longer = database.execute(
        "UPDATE gaps SET to_us = max(to_us, ?2), ends = ends + ?3
         WHERE id = (SELECT max(id) FROM gaps) AND why = ?4 AND ends IS NOT NULL
             AND ?3 IS NOT NULL AND to_us >= ?1 - ?5",
        params![from_us, to_us, ends, why, GAP_JOINS_US as i64],
    )?;
    if longer == 0 {
        database.execute(
            "INSERT INTO gaps (from_us, to_us, ends, why) VALUES (?1, ?2, ?3, ?4)",
            params![from_us, to_us, ends, why],
        )?;
    }
    Ok(())
}

/// Runs a pragma that does its work in as many steps as it likes.
fn to_its_end(database: &Connection, pragma: &str) -> rusqlite::Result<()> {
    let mut statement = database.prepare(pragma)?;
    let mut rows = statement.query([])?;
    while rows.next()?.is_some() {}
    Ok(())
}

/// Deletes the oldest tasks of those that ended before a moment, and counts them.
fn delete_oldest(database: &Connection, before_us: i64) -> rusqlite::Result<usize> {
    let last: Option<i64> = database.query_row(
        "SELECT max(ended_us) FROM
             (SELECT ended_us FROM ends WHERE ended_us < ?1 ORDER BY ended_us LIMIT ?2)",
        params![before_us, STEP_ROWS],
        |row| row.get(0),
    )?;
    let Some(last) = last else { return Ok(0) };
    let deleted = database.execute(
        "DELETE FROM ends WHERE id IN
             (SELECT id FROM ends WHERE ended_us <= ?1 ORDER BY ended_us LIMIT ?2)",
        params![last, STEP_ROWS],
    )?;
    database.execute(
        "UPDATE about SET dropped = dropped + ?1,
             dropped_to_us = max(ifnull(dropped_to_us, 0), ?2)",
        params![deleted as i64, last],
    )?;
    Ok(deleted)
}
