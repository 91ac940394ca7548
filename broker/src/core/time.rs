//! Time as the core knows it: an argument.

use std::time::Duration;

use furlong_wire::ids::BrokerStart;

/// A moment: microseconds since the broker's start, by a monotonic clock.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub struct Time(pub u64);

impl Time {
    /// The moment that much later.
    pub fn after(self, wait: Duration) -> Self {
        let micros = u64::try_from(wait.as_micros()).unwrap_or(u64::MAX);
        Self(self.0.saturating_add(micros))
    }

    /// Microseconds from an earlier moment to this one.
    pub fn micros_since(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0)
    }

    /// Microseconds since 1970, by the clock of the broker's start.
    pub fn unix_us(self, start: BrokerStart) -> u64 {
        start.0 + self.0
    }
}
