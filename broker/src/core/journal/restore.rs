//! Restoring the journal of an earlier start into the core: sessions, then what must be held
//! (unfinished tasks, then definitions), then as many results as fit.

use std::collections::BTreeMap;

use furlong_wire::ids::TaskId;
use furlong_wire::message::{ErrorKind, TaskState};

use super::rows::{Blob, Chunked, EndRow, Met, SessionRow, TaskRow};
use super::stage::{Durable, Stage};
use crate::core::keys::{SessionKey, TaskKey};
use crate::core::payloads::budget::BytesOf;
use crate::core::payloads::charges::{definition_bytes, options_bytes};
use crate::core::payloads::output::KeptOutput;
use crate::core::payloads::stored::Stored;
use crate::core::recovery::claims::ROSTER_WAIT;
use crate::core::schedule::time_left::demanded_s;
use crate::core::sessions::connect::SESSION_GRACE;
use crate::core::sessions::expiries::Away;
use crate::core::sessions::names::SessionKinds;
use crate::core::sessions::table::{Definition, Departure, Noted, Session};
use crate::core::tasks::end::DependencyEnd;
use crate::core::tasks::end::{TaskEnd, unmet};
use crate::core::tasks::ended::{EndedTask, TaskSummary};
use crate::core::tasks::extras::TaskExtras;
use crate::core::tasks::table::{Queue, Submitted, submitted};
use crate::core::{Core, Time};

/// A core that is given back what its journal has. It is not served meanwhile;
/// [`Restoring::finish`] comes last.
#[derive(Debug)]
pub struct Restoring<'a> {
    core: &'a mut Core,
    /// Arguments that several tasks share.
    shared: BTreeMap<u64, Stored>,
    unfinished: Vec<TaskKey>,
    /// True if each of them is later in its session than those before it.
    is_in_order: bool,
    /// Those that they waited for and that have ended.
    met: BTreeMap<TaskKey, Vec<Met>>,
}

/// The part of a restored journal that does not fit this broker.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum RestoreError {
    /// The arguments of unfinished tasks must be held.
    #[error(
        "the journal has arguments of unfinished tasks that do not fit the broker's payload memory of {0} bytes; start \
         it with more: {1}"
    )]
    Memory(u64, &'static str),
    /// A row names what is not there.
    #[error("the journal is damaged: {0}; see `furlong journal check`")]
    Damaged(String),
}

impl<'a> Restoring<'a> {
    /// Begins with a core that has just been made.
    pub fn new(core: &'a mut Core) -> Self {
        Self {
            core,
            shared: BTreeMap::new(),
            unfinished: Vec::new(),
            is_in_order: true,
            met: BTreeMap::new(),
        }
    }

    /// A session. Until its client comes back, it is like one whose connection was cut when the
    /// broker was started.
    pub fn session(&mut self, row: SessionRow) {
        let core = &mut *self.core;
        let tasks_max = core.session_tasks_max(&row.claims);
        core.peers.quotas.enter(&row.claims);
        let session = Session {
            secret: Some(row.secret),
            departure: Departure { departed: row.departed, ..Departure::default() },
            kinds: SessionKinds { hides_names: true, ..SessionKinds::default() },
            noted: Noted { is_written: true, is_restored: true, ..Noted::default() },
            ..Session::new(row.id, row.claims, tasks_max)
        };
        if !row.departed {
            core.peers
                .expiries
                .set(Away::Session(SessionKey(row.key)), Time::default().after(SESSION_GRACE));
        }
        core.sessions.insert_at(SessionKey(row.key), session);
    }

    /// A definition of a session, after its unfinished tasks: without any, one that is over needs
    /// none.
    ///
    /// # Errors
    /// If there is no such session, or no memory for it.
    pub fn definition(
        &mut self,
        session: u32,
        number: u32,
        blob: Blob,
    ) -> Result<(), RestoreError> {
        let key = SessionKey(session);
        let of = self.core.sessions.get(key).ok_or_else(|| no_session(key))?;
        if of.departure.departed && of.ledger.tasks.is_empty() {
            return Ok(());
        }
        let stored = self.hold(key, blob, false)?;
        if let Stored::Inline(_) = &stored {
            let bytes = definition_bytes(&stored);
            // Taken whether it fits or not: tasks that were accepted need it.
            self.core.memory.budget.take(BytesOf::Request, bytes);
            self.core
                .peers
                .quotas
                .take(self.core.sessions.get(key).expect("it was restored").counted_by, bytes);
        }
        let session = self.core.sessions.get_mut(key).expect("it was restored");
        session.definitions.insert(number, Definition::Here(stored));
        session.noted.definitions.insert(number);
        Ok(())
    }

