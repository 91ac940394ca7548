//! Sessions that do not read: what waits for them, and what others feel of it.

use std::time::Duration;

use furlong_wire::ids::{EngineId, OwnerId, TaskSeq};
use furlong_wire::message::{
    ErrorKind, FromClient, Outcome, Payload, Submit, TaskOptions, TaskState, ToEngine,
};
use furlong_wire::token::Role;

use crate::core::requests::records::Fitting;
use crate::core::tasks::table::State;
use crate::core::tests::farm::peers::{Farm, at_most_once, direct, shared, with};
use crate::core::{PeerMisbehaved, invariants};

const SUCCEEDED: Option<(TaskState, Option<ErrorKind>)> = Some((TaskState::Succeeded, None));
const KIB: u64 = 1024;

/// A budget of 1 MiB: three quarters of it for what is asked for.
fn small_farm() -> Farm {
    Farm::with_limits(1 << 20, 1_000)
}

/// The oldest job ends with a result of so many bytes, which goes as far as the broker lets it.
fn finish_large(farm: &mut Farm, engine: usize, bytes: u64) -> u64 {
    let payload = farm.processes[engine].large_result(bytes);
    let n = farm.finish_with(engine, Outcome::SUCCEEDED, 1_000_000, Some(payload));
    while farm.send_result_chunk(engine) {}
    invariants::hold(&farm.core);
    n
}

/// Runs large tasks until the engine gets no more of them. How many it has run.
fn run_all(farm: &mut Farm, engine: usize, bytes: u64) -> u64 {
    let mut run = 0;
    while !farm.assigned(engine).is_empty() {
        finish_large(farm, engine, bytes);
        run += 1;
    }
    run
}

fn unread(farm: &Farm, client: usize) -> u64 {
    let key = farm.core.sessions.find(OwnerId([7; 16]), farm.clients[client].session).unwrap();
    farm.core.sessions.get(key).unwrap().unread_bytes
}

fn take_messages(farm: &Farm, engine: usize) -> usize {
    farm.processes[engine]
        .received
        .iter()
        .filter(|message| matches!(message, ToEngine::Take(_)))
        .count()
}

#[test]
fn a_session_that_does_not_read_holds_itself_up_and_nobody_else() {
    let mut farm = small_farm();
    let (culprit, other, engine) = (farm.client(), farm.client(), farm.engine());
    (0..40).for_each(|_| _ = farm.submit(culprit, shared()));
    let run = run_all(&mut farm, engine, 50 * KIB);
    assert!(run < 12, "its tasks go on without end: {run}");
    assert!(
        unread(&farm, culprit) <= farm.core.memory.budget.room(0) + 8 * KIB,
        "it leaves as much as it has"
    );
    assert_eq!(
        farm.core.memory.backlog.len(),
        1,
        "and its engine holds one result for each of its slots"
    );
    for _ in 0..20 {
        let n = farm.submit(other, shared());
        assert_eq!(farm.assigned(engine), [n], "the slot goes on");
        finish_large(&mut farm, engine, 50 * KIB);
        assert_eq!(farm.end_of(other, n), SUCCEEDED);
        farm.ack(other, n, n);
    }
    // It reads on, and so its tasks go on.
    for _ in 0..80 {
        let read: Vec<u64> = farm.clients[culprit].finished.keys().copied().collect();
        for n in read {
            farm.ack(culprit, n, n);
        }
        run_all(&mut farm, engine, 50 * KIB);
    }
    assert_eq!(farm.clients[culprit].finished.len(), 40);
    for client in [culprit, other] {
        farm.goodbye(client);
    }
    invariants::is_quiet(&farm.core);
}

#[test]
fn however_many_do_not_read_there_is_room_for_another() {
    let mut farm = small_farm();
    let engine = farm.engine();
    for _ in 0..12 {
        let culprit = farm.client();
        (0..40).for_each(|_| _ = farm.submit(culprit, shared()));
        run_all(&mut farm, engine, 5 * KIB);
        assert!(unread(&farm, culprit) > 0);
    }
    let other = farm.client();
    let n = farm.submit(other, shared());
    finish_large(&mut farm, engine, 5 * KIB);
    assert_eq!(farm.end_of(other, n), SUCCEEDED);
}

