//! Questions to a history: which tasks, in which order, and what may be missing.

use std::time::Duration;

use anyhow::{Result, bail};
use furlong_client::TraceMoment;
use furlong_host::durations;
use furlong_wire::ids::{ClusterId, EngineId, OwnerId};
use furlong_wire::message::{ErrorKind, TaskState};
use rusqlite::types::Value as Sql;
use rusqlite::{Connection, OptionalExtension as _, Row, params, params_from_iter};

use crate::cap::words::{OwnerArg, owner};
use crate::connect::{TargetsArg, targets};
use crate::select::{Selector, Session};
use crate::trace::moment;

/// Which tasks are wanted.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct Filter {
    /// Only these: `last`, `k3f9a2`, `k3f9a2:1-10`, `1-10` (of `last`), several with commas
    #[arg(value_name = "TASKS")]
    tasks: Option<Selector>,
    /// Only tasks of this function, named with its module or without, or program; `*` stands for
    /// any characters
    #[arg(long, alias = "name", value_name = "GLOB")]
    kind: Option<String>,
    /// Only tasks that ended like this, several with commas: succeeded, failed, cancelled,
    /// `timed_out`, lost; `not_ok` for all that neither succeeded nor were cancelled
    #[arg(long, value_name = "STATES", value_delimiter = ',', value_parser = state)]
    state: Vec<StateArg>,
    /// Only tasks of this owner: a name, or an owner's id
    #[arg(long, value_name = "OWNER", value_parser = owner)]
    owner: Option<OwnerArg>,
    /// Only tasks that these engines ended, as `0,2-4`
    #[arg(long, value_name = "ENGINES", value_parser = targets)]
    engine: Option<TargetsArg>,
    /// Only tasks with this error: a kind as `exit`, the type of what was raised, or a fingerprint
    #[arg(long, value_name = "ERROR")]
    error: Option<String>,
    /// Only tasks whose code ran for this time or longer
    #[arg(long, value_name = "TIME", value_parser = durations::limit)]
    longer: Option<Duration>,
    /// Only tasks that ended in the last time, as 90s, 10m or 2d
    #[arg(long, value_name = "TIME", value_parser = last, conflicts_with_all = ["from", "to"])]
    last: Option<TraceMoment>,
    /// Only tasks that ended after this: a clock time as 14:05, a day and time as
    /// 2026-12-31T14:05, or so long ago, as 10m
    #[arg(long, value_name = "WHEN", value_parser = moment)]
    from: Option<TraceMoment>,
    /// Only tasks that ended before this
    #[arg(long, value_name = "WHEN", value_parser = moment)]
    to: Option<TraceMoment>,
}

/// A state that is wanted, or all in which nothing came of a task.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum StateArg {
    One(TaskState),
    NotOk,
}

/// The order of tasks.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, clap::ValueEnum)]
pub enum Order {
    /// The latest first.
    #[default]
    Ended,
    /// Those that were submitted last first.
    Submitted,
    /// Those whose code ran longest first.
    Run,
    /// Those that waited longest first.
    Wait,
    /// Those with most bytes of arguments and result first.
    Bytes,
}

/// What is wanted, as SQL.
#[derive(Clone, PartialEq, Debug)]
pub struct Wanted {
    condition: String,
    values: Vec<Sql>,
    from_us: Option<u64>,
    to_us: Option<u64>,
}

/// A task that has ended.
#[derive(Clone, PartialEq, Debug)]
pub struct Ended {
    /// As people write it.
    pub task: String,
    /// With the whole id of its session.
    pub id: String,
    /// Its owner's id.
    pub owner: String,
    /// Its runtime.
    pub runtime: String,
    /// The name of its function or program.
    pub name: String,
    /// Its terminal state.
    pub state: String,
    /// Its error: the kind, the type of what was raised, and its fingerprint.
    pub error: Option<(String, String, u32)>,
    /// The engine that ended it, and its host.
    pub engine: (Option<u32>, Option<String>),
    /// The number of attempts.
    pub attempts: u32,
    /// The moments of its submit and end, in microseconds since 1970.
    pub moments_us: (u64, u64),
    /// Held, queued, on the way, begun, loading, running, storing, in microseconds.
    pub phases_us: [u64; 7],
    /// Bytes of call and arguments, and of the result.
    pub bytes: (u64, u64),
}

