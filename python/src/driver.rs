//! The choice of who drives the network: a background thread, or for the moment the thread that
//! waits for a short task.
//!
//! To hand a message to another thread, and to be woken by it when the answer is there, costs two
//! wakeups for each call, and often wakes a processor. So while a thread makes one short call after
//! the other, or submits many in a burst, the background thread steps aside, and the caller writes
//! and reads itself. It is back when nobody has driven for [`PAUSE`], or at once when a thread goes
//! to sleep over what it waits for.

use std::io;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread::{self, Thread};
use std::time::{Duration, Instant};

use tokio::runtime::{Builder, Handle, Runtime};
use tokio::sync::Notify;

/// After so long without anybody who drives, the background thread does: what comes while callers
/// compute, and nobody sleeps over it, is so late at most.
const PAUSE: Duration = Duration::from_millis(1);
/// Submits that come within this of each other are a burst; those of a long one go together when
/// the last batch is so old.
const BURST_GAP: Duration = Duration::from_micros(100);
/// So many submits make a burst long.
const BURST_LONG: u32 = 8;

/// The runtime of the clients of this process.
#[derive(Debug)]
pub struct Driver {
    runtime: Runtime,
    background: OnceLock<Thread>,
    /// True if the background thread leaves the driving to callers.
    is_yielding: AtomicBool,
    /// Tells it so.
    yielded: Notify,
    /// The time at which a caller drove last, in microseconds since the start.
    driven_us: AtomicU64,
    started: Instant,
    /// The time of the last submit.
    submitted_us: AtomicU64,
    /// Submits of the present burst.
    burst: AtomicU32,
}

impl Driver {
    /// Starts the background thread, which lives as long as the process.
    ///
    /// # Errors
    /// The system's.
    pub fn start() -> io::Result<Arc<Self>> {
        let driver = Arc::new(Self {
            runtime: Builder::new_current_thread().enable_all().build()?,
            background: OnceLock::new(),
            is_yielding: AtomicBool::new(false),
            yielded: Notify::new(),
            driven_us: AtomicU64::new(0),
            started: Instant::now(),
            submitted_us: AtomicU64::new(0),
            burst: AtomicU32::new(0),
        });
        let driving = Arc::clone(&driver);
        let thread =
            thread::Builder::new().name("furlong-client".into()).spawn(move || driving.run())?;
        driver.background.get_or_init(|| thread.thread().clone());
        Ok(driver)
    }

    /// The runtime on which futures are spawned.
    pub fn handle(&self) -> &Handle {
        self.runtime.handle()
    }

    /// The background thread.
    fn run(&self) {
        loop {
            self.runtime.block_on(async {
                while !self.is_yielding.load(Ordering::Acquire) {
                    self.yielded.notified().await;
                }
            });
            while self.is_yielding.load(Ordering::Acquire) {
                thread::park_timeout(PAUSE.saturating_sub(self.since_driven()));
                if self.since_driven() >= PAUSE {
                    self.is_yielding.store(false, Ordering::Release);
                }
            }
        }
    }

    /// The background thread shall drive, and at once: this thread goes to sleep.
    pub fn resume(&self) {
        self.burst.store(0, Ordering::Relaxed);
        if self.is_yielding.swap(false, Ordering::AcqRel)
            && let Some(background) = self.background.get()
        {
            background.unpark();
        }
    }

    /// Something was submitted. Whether the caller shall write it, as the background thread does
    /// not. Who submits many in a quick burst drives, and what it submits goes in batches.
    pub fn note_submit(&self) -> bool {
        let is_in_burst = self.extend_burst() >= BURST_LONG;
        if is_in_burst {
            self.yield_to_caller();
        }
        self.is_yielding.load(Ordering::Acquire)
            && (!is_in_burst || self.since_driven() >= BURST_GAP)
    }

    /// Writes what waits to be written.
    pub fn write(&self) {
        self.runtime.block_on(tokio::task::yield_now());
        self.note_driven();
    }

    /// Waits without going to sleep until something has come, within a limit. Whether it came.
    pub fn spin_until(&self, limit: Duration, has_come: impl Fn() -> bool) -> bool {
        self.burst.store(0, Ordering::Relaxed);
        let end = Instant::now() + limit;
        let drives = self.is_yielding.load(Ordering::Acquire);
        let has_come = if drives {
            self.runtime.block_on(async {
                while !has_come() && give_way(end) {
                    tokio::task::yield_now().await;
                }
                has_come()
            })
        } else {
            while !has_come() && give_way(end) {}
            has_come()
        };
        // Who waits again so soon after the last time drives from the next time on.
        if has_come && self.since_driven() < PAUSE {
            self.yield_to_caller();
        }
        self.note_driven();
        has_come
    }

    /// The background thread shall leave the driving to callers from now on.
    fn yield_to_caller(&self) {
        if !self.is_yielding.swap(true, Ordering::AcqRel) {
            self.note_driven();
            self.yielded.notify_one();
        }
    }

    /// Lengthens the burst; returns the number of submits before this one, each soon after the
    /// last, without a wait.
    fn extend_burst(&self) -> u32 {
        let now_us = self.now_us();
        let gap_us = now_us.saturating_sub(self.submitted_us.swap(now_us, Ordering::Relaxed));
        if gap_us >= BURST_GAP.as_micros() as u64 {
            self.burst.store(0, Ordering::Relaxed);
        }
        self.burst.fetch_add(1, Ordering::Relaxed)
    }

    fn now_us(&self) -> u64 {
        self.started.elapsed().as_micros() as u64
    }

    fn note_driven(&self) {
        self.driven_us.store(self.now_us(), Ordering::Relaxed);
    }

    fn since_driven(&self) -> Duration {
        Duration::from_micros(self.now_us().saturating_sub(self.driven_us.load(Ordering::Relaxed)))
    }
}

/// Lets others have the processor for a moment. Whether there is time left.
fn give_way(end: Instant) -> bool {
    thread::yield_now();
    Instant::now() < end
}
