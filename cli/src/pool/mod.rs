//! `furlong pool`: engines that a batch system, or `ssh`, starts.

mod batch;
mod broker;
mod command;
mod files;
mod hosts;
mod keep;
mod options;
mod pods;
mod show;
mod site;
mod stop;

use std::fs::File;
use std::io::{Seek, Write};
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use clap::Subcommand;
use furlong_broker::BrokerLock;
use furlong_host::home::{ClusterDir, Home};
use furlong_pool::keeper::{JobId, Submission, Wanted};
use furlong_pool::script;
use furlong_pool::spec::{PoolName, PoolSpec};
use furlong_pool::system;
use furlong_wire::capability::ClusterName;

use crate::cluster::{EngineFlags, inherited};
use crate::exit::ExitCode;
use crate::print;
use crate::program::Program;
use command::Scheduler;
use files::PoolDir;
use hosts::HostsPool;
use keep::KeeperLock;
pub use options::{PoolFlags, PoolRequest};
pub use show::{in_short, wanted_of_all as wanted};
use site::Site;
pub use stop::{STOP_TIMEOUT, has_pools, schedulers, stop_jobs, stop_pools};

const AFTER: &str = "\
Exit codes: 0 it is done, or is going to be; 1 an error; 2 wrong usage.

Examples:
  furlong pool
  furlong pool add gpu --on slurm -n 0..8 --walltime 1h -- --gres=gpu:1
  furlong pool scale gpu 4
  furlong pool log 4711_1
  furlong pool resume gpu
  furlong pool remove gpu";

/// Flags of `pool`.
#[derive(Debug, clap::Args)]
#[command(after_long_help = AFTER, after_help = "`--help` says more, with examples.")]
pub struct PoolArgs {
    #[command(subcommand)]
    command: Option<PoolCommand>,
    /// Print a JSON array
    #[arg(long)]
    json: bool,
    /// Name of the cluster
    #[arg(long, value_name = "NAME", default_value_t, global = true)]
    cluster: ClusterName,
}

/// Commands for pools.
#[derive(Debug, Subcommand)]
enum PoolCommand {
    /// Add engines of a further kind to a cluster that runs
    #[command(after_help = "Example: furlong pool add slurm --on slurm -n 64 --walltime 2h")]
    Add(Box<AddArgs>),
    /// Change the number of engines of a pool
    #[command(after_help = "Example: furlong pool scale slurm 0..128")]
    Scale {
        /// Name of the pool
        pool: PoolName,
        /// Engines: a number, or a range within which they follow the work
        #[arg(value_name = "N|A..B")]
        engines: Wanted,
    },
    /// Print what a job has written
    #[command(after_help = "Example: furlong pool log 4711_1")]
    Log {
        /// Id of the job, as `furlong pool` shows it
        job: String,
    },
    /// Go on with a pool that is paused, once what was wrong is mended
    #[command(after_help = "Example: furlong pool resume slurm")]
    Resume {
        /// Name of the pool
        pool: PoolName,
    },
    /// Remove a pool: its engines finish what they run, and its jobs end
    #[command(after_help = "Example: furlong pool remove gpu --now")]
    Remove {
        /// Name of the pool
        pool: PoolName,
        /// Cancel its jobs at once; what they run goes to other engines
        #[arg(long)]
        now: bool,
    },
    /// Print the script of a pool's jobs, with placeholders, to be changed and given to --template
    #[command(after_help = "Example: furlong pool template slurm > my.sh")]
    Template {
        /// Name of the pool, or of a system
        #[arg(value_name = "POOL|SYSTEM")]
        pool: PoolName,
    },
    /// List the pools that are defined in `~/.furlong/pools.toml` and `/etc/furlong/pools.toml`
    #[command(after_help = "Example: furlong pool definitions")]
    Definitions {
        /// Print a JSON array
        #[arg(long)]
        json: bool,
    },
    /// The process that keeps a cluster's pools
    #[command(hide = true)]
    Keep {
        /// Stop when standard input ends
        #[arg(long)]
        stop_with_stdin: bool,
    },
}