#[test]
fn one_result_takes_what_nobody_else_needs_and_small_ones_pass_it() {
    let mut farm = small_farm();
    let (client, other, engine) =
        (farm.client(), farm.client(), farm.engine_with(2, &[shared().runtime]));
    let large = farm.submit(client, shared());
    finish_large(&mut farm, engine, 768 * KIB);
    assert_eq!(farm.end_of(client, large), SUCCEEDED);
    let (waits, passes) = (farm.submit(other, shared()), farm.submit(other, shared()));
    finish_large(&mut farm, engine, 100 * KIB);
    finish_large(&mut farm, engine, 4 * KIB);
    assert_eq!(
        (farm.end_of(other, waits), farm.end_of(other, passes)),
        (None, SUCCEEDED),
        "within its lane"
    );
    farm.ack(client, large, large);
    while farm.send_result_chunk(engine) {}
    assert_eq!(farm.end_of(other, waits), SUCCEEDED);
}

#[test]
fn of_what_waits_the_smallest_is_taken_first() {
    let mut farm = small_farm();
    let (client, engine) = (farm.client(), farm.engine_with(4, &[shared().runtime]));
    (0..4).for_each(|_| _ = farm.submit(client, shared()));
    let sizes = [600, 500, 20, 300];
    for kib in sizes {
        finish_large(&mut farm, engine, kib * KIB);
    }
    let ended = |farm: &Farm| farm.clients[client].finished.keys().copied().collect::<Vec<_>>();
    assert_eq!(ended(&farm), [1], "nothing else was here");
    farm.ack(client, 1, 1);
    while farm.send_result_chunk(engine) {}
    assert_eq!(ended(&farm), [1, 3, 4], "as they fit beside each other");
}

#[test]
fn a_result_that_cannot_fit_beside_its_own_request_fails_its_task() {
    let mut farm = small_farm();
    let (client, engine) = (farm.client(), farm.engine());
    let payload = farm.clients[client].sending.chunked(700 * KIB);
    let n = farm.submit(client, Submit { payload, ..shared() });
    while farm.send_chunk(client) {}
    finish_large(&mut farm, engine, 100 * KIB);
    assert_eq!(farm.end_of(client, n), Some((TaskState::Failed, Some(ErrorKind::Busy))));
    farm.ack(client, n, n);
    farm.goodbye(client);
    invariants::is_quiet(&farm.core);
}

#[test]
fn a_result_for_which_nothing_makes_room_fails_its_task() {
    let mut farm = small_farm();
    let (client, holder, engine) = (farm.client(), farm.client(), farm.engine());
    let n = farm.submit(client, shared());
    // The task of this one has no engine.
    let payload = farm.clients[holder].sending.chunked(256 * KIB);
    let nobody = TaskOptions { require: vec!["attic".into()], ..TaskOptions::default() };
    farm.submit(holder, Submit { payload, ..with(shared(), nobody) });
    finish_large(&mut farm, engine, 600 * KIB);
    assert_eq!(farm.end_of(client, n), Some((TaskState::Failed, Some(ErrorKind::Busy))));
}

/// A session that holds all it may, and one result of it at an engine.
fn backlogged(farm: &mut Farm, submit: impl Fn(EngineId) -> Submit) -> (usize, usize, u64) {
    let (culprit, engine) = (farm.client(), farm.engine());
    let id = farm.id(engine);
    (0..9).for_each(|_| _ = farm.submit(culprit, submit(id)));
    let waits = run_all(farm, engine, 120 * KIB);
    assert_eq!((farm.end_of(culprit, waits), farm.core.memory.backlog.len()), (None, 1));
    (culprit, engine, waits)
}

#[test]
fn a_direct_task_of_another_session_passes_those_of_one_that_does_not_read() {
    let mut farm = small_farm();
    let (culprit, engine, waits) = backlogged(&mut farm, |id| direct(&[id]));
    let other = farm.client();
    let n = farm.submit(other, direct(&[farm.id(engine)]));
    assert_eq!(farm.assigned(engine), [n]);
    finish_large(&mut farm, engine, 50 * KIB);
    assert_eq!(farm.end_of(other, n), SUCCEEDED);
    farm.ack(culprit, 1, waits);
    assert_eq!(farm.assigned(engine), [waits + 1], "it goes on in its order");
    invariants::hold(&farm.core);
}

