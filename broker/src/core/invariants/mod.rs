//! The invariants of a core after every step, whatever its peers did: each function panics if one
//! is broken. For tests of this core, and for the simulation of whole farms.

mod held;

use std::collections::{BTreeMap, BTreeSet};

use furlong_wire::ids::{Attempt, EngineId, SessionId, TaskSeq};
use furlong_wire::limits::{
    ENDS_REMEMBERED_MAX, GRANTS_PER_ATTEMPT_MAX, KEPT_RECORDS_MAX, NESTING_MAX,
};
use furlong_wire::message::Outcome;

use crate::core::journal::stage::Stage;
use crate::core::keys::{AttemptId, TaskKey};
use crate::core::schedule::lending;
use crate::core::sessions::expiries::Away;
use crate::core::sessions::table::Session;
use crate::core::tasks::table::{Queue, State, Task};
use crate::core::{ConnectionId, Core, Time};

pub use held::nothing_is_owed;

use held::{
    kept_tasks_are_counted, quotas_are_what_is_held, results_that_wait_are_counted,
    the_budget_is_what_is_held, values_have_their_users,
};

/// All of them.
pub fn hold(core: &Core) {
    each_task_is_unfinished_or_done(core);
    results_held_are_counted(core);
    attempts_and_engines_agree(core);
    what_is_lent_is_assigned(core);
    nested_sessions_have_their_attempts(core);
    shared_tasks_are_counted(core);
    no_shared_task_waits_while_an_engine_idles(core);
    direct_queues_have_their_tasks(core);
    no_direct_task_waits_while_its_engine_idles(core);
    direct_queues_keep_the_order_of_submits(core);
    who_waits_waits_for_somebody(core);
    deadlines_are_those_of_tasks(core);
    the_budget_is_what_is_held(core);
    values_have_their_users(core);
    results_that_wait_are_counted(core);
    kept_tasks_are_counted(core);
    quotas_are_what_is_held(core);
    who_waits_for_an_end_is_counted(core);
    processes_know_what_is_still_there(core);
    sessions_count_what_they_keep(core);
    records_are_bounded(core);
    durable_tasks_are_on_disk_before_they_are_queued(core);
    core.tally.watch.hold(core.tasks.len() as u64);
}

fn unfinished(core: &Core) -> impl Iterator<Item = (TaskKey, &Task)> {
    let keys = core
        .sessions
        .iter()
        .flat_map(|(_, session)| session.ledger.tasks.iter().map(|(_, key)| *key));
    keys.map(|key| (key, core.tasks.get(key).expect("a session's unfinished task is in the table")))
}

fn each_task_is_unfinished_or_done(core: &Core) {
    for (key, session) in core.sessions.iter() {
        for (n, task) in session.ledger.tasks.iter() {
            let task = core.tasks.get(*task).expect("a session's unfinished task is in the table");
            assert_eq!((task.session, task.n), (key, n));
            assert!(!session.ledger.done.contains(n), "task {n} is both unfinished and done");
            assert!(!session.ledger.endings.contains(n), "task {n} is unfinished, and has an end");
        }
        let numbers = session
            .ledger
            .tasks
            .iter()
            .map(|(n, _)| n)
            .chain(session.ledger.done.iter().map(|(n, _)| n));
        assert!(numbers.max().is_none_or(|last| last <= session.ledger.submitted));
        // Until its client is back, nobody counts what a journal had: that may be more than the
        // credit once more.
        let count = (session.ledger.tasks.len() + session.ledger.done.len()) as u64;
        assert!(
            session.noted.is_restored
                || count <= session.ledger.tasks_max + session.ledger.restored_tasks
        );
        let is_needed = session.departure.is_ending
            || (session.ledger.done.is_empty() && !session.ledger.tasks.is_empty());
        assert!(!session.departure.departed || is_needed, "{key:?} should be gone");
    }
    assert_eq!(core.tasks.len(), unfinished(core).count());
}

fn results_held_are_counted(core: &Core) {
    let held: usize = core.sessions.iter().map(|(_, session)| session.ledger.done.len()).sum();
    assert_eq!(core.tally.results_held, held as u64);
}

