//! Durable tasks: what waits for the disk, and what a start of the broker gets back from it.

use std::time::Duration;

use furlong_wire::ids::TaskSeq;
use furlong_wire::message::{
    CancelTasks, Define, ErrorKind, FromClient, Outcome, Purge, Query, ReplyBody, Request, Restart,
    Revoke, Runtime, Submit, TaskOptions, TaskRange, TaskState,
};
use furlong_wire::token::Role;

use crate::core::invariants;
use crate::core::journal::Entry;
use crate::core::tests::farm::disk::JOURNAL_KEEP;
use crate::core::tests::farm::peers::{Farm, direct, on_success, python, shared, with};

const DONE: Option<(TaskState, Option<ErrorKind>)> = Some((TaskState::Succeeded, None));

fn farm() -> Farm {
    Farm::with_journal(8 << 20, 10_000)
}

fn slow_farm() -> Farm {
    let mut farm = farm();
    farm.disk.is_slow = true;
    farm
}

fn durable() -> TaskOptions {
    TaskOptions { durable: true, ..TaskOptions::default() }
}

fn once() -> TaskOptions {
    TaskOptions { at_most_once: true, ..durable() }
}

fn submit(farm: &mut Farm, client: usize, submit: Submit, options: TaskOptions) -> u64 {
    farm.submit(client, with(submit, options))
}

#[test]
fn a_task_is_queued_when_it_is_on_disk() {
    let mut farm = slow_farm();
    let (client, engine) = (farm.client(), farm.engine());
    let n = submit(&mut farm, client, shared(), durable());
    let memory = farm.submit(client, shared());
    assert_eq!(farm.assigned(engine), [memory], "what is not durable does not wait");
    farm.finish(engine);
    assert!(farm.assigned(engine).is_empty());
    farm.sync();
    assert_eq!(farm.assigned(engine), [n]);
    invariants::hold(&farm.core);
}

#[test]
fn an_end_is_told_when_it_is_on_disk() {
    let mut farm = farm();
    let (client, other, engine) = (farm.client(), farm.client(), farm.engine());
    let n = submit(&mut farm, client, shared(), durable());
    let waits = farm.fetch(other, client, n, true, false);
    farm.disk.is_slow = true;
    farm.finish(engine);
    let late = farm.fetch(other, client, n, false, false);
    assert_eq!(farm.end_of(client, n), None);
    assert!(farm.fetched(other, waits).is_none() && farm.fetched(other, late).is_none());
    farm.sync();
    assert_eq!(farm.end_of(client, n), DONE);
    for request in [waits, late] {
        assert_eq!(farm.fetched(other, request).unwrap().record.id.n, TaskSeq(n));
    }
    farm.ack(client, n, n);
    farm.sync();
    assert_eq!(farm.disk.journal.counts(), (0, 0), "nobody can ask for it any longer");
}

#[test]
fn who_waits_for_the_last_task_of_a_session_that_is_over_is_answered() {
    let mut farm = farm();
    let (client, other, engine) = (farm.client(), farm.client(), farm.engine());
    let n = submit(&mut farm, client, shared(), durable());
    farm.goodbye(client);
    let waits = farm.fetch(other, client, n, true, false);
    farm.finish(engine);
    assert!(farm.fetched(other, waits).unwrap().payload.is_some());
    invariants::hold(&farm.core);
}

#[test]
fn the_answer_to_a_cancel_comes_when_that_is_on_disk() {
    let mut farm = farm();
    let client = farm.client();
    let n = submit(&mut farm, client, shared(), durable());
    farm.disk.is_slow = true;
    let session = farm.clients[client].session;
    let tasks = vec![TaskRange { session, first: TaskSeq(n), last: TaskSeq(n) }];
    let request = farm.ask(client, |request| {
        FromClient::CancelTasks(CancelTasks { request, tasks, force: false })
    });
    assert_eq!((farm.reply(client, request), farm.end_of(client, n)), (None, None));
    farm.sync();
    assert_eq!(farm.reply(client, request), Some(ReplyBody::Cancelled(1, 0)));
    assert_eq!(farm.end_of(client, n), Some((TaskState::Cancelled, Some(ErrorKind::Cancelled))));
}

