//! A submit that does not wait: the tasks' names are all that is printed.

use std::pin::pin;
use std::process::ExitCode;

use anyhow::{Context, Result};
use furlong_client::TaskId;
use futures_util::StreamExt;
use serde_json::json;

use super::items::Items;
use super::{SubmitArgs, Submitter};
use crate::print::{self, progress};

/// Hands the tasks over, and prints their names.
pub async fn run(submitter: &Submitter<'_>, items: &mut Items, args: &SubmitArgs) -> Result<ExitCode> {
    let bar = progress(items.total(), args.progress);
    let mut handed = Handed::default();
    let mut submits = pin!(submitter.submits(items));
    while let Some(made) = submits.next().await {
        // A task's future may go: what it ends with is kept by the broker.
        match made {
            Ok(made) => made.tasks.iter().for_each(|task| handed.add(task.id())),
            Err(error) => return handed.after_an_error(submitter, error).await,
        }
        bar.inc(1);
    }
    bar.finish_and_clear();
    submitter.client.clone().detach().await.context("not all tasks may have reached the broker")?;
    match handed.name() {
        Some(name) if args.json => print::line(handed.as_json(&name).to_string())?,
        Some(name) => print::line(name)?,
        None if args.json => print::line(json!({ "tasks": null, "count": 0 }).to_string())?,
        None => print::note!("furlong: there are no items, so nothing was submitted"),
    }
    Ok(ExitCode::SUCCESS)
}

/// What was handed over: the numbers of one session follow each other.
#[derive(Default)]
struct Handed {
    first: Option<TaskId>,
    count: u64,
}

impl Handed {
    fn add(&mut self, id: TaskId) {
        self.first.get_or_insert(id);
        self.count += 1;
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
    async fn after_an_error(self, submitter: &Submitter<'_>, error: anyhow::Error) -> Result<ExitCode> {
        let Some(name) = self.name() else { return Err(error) };
        if submitter.client.clone().detach().await.is_err() {
            return Err(error);
        }
        let cancel = format!("`furlong cancel {name}` takes that back");
        Err(error.context(format!("{name} was submitted, then there was an error; {cancel}")))
    }
}
