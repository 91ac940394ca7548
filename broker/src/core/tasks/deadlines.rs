//! The deadlines of a task: the end of its waiting, of its run, of a pause between two attempts.

use std::collections::BTreeSet;
use std::time::Duration;

use furlong_wire::ids::EngineId;
use furlong_wire::message::{ErrorKind, TaskState};

use super::end::TaskEnd;
use super::table::{State, Task};
use crate::core::keys::TaskKey;
use crate::core::turns::work::TASKS_PER_PART;
use crate::core::{Core, Time};

/// The tasks for which something is due, in the order of the times. Each has one time at most,
/// which its record names.
#[derive(Debug, Default)]
pub struct Deadlines(BTreeSet<(Time, TaskKey)>);

/// The longest pause between two attempts.
const PAUSE_MAX: Duration = Duration::from_secs(60);

impl Deadlines {
    /// Returns the time at which the first one is due.
    pub fn first(&self) -> Option<Time> {
        self.0.first().map(|(at, _)| *at)
    }

    /// Returns their number, for the tests.
    #[cfg(any(test, feature = "invariants"))]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// A task has ended, or its time is another now.
    pub fn remove(&mut self, at: Time, key: TaskKey) {
        let was_here = self.0.remove(&(at, key));
        assert!(was_here, "{key:?} names a deadline that is not there");
    }
}

impl Core {
    /// Works out when something is due for a task in the state in which it is now.
    pub(in crate::core) fn set_deadline(&mut self, now: Time, key: TaskKey) {
        let task = self.tasks.get_mut(key).expect("a task whose state changes has not ended");
        let before = task.deadline();
        let after = due(task, now);
        if before == after {
            return;
        }
        task.more_mut().deadline = after;
        if let Some(at) = before {
            self.waiting.deadlines.remove(at, key);
        }
        if let Some(at) = after {
            let is_new = self.waiting.deadlines.0.insert((at, key));
            assert!(is_new, "{key:?} has two deadlines");
        }
    }

    /// Does what is due.
    pub(in crate::core) fn handle_deadlines(&mut self, now: Time) {
        // Very many have their turn later.
        for _ in 0..TASKS_PER_PART {
            let Some(&(at, key)) = self.waiting.deadlines.0.first().filter(|(at, _)| *at <= now)
            else {
                return;
            };
            self.waiting.deadlines.0.remove(&(at, key));
            let task = self.tasks.get_mut(key).expect("a task that ends takes its deadline along");
            task.more_mut().deadline = None;
            let options = task.options.clone();
            match task.state {
                State::Pausing
                    if task.more().and_then(|more| more.pause_ends).is_some_and(|at| at <= now) =>
                {
                    task.more_mut().pause_ends = None;
                    // Not tried at this start: it has waited for an engine that may have had it.
                    if task.tries.attempts == 0 {
                        self.end_wait(now, key);
                    } else {
                        self.queue_again(now, key);
                    }
                }
                State::Assigned { engine, .. } => {
                    let limit =
                        options.and_then(|options| options.run_timeout_ms).unwrap_or_default();
                    self.time_out_run(now, key, engine, limit);
                }
                _ => {
                    let limit =
                        options.and_then(|options| options.queue_timeout_ms).unwrap_or_default();
                    let text = format!(
                        "no engine could take it within its `queue_timeout` of {limit} ms; `furlong explain` shows \
                         what a task waits for"
                    );
                    self.end(
                        now,
                        key,
                        TaskEnd::by_broker(TaskState::TimedOut, ErrorKind::QueueTimeout, text),
                    );
                }
            }
        }
    }

    fn time_out_run(&mut self, now: Time, key: TaskKey, engine: EngineId, limit_ms: u64) {
        self.stop_attempt(now, key, true);
        let text = format!(
            "it ran longer than its `run_timeout` of {limit_ms} ms on engine {engine}, and was stopped"
        );
        let ended = TaskEnd::by_broker(TaskState::TimedOut, ErrorKind::RunTimeout, text);
        self.end(now, key, TaskEnd { engine: Some(engine), ..ended });
    }

    /// A task raised and may be run again: at once, or after a pause that doubles each time.
    pub(in crate::core) fn pause(&mut self, now: Time, key: TaskKey, errors: u32) {
        let task = self.tasks.get_mut(key).expect("a task that is run again has not ended");
        let first_ms = task.options.as_ref().map_or(0, |options| options.backoff_ms);
        let pause_ms = first_ms.saturating_mul(1 << (errors.saturating_sub(1)).min(30));
        if pause_ms == 0 {
            return self.queue_again(now, key);
        }
        task.transition(State::Pausing);
        let engine = task.queue.engine();
        task.more_mut().pause_ends =
            Some(now.after(Duration::from_millis(pause_ms).min(PAUSE_MAX)));
        self.waiting.held += 1;
        // It stands in no line meanwhile: those behind it need not wait for its pause.
        if let Some(id) = engine {
            self.engines.update(id, |engine| engine.queue.set_apart(key));
        }
        self.set_deadline(now, key);
    }
}

/// Returns the time at which something is due for a task.
fn due(task: &Task, now: Time) -> Option<Time> {
    let options = task.options.as_deref()?;
    let ms = |ms: u64| Duration::from_millis(ms);
    match task.state {
        // What an engine holds of an earlier start may have begun, and may wait there all the same.
        State::Assigned { started: true, .. } => {
            let reported = task.more().and_then(|more| more.started)?;
            options.run_timeout_ms.map(|limit| reported.after(ms(limit)))
        }
        State::Assigned { .. } | State::Unsent { .. } => None,
        // Of a task that was run before, the wait begins again.
        State::Receiving | State::Waiting | State::Queued => {
            let (began, age_us) = match (task.tries.attempts, task.durable()) {
                (0, durable) => (task.times.submitted, durable.map_or(0, |durable| durable.age_us)),
                _ => (now, 0),
            };
            options
                .queue_timeout_ms
                .map(|limit| began.after(ms(limit).saturating_sub(Duration::from_micros(age_us))))
        }
        // It does not wait for an engine.
        State::Pausing => task.more().and_then(|more| more.pause_ends),
    }
}
