//! The shared queue, and single tasks.

use std::time::Duration;

use furlong_wire::ids::{EngineId, TaskId};

use super::check_outside;
use super::iter::Iter;
use super::map::MapBuilder;
use super::park::{block_on, block_on_for};
use crate::call::{Arguments, CallSpec, Function};
use crate::error::ClientError;
use crate::live::{OutputStream, PublishedStream};
use crate::options::HasTaskId;
use crate::outcome::{Published, TaskOutcome};
use crate::task::TaskFuture;

/// The shared queue. See [`crate::Tasks`].
#[derive(Clone, Debug)]
pub struct Tasks {
    tasks: crate::Tasks,
}

impl Tasks {
    pub(super) fn new(tasks: crate::Tasks) -> Self {
        Self { tasks }
    }

    /// Submits a call. Waits while the session's credit is used up.
    pub fn call(&self, call: &CallSpec) -> Result<Task, ClientError> {
        check_outside()?;
        Ok(Task::new(block_on(self.tasks.call(call))?))
    }

    /// Submits a call, or says [`ClientError::Busy`] where [`Tasks::call`] would wait.
    pub fn try_call(&self, call: &CallSpec) -> Result<Task, ClientError> {
        Ok(Task::new(self.tasks.try_call(call)?))
    }

    /// Calls one function with each of many arguments, a window of them at a time. The iterator may
    /// be endless.
    pub fn map<I>(&self, function: Function, items: I) -> MapBuilder<I::IntoIter>
    where
        I: IntoIterator<Item = Arguments>,
    {
        MapBuilder::new(self.tasks.map(function, items))
    }

    /// Submits many calls, each of which says all of it. See [`crate::Tasks::map_calls`].
    pub fn map_calls<I>(&self, calls: I) -> MapBuilder<I::IntoIter>
    where
        I: IntoIterator<Item = CallSpec>,
    {
        MapBuilder::new(self.tasks.map_calls(calls))
    }
}

/// A submitted task. Dropping it does not cancel it. See [`crate::TaskFuture`].
#[derive(Debug)]
#[must_use = "a task's result is lost with it; the task itself goes on"]
pub struct Task {
    future: TaskFuture,
}

impl Task {
    pub(super) fn new(future: TaskFuture) -> Self {
        Self { future }
    }

    /// The task's name: its session and its number there.
    pub fn id(&self) -> TaskId {
        self.future.id()
    }

    /// The engine that it was submitted to; none for the shared queue.
    pub fn engine(&self) -> Option<EngineId> {
        self.future.engine()
    }

    /// Returns true if the task has ended, so that [`Task::wait`] returns at once.
    pub fn is_finished(&self) -> bool {
        self.future.is_finished()
    }

    /// Cancels the task. [`Task::wait`] returns the broker's answer.
    pub fn cancel(&self) {
        self.future.cancel();
    }

    /// Cancels the task, and an interpreter that does not respond to the interrupt is killed.
    pub fn cancel_force(&self) {
        self.future.cancel_force();
    }

    /// Cancels the task; with `force`, an interpreter that does not respond to the interrupt is
    /// killed.
    pub fn cancel_with(&self, force: bool) {
        self.future.cancel_with(force);
    }

    /// Returns when nothing of the task runs any longer. See [`crate::TaskFuture::stopped`].
    pub fn stopped(&self) -> Result<(), ClientError> {
        check_outside()?;
        block_on(self.future.stopped())
    }

    /// Iterates over what the task writes, as it comes. See [`crate::TaskFuture::output`].
    pub fn output(&self) -> Iter<OutputStream> {
        Iter::new(self.future.output())
    }

    /// Iterates over what the task publishes, as it comes. See [`crate::TaskFuture::published`].
    pub fn published(&self) -> Iter<PublishedStream> {
        Iter::new(self.future.published())
    }

    /// The last of what the task published. After [`Task::wait`], it is in the report.
    pub fn latest(&self) -> Option<Published> {
        self.future.latest()
    }

    /// Waits for the task's end, or the connection's.
    ///
    /// # Panics
    /// If it is called again after it returned.
    pub fn wait(&mut self) -> TaskOutcome {
        block_on(&mut self.future)
    }

    /// Waits like [`Task::wait`], but not longer than `timeout`; none if the task has not ended by
    /// then.
    pub fn wait_timeout(&mut self, timeout: Duration) -> Option<TaskOutcome> {
        block_on_for(&mut self.future, timeout)
    }
}

impl HasTaskId for Task {
    fn task_id(&self) -> TaskId {
        self.id()
    }
}
