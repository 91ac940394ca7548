//! The `furlong` command: start a farm, run work on it, look at it, measure it.

mod bench;
mod cap;
mod cluster;
mod connect;
mod demo;
mod execute;
mod map;
mod print;
mod status;

use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};

/// A low-latency task farm and interactive parallel computing
#[derive(Parser)]
#[command(
    name = "furlong",
    version,
    after_help = "A first session:\n  furlong cluster start -n 4\n  furlong execute 'print(\"Hello World\")'\n  \
                  furlong map examples/wordcount.py:count docs/*.md"
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
    /// Run a broker: the controller to which engines and clients connect
    #[command(after_help = "Example: furlong broker --cluster lab --port 7077")]
    Broker(furlong_broker::BrokerArgs),
    /// Run engines: they execute Python and Rust functions
    #[command(after_help = "Example: furlong engine --cap engine.cap.json -n 8")]
    Engine(furlong_engine::EngineArgs),
    /// List the engines that are online
    Ids(status::IdsArgs),
    /// Show broker, engines and queues
    Status(status::StatusArgs),
    /// Run Python code on engines, each in its own lasting namespace
    Execute(execute::ExecuteArgs),
    /// Call a Python function for each item, wherever an engine is free
    Map(map::MapArgs),
    /// Issue, show, list and revoke capability files
    #[command(subcommand)]
    Cap(cap::CapCommand),
    /// Measure latency, throughput and payloads, and the plain relay that they are compared with
    #[command(subcommand)]
    Bench(bench::BenchCommand),
}

/// A task is a handful of small allocations in each program on its way: with the system's allocator they were a sixth
/// of its processor time.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    match run(Cli::parse().command) {
        Ok(code) => code,
        // Who reads our output has had enough: `| head` is no error.
        Err(error) if print::is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("furlong: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command) -> Result<ExitCode> {
    match command {
        Command::Broker(args) => furlong_broker::run(&args).map(|()| ExitCode::SUCCESS),
        Command::Engine(args) => furlong_engine::run(args).map(|()| ExitCode::SUCCESS),
        Command::Demo(args) => on_runtime(demo::run(args)),
        Command::Cluster(command) => on_runtime(cluster::run(command)),
        Command::Ids(args) => on_runtime(status::ids(args)),
        Command::Status(args) => on_runtime(status::status(args)),
        Command::Execute(args) => on_runtime(execute::run(args)),
        Command::Map(args) => on_runtime(map::run(args)),
        Command::Cap(command) => cap::run(command),
        Command::Bench(command) => on_runtime(bench::run(command)),
    }
}

/// Runs a command on a runtime of one thread: nothing is handed from thread to thread on the way of a task.
fn on_runtime(command: impl Future<Output = Result<ExitCode>>) -> Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let outcome = runtime.block_on(command);
    runtime.shutdown_background();
    outcome
}
