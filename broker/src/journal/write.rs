//! Entries become rows.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use rusqlite::{Connection, Transaction, TransactionBehavior, params};

use super::file::Kind;
use super::rows::{EndHead, PayloadHead, TaskHead, encode};
use super::seal::SecretSealer;
use crate::core::journal::{Blob, Content, EndRow, Entry, Met, SessionRow, TaskRow, definition_id};

/// Bytes of entries that wait to be written after an error. Beyond, the journal is given up.
const WAITING_BYTES_MAX: usize = 64 * 1024 * 1024;
/// The delay before entries that could not be written are tried again.
pub(super) const TRIED_AGAIN_AFTER: Duration = Duration::from_secs(1);
/// The cost of an entry beside its payload.
const ENTRY_BYTES: usize = 512;

/// Writes a journal.
#[derive(Debug)]
pub(super) struct Writer {
    database: Connection,
    sealer: SecretSealer,
    path: PathBuf,
    /// The entries that could not be written, in order; empty while all is well.
    waiting: Vec<Entry>,
    /// The reason and the time of the last failed attempt.
    problem: Option<(String, Instant)>,
    /// True if entries were lost: nothing is accepted any longer.
    is_given_up: bool,
}

impl Writer {
    pub(super) fn new(database: Connection, sealer: SecretSealer, path: PathBuf) -> Self {
        Self { database, sealer, path, waiting: Vec::new(), problem: None, is_given_up: false }
    }

    /// Returns true if something waits to be tried again.
    pub(super) fn has_failed(&self) -> bool {
        self.problem.is_some() && !self.is_given_up
    }

    /// Writes entries in one transaction, or says why they are not written.
    pub(super) fn write(&mut self, entries: Vec<Entry>) -> Result<(), String> {
        self.try_again();
        if let Some((problem, _)) = &self.problem {
            let problem = problem.clone();
            self.keep(entries);
            return Err(problem);
        }
        let written = commit(&mut self.database, &self.sealer, &entries);
        written.map_err(|error| {
            let problem = error.to_string();
            tracing::error!(
                "the journal {} cannot be written: {problem}; durable tasks are refused until it can",
                self.path.display()
            );
            self.problem = Some((problem.clone(), Instant::now()));
            self.keep(entries);
            problem
        })
    }

    /// Tries again what could not be written, if it is time: a full disk is not to cost each submit
    /// a try. Whether that is on disk now.
    pub(super) fn try_again(&mut self) -> bool {
        let is_due = |(_, tried): &(String, Instant)| tried.elapsed() >= TRIED_AGAIN_AFTER;
        if !self.is_given_up && self.problem.as_ref().is_some_and(is_due) {
            self.try_now();
            return self.problem.is_none();
        }
        false
    }

    fn try_now(&mut self) {
        match commit(&mut self.database, &self.sealer, &self.waiting) {
            Ok(()) => {
                tracing::info!("the journal {} can be written again", self.path.display());
                self.waiting.clear();
                self.problem = None;
            }
            Err(error) => self.problem = Some((error.to_string(), Instant::now())),
        }
    }

    /// Tries once more, and closes.
    pub(super) fn finish(mut self) {
        if self.has_failed() {
            self.try_now();
        }
        if self.problem.is_some() {
            tracing::error!("the journal {} misses the last changes", self.path.display());
        }
        if let Err((_, error)) = self.database.close() {
            tracing::warn!(
                "the journal {} could not be closed gracefully: {error}",
                self.path.display()
            );
        }
    }

    /// Keeps for later what is not refused now.
    fn keep(&mut self, entries: Vec<Entry>) {
        if self.is_given_up {
            return;
        }
        self.waiting.extend(entries.into_iter().filter(|entry| !matches!(entry, Entry::Task(_))));
        let bytes: usize = self.waiting.iter().map(weight).sum();
        if bytes > WAITING_BYTES_MAX {
            self.is_given_up = true;
            self.waiting = Vec::new();
            let problem = "the journal is given up: too many changes could not be written; mend \
                           its disk, and start the broker again";
            tracing::error!("{problem}. Tasks that have ended meanwhile may then run again");
            self.problem = Some((problem.to_owned(), Instant::now()));
        }
    }
}

