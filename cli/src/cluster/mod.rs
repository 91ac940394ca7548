//! `furlong cluster`: farms on this machine.

mod allocation;
mod beside;
mod engine_flags;
pub mod inherited;
mod local;
pub mod member;
mod run;
mod state;

use std::io::{BufRead, BufReader};
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use clap::Subcommand;
use furlong_broker::BrokerLock;
use furlong_host::home::{ClusterDir, Home};
use furlong_host::log::{self, Format, Level};
use furlong_host::memory_size::MemorySize;
use furlong_host::private_file::ensure_private_dir;
use furlong_pool::keeper::Wanted;
use furlong_wire::capability::ClusterName;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;

use crate::exit::ExitCode;
use crate::pool::{self, PoolFlags, PoolRequest};
use crate::program::Program;
use crate::{print, usage_error};
use beside::{Beside, BesideArgs};
pub use engine_flags::EngineFlags;
pub use local::{LocalCluster, LocalOptions};
use state::{ClusterLock, ClusterState};

/// Commands for clusters.
#[derive(Debug, Subcommand)]
pub enum ClusterCommand {
    /// Start a broker on loopback and engines, and look after them until Ctrl-C
    #[command(after_help = "Example: furlong cluster start -n 4 --daemon")]
    Start(Box<StartArgs>),
    /// Start a broker and engines on all machines of a job, run a command with them, and stop them
    #[command(after_help = "Example: furlong cluster run -- python work.py")]
    Run(Box<run::ClusterRunArgs>),
    /// Stop a cluster that `cluster start` or `broker` started
    #[command(after_help = "Example: furlong cluster stop")]
    Stop {
        /// Name of the cluster
        #[arg(long, value_name = "NAME", default_value_t)]
        cluster: ClusterName,
    },
    /// List the clusters of this home, running or not
    #[command(after_help = "Example: furlong cluster list --json")]
    List {
        /// Print a JSON array
        #[arg(long)]
        json: bool,
    },
}

/// Flags of `cluster start`.
#[derive(Clone, Debug, clap::Args)]
pub struct StartArgs {
    /// Engines: one process with one slot each; by default one for each core. With --on those of
    /// the pool: a number, or a range within which they follow the work
    #[arg(short = 'n', value_name = "N|A..B")]
    engines: Option<Wanted>,
    /// Name of the cluster
    #[arg(long, value_name = "NAME", default_value_t)]
    cluster: ClusterName,
    /// Port of the broker; by default the one of the last start, else any free one
    #[arg(long, value_name = "N")]
    port: Option<u16>,
    /// Python interpreter of the engines
    #[arg(long, value_name = "PATH")]
    python: Option<std::path::PathBuf>,
    #[command(flatten)]
    journal: furlong_broker::JournalArgs,
    /// Memory of the broker for tasks and payloads, as `4G`, `512M` or `25%` of the machine's
    #[arg(long, value_name = "SIZE", default_value = "25%")]
    broker_memory: MemorySize,
    #[command(flatten)]
    engine: EngineFlags,
    #[command(flatten)]
    pool: PoolFlags,
    #[command(flatten)]
    beside: BesideArgs,
    /// Return when the cluster stands, and leave it running
    #[arg(long)]
    daemon: bool,
    /// The process that `--daemon` leaves
    #[arg(long, hide = true)]
    detached: bool,
}

/// The most engines that are started on this machine.
const LOCAL_MAX: u32 = 1024;
/// The time limit for a cluster to stop before it is killed.
const STOP_TIMEOUT: Duration = Duration::from_secs(10);

/// Runs a `cluster` command.
pub async fn run(command: ClusterCommand, program: &Program) -> Result<ExitCode> {
    match command {
        ClusterCommand::Start(args) => {
            let engines = local_engines(&args)?;
            if args.pool.are_given()
                && let Some(ended) = start_pool(&args, program).await?
            {
                return Ok(ended);
            }
            if args.daemon {
                daemon(&args, engines, program)
            } else {
                start(args, engines, program).await
            }
        }
        ClusterCommand::Run(args) => run::run(*args, program).await,
        ClusterCommand::Stop { cluster } => stop(&cluster).await,
        ClusterCommand::List { json } => list(json),
    }
}

