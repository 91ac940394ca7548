//! Results that engines hold: asked for again after a cut, and released when nobody will ask for
//! them.

use std::time::Duration;

use furlong_wire::message::{
    Draining, ErrorKind, FromEngine, Payload, TaskOptions, TaskState, ToEngine,
};

use crate::core::invariants;
use crate::core::tests::farm::peers::{Farm, at_most_once, direct, python, shared, with};

const SUCCEEDED: Option<(TaskState, Option<ErrorKind>)> = Some((TaskState::Succeeded, None));
const LOST: Option<(TaskState, Option<ErrorKind>)> =
    Some((TaskState::Lost, Some(ErrorKind::EngineLost)));

fn small() -> Payload {
    Payload::Inline(b"unheard".into())
}

/// Returns the number of Release messages an engine has got.
fn releases(farm: &Farm, engine: usize) -> usize {
    farm.processes[engine]
        .received
        .iter()
        .filter(|message| matches!(message, ToEngine::Release(_)))
        .count()
}

#[test]
fn a_result_that_was_on_its_way_when_the_connection_was_cut_arrives_once() {
    let mut farm = Farm::default();
    let (client, engine) = (farm.client(), farm.engine());
    let id = farm.id(engine);
    for submit in [shared(), with(shared(), at_most_once()), direct(&[id])] {
        for started in [false, true] {
            let n = farm.submit(client, submit.clone());
            if started {
                farm.start(engine);
            }
            farm.finish_unheard(engine, small());
            assert_eq!(farm.end_of(client, n), None);
            farm.connect_engine(engine);
            invariants::hold(&farm.core);
            assert_eq!((farm.end_of(client, n), farm.deliveries(client, n)), (SUCCEEDED, 1));
            assert_eq!(farm.clients[client].finished[&n].payload, Some(small()));
            assert_eq!(farm.clients[client].finished[&n].attempts, 1, "it was not run again");
        }
    }
    assert!(farm.assigned(engine).is_empty());
}

#[test]
fn a_large_result_that_had_come_in_part_is_sent_again() {
    let mut farm = Farm::default();
    let (client, engine) = (farm.client(), farm.engine());
    let n = farm.submit(client, with(shared(), at_most_once()));
    let payload = farm.processes[engine].sending.chunked(300_000);
    farm.finish_with(engine, furlong_wire::message::Outcome::SUCCEEDED, 1, Some(payload));
    farm.send_result_chunk(engine);
    farm.disconnect_engine(engine);
    invariants::hold(&farm.core);
    farm.connect_engine(engine);
    assert_eq!(farm.end_of(client, n), None);
    while farm.send_result_chunk(engine) {}
    assert_eq!(farm.end_of(client, n), SUCCEEDED);
    farm.ack(client, n, n);
    farm.goodbye(client);
    invariants::is_quiet(&farm.core);
}

#[test]
fn shared_work_that_nobody_else_took_goes_on_where_it_was() {
    let mut farm = Farm::default();
    let (client, engine) = (farm.client(), farm.engine());
    let n = farm
        .submit(client, with(shared(), TaskOptions { retries: Some(0), ..TaskOptions::default() }));
    let waits = farm.submit(client, shared());
    farm.disconnect_engine(engine);
    farm.connect_engine(engine);
    invariants::hold(&farm.core);
    assert!(farm.processes[engine].cancelled.is_empty());
    assert_eq!(farm.assigned(engine), [n], "it is not given again, and the other one waits");
    assert_eq!([farm.finish(engine), farm.finish(engine)], [n, waits]);
    assert_eq!(farm.clients[client].finished[&n].attempts, 1);
}

#[test]
fn a_cut_that_was_no_loss_is_not_counted_as_one() {
    let mut farm = Farm::default();
    let (client, engine) = (farm.client(), farm.engine());
    let n =
        farm.submit(client, with(shared(), TaskOptions { keep: true, ..TaskOptions::default() }));
    for _ in 0..5 {
        farm.start(engine);
        farm.disconnect_engine(engine);
        farm.connect_engine(engine);
    }
    farm.finish(engine);
    let request = farm.fetch(client, client, n, false, false);
    let record = farm.fetched(client, request).unwrap().record;
    assert_eq!((record.losses, record.attempts, record.past), (0, 1, vec![]));
}

