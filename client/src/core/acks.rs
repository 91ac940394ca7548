//! Results that have arrived and of which the broker has not been told.

use furlong_wire::limits::LISTED_MAX;
use furlong_wire::message::{Ack, FromClient};

/// Results that are acknowledged on their own, without waiting for another message to go along
/// with.
const RESULTS_DUE: u64 = 256;
/// Bytes of results that are acknowledged on their own: the broker holds them until then.
const BYTES_DUE: u64 = 1024 * 1024;

/// Ranges of task numbers, to be acknowledged.
#[derive(Debug, Default)]
pub struct Acks {
    /// First and last of each, in the order of arrival; neighbours that arrive one after the other
    /// are one range.
    ranges: Vec<(u64, u64)>,
    results: u64,
    bytes: u64,
}

impl Acks {
    /// Adds a result of that many payload bytes.
    pub fn push(&mut self, n: u64, bytes: u64) {
        // Only the last one is looked at: an engine's results mostly come in their order, and what
        // is left apart comes together when all are sorted.
        match self.ranges.last_mut() {
            Some((_, last)) if *last + 1 == n => *last = n,
            Some((first, _)) if n + 1 == *first => *first = n,
            _ => self.ranges.push((n, n)),
        }
        self.results += 1;
        self.bytes += bytes;
    }

    /// Returns true if the broker should be notified, even if there is nothing else to say.
    pub fn are_due(&self) -> bool {
        self.results >= RESULTS_DUE || self.bytes >= BYTES_DUE
    }

    /// Results that wait here.
    pub fn results(&self) -> u64 {
        self.results
    }

    /// The message for all of them, or for as many as a message names, and how many results it is
    /// about; none if there are none. What is left is due at once.
    pub fn take(&mut self) -> Option<(FromClient, u64)> {
        if self.ranges.is_empty() {
            return None;
        }
        let Self { mut ranges, results, .. } = std::mem::take(self);
        #[expect(
            clippy::stable_sort_primitive,
            reason = "it makes use of the ascending runs of each engine's results"
        )]
        ranges.sort();
        // What was delivered again after a cut is there twice.
        ranges.dedup_by(|next, range| {
            let adjoin = next.0 <= range.1 + 1;
            if adjoin {
                range.1 = range.1.max(next.1);
            }
            adjoin
        });
        let rest = ranges.split_off(ranges.len().min(LISTED_MAX));
        // As many bytes as are due at once: whoever asks again gets the next message.
        if !rest.is_empty() {
            let results = rest.iter().map(|(first, last)| last - first + 1).sum();
            *self = Self { ranges: rest, results, bytes: BYTES_DUE };
        }
        assert!(self.results <= results, "{} of {results} results are left", self.results);
        Some((FromClient::Ack(Ack { ranges: ranges.into() }), results - self.results))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbours_become_ranges_in_whatever_order_they_come() {
        let mut acks = Acks::default();
        assert_eq!(acks.take(), None);
        for n in [5, 6, 7, 1, 3, 2, 10, 8] {
            acks.push(n, 0);
        }
        assert_eq!(acks.results(), 8);
        let ranges = vec![(1, 3), (5, 8), (10, 10)].into();
        assert_eq!(acks.take(), Some((FromClient::Ack(Ack { ranges }), 8)));
        assert_eq!((acks.results(), acks.take()), (0, None));
    }

    #[test]
    fn what_was_delivered_twice_is_named_once() {
        let mut acks = Acks::default();
        for n in [4, 5, 6, 5, 9, 9, 6] {
            acks.push(n, 0);
        }
        let ranges = vec![(4, 6), (9, 9)].into();
        assert_eq!(acks.take(), Some((FromClient::Ack(Ack { ranges }), 7)));
    }

    #[test]
    fn very_many_ranges_go_in_messages_that_fit() {
        let mut acks = Acks::default();
        let all = 2 * LISTED_MAX as u64 + 7;
        (1..=all).for_each(|n| acks.push(2 * n, 1));
        let mut parts = Vec::new();
        while acks.are_due()
            && let Some((ack, results)) = acks.take()
        {
            assert!(!furlong_wire::message::is_too_long(&ack));
            parts.push(results);
        }
        assert_eq!(parts, [LISTED_MAX as u64, LISTED_MAX as u64, 7]);
        assert_eq!(acks.take(), None);
    }

    #[test]
    fn many_results_and_large_ones_are_due() {
        let mut acks = Acks::default();
        (1..RESULTS_DUE).for_each(|n| acks.push(n, 1));
        assert!(!acks.are_due());
        acks.push(RESULTS_DUE, 1);
        assert!(acks.are_due());
        acks.take();
        acks.push(1, BYTES_DUE);
        assert!(acks.are_due());
    }
}
