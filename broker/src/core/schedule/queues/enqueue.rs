//! Tasks come to stand in a queue: when they have all that they need, when they come back from an
//! engine, and when they are tried again.

use crate::core::keys::TaskKey;
use crate::core::tasks::table::State;
use crate::core::{Core, Time};

impl Core {
    /// A task has everything that it needs to run.
    pub(in crate::core) fn queue(&mut self, now: Time, key: TaskKey) {
        let task = self.tasks.get(key).expect("a task that is queued has not ended");
        // One that pauses was claimed before, in vain, or has raised at this start.
        if task.may_be_repeated() && task.state != State::Pausing && self.claim(now, key) {
            return;
        }
        let task = self.tasks.get_mut(key).expect("a task that is not claimed has not ended");
        self.waiting.leave(task.state);
        let has_run = matches!(task.state, State::Pausing | State::Assigned { .. });
        task.transition(State::Queued);
        task.times.queued_us = task.since_submit(now);
        let (priority, session, placement) = (task.priority(), task.session, task.placement);
        if let Some(engine) = task.queue.engine() {
            let tasks = &self.tasks;
            self.engines.update(engine, |engine| {
                if has_run {
                    engine.queue.queue_again(session, key, tasks);
                }
                engine.queue.note(session, tasks);
            });
            self.schedule.direct_ready.insert(engine);
        } else {
            self.schedule.placements.get_mut(placement).queue.push(
                priority,
                session,
                key,
                self.schedule.shared_given,
            );
            self.schedule.placements.count_waiting(placement, true);
        }
    }

    /// A task comes back from an engine: it is the next one of its session.
    pub(in crate::core) fn requeue(&mut self, now: Time, key: TaskKey) {
        // What was withheld from its engine may have been cancelled meanwhile.
        let Some(task) = self.tasks.get_mut(key) else { return };
        task.transition(State::Queued);
        let (priority, session, placement) = (task.priority(), task.session, task.placement);
        let queue = task.queue;
        if task.deadline().is_some() || task.options.is_some() {
            self.set_deadline(now, key);
        }
        if let Some(engine) = queue.engine() {
            let tasks = &self.tasks;
            self.engines.update(engine, |engine| {
                engine.queue.put_in_order(session, key, tasks);
                engine.queue.note(session, tasks);
            });
            self.schedule.direct_ready.insert(engine);
        } else {
            // The first of its session's: it was that when it was given out.
            self.schedule.placements.get_mut(placement).queue.push_front(
                priority,
                session,
                key,
                self.schedule.shared_given,
            );
            self.schedule.placements.count_waiting(placement, true);
        }
    }

    /// A task that has been run goes to the end of its queue, to be run again.
    pub(in crate::core) fn queue_again(&mut self, now: Time, key: TaskKey) {
        self.queue(now, key);
        self.set_deadline(now, key);
    }
}
