//! Write-ahead rules of the journal: durable tasks are accepted, begin (if they may run once only),
//! and are delivered when the journal has that.
//!
//! The core writes entries ([`Output::Journal`]) and goes on. What has to wait for an entry is kept
//! as an act, and done when the shell says how far the journal is ([`Core::handle_journaled`]). An
//! entry that cannot be written is no reason to stop: what was to be accepted or to begin fails,
//! what has ended is delivered all the same.

mod ends;
mod memory;
mod restore;
pub(in crate::core) mod rows;
pub(in crate::core) mod stage;

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use furlong_wire::ids::{EngineId, TaskId, TaskSeq};
use furlong_wire::message::{ErrorKind, Release, Reply, ReplyBody, TaskState, ToClient, ToEngine};

#[doc(hidden)]
pub use memory::MemoryJournal;
pub use restore::{RestoreError, Restoring};
pub use rows::{Blob, Chunked, Content, EndRow, Entry, Met, SessionRow, TaskRow};

use crate::core::journal::stage::{Durable, Stage};
use crate::core::keys::{AttemptId, SessionKey, TaskKey};
use crate::core::requests::status::that_fits;
use crate::core::sessions::table::Definition;
use crate::core::tasks::end::TaskEnd;
use crate::core::tasks::table::Task;
use crate::core::tasks::waits::Waits;
use crate::core::{Connected, ConnectionId, Core, Output, Time};

/// Replies that wait for the journal: more are refused, since requests would pile up while a disk
/// hangs.
const REPLIES_WAITING_MAX: usize = 4096;
/// Releases that wait for a disk that has failed, each of up to 256 attempts. Beyond, the oldest
/// goes out: engines hold no more than so much anyway.
const RELEASES_WAITING_MAX: usize = 4096;

/// The core's view of its journal.
#[derive(Debug, Default)]
pub struct Journal {
    /// The retention time of ended tasks in it; none without a journal.
    keep: Option<Duration>,
    /// The last number that a task was given.
    last_id: u64,
    /// Entries so far, and how far they are written or have failed.
    entries: u64,
    written: u64,
    acts: VecDeque<(u64, Act)>,
    /// Releases for engines, held back until entries that could not be written are written.
    releases: VecDeque<(ConnectionId, Release)>,
    /// True if something could not be written, and has not been since.
    is_behind: bool,
    replies_waiting: usize,
    /// Tasks that waited until others were noted, which they are now.
    released: VecDeque<TaskKey>,
    /// Tasks for one engine that are not noted: each session's for each engine are, in their order.
    in_line: BTreeMap<(SessionKey, EngineId, TaskSeq), TaskKey>,
    /// Until then, tasks of an earlier start that engines may have wait for those engines.
    reconciling_until: Option<Time>,
}

/// An action that waits for an entry.
#[derive(Debug)]
enum Act {
    /// A task is accepted.
    Accept(TaskKey),
    /// A task that may run once only is sent to its engine.
    Begin(AttemptId, EngineId),
    /// A task's end is told.
    Deliver(SessionKey, TaskSeq),
    /// A request is answered.
    Answer(ConnectionId, Reply),
    /// An engine need not hold attempts any longer.
    Release(ConnectionId, Release),
}

impl Journal {
    /// A journal in which ended tasks stay for so long; none if there is none.
    pub fn new(keep: Option<Duration>) -> Self {
        Self { keep, ..Self::default() }
    }

    /// Returns true if there is one.
    pub fn is_there(&self) -> bool {
        self.keep.is_some()
    }

    /// Returns the time after which engines that may have tasks of an earlier start are no longer
    /// waited for.
    pub fn reconciled(&self) -> Option<Time> {
        self.reconciling_until
    }

    /// Returns true if shared tasks wait for engines that may have them.
    pub fn is_reconciling(&self, now: Time) -> bool {
        self.reconciling_until.is_some_and(|until| until > now)
    }

    /// Does what is due.
    pub fn handle_timeout(&mut self, now: Time) {
        self.reconciling_until = self.reconciling_until.filter(|until| *until > now);
    }

