//! Messages that name very many tasks are handled in parts, so that others have their turn between
//! them.
//!
//! The rest of such a message is stored for its connection ([`Core::has_rest`]). The shell lets
//! others have their turn, waits until the peer has taken what waits for it, and goes on
//! ([`Core::handle_rest`]) before it takes the peer's next message.

use std::collections::VecDeque;

use furlong_wire::ids::{EngineId, TaskSeq};
use furlong_wire::limits::LISTED_MAX;
use furlong_wire::message::{Accepted, Register, Reply, ReplyBody, TaskRange, TaskState, ToClient};

use super::work::{TASKS_PER_PART, WORK_PER_MESSAGE};
use crate::core::keys::SessionKey;
use crate::core::recovery::reconcile::Reconciling;
use crate::core::requests::shutdown::Stop;
use crate::core::seq_map::SeqMap;
use crate::core::sessions::table::Session;
use crate::core::{Connected, ConnectionId, Core, PeerMisbehaved, Time};

/// The rest of a message.
#[derive(Debug)]
pub(in crate::core) enum Rest {
    /// Results that have arrived.
    Received(Vec<(TaskSeq, TaskSeq)>),
    /// Tasks with which something is to be done.
    Tasks(Named),
    /// Results that wait for the client that has opened the session: from this number on, and then
    /// the answer.
    Undelivered(TaskSeq, Accepted),
    /// The registration of a process whose engine, this one, is being lost.
    Register(EngineId, Box<Register>),
    /// The comparison of what a process holds with what it was given.
    Reconcile(Box<Reconciling>),
    /// Engines that are to be stopped.
    Stop(Stop),
    /// Subscribers have not been told yet what an engine process has made happen.
    Untold,
}

impl From<Box<Reconciling>> for Rest {
    fn from(reconciling: Box<Reconciling>) -> Self {
        Self::Reconcile(reconciling)
    }
}

impl From<Stop> for Rest {
    fn from(stop: Stop) -> Self {
        Self::Stop(stop)
    }
}

/// Tasks that a client has named.
#[derive(Debug)]
pub(in crate::core) struct Named {
    act: Act,
    /// The session's tasks, first and last: no task twice.
    ranges: VecDeque<(SessionKey, TaskSeq, TaskSeq)>,
    /// The request to be answered, and the journal's entries when it came.
    request: Option<(u64, u64)>,
    /// The answer so far: tasks that ended with it, and those that had ended.
    cancelled: u64,
    ended: u64,
}

/// An action on tasks.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(in crate::core) enum Act {
    /// They are ended.
    Cancel {
        /// True if an interpreter that does not respond to the interrupt is killed.
        force: bool,
    },
    /// They are ended if they have not begun.
    TakeBack,
    /// They are kept no longer.
    Purge,
}

impl Named {
    /// Of the client's own session. Its ranges are ascending and disjoint.
    pub fn own(act: Act, key: SessionKey, ranges: &[(TaskSeq, TaskSeq)]) -> Self {
        let ranges = ranges.iter().map(|(first, last)| (key, *first, *last)).collect();
        Self { act, ranges, request: None, cancelled: 0, ended: 0 }
    }

    fn answer(&self) -> ReplyBody {
        match self.act {
            Act::Cancel { .. } | Act::TakeBack => ReplyBody::Cancelled(self.cancelled, self.ended),
            Act::Purge => ReplyBody::Done,
        }
    }
}

impl Core {
    /// Returns true if something is left to do of the last message of a connection.
    pub fn has_rest(&self, connection: ConnectionId) -> bool {
        !self.turns.rests.is_empty() && self.turns.rests.contains_key(&connection)
    }

    /// Returns true if what a process holds is being compared with what it was given.
    #[cfg(any(test, feature = "invariants"))]
    pub(in crate::core) fn is_reconciling(&self, connection: ConnectionId) -> bool {
        matches!(self.turns.rests.get(&connection), Some(Rest::Reconcile(_)))
    }

    /// A message of a peer begins: what the one before has left is done first, so that what a peer
    /// says is done in its order.
    pub(in crate::core) fn begin_message(
        &mut self,
        now: Time,
        connection: ConnectionId,
    ) -> Result<(), PeerMisbehaved> {
        while self.has_rest(connection) {
            self.handle_rest(now, connection)?;
        }
        self.turns.work.add(WORK_PER_MESSAGE);
        Ok(())
    }

