//! The children of a local cluster: each has a place, in which it is started again when it has
//! ended.

use std::collections::VecDeque;
use std::process::{ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, Result};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::process::{Child, ChildStdin, Command};
use tokio::task::JoinHandle;

use super::state::Down;

/// One child.
#[derive(Debug)]
pub struct Member {
    /// Its process.
    pub child: Child,
    pid: u32,
    /// Held open; at its end the child stops.
    stdin: Option<ChildStdin>,
    last_lines: Arc<Mutex<VecDeque<String>>>,
    /// Collects them until its standard error ends.
    reader: Option<JoinHandle<()>>,
    started: Instant,
}

/// The place of a child, and of those that are started when it has ended.
#[derive(Debug)]
pub struct MemberPlace {
    /// The child, while it runs.
    pub member: Option<Member>,
    /// The last thing that the one before it has said.
    pub said: String,
    /// A description of how that one ended.
    how: String,
    pid: u32,
    pauses: Pauses,
    /// The time at which the next one is started, after the end of the last.
    starts_at: Option<(Instant, SystemTime)>,
}

/// The pauses before a child is started again: longer each time, until one has lived for a while.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
struct Pauses {
    failures: u32,
}

/// The first pause, doubled each time.
const PAUSE: Duration = Duration::from_millis(100);
/// The longest pause.
const PAUSE_MAX: Duration = Duration::from_secs(60);
/// A child that has lived for so long was sound.
const SOUND_AFTER: Duration = Duration::from_secs(60);
/// Lines of standard error that are kept.
const LAST_LINES: usize = 5;

/// Waits until a child ends, and says in which place, and how. Without a child, for ever.
pub async fn next_end<P>(
    places: impl Iterator<Item = (P, &mut MemberPlace)>,
) -> (P, Option<ExitStatus>) {
    let members = places.filter_map(|(at, place)| Some((at, place.member.as_mut()?)));
    let ends: Vec<_> = members
        .map(|(at, member)| Box::pin(async move { (at, member.child.wait().await.ok()) }))
        .collect();
    if ends.is_empty() {
        std::future::pending::<()>().await;
    }
    futures_util::future::select_all(ends).await.0
}

impl Pauses {
    /// The pause after a child that has lived for so long.
    fn next(&mut self, lived: Duration) -> Duration {
        self.failures = if lived >= SOUND_AFTER { 1 } else { self.failures.saturating_add(1) };
        PAUSE.saturating_mul(1 << (self.failures - 1).min(16)).min(PAUSE_MAX)
    }
}

impl MemberPlace {
    /// A place whose first child runs.
    pub fn new(member: Member) -> Self {
        let (pid, pauses) = (member.pid, Pauses::default());
        Self {
            member: Some(member),
            said: String::new(),
            how: String::new(),
            pid,
            pauses,
            starts_at: None,
        }
    }

    /// The process that is in it.
    pub fn pid(&self) -> Option<u32> {
        self.member.as_ref().and_then(|member| member.child.id())
    }

    /// The process that was in it last.
    pub fn pid_before(&self) -> u32 {
        self.pid
    }

    /// Returns true if a child has ended here that was not sound.
    pub fn has_failed(&self) -> bool {
        self.pauses.failures > 0
    }

    /// The time at which the next child is to be started, if there is none.
    pub fn starts_at(&self) -> Option<Instant> {
        self.starts_at.map(|(at, _)| at)
    }

    /// Returns the report on it while there is no child.
    pub fn down(&self) -> Option<Down> {
        let (_, at) = self.starts_at?;
        let since = at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let restart_unix_ms = u64::try_from(since.as_millis()).unwrap_or(u64::MAX);
        // Who is killed has not said why.
        let cause = if self.how.starts_with("signal") { &self.how } else { &self.said };
        Some(Down { failures: self.pauses.failures, restart_unix_ms, cause: cause.clone() })
    }

    /// Returns true if it is time to start the next child.
    pub fn is_due(&self, now: Instant) -> bool {
        self.starts_at().is_some_and(|at| at <= now)
    }

    /// Its child has ended, in a way that may not be known: another one is started later.
    pub async fn note_end(&mut self, what: &str, status: Option<ExitStatus>) {
        let Some(mut member) = self.member.take() else { return };
        let lived = member.started.elapsed();
        self.said = member.said_at_its_end().await;
        self.how = status.map_or("it is gone".to_owned(), |status| status.to_string());
        let (pid, how, said) = (self.pid, &self.how, &self.said);
        tracing::warn!("{what} has ended, process {pid} ({how}); the last that it said: {said}");
        self.wait(what, lived);
    }

