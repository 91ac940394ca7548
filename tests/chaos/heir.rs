//! The client that comes for the results of one that was killed: another one of the same owner.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use furlong_client::{Client, ClientError, SessionId, TaskId};

use crate::client::end;
use crate::job::{Job, Place};
use crate::log::{End, Log, LogReader, What};
use furlong_wire::ids::TaskSeq;

/// The estate of one client: its durable tasks that were accepted, and of whose ends it has not
/// written.
#[derive(Debug)]
pub struct Estate {
    client: u32,
    session: SessionId,
    jobs: Vec<Job>,
}

/// Reads the logs of killed clients, as they are named: `client-7.log`. One may have come for what
/// another left.
///
/// # Errors
/// If one cannot be read.
pub fn estate(logs: &[PathBuf]) -> anyhow::Result<Vec<Estate>> {
    let mut fetched = BTreeSet::new();
    let mut estates = Vec::new();
    for path in logs {
        let name = path
            .file_stem()
            .and_then(|stem| stem.to_str())
            .and_then(|stem| stem.strip_prefix("client-"));
        let Some(client) = name.and_then(|number| number.parse().ok()) else { continue };
        let (mut session, mut accepted, mut jobs, mut ended) =
            (None, 0, Vec::new(), BTreeSet::new());
        for entry in LogReader::open(path)?.read()? {
            match entry.what {
                What::Begins(id) => session = Some(SessionId(id)),
                What::Accepted(n) => accepted = n,
                What::Submits(job) if job.durable => jobs.push(*job),
                What::Ended(end) => _ = ended.insert(end.n),
                What::Fetched { of, end } => _ = fetched.insert((of, end.n)),
                _ => {}
            }
        }
        jobs.retain(|job| job.n <= accepted && !ended.contains(&job.n));
        estates.extend(session.map(|session| Estate { client, session, jobs }));
    }
    for Estate { client, jobs, .. } in &mut estates {
        jobs.retain(|job| !fetched.contains(&(*client, job.n)));
    }
    Ok(estates)
}

/// Waits for the end of each of these tasks, and writes it down.
pub async fn fetch(client: Client, log: Arc<Log>, place: Place, estates: Vec<Estate>) {
    for Estate { client: of, session, jobs } in estates {
        let place = Place { client: of, ..place.clone() };
        for job in jobs {
            let task = TaskId { session, n: TaskSeq(job.n) };
            let end = loop {
                match client.wait_for(task).await {
                    Ok(fetched) => break of_result(&job, &place, fetched.result),
                    Err(ClientError::Interrupted) => tokio::time::sleep(AGAIN).await,
                    Err(ClientError::Disconnected(_)) => return,
                    Err(error) => break not_there(&job, error.to_string()),
                }
            };
            log.add(What::Fetched { of, end });
        }
    }
}

fn of_result(
    job: &Job,
    place: &Place,
    result: Option<Result<furlong_client::TaskResult, furlong_client::TaskFailure>>,
) -> End {
    let Some(result) = result else { return not_there(job, "its result is not kept".to_owned()) };
    let wrong = result.as_ref().ok().and_then(|result| job.wrong(place, result));
    end(job.n, &result, wrong)
}

fn not_there(job: &Job, text: String) -> End {
    End { n: job.n, state: None, kind: None, text, attempts: 0, engine: None, is_wrong: false }
}

/// After a cut.
const AGAIN: Duration = Duration::from_millis(100);
