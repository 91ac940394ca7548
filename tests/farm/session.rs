//! A user's first session: what issue 2 shows, with the real programs.

use std::io::{BufRead, BufReader, Read};
use std::process::{Child, Stdio};

use furlong_tests::command::{
    Cluster, command, engine, file, furlong, processes_of, wait_for_engines,
};
use furlong_tests::farm::Farm;
use furlong_tests::home::Home;
use furlong_tests::program::Program;
use furlong_tests::wait::{SOON, eventually};
use serde_json::{Value, json};

/// Returns the output of `furlong execute 'print("Hello World")'` when each engine is asked for the
/// n-th time.
fn hello(engines: u32, n: u32) -> String {
    let block = |i| format!("[{i}] In [{n}]: print(\"Hello World\")\n[{i}] Out[{n}]: Hello World");
    (0..engines).map(block).collect::<Vec<_>>().join("\n")
}

fn json_of(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

#[track_caller]
fn assert_nothing_runs_in(home: &Home) {
    let nothing = eventually(SOON, || processes_of(home.path()).is_empty());
    assert!(nothing, "still there: {:?}", processes_of(home.path()));
}

#[test]
fn the_first_session_prints_what_the_guide_shows() {
    let mut cluster = Cluster::start(4);
    let port = cluster.home().broker_state().unwrap().port;
    let expected = format!(
        "broker    tcp://127.0.0.1:{port}   cluster default\nengines   4 online: 0 1 2 3\n\
         try       furlong execute 'print(\"Hello World\")'      (Ctrl-C stops the cluster)"
    );
    assert_eq!(cluster.supervisor().stdout(), expected);
    assert_eq!(cluster.furlong(&["execute", "print(\"Hello World\")"]).ok(), hello(4, 1));
    assert_eq!(cluster.furlong(&["ids"]).ok(), "[0, 1, 2, 3]");
    let documents =
        ["docs/SEMANTICS.md", "docs/ARCHITECTURE.md", "docs/SECURITY.md", "docs/SEMANTICS.md"];
    let args = [&["map", "examples/wordcount.py:count"], &documents[..]].concat();
    let lines: Vec<Value> = cluster.furlong(&args).ok().lines().map(json_of).collect();
    let paths: Vec<&str> = lines.iter().map(|line| line["path"].as_str().unwrap()).collect();
    assert_eq!(paths, documents);
    assert!(lines.iter().all(|line| line["words"].as_u64() > Some(100)), "{lines:?}");
    // As Ctrl-C does.
    cluster.supervisor().terminate();
    assert_eq!(cluster.supervisor().wait_exit(SOON).code(), Some(0));
    assert_nothing_runs_in(cluster.home());
}

/// The same by hand, from the three built binaries.
fn session_by_hand(farm: &Farm) {
    wait_for_engines(2, farm.home());
    for n in 1..3 {
        assert_eq!(furlong(&["execute", "print(\"Hello World\")"], farm.home()).ok(), hello(2, n));
    }
    assert_eq!(furlong(&["ids"], farm.home()).ok(), "[0, 1]");
    assert_eq!(furlong(&["map", "builtins:len", "one", "three"], farm.home()).ok(), "3\n5");
}

#[test]
fn by_hand_with_the_broker_first() {
    let farm = Farm::start();
    let _engines = [engine(farm.home()), engine(farm.home())];
    session_by_hand(&farm);
}

#[test]
fn by_hand_with_the_engines_before_the_broker_and_its_files() {
    let home = Home::new();
    let engines = [engine(&home), engine(&home)];
    for engine in &engines {
        engine.wait_for_line("waiting", SOON);
    }
    assert!(!home.cluster().security().exists(), "the broker's files are there before it");
    let farm = Farm::start_in(home);
    session_by_hand(&farm);
}

#[test]
fn each_engine_counts_its_executions_and_keeps_its_namespace() {
    let cluster = Cluster::start(2);
    assert_eq!(
        cluster.furlong(&["execute", "x = engine_id + 40"]).ok(),
        "[0] In [1]: x = engine_id + 40\n[1] In [1]: x = engine_id + 40"
    );
    assert_eq!(
        cluster.furlong(&["execute", "-t", "1", "x + 1"]).ok(),
        "[1] In [2]: x + 1\n[1] Out[2]: 42"
    );
    let both = "[0] In [2]: x\n[0] Out[2]: 40\n[1] In [3]: x\n[1] Out[3]: 41";
    assert_eq!(cluster.furlong(&["execute", "-t", "0-1", "x"]).ok(), both);
}

#[test]
fn what_is_printed_comes_before_the_value_and_errors_go_to_stderr() {
    let cluster = Cluster::start(1);
    let code = "import sys\nprint('out')\nprint('warning', file=sys.stderr)\n6 * 7";
    let outcome = cluster.furlong(&["execute", code]);
    assert_eq!(outcome.stderr, "[0] Err[1]: warning");
    assert_eq!(outcome.ok(), format!("[0] In [1]: {code}\n[0] Out[1]: out\n42"));
    let outcome = cluster.furlong(&["execute", "print('before')\n1 / 0"]);
    assert_eq!(outcome.stdout, "[0] In [2]: print('before')\n1 / 0\n[0] Out[2]: before");
    let stderr = outcome.failed(1);
    assert!(stderr.starts_with("[0] Err[2]: Traceback (most recent call last):"), "{stderr}");
    assert!(stderr.ends_with("ZeroDivisionError: division by zero"), "{stderr}");
}

#[test]
fn what_c_code_and_children_print_is_captured() {
    let cluster = Cluster::start(1);
    let code = "import ctypes, os, subprocess, sys\nprint('python')\n\
                ctypes.CDLL(None).puts(b'libc')\n\
                subprocess.run(['echo', 'a child'])\nos.write(2, b'descriptor 2')\nNone";
    let outcome = cluster.furlong(&["execute", "--json", code]);
    let document = json_of(&outcome.ok());
    let stdout = document["stdout"].as_str().unwrap();
    assert!(
        ["python", "libc", "a child"].iter().all(|line| stdout.lines().any(|it| it == *line)),
        "{stdout}"
    );
    assert_eq!(document["stderr"], "descriptor 2");
}

#[test]
fn map_uses_an_edited_file_at_once() {
    let cluster = Cluster::start(1);
    for version in ["first", "second"] {
        let path = file(
            cluster.home(),
            "task.py",
            &format!("def work(item):\n    return '{version} ' + item\n"),
        );
        let results = cluster.furlong(&["map", &format!("{path}:work"), "a", "b"]).ok();
        assert_eq!(results, format!("\"{version} a\"\n\"{version} b\""));
    }
}

#[test]
fn a_failed_item_leaves_the_others_in_their_order() {
    let cluster = Cluster::start(2);
    let outcome = cluster.furlong(&["map", "builtins:int", "1", "x", "3"]);
    assert_eq!(outcome.stdout, "1\n3");
    let stderr = outcome.failed(1);
    assert!(
        stderr.contains(
            "furlong: item 1: ValueError: invalid literal for int() with base 10: 'x' (engine"
        ),
        "{stderr}"
    );
    assert!(stderr.ends_with("furlong: 1 item failed"), "{stderr}");
}

#[test]
fn what_prints_data_prints_json_when_asked() {
    let cluster = Cluster::start(2);
    let document = |args: &[&str]| json_of(&cluster.furlong(args).ok());
    assert_eq!(document(&["ids", "--json"]), json!([0, 1]));
    let executed = cluster.furlong(&["execute", "--json", "print('out'); 1 + 1"]).ok();
    for (id, line) in executed.lines().map(json_of).enumerate() {
        assert_eq!(
            (&line["engine"], &line["ok"], &line["count"]),
            (&json!(id), &json!(true), &json!(1))
        );
        assert_eq!((&line["stdout"], &line["error"]), (&json!("out\n"), &Value::Null));
    }
    let failed = cluster.furlong(&["execute", "--json", "-t", "1", "1 / 0"]);
    let error = &json_of(&failed.stdout)["error"];
    assert_eq!(
        (&error["type"], &error["message"]),
        (&json!("ZeroDivisionError"), &json!("division by zero"))
    );
    failed.failed(1);
    let status = document(&["status", "--json"]);
    assert_eq!(
        (status["engines"].as_array().unwrap().len(), &status["cluster"]),
        (2, &json!("default"))
    );
    let clusters = document(&["cluster", "list", "--json"]);
    assert_eq!((&clusters[0]["running"], &clusters[0]["engines"]), (&json!(true), &json!(2)));
    assert_eq!(document(&["cap", "show", "--json"])["role"], "client");
}

#[test]
fn cap_show_shows_no_secret() {
    let cluster = Cluster::start(0);
    let path = cluster.home().cluster().security().join("client.cap.json");
    let capability = json_of(&std::fs::read_to_string(&path).unwrap());
    let secrets = ["holder_secret", "token"].map(|key| capability[key].as_str().unwrap());
    for args in
        [&["cap", "show"][..], &["cap", "show", "--json"], &["cap", "show", path.to_str().unwrap()]]
    {
        let shown = cluster.furlong(args).ok();
        assert!(
            shown.contains("client") && secrets.iter().all(|secret| !shown.contains(secret)),
            "{shown}"
        );
    }
}

#[test]
fn a_reader_who_has_had_enough_is_no_error() {
    let cluster = Cluster::start(1);
    let items: Vec<String> = (0..5_000).map(|item| item.to_string()).collect();
    let args: Vec<&str> =
        ["map", "builtins:int"].into_iter().chain(items.iter().map(String::as_str)).collect();
    let mut command = command("furlong", &args, cluster.home());
    let mut child =
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut first = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut first).unwrap();
    let mut stderr = String::new();
    let code = exit_code(&mut child);
    child.stderr.take().unwrap().read_to_string(&mut stderr).unwrap();
    assert_eq!((first.as_str(), stderr.as_str(), code), ("0\n", "", Some(0)));
}