/// The engines of this machine: by default one for each core, and none beside a pool.
fn local_engines(args: &StartArgs) -> Result<u32> {
    if args.pool.are_given() {
        return Ok(0);
    }
    let cores = || std::thread::available_parallelism().map_or(1, std::num::NonZero::get) as u32;
    match args.engines {
        None => Ok(cores()),
        Some(wanted) if !wanted.is_elastic() && wanted.max <= LOCAL_MAX => Ok(wanted.max),
        Some(wanted) => Err(usage_error(&format!(
            "-n {wanted}: engines of this machine are a number from 0 to {LOCAL_MAX}; --on names a \
             system that has more"
        ))),
    }
}

/// Writes down the pool that is to be started with the cluster, if its system would take it; or
/// prints it, for a dry run, which is then all.
async fn start_pool(args: &StartArgs, program: &Program) -> Result<Option<ExitCode>> {
    let home = Home::from_env()?;
    let dir = home.cluster(&args.cluster);
    let request = PoolRequest {
        name: None,
        wanted: args.engines,
        flags: &args.pool,
        engine: &args.engine,
        python: args.python.as_deref(),
        program,
    };
    let spec = request.spec(&home, &dir)?;
    if args.pool.dry_run {
        return pool::dry_run(&spec, &dir).await.map(Some);
    }
    ensure!(
        !BrokerLock::is_held(&dir),
        "cluster {} runs already; `furlong pool add` adds engines to it",
        args.cluster
    );
    pool::prepare(&spec, &dir).await?;
    Ok(None)
}

/// Starts a cluster and looks after it until it is told to stop.
async fn start(args: Box<StartArgs>, engines: u32, program: &Program) -> Result<ExitCode> {
    if args.detached {
        // A session of its own, so that the terminal may be closed. It fails where the process
        // leads a group: harmless.
        let _ = rustix::process::setsid();
    }
    let home = Home::from_env()?;
    let dir = home.cluster(&args.cluster);
    let lock = ClusterLock::take(&dir)?;
    start_log(&dir)?;
    let has_pools = pool::has_pools(&dir);
    let options = LocalOptions {
        program: program.clone(),
        home: home.path().to_owned(),
        cluster: args.cluster.clone(),
        engines,
        port: args.port,
        python: args.python.clone(),
        journal: args.journal.clone(),
        engine_flags: args.engine.flags(),
        broker_memory: Some(args.broker_memory.bytes()),
        has_pools,
        is_open: false,
    };
    let mut stop = std::pin::pin!(furlong_host::stop::requested(false));
    let mut local = LocalCluster::new(options.clone());
    let mut beside = Beside::new(options, dir.clone());
    let start = async {
        local.start().await?;
        beside.start(args.beside).await
    };
    let started = tokio::select! {
        started = start => started,
        reason = &mut stop => Err(anyhow::anyhow!("{reason} before the cluster stood")),
    };
    if let Err(error) = started {
        local.stop().await;
        tracing::error!("cluster {} does not stand: {error:#}", args.cluster);
        return Err(error);
    }
    ClusterLock::write(&dir, &local.state())?;
    tracing::info!(
        "cluster {} stands: broker {}, {}",
        args.cluster,
        local.endpoint(),
        print::counted(local.engine_ids().len() as u64, "engine")
    );
    announce(&args, &local, beside.url(), &dir)?;
    let reason = tokio::select! {
        reason = local.look_after(|state| write_state(&dir, state)) => reason,
        never = beside.look_after() => match never {},
        reason = &mut stop => reason,
    };
    tracing::info!("cluster {} stops: {reason}", args.cluster);
    beside.stop().await;
    local.stop_keeper().await;
    if pool::has_pools(&dir) {
        let stopped = pool::stop_pools(&dir).await?;
        stopped.lines().iter().for_each(|line| tracing::info!("{line}"));
    }
    local.stop().await;
    ClusterLock::remove(&dir);
    drop(lock);
    Ok(ExitCode::SUCCESS)
}

/// Says what runs. A cluster that cannot say it, for want of a disk, goes on.
fn write_state(dir: &ClusterDir, state: &ClusterState) {
    if let Err(error) = ClusterLock::write(dir, state) {
        tracing::warn!(
            "what runs cannot be written to {}: {error:#}",
            dir.cluster_state().display()
        );
    }
}

