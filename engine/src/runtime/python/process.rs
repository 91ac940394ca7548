//! One interpreter as a process: its start, its pipes, its death.

use std::ffi::OsStr;
use std::future::{pending, poll_fn};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream as StdUnixStream;
use std::os::unix::process::ExitStatusExt;
use std::process::{ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, Ordering};

use bytes::{Bytes, BytesMut};
use furlong_link::pass::FilePasser;
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
use rustix::process::{Pid, Signal, kill_process, kill_process_group};
use tokio::net::UnixStream;
use tokio::net::unix::pipe::Receiver;
use tokio::process::{Child, Command};
use tokio::time::timeout;

use super::asks::Asks;
use super::page::Page;
use super::protocol::{Inbox, Incoming};
use super::requests::Requests;
use super::{PythonConfig, PythonError, PythonShared, Variables};
use crate::clock::OtherClock;
use crate::runtime::OutputStream;
use crate::runtime::ending::{exit_code, killed_by};
use crate::runtime::memory::{KillsBefore, MemoryAtEnd, SlotMemory};

/// A running interpreter whose worker takes jobs. Its process group is killed when this is dropped.
#[derive(Debug)]
pub(super) struct Interpreter {
    pub(super) child: Child,
    pub(super) requests: Requests,
    pub(super) replies: UnixStream,
    pub(super) stdout: OutputPipe,
    pub(super) stderr: OutputPipe,
    pub(super) page: Page,
    pub(super) asks: Asks,
    /// The way for memory files, both ways.
    pub(super) files: FilePasser,
    /// The clock by which it says when jobs began.
    pub(super) clock: OtherClock,
    memory: Arc<SlotMemory>,
    /// The system's kills before what runs now.
    kills: KillsBefore,
    pid: Pid,
    group: Arc<ProcessGroup>,
}

impl Interpreter {
    /// Starts an interpreter with these variables beside the configured ones, and waits until its
    /// worker is ready.
    pub(super) async fn start(
        shared: &PythonShared,
        env: &Variables,
        group: &Arc<ProcessGroup>,
        memory: &Arc<SlotMemory>,
    ) -> Result<Self, PythonError> {
        let resolved = shared.resolve().await?;
        let path = &resolved.executable;
        let cannot_start = |error: io::Error| PythonError::CannotStart {
            path: path.clone(),
            why: error.to_string(),
        };
        let (mut interpreter, worker_ends) =
            Self::spawn(path.as_os_str(), &shared.config, env, group, memory)
                .map_err(cannot_start)?;
        shared.reaper.add(interpreter.pid).map_err(PythonError::Reaper)?;
        let mut is_killed = false;
        let why = match timeout(
            shared.config.start_timeout,
            interpreter.hand_over(&shared.config.labels, worker_ends),
        )
        .await
        {
            Ok(Ok(())) => return Ok(interpreter),
            Ok(Err(_)) => {
                interpreter.kill();
                let status = interpreter.child.wait().await.map_err(cannot_start)?;
                is_killed = status.signal().is_some();
                interpreter.death_cause(status)
            }
            Err(_) => format!(
                "its worker was not ready within {} s",
                shared.config.start_timeout.as_secs()
            ),
        };
        interpreter.bury(shared);
        // One line: of a traceback, the last line says most.
        let why = why.lines().filter(|line| !line.trim().is_empty()).collect::<Vec<_>>();
        let why = if why.len() > 1 {
            format!("{}: {}", why[0], why[why.len() - 1])
        } else {
            why.concat()
        };
        let path = path.clone();
        Err(if is_killed {
            PythonError::KilledAtStart { path, why }
        } else {
            PythonError::CannotStart { path, why }
        })
    }

