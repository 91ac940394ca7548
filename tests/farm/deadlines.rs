//! Limits of time, and what runs on after them: waiting too long, running too long, running again
//! after errors.

use std::time::{Duration, Instant};

use furlong_client::{Arguments, CallSpec, EngineTargets, ErrorKind, TaskFailure, TaskState};
use furlong_tests::command::processes_of;
use furlong_tests::wait::{SOON, eventually};
use furlong_tests::work::{Work, noop, python};
use serde_json::json;

const LIMIT: Duration = Duration::from_millis(300);

#[track_caller]
fn assert_timed_out(failure: &TaskFailure, kind: ErrorKind) {
    assert_eq!(
        (failure.state(), failure.kind()),
        (Some(TaskState::TimedOut), Some(kind)),
        "{failure}"
    );
}

/// A cluster that has run a Python task, so that no interpreter has to start within a limit.
fn warm() -> Work {
    let work = Work::start(1);
    work.run(&python("square", [json!(1)])).unwrap();
    work
}

#[test]
fn a_task_that_waits_too_long_times_out_wherever_it_waits() {
    let work = warm();
    let holder = work.begin_hold("held");
    let begun = Instant::now();
    let call = python("noted", [json!(work.path("ran")), json!(1)]).queue_timeout(LIMIT);
    let direct = |call: &CallSpec| {
        work.within(work.client().multiengine(EngineTargets::All).call(call))
            .unwrap()
            .into_iter()
            .next()
            .unwrap()
    };
    // The engine takes one task of its own queue assigned, behind what it runs. It waits for no
    // engine any longer.
    let assigned = direct(&noop());
    let tasks = [
        direct(&call),
        work.submit(&call),
        work.submit(&call.clone().require("no-such-label")),
        work.submit(&call.clone().after(&holder)),
    ];
    for task in tasks {
        assert_timed_out(&work.within(task).unwrap_err(), ErrorKind::QueueTimeout);
        assert!(begun.elapsed() >= LIMIT);
    }
    work.release("held.release");
    work.within(holder).unwrap();
    work.within(assigned).unwrap();
    assert!(work.lines("ran").is_empty());
}

#[test]
fn a_task_that_begins_in_time_may_run_longer_than_its_queue_timeout() {
    let work = warm();
    let call = python("square", [json!(3), json!(700)]).queue_timeout(LIMIT);
    assert_eq!(work.run(&call).unwrap().json::<u32>().unwrap(), 9);
}

#[test]
fn python_that_runs_too_long_is_interrupted_and_what_ignores_that_is_killed() {
    let work = warm();
    let begun = Instant::now();
    assert_timed_out(
        &work.run(&python("square", [json!(1), json!(600_000)]).run_timeout(LIMIT)).unwrap_err(),
        ErrorKind::RunTimeout,
    );
    assert!(begun.elapsed() >= LIMIT);
    let files = [".begun", ".release"].map(|end| json!(work.path(&format!("stubborn{end}"))));
    let mut task = work.submit(&python("stubborn", files).run_timeout(LIMIT));
    let failure = work.within(&mut task).unwrap_err();
    assert_timed_out(&failure, ErrorKind::RunTimeout);
    work.within(task.stopped()).unwrap();
    assert_eq!(work.lines("stubborn.begun").len(), 2, "begun, and interrupted once");
    // A neighbour in the queue is not harmed, and one within its limit ends as it would.
    assert_eq!(
        work.run(&python("square", [json!(5), json!(20)]).run_timeout(SOON))
            .unwrap()
            .json::<u32>()
            .unwrap(),
        25
    );
}

#[test]
fn a_command_that_runs_too_long_goes_with_all_its_children() {
    let work = Work::start(1);
    let script = "trap '' TERM INT; sh -c 'sleep 611' & sleep 612 & wait; sleep 613";
    let task = work.submit(&CallSpec::command(["sh", "-c", script]).run_timeout(LIMIT));
    let mut task = task;
    assert_timed_out(&work.within(&mut task).unwrap_err(), ErrorKind::RunTimeout);
    work.within(task.stopped()).unwrap();
    let sleeps = || {
        processes_of(work.farm().home().path()).iter().any(|(_, line)| line.contains("sleep 61"))
    };
    assert!(eventually(SOON, || !sleeps()));
}

#[test]
fn a_rust_function_sees_its_time_out_and_one_that_does_not_look_is_shown_as_stuck() {
    let mut work = Work::start(0);
    work.add_own_engine(env!("CARGO_BIN_EXE_own_engine"), 2);
    work.wait_for_processes(1);
    let call = |name: &str| CallSpec::native(name).arguments(Arguments::json(Vec::new()));
    let mut task = work.submit(&call("cooperative").run_timeout(LIMIT));
    assert_timed_out(&work.within(&mut task).unwrap_err(), ErrorKind::RunTimeout);
    work.within(task.stopped()).unwrap();

    let files = ["held.begun", "held.release"].map(|name| json!(work.path(name)));
    let hold = CallSpec::native("hold").arguments(Arguments::json(files.into()));
    let mut task = work.submit(&hold.run_timeout(LIMIT));
    assert_timed_out(&work.within(&mut task).unwrap_err(), ErrorKind::RunTimeout);
    assert_eq!(work.lines("held.begun").len(), 1);
    let stuck = || work.status().engines.iter().map(|engine| engine.stuck).sum::<u64>();
    assert_eq!(stuck(), 1);
    // The other slot goes on, and the stuck one gets nothing before its function returns.
    for _ in 0..20 {
        work.run(&noop()).unwrap();
    }
    work.release("held.release");
    work.within(task.stopped()).unwrap();
    assert_eq!(stuck(), 0);
}

#[test]
fn errors_are_tried_again_with_a_longer_pause_each_time() {
    let work = warm();
    let call = python("fail_first", [json!(work.path("runs")), json!(3)]);
    let task = work.submit(&call.error_retries(3).backoff(Duration::from_millis(100)).keep(true));
    let id = task.id();
    let result = work.within(task).unwrap();
    assert_eq!((result.json::<u32>().unwrap(), result.report.attempts), (4, 4));
    let record = work.fetch(id).record;
    assert_eq!(
        (record.errors, record.losses, record.attempts, record.past.len()),
        (3, 0, 4, 3),
        "{record:?}"
    );
    let runs: Vec<f64> = work.lines("runs").iter().map(|line| line.parse().unwrap()).collect();
    let pauses: Vec<f64> = runs.windows(2).map(|pair| pair[1] - pair[0]).collect();
    for (pause, least) in pauses.iter().zip([0.1, 0.2, 0.4]) {
        assert!(*pause >= least, "{pauses:?}");
    }
}

#[test]
fn after_the_last_retry_the_error_is_the_task_s_own() {
    let work = warm();
    let call = python("fail_first", [json!(work.path("runs")), json!(100)]);
    let failure = work.run(&call.clone().error_retries(2)).unwrap_err();
    let remote = failure.remote().expect("the last error");
    assert_eq!((remote.type_name.as_str(), remote.message.as_str()), ("ValueError", "run 3"));
    assert!(remote.traceback.contains("work.py"), "{}", remote.traceback);
    assert_eq!((failure.state(), failure.report.attempts), (Some(TaskState::Failed), 3));
    // Not at all by default.
    work.run(&call).unwrap_err();
    assert_eq!(work.lines("runs").len(), 4);
}
