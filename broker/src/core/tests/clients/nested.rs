//! Tasks that submit tasks: who is let in by a pass, what ends with its task, and slots that are
//! lent.

use std::time::Duration;

use furlong_wire::ids::{Attempt, AttemptId, PassKey, SessionId};
use furlong_wire::keys::SecretKey;
use furlong_wire::limits::{GRANTS_PER_ATTEMPT_MAX, NESTING_MAX};
use furlong_wire::message::{
    Attempts, ErrorKind, FromEngine, Grant, Lent, RefusalKind, Runtime, TaskOptions, TaskState,
    ToClient, ToEngine,
};
use furlong_wire::token::{Role, TokenLimits};

use crate::core::tests::farm::peers::{Farm, direct, shared, with};
use crate::core::{PeerMisbehaved, invariants};

fn key(number: u8) -> [u8; 32] {
    SecretKey::from_bytes([number; 32]).public().0
}

/// An engine asks that a key be let in. Why it is not, if so.
fn grant(farm: &mut Farm, process: usize, attempt: Attempt, key: [u8; 32]) -> Option<String> {
    farm.report(process, FromEngine::Grant(Grant { attempt, key: PassKey(key) })).unwrap();
    let answers = farm.processes[process].received.iter().rev();
    let mut granted = answers.filter_map(|message| match message {
        ToEngine::Granted(granted) if granted.key == PassKey(key) => Some(granted.refusal.clone()),
        _ => None,
    });
    granted.next().expect("each grant has its answer")
}

/// A client of what a process runs as its job at this place.
fn nested(farm: &mut Farm, process: usize, job: usize) -> usize {
    let attempt = farm.processes[process].jobs[job].attempt;
    let number = farm.fresh_id();
    assert_eq!(grant(farm, process, attempt, key(number)), None);
    let client = farm.absent_client(Role::Client);
    farm.clients[client].pass = Some(key(number));
    farm.connect_client(client).unwrap();
    client
}

fn lend(farm: &mut Farm, process: usize, job: usize, clients: &[usize]) {
    let sessions: Vec<SessionId> =
        clients.iter().map(|client| farm.clients[*client].session).collect();
    let attempt = farm.processes[process].jobs[job].attempt;
    farm.report(process, FromEngine::Lent(Lent { attempt, sessions })).unwrap();
    invariants::hold(&farm.core);
}

fn back(farm: &mut Farm, process: usize, job: usize) {
    let attempt = farm.processes[process].jobs[job].attempt;
    farm.report(process, FromEngine::Back(Attempts { attempts: vec![attempt] })).unwrap();
    invariants::hold(&farm.core);
}

/// Slot and number of what a process has.
fn jobs(farm: &Farm, process: usize) -> Vec<(u32, u64)> {
    farm.processes[process].jobs.iter().map(|job| (job.slot, job.n)).collect()
}

fn is_told_the_end(farm: &Farm, client: usize) -> bool {
    let last = farm.clients[client].received.last();
    matches!(last, Some(ToClient::Goodbye(goodbye)) if goodbye.reason.contains("has ended"))
}

#[test]
fn a_pass_gives_the_owners_authority_and_no_administrators() {
    let mut farm = Farm::default();
    let (admin, engine) = (farm.client_as(Role::Admin), farm.engine());
    farm.clients[admin].scopes = vec!["gpu".into()];
    farm.submit(admin, shared());
    let attempt = farm.start(engine);
    assert_eq!(grant(&mut farm, engine, attempt, key(1)), None);
    let (claims, of) = farm.core.pass(farm.now, key(1)).unwrap();
    assert_eq!((claims.role, claims.owner.0, of), (Role::Client, [7; 16], attempt.id));
    assert_eq!(
        claims.token_id.0, [farm.clients[admin].token; 16],
        "it is revoked with its owner's"
    );
    assert_eq!(grant(&mut farm, engine, attempt, key(1)), None, "it may be said again");
    assert!(farm.core.pass(farm.now, key(2)).is_err());
    farm.finish(engine);
    assert!(farm.core.pass(farm.now, key(1)).unwrap_err().text.contains("has ended"));
    invariants::hold(&farm.core);
}

