//! The `engine` program: its command line and its log.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result};
use furlong_host::durations::{duration, limit};
use furlong_host::home::Home;
use furlong_host::log::{self, Format, Level};
use furlong_host::memory_size::MemorySize;
use furlong_host::private_file::ensure_private_dir;
use furlong_wire::capability::ClusterName;

use crate::Engine;
use crate::batch;
use crate::deadline::STOP_BEFORE;

/// Flags of `engine`.
#[derive(Clone, Debug, clap::Args)]
pub struct EngineArgs {
    /// Capability file; by default `FURLONG_CAP`, else engine.cap.json of the cluster. It may come
    /// later than the engine. `-` reads it from standard input
    #[arg(long, value_name = "FILE")]
    pub cap: Option<PathBuf>,
    /// Name of the cluster whose capability file is used
    #[arg(long, value_name = "NAME", default_value_t)]
    pub cluster: ClusterName,
    /// Number of engines behind this process's one connection: each has its own id, queue and
    /// interpreter
    #[arg(
        short = 'n',
        value_name = "N",
        default_value_t = 1,
        value_parser = clap::value_parser!(u32).range(1..=1024)
    )]
    pub slots: u32,
    /// Python interpreter; by default that of the active virtual environment, else python3. It
    /// needs no package of ours
    #[arg(long, value_name = "PATH")]
    pub python: Option<PathBuf>,
    /// Label that tasks can require; more of them with commas, or by repeating the flag
    #[arg(long = "label", value_name = "LABEL", value_delimiter = ',')]
    pub labels: Vec<String>,
    /// Variable for the interpreters and commands of tasks, as NAME=VALUE; repeat the flag for more
    #[arg(long = "env", value_name = "NAME=VALUE", value_parser = variable)]
    pub env: Vec<(String, String)>,
    /// Directory in which tasks run; by default the current one
    #[arg(long, value_name = "DIR")]
    pub cwd: Option<PathBuf>,
    /// Id that the first engine asks for, the others following; by default from the rank of MPI or
    /// Slurm, if there is one
    #[arg(long, value_name = "N")]
    pub id: Option<u32>,
    /// Give each engine one GPU: sets `CUDA_VISIBLE_DEVICES` for its tasks, in turn from the list
    /// in that variable, else by the engine's place in this process
    #[arg(long)]
    pub cuda: bool,
    /// Memory that each process of a task may take, as `4G`, `512M` or `10%` of the machine's: its
    /// interpreter, or any process of a command. In a control group of its own, also what one
    /// engine's processes may take together. Rust functions are not bounded by it
    #[arg(long, value_name = "SIZE")]
    pub memory: Option<MemorySize>,
    /// After SIGTERM, how long to finish what runs before it is given up; by default as long as it
    /// takes
    #[arg(long, value_name = "SECONDS", value_parser = seconds)]
    pub drain_timeout: Option<Duration>,
    /// Time that the process has, from its start on, as `90`, `10m` or `2h`: 15 s before that has
    /// passed it gives back what it runs, and leaves. By default as the batch system says in whose
    /// job it runs
    #[arg(long, value_name = "TIME", value_parser = time_limit)]
    pub time_limit: Option<Duration>,
    /// How long before its end it takes nothing new; by default a tenth of its time, from 30 s to
    /// 10 min
    #[arg(long, value_name = "TIME", value_parser = duration)]
    pub drain_before: Option<Duration>,
    /// Leave after this time without a broker, if nothing runs; by default never
    #[arg(long, value_name = "TIME", value_parser = limit)]
    pub broker_timeout: Option<Duration>,
    /// Leave after this time with nothing to run; by default never
    #[arg(long, value_name = "TIME", value_parser = limit)]
    pub idle_timeout: Option<Duration>,
    /// Name of the job of a batch system in which it runs, for people; by default as Slurm, PBS,
    /// Grid Engine, LSF or `HTCondor` say it
    #[arg(long, value_name = "ID")]
    pub job: Option<String>,
    /// Log level: error, warn, info, debug or trace
    #[arg(long, value_name = "LEVEL", default_value = "info")]
    pub log_level: Level,
    /// Format of log lines: text or json
    #[arg(long, value_name = "FORMAT", default_value_t)]
    pub log_format: Format,
    /// Stop when standard input ends: for a program that starts engines and must not leave them
    /// behind
    #[arg(long, hide = true)]
    pub stop_with_stdin: bool,
}

/// Runs the stock engine.
///
/// # Errors
/// A fatal condition: one line that says how to mend it.
pub fn run(args: EngineArgs) -> Result<()> {
    let dir = Home::from_env()?.cluster(&args.cluster);
    ensure_private_dir(dir.path())?;
    ensure_private_dir(&dir.log())?;
    let job = args.job.or_else(|| batch::job(&batch::of_process));
    let log = log::engine_log(&dir.log(), job.as_deref());
    log::start(Some(&log), Some(args.log_level), args.log_level, args.log_format)
        .with_context(|| format!("cannot write the log {}", log.display()))?;
    let mut engine = Engine::builder()
        .slots(args.slots)
        .cluster(args.cluster)
        .stop_with_stdin(args.stop_with_stdin);
    engine = args.labels.into_iter().fold(engine, crate::EngineBuilder::label);
    engine = args.env.into_iter().fold(engine, |engine, (name, value)| engine.env(name, value));
    engine = engine.gpu_for_each_slot(args.cuda);
    if let Some(size) = args.memory {
        engine = engine.memory(size.bytes());
    }
    if let Some(path) = args.cwd {
        engine = engine.working_dir(path);
    }
    if let Some(id) = args.id {
        engine = engine.first_id(id);
    }
    if let Some(timeout) = args.drain_timeout {
        engine = engine.drain_timeout(timeout);
    }
    if let Some(limit) = args.time_limit {
        engine = engine.time_limit(limit);
    }
    if let Some(before) = args.drain_before {
        engine = engine.drain_before(before);
    }
    if let Some(timeout) = args.broker_timeout {
        engine = engine.broker_timeout(timeout);
    }
    if let Some(timeout) = args.idle_timeout {
        engine = engine.idle_timeout(timeout);
    }
    if let Some(job) = job {
        engine = engine.job(job);
    }
    if let Some(path) = args.cap {
        engine = engine.capability(path);
    }
    if let Some(python) = args.python {
        engine = engine.python(python);
    }
    Ok(engine.run()?)
}

fn variable(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => Err("write it as NAME=VALUE".to_owned()),
    }
}

fn time_limit(text: &str) -> Result<Duration, String> {
    let time = duration(text)?;
    let is_enough = time > STOP_BEFORE;
    is_enough.then_some(time).ok_or_else(|| "it stops 15 s before the limit: give more".to_owned())
}

fn seconds(text: &str) -> Result<Duration, String> {
    let seconds = text.parse().ok().and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
    seconds.ok_or_else(|| "write it as a number of seconds, as 30 or 0.5".to_owned())
}
