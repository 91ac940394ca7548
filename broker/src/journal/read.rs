//! Rows become tasks again.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use furlong_wire::ids::{SessionId, TaskSeq};
use furlong_wire::message::{Outcome, RunTimes, TaskError, TaskOptions};
use furlong_wire::payload::InlineBytes;
use furlong_wire::token::Claims;
use rusqlite::types::ValueRef;
use rusqlite::{Connection, Row, params};

use super::file::Kind;
use super::rows::{EndHead, MetBody, PayloadHead, TaskHead, decode, decode_options};
use super::seal::SecretSealer;
use crate::core::Piece;
use crate::core::journal::{
    Blob, Chunked, Content, EndRow, Met, Restoring, SessionRow, TaskRow, definition_id,
};

/// The contents of a journal that were restored.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Restored {
    /// Sessions.
    pub sessions: u64,
    /// Tasks that have not ended.
    pub unfinished: u64,
    /// Tasks that have ended, and whose results are there.
    pub ended: u64,
}

/// Gives everything to a core.
pub(super) fn restore(
    database: &Connection,
    sealer: &SecretSealer,
    core: &mut Restoring<'_>,
) -> Result<Restored> {
    let mut reader = Reader::new(database)?;
    let mut restored = Restored::default();
    reader.sessions(|row, secret| {
        restored.sessions += 1;
        let problem = "its secrets are sealed with another key than that of `broker.key.json`";
        let secret = sealer.open(&row.id, secret).context(problem)?;
        core.session(SessionRow {
            key: row.key,
            id: row.id,
            claims: row.claims,
            secret,
            departed: row.departed,
        });
        Ok(())
    })?;
    reader.unfinished(|task| {
        restored.unfinished += 1;
        Ok(core.task(task, None)?)
    })?;
    reader.definitions(|session, number, source| Ok(core.definition(session, number, source)?))?;
    reader.ended(|task, end| {
        restored.ended += 1;
        Ok(core.task(task, Some(end))?)
    })?;
    Ok(restored)
}

/// A session without its secret.
#[derive(Debug)]
pub(super) struct SessionHead {
    pub key: u32,
    pub id: SessionId,
    pub claims: Claims,
    pub departed: bool,
}

/// Reads a journal from one end to the other.
#[derive(Debug)]
pub(super) struct Reader<'a> {
    database: &'a Connection,
    begun: BTreeSet<i64>,
    ends: BTreeSet<i64>,
    met: BTreeMap<i64, Vec<Met>>,
    /// Arguments that several tasks share, and that one of them has been given.
    given: BTreeSet<i64>,
    /// The options of the last task: most are those of the one before.
    options: Option<(Vec<u8>, Arc<TaskOptions>)>,
}

impl<'a> Reader<'a> {
    pub(super) fn new(database: &'a Connection) -> Result<Self> {
        let mut met: BTreeMap<i64, Vec<Met>> = BTreeMap::new();
        let mut rows = database.prepare("SELECT id, body FROM met ORDER BY place")?;
        let mut rows = rows.query([])?;
        while let Some(row) = rows.next()? {
            let body: MetBody = decode(blob(row, 1)?)?;
            met.entry(row.get(0)?).or_default().push(of_body(body));
        }
        let (begun, ends) =
            (ids(database, "SELECT id FROM begun")?, ids(database, "SELECT id FROM ends")?);
        Ok(Self { database, begun, ends, met, given: BTreeSet::new(), options: None })
    }

    pub(super) fn sessions(
        &mut self,
        mut each: impl FnMut(SessionHead, &[u8]) -> Result<()>,
    ) -> Result<()> {
        let mut rows = self
            .database
            .prepare("SELECT key, id, claims, secret, departed FROM sessions ORDER BY key")?;
        let mut rows = rows.query([])?;
        while let Some(row) = rows.next()? {
            let id =
                SessionId(blob(row, 1)?.try_into().context("a session's id has another length")?);
            let claims =
                Claims::decode(blob(row, 2)?).context("a session's claims cannot be read")?;
            let head = SessionHead { key: row.get(0)?, id, claims, departed: row.get(4)? };
            each(head, blob(row, 3)?)?;
        }
        Ok(())
    }

