//! A task's end, as a future.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use furlong_wire::ids::{EngineId, TaskId};

use crate::core::Submitted;
use crate::options::HasTaskId;
use crate::outcome::{TaskFailure, TaskResult};
use crate::shared::Handle;

/// A submitted task. It resolves when the task has ended, or the connection has; dropping it does not cancel the task.
///
/// # Panics
/// If it is polled again after it resolved.
#[derive(Debug)]
#[must_use = "a task's result is lost with its future; the task itself goes on"]
pub struct TaskFuture {
    handle: Arc<Handle>,
    id: TaskId,
    engine: Option<EngineId>,
    /// Its place in the session's table, until its end was taken.
    key: Option<usize>,
}

impl TaskFuture {
    pub(crate) fn new(handle: Arc<Handle>, submitted: Submitted, engine: Option<EngineId>) -> Self {
        let id = TaskId { session: handle.shared.session, n: submitted.n };
        Self { handle, id, engine, key: Some(submitted.key) }
    }

    /// The task's name: its session and its number there.
    pub fn id(&self) -> TaskId {
        self.id
    }

    /// The engine that it was submitted to; none for the shared queue. The report says which engine ran it.
    pub fn engine(&self) -> Option<EngineId> {
        self.engine
    }

    /// Whether the task has ended, so that the future resolves at once.
    pub fn is_finished(&self) -> bool {
        self.key.is_none_or(|key| self.handle.shared.with(|core| core.has_ended(key)))
    }

    /// Cancels the task: gone at once if it has not begun, interrupted if it runs. The future resolves with the
    /// broker's answer, which is the task's end: `cancelled`, or what it was before.
    pub fn cancel(&self) {
        self.cancel_with(false);
    }

    /// Cancels the task like [`TaskFuture::cancel`], and an interpreter that does not heed the interrupt is killed.
    pub fn cancel_force(&self) {
        self.cancel_with(true);
    }

    /// Cancels the task; with `force`, an interpreter that does not heed the interrupt is killed.
    pub fn cancel_with(&self, force: bool) {
        if !self.is_finished() {
            self.handle.shared.with(|core| core.cancel(vec![(self.id.n, self.id.n)], force));
        }
    }
}

impl HasTaskId for TaskFuture {
    fn task_id(&self) -> TaskId {
        self.id
    }
}

impl Future for TaskFuture {
    type Output = Result<TaskResult, TaskFailure>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let key = self.key.expect("a future is not polled after it resolved");
        let mut replaced = None;
        let shared = &self.handle.shared;
        let ended = ready!(shared.with(|core| core.poll_task(key, context.waker(), &mut replaced)));
        self.key = None;
        Poll::Ready(ended.into_result(self.id.session))
    }
}

impl Drop for TaskFuture {
    fn drop(&mut self) {
        if let Some(key) = self.key.take() {
            drop(self.handle.shared.with(|core| core.forget_task(key)));
        }
    }
}
