//! A pool without a queue: engines that `ssh` starts on hosts, or `mpirun` as one job. There are no
//! jobs to be found again: the engines end when their command does, and that when the keeper does.

use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result};
use furlong_pool::keeper::{Job, JobId, JobState};
use furlong_pool::script::{POOL_LABEL, quoted, quoted_behind};
use furlong_pool::spec::{Host, PoolSpec};
use tokio::process::Command;
use tokio::time::Instant;

use super::batch::unix_ms;
use super::broker::Picture;
use super::files::{PoolDir, PoolState, WrittenState};
use crate::cluster::member::{Member, MemberPlace};

/// A pool on hosts that is kept.
#[derive(Debug)]
pub struct HostsPool {
    dir: PoolDir,
    spec: PoolSpec,
    places: Vec<(Host, MemberPlace, u64)>,
    written: WrittenState,
}

/// The time limit for engines to leave when the pool is stopped.
const STOP_TIMEOUT: Duration = Duration::from_secs(5);
/// The flags of `ssh`: it asks nobody anything, gives up soon, and notices a cut.
const SSH: [&str; 8] = [
    "-T",
    "-oBatchMode=yes",
    "-oConnectTimeout=10",
    "-oServerAliveInterval=10",
    "-oServerAliveCountMax=3",
    "-oForwardX11=no",
    "-oForwardAgent=no",
    "-oLogLevel=ERROR",
];

/// Runs `mpirun` until it ends, or standard input does: then it is told to end its engines.
const MPI_SCRIPT: &str = r"exec 3<&0
{{command}} < /dev/null 3<&- &
job=$!
{ cat <&3; kill -TERM $job; } > /dev/null 2>&1 &
exec 3<&-
wait $job";

impl HostsPool {
    /// The systems of this kind, by their names in flags and files.
    pub const SYSTEMS: [&str; 2] = [Self::SSH, Self::MPI];
    /// Each host has its engines.
    pub const SSH: &str = "ssh";
    /// `mpirun` has all engines, wherever it puts them.
    pub const MPI: &str = "mpi";

    /// Returns true for the name of such a system.
    pub fn is_system(name: &str) -> bool {
        Self::SYSTEMS.contains(&name)
    }

    /// The pool of this folder.
    ///
    /// # Errors
    /// Its file is not good.
    pub fn open(dir: PoolDir) -> Result<Self> {
        let spec = dir.spec()?;
        Ok(Self { dir, spec, places: Vec::new(), written: WrittenState::default() })
    }

    /// Something else is wanted.
    pub fn set_spec(&mut self, spec: PoolSpec) {
        self.spec = spec;
    }

    /// Returns true if it is to be removed, and nothing of it is left.
    pub fn is_over(&self) -> bool {
        self.spec.is_removed && self.places.is_empty()
    }

    /// Starts engines on hosts that have none, and says how it is.
    pub async fn go_on(&mut self, picture: &Picture) {
        let resumes = self.dir.take_resume();
        let wanted = if self.spec.is_removed { Vec::new() } else { self.wanted() };
        for (host, mut place, _) in self.places.extract_if(.., |(it, ..)| !wanted.contains(it)) {
            tracing::info!("pool {}: {} is not wanted", self.spec.name, host.name);
            if let Some(mut member) = place.member.take() {
                member.ask_to_leave();
                tokio::spawn(async move {
                    member.leave(Instant::now().into_std() + STOP_TIMEOUT).await;
                });
            }
        }
        for host in wanted {
            if !self.places.iter().any(|(it, ..)| *it == host) {
                match self.spawn(&host).await {
                    Ok(member) => {
                        self.places.push((host, MemberPlace::new(member), unix_ms()));
                    }
                    Err(error) => tracing::warn!("{}: {error:#}", host.name),
                }
            }
        }
        for at in 0..self.places.len() {
            self.look_after(at, resumes).await;
        }
        self.save(picture);
    }

    /// Stops all engines that it has started.
    pub async fn stop(&mut self) {
        let mut members: Vec<Member> =
            self.places.drain(..).filter_map(|(_, place, _)| place.member).collect();
        members.iter_mut().for_each(Member::ask_to_leave);
        let deadline = Instant::now().into_std() + STOP_TIMEOUT;
        for member in &mut members {
            member.leave(deadline).await;
        }
    }

    /// The hosts that are to have engines: the first ones, for as many engines as are wanted.
    fn wanted(&self) -> Vec<Host> {
        let mut left = self.spec.wanted.max;
        let mut wanted = Vec::new();
        for host in &self.spec.job.hosts {
            let engines = host.engines.unwrap_or(self.spec.per_job).min(left);
            if engines > 0 {
                left -= engines;
                wanted.push(Host { engines: Some(engines), ..host.clone() });
            }
        }
        wanted
    }

    async fn look_after(&mut self, at: usize, resumes: bool) {
        let (host, place, since_ms) = &mut self.places[at];
        let what = format!("pool {}: the engines on {}", self.spec.name, host.name);
        if let Some(member) = &mut place.member
            && let Ok(Some(status)) = member.child.try_wait()
        {
            place.note_end(&what, Some(status)).await;
            *since_ms = unix_ms();
        }
        let due = place.starts_at().is_some_and(|at| resumes || at <= Instant::now().into_std());
        if !due {
            return;
        }
        let host = host.clone();
        let started = self.spawn(&host).await;
        let (_, place, since_ms) = &mut self.places[at];
        place.take_next(&what, started);
        *since_ms = unix_ms();
    }

