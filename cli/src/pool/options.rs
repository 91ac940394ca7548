//! The flags of a pool, and what is made of them.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use furlong_engine::runtime::python::find_interpreter;
use furlong_host::durations;
use furlong_host::home::{ClusterDir, Home};
use furlong_pool::keeper::{Limits, Wanted};
use furlong_pool::script::check_template;
use furlong_pool::spec::{EngineSpec, Host, JobSpec, PoolName, PoolSpec, hosts};
use furlong_pool::system::{self, System};
use furlong_wire::token::Role;

use super::hosts::HostsPool;
use super::site::Site;
use crate::cluster::EngineFlags;
use crate::program::Program;

/// The flags of a pool.
#[derive(Clone, Debug, clap::Args)]
pub struct PoolFlags {
    /// System that starts the engines: `slurm`, `pbs`, `sge`, `lsf`, `htcondor`, `k8s`, `mpi` or
    /// `ssh`; or
    /// the name of a
    /// pool that is defined in `~/.furlong/pools.toml` or `/etc/furlong/pools.toml`
    #[arg(long, value_name = "NAME")]
    pub on: Option<String>,
    /// Engines of one job, or of one host
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1024))]
    pub per_job: Option<u32>,
    /// Cores of one engine
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1024))]
    pub cpus: Option<u32>,
    /// Time that a job may take, as `2h`; by default 1h
    #[arg(long, value_name = "TIME", value_parser = durations::limit)]
    pub walltime: Option<Duration>,
    /// Shell command in each job before its engines, as `module load python`; repeat the flag for
    /// more
    #[arg(long, value_name = "COMMAND")]
    pub setup: Vec<String>,
    /// Script of the jobs; `furlong pool template` prints one to begin with
    #[arg(long, value_name = "FILE")]
    pub template: Option<PathBuf>,
    /// Command that leads to where the system's commands are, as `ssh login`
    #[arg(long, value_name = "COMMAND")]
    pub via: Option<String>,
    /// Hosts for `--on ssh`: a file with a line each, as `node1` or `user@node2:2222 8`
    #[arg(long, value_name = "FILE")]
    pub hosts: Option<PathBuf>,
    /// Image of the containers for `--on k8s`, with `furlong` and Python
    #[arg(long, value_name = "IMAGE")]
    pub image: Option<String>,
    /// Program of the engines, where it is not at the path of this one
    #[arg(long, value_name = "COMMAND")]
    pub program: Option<String>,
    /// Jobs that may wait or run at a time; by default 100
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub max_jobs: Option<u32>,
    /// Jobs that may wait at a time; by default 8
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub max_pending: Option<u32>,
    /// Print the script and the command, ask the system if it would take them, and leave nothing
    #[arg(long)]
    pub dry_run: bool,
    /// Arguments for the system's command that submits, as they are
    #[arg(last = true, value_name = "SCHEDULER ARGS")]
    pub args: Vec<String>,
}

/// A pool is asked for by these.
#[derive(Debug)]
pub struct PoolRequest<'a> {
    /// Its name; by default that of its system.
    pub name: Option<PoolName>,
    /// The engines.
    pub wanted: Option<Wanted>,
    /// The flags of the pool.
    pub flags: &'a PoolFlags,
    /// The flags of its engines.
    pub engine: &'a EngineFlags,
    /// Their interpreter.
    pub python: Option<&'a Path>,
    /// This program.
    pub program: &'a Program,
}

/// Time of a job, if nobody says.
const WALLTIME: Duration = Duration::from_secs(3_600);
/// The least time of a job.
pub(super) const WALLTIME_MIN: Duration = Duration::from_secs(60);
/// Jobs that may wait or run, if nobody says.
const JOBS_MAX: u32 = 100;
/// Jobs that may wait, if nobody says.
const PENDING_MAX: u32 = 8;

impl PoolFlags {
    /// Returns true if a flag is given that only a pool has.
    pub fn are_given(&self) -> bool {
        let texts = [&self.on, &self.via, &self.program, &self.image];
        texts.iter().any(|text| text.is_some())
            || self.template.is_some()
            || self.hosts.is_some()
            || self.walltime.is_some()
            || self.dry_run
            || ![&self.setup, &self.args].iter().all(|words| words.is_empty())
            || [self.per_job, self.cpus, self.max_jobs, self.max_pending]
                .iter()
                .any(Option::is_some)
    }

    /// These flags, and where they say nothing those of a definition. What can be given several
    /// times comes behind what the definition has.
    fn over(&self, base: Self) -> Self {
        Self {
            on: base.on,
            per_job: self.per_job.or(base.per_job),
            cpus: self.cpus.or(base.cpus),
            walltime: self.walltime.or(base.walltime),
            setup: [base.setup, self.setup.clone()].concat(),
            template: self.template.clone().or(base.template),
            via: self.via.clone().or(base.via),
            hosts: self.hosts.clone().or(base.hosts),
            image: self.image.clone().or(base.image),
            program: self.program.clone().or(base.program),
            max_jobs: self.max_jobs.or(base.max_jobs),
            max_pending: self.max_pending.or(base.max_pending),
            dry_run: self.dry_run,
            args: [base.args, self.args.clone()].concat(),
        }
    }
}

