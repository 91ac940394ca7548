//! Tasks that run after others, or where others ran.

use std::time::Duration;

use furlong_wire::ids::{SessionId, TaskId, TaskSeq};
use furlong_wire::limits::ENDS_REMEMBERED_MAX;
use furlong_wire::message::{ErrorKind, Outcome, Submit, TaskOptions, TaskState};

use crate::core::invariants;
use crate::core::tests::farm::peers::{
    Farm, after, direct, follow, on_failure, on_success, python, shared, with,
};

const SUCCEEDED: Option<(TaskState, Option<ErrorKind>)> = Some((TaskState::Succeeded, None));
const UNMET: Option<(TaskState, Option<ErrorKind>)> =
    Some((TaskState::Cancelled, Some(ErrorKind::Dependency)));

#[test]
fn a_task_runs_after_the_success_of_all_that_it_names() {
    let mut farm = Farm::default();
    let (client, one, two) = (farm.client(), farm.engine(), farm.engine());
    (0..2).for_each(|_| _ = farm.submit(client, shared()));
    let options = after(&[farm.task(client, 1), farm.task(client, 2)]);
    let last = farm.submit(client, with(shared(), options));
    farm.finish(one);
    assert!(farm.assigned(one).is_empty() && farm.core.waiting.held == 1);
    farm.finish(two);
    assert_eq!(farm.assigned(one), [last]);
}

#[test]
fn a_task_that_waits_for_a_failure_runs_only_after_that() {
    let mut farm = Farm::default();
    let (client, engine) = (farm.client(), farm.engine());
    (0..2).for_each(|_| _ = farm.submit(client, shared()));
    for n in 1..=2 {
        let options =
            TaskOptions { after: vec![on_failure(farm.task(client, n))], ..TaskOptions::default() };
        farm.submit(client, with(shared(), options));
    }
    farm.fail(engine);
    farm.finish(engine);
    assert_eq!(farm.end_of(client, 4), UNMET);
    assert_eq!(farm.finish(engine), 3);
    assert_eq!(farm.end_of(client, 3), SUCCEEDED);
}

#[test]
fn one_of_several_is_enough_if_the_submit_says_so_and_none_is_not() {
    let mut farm = Farm::default();
    let (client, engine) = (farm.client(), farm.engine());
    (0..4).for_each(|_| _ = farm.submit(client, shared()));
    let any = |farm: &Farm, ns: [u64; 2]| TaskOptions {
        after_any: true,
        ..after(&ns.map(|n| farm.task(client, n)))
    };
    let (met, unmet) = (any(&farm, [1, 4]), any(&farm, [1, 2]));
    let (met, unmet) =
        (farm.submit(client, with(shared(), met)), farm.submit(client, with(shared(), unmet)));
    (0..2).for_each(|_| _ = farm.fail(engine));
    assert_eq!(farm.end_of(client, unmet), UNMET);
    (0..2).for_each(|_| _ = farm.finish(engine));
    assert_eq!(farm.assigned(engine), [met]);
    invariants::hold(&farm.core);
}

#[test]
fn an_unmet_dependency_ends_all_that_wait_behind_it_with_the_reason() {
    let mut farm = Farm::default();
    let (client, engine) = (farm.client(), farm.engine());
    farm.submit(client, shared());
    for n in 1..=3 {
        let options = after(&[farm.task(client, n)]);
        farm.submit(client, with(shared(), options));
    }
    farm.fail(engine);
    assert!((2..=4).all(|n| farm.end_of(client, n) == UNMET));
    let (text, named) = (farm.error_of(client, 3), farm.task(client, 2).to_string());
    assert!(text.starts_with(&named) && text.contains("did not succeed"), "{text}");
}

#[test]
fn a_task_of_another_owner_is_as_unknown_as_one_that_never_was() {
    let mut farm = Farm::default();
    let (client, outsider) = (farm.client(), farm.absent_client(furlong_wire::token::Role::Client));
    farm.clients[outsider].owner = 8;
    farm.connect_client(outsider).unwrap();
    farm.submit(client, shared());
    let foreign = farm.task(client, 1);
    let never = TaskId { session: SessionId([200; 16]), n: TaskSeq(1) };
    for (n, task) in [(1, foreign), (2, never)] {
        farm.submit(outsider, with(shared(), after(&[task])));
        assert_eq!(farm.end_of(outsider, n), UNMET);
        let text = farm.error_of(outsider, n).replace(&task.to_string(), "");
        assert!(text.contains("unknown to the broker"), "{text}");
    }
}