    /// All engines that may have tasks of an earlier start have said so.
    pub fn end_reconciling(&mut self) {
        self.reconciling_until = None;
    }

    /// Marks a task that has just been submitted as durable.
    pub fn begin(&mut self) -> Durable {
        self.last_id += 1;
        Durable { id: self.last_id, stage: Stage::Unknown, begun: false, age_us: 0 }
    }

    /// A durable task has taken its place in the queue of the engine that it names.
    pub fn line_up(&mut self, session: SessionKey, engine: EngineId, n: TaskSeq, key: TaskKey) {
        self.in_line.insert((session, engine, n), key);
    }

    /// The first of a session's tasks for an engine that are not noted.
    fn first_in_line(&self, session: SessionKey, engine: EngineId) -> Option<TaskKey> {
        let line = (session, engine, TaskSeq::MIN)..=(session, engine, TaskSeq::MAX);
        self.in_line.range(line).next().map(|(_, key)| *key)
    }

    /// Until when an ended task is kept.
    pub fn keeps_until(&self, ended_unix_us: u64, start_unix_us: u64) -> Time {
        let keep_us =
            self.keep.map_or(0, |keep| u64::try_from(keep.as_micros()).unwrap_or(u64::MAX));
        Time(ended_unix_us.saturating_add(keep_us).saturating_sub(start_unix_us))
    }

    /// Something is done when this entry is on disk.
    fn wait_for(&mut self, entry: u64, act: Act) {
        let is_last = self.acts.back().is_none_or(|(last, _)| *last <= entry);
        assert!(is_last && entry <= self.entries, "acts are in the order of their entries");
        self.acts.push_back((entry, act));
    }

    /// Acts that wait, for the tests.
    #[cfg(test)]
    pub fn acts(&self) -> usize {
        self.acts.len()
    }
}

impl Core {
    /// The journal has everything up to this entry, or could not be written: then some of it may be
    /// missing. What was to be tried again is there, too, when one is written.
    pub fn handle_journaled(&mut self, now: Time, through: u64, written: Result<(), &str>) {
        assert!(through <= self.recovery.journal.entries, "what was not given to it is written");
        self.recovery.journal.written = self.recovery.journal.written.max(through);
        self.recovery.journal.is_behind = written.is_err();
        while let Some((_, act)) =
            self.recovery.journal.acts.pop_front_if(|(entry, _)| *entry <= through)
        {
            match act {
                Act::Accept(key) => self.accept(now, key, written),
                Act::Begin(attempt, engine) => {
                    self.engines.update(engine, |engine| _ = engine.work.withheld.remove(&attempt));
                    self.schedule.direct_ready.insert(engine);
                    self.begin_noted(now, attempt, written);
                }
                Act::Deliver(session, n) => self.deliver_noted(now, session, n, written.is_ok()),
                Act::Release(connection, release) => {
                    self.recovery.journal.releases.push_back((connection, release));
                }
                Act::Answer(connection, reply) => {
                    assert!(self.recovery.journal.replies_waiting > 0, "replies are counted");
                    self.recovery.journal.replies_waiting -= 1;
                    if self.is_served(connection) {
                        self.to_client(connection, that_fits(reply));
                    }
                }
            }
        }
        self.send_releases();
        self.dispatch(now);
    }

    /// Tells engines what they need not hold: nothing while ends could not be written, since should
    /// the broker be killed then, what engines hold is all that says that a task has run.
    fn send_releases(&mut self) {
        let bound = if self.recovery.journal.is_behind { RELEASES_WAITING_MAX } else { 0 };
        while self.recovery.journal.releases.len() > bound
            && let Some((connection, release)) = self.recovery.journal.releases.pop_front()
        {
            if self.is_served(connection) {
                self.to_engine(connection, ToEngine::Release(release));
            }
        }
    }

    fn write(&mut self, entry: Entry) -> u64 {
        self.recovery.journal.entries += 1;
        self.outputs.push_back(Output::Journal(self.recovery.journal.entries, entry));
        self.recovery.journal.entries
    }

    fn write_and(&mut self, entry: Entry, act: Act) {
        let entry = self.write(entry);
        self.recovery.journal.wait_for(entry, act);
    }

