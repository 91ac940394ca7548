//! The integers that engines had, retained over a restart of the broker so that engines get theirs
//! back.

use std::collections::{BTreeMap, BTreeSet};

use furlong_wire::ids::{EngineId, EngineUuid};
use serde::{Deserialize, Serialize};

/// The information about engines that a later broker should know.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Roster {
    /// The next integer to give.
    pub next: u32,
    /// Engines by integer.
    pub engines: BTreeMap<EngineId, EngineUuid>,
    /// Smaller integers that nobody has had, since larger ones were asked for.
    pub unused: Unused,
    /// Those that were connected or awaited: they may come back.
    pub here: BTreeSet<EngineId>,
}

/// A change of a roster. So ten thousand engines that come or go cost ten thousand lines, and not
/// as many copies of all.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Change {
    /// An engine is here.
    #[serde(rename = "here")]
    Here(EngineId, EngineUuid),
    /// It is no longer waited for. If it comes back after all, it gets its integer back.
    #[serde(rename = "away")]
    Away(EngineId),
    /// It will not come back.
    #[serde(rename = "left")]
    Left(EngineId),
}

/// Integers that nobody has had, as runs: the first and the last of each.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Unused(BTreeMap<u32, u32>);

/// Runs that are remembered: of more, the smallest integers are never given.
const UNUSED_RUNS_MAX: usize = 1024;

impl Roster {
    /// Takes a change in.
    pub fn apply(&mut self, change: Change) {
        match change {
            Change::Here(id, uuid) => {
                // One that was only away has its integer: it is not taken a second time.
                if !self.engines.contains_key(&id) {
                    self.unused.take(&mut self.next, id);
                }
                self.engines.insert(id, uuid);
                self.here.insert(id);
            }
            Change::Away(id) => _ = self.here.remove(&id),
            Change::Left(id) => _ = self.engines.remove(&id),
        }
    }
}

impl Unused {
    /// Returns true if nobody has had an integer, though larger ones were given.
    pub fn contains(&self, EngineId(id): EngineId) -> bool {
        self.0.range(..=id).next_back().is_some_and(|(_, last)| id <= *last)
    }

    /// An integer is given: one of these, or `next`, or one beyond, whereupon those between are
    /// unused.
    pub fn take(&mut self, next: &mut u32, EngineId(id): EngineId) {
        if id >= *next {
            if *next < id {
                // Kept as a run: MPI ranks come in any order, and each is to get its own.
                self.0.insert(*next, id - 1);
            }
            *next = id + 1;
        } else if let Some((&first, &last)) = self.0.range(..=id).next_back()
            && id <= last
        {
            self.0.remove(&first);
            if first < id {
                self.0.insert(first, id - 1);
            }
            if id < last {
                self.0.insert(id + 1, last);
            }
        }
        // One within a run leaves a run on each side of it.
        while self.0.len() > UNUSED_RUNS_MAX {
            self.0.pop_first();
        }
    }

    /// Returns the number of runs.
    #[cfg(test)]
    pub fn runs(&self) -> usize {
        self.0.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_of_unused_integers_are_bounded_and_the_smallest_are_forgotten() {
        // Either larger integers are asked for, or those within a run.
        for last in [None, Some(EngineId(9_999))] {
            let (mut unused, mut next) = (Unused::default(), 0);
            let wanted = (0..4_000).map(|n| EngineId(2 * n + 1));
            for id in last.into_iter().chain(wanted) {
                unused.take(&mut next, id);
            }
            assert_eq!(unused.runs(), 1_024, "beyond {last:?}");
            assert!(unused.contains(EngineId(7_998)) && !unused.contains(EngineId(0)));
        }
    }
}