    pub(super) fn definitions(
        &mut self,
        mut each: impl FnMut(u32, u32, Blob) -> Result<()>,
    ) -> Result<()> {
        let mut rows = self.database.prepare(
            "SELECT session, number, head, payload FROM definitions ORDER BY session, number",
        )?;
        let mut rows = rows.query([])?;
        while let Some(row) = rows.next()? {
            let (session, number): (u32, u32) = (row.get(0)?, row.get(1)?);
            let of = definition_id(session, number) as i64;
            let source =
                self.blob(Kind::Definition, of, decode(blob(row, 2)?)?, row.get_ref(3)?)?;
            each(session, number, source)?;
        }
        Ok(())
    }

    /// The tasks that have not ended, in the order of their numbers.
    pub(super) fn unfinished(&mut self, mut each: impl FnMut(TaskRow) -> Result<()>) -> Result<()> {
        let sql = "SELECT id, session, n, head, options, payload, chunks FROM tasks ORDER BY id";
        let mut rows = self.database.prepare(sql)?;
        let mut rows = rows.query([])?;
        while let Some(row) = rows.next()? {
            let id = number(row, 0)?;
            if !self.ends.contains(&id) {
                each(self.task(id, row).with_context(|| cannot_read(id))?)?;
            }
        }
        Ok(())
    }

    /// The tasks that have ended, without their arguments, in the order of their numbers.
    pub(super) fn ended(
        &mut self,
        mut each: impl FnMut(TaskRow, EndRow) -> Result<()>,
    ) -> Result<()> {
        let sql = "SELECT t.id, t.session, t.n, t.head, t.options, e.head, e.payload,
                   e.delivered_us, e.ended_unix_us
                   FROM ends e JOIN tasks t USING (id) ORDER BY e.id";
        let mut rows = self.database.prepare(sql)?;
        let mut rows = rows.query([])?;
        while let Some(row) = rows.next()? {
            let id = number(row, 0)?;
            let task = self.task_row(id, row, |_, _| Ok(Blob::Inline(InlineBytes::new())));
            each(
                task.with_context(|| cannot_read(id))?,
                self.end(id, row).with_context(|| cannot_read(id))?,
            )?;
        }
        Ok(())
    }

    fn task(&mut self, id: i64, row: &Row<'_>) -> Result<TaskRow> {
        self.task_row(id, row, |reader, head| {
            // Those inside their rows have no chunks.
            let of = head.payload.map(|_| row.get::<_, Option<i64>>(6)).transpose()?.flatten();
            reader.blob(Kind::Request, of.unwrap_or(id), head.payload, row.get_ref(5)?)
        })
    }

    fn task_row(
        &mut self,
        id: i64,
        row: &Row<'_>,
        payload: impl FnOnce(&mut Self, &TaskHead) -> Result<Blob>,
    ) -> Result<TaskRow> {
        let head: TaskHead = decode(blob(row, 3)?)?;
        let payload = payload(self, &head)?;
        let mut met: Vec<Met> = head.met.into_iter().map(of_body).collect();
        if !self.met.is_empty() {
            met.extend(self.met.remove(&id).unwrap_or_default());
        }
        Ok(TaskRow {
            id: id as u64,
            session: number(row, 1)?.try_into()?,
            n: TaskSeq(number(row, 2)? as u64),
            target: head.target,
            runtime: head.runtime,
            class: head.class,
            name: head.name.map(Arc::from),
            define: head.define,
            options: self.options(blob(row, 4)?)?,
            payload,
            submitted_unix_us: head.submitted_unix_us,
            begun: self.begun.contains(&id),
            met,
        })
    }

