//! Commands that end by themselves, clusters that `furlong cluster start` started, and what is left
//! of either.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::home::Home;
use crate::program::{Program, binary};
use crate::wait::{SOON, eventually};

/// The output of a command, and how it ended.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Outcome {
    /// Its exit code, if no signal ended it.
    pub code: Option<i32>,
    /// Its standard output, without the last newline.
    pub stdout: String,
    /// Its standard error, without the last newline.
    pub stderr: String,
}

impl Outcome {
    /// The standard output of a command that has succeeded.
    ///
    /// # Panics
    /// If it has not.
    #[track_caller]
    pub fn ok(self) -> String {
        assert_eq!(self.code, Some(0), "{self:?}");
        self.stdout
    }

    /// The standard error of a command that has ended with this exit code.
    ///
    /// # Panics
    /// If it ended otherwise.
    #[track_caller]
    pub fn failed(self, code: i32) -> String {
        assert_eq!(self.code, Some(code), "{self:?}");
        self.stderr
    }
}

/// The root of the repository: commands run there, as they do in the documents.
///
/// # Panics
/// Never: this crate is in a folder of it.
pub fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the crate is in a folder")
}

/// One of our programs in a home, to be spawned.
pub fn command(name: &str, args: &[&str], home: &Home) -> Command {
    let mut command = Command::new(binary(name));
    command
        .args(args)
        .current_dir(repository())
        .env("FURLONG_HOME", home.path())
        // This machine's may define what a test does not know of.
        .env("FURLONG_SITE_POOLS", home.site_pools())
        .env_remove("FURLONG_CAP");
    command
}

/// Runs `furlong` until it ends.
///
/// # Panics
/// If it does not end soon.
pub fn furlong(args: &[&str], home: &Home) -> Outcome {
    run("furlong", args, home)
}

/// Runs one of our programs until it ends.
///
/// # Panics
/// If it does not end soon.
pub fn run(name: &str, args: &[&str], home: &Home) -> Outcome {
    run_to_end(name, command(name, args, home), COMMAND)
}

/// Runs a command until it ends.
///
/// # Panics
/// If it does not end in this time.
pub fn run_to_end(name: &str, command: Command, deadline: Duration) -> Outcome {
    let mut program = Program::spawn(name, command);
    let status = program.wait_exit(deadline);
    Outcome { code: status.code(), stdout: program.stdout(), stderr: program.stderr() }
}

/// Kills processes, and those that come meanwhile, until none is found.
pub fn kill_all(found: impl Fn() -> Vec<Pid>) {
    eventually(SOON, || {
        let left = found();
        for pid in &left {
            // One that has ended meanwhile is what is wanted.
            let _ = kill_process(*pid, Signal::KILL);
        }
        left.is_empty()
    });
}

/// Starts an engine in the repository's root, with the capability of a home that may have no broker
/// yet.
pub fn engine(home: &Home) -> Program {
    let cap = home.cluster().security().join("engine.cap.json");
    let args =
        ["--stop-with-stdin", "--cap", cap.to_str().expect("a temporary folder's name is plain")];
    Program::spawn("engine", command("engine", &args, home))
}

/// Waits until so many engines are online.
///
/// # Panics
/// If they do not come.
pub fn wait_for_engines(engines: usize, home: &Home) {
    let mut last = None;
    let come = eventually(SOON, || {
        let outcome = furlong(&["ids", "--json"], home);
        let ids: Vec<u32> = serde_json::from_str(&outcome.stdout).unwrap_or_default();
        last = Some(outcome);
        ids.len() == engines
    });
    assert!(come, "there are not {engines} engines: {last:?}");
}

/// Returns the output of `furlong status --json`.
///
/// # Panics
/// If it fails.
pub fn status(home: &Home) -> Value {
    serde_json::from_str(&furlong(&["status", "--json"], home).ok())
        .expect("the status is a JSON document")
}

/// A cluster that `furlong cluster start` looks after, in a home of its own.
#[derive(Debug)]
pub struct Cluster {
    supervisor: Program,
    home: Home,
}

impl Cluster {
    /// Starts a cluster, and waits until it says that it stands.
    pub fn start(engines: u32) -> Self {
        Self::start_with(&["-n", &engines.to_string()])
    }

    /// Starts a cluster with these flags, and waits until it says that it stands.
    pub fn start_with(flags: &[&str]) -> Self {
        let home = Home::new();
        let args = [&["cluster", "start"], flags].concat();
        let supervisor = Program::spawn("furlong", command("furlong", &args, &home));
        supervisor.wait_for_line("try ", SOON);
        Self { supervisor, home }
    }

    /// The process that looks after it.
    pub fn supervisor(&mut self) -> &mut Program {
        &mut self.supervisor
    }

    /// Its home.
    pub fn home(&self) -> &Home {
        &self.home
    }

    /// Runs `furlong` against it until that ends.
    pub fn furlong(&self, args: &[&str]) -> Outcome {
        furlong(args, &self.home)
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        // Its children see the end of their standard input; their home goes when they have.
        self.supervisor.kill();
        eventually(SOON, || processes_of(self.home.path()).is_empty());
    }
}

/// The processes that have this folder's name in their environment, with their command lines: our
/// programs in this home, and all that they started.
pub fn processes_of(folder: &Path) -> Vec<(u32, String)> {
    let folder = folder.to_string_lossy().into_owned();
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let found = entries.filter_map(|entry| {
        let pid: u32 = entry.file_name().to_str()?.parse().ok()?;
        let read = |name: &str| std::fs::read(entry.path().join(name)).unwrap_or_default();
        let environment = read("environ");
        let is_of = String::from_utf8_lossy(&environment).contains(&folder);
        is_of.then(|| (pid, String::from_utf8_lossy(&read("cmdline")).replace('\0', " ")))
    });
    found.collect()
}

/// Writes a file into a home, and returns its path as text.
///
/// # Panics
/// If it cannot be written.
pub fn file(home: &Home, name: &str, text: &str) -> String {
    let path: PathBuf = home.path().join(name);
    std::fs::write(&path, text).expect("a temporary folder can be written to");
    path.to_str().expect("a temporary folder's name is plain").to_owned()
}

/// Makes an empty file, for which something waits.
///
/// # Panics
/// If it cannot be made.
pub fn touch(path: &Path) {
    std::fs::write(path, "").expect("a temporary folder can be written to");
}

/// The time limit for a command that has nothing to wait for.
const COMMAND: Duration = Duration::from_secs(30);
