//! Client requests about tasks of other sessions and about engines.

use std::time::Duration;

use furlong_wire::ids::{EngineId, TaskSeq};
use furlong_wire::message::{
    Cancel, CancelTasks, Draining, ErrorKind, FromClient, FromEngine, ReplyBody, Restart, Runtime,
    Shutdown, Signal, TakeBack, TaskOptions, TaskRange, TaskState, ToEngine,
};
use furlong_wire::token::Role;

use crate::core::tests::farm::peers::{Farm, at_most_once, direct, python, shared, with};
use crate::core::turns::work::TASKS_PER_PART;
use crate::core::{PeerMisbehaved, invariants};

const SUCCEEDED: Option<(TaskState, Option<ErrorKind>)> = Some((TaskState::Succeeded, None));
const CANCELLED: Option<(TaskState, Option<ErrorKind>)> =
    Some((TaskState::Cancelled, Some(ErrorKind::Cancelled)));
const LOST: Option<(TaskState, Option<ErrorKind>)> =
    Some((TaskState::Lost, Some(ErrorKind::EngineLost)));

fn restart_safe() -> TaskOptions {
    TaskOptions { restart_safe: true, ..TaskOptions::default() }
}

fn outsider(farm: &mut Farm, role: Role) -> usize {
    let outsider = farm.absent_client(role);
    farm.clients[outsider].owner = 8;
    farm.connect_client(outsider).unwrap();
    outsider
}

fn restart(farm: &mut Farm, client: usize, engines: &[EngineId]) -> u64 {
    let engines = engines.to_vec();
    farm.ask(client, |request| FromClient::Restart(Restart { request, engines }))
}

fn shutdown(farm: &mut Farm, engines: Option<Vec<EngineId>>) -> Option<ReplyBody> {
    let admin = farm.client_as(Role::Admin);
    let ask =
        |request| FromClient::Shutdown(Shutdown { request, engines, finish: true, broker: false });
    let request = farm.ask(admin, ask);
    farm.reply(admin, request)
}

fn all_of(farm: &Farm, client: usize) -> TaskRange {
    let session = farm.clients[client].session;
    TaskRange { session, first: TaskSeq::FIRST, last: TaskSeq::MAX }
}

fn forced_cancel(n: u64) -> FromClient {
    FromClient::Cancel(Cancel { ranges: vec![(TaskSeq(n), TaskSeq(n))], force: true })
}

fn cancels(farm: &mut Farm, client: usize, of: usize) -> Option<ReplyBody> {
    let tasks = vec![all_of(farm, of)];
    let ask = |request| FromClient::CancelTasks(CancelTasks { request, tasks, force: false });
    let request = farm.ask(client, ask);
    farm.reply(client, request)
}

fn signals(farm: &Farm, process: usize) -> Vec<usize> {
    let attempts = |message: &ToEngine| {
        if let ToEngine::Signal(it) = message { Some(it.attempts.len()) } else { None }
    };
    farm.processes[process].received.iter().filter_map(attempts).collect()
}

#[test]
fn the_owner_cancels_tasks_of_any_of_its_sessions_and_nobody_else_does() {
    let mut farm = Farm::default();
    let (client, other, engine) = (farm.client(), farm.client(), farm.engine());
    let outsider = outsider(&mut farm, Role::Client);
    (0..3).for_each(|_| _ = farm.submit(client, shared()));
    farm.finish(engine);
    assert_eq!(cancels(&mut farm, outsider, client), Some(ReplyBody::Cancelled(0, 0)));
    assert_eq!(cancels(&mut farm, other, client), Some(ReplyBody::Cancelled(2, 1)));
    assert_eq!([1, 2, 3].map(|n| farm.end_of(client, n)), [SUCCEEDED, CANCELLED, CANCELLED]);
    assert_eq!(cancels(&mut farm, other, client), Some(ReplyBody::Cancelled(0, 3)));
}

