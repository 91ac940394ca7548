//! Clients come back to their session: over cuts, and over restarts of the broker.

use std::path::Path;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use furlong_client::{
    Arguments, CallSpec, Client, ClientError, EngineTargets, LinkEvent, TaskFuture,
};
use furlong_host::private_file::create_private;
use furlong_tests::proxy::Proxy;
use furlong_tests::wait::{SOON, eventually};
use furlong_tests::work::{Work, noop, python};
use furlong_wire::token::Role;
use serde_json::json;

/// A client that was told of each cut.
struct Told {
    client: Client,
    events: Arc<Mutex<Vec<LinkEvent>>>,
}

impl Told {
    fn connect(work: &Work, capability: &Path) -> Self {
        let events = Arc::<Mutex<Vec<LinkEvent>>>::default();
        let of_client = Arc::clone(&events);
        let note = move |event: &LinkEvent| of_client.lock().unwrap().push(event.clone());
        let client =
            work.within(Client::builder().capability(capability).on_link(note).connect()).unwrap();
        Self { client, events }
    }

    /// Returns the number of times that the session has come back.
    fn returns(&self) -> usize {
        self.events.lock().unwrap().iter().filter(|event| **event == LinkEvent::Back).count()
    }

    fn wait_for_return(&self, returns: usize) {
        assert!(eventually(SOON, || self.returns() >= returns), "{:?}", self.events);
    }

    fn submit(&self, work: &Work, call: &CallSpec) -> TaskFuture {
        work.submit_by(&self.client, call)
    }
}

/// A client whose way leads through a line that can be cut.
fn through_proxy(work: &Work) -> (Proxy, Told) {
    let proxy = Proxy::start(work.farm().port());
    let capability = proxy.capability(work.farm().capability(Role::Client));
    let path = work.path("behind.cap.json");
    create_private(path.as_ref(), capability.to_json().as_bytes()).unwrap();
    let told = Told::connect(work, path.as_ref());
    (proxy, told)
}

fn cut(proxy: &Proxy, told: &Told) {
    let returns = told.returns();
    proxy.cut();
    proxy.mend();
    told.wait_for_return(returns + 1);
}

#[test]
fn futures_resolve_over_many_cuts_as_if_nothing_had_happened() {
    let work = Work::start_with(&[], &[&["-n", "2"]]);
    let (proxy, told) = through_proxy(&work);
    let large = Bytes::from((0..3_000_000_u32).map(|i| (i % 251) as u8).collect::<Vec<u8>>());
    let echo = CallSpec::native("echo").arguments(Arguments::Raw(vec![large.clone()]));
    let mut futures = Vec::new();
    let mut echoes = Vec::new();
    for round in 0..12 {
        for item in 0..60 {
            let call =
                python("noted", [json!(work.path("ran")), json!(round * 60 + item), json!(2)]);
            futures.push(told.submit(&work, &call.at_most_once(true)));
        }
        echoes.push(told.submit(&work, &echo));
        cut(&proxy, &told);
    }
    for (item, future) in (0..).zip(futures) {
        assert_eq!(work.within(future).unwrap().json::<u32>().unwrap(), item);
    }
    for echo in echoes {
        assert_eq!(work.within(echo).unwrap().data, std::slice::from_ref(&large));
    }
    let mut ran = work.lines("ran");
    ran.sort_unstable();
    ran.dedup();
    assert_eq!((ran.len(), work.lines("ran").len()), (720, 720), "each has run once");
    let kept = || work.status().results_held == 0;
    assert!(eventually(SOON, kept), "all results are acknowledged: {:?}", work.status());
}

#[test]
fn what_is_asked_and_cancelled_during_a_cut_reaches_the_broker_afterwards() {
    let work = Work::start(1);
    let (proxy, told) = through_proxy(&work);
    let mut held = told.submit(&work, &work.hold("held"));
    work.wait_for_lines("held.begun", 1);
    let mut waiting = told.submit(&work, &noop());
    proxy.cut();
    assert!(eventually(SOON, || !told.events.lock().unwrap().is_empty()));
    assert!(matches!(told.client.tasks().try_call(&noop()), Err(ClientError::Busy)));
    waiting.cancel();
    let client = told.client.clone();
    let engines = work.spawn(async move { client.engines().await });
    let client = told.client.clone();
    let late = work.spawn(async move { client.tasks().call(&noop()).await.unwrap().await });
    proxy.mend();
    told.wait_for_return(1);
    assert_eq!(work.within(engines).unwrap().len(), 1);
    work.within(&mut waiting).expect_err("it was cancelled");
    work.release("held.release");
    assert_eq!(work.within(&mut held).unwrap().json::<String>().unwrap(), "released");
    work.within(late).unwrap();
}

