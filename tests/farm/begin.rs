//! Engines that cannot begin what they are given, tasks that end their engines, and who looks after
//! those.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use furlong_tests::command::{Cluster, command, engine, furlong, status, wait_for_engines};
use furlong_tests::farm::Farm;
use furlong_tests::home::Home;
use furlong_tests::program::Program;
use furlong_tests::wait::{SOON, eventually};

/// An engine that is started with these flags and this `PATH` before its own.
fn engine_with(flags: &[&str], path: &str, home: &Home) -> Program {
    let cap = home.cluster().security().join("engine.cap.json");
    let args = [&["--stop-with-stdin", "--cap", cap.to_str().unwrap()], flags].concat();
    let mut command = command("engine", &args, home);
    command.env("PATH", format!("{path}:{}", std::env::var("PATH").unwrap()));
    Program::spawn("engine", command)
}

fn script(home: &Home, name: &str, text: &str) -> String {
    let path = home.path().join(name);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(&path, text).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    path.to_str().unwrap().to_owned()
}

#[test]
fn an_engine_without_interpreter_and_program_takes_no_work() {
    let farm = Farm::start();
    let home = farm.home();
    let broken = script(home, "broken", "#!/bin/sh\nexit 127\n");
    script(home, "tools/mytool", "#!/bin/sh\necho done\n");
    let tools = home.path().join("tools");
    let _bad = engine_with(&["--python", &broken], "/no/such/folder", home);
    wait_for_engines(1, home);
    let _good = engine_with(&[], tools.to_str().unwrap(), home);
    wait_for_engines(2, home);
    let done = furlong(&["submit", "--array", "1-30", "--wait", "--", "mytool"], home).ok();
    assert_eq!(done.lines().count(), 30, "{done}");
    assert_eq!(furlong(&["map", "builtins:len", "a", "bb", "ccc"], home).ok(), "1\n2\n3");
    let status = status(home);
    let aside = status["engines"][0]["set_aside"].as_array().unwrap();
    let causes: Vec<&str> = aside.iter().map(|aside| aside["cause"].as_str().unwrap()).collect();
    assert!(
        causes.iter().any(|cause| cause.contains("there is no program `mytool`")),
        "{status:#}"
    );
    assert!(status["engines"][1]["set_aside"].as_array().unwrap().is_empty(), "{status:#}");
    let shown = furlong(&["status"], home).ok();
    assert!(shown.contains("set aside for some command tasks"), "{shown}");
}

#[test]
fn what_no_engine_has_fails_at_once_and_says_what() {
    let farm = Farm::start();
    let _engines = [engine(farm.home()), engine(farm.home())];
    wait_for_engines(2, farm.home());
    let outcome =
        furlong(&["submit", "--array", "1-20", "--wait", "--", "no-such-program"], farm.home());
    let stderr = outcome.failed(1);
    assert_eq!(
        stderr.matches("there is no program `no-such-program` in the engine's PATH").count(),
        20,
        "{stderr}"
    );
    furlong(&["submit", "--wait", "--", "true"], farm.home()).ok();
}

#[test]
fn a_command_that_kills_its_engine_is_lost_and_the_cluster_goes_on() {
    let mut cluster = Cluster::start(2);
    let args = ["submit", "--wait", "--", "sh", "-c", "kill -9 $PPID; sleep 60"];
    let stderr = furlong(&args, cluster.home()).failed(1);
    assert!(stderr.contains("does it kill what runs it?"), "{stderr}");
    let done = cluster.furlong(&["submit", "--array", "1-20", "--wait", "--", "echo", "on"]).ok();
    assert_eq!(done.lines().count(), 20);
    assert!(eventually(SOON, || furlong(&["ids", "--json"], cluster.home())
        .ok()
        .matches(',')
        .count()
        == 1));
    let log = fs::read_to_string(cluster.home().cluster().log().join("cluster.log")).unwrap();
    assert!(log.contains("an engine is started again in 100 ms; failures in a row: 1"), "{log}");
    assert!(cluster.supervisor().is_running());
}

#[test]
fn an_engine_that_ends_ever_again_is_told_and_ends_nothing_else() {
    let cluster = Cluster::start(1);
    let pids = || -> Vec<u64> {
        let status = status(cluster.home());
        status["processes"]
            .as_array()
            .unwrap()
            .iter()
            .map(|process| process["pid"].as_u64().unwrap())
            .collect()
    };
    // More often than any number that could be the end of patience.
    for _ in 0..6 {
        let mut found = Vec::new();
        assert!(eventually(SOON, || {
            found = pids();
            found.len() == 1
        }));
        let pid = rustix::process::Pid::from_raw(found[0] as i32).unwrap();
        rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
        assert!(eventually(SOON, || pids() != found));
    }
    let listed = cluster.furlong(&["cluster", "list"]).ok();
    assert!(
        listed.contains("an engine has ended 6 times in a row and is started again in"),
        "{listed}"
    );
    let shown = cluster.furlong(&["status"]).ok();
    assert!(shown.contains("an engine has ended 6 times in a row"), "{shown}");
    wait_for_engines(1, cluster.home());
}
