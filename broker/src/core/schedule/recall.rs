//! Work that an engine was given too early, and is asked to give back.

use std::time::Duration;

use furlong_wire::ids::{Attempt, EngineId};
use furlong_wire::message::{Attempts, ToEngine};

use crate::core::keys::{AttemptId, ClassId};
use crate::core::tasks::table::{Queue, Task};
use crate::core::{Core, Time};

/// The time an engine may keep short tasks assigned while another is idle, before some are taken
/// back.
const RECALL_AFTER: Duration = Duration::from_millis(2);
/// The number of busy engines that are examined for work that an idle one could take over.
const BUSY_SCAN_MAX: usize = 8;
/// The same over all classes, and classes of idle engines for which they are looked at.
const BUSY_MAX: usize = 32;

impl Core {
    /// Work of its own queue is about to go to an engine: shared tasks that it has not begun are
    /// for others.
    pub(super) fn recall_for_direct(&mut self, id: EngineId) {
        let engine = self.engines.get(id).expect("an engine that is given work is in the table");
        let shared = |attempt: &&AttemptId| {
            let is_shared = self.attempts.get(**attempt).is_some_and(|given| !given.direct);
            is_shared && !engine.work.stood_in.contains(*attempt)
        };
        let in_hand = engine.work.assigned.len()
            - engine.work.assigned_direct as usize
            - engine.work.stood_in.len();
        let runs_the_only_one =
            in_hand == 1 && engine.work.assigned.iter().next().is_some_and(|first| shared(&first));
        if in_hand == 0 || runs_the_only_one || !engine.work.recalled.is_empty() {
            return;
        }
        // The first assigned is what it runs. The newest go first: each that comes back goes to the
        // front of its queue.
        let counts: Vec<AttemptId> =
            engine.work.assigned.iter().skip(1).filter(shared).rev().copied().collect();
        self.recall(id, counts);
    }

    /// An engine's interpreter is gone: what needs its namespace and was on its way to the engine
    /// at that moment must not begin in the next one. The engine itself gives back what it had.
    pub(in crate::core) fn recall_direct(&mut self, id: EngineId) {
        let engine = self.engines.get(id).expect("an engine that was swept is in the table");
        let needs = |attempt: &&AttemptId| {
            let task = self.attempts.get(**attempt).and_then(|given| self.tasks.get(given.task));
            task.is_some_and(Task::needs_namespace)
        };
        let counts: Vec<AttemptId> = engine.work.assigned.iter().filter(needs).copied().collect();
        if !counts.is_empty() {
            self.recall(id, counts);
        }
    }

    pub(in crate::core) fn recall(&mut self, id: EngineId, counts: Vec<AttemptId>) {
        let process = self.engines.get(id).and_then(|engine| engine.process);
        // An engine that is away holds what it had, and says so when it is back.
        let Some(process) = process.and_then(|key| self.processes.get(&key)) else { return };
        let connection = process.connection;
        let attempts: Vec<Attempt> = counts.iter().map(|attempt| self.attempt(*attempt)).collect();
        self.engines.update(id, |engine| engine.work.recalled.extend(counts));
        self.to_engine_in_parts(connection, &attempts, |attempts| {
            ToEngine::Recall(Attempts { attempts })
        });
    }

    /// Asks a busy engine for half of what it has been assigned, if another has nothing and could
    /// run it.
    pub(super) fn recall_for_idle(&mut self, now: Time) {
        let looked_at = self.schedule.recall_looked_at;
        if self.engines.classes() > BUSY_SCAN_MAX
            && looked_at.is_some_and(|at| now < at.after(RECALL_AFTER))
        {
            // Many classes are not looked at after each batch of messages: nothing is taken back in
            // a shorter time anyway.
            self.schedule.recall_at =
                looked_at.map(|at| at.after(RECALL_AFTER)).filter(|_| !self.attempts.is_empty());
            return;
        }
        (self.schedule.recall_at, self.schedule.recall_looked_at) = (None, Some(now));
        let busiest: Vec<EngineId> = self.engines.busiest(BUSY_SCAN_MAX).take(BUSY_MAX).collect();
        if busiest.is_empty() {
            return;
        }
        let idle = self.engines.idle().map(|(class, _)| class).take(BUSY_MAX);
        let spare =
            |class: ClassId| busiest.iter().find_map(|id| Some((*id, self.spare(*id, class)?)));
        let Some((id, (oldest, counts))) = idle.into_iter().find_map(spare) else { return };
        if now < oldest.after(RECALL_AFTER) {
            self.schedule.recall_at = Some(oldest.after(RECALL_AFTER));
            return;
        }
        self.recall(id, counts);
        // Others may be idle too, and this engine may have nothing left to give.
        self.schedule.recall_at = Some(now.after(RECALL_AFTER));
    }

    /// Returns an engine's surplus shared work, beyond what it runs, for engines of the class
    /// `idle`: the time at which the oldest of its tasks was assigned, and half of the attempts,
    /// the newest first. None if there is nothing to take, or some was asked for already.
    pub(super) fn spare(&self, id: EngineId, idle: ClassId) -> Option<(Time, Vec<AttemptId>)> {
        // What stands behind a task that waits was recalled when it began to.
        let engine = self.engines.get(id).filter(|engine| engine.work.lent.is_empty())?;
        let engine =
            Some(engine).filter(|engine| engine.load() >= 2 && engine.work.recalled.is_empty())?;
        let task = |attempt: &AttemptId| {
            self.attempts.get(*attempt).and_then(|given| self.tasks.get(given.task))
        };
        let oldest =
            engine.work.assigned.iter().find_map(|attempt| task(attempt)?.times.assigned)?;
        let movable = |attempt: &&AttemptId| {
            task(attempt).is_some_and(|task| {
                // One that demands a time might come back here, and be recalled again.
                let placements = &self.schedule.placements;
                task.queue == Queue::Shared
                    && placements.get(task.placement).demands.time_s == 0
                    && placements.fits(task.placement, idle, &self.engines)
            })
        };
        let half = (engine.load() as usize / 2).max(1);
        // The first assigned is what it runs.
        let counts: Vec<AttemptId> =
            engine.work.assigned.iter().skip(1).rev().filter(movable).take(half).copied().collect();
        (!counts.is_empty()).then_some((oldest, counts))
    }
}
