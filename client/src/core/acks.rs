//! Results that have arrived and of which the broker has not been told, and those that stay there:
//! it is told of these when they are let go.

use std::collections::{BTreeMap, BTreeSet};

use furlong_wire::ids::TaskSeq;
use furlong_wire::limits::LISTED_MAX;
use furlong_wire::message::{Ack, Finished, FromClient, TaskOptions, TaskState};

use super::tasks::Sent;
use super::{Core, Waiter};
use crate::error::ClientError;

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
    ranges: Vec<(TaskSeq, TaskSeq)>,
    results: u64,
    bytes: u64,
    /// Ended tasks of which it is to be told later.
    pub(super) staying: Staying,
}

/// Ended tasks whose results stay.
#[derive(Debug, Default)]
pub(super) struct Staying {
    tasks: BTreeMap<TaskSeq, Stay>,
    /// Tasks whose results are inputs of what is still to be said again after a cut, each with the
    /// last task that needs it: these stay until that is said, too.
    wanted: BTreeMap<TaskSeq, TaskSeq>,
    /// The same, by the last task.
    until: BTreeSet<(TaskSeq, TaskSeq)>,
}

#[derive(Debug)]
struct Stay {
    /// The parts that a broker needs which was started again, and has lost the value.
    sent: Option<Sent>,
    bytes: u64,
    /// True if it stays until it is let go, false if only because it is wanted or made again.
    until_let_go: bool,
    /// A broker that had lost it has been given its task once more, and its end is yet to come.
    until_made_again: bool,
    /// The broker has said its end on this connection: it has it.
    was_said: bool,
}

impl Staying {
    /// A task has ended, and its result of so many bytes stays: until it is let go, or as long as
    /// it is wanted.
    pub(super) fn insert(&mut self, n: TaskSeq, sent: Option<Sent>, bytes: u64, is_to_stay: bool) {
        // The broker that has said the end has its task.
        let sent = sent.map(|sent| Sent { repeated: false, ..sent });
        let (until_let_go, until_made_again, was_said) = (is_to_stay, false, true);
        self.tasks.insert(n, Stay { sent, bytes, until_let_go, until_made_again, was_said });
    }

    /// Returns true if a task's result is held here as one of which the broker is not told.
    fn contains(&self, n: TaskSeq) -> bool {
        self.tasks.contains_key(&n)
    }

    /// Lets a result go, as soon as nobody wants it and the broker does not make it again. Returns
    /// false if it was not to stay.
    fn let_go(&mut self, n: TaskSeq) -> bool {
        self.tasks.get_mut(&n).is_some_and(|stay| std::mem::take(&mut stay.until_let_go))
    }

    /// Removes a result if nothing keeps it. Returns its bytes.
    fn take_unwanted(&mut self, n: TaskSeq) -> Option<u64> {
        let Stay { until_let_go, until_made_again, bytes, .. } = *self.tasks.get(&n)?;
        let is_kept = until_let_go || until_made_again || self.is_wanted(n);
        (!is_kept).then(|| {
            self.tasks.remove(&n);
            bytes
        })
    }

    /// The connection was cut: the next broker need not have any of them.
    pub(super) fn handle_cut(&mut self) {
        self.tasks.values_mut().for_each(|stay| stay.was_said = false);
    }

    /// Returns true if the broker has said on this connection that it has a task's result.
    pub(super) fn was_said(&self, n: TaskSeq) -> bool {
        self.tasks.get(&n).is_some_and(|stay| stay.was_said)
    }

    /// The task is given to a broker that has lost its result.
    pub(super) fn make_again(&mut self, n: TaskSeq) {
        if let Some(stay) = self.tasks.get_mut(&n) {
            stay.until_made_again = true;
        }
    }

