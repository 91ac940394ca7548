//! Work that does not begin: its engine is set aside, and the work goes elsewhere at no cost.

use std::time::Duration;

use furlong_wire::ids::{Attempt, TaskId};
use furlong_wire::message::{
    AttemptFinished, Attempts, EngineStatus, ErrorKind, FromClient, FromEngine, Outcome, Query,
    ReplyBody, Request, RunTimes, Runtime, Submit, TakeBack, TaskOptions, TaskRange, TaskState,
    ToClient, ToEngine,
};

use crate::core::invariants;
use crate::core::tests::farm::peers::{Farm, at_most_once, direct, python, shared, with};

const FAILED: Option<(TaskState, Option<ErrorKind>)> =
    Some((TaskState::Failed, Some(ErrorKind::Remote)));
const LOST: Option<(TaskState, Option<ErrorKind>)> =
    Some((TaskState::Lost, Some(ErrorKind::EngineLost)));
const SECOND: Duration = Duration::from_secs(1);

impl Farm {
    /// The oldest job does not begin: nor would another one of its kind, or of its runtime.
    fn does_not_begin(&mut self, process: usize, kind: ErrorKind) -> u64 {
        let n = self.finish_with(
            process,
            Outcome::error(TaskState::Failed, kind, "there is no `x`"),
            0,
            None,
        );
        invariants::hold(&self.core);
        n
    }

    fn status(&mut self, client: usize, process: usize) -> EngineStatus {
        let (id, request) = (self.id(process), Request { request: 99, query: Query::Status });
        self.say(client, FromClient::Query(request)).unwrap();
        let reply = self.clients[client].received.iter().rev().find_map(|message| match message {
            ToClient::Reply(reply) => Some(reply.body.clone()),
            _ => None,
        });
        let Some(ReplyBody::Status(status)) = reply else { panic!("no status: {reply:?}") };
        status.engines.into_iter().find(|engine| engine.id == id).unwrap()
    }
}

fn of_class(class: u32) -> Submit {
    Submit { class, runtime: Runtime::Command, ..shared() }
}

#[test]
fn what_does_not_begin_goes_elsewhere_and_uses_no_retry() {
    let mut farm = Farm::default();
    let (client, bad, good) = (farm.client(), farm.engine(), farm.engine());
    let options = TaskOptions { retries: Some(0), ..at_most_once() };
    let n = farm.submit(client, with(python(shared()), options));
    assert_eq!(farm.assigned(bad), [n]);
    farm.does_not_begin(bad, ErrorKind::NoRuntime);
    assert_eq!((farm.assigned(bad), farm.assigned(good)), (vec![], vec![n]));
    let second = farm.submit(client, python(shared()));
    let (native, direct) =
        (farm.submit(client, shared()), farm.submit(client, python(direct(&[farm.id(bad)]))));
    assert_eq!(
        farm.assigned(bad),
        [native, direct],
        "other runtimes, and what is for it alone, go on there"
    );
    assert_eq!(farm.finish(good), n);
    assert_eq!(farm.assigned(good), [second], "all of the runtime goes elsewhere");
    assert_eq!(farm.clients[client].finished[&n].outcome, Outcome::SUCCEEDED);
    let aside = farm.status(client, bad).set_aside;
    let seen =
        aside.iter().map(|it| (it.runtime, it.is_whole_runtime, it.failures, it.cause.as_str()));
    assert_eq!(seen.collect::<Vec<_>>(), [(Runtime::Python, true, 1, "there is no `x`")]);
}

#[test]
fn what_can_begin_nowhere_fails_with_the_cause() {
    let mut farm = Farm::default();
    let (client, engines) = (farm.client(), [farm.engine(), farm.engine()]);
    let n = farm.submit(client, of_class(5));
    farm.does_not_begin(engines[0], ErrorKind::NotBegun);
    assert_eq!(farm.end_of(client, n), None);
    farm.does_not_begin(engines[1], ErrorKind::NotBegun);
    assert_eq!(farm.end_of(client, n), FAILED);
    let finished = &farm.clients[client].finished[&n];
    assert_eq!(finished.outcome.error.as_ref().unwrap().text, "there is no `x`");
    // Others of the kind do not wait: each is tried once.
    let others: Vec<u64> = (0..4).map(|_| farm.submit(client, of_class(5))).collect();
    for _ in 0..2 {
        engines.iter().for_each(|engine| _ = farm.does_not_begin(*engine, ErrorKind::NotBegun));
    }
    assert!(others.iter().all(|n| farm.end_of(client, *n) == FAILED));
    farm.wait(Duration::from_secs(700));
    assert!(farm.status(client, engines[0]).set_aside.is_empty(), "it is not remembered for ever");
}