/// The names of all systems, as words for a sentence.
pub(super) fn systems() -> String {
    let names = system::all().map(|it| it.name).chain(HostsPool::SYSTEMS);
    names.map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ")
}

/// Returns true if there is a system of this name.
pub(super) fn is_system(name: &str) -> bool {
    system::by_name(name).is_some() || HostsPool::is_system(name)
}

impl PoolRequest<'_> {
    /// The pool that is asked for: by flags, over what a file defines under the name that stands
    /// behind `--on`, or is the pool's own.
    ///
    /// # Errors
    /// A mistake in the request, or in such a file.
    pub fn spec(&self, home: &Home, cluster: &ClusterDir) -> Result<PoolSpec> {
        let site = Site::read(home)?;
        let on = self.flags.on.as_deref();
        let name = on.or(self.name.as_ref().map(PoolName::as_str)).unwrap_or_default();
        let spec = if let Some(base) = site.find(name)? {
            let request = PoolRequest {
                name: self.name.clone(),
                wanted: self.wanted.or(base.engines),
                flags: &self.flags.over(base.pool),
                engine: &self.engine.over(base.engine),
                python: self.python.or(base.python.as_deref()),
                program: self.program,
            };
            let spec = request.spec_by_flags(name, &site, home, cluster);
            let file = site.file_of(name).unwrap_or(Path::new("a file"));
            spec.with_context(|| format!("pool {name} of {}", file.display()))?
        } else {
            self.spec_by_flags(name, &site, home, cluster)?
        };
        site.check(&spec)?;
        Ok(spec)
    }

    fn spec_by_flags(
        &self,
        name: &str,
        site: &Site,
        home: &Home,
        cluster: &ClusterDir,
    ) -> Result<PoolSpec> {
        let flags = self.flags;
        let on = flags.on.as_deref();
        let defined = site.names().map_or_else(String::new, |it| format!("; defined are {it}"));
        let on =
            on.with_context(|| format!("name the system with --on: {}{defined}", systems()))?;
        let is_hosts = on == HostsPool::SSH;
        let system = system::by_name(on);
        // A pool without a name has that of its system, whatever it was called.
        let name = if name == on { system.map_or(on, |system| system.name) } else { name };
        let on = system.map_or(on, |system| system.name);
        if !is_system(on) {
            bail!("there is no system `{on}`; --on takes {}{defined}", systems());
        }
        let (jobs_max, pending_max, walltime) = site.bounded(
            (JOBS_MAX, PENDING_MAX),
            system.map_or(WALLTIME, |system| Duration::from_secs(system.walltime_s)),
        );
        let mut job = self.job(on, system, walltime)?;
        if on == HostsPool::MPI {
            job.hosts = self.by_mpirun()?;
        }
        let per_job = flags.per_job.unwrap_or(1);
        let on_hosts: u32 = job.hosts.iter().map(|host| host.engines.unwrap_or(per_job)).sum();
        let (wanted, per_job) = match (self.wanted, is_hosts) {
            (Some(wanted), false) => (wanted, per_job),
            (None, false) => bail!("say how many engines with -n N, or -n A..B"),
            // On hosts, `-n` is what each of them gets.
            (Some(each), true) => {
                ensure!(!each.is_elastic(), "hosts have no queue: give -n N, the engines of each");
                let of = |engines: Option<u32>| engines.unwrap_or(each.max);
                let all = job.hosts.iter().map(|host| of(host.engines)).sum();
                (Wanted::exactly(all), each.max.max(1))
            }
            (None, true) => (Wanted::exactly(on_hosts), per_job),
        };
        let limits = Limits {
            jobs_max: flags.max_jobs.unwrap_or(jobs_max),
            pending_max: flags.max_pending.unwrap_or(pending_max),
            array_max: system.map_or(1, |system| system.array_max),
        };
        let name =
            self.name.clone().map_or_else(|| name.parse(), Ok).map_err(anyhow::Error::msg)?;
        let engine = self.engine(system, home, cluster)?;
        let system = on.to_owned();
        let (is_removed, ends_now) = (false, false);
        Ok(PoolSpec { name, system, wanted, per_job, limits, job, engine, is_removed, ends_now })
    }

    /// The engines of `mpirun`, in the place of hosts: all of them are one.
    fn by_mpirun(&self) -> Result<Vec<Host>> {
        let wanted = self.wanted.context("say how many engines with -n N")?;
        ensure!(
            !wanted.is_elastic() && wanted.max > 0,
            "the engines of `mpirun` are one job: give -n N"
        );
        let is_number = |arg: &&String| ["-n", "-np", "--np", "-c"].contains(&arg.as_str());
        if let Some(wrong) = self.flags.args.iter().find(is_number) {
            bail!("leave `{wrong}` out of the arguments for `mpirun`: -n N says it before `--`");
        }
        Ok(vec![Host { name: "mpirun".to_owned(), port: None, engines: Some(wanted.max) }])
    }

    fn job(&self, on: &str, system: Option<&System>, walltime: Duration) -> Result<JobSpec> {
        let flags = self.flags;
        let read = |path: &PathBuf| {
            std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))
        };
        let template = flags.template.as_ref().map(read).transpose()?;
        if let (Some(text), Some(path)) = (&template, &flags.template) {
            check_template(text).map_err(|error| anyhow::anyhow!("{}: {error}", path.display()))?;
        }
        let hosts = match (&flags.hosts, on == HostsPool::SSH) {
            (Some(path), true) => hosts(&read(path)?)
                .map_err(|error| anyhow::anyhow!("{}: {error}", path.display()))?,
            (None, true) => bail!("name a file of hosts with --hosts FILE"),
            (Some(_), false) => bail!("--hosts is for --on ssh"),
            (None, false) => Vec::new(),
        };
        match system {
            Some(system) => {
                (system.check_args)(&flags.args).map_err(anyhow::Error::msg)?;
                let text = template.as_deref().unwrap_or_default();
                (system.check_template)(text).map_err(anyhow::Error::msg)?;
            }
            None if on == HostsPool::MPI => {}
            None => ensure!(flags.args.is_empty(), "nothing behind `--` is for --on ssh"),
        }
        let is_of_pods = system.is_some_and(|system| system.is_of_pods);
        let image = image(flags.image.as_deref(), is_of_pods)?;
        // In a pod there is another one, and that is its engines' matter.
        let dir = self.engine.cwd.clone().filter(|_| !is_of_pods);
        let dir = dir.map_or_else(std::env::current_dir, |dir| Ok(dir.into()));
        let dir = dir.context("the current directory is not there any more")?;
        let walltime = flags.walltime.unwrap_or(walltime);
        ensure!(walltime >= WALLTIME_MIN, "--walltime is at least a minute: jobs count in minutes");
        Ok(JobSpec {
            walltime_s: walltime.as_secs(),
            cpus: flags.cpus.unwrap_or(1),
            memory_mb: self.engine.memory.map(|size| size.bytes().div_ceil(1 << 20)),
            setup: flags.setup.clone(),
            template,
            via: flags.via.iter().flat_map(|via| via.split_whitespace()).map(Into::into).collect(),
            args: flags.args.clone(),
            dir: std::path::absolute(&dir)?.to_string_lossy().into_owned(),
            image,
            hosts,
        })
    }

    /// The engines: this program, at its absolute path, with the interpreter that they would have
    /// here. A job's `PATH` is another.
    fn engine(
        &self,
        system: Option<&System>,
        home: &Home,
        cluster: &ClusterDir,
    ) -> Result<EngineSpec> {
        if system.is_some_and(|system| system.is_of_pods) {
            return Ok(self.engine_in_image(home, cluster));
        }
        let program = match &self.flags.program {
            Some(words) => words.split_whitespace().map(str::to_owned).collect(),
            None => self.program.words()?,
        };
        let python = match self.python {
            // On another machine, only that one knows if it is there.
            Some(python) => Some(python.to_string_lossy().into_owned()),
            None => self
                .program
                .interpreter()
                .map(Path::to_owned)
                .or_else(|| find_interpreter(None).ok())
                .map(|path| path.to_string_lossy().into_owned()),
        };
        Ok(EngineSpec {
            program,
            cluster: cluster.name().to_string(),
            cap: cluster.capability(Role::Engine).to_string_lossy().into_owned(),
            home: home.path().to_string_lossy().into_owned(),
            python,
            flags: self.engine.flags_of_jobs(),
        })
    }

    /// The engines in a container: nothing of this machine is there.
    fn engine_in_image(&self, home: &Home, cluster: &ClusterDir) -> EngineSpec {
        let program = self.flags.program.as_deref().unwrap_or("furlong");
        let cwd = self.engine.cwd.iter().map(|cwd| format!("--cwd={cwd}"));
        EngineSpec {
            program: program.split_whitespace().map(str::to_owned).collect(),
            cluster: cluster.name().to_string(),
            cap: cluster.capability(Role::Engine).to_string_lossy().into_owned(),
            home: home.path().to_string_lossy().into_owned(),
            python: self.python.map(|python| python.to_string_lossy().into_owned()),
            flags: self.engine.flags_of_jobs().into_iter().chain(cwd).collect(),
        }
    }
}

/// The image of pods, which nothing else has.
fn image(image: Option<&str>, is_of_pods: bool) -> Result<String> {
    match (image, is_of_pods) {
        (Some(image), true) => {
            let is_good = |char: char| char.is_ascii_graphic();
            ensure!(
                !image.is_empty() && !image.starts_with('-') && image.chars().all(is_good),
                "`{}` is no image's name",
                image.escape_debug()
            );
            Ok(image.to_owned())
        }
        (None, true) => bail!("name the image of the containers with --image"),
        (Some(_), false) => bail!("--image is for --on k8s"),
        (None, false) => Ok(String::new()),
    }
}