/// A time of which something may be missing.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Gap {
    /// Its beginning and end, in microseconds since 1970.
    pub from_us: u64,
    /// Its end.
    pub to_us: u64,
    /// The number of tasks, if it is known.
    pub ends: Option<u64>,
    /// The cause.
    pub why: String,
}

/// How far a history goes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Extent {
    /// The cluster.
    pub cluster: String,
    /// The moment from which on tasks are there; none if there has been no look.
    pub from_us: Option<u64>,
    /// The moment of the last look.
    pub to_us: Option<u64>,
    /// The gaps in the time that was asked for.
    pub gaps: Vec<Gap>,
    /// Tasks that were deleted for being too old or too many.
    pub dropped: u64,
    /// False if tasks of other owners are not there.
    pub sees_all: bool,
}

/// The columns of an [`Ended`].
const COLUMNS: &str = "task, session || ':' || n, owner, runtime, name, state, error, type,
    fingerprint, engine, host, attempts, submitted_us, ended_us, held_us, queue_us, way_us,
    began_us, load_us, run_us, store_us, request_bytes, result_bytes";

fn last(text: &str) -> Result<TraceMoment, String> {
    durations::limit(text).map(TraceMoment::Ago)
}

fn state(text: &str) -> Result<StateArg, String> {
    let one = TaskState::ALL.iter().copied().find(|state| state.as_str() == text);
    match (one, text) {
        (Some(state), _) => Ok(StateArg::One(state)),
        (None, "not_ok") => Ok(StateArg::NotOk),
        (None, _) => {
            let names: Vec<&str> = TaskState::ALL.iter().map(|state| state.as_str()).collect();
            Err(format!("there are {} and not_ok", names.join(", ")))
        }
    }
}

impl Filter {
    /// What is wanted of this history.
    pub fn wanted(&self, database: &Connection, now_us: u64) -> Result<Wanted> {
        let moment = |moment: TraceMoment| match moment {
            TraceMoment::Ago(ago) => now_us.saturating_sub(ago.as_micros() as u64),
            TraceMoment::Unix(us) => us,
        };
        let (from_us, to_us) = (self.last.or(self.from).map(moment), self.to.map(moment));
        let mut wanted = Wanted { condition: "1".to_owned(), values: Vec::new(), from_us, to_us };
        if let Some(from) = from_us {
            wanted.and("ended_us >= ?", [Sql::Integer(from as i64)]);
        }
        if let Some(to) = to_us {
            wanted.and("ended_us <= ?", [Sql::Integer(to as i64)]);
        }
        if let Some(kind) = &self.kind {
            wanted.and("(name GLOB ? OR name GLOB '*.' || ?)", [glob(kind), glob(kind)]);
        }
        if !self.state.is_empty() {
            wanted.and_state(&self.state);
        }
        if let Some(owner) = &self.owner {
            let of: String =
                database.query_row("SELECT cluster_id FROM about", [], |row| row.get(0))?;
            let id = owner_id(owner, &of)?;
            wanted.and("owner = ?", [Sql::Text(id.to_string())]);
        }
        if let Some(TargetsArg::Ids(ids)) = &self.engine {
            let places = vec!["?"; ids.len()].join(", ");
            let ids = ids.iter().map(|EngineId(id)| Sql::Integer(i64::from(*id)));
            wanted.and(&format!("engine IN ({places})"), ids);
        }
        if let Some(error) = &self.error {
            wanted.and_error(error);
        }
        if let Some(longer) = self.longer {
            wanted.and("run_us >= ?", [Sql::Integer(longer.as_micros() as i64)]);
        }
        if let Some(tasks) = &self.tasks {
            wanted.and_tasks(database, tasks)?;
        }
        Ok(wanted)
    }
}

fn owner_id(owner: &OwnerArg, cluster_id: &str) -> Result<OwnerId> {
    match (owner, cluster(cluster_id)) {
        (OwnerArg::New, _) => bail!("a new owner has no tasks: name one that has"),
        (OwnerArg::Id(id), _) => Ok(*id),
        (owner, Some(cluster)) => Ok(owner.id(cluster, [0; 16])),
        (_, None) => bail!("the history does not say of which cluster it is: give an owner's id"),
    }
}