#[test]
fn what_a_task_has_opened_ends_with_it_and_kept_tasks_go_on() {
    let mut farm = Farm::default();
    let (client, engine) = (farm.client(), farm.engine_with(2, Runtime::ALL));
    farm.submit(client, shared());
    farm.start(engine);
    let inner = nested(&mut farm, engine, 0);
    let keep = TaskOptions { keep: true, ..TaskOptions::default() };
    let (runs, waits, kept) =
        (farm.submit(inner, shared()), farm.submit(inner, shared()), with(shared(), keep));
    farm.submit(inner, kept);
    assert_eq!(farm.assigned(engine), [1, runs]);
    farm.finish(engine);
    invariants::hold(&farm.core);
    assert!(is_told_the_end(&farm, inner) && farm.clients[inner].connection.is_none());
    assert!(farm.connect_client(inner).is_err(), "its pass is no longer good");
    let attempt = farm.processes[engine].jobs[0].attempt;
    assert!(farm.processes[engine].cancelled.contains(&attempt), "what runs is interrupted");
    assert_eq!(farm.assigned(engine), [runs, 3], "{waits} is gone, and the kept one goes on");
}

#[test]
fn a_parent_that_is_cancelled_or_lost_takes_its_children_along() {
    for is_lost in [false, true] {
        let mut farm = Farm::default();
        let (client, engine, other) = (farm.client(), farm.engine(), farm.engine());
        farm.submit(client, direct(&[farm.id(engine)]));
        farm.start(engine);
        let inner = nested(&mut farm, engine, 0);
        farm.submit(inner, direct(&[farm.id(other)]));
        let within = {
            farm.start(other);
            nested(&mut farm, other, 0)
        };
        farm.submit(within, shared());
        if is_lost {
            farm.engine_goodbye(engine);
        } else {
            farm.cancel(client, 1, 1);
        }
        assert!(
            is_told_the_end(&farm, inner) && is_told_the_end(&farm, within),
            "down to the last one"
        );
        invariants::hold(&farm.core);
    }
}

#[test]
fn a_grant_needs_an_attempt_of_the_engine_that_somebody_wants() {
    let mut farm = Farm::default();
    let (client, engine, other) = (farm.client(), farm.engine(), farm.engine());
    farm.submit(client, direct(&[farm.id(engine)]));
    let attempt = farm.start(engine);
    let of_other = farm.report(other, FromEngine::Grant(Grant { attempt, key: PassKey(key(1)) }));
    assert_eq!(of_other, Err(PeerMisbehaved::Attempt), "it is another engine's");
    let never = Attempt { id: AttemptId(attempt.id.0 + 9), ..attempt };
    assert!(grant(&mut farm, engine, attempt, [0; 32]).unwrap().contains("weak"));
    farm.cancel(client, 1, 1);
    assert!(grant(&mut farm, engine, attempt, key(1)).unwrap().contains("has been cancelled"));
    farm.finish(engine);
    assert!(grant(&mut farm, engine, attempt, key(1)).unwrap().contains("has ended"));
    let unknown =
        farm.report(engine, FromEngine::Grant(Grant { attempt: never, key: PassKey(key(1)) }));
    assert_eq!(unknown, Err(PeerMisbehaved::Attempt), "nobody was given it");
    assert!(farm.core.pass(farm.now, key(1)).is_err());
    invariants::hold(&farm.core);
}

#[test]
fn grants_are_bounded_and_a_key_is_one_tasks() {
    let mut farm = Farm::default();
    let (client, engine, other) = (farm.client(), farm.engine(), farm.engine());
    farm.submit(client, direct(&[farm.id(engine), farm.id(other)]));
    let (attempt, of_other) = (farm.start(engine), farm.start(other));
    for number in 0..GRANTS_PER_ATTEMPT_MAX as u8 {
        assert_eq!(grant(&mut farm, engine, attempt, key(100 + number)), None);
    }
    assert!(grant(&mut farm, engine, attempt, key(1)).unwrap().contains("at most 64 clients"));
    assert!(grant(&mut farm, other, of_other, key(100)).unwrap().contains("another task's"));
    let client_of = |farm: &mut Farm| {
        let inner = farm.absent_client(Role::Client);
        farm.clients[inner].pass = Some(key(100));
        farm.connect_client(inner)
    };
    for _ in 0..GRANTS_PER_ATTEMPT_MAX {
        client_of(&mut farm).unwrap();
    }
    assert!(client_of(&mut farm).unwrap_err().text.contains("at most 64 clients"));
    invariants::hold(&farm.core);
}

#[test]
fn a_token_can_forbid_nesting() {
    let mut farm = Farm::default();
    let client = farm.absent_client(Role::Client);
    farm.clients[client].limits = TokenLimits { no_nested: true, ..TokenLimits::default() };
    farm.connect_client(client).unwrap();
    let engine = farm.engine();
    farm.submit(client, shared());
    let attempt = farm.start(engine);
    assert!(grant(&mut farm, engine, attempt, key(1)).unwrap().contains("--no-nested"));
    assert!(farm.core.pass(farm.now, key(1)).is_err());
}

