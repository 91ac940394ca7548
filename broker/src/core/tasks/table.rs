//! The table of unfinished tasks: compact records, one transition function.

use std::num::NonZeroU32;
use std::sync::Arc;

use furlong_wire::ids::{BrokerStart, EngineId, TaskSeq};
use furlong_wire::message::{Runtime, TaskOptions};
use slab::Slab;

use super::extras::TaskExtras;
use crate::core::journal::stage::{Durable, Stage};
use crate::core::keys::{Age, AttemptId, PlacementId, SessionKey, TaskKey};
use crate::core::payloads::stored::Stored;
use crate::core::time::Time;
use crate::core::watch::kinds::KindId;

/// One unfinished task.
#[derive(Debug)]
pub struct Task {
    serial: NonZeroU32,
    /// Its session.
    pub session: SessionKey,
    /// Its number in the session.
    pub n: TaskSeq,
    /// The queue that it is for.
    pub queue: Queue,
    /// The demands on its engine.
    pub placement: PlacementId,
    /// Its runtime.
    pub runtime: Runtime,
    /// Its kind.
    pub kind: TaskKind,
    /// The definition that it needs.
    pub define: Option<u32>,
    /// The options that differ from the defaults.
    pub options: Option<Arc<TaskOptions>>,
    /// Call header and arguments.
    pub payload: Stored,
    /// Its state.
    pub state: State,
    /// The journal's state of it.
    durable: Option<Box<Durable>>,
    /// The extras that few tasks have.
    more: Option<Box<TaskExtras>>,
    /// How often it was tried.
    pub tries: Tries,
    /// When what happened to it.
    pub times: Times,
}

/// The kind of a task: tasks of one kind take about as long as each other.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TaskKind {
    /// The client's number for it.
    pub number: u32,
    /// Its number among the kinds of all sessions, as those who look see it.
    pub id: KindId,
}

/// When what happened to a task.
#[derive(Debug, Default)]
pub struct Times {
    /// The time of its submit.
    pub submitted: Time,
    /// Microseconds from then until it had all that it needed.
    pub queued_us: u64,
    /// The time at which it was last given to an engine.
    pub assigned: Option<Time>,
}

/// How often a task was tried.
#[derive(Debug, Default)]
pub struct Tries {
    /// The number of attempts made at it.
    pub attempts: u32,
    /// The number of these that only waited at an engine, and were recalled.
    pub recalled: u32,
    /// The number of these that were lost after they had been reported started.
    pub losses: u32,
}

impl Tries {
    /// The attempts that people count: not those that only waited at an engine.
    pub fn begun(&self) -> u32 {
        self.attempts - self.recalled
    }
}

/// The queue that a task is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Queue {
    /// On any engine: it is in the shared queue.
    Shared,
    /// It was for the shared queue, and follows another task to its engine.
    Pinned(EngineId),
    /// On the engine that the submit named.
    Direct(EngineId),
}

impl Queue {
    /// The engine in whose own queue it waits.
    pub fn engine(self) -> Option<EngineId> {
        match self {
            Self::Shared => None,
            Self::Pinned(engine) | Self::Direct(engine) => Some(engine),
        }
    }
}

/// The state of an unfinished task.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum State {
    /// Its payload has not come whole.
    Receiving,
    /// It waits for other tasks.
    Waiting,
    /// It waits in a queue.
    Queued,
    /// An engine has it.
    Assigned {
        /// The identifier.
        engine: EngineId,
        /// As which attempt.
        attempt: AttemptId,
        /// True if the engine has reported that it runs.
        started: bool,
    },
    /// It has ended on its engine, where its result waits until there is room for it.
    Unsent {
        /// The identifier.
        engine: EngineId,
        /// As which attempt.
        attempt: AttemptId,
    },
    /// It raised, and waits before it is run again. Or, not tried yet, it may have run at an
    /// earlier start of the broker, and waits for the engine that may have it.
    Pausing,
}

impl Task {
    /// The engine that its submit named.
    pub fn target(&self) -> Option<EngineId> {
        match self.queue {
            Queue::Direct(engine) => Some(engine),
            Queue::Shared | Queue::Pinned(_) => None,
        }
    }

    /// Returns true if an engine has it as this attempt.
    pub fn is_assigned_as(&self, attempt: AttemptId) -> bool {
        matches!(self.state, State::Assigned { attempt: current, .. } if current == attempt)
    }

    /// Higher runs first.
    pub fn priority(&self) -> i32 {
        self.options.as_ref().map_or(0, |options| options.priority)
    }

    /// Returns true if a second run is forbidden.
    pub fn at_most_once(&self) -> bool {
        self.options.as_ref().is_some_and(|options| options.at_most_once)
    }

    /// Returns true if its failure ends what its session has queued behind it on the same engine.
    pub fn aborts_followers(&self) -> bool {
        self.options.as_ref().is_some_and(|options| options.abort_on_error)
    }

