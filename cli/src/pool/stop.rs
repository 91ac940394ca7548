//! The end of a cluster's pools: no job of theirs is left, whoever has submitted it and whatever
//! has become of the keeper and the broker. The batch system is asked for jobs by their name, and
//! for those that a pool's state knows, whatever they are called.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::Result;
use furlong_client::EngineTargets;
use furlong_host::home::ClusterDir;
use furlong_pool::keeper::{JobId, JobState, Listed};
use furlong_pool::spec::PoolSpec;
use furlong_pool::system::kubernetes;
use rustix::process::{Signal, kill_process};
use tokio::time::Instant;

use super::batch::words;
use super::broker::{connect, picture};
use super::command::Scheduler;
use super::files::{self, PoolDir, UsedSystem};
use super::keep::KeeperLock;
use super::pods;

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
    stopped.unknown.extend(submits_that_go_on(cluster).await);
    let prefix = match files::job_prefix(cluster) {
        Ok(prefix) => Some(prefix),
        Err(_) if !has_pools(cluster) => return Ok(stopped),
        Err(error) => {
            // The states may know all of their jobs.
            let is_nameless = |pool: &PoolDir| pool.state().is_none_or(|it| it.job_name.is_empty());
            if files::pools(cluster).iter().any(is_nameless) {
                stopped.unknown.push(format!("the name of its jobs is not known: {error:#}"));
            }
            None
        }
    };
    let mut live: Vec<(Scheduler, Ours, Vec<Listed>)> = Vec::new();
    for scheduler in schedulers {
        let ours = Ours::on(cluster, &scheduler, prefix.clone());
        match ours.list(&scheduler).await {
            Ok(listed) => live.push((scheduler, ours, listed)),
            Err(why) => stopped.unknown.push(ours.unknown(&why)),
        }
    }
    stopped.jobs =
        live.iter().flat_map(|(.., jobs)| jobs.iter().map(|job| job.id.clone())).collect();
    for (scheduler, _, jobs) in &live {
        let waiting = jobs.iter().filter(|job| job.state == JobState::Pending);
        note_cancel(scheduler.cancel_waiting(&ids(waiting)).await);
    }
    tell_engines(cluster).await;
    let deadline = Instant::now() + LEAVE_TIMEOUT;
    for (scheduler, ours, _) in &live {
        let left = wait(scheduler, ours, deadline).await.unwrap_or_default();
        note_cancel(scheduler.cancel(&ids(&left)).await);
        match wait(scheduler, ours, Instant::now() + CANCEL_TIMEOUT).await {
            Ok(left) => stopped.left.extend(left.into_iter().map(|job| job.id)),
            Err(why) => stopped.unknown.push(ours.unknown(&why)),
        }
    }
    for (scheduler, ours, _) in &live {
        stopped.unknown.extend(pods::clear(scheduler, &ours.ids_of_cluster()).await.err());
    }
    if stopped.left.is_empty() && stopped.unknown.is_empty() {
        files::pools(cluster).iter().for_each(PoolDir::forget);
        files::forget_used_systems(cluster);
    }
    Ok(stopped)
}

