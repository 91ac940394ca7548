//! The command line: programs as tasks, results from elsewhere, variables, and what bad input gets.

use furlong_tests::command::{Cluster, file};
use furlong_tests::home::Home;
use serde_json::Value;

/// Checks that it is one line, and has all of these in it.
#[track_caller]
fn assert_line(stderr: &str, parts: &[&str]) {
    assert_eq!(stderr.lines().count(), 1, "{stderr}");
    parts.iter().for_each(|part| assert!(stderr.contains(part), "no {part:?} in: {stderr}"));
}

#[test]
fn an_array_prints_its_squares_in_order() {
    let cluster = Cluster::start(2);
    let squares = (1..=100).map(|n| (n * n).to_string()).collect::<Vec<_>>().join("\n");
    let script = "echo $((FURLONG_TASK * FURLONG_TASK))";
    let printed = cluster.furlong(&["submit", "--array", "1-100", "--wait", "--", "sh", "-c", script]).ok();
    assert_eq!(printed, squares);
}

#[test]
fn lines_and_json_items_reach_their_tasks() {
    let cluster = Cluster::start(2);
    let echo = ["--wait", "--", "sh", "-c", "echo $FURLONG_TASK $FURLONG_ITEM"];
    let lines = file(cluster.home(), "lines", "one\ntwo words\n");
    let printed = cluster.furlong(&[&["submit", "--each-line", &lines][..], &echo].concat()).ok();
    assert_eq!(printed, "1 one\n2 two words");
    let items = file(cluster.home(), "items.json", r#"["a", {"b": 1}]"#);
    let printed = cluster.furlong(&[&["submit", "--from-json", &items][..], &echo].concat()).ok();
    assert_eq!(printed, "1 a\n2 {\"b\":1}");
}

#[test]
fn a_detached_submit_is_found_followed_explained_and_purged_by_other_processes() {
    let cluster = Cluster::start(2);
    let script = "sleep 0.2; echo done $FURLONG_TASK";
    let ids = cluster.furlong(&["submit", "--label", "later", "--array", "1-3", "--", "sh", "-c", script]).ok();
    let ids = ids.trim();
    assert!(ids.ends_with(":1-3"), "{ids}");
    assert_eq!(cluster.furlong(&["result", "-f", "last"]).ok(), "done 1\ndone 2\ndone 3");
    let session = ids.split_once(':').unwrap().0;
    assert_eq!(cluster.furlong(&["result", &format!("{session}:2")]).ok(), "done 2");
    assert_eq!(cluster.furlong(&["result", "--label", "lat*"]).ok(), "done 1\ndone 2\ndone 3");
    let explained = cluster.furlong(&["explain", "--json", &format!("{session}:1")]).ok();
    let explained: Value = serde_json::from_str(&explained).unwrap();
    assert!(explained.to_string().contains("later"), "{explained}");
    cluster.furlong(&["purge", session]).ok();
    cluster.furlong(&["result", &format!("{session}:2")]).failed(1);
}

#[test]
fn what_waits_says_why_and_can_be_cancelled() {
    let cluster = Cluster::start(1);
    cluster.furlong(&["submit", "--label", "stuck", "--require", "moon", "--", "true"]).ok();
    let queue = cluster.furlong(&["queue"]).ok();
    assert!(queue.contains("stuck") && queue.contains("moon"), "{queue}");
    cluster.furlong(&["cancel", "--label", "stuck"]).ok();
    assert!(!cluster.furlong(&["queue"]).ok().contains("stuck"));
}

#[test]
fn exit_codes_are_those_of_the_tasks() {
    let cluster = Cluster::start(1);
    cluster.furlong(&["submit", "--wait", "--", "sh", "-c", "exit 7"]).failed(7);
    cluster.furlong(&["submit", "--array", "1-3", "--wait", "--", "sh", "-c", "exit $((FURLONG_TASK - 1))"]).failed(1);
    cluster.furlong(&["submit", "--time-limit", "200ms", "--wait", "--", "sleep", "60"]).failed(1);
}

#[test]
fn variables_go_to_engines_and_back_until_a_restart() {
    let cluster = Cluster::start(2);
    cluster.furlong(&["push", "x=[1, 2]", "name=furlong"]).ok();
    let pulled = cluster.furlong(&["pull", "sum(x)", "name"]).ok();
    assert_eq!(pulled.matches(r#"{"name":"furlong","sum(x)":3}"#).count(), 2, "{pulled}");
    assert!(cluster.furlong(&["keys", "--targets", "0"]).ok().contains("name x"));
    cluster.furlong(&["clear", "--targets", "0"]).ok();
    cluster.furlong(&["pull", "--targets", "0", "x"]).failed(1);
    cluster.furlong(&["restart", "1"]).ok();
    cluster.furlong(&["pull", "--targets", "1", "x"]).failed(1);
}

#[test]
fn bad_input_gets_one_line_and_an_exit_code() {
    let cluster = Cluster::start(1);
    let failed = |args: &[&str], code| cluster.furlong(args).failed(code);
    failed(&["submit", "--array", "5-1", "--wait", "--", "true"], 2);
    failed(&["submit", "--wait"], 2);
    failed(&["signal", "SIGNOTHING", "all"], 2);
    failed(&["result", "nonsense:x"], 2);
    let program = failed(&["submit", "--wait", "--", "no-such-program"], 1);
    assert!(program.contains("no-such-program"), "{program}");
    assert_line(&failed(&["restart", "99"], 1), &["there is no engine 99"]);
    assert_line(&failed(&["submit", "--each-line", "/no/such/file", "--wait", "--", "true"], 1), &["/no/such/file"]);
    assert_line(&failed(&["run", "/no/such/script.py"], 1), &["/no/such/script.py"]);
}

#[test]
fn help_has_an_example_for_every_command() {
    let home = Home::new();
    for name in ["submit", "result", "queue", "explain", "cancel", "purge", "push", "pull", "restart", "signal", "run"]
    {
        let help = furlong_tests::command::furlong(&[name, "--help"], &home).ok();
        assert!(help.contains("Example"), "{name}: {help}");
    }
    assert!(furlong_tests::command::furlong(&["completions", "bash"], &home).ok().contains("furlong"));
}