    /// The next child is started, or that has failed.
    pub fn take_next(&mut self, what: &str, started: Result<Member>) {
        self.starts_at = None;
        match started {
            Ok(member) => {
                self.pid = member.pid;
                self.member = Some(member);
            }
            Err(error) => {
                (self.said, self.how) = (format!("{error:#}"), String::new());
                tracing::warn!("{what} cannot be started: {}", self.said);
                self.wait(what, Duration::ZERO);
            }
        }
    }

    fn wait(&mut self, what: &str, lived: Duration) {
        let pause = self.pauses.next(lived);
        self.starts_at = Some((Instant::now() + pause, SystemTime::now() + pause));
        let failures = self.pauses.failures;
        tracing::info!(
            "{what} is started again in {} ms; failures in a row: {failures}",
            pause.as_millis()
        );
    }
}

impl Member {
    /// Starts a child.
    pub fn spawn(what: &str, mut command: Command) -> Result<Self> {
        // A group of its own: Ctrl-C is for the process that looks after it, which then stops it
        // gracefully.
        command
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .process_group(0)
            .kill_on_drop(true);
        let mut child = command.spawn().context("cannot start this program again as a child")?;
        let pid = child.id().unwrap_or(0);
        tracing::info!("{what} is started, process {pid}");
        let stdin = child.stdin.take();
        let last_lines = Arc::new(Mutex::new(VecDeque::new()));
        let reader = child.stderr.take().map(|stderr| {
            let last_lines = last_lines.clone();
            tokio::spawn(async move {
                let mut lines = BufReader::new(stderr).lines();
                while let Ok(Some(line)) = lines.next_line().await {
                    let mut kept = last_lines.lock().unwrap_or_else(PoisonError::into_inner);
                    kept.push_back(line);
                    if kept.len() > LAST_LINES {
                        kept.pop_front();
                    }
                }
            })
        });
        Ok(Self { pid, child, stdin, last_lines, reader, started: Instant::now() })
    }

    /// Writes to its standard input. Of one that has ended already, the end is what its keeper
    /// finds, with what it said; that a pipe broke says less.
    pub async fn write(&mut self, bytes: &[u8]) {
        if let Some(stdin) = &mut self.stdin {
            let _ = stdin.write_all(bytes).await;
        }
    }

    /// Tells it to leave gracefully.
    pub fn ask_to_leave(&mut self) {
        self.stdin = None;
    }

    /// The last thing that it said.
    fn said(&self) -> String {
        let lines = self.last_lines.lock().unwrap_or_else(PoisonError::into_inner);
        // `mpirun` ends with a ruler.
        let has_words = |line: &&String| line.chars().any(char::is_alphanumeric);
        let line = lines.iter().rev().find(has_words).map_or("it said nothing", String::as_str);
        line.trim_start_matches("broker: ")
            .trim_start_matches("engine: ")
            .trim_start_matches("furlong: ")
            .to_owned()
    }

    /// The same, of a child that has ended: its last line may still be on the way. What it has
    /// started may hold its standard error open for longer than anybody waits here.
    pub async fn said_at_its_end(&mut self) -> String {
        if let Some(reader) = self.reader.take() {
            let _ = tokio::time::timeout(Duration::from_secs(1), reader).await;
        }
        self.said()
    }

    /// Waits for its end, and kills it if that does not come in time.
    pub async fn leave(&mut self, deadline: Instant) {
        let left = deadline.saturating_duration_since(Instant::now());
        if tokio::time::timeout(left, self.child.wait()).await.is_err() {
            let _ = self.child.kill().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_a_minute_and_shrink_after_health() {
        let mut pauses = Pauses::default();
        let quick = Duration::from_secs(1);
        let first: Vec<u128> = (0..5).map(|_| pauses.next(quick).as_millis()).collect();
        assert_eq!(first, [100, 200, 400, 800, 1_600]);
        assert_eq!((0..100).map(|_| pauses.next(quick)).max(), Some(PAUSE_MAX));
        assert_eq!(pauses.next(SOUND_AFTER), PAUSE);
    }
}
