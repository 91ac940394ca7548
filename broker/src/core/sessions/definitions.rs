//! Definitions: blobs that the tasks of a session name, each sent once to a process; and the names
//! of its kinds of tasks.

use std::sync::Arc;

use furlong_wire::limits::NAME_BYTES_MAX;
use furlong_wire::message::{Define, EngineUndefine, KindName, Payload, Runtime, ToEngine};

use super::names::name_bytes;
use super::table::{ClientWaiting, Definition};
use crate::core::keys::SessionKey;
use crate::core::payloads::stored::Stored;
use crate::core::tasks::submit::{announced_bytes, transfer_of};
use crate::core::turns::work::count;
use crate::core::{Core, PeerMisbehaved, Time};

/// Definitions that a session may have.
const DEFINITIONS_MAX: usize = 4096;

impl Core {
    pub(in crate::core) fn define(
        &mut self,
        now: Time,
        key: SessionKey,
        define: &Define,
    ) -> Result<(), PeerMisbehaved> {
        self.may(key, |role| role.may_submit_direct() || role.may_submit_shared())?;
        let session = self.sessions.get_mut(key).ok_or(PeerMisbehaved::Order)?;
        session.link.receiving.check(&define.payload)?;
        session.link.credit.announce(announced_bytes(&define.payload))?;
        // A number is used once, unless its blob was cut off on its way: then those that wait for
        // it go on waiting.
        let has_room = session.definitions.len() < DEFINITIONS_MAX;
        let waiting = match session.definitions.get_mut(&define.number) {
            None if has_room => Vec::new(),
            Some(Definition::Missing(waiting)) => std::mem::take(waiting),
            // What is there stays as it is: its bytes are counted until the session ends.
            _ => return Err(PeerMisbehaved::Limit),
        };
        let token = self.sessions.get(key).ok_or(PeerMisbehaved::Order)?.counted_by;
        let stored = self.admit_payload(key, &define.payload);
        let is_inline = matches!(define.payload, Payload::Inline(_));
        let has_room = !is_inline || self.charge_inline_definition(token, &stored);
        let stored = if has_room { stored } else { Stored::Refused };
        let refused = matches!(stored, Stored::Refused);
        let whole = refused || matches!(define.payload, Payload::Inline(_));
        let session = self.sessions.get_mut(key).ok_or(PeerMisbehaved::Order)?;
        session.definitions.insert(define.number, Definition::Receiving(waiting));
        let waits = (!whole).then_some(ClientWaiting::Definition(define.number));
        session.link.receiving.expect(transfer_of(&define.payload), &define.payload, waits)?;
        if refused {
            self.read_past(key, &define.payload, &Stored::Refused);
        }
        if whole { self.take_definition(now, key, define.number, stored) } else { Ok(()) }
    }

    /// A definition can go. One that has not come whole stays until the session ends: its chunks
    /// are on their way.
    pub(in crate::core) fn undefine(
        &mut self,
        key: SessionKey,
        number: u32,
    ) -> Result<(), PeerMisbehaved> {
        let session = self.sessions.get_mut(key).ok_or(PeerMisbehaved::Order)?;
        if !matches!(session.definitions.get(&number), Some(Definition::Here(_))) {
            return Ok(());
        }
        let (id, token) = (session.id, session.counted_by);
        let definition = session.definitions.remove(&number).expect("it was there a moment ago");
        if let Definition::Here(stored) = &definition {
            // Its chunks counted against the client's credit until now.
            match stored.budget_bytes() {
                0 => {}
                bytes => self.grant_to_client(key, bytes),
            }
        }
        self.release_definition(token, definition);
        let session = self.sessions.get(key);
        for process in session.into_iter().flat_map(|session| &session.known_to) {
            count(1);
            let process = self.processes.get_mut(process);
            let process = process.expect("a session is known to processes that are here");
            if process.told.definitions.remove(&(key, number)) {
                let message = ToEngine::Undefine(EngineUndefine { session: id, number });
                self.outputs.push_back(crate::core::Output::ToEngine(process.connection, message));
            }
        }
        Ok(())
    }

    /// A definition is here, or was refused: what waited for it goes on.
    pub(in crate::core) fn take_definition(
        &mut self,
        now: Time,
        key: SessionKey,
        number: u32,
        stored: Stored,
    ) -> Result<(), PeerMisbehaved> {
        let session = self.sessions.get_mut(key).ok_or(PeerMisbehaved::Order)?;
        let before = session.definitions.insert(number, Definition::Here(stored));
        let Some(Definition::Receiving(waiting)) = before else {
            return Err(PeerMisbehaved::Order);
        };
        for task in waiting {
            // It may have been cancelled meanwhile.
            let payload = self.tasks.get(task).map(|task| task.payload.clone());
            if let Some(payload) = payload {
                self.take_payload(now, task, payload);
            }
        }
        Ok(())
    }

    /// A client says the name of a kind of task. Without room for it, tasks of the kind have none.
    /// One that may not submit says it too, and is told so by the end of its first task.
    pub(in crate::core) fn name(
        &mut self,
        key: SessionKey,
        KindName { class, runtime, name }: KindName,
    ) -> Result<(), PeerMisbehaved> {
        if name.len() > NAME_BYTES_MAX {
            return Err(PeerMisbehaved::Limit);
        }
        let session = self.sessions.get_mut(key).filter(|session| session.secret.is_some());
        let session = session.ok_or(PeerMisbehaved::Order)?;
        let role = session.claims.role;
        if !role.may_submit_direct() && !role.may_submit_shared() {
            return Ok(());
        }
        session.kinds.seen.last = None;
        let (token, names) = (session.counted_by, &mut session.kinds.names);
        // Each connection begins with all of them.
        if names.get(runtime, class).is_some_and(|known| **known == *name) {
            return Ok(());
        }
        if let Some(before) = names.remove(runtime, class) {
            self.release_names(token, name_bytes(&before));
        } else if !names.has_room() {
            return Err(PeerMisbehaved::Limit);
        }
        if self.charge_name(token, &name) {
            let session = self.sessions.get_mut(key).expect("making room ends no session");
            session.kinds.names.insert(runtime, class, name.into());
        }
        Ok(())
    }

    /// A name from the journal, of a kind whose tasks it has. It is shared with them.
    pub(in crate::core) fn restore_name(
        &mut self,
        key: SessionKey,
        (runtime, class): (Runtime, u32),
        name: Arc<str>,
    ) -> Arc<str> {
        let session = self.sessions.get_mut(key).expect("a task from the journal has a session");
        // Only sessions that hide nothing have names.
        (session.kinds.hides_names, session.kinds.seen.last) = (false, None);
        let (token, names) = (session.counted_by, &session.kinds.names);
        if let Some(known) = names.get(runtime, class) {
            return Arc::clone(known);
        }
        if names.has_room() && self.charge_name(token, &name) {
            let session = self.sessions.get_mut(key).expect("making room ends no session");
            session.kinds.names.insert(runtime, class, Arc::clone(&name));
        }
        name
    }
}
