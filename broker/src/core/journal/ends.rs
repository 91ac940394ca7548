//! Ends of durable tasks: they are delivered when the journal has them.

use furlong_wire::ids::TaskSeq;
use furlong_wire::message::TaskState;

use super::Act;
use super::rows::{EndRow, Entry};
use super::stage::Stage;
use crate::core::keys::SessionKey;
use crate::core::payloads::stored::Stored;
use crate::core::tasks::ended::EndedTask;
use crate::core::{Core, Time};

impl Core {
    /// Writes down how a task ended, if the journal knows it. Whether its end waits for that.
    pub(in crate::core) fn note_ended(
        &mut self,
        session: SessionKey,
        n: TaskSeq,
        done: &mut EndedTask,
        request: &Stored,
    ) -> bool {
        let durable = done.what.durable.take();
        if durable.as_ref().is_some_and(|it| matches!(it.stage, Stage::Unknown | Stage::Behind)) {
            self.leave_line(session, done.what.target, n);
            self.note_released();
            return false;
        }
        done.what.durable = durable;
        let Some(durable) = &done.what.durable else { return false };
        let more = done.what.more.as_deref();
        let row = EndRow {
            id: durable.id,
            ended_unix_us: done.times.submitted_unix_us.saturating_add(done.times.finished_us),
            outcome: done.outcome.clone(),
            engine: done.engine,
            attempts: done.attempts,
            losses: done.what.losses,
            errors: more.map_or(0, |more| more.errors),
            assigned_us: done.times.assigned_us,
            finished_us: done.times.finished_us,
            run: done.times.run,
            request_bytes: done.what.request_bytes,
            request_chunks: request.row(),
            past: more.map_or_else(Vec::new, |more| more.past.clone()),
            payload: done.payload.as_ref().and_then(|payload| payload.blob(durable.id)),
            output: more.map_or_else(Vec::new, |more| more.output.pieces().to_vec()),
            output_bytes: more
                .map_or((0, 0), |more| (more.output.stdout_bytes, more.output.stderr_bytes)),
            delivered_us: None,
        };
        self.write_and(Entry::Ended(Box::new(row)), Act::Deliver(session, n));
        self.note_last_entry(session);
        true
    }

    pub(super) fn deliver_noted(
        &mut self,
        now: Time,
        session: SessionKey,
        n: TaskSeq,
        is_written: bool,
    ) {
        let held = self.sessions.ended_mut(session, n);
        let is_held = held.is_some();
        let Some(done) = held.or_else(|| self.kept.get_mut(session, n)) else {
            // It had to make room for others that are kept.
            return;
        };
        done.is_unwritten = false;
        let (followers, is_purged) = (done.what.take_followers(), done.is_purged);
        let was_stopped = matches!(done.outcome.state, TaskState::Cancelled | TaskState::TimedOut);
        // On disk, it needs no engine to say that it has run.
        let held = if is_written { done.held.take() } else { None };
        let bytes = done.payload.as_ref().map_or(0, Stored::budget_bytes);
        self.answer_followers(now, session, n, followers);
        if let Some((process, attempt)) = held {
            self.release_attempt(process, attempt, bytes);
        }
        if is_purged {
            self.forget_kept(session, n);
        }
        if is_held {
            self.deliver(session, n);
            let still_runs =
                self.sessions.get(session).is_some_and(|session| session.is_stopping(n));
            if was_stopped && !still_runs {
                self.tell_stopped(session, n);
            }
        }
    }

    /// The client has a result that is kept.
    pub(in crate::core) fn note_delivered(&mut self, done: &EndedTask, delivered_us: u64) {
        if let Some(durable) = &done.what.durable {
            self.write(Entry::Delivered(durable.id, delivered_us));
        }
    }

    /// Nobody can ask for an ended task any longer.
    pub(in crate::core) fn note_forgotten(&mut self, done: &EndedTask) {
        if let Some(durable) = &done.what.durable {
            self.write(Entry::Forgotten(durable.id));
        }
    }

    /// A session is over, and its durable tasks go on.
    pub(in crate::core) fn note_departed(&mut self, key: SessionKey) {
        if self.sessions.get(key).is_some_and(|session| session.noted.is_written) {
            self.write(Entry::Departed(key.0));
        }
    }
}