#[test]
fn a_task_of_another_session_of_the_owner_can_be_waited_for() {
    let mut farm = Farm::default();
    let (first, second, engine) = (farm.client(), farm.client(), farm.engine());
    farm.submit(first, shared());
    let options = after(&[farm.task(first, 1)]);
    farm.submit(second, with(shared(), options.clone()));
    farm.finish(engine);
    assert_eq!(farm.assigned(engine), [1]);
    farm.ack(first, 1, 1);
    farm.submit(second, with(shared(), options));
    farm.finish(engine);
    assert_eq!(farm.assigned(engine), [2], "its end is known after it was acknowledged");
}

#[test]
fn a_task_that_waits_for_itself_is_an_error() {
    let mut farm = Farm::default();
    let (client, one, two) = (farm.client(), farm.engine(), farm.engine());
    let (itself, sibling, later) =
        (farm.task(client, 1), farm.task(client, 2), farm.task(client, 99));
    farm.submit(client, with(shared(), after(&[itself])));
    let both = direct(&[farm.id(one), farm.id(two)]);
    farm.submit(client, with(both, follow(&[sibling])));
    farm.submit(client, with(shared(), after(&[later])));
    assert!((1..=4).all(|n| farm.end_of(client, n) == UNMET));
    invariants::hold(&farm.core);
}

#[test]
fn the_end_of_a_task_that_outlived_many_others_is_known() {
    let mut farm = Farm::default();
    let (client, slow, fast) = (farm.client(), farm.engine(), farm.engine());
    farm.submit(client, shared());
    for n in 2..ENDS_REMEMBERED_MAX as u64 + 100 {
        farm.submit(client, shared());
        farm.finish(fast);
        farm.ack(client, n, n);
    }
    farm.finish(slow);
    let options = after(&[farm.task(client, 1)]);
    let n = farm.submit(client, with(shared(), options));
    assert_eq!(farm.end_of(client, n), None, "the client may not have the first one's end yet");
}

#[test]
fn a_task_that_follows_runs_where_the_other_ran() {
    let mut farm = Farm::default();
    let (client, one, two) = (farm.client(), farm.engine(), farm.engine());
    (0..2).for_each(|_| _ = farm.submit(client, shared()));
    let options = follow(&[farm.task(client, 2)]);
    farm.submit(client, with(shared(), options.clone()));
    farm.finish(one);
    farm.finish(two);
    assert_eq!((farm.assigned(one), farm.assigned(two)), (vec![], vec![3]));
    farm.submit(client, with(shared(), options));
    farm.finish(two);
    assert_eq!(farm.assigned(two), [4], "also if the other has ended before the submit");
}

#[test]
fn a_task_that_follows_goes_before_what_waits_for_it_there() {
    let mut farm = Farm::default();
    let (client, engine) = (farm.client(), farm.engine());
    farm.submit(client, shared());
    let options = TaskOptions { error_retries: 1, ..follow(&[farm.task(client, 1)]) };
    farm.submit(client, with(shared(), options));
    let options = after(&[farm.task(client, 2)]);
    farm.submit(client, with(direct(&[farm.id(engine)]), options));
    farm.finish(engine);
    assert_eq!(
        farm.assigned(engine),
        [2],
        "it was submitted before the one that has its place there already"
    );
    farm.fail(engine);
    assert_eq!(farm.assigned(engine), [2], "also when it is run again");
    assert_eq!([farm.finish(engine), farm.finish(engine)], [2, 3]);
    invariants::hold(&farm.core);
}

#[test]
fn a_task_that_follows_others_to_two_engines_is_an_error() {
    let mut farm = Farm::default();
    let (client, one, two) = (farm.client(), farm.engine(), farm.engine());
    (0..2).for_each(|_| _ = farm.submit(client, shared()));
    let options = follow(&[farm.task(client, 1), farm.task(client, 2)]);
    farm.submit(client, with(shared(), options.clone()));
    farm.finish(one);
    farm.finish(two);
    assert_eq!(farm.end_of(client, 3), UNMET);
    assert!(farm.error_of(client, 3).contains("ran in two places"));
    let any = TaskOptions { follow_any: true, ..options };
    let n = farm.submit(client, with(shared(), any));
    assert_eq!(farm.end_of(client, n), None, "following one of them is possible");
    assert_eq!(farm.assigned(one), [n]);
}

#[test]
fn a_task_that_follows_to_an_engine_that_is_gone_is_an_error() {
    let mut farm = Farm::default();
    let (client, engine, _other) = (farm.client(), farm.engine(), farm.engine());
    farm.submit(client, shared());
    farm.finish(engine);
    farm.engine_goodbye(engine);
    let options = follow(&[farm.task(client, 1)]);
    farm.submit(client, with(shared(), options));
    assert_eq!(farm.end_of(client, 2), UNMET);
    let never_ran = farm.submit(client, Submit { define: Some(9), ..shared() });
    let options = TaskOptions {
        follow: vec![on_failure(farm.task(client, never_ran))],
        ..TaskOptions::default()
    };
    let n = farm.submit(client, with(shared(), options));
    assert!(farm.error_of(client, n).contains("no engine has run"));
}