    /// The task has ended once more, and its result is there again, or there is none.
    fn end_again(&mut self, n: TaskSeq, is_there: bool) {
        if let Some(stay) = self.tasks.get_mut(&n) {
            stay.until_made_again = false;
            stay.was_said = true;
            stay.until_let_go &= is_there;
            if let Some(sent) = &mut stay.sent {
                sent.repeated = false;
            }
        }
    }

    /// The numbers of those that stay, ascending.
    pub(super) fn numbers(&self) -> impl Iterator<Item = TaskSeq> {
        self.tasks.keys().copied()
    }

    /// Returns what is to be sent again of one.
    pub(super) fn sent_mut(&mut self, n: TaskSeq) -> Option<&mut Sent> {
        self.tasks.get_mut(&n)?.sent.as_mut()
    }

    /// The results of these tasks are inputs of what is to be said again, each up to that task.
    pub(super) fn want(&mut self, wanted: BTreeMap<TaskSeq, TaskSeq>) {
        self.until = wanted.iter().map(|(n, last)| (*last, *n)).collect();
        self.wanted = wanted;
    }

    /// All up to this task was said again. Returns true if something is wanted no longer.
    pub(super) fn want_no_longer(&mut self, said: TaskSeq) -> bool {
        let before = self.wanted.len();
        while let Some(&(last, n)) = self.until.first().filter(|(last, _)| *last <= said) {
            self.until.remove(&(last, n));
            self.wanted.remove(&n);
        }
        self.wanted.len() < before
    }

    /// Returns true if a task's result is an input of what is to be said again.
    pub(super) fn is_wanted(&self, n: TaskSeq) -> bool {
        self.wanted.contains_key(&n)
    }

    /// The tasks whose results have not stayed to be let go.
    fn not_to_stay(&self) -> Vec<TaskSeq> {
        self.tasks.iter().filter(|(_, stay)| !stay.until_let_go).map(|(n, _)| *n).collect()
    }

    /// The session is over.
    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }
}

impl Acks {
    /// Adds a result of that many payload bytes.
    pub fn push(&mut self, n: TaskSeq, bytes: u64) {
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

    /// The connection was cut: the broker delivers again what it has not been told of. Returns how
    /// many results these are.
    pub fn handle_cut(&mut self) -> u64 {
        (self.ranges, self.bytes) = (Vec::new(), 0);
        std::mem::take(&mut self.results)
    }

    /// Returns true if the broker should be notified, even if there is nothing else to say.
    pub fn are_due(&self) -> bool {
        self.results >= RESULTS_DUE || self.bytes >= BYTES_DUE
    }

    /// Results that wait here, for the tests.
    #[cfg(test)]
    pub fn results(&self) -> u64 {
        self.results
    }

    /// The message for all of them, or for as many as a message names, and how many results it is
    /// about; none if there are none. What is left is due at once.
    pub fn take(&mut self) -> Option<(FromClient, u64)> {
        if self.ranges.is_empty() {
            return None;
        }
        let mut ranges = std::mem::take(&mut self.ranges);
        let results = std::mem::take(&mut self.results);
        self.bytes = 0;
        // Stable: that makes use of the ascending runs of each engine's results.
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
            self.results = rest.iter().map(|(first, last)| *last - *first + 1).sum();
            (self.ranges, self.bytes) = (rest, BYTES_DUE);
        }
        assert!(self.results <= results, "{} of {results} results are left", self.results);
        Some((FromClient::Ack(Ack { ranges: ranges.into() }), results - self.results))
    }
}

impl<W: Waiter> Core<W> {
    /// Checks that the broker still has, or will have, the results that are inputs of a call. What
    /// is acknowledged from now on it hears of after the call.
    pub(super) fn check_inputs(&self, options: Option<&TaskOptions>) -> Result<(), ClientError> {
        let inputs = options.into_iter().flat_map(|options| &options.inputs);
        for task in inputs {
            let is_own = task.session == self.results.session();
            if is_own && !self.tasks.knows(task.n) && !self.acks.staying.contains(task.n) {
                return Err(ClientError::InputTaken(*task));
            }
        }
        Ok(())
    }

