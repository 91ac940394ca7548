//! Intermediate data: passed on to the client that waits for the task, and kept for nobody.

use furlong_wire::ids::Attempt;
use furlong_wire::limits::PUBLISHED_BYTES_MAX;
use furlong_wire::message::{AttemptPublished, Payload, Published, ToClient};

use super::arriving::{EarlyEnd, EngineWaiting};
use super::stored::Stored;
use crate::core::keys::{ProcessKey, SessionKey};
use crate::core::payloads::budget::BytesOf;
use crate::core::tasks::submit::{announced_bytes, transfer_of};
use crate::core::{Core, Output, PeerMisbehaved};

impl Core {
    /// Intermediate data: passed on to the client that waits for the task, and kept for nobody.
    pub(in crate::core) fn attempt_published(
        &mut self,
        key: ProcessKey,
        published: AttemptPublished,
    ) -> Result<(), PeerMisbehaved> {
        let bytes = announced_bytes(&published.payload);
        if bytes > PUBLISHED_BYTES_MAX {
            return Err(PeerMisbehaved::Limit);
        }
        let given = self.given(key, published.attempt)?;
        let wanted = given.is_some_and(|given| self.tasks.get(given.task).is_some());
        let process = self.processes.get_mut(&key).ok_or(PeerMisbehaved::Order)?;
        process.sending.receiving.check(&published.payload)?;
        // Counted against the lane whether or not anybody wants it: it is on its way in any case.
        let lane = given.and_then(|given| process.told.lanes.get_mut(&given.session));
        lane.map_or(Ok(()), |lane| lane.publish(bytes))?;
        if let Payload::Inline(inline) = &published.payload {
            let stored = Stored::Inline(inline.clone());
            self.pass_on(key, &published, &stored);
            return Ok(());
        }
        let admitted = given.filter(|_| wanted && self.reserve(BytesOf::Other, bytes));
        let process = self.processes.get_mut(&key).ok_or(PeerMisbehaved::Order)?;
        let (transfer, payload) = (transfer_of(&published.payload), published.payload.clone());
        if admitted.is_some() {
            process.sending.publishing.insert((published.attempt, transfer));
        }
        let waiting =
            admitted.map(|given| EngineWaiting::Published(published, given.session, None));
        process.sending.receiving.expect(transfer, &payload, waiting)?;
        if let Some(given) = given.filter(|_| admitted.is_none()) {
            self.return_published(key, given.session, bytes);
        }
        Ok(())
    }

    /// Published data have passed, or were read past: the process may publish as much again.
    pub(in crate::core) fn return_published(
        &mut self,
        key: ProcessKey,
        session: SessionKey,
        bytes: u64,
    ) {
        let lane =
            self.processes.get_mut(&key).and_then(|process| process.told.lanes.get_mut(&session));
        let total = lane.filter(|_| bytes > 0).map(|lane| lane.pass(bytes));
        if let Some(total) = total {
            self.grant_to_lane(key, session, total);
        }
    }

    pub(in crate::core) fn pass_on(
        &mut self,
        key: ProcessKey,
        published: &AttemptPublished,
        stored: &Stored,
    ) {
        // While it was on its way its attempt may have come to nothing: then it goes to nobody.
        let given = self.given(key, published.attempt).ok().flatten();
        let task =
            given.and_then(|given| self.tasks.get(given.task)).map(|task| (task.session, task.n));
        if let Some((session, n)) = task
            && let Some(session) = self.sessions.get_mut(session)
            && let Some(connection) = session.link.connection
        {
            let (payload, transfer) = stored.announce(|| {
                session.link.next_transfer += 1;
                session.link.next_transfer
            });
            self.to_client(connection, ToClient::Published(Published { n, payload }));
            if let Some((number, chunks)) = transfer {
                self.outputs.push_back(Output::Transfer(connection, number, chunks));
            }
        }
        self.memory.budget.release(BytesOf::Other, stored.budget_bytes());
    }

    /// Of intermediate data of an attempt that are on the way: its end, if that has come.
    pub(in crate::core) fn published_by(
        &mut self,
        key: ProcessKey,
        attempt: Attempt,
    ) -> Option<&mut Option<Box<EarlyEnd>>> {
        let process = self.processes.get_mut(&key)?;
        let (_, transfer) =
            *process.sending.publishing.range((attempt, 0)..=(attempt, u64::MAX)).next()?;
        match process.sending.receiving.waiting_mut(transfer)? {
            EngineWaiting::Published(.., end) => Some(end),
            EngineWaiting::Finished(..) => None,
        }
    }
}
