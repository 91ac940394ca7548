//! `furlong bench`: what a farm costs, and the plain relay that it is compared with.

mod command;
pub mod farm;
mod journal;
mod kill;
mod large;
mod private;
mod queue;
mod relay;

use std::net::SocketAddr;

use anyhow::Result;
use clap::Subcommand;
use furlong_wire::message::Runtime;
use serde_json::json;

use crate::connect::ConnectArgs;
use crate::exit::ExitCode;
use crate::print;
use crate::program::Program;
use relay::{RelayOptions, RelayRole, Threads};

/// The available measurements.
#[derive(Debug, Subcommand)]
pub enum BenchCommand {
    /// Round trips of a no-op, one after the other
    #[command(after_help = "Example: furlong bench latency --local 2 --count 10000 --json")]
    Latency(FarmArgs),
    /// No-ops through the shared queue, many at once
    #[command(
        after_help = "Example: furlong bench throughput --local 2 --count 200000 --window 1000"
    )]
    Throughput(FarmArgs),
    /// Payloads there and back, one after the other
    #[command(after_help = "Example: furlong bench payload --local 1 --size 1048576 --count 100")]
    Payload(FarmArgs),
    /// Programs that do nothing, on a private cluster, beside a bare loop that starts and awaits
    /// them
    #[command(after_help = "Example: furlong bench command --local 2 --count 5000")]
    Command(command::CommandArgs),
    /// One large payload there and back as a direct task: time, the broker's memory, and no-ops
    /// beside it
    #[command(after_help = "Example: furlong bench large --size 268435456 --json")]
    Large(large::LargeArgs),
    /// Cost of a journal: tasks with and without it, and submits that wait for the disk
    #[command(after_help = "Example: furlong bench journal --rounds 1 --json")]
    Journal(journal::JournalBenchArgs),
    /// A long queue: the broker's memory for each task, and what one more costs
    #[command(after_help = "Example: furlong bench queue --count 1000000 --json")]
    Queue(queue::QueueArgs),
    /// Kills an engine process that runs a shared task: how soon that runs elsewhere
    #[command(after_help = "Example: furlong bench kill --rounds 5 --json")]
    Kill(kill::KillArgs),
    /// The same messages through a plain TCP relay of three processes, without a farm: the baseline
    #[command(after_help = "Example: furlong bench relay --size 96 --count 200000 --window 1000")]
    Relay(RelayArgs),
    /// One process of the relay
    #[command(hide = true)]
    RelayNode {
        #[arg(long)]
        role: RelayRole,
        #[arg(long)]
        threads: Threads,
        #[arg(long)]
        connect: Option<SocketAddr>,
    },
}

/// Flags of what is measured on a farm.
#[derive(Clone, Debug, clap::Args)]
pub struct FarmArgs {
    /// Bytes of each task's argument; 0 for a no-op without any
    #[arg(long, value_name = "BYTES")]
    size: Option<usize>,
    /// Tasks that are measured
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=100_000_000))]
    count: Option<u64>,
    /// Tasks under way at once
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    window: Option<u64>,
    /// Runtime of the tasks: native or python
    #[arg(long, value_name = "RUNTIME", default_value = "native", value_parser = runtime)]
    runtime: Runtime,
    /// Measure on a private cluster of so many engines, started for it and stopped afterwards
    #[arg(long, value_name = "ENGINES", value_parser = clap::value_parser!(u32).range(1..=256))]
    local: Option<u32>,
    /// Print a JSON document
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    connect: ConnectArgs,
}

/// Flags of `bench relay`.
#[derive(Clone, Debug, clap::Args)]
pub struct RelayArgs {
    /// Bytes of each message: by default those of a no-op task's on the wire
    #[arg(long, value_name = "BYTES", default_value_t = 96)]
    size: usize,
    /// Round trips that are measured
    #[arg(long, value_name = "N", default_value_t = 10_000)]
    count: usize,
    /// Messages under way at once; 1 measures latency
    #[arg(long, value_name = "N", default_value_t = 1)]
    window: usize,
    /// Threads of each process: tokio's default, or one, which is a harder baseline
    #[arg(long, value_name = "THREADS", default_value = "cores")]
    threads: Threads,
    /// Print a JSON document
    #[arg(long)]
    json: bool,
}

