//! Distributions of durations: the number of them that lie in each of 160 ranges.
//!
//! The ranges are a quarter of an octave wide, from a microsecond to twelve days. So a percentile
//! is right to an eighth, and an addition is an increment.

use furlong_wire::message::{DURATION_RANGES, SpanSeen, duration_range, range_start_us};

/// A distribution of durations.
#[derive(Debug)]
pub struct Spans {
    counts: Box<[u32; DURATION_RANGES]>,
    count: u64,
    sum_us: u64,
}

impl Default for Spans {
    fn default() -> Self {
        Self { counts: Box::new([0; DURATION_RANGES]), count: 0, sum_us: 0 }
    }
}

impl Spans {
    /// Counts a duration.
    pub fn add(&mut self, us: u64) {
        let count = &mut self.counts[duration_range(us)];
        *count = count.saturating_add(1);
        self.count += 1;
        self.sum_us = self.sum_us.saturating_add(us);
    }

    /// The number of durations.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// The duration below which this share of all lies; 0 if there is none.
    pub fn quantile(&self, share: f64) -> u64 {
        let total: u64 = self.counts.iter().map(|count| u64::from(*count)).sum();
        let rank = (share * total as f64).ceil().max(1.0) as u64;
        let mut below = 0;
        for (range, count) in self.counts.iter().enumerate() {
            below += u64::from(*count);
            if below >= rank {
                return middle(range);
            }
        }
        0
    }

    /// Sum and percentiles, and all of it if that is wanted.
    pub fn seen(&self, ranges: bool) -> SpanSeen {
        let last = self.counts.iter().rposition(|count| *count > 0);
        let shown = if ranges { last.map_or(0, |last| last + 1) } else { 0 };
        SpanSeen {
            count: self.count,
            sum_us: self.sum_us,
            p50_us: self.quantile(0.5),
            p95_us: self.quantile(0.95),
            ranges: self.counts[..shown].to_vec(),
        }
    }
}

fn middle(range: usize) -> u64 {
    let first = range_start_us(range);
    first + (range_start_us(range + 1) - first) / 2
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn ranges_follow_each_other_and_each_holds_its_first() {
        for range in 0..DURATION_RANGES {
            assert_eq!(duration_range(range_start_us(range)), range);
            assert!(range_start_us(range) < range_start_us(range + 1));
            assert_eq!(duration_range(range_start_us(range + 1) - 1), range);
        }
        assert_eq!(duration_range(u64::MAX), DURATION_RANGES - 1);
        let mut spans = Spans::default();
        for us in [0, 5, 5] {
            spans.add(us);
        }
        assert_eq!(spans.seen(true).ranges, [1, 0, 0, 0, 0, 2]);
        assert!(spans.seen(false).ranges.is_empty());
    }

    proptest! {
        #[test]
        fn a_percentile_is_right_to_an_eighth(
            mut all in prop::collection::vec(0..1_u64 << 40, 1..200),
        ) {
            let mut spans = Spans::default();
            for us in &all {
                spans.add(*us);
            }
            all.sort_unstable();
            for share in [0.5, 0.95] {
                let rank = (share * all.len() as f64).ceil().max(1.0) as usize - 1;
                let (exact, found) = (all[rank], spans.quantile(share));
                prop_assert!(found.abs_diff(exact) <= exact / 8 + 1, "{found} for {exact}");
            }
            prop_assert_eq!(spans.seen(false).sum_us, all.iter().sum::<u64>());
        }
    }
}