/// Waits for submits that are under way: a sentence for each that does not end.
async fn submits_that_go_on(cluster: &ClusterDir) -> Vec<String> {
    let deadline = Instant::now() + SUBMIT_TIMEOUT;
    loop {
        let mut pools = files::pools(cluster);
        pools.retain(|pool| !pool.is_submit_over());
        if pools.is_empty() || Instant::now() >= deadline {
            let said = pools.iter().map(|pool| {
                format!("a submit of pool {} does not end, and may still make jobs", pool.name())
            });
            return said.collect();
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// The jobs of a cluster on one system.
#[derive(Debug)]
struct Ours {
    /// The beginning of their names.
    prefix: Option<String>,
    /// Their names, as states have them.
    names: BTreeSet<String>,
    /// Jobs that states know: they are ours under any name.
    ids: BTreeSet<JobId>,
    /// Those that had not ended.
    live: BTreeSet<JobId>,
    /// The cluster's ids, by the names in states.
    of_pools: BTreeSet<String>,
}

impl Ours {
    fn on(cluster: &ClusterDir, scheduler: &Scheduler, prefix: Option<String>) -> Self {
        let (names, ids, live) = (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
        let mut ours = Self { prefix, names, ids, live, of_pools: BTreeSet::new() };
        for pool in files::pools(cluster) {
            // An id of one system is somebody else's job on another.
            let is_its = pool.spec().is_ok_and(|spec| is_scheduler_of(scheduler, &spec));
            let Some(state) = pool.state().filter(|_| is_its) else { continue };
            ours.live.extend(state.saved.jobs.keys().cloned());
            // One that was not found by its name counts as ended.
            ours.ids.extend(state.saved.ended.into_iter().map(|(id, _)| id));
            if !state.job_name.is_empty() {
                let id = kubernetes::id_of_job(&state.job_name, pool.name().as_str());
                ours.of_pools.insert(id);
                ours.names.insert(state.job_name);
            }
        }
        ours.ids.extend(ours.live.iter().cloned());
        ours
    }

    /// The cluster's ids, as the names of its jobs have them.
    fn ids_of_cluster(&self) -> BTreeSet<String> {
        let names = self.prefix.iter().map(|prefix| kubernetes::id_of(prefix));
        names.chain(self.of_pools.iter().cloned()).collect()
    }

    fn has(&self, job: &Listed, name: &str) -> bool {
        self.prefix.as_ref().is_some_and(|prefix| name.starts_with(prefix))
            || self.names.contains(name)
            || self.ids.contains(&job.id)
    }

    /// Those that have not ended.
    async fn list(&self, scheduler: &Scheduler) -> Result<Vec<Listed>, String> {
        let all = scheduler.list_own().await?;
        let ours = all.into_iter().filter(|(job, name)| self.has(job, name));
        let ours = ours.map(|(job, _)| job);
        Ok(ours.filter(|job| !matches!(job.state, JobState::Ended(_))).collect())
    }

    /// The reason for which nothing is known of them, with what was known last.
    fn unknown(&self, why: &str) -> String {
        if self.live.is_empty() {
            return why.to_owned();
        }
        format!("{why}; jobs that may be left: {}", words(&self.live))
    }
}

fn is_scheduler_of(it: &Scheduler, spec: &PoolSpec) -> bool {
    let used = UsedSystem::of(spec);
    (it.system.name, &it.via, &it.place) == (used.system.as_str(), &used.via, &used.place)
}

/// The systems that may have jobs of this cluster: those of its pools, and those that it has used
/// since it was last stopped. No other one is asked.
pub fn schedulers(cluster: &ClusterDir) -> Vec<Scheduler> {
    let pools = files::pools(cluster);
    let of_pools = pools.iter().filter_map(|dir| Some(UsedSystem::of(&dir.spec().ok()?)));
    let mut used: Vec<UsedSystem> = Vec::new();
    for it in of_pools.chain(files::used_systems(cluster)) {
        if !used.contains(&it) {
            used.push(it);
        }
    }
    used.into_iter().filter_map(UsedSystem::scheduler).collect()
}

async fn stop_keeper(cluster: &ClusterDir) -> Result<()> {
    let deadline = Instant::now() + SUBMIT_TIMEOUT;
    let mut told = None;
    while let Some(keeper) = KeeperLock::holder(cluster) {
        if let Some(pid) = keeper.local()?.filter(|pid| told != Some(*pid)) {
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
    ours: &Ours,
    deadline: Instant,
) -> Result<Vec<Listed>, String> {
    loop {
        let live = ours.list(scheduler).await;
        if live.as_ref().is_ok_and(Vec::is_empty) || Instant::now() >= deadline {
            return live;
        }
        tokio::time::sleep(LOOK).await;
    }
}

fn ids<'a>(jobs: impl IntoIterator<Item = &'a Listed>) -> Vec<JobId> {
    jobs.into_iter().map(|job| job.id.clone()).collect()
}

fn note_cancel(cancelled: Result<(), String>) {
    if let Err(error) = cancelled {
        tracing::warn!("jobs are not cancelled: {error}");
    }
}

#[cfg(test)]
mod tests {
    use furlong_host::home::Home;
    use furlong_pool::keeper::{Job, Limits, Wanted};
    use furlong_pool::spec::{EngineSpec, JobSpec};

    use super::super::files::PoolState;
    use super::*;
    use crate::pool::batch::scheduler;

    /// A Slurm of two files: the queue, which a cancel leaves without the jobs that it names, and
    /// those words.
    const SLURM: &str = "case $0 in\n\
        squeue) cat queue;;\n\
        scancel) echo \"$*\" >> cancelled\n\
        for id; do grep -v \"^$id|\" queue > rest; cp rest queue; done;;\nesac";

    /// A cluster with a pool on such a Slurm, whose state knows these jobs.
    fn cluster(folder: &std::path::Path, ids: &[&str]) -> (ClusterDir, PoolSpec) {
        let cluster = Home::at(folder).cluster(&"default".parse().unwrap());
        let script = format!("cd '{}' || exit 1\n{SLURM}", folder.display());
        let via = ["sh", "-c", &script].map(str::to_owned).to_vec();
        let spec = PoolSpec {
            name: "slurm".parse().unwrap(),
            system: "slurm".to_owned(),
            wanted: Wanted::exactly(1),
            per_job: 1,
            limits: Limits { jobs_max: 1, pending_max: 1, array_max: 1 },
            job: JobSpec { via, ..JobSpec::default() },
            engine: EngineSpec::default(),
            is_removed: false,
            ends_now: false,
        };
        let dir = PoolDir::of(&cluster, spec.name.clone());
        dir.write_spec(&spec).unwrap();
        let mut state = PoolState { job_name: "furlong-x".to_owned(), ..PoolState::default() };
        for id in ids {
            let job = Job::new(0, 1, true);
            state.saved.jobs.insert(JobId((*id).to_owned()), job);
        }
        dir.write_state(&state).unwrap();
        (cluster, spec)
    }

    #[tokio::test]
    async fn jobs_of_a_state_are_cancelled_under_any_name() {
        let folder = tempfile::tempdir().unwrap();
        let (cluster, _) = cluster(folder.path(), &["7_1"]);
        let queue = "7_1|PENDING||1:00|renamed|N/A|Resources\n\
                     8_1|PENDING||1:00|furlong-x|N/A|Resources\n\
                     9_1|PENDING||1:00|of another|N/A|Resources\n";
        std::fs::write(folder.path().join("queue"), queue).unwrap();
        let stopped = stop_pools(&cluster).await.unwrap();
        assert_eq!(stopped.lines(), ["2 jobs have ended, nothing is left: 7_1 8_1"]);
        let cancelled = std::fs::read_to_string(folder.path().join("cancelled")).unwrap();
        assert_eq!(cancelled, "--state=PENDING 7_1 8_1\n");
        let left = std::fs::read_to_string(folder.path().join("queue")).unwrap();
        assert_eq!(left, "9_1|PENDING||1:00|of another|N/A|Resources\n");
        assert!(!has_pools(&cluster));
    }

    #[tokio::test]
    async fn a_system_that_fails_leaves_the_jobs_of_the_state_unknown() {
        let folder = tempfile::tempdir().unwrap();
        // There is no queue.
        let (cluster, _) = cluster(folder.path(), &["7_1", "7_2"]);
        let stopped = stop_pools(&cluster).await.unwrap();
        let lines = stopped.lines();
        assert_eq!(lines.len(), 1, "{lines:?}");
        assert!(lines[0].starts_with("squeue fails: "), "{lines:?}");
        assert!(lines[0].ends_with("; jobs that may be left: 7_1 7_2"), "{lines:?}");
        assert!(has_pools(&cluster), "what is known of them is forgotten");
    }

    #[tokio::test]
    async fn only_systems_that_were_used_are_asked_for_what_is_left() {
        let folder = tempfile::tempdir().unwrap();
        let (cluster, spec) = cluster(folder.path(), &[]);
        files::note_used_system(&cluster, &spec).unwrap();
        files::note_used_system(&cluster, &spec).unwrap();
        let own =
            |cluster: &ClusterDir| schedulers(cluster).iter().map(|it| it.via.len()).collect();
        let found: Vec<usize> = own(&cluster);
        assert_eq!(found, [3], "a pool and the note of it are one system");
        std::fs::remove_dir_all(files::folder(&cluster)).unwrap();
        assert_eq!(own(&cluster), found, "the note outlives the files of the pool");
        files::forget_used_systems(&cluster);
        let none: Vec<usize> = own(&cluster);
        assert!(none.is_empty(), "a system that was never used is asked");
    }

    #[test]
    fn ids_of_one_system_mean_nothing_on_another() {
        let folder = tempfile::tempdir().unwrap();
        let (cluster, spec) = cluster(folder.path(), &["7_1"]);
        let own = scheduler(&spec).unwrap();
        assert_eq!(Ours::on(&cluster, &own, None).ids.len(), 1);
        let other = Scheduler::new(own.system, Vec::new(), Vec::new());
        assert_eq!(Ours::on(&cluster, &other, None).ids.len(), 0);
    }
}