/// The results of the measurement.
#[derive(Clone, PartialEq, Debug)]
pub struct Figures {
    /// The subject of the measurement: `native`, `python` or `relay`.
    pub runtime: String,
    /// Round trips.
    pub count: u64,
    /// Bytes of each argument.
    pub size: u64,
    /// Tasks under way at once.
    pub window: u64,
    /// Median and 99th percentile of a round trip, in microseconds.
    pub p50_us: f64,
    /// See `p50_us`.
    pub p99_us: f64,
    /// Round trips a second.
    pub per_s: f64,
    /// Argument bytes a second, counted there and back.
    pub bytes_per_s: f64,
}

/// Runs a `bench` command.
pub async fn run(command: BenchCommand, program: &Program) -> Result<ExitCode> {
    match command {
        BenchCommand::RelayNode { role, threads, connect } => {
            relay::run_relay_node(role, threads, connect).await?;
        }
        BenchCommand::Command(args) => command::run(args, program).await?,
        BenchCommand::Large(args) => large::run(args, program).await?,
        BenchCommand::Journal(args) => journal::run(args, program).await?,
        BenchCommand::Queue(args) => queue::run(args, program).await?,
        BenchCommand::Kill(args) => kill::run(args, program).await?,
        BenchCommand::Relay(args) => {
            let RelayArgs { size, count, window, threads, json } = args;
            let options = RelayOptions { size, count, window, threads };
            print(json, &of_relay(&relay::measure(&options, program).await?))?;
        }
        BenchCommand::Latency(args) => {
            print(args.json, &farm::measure(&args, farm::Kind::Latency, program).await?)?;
        }
        BenchCommand::Throughput(args) => {
            print(args.json, &farm::measure(&args, farm::Kind::Throughput, program).await?)?;
        }
        BenchCommand::Payload(args) => {
            print(args.json, &farm::measure(&args, farm::Kind::Payload, program).await?)?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn print(json: bool, figures: &Figures) -> Result<()> {
    if json { print::json(&as_json(figures)) } else { print_figures(figures) }
}

fn of_relay(figures: &relay::RelayFigures) -> Figures {
    Figures {
        runtime: "relay".to_owned(),
        count: figures.count as u64,
        size: figures.size as u64,
        window: figures.window as u64,
        p50_us: figures.p50_us,
        p99_us: figures.p99_us,
        per_s: figures.per_s,
        bytes_per_s: figures.bytes_per_s,
    }
}

fn as_json(figures: &Figures) -> serde_json::Value {
    json!({
        "runtime": figures.runtime, "count": figures.count, "size": figures.size,
        "window": figures.window, "p50_us": figures.p50_us, "p99_us": figures.p99_us,
        "per_s": figures.per_s, "bytes_per_s": figures.bytes_per_s,
    })
}

fn print_figures(figures: &Figures) -> Result<()> {
    let Figures { runtime, count, size, window, .. } = figures;
    print::line(format!(
        "{runtime}: {} round trips of {} bytes, {window} at once",
        print::grouped(*count),
        print::grouped(*size)
    ))?;
    print::line(format!("p50  {}", print::micros(figures.p50_us)))?;
    print::line(format!("p99  {}", print::micros(figures.p99_us)))?;
    print::line(format!("rate {} a second", print::grouped(figures.per_s as u64)))?;
    if *size > 0 {
        print::line(format!("data {} a second", print::bytes(figures.bytes_per_s as u64)))?;
    }
    Ok(())
}

fn runtime(text: &str) -> Result<Runtime, String> {
    match text {
        "native" => Ok(Runtime::Native),
        "python" => Ok(Runtime::Python),
        _ => Err("the runtime is native or python".to_owned()),
    }
}
