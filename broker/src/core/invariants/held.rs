//! The invariants of what is held for peers: each sum is that of its parts.

use std::collections::BTreeMap;
use std::sync::Arc;

use furlong_wire::ids::TokenId;

use super::unfinished;
use crate::core::Core;
use crate::core::engines::process::Process;
use crate::core::payloads::arriving::Account;
use crate::core::payloads::budget::Lane;
use crate::core::payloads::charges;
use crate::core::payloads::stored::Stored;
use crate::core::sessions::table::Definition;
use crate::core::tasks::ended::EndedTask;

pub(super) fn the_budget_is_what_is_held(core: &Core) {
    let (mut others, mut requests) = (0, 0);
    for (_, session) in core.sessions.iter() {
        requests += session.link.receiving.abandoned_bytes();
        requests += session.definitions.values().map(definition_bytes).sum::<u64>();
        others += session.kinds.names.bytes();
        let of_record = |done: &EndedTask| done.what.output_bytes() + done.record_bytes();
        others += session.ledger.done.iter().map(|(_, done)| of_record(done)).sum::<u64>();
    }
    others += core.kept.iter().map(|kept| kept.done.budget_bytes()).sum::<u64>();
    others += core.processes.values().map(Process::passing_bytes).sum::<u64>();
    others += core.memory.values.bytes();
    let remembered: usize =
        core.sessions.iter().map(|(_, session)| session.ledger.endings.len()).sum();
    assert_eq!(core.tally.ends_remembered, remembered);
    // The tasks of one submit share its payload.
    let mut shared = BTreeMap::new();
    for (_, task) in unfinished(core) {
        others += task.more().map_or(0, |more| more.output.kept_bytes()) + task.extra_bytes();
        match &task.payload {
            Stored::Chunked(payload) => {
                _ = shared.insert(Arc::as_ptr(payload), task.payload.budget_bytes());
            }
            sent => requests += sent.budget_bytes(),
        }
    }
    requests += shared.values().sum::<u64>();
    let results: u64 = unread(core).map(|(_, bytes)| bytes).sum();
    let unasked: u64 =
        unread(core).filter(|(account, _)| account.lane.is_some()).map(|(_, bytes)| bytes).sum();
    let [requests_counted, results_counted, unasked_counted, lent, stray] =
        core.memory.budget.parts();
    assert_eq!((requests_counted, results_counted, unasked_counted), (requests, results, unasked));
    assert_eq!(core.memory.budget.state().0, requests + results + others);
    let lanes = || core.processes.values().flat_map(|process| process.told.lanes.values());
    assert_eq!(lanes().map(Lane::first).sum::<u64>(), lent);
    assert_eq!(lanes().map(|lane| lane.state().0).sum::<u64>() + stray, unasked);
    assert!(
        unasked <= core.memory.budget.peer_credit()
            && core.memory.budget.state().0 <= core.memory.budget.state().1
    );
}

/// Results that are here for their clients, or on their way here, and against what each counts.
pub(super) fn unread(core: &Core) -> impl Iterator<Item = (Account, u64)> {
    let done = core
        .sessions
        .iter()
        .flat_map(|(key, session)| session.ledger.done.iter().map(move |(_, done)| (key, done)));
    let done = done.filter_map(|(session, done)| {
        Some((Account { session, lane: done.lane }, done.payload.as_ref()?.budget_bytes()))
    });
    done.chain(core.processes.values().flat_map(Process::arriving)).filter(|(_, bytes)| *bytes > 0)
}

/// A result waits at an engine that is here, for a session that is passed over until there is room
/// for it.
pub(super) fn results_that_wait_are_counted(core: &Core) {
    let mut waiting = 0;
    for (key, session) in core.sessions.iter() {
        let of_session =
            unread(core).filter(|(account, _)| account.session == key).map(|(_, bytes)| bytes);
        assert_eq!(session.unread_bytes, of_session.sum::<u64>(), "{key:?}");
        waiting += core.memory.backlog.of_session(key).0;
        assert_eq!(
            core.memory.backlog.holds(key),
            core.memory.backlog.of_session(key).0 > 0,
            "{key:?}"
        );
    }
    assert_eq!(core.memory.backlog.len(), waiting);
    let mut taken = 0;
    for (id, engine) in core.engines.iter() {
        let process = engine.process.and_then(|key| core.processes.get(&key));
        assert!(
            engine.work.unsent.is_empty() || process.is_some(),
            "engine {id} is away, and its results wait"
        );
        for attempt in &engine.work.unsent {
            let is_waiting = core.memory.backlog.bytes_of(*attempt).is_some();
            let is_wanted = core
                .attempts
                .get(*attempt)
                .is_some_and(|given| core.tasks.get(given.task).is_some());
            assert!(is_wanted && !engine.work.assigned.contains(attempt), "attempt {attempt}");
            taken += usize::from(!is_waiting);
        }
    }
    let unsent: usize = core.engines.iter().map(|(_, engine)| engine.work.unsent.len()).sum();
    assert_eq!(unsent, waiting + taken);
}

