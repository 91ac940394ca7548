//! Cancels at any moment and in every state: each task ends once, what ran stops, and no neighbour
//! is hit.

use std::collections::BTreeSet;
use std::time::Duration;

use bytes::Bytes;
use furlong_client::{
    Arguments, CallSpec, Client, Depends, EngineId, EngineTargets, ErrorKind, Function,
    TaskFailure, TaskFuture, TaskPhase, TaskRange, TaskState,
};
use furlong_tests::command::furlong;
use furlong_tests::wait::{SOON, eventually};
use furlong_tests::work::{Work, noop, python, python_function};
use futures_util::StreamExt;
use serde_json::json;

/// The numbers of succeeded and of cancelled tasks; any other end is an error of the test.
#[derive(Debug, Default)]
struct Count {
    succeeded: u32,
    cancelled: u32,
}

/// Submits a call, cancels it at a random moment, and waits until it has ended and stopped.
async fn race(client: &Client, call: &CallSpec, longest_us: u64, count: &mut Count) {
    let mut task = client.tasks().call(call).await.unwrap();
    let moment = Duration::from_micros(rand::random_range(0..=longest_us));
    let end = if let Ok(end) = tokio::time::timeout(moment, &mut task).await {
        end
    } else {
        task.cancel();
        (&mut task).await
    };
    match end {
        Ok(_) => count.succeeded += 1,
        Err(failure) => {
            assert_cancelled(&failure);
            count.cancelled += 1;
        }
    }
    tokio::time::timeout(SOON, task.stopped()).await.expect("it stops").unwrap();
}

#[track_caller]
fn assert_cancelled(failure: &TaskFailure) {
    assert_eq!(
        (failure.state(), failure.kind()),
        (Some(TaskState::Cancelled), Some(ErrorKind::Cancelled)),
        "{failure}"
    );
}

/// Races in several sessions at once.
fn races(
    work: &Work,
    sessions: usize,
    rounds: usize,
    longest_us: u64,
    call: impl Fn(usize) -> CallSpec,
) -> Count {
    let calls: Vec<CallSpec> = (0..8).map(call).collect();
    let races = (0..sessions).map(|_| {
        let (client, calls) = (work.connect(), calls.clone());
        work.spawn(async move {
            let mut count = Count::default();
            for round in 0..rounds {
                race(&client, &calls[round % calls.len()], longest_us, &mut count).await;
            }
            client.close().await;
            count
        })
    });
    let races: Vec<_> = races.collect();
    let mut all = Count::default();
    for race in races {
        let count = work.within(race);
        all.succeeded += count.succeeded;
        all.cancelled += count.cancelled;
    }
    all
}

#[test]
fn a_cancel_races_thousands_of_short_rust_functions() {
    let work = Work::start_with(&[], &[&["-n", "2"]]);
    let count = races(&work, 4, 1_000, 1_000, |_| noop());
    assert_eq!(count.succeeded + count.cancelled, 4_000);
    // How many of each depends on the machine and on what else it does: both must have happened.
    assert!(count.succeeded > 0 && count.cancelled > 0, "no race: {count:?}");
    assert!(eventually(SOON, || work
        .status()
        .engines
        .iter()
        .all(|engine| engine.tasks_assigned == 0)));
    assert!(work.status().engines.iter().all(|engine| engine.stuck == 0));
}

#[test]
fn a_cancel_races_python_and_its_interrupt_hits_no_neighbour() {
    let work = Work::start_with(&[], &[&["-n", "2"]]);
    let neighbours = work.connect();
    let items = (0..3_000).map(|item| Arguments::json(vec![item.into()]));
    let map = neighbours
        .tasks()
        .map(Function::Source(python_function("busy")), items)
        .window(16)
        .stream()
        .unwrap();
    let neighbours = work.spawn(map.collect::<Vec<_>>());
    let count =
        races(&work, 3, 400, 12_000, |ms| python("square", [json!(7), json!(ms as f64 / 4.0)]));
    assert_eq!(count.succeeded + count.cancelled, 1_200);
    assert!(count.succeeded > 50 && count.cancelled > 50, "no race: {count:?}");
    let ends = work.within(neighbours);
    assert_eq!(ends.len(), 3_000);
    let mut seen = BTreeSet::new();
    for (index, end) in ends {
        let result =
            end.unwrap_or_else(|failure| panic!("the interrupt hit neighbour {index}: {failure}"));
        assert_eq!(result.json::<(usize, usize)>().unwrap(), (index, 5_000));
        assert!(seen.insert(index));
    }
}

