//! The processes of a farm that is to be broken: each peer comes by a line of its own, and who dies
//! is replaced.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, bail};
use furlong_host::private_file::write_private;
use furlong_tests::home::Home;
use furlong_tests::program::{Program, binary};
use furlong_tests::proxy::Proxy;
use furlong_tests::wait::eventually;
use furlong_wire::token::Role;
use rustix::process::{Pid, Signal, kill_process};

use crate::disk::Disk;
use crate::log::{Entry, LogReader, What};

/// The parts of a farm.
#[derive(Clone, Debug)]
pub struct Setup {
    /// The folder for all that it leaves.
    pub folder: PathBuf,
    /// The seed from which clients make their jobs.
    pub seed: u64,
    /// Engine processes.
    pub engines: usize,
    /// Clients at a time.
    pub clients: usize,
    /// Tasks that each client has in flight.
    pub window: u32,
    /// The interpreter of the engines.
    pub python: Option<PathBuf>,
    /// True if the home is a disk of its own.
    pub with_disk: bool,
    /// True if clients submit short tasks alone.
    pub short: bool,
    /// The longest that a fault lasts.
    pub faults_last_at_most: Duration,
    /// The longest pause between two faults.
    pub pauses_at_most: Duration,
    /// Further arguments of the broker.
    pub broker_args: Vec<String>,
}

/// The farm.
pub struct Farm {
    /// The broker; none while it cannot be started.
    broker: Option<Program>,
    /// The engine processes.
    pub engines: Vec<Peer>,
    /// The clients that are there.
    pub clients: Vec<Peer>,
    /// All clients that ever were, by their numbers.
    pub logs: Vec<ClientLog>,
    /// The processes that engines ever were, with their places.
    pub engine_pids: Vec<(u32, usize)>,
    home: Home,
    disk: Option<Disk>,
    setup: Setup,
}

/// An engine process or a client, and its line.
pub struct Peer {
    /// The line, if it has one.
    pub proxy: Option<Proxy>,
    cap: PathBuf,
    process: Program,
    /// A client's number.
    pub number: u32,
}

/// The record of a client.
pub struct ClientLog {
    /// The entries that it has written down.
    pub entries: Vec<Entry>,
    /// True if it was killed.
    pub is_gone: bool,
    /// At whose place it was.
    cap: PathBuf,
    /// True if its session was to end with its connection.
    pub cancels: bool,
    reader: LogReader,
}

impl Setup {
    /// True if the broker has a journal.
    pub fn has_journal(&self) -> bool {
        self.broker_args.iter().any(|arg| arg == "--journal" || arg.starts_with("--journal="))
    }
}

impl Farm {
    /// Starts a farm.
    ///
    /// # Errors
    /// If something of it cannot be started.
    pub fn start(setup: Setup) -> anyhow::Result<Self> {
        let home = Home::at(setup.folder.join("home"));
        std::fs::create_dir_all(home.path())?;
        let disk = setup.with_disk.then(|| Disk::mount(home.path())).transpose()?;
        std::fs::create_dir_all(setup.folder.join("home/files"))?;
        let mut farm = Self {
            broker: None,
            engines: Vec::new(),
            clients: Vec::new(),
            logs: Vec::new(),
            engine_pids: Vec::new(),
            home,
            disk,
            setup,
        };
        farm.start_broker();
        if !eventually(START, || farm.is_up()) {
            bail!(
                "the broker does not start: {}",
                farm.broker.map(|broker| broker.stderr()).unwrap_or_default()
            );
        }
        for place in 0..farm.setup.engines {
            let (proxy, cap) = farm.line(&format!("engine-{place}"), Role::Engine, place > 0)?;
            let process = farm.engine(place, &cap);
            farm.engine_pids.push((process.pid(), place));
            farm.engines.push(Peer { proxy, cap, process, number: 0 });
        }
        for place in 0..farm.setup.clients {
            let (proxy, cap) = farm.line(&format!("client-{place}"), Role::Client, place > 0)?;
            let (number, process) = farm.client(&cap)?;
            farm.clients.push(Peer { proxy, cap, process, number });
        }
        Ok(farm)
    }

