//! Ended tasks whose results and records are kept: for other processes of the same owner, and for
//! those who come late.
//!
//! A kept result counts against the payload memory, and gives way when that is needed for what is
//! not yet done: its record then says so. Records go after an hour, or when there are too many.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ops::RangeInclusive;
use std::time::Duration;

use furlong_wire::ids::{OwnerId, SessionId, TaskId, TaskSeq};
use furlong_wire::limits::KEPT_MS;
use furlong_wire::payload::PayloadSecret;

use super::ended::EndedTask;
use crate::core::keys::{SessionKey, ValueId};
use crate::core::payloads::budget::BytesOf;
use crate::core::payloads::values::{NoRoom, Opens};
use crate::core::sessions::table::of_owner;
use crate::core::turns::work::{TASKS_PER_PART, count};
use crate::core::{Core, Time};

/// All kept tasks.
#[derive(Debug, Default)]
pub struct Retained {
    sessions: BTreeMap<SessionKey, KeptSession>,
    by_id: BTreeMap<(OwnerId, SessionId), SessionKey>,
    /// In the order in which they go: when, and which.
    order: BTreeSet<(Time, SessionKey, TaskSeq)>,
    /// Those with bytes that count against the budget, the oldest first.
    heavy: VecDeque<(SessionKey, TaskSeq)>,
    /// The total of such bytes.
    heavy_bytes: u64,
    len: usize,
}

/// The kept tasks of one session, which may be over.
#[derive(Debug)]
struct KeptSession {
    id: SessionId,
    owner: OwnerId,
    secret: Option<PayloadSecret>,
    tasks: BTreeMap<TaskSeq, KeptTask>,
}

/// One kept task.
#[derive(Debug)]
pub struct KeptTask {
    /// Its record.
    pub done: Box<EndedTask>,
    /// The time at which its client had the result: microseconds since the submit.
    pub delivered_us: Option<u64>,
    /// The time at which it is dropped.
    expires: Time,
}

impl Retained {
    /// Returns their number, for the tests.
    #[cfg(any(test, feature = "invariants"))]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Returns true if anything of a session is retained.
    pub fn is_known(&self, owner: OwnerId, session: SessionId) -> bool {
        self.by_id.contains_key(&(owner, session))
    }

    /// A kept task of an owner.
    pub fn find(&self, owner: OwnerId, task: TaskId) -> Option<&KeptTask> {
        let key = self.by_id.get(&(owner, task.session))?;
        self.sessions.get(key)?.tasks.get(&task.n)
    }

    /// The secret with which a session's results are opened.
    pub fn secret(&self, owner: OwnerId, session: SessionId) -> Option<PayloadSecret> {
        let key = self.by_id.get(&(owner, session))?;
        self.sessions.get(key)?.secret.clone()
    }

    /// The id of a session that has kept tasks, and its secret.
    pub fn id_and_secret(&self, key: SessionKey) -> Option<(SessionId, Option<&PayloadSecret>)> {
        self.sessions.get(&key).map(|session| (session.id, session.secret.as_ref()))
    }

    /// The sessions of an owner, or of all, that have kept tasks, of those with such ids.
    pub fn of_owner(
        &self,
        owner: Option<OwnerId>,
        ids: RangeInclusive<SessionId>,
    ) -> impl Iterator<Item = (SessionKey, SessionId)> {
        of_owner(&self.by_id, owner, ids)
    }

    /// Kept tasks of a session from a number on, in order.
    pub fn tasks_from(
        &self,
        session: SessionKey,
        n: TaskSeq,
    ) -> impl Iterator<Item = (TaskSeq, &KeptTask)> {
        let tasks = self.sessions.get(&session).map(|session| session.tasks.range(n..));
        tasks.into_iter().flatten().inspect(|_| count(1)).map(|(n, task)| (*n, task))
    }

    /// A kept task of a session.
    pub fn of_session(&self, key: SessionKey, n: TaskSeq) -> Option<&KeptTask> {
        self.sessions.get(&key)?.tasks.get(&n)
    }

    /// Returns the record of a retained task.
    pub fn get_mut(&mut self, key: SessionKey, n: TaskSeq) -> Option<&mut EndedTask> {
        self.sessions.get_mut(&key)?.tasks.get_mut(&n).map(|kept| &mut *kept.done)
    }

