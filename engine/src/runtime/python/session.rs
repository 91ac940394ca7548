//! The conversation with one interpreter, from its first job to its death.

use std::collections::VecDeque;
use std::io;
use std::mem;
use std::process::ExitStatus;

use bytes::Bytes;
use furlong_wire::call::{Call, Codec, RemoteError, ReplyHeader};
use tokio::select;
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::time::{Duration, Instant, Interval, MissedTickBehavior, interval, sleep_until};

use super::PythonShared;
use super::held::HeldOutput;
use super::outbox::Outbox;
use super::process::{Interpreter, death_cause};
use super::protocol::{
    Control, End, Ended, Inbox, Incoming, KnownSources, ProtocolBroken, Request, SMALL_BODY_BYTES_MAX,
};
use super::slot::{Command, SlotContext, cancelled_reply};
use crate::runtime::{Job, JobOutcome, OutputStream, Reply, SlotEvent};

/// Why a session ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum SessionEnd {
    /// The interpreter has died; everything about it was reported.
    InterpreterDown,
    /// The slot is gone, and the interpreter was killed.
    SlotDropped,
}

/// The state of one interpreter.
pub(super) struct Session<'a> {
    context: &'a SlotContext,
    shared: &'a PythonShared,
    engine_id: &'a mut Option<u32>,
    interpreter: Interpreter,
    inbox: Inbox,
    outbox: Outbox,
    sources: KnownSources,
    /// Jobs that the interpreter has, in the order in which it runs them.
    sent: VecDeque<Sent>,
    sent_bytes: usize,
    pace: Pace,
    held: HeldOutput,
    tick: Interval,
    /// No reply came since the last tick.
    is_stalled: bool,
    /// A cancel or a question is on its way, and SIGINT must follow it.
    interrupt_due: bool,
    forced: Vec<Forced>,
    /// When to kill an interpreter that has closed its socket and does not end.
    closing: Option<Instant>,
    /// The attempt for whose sake the interpreter was killed.
    killed_for: Option<u64>,
    /// Why the interpreter must go.
    fault: Option<Fault>,
}

/// A job that the interpreter has.
#[derive(Clone, Copy, Debug)]
struct Sent {
    attempt: u64,
    bytes: usize,
    codec: Codec,
    is_large: bool,
    has_output: bool,
}

/// A forced cancel whose grace period runs.
#[derive(Clone, Copy, Debug)]
struct Forced {
    attempt: u64,
    kill_at: Instant,
}

/// Why an interpreter must go that has not ended by itself.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Fault {
    /// Its end of the socket is closed. Mostly because it has just died, and its exit status tells how.
    SocketClosed,
    /// It sends what is no frame.
    ProtocolBroken,
}

/// What the session waited for.
enum Wake {
    Command(Option<Command>),
    Readable,
    Writable,
    Output(OutputStream),
    Tick,
    Deadline,
    Exited(io::Result<ExitStatus>),
}

impl<'a> Session<'a> {
    /// Takes over an interpreter that is ready.
    pub(super) fn new(
        context: &'a SlotContext,
        shared: &'a PythonShared,
        interpreter: Interpreter,
        engine_id: &'a mut Option<u32>,
    ) -> Self {
        let mut tick = interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut outbox = Outbox::default();
        if let Some(id) = *engine_id {
            outbox.push_control(Control::EngineId(id));
        }
        Self {
            context,
            shared,
            engine_id,
            interpreter,
            inbox: Inbox::default(),
            outbox,
            sources: KnownSources::default(),
            sent: VecDeque::new(),
            sent_bytes: 0,
            pace: Pace::default(),
            held: HeldOutput::default(),
            tick,
            is_stalled: false,
            interrupt_due: false,
            forced: Vec::new(),
            closing: None,
            killed_for: None,
            fault: None,
        }
    }

    /// Feeds the interpreter until it dies or the slot is dropped.
    pub(super) async fn run(mut self, commands: &mut UnboundedReceiver<Command>) -> SessionEnd {
        loop {
            self.send_jobs();
            self.flush();
            match self.wait(commands).await {
                Wake::Command(None) => {
                    self.interpreter.kill();
                    return SessionEnd::SlotDropped;
                }
                Wake::Command(Some(command)) => {
                    self.handle_command(&command);
                    for _ in 0..COMMANDS_PER_TURN {
                        let Ok(command) = commands.try_recv() else { break };
                        self.handle_command(&command);
                    }
                }
                Wake::Readable => self.handle_readable(),
                Wake::Writable => {}
                Wake::Output(stream) => self.handle_output(stream),
                Wake::Tick => self.handle_tick(),
                Wake::Deadline => self.handle_deadline(),
                Wake::Exited(status) => {
                    self.handle_exit(status);
                    return SessionEnd::InterpreterDown;
                }
            }
        }
    }

