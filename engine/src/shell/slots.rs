//! The slots: each is a thread for Rust functions, one for programs and an interpreter for Python,
//! all started when they are first needed.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use furlong_wire::call::ReplyHeader;
use furlong_wire::ids::PassKey;
use furlong_wire::message::{Measured, Runtime};
use rustix::process::Signal;

use crate::job::{AttemptEnd, AttemptOutcome, Job, Look, SlotIndex, Unable};
use crate::job::{SlotJob, error};
use crate::meter::Meter;
use crate::runtime::command::{CommandConfig, CommandShared, CommandSlot};
use crate::runtime::native::{Functions, NativeSlot};
use crate::runtime::python::{PythonConfig, PythonShared, PythonSlot};
use crate::runtime::{EventSender, Report, Slot};
use crate::surroundings::Variables;

/// All slots of the process.
pub(super) struct Slots {
    places: Vec<SlotPlace>,
    functions: Arc<Functions>,
    python: Option<Arc<PythonShared>>,
    commands: Arc<CommandShared>,
    variables: Variables,
    events: EventSender,
    measuring: Arc<Measuring>,
}

/// The question for figures that is being answered, and what answers it.
#[derive(Debug, Default)]
struct Measuring {
    asked: Mutex<Option<u64>>,
    meter: Mutex<Meter>,
}

fn locked<T>(it: &Mutex<T>) -> MutexGuard<'_, T> {
    // A reading is put there whole.
    it.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A slot, or what stands in for one.
