//! The broker looks for a moment for what comes next, before it sleeps.
//!
//! A client that submits short tasks one by one sends the next some 50 us after the last one's end.
//! A broker that sleeps in between has to be woken, and its processor too: 30 us on a virtual
//! machine. So when the last task assigned has ended it looks for [`LONGEST`] without sleeping,
//! where that has paid lately. Never while an engine works: the processor may be the engine's.

use std::cell::Cell;
use std::time::{Duration, Instant};

use furlong_link::spin::AdaptiveSpin;
use tokio::sync::Notify;

/// The maximum duration of a spin.
const LONGEST: Duration = Duration::from_micros(200);

/// The signals of the shell's tasks to the one that spins.
#[derive(Debug, Default)]
pub(super) struct SpinBeforeSleep {
    /// Reads that were worked off.
    turns: Cell<u64>,
    turned: Notify,
}

impl SpinBeforeSleep {
    /// Records that what a peer has sent is processed.
    pub(super) fn note_turn(&self) {
        self.turns.set(self.turns.get() + 1);
        self.turned.notify_one();
    }

    /// Lingers for ever.
    pub(super) async fn run(&self, is_at_work: impl Fn() -> bool) {
        let mut spin = AdaptiveSpin::new();
        loop {
            self.turned.notified().await;
            if !is_at_work() && spin.try_spin() {
                spin.record(self.look().await);
            }
        }
    }

    /// Keeps the thread awake until something comes; whether it came.
    async fn look(&self) -> bool {
        let (turns, began) = (self.turns.get(), Instant::now());
        while self.turns.get() == turns {
            if began.elapsed() >= LONGEST {
                return false;
            }
            std::thread::yield_now();
            tokio::task::yield_now().await;
        }
        true
    }
}