#[test]
fn a_task_that_was_cancelled_while_it_ran_can_be_followed() {
    let mut farm = Farm::default();
    let (client, _one, two) = (farm.client(), farm.engine(), farm.engine());
    (0..2).for_each(|_| _ = farm.submit(client, shared()));
    let options =
        TaskOptions { follow: vec![on_failure(farm.task(client, 2))], ..TaskOptions::default() };
    farm.submit(client, with(shared(), options));
    farm.cancel(client, 2, 2);
    assert_eq!(farm.assigned(two), [2, 3]);
    assert_eq!(farm.clients[client].finished[&2].engine, Some(farm.id(two)));
}

#[test]
fn a_chain_of_a_hundred_thousand_dependents_ends_without_recursion() {
    for fails in [false, true] {
        let mut farm = Farm::with_limits(64 << 20, 200_000);
        let (client, engine) = (farm.client(), farm.engine());
        farm.submit(client, shared());
        for n in 1..100_000 {
            let demand = if fails { on_success } else { on_failure };
            let options =
                TaskOptions { after: vec![demand(farm.task(client, n))], ..TaskOptions::default() };
            farm.submit(client, with(shared(), options));
        }
        let outcome = Outcome::error(TaskState::Failed, ErrorKind::Remote, "");
        farm.finish_with(engine, if fails { outcome } else { Outcome::SUCCEEDED }, 1, None);
        let ended_at_once = farm.clients[client].finished.len();
        assert!(ended_at_once < 2_000, "{ended_at_once} ends in one turn");
        farm.wait(Duration::ZERO);
        let ends = if fails { 100_000 } else { 2 };
        assert_eq!(farm.clients[client].finished.len(), ends);
    }
}

#[test]
fn a_direct_task_that_waits_holds_up_its_own_session_and_no_other() {
    let mut farm = Farm::default();
    let (client, other, engine, elsewhere) =
        (farm.client(), farm.client(), farm.engine(), farm.engine());
    let (here, there) = (direct(&[farm.id(engine)]), direct(&[farm.id(elsewhere)]));
    farm.submit(client, there);
    let options = after(&[farm.task(client, 1)]);
    farm.submit(client, with(here.clone(), options));
    farm.submit(client, here.clone());
    farm.submit(other, here);
    assert_eq!(farm.finish(engine), 1, "the other session's");
    assert!(farm.assigned(engine).is_empty());
    farm.finish(elsewhere);
    assert_eq!([farm.finish(engine), farm.finish(engine)], [2, 3]);
}

#[test]
fn a_dependency_may_end_before_the_arguments_have_come() {
    let mut farm = Farm::default();
    let (client, engine) = (farm.client(), farm.engine());
    (0..2).for_each(|_| _ = farm.submit(client, shared()));
    for n in 1..=2 {
        let options = follow(&[farm.task(client, n)]);
        let payload = farm.clients[client].sending.chunked(2_000);
        farm.submit(client, with(Submit { payload, ..shared() }, options));
    }
    farm.finish(engine);
    farm.fail(engine);
    assert_eq!([farm.end_of(client, 3), farm.end_of(client, 4)], [None, UNMET]);
    while farm.send_chunk(client) {}
    assert_eq!(farm.assigned(engine), [3]);
    farm.finish(engine);
    assert_eq!(farm.core.memory.budget.state().0, 0);
}

#[test]
fn dependencies_are_bounded_in_all() {
    let mut farm = Farm::with_limits(1 << 20, 10);
    let client = farm.client();
    (0..8).for_each(|_| _ = farm.submit(client, python(shared())));
    let options = after(&[1, 2, 3, 4, 5, 6, 7, 8].map(|n| farm.task(client, n)));
    let sessions = [farm.client(), farm.client()];
    for session in sessions {
        (0..6).for_each(|_| _ = farm.submit(session, with(shared(), options.clone())));
    }
    let busy = Some((TaskState::Failed, Some(ErrorKind::Busy)));
    let all = sessions.iter().flat_map(|session| (1..=6).map(move |n| (*session, n)));
    let busy = all.filter(|(session, n)| farm.end_of(*session, *n) == busy).count();
    assert!(busy > 0 && farm.core.waiting.dependents.len() <= 80, "{busy} of 12 were refused");
    invariants::hold(&farm.core);
}
