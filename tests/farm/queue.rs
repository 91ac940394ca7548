//! The scheduling of tasks: priority, fairness, dependencies, labels, what is sent ahead, history,
//! draining.

use std::path::{Path, PathBuf};
use std::time::Duration;

use furlong_client::{
    Arguments, CallSpec, Client, Depends, EngineId, EngineTargets, ErrorKind, TaskFuture, TaskId,
    TaskPhase, TaskQuery, TaskRecord, TaskState,
};
use furlong_tests::command::furlong;
use furlong_tests::wait::{SOON, eventually};
use furlong_tests::work::{Work, noop, python};
use furlong_wire::ids::TaskSeq;
use serde_json::{Value, json};

/// A capability of its own for somebody.
fn issue(work: &Work, args: &[&str]) -> PathBuf {
    let out = furlong(
        &[&["cap", "issue", "--role", "client", "--json"], args].concat(),
        work.farm().home(),
    )
    .ok();
    let document: Value = serde_json::from_str(&out).unwrap();
    PathBuf::from(document["file"].as_str().unwrap())
}

/// A task that writes its name into the file `order`.
fn named(work: &Work, name: impl Into<String>) -> CallSpec {
    python("noted", [json!(work.path("order")), json!(name.into())])
}

fn engine_of(work: &Work, task: TaskFuture) -> u32 {
    work.within(task).unwrap_or_else(|failure| panic!("{failure}")).report.engine.unwrap().0
}

fn view(client: &Client, engine: u32) -> furlong_client::Multiengine {
    client.multiengine(EngineTargets::Ids(vec![EngineId(engine)]))
}

fn direct(work: &Work, client: &Client, engine: u32, call: &CallSpec) -> TaskFuture {
    work.within(view(client, engine).call(call)).unwrap().into_iter().next().unwrap()
}

#[test]
fn priority_goes_first_and_what_names_the_engine_before_all() {
    let work = Work::start(1);
    let holder = work.begin_hold("held");
    let plan = [("low", -1), ("a", 0), ("b", 0), ("high", 7), ("c", 0)];
    let mut tasks: Vec<_> = plan
        .iter()
        .map(|(name, priority)| work.submit(&named(&work, *name).priority(*priority)))
        .collect();
    tasks.push(direct(&work, work.client(), 0, &named(&work, "direct")));
    work.wait_for_phase(tasks[0].id(), TaskPhase::Queued);
    work.release("held.release");
    work.within(holder).unwrap();
    for task in tasks {
        work.within(task).unwrap();
    }
    assert_eq!(work.lines("order"), ["direct", "high", "a", "b", "c", "low"]);
}

#[test]
fn a_session_that_floods_the_queue_does_not_hold_up_another() {
    let work = Work::start(1);
    let holder = work.begin_hold("held");
    let flood: Vec<_> = (0..200).map(|_| work.submit(&named(&work, "flood"))).collect();
    let other = work.connect();
    let few: Vec<_> = (0..5).map(|_| work.submit_by(&other, &named(&work, "few"))).collect();
    work.within(other.engines()).unwrap();
    work.release("held.release");
    work.within(holder).unwrap();
    flood.into_iter().chain(few).for_each(|task| _ = work.within(task).unwrap());
    let order = work.lines("order");
    let last = order.iter().rposition(|name| name == "few").unwrap();
    assert_eq!(order.len(), 205);
    assert!(last <= 11, "the last of the few came at {last}");
}

#[test]
fn dependencies_are_met_by_all_or_any_on_success_or_failure() {
    let work = Work::start(2);
    let mut holder = work.begin_hold("held");
    let succeeds = work.submit(&named(&work, "succeeds"));
    let fails = work.submit(&python("fail_first", [json!(work.path("failures")), json!(9)]));
    let (held, good, bad) = (holder.id(), succeeds.id(), fails.id());
    let submit = |name: &str, on: Depends| work.submit(&named(&work, name).after(on));
    let any = submit("any", Depends::any([held, good]));
    let cleanup = submit("cleanup", Depends::on(bad).on_failure());
    let either = submit("either", Depends::all([good, bad]).on_end());
    let all = submit("all", Depends::all([held, good]));
    let unmet = [
        submit("unmet", Depends::all([good, bad])),
        submit("unmet", Depends::on(good).on_failure()),
        submit("unmet", Depends::any([bad, bad])),
    ];
    for task in [succeeds, any, cleanup, either] {
        work.within(task).unwrap_or_else(|failure| panic!("{failure}"));
    }
    work.within(fails).unwrap_err();
    for task in unmet {
        let failure = work.within(task).unwrap_err();
        assert_eq!(failure.kind(), Some(ErrorKind::Dependency), "{failure}");
        assert_ne!(failure.state(), Some(TaskState::Succeeded));
    }
    assert_eq!(work.fetch(&all).record.phase, TaskPhase::Waiting);
    assert!(work.fetch(&all).record.waits.is_some());
    work.release("held.release");
    work.within(&mut holder).unwrap();
    work.within(all).unwrap();
    // All of them have ended and are acknowledged: what comes now finds their ends all the same.
    for (on, met) in [(Depends::all([held, good]), true), (Depends::on(bad), false)] {
        assert_eq!(work.within(submit("late", on)).is_ok(), met);
    }
    assert!(!work.lines("order").contains(&"unmet".to_owned()));
}