#[test]
fn any_answer_says_that_what_was_submitted_before_is_on_disk() {
    let mut farm = slow_farm();
    let (client, other) = (farm.client(), farm.client());
    submit(&mut farm, client, shared(), durable());
    let query = |request| FromClient::Query(Request { request, query: Query::Engines });
    let (of_client, of_other) = (farm.ask(client, query), farm.ask(other, query));
    assert!(
        farm.reply(other, of_other).is_some(),
        "who has submitted nothing durable does not wait"
    );
    assert!(farm.reply(client, of_client).is_none());
    farm.sync();
    assert!(farm.reply(client, of_client).is_some());
}

#[test]
fn so_does_an_answer_that_has_waited_for_something_else() {
    let mut farm = slow_farm();
    let (admin, engine) = (farm.client_as(Role::Admin), farm.engine());
    submit(&mut farm, admin, shared(), durable());
    let engines = vec![farm.id(engine)];
    let restart = farm.ask(admin, |request| FromClient::Restart(Restart { request, engines }));
    farm.slot_down(engine, 0);
    let revoke = farm.ask(admin, |request| FromClient::Revoke(Revoke { request, tokens: vec![] }));
    let connection = farm.clients[admin].connection.unwrap();
    farm.core.handle_revocation(farm.now, connection, revoke, Err("no space".into()));
    farm.pump();
    assert_eq!([restart, revoke].map(|request| farm.reply(admin, request)), [None, None]);
    farm.sync();
    let refused = ReplyBody::Refused("nothing is revoked: no space".into());
    assert_eq!(
        [restart, revoke].map(|request| farm.reply(admin, request)),
        [Some(ReplyBody::Done), Some(refused)]
    );
}

#[test]
fn a_task_that_may_run_once_begins_when_the_journal_says_so_and_holds_its_line() {
    let mut farm = farm();
    let (client, engine) = (farm.client(), farm.engine());
    farm.disk.is_slow = true;
    let to_engine = direct(&[farm.id(engine)]);
    let first = submit(&mut farm, client, to_engine.clone(), once());
    farm.sync_once();
    let second = farm.submit(client, to_engine);
    assert!(farm.assigned(engine).is_empty(), "its beginning is on the way to the disk");
    farm.sync();
    assert_eq!(farm.assigned(engine)[0], first);
    farm.start(engine);
    assert_eq!(farm.finish(engine), first);
    farm.sync();
    assert_eq!(farm.assigned(engine), [second]);
}

#[test]
fn what_waits_for_the_journal_has_not_come_to_its_engine_and_is_not_lost_with_it() {
    for is_written_meanwhile in [false, true] {
        let mut farm = farm();
        let (client, process) = (farm.client(), farm.engine_with(2, Runtime::ALL));
        let [engine, neighbour] = farm.processes[process].ids[..] else {
            panic!("it has two engines")
        };
        farm.disk.is_slow = true;
        let n = submit(&mut farm, client, python(direct(&[engine])), once());
        farm.sync_once();
        let later = farm.submit(client, direct(&[neighbour]));
        assert_eq!(
            farm.assigned(process),
            [later],
            "the beginning of the first is on the way to the disk"
        );
        farm.disconnect_engine(process);
        if is_written_meanwhile {
            farm.sync();
        }
        farm.connect_engine(process);
        farm.sync();
        assert_eq!(farm.end_of(client, n), None);
        assert_eq!(farm.assigned(process), [later, n]);
        invariants::hold(&farm.core);
    }
}

#[test]
fn a_shared_task_that_waits_for_the_journal_goes_elsewhere_when_its_engine_leaves() {
    let mut farm = farm();
    let (client, leaves) = (farm.client(), farm.engine());
    farm.disk.is_slow = true;
    let n = submit(&mut farm, client, shared(), once());
    farm.sync_once();
    let other = farm.engine();
    farm.engine_goodbye(leaves);
    farm.sync();
    assert_eq!((farm.end_of(client, n), farm.assigned(other)), (None, vec![n]));
    invariants::hold(&farm.core);
}

