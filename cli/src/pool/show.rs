//! Pools and their jobs, for people and for programs.

use anyhow::Result;
use furlong_host::durations;
use furlong_host::home::ClusterDir;
use furlong_pool::keeper::{BadNode, Job, JobId, JobState, Leaving};
use furlong_pool::spec::PoolSpec;
use serde_json::{Value, json};

use super::batch::unix_ms;
use super::files::{self, PoolState};
use super::keep::KeeperLock;
use crate::print;

/// Ended jobs that are shown: those without an engine, the last ones.
const FAILED_MAX: usize = 3;

/// The pools of a cluster, with their last state.
pub fn all(cluster: &ClusterDir) -> Vec<(PoolSpec, PoolState)> {
    let pools = files::pools(cluster).into_iter();
    pools.filter_map(|dir| Some((dir.spec().ok()?, dir.state().unwrap_or_default()))).collect()
}

/// What is wanted of each pool.
pub fn wanted_of_all(cluster: &ClusterDir) -> Vec<String> {
    let pools = files::pools(cluster).into_iter().filter_map(|dir| dir.spec().ok());
    pools.map(|spec| format!("{}: {} engines wanted", spec.name, spec.wanted)).collect()
}

/// A line a pool: its engines, its jobs, and why there are not more.
pub fn in_short(cluster: &ClusterDir) -> Vec<String> {
    let described = all(cluster).into_iter().map(|(spec, state)| {
        let why = why(&spec, &state).map_or_else(String::new, |why| format!(": {why}"));
        let (online, wanted, jobs) = (state.online, spec.wanted, counts(&state));
        format!("pool {} has {online} of {wanted} engines, {jobs}{why}", spec.name)
    });
    described.collect()
}

/// Prints the pools as tables.
///
/// # Errors
/// Standard output is closed.
pub fn print(cluster: &ClusterDir) -> Result<()> {
    let all = all(cluster);
    if all.is_empty() {
        let name = cluster.name();
        return print::line(format!(
            "cluster {name} has no pools; `furlong pool add NAME --on slurm -n 8` makes one"
        ));
    }
    let mut rows =
        vec![["pool", "system", "wanted", "engines", "jobs"].map(str::to_owned).to_vec()];
    for (spec, state) in &all {
        let (online, wanted) = (state.online.to_string(), spec.wanted.to_string());
        rows.push(vec![spec.name.to_string(), spec.system.clone(), wanted, online, counts(state)]);
    }
    let widths = widths(&rows);
    print::line(row(&rows[0], &widths) + "  state")?;
    for ((spec, state), cells) in all.iter().zip(&rows[1..]) {
        let said = if spec.is_removed { "is removed".to_owned() } else { said(spec, state) };
        print::line(format!("{}  {said}", row(cells, &widths)))?;
        left_out(spec, state).iter().try_for_each(|line| print::line(format!("  {line}")))?;
        print_jobs(spec, state)?;
    }
    if KeeperLock::holder(cluster).is_none() {
        print::line(format!(
            "nobody keeps these pools, and this is how they were last; `furlong cluster start` \
             goes on with them, `furlong cluster stop --cluster {}` ends their jobs",
            cluster.name()
        ))?;
    }
    Ok(())
}

/// The pools as a JSON array.
pub fn as_json(cluster: &ClusterDir) -> Value {
    let is_kept = KeeperLock::holder(cluster).is_some();
    let pools = all(cluster).into_iter().map(|(spec, state)| {
        let jobs = shown(&state).map(|(id, job)| job_json(id, job, &state));
        json!({
            "pool": spec.name.as_str(), "system": spec.system, "job_name": state.job_name,
            "min": spec.wanted.min, "max": spec.wanted.max, "wanted": wanted(&spec, &state),
            "engines": state.online, "state": said(&spec, &state),
            "paused": state.saved.gate.paused, "kept": is_kept,
            "left_out": left_out_json(&state),
            "jobs": jobs.collect::<Vec<_>>(),
        })
    });
    pools.collect()
}

fn job_json(id: &JobId, job: &Job, state: &PoolState) -> Value {
    json!({
        "job": id.0, "state": state_word(job), "node": job.node, "wanted": job.engines,
        "engines": state.engines.get(id).copied().unwrap_or(0),
        "since_unix_ms": since_ms(job), "left": job.left, "why": job.why,
    })
}

/// The nodes that new jobs leave out, a sentence each.
fn left_out(spec: &PoolSpec, state: &PoolState) -> Vec<String> {
    let name = &spec.name;
    let sentence = |(node, bad): (&str, &BadNode)| {
        let ends = bad.ends;
        let why = if bad.why.is_empty() { String::new() } else { format!(": {}", bad.why) };
        format!(
            "node {node} is left out, where {ends} jobs in a row ended at once{why}; mend it, then \
             `furlong pool resume {name}`"
        )
    };
    state.saved.nodes.left_out(unix_ms()).map(sentence).collect()
}

fn left_out_json(state: &PoolState) -> Value {
    let nodes = state.saved.nodes.left_out(unix_ms()).map(|(node, bad)| {
        json!({
            "node": node, "ends": bad.ends, "why": bad.why,
            "until_unix_ms": bad.left_out_ms.map(|(_, until_ms)| until_ms),
        })
    });
    nodes.collect()
}

