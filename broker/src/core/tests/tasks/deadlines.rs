//! Limits of waiting and of running.

use std::time::Duration;

use furlong_wire::message::{ErrorKind, FromEngine, TaskOptions, TaskState, ToEngine};

use crate::core::invariants;
use crate::core::tests::farm::peers::{Farm, direct, shared, with};

const SUCCEEDED: Option<(TaskState, Option<ErrorKind>)> = Some((TaskState::Succeeded, None));
const WAITED: Option<(TaskState, Option<ErrorKind>)> =
    Some((TaskState::TimedOut, Some(ErrorKind::QueueTimeout)));
const RAN: Option<(TaskState, Option<ErrorKind>)> =
    Some((TaskState::TimedOut, Some(ErrorKind::RunTimeout)));

fn queue_timeout(ms: u64) -> TaskOptions {
    TaskOptions { queue_timeout_ms: Some(ms), ..TaskOptions::default() }
}

fn run_timeout(ms: u64) -> TaskOptions {
    TaskOptions { run_timeout_ms: Some(ms), ..TaskOptions::default() }
}

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

#[test]
fn a_queue_timeout_does_not_touch_what_an_engine_has() {
    let mut farm = Farm::default();
    let (client, engine) = (farm.client(), farm.engine());
    farm.submit(client, with(shared(), queue_timeout(100)));
    farm.wait(ms(10_000));
    farm.finish(engine);
    assert_eq!(farm.end_of(client, 1), SUCCEEDED);
    assert_eq!(farm.core.waiting.deadlines.len(), 0);
}

#[test]
fn a_queue_timeout_passes_while_the_engine_is_away() {
    let mut farm = Farm::default();
    let (client, engine) = (farm.client(), farm.engine());
    let to_engine = direct(&[farm.id(engine)]);
    farm.submit(client, to_engine.clone());
    farm.disconnect_engine(engine);
    farm.submit(client, with(to_engine.clone(), queue_timeout(5_000)));
    farm.submit(client, with(to_engine, queue_timeout(60_000)));
    farm.wait(ms(4_999));
    assert_eq!(farm.end_of(client, 2), None);
    farm.wait(ms(1));
    assert_eq!(farm.end_of(client, 2), WAITED, "nobody asks whether the engine will be back");
    farm.connect_engine(engine);
    assert_eq!([farm.finish(engine), farm.finish(engine)], [1, 3], "the others go on when it is");
    invariants::hold(&farm.core);
}

#[test]
fn the_wait_for_an_engine_begins_anew_after_a_loss() {
    let mut farm = Farm::default();
    let (client, engine) = (farm.client(), farm.engine());
    farm.submit(client, with(shared(), queue_timeout(100)));
    farm.start(engine);
    farm.wait(ms(1_000));
    farm.disconnect_engine(engine);
    farm.wait(ms(99));
    assert_eq!(farm.end_of(client, 1), None);
    farm.wait(ms(1));
    assert_eq!(farm.end_of(client, 1), WAITED);
}

#[test]
fn a_run_timeout_counts_from_the_report_of_its_start() {
    let mut farm = Farm::default();
    let (client, engine) = (farm.client(), farm.engine());
    farm.submit(client, with(shared(), run_timeout(100)));
    farm.wait(ms(5_000));
    assert_eq!(farm.end_of(client, 1), None, "it may wait behind others at its engine");
    farm.start(engine);
    farm.wait(ms(99));
    assert_eq!(farm.end_of(client, 1), None);
    farm.wait(ms(1));
    assert_eq!(farm.end_of(client, 1), RAN);
    assert_eq!(farm.clients[client].finished[&1].engine, Some(farm.id(engine)));
}

