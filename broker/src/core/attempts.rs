//! The attempts that engines have, each under an id that is never given twice.

use furlong_wire::ids::{EngineId, OwnerId, TaskSeq};

use super::keys::{AttemptId, SessionKey, TaskKey};
use super::seq_map::SeqMap;
use super::time::Time;

/// An attempt that an engine has.
#[derive(Clone, Copy, Debug)]
pub(in crate::core) struct Assignment {
    /// The task; nobody, if the engine is only to stop it.
    pub(in crate::core) task: TaskKey,
    /// Its session.
    pub(in crate::core) session: SessionKey,
    /// Its number there.
    pub(in crate::core) n: TaskSeq,
    /// The engine.
    pub(in crate::core) engine: EngineId,
    /// True if it came from the engine's own queue.
    pub(in crate::core) direct: bool,
    /// If the task has been ended: how the engine was told to stop, or will be when it is back.
    pub(in crate::core) stopping: Option<Stopping>,
    /// True if the task ends when the engine gives it back.
    pub(in crate::core) is_wanted_back: bool,
}

impl Assignment {
    /// What an engine has from now on.
    pub(in crate::core) fn new(
        task: TaskKey,
        (session, n): (SessionKey, TaskSeq),
        engine: EngineId,
        direct: bool,
    ) -> Self {
        Self { task, session, n, engine, direct, stopping: None, is_wanted_back: false }
    }
}

/// The way in which an attempt is stopped.
#[derive(Clone, Copy, Debug)]
pub(in crate::core) struct Stopping {
    /// True if an interpreter that does not respond to the interrupt is killed.
    pub(in crate::core) force: bool,
    /// Since when.
    pub(in crate::core) since: Time,
    /// The owner of the task.
    pub(in crate::core) owner: Option<OwnerId>,
}

/// All of them, by id, until the engine has ended or returned them.
#[derive(Debug, Default)]
pub struct Attempts {
    given: SeqMap<AttemptId, Assignment>,
    made: u64,
}

impl Attempts {
    /// The id of an attempt that is about to be made.
    pub(in crate::core) fn next(&mut self) -> AttemptId {
        // Never twice: a report that comes late then names nobody, and not somebody else's attempt.
        // Ascending, so that an engine's list of what it was given is in order by itself.
        self.made += 1;
        AttemptId(self.made)
    }

    /// The last id that was given.
    pub(in crate::core) fn made(&self) -> AttemptId {
        AttemptId(self.made)
    }

    /// An engine has an attempt from now on.
    pub(in crate::core) fn insert(&mut self, id: AttemptId, given: Assignment) {
        assert!(0 < id.0 && id.0 <= self.made, "attempt {id} was never made");
        let before = self.given.insert(id, given);
        assert!(before.is_none(), "attempt {id} is with two engines");
    }

    /// An attempt, while an engine has it.
    pub(in crate::core) fn get(&self, id: AttemptId) -> Option<&Assignment> {
        self.given.get(id)
    }

    /// An attempt, while an engine has it.
    pub(in crate::core) fn get_mut(&mut self, id: AttemptId) -> Option<&mut Assignment> {
        self.given.get_mut(id)
    }

    /// The engine has it no longer.
    pub(in crate::core) fn remove(&mut self, id: AttemptId) -> Option<Assignment> {
        self.given.remove(id)
    }

    /// Returns their number.
    pub fn len(&self) -> usize {
        self.given.len()
    }

    /// Returns true if no engine has any.
    pub fn is_empty(&self) -> bool {
        self.given.is_empty()
    }

    /// All of them, in the order of their ids.
    #[cfg(any(test, feature = "invariants"))]
    pub(in crate::core) fn iter(&self) -> impl Iterator<Item = (AttemptId, &Assignment)> {
        self.given.iter()
    }
}