#[test]
fn the_same_task_cancelled_from_all_sides_ends_once() {
    let work = Work::start_with(&[], &[&["-n", "2"]]);
    let other = work.connect();
    for round in 0..200_u64 {
        let mut task = work.submit(&python("square", [json!(3), json!(round % 3)]));
        let range = [TaskRange::from(task.id())];
        task.cancel();
        task.cancel_force();
        let end = work.within(async {
            let (end, counted) = tokio::join!(&mut task, other.cancel_tasks(&range, true));
            let counted = counted.unwrap();
            assert!(counted.cancelled + counted.finished <= 1, "{counted:?}");
            end
        });
        if let Err(failure) = end {
            assert_cancelled(&failure);
        }
        work.within(task.stopped()).unwrap();
    }
}

/// One engine, and a task that holds it.
fn held() -> (Work, TaskFuture) {
    let work = Work::start(1);
    let holder = work.begin_hold("held");
    (work, holder)
}

#[test]
fn a_task_that_does_not_run_is_gone_at_once() {
    let (work, holder) = held();
    let queued = work.submit(&python("noted", [json!(work.path("ran")), json!("queued")]));
    let waiting =
        work.submit(&python("noted", [json!(work.path("ran")), json!("waiting")]).after(&holder));
    // The engine is given the first of these two, which it does not begin.
    let [given, direct] = [0, 1].map(|_| {
        let view = work.client().multiengine(EngineTargets::All);
        work.within(view.execute("1 / 0")).unwrap().into_iter().next().unwrap()
    });
    let phases = [TaskPhase::Queued, TaskPhase::Waiting, TaskPhase::Queued, TaskPhase::Assigned];
    let mut tasks = [queued, waiting, direct, given];
    for (task, phase) in tasks.iter_mut().zip(phases) {
        work.wait_for_phase(task.id(), phase);
        task.cancel();
        assert_cancelled(&work.within(&mut *task).unwrap_err());
        if phase != TaskPhase::Assigned {
            work.within(task.stopped()).unwrap();
        }
    }
    work.release("held.release");
    work.within(holder).unwrap();
    // What the interpreter had already been sent is passed over when its turn comes.
    work.within(tasks[3].stopped()).unwrap();
    assert!(work.lines("ran").is_empty());
    let status = work.status();
    assert_eq!((status.tasks_waiting, status.tasks_held, status.tasks_assigned), (0, 0, 0));
}

#[test]
fn a_task_between_two_attempts_is_gone_at_once() {
    let work = Work::start(1);
    let call = python("fail_first", [json!(work.path("runs")), json!(100)]);
    let task = work.submit(&call.error_retries(5).backoff(Duration::from_secs(600)));
    work.wait_for_lines("runs", 1);
    let record = work.wait_for_phase(task.id(), TaskPhase::Waiting);
    assert_eq!(record.errors, 1, "{record:?}");
    task.cancel();
    assert_cancelled(&work.within(task).unwrap_err());
    assert_eq!(work.lines("runs").len(), 1);
}

#[test]
fn a_task_whose_arguments_are_on_the_way_is_gone_and_the_connection_lives() {
    let work = Work::start(1);
    let large = Bytes::from(vec![7; 48 << 20]);
    for _ in 0..3 {
        let call = CallSpec::native("echo").arguments(Arguments::Raw(vec![large.clone()]));
        let task = work.submit(&call);
        task.cancel();
        match work.within(task) {
            Err(failure) => assert_cancelled(&failure),
            Ok(result) => assert_eq!(result.data[0].len(), large.len()),
        }
    }
    work.run(&noop()).unwrap();
    // The names of its two kinds of tasks are all that is left.
    let free = eventually(SOON, || work.status().payload_bytes.0 < 1_000);
    assert!(free, "the broker still holds {:?}", work.status().payload_bytes);
}

