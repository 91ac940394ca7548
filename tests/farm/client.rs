//! The Rust client against the real programs: handles, namespaces of engines, other processes'
//! tasks, maps.

use std::collections::BTreeMap;
use std::time::Duration;

use furlong_client::{
    Arguments, CallSpec, Client, ClientError, Distribution, EngineId, EngineTargets, ErrorKind,
    Event, Function, GroupError, Signal, TaskId, TaskPhase, TaskQuery, TaskRange, TaskState,
    blocking,
};
use furlong_tests::wait::SOON;
use furlong_tests::work::{Work, noop, python, python_function};
use furlong_wire::ids::TaskSeq;
use furlong_wire::token::Role;
use futures_util::{StreamExt, stream};
use serde_json::json;

/// Python code on engine 0.
fn execute(work: &Work, code: &str) -> furlong_client::TaskFuture {
    let engine = work.client().multiengine(EngineTargets::Ids(vec![EngineId(0)]));
    work.within(engine.execute(code)).unwrap().into_iter().next().unwrap()
}

#[test]
fn output_and_intermediate_data_come_while_a_task_runs() {
    let work = Work::start(1);
    let release = work.path("release");
    let code = format!(
        "import os, time\nprint('begun', flush=True)\npublish({{'step': 1}})\nwhile not os.path.exists({release:?}):\n    \
         time.sleep(0.01)\nprint('done')\npublish({{'step': 2}})"
    );
    let mut task = execute(&work, &code);
    let (mut output, mut published) = (task.output(), task.published());
    work.within(async {
        let piece = output.next().await.unwrap();
        assert_eq!(
            (&piece.bytes[..], piece.offset, piece.left_out, piece.attempt),
            (&b"begun\n"[..], 0, 0, 1)
        );
        let value = published.next().await.unwrap().unwrap();
        assert_eq!(value.json::<serde_json::Value>().unwrap(), json!({"step": 1}));
    });
    assert!(!task.is_finished());
    assert_eq!(task.latest().unwrap().json::<serde_json::Value>().unwrap(), json!({"step": 1}));
    work.release("release");
    work.within(async {
        let rest: Vec<u8> =
            output.flat_map(|piece| stream::iter(piece.bytes.to_vec())).collect().await;
        assert_eq!(rest, b"done\n");
        let last = published.next().await.unwrap().unwrap();
        assert_eq!(last.json::<serde_json::Value>().unwrap(), json!({"step": 2}));
        assert!(published.next().await.is_none());
        let report = (&mut task).await.unwrap().report;
        assert_eq!(report.stdout.text(), "begun\ndone\n");
        assert!(report.published.is_some());
    });
}

#[test]
fn a_cancelled_task_is_told_when_it_has_stopped() {
    let work = Work::start(1);
    let mut task = execute(&work, "import time\nprint('begun', flush=True)\ntime.sleep(600)");
    work.within(task.output().next()).unwrap();
    let behind = work.submit(&noop());
    task.cancel();
    let failure = work.within(&mut task).unwrap_err();
    assert_eq!(
        (failure.state(), failure.kind()),
        (Some(TaskState::Cancelled), Some(ErrorKind::Cancelled))
    );
    work.within(task.stopped()).unwrap();
    work.within(behind).unwrap();
    let waits = work.submit(&noop().after(work.begin_hold("held").id()));
    waits.cancel();
    work.within(waits.stopped()).unwrap();
    work.release("held.release");
}

#[test]
fn a_task_that_waits_for_another_attempt_has_stopped_when_it_is_cancelled() {
    let work = Work::start(1);
    let call = python("fail_first", [json!(work.path("runs")), json!(100)]);
    let again = work.submit(&call.error_retries(5).backoff(Duration::from_secs(600)));
    work.wait_for_phase(again.id(), TaskPhase::Waiting);
    again.cancel();
    work.within(again.stopped()).unwrap();
    let mut timed_out = work.submit(&work.hold("long").run_timeout(Duration::from_millis(50)));
    let failure = work.within(&mut timed_out).unwrap_err();
    assert_eq!(failure.kind(), Some(ErrorKind::RunTimeout));
    work.within(timed_out.stopped()).unwrap();
}

