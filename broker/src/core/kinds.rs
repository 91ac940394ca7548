//! How long kinds of tasks take: short ones are given to engines ahead.

use std::collections::BTreeMap;

/// How long a session's kinds of tasks take: for each, a moving average of the last ones.
#[derive(Debug, Default)]
pub struct Kinds {
    averages_us: BTreeMap<u32, u64>,
}

/// Kinds that are told apart in a session; tasks of any further kind are never prefetched.
const KINDS_MAX: usize = 256;
/// Work that an engine may have in hand beyond the task that it runs, in microseconds by the average of its kind.
const PREFETCH_WORK_US: u64 = 2_000;
/// Tasks of a kind that takes longer are given one by one.
const PREFETCH_TASK_US: u64 = 1_000;
/// Tasks that an engine has at most.
pub const PREFETCH_MAX: u32 = 512;

impl Kinds {
    /// Learns from a task's end.
    pub fn handle_run(&mut self, kind: u32, run_us: u64) {
        if self.averages_us.len() >= KINDS_MAX && !self.averages_us.contains_key(&kind) {
            return;
        }
        // In 1/8 microseconds, so that the average of a no-op does not stick at its first value.
        let sample = run_us.saturating_mul(8);
        let average = self.averages_us.entry(kind).or_insert(sample);
        *average = average.saturating_sub(*average / 8).saturating_add(sample / 8);
    }

    /// How many tasks of a kind an engine may have at once.
    pub fn prefetch(&self, kind: u32) -> u32 {
        match self.averages_us.get(&kind).map(|average| average / 8) {
            Some(average) if average < PREFETCH_TASK_US => u32::try_from(PREFETCH_WORK_US / average.max(1))
                .map_or(PREFETCH_MAX, |tasks| tasks.clamp(2, PREFETCH_MAX)),
            _ => 1,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_kinds_are_prefetched_long_and_unknown_ones_are_not() {
        let mut kinds = Kinds::default();
        assert_eq!(kinds.prefetch(1), 1);
        kinds.handle_run(1, 0);
        assert_eq!(kinds.prefetch(1), PREFETCH_MAX);
        kinds.handle_run(2, 500);
        assert_eq!(kinds.prefetch(2), 4);
        kinds.handle_run(3, 50_000);
        assert_eq!(kinds.prefetch(3), 1);
    }

    #[test]
    fn a_kind_that_becomes_long_is_no_longer_prefetched() {
        let mut kinds = Kinds::default();
        kinds.handle_run(1, 10);
        kinds.handle_run(1, 100_000);
        assert_eq!(kinds.prefetch(1), 1);
        (0..100).for_each(|_| kinds.handle_run(1, 10));
        assert!(kinds.prefetch(1) > 20);
    }

    #[test]
    fn kinds_beyond_the_bound_are_not_learnt() {
        let mut kinds = Kinds::default();
        (0..1_000).for_each(|kind| kinds.handle_run(kind, 1));
        assert_eq!(kinds.averages_us.len(), KINDS_MAX);
        assert_eq!(kinds.prefetch(999), 1);
    }
}
