//! Results that are inputs of other tasks or that stay, and values of clients.

use std::time::Duration;

use furlong_wire::ids::SessionId;
use furlong_wire::limits::{ASKED_FOR_TRANSFER, KEPT_MS};
use furlong_wire::message::{
    ErrorKind, FromClient, Outcome, Payload, Purge, Runtime, Submit, TaskOptions, TaskState,
    ToEngine,
};
use furlong_wire::token::Role;

use crate::core::invariants;
use crate::core::tests::farm::peers::{Farm, direct, python, shared, with};

const SUCCEEDED: Option<(TaskState, Option<ErrorKind>)> = Some((TaskState::Succeeded, None));
const UNMET: Option<(TaskState, Option<ErrorKind>)> =
    Some((TaskState::Cancelled, Some(ErrorKind::Dependency)));
const LARGE: u64 = 300_000;

/// A task of a client with these earlier ones as inputs.
fn with_inputs(farm: &Farm, client: usize, inputs: &[u64]) -> Submit {
    let inputs = inputs.iter().map(|n| farm.task(client, *n)).collect();
    with(python(shared()), TaskOptions { inputs, ..TaskOptions::default() })
}

fn staying() -> Submit {
    with(python(shared()), TaskOptions { stay: true, ..TaskOptions::default() })
}

fn python_engine(farm: &mut Farm) -> usize {
    farm.engine_with(1, &[Runtime::Python])
}

/// The oldest job ends with a large result, which comes whole.
fn finish_large(farm: &mut Farm, process: usize, bytes: u64) -> u64 {
    let payload = farm.processes[process].large_result(bytes);
    let n = farm.finish_with(process, Outcome::SUCCEEDED, 1_000, Some(payload));
    while farm.send_result_chunk(process) {}
    n
}

/// The values that a process was sent, the inputs that its attempts had, and the numbers that it
/// was told to forget.
fn told(farm: &Farm, process: usize) -> (Vec<u64>, Vec<Vec<u64>>, Vec<u64>) {
    let (mut values, mut inputs, mut forgotten) = (Vec::new(), Vec::new(), Vec::new());
    for message in &farm.processes[process].received {
        match message {
            ToEngine::Value(value) => values.push(value.value),
            ToEngine::Inputs(of_attempt) => inputs.push(of_attempt.values.clone()),
            ToEngine::Unshare(unshare) => forgotten.push(unshare.share),
            _ => {}
        }
    }
    (values, inputs, forgotten)
}

fn held(farm: &Farm) -> u64 {
    invariants::hold(&farm.core);
    farm.core.memory.budget.state().0
}

/// Bytes that are held but for the few that tasks with inputs cost.
fn held_of_payloads(farm: &Farm) -> u64 {
    held(farm) / 10_000 * 10_000
}

#[test]
fn a_result_is_an_input_of_others_though_its_client_has_taken_it_meanwhile() {
    let mut farm = Farm::default();
    let (client, engine) = (farm.client(), python_engine(&mut farm));
    let first = farm.submit(client, python(shared()));
    let submit = with_inputs(&farm, client, &[first]);
    let others = [(); 2].map(|()| farm.submit(client, submit.clone()));
    finish_large(&mut farm, engine, LARGE);
    farm.ack(client, first, first);
    assert_eq!(held_of_payloads(&farm), LARGE, "for those that wait");
    assert_eq!(farm.finish(engine), others[0]);
    assert_eq!(held_of_payloads(&farm), LARGE, "for the other one");
    assert_eq!(farm.finish(engine), others[1]);
    assert_eq!(held(&farm), 0);
    let (values, inputs, forgotten) = told(&farm, engine);
    assert_eq!(values.len(), 1, "it goes to a process once");
    assert_eq!(inputs, [values.clone(), values.clone()]);
    assert_eq!(forgotten, values);
}

