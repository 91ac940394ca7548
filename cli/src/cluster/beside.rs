//! The processes beside a local cluster's broker and engines: its page, and the one that writes its
//! history.

use std::convert::Infallible;
use std::process::ExitStatus;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use furlong_host::home::ClusterDir;

use super::local::{LocalOptions, until};
use super::member::{Member, MemberPlace, next_end};
use crate::{dashboard, history};

/// The time limit for a page to be served, and for a history to be opened.
const START_TIMEOUT: Duration = Duration::from_secs(10);
/// The time limit for a last look, and the end after it.
const STOP_TIMEOUT: Duration = Duration::from_secs(5);
/// The pause between two looks at the file of either.
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

/// One of them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Part {
    Page,
    History,
}

/// Those that run, each in a place in which it is started again when it dies.
#[derive(Debug)]
pub struct Beside {
    options: LocalOptions,
    dir: ClusterDir,
    places: Vec<(Part, MemberPlace)>,
    /// The port that the page has got, and keeps.
    port: u16,
    url: Option<String>,
}

impl Part {
    /// It, in messages.
    fn what(self) -> &'static str {
        match self {
            Self::Page => "the page",
            Self::History => "the history",
        }
    }

    /// Returns true once this process of it does its work.
    fn stands(self, dir: &ClusterDir, pid: u32) -> bool {
        match self {
            Self::Page => dashboard::is_served_by(dir, pid),
            Self::History => history::is_written(&dir.history()),
        }
    }
}

impl BesideArgs {
    /// As flags.
    pub fn flags(self) -> impl Iterator<Item = &'static str> {
        let flag = |is_wanted: bool, flag| is_wanted.then_some(flag);
        flag(self.dashboard, "--dashboard").into_iter().chain(flag(self.history, "--history"))
    }
}

impl Beside {
    /// Nothing beside this cluster yet.
    pub fn new(options: LocalOptions, dir: ClusterDir) -> Self {
        Self { options, dir, places: Vec::new(), port: 0, url: None }
    }

    /// Starts those that are wanted, and waits until they do their work.
    ///
    /// # Errors
    /// The message of one of them before it ended, or that it took too long.
    pub async fn start(&mut self, args: BesideArgs) -> Result<()> {
        if args.dashboard {
            self.start_first(Part::Page).await?;
            self.port = dashboard::port(&self.dir).context("the page does not say where it is")?;
            self.url = Some(dashboard::url(&self.dir)?);
        }
        if args.history {
            self.start_first(Part::History).await?;
        }
        Ok(())
    }

    /// The page's address, with a key that is good once.
    pub fn url(&self) -> Option<&str> {
        self.url.as_deref()
    }

    /// Starts again those that die, more and more slowly. One that was told to stop stays so.
    pub async fn look_after(&mut self) -> Infallible {
        loop {
            let due = self.places.iter().filter_map(|(_, place)| place.starts_at()).min();
            tokio::select! {
                (at, status) = next_end(self.by_place()) => self.note_end(at, status).await,
                () = until(due) => self.start_due(),
            }
        }
    }

    /// Stops them, while the broker still answers: the history has a last look.
    pub async fn stop(self) {
        let members = self.places.into_iter().filter_map(|(_, place)| place.member);
        let mut members: Vec<Member> = members.collect();
        members.iter_mut().for_each(Member::ask_to_leave);
        let deadline = Instant::now() + STOP_TIMEOUT;
        for member in &mut members {
            member.leave(deadline).await;
        }
    }

    /// Starts one for the first time. What it says before it works is an error.
    async fn start_first(&mut self, part: Part) -> Result<()> {
        let mut member = self.spawn(part)?;
        let deadline = Instant::now() + START_TIMEOUT;
        while !member.child.id().is_some_and(|pid| part.stands(&self.dir, pid)) {
            if member.child.try_wait()?.is_some() || Instant::now() >= deadline {
                bail!("{} does not stand: {}", part.what(), member.said_at_its_end().await);
            }
            tokio::time::sleep(POLL).await;
        }
        self.places.push((part, MemberPlace::new(member)));
        Ok(())
    }

    fn spawn(&self, part: Part) -> Result<Member> {
        let mut command = match part {
            Part::Page => self.options.command(&["dashboard"])?,
            Part::History => self.options.command(&["history", "record"])?,
        };
        if part == Part::Page {
            // Any free one at first; then the one that browsers have open.
            command.arg("--port").arg(self.port.to_string());
        }
        command.arg("--stop-with-stdin");
        Member::spawn(part.what(), command)
    }

    fn by_place(&mut self) -> impl Iterator<Item = (usize, &mut MemberPlace)> {
        self.places.iter_mut().map(|(_, place)| place).enumerate()
    }

    async fn note_end(&mut self, at: usize, status: Option<ExitStatus>) {
        if status.is_some_and(|status| status.success()) {
            let (part, place) = self.places.remove(at);
            let (what, pid) = (part.what(), place.pid_before());
            tracing::info!("{what}, process {pid}, was told to stop, and is not started again");
            return;
        }
        let (part, place) = &mut self.places[at];
        place.note_end(part.what(), status).await;
    }

    /// Starts again what has waited for long enough.
    fn start_due(&mut self) {
        let now = Instant::now();
        for at in 0..self.places.len() {
            let (part, place) = &self.places[at];
            let part = *part;
            if place.is_due(now) {
                let started = self.spawn(part);
                self.places[at].1.take_next(part.what(), started);
            }
        }
    }
}