    /// Tells an engine what it need not hold any longer: not before what that rests on is on disk,
    /// since an end that is on its way there is known to the engine alone.
    pub(in crate::core) fn send_release(&mut self, connection: ConnectionId, release: Release) {
        if self.recovery.journal.written == self.recovery.journal.entries {
            self.recovery.journal.releases.push_back((connection, release));
            self.send_releases();
        } else {
            let last = self.recovery.journal.entries;
            self.recovery.journal.wait_for(last, Act::Release(connection, release));
        }
    }

    /// Entries so far.
    pub(in crate::core) fn entries(&self) -> u64 {
        self.recovery.journal.entries
    }

    /// Answers a request that had to wait for something else, if who has asked is still there.
    pub(in crate::core) fn answer_later(&mut self, connection: ConnectionId, reply: Reply) {
        if let Some(Connected::Client(key)) = self.peers.connections.get(&connection).copied() {
            self.answer_request(key, connection, reply, self.recovery.journal.entries);
        }
    }

    /// Answers a request: when everything is on disk that the session has submitted before, and
    /// what the request has brought about since the entry `before`.
    pub(in crate::core) fn answer_request(
        &mut self,
        key: SessionKey,
        connection: ConnectionId,
        reply: Reply,
        before: u64,
    ) {
        let of_session = self.sessions.get(key).map_or(0, |session| session.noted.last_entry);
        let of_request =
            if self.recovery.journal.entries > before { self.recovery.journal.entries } else { 0 };
        let entry = of_session.max(of_request);
        if entry <= self.recovery.journal.written {
            return self.to_client(connection, that_fits(reply));
        }
        if self.recovery.journal.replies_waiting >= REPLIES_WAITING_MAX {
            let text = "too many answers wait for the journal's disk; try again later";
            let reply = Reply { body: ReplyBody::Refused(text.to_owned()), ..reply };
            return self.to_client(connection, ToClient::Reply(reply));
        }
        self.recovery.journal.replies_waiting += 1;
        // Behind the last entry, though an earlier one would do: acts are in their order.
        let last = self.recovery.journal.entries;
        self.recovery.journal.wait_for(last, Act::Answer(connection, reply));
    }
}

/// Tasks that come.
impl Core {
    /// Returns true if a task that has its arguments waits for the journal. It is recorded there,
    /// if it was not.
    pub(in crate::core) fn waits_for_journal(&mut self, key: TaskKey) -> bool {
        let stage = self.tasks.get(key).and_then(Task::durable).map(|durable| durable.stage);
        match stage {
            None | Some(Stage::Written) => return false,
            Some(Stage::Noted) => return true,
            Some(Stage::Unknown | Stage::Behind) => {}
        }
        self.recovery.journal.released.push_back(key);
        self.note_released();
        true
    }

    fn note_released(&mut self) {
        // A loop: a chain of a million tasks must not be a million calls deep.
        while let Some(key) = self.recovery.journal.released.pop_front() {
            self.note_task(key);
        }
    }

    /// A task for one engine is noted, or has ended: the one behind it may be noted, if nothing
    /// else of it is missing.
    fn leave_line(&mut self, session: SessionKey, engine: Option<EngineId>, n: TaskSeq) {
        let Some(engine) = engine else { return };
        if self.recovery.journal.in_line.remove(&(session, engine, n)).is_none() {
            return;
        }
        let is_behind = |key: &TaskKey| {
            let durable = self.tasks.get(*key).and_then(Task::durable);
            durable.is_some_and(|durable| durable.stage == Stage::Behind)
        };
        let next = self.recovery.journal.first_in_line(session, engine).filter(is_behind);
        self.recovery.journal.released.extend(next);
    }