#[test]
fn a_run_timeout_ends_the_run_like_a_forced_cancel() {
    let mut farm = Farm::default();
    let (client, other, engine) = (farm.client(), farm.client(), farm.engine());
    // Another session has something in that interpreter.
    farm.submit(other, direct(&[farm.id(engine)]));
    farm.finish(engine);
    farm.submit(client, with(direct(&[farm.id(engine)]), run_timeout(100)));
    farm.start(engine);
    farm.wait(ms(100));
    let forced = |message: &ToEngine| matches!(message, ToEngine::Cancel(cancel) if cancel.force);
    assert!(farm.processes[engine].received.iter().any(forced));
    assert!(farm.stopped(client).is_empty());
    farm.finish(engine);
    assert_eq!((farm.end_of(client, 1), farm.stopped(client)), (RAN, vec![1]));
}

#[test]
fn a_run_that_times_out_while_its_engine_is_away_is_ended_when_that_is_back() {
    let mut farm = Farm::default();
    let (client, engine) = (farm.client(), farm.engine());
    farm.submit(client, with(direct(&[farm.id(engine)]), run_timeout(100)));
    farm.start(engine);
    farm.disconnect_engine(engine);
    farm.wait(ms(100));
    assert_eq!(farm.end_of(client, 1), RAN);
    farm.connect_engine(engine);
    let last = farm.processes[engine].received.iter().rev().find_map(|message| match message {
        ToEngine::Cancel(cancel) => Some((cancel.attempts.len(), cancel.force)),
        _ => None,
    });
    assert_eq!(last, Some((1, true)));
}

#[test]
fn each_attempt_has_the_whole_run_timeout() {
    let mut farm = Farm::default();
    let (client, engine) = (farm.client(), farm.engine());
    let options = TaskOptions { error_retries: 1, ..run_timeout(100) };
    farm.submit(client, with(shared(), options));
    farm.start(engine);
    farm.wait(ms(60));
    farm.fail(engine);
    farm.start(engine);
    farm.wait(ms(60));
    assert_eq!(farm.end_of(client, 1), None);
    farm.wait(ms(40));
    assert_eq!(farm.end_of(client, 1), RAN);
}

#[test]
fn a_pause_between_attempts_is_not_a_wait_for_an_engine() {
    let mut farm = Farm::default();
    let (client, engine) = (farm.client(), farm.engine());
    let options = TaskOptions { error_retries: 1, backoff_ms: 1_000, ..queue_timeout(100) };
    farm.submit(client, with(shared(), options));
    farm.fail(engine);
    farm.wait(ms(1_000));
    farm.finish(engine);
    assert_eq!(farm.end_of(client, 1), SUCCEEDED);
}

#[test]
fn a_limit_beyond_all_time_is_no_limit() {
    let mut farm = Farm::default();
    let (client, engine) = (farm.client(), farm.engine());
    // A thousand times as many are few microseconds in 64 bits.
    let limit = u64::MAX / 1_000 + 1;
    let options = TaskOptions { run_timeout_ms: Some(limit), ..queue_timeout(limit) };
    (0..2).for_each(|_| _ = farm.submit(client, with(shared(), options.clone())));
    farm.start(engine);
    farm.wait(ms(1_000_000));
    (0..2).for_each(|_| _ = farm.finish(engine));
    assert_eq!([farm.end_of(client, 1), farm.end_of(client, 2)], [SUCCEEDED, SUCCEEDED]);
}

#[test]
fn a_late_report_of_an_attempt_that_timed_out_changes_nothing() {
    let mut farm = Farm::default();
    let (client, engine) = (farm.client(), farm.engine());
    farm.submit(client, with(shared(), run_timeout(1)));
    let attempt = farm.start(engine);
    farm.wait(ms(1));
    let again = furlong_wire::message::Attempts { attempts: vec![attempt] };
    farm.report(engine, FromEngine::Started(again)).unwrap();
    farm.finish(engine);
    assert_eq!((farm.end_of(client, 1), farm.deliveries(client, 1)), (RAN, 1));
    invariants::hold(&farm.core);
}
