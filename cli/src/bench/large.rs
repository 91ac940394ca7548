//! One large payload there and back, and what others notice of it.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use furlong_client::{Arguments, CallSpec, Client, EngineTargets};
use furlong_wire::ids::EngineId;
use serde_json::json;

use super::private::{on_private_cluster, percentile, resident_bytes};
use crate::cluster::LocalCluster;
use crate::print;
use crate::program::Program;

/// Flags of `bench large`.
#[derive(Clone, Debug, clap::Args)]
pub struct LargeArgs {
    /// Bytes of the payload
    #[arg(
        long,
        value_name = "BYTES",
        default_value_t = 256 << 20,
        value_parser = clap::value_parser!(u64).range(1..)
    )]
    size: u64,
    /// Print a JSON document
    #[arg(long)]
    json: bool,
}

/// The broker's memory, in payloads: a peer may send an eighth of it at first.
const MEMORY_IN_PAYLOADS: u64 = 10;
/// No-ops that are measured before the payload goes.
const NOOPS_BEFORE: usize = 500;

/// The results of the measurement.
struct Large {
    seconds: f64,
    broker_before_bytes: u64,
    broker_peak_bytes: u64,
    /// Round trips of the no-ops before and beside, in nanoseconds, sorted.
    before: Vec<u64>,
    beside: Vec<u64>,
}

/// Measures and prints.
pub async fn run(args: LargeArgs, program: &Program) -> Result<()> {
    let memory = Some((args.size * MEMORY_IN_PAYLOADS).max(256 << 20));
    let large =
        on_private_cluster(program, 2, memory, async |cluster| measure(cluster, args.size).await)
            .await?;
    print_large(&args, &large)
}

async fn measure(cluster: &LocalCluster, size: u64) -> Result<Large> {
    let [first, second] = *cluster.engine_ids() else {
        anyhow::bail!("two engines were asked for")
    };
    let broker = cluster.state().broker_pid;
    let client = cluster.client().await?;
    let data = Bytes::from((0..size).map(|i| (i % 251) as u8).collect::<Vec<u8>>());
    let call = CallSpec::native("echo").arguments(Arguments::Raw(vec![data.clone()]));

    let noops = Noops::start(cluster.capability(), second);
    noops.is_under_way().await?;
    let (broker_before_bytes, _) = resident_bytes(broker)?;
    noops.is_beside.store(true, Ordering::Relaxed);
    let began = Instant::now();
    let tasks = client.multiengine(EngineTargets::Ids(vec![first])).call(&call).await?;
    drop(call);
    let task = tasks.into_iter().next().context("one engine, one task")?;
    let result = task.await?;
    let seconds = began.elapsed().as_secs_f64();
    let (before, beside) = noops.stop().await?;
    let (_, broker_peak_bytes) = resident_bytes(broker)?;
    ensure!(result.data == [data], "the payload came back changed");
    client.close().await;
    Ok(Large { seconds, broker_before_bytes, broker_peak_bytes, before, beside })
}

/// No-ops one after the other, from a thread and a session of their own, so that only farm and
/// machine are shared.
struct Noops {
    is_beside: Arc<AtomicBool>,
    ends: Arc<AtomicBool>,
    is_warm: Arc<AtomicBool>,
    thread: std::thread::JoinHandle<Result<(Vec<u64>, Vec<u64>)>>,
}

impl Noops {
    fn start(capability: PathBuf, engine: EngineId) -> Self {
        let [is_beside, ends, is_warm] = std::array::from_fn(|_| Arc::new(AtomicBool::new(false)));
        let flags = (is_beside.clone(), ends.clone(), is_warm.clone());
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(async move {
                let client = Client::builder().capability(capability).connect().await?;
                let engine = client.multiengine(EngineTargets::Ids(vec![engine]));
                let (is_beside, ends, is_warm) = flags;
                let (mut before, mut beside) = (Vec::new(), Vec::new());
                while !ends.load(Ordering::Relaxed) {
                    let trips =
                        if is_beside.load(Ordering::Relaxed) { &mut beside } else { &mut before };
                    let began = Instant::now();
                    for task in engine.call(&CallSpec::native("noop")).await? {
                        task.await?;
                    }
                    trips.push(began.elapsed().as_nanos() as u64);
                    is_warm.store(before.len() >= NOOPS_BEFORE, Ordering::Relaxed);
                }
                client.close().await;
                before.sort_unstable();
                beside.sort_unstable();
                Ok((before, beside))
            })
        });
        Self { is_beside, ends, is_warm, thread }
    }

    async fn is_under_way(&self) -> Result<()> {
        while !self.is_warm.load(Ordering::Relaxed) {
            ensure!(!self.thread.is_finished(), "the no-ops ended before the payload went");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        Ok(())
    }

    async fn stop(self) -> Result<(Vec<u64>, Vec<u64>)> {
        self.ends.store(true, Ordering::Relaxed);
        tokio::task::spawn_blocking(|| self.thread.join().expect("the no-ops do not panic")).await?
    }
}

fn print_large(args: &LargeArgs, large: &Large) -> Result<()> {
    let Large { seconds, broker_before_bytes, broker_peak_bytes, before, beside } = large;
    let peak_ratio = *broker_peak_bytes as f64 / args.size as f64;
    let us = |sorted: &[u64], percent| percentile(sorted, percent) as f64 / 1e3;
    if args.json {
        return print::json(&json!({
            "size": args.size, "seconds": seconds, "broker_before_bytes": broker_before_bytes,
            "broker_peak_bytes": broker_peak_bytes, "peak_ratio": peak_ratio,
            "noops_beside": beside.len(),
            "noop_p50_us": us(beside, 50), "noop_max_us": us(beside, 100),
            "noop_before_p50_us": us(before, 50), "noop_before_max_us": us(before, 100),
        }));
    }
    print::line(format!(
        "{} there and back in {seconds:.2} s, unchanged",
        print::bytes(args.size)
    ))?;
    let (peak, rest) = (print::bytes(*broker_peak_bytes), print::bytes(*broker_before_bytes));
    print::line(format!(
        "broker  {peak} at its peak, {peak_ratio:.2} of the payload; {rest} before"
    ))?;
    for (what, trips) in [("before", before), ("beside", beside)] {
        let (p50, max) = (print::micros(us(trips, 50)), print::micros(us(trips, 100)));
        print::line(format!(
            "no-ops {what}: {} one by one, median {p50}, longest {max}",
            trips.len()
        ))?;
    }
    Ok(())
}
