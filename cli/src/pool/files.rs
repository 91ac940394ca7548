//! The files of a cluster's pools: what is wanted, what is known, and what is about to be done.
//!
//! ```text
//! NAME/pools/POOL/pool.json     what was asked for
//! NAME/pools/POOL/state.json    the jobs as the keeper knows them
//! NAME/pools/POOL/intent.json   a submit that is being made
//! NAME/pools/POOL/script.sh     its script, locked while a command reads it
//! NAME/pools/POOL/resume        is there when somebody has asked to go on
//! NAME/pools/POOL/JOB.log       the output of a job
//! NAME/run/systems.json         the systems that have had jobs
//! ```

use std::fs::File;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use furlong_host::home::{ClusterDir, load_capability};
use furlong_host::private_file::{
    ensure_private_dir, read_private, write_private, write_private_soon,
};
use furlong_pool::keeper::{JobId, Saved, Submission};
use furlong_pool::spec::{PoolName, PoolSpec};
use furlong_pool::system;
use furlong_wire::token::Role;
use serde::{Deserialize, Serialize};

use super::command::Scheduler;

/// The most bytes of a pool's file.
const FILE_BYTES_MAX: u64 = 16 * 1024 * 1024;
/// Logs of jobs that are kept.
const LOGS_MAX: usize = 100;

/// The folder of a pool.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PoolDir {
    path: PathBuf,
    name: PoolName,
}

/// The state of a pool, as its keeper has last written it.
#[derive(Clone, PartialEq, Eq, Default, Debug, Serialize, Deserialize)]
pub struct PoolState {
    /// The name of its jobs.
    pub job_name: String,
    /// The engines that it is to have now.
    pub target: u32,
    /// Its engines that are online.
    pub online: u32,
    /// Its state in a few words: `ok`, or why it has fewer engines than wanted.
    pub said: String,
    /// The engines of each job that are online.
    pub engines: std::collections::BTreeMap<JobId, u32>,
    /// The jobs.
    pub saved: Saved,
}

/// The state as it is on the disk: it is written when it has changed.
#[derive(Debug, Default)]
pub struct WrittenState {
    state: PoolState,
    /// True if the last attempt to write has failed.
    has_failed: bool,
}

impl WrittenState {
    /// Writes a state, unless it is there already. False if it cannot be written: that is tried
    /// again with the next one, and said once.
    pub fn update(&mut self, dir: &PoolDir, state: PoolState) -> bool {
        if state == self.state {
            return true;
        }
        if let Err(error) = dir.write_state(&state) {
            if !std::mem::replace(&mut self.has_failed, true) {
                tracing::warn!("pool {}: {error:#}", dir.name());
            }
            return false;
        }
        *self = Self { state, has_failed: false };
        true
    }
}

/// The folder of a cluster's pools.
pub fn folder(cluster: &ClusterDir) -> PathBuf {
    cluster.path().join("pools")
}

/// A system on which a cluster has had jobs.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct UsedSystem {
    /// Its name.
    pub system: String,
    /// The words before its commands.
    pub via: Vec<String>,
    /// Arguments of all of them.
    #[serde(default)]
    pub place: Vec<String>,
}

impl UsedSystem {
    /// The system of a pool.
    pub fn of(spec: &PoolSpec) -> Self {
        let is_of_pods = system::by_name(&spec.system).is_some_and(|system| system.is_of_pods);
        let place = if is_of_pods { spec.job.args.clone() } else { Vec::new() };
        Self { system: spec.system.clone(), via: spec.job.via.clone(), place }
    }

    /// Its commands, if there is such a system.
    pub fn scheduler(self) -> Option<Scheduler> {
        Some(Scheduler::new(system::by_name(&self.system)?, self.via, self.place))
    }
}

/// The systems on which a cluster has had jobs since it was last stopped, also when the files of
/// its pools are gone.
pub fn used_systems(cluster: &ClusterDir) -> Vec<UsedSystem> {
    let text = read_private(&used_systems_path(cluster), FILE_BYTES_MAX);
    text.ok().and_then(|text| serde_json::from_str(&text).ok()).unwrap_or_default()
}