/// Logs to `cluster.log` what becomes of the cluster's processes, and not to the terminal: what
/// ends the command is said there once.
fn start_log(dir: &ClusterDir) -> Result<()> {
    ensure_private_dir(&dir.log())?;
    let path = dir.log().join("cluster.log");
    log::start(Some(&path), None, Level::INFO, Format::Text)
        .with_context(|| format!("cannot write the log {}", path.display()))
}

fn announce(
    args: &StartArgs,
    local: &LocalCluster,
    page: Option<&str>,
    dir: &ClusterDir,
) -> Result<()> {
    let ids: Vec<String> = local.engine_ids().iter().map(ToString::to_string).collect();
    print::line(format!("broker    {}   cluster {}", local.endpoint(), args.cluster))?;
    let pools = pool::wanted(dir);
    if pools.is_empty() || !ids.is_empty() {
        print::line(format!("engines   {} online: {}", ids.len(), ids.join(" ")))?;
    }
    for pool in pools {
        print::line(format!("pool      {pool}; `furlong pool` shows its jobs"))?;
    }
    if let Some(url) = page {
        print::line(format!("page      {url}"))?;
    }
    let cluster = if args.cluster == ClusterName::default() {
        String::new()
    } else {
        format!(" --cluster {}", args.cluster)
    };
    let end = if args.detached {
        format!("(`furlong cluster stop{cluster}` stops the cluster)")
    } else {
        "(Ctrl-C stops the cluster)".to_owned()
    };
    print::line(format!("try       furlong execute{cluster} 'print(\"Hello World\")'      {end}"))
}

/// Starts a process of its own that starts the cluster, and waits until it stands.
fn daemon(args: &StartArgs, engines: u32, program: &Program) -> Result<ExitCode> {
    let mut command = program.command()?;
    command.args(["cluster", "start", "--detached", "--cluster", args.cluster.as_str()]);
    command.arg("-n").arg(engines.to_string());
    if let Some(port) = &args.port {
        command.arg("--port").arg(port.to_string());
    }
    if let Some(python) = &args.python {
        command.arg("--python").arg(python);
    }
    command.args(args.journal.flags());
    command.args(args.engine.flags());
    command.args(args.beside.flags());
    inherited::keep_from_children();
    let mut child =
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
    let out = BufReader::new(child.stdout.take().context("standard output was asked for")?);
    let mut ready = false;
    for line in out.lines() {
        let line = line?;
        ready = line.starts_with("try");
        print::line(&line)?;
        if ready {
            return Ok(ExitCode::SUCCESS);
        }
    }
    debug_assert!(!ready, "a cluster that stands was announced");
    let error = child.stderr.take().map(std::io::read_to_string).transpose()?.unwrap_or_default();
    child.wait()?;
    bail!("{}", error.trim().trim_start_matches("furlong: "));
}

