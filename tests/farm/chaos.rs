//! Engines and interpreters are killed in the middle of a thousand items: each item ends once, and
//! none is lost that need not be.

use std::collections::{BTreeMap, BTreeSet};
use std::pin::pin;

use bytes::Bytes;
use furlong_client::{
    Arguments, CallSpec, EngineId, EngineTargets, ErrorKind, Event, Function, MapItem, TaskFuture,
    TaskOutcome, TaskPhase, TaskState,
};
use furlong_tests::wait::{SOON, eventually};
use furlong_tests::work::{Work, noop, python, python_function};
use futures_util::{Stream, StreamExt};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;

/// The end of each item. No item ends twice.
type Ends = BTreeMap<usize, TaskOutcome>;

/// Takes all results, and lets `act` do something after every so many.
fn take_all(
    work: &mut Work,
    results: impl Stream<Item = MapItem>,
    every: usize,
    mut act: impl FnMut(&mut Work, &Ends),
) -> Ends {
    let mut results = pin!(results);
    let mut ends = Ends::new();
    while let Some((index, end)) = work.within(results.next()) {
        assert!(ends.insert(index, end).is_none(), "item {index} ended twice");
        if ends.len().is_multiple_of(every) {
            act(work, &ends);
        }
    }
    ends
}

/// Kills the oldest engine process that is still there, and starts another.
fn replace_an_engine(work: &mut Work) {
    work.engines().remove(0).kill();
    work.add_engine(&[]);
}

fn sigkill(pid: i32) {
    // An error says that it has ended.
    let _ = kill_process(Pid::from_raw(pid).unwrap(), Signal::KILL);
}

fn lost(end: &TaskOutcome) -> Option<String> {
    let failure = end.as_ref().err()?;
    assert_eq!(
        (failure.state(), failure.kind()),
        (Some(TaskState::Lost), Some(ErrorKind::EngineLost)),
        "{failure}"
    );
    Some(failure.to_string())
}

#[test]
fn python_items_survive_engines_that_are_killed() {
    let mut work = Work::start(4);
    let items = (0..1_000).map(|item| Arguments::json(vec![item.into(), 2.into()]));
    let map =
        work.client().tasks().map(Function::Source(python_function("square")), items).retries(100);
    let results = map.window(200).stream().unwrap();
    let mut kills = 0;
    let ends = take_all(&mut work, results, 120, |work, ends| {
        if ends.len() < 1_000 {
            replace_an_engine(work);
            kills += 1;
        }
    });
    assert_eq!((ends.len(), kills), (1_000, 8));
    let mut attempts = 0;
    for (index, end) in ends {
        let result = end.unwrap_or_else(|failure| panic!("item {index}: {failure}"));
        assert_eq!(result.json::<usize>().unwrap(), index * index);
        attempts += result.report.attempts;
    }
    assert!(attempts > 1_000, "an engine that was killed had something assigned");
}

#[test]
fn short_items_that_were_sent_ahead_survive_engines_that_are_killed() {
    let mut work = Work::start(4);
    let items =
        (0..20_000_u32).map(|item| Arguments::Raw(vec![Bytes::from(item.to_le_bytes().to_vec())]));
    let map = work.client().tasks().map(Function::Named("echo".into()), items);
    let results = map.window(4_000).stream().unwrap();
    let ends = take_all(&mut work, results, 3_000, |work, _| replace_an_engine(work));
    assert_eq!(ends.len(), 20_000);
    for (index, end) in ends {
        let result = end.unwrap_or_else(|failure| panic!("item {index}: {failure}"));
        assert_eq!(result.data[0].as_ref(), (index as u32).to_le_bytes());
    }
}

#[test]
fn only_what_ran_is_lost_with_an_interpreter() {
    let mut work = Work::start_with(&[], &[&["-n", "2"], &["-n", "2"]]);
    let items = (0..1_000).map(|item| Arguments::json(vec![item.into()]));
    let map = work.client().tasks().map(Function::Source(python_function("who")), items);
    let results = map.window(300).stream().unwrap();
    let mut killed = BTreeSet::new();
    let ends = take_all(&mut work, results, 50, |_, ends| {
        let mut pids = ends
            .values()
            .filter_map(|end| end.as_ref().ok()?.json::<(usize, i32)>().ok().map(|(_, pid)| pid));
        let alive = pids.rfind(|pid| !killed.contains(pid));
        if let Some(pid) = alive {
            killed.insert(pid);
            sigkill(pid);
        }
    });
    assert_eq!(ends.len(), 1_000);
    let losses: Vec<String> = ends.values().filter_map(lost).collect();
    assert!(killed.len() >= 4, "{killed:?}");
    assert!(losses.len() <= killed.len(), "{} kills: {losses:?}", killed.len());
    assert!(losses.iter().all(|text| text.contains("SIGKILL")), "{losses:?}");
    for (index, end) in ends {
        if let Ok(result) = end {
            assert_eq!(result.json::<(usize, i32)>().unwrap().0, index);
        }
    }
}

