//! Payloads in chunks: definitions, credit and the budget.

use furlong_wire::ids::TaskSeq;
use furlong_wire::message::{
    AttemptPublished, CancelTasks, Define, ErrorKind, FromClient, FromEngine, Outcome, Payload,
    Submit, TaskOptions, TaskRange, TaskState, ToClient, ToEngine,
};

use crate::core::tests::farm::peers::{Farm, direct, shared, with};
use crate::core::{PeerMisbehaved, invariants};

const SUCCEEDED: Option<(TaskState, Option<ErrorKind>)> = Some((TaskState::Succeeded, None));
const BUSY: Option<(TaskState, Option<ErrorKind>)> =
    Some((TaskState::Failed, Some(ErrorKind::Busy)));

/// A farm with a budget of 1 MiB: each peer may announce a quarter of it.
fn small_farm() -> Farm {
    Farm::with_limits(1 << 20, 1_000)
}

fn held(farm: &Farm) -> u64 {
    farm.core.memory.budget.state().0
}

fn submit_chunked(farm: &mut Farm, client: usize, bytes: u64, submit: Submit) -> u64 {
    let payload = farm.clients[client].sending.chunked(bytes);
    farm.submit(client, Submit { payload, ..submit })
}

/// Ends the oldest job with a large result, whose chunks are still to come.
fn finish_chunked(farm: &mut Farm, engine: usize, bytes: u64) -> u64 {
    let payload = farm.processes[engine].sending.chunked(bytes);
    farm.finish_with(engine, Outcome::SUCCEEDED, 1_000_000, Some(payload))
}

/// Clients announce as many requests as there may be: half of the budget.
fn fill_the_budget(farm: &mut Farm) {
    for _ in 0..2 {
        let client = farm.client();
        submit_chunked(
            farm,
            client,
            256 << 10,
            with(shared(), TaskOptions { priority: -9, ..TaskOptions::default() }),
        );
    }
    assert_eq!(held(farm), 1 << 19);
}

#[test]
fn payloads_count_from_their_announcement_until_they_are_of_no_use() {
    let mut farm = small_farm();
    let (client, engine) = (farm.client(), farm.engine());
    submit_chunked(&mut farm, client, 2_000, shared());
    assert_eq!(held(&farm), 2_000);
    assert!(farm.assigned(engine).is_empty(), "the task waits for its payload");
    farm.send_chunk(client);
    finish_chunked(&mut farm, engine, 3_000);
    assert_eq!(held(&farm), 5_000);
    farm.send_result_chunk(engine);
    assert_eq!(held(&farm), 3_000, "the request's bytes are free when its task ends");
    farm.ack(client, 1, 1);
    assert_eq!(held(&farm), 0);
}

#[test]
fn the_tasks_of_one_submit_share_its_payload() {
    let mut farm = small_farm();
    let (client, one, two) = (farm.client(), farm.engine(), farm.engine());
    let both = direct(&[farm.id(one), farm.id(two)]);
    submit_chunked(&mut farm, client, 2_000, both);
    farm.send_chunk(client);
    farm.finish(one);
    assert_eq!(held(&farm), 2_000);
    farm.finish(two);
    assert_eq!(held(&farm), 0);
}

#[test]
fn more_than_the_credit_is_misbehaviour() {
    let mut farm = small_farm();
    let client = farm.client();
    let submit = |n, bytes| {
        let payload = Payload::Chunked { transfer: n, counter: 0, bytes, instance: None };
        FromClient::Submit(Submit { n: TaskSeq(n), payload, ..shared() })
    };
    farm.say(client, submit(1, (256 << 10) + 1)).unwrap();
    assert_eq!(
        farm.say(client, submit(2, 2_000)),
        Err(PeerMisbehaved::Credit),
        "one payload overdraws it"
    );
    let other = farm.client();
    assert_eq!(
        farm.say(other, submit(1, ((3 * 256) << 10) + 1)),
        Err(PeerMisbehaved::Credit),
        "and is bounded"
    );
}

#[test]
fn credit_comes_back_with_what_is_freed() {
    let mut farm = small_farm();
    let (client, engine) = (farm.client(), farm.engine());
    for _ in 0..20 {
        assert!(farm.clients[client].sending.may_announce(100_000));
        let n = submit_chunked(&mut farm, client, 100_000, shared());
        farm.send_chunk(client);
        finish_chunked(&mut farm, engine, 100_000);
        farm.send_result_chunk(engine);
        farm.ack(client, n, n);
    }
}