    /// A line to the broker that can be cut, and a capability for the way along it. The first
    /// engine and the first client come without, by the broker's pipes, and so do all with short
    /// tasks.
    fn line(
        &self,
        name: &str,
        role: Role,
        can_be_cut: bool,
    ) -> anyhow::Result<(Option<Proxy>, PathBuf)> {
        let direct = self.home.capability(role);
        let port = self.home.broker_state().context("the broker says where it is")?.port;
        let proxy = (can_be_cut && !self.setup.short).then(|| Proxy::start(port));
        let path = self.setup.folder.join(format!("{name}.cap.json"));
        let capability = match &proxy {
            Some(proxy) => proxy.capability(direct),
            None => direct,
        };
        write_private(&path, capability.to_json().as_bytes())?;
        Ok((proxy, path))
    }

    /// Starts the broker, and does not wait for it.
    pub fn start_broker(&mut self) {
        let args = ["--bind", "127.0.0.1", "--stop-with-stdin", "--memory", "2G"];
        let args: Vec<&str> =
            args.into_iter().chain(self.setup.broker_args.iter().map(String::as_str)).collect();
        self.broker = Some(Program::start("broker", &args, &self.home));
    }

    /// The broker's process.
    pub fn broker_pid(&self) -> Option<u32> {
        self.broker.as_ref().map(Program::pid)
    }

    /// Returns true if the broker says where it is.
    pub fn is_up(&self) -> bool {
        self.home.broker_state().is_some_and(|state| Some(state.pid) == self.broker_pid())
    }

    /// Kills the broker and starts it again.
    pub fn restart_broker(&mut self) {
        if let Some(broker) = &mut self.broker {
            broker.kill();
        }
        self.start_broker();
    }

    /// Kills an engine process, and starts another at its place.
    pub fn replace_engine(&mut self, place: usize) {
        self.engines[place].process.kill();
        let process = self.engine(place, &self.engines[place].cap);
        self.engine_pids.push((process.pid(), place));
        self.engines[place].process = process;
    }

    /// Kills a client, and starts another at its place.
    ///
    /// # Errors
    /// If its log cannot be made.
    pub fn replace_client(&mut self, place: usize) -> anyhow::Result<()> {
        let peer = &mut self.clients[place];
        peer.process.kill();
        self.logs[peer.number as usize].is_gone = true;
        let cap = peer.cap.clone();
        let (number, process) = self.client(&cap)?;
        self.clients[place].number = number;
        self.clients[place].process = process;
        Ok(())
    }

    /// Kills the interpreters of an engine process. How many there were.
    pub fn kill_interpreters(&self, place: usize) -> usize {
        let engine = self.engines[place].process.pid();
        let interpreters = children(engine).into_iter().filter(|pid| is_interpreter(*pid));
        interpreters.map(|pid| signal(pid, Signal::KILL)).count()
    }

    /// Sends a signal to an engine process.
    pub fn signal_engine(&self, place: usize, which: Signal) {
        signal(self.engines[place].process.pid(), which);
    }

    /// Sends a signal to a client.
    pub fn signal_client(&self, place: usize, which: Signal) {
        signal(self.clients[place].process.pid(), which);
    }

    /// Sends a signal to the broker.
    pub fn signal_broker(&self, which: Signal) {
        if let Some(pid) = self.broker_pid() {
            signal(pid, which);
        }
    }

    /// The small disk, if there is one.
    pub fn disk(&self) -> Option<&Disk> {
        self.disk.as_ref()
    }

    /// The farm's home.
    pub fn home(&self) -> &Home {
        &self.home
    }

    /// Keeps a copy of the home, which goes with its disk.
    pub fn keep_home(&self) {
        let copy = self.setup.folder.join("kept");
        // An error leaves less to be read.
        let _ = Command::new("cp").arg("-r").arg(self.home.path()).arg(copy).output();
    }

