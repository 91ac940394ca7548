//! Blocking waits of Python threads on the network, and what is left of them after a fork.

use std::future::Future;
use std::pin::pin;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Wake, Waker};
use std::thread::{self, Thread};
use std::time::{Duration, Instant};

use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;
use tokio::sync::oneshot;

use crate::driver::Driver;

/// The time that a waiting thread sleeps before it checks for signals: Ctrl-C takes effect within
/// this time.
pub const SIGNALS: Duration = Duration::from_millis(50);

/// Counts forks: what was made before the last one is of the parent, and its threads are not here.
static GENERATION: AtomicU64 = AtomicU64::new(0);

/// The driver of this process's clients, and the fork that it was made after. Locked only with the
/// interpreter's lock, so that no fork finds it locked.
static DRIVER: Mutex<Option<(u64, Arc<Driver>)>> = Mutex::new(None);

/// Tells this process that it is the child of a fork. For `os.register_at_fork`.
#[pyfunction]
pub fn after_fork() {
    GENERATION.fetch_add(1, Ordering::Relaxed);
}

/// Threads of this process that wait for what the network brings, for a caller.
static WAITING: AtomicUsize = AtomicUsize::new(0);

/// The number of threads of this process that wait for tasks, or for answers of the broker.
#[pyfunction]
pub fn waiting() -> usize {
    WAITING.load(Ordering::Relaxed)
}

/// How often this process has looked for an end that had not come, and did not wait for it.
static VAIN_LOOKS: AtomicU64 = AtomicU64::new(0);

/// Notes that an end was looked for which has not come.
pub fn note_vain_look() {
    VAIN_LOOKS.fetch_add(1, Ordering::Relaxed);
}

/// How often this process has looked for an end that had not come.
#[pyfunction]
pub fn vain_looks() -> u64 {
    VAIN_LOOKS.load(Ordering::Relaxed)
}

/// A thread that waits for a caller, for as long as this lives.
struct Waits;

impl Waits {
    fn begin() -> Self {
        WAITING.fetch_add(1, Ordering::Relaxed);
        Self
    }
}

impl Drop for Waits {
    fn drop(&mut self) {
        WAITING.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The fork that something was made after.
#[derive(Clone, Copy, Debug)]
pub struct Origin(u64);

impl Origin {
    /// Now.
    pub fn now() -> Self {
        Self(GENERATION.load(Ordering::Relaxed))
    }

    /// Returns true if this process has forked off since: then a lock inside may be held by a
    /// thread that is not here.
    pub fn is_foreign(self) -> bool {
        self.0 != GENERATION.load(Ordering::Relaxed)
    }

    /// # Errors
    /// `RuntimeError` in a child.
    pub fn check(self) -> PyResult<()> {
        if self.is_foreign() {
            let text = "this client was connected before the process forked, and the connection \
                        is the parent's; connect a new Client in the child";
            return Err(PyRuntimeError::new_err(text));
        }
        Ok(())
    }
}

/// A value of the parent's is leaked in a child, as dropping it may wait for a lock for ever.
#[derive(Debug)]
pub struct Guarded<T> {
    /// There until it is dropped.
    value: Option<T>,
    origin: Origin,
}

impl<T> Guarded<T> {
    /// Guards a value that is made now.
    pub fn new(value: T) -> Self {
        Self { value: Some(value), origin: Origin::now() }
    }

    /// # Errors
    /// `RuntimeError` in a child.
    pub fn get(&self) -> PyResult<&T> {
        self.origin.check()?;
        Ok(self.value.as_ref().expect("it is there until it is dropped"))
    }
}

impl<T> Drop for Guarded<T> {
    #[expect(
        clippy::disallowed_methods,
        reason = "dropping what the parent's threads may have locked can block"
    )]
    fn drop(&mut self) {
        if self.origin.is_foreign() {
            std::mem::forget(self.value.take());
        }
    }
}

