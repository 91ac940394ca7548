//! A Slurm of a test's own: the real controller and node daemons, which need no system service, no
//! `/etc/slurm` and no accounting database. Every job of it runs on this machine.
//!
//! It is for root alone, because a node's daemon starts jobs as their owners. Its time limits are
//! counted in minutes, and a job is killed up to half a minute after its limit.

use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use rustix::process::Pid;
use tempfile::TempDir;

use crate::command::{Outcome, kill_all, run_to_end};
use crate::home::Home;
use crate::program::Program;
use crate::wait::{SOON, eventually};

/// A Slurm that runs. When it is dropped, its jobs are cancelled and nothing of it is left.
#[derive(Debug)]
pub struct Slurm {
    /// The controller first: without it the nodes start nothing more.
    daemons: Vec<Program>,
    folder: TempDir,
    nodes: u32,
}

/// The programs that it is made of.
const PROGRAMS: [&str; 5] = ["munged", "slurmctld", "slurmd", "sbatch", "squeue"];
/// Ports are tried from here on, below those that the system gives by itself.
const PORTS: std::ops::Range<u16> = 20_000..30_000;
/// A job that is cancelled is killed after 3 s ([`CONF`]), and looked at every second.
const ENDS_WITHIN: Duration = Duration::from_secs(20);
/// The configuration, but for the places and ports.
const CONF: &str = "\
ClusterName=furlong
SlurmdParameters=config_overrides
AuthType=auth/munge
CredType=cred/munge
SlurmUser=root
SlurmdUser=root
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
JobCompType=jobcomp/filetxt
AccountingStorageType=accounting_storage/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SchedulerParameters=batch_sched_delay=0,sched_min_interval=0,sched_interval=2,bf_interval=2
ReturnToService=2
KillWait=3
MaxArraySize=10001
MinJobAge=600
PropagateResourceLimits=NONE
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE DefaultTime=60 State=UP
";

impl Slurm {
    /// Starts one with so many nodes of 4 processors, `n1`, `n2`, and so on. None, and a line that
    /// says so, where there is no Slurm, or not for us: the test is left out.
    pub fn start(nodes: u32) -> Option<Self> {
        Self::start_with(nodes, "")
    }

    /// The same with more lines of `slurm.conf`, as `PartitionName=tiny Nodes=n1 MaxTime=1`.
    ///
    /// # Panics
    /// If it is here and does not start.
    pub fn start_with(nodes: u32, more: &str) -> Option<Self> {
        let missing = PROGRAMS.into_iter().find(|name| path_of(name).is_none());
        if let Some(name) = missing {
            println!("skipped: there is no `{name}`");
            return None;
        }
        if !rustix::process::geteuid().is_root() {
            println!("skipped: a Slurm of a test's own needs root");
            return None;
        }
        // A port that was free a moment ago may be taken by another test meanwhile.
        let slurm = (0..3).find_map(|_| Self::try_start(nodes, more));
        Some(slurm.expect("a Slurm starts"))
    }

    fn try_start(nodes: u32, more: &str) -> Option<Self> {
        let folder = tempfile::Builder::new().prefix("furlong-slurm-").tempdir();
        let mut slurm = Self { daemons: Vec::new(), folder: folder.expect("a folder"), nodes };
        slurm.write_conf(more);
        let munge = slurm.path("munge");
        let mut munged = slurm.command("munged");
        // Without it the folder above must be nobody else's to write to, and it is in /tmp.
        munged.args(["--foreground", "--force", "--num-threads=2"]);
        for (flag, name) in
            [("key-file", "key"), ("socket", "socket"), ("pid-file", "pid"), ("seed-file", "seed")]
        {
            munged.arg(format!("--{flag}={}", munge.join(name).display()));
        }
        munged.arg(format!("--log-file={}", slurm.path("munged.log").display()));
        let munged = Program::spawn("munged", munged);
        let has_socket = eventually(SOON, || munge.join("socket").exists());
        assert!(has_socket, "munged does not start: {}", munged.stderr());
        let mut controller = slurm.command("slurmctld");
        controller.args(["-D", "-c"]);
        slurm.daemons.push(Program::spawn("slurmctld", controller));
        for node in 1..=nodes {
            let mut daemon = slurm.command("slurmd");
            daemon.args(["-D", "-N", &format!("n{node}")]);
            slurm.daemons.push(Program::spawn("slurmd", daemon));
        }
        slurm.daemons.push(munged);
        let is_up = eventually(SOON, || slurm.idle_nodes() == nodes as usize);
        if !is_up {
            println!("a Slurm did not start:\n{}", slurm.logs());
        }
        is_up.then_some(slurm)
    }