/// The cluster that an id of 64 hexadecimal digits is of.
fn cluster(text: &str) -> Option<ClusterId> {
    let digit = |place: usize| text.get(place..place + 2).filter(|_| text.len() == 64);
    let mut id = [0; 32];
    for (place, byte) in id.iter_mut().enumerate() {
        *byte = u8::from_str_radix(digit(2 * place)?, 16).ok()?;
    }
    Some(ClusterId(id))
}

/// A pattern in which `*` stands for any characters, and nothing else for others.
fn glob(text: &str) -> Sql {
    let mut pattern = String::new();
    for character in text.chars() {
        match character {
            '?' | '[' => pattern.extend(['[', character, ']']),
            _ => pattern.push(character),
        }
    }
    Sql::Text(pattern)
}

impl Wanted {
    fn and(&mut self, condition: &str, values: impl IntoIterator<Item = Sql>) {
        self.condition = format!("{} AND {condition}", self.condition);
        self.values.extend(values);
    }

    fn and_state(&mut self, states: &[StateArg]) {
        let is_wanted = |state: &&TaskState| {
            states.contains(&StateArg::One(**state))
                || states.contains(&StateArg::NotOk)
                    && !matches!(state, TaskState::Succeeded | TaskState::Cancelled)
        };
        let wanted = TaskState::ALL.iter().filter(is_wanted);
        let names: Vec<String> = wanted.map(|state| format!("'{}'", state.as_str())).collect();
        let names = names.join(", ");
        // As the index is of those alone, it is used if this is said.
        let others = if names.contains("'succeeded'") { "" } else { " AND state <> 'succeeded'" };
        self.and(&format!("state IN ({names}){others}"), []);
    }

    fn and_error(&mut self, error: &str) {
        if let Ok(fingerprint) = error.parse::<u32>() {
            self.and("fingerprint = ?", [Sql::Integer(i64::from(fingerprint))]);
        } else if ErrorKind::ALL.iter().any(|kind| kind.as_str() == error) {
            self.and("error = ?", [Sql::Text(error.to_owned())]);
        } else {
            self.and("(type GLOB ? OR type GLOB '*.' || ?)", [glob(error), glob(error)]);
        }
    }

    fn and_tasks(&mut self, database: &Connection, tasks: &Selector) -> Result<()> {
        let mut parts = Vec::new();
        let mut values = Vec::new();
        for part in &tasks.parts {
            let name = match &part.session {
                Session::Named(name) => Some(name.clone()),
                Session::Last => database
                    .query_row("SELECT short FROM sessions ORDER BY id DESC LIMIT 1", [], |row| {
                        row.get(0)
                    })
                    .optional()?,
            };
            values.push(Sql::Text(name.unwrap_or_default()));
            let session = "session IN (SELECT name FROM sessions WHERE short = ?)";
            match part.range {
                None => parts.push(session.to_owned()),
                Some((first, last)) => {
                    parts.push(format!("{session} AND n BETWEEN ? AND ?"));
                    values.extend([first, last].map(|n| Sql::Integer(n.0 as i64)));
                }
            }
        }
        let either = parts.join(" OR ");
        self.and(&format!("({either})"), values);
        Ok(())
    }

    /// Counts the tasks.
    pub fn count(&self, database: &Connection) -> Result<u64> {
        let sql = format!("SELECT count(*) FROM tasks WHERE {}", self.condition);
        let values = params_from_iter(&self.values);
        Ok(database.query_row(&sql, values, |row| row.get::<_, i64>(0))? as u64)
    }

    /// Hands out so many tasks at most, or all.
    pub fn each(
        &self,
        database: &Connection,
        order: Order,
        limit: Option<u64>,
        mut take: impl FnMut(Ended) -> Result<()>,
    ) -> Result<()> {
        let order = match order {
            Order::Ended => "ended_us DESC, id DESC",
            // With a plus no index is taken for a part of the order, at the price of reading the
            // table out of its own.
            Order::Submitted => "+submitted_us DESC, +id DESC",
            Order::Run => "+run_us DESC, +id DESC",
            Order::Wait => "held_us + queue_us DESC, +id DESC",
            Order::Bytes => "request_bytes + result_bytes DESC, +id DESC",
        };
        let limit = limit.map_or(-1, |limit| limit as i64);
        let condition = &self.condition;
        // Of all but these few tasks only what is compared is read.
        let sql = format!(
            "SELECT {COLUMNS} FROM tasks WHERE id IN (SELECT id FROM tasks WHERE {condition} \
             ORDER BY {order} LIMIT {limit}) ORDER BY {order}"
        );
        let mut statement = database.prepare(&sql)?;
        let mut rows = statement.query(params_from_iter(&self.values))?;
        while let Some(row) = rows.next()? {
            take(Ended::of(row)?)?;
        }
        Ok(())
    }

