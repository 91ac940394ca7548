//! The measurements on a farm.

use std::collections::VecDeque;
use std::time::Instant;

use anyhow::{Result, ensure};
use bytes::Bytes;
use furlong_broker::JournalArgs;
use furlong_client::{Arguments, CallSpec, Client, Function};
use furlong_wire::message::Runtime;
use furlong_wire::token::Role;
use futures_util::StreamExt;

use super::{FarmArgs, Figures};
use crate::cluster::{LocalCluster, LocalOptions};
use crate::program::Program;

/// The kind of measurement.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// One no-op after the other.
    Latency,
    /// Many at once.
    Throughput,
    /// Payloads there and back.
    Payload,
}

/// The load: what to call, how often, and how many at once.
#[derive(Clone, Copy, Debug)]
pub struct Load {
    /// Its runtime.
    pub runtime: Runtime,
    /// Bytes of the argument, which comes back if there are any.
    pub size: usize,
    /// The number of calls.
    pub count: u64,
    /// The number of calls in flight at once.
    pub window: u64,
}

/// Measures on the cluster of the flags, or on a private one.
pub async fn measure(args: &FarmArgs, kind: Kind, program: &Program) -> Result<Figures> {
    let (size, count, window) = match kind {
        Kind::Latency => (0, 10_000, 1),
        Kind::Throughput => (0, 200_000, 1_000),
        Kind::Payload => (1 << 20, 100, 1),
    };
    let load = Load {
        runtime: args.runtime,
        size: args.size.unwrap_or(size),
        count: args.count.unwrap_or(count),
        window: args.window.unwrap_or(window),
    };
    let Some(engines) = args.local else {
        let client = args.connect.connect(&[Role::Client, Role::Task, Role::Admin]).await?;
        let figures = run(&client, load).await;
        client.close().await;
        return figures;
    };
    let home = tempfile::Builder::new().prefix("furlong-bench-").tempdir()?;
    let options = LocalOptions {
        program: program.clone(),
        home: home.path().join("home"),
        cluster: args.connect.cluster.clone().unwrap_or_default(),
        engines,
        port: None,
        python: None,
        journal: JournalArgs::default(),
        engine_flags: Vec::new(),
        broker_memory: None,
        has_pools: false,
        is_open: false,
    };
    let mut cluster = LocalCluster::new(options);
    let figures = match cluster.start().await {
        Ok(()) => on(&cluster, load).await,
        Err(error) => Err(error),
    };
    cluster.stop().await;
    figures
}

async fn on(cluster: &LocalCluster, load: Load) -> Result<Figures> {
    let client = cluster.client().await?;
    let figures = run(&client, load).await;
    client.close().await;
    figures
}

/// Puts a load on a farm and measures each round trip, after a warm-up.
pub async fn run(client: &Client, load: Load) -> Result<Figures> {
    let call = call(load);
    let warm_up = (load.count / 20).clamp(1, 2_000);
    drive(client, &call, warm_up, load.window).await?;
    let began = Instant::now();
    let mut trips = if load.window > 1 {
        drive_map(client, &call, load.count, load.window).await?
    } else {
        drive(client, &call, load.count, load.window).await?
    };
    let seconds = began.elapsed().as_secs_f64();
    trips.sort_unstable();
    let percentile = |percent: usize| trips[(trips.len() - 1) * percent / 100] as f64 / 1e3;
    Ok(Figures {
        runtime: load.runtime.to_string(),
        count: load.count,
        size: load.size as u64,
        window: load.window,
        p50_us: percentile(50),
        p99_us: percentile(99),
        per_s: load.count as f64 / seconds,
        bytes_per_s: 2.0 * load.count as f64 * load.size as f64 / seconds,
    })
}

/// Keeps `window` tasks under way until `count` have ended. Returns each one's round trip in
/// nanoseconds.
pub(super) async fn drive(
    client: &Client,
    call: &CallSpec,
    count: u64,
    window: u64,
) -> Result<Vec<u64>> {
    let tasks = client.tasks();
    let mut trips = Vec::with_capacity(count as usize);
    let mut under_way = VecDeque::new();
    let mut submitted = 0;
    while (trips.len() as u64) < count {
        while submitted < count && (under_way.len() as u64) < window {
            under_way.push_back((Instant::now(), tasks.call(call).await?));
            submitted += 1;
        }
        let Some((began, task)) = under_way.pop_front() else { break };
        let result = task.await?;
        if let Arguments::Raw(sent) = &call.arguments {
            ensure!(&result.data == sent, "the payload came back changed");
        }
        trips.push(began.elapsed().as_nanos() as u64);
    }
    Ok(trips)
}

/// The same by a map: one function over many arguments, as programs with many small tasks do it. A
/// round trip is then what the broker says, from the submit to the end.
async fn drive_map(client: &Client, call: &CallSpec, count: u64, window: u64) -> Result<Vec<u64>> {
    let arguments = (0..count).map(|_| call.arguments.clone());
    let map = client
        .tasks()
        .map(call.function.clone(), arguments)
        .runtime(call.runtime)
        .window(window as usize);
    let mut results = std::pin::pin!(map.stream()?);
    let mut trips = Vec::with_capacity(count as usize);
    while let Some((_, result)) = results.next().await {
        let result = result?;
        if let Arguments::Raw(sent) = &call.arguments {
            ensure!(&result.data == sent, "the payload came back changed");
        }
        trips.push(result.report.times.finished_us * 1_000);
    }
    Ok(trips)
}

fn call(load: Load) -> CallSpec {
    let arguments = match load.size {
        0 if load.runtime == Runtime::Python => Arguments::json(vec![]),
        0 => Arguments::None,
        size => Arguments::Raw(vec![Bytes::from((0..size).map(|i| i as u8).collect::<Vec<_>>())]),
    };
    let function = match (load.runtime, load.size) {
        (Runtime::Python, 0) => "builtins:bool",
        (Runtime::Python, _) => "builtins:bytes",
        (_, 0) => "noop",
        _ => "echo",
    };
    CallSpec::new(load.runtime, Function::Named(function.to_owned())).arguments(arguments)
}
