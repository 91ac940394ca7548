//! Work that a single event leaves behind and that is done in later turns, so that others are
//! served meanwhile.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;

use furlong_wire::ids::{EngineId, OwnerId, SessionId, TaskSeq};

use super::rest::{Named, Rest};
use super::shares::Shares;
use super::work::TASKS_PER_PART;
use crate::core::keys::{ProcessKey, SessionKey, TaskKey};
use crate::core::requests::shutdown::Stop;
use crate::core::schedule::sweep::Sweep;
use crate::core::{ConnectionId, Core, Time};

/// All that is left to do.
#[derive(Debug, Default)]
pub struct Chores {
    queue: VecDeque<Chore>,
    /// Those of them that clients have left undone.
    left: Shares<LEFT_MAX>,
}

/// Something that is done a part at a time.
#[derive(Debug)]
pub(in crate::core) enum Chore {
    /// Acts on the tasks that a client named whose connection is gone meanwhile.
    Act(OwnerId, Named),
    /// Ends a session.
    EndSession(EndingSession),
    /// Loses an engine, with what it has.
    LoseEngine(EngineId),
    /// Moves what unreachable engines have to others.
    Reassign(VecDeque<EngineId>),
    /// Ends tasks of an engine's queue.
    Sweep(Sweep),
    /// Tells engine processes, from this one on, what they need not hold any longer.
    TellReleased(ProcessKey),
    /// Releases what a process that leaves holds, from this task on.
    ReleaseAll(ProcessKey, (SessionKey, TaskSeq)),
    /// Ends what engines hold of a session of an earlier start.
    EndOrphans(SessionId),
    /// The same does not wait for longer than that, from this task on.
    ShortenOrphans(SessionId, TaskSeq, Time),
    /// Moves tasks of a session, from this one on, to the queues of its depth.
    Deepen(SessionKey, TaskSeq),
    /// Stops engines on the request of an administrator whose connection is gone meanwhile.
    Stop(OwnerId, Stop),
    /// Lets go on what has waited for the engines of an earlier start, all of which are here or
    /// given up.
    EndWaits(BTreeSet<TaskKey>),
}

impl From<Sweep> for Chore {
    fn from(sweep: Sweep) -> Self {
        Self::Sweep(sweep)
    }
}

/// A session that is over, and how far that has come.
#[derive(Clone, Debug)]
pub(in crate::core) struct EndingSession {
    /// The identifier.
    pub key: SessionKey,
    /// In which manner.
    pub manner: Manner,
    /// The number of the next task to look at, when the results are done with.
    pub next: Option<TaskSeq>,
}

/// The manner in which a session ends.
#[derive(Clone, Debug)]
pub(in crate::core) enum Manner {
    /// What is to be kept is kept, and goes on.
    AsWanted,
    /// The same, and all results are kept.
    KeepingAll,
    /// Everything is cancelled, for this reason.
    WithAll(Arc<str>),
}

impl Manner {
    /// True if all results are retained.
    pub fn keeps_all(&self) -> bool {
        matches!(self, Self::KeepingAll)
    }

    /// Whether what is to be kept goes on.
    pub fn lets_go_on(&self) -> bool {
        !matches!(self, Self::WithAll(_))
    }

    /// The reason why tasks are cancelled, if it is not their client's wish.
    pub fn why(&self) -> Option<&str> {
        if let Self::WithAll(why) = self { Some(why) } else { None }
    }
}

/// The maximum number of chores left by clients that are gone, of which each owner has its share.
/// The rest stays undone: nobody was told that it is done.
const LEFT_MAX: usize = 256;

impl Chores {
    /// Something is left to do.
    pub(in crate::core) fn push(&mut self, chore: Chore) {
        self.queue.push_back(chore);
    }

    /// Whether nothing is left to do.
    pub fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }
}

impl Core {
    /// Returns the time of the next chore: at once, if one is left.
    pub(in crate::core) fn next_chore(&self) -> Option<Time> {
        let is_idle = self.turns.chores.is_empty()
            && !self.waiting.dependents.has_ends()
            && self.peers.events.are_told();
        (!is_idle).then_some(Time(0))
    }

    /// Does a part of what is left to do.
    pub(in crate::core) fn do_chores(&mut self, now: Time) {
        self.tell_dependents(now);
        self.tell_events(TASKS_PER_PART);
        let began = self.turns.work.done();
        // Each chore that is not over is looked at once.
        for _ in 0..self.turns.chores.queue.len() {
            let chore = self.turns.chores.queue.pop_front();
            let chore = chore.expect("chores are taken out here alone");
            self.turns.work.add(1);
            self.do_part_of(now, chore);
            if self.turns.work.done() - began >= TASKS_PER_PART as u64 {
                return;
            }
        }
    }

    fn do_part_of(&mut self, now: Time, chore: Chore) {
        match chore {
            Chore::EndSession(ending) => self.end_part_of(now, ending),
            Chore::Act(owner, named) => match self.act_on_part(now, named) {
                Ok(_) => self.turns.chores.left.give_back(owner, 1),
                Err(rest) => self.turns.chores.push(Chore::Act(owner, rest)),
            },
            Chore::LoseEngine(id) => {
                if !self.lose_part_of_engine(now, id) {
                    self.turns.chores.push(Chore::LoseEngine(id));
                }
            }
            Chore::Sweep(sweep) => self.go_on_sweeping(now, sweep),
            Chore::Reassign(engines) => self.reassign(now, engines),
            Chore::EndWaits(tasks) => self.end_waits_for_roster(now, tasks),
            Chore::TellReleased(first) => self.tell_released_from(first),
            Chore::ReleaseAll(process, next) => self.release_all_from(process, next),
            Chore::EndOrphans(session) => self.end_orphans_of(session),
            Chore::ShortenOrphans(session, next, until) => {
                self.shorten_orphans_from(session, next, until);
            }
            Chore::Deepen(session, next) => self.move_tasks_deeper(session, next),
            Chore::Stop(owner, stop) => match self.stop_engines(now, stop) {
                Ok(()) => self.turns.chores.left.give_back(owner, 1),
                Err(rest) => self.turns.chores.push(Chore::Stop(owner, rest)),
            },
        }
    }

    /// A connection is gone. What its client wanted done is done all the same.
    pub(in crate::core) fn leave_rest(&mut self, connection: ConnectionId) {
        let Some(rest) = self.turns.rests.remove(&connection) else { return };
        // Whoever was sent away, revoked or expired, leaves nothing.
        let Some(owner) = self.peers.authority.owner(connection) else { return };
        let chore = match rest {
            Rest::Tasks(named) => Chore::Act(owner, named),
            Rest::Stop(stop) => Chore::Stop(owner, stop),
            // What else is left concerns the peer alone, and is said again on its next connection.
            _ => return,
        };
        if self.turns.chores.left.take(owner, 1) {
            self.turns.chores.push(chore);
        }
    }
}