#[test]
fn a_result_that_waits_is_taken_on_the_engines_next_connection() {
    for submit in [|_| with(shared(), at_most_once()), |id| direct(&[id])] {
        let mut farm = small_farm();
        let (culprit, engine, waits) = backlogged(&mut farm, submit);
        farm.disconnect_engine(engine);
        invariants::hold(&farm.core);
        assert_eq!(farm.core.memory.backlog.len(), 0);
        farm.ack(culprit, 1, waits - 1);
        farm.connect_engine(engine);
        while farm.send_result_chunk(engine) {}
        assert_eq!(farm.end_of(culprit, waits), SUCCEEDED);
        invariants::hold(&farm.core);
    }
}

#[test]
fn shared_work_whose_result_waits_goes_elsewhere_when_its_engine_is_lost() {
    let mut farm = small_farm();
    let (culprit, lost, waits) = backlogged(&mut farm, |_| shared());
    let other = farm.engine();
    assert!(farm.assigned(other).is_empty(), "nothing is given out");
    farm.disconnect_engine(lost);
    assert_eq!(farm.assigned(other), [waits], "no result waits any longer");
    finish_large(&mut farm, other, 120 * KIB);
    farm.ack(culprit, 1, waits - 1);
    while farm.send_result_chunk(other) {}
    assert_eq!(farm.end_of(culprit, waits), SUCCEEDED);
}

#[test]
fn work_whose_result_waits_has_run_when_its_engine_is_lost() {
    let mut farm = small_farm();
    let once = TaskOptions { retries: Some(0), ..TaskOptions::default() };
    let (culprit, lost, waits) = backlogged(&mut farm, |_| with(shared(), once.clone()));
    let other = farm.engine();
    farm.disconnect_engine(lost);
    assert_eq!(farm.end_of(culprit, waits), Some((TaskState::Lost, Some(ErrorKind::EngineLost))));
    assert_eq!(farm.assigned(other), [waits + 1], "what had not begun goes on");
}

#[test]
fn a_task_whose_result_waits_is_cancelled_as_any_other() {
    let mut farm = small_farm();
    let (culprit, engine, waits) = backlogged(&mut farm, |_| shared());
    farm.cancel(culprit, waits, waits);
    assert_eq!(
        farm.end_of(culprit, waits),
        Some((TaskState::Cancelled, Some(ErrorKind::Cancelled)))
    );
    assert!(farm.stopped(culprit).contains(&waits), "nothing of it runs");
    assert_eq!((farm.core.memory.backlog.len(), farm.assigned(engine)), (0, vec![waits + 1]));
    invariants::hold(&farm.core);
    farm.ack(culprit, 1, waits);
    farm.core.handle_tick();
    farm.pump();
    assert!(farm.processes[engine].results.is_empty(), "its engine holds nothing in vain");
}

#[test]
fn a_run_timeout_ends_with_the_run_and_not_with_the_reading() {
    let mut farm = small_farm();
    let limited = TaskOptions { run_timeout_ms: Some(5_000), ..TaskOptions::default() };
    let (culprit, engine) = (farm.client(), farm.engine());
    (0..9).for_each(|_| _ = farm.submit(culprit, with(shared(), limited.clone())));
    let mut waits = 0;
    while !farm.assigned(engine).is_empty() {
        farm.start(engine);
        waits = finish_large(&mut farm, engine, 120 * KIB);
    }
    farm.wait(Duration::from_secs(60));
    assert_eq!(farm.end_of(culprit, waits), None);
    farm.disconnect_engine(engine);
    invariants::hold(&farm.core);
    farm.wait(Duration::from_secs(8));
    farm.connect_engine(engine);
    assert_eq!(farm.end_of(culprit, waits), None, "nor while the engine is away");
    farm.ack(culprit, 1, waits - 1);
    while farm.send_result_chunk(engine) {}
    assert_eq!(farm.end_of(culprit, waits), SUCCEEDED);
}

