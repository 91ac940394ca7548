//! `furlong stack`: where an interpreter is now.

use std::str::FromStr;

use anyhow::{Result, ensure};
use furlong_client::{Client, EngineId, Inspectable, Inspected};

use crate::connect::ConnectArgs;
use crate::exit::ExitCode;
use crate::interrupt;
use crate::print;
use crate::select::Selector;
use crate::selected::{ASKING, records};

const AFTER_HELP: &str = "\
It prints the threads of the engine's Python interpreter, the call that was made last first. The interpreter is
not stopped, and its code goes on where it was. One that is in a call of C that holds Python's lock shows where
that was called.

A bare number is an engine. Frames show code: you see tasks of your own, and with an `admin` capability those of
all, without the lines of their source.

Exit codes: 0 printed; 1 nothing of yours runs there, or an error; 2 wrong usage.

Examples:
  furlong stack 3
  furlong stack k3f9a2:17
  furlong stack 3 --json | jq '.threads[0].frames[0]'";

/// Flags of `stack`.
#[derive(Debug, clap::Args)]
#[command(after_long_help = AFTER_HELP, after_help = "`--help` says more, with examples.")]
pub struct StackArgs {
    /// The engine, as `3`, or the running task, as `k3f9a2:17` or `last:17`
    #[arg(value_name = "ENGINE|TASK")]
    of: Target,
    /// Print a JSON document
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    connect: ConnectArgs,
}

/// An interpreter, as people name it.
#[derive(Clone, Debug)]
pub enum Target {
    /// That of an engine.
    Engine(EngineId),
    /// The one that runs a task.
    Task(Selector),
}

impl FromStr for Target {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.parse() {
            Ok(id) => Ok(Self::Engine(EngineId(id))),
            Err(_) => text.parse().map(Self::Task).map_err(|_| {
                "name an engine, as `3`, or a task, as `k3f9a2:17` or `last:17`".to_owned()
            }),
        }
    }
}

impl Target {
    /// The interpreter, for the broker.
    pub async fn find(&self, client: &Client) -> Result<Inspectable> {
        let selector = match self {
            Self::Engine(id) => return Ok(Inspectable::Engine(*id)),
            Self::Task(selector) => selector,
        };
        let found = records(client, selector, None, Some(false)).await?;
        ensure!(
            found.len() == 1,
            "`{selector}` names {} tasks that have not ended: name one",
            found.len()
        );
        Ok(Inspectable::Task(found[0].id))
    }
}

/// Prints where the interpreter is.
pub async fn run(args: StackArgs) -> Result<ExitCode> {
    let client = args.connect.connect(ASKING).await?;
    let work = async {
        let stack = client.stack(args.of.find(&client).await?).await?;
        if args.json {
            print::json(&stack.to_json())?;
        } else {
            print::line(heading(&stack))?;
            lines(&stack).into_iter().try_for_each(print::line)?;
        }
        Ok(ExitCode::SUCCESS)
    };
    interrupt::or_leave(&client, work).await
}

/// The engine, and the task that it runs.
pub fn heading(stack: &Inspected) -> String {
    let task = stack.task.map_or("no task".to_owned(), |task| format!("task {task}"));
    let in_c = if stack.seen.in_c { ", in a call of C that holds Python's lock" } else { "" };
    format!("engine {}: {task}{in_c}", stack.engine)
}

/// The threads, the call that was made last first.
pub fn lines(stack: &Inspected) -> Vec<String> {
    let mut lines = Vec::new();
    for thread in &stack.seen.threads {
        lines.push(thread.name.clone());
        if thread.frames.is_empty() {
            lines.push(
                "  (no code of a task: it waits for one, or loads or stores for it)".to_owned(),
            );
        }
        for (file, line, name, source) in &thread.frames {
            if file.is_empty() {
                lines.push(format!("  {name}"));
                continue;
            }
            lines.push(format!("  {file}:{line} in {name}"));
            if !source.is_empty() {
                lines.push(format!("    {source}"));
            }
        }
    }
    if stack.seen.left_out > 0 {
        let threads = print::counted(stack.seen.left_out, "other thread");
        lines.push(format!("({threads} not shown)"));
    }
    lines
}