fn takes_back(farm: &mut Farm, client: usize, of: usize) -> Option<ReplyBody> {
    let tasks = vec![all_of(farm, of)];
    let request = farm.ask(client, |request| FromClient::TakeBack(TakeBack { request, tasks }));
    farm.reply(client, request)
}

#[test]
fn what_has_not_begun_is_taken_back_and_what_has_goes_on() {
    let mut farm = Farm::default();
    let (client, engine) = (farm.client(), farm.engine());
    let outsider = outsider(&mut farm, Role::Client);
    let id = farm.id(engine);
    // Of a short kind several are given at once.
    farm.submit(client, direct(&[id]));
    farm.finish_after(engine, 10);
    (0..3).for_each(|_| _ = farm.submit(client, direct(&[id])));
    farm.submit(client, with(shared(), at_most_once()));
    assert_eq!(farm.assigned(engine), [2, 3, 4]);
    assert_eq!(takes_back(&mut farm, outsider, client), Some(ReplyBody::Cancelled(0, 0)));
    assert_eq!(takes_back(&mut farm, client, client), Some(ReplyBody::Cancelled(4, 1)));
    assert_eq!(farm.end_of(client, 5), CANCELLED, "it was in the queue");
    assert_eq!(
        [2, 3, 4].map(|n| farm.end_of(client, n)),
        [None; 3],
        "what has begun the engine knows"
    );
    assert_eq!(farm.answer_recalls(engine), [3, 4]);
    assert_eq!([3, 4].map(|n| farm.end_of(client, n)), [CANCELLED; 2]);
    farm.start(engine);
    assert_eq!(takes_back(&mut farm, client, client), Some(ReplyBody::Cancelled(0, 4)));
    assert_eq!(farm.finish(engine), 2);
    assert_eq!((farm.end_of(client, 2), farm.assigned(engine)), (SUCCEEDED, vec![]));
    invariants::hold(&farm.core);
}

#[test]
fn what_shall_be_taken_back_from_an_engine_that_is_lost_runs_elsewhere() {
    let mut farm = Farm::default();
    let (client, engine) = (farm.client(), farm.engine());
    farm.submit(client, shared());
    assert_eq!(takes_back(&mut farm, client, client), Some(ReplyBody::Cancelled(1, 0)));
    farm.disconnect_engine(engine);
    let other = farm.engine();
    assert_eq!((farm.finish(other), farm.end_of(client, 1)), (1, SUCCEEDED));
    invariants::hold(&farm.core);
}

#[test]
fn what_shall_be_taken_back_ends_when_its_engine_is_back_without_it() {
    let mut farm = Farm::default();
    let (client, engine) = (farm.client(), farm.engine());
    let id = farm.id(engine);
    for has_come in [true, false] {
        for submit in [with(shared(), at_most_once()), direct(&[id]), python(direct(&[id]))] {
            let n = farm.submit(client, submit);
            assert!(matches!(
                takes_back(&mut farm, client, client),
                Some(ReplyBody::Cancelled(1, _))
            ));
            // Either the engine has given it back, which was lost with the connection, or it never
            // had it.
            let job = farm.processes[engine].jobs.pop().unwrap();
            farm.processes[engine].last_received = has_come.then_some(job.attempt);
            farm.disconnect_engine(engine);
            assert_eq!(farm.end_of(client, n), None, "it may have begun");
            farm.connect_engine(engine);
            invariants::hold(&farm.core);
            assert_eq!((farm.end_of(client, n), farm.assigned(engine)), (CANCELLED, vec![]));
        }
    }
}

#[test]
fn what_shall_be_taken_back_and_has_begun_goes_on_through_a_cut() {
    let mut farm = Farm::default();
    let (client, engine) = (farm.client(), farm.engine());
    let n = farm.submit(client, direct(&[farm.id(engine)]));
    assert_eq!(takes_back(&mut farm, client, client), Some(ReplyBody::Cancelled(1, 0)));
    farm.disconnect_engine(engine);
    farm.connect_engine(engine);
    assert_eq!((farm.finish(engine), farm.end_of(client, n)), (n, SUCCEEDED));
}