    /// Returns true if its result and output are retained after they were acknowledged.
    pub fn keep(&self) -> bool {
        self.options.as_ref().is_some_and(|options| options.keep)
    }

    /// Returns true if it goes on when its session is over.
    pub fn outlives_session(&self) -> bool {
        let durable = self
            .durable()
            .is_some_and(|durable| matches!(durable.stage, Stage::Noted | Stage::Written));
        durable || (self.keep() && self.state != State::Receiving)
    }

    /// The journal's state of it.
    pub fn durable(&self) -> Option<Durable> {
        self.durable.as_deref().copied()
    }

    /// The journal's state of it.
    pub fn durable_mut(&mut self) -> Option<&mut Durable> {
        self.durable.as_deref_mut()
    }

    /// Takes out what the journal has of it: the task has ended.
    pub fn take_durable(&mut self) -> Option<Box<Durable>> {
        self.durable.take()
    }

    /// Returns true if it was submitted to an earlier start of the broker, where it may have run.
    pub fn may_be_repeated(&self) -> bool {
        self.options.as_ref().is_some_and(|options| options.repeated)
            || self.durable().is_some_and(|it| it.begun)
    }

    /// Microseconds from its submit to a moment.
    pub fn since_submit(&self, at: Time) -> u64 {
        at.micros_since(self.times.submitted) + self.durable().map_or(0, |durable| durable.age_us)
    }

    /// The time of its submit: microseconds since 1970.
    pub fn submitted_unix_us(&self, start: BrokerStart) -> u64 {
        self.times.submitted.unix_us(start) - self.durable().map_or(0, |durable| durable.age_us)
    }

    /// Returns true if it ends when its engine's interpreter is replaced: it is direct, and may
    /// need the namespace.
    pub fn needs_namespace(&self) -> bool {
        self.runtime == Runtime::Python
            && self.queue != Queue::Shared
            && !self.options.as_ref().is_some_and(|options| options.restart_safe)
    }

    /// Returns true if it will never be given to an engine a second time.
    pub fn runs_on_one_attempt(&self) -> bool {
        let restart_safe = self.options.as_ref().is_some_and(|options| options.restart_safe);
        matches!(self.queue, Queue::Direct(_)) && !restart_safe
    }

    /// Returns the number of losses it survives: none if a second run is forbidden or tied to one
    /// engine's namespace.
    pub fn losses_allowed(&self) -> u32 {
        // Also one that has followed another to its engine: it needs what that one left there.
        if self.queue != Queue::Shared || self.at_most_once() {
            return 0;
        }
        self.options.as_ref().and_then(|options| options.retries).unwrap_or(RETRIES_DEFAULT)
    }

    /// Returns the number of its own errors it survives.
    pub fn errors_allowed(&self) -> u32 {
        self.options.as_ref().map_or(0, |options| options.error_retries)
    }

    /// Returns the extras that few tasks have, if this one has them.
    pub fn more(&self) -> Option<&TaskExtras> {
        self.more.as_deref()
    }

    /// The extras that few tasks have.
    pub fn more_mut(&mut self) -> &mut TaskExtras {
        self.more.get_or_insert_default()
    }

    /// Returns the extras that few tasks have, if this one has them.
    pub fn more_if_any(&mut self) -> Option<&mut TaskExtras> {
        self.more.as_deref_mut()
    }

    /// Takes out what few tasks have: the task has ended.
    pub fn take_more(&mut self) -> Option<Box<TaskExtras>> {
        self.more.take()
    }

    /// Returns the deadline for leaving its present state, if there is one.
    pub fn deadline(&self) -> Option<Time> {
        self.more.as_ref().and_then(|more| more.deadline)
    }

    /// Returns true if its engine has reported that it runs. For attempts of an earlier start that
    /// is unknown at first.
    pub fn is_reported(&self) -> bool {
        if matches!(self.state, State::Unsent { .. }) {
            return true;
        }
        // What is adopted from an earlier start is `started`, so that it is never taken for one
        // that cannot have run; whether it runs its engine says later.
        let may_have_begun = matches!(self.state, State::Assigned { started: true, .. });
        may_have_begun && self.more().is_some_and(|more| more.has_run || more.started.is_some())
    }

    /// Returns true if an engine was lost with it assigned and not yet reported as running.
    pub fn is_suspect(&self) -> bool {
        self.more().is_some_and(|more| more.is_suspect)
    }