    /// Returns the record of a retained task.
    pub fn get(&self, key: SessionKey, n: TaskSeq) -> Option<&EndedTask> {
        self.sessions.get(&key)?.tasks.get(&n).map(|kept| &*kept.done)
    }

    /// The session of which tasks are kept, by its id.
    pub fn session(&self, owner: OwnerId, id: SessionId) -> Option<SessionKey> {
        self.by_id.get(&(owner, id)).copied()
    }

    /// Returns the owner of a session with retained tasks, and its id.
    pub fn name(&self, key: SessionKey) -> Option<(OwnerId, SessionId)> {
        self.sessions.get(&key).map(|session| (session.owner, session.id))
    }

    /// Returns the time at which the next one is dropped.
    pub fn expires(&self) -> Option<Time> {
        self.order.first().map(|(at, ..)| *at)
    }

    fn remove(&mut self, key: SessionKey, n: TaskSeq) -> Option<KeptTask> {
        let session = self.sessions.get_mut(&key)?;
        let task = session.tasks.remove(&n)?;
        let was_here = self.order.remove(&(task.expires, key, n));
        assert!(was_here && self.len > 0, "task {n} is kept, and has no time at which it goes");
        self.len -= 1;
        let bytes = task.done.budget_bytes();
        assert!(bytes <= self.heavy_bytes, "{bytes} of {} kept bytes go", self.heavy_bytes);
        self.heavy_bytes -= bytes;
        if session.tasks.is_empty() {
            let session = self.sessions.remove(&key).expect("it was there a moment ago");
            self.by_id.remove(&(session.owner, session.id));
        }
        Some(task)
    }

    fn contains(&self, key: SessionKey, n: TaskSeq) -> bool {
        self.sessions.get(&key).is_some_and(|session| session.tasks.contains_key(&n))
    }

    /// Drops the entries of what was purged, when there are more of them than of others.
    fn tidy(&mut self) {
        if self.heavy.len() > 2 * self.len + 64 {
            let mut heavy = std::mem::take(&mut self.heavy);
            heavy.retain(|(key, n)| self.contains(*key, *n));
            self.heavy = heavy;
        }
    }

    /// Bytes that count against the budget, and give way.
    pub fn heavy_bytes(&self) -> u64 {
        self.heavy_bytes
    }

    /// All of them, for the tests.
    #[cfg(any(test, feature = "invariants"))]
    pub fn iter(&self) -> impl Iterator<Item = &KeptTask> {
        self.sessions.values().flat_map(|session| session.tasks.values())
    }
}

impl Core {
    /// Keeps an ended task, which its session no longer holds ([`Core::note_read`]).
    pub(in crate::core) fn keep(
        &mut self,
        now: Time,
        key: SessionKey,
        n: TaskSeq,
        mut done: Box<EndedTask>,
        delivered: bool,
    ) {
        self.release_done(&mut done);
        // What its client has let go of, or never wanted to stay, gives way like any other.
        if delivered || !done.what.stays() {
            self.keep_value_as_result(&mut done);
        }
        let submitted_us = done.times.submitted_unix_us;
        let delivered_us =
            delivered.then(|| now.unix_us(self.config.start).saturating_sub(submitted_us));
        if let Some(delivered_us) = delivered_us {
            self.note_delivered(&done, delivered_us);
        }
        // The first would stay in the budget for ever, with nobody to release it.
        assert!(!self.kept.contains(key, n), "task {n} is kept twice");
        self.keep_restored(now, key, n, done, delivered_us);
    }

