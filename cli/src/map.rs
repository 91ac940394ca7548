//! `furlong map`: a Python function for each item.

use std::ffi::{OsStr, OsString};
use std::io::BufRead;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::Path;
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context, Result, bail, ensure};
use furlong_client::{Arguments, Client, Function, OsText, SourceFunction, TaskReport};
use furlong_wire::message::{Runtime, Stream as OutputStream};
use furlong_wire::token::Role;
use futures_util::{Stream, StreamExt, stream};
use indicatif::ProgressBar;
use serde_json::value::RawValue;
use tokio::sync::mpsc;

use crate::connect::ConnectArgs;
use crate::exit::ExitCode;
use crate::patience::Patience;
use crate::submit::OptionArgs;
use crate::{ended, interrupt, print};

const AFTER_HELP: &str = "\
Each item is a string, and one task. Results are JSON, one document a line, in the order of the items; what JSON cannot
say is given as text, with a warning. A file's function
is sent with its source, so an edited file is used at once; a module's is imported by the engines.

What a function prints goes to standard error, under `[item N] Out:` or `Err:`, with N from 0. An item that fails prints
its error there, and the others go on. Ctrl-C cancels what has not ended.

Exit codes: 0 all items succeeded; 1 some failed, or an error; 2 wrong usage; 3 all succeeded, but a part of what they
printed is missing, as a line in it says; 130 Ctrl-C.

