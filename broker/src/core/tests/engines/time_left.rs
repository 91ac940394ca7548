//! Engines that say when they end, and tasks that say how long they take.

use std::time::Duration;

use furlong_wire::message::{FromClient, Query, ReplyBody, Request, TaskOptions, TaskQuery};

use crate::core::invariants;
use crate::core::tests::farm::peers::{Farm, shared, with};

/// An engine that has so many seconds left.
fn engine_until(farm: &mut Farm, seconds: u64) -> usize {
    let engine = farm.engine();
    farm.disconnect_engine(engine);
    farm.processes[engine].ends_in_ms = Some(seconds * 1_000);
    farm.connect_engine(engine);
    engine
}

fn takes(seconds: u64) -> TaskOptions {
    TaskOptions { time_request_ms: Some(seconds * 1_000), ..TaskOptions::default() }
}

#[test]
fn a_task_goes_to_an_engine_that_has_the_time() {
    let mut farm = Farm::default();
    let client = farm.client();
    let (short, long) = (engine_until(&mut farm, 60), engine_until(&mut farm, 600));
    let limited = TaskOptions { run_timeout_ms: Some(90_000), ..TaskOptions::default() };
    let n = farm.submit(client, with(shared(), limited));
    assert_eq!((farm.assigned(short), farm.assigned(long)), (vec![], vec![n]));
    let waits = farm.submit(client, with(shared(), takes(61)));
    let fits = farm.submit(client, with(shared(), takes(59)));
    assert_eq!(farm.assigned(short), [fits], "what has no time is passed over");
    farm.finish(short);
    assert!(farm.assigned(short).is_empty());
    farm.finish(long);
    assert_eq!(farm.assigned(long), [waits]);
    farm.finish(long);
    farm.wait(Duration::from_secs(2));
    let late = farm.submit(client, with(shared(), takes(59)));
    assert_eq!((farm.assigned(short), farm.assigned(long)), (vec![], vec![late]), "time passes");
    invariants::hold(&farm.core);
}

#[test]
fn a_task_for_which_no_engine_has_the_time_says_so() {
    let mut farm = Farm::default();
    let (client, short) = (farm.client(), engine_until(&mut farm, 60));
    farm.submit(client, with(shared(), takes(3_584)));
    let query = Query::Tasks(Box::new(TaskQuery { limit: 1, ..TaskQuery::default() }));
    let request = farm.ask(client, |request| FromClient::Query(Request { request, query }));
    let Some(ReplyBody::Tasks(records, _)) = farm.reply(client, request) else {
        panic!("no record")
    };
    let waits = records[0].waits.as_deref().unwrap_or_default();
    assert!(
        waits.starts_with("no engine has 3584 s left") && waits.contains("the longest has 60 s"),
        "{waits}"
    );
    assert!(farm.assigned(short).is_empty());
    let endless = farm.engine();
    assert_eq!(farm.assigned(endless), [1], "one that says nothing has all the time");
}
