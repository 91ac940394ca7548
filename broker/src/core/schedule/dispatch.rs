//! The assignment of tasks to engines, and its timing.
//!
//! An engine's own queue goes before the shared one. A shared task goes to the engine with the
//! fewest assigned. Engines get more than one task only of kinds that were short lately; when an
//! engine has nothing while another still has such tasks assigned, it is asked to give some back.

use std::cmp::Reverse;

use furlong_wire::AtLeastOne;
use furlong_wire::ids::{EngineId, TaskSeq};
use furlong_wire::message::{
    Assign, EngineDefine, ErrorKind, Inputs, Payload, Secret, Share, Stopped, TaskState, ToClient,
    ToEngine, Value, Work,
};
use furlong_wire::payload::InlineBytes;

use super::{lending, time_left};
use crate::core::attempts::{Assignment, Stopping};
use crate::core::engines::engine::Engine;
use crate::core::keys::{AttemptId, PlacementId, ProcessKey, SessionKey, TaskKey, ValueId};
use crate::core::payloads::budget::BytesOf;
use crate::core::payloads::stored::Stored;
use crate::core::sessions::events::TOLD_AT_ONCE;
use crate::core::sessions::table::{Definition, Sessions};
use crate::core::tasks::end::TaskEnd;
use crate::core::tasks::table::{Queue, State, Task};
use crate::core::{Core, Output, Time};

/// Tasks that are given to engines before others have their turn.
const ASSIGNED_PER_TURN: u64 = 4096;
impl Core {
    /// Returns true if any engine has a task assigned.
    pub fn is_at_work(&self) -> bool {
        self.attempts.len() > self.memory.backlog.len()
    }

    /// Gives engines what they can take. Call it after each batch of messages.
    pub fn dispatch(&mut self, now: Time) {
        #[cfg(test)]
        {
            self.turns.dispatches += 1;
        }
        // A turn ends here: what was left since it was over may go on.
        self.turns.work_before = self.turns.work.done();
        self.tell_events(TOLD_AT_ONCE);
        self.end_what_is_over(now);
        // First, since the room that results take decides whose tasks are passed over.
        if self.memory.backlog.len() > 0 {
            self.take_results(now);
        }
        // Engines' own queues go before the shared ones: nobody else can run what waits there.
        let until = AttemptId(self.attempts.made().0 + ASSIGNED_PER_TURN);
        while self.attempts.made() < until
            && let Some(id) = self.schedule.direct_ready.pop_first()
        {
            self.dispatch_direct(now, id, until);
        }
        self.dispatch_shared(now, until);
        // What engines could still take they are given in the next turn.
        self.schedule.dispatch_at = (self.attempts.made() >= until).then_some(now);
        if self.peers.grants.has_over() {
            // A task has gone elsewhere, without what its last attempt had opened: that makes room.
            return self.dispatch(now);
        }
        self.recall_for_idle(now);
    }

    fn dispatch_direct(&mut self, now: Time, id: EngineId, until: AttemptId) {
        while let Some(key) = self.next_direct(id) {
            let task = self.tasks.get(key).expect("an engine's next task is in the table");
            let (runtime, placement, session) = (task.runtime, task.placement, task.session);
            let class = self.engines.get(id).and_then(|engine| engine.class);
            let class = class.expect("an engine that takes work is of a class");
            if self.schedule.placements.is_met_by(placement, class) {
                self.recall_for_direct(id);
                self.assign(now, key, id);
                if self.attempts.made() >= until {
                    self.schedule.direct_ready.insert(id);
                    return;
                }
                continue;
            }
            let demands = &self.schedule.placements.get(placement).demands;
            let has_runtime = self
                .schedule
                .placements
                .class(class)
                .is_some_and(|class| class.runtimes.contains(&runtime));
            let text = if has_runtime {
                let labels = demands
                    .require
                    .iter()
                    .chain(&demands.scopes)
                    .map(String::as_str)
                    .collect::<Vec<_>>();
                format!(
                    "engine {id} does not have the labels {}; `furlong status` shows each one's",
                    labels.join(", ")
                )
            } else {
                format!(
                    "engine {id} does not run {runtime} tasks; `furlong status` shows what each one runs"
                )
            };
            // It was taken out to be given. It ends as a task that stands in the queue, which is
            // counted there.
            let tasks = &self.tasks;
            self.engines.update(id, |engine| {
                engine.queue.put_in_order(session, key, tasks);
                engine.queue.note(session, tasks);
            });
            self.end(now, key, TaskEnd::by_broker(TaskState::Failed, ErrorKind::Unsupported, text));
        }
    }

