//! The end of a cluster's pools: no job of theirs is left, whoever has submitted it and whatever
//! has become of the keeper and the broker. The batch system is asked for jobs by their name.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::Result;
use furlong_client::EngineTargets;
use furlong_host::home::ClusterDir;
use furlong_pool::keeper::{JobId, JobState, Listed};
use furlong_pool::system;
use rustix::process::{Pid, Signal, kill_process};
use tokio::time::Instant;

use super::batch::scheduler;
use super::broker::{connect, picture};
use super::command::Scheduler;
use super::files;
use super::keep::KeeperLock;

/// Engines that were told to leave have this time before their jobs are cancelled.
const LEAVE_TIMEOUT: Duration = Duration::from_secs(10);
/// Cancelled jobs are looked for during this time.
const CANCEL_TIMEOUT: Duration = Duration::from_secs(20);
/// A submit that is under way has this time to end.
const SUBMIT_TIMEOUT: Duration = Duration::from_secs(35);
/// The time between two looks.
const LOOK: Duration = Duration::from_millis(500);
/// The time limit of all of it, for who waits for another process that does it.
pub const STOP_TIMEOUT: Duration = Duration::from_secs(90);

/// What became of the jobs of a cluster.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Stopped {
    /// Jobs that there were.
    pub jobs: BTreeSet<JobId>,
    /// Those that are left, in spite of all.
    pub left: BTreeSet<JobId>,
    /// The reasons for which a system could not be asked.
    pub unknown: Vec<String>,
}

impl Stopped {
    /// The lines to print.
    pub fn lines(&self) -> Vec<String> {
        let mut lines = self.unknown.clone();
        let words = |ids: &BTreeSet<JobId>| {
            ids.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ")
        };
        if !self.left.is_empty() {
            let left = words(&self.left);
            lines.push(format!("jobs that do not end: {left}; cancel them by hand"));
        } else if !self.jobs.is_empty() && self.unknown.is_empty() {
            let (count, jobs) = (self.jobs.len(), words(&self.jobs));
            let ended = if count == 1 {
                "1 job has ended".to_owned()
            } else {
                format!("{count} jobs have ended")
            };
            lines.push(format!("{ended}, nothing is left: {jobs}"));
        }
        lines
    }
}

/// Returns true if a cluster has pools.
pub fn has_pools(cluster: &ClusterDir) -> bool {
    !files::pools(cluster).is_empty()
}

/// Ends the jobs of a cluster, of all its pools.
///
/// # Errors
/// The keeper cannot be stopped.
pub async fn stop_pools(cluster: &ClusterDir) -> Result<Stopped> {
    stop_jobs(cluster, schedulers(cluster)).await
}

/// Ends the jobs of a cluster on these systems.
///
/// # Errors
/// The keeper cannot be stopped.
pub async fn stop_jobs(cluster: &ClusterDir, schedulers: Vec<Scheduler>) -> Result<Stopped> {
    stop_keeper(cluster).await?;
    let mut stopped = Stopped::default();
    let Ok(prefix) = files::job_prefix(cluster) else { return Ok(stopped) };
    let deadline = Instant::now() + SUBMIT_TIMEOUT;
    let is_over = || files::pools(cluster).iter().all(files::PoolDir::is_submit_over);
    while !is_over() && Instant::now() < deadline {
        tokio::time::sleep(LOOK).await;
    }
    let mut live: Vec<(Scheduler, Vec<Listed>)> = Vec::new();
    for scheduler in schedulers {
        match scheduler.list_prefixed(&prefix).await {
            Ok(listed) => live.push((scheduler, listed)),
            Err(why) => stopped.unknown.push(why),
        }
    }
    stopped.jobs =
        live.iter().flat_map(|(_, jobs)| jobs.iter().map(|job| job.id.clone())).collect();
    for (scheduler, jobs) in &live {
        cancel(scheduler, jobs.iter().filter(|job| job.state == JobState::Pending)).await;
    }
    tell_engines(cluster).await;
    let deadline = Instant::now() + LEAVE_TIMEOUT;
    let schedulers: Vec<Scheduler> = live.into_iter().map(|(scheduler, _)| scheduler).collect();
    for scheduler in &schedulers {
        let left = wait(scheduler, &prefix, deadline).await.unwrap_or_default();
        cancel(scheduler, left.iter()).await;
        match wait(scheduler, &prefix, Instant::now() + CANCEL_TIMEOUT).await {
            Ok(left) => stopped.left.extend(left.into_iter().map(|job| job.id)),
            Err(why) => stopped.unknown.push(why),
        }
    }
    if stopped.left.is_empty() && stopped.unknown.is_empty() {
        files::pools(cluster).iter().for_each(files::PoolDir::forget);
    }
    Ok(stopped)
}