    /// Lets go of a result that stays at the broker: it is told that nobody needs it any longer,
    /// other than tasks that were submitted with it as an input. Of a task that has not ended, it
    /// does not stay at all. Returns false if it would not in any case.
    pub fn release(&mut self, n: TaskSeq) -> bool {
        let stays = self.acks.staying.let_go(n);
        self.acknowledge_unwanted(n);
        stays || self.tasks.let_go(n)
    }

    /// A result that stayed is acknowledged like any other, if nothing keeps it any longer.
    fn acknowledge_unwanted(&mut self, n: TaskSeq) {
        if let Some(bytes) = self.acks.staying.take_unwanted(n) {
            self.acks.push(n, bytes);
        }
    }

    /// The broker is told of the results that stayed because they were wanted, and are no longer.
    pub(super) fn release_unwanted(&mut self) {
        for n in self.acks.staying.not_to_stay() {
            self.acknowledge_unwanted(n);
        }
    }

    /// A task has ended here: the broker has not heard that, or its result stays there.
    pub(super) fn ended_again(&mut self, finished: &Finished) {
        // A broker that was started again need not have been able to have it made again.
        let has_succeeded = finished.outcome.state == TaskState::Succeeded;
        if self.acks.staying.contains(finished.n) {
            self.end_stay(finished.n, has_succeeded);
        } else {
            self.acknowledge_again(finished.n, has_succeeded);
        }
    }

    /// A result that stays is no longer made again: it is there, or there will be none.
    pub(super) fn end_stay(&mut self, n: TaskSeq, is_there: bool) {
        self.acks.staying.end_again(n, is_there);
        self.acknowledge_unwanted(n);
    }

    /// A result that had arrived before a cut, and of which the broker had not been told.
    fn acknowledge_again(&mut self, n: TaskSeq, has_succeeded: bool) {
        if self.was_cut && n < self.next_n && !self.tasks.knows(n) {
            // It counts as a task until the broker is told: the cut has taken it off the count.
            self.flow.take(1, 0, 0);
            if has_succeeded && self.acks.staying.is_wanted(n) {
                self.acks.staying.insert(n, None, 0, false);
            } else {
                self.acks.push(n, 0);
            }
        }
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
            acks.push(TaskSeq(n), 0);
        }
        assert_eq!(acks.results(), 8);
        let ranges =
            vec![(TaskSeq(1), TaskSeq(3)), (TaskSeq(5), TaskSeq(8)), (TaskSeq(10), TaskSeq(10))]
                .into();
        assert_eq!(acks.take(), Some((FromClient::Ack(Ack { ranges }), 8)));
        assert_eq!((acks.results(), acks.take()), (0, None));
    }

    #[test]
    fn what_was_delivered_twice_is_named_once() {
        let mut acks = Acks::default();
        for n in [4, 5, 6, 5, 9, 9, 6] {
            acks.push(TaskSeq(n), 0);
        }
        let ranges = vec![(TaskSeq(4), TaskSeq(6)), (TaskSeq(9), TaskSeq(9))].into();
        assert_eq!(acks.take(), Some((FromClient::Ack(Ack { ranges }), 7)));
    }

    #[test]
    fn very_many_ranges_go_in_messages_that_fit() {
        let mut acks = Acks::default();
        let all = 2 * LISTED_MAX as u64 + 7;
        (1..=all).for_each(|n| acks.push(TaskSeq(2 * n), 1));
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
        (1..RESULTS_DUE).for_each(|n| acks.push(TaskSeq(n), 1));
        assert!(!acks.are_due());
        acks.push(TaskSeq(RESULTS_DUE), 1);
        assert!(acks.are_due());
        acks.take();
        acks.push(TaskSeq(1), BYTES_DUE);
        assert!(acks.are_due());
    }
}
