//! A cluster of child processes: a broker on loopback, engines of one slot, all of them looked
//! after.

use std::path::PathBuf;
use std::process::ExitStatus;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use furlong_client::Client;
use furlong_host::home::{ClusterDir, Home};
use furlong_wire::capability::ClusterName;
use furlong_wire::ids::EngineId;
use furlong_wire::token::Role;
use tokio::process::Command;

use super::member::{Member, MemberPlace, next_end};
use super::state::ClusterState;
use crate::program::Program;

/// The cluster to start.
#[derive(Clone, Debug)]
pub struct LocalOptions {
    /// The program that broker and engines are started from: this one.
    pub program: Program,
    /// `$FURLONG_HOME` of the cluster.
    pub home: PathBuf,
    /// Its name.
    pub cluster: ClusterName,
    /// The number of engine processes.
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
    /// True if it has pools: a process keeps them, and the broker listens on all addresses.
    pub has_pools: bool,
    /// True if engines come from other machines: the broker listens on all addresses.
    pub is_open: bool,
}

impl LocalOptions {
    /// The command line of a part of this cluster.
    ///
    /// # Errors
    /// This program does not know how it is started.
    pub fn command(&self, subcommand: &[&str]) -> Result<Command> {
        let mut command = Command::from(self.program.command()?);
        command.args(subcommand).args(["--cluster", self.cluster.as_str()]);
        command.env("FURLONG_HOME", &self.home).env_remove("FURLONG_CAP");
        Ok(command)
    }
}

/// A cluster of child processes. They end with this process, however it ends: each watches its
/// standard input.
#[derive(Debug)]
pub struct LocalCluster {
    options: LocalOptions,
    dir: ClusterDir,
    broker: Option<MemberPlace>,
    /// Who keeps the pools.
    keeper: Option<MemberPlace>,
    engines: Vec<MemberPlace>,
    ids: Vec<EngineId>,
    endpoint: String,
}

/// A process of a cluster.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Part {
    Broker,
    Keeper,
    /// The one in this place.
    Engine(usize),
}

/// The time limit for a broker to listen, and for engines to come online.
const START_TIMEOUT: Duration = Duration::from_secs(30);
/// The process that keeps the pools, in messages.
const KEEPER: &str = "the keeper of the pools";
/// The time limit for a child's graceful shutdown.
const STOP_TIMEOUT: Duration = Duration::from_secs(5);
/// The same for the keeper, which waits for a command that makes jobs.
const KEEPER_STOP_TIMEOUT: Duration = Duration::from_secs(40);

impl LocalCluster {
    /// A cluster that has not been started.
    pub fn new(options: LocalOptions) -> Self {
        let dir = Home::at(&options.home).cluster(&options.cluster);
        let (engines, ids, endpoint) = (Vec::new(), Vec::new(), String::new());
        Self { options, dir, broker: None, keeper: None, engines, ids, endpoint }
    }

    /// Starts broker and engines, and waits until all are online; or those that come in time, if
    /// there are any. The others are started again by [`LocalCluster::look_after`].
    ///
    /// # Errors
    /// The broker's message before it ended, or an engine's if each of them did, or that they took
    /// too long. Call [`LocalCluster::stop`] then too.
    pub async fn start(&mut self) -> Result<()> {
        self.broker = Some(MemberPlace::new(self.spawn_broker()?));
        self.broker_listens().await?;
        if self.options.has_pools {
            self.keeper = Some(MemberPlace::new(self.spawn_keeper()?));
        }
        for _ in 0..self.options.engines {
            self.engines.push(MemberPlace::new(self.spawn_engine()?));
        }
        self.engines_come().await
    }

    /// The capability file for clients.
    pub fn capability(&self) -> PathBuf {
        self.dir.capability(Role::Client)
    }

    /// The capability file for engines.
    pub fn engine_capability(&self) -> PathBuf {
        self.dir.capability(Role::Engine)
    }