#[test]
fn one_that_was_cancelled_before_the_journal_let_it_begin_never_begins() {
    let mut farm = farm();
    let (client, engine) = (farm.client(), farm.engine());
    farm.disk.is_slow = true;
    let n = submit(&mut farm, client, shared(), once());
    farm.sync_once();
    farm.cancel(client, n, n);
    farm.sync();
    assert!(farm.assigned(engine).is_empty());
    assert_eq!(farm.end_of(client, n), Some((TaskState::Cancelled, Some(ErrorKind::Cancelled))));
    let next = farm.submit(client, shared());
    assert_eq!(farm.assigned(engine), [next], "the engine is free");
    invariants::hold(&farm.core);
}

#[test]
fn a_full_disk_fails_what_is_to_be_accepted_and_nothing_else() {
    let mut farm = farm();
    let (client, engine) = (farm.client(), farm.engine());
    let runs = submit(&mut farm, client, shared(), durable());
    farm.disk.is_slow = true;
    let refused = submit(&mut farm, client, shared(), durable());
    let memory = farm.submit(client, shared());
    farm.finish(engine);
    farm.fail_to_sync();
    assert_eq!(farm.end_of(client, refused), Some((TaskState::Failed, Some(ErrorKind::Journal))));
    assert!(farm.error_of(client, refused).contains("no space left on device"));
    assert_eq!(farm.end_of(client, runs), DONE, "what has ended is told all the same");
    assert_eq!(farm.assigned(engine), [memory]);
    invariants::hold(&farm.core);
}

#[test]
fn a_beginning_that_cannot_be_written_fails_its_task() {
    let mut farm = farm();
    let (client, engine) = (farm.client(), farm.engine());
    farm.disk.is_slow = true;
    let n = submit(&mut farm, client, shared(), once());
    farm.sync_once();
    farm.fail_to_sync();
    farm.sync();
    assert_eq!(farm.end_of(client, n), Some((TaskState::Failed, Some(ErrorKind::Journal))));
    assert!(farm.assigned(engine).is_empty());
    invariants::hold(&farm.core);
}

#[test]
fn without_a_journal_nothing_is_durable_and_contradictions_are_refused() {
    let mut farm = Farm::default();
    let client = farm.client();
    let n = submit(&mut farm, client, shared(), durable());
    assert!(farm.error_of(client, n).contains("--journal"), "{}", farm.error_of(client, n));

    let mut farm = self::farm();
    let client = farm.client();
    let memory = farm.submit(client, shared());
    let behind = TaskOptions { after: vec![on_success(farm.task(client, memory))], ..durable() };
    let n = submit(&mut farm, client, shared(), behind);
    assert_eq!(farm.end_of(client, n), Some((TaskState::Failed, Some(ErrorKind::Unsupported))));
    let leaves = farm.absent_client(furlong_wire::token::Role::Client);
    farm.clients[leaves].cancel_on_disconnect = true;
    farm.connect_client(leaves).unwrap();
    let n = submit(&mut farm, leaves, shared(), durable());
    assert_eq!(farm.end_of(leaves, n), Some((TaskState::Failed, Some(ErrorKind::Unsupported))));
}

#[test]
fn tasks_of_a_client_that_is_gone_outlive_the_broker() {
    let mut farm = farm();
    let (client, engine) = (farm.client(), farm.engine());
    let kept = TaskOptions { label: Some("mine".into()), priority: 3, ..durable() };
    let tasks =
        [submit(&mut farm, client, shared(), kept), submit(&mut farm, client, shared(), durable())];
    farm.finish(engine);
    farm.goodbye(client);
    farm.restart();
    farm.connect_engine(engine);
    farm.finish(engine);
    let other = farm.client();
    for n in tasks {
        let request = farm.fetch(other, client, n, true, false);
        let fetched = farm.fetched(other, request).unwrap();
        assert_eq!(fetched.record.outcome.unwrap().state, TaskState::Succeeded);
        assert!(fetched.payload.is_some() && fetched.secret.is_some());
    }
    let request = farm.fetch(other, client, tasks[0], false, false);
    assert_eq!(farm.fetched(other, request).unwrap().record.label.as_deref(), Some("mine"));
    invariants::hold(&farm.core);
}

