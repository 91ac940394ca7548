//! Tasks that raise, and are run again.

use std::time::Duration;

use furlong_wire::message::{ErrorKind, TaskOptions, TaskPhase, TaskState};

use crate::core::invariants;
use crate::core::tests::farm::peers::{Farm, direct, follow, python, shared, with};

const SUCCEEDED: Option<(TaskState, Option<ErrorKind>)> = Some((TaskState::Succeeded, None));
const RAISED: Option<(TaskState, Option<ErrorKind>)> =
    Some((TaskState::Failed, Some(ErrorKind::Remote)));
const LOST: Option<(TaskState, Option<ErrorKind>)> =
    Some((TaskState::Lost, Some(ErrorKind::EngineLost)));

fn retries(error_retries: u32, backoff_ms: u64) -> TaskOptions {
    TaskOptions { error_retries, backoff_ms, ..TaskOptions::default() }
}

#[test]
fn a_task_that_raises_is_run_again_as_often_as_its_submit_says() {
    let mut farm = Farm::default();
    let (client, engine) = (farm.client(), farm.engine());
    farm.submit(client, with(shared(), retries(2, 0)));
    (0..2).for_each(|_| _ = farm.fail(engine));
    assert_eq!((farm.end_of(client, 1), farm.assigned(engine)), (None, vec![1]));
    farm.fail(engine);
    assert_eq!(farm.end_of(client, 1), RAISED);
    assert_eq!(farm.clients[client].finished[&1].attempts, 3);
}

#[test]
fn a_task_that_raises_is_not_run_again_unless_its_submit_says_so() {
    let mut farm = Farm::default();
    let (client, engine) = (farm.client(), farm.engine());
    farm.submit(client, shared());
    farm.fail(engine);
    assert_eq!(farm.end_of(client, 1), RAISED);
}

#[test]
fn the_pause_between_attempts_doubles_up_to_a_minute() {
    let mut farm = Farm::default();
    let (client, engine) = (farm.client(), farm.engine());
    farm.submit(client, with(shared(), retries(99, 16_000)));
    for pause_ms in [16_000, 32_000, 60_000, 60_000] {
        farm.fail(engine);
        farm.wait(Duration::from_millis(pause_ms - 1));
        assert!(farm.assigned(engine).is_empty() && farm.core.waiting.held == 1);
        farm.wait(Duration::from_millis(1));
        assert_eq!(farm.assigned(engine), [1]);
    }
    farm.cancel(client, 1, 1);
    farm.finish(engine);
    invariants::hold(&farm.core);
}

#[test]
fn a_task_can_be_cancelled_in_its_pause() {
    let mut farm = Farm::default();
    let (client, engine) = (farm.client(), farm.engine());
    farm.submit(client, with(shared(), retries(1, 1_000)));
    farm.fail(engine);
    farm.cancel(client, 1, 1);
    assert_eq!(farm.end_of(client, 1), Some((TaskState::Cancelled, Some(ErrorKind::Cancelled))));
    farm.wait(Duration::from_secs(2));
    assert!(farm.assigned(engine).is_empty());
    invariants::hold(&farm.core);
}

#[test]
fn losses_and_errors_are_counted_apart() {
    let mut farm = Farm::default();
    let client = farm.client();
    farm.submit(client, with(shared(), TaskOptions { retries: Some(1), ..retries(1, 0) }));
    let dying = farm.engine();
    farm.start(dying);
    farm.disconnect_engine(dying);
    let engine = farm.engine();
    farm.fail(engine);
    let request = farm.fetch(client, client, 1, false, false);
    let record = farm.fetched(client, request).unwrap().record;
    assert_eq!((record.losses, record.errors, record.attempts, record.past.len()), (1, 1, 3, 2));
    assert_eq!(record.phase, TaskPhase::Assigned);
    farm.finish(engine);
    assert_eq!(farm.end_of(client, 1), SUCCEEDED);
}

#[test]
fn retries_after_errors_are_for_shared_tasks_that_may_run_again() {
    let mut farm = Farm::default();
    let (client, engine) = (farm.client(), farm.engine());
    let unsupported = Some((TaskState::Failed, Some(ErrorKind::Unsupported)));
    farm.submit(client, with(direct(&[farm.id(engine)]), retries(1, 0)));
    farm.submit(client, with(shared(), TaskOptions { at_most_once: true, ..retries(1, 0) }));
    assert_eq!([farm.end_of(client, 1), farm.end_of(client, 2)], [unsupported, unsupported]);
}

/// A Python task that follows another to its engine and has raised there; behind it one that is for
/// that engine.
fn raised_where_it_followed(backoff_ms: u64) -> (Farm, usize, usize) {
    let mut farm = Farm::default();
    let (client, engine, _other) = (farm.client(), farm.engine(), farm.engine());
    farm.submit(client, direct(&[farm.id(engine)]));
    let options =
        TaskOptions { follow: follow(&[farm.task(client, 1)]).follow, ..retries(3, backoff_ms) };
    farm.submit(client, with(python(shared()), options));
    farm.finish(engine);
    farm.fail(engine);
    invariants::hold(&farm.core);
    (farm, client, engine)
}

#[test]
fn a_task_that_follows_and_raises_is_run_again_where_it_ran() {
    let (mut farm, client, engine) = raised_where_it_followed(0);
    assert_eq!(farm.assigned(engine), [2]);
    farm.finish(engine);
    assert_eq!(farm.end_of(client, 2), SUCCEEDED);
}

#[test]
fn a_task_in_its_pause_holds_nobody_up() {
    let (mut farm, client, engine) = raised_where_it_followed(1_000);
    farm.submit(client, direct(&[farm.id(engine)]));
    assert_eq!(farm.finish(engine), 3);
    farm.wait(Duration::from_secs(1));
    assert_eq!(farm.finish(engine), 2);
    assert_eq!(farm.end_of(client, 2), SUCCEEDED);
    invariants::hold(&farm.core);
}

#[test]
fn a_task_in_its_pause_is_lost_with_the_engine_that_it_followed_to() {
    let (mut farm, client, engine) = raised_where_it_followed(1_000);
    farm.engine_goodbye(engine);
    assert_eq!(farm.end_of(client, 2), LOST);
    let (mut farm, client, engine) = raised_where_it_followed(1_000);
    farm.slot_down(engine, 0);
    assert_eq!(farm.end_of(client, 2), LOST, "and with the namespace there");
    invariants::hold(&farm.core);
    let (mut farm, client, _) = raised_where_it_followed(1_000);
    farm.cancel(client, 2, 2);
    invariants::hold(&farm.core);
}

#[test]
fn past_attempts_of_a_task_are_bounded_and_the_oldest_is_forgotten() {
    let mut farm = Farm::default();
    let (client, engine) = (farm.client(), farm.engine());
    let n = farm.submit(client, with(shared(), retries(20, 0)));
    for _ in 0..20 {
        farm.wait(Duration::from_millis(1));
        farm.fail(engine);
    }
    let request = farm.fetch(client, client, n, false, false);
    let past = farm.fetched(client, request).unwrap().record.past;
    let ended: Vec<u64> = past.iter().map(|attempt| attempt.ended_us).collect();
    assert_eq!(ended, (5..=20).map(|ms| ms * 1_000).collect::<Vec<_>>());
    invariants::hold(&farm.core);
}
