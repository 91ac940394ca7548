//! `furlong execute`: Python code on engines.

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::process::ExitCode;

use anyhow::{Context, Result};
use furlong_client::{EngineTargets, ErrorKind, TaskFailure, TaskResult};
use furlong_wire::call::ReplyHeader;
use furlong_wire::token::Role;
use serde_json::json;

use crate::connect::{ConnectArgs, TargetsArg, targets};
use crate::print;

/// Flags of `execute`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example: furlong execute --targets 0,2 'import os; os.getpid()'")]
pub struct ExecuteArgs {
    /// The code; `-` reads it from standard input
    code: String,
    /// Which engines: `all`, `3`, `0,2` or `1-3`
    #[arg(short, long, value_name = "ENGINES", default_value = "all", value_parser = targets)]
    targets: TargetsArg,
    /// Print one JSON document for each engine, on a line of its own
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    connect: ConnectArgs,
}

/// Runs the code, and prints what each engine printed and the value of its last expression.
pub async fn run(args: ExecuteArgs) -> Result<ExitCode> {
    let code = if args.code == "-" { read_stdin()? } else { args.code };
    let targets = match args.targets {
        TargetsArg::All => EngineTargets::All,
        TargetsArg::Ids(ids) => EngineTargets::Ids(ids),
    };
    let client = args.connect.connect(&[Role::Client, Role::Multiengine, Role::Admin]).await?;
    let futures = client.multiengine(targets).execute(&code).await?;
    let mut failed = false;
    let mut refused = BTreeSet::new();
    for future in futures {
        let result = future.await;
        failed |= result.is_err();
        match &result {
            _ if args.json => print::line(as_json(&result).to_string())?,
            // The broker did not let it begin: one line, however many engines there are.
            Err(failure) if never_began(failure) => {
                let text = failure.error.to_string();
                if !refused.contains(&text) {
                    eprintln!("furlong: {text}");
                    refused.insert(text);
                }
            }
            _ => print_result(&code, &result)?,
        }
    }
    client.close().await;
    Ok(if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

fn never_began(failure: &TaskFailure) -> bool {
    let kinds = [ErrorKind::Forbidden, ErrorKind::UnknownEngine, ErrorKind::Unsupported, ErrorKind::Busy];
    failure.kind().is_some_and(|kind| kinds.contains(&kind))
}

fn read_stdin() -> Result<String> {
    let mut code = String::new();
    std::io::stdin().read_to_string(&mut code).context("cannot read the code from standard input")?;
    Ok(code)
}

/// What is shown of an execution, whether it failed or not.
struct Shown {
    engine: String,
    count: Option<u64>,
    stdout: String,
    stderr: String,
    value: Option<String>,
    error: Option<String>,
}

impl Shown {
    fn of(result: &Result<TaskResult, TaskFailure>) -> Self {
        let report = match result {
            Ok(result) => &result.report,
            Err(failure) => &failure.report,
        };
        let (count, value, error) = match result {
            Ok(result) => match &result.header {
                ReplyHeader::Executed { count, repr, .. } => (Some(*count), repr.clone(), None),
                _ => (None, None, None),
            },
            Err(failure) => match failure.remote() {
                Some(remote) if remote.traceback.is_empty() => (remote.execution, None, Some(remote.to_string())),
                Some(remote) => (remote.execution, None, Some(remote.traceback.clone())),
                None => (None, None, Some(failure.to_string())),
            },
        };
        Self {
            engine: report.engine.map_or("?".to_owned(), |id| id.to_string()),
            count,
            stdout: report.stdout.text(),
            stderr: report.stderr.text(),
            value,
            error,
        }
    }
}

fn print_result(code: &str, result: &Result<TaskResult, TaskFailure>) -> Result<()> {
    let shown = Shown::of(result);
    let count = shown.count.map_or("?".to_owned(), |count| count.to_string());
    let engine = &shown.engine;
    print::line(format!("[{engine}] In [{count}]: {}", code.trim_end_matches('\n')))?;
    let mut out = shown.stdout.clone();
    if let Some(value) = &shown.value {
        separate(&mut out);
        out.push_str(value);
    }
    if !out.is_empty() {
        print::line(format!("[{engine}] Out[{count}]: {}", out.trim_end_matches('\n')))?;
    }
    let mut errors = shown.stderr.clone();
    if let Some(error) = &shown.error {
        separate(&mut errors);
        errors.push_str(error);
    }
    if !errors.is_empty() {
        std::io::stdout().flush()?;
        eprintln!("[{engine}] Err[{count}]: {}", errors.trim_end_matches('\n'));
    }
    Ok(())
}

/// What follows begins on a line of its own.
fn separate(text: &mut String) {
    if !text.is_empty() && !text.ends_with('\n') {
        text.push('\n');
    }
}

fn as_json(result: &Result<TaskResult, TaskFailure>) -> serde_json::Value {
    let shown = Shown::of(result);
    let report = match result {
        Ok(result) => &result.report,
        Err(failure) => &failure.report,
    };
    json!({
        "engine": report.engine.map(|id| id.0),
        "task": report.id.to_string(),
        "ok": result.is_ok(),
        "count": shown.count,
        "stdout": shown.stdout,
        "stderr": shown.stderr,
        "value": shown.value,
        "error": result.as_ref().err().map(|failure| json!({
            "kind": failure.kind().map_or("disconnected", |kind| kind.as_str()),
            "type": failure.remote().map(|remote| remote.type_name.clone()),
            "message": failure.remote().map_or_else(|| failure.to_string(), |remote| remote.message.clone()),
            "traceback": failure.remote().map(|remote| remote.traceback.clone()),
        })),
        "run_us": report.times.run_us,
    })
}