#[test]
fn what_follows_a_failed_task_does_not_begin_while_its_result_waits() {
    let mut farm = small_farm();
    let (client, engine) = (farm.client(), farm.engine());
    let aborts = || TaskOptions { abort_on_error: true, ..TaskOptions::default() };
    let id = farm.id(engine);
    (0..3).for_each(|_| _ = farm.submit(client, with(direct(&[id]), aborts())));
    let payload = farm.processes[engine].large_result(300 * KIB);
    let raised = Outcome::error(TaskState::Failed, ErrorKind::Remote, "");
    farm.finish_with(engine, raised, 1, Some(payload));
    assert_eq!(take_messages(&farm, engine), 1);
    assert!(farm.assigned(engine).is_empty());
    assert_eq!(farm.end_of(client, 2), Some((TaskState::Cancelled, Some(ErrorKind::Aborted))));
    while farm.send_result_chunk(engine) {}
    assert_eq!(farm.end_of(client, 1), Some((TaskState::Failed, Some(ErrorKind::Remote))));
}

#[test]
fn the_results_of_an_engine_that_leaves_are_taken_as_far_as_they_fit() {
    let mut farm = small_farm();
    let (culprit, engine, waits) = backlogged(&mut farm, |_| shared());
    let draining = furlong_wire::message::Draining { reason: "asked".into() };
    farm.report(engine, furlong_wire::message::FromEngine::Draining(draining)).unwrap();
    while farm.send_result_chunk(engine) {}
    assert_eq!(farm.end_of(culprit, waits), SUCCEEDED);
    farm.engine_goodbye(engine);
    invariants::hold(&farm.core);
}

#[test]
fn a_session_that_ends_takes_what_waits_with_it() {
    let mut farm = small_farm();
    let (culprit, engine, _) = backlogged(&mut farm, |_| shared());
    farm.goodbye(culprit);
    farm.core.handle_tick();
    farm.pump();
    assert!(farm.processes[engine].results.is_empty());
    invariants::is_quiet(&farm.core);
}

#[test]
fn why_tasks_wait_is_that_their_results_are_not_read() {
    let mut farm = small_farm();
    let (culprit, _, waits) = backlogged(&mut farm, |_| shared());
    let key = farm.core.sessions.iter().map(|(key, _)| key).next().unwrap();
    let tasks: Vec<_> = farm
        .core
        .sessions
        .get(key)
        .unwrap()
        .ledger
        .tasks
        .iter()
        .map(|(n, task)| (n, *task))
        .collect();
    for (n, task) in tasks {
        let record = farm.core.record(farm.now, task, &mut Fitting::default()).unwrap();
        assert!(record.waits.is_some_and(|why| why.contains("wait at engines until")), "task {n}");
        let state = farm.core.tasks.get(task).unwrap().state;
        assert_eq!(matches!(state, State::Unsent { .. }), n == TaskSeq(waits));
    }
    assert_eq!(farm.clients[culprit].finished.len() as u64, waits - 1);
}

#[test]
fn a_session_leaves_others_as_many_tasks_as_it_has() {
    let mut farm = Farm::with_limits(1 << 20, 100);
    let nobody =
        || with(shared(), TaskOptions { require: vec!["attic".into()], ..TaskOptions::default() });
    let (one, two, three) = (farm.client(), farm.client(), farm.client());
    (0..100).for_each(|_| _ = farm.submit(one, nobody()));
    assert_eq!(farm.end_of(one, 100), None, "half of the table");
    let taken = |farm: &mut Farm, client: usize| {
        let is_taken = |farm: &mut Farm| {
            let n = farm.submit(client, nobody());
            farm.end_of(client, n).is_none()
        };
        (0..100).take_while(|_| is_taken(farm)).count()
    };
    assert_eq!(taken(&mut farm, two), 50);
    assert_eq!(taken(&mut farm, three), 25);
}

