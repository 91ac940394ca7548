//! `furlong result`: what kept tasks wrote and returned.

use anyhow::Result;
use furlong_client::{Client, Fetched, TaskId};
use furlong_wire::message::{TaskPhase, TaskRecord};
use futures_util::StreamExt;
use serde_json::{Value, json};

use crate::connect::ConnectArgs;
use crate::ended::{self, Printed};
use crate::exit::ExitCode;
use crate::interrupt;
use crate::print;
use crate::record::{state, why};
use crate::selected::{ASKING, SelectArgs};

/// Results that are on their way at once. Each has up to 4 MiB of output, and the broker lets 48
/// MiB wait for a client.
const FETCHES: usize = 8;

const AFTER_HELP: &str = "\
What a task wrote to standard output and standard error is printed there, as it was written, and then the value, if it
is a function's: as JSON. Tasks come in the order of the selector. With -f those that have not ended are followed: their
output is printed while they run, one task after the other. Ctrl-C ends the following, not the tasks.

The names are printed by `furlong submit`; `furlong queue --all` lists them. Results are kept for an hour after the end
of a task whose submit asked for that, as `furlong submit` does without --wait.

Exit codes: 0 all of them succeeded; 1 some did not, have not ended, or have a value that cannot be read, or an error; of a single task, its own exit code
(128 and the number of the signal that ended it); 2 wrong usage; 3 all succeeded, but a part of their output was not kept,
as the messages or left_out_bytes say: 1 MiB is kept of each end; 130 Ctrl-C.

Examples:
  furlong result last
  furlong result -f k3f9a2:17
  furlong result --label 'night-*' --json | jq -r 'select(.ok | not) | .task'";

/// Flags of `result`.
#[derive(Debug, clap::Args)]
#[command(after_long_help = AFTER_HELP, after_help = "`--help` says more, with examples.")]
pub struct ResultArgs {
    #[command(flatten)]
    select: SelectArgs,
    /// Follow tasks that have not ended: print their output while they run, and wait for their ends
    #[arg(short, long)]
    follow: bool,
    /// Print a JSON document for each task, on a line of its own
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    connect: ConnectArgs,
}

/// Prints the results.
pub async fn run(args: ResultArgs) -> Result<ExitCode> {
    let client = args.connect.connect(ASKING).await?;
    interrupt::or_leave(&client, show_all(&client, &args)).await
}

async fn show_all(client: &Client, args: &ResultArgs) -> Result<ExitCode> {
    let ids: Vec<TaskId> =
        args.select.records(client, None).await?.into_iter().map(|record| record.id).collect();
    let mut shown = Shown { is_single: ids.len() == 1, ..Shown::default() };
    if args.follow {
        for id in ids {
            let mut printed = Printed::default();
            let fetched = follow(client, id, args, &mut printed).await?;
            shown.print(&fetched, &mut printed, args)?;
        }
    } else {
        let mut fetches =
            futures_util::stream::iter(ids).map(|id| client.fetch(id)).buffered(FETCHES);
        while let Some(fetched) = fetches.next().await {
            shown.print(&fetched?, &mut Printed::default(), args)?;
        }
    }
    Ok(shown.finish())
}

/// Prints a task's output as it comes, until its end.
async fn follow(
    client: &Client,
    id: TaskId,
    args: &ResultArgs,
    printed: &mut Printed,
) -> Result<Fetched> {
    if args.json {
        return Ok(client.wait_for(id).await?);
    }
    let mut following = client.follow(id).await?;
    let name = id.to_string();
    while let Some(piece) = following.next().await {
        printed.piece(&name, &piece)?;
    }
    Ok(following.ended().await?)
}

/// The totals of the shown tasks.
#[derive(Default)]
struct Shown {
    is_single: bool,
    failed: u64,
    incomplete: u64,
    unfinished: u64,
    last: Option<ExitCode>,
}

impl Shown {
    fn print(&mut self, fetched: &Fetched, printed: &mut Printed, args: &ResultArgs) -> Result<()> {
        let Some(end) = &fetched.result else { return self.print_none(&fetched.record, args) };
        self.failed += u64::from(end.is_err());
        self.incomplete += u64::from(ended::left_out_bytes(end) > 0);
        self.last = Some(ended::exit_code(end));
        if args.json {
            let mut document = ended::as_json(end);
            document.set("label", fetched.record.label.clone());
            self.note_value(document.is_readable());
            return document.print();
        }
        let name = fetched.record.id.to_string();
        printed.rest(&name, ended::report(end))?;
        match end {
            Ok(result) => {
                let is_readable = ended::print_value(result)?;
                self.note_value(is_readable);
                Ok(())
            }
            // A lone command that fails speaks for itself, as it would without a farm.
            Err(failure) if self.is_single && ended::is_exit(failure) => Ok(()),
            Err(failure) => {
                ended::print_failure(&name, failure);
                Ok(())
            }
        }
    }

    /// A value that cannot be read is a failure, whatever its task was.
    fn note_value(&mut self, is_readable: bool) {
        if !is_readable {
            self.failed += 1;
            self.last = Some(ExitCode::FAILURE);
        }
    }

    /// A task without a result: it has not ended, or its result is not there any longer.
    fn print_none(&mut self, record: &TaskRecord, args: &ResultArgs) -> Result<()> {
        let has_ended = record.phase == TaskPhase::Ended;
        if has_ended {
            self.failed += 1;
        } else {
            self.unfinished += 1;
        }
        if args.json {
            let document = json!({
                "task": record.id.to_string(), "label": record.label, "name": record.name,
                "ok": Value::Null,
                "state": state(record), "why": why(record),
            });
            return print::json_line(&document);
        }
        if has_ended {
            let why = why(record).unwrap_or_else(|| "its result is not kept".to_owned());
            print::note!("furlong: {}: {}, and {why}", record.id, state(record));
        } else if self.is_single {
            print::note!(
                "furlong: {} has not ended, it is {}: -f follows it",
                record.id,
                state(record)
            );
        }
        Ok(())
    }

    fn finish(self) -> ExitCode {
        if self.unfinished > 0 && !self.is_single {
            print::note!(
                "furlong: {} not ended: -f follows them",
                match self.unfinished {
                    1 => "1 task has".to_owned(),
                    count => format!("{} tasks have", print::grouped(count)),
                }
            );
        }
        match self.last {
            Some(code) if self.is_single => code,
            _ => ended::exit_code_of_all(self.failed + self.unfinished, self.incomplete),
        }
    }
}