    /// Writes a task down, after those for which it waits, and in the order of its session's tasks
    /// for its engine: should the broker be killed, none of them goes on without those before it.
    fn note_task(&mut self, key: TaskKey) {
        let is_noted = |key: TaskKey| {
            let durable = self.tasks.get(key).and_then(Task::durable);
            durable.is_none_or(|durable| matches!(durable.stage, Stage::Noted | Stage::Written))
        };
        if is_noted(key) {
            // Several of those for which it waits were noted in one go.
            return;
        }
        let task = self.tasks.get(key).expect("a task that is not noted has not ended");
        let (session, n, target, define) = (task.session, task.n, task.target(), task.define);
        let first = target.and_then(|engine| self.recovery.journal.first_in_line(session, engine));
        let waits = task.more().and_then(|more| more.waits.as_ref());
        let is_next = first.is_none_or(|first| first == key)
            && waits.is_none_or(|waits| waits.keys().all(is_noted));
        let stage = if is_next { Stage::Noted } else { Stage::Behind };
        let durable = self.tasks.get_mut(key).and_then(Task::durable_mut);
        durable.expect("a task that is to be noted is durable").stage = stage;
        if !is_next {
            return;
        }
        // What a row names goes before it: a journal that ends after any entry can be restored.
        self.leave_line(session, target, n);
        self.note_session(session);
        if let Some(number) = define {
            self.note_definition(session, number);
        }
        let row = self.task_row(key).expect("a durable task has options and arguments");
        self.write_and(Entry::Task(Box::new(row)), Act::Accept(key));
        self.note_last_entry(session);
        let behind = self.waiting.dependents.of(key).filter(|key| {
            self.tasks.get(*key).and_then(Task::durable).is_some_and(|it| it.stage == Stage::Behind)
        });
        let behind: Vec<TaskKey> = behind.collect();
        self.recovery.journal.released.extend(behind);
    }

    fn note_last_entry(&mut self, session: SessionKey) {
        let session = self.sessions.get_mut(session).expect("a session outlives its tasks");
        session.noted.last_entry = self.recovery.journal.entries;
    }

    fn note_session(&mut self, key: SessionKey) {
        let Some(session) = self.sessions.get_mut(key).filter(|session| !session.noted.is_written)
        else {
            return;
        };
        let secret = session.secret.clone().expect("a session has its secret before tasks");
        session.noted.is_written = true;
        let (id, claims, departed) =
            (session.id, session.claims.clone(), session.departure.departed);
        let row = SessionRow { key: key.0, id, claims, secret, departed };
        self.write(Entry::Session(Box::new(row)));
    }

    fn note_definition(&mut self, key: SessionKey, number: u32) {
        let session = self.sessions.get_mut(key).expect("a session outlives its tasks");
        // Its client may have let go of it, with a task that waited for others still to be noted.
        let Some(Definition::Here(stored)) = session.definitions.get(&number) else { return };
        let blob = stored.blob(definition_id(key.0, number));
        if let Some(blob) = blob.filter(|_| session.noted.definitions.insert(number)) {
            self.write(Entry::Definition(key.0, number, blob));
        }
    }

    fn task_row(&self, key: TaskKey) -> Option<TaskRow> {
        let task = self.tasks.get(key)?;
        let durable = task.durable()?;
        let session = self.sessions.get(task.session).expect("a session outlives its tasks");
        let waits = task.more().and_then(|more| more.waits.as_ref());
        let met = waits.map_or_else(Vec::new, |waits| waits.met().to_vec());
        Some(TaskRow {
            id: durable.id,
            session: task.session.0,
            n: task.n,
            target: task.target(),
            runtime: task.runtime,
            class: task.kind.number,
            name: session.kinds.names.get(task.runtime, task.kind.number).cloned(),
            define: task.define,
            options: task.options.clone()?,
            payload: task.payload.blob(durable.id)?,
            submitted_unix_us: task.times.submitted.unix_us(self.config.start),
            begun: durable.begun,
            met,
        })
    }

    fn accept(&mut self, now: Time, key: TaskKey, written: Result<(), &str>) {
        // It was cancelled while it was written.
        let Some(durable) = self.tasks.get_mut(key).and_then(Task::durable_mut) else { return };
        match written {
            Ok(()) => {
                durable.stage = Stage::Written;
                self.admit_with_arguments(now, key);
            }
            Err(problem) => {
                durable.stage = Stage::Unknown;
                self.end(now, key, not_written(problem));
            }
        }
    }

