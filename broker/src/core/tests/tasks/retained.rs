//! Results and records that are kept, and who may have them.

use std::time::Duration;

use furlong_wire::ids::TaskSeq;
use furlong_wire::message::{
    AttemptOutput, ErrorKind, FromClient, FromEngine, Outcome, Purge, Query, RefusalKind,
    ReplyBody, Request, Stream, Submit, TaskOptions, TaskPhase, TaskRange, TaskState, ToClient,
};
use furlong_wire::token::Role;

use crate::core::invariants;
use crate::core::tests::farm::peers::{Farm, shared, with};

const SUCCEEDED: Option<(TaskState, Option<ErrorKind>)> = Some((TaskState::Succeeded, None));

fn keep() -> TaskOptions {
    TaskOptions { keep: true, ..TaskOptions::default() }
}

fn outsider(farm: &mut Farm) -> usize {
    let outsider = farm.absent_client(Role::Client);
    farm.clients[outsider].owner = 8;
    farm.connect_client(outsider).unwrap();
    outsider
}

/// Ends a client's new kept task with a large result, and acknowledges it.
fn keep_large(farm: &mut Farm, client: usize, engine: usize, bytes: u64) -> u64 {
    let n = farm.submit(client, with(shared(), keep()));
    let payload = farm.processes[engine].large_result(bytes);
    farm.finish_with(engine, Outcome::SUCCEEDED, 1_000_000, Some(payload));
    while farm.send_result_chunk(engine) {}
    farm.ack(client, n, n);
    n
}

fn writes(farm: &mut Farm, engine: usize, offset: u64, text: &str) {
    let attempt = farm.processes[engine].jobs[0].attempt;
    let output = AttemptOutput { attempt, stream: Stream::Stdout, offset, bytes: text.into() };
    farm.report(engine, FromEngine::Output(output)).unwrap();
}

fn text_of(farm: &Farm, client: usize, request: u64) -> String {
    let pieces = farm.clients[client].received.iter().filter_map(|message| match message {
        ToClient::FetchedOutput(piece) if piece.request == request => Some(piece.bytes.clone()),
        _ => None,
    });
    String::from_utf8(pieces.flatten().collect()).unwrap()
}

fn is_refused(farm: &Farm, client: usize, request: u64) -> bool {
    matches!(farm.reply(client, request), Some(ReplyBody::Refused(_)))
        && farm.fetched(client, request).is_none()
}

#[test]
fn a_kept_result_can_be_fetched_by_its_owner_after_its_session_has_left() {
    let mut farm = Farm::default();
    let (client, other, engine) = (farm.client(), farm.client(), farm.engine());
    let n = farm.submit(client, with(shared(), keep()));
    farm.finish(engine);
    farm.ack(client, n, n);
    farm.goodbye(client);
    let request = farm.fetch(other, client, n, false, false);
    let fetched = farm.fetched(other, request).unwrap();
    assert!(fetched.payload.is_some() && fetched.secret.is_some() && fetched.record.kept);
    assert_eq!(
        (fetched.record.phase, fetched.record.times.delivered_us.is_some()),
        (TaskPhase::Ended, true)
    );
}

#[test]
fn nobody_else_learns_anything_of_a_task() {
    let mut farm = Farm::default();
    let (client, engine) = (farm.client(), farm.engine());
    let outsider = outsider(&mut farm);
    farm.submit(client, with(shared(), keep()));
    farm.finish(engine);
    farm.ack(client, 1, 1);
    farm.submit(client, shared());
    let request = farm.fetch(outsider, client, 99, true, true);
    let Some(ReplyBody::Refused(never)) = farm.reply(outsider, request) else {
        panic!("it is not refused")
    };
    for n in 1..=2 {
        let request = farm.fetch(outsider, client, n, true, true);
        let Some(ReplyBody::Refused(text)) = farm.reply(outsider, request) else {
            panic!("it is not refused")
        };
        let task = |n| farm.task(client, n).to_string();
        assert_eq!(
            text.replace(&task(n), ""),
            never.replace(&task(99), ""),
            "as if it had never been"
        );
    }
    let query =
        |request| FromClient::Query(Request { request, query: Query::Tasks(Box::default()) });
    let request = farm.ask(outsider, query);
    assert_eq!(farm.reply(outsider, request), Some(ReplyBody::Tasks(Vec::new(), None)));
    let session = farm.clients[client].session;
    let tasks = vec![TaskRange { session, first: TaskSeq::MIN, last: TaskSeq::MAX }];
    farm.ask(outsider, |request| FromClient::Purge(Purge { request, tasks }));
    assert_eq!(farm.core.kept.len(), 1);
}

#[test]
fn what_was_not_to_be_kept_cannot_be_fetched_once_it_was_acknowledged() {
    let mut farm = Farm::default();
    let (client, engine) = (farm.client(), farm.engine());
    farm.submit(client, shared());
    farm.finish(engine);
    let request = farm.fetch(client, client, 1, false, false);
    assert!(farm.fetched(client, request).is_some());
    farm.ack(client, 1, 1);
    let request = farm.fetch(client, client, 1, false, false);
    assert!(is_refused(&farm, client, request));
}