    /// Starts the engines of a host, or all of them by `mpirun`.
    async fn spawn(&self, host: &Host) -> Result<Member> {
        if self.spec.system == Self::MPI {
            self.spawn_mpi(host)
        } else {
            self.spawn_ssh(host).await
        }
    }

    /// Starts all engines. Their ids are their ranks, where the broker has no others, and what they
    /// run can use MPI.
    fn spawn_mpi(&self, host: &Host) -> Result<Member> {
        let job = &self.spec.job;
        let mut lines = job.setup.clone();
        let engines = host.engines.unwrap_or(1);
        let words = ["mpirun".to_owned(), "-n".to_owned(), engines.to_string()];
        let words = words.iter().chain(&job.args).map(|word| quoted(word));
        let cap = ["--cap".to_owned(), quoted(&self.spec.engine.cap)];
        let words: Vec<String> = words.chain(self.engine(&cap, host, 1)).collect();
        lines.push(MPI_SCRIPT.replace("{{command}}", &words.join(" ")));
        let script = quoted_behind(&job.via, &lines.join("\n"));
        let shell = ["sh".to_owned(), "-c".to_owned(), script];
        let words: Vec<String> = job.via.iter().cloned().chain(shell).collect();
        let mut command = Command::new(&words[0]);
        command.args(&words[1..]).env("FURLONG_HOME", &self.spec.engine.home);
        command.env_remove("FURLONG_CAP");
        Member::spawn("`mpirun`", command).context("`sh` cannot be run")
    }

    /// Starts the engines of a host. The capability goes through the pipe, and is on no disk there
    /// and in no list of processes.
    async fn spawn_ssh(&self, host: &Host) -> Result<Member> {
        let engine = &self.spec.engine;
        let via = &self.spec.job.via;
        let mut words = vec!["ssh".to_owned()];
        words.extend(SSH.map(str::to_owned));
        words.extend(host.port.into_iter().flat_map(|port| ["-p".to_owned(), port.to_string()]));
        words.extend(["--".to_owned(), host.name.clone(), self.remote(host)]);
        let words = words.iter().map(|word| quoted_behind(via, word));
        let words: Vec<String> = via.iter().cloned().chain(words).collect();
        let mut command = Command::new(&words[0]);
        command.args(&words[1..]).stderr(Stdio::piped());
        let mut member = Member::spawn(&format!("`ssh {}`", host.name), command)
            .context("`ssh` cannot be run; install OpenSSH's client")?;
        let capability = std::fs::read_to_string(&engine.cap)
            .with_context(|| format!("{} cannot be read", engine.cap))?;
        member.write(capability.as_bytes()).await;
        Ok(member)
    }

    /// The command line for the host's shell.
    fn remote(&self, host: &Host) -> String {
        let mut lines: Vec<String> = self.spec.job.setup.clone();
        let cap = ["--cap", "-", "--stop-with-stdin"].map(str::to_owned);
        let words = self.engine(&cap, host, host.engines.unwrap_or(1));
        lines.push(format!("exec {}", words.join(" ")));
        lines.join("\n")
    }

    /// The words of an engine process with so many engines.
    fn engine(&self, cap: &[String], host: &Host, engines: u32) -> Vec<String> {
        let engine = &self.spec.engine;
        let mut words: Vec<String> = engine.program.iter().map(|word| quoted(word)).collect();
        words.push("engine".to_owned());
        words.extend_from_slice(cap);
        words.push(format!("--cluster={}", engine.cluster));
        words.extend(engine.python.iter().flat_map(|it| ["--python".to_owned(), quoted(it)]));
        words.extend(["-n".to_owned(), engines.to_string()]);
        words.extend(engine.flags.iter().map(|flag| quoted(flag)));
        words.push(quoted(&format!("--label={POOL_LABEL}{}", self.spec.name)));
        words.push(quoted(&format!("--job={}", host.id())));
        words
    }

    fn save(&mut self, picture: &Picture) {
        let mut state = PoolState {
            target: self.places.iter().filter_map(|(host, ..)| host.engines).sum(),
            ..PoolState::default()
        };
        let (mut down, none) = (Vec::new(), std::collections::BTreeMap::new());
        let engines = picture.pools.get(self.spec.name.as_str()).unwrap_or(&none);
        for (host, place, since_ms) in &self.places {
            let id = JobId(host.id());
            let online = engines.get(&id).map_or(0, |it| it.online);
            let mut job = Job::new(*since_ms, host.engines.unwrap_or(1), true);
            job.node.clone_from(&host.name);
            if online > 0 {
                job.state = JobState::Running;
                state.engines.insert(id.clone(), online);
            } else if let Some(it) = place.down() {
                let command = if self.spec.system == Self::MPI { "mpirun" } else { "ssh" };
                job.why = it.describe(command);
                down.push(format!("{}: {}", host.name, it.cause));
            }
            state.online += online;
            state.saved.jobs.insert(id, job);
        }
        state.said = down.into_iter().next().unwrap_or_else(|| "ok".to_owned());
        self.written.update(&self.dir, state);
    }
}