/// Returns the driver of this process's clients.
pub fn driver(_: Python<'_>) -> PyResult<Arc<Driver>> {
    let mut driver = DRIVER.lock().unwrap_or_else(PoisonError::into_inner);
    let generation = GENERATION.load(Ordering::Relaxed);
    if let Some((of, driver)) = &*driver
        && *of == generation
    {
        return Ok(Arc::clone(driver));
    }
    let failed = |error| {
        PyRuntimeError::new_err(format!(
            "the client's background thread cannot be started: {error}"
        ))
    };
    let started = Driver::start().map_err(failed)?;
    // A parent's is only forgotten: the thread that holds it does not exist here.
    *driver = Some((generation, Arc::clone(&started)));
    Ok(started)
}

/// Runs a future on the network's thread, and waits for it.
pub fn run<T: Send + 'static>(
    py: Python<'_>,
    future: impl Future<Output = T> + Send + 'static,
) -> PyResult<T> {
    let (send, receive) = oneshot::channel();
    driver(py)?.handle().spawn(async move { drop(send.send(future.await)) });
    let received = wait(py, receive, None)?.expect("there is no limit");
    received.map_err(|_| PyRuntimeError::new_err("the client's background thread has ended"))
}

/// Wakes a thread by unparking it.
struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.0.unpark();
    }
}

thread_local! {
    static WAKER: Waker = Waker::from(Arc::new(Unpark(thread::current())));
}

/// Polls a future of the client on this thread until it is ready, without the interpreter's lock
/// meanwhile. None if it is not ready within the limit.
///
/// # Errors
/// The exception that a signal handler raises: `KeyboardInterrupt`. The future is dropped then.
pub fn wait<F: Future>(
    py: Python<'_>,
    future: F,
    limit: Option<Duration>,
) -> PyResult<Option<F::Output>> {
    let mut future = pin!(future);
    let waker = WAKER.with(Waker::clone);
    until(py, limit, SIGNALS, || future.as_mut().poll(&mut Context::from_waker(&waker)))
}

/// The same as [`rest_until`] for a caller who wants to go on: it counts as one that waits.
pub fn until<T>(
    py: Python<'_>,
    limit: Option<Duration>,
    pause: Duration,
    ask: impl FnMut() -> Poll<T>,
) -> PyResult<Option<T>> {
    let _waits = Waits::begin();
    rest_until(py, limit, pause, ask)
}

/// Asks until there is an answer: after each unparking of this thread, and after each pause, when
/// signals are obeyed. None if there is no answer within the limit.
pub fn rest_until<T>(
    py: Python<'_>,
    limit: Option<Duration>,
    pause: Duration,
    mut ask: impl FnMut() -> Poll<T>,
) -> PyResult<Option<T>> {
    let mut began = None;
    loop {
        if let Poll::Ready(answer) = ask() {
            return Ok(Some(answer));
        }
        let began = *began.get_or_insert_with(Instant::now);
        let left = limit.map(|limit| limit.saturating_sub(began.elapsed()));
        if left.is_some_and(|left| left.is_zero()) {
            return Ok(None);
        }
        let driver = driver(py)?;
        py.detach(|| {
            driver.resume();
            thread::park_timeout(left.map_or(pause, |left| left.min(pause)));
        });
        py.check_signals()?;
    }
}

/// A limit in seconds, as Python gives it: none, or a negative one, is no limit.
///
/// # Errors
/// `ValueError` for what is no time.
pub fn limit_of(seconds: Option<f64>) -> PyResult<Option<Duration>> {
    match seconds {
        Some(seconds) if seconds.is_nan() => {
            Err(pyo3::exceptions::PyValueError::new_err("a timeout is a number"))
        }
        Some(seconds) if seconds >= 0.0 => Ok(Duration::try_from_secs_f64(seconds).ok()),
        _ => Ok(None),
    }
}
