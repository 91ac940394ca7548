//! The number of engines that a pool is to have: fixed, or as many as there is work for.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Demand must last so long before engines are started for it.
const UP_AFTER_MS: u64 = 5_000;
/// In this time, the number of engines at most doubles.
const DOUBLING_MS: u64 = 60_000;
/// The first step from few engines.
const FIRST_STEP: u32 = 8;
/// The most engines of a pool.
pub const ENGINES_MAX: u32 = 100_000;

/// The engines that were asked for: `64`, or `0..128`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Wanted {
    /// The least.
    pub min: u32,
    /// The most.
    pub max: u32,
}

impl Wanted {
    /// Exactly so many.
    pub fn exactly(engines: u32) -> Self {
        Self { min: engines, max: engines }
    }

    /// Returns true if the number follows the work.
    pub fn is_elastic(self) -> bool {
        self.min < self.max
    }
}

impl fmt::Display for Wanted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_elastic() {
            write!(f, "{}..{}", self.min, self.max)
        } else {
            write!(f, "{}", self.min)
        }
    }
}

impl FromStr for Wanted {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let number = |text: &str| text.trim().parse::<u32>().ok().filter(|n| *n <= ENGINES_MAX);
        let (min, max) = text.split_once("..").unwrap_or((text, text));
        let wanted = number(min).zip(number(max)).map(|(min, max)| Self { min, max });
        wanted.filter(|wanted| wanted.min <= wanted.max).ok_or_else(|| {
            format!("write it as a number of engines up to {ENGINES_MAX}, or as a range: 0..64")
        })
    }
}

/// The goal of an elastic pool. It rises with the work, slowly; engines leave by themselves when
/// they have nothing to do, so it never makes anybody leave.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Goal {
    engines: u32,
    /// The time since which there has been more work than this.
    short_since_ms: Option<u64>,
    /// The start of this minute, and the goal then.
    minute: (u64, u32),
}

impl Goal {
    /// The engines to have: within the range, whatever the work.
    pub fn engines(&self, wanted: Wanted) -> u32 {
        if wanted.is_elastic() { self.engines.clamp(wanted.min, wanted.max) } else { wanted.max }
    }

    /// There are so many tasks, running or queued, for engines of `per_job` a job.
    pub fn handle_tasks(&mut self, now_ms: u64, tasks: u32, wanted: Wanted, per_job: u32) {
        let desired = tasks.clamp(wanted.min, wanted.max);
        self.engines = self.engines.clamp(wanted.min, wanted.max);
        if desired <= self.engines {
            (self.engines, self.short_since_ms) = (desired, None);
            return;
        }
        let since = *self.short_since_ms.get_or_insert(now_ms);
        if now_ms < since + UP_AFTER_MS {
            return;
        }
        if now_ms >= self.minute.0 + DOUBLING_MS {
            self.minute = (now_ms, self.engines);
        }
        let step = self.minute.1.saturating_mul(2).max(per_job).max(FIRST_STEP);
        self.engines = desired.min(step.max(self.engines));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn engines_are_a_number_or_a_range() {
        assert_eq!("64".parse(), Ok(Wanted::exactly(64)));
        assert_eq!("0..8".parse(), Ok(Wanted { min: 0, max: 8 }));
        assert_eq!("0..8".parse::<Wanted>().unwrap().to_string(), "0..8");
        for wrong in ["", "x", "8..1", "1..", "-1", "100001"] {
            assert!(wrong.parse::<Wanted>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn goal_rises_late_and_slowly_and_falls_at_once() {
        let wanted = Wanted { min: 0, max: 100 };
        let mut goal = Goal::default();
        let mut at = |second: u64, tasks| {
            goal.handle_tasks(100_000 + second * 1_000, tasks, wanted, 1);
            goal.engines(wanted)
        };
        assert_eq!((at(0, 50), at(4, 50), at(5, 50), at(64, 50)), (0, 0, 8, 8));
        assert_eq!((at(65, 50), at(124, 50), at(125, 50), at(185, 500)), (16, 16, 32, 64));
        assert_eq!((at(186, 0), at(187, 50), at(190, 50)), (0, 0, 0));
    }
}