#[test]
fn a_cancelled_task_is_said_to_have_stopped_once_when_its_engine_has_ended_it() {
    let mut farm = Farm::default();
    let (client, engine) = (farm.client(), farm.engine());
    (0..2).for_each(|_| _ = farm.submit(client, shared()));
    farm.cancel(client, 1, 2);
    assert!(farm.stopped(client).is_empty());
    farm.finish(engine);
    assert_eq!(farm.stopped(client), [1], "the other one was not given to an engine");
}

#[test]
fn a_cut_does_not_say_that_a_cancelled_task_has_stopped() {
    for comes_back in [true, false] {
        let mut farm = Farm::default();
        let (client, engine) = (farm.client(), farm.engine());
        farm.submit(client, shared());
        farm.cancel(client, 1, 1);
        farm.disconnect_engine(engine);
        assert!(farm.stopped(client).is_empty(), "it may still run behind the cut");
        if comes_back {
            farm.connect_engine(engine);
            assert!(farm.stopped(client).is_empty());
            farm.finish(engine);
        } else {
            farm.wait(Duration::from_secs(15));
        }
        assert_eq!(farm.stopped(client), [1]);
        invariants::hold(&farm.core);
    }
}

#[test]
fn a_task_that_is_cancelled_while_its_engine_is_away_is_ended_when_that_is_back() {
    let mut farm = Farm::default();
    let (client, engine) = (farm.client(), farm.engine());
    farm.submit(client, direct(&[farm.id(engine)]));
    farm.start(engine);
    farm.disconnect_engine(engine);
    farm.cancel(client, 1, 1);
    assert_eq!(farm.end_of(client, 1), CANCELLED);
    farm.connect_engine(engine);
    assert_eq!(farm.processes[engine].cancelled.len(), 1);
    farm.finish(engine);
    assert_eq!(farm.stopped(client), [1]);
}

#[test]
fn a_plain_cancel_never_kills_an_interpreter_and_a_forced_one_may() {
    let mut farm = Farm::default();
    let (client, engine) = (farm.client(), farm.engine());
    let forces = |farm: &Farm| {
        let force = |message: &ToEngine| {
            if let ToEngine::Cancel(it) = message { Some(it.force) } else { None }
        };
        farm.processes[engine].received.iter().filter_map(force).collect::<Vec<_>>()
    };
    let n = farm.submit(client, shared());
    farm.cancel(client, n, n);
    assert_eq!(forces(&farm), [false], "nobody has left anything, as far as the broker knows");
    farm.finish(engine);
    farm.submit(client, direct(&[farm.id(engine)]));
    farm.finish(engine);
    let n = farm.submit(client, shared());
    farm.cancel(client, n, n);
    assert_eq!(forces(&farm), [false, false], "its own session has left something");
    farm.say(client, forced_cancel(n)).unwrap();
    assert_eq!(forces(&farm), [false, false, true]);
}

#[test]
fn what_its_owner_submits_after_a_forced_cancel_is_for_the_next_interpreter() {
    let mut farm = Farm::default();
    let (client, engine) =
        (farm.client(), farm.engine_with(1, &[Runtime::Python, Runtime::Native]));
    let outsider = outsider(&mut farm, Role::Client);
    let here = python(direct(&[farm.id(engine)]));
    let runs = farm.submit(client, here.clone());
    let before = farm.submit(client, here.clone());
    farm.wait(Duration::from_millis(1));
    farm.say(client, forced_cancel(runs)).unwrap();
    farm.wait(Duration::from_millis(1));
    let later = farm.client();
    let after = farm.submit(later, here.clone());
    let of_outsider = farm.submit(outsider, here);
    assert_eq!(
        farm.assigned(engine).len(),
        1,
        "nothing more begins in the interpreter that is to be killed"
    );
    farm.slot_down(engine, 0);
    farm.finish(engine);
    assert_eq!((farm.end_of(client, before), farm.end_of(outsider, of_outsider)), (LOST, LOST));
    farm.finish(engine);
    assert_eq!(farm.end_of(later, after), SUCCEEDED);
    invariants::hold(&farm.core);
}