#[test]
fn inputs_are_numbered_in_their_order_and_one_may_be_there_twice() {
    let mut farm = Farm::default();
    let (client, one, two) = (farm.client(), python_engine(&mut farm), python_engine(&mut farm));
    let made = [(); 3].map(|()| farm.submit(client, python(shared())));
    let submit = with_inputs(&farm, client, &[made[2], made[0], made[2], made[1]]);
    let last = farm.submit(client, submit);
    for process in [one, two] {
        while farm.assigned(process).first().is_some_and(|n| *n != last) {
            farm.finish(process);
        }
    }
    let engine = if farm.assigned(one) == [last] { one } else { two };
    assert_eq!(farm.assigned(engine), [last]);
    let (values, inputs, _) = told(&farm, engine);
    assert_eq!((values.len(), inputs.len()), (3, 1));
    let inputs = &inputs[0];
    assert!(inputs.len() == 4 && inputs[0] == inputs[2] && inputs[0] != inputs[1]);
    farm.finish(engine);
    farm.ack(client, 1, last);
    assert_eq!(held(&farm), 0);
}

#[test]
fn a_result_that_stays_is_fetched_and_is_there_until_it_is_acknowledged() {
    let mut farm = Farm::default();
    let (client, engine) = (farm.client(), python_engine(&mut farm));
    let n = farm.submit(client, staying());
    finish_large(&mut farm, engine, LARGE);
    let payload = farm.clients[client].finished[&n].payload.clone();
    assert!(
        matches!(
            payload,
            Some(Payload::Chunked { transfer: ASKED_FOR_TRANSFER, bytes: LARGE, .. })
        ),
        "{payload:?}"
    );
    let request = farm.fetch(client, client, n, false, false);
    let fetched = farm.fetched(client, request).unwrap();
    assert!(
        matches!(fetched.payload, Some(Payload::Chunked { transfer: 1.., bytes: LARGE, .. })),
        "{fetched:?}"
    );
    // As an input, too: also of tasks for engines.
    let inputs = vec![farm.task(client, n)];
    let options = TaskOptions { inputs, ..TaskOptions::default() };
    let id = farm.id(engine);
    let last = farm.submit(client, with(python(direct(&[id])), options));
    farm.ack(client, n, n);
    assert_eq!(held_of_payloads(&farm), LARGE);
    assert_eq!(farm.finish(engine), last);
    assert_eq!(held(&farm), 0);
    let request = farm.fetch(client, client, n, false, false);
    assert!(farm.fetched(client, request).is_none(), "it was let go");
}

#[test]
fn a_value_of_a_client_is_sent_once_to_each_process_and_charged_to_its_token() {
    let mut farm = Farm::default();
    let client = farm.client();
    let engines = [(); 2].map(|()| farm.engine_with(2, &[Runtime::Python]));
    let payload = farm.clients[client].sending.chunked(LARGE);
    let value = Submit { payload, runtime: Runtime::Value, ..shared() };
    let value = farm.submit(client, value);
    while farm.send_chunk(client) {}
    assert_eq!(farm.end_of(client, value), SUCCEEDED);
    assert_eq!(held_of_payloads(&farm), LARGE);
    let submit = with_inputs(&farm, client, &[value]);
    (0..8).for_each(|_| _ = farm.submit(client, submit.clone()));
    for engine in engines {
        while !farm.assigned(engine).is_empty() {
            farm.finish(engine);
        }
        let (values, inputs, forgotten) = told(&farm, engine);
        assert_eq!((values.len(), forgotten.len()), (1, 0));
        assert!(inputs.len() >= 2 && inputs.iter().all(|it| *it == values));
    }
    farm.ack(client, 1, 9);
    assert_eq!(held(&farm), 0);
    for engine in engines {
        assert_eq!(told(&farm, engine).2.len(), 1);
    }
    invariants::nothing_is_owed(&farm.core);
}