/// Waits for a child's end; kills it if that does not come.
fn exit_code(child: &mut Child) -> Option<i32> {
    let mut status = None;
    eventually(SOON, || {
        status = child.try_wait().unwrap();
        status.is_some()
    });
    let _ = child.kill();
    status.and_then(|status| status.code())
}

#[test]
fn a_daemon_is_listed_used_and_stopped_and_nothing_is_left() {
    let home = Home::new();
    let nothing = furlong(&["cluster", "list"], &home).ok();
    assert!(nothing.starts_with("no clusters in "), "{nothing}");
    let started = furlong(&["cluster", "start", "-n", "2", "--daemon"], &home).ok();
    let lines: Vec<&str> = started.lines().collect();
    assert_eq!((lines.len(), lines[1]), (3, "engines   2 online: 0 1"), "{started}");
    let state = home.broker_state().unwrap();
    let listed = furlong(&["cluster", "list"], &home).ok();
    let expected = format!(
        "default          running   pid {}, 2 engines started, tcp://127.0.0.1:{}",
        state.pid, state.port
    );
    assert_eq!(listed, expected);
    assert_eq!(furlong(&["execute", "print(\"Hello World\")"], &home).ok(), hello(2, 1));
    let twice = furlong(&["cluster", "start", "--daemon"], &home).failed(1);
    assert!(twice.contains("runs already") && twice.contains("furlong cluster stop"), "{twice}");
    assert!(
        processes_of(home.path()).len() >= 6,
        "a supervisor, a broker, two engines and two interpreters"
    );
    assert_eq!(furlong(&["cluster", "stop"], &home).ok(), "cluster default is stopped");
    assert_nothing_runs_in(&home);
    assert_eq!(furlong(&["cluster", "list"], &home).ok(), "default          stopped");
}