    /// Takes the next task of an engine's own queue that it can be given now.
    fn next_direct(&mut self, id: EngineId) -> Option<TaskKey> {
        if self.memory.backlog.len() > 0 {
            self.park_direct(id);
        }
        let engine = self.engines.get(id).filter(|engine| engine.takes_direct())?;
        let key = engine.queue.peek()?;
        let task = self.tasks.get(key).expect("what is ready has not ended");
        // A follower must not be on its way when the task before it fails.
        let limit = if task.aborts_followers() { 1 } else { prefetch(&self.sessions, task) };
        // Nothing that was submitted after a forced cancel begins in the interpreter that is killed
        // for that.
        let is_doomed = task.needs_namespace() && self.forced_stop(id).is_some();
        if engine.work.assigned_direct >= limit || is_doomed {
            return None;
        }
        let (session, tasks) = (task.session, &self.tasks);
        // It is still queued by its state: the line is noted when it no longer is.
        self.engines.update(id, |engine| {
            engine.queue.pop();
            engine.queue.note(session, tasks);
        });
        Some(key)
    }

    /// Passes over tasks of an engine's own queue whose session's results wait.
    fn park_direct(&mut self, id: EngineId) {
        while let Some(key) = self.engines.get(id).and_then(|engine| engine.queue.peek())
            && let Some(task) = self.tasks.get(key)
            && self.memory.backlog.parks_at(task.session, id)
        {
            self.engines.update(id, |engine| engine.queue.park());
        }
    }

    /// The forced cancel of what an engine runs, if that has not stopped yet.
    pub(in crate::core) fn forced_stop(&self, id: EngineId) -> Option<Stopping> {
        let running = self.engines.get(id)?.work.assigned.front()?;
        self.attempts.get(*running)?.stopping.filter(|stopping| stopping.force)
    }

    fn dispatch_shared(&mut self, now: Time, until: AttemptId) {
        // An engine of the roster may have any of these, and has not said so yet.
        if self.recovery.journal.is_reconciling(now) {
            return;
        }
        let mut waiting: Vec<PlacementId> = self.schedule.placements.waiting().collect();
        self.queue_apart(&mut waiting);
        while self.attempts.made() < until
            && let Some((placement, key, engine)) = self.next_shared(now, &mut waiting)
        {
            self.schedule.shared_given += 1;
            let served = self.schedule.shared_given;
            let first = self.schedule.placements.get_mut(placement).queue.pop(served);
            assert!(first == key, "{first:?} is the first, and not {key:?}");
            self.schedule.placements.count_waiting(placement, false);
            let session = self.tasks.get(key).expect("what is queued has not ended").session;
            let session = self.sessions.get_mut(session).expect("a session outlives its tasks");
            session.served = served;
            self.assign(now, key, engine);
            // The task that is first now may be one that some engine could not begin.
            self.queue_apart(&mut waiting);
        }
    }

    /// Of the first tasks of some queues the one whose turn it is, and the engine for it: by
    /// priority, then whose session was served longest ago, then by arrival. Drops the queues whose
    /// first task no engine can take now. They stay dropped, since engines only get more assigned:
    /// so many demands that wait for few engines are looked at once for each task that is given,
    /// and not once for each other.
    fn next_shared(
        &mut self,
        now: Time,
        waiting: &mut Vec<PlacementId>,
    ) -> Option<(PlacementId, TaskKey, EngineId)> {
        let (tasks, sessions, engines, placements) =
            (&self.tasks, &self.sessions, &self.engines, &mut self.schedule.placements);
        let backlog = &mut self.memory.backlog;
        // Turns in one queue alone need no look at the sessions.
        let is_one = waiting.len() == 1;
        let served =
            |key| if is_one { 0 } else { sessions.get(key).map_or(0, |session| session.served) };
        let mut first: Option<(Rank, TaskKey, EngineId)> = None;
        waiting.retain(|placement| {
            let queue = &mut placements.get_mut(*placement).queue;
            let parks = |session| backlog.parks_in(session, *placement);
            let next = queue.peek(|key| tasks.is_queued_in(key, *placement), served, parks);
            let Some(key) = next else { return false };
            let task = tasks.get(key).expect("what is queued has not ended");
            let limit = prefetch(sessions, task);
            let demanded = placements.get(*placement);
            let until = demanded.over_at(now);
            let classes = demanded.classes(engines).iter().copied();
            let idlest = time_left::idlest(engines, classes, limit, until);
            // A slot that is lent only if no other is free: its stand-in costs an interpreter.
            let lender = || lending::lender(engines, placements, *placement, until);
            let Some(engine) = idlest.or_else(lender) else { return false };
            let rank =
                (Reverse(task.priority()), served(task.session), task.times.submitted, *placement);
            if first.as_ref().is_none_or(|(best, ..)| rank < *best) {
                first = Some((rank, key, engine));
            }
            true
        });
        first.map(|((.., placement), key, engine)| (placement, key, engine))
    }

