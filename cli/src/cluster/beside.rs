//! The processes beside a local cluster's broker and engines: its page, and the one that writes its
//! history.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use furlong_host::home::ClusterDir;

use super::local::LocalCluster;
use super::member::Member;
use super::page::ClusterPage;
use crate::history;

/// The time limit for a history to be opened.
const START_TIMEOUT: Duration = Duration::from_secs(10);
/// The time limit for a last look, and the end after it.
const STOP_TIMEOUT: Duration = Duration::from_secs(5);
/// The pause between two looks at the history's file.
const POLL: Duration = Duration::from_millis(10);

/// Those that are wanted.
#[derive(Clone, Copy, PartialEq, Eq, Debug, clap::Args)]
pub struct BesideArgs {
    /// Serve a page that shows the cluster in a browser, as `furlong dashboard` does
    #[arg(long)]
    dashboard: bool,
    /// Write down every task that ends, as `furlong history record` does
    #[arg(long)]
    history: bool,
}

/// Those that run.
#[derive(Debug, Default)]
pub struct Beside {
    page: Option<ClusterPage>,
    history: Option<Member>,
}

impl BesideArgs {
    /// As flags.
    pub fn flags(self) -> impl Iterator<Item = &'static str> {
        let flag = |is_wanted: bool, flag| is_wanted.then_some(flag);
        flag(self.dashboard, "--dashboard").into_iter().chain(flag(self.history, "--history"))
    }
}

impl Beside {
    /// Starts those that are wanted.
    ///
    /// # Errors
    /// What one of them said before it ended, or that it took too long.
    pub async fn start(
        &mut self,
        args: BesideArgs,
        local: &LocalCluster,
        dir: &ClusterDir,
    ) -> Result<()> {
        if args.dashboard {
            self.page = Some(ClusterPage::start(local.command(&["dashboard"])?, dir).await?);
        }
        if args.history {
            self.start_history(local, dir).await?;
        }
        Ok(())
    }

    /// The page's address, with a key that is good once.
    pub fn url(&self) -> Option<&str> {
        self.page.as_ref().map(|page| page.url.as_str())
    }

    /// Stops them, while the broker still answers: the history has a last look.
    pub async fn stop(self) {
        if let Some(mut history) = self.history {
            history.ask_to_leave();
            history.leave(Instant::now() + STOP_TIMEOUT).await;
        }
        if let Some(page) = self.page {
            page.stop().await;
        }
    }

    async fn start_history(&mut self, local: &LocalCluster, dir: &ClusterDir) -> Result<()> {
        let mut command = local.command(&["history", "record"])?;
        command.arg("--stop-with-stdin");
        let mut member = Member::spawn("the history", command)?;
        let deadline = Instant::now() + START_TIMEOUT;
        while !history::is_written(&dir.history()) {
            if member.child.try_wait()?.is_some() || Instant::now() >= deadline {
                bail!("no history is written: {}", member.said_at_its_end().await);
            }
            tokio::time::sleep(POLL).await;
        }
        self.history = Some(member);
        Ok(())
    }
}
