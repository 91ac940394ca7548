//! The options of a submit beyond the defaults of a task.

use std::time::Duration;

use anyhow::{Result, ensure};
use furlong_client::{CallSpec, Client, CommandSpec, Depends, TaskId, TaskOptions};
use furlong_wire::limits::DEPENDENCIES_MAX;

use crate::select::Selector;
use crate::selected;
use furlong_host::durations::{duration, limit};

/// Flags for when, where and how often tasks run.
#[derive(Debug, clap::Args)]
pub struct OptionArgs {
    /// A name by which the tasks can be found
    #[arg(long)]
    label: Option<String>,
    /// Higher runs first in the queue
    #[arg(long, value_name = "N", default_value_t = 0, allow_negative_numbers = true)]
    priority: i32,
    /// Run a task again after the loss of its engine, so many times [default: 3]
    #[arg(long, value_name = "N")]
    retries: Option<u32>,
    /// Run a task again after it failed, so many times
    #[arg(long, value_name = "N", default_value_t = 0)]
    error_retries: u32,
    /// Pause before it runs again after a failure, doubled each time up to a minute
    #[arg(long, value_name = "TIME", requires = "error_retries", value_parser = duration)]
    backoff: Option<Duration>,
    /// Run a task once at most: it is lost with its engine
    #[arg(long, conflicts_with = "retries")]
    at_most_once: bool,
    /// Keep the tasks in the broker's journal: they outlive it, and this command
    #[arg(long)]
    durable: bool,
    /// Only on engines with this label; more of them, all required, with commas or by repeating the
    /// flag
    #[arg(long, value_name = "LABEL", value_delimiter = ',')]
    require: Vec<String>,
    /// End a task that waited this long for an engine
    #[arg(long, value_name = "TIME", value_parser = limit)]
    queue_timeout: Option<Duration>,
    /// End a task that runs for this long
    #[arg(long, visible_alias = "run-timeout", value_name = "TIME", value_parser = limit)]
    time_limit: Option<Duration>,
    /// Only on engines that have this much time left before they end; by default the `--time-limit`
    #[arg(long, value_name = "TIME", value_parser = limit)]
    time_request: Option<Duration>,
    /// Run after all of these tasks have succeeded
    #[arg(long, value_name = "TASKS", help_heading = "Dependencies")]
    after: Option<Selector>,
    /// Run after all of these tasks have ended, whatever became of them
    #[arg(long, value_name = "TASKS", help_heading = "Dependencies")]
    after_end: Option<Selector>,
    /// Run after one of these tasks has succeeded
    #[arg(
        long,
        value_name = "TASKS",
        conflicts_with_all = ["after", "after_end"],
        help_heading = "Dependencies"
    )]
    after_any: Option<Selector>,
    /// Run after one of these tasks has failed
    #[arg(
        long,
        value_name = "TASKS",
        conflicts_with_all = ["after", "after_end", "after_any"],
        help_heading = "Dependencies"
    )]
    on_failure: Option<Selector>,
    /// Run after all of these tasks have succeeded, on the engine that ran them: it must be one
    #[arg(long, value_name = "TASKS", help_heading = "Dependencies")]
    follow: Option<Selector>,
}

impl OptionArgs {
    /// The options of each task; selectors are looked up.
    pub async fn resolve(&self, client: &Client) -> Result<TaskOptions> {
        // The call is never made: it gathers the options.
        let mut call = CallSpec::command_with(CommandSpec::default()).priority(self.priority);
        call = call
            .error_retries(self.error_retries)
            .at_most_once(self.at_most_once)
            .durable(self.durable);
        if let Some(retries) = self.retries {
            call = call.retries(retries);
        }
        if let Some(label) = &self.label {
            call = call.label(label);
        }
        if let Some(backoff) = self.backoff {
            call = call.backoff(backoff);
        }
        if let Some(limit) = self.queue_timeout {
            call = call.queue_timeout(limit);
        }
        if let Some(limit) = self.time_limit {
            call = call.run_timeout(limit);
        }
        if let Some(time) = self.time_request {
            call = call.time_request(time);
        }
        call = self.require.iter().fold(call, CallSpec::require);
        call = self.depend(client, call).await?;
        Ok(call.task_options().cloned().unwrap_or_default())
    }

    async fn depend(&self, client: &Client, mut call: CallSpec) -> Result<CallSpec> {
        if let Some(selector) = &self.after {
            call = call.after(Depends::all(ids(client, selector).await?));
        }
        if let Some(selector) = &self.after_end {
            call = call.after(Depends::all(ids(client, selector).await?).on_end());
        }
        if let Some(selector) = &self.after_any {
            call = call.after(Depends::any(ids(client, selector).await?));
        }
        if let Some(selector) = &self.on_failure {
            call = call.after(Depends::any(ids(client, selector).await?).on_failure());
        }
        if let Some(selector) = &self.follow {
            call = call.follow(Depends::all(ids(client, selector).await?));
        }
        Ok(call)
    }
}

/// The tasks that a selector names.
pub(super) async fn ids(client: &Client, selector: &Selector) -> Result<Vec<TaskId>> {
    let ids: Vec<TaskId> = selected::records(client, selector, None, None)
        .await?
        .into_iter()
        .map(|record| record.id)
        .collect();
    let count = ids.len();
    ensure!(
        count <= DEPENDENCIES_MAX,
        "`{selector}` names {count} tasks, and a task waits for {DEPENDENCIES_MAX} at most; let one task wait for some \
         of them, and name that"
    );
    Ok(ids)
}
