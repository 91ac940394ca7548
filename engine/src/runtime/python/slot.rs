//! A slot: its queue, and the task that keeps an interpreter for it.

use std::collections::VecDeque;
use std::ffi::OsString;
use std::sync::{Arc, Mutex, MutexGuard};

use furlong_wire::call::{RemoteError, ReplyHeader};
use furlong_wire::ids::PassKey;
use rustix::process::Signal;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::task::JoinHandle;

use super::death::RESTARTED;
use super::process::{Interpreter, ProcessGroup};
use super::session::{Session, SessionEnd};
use super::{PythonError, PythonShared, Variables};
use crate::job::Look;
use crate::runtime::{
    AttemptEnd, AttemptOutcome, EventSender, Job, OutputStream, Report, SlotEvent, SlotIndex,
    SlotJob, Unable,
};

/// One slot: jobs go in, and run one after another in a Python interpreter of its own.
///
/// Call [`PythonSlot::start`] within a tokio runtime. The interpreter starts with the first job;
/// dropping the slot kills it and everything in its process group.
#[derive(Debug)]
pub struct PythonSlot {
    context: SlotContext,
    shared: Arc<PythonShared>,
    engine_id: Option<u32>,
    env: Variables,
    commands: UnboundedSender<Command>,
    /// Present until the task starts.
    receiver: Option<UnboundedReceiver<Command>>,
    task: Option<JoinHandle<()>>,
}

impl PythonSlot {
    /// Makes a slot; nothing runs yet.
    #[expect(
        clippy::disallowed_methods,
        reason = "as many commands as the engine's own bound on jobs and cancels lets in"
    )]
    pub fn new(slot: SlotIndex, shared: Arc<PythonShared>, events: EventSender) -> Self {
        let (commands, receiver) = unbounded_channel();
        let context = SlotContext {
            slot,
            events,
            queue: Arc::default(),
            lost: Arc::default(),
            group: Arc::default(),
        };
        Self {
            context,
            shared,
            engine_id: None,
            env: Vec::new(),
            commands,
            receiver: Some(receiver),
            task: None,
        }
    }

    /// Variables of this slot's interpreters alone. Call it before the first job.
    #[must_use]
    pub fn with_env(mut self, env: Variables) -> Self {
        self.env = env;
        self
    }

    /// Sets `engine_id` in the namespace, from the next job on.
    pub fn set_engine_id(&mut self, id: u32) {
        self.engine_id = Some(id);
        self.tell(Command::EngineId(id));
    }

    /// Queues a job. Its end comes as [`SlotEvent::Finished`], unless it is recalled.
    pub fn start(&mut self, job: Job) {
        self.context.queue().push_back(job);
        if let Some(receiver) = self.receiver.take() {
            let task = SlotTask {
                context: self.context.clone(),
                shared: Arc::clone(&self.shared),
                engine_id: self.engine_id,
                env: self.env.clone(),
                commands: receiver,
                early_deaths: 0,
            };
            self.task = Some(tokio::spawn(task.run()));
        }
        self.tell(Command::JobQueued);
    }

    /// Cancels an attempt: one that waits ends at once, one that runs gets `KeyboardInterrupt`.
    /// With `force`, one that still runs after the grace period is killed with its interpreter.
    pub fn cancel(&mut self, attempt: SlotJob, force: bool) {
        if self.context.take_queued(attempt).is_some() {
            let reply = cancelled_reply("cancelled before it began");
            self.context.emit(SlotEvent::Finished { attempt, reply });
        } else {
            self.tell(Command::Cancel { attempt, force });
        }
    }

    /// Sends a signal to the interpreter, if the attempt is what runs now. SIGINT reaches that
    /// attempt's code alone; it sees `KeyboardInterrupt`.
    pub fn signal(&mut self, attempt: SlotJob, signal: Signal) {
        self.tell(Command::Signal { attempt, signal });
    }

    /// Ends the interpreter, if there is one. The next job gets a new one. [`SlotEvent::Down`]
    /// comes in any case.
    pub fn restart(&mut self) {
        if self.receiver.is_some() {
            self.context.emit(SlotEvent::Down { cause: RESTARTED.into() });
        } else {
            self.tell(Command::Restart);
        }
    }

    /// Asks where the interpreter is. The answer comes as [`SlotEvent::Looked`].
    pub fn look(&self, look: Look) {
        if self.receiver.is_some() {
            self.context.emit(SlotEvent::not_looked(look));
        } else {
            self.tell(Command::Look(Box::new(look)));
        }
    }

    /// Takes an attempt back without an event, if it was not yet given to the interpreter. Says
    /// whether it did. Else the interpreter is asked for it: [`SlotEvent::Recalled`] comes if it
    /// had not begun, before its turn if the code that runs can be interrupted.
    pub fn recall(&mut self, attempt: SlotJob) -> bool {
        let is_queued = self.context.take_queued(attempt).is_some();
        if !is_queued {
            self.tell(Command::Recall(attempt));
        }
        is_queued
    }

    /// Lets the input of this key go: no job that comes has it.
    pub fn forget_input(&mut self, key: u64) {
        // Those that wait here would have it kept once more.
        self.context.queue().iter_mut().for_each(|job| job.keep_no_input(key));
        self.tell(Command::ForgetInput(key));
    }

    /// Answers a job that has asked to let a client in: with the door of the cluster, or why not.
    pub fn pass(&self, key: PassKey, answer: Result<String, String>) {
        self.tell(Command::Pass { key, answer });
    }

    /// The process group of the interpreter, while there is one.
    pub fn process_group(&self) -> Option<i32> {
        self.context.group.id()
    }

    /// Ends the interpreter gracefully, if there is one, and runs nothing more. The task that is
    /// returned ends when the interpreter has.
    pub fn end(&mut self) -> Option<JoinHandle<()>> {
        self.tell(Command::End);
        self.task.take()
    }

    /// Says what became of the interpreter that the slot had before, for the next one to tell code
    /// that misses what it had left there.
    pub fn note_lost(&self, how: &str) {
        self.context.note_lost(how);
    }

    fn tell(&self, command: Command) {
        // The task ends only after this sender, or with the runtime.
        let _ = self.commands.send(command);
    }
}

