//! The multiengine interface: a queue for each engine.

use std::time::Duration;

use furlong_wire::ids::{EngineId, TaskSeq};
use furlong_wire::message::{
    ErrorKind, FromClient, FromEngine, Goodbye, Runtime, Submit, TaskOptions, TaskState,
};
use furlong_wire::token::Role;

use crate::core::tests::farm::peers::{Farm, direct, shared, with};
use crate::core::{ConnectionId, PeerMisbehaved};

const SUCCEEDED: Option<(TaskState, Option<ErrorKind>)> = Some((TaskState::Succeeded, None));

fn abort_on_error() -> TaskOptions {
    TaskOptions { abort_on_error: true, ..TaskOptions::default() }
}

#[test]
fn one_submit_makes_a_task_for_each_engine() {
    let mut farm = Farm::default();
    let (client, one, two) = (farm.client(), farm.engine(), farm.engine());
    farm.submit(client, direct(&[farm.id(two), farm.id(one)]));
    assert_eq!((farm.assigned(two), farm.assigned(one)), (vec![1], vec![2]));
}

#[test]
fn an_engines_own_queue_goes_before_the_shared_one() {
    let mut farm = Farm::default();
    let (client, engine) = (farm.client(), farm.engine());
    (0..2).for_each(|_| _ = farm.submit(client, shared()));
    farm.submit(client, direct(&[farm.id(engine)]));
    assert_eq!(
        farm.assigned(engine),
        [1, 3],
        "it is handed out at once, behind what the engine has"
    );
    let order: Vec<u64> = (0..3).map(|_| farm.finish(engine)).collect();
    assert_eq!(order, [1, 3, 2]);
}

#[test]
fn a_sessions_tasks_keep_their_order_while_a_payload_arrives_and_other_sessions_pass() {
    let mut farm = Farm::default();
    let (client, other, engine) = (farm.client(), farm.client(), farm.engine());
    let to_engine = direct(&[farm.id(engine)]);
    let payload = farm.clients[client].sending.chunked(300_000);
    farm.submit(client, Submit { payload, ..to_engine.clone() });
    farm.submit(client, to_engine.clone());
    assert!(farm.assigned(engine).is_empty());
    farm.submit(other, to_engine);
    farm.finish(engine);
    assert_eq!(farm.end_of(other, 1), SUCCEEDED);
    while farm.send_chunk(client) {}
    assert_eq!([farm.finish(engine), farm.finish(engine)], [1, 2]);
}

#[test]
fn a_task_whose_payload_was_arriving_holds_nobody_back_after_its_end() {
    let mut farm = Farm::default();
    let (client, engine) = (farm.client(), farm.engine());
    let to_engine = direct(&[farm.id(engine)]);
    let payload = farm.clients[client].sending.chunked(2_000);
    farm.submit(client, Submit { payload, ..to_engine.clone() });
    farm.submit(client, to_engine);
    farm.cancel(client, 1, 1);
    assert_eq!(farm.assigned(engine), [2]);
}

#[test]
fn an_unknown_engine_fails_its_task_only() {
    let mut farm = Farm::default();
    let (client, engine) = (farm.client(), farm.engine());
    farm.submit(client, direct(&[EngineId(77), farm.id(engine)]));
    assert_eq!(farm.end_of(client, 1), Some((TaskState::Failed, Some(ErrorKind::UnknownEngine))));
    assert_eq!(farm.assigned(engine), [2]);
}

#[test]
fn a_runtime_that_the_engine_lacks_fails_the_task() {
    let mut farm = Farm::default();
    let (client, engine) = (farm.client(), farm.engine_with(1, &[Runtime::Python]));
    farm.submit(client, direct(&[farm.id(engine)]));
    assert_eq!(farm.end_of(client, 1), Some((TaskState::Failed, Some(ErrorKind::Unsupported))));
}