    /// Starts the process. It is still to be given its ends of the replies and of what it asks.
    fn spawn(
        path: &OsStr,
        config: &PythonConfig,
        env: &Variables,
        group: &Arc<ProcessGroup>,
        memory: &Arc<SlotMemory>,
    ) -> io::Result<(Self, [OwnedFd; 3])> {
        let (requests, stdin) = Requests::pair()?;
        let (replies, worker_end) = StdUnixStream::pair()?;
        replies.set_nonblocking(true)?;
        let (asks, asking_end) = Asks::pair()?;
        let flags = SocketFlags::CLOEXEC;
        let (files, files_end) =
            socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?;
        let mut command = Command::new(path);
        command
            .args(["-c", BOOTSTRAP])
            .envs(config.env.iter().map(|(name, value)| (name, value)))
            .envs(config.thread_counts())
            .envs(env.iter().map(|(name, value)| (name, value)))
            .process_group(0)
            .stdin(Stdio::from(stdin))
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        let mut child = command.spawn()?;
        let pid = child
            .id()
            .and_then(|id| Pid::from_raw(id.cast_signed()))
            .ok_or(io::ErrorKind::NotFound)?;
        group.set(pid);
        memory.admit(pid);
        let stdout = child.stdout.take().expect("it was asked for as a pipe").into_owned_fd()?;
        let stderr = child.stderr.take().expect("it was asked for as a pipe").into_owned_fd()?;
        let interpreter = Self {
            child,
            requests,
            replies: UnixStream::from_std(replies)?,
            stdout: OutputPipe::new(OutputStream::Stdout, stdout)?,
            stderr: OutputPipe::new(OutputStream::Stderr, stderr)?,
            page: Page::new()?,
            asks,
            files: FilePasser::new(files, true),
            clock: OtherClock::default(),
            memory: Arc::clone(memory),
            kills: memory.kills(),
            pid,
            group: Arc::clone(group),
        };
        Ok((interpreter, [worker_end.into(), asking_end, files_end]))
    }

    /// Sends the worker's files and all that it needs, and waits for its word.
    async fn hand_over(&mut self, labels: &[String], worker_ends: [OwnedFd; 3]) -> io::Result<()> {
        self.requests.write_all(&worker_bundle(labels)).await?;
        let [replies, asking, files] = &worker_ends;
        let files = [replies.as_fd(), self.page.file(), asking.as_fd(), files.as_fd()];
        self.requests.send_files(files).await?;
        drop(worker_ends); // when the worker ends, nobody else may hold it
        let mut inbox = Inbox::default();
        loop {
            self.replies.readable().await?;
            match self.replies.try_read_buf(inbox.room().map_err(io::Error::other)?) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => continue,
                Err(error) => return Err(error),
            }
            if let Incoming::Ready { clock_zero_ns } =
                inbox.poll_frame().map_err(io::Error::other)?.ok_or(io::ErrorKind::InvalidData)?
            {
                self.clock = OtherClock::new(clock_zero_ns);
                return Ok(());
            }
        }
    }

    /// Sends SIGINT to the interpreter alone: the worker's handler then reads its socket.
    pub(super) fn interrupt(&self) {
        self.signal(Signal::INT);
    }

    /// Sends a signal to the interpreter alone.
    pub(super) fn signal(&self, signal: Signal) {
        if self.child.id().is_some() {
            // It fails if the process has ended, which its exit status tells better.
            let _ = kill_process(self.pid, signal);
        }
    }

    /// Its number in the system.
    pub(super) fn pid(&self) -> i32 {
        self.pid.as_raw_nonzero().get()
    }

    /// Says how it ended, with the last lines of its standard error.
    pub(super) fn death_cause(&mut self, status: ExitStatus) -> String {
        death_cause(status, self.memory.at_end(self.kills), &self.stderr.read_tail())
    }

    /// A job has ended that ran for so long. What the system did meanwhile says nothing about a
    /// later death.
    pub(super) fn forget_kills(&mut self, run_us: u64) {
        if run_us >= LONG_ENOUGH_TO_RUN_OUT_US {
            self.kills = self.memory.kills();
        }
    }

    /// The memory that the interpreter may take.
    pub(super) fn memory_bytes(&self) -> Option<u64> {
        self.memory.bytes()
    }

    /// Kills the interpreter and all that it has started.
    pub(super) fn kill(&self) {
        self.group.kill();
    }

    /// The interpreter has ended: kills what it left, and forgets the group.
    pub(super) fn bury(self, shared: &PythonShared) {
        self.group.kill();
        self.group.clear();
        shared.reaper.remove(self.pid);
    }
}

impl Drop for Interpreter {
    fn drop(&mut self) {
        self.group.kill();
        self.group.clear();
    }
}

/// The process group of a slot's interpreter, if one runs. Shared by the slot and its task: whoever
/// goes first kills it.
#[derive(Debug, Default)]
pub(super) struct ProcessGroup(AtomicI32);