#[test]
fn one_s_own_tasks_can_be_cancelled_from_elsewhere_and_others_cannot() {
    let (work, holder) = held();
    let queued = work.submit(&noop());
    let out = furlong(
        &["cap", "issue", "--role", "client", "--owner", "a-outsider", "--json"],
        work.farm().home(),
    );
    let file: serde_json::Value = serde_json::from_str(&out.ok()).unwrap();
    let outsider = work.connect_with(std::path::Path::new(file["file"].as_str().unwrap()));
    let ranges = [TaskRange::from(holder.id()), TaskRange::from(queued.id())];
    let counted = work.within(outsider.cancel_tasks(&ranges, true)).unwrap();
    assert_eq!((counted.cancelled, counted.finished), (0, 0));
    work.within(outsider.fetch(&holder)).expect_err("a outsider sees nothing of it");
    assert_eq!(work.fetch(&holder).record.phase, TaskPhase::Running);
    assert_eq!(work.fetch(&queued).record.phase, TaskPhase::Queued);
    let counted = work.within(work.connect().cancel_tasks(&ranges, false)).unwrap();
    assert_eq!((counted.cancelled, counted.finished), (2, 0));
    for mut task in [holder, queued] {
        assert_cancelled(&work.within(&mut task).unwrap_err());
        work.within(task.stopped()).unwrap();
    }
    let counted = work.within(work.connect().cancel_tasks(&ranges, false)).unwrap();
    assert_eq!(counted.cancelled, 0);
    work.run(&noop()).unwrap();
}

#[test]
fn force_kills_what_ignores_the_interrupt() {
    let work = Work::start(1);
    // Somebody else's variable lives in the interpreter, so that nothing less than force may kill
    // it.
    let other = work.connect();
    work.within(async {
        other.multiengine(EngineTargets::All).execute("x = 5").await.unwrap().wait().await
    })
    .unwrap();
    let files = [".begun", ".release"].map(|end| json!(work.path(&format!("a{end}"))));
    let mut task = work.submit(&python("stubborn", files));
    work.wait_for_lines("a.begun", 1);
    task.cancel();
    assert_cancelled(&work.within(&mut task).unwrap_err());
    // It was interrupted, and goes on: the engine is not free before it ends.
    work.wait_for_lines("a.begun", 2);
    let next = work.submit(&noop());
    assert_eq!(work.fetch(&next).record.phase, TaskPhase::Queued);
    work.release("a.release");
    work.within(task.stopped()).unwrap();
    work.within(next).unwrap();
    let pull = || {
        work.within(async {
            other.multiengine(EngineTargets::All).pull(&["x"]).await.unwrap().wait().await
        })
    };
    pull().expect("the namespace is still there");

    let files = [".begun", ".release"].map(|end| json!(work.path(&format!("b{end}"))));
    let mut task = work.submit(&python("stubborn", files));
    work.wait_for_lines("b.begun", 1);
    task.cancel();
    assert_cancelled(&work.within(&mut task).unwrap_err());
    work.wait_for_lines("b.begun", 2);
    task.cancel_force();
    work.within(task.stopped()).unwrap();
    pull().expect_err("the namespace is gone with the interpreter");
}

#[test]
fn what_ignores_a_plain_cancel_goes_on_and_is_shown_as_stuck_until_it_is_forced() {
    let work = Work::start(1);
    let files = [".begun", ".release"].map(|end| json!(work.path(&format!("a{end}"))));
    let mut task = work.submit(&python("stubborn", files));
    work.wait_for_lines("a.begun", 1);
    task.cancel();
    let failure = work.within(&mut task).unwrap_err();
    assert_cancelled(&failure);
    assert!(
        failure.to_string().contains("until it returns or is cancelled with force"),
        "{failure}"
    );
    assert_eq!(work.status().engines[0].stuck, 1);
    let waits = work.submit(&python("square", [json!(4)]));
    task.cancel_force();
    work.within(task.stopped()).unwrap();
    assert_eq!(work.within(waits).unwrap().json::<u32>().unwrap(), 16);
}

