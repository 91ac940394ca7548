//! `furlong debug`: Python's debugger in the frames of a task that has failed.

use std::io::{IsTerminal, stdin};

use anyhow::{Context, Result, anyhow, bail, ensure};
use furlong_client::{Client, DebugError, Debugger, TaskFailure};
use furlong_wire::message::{Stream, TaskPhase};

use crate::connect::ConnectArgs;
use crate::exit::ExitCode;
use crate::interrupt;
use crate::print;
use crate::record::{state, why};
use crate::select::Selector;
use crate::selected::{ASKING, records};

const AFTER_HELP: &str = "\
It opens pdb where the exception was raised, in the frames of the task on its engine, and reads commands from standard
input: w, u, d, l, ll, a, p, pp, and ! for a statement. q, or the end of the input, leaves it, and the engine lets go of
the frames. Of several tasks the first one is opened that still has frames.

An engine keeps the frames of what failed last, until its interpreter begins other work or nobody has looked at them for
ten minutes. They are opened by what came with the task's result, so that must be kept, as in Python by
`keep=True`. `furlong execute` and `furlong run` open the debugger by --debug, and in Python `rc.debug(result)` does.

Exit codes: 0 left; 1 no such frames, or an error; 2 wrong usage; 130 Ctrl-C: the frames are left as they are.

Examples:
  furlong debug k3f9a2:17
  furlong debug last -c w -c 'p total'";

/// Tasks whose frames are looked for.
const TRIED_MAX: usize = 100;

/// Flags of `debug`.
#[derive(Debug, clap::Args)]
#[command(after_long_help = AFTER_HELP, after_help = "`--help` says more, with examples.")]
pub struct DebugArgs {
    /// The task, as `k3f9a2:17` or `last:17`; of several, the first one that still has frames
    #[arg(value_name = "TASKS")]
    tasks: Selector,
    /// Run this command and leave the frames as they are; may be given several times
    #[arg(short, long = "command", value_name = "COMMAND")]
    commands: Vec<String>,
    #[command(flatten)]
    connect: ConnectArgs,
}

/// Opens the debugger, and runs commands until it is left.
pub async fn run(args: DebugArgs) -> Result<ExitCode> {
    let client = args.connect.connect(ASKING).await?;
    let work = async {
        let (debugger, place) = open(&client, &args.tasks).await?;
        if args.commands.is_empty() {
            show(&place)?;
            prompt(&debugger).await?;
        }
        for command in &args.commands {
            let answer = debugger.run(command).await?;
            show(&answer.text)?;
            if !answer.is_open {
                break;
            }
        }
        Ok(ExitCode::SUCCESS)
    };
    interrupt::or_cancel(&client, work).await
}

/// The debugger of the first task that has frames, and where it is.
async fn open(client: &Client, tasks: &Selector) -> Result<(Debugger, String)> {
    let records = records(client, tasks, None, None).await?;
    let mut why_not = None;
    let (mut unfinished, count) = (0, records.len());
    for record in records.into_iter().take(TRIED_MAX) {
        if record.phase != TaskPhase::Ended {
            unfinished += 1;
            continue;
        }
        let fetched = client.fetch(record.id).await?;
        let problem = match fetched.result {
            Some(Ok(_)) => anyhow!("{} has succeeded: there is nothing to debug", record.id),
            Some(Err(failure)) => match at_place(client, &failure).await {
                Ok(opened) => return Ok(opened),
                Err(DebugError::Client(error)) => return Err(error.into()),
                Err(error) => anyhow!("{}: {error}", record.id),
            },
            None => {
                let why = why(&fetched.record);
                let why = why.unwrap_or_else(|| "its result is not kept".to_owned());
                anyhow!("{}: {}, and {why}", record.id, state(&fetched.record))
            }
        };
        why_not = Some(problem);
    }
    ensure!(
        unfinished == 0 || why_not.is_some(),
        "`{tasks}` has not ended; `furlong stack {tasks}` shows where it is"
    );
    match why_not {
        Some(problem) if count == 1 => Err(problem),
        Some(problem) => Err(problem.context(format!("no task of `{tasks}` has frames"))),
        None => bail!("`{tasks}` names no task"),
    }
}

/// Opens the debugger of the first of these failures that has frames, and reads commands until it
/// is left.
pub async fn open_first(client: &Client, failures: &[TaskFailure]) -> Result<()> {
    let mut why_not = None;
    for failure in failures {
        match at_place(client, failure).await {
            Ok((debugger, place)) => {
                show(&place)?;
                return prompt(&debugger).await;
            }
            Err(DebugError::Client(error)) => return Err(error.into()),
            Err(error) => why_not = why_not.or(Some(error)),
        }
    }
    why_not.map_or(Ok(()), |error| Err(error.into()))
}

async fn at_place(
    client: &Client,
    failure: &TaskFailure,
) -> Result<(Debugger, String), DebugError> {
    let debugger = client.debugger(failure)?;
    let place = debugger.place().await?;
    Ok((debugger, place.text))
}

/// Reads commands and shows what they say.
async fn prompt(debugger: &Debugger) -> Result<()> {
    let is_terminal = stdin().is_terminal();
    loop {
        if is_terminal {
            print::own(Stream::Stdout, b"(Pdb) ")?;
        }
        // On a thread of its own: Ctrl-C is noticed while it waits.
        let read = tokio::task::spawn_blocking(|| {
            let mut line = String::new();
            stdin().read_line(&mut line).map(|bytes| (bytes > 0).then_some(line))
        });
        let line = read.await?.context("cannot read commands from standard input")?;
        let command = line.as_deref().map_or("q", |line| line.trim_end_matches(['\n', '\r']));
        let answer = debugger.run(command).await?;
        show(&answer.text)?;
        if !answer.is_open {
            return Ok(());
        }
    }
}

fn show(text: &str) -> Result<()> {
    match text.trim_end_matches('\n') {
        "" => Ok(()),
        text => print::lines(text),
    }
}
