//! The ends of the session's last tasks, for a broker that was started again and does not know of
//! them.

use std::collections::VecDeque;

use furlong_wire::ids::{TaskId, TaskSeq};
use furlong_wire::limits::ENDS_REMEMBERED_MAX;
use furlong_wire::message::{Dependency, TaskOptions};

/// A window over the last [`ENDS_REMEMBERED_MAX`] numbers, a byte each.
#[derive(Debug, Default)]
pub struct Completed {
    /// The number of the first one.
    first: TaskSeq,
    /// True for each that succeeded; none if it has not ended.
    ends: VecDeque<Option<bool>>,
}

impl Completed {
    /// A task has ended.
    pub fn note(&mut self, n: TaskSeq, succeeded: bool) {
        // Tasks end in any order. This one is too far behind the last to be remembered.
        if n < self.first {
            return;
        }
        let next = self.first + self.ends.len() as u64;
        if n >= next {
            // So far ahead that nothing of the window is left: it is not filled up to there first.
            if n - next >= ENDS_REMEMBERED_MAX as u64 {
                self.ends.clear();
                self.first = n + 1 - ENDS_REMEMBERED_MAX as u64;
            }
            self.ends.resize((n - self.first) as usize + 1, None);
            let beyond = self.ends.len().saturating_sub(ENDS_REMEMBERED_MAX);
            self.ends.drain(..beyond);
            self.first += beyond as u64;
            assert!(self.ends.len() <= ENDS_REMEMBERED_MAX, "a byte for each of {n}");
        }
        let at = (n - self.first) as usize;
        self.ends[at] = Some(succeeded);
    }

    /// Leaves out of `after` what is met already. What can never be met stays: the broker says so,
    /// also if `own`, the first task of the submit, is to wait for itself or for a later one.
    pub fn leave_out_met(&self, own: TaskId, options: &mut TaskOptions) {
        if options
            .after
            .iter()
            .chain(&options.follow)
            .any(|dependency| is_not_before(dependency, own))
        {
            return;
        }
        let end_of = |dependency: &Dependency| {
            let n = dependency.task.n;
            let at = usize::try_from(n.checked_sub(self.first)?).ok()?;
            self.ends.get(at).copied().flatten().filter(|_| dependency.task.session == own.session)
        };
        let is_met = |dependency: &Dependency| {
            end_of(dependency).is_some_and(|succeeded| {
                if succeeded { dependency.success } else { dependency.failure }
            })
        };
        // Of several of which one is enough, those that have ended otherwise are left out only
        // while another may still come: when none can, the broker is to say why the task never
        // runs.
        if !options.after_any {
            options.after.retain(|dependency| !is_met(dependency));
        } else if options.after.iter().any(is_met) {
            options.after.clear();
        } else if options.after.iter().any(|dependency| end_of(dependency).is_none()) {
            options.after.retain(|dependency| end_of(dependency).is_none());
        }
    }
}

/// Makes the options of a submit those of each of its tasks alone, from `own` to `last`: one that
/// waits for any of them is refused as a whole, and so is each part then.
pub fn part(own: TaskId, last: TaskSeq, options: &mut TaskOptions) {
    let dependencies = options.after.iter_mut().chain(&mut options.follow);
    dependencies.filter(|dependency| is_not_before(dependency, own)).for_each(|dependency| {
        dependency.task.n = dependency.task.n.max(last);
    });
}

/// Returns true if a task was not submitted before another one of its session.
fn is_not_before(dependency: &Dependency, own: TaskId) -> bool {
    dependency.task.session == own.session && dependency.task.n >= own.n
}

#[cfg(test)]
mod tests {
    use furlong_wire::ids::SessionId;

    use super::*;

    const SESSION: SessionId = SessionId([7; 16]);
    /// Behind all that the tests name.
    const OWN: TaskId = TaskId { session: SESSION, n: TaskSeq::MAX };

    fn on(n: u64, success: bool, failure: bool) -> Dependency {
        Dependency { task: TaskId { session: SESSION, n: TaskSeq(n) }, success, failure }
    }

    fn left(ends: &Completed, after: &[Dependency], after_any: bool) -> Vec<u64> {
        let mut options =
            TaskOptions { after: after.to_vec(), after_any, ..TaskOptions::default() };
        ends.leave_out_met(OWN, &mut options);
        options.after.iter().map(|dependency| dependency.task.n.0).collect()
    }

    #[test]
    fn what_is_met_is_left_out_and_the_rest_is_the_brokers() {
        let mut ends = Completed::default();
        ends.note(TaskSeq(2), true);
        ends.note(TaskSeq(5), false);
        let all = [on(2, true, false), on(3, true, false), on(5, true, false), on(5, true, true)];
        assert_eq!(left(&ends, &all, false), [3, 5]);
        assert_eq!(left(&ends, &all, true), [0; 0], "one is enough");
        assert_eq!(left(&ends, &all[1..3], true), [3], "that one may still come");
        assert_eq!(left(&ends, &all[2..3], true), [5], "the broker says why it never will");
        let foreign = Dependency {
            task: TaskId { session: SessionId([8; 16]), n: TaskSeq(2) },
            success: true,
            failure: true,
        };
        assert_eq!(left(&ends, &[foreign], false), [2]);
    }

    #[test]
    fn what_waits_for_itself_is_the_brokers_whatever_is_met() {
        let mut ends = Completed::default();
        ends.note(TaskSeq(2), true);
        ends.note(TaskSeq(6), false);
        let (after, follow) = (vec![on(2, true, true)], vec![on(6, true, true)]);
        let mut options = TaskOptions { after, follow, after_any: true, ..TaskOptions::default() };
        let before = options.clone();
        ends.leave_out_met(TaskId { n: TaskSeq(5), ..OWN }, &mut options);
        assert_eq!(options, before);
        ends.leave_out_met(TaskId { n: TaskSeq(7), ..OWN }, &mut options);
        assert_eq!(options.after, []);
    }

    #[test]
    fn the_window_is_bounded_and_moves_on() {
        let mut ends = Completed::default();
        let last = 3 * ENDS_REMEMBERED_MAX as u64;
        for n in [1, 2, last, last - 1, last + 1, 1] {
            ends.note(TaskSeq(n), true);
        }
        assert!(ends.ends.len() <= ENDS_REMEMBERED_MAX);
        assert_eq!(
            left(
                &ends,
                &[on(2, true, true), on(last - 1, true, true), on(last + 1, true, true)],
                false
            ),
            [2]
        );
        let next = last + 2 * ENDS_REMEMBERED_MAX as u64;
        for n in last + 2..=next {
            ends.note(TaskSeq(n), true);
        }
        assert_eq!(ends.ends.len(), ENDS_REMEMBERED_MAX);
        assert_eq!(left(&ends, &[on(last, true, true), on(next, true, true)], false), [last]);
    }
}