#[test]
fn what_the_disk_does_not_have_was_never_accepted() {
    let mut farm = slow_farm();
    let (client, engine) = (farm.client(), farm.engine());
    let n = submit(&mut farm, client, shared(), durable());
    farm.restart();
    farm.connect_engine(engine);
    assert!(farm.assigned(engine).is_empty());
    farm.disk.is_slow = false;
    farm.connect_client(client).unwrap();
    let mut again = with(shared(), TaskOptions { repeated: true, ..durable() });
    again.n = TaskSeq(n);
    farm.say(client, FromClient::Submit(again)).unwrap();
    assert_eq!(farm.assigned(engine), [n], "its client submits it again");
}

#[test]
fn what_only_a_cut_connection_to_one_start_had_carried_has_not_run_before_the_next_start() {
    let mut farm = farm();
    let client = farm.client();
    // It had submitted it on a connection of which nothing arrived, and says it once more.
    farm.repeat(client, 1, with(shared(), once()));
    farm.clients[client].submitted = 1;
    farm.restart();
    farm.connect_client(client).unwrap();
    let engine = farm.engine();
    farm.wait(Duration::from_secs(700));
    assert_eq!(farm.assigned(engine), [1]);
    farm.finish(engine);
    assert_eq!(farm.end_of(client, 1), DONE);
}

#[test]
fn a_client_that_comes_back_submits_again_what_the_journal_does_not_have() {
    let mut farm = farm();
    let client = farm.client();
    let memory = farm.submit(client, shared());
    let first = submit(&mut farm, client, shared(), durable());
    let second = farm.submit(client, shared());
    farm.restart();
    assert!(farm.connect_client(client).unwrap());
    let accepted = farm.accepted(client);
    assert_eq!(
        (accepted.n, accepted.missing),
        (
            TaskSeq(second),
            vec![(TaskSeq(memory), TaskSeq(memory)), (TaskSeq(second), TaskSeq(second))]
        )
    );
    while farm.send_chunk(client) {}
    let engine = farm.engine();
    let mut ended = Vec::new();
    while !farm.assigned(engine).is_empty() {
        ended.push(farm.finish(engine));
    }
    ended.sort_unstable();
    assert_eq!(ended, [memory, first, second], "each once");
    invariants::hold(&farm.core);
}

#[test]
fn an_end_that_was_on_disk_is_delivered_after_a_restart_and_its_task_does_not_run_again() {
    let mut farm = farm();
    let (client, engine) = (farm.client(), farm.engine());
    let n = submit(&mut farm, client, shared(), durable());
    farm.disconnect_client(client);
    farm.finish(engine);
    farm.restart();
    farm.connect_engine(engine);
    farm.wait(Duration::from_secs(2));
    assert!(farm.assigned(engine).is_empty());
    farm.connect_client(client).unwrap();
    assert_eq!((farm.end_of(client, n), farm.deliveries(client, n)), (DONE, 1));
}

#[test]
fn an_end_that_was_not_on_disk_is_asked_of_the_engine_that_holds_it() {
    let mut farm = farm();
    let (client, engine) = (farm.client(), farm.engine());
    let n = submit(&mut farm, client, shared(), once());
    farm.start(engine);
    farm.disk.is_slow = true;
    farm.finish(engine);
    farm.restart();
    farm.disk.is_slow = false;
    farm.connect_client(client).unwrap();
    farm.connect_engine(engine);
    assert_eq!(farm.end_of(client, n), DONE);
    assert!(farm.assigned(engine).is_empty());
}

