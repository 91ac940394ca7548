//! The time until all is done, as a range.
//!
//! What is to come of each kind, by the mean of its last runs, over the engines that work: that is
//! the middle. The spread of the runs makes it a range. No range is better than a wrong one: where
//! a kind has ended fewer than ten times, it is not known, and the sum is not where such kinds are
//! over a tenth of it.

use super::kinds::Kind;

/// Ends of a kind from which on its runs are known.
const ENDS_LEAST: u64 = 10;
/// Standard deviations on each side of the middle: four of five lie between.
const DEVIATIONS: f64 = 1.3;
/// The share of tasks whose kinds are not known, from which on nothing is said.
const UNKNOWN_MOST: f64 = 0.1;

/// What is to come of a kind.
#[derive(Clone, Copy, PartialEq, Debug, Default)]
pub struct Work {
    tasks: f64,
    unknown: f64,
    mean_us: f64,
    variance: f64,
    /// The longest time that a task which runs now is to be expected to go on.
    longest_us: f64,
}

impl Work {
    /// What is to come of a kind of which so many tasks run, the oldest for so long.
    pub fn of(kind: &Kind, running: u32, oldest_us: u64) -> Self {
        let tasks = kind.unfinished() as f64;
        if tasks == 0.0 {
            return Self::default();
        }
        if kind.run.count() < ENDS_LEAST {
            return Self { tasks, unknown: tasks, ..Self::default() };
        }
        let mean = f64::from(kind.recent.mean_us);
        // Those that run have had half of their time, as it comes.
        let left = (tasks - 0.5 * f64::from(running)).max(0.0);
        let longest = kind.run.quantile(0.95).saturating_sub(oldest_us);
        Self {
            tasks,
            unknown: 0.0,
            mean_us: left * mean,
            // That of their sum, and that of the mean, which is known from so many.
            variance: left * f64::from(kind.recent.variance) * (1.0 + left / kind.recent.known()),
            longest_us: if running > 0 { longest as f64 } else { 0.0 },
        }
    }

    /// The work of two kinds.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        Self {
            tasks: self.tasks + other.tasks,
            unknown: self.unknown + other.unknown,
            mean_us: self.mean_us + other.mean_us,
            variance: self.variance + other.variance,
            longest_us: self.longest_us.max(other.longest_us),
        }
    }

    /// The time until it is done where so many engines work at it: at least and at most, in
    /// microseconds. None if too little is known.
    pub fn left(self, engines: u32) -> Option<(u64, u64)> {
        if self.tasks == 0.0 {
            return Some((0, 0));
        }
        if engines == 0 || self.unknown > UNKNOWN_MOST * self.tasks {
            return None;
        }
        let engines = f64::from(engines).min(self.tasks);
        let middle = self.mean_us / engines;
        // Not all engines end at once: the last one has half a task more, on average.
        let tail = self.mean_us / self.tasks / 2.0;
        let spread = DEVIATIONS * self.variance.sqrt() / engines;
        let least = (middle - spread).max(0.0);
        let most = (middle + spread + tail).max(self.longest_us);
        Some((least as u64, most as u64))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::watch::kinds::Kinds;
    use crate::core::watch::tests::{OWNER, end_after};
    use furlong_wire::message::Runtime;

    #[test]
    fn little_is_known_until_ten_have_ended() {
        let mut kinds = Kinds::default();
        let id = kinds.find(OWNER, Runtime::Python, "f");
        kinds.submitted(id, 100, 0);
        for ended in 0..100 {
            let left = Work::of(kinds.get(id), 1, 0).left(2);
            assert_eq!(left.is_some(), ended >= ENDS_LEAST, "after {ended}: {left:?}");
            kinds.ended(&end_after(id, 1_000), 0);
        }
        assert_eq!(Work::of(kinds.get(id), 0, 0).left(0), Some((0, 0)));
    }

    /// Tasks with times from a wide distribution on a few engines, as they would run: the truth is
    /// within the range in most of the histories, whenever one looks.
    #[test]
    fn the_truth_lies_in_the_range_three_times_of_four() {
        let (mut seed, mut looks, mut right) = (1_u64, 0, 0);
        let mut random = move || {
            seed = seed
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            (seed >> 33) as f64 / (1_u64 << 31) as f64
        };
        for history in 0..200 {
            let engines = 1 + history % 7;
            let mut kinds = Kinds::default();
            let id = kinds.find(OWNER, Runtime::Python, "f");
            let tasks = 200;
            kinds.submitted(id, tasks, 0);
            let wide = 1.0 + (history % 5) as f64;
            let lasts: Vec<u64> =
                (0..tasks).map(|_| (1e4 * (1.0 + wide * random() * random())) as u64).collect();
            // When each engine is free, and what it runs until then.
            let mut free = vec![0_u64; engines];
            let mut ends: Vec<(u64, u64, u64)> = Vec::new();
            for last in &lasts {
                let engine = (0..engines).min_by_key(|engine| free[*engine]).unwrap();
                ends.push((free[engine] + last, free[engine], *last));
                free[engine] += last;
            }
            ends.sort_unstable();
            let over = ends.last().unwrap().0;
            for (ended, (at, _, last)) in ends.iter().enumerate() {
                kinds.ended(&end_after(id, *last), 0);
                if ended % 20 != 19 || ended + 1 == ends.len() {
                    continue;
                }
                let running = ends.iter().filter(|(end, began, _)| began <= at && end > at);
                let running: Vec<u64> = running.map(|(_, began, _)| at - began).collect();
                let oldest = running.iter().copied().max().unwrap_or(0);
                let work = Work::of(kinds.get(id), running.len() as u32, oldest);
                let (least, most) = work.left(running.len() as u32).unwrap();
                looks += 1;
                right += u32::from((least..=most).contains(&(over - at)));
            }
        }
        assert!(f64::from(right) >= 0.75 * f64::from(looks), "{right} of {looks}");
    }
}
