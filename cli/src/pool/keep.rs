//! The process that keeps the pools of a cluster: one for all of them, in which each has its
//! keeper. Its death harms nothing: the next one goes on from the files, the batch system and the
//! broker.

use std::collections::BTreeMap;
use std::fs::{File, TryLockError};
use std::pin::pin;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use furlong_broker::BrokerLock;
use furlong_host::home::ClusterDir;
use furlong_host::log::{self, Format, Level};
use furlong_host::machine_name;
use furlong_host::private_file::{
    ensure_private_dir, open_own, open_own_if_there, read_private, write_private,
};
use furlong_pool::spec::PoolName;
use rustix::process::Pid;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, MissedTickBehavior};

use super::batch::{Answer, BatchPool};
use super::broker::{Picture, watch_broker};
use super::files;
use super::hosts::HostsPool;

/// The time between two looks at everything.
const TICK: Duration = Duration::from_millis(250);
/// The time between two looks for pools that are new, or wanted otherwise.
const RELOAD: Duration = Duration::from_secs(1);
/// A submit that is under way when the keeper is told to stop is waited for.
const SUBMIT_TIMEOUT: Duration = Duration::from_secs(35);
/// Answers that wait to be taken.
const ANSWERS_MAX: usize = 64;

/// Held by the keeper of a cluster's pools; free when that ends, however it ends.
#[derive(Debug)]
pub struct KeeperLock {
    _file: File,
}

/// The process that keeps the pools of a cluster.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct KeeperProcess {
    /// The machine on which it runs, and its id there; none for a moment, while it begins.
    place: Option<(String, u32)>,
}

impl KeeperProcess {
    /// Its id, if it runs on this machine and has written it down.
    ///
    /// # Errors
    /// It runs on another machine, whose processes cannot be told anything from here.
    pub fn local(&self) -> Result<Option<Pid>> {
        let Some((host, pid)) = &self.place else { return Ok(None) };
        if *host != machine_name() {
            bail!("the pools are kept by process {pid} on {host}; run this command there");
        }
        Ok(Pid::from_raw(pid.cast_signed()))
    }
}

impl KeeperLock {
    fn take(cluster: &ClusterDir) -> Result<Self> {
        ensure_private_dir(&cluster.run())?;
        let file = open_own(&cluster.run().join("keeper.lock"))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                bail!("the pools of cluster {} are kept already", cluster.name())
            }
            Err(TryLockError::Error(error)) => {
                let path = cluster.run().join("keeper.lock");
                bail!("{} cannot be locked: {error}", path.display());
            }
        }
        let place = format!("{} {}", std::process::id(), machine_name());
        write_private(&cluster.run().join("keeper.pid"), place.as_bytes())?;
        Ok(Self { _file: file })
    }

    /// The process that keeps the pools of a cluster, if one does.
    pub fn holder(cluster: &ClusterDir) -> Option<KeeperProcess> {
        let file = open_own_if_there(&cluster.run().join("keeper.lock")).ok()?;
        let is_held = matches!(file.try_lock(), Err(TryLockError::WouldBlock));
        is_held.then(|| {
            let text = read_private(&cluster.run().join("keeper.pid"), 512).unwrap_or_default();
            let place = text.trim().split_once(' ');
            let place = place.and_then(|(pid, host)| Some((host.to_owned(), pid.parse().ok()?)));
            KeeperProcess { place }
        })
    }
}

/// A pool of one of the two kinds.
#[derive(Debug)]
enum Kept {
    Batch(Box<BatchPool>, mpsc::Receiver<Answer>),
    Hosts(Box<HostsPool>),
}