#[test]
fn what_a_client_knows_to_have_ended_does_not_count_when_it_comes_back() {
    for is_acknowledged in [false, true] {
        let mut farm = farm();
        let (client, engine) = (farm.absent_client(Role::Client), farm.engine());
        farm.clients[client].limits.unfinished_tasks_max = 2;
        farm.connect_client(client).unwrap();
        let limit = TaskOptions { queue_timeout_ms: Some(300), ..durable() };
        if is_acknowledged {
            submit(&mut farm, client, shared(), limit);
            farm.finish(engine);
            farm.disk.is_slow = true;
            farm.ack(client, 1, 1);
        } else {
            farm.disconnect_engine(engine);
            submit(&mut farm, client, shared(), limit);
            farm.disk.is_slow = true;
            farm.wait(Duration::from_secs(1));
            farm.lose_unwritten();
            farm.ack(client, 1, 1);
        }
        assert!(farm.end_of(client, 1).is_some());
        let others = [farm.submit(client, shared()), farm.submit(client, shared())];
        farm.restart();
        farm.wait(Duration::from_millis(1));
        farm.connect_client(client).unwrap();
        invariants::hold(&farm.core);
        assert_eq!(farm.accepted(client).missing, [(TaskSeq(others[0]), TaskSeq(others[1]))]);
    }
}

#[test]
fn a_task_that_may_run_once_and_may_have_begun_is_lost_with_its_engine_one_that_has_not_runs() {
    let mut farm = farm();
    let (client, engine) = (farm.client(), farm.engine());
    let begun = submit(&mut farm, client, shared(), once());
    let queued = submit(&mut farm, client, shared(), once());
    farm.restart();
    let other = farm.engine();
    farm.wait(Duration::from_secs(1));
    assert_eq!(farm.assigned(other), [queued]);
    farm.wait(Duration::from_secs(20));
    farm.connect_client(client).unwrap();
    assert_eq!(farm.end_of(client, begun).unwrap().0, TaskState::Lost);
    let _ = engine;
}

#[test]
fn dependencies_are_as_they_were() {
    let mut farm = farm();
    let (client, engine) = (farm.client(), farm.engine());
    let first = submit(&mut farm, client, shared(), durable());
    let second = submit(&mut farm, client, shared(), durable());
    let after_both =
        vec![on_success(farm.task(client, first)), on_success(farm.task(client, second))];
    let last = submit(&mut farm, client, shared(), TaskOptions { after: after_both, ..durable() });
    assert_eq!(farm.finish(engine), first);
    // It ended as demanded, and nobody remembers it but who waits for it.
    farm.ack(client, first, first);
    farm.goodbye(client);
    farm.restart();
    farm.connect_engine(engine);
    assert_eq!(farm.assigned(engine), [second]);
    farm.finish(engine);
    assert_eq!(farm.assigned(engine), [last]);
    invariants::hold(&farm.core);
}

#[test]
fn a_condition_stays_met_though_its_end_alone_was_on_disk_when_the_broker_was_killed() {
    let mut farm = farm();
    let (client, engine) = (farm.client(), farm.engine());
    let first = submit(&mut farm, client, shared(), durable());
    let second = submit(&mut farm, client, shared(), durable());
    let after_both =
        vec![on_success(farm.task(client, first)), on_success(farm.task(client, second))];
    let last = submit(&mut farm, client, shared(), TaskOptions { after: after_both, ..durable() });
    farm.disk.is_slow = true;
    assert_eq!(farm.finish(engine), first);
    farm.disk.unwritten.truncate(1);
    assert!(matches!(farm.disk.unwritten[0].1, Entry::Ended(_)));
    farm.sync_once();
    farm.restart();
    farm.disk.is_slow = false;
    farm.connect_client(client).unwrap();
    farm.ack(client, first, first);
    farm.restart();
    farm.connect_engine(engine);
    assert_eq!(farm.assigned(engine), [second]);
    farm.finish(engine);
    assert_eq!(farm.assigned(engine), [last]);
    invariants::hold(&farm.core);
}

