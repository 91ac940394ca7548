//! A submitted task.

use std::cell::RefCell;
use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Wake, Waker};
use std::thread::{self, Thread};
use std::time::Duration;

use furlong_client::{EngineId, Stream, TaskFuture, TaskId, TaskOutcome};
use furlong_link::spin::AdaptiveSpin;
use pyo3::prelude::*;

use crate::buffer::release_returned;
use crate::completions::{Completions, Queue};
use crate::errors::client_error;
use crate::options::id_text;
use crate::outcome::{Outcome, PublishedParts, published_parts};
use crate::runtime::{Guarded, SIGNALS, driver, limit_of, note_vain_look, until, wait};
use crate::stream::OutputReader;

/// A task. Dropping it does not cancel it.
#[pyclass(frozen, module = "furlong._furlong")]
#[derive(Debug)]
pub struct Task {
    id: TaskId,
    engine: Option<EngineId>,
    state: Guarded<Mutex<State>>,
}

#[derive(Debug)]
struct State {
    future: TaskFuture,
    /// How it ended, until somebody asked.
    ended: Option<TaskOutcome>,
    /// The same, once somebody has asked: whom a signal interrupts asks again.
    outcome: Option<Py<Outcome>>,
    is_over: bool,
    /// The listeners for the end, once somebody waits.
    listeners: Option<Arc<Listeners>>,
}

impl Task {
    /// A task that was submitted just now.
    pub fn new(future: TaskFuture) -> Self {
        let (id, engine) = (furlong_client::HasTaskId::task_id(&future), future.engine());
        let state = State { future, ended: None, outcome: None, is_over: false, listeners: None };
        Self { id, engine, state: Guarded::new(Mutex::new(state)) }
    }

    /// Looks for the end for a moment without going to sleep, where that has been worth it lately:
    /// to wake a sleeping thread, and with it a processor, costs more than all the rest of a short
    /// task.
    fn look_for_a_moment(&self, py: Python<'_>) -> PyResult<()> {
        let told = {
            let mut state = self.lock()?;
            if state.is_over
                || !SPIN.with_borrow_mut(AdaptiveSpin::try_spin)
                || !state.future.is_recent()
            {
                return Ok(());
            }
            if state.poll_end(|_| ()) {
                return Ok(());
            }
            Arc::clone(state.listeners.get_or_insert_default())
        };
        let driver = driver(py)?;
        let was_told =
            py.detach(|| driver.spin_until(LONGEST, || told.is_told.load(Ordering::Acquire)));
        SPIN.with_borrow_mut(|spin| spin.record(was_told));
        Ok(())
    }