    fn options(&mut self, bytes: &[u8]) -> Result<Arc<TaskOptions>> {
        if let Some((before, options)) = &self.options
            && before == bytes
        {
            return Ok(options.clone());
        }
        let options: Arc<TaskOptions> = Arc::new(decode_options(bytes)?);
        self.options = Some((bytes.to_vec(), options.clone()));
        Ok(options)
    }

    fn end(&mut self, id: i64, row: &Row<'_>) -> Result<EndRow> {
        let head: EndHead = decode(blob(row, 5)?)?;
        let payload = head
            .has_payload
            .then(|| self.blob(Kind::Result, id, head.payload, row.get_ref(6)?))
            .transpose()?;
        let (state, error) = head.outcome;
        let raised = head.raised;
        let error = error.map(|(kind, text)| Box::new(TaskError { kind, text, raised }));
        let pieces = head.output.into_iter();
        let pieces =
            pieces.map(|(stream, offset, bytes)| Piece { stream, offset, bytes: bytes.into_vec() });
        Ok(EndRow {
            id: id as u64,
            ended_unix_us: row.get::<_, i64>(8)? as u64,
            outcome: Outcome { state, error },
            engine: head.engine,
            attempts: head.attempts,
            losses: head.losses,
            errors: head.errors,
            assigned_us: head.assigned_us,
            finished_us: head.finished_us,
            run: RunTimes {
                began_us: head.began_us,
                load_us: head.load_us,
                run_us: head.run_us,
                store_us: head.store_us,
            },
            request_bytes: head.request_bytes,
            request_chunks: None,
            past: head.past,
            payload,
            output: pieces.collect(),
            output_bytes: head.output_bytes,
            delivered_us: row.get::<_, Option<i64>>(7)?.map(|us| us as u64),
        })
    }

    fn blob(
        &mut self,
        kind: Kind,
        of: i64,
        head: PayloadHead,
        inline: ValueRef<'_>,
    ) -> Result<Blob> {
        let Some((counter, bytes, instance)) = head else {
            return Ok(Blob::Inline(InlineBytes::copy_from_slice(inline.as_blob()?)));
        };
        // Those of one submit share them: the first one brings them.
        let chunks = (kind != Kind::Request || self.given.insert(of))
            .then(|| self.chunks(kind, of))
            .transpose()?;
        if let Some(chunks) = &chunks {
            let there: u64 = chunks.iter().map(|chunk| chunk.len() as u64).sum();
            ensure!(there >= bytes, "its chunks are not all there");
        }
        let content = chunks.map(Content::Chunks);
        Ok(Blob::Chunked(Chunked { of: of as u64, counter, bytes, instance, content }))
    }

    fn chunks(&self, kind: Kind, of: i64) -> Result<Vec<Bytes>> {
        let sql = "SELECT bytes FROM chunks WHERE kind = ?1 AND of = ?2 ORDER BY place";
        let mut chunks = self.database.prepare_cached(sql)?;
        let chunks = chunks.query_map(params![kind as u8, of], |row| row.get::<_, Vec<u8>>(0))?;
        Ok(chunks.map(|chunk| chunk.map(Bytes::from)).collect::<Result<_, _>>()?)
    }
}

fn ids(database: &Connection, sql: &str) -> rusqlite::Result<BTreeSet<i64>> {
    database.prepare(sql)?.query_map([], |row| row.get(0))?.collect()
}

fn number(row: &Row<'_>, column: usize) -> Result<i64> {
    Ok(row.get_ref(column)?.as_i64()?)
}

fn blob<'a>(row: &'a Row<'_>, column: usize) -> Result<&'a [u8]> {
    Ok(row.get_ref(column)?.as_blob()?)
}

fn cannot_read(id: i64) -> String {
    format!("task {id} cannot be read")
}

fn of_body((task, succeeded, engine): MetBody) -> Met {
    Met { task, succeeded, engine }
}
