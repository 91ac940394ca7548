//! Operation after a broker, an engine or an interpreter is killed.

use std::collections::BTreeMap;
use std::fs;

use furlong_tests::command::{command, engine, file, furlong, status, wait_for_engines};
use furlong_tests::farm::Farm;
use furlong_tests::home::Home;
use furlong_tests::program::Program;
use furlong_tests::wait::{SOON, eventually};

/// The process of each engine that is online.
fn engine_pids(home: &Home) -> BTreeMap<u64, u64> {
    let status = status(home);
    let processes = status["processes"].as_array().unwrap().iter();
    let of = |process: &serde_json::Value| {
        let pid = process["pid"].as_u64().unwrap();
        process["engines"]
            .as_array()
            .unwrap()
            .iter()
            .map(|id| (id.as_u64().unwrap(), pid))
            .collect::<Vec<_>>()
    };
    processes.flat_map(of).collect()
}

/// Waits until the broker has written down who its engines are: it does within a second.
fn wait_for_roster(engines: usize, home: &Home) {
    let roster = || fs::read_to_string(home.cluster().roster()).unwrap_or_default();
    // A roster in the first line, and what has changed since in the others.
    let known = || {
        let lines = roster()
            .lines()
            .map(serde_json::from_str)
            .collect::<Result<Vec<serde_json::Value>, _>>();
        let lines = lines.unwrap_or_default();
        let of_line =
            |line: &serde_json::Value| line["engines"].as_object().map_or(1, serde_json::Map::len);
        lines.iter().map(of_line).sum::<usize>()
    };
    assert!(eventually(SOON, || known() == engines), "{}", roster());
}

#[test]
fn engines_outlive_a_broker_that_is_killed_and_so_do_their_ids_and_namespaces() {
    let mut farm = Farm::start();
    let engines = [engine(farm.home()), engine(farm.home())];
    wait_for_engines(2, farm.home());
    furlong(&["execute", "x = 40 + engine_id"], farm.home()).ok();
    wait_for_roster(2, farm.home());
    let before = engine_pids(farm.home());
    assert!(
        engines.iter().all(|engine| before.values().any(|pid| *pid == u64::from(engine.pid()))),
        "{before:?}"
    );
    farm.restart_after_sigkill();
    wait_for_engines(2, farm.home());
    assert_eq!(engine_pids(farm.home()), before);
    // A new client with the old files, and the interpreters of before.
    let expected = "[0] In [2]: x\n[0] Out[2]: 40\n[1] In [2]: x\n[1] Out[2]: 41";
    assert_eq!(furlong(&["execute", "x"], farm.home()).ok(), expected);
}

#[test]
fn a_shared_map_goes_on_when_an_engine_is_killed() {
    let farm = Farm::start();
    let mut engines = BTreeMap::new();
    for _ in 0..2 {
        let engine = engine(farm.home());
        engines.insert(u64::from(engine.pid()), engine);
    }
    wait_for_engines(2, farm.home());
    // The first who gets the item `slow` says that it has begun, and never ends.
    let source = "import time\n\n\
                  def work(item):\n    if item != 'slow':\n        return item\n    try:\n        \
                  open(MARKER, 'x').close()\n    except OSError:\n        return 'again'\n    time.sleep(600)\n";
    let marker = farm.home().path().join("marker");
    let source = source.replace("MARKER", &format!("{:?}", marker.to_str().unwrap()));
    let path = file(farm.home(), "task.py", &source);
    let args = ["map", &format!("{path}:work"), "a", "slow", "b", "c"];
    let mut map = Program::spawn("furlong", command("furlong", &args, farm.home()));
    assert!(eventually(SOON, || marker.exists()), "the slow item does not begin: {}", map.stderr());
    map.wait_for_line("\"a\"", SOON);
    let busy = busy_engine(farm.home());
    engines.get_mut(&busy).unwrap().kill();
    assert_eq!(map.wait_exit(SOON).code(), Some(0), "{}", map.stderr());
    assert_eq!(map.stdout(), "\"a\"\n\"again\"\n\"b\"\n\"c\"");
}

/// Waits until one engine alone has a task, and returns its process.
fn busy_engine(home: &Home) -> u64 {
    let mut busy = Vec::new();
    let one = eventually(SOON, || {
        let status = status(home);
        let engines = status["engines"].as_array().unwrap().iter();
        busy = engines
            .filter(|it| it["tasks_assigned"] != 0)
            .map(|it| it["id"].as_u64().unwrap())
            .collect();
        busy.len() == 1
    });
    assert!(one, "not one engine is busy: {busy:?}");
    engine_pids(home)[&busy[0]]
}

#[test]
fn an_interpreter_that_ends_takes_its_task_with_it_and_nothing_else() {
    let farm = Farm::start();
    let engine = engine(farm.home());
    wait_for_engines(1, farm.home());
    let source = "import os\n\n\
                  def work(item):\n    if item == 'die':\n        os._exit(3)\n    return item\n";
    let path = file(farm.home(), "task.py", source);
    let outcome = furlong(&["map", &format!("{path}:work"), "die", "live"], farm.home());
    assert_eq!(outcome.stdout, "\"live\"");
    let stderr = outcome.failed(1);
    assert!(
        stderr.contains("item 0: ")
            && stderr.contains("exit code 3")
            && stderr.contains("(engine 0)"),
        "{stderr}"
    );
    let executed = furlong(&["execute", "--json", "import os; os._exit(3)"], farm.home());
    let error: serde_json::Value = serde_json::from_str(&executed.stdout).unwrap();
    assert_eq!(error["error"]["kind"], "engine_lost");
    // The engine itself has not ended, and the next task has a new interpreter.
    assert_eq!(
        furlong(&["execute", "6 * 7"], farm.home()).ok(),
        "[0] In [1]: 6 * 7\n[0] Out[1]: 42"
    );
    assert_eq!(engine_pids(farm.home()), BTreeMap::from([(0, u64::from(engine.pid()))]));
}
