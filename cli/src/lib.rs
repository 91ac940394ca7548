//! The `furlong` command: start a farm, run work on it, look at it, measure it.
//!
//! It is a library so that more than one program can be the command: the binary `furlong`, and the
//! Python package. Each says by a [`Program`] how it is started again.
//!
//! ```no_run
//! use furlong_cli::{ExitCode, Program, run};
//!
//! fn main() -> ExitCode {
//!     run(std::env::args_os().skip(1), &Program::Executable)
//! }
//! ```

mod bench;
mod cancel;
mod cap;
mod cluster;
mod completions;
mod connect;
mod dashboard;
mod debug;
mod demo;
mod ended;
mod engines;
mod execute;
mod exit;
mod explain;
mod gateway;
mod help;
mod history;
mod interrupt;
mod journal;
mod man;
mod map;
mod metrics;
mod namespace;
mod patience;
mod pool;
mod print;
mod profile;
mod program;
mod queue;
mod record;
mod replaced;
mod result;
mod select;
mod selected;
mod stack;
mod status;
mod submit;
mod top;
mod trace;

use std::ffi::OsString;
use std::io::Write as _;

use anyhow::Result;
use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};

pub use crate::exit::ExitCode;
pub use crate::program::Program;

/// A low-latency task farm and interactive parallel computing
#[derive(Parser)]
#[command(
    name = "furlong",
    version,
    after_help = "A first session:\n  \
        furlong cluster start -n 4\n  \
        furlong execute 'print(\"Hello World\")'\n  \
        furlong map examples/wordcount.py:count docs/*.md\n  \
        furlong submit --array 1-100 --wait -- sh -c 'echo $((FURLONG_TASK * FURLONG_TASK))'"
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Show what a farm does: a private one counts words on four engines, and leaves nothing behind
    Demo(demo::DemoArgs),
    /// Start, stop and list clusters on this machine
    #[command(subcommand)]
    Cluster(cluster::ClusterCommand),
    /// Show the pools of engines that batch systems start, and change them
    Pool(pool::PoolArgs),
    /// Run a broker: the controller to which engines and clients connect
    #[command(after_help = "Example: furlong broker --cluster lab --port 7077")]
    Broker(furlong_broker::BrokerArgs),
    /// Run engines: they execute programs, Python and Rust functions
    #[command(after_help = "Example: furlong engine --cap engine.cap.json -n 8")]
    Engine(furlong_engine::EngineArgs),
    /// List the engines that are online
    Ids(status::IdsArgs),
    /// Show broker, engines and queues
    Status(status::StatusArgs),
    /// Watch the farm: kinds of tasks, engines, failures, and what is wrong
    Top(top::TopArgs),
    /// Serve a page that shows the farm in a browser
    Dashboard(dashboard::DashboardArgs),
    /// Serve the farm to plain ZeroMQ programs of any language
    Gateway(gateway::GatewayArgs),
    /// Print what a monitoring system reads of a farm
    Metrics(metrics::MetricsArgs),
    /// Write what ran when and where, for programs that draw it
    #[command(subcommand)]
    Trace(trace::TraceCommand),
    /// Show tasks that have ended, also those that the broker has forgotten
    History(Box<history::HistoryArgs>),
    /// Run Python code on engines, each in its own lasting namespace
    Execute(execute::ExecuteArgs),
    /// Run a Python script on engines, each in its own lasting namespace
    Run(execute::RunArgs),
    /// Set variables in the namespaces of engines
    Push(namespace::PushArgs),
    /// Print variables of the namespaces of engines, as JSON
    Pull(namespace::PullArgs),
    /// List the names in the namespaces of engines
    Keys(namespace::KeysArgs),
    /// Empty the namespaces of engines
    Clear(namespace::ClearArgs),
    /// Call a Python function for each item, wherever an engine is free
    Map(map::MapArgs),
    /// Run a program as a task, or as many: for numbers, for lines, for JSON items
    Submit(Box<submit::SubmitArgs>),
    /// Print output and value of tasks whose results are kept
    Result(result::ResultArgs),
    /// List tasks and where they stand
    Queue(queue::QueueArgs),
    /// Show where a task is, why it waits, and where its time went
    Explain(explain::ExplainArgs),
    /// Show where the code of an engine or a task is now
    Stack(stack::StackArgs),
    /// Show where the code of an engine or a task spends its time
    Profile(profile::ProfileArgs),
    /// Debug a Python task that has failed, in its frames on its engine
    Debug(debug::DebugArgs),
    /// Cancel tasks
    Cancel(cancel::CancelArgs),
    /// Forget kept results
    Purge(cancel::PurgeArgs),
    /// Send a signal to what your tasks run on engines
    Signal(engines::SignalArgs),
    /// Give engines new interpreters
    Restart(engines::RestartArgs),
    /// Stop engines, or the broker with all of them
    Shutdown(engines::ShutdownArgs),
    /// Issue, show, list and revoke capability files
    #[command(subcommand)]
    Cap(cap::CapCommand),
    /// Look at the journal in which a broker keeps durable tasks
    #[command(subcommand)]
    Journal(journal::JournalCommand),
    /// Measure latency, throughput and payloads, and the plain relay that they are compared with
    #[command(subcommand)]
    Bench(bench::BenchCommand),
    /// Print what makes a shell complete commands and flags
    Completions(completions::CompletionsArgs),
    /// Write the manual pages
    Man(man::ManArgs),
}

/// Runs the command with these arguments, those after the program's name, and says how it has
/// ended.
///
/// Errors are printed. Ctrl-C ends the process where nothing has to be put in order first.
pub fn run(args: impl IntoIterator<Item = OsString>, program: &Program) -> ExitCode {
    let ended = parse(args, program).and_then(|command| run_command(command, program));
    let code = ended.unwrap_or_else(|error| told(&error));
    // The standard library does it at the end of a program whose `main` is in Rust, and only there.
    // Who has closed our output does not want to know.
    let _ = std::io::stdout().flush();
    code
}