#[test]
fn what_follows_an_error_is_aborted_in_that_session_and_on_that_engine() {
    let work = Work::start(2);
    let execute = |client: &Client, engine: u32, code: &str| {
        let view = client.multiengine(EngineTargets::Ids(vec![EngineId(engine)]));
        work.within(view.execute(code)).unwrap().into_iter().next().unwrap()
    };
    let wait = format!(
        "import os, time\nwhile not os.path.exists({:?}): time.sleep(0.002)\n1 / 0",
        work.path("go")
    );
    let other = work.connect();
    let fails = execute(work.client(), 0, &wait);
    let followers = [0, 1].map(|_| execute(work.client(), 0, "ran = True"));
    let unmarked = CallSpec::code("unmarked = True");
    let view = work.client().multiengine(EngineTargets::Ids(vec![EngineId(0)]));
    let unmarked = work.within(view.call(&unmarked)).unwrap().into_iter().next().unwrap();
    let elsewhere = execute(work.client(), 1, "1");
    let others = execute(&other, 0, "2");
    work.release("go");
    let failure = work.within(fails).unwrap_err();
    assert_eq!(failure.remote().unwrap().type_name, "ZeroDivisionError");
    for follower in followers {
        let failure = work.within(follower).unwrap_err();
        assert_eq!(
            (failure.state(), failure.kind()),
            (Some(TaskState::Cancelled), Some(ErrorKind::Aborted))
        );
    }
    for task in [unmarked, elsewhere, others] {
        work.within(task).unwrap();
    }
    let names =
        work.within(async { view.keys().await.unwrap().json::<Vec<String>>().await }).unwrap();
    assert!(
        names[0].contains(&"unmarked".to_owned()) && !names[0].contains(&"ran".to_owned()),
        "{names:?}"
    );
    // What comes after the error is not concerned.
    work.within(execute(work.client(), 0, "3")).unwrap();
}

#[test]
fn tasks_that_wait_for_a_cancelled_one_end_with_the_reason() {
    let (work, holder) = held();
    let needs = work.submit(&noop().after(&holder));
    let after_needs = work.submit(&noop().after(&needs));
    let cleanup = work.submit(&noop().after(Depends::on(&holder).on_failure()));
    holder.cancel();
    assert_cancelled(&work.within(holder).unwrap_err());
    for task in [needs, after_needs] {
        assert_eq!(work.within(task).unwrap_err().kind(), Some(ErrorKind::Dependency));
    }
    work.within(cleanup).unwrap();
}

#[test]
fn a_cancel_right_behind_large_arguments_harms_nobody() {
    let work = Work::start(1);
    let large = json!("x".repeat(100_000));
    let mut count = Count::default();
    for _ in 0..300 {
        let call = python("busy", [large.clone()]);
        work.within(race(work.client(), &call, 4_000, &mut count));
    }
    assert!(count.succeeded > 10 && count.cancelled > 10, "no race: {count:?}");
    assert_eq!(work.run(&python("square", [json!(4)])).unwrap().json::<u32>().unwrap(), 16);
    let log = std::fs::read_dir(work.farm().home().cluster().log()).unwrap().flatten();
    let logs: Vec<String> =
        log.map(|file| std::fs::read_to_string(file.path()).unwrap_or_default()).collect();
    assert!(
        logs.iter().all(|log| !log.contains("interpreter of slot")),
        "an interpreter has ended: {logs:?}"
    );
}

#[test]
fn a_cancel_that_an_interpreter_reads_together_with_large_arguments_is_understood() {
    let work = Work::start_with(&[], &[&["-n", "2"]]);
    let [first, second] =
        [0, 1].map(|id| work.client().multiengine(EngineTargets::Ids(vec![EngineId(id)])));
    let direct = |view: &furlong_client::Multiengine, call: &CallSpec| {
        work.within(view.call(call)).unwrap().into_iter().next().unwrap()
    };
    let who = work
        .within(direct(&first, &python("who", [json!(1)])))
        .unwrap()
        .json::<(u32, i32)>()
        .unwrap();
    let interpreter = rustix::process::Pid::from_raw(who.1).unwrap();
    for bytes in [70_000, 100_000, 300_000] {
        rustix::process::kill_process(interpreter, rustix::process::Signal::STOP).unwrap();
        let mut task = direct(&first, &python("busy", [json!("x".repeat(bytes))]));
        // What the same connection brings later says that the arguments have come.
        let is_given =
            || [TaskPhase::Assigned, TaskPhase::Running].contains(&work.fetch(&task).record.phase);
        assert!(eventually(SOON, is_given));
        work.within(direct(&second, &noop())).unwrap();
        task.cancel();
        assert_cancelled(&work.within(&mut task).unwrap_err());
        work.within(direct(&second, &noop())).unwrap();
        rustix::process::kill_process(interpreter, rustix::process::Signal::CONT).unwrap();
        work.within(task.stopped()).unwrap();
        let again = work
            .within(direct(&first, &python("who", [json!(2)])))
            .unwrap()
            .json::<(u32, i32)>()
            .unwrap();
        assert_eq!(again, (2, who.1), "{bytes} bytes: another interpreter");
    }
}
