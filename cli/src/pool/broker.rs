//! The keeper's view of the broker: the engines of pools by their jobs, and the tasks that there
//! are for them.

use std::collections::BTreeMap;
use std::time::Duration;

use furlong_client::{Client, EngineId, EngineTargets};
use furlong_host::home::ClusterDir;
use furlong_pool::keeper::{EnginesOfJob, JobId};
use furlong_pool::script::POOL_LABEL;
use furlong_wire::message::ClusterStatus;
use furlong_wire::token::Role;
use tokio::sync::{mpsc, watch};

/// The time between two looks at the broker.
const LOOK: Duration = Duration::from_millis(500);
/// The time until the broker is sought again.
const AGAIN: Duration = Duration::from_secs(1);
/// The time limit for an answer.
const ANSWER: Duration = Duration::from_secs(10);

/// The engines of pools at one moment.
#[derive(Clone, Default, Debug)]
pub struct Picture {
    /// The number of looks so far: a new one has news.
    pub looks: u64,
    /// The engines of each job, by pool.
    pub pools: BTreeMap<String, BTreeMap<JobId, EnginesOfJob>>,
    /// Their ids.
    pub ids: BTreeMap<JobId, Vec<EngineId>>,
    /// Tasks that wait in the shared queue or are with engines.
    pub tasks: u32,
}

/// Looks at the broker for as long as somebody wants to know, and tells engines to leave when they
/// have finished what they run.
pub async fn watch_broker(
    cluster: ClusterDir,
    pictures: watch::Sender<Picture>,
    mut leaving: mpsc::Receiver<Vec<EngineId>>,
) {
    let mut looks = 0;
    loop {
        let connected = connect(&cluster).await;
        let client = match connected {
            Ok(client) => client,
            Err(error) => {
                tracing::debug!("the broker is not there: {error:#}");
                tokio::time::sleep(AGAIN).await;
                if pictures.is_closed() {
                    return;
                }
                continue;
            }
        };
        while let Ok(status) = client.status().await {
            looks += 1;
            pictures.send_replace(picture(&status, looks));
            tokio::select! {
                () = tokio::time::sleep(LOOK) => {}
                () = pictures.closed() => return,
                Some(ids) = leaving.recv() => {
                    let told = client.shutdown(EngineTargets::Ids(ids), true).await;
                    if let Err(error) = told {
                        tracing::warn!("engines cannot be told to leave: {error}");
                    }
                }
            }
        }
        client.close().await;
        tokio::time::sleep(AGAIN).await;
    }
}

/// Connects with the rights to stop engines.
///
/// # Errors
/// The broker does not answer, or there is no capability file.
pub async fn connect(cluster: &ClusterDir) -> anyhow::Result<Client> {
    let builder = Client::builder().capability(cluster.capability(Role::Admin));
    Ok(builder.wait(AGAIN).answers_within(ANSWER).connect().await?)
}

/// The pools' part of a status.
pub fn picture(status: &ClusterStatus, looks: u64) -> Picture {
    let tasks = u32::try_from(status.tasks_waiting + status.tasks_assigned).unwrap_or(u32::MAX);
    let mut picture = Picture { looks, tasks, ..Picture::default() };
    let busy: BTreeMap<EngineId, u32> = status
        .engines
        .iter()
        .map(|engine| (engine.id, (engine.tasks_assigned + engine.tasks_queued) as u32))
        .collect();
    for process in &status.processes {
        let pool = process.labels.iter().find_map(|label| label.strip_prefix(POOL_LABEL));
        let Some((pool, job)) = pool.map(str::to_owned).zip(process.job.clone()) else { continue };
        let job = JobId(job);
        let of_job = picture.pools.entry(pool).or_default().entry(job.clone()).or_default();
        of_job.online += process.engines.len() as u32;
        of_job.busy += process.engines.iter().filter_map(|id| busy.get(id)).sum::<u32>();
        picture.ids.entry(job).or_default().extend(&process.engines);
    }
    picture
}
