//! The slots: each is a thread for Rust functions, one for programs and an interpreter for Python,
//! all started when they are first needed.

use std::sync::Arc;
use std::time::{Duration, Instant};

use furlong_wire::call::ReplyHeader;
use furlong_wire::ids::PassKey;
use furlong_wire::message::Runtime;
use rustix::process::Signal;

use crate::core::error;
use crate::runtime::command::{CommandConfig, CommandShared, CommandSlot};
use crate::runtime::native::{Functions, NativeSlot};
use crate::runtime::python::{PythonConfig, PythonShared, PythonSlot};
use crate::runtime::{EventSender, Job, JobOutcome, Reply, SlotIndex, Unable};
use crate::surroundings::Variables;

/// All slots of the process.
pub(super) struct Slots {
    places: Vec<Slot>,
    functions: Arc<Functions>,
    python: Option<Arc<PythonShared>>,
    commands: Arc<CommandShared>,
    variables: Variables,
    events: EventSender,
}

#[derive(Default)]
struct Slot {
    native: Option<NativeSlot>,
    /// Jobs that go to the thread together.
    batch: Vec<Job>,
    python: Option<PythonSlot>,
    command: Option<CommandSlot>,
    engine_id: Option<u32>,
    /// The slot that it stands in for, and since when it has nothing to do.
    stands_in: Option<StandIn>,
}

struct StandIn {
    host: SlotIndex,
    idle_since: Option<Instant>,
}

impl Slots {
    pub(super) fn new(
        count: u32,
        functions: Arc<Functions>,
        (python, commands): (Option<PythonConfig>, CommandConfig),
        variables: Variables,
        events: EventSender,
    ) -> Self {
        let places = (0..count).map(|_| Slot::default()).collect();
        let python = python.map(|config| Arc::new(PythonShared::new(config)));
        let commands = Arc::new(CommandShared::new(commands));
        Self { places, functions, python, commands, variables, events }
    }

    /// The interpreters' common part, if there are any.
    pub(super) fn python(&self) -> Option<Arc<PythonShared>> {
        self.python.clone()
    }

    /// The variables that tasks find beyond the engine's own; [`Variables::of_slot`] are those of
    /// one slot's processes.
    pub(super) fn variables(&self) -> &Variables {
        &self.variables
    }

    /// Lets a slot run a job. If it cannot, gives back the job's end.
    pub(super) fn start(
        &mut self,
        slot: SlotIndex,
        runtime: Runtime,
        job: Job,
    ) -> Result<(), Box<(u64, Reply)>> {
        let place = &mut self.places[slot as usize];
        match (runtime, &self.python) {
            (Runtime::Native, _) => {
                let native = match place.native.take() {
                    Some(native) => native,
                    None => NativeSlot::new(slot, self.functions.clone(), self.events.clone())
                        .map_err(|error| {
                            cannot(job.attempt, &format!("no thread for the slot: {error}"))
                        })?,
                };
                if let Some(id) = place.engine_id {
                    native.set_engine_id(id);
                }
                place.native = Some(native);
                place.batch.push(job);
                Ok(())
            }
            (Runtime::Python, Some(shared)) => {
                let (shared, events, id) = (shared.clone(), self.events.clone(), place.engine_id);
                let (variables, host) = (&self.variables, place.host(slot));
                let python = place.python.get_or_insert_with(|| {
                    let mut python =
                        PythonSlot::new(slot, shared, events).with_env(variables.of_slot(host));
                    if let Some(id) = id {
                        python.set_engine_id(id);
                    }
                    python
                });
                python.start(job);
                Ok(())
            }
            (Runtime::Python, None) => {
                Err(cannot(job.attempt, "no Python interpreter was found; start it with --python"))
            }
            (Runtime::Command, _) => {
                let command = if let Some(command) = place.command.take() {
                    command
                } else {
                    let (env, shared) =
                        (self.variables.of_slot(place.host(slot)), self.commands.clone());
                    CommandSlot::new(slot, env, shared, self.events.clone()).map_err(|error| {
                        cannot(job.attempt, &format!("the slot cannot run commands: {error}"))
                    })?
                };
                if let Some(id) = place.engine_id {
                    command.set_engine_id(id);
                }
                place.command.insert(command).start(job);
                Ok(())
            }
        }
    }

    /// Hands over what [`Slots::start`] has gathered.
    pub(super) fn hand_over(&mut self) {
        for place in self.places.iter_mut().filter(|place| !place.batch.is_empty()) {
            if let Some(native) = &place.native {
                native.start(place.batch.drain(..));
            }
        }
    }

    pub(super) fn cancel(&mut self, slot: SlotIndex, runtime: Runtime, job: u64, force: bool) {
        self.hand_over();
        let place = &mut self.places[slot as usize];
        match runtime {
            Runtime::Native => place.native.iter().for_each(|native| native.cancel(job)),
            Runtime::Python => place.python.iter_mut().for_each(|python| python.cancel(job, force)),
            Runtime::Command => place.command.iter().for_each(|command| command.cancel(job, force)),
        }
    }

