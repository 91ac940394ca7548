//! A long queue: what a waiting task costs the broker in memory, and one more in time.

use anyhow::Result;
use furlong_client::{CallSpec, Client};
use serde_json::json;

use super::private::{on_private_cluster, processor_ns, resident_bytes};
use crate::print;
use crate::program::Program;

/// Flags of `bench queue`.
#[derive(Clone, Debug, clap::Args)]
pub struct QueueArgs {
    /// No-ops that wait
    #[arg(long, value_name = "N", default_value_t = 1_000_000, value_parser = count())]
    count: u64,
    /// Print a JSON document
    #[arg(long)]
    json: bool,
}

fn count() -> impl clap::builder::TypedValueParser<Value = u64> {
    clap::value_parser!(u64).range(2_000..=10_000_000)
}

/// The short queue that the long one is compared with.
const SHORT: u64 = 1_000;
/// The number of measurements of the cost of more tasks, and the number of those tasks.
const ROUNDS: usize = 21;
const MORE: usize = 1_000;
/// The broker's memory for each task: its budget counts an inline payload each way, five sixteenths
/// of it are for tasks, and one session has half of them.
const MEMORY_BYTES_PER_TASK: u64 = 20_480;

/// The results of the measurement.
struct Queue {
    bytes_each: f64,
    /// The broker's processor time for one more task that is then cancelled, in microseconds.
    short_us: f64,
    long_us: f64,
}

/// Measures and prints.
pub async fn run(args: QueueArgs, program: &Program) -> Result<()> {
    let memory = Some((args.count * MEMORY_BYTES_PER_TASK).max(256 << 20));
    let queue = on_private_cluster(program, 0, memory, async |cluster| {
        let client = cluster.client().await?;
        let queue = measure(&client, cluster.state().broker_pid, args.count).await;
        client.close().await;
        queue
    });
    print_queue(&args, &queue.await?)
}

/// Without engines, everything waits.
async fn measure(client: &Client, broker: u32, count: u64) -> Result<Queue> {
    fill(client, SHORT).await?;
    let short_us = cost_of_more(client, broker).await?;
    let (before, _) = resident_bytes(broker)?;
    fill(client, count - SHORT).await?;
    let (after, _) = resident_bytes(broker)?;
    let long_us = cost_of_more(client, broker).await?;
    Ok(Queue {
        bytes_each: after.saturating_sub(before) as f64 / (count - SHORT) as f64,
        short_us,
        long_us,
    })
}

async fn fill(client: &Client, count: u64) -> Result<()> {
    let (tasks, call) = (client.tasks(), CallSpec::native("noop"));
    for _ in 0..count {
        drop(tasks.call(&call).await?);
    }
    // Its answer comes after everything before it was taken.
    client.status().await?;
    Ok(())
}

/// The median over the rounds of what one more task costs that waits, is cancelled and is reported.
async fn cost_of_more(client: &Client, broker: u32) -> Result<f64> {
    let (tasks, call) = (client.tasks(), CallSpec::native("noop"));
    let mut costs = Vec::with_capacity(ROUNDS);
    for _ in 0..ROUNDS {
        let began = processor_ns(broker)?;
        let mut under_way = Vec::with_capacity(MORE);
        for _ in 0..MORE {
            under_way.push(tasks.call(&call).await?);
        }
        under_way.iter().for_each(furlong_client::TaskFuture::cancel);
        for task in under_way {
            // It ends as cancelled, which is an error to whoever wanted its value.
            drop(task.await);
        }
        client.status().await?;
        costs.push(processor_ns(broker)? - began);
    }
    costs.sort_unstable();
    Ok(costs[ROUNDS / 2] as f64 / MORE as f64 / 1e3)
}

fn print_queue(args: &QueueArgs, queue: &Queue) -> Result<()> {
    let Queue { bytes_each, short_us, long_us } = queue;
    let ratio = long_us / short_us;
    if args.json {
        return print::json(&json!({
            "count": args.count, "bytes_each": bytes_each, "short": SHORT,
            "one_more_short_us": short_us, "one_more_us": long_us, "ratio": ratio,
        }));
    }
    print::line(format!(
        "{} no-ops in the queue: {bytes_each:.0} bytes each in the broker",
        print::grouped(args.count)
    ))?;
    let (short, long) = (print::micros(*short_us), print::micros(*long_us));
    print::line(format!(
        "one more, submitted and cancelled: {long} of the broker's time, {short} beside {SHORT}"
    ))?;
    print::line(format!("ratio {ratio:.2}"))
}
