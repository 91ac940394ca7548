//! The task interface: one queue for all engines.

use std::time::Duration;

use furlong_wire::message::{
    Attempts, ErrorKind, FromEngine, Outcome, Runtime, Submit, TaskOptions, TaskState,
};

use crate::core::PeerMisbehaved;
use crate::core::tests::farm::peers::{Farm, at_most_once, shared, with};

const SUCCEEDED: Option<(TaskState, Option<ErrorKind>)> = Some((TaskState::Succeeded, None));
const CANCELLED: Option<(TaskState, Option<ErrorKind>)> =
    Some((TaskState::Cancelled, Some(ErrorKind::Cancelled)));

#[test]
fn a_task_goes_to_an_idle_engine_and_its_result_is_kept_until_acknowledged() {
    let mut farm = Farm::default();
    let (client, engine) = (farm.client(), farm.engine());
    let n = farm.submit(client, shared());
    assert_eq!(farm.assigned(engine), [n]);
    farm.finish(engine);
    assert_eq!(farm.end_of(client, n), SUCCEEDED);
    assert_eq!(farm.core.tally.results_held, 1);
    farm.ack(client, n, n);
    assert_eq!(farm.core.tally.results_held, 0);
}

#[test]
fn a_task_waits_for_an_engine_that_runs_it() {
    let mut farm = Farm::default();
    let (client, python) = (farm.client(), farm.engine_with(1, &[Runtime::Python]));
    let n = farm.submit(client, shared());
    assert!(farm.assigned(python).is_empty());
    let native = farm.engine();
    assert_eq!(farm.assigned(native), [n]);
}

#[test]
fn tasks_spread_over_all_slots() {
    let mut farm = Farm::default();
    let (client, one, two) = (farm.client(), farm.engine_with(2, Runtime::ALL), farm.engine());
    (0..5).for_each(|_| _ = farm.submit(client, shared()));
    assert_eq!((farm.assigned(one), farm.assigned(two)), (vec![1, 2], vec![3]));
}

#[test]
fn priority_goes_before_arrival() {
    let mut farm = Farm::default();
    let (client, engine) = (farm.client(), farm.engine());
    for priority in [0, 0, 5, -1] {
        farm.submit(client, with(shared(), TaskOptions { priority, ..TaskOptions::default() }));
    }
    let order: Vec<u64> = (0..4).map(|_| farm.finish(engine)).collect();
    assert_eq!(order, [1, 3, 2, 4]);
}

#[test]
fn sessions_take_turns() {
    let mut farm = Farm::default();
    let (greedy, modest, engine) = (farm.client(), farm.client(), farm.engine());
    (0..10).for_each(|_| _ = farm.submit(greedy, shared()));
    farm.submit(modest, shared());
    (0..3).for_each(|_| _ = farm.finish(engine));
    assert_eq!(
        farm.end_of(modest, 1),
        SUCCEEDED,
        "it did not wait for the ten that were there before"
    );
}

#[test]
fn tasks_of_unknown_kind_are_given_one_by_one_and_short_ones_several() {
    let mut farm = Farm::default();
    let (client, engine) = (farm.client(), farm.engine());
    (0..20).for_each(|_| _ = farm.submit(client, shared()));
    assert_eq!(farm.assigned(engine).len(), 1);
    farm.finish_after(engine, 500);
    assert_eq!(farm.assigned(engine), [2, 3, 4, 5]);
    farm.finish_after(engine, 1_000_000);
    (0..3).for_each(|_| _ = farm.finish_after(engine, 1_000_000));
    assert_eq!(farm.assigned(engine).len(), 1, "the kind has become long");
}

#[test]
fn tasks_that_may_run_once_only_are_never_prefetched() {
    let mut farm = Farm::default();
    let (client, engine) = (farm.client(), farm.engine());
    (0..4).for_each(|_| _ = farm.submit(client, with(shared(), at_most_once())));
    farm.finish_after(engine, 1);
    assert_eq!(farm.assigned(engine).len(), 1);
}

/// An engine with 13 short tasks assigned, the first of which turns out to be long, and another
/// that has just come.
fn one_busy_one_idle() -> (Farm, usize, usize, usize) {
    let mut farm = Farm::default();
    let (client, busy) = (farm.client(), farm.engine());
    (0..14).for_each(|_| _ = farm.submit(client, shared()));
    farm.finish_after(busy, 1);
    assert_eq!(farm.assigned(busy).len(), 13);
    let idle = farm.engine();
    (farm, client, busy, idle)
}

#[test]
fn an_idle_engine_gets_half_of_what_another_was_given_too_early() {
    let (mut farm, _, busy, idle) = one_busy_one_idle();
    assert!(farm.answer_recalls(busy).is_empty(), "not at once: short tasks are soon done");
    farm.wait(Duration::from_millis(3));
    assert_eq!(farm.answer_recalls(busy).len(), 6);
    assert_eq!((farm.assigned(busy).len(), farm.assigned(idle).len()), (7, 6));
}

#[test]
fn what_only_waited_at_an_engine_is_no_attempt_for_people() {
    let (mut farm, client, busy, idle) = one_busy_one_idle();
    farm.wait(Duration::from_millis(3));
    assert_eq!(farm.answer_recalls(busy).len(), 6);
    let n = farm.finish(idle);
    assert_eq!(farm.clients[client].finished[&n].attempts, 1);
}

