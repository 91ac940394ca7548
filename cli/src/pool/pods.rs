//! Pods of Kubernetes: beside the commands that all systems have, the Secret with the capability,
//! the logs, and the removal of what has ended.

use std::collections::BTreeSet;
use std::path::Path;

use anyhow::{Result, anyhow};
use furlong_host::home::ClusterDir;
use furlong_host::private_file::read_private;
use furlong_pool::keeper::{JobId, JobState, Listed, Refusal};
use furlong_pool::spec::PoolSpec;
use furlong_pool::system::kubernetes::{self, APPLY, CLEAR, CLUSTER_LABEL, CONTEXT, DELETE, LOGS};

use super::batch::scheduler;
use super::command::Scheduler;
use super::files::{self, PoolDir};
use super::first_name;

/// The most bytes of a capability file.
const CAP_BYTES_MAX: u64 = 32 * 1024;
/// The most pods that are removed after one question: the next one brings more.
const LOGS_AT_A_TIME: usize = 8;

/// Writes down where the pods of a pool are, as `kubectl` has it now: its context may be another
/// one when the next command runs.
///
/// # Errors
/// There is no such system.
pub async fn pin(spec: &mut PoolSpec) -> Result<()> {
    let scheduler = scheduler(spec)?;
    if !scheduler.system.is_of_pods {
        return Ok(());
    }
    // What is not there says so itself next. And a pod has no context to write down.
    let Ok(said) = scheduler.tell(&CONTEXT, &[], None).await else { return Ok(()) };
    let mut lines = said.lines().map(str::trim);
    for flag in ["--context", "--namespace"] {
        let is_given = spec.job.args.iter().any(|arg| arg.split('=').next() == Some(flag));
        let value = lines.next().filter(|value| !value.is_empty() && !is_given);
        spec.job.args.extend(value.map(|value| format!("{flag}={value}")));
    }
    Ok(())
}

/// The manifest of a cluster's Secret, with a word in the place of the capability.
pub fn secret_without_value(spec: &PoolSpec, cluster: &ClusterDir) -> String {
    let id = kubernetes::id_of_job(&first_name(spec, cluster), spec.name.as_str());
    let secret = kubernetes::secret(&id, "the capability, which is not printed");
    secret.trim_end().to_owned()
}

/// Gives pods their capability, in a Secret: it may be another one since the last time.
///
/// # Errors
/// The reason that there is none, as a submit would be refused.
pub async fn provide(scheduler: &Scheduler, id: &str, cap: &Path) -> Result<(), Refusal> {
    if !scheduler.system.is_of_pods {
        return Ok(());
    }
    let capability = read_private(cap, CAP_BYTES_MAX);
    let capability = capability.map_err(|error| Refusal::Refused(error.to_string()))?;
    let secret = kubernetes::secret(id, &capability);
    scheduler.tell(&APPLY, &[], Some(&secret)).await.map(|_| ())
}

/// Keeps the logs of pods that have ended, and removes these.
pub async fn collect(scheduler: &Scheduler, listed: &[Listed], dir: &PoolDir) {
    if !scheduler.system.is_of_pods {
        return;
    }
    let ended = listed.iter().filter(|job| matches!(job.state, JobState::Ended(_)));
    let ended: Vec<String> = ended.map(|job| job.id.0.clone()).take(LOGS_AT_A_TIME).collect();
    if ended.is_empty() {
        return;
    }
    for id in &ended {
        // One whose container never began has written nothing.
        if let Ok(text) = scheduler.tell(&LOGS, std::slice::from_ref(id), None).await
            && let Err(error) = dir.write_log(&JobId(id.clone()), &text)
        {
            tracing::warn!("the log of {id} is not kept: {error:#}");
        }
    }
    if let Err(refusal) = scheduler.tell(&DELETE, &ended, None).await {
        tracing::warn!("pods that have ended are not removed: {refusal:?}");
    }
}

/// Removes all that is left of clusters of these ids, if the system is of pods.
///
/// # Errors
/// The reason that this is not done.
pub async fn clear(scheduler: &Scheduler, ids: &BTreeSet<String>) -> Result<(), String> {
    if !scheduler.system.is_of_pods {
        return Ok(());
    }
    for id in ids {
        let label = [format!("{CLUSTER_LABEL}={id}")];
        if let Err(refusal) = scheduler.tell(&CLEAR, &label, None).await {
            return Err(format!("the pods and the Secret stay: {}", refusal.text()));
        }
    }
    Ok(())
}

/// The log of a pod that has not ended; none if there is no such pod.
///
/// # Errors
/// It cannot be had.
pub async fn log(cluster: &ClusterDir, job: &JobId) -> Result<Option<String>> {
    for dir in files::pools(cluster) {
        let Ok(scheduler) = dir.spec().and_then(|spec| scheduler(&spec)) else { continue };
        let has_job = dir.state().is_some_and(|state| state.saved.jobs.contains_key(job));
        if scheduler.system.is_of_pods && has_job {
            let text = scheduler.tell(&LOGS, std::slice::from_ref(&job.0), None).await;
            return text.map(Some).map_err(|refusal| anyhow!(refusal.text().to_owned()));
        }
    }
    Ok(None)
}
