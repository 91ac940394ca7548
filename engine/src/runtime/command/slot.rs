//! A slot: its queue, and the thread that runs one program after another.

use std::collections::VecDeque;
use std::ffi::OsString;
use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::{Pid, Signal};

use super::CommandShared;
use super::exit::{failed, not_begun};
use super::launch::{LaunchError, launch};
use super::pipes::{PIECE_BYTES_MAX, Room};
use super::running::{Began, Running};
use crate::clock;
use crate::runtime::memory::SlotMemory;
use crate::runtime::{AttemptEnd, EventSender, Job, Report, SlotEvent, SlotIndex, SlotJob};

/// One slot: jobs go in, and run one after another, each as a program of its own.
///
/// Dropping the slot kills the program that runs, and everything in its process group.
#[derive(Debug)]
pub struct CommandSlot {
    context: Arc<SlotContext>,
}

/// The state shared by a slot and its thread.
#[derive(Debug)]
pub(super) struct SlotContext {
    pub(super) slot: SlotIndex,
    /// Variables that its programs see beyond the engine's own; a command's own ones go before
    /// these.
    pub(super) env: Vec<(OsString, OsString)>,
    pub(super) shared: Arc<CommandShared>,
    pub(super) room: Arc<Room>,
    pub(super) memory: Arc<SlotMemory>,
    events: EventSender,
    state: Mutex<State>,
    /// The thread has nothing left that it must kill.
    over: Condvar,
}

#[derive(Debug, Default)]
struct State {
    jobs: VecDeque<Job>,
    running: Option<SlotJob>,
    asked: Asked,
    engine_id: Option<u32>,
    /// The process group of the running program.
    group: Option<Pid>,
    is_over: bool,
}

/// The requests to the running program's thread.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Asked {
    /// Cancel it; at once if true.
    pub(super) cancel: Option<bool>,
    /// The slot is dropped.
    pub(super) closed: bool,
    /// Signals to send, by number: as with the system's pending ones, the same twice is one.
    signals: u64,
}

impl Asked {
    pub(super) fn signals(self) -> impl Iterator<Item = Signal> {
        let numbers = (1..64).filter(move |number| self.signals & (1 << number) != 0);
        numbers.filter_map(Signal::from_named_raw)
    }
}

impl CommandSlot {
    /// Starts the slot's thread, and the reaper if it is the first. Its programs see these
    /// variables beyond the engine's own; a command's own ones go before them.
    ///
    /// # Errors
    /// If the system gives no thread, or `/bin/sh` cannot be started.
    pub fn new(
        slot: SlotIndex,
        env: Vec<(OsString, OsString)>,
        shared: Arc<CommandShared>,
        events: EventSender,
    ) -> io::Result<Self> {
        shared.reaper.start()?;
        let room = Arc::new(Room::new()?);
        let memory = shared.config.memory.of_slot(slot);
        let (state, over) = (Mutex::default(), Condvar::new());
        let context =
            Arc::new(SlotContext { slot, env, shared, room, memory, events, state, over });
        let of_thread = Arc::clone(&context);
        std::thread::Builder::new()
            .name(format!("commands {slot}"))
            .spawn(move || of_thread.work())?;
        Ok(Self { context })
    }

    /// Sets `FURLONG_ENGINE`, from the next job on.
    pub fn set_engine_id(&self, id: u32) {
        self.context.lock().engine_id = Some(id);
    }

    /// Queues a job. Its end comes as [`SlotEvent::Finished`], unless it is recalled.
    pub fn start(&self, job: Job) {
        let mut state = self.context.lock();
        state.jobs.push_back(job);
        let is_idle = state.running.is_none();
        drop(state);
        if is_idle {
            self.context.room.wake();
        }
    }

    /// Takes an attempt back without an event, if it has not begun. Says whether it did.
    pub fn recall(&self, attempt: SlotJob) -> bool {
        self.context.take_queued(attempt)
    }

    /// Cancels an attempt: one that waits ends at once, one that runs gets SIGTERM, and SIGKILL
    /// after the grace, or at once with `force`. All of its process group gets it.
    pub fn cancel(&self, attempt: SlotJob, force: bool) {
        if self.context.take_queued(attempt) {
            self.context.emit(SlotEvent::Finished {
                attempt,
                reply: AttemptEnd::cancelled_before_it_began(),
            });
        } else {
            self.context
                .ask(attempt, |asked| asked.cancel = Some(force || asked.cancel == Some(true)));
        }
    }