    async fn wait(&mut self, commands: &mut UnboundedReceiver<Command>) -> Wake {
        let deadline = self.forced.iter().map(|forced| forced.kill_at).chain(self.closing).min();
        let Interpreter { child, socket, stdout, stderr, .. } = &mut self.interpreter;
        // With several jobs sent, output is read by the tick alone: see `HeldOutput`.
        let is_output_plain = self.sent.len() <= 1;
        let is_open = self.closing.is_none();
        select! {
            biased;
            _ = socket.readable(), if is_open => Wake::Readable,
            command = commands.recv() => Wake::Command(command),
            () = stdout.readable(), if is_output_plain => Wake::Output(OutputStream::Stdout),
            () = stderr.readable(), if is_output_plain => Wake::Output(OutputStream::Stderr),
            _ = socket.writable(), if is_open && !self.outbox.is_empty() => Wake::Writable,
            _ = self.tick.tick(), if !is_output_plain => Wake::Tick,
            () = sleep_until(deadline.unwrap_or_else(Instant::now)), if deadline.is_some() => Wake::Deadline,
            status = child.wait() => Wake::Exited(status),
        }
    }

    // Towards the interpreter.

    fn send_jobs(&mut self) {
        loop {
            let job = {
                let mut queue = self.context.queue();
                let fits = queue.front().is_some_and(|job| self.may_send(Request::bytes_at_most(job)));
                if !fits || self.closing.is_some() {
                    return;
                }
                queue.pop_front().expect("its front was just looked at")
            };
            self.send_job(job);
        }
    }

    /// One job always; further ones only behind short and quiet ones, within a bound that the socket's buffer holds.
    fn may_send(&self, bytes: usize) -> bool {
        let Some(last) = self.sent.back() else { return true };
        let is_large = last.is_large || bytes > SMALL_BODY_BYTES_MAX;
        !is_large
            && self.pace.is_brisk()
            && self.sent.len() < JOBS_AHEAD_MAX
            && self.sent_bytes + bytes <= BYTES_AHEAD_MAX
    }

    fn send_job(&mut self, job: Job) {
        let (attempt, codec) = (job.attempt, job.header.codec);
        let hash = match &job.header.call {
            Call::Source { hash, .. } => Some(*hash),
            _ => None,
        };
        match Request::new(job, hash.is_some_and(|hash| self.sources.contains(&hash))) {
            Ok(request) => {
                if let Some(hash) = hash {
                    self.sources.note(hash);
                }
                let bytes = request.body_bytes();
                let is_large = request.is_large();
                self.sent.push_back(Sent { attempt, bytes, codec, is_large, has_output: false });
                self.sent_bytes += bytes;
                if self.sent.len() == 2 {
                    self.tick.reset();
                    self.is_stalled = false;
                }
                self.outbox.push(request);
            }
            Err(missing) => self.context.emit_error(attempt, JobOutcome::Failed, missing.to_string()),
        }
    }

    fn flush(&mut self) {
        if self.closing.is_some() {
            return;
        }
        if self.outbox.write_to(&self.interpreter.socket).is_err() {
            self.close(Fault::SocketClosed);
            return;
        }
        if self.interrupt_due {
            // Even if not all was written: the handler makes room, and is called again after the rest.
            self.interpreter.interrupt();
            self.interrupt_due = !self.outbox.is_empty();
        }
    }

    fn handle_command(&mut self, command: &Command) {
        match *command {
            Command::JobQueued => {}
            Command::EngineId(id) => {
                *self.engine_id = Some(id);
                self.outbox.push_control(Control::EngineId(id));
            }
            Command::Cancel { attempt, force } => {
                if !self.is_sent(attempt) {
                    return;
                }
                self.outbox.push_control(Control::Cancel(attempt));
                self.interrupt_due = true;
                if force {
                    self.forced.push(Forced { attempt, kill_at: Instant::now() + self.shared.config.kill_grace });
                }
            }
        }
    }

    fn is_sent(&self, attempt: u64) -> bool {
        self.sent.iter().any(|sent| sent.attempt == attempt)
    }

    // From the interpreter.

