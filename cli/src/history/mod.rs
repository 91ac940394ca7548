//! `furlong history`: the tasks that have ended, also those that the broker has forgotten.
//!
//! A process that is not the broker looks at the farm as any observer does, and writes what it is
//! told into a database (`record`). What it could not be told is written down as well, so that no
//! answer is silently less than what was asked for.

mod file;
mod query;
mod record;
mod shown;
mod sums;
#[cfg(test)]
mod tests;
mod write;

use std::path::{Path, PathBuf};
use std::time::SystemTime;

use anyhow::Result;
use furlong_host::home::Home;
use furlong_wire::capability::ClusterName;
use furlong_wire::token::Role;
use rusqlite::Connection;
use serde_json::json;

pub use self::file::is_written;
use crate::exit::ExitCode;
use crate::print;
use query::{Filter, Order, Wanted};
use record::RecordArgs;

/// Roles that may record, those first that see the tasks of all owners and can do nothing else.
const RECORDERS: &[Role] =
    &[Role::Auditor, Role::Observer, Role::Client, Role::Multiengine, Role::Task, Role::Admin];

/// Flags of `history`.
#[derive(Debug, clap::Args)]
#[command(
    args_conflicts_with_subcommands = true,
    after_help = "\
`furlong history record` writes the history while it runs; the broker itself remembers the last 65 536 tasks that have ended.
Times of which something may be missing are printed below the tasks, and are `gaps` in JSON.
The file is an SQLite database with the views `tasks`, `failures` and `by_hour`.

Exit codes: 0 also if there are no such tasks; 1 an error; 2 wrong usage.

Examples:
  furlong history --state failed --last 12h
  furlong history --summary --from 02:00 --to 03:00
  furlong history --kind 'load*' --sort run --limit 20 --json"
)]
pub struct HistoryArgs {
    #[command(subcommand)]
    command: Option<HistoryCommand>,
    #[command(flatten)]
    filter: Filter,
    /// The order, the first of which is shown
    #[arg(long, value_enum, default_value_t, conflicts_with_all = ["summary", "failures"])]
    sort: Order,
    /// Show so many tasks at most; 0 for all
    #[arg(long, value_name = "N", default_value = "100",
        conflicts_with_all = ["summary", "failures"])]
    limit: u64,
    /// Show the sums of each kind of task instead
    #[arg(long)]
    summary: bool,
    /// Show failures by kind, type and place instead
    #[arg(long, conflicts_with = "summary")]
    failures: bool,
    /// Print a JSON document
    #[arg(long)]
    json: bool,
    /// The file; by default history.db in the cluster's folder
    #[arg(long, value_name = "FILE")]
    file: Option<PathBuf>,
    /// Name of the cluster
    #[arg(long, value_name = "NAME", default_value_t)]
    cluster: ClusterName,
}

/// Commands about a history.
#[derive(Debug, clap::Subcommand)]
enum HistoryCommand {
    /// Write down every task that ends, until it is told to stop
    #[command(after_help = "\
It looks once a second, and does nothing else to the farm. It uses auditor.cap.json, which sees the tasks of all owners;
with another file it records what that sees.

What ends while it does not run is told by the broker later, as far as that remembers it.

Exit codes: 0 it was told to stop; 1 an error; 2 wrong usage.

Examples:
  furlong history record --keep 90d
  furlong history record --cap observer.cap.json --file /var/tmp/farm.db --max-size 4G")]
    Record(RecordArgs),
}

/// Shows a history, or writes one.
pub async fn run(args: HistoryArgs) -> Result<ExitCode> {
    match args.command {
        Some(HistoryCommand::Record(args)) => record::run(args).await,
        None => show(&args),
    }
}

/// The file of a cluster's history.
fn path(named: Option<&Path>, cluster: &ClusterName) -> Result<PathBuf> {
    match named {
        Some(path) => Ok(path.to_owned()),
        None => Ok(Home::from_env()?.cluster(cluster).history()),
    }
}

fn show(args: &HistoryArgs) -> Result<ExitCode> {
    let database = file::open_to_read(&path(args.file.as_deref(), &args.cluster)?)?;
    // All that is printed is of one moment, also while somebody writes.
    database.execute_batch("BEGIN")?;
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let now_us = now.as_micros() as u64;
    let wanted = args.filter.wanted(&database, now_us)?;
    let extent = wanted.extent(&database)?;
    let record = shown::extent_as_json(&extent);
    if args.summary {
        let kinds = sums::kinds(&database, &wanted)?;
        if args.json {
            let kinds: Vec<_> = kinds.iter().map(shown::kind_as_json).collect();
            return done(print::json(&json!({ "kinds": kinds, "record": record })));
        }
        shown::print_kinds(&kinds)?;
    } else if args.failures {
        let failures = sums::failures(&database, &wanted)?;
        if args.json {
            let failures: Vec<_> = failures.iter().map(shown::failure_as_json).collect();
            return done(print::json(&json!({ "failures": failures, "record": record })));
        }
        shown::print_failures(&failures)?;
    } else if args.json {
        return done(tasks_as_json(args, &database, &wanted, &record));
    } else {
        tasks_as_table(args, &database, &wanted)?;
    }
    shown::note_extent(&extent, (wanted.from_us(), wanted.to_us()), now_us);
    Ok(ExitCode::SUCCESS)
}

fn done(printed: Result<()>) -> Result<ExitCode> {
    printed.map(|()| ExitCode::SUCCESS)
}

fn limit(args: &HistoryArgs) -> Option<u64> {
    (args.limit > 0).then_some(args.limit)
}

fn tasks_as_table(args: &HistoryArgs, database: &Connection, wanted: &Wanted) -> Result<()> {
    let mut told = 0;
    wanted.each(database, args.sort, limit(args), |task| {
        if told == 0 {
            print::line(shown::HEAD)?;
        }
        told += 1;
        print::line(shown::row(&task))
    })?;
    let all = wanted.count(database)?;
    if all == 0 {
        print::note!("furlong: no such task is in the history");
    } else if told < all {
        let (told, all) = (print::grouped(told), print::counted(all, "task"));
        print::note!("furlong: the first {told} of {all}; --limit 0 shows all");
    }
    Ok(())
}

/// Prints one document, task by task: there may be millions.
fn tasks_as_json(
    args: &HistoryArgs,
    database: &Connection,
    wanted: &Wanted,
    record: &serde_json::Value,
) -> Result<()> {
    print::line("{\"tasks\": [")?;
    let mut before: Option<String> = None;
    let mut told = 0;
    wanted.each(database, args.sort, limit(args), |task| {
        told += 1;
        let text = shown::task_as_json(&task).to_string();
        match before.replace(text) {
            Some(before) => print::line(format!("{before},")),
            None => Ok(()),
        }
    })?;
    if let Some(last) = before {
        print::line(last)?;
    }
    let all = wanted.count(database)?;
    print::line(format!("], \"shown\": {told}, \"matched\": {all}, \"record\": {record}}}"))
}
