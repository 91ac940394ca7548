//! Attempts that were stopped because their engine's job ends: by a batch system, at its limit or
//! for others. That is no fault of the task, which runs again elsewhere and uses no retry.

use furlong_wire::message::{AttemptFinished, ErrorKind, Outcome, TaskState};

use crate::core::attempts::Assignment;
use crate::core::keys::ProcessKey;
use crate::core::payloads::stored::Stored;
use crate::core::tasks::table::{Queue, Task};
use crate::core::{Core, Time};

/// The number of times a task is given back and runs again. Beyond, it is lost: none of the jobs
/// was long enough for it, and the next ones hardly are.
const GIVEN_BACK_MAX: u32 = 20;
/// The reason in a task's record.
const HOW: &str = "engine stopped by its job";

/// Returns true if an attempt ends as one that was stopped with its engine's job.
pub(super) fn is_given_back(finished: &AttemptFinished) -> bool {
    finished.outcome.error.as_ref().is_some_and(|error| error.kind == ErrorKind::GivenBack)
}

impl Core {
    /// The end that it brings to its task that an attempt was stopped with its engine's job. None
    /// if the task runs again.
    pub(super) fn end_given_back(
        &mut self,
        now: Time,
        key: ProcessKey,
        given: Assignment,
        finished: &AttemptFinished,
    ) -> Option<Outcome> {
        self.take_back(finished.attempt.id);
        self.note_begun(given);
        let lost = |text| Some(Outcome::error(TaskState::Lost, ErrorKind::EngineLost, text));
        let engine = given.engine;
        // It was ended meanwhile.
        let Some(task) = self.tasks.get_mut(given.task) else { return lost(HOW.to_owned()) };
        let times = task.more().map_or(0, |more| more.given_back);
        // Its arguments may have gone with it, and nobody else could be given them.
        let may_run_again = |task: &Task| {
            task.queue == Queue::Shared
                && !task.at_most_once()
                && !matches!(task.payload, Stored::Sent(_))
        };
        if may_run_again(task) && times < GIVEN_BACK_MAX {
            task.more_mut().given_back += 1;
            self.note_attempt(now, given, HOW);
            self.requeue(now, given.task);
            self.release_attempt(key, finished.attempt.id, 0);
            return None;
        }
        lost(match (task.queue, task.at_most_once()) {
            (Queue::Shared, true) => format!(
                "the job of engine {engine} has ended with this at-most-once task, which may have run ({HOW})"
            ),
            (Queue::Shared, false) => format!(
                "given back {GIVEN_BACK_MAX} times, lastly by engine {engine} ({HOW}): does it take longer than the \
                 jobs? `time_request` says how long it takes"
            ),
            _ => format!("engine {engine} was lost while it had the task ({HOW})"),
        })
    }
}