async fn stop(cluster: &ClusterName) -> Result<ExitCode> {
    let dir = Home::from_env()?.cluster(cluster);
    let supervised = ClusterLock::is_held(&dir);
    let has_pools = pool::has_pools(&dir);
    let schedulers = pool::schedulers(&dir);
    let runs = supervised || BrokerLock::is_held(&dir);
    if has_pools && !supervised {
        // While the broker can still tell engines to leave.
        let stopped = pool::stop_pools(&dir).await?;
        stopped.lines().iter().try_for_each(print::line)?;
        ensure!(stopped.left.is_empty() && stopped.unknown.is_empty(), "jobs may be left");
    }
    if !runs {
        return stop_orphans(cluster, &dir, has_pools).await;
    }
    let pid = if supervised {
        ClusterLock::read(&dir).map(|state| state.pid)
    } else {
        furlong_broker::read_state(&dir).map(|state| state.pid)
    };
    let pid = pid
        .and_then(|pid| Pid::from_raw(pid as i32))
        .context("its state file cannot be read; end it by hand")?;
    kill_process(pid, Signal::TERM).context("cannot signal it: it belongs to another user")?;
    let limit = if has_pools { pool::STOP_TIMEOUT } else { STOP_TIMEOUT };
    let deadline = Instant::now() + limit;
    while ClusterLock::is_held(&dir) || BrokerLock::is_held(&dir) {
        if Instant::now() >= deadline {
            // Whatever hangs: its children see the end of their standard input and end by
            // themselves.
            kill_process(pid, Signal::KILL).context("it does not end")?;
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    if has_pools && supervised {
        // The supervisor has ended the jobs; somebody else looks whether that is so.
        let stopped = pool::stop_jobs(&dir, schedulers).await?;
        stopped.lines().iter().try_for_each(print::line)?;
        ensure!(stopped.left.is_empty() && stopped.unknown.is_empty(), "jobs may be left");
        print::line("nothing is left of its jobs")?;
    }
    print::line(format!("cluster {cluster} is stopped"))?;
    Ok(ExitCode::SUCCESS)
}

/// Ends jobs of a cluster whose broker and keeper are gone.
async fn stop_orphans(
    cluster: &ClusterName,
    dir: &ClusterDir,
    had_pools: bool,
) -> Result<ExitCode> {
    let stopped = pool::stop_pools(dir).await?;
    if had_pools || !stopped.jobs.is_empty() {
        stopped.lines().iter().try_for_each(print::line)?;
    } else {
        bail!("cluster {cluster} does not run here; `furlong cluster list` shows which do");
    }
    ensure!(stopped.left.is_empty(), "jobs may be left");
    print::line(format!("cluster {cluster} is stopped"))?;
    Ok(ExitCode::SUCCESS)
}

fn list(as_json: bool) -> Result<ExitCode> {
    let home = Home::from_env()?;
    let mut rows = Vec::new();
    for name in home.clusters()? {
        let dir = home.cluster(&name);
        rows.push(row(&name, &dir));
    }
    if as_json {
        print::json(&rows)?;
        return Ok(ExitCode::SUCCESS);
    }
    if rows.is_empty() {
        print::line(format!(
            "no clusters in {}; `furlong cluster start` makes one",
            home.path().display()
        ))?;
    }
    for row in rows {
        let text =
            |key: &str| row[key].as_str().map_or_else(|| row[key].to_string(), ToString::to_string);
        let state = if row["running"] == true {
            format!(
                "running   pid {}, {} engines started, {}",
                text("pid"),
                text("engines"),
                text("endpoint")
            )
        } else {
            "stopped".to_owned()
        };
        print::line(format!("{:<16} {state}", text("cluster")))?;
        for down in row["down"].as_array().into_iter().flatten().filter_map(|down| down.as_str()) {
            print::line(format!("{:<16}   {down}", ""))?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Returns the ended parts of this home's cluster that are started again, a line each; none if its
/// broker is another.
pub fn down(name: &str, broker_pid: u32) -> Vec<String> {
    let dir = Home::from_env().ok().zip(name.parse().ok()).map(|(home, name)| home.cluster(&name));
    let state = dir.filter(ClusterLock::is_held).and_then(|dir| ClusterLock::read(&dir));
    state.filter(|state| state.broker_pid == broker_pid).map_or_else(Vec::new, |state| state.down())
}

/// Returns a line for each pool of this home's cluster; none if its broker is another.
pub fn pools(name: &str, broker_pid: u32) -> Vec<String> {
    let dir = Home::from_env().ok().zip(name.parse().ok()).map(|(home, name)| home.cluster(&name));
    let is_ours = |dir: &ClusterDir| {
        furlong_broker::read_state(dir).is_some_and(|state| state.pid == broker_pid)
    };
    dir.filter(is_ours).map_or_else(Vec::new, |dir| pool::in_short(&dir))
}

fn row(name: &ClusterName, dir: &ClusterDir) -> serde_json::Value {
    let broker = furlong_broker::read_state(dir);
    let running = BrokerLock::is_held(dir);
    let state: Option<ClusterState> =
        ClusterLock::is_held(dir).then(|| ClusterLock::read(dir)).flatten();
    let broker = broker.as_ref().filter(|_| running);
    json!({
        "cluster": name.as_str(),
        "running": running,
        "pid": broker.map(|broker| broker.pid),
        "endpoint": broker.and_then(|broker| broker.endpoints.first().cloned()),
        "engines": state.as_ref().map_or(0, |state| state.engine_pids.len()),
        "down": state.as_ref().map_or_else(Vec::new, ClusterState::down),
        "supervisor_pid": state.as_ref().map(|state| state.pid),
    })
}