#[test]
fn nothing_survives_a_supervisor_that_is_killed() {
    let mut cluster = Cluster::start(2);
    cluster
        .furlong(&["execute", "import subprocess; child = subprocess.Popen(['sleep', '600'])"])
        .ok();
    let running = processes_of(cluster.home().path());
    assert!(running.iter().any(|(_, line)| line.starts_with("sleep")), "{running:?}");
    cluster.supervisor().kill();
    assert_nothing_runs_in(cluster.home());
}

#[test]
fn bench_gives_the_same_fields_for_whatever_it_measures() {
    let cluster = Cluster::start(1);
    let fields = ["bytes_per_s", "count", "p50_us", "p99_us", "per_s", "runtime", "size", "window"];
    for (args, runtime, size, window) in [
        (&["latency"][..], "native", 0, 1),
        (&["latency", "--runtime", "python"], "python", 0, 1),
        (&["throughput", "--window", "8"], "native", 0, 8),
        (&["payload", "--size", "70000"], "native", 70_000, 1),
        (&["payload", "--size", "70000", "--runtime", "python"], "python", 70_000, 1),
        (&["relay", "--size", "64"], "relay", 64, 1),
    ] {
        let args = [&["bench"], args, &["--count", "20", "--json"]].concat();
        let figures = json_of(&cluster.furlong(&args).ok());
        assert!(figures.as_object().unwrap().keys().eq(&fields), "{figures}");
        let expected = json!([20, size, window, runtime]);
        assert_eq!(
            json!([figures["count"], figures["size"], figures["window"], figures["runtime"]]),
            expected
        );
        assert!(
            figures["p50_us"].as_f64() > Some(0.0) && figures["per_s"].as_f64() > Some(0.0),
            "{figures}"
        );
    }
}

#[test]
fn a_private_cluster_of_bench_leaves_nothing() {
    let home = Home::new();
    let mut command =
        command("furlong", &["bench", "latency", "--local", "1", "--count", "5", "--json"], &home);
    command.env("TMPDIR", home.path());
    let mut bench = Program::spawn("furlong bench", command);
    assert_eq!(bench.wait_exit(SOON).code(), Some(0), "{}", bench.stderr());
    assert_eq!(json_of(&bench.stdout())["count"], 5);
    assert_eq!(std::fs::read_dir(home.path()).unwrap().count(), 0);
    assert_nothing_runs_in(&home);
}

#[test]
fn engines_share_the_cores_among_their_numerical_libraries() {
    let cluster = Cluster::start(2);
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let share = std::env::var("OMP_NUM_THREADS").unwrap_or_else(|_| (cores / 2).max(1).to_string());
    let outcome =
        cluster.furlong(&["execute", "-t", "0", "import os; os.environ['OMP_NUM_THREADS']"]);
    assert!(outcome.ok().ends_with(&format!("[0] Out[1]: '{share}'")));
}
