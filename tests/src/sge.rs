//! A Grid Engine of a test's own: the real master and execution daemons in a private cell, which
//! need no system service and no mail. Every job of it runs on this machine.
//!
//! It is for root alone, because the execution daemon starts jobs as their owners. Both daemons
//! listen on all addresses of the machine, since Grid Engine can be told no other.

use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use furlong_host::machine_name;
use rustix::process::Pid;
use tempfile::TempDir;

use crate::command::{Outcome, kill_all, run_to_end};
use crate::program::Program;
use crate::wait::{SOON, eventually};

/// A Grid Engine that runs. When it is dropped, its jobs are ended and nothing of it is left.
#[derive(Debug)]
pub struct GridEngine {
    /// The execution daemon first: it tells the master of its end.
    daemons: Vec<Program>,
    folder: TempDir,
    ports: (u16, u16),
}

/// The folder of Debian's packages with what no command line reaches.
const LIB: &str = "/usr/lib/gridengine";
/// The defaults that come with it.
const SHARE: &str = "/usr/share/gridengine";
/// The time limit for the daemons to know of each other.
const STARTS_WITHIN: Duration = Duration::from_secs(30);
/// The parallel environment `smp`: cores of one host.
const PARALLEL: &str = "\
pe_name smp
slots 99
user_lists NONE
xuser_lists NONE
start_proc_args NONE
stop_proc_args NONE
allocation_rule $pe_slots
control_slaves TRUE
job_is_first_task TRUE
urgency_slots min
accounting_summary FALSE
qsort_args NONE
";
/// The queue, but for its host, its slots, and what is none or has no limit.
const QUEUE: &str = "\
qname all.q
pe_list smp
notify 00:00:03
rerun FALSE
seq_no 0
nsuspend 1
suspend_interval 00:05:00
priority 0
min_cpu_interval 00:05:00
processors UNDEFINED
qtype BATCH INTERACTIVE
tmpdir /tmp
shell /bin/sh
shell_start_mode unix_behavior
initial_state default
";
/// What a queue may have, and this one has not.
const NONE: [&str; 17] = [
    "load_thresholds",
    "suspend_thresholds",
    "ckpt_list",
    "prolog",
    "epilog",
    "starter_method",
    "suspend_method",
    "resume_method",
    "terminate_method",
    "owner_list",
    "user_lists",
    "xuser_lists",
    "subordinate_list",
    "complex_values",
    "projects",
    "xprojects",
    "calendar",
];
/// What a queue may limit.
const LIMITS: [&str; 8] = ["rt", "cpu", "fsize", "data", "stack", "core", "rss", "vmem"];

impl GridEngine {
    /// Starts one with so many slots on one host. None, and a line that says so, where there is no
    /// Grid Engine, or not for us: the test is left out.
    ///
    /// # Panics
    /// If it is here and does not start.
    pub fn start(slots: u32) -> Option<Self> {
        if !Path::new(LIB).join("sge_qmaster").is_file() {
            println!("skipped: there is no Grid Engine");
            return None;
        }
        if !rustix::process::geteuid().is_root() {
            println!("skipped: a Grid Engine of a test's own needs root");
            return None;
        }
        // A port that was free a moment ago may be taken by another test meanwhile.
        let engine = (0..3).find_map(|_| Self::try_start(slots));
        Some(engine.expect("a Grid Engine starts"))
    }

    fn try_start(slots: u32) -> Option<Self> {
        let folder = tempfile::Builder::new().prefix("furlong-sge-").tempdir();
        let ports = (free_port(), free_port());
        let mut engine = Self { daemons: Vec::new(), folder: folder.expect("a folder"), ports };
        engine.write_cell();
        engine.start_daemon("sge_qmaster");
        let answers = || engine.run("qconf", &["-sh"]).code == Some(0);
        if !eventually(STARTS_WITHIN, answers) {
            println!("a Grid Engine did not start: {:?}", engine.run("qconf", &["-sh"]));
            return None;
        }
        engine.write_queue(slots);
        engine.start_daemon("sge_execd");
        engine.daemons.reverse();
        let reports = || {
            let hosts = engine.run("qstat", &["-f"]).stdout;
            hosts.lines().any(|line| line.starts_with("all.q@") && line.trim().ends_with("amd64"))
        };
        let is_up = eventually(STARTS_WITHIN, reports);
        if !is_up {
            println!("no host reports: {:?}", engine.run("qstat", &["-f"]));
        }
        is_up.then_some(engine)
    }

