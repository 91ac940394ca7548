//! The numbers of a session's tasks that were refused.

use furlong_wire::ids::TaskSeq;

/// The numbers of a session's tasks that were refused, and which its client has not acknowledged.
#[derive(Debug, Default)]
pub struct Refused {
    /// Ascending, first and last, with gaps between them.
    ranges: Vec<(TaskSeq, TaskSeq)>,
    unread: u64,
}

/// Ranges that are kept. Beyond, some name tasks that were not refused: clients repeat none that
/// they know the end of, and of the others the broker knows that they are here.
const RANGES_MAX: usize = 256;

/// Ranges of missing tasks in one message. Beyond, one range says it: what is repeated and known is
/// read past.
pub const MISSING_RANGES_MAX: usize = 4096;

impl Refused {
    /// The next tasks were refused.
    pub fn add(&mut self, first: TaskSeq, last: TaskSeq) {
        assert!(first <= last, "refused from {first} to {last}");
        self.unread = self.unread.saturating_add(last - first + 1);
        let at = self.ranges.partition_point(|(_, end)| *end < first);
        self.ranges.insert(at, (first, last));
        if at > 0 && self.ranges[at - 1].1 + 1 == first {
            self.merge(at - 1);
        }
        let is_disjoint = self.ranges.windows(2).all(|pair| pair[0].1 < pair[1].0);
        debug_assert!(is_disjoint, "{first} to {last} is refused twice: {:?}", self.ranges);
        self.keep_few();
    }

    /// The client knows of these, or submits them again.
    pub fn remove(&mut self, first: TaskSeq, last: TaskSeq) {
        let from = self.ranges.partition_point(|(_, end)| *end < first);
        let until = self.ranges.partition_point(|(begin, _)| *begin <= last);
        if from >= until {
            return;
        }
        let (begin, end) = (self.ranges[from].0, self.ranges[until - 1].1);
        let before = (begin < first).then(|| (begin, first - 1));
        let after = (last < end).then(|| (last + 1, end));
        let count = |ranges: &[(TaskSeq, TaskSeq)]| {
            ranges.iter().map(|(first, last)| *last - *first + 1).sum::<u64>()
        };
        let left: Vec<_> = before.into_iter().chain(after).collect();
        // Merged ranges have numbers between them that were never refused: it may be more than all.
        self.unread = self.unread.saturating_sub(count(&self.ranges[from..until]) - count(&left));
        self.ranges.splice(from..until, left);
        self.keep_few();
    }

    /// Whether a task was refused, or lies between such tasks.
    pub fn contains(&self, n: TaskSeq) -> bool {
        self.ranges
            .get(self.ranges.partition_point(|(_, last)| *last < n))
            .is_some_and(|(first, _)| *first <= n)
    }

    /// All of them.
    pub fn ranges(&self) -> &[(TaskSeq, TaskSeq)] {
        &self.ranges
    }

    /// How many its client may not have read: it counts them as tasks of its own.
    pub fn unread(&self) -> u64 {
        self.unread
    }

    /// Its client is told what is missing: it counts none of them any longer.
    pub fn tell(&mut self) {
        self.unread = 0;
    }

    /// Makes one of two ranges and what is between them.
    fn merge(&mut self, at: usize) {
        let (_, last) = self.ranges.remove(at + 1);
        self.ranges[at].1 = last;
    }

    fn keep_few(&mut self) {
        while self.ranges.len() > RANGES_MAX {
            self.merge(0);
        }
    }
}

/// The numbers of both as ascending ranges.
pub fn ranges(
    mut all: Vec<(TaskSeq, TaskSeq)>,
    others: &[(TaskSeq, TaskSeq)],
) -> Vec<(TaskSeq, TaskSeq)> {
    all.extend(others);
    all.sort_unstable();
    let mut ranges: Vec<(TaskSeq, TaskSeq)> = Vec::new();
    for (first, last) in all {
        let is_full = ranges.len() >= MISSING_RANGES_MAX;
        match ranges.last_mut() {
            Some((_, end)) if first <= end.saturating_add(1) || is_full => *end = last.max(*end),
            _ => ranges.push((first, last)),
        }
    }
    ranges
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The ranges, and how many of the numbers are not acknowledged.
    fn state(refused: &Refused) -> (Vec<(u64, u64)>, u64) {
        let ranges = refused.ranges().iter().map(|(first, last)| (first.0, last.0));
        (ranges.collect(), refused.unread())
    }

    #[test]
    fn what_is_acknowledged_is_refused_no_longer() {
        let mut refused = Refused::default();
        refused.add(TaskSeq(3), TaskSeq(3));
        refused.add(TaskSeq(4), TaskSeq(9));
        refused.add(TaskSeq(12), TaskSeq(12));
        assert_eq!(state(&refused), (vec![(3, 9), (12, 12)], 8));
        refused.remove(TaskSeq(5), TaskSeq(6));
        assert_eq!(state(&refused), (vec![(3, 4), (7, 9), (12, 12)], 6));
        refused.remove(TaskSeq(1), TaskSeq(2));
        refused.remove(TaskSeq(9), TaskSeq(12));
        assert_eq!(state(&refused), (vec![(3, 4), (7, 8)], 4));
        refused.add(TaskSeq(9), TaskSeq(9));
        let is_refused = |n| refused.contains(TaskSeq(n));
        assert!(is_refused(9) && !is_refused(5) && !is_refused(10));
        refused.remove(TaskSeq::MIN, TaskSeq::MAX);
        assert_eq!(state(&refused), (vec![], 0));
    }

    #[test]
    fn there_are_few_ranges_however_many_are_refused_between_others() {
        let mut refused = Refused::default();
        let odd = |n: u64| TaskSeq(2 * n + 1);
        for n in 0..10_000 {
            refused.add(odd(n), odd(n));
        }
        assert_eq!((refused.ranges().len(), refused.unread()), (RANGES_MAX, 10_000));
        assert!((0..10_000).all(|n| refused.contains(odd(n))), "none is left out");
        (0..10_000).for_each(|n| refused.remove(odd(n), odd(n)));
        assert!(refused.ranges().len() <= RANGES_MAX && refused.unread() == 0);
    }
}
