//! An engine's own queue: each session's tasks in the order of their submits, the sessions by
//! arrival.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use furlong_wire::ids::TaskSeq;

use crate::core::keys::{SessionKey, TaskKey};
use crate::core::tasks::table::Tasks;
use crate::core::time::Time;
use crate::core::turns::work::count;

/// Tasks for one engine alone.
///
/// A task whose arguments or dependencies are missing holds up its own session, and no other. Which
/// session's first task can run is worked out when something about it changes
/// ([`DirectQueue::note`]), so that a long line that waits costs nothing. An entry whose task has
/// ended stays until it is the first of its line, or until there are more such than others.
#[derive(Debug, Default)]
pub struct DirectQueue {
    lines: BTreeMap<SessionKey, Line>,
    /// The lines whose first task can run, by that task's submit.
    ready: BTreeSet<(Time, SessionKey)>,
    /// Those that pause between two attempts: they stand in no line, and hold nobody up.
    apart: BTreeSet<TaskKey>,
    /// Sessions whose tasks do not begin at present, or all of them: for which sweep.
    held: BTreeSet<(Option<SessionKey>, u64)>,
    len: usize,
    ended: usize,
}

#[derive(Debug, Default)]
struct Line {
    /// By their numbers.
    tasks: VecDeque<(TaskSeq, TaskKey)>,
    ready: Option<Time>,
}

/// Entries of ended tasks that a queue may hold at least.
const ENDED_KEPT: usize = 64;

impl DirectQueue {
    /// Appends a task. [`DirectQueue::note`] follows.
    pub fn push_back(&mut self, session: SessionKey, n: TaskSeq, task: TaskKey) {
        self.len += 1;
        let line = &mut self.lines.entry(session).or_default().tasks;
        assert!(line.back().is_none_or(|(last, _)| *last < n), "task {n} comes too late");
        line.push_back((n, task));
    }

    /// Puts a task in its place by its number: it has been here before, and was the first, or has
    /// followed another task to this engine. So whatever a task waits for, here or elsewhere, was
    /// submitted before it: no circle. [`DirectQueue::note`] follows.
    pub fn put_in_order(&mut self, session: SessionKey, key: TaskKey, tasks: &Tasks) {
        let n = tasks.get(key).expect("a task that is put into a line has not ended").n;
        self.len += 1;
        let line = &mut self.lines.entry(session).or_default().tasks;
        let at = line.partition_point(|(other, _)| *other < n);
        assert!(line.get(at).is_none_or(|(other, _)| *other != n), "task {n} stands there twice");
        line.insert(at, (n, key));
    }

    /// Takes a task out, wherever it stands. [`DirectQueue::note`] is part of it.
    pub fn take_out(&mut self, session: SessionKey, key: TaskKey, tasks: &Tasks) {
        let line = self.lines.get_mut(&session).expect("a task that waits here stands in a line");
        let at = line.tasks.iter().position(|(_, task)| *task == key);
        line.tasks.remove(at.expect("a task that waits here stands in its session's line"));
        self.len -= 1;
        self.note(session, tasks);
    }

    /// A task pauses between two attempts.
    pub fn set_apart(&mut self, task: TaskKey) {
        let is_new = self.apart.insert(task);
        assert!(is_new, "{task:?} pauses twice");
    }

    /// A task has ended in its pause.
    pub fn forget_apart(&mut self, task: TaskKey) {
        let was_apart = self.apart.remove(&task);
        assert!(was_apart, "{task:?} does not pause here");
    }

    /// A task is run again, after a pause or without. [`DirectQueue::note`] follows.
    pub fn queue_again(&mut self, session: SessionKey, task: TaskKey, tasks: &Tasks) {
        self.apart.remove(&task);
        self.put_in_order(session, task, tasks);
    }

    /// Something about a session's tasks here has changed.
    pub fn note(&mut self, session: SessionKey, tasks: &Tasks) {
        // All that the session had here has gone.
        let Some(line) = self.lines.get_mut(&session) else { return };
        while line.tasks.front().is_some_and(|(_, task)| tasks.get(*task).is_none()) {
            line.tasks.pop_front();
            assert!(self.ended > 0 && self.len > 0, "an entry of an ended task is not counted");
            self.len -= 1;
            self.ended -= 1;
        }
        let is_held = holds(&self.held, Some(session));
        let first = line.tasks.front().filter(|(_, task)| !is_held && tasks.is_queued(*task));
        let ready = first.and_then(|(_, task)| tasks.get(*task)).map(|task| task.times.submitted);
        if ready != line.ready {
            if let Some(at) = line.ready {
                self.ready.remove(&(at, session));
            }
            if let Some(at) = ready {
                self.ready.insert((at, session));
            }
            line.ready = ready;
        }
        if line.tasks.is_empty() {
            self.lines.remove(&session);
        }
        self.tidy(tasks);
    }

    /// A task that was for this engine has ended while it waited. [`DirectQueue::note`] follows.
    pub fn count_ended(&mut self, session: SessionKey, n: TaskSeq, tasks: &Tasks) {
        // A submit for an engine that is being lost ends before it comes to stand in a line.
        let line = self.lines.get(&session).map(|line| &line.tasks);
        if line.is_some_and(|line| line.binary_search_by_key(&n, |(other, _)| *other).is_ok()) {
            self.ended += 1;
            self.tidy(tasks);
        }
    }

