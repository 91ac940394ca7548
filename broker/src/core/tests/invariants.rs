//! What is true of a core after every step, whatever its peers did.

use std::collections::BTreeMap;
use std::sync::Arc;

use furlong_wire::ids::EngineId;

use crate::core::Core;
use crate::core::payloads::Stored;
use crate::core::sessions::Definition;
use crate::core::tasks::{State, Task, TaskKey};

/// All of them.
pub fn hold(core: &Core) {
    each_task_is_unfinished_or_done(core);
    results_held_are_counted(core);
    attempts_and_engines_agree(core);
    loads_are_in_order(core);
    shared_tasks_are_counted(core);
    no_shared_task_waits_while_an_engine_idles(core);
    no_direct_task_waits_while_its_engine_idles(core);
    direct_queues_keep_the_order_of_submits(core);
    the_budget_is_what_is_held(core);
}

fn unfinished(core: &Core) -> impl Iterator<Item = (TaskKey, &Task)> {
    let keys = core.sessions.iter().flat_map(|(_, session)| session.tasks.values().copied());
    keys.map(|key| (key, core.tasks.get(key).expect("a session's unfinished task is in the table")))
}

fn each_task_is_unfinished_or_done(core: &Core) {
    for (key, session) in core.sessions.iter() {
        for (n, task) in &session.tasks {
            let task = core.tasks.get(*task).expect("a session's unfinished task is in the table");
            assert_eq!((task.session, task.n), (key, *n));
            assert!(!session.done.contains_key(n), "task {n} is both unfinished and done");
        }
        let last = session.tasks.keys().chain(session.done.keys()).max();
        assert!(last.is_none_or(|last| *last <= session.submitted));
        assert!((session.tasks.len() + session.done.len()) as u64 <= session.tasks_max);
    }
}

fn results_held_are_counted(core: &Core) {
    let held: usize = core.sessions.iter().map(|(_, session)| session.done.len()).sum();
    assert_eq!(core.results_held, held as u64);
}

fn attempts_and_engines_agree(core: &Core) {
    let mut assigned = 0;
    for (id, engine) in core.engines.iter() {
        assigned += engine.assigned.len();
        let of_engine = |count: &u64| core.attempts.get(count).filter(|given| given.engine == id);
        let given: Vec<_> =
            engine.assigned.iter().map(|count| of_engine(count).expect("an attempt is given")).collect();
        let direct = given.iter().filter(|given| given.direct).count();
        assert_eq!(engine.assigned_direct as usize, direct, "engine {id}");
        assert!(engine.recalled.is_subset(&engine.assigned), "engine {id}");
        assert!(engine.process.is_none_or(|key| core.processes.contains_key(&key)), "engine {id} of a ghost process");
        assert_eq!(engine.process.is_none(), engine.given_up.is_some(), "engine {id} is here, or is waited for");
    }
    assert_eq!(assigned, core.attempts.len());
    for (count, given) in &core.attempts {
        let Some(task) = core.tasks.get(given.task) else { continue };
        let current = matches!(task.state, State::Assigned { engine, attempt, .. }
            if engine == given.engine && attempt == *count);
        assert!(current, "attempt {count} is not its task's");
    }
    for (key, task) in unfinished(core) {
        let State::Assigned { attempt, .. } = task.state else { continue };
        assert_eq!(core.attempts.get(&attempt).map(|given| given.task), Some(key));
    }
}

fn loads_are_in_order(core: &Core) {
    let connected = core.engines.iter().filter(|(_, engine)| engine.process.is_some());
    let mut loads: Vec<_> = connected.map(|(id, engine)| (engine.load(), id)).collect();
    loads.sort_unstable();
    let expected: Vec<_> = loads.into_iter().map(|(_, id)| id).collect();
    assert_eq!(core.engines.by_load(u32::MAX).collect::<Vec<_>>(), expected);
}

fn shared_tasks_are_counted(core: &Core) {
    let queued = unfinished(core).filter(|(_, task)| task.state == State::Queued && task.target.is_none()).count();
    assert_eq!(core.shared_len, queued as u64);
}

fn no_shared_task_waits_while_an_engine_idles(core: &Core) {
    for (_, task) in unfinished(core).filter(|(_, task)| task.state == State::Queued && task.target.is_none()) {
        let process = |id| core.processes.get(&core.engines.get(id)?.process?);
        let runs = |id: &EngineId| process(*id).is_some_and(|process| process.runs(task.runtime));
        let idle = core.engines.by_load(1).find(runs);
        assert_eq!(idle, None, "task {} waits while that engine idles", task.n);
    }
}

fn no_direct_task_waits_while_its_engine_idles(core: &Core) {
    for id in core.engines.by_load(1) {
        let engine = core.engines.get(id).expect("an engine with a load is there");
        let mut blocked = Vec::new();
        for task in engine.queue.iter().filter_map(|key| core.tasks.get(*key)) {
            if task.state == State::Receiving {
                blocked.push(task.session);
            }
            assert!(blocked.contains(&task.session), "task {} waits while engine {id} idles", task.n);
        }
    }
}

fn direct_queues_keep_the_order_of_submits(core: &Core) {
    for (id, engine) in core.engines.iter() {
        let mut last = BTreeMap::new();
        for task in engine.queue.iter().filter_map(|key| core.tasks.get(*key)) {
            let before = last.insert(task.session, task.n);
            assert!(before.is_none_or(|before| before < task.n), "engine {id} has {before:?} before {}", task.n);
        }
    }
}

fn the_budget_is_what_is_held(core: &Core) {
    let mut held = 0;
    for (_, session) in core.sessions.iter() {
        held += session.receiving.abandoned_bytes();
        held += session.done.values().filter_map(|done| done.payload.as_ref()).map(Stored::budget_bytes).sum::<u64>();
        for definition in session.definitions.values() {
            if let Definition::Here(stored) = definition {
                held += stored.budget_bytes();
            }
        }
    }
    held += core.processes.values().map(|process| process.receiving.abandoned_bytes()).sum::<u64>();
    // The tasks of one submit share its payload.
    let mut requests = BTreeMap::new();
    for (_, task) in unfinished(core) {
        if let Stored::Chunked(payload) = &task.payload {
            requests.insert(Arc::as_ptr(payload), task.payload.budget_bytes());
        }
    }
    held += requests.values().sum::<u64>();
    assert_eq!(core.budget.state().0, held);
}

/// Nothing is left that would occupy memory.
pub fn is_quiet(core: &Core) {
    hold(core);
    assert_eq!(unfinished(core).count(), 0);
    assert_eq!((core.results_held, core.shared_len, core.attempts.len()), (0, 0, 0));
    assert_eq!(core.budget.state().0, 0);
    assert!(core.sessions.iter().next().is_none(), "every session has ended");
    assert!(core.processes.values().all(|process| process.sessions.is_empty() && process.definitions.is_empty()));
}