#[test]
fn a_lent_slot_runs_what_is_nested_deeper_and_nothing_else() {
    let mut farm = Farm::default();
    let (client, engine) = (farm.client(), farm.engine());
    (0..3).for_each(|_| _ = farm.submit(client, shared()));
    farm.start(engine);
    let inner = nested(&mut farm, engine, 0);
    (0..2).for_each(|_| _ = farm.submit(inner, shared()));
    assert_eq!(jobs(&farm, engine), [(0, 1)], "it computes still");
    lend(&mut farm, engine, 0, &[inner]);
    assert_eq!(
        jobs(&farm, engine),
        [(0, 1), (1, 1)],
        "one of its own, in a stand-in; no other outer task"
    );
    let within = nested(&mut farm, engine, 1);
    farm.submit(within, shared());
    lend(&mut farm, engine, 1, &[within]);
    assert_eq!(jobs(&farm, engine), [(0, 1), (1, 1), (1, 1)]);
    back(&mut farm, engine, 0);
    back(&mut farm, engine, 1);
    farm.finish(engine);
    invariants::hold(&farm.core);
    assert!(is_told_the_end(&farm, inner) && is_told_the_end(&farm, within));
}

#[test]
fn what_had_not_begun_behind_a_task_that_waits_goes_elsewhere() {
    let mut farm = Farm::default();
    let (client, engine) = (farm.client(), farm.engine());
    farm.submit(client, shared());
    farm.finish_after(engine, 10);
    (0..3).for_each(|_| _ = farm.submit(client, shared()));
    let own = direct(&[farm.id(engine)]);
    farm.submit(client, own);
    assert!(farm.assigned(engine).len() > 2, "short tasks are sent ahead");
    let inner = nested(&mut farm, engine, 0);
    lend(&mut farm, engine, 0, &[inner]);
    let behind: Vec<Attempt> =
        farm.processes[engine].jobs[1..].iter().map(|job| job.attempt).collect();
    let recalled = &farm.processes[engine].recalls;
    assert!(
        recalled.iter().all(|attempt| behind.contains(attempt)) && recalled.len() >= 2,
        "{recalled:?}"
    );
}

#[test]
fn a_client_with_a_token_of_its_own_lends_too() {
    let mut farm = Farm::default();
    let (client, own, engine) = (farm.client(), farm.client(), farm.engine());
    farm.submit(client, shared());
    farm.start(engine);
    (0..2).for_each(|_| _ = farm.submit(own, shared()));
    lend(&mut farm, engine, 0, &[own]);
    assert_eq!(jobs(&farm, engine), [(0, 1), (1, 1)]);
    farm.finish(engine);
    assert_eq!(farm.assigned(engine), [1], "it goes on without the one that waited for it");
    farm.finish(engine);
    farm.finish(engine);
    assert_eq!(farm.end_of(own, 2), Some((TaskState::Succeeded, None)));
    invariants::hold(&farm.core);
}

#[test]
fn nobody_is_made_deeper_by_another_owner_or_beyond_the_bound() {
    let mut farm = Farm::default();
    let outsider = farm.absent_client(Role::Client);
    farm.clients[outsider].owner = 8;
    farm.connect_client(outsider).unwrap();
    let (client, engine) = (farm.client(), farm.engine());
    farm.submit(client, shared());
    farm.start(engine);
    farm.submit(outsider, shared());
    lend(&mut farm, engine, 0, &[outsider, client]);
    assert_eq!(jobs(&farm, engine), [(0, 1)]);
    let mut waits = client;
    for depth in 0..NESTING_MAX {
        let at = farm.processes[engine].jobs.len() - 1;
        let inner = nested(&mut farm, engine, at);
        farm.submit(inner, shared());
        lend(&mut farm, engine, at, &[inner]);
        assert_eq!(
            farm.processes[engine].jobs.len() as u32,
            depth + 2,
            "{waits} has somebody to stand in"
        );
        waits = inner;
    }
    let deepest = farm.processes[engine].jobs.last().unwrap().attempt;
    assert!(grant(&mut farm, engine, deepest, key(1)).unwrap().contains("at most 64 deep"));
}

#[test]
fn an_engine_says_again_what_waits_when_it_is_back() {
    let mut farm = Farm::default();
    let (client, engine) = (farm.client(), farm.engine());
    farm.submit(client, direct(&[farm.id(engine)]));
    farm.start(engine);
    let inner = nested(&mut farm, engine, 0);
    farm.submit(inner, shared());
    lend(&mut farm, engine, 0, &[inner]);
    assert_eq!(farm.processes[engine].jobs.len(), 2);
    farm.disconnect_engine(engine);
    invariants::hold(&farm.core);
    farm.connect_engine(engine);
    lend(&mut farm, engine, 0, &[inner]);
    assert_eq!(farm.processes[engine].jobs.len(), 2);
    farm.processes[engine].jobs.swap(0, 1);
    farm.finish(engine);
    assert_eq!(farm.end_of(inner, 1), Some((TaskState::Succeeded, None)));
}