fn parse(args: impl IntoIterator<Item = OsString>, program: &Program) -> Result<Command> {
    let words = std::iter::once(OsString::from("furlong")).chain(args);
    let command = help::taking_negative_numbers(help::flowing(program.described(Cli::command())));
    let matches = command.try_get_matches_from(words)?;
    Ok(Cli::from_arg_matches(&matches)?.command)
}

/// Prints why a command has ended early, and gives its exit code.
fn told(error: &anyhow::Error) -> ExitCode {
    if let Some(usage) = error.downcast_ref::<clap::Error>() {
        // Help and version too are errors to clap, with exit code 0.
        let _ = usage.print();
        return ExitCode::from(u8::try_from(usage.exit_code()).unwrap_or(2));
    }
    // Who reads our output has had enough: `| head` is no error.
    if error.is::<print::ReaderGone>() {
        return ExitCode::SUCCESS;
    }
    print::note!("furlong: {error:#}");
    ExitCode::FAILURE
}

fn run_command(command: Command, program: &Program) -> Result<ExitCode> {
    match command {
        Command::Broker(args) => furlong_broker::run(&args).map(|()| ExitCode::SUCCESS),
        Command::Engine(args) => {
            furlong_engine::run(program.engine(args)).map(|()| ExitCode::SUCCESS)
        }
        Command::Demo(args) => on_runtime(demo::run(args, program)),
        Command::Cluster(command) => on_runtime(cluster::run(command, program)),
        Command::Pool(args) => on_runtime(pool::run(args, program)),
        Command::Ids(args) => on_runtime(status::ids(args)),
        Command::Status(args) => on_runtime(status::status(args)),
        Command::Top(args) => beside_network(top::run(args)),
        Command::Dashboard(args) => on_runtime(dashboard::run(args)),
        Command::Gateway(args) => on_runtime(gateway::run(args)),
        Command::Metrics(args) => on_runtime(metrics::run(args)),
        Command::Trace(command) => on_runtime(trace::run(command)),
        Command::History(args) => beside_network(history::run(*args)),
        Command::Execute(args) => beside_network(execute::execute(args)),
        Command::Run(args) => beside_network(execute::run(args)),
        Command::Push(args) => beside_network(namespace::push(args)),
        Command::Pull(args) => beside_network(namespace::pull(args)),
        Command::Keys(args) => beside_network(namespace::keys(args)),
        Command::Clear(args) => on_runtime(namespace::clear(args)),
        Command::Map(args) => beside_network(map::run(args)),
        Command::Submit(args) => beside_network(submit::run(*args)),
        Command::Result(args) => beside_network(result::run(args)),
        Command::Queue(args) => beside_network(queue::run(args)),
        Command::Explain(args) => beside_network(explain::run(args)),
        Command::Stack(args) => on_runtime(stack::run(args)),
        Command::Profile(args) => on_runtime(profile::run(args)),
        Command::Debug(args) => beside_network(debug::run(args)),
        Command::Cancel(args) => on_runtime(cancel::cancel(args)),
        Command::Purge(args) => on_runtime(cancel::purge(args)),
        Command::Signal(args) => on_runtime(engines::signal(args)),
        Command::Restart(args) => on_runtime(engines::restart(args)),
        Command::Shutdown(args) => on_runtime(engines::shutdown(args)),
        Command::Cap(command) => cap::run(command),
        Command::Journal(command) => journal::run(command),
        Command::Bench(command) => on_runtime(bench::run(command, program)),
        Command::Completions(args) => completions::run(&args, Cli::command()),
        Command::Man(args) => man::run(&args, program.described(Cli::command())),
    }
}

/// Returns a usage error as clap words it, for what clap cannot see by itself.
fn usage_error(text: &str) -> anyhow::Error {
    Cli::command().error(clap::error::ErrorKind::ArgumentConflict, text).into()
}

/// Runs a command on a runtime of one thread: nothing is handed from thread to thread on the way of
/// a task.
fn on_runtime(command: impl Future<Output = Result<ExitCode>>) -> Result<ExitCode> {
    finish(tokio::runtime::Builder::new_current_thread().enable_all().build()?, command)
}

/// Runs a command on this thread, and its connection on another: a slow reader of what the command
/// prints blocks this thread alone, and the broker, which leaves out output for a client that does
/// not read, notices nothing.
fn beside_network(command: impl Future<Output = Result<ExitCode>>) -> Result<ExitCode> {
    finish(
        tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?,
        command,
    )
}

fn finish(
    runtime: tokio::runtime::Runtime,
    command: impl Future<Output = Result<ExitCode>>,
) -> Result<ExitCode> {
    let outcome = runtime.block_on(command);
    runtime.shutdown_background();
    outcome
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Those whose subcommands, or whose programs, are described elsewhere.
    const GROUPS: &[&str] =
        &["demo", "cluster", "broker", "engine", "trace", "cap", "journal", "bench"];

    #[test]
    fn every_command_says_what_it_does_its_exit_codes_and_an_example() {
        Cli::command().debug_assert();
        for command in Cli::command().get_subcommands_mut() {
            let name = command.get_name().to_owned();
            let help = command.render_long_help().to_string();
            if !GROUPS.contains(&name.as_str()) {
                assert!(help.contains("Exit codes: "), "{name}:\n{help}");
                assert!(help.contains("Example"), "{name}:\n{help}");
                assert!(help.contains(&format!("furlong {name}")), "{name}:\n{help}");
            }
        }
    }
}