    fn assign(&mut self, now: Time, key: TaskKey, engine: EngineId) {
        let attempt = self.attempts.next();
        let task = self.tasks.get_mut(key).expect("what is given out is in the table");
        task.transition(State::Assigned { engine, attempt, started: false });
        task.tries.attempts += 1;
        task.times.assigned = Some(now);
        let direct = task.queue != Queue::Shared;
        let (session, n) = (task.session, task.n);
        // It has gone elsewhere: what an attempt at an engine that is away has opened is over.
        self.peers.grants.note_gone(key);
        if task.more().is_some() {
            self.begin_attempt(now, key);
        }
        self.attempts.insert(attempt, Assignment::new(key, (session, n), engine, direct));
        let place = self.engines.update(engine, |engine| {
            // Ends and recalls find it by a search.
            let is_last = engine.work.assigned.back().is_none_or(|last| *last < attempt);
            assert!(is_last, "attempt {attempt} is given after a later one");
            engine.work.assigned.push_back(attempt);
            engine.work.assigned_direct += u32::from(direct);
            if !direct && !engine.work.lent.is_empty() {
                engine.work.stood_in.insert(attempt);
            }
            engine.process
        });
        let process_key = place.flatten().expect("an engine that takes work has its process here");
        // It occupies its engine all the same: nothing may overtake it there.
        if self.withholds(key, engine, attempt) {
            return;
        }
        // In this order: the engine opens the task with the session's secret, and must know that it
        // is to report the task's beginning when it gets the task.
        self.tell_session(process_key, key);
        self.announce_suspect(process_key, key, attempt);
        self.send_work(process_key, key, engine, attempt);
    }

    /// Of a task that has been tried before, or has waited: what belongs to this attempt begins
    /// anew.
    fn begin_attempt(&mut self, now: Time, key: TaskKey) {
        let task = self.tasks.get_mut(key).expect("what is given out is in the table");
        let attempt = task.tries.begun();
        let more = task.more_mut();
        (more.started, more.has_run) = (None, false);
        let freed = more.output.begin(attempt);
        self.memory.budget.release(BytesOf::Other, freed);
        self.set_deadline(now, key);
    }

    /// Sends a task to the process of its engine. Tasks of one submit go in one message where they
    /// follow each other.
    pub(in crate::core) fn send_work(
        &mut self,
        process_key: crate::core::keys::ProcessKey,
        key: TaskKey,
        id: EngineId,
        attempt: AttemptId,
    ) {
        let task = self.tasks.get(key).expect("what is sent is in the table");
        let process = self.processes.get_mut(&process_key).expect("what is given work is here");
        let engine = self.engines.get(id).expect("an engine stays while it has an attempt");
        let stands_in = !engine.work.stood_in.is_empty() && engine.work.stood_in.contains(&attempt);
        // An engine process numbers its stand-ins after its slots.
        let slot = engine.slot + if stands_in { process.engines.len() as u32 } else { 0 };
        let work = Work { slot, n: task.n, attempt };
        let session = self.sessions.get(task.session).expect("a session outlives its tasks").id;
        let is_same_session =
            process.told.assigned_session.replace(task.session) == Some(task.session);
        let connection = process.connection;
        let inputs: Vec<ValueId> = task
            .more()
            .into_iter()
            .flat_map(|more| &more.inputs)
            .map(|input| input.value.expect("a task that is given out has all its inputs"))
            .collect();
        if task.target().is_some()
            && inputs.is_empty()
            && let Some(Output::ToEngine(to, ToEngine::Assign(last))) = self.outputs.back_mut()
            && *to == connection
            && is_same_session
            && is_same_call(last, task)
        {
            return last.work.push(work);
        }
        let mut next_transfer = || {
            process.told.next_transfer += 1;
            process.told.next_transfer
        };
        // The chunks of what several engines of a process need go there once, under a number.
        let share = task.payload.share();
        let is_new = share.is_some_and(|share| process.told.shares.insert(share));
        let (mut payload, mut transfer) = (Payload::Inline(InlineBytes::new()), None);
        if share.is_none() || is_new {
            (payload, transfer) = task.payload.announce(&mut next_transfer);
        }
        if share.is_none() && transfer.is_some() {
            self.let_go(key);
        }
        let task = self.tasks.get(key).expect("what is sent is in the table");
        let (runtime, define) = (task.runtime, task.define);
        if let Some(share) = share.filter(|_| is_new) {
            let payload = std::mem::replace(&mut payload, Payload::Inline(InlineBytes::new()));
            self.to_engine(connection, ToEngine::Share(Share { share, session, payload }));
        }
        if !inputs.is_empty() {
            self.send_inputs(process_key, attempt, &inputs);
        }
        let session = (!is_same_session).then_some(session);
        let assign =
            Assign { work: AtLeastOne::new(work), session, runtime, define, share, payload };
        self.to_engine(connection, ToEngine::Assign(assign));
        if let Some((number, chunks)) = transfer {
            self.outputs.push_back(Output::Transfer(connection, number, chunks));
        }
    }