    /// A task, and its end if it has ended: after all that have not, which must fit.
    ///
    /// # Errors
    /// If there is no such session, or no memory for what it needs.
    pub fn task(&mut self, row: TaskRow, end: Option<EndRow>) -> Result<(), RestoreError> {
        self.core.recovery.journal.last_id = self.core.recovery.journal.last_id.max(row.id);
        match end {
            Some(end) => self.ended(row, end),
            None => self.unfinished(row),
        }
    }

    /// Arguments, or a definition, which must be held. Those of direct tasks may be shared.
    fn hold(
        &mut self,
        key: SessionKey,
        blob: Blob,
        is_shared: bool,
    ) -> Result<Stored, RestoreError> {
        let chunked = match blob {
            Blob::Inline(bytes) => return Ok(Stored::Inline(bytes)),
            Blob::Chunked(chunked) => chunked,
        };
        if let Some(stored) = self.shared.get(&chunked.of).filter(|_| is_shared) {
            return Ok(stored.clone());
        }
        let (of, bytes) = (chunked.of, chunked.bytes);
        if chunked.content.is_none() {
            return Err(RestoreError::Damaged(format!("the arguments of task {of} are not there")));
        }
        if !self.core.reserve(BytesOf::Restored, bytes) {
            return Err(RestoreError::Memory(
                self.core.memory.budget.state().1,
                self.core.config.memory_flag,
            ));
        }
        // It was let in within the half for requests, perhaps of a broker with more memory.
        self.core.memory.budget.become_request(bytes);
        if let Some(session) = self.core.sessions.get(key) {
            self.core.peers.quotas.take(session.counted_by, bytes);
        }
        if !is_shared {
            return Ok(Stored::restored(chunked, None));
        }
        self.core.memory.shares_made += 1;
        let stored = Stored::restored(chunked, Some(self.core.memory.shares_made));
        self.shared.insert(of, stored.clone());
        Ok(stored)
    }

    fn unfinished(&mut self, row: TaskRow) -> Result<(), RestoreError> {
        let key = SessionKey(row.session);
        let payload = self.hold(key, row.payload, row.target.is_some())?;
        let core = &mut *self.core;
        let session = core.sessions.get_mut(key).ok_or_else(|| no_session(key))?;
        let demands = core.schedule.placements.enter(
            row.runtime,
            &row.options.require,
            &session.claims.scopes,
            (0, demanded_s(Some(&row.options))),
            1,
        );
        let placement =
            demands.or_else(|| core.schedule.placements.enter(row.runtime, &[], &[], (0, 0), 1));
        let placement = placement.expect("the plain demands are always there");
        // Only what may run once is noted when it begins. Any other may have run.
        let begun = row.begun || row.options.repeated || !row.options.at_most_once;
        let age_us = core.config.start.0.saturating_sub(row.submitted_unix_us);
        let durable = Some(Durable { id: row.id, stage: Stage::Written, begun, age_us });
        let (target, runtime, class, define) = (row.target, row.runtime, row.class, row.define);
        if let Some(name) = row.name {
            core.restore_name(key, (runtime, class), name);
        }
        let kind = core.seen_kind(key, runtime, class);
        core.see_submitted(Time::default(), key, kind, 1);
        let part = Submitted {
            target,
            placement,
            runtime,
            class,
            kind,
            define,
            options: Some(&row.options),
            durable,
        };
        let task = core.tasks.insert(submitted(key, row.n, part, payload, Time::default()));
        let session = core.sessions.get_mut(key).ok_or_else(|| no_session(key))?;
        self.is_in_order &= row.n > session.ledger.submitted;
        session.had_before(row.n);
        session.ledger.tasks.insert(row.n, task);
        session.ledger.keeps += u64::from(row.options.keep);
        core.memory.budget.take(BytesOf::Other, options_bytes(&row.options));
        core.peers.quotas.begin_task(session.counted_by);
        self.unfinished.push(task);
        if !row.met.is_empty() {
            self.met.insert(task, row.met);
        }
        Ok(())
    }