    /// The endpoint of the broker.
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
        ClusterState {
            pid: std::process::id(),
            broker_pid: self.broker.as_ref().and_then(MemberPlace::pid).unwrap_or(0),
            engine_pids: self.engines.iter().filter_map(MemberPlace::pid).collect(),
            broker_down: self.broker.as_ref().and_then(MemberPlace::down),
            engines_down: self.engines.iter().filter_map(MemberPlace::down).collect(),
        }
    }

    /// Starts again what ends other than gracefully, more and more slowly and for as long as it
    /// takes, until the broker has been told to stop: gives the reason. What goes on is left alone,
    /// whatever becomes of the others.
    pub async fn look_after(&mut self, changed: impl Fn(&ClusterState)) -> &'static str {
        loop {
            let due = self.next_start();
            tokio::select! {
                (ended, status) = self.next_end() => {
                    if ended == Part::Broker && status.is_some_and(|status| status.success()) {
                        return "its broker was told to stop";
                    }
                    self.note_end(ended, status).await;
                }
                () = until(due) => self.start_due(),
            }
            changed(&self.state());
        }
    }

    /// Stops the keeper of the pools, once what it submits is known.
    pub async fn stop_keeper(&mut self) {
        if let Some(mut keeper) = self.keeper.take().and_then(|place| place.member) {
            keeper.ask_to_leave();
            keeper.leave(Instant::now() + KEEPER_STOP_TIMEOUT).await;
        }
    }

    /// Stops engines, then the broker; kills what does not leave.
    pub async fn stop(&mut self) {
        let mut engines: Vec<Member> =
            self.engines.drain(..).filter_map(|place| place.member).collect();
        engines.iter_mut().for_each(Member::ask_to_leave);
        let deadline = Instant::now() + STOP_TIMEOUT;
        for engine in &mut engines {
            engine.leave(deadline).await;
        }
        if let Some(mut broker) = self.broker.take().and_then(|place| place.member) {
            broker.ask_to_leave();
            broker.leave(Instant::now() + STOP_TIMEOUT).await;
        }
    }

    /// Waits until a child ends, and says how it has ended.
    async fn next_end(&mut self) -> (Part, Option<ExitStatus>) {
        let places = [(Part::Broker, &mut self.broker), (Part::Keeper, &mut self.keeper)];
        let single = places.into_iter().filter_map(|(part, place)| Some((part, place.as_mut()?)));
        let engines = self.engines.iter_mut().enumerate();
        let engines = engines.map(|(at, place)| (Part::Engine(at), place));
        next_end(single.chain(engines)).await
    }

    /// The time at which something is to be started again.
    fn next_start(&self) -> Option<Instant> {
        let single = self.broker.iter().chain(&self.keeper);
        single.chain(&self.engines).filter_map(MemberPlace::starts_at).min()
    }

    /// A child has ended. An engine that was told to is not started again.
    async fn note_end(&mut self, ended: Part, status: Option<ExitStatus>) {
        if let Part::Engine(at) = ended
            && status.is_some_and(|status| status.success())
        {
            let pid = self.engines.remove(at).pid_before();
            tracing::info!("engine process {pid} was told to stop, and is not started again");
            return;
        }
        let (what, place) = match ended {
            Part::Broker => ("the broker", self.broker.as_mut()),
            Part::Keeper => (KEEPER, self.keeper.as_mut()),
            Part::Engine(at) => ("an engine", self.engines.get_mut(at)),
        };
        let place = place.expect("what has ended was there");
        place.note_end(what, status).await;
    }

    /// Starts again what has waited for long enough.
    fn start_due(&mut self) {
        let now = Instant::now();
        if self.broker.as_ref().is_some_and(|place| place.is_due(now)) {
            let started = self.spawn_broker();
            self.broker.as_mut().expect("it was due").take_next("the broker", started);
        }
        if self.keeper.as_ref().is_some_and(|place| place.is_due(now)) {
            let started = self.spawn_keeper();
            self.keeper.as_mut().expect("it was due").take_next(KEEPER, started);
        }
        for at in 0..self.engines.len() {
            if self.engines[at].is_due(now) {
                let started = self.spawn_engine();
                self.engines[at].take_next("an engine", started);
            }
        }
    }

    fn spawn_broker(&self) -> Result<Member> {
        let mut command = self.options.command(&["broker"])?;
        if !(self.options.has_pools || self.options.is_open) {
            command.args(["--bind", "127.0.0.1"]);
        }
        command.args(["--stop-with-stdin", "--of-cluster"]);
        if let Some(port) = &self.options.port {
            command.arg("--port").arg(port.to_string());
        }
        command.args(self.options.journal.flags());
        if let Some(bytes) = self.options.broker_memory {
            command.arg("--memory").arg(bytes.to_string());
        }
        Member::spawn("the broker", command)
    }

    fn spawn_keeper(&self) -> Result<Member> {
        let mut command = self.options.command(&["pool", "keep"])?;
        command.arg("--stop-with-stdin");
        Member::spawn(KEEPER, command)
    }

    fn spawn_engine(&self) -> Result<Member> {
        let mut command = self.options.command(&["engine"])?;
        command.arg("--stop-with-stdin").arg("--cap").arg(self.dir.capability(Role::Engine));
        // They are one process each, and know nothing of one another.
        command.envs(furlong_engine::runtime::python::thread_counts(self.options.engines));
        if let Some(python) = &self.options.python {
            command.arg("--python").arg(python);
        }
        command.args(&self.options.engine_flags);
        Member::spawn("an engine", command)
    }

    async fn broker_listens(&mut self) -> Result<()> {
        let broker = self.broker.as_mut().and_then(|place| place.member.as_mut());
        let broker = broker.context("the broker was just started")?;
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
        let all = self.options.engines as usize;
        loop {
            self.ids = client.engines().await?;
            if self.ids.len() >= all {
                break;
            }
            self.note_ends_at_start().await?;
            self.start_due();
            if self.ids.is_empty() && self.engines.iter().all(MemberPlace::has_failed) {
                bail!(
                    "{}",
                    self.engines
                        .first()
                        .map_or("there are no engines", |place| place.said.as_str())
                );
            }
            let (online, log) = (self.ids.len(), self.dir.log());
            if Instant::now() >= deadline {
                ensure!(online > 0, "none of {all} engines came; logs are in {}", log.display());
                tracing::warn!("only {online} of {all} engines came in time");
                break;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        client.close().await;
        Ok(())
    }

    async fn note_ends_at_start(&mut self) -> Result<()> {
        for place in &mut self.engines {
            if let Some(member) = &mut place.member
                && let Some(status) = member.child.try_wait()?
            {
                place.note_end("an engine", Some(status)).await;
            }
        }
        Ok(())
    }
}

/// Waits until then; for ever if there is no such time.
pub async fn until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at.into()).await,
        None => std::future::pending().await,
    }
}
