//! The real programs as child processes.

use std::io::{BufRead, BufReader, Read};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process, kill_process_group};

use crate::home::Home;
use crate::wait::eventually;

/// A running program. It, and what it started, is killed when this is dropped.
#[derive(Debug)]
pub struct Program {
    name: String,
    child: Child,
    /// Held open, since some programs end with their standard input.
    stdin: Option<ChildStdin>,
    stdout: Arc<Mutex<Vec<String>>>,
    stderr: Arc<Mutex<Vec<String>>>,
    readers: Vec<JoinHandle<()>>,
}

/// The path of `broker`, `engine` or `furlong`, as built.
///
/// # Panics
/// If it is not there.
pub fn binary(name: &str) -> PathBuf {
    let folder =
        std::env::var_os("FURLONG_TEST_BIN_DIR").map_or_else(profile_folder, PathBuf::from);
    let path = folder.join(name);
    assert!(path.is_file(), "there is no {}; run cargo build --workspace --bins", path.display());
    path
}

/// Cargo puts a test's executable into `PROFILE/deps`, and the programs into `PROFILE`.
fn profile_folder() -> PathBuf {
    let executable = std::env::current_exe().expect("a test knows its executable");
    let folder = executable.parent().expect("an executable is in a folder");
    let is_test = folder.file_name().is_some_and(|name| name == "deps");
    if is_test {
        folder.parent().expect("deps is in PROFILE").to_owned()
    } else {
        folder.to_owned()
    }
}

impl Program {
    /// Starts `broker`, `engine` or `furlong` in a home.
    pub fn start(name: &str, args: &[&str], home: &Home) -> Self {
        let mut command = Command::new(binary(name));
        command.args(args).env("FURLONG_HOME", home.path()).env_remove("FURLONG_CAP");
        Self::spawn(name, command)
    }

    /// Starts any command.
    ///
    /// # Panics
    /// If it cannot be started.
    pub fn spawn(name: &str, mut command: Command) -> Self {
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        // A group of its own, so that what it starts can be ended with it.
        let spawned = command.process_group(0).spawn();
        let mut child = spawned.unwrap_or_else(|error| panic!("cannot start {name}: {error}"));
        let (stdout, stderr) = (Arc::<Mutex<_>>::default(), Arc::<Mutex<_>>::default());
        let readers = vec![
            collect_lines(child.stdout.take().expect("stdout is piped"), &stdout),
            collect_lines(child.stderr.take().expect("stderr is piped"), &stderr),
        ];
        Self { name: name.to_owned(), stdin: child.stdin.take(), child, stdout, stderr, readers }
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Returns what it has printed so far.
    pub fn stdout(&self) -> String {
        self.stdout.lock().expect("no reader panics").join("\n")
    }

    /// Returns what it has printed to stderr so far.
    pub fn stderr(&self) -> String {
        self.stderr.lock().expect("no reader panics").join("\n")
    }

    /// Waits for a line, of stdout or stderr, that contains the text, and returns it.
    ///
    /// # Panics
    /// If there is none before the deadline; the message has all that was printed.
    pub fn wait_for_line(&self, text: &str, deadline: Duration) -> String {
        let find = || {
            [&self.stdout, &self.stderr].into_iter().find_map(|lines| {
                let lines = lines.lock().expect("no reader panics");
                lines.iter().find(|line| line.contains(text)).cloned()
            })
        };
        let mut found = None;
        eventually(deadline, || {
            found = find();
            found.is_some()
        });
        found.unwrap_or_else(|| {
            panic!("{} printed no line with {text:?}:\n{}", self.name, self.printed())
        })
    }

    /// Waits for its end. Everything that it printed is there afterwards.
    ///
    /// # Panics
    /// If it does not end before the deadline.
    pub fn wait_exit(&mut self, deadline: Duration) -> ExitStatus {
        let mut status = None;
        eventually(deadline, || {
            status = self.child.try_wait().expect("a child can be waited for");
            status.is_some()
        });
        let Some(status) = status else { panic!("{} did not end:\n{}", self.name, self.printed()) };
        // What it started may still hold the pipes; the readers would wait for that.
        self.kill_group();
        self.readers.drain(..).for_each(|reader| reader.join().expect("no reader panics"));
        status
    }

    /// Returns true if it runs.
    ///
    /// # Panics
    /// If the system does not say.
    pub fn is_running(&mut self) -> bool {
        self.child.try_wait().expect("a child can be waited for").is_none()
    }

    /// Kills it with SIGKILL, as the system does when memory is short, and reaps it.
    pub fn kill(&mut self) {
        // An error says that it has ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Asks it to end, with SIGTERM.
    pub fn terminate(&self) {
        let _ = kill_process(self.rustix_pid(), Signal::TERM);
    }

    /// Sends it SIGINT, as Ctrl-C does.
    pub fn interrupt(&self) {
        let _ = kill_process(self.rustix_pid(), Signal::INT);
    }

    /// Stops it with SIGSTOP, so that it does nothing more; it can still be killed.
    pub fn suspend(&self) {
        let _ = kill_process(self.rustix_pid(), Signal::STOP);
    }

    /// Closes its standard input.
    pub fn close_stdin(&mut self) {
        self.stdin = None;
    }

    fn kill_group(&self) {
        let _ = kill_process_group(self.rustix_pid(), Signal::KILL);
    }

    fn rustix_pid(&self) -> Pid {
        Pid::from_child(&self.child)
    }

    fn printed(&self) -> String {
        format!("--- stdout\n{}\n--- stderr\n{}", self.stdout(), self.stderr())
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        self.kill_group();
        self.kill();
    }
}

/// Collects the lines of a pipe until its end.
fn collect_lines(
    pipe: impl Read + Send + 'static,
    lines: &Arc<Mutex<Vec<String>>>,
) -> JoinHandle<()> {
    let lines = lines.clone();
    std::thread::spawn(move || {
        for line in BufReader::new(pipe).lines().map_while(Result::ok) {
            lines.lock().expect("no reader panics").push(line);
        }
    })
}
