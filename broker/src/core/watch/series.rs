//! How the farm went, step by step: ten minutes by the second, three hours by ten seconds, a day by
//! the minute.
//!
//! A step is the difference of two sums. Steps are made when something happens after their end, and
//! when somebody looks: there is no timer.

use std::collections::VecDeque;

use furlong_wire::message::{SeriesRow, SeriesStep};

use super::sums::Sums;
use crate::core::Time;

/// Sums of a step, and how things stood at its end.
#[derive(Debug, Default)]
pub struct Series {
    /// The second in which the farm is.
    second: u64,
    /// Sums over all tasks at its beginning.
    before: Sums,
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
    /// Returns true if the second in which the farm was is over.
    pub fn is_due(&self, now: Time) -> bool {
        now.0 >= (self.second + 1) * 1_000_000
    }

    /// Closes the seconds that are over, after which nothing has happened since: this is how it
    /// all stands.
    pub fn advance(&mut self, now: Time, total: Sums, standing: Standing) {
        let second = now.0 / 1_000_000;
        assert!(second > self.second, "the second {} is not over", self.second);
        // Seconds in which nothing happened stand as the one before them did: as many as are kept.
        let first_kept = second.saturating_sub(u64::from(MINUTES_KEPT as u32) * 60);
        let mut row = self.present(&total, standing);
        loop {
            self.close(row);
            let next = (row.at_s + 1).max(first_kept);
            if next >= second {
                break;
            }
            row = SeriesRow { at_s: next, ..SeriesRow::default() };
            set(&mut row, standing);
        }
        (self.second, self.before) = (second, total);
    }

    /// The second in which the farm is, so far.
    pub fn present(&self, total: &Sums, standing: Standing) -> SeriesRow {
        let before = &self.before;
        let count = |of: fn(&Sums) -> u64| of(total).wrapping_sub(of(before)) as f32;
        let seconds = |of: fn(&Sums) -> u64| count(of) / 1e6;
        let mut row = SeriesRow {
            at_s: self.second,
            ended: count(|sums| sums.ended),
            failed: count(|sums| sums.failed),
            submitted: count(|sums| sums.submitted),
            queue_s: seconds(|sums| sums.queue_us),
            began_s: seconds(|sums| sums.began_us),
            way_s: seconds(|sums| sums.way_us),
            load_s: seconds(|sums| sums.load_us),
            run_s: seconds(|sums| sums.run_us),
            store_s: seconds(|sums| sums.store_us),
            request_bytes: count(|sums| sums.request_bytes),
            result_bytes: count(|sums| sums.result_bytes),
            ..SeriesRow::default()
        };
        set(&mut row, standing);
        row
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

    /// The last seconds that are over, and with the present one as many as were asked for.
    pub fn last(&self, seconds: u64) -> impl Iterator<Item = &SeriesRow> {
        let from = (self.second + 1).saturating_sub(seconds);
        let skipped = self.seconds.partition_point(|row| row.at_s < from);
        self.seconds.iter().skip(skipped)
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

    /// After so many ends.
    fn ended(ended: u64) -> Sums {
        Sums { ended, run_us: 1_000 * ended, ..Sums::default() }
    }

    #[test]
    fn sums_of_all_steps_are_the_same() {
        let mut series = Series::default();
        for second in 1..=1_000 {
            assert!(series.is_due(at(second)));
            series.advance(at(second), ended(second), standing(second));
        }
        assert!(!series.is_due(at(1_000)));
        for step in [SeriesStep::TenSeconds, SeriesStep::Minute] {
            let sum: f32 = series.steps(step).iter().map(|row| row.ended).sum();
            assert_eq!(sum as u32, 1_000, "{step}");
            let sum: f32 = series.steps(step).iter().map(|row| row.run_s).sum();
            assert!((sum - 1.0).abs() < 1e-3, "{sum}");
        }
        assert_eq!(series.last(60).count(), 59);
        assert_eq!(series.present(&ended(1_007), standing(1)).ended as u32, 7);
        let last = series.steps(SeriesStep::Minute).back().unwrap();
        assert_eq!((last.at_s, last.unfinished as u32, last.engines as u32), (960, 1_000, 2));
    }

    #[test]
    fn of_each_step_as_many_are_kept_as_are_told() {
        let mut series = Series::default();
        series.advance(at(200_000), ended(0), standing(1));
        let kept = |step| series.steps(step).len();
        let steps = [SeriesStep::Second, SeriesStep::TenSeconds, SeriesStep::Minute];
        assert_eq!(steps.map(kept), [600, 1_080, 1_440]);
    }

    #[test]
    fn a_long_silence_costs_no_more_than_what_is_kept() {
        let mut series = Series::default();
        series.advance(at(3), ended(0), standing(1));
        series.advance(at(4_000_000_000), ended(1), standing(5));
        assert_eq!(series.steps(SeriesStep::Second).len(), SECONDS_KEPT);
        assert_eq!(series.steps(SeriesStep::Minute).len(), MINUTES_KEPT);
        assert_eq!(series.steps(SeriesStep::Minute).back().unwrap().unfinished as u32, 5);
        assert_eq!(series.last(60).count(), 59);
        assert_eq!(series.last(60).map(|row| row.ended).sum::<f32>() as u32, 0);
    }
}
