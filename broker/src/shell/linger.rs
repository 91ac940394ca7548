//! The broker looks for a moment for what comes next, before it sleeps.
//!
//! Who submits one short task after the other sends the next one some 50 us after the last one's end. A broker that
//! sleeps in between has to be woken, and its processor too: 30 us on a virtual machine. So when the last task in hand
//! has ended it looks for [`LONGEST`] without sleeping, where that has paid lately. Never while an engine works: the
//! processor may be the engine's.

use std::cell::Cell;
use std::time::{Duration, Instant};

use furlong_link::worth::Worth;
use tokio::sync::Notify;

/// How long it looks.
const LONGEST: Duration = Duration::from_micros(200);

/// What the shell's tasks tell the one that lingers.
#[derive(Debug, Default)]
pub(super) struct Linger {
    /// Reads that were worked off.
    turns: Cell<u64>,
    turned: Notify,
}

impl Linger {
    /// What a peer has sent is worked off.
    pub(super) fn note_turn(&self) {
        self.turns.set(self.turns.get() + 1);
        self.turned.notify_one();
    }

    /// Lingers for ever.
    pub(super) async fn run(&self, is_at_work: impl Fn() -> bool) {
        let mut worth = Worth::new();
        loop {
            self.turned.notified().await;
            if !is_at_work() && worth.is_worth_it() {
                worth.note(self.look().await);
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