#[test]
fn a_role_bounds_what_may_be_submitted() {
    let mut farm = Farm::default();
    let engine = farm.engine();
    let (tasks, views, observer) = (
        farm.client_as(Role::Task),
        farm.client_as(Role::Multiengine),
        farm.client_as(Role::Observer),
    );
    let forbidden = Some((TaskState::Failed, Some(ErrorKind::Forbidden)));
    for (client, submit) in
        [(tasks, direct(&[farm.id(engine)])), (views, shared()), (observer, shared())]
    {
        let n = farm.submit(client, submit);
        assert_eq!(farm.end_of(client, n), forbidden);
    }
    farm.submit(tasks, shared());
    farm.submit(views, direct(&[farm.id(engine)]));
    assert_eq!(farm.assigned(engine).len(), 2);
}

#[test]
fn an_option_that_is_not_served_fails_the_task() {
    let mut farm = Farm::default();
    let client = farm.client();
    let n = farm
        .submit(client, with(shared(), TaskOptions { durable: true, ..TaskOptions::default() }));
    assert_eq!(farm.end_of(client, n), Some((TaskState::Failed, Some(ErrorKind::Unsupported))));
}

#[test]
fn a_failure_aborts_what_the_same_session_has_queued_there_if_the_submits_said_so() {
    let mut farm = Farm::default();
    let (client, other, engine) = (farm.client(), farm.client(), farm.engine());
    let to_engine = direct(&[farm.id(engine)]);
    (0..3).for_each(|_| _ = farm.submit(client, with(to_engine.clone(), abort_on_error())));
    farm.submit(client, to_engine.clone());
    farm.submit(other, to_engine);
    farm.fail(engine);
    let aborted = Some((TaskState::Cancelled, Some(ErrorKind::Aborted)));
    assert_eq!([farm.end_of(client, 2), farm.end_of(client, 3)], [aborted, aborted]);
    farm.finish(engine);
    farm.finish(engine);
    assert_eq!([farm.end_of(client, 4), farm.end_of(other, 1)], [SUCCEEDED, SUCCEEDED]);
}

#[test]
fn cancelling_a_queued_task_does_not_abort_the_others() {
    let mut farm = Farm::default();
    let (client, engine) = (farm.client(), farm.engine());
    let to_engine = with(direct(&[farm.id(engine)]), abort_on_error());
    (0..4).for_each(|_| _ = farm.submit(client, to_engine.clone()));
    farm.cancel(client, 3, 3);
    assert_eq!([farm.end_of(client, 2), farm.end_of(client, 4)], [None, None]);
}

#[test]
fn any_number_of_followers_is_aborted() {
    let mut farm = Farm::default();
    let (client, engine) = (farm.client(), farm.engine());
    let to_engine = with(direct(&[farm.id(engine)]), abort_on_error());
    (0..5_000).for_each(|_| _ = farm.submit(client, to_engine.clone()));
    farm.fail(engine);
    farm.wait(Duration::ZERO);
    assert_eq!(farm.core.tally.results_held, 5_000);
}

#[test]
fn tasks_queued_on_an_engine_that_leaves_are_lost() {
    let mut farm = Farm::default();
    let (client, engine) = (farm.client(), farm.engine());
    (0..2).for_each(|_| _ = farm.submit(client, direct(&[farm.id(engine)])));
    // The shell dispatches after a batch, and closes after that.
    let connection: ConnectionId = farm.processes[engine].connection.unwrap();
    let goodbye = FromEngine::Goodbye(Goodbye { reason: "stopped".into() });
    farm.core.handle_from_engine(farm.now, connection, goodbye, None).unwrap();
    farm.finish(engine);
    assert_eq!(farm.end_of(client, 2), Some((TaskState::Lost, Some(ErrorKind::EngineLost))));
}

#[test]
fn a_wrong_task_number_is_misbehaviour_and_a_repeated_submit_is_ignored() {
    let mut farm = Farm::default();
    let (client, engine) = (farm.client(), farm.engine());
    farm.submit(client, shared());
    farm.say(client, FromClient::Submit(Submit { n: TaskSeq(1), ..shared() })).unwrap();
    assert_eq!(farm.assigned(engine), [1]);
    farm.finish(engine);
    assert!(farm.assigned(engine).is_empty(), "the repetition made no second task");
    let gap = FromClient::Submit(Submit { n: TaskSeq(3), ..shared() });
    assert_eq!(farm.say(client, gap), Err(PeerMisbehaved::TaskNumber));
}
