//! A cluster of child processes: a broker on loopback, engines of one slot, all of them looked after.

use std::collections::VecDeque;
use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use furlong_client::Client;
use furlong_link::home::{ClusterDir, Home};
use furlong_wire::capability::ClusterName;
use furlong_wire::ids::EngineId;
use furlong_wire::token::Role;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, ChildStdin, Command};
use tokio::task::JoinHandle;

use super::state::ClusterState;
use crate::program::Program;

/// What to start.
#[derive(Clone, Debug)]
pub struct LocalOptions {
    /// How broker and engines are started: they are this program.
    pub program: Program,
    /// `$FURLONG_HOME` of the cluster.
    pub home: PathBuf,
    /// Its name.
    pub cluster: ClusterName,
    /// How many engine processes.
    pub engines: u32,
    /// The broker's port, if not any.
    pub port: Option<u16>,
    /// The engines' interpreter.
    pub python: Option<PathBuf>,
    /// The broker's journal.
    pub journal: furlong_broker::JournalArgs,
    /// Further flags of the engines.
    pub engine_flags: Vec<String>,
    /// Bytes of memory for the broker, instead of its default.
    pub broker_memory: Option<u64>,
}

/// A cluster of child processes. They end with this process, however it ends: each watches its standard input.
#[derive(Debug)]
pub struct LocalCluster {
    options: LocalOptions,
    dir: ClusterDir,
    broker: Option<Member>,
    engines: Vec<Member>,
    ids: Vec<EngineId>,
    endpoint: String,
}

/// One child.
#[derive(Debug)]
struct Member {
    child: Child,
    pid: u32,
    /// Held open; at its end the child stops.
    stdin: Option<ChildStdin>,
    last_lines: Arc<Mutex<VecDeque<String>>>,
    /// Collects them until its standard error ends.
    reader: Option<JoinHandle<()>>,
    started: Instant,
    failures: u32,
}

/// How long a broker has to listen, and how long engines have to come.
const START_TIMEOUT: Duration = Duration::from_secs(30);
/// How long a child has to leave in good order.
const STOP_TIMEOUT: Duration = Duration::from_secs(5);
/// A child that ends sooner than this after its start has failed; after so many failures in a row it is given up.
const SOUND_AFTER: Duration = Duration::from_secs(5);
const FAILURES_MAX: u32 = 5;
const LAST_LINES: usize = 5;

impl LocalCluster {
    /// A cluster that has not been started.
    pub fn new(options: LocalOptions) -> Self {
        let dir = Home::at(&options.home).cluster(&options.cluster);
        let (engines, ids, endpoint) = (Vec::new(), Vec::new(), String::new());
        Self { options, dir, broker: None, engines, ids, endpoint }
    }

    /// Starts broker and engines, and waits until all are online.
    ///
    /// # Errors
    /// What the broker or an engine said before it ended, or that they took too long. Call [`LocalCluster::stop`] then
    /// too.
    pub async fn start(&mut self) -> Result<()> {
        self.broker = Some(self.spawn_broker()?);
        self.broker_listens().await?;
        for _ in 0..self.options.engines {
            self.engines.push(self.spawn_engine()?);
        }
        self.engines_come().await
    }

    /// The capability file for clients.
    pub fn capability(&self) -> PathBuf {
        self.dir.capability(Role::Client)
    }

    /// Where the broker is.
    pub fn endpoint(&self) -> &str {
        &self.endpoint
    }

    /// The engines that were online when the cluster stood.
    pub fn engine_ids(&self) -> &[EngineId] {
        &self.ids
    }

    /// A client of this cluster.
    ///
    /// # Errors
    /// If the broker does not answer.
    pub async fn client(&self) -> Result<Client> {
        Ok(Client::builder().capability(self.capability()).wait(START_TIMEOUT).connect().await?)
    }

    /// The processes.
    pub fn state(&self) -> ClusterState {
        let pid = |member: &Member| member.child.id();
        ClusterState {
            pid: std::process::id(),
            broker_pid: self.broker.as_ref().and_then(pid).unwrap_or(0),
            engine_pids: self.engines.iter().filter_map(pid).collect(),
        }
    }