#[test]
fn a_fetch_that_waits_is_answered_once_when_the_task_ends_and_after_its_output() {
    let mut farm = Farm::default();
    let (client, other, engine) = (farm.client(), farm.client(), farm.engine());
    farm.submit(client, with(shared(), keep()));
    writes(&mut farm, engine, 0, "be");
    let request = farm.fetch(other, client, 1, true, true);
    writes(&mut farm, engine, 2, "fore");
    assert_eq!(farm.fetched(other, request), None);
    farm.finish(engine);
    assert_eq!(text_of(&farm, other, request), "before");
    let answers =
        |message: &&ToClient| matches!(message, ToClient::Fetched(_) | ToClient::Reply(_));
    assert_eq!(farm.clients[other].received.iter().filter(answers).count(), 1);
    let last = farm.clients[other].received.last();
    assert!(matches!(last, Some(ToClient::Fetched(it)) if it.payload.is_some()));
    let request = farm.fetch(other, client, 1, false, true);
    assert_eq!(text_of(&farm, other, request), "before", "the output is kept with the result");
}

#[test]
fn fetches_that_wait_are_bounded_and_die_with_their_connection() {
    let mut farm = Farm::default();
    let (client, other, engine) = (farm.client(), farm.client(), farm.engine());
    farm.submit(client, shared());
    let requests: Vec<u64> =
        (0..1_025).map(|_| farm.fetch(other, client, 1, true, false)).collect();
    assert!(
        is_refused(&farm, other, requests[1_024]) && farm.reply(other, requests[1_023]).is_none()
    );
    farm.disconnect_client(other);
    farm.connect_client(other).unwrap();
    let request = farm.fetch(other, client, 1, true, false);
    farm.finish(engine);
    assert!(farm.fetched(other, request).is_some() && farm.fetched(other, requests[0]).is_none());
}

#[test]
fn those_who_wait_for_one_task_are_bounded_whoever_they_are() {
    for is_being_written in [false, true] {
        let mut farm = Farm::with_journal(8 << 20, 10_000);
        let (client, crowd, other) = (farm.client(), farm.client(), farm.client());
        let engine = farm.engine();
        let durable = TaskOptions { durable: true, ..TaskOptions::default() };
        let [n, next] = [(); 2].map(|()| farm.submit(client, with(shared(), durable.clone())));
        farm.disk.is_slow = is_being_written;
        if is_being_written {
            farm.finish(engine);
        }
        let requests: Vec<u64> =
            (0..1_024).map(|_| farm.fetch(crowd, client, n, true, false)).collect();
        let beyond = farm.fetch(other, client, n, true, false);
        assert!(is_refused(&farm, other, beyond), "being written: {is_being_written}");
        let of_another = farm.fetch(other, client, next, true, false);
        if !is_being_written {
            farm.finish(engine);
        }
        farm.sync();
        assert!(requests.iter().all(|request| farm.fetched(crowd, *request).is_some()));
        farm.finish(engine);
        farm.sync();
        assert!(farm.fetched(other, of_another).is_some());
        invariants::hold(&farm.core);
    }
}

#[test]
fn those_who_are_sent_the_output_of_one_task_are_bounded() {
    let mut farm = Farm::default();
    let (client, crowd, other, engine) =
        (farm.client(), farm.client(), farm.client(), farm.engine());
    let n = farm.submit(client, shared());
    let requests: Vec<u64> = (0..64).map(|_| farm.fetch(crowd, client, n, true, true)).collect();
    let beyond = farm.fetch(other, client, n, true, true);
    assert!(is_refused(&farm, other, beyond));
    let without = farm.fetch(other, client, n, true, false);
    writes(&mut farm, engine, 0, "text");
    farm.finish(engine);
    assert!(requests.iter().all(|request| text_of(&farm, crowd, *request) == "text"));
    assert!(farm.fetched(other, without).is_some() && text_of(&farm, other, without).is_empty());
}

#[test]
fn a_kept_result_goes_after_an_hour() {
    let mut farm = Farm::default();
    let (client, engine) = (farm.client(), farm.engine());
    keep_large(&mut farm, client, engine, 2_000);
    farm.wait(Duration::from_millis(3_599_999));
    assert_eq!(farm.core.kept.len(), 1);
    farm.wait(Duration::from_millis(1));
    assert_eq!((farm.core.kept.len(), farm.core.memory.budget.state().0), (0, 0));
}