#[test]
fn a_task_is_written_after_those_for_which_it_waits() {
    let mut farm = slow_farm();
    let client = farm.client();
    let payload = farm.clients[client].sending.chunked(100_000);
    let large = submit(&mut farm, client, Submit { payload, ..shared() }, durable());
    let behind = TaskOptions { after: vec![on_success(farm.task(client, large))], ..durable() };
    let middle = submit(&mut farm, client, shared(), behind);
    let behind = TaskOptions { after: vec![on_success(farm.task(client, middle))], ..durable() };
    submit(&mut farm, client, shared(), behind);
    assert!(farm.disk.unwritten.is_empty());
    farm.send_chunk(client);
    farm.sync();
    assert_eq!(farm.disk.journal.counts(), (3, 0));
    invariants::hold(&farm.core);
}

#[test]
fn arguments_that_engines_share_and_definitions_come_back() {
    let mut farm = farm();
    let (client, a, b) = (farm.client(), farm.engine(), farm.engine());
    let payload = farm.clients[client].sending.chunked(300_000);
    let both = direct(&[farm.id(a), farm.id(b)]);
    let source = farm.clients[client].sending.chunked(2_000);
    farm.say(client, FromClient::Define(Define { number: 1, payload: source })).unwrap();
    let first = submit(&mut farm, client, Submit { payload, define: Some(1), ..both }, durable());
    while farm.send_chunk(client) {}
    farm.restart();
    assert_eq!(farm.core.memory.budget.state().0, 302_000);
    farm.connect_engine(a);
    farm.connect_engine(b);
    assert_eq!((farm.finish(a), farm.finish(b)), (first, first + 1));
    farm.connect_client(client).unwrap();
    farm.ack(client, first, first + 1);
    assert_eq!(farm.core.memory.budget.state().0, 2_000, "the definition alone");
    farm.goodbye(client);
    assert_eq!(farm.core.memory.budget.state().0, 0);
    assert_eq!(farm.disk.journal.counts(), (0, 0));
}

#[test]
fn unread_results_that_came_unasked_come_back_beside_a_full_budget() {
    let mut farm = Farm::with_journal(1 << 20, 1_000);
    let engine = farm.engine();
    let nowhere = TaskOptions { require: vec!["gpu".to_owned()], ..durable() };
    for _ in 0..2 {
        let client = farm.client();
        let payload = farm.clients[client].sending.chunked(262_000);
        submit(&mut farm, client, Submit { payload, ..shared() }, nowhere.clone());
        while farm.send_chunk(client) {}
    }
    let waiting = farm.core.memory.budget.state().0;
    // Results that are asked for may take three quarters with these; the last two come unasked.
    let sizes = [111_500, 70_000, 40_000, 20_000, 10_000, 6_000, 6_000];
    let clients = sizes.map(|bytes| {
        let client = farm.client();
        let n = submit(&mut farm, client, shared(), durable());
        let payload = farm.processes[engine].large_result(bytes);
        assert_eq!(farm.finish_with(engine, Outcome::SUCCEEDED, 1_000_000, Some(payload)), n);
        while farm.send_result_chunk(engine) {}
        (client, n)
    });
    let all = waiting + sizes.iter().sum::<u64>();
    assert_eq!(farm.core.memory.budget.state().0, all);
    assert!(all > farm.core.memory.budget.payload_bytes_max(), "{all} bytes");
    farm.restart();
    assert_eq!(farm.core.memory.budget.state().0, all, "each is here again");
    farm.connect_engine(engine);
    for (client, n) in clients {
        farm.connect_client(client).unwrap();
        farm.ack(client, n, n);
    }
    assert_eq!(farm.core.memory.budget.state().0, waiting);
    invariants::hold(&farm.core);
}

#[test]
fn a_direct_task_whose_engine_is_gone_for_good_is_lost() {
    let mut farm = farm();
    let (client, engine) = (farm.client(), farm.engine());
    let to_engine = direct(&[farm.id(engine)]);
    let n = submit(&mut farm, client, to_engine, durable());
    farm.restart();
    farm.wait(Duration::from_secs(16));
    farm.connect_client(client).unwrap();
    assert_eq!(farm.end_of(client, n), Some((TaskState::Lost, Some(ErrorKind::EngineLost))));
    invariants::hold(&farm.core);
}