#[derive(Default)]
struct SlotPlace {
    native: Option<NativeSlot>,
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
        let places = (0..count).map(|_| SlotPlace::default()).collect();
        let python = python.map(|config| Arc::new(PythonShared::new(config)));
        let commands = Arc::new(CommandShared::new(commands));
        let measuring = Arc::default();
        Self { places, functions, python, commands, variables, events, measuring }
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
    ) -> Result<(), Box<(SlotJob, AttemptEnd)>> {
        let started = self.ensure_runtime(slot, runtime);
        started.map_err(|text| cannot(job.attempt, &text))?.start(job);
        Ok(())
    }

    /// A slot's part of a runtime, made when it is first needed. As an error, why there is none.
    fn ensure_runtime(
        &mut self,
        slot: SlotIndex,
        runtime: Runtime,
    ) -> Result<&mut dyn Slot, String> {
        let place = &mut self.places[slot as usize];
        if place.runtime(runtime).is_none() {
            let variables = self.variables.of_slot(place.host(slot));
            let events = self.events.clone();
            match runtime {
                Runtime::Native => {
                    let native = NativeSlot::new(slot, self.functions.clone(), events);
                    let native = native.map_err(|error| format!("no thread for the slot: {error}"));
                    place.native = Some(native?);
                }
                Runtime::Python => {
                    let missing = "no Python interpreter was found; start it with --python";
                    let shared = self.python.clone().ok_or(missing)?;
                    let python = PythonSlot::new(slot, shared, events);
                    place.python = Some(python.with_env(variables));
                }
                Runtime::Command => {
                    let command = CommandSlot::new(slot, variables, self.commands.clone(), events);
                    let cannot = |error| format!("the slot cannot run commands: {error}");
                    place.command = Some(command.map_err(cannot)?);
                }
                Runtime::Value => return Err("no engine runs a value".to_owned()),
            }
            place.identify();
        }
        Ok(place.runtime(runtime).expect("it was just made if there was none"))
    }

    /// Hands over what [`Slots::start`] has gathered.
    pub(super) fn hand_over(&mut self) {
        for native in self.places.iter_mut().filter_map(|place| place.native.as_mut()) {
            native.hand_over();
        }
    }

    pub(super) fn cancel(&mut self, slot: SlotIndex, runtime: Runtime, job: SlotJob, force: bool) {
        if let Some(slot) = self.runtime(slot, runtime) {
            slot.cancel(job, force);
        }
    }

    /// Takes a job back; false if it has begun.
    pub(super) fn recall(&mut self, slot: SlotIndex, runtime: Runtime, job: SlotJob) -> bool {
        self.runtime(slot, runtime).is_some_and(|slot| slot.recall(job))
    }

    /// Sends a signal to a job, if it runs now.
    pub(super) fn signal(&mut self, slot: SlotIndex, runtime: Runtime, job: SlotJob, number: i32) {
        let Some(signal) = Signal::from_named_raw(number) else {
            tracing::warn!("slot {slot}: there is no signal {number}");
            return;
        };
        if let Some(slot) = self.runtime(slot, runtime) {
            slot.signal(job, signal);
        }
    }

    /// A slot's part of a runtime, with all that it was given, if it has one.
    fn runtime(&mut self, slot: SlotIndex, runtime: Runtime) -> Option<&mut dyn Slot> {
        let slot = self.places[slot as usize].runtime(runtime)?;
        slot.hand_over();
        Some(slot)
    }

    /// Asks where a slot's interpreter is; gives the question back if there is none.
    pub(super) fn look(&self, slot: SlotIndex, look: Look) -> Option<Look> {
        let Some(python) = &self.places[slot as usize].python else { return Some(look) };
        python.look(look);
        None
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

    /// No later job of a slot has this input.
    pub(super) fn forget_input(&mut self, slot: SlotIndex, key: u64) {
        if let Some(python) = &mut self.places[slot as usize].python {
            python.forget_input(key);
        }
    }

    /// Says what became of a slot's last interpreter.
    pub(super) fn note_lost(&self, slot: SlotIndex, how: &str) {
        self.places[slot as usize].python.iter().for_each(|python| python.note_lost(how));
    }

    /// Measures the machine and the slots, on a thread that may wait: the answer comes as
    /// [`Report::Measured`]. It is to the last question: however often a broker asks, one thread
    /// measures.
    pub(super) fn measure(&self, number: u64) {
        if locked(&self.measuring.asked).replace(number).is_some() {
            return;
        }
        let hosts = self.places.iter().filter(|place| place.stands_in.is_none()).count();
        let mut groups = vec![Vec::new(); hosts];
        for (at, place) in (0..).zip(&self.places) {
            if let Some(of_slot) = groups.get_mut(place.host(at) as usize) {
                of_slot.extend(place.process_groups());
            }
        }
        let (measuring, events) = (Arc::clone(&self.measuring), self.events.clone());
        tokio::task::spawn_blocking(move || {
            let (machine, slots) = locked(&measuring.meter).measure(&groups);
            let number = locked(&measuring.asked).take().unwrap_or(number);
            let measured = Box::new(Measured { number, machine, slots });
            // Nobody listens any more when the engine ends.
            let _ = events.send(0, Report::Measured(measured));
        });
    }

    pub(super) fn set_engine_id(&mut self, slot: SlotIndex, id: u32) {
        for (at, place) in (0..).zip(&mut self.places) {
            if place.host(at) == slot {
                place.engine_id = Some(id);
                place.identify();
            }
        }
    }

    /// Adds a place that stands in for a slot.
    pub(super) fn add_stand_in(&mut self, host: SlotIndex) {
        let engine_id = self.places.get(host as usize).and_then(|place| place.engine_id);
        let stands_in = Some(StandIn { host, idle_since: None });
        self.places.push(SlotPlace { engine_id, stands_in, ..SlotPlace::default() });
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

impl SlotPlace {
    /// Its part of a runtime, if it has one.
    fn runtime(&mut self, runtime: Runtime) -> Option<&mut dyn Slot> {
        match runtime {
            Runtime::Native => self.native.as_mut().map(|slot| slot as &mut dyn Slot),
            Runtime::Python => self.python.as_mut().map(|slot| slot as &mut dyn Slot),
            Runtime::Command => self.command.as_mut().map(|slot| slot as &mut dyn Slot),
            Runtime::Value => None,
        }
    }

    /// The process groups that run there now.
    fn process_groups(&self) -> impl Iterator<Item = i32> {
        let python = self.python.as_ref().and_then(PythonSlot::process_group);
        python.into_iter().chain(self.command.as_ref().and_then(CommandSlot::process_group))
    }

    /// Tells its runtimes the engine's integer, once that is known.
    fn identify(&mut self) {
        let Some(id) = self.engine_id else { return };
        for runtime in Runtime::ALL {
            if let Some(slot) = self.runtime(*runtime) {
                slot.set_engine_id(id);
            }
        }
    }

    /// The slot whose surroundings it has.
    fn host(&self, own: SlotIndex) -> SlotIndex {
        self.stands_in.as_ref().map_or(own, |stand_in| stand_in.host)
    }
}

/// A stand-in that has had nothing to do for so long ends. The next one takes as long as an
/// interpreter to start.
const STAND_IN_IDLE: Duration = Duration::from_secs(10);

fn cannot(attempt: SlotJob, text: &str) -> Box<(SlotJob, AttemptEnd)> {
    let header = ReplyHeader::Raised(error("EngineError", text));
    Box::new((attempt, AttemptEnd::without_data(AttemptOutcome::NotBegun(Unable::Runtime), header)))
}