    /// A dependency of a durable task has ended.
    pub(in crate::core) fn note_met(
        &mut self,
        key: TaskKey,
        task: TaskId,
        ending: crate::core::tasks::end::DependencyEnd,
    ) {
        let met = Met { task, succeeded: ending.succeeded, engine: ending.engine };
        let task = self.tasks.get_mut(key).expect("a task that waits has not ended");
        let Some(durable) = task.durable() else { return };
        if matches!(durable.stage, Stage::Noted | Stage::Written) {
            self.write(Entry::Met(durable.id, met));
        } else if let Some(waits) = task.more_if_any().and_then(|more| more.waits.as_mut()) {
            waits.note_met(met);
        }
    }

    /// Of a task from the journal, one for which it waits had ended, and the broker was killed
    /// before it had noted that for this one: it is noted now, since the other one is forgotten
    /// when its client has its end.
    fn note_met_before(&mut self, key: TaskKey, waits: &Waits, known: &[Met]) {
        let Some(id) = self.tasks.get(key).and_then(Task::durable).map(|durable| durable.id) else {
            return;
        };
        for met in waits.met().iter().filter(|met| known.iter().all(|known| known.task != met.task))
        {
            self.write(Entry::Met(id, *met));
        }
    }

    /// One of those behind which a task was has ended: it is noted, if nothing else is missing.
    pub(in crate::core) fn note_if_behind(&mut self, key: TaskKey) {
        let durable = self.tasks.get(key).and_then(Task::durable);
        if durable.is_some_and(|durable| durable.stage == Stage::Behind) {
            self.waits_for_journal(key);
        }
    }
}

/// Tasks that run.
impl Core {
    /// Withholds an assignment until the journal says that the task may have begun. Returns true if
    /// it has to wait.
    pub(in crate::core) fn withholds(
        &mut self,
        key: TaskKey,
        engine: EngineId,
        attempt: AttemptId,
    ) -> bool {
        let Some(task) = self.tasks.get(key).filter(|task| task.at_most_once()) else {
            return false;
        };
        let Some(durable) = task.durable().filter(|durable| !durable.begun) else { return false };
        self.write_and(Entry::Begun(durable.id), Act::Begin(attempt, engine));
        self.engines.update(engine, |engine| engine.work.withheld.insert(attempt));
        true
    }

    /// An engine's connection is gone, or the engine is stopped. What waits for the journal has not
    /// come to it, and is queued again.
    pub(in crate::core) fn requeue_withheld(&mut self, now: Time, engine: EngineId) {
        let withheld =
            self.engines.update(engine, |engine| std::mem::take(&mut engine.work.withheld));
        for attempt in withheld.unwrap_or_default().into_iter().rev() {
            let given = self.take_back(attempt).expect("what is withheld is given");
            self.requeue(now, given.task);
        }
    }

    fn begin_noted(&mut self, now: Time, attempt: AttemptId, written: Result<(), &str>) {
        // Its engine is gone, and it was queued again.
        let Some(given) = self.attempts.get(attempt).copied() else { return };
        let task = self.tasks.get_mut(given.task).filter(|task| task.is_assigned_as(attempt));
        let Some(task) = task else {
            // It was ended meanwhile.
            self.take_back(attempt);
            return;
        };
        match written {
            Ok(()) => {
                if let Some(durable) = task.durable_mut() {
                    durable.begun = true;
                }
                let engine = self.engines.get(given.engine);
                if let Some(process) = engine.and_then(|engine| engine.process) {
                    self.tell_session(process, given.task);
                    self.send_work(process, given.task, given.engine, attempt);
                }
            }
            Err(problem) => {
                self.take_back(attempt);
                self.end(now, given.task, not_written(problem));
            }
        }
    }
}

/// Under which number the chunks of a definition are.
pub fn definition_id(session: u32, number: u32) -> u64 {
    u64::from(session) << 32 | u64::from(number)
}

fn not_written(problem: &str) -> TaskEnd {
    let text = format!(
        "the broker's journal could not be written ({problem}): the task was not accepted as durable"
    );
    TaskEnd::by_broker(TaskState::Failed, ErrorKind::Journal, text)
}