#[test]
fn a_shared_task_whose_engine_is_cut_off_keeps_its_clients() {
    for goes_elsewhere in [false, true] {
        let mut farm = Farm::default();
        let (client, engine) = (farm.client(), farm.engine());
        farm.submit(client, shared());
        farm.start(engine);
        let inner = nested(&mut farm, engine, 0);
        farm.submit(inner, shared());
        lend(&mut farm, engine, 0, &[inner]);
        farm.disconnect_engine(engine);
        invariants::hold(&farm.core);
        assert!(!is_told_the_end(&farm, inner), "its engine may come back");
        if goes_elsewhere {
            farm.engine();
            invariants::hold(&farm.core);
            assert!(is_told_the_end(&farm, inner), "its task is tried again");
            continue;
        }
        farm.connect_engine(engine);
        invariants::hold(&farm.core);
        lend(&mut farm, engine, 0, &[inner]);
        assert!(farm.clients[inner].connection.is_some());
        farm.finish(engine);
        assert!(is_told_the_end(&farm, inner));
        invariants::hold(&farm.core);
    }
}

#[test]
fn a_pass_that_is_not_known_yet_is_told_to_wait() {
    let mut farm = Farm::default();
    farm.engine();
    assert_eq!(farm.core.pass(farm.now, key(1)).unwrap_err().kind, RefusalKind::Busy);
    farm.wait(Duration::from_secs(16));
    assert_eq!(farm.core.pass(farm.now, key(1)).unwrap_err().kind, RefusalKind::Unauthorized);
}

#[test]
fn a_task_for_the_engine_of_the_task_that_submits_it_is_refused() {
    let mut farm = Farm::default();
    let (client, engine, other) = (farm.client(), farm.engine(), farm.engine());
    farm.submit(client, direct(&[farm.id(engine)]));
    farm.start(engine);
    let inner = nested(&mut farm, engine, 0);
    let both = direct(&[farm.id(engine), farm.id(other)]);
    farm.submit(inner, both);
    assert_eq!(farm.end_of(inner, 1), Some((TaskState::Failed, Some(ErrorKind::Unsupported))));
    assert!(
        farm.error_of(inner, 1).starts_with("a circle: engine 0 runs task"),
        "{}",
        farm.error_of(inner, 1)
    );
    assert_eq!(farm.assigned(other), [2]);
    invariants::hold(&farm.core);
}

#[test]
fn a_circle_over_two_engines_is_broken_after_a_while() {
    let mut farm = Farm::default();
    let (client, one, two) = (farm.client(), farm.engine(), farm.engine());
    farm.submit(client, direct(&[farm.id(one), farm.id(two)]));
    farm.start(one);
    farm.start(two);
    let (of_one, of_two) = (nested(&mut farm, one, 0), nested(&mut farm, two, 0));
    let (to_two, to_one) = (direct(&[farm.id(two)]), direct(&[farm.id(one)]));
    farm.submit(of_one, to_two);
    farm.submit(of_two, to_one);
    lend(&mut farm, one, 0, &[of_one]);
    lend(&mut farm, two, 0, &[of_two]);
    farm.wait(Duration::from_millis(900));
    assert!(farm.end_of(of_one, 1).is_none() && farm.end_of(of_two, 1).is_none());
    farm.wait(Duration::from_millis(200));
    let ends = [farm.end_of(of_one, 1), farm.end_of(of_two, 1)];
    let broken = Some((TaskState::Failed, Some(ErrorKind::Unsupported)));
    assert!(ends.contains(&broken), "{ends:?}");
    invariants::hold(&farm.core);
}

#[test]
fn who_only_waits_for_its_turn_is_in_no_circle() {
    let mut farm = Farm::default();
    let (client, one, two) = (farm.client(), farm.engine(), farm.engine());
    farm.submit(client, direct(&[farm.id(one), farm.id(two)]));
    farm.start(one);
    farm.start(two);
    let of_one = nested(&mut farm, one, 0);
    let to_two = direct(&[farm.id(two)]);
    farm.submit(of_one, to_two);
    lend(&mut farm, one, 0, &[of_one]);
    farm.wait(Duration::from_secs(5));
    assert_eq!(farm.end_of(of_one, 1), None, "engine two is busy, and will be free");
    farm.finish(two);
    farm.finish(two);
    assert_eq!(farm.end_of(of_one, 1), Some((TaskState::Succeeded, None)));
}