    fn write_cell(&self) {
        let path = |name: &str| self.folder().join(name);
        for name in ["cell/common", "spool/qmaster/job_scripts", "spool/execd"] {
            fs::create_dir_all(path(name)).expect("the folder is ours");
        }
        for name in ["bin", "lib", "util", "utilbin"] {
            let target = format!("/var/lib/gridengine/{name}");
            std::os::unix::fs::symlink(target, path(name)).expect("the folder is ours");
        }
        let root = self.folder().display();
        let spool = format!("{root}/cell/common;{root}/spool/qmaster");
        let bootstrap = format!(
            "admin_user none\ndefault_domain none\nignore_fqdn true\nspooling_method classic\n\
             spooling_lib libspoolc\nspooling_params {spool}\nbinary_path /usr/sbin\n\
             qmaster_spool_dir {root}/spool/qmaster\nsecurity_mode none\nlistener_threads 2\n\
             worker_threads 2\nscheduler_threads 1\n"
        );
        let host = machine_name();
        let write = |name: &str, text: &str| fs::write(path(name), text).expect("it is ours");
        write("cell/common/bootstrap", &bootstrap);
        write("cell/common/act_qmaster", &format!("{host}\n"));
        // Where the machine's name leads to the loopback address.
        write("cell/common/host_aliases", &format!("{host} localhost\n"));
        let defaults = fs::read_to_string(format!("{SHARE}/default-configuration"));
        let defaults = defaults.expect("it comes with the master");
        let dropped = ["execd_spool_dir", "min_uid", "min_gid", "mailer", "load_report_time"];
        let is_kept = |line: &&str| !dropped.iter().any(|name| line.starts_with(name));
        let kept = defaults.lines().filter(is_kept).collect::<Vec<_>>().join("\n");
        let configuration = format!(
            "{kept}\nexecd_spool_dir {root}/spool/execd\nmin_uid 0\nmin_gid 0\nmailer /bin/true\n\
             load_report_time 00:00:01\n"
        )
        .replace("flush_time=00:00:15", "flush_time=00:00:00");
        write("configuration", &configuration);
        let defaults = format!("{LIB}/spooldefaults");
        let resources = format!("{SHARE}/util/resources");
        self.run(&format!("{LIB}/spoolinit"), &["classic", "libspoolc", &spool, "init"]).ok();
        let configuration = path("configuration").display().to_string();
        self.run(&defaults, &["configuration", &configuration]).ok();
        self.run(&defaults, &["complexes", &format!("{resources}/centry")]).ok();
        self.run(&defaults, &["usersets", &format!("{resources}/usersets")]).ok();
        self.run(&defaults, &["managers", "root"]).ok();
    }

    fn write_queue(&self, slots: u32) {
        let host = machine_name();
        self.run("qconf", &["-as", &host]).ok();
        let line = |name: &&str| format!("{name} NONE\n");
        let none: String = NONE.iter().map(line).collect();
        let limit = |name: &&str| format!("s_{name} INFINITY\nh_{name} INFINITY\n");
        let limits: String = LIMITS.iter().map(limit).collect();
        let queue = format!("{QUEUE}hostlist {host}\nslots {slots}\n{none}{limits}");
        let scheduler = self.run("qconf", &["-ssconf"]).ok();
        let fast = |line: &str| match line.split_whitespace().next() {
            Some("schedule_interval") => "schedule_interval 0:0:1\n".to_owned(),
            Some(name @ ("flush_submit_sec" | "flush_finish_sec")) => format!("{name} 1\n"),
            _ => format!("{line}\n"),
        };
        let scheduler: String = scheduler.lines().map(fast).collect();
        let files = [("-Ap", PARALLEL), ("-Aq", &queue), ("-Msconf", &scheduler)];
        for (flag, text) in files {
            let path = self.folder().join("conf");
            fs::write(&path, text).expect("the folder is ours");
            self.run("qconf", &[flag, path.to_str().expect("a plain name")]).ok();
        }
    }

    fn start_daemon(&mut self, name: &str) {
        let mut command = self.command(&format!("{LIB}/{name}"));
        // It stays in the foreground then.
        command.env("SGE_ND", "1");
        self.daemons.push(Program::spawn(name, command));
    }

    /// A folder of its own.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// The variables of a process that uses it.
    pub fn variables(&self) -> Vec<(&'static str, String)> {
        vec![
            ("SGE_ROOT", self.folder().display().to_string()),
            ("SGE_CELL", "cell".to_owned()),
            ("SGE_ARCH", "lx-amd64".to_owned()),
            ("SGE_QMASTER_PORT", self.ports.0.to_string()),
            ("SGE_EXECD_PORT", self.ports.1.to_string()),
        ]
    }

    fn command(&self, name: &str) -> Command {
        let mut command = Command::new(name);
        command.envs(self.variables()).current_dir(self.folder()).stdin(Stdio::null());
        command
    }

    /// Runs one of its commands to its end.
    ///
    /// # Panics
    /// If it does not end soon.
    pub fn run(&self, name: &str, args: &[&str]) -> Outcome {
        let mut command = self.command(name);
        command.args(args);
        run_to_end(name, command, SOON)
    }

    /// The jobs that wait or run, one line each, whose columns `qstat` has.
    ///
    /// # Panics
    /// If `qstat` fails.
    pub fn queue(&self) -> Vec<String> {
        let listed = self.run("qstat", &["-u", "*", "-g", "d"]).ok();
        listed.lines().skip(2).map(str::to_owned).collect()
    }

    /// The processes of its jobs, and those that look after them.
    fn processes(&self) -> Vec<Pid> {
        let root = format!("SGE_ROOT={}", self.folder().display());
        let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
        let is_ours = |path: &PathBuf| {
            let environ = fs::read(path.join("environ")).unwrap_or_default();
            environ.split(|byte| *byte == 0).any(|it| it == root.as_bytes())
        };
        let ours = processes.map(|it| it.path()).filter(is_ours);
        let pids = ours.filter_map(|path| path.file_name()?.to_str()?.parse::<i32>().ok());
        pids.filter_map(Pid::from_raw).collect()
    }
}

impl Drop for GridEngine {
    fn drop(&mut self) {
        self.run("qdel", &["-f", "-u", "*"]);
        self.daemons.clear();
        kill_all(|| self.processes());
    }
}

/// A port that nobody listens on.
fn free_port() -> u16 {
    let listener = TcpListener::bind(("0.0.0.0", 0)).expect("there are free ports");
    listener.local_addr().expect("it is bound").port()
}
