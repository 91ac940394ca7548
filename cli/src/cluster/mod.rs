//! `furlong cluster`: farms on this machine.

mod beside;
mod inherited;
mod local;
mod member;
mod page;
mod state;

use std::io::{BufRead, BufReader};
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use clap::Subcommand;
use furlong_broker::BrokerLock;
use furlong_host::home::{ClusterDir, Home};
use furlong_host::log::{self, Format, Level};
use furlong_host::memory_size::MemorySize;
use furlong_host::private_file::ensure_private_dir;
use furlong_wire::capability::ClusterName;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;

use crate::exit::ExitCode;
use crate::print;
use crate::program::Program;
use beside::{Beside, BesideArgs};
pub use local::{LocalCluster, LocalOptions};
use state::{ClusterLock, ClusterState};

/// Commands for clusters.
#[derive(Debug, Subcommand)]
pub enum ClusterCommand {
    /// Start a broker on loopback and engines, and look after them until Ctrl-C
    #[command(after_help = "Example: furlong cluster start -n 4 --daemon")]
    Start(StartArgs),
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
    /// Engines: one process with one slot each; by default one for each core
    #[arg(short = 'n', value_name = "N", value_parser = clap::value_parser!(u32).range(0..=1024))]
    engines: Option<u32>,
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
    beside: BesideArgs,
    /// Return when the cluster stands, and leave it running
    #[arg(long)]
    daemon: bool,
    /// The process that `--daemon` leaves
    #[arg(long, hide = true)]
    detached: bool,
}

/// The flags that the engines are started with.
#[derive(Clone, Debug, clap::Args)]
struct EngineFlags {
    /// Label of the engines that tasks can require; more of them with commas, or by repeating the
    /// flag
    #[arg(long = "label", value_name = "LABEL", value_delimiter = ',')]
    labels: Vec<String>,
    /// Variable for the interpreters and commands of tasks, as NAME=VALUE; repeat the flag for more
    #[arg(long = "env", value_name = "NAME=VALUE")]
    env: Vec<String>,
    /// Directory in which tasks run; by default the current one
    #[arg(long, value_name = "DIR")]
    cwd: Option<String>,
    /// Memory that each process of a task may take, as `4G`, `512M` or `10%` of the machine's
    #[arg(long, value_name = "SIZE")]
    memory: Option<MemorySize>,
}

impl EngineFlags {
    /// As flags of a program: the engine's are the same, and it checks them.
    fn flags(&self) -> Vec<String> {
        let flag = |name: &str, value: &str| format!("--{name}={value}");
        let labels = self.labels.iter().map(|label| flag("label", label));
        let env = self.env.iter().map(|variable| flag("env", variable));
        let cwd = self.cwd.iter().map(|cwd| flag("cwd", cwd));
        let memory = self.memory.iter().map(|size| flag("memory", &size.bytes().to_string()));
        labels.chain(env).chain(cwd).chain(memory).collect()
    }
}

/// The time limit for a cluster to stop before it is killed.
const STOP_TIMEOUT: Duration = Duration::from_secs(10);

/// Runs a `cluster` command.
pub async fn run(command: ClusterCommand, program: &Program) -> Result<ExitCode> {
    match command {
        ClusterCommand::Start(args) if args.daemon => daemon(&args, program),
        ClusterCommand::Start(args) => start(args, program).await,
        ClusterCommand::Stop { cluster } => stop(&cluster).await,
        ClusterCommand::List { json } => list(json),
    }
}

/// Starts a cluster and looks after it until it is told to stop.
async fn start(args: StartArgs, program: &Program) -> Result<ExitCode> {
    if args.detached {
        // A session of its own, so that the terminal may be closed. It fails where the process
        // leads a group: harmless.
        let _ = rustix::process::setsid();
    }
    let home = Home::from_env()?;
    let dir = home.cluster(&args.cluster);
    let lock = ClusterLock::take(&dir)?;
    start_log(&dir)?;
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get) as u32;
    let options = LocalOptions {
        program: program.clone(),
        home: home.path().to_owned(),
        cluster: args.cluster.clone(),
        engines: args.engines.unwrap_or(cores),
        port: args.port,
        python: args.python.clone(),
        journal: args.journal.clone(),
        engine_flags: args.engine.flags(),
        broker_memory: Some(args.broker_memory.bytes()),
    };
    let mut stop = std::pin::pin!(furlong_host::stop::requested(false));
    let mut local = LocalCluster::new(options);
    let mut beside = Beside::default();
    let start = async {
        local.start().await?;
        beside.start(args.beside, &local, &dir).await
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
    announce(&args, &local, beside.url())?;
    let reason = tokio::select! {
        reason = local.look_after(|state| write_state(&dir, state)) => reason,
        reason = &mut stop => reason,
    };
    tracing::info!("cluster {} stops: {reason}", args.cluster);
    beside.stop().await;
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

fn announce(args: &StartArgs, local: &LocalCluster, page: Option<&str>) -> Result<()> {
    let ids: Vec<String> = local.engine_ids().iter().map(ToString::to_string).collect();
    print::line(format!("broker    {}   cluster {}", local.endpoint(), args.cluster))?;
    print::line(format!("engines   {} online: {}", ids.len(), ids.join(" ")))?;
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
fn daemon(args: &StartArgs, program: &Program) -> Result<ExitCode> {
    let mut command = program.command()?;
    command.args(["cluster", "start", "--detached", "--cluster", args.cluster.as_str()]);
    if let Some(engines) = &args.engines {
        command.arg("-n").arg(engines.to_string());
    }
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
    let pid = if supervised {
        ClusterLock::read(&dir).map(|state| state.pid)
    } else if BrokerLock::is_held(&dir) {
        furlong_broker::read_state(&dir).map(|state| state.pid)
    } else {
        bail!("cluster {cluster} does not run here; `furlong cluster list` shows which do");
    };
    let pid = pid
        .and_then(|pid| Pid::from_raw(pid as i32))
        .context("its state file cannot be read; end it by hand")?;
    kill_process(pid, Signal::TERM).context("cannot signal it: it belongs to another user")?;
    let deadline = Instant::now() + STOP_TIMEOUT;
    while ClusterLock::is_held(&dir) || BrokerLock::is_held(&dir) {
        if Instant::now() >= deadline {
            // Whatever hangs: its children see the end of their standard input and end by
            // themselves.
            kill_process(pid, Signal::KILL).context("it does not end")?;
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
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
