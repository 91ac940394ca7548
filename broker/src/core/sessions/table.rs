//! Clients' sessions: they outlive connections.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::RangeInclusive;

use furlong_wire::AtLeastOne;
use furlong_wire::ids::{OwnerId, SessionId, TaskSeq, TokenId};
use furlong_wire::message::{Accepted, Open, Submit};
use furlong_wire::payload::PayloadSecret;
use furlong_wire::token::Claims;

use super::names::SessionKinds;
use super::refused::{MISSING_RANGES_MAX, Refused, ranges};
use crate::core::keys::{AttemptId, ProcessKey, SessionKey, TaskKey};
use crate::core::payloads::budget::Credit;
use crate::core::payloads::stored::{Receiving, Stored};
use crate::core::seq_map::SeqMap;
use crate::core::tasks::end::DependencyEnd;
use crate::core::tasks::ended::EndedTask;
use crate::core::time::Time;
use crate::core::turns::work::count;
use crate::core::{ConnectionId, PeerMisbehaved};

/// A client's session.
#[derive(Debug)]
pub struct Session {
    /// Its id, made by the client's process.
    pub id: SessionId,
    /// The rights that its token grants.
    pub claims: Claims,
    /// The token against whose limits it counts: that with which it was opened.
    pub counted_by: TokenId,
    /// The secret of its payloads.
    pub secret: Option<PayloadSecret>,
    /// Blobs that its tasks name.
    pub definitions: BTreeMap<u32, Definition>,
    /// Engine processes that were told its secret: no others know anything of it.
    pub known_to: BTreeSet<ProcessKey>,
    /// The count of assigned shared tasks when one of its own was last given to an engine.
    pub served: u64,
    /// The time at which its client opened it at this start of the broker.
    pub opened: Option<Time>,
    /// Bytes of results that its client has not acknowledged: those that are here, or on their way
    /// here.
    pub unread_bytes: u64,
    /// Its kinds of tasks.
    pub kinds: SessionKinds,
    /// Its client, as far as that is connected.
    pub link: ClientLink,
    /// Its tasks.
    pub ledger: Ledger,
    /// What the journal has of it.
    pub noted: Noted,
    /// How far it is on its way out.
    pub departure: Departure,
    /// On whose behalf it is there.
    pub nesting: Nesting,
}

/// How far a session is on its way out.
#[derive(Debug, Default)]
pub struct Departure {
    /// True if it ends with its connection.
    pub cancel_on_disconnect: bool,
    /// True if it is over but for retained tasks that have not ended.
    pub departed: bool,
    /// True if it is being ended, a part at a time.
    pub is_ending: bool,
}

/// On whose behalf a session is there.
#[derive(Debug, Default)]
pub struct Nesting {
    /// The running attempt that has opened it, or that waits for its tasks.
    pub parent: Option<Parent>,
    /// The number of nested running tasks that wait for its tasks; 0 if none on an engine does.
    pub depth: u32,
}

/// What the journal has of a session.
#[derive(Debug, Default)]
pub struct Noted {
    /// True if the journal has it.
    pub is_written: bool,
    /// The definitions that the journal has.
    pub definitions: BTreeSet<u32>,
    /// The last entry of the journal about what it submitted.
    pub last_entry: u64,
    /// True if it comes from the journal, and its client has not been here since.
    pub is_restored: bool,
}

/// A session's client, as far as it is connected.
#[derive(Debug, Default)]
pub struct ClientLink {
    /// The connection of the highest incarnation, while there is one.
    pub connection: Option<ConnectionId>,
    /// That connection's incarnation.
    pub incarnation: u64,
    /// True if it was opened on its present connection.
    pub is_open: bool,
    /// Of ended tasks from this number on its client is told when their turn comes: it has just
    /// opened the session.
    pub undelivered_from: Option<TaskSeq>,
    /// The credit for its announcements.
    pub credit: Credit,
    /// The payloads that it is sending.
    pub receiving: Receiving<ClientWaiting>,
    /// The number of its connection's next transfer, towards it.
    pub next_transfer: u64,
    /// Fetches that wait for an answer.
    pub fetches: usize,
    /// The tasks for whose ends they wait, and some that have ended.
    pub following: BTreeSet<TaskKey>,
}

