//! `furlong queue`: tasks and where they stand.

use anyhow::Result;
use furlong_wire::message::{TaskQuery, TaskRecord};

use crate::connect::ConnectArgs;
use crate::exit::ExitCode;
use crate::print;
use crate::record::{Spans, as_json, span, state, why};
use crate::select::Selector;
use crate::selected::{READING, check_label, each, queries};

const AFTER_HELP: &str = "\
Columns: `name` is that of the function or program, `waited` is the time before an engine had the task, `ran` how long its code has run, `why` what it waits for, or
why it did not succeed. `furlong explain TASK` says more of one.

Exit codes: 0 also if there are no such tasks; 1 an error; 2 wrong usage.

Examples:
  furlong queue
  furlong queue --all last
  furlong queue --all --label 'night-*' --json | jq -r 'select(.state == \"failed\") | .task'";

/// Flags of `queue`.
#[derive(Debug, clap::Args)]
#[command(after_long_help = AFTER_HELP, after_help = "`--help` says more, with examples.")]
pub struct QueueArgs {
    /// Only these: `last`, `k3f9a2`, `k3f9a2:1-10`, `1-10` (of `last`), several with commas
    #[arg(value_name = "TASKS")]
    tasks: Option<Selector>,
    /// Also tasks that have ended, as long as their records are kept
    #[arg(short, long)]
    all: bool,
    /// Only tasks with this label; `*` in it stands for any characters
    #[arg(long, value_name = "GLOB")]
    label: Option<String>,
    /// Print a JSON document for each task, on a line of its own
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    connect: ConnectArgs,
}

/// Prints the tasks as the broker tells of them: a queue of any length needs little memory.
pub async fn run(args: QueueArgs) -> Result<ExitCode> {
    check_label(args.label.as_deref())?;
    let client = args.connect.connect(READING).await?;
    let queries = match &args.tasks {
        Some(tasks) => queries(&client, tasks).await?,
        None => vec![TaskQuery::default()],
    };
    let mut has_head = false;
    let ended = (!args.all).then_some(false);
    let found = each(&client, queries, args.label.as_deref(), ended, |record| {
        if args.json {
            return print::json_line(&as_json(&record));
        }
        if !has_head {
            print::line(row(["task", "name", "label", "state", "engine", "waited", "ran", "why"]))?;
            has_head = true;
        }
        print_record(&record)
    })
    .await?;
    client.close().await;
    if !found && !args.json {
        let all = if args.all { "" } else { " that have not ended (--all shows those that have)" };
        print::note!("furlong: there are no tasks{all}");
    }
    Ok(ExitCode::SUCCESS)
}

fn print_record(record: &TaskRecord) -> Result<()> {
    let spans = Spans::of(record);
    let engine = record.engine.or(record.target).map_or("-".to_owned(), |id| id.to_string());
    print::line(row([
        &record.id.to_string(),
        &print::clipped(record.name.as_deref().unwrap_or("-"), 16),
        &print::clipped(record.label.as_deref().unwrap_or("-"), 16),
        state(record),
        &engine,
        &span(Some(spans.waited())),
        &span(spans.running),
        &print::clipped(&why(record).unwrap_or_default(), 200),
    ]))
}

fn row(cells: [&str; 8]) -> String {
    let [task, name, label, state, engine, waited, ran, why] = cells;
    let what = format!("{task:<14} {name:<16} {label:<16}");
    let row = format!("{what} {state:<9} {engine:>6} {waited:>8} {ran:>8}  {why}");
    row.trim_end().to_owned()
}