Examples:
  furlong map examples/wordcount.py:count docs/*.md
  ls *.json | furlong map --unordered --time-limit 1m check.py:check -";

/// Flags of `map`.
#[derive(Debug, clap::Args)]
#[command(after_long_help = AFTER_HELP, after_help = "`--help` says more, with examples.")]
pub struct MapArgs {
    /// `FILE.py:FUNCTION`, whose source is sent, or `MODULE:FUNCTION`, which the engines import
    #[arg(value_name = "FILE:FUNC", value_parser = function_name)]
    function: (String, String),
    /// Items; a single `-` reads them from standard input, one a line
    #[arg(value_name = "ITEM", required = true)]
    items: Vec<OsString>,
    /// Print results as they come, not in the order of the items
    #[arg(long)]
    unordered: bool,
    /// Tasks that are under way at once, at most
    #[arg(
        long,
        value_name = "N",
        default_value_t = 1000,
        value_parser = clap::value_parser!(u32).range(1..=1_000_000)
    )]
    window: u32,
    #[command(flatten)]
    options: OptionArgs,
    /// No progress bar
    #[arg(long)]
    no_progress: bool,
    #[command(flatten)]
    connect: ConnectArgs,
}

/// Calls the function for each item, and prints the results.
pub async fn run(args: MapArgs) -> Result<ExitCode> {
    let function = function(&args.function.0, &args.function.1)?;
    let total = (args.items != ["-"]).then_some(args.items.len() as u64);
    let input = Input::default();
    let items = items(args.items, &input);
    let client = args.connect.connect(&[Role::Client, Role::Task, Role::Admin]).await?;
    let work = async {
        let map = client
            .tasks()
            .map_stream(
                function,
                items.map(|item| {
                    Arguments::JsonText(format!("[[{}],{{}}]", json_string(&item)).into())
                }),
            )
            .runtime(Runtime::Python)
            .window(args.window as usize)
            .ordered(!args.unordered)
            .options(args.options.resolve(&client).await?);
        let results = map.stream()?;
        let progress = print::progress(total, !args.no_progress);
        let (failed, incomplete) = print_results(&client, results, &progress).await?;
        progress.finish_and_clear();
        input.check()?;
        if failed > 0 {
            print::note!("furlong: {} failed", print::counted(failed, "item"));
        }
        Ok(ended::exit_code_of_all(failed, incomplete))
    };
    interrupt::or_cancel(&client, work).await
}

/// Prints results as they come; says why if none does. How many items failed, and of how many
/// output is left out.
async fn print_results(
    client: &Client,
    results: impl Stream<
        Item = (usize, Result<furlong_client::TaskResult, furlong_client::TaskFailure>),
    >,
    progress: &ProgressBar,
) -> Result<(u64, u64)> {
    let mut results = pin!(results);
    let (mut failed, mut incomplete) = (0, 0);
    let mut patience = Patience::default();
    loop {
        let next = tokio::select! {
            next = results.next() => next,
            why = patience.why_nothing_comes(client) => {
                progress.suspend(|| print::note!("furlong: waiting: {why}"));
                continue;
            }
        };
        let Some((index, result)) = next else { return Ok((failed, incomplete)) };
        patience.reset();
        progress.suspend(|| print_output(index, ended::report(&result)));
        incomplete += u64::from(ended::left_out_bytes(&result) > 0);
        match result {
            Ok(result) => {
                let value: Box<RawValue> = result.json().context("the result is no JSON")?;
                progress.suspend(|| print::json_line(&value))?;
            }
            Err(failure) => {
                failed += 1;
                // A traceback of one line says only what the line before it has said.
                let traceback =
                    failure.remote().map(|remote| remote.traceback.trim_end()).unwrap_or_default();
                let traceback =
                    if traceback.contains('\n') { format!("\n{traceback}") } else { String::new() };
                progress.suspend(|| print::note!("furlong: item {index}: {failure}{traceback}"));
            }
        }
        progress.inc(1);
    }
}

/// Prints the output of a function to standard error, as standard output is for the results.
fn print_output(index: usize, report: &TaskReport) {
    for (name, output) in [("Out", &report.stdout), ("Err", &report.stderr)] {
        if !output.is_empty() {
            // Who has closed standard error does not want to know.
            let _ = print::headed(
                OutputStream::Stderr,
                &format!("[item {index}] {name}: "),
                &output.bytes(),
            );
        }
    }
}

/// A file's function is sent with its source, so an edited file is used at once; a module's is
/// imported by the engines.
fn function(place: &str, name: &str) -> Result<Function> {
    let extension = Path::new(place).extension();
    let is_file =
        Path::new(place).exists() || extension.is_some_and(|it| it == "py") || place.contains('/');
    if !is_file {
        return Ok(Function::Named(format!("{place}:{name}")));
    }
    let source = std::fs::read(place).with_context(|| format!("cannot read {place}"))?;
    ensure!(!source.trim_ascii().is_empty(), "{place} is empty: it has no function {name}");
    Ok(Function::Source(Arc::new(SourceFunction::new(place, OsText::from_bytes(source), name))))
}

/// Splits `FILE:FUNC`.
fn function_name(text: &str) -> Result<(String, String), String> {
    let parts = text.rsplit_once(':').filter(|(place, name)| !place.is_empty() && !name.is_empty());
    let parts = parts.map(|(place, name)| (place.to_owned(), name.to_owned()));
    parts.ok_or_else(|| "name a function as FILE.py:FUNCTION or MODULE:FUNCTION".to_owned())
}

/// The items as they come: standard input is read by a thread, so that results do not wait for the
/// next line.
fn items(items: Vec<OsString>, input: &Input) -> Pin<Box<dyn Stream<Item = OsString> + Send>> {
    if items != ["-"] {
        return Box::pin(stream::iter(items));
    }
    let (sender, receiver) = mpsc::channel(READ_AHEAD);
    let input = input.clone();
    std::thread::spawn(move || {
        let lines = std::io::stdin().lock().split(b'\n').zip(1..);
        let mut lines = lines.map_while(|(line, number)| input.take(line, number));
        while lines.next().is_some_and(|line| sender.blocking_send(line).is_ok()) {}
    });
    Box::pin(stream::unfold(receiver, async |mut lines| Some((lines.recv().await?, lines))))
}

/// An item as a JSON string. A byte that is not UTF-8 becomes a lone surrogate, as Python has it in
/// `sys.argv`.
fn json_string(item: &OsStr) -> String {
    let mut text = String::from("\"");
    for chunk in item.as_bytes().utf8_chunks() {
        let valid = serde_json::Value::from(chunk.valid()).to_string();
        text.push_str(&valid[1..valid.len() - 1]);
        text.extend(chunk.invalid().iter().map(|byte| format!("\\udc{byte:02x}")));
    }
    text.push('"');
    text
}

/// Lines that are read before they are asked for.
const READ_AHEAD: usize = 1024;

/// The error that ended the standard input, if it did not just end.
#[derive(Clone, Default)]
struct Input(Arc<Mutex<Option<(u64, std::io::Error)>>>);

impl Input {
    /// A line, or none if it could not be read.
    fn take(&self, line: std::io::Result<Vec<u8>>, number: u64) -> Option<OsString> {
        let mut failed = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut line = line.map_err(|error| *failed = Some((number, error))).ok()?;
        line.pop_if(|last| *last == b'\r');
        Some(OsString::from_vec(line))
    }

    fn check(&self) -> Result<()> {
        match self.0.lock().unwrap_or_else(PoisonError::into_inner).take() {
            None => Ok(()),
            Some((number, error)) => {
                bail!("cannot read line {number} of the standard input: {error}")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_item_of_any_bytes_is_a_json_string() {
        assert_eq!(json_string(OsStr::new("a \"b\" é")), r#""a \"b\" é""#);
        assert_eq!(json_string(OsStr::from_bytes(b"caf\xe9.txt")), r#""caf\udce9.txt""#);
    }
}
