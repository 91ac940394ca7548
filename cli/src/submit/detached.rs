//! A submit that does not wait: the tasks' names are all that is printed.

use std::collections::BTreeMap;
use std::pin::pin;

use anyhow::{Context, Result};
use furlong_client::{Client, TaskFuture, TaskId};
use futures_util::StreamExt;
use serde_json::json;

use super::items::Items;
use super::{SubmitArgs, Submitter};
use crate::exit::ExitCode;
use crate::print::{self, progress};

/// Hands the tasks over, and prints their names.
pub async fn run(
    submitter: &Submitter<'_>,
    items: &mut Items,
    args: &SubmitArgs,
) -> Result<ExitCode> {
    let bar = progress(items.total(), args.progress);
    let mut handed = Handed::default();
    let mut submits = pin!(submitter.submits(items));
    while let Some(made) = submits.next().await {
        match made {
            Ok(made) => handed.add(made.tasks),
            Err(error) => return handed.after_an_error(submitter, error).await,
        }
        bar.inc(1);
    }
    bar.finish_and_clear();
    let refused = handed.refused(submitter.client).await;
    submitter.client.clone().detach().await.context("not all tasks may have reached the broker")?;
    match handed.name() {
        Some(name) if args.json => print::json_line(&handed.as_json(&name))?,
        Some(name) => print::line(name)?,
        None if args.json => print::json_line(&json!({ "tasks": null, "count": 0 }))?,
        None => print::note!("furlong: there are no items, so nothing was submitted"),
    }
    if refused.is_empty() {
        return Ok(ExitCode::SUCCESS);
    }
    let count: u64 = refused.values().sum();
    for (text, count) in refused {
        print::note!("furlong: {}: {text}", print::counted(count, "task"));
    }
    print::note!(
        "furlong: {} of {} failed at once",
        print::grouped(count),
        print::counted(handed.count, "task")
    );
    Ok(ExitCode::FAILURE)
}

/// The tasks that were handed over: the numbers of one session follow each other.
#[derive(Default)]
struct Handed {
    first: Option<TaskId>,
    count: u64,
    /// Those of which it is not known yet whether the broker takes them. What becomes of the others
    /// it keeps.
    asked: Vec<TaskFuture>,
}

/// Tasks that are asked for at most: the first ones.
const ASKED_MAX: usize = 100_000;

impl Handed {
    fn add(&mut self, tasks: Vec<TaskFuture>) {
        for task in tasks {
            self.first.get_or_insert(task.id());
            self.count += 1;
            if self.asked.len() < ASKED_MAX {
                self.asked.push(task);
            }
        }
    }

    /// Returns the refused tasks, counted by reason: the broker refuses them before it answers what
    /// was asked later.
    async fn refused(&mut self, client: &Client) -> BTreeMap<String, u64> {
        let mut refused = BTreeMap::new();
        if client.engines().await.is_err() {
            return refused;
        }
        for task in std::mem::take(&mut self.asked).into_iter().filter(TaskFuture::is_finished) {
            if let Err(failure) = task.await
                && failure.report.attempts == 0
            {
                *refused.entry(failure.error.to_string()).or_default() += 1;
            }
        }
        refused
    }

    /// As a selector.
    fn name(&self) -> Option<String> {
        let first = self.first?;
        let last = first.n + self.count - 1;
        Some(if self.count == 1 { first.to_string() } else { format!("{first}-{last}") })
    }

    fn as_json(&self, name: &str) -> serde_json::Value {
        let first = self.first.map(|first| first.n);
        json!({
            "tasks": name,
            "session": self.first.map(|first| first.session.prefix()),
            "first": first,
            "last": first.map(|first| first + self.count - 1),
            "count": self.count,
        })
    }

    /// The items up to a wrong one are handed over, and the user knows which.
    async fn after_an_error(
        self,
        submitter: &Submitter<'_>,
        error: anyhow::Error,
    ) -> Result<ExitCode> {
        let Some(name) = self.name() else { return Err(error) };
        if submitter.client.clone().detach().await.is_err() {
            return Err(error);
        }
        let cancel = format!("`furlong cancel {name}` takes that back");
        Err(error.context(format!("{name} was submitted, then there was an error; {cancel}")))
    }
}
