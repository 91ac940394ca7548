//! Engines that go, and engines that come back.

use std::time::Duration;

use furlong_wire::message::{ErrorKind, FromEngine, Slot, TaskOptions, TaskState};

use crate::core::tests::farm::peers::{Farm, at_most_once, direct, shared, with};
use crate::core::{PeerMisbehaved, invariants};

const SUCCEEDED: Option<(TaskState, Option<ErrorKind>)> = Some((TaskState::Succeeded, None));
const LOST: Option<(TaskState, Option<ErrorKind>)> =
    Some((TaskState::Lost, Some(ErrorKind::EngineLost)));
const GRACE: Duration = Duration::from_secs(15);

#[test]
fn shared_work_of_a_lost_engine_goes_elsewhere_at_once() {
    let mut farm = Farm::default();
    let (client, dying, other) = (farm.client(), farm.engine(), farm.engine());
    let n = farm.submit(client, shared());
    farm.disconnect_engine(dying);
    assert_eq!(farm.assigned(other), [n]);
    farm.finish(other);
    assert_eq!(farm.clients[client].finished[&n].attempts, 2);
}

#[test]
fn retries_are_counted_only_for_tasks_that_had_started() {
    let mut farm = Farm::default();
    let client = farm.client();
    let n = farm.submit(client, shared());
    for _ in 0..10 {
        let engine = farm.engine();
        farm.disconnect_engine(engine);
    }
    assert_eq!(farm.end_of(client, n), None);
    for losses in 1..=4 {
        let engine = farm.engine();
        farm.start(engine);
        farm.disconnect_engine(engine);
        assert_eq!(farm.end_of(client, n), if losses <= 3 { None } else { LOST });
    }
}

#[test]
fn a_submit_says_how_many_losses_its_task_survives() {
    let mut farm = Farm::default();
    let (client, engine) = (farm.client(), farm.engine());
    farm.submit(client, with(shared(), TaskOptions { retries: Some(0), ..TaskOptions::default() }));
    farm.start(engine);
    farm.disconnect_engine(engine);
    assert_eq!(farm.end_of(client, 1), LOST);
}

#[test]
fn direct_work_waits_for_its_engine_which_keeps_its_integer_and_its_work() {
    let mut farm = Farm::default();
    let (client, engine) = (farm.client(), farm.engine());
    let id = farm.id(engine);
    (0..2).for_each(|_| _ = farm.submit(client, direct(&[id])));
    farm.start(engine);
    farm.disconnect_engine(engine);
    farm.engine();
    farm.wait(Duration::from_millis(14_999));
    assert_eq!(farm.end_of(client, 1), None);
    farm.connect_engine(engine);
    assert_eq!((farm.id(engine), farm.assigned(engine)), (id, vec![1]));
    assert_eq!([farm.finish(engine), farm.finish(engine)], [1, 2]);
    assert_eq!(farm.clients[client].finished[&1].attempts, 1);
    farm.wait(GRACE);
    assert_eq!(farm.end_of(client, 2), SUCCEEDED);
}

#[test]
fn direct_work_is_lost_when_its_engine_stays_away() {
    let mut farm = Farm::default();
    let (client, engine) = (farm.client(), farm.engine());
    let id = farm.id(engine);
    (0..2).for_each(|_| _ = farm.submit(client, direct(&[id])));
    farm.disconnect_engine(engine);
    farm.wait(GRACE);
    assert_eq!([farm.end_of(client, 1), farm.end_of(client, 2)], [LOST, LOST]);
    farm.submit(client, direct(&[id]));
    assert_eq!(farm.end_of(client, 3), Some((TaskState::Failed, Some(ErrorKind::UnknownEngine))));
    farm.connect_engine(engine);
    assert_eq!(farm.id(engine), id, "who comes late is still the same engine");
    assert_eq!(
        farm.processes[engine].cancelled.len(),
        1,
        "and is told that nobody waits for what it holds"
    );
}

