//! The demands that tasks make on engines: runtimes, labels, scopes. Also tasks that engines are
//! assigned too early.

use furlong_wire::ids::TaskSeq;
use furlong_wire::message::{
    ErrorKind, FromClient, FromEngine, Goodbye, Runtime, Submit, TaskOptions, TaskState,
};
use furlong_wire::token::Role;

use crate::core::invariants;
use crate::core::tests::farm::peers::{Farm, at_most_once, direct, shared, with};

const SUCCEEDED: Option<(TaskState, Option<ErrorKind>)> = Some((TaskState::Succeeded, None));

fn require(labels: &[&str]) -> TaskOptions {
    TaskOptions {
        require: labels.iter().map(|label| (*label).to_owned()).collect(),
        ..TaskOptions::default()
    }
}

fn scoped_client(farm: &mut Farm, scopes: &[&str]) -> usize {
    let client = farm.absent_client(Role::Client);
    farm.clients[client].scopes = scopes.iter().map(|scope| (*scope).to_owned()).collect();
    farm.connect_client(client).unwrap();
    client
}

#[test]
fn a_task_waits_for_an_engine_with_all_labels_that_it_requires() {
    let mut farm = Farm::default();
    let (client, plain) = (farm.client(), farm.engine_labelled(1, Runtime::ALL, &["gpu"]));
    let n = farm.submit(client, with(shared(), require(&["gpu", "big"])));
    assert!(farm.assigned(plain).is_empty());
    let other = farm.submit(client, with(shared(), require(&["gpu"])));
    assert_eq!(farm.assigned(plain), [other]);
    let big = farm.engine_labelled(1, Runtime::ALL, &["big", "gpu"]);
    assert_eq!(farm.assigned(big), [n]);
}

#[test]
fn a_direct_task_whose_engine_lacks_a_label_fails_and_those_behind_it_run() {
    let mut farm = Farm::default();
    let (client, engine) = (farm.client(), farm.engine());
    let to_engine = direct(&[farm.id(engine)]);
    farm.submit(client, with(to_engine.clone(), require(&["gpu"])));
    farm.submit(client, to_engine);
    assert_eq!(farm.end_of(client, 1), Some((TaskState::Failed, Some(ErrorKind::Unsupported))));
    assert_eq!(farm.assigned(engine), [2]);
    invariants::hold(&farm.core);
}

#[test]
fn a_capability_with_scopes_reaches_engines_with_one_of_them_and_no_others() {
    let mut farm = Farm::default();
    let (outside, inside) = (farm.engine(), farm.engine_labelled(1, Runtime::ALL, &["lab"]));
    let client = scoped_client(&mut farm, &["lab", "attic"]);
    let n = farm.submit(client, shared());
    assert_eq!((farm.assigned(outside), farm.assigned(inside)), (vec![], vec![n]));
    let n = farm.submit(client, direct(&[farm.id(outside)]));
    assert_eq!(farm.end_of(client, n), Some((TaskState::Failed, Some(ErrorKind::Forbidden))));
    let n = farm.submit(client, direct(&[farm.id(inside)]));
    assert_eq!(farm.finish(inside), 1);
    assert_eq!(farm.assigned(inside), [n]);
}

#[test]
fn sessions_take_turns_over_different_demands() {
    let mut farm = Farm::default();
    let (greedy, modest) = (farm.client(), farm.client());
    for _ in 0..20 {
        farm.submit(greedy, with(shared(), require(&["gpu"])));
    }
    (0..20).for_each(|_| _ = farm.submit(greedy, shared()));
    (0..20).for_each(|_| _ = farm.submit(modest, shared()));
    let engine = farm.engine_labelled(1, Runtime::ALL, &["gpu"]);
    let mut of_modest = 0;
    for given in 1..=30 {
        of_modest +=
            usize::from(farm.processes[engine].jobs[0].session == farm.clients[modest].session);
        assert!(of_modest * 2 >= given - 1, "{of_modest} of {given}");
        farm.finish(engine);
    }
}

#[test]
fn priority_goes_before_turns_over_different_demands() {
    let mut farm = Farm::default();
    let client = farm.client();
    let urgent = |options| TaskOptions { priority: 3, ..options };
    farm.submit(client, with(shared(), require(&["gpu"])));
    farm.submit(client, with(shared(), urgent(TaskOptions::default())));
    farm.submit(client, with(shared(), urgent(require(&["gpu"]))));
    let engine = farm.engine_labelled(1, Runtime::ALL, &["gpu"]);
    let order: Vec<u64> = (0..3).map(|_| farm.finish(engine)).collect();
    assert_eq!(order, [2, 3, 1]);
}

