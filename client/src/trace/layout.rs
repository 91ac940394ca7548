//! The places of runs on their engine's track.
//!
//! An engine measures from the receipt of an assignment when a run began and how long its parts
//! took. What the broker knows are the moments of assignment and end. The rest, the way there and
//! back, is divided by the shortest of this engine: half of that was the way there. Clocks run
//! unequally and ends are told late, so that two runs may still seem to overlap by a little: they
//! are moved apart, within what the broker knows of each, and cut where that is not enough.

use super::{Slice, TracedTask};

/// What clocks may differ by, in microseconds, before two runs are taken to have been concurrent.
const SLACK_US: u64 = 1_000;
/// The same as a part of a run: one in so many.
const SLACK_PART: u64 = 1_000;

/// A run on an engine.
#[derive(Clone, Copy, Debug)]
pub struct Occupied {
    task: usize,
    /// It did not begin before.
    from_us: u64,
    /// It did not end after.
    until_us: u64,
    load_us: u64,
    run_us: u64,
    store_us: u64,
}

impl Occupied {
    /// The run of a task that an engine was given at that moment.
    pub fn new(place: usize, task: &TracedTask, assigned_us: u64) -> Self {
        let times = &task.times;
        let until_us = times.ended_us.max(assigned_us);
        let mut left = until_us - assigned_us;
        let mut take = |part: u64| {
            let taken = part.min(left);
            left -= taken;
            taken
        };
        // By another clock: together they are no more than the time for which the engine had it.
        let run_us = take(times.run.run_us);
        let (load_us, store_us) = (take(times.run.load_us), take(times.run.store_us));
        let from_us = assigned_us + take(times.run.began_us);
        if task.state.is_none() {
            let run_us = until_us - from_us;
            return Self { task: place, from_us, until_us, load_us: 0, run_us, store_us: 0 };
        }
        Self { task: place, from_us, until_us, load_us, run_us, store_us }
    }

    fn busy_us(&self) -> u64 {
        self.load_us + self.run_us + self.store_us
    }

    /// The time that is left for the way there and back.
    fn way_us(&self) -> u64 {
        self.until_us - self.from_us - self.busy_us()
    }

    /// The slice from one moment to at most another: parts are cut from the end.
    fn slice(&self, start_us: u64, most_us: u64) -> Slice {
        let most_us = most_us.max(start_us);
        let loaded_us = (start_us + self.load_us).min(most_us);
        let ran_us = (loaded_us + self.run_us).min(most_us);
        let end_us = (ran_us + self.store_us).min(most_us);
        Slice { task: self.task, start_us, loaded_us, ran_us, end_us }
    }
}

/// The runs of an engine in lanes, in each of which nothing overlaps: one, unless runs cannot have
/// been one after the other.
pub fn lanes(mut occupied: Vec<Occupied>) -> Vec<Vec<Slice>> {
    occupied.sort_by_key(|run| (run.from_us, run.until_us));
    let there_us = occupied.iter().map(Occupied::way_us).min().unwrap_or(0) / 2;
    let mut lanes: Vec<(u64, Vec<Occupied>)> = Vec::new();
    for run in occupied {
        let slack_us = SLACK_US + run.busy_us() / SLACK_PART;
        let latest_us = run.until_us - run.busy_us() + slack_us;
        let earliest_end_us = run.from_us + run.busy_us();
        // A run that was longer than what came after it was measured less exactly, too.
        let fits = |(end_us, runs): &&mut (u64, Vec<Occupied>)| {
            let longest = runs.last().map_or(0, Occupied::busy_us);
            *end_us <= latest_us + longest / SLACK_PART
        };
        match lanes.iter_mut().find(fits) {
            Some((end_us, runs)) => {
                *end_us = earliest_end_us.max(*end_us);
                runs.push(run);
            }
            None => lanes.push((earliest_end_us, vec![run])),
        }
    }
    lanes.into_iter().map(|(_, runs)| lane(&runs, there_us)).collect()
}

/// The slices of runs that came one after the other.
fn lane(runs: &[Occupied], there_us: u64) -> Vec<Slice> {
    // From the last to the first: when each had ended, so that those after it have their time.
    let mut limits = Vec::with_capacity(runs.len());
    let (mut next_start_us, mut least_us) = (u64::MAX, u64::MAX);
    for run in runs.iter().rev() {
        least_us = least_us.min(run.until_us);
        let earliest_end_us = run.from_us + run.busy_us();
        let limit_us = least_us.min(next_start_us.max(earliest_end_us));
        limits.push((limit_us, least_us));
        next_start_us = limit_us.saturating_sub(run.busy_us());
    }
    let mut free_us = 0;
    let placed = runs.iter().zip(limits.into_iter().rev()).map(|(run, (limit_us, least_us))| {
        let wanted_us = (run.from_us + there_us).min(limit_us.saturating_sub(run.busy_us()));
        let slice = run.slice(wanted_us.max(free_us), least_us);
        free_us = slice.end_us;
        slice
    });
    placed.collect()
}