#[test]
fn a_forced_cancel_that_took_effect_says_nothing_about_a_later_death() {
    let mut farm = Farm::default();
    let (client, engine) =
        (farm.client(), farm.engine_with(1, &[Runtime::Python, Runtime::Native]));
    let here = python(direct(&[farm.id(engine)]));
    let runs = farm.submit(client, here.clone());
    farm.say(client, forced_cancel(runs)).unwrap();
    farm.wait(Duration::from_millis(1));
    farm.finish(engine);
    let dies = farm.submit(client, here.clone());
    let behind = farm.submit(client, here);
    farm.slot_down(engine, 0);
    farm.fail(engine);
    assert_ne!(farm.end_of(client, dies), None);
    assert_eq!(farm.end_of(client, behind), LOST);
}

#[test]
fn a_cancel_that_was_ignored_can_be_forced_afterwards() {
    let mut farm = Farm::default();
    let (client, other, engine) = (farm.client(), farm.client(), farm.engine());
    farm.submit(other, direct(&[farm.id(engine)]));
    farm.finish(engine);
    let n = farm.submit(client, shared());
    let force = |farm: &mut Farm, of, first, last| {
        let ranges = vec![(TaskSeq(first), TaskSeq(last))];
        farm.say(of, FromClient::Cancel(Cancel { ranges, force: true })).unwrap();
        let force = |message: &ToEngine| {
            if let ToEngine::Cancel(it) = message { Some(it.force) } else { None }
        };
        farm.processes[engine].received.iter().filter_map(force).collect::<Vec<_>>()
    };
    farm.cancel(client, n, n);
    assert_eq!(force(&mut farm, other, 1, u64::MAX), [false], "another session's");
    assert_eq!(force(&mut farm, client, n + 1, u64::MAX), [false], "another task");
    assert_eq!(force(&mut farm, client, 1, n), [false, true]);
    farm.finish(engine);
    assert_eq!(farm.stopped(client), [n]);
    assert_eq!(force(&mut farm, client, 1, n), [false, true], "it has stopped");
}

#[test]
fn a_client_that_was_away_learns_that_its_cancelled_task_has_stopped() {
    let mut farm = Farm::default();
    let (client, engine) = (farm.client(), farm.engine());
    for n in 1..=2 {
        farm.submit(client, shared());
        farm.cancel(client, n, n);
        farm.disconnect_client(client);
        if n == 1 {
            farm.finish(engine);
        }
        farm.connect_client(client).unwrap();
        assert_eq!(farm.stopped(client), [1], "the second one still runs");
        farm.ack(client, 1, 1);
    }
    farm.finish(engine);
    assert_eq!(farm.stopped(client), [1, 2]);
}

#[test]
fn a_signal_reaches_what_its_owners_tasks_run_there() {
    let mut farm = Farm::default();
    let (client, other, engine) = (farm.client(), farm.client(), farm.engine());
    let outsider = outsider(&mut farm, Role::Client);
    let engines = vec![farm.id(engine)];
    farm.submit(client, shared());
    let ask = |farm: &mut Farm, client, signal, engines: &[EngineId]| {
        let engines = engines.to_vec();
        let request =
            farm.ask(client, |request| FromClient::Signal(Signal { request, engines, signal }));
        farm.reply(client, request)
    };
    assert_eq!(ask(&mut farm, outsider, 2, &engines), Some(ReplyBody::Done));
    assert!(signals(&farm, engine).is_empty(), "it has nothing there");
    assert_eq!(ask(&mut farm, other, 2, &engines), Some(ReplyBody::Done));
    assert_eq!(signals(&farm, engine), [1]);
    assert!(matches!(ask(&mut farm, other, 65, &engines), Some(ReplyBody::Refused(_))));
    assert!(matches!(ask(&mut farm, other, 2, &[EngineId(9)]), Some(ReplyBody::Refused(_))));
}