impl ProcessGroup {
    fn set(&self, group: Pid) {
        self.0.store(group.as_raw_nonzero().get(), Ordering::Relaxed);
    }

    fn clear(&self) {
        self.0.store(0, Ordering::Relaxed);
    }

    /// Its number, while there is one.
    pub(super) fn id(&self) -> Option<i32> {
        Some(self.0.load(Ordering::Relaxed)).filter(|id| *id != 0)
    }

    /// Kills every process in it.
    pub(super) fn kill(&self) {
        if let Some(group) = Pid::from_raw(self.0.load(Ordering::Relaxed)) {
            // It fails if nobody is left, which is what was wanted.
            let _ = kill_process_group(group, Signal::KILL);
        }
    }
}

/// The reading end of the interpreter's standard output or error.
#[derive(Debug)]
pub(super) struct OutputPipe {
    pub(super) stream: OutputStream,
    pipe: Receiver,
    is_closed: bool,
    /// The last bytes that came, kept of standard error only.
    tail: Vec<u8>,
}

impl OutputPipe {
    fn new(stream: OutputStream, fd: OwnedFd) -> io::Result<Self> {
        Ok(Self { stream, pipe: Receiver::from_owned_fd(fd)?, is_closed: false, tail: Vec::new() })
    }

    /// Waits until there is something to read; forever once the other end is closed. Only the task
    /// of the slot may wait: with `poll_read_ready` it joins no list of waiters at each turn.
    pub(super) async fn readable(&self) {
        let ready = poll_fn(|cx| self.pipe.poll_read_ready(cx));
        if self.is_closed || ready.await.is_err() {
            pending::<()>().await;
        }
    }

    /// Reads one piece after [`OutputPipe::readable`]; none if there is nothing after all.
    pub(super) fn read_ready(&mut self) -> Option<Bytes> {
        let mut piece = vec![0; PIECE_BYTES_MAX];
        match self.pipe.try_read(&mut piece) {
            Ok(0) => self.is_closed = true,
            Ok(bytes) => return Some(self.keep(&piece[..bytes])),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(_) => self.is_closed = true,
        }
        None
    }

    /// Reads what is there now except its last `left` bytes, and no more, whoever goes on writing.
    pub(super) fn read_unread(&mut self, left: u64) -> Vec<Bytes> {
        let unread = rustix::io::ioctl_fionread(&self.pipe).unwrap_or(0);
        let mut rest = unread.saturating_sub(left) as usize;
        let mut pieces = Vec::new();
        if rest == 0 {
            return pieces;
        }
        let mut piece = vec![0; PIECE_BYTES_MAX];
        while rest > 0 {
            // Not through tokio, which would first wait to hear from the system that there is
            // something.
            match rustix::io::read(&self.pipe, &mut piece[..rest.min(PIECE_BYTES_MAX)]) {
                Ok(0) | Err(_) => break,
                Ok(bytes) => pieces.push(self.keep(&piece[..bytes])),
            }
            rest = rest.saturating_sub(pieces.last().map_or(0, Bytes::len));
        }
        pieces
    }

    /// The last lines that came, among them what is unread.
    pub(super) fn read_tail(&mut self) -> String {
        self.read_unread(0);
        String::from_utf8_lossy(&self.tail).trim().to_owned()
    }

    /// A job has ended: what it wrote says nothing about a later death.
    pub(super) fn forget_tail(&mut self) {
        self.tail.clear();
    }

    fn keep(&mut self, piece: &[u8]) -> Bytes {
        if self.stream == OutputStream::Stderr {
            let excess = (self.tail.len() + piece.len()).saturating_sub(TAIL_BYTES_MAX);
            self.tail.drain(..excess.min(self.tail.len()));
            self.tail.extend_from_slice(&piece[piece.len().saturating_sub(TAIL_BYTES_MAX)..]);
        }
        Bytes::copy_from_slice(piece)
    }
}

/// Says how an interpreter ended, in a line, and then the last lines of its standard error.
fn death_cause(status: ExitStatus, memory: MemoryAtEnd, stderr: &str) -> String {
    let mut cause = match status.signal() {
        Some(signal) => format!("the interpreter was {}", killed_by(signal, memory)),
        None => {
            format!("the interpreter ended with {}", exit_code(status.code().unwrap_or(-1), memory))
        }
    };
    if !stderr.is_empty() {
        cause.push('\n');
        cause.push_str(stderr);
    }
    cause
}