    /// The folder for all that it leaves.
    pub fn folder(&self) -> &Path {
        &self.setup.folder
    }

    /// Reads on in all clients' logs.
    ///
    /// # Errors
    /// If one cannot be read.
    pub fn read_logs(&mut self) -> anyhow::Result<()> {
        for (number, log) in self.logs.iter_mut().enumerate() {
            let entries =
                log.reader.read().with_context(|| format!("the log of client {number}"))?;
            // A session that has ended with its connection: nobody is told how its tasks end.
            let is_untold =
                |entry: &Entry| matches!(&entry.what, What::Ended(end) if end.state.is_none());
            log.is_gone |= log.cancels && entries.iter().any(is_untold);
            log.entries.extend(entries);
        }
        Ok(())
    }

    /// Replaces what could not start as there was no space, and says what has ended though nobody
    /// ended it.
    pub fn look_after(&mut self, is_full: bool) -> Option<String> {
        if !self.broker.as_mut().is_some_and(Program::is_running) {
            let text = self.broker.as_ref().map(Program::stderr).unwrap_or_default();
            if !is_full {
                return Some(format!("the broker has ended: {text}"));
            }
            self.start_broker();
        }
        for place in 0..self.engines.len() {
            let process = &mut self.engines[place].process;
            if !process.is_running() {
                let text = process.stderr();
                if !is_full {
                    return Some(format!("engine {place} has ended: {text}"));
                }
                self.replace_engine(place);
            }
        }
        for place in 0..self.clients.len() {
            let Peer { process, number, .. } = &mut self.clients[place];
            if process.is_running() {
                continue;
            }
            let (number, text) = (*number, process.stderr());
            // A session that ends with its connection takes its client along.
            if !self.logs[number as usize].cancels {
                return Some(format!("client {number} has ended: {text}"));
            }
            if let Err(error) = self.replace_client(place) {
                return Some(error.to_string());
            }
        }
        None
    }

    /// Asks the clients to stop, and waits for them: each ends when all its tasks have ended.
    ///
    /// # Errors
    /// The clients that do not end, or end badly.
    pub fn stop_clients(&mut self, within: Duration) -> Result<(), String> {
        self.clients.iter_mut().for_each(|client| client.process.close_stdin());
        let clients = &mut self.clients;
        eventually(within, || clients.iter_mut().all(|client| !client.process.is_running()));
        for client in clients {
            let number = client.number;
            if client.process.is_running() {
                return Err(format!(
                    "client {number} still waits for tasks {within:?} after everything was healed"
                ));
            }
            let status = client.process.wait_exit(within);
            if !status.success() {
                return Err(format!(
                    "client {number} ended with {status}: {}",
                    client.process.stderr()
                ));
            }
        }
        Ok(())
    }

    /// Stops engines and broker gracefully, and says what does not stop.
    ///
    /// # Errors
    /// That.
    pub fn stop(&mut self) -> Result<(), String> {
        // Engines keep for ten minutes what sessions may come back for that will not.
        let is_waited_for = self.logs.iter().any(|log| log.is_gone);
        let engines = self.engines.iter_mut().map(|peer| &mut peer.process);
        let mut programs: Vec<&mut Program> = engines.collect();
        programs.iter().for_each(|program| program.terminate());
        if is_waited_for
            && !eventually(DRAIN, || programs.iter_mut().all(|program| !program.is_running()))
        {
            programs.iter().for_each(|program| program.terminate());
        }
        if !eventually(STOP, || programs.iter_mut().all(|program| !program.is_running())) {
            return Err("an engine does not stop after SIGTERM".to_owned());
        }
        let Some(broker) = &mut self.broker else { return Ok(()) };
        broker.terminate();
        if eventually(STOP, || !broker.is_running()) {
            Ok(())
        } else {
            Err("the broker does not stop".to_owned())
        }
    }

    /// The process ids of all programs that are there.
    pub fn pids(&self) -> Vec<u32> {
        let peers = self.engines.iter().chain(&self.clients).map(|peer| peer.process.pid());
        peers.collect()
    }