impl Drop for PythonSlot {
    fn drop(&mut self) {
        self.context.group.kill();
        if let Some(task) = &self.task {
            task.abort();
        }
    }
}

/// A command of a slot to its task.
#[derive(Debug)]
pub(super) enum Command {
    /// There is a job in the queue.
    JobQueued,
    /// Cancel an attempt that is no longer in the queue.
    Cancel { attempt: SlotJob, force: bool },
    /// Send a signal to an attempt that runs.
    Signal { attempt: SlotJob, signal: Signal },
    /// Take an attempt back that is no longer in the queue.
    Recall(SlotJob),
    /// Let an input go.
    ForgetInput(u64),
    /// Say where the interpreter is.
    Look(Box<Look>),
    /// End the interpreter.
    Restart,
    /// End the interpreter, and the task with it.
    End,
    /// The engine's id is known.
    EngineId(u32),
    /// A key that a job has asked to let in: the door of the cluster, or why not.
    Pass { key: PassKey, answer: Result<String, String> },
}

/// The state shared by a slot, its task and its session.
#[derive(Clone, Debug)]
pub(super) struct SlotContext {
    slot: SlotIndex,
    events: EventSender,
    queue: Arc<Mutex<VecDeque<Job>>>,
    /// The fate of the last interpreter, and of its variables.
    lost: Arc<Mutex<Option<String>>>,
    pub(super) group: Arc<ProcessGroup>,
}

impl SlotContext {
    /// The jobs that were not given to the interpreter.
    pub(super) fn queue(&self) -> MutexGuard<'_, VecDeque<Job>> {
        self.queue.lock().expect("nothing panics while it holds the queue")
    }

    /// The last interpreter is gone: how.
    pub(super) fn note_lost(&self, how: &str) {
        *self.lost.lock().expect("nothing panics while it holds the text") =
            Some(how.replace('\0', ""));
    }

    /// The variable by which the next interpreter learns of that.
    fn lost(&self) -> Option<(OsString, OsString)> {
        let lost = self.lost.lock().expect("nothing panics while it holds the text").clone();
        lost.map(|how| (OsString::from(LOST), how.into()))
    }

    fn take_queued(&self, attempt: SlotJob) -> Option<Job> {
        let mut queue = self.queue();
        let at = queue.iter().position(|job| job.attempt == attempt)?;
        queue.remove(at)
    }

    /// Sends an event to the engine's shell.
    pub(super) fn emit(&self, event: impl Into<Report>) {
        // Nobody listens any more when the engine ends.
        let _ = self.events.send(self.slot, event);
    }

    /// Sends output, as an attempt's or as nobody's.
    pub(super) fn emit_output(
        &self,
        attempt: Option<SlotJob>,
        stream: OutputStream,
        bytes: bytes::Bytes,
    ) {
        self.emit(match attempt {
            Some(attempt) => SlotEvent::Output { attempt, stream, bytes },
            None => SlotEvent::StrayOutput { stream, bytes },
        });
    }

    /// Ends a job that could not be run, or was lost.
    pub(super) fn emit_error(&self, attempt: SlotJob, outcome: AttemptOutcome, message: String) {
        self.emit_raised(attempt, outcome, engine_error(message));
    }

    /// Ends a job whose interpreter has died, perhaps by this signal.
    pub(super) fn emit_killed(&self, attempt: SlotJob, cause: String, killed_by: Option<i32>) {
        let header = ReplyHeader::Raised(engine_error(cause.clone()));
        let reply = AttemptEnd::without_data(AttemptOutcome::Lost(cause), header);
        self.emit(SlotEvent::Finished { attempt, reply: AttemptEnd { killed_by, ..reply } });
    }

    /// Ends a job with an error that is not the interpreter's.
    pub(super) fn emit_raised(
        &self,
        attempt: SlotJob,
        outcome: AttemptOutcome,
        error: RemoteError,
    ) {
        let header = ReplyHeader::Raised(error);
        self.emit(SlotEvent::Finished {
            attempt,
            reply: AttemptEnd::without_data(outcome, header),
        });
    }
}