#[test]
fn dependencies_reach_over_the_sessions_of_one_owner_and_no_further() {
    let work = Work::start(2);
    let holder = work.begin_hold("held");
    let (other, outsider) =
        (work.connect(), work.connect_with(&issue(&work, &["--owner", "a-outsider"])));
    let waits = work.submit_by(&other, &named(&work, "other").after(&holder));
    let unknown = work.submit_by(&outsider, &named(&work, "outsider").after(&holder));
    let failure = work.within(unknown).unwrap_err();
    assert_eq!(failure.kind(), Some(ErrorKind::Dependency), "{failure}");
    let nobody = TaskId { n: TaskSeq(999), ..holder.id() };
    let failure = work.within(work.submit(&noop().after(nobody))).unwrap_err();
    assert_eq!(failure.kind(), Some(ErrorKind::Dependency), "{failure}");
    assert_eq!(work.fetch(&waits).record.phase, TaskPhase::Waiting);
    work.release("held.release");
    work.within(holder).unwrap();
    work.within(waits).unwrap();
    assert_eq!(work.lines("order"), ["other"]);
}

#[test]
fn what_follows_a_task_runs_where_that_ran() {
    let work = Work::start(3);
    for round in 0..6 {
        let first = work.submit(&named(&work, "first"));
        let follower = work.submit(&named(&work, "follower").follow(&first));
        let chain = work.submit(&named(&work, "chain").follow(&follower));
        let engines = [first, follower, chain].map(|task| engine_of(&work, task));
        assert!(engines.iter().all(|engine| *engine == engines[0]), "round {round}: {engines:?}");
    }
    let held = work.begin_hold("held");
    let on_engine = work.fetch(&held).record.engine;
    let follower = work.submit(&noop().follow(Depends::on(&held).on_end()));
    work.wait_for_phase(follower.id(), TaskPhase::Waiting);
    held.cancel();
    assert_eq!(work.within(follower).unwrap().report.engine, on_engine);
}

#[test]
fn required_labels_and_scopes_decide_which_engines_run_a_task() {
    let work = Work::start_with(&[], &[&[], &["--label", "gpu"], &["--label", "gpu,big"]]);
    for _ in 0..10 {
        assert!([1, 2].contains(&engine_of(&work, work.submit(&noop().require("gpu")))));
        assert_eq!(engine_of(&work, work.submit(&noop().require("gpu").require("big"))), 2);
    }
    let nowhere = work.submit(&noop().require("no-such-label"));
    let record = work.wait_for_phase(nowhere.id(), TaskPhase::Queued);
    assert!(record.waits.as_ref().is_some_and(|why| why.contains("no-such-label")), "{record:?}");
    let failure = work.within(direct(&work, work.client(), 0, &noop().require("gpu"))).unwrap_err();
    assert_eq!(failure.kind(), Some(ErrorKind::Unsupported), "{failure}");
    let scoped = work.connect_with(&issue(&work, &["--labels", "big"]));
    let engines: Vec<_> =
        (0..20).map(|_| engine_of(&work, work.submit_by(&scoped, &noop()))).collect();
    assert!(engines.iter().all(|engine| *engine == 2), "{engines:?}");
    for (engine, may) in [(0, false), (1, false), (2, true)] {
        let group = work.within(view(&scoped, engine).call(&noop()));
        let ended = group.map(|group| work.within(group.into_iter().next().unwrap()));
        assert_eq!(matches!(ended, Ok(Ok(_))), may, "engine {engine}: {ended:?}");
    }
}