#[test]
fn what_cannot_be_an_input_is_refused_with_the_reason() {
    let mut farm = Farm::default();
    let (client, engine) = (farm.client(), python_engine(&mut farm));
    let other = farm.client();
    let foreign_client = owned_by(&mut farm, 8);
    let taken = farm.submit(client, python(shared()));
    finish_large(&mut farm, engine, LARGE);
    farm.ack(client, taken, taken);
    let refused = |farm: &mut Farm, submit: Submit| {
        let n = farm.submit(client, submit);
        (farm.end_of(client, n).unwrap(), farm.error_of(client, n))
    };
    let submit = with_inputs(&farm, client, &[taken]);
    let (end, text) = refused(&mut farm, submit);
    assert_eq!(Some(end), UNMET);
    assert!(text.contains("its client has taken it"), "{text}");
    // Its own number, and a later one.
    let submit = with_inputs(&farm, client, &[3]);
    assert!(refused(&mut farm, submit).1.contains("was not submitted before"));
    // Of its own owner's sessions one that never had such a task, and another owner's: unfinished,
    // staying, and kept.
    let submit = with_inputs(&farm, other, &[1]);
    assert!(refused(&mut farm, submit).1.contains("is unknown to the broker"));
    let options = TaskOptions { stay: true, keep: true, ..TaskOptions::default() };
    let foreign = farm.submit(foreign_client, with(python(shared()), options));
    for has_ended in [false, true] {
        if has_ended {
            assert_eq!(farm.finish(engine), foreign);
            farm.goodbye(foreign_client);
        }
        let submit = with_inputs(&farm, foreign_client, &[foreign]);
        let (end, text) = refused(&mut farm, submit);
        assert_eq!(Some(end), UNMET);
        assert!(text.contains("is unknown to the broker"), "{text}");
    }
    let n = farm.submit(client, staying());
    let value = Submit { runtime: Runtime::Value, ..with_inputs(&farm, client, &[n]) };
    let (end, text) = refused(&mut farm, value);
    assert_eq!(end, (TaskState::Failed, Some(ErrorKind::Unsupported)));
    assert!(text.contains("run by no engine"), "{text}");
    invariants::hold(&farm.core);
}

#[test]
fn the_failure_of_an_input_ends_what_has_it() {
    let mut farm = Farm::default();
    let (client, engine) = (farm.client(), python_engine(&mut farm));
    let good = farm.submit(client, staying());
    let bad = farm.submit(client, python(shared()));
    let submit = with_inputs(&farm, client, &[good, bad]);
    let last = farm.submit(client, submit);
    finish_large(&mut farm, engine, LARGE);
    farm.fail(engine);
    assert_eq!(farm.end_of(client, last), UNMET);
    farm.ack(client, 1, last);
    assert_eq!(held(&farm), 0);
}

#[test]
fn what_finds_no_room_to_stay_comes_as_any_other_result() {
    let mut farm = Farm::with_limits(5 * LARGE, 100);
    let (client, engine) = (farm.client(), python_engine(&mut farm));
    let stays = |farm: &Farm, n: u64| {
        let payload = farm.clients[client].finished[&n].payload.as_ref();
        matches!(payload, Some(Payload::Chunked { transfer: ASKED_FOR_TRANSFER, .. }))
    };
    for n in 1..=3 {
        farm.submit(client, staying());
        finish_large(&mut farm, engine, LARGE);
        assert_eq!(stays(&farm, n), n <= 2, "values take half of the memory");
    }
    invariants::hold(&farm.core);
    // And it cannot be an input: its client has it, and passes its value.
    let submit = with_inputs(&farm, client, &[3]);
    let n = farm.submit(client, submit);
    assert_eq!(farm.end_of(client, n), UNMET);
    assert!(farm.error_of(client, n).contains("which is full"), "{}", farm.error_of(client, n));
    let payload = farm.clients[client].sending.chunked(LARGE);
    let n = farm.submit(client, Submit { payload, runtime: Runtime::Value, ..shared() });
    while farm.send_chunk(client) {}
    assert_eq!(farm.end_of(client, n), Some((TaskState::Failed, Some(ErrorKind::Busy))));
    farm.ack(client, 1, n);
    assert_eq!(held(&farm), 0);
}

#[test]
fn what_stays_and_is_to_be_kept_is_kept_once_it_is_let_go() {
    let mut farm = Farm::default();
    let (client, engine) = (farm.client(), python_engine(&mut farm));
    let options = TaskOptions { stay: true, keep: true, ..TaskOptions::default() };
    let n = farm.submit(client, with(python(shared()), options));
    finish_large(&mut farm, engine, LARGE);
    let submit = with_inputs(&farm, client, &[n]);
    farm.submit(client, submit);
    farm.ack(client, n, n);
    assert_eq!(held_of_payloads(&farm), 2 * LARGE, "kept, and an input");
    farm.finish(engine);
    assert_eq!(held_of_payloads(&farm), LARGE);
    let request = farm.fetch(client, client, n, false, false);
    assert!(farm.fetched(client, request).unwrap().payload.is_some());
    let tasks = vec![farm.task(client, n).into()];
    farm.ask(client, |request| FromClient::Purge(Purge { request, tasks }));
    assert_eq!(held(&farm), 0);
}