    /// Starts again what ends otherwise than in good order, until the broker has been told to stop: gives the reason.
    ///
    /// # Errors
    /// Something ends again and again.
    pub async fn look_after(&mut self, changed: impl Fn(&ClusterState) -> Result<()>) -> Result<&'static str> {
        loop {
            let (ended, status) = self.next_end().await;
            match ended {
                None if status.is_some_and(|status| status.success()) => return Ok("its broker was told to stop"),
                Some(place) if status.is_some_and(|status| status.success()) => {
                    let engine = self.engines.remove(place);
                    tracing::info!("engine process {} was told to stop, and is not started again", engine.pid);
                }
                _ => self.start_again(ended, status).await?,
            }
            changed(&self.state())?;
        }
    }

    /// Stops engines, then the broker; kills what does not leave.
    pub async fn stop(&mut self) {
        for engine in &mut self.engines {
            engine.stdin = None;
        }
        let deadline = Instant::now() + STOP_TIMEOUT;
        for engine in &mut self.engines {
            engine.leave(deadline).await;
        }
        if let Some(broker) = &mut self.broker {
            broker.stdin = None;
            broker.leave(Instant::now() + STOP_TIMEOUT).await;
        }
    }

    /// Waits until a child ends: none is the broker, else the engine's place; and how it has ended.
    async fn next_end(&mut self) -> (Option<usize>, Option<ExitStatus>) {
        let broker = self.broker.as_mut().map(|broker| &mut broker.child);
        let broker = async {
            match broker {
                Some(child) => child.wait().await.ok(),
                None => std::future::pending().await,
            }
        };
        let engines = self.engines.iter_mut().map(|engine| Box::pin(engine.child.wait()));
        let engines: Vec<_> = engines.collect();
        let any_engine = async {
            if engines.is_empty() {
                std::future::pending::<()>().await;
            }
            futures_util::future::select_all(engines).await
        };
        tokio::select! {
            status = broker => (None, status),
            (status, place, _) = any_engine => (Some(place), status.ok()),
        }
    }

    async fn start_again(&mut self, ended: Option<usize>, status: Option<ExitStatus>) -> Result<()> {
        let member = match ended {
            None => self.broker.as_mut(),
            Some(place) => self.engines.get_mut(place),
        };
        let (pid, failures, said) = match member {
            Some(member) => (member.pid, member.failures_now(), member.said_at_its_end().await),
            None => (0, 0, String::new()),
        };
        let what = if ended.is_some() { "an engine" } else { "the broker" };
        let how = status.map_or("it is gone".to_owned(), |status| status.to_string());
        tracing::warn!("{what} has ended, process {pid} ({how}); the last that it said: {said}");
        ensure!(failures < FAILURES_MAX, "{what} ends again and again: {said}");
        tokio::time::sleep(Duration::from_millis(100) * failures * failures).await;
        match ended {
            None => self.broker = Some(Member { failures, ..self.spawn_broker()? }),
            Some(place) => self.engines[place] = Member { failures, ..self.spawn_engine()? },
        }
        Ok(())
    }

    fn spawn_broker(&self) -> Result<Member> {
        let mut command = self.command("broker")?;
        command.args(["--bind", "127.0.0.1", "--stop-with-stdin", "--of-cluster"]);
        if let Some(port) = &self.options.port {
            command.arg("--port").arg(port.to_string());
        }
        command.args(self.options.journal.flags());
        if let Some(bytes) = self.options.broker_memory {
            command.arg("--memory").arg(bytes.to_string());
        }
        Member::spawn("the broker", command)
    }

    fn spawn_engine(&self) -> Result<Member> {
        let mut command = self.command("engine")?;
        command.arg("--stop-with-stdin").arg("--cap").arg(self.dir.capability(Role::Engine));
        // They are one process each, and know nothing of one another.
        command.envs(furlong_engine::runtime::python::thread_counts(self.options.engines));
        if let Some(python) = &self.options.python {
            command.arg("--python").arg(python);
        }
        command.args(&self.options.engine_flags);
        Member::spawn("an engine", command)
    }

    fn command(&self, subcommand: &str) -> Result<Command> {
        let mut command = Command::from(self.options.program.command()?);
        command.arg(subcommand).args(["--cluster", self.options.cluster.as_str()]);
        command.env("FURLONG_HOME", &self.options.home).env_remove("FURLONG_CAP");
        Ok(command)
    }

    async fn broker_listens(&mut self) -> Result<()> {
        let broker = self.broker.as_mut().context("the broker was just started")?;
        let deadline = Instant::now() + START_TIMEOUT;
        loop {
            if broker.child.try_wait()?.is_some() {
                bail!("{}", broker.said_at_its_end().await);
            }
            let state = furlong_broker::read_state(&self.dir);
            let ours = state.filter(|state| Some(state.pid) == broker.child.id() && !state.stopped);
            if let Some(state) = ours {
                self.endpoint = state.endpoints.into_iter().next().unwrap_or_default();
                return Ok(());
            }
            ensure!(
                Instant::now() < deadline,
                "the broker does not listen; its log is in {}",
                self.dir.log().display()
            );
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    async fn engines_come(&mut self) -> Result<()> {
        let client = self.client().await?;
        let deadline = Instant::now() + START_TIMEOUT;
        loop {
            self.ids = client.engines().await?;
            if self.ids.len() >= self.options.engines as usize {
                client.close().await;
                return Ok(());
            }
            for engine in &mut self.engines {
                if engine.child.try_wait()?.is_some() {
                    bail!("{}", engine.said_at_its_end().await);
                }
            }
            let (online, all) = (self.ids.len(), self.options.engines);
            ensure!(
                Instant::now() < deadline,
                "only {online} of {all} engines came; logs are in {}",
                self.dir.log().display()
            );
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

impl Member {
    fn spawn(what: &str, mut command: Command) -> Result<Self> {
        // A group of its own: Ctrl-C is for the process that looks after it, which then stops it in good order.
        command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped()).process_group(0).kill_on_drop(true);
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
        Ok(Self { pid, child, stdin, last_lines, reader, started: Instant::now(), failures: 0 })
    }

    fn failures_now(&self) -> u32 {
        if self.started.elapsed() < SOUND_AFTER { self.failures + 1 } else { 0 }
    }

    /// The last thing that it said.
    fn said(&self) -> String {
        let lines = self.last_lines.lock().unwrap_or_else(PoisonError::into_inner);
        let line = lines.back().map_or("it said nothing", String::as_str);
        line.trim_start_matches("broker: ").trim_start_matches("engine: ").trim_start_matches("furlong: ").to_owned()
    }

    /// The same, of a child that has ended: its last line may still be on the way. What it has started may hold its
    /// standard error open for longer than anybody waits here.
    async fn said_at_its_end(&mut self) -> String {
        if let Some(reader) = self.reader.take() {
            let _ = tokio::time::timeout(Duration::from_secs(1), reader).await;
        }
        self.said()
    }

    async fn leave(&mut self, deadline: Instant) {
        let left = deadline.saturating_duration_since(Instant::now());
        if tokio::time::timeout(left, self.child.wait()).await.is_err() {
            let _ = self.child.kill().await;
        }
    }
}