fn attempts_and_engines_agree(core: &Core) {
    let mut assigned = 0;
    for (id, engine) in core.engines.iter() {
        assigned += engine.work.assigned.len() + engine.work.unsent.len();
        let of_engine =
            |attempt: &AttemptId| core.attempts.get(*attempt).filter(|given| given.engine == id);
        let given: Vec<_> = engine
            .work
            .assigned
            .iter()
            .map(|attempt| of_engine(attempt).expect("an attempt is given"))
            .collect();
        let direct = given.iter().filter(|given| given.direct).count();
        assert_eq!(engine.work.assigned_direct as usize, direct, "engine {id}");
        let in_hand: BTreeSet<AttemptId> = engine.work.assigned.iter().copied().collect();
        assert!(engine.work.recalled.is_subset(&in_hand), "engine {id}");
        assert!(engine.work.returning.is_subset(&in_hand), "engine {id} is waited for in vain");
        let process = engine
            .process
            .map(|key| core.processes.get(&key).expect("an engine's process is there"));
        let is_away = engine.process.is_none() && engine.loss.is_none();
        assert_eq!(
            is_away,
            core.peers.expiries.contains(Away::Engine(id)),
            "engine {id} is here, lost, or waited for"
        );
        let class = engine.own_class.or(process.and_then(|process| process.class));
        assert_eq!(engine.class, class, "engine {id}");
        assert_eq!(
            engine.own_class.is_some(),
            core.schedule.set_aside.is_any_in_force(id),
            "engine {id}"
        );
        assert!(
            process.is_none_or(|process| process.class.is_none()
                == (process.leaving || core.is_reconciling(process.connection))),
            "engine {id}"
        );
    }
    assert_eq!(assigned, core.attempts.len());
    for (id, given) in core.attempts.iter() {
        let Some(task) = core.tasks.get(given.task) else { continue };
        let current = matches!(task.state, State::Assigned { engine, attempt, .. }
            | State::Unsent { engine, attempt } if engine == given.engine && attempt == id);
        assert!(current && given.stopping.is_none(), "attempt {id} is not its task's");
    }
    for (_, session) in core.sessions.iter() {
        for (n, attempt) in &session.ledger.stopping {
            let given = core.attempts.get(*attempt).expect("what stops is still with an engine");
            assert!(given.n == *n && given.stopping.is_some(), "attempt {attempt}");
        }
    }
    for (key, task) in unfinished(core) {
        let (State::Assigned { attempt, .. } | State::Unsent { attempt, .. }) = task.state else {
            continue;
        };
        assert_eq!(core.attempts.get(attempt).map(|given| given.task), Some(key));
    }
}

fn what_is_lent_is_assigned(core: &Core) {
    for (id, engine) in core.engines.iter() {
        let in_hand: BTreeSet<AttemptId> = engine.work.assigned.iter().copied().collect();
        let lent: BTreeSet<AttemptId> = engine.work.lent.iter().map(|loan| loan.attempt).collect();
        assert_eq!(lent.len(), engine.work.lent.len(), "engine {id}: something waits twice");
        assert!(
            lent.is_subset(&in_hand) && engine.work.stood_in.is_subset(&in_hand),
            "engine {id}"
        );
        assert_eq!(
            core.engines.lenders().any(|(lender, _)| lender == id),
            !lent.is_empty(),
            "engine {id}"
        );
        assert!(
            engine.work.stood_in.len() <= 2 * NESTING_MAX as usize,
            "engine {id} has a crowd of stand-ins"
        );
    }
    if core.recovery.journal.reconciled().is_some() {
        return;
    }
    for (_, task) in unfinished(core).filter(|(_, task)| is_to_be_given(core, task)) {
        let placements = &core.schedule.placements;
        // Of what demands a time, only engines that have all the time are sure to have it.
        let until = placements.get(task.placement).over_at(Time(u64::MAX));
        let lender = lending::lender(&core.engines, placements, task.placement, until);
        assert_eq!(
            lender, None,
            "task {} waits while somebody could stand in for what waits for it",
            task.n
        );
    }
}