#[test]
fn namespaces_of_engines_are_set_read_listed_and_emptied() {
    let work = Work::start(3);
    let all = work.client().multiengine(EngineTargets::All);
    work.within(async {
        all.push(&BTreeMap::from([("scale", 3)])).await.unwrap().wait().await.unwrap();
        for distribution in [Distribution::Blocks, Distribution::RoundRobin] {
            let items: Vec<u32> = (0..10).collect();
            all.scatter("part", &items, distribution).await.unwrap().wait().await.unwrap();
            let lengths: Vec<(usize,)> =
                all.pull(&["len(part)"]).await.unwrap().json().await.unwrap();
            assert_eq!(lengths, [(4,), (3,), (3,)]);
            all.execute("scaled = [scale * x for x in part]").await.unwrap().wait().await.unwrap();
            let scaled: Vec<u32> = all.gather("scaled", distribution).await.unwrap();
            assert_eq!(scaled, items.iter().map(|x| 3 * x).collect::<Vec<_>>());
        }
        all.run("script.py", "y = scale + 1\n").await.unwrap().wait().await.unwrap();
        let keys: Vec<Vec<String>> = all.keys().await.unwrap().json().await.unwrap();
        assert!(keys.iter().all(|keys| *keys == ["part", "scale", "scaled", "y"]), "{keys:?}");
        all.clear().await.unwrap().wait().await.unwrap();
        let error = all.pull(&["scale"]).await.unwrap().wait().await.unwrap_err();
        assert_eq!((error.failures.len(), error.tasks), (3, 3));
        let text = error.to_string();
        assert!(text.starts_with("3 of 3 engines failed; the first: NameError: "), "{text}");
        let wrong = all.push(&[1]).await;
        assert!(matches!(wrong, Err(ClientError::NotVariables)));
    });
}

#[test]
fn a_function_is_mapped_over_engines_in_blocks() {
    let work = Work::start(2);
    let all = work.client().multiengine(EngineTargets::All);
    work.within(async {
        let items = ["a", "bb", "ccc", "dddd", "eeeee"];
        for name in ["builtins:len", "len"] {
            let mapped = all.map(&Function::Named(name.into()), &items).await.unwrap();
            assert_eq!(mapped.wait::<usize>().await.unwrap(), [1, 2, 3, 4, 5]);
        }
        let source = furlong_client::SourceFunction::new(
            "double.py",
            "def double(x):\n    return 2 * x",
            "double",
        );
        let double = Function::Source(std::sync::Arc::new(source));
        let mapped = all.map(&double, &[1, 2, 3]).await.unwrap();
        assert_eq!(mapped.wait::<i32>().await.unwrap(), [2, 4, 6]);
        let one_block = all.map(&double, &[1]).await.unwrap().into_blocks();
        assert_eq!(one_block.len(), 1, "an engine without items gets no task");
        one_block.wait().await.unwrap();
        let failed = all
            .map(&Function::Named("math:sqrt".into()), &[4, -1])
            .await
            .unwrap()
            .wait::<f64>()
            .await;
        let Err(GroupError::Tasks(error)) = failed else { panic!("{failed:?}") };
        assert_eq!((error.failures.len(), error.tasks), (1, 2));
    });
}

/// Submits tasks that are kept, and leaves while they are queued or run. Gives their ids.
fn submit_and_leave(work: &Work, calls: Vec<CallSpec>) -> Vec<TaskId> {
    let client = work.connect();
    let ids: Vec<TaskId> = calls.iter().map(|call| work.submit_by(&client, call).id()).collect();
    work.within(client.detach()).unwrap();
    ids
}

#[test]
fn kept_tasks_go_on_and_any_process_of_their_owner_fetches_follows_and_ends_them() {
    let work = Work::start(1);
    let large = CallSpec::python("builtins:len")
        .arguments(Arguments::json(vec!["x".repeat(3_000_000).into()]));
    let echo = CallSpec::python("builtins:print").arguments(Arguments::json(vec!["hello".into()]));
    let calls = vec![work.hold("first"), large, echo, noop(), noop()];
    let calls =
        (0..).zip(calls).map(|(n, call)| call.keep(true).label(format!("kept-{n}"))).collect();
    let ids = submit_and_leave(&work, calls);
    work.wait_for_lines("first.begun", 1);

    let client = work.client();
    work.wait_for_phase(ids[0], TaskPhase::Running);
    assert!(work.fetch(ids[0]).result.is_none());
    let cancelled = work.within(client.cancel_tasks(&[ids[4].into()], false)).unwrap();
    assert_eq!((cancelled.cancelled, cancelled.finished), (1, 0));
    let follow = work.within(client.follow(ids[2])).unwrap();
    work.release("first.release");
    work.within(async {
        let result = client.wait_for(ids[1]).await.unwrap().result.unwrap().unwrap();
        assert_eq!(
            result.json::<usize>().unwrap(),
            3_000_000,
            "large arguments had all been sent before the goodbye"
        );
        let text: Vec<u8> =
            follow.flat_map(|piece| stream::iter(piece.bytes.to_vec())).collect().await;
        assert_eq!(text, b"hello\n");
        let fetched = client.wait_for(ids[2]).await.unwrap();
        assert_eq!(fetched.report.stdout.text(), "hello\n");
        let failure = client.wait_for(ids[4]).await.unwrap().result.unwrap().unwrap_err();
        assert_eq!(failure.kind(), Some(ErrorKind::Cancelled));
        let follow = client.follow(ids[2]).await.unwrap();
        assert_eq!(follow.ended().await.unwrap().report.stdout.text(), "hello\n");
        // A purge leaves what has not ended.
        client.wait_for(ids[3]).await.unwrap().result.unwrap().unwrap();

        let query = TaskQuery { label: Some("kept-*".into()), ..TaskQuery::default() };
        let records = client.query_tasks(query.clone()).all().await.unwrap();
        assert_eq!(records.iter().map(|record| record.id).collect::<Vec<_>>(), ids);
        let two = client.query_tasks(TaskQuery { limit: 2, ..query.clone() }).all().await.unwrap();
        assert_eq!(two.len(), 2);
        let all = TaskRange { session: ids[0].session, first: TaskSeq(1), last: TaskSeq::MAX };
        client.purge(&[all]).await.unwrap();
        assert!(client.query_tasks(query).all().await.unwrap().is_empty());
        let gone = client.fetch(ids[1]).await;
        assert!(matches!(gone, Err(ClientError::Refused(_))), "{gone:?}");
    });
}

