//! The table of unfinished tasks: compact records, one transition function.

use std::sync::Arc;

use furlong_wire::ids::EngineId;
use furlong_wire::message::{Runtime, TaskOptions};
use slab::Slab;

use super::payloads::Stored;
use super::sessions::SessionKey;
use super::time::Time;

/// Names a task. A key outlives its task without harm: it then names nobody.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct TaskKey {
    pub(super) index: u32,
    pub(super) serial: u64,
}

/// One unfinished task.
#[derive(Debug)]
pub struct Task {
    serial: u64,
    /// Whose it is, and its number there.
    pub session: SessionKey,
    /// Its number in the session.
    pub n: u64,
    /// The engine in whose queue it waits; none for the shared queue.
    pub target: Option<EngineId>,
    /// What runs it.
    pub runtime: Runtime,
    /// The client's number for its kind.
    pub class: u32,
    /// The definition that it needs.
    pub define: Option<u32>,
    /// What is not the default.
    pub options: Option<Arc<TaskOptions>>,
    /// Call header and arguments.
    pub payload: Stored,
    /// Where it stands.
    pub state: State,
    /// How many attempts were made at it.
    pub attempts: u32,
    /// How many of them were lost after they had been reported started.
    pub losses: u32,
    /// When it was submitted.
    pub submitted: Time,
    /// When it was last given to an engine.
    pub assigned: Option<Time>,
}

/// Where an unfinished task stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum State {
    /// Its payload has not come whole.
    Receiving,
    /// It waits in a queue.
    Queued,
    /// An engine has it.
    Assigned {
        /// Which.
        engine: EngineId,
        /// As which attempt.
        attempt: u64,
        /// Whether the engine has reported that it runs.
        started: bool,
    },
}

impl Task {
    /// Higher runs first.
    pub fn priority(&self) -> i32 {
        self.options.as_ref().map_or(0, |options| options.priority)
    }

    /// Whether a second run is forbidden.
    pub fn at_most_once(&self) -> bool {
        self.options.as_ref().is_some_and(|options| options.at_most_once)
    }

    /// Whether its failure ends what its session has queued behind it on the same engine.
    pub fn aborts_followers(&self) -> bool {
        self.options.as_ref().is_some_and(|options| options.abort_on_error)
    }

    /// How many losses it survives: none where a second run is forbidden or tied to one engine's namespace.
    pub fn losses_allowed(&self) -> u32 {
        if self.target.is_some() || self.at_most_once() {
            return 0;
        }
        self.options.as_ref().and_then(|options| options.retries).unwrap_or(RETRIES_DEFAULT)
    }

    /// Moves the task along an edge of its life; a task that ends leaves the table instead ([`Tasks::remove`]).
    pub fn transition(&mut self, next: State) {
        let allowed = matches!(
            (self.state, next),
            (State::Receiving | State::Assigned { .. }, State::Queued)
                | (State::Queued, State::Assigned { started: false, .. })
        ) || matches!(
            (self.state, next),
            (State::Assigned { attempt: old, .. }, State::Assigned { attempt: new, started: true, .. }) if old == new
        );
        assert!(allowed, "a task cannot go from {:?} to {next:?}", self.state);
        self.state = next;
    }
}

/// How often a shared task is run again after the loss of its engine, unless its options say otherwise.
const RETRIES_DEFAULT: u32 = 3;

/// All unfinished tasks.
#[derive(Debug, Default)]
pub struct Tasks {
    slab: Slab<Task>,
    serial: u64,
}

impl Tasks {
    /// Adds a task, whose serial number is set here.
    pub fn insert(&mut self, mut task: Task) -> TaskKey {
        self.serial += 1;
        task.serial = self.serial;
        TaskKey { index: self.slab.insert(task) as u32, serial: self.serial }
    }

    /// The task of a key, if it has not ended.
    pub fn get(&self, key: TaskKey) -> Option<&Task> {
        self.slab.get(key.index as usize).filter(|task| task.serial == key.serial)
    }

    /// The task of a key, if it has not ended.
    pub fn get_mut(&mut self, key: TaskKey) -> Option<&mut Task> {
        self.slab.get_mut(key.index as usize).filter(|task| task.serial == key.serial)
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.slab.len()
    }

    /// Takes a task out: it has ended.
    pub fn remove(&mut self, key: TaskKey) -> Option<Task> {
        self.get(key)?;
        Some(self.slab.remove(key.index as usize))
    }
}

/// A task that has just been submitted.
pub fn submitted(session: SessionKey, n: u64, submit: Submitted<'_>, payload: Stored, now: Time) -> Task {
    Task {
        serial: 0,
        session,
        n,
        target: submit.target,
        runtime: submit.runtime,
        class: submit.class,
        define: submit.define,
        options: submit.options.cloned(),
        payload,
        state: State::Receiving,
        attempts: 0,
        losses: 0,
        submitted: now,
        assigned: None,
    }
}

/// What a submit says of one of its tasks.
#[derive(Clone, Copy, Debug)]
pub struct Submitted<'a> {
    /// The engine that it names.
    pub target: Option<EngineId>,
    /// What runs it.
    pub runtime: Runtime,
    /// Its kind.
    pub class: u32,
    /// The definition that it needs.
    pub define: Option<u32>,
    /// What is not the default.
    pub options: Option<&'a Arc<TaskOptions>>,
}
