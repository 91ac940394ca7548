//! The time until a shared task runs elsewhere when its engine's process is killed.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, bail, ensure};
use furlong_client::{Arguments, CallSpec, EngineTargets, SourceFunction};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;

use super::private::on_private_cluster;
use crate::cluster::LocalCluster;
use crate::print;
use crate::program::Program;

/// Flags of `bench kill`.
#[derive(Clone, Debug, clap::Args)]
pub struct KillArgs {
    /// Number of measurements, each on a new private cluster of two engines
    #[arg(
        long,
        value_name = "N",
        default_value_t = 5,
        value_parser = clap::value_parser!(u64).range(1..=1_000)
    )]
    rounds: u64,
    /// Print a JSON document
    #[arg(long)]
    json: bool,
}

/// Notes when and where it begins. The first time it stays until it is killed.
const FUNCTION: &str = r#"
import os
import time


def run(path):
    with open(path, "a") as file:
        first = file.tell() == 0
        file.write(f"{time.time()} {os.getppid()}\n")
    if first:
        time.sleep(3600)
"#;
/// The time limit for the task's start, and for its second one.
const TIMEOUT: Duration = Duration::from_secs(30);

/// Measures and prints.
pub async fn run(args: KillArgs, program: &Program) -> Result<()> {
    let mut delays_ms = Vec::new();
    for _ in 0..args.rounds {
        delays_ms.push(
            on_private_cluster(program, 2, None, async |cluster| measure(cluster).await).await?,
        );
    }
    delays_ms.sort_by(f64::total_cmp);
    let (median, longest) = (delays_ms[delays_ms.len() / 2], delays_ms[delays_ms.len() - 1]);
    if args.json {
        return print::json(&json!({
            "rounds": args.rounds, "delays_ms": delays_ms, "median_ms": median, "max_ms": longest,
        }));
    }
    print::line(format!(
        "an engine process killed, {}: its task ran elsewhere after",
        print::counted(args.rounds, "time")
    ))?;
    print::line(format!("median  {median:.1} ms"))?;
    print::line(format!("longest {longest:.1} ms"))
}

/// Milliseconds from the kill to the second begin.
async fn measure(cluster: &LocalCluster) -> Result<f64> {
    let client = cluster.client().await?;
    // Both interpreters are there: what is measured is the farm's, not the start of one.
    for task in
        client.multiengine(EngineTargets::All).call(&CallSpec::python("builtins:bool")).await?
    {
        task.await?;
    }
    let notes = tempfile::NamedTempFile::with_prefix("furlong-bench-")?;
    let path = notes
        .path()
        .to_str()
        .context("the folder for temporary files has a name that is not UTF-8")?;
    let function = Arc::new(SourceFunction::new("bench_kill.py", FUNCTION, "run"));
    let call = CallSpec::source(function).arguments(Arguments::json(vec![path.into()]));
    let task = client.tasks().call(&call).await?;
    let (_, engine) = begin(notes.path(), 0).await?;
    // The start is reported a little later, and what was not reported is not a loss.
    tokio::time::sleep(Duration::from_millis(50)).await;
    let killed = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs_f64();
    kill_process(engine, Signal::KILL).context("cannot kill the engine")?;
    let ended = tokio::time::timeout(TIMEOUT, task).await;
    ended.context("the task did not run elsewhere within 30 s")??;
    let (again, elsewhere) = begin(notes.path(), 1).await?;
    ensure!(elsewhere != engine, "the task ran twice in the same process");
    client.close().await;
    Ok((again - killed) * 1e3)
}

/// Waits for the task's `place`th start; returns its time and engine process.
async fn begin(notes: &Path, place: usize) -> Result<(f64, Pid)> {
    let deadline = tokio::time::Instant::now() + TIMEOUT;
    while tokio::time::Instant::now() < deadline {
        let text = std::fs::read_to_string(notes)?;
        // A line is whole when its newline is there.
        if let Some(line) =
            text.split_inclusive('\n').nth(place).filter(|line| line.ends_with('\n'))
        {
            let (at, pid) =
                line.trim().split_once(' ').context("a note has a time and a process")?;
            return Ok((
                at.parse()?,
                Pid::from_raw(pid.parse()?).context("a process id is not 0")?,
            ));
        }
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    bail!("the task did not begin within 30 s")
}