    fn write_conf(&self, more: &str) {
        let munge = self.path("munge");
        for name in ["munge", "state", "spool"] {
            std::fs::create_dir(self.path(name)).expect("the folder is new");
        }
        let private = std::fs::Permissions::from_mode(0o700);
        std::fs::set_permissions(&munge, private.clone()).expect("it is ours");
        let key: [u8; 128] = rand::random();
        std::fs::write(munge.join("key"), key).expect("the folder is ours");
        std::fs::set_permissions(munge.join("key"), std::fs::Permissions::from_mode(0o600))
            .expect("it is ours");
        let host = furlong_host::machine_name();
        let host = host.split('.').next().unwrap_or("localhost").to_owned();
        let port = free_ports(self.nodes as u16 + 1);
        let at = |name: &str| self.path(name).display().to_string();
        let mut conf = format!(
            "{CONF}SlurmctldHost={host}(127.0.0.1)\nSlurmctldPort={port}\n\
             AuthInfo=socket={}\nStateSaveLocation={}\nSlurmdSpoolDir={}/%n\n\
             SlurmctldPidFile={}\nSlurmdPidFile={}\nSlurmctldLogFile={}\nSlurmdLogFile={}\n\
             JobCompLoc={}\nPlugStackConfig={}\n",
            munge.join("socket").display(),
            at("state"),
            at("spool"),
            at("slurmctld.pid"),
            at("slurmd.%n.pid"),
            at("slurmctld.log"),
            at("slurmd.%n.log"),
            at("jobcomp.log"),
            at("plugstack.conf"),
        );
        for node in 1..=self.nodes {
            let port = u32::from(port) + node;
            let at = format!("NodeHostname={host} NodeAddr=127.0.0.1 Port={port}");
            conf.extend(["NodeName=n", &node.to_string(), " ", &at, " CPUs=4 RealMemory=4000\n"]);
        }
        conf += more;
        conf += "\n";
        std::fs::write(self.path("plugstack.conf"), "").expect("the folder is ours");
        std::fs::write(self.conf(), conf).expect("the folder is ours");
    }

    /// Its `slurm.conf`: a process with this path in `SLURM_CONF` uses it.
    pub fn conf(&self) -> PathBuf {
        self.path("slurm.conf")
    }

    /// The variables of a process that uses it.
    pub fn variables(&self) -> Vec<(&'static str, String)> {
        vec![("SLURM_CONF", self.conf().display().to_string())]
    }

    /// A folder for the scripts and output of its jobs.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// A command that uses it, as `sbatch`, to be given arguments and spawned.
    ///
    /// # Panics
    /// If there is no such program.
    pub fn command(&self, name: &str) -> Command {
        let path = path_of(name).unwrap_or_else(|| panic!("there is no `{name}`"));
        let mut command = Command::new(path);
        command.env("SLURM_CONF", self.conf()).current_dir(self.folder()).stdin(Stdio::null());
        command
    }

    /// Runs one of Slurm's commands to its end.
    ///
    /// # Panics
    /// If it does not end soon.
    pub fn run(&self, name: &str, args: &[&str]) -> Outcome {
        let mut command = self.command(name);
        command.args(args);
        run_to_end(name, command, SOON)
    }

    /// Submits a batch script whose jobs have this `FURLONG_HOME`, and returns the job's id. The
    /// output of each job is in [`Slurm::output`]. `flags` are those of `sbatch`.
    ///
    /// # Panics
    /// If it is refused.
    pub fn submit(&self, script: &str, flags: &[&str], home: &Home) -> String {
        let mut command = self.command("sbatch");
        command.args(["--parsable", "--output=%j.out"]).args(flags);
        command.env("FURLONG_HOME", home.path()).env_remove("FURLONG_CAP");
        let path = self.folder().join(format!("script-{}.sh", rand::random::<u64>()));
        std::fs::write(&path, format!("#!/bin/sh\n{script}\n")).expect("the folder is ours");
        command.arg(path);
        run_to_end("sbatch", command, SOON).ok().trim().to_owned()
    }