/// Flags of `pool add`.
#[derive(Debug, clap::Args)]
struct AddArgs {
    /// Name of the pool
    pool: PoolName,
    /// Engines: a number, or a range within which they follow the work; on hosts, those of each
    #[arg(short = 'n', value_name = "N|A..B")]
    engines: Option<Wanted>,
    /// Python interpreter of the engines
    #[arg(long, value_name = "PATH")]
    python: Option<std::path::PathBuf>,
    #[command(flatten)]
    flags: PoolFlags,
    #[command(flatten)]
    engine: EngineFlags,
}

/// The time limit for a keeper to begin.
const KEEPER_TIMEOUT: Duration = Duration::from_secs(10);

/// Runs a `pool` command.
pub async fn run(args: PoolArgs, program: &Program) -> Result<ExitCode> {
    let home = Home::from_env()?;
    let cluster = home.cluster(&args.cluster);
    match args.command {
        None if args.json => print::json(&show::as_json(&cluster))?,
        None => show::print(&cluster)?,
        Some(PoolCommand::Add(add)) => return add_pool(*add, &home, &cluster, program).await,
        Some(PoolCommand::Scale { pool, engines }) => {
            scale(&home, &cluster, &pool, engines, program)?;
        }
        Some(PoolCommand::Log { job }) => log(&cluster, &job).await?,
        Some(PoolCommand::Resume { pool }) => {
            files::pool(&cluster, &pool)?.ask_to_resume()?;
            let remark = see_to_it(&cluster, program)?;
            print::line(format!("pool {pool} is tried again{remark}"))?;
        }
        Some(PoolCommand::Remove { pool, now }) => remove(&cluster, &pool, now, program)?,
        Some(PoolCommand::Template { pool }) => template(&home, &cluster, &pool)?,
        Some(PoolCommand::Definitions { json: true }) => {
            print::json(&Site::read(&home)?.as_json()?)?;
        }
        Some(PoolCommand::Definitions { json: false }) => Site::read(&home)?.print()?,
        Some(PoolCommand::Keep { stop_with_stdin }) => {
            if !stop_with_stdin {
                let _ = rustix::process::setsid();
            }
            let is_over = keep::keep(&cluster, stop_with_stdin).await?;
            if is_over && !stop_with_stdin {
                // Nobody else ends the jobs of a broker that was started by hand.
                stop_pools(&cluster).await?;
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}

async fn add_pool(
    add: AddArgs,
    home: &Home,
    cluster: &ClusterDir,
    program: &Program,
) -> Result<ExitCode> {
    let request = PoolRequest {
        name: Some(add.pool.clone()),
        wanted: add.engines,
        flags: &add.flags,
        engine: &add.engine,
        python: add.python.as_deref(),
        program,
    };
    let spec = request.spec(home, cluster)?;
    if add.flags.dry_run {
        return dry_run(&spec, cluster).await;
    }
    if files::pool(cluster, &spec.name).is_ok() {
        bail!(
            "there is a pool {0}; `furlong pool scale {0} N` changes its engines, `furlong pool \
             remove {0}` removes it",
            spec.name
        );
    }
    ensure!(
        BrokerLock::is_held(cluster),
        "cluster {0} does not run here; `furlong cluster start --cluster {0}` starts it",
        cluster.name()
    );
    prepare(&spec, cluster).await?;
    let remark = see_to_it(cluster, program)?;
    print::line(format!(
        "pool {}: {} engines wanted; `furlong pool` shows it{remark}",
        spec.name, spec.wanted
    ))?;
    Ok(ExitCode::SUCCESS)
}

/// Asks the system if it would take the jobs, and only then writes down that they are wanted.
///
/// # Errors
/// It would not, or cannot be asked.
pub async fn prepare(spec: &PoolSpec, cluster: &ClusterDir) -> Result<()> {
    let mut spec = spec.clone();
    if !HostsPool::is_system(&spec.system) {
        pods::pin(&mut spec).await?;
        if spec.wanted.max > 0 {
            check(&spec, cluster).await?;
        }
        files::note_used_system(cluster, &spec)?;
    }
    PoolDir::of(cluster, spec.name.clone()).write_spec(&spec)
}

/// Prints the script of a pool and the command that submits it, and asks the system about them.
/// Nothing is left of it.
///
/// # Errors
/// The system would refuse the jobs, or cannot be asked.
pub async fn dry_run(spec: &PoolSpec, cluster: &ClusterDir) -> Result<ExitCode> {
    ensure!(
        !HostsPool::is_system(&spec.system),
        "--dry-run is for batch systems; `ssh` and `mpirun` have no script"
    );
    let scheduler = batch::scheduler(spec)?;
    if scheduler.system.is_of_pods {
        print::lines(pods::secret_without_value(spec, cluster))?;
        print::line("---")?;
    }
    print::lines(first_script(spec, cluster, &scheduler).trim_end())?;
    let path = PoolDir::of(cluster, spec.name.clone()).path().join("script.sh");
    let args = if scheduler.system.is_of_pods { &[][..] } else { &spec.job.args[..] };
    let line = scheduler.submit_line(args, &path.to_string_lossy());
    print::line("")?;
    print::line(format!("# {line}"))?;
    let said = check(spec, cluster).await?;
    said.lines().try_for_each(|line| print::line(format!("# {line}")))?;
    Ok(ExitCode::SUCCESS)
}

async fn check(spec: &PoolSpec, cluster: &ClusterDir) -> Result<String> {
    let scheduler = batch::scheduler(spec)?;
    let text = first_script(spec, cluster, &scheduler);
    let mut file: File = tempfile::tempfile().context("there can be no temporary file")?;
    file.write_all(text.as_bytes())?;
    file.rewind()?;
    let args = if scheduler.system.is_of_pods { &[][..] } else { &spec.job.args[..] };
    scheduler.check(file, args).await.map_err(anyhow::Error::msg)
}

/// The name of a pool's jobs. Without a cluster yet, they have none yet.
fn first_name(spec: &PoolSpec, cluster: &ClusterDir) -> String {
    let prefix = files::job_prefix(cluster);
    let prefix = prefix.unwrap_or_else(|_| format!("furlong-{}-NEW-", cluster.name()));
    format!("{prefix}{}", spec.name)
}

/// The script of a full job.
fn first_script(spec: &PoolSpec, cluster: &ClusterDir, scheduler: &Scheduler) -> String {
    let engines = spec.per_job.min(spec.wanted.max.max(1));
    let jobs = (spec.wanted.max / engines).clamp(1, spec.limits.array_max);
    let folder = PoolDir::of(cluster, spec.name.clone());
    let folder = folder.path().to_string_lossy().into_owned();
    let submission = Submission { jobs, engines, lasting: true };
    let name = first_name(spec, cluster);
    script::write(spec, scheduler.system, &name, &folder, submission)
}

/// Starts the process that keeps the pools, which outlives this one.
fn start_keeper(cluster: &ClusterDir, program: &Program) -> Result<()> {
    let mut command = program.command()?;
    command.args(["pool", "keep", "--cluster", cluster.name().as_str()]);
    inherited::keep_from_children();
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let mut child = command.spawn().context("cannot start this program again")?;
    let deadline = Instant::now() + KEEPER_TIMEOUT;
    while KeeperLock::holder(cluster).is_none() {
        let log = cluster.log().join("keeper.log");
        let is_late = Instant::now() >= deadline || child.try_wait()?.is_some();
        ensure!(!is_late, "nobody keeps the pool; the log is {}", log.display());
        std::thread::sleep(Duration::from_millis(10));
    }
    Ok(())
}

fn scale(
    home: &Home,
    cluster: &ClusterDir,
    pool: &PoolName,
    engines: Wanted,
    program: &Program,
) -> Result<()> {
    let dir = files::pool(cluster, pool)?;
    let mut spec = dir.spec()?;
    ensure!(
        !spec.is_removed,
        "pool {pool} is being removed; when `furlong pool` shows it no longer, `furlong pool add` \
         makes another of that name"
    );
    ensure!(
        spec.system != HostsPool::MPI,
        "the engines of `mpirun` are one job; `furlong pool add` adds others, `furlong pool remove \
         {pool}` ends these"
    );
    if spec.system == HostsPool::SSH && engines.is_elastic() {
        bail!("hosts have no queue: give a number of engines, of all hosts together");
    }
    let before = spec.wanted;
    spec.wanted = engines;
    // What an administrator has bounded since is not held against fewer engines.
    if engines.max > before.max {
        Site::read(home)?.check(&spec)?;
    }
    dir.write_spec(&spec)?;
    let remark = see_to_it(cluster, program)?;
    print::line(format!("pool {pool}: {engines} engines wanted, {before} before{remark}"))
}

fn remove(cluster: &ClusterDir, pool: &PoolName, now: bool, program: &Program) -> Result<()> {
    let dir = files::pool(cluster, pool)?;
    let mut spec = dir.spec()?;
    spec.is_removed = true;
    spec.ends_now |= now;
    dir.write_spec(&spec)?;
    let remark = see_to_it(cluster, program)?;
    let when = if spec.ends_now { "its jobs are cancelled" } else { "its engines have left" };
    print::line(format!("pool {pool} is removed when {when}{remark}"))
}

/// Has somebody do what was asked: starts a keeper if there is none, or gives a remark if the
/// cluster itself does not run.
fn see_to_it(cluster: &ClusterDir, program: &Program) -> Result<&'static str> {
    if KeeperLock::holder(cluster).is_some() {
        return Ok("");
    }
    if !BrokerLock::is_held(cluster) {
        return Ok("; the cluster does not run here now, and this is done when it does");
    }
    start_keeper(cluster, program)?;
    Ok("")
}

async fn log(cluster: &ClusterDir, job: &str) -> Result<()> {
    let is_id = !job.is_empty() && !job.contains('/') && !job.starts_with('.');
    let job = JobId(job.to_owned());
    let all = std::fs::read_dir(files::folder(cluster)).into_iter().flatten().flatten();
    let names = all.filter_map(|entry| entry.file_name().to_str()?.parse::<PoolName>().ok());
    let mut paths = names.map(|name| PoolDir::of(cluster, name).log(&job));
    let path = paths.find(|path| is_id && path.is_file());
    if path.is_none()
        && let Some(text) = pods::log(cluster, &job).await?
    {
        return print::lines(text.trim_end());
    }
    let path = path.with_context(|| {
        format!("job {job} has written nothing, or is none of ours; `furlong pool` shows the jobs")
    })?;
    let text = std::fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
    print::lines(String::from_utf8_lossy(&text).trim_end())
}

fn template(home: &Home, cluster: &ClusterDir, pool: &PoolName) -> Result<()> {
    let own = files::pool(cluster, pool).and_then(|dir| dir.spec()).ok();
    let (system, text) = match own {
        Some(spec) => (Some(spec.system), spec.job.template),
        None => match Site::read(home)?.find(pool.as_str())? {
            Some(defined) => (defined.pool.on, defined.pool.template.map(text_of).transpose()?),
            None => (None, None),
        },
    };
    let system = system::by_name(system.as_deref().unwrap_or(pool.as_str()));
    let text = text.or_else(|| system.map(|system| system.script.to_owned()));
    let text = text.with_context(|| format!("there is no pool and no batch system {pool}"))?;
    print::lines(text.trim_end())
}

fn text_of(path: std::path::PathBuf) -> Result<String> {
    std::fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))
}