    /// Takes a job back; false if it has begun.
    pub(super) fn recall(&mut self, slot: SlotIndex, runtime: Runtime, job: u64) -> bool {
        self.hand_over();
        let place = &mut self.places[slot as usize];
        match runtime {
            Runtime::Native => place.native.as_ref().is_some_and(|native| native.recall(job)),
            Runtime::Python => place.python.as_mut().is_some_and(|python| python.recall(job)),
            Runtime::Command => place.command.as_ref().is_some_and(|command| command.recall(job)),
        }
    }

    /// Sends a signal to a job, if it runs now.
    pub(super) fn signal(&mut self, slot: SlotIndex, runtime: Runtime, job: u64, number: i32) {
        self.hand_over();
        let Some(signal) = Signal::from_named_raw(number) else {
            tracing::warn!("slot {slot}: there is no signal {number}");
            return;
        };
        let place = &mut self.places[slot as usize];
        match runtime {
            Runtime::Native if signal == Signal::INT => {
                place.native.iter().for_each(|native| native.interrupt(job))
            }
            Runtime::Native => {
                tracing::warn!(
                    "slot {slot}: a native function is no process, and gets no signal but SIGINT"
                );
            }
            Runtime::Python => {
                place.python.iter_mut().for_each(|python| python.signal(job, signal))
            }
            Runtime::Command => {
                place.command.iter().for_each(|command| command.signal(job, number))
            }
        }
    }

    /// Ends a slot's interpreter. That it is gone will be reported; false if there was none that
    /// could.
    pub(super) fn restart(&mut self, slot: SlotIndex) -> bool {
        let python = self.places[slot as usize].python.as_mut();
        python.map(PythonSlot::restart).is_some()
    }

    /// Ends all interpreters gracefully, and returns when they have ended.
    pub(super) async fn end(&mut self) {
        let ending: Vec<_> =
            self.places.iter_mut().filter_map(|place| place.python.as_mut()?.end()).collect();
        for task in ending {
            let _ = task.await;
        }
    }

    /// Says what became of a slot's last interpreter.
    pub(super) fn note_lost(&self, slot: SlotIndex, how: &str) {
        self.places[slot as usize].python.iter().for_each(|python| python.note_lost(how));
    }

    pub(super) fn set_engine_id(&mut self, slot: SlotIndex, id: u32) {
        for (at, place) in (0..).zip(&mut self.places) {
            if place.host(at) == slot {
                place.engine_id = Some(id);
                place.native.iter().for_each(|native| native.set_engine_id(id));
                place.python.iter_mut().for_each(|python| python.set_engine_id(id));
            }
        }
    }

    /// Adds a place that stands in for a slot.
    pub(super) fn add_stand_in(&mut self, host: SlotIndex) {
        let engine_id = self.places.get(host as usize).and_then(|place| place.engine_id);
        let stands_in = Some(StandIn { host, idle_since: None });
        self.places.push(Slot { engine_id, stands_in, ..Slot::default() });
    }

    /// Answers a job that has asked to let a client in.
    pub(super) fn pass(&self, slot: SlotIndex, key: PassKey, answer: Result<String, String>) {
        self.places[slot as usize]
            .python
            .iter()
            .for_each(|python| python.pass(key, answer.clone()));
    }

    /// Ends stand-ins that have had nothing to do for a while: their memory is for others.
    pub(super) fn end_idle_stand_ins(&mut self, now: Instant, is_idle: impl Fn(SlotIndex) -> bool) {
        for (at, place) in (0..).zip(&mut self.places) {
            let Some(stand_in) = &mut place.stands_in else { continue };
            if !is_idle(at) {
                stand_in.idle_since = None;
            } else if now.duration_since(*stand_in.idle_since.get_or_insert(now)) >= STAND_IN_IDLE {
                (place.native, place.python, place.command) = (None, None, None);
            }
        }
    }
}

impl Slot {
    /// The slot whose surroundings it has.
    fn host(&self, own: SlotIndex) -> SlotIndex {
        self.stands_in.as_ref().map_or(own, |stand_in| stand_in.host)
    }
}

/// A stand-in that has had nothing to do for so long ends. The next one takes as long as an
/// interpreter to start.
const STAND_IN_IDLE: Duration = Duration::from_secs(10);

fn cannot(attempt: u64, text: &str) -> Box<(u64, Reply)> {
    let header = ReplyHeader::Raised(error("EngineError", text));
    Box::new((
        attempt,
        Reply {
            outcome: JobOutcome::NotBegun(Unable::Runtime),
            header,
            data: Vec::new(),
            run_us: 0,
        },
    ))
}