#[test]
fn a_request_that_does_not_fit_fails_its_task_and_is_read_past() {
    let mut farm = small_farm();
    fill_the_budget(&mut farm);
    let client = farm.client();
    let n = submit_chunked(&mut farm, client, 2_000, shared());
    assert_eq!(farm.end_of(client, n), BUSY);
    assert!(
        farm.send_chunk(client),
        "its bytes are on the way, and no reason to close the connection"
    );
    (0..2).for_each(|filling| farm.cancel(filling, 1, 1));
    (0..2).for_each(|filling| while farm.send_chunk(filling) {});
    assert_eq!(held(&farm), 0);
}

#[test]
fn the_credit_of_a_refused_request_comes_back() {
    let mut farm = small_farm();
    let client = farm.client();
    for _ in 0..20 {
        assert!(farm.clients[client].sending.may_announce(100_000));
        submit_chunked(
            &mut farm,
            client,
            100_000,
            with(shared(), TaskOptions { durable: true, ..TaskOptions::default() }),
        );
        farm.send_chunk(client);
    }
}

#[test]
fn requests_leave_room_for_results() {
    let mut farm = small_farm();
    let (client, engine) = (farm.client(), farm.engine());
    farm.submit(client, shared());
    fill_the_budget(&mut farm);
    assert_eq!(finish_chunked(&mut farm, engine, 200_000), 1);
    assert!(farm.send_result_chunk(engine));
    assert_eq!(farm.end_of(client, 1), SUCCEEDED);
}

#[test]
fn a_result_that_comes_unasked_and_does_not_fit_fails_its_task() {
    let mut farm = small_farm();
    let (client, engine) = (farm.client(), farm.engine());
    farm.submit(client, shared());
    fill_the_budget(&mut farm);
    assert_eq!(finish_chunked(&mut farm, engine, 300_000), 1);
    assert_eq!(farm.end_of(client, 1), BUSY);
    assert!(farm.send_result_chunk(engine));
    invariants::hold(&farm.core);
}

#[test]
fn a_large_result_of_a_cancelled_task_is_read_past() {
    let mut farm = small_farm();
    let (client, engine) = (farm.client(), farm.engine());
    farm.submit(client, shared());
    farm.cancel(client, 1, 1);
    finish_chunked(&mut farm, engine, 200_000);
    assert_eq!(held(&farm), 0);
    assert!(farm.send_result_chunk(engine));
    let n = farm.submit(client, shared());
    let session = farm.clients[client].session;
    let left = farm.processes[engine].lane_left(session);
    farm.cancel(client, n, n);
    let payload = farm.processes[engine].large_result(2_000);
    farm.finish_with(engine, Outcome::SUCCEEDED, 1, Some(payload));
    assert_eq!(
        farm.processes[engine].lane_left(session),
        left,
        "it may send as much unasked again"
    );
}

#[test]
fn a_task_waits_for_its_definition_which_an_engine_gets_once() {
    let mut farm = small_farm();
    let (client, engine) = (farm.client(), farm.engine());
    let payload = farm.clients[client].sending.chunked(300_000 / 2);
    farm.say(client, FromClient::Define(Define { number: 5, payload })).unwrap();
    (0..2).for_each(|_| _ = farm.submit(client, Submit { define: Some(5), ..shared() }));
    assert!(farm.assigned(engine).is_empty());
    farm.send_chunk(client);
    farm.finish(engine);
    farm.finish(engine);
    let received = &farm.processes[engine].received;
    assert_eq!(received.iter().filter(|message| matches!(message, ToEngine::Define(_))).count(), 1);
    farm.goodbye(client);
    assert_eq!(held(&farm), 0);
}

#[test]
fn a_definition_that_was_never_sent_fails_its_tasks() {
    let mut farm = small_farm();
    let client = farm.client();
    let n = farm.submit(client, Submit { define: Some(5), ..shared() });
    assert_eq!(farm.end_of(client, n), Some((TaskState::Failed, Some(ErrorKind::Payload))));
}

#[test]
fn a_payload_whose_task_names_no_definition_is_freed() {
    let mut farm = small_farm();
    let client = farm.client();
    submit_chunked(&mut farm, client, 2_000, Submit { define: Some(5), ..shared() });
    farm.send_chunk(client);
    assert_eq!(held(&farm), 0);
}

