//! The time that engines have left before they end: a task that says how long it takes goes to one
//! that has as long.
//!
//! Times are compared engine by engine and not by class, as what is left shrinks: only tasks that
//! name a time pay for that, with a look at each engine that has too little.

use std::time::Duration;

use furlong_wire::ids::EngineId;
use furlong_wire::message::TaskOptions;

use super::placement::Placement;
use crate::core::engines::engine::Engine;
use crate::core::engines::table::Engines;
use crate::core::keys::ClassId;
use crate::core::turns::work::count;
use crate::core::{Core, Time};

/// The time that a task demands of its engine, in seconds; 0 if it says nothing. Beyond a minute it
/// is rounded up by up to a thirty-second: each different time has a queue of its own, of which
/// there is a bounded number for all.
pub(in crate::core) fn demanded_s(options: Option<&TaskOptions>) -> u64 {
    let said = options.and_then(|it| it.time_request_ms.or(it.run_timeout_ms));
    let time_s = said.unwrap_or_default().div_ceil(1000);
    time_s.next_multiple_of((time_s.next_power_of_two() / 64).max(1))
}

impl Engine {
    /// Returns true if it does not end before that time, as far as it has said.
    pub fn stays_until(&self, until: Time) -> bool {
        self.ends.is_none_or(|ends| until <= ends)
    }
}

impl Placement {
    /// The time at which a task with these demands would be over if it began now; none if it
    /// demands no time.
    pub fn over_at(&self, now: Time) -> Option<Time> {
        let time_s = self.demands.time_s;
        (time_s > 0).then(|| now.after(Duration::from_secs(time_s)))
    }
}

/// The engine of some classes that has the fewest assigned, and fewer than `limit`; if `until` is
/// said, of those that stay until then.
pub(super) fn idlest(
    engines: &Engines,
    classes: impl Iterator<Item = ClassId>,
    limit: u32,
    until: Option<Time>,
) -> Option<EngineId> {
    let Some(until) = until else { return engines.idlest(classes, limit) };
    let get = |id| engines.get(id).expect("an engine of a class is in the table");
    let of_class = |class| {
        let by_load = engines.engines_of(class).inspect(|_| count(1));
        let mut free = by_load.map(|id| (get(id).load(), id)).take_while(|(load, _)| *load < limit);
        free.find(|(_, id)| get(*id).stays_until(until))
    };
    classes.filter_map(of_class).min().map(|(_, id)| id)
}

impl Core {
    /// Says that no engine has the time that a task demands, if that is why it waits.
    pub(in crate::core) fn no_engine_has_time(
        &self,
        now: Time,
        placement: &Placement,
        classes: impl Iterator<Item = ClassId>,
    ) -> Option<String> {
        let until = placement.over_at(now)?;
        let engines = classes.flat_map(|class| self.engines.engines_of(class));
        let engines = engines.inspect(|_| self.turns.work.add(1));
        let ends: Option<Vec<Time>> =
            engines.map(|id| self.engines.get(id).and_then(|engine| engine.ends)).collect();
        // One that has not said when it ends has all the time.
        let longest = ends?.into_iter().max()?;
        if until <= longest {
            return None;
        }
        let left_s = longest.micros_since(now) / 1_000_000;
        Some(format!(
            "no engine has {} s left, which it asks for by `time_request` or `run_timeout`: the longest has {left_s} s; \
             start one with a longer `--time-limit`",
            placement.demands.time_s
        ))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn however_many_times_are_demanded_there_are_few_queues() {
        let demanded = |ms| {
            demanded_s(Some(&TaskOptions { time_request_ms: Some(ms), ..TaskOptions::default() }))
        };
        assert_eq!([0, 1, 59_001, 3_600_000].map(demanded), [0, 1, 60, 3_648]);
        let different: BTreeSet<u64> = (0..1_000_000).map(|s| demanded(s * 1000)).collect();
        assert!(different.len() < 600, "{}", different.len());
        for s in [1, 64, 65, 1_000, 86_400] {
            let demanded = demanded(s * 1000);
            assert!(demanded >= s && demanded - s <= s / 32, "{demanded} for {s}");
        }
        demanded(u64::MAX);
    }
}
