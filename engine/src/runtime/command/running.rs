//! A program that runs, until nothing of its process group is left.

use std::io;
use std::os::fd::OwnedFd;
use std::process::{Child, ExitStatus};
use std::time::{Duration, Instant};

use bytes::Bytes;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, kill_process_group, pidfd_open};

use super::exit::ended;
use super::inputs::InputFiles;
use super::launch::Launched;
use super::pipes::{Got, InputPipe, OutputPipe, PIECE_BYTES_MAX};
use super::slot::{Asked, SlotContext};
use crate::clock;
use crate::runtime::memory::KillsBefore;
use crate::runtime::{AttemptEnd, JobTimes, OutputStream, SlotEvent, SlotJob};

/// A program and what is known of it.
pub(super) struct Running<'a> {
    context: &'a SlotContext,
    attempt: SlotJob,
    child: Child,
    group: Pid,
    /// Readable when the program has ended. None where the system has none: then it is looked for
    /// now and then.
    exit: Option<OwnedFd>,
    input: Option<InputPipe>,
    /// The files of its inputs, which it can open by their paths.
    _files: InputFiles,
    outputs: [Option<OutputPipe>; 2],
    stderr_tail: Vec<u8>,
    began: Began,
    /// The time at which the reaper is notified of it; none when it has been.
    register_at: Option<Instant>,
    cancelled: bool,
    kill_at: Option<Instant>,
}

/// The times at which a program was about to be started and was, and the number of others that the
/// system had killed by then.
#[derive(Clone, Copy, Debug)]
pub(super) struct Began {
    pub(super) at_us: u64,
    pub(super) started_us: u64,
    pub(super) kills: KillsBefore,
}

impl Began {
    /// The times of a program that ends now.
    fn times(self) -> JobTimes {
        JobTimes {
            begun_at_us: Some(self.at_us),
            load_us: self.started_us - self.at_us,
            run_us: clock::now_us().saturating_sub(self.started_us),
            store_us: 0,
        }
    }
}

/// The event that was waited for.
#[derive(Default)]
struct Ready {
    woken: bool,
    ended: bool,
    input: bool,
    outputs: [bool; 2],
}

impl<'a> Running<'a> {
    /// Takes a program that was just started, with its input.
    pub(super) fn new(
        context: &'a SlotContext,
        attempt: SlotJob,
        launched: Launched,
        began: Began,
    ) -> io::Result<Self> {
        let Launched { mut child, input, files } = launched;
        let group = Pid::from_child(&child);
        context.note_group(group);
        let exit = pidfd_open(group, PidfdFlags::empty()).ok();
        let (stdin, stdout, stderr) =
            (child.stdin.take(), child.stdout.take(), child.stderr.take());
        let mut running = Self {
            context,
            attempt,
            child,
            group,
            exit,
            input: None,
            _files: files,
            outputs: [None, None],
            stderr_tail: Vec::new(),
            began,
            register_at: Some(Instant::now() + REGISTER_AFTER),
            cancelled: false,
            kill_at: None,
        };
        let pipes =
            [stdin.map(OwnedFd::from), stdout.map(OwnedFd::from), stderr.map(OwnedFd::from)];
        match running.take_pipes(pipes, input) {
            Ok(()) => Ok(running),
            Err(error) => {
                running.kill();
                Err(error)
            }
        }
    }

    fn take_pipes(&mut self, pipes: [Option<OwnedFd>; 3], input: Vec<Bytes>) -> io::Result<()> {
        let [stdin, stdout, stderr] = pipes;
        self.input = stdin.map(|fd| InputPipe::new(fd, input)).transpose()?;
        let output =
            |stream, fd: Option<OwnedFd>| fd.map(|fd| OutputPipe::new(stream, fd)).transpose();
        self.outputs =
            [output(OutputStream::Stdout, stdout)?, output(OutputStream::Stderr, stderr)?];
        Ok(())
    }

    /// Moves bytes until the program has ended. None if the slot is dropped meanwhile.
    pub(super) fn run(mut self, buffer: &mut [u8]) -> Option<AttemptEnd> {
        self.write_input();
        loop {
            let ready = self.wait();
            if ready.woken && !self.handle_asked() {
                self.kill();
                return None;
            }
            if ready.input {
                self.write_input();
            }
            for (at, _) in ready.outputs.into_iter().enumerate().filter(|(_, is_ready)| *is_ready) {
                self.read_output(at, buffer);
            }
            if ready.ended {
                let status = self.bury();
                self.read_rest(buffer);
                let memory = self.context.memory.at_end(self.began.kills);
                let reply = ended(status, self.cancelled, memory, &self.stderr_tail);
                return Some(AttemptEnd { times: self.began.times(), ..reply });
            }
            self.look_at_the_clock();
        }
    }