/// A session's tasks, by number, and what its client has heard of them.
#[derive(Debug, Default)]
pub struct Ledger {
    /// Its unfinished tasks, by number.
    pub tasks: SeqMap<TaskSeq, TaskKey>,
    /// Its ended tasks that it has not acknowledged.
    pub done: SeqMap<TaskSeq, Box<EndedTask>>,
    /// The number of tasks in both maps that are to be retained.
    pub keeps: u64,
    /// The ends of its most recent tasks, for those that depend on them.
    pub endings: SeqMap<TaskSeq, DependencyEnd>,
    /// Its tasks that were ended while an engine had them, with the attempts that have not stopped
    /// yet.
    pub stopping: BTreeSet<(TaskSeq, AttemptId)>,
    /// The highest task number that it has submitted.
    pub submitted: TaskSeq,
    /// Up to this number its tasks were submitted to an earlier start of the broker; those that it
    /// still waits for it submits again.
    pub before: TaskSeq,
    /// Of those, the ones that engines held and nobody had asked for in time: that was ended.
    pub unasked: BTreeSet<TaskSeq>,
    /// Unfinished tasks whose arguments did not come whole before the connection was cut: the
    /// client sends them again.
    pub missing: BTreeSet<TaskSeq>,
    /// Tasks that were turned away at their submit: nothing else is held of them.
    pub refused: Refused,
    /// Unfinished and unacknowledged tasks that it may have.
    pub tasks_max: u64,
    /// As many more: those that a journal had. Their client may know the end of some, if that could
    /// not be written, or have acknowledged it, if that was not written; it does not count them.
    pub restored_tasks: u64,
}

/// The attempt on whose behalf a session is there.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Parent {
    /// The attempt.
    pub attempt: AttemptId,
    /// True if the session ends with it: it was opened by a pass.
    pub is_bound: bool,
}

/// A blob that tasks name, and which is sent to an engine process before the first of them.
#[derive(Debug)]
pub enum Definition {
    /// It has not come whole: these tasks wait for it.
    Receiving(Vec<TaskKey>),
    /// The connection was cut before it was whole: the client sends it again. These tasks wait for
    /// it.
    Missing(Vec<TaskKey>),
    /// It is here, or was refused.
    Here(Stored),
}

/// The recipient of a payload from a client.
#[derive(Debug)]
pub enum ClientWaiting {
    /// Tasks that share it.
    Tasks(AtLeastOne<TaskKey>),
    /// A definition.
    Definition(u32),
}

impl Ledger {
    /// So many tasks fewer are to be retained: they are retained now, or nobody wants that.
    pub fn keep_fewer(&mut self, tasks: u64) {
        assert!(tasks <= self.keeps, "{tasks} of {} tasks are kept no longer", self.keeps);
        self.keeps -= tasks;
    }
}

impl Session {
    /// A session that nobody has opened yet.
    pub fn new(id: SessionId, claims: Claims, tasks_max: u64) -> Self {
        Self {
            id,
            counted_by: claims.token_id,
            claims,
            secret: None,
            definitions: BTreeMap::new(),
            known_to: BTreeSet::new(),
            served: 0,
            opened: None,
            unread_bytes: 0,
            kinds: SessionKinds::default(),
            link: ClientLink::default(),
            ledger: Ledger { tasks_max, ..Ledger::default() },
            noted: Noted::default(),
            departure: Departure::default(),
            nesting: Nesting::default(),
        }
    }

    /// The owner of its tasks.
    pub fn owner(&self) -> OwnerId {
        self.claims.owner
    }