pub(super) fn kept_tasks_are_counted(core: &Core) {
    assert_eq!(core.kept.len(), core.kept.iter().count());
    assert_eq!(
        core.kept.heavy_bytes(),
        core.kept.iter().map(|kept| kept.done.budget_bytes()).sum::<u64>()
    );
}

/// Bytes of a definition that count against the budget.
pub fn definition_bytes(definition: &Definition) -> u64 {
    if let Definition::Here(stored) = definition { charges::definition_bytes(stored) } else { 0 }
}

/// Each value is held for its users: records of ended tasks, unfinished tasks that have it as an
/// input, and ends of which others have not been told.
pub(super) fn values_have_their_users(core: &Core) {
    let mut users = BTreeMap::<_, u64>::new();
    for (_, session) in core.sessions.iter() {
        let values = session.ledger.done.iter().filter_map(|(_, done)| done.value);
        values.for_each(|value| *users.entry(value).or_default() += 1);
    }
    let kept = core.kept.iter().filter_map(|kept| kept.done.value);
    kept.for_each(|value| *users.entry(value).or_default() += 1);
    for (_, task) in unfinished(core) {
        let values = task.more().into_iter().flat_map(|more| &more.inputs);
        let values = values.filter_map(|input| input.value);
        values.for_each(|value| *users.entry(value).or_default() += 1);
    }
    for value in core.waiting.dependents.values() {
        *users.entry(value).or_default() += 1;
    }
    let held: BTreeMap<_, u64> =
        core.memory.values.iter().map(|(id, users, ..)| (id, users)).collect();
    assert_eq!(held, users);
    let bytes: u64 = core.memory.values.iter().map(|(_, _, bytes, ..)| bytes).sum();
    assert_eq!(core.memory.values.bytes(), bytes);
    assert!(bytes <= core.memory.budget.state().1 / 2, "values take {bytes} bytes");
    for (key, process) in &core.processes {
        let of_process =
            core.memory.values.iter().filter(|(id, ..)| process.told.shares.contains(&id.0));
        of_process
            .for_each(|(id, _, _, told, _)| assert!(told.contains(key), "{key:?} has {id:?}"));
    }
}

/// Each limited token is charged for the tasks of its sessions, their requests and definitions.
pub(super) fn quotas_are_what_is_held(core: &Core) {
    let mut held: BTreeMap<TokenId, (u64, u64, u64)> = BTreeMap::new();
    let mut requests = BTreeMap::new();
    for (_, session) in core.sessions.iter() {
        let (sessions, tasks, bytes) = held.entry(session.counted_by).or_default();
        *sessions += 1;
        *tasks += session.ledger.tasks.len() as u64;
        *bytes += session.link.receiving.abandoned_bytes();
        *bytes += session.definitions.values().map(definition_bytes).sum::<u64>();
        *bytes += session.kinds.names.bytes();
        for task in session.ledger.tasks.iter().filter_map(|(_, key)| core.tasks.get(*key)) {
            match &task.payload {
                Stored::Chunked(payload) => {
                    _ = requests.insert(
                        Arc::as_ptr(payload),
                        (session.counted_by, task.payload.budget_bytes()),
                    );
                }
                sent => *bytes += sent.budget_bytes(),
            }
        }
    }
    for (token, bytes) in requests.into_values() {
        held.entry(token).or_default().2 += bytes;
    }
    for (_, _, bytes, _, token) in core.memory.values.iter() {
        if let Some(token) = token {
            held.entry(token).or_default().2 += bytes;
        }
    }
    for (token, counted) in core.peers.quotas.iter() {
        assert_eq!(
            held.get(&token).copied(),
            Some(counted),
            "what {token:?} is charged for: sessions, tasks, bytes"
        );
    }
}

/// Nothing is on its way: everybody may send as much as at the beginning.
pub fn nothing_is_owed(core: &Core) {
    for (_, session) in
        core.sessions.iter().filter(|(_, session)| session.link.connection.is_some())
    {
        let defined: u64 = session.definitions.values().map(definition_bytes).sum();
        let left = session.link.credit.left() + defined;
        assert!(left >= core.memory.budget.peer_credit(), "a client may send {left} bytes");
    }
    for (key, process) in &core.processes {
        for (session, lane) in &process.told.lanes {
            let of_lane = unread(core)
                .filter(|(account, _)| account.session == *session && account.lane == Some(*key));
            let held: u64 = of_lane.map(|(_, bytes)| bytes).sum();
            assert_eq!(lane.state(), (held, lane.first() - held), "what an engine may send");
        }
    }
}
