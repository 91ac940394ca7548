//! A task's end, as a future.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};

use furlong_wire::ids::{EngineId, TaskId};
use furlong_wire::message::Stream;

use crate::core::Submitted;
use crate::core::output::Output;
use crate::error::ClientError;
use crate::live::{OutputStream, PublishedStream};
use crate::options::HasTaskId;
use crate::outcome::{Published, TaskOutcome};
use crate::shared::Handle;

/// A submitted task. It resolves when the task has ended, or the connection has; dropping it does
/// not cancel the task.
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
    /// True if the session records for this future whether the task still runs.
    is_stop_noted: AtomicBool,
}

impl TaskFuture {
    pub(crate) fn new(handle: Arc<Handle>, submitted: Submitted, engine: Option<EngineId>) -> Self {
        let id = TaskId { session: handle.shared.session, n: submitted.n };
        Self { handle, id, engine, key: Some(submitted.key), is_stop_noted: AtomicBool::new(false) }
    }

    /// The task's name: its session and its number there.
    pub fn id(&self) -> TaskId {
        self.id
    }

    /// The engine that it was submitted to; none for the shared queue. The report says which engine
    /// ran it.
    pub fn engine(&self) -> Option<EngineId> {
        self.engine
    }

    /// Returns true if the task has ended, so that the future resolves at once.
    pub fn is_finished(&self) -> bool {
        self.key.is_none_or(|key| self.handle.shared.with(|core| core.has_ended(key)))
    }

    /// Returns true if it is among the last few tasks that its session has submitted, so that it
    /// may well end soon.
    pub fn is_recent(&self) -> bool {
        const FEW: u64 = 16;
        self.handle.shared.with(|core| core.submitted()) < self.id.n.saturating_add(FEW)
    }

    /// Cancels the task: gone at once if it has not begun, interrupted if it runs. The future
    /// resolves with the broker's answer, which is the task's end: `cancelled`, or what it was
    /// before. [`TaskFuture::stopped`] tells when nothing of it runs any longer.
    pub fn cancel(&self) {
        self.cancel_with(false);
    }

    /// Cancels the task like [`TaskFuture::cancel`], and an interpreter that does not respond to
    /// the interrupt is killed. It can follow a plain cancel that was ignored.
    pub fn cancel_force(&self) {
        self.cancel_with(true);
    }

    /// Cancels the task; with `force`, an interpreter that does not respond to the interrupt is
    /// killed.
    pub fn cancel_with(&self, force: bool) {
        let still_runs = || self.handle.shared.with(|core| core.is_stopping(self.id.n));
        if !self.is_finished() || force && still_runs() {
            self.note_stop();
            self.handle.shared.with(|core| core.cancel(&[(self.id.n, self.id.n)], force));
        }
    }

    /// Returns when nothing of the task runs any longer: when it has ended, and, if it was
    /// cancelled while an engine had it, when the engine says so. A Rust function that does not
    /// look at its cancel may go on for long.
    ///
    /// # Errors
    /// [`ClientError::Disconnected`]: then nobody can tell.
    pub async fn stopped(&self) -> Result<(), ClientError> {
        self.note_stop();
        std::future::poll_fn(|context| {
            self.handle.shared.with(|core| core.poll_stopped(self.id.n, context.waker()))
        })
        .await
    }

    fn note_stop(&self) {
        self.is_stop_noted.store(true, Ordering::Relaxed);
        self.handle.shared.with(|core| core.watch_stop(self.id.n, self.key));
    }

    /// Streams what the task writes: what is kept of it so far, and then each piece as it comes,
    /// until the task's end.
    pub fn output(&self) -> OutputStream {
        let feed = self.handle.shared.with(|core| core.open_output(self.id.n, self.key));
        OutputStream::new(Arc::clone(&self.handle), self.id.n, feed)
    }

    /// Returns what the task has written to a stream so far. Once the future has resolved, it is in
    /// the report.
    pub fn written(&self, stream: Stream) -> Output {
        self.key.map_or_else(Output::default, |key| {
            self.handle.shared.with(|core| core.written(key, stream))
        })
    }

    /// Streams what the task publishes: the last that came, and then each as it comes, until the
    /// task's end.
    pub fn published(&self) -> PublishedStream {
        let feed = self.handle.shared.with(|core| core.open_published(self.id.n, self.key));
        PublishedStream::new(Arc::clone(&self.handle), self.id.n, feed)
    }

    /// Lets go of a result that stays at the broker: tasks that were submitted with it as an input
    /// still get it, nobody else can ask for it. The result of a task that has not ended will not
    /// stay, and does not come either. Returns false if there is nothing to let go of.
    pub fn release(&self) -> bool {
        self.handle.shared.with(|core| core.release(self.id.n))
    }

    /// The last of what the task published. Once the future has resolved, it is in the report.
    pub fn latest(&self) -> Option<Published> {
        self.handle.shared.with(|core| core.latest_published(self.key?))
    }
}

impl HasTaskId for TaskFuture {
    fn task_id(&self) -> TaskId {
        self.id
    }
}

impl Future for TaskFuture {
    type Output = TaskOutcome;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<<Self as Future>::Output> {
        let key = self.key.expect("a future is not polled after it resolved");
        let mut replaced = None;
        let shared = &self.handle.shared;
        let ended = ready!(shared.with(|core| core.poll_task(key, context.waker(), &mut replaced)));
        self.key = None;
        if ended.is_stop_due() {
            self.is_stop_noted.store(true, Ordering::Relaxed);
        }
        Poll::Ready(ended.into_result(self.id.session))
    }
}

impl Drop for TaskFuture {
    fn drop(&mut self) {
        let (n, key, shared) = (self.id.n, self.key.take(), &self.handle.shared);
        if key.is_some() || *self.is_stop_noted.get_mut() {
            // An end that nobody took may have been noted by the session itself.
            drop(shared.with(|core| (key.map(|key| core.forget_task(key)), core.forget_stop(n))));
        }
    }
}
