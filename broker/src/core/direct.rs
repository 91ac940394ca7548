//! An engine's own queue: each session's tasks in the order of their submits, the sessions by arrival.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::sessions::SessionKey;
use super::tasks::{TaskKey, Tasks};
use super::time::Time;
use super::work::count;

/// Tasks for one engine alone.
///
/// A task whose arguments or dependencies are missing holds up its own session, and no other. Which session's first
/// task can run is worked out when something about it changes ([`DirectQueue::note`]), so that a long line that waits
/// costs nothing. An entry whose task has ended stays until it is the first of its line, or until there are more such
/// than others.
#[derive(Debug, Default)]
pub struct DirectQueue {
    lines: BTreeMap<SessionKey, Line>,
    /// The lines whose first task can run, by that task's submit.
    ready: BTreeSet<(Time, SessionKey)>,
    /// Those that pause between two attempts: they stand in no line, and hold nobody up.
    apart: BTreeSet<TaskKey>,
    len: usize,
    ended: usize,
}

#[derive(Debug, Default)]
struct Line {
    tasks: VecDeque<TaskKey>,
    ready: Option<Time>,
}

/// Entries of ended tasks that a queue may hold at least.
const ENDED_KEPT: usize = 64;

impl DirectQueue {
    /// Appends a task. [`DirectQueue::note`] follows.
    pub fn push_back(&mut self, session: SessionKey, task: TaskKey) {
        self.len += 1;
        self.lines.entry(session).or_default().tasks.push_back(task);
    }

    /// Puts a task in its place by its number: it has been here before, and was the first, or has followed another task
    /// to this engine. So whatever a task waits for, here or elsewhere, was submitted before it: no circle.
    /// [`DirectQueue::note`] follows.
    pub fn put_in_order(&mut self, session: SessionKey, key: TaskKey, tasks: &Tasks) {
        let Some(n) = tasks.get(key).map(|task| task.n) else { return };
        self.len += 1;
        let line = &mut self.lines.entry(session).or_default().tasks;
        let is_later = |other: &TaskKey| tasks.get(*other).is_some_and(|other| other.n > n);
        // Mostly at one of the ends: what comes back was the first, and what is new here is often the last.
        let last = line.iter().rev().find(|other| tasks.get(**other).is_some());
        // Mostly the first one is later; else it is found by its number, as the unfinished ones ascend.
        let at = last.filter(|last| is_later(last)).and_then(|_| line.iter().inspect(|_| count(1)).position(is_later));
        line.insert(at.unwrap_or(line.len()), key);
    }

    /// Takes a task out, wherever it stands. [`DirectQueue::note`] is part of it.
    pub fn take_out(&mut self, session: SessionKey, key: TaskKey, tasks: &Tasks) {
        let Some(line) = self.lines.get_mut(&session) else { return };
        if let Some(at) = line.tasks.iter().position(|task| *task == key) {
            line.tasks.remove(at);
            self.len -= 1;
        }
        self.note(session, tasks);
    }

    /// A task pauses between two attempts.
    pub fn set_apart(&mut self, task: TaskKey) {
        self.apart.insert(task);
    }

    /// A task has ended in its pause.
    pub fn forget_apart(&mut self, task: TaskKey) {
        self.apart.remove(&task);
    }

    /// A task is run again, after a pause or without. [`DirectQueue::note`] follows.
    pub fn queue_again(&mut self, session: SessionKey, task: TaskKey, tasks: &Tasks) {
        self.apart.remove(&task);
        self.put_in_order(session, task, tasks);
    }

    /// Something about a session's tasks here has changed.
    pub fn note(&mut self, session: SessionKey, tasks: &Tasks) {
        let Some(line) = self.lines.get_mut(&session) else { return };
        while line.tasks.front().is_some_and(|task| tasks.get(*task).is_none()) {
            line.tasks.pop_front();
            self.len -= 1;
            self.ended = self.ended.saturating_sub(1);
        }
        let first = line.tasks.front().filter(|task| tasks.is_queued(**task));
        let ready = first.and_then(|task| tasks.get(*task)).map(|task| task.submitted);
        if ready != line.ready {
            line.ready.into_iter().for_each(|at| _ = self.ready.remove(&(at, session)));
            ready.into_iter().for_each(|at| _ = self.ready.insert((at, session)));
            line.ready = ready;
        }
        if line.tasks.is_empty() {
            self.lines.remove(&session);
        }
        self.tidy(tasks);
    }

    /// A task of the queue has ended while it waited. [`DirectQueue::note`] follows.
    pub fn count_ended(&mut self, tasks: &Tasks) {
        self.ended += 1;
        self.tidy(tasks);
    }

    /// Drops the entries of ended tasks, if there are more of them than of others.
    fn tidy(&mut self, tasks: &Tasks) {
        if self.ended > ENDED_KEPT && self.ended * 2 > self.len {
            count(self.len);
            self.ended = 0;
            self.len = 0;
            for line in self.lines.values_mut() {
                line.tasks.retain(|task| tasks.get(*task).is_some());
                self.len += line.tasks.len();
            }
            let ready = &mut self.ready;
            self.lines.retain(|session, line| {
                if line.tasks.is_empty() {
                    line.ready.into_iter().for_each(|at| _ = ready.remove(&(at, *session)));
                }
                !line.tasks.is_empty()
            });
        }
    }

    /// The next task that can run.
    pub fn peek(&self) -> Option<TaskKey> {
        let (_, session) = self.ready.first()?;
        self.lines.get(session)?.tasks.front().copied()
    }

    /// Passes over the session whose task [`DirectQueue::peek`] has just shown, until the next [`DirectQueue::note`] of
    /// it.
    pub fn park(&mut self) {
        let Some((_, session)) = self.ready.pop_first() else { return };
        self.lines.get_mut(&session).into_iter().for_each(|line| line.ready = None);
    }

    /// Takes out what [`DirectQueue::peek`] has just shown. [`DirectQueue::note`] follows.
    pub fn pop(&mut self) {
        let Some((_, session)) = self.ready.pop_first() else { return };
        let Some(line) = self.lines.get_mut(&session) else { return };
        line.ready = None;
        if line.tasks.pop_front().is_some() {
            self.len -= 1;
        }
    }

    /// Whether a task waits that can run.
    pub fn has_ready(&self) -> bool {
        !self.ready.is_empty()
    }

    /// How many tasks there are.
    pub fn len(&self) -> usize {
        self.len - self.ended.min(self.len) + self.apart.len()
    }

    /// One session's tasks, in their order.
    pub fn of_session(&self, session: SessionKey) -> impl Iterator<Item = TaskKey> {
        self.lines.get(&session).into_iter().flat_map(|line| line.tasks.iter().copied()).inspect(|_| count(1))
    }

    /// The first unfinished task of each session that has one here.
    pub fn one_of_each_session(&self, tasks: &Tasks) -> impl Iterator<Item = TaskKey> {
        let of_lines = self.lines.values().filter_map(|line| {
            line.tasks.iter().inspect(|_| count(1)).copied().find(|task| tasks.get(*task).is_some())
        });
        of_lines.chain(self.apart.iter().copied())
    }

    /// All tasks: session by session, each in its order, and then those that pause.
    pub fn iter(&self) -> impl Iterator<Item = TaskKey> {
        let all = self.lines.values().flat_map(|line| line.tasks.iter().copied()).chain(self.apart.iter().copied());
        all.inspect(|_| count(1))
    }
}
