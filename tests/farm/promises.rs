//! A task's output while it runs, what is retained of it afterwards and for whom, and namespaces
//! that go.

use furlong_client::{
    CallSpec, EngineId, EngineTargets, ErrorKind, Event, Multiengine, Signal, TaskFuture,
    TaskQuery, TaskState,
};
use furlong_tests::command::furlong;
use furlong_tests::wait::{SOON, eventually};
use furlong_tests::work::{Work, noop, python};
use futures_util::StreamExt;
use serde_json::{Value, json};

fn one(work: &Work, view: &Multiengine, call: &CallSpec) -> TaskFuture {
    work.within(view.call(call)).unwrap().into_iter().next().unwrap()
}

fn engine(work: &Work, id: u32) -> Multiengine {
    work.client().multiengine(EngineTargets::Ids(vec![EngineId(id)]))
}

#[test]
fn output_and_published_data_come_while_the_task_runs() {
    let work = Work::start(1);
    let task = work.submit(&python("show", [json!(work.path("go")), json!(5)]));
    let (mut output, mut published) = (task.output(), task.published());
    let mut text = String::new();
    for step in 0..5 {
        let value = work.within(published.next()).unwrap().unwrap();
        assert_eq!(value.json::<Value>().unwrap(), json!({ "step": step }));
        while !text.contains(&format!("step {step}\n")) {
            let piece = work.within(output.next()).expect("the task writes more");
            assert_eq!((piece.offset, piece.left_out, piece.attempt), (text.len() as u64, 0, 1));
            text.push_str(std::str::from_utf8(&piece.bytes).unwrap());
        }
        assert!(!task.is_finished(), "it came before the end");
        work.release(&format!("go-{step}"));
    }
    let report = work.within(task).unwrap().report;
    assert_eq!((report.stdout.text(), report.stderr.text()), (text, String::new()));
    assert_eq!(report.published.unwrap().json::<Value>().unwrap(), json!({ "step": 4 }));
    assert!(work.within(output.next()).is_none() && work.within(published.next()).is_none());
}

#[test]
fn another_process_of_the_owner_follows_and_fetches_what_is_kept() {
    let work = Work::start(1);
    let call = python("show", [json!(work.path("go")), json!(2)]).label("shown").keep(true);
    let task = work.submit(&call);
    let id = task.id();
    let other = work.connect();
    let mut follow = work.within(other.follow(id)).unwrap();
    let piece = work.within(follow.next()).unwrap();
    assert_eq!(piece.bytes.as_ref(), b"step 0\n");
    work.release("go-0");
    work.release("go-1");
    let fetched = work.within(follow.ended()).unwrap();
    assert_eq!(fetched.result.unwrap().unwrap().json::<u32>().unwrap(), 2);
    assert_eq!(fetched.report.stdout.text(), "step 0\nstep 1\n");
    work.within(task).unwrap();
    // By id, by label, and as often as one likes; the command is a process of its own.
    for selector in [&[id.to_string()][..], &["--label".into(), "shown".into()]] {
        let args: Vec<&str> =
            ["result"].into_iter().chain(selector.iter().map(String::as_str)).collect();
        let out = furlong(&args, work.farm().home());
        assert!(out.clone().ok().contains("step 0\nstep 1"), "{out:?}");
    }
    let query = TaskQuery { label: Some("sh*n".into()), ..TaskQuery::default() };
    let records = work.within(other.query_tasks(query).all()).unwrap();
    assert_eq!(records.iter().map(|record| record.id).collect::<Vec<_>>(), [id]);
    work.within(other.purge(&[id.into()])).unwrap();
    // At the latest when the first client says that it has it.
    assert!(eventually(SOON, || work.within(other.fetch(id)).is_err()), "it was purged");
}

#[test]
fn what_is_not_kept_goes_with_its_acknowledgement_and_what_nobody_fetched_stays() {
    let work = Work::start(1);
    let client = work.connect();
    let kept = work.submit_by(&client, &python("square", [json!(6)]).keep(true));
    let plain = work.submit_by(&client, &noop());
    let (kept_id, plain_id) = (kept.id(), plain.id());
    work.within(plain).unwrap();
    drop(kept);
    work.within(client.detach()).unwrap();
    let fetched = work.within(work.client().wait_for(kept_id)).unwrap();
    assert_eq!(fetched.result.unwrap().unwrap().json::<u32>().unwrap(), 36);
    let gone =
        || work.within(work.client().fetch(plain_id)).is_ok_and(|fetched| fetched.result.is_some());
    assert!(!gone());
}

