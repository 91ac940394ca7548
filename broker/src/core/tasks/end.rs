//! The way in which a task ends, before it is its session's or nobody's.

use furlong_wire::ids::EngineId;
use furlong_wire::message::{Dependency, ErrorKind, Outcome, RunTimes, TaskState};

use crate::core::keys::{AttemptId, ProcessKey, ValueId};
use crate::core::payloads::stored::Stored;

/// The word to who has cancelled a task that has not begun.
pub(in crate::core) const BEFORE_IT_BEGAN: &str = "cancelled before it began";

/// The way a task ended, with its result.
#[derive(Debug)]
pub(in crate::core) struct TaskEnd {
    /// Its terminal state.
    pub outcome: Outcome,
    /// The engine that ended it.
    pub engine: Option<EngineId>,
    /// The parts of its time there.
    pub run: RunTimes,
    /// Its result.
    pub payload: Option<Stored>,
    /// Its result, if that is a value already.
    pub value: Option<ValueId>,
    /// The process whose lane the result came by, if it came unasked.
    pub lane: Option<ProcessKey>,
    /// The process that ended it.
    pub process: Option<ProcessKey>,
    /// As which attempt.
    pub attempt: Option<AttemptId>,
}

impl Default for TaskEnd {
    fn default() -> Self {
        Self {
            outcome: Outcome::SUCCEEDED,
            engine: None,
            run: RunTimes::default(),
            payload: None,
            value: None,
            lane: None,
            process: None,
            attempt: None,
        }
    }
}

impl TaskEnd {
    /// Ended by the broker's decision.
    pub fn by_broker(state: TaskState, kind: ErrorKind, text: impl Into<String>) -> Self {
        Self { outcome: Outcome::error(state, kind, text), ..Self::default() }
    }
}

/// The end of a task that its client has taken back.
pub fn cancelled_before_it_began() -> TaskEnd {
    TaskEnd::by_broker(TaskState::Cancelled, ErrorKind::Cancelled, BEFORE_IT_BEGAN)
}

/// The end of a task that needed a namespace which is gone.
pub(in crate::core) fn namespace_lost(id: EngineId, how: &str) -> TaskEnd {
    let text = format!(
        "the namespace of engine {id} was lost before the task began ({how}); set it up again, or mark tasks that do \
         not need it as restart-safe"
    );
    TaskEnd { engine: Some(id), ..TaskEnd::by_broker(TaskState::Lost, ErrorKind::EngineLost, text) }
}

/// The end of a task that can never run.
pub(in crate::core) fn unmet(text: &str) -> TaskEnd {
    TaskEnd::by_broker(
        TaskState::Cancelled,
        ErrorKind::Dependency,
        format!("{text}; it was not run"),
    )
}

/// The same of one that is submitted again: an engine may have run it for an earlier broker.
pub(in crate::core) fn unmet_again(text: &str) -> TaskEnd {
    let text = format!("{text}; whether it had run before that is not known");
    TaskEnd::by_broker(TaskState::Cancelled, ErrorKind::Dependency, text)
}

/// The end of a task as its dependents see it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct DependencyEnd {
    /// True if it succeeded.
    pub succeeded: bool,
    /// The engine that ran it, if one did.
    pub engine: Option<EngineId>,
}

impl DependencyEnd {
    /// Returns true if it is what a task that depends on it demands.
    pub fn is_as_demanded(self, demand: &Dependency) -> bool {
        if self.succeeded { demand.success } else { demand.failure }
    }
}