    /// Begins a connection. Gives what the client need not submit again.
    pub fn open(&mut self, now: Time, open: Open) -> Result<Accepted, PeerMisbehaved> {
        self.departure.cancel_on_disconnect = open.cancel_on_disconnect;
        self.kinds.hides_names = open.hides_names;
        // What is here and at engines is sealed with the first one.
        if self.secret.as_ref().is_some_and(|secret| *secret != open.secret) {
            return Err(PeerMisbehaved::Order);
        }
        let here = self
            .definitions
            .iter()
            .filter(|(_, definition)| matches!(definition, Definition::Here(_)));
        let definitions = here.map(|(number, _)| *number).collect();
        // What the journal had is known here; of the client's other tasks nothing is.
        if std::mem::take(&mut self.noted.is_restored) {
            if open.submitted > TASKS_BEFORE_MAX {
                return Err(PeerMisbehaved::TaskNumber);
            }
            self.ledger.submitted = self.ledger.submitted.max(open.submitted);
            (self.ledger.before, self.opened) = (self.ledger.submitted, Some(now));
            self.ledger.restored_tasks = (self.ledger.tasks.len() + self.ledger.done.len()) as u64;
            return Ok(Accepted {
                n: self.ledger.submitted,
                missing: self.unknown_ranges(),
                definitions,
            });
        }
        if self.secret.replace(open.secret).is_none() {
            if open.submitted > TASKS_BEFORE_MAX {
                return Err(PeerMisbehaved::TaskNumber);
            }
            (self.ledger.submitted, self.ledger.before, self.opened) =
                (open.submitted, open.submitted, Some(now));
            return Ok(Accepted { n: TaskSeq::MIN, missing: Vec::new(), definitions: Vec::new() });
        }
        // Of what was refused it is not known what the client has heard: it says again what it has
        // not.
        self.ledger.refused.tell();
        let missing =
            self.ledger.missing.iter().copied().filter(|n| self.ledger.tasks.get(*n).is_some());
        let missing = ranges(missing.map(|n| (n, n)).collect(), self.ledger.refused.ranges());
        // Of an earlier start's tasks it is not known which have come: the client may have been cut
        // off once more before it had said them again. What is known of what it repeats is read
        // past.
        let n =
            if self.ledger.before > TaskSeq::MIN { TaskSeq::MIN } else { self.ledger.submitted };
        Ok(Accepted { n, missing, definitions })
    }

    /// Returns true if the client is told of an ended task with those that waited for it when it
    /// opened the session.
    pub fn is_told_later(&self, n: TaskSeq) -> bool {
        self.link.undelivered_from.is_some_and(|from| n >= from)
    }

    /// Returns true if a task that was ended still runs on an engine.
    pub fn is_stopping(&self, n: TaskSeq) -> bool {
        self.ledger.stopping.range((n, AttemptId::MIN)..=(n, AttemptId::MAX)).next().is_some()
    }

    /// It submitted a task of this number to an earlier start.
    pub fn had_before(&mut self, n: TaskSeq) {
        self.ledger.submitted = self.ledger.submitted.max(n);
        self.ledger.before = self.ledger.submitted;
    }

    /// Ended tasks that its client has not acknowledged are not kept when it does. Gives how many
    /// were looked at.
    pub fn keep_no_longer(&mut self, first: TaskSeq, last: TaskSeq) -> usize {
        let ended: Vec<(TaskSeq, bool)> =
            self.ledger.done.range(first, last).map(|(n, done)| (n, done.what.keep())).collect();
        for n in ended.iter().filter(|(_, keep)| *keep).map(|(n, _)| *n) {
            self.ledger.keep_fewer(1);
            let done = self.ledger.done.get_mut(n).expect("it was listed a moment ago");
            done.what.keep_no_longer();
        }
        ended.len()
    }

    /// Remembers how a task ended, and how so many others did. Gives how many more are remembered
    /// than before, or less.
    pub fn remember(&mut self, n: TaskSeq, ending: DependencyEnd, most: usize) -> isize {
        let before = self.ledger.endings.len();
        self.ledger.endings.insert(n, ending);
        if self.ledger.endings.len() > most {
            self.ledger.endings.forget_oldest();
        }
        self.ledger.endings.len() as isize - before as isize
    }