/// The worker's files, as the bootstrap reads them: how many, then for each its module's name, its
/// size and its text.
fn worker_bundle(labels: &[String]) -> Bytes {
    let mut bundle = BytesMut::from(format!("{:8}", WORKER_FILES.len()).as_bytes());
    // JSON's strings are Python's as well.
    let settings = format!("LABELS = {}\n", serde_json::json!(labels));
    for (module, text) in WORKER_FILES {
        let more = if module == SETTINGS { settings.as_str() } else { "" };
        bundle.extend_from_slice(format!("{module:<56}{:8}", text.len() + more.len()).as_bytes());
        bundle.extend_from_slice(text.as_bytes());
        bundle.extend_from_slice(more.as_bytes());
    }
    bundle.freeze()
}

/// In the order in which they import each other.
const WORKER_FILES: [(&str, &str); 27] = [
    ("furlong_worker", include_str!("furlong_worker/__init__.py")),
    ("furlong_worker.sources", include_str!("furlong_worker/sources.py")),
    (SETTINGS, include_str!("furlong_worker/settings.py")),
    ("furlong_worker.errors", include_str!("furlong_worker/errors.py")),
    ("furlong_worker.paths", include_str!("furlong_worker/paths.py")),
    ("furlong_worker.scopes", include_str!("furlong_worker/scopes.py")),
    ("furlong_worker.definitions", include_str!("furlong_worker/definitions.py")),
    ("furlong_worker.modules", include_str!("furlong_worker/modules.py")),
    ("furlong_worker.pickles", include_str!("furlong_worker/pickles.py")),
    ("furlong_worker.exceptions", include_str!("furlong_worker/exceptions.py")),
    ("furlong_worker.output", include_str!("furlong_worker/output.py")),
    ("furlong_worker.frames", include_str!("furlong_worker/frames.py")),
    ("furlong_worker.files", include_str!("furlong_worker/files.py")),
    ("furlong_worker.inputs", include_str!("furlong_worker/inputs.py")),
    ("furlong_worker.channel", include_str!("furlong_worker/channel.py")),
    ("furlong_worker.given", include_str!("furlong_worker/given.py")),
    ("furlong_worker.calls", include_str!("furlong_worker/calls.py")),
    ("furlong_worker.namespace", include_str!("furlong_worker/namespace.py")),
    ("furlong_worker.maps", include_str!("furlong_worker/maps.py")),
    ("furlong_worker.farm", include_str!("furlong_worker/farm.py")),
    ("furlong_worker.engine", include_str!("furlong_worker/engine.py")),
    ("furlong_worker.rich", include_str!("furlong_worker/rich.py")),
    ("furlong_worker.cells", include_str!("furlong_worker/cells.py")),
    ("furlong_worker.fresh", include_str!("furlong_worker/fresh.py")),
    ("furlong_worker.looks", include_str!("furlong_worker/looks.py")),
    ("furlong_worker.leaving", include_str!("furlong_worker/leaving.py")),
    ("furlong_worker.worker", include_str!("furlong_worker/worker.py")),
];

/// The file that ends with what this engine was told.
const SETTINGS: &str = "furlong_worker.settings";

/// Reads the worker's files from the socket for requests, so that they need no place on disk and no
/// room in the list of processes.
///
/// The working directory comes off `sys.path` until the worker has imported what it needs: a
/// `json.py` that lies there is the user's.
const BOOTSTRAP: &str = r#"# Furlong worker
import os, sys, types
def read(size):
    data = b""
    while len(data) < size:
        data += os.read(0, size - len(data)) or os._exit(0)
    return data
sys.path[:] = [folder for folder in sys.path if folder]
for _ in range(int(read(8))):
    head = read(64).decode()
    name, size = head.split()
    module = sys.modules[name] = types.ModuleType(name)
    module.__path__ = []
    text = read(int(size))
    exec(compile(text, "<furlong worker " + name + ">", "exec"), module.__dict__)
module.main()
"#;

const PIECE_BYTES_MAX: usize = furlong_wire::limits::OUTPUT_MESSAGE_BYTES_MAX;
const TAIL_BYTES_MAX: usize = 2 * 1024;
/// Shorter jobs are not worth the look at the system's counter.
const LONG_ENOUGH_TO_RUN_OUT_US: u64 = 10_000;