#[test]
fn a_restart_is_answered_when_the_old_interpreter_is_gone() {
    let mut farm = Farm::default();
    let (client, engine) = (farm.client(), farm.engine());
    let to_engine = python(direct(&[farm.id(engine)]));
    (0..2).for_each(|_| _ = farm.submit(client, to_engine.clone()));
    farm.submit(client, with(to_engine.clone(), restart_safe()));
    let id = farm.id(engine);
    let request = restart(&mut farm, client, &[id]);
    assert_eq!(farm.end_of(client, 2), LOST, "it was queued for the old one");
    farm.submit(client, to_engine);
    assert_eq!(
        (farm.assigned(engine), farm.restarts(engine), farm.reply(client, request)),
        (vec![1], 1, None)
    );
    farm.slot_down(engine, 0);
    assert_eq!(farm.reply(client, request), Some(ReplyBody::Done));
    farm.fail(engine);
    assert_eq!(
        [farm.finish(engine), farm.finish(engine)],
        [3, 4],
        "what came later is for the new one"
    );
    invariants::hold(&farm.core);
}

#[test]
fn a_restart_is_answered_when_the_engine_is_gone() {
    let mut farm = Farm::default();
    let (client, one, two) = (farm.client(), farm.engine(), farm.engine());
    let both = [farm.id(one), farm.id(two)];
    let request = restart(&mut farm, client, &both);
    farm.slot_down(one, 0);
    assert_eq!(farm.reply(client, request), None);
    farm.disconnect_engine(two);
    assert_eq!(farm.reply(client, request), Some(ReplyBody::Done));
    let request = restart(&mut farm, client, &both);
    let reply = farm.reply(client, request);
    assert!(matches!(reply, Some(ReplyBody::Refused(text)) if text.contains("not connected")));
}

#[test]
fn two_requests_for_one_restart_are_one_restart() {
    let mut farm = Farm::default();
    let (client, engine) = (farm.client(), farm.engine());
    let id = farm.id(engine);
    let requests = [restart(&mut farm, client, &[id]), restart(&mut farm, client, &[id])];
    farm.submit(client, python(direct(&[id])));
    assert_eq!(farm.restarts(engine), 1);
    farm.slot_down(engine, 0);
    assert!(requests.iter().all(|request| farm.reply(client, *request) == Some(ReplyBody::Done)));
    farm.finish(engine);
    assert_eq!(farm.end_of(client, 1), SUCCEEDED);
}

#[test]
fn restarts_that_wait_are_bounded_and_all_of_them_are_answered() {
    let mut farm = Farm::default();
    let (client, same) = (farm.client(), farm.client());
    let other = outsider(&mut farm, Role::Client);
    let (process, free) = (farm.engine_with(128, Runtime::ALL), farm.engine());
    let ids = farm.processes[process].ids.clone();
    // Half of the 65,536 places: an owner leaves as many free as it takes.
    let requests: Vec<u64> = (0..256).map(|_| restart(&mut farm, client, &ids)).collect();
    let free = [farm.id(free)];
    let beyond = restart(&mut farm, same, &free);
    let reply = farm.reply(same, beyond);
    assert!(
        matches!(&reply, Some(ReplyBody::Refused(text)) if text.contains("too many")),
        "{reply:?}"
    );
    let of_other = restart(&mut farm, other, &free);
    assert_eq!(farm.reply(other, of_other), None, "another owner's waits for its engine");
    (0..128).for_each(|slot| farm.slot_down(process, slot));
    assert!(requests.iter().all(|request| farm.reply(client, *request) == Some(ReplyBody::Done)));
    let again = restart(&mut farm, same, &free);
    assert_eq!(farm.reply(same, again), None, "there is room for it now");
    invariants::hold(&farm.core);
}