fn print_jobs(spec: &PoolSpec, state: &PoolState) -> Result<()> {
    let mut rows =
        vec![["job", "state", "node", "engines", "since", "left"].map(str::to_owned).to_vec()];
    let mut whys = vec!["why".to_owned()];
    for (id, job) in shown(state) {
        let dash = |text: &str| if text.is_empty() { "-".to_owned() } else { text.to_owned() };
        let since = durations::short(unix_ms().saturating_sub(since_ms(job)) * 1_000);
        let engines = state.engines.get(id).map_or("-".to_owned(), ToString::to_string);
        let (word, node, left) = (state_word(job).to_owned(), dash(&job.node), dash(&job.left));
        rows.push(vec![id.0.clone(), word, node, engines, since, left]);
        let log = if job.is_live() || spec.system == "ssh" {
            String::new()
        } else {
            format!("  (furlong pool log {id})")
        };
        whys.push(format!("{}{log}", job.why));
    }
    if rows.len() > 1 {
        let widths = widths(&rows);
        for (cells, why) in rows.iter().zip(whys) {
            print::line(format!("  {}  {why}", row(cells, &widths)).trim_end())?;
        }
    }
    Ok(())
}

/// The jobs that are worth a line: those that live, and the last that failed since an engine came.
fn shown(state: &PoolState) -> impl Iterator<Item = (&JobId, &Job)> {
    let ended = state.saved.ended.iter().rev().take_while(|(_, job)| !job.had_engine);
    let failed = ended.filter(|(_, job)| job.leaving.is_none()).take(FAILED_MAX);
    state.saved.jobs.iter().chain(failed.map(|(id, job)| (id, job)))
}

fn state_word(job: &Job) -> &'static str {
    match (job.state, job.leaving) {
        (JobState::Ended(end), _) => end.word(),
        (_, Some(Leaving::Drains { .. })) => "drains",
        (_, Some(Leaving::Withdrawn { .. } | Leaving::Cancelled { .. })) => "cancelled",
        (JobState::Pending, None) => "pending",
        (JobState::Running, None) => "running",
    }
}

fn since_ms(job: &Job) -> u64 {
    if job.state == JobState::Pending { job.submitted_ms } else { job.since_ms }
}

/// The engines that a pool is to have now.
fn wanted(spec: &PoolSpec, state: &PoolState) -> u32 {
    if spec.wanted.is_elastic() { state.target } else { spec.wanted.max }
}

/// The numbers of jobs by state.
fn counts(state: &PoolState) -> String {
    let jobs = state.saved.jobs.values();
    let running = jobs.clone().filter(|job| job.state == JobState::Running).count();
    let pending = jobs.filter(|job| job.state == JobState::Pending).count();
    let failed = shown(state).filter(|(_, job)| !job.is_live()).count();
    let parts = [(running, "running"), (pending, "pending"), (failed, "failed")];
    let parts = parts.into_iter().filter(|(count, _)| *count > 0);
    let parts: Vec<String> = parts.map(|(count, word)| format!("{count} {word}")).collect();
    if parts.is_empty() { "no jobs".to_owned() } else { parts.join(", ") }
}

/// The state of a pool, with the time until it is tried again.
fn said(spec: &PoolSpec, state: &PoolState) -> String {
    let gate = &state.saved.gate;
    if state.said.is_empty() {
        return "starts".to_owned();
    }
    if gate.paused.is_some() {
        return format!("{}; mend it, then `furlong pool resume {}`", state.said, spec.name);
    }
    if gate.refusal.as_ref() != Some(&state.said) {
        return state.said.clone();
    }
    let seconds = gate.not_before_ms().saturating_sub(unix_ms()).div_ceil(1_000);
    format!("{}; tried again in {seconds} s", state.said)
}

/// The first reason for which there are not more engines: the pool's, else that of a job.
fn why(spec: &PoolSpec, state: &PoolState) -> Option<String> {
    if state.said != "ok" && !state.said.is_empty() {
        return Some(said(spec, state));
    }
    let pending = state.saved.jobs.iter().find(|(_, job)| job.is_waiting() && !job.why.is_empty());
    let failed = || shown(state).find(|(_, job)| !job.is_live() && !job.why.is_empty());
    let Some((id, job)) = pending.or_else(failed) else {
        return left_out(spec, state).into_iter().next();
    };
    let node = if job.node.is_empty() { String::new() } else { format!(" on {}", job.node) };
    Some(format!("job {id}{node}: {}", job.why))
}

/// Rows of cells as lines, in columns.
pub fn table(rows: &[Vec<String>]) -> Vec<String> {
    let widths = widths(rows);
    rows.iter().map(|cells| row(cells, &widths).trim_end().to_owned()).collect()
}

fn widths(rows: &[Vec<String>]) -> Vec<usize> {
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max();
    (0..rows[0].len()).map(|column| width(column).unwrap_or(0)).collect()
}

fn row(cells: &[String], widths: &[usize]) -> String {
    let cells = cells.iter().zip(widths).map(|(cell, width)| format!("{cell:<width$}"));
    cells.collect::<Vec<_>>().join("  ")
}
