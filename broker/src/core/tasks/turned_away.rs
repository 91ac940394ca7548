//! Tasks that were turned away at their submit, for want of room or of a right: their clients are
//! told so, and nothing is held of them. Somebody who is told `busy` again and again thereby takes
//! nothing that others need.
//!
//! A client that was cut off before it heard of it is told with `Accepted` that such a task is
//! missing, and submits it again.

use furlong_wire::ids::{EngineId, TaskSeq};
use furlong_wire::message::{ErrorKind, Finished, Submit, Targets, TaskState, TaskTimes, ToClient};

use super::end::DependencyEnd;
use super::end::TaskEnd;
use super::submit::transfer_of;
use crate::core::keys::SessionKey;
use crate::core::payloads::stored::Stored;
use crate::core::sessions::table::Session;
use crate::core::{Core, PeerMisbehaved, Time};

impl Core {
    /// Why tasks are turned away before anything is held of them, if so.
    pub(in crate::core) fn why_refused(
        &self,
        key: SessionKey,
        submit: &Submit,
        tasks: u64,
        stored: &Stored,
    ) -> Option<TaskEnd> {
        let session = self.sessions.get(key).expect("a session that submits is here");
        let claims = &session.claims;
        let direct = submit.targets != Targets::Shared;
        let allowed =
            if direct { claims.role.may_submit_direct() } else { claims.role.may_submit_shared() };
        let failed = |kind, text: String| Some(TaskEnd::by_broker(TaskState::Failed, kind, text));
        if !allowed {
            let what = if direct { "engines by their ids" } else { "the shared queue" };
            let role = claims.role;
            let text = format!(
                "the capability's role `{role}` may not use {what}; ask for a `client` capability"
            );
            return failed(ErrorKind::Forbidden, text);
        }
        // Before memory is looked at: a token's limit is the reason that its holder can act on.
        if !self.peers.quotas.takes(session.counted_by, tasks) {
            let most = claims.limits.unfinished_tasks_max;
            let text = format!(
                "the capability allows {most} unfinished tasks at once, over all its sessions; wait"
            );
            return failed(ErrorKind::Busy, text);
        }
        if matches!(stored, Stored::Refused) {
            return failed(ErrorKind::Busy, self.no_memory(claims.limits.payload_bytes_max));
        }
        failed(ErrorKind::Busy, self.no_room_for_tasks(session, tasks)?)
    }

    /// Why a session can have no tasks more, if so: it leaves free as many as it has, which is room
    /// for others however many do not take their results.
    fn no_room_for_tasks(&self, session: &Session, tasks: u64) -> Option<String> {
        let (used, most) =
            (self.tasks.len() as u64 + self.tally.results_held + tasks, self.config.tasks_max);
        let own = (session.ledger.tasks.len() + session.ledger.done.len()) as u64 + tasks;
        (own > most.saturating_sub(used)).then(|| {
            format!(
                "the broker holds {used} of the {most} tasks that its memory takes, {own} of this session, which must \
                 leave room for others; take results, or start the broker with more: {}",
                self.config.memory_flag
            )
        })
    }

    /// Turns tasks away, and reads past their payload.
    pub(in crate::core) fn turn_away(
        &mut self,
        now: Time,
        key: SessionKey,
        submit: &Submit,
        stored: &Stored,
        refusal: &TaskEnd,
    ) -> Result<(), PeerMisbehaved> {
        let session = self.sessions.get_mut(key).ok_or(PeerMisbehaved::Order)?;
        session.link.receiving.expect(transfer_of(&submit.payload), &submit.payload, None)?;
        self.read_past(key, &submit.payload, stored);
        let targets: Vec<Option<EngineId>> = match &submit.targets {
            Targets::Shared => vec![None],
            Targets::Engines(engines) => engines.iter().copied().map(Some).collect(),
        };
        let times =
            TaskTimes { submitted_unix_us: now.unix_us(self.config.start), ..TaskTimes::default() };
        // The ends are remembered, for tasks that depend on these; nothing else is.
        for (n, engine) in submit.n.onward().zip(&targets).map(|(n, engine)| (n, *engine)) {
            let session = self.sessions.get_mut(key).ok_or(PeerMisbehaved::Order)?;
            let ending = DependencyEnd { succeeded: false, engine };
            self.tally.remember_end(session, n, ending, &self.config);
            let connection = session.link.connection;
            let outcome = refusal.outcome.clone();
            let finished = Finished { n, outcome, engine, attempts: 0, times, payload: None };
            if let Some(to) = connection {
                self.to_client(to, ToClient::Finished(finished.clone()));
            }
        }
        self.tally.finished += targets.len() as u64;
        let session = self.sessions.get_mut(key).ok_or(PeerMisbehaved::Order)?;
        session.ledger.refused.add(submit.n, submit.n + targets.len() as u64 - 1);
        Ok(())
    }

    /// A task that was refused is submitted again: it has not ended.
    pub(in crate::core) fn forget_refusal(&mut self, key: SessionKey, n: TaskSeq) {
        let session = self.sessions.get_mut(key).expect("a session that submits is here");
        // None if so many tasks have ended since that it was forgotten.
        let ending = session.ledger.endings.remove(n);
        self.tally.forget_ends(usize::from(ending.is_some()));
    }
}