    fn lock(&self) -> PyResult<MutexGuard<'_, State>> {
        Ok(self.state.get()?.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl State {
    /// Takes notice of the end, if it has come. Else the listeners will be told of it.
    fn poll_end(&mut self, listeners: impl FnOnce(&Arc<Listeners>)) -> bool {
        if self.is_over {
            return true;
        }
        let told = Arc::clone(self.listeners.get_or_insert_default());
        listeners(&told);
        let waker = Waker::from(told);
        if let Poll::Ready(ended) =
            Pin::new(&mut self.future).poll(&mut Context::from_waker(&waker))
        {
            self.ended = Some(ended);
            self.is_over = true;
            self.listeners = None;
        }
        self.is_over
    }
}

#[pymethods]
impl Task {
    /// Its name.
    #[getter]
    fn id(&self) -> String {
        id_text(self.id)
    }

    /// Its number in its session.
    #[getter]
    fn number(&self) -> u64 {
        self.id.n.0
    }

    /// The engine that it was submitted to; none for the shared queue.
    #[getter]
    fn engine(&self) -> Option<u32> {
        self.engine.map(|engine| engine.0)
    }

    /// Returns true if it has ended.
    fn done(&self) -> PyResult<bool> {
        let state = self.lock()?;
        let is_done = state.is_over || state.future.is_finished();
        if !is_done {
            note_vain_look();
        }
        Ok(is_done)
    }

    /// Waits for its end, for so many seconds at most; whether it has ended.
    #[pyo3(signature = (timeout=None))]
    fn wait(&self, py: Python<'_>, timeout: Option<f64>) -> PyResult<bool> {
        self.state.get()?;
        let limit = limit_of(timeout)?;
        if limit.is_none_or(|limit| limit > LONGEST) {
            self.look_for_a_moment(py)?;
        }
        let ended = until(py, limit, SIGNALS, || {
            let ask =
                |state: &mut State| state.poll_end(|listeners| listeners.add(thread::current()));
            match self.lock().map(|mut state| ask(&mut state)) {
                Ok(false) => Poll::Pending,
                Ok(true) => Poll::Ready(Ok(())),
                Err(error) => Poll::Ready(Err(error)),
            }
        })?;
        if ended.is_none() {
            note_vain_look();
        }
        ended.transpose().map(|ended| ended.is_some())
    }

    /// Its end; none if it has not come.
    fn outcome(&self, py: Python<'_>) -> PyResult<Option<Py<Outcome>>> {
        release_returned(py);
        let mut state = self.lock()?;
        state.poll_end(|_| ());
        if let Some(ended) = state.ended.take() {
            state.outcome = Some(Py::new(py, Outcome::new(ended))?);
        }
        Ok(state.outcome.as_ref().map(|outcome| outcome.clone_ref(py)))
    }

    /// Adds the key to the completions when it has ended.
    fn notify(&self, py: Python<'_>, completions: &Completions, key: u64) -> PyResult<()> {
        let queue = completions.queue();
        if self.lock()?.poll_end(|listeners| listeners.subscribe(Arc::clone(queue), key)) {
            queue.push(key);
        } else {
            // Who waits by a callback sleeps elsewhere.
            driver(py)?.resume();
        }
        Ok(())
    }

    /// Cancels it; with `force`, an interpreter that does not respond to the interrupt is killed.
    #[pyo3(signature = (force=false))]
    fn cancel(&self, force: bool) -> PyResult<()> {
        self.lock()?.future.cancel_with(force);
        Ok(())
    }

    /// Waits until nothing of it runs any longer; whether that is so within the timeout.
    #[pyo3(signature = (timeout=None))]
    fn stopped(&self, py: Python<'_>, timeout: Option<f64>) -> PyResult<bool> {
        self.state.get()?;
        let limit = limit_of(timeout)?;
        let stopped = until(py, limit, SIGNALS, || {
            let polled = self.lock().map(|state| {
                let waker = Waker::from(Arc::new(Listeners::of(thread::current())));
                let stopped = std::pin::pin!(state.future.stopped());
                stopped.poll(&mut Context::from_waker(&waker))
            });
            match polled {
                Ok(Poll::Pending) => Poll::Pending,
                Ok(Poll::Ready(stopped)) => {
                    Poll::Ready(stopped.map_err(|error| client_error(py, &error)))
                }
                Err(error) => Poll::Ready(Err(error)),
            }
        })?;
        stopped.transpose().map(|stopped| stopped.is_some())
    }

    /// Lets go of a value that stays at the cluster, or is to stay there. Waits for nothing.
    fn release(&self) -> PyResult<()> {
        self.lock()?.future.release();
        Ok(())
    }

    /// Returns a reader of its output, as it comes.
    fn output(&self) -> PyResult<OutputReader> {
        Ok(OutputReader::new(self.lock()?.future.output()))
    }

    /// Returns what it has written to `stdout` or `stderr` so far.
    fn written(&self, stream: &str) -> PyResult<String> {
        let stream = if stream == "stderr" { Stream::Stderr } else { Stream::Stdout };
        let state = self.lock()?;
        let report = state.ended.as_ref().map(|ended| match ended {
            Ok(result) => &result.report,
            Err(failure) => &failure.report,
        });
        Ok(match (report, stream) {
            (None, stream) => state.future.written(stream).text(),
            (Some(report), Stream::Stdout) => report.stdout.text(),
            (Some(report), Stream::Stderr) => report.stderr.text(),
        })
    }

    /// The last of what it published so far.
    fn latest<'py>(&self, py: Python<'py>) -> PyResult<Option<PublishedParts<'py>>> {
        let latest = self.lock()?.future.latest();
        latest.map(|published| published_parts(py, &published)).transpose()
    }
}

/// The longest time that a thread polls for an end before it sleeps.
const LONGEST: Duration = Duration::from_micros(500);

thread_local! {
    /// The payoff of this thread's recent spins.
    static SPIN: RefCell<AdaptiveSpin> = RefCell::new(AdaptiveSpin::new());
}

/// The listeners for a task's end: threads that wait, and the readers of completions.
#[derive(Debug, Default)]
struct Listeners {
    is_told: AtomicBool,
    told: Mutex<Told>,
}

#[derive(Debug, Default)]
struct Told {
    threads: Vec<Thread>,
    queues: Vec<(Arc<Queue>, u64)>,
}

impl Listeners {
    fn of(thread: Thread) -> Self {
        let told = Mutex::new(Told { threads: vec![thread], queues: Vec::new() });
        Self { is_told: AtomicBool::new(false), told }
    }

    fn add(&self, thread: Thread) {
        let mut told = self.lock();
        if told.threads.iter().all(|known| known.id() != thread.id()) {
            told.threads.push(thread);
        }
    }

    fn subscribe(&self, queue: Arc<Queue>, key: u64) {
        self.lock().queues.push((queue, key));
    }

    fn lock(&self) -> MutexGuard<'_, Told> {
        self.told.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Wake for Listeners {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.is_told.store(true, Ordering::Release);
        let Told { threads, queues } = std::mem::take(&mut *self.lock());
        threads.iter().for_each(Thread::unpark);
        queues.iter().for_each(|(queue, key)| queue.push(*key));
    }
}

/// Waits for a future of the client, and turns its error into an exception.
pub fn answer<T>(
    py: Python<'_>,
    future: impl Future<Output = Result<T, furlong_client::ClientError>>,
) -> PyResult<T> {
    wait(py, future, None)?.expect("there is no limit").map_err(|error| client_error(py, &error))
}
