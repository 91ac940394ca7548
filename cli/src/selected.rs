//! The tasks that a selector names, as the broker knows them.

use anyhow::{Result, bail, ensure};
use furlong_client::Client;
use furlong_wire::limits::NAME_BYTES_MAX;
use furlong_wire::message::{TaskQuery, TaskRange, TaskRecord};
use furlong_wire::token::Role;
use futures_util::StreamExt;

use crate::select::{Part, Selector, Session};

/// Roles whose capability lets one act on tasks, those with the least rights first.
pub const ASKING: &[Role] = &[Role::Client, Role::Multiengine, Role::Task, Role::Admin];
/// Roles whose capability lets one read the records of tasks, the usual ones first.
pub const READING: &[Role] =
    &[Role::Client, Role::Multiengine, Role::Task, Role::Admin, Role::Observer, Role::Auditor];

/// The tasks that a command means.
#[derive(Debug, clap::Args)]
pub struct SelectArgs {
    /// The tasks: `last`, `k3f9a2`, `k3f9a2:17`, `k3f9a2:1-10`, `17` or `1-10` (of `last`), several
    /// with commas
    #[arg(value_name = "TASKS", required_unless_present = "label")]
    tasks: Option<Selector>,
    /// Only tasks with this label; `*` in it stands for any characters
    #[arg(long, value_name = "GLOB")]
    label: Option<String>,
}

impl SelectArgs {
    /// The records of these tasks, in order; at least one.
    pub async fn records(&self, client: &Client, ended: Option<bool>) -> Result<Vec<TaskRecord>> {
        let mut records = Vec::new();
        self.each(client, ended, |record| {
            records.push(record);
            Ok(())
        })
        .await?;
        Ok(records)
    }

    /// Their numbers as ranges, and how many there are; at least one.
    pub async fn ranges(
        &self,
        client: &Client,
        ended: Option<bool>,
    ) -> Result<(Vec<TaskRange>, u64)> {
        let (mut ranges, mut count) = (Vec::new(), 0);
        self.each(client, ended, |record| {
            count += 1;
            add(&mut ranges, &record);
            Ok(())
        })
        .await?;
        Ok((ranges, count))
    }

    async fn each(
        &self,
        client: &Client,
        ended: Option<bool>,
        take: impl FnMut(TaskRecord) -> Result<()>,
    ) -> Result<()> {
        let label = self.label.as_deref();
        check_label(label)?;
        let found = match &self.tasks {
            Some(tasks) => {
                let queries = queries(client, tasks).await?;
                each(client, queries, label, ended, take).await?
            }
            None => each(client, vec![TaskQuery::default()], label, ended, take).await?,
        };
        ensure!(found, nothing(self.tasks.as_ref(), label, ended));
        Ok(())
    }
}

/// The records of the tasks that a selector names, in order; at least one.
pub async fn records(
    client: &Client,
    tasks: &Selector,
    label: Option<&str>,
    ended: Option<bool>,
) -> Result<Vec<TaskRecord>> {
    let mut records = Vec::new();
    let take = |record| {
        records.push(record);
        Ok(())
    };
    let queries = queries(client, tasks).await?;
    ensure!(each(client, queries, label, ended, take).await?, nothing(Some(tasks), label, ended));
    Ok(records)
}

/// Asks for tasks, and hands over each of them. False if there are none.
pub async fn each(
    client: &Client,
    queries: Vec<TaskQuery>,
    label: Option<&str>,
    ended: Option<bool>,
    mut take: impl FnMut(TaskRecord) -> Result<()>,
) -> Result<bool> {
    let mut found = false;
    for query in queries {
        let mut records =
            client.query_tasks(TaskQuery { label: label.map(str::to_owned), ended, ..query });
        while let Some(record) = records.next().await {
            found = true;
            take(record?)?;
        }
    }
    Ok(found)
}

/// The questions for a selector. `last` is looked up once: it stays the same session while answers
/// come.
pub async fn queries(client: &Client, tasks: &Selector) -> Result<Vec<TaskQuery>> {
    let mut last: Option<String> = None;
    let mut queries = Vec::new();
    for part in &tasks.parts {
        let part = match (&part.session, &last) {
            (Session::Named(_), _) => part.clone(),
            (Session::Last, Some(name)) => {
                Part { session: Session::Named(name.clone()), range: part.range }
            }
            (Session::Last, None) => {
                let name = last.insert(newest_session(client).await?).clone();
                Part { session: Session::Named(name), range: part.range }
            }
        };
        queries.push(part.query());
    }
    Ok(queries)
}

async fn newest_session(client: &Client) -> Result<String> {
    let query = TaskQuery { newest_session: true, limit: 1, ..TaskQuery::default() };
    match client.query_tasks(query).next().await {
        Some(record) => Ok(record?.id.session.prefix()),
        None => {
            bail!(
                "`last` names nothing: no tasks are kept; `furlong submit` without --wait keeps them for an hour"
            )
        }
    }
}

/// Describes why there are no tasks, and what to do.
fn nothing(tasks: Option<&Selector>, label: Option<&str>, ended: Option<bool>) -> String {
    let named = tasks.map(|tasks| format!("`{tasks}`"));
    let labelled = label.map(|label| format!("the label `{label}`"));
    let which = [named, labelled].into_iter().flatten().collect::<Vec<_>>().join(" and ");
    let state = match ended {
        None => "",
        Some(true) => " that has ended",
        Some(false) => " that has not ended",
    };
    format!("no task{state} is found by {which}; `furlong queue --all` lists those that are known")
}

/// Refuses a pattern that no label can fit.
pub fn check_label(label: Option<&str>) -> Result<()> {
    let bytes = label.map_or(0, str::len);
    ensure!(
        bytes <= NAME_BYTES_MAX,
        "a label has at most {NAME_BYTES_MAX} bytes, and this one {bytes}"
    );
    Ok(())
}

/// Adds a task to ranges, as a part of the last one where it follows that.
fn add(ranges: &mut Vec<TaskRange>, record: &TaskRecord) {
    let (session, n) = (record.id.session, record.id.n);
    match ranges.last_mut().filter(|range| range.session == session && range.last + 1 == n) {
        Some(range) => range.last = n,
        None => ranges.push(TaskRange { session, first: n, last: n }),
    }
}