#[test]
fn a_kept_result_gives_way_to_a_payload_that_needs_the_memory() {
    let mut farm = Farm::with_limits(1_000_000, 100);
    let (client, other, engine) = (farm.client(), farm.client(), farm.engine());
    (0..2).for_each(|_| _ = keep_large(&mut farm, client, engine, 240_000));
    for client in [client, other] {
        let payload = farm.clients[client].sending.chunked(240_000);
        let n = farm.submit(client, Submit { payload, ..shared() });
        assert_eq!(farm.end_of(client, n), None);
    }
    let records: Vec<_> = (1..=2)
        .map(|n| {
            let request = farm.fetch(other, client, n, false, false);
            let fetched = farm.fetched(other, request).unwrap();
            assert_eq!(fetched.payload.is_none(), fetched.record.waits.is_some());
            (fetched.payload.is_some(), fetched.record.kept)
        })
        .collect();
    assert_eq!(records, [(false, false), (true, true)], "the oldest one, and its record says so");
    invariants::hold(&farm.core);
}

#[test]
fn nothing_gives_way_to_a_payload_that_would_not_fit_even_so() {
    let mut farm = Farm::with_limits(1_000_000, 100);
    let (client, engine) = (farm.client(), farm.engine());
    keep_large(&mut farm, client, engine, 200_000);
    for _ in 0..2 {
        let holder = farm.client();
        let payload = farm.clients[holder].sending.chunked(200_000);
        farm.submit(holder, Submit { payload, ..shared() });
    }
    let last = farm.client();
    let payload = farm.clients[last].sending.chunked(250_000);
    let n = farm.submit(last, Submit { payload, ..shared() });
    assert_eq!(farm.end_of(last, n), Some((TaskState::Failed, Some(ErrorKind::Busy))));
    let request = farm.fetch(client, client, 1, false, false);
    assert!(farm.fetched(client, request).unwrap().payload.is_some());
}

#[test]
fn what_is_kept_does_not_count_against_its_sessions_room() {
    let mut farm = Farm::with_limits(1 << 20, 100);
    let (client, engine) = (farm.client(), farm.engine());
    keep_large(&mut farm, client, engine, 2_000);
    let left = farm.processes[engine].lane_left(farm.clients[client].session);
    for _ in 0..3 {
        keep_large(&mut farm, client, engine, 2_000);
        assert_eq!(farm.processes[engine].lane_left(farm.clients[client].session), left);
        keep_large(&mut farm, client, engine, 400_000);
    }
    invariants::hold(&farm.core);
}

#[test]
fn purged_results_are_gone_and_unfinished_tasks_are_passed_over() {
    let mut farm = Farm::default();
    let (client, other, engine) = (farm.client(), farm.client(), farm.engine());
    keep_large(&mut farm, client, engine, 2_000);
    let unfinished = farm.submit(client, with(shared(), keep()));
    let session = farm.clients[client].session;
    let tasks = vec![TaskRange { session, first: TaskSeq::MIN, last: TaskSeq::MAX }];
    let request = farm.ask(other, |request| FromClient::Purge(Purge { request, tasks }));
    assert_eq!(farm.reply(other, request), Some(ReplyBody::Done));
    let request = farm.fetch(client, client, 1, false, false);
    assert!(is_refused(&farm, client, request));
    farm.finish(engine);
    assert_eq!(farm.end_of(client, unfinished), SUCCEEDED);
    invariants::hold(&farm.core);
}

#[test]
fn a_task_to_be_kept_goes_on_when_its_session_ends() {
    let mut farm = Farm::default();
    let (client, other, engine) = (farm.client(), farm.client(), farm.engine());
    farm.submit(client, with(shared(), keep()));
    farm.submit(client, shared());
    farm.goodbye(client);
    farm.finish(engine);
    let request = farm.fetch(other, client, 1, false, false);
    assert!(farm.fetched(other, request).is_some_and(|fetched| fetched.payload.is_some()));
    assert!(farm.assigned(engine).is_empty(), "what was not to be kept is cancelled");
    invariants::hold(&farm.core);
}

#[test]
fn a_session_whose_results_are_kept_is_not_begun_anew() {
    let mut farm = Farm::default();
    let (client, other, engine) = (farm.client(), farm.client(), farm.engine());
    keep_large(&mut farm, client, engine, 2_000);
    farm.goodbye(client);
    assert_eq!(farm.connect_client(client).unwrap_err().kind, RefusalKind::Superseded);
    let request = farm.fetch(other, client, 1, false, false);
    assert!(farm.fetched(other, request).is_some());
    farm.wait(Duration::from_secs(3_600));
    assert!(!farm.connect_client(client).unwrap());
}

#[test]
fn what_is_kept_does_not_run_again_when_its_end_is_forgotten() {
    let mut farm = Farm::default();
    let (client, engine) = (farm.client_that_had_submitted(5), farm.engine());
    farm.repeat(client, 1, with(shared(), keep()));
    farm.finish(engine);
    farm.ack(client, 1, 1);
    assert_eq!(farm.core.kept.len(), 1);
    // As if so many of the session's tasks had ended since.
    let session = farm.core.sessions.iter().next().unwrap().0;
    farm.core.forget_refusal(session, TaskSeq(1));
    farm.repeat(client, 1, with(shared(), keep()));
    assert!(farm.assigned(engine).is_empty());
    invariants::hold(&farm.core);
}
