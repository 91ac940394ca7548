//! The notices of a command that waits without progress.

use std::time::Duration;

use furlong_client::Client;
use furlong_wire::message::TaskQuery;
use futures_util::StreamExt;
use tokio::time::Instant;

use crate::cluster;

/// The time before anybody wonders.
const MOMENT: Duration = Duration::from_secs(1);
/// The start of the broker's message that nobody can run a task, as opposed to all being busy.
const NO_ENGINE: &str = "no engine is online";

/// Finds out why nothing comes: asks the broker each second in which nothing does, until there is a
/// reason, once.
#[derive(Debug)]
pub struct Patience {
    next: Instant,
    is_told: bool,
}

impl Default for Patience {
    fn default() -> Self {
        Self { next: Instant::now() + MOMENT, is_told: false }
    }
}

impl Patience {
    /// Something has come.
    pub fn reset(&mut self) {
        self.next = Instant::now() + MOMENT;
    }

    /// Returns once, when no engine can run the first task that has not ended: the reason.
    pub async fn why_nothing_comes(&mut self, client: &Client) -> String {
        while !self.is_told {
            tokio::time::sleep_until(self.next).await;
            self.reset();
            if let Some(why) = reason(client).await {
                self.is_told = true;
                return why;
            }
        }
        std::future::pending().await
    }
}

/// Returns the reason for the wait. A client that may not ask is told nothing.
async fn reason(client: &Client) -> Option<String> {
    if client.engines().await.is_ok_and(|engines| engines.is_empty()) {
        let status = client.status().await.ok();
        let pools = status.map_or_else(Vec::new, |it| cluster::pools(&it.cluster_name, it.pid));
        return Some(match pools.as_slice() {
            [] => format!("{NO_ENGINE}; start one with `engine`"),
            pools => format!("{NO_ENGINE}; {}", pools.join("; ")),
        });
    }
    let session = Some(client.session().prefix());
    let query = TaskQuery { session, ended: Some(false), limit: 1, ..TaskQuery::default() };
    let mut records = client.query_tasks(query);
    let record = records.next().await?.ok()?;
    record.waits.filter(|waits| waits.starts_with(NO_ENGINE))
}