    /// Checks that a submit's numbers are the next ones, or those of one that is repeated.
    pub fn admit(
        &mut self,
        n: TaskSeq,
        count: usize,
        repeated: bool,
    ) -> Result<Admission, PeerMisbehaved> {
        if count == 0 || (repeated && count > 1) {
            return Err(PeerMisbehaved::TaskNumber);
        }
        if n <= self.ledger.submitted {
            if !repeated {
                return Ok(Admission::Known);
            }
            // Its arguments were cut off: unless it has ended since, they are what it lacks.
            if self.ledger.missing.remove(&n)
                && let Some(task) = self.ledger.tasks.get(n)
            {
                return Ok(Admission::Missing(*task));
            }
            let is_here = self.ledger.tasks.get(n).is_some() || self.ledger.done.get(n).is_some();
            if self.ledger.refused.contains(n) && !is_here {
                self.ledger.refused.remove(n, n);
                self.check_credit(count)?;
                return Ok(Admission::Refused);
            }
            if n == TaskSeq::MIN || n > self.ledger.before || self.knows(n) {
                return Ok(Admission::Known);
            }
        } else if n != self.ledger.submitted + 1 {
            return Err(PeerMisbehaved::TaskNumber);
        }
        self.check_credit(count)?;
        self.ledger.submitted = self.ledger.submitted.max(n + count as u64 - 1);
        Ok(Admission::New)
    }

    /// What was said to this start alone, and has not come before, has not run.
    pub fn note_new(&self, submit: &mut Submit) {
        if let Some(options) = &mut submit.options {
            options.repeated &= submit.n <= self.ledger.before;
        }
    }

    fn check_credit(&self, count: usize) -> Result<(), PeerMisbehaved> {
        let tasks = (self.ledger.tasks.len() + self.ledger.done.len() + count) as u64
            + self.ledger.refused.unread();
        if tasks > self.ledger.tasks_max + self.ledger.restored_tasks {
            Err(PeerMisbehaved::Credit)
        } else {
            Ok(())
        }
    }

    /// The numbers up to the last one that name no task here.
    fn unknown_ranges(&self) -> Vec<(TaskSeq, TaskSeq)> {
        let mut known: Vec<TaskSeq> = self
            .ledger
            .tasks
            .iter()
            .map(|(n, _)| n)
            .chain(self.ledger.done.iter().map(|(n, _)| n))
            .collect();
        known.sort_unstable();
        let mut unknown = Vec::new();
        let mut next = TaskSeq::FIRST;
        for n in known {
            if n > next {
                unknown.push((next, n - 1));
            }
            next = n + 1;
        }
        if next <= self.ledger.submitted {
            unknown.push((next, self.ledger.submitted));
        }
        if let Some((_, last)) =
            unknown.last().copied().filter(|_| unknown.len() > MISSING_RANGES_MAX)
        {
            unknown.truncate(MISSING_RANGES_MAX);
            unknown[MISSING_RANGES_MAX - 1].1 = last;
        }
        unknown
    }

    /// Returns true if it has or had a task of this number.
    pub fn knows(&self, n: TaskSeq) -> bool {
        self.ledger.tasks.get(n).is_some()
            || self.ledger.done.get(n).is_some()
            || self.ledger.endings.get(n).is_some()
    }
}

/// Tasks that a session can have had at an earlier start of the broker.
const TASKS_BEFORE_MAX: TaskSeq = TaskSeq(u64::MAX / 2);

/// The classification of a submit.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Admission {
    /// New tasks.
    New,
    /// A repetition, to be ignored.
    Known,
    /// The arguments of a task that is here, once more.
    Missing(TaskKey),
    /// A task that was refused, once more.
    Refused,
}

/// The sessions of an owner, or of all, with such ids, in a table of sessions.
pub fn of_owner(
    by_id: &BTreeMap<(OwnerId, SessionId), SessionKey>,
    owner: Option<OwnerId>,
    ids: RangeInclusive<SessionId>,
) -> impl Iterator<Item = (SessionKey, SessionId)> {
    let all = (OwnerId([0; 16]), OwnerId([255; 16]));
    let (first, last) = owner.map_or(all, |owner| (owner, owner));
    let of_owner = by_id.range((first, *ids.start())..=(last, *ids.end()));
    of_owner.filter(move |((_, id), _)| ids.contains(id)).map(|((_, id), key)| (*key, *id))
}

/// All sessions, by key and by id.
#[derive(Debug, Default)]
pub struct Sessions {
    by_key: BTreeMap<SessionKey, Session>,
    by_id: BTreeMap<(OwnerId, SessionId), SessionKey>,
    /// The same without the owner: engines do not know it.
    of_any_owner: BTreeSet<(SessionId, SessionKey)>,
    /// Those on whose behalf attempts are there or wait, by the attempt.
    by_parent: BTreeSet<(AttemptId, SessionKey)>,
    next: u32,
}