#[test]
fn ended_tasks_stay_as_long_as_the_journal_keeps_them() {
    let mut farm = farm();
    let (client, engine) = (farm.client(), farm.engine());
    submit(&mut farm, client, shared(), durable());
    farm.finish(engine);
    farm.goodbye(client);
    farm.wait(JOURNAL_KEEP / 2);
    farm.restart();
    assert_eq!(farm.disk.journal.counts(), (1, 1));
    farm.wait(JOURNAL_KEEP);
    assert_eq!(farm.disk.journal.counts(), (0, 0));
}

#[test]
fn a_time_to_wait_goes_on_while_there_is_no_broker() {
    let mut farm = farm();
    let client = farm.client();
    let n = submit(
        &mut farm,
        client,
        shared(),
        TaskOptions { queue_timeout_ms: Some(10_000), ..durable() },
    );
    farm.wait(Duration::from_secs(7));
    farm.restart();
    farm.connect_client(client).unwrap();
    farm.wait(Duration::from_secs(2));
    assert_eq!(farm.end_of(client, n), None);
    farm.wait(Duration::from_secs(2));
    assert_eq!(farm.end_of(client, n), Some((TaskState::TimedOut, Some(ErrorKind::QueueTimeout))));
}

#[test]
fn a_client_that_knows_ends_that_could_not_be_written_is_not_closed_for_submitting_more() {
    let mut farm = Farm::with_journal(8 << 20, 2);
    let (client, engine) = (farm.client(), farm.engine());
    let tasks = [(); 2].map(|()| submit(&mut farm, client, shared(), durable()));
    farm.disk.is_slow = true;
    farm.finish(engine);
    farm.finish(engine);
    farm.lose_unwritten();
    assert_eq!(tasks.map(|n| farm.end_of(client, n)), [DONE; 2]);
    farm.ack(client, tasks[0], tasks[1]);
    farm.restart();
    farm.connect_client(client).unwrap();
    let next = [farm.submit(client, shared()), farm.submit(client, shared())];
    let busy = Some((TaskState::Failed, Some(ErrorKind::Busy)));
    assert_eq!(next.map(|n| farm.end_of(client, n)), [busy; 2], "the broker as a whole takes two");
    invariants::hold(&farm.core);
}

#[test]
fn a_result_is_held_by_its_engine_until_an_end_that_could_not_be_written_is() {
    let mut farm = farm();
    let (client, engine) = (farm.client(), farm.engine());
    let to_engine = direct(&[farm.id(engine)]);
    let n = submit(&mut farm, client, to_engine, once());
    farm.start(engine);
    farm.disk.is_slow = true;
    farm.finish(engine);
    farm.lose_unwritten();
    farm.ack(client, n, n);
    farm.core.handle_tick();
    farm.pump();
    assert_eq!((farm.end_of(client, n), farm.released(engine).len()), (DONE, 0));
    farm.sync();
    farm.core.handle_tick();
    farm.pump();
    assert_eq!(farm.released(engine).len(), 1);
}

#[test]
fn what_may_run_once_does_not_run_again_when_its_end_was_told_and_not_written() {
    let mut farm = farm();
    let (client, engine) = (farm.client(), farm.engine());
    let to_engine = direct(&[farm.id(engine)]);
    let n = submit(&mut farm, client, to_engine, once());
    farm.start(engine);
    farm.disk.is_slow = true;
    farm.finish(engine);
    farm.lose_unwritten();
    farm.ack(client, n, n);
    farm.core.handle_tick();
    farm.pump();
    farm.restart();
    farm.connect_engine(engine);
    farm.wait(Duration::from_secs(20));
    assert!(farm.assigned(engine).is_empty());
}

#[test]
fn a_task_behind_several_that_are_noted_in_one_go_is_noted_once() {
    let mut farm = farm();
    let client = farm.client();
    let payload = farm.clients[client].sending.chunked(2_000);
    let first = submit(&mut farm, client, Submit { payload, ..shared() }, durable());
    let second_waits =
        TaskOptions { after: vec![on_success(farm.task(client, first))], ..durable() };
    let second = submit(&mut farm, client, shared(), second_waits);
    let after = vec![on_success(farm.task(client, first)), on_success(farm.task(client, second))];
    let third = submit(&mut farm, client, shared(), TaskOptions { after, ..durable() });
    while farm.send_chunk(client) {}
    let engine = farm.engine();
    assert_eq!([(); 3].map(|()| farm.finish(engine)), [first, second, third]);
    invariants::hold(&farm.core);
}