    /// Sends the inputs of the assignment that follows: each value once to a process.
    fn send_inputs(&mut self, process_key: ProcessKey, attempt: AttemptId, inputs: &[ValueId]) {
        let process = self.processes.get_mut(&process_key).expect("what is given work is here");
        let connection = process.connection;
        for id in inputs {
            if !process.told.shares.insert(id.0) {
                continue;
            }
            let (payload, transfer) = self.memory.values.get(*id).announce(|| {
                process.told.next_transfer += 1;
                process.told.next_transfer
            });
            let opens = self.memory.values.note_told(*id, process_key);
            // Of another session the process knows no more than this value needs.
            let is_known = process.told.lanes.contains_key(&opens.key);
            let secret = (!is_known).then(|| opens.secret.clone());
            let message =
                ToEngine::Value(Value { value: id.0, session: opens.id, secret, payload });
            self.outputs.push_back(Output::ToEngine(connection, message));
            if let Some((number, chunks)) = transfer {
                self.outputs.push_back(Output::Transfer(connection, number, chunks));
            }
        }
        let values = inputs.iter().map(|id| id.0).collect();
        self.to_engine(connection, ToEngine::Inputs(Inputs { attempt, values }));
    }

    /// A large payload of a task that no other engine will ever run need not be held once it is on
    /// its way.
    fn let_go(&mut self, key: TaskKey) {
        let Some(task) = self.tasks.get_mut(key).filter(|task| task.runs_on_one_attempt()) else {
            return;
        };
        task.payload = Stored::Sent(task.payload.budget_bytes());
    }

    /// Tells a process what it must know before a task: the session's secret, the definition.
    pub(in crate::core) fn tell_session(&mut self, process_key: ProcessKey, task: TaskKey) {
        let task = self.tasks.get(task).expect("what is sent is in the table");
        let (key, define) = (task.session, task.define);
        self.tell_secret(process_key, key);
        let Some(number) = define else { return };
        let process = self.processes.get_mut(&process_key).expect("what is given work is here");
        let session = self.sessions.get(key).expect("a session outlives its tasks");
        let connection = process.connection;
        let blob = match session.definitions.get(&number) {
            Some(Definition::Here(blob)) => blob,
            // Its client has let go of what it still needs: the task fails on the engine, which
            // would wait otherwise.
            _ => &Stored::Refused,
        };
        if process.told.definitions.insert((key, number)) {
            let (payload, transfer) = blob.announce(|| {
                process.told.next_transfer += 1;
                process.told.next_transfer
            });
            let message = ToEngine::Define(EngineDefine { session: session.id, number, payload });
            self.outputs.push_back(Output::ToEngine(connection, message));
            if let Some((number, chunks)) = transfer {
                self.outputs.push_back(Output::Transfer(connection, number, chunks));
            }
        }
    }

    /// Tells a process a session's secret, unless it has been told on this connection: that also
    /// opens the lane, without which the process sends nothing large.
    pub(in crate::core) fn tell_secret(&mut self, process_key: ProcessKey, key: SessionKey) {
        let process = self.processes.get_mut(&process_key).expect("what is given work is here");
        if process.told.lanes.contains_key(&key) {
            return;
        }
        let session = self.sessions.get_mut(key).expect("a session outlives its tasks");
        let secret = session.secret.clone().expect("a session has its secret before tasks");
        let was_new = session.known_to.insert(process_key);
        assert!(was_new, "a process knows a session, and has no lane of it");
        let lane = self.memory.budget.open_lane();
        let payload_credit_bytes = lane.first();
        process.told.lanes.insert(key, lane);
        let (session, hides_names) = (session.id, session.kinds.hides_names);
        let message =
            ToEngine::Secret(Secret { session, secret, payload_credit_bytes, hides_names });
        self.outputs.push_back(Output::ToEngine(process.connection, message));
    }