/// A session that came in by a pass ends with its attempt.
fn nested_sessions_have_their_attempts(core: &Core) {
    for (attempt, keys) in core.peers.grants.keys() {
        assert!(
            keys <= GRANTS_PER_ATTEMPT_MAX && core.attempts.get(attempt).is_some(),
            "attempt {attempt} is over"
        );
    }
    let bound = core.sessions.iter().filter(|(_, session)| !session.departure.departed);
    for (key, parent) in bound
        .filter_map(|(key, session)| Some((key, session.nesting.parent.filter(|it| it.is_bound)?)))
    {
        let given = core
            .attempts
            .get(parent.attempt)
            .map(|given| given.task)
            .or(core.peers.grants.aside(parent.attempt));
        let task =
            given.expect("the attempt of a session that is bound to it is there, or may come back");
        assert!(
            core.tasks.get(task).is_some(),
            "nobody waits for the task that has opened {key:?}"
        );
        assert!(
            core.peers.grants.sessions().any(|known| known == (parent.attempt, key)),
            "{key:?} would not end"
        );
    }
}

fn waits_in_shared_queue(task: &Task) -> bool {
    task.state == State::Queued && task.queue == Queue::Shared
}

/// Tasks of a session whose results wait are passed over.
fn is_to_be_given(core: &Core, task: &Task) -> bool {
    waits_in_shared_queue(task) && !core.memory.backlog.holds(task.session)
}

fn shared_tasks_are_counted(core: &Core) {
    let queued = unfinished(core).filter(|(_, task)| waits_in_shared_queue(task)).count();
    assert_eq!(core.schedule.placements.tasks_waiting(), queued as u64);
    let mut of_placement: BTreeMap<_, (u64, u64)> = BTreeMap::new();
    for (_, task) in unfinished(core) {
        let counts = of_placement.entry(task.placement).or_default();
        counts.0 += 1;
        counts.1 += u64::from(waits_in_shared_queue(task));
    }
    for (id, placement) in core.schedule.placements.iter() {
        let expected = of_placement.get(&id).copied().unwrap_or_default();
        assert_eq!((placement.tasks(), placement.waiting), expected, "{:?}", placement.demands);
    }
}

fn idle(core: &Core) -> impl Iterator<Item = EngineId> {
    core.engines
        .iter()
        .filter(|(_, engine)| engine.class.is_some() && engine.load() == 0)
        .map(|(id, _)| id)
}

fn no_shared_task_waits_while_an_engine_idles(core: &Core) {
    if core.recovery.journal.reconciled().is_some() {
        // Engines of the roster may have it.
        return;
    }
    for (_, task) in unfinished(core).filter(|(_, task)| is_to_be_given(core, task)) {
        let class = |id: &EngineId| {
            core.engines.get(*id).and_then(|engine| engine.class).expect("it takes work")
        };
        let idle = idle(core)
            .find(|id| core.schedule.placements.fits(task.placement, class(id), &core.engines));
        assert_eq!(idle, None, "task {} waits while that engine idles", task.n);
    }
}

/// Asserts that tasks that wait for one engine are in its queue, and nowhere else.
fn direct_queues_have_their_tasks(core: &Core) {
    let mut queued: BTreeMap<EngineId, BTreeSet<TaskKey>> = BTreeMap::new();
    for (key, task) in unfinished(core) {
        let is_given = matches!(task.state, State::Assigned { .. } | State::Unsent { .. });
        if let Some(engine) = task.queue.engine().filter(|_| !is_given) {
            queued.entry(engine).or_default().insert(key);
        }
    }
    for (id, engine) in core.engines.iter() {
        let in_queue: Vec<_> =
            engine.queue.iter().filter(|key| core.tasks.get(*key).is_some()).collect();
        let distinct: BTreeSet<_> = in_queue.iter().copied().collect();
        assert_eq!(distinct.len(), in_queue.len(), "engine {id} has a task twice");
        assert_eq!(distinct, queued.remove(&id).unwrap_or_default(), "engine {id}");
        assert_eq!(engine.queue.len(), in_queue.len(), "engine {id} counts its queue");
    }
    assert!(queued.is_empty(), "tasks wait for engines that are not there: {queued:?}");
}

fn no_direct_task_waits_while_its_engine_idles(core: &Core) {
    for id in idle(core) {
        let engine = core.engines.get(id).expect("an engine with a load is there");
        if !engine.takes_direct() {
            continue;
        }
        let mut blocked = Vec::new();
        for task in engine.queue.iter().filter_map(|key| core.tasks.get(key)) {
            let is_held_up =
                matches!(task.state, State::Receiving | State::Waiting | State::Pausing)
                    || engine.queue.is_held(task.session);
            if is_held_up || core.memory.backlog.holds(task.session) {
                blocked.push(task.session);
            }
            assert!(
                blocked.contains(&task.session),
                "task {} waits while engine {id} idles",
                task.n
            );
        }
    }
}

