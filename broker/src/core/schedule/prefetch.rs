//! The number of tasks an engine may be assigned: above one only for kinds that were short lately,
//! and whose results it can hold.

use std::collections::BTreeMap;

/// The run times and result sizes of a session's kinds of tasks: for each, moving averages of the
/// last ones.
#[derive(Debug, Default)]
pub struct Kinds {
    averages: BTreeMap<u32, Averages>,
}

/// Eight times the averages, so that those of a no-op do not stick at their first value.
#[derive(Clone, Copy, Debug)]
struct Averages {
    run_us: u64,
    result_bytes: u64,
}

/// Kinds that are told apart in a session; tasks of any further kind are never prefetched.
const KINDS_MAX: usize = 256;
/// Work that an engine may have been assigned beyond the task that it runs, in microseconds by the
/// average of its kind.
const PREFETCH_WORK_US: u64 = 2_000;
/// Tasks of a kind that takes longer are given one by one.
const PREFETCH_TASK_US: u64 = 1_000;
/// Bytes of the results that are to be expected of what an engine has been assigned beyond one
/// task: should nobody read them, the engine holds them.
const PREFETCH_RESULT_BYTES: u64 = 4 << 20;
/// Tasks that an engine has at most.
pub const PREFETCH_MAX: u32 = 512;

impl Kinds {
    /// Learns from a task's end. Results that come inside their message count as nothing.
    pub fn handle_run(&mut self, kind: u32, run_us: u64, result_bytes: u64) {
        if self.averages.len() >= KINDS_MAX && !self.averages.contains_key(&kind) {
            return;
        }
        let sample = Averages {
            run_us: run_us.saturating_mul(8),
            result_bytes: result_bytes.saturating_mul(8),
        };
        let average = self.averages.entry(kind).or_insert(sample);
        let learn = |average: u64, sample: u64| {
            average.saturating_sub(average / 8).saturating_add(sample / 8)
        };
        average.run_us = learn(average.run_us, sample.run_us);
        average.result_bytes = learn(average.result_bytes, sample.result_bytes);
    }

    /// Returns the number of tasks of a kind that an engine may be assigned at once.
    pub fn prefetch(&self, kind: u32) -> u32 {
        let Some(&Averages { run_us, result_bytes }) = self.averages.get(&kind) else { return 1 };
        if run_us / 8 >= PREFETCH_TASK_US {
            return 1;
        }
        let by_time = (PREFETCH_WORK_US / (run_us / 8).max(1)).clamp(2, u64::from(PREFETCH_MAX));
        let by_bytes = if result_bytes < 8 {
            by_time
        } else {
            (PREFETCH_RESULT_BYTES / (result_bytes / 8)).max(1)
        };
        by_time.min(by_bytes) as u32
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_kinds_are_prefetched_long_and_unknown_ones_are_not() {
        let mut kinds = Kinds::default();
        assert_eq!(kinds.prefetch(1), 1);
        kinds.handle_run(1, 0, 0);
        assert_eq!(kinds.prefetch(1), PREFETCH_MAX);
        kinds.handle_run(2, 500, 0);
        assert_eq!(kinds.prefetch(2), 4);
        kinds.handle_run(3, 50_000, 0);
        assert_eq!(kinds.prefetch(3), 1);
    }

    #[test]
    fn a_kind_that_becomes_long_is_no_longer_prefetched() {
        let mut kinds = Kinds::default();
        kinds.handle_run(1, 10, 0);
        kinds.handle_run(1, 100_000, 0);
        assert_eq!(kinds.prefetch(1), 1);
        (0..100).for_each(|_| kinds.handle_run(1, 10, 0));
        assert!(kinds.prefetch(1) > 20);
    }

    #[test]
    fn what_has_large_results_is_given_ahead_as_far_as_an_engine_can_hold_them() {
        let mut kinds = Kinds::default();
        kinds.handle_run(1, 10, 300_000);
        assert_eq!(kinds.prefetch(1), 13);
        kinds.handle_run(2, 10, 100 << 20);
        assert_eq!(kinds.prefetch(2), 1);
        kinds.handle_run(3, 10, 2_000);
        assert_eq!(kinds.prefetch(3), 200);
    }

    #[test]
    fn kinds_beyond_the_bound_are_not_learnt() {
        let mut kinds = Kinds::default();
        (0..1_000).for_each(|kind| kinds.handle_run(kind, 1, 0));
        assert_eq!(kinds.averages.len(), KINDS_MAX);
        assert_eq!(kinds.prefetch(999), 1);
    }
}