#[test]
fn output_goes_on_after_a_cut() {
    let work = Work::start(1);
    let (proxy, told) = through_proxy(&work);
    let show = python("show", [json!(work.path("go")), json!(3)]);
    let task = told.submit(&work, &show.keep(true));
    let fetched = work.connect();
    let follow = work.within(fetched.fetch(task.id())).unwrap();
    assert_eq!(follow.record.id, task.id());
    work.release("go-0");
    cut(&proxy, &told);
    for name in ["go-1", "go-2"] {
        work.release(name);
    }
    let result = work.within(task).unwrap();
    assert!(result.report.stdout.to_string().ends_with("step 2\n"), "{}", result.report.stdout);
}

#[test]
fn shared_tasks_of_a_living_client_outlive_a_broker_that_is_killed() {
    let mut work = Work::start(2);
    let capability = work.farm().home().cluster().capability(Role::Client);
    let told = Told::connect(&work, &capability);
    let view = told.client.multiengine(EngineTargets::All);
    work.within(async { view.execute("x = 41").await.unwrap().wait().await }).unwrap();
    let mut done = told.submit(&work, &python("square", [json!(3)]));
    assert_eq!(work.within(&mut done).unwrap().json::<u32>().unwrap(), 9);
    let large = Bytes::from(vec![7_u8; 700_000]);
    for returns in 1..=3 {
        let futures: Vec<TaskFuture> = (0..200)
            .map(|item| told.submit(&work, &python("square", [json!(item), json!(5)])))
            .collect();
        let echo = told.submit(
            &work,
            &CallSpec::native("echo").arguments(Arguments::Raw(vec![large.clone()])),
        );
        work.farm_mut().restart_after_sigkill();
        told.wait_for_return(returns);
        for (item, future) in (0..).zip(futures) {
            assert_eq!(work.within(future).unwrap().json::<u32>().unwrap(), item * item);
        }
        assert_eq!(work.within(echo).unwrap().data, std::slice::from_ref(&large));
    }
    // The engines and their namespaces are those of before.
    let sums = work.within(async {
        told.client.multiengine(EngineTargets::All).pull(&["x"]).await.unwrap().wait().await
    });
    assert_eq!(sums.unwrap().len(), 2);
}

#[test]
fn a_session_that_the_broker_has_ended_does_not_come_back() {
    let mut work = Work::start(1);
    let capability = work.farm().home().cluster().capability(Role::Client);
    let told = Told::connect(&work, &capability);
    let held = told.submit(&work, &work.hold("held"));
    work.wait_for_lines("held.begun", 1);
    work.farm_mut().broker().terminate();
    let error = work.within(held).unwrap_err().to_string();
    assert!(error.contains("ended by the broker"), "{error}");
    assert_eq!(*told.events.lock().unwrap(), []);
}

#[test]
fn what_runs_goes_on_over_a_broker_that_is_killed_and_runs_once() {
    let mut work = Work::start(2);
    let capability = work.farm().home().cluster().capability(Role::Client);
    let told = Told::connect(&work, &capability);
    let once = told.submit(&work, &work.hold("once").at_most_once(true));
    work.wait_for_lines("once.begun", 1);
    let view = told.client.multiengine(EngineTargets::All);
    let direct = work.within(view.call(&work.hold("direct"))).unwrap();
    work.wait_for_lines("direct.begun", 1);
    let waits = told.submit(&work, &python("noted", [json!(work.path("waits")), json!(5)]));
    work.farm_mut().restart_after_sigkill();
    told.wait_for_return(1);
    for name in ["once.release", "direct.release"] {
        work.release(name);
    }
    assert_eq!(work.within(once).unwrap().json::<String>().unwrap(), "released");
    for task in direct {
        assert_eq!(work.within(task).unwrap().json::<String>().unwrap(), "released");
    }
    assert_eq!(work.within(waits).unwrap().json::<u32>().unwrap(), 5);
    let runs = ["once.begun", "direct.begun", "waits"].map(|name| work.lines(name).len());
    assert_eq!(runs, [1, 2, 1]);
}
