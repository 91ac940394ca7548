//! Connections that are cut while work is under way: engines hold what they have until the broker
//! has it.

use std::collections::BTreeMap;

use bytes::Bytes;
use furlong_client::{Arguments, CallSpec, EngineId, EngineTargets, TaskFuture};
use furlong_host::private_file::write_private;
use furlong_tests::proxy::Proxy;
use furlong_tests::wait::{SOON, eventually};
use furlong_tests::work::{Work, python};
use furlong_wire::token::Role;
use serde_json::json;

/// Connection lifetimes in bytes. Most are too short for a large task, and none is long enough for
/// all; the last record is cut in two. Their number is odd, so that two processes both get long
/// ones.
const LIVES_BYTES: [i64; 7] = [20_001, 12_345, 40_003, 8_001, 30_011, 15_003, 15_000_003];

/// The expected end of a task.
enum Expected {
    /// The same data.
    Echo(Bytes),
    /// The number of its item, with one line in the file `ran`.
    Once(usize),
}

/// A call of raw data that come back.
fn echo(data: &Bytes) -> CallSpec {
    CallSpec::native("echo").arguments(Arguments::Raw(vec![data.clone()]))
}

fn submit_all(work: &Work) -> Vec<(TaskFuture, Expected)> {
    let view = work.client().multiengine(EngineTargets::Ids(vec![EngineId(0)]));
    let large = Bytes::from(vec![7; 1 << 20]);
    let mut tasks = Vec::new();
    for item in 0..2_000_usize {
        let small = Bytes::from(item.to_le_bytes().to_vec());
        tasks.push(match item % 4 {
            0 => {
                let noted = python("noted", [work.path("ran").into(), json!(item)]);
                (work.submit(&noted.at_most_once(true)), Expected::Once(item))
            }
            1 => {
                let direct =
                    work.within(view.call(&echo(&small))).unwrap().into_iter().next().unwrap();
                (direct, Expected::Echo(small))
            }
            _ if item % 200 == 2 => (work.submit(&echo(&large)), Expected::Echo(large.clone())),
            _ => (work.submit(&echo(&small)), Expected::Echo(small)),
        });
    }
    tasks
}

#[test]
fn every_task_ends_once_however_often_the_engines_connections_are_cut() {
    let mut work = Work::start(0);
    let proxy = Proxy::start_mortal(work.farm().port(), &LIVES_BYTES);
    let capability = proxy.capability(work.farm().capability(Role::Engine));
    let path = work.path("through.cap.json");
    write_private(path.as_ref(), capability.to_json().as_bytes()).unwrap();
    for count in 1..=2 {
        work.add_engine(&["--cap", &path, "-n", "2"]);
        work.wait_for_processes(count);
    }
    let tasks = submit_all(&work);
    let mut once = 0;
    for (index, (task, expected)) in tasks.into_iter().enumerate() {
        let result = work.within(task).unwrap_or_else(|failure| panic!("task {index}: {failure}"));
        match expected {
            Expected::Echo(data) => assert!(result.data[0] == data, "task {index}"),
            Expected::Once(item) => {
                assert_eq!(result.json::<usize>().unwrap(), item);
                once += 1;
            }
        }
    }
    assert!(proxy.connections_made() >= 10, "{} connections", proxy.connections_made());
    let mut ran = BTreeMap::<usize, usize>::new();
    work.lines("ran").iter().for_each(|line| *ran.entry(line.parse().unwrap()).or_default() += 1);
    assert_eq!((ran.len(), once), (500, 500));
    let twice: Vec<_> = ran.into_iter().filter(|(_, runs)| *runs != 1).collect();
    assert!(twice.is_empty(), "at-most-once tasks and how often they ran: {twice:?}");
    assert!(
        eventually(SOON, || work.status().tasks_assigned == 0 && work.status().results_held == 0)
    );
}