/// The reply of a job that was cancelled without having been interrupted.
pub(super) fn cancelled_reply(message: &str) -> AttemptEnd {
    let error = RemoteError {
        type_name: "KeyboardInterrupt".into(),
        message: message.into(),
        traceback: String::new(),
        execution: None,
    };
    AttemptEnd::without_data(AttemptOutcome::Cancelled, ReplyHeader::Raised(error))
}

fn engine_error(message: String) -> RemoteError {
    RemoteError {
        type_name: "EngineError".into(),
        message,
        traceback: String::new(),
        execution: None,
    }
}

/// Starts interpreters while there are jobs, one after the death of the other.
struct SlotTask {
    context: SlotContext,
    shared: Arc<PythonShared>,
    engine_id: Option<u32>,
    env: Variables,
    commands: UnboundedReceiver<Command>,
    /// The count of times in a row that an interpreter was killed before it took jobs, or ended
    /// before the first began.
    early_deaths: u32,
}

impl SlotTask {
    async fn run(mut self) {
        while let Some(command) = self.commands.recv().await {
            match command {
                Command::EngineId(id) => self.engine_id = Some(id),
                // It has ended with its interpreter.
                Command::Cancel { .. }
                | Command::Signal { .. }
                | Command::Recall(_)
                | Command::ForgetInput(_)
                | Command::Pass { .. } => {}
                Command::Look(look) => self.context.emit(SlotEvent::not_looked(*look)),
                Command::End => return,
                Command::Restart => self.context.emit(SlotEvent::Down { cause: RESTARTED.into() }),
                Command::JobQueued => {
                    while !self.context.queue().is_empty() {
                        if self.run_interpreter().await == SessionEnd::SlotDropped {
                            return;
                        }
                    }
                }
            }
        }
    }

    async fn run_interpreter(&mut self) -> SessionEnd {
        let memory = self.shared.config.memory.of_slot(self.context.slot);
        let env: Variables = self.env.iter().cloned().chain(self.context.lost()).collect();
        match Interpreter::start(&self.shared, &env, &self.context.group, &memory).await {
            Ok(interpreter) => {
                self.context.emit(SlotEvent::Up);
                let is_last = self.early_deaths >= EARLY_DEATHS_MAX;
                let session = Session::new(
                    &self.context,
                    &self.shared,
                    interpreter,
                    &mut self.engine_id,
                    is_last,
                );
                let ended = session.run(&mut self.commands).await;
                self.early_deaths =
                    if ended == SessionEnd::DiedUnused { self.early_deaths + 1 } else { 0 };
                ended
            }
            // No job has begun, so none has to do with it.
            Err(error @ PythonError::KilledAtStart { .. })
                if self.early_deaths < EARLY_DEATHS_MAX =>
            {
                self.early_deaths += 1;
                tracing::warn!(slot = self.context.slot, %error, "starting another one");
                SessionEnd::InterpreterDown
            }
            Err(error) => {
                self.early_deaths = 0;
                self.give_up_queue(&error);
                SessionEnd::InterpreterDown
            }
        }
    }

    /// Without an interpreter no job can begin; the next one that comes tries again.
    fn give_up_queue(&self, error: &PythonError) {
        let jobs = std::mem::take(&mut *self.context.queue());
        let (slot, count) = (self.context.slot, jobs.len());
        tracing::warn!(slot, %error, jobs = count, "no Python interpreter");
        // The last one first: each goes to the front of its queue.
        for job in jobs.into_iter().rev() {
            self.context.emit_error(
                job.attempt,
                AttemptOutcome::NotBegun(Unable::Runtime),
                error.to_string(),
            );
        }
    }
}

/// The variable that tells an interpreter what became of the one before; the worker takes it out of
/// the environment.
const LOST: &str = "FURLONG_LOST";
/// As often in a row interpreters may die before a job begins; then no job begins.
const EARLY_DEATHS_MAX: u32 = 3;