impl Sessions {
    /// Adds a session.
    pub fn insert(&mut self, session: Session) -> SessionKey {
        let key = SessionKey(self.next);
        assert!(key != SessionKey::NOBODY, "all keys of sessions are used up");
        self.next = self.next.saturating_add(1);
        let before = self.by_id.insert((session.owner(), session.id), key);
        assert!(before.is_none(), "an owner has one session of an id: {before:?} and {key:?}");
        self.of_any_owner.insert((session.id, key));
        self.by_parent.extend(session.nesting.parent.map(|parent| (parent.attempt, key)));
        self.by_key.insert(key, session);
        key
    }

    /// Returns true if there are keys left for more. None is given twice, even over starts of a
    /// broker with a journal.
    pub fn has_keys(&self) -> bool {
        self.next < SessionKey::NOBODY.0
    }

    /// Adds a session of an earlier start, under the key that it had.
    pub fn insert_at(&mut self, key: SessionKey, session: Session) -> SessionKey {
        assert!(self.next <= key.0, "a key before {} was given already", self.next);
        self.next = key.0;
        self.insert(session)
    }

    /// The session of that id, if it is the owner's.
    pub fn find(&self, owner: OwnerId, id: SessionId) -> Option<SessionKey> {
        self.by_id.get(&(owner, id)).copied()
    }

    /// The sessions of an owner, or of all, of those with such ids.
    pub fn of_owner(
        &self,
        owner: Option<OwnerId>,
        ids: RangeInclusive<SessionId>,
    ) -> impl Iterator<Item = (SessionKey, SessionId)> {
        of_owner(&self.by_id, owner, ids)
    }

    /// The sessions of that id: one, unless owners have chosen the same.
    pub fn with_id(&self, id: SessionId) -> Vec<SessionKey> {
        let of_id = self.of_any_owner.range((id, SessionKey(0))..=(id, SessionKey::NOBODY));
        of_id.map(|(_, key)| *key).collect()
    }

    /// A session.
    pub fn get(&self, key: SessionKey) -> Option<&Session> {
        self.by_key.get(&key)
    }

    /// A session.
    pub fn get_mut(&mut self, key: SessionKey) -> Option<&mut Session> {
        self.by_key.get_mut(&key)
    }

    /// The end of a session's task that its client has not acknowledged.
    pub fn ended_mut(&mut self, key: SessionKey, n: TaskSeq) -> Option<&mut EndedTask> {
        self.get_mut(key)?.ledger.done.get_mut(n).map(|done| &mut **done)
    }

    /// Takes a session out.
    pub fn remove(&mut self, key: SessionKey) -> Option<Session> {
        let session = self.by_key.remove(&key)?;
        let known = self.by_id.remove(&(session.owner(), session.id));
        assert!(known == Some(key), "the id of {key:?} leads to {known:?}");
        self.of_any_owner.remove(&(session.id, key));
        if let Some(parent) = session.nesting.parent {
            self.by_parent.remove(&(parent.attempt, key));
        }
        Some(session)
    }

    /// An attempt waits for the tasks of a session.
    pub fn set_parent(&mut self, key: SessionKey, parent: Parent) {
        let session = self.by_key.get_mut(&key).expect("a session that is waited for is here");
        let before = session.nesting.parent.replace(parent);
        if let Some(before) = before {
            self.by_parent.remove(&(before.attempt, key));
        }
        self.by_parent.insert((parent.attempt, key));
    }

    /// The sessions on whose behalf an attempt is there or waits.
    pub fn of_parent(&self, attempt: AttemptId) -> impl Iterator<Item = &Session> {
        let of_parent =
            self.by_parent.range((attempt, SessionKey(0))..=(attempt, SessionKey::NOBODY));
        let of_parent = of_parent.inspect(|_| count(1));
        of_parent.map(|(_, key)| self.get(*key).expect("a session is in all tables"))
    }

    /// Returns the number of elements.
    pub fn len(&self) -> usize {
        self.by_key.len()
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = (SessionKey, &Session)> {
        self.by_key.iter().inspect(|_| count(1)).map(|(key, session)| (*key, session))
    }
}