    fn ended(&mut self, row: TaskRow, end: EndRow) -> Result<(), RestoreError> {
        let key = SessionKey(row.session);
        let core = &mut *self.core;
        let session = core.sessions.get_mut(key).ok_or_else(|| no_session(key))?;
        session.had_before(row.n);
        let is_kept = session.departure.departed || end.delivered_us.is_some();
        let name = row.name.map(|name| core.restore_name(key, (row.runtime, row.class), name));
        let times = end.times(row.submitted_unix_us);
        let mut output = KeptOutput::restored(end.attempts, end.output_bytes, end.output);
        let wanted = end.payload.as_ref().map_or(0, Blob::budget_bytes) + output.kept_bytes();
        let what = if is_kept { BytesOf::Other } else { BytesOf::Restored };
        // What has ended needs no memory to be true: without room its record alone comes back.
        let fits = core.reserve(what, wanted);
        if !fits {
            output.drop_pieces();
        }
        let durable = Durable { id: row.id, stage: Stage::Written, begun: true, age_us: 0 };
        let more =
            TaskExtras { errors: end.errors, past: end.past, output, ..TaskExtras::default() };
        let payload = end.payload.filter(|_| fits).map(|blob| match blob {
            Blob::Inline(bytes) => Stored::Inline(bytes),
            Blob::Chunked(chunked) => Stored::restored(chunked, None),
        });
        let mut done = Box::new(EndedTask {
            outcome: end.outcome,
            engine: end.engine,
            attempts: end.attempts,
            times,
            payload,
            value: None,
            lane: None,
            held: None,
            is_unwritten: false,
            is_purged: false,
            what: TaskSummary {
                runtime: row.runtime,
                class: row.class,
                name,
                target: row.target,
                options: Some(row.options),
                request_bytes: end.request_bytes,
                losses: end.losses,
                queued_us: 0,
                gave_way: !fits,
                durable: Some(Box::new(durable)),
                more: Some(Box::new(more)),
            },
        });
        core.charge_record(&mut done);
        let session = core.sessions.get_mut(key).expect("it was restored");
        let more = session.remember(
            row.n,
            done.ending(),
            core.config.ends_remembered_max(core.tally.ends_remembered),
        );
        core.tally.ends_remembered = core.tally.ends_remembered.saturating_add_signed(more);
        if is_kept {
            core.keep_restored(Time::default(), key, row.n, done, end.delivered_us);
        } else {
            session.ledger.keeps += u64::from(done.what.keep());
            let bytes = done.payload.as_ref().map_or(0, Stored::budget_bytes);
            session.ledger.done.insert(row.n, done);
            core.tally.results_held += 1;
            core.memory.budget.become_result(bytes);
            core.count_unread(key, bytes);
        }
        Ok(())
    }

    /// Everything is here: what waits for other tasks is told of those that have ended, the rest is
    /// queued. What engines may have waits for those of the roster, from now on.
    pub fn finish(self, now: Time) {
        let Self { core, shared, mut unfinished, is_in_order, mut met } = self;
        // Whether others hold it decides when it is freed.
        drop(shared);
        if !core.recovery.orphans.awaits_nobody() {
            let until = now.after(ROSTER_WAIT);
            core.recovery.journal.reconciling_until = (!unfinished.is_empty()).then_some(until);
        }
        // A session's tasks are in its order, but for those that it had to submit once more.
        if !is_in_order {
            unfinished.sort_by_key(|key| core.tasks.get(*key).map(|task| (task.session, task.n)));
        }
        let sessions: Vec<SessionKey> = core.sessions.iter().map(|(key, _)| key).collect();
        for key in unfinished {
            core.go_on(now, key, &met.remove(&key).unwrap_or_default());
        }
        for key in sessions {
            core.forget_departed(key);
        }
    }
}

fn no_session(key: SessionKey) -> RestoreError {
    RestoreError::Damaged(format!("a row is of session {}, which is not there", key.0))
}

impl Core {
    /// A task of an earlier start goes on.
    fn go_on(&mut self, now: Time, key: TaskKey, met: &[Met]) {
        // One for which it waits may have ended otherwise than demanded, and this one with it.
        let Some(task) = self.tasks.get(key) else { return };
        let (session, n, options) = (task.session, task.n, task.options.clone());
        let target = task.target();
        self.set_deadline(now, key);
        if let Some(target) = target
            && self
                .engines
                .update(target, |engine| engine.queue.push_back(session, n, key))
                .is_none()
        {
            let text = format!(
                "the broker was stopped, and engine {target} is gone; submit it again to another"
            );
            let task = self.tasks.get_mut(key).expect("it was there a moment ago");
            // It has not joined its engine's queue.
            task.queue = Queue::Shared;
            let ended = TaskEnd::by_broker(TaskState::Lost, ErrorKind::EngineLost, text);
            return self.end(now, key, TaskEnd { engine: Some(target), ..ended });
        }
        let session = self.sessions.get(session).expect("a session outlives its tasks");
        let options = options.expect("a durable task has options");
        let own = TaskId { session: session.id, n };
        match self.waits_of(session.owner(), own, &options, met) {
            Ok(Some(waits)) => {
                self.note_met_before(key, &waits, met);
                self.begin_to_wait(key, waits);
            }
            Ok(None) => {}
            Err(text) => return self.end(now, key, unmet(&text)),
        }
        self.admit_with_arguments(now, key);
    }
}

impl Blob {
    /// Bytes that count against the payload memory.
    fn budget_bytes(&self) -> u64 {
        match self {
            Self::Inline(_) => 0,
            Self::Chunked(Chunked { bytes, .. }) => *bytes,
        }
    }
}

impl Met {
    /// As an end.
    pub fn ending(self) -> DependencyEnd {
        DependencyEnd { succeeded: self.succeeded, engine: self.engine }
    }
}
