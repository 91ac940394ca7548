//! The page of a local cluster: a child like its broker and engines, which ends with it.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use furlong_host::home::ClusterDir;
use tokio::process::Command;

use super::member::Member;
use crate::dashboard;

/// The time limit for a page to be served.
const START_TIMEOUT: Duration = Duration::from_secs(10);
/// The time limit for its graceful shutdown.
const STOP_TIMEOUT: Duration = Duration::from_secs(5);
/// The pause between two looks at it.
const POLL: Duration = Duration::from_millis(10);

/// The process that serves the page.
#[derive(Debug)]
pub struct ClusterPage {
    member: Member,
    /// Its address, with a key that is good once.
    pub url: String,
}

impl ClusterPage {
    /// Starts it, and waits until it is served.
    ///
    /// # Errors
    /// What it said before it ended, or that it took too long.
    pub async fn start(mut command: Command, dir: &ClusterDir) -> Result<Self> {
        command.arg("--stop-with-stdin");
        let mut member = Member::spawn("the page", command)?;
        let pid = member.child.id();
        let deadline = Instant::now() + START_TIMEOUT;
        while !pid.is_some_and(|pid| dashboard::is_served_by(dir, pid)) {
            if member.child.try_wait()?.is_some() || Instant::now() >= deadline {
                bail!("the page is not served: {}", member.said_at_its_end().await);
            }
            tokio::time::sleep(POLL).await;
        }
        Ok(Self { member, url: dashboard::url(dir)? })
    }

    /// Stops it.
    pub async fn stop(mut self) {
        self.member.ask_to_leave();
        self.member.leave(Instant::now() + STOP_TIMEOUT).await;
    }
}