    /// Does a part of what is left of a connection's last message.
    ///
    /// # Errors
    /// The peer is to be closed.
    pub fn handle_rest(
        &mut self,
        now: Time,
        connection: ConnectionId,
    ) -> Result<(), PeerMisbehaved> {
        let Some(rest) = self.turns.rests.remove(&connection) else { return Ok(()) };
        match (rest, self.peers.connections.get(&connection).copied()) {
            (Rest::Received(ranges), Some(Connected::Client(key))) => {
                self.acknowledge(now, key, connection, &ranges)?;
            }
            (Rest::Tasks(named), Some(Connected::Client(key))) => {
                self.act_on(now, key, connection, named);
            }
            (Rest::Undelivered(from, accepted), Some(Connected::Client(key))) => {
                self.deliver_from(now, key, connection, from, accepted);
            }
            (Rest::Register(id, register), Some(Connected::Engine(key))) => {
                // It cannot go on before that engine is lost: each try does a part of that.
                self.lose_part_of_engine(now, id);
                self.register(now, key, *register)?;
            }
            (Rest::Reconcile(reconciling), Some(Connected::Engine(key))) => {
                self.reconcile(now, key, reconciling);
            }
            (Rest::Stop(stop), Some(Connected::Client(key))) => {
                self.go_on_stopping(now, key, connection, stop);
            }
            (Rest::Untold, Some(Connected::Engine(_))) => {
                self.tell_events(TASKS_PER_PART);
                self.wait_until_told(connection);
            }
            // The connection has been closed from this side since.
            _ => {}
        }
        Ok(())
    }

    /// A request about tasks of any session of the same owner.
    pub(in crate::core) fn act_on_tasks(
        &mut self,
        now: Time,
        key: SessionKey,
        connection: ConnectionId,
        (request, act): (u64, Act),
        tasks: &[TaskRange],
    ) -> Option<ReplyBody> {
        if tasks.len() > LISTED_MAX {
            let text =
                format!("a request names at most {LISTED_MAX} ranges of tasks; ask in parts");
            return Some(ReplyBody::Refused(text));
        }
        let owner = self.owner(key).expect("a session that asks is here");
        let known = tasks.iter().filter(|range| range.first <= range.last).filter_map(|range| {
            let live = self.sessions.find(owner, range.session);
            Some((
                live.or_else(|| self.kept.session(owner, range.session))?,
                range.first,
                range.last,
            ))
        });
        let ranges = disjoint(known.collect()).into();
        let request = Some((request, self.entries()));
        self.act_on(now, key, connection, Named { act, ranges, request, cancelled: 0, ended: 0 });
        None
    }

    /// Does a part of what a client wants done with tasks, and answers if that was all.
    pub(in crate::core) fn act_on(
        &mut self,
        now: Time,
        key: SessionKey,
        connection: ConnectionId,
        named: Named,
    ) {
        let request = named.request;
        match self.act_on_part(now, named) {
            Ok(body) => {
                if let Some((request, before)) = request {
                    self.answer_request(key, connection, Reply { request, body }, before);
                }
            }
            Err(rest) => _ = self.turns.rests.insert(connection, Rest::Tasks(rest)),
        }
    }

    /// Does a part of what is wanted done with tasks. Gives the answer, or what is left.
    pub(in crate::core) fn act_on_part(
        &mut self,
        now: Time,
        mut named: Named,
    ) -> Result<ReplyBody, Named> {
        let mut room = TASKS_PER_PART;
        while let Some((of, first, last)) = named.ranges.pop_front() {
            let until = self.end_of_part(&named, (of, first, last), room);
            let handled = self.act_on_range(now, &mut named, (of, first, until));
            self.turns.work.add(handled + 1);
            room = room.saturating_sub(handled + 1);
            if until < last {
                named.ranges.push_front((of, until + 1, last));
            }
            if room == 0 && !named.ranges.is_empty() {
                return Err(named);
            }
        }
        Ok(named.answer())
    }

    /// The last number of a range up to which not more than `room` tasks are looked at.
    fn end_of_part(
        &self,
        named: &Named,
        (of, first, last): (SessionKey, TaskSeq, TaskSeq),
        room: usize,
    ) -> TaskSeq {
        let session = self.sessions.get(of);
        let ends = match named.act {
            Act::Purge => {
                let kept =
                    self.kept.tasks_from(of, first).map(|(n, _)| n).take_while(|n| *n <= last);
                [
                    session.and_then(|session| nth(&session.ledger.done, first, last, room)),
                    kept.into_iter().nth(room - 1),
                ]
            }
            Act::Cancel { .. } | Act::TakeBack => {
                let tasks =
                    session.and_then(|session| nth(&session.ledger.tasks, first, last, room));
                let is_counted = |_: &&Session| named.request.is_some();
                [
                    tasks,
                    session
                        .filter(is_counted)
                        .and_then(|session| nth(&session.ledger.endings, first, last, room)),
                ]
            }
        };
        ends.into_iter().flatten().min().unwrap_or(last)
    }