#[test]
fn nobody_restarts_an_engine_that_works_for_another_owner_but_an_administrator() {
    let mut farm = Farm::default();
    let (client, engine) = (farm.client(), farm.engine());
    let (other, admin) = (outsider(&mut farm, Role::Client), outsider(&mut farm, Role::Admin));
    farm.submit(client, shared());
    let id = farm.id(engine);
    let request = restart(&mut farm, other, &[id]);
    assert!(matches!(farm.reply(other, request), Some(ReplyBody::Refused(_))));
    assert_eq!(farm.restarts(engine), 0);
    restart(&mut farm, admin, &[id]);
    assert_eq!(farm.restarts(engine), 1);
}

#[test]
fn a_dead_interpreter_loses_what_waits_for_its_namespace_and_nothing_else() {
    let mut farm = Farm::default();
    let (client, engine) = (farm.client(), farm.engine());
    let to_engine = python(direct(&[farm.id(engine)]));
    farm.submit(client, to_engine.clone());
    farm.submit(client, to_engine.clone());
    farm.submit(client, with(to_engine.clone(), restart_safe()));
    farm.submit(client, direct(&[farm.id(engine)]));
    let moved = farm.submit(client, python(shared()));
    farm.slot_down(engine, 0);
    assert_eq!(farm.end_of(client, 2), LOST);
    assert!(farm.error_of(client, 2).contains("signal 9"), "{}", farm.error_of(client, 2));
    farm.fail(engine);
    assert_eq!((0..3).map(|_| farm.finish(engine)).collect::<Vec<_>>(), [3, 4, moved]);
    invariants::hold(&farm.core);
}

#[test]
fn what_comes_back_from_a_dead_interpreter_keeps_its_order() {
    let mut farm = Farm::default();
    let (client, engine) = (farm.client(), farm.engine());
    let to_engine = with(python(direct(&[farm.id(engine)])), restart_safe());
    farm.submit(client, to_engine.clone());
    farm.finish_after(engine, 400);
    (0..6).for_each(|_| _ = farm.submit(client, to_engine.clone()));
    assert_eq!(farm.assigned(engine), [2, 3, 4, 5, 6]);
    farm.slot_down(engine, 0);
    // Those that had been sent ahead come back in any order, one after the other.
    farm.fail(engine);
    farm.give_back(engine, &[2, 3]);
    farm.give_back(engine, &[1]);
    assert_eq!(farm.assigned(engine), [3], "nothing overtakes what is to come back");
    farm.give_back(engine, &[0]);
    assert_eq!((0..5).map(|_| farm.finish(engine)).collect::<Vec<_>>(), [3, 4, 5, 6, 7]);
}

#[test]
fn an_engine_that_drains_is_given_nothing_and_finishes_what_it_has() {
    let mut farm = Farm::default();
    let (client, leaving) = (farm.client(), farm.engine());
    let running = farm.submit(client, shared());
    let queued = farm.submit(client, direct(&[farm.id(leaving)]));
    let behind = farm.submit(client, direct(&[farm.id(leaving)]));
    farm.submit(client, shared());
    farm.report(leaving, FromEngine::Draining(Draining { reason: "SIGTERM".into() })).unwrap();
    assert_eq!(farm.end_of(client, behind), LOST);
    assert_eq!([farm.finish(leaving), farm.finish(leaving)], [running, queued]);
    assert_eq!([farm.end_of(client, running), farm.end_of(client, queued)], [SUCCEEDED, SUCCEEDED]);
    assert!(farm.assigned(leaving).is_empty());
    farm.engine_goodbye(leaving);
    let other = farm.engine();
    assert_eq!(farm.assigned(other), [4]);
    invariants::hold(&farm.core);
}

#[test]
fn a_process_drains_only_after_it_has_registered_and_does_not_register_afterwards() {
    let mut farm = Farm::default();
    let engine = farm.engine();
    farm.disconnect_engine(engine);
    farm.open_engine(engine);
    let draining = || FromEngine::Draining(Draining { reason: "SIGTERM".into() });
    assert_eq!(farm.report(engine, draining()), Err(PeerMisbehaved::Order));
    invariants::hold(&farm.core);
}