#[test]
fn a_session_that_ends_lets_go_of_all_its_values() {
    for has_begun in [false, true] {
        let mut farm = Farm::default();
        let (client, engine) = (farm.client(), python_engine(&mut farm));
        let n = farm.submit(client, staying());
        finish_large(&mut farm, engine, LARGE);
        let first = with_inputs(&farm, client, &[n]);
        let first = farm.submit(client, first);
        let submit = with_inputs(&farm, client, &[n, first]);
        farm.submit(client, submit);
        if has_begun {
            farm.start(engine);
        }
        farm.goodbye(client);
        assert_eq!(held(&farm), 0);
    }
}

/// A client of another owner.
fn owned_by(farm: &mut Farm, owner: u8) -> usize {
    let client = farm.absent_client(Role::Client);
    farm.clients[client].owner = owner;
    farm.connect_client(client).unwrap();
    client
}

/// The secrets that came with the values of a process, and the sessions they were of.
fn secrets(farm: &Farm, process: usize) -> Vec<(SessionId, bool)> {
    let received = farm.processes[process].received.iter();
    received
        .filter_map(|message| {
            let ToEngine::Value(value) = message else { return None };
            Some((value.session, value.secret.is_some()))
        })
        .collect()
}

#[test]
fn a_result_of_another_session_of_the_owner_is_an_input() {
    let mut farm = Farm::default();
    let (maker, user, one) = (farm.client(), farm.client(), python_engine(&mut farm));
    let pending = farm.submit(maker, python(shared()));
    let submit = with_inputs(&farm, maker, &[pending]);
    let first = farm.submit(user, submit.clone());
    finish_large(&mut farm, one, LARGE);
    farm.ack(maker, pending, pending);
    assert_eq!(farm.finish(one), first);
    assert_eq!(held(&farm), 0);
    let two = python_engine(&mut farm);
    let stays = farm.submit(maker, staying());
    let runs = if farm.assigned(one).is_empty() { two } else { one };
    finish_large(&mut farm, runs, LARGE);
    let submit = with_inputs(&farm, maker, &[stays]);
    let targets = [one, two].map(|process| farm.id(process));
    farm.submit(user, Submit { targets: direct(&targets).targets, ..submit });
    // Its session ends while they run: they hold it on, and the processes are told at its end.
    farm.goodbye(maker);
    assert_eq!(held_of_payloads(&farm), LARGE);
    for process in [one, two] {
        farm.finish(process);
    }
    assert_eq!(held(&farm), 0);
    let session = farm.clients[maker].session;
    assert_eq!(secrets(&farm, one), [(session, false), (session, false)], "it has the secret");
    assert_eq!(secrets(&farm, two).len(), 1);
    for process in [one, two] {
        let (values, _, forgotten) = told(&farm, process);
        assert_eq!(values, forgotten);
    }
    invariants::nothing_is_owed(&farm.core);
}

#[test]
fn a_process_that_does_not_know_a_values_session_gets_its_secret_along() {
    let mut farm = Farm::default();
    let (maker, user, one) = (farm.client(), farm.client(), python_engine(&mut farm));
    let n = farm.submit(maker, staying());
    finish_large(&mut farm, one, LARGE);
    farm.engine_goodbye(one);
    let two = python_engine(&mut farm);
    let submit = with_inputs(&farm, maker, &[n]);
    farm.submit(user, submit.clone());
    farm.submit(user, submit);
    farm.finish(two);
    farm.finish(two);
    assert_eq!(secrets(&farm, two), [(farm.clients[maker].session, true)]);
    farm.ack(maker, n, n);
    assert_eq!(told(&farm, two).0, told(&farm, two).2);
    assert_eq!(held(&farm), 0);
}