fn direct_queues_keep_the_order_of_submits(core: &Core) {
    for (id, engine) in core.engines.iter() {
        let mut last = BTreeMap::new();
        // Those that pause stand in no line.
        let in_line = |task: &&Task| task.state != State::Pausing;
        for task in engine.queue.iter().filter_map(|key| core.tasks.get(key)).filter(in_line) {
            let before = last.insert(task.session, task.n);
            assert!(
                before.is_none_or(|before| before < task.n),
                "engine {id} has {before:?} before {}",
                task.n
            );
        }
    }
}

fn who_waits_waits_for_somebody(core: &Core) {
    let mut held = 0;
    let mut pairs = 0;
    for (_, task) in unfinished(core) {
        held += u64::from(matches!(task.state, State::Waiting | State::Pausing));
        let waits = task.more().and_then(|more| more.waits.as_ref());
        let pending: BTreeSet<_> = waits.into_iter().flat_map(|waits| waits.keys()).collect();
        pairs += pending.len();
        assert!(
            pending.iter().all(|key| core.tasks.get(*key).is_some()),
            "task {} waits for what has ended",
            task.n
        );
        assert!(
            task.state != State::Waiting || !pending.is_empty(),
            "task {} waits for nobody",
            task.n
        );
    }
    assert_eq!((core.waiting.held, core.waiting.dependents.len()), (held, pairs));
}

fn deadlines_are_those_of_tasks(core: &Core) {
    let deadlines = unfinished(core).filter(|(_, task)| task.deadline().is_some()).count();
    assert_eq!(core.waiting.deadlines.len(), deadlines);
    for (_, task) in unfinished(core) {
        let options = task.options.as_deref();
        let is_limited = match task.state {
            State::Pausing => true,
            State::Receiving | State::Waiting | State::Queued => {
                options.is_some_and(|it| it.queue_timeout_ms.is_some())
            }
            State::Unsent { .. } => false,
            State::Assigned { started, .. } => {
                let is_timed = task.more().is_some_and(|more| more.started.is_some());
                started && is_timed && options.is_some_and(|it| it.run_timeout_ms.is_some())
            }
        };
        assert_eq!(task.deadline().is_some(), is_limited, "task {} in {:?}", task.n, task.state);
    }
}

fn sessions_count_what_they_keep(core: &Core) {
    for (key, session) in core.sessions.iter() {
        let unfinished = session
            .ledger
            .tasks
            .iter()
            .filter_map(|(_, key)| core.tasks.get(*key))
            .filter(|task| task.keep());
        let done = session.ledger.done.iter().filter(|(_, done)| done.what.keep());
        assert_eq!(session.ledger.keeps, (unfinished.count() + done.count()) as u64, "{key:?}");
    }
}

fn who_waits_for_an_end_is_counted(core: &Core) {
    for (_, session) in core.sessions.iter() {
        let Some(connection) = session.link.connection else { continue };
        // Of a task that has ended they wait until that is in the journal.
        let done = core
            .sessions
            .iter()
            .flat_map(|(_, session)| session.ledger.done.iter().map(|(_, done)| &**done));
        let done = done
            .chain(core.kept.iter().map(|kept| &*kept.done))
            .filter_map(|done| done.what.more.as_deref());
        let more = unfinished(core).filter_map(|(_, task)| task.more()).chain(done);
        let waiting = more
            .flat_map(|more| &more.followers)
            .filter(|follower| follower.connection == connection);
        assert_eq!(session.link.fetches, waiting.count());
    }
}

/// Asserts that sessions and payloads a process was told of are still there: else it would hold
/// them for ever.
fn processes_know_what_is_still_there(core: &Core) {
    let mut shares: BTreeSet<u64> =
        unfinished(core).filter_map(|(_, task)| task.payload.share()).collect();
    shares.extend(core.memory.values.iter().map(|(id, ..)| id.0));
    for process in core.processes.values() {
        assert!(process.told.lanes.keys().all(|key| core.sessions.get(*key).is_some()));
        assert!(process.told.definitions.iter().all(|(key, _)| core.sessions.get(*key).is_some()));
        assert!(process.told.shares.is_subset(&shares), "a shared payload is held for nobody");
    }
}