#[test]
fn what_a_client_had_to_submit_once_more_is_in_its_place_after_the_next_restart() {
    let mut farm = farm();
    let (client, engine) = (farm.client(), farm.engine());
    let to_engine = direct(&[farm.id(engine)]);
    farm.disconnect_engine(engine);
    farm.disk.is_slow = true;
    let first = submit(&mut farm, client, to_engine.clone(), durable());
    farm.disk.unwritten.retain(|(_, entry)| !matches!(entry, Entry::Task(_)));
    let second = submit(&mut farm, client, to_engine, durable());
    farm.sync();
    farm.disk.is_slow = false;
    farm.restart();
    farm.connect_client(client).unwrap();
    farm.restart();
    invariants::hold(&farm.core);
    farm.connect_engine(engine);
    assert_eq!([(); 2].map(|()| farm.finish(engine)), [first, second]);
}

#[test]
fn who_waits_for_a_task_hears_of_its_end_though_it_is_purged_before_that_is_on_disk() {
    let mut farm = farm();
    let (client, other, engine) = (farm.client(), farm.client(), farm.engine());
    let n = submit(&mut farm, client, shared(), durable());
    let request = farm.fetch(other, client, n, true, false);
    let id = farm.task(client, n);
    farm.goodbye(client);
    farm.disk.is_slow = true;
    farm.finish(engine);
    let tasks = vec![TaskRange { session: id.session, first: TaskSeq(n), last: TaskSeq(n) }];
    farm.say(other, FromClient::Purge(Purge { request: 99, tasks })).unwrap();
    assert!(farm.fetched(other, request).is_none());
    farm.sync();
    assert_eq!(
        farm.fetched(other, request).unwrap().record.outcome.unwrap().state,
        TaskState::Succeeded
    );
    assert_eq!(farm.disk.journal.counts(), (0, 0));
    invariants::hold(&farm.core);
}

#[test]
fn an_end_is_fetched_when_it_is_on_disk_also_of_a_session_that_is_over() {
    let mut farm = farm();
    let (client, other, engine) = (farm.client(), farm.client(), farm.engine());
    let n = submit(&mut farm, client, shared(), durable());
    farm.goodbye(client);
    farm.disk.is_slow = true;
    farm.finish(engine);
    let request = farm.fetch(other, client, n, true, false);
    assert!(farm.fetched(other, request).is_none());
    farm.sync();
    assert_eq!(
        farm.fetched(other, request).unwrap().record.outcome.unwrap().state,
        TaskState::Succeeded
    );
    invariants::hold(&farm.core);
}

#[test]
fn tasks_for_an_engine_are_written_in_their_order() {
    for is_cancelled in [false, true] {
        let mut farm = farm();
        let (client, engine) = (farm.client(), farm.engine());
        let to_engine = direct(&[farm.id(engine)]);
        farm.disconnect_engine(engine);
        let payload = farm.clients[client].sending.chunked(2_000);
        let large = submit(&mut farm, client, Submit { payload, ..to_engine.clone() }, durable());
        let behind = [(); 2].map(|()| submit(&mut farm, client, to_engine.clone(), durable()));
        assert_eq!(
            farm.disk.journal.counts(),
            (0, 0),
            "what stands behind it does not go on without it"
        );
        if is_cancelled {
            farm.cancel(client, large, large);
        }
        while farm.send_chunk(client) {}
        invariants::hold(&farm.core);
        farm.restart();
        farm.connect_engine(engine);
        let first = (!is_cancelled).then_some(large);
        for n in first.into_iter().chain(behind) {
            assert_eq!(farm.finish(engine), n);
        }
        invariants::hold(&farm.core);
    }
}
