//! The conversation with one interpreter, from its first job to its death.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::io;
use std::process::ExitStatus;

use bytes::Bytes;
use furlong_wire::call::{Call, Codec, PickledCall, RemoteError};
use furlong_wire::ids::SessionId;
use rustix::process::Signal;
use tokio::select;
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::time::{Duration, Instant, Interval, MissedTickBehavior, interval};

use super::held::HeldOutput;
use super::inputs::SentInputs;
use super::interrupts::{Interrupts, reached};
use super::known::Known;
use super::looks::{Looks, number_of};
use super::outbox::Outbox;
use super::pace::Pace;
use super::process::Interpreter;
use super::protocol::{
    Control, EndFrame, EndKind, Inbox, Incoming, ProtocolBroken, Request, SMALL_BODY_BYTES_MAX,
};
use super::replies::{finish_file, reply, reply_in_file};
use super::slot::{Command, SlotContext};
use super::{PythonShared, ResolvedInterpreter};
use crate::runtime::{
    AttemptOutcome, Job, Latest, OutputStream, Published, Report, SlotEvent, SlotJob, Unable,
};

/// The reason why a session ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum SessionEnd {
    /// The interpreter has died; everything about it was reported.
    InterpreterDown,
    /// The same, by itself and before a job has begun.
    DiedUnused,
    /// The slot is gone, and the interpreter was killed.
    SlotDropped,
}

/// The state of one interpreter.
pub(super) struct Session<'a> {
    pub(super) context: &'a SlotContext,
    pub(super) shared: &'a PythonShared,
    engine_id: &'a mut Option<u32>,
    pub(super) interpreter: Interpreter,
    pub(super) inbox: Inbox,
    pub(super) outbox: Outbox,
    known: Known,
    /// The session of the job that was sent last.
    owner: Option<SessionId>,
    /// Jobs that the interpreter has, in the order in which it runs them.
    pub(super) sent: VecDeque<Sent>,
    sent_bytes: usize,
    pace: Pace,
    held: HeldOutput,
    tick: Interval,
    /// No reply came since the last tick.
    is_stalled: bool,
    /// The SIGINTs that must follow cancels and questions.
    pub(super) interrupts: Interrupts,
    pub(super) forced: Vec<Forced>,
    pub(super) looks: Looks,
    /// The time at which to kill an interpreter that has closed its socket, or is to end, and does
    /// not.
    pub(super) closing: Option<Instant>,
    /// It was told to end gracefully: it may still say something.
    pub(super) is_ending: bool,
    /// The job that ran when it was told to end: the job is lost with it, however its code takes
    /// the interrupt.
    pub(super) cut_short: Option<SlotJob>,
    /// The reason why the interpreter must go.
    pub(super) fault: Option<Fault>,
    /// It has ended: what is read now is what it had not sent.
    pub(super) is_dead: bool,
    /// The data that the running job has published last.
    latest: (SlotJob, Latest),
    /// No job has ended here.
    pub(super) is_unused: bool,
    /// If it dies unused, as those before it did, the slot is of no use.
    pub(super) is_last: bool,
}

/// A job that the interpreter has.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sent {
    pub(super) attempt: SlotJob,
    bytes: usize,
    codec: Codec,
    is_large: bool,
    has_output: bool,
}

/// A forced cancel whose grace period runs.
#[derive(Clone, Copy, Debug)]
pub(super) struct Forced {
    pub(super) attempt: SlotJob,
    pub(super) kill_at: Instant,
}

/// The reason for removing an interpreter that has not ended by itself.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Fault {
    /// It was killed, because this attempt did not respond to a forced cancel.
    KilledFor(SlotJob),
    /// It was ended, because somebody wanted another.
    Restarted,
    /// It was ended, because the engine ends.
    EngineEnds,
    /// Its end of the socket is closed. Mostly because it has just died, and its exit status tells
    /// how.
    SocketClosed,
    /// It sends what is no frame.
    ProtocolBroken,
    /// It sends more than there is memory for.
    NoRoom,
}