    /// An engine no longer has an attempt.
    pub(in crate::core) fn take_back(&mut self, attempt: AttemptId) -> Option<Assignment> {
        self.take_back_and(attempt, |_| ())
    }

    /// An engine has ended an attempt, after so long a run.
    pub(in crate::core) fn take_back_ended(&mut self, attempt: AttemptId, run_us: u64) {
        self.take_back_and(attempt, |engine| {
            engine.finished += 1;
            engine.busy_us = engine.busy_us.saturating_add(run_us);
        });
    }

    fn take_back_and(
        &mut self,
        attempt: AttemptId,
        and: impl FnOnce(&mut Engine),
    ) -> Option<Assignment> {
        let given = self.attempts.remove(attempt)?;
        self.peers.grants.note_over(attempt);
        let waits = self.engines.update(given.engine, |engine| {
            and(engine);
            // Ids of attempts ascend, and mostly the oldest one ends.
            let is_first = engine.work.assigned.front() == Some(&attempt);
            let was_assigned = if is_first {
                engine.work.assigned.pop_front().is_some()
            } else {
                let at = engine.work.assigned.binary_search(&attempt);
                at.is_ok_and(|at| engine.work.assigned.remove(at).is_some())
            };
            if was_assigned {
                let direct = u32::from(given.direct);
                assert!(direct <= engine.work.assigned_direct, "attempt {attempt} was not counted");
                engine.work.assigned_direct -= direct;
            } else {
                let was_unsent = engine.work.unsent.remove(&attempt);
                assert!(was_unsent, "attempt {attempt} is given, and its engine does not have it");
            }
            // Mostly these are empty, and this is on every task's way.
            if !engine.work.recalled.is_empty() {
                engine.work.recalled.remove(&attempt);
            }
            if !engine.work.withheld.is_empty() {
                engine.work.withheld.remove(&attempt);
            }
            if !engine.work.returning.is_empty() {
                engine.work.returning.remove(&attempt);
            }
            engine.forget_loan(attempt);
            engine.queue.has_ready()
        });
        if waits.expect("an engine stays while it has an attempt") {
            self.schedule.direct_ready.insert(given.engine);
        }
        // After the engine has lost it: tasks that were passed over until then may be ready there.
        self.leave_backlog(attempt);
        self.note_stopped(attempt, &given);
        Some(given)
    }

    /// A task that was ended while an engine had it no longer runs there: its client may want to
    /// know.
    pub(in crate::core) fn note_stopped(&mut self, attempt: AttemptId, given: &Assignment) {
        if given.stopping.is_some() {
            // The session may have ended with its last task, which still ran.
            let session = self.sessions.get_mut(given.session);
            if let Some(session) = session {
                session.ledger.stopping.remove(&(given.n, attempt));
            }
            self.tell_stopped(given.session, given.n);
        }
    }

    /// Nothing of a cancelled task runs any longer.
    pub(in crate::core) fn tell_stopped(&mut self, session: SessionKey, n: TaskSeq) {
        let Some(of) = self.sessions.get(session) else { return };
        // Not before its end, which may be on its way to the journal.
        let is_told = of.ledger.done.get(n).is_none_or(|done| !done.is_unwritten);
        if let Some(connection) = of.link.connection.filter(|_| is_told) {
            self.to_client(connection, ToClient::Stopped(Stopped { n }));
        }
    }
}

/// The order of service, the least first: priority, the session's last service, arrival.
type Rank = (Reverse<i32>, u64, Time, PlacementId);

/// Returns the number of tasks of this one's kind that an engine may be assigned at once.
fn prefetch(sessions: &Sessions, task: &Task) -> u32 {
    // Ahead of time, the first would be lost with an engine on which it never began, and the second
    // would take others with it.
    if task.at_most_once() || task.is_suspect() {
        return 1;
    }
    let session = sessions.get(task.session).expect("a session outlives its tasks");
    session.kinds.times.prefetch(task.kind.number)
}

/// Returns true if a task of the same session has the same call as an assignment's work, as those
/// of one submit have.
fn is_same_call(assign: &Assign, task: &Task) -> bool {
    let same_payload = match (&assign.payload, assign.share, &task.payload) {
        (Payload::Inline(sent), None, Stored::Inline(of_task)) => {
            sent == of_task && !sent.is_empty()
        }
        (_, Some(share), stored) => stored.share() == Some(share),
        _ => false,
    };
    same_payload && assign.runtime == task.runtime && assign.define == task.define
}