    /// Moves the task along an edge of its life; a task that ends leaves the table instead
    /// ([`Tasks::remove`]).
    pub fn transition(&mut self, next: State) {
        use State::{Assigned, Pausing, Queued, Receiving, Unsent, Waiting};
        let allowed = match (self.state, next) {
            // To a pause without having run: for engines that may have it from an earlier start.
            (Receiving, Waiting | Queued | Pausing)
            | (Waiting | Assigned { .. }, Pausing)
            | (Waiting | Pausing | Assigned { .. }, Queued)
            | (Queued, Assigned { started: false, .. }) => true,
            // Back from `Unsent` when its engine is away: the result waits there, and nobody can
            // ask for it.
            (
                Assigned { attempt: old, .. } | Unsent { attempt: old, .. },
                Assigned { attempt: new, started: true, .. },
            )
            | (Assigned { attempt: old, .. }, Unsent { attempt: new, .. }) => old == new,
            _ => false,
        };
        assert!(allowed, "a task cannot go from {:?} to {next:?}", self.state);
        self.state = next;
    }
}

/// The number of times a shared task is run again after the loss of its engine, unless its options
/// say otherwise.
const RETRIES_DEFAULT: u32 = 3;

/// All unfinished tasks.
#[derive(Debug)]
pub struct Tasks {
    slab: Slab<Task>,
    serial: NonZeroU32,
}

impl Default for Tasks {
    fn default() -> Self {
        Self { slab: Slab::new(), serial: NonZeroU32::MIN }
    }
}

impl Tasks {
    /// Adds a task, whose serial number is set here. A number comes again after four billion tasks,
    /// when no key of the first one is left.
    pub fn insert(&mut self, mut task: Task) -> TaskKey {
        self.serial = self.serial.checked_add(1).unwrap_or(NonZeroU32::MIN);
        task.serial = self.serial;
        // The last place is that of `TaskKey::NOBODY`.
        assert!(self.slab.len() < u32::MAX as usize, "places of tasks are numbered by 32 bits");
        TaskKey { index: self.slab.insert(task) as u32, serial: self.serial }
    }

    /// The present moment.
    pub fn age(&self) -> Age {
        Age(self.serial)
    }

    /// The task of a key, if it has not ended.
    pub fn get(&self, key: TaskKey) -> Option<&Task> {
        self.slab.get(key.index as usize).filter(|task| task.serial == key.serial)
    }

    /// The task of a key, if it has not ended.
    pub fn get_mut(&mut self, key: TaskKey) -> Option<&mut Task> {
        self.slab.get_mut(key.index as usize).filter(|task| task.serial == key.serial)
    }

    /// Returns true if a task waits in a queue.
    pub fn is_queued(&self, key: TaskKey) -> bool {
        self.get(key).is_some_and(|task| task.state == State::Queued)
    }

    /// Returns true if it waits in the shared queue of these demands. An entry there may be older
    /// than its last move.
    pub fn is_queued_in(&self, key: TaskKey, placement: PlacementId) -> bool {
        let waits = |task: &Task| task.state == State::Queued && task.queue == Queue::Shared;
        self.get(key).is_some_and(|task| waits(task) && task.placement == placement)
    }

    /// Returns the number of elements.
    pub fn len(&self) -> usize {
        self.slab.len()
    }

    /// Takes a task out: it has ended.
    pub fn remove(&mut self, key: TaskKey) -> Option<Task> {
        // A slab hands its places out again: the serial tells whether this is still the same task.
        self.get(key)?;
        Some(self.slab.remove(key.index as usize))
    }
}

/// A task that has just been submitted.
pub fn submitted(
    session: SessionKey,
    n: TaskSeq,
    submit: Submitted<'_>,
    payload: Stored,
    now: Time,
) -> Task {
    Task {
        serial: NonZeroU32::MIN,
        session,
        n,
        queue: submit.target.map_or(Queue::Shared, Queue::Direct),
        placement: submit.placement,
        runtime: submit.runtime,
        kind: TaskKind { number: submit.class, id: submit.kind },
        define: submit.define,
        options: submit.options.cloned(),
        payload,
        state: State::Receiving,
        tries: Tries::default(),
        times: Times { submitted: now, queued_us: 0, assigned: None },
        durable: submit.durable.map(Box::new),
        more: None,
    }
}

/// The data of one task in a submit.
#[derive(Clone, Copy, Debug)]
pub struct Submitted<'a> {
    /// The engine that it names.
    pub target: Option<EngineId>,
    /// The demands on its engine.
    pub placement: PlacementId,
    /// Its runtime.
    pub runtime: Runtime,
    /// The client's number for its kind.
    pub class: u32,
    /// Its kind, for those who look.
    pub kind: KindId,
    /// The definition that it needs.
    pub define: Option<u32>,
    /// The options that differ from the defaults.
    pub options: Option<&'a Arc<TaskOptions>>,
    /// The journal's state of it.
    pub durable: Option<Durable>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_task_is_small() {
        assert!(size_of::<Task>() <= 176, "{} bytes", size_of::<Task>());
        assert_eq!(size_of::<Option<TaskKey>>(), 8);
    }
}