#[test]
fn what_stays_and_is_kept_outlives_its_session_until_it_is_purged() {
    let mut farm = Farm::with_limits(8 * LARGE, 100);
    let (maker, engine) = (farm.client(), python_engine(&mut farm));
    let options = TaskOptions { stay: true, keep: true, ..TaskOptions::default() };
    let n = farm.submit(maker, with(python(shared()), options));
    finish_large(&mut farm, engine, LARGE);
    farm.goodbye(maker);
    assert_eq!(held_of_payloads(&farm), LARGE);
    let user = farm.client();
    // It gives way to nothing, and is fetched.
    for _ in 0..8 {
        let payload = farm.clients[user].sending.chunked(2 * LARGE);
        let last = farm.submit(user, Submit { payload, ..python(shared()) });
        while farm.send_chunk(user) {}
        farm.finish(engine);
        farm.ack(user, last, last);
    }
    let request = farm.fetch(user, maker, n, false, false);
    assert!(farm.fetched(user, request).unwrap().payload.is_some());
    let submit = with_inputs(&farm, maker, &[n]);
    let last = farm.submit(user, submit);
    let tasks = vec![farm.task(maker, n).into()];
    farm.ask(user, |request| FromClient::Purge(Purge { request, tasks }));
    assert_eq!(held_of_payloads(&farm), LARGE, "an input");
    assert_eq!(farm.finish(engine), last);
    assert_eq!(held(&farm), 0);
    let submit = with_inputs(&farm, maker, &[n]);
    let last = farm.submit(user, submit);
    assert_eq!(farm.end_of(user, last), UNMET);
}

#[test]
fn a_kept_result_that_becomes_an_input_is_held_once_and_goes_with_its_record() {
    let mut farm = Farm::default();
    let (maker, engine) = (farm.client(), python_engine(&mut farm));
    let options = TaskOptions { keep: true, ..TaskOptions::default() };
    let n = farm.submit(maker, with(python(shared()), options));
    finish_large(&mut farm, engine, LARGE);
    farm.goodbye(maker);
    let user = farm.client();
    let submit = with_inputs(&farm, maker, &[n, n]);
    for _ in 0..3 {
        farm.submit(user, submit.clone());
        assert_eq!(held_of_payloads(&farm), LARGE);
        farm.finish(engine);
    }
    assert_eq!(told(&farm, engine).0.len(), 1);
    farm.wait(Duration::from_millis(KEPT_MS));
    invariants::hold(&farm.core);
    assert_eq!(farm.core.memory.values.bytes(), 0);
}

#[test]
fn a_clients_value_is_charged_to_its_token_until_others_need_it_no_longer() {
    let mut farm = Farm::default();
    let maker = farm.absent_client(Role::Client);
    farm.clients[maker].limits.payload_bytes_max = 10 * LARGE;
    farm.connect_client(maker).unwrap();
    let (user, engine) = (farm.client(), python_engine(&mut farm));
    let payload = farm.clients[maker].sending.chunked(LARGE);
    let n = farm.submit(maker, Submit { payload, runtime: Runtime::Value, ..shared() });
    while farm.send_chunk(maker) {}
    let submit = with_inputs(&farm, maker, &[n]);
    farm.submit(user, submit);
    farm.goodbye(maker);
    assert_eq!(held_of_payloads(&farm), LARGE);
    let again = farm.absent_client(Role::Client);
    farm.clients[again].limits.payload_bytes_max = 10 * LARGE;
    farm.clients[again].token = farm.clients[maker].token;
    farm.connect_client(again).unwrap();
    farm.finish(engine);
    assert_eq!(held(&farm), 0);
    invariants::nothing_is_owed(&farm.core);
}

#[test]
fn an_engine_that_comes_back_or_another_one_gets_the_inputs_again() {
    let mut farm = Farm::default();
    let (client, one) = (farm.client(), python_engine(&mut farm));
    let n = farm.submit(client, staying());
    finish_large(&mut farm, one, LARGE);
    let submit = with_inputs(&farm, client, &[n]);
    let last = farm.submit(client, submit);
    // What it was given before the cut has not arrived.
    farm.processes[one].loses_assignment();
    farm.disconnect_engine(one);
    let two = python_engine(&mut farm);
    farm.connect_engine(one);
    let engine = if farm.assigned(one) == [last] { one } else { two };
    assert_eq!(farm.finish(engine), last);
    let (values, inputs, _) = told(&farm, engine);
    assert_eq!(values.len(), inputs.len(), "once on each connection");
    assert_eq!(farm.end_of(client, last), SUCCEEDED);
    farm.ack(client, 1, last);
    assert_eq!(held(&farm), 0);
}