#[test]
fn an_engine_is_tried_again_ever_later_until_it_begins_something() {
    let mut farm = Farm::default();
    let (client, bad, good) = (farm.client(), farm.engine(), farm.engine());
    farm.submit(client, of_class(5));
    farm.does_not_begin(bad, ErrorKind::NotBegun);
    for seconds in [1_u64, 2, 4, 8, 16, 32, 60, 60] {
        let n = farm.submit(client, of_class(5));
        farm.wait(Duration::from_millis(seconds * 1000 - 1));
        assert!(farm.assigned(bad).is_empty(), "not before {seconds} s");
        farm.wait(Duration::from_millis(1));
        assert_eq!(farm.assigned(bad), [n]);
        farm.does_not_begin(bad, ErrorKind::NotBegun);
        farm.finish(good);
    }
    farm.wait(SECOND * 60);
    farm.finish(good);
    let (first, second) = (farm.submit(client, of_class(5)), farm.submit(client, of_class(5)));
    assert_eq!((farm.assigned(bad), farm.assigned(good)), (vec![first], vec![second]));
    farm.finish(bad);
    assert!(farm.status(client, bad).set_aside.is_empty());
    farm.finish(good);
    invariants::hold(&farm.core);
}

#[test]
fn work_of_other_kinds_is_not_kept_from_an_engine_that_is_set_aside() {
    let mut farm = Farm::default();
    let (client, bad, good) = (farm.client(), farm.engine(), farm.engine());
    let first: Vec<u64> = (0..5).map(|_| farm.submit(client, of_class(5))).collect();
    let other = farm.submit(client, of_class(6));
    farm.does_not_begin(bad, ErrorKind::NotBegun);
    assert_eq!(
        farm.assigned(bad),
        [other],
        "those before it wait for the other engine, and not in its way"
    );
    farm.finish(bad);
    let mut ran = Vec::new();
    (0..5).for_each(|_| ran.push(farm.finish(good)));
    ran.sort_unstable();
    assert_eq!(ran, first);
    invariants::hold(&farm.core);
}

#[test]
fn direct_work_that_does_not_begin_fails_with_the_cause() {
    let mut farm = Farm::default();
    let (client, bad, _) = (farm.client(), farm.engine(), farm.engine());
    let n = farm.submit(client, direct(&[farm.id(bad)]));
    farm.does_not_begin(bad, ErrorKind::NotBegun);
    assert_eq!(farm.end_of(client, n), FAILED);
}

#[test]
fn what_is_wanted_back_and_does_not_begin_is_cancelled() {
    let mut farm = Farm::default();
    let (client, bad, good) = (farm.client(), farm.engine(), farm.engine());
    let n = farm.submit(client, shared());
    let TaskId { session, n: of_task } = farm.task(client, n);
    let tasks = vec![TaskRange { session, first: of_task, last: of_task }];
    farm.say(client, FromClient::TakeBack(TakeBack { request: 7, tasks })).unwrap();
    farm.does_not_begin(bad, ErrorKind::NotBegun);
    assert_eq!(farm.end_of(client, n), Some((TaskState::Cancelled, Some(ErrorKind::Cancelled))));
    assert!(farm.assigned(good).is_empty());
}

/// An attempt of an earlier start does not begin, as its engine says before it has heard what
/// became of it: of such a one the engine holds nothing.
fn not_begun(attempt: Attempt) -> FromEngine {
    let outcome = Outcome::error(TaskState::Failed, ErrorKind::NoRuntime, "there is no `x`");
    FromEngine::Finished(AttemptFinished {
        attempt,
        outcome,
        times: RunTimes::ran(0),
        payload: None,
    })
}

#[test]
fn work_of_before_that_does_not_begin_is_given_again() {
    for is_matched in [false, true] {
        let mut farm = Farm::default();
        let (client, bad) = (farm.client(), farm.engine());
        let n = farm.submit(client, shared());
        let attempt = farm.processes[bad].jobs[0].attempt;
        farm.restart();
        farm.connect_engine(bad);
        let good = farm.engine();
        farm.connect_client(client).unwrap();
        if is_matched {
            farm.repeat(client, n, shared());
        }
        farm.processes[bad].jobs.clear();
        farm.report(bad, not_begun(attempt)).unwrap();
        invariants::hold(&farm.core);
        if !is_matched {
            farm.repeat(client, n, shared());
        }
        let has_it = if farm.assigned(bad).is_empty() { good } else { bad };
        assert_eq!(farm.assigned(has_it), [n], "matched: {is_matched}");
        assert!(!is_matched || has_it == good, "the other one could not begin it");
        farm.finish(has_it);
        assert_eq!(farm.end_of(client, n), Some((TaskState::Succeeded, None)));
        assert_eq!((farm.core.attempts.len(), farm.core.recovery.orphans.len()), (0, 0));
        invariants::hold(&farm.core);
    }
}

