//! The shared queue: priority, then fairness between sessions, then arrival.

use std::cmp::Reverse;
use std::collections::{BTreeMap, VecDeque};

use crate::core::keys::{SessionKey, TaskKey};
use crate::core::turns::work::count;

/// Entries that are passed by in the time in which one task is looked at.
const ENTRIES_PER_STEP: usize = 16;

/// Tasks that any engine may run. An entry whose task has ended stays until it is met:
/// [`SharedQueue::peek`] is told which still count. So a cancel costs nothing here, and the length
/// is kept by the tasks' table.
#[derive(Debug, Default)]
pub struct SharedQueue {
    levels: BTreeMap<Reverse<i32>, Level>,
    /// Tasks of sessions that are passed over, until [`SharedQueue::resume`]: however many there
    /// are, nobody who looks for the next task meets them.
    parked: BTreeMap<(SessionKey, Reverse<i32>), VecDeque<TaskKey>>,
}

/// Tasks of one priority: the sessions take turns.
#[derive(Debug, Default)]
struct Level {
    turns: VecDeque<Turn>,
    tasks: BTreeMap<SessionKey, VecDeque<TaskKey>>,
}

/// A session that stands in the row.
#[derive(Clone, Copy, Debug)]
struct Turn {
    session: SessionKey,
    /// The count of shared tasks given so far when it came to stand there.
    since: u64,
}

impl SharedQueue {
    /// Appends a task. `given` counts the shared tasks that engines were given so far, of all
    /// queues.
    pub fn push(&mut self, priority: i32, session: SessionKey, task: TaskKey, given: u64) {
        self.of_session(priority, session, given).push_back(task);
    }

    /// Puts a task back in front of its session's others: it has been here before.
    pub fn push_front(&mut self, priority: i32, session: SessionKey, task: TaskKey, given: u64) {
        self.of_session(priority, session, given).push_front(task);
    }

    /// The next task that counts. A session that was served from another queue since it came to
    /// stand in the row, by the count that `served` gives, goes to its end. One that `parks` is
    /// passed over from then on.
    pub fn peek(
        &mut self,
        counts: impl Fn(TaskKey) -> bool,
        served: impl Fn(SessionKey) -> u64,
        mut parks: impl FnMut(SessionKey) -> bool,
    ) -> Option<TaskKey> {
        while let Some(mut entry) = self.levels.first_entry() {
            let priority = *entry.key();
            let level = entry.get_mut();
            while let Some(task) = level.peek(&counts, &served) {
                match level.turns.front() {
                    Some(&Turn { session, .. }) if parks(session) => {
                        let tasks = level.take_first();
                        self.parked.entry((session, priority)).or_default().extend(tasks);
                    }
                    _ => return Some(task),
                }
            }
            entry.remove();
        }
        None
    }

    /// A session is passed over no longer: it comes to stand in the row.
    pub fn resume(&mut self, session: SessionKey, given: u64) {
        let all = (session, Reverse(i32::MAX))..=(session, Reverse(i32::MIN));
        let parked: Vec<Reverse<i32>> =
            self.parked.range(all).map(|((_, priority), _)| *priority).collect();
        for priority in parked {
            let tasks = self.parked.remove(&(session, priority)).expect("it was listed just now");
            self.of_session(priority.0, session, given).extend(tasks);
        }
    }

    /// Takes what [`SharedQueue::peek`] has just shown; the next turn is another session's.
    pub fn pop(&mut self, given: u64) -> TaskKey {
        let mut entry = self.levels.first_entry().expect("a task has just been shown");
        let level = entry.get_mut();
        let turn = level.turns.pop_front();
        let Turn { session, .. } = turn.expect("a level that is left has a turn");
        let tasks = level.tasks.get_mut(&session).expect("a session that has a turn has a queue");
        let task = tasks.pop_front().expect("a session that has a turn has a task");
        if tasks.is_empty() {
            level.tasks.remove(&session);
        } else {
            level.turns.push_back(Turn { session, since: given });
        }
        task
    }

    /// Drops the entries that no longer count.
    pub fn retain(&mut self, counts: impl Fn(TaskKey) -> bool) {
        self.parked.retain(|_, tasks| {
            tasks.retain(|task| counts(*task));
            !tasks.is_empty()
        });
        self.levels.retain(|_, level| {
            level.tasks.retain(|_, tasks| {
                count(tasks.len() / ENTRIES_PER_STEP);
                tasks.retain(|task| counts(*task));
                !tasks.is_empty()
            });
            let Level { turns, tasks } = level;
            turns.retain(|turn| tasks.contains_key(&turn.session));
            !turns.is_empty()
        });
    }

    fn of_session(
        &mut self,
        priority: i32,
        session: SessionKey,
        given: u64,
    ) -> &mut VecDeque<TaskKey> {
        let key = (session, Reverse(priority));
        // A task of a session that is passed over is not to be met before the session's others.
        if !self.parked.is_empty() && self.parked.contains_key(&key) {
            return self.parked.get_mut(&key).expect("it is there");
        }
        let level = self.levels.entry(Reverse(priority)).or_default();
        level.tasks.entry(session).or_insert_with(|| {
            level.turns.push_back(Turn { session, since: given });
            VecDeque::new()
        })
    }
}