fn records_are_bounded(core: &Core) {
    assert!(core.kept.len() <= KEPT_RECORDS_MAX);
    assert!(
        core.sessions
            .iter()
            .all(|(_, session)| session.ledger.endings.len() <= ENDS_REMEMBERED_MAX)
    );
    assert!(unfinished(core).all(|(_, task)| task.more().is_none_or(|more| more.past.len() <= 16)));
    for (id, engine) in core.engines.iter() {
        let (entries, waiting) = (engine.queue.iter().count(), engine.queue.len());
        assert!(
            entries <= 2 * waiting + 65,
            "engine {id} has {entries} entries for {waiting} tasks"
        );
    }
}

fn durable_tasks_are_on_disk_before_they_are_queued(core: &Core) {
    for (_, task) in unfinished(core).filter(|(_, task)| task.state != State::Receiving) {
        let stage = task.durable().map(|durable| durable.stage);
        assert!(
            stage.is_none_or(|stage| stage == Stage::Written),
            "task {} in {:?} is {stage:?}",
            task.n,
            task.state
        );
    }
}

/// Returns the number of unfinished tasks.
pub fn tasks(core: &Core) -> usize {
    core.tasks.len()
}

/// Returns true if a session has a task that has not ended.
pub fn is_unfinished(core: &Core, session: SessionId, n: TaskSeq) -> bool {
    of_id(core, session).any(|session| session.ledger.tasks.get(n).is_some())
}

/// Returns the outcome of a task that has ended, until its client has acknowledged it.
pub fn outcome(core: &Core, session: SessionId, n: TaskSeq) -> Option<&Outcome> {
    of_id(core, session).find_map(|session| session.ledger.done.get(n)).map(|done| &done.outcome)
}

fn of_id(core: &Core, session: SessionId) -> impl Iterator<Item = &Session> {
    core.sessions.with_id(session).into_iter().filter_map(|key| core.sessions.get(key))
}

/// Returns the number of attempts assigned to an engine; none if it is not known.
pub fn assigned_to(core: &Core, engine: EngineId) -> Option<usize> {
    // What waits for the journal has not gone out.
    core.engines.get(engine).map(|engine| engine.work.assigned.len() - engine.work.withheld.len())
}

/// The engines of the process that has registered on a connection which the broker does not know to
/// be gone.
pub fn registered(core: &Core, connection: ConnectionId) -> &[EngineId] {
    let process = core.processes.values().find(|process| process.connection == connection);
    process.map_or(&[], |process| &process.engines)
}

/// Returns true if an engine that runs an attempt is to stop it: its task has ended, or has gone on
/// elsewhere.
pub fn is_unwanted(core: &Core, attempt: Attempt) -> bool {
    if attempt.start != core.config.start {
        return core.recovery.orphans.is_disowned(attempt);
    }
    let given = core.attempts.get(attempt.id);
    given.is_some_and(|given| given.stopping.is_some() || core.tasks.get(given.task).is_none())
}

/// Nothing is left that would occupy memory.
pub fn is_quiet(core: &Core) {
    hold(core);
    assert_eq!(unfinished(core).count(), 0);
    assert_eq!((core.tally.results_held, core.attempts.len(), core.kept.len()), (0, 0, 0));
    assert_eq!((core.memory.budget.state().0, core.memory.backlog.len()), (0, 0));
    assert_eq!(
        (core.waiting.deadlines.len(), core.waiting.dependents.len(), core.waiting.held),
        (0, 0, 0)
    );
    assert!(
        core.peers.restarting.is_empty()
            && core.peers.inspections.is_empty()
            && core.turns.rests.is_empty()
            && core.turns.chores.is_empty()
    );
    assert!(core.peers.quotas.is_empty());
    assert!(core.sessions.iter().next().is_none(), "every session has ended");
    assert!(
        core.processes
            .values()
            .all(|process| process.told.lanes.is_empty() && process.told.definitions.is_empty())
    );
    assert!(core.processes.values().all(|process| process.told.shares.is_empty()));
}