#[test]
fn a_leaving_process_that_connects_again_has_engines_that_are_new_and_work() {
    let mut farm = Farm::default();
    let (client, engine) = (farm.client(), farm.engine_with(2, Runtime::ALL));
    let old = farm.processes[engine].ids.clone();
    farm.report(engine, FromEngine::Draining(Draining { reason: "SIGTERM".into() })).unwrap();
    // The old connection has not been found dead.
    farm.connect_engine(engine);
    assert!(farm.processes[engine].ids.iter().all(|id| !old.contains(id)));
    (0..2).for_each(|_| _ = farm.submit(client, shared()));
    assert_eq!(farm.assigned(engine).len(), 2);
    invariants::hold(&farm.core);
}

#[test]
fn a_process_whose_engines_are_all_stopped_is_told_to_leave() {
    let mut farm = Farm::default();
    let (client, engine) = (farm.client(), farm.engine_with(2, Runtime::ALL));
    let n = farm.submit(client, shared());
    assert_eq!(shutdown(&mut farm, None), Some(ReplyBody::Done));
    let told = |message: &ToEngine| matches!(message, ToEngine::Shutdown(it) if it.finish);
    assert!(farm.processes[engine].received.iter().any(told));
    farm.submit(client, shared());
    assert_eq!(farm.assigned(engine), [n]);
    farm.finish(engine);
    assert_eq!(farm.end_of(client, n), SUCCEEDED);
}

#[test]
fn one_engine_of_a_process_can_be_stopped() {
    let mut farm = Farm::default();
    let (client, engine) = (farm.client(), farm.engine_with(2, Runtime::ALL));
    let ids = farm.processes[engine].ids.clone();
    farm.submit(client, direct(&ids[..1]));
    farm.submit(client, shared());
    farm.submit(client, with(shared(), at_most_once()));
    let attempt = farm.processes[engine].jobs[0].attempt;
    assert_eq!(shutdown(&mut farm, Some(ids[..1].to_vec())), Some(ReplyBody::Done));
    assert_eq!(farm.end_of(client, 1), LOST);
    assert!(
        farm.processes[engine].cancelled.contains(&attempt),
        "also what needs no interpreter is ended"
    );
    assert_eq!(farm.core.engines_online(), 1);
    farm.finish(engine);
    assert!(farm.processes[engine].jobs.iter().all(|job| job.slot == 1));
    assert!(matches!(shutdown(&mut farm, Some(ids)), Some(ReplyBody::Refused(_))));
    invariants::hold(&farm.core);
}

#[test]
fn what_clients_that_are_gone_have_left_undone_is_bounded() {
    let mut farm = Farm::default();
    let (empty, client, leaving) = (farm.client(), farm.client(), farm.client());
    let range = |of: usize, n: u64| {
        let session = farm.clients[of].session;
        TaskRange { session, first: TaskSeq(n), last: TaskSeq(n) }
    };
    // What names no task is looked at first, and is a part of its own.
    let nothing: Vec<TaskRange> =
        (1..=TASKS_PER_PART as u64).map(|n| range(empty, 2 * n)).collect();
    let cancels: Vec<Vec<TaskRange>> =
        (1..=300).map(|n| [&nothing[..], &[range(client, n)]].concat()).collect();
    (0..301).for_each(|_| _ = farm.submit(client, shared()));
    for tasks in cancels {
        let connection = farm.clients[leaving].connection.unwrap();
        let message = CancelTasks { request: 1, tasks, force: false };
        let message = FromClient::CancelTasks(message);
        farm.core.handle_from_client(farm.now, connection, message, None).unwrap();
        assert!(farm.core.has_rest(connection));
        farm.disconnect_client(leaving);
        farm.connect_client(leaving).unwrap();
    }
    farm.cancel(client, 301, 301);
    assert_eq!(farm.end_of(client, 301), CANCELLED, "who is there does not wait for that");
    farm.wait(Duration::ZERO);
    let ended = (1..=300).filter(|n| farm.end_of(client, *n) == CANCELLED);
    assert_eq!(ended.collect::<Vec<_>>(), (1..=128).collect::<Vec<_>>());
    invariants::hold(&farm.core);
}
