//! `run/cluster.json`: what `cluster start` started, and the lock that says that it still looks
//! after it.

use std::fs::File;
use std::time::SystemTime;

use anyhow::{Result, bail};
use furlong_host::home::ClusterDir;
use furlong_host::private_file::{
    ensure_private_dir, open_own, open_own_if_there, read_private, write_private,
};
use serde::{Deserialize, Serialize};

/// The processes of a supervised cluster.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ClusterState {
    /// The process that looks after the others.
    pub pid: u32,
    /// The broker's.
    pub broker_pid: u32,
    /// The engines'.
    pub engine_pids: Vec<u32>,
    /// The broker, while there is none.
    #[serde(default)]
    pub broker_down: Option<Down>,
    /// The engines that have ended and are started again later.
    #[serde(default)]
    pub engines_down: Vec<Down>,
}

/// A process that has ended, and is started again.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Down {
    /// The number of times in a row that it ended soon.
    pub failures: u32,
    /// The time at which it is started again: milliseconds since 1970.
    pub restart_unix_ms: u64,
    /// The cause, as far as is known.
    pub cause: String,
}

impl ClusterState {
    /// Describes what has ended and is started again, a line each.
    pub fn down(&self) -> Vec<String> {
        let broker = self.broker_down.iter().map(|down| down.describe("the broker"));
        broker.chain(self.engines_down.iter().map(|down| down.describe("an engine"))).collect()
    }
}

impl Down {
    /// Describes it in half a line.
    pub fn describe(&self, what: &str) -> String {
        let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let now_ms = u64::try_from(since.as_millis()).unwrap_or(u64::MAX);
        let seconds = self.restart_unix_ms.saturating_sub(now_ms).div_ceil(1_000);
        let times = if self.failures == 1 {
            "once".to_owned()
        } else {
            format!("{} times in a row", self.failures)
        };
        format!("{what} has ended {times} and is started again in {seconds} s ({})", self.cause)
    }
}

/// Held by the process that looks after a cluster; free when that ends, however it ends.
#[derive(Debug)]
pub struct ClusterLock {
    _file: File,
}

const STATE_BYTES_MAX: u64 = 1024 * 1024;

impl ClusterLock {
    /// Takes the lock.
    ///
    /// # Errors
    /// If the cluster is looked after already.
    pub fn take(dir: &ClusterDir) -> Result<Self> {
        ensure_private_dir(dir.path())?;
        ensure_private_dir(&dir.run())?;
        let file = open_own(&dir.run().join("cluster.lock"))?;
        if file.try_lock().is_err() {
            let pid =
                Self::read(dir).map_or(String::new(), |state| format!(" (process {})", state.pid));
            bail!(
                "cluster {} runs already{pid}; use it, stop it with `furlong cluster stop`, or choose another \
                 --cluster NAME",
                dir.name()
            );
        }
        Ok(Self { _file: file })
    }

    /// Returns true if somebody looks after the cluster.
    pub fn is_held(dir: &ClusterDir) -> bool {
        let file = open_own_if_there(&dir.run().join("cluster.lock"));
        file.is_ok_and(|file| file.try_lock().is_err())
    }

    /// Says what was started.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub fn write(dir: &ClusterDir, state: &ClusterState) -> Result<()> {
        Ok(write_private(&dir.cluster_state(), &serde_json::to_vec_pretty(state)?)?)
    }

    /// Reads what was started last.
    pub fn read(dir: &ClusterDir) -> Option<ClusterState> {
        let text = read_private(&dir.cluster_state(), STATE_BYTES_MAX).ok()?;
        serde_json::from_str(&text).ok()
    }

    /// The cluster has stopped.
    pub fn remove(dir: &ClusterDir) {
        let _ = std::fs::remove_file(dir.cluster_state());
    }
}