#[test]
fn who_is_told_busy_takes_no_place_from_others() {
    let mut farm = Farm::with_limits(1 << 20, 100);
    let nobody =
        || with(shared(), TaskOptions { require: vec!["attic".into()], ..TaskOptions::default() });
    for _ in 0..4 {
        // It reads nothing, and acknowledges nothing.
        let greedy = farm.client();
        (0..100).for_each(|_| _ = farm.submit(greedy, nobody()));
        assert_eq!(
            farm.say(greedy, FromClient::Submit(Submit { n: TaskSeq(101), ..nobody() })),
            Err(PeerMisbehaved::Credit)
        );
    }
    let told_nothing = farm.client_as(Role::Observer);
    (0..100).for_each(|_| _ = farm.submit(told_nothing, nobody()));
    let greedy: Vec<usize> = (0..4).map(|_| farm.client()).collect();
    greedy.iter().for_each(|client| (0..100).for_each(|_| _ = farm.submit(*client, nobody())));
    let held = farm.core.tasks.len() as u64 + farm.core.tally.results_held;
    assert_eq!(held, 100 + 50 + 25 + 12, "what was refused is not held");
    let bystander = farm.client();
    let n = farm.submit(bystander, nobody());
    assert_eq!(farm.end_of(bystander, n), None, "there is room for who has little");
    invariants::hold(&farm.core);
}

#[test]
fn what_was_refused_unheard_is_submitted_again() {
    let mut farm = Farm::with_limits(1 << 20, 4);
    let (one, two) = (farm.client(), farm.client());
    (0..4).for_each(|_| _ = farm.submit(one, with(shared(), at_most_once())));
    (0..4).for_each(|_| _ = farm.submit(two, shared()));
    let busy = Some((TaskState::Failed, Some(ErrorKind::Busy)));
    assert_eq!([1, 2, 3, 4].map(|n| farm.end_of(two, n)), [None, None, busy, busy]);
    farm.cancel(one, 1, 4);
    farm.ack(one, 1, 4);
    // It had read of the fourth.
    farm.clients[two].finished.remove(&3);
    farm.disconnect_client(two);
    farm.connect_client(two).unwrap();
    assert_eq!(farm.accepted(two).missing, [(TaskSeq(3), TaskSeq(4))]);
    assert_eq!(farm.end_of(two, 3), None, "there is room for it now");
    invariants::hold(&farm.core);
    let engine = farm.engine();
    (0..3).for_each(|_| _ = farm.finish(engine));
    assert_eq!([1, 2, 3, 4].map(|n| farm.end_of(two, n)), [SUCCEEDED, SUCCEEDED, SUCCEEDED, busy]);
    farm.ack(two, 1, 4);
    farm.disconnect_client(two);
    farm.connect_client(two).unwrap();
    assert_eq!(farm.accepted(two).missing, []);
    invariants::hold(&farm.core);
}

#[test]
fn who_breaks_the_protocol_leaves_nothing_that_others_pay_for() {
    let mut farm = Farm::with_limits(1 << 20, 50);
    let (culprit, other, engine) = (farm.client(), farm.client(), farm.engine());
    let keep = TaskOptions { keep: true, ..TaskOptions::default() };
    (0..50).for_each(|_| _ = farm.submit(culprit, with(shared(), keep.clone())));
    finish_large(&mut farm, engine, 50 * KIB);
    let beyond = FromClient::Submit(Submit {
        n: TaskSeq(51),
        payload: Payload::Inline(b"call".into()),
        ..shared()
    });
    assert_eq!(farm.say(culprit, beyond), Err(PeerMisbehaved::Credit));
    invariants::hold(&farm.core);
    assert_eq!(farm.core.sessions.len(), 1, "its session has ended");
    assert_eq!(farm.core.tasks.len(), 0);
    let all: Vec<u64> = (0..50).map(|_| farm.submit(other, shared())).collect();
    assert!(all.into_iter().all(|n| farm.end_of(other, n).is_none()), "there is room for others");
}

#[test]
fn a_task_whose_result_waits_at_an_engine_that_leaves_has_run() {
    let mut farm = small_farm();
    let (client, engine) = (farm.client(), farm.engine());
    let once = with(shared(), TaskOptions { retries: Some(0), ..TaskOptions::default() });
    (0..40).for_each(|_| _ = farm.submit(client, once.clone()));
    run_all(&mut farm, engine, 50 * KIB);
    let attempt = *farm.core.engines.get(farm.id(engine)).unwrap().work.unsent.first().unwrap();
    let n = farm.core.attempts.get(attempt).unwrap().n;
    farm.engine();
    farm.engine_goodbye(engine);
    assert_eq!(
        farm.end_of(client, n.0),
        Some((TaskState::Lost, Some(ErrorKind::EngineLost))),
        "it is not run again"
    );
    invariants::hold(&farm.core);
}