    /// Drops the entries of ended tasks, if there are more of them than of others.
    fn tidy(&mut self, tasks: &Tasks) {
        if self.ended > ENDED_KEPT && self.ended * 2 > self.len {
            count(self.len);
            let left = self.len - self.ended;
            self.ended = 0;
            self.len = 0;
            for line in self.lines.values_mut() {
                line.tasks.retain(|(_, task)| tasks.get(*task).is_some());
                self.len += line.tasks.len();
            }
            assert!(self.len == left, "{} entries are left, and {left} were counted", self.len);
            let ready = &mut self.ready;
            self.lines.retain(|session, line| {
                if line.tasks.is_empty()
                    && let Some(at) = line.ready
                {
                    ready.remove(&(at, *session));
                }
                !line.tasks.is_empty()
            });
        }
    }

    /// The next task that can run.
    pub fn peek(&self) -> Option<TaskKey> {
        let (_, session) = self.ready.first().filter(|_| !holds(&self.held, None))?;
        let line = self.lines.get(session).expect("a session that is ready has a line");
        Some(line.tasks.front().expect("a line that is ready has a first task").1)
    }

    /// A session's tasks do not begin until that sweep is over; or those of all sessions.
    pub fn hold(&mut self, session: Option<SessionKey>, sweep: u64, tasks: &Tasks) {
        let is_new = self.held.insert((session, sweep));
        assert!(is_new, "sweep {sweep} has begun twice");
        if let Some(session) = session {
            self.note(session, tasks);
        }
    }

    /// A sweep is over.
    pub fn release(&mut self, session: Option<SessionKey>, sweep: u64, tasks: &Tasks) {
        // It may not be there: the engine was lost meanwhile, and has come back with a new queue.
        self.held.remove(&(session, sweep));
        if let Some(session) = session {
            self.note(session, tasks);
        }
    }

    /// Passes over the session whose task [`DirectQueue::peek`] has just shown, until the next
    /// [`DirectQueue::note`] of it.
    pub fn park(&mut self) {
        let (_, session) = self.ready.pop_first().expect("a session has just been shown");
        let line = self.lines.get_mut(&session).expect("a session that is ready has a line");
        line.ready = None;
    }

    /// Takes out what [`DirectQueue::peek`] has just shown. [`DirectQueue::note`] follows.
    pub fn pop(&mut self) {
        let (_, session) = self.ready.pop_first().expect("a session has just been shown");
        let line = self.lines.get_mut(&session).expect("a session that is ready has a line");
        line.ready = None;
        let task = line.tasks.pop_front();
        assert!(task.is_some(), "a line that is ready has a first task");
        self.len -= 1;
    }

    /// Returns true if a task that can run is waiting.
    pub fn has_ready(&self) -> bool {
        !self.ready.is_empty() && !holds(&self.held, None)
    }

    /// Returns the number of tasks.
    pub fn len(&self) -> usize {
        self.len - self.ended + self.apart.len()
    }

    /// The tasks in line from a session's number on, up to those of the session `last`.
    pub fn from(
        &self,
        (first, n): (SessionKey, TaskSeq),
        last: SessionKey,
    ) -> impl Iterator<Item = (SessionKey, TaskSeq, TaskKey)> {
        let lines = self.lines.range(first..=last);
        let tasks = lines.flat_map(move |(session, line)| {
            let from = if *session == first {
                line.tasks.partition_point(|(other, _)| *other < n)
            } else {
                0
            };
            line.tasks.range(from..).map(|(n, task)| (*session, *n, *task))
        });
        tasks.inspect(|_| count(1))
    }

    /// Those that pause between two attempts.
    pub fn apart(&self) -> impl Iterator<Item = TaskKey> {
        self.apart.iter().inspect(|_| count(1)).copied()
    }

    /// Whether a session's tasks do not begin at present, for the tests.
    #[cfg(any(test, feature = "invariants"))]
    pub fn is_held(&self, session: SessionKey) -> bool {
        holds(&self.held, None) || holds(&self.held, Some(session))
    }

    /// The first unfinished task of each session that has one here.
    pub fn one_of_each_session(&self, tasks: &Tasks) -> impl Iterator<Item = TaskKey> {
        let of_lines = self.lines.values().filter_map(|line| {
            let tasks_of = line.tasks.iter().inspect(|_| count(1)).map(|(_, task)| *task);
            tasks_of.into_iter().find(|task| tasks.get(*task).is_some())
        });
        of_lines.chain(self.apart.iter().copied())
    }

    /// All tasks: session by session, each in its order, and then those that pause.
    pub fn iter(&self) -> impl Iterator<Item = TaskKey> {
        let in_line = self.lines.values().flat_map(|line| line.tasks.iter().map(|(_, task)| *task));
        in_line.inspect(|_| count(1)).chain(self.apart())
    }
}

/// Whether a sweep holds the tasks of a session, or those of all.
fn holds(held: &BTreeSet<(Option<SessionKey>, u64)>, session: Option<SessionKey>) -> bool {
    !held.is_empty() && held.range((session, 0)..=(session, u64::MAX)).next().is_some()
}