/// Keeps the pools of a cluster until told to stop. Gives true if that was the end of its broker.
///
/// # Errors
/// They are kept already, or the cluster's files cannot be read.
pub async fn keep(cluster: &ClusterDir, with_stdin: bool) -> Result<bool> {
    ensure_private_dir(&cluster.log())?;
    let path = cluster.log().join("keeper.log");
    log::start(Some(&path), None, Level::INFO, Format::Text)
        .with_context(|| format!("cannot write the log {}", path.display()))?;
    let _lock = KeeperLock::take(cluster).inspect_err(|error| tracing::error!("{error:#}"))?;
    let (sender, pictures) = watch::channel(Picture::default());
    let (leave, leaving) = mpsc::channel(64);
    tokio::spawn(watch_broker(cluster.clone(), sender, leaving));
    let mut keeping = Keeping { cluster: cluster.clone(), pools: BTreeMap::new() };
    let mut stop = pin!(furlong_host::stop::requested(with_stdin));
    let mut tick = tokio::time::interval(TICK);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut reload_at = Instant::now();
    tracing::info!("the pools of cluster {} are kept", cluster.name());
    let reason = loop {
        tokio::select! {
            _ = tick.tick() => {}
            reason = &mut stop => break Some(reason.to_string()),
        }
        if Instant::now() >= reload_at {
            reload_at = Instant::now() + RELOAD;
            keeping.reload();
            if is_over(cluster) {
                break None;
            }
        }
        let picture = pictures.borrow().clone();
        for ids in keeping.go_on(&picture).await {
            // A full queue is told again later.
            let _ = leave.try_send(ids);
        }
    };
    let is_over = reason.is_none();
    let reason = reason.as_deref().unwrap_or("its broker was told to stop");
    tracing::info!("the pools of cluster {} are no longer kept: {reason}", cluster.name());
    keeping.stop().await;
    Ok(is_over)
}

/// Returns true if the broker was told to stop, and no other has begun.
fn is_over(cluster: &ClusterDir) -> bool {
    let state = furlong_broker::read_state(cluster);
    state.is_some_and(|state| state.stopped) && !BrokerLock::is_held(cluster)
}

/// The pools of a cluster.
#[derive(Debug)]
struct Keeping {
    cluster: ClusterDir,
    pools: BTreeMap<PoolName, Kept>,
}

impl Keeping {
    /// Opens new pools, and tells the others what is wanted.
    fn reload(&mut self) {
        for dir in files::pools(&self.cluster) {
            let spec = match dir.spec() {
                Ok(spec) => spec,
                Err(error) => {
                    tracing::warn!("{error:#}");
                    continue;
                }
            };
            match self.pools.get_mut(dir.name()) {
                Some(Kept::Batch(pool, _)) => {
                    if *pool.spec() != spec {
                        pool.set_spec(spec);
                    }
                }
                Some(Kept::Hosts(pool)) => pool.set_spec(spec),
                None => match self.open(&dir, &spec.system) {
                    Ok(kept) => drop(self.pools.insert(dir.name().clone(), kept)),
                    Err(error) => tracing::warn!("pool {}: {error:#}", dir.name()),
                },
            }
        }
    }

    fn open(&self, dir: &files::PoolDir, system: &str) -> Result<Kept> {
        if HostsPool::is_system(system) {
            return Ok(Kept::Hosts(Box::new(HostsPool::open(dir.clone())?)));
        }
        let prefix = files::job_prefix(&self.cluster)?;
        let (sender, answers) = mpsc::channel(ANSWERS_MAX);
        let pool = BatchPool::open(dir.clone(), &prefix, sender)?;
        Ok(Kept::Batch(Box::new(pool), answers))
    }

    /// Goes on with each pool. Gives the engines that are to leave.
    async fn go_on(&mut self, picture: &Picture) -> Vec<Vec<furlong_client::EngineId>> {
        let (mut leaving, mut over) = (Vec::new(), Vec::new());
        for (name, kept) in &mut self.pools {
            let is_over = match kept {
                Kept::Batch(pool, answers) => {
                    while let Ok(answer) = answers.try_recv() {
                        pool.handle_answer(answer);
                    }
                    leaving.push(pool.go_on(picture));
                    pool.is_over()
                }
                Kept::Hosts(pool) => {
                    pool.go_on(picture).await;
                    pool.is_over()
                }
            };
            if is_over {
                over.push(name.clone());
            }
        }
        for name in over {
            self.pools.remove(&name);
            files::PoolDir::of(&self.cluster, name.clone()).forget();
            tracing::info!("pool {name} is removed");
        }
        leaving.retain(|ids| !ids.is_empty());
        leaving
    }

    /// Waits for commands that make jobs, so that these are known; and stops what it has started
    /// itself.
    async fn stop(&mut self) {
        for kept in self.pools.values_mut() {
            match kept {
                Kept::Batch(pool, answers) => {
                    let deadline = Instant::now() + SUBMIT_TIMEOUT;
                    while pool.submits() {
                        let answer = tokio::time::timeout_at(deadline, answers.recv()).await;
                        let Ok(Some(answer)) = answer else { break };
                        pool.handle_answer(answer);
                    }
                    pool.save();
                }
                Kept::Hosts(pool) => pool.stop().await,
            }
        }
    }
}
