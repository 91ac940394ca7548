//! The tasks that have ended, for the one Python thread that calls their callbacks.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Poll;
use std::thread::{self, Thread};
use std::time::Duration;

use pyo3::prelude::*;

use crate::buffer::release_returned;
use crate::runtime::{limit_of, rest_until};

/// The reader is no main thread, which alone responds to signals.
const LONG: Duration = Duration::from_secs(3600);

/// Keys of tasks that have ended, in the order of their ends.
#[pyclass(frozen, module = "furlong._furlong")]
#[derive(Default)]
pub struct Completions {
    queue: Arc<Queue>,
}

/// The queue that tasks push to.
#[derive(Debug, Default)]
pub struct Queue {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    keys: VecDeque<u64>,
    reader: Option<Thread>,
    is_closed: bool,
}

impl Completions {
    /// The queue that a task is given.
    pub fn queue(&self) -> &Arc<Queue> {
        &self.queue
    }
}

#[pymethods]
impl Completions {
    #[new]
    fn new() -> Self {
        Self::default()
    }

    /// Waits for keys, and takes all that there are; an empty list after `close`, or after the
    /// timeout.
    #[pyo3(signature = (timeout=None))]
    fn take(&self, py: Python<'_>, timeout: Option<f64>) -> PyResult<Vec<u64>> {
        release_returned(py);
        let taken = rest_until(py, limit_of(timeout)?, LONG, || {
            let mut state = self.queue.lock();
            if state.keys.is_empty() && !state.is_closed {
                state.reader = Some(thread::current());
                return Poll::Pending;
            }
            state.reader = None;
            Poll::Ready(state.keys.drain(..).collect())
        })?;
        Ok(taken.unwrap_or_default())
    }

    /// Adds a key by hand.
    fn push(&self, key: u64) {
        self.queue.push(key);
    }

    /// Ends the reader's wait, now and later.
    fn close(&self) {
        let mut state = self.queue.lock();
        state.is_closed = true;
        if let Some(reader) = state.reader.take() {
            reader.unpark();
        }
    }
}

impl Queue {
    /// Adds a key, from any thread.
    pub fn push(&self, key: u64) {
        let mut state = self.lock();
        state.keys.push_back(key);
        if let Some(reader) = state.reader.take() {
            reader.unpark();
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
