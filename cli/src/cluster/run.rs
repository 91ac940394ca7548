//! `furlong cluster run`: a cluster for the time of one command, on all machines of the job of a
//! batch system in which it is started.

use std::ffi::OsString;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::pin::pin;
use std::process::{ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use furlong_broker::JournalArgs;
use furlong_engine::runtime::python::find_interpreter;
use furlong_pool::script::quoted;
use furlong_wire::capability::ClusterName;
use rustix::process::{Pid, Signal, kill_process};
use tokio::process::{Child, Command};

use super::allocation::Allocation;
use super::member::Member;
use super::{EngineFlags, LocalCluster, LocalOptions};
use crate::exit::ExitCode;
use crate::print;
use crate::program::Program;

/// Flags of `cluster run`.
#[derive(Debug, clap::Args)]
pub struct ClusterRunArgs {
    /// Engines of each machine; by default one for each of its cores that the job has
    #[arg(short = 'n', value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1024))]
    engines: Option<u32>,
    /// Python interpreter of the engines
    #[arg(long, value_name = "PATH")]
    python: Option<PathBuf>,
    #[command(flatten)]
    engine: EngineFlags,
    /// Command to run with the cluster; it finds its way in by `FURLONG_CAP`
    #[arg(last = true, required = true, value_name = "COMMAND")]
    command: Vec<OsString>,
}

/// The time limit for engines on other machines to come.
const START_TIMEOUT: Duration = Duration::from_secs(60);
/// The time limit for the command, and for engines, to end when they are told to.
const STOP_TIMEOUT: Duration = Duration::from_secs(10);
/// The time between two looks for engines.
const LOOK: Duration = Duration::from_millis(20);

/// Runs a command with a cluster of its own. Afterwards nothing runs, and nothing is left.
pub async fn run(args: ClusterRunArgs, program: &Program) -> Result<ExitCode> {
    let host = furlong_host::machine_name();
    let variable = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
    let allocation = Allocation::find(&variable, &host).map_err(anyhow::Error::msg)?;
    let home = tempfile::Builder::new().prefix("furlong-run-").tempdir();
    let home = home.context("there is no folder for the cluster")?;
    let cores = || std::thread::available_parallelism().map_or(1, std::num::NonZero::get) as u32;
    let here = match &allocation {
        Allocation::Local(known) => args.engines.or(*known).unwrap_or_else(cores),
        Allocation::Slurm { .. } => 0,
        Allocation::Hosts { here, .. } => args.engines.unwrap_or(*here),
    };
    let options = LocalOptions {
        program: program.clone(),
        home: home.path().join("home"),
        cluster: ClusterName::default(),
        engines: here,
        port: None,
        python: args.python.clone(),
        journal: JournalArgs::default(),
        engine_flags: args.engine.flags(),
        broker_memory: None,
        has_pools: false,
        is_open: !matches!(allocation, Allocation::Local(_)),
    };
    let mut cluster = LocalCluster::new(options);
    let mut others = Vec::new();
    let mut stop = pin!(furlong_host::stop::requested(false));
    let work = async {
        cluster.start().await?;
        let wanted = start_others(&mut others, &args, &allocation, &cluster, program).await?;
        engines_come(&cluster, &mut others, (here + wanted) as usize).await?;
        spawn(&args.command, &cluster)
    };
    let started = tokio::select! {
        started = work => started,
        reason = &mut stop => Err(anyhow::anyhow!("{reason} before the cluster stood")),
    };
    let ended = match started {
        Ok(mut child) => {
            let ended = tokio::select! {
                status = child.wait() => Some(status),
                _ = cluster.look_after(|_| ()) => None,
                _ = &mut stop => None,
            };
            match ended {
                Some(status) => status.map_err(Into::into),
                None => end(child).await,
            }
        }
        Err(error) => Err(error),
    };
    others.iter_mut().for_each(Member::ask_to_leave);
    for other in &mut others {
        other.leave(Instant::now() + STOP_TIMEOUT).await;
    }
    cluster.stop().await;
    if let Err(error) = home.close() {
        print::note!("furlong: the cluster's folder could not be removed: {error}");
    }
    Ok(code(ended?))
}

/// Starts the engines of other machines, whose number it gives. The capability goes through their
/// standard input: it is on no disk there, and in no list of processes.
async fn start_others(
    others: &mut Vec<Member>,
    args: &ClusterRunArgs,
    allocation: &Allocation,
    cluster: &LocalCluster,
    program: &Program,
) -> Result<u32> {
    let mut wanted = 0;
    let mut commands: Vec<(String, Command)> = Vec::new();
    match allocation {
        Allocation::Local(_) => {}
        Allocation::Slurm { nodes, cores } => {
            let each = args.engines.or(*cores).unwrap_or(1);
            wanted = nodes * each;
            let mut command = Command::new("srun");
            let nodes = nodes.to_string();
            command.args(["--nodes", &nodes, "--ntasks", &nodes, "--ntasks-per-node=1"]);
            // The command and its tasks may call `srun` too.
            command.args(["--overlap", "--cpu-bind=none", "--kill-on-bad-exit=0", "--quiet"]);
            command.args(engine(args, each, program)?);
            commands.push(("srun".to_owned(), command));
        }
        Allocation::Hosts { launcher, others, .. } => {
            for (host, cores) in others {
                let each = args.engines.unwrap_or(*cores);
                wanted += each;
                let words = engine(args, each, program)?;
                let line = words.iter().map(|word| quoted(word)).collect::<Vec<_>>().join(" ");
                let mut command = Command::new(launcher[0]);
                command.args(&launcher[1..]).arg(host).arg(line);
                commands.push((format!("{} {host}", launcher[0]), command));
            }
        }
    }
    let path = cluster.engine_capability();
    for (what, mut command) in commands {
        // Its folder is of this machine.
        command.env_remove("FURLONG_HOME").env_remove("FURLONG_CAP");
        let capability =
            std::fs::read(&path).with_context(|| format!("{} cannot be read", path.display()))?;
        let mut member = Member::spawn(&format!("`{what}`"), command)
            .with_context(|| format!("`{what}` cannot be run"))?;
        member.write(&capability).await;
        others.push(member);
    }
    Ok(wanted)
}

/// The words that start so many engines on a machine.
fn engine(args: &ClusterRunArgs, engines: u32, program: &Program) -> Result<Vec<String>> {
    let mut words = program.words()?;
    words.extend(["engine", "--cap", "-", "--stop-with-stdin", "-n"].map(str::to_owned));
    words.push(engines.to_string());
    let python = match &args.python {
        Some(python) => Some(python.clone()),
        None => find_interpreter(None).ok(),
    };
    if let Some(python) = python {
        words.extend(["--python".to_owned(), python.to_string_lossy().into_owned()]);
    }
    words.extend(args.engine.flags());
    Ok(words)
}

/// Waits until so many engines are online.
async fn engines_come(cluster: &LocalCluster, others: &mut [Member], wanted: usize) -> Result<()> {
    if others.is_empty() {
        return Ok(());
    }
    let client = cluster.client().await?;
    let deadline = Instant::now() + START_TIMEOUT;
    loop {
        let online = client.engines().await?.len();
        if online >= wanted {
            break;
        }
        for other in others.iter_mut() {
            if other.child.try_wait()?.is_some() {
                bail!("engines of another machine do not start: {}", other.said_at_its_end().await);
            }
        }
        ensure!(Instant::now() < deadline, "only {online} of {wanted} engines came");
        tokio::time::sleep(LOOK).await;
    }
    client.close().await;
    Ok(())
}

fn spawn(words: &[OsString], cluster: &LocalCluster) -> Result<Child> {
    let (name, args) = words.split_first().context("name a command")?;
    let mut command = Command::new(name);
    command.args(args).env("FURLONG_CAP", cluster.capability()).kill_on_drop(true);
    command.stdin(Stdio::inherit());
    command.spawn().with_context(|| format!("`{}` cannot be run", name.display()))
}

/// Ends a command: it is told, and killed if that does not help.
async fn end(mut child: Child) -> Result<ExitStatus> {
    if let Some(pid) = child.id().and_then(|pid| Pid::from_raw(pid.cast_signed())) {
        // One that has ended meanwhile is what is wanted.
        let _ = kill_process(pid, Signal::TERM);
    }
    if let Ok(status) = tokio::time::timeout(STOP_TIMEOUT, child.wait()).await {
        return Ok(status?);
    }
    child.start_kill()?;
    Ok(child.wait().await?)
}

/// The exit code of the command; of one that a signal has ended, what a shell says.
fn code(status: ExitStatus) -> ExitCode {
    let code = status.code().or_else(|| status.signal().map(|signal| 128 + signal));
    ExitCode::from(code.and_then(|code| u8::try_from(code).ok()).unwrap_or(1))
}
