//! Sums of a history: by kind of task, and by failure.

use std::collections::BTreeMap;

use anyhow::Result;
use rusqlite::Connection;

use super::query::{Ended, Order, Wanted};

/// The tasks of one kind.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct KindSums {
    /// The owner's id.
    pub owner: String,
    /// The name of the function or program.
    pub name: String,
    /// The runtime.
    pub runtime: String,
    /// The number of tasks.
    pub tasks: u64,
    /// Tasks of these that neither succeeded nor were cancelled.
    pub failed: u64,
    /// Tasks of these that were cancelled.
    pub cancelled: u64,
    /// Attempts beyond the first of each.
    pub retries: u64,
    /// The sum of their waits, in microseconds.
    pub wait_us: u64,
    /// Their runs in microseconds, in ascending order.
    pub runs_us: Vec<u64>,
    /// The moment of the last end, in microseconds since 1970.
    pub last_us: u64,
}

/// Failures of one kind of task, of one type at one place.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct FailureSums {
    /// The name of the function or program.
    pub name: String,
    /// The kind of error, the type of what was raised, and the fingerprint.
    pub error: (String, String, u32),
    /// The number of tasks.
    pub tasks: u64,
    /// Engines on which it happened, in ascending order.
    pub engines: Vec<u32>,
    /// The moments of the first and the last, in microseconds since 1970.
    pub moments_us: (u64, u64),
    /// The last such task.
    pub sample: String,
}

impl KindSums {
    /// The run that so many of a hundred do not exceed.
    pub fn percentile_us(&self, percent: usize) -> u64 {
        let place = (self.runs_us.len() * percent).div_ceil(100).max(1) - 1;
        self.runs_us.get(place).copied().unwrap_or_default()
    }

    /// The sum of the runs.
    pub fn run_us(&self) -> u64 {
        self.runs_us.iter().sum()
    }
}

/// The sums of each kind, those first that have run longest.
pub fn kinds(database: &Connection, wanted: &Wanted) -> Result<Vec<KindSums>> {
    let mut by_id: BTreeMap<i64, KindSums> = BTreeMap::new();
    wanted.each_for_sums(database, |row| {
        let number = |at: usize| row.get::<_, i64>(at).map(|value| value.max(0) as u64);
        let kind = by_id.entry(row.get(0)?).or_default();
        let state = row.get_ref(1)?.as_str()?;
        kind.tasks += 1;
        kind.cancelled += u64::from(state == "cancelled");
        kind.failed += u64::from(!matches!(state, "succeeded" | "cancelled"));
        kind.retries += number(2)?.saturating_sub(1);
        kind.wait_us += number(3)?;
        kind.runs_us.push(number(4)?);
        kind.last_us = kind.last_us.max(number(5)?);
        Ok(())
    })?;
    let mut name = database.prepare("SELECT owner, name, runtime FROM kinds WHERE id = ?1")?;
    let mut kinds = Vec::new();
    for (id, mut kind) in by_id {
        kind.runs_us.sort_unstable();
        let (owner, name, runtime) =
            name.query_row([id], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?;
        kinds.push(KindSums { owner, name, runtime, ..kind });
    }
    kinds.sort_by_key(|kind| std::cmp::Reverse(kind.run_us()));
    Ok(kinds)
}

/// The failures, those first of which there are most.
pub fn failures(database: &Connection, wanted: &Wanted) -> Result<Vec<FailureSums>> {
    let mut failures: BTreeMap<(String, u32, String), FailureSums> = BTreeMap::new();
    wanted.clone().with_errors().each(database, Order::Ended, None, |task| {
        let Ended { task, name, error, engine, moments_us: (_, at_us), .. } = task;
        let Some(error) = error else { return Ok(()) };
        let key = (error.0.clone(), error.2, name.clone());
        // The latest comes first.
        let failure = failures.entry(key).or_insert_with(|| FailureSums {
            name,
            error,
            tasks: 0,
            engines: Vec::new(),
            moments_us: (at_us, at_us),
            sample: task,
        });
        failure.tasks += 1;
        failure.moments_us.0 = at_us;
        if let Some(engine) = engine.0
            && let Err(place) = failure.engines.binary_search(&engine)
        {
            failure.engines.insert(place, engine);
        }
        Ok(())
    })?;
    let mut failures: Vec<FailureSums> = failures.into_values().collect();
    failures.sort_by_key(|failure| std::cmp::Reverse((failure.tasks, failure.moments_us.1)));
    Ok(failures)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_percentile_is_a_run_that_was() {
        let of = |runs_us: Vec<u64>| KindSums { runs_us, ..KindSums::default() };
        assert_eq!(of(vec![]).percentile_us(50), 0);
        assert_eq!(of(vec![7]).percentile_us(95), 7);
        let hundred = of((1..=100).collect());
        assert_eq!((hundred.percentile_us(50), hundred.percentile_us(95)), (50, 95));
        assert_eq!(of(vec![1, 2]).percentile_us(50), 1);
    }
}
