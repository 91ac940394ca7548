//! Connections that break while both ends live, and clients that are killed.

use furlong_client::{CallSpec, EngineId, EngineTargets, Event, Events, TaskFuture};
use furlong_host::private_file::create_private;
use furlong_tests::program::Program;
use furlong_tests::proxy::Proxy;
use furlong_tests::wait::{SOON, eventually};
use furlong_tests::work::{Work, python};
use furlong_wire::token::Role;
use futures_util::StreamExt;
use serde_json::json;

/// Waits for an event.
#[track_caller]
fn happens(work: &Work, events: &mut Events, event: Event) {
    while work
        .within(events.next())
        .expect("there are more events")
        .expect("the client is connected")
        != event
    {}
}

#[test]
fn direct_tasks_are_not_lost_when_their_engine_is_back_within_the_grace() {
    let mut work = Work::start(0);
    let proxy = Proxy::start(work.farm().port());
    let path = work.path("behind.cap.json");
    let capability = proxy.capability(work.farm().capability(Role::Engine));
    create_private(path.as_ref(), capability.to_json().as_bytes()).unwrap();
    work.add_engine(&["--cap", &path]);
    work.wait_for_processes(1);
    let mut events = work.client().subscribe().unwrap();
    let view = work.client().multiengine(EngineTargets::Ids(vec![EngineId(0)]));
    let direct = |call: &CallSpec| -> TaskFuture {
        work.within(view.call(call)).unwrap().into_iter().next().unwrap()
    };
    let running = direct(&work.hold("held"));
    work.wait_for_lines("held.begun", 1);
    let waits = direct(&python("square", [json!(7)]));
    proxy.cut();
    happens(&work, &mut events, Event::EngineOffline(EngineId(0)));
    let late = direct(&python("square", [json!(8)]));
    proxy.mend();
    happens(&work, &mut events, Event::EngineOnline(EngineId(0)));
    work.release("held.release");
    assert_eq!(work.within(running).unwrap().json::<String>().unwrap(), "released");
    let squares = [waits, late].map(|task| work.within(task).unwrap().json::<u32>().unwrap());
    assert_eq!((squares, work.lines("held.begun").len()), ([49, 64], 1));
}

/// Starts a client that submits two tasks which hold the only engine, and kills it when the first
/// has begun.
fn killed_client(work: &Work, cancel_on_disconnect: &str) {
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_own_client"));
    let capability = work.farm().home().cluster().capability(Role::Client);
    command.arg(capability).arg(work.farm().home().path()).arg(cancel_on_disconnect);
    let mut client = Program::spawn("own_client", command);
    client.wait_for_line("submitted", SOON);
    work.wait_for_lines("first.begun", 1);
    client.kill();
    let is_gone = || work.status().clients == 1;
    assert!(eventually(SOON, is_gone), "{:?}", work.status());
}

#[test]
fn tasks_of_a_killed_client_are_cancelled_if_its_session_was_to_end_with_its_connection() {
    let work = Work::start(1);
    killed_client(&work, "true");
    // Nobody releases what holds the engine.
    assert_eq!(work.run(&python("square", [json!(7)])).unwrap().json::<u32>().unwrap(), 49);
    let status = work.status();
    assert_eq!((status.tasks_waiting, status.tasks_assigned), (0, 0));
    assert_eq!((work.lines("first.begun").len(), work.lines("second.begun").len()), (1, 0));
}

#[test]
fn tasks_of_a_killed_client_go_on_otherwise() {
    let work = Work::start(1);
    killed_client(&work, "false");
    work.release("first.release");
    work.wait_for_lines("second.begun", 1);
    work.release("second.release");
    let ended = || work.status().results_held == 2;
    assert!(eventually(SOON, ended), "the results wait for their client: {:?}", work.status());
}
