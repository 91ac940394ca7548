//! Work that a single event leaves behind and that is done in later turns, so that others are served meanwhile.

use super::rest::{Named, Rest};
use super::sessions::SessionKey;
use super::{ConnectionId, Core, Time};

/// Something that is done a part at a time.
#[derive(Debug)]
pub(super) enum Chore {
    /// What a client wanted done with tasks, and whose connection is gone meanwhile.
    Act(Named),
    /// A session is over.
    EndSession(Ending),
}

/// A session that is over, and how far that has come.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ending {
    /// Which.
    pub key: SessionKey,
    /// Whether all results are kept.
    pub keeps_all: bool,
    /// The number of the next task to look at, when the results are done with.
    pub next: Option<u64>,
}

/// What clients have left undone that are gone. Beyond, it stays undone: nobody was told that it is done.
const LEFT_MAX: usize = 256;

impl Core {
    /// When something is left to do: at once.
    pub(super) fn next_chore(&self) -> Option<Time> {
        (!self.chores.is_empty() || self.dependents.has_ends()).then_some(Time(0))
    }

    /// Does a part of what is left to do.
    pub(super) fn do_chore(&mut self, now: Time) {
        self.tell_dependents(now);
        match self.chores.pop_front() {
            Some(Chore::EndSession(ending)) => self.end_part_of(now, ending),
            Some(Chore::Act(named)) => {
                if let Err(rest) = self.act_on_part(now, named) {
                    self.chores.push_back(Chore::Act(rest));
                }
            }
            None => {}
        }
    }

    /// A connection is gone. What its client wanted done with tasks is done all the same.
    pub(super) fn leave_rest(&mut self, connection: ConnectionId) {
        let Some(Rest::Tasks(named)) = self.rests.remove(&connection) else { return };
        if self.chores.len() < LEFT_MAX {
            self.chores.push_back(Chore::Act(named));
        }
    }
}
