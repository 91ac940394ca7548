//! The common parts of measurements on a private cluster: the cluster, and what the system knows of
//! its processes.

use anyhow::{Context, Result};
use furlong_broker::JournalArgs;
use furlong_client::ClusterName;

use crate::cluster::{LocalCluster, LocalOptions};
use crate::program::Program;

/// Measures on a cluster of its own, which is stopped afterwards however that ends. `memory` is the
/// broker's.
pub async fn on_private_cluster<T>(
    program: &Program,
    engines: u32,
    memory: Option<u64>,
    measure: impl AsyncFnOnce(&LocalCluster) -> Result<T>,
) -> Result<T> {
    on_private_cluster_with(program, JournalArgs::default(), engines, memory, measure).await
}

/// The same with a journal.
pub async fn on_private_cluster_with<T>(
    program: &Program,
    journal: JournalArgs,
    engines: u32,
    memory: Option<u64>,
    measure: impl AsyncFnOnce(&LocalCluster) -> Result<T>,
) -> Result<T> {
    let home = tempfile::Builder::new().prefix("furlong-bench-").tempdir()?;
    let options = LocalOptions {
        program: program.clone(),
        home: home.path().join("home"),
        cluster: ClusterName::default(),
        engines,
        port: None,
        python: None,
        journal,
        engine_flags: Vec::new(),
        broker_memory: memory,
        has_pools: false,
        is_open: false,
    };
    let mut cluster = LocalCluster::new(options);
    let measured = match cluster.start().await {
        Ok(()) => measure(&cluster).await,
        Err(error) => Err(error),
    };
    cluster.stop().await;
    measured
}

/// A process's resident memory: now, and at its highest.
pub fn resident_bytes(pid: u32) -> Result<(u64, u64)> {
    let path = format!("/proc/{pid}/status");
    let status = std::fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
    let field = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        let kib = line.and_then(|line| line.trim().trim_end_matches(" kB").parse::<u64>().ok());
        kib.map(|kib| kib * 1024).with_context(|| format!("{path} has no `{name}`"))
    };
    Ok((field("VmRSS:")?, field("VmHWM:")?))
}

/// The processor time of a process's first thread, which is the only one that works in a broker, in
/// nanoseconds.
pub fn processor_ns(pid: u32) -> Result<u64> {
    let path = format!("/proc/{pid}/schedstat");
    let text = std::fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
    let first = text.split_whitespace().next().and_then(|number| number.parse().ok());
    first.with_context(|| format!("{path} has no processor time"))
}

/// A percentile of sorted figures.
pub fn percentile(sorted: &[u64], percent: usize) -> u64 {
    sorted.get(sorted.len().saturating_sub(1) * percent / 100).copied().unwrap_or(0)
}