#[test]
fn records_come_page_by_page_as_one_stream() {
    let work = Work::start(1);
    let ids =
        submit_and_leave(&work, (0..450).map(|n| noop().keep(true).priority(n % 3)).collect());
    work.within(async {
        let session = Some(ids[0].session.prefix());
        let query = TaskQuery { session, newest_session: true, ..TaskQuery::default() };
        let records = work.client().query_tasks(query.clone()).all().await.unwrap();
        assert_eq!(records.iter().map(|record| record.id).collect::<Vec<_>>(), ids);
        let limited = work
            .client()
            .query_tasks(TaskQuery { limit: 333, first: Some(TaskSeq(10)), ..query })
            .all()
            .await
            .unwrap();
        assert_eq!(limited.iter().map(|record| record.id).collect::<Vec<_>>(), ids[9..342]);
    });
}

#[test]
fn what_is_not_kept_ends_with_a_session_that_detaches() {
    let work = Work::start(1);
    let held = work.begin_hold("held");
    let ids = submit_and_leave(&work, vec![noop().keep(true), noop()]);
    work.release("held.release");
    work.within(held).unwrap();
    work.within(async {
        work.client().wait_for(ids[0]).await.unwrap().result.unwrap().unwrap();
        let gone = work.client().wait_for(ids[1]).await;
        let is_gone = match &gone {
            Err(ClientError::Refused(_)) => true,
            Ok(fetched) => {
                let failure = fetched.result.as_ref().and_then(|result| result.as_ref().err());
                failure.is_some_and(|failure| failure.kind() == Some(ErrorKind::Cancelled))
            }
            Err(_) => false,
        };
        assert!(is_gone, "{gone:?}");
    });
}

#[test]
fn a_session_that_shall_end_with_its_connection_does() {
    let work = Work::start(1);
    let held = work.begin_hold("held");
    let capability = work.farm().home().cluster().capability(Role::Client);
    // Its own runtime ends without a goodbye, as a killed process would.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let (client, id) = runtime.block_on(async {
        let client = Client::builder()
            .capability(&capability)
            .cancel_on_disconnect(true)
            .connect()
            .await
            .unwrap();
        let task = client.tasks().call(&work.hold("never").label("ends")).await.unwrap();
        client.engines().await.unwrap();
        let id = task.id();
        (client, id)
    });
    runtime.shutdown_background();
    drop(client);
    let gone = work.within(work.client().wait_for(id));
    assert!(gone.is_err() || gone.unwrap().result.unwrap().is_err());
    work.release("held.release");
    work.within(held).unwrap();
    assert!(work.lines("never.begun").is_empty());
}

#[test]
fn engines_that_come_restart_and_go_are_events_for_all_who_subscribed() {
    let mut work = Work::start(1);
    let events = work.client().subscribe().unwrap();
    let other = work.connect();
    let others = other.subscribe().unwrap();
    // The subscription is with the broker before the engine comes.
    work.within(async { (work.client().engines().await.unwrap(), other.engines().await.unwrap()) });
    work.add_engine(&[]);
    work.wait_for_processes(2);
    let one = work.client().multiengine(EngineTargets::Ids(vec![EngineId(1)]));
    work.within(async {
        one.execute("x = 1").await.unwrap().wait().await.unwrap();
        one.restart().await.unwrap();
        assert!(one.pull(&["x"]).await.unwrap().wait().await.is_err(), "the namespace is gone");
    });
    let admin = work.connect_with(&work.farm().home().cluster().capability(Role::Admin));
    work.within(admin.shutdown(EngineTargets::Ids(vec![EngineId(1)]), false)).unwrap();
    for events in [events, others] {
        let expected = ["online", "restarted", "offline"];
        let three = events.map(|event| match event.unwrap() {
            Event::EngineOnline(EngineId(1)) => "online",
            Event::EngineRestarted(EngineId(1), _) => "restarted",
            Event::EngineOffline(EngineId(1)) => "offline",
            other => panic!("{other:?}"),
        });
        assert_eq!(work.within(three.take(3).collect::<Vec<_>>()), expected);
    }
    let refused = work.within(work.client().shutdown_cluster(false));
    assert!(
        matches!(&refused, Err(ClientError::Refused(text)) if text.contains("role")),
        "{refused:?}"
    );
    work.within(admin.shutdown_cluster(false)).unwrap();
    work.within(work.client().closed());
}