#[test]
fn a_label_that_comes_later_frees_what_waits_for_it() {
    let mut work = Work::start(1);
    let waits = work.submit(&noop().require("late"));
    work.wait_for_phase(waits.id(), TaskPhase::Queued);
    work.add_engine(&["--label", "late"]);
    assert_eq!(engine_of(&work, waits), 1);
}

/// Two engines that have run short tasks of `hold_if` lately, so that they are given several at
/// once.
fn brisk() -> (Work, impl Fn(&Work, u32) -> CallSpec) {
    let work = Work::start(2);
    let call = |work: &Work, item: u32| {
        let files = ["held.begun", "held.release"].map(|name| json!(work.path(name)));
        let [begun, release] = files;
        python("hold_if", [json!(item), json!(0), begun, release])
    };
    let warm: Vec<_> = (1..600).map(|item| work.submit(&call(&work, item))).collect();
    for task in warm {
        work.within(task).unwrap();
    }
    (work, call)
}

#[test]
fn what_was_sent_ahead_behind_a_long_task_goes_to_an_engine_that_is_idle() {
    let (work, call) = brisk();
    // All are submitted at once, the long one first: those sent along with it must not wait for it.
    let tasks: Vec<_> = (0..200).map(|item| work.submit(&call(&work, item))).collect();
    let mut tasks = tasks.into_iter();
    let holder = tasks.next().unwrap();
    for task in tasks {
        work.within(task).unwrap();
    }
    assert!(!holder.is_finished());
    work.release("held.release");
    work.within(holder).unwrap();
}

#[test]
fn what_was_sent_ahead_makes_way_for_an_engine_s_own_work() {
    let work = Work::start(1);
    let files = ["held.begun", "held.release"].map(|name| json!(work.path(name)));
    let [begun, release] = files;
    let call =
        |item: u32| python("hold_if", [json!(item), json!(0), begun.clone(), release.clone()]);
    let warm: Vec<_> = (1..200).map(|item| work.submit(&call(item))).collect();
    for task in warm {
        work.within(task).unwrap();
    }
    let shared: Vec<_> = (0..400).map(|item| work.submit(&call(item))).collect();
    work.wait_for_lines("held.begun", 1);
    let own = direct(&work, work.client(), 0, &named(&work, "own"));
    work.within(work.client().engines()).unwrap();
    work.release("held.release");
    let own = work.within(own).unwrap().report.times;
    let shared: Vec<_> =
        shared.into_iter().map(|task| work.within(task).unwrap().report.times).collect();
    let ended = |times: &furlong_client::TaskTimes| times.submitted_unix_us + times.finished_us;
    let before = shared.iter().filter(|times| ended(times) < ended(&own)).count();
    assert!(before <= 64, "{before} of 400 shared tasks went before it");
}

#[test]
fn no_task_waits_while_an_engine_idles() {
    let work = Work::start(2);
    // One long task, then short ones of another kind, again and again: the free engine takes them
    // all.
    let holder = work.begin_hold("held");
    let held_by = work.fetch(&holder).record.engine.unwrap().0;
    for item in 0..100 {
        let engine = engine_of(&work, work.submit(&python("square", [json!(item)])));
        assert_eq!(engine, 1 - held_by);
    }
    let both: Vec<_> = (0..50).map(|_| work.submit(&noop())).collect();
    for task in both {
        work.within(task).unwrap();
    }
    work.release("held.release");
    work.within(holder).unwrap();
}

fn history(work: &Work, id: TaskId) -> TaskRecord {
    let query = TaskQuery { label: Some("history".into()), ..TaskQuery::default() };
    let records = work.within(work.client().query_tasks(query).all()).unwrap();
    records.into_iter().find(|record| record.id == id).expect("a record of the task")
}