#[test]
fn a_goodbye_loses_direct_work_at_once_and_moves_the_shared() {
    let mut farm = Farm::default();
    let (client, leaving, other) = (farm.client(), farm.engine(), farm.engine());
    let moved = farm.submit(client, shared());
    farm.submit(client, direct(&[farm.id(leaving)]));
    farm.engine_goodbye(leaving);
    assert_eq!(farm.end_of(client, 2), LOST);
    assert_eq!(farm.assigned(other), [moved]);
}

#[test]
fn work_that_the_returning_engine_has_run_and_does_not_hold_is_lost() {
    let mut farm = Farm::default();
    let (client, engine) = (farm.client(), farm.engine());
    farm.submit(client, direct(&[farm.id(engine)]));
    farm.disconnect_engine(engine);
    let jobs = std::mem::take(&mut farm.processes[engine].jobs);
    farm.processes[engine].dropped = Some(jobs[0].attempt);
    farm.connect_engine(engine);
    assert_eq!(farm.end_of(client, 1), LOST);
}

#[test]
fn a_late_result_of_a_moved_attempt_is_dropped() {
    let mut farm = Farm::default();
    let (client, slow, other) = (farm.client(), farm.engine(), farm.engine());
    let n = farm.submit(client, shared());
    farm.disconnect_engine(slow);
    farm.connect_engine(slow);
    assert_eq!(farm.processes[slow].cancelled.len(), 1, "it is told to stop");
    farm.fail(slow);
    assert_eq!(farm.end_of(client, n), None);
    farm.finish(other);
    assert_eq!(farm.end_of(client, n), SUCCEEDED);
}

#[test]
fn an_engine_that_comes_back_before_its_old_connection_is_found_dead_takes_over() {
    let mut farm = Farm::default();
    let (client, engine) = (farm.client(), farm.engine());
    let id = farm.id(engine);
    farm.submit(client, direct(&[id]));
    farm.connect_engine(engine);
    invariants::hold(&farm.core);
    assert_eq!((farm.id(engine), farm.core.engines_online()), (id, 1));
    farm.finish(engine);
    assert_eq!(farm.end_of(client, 1), SUCCEEDED);
}

#[test]
fn a_started_task_that_may_run_once_only_is_never_given_again() {
    let mut farm = Farm::default();
    let (client, dying, other) = (farm.client(), farm.engine(), farm.engine());
    farm.submit(client, with(shared(), at_most_once()));
    farm.start(dying);
    farm.disconnect_engine(dying);
    assert!(
        farm.assigned(other).is_empty() && farm.end_of(client, 1).is_none(),
        "it waits for its engine"
    );
    farm.wait(GRACE);
    assert_eq!(farm.end_of(client, 1), LOST);
    assert!(farm.assigned(other).is_empty());
}

#[test]
fn a_task_that_may_run_once_only_is_not_given_again_because_its_start_was_not_reported() {
    let mut farm = Farm::default();
    let (client, dying, other) = (farm.client(), farm.engine(), farm.engine());
    farm.submit(client, with(shared(), at_most_once()));
    farm.disconnect_engine(dying);
    farm.wait(GRACE);
    assert!(farm.assigned(other).is_empty());
    assert_eq!(farm.end_of(client, 1), LOST);
}

#[test]
fn a_process_registers_once() {
    let mut farm = Farm::default();
    let engine = farm.engine();
    let again = FromEngine::Register(farm.processes[engine].register().into());
    assert_eq!(farm.report(engine, again), Err(PeerMisbehaved::Order));
    invariants::hold(&farm.core);
}

#[test]
fn a_process_with_two_slots_of_one_uuid_is_refused() {
    let mut farm = Farm::default();
    let engine = farm.engine();
    farm.disconnect_engine(engine);
    let slot: Slot = farm.processes[engine].slots[0].clone();
    farm.processes[engine].slots.push(slot);
    farm.open_engine(engine);
    let register = FromEngine::Register(farm.processes[engine].register().into());
    assert!(farm.report(engine, register).is_err());
    assert_eq!(farm.core.engines_online(), 0);
    invariants::hold(&farm.core);
}
