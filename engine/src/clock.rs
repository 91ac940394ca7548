//! The clock by which a process measures its jobs: microseconds, for the engine and its
//! interpreters the same.

use std::sync::LazyLock;
use std::time::Instant;

use rustix::time::{ClockId, clock_gettime};

/// The moment from which it counts, and the same by the system's clock, in nanoseconds.
static BEGINNING: LazyLock<(Instant, u64)> = LazyLock::new(|| {
    let now = clock_gettime(ClockId::Monotonic);
    (Instant::now(), now.tv_sec as u64 * NANOS_PER_SEC + now.tv_nsec as u64)
});

const NANOS_PER_SEC: u64 = 1_000_000_000;

/// The time now. It is never 0.
pub fn now_us() -> u64 {
    of_nanos(BEGINNING.0.elapsed().as_nanos() as u64)
}

/// A time that an interpreter has read from the system's monotonic clock.
pub fn of_monotonic(nanos: u64) -> u64 {
    of_nanos(nanos.saturating_sub(BEGINNING.1))
}

fn of_nanos(nanos: u64) -> u64 {
    nanos / 1000 + 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_ways_to_read_it_agree() {
        let before = now_us();
        let now = clock_gettime(ClockId::Monotonic);
        let read = of_monotonic(now.tv_sec as u64 * NANOS_PER_SEC + now.tv_nsec as u64);
        // The two clocks were read one after the other at the beginning.
        assert!(before <= read + 1000 && read <= now_us() + 1000);
        assert_eq!(of_monotonic(0), 1);
    }
}
