//! The clock by which a process measures its jobs, in microseconds, and those of its interpreters.

use std::sync::LazyLock;
use std::time::{Instant, SystemTime};

/// The moment from which it counts.
static BEGINNING: LazyLock<Instant> = LazyLock::new(Instant::now);

/// The time now.
pub fn now_us() -> u64 {
    BEGINNING.elapsed().as_micros() as u64
}

/// The clock of another process of this machine. Both say at what time of the system's clock theirs
/// were at 0: that is how they are compared, once, when the other process starts.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct OtherClock {
    /// So much later than this process's it was at 0.
    later_ns: i128,
}

impl OtherClock {
    /// The clock that was at 0 at that time: nanoseconds since 1970.
    pub fn new(zero_unix_ns: u64) -> Self {
        let elapsed = BEGINNING.elapsed().as_nanos() as i128;
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        let own_zero = now.map_or(0, |now| now.as_nanos() as i128) - elapsed;
        Self { later_ns: i128::from(zero_unix_ns) - own_zero }
    }

    /// A time of that clock, in nanoseconds, as one of this process's, in microseconds.
    pub fn read_us(&self, nanos: u64) -> u64 {
        let own = (i128::from(nanos) + self.later_ns).max(0) / 1000;
        u64::try_from(own).unwrap_or(u64::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_of_another_clock_is_the_same_moment_by_this_one() {
        now_us();
        let (theirs, unix) = (Instant::now(), SystemTime::now());
        let zero = unix.duration_since(SystemTime::UNIX_EPOCH).unwrap().as_nanos() as u64;
        let other = OtherClock::new(zero);
        let before = now_us();
        let read = other.read_us(theirs.elapsed().as_nanos() as u64);
        // Two clocks are read one after the other, on whatever machine.
        assert!(read.abs_diff(before) < 1_000_000, "{read} and {before}");
        assert!(other.read_us(5_000_000_000) >= other.read_us(0) + 4_999_999);
        assert_eq!(OtherClock { later_ns: -1 }.read_us(0), 0, "before this process began");
    }
}