/// About how many bytes an entry holds.
fn weight(entry: &Entry) -> usize {
    let blob = |blob: &Blob| match blob {
        Blob::Inline(bytes) => bytes.len(),
        Blob::Chunked(chunked) => chunked.content.as_ref().map_or(0, |_| chunked.bytes as usize),
    };
    ENTRY_BYTES
        + match entry {
            Entry::Definition(_, _, source) => blob(source),
            Entry::Ended(row) => {
                row.payload.as_ref().map_or(0, blob)
                    + row.output.iter().map(|piece| piece.bytes.len()).sum::<usize>()
            }
            Entry::Task(row) => blob(&row.payload),
            _ => 0,
        }
}

fn commit(
    database: &mut Connection,
    sealer: &SecretSealer,
    entries: &[Entry],
) -> rusqlite::Result<()> {
    let transaction = database.transaction_with_behavior(TransactionBehavior::Immediate)?;
    for entry in entries {
        apply(&transaction, sealer, entry)?;
    }
    transaction.commit()
}

fn apply(to: &Transaction<'_>, sealer: &SecretSealer, entry: &Entry) -> rusqlite::Result<()> {
    match entry {
        Entry::Session(row) => write_session(to, sealer, row),
        Entry::Departed(key) => to
            .prepare_cached("UPDATE sessions SET departed = 1 WHERE key = ?1")?
            .execute([key])
            .map(drop),
        Entry::Definition(session, number, source) => {
            write_definition(to, *session, *number, source)
        }
        Entry::Task(row) => write_task(to, row),
        Entry::Begun(id) => to
            .prepare_cached("INSERT OR IGNORE INTO begun (id) VALUES (?1)")?
            .execute([*id as i64])
            .map(drop),
        Entry::Met(id, met) => {
            let body = encode(&met_body(met));
            let mut insert = to.prepare_cached("INSERT INTO met (id, body) VALUES (?1, ?2)")?;
            insert.execute(params![*id as i64, body]).map(drop)
        }
        Entry::Ended(row) => write_end(to, row),
        Entry::Delivered(id, delivered_us) => {
            let mut update =
                to.prepare_cached("UPDATE ends SET delivered_us = ?2 WHERE id = ?1")?;
            update.execute(params![*id as i64, *delivered_us as i64]).map(drop)
        }
        Entry::Forgotten(id) => forget(to, *id as i64),
    }
}

fn met_body(met: &Met) -> super::rows::MetBody {
    (met.task, met.succeeded, met.engine)
}

fn write_session(
    to: &Transaction<'_>,
    sealer: &SecretSealer,
    row: &SessionRow,
) -> rusqlite::Result<()> {
    let sql = "INSERT OR REPLACE INTO sessions (key, id, claims, secret, departed)
               VALUES (?1, ?2, ?3, ?4, ?5)";
    let secret = sealer.seal(&row.id, &row.secret);
    to.prepare_cached(sql)?.execute(params![
        row.key,
        &row.id.0[..],
        row.claims.encode(),
        secret,
        row.departed
    ])?;
    Ok(())
}

fn write_definition(
    to: &Transaction<'_>,
    session: u32,
    number: u32,
    source: &Blob,
) -> rusqlite::Result<()> {
    let (head, payload) = write_blob(to, Kind::Definition, definition_id(session, number), source)?;
    let sql = "INSERT OR REPLACE INTO definitions (session, number, head, payload)
               VALUES (?1, ?2, ?3, ?4)";
    to.prepare_cached(sql)?.execute(params![session, number, encode(&head), payload]).map(drop)
}

fn write_task(to: &Transaction<'_>, row: &TaskRow) -> rusqlite::Result<()> {
    let chunks = match &row.payload {
        Blob::Inline(_) => None,
        Blob::Chunked(chunked) => Some(chunked.of),
    };
    let (payload_head, payload) =
        write_blob(to, Kind::Request, chunks.unwrap_or_default(), &row.payload)?;
    let head = TaskHead {
        target: row.target,
        runtime: row.runtime,
        class: row.class,
        define: row.define,
        submitted_unix_us: row.submitted_unix_us,
        payload: payload_head,
        met: row.met.iter().map(met_body).collect(),
        name: row.name.as_deref().map(str::to_owned),
    };
    let sql = "INSERT INTO tasks (id, session, n, head, options, payload, chunks)
               VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)";
    to.prepare_cached(sql)?.execute(params![
        row.id as i64,
        row.session,
        row.n.0 as i64,
        encode(&head),
        encode(&*row.options),
        payload,
        chunks.map(|of| of as i64),
    ])?;
    Ok(())
}