    /// Waits until there is something to do.
    fn wait(&self) -> Ready {
        let timeout = self.next_deadline().map(|at| {
            let left = at.saturating_duration_since(Instant::now());
            Timespec { tv_sec: left.as_secs() as i64, tv_nsec: i64::from(left.subsec_nanos()) }
        });
        let room = &self.context.room;
        let no_room = room.is_full();
        let watched = self.outputs.each_ref().map(|pipe| pipe.as_ref().filter(|_| !no_room));
        let exit = self.exit.iter().map(|fd| PollFd::new(fd, PollFlags::IN));
        let input = self.input.iter().map(|pipe| PollFd::new(&pipe.fd, PollFlags::OUT));
        let outputs = watched.iter().flatten().map(|pipe| PollFd::new(&pipe.fd, PollFlags::IN));
        let woken = std::iter::once(PollFd::new(room.fd(), PollFlags::IN));
        let mut fds: Vec<PollFd> = woken.chain(exit).chain(input).chain(outputs).collect();
        if poll(&mut fds, timeout.as_ref()).is_err() {
            return Ready::default(); // interrupted
        }
        let mut happened = fds.iter().map(|fd| !fd.revents().is_empty());
        // In the order in which they were put there.
        let mut is_ready = |is_watched: bool| is_watched && happened.next().unwrap_or(false);
        let mut ready = Ready {
            woken: is_ready(true),
            ended: is_ready(self.exit.is_some()),
            input: is_ready(self.input.is_some()),
            outputs: watched.map(|pipe| is_ready(pipe.is_some())),
        };
        if self.exit.is_none() {
            ready.ended = self.has_ended();
        }
        ready
    }

    /// Returns true if the program has ended, without waiting for it: it must stay a zombie until
    /// its group is dead.
    fn has_ended(&self) -> bool {
        let options = rustix::process::WaitIdOptions::EXITED
            | rustix::process::WaitIdOptions::NOHANG
            | rustix::process::WaitIdOptions::NOWAIT;
        !matches!(
            rustix::process::waitid(rustix::process::WaitId::Pid(self.group), options),
            Ok(None)
        )
    }

    fn next_deadline(&self) -> Option<Instant> {
        let look = self.exit.is_none().then(|| Instant::now() + LOOK_EVERY);
        [self.register_at, self.kill_at, look].into_iter().flatten().min()
    }

    fn look_at_the_clock(&mut self) {
        let now = Instant::now();
        if self.register_at.is_some_and(|at| now >= at) {
            self.register_at = None;
            if let Err(error) = self.context.shared.reaper.add(self.group) {
                let slot = self.context.slot;
                tracing::warn!(slot, %error, "commands may outlive the engine: no reaper");
            }
        }
        if self.kill_at.is_some_and(|at| now >= at) {
            self.kill_at = None;
            self.signal(Signal::KILL);
        }
    }

    /// Does what the slot was asked for. False if it is dropped.
    fn handle_asked(&mut self) -> bool {
        let asked = self.context.take_asked();
        asked.signals().for_each(|signal| self.signal(signal));
        let Asked { cancel, closed, .. } = asked;
        match cancel {
            Some(true) => {
                self.cancelled = true;
                self.kill_at = None;
                self.signal(Signal::KILL);
            }
            Some(false) if !self.cancelled => {
                self.cancelled = true;
                self.kill_at = Some(Instant::now() + self.context.shared.config.kill_grace);
                self.signal(Signal::TERM);
            }
            _ => {}
        }
        !closed
    }

    fn signal(&self, signal: Signal) {
        // It fails if nobody is left.
        let _ = kill_process_group(self.group, signal);
    }

    fn write_input(&mut self) {
        if self.input.as_mut().is_some_and(|input| !input.write()) {
            self.input = None;
        }
    }

    /// Reads a piece of a stream. Returns how many bytes came.
    fn read_output(&mut self, at: usize, buffer: &mut [u8]) -> usize {
        let Some(pipe) = &mut self.outputs[at] else { return 0 };
        match pipe.read(buffer, &self.context.room) {
            Got::Bytes(bytes) => {
                let (stream, length) = (pipe.stream, bytes.len());
                self.context.emit(SlotEvent::Output { attempt: self.attempt, stream, bytes });
                length
            }
            Got::Nothing => 0,
            Got::End => {
                self.close_output(at);
                0
            }
        }
    }

    fn close_output(&mut self, at: usize) {
        if let Some(pipe) =
            self.outputs[at].take().filter(|pipe| pipe.stream == OutputStream::Stderr)
        {
            self.stderr_tail = pipe.tail;
        }
    }

    /// The program has ended: kills what it left of its group, then takes its status. In this
    /// order, since the group's number is the program's, and is nobody else's until then.
    fn bury(&mut self) -> io::Result<ExitStatus> {
        self.signal(Signal::KILL);
        if self.register_at.is_none() {
            self.context.shared.reaper.remove(self.group);
        }
        self.child.wait()
    }

    /// Reads what is in the pipes now and no more: somebody who has left the group may hold them
    /// for ever.
    fn read_rest(&mut self, buffer: &mut [u8]) {
        for at in 0..self.outputs.len() {
            let mut unread = self.outputs[at].as_ref().map_or(0, OutputPipe::unread);
            while unread > 0 {
                let piece = unread.min(PIECE_BYTES_MAX);
                match self.read_output(at, &mut buffer[..piece]) {
                    0 => break,
                    bytes => unread -= bytes,
                }
            }
            self.close_output(at);
        }
    }

    /// Kills the program and its group.
    fn kill(&mut self) {
        let status = self.bury();
        tracing::debug!(slot = self.context.slot, ?status, "a command was killed");
    }
}

/// The time that a program lives before the reaper is notified of it.
const REGISTER_AFTER: Duration = Duration::from_millis(5);
/// The interval at which a program's end is polled for where nothing notifies of it.
const LOOK_EVERY: Duration = Duration::from_millis(2);