    /// Gives how many tasks that were.
    fn act_on_range(
        &mut self,
        now: Time,
        named: &mut Named,
        (of, first, last): (SessionKey, TaskSeq, TaskSeq),
    ) -> usize {
        if named.act == Act::Purge {
            return self.purge_range(of, first, last);
        }
        // It is over, or was when the request came, and only what was kept of it is here.
        let Some(session) = self.sessions.get(of) else { return 0 };
        let unfinished: Vec<_> =
            session.ledger.tasks.range(first, last).map(|(_, task)| *task).collect();
        let ended = if named.request.is_some() {
            session.ledger.endings.range(first, last).count()
        } else {
            0
        };
        named.ended += ended as u64;
        let handled = unfinished.len() + ended;
        match named.act {
            Act::Cancel { force } => {
                if force {
                    self.force_stopping(now, of, first, last);
                }
                named.cancelled += unfinished.len() as u64;
                for task in unfinished {
                    self.cancel_task(now, task, force);
                }
            }
            Act::TakeBack => named.cancelled += self.take_tasks_back(now, unfinished),
            Act::Purge => unreachable!("it was done above"),
        }
        handled
    }

    /// Delivers what a client that has opened its session has not acknowledged, a part at a time;
    /// then says what else is known of the session.
    pub(in crate::core) fn deliver_from(
        &mut self,
        now: Time,
        key: SessionKey,
        connection: ConnectionId,
        from: TaskSeq,
        accepted: Accepted,
    ) {
        let session = self.sessions.get_mut(key).expect("a session that is opened is here");
        let part = session.ledger.done.range(from, TaskSeq::MAX).take(DELIVERED_PER_PART);
        let part: Vec<(TaskSeq, TaskState, bool)> =
            part.map(|(n, done)| (n, done.outcome.state, done.is_unwritten)).collect();
        let next = part.get(DELIVERED_PER_PART - 1).and_then(|(n, ..)| n.checked_add(1));
        // What ends meanwhile, and has not had its turn, is delivered when it has.
        session.link.undelivered_from = next;
        self.turns.work.add(part.len());
        // What is on its way to the journal is delivered when it is there.
        for (n, state, _) in part.into_iter().filter(|(.., is_unwritten)| !is_unwritten) {
            self.deliver(key, n);
            let was_stopped = matches!(state, TaskState::Cancelled | TaskState::TimedOut);
            let still_runs = self.sessions.get(key).is_some_and(|session| session.is_stopping(n));
            if was_stopped && !still_runs {
                // It may have been said when nobody was there to hear it.
                self.tell_stopped(key, n);
            }
        }
        if let Some(next) = next {
            self.turns.rests.insert(connection, Rest::Undelivered(next, accepted));
            return;
        }
        // After the results: from now on the client submits, and must know how much of its room is
        // taken.
        self.to_client(connection, ToClient::Accepted(accepted));
        let id = self.sessions.get(key).expect("it was there a moment ago").id;
        self.shorten_orphans_of(now, id);
    }
}

/// Results that are delivered at once to a client that has opened its session: each may have some
/// kilobytes.
const DELIVERED_PER_PART: usize = 256;

/// The number of the `place`th value from `first` to `last`, if there are so many.
fn nth<T>(
    map: &SeqMap<TaskSeq, T>,
    first: TaskSeq,
    last: TaskSeq,
    place: usize,
) -> Option<TaskSeq> {
    map.range(first, last).nth(place - 1).map(|(n, _)| n)
}

/// The same tasks in ranges that name none of them twice.
fn disjoint(
    mut ranges: Vec<(SessionKey, TaskSeq, TaskSeq)>,
) -> Vec<(SessionKey, TaskSeq, TaskSeq)> {
    ranges.sort_unstable();
    ranges.dedup_by(|(of, first, last), (before, _, end)| {
        let overlaps = of == before && *first <= *end;
        if overlaps {
            *end = (*end).max(*last);
        }
        overlaps
    });
    ranges
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_that_overlap_become_one() {
        let (a, b) = (SessionKey(1), SessionKey(2));
        let range = |(session, first, last)| (session, TaskSeq(first), TaskSeq(last));
        let ranges =
            [(a, 5, 9), (b, 1, 2), (a, 1, 3), (a, 9, 12), (a, 6, 7), (b, 3, u64::MAX), (a, 1, 1)];
        let merged = [(a, 1, 3), (a, 5, 12), (b, 1, 2), (b, 3, u64::MAX)];
        assert_eq!(disjoint(ranges.map(range).to_vec()), merged.map(range));
    }
}