#[test]
fn different_demands_are_bounded_and_those_that_are_known_are_still_taken() {
    const DEMANDS_MAX: usize = 4096;
    let mut farm = Farm::default();
    let client = farm.client();
    let demands =
        |farm: &mut Farm, label: &str| farm.submit(client, with(shared(), require(&[label])));
    let plain = farm.core.schedule.placements.iter().count();
    let connection = farm.clients[client].connection.unwrap();
    // One batch of messages, after which the shell dispatches once.
    for label in plain..DEMANDS_MAX {
        farm.clients[client].submitted += 1;
        let n = farm.clients[client].submitted;
        let submit = FromClient::Submit(Submit {
            n: TaskSeq(n),
            ..with(shared(), require(&[&label.to_string()]))
        });
        farm.core.handle_from_client(farm.now, connection, submit, None).unwrap();
    }
    assert_eq!(
        (farm.core.schedule.placements.iter().count(), farm.core.tasks.len()),
        (DEMANDS_MAX, DEMANDS_MAX - plain)
    );
    let refused = demands(&mut farm, "one more");
    assert_eq!(farm.end_of(client, refused), Some((TaskState::Failed, Some(ErrorKind::Busy))));
    let taken = [demands(&mut farm, &plain.to_string()), farm.submit(client, shared())];
    assert!(
        taken.iter().all(|n| farm.end_of(client, *n).is_none()),
        "these demands are there already"
    );
    farm.cancel(client, 2, 2);
    let taken = demands(&mut farm, "one more");
    assert_eq!(farm.end_of(client, taken), None, "the last task with other demands has ended");
    invariants::hold(&farm.core);
}

/// An engine with several short shared tasks assigned.
fn prefetched(farm: &mut Farm, client: usize) -> usize {
    let engine = farm.engine();
    (0..6).for_each(|_| _ = farm.submit(client, shared()));
    farm.finish_after(engine, 400);
    assert_eq!(farm.assigned(engine).len(), 5);
    engine
}

#[test]
fn a_direct_task_recalls_prefetched_shared_work() {
    let mut farm = Farm::default();
    let client = farm.client();
    let engine = prefetched(&mut farm, client);
    let n = farm.submit(client, direct(&[farm.id(engine)]));
    assert_eq!(farm.answer_recalls(engine).len(), 4);
    assert_eq!([farm.finish(engine), farm.finish(engine)], [2, n], "what ran was not interrupted");
    let mut others: Vec<u64> = (0..4).map(|_| farm.finish(engine)).collect();
    others.sort_unstable();
    assert_eq!(others, [3, 4, 5, 6]);
}

#[test]
fn a_direct_task_recalls_the_one_shared_task_behind_another_direct_one() {
    let mut farm = Farm::default();
    let (client, engine) = (farm.client(), farm.engine());
    let to_engine = Submit { class: 2, ..direct(&[farm.id(engine)]) };
    for submit in [shared(), to_engine.clone()] {
        farm.submit(client, submit);
        farm.finish_after(engine, 1);
    }
    for submit in [to_engine.clone(), shared(), to_engine] {
        farm.submit(client, submit);
    }
    assert_eq!(farm.answer_recalls(engine), [4]);
    assert_eq!(farm.assigned(engine)[..2], [3, 5]);
}

#[test]
fn an_engine_that_says_goodbye_is_given_nothing_more() {
    let mut farm = Farm::default();
    let (client, engine) = (farm.client(), farm.engine());
    (0..2).for_each(|_| _ = farm.submit(client, with(shared(), at_most_once())));
    let connection = farm.processes[engine].connection.unwrap();
    let goodbye = FromEngine::Goodbye(Goodbye { reason: "stopped".into() });
    farm.core.handle_from_engine(farm.now, connection, goodbye, None).unwrap();
    farm.finish(engine);
    assert_eq!([farm.end_of(client, 1), farm.end_of(client, 2)], [SUCCEEDED, None]);
    let other = farm.engine();
    farm.finish(other);
    assert_eq!(farm.end_of(client, 2), SUCCEEDED, "it was given to nobody in vain");
}
