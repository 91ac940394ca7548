//! Waiting for what has no handle to wait on.

use std::time::{Duration, Instant};

/// The time limit for something that should happen at once, on a machine that is busy with other
/// tests.
pub const SOON: Duration = Duration::from_secs(15);

/// Polls the condition until it holds; false if it does not before the deadline.
pub fn eventually(deadline: Duration, mut condition: impl FnMut() -> bool) -> bool {
    let end = Instant::now() + deadline;
    loop {
        if condition() {
            return true;
        }
        if Instant::now() >= end {
            return false;
        }
        std::thread::sleep(POLL);
    }
}

const POLL: Duration = Duration::from_millis(5);
