//! `furlong execute` and `furlong run`: Python code on engines.

mod live;
mod shown;

use std::collections::BTreeSet;
use std::io::{IsTerminal, Read};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use furlong_client::{CallSpec, Client, EngineTargets, OsText};

use crate::exit::ExitCode;
use crate::namespace::{DIRECT, DirectArgs};
use crate::{debug, ended, interrupt, print};
use furlong_host::durations::limit;

const AFTER_HELP: &str = "\
Each engine runs the code in its namespace, which lasts until its interpreter ends. `[i] Out[n]:` heads what engine i
printed and then the value of the last expression, where n counts the executions on that engine; `[i] Err[n]:` heads
standard error and the traceback, on standard error; `[i] Display[n]:` names what has more to show than text.

On a terminal, what a single engine prints is shown while it runs, if that takes longer than a moment: then under
`[i] In [*]:`, as the number is known at the end only. Ctrl-C interrupts the code, and waits until it has stopped; a
second Ctrl-C ends by force what does not respond to that, and the variables of its interpreter are lost.

Exit codes: 0 it succeeded on all engines; 1 it failed on some, or an error; on a single engine the code that it gave to
`sys.exit`; 2 wrong usage; 3 it succeeded, but a part of what it printed was not kept, as the text or left_out_bytes says:
1 MiB is kept of each end; 130 Ctrl-C.";

const EXECUTE_EXAMPLES: &str = "\
Examples:
  furlong execute 'print(\"Hello World\")'
  furlong execute --targets 0,2 'import os; os.getpid()'
  furlong execute --timeout 10m --json - < steps.py | jq -r .value";

const RUN_EXAMPLES: &str = "\
Examples:
  furlong run setup.py
  furlong run --targets 0 --timeout 1h train.py";

/// Flags of `execute`.
#[derive(Debug, clap::Args)]
#[command(
    after_long_help = format!("{AFTER_HELP}\n\n{EXECUTE_EXAMPLES}"),
    after_help = "`--help` says more, with examples."
)]
pub struct ExecuteArgs {
    /// The code; `-` reads it from standard input
    code: String,
    #[command(flatten)]
    how: HowArgs,
}

/// Flags of `run`.
#[derive(Debug, clap::Args)]
#[command(
    after_long_help = format!("{AFTER_HELP}\n\n{RUN_EXAMPLES}"),
    after_help = "`--help` says more, with examples."
)]
pub struct RunArgs {
    /// The script, a file on this machine; its text is sent
    #[arg(value_name = "FILE.py")]
    file: PathBuf,
    #[command(flatten)]
    how: HowArgs,
}

/// Options for how code runs, and what is printed of it.
#[derive(Debug, clap::Args)]
struct HowArgs {
    /// Stop the code on an engine where it runs for this long
    #[arg(long, value_name = "TIME", value_parser = limit)]
    timeout: Option<Duration>,
    /// Show what a single engine prints while it runs, also if that is not on a terminal
    #[arg(long, conflicts_with = "json")]
    live: bool,
    /// Print one JSON document for each engine, on a line of its own
    #[arg(long)]
    json: bool,
    /// If it fails, open the debugger of `furlong debug` in its frames: of several engines, those
    /// of the first one that has some
    #[arg(long, conflicts_with = "json")]
    debug: bool,
    #[command(flatten)]
    direct: DirectArgs,
}

/// Runs the code, and prints what each engine printed and the value of its last expression.
pub async fn execute(args: ExecuteArgs) -> Result<ExitCode> {
    let code = if args.code == "-" { read_stdin()? } else { args.code };
    let call = CallSpec::code(&code);
    on_engines(call, &code, &args.how).await
}

/// Runs a script, and prints what each engine printed.
pub async fn run(args: RunArgs) -> Result<ExitCode> {
    let file = args.file.display().to_string();
    let source = std::fs::read(&args.file).with_context(|| format!("cannot read {file}"))?;
    let name = args
        .file
        .file_name()
        .map_or_else(|| file.clone(), |name| Path::new(name).display().to_string());
    on_engines(
        CallSpec::script(name, OsText::from_bytes(source)),
        &format!("run {file}"),
        &args.how,
    )
    .await
}

async fn on_engines(call: CallSpec, code: &str, how: &HowArgs) -> Result<ExitCode> {
    let call = call.abort_on_error(true);
    let call = how.timeout.map_or(call.clone(), |timeout| call.run_timeout(timeout));
    let client = how.direct.connect.connect(DIRECT).await?;
    interrupt::or_cancel(&client, show_all(&client, &call, code, how)).await
}

async fn show_all(client: &Client, call: &CallSpec, code: &str, how: &HowArgs) -> Result<ExitCode> {
    let targets = EngineTargets::from(how.direct.targets.clone());
    let tasks = client.multiengine(targets).call(call).await?;
    let is_live = tasks.len() == 1 && !how.json && (how.live || std::io::stdout().is_terminal());
    let mut code_of_exit = None;
    let is_single = tasks.len() == 1;
    let (mut failed, mut incomplete) = (0, 0);
    let mut refused = BTreeSet::new();
    let mut failures = Vec::new();
    for task in tasks {
        let (end, live) =
            if is_live { live::until_end(task, code).await? } else { (task.await, None) };
        failed += u64::from(end.is_err());
        incomplete += u64::from(ended::left_out_bytes(&end) > 0);
        code_of_exit = end.as_ref().err().filter(|_| is_single).and_then(ended::code_of_exit);
        failures.extend(end.as_ref().err().filter(|_| how.debug).cloned());
        match &end {
            _ if how.json => print::json_line(&shown::as_json(&end))?,
            // The broker did not let it begin: one line, however many engines there are.
            Err(failure) if ended::never_began(failure) => {
                ended::print_direct_failure(failure, &mut refused);
            }
            _ => match live {
                Some(printed) => shown::print_after_live(&end, printed)?,
                None => shown::print(code, &end)?,
            },
        }
    }
    if !failures.is_empty() {
        debug::open_first(client, &failures).await?;
    }
    Ok(code_of_exit.unwrap_or_else(|| ended::exit_code_of_all(failed, incomplete)))
}

fn read_stdin() -> Result<String> {
    let mut code = String::new();
    std::io::stdin()
        .read_to_string(&mut code)
        .context("cannot read the code from standard input")?;
    Ok(code)
}