    /// The same of one that was kept already, or that holds nothing up.
    pub(in crate::core) fn keep_restored(
        &mut self,
        now: Time,
        key: SessionKey,
        n: TaskSeq,
        done: Box<EndedTask>,
        delivered_us: Option<u64>,
    ) {
        let session = self.sessions.get(key).expect("a session outlives its results");
        let (id, owner, secret) = (session.id, session.owner(), session.secret.clone());
        let expires = if done.what.durable.is_some() {
            let ended_unix_us = done.times.submitted_unix_us.saturating_add(done.times.finished_us);
            self.recovery.journal.keeps_until(ended_unix_us, self.config.start.0)
        } else {
            now.after(Duration::from_millis(KEPT_MS))
        };
        if done.budget_bytes() > 0 {
            self.kept.heavy.push_back((key, n));
            self.kept.heavy_bytes += done.budget_bytes();
        }
        self.kept.order.insert((expires, key, n));
        self.kept.by_id.insert((owner, id), key);
        let tasks = BTreeMap::new();
        let session =
            self.kept.sessions.entry(key).or_insert(KeptSession { id, owner, secret, tasks });
        session.tasks.insert(n, KeptTask { done, delivered_us, expires });
        self.kept.len += 1;
        while self.kept.len > self.config.kept_max {
            let first = self.kept.order.first();
            let &(_, key, n) = first.expect("what is kept has a time at which it goes");
            self.forget_kept(key, n);
        }
    }

    /// Takes bytes into the budget, if need be in the place of the oldest kept results.
    pub(in crate::core) fn reserve(&mut self, what: BytesOf, bytes: u64) -> bool {
        while !self.memory.budget.reserve(what, bytes) {
            // Nothing is given away in vain.
            if !self.memory.budget.would_fit(what, bytes, self.kept.heavy_bytes) {
                return false;
            }
            let oldest = self.kept.heavy.pop_front();
            let (key, n) = oldest.expect("what would give way stands in the row");
            let kept =
                self.kept.sessions.get_mut(&key).and_then(|session| session.tasks.get_mut(&n));
            // It was purged, or its time had come: such entries go when there are many of them.
            let Some(kept) = kept else { continue };
            let payload = kept.done.payload.take();
            let bytes =
                payload.as_ref().map_or(0, crate::core::payloads::stored::Stored::budget_bytes);
            let freed = bytes + kept.done.what.drop_output() + kept.done.record_bytes();
            kept.done.shorten();
            kept.done.what.gave_way = kept.done.value.is_none();
            assert!(freed <= self.kept.heavy_bytes && kept.done.budget_bytes() == 0);
            self.kept.heavy_bytes -= freed;
            self.memory.budget.release(BytesOf::Other, freed);
            self.discard(payload);
        }
        true
    }

    /// The result of a kept task of an owner, made a value that stays as long as its record. None
    /// if there is no such task.
    pub(in crate::core) fn value_of_kept(
        &mut self,
        owner: OwnerId,
        task: TaskId,
    ) -> Option<Result<ValueId, NoRoom>> {
        let key = self.kept.session(owner, task.session)?;
        let session = self.kept.sessions.get_mut(&key)?;
        let secret = session.secret.clone();
        // Out of its place meanwhile: all values are counted.
        let mut kept = session.tasks.remove(&task.n)?;
        let before = kept.done.budget_bytes();
        let is_value = secret.is_some_and(|secret| {
            self.become_kept_value(&mut kept.done, Opens { key, id: task.session, secret })
        });
        let value = kept.done.value.filter(|_| is_value);
        self.kept.heavy_bytes -= before - kept.done.budget_bytes();
        let session = self.kept.sessions.get_mut(&key).expect("it was there a moment ago");
        session.tasks.insert(task.n, kept);
        Some(value.ok_or(NoRoom))
    }

    /// Forgets one kept task.
    pub(in crate::core) fn forget_kept(&mut self, key: SessionKey, n: TaskSeq) -> bool {
        let Some(kept) = self.kept.remove(key, n) else { return false };
        self.drop_done(kept.done);
        self.kept.tidy();
        true
    }

    /// Forgets kept tasks whose time has come.
    pub(in crate::core) fn expire_kept(&mut self, now: Time) {
        // Very many go in later turns.
        for _ in 0..TASKS_PER_PART {
            let Some(&(_, key, n)) = self.kept.order.first().filter(|(at, ..)| *at <= now) else {
                return;
            };
            self.forget_kept(key, n);
        }
    }

    /// Frees what an ended task holds, which its session no longer does ([`Core::note_read`]).
    pub(in crate::core) fn drop_done(&mut self, mut done: Box<EndedTask>) {
        self.note_forgotten(&done);
        self.release_done(&mut done);
        self.memory.budget.release(BytesOf::Other, done.budget_bytes());
        self.discard(done.payload.take());
        if let Some(value) = done.value {
            self.let_go_of_value(value);
        }
    }
}