    /// The output of a job so far.
    pub fn output(&self, job: &str) -> String {
        let path = self.folder().join(format!("{job}.out"));
        std::fs::read_to_string(path).unwrap_or_default()
    }

    /// The state of a job, in Slurm's word, as `RUNNING` or `COMPLETED`.
    ///
    /// # Panics
    /// If there is no such job.
    pub fn state(&self, job: &str) -> String {
        // Of an array there is a line for each element.
        self.run("squeue", &["-h", "-t", "all", "-j", job, "-o", "%T"]).ok().trim().to_owned()
    }

    /// The jobs that wait or run, one line each: id, name, state and reason.
    ///
    /// # Panics
    /// If `squeue` fails.
    pub fn queue(&self) -> Vec<String> {
        let asked = self.run("squeue", &["-h", "-r", "-o", "%i %j %T %r"]).ok();
        asked.lines().map(str::to_owned).collect()
    }

    /// Waits until a job is in a state.
    ///
    /// # Panics
    /// If it does not get there; the message has its output.
    pub fn wait_for_state(&self, job: &str, state: &str, deadline: Duration) {
        let is_there = eventually(deadline, || self.state(job) == state);
        let (is, output) = (self.state(job), self.output(job));
        assert!(is_there, "job {job} is {is}, not {state}:\n{output}\n{}", self.logs());
    }

    fn idle_nodes(&self) -> usize {
        let asked = self.run("sinfo", &["-h", "-N", "-t", "idle", "-p", "main", "-o", "%N"]);
        asked.stdout.lines().count()
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder().join(name)
    }

    /// The ends of the daemons' logs.
    fn logs(&self) -> String {
        let files = std::fs::read_dir(self.folder()).into_iter().flatten().flatten();
        let logs = files.filter(|file| file.path().extension().is_some_and(|it| it == "log"));
        let end_of = |path: PathBuf| {
            let text = std::fs::read_to_string(&path).unwrap_or_default();
            let lines: Vec<&str> = text.lines().collect();
            format!("{}:\n{}\n", path.display(), lines[lines.len().saturating_sub(8)..].join("\n"))
        };
        logs.map(|file| end_of(file.path())).collect()
    }

    /// The processes of its jobs, and those that look after them.
    fn processes(&self) -> Vec<Pid> {
        let conf = format!("SLURM_CONF={}", self.conf().display());
        let processes = std::fs::read_dir("/proc").into_iter().flatten().flatten();
        let numbers = processes.filter_map(|it| it.file_name().to_str()?.parse::<i32>().ok());
        let is_ours = |pid: &i32| {
            let environ = std::fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
            let mut variables = environ.split(|byte| *byte == 0);
            let has_conf = variables.any(|it| it == conf.as_bytes());
            let of_job = || environ.split(|byte| *byte == 0).any(|it| it.starts_with(OF_A_JOB));
            let name = std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
            has_conf && (of_job() || name.trim() == "slurmstepd")
        };
        numbers.filter(is_ours).filter_map(Pid::from_raw).collect()
    }
}

/// The variable that every process of a job has.
const OF_A_JOB: &[u8] = b"SLURM_JOB_ID=";

impl Drop for Slurm {
    fn drop(&mut self) {
        let cancelled = self.run("scancel", &["-u", "root"]);
        if cancelled.code == Some(0) {
            eventually(ENDS_WITHIN, || self.run("squeue", &["-h"]).stdout.is_empty());
        }
        self.daemons.clear();
        // What looks after a job outlives its node's daemon on purpose.
        kill_all(|| self.processes());
    }
}

/// The path of a program, which may be one for administrators.
fn path_of(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::env::split_paths(&path).chain(["/usr/sbin".into(), "/sbin".into()]);
    folders.map(|folder| folder.join(name)).find(|path| path.is_file())
}

/// The first of so many ports in a row of which none is in use.
fn free_ports(count: u16) -> u16 {
    let is_free = |port| TcpListener::bind(("127.0.0.1", port)).is_ok();
    let mut tried = (0..100).map(|_| rand::random_range(PORTS));
    tried.find(|first| (*first..*first + count).all(is_free)).expect("there are free ports")
}