fn write_end(to: &Transaction<'_>, row: &EndRow) -> rusqlite::Result<()> {
    if let Some(of) = row.request_chunks {
        to.prepare_cached("UPDATE tasks SET chunks = NULL WHERE id = ?1")?
            .execute([row.id as i64])?;
        drop_unused_arguments(to, of as i64)?;
    }
    let payload = row
        .payload
        .as_ref()
        .map(|payload| write_blob(to, Kind::Result, row.id, payload))
        .transpose()?;
    let (payload_head, payload) = payload.unzip();
    let output = row.output.iter();
    let output = output
        .map(|piece| (piece.stream, piece.offset, serde_bytes::ByteBuf::from(piece.bytes.clone())));
    let error = row.outcome.error.as_deref();
    let head = EndHead {
        outcome: (row.outcome.state, error.map(|error| (error.kind, error.text.clone()))),
        engine: row.engine,
        attempts: row.attempts,
        losses: row.losses,
        errors: row.errors,
        assigned_us: row.assigned_us,
        finished_us: row.finished_us,
        run_us: row.run.run_us,
        request_bytes: row.request_bytes,
        past: row.past.clone(),
        has_payload: row.payload.is_some(),
        payload: payload_head.flatten(),
        output: output.collect(),
        output_bytes: row.output_bytes,
        raised: error.and_then(|error| error.raised.clone()),
        began_us: row.run.began_us,
        load_us: row.run.load_us,
        store_us: row.run.store_us,
    };
    let sql = "INSERT OR REPLACE INTO ends (id, ended_unix_us, head, payload, delivered_us)
               VALUES (?1, ?2, ?3, ?4, ?5)";
    to.prepare_cached(sql)?.execute(params![
        row.id as i64,
        row.ended_unix_us as i64,
        encode(&head),
        payload.flatten(),
        row.delivered_us.map(|us| us as i64),
    ])?;
    Ok(())
}

/// Writes the chunks of a payload, if it has any: gives what goes into the row instead.
fn write_blob<'a>(
    to: &Transaction<'_>,
    kind: Kind,
    of: u64,
    blob: &'a Blob,
) -> rusqlite::Result<(PayloadHead, Option<&'a [u8]>)> {
    let chunked = match blob {
        Blob::Inline(bytes) => return Ok((None, Some(bytes))),
        Blob::Chunked(chunked) => chunked,
    };
    let sql = "INSERT OR REPLACE INTO chunks (kind, of, place, bytes) VALUES (?1, ?2, ?3, ?4)";
    let chunks = chunked.content.iter().flat_map(Content::chunks);
    for (place, chunk) in (0_i64..).zip(chunks) {
        to.prepare_cached(sql)?.execute(params![kind as u8, of as i64, place, &chunk[..]])?;
    }
    Ok((Some((chunked.counter, chunked.bytes, chunked.instance)), None))
}

fn forget(to: &Transaction<'_>, id: i64) -> rusqlite::Result<()> {
    let sql = "DELETE FROM tasks WHERE id = ?1 RETURNING chunks";
    let arguments = to
        .prepare_cached(sql)?
        .query_map([id], |row| row.get::<_, Option<i64>>(0))?
        .next()
        .transpose()?;
    to.prepare_cached("DELETE FROM ends WHERE id = ?1")?.execute([id])?;
    to.prepare_cached("DELETE FROM begun WHERE id = ?1")?.execute([id])?;
    to.prepare_cached("DELETE FROM met WHERE id = ?1")?.execute([id])?;
    to.prepare_cached("DELETE FROM chunks WHERE kind = 1 AND of = ?1")?.execute([id])?;
    arguments.flatten().map_or(Ok(()), |of| drop_unused_arguments(to, of))
}

/// Arguments that several tasks share go with the last one.
fn drop_unused_arguments(to: &Transaction<'_>, of: i64) -> rusqlite::Result<()> {
    let sql = "DELETE FROM chunks WHERE kind = 0 AND of = ?1
               AND NOT EXISTS (SELECT 1 FROM tasks WHERE chunks = ?1)";
    to.prepare_cached(sql)?.execute([of]).map(drop)
}
