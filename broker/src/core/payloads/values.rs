//! Values: results that tasks have as inputs or that stay until their client lets go of them, and
//! what clients have put here for tasks.
//!
//! A value is held once, for all its users: the record of the task that made it, and each
//! unfinished task that has it as an input, of whichever session of the same owner. It counts
//! against no reader, and all values together take half of the budget at most, so that requests and
//! results always find room.

use std::collections::{BTreeMap, BTreeSet};

use furlong_wire::ids::{SessionId, TokenId};
use furlong_wire::message::{ErrorKind, TaskState, ToEngine, Unshare};
use furlong_wire::payload::PayloadSecret;

use super::budget::BytesOf;
use super::stored::Stored;
use crate::core::keys::{ProcessKey, SessionKey, TaskKey, ValueId};
use crate::core::tasks::end::TaskEnd;
use crate::core::tasks::ended::EndedTask;
use crate::core::turns::work::count;
use crate::core::{Core, Output, Time};

/// All values.
#[derive(Debug, Default)]
pub struct Values {
    held: BTreeMap<ValueId, Value>,
    /// Bytes of all of them that count against the budget.
    bytes: u64,
}

/// A result cannot be a value: there is no room, or it is not here.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct NoRoom;

/// A value that somebody needs.
#[derive(Debug)]
struct Value {
    stored: Stored,
    opens: Opens,
    /// The token that is charged for it: that of the client which put it here.
    token: Option<TokenId>,
    users: u64,
    /// The processes that it was sent to. Of those that have left since, nothing is asked.
    told: BTreeSet<ProcessKey>,
}

/// The session that a value was sealed for. Its tasks and its record may be gone before the value
/// is: tasks of other sessions may have it as an input.
#[derive(Clone, Debug)]
pub struct Opens {
    /// The session, here.
    pub key: SessionKey,
    /// The session's id.
    pub id: SessionId,
    /// The secret with which it is opened.
    pub secret: PayloadSecret,
}

impl Values {
    /// A value that is held.
    ///
    /// # Panics
    /// If nobody needs it any longer.
    pub fn get(&self, id: ValueId) -> &Stored {
        &self.held.get(&id).expect("a value is held for each of its users").stored
    }

    /// Returns true if so many bytes more are within the half of the budget.
    fn has_room(&self, bytes: u64, total: u64) -> bool {
        self.bytes.checked_add(bytes).is_some_and(|bytes| bytes <= total / 2)
    }

    /// Holds a value for its first user.
    fn insert(&mut self, id: ValueId, stored: Stored, opens: Opens, token: Option<TokenId>) {
        self.bytes += stored.budget_bytes();
        let value = Value { stored, opens, token, users: 1, told: BTreeSet::new() };
        let before = self.held.insert(id, value);
        assert!(before.is_none(), "{id:?} is two values");
    }

    /// Notes that a value goes to a process. Returns the session that it was sealed for.
    pub fn note_told(&mut self, id: ValueId, process: ProcessKey) -> &Opens {
        let value = self.held.get_mut(&id).expect("a value is held for each of its users");
        value.told.insert(process);
        &value.opens
    }

    /// Somebody else needs it, too.
    pub fn add_user(&mut self, id: ValueId) {
        self.held.get_mut(&id).expect("a value is held for each of its users").users += 1;
    }

    /// One user fewer. Gives it back when that was the last one.
    fn remove_user(&mut self, id: ValueId) -> Option<Value> {
        let value = self.held.get_mut(&id).expect("a value is held for each of its users");
        value.users -= 1;
        if value.users > 0 {
            return None;
        }
        let value = self.held.remove(&id)?;
        let bytes = value.stored.budget_bytes();
        assert!(bytes <= self.bytes, "{bytes} bytes of {} of all values go", self.bytes);
        self.bytes -= bytes;
        Some(value)
    }

    /// Returns true if it has one user left.
    fn is_last_user(&self, id: ValueId) -> bool {
        self.held.get(&id).is_some_and(|value| value.users == 1)
    }

    /// Each with its users, bytes, processes and token, for the tests.
    #[cfg(any(test, feature = "invariants"))]
    pub fn iter(
        &self,
    ) -> impl Iterator<Item = (ValueId, u64, u64, &BTreeSet<ProcessKey>, Option<TokenId>)> {
        self.held.iter().map(|(id, value)| {
            (*id, value.users, value.stored.budget_bytes(), &value.told, value.token)
        })
    }

    /// Bytes of all of them that count against the budget, for the tests.
    #[cfg(any(test, feature = "invariants"))]
    pub fn bytes(&self) -> u64 {
        self.bytes
    }
}

impl Core {
    /// Makes the result of an ended task a value, whose first user is its record. Returns false if
    /// it has none, or there is no room: then it stays what it is.
    pub(in crate::core) fn become_value(&mut self, key: SessionKey, done: &mut EndedTask) -> bool {
        if done.value.is_some() {
            return true;
        }
        let bytes = done.payload.as_ref().map_or(0, Stored::budget_bytes);
        let is_here = done.payload.as_ref().is_some_and(|it| !matches!(it, Stored::Refused));
        if !is_here || !self.has_room_for_value(bytes) {
            return false;
        }
        // It is not held for a reader any longer: nobody is passed over for it.
        self.note_read(key, done);
        let stored = done.payload.take().expect("it was looked at a moment ago");
        let opens = self.opens(key);
        done.value = Some(self.hold_value(stored, opens, None));
        true
    }