impl Level {
    fn peek(
        &mut self,
        counts: impl Fn(TaskKey) -> bool,
        served: impl Fn(SessionKey) -> u64,
    ) -> Option<TaskKey> {
        while let Some(&Turn { session, since }) = self.turns.front() {
            count(1);
            let at = served(session);
            if at > since {
                // Its turn has been, in the queue of other demands.
                self.turns.pop_front();
                self.turns.push_back(Turn { session, since: at });
                continue;
            }
            let tasks =
                self.tasks.get_mut(&session).expect("a session that has a turn has a queue");
            while let Some(&task) = tasks.front() {
                count(1);
                if counts(task) {
                    return Some(task);
                }
                tasks.pop_front();
            }
            self.tasks.remove(&session);
            self.turns.pop_front();
        }
        None
    }

    /// Takes out the tasks of the session whose turn it is.
    fn take_first(&mut self) -> VecDeque<TaskKey> {
        let turn = self.turns.pop_front().expect("a task has just been shown");
        self.tasks.remove(&turn.session).expect("a session that has a turn has a queue")
    }
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU32;

    use super::*;

    fn task(serial: u32) -> TaskKey {
        TaskKey { index: serial, serial: NonZeroU32::new(serial).unwrap() }
    }

    fn drain(queue: &mut SharedQueue, counts: impl Fn(TaskKey) -> bool + Copy) -> Vec<u32> {
        std::iter::from_fn(|| {
            let task = queue.peek(counts, |_| 0, |_| false)?;
            queue.pop(0);
            Some(task.serial.get())
        })
        .collect()
    }

    #[test]
    fn priority_first_then_sessions_in_turn_then_arrival() {
        let (a, b) = (SessionKey(0), SessionKey(1));
        let mut queue = SharedQueue::default();
        (1..=4).for_each(|serial| queue.push(0, a, task(serial), 0));
        (11..=12).for_each(|serial| queue.push(0, b, task(serial), 0));
        queue.push(5, b, task(20), 0);
        queue.push(-1, a, task(30), 0);
        queue.push_front(0, b, task(10), 0);
        assert_eq!(drain(&mut queue, |_| true), [20, 1, 10, 2, 11, 3, 12, 4, 30]);
    }

    #[test]
    fn what_no_longer_counts_is_passed_over() {
        let (a, b) = (SessionKey(0), SessionKey(1));
        let mut queue = SharedQueue::default();
        (1..=4).for_each(|serial| queue.push(0, a, task(serial), 0));
        (11..=12).for_each(|serial| queue.push(0, b, task(serial), 0));
        let even = |task: TaskKey| task.serial.get().is_multiple_of(2);
        assert_eq!(drain(&mut queue, even), [2, 12, 4]);
        assert!(queue.levels.is_empty());
    }

    #[test]
    fn what_no_longer_counts_can_be_dropped_at_once() {
        let (a, b) = (SessionKey(0), SessionKey(1));
        let mut queue = SharedQueue::default();
        (1..=4).for_each(|serial| queue.push(0, a, task(serial), 0));
        queue.push(0, b, task(11), 0);
        queue.push(1, b, task(13), 0);
        queue.retain(|task| task.serial.get().is_multiple_of(2));
        assert_eq!(drain(&mut queue, |_| true), [2, 4]);
    }

    #[test]
    fn a_session_that_was_served_elsewhere_waits_for_its_turn_again() {
        let (a, b, c) = (SessionKey(0), SessionKey(1), SessionKey(2));
        let mut queue = SharedQueue::default();
        [a, b, c]
            .into_iter()
            .zip(1..)
            .for_each(|(session, serial)| queue.push(0, session, task(serial), 5));
        let served = |session| if session == a { 7 } else { 5 };
        assert_eq!(queue.peek(|_| true, served, |_| false), Some(task(2)));
        assert_eq!(drain(&mut queue, |_| true), [2, 3, 1]);
    }

    #[test]
    fn a_parked_session_is_met_once_and_comes_back_in_its_order() {
        let (a, b) = (SessionKey(0), SessionKey(1));
        let mut queue = SharedQueue::default();
        (1..=3).for_each(|serial| queue.push(0, a, task(serial), 0));
        queue.push(5, a, task(9), 0);
        queue.push(-1, b, task(11), 0);
        let mut met = 0;
        let mut parks = |session| {
            met += u32::from(session == a);
            session == a
        };
        assert_eq!(
            queue.peek(|_| true, |_| 0, &mut parks),
            Some(task(11)),
            "others are met, also below it"
        );
        queue.push_front(0, a, task(4), 0);
        queue.push(0, a, task(5), 0);
        (0..9).for_each(|_| assert_eq!(queue.peek(|_| true, |_| 0, &mut parks), Some(task(11))));
        assert_eq!(met, 2, "once at each priority");
        queue.retain(|task| task.serial.get() != 2);
        queue.resume(a, 7);
        assert_eq!(drain(&mut queue, |_| true), [9, 4, 1, 3, 5, 11]);
        assert!(queue.levels.is_empty() && queue.parked.is_empty());
    }
}