#[test]
fn a_result_of_work_that_went_elsewhere_is_released() {
    let mut farm = Farm::default();
    let (client, engine, other) = (farm.client(), farm.engine(), farm.engine());
    let n = farm.submit(client, shared());
    let attempt = farm.processes[engine].jobs[0].attempt;
    farm.finish_unheard(engine, small());
    assert_eq!(farm.assigned(other), [n]);
    farm.connect_engine(engine);
    assert_eq!((farm.released(engine), farm.end_of(client, n)), (vec![attempt], None));
    farm.finish(other);
    assert_eq!(farm.end_of(client, n), SUCCEEDED);
}

#[test]
fn a_cancelled_task_has_stopped_when_its_engine_is_back_with_its_result() {
    let mut farm = Farm::default();
    let (client, engine) = (farm.client(), farm.engine());
    let n = farm.submit(client, direct(&[farm.id(engine)]));
    let attempt = farm.processes[engine].jobs[0].attempt;
    farm.finish_unheard(engine, small());
    farm.cancel(client, n, n);
    assert!(farm.stopped(client).is_empty());
    farm.connect_engine(engine);
    invariants::hold(&farm.core);
    assert_eq!(farm.stopped(client), [n]);
    assert!(farm.processes[engine].cancelled.is_empty(), "there is nothing to cancel");
    farm.ack(client, n, n);
    farm.core.handle_tick();
    farm.pump();
    assert_eq!(farm.released(engine), [attempt]);
}

#[test]
fn work_that_never_came_to_its_engine_is_given_again_whatever_it_is() {
    let mut farm = Farm::default();
    let (client, engine) = (farm.client(), farm.engine());
    let id = farm.id(engine);
    for submit in [with(shared(), at_most_once()), direct(&[id]), python(direct(&[id]))] {
        let n = farm.submit(client, submit);
        let job = farm.processes[engine].jobs.pop().unwrap();
        farm.processes[engine].last_received = None;
        farm.disconnect_engine(engine);
        farm.connect_engine(engine);
        invariants::hold(&farm.core);
        assert_eq!(farm.assigned(engine), [n]);
        assert_ne!(farm.processes[engine].jobs[0].attempt, job.attempt);
        farm.finish(engine);
        assert_eq!(farm.end_of(client, n), SUCCEEDED);
    }
}

#[test]
fn work_that_came_and_neither_ran_nor_is_held_waits_again_unless_it_needs_the_namespace() {
    let mut farm = Farm::default();
    let (client, engine) = (farm.client(), farm.engine());
    let id = farm.id(engine);
    let submits = [
        (with(shared(), at_most_once()), None),
        (direct(&[id]), None),
        (python(direct(&[id])), LOST),
    ];
    for (submit, end) in submits {
        let n = farm.submit(client, submit);
        farm.processes[engine].jobs.clear();
        farm.disconnect_engine(engine);
        farm.connect_engine(engine);
        assert_eq!(farm.end_of(client, n), end);
        if end.is_none() {
            assert_eq!(farm.finish(engine), n);
        }
    }
}

#[test]
fn work_that_may_run_once_and_may_have_run_is_lost() {
    let mut farm = Farm::default();
    let (client, engine) = (farm.client(), farm.engine());
    for has_dropped in [false, true] {
        let n = farm.submit(client, with(shared(), at_most_once()));
        let attempt = farm.processes[engine].jobs[0].attempt;
        if has_dropped {
            farm.processes[engine].dropped = Some(attempt);
        } else {
            // A process that knows no more of what it had begun.
            farm.start(engine);
        }
        farm.processes[engine].jobs.clear();
        farm.disconnect_engine(engine);
        farm.connect_engine(engine);
        assert_eq!(farm.end_of(client, n), LOST);
    }
}

#[test]
fn a_result_that_has_come_is_held_until_it_is_acknowledged_though_its_engine_was_cut_off() {
    let mut farm = Farm::default();
    let (client, engine) = (farm.client(), farm.engine());
    farm.submit(client, shared());
    farm.finish(engine);
    for _ in 0..2 {
        farm.disconnect_engine(engine);
        farm.connect_engine(engine);
        assert_eq!((farm.processes[engine].results.len(), farm.deliveries(client, 1)), (1, 1));
    }
    farm.ack(client, 1, 1);
    farm.core.handle_tick();
    farm.pump();
    assert!(farm.processes[engine].results.is_empty());
}

