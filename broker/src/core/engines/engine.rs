//! One engine, and the attempts that it has.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use furlong_wire::ids::{EngineUuid, InstanceId};

use super::away::{Loss, Moved};
use crate::core::keys::{AttemptId, ClassId, ProcessKey};
use crate::core::schedule::queues::direct::DirectQueue;
use crate::core::watch::EngineCounts;

/// One engine: a slot of a process, with a queue of its own.
#[derive(Debug)]
pub struct Engine {
    /// Its uuid.
    pub uuid: EngineUuid,
    /// The instance of the process whose it is: no other may take its place.
    pub instance: Option<InstanceId>,
    /// The process that it is a slot of, while that is connected.
    pub process: Option<ProcessKey>,
    /// Its slot there.
    pub slot: u32,
    /// The class of its process, or that of its own: none while it takes nothing.
    pub class: Option<ClassId>,
    /// Its own class, while it is set aside for some work.
    pub own_class: Option<ClassId>,
    /// When it leaves, if it has said so.
    pub ends: Option<crate::core::Time>,
    /// Tasks for this engine alone.
    pub queue: DirectQueue,
    /// True if a client has asked for a new interpreter, and the engine has not said that the old
    /// one is gone.
    pub restarting: bool,
    /// The reason that its last interpreter ended.
    pub down_cause: Option<String>,
    /// Why it is lost, until all that it had is lost with it.
    pub loss: Option<Loss>,
    /// Tasks that it has ended.
    pub finished: u64,
    /// The total time for which its code has run.
    pub busy_us: u64,
    /// Its attempts.
    pub work: EngineWork,
    /// Counts for those who look.
    pub counts: EngineCounts,
}

/// The attempts of an engine.
#[derive(Debug, Default)]
pub struct EngineWork {
    /// Attempts that it has been given and has not ended, in that order.
    pub assigned: VecDeque<AttemptId>,
    /// The number of these that come from its own queue.
    pub assigned_direct: u32,
    /// Those of them that wait for tasks.
    pub lent: Vec<Loan>,
    /// Those of them that stand-ins run.
    pub stood_in: BTreeSet<AttemptId>,
    /// Attempts that have ended there, and whose results wait: they keep it from nothing.
    pub unsent: BTreeSet<AttemptId>,
    /// Attempts that it was asked to give back.
    pub recalled: BTreeSet<AttemptId>,
    /// Attempts that its dead interpreter may have had, and which come back to be run in the next
    /// one: nothing of its own queue overtakes them.
    pub returning: BTreeSet<AttemptId>,
    /// Attempts that wait for the journal: nothing of its own queue overtakes them.
    pub withheld: BTreeSet<AttemptId>,
    /// Shared tasks that were taken from it when its connection was cut, by attempt.
    pub moved: BTreeMap<AttemptId, Moved>,
}

impl Engine {
    /// An engine that has just come.
    pub fn new(uuid: EngineUuid) -> Self {
        Self {
            uuid,
            instance: None,
            process: None,
            slot: 0,
            class: None,
            own_class: None,
            ends: None,
            queue: DirectQueue::default(),
            work: EngineWork::default(),
            restarting: false,
            down_cause: None,
            loss: None,
            finished: 0,
            busy_us: 0,
            counts: EngineCounts::default(),
        }
    }

    /// Returns true if it can be given work of its own queue.
    pub fn takes_direct(&self) -> bool {
        self.class.is_some()
            && !self.restarting
            && self.work.returning.is_empty()
            && self.work.withheld.is_empty()
            && !self.is_blocked()
    }

    /// Returns its load. While an attempt waits there for tasks, nothing more is lined up behind
    /// it.
    pub fn load(&self) -> u32 {
        self.work.assigned.len() as u32 + if self.work.lent.is_empty() { 0 } else { LENT_LOAD }
    }
}

/// An attempt that waits for tasks of the same cluster.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Loan {
    /// Its id.
    pub attempt: AttemptId,
    /// Its own nesting depth.
    pub depth: u32,
}

/// The load that an engine counts as assigned while an attempt waits there for tasks: more than any
/// limit.
const LENT_LOAD: u32 = 1 << 16;