    /// Sends a signal to the process group of an attempt, if that runs now; otherwise nobody gets
    /// it. Real-time signals cannot be sent.
    pub fn signal(&self, attempt: SlotJob, signal: i32) {
        let Some(known) = Signal::from_named_raw(signal) else {
            return tracing::warn!(
                slot = self.context.slot,
                signal,
                "no such signal can be sent to a command"
            );
        };
        self.context.ask(attempt, |asked| asked.signals |= 1 << known.as_raw());
    }
}

impl CommandSlot {
    /// The process group of the running program, while there is one.
    pub fn process_group(&self) -> Option<i32> {
        self.context.lock().group.map(|group| group.as_raw_nonzero().get())
    }
}

impl Drop for CommandSlot {
    fn drop(&mut self) {
        let mut state = self.context.lock();
        state.asked.closed = true;
        state.jobs.clear();
        self.context.room.wake();
        // The process may end right after this, and its thread with it. The reaper would still do
        // it.
        let patience = Instant::now() + KILL_PATIENCE;
        while !state.is_over && Instant::now() < patience {
            let waited = self.context.over.wait_timeout(state, KILL_PATIENCE);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

impl State {
    /// The program that ran has ended.
    fn end(&mut self) {
        (self.running, self.group) = (None, None);
    }
}

impl SlotContext {
    /// A program runs, in this process group.
    pub(super) fn note_group(&self, group: Pid) {
        self.lock().group = Some(group);
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing panics under this lock, so a poisoned one is whole.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sends an event to the engine's shell.
    pub(super) fn emit(&self, event: impl Into<Report>) {
        // Nobody listens any more when the engine ends.
        let _ = self.events.send(self.slot, event);
    }

    /// Takes the requests to the running program's thread since the last time.
    pub(super) fn take_asked(&self) -> Asked {
        self.room.was_woken();
        let mut state = self.lock();
        let taken = state.asked;
        state.asked = Asked { closed: taken.closed, ..Asked::default() };
        taken
    }

    /// After this the thread has killed all that it started.
    fn set_over(&self) {
        self.lock().is_over = true;
        self.over.notify_all();
    }

    fn ask(&self, attempt: SlotJob, change: impl FnOnce(&mut Asked)) {
        let mut state = self.lock();
        if state.running == Some(attempt) {
            change(&mut state.asked);
            drop(state);
            self.room.wake();
        }
    }

    fn take_queued(&self, attempt: SlotJob) -> bool {
        let mut state = self.lock();
        let before = state.jobs.len();
        state.jobs.retain(|job| job.attempt != attempt);
        state.jobs.len() < before
    }

    fn work(&self) {
        let mut buffer = vec![0; PIECE_BYTES_MAX];
        while let Some((job, engine_id)) = self.next() {
            let attempt = job.attempt;
            let Some(reply) = self.run(job, engine_id, &mut buffer) else { break };
            self.lock().end();
            self.emit(SlotEvent::Finished { attempt, reply });
        }
        self.set_over();
    }

    /// Waits for the next job. None if the slot is dropped.
    fn next(&self) -> Option<(Job, Option<u32>)> {
        loop {
            let mut state = self.lock();
            if state.asked.closed {
                return None;
            }
            if let Some(job) = state.jobs.pop_front() {
                state.running = Some(job.attempt);
                state.asked = Asked::default();
                return Some((job, state.engine_id));
            }
            drop(state);
            // An interrupted wait is one more look at the queue.
            let _ = poll(&mut [PollFd::new(self.room.fd(), PollFlags::IN)], None);
            self.room.was_woken();
        }
    }

    fn run(&self, job: Job, engine_id: Option<u32>, buffer: &mut [u8]) -> Option<AttemptEnd> {
        let (at_us, kills, attempt) = (clock::now_us(), self.memory.kills(), job.attempt);
        let started = launch(job, self, engine_id).and_then(|launched| {
            let no_pipes = |error| LaunchError::Task(format!("no pipes for it: {error}"));
            let began = Began { at_us, started_us: clock::now_us(), kills };
            Running::new(self, attempt, launched, began).map_err(no_pipes)
        });
        // One line, whatever a file's name has in it.
        let line = |text: String| text.replace('\n', "\\n");
        match started {
            Ok(running) => running.run(buffer),
            Err(LaunchError::Task(text)) => Some(failed(&line(text))),
            Err(LaunchError::Engine(unable, text)) => Some(not_begun(unable, &line(text))),
        }
    }
}

/// The time that a dropped slot waits for its thread.
const KILL_PATIENCE: Duration = Duration::from_secs(1);