#[test]
fn tasks_of_a_session_that_says_goodbye_are_cancelled_unless_they_are_kept() {
    let work = Work::start(1);
    let holder = work.begin_hold("held");
    let client = work.connect();
    let calls =
        ["kept", "plain"].map(|name| python("noted", [json!(work.path("ran")), json!(name)]));
    let [kept, plain] = calls;
    let kept = work.submit_by(&client, &kept.keep(true));
    let plain = work.submit_by(&client, &plain);
    let id = kept.id();
    drop((kept, plain));
    work.within(client.detach()).unwrap();
    work.release("held.release");
    work.within(holder).unwrap();
    let fetched = work.within(work.client().wait_for(id)).unwrap();
    fetched.result.unwrap().unwrap();
    work.run(&noop()).unwrap();
    assert_eq!(work.lines("ran"), ["kept"]);
}

#[test]
fn direct_tasks_are_lost_with_the_namespace_unless_they_do_not_need_it() {
    let work = Work::start(1);
    let view = engine(&work, 0);
    let mut events = work.client().subscribe().unwrap();
    let set = CallSpec::code("x = 5");
    work.within(one(&work, &view, &set)).unwrap();
    let dies = one(
        &work,
        &view,
        &python("hold", ["a.begun", "a.release"].map(|name| json!(work.path(name)))),
    );
    work.wait_for_lines("a.begun", 1);
    let needs = [(); 3].map(|()| one(&work, &view, &CallSpec::code("x")));
    let safe =
        [(); 3].map(|()| one(&work, &view, &CallSpec::code("'x' in globals()").restart_safe(true)));
    let shared = work.submit(&python("square", [json!(4)]));
    work.within(view.signal(Signal::new(9).unwrap())).unwrap();
    let failure = work.within(dies).unwrap_err();
    assert_eq!(
        (failure.state(), failure.kind()),
        (Some(TaskState::Lost), Some(ErrorKind::EngineLost)),
        "{failure}"
    );
    assert!(failure.to_string().contains("SIGKILL"), "{failure}");
    for task in needs {
        let failure = work.within(task).unwrap_err();
        assert_eq!(failure.state(), Some(TaskState::Lost), "{failure}");
        assert!(failure.to_string().contains("namespace"), "{failure}");
    }
    for task in safe {
        let furlong_client::ReplyHeader::Executed { repr, .. } = work.within(task).unwrap().header
        else {
            panic!()
        };
        assert_eq!(repr.as_deref(), Some("False"), "the new namespace is empty");
    }
    assert_eq!(work.within(shared).unwrap().json::<u32>().unwrap(), 16);
    let told = work.within(async {
        loop {
            match events.next().await.unwrap().unwrap() {
                Event::EngineRestarted(id, cause) => return (id, cause),
                Event::EngineOnline(_) | Event::EngineOffline(_) => {}
            }
        }
    });
    assert_eq!(told.0, EngineId(0));
    assert!(told.1.contains("SIGKILL"), "{told:?}");
    // Work that comes after the loss is for the new interpreter.
    let failure = work.within(one(&work, &view, &CallSpec::code("x"))).unwrap_err();
    assert_eq!(failure.remote().unwrap().type_name, "NameError");
}

#[test]
fn each_slot_sees_a_gpu_of_its_own_when_that_is_asked_for() {
    let work = Work::start_with(&[], &[&["-n", "3", "--cuda", "--env", "COLOUR=blue"]]);
    let all = work.client().multiengine(EngineTargets::All);
    let names =
        ["__import__('os').environ['CUDA_VISIBLE_DEVICES']", "__import__('os').environ['COLOUR']"];
    let seen = work
        .within(async { all.pull(&names).await.unwrap().json::<(String, String)>().await })
        .unwrap();
    let expected = ["0", "1", "2"].map(|device| (device.to_owned(), "blue".to_owned()));
    assert_eq!(seen, expected);
    let printed = CallSpec::command(["sh", "-c", "echo $CUDA_VISIBLE_DEVICES"]);
    for id in 0..3 {
        let report = work.within(one(&work, &engine(&work, id), &printed)).unwrap().report;
        assert_eq!(report.stdout.text(), format!("{id}\n"));
    }
}

#[test]
fn what_a_session_sends_to_an_engine_runs_there_in_that_order() {
    let work = Work::start(2);
    let view = work.client().multiengine(EngineTargets::All);
    let other = work.connect();
    work.within(async { view.execute("order = []").await.unwrap().wait().await }).unwrap();
    let ours = work.within(async {
        let mut groups = Vec::new();
        for n in 0..100 {
            // Every tenth brings so much that it is on its way when those behind it are there.
            let pad = "#".repeat(if n % 10 == 3 { 200_000 } else { 1 });
            groups.push(view.execute(&format!("order.append({n}) {pad}")).await.unwrap());
            let _ = other.multiengine(EngineTargets::All).execute("pass").await.unwrap();
        }
        groups
    });
    for group in ours {
        work.within(group.wait()).unwrap();
    }
    let orders = work
        .within(async { view.pull(&["order"]).await.unwrap().json::<(Vec<u32>,)>().await })
        .unwrap();
    assert!(orders.iter().all(|(order,)| order.iter().copied().eq(0..100)), "{orders:?}");
    assert!(eventually(SOON, || work.status().tasks_assigned == 0));
}
