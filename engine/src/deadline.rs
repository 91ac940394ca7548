//! The end of an engine process that is known beforehand, and what it does before that.

use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant, SystemTime};

use crate::batch;
use crate::core::End;

/// How long before its end a process stops what it runs: time for the interpreters to end, and for
/// a batch system that counts roughly.
pub(crate) const STOP_BEFORE: Duration = Duration::from_secs(15);
/// The bounds of the time before its end from when on it takes nothing new, unless that is said.
const DRAIN_BEFORE: (Duration, Duration) = (Duration::from_secs(30), Duration::from_mins(10));

/// What is said of the end on the command line.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct TimeLimit {
    /// The time that the process has, from its start on.
    pub(crate) limit: Option<Duration>,
    /// How long before its end it takes nothing new.
    pub(crate) drain_before: Option<Duration>,
}

/// The end, once it is known, by the time since the process began.
#[derive(Clone, Debug, Default)]
pub(crate) struct Deadline(Arc<OnceLock<Option<End>>>);

impl TimeLimit {
    /// The end of a process that began so long ago and has so much left.
    fn end(self, began: Duration, left: Duration) -> End {
        let tenth = (began + left) / 10;
        let usual = tenth.clamp(DRAIN_BEFORE.0, DRAIN_BEFORE.1);
        let before = self.drain_before.unwrap_or(usual).max(STOP_BEFORE);
        let ends_at = began + left;
        End {
            drain_at: ends_at.saturating_sub(before),
            stop_at: ends_at.saturating_sub(STOP_BEFORE),
        }
    }

    /// Finds the end: as it was said, else as the batch system says it, which takes a while.
    pub(crate) async fn find(self, began: Instant, deadline: Deadline) {
        let end = if let Some(limit) = self.limit {
            Some(self.end(Duration::ZERO, limit))
        } else {
            let ask = tokio::task::spawn_blocking(|| {
                let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
                batch::time_left(&batch::of_process, now.unwrap_or_default())
            });
            let left = ask.await.ok().flatten();
            left.map(|left| self.end(began.elapsed(), left))
        };
        // Nobody else sets it.
        let _ = deadline.0.set(end);
    }
}

impl Deadline {
    /// The end, if it is known, and there is one.
    pub(crate) fn end(&self) -> Option<End> {
        self.0.get().copied().flatten()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_drains_a_tenth_before_the_end_within_bounds_and_stops_fifteen_seconds_before() {
        let end = |limit_s, before_s: Option<u64>| {
            let drain_before = before_s.map(Duration::from_secs);
            let limit = TimeLimit { limit: None, drain_before };
            let End { drain_at, stop_at } = limit.end(Duration::ZERO, Duration::from_secs(limit_s));
            (drain_at.as_secs(), stop_at.as_secs())
        };
        assert_eq!(end(3_600, None), (3_240, 3_585));
        assert_eq!(end(60, None), (30, 45));
        assert_eq!(end(86_400, None), (85_800, 86_385));
        assert_eq!(end(60, Some(20)), (40, 45));
        assert_eq!(end(60, Some(1)), (45, 45), "it drains before it stops");
        assert_eq!(end(10, None), (0, 0));
    }
}