    /// Hands out kind, state, attempts, wait, run and end of every task: what sums are made of.
    pub fn each_for_sums(
        &self,
        database: &Connection,
        mut take: impl FnMut(&Row<'_>) -> rusqlite::Result<()>,
    ) -> Result<()> {
        let sql = format!(
            "SELECT kind, state, attempts, held_us + queue_us, run_us, ended_us FROM tasks \
             WHERE {}",
            self.condition
        );
        let mut statement = database.prepare(&sql)?;
        let mut rows = statement.query(params_from_iter(&self.values))?;
        while let Some(row) = rows.next()? {
            take(row)?;
        }
        Ok(())
    }

    /// The same, of tasks with an error alone.
    pub fn with_errors(mut self) -> Self {
        self.and("error IS NOT NULL", []);
        self
    }

    /// The part of the history that was asked for, and what may be missing of it.
    pub fn extent(&self, database: &Connection) -> Result<Extent> {
        let about = "SELECT cluster, dropped, dropped_to_us, sees_all FROM about";
        let (cluster, dropped, dropped_to_us, sees_all): (_, i64, Option<i64>, _) = database
            .query_row(about, [], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?)))?;
        let looks = "SELECT min(start_us), max(looked_us) FROM starts";
        let (first, to): (Option<i64>, Option<i64>) =
            database.query_row(looks, [], |row| Ok((row.get(0)?, row.get(1)?)))?;
        let unsigned = |value: i64| value as u64;
        let mut statement = database.prepare(
            "SELECT from_us, to_us, ends, why FROM gaps
             WHERE to_us >= ?1 AND from_us <= ?2 ORDER BY from_us",
        )?;
        let from = self.from_us.map_or(0, |us| us as i64);
        let until = self.to_us.map_or(i64::MAX, |us| us as i64);
        let gaps = statement.query_map(params![from, until], |row| {
            Ok(Gap {
                from_us: unsigned(row.get(0)?),
                to_us: unsigned(row.get(1)?),
                ends: row.get::<_, Option<i64>>(2)?.map(unsigned),
                why: row.get(3)?,
            })
        })?;
        Ok(Extent {
            cluster,
            from_us: first.map(|first| unsigned(dropped_to_us.map_or(first, |to| to.max(first)))),
            to_us: to.map(unsigned),
            gaps: gaps.collect::<rusqlite::Result<_>>()?,
            dropped: unsigned(dropped),
            sees_all,
        })
    }

    /// The end of the time that was asked for, if that is not now.
    pub fn to_us(&self) -> Option<u64> {
        self.to_us
    }

    /// The beginning of the time that was asked for.
    pub fn from_us(&self) -> Option<u64> {
        self.from_us
    }
}

impl Ended {
    fn of(row: &Row<'_>) -> rusqlite::Result<Self> {
        let number = |at: usize| row.get::<_, i64>(at).map(|value| value.max(0) as u64);
        let error: Option<String> = row.get(6)?;
        let error = match error {
            Some(error) => Some((error, row.get(7)?, row.get(8)?)),
            None => None,
        };
        let mut phases_us = [0; 7];
        for (place, phase) in phases_us.iter_mut().enumerate() {
            *phase = number(14 + place)?;
        }
        Ok(Self {
            task: row.get(0)?,
            id: row.get(1)?,
            owner: row.get(2)?,
            runtime: row.get(3)?,
            name: row.get(4)?,
            state: row.get(5)?,
            error,
            engine: (row.get(9)?, row.get(10)?),
            attempts: row.get(11)?,
            moments_us: (number(12)?, number(13)?),
            phases_us,
            bytes: (number(21)?, number(22)?),
        })
    }
}
