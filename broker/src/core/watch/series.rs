//! How the farm went, step by step: ten minutes by the second, three hours by ten seconds, a day by
//! the minute.
//!
//! Steps are made when something happens after their end, and when somebody looks: there is no
//! timer.

use std::collections::VecDeque;

use furlong_wire::message::{SeriesRow, SeriesStep};

use crate::core::Time;

/// Sums of a step, and how things stood at its end.
#[derive(Debug, Default)]
pub struct Series {
    /// The second in which the farm is.
    now: SeriesRow,
    seconds: VecDeque<SeriesRow>,
    tens: VecDeque<SeriesRow>,
    minutes: VecDeque<SeriesRow>,
}

/// How things stand.
#[derive(Clone, Copy, Debug, Default)]
pub struct Standing {
    /// Unfinished tasks.
    pub unfinished: u64,
    /// Tasks that engines have.
    pub assigned: u64,
    /// Engines that are connected.
    pub engines: u64,
}

const SECONDS_KEPT: usize = 600;
const TENS_KEPT: usize = 1_080;
const MINUTES_KEPT: usize = 1_440;

impl Series {
    /// The sums of the second in which the farm is now. What ended before that was as it stands.
    pub fn at(&mut self, now: Time, standing: impl FnOnce() -> Standing) -> &mut SeriesRow {
        let second = now.0 / 1_000_000;
        if second > self.now.at_s {
            self.advance(second, standing());
        }
        &mut self.now
    }

    fn advance(&mut self, second: u64, standing: Standing) {
        set(&mut self.now, standing);
        // Seconds in which nothing happened stand as the one before them did: as many as are kept.
        let first_kept = second.saturating_sub(u64::from(MINUTES_KEPT as u32) * 60);
        let mut row = self.now;
        loop {
            self.close(row);
            let next = (row.at_s + 1).max(first_kept);
            if next >= second {
                break;
            }
            row = SeriesRow { at_s: next, ..SeriesRow::default() };
            set(&mut row, standing);
        }
        self.now = SeriesRow { at_s: second, ..SeriesRow::default() };
    }

    /// A second is over: it is a part of a ten of them, and of a minute.
    fn close(&mut self, row: SeriesRow) {
        push(&mut self.seconds, row, 1, SECONDS_KEPT);
        push(&mut self.tens, row, 10, TENS_KEPT);
        push(&mut self.minutes, row, 60, MINUTES_KEPT);
    }

    /// The steps that are over, the oldest first.
    pub fn steps(&self, step: SeriesStep) -> &VecDeque<SeriesRow> {
        match step {
            SeriesStep::Second => &self.seconds,
            SeriesStep::TenSeconds => &self.tens,
            SeriesStep::Minute => &self.minutes,
        }
    }

    /// The seconds from that one on, the present one last.
    pub fn last(&self, seconds: u64) -> impl Iterator<Item = &SeriesRow> {
        let from = (self.now.at_s + 1).saturating_sub(seconds);
        let skipped = self.seconds.partition_point(|row| row.at_s < from);
        self.seconds.iter().skip(skipped).chain([&self.now])
    }
}

fn set(row: &mut SeriesRow, standing: Standing) {
    row.unfinished = standing.unfinished as f32;
    row.assigned = standing.assigned as f32;
    row.engines = standing.engines as f32;
}

/// Adds a second to the last step, or begins the next.
fn push(steps: &mut VecDeque<SeriesRow>, row: SeriesRow, length_s: u64, most: usize) {
    let at_s = row.at_s - row.at_s % length_s;
    if let Some(last) = steps.back_mut().filter(|last| last.at_s == at_s) {
        return add(last, &row);
    }
    if steps.len() == most {
        steps.pop_front();
    }
    steps.push_back(SeriesRow { at_s, ..row });
}

fn add(sum: &mut SeriesRow, row: &SeriesRow) {
    sum.ended += row.ended;
    sum.failed += row.failed;
    sum.submitted += row.submitted;
    sum.queue_s += row.queue_s;
    sum.began_s += row.began_s;
    sum.way_s += row.way_s;
    sum.load_s += row.load_s;
    sum.run_s += row.run_s;
    sum.store_s += row.store_s;
    sum.request_bytes += row.request_bytes;
    sum.result_bytes += row.result_bytes;
    (sum.unfinished, sum.assigned, sum.engines) = (row.unfinished, row.assigned, row.engines);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: u64) -> Time {
        Time(second * 1_000_000)
    }

    fn standing(unfinished: u64) -> Standing {
        Standing { unfinished, assigned: 0, engines: 2 }
    }

    #[test]
    fn sums_of_all_steps_are_the_same() {
        let mut series = Series::default();
        for second in 0..1_000 {
            series.at(at(second), || standing(second)).ended += 1.0;
        }
        series.at(at(1_000), || standing(7));
        for step in [SeriesStep::TenSeconds, SeriesStep::Minute] {
            let sum: f32 = series.steps(step).iter().map(|row| row.ended).sum();
            assert_eq!(sum as u32, 1_000, "{step}");
        }
        assert_eq!(series.last(60).count(), 60);
        assert_eq!(series.last(60).map(|row| row.ended).sum::<f32>() as u32, 59);
        let last = series.steps(SeriesStep::Minute).back().unwrap();
        assert_eq!((last.at_s, last.unfinished as u32, last.engines as u32), (960, 7, 2));
    }

    #[test]
    fn of_each_step_as_many_are_kept_as_are_told() {
        let mut series = Series::default();
        series.at(at(200_000), || standing(1));
        let kept = |step| series.steps(step).len();
        let steps = [SeriesStep::Second, SeriesStep::TenSeconds, SeriesStep::Minute];
        assert_eq!(steps.map(kept), [600, 1_080, 1_440]);
    }

    #[test]
    fn a_long_silence_costs_no_more_than_what_is_kept() {
        let mut series = Series::default();
        series.at(at(3), || standing(1)).ended += 1.0;
        series.at(at(4_000_000_000), || standing(5));
        assert_eq!(series.steps(SeriesStep::Second).len(), SECONDS_KEPT);
        assert_eq!(series.steps(SeriesStep::Minute).len(), MINUTES_KEPT);
        assert_eq!(series.steps(SeriesStep::Minute).back().unwrap().unfinished as u32, 5);
        assert_eq!(series.last(60).count(), 60);
        assert_eq!(series.last(60).map(|row| row.ended).sum::<f32>() as u32, 0);
    }
}