    /// The same of a task whose record is kept, with the session that its result was sealed for: it
    /// no longer gives way to others.
    pub(in crate::core) fn become_kept_value(
        &mut self,
        done: &mut EndedTask,
        opens: Opens,
    ) -> bool {
        if done.value.is_some() {
            return true;
        }
        let bytes = done.payload.as_ref().map_or(0, Stored::budget_bytes);
        if matches!(done.payload, Some(Stored::Refused)) || !self.has_room_for_value(bytes) {
            return false;
        }
        let Some(stored) = done.payload.take() else { return false };
        done.value = Some(self.hold_value(stored, opens, None));
        true
    }

    fn opens(&self, key: SessionKey) -> Opens {
        let session = self.sessions.get(key).expect("a session outlives its results");
        let secret = session.secret.clone().expect("a session has its secret before tasks");
        Opens { key, id: session.id, secret }
    }

    /// A client has put a value here, which is the result of a task that no engine runs.
    pub(in crate::core) fn put_value(&mut self, now: Time, key: TaskKey) {
        let task = self.tasks.get_mut(key).expect("a task that has its payload has not ended");
        let session = task.session;
        let bytes = task.payload.budget_bytes();
        if !self.has_room_for_value(bytes) {
            let (_, total) = self.memory.budget.state();
            let text = format!(
                "values take half of the broker's payload memory ({total} bytes) at most, which is full; let go of \
                 some, or start it with more: {flag}",
                flag = self.config.memory_flag
            );
            let ended = TaskEnd::by_broker(TaskState::Failed, ErrorKind::Busy, text);
            return self.end(now, key, ended);
        }
        let task = self.tasks.get_mut(key).expect("it was there a moment ago");
        let stored = std::mem::replace(&mut task.payload, Stored::Refused);
        let of = self.sessions.get(session).expect("a session outlives its tasks").counted_by;
        let token = (bytes > 0).then_some(of);
        if bytes > 0 {
            self.memory.budget.keep_request(bytes);
            self.grant_to_client(session, bytes);
        }
        let opens = self.opens(session);
        let value = Some(self.hold_value(stored, opens, token));
        self.end(now, key, TaskEnd { value, ..TaskEnd::default() });
    }

    fn has_room_for_value(&self, bytes: u64) -> bool {
        let (_, total) = self.memory.budget.state();
        self.memory.values.has_room(bytes, total)
    }

    fn hold_value(&mut self, stored: Stored, opens: Opens, token: Option<TokenId>) -> ValueId {
        // Engine processes know shares and values by numbers of one row.
        self.memory.shares_made += 1;
        let id = ValueId(self.memory.shares_made);
        self.memory.values.insert(id, stored, opens, token);
        id
    }

    /// One user of a value needs it no longer. With the last one it is freed.
    pub(in crate::core) fn let_go_of_value(&mut self, id: ValueId) {
        let Some(Value { stored, token, told, .. }) = self.memory.values.remove_user(id) else {
            return;
        };
        for process in told {
            count(1);
            // Numbers belong to a connection, which may be over.
            let Some(process) = self.processes.get_mut(&process) else { continue };
            if process.told.shares.remove(&id.0) {
                let message = ToEngine::Unshare(Unshare { share: id.0 });
                self.outputs.push_back(Output::ToEngine(process.connection, message));
            }
        }
        let bytes = stored.budget_bytes();
        self.memory.budget.release(BytesOf::Other, bytes);
        if let Some(token) = token {
            self.peers.quotas.release(token, bytes);
        }
        self.discard(Some(stored));
    }

    /// The result of a task that has ended, wherever it is held.
    pub(in crate::core) fn result_of<'a>(&'a self, done: &'a EndedTask) -> Option<&'a Stored> {
        match done.value {
            Some(id) => Some(self.memory.values.get(id)),
            None => done.payload.as_ref(),
        }
    }

    /// A task's record is kept for others: its value is an ordinary result again, which gives way
    /// as such. Tasks that have it as an input hold it on.
    pub(in crate::core) fn keep_value_as_result(&mut self, done: &mut EndedTask) {
        let Some(id) = done.value.take() else { return };
        let stored = self.memory.values.get(id).clone();
        let bytes = stored.budget_bytes();
        // Before the value is freed: else others might take its place in between.
        let is_alone = self.memory.values.is_last_user(id);
        if is_alone {
            self.memory.budget.take(BytesOf::Other, bytes);
        } else if !self.reserve(BytesOf::Other, bytes) {
            done.what.gave_way = true;
            return self.let_go_of_value(id);
        }
        done.payload = Some(stored);
        self.let_go_of_value(id);
    }
}