/// The systems that may have jobs of this cluster: those of its pools; without any, those whose
/// commands are here.
pub fn schedulers(cluster: &ClusterDir) -> Vec<Scheduler> {
    let specs = files::pools(cluster).into_iter().filter_map(|dir| dir.spec().ok());
    let mut schedulers: Vec<Scheduler> = Vec::new();
    for found in specs.filter_map(|spec| scheduler(&spec).ok()) {
        let is_known =
            |it: &Scheduler| (it.system.name, &it.via) == (found.system.name, &found.via);
        if !schedulers.iter().any(is_known) {
            schedulers.push(found);
        }
    }
    if schedulers.is_empty() && files::pools(cluster).is_empty() {
        let is_here = |name: &str| {
            let path = std::env::var_os("PATH").unwrap_or_default();
            std::env::split_paths(&path).any(|folder| folder.join(name).is_file())
        };
        let here = system::all().filter(|system| is_here(system.list_own[0]));
        schedulers.extend(here.map(|system| Scheduler::new(system, Vec::new())));
    }
    schedulers
}

async fn stop_keeper(cluster: &ClusterDir) -> Result<()> {
    let deadline = Instant::now() + SUBMIT_TIMEOUT;
    let mut told = None;
    while let Some(pid) = KeeperLock::holder(cluster) {
        let pid = Pid::from_raw(pid.cast_signed());
        if let Some(pid) = pid.filter(|pid| told != Some(*pid)) {
            // One that has ended meanwhile is what is wanted.
            let _ = kill_process(pid, Signal::TERM);
            told = Some(pid);
        }
        anyhow::ensure!(Instant::now() < deadline, "the keeper of the pools does not end");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    Ok(())
}

/// Has the broker tell the pools' engines to leave, if it is there.
async fn tell_engines(cluster: &ClusterDir) {
    let Ok(client) = connect(cluster).await else { return };
    if let Ok(status) = client.status().await {
        let ids: Vec<_> = picture(&status, 0).ids.into_values().flatten().collect();
        if !ids.is_empty()
            && let Err(error) = client.shutdown(EngineTargets::Ids(ids), false).await
        {
            tracing::warn!("engines cannot be told to leave: {error}");
        }
    }
    client.close().await;
}

/// Waits until no job is left, or the time is over: those that are left.
///
/// # Errors
/// The last question had no answer.
async fn wait(
    scheduler: &Scheduler,
    prefix: &str,
    deadline: Instant,
) -> Result<Vec<Listed>, String> {
    loop {
        let listed = scheduler.list_prefixed(prefix).await;
        let is_over = |job: &Listed| matches!(job.state, JobState::Ended(_));
        let live = listed.map(|mut jobs| {
            jobs.retain(|job| !is_over(job));
            jobs
        });
        if live.as_ref().is_ok_and(Vec::is_empty) || Instant::now() >= deadline {
            return live;
        }
        tokio::time::sleep(LOOK).await;
    }
}

async fn cancel(scheduler: &Scheduler, jobs: impl Iterator<Item = &Listed>) {
    let ids: Vec<JobId> = jobs.map(|job| job.id.clone()).collect();
    if !ids.is_empty()
        && let Err(error) = scheduler.cancel(&ids).await
    {
        tracing::warn!("jobs are not cancelled: {error}");
    }
}