/// Writes down that a pool is about to have jobs on its system.
///
/// # Errors
/// The file cannot be written.
pub fn note_used_system(cluster: &ClusterDir, spec: &PoolSpec) -> Result<()> {
    let used = UsedSystem::of(spec);
    let mut all = used_systems(cluster);
    if all.contains(&used) {
        return Ok(());
    }
    all.push(used);
    ensure_private_dir(cluster.path())?;
    ensure_private_dir(&cluster.run())?;
    Ok(write_private(&used_systems_path(cluster), &serde_json::to_vec(&all)?)?)
}

/// Nothing of the cluster is left on any system.
pub fn forget_used_systems(cluster: &ClusterDir) {
    let _ = std::fs::remove_file(used_systems_path(cluster));
}

fn used_systems_path(cluster: &ClusterDir) -> PathBuf {
    cluster.run().join("systems.json")
}

/// The pools of a cluster, in the order of their names.
pub fn pools(cluster: &ClusterDir) -> Vec<PoolDir> {
    let entries = folder(cluster).read_dir().into_iter().flatten().flatten();
    let names = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    let mut names: Vec<PoolName> = names.collect();
    names.sort();
    names.into_iter().map(|name| PoolDir::of(cluster, name)).filter(PoolDir::is_there).collect()
}

/// The pool of this name.
///
/// # Errors
/// There is none; the message names those that there are.
pub fn pool(cluster: &ClusterDir, name: &PoolName) -> Result<PoolDir> {
    let dir = PoolDir::of(cluster, name.clone());
    if dir.is_there() {
        return Ok(dir);
    }
    let names: Vec<String> = pools(cluster).iter().map(|pool| pool.name.to_string()).collect();
    if names.is_empty() {
        bail!("cluster {} has no pools; `furlong pool add` makes one", cluster.name());
    }
    bail!("cluster {} has no pool {name}; it has {}", cluster.name(), names.join(", "));
}

/// The beginning of the names of a cluster's jobs: two clusters of one name have other ids.
///
/// # Errors
/// The cluster has no capability files.
pub fn job_prefix(cluster: &ClusterDir) -> Result<String> {
    let capability = load_capability(&cluster.capability(Role::Engine))?;
    let id = capability.cluster_id();
    let id = id.to_string();
    Ok(format!("furlong-{}-{}-", cluster.name(), &id[..8]))
}

impl PoolDir {
    /// The folder of this pool, which need not exist.
    pub fn of(cluster: &ClusterDir, name: PoolName) -> Self {
        Self { path: folder(cluster).join(name.as_str()), name }
    }

    /// The pool's name.
    pub fn name(&self) -> &PoolName {
        &self.name
    }

    /// The folder itself.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Returns true if there is such a pool. A folder without what is wanted has only logs.
    pub fn is_there(&self) -> bool {
        self.at("pool.json").is_file()
    }

    /// Reads what is wanted.
    ///
    /// # Errors
    /// The file is not there, or not good.
    pub fn spec(&self) -> Result<PoolSpec> {
        let text = read_private(&self.at("pool.json"), FILE_BYTES_MAX)?;
        let spec = serde_json::from_str(&text);
        spec.with_context(|| format!("{} is not a pool's", self.at("pool.json").display()))
    }

    /// Writes what is wanted.
    ///
    /// # Errors
    /// The folder cannot be written to.
    pub fn write_spec(&self, spec: &PoolSpec) -> Result<()> {
        if let Some(pools) = self.path.parent() {
            pools.parent().map(ensure_private_dir).transpose()?;
            ensure_private_dir(pools)?;
        }
        ensure_private_dir(&self.path)?;
        Ok(write_private(&self.at("pool.json"), &serde_json::to_vec_pretty(spec)?)?)
    }

