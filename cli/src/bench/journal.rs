//! The cost of the journal: tasks of a millisecond with and without it, in turn, and submits that
//! wait for the disk.

use std::sync::Arc;
use std::time::Instant;

use anyhow::{Result, ensure};
use furlong_broker::JournalArgs;
use furlong_client::{Arguments, CallSpec, Client, Function, SourceFunction};
use furlong_host::durations::duration;
use futures_util::StreamExt;
use serde_json::json;

use super::private::on_private_cluster_with;
use crate::print;
use crate::program::Program;

/// Flags of `bench journal`.
#[derive(Clone, Debug, clap::Args)]
pub struct JournalBenchArgs {
    /// Tasks of a millisecond on two engines, each time
    #[arg(
        long,
        value_name = "N",
        default_value_t = 20_000,
        value_parser = clap::value_parser!(u64).range(100..)
    )]
    tasks: u64,
    /// Durable no-ops that are submitted at once, with no engine to run them
    #[arg(
        long,
        value_name = "N",
        default_value_t = 200_000,
        value_parser = clap::value_parser!(u64).range(1_000..)
    )]
    submits: u64,
    /// Number of runs of the tasks, with and without the journal in turn
    #[arg(
        long,
        value_name = "N",
        default_value_t = 3,
        value_parser = clap::value_parser!(u64).range(1..=100)
    )]
    rounds: u64,
    /// Print a JSON document
    #[arg(long)]
    json: bool,
}

const MILLISECOND: &str = "import time\n\n\ndef run(item):\n    time.sleep(0.001)\n";

/// Measures and prints.
pub async fn run(args: JournalBenchArgs, program: &Program) -> Result<()> {
    let journal = || -> Result<JournalArgs> {
        let keep = duration("1h").map_err(anyhow::Error::msg)?;
        Ok(JournalArgs {
            journal: Some(furlong_broker::JournalPlace::OfCluster),
            journal_keep: keep,
        })
    };
    let mut ratios = Vec::new();
    let measure = on_private_cluster_with(program, journal()?, 2, None, async |cluster| {
        let client = cluster.client().await?;
        sleep_each(&client, args.tasks / 20, false).await?;
        for _ in 0..args.rounds {
            let without = sleep_each(&client, args.tasks, false).await?;
            let with = sleep_each(&client, args.tasks, true).await?;
            ratios.push((with / without, without, with));
        }
        client.close().await;
        Ok(())
    });
    measure.await?;
    ratios.sort_by(|a, b| a.0.total_cmp(&b.0));
    let (ratio, without_s, with_s) = ratios[ratios.len() / 2];
    let memory = Some((args.submits * 8_192).max(1 << 30));
    let submit_s = on_private_cluster_with(program, journal()?, 0, memory, async |cluster| {
        let client = cluster.client().await?;
        let seconds = submit(&client, args.submits).await?;
        client.close().await;
        Ok(seconds)
    });
    let submits_per_s = args.submits as f64 / submit_s.await?;
    if args.json {
        return print::json(&json!({
            "tasks": args.tasks, "without_s": without_s, "with_s": with_s, "ratio": ratio,
            "ratios": ratios.iter().map(|it| it.0).collect::<Vec<_>>(), "submits": args.submits,
            "submits_per_s": submits_per_s,
        }));
    }
    print::line(format!(
        "{} tasks of 1 ms on two engines: {with_s:.2} s with the journal, {without_s:.2} s without, ratio {ratio:.2}",
        print::grouped(args.tasks)
    ))?;
    print::line(format!("{} durable submits a second", print::grouped(submits_per_s as u64)))
}

/// The seconds in which so many tasks of a millisecond end.
async fn sleep_each(client: &Client, tasks: u64, durable: bool) -> Result<f64> {
    let function = Function::Source(Arc::new(SourceFunction::new("sleep.py", MILLISECOND, "run")));
    let began = Instant::now();
    let items = (0..tasks).map(|task| Arguments::json(vec![task.into()]));
    let map = client.tasks().map(function, items).durable(durable).window(2_000);
    let mut results = map.stream()?;
    let mut ended = 0;
    while let Some((_, result)) = results.next().await {
        result?;
        ended += 1;
    }
    ensure!(ended == tasks, "{ended} tasks of {tasks} have ended");
    Ok(began.elapsed().as_secs_f64())
}

/// The seconds until so many durable no-ops are on disk.
async fn submit(client: &Client, submits: u64) -> Result<f64> {
    let (tasks, call) = (client.tasks(), CallSpec::native("noop").durable(true));
    let began = Instant::now();
    for _ in 0..submits {
        drop(tasks.call(&call).await?);
    }
    client.flush().await?;
    Ok(began.elapsed().as_secs_f64())
}