    fn engine(&self, place: usize, cap: &Path) -> Program {
        // One half are the programs that people install, the other those that they build with our
        // library.
        let mut command = if place.is_multiple_of(2) || self.setup.short {
            Command::new(binary("engine"))
        } else {
            let mut own = this_program();
            own.arg("engine");
            own
        };
        command.args(["-n", SLOTS, "--cap"]).arg(cap);
        if place.is_multiple_of(2) || self.setup.short {
            command.arg("--stop-with-stdin");
        }
        if let Some(python) = &self.setup.python {
            command.arg("--python").arg(python);
        }
        command
            .env("FURLONG_HOME", self.home.path())
            .env_remove("FURLONG_CAP")
            .env("RUST_BACKTRACE", "1");
        Program::spawn("engine", command)
    }

    fn client(&mut self, cap: &Path) -> anyhow::Result<(u32, Program)> {
        let number = self.logs.len() as u32;
        let Setup { folder, seed, window, python, short, .. } = &self.setup;
        let log = folder.join(format!("client-{number}.log"));
        let with_durable = self.setup.has_journal() && !short;
        // Those who were at its place before.
        let heir_of = (0..).zip(&self.logs).filter(|(_, log)| with_durable && log.cap == cap);
        let heir_of: Vec<PathBuf> =
            heir_of.map(|(other, _)| folder.join(format!("client-{other}.log"))).collect();
        // Who is to fetch for others stays.
        let cancels = number % 4 == 3 && !short && heir_of.is_empty();
        let mut command = this_program();
        command.arg("client").args(heir_of.into_iter().flat_map(|log| ["--heir-of".into(), log]));
        command.arg("--cap").arg(cap).arg("--log").arg(&log);
        command.args([
            "--number",
            &number.to_string(),
            "--seed",
            &seed.to_string(),
            "--window",
            &window.to_string(),
        ]);
        command
            .arg("--trace")
            .arg(folder.join("trace"))
            .arg("--files")
            .arg(folder.join("home/files"));
        let flags = [
            (cancels, "--cancel-on-disconnect"),
            (python.is_some(), "--with-python"),
            (with_durable && !cancels, "--with-durable"),
            (*short, "--short"),
        ];
        command.args(flags.into_iter().filter(|(is_set, _)| *is_set).map(|(_, flag)| flag));
        command.env("FURLONG_HOME", self.home.path()).env("RUST_BACKTRACE", "1");
        let reader = LogReader::open(&log)?;
        self.logs.push(ClientLog {
            entries: Vec::new(),
            is_gone: false,
            cap: cap.to_owned(),
            cancels,
            reader,
        });
        Ok((number, Program::spawn("client", command)))
    }
}

/// This executable, which is client and engine too.
fn this_program() -> Command {
    Command::new(std::env::current_exe().expect("a program knows its executable"))
}

fn signal(pid: u32, which: Signal) {
    if let Some(pid) = Pid::from_raw(pid.cast_signed()) {
        // An error says that it has ended.
        let _ = kill_process(pid, which);
    }
}

/// The processes whose parent this is.
fn children(parent: u32) -> Vec<u32> {
    let lists = std::fs::read_dir(format!("/proc/{parent}/task")).into_iter().flatten().flatten();
    let texts = lists.filter_map(|task| std::fs::read_to_string(task.path().join("children")).ok());
    texts
        .flat_map(|text| {
            text.split_whitespace().filter_map(|pid| pid.parse().ok()).collect::<Vec<_>>()
        })
        .collect()
}

fn is_interpreter(pid: u32) -> bool {
    let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    line.split(|byte| *byte == 0)
        .next()
        .is_some_and(|program| String::from_utf8_lossy(program).contains("python"))
}

const START: Duration = Duration::from_secs(20);
/// The time limit for engines to finish, before they are told to leave at once.
const DRAIN: Duration = Duration::from_secs(3);
const STOP: Duration = Duration::from_secs(30);
/// Engines in each process.
const SLOTS: &str = "2";
