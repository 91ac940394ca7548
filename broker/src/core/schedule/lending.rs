//! Slots that are lent: while a task waits for tasks of this cluster, its engine runs others in its
//! place.
//!
//! An engine says which of its attempts wait, and for which sessions. Their slot's own interpreter
//! is in use, so another one stands in: only shared tasks go there, and only such as are nested
//! deeper than everything that waits on that engine. So whatever waits, there is a place for what
//! it waits for; and since each stand-in runs something deeper than the one before, a slot has at
//! most as many of them as tasks are nested.
//!
//! A task's depth is a part of its demands: a queue holds tasks of one depth, and that of depth 0
//! knows nothing of this.

use furlong_wire::ids::{Attempt, EngineId, TaskSeq};
use furlong_wire::limits::{LENT_SESSIONS_MAX, NESTING_MAX};
use furlong_wire::message::Lent;

use super::placement::Placements;
use crate::core::engines::engine::{Engine, Loan};
use crate::core::engines::table::Engines;
use crate::core::keys::{AttemptId, PlacementId, ProcessKey, SessionKey, TaskKey};
use crate::core::sessions::table::Parent;
use crate::core::tasks::table::{Queue, State};
use crate::core::turns::chores::Chore;
use crate::core::turns::work::TASKS_PER_PART;
use crate::core::{Core, PeerMisbehaved, Time};

/// An engine with a slot that is lent and has nobody standing in, for a task of this placement.
pub(in crate::core) fn lender(
    engines: &Engines,
    placements: &Placements,
    placement: PlacementId,
    until: Option<Time>,
) -> Option<EngineId> {
    let depth = placements.get(placement).demands.depth;
    if depth == 0 {
        return None;
    }
    let fits = |engine: &Engine| {
        engine.class.is_some_and(|class| placements.fits(placement, class, engines))
    };
    let stays = |engine: &Engine| until.is_none_or(|until| engine.stays_until(until));
    engines
        .lenders()
        .find(|(_, engine)| fits(engine) && engine.stands_in_for(depth) && stays(engine))
        .map(|(id, _)| id)
}

impl Engine {
    /// Returns true if the task in the slot's own interpreter waits for tasks.
    pub fn is_blocked(&self) -> bool {
        self.work.lent.iter().any(|loan| !self.work.stood_in.contains(&loan.attempt))
    }

    /// Returns true if a stand-in would run a task of that depth: all that is here waits, and is
    /// less deep.
    fn stands_in_for(&self, depth: u32) -> bool {
        let waits =
            |attempt: &AttemptId| self.work.lent.iter().any(|loan| loan.attempt == *attempt);
        let is_idle = self.is_blocked() || self.work.assigned.len() == self.work.stood_in.len();
        is_idle
            && self.work.stood_in.iter().all(waits)
            && self.work.lent.iter().all(|loan| loan.depth < depth)
    }

    /// An attempt is no longer here.
    pub fn forget_loan(&mut self, attempt: AttemptId) {
        if !self.work.lent.is_empty() {
            self.work.lent.retain(|loan| loan.attempt != attempt);
        }
        if !self.work.stood_in.is_empty() {
            self.work.stood_in.remove(&attempt);
        }
    }
}

impl Core {
    /// Returns the nesting depth of an attempt.
    pub(in crate::core) fn depth_of(&self, attempt: AttemptId) -> u32 {
        let session = self.attempts.get(attempt).and_then(|given| self.sessions.get(given.session));
        session.map_or(0, |session| session.nesting.depth)
    }

    /// An attempt waits for tasks of these sessions.
    pub(in crate::core) fn lend(
        &mut self,
        now: Time,
        key: ProcessKey,
        lent: &Lent,
    ) -> Result<(), PeerMisbehaved> {
        if lent.sessions.len() > LENT_SESSIONS_MAX {
            return Err(PeerMisbehaved::Limit);
        }
        let Some(given) = self.given(key, lent.attempt)? else { return Ok(()) };
        // What is held of an earlier start has no session here, or the session is over.
        let Some(owner) = self.sessions.get(given.session).map(|session| session.claims.owner)
        else {
            return Ok(());
        };
        let attempt = lent.attempt.id;
        let depth = self.depth_of(attempt);
        for id in &lent.sessions {
            // Of the same owner only: an engine must not move other people's tasks.
            let session =
                self.sessions.find(owner, *id).filter(|session| *session != given.session);
            if let Some(session) = session {
                self.deepen(session, attempt, depth + 1);
            }
        }
        self.engines.update(given.engine, |engine| {
            if engine.work.lent.iter().all(|loan| loan.attempt != attempt) {
                engine.work.lent.push(Loan { attempt, depth });
            }
        });
        // Now that it counts as waiting: what stands behind it may be what it waits for.
        self.recall_from_behind(given.engine);
        self.look_for_circles(now);
        Ok(())
    }