#[test]
fn the_times_of_a_task_are_in_their_order() {
    let work = Work::start(1);
    let holder = work.begin_hold("held");
    let call = python("square", [json!(5), json!(40)]).label("history").keep(true).after(&holder);
    let task = work.submit(&call);
    let id = task.id();
    let before = history(&work, id);
    assert_eq!(
        (before.phase, before.times.queued_us, before.outcome),
        (TaskPhase::Waiting, None, None)
    );
    work.release("held.release");
    work.within(holder).unwrap();
    work.within(task).unwrap();
    assert!(eventually(SOON, || history(&work, id).times.delivered_us.is_some()));
    let record = history(&work, id);
    let times = record.times;
    let steps = [
        times.queued_us,
        times.assigned_us,
        times.started_us,
        times.finished_us,
        times.delivered_us,
    ];
    let steps: Vec<u64> = steps.into_iter().map(|at| at.expect("it has come that far")).collect();
    assert!(steps.is_sorted() && steps[4] <= times.now_us, "{record:?}");
    assert!(times.run.run_us >= 40_000 && times.run.run_us <= steps[3] - steps[1], "{record:?}");
    assert_eq!((record.attempts, record.losses, record.errors, record.kept), (1, 0, 0, true));
    assert_eq!(record.outcome.unwrap().state, TaskState::Succeeded);
}

#[test]
fn queue_and_explain_say_what_a_task_is_and_what_it_raised() {
    let work = Work::start(1);
    let calls = [
        (CallSpec::python("math:sqrt").arguments(Arguments::json(vec![json!("x")])), "math.sqrt"),
        (CallSpec::code("1 / 0"), "execute"),
        (CallSpec::command(["sh", "-c", "exit 3"]), "sh"),
        (CallSpec::native("noop"), "noop"),
    ];
    for (call, _) in &calls {
        let _ended = work.run(&call.clone().keep(true));
    }
    let home = work.farm().home();
    let shown = furlong(&["queue", "--all", "--json"], home).ok();
    let records: Vec<Value> =
        shown.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let names: Vec<&str> = records.iter().map(|record| record["name"].as_str().unwrap()).collect();
    assert_eq!(names, calls.each_ref().map(|(_, name)| *name));
    let types: Vec<&Value> = records.iter().map(|record| &record["error"]["type"]).collect();
    assert_eq!(
        types,
        [&json!("TypeError"), &json!("ZeroDivisionError"), &json!(null), &json!(null)]
    );
    assert!(records.iter().all(|record| record["times"]["load_us"].is_u64()), "{shown}");
    let table = furlong(&["queue", "--all"], home).ok();
    assert!(table.contains("raised ZeroDivisionError"), "{table}");
    let task = records[1]["task"].as_str().unwrap();
    let explained = furlong(&["explain", task], home).ok();
    for expected in ["`execute`, a python task", "raised ZeroDivisionError", "running"] {
        assert!(explained.contains(expected), "{explained}");
    }
}

#[test]
fn sigterm_finishes_what_runs_and_gives_back_the_rest() {
    let mut work = Work::start(1);
    let holder = work.begin_hold("held");
    let waits: Vec<_> = (0..20).map(|item| work.submit(&python("square", [json!(item)]))).collect();
    let own = direct(&work, work.client(), 0, &noop());
    work.wait_for_phase(own.id(), TaskPhase::Assigned);
    work.engines()[0].terminate();
    assert!(eventually(SOON, || work.status().processes[0].leaving));
    work.add_engine(&[]);
    for task in waits {
        assert_eq!(engine_of(&work, task), 1, "what had not begun runs elsewhere");
    }
    let failure = work.within(own).unwrap_err();
    assert_eq!(
        (failure.state(), failure.kind()),
        (Some(TaskState::Lost), Some(ErrorKind::EngineLost)),
        "{failure}"
    );
    assert!(!holder.is_finished());
    work.release("held.release");
    let result = work.within(holder).unwrap();
    assert_eq!((result.report.engine, result.report.attempts), (Some(EngineId(0)), 1));
    assert_eq!(work.engines()[0].wait_exit(SOON).code(), Some(0));
    assert!(eventually(SOON, || work.status().engines.len() == 1));
}

#[test]
fn a_direct_task_for_no_engine_and_a_session_without_engines_are_errors_at_once() {
    let work = Work::start(0);
    let failure = work.within(direct(&work, work.client(), 7, &noop())).unwrap_err();
    assert_eq!(failure.kind(), Some(ErrorKind::UnknownEngine), "{failure}");
    let none = work.within(work.client().multiengine(EngineTargets::All).execute("1"));
    assert!(matches!(none, Err(furlong_client::ClientError::NoEngines)), "{none:?}");
    // A shared task waits for one, as long as it may.
    let call = noop().queue_timeout(Duration::from_millis(50)).arguments(Arguments::None);
    assert_eq!(work.run(&call).unwrap_err().kind(), Some(ErrorKind::QueueTimeout));
    assert!(Path::new(&work.path(".")).exists());
}