#[test]
fn an_engine_that_leaves_does_not_wait_for_acknowledgements() {
    for was_cut in [false, true] {
        let mut farm = Farm::default();
        let (client, engine) = (farm.client(), farm.engine());
        farm.submit(client, shared());
        farm.finish(engine);
        if was_cut {
            farm.disconnect_engine(engine);
            farm.connect_engine(engine);
        }
        let draining = Draining { reason: "terminated".into() };
        farm.report(engine, FromEngine::Draining(draining)).unwrap();
        assert!(farm.processes[engine].results.is_empty());
        farm.ack(client, 1, 1);
        farm.core.handle_tick();
        farm.pump();
        assert_eq!(farm.released(engine).len(), 1, "once");
    }
}

#[test]
fn results_are_released_in_batches_when_they_are_acknowledged() {
    let mut farm = Farm::default();
    let (client, engine) = (farm.client(), farm.engine());
    for _ in 0..256 {
        farm.submit(client, shared());
        farm.finish_after(engine, 1);
    }
    assert_eq!(farm.processes[engine].results.len(), 256, "nobody has said that it has them");
    farm.ack(client, 1, 255);
    assert_eq!(releases(&farm, engine), 0);
    farm.ack(client, 256, 256);
    assert_eq!((releases(&farm, engine), farm.released(engine).len()), (1, 256));
    assert!(farm.processes[engine].results.is_empty());
}

#[test]
fn few_results_are_released_within_a_second_and_large_ones_at_once() {
    let mut farm = Farm::default();
    let (client, engine) = (farm.client(), farm.engine());
    farm.submit(client, shared());
    farm.finish(engine);
    farm.ack(client, 1, 1);
    assert_eq!(releases(&farm, engine), 0);
    farm.core.handle_tick();
    farm.pump();
    assert_eq!(farm.released(engine).len(), 1);
    farm.core.handle_tick();
    farm.pump();
    assert_eq!(releases(&farm, engine), 1, "there is nothing more to say");
    farm.submit(client, shared());
    let payload = farm.processes[engine].sending.chunked(1 << 20);
    farm.finish_with(engine, furlong_wire::message::Outcome::SUCCEEDED, 1, Some(payload));
    while farm.send_result_chunk(engine) {}
    farm.ack(client, 2, 2);
    assert_eq!(farm.released(engine).len(), 2);
}

#[test]
fn what_nobody_will_ask_for_is_released_however_it_came_to_that() {
    let mut farm = Farm::default();
    let engine = farm.engine();
    let released = |farm: &mut Farm| {
        farm.core.handle_tick();
        farm.pump();
        farm.released(engine).len()
    };
    // Its session ends.
    let client = farm.client();
    farm.submit(client, shared());
    farm.finish(engine);
    assert_eq!(released(&mut farm), 0);
    farm.goodbye(client);
    assert_eq!(released(&mut farm), 1);
    // It comes after the task's end.
    let client = farm.client();
    let n = farm.submit(client, shared());
    farm.cancel(client, n, n);
    farm.finish(engine);
    assert_eq!(released(&mut farm), 1, "its client may not have heard of that end");
    farm.ack(client, n, n);
    assert_eq!(released(&mut farm), 2);
    // The task is run again.
    let retried = TaskOptions { error_retries: 1, ..TaskOptions::default() };
    farm.submit(client, with(shared(), retried));
    farm.fail(engine);
    assert_eq!(released(&mut farm), 3);
    farm.finish(engine);
    // The broker keeps it for another process of its owner.
    farm.disconnect_client(client);
    assert_eq!(released(&mut farm), 3);
    farm.wait(Duration::from_secs(600));
    assert_eq!(released(&mut farm), 4);
    assert!(farm.processes[engine].results.is_empty());
}

#[test]
fn an_engine_is_busy_with_what_went_elsewhere_until_that_has_stopped() {
    let mut farm = Farm::default();
    let (client, engine) = (farm.client(), farm.engine());
    farm.submit(client, shared());
    farm.start(engine);
    let other = farm.engine();
    farm.disconnect_engine(engine);
    assert_eq!(farm.assigned(other), [1]);
    farm.connect_engine(engine);
    farm.submit(client, shared());
    assert_eq!(farm.assigned(engine), [1], "it gets nothing new");
    invariants::hold(&farm.core);
    farm.finish(engine);
    assert_eq!(farm.assigned(engine), [2]);
    invariants::hold(&farm.core);
}