#[test]
fn what_may_run_once_never_runs_twice() {
    let mut work = Work::start(3);
    let path = work.path("ran");
    let items = (0..1_000)
        .map(move |item| Arguments::json(vec![path.clone().into(), item.into(), json!(0.5)]));
    let map = work
        .client()
        .tasks()
        .map(Function::Source(python_function("noted")), items)
        .at_most_once(true);
    let results = map.window(300).stream().unwrap();
    let ends = take_all(&mut work, results, 200, |work, ends| {
        if ends.len() < 800 {
            replace_an_engine(work);
        }
    });
    assert_eq!(ends.len(), 1_000);
    let mut ran = BTreeMap::<usize, usize>::new();
    work.lines("ran").iter().for_each(|line| *ran.entry(line.parse().unwrap()).or_default() += 1);
    let mut losses = 0;
    for (index, end) in ends {
        let runs = ran.get(&index).copied().unwrap_or_default();
        match lost(&end) {
            None => assert_eq!(runs, 1, "item {index}"),
            Some(text) => {
                losses += 1;
                assert!(runs <= 1, "item {index} ran {runs} times: {text}");
            }
        }
    }
    // At most what each engine had been assigned.
    assert!(losses <= 3, "{losses} items are lost");
}

#[test]
fn an_item_that_kills_its_interpreter_is_lost_once_and_its_neighbours_live() {
    let work = Work::start(2);
    let (path, exits, faults) = (work.path("poison"), "exit code 3", "SIGSEGV");
    let poison = |how: &str| python("die", [json!(path), json!(how)]);
    let mut tasks: Vec<(TaskFuture, Option<&str>)> = Vec::new();
    for item in 0..300 {
        if item % 60 == 30 {
            tasks.push((work.submit(&poison("exit")), Some(exits)));
            tasks.push((work.submit(&poison("segv")), Some(faults)));
        }
        tasks.push((work.submit(&python("square", [item.into()])), None));
    }
    for (task, cause) in tasks {
        let end = work.within(task);
        match cause {
            None => _ = end.unwrap_or_else(|failure| panic!("a neighbour: {failure}")),
            Some(cause) => {
                let text = lost(&end).expect("it killed its interpreter");
                assert!(text.contains(cause), "{text}");
            }
        }
    }
    assert_eq!(work.lines("poison").len(), 10, "each ran once");
}

#[test]
fn a_task_of_a_killed_engine_runs_elsewhere_and_its_report_says_so() {
    let mut work = Work::start(2);
    let task = work.begin_hold("held");
    // A loss counts once the engine has said that the task runs, which is a moment after it does.
    let engine = work.wait_for_phase(task.id(), TaskPhase::Running).engine.unwrap();
    work.engines()[engine.0 as usize].kill();
    work.wait_for_lines("held.begun", 2);
    work.release("held.release");
    let id = task.id();
    let report = work.within(task).unwrap().report;
    assert_eq!((report.attempts, report.engine.map(|engine| engine.0)), (2, Some(1 - engine.0)));
    // Acknowledged and not kept: there is nothing to fetch any longer, or the record says the same.
    if let Ok(fetched) = work.within(work.client().fetch(id)) {
        assert_eq!((fetched.record.losses, fetched.record.errors), (1, 0));
    }
}

#[test]
fn a_task_that_takes_its_engine_along_ends_after_its_retries() {
    let mut work = Work::start(3);
    let task = work.submit(&work.hold("held").retries(1).keep(true));
    let id = task.id();
    for lives in 1..=2 {
        work.wait_for_lines("held.begun", lives);
        let begun = || work.fetch(id).record;
        assert!(eventually(SOON, || begun().times.started_us.is_some()
            && begun().attempts as usize == lives));
        let engine = work.fetch(id).record.engine.unwrap();
        work.engines()[engine.0 as usize].kill();
    }
    let failure = work.within(task).unwrap_err();
    lost(&Err(failure.clone())).expect("its engine is gone twice");
    assert_eq!(failure.report.attempts, 2);
    let record = work.fetch(id).record;
    assert_eq!((record.losses, record.errors, record.past.len()), (2, 0, 1), "{record:?}");
    assert_eq!(work.lines("held.begun").len(), 2);
    // The third engine lives.
    work.run(&noop()).unwrap();
}

#[test]
fn direct_work_of_a_killed_engine_is_lost_after_the_grace_and_its_integer_stays_its_own() {
    let mut work = Work::start(2);
    let mut events = work.client().subscribe().unwrap();
    let view = work.client().multiengine(EngineTargets::Ids(vec![EngineId(0)]));
    let direct = |work: &Work, call: &CallSpec| {
        work.within(view.call(call)).unwrap().into_iter().next().unwrap()
    };
    let running = direct(&work, &work.hold("held"));
    work.wait_for_lines("held.begun", 1);
    let waits = direct(&work, &noop());
    work.engines()[0].kill();
    work.add_engine(&[]);
    // Shared work does not wait for it.
    assert_eq!(work.run(&python("square", [json!(7)])).unwrap().json::<u32>().unwrap(), 49);
    for task in [running, waits] {
        let failure = work.within(task).unwrap_err();
        assert_eq!(
            (failure.state(), failure.kind()),
            (Some(TaskState::Lost), Some(ErrorKind::EngineLost))
        );
    }
    let ids = work.within(work.client().engines()).unwrap();
    assert_eq!(ids, [EngineId(1), EngineId(2)], "a new process is a new engine");
    let mut seen = Vec::new();
    while seen.len() < 2 {
        seen.push(work.within(events.next()).unwrap().unwrap());
    }
    assert!(
        seen.contains(&Event::EngineOffline(EngineId(0)))
            && seen.contains(&Event::EngineOnline(EngineId(2)))
    );
    let failure = work.within(direct(&work, &noop())).unwrap_err();
    assert_eq!(failure.kind(), Some(ErrorKind::UnknownEngine), "{failure}");
}