#[test]
fn unwanted_work_of_before_that_does_not_begin_leaves_its_engine_free() {
    let recalled = |attempt| FromEngine::Recalled(Attempts { attempts: vec![attempt] });
    for report in [not_begun, recalled] {
        let mut farm = Farm::default();
        let (client, engine) = (farm.client(), farm.engine());
        let n = farm.submit(client, shared());
        let attempt = farm.processes[engine].jobs[0].attempt;
        farm.restart();
        farm.connect_client(client).unwrap();
        farm.repeat(client, n, shared());
        farm.cancel(client, n, n);
        farm.connect_engine(engine);
        farm.processes[engine].jobs.clear();
        farm.report(engine, report(attempt)).unwrap();
        invariants::hold(&farm.core);
        assert_eq!((farm.core.attempts.len(), farm.core.recovery.orphans.len()), (0, 0));
        let next = farm.submit(client, shared());
        assert_eq!(farm.assigned(engine), [next]);
    }
}

#[test]
fn work_of_before_whose_match_was_given_up_leaves_its_engine_free() {
    let mut farm = Farm::default();
    let (client, engine) = (farm.client(), farm.engine());
    let n = farm.submit(client, shared());
    let attempt = farm.processes[engine].jobs[0].attempt;
    farm.restart();
    farm.connect_engine(engine);
    farm.connect_client(client).unwrap();
    farm.repeat(client, n, shared());
    // It is cut off before it has heard of the match.
    farm.processes[engine].jobs[0].attempt = attempt;
    farm.disconnect_engine(engine);
    let other = farm.engine();
    assert_eq!(farm.assigned(other), [n]);
    farm.connect_engine(engine);
    farm.processes[engine].jobs.clear();
    farm.report(engine, not_begun(attempt)).unwrap();
    invariants::hold(&farm.core);
    assert_eq!((farm.core.attempts.len(), farm.core.recovery.orphans.len()), (1, 0));
}

#[test]
fn an_engine_that_is_set_aside_may_leave_and_come_back() {
    let mut farm = Farm::default();
    let (client, bad, good) = (farm.client(), farm.engine(), farm.engine());
    farm.submit(client, of_class(5));
    farm.does_not_begin(bad, ErrorKind::NotBegun);
    farm.submit(client, of_class(5));
    farm.disconnect_engine(bad);
    invariants::hold(&farm.core);
    farm.connect_engine(bad);
    assert_eq!(farm.assigned(bad).len(), 1, "it is tried when it is back");
    farm.does_not_begin(bad, ErrorKind::NotBegun);
    farm.engine_goodbye(bad);
    invariants::hold(&farm.core);
    farm.disconnect_engine(good);
    farm.wait(Duration::from_secs(20));
    invariants::hold(&farm.core);
}

#[test]
fn what_an_engine_cancels_unasked_is_not_run_for_ever() {
    let mut farm = Farm::default();
    let (client, engine) = (farm.client(), farm.engine());
    let n = farm.submit(client, shared());
    let cancelled = || Outcome::error(TaskState::Cancelled, ErrorKind::Cancelled, "");
    for attempt in 1..=4 {
        assert_eq!(farm.end_of(client, n), None, "attempt {attempt}");
        farm.finish_with(engine, cancelled(), 0, None);
    }
    assert_eq!(farm.end_of(client, n), Some((TaskState::Cancelled, Some(ErrorKind::Cancelled))));
}

#[test]
fn a_task_that_ends_its_engine_unsaid_is_announced_and_then_counted() {
    let mut farm = Farm::default();
    let client = farm.client();
    let n = farm.submit(client, shared());
    let first = farm.engine();
    farm.disconnect_engine(first);
    for losses in 1..=4 {
        let engine = farm.engine();
        let announced = |message: &ToEngine| match message {
            ToEngine::Announce(announced) => announced.attempts.clone(),
            _ => Vec::new(),
        };
        let announced: Vec<_> =
            farm.processes[engine].received.iter().flat_map(announced).collect();
        assert_eq!(announced, [farm.processes[engine].jobs[0].attempt]);
        farm.start(engine);
        assert_eq!(farm.end_of(client, n), None, "{losses}");
        farm.disconnect_engine(engine);
    }
    assert_eq!(farm.end_of(client, n), LOST);
}

#[test]
fn what_was_behind_a_task_that_ends_its_engine_is_not_charged() {
    let mut farm = Farm::default();
    let (client, warm) = (farm.client(), farm.engine());
    for _ in 0..3 {
        farm.submit(client, shared());
        farm.finish_after(warm, 10);
    }
    let tasks: Vec<u64> = (0..5).map(|_| farm.submit(client, shared())).collect();
    assert_eq!(farm.assigned(warm), tasks, "short tasks are sent ahead");
    farm.disconnect_engine(warm);
    for _ in 0..4 {
        let engine = farm.engine();
        assert_eq!(farm.assigned(engine), [tasks[0]], "and given alone from then on");
        farm.start(engine);
        farm.disconnect_engine(engine);
    }
    assert_eq!(farm.end_of(client, tasks[0]), LOST);
    let engine = farm.engine();
    let ended: Vec<u64> = (1..5).map(|_| farm.finish(engine)).collect();
    assert_eq!(ended, tasks[1..]);
}