    fn handle_readable(&mut self) {
        match self.interpreter.socket.try_read_buf(self.inbox.room()) {
            Ok(0) => self.close(Fault::SocketClosed),
            Ok(_) => {
                if let Err(ProtocolBroken) = self.handle_frames() {
                    self.close(Fault::ProtocolBroken);
                    self.interpreter.kill();
                }
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(_) => self.close(Fault::SocketClosed),
        }
    }

    /// The interpreter usually ends by itself now, and its exit status tells more.
    fn close(&mut self, fault: Fault) {
        self.fault = Some(fault);
        self.closing = Some(Instant::now() + self.shared.config.kill_grace);
    }

    fn handle_frames(&mut self) -> Result<(), ProtocolBroken> {
        while let Some(frame) = self.inbox.poll_frame()? {
            match frame {
                Incoming::Ready => {}
                Incoming::Stray(stream, bytes) => {
                    for begin in (0..bytes.len()).step_by(PIECE_BYTES_MAX) {
                        let piece = bytes.slice(begin..bytes.len().min(begin + PIECE_BYTES_MAX));
                        self.context.emit_output(None, stream, piece);
                    }
                }
                Incoming::Running { question, attempt } => {
                    if let Some(attempt) = self.held.handle_answer(question, attempt) {
                        self.emit_held(attempt);
                    }
                }
                Incoming::Ended(ended) => self.handle_ended(ended)?,
            }
        }
        Ok(())
    }

    fn handle_ended(&mut self, ended: Ended) -> Result<(), ProtocolBroken> {
        let attempt = ended.attempt;
        let Some(sent) = self.sent.front().copied().filter(|sent| sent.attempt == attempt) else {
            return Err(ProtocolBroken);
        };
        if ended.drain {
            self.emit_held(attempt);
            self.emit_unread(Some(attempt));
            self.outbox.push_control(Control::Drained);
        }
        self.held.handle_end();
        self.interpreter.stderr.forget_tail();
        self.forced.retain(|forced| forced.attempt != attempt);
        self.is_stalled = false;
        self.sent.pop_front();
        self.sent_bytes -= sent.bytes;
        self.pace.note(ended.run_us, sent.has_output || ended.drain);
        self.context.emit(SlotEvent::Finished { attempt, reply: reply(ended, sent.codec) });
        Ok(())
    }

    // Output.

    /// Something can be read, and at most one job is with the interpreter: what is read is that job's.
    fn handle_output(&mut self, stream: OutputStream) {
        if let Some(sent) = self.sent.front() {
            // Those that ended since it was held have said that it is not theirs.
            self.emit_held(sent.attempt);
        }
        for _ in 0..PIECES_PER_TURN {
            let pipe = match stream {
                OutputStream::Stdout => &mut self.interpreter.stdout,
                OutputStream::Stderr => &mut self.interpreter.stderr,
            };
            let Some(bytes) = pipe.read_ready() else { return };
            self.emit_output(self.sent.front().map(|sent| sent.attempt), stream, bytes);
        }
    }

    fn handle_tick(&mut self) {
        let Interpreter { stdout, stderr, .. } = &mut self.interpreter;
        for pipe in [stdout, stderr] {
            for bytes in pipe.read_unread(1) {
                self.held.push(pipe.stream, bytes);
            }
        }
        if let Some(owner) = self.held.owner() {
            self.emit_held(owner);
        } else if self.held.is_too_much() {
            // Code that prints from C and holds Python's lock: nobody answers. The oldest job it is, most likely.
            if let Some(sent) = self.sent.front() {
                self.emit_held(sent.attempt);
            }
        }
        if let Some(question) = self.held.poll_question(self.is_stalled) {
            self.outbox.push_control(Control::Ask(question));
            self.interrupt_due = true;
        }
        self.is_stalled = true;
    }

    fn emit_held(&mut self, attempt: u64) {
        for (stream, bytes) in self.held.take() {
            self.emit_output(Some(attempt), stream, bytes);
        }
    }

    fn emit_unread(&mut self, attempt: Option<u64>) {
        for (stream, bytes) in self.read_unread() {
            self.emit_output(attempt, stream, bytes);
        }
    }

    fn read_unread(&mut self) -> Vec<(OutputStream, Bytes)> {
        let Interpreter { stdout, stderr, .. } = &mut self.interpreter;
        [stdout, stderr]
            .into_iter()
            .flat_map(|pipe| {
                let stream = pipe.stream;
                pipe.read_unread(0).into_iter().map(move |bytes| (stream, bytes))
            })
            .collect()
    }

    fn emit_output(&mut self, attempt: Option<u64>, stream: OutputStream, bytes: Bytes) {
        if let Some(sent) = self.sent.iter_mut().find(|sent| Some(sent.attempt) == attempt) {
            sent.has_output = true;
        }
        self.context.emit_output(attempt, stream, bytes);
    }

    // Ends.

    fn handle_deadline(&mut self) {
        let now = Instant::now();
        if self.closing.is_some_and(|kill_at| kill_at <= now) {
            self.interpreter.kill();
            self.closing = Some(now + self.shared.config.kill_grace);
        }
        let running = self.sent.front().map(|sent| sent.attempt);
        for forced in &mut self.forced {
            if forced.kill_at > now {
                continue;
            }
            forced.kill_at = now + self.shared.config.kill_grace;
            // One that has not begun is answered when its turn comes: no reason to kill another.
            if running == Some(forced.attempt) {
                self.killed_for = running;
                self.interpreter.kill();
            }
        }
    }

    /// Reports what the dead interpreter still had said, then what was lost, then its death.
    fn handle_exit(mut self, status: io::Result<ExitStatus>) {
        while let Ok(1..) = self.interpreter.socket.try_read_buf(self.inbox.room()) {
            if self.handle_frames().is_err() {
                break;
            }
        }
        let running = self.sent.front().map(|sent| sent.attempt);
        if let Some(attempt) = running {
            self.emit_held(attempt);
        }
        self.emit_unread(running);
        let cause = self.cause(status);
        for sent in mem::take(&mut self.sent) {
            let attempt = sent.attempt;
            if self.killed_for == Some(attempt) {
                let reply = cancelled_reply("cancelled, and its interpreter killed");
                self.context.emit(SlotEvent::Finished { attempt, reply });
            } else {
                self.context.emit_error(attempt, JobOutcome::Lost(cause.clone()), cause.clone());
            }
        }
        self.interpreter.bury(self.shared);
        self.context.emit(SlotEvent::Down { cause });
    }

    fn cause(&mut self, status: io::Result<ExitStatus>) -> String {
        let stderr = self.interpreter.stderr.read_tail();
        match (status, self.killed_for, self.fault) {
            (_, Some(_), _) => "the interpreter was killed to cancel a task".to_owned(),
            (Ok(_), None, Some(Fault::ProtocolBroken)) => ProtocolBroken.to_string(),
            (Ok(status), None, Some(Fault::SocketClosed)) if status.success() => {
                "the code has closed all files".to_owned()
            }
            (Ok(status), None, _) => death_cause(status, &stderr),
            (Err(error), None, _) => format!("the interpreter is gone: {error}"),
        }
    }
}

fn reply(ended: Ended, codec: Codec) -> Reply {
    let Ended { end, run_us, count, buffers, .. } = ended;
    let text = |at: usize| buffers.get(at).map(|text| String::from_utf8_lossy(text).into_owned()).unwrap_or_default();
    let raised = || {
        let execution = (count > 0).then_some(count);
        ReplyHeader::Raised(RemoteError { type_name: text(0), message: text(1), traceback: text(2), execution })
    };
    match end {
        End::Returned => {
            let header = ReplyHeader::Returned { codec };
            Reply { outcome: JobOutcome::Succeeded, header, data: buffers, run_us }
        }
        End::Executed => {
            let header =
                ReplyHeader::Executed { count, repr: (!buffers.is_empty()).then(|| text(0)), displays: Vec::new() };
            Reply { outcome: JobOutcome::Succeeded, header, data: Vec::new(), run_us }
        }
        End::Raised => Reply { outcome: JobOutcome::Failed, header: raised(), data: Vec::new(), run_us },
        End::Cancelled if buffers.is_empty() => cancelled_reply("cancelled before it began"),
        End::Cancelled => Reply { outcome: JobOutcome::Cancelled, header: raised(), data: Vec::new(), run_us },
    }
}

/// Whether recent jobs were such that the next may be sent before they end: short, so that they are rarely cancelled
/// and never recalled, and quiet, so that output is attributed without holding it.
#[derive(Debug, Default)]
struct Pace {
    /// Jobs to see before it is brisk.
    wanted: u32,
}

impl Pace {
    fn note(&mut self, run_us: u64, has_output: bool) {
        self.wanted = if has_output {
            QUIET_JOBS_WANTED
        } else if run_us > SHORT_JOB_US {
            self.wanted.max(1)
        } else {
            self.wanted.saturating_sub(1)
        };
    }

    fn is_brisk(&self) -> bool {
        self.wanted == 0
    }
}

/// As many jobs go ahead at most.
const JOBS_AHEAD_MAX: usize = 64;
/// And as many bytes of them: a cancel behind them must fit into the socket's buffer, as the interpreter reads it late.
const BYTES_AHEAD_MAX: usize = 256 * 1024;
const SHORT_JOB_US: u64 = 1000;
const QUIET_JOBS_WANTED: u32 = 16;
/// While several jobs are sent, output and stalled replies are looked after so often.
const TICK: Duration = Duration::from_millis(2);
const COMMANDS_PER_TURN: usize = 256;
const PIECES_PER_TURN: usize = 8;
const PIECE_BYTES_MAX: usize = furlong_wire::limits::OUTPUT_MESSAGE_BYTES_MAX;