    /// Reads the last state.
    pub fn state(&self) -> Option<PoolState> {
        let text = read_private(&self.at("state.json"), FILE_BYTES_MAX).ok()?;
        serde_json::from_str(&text).ok()
    }

    /// Writes the state.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn write_state(&self, state: &PoolState) -> Result<()> {
        Ok(write_private_soon(&self.at("state.json"), &serde_json::to_vec(state)?)?)
    }

    /// Reads the submit that was being made when the keeper ended, if one was.
    pub fn intent(&self) -> Option<Submission> {
        let text = read_private(&self.at("intent.json"), FILE_BYTES_MAX).ok()?;
        serde_json::from_str(&text).ok()
    }

    /// Writes down that a submit is made, with its script, and opens this for the command. The lock
    /// on it lasts as long as anybody has it open: this process, or the command alone.
    ///
    /// # Errors
    /// A file cannot be written, or a command of before still reads its own.
    pub fn begin_submit(&self, script: &str, submission: Submission) -> Result<File> {
        if !self.is_submit_over() {
            bail!("an earlier submit has not ended");
        }
        let path = self.at("script.sh");
        write_private(&path, script.as_bytes())?;
        let file = File::open(&path).with_context(|| format!("cannot read {}", path.display()))?;
        file.try_lock().context("a file that was just made is not locked")?;
        write_private(&self.at("intent.json"), &serde_json::to_vec(&submission)?)?;
        Ok(file)
    }

    /// The submit that was being made has ended, and what became of it is known.
    pub fn end_submit(&self) {
        let _ = std::fs::remove_file(self.at("intent.json"));
    }

    /// Returns true if no command reads the script: also one that has outlived its keeper is over.
    pub fn is_submit_over(&self) -> bool {
        match File::open(self.at("script.sh")) {
            Ok(file) => file.try_lock().is_ok(),
            Err(_) => true,
        }
    }

    /// Asks the keeper to go on with a paused pool.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn ask_to_resume(&self) -> Result<()> {
        Ok(write_private_soon(&self.at("resume"), b"")?)
    }

    /// Returns true, once, if somebody has asked for that.
    pub fn take_resume(&self) -> bool {
        std::fs::remove_file(self.at("resume")).is_ok()
    }

    /// The log of a job.
    pub fn log(&self, job: &JobId) -> PathBuf {
        self.at(&format!("{job}.log"))
    }

    /// Keeps what a job has written that writes no log itself.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn write_log(&self, job: &JobId, text: &str) -> Result<()> {
        Ok(write_private_soon(&self.log(job), text.as_bytes())?)
    }

    /// The last line that a job has written.
    pub fn last_line(&self, job: &JobId) -> Option<String> {
        let bytes = std::fs::read(self.log(job)).ok()?;
        let tail = &bytes[bytes.len().saturating_sub(4_096)..];
        let text = String::from_utf8_lossy(tail).into_owned();
        let line = text.lines().rev().map(str::trim).find(|line| !line.is_empty())?;
        Some(line.trim_start_matches("furlong: ").trim_start_matches("engine: ").to_owned())
    }

    /// Removes all logs but the newest.
    pub fn remove_old_logs(&self) {
        let entries = self.path.read_dir().into_iter().flatten().flatten();
        let logs = entries.filter(|entry| entry.path().extension().is_some_and(|it| it == "log"));
        let mut logs: Vec<_> =
            logs.filter_map(|it| Some((it.metadata().ok()?.modified().ok()?, it.path()))).collect();
        logs.sort();
        let old = logs.len().saturating_sub(LOGS_MAX);
        for (_, path) in &logs[..old] {
            let _ = std::fs::remove_file(path);
        }
    }

    /// The pool is over: its logs alone stay.
    pub fn forget(&self) {
        for name in ["pool.json", "state.json", "intent.json", "script.sh", "resume"] {
            let _ = std::fs::remove_file(self.at(name));
        }
    }

    fn at(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }
}