    /// Attempts go on.
    pub(in crate::core) fn back(
        &mut self,
        key: ProcessKey,
        attempts: &[Attempt],
    ) -> Result<(), PeerMisbehaved> {
        for attempt in attempts {
            let Some(given) = self.given(key, *attempt)? else { continue };
            let went_on =
                |engine: &mut Engine| engine.work.lent.retain(|loan| loan.attempt != attempt.id);
            self.engines.update(given.engine, went_on);
        }
        Ok(())
    }

    /// Recalls tasks that have not begun behind a task that waits: it may be waiting for one of
    /// them.
    fn recall_from_behind(&mut self, id: EngineId) {
        let Some(engine) = self.engines.get(id).filter(|engine| engine.is_blocked()) else {
            return;
        };
        let waits =
            |attempt: &AttemptId| engine.work.lent.iter().any(|loan| loan.attempt == *attempt);
        let is_behind = |attempt: &&AttemptId| {
            let is_shared = self.attempts.get(**attempt).is_some_and(|given| !given.direct);
            is_shared
                && !waits(attempt)
                && !engine.work.stood_in.contains(attempt)
                && !engine.work.recalled.contains(attempt)
        };
        // The newest go first: each that comes back goes to the front of its queue.
        let behind: Vec<AttemptId> =
            engine.work.assigned.iter().rev().filter(is_behind).copied().collect();
        if !behind.is_empty() {
            self.recall(id, behind);
        }
    }

    /// A task on an engine waits for a session's tasks: they are nested as deep as that makes them.
    fn deepen(&mut self, key: SessionKey, attempt: AttemptId, depth: u32) {
        let parent = self.sessions.get(key).and_then(|session| session.nesting.parent);
        // One that was opened by a pass stays with its attempt, with which it ends.
        if parent.is_none_or(|parent| !parent.is_bound) {
            self.sessions.set_parent(key, Parent { attempt, is_bound: false });
        }
        let session = self.sessions.get_mut(key).expect("a session that was found is there");
        // Never less deep: another task, nested deeper, may wait for the same session.
        if session.nesting.depth >= depth || depth > NESTING_MAX {
            return;
        }
        session.nesting.depth = depth;
        self.move_tasks_deeper(key, TaskSeq::MIN);
    }

    /// Moves tasks of a session, from this one on, to the queues of its depth: some now, the others
    /// in later turns. What has not been moved waits as before, and no stand-in runs it yet.
    pub(in crate::core) fn move_tasks_deeper(&mut self, key: SessionKey, from: TaskSeq) {
        // It may have ended since an earlier part.
        let Some(session) = self.sessions.get(key) else { return };
        let (depth, tasks) =
            (session.nesting.depth, session.ledger.tasks.range(from, TaskSeq::MAX));
        let part: Vec<(TaskSeq, TaskKey)> =
            tasks.take(TASKS_PER_PART).map(|(n, task)| (n, *task)).collect();
        self.turns.work.add(part.len());
        for (_, task) in &part {
            self.move_deeper(*task, depth);
        }
        if let Some((last, _)) = part.get(TASKS_PER_PART - 1) {
            self.turns.chores.push(Chore::Deepen(key, *last + 1));
        }
    }

    /// Moves a shared task to the queue of its new depth. Its entry in the old one is stale.
    fn move_deeper(&mut self, key: TaskKey, depth: u32) {
        let task = self.tasks.get_mut(key).filter(|task| task.queue == Queue::Shared);
        let Some(task) = task else { return };
        let Some(entered) = self.schedule.placements.enter_deeper(task.placement, depth) else {
            // There are as many sets of demands as may be: it waits as before.
            return;
        };
        let before = std::mem::replace(&mut task.placement, entered);
        let (priority, session, is_queued) =
            (task.priority(), task.session, task.state == State::Queued);
        // One that was submitted when the session had this depth is where it belongs.
        if is_queued && before != entered {
            let queue = &mut self.schedule.placements.get_mut(entered).queue;
            queue.push(priority, session, key, self.schedule.shared_given);
            self.schedule.placements.count_waiting(entered, true);
            self.schedule.placements.count_waiting(before, false);
            self.schedule.placements.count_stale(before, &self.tasks);
        }
        self.schedule.placements.leave(before);
    }
}