#[test]
fn a_definition_that_was_cut_off_is_sent_again() {
    let mut farm = small_farm();
    let (client, engine) = (farm.client(), farm.engine());
    let payload = farm.clients[client].sending.chunked(2_000);
    farm.say(client, FromClient::Define(Define { number: 5, payload })).unwrap();
    farm.submit(client, Submit { define: Some(5), ..shared() });
    farm.disconnect_client(client);
    farm.connect_client(client).unwrap();
    let accepted = farm.accepted(client);
    assert_eq!((accepted.n, accepted.missing, accepted.definitions), (TaskSeq(1), vec![], vec![]));
    farm.submit(client, Submit { define: Some(5), ..shared() });
    farm.send_chunk(client);
    assert_eq!([farm.finish(engine), farm.finish(engine)], [1, 2]);
    farm.disconnect_client(client);
    farm.connect_client(client).unwrap();
    assert_eq!(farm.accepted(client).definitions, [5]);
}

#[test]
fn a_request_that_was_cut_off_is_sent_again() {
    let mut farm = small_farm();
    let (client, engine) = (farm.client(), farm.engine());
    submit_chunked(&mut farm, client, 2_000, shared());
    for _ in 0..3 {
        farm.disconnect_client(client);
        assert_eq!(held(&farm), 0);
        farm.connect_client(client).unwrap();
        assert_eq!(
            (farm.accepted(client).n, farm.accepted(client).missing),
            (TaskSeq(1), vec![(TaskSeq(1), TaskSeq(1))])
        );
    }
    farm.send_chunk(client);
    assert_eq!(farm.finish(engine), 1);
    assert_eq!((farm.end_of(client, 1), farm.deliveries(client, 1)), (SUCCEEDED, 1));
}

#[test]
fn a_task_that_was_cut_off_and_then_cancelled_takes_no_arguments_any_longer() {
    let mut farm = small_farm();
    let (client, other, engine) = (farm.client(), farm.client(), farm.engine());
    submit_chunked(&mut farm, client, 2_000, shared());
    farm.disconnect_client(client);
    let tasks = vec![TaskRange::from(farm.task(client, 1))];
    farm.ask(other, |request| {
        FromClient::CancelTasks(CancelTasks { request, tasks, force: false })
    });
    farm.connect_client(client).unwrap();
    assert_eq!(farm.accepted(client).missing, []);
    let payload = farm.clients[client].sending.chunked(2_000);
    let options = Some(Box::new(TaskOptions { repeated: true, ..TaskOptions::default() }));
    farm.say(client, FromClient::Submit(Submit { n: TaskSeq(1), payload, options, ..shared() }))
        .unwrap();
    farm.send_chunk(client);
    assert_eq!((held(&farm), farm.assigned(engine), farm.deliveries(client, 1)), (0, vec![], 1));
}

#[test]
fn a_result_that_was_cut_off_is_made_again() {
    let mut farm = small_farm();
    let (client, dying, other) = (farm.client(), farm.engine(), farm.engine());
    farm.submit(client, shared());
    finish_chunked(&mut farm, dying, 2_000);
    farm.disconnect_engine(dying);
    assert_eq!((held(&farm), farm.assigned(other)), (0, vec![1]));
}

/// The oldest job publishes a large value, whose chunks are still to come.
fn publish_chunked(farm: &mut Farm, engine: usize, bytes: u64) {
    let attempt = farm.processes[engine].jobs[0].attempt;
    let payload = farm.processes[engine].sending.chunked(bytes);
    farm.report(engine, FromEngine::Published(AttemptPublished { attempt, payload })).unwrap();
}

#[test]
fn an_end_is_told_after_what_was_published_before_it() {
    let mut farm = Farm::default();
    let (client, engine) = (farm.client(), farm.engine());
    for result in [None, Some(2_000)] {
        let n = farm.submit(client, shared());
        publish_chunked(&mut farm, engine, 300_000);
        let payload = result.map(|bytes| farm.processes[engine].sending.chunked(bytes));
        farm.finish_with(engine, Outcome::SUCCEEDED, 1_000, payload);
        assert!(farm.send_result_chunk(engine));
        assert_eq!(farm.end_of(client, n), None, "one of two chunks of what was published is here");
        while farm.send_result_chunk(engine) {}
        assert_eq!(farm.end_of(client, n), SUCCEEDED);
        let of_task = farm.clients[client].received.iter().filter_map(|message| match message {
            ToClient::Published(published) if published.n == TaskSeq(n) => Some("published"),
            ToClient::Finished(finished) if finished.n == TaskSeq(n) => Some("finished"),
            _ => None,
        });
        assert_eq!(of_task.collect::<Vec<_>>(), ["published", "finished"]);
        farm.ack(client, n, n);
        assert_eq!(held(&farm), 0);
    }
}

