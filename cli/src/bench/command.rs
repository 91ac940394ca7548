//! Commands through the farm beside a bare loop that starts the same program and waits for it.

use std::ops::RangeInclusive;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use furlong_broker::JournalArgs;
use furlong_client::{CallSpec, Client, ClusterName, CommandSpec};
use serde_json::json;

use super::farm::drive;
use crate::cluster::{LocalCluster, LocalOptions};
use crate::print;
use crate::program::Program;

/// Flags of `bench command`.
#[derive(Clone, Debug, clap::Args)]
pub struct CommandArgs {
    /// Engines of the private cluster, and threads of the bare loop
    #[arg(
        long,
        value_name = "ENGINES",
        default_value_t = 2,
        value_parser = clap::value_parser!(u32).range(1..=256)
    )]
    local: u32,
    /// Commands that are measured, on either side
    #[arg(
        long,
        value_name = "N",
        default_value_t = 5_000,
        value_parser = clap::value_parser!(u64).range(COUNTS)
    )]
    count: u64,
    /// Tasks under way at once
    #[arg(
        long,
        value_name = "N",
        default_value_t = 100,
        value_parser = clap::value_parser!(u64).range(1..=1_000_000)
    )]
    window: u64,
    /// Print a JSON document
    #[arg(long)]
    json: bool,
}

/// The two sides are measured in turn, so many times: a machine that is busy with other things is
/// so for both.
const ROUNDS: u64 = 5;
/// The counts that can be measured in a lifetime.
const COUNTS: RangeInclusive<u64> = 1..=100_000_000;
/// A program that does nothing.
const PROGRAM: &str = "true";

/// The results of the measurement.
struct Rates {
    /// Commands a second through the farm.
    farm_per_s: f64,
    /// Starts and waits a second without it.
    bare_per_s: f64,
}

/// Measures and prints.
pub async fn run(args: CommandArgs, program: &Program) -> Result<()> {
    let home = tempfile::Builder::new().prefix("furlong-bench-").tempdir()?;
    let options = LocalOptions {
        program: program.clone(),
        home: home.path().join("home"),
        cluster: ClusterName::default(),
        engines: args.local,
        port: None,
        python: None,
        journal: JournalArgs::default(),
        engine_flags: Vec::new(),
        broker_memory: None,
        has_pools: false,
        is_open: false,
    };
    let mut cluster = LocalCluster::new(options);
    let rates = match cluster.start().await {
        Ok(()) => on(&cluster, &args).await,
        Err(error) => Err(error),
    };
    cluster.stop().await;
    print_rates(&args, &rates?)
}

async fn on(cluster: &LocalCluster, args: &CommandArgs) -> Result<Rates> {
    let client = cluster.client().await?;
    let rates = measure(&client, args).await;
    client.close().await;
    rates
}

async fn measure(client: &Client, args: &CommandArgs) -> Result<Rates> {
    let call = CallSpec::command_with(CommandSpec {
        argv: vec![PROGRAM.into()],
        ..CommandSpec::default()
    });
    drive(client, &call, args.count.clamp(1, 200), args.window).await?;
    let (mut farm, mut bare) = (Duration::ZERO, Duration::ZERO);
    for round in 0..ROUNDS {
        let count = share(args.count, ROUNDS, round);
        let began = Instant::now();
        drive(client, &call, count, args.window).await?;
        farm += began.elapsed();
        let threads = u64::from(args.local);
        bare += tokio::task::spawn_blocking(move || bare_loop(count, threads)).await??;
    }
    let per_s = |time: Duration| args.count as f64 / time.as_secs_f64();
    Ok(Rates { farm_per_s: per_s(farm), bare_per_s: per_s(bare) })
}

/// The part of a whole that falls to one of so many.
fn share(whole: u64, parts: u64, part: u64) -> u64 {
    whole / parts + u64::from(part < whole % parts)
}

/// Starts the program and waits for it, in threads that do nothing else. Returns how long they
/// took.
fn bare_loop(count: u64, threads: u64) -> Result<Duration> {
    let began = Instant::now();
    std::thread::scope(|scope| {
        let loops = (0..threads)
            .map(|thread| scope.spawn(move || start_and_wait(share(count, threads, thread))));
        let loops: Vec<_> = loops.collect();
        loops.into_iter().try_for_each(|it| it.join().expect("a loop does not panic"))
    })?;
    Ok(began.elapsed())
}

fn start_and_wait(count: u64) -> Result<()> {
    for _ in 0..count {
        let mut command = Command::new(PROGRAM);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let status = command.status().with_context(|| format!("cannot start `{PROGRAM}`"))?;
        ensure!(status.success(), "`{PROGRAM}` ended with {status}");
    }
    Ok(())
}

fn print_rates(args: &CommandArgs, rates: &Rates) -> Result<()> {
    let Rates { farm_per_s, bare_per_s } = rates;
    let ratio = farm_per_s / bare_per_s;
    let CommandArgs { local, count, window, json } = args;
    if *json {
        return print::json(&json!({
            "program": PROGRAM, "count": count, "engines": local, "window": window,
            "farm_per_s": farm_per_s, "bare_per_s": bare_per_s, "ratio": ratio,
        }));
    }
    print::line(format!(
        "`{PROGRAM}`: {} times on {}, {window} at once",
        print::grouped(*count),
        print::counted(u64::from(*local), "engine")
    ))?;
    print::line(format!("farm  {} a second", print::grouped(*farm_per_s as u64)))?;
    let threads = print::counted(u64::from(*local), "thread");
    print::line(format!(
        "bare  {} a second: started and waited for in {threads}",
        print::grouped(*bare_per_s as u64)
    ))?;
    print::line(format!("ratio {ratio:.2}"))
}
