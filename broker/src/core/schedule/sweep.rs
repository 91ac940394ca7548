//! Tasks of an engine's own queue that end together, as what they need is gone: in parts, since
//! there may be very many.
//!
//! Until all of them have ended, none of the tasks that may be among them begins.

use furlong_wire::ids::{EngineId, TaskSeq};
use furlong_wire::message::{ErrorKind, TaskState};

use crate::core::attempts::Stopping;
use crate::core::keys::{Age, SessionKey, TaskKey};
use crate::core::sessions::table::Session;
use crate::core::tasks::end::{TaskEnd, namespace_lost};
use crate::core::tasks::table::Task;
use crate::core::turns::work::TASKS_PER_PART;
use crate::core::{Core, Time};

/// A look at the tasks that wait in an engine's queue, and how far that has come.
#[derive(Debug)]
pub(in crate::core) struct Sweep {
    number: u64,
    engine: EngineId,
    /// The session whose tasks they are; else those of all.
    of: Option<SessionKey>,
    reason: Reason,
    /// The next session and number.
    next: (SessionKey, TaskSeq),
    /// Tasks that were submitted later are not meant.
    until: Age,
}

/// The reason why tasks end.
#[derive(Clone, Debug)]
pub(in crate::core) enum Reason {
    /// An earlier task of the session has failed.
    Aborted,
    /// What they need may have been in the namespace of the interpreter that is gone. If somebody's
    /// forced cancel has ended it, what the same owner has submitted after that is meant for the
    /// next one.
    NamespaceLost(String, Option<Stopping>),
    /// The engine takes nothing any longer.
    Leaving(String),
    /// The engine has dropped results of an earlier start of the broker, and these may be among
    /// them.
    Repeated,
}

impl Core {
    /// Ends those tasks of an engine's queue that have a reason to: some at once, the others in
    /// later turns.
    pub(in crate::core) fn sweep(
        &mut self,
        now: Time,
        engine: EngineId,
        of: Option<SessionKey>,
        reason: Reason,
    ) {
        // What waits for an engine that is lost is lost with it.
        let Some(queue) =
            self.engines.get(engine).filter(|engine| engine.loss.is_none()).map(|it| &it.queue)
        else {
            return;
        };
        // Those that pause stand in none of the lines along which the parts go.
        let apart: Vec<TaskKey> = if of.is_none() { queue.apart().collect() } else { Vec::new() };
        self.tally.sweeps_made += 1;
        let next = (of.unwrap_or(SessionKey(0)), TaskSeq::MIN);
        // What is submitted while the parts are done is not meant, as if all had ended at once.
        let until = self.tasks.age();
        let mut sweep = Sweep { number: self.tally.sweeps_made, engine, of, reason, next, until };
        for task in apart {
            self.end_if_swept(now, &sweep, task);
        }
        if !self.sweep_part(now, &mut sweep) {
            // None of them begins meanwhile: they are to end as if all had ended at once.
            self.engines.update(engine, |engine| engine.queue.hold(of, sweep.number, &self.tasks));
            self.turns.chores.push(sweep.into());
        }
    }

    /// Goes on with what was begun.
    pub(in crate::core) fn go_on_sweeping(&mut self, now: Time, mut sweep: Sweep) {
        if !self.sweep_part(now, &mut sweep) {
            return self.turns.chores.push(sweep.into());
        }
        let Sweep { engine: id, of, number, .. } = sweep;
        self.engines.update(id, |engine| engine.queue.release(of, number, &self.tasks));
        self.schedule.direct_ready.insert(id);
    }

    /// Whether that was all.
    fn sweep_part(&mut self, now: Time, sweep: &mut Sweep) -> bool {
        let Some(engine) = self.engines.get(sweep.engine).filter(|engine| engine.loss.is_none())
        else {
            // It was lost since, and its queue with it.
            return true;
        };
        let last = sweep.of.unwrap_or(SessionKey::NOBODY);
        let part: Vec<_> = engine.queue.from(sweep.next, last).take(TASKS_PER_PART).collect();
        self.turns.work.add(part.len() + 1);
        let rest = part.get(TASKS_PER_PART - 1).map(|(session, n, _)| (*session, *n + 1));
        for (.., task) in part {
            self.end_if_swept(now, sweep, task);
        }
        if let Some(next) = rest {
            sweep.next = next;
        }
        rest.is_none()
    }

    fn end_if_swept(&mut self, now: Time, sweep: &Sweep, key: TaskKey) {
        // An entry of one that has ended stays in the line for a while.
        let Some(task) = self.tasks.get(key).filter(|_| key.is_of(sweep.until)) else { return };
        let id = sweep.engine;
        match &sweep.reason {
            Reason::Aborted if task.aborts_followers() => {
                let text =
                    format!("aborted: an earlier task of this session failed on engine {id}");
                self.end(
                    now,
                    key,
                    TaskEnd::by_broker(TaskState::Cancelled, ErrorKind::Aborted, text),
                );
            }
            Reason::NamespaceLost(how, forced)
                if task.needs_namespace() && !self.is_spared(task, *forced) =>
            {
                self.end(now, key, namespace_lost(id, how));
            }
            Reason::Leaving(reason) => {
                self.end(now, key, namespace_lost(id, &format!("the engine is leaving: {reason}")));
            }
            Reason::Repeated => self.lose_repeated(now, key),
            Reason::Aborted | Reason::NamespaceLost(..) => {}
        }
    }

    /// Whether a task was submitted by an owner after it has forced a cancel, and so is meant for
    /// the next interpreter.
    fn is_spared(&self, task: &Task, forced: Option<Stopping>) -> bool {
        let owner = self.sessions.get(task.session).map(Session::owner);
        forced.is_some_and(|forced| {
            task.times.submitted > forced.since && owner.is_some() && owner == forced.owner
        })
    }
}