#[test]
fn an_end_that_waits_for_what_was_published_goes_with_its_connection() {
    let mut farm = small_farm();
    let (client, dying, other) = (farm.client(), farm.engine(), farm.engine());
    farm.submit(client, shared());
    publish_chunked(&mut farm, dying, 100_000);
    // The result's chunk comes first.
    let published = farm.processes[dying].sending.chunks.pop_first().unwrap().1;
    finish_chunked(&mut farm, dying, 2_000);
    farm.send_result_chunk(dying);
    invariants::hold(&farm.core);
    assert_eq!((held(&farm), published.len()), (102_000, 1));
    farm.disconnect_engine(dying);
    assert_eq!((held(&farm), farm.assigned(other)), (0, vec![1]));
}

#[test]
fn a_lane_gets_back_what_an_attempt_published_that_is_forgotten_meanwhile() {
    let mut farm = small_farm();
    let (client, engine) = (farm.client(), farm.engine());
    let n = farm.submit(client, shared());
    publish_chunked(&mut farm, engine, 2_000);
    let result = farm.processes[engine].large_result(900 << 10);
    farm.finish_with(engine, Outcome::SUCCEEDED, 1_000, Some(result));
    assert_eq!(farm.end_of(client, n), BUSY, "the memory is too small for its result");
    while farm.send_result_chunk(engine) {}
    invariants::nothing_is_owed(&farm.core);
}

#[test]
fn what_goes_on_after_a_cut_has_a_lane_at_once() {
    for restarted in [false, true] {
        let mut farm = small_farm();
        let (client, engine) = (farm.client(), farm.engine());
        let n = farm.submit(client, shared());
        farm.start(engine);
        farm.disconnect_engine(engine);
        if restarted {
            farm.restart();
            farm.connect_client(client).unwrap();
            farm.repeat(client, n, shared());
        }
        farm.connect_engine(engine);
        let session = farm.clients[client].session;
        assert!(farm.processes[engine].lane_left(session) > 0, "restarted: {restarted}");
        // Matched again, it has one again.
        farm.disconnect_engine(engine);
        farm.connect_engine(engine);
        assert!(farm.processes[engine].lane_left(session) > 0, "restarted: {restarted}");
        publish_chunked(&mut farm, engine, 2_000);
        while farm.send_result_chunk(engine) {}
        farm.finish(engine);
        assert_eq!(farm.end_of(client, n), SUCCEEDED);
        invariants::nothing_is_owed(&farm.core);
    }
}

#[test]
fn a_transfer_number_that_is_in_use_costs_no_memory() {
    let mut farm = small_farm();
    let client = farm.client();
    let payload = farm.clients[client].sending.chunked(2_000);
    farm.submit(client, Submit { payload: payload.clone(), ..shared() });
    let again = FromClient::Submit(Submit { n: TaskSeq(2), payload, ..shared() });
    assert_eq!(farm.say(client, again), Err(PeerMisbehaved::Transfer));
    assert_eq!(held(&farm), 0);
    assert!(!farm.connect_client(client).unwrap(), "its session has ended");
    invariants::hold(&farm.core);
}

#[test]
fn who_exceeded_its_credit_does_no_harm_when_its_tasks_end() {
    let mut farm = small_farm();
    let (client, engine) = (farm.client(), farm.engine());
    submit_chunked(&mut farm, client, 2_000, shared());
    farm.send_chunk(client);
    let payload = Payload::Chunked { transfer: 9, counter: 0, bytes: 1 << 30, instance: None };
    let submit = FromClient::Submit(Submit { n: TaskSeq(2), payload, ..shared() });
    assert_eq!(farm.say(client, submit), Err(PeerMisbehaved::Credit));
    farm.finish(engine);
    assert_eq!(held(&farm), 0);
}

#[test]
fn a_large_result_is_announced_anew_on_each_connection() {
    let mut farm = small_farm();
    let (client, engine) = (farm.client(), farm.engine());
    farm.submit(client, shared());
    finish_chunked(&mut farm, engine, 2_000);
    farm.send_result_chunk(engine);
    farm.disconnect_client(client);
    farm.connect_client(client).unwrap();
    let transfers = farm.clients[client].received.iter().filter_map(|message| match message {
        ToClient::Finished(finished) => finished.payload.clone(),
        _ => None,
    });
    let announced =
        |payload: &Payload| matches!(payload, Payload::Chunked { transfer: 1, bytes: 2_000, .. });
    assert!(
        transfers.clone().count() == 2 && transfers.into_iter().all(|payload| announced(&payload))
    );
}