#[test]
fn a_signal_interrupts_what_runs() {
    let work = Work::start(1);
    let task = execute(&work, "import time\nprint('begun', flush=True)\ntime.sleep(600)");
    work.within(task.output().next()).unwrap();
    let all = work.client().multiengine(EngineTargets::All);
    work.within(all.signal(Signal::INT)).unwrap();
    let failure = work.within(task).unwrap_err();
    assert_eq!(failure.remote().unwrap().type_name, "KeyboardInterrupt");
}

#[test]
fn an_endless_stream_of_items_is_mapped_as_it_comes_and_cancelled_on_drop() {
    let work = Work::start_with(&[], &[&["-n", "2"]]);
    let numbers = stream::iter(0_u64..).map(|n| Arguments::json(vec![n.into()]));
    let function = || Function::Named("builtins:str".into());
    let mut map = work
        .client()
        .tasks()
        .map_stream(function(), numbers)
        .window(50)
        .ordered(true)
        .stream()
        .unwrap();
    work.within(async {
        for n in 0..500 {
            let (place, result) = map.next().await.unwrap();
            assert_eq!((place, result.unwrap().json::<String>().unwrap()), (n, n.to_string()));
        }
    });
    drop(map);
    let holds = (0..4).map(|n| work.hold(&format!("held-{n}")));
    let mut map = work.client().tasks().map_calls(holds).cancel_on_drop(true).stream().unwrap();
    let polled =
        work.within(async { tokio::time::timeout(Duration::from_millis(1), map.next()).await });
    assert!(polled.is_err());
    (0..2).for_each(|n| work.wait_for_lines(&format!("held-{n}.begun"), 1));
    drop(map);
    work.run(&noop()).expect("the engines are free again");
    assert!(work.lines("held-3.begun").is_empty());
}

#[test]
fn the_blocking_client_does_the_same_from_any_thread() {
    let work = Work::start(2);
    let capability = work.farm().home().cluster().capability(Role::Client);
    let client =
        blocking::Client::connect_with(Client::builder().capability(capability).wait(SOON))
            .unwrap();
    let all = client.multiengine(EngineTargets::All);
    all.push(&json!({"x": 20})).unwrap().wait().unwrap();
    let values: Vec<(i64,)> = all.pull(&["x + 1"]).unwrap().json().unwrap();
    assert_eq!(values, [(21,), (21,)]);
    let scattered = all.scatter("part", &[1, 2, 3], Distribution::Blocks).unwrap();
    assert_eq!(scattered.wait().unwrap().len(), 2);
    assert_eq!(all.gather::<i64>("part", Distribution::Blocks).unwrap(), [1, 2, 3]);
    let mut task = all.execute("print('one')\nprint('two')").unwrap().into_iter().next().unwrap();
    let text: String =
        task.output().map(|piece| String::from_utf8_lossy(&piece.bytes).into_owned()).collect();
    assert_eq!(text, "one\ntwo\n");
    task.wait().unwrap();
    let mut held = client.tasks().call(&work.hold("held")).unwrap();
    work.wait_for_lines("held.begun", 1);
    assert!(held.wait_timeout(Duration::from_millis(1)).is_none());
    assert!(client.wait_for_timeout(held.id(), Duration::from_millis(1)).unwrap().is_none());
    held.cancel();
    assert_eq!(held.wait().unwrap_err().kind(), Some(ErrorKind::Cancelled));
    held.stopped().unwrap();
    let function = Function::Source(python_function("hold"));
    assert_eq!(function.runtime(), furlong_client::Runtime::Python);
    let lengths = ["a", "bb"].map(|text| Arguments::json(vec![text.into()]));
    let map = client
        .tasks()
        .map(Function::Named("builtins:len".into()), lengths)
        .ordered(true)
        .start()
        .unwrap();
    let values: Vec<usize> = map.map(|(_, result)| result.unwrap().json().unwrap()).collect();
    assert_eq!(values, [1, 2]);
    let kept = client.tasks().call(&noop().keep(true)).unwrap().id();
    client.detach().unwrap();
    work.within(work.client().wait_for(kept)).unwrap().result.unwrap().unwrap();
}
