//! A home whose commands find a batch system: a real one by its variables, and first what a test
//! puts in place of its commands.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::command::{Outcome, command, processes_of, run_to_end};
use crate::home::Home;
use crate::program::Program;
use crate::wait::{SOON, eventually};

/// Jobs start within a second or two each, on a machine that is busy with other tests.
pub const JOBS: Duration = Duration::from_secs(60);
/// The time limit of a command that waits for jobs.
const COMMAND: Duration = Duration::from_secs(120);

/// A home, and the way of its commands to a batch system.
#[derive(Debug)]
pub struct Site {
    /// The home.
    pub home: Home,
    /// The folder of commands that are found first.
    pub fakes: PathBuf,
    /// True if no command but those is found.
    is_alone: bool,
    variables: Vec<(&'static str, String)>,
}

impl Site {
    /// A home whose commands find a system by these variables.
    ///
    /// # Panics
    /// If it cannot be made.
    pub fn on(variables: Vec<(&'static str, String)>) -> Self {
        let home = Home::new();
        let fakes = home.path().join("fakes");
        fs::create_dir(&fakes).expect("a new home can be written to");
        Self { home, fakes, is_alone: false, variables }
    }

    /// A home whose commands find nothing but what is put in the place of a system's.
    pub fn alone() -> Self {
        let mut site = Self::on(Vec::new());
        site.is_alone = true;
        site
    }

    /// Puts a script of bash in front of a command.
    ///
    /// # Panics
    /// If it cannot be written.
    pub fn fake(&self, name: &str, script: &str) {
        let path = self.fakes.join(name);
        fs::write(&path, format!("#!/bin/bash\n{script}\n")).expect("the folder is ours");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("the file is ours");
    }

    /// The path of the real command of this name.
    ///
    /// # Panics
    /// If there is none.
    pub fn real(name: &str) -> String {
        let path = std::env::var_os("PATH").unwrap_or_default();
        let found = std::env::split_paths(&path).map(|folder| folder.join(name));
        let real = found.into_iter().find(|path| path.is_file());
        real.unwrap_or_else(|| panic!("there is no `{name}`")).display().to_string()
    }

    /// `furlong` in this home, to be spawned.
    ///
    /// # Panics
    /// If a name in `PATH` has a colon.
    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = command("furlong", args, &self.home);
        let path = std::env::var_os("PATH").unwrap_or_default();
        let mut folders = vec![self.fakes.clone()];
        if self.is_alone {
            // Bash alone, for the fakes.
            let _ = std::os::unix::fs::symlink(Self::real("bash"), self.fakes.join("bash"));
        } else {
            folders.extend(std::env::split_paths(&path));
        }
        command.env("PATH", std::env::join_paths(folders).expect("names are plain"));
        command.envs(self.variables.iter().map(|(name, value)| (name, value)));
        command
    }

    /// Starts a cluster with a pool on a system, and waits until it says that it stands. The system
    /// is the first argument.
    pub fn start(&self, args: &[&str]) -> Program {
        let args = [&["cluster", "start", "--on"], args].concat();
        let supervisor = Program::spawn("furlong", self.command(&args));
        supervisor.wait_for_line("try ", SOON);
        supervisor
    }

    /// Runs `furlong` until it ends.
    pub fn run(&self, args: &[&str]) -> Outcome {
        run_to_end("furlong", self.command(args), COMMAND)
    }

    /// The pools, as `furlong pool --json` has them.
    ///
    /// # Panics
    /// If it fails.
    pub fn pools(&self) -> Value {
        serde_json::from_str(&self.run(&["pool", "--json"]).ok()).expect("it prints JSON")
    }

    /// Waits until something is so of the first pool, which it gives.
    ///
    /// # Panics
    /// If it does not come to be.
    pub fn wait_for(&self, what: &str, is_so: impl Fn(&Value) -> bool) -> Value {
        let mut last = Value::Null;
        let come = eventually(JOBS, || {
            last = self.pools();
            is_so(&last[0])
        });
        assert!(come, "not {what}: {last:#}\n{}", self.keeper_log());
        last[0].clone()
    }

    /// The log of the process that keeps the pools.
    pub fn keeper_log(&self) -> String {
        let path = self.home.cluster().log().join("keeper.log");
        fs::read_to_string(path).unwrap_or_default()
    }

    /// The process that keeps the pools, by what it has written down.
    pub fn keeper(&self) -> Option<Pid> {
        let text = fs::read_to_string(self.home.cluster().run().join("keeper.pid")).ok()?;
        // Behind it is the name of its machine.
        Pid::from_raw(text.split_whitespace().next()?.parse().ok()?)
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        // Nothing of a test that has failed goes on.
        for (pid, _) in processes_of(self.home.path()) {
            let _ = Pid::from_raw(pid.cast_signed()).map(|pid| kill_process(pid, Signal::KILL));
        }
    }
}