#[test]
fn recalled_tasks_keep_their_order() {
    let (mut farm, client, busy, idle) = one_busy_one_idle();
    farm.wait(Duration::from_millis(3));
    // The engine answers one by one, and the shell dispatches after the whole batch.
    let connection = farm.processes[busy].connection.unwrap();
    for attempt in std::mem::take(&mut farm.processes[busy].recalls) {
        let recalled = FromEngine::Recalled(Attempts { attempts: vec![attempt] });
        farm.core.handle_from_engine(farm.now, connection, recalled, None).unwrap();
    }
    farm.ack(client, 1, 1);
    let order: Vec<u64> = (0..6).map(|_| farm.finish_after(idle, 1)).collect();
    assert!(order.is_sorted(), "{order:?}");
}

#[test]
fn a_task_that_begins_although_it_was_recalled_does_not_prevent_that_others_are() {
    let (mut farm, _, busy, idle) = one_busy_one_idle();
    farm.wait(Duration::from_millis(3));
    farm.disconnect_engine(idle);
    // The recall meets the engine when it has just begun the first of the tasks that are wanted
    // back.
    let recalled = farm.processes[busy].recalls.clone();
    while !recalled.contains(&farm.processes[busy].jobs[0].attempt) {
        farm.finish_after(busy, 1);
    }
    farm.start(busy);
    assert_eq!(
        (farm.answer_recalls(busy).len(), farm.assigned(busy).len()),
        (5, 6),
        "nobody else is there now"
    );
    farm.connect_engine(idle);
    farm.wait(Duration::from_millis(3));
    assert_eq!((farm.answer_recalls(busy).len(), farm.assigned(idle).len()), (3, 3));
}

#[test]
fn tasks_behind_a_cancelled_one_that_does_not_stop_are_recalled() {
    let (mut farm, client, busy, _) = one_busy_one_idle();
    let first = farm.assigned(busy)[0];
    farm.cancel(client, first, first);
    farm.wait(Duration::from_millis(3));
    assert!(!farm.answer_recalls(busy).is_empty());
}

#[test]
fn a_task_that_nobody_can_run_does_not_prevent_recalls() {
    let mut farm = Farm::default();
    let (client, busy) = (farm.client(), farm.engine_with(1, &[Runtime::Native]));
    (0..14).for_each(|_| _ = farm.submit(client, shared()));
    farm.finish_after(busy, 1);
    farm.submit(client, Submit { runtime: Runtime::Command, ..shared() });
    farm.engine_with(1, &[Runtime::Native]);
    farm.wait(Duration::from_millis(3));
    assert!(!farm.answer_recalls(busy).is_empty());
}

#[test]
fn nothing_is_recalled_for_an_engine_that_cannot_run_it() {
    let mut farm = Farm::default();
    let (client, busy) = (farm.client(), farm.engine());
    (0..14).for_each(|_| _ = farm.submit(client, shared()));
    farm.finish_after(busy, 1);
    farm.engine_with(1, &[Runtime::Python]);
    farm.wait(Duration::from_millis(3));
    assert!(farm.processes[busy].recalls.is_empty());
}

#[test]
fn a_cancelled_task_ends_once_wherever_it_is() {
    let mut farm = Farm::default();
    let (client, engine) = (farm.client(), farm.engine());
    let (running, queued) = (farm.submit(client, shared()), farm.submit(client, shared()));
    farm.cancel(client, 1, 2);
    for n in [running, queued] {
        assert_eq!(farm.end_of(client, n), CANCELLED);
    }
    assert_eq!(
        farm.processes[engine].cancelled.len(),
        1,
        "the engine is told of the one that it has"
    );
    let after = farm.submit(client, shared());
    assert_eq!(farm.finish(engine), running, "its engine is busy until it answers");
    farm.finish(engine);
    farm.cancel(client, 1, 3);
    assert_eq!(farm.end_of(client, running), CANCELLED, "the late result is dropped");
    assert_eq!(farm.end_of(client, after), SUCCEEDED, "a finished task cannot be cancelled");
    assert_eq!((1..=3).map(|n| farm.deliveries(client, n)).collect::<Vec<_>>(), [1, 1, 1]);
}

#[test]
fn a_second_result_of_an_attempt_is_dropped() {
    let mut farm = Farm::default();
    let (client, engine) = (farm.client(), farm.engine());
    let n = farm.submit(client, shared());
    let job = farm.processes[engine].jobs[0];
    farm.fail(engine);
    farm.processes[engine].jobs.push(job);
    farm.finish(engine);
    assert_eq!(farm.end_of(client, n), Some((TaskState::Failed, Some(ErrorKind::Remote))));
    assert_eq!(farm.deliveries(client, n), 1);
}

#[test]
fn an_engine_that_answers_for_another_one_is_closed() {
    let mut farm = Farm::default();
    let (client, honest, liar) = (farm.client(), farm.engine(), farm.engine());
    farm.submit(client, shared());
    let attempt = farm.processes[honest].jobs[0].attempt;
    let started = FromEngine::Started(Attempts { attempts: vec![attempt] });
    assert_eq!(farm.report(liar, started), Err(PeerMisbehaved::Attempt));
    assert!(farm.processes[liar].connection.is_none());
    let mut never_given = attempt;
    never_given.id.0 += 1;
    let recalled = FromEngine::Recalled(Attempts { attempts: vec![never_given] });
    assert_eq!(farm.report(honest, recalled), Err(PeerMisbehaved::Attempt));
}

#[test]
fn an_engine_may_claim_any_run_time() {
    let mut farm = Farm::default();
    let (client, engine) = (farm.client(), farm.engine());
    for _ in 0..2 {
        farm.submit(client, shared());
        farm.finish_with(engine, Outcome::SUCCEEDED, u64::MAX, None);
    }
}
