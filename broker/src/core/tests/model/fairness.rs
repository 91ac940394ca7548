//! Checks that a task may be run, and that it ended for a reason.

use furlong_wire::ids::{EngineId, TaskId};
use furlong_wire::message::{Dependency, ErrorKind, Finished};

use crate::core::tasks::end::DependencyEnd;
use crate::core::tests::model::{Model, Name, Submitted};

/// The standing of a task on which another depends.
enum Standing {
    Unfinished,
    Ended(DependencyEnd),
    /// It went with its session: cancelled, wherever it was.
    Unseen,
}

impl Model {
    /// All, or one, of what a task waits for has ended as it should, and where it should.
    pub fn dependencies_are_met(&self, engine: EngineId, name: Name) {
        let options = &self.tasks[&name].options;
        let is_met = |demand: &Dependency| self.is_met(demand);
        let follows = |demand: &Dependency| match self.standing(demand.task) {
            Standing::Ended(ending) => self.is_met(demand) && ending.engine == Some(engine),
            Standing::Unseen => self.is_met(demand),
            Standing::Unfinished => false,
        };
        let (mut after, mut follow) = (options.after.iter(), options.follow.iter());
        let after = if options.after_any {
            after.len() == 0 || after.any(is_met)
        } else {
            after.all(is_met)
        };
        assert!(after, "{name:?} runs before what it waits for: {:?}", options.after);
        let follow = if options.follow_any {
            follow.len() == 0 || follow.any(follows)
        } else {
            follow.all(follows)
        };
        assert!(follow, "{name:?} runs on engine {engine}, and follows {:?}", options.follow);
    }

    fn standing(&self, task: TaskId) -> Standing {
        let name = (task.session, task.n.0);
        match self.ends.get(&name) {
            Some(ending) => Standing::Ended(*ending),
            None if self.is_unfinished(name) => Standing::Unfinished,
            None => Standing::Unseen,
        }
    }

    fn is_met(&self, demand: &Dependency) -> bool {
        match self.standing(demand.task) {
            Standing::Ended(ending) if ending.succeeded => demand.success,
            Standing::Ended(_) | Standing::Unseen => demand.failure,
            Standing::Unfinished => false,
        }
    }

    /// Returns true if dependencies can no longer be met.
    fn is_impossible(&self, demands: &[Dependency], any: bool) -> bool {
        let fails = |demand: &Dependency| {
            !self.is_unfinished((demand.task.session, demand.task.n.0)) && !self.is_met(demand)
        };
        if any {
            !demands.is_empty() && demands.iter().all(fails)
        } else {
            demands.iter().any(fails)
        }
    }

    /// Returns true if a task that follows others has no engine: no engine has run one, or it ran
    /// elsewhere than another, or the engine is not the one that the submit names, or was gone.
    fn has_no_place(&self, Submitted { target, options, .. }: &Submitted) -> bool {
        let mut first = None;
        options.follow.iter().filter(|demand| self.is_met(demand)).any(|demand| {
            match self.standing(demand.task) {
                Standing::Ended(DependencyEnd { engine: Some(id), .. }) => {
                    let elsewhere =
                        *first.get_or_insert(id) != id || target.is_some_and(|target| target != id);
                    elsewhere || self.gone.contains(&id)
                }
                _ => true,
            }
        })
    }

    /// A task ends for a reason that there was.
    pub fn end_is_just(&self, name: Name, finished: &Finished) {
        let task = &self.tasks[&name];
        let Submitted { target, ref options, at, .. } = *task;
        let was_given = self.given.contains_key(&name) || finished.attempts > 0;
        let direct = target.is_some();
        let may_be_bound = direct || !options.follow.is_empty();
        let contradicts = options.error_retries > 0 && (options.at_most_once || direct);
        let waited_ms = self.farm.now.micros_since(at) / 1000;
        let kind = finished.outcome.error.as_ref().map(|error| error.kind);
        let is_just = match kind {
            None | Some(ErrorKind::Remote) => was_given,
            Some(ErrorKind::RunTimeout) => {
                options.run_timeout_ms.is_some() && self.runs.contains_key(&name)
            }
            Some(ErrorKind::QueueTimeout) => {
                options.queue_timeout_ms.is_some_and(|limit| waited_ms >= limit)
            }
            Some(ErrorKind::EngineLost) => was_given || may_be_bound,
            Some(ErrorKind::Aborted) => options.abort_on_error && may_be_bound,
            Some(ErrorKind::Cancelled) => self.cancelled.contains(&name),
            Some(ErrorKind::Unsupported) => contradicts || may_be_bound,
            Some(ErrorKind::Forbidden | ErrorKind::UnknownEngine) => direct,
            Some(ErrorKind::Dependency) => {
                let impossible = self.is_impossible(&options.after, options.after_any)
                    || self.is_impossible(&options.follow, options.follow_any);
                task.is_stray || impossible || self.has_no_place(task)
            }
            Some(_) => true,
        };
        assert!(is_just, "{name:?} ended without a reason: {finished:?}");
        let errors_of_its_own = kind == Some(ErrorKind::Remote) && !direct;
        assert!(
            !errors_of_its_own || finished.attempts > options.error_retries,
            "{name:?} is to be run again"
        );
    }
}