/// The event that the session waited for.
enum Wake {
    Command(Option<Command>),
    Readable,
    Writable,
    Output(OutputStream),
    Asked,
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
        is_last: bool,
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
            known: Known::default(),
            owner: None,
            sent: VecDeque::new(),
            sent_bytes: 0,
            pace: Pace::default(),
            held: HeldOutput::default(),
            tick,
            is_stalled: false,
            interrupts: Interrupts::default(),
            forced: Vec::new(),
            looks: Looks::default(),
            closing: None,
            is_ending: false,
            cut_short: None,
            fault: None,
            is_dead: false,
            latest: (SlotJob(0), Latest::default()),
            is_unused: true,
            is_last,
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
                Wake::Asked => self.handle_asked(),
                Wake::Tick => self.handle_tick(),
                Wake::Deadline => self.handle_deadline(),
                Wake::Exited(status) => {
                    let is_over = self.fault == Some(Fault::EngineEnds);
                    let ended = self.handle_exit(status);
                    return if is_over { SessionEnd::SlotDropped } else { ended };
                }
            }
        }
    }

    async fn wait(&mut self, commands: &mut UnboundedReceiver<Command>) -> Wake {
        let kills = self.forced.iter().map(|forced| forced.kill_at).chain(self.closing);
        let deadline = self.looks.sooner(kills.chain(self.interrupts.deadline()).min());
        let Interpreter { child, requests, replies, stdout, stderr, asks, .. } =
            &mut self.interpreter;
        // With several jobs sent, output is read by the tick alone: see `HeldOutput`.
        let is_output_plain = self.sent.len() <= 1;
        let is_open = self.closing.is_none() || self.is_ending;
        select! {
            biased;
            // First: a flood of what is below must not put it off.
            () = reached(deadline) => Wake::Deadline,
            _ = poll_fn(|cx| replies.poll_read_ready(cx)), if is_open => Wake::Readable,
            command = commands.recv() => Wake::Command(command),
            () = stdout.readable(), if is_output_plain => Wake::Output(OutputStream::Stdout),
            () = stderr.readable(), if is_output_plain => Wake::Output(OutputStream::Stderr),
            _ = requests.writable(), if is_open && !self.outbox.is_empty() => Wake::Writable,
            () = asks.readable() => Wake::Asked,
            _ = self.tick.tick(), if !is_output_plain => Wake::Tick,
            status = child.wait() => Wake::Exited(status),
        }
    }

    // Towards the interpreter.

    fn send_jobs(&mut self) {
        loop {
            let job = {
                let mut queue = self.context.queue();
                let fits = queue.front().is_some_and(|job| {
                    let inputs = self.known.inputs.bytes_at_most(job.inputs.as_deref());
                    let unknown = self.known.unknown_bytes(job);
                    self.may_send(inputs + Request::bytes_at_most(job, unknown))
                });
                if !fits || self.closing.is_some() {
                    return;
                }
                queue.pop_front().expect("its front was just looked at")
            };
            self.send_job(job);
        }
    }

    /// One job always; further ones only behind short and quiet ones, within a bound that the
    /// socket's buffer holds.
    fn may_send(&self, bytes: usize) -> bool {
        let Some(last) = self.sent.back() else { return true };
        let is_large = last.is_large || bytes > SMALL_BODY_BYTES_MAX;
        !is_large
            && self.pace.is_brisk()
            && self.sent.len() < JOBS_AHEAD_MAX
            && self.sent_bytes + bytes <= BYTES_AHEAD_MAX
    }

    fn send_job(&mut self, mut job: Job) {
        let (attempt, codec, session) = (job.attempt, job.header.codec, job.session);
        if let Some(error) = self.version_error(&job.header.call) {
            let outcome = AttemptOutcome::NotBegun(Unable::Kind);
            return self.context.emit_raised(attempt, outcome, error);
        }
        let unknown = match self.known.unknown(&job) {
            Ok(unknown) => unknown,
            Err(error) => {
                return self.context.emit_error(attempt, AttemptOutcome::Failed, error.to_string());
            }
        };
        let may_pass = Request::may_pass(&job, self.known.unknown_bytes(&job));
        let inputs = job.inputs.take().map_or_else(SentInputs::default, |inputs| {
            let files = &self.interpreter.files;
            self.known.inputs.send(attempt, inputs, files, &mut self.outbox)
        });
        let file = job.file.as_ref().filter(|_| may_pass);
        let is_passed =
            file.is_some_and(|it| self.interpreter.files.send(attempt.0, it.file.descriptor()));
        self.known.note(&job.header.call, &unknown);
        let request = Request::new(job, unknown, is_passed);
        let bytes = inputs.bytes + request.body_bytes();
        let is_large = inputs.is_alone || request.is_alone();
        self.sent.push_back(Sent { attempt, bytes, codec, is_large, has_output: false });
        self.sent_bytes += bytes;
        if self.sent.len() == 2 {
            self.tick.reset();
            self.is_stalled = false;
        }
        if self.owner != Some(session) {
            self.owner = Some(session);
            self.outbox.push_control(Control::Session(number_of(session)));
        }
        self.outbox.push(request);
    }

    /// Code that another version of Python has made would not fail cleanly: it is not even loaded.
    fn version_error(&self, call: &Call) -> Option<RemoteError> {
        let Call::Pickled(PickledCall { name, python: (major, minor), has_code: true, .. }) = call
        else {
            return None;
        };
        let theirs = format!("{major}.{minor}");
        let ours = self
            .shared
            .resolved()
            .map(ResolvedInterpreter::major_minor)
            .filter(|ours| *ours != theirs)?;
        let message = format!(
            "the call of `{name}` holds code of Python {theirs}, and this engine's is {ours}: define the function in a \
             module that is installed on both sides, or run the engines with --python of version {theirs}"
        );
        let type_name = "furlong.PythonVersionError".to_owned();
        Some(RemoteError { type_name, message, traceback: String::new(), execution: None })
    }

    fn flush(&mut self) {
        if self.closing.is_some() && !self.is_ending {
            return;
        }
        if self.outbox.write_to(&mut self.interpreter.requests).is_err() {
            self.close(Fault::SocketClosed);
            return;
        }
        if self.interrupts.poll(self.outbox.is_empty(), Instant::now()) {
            self.interpreter.interrupt();
        }
    }

    fn handle_command(&mut self, command: &Command) {
        match *command {
            Command::JobQueued => {}
            Command::EngineId(id) => {
                *self.engine_id = Some(id);
                self.outbox.push_control(Control::EngineId(id));
            }
            Command::Restart => self.end(Fault::Restarted),
            Command::End => self.end(Fault::EngineEnds),
            Command::Pass { key, ref answer } => self.interpreter.asks.answer(key, answer),
            Command::Signal { attempt, signal } => self.signal(attempt, signal),
            Command::Look(ref look) => self.look((**look).clone()),
            Command::ForgetInput(key) => {
                if self.known.inputs.forget(key) {
                    self.outbox.push_control(Control::Forget(key));
                }
            }
            Command::Recall(attempt) => {
                if self.is_sent(attempt) && self.begun() != Some(attempt) {
                    self.outbox.push_control(Control::Recall(attempt));
                    self.interrupts.request(false);
                }
            }
            Command::Cancel { attempt, force } => {
                if !self.is_sent(attempt) {
                    return;
                }
                self.outbox.push_control(Control::Cancel(attempt));
                self.interrupts.request(false);
                if force {
                    self.forced.push(Forced {
                        attempt,
                        kill_at: Instant::now() + self.shared.config.kill_grace,
                    });
                }
            }
        }
    }

    /// A signal for an attempt, if that is what runs now. Those before it need not have said that
    /// they have ended, and the first one, on its way to the interpreter, is taken to run.
    fn signal(&mut self, attempt: SlotJob, signal: Signal) {
        let running = self.begun().or_else(|| self.sent.front().map(|sent| sent.attempt));
        if running != Some(attempt) {
            return;
        }
        if signal == Signal::INT {
            self.outbox.push_control(Control::Interrupt(attempt));
            self.interrupts.request(false);
        } else {
            self.interpreter.signal(signal);
        }
    }

    pub(super) fn is_sent(&self, attempt: SlotJob) -> bool {
        self.sent.iter().any(|sent| sent.attempt == attempt)
    }

    // From the interpreter.

    fn handle_readable(&mut self) {
        let Ok(room) = self.inbox.room() else {
            self.close(Fault::NoRoom);
            return self.interpreter.kill();
        };
        match self.interpreter.replies.try_read_buf(room) {
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
        self.fault.get_or_insert(fault);
        self.is_ending = false;
        self.closing.get_or_insert(Instant::now() + self.shared.config.kill_grace);
    }

    pub(super) fn handle_frames(&mut self) -> Result<(), ProtocolBroken> {
        while let Some(frame) = self.inbox.poll_frame()? {
            match frame {
                Incoming::Ready { .. } => {}
                Incoming::Stray(stream, bytes) => {
                    for begin in (0..bytes.len()).step_by(PIECE_BYTES_MAX) {
                        let piece = bytes.slice(begin..bytes.len().min(begin + PIECE_BYTES_MAX));
                        self.context.emit_output(None, stream, piece);
                    }
                }
                Incoming::Running { question, attempt } => {
                    self.interrupts.handle_answer();
                    if let Some(attempt) = self.held.handle_answer(question, attempt) {
                        self.emit_held(attempt);
                    }
                }
                Incoming::Seen { number, attempt, json } => {
                    self.handle_seen(number, attempt, &json);
                }
                Incoming::Recalled(attempt) => self.handle_recalled(attempt),
                Incoming::Ended(ended) => self.handle_ended(ended)?,
                Incoming::Published { attempt, published } => {
                    self.handle_published(attempt, published);
                }
            }
        }
        Ok(())
    }

    fn handle_ended(&mut self, mut ended: EndFrame) -> Result<(), ProtocolBroken> {
        ended.times.begun_at_us = Some(self.interpreter.clock.read_us(ended.begun_ns));
        let attempt = ended.attempt;
        let Some(sent) = self.sent.front().copied().filter(|sent| sent.attempt == attempt) else {
            // The dead have said some things twice.
            return if self.is_dead { Ok(()) } else { Err(ProtocolBroken) };
        };
        let is_cut_short = self.cut_short == Some(attempt);
        if is_cut_short && matches!(ended.end, EndKind::Raised | EndKind::Cancelled) {
            return Ok(());
        }
        if ended.drain {
            self.emit_held(attempt);
            self.emit_unread(Some(attempt));
            self.outbox.push_control(Control::Drained);
        }
        self.held.handle_end();
        self.interpreter.stderr.forget_tail();
        let busy_us = ended.times.busy_us();
        self.interpreter.forget_kills(busy_us);
        self.forced.retain(|forced| forced.attempt != attempt);
        self.is_stalled = false;
        self.is_unused = false;
        self.sent.pop_front();
        if self.sent.is_empty() || matches!(ended.end, EndKind::Cancelled) {
            self.interrupts.handle_end();
        }
        self.sent_bytes -= sent.bytes;
        self.pace.note(busy_us, sent.has_output || ended.drain);
        let memory_bytes = self.interpreter.memory_bytes();
        let reply = match &ended.in_file {
            Some(sizes) => {
                let (number, file) =
                    self.interpreter.files.receive_any().map_err(|_| ProtocolBroken)?;
                let file = finish_file(file, sizes, sent.codec).filter(|_| number == attempt.0);
                reply_in_file(&ended, sent.codec, file.ok_or(ProtocolBroken)?)
            }
            None => reply(ended, sent.codec, memory_bytes),
        };
        self.context.emit(SlotEvent::Finished { attempt, reply });
        Ok(())
    }

    /// The running job asks for something.
    fn handle_asked(&mut self) {
        while let Some((attempt, ask)) = self.interpreter.asks.poll() {
            if self.is_sent(attempt) {
                self.context.emit(SlotEvent::Asked { attempt, ask });
            }
        }
    }

    /// A job has not begun, and will not. It may be any of those that were sent.
    fn handle_recalled(&mut self, attempt: SlotJob) {
        let Some(at) = self.sent.iter().position(|sent| sent.attempt == attempt) else { return };
        self.sent_bytes -= self.sent.remove(at).map_or(0, |sent| sent.bytes);
        self.forced.retain(|forced| forced.attempt != attempt);
        self.context.emit(SlotEvent::Recalled { attempts: vec![attempt] });
    }

    fn handle_published(&mut self, attempt: SlotJob, published: Published) {
        if self.latest.0 != attempt {
            self.latest = (attempt, Latest::default());
        }
        if self.latest.1.put(published) {
            self.context.emit(Report::Published { attempt, latest: self.latest.1.clone() });
        }
    }

    // Output.

    /// Something can be read, and at most one job is with the interpreter: what is read is that
    /// job's.
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
            // Code that prints from C and holds Python's lock: nobody answers. The oldest job it
            // is, most likely.
            if let Some(sent) = self.sent.front() {
                self.emit_held(sent.attempt);
            }
        }
        if let Some(question) = self.held.poll_question(self.is_stalled) {
            self.outbox.push_control(Control::Ask(question));
            self.interrupts.request(true);
        }
        self.is_stalled = true;
    }

    pub(super) fn emit_held(&mut self, attempt: SlotJob) {
        for (stream, bytes) in self.held.take() {
            self.emit_output(Some(attempt), stream, bytes);
        }
    }

    pub(super) fn emit_unread(&mut self, attempt: Option<SlotJob>) {
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

    fn emit_output(&mut self, attempt: Option<SlotJob>, stream: OutputStream, bytes: Bytes) {
        if let Some(sent) = self.sent.iter_mut().find(|sent| Some(sent.attempt) == attempt) {
            sent.has_output = true;
        }
        self.context.emit_output(attempt, stream, bytes);
    }
}

/// As many jobs go ahead at most.
const JOBS_AHEAD_MAX: usize = 64;
/// And as many bytes of them: a cancel behind them must fit into the socket's buffer, as the
/// interpreter reads it late.
const BYTES_AHEAD_MAX: usize = 256 * 1024;
/// While several jobs are sent, output and stalled replies are looked after so often.
const TICK: Duration = Duration::from_millis(2);
const COMMANDS_PER_TURN: usize = 256;
const PIECES_PER_TURN: usize = 8;
const PIECE_BYTES_MAX: usize = furlong_wire::limits::OUTPUT_MESSAGE_BYTES_MAX;
