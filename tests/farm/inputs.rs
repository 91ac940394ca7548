//! Results of other tasks as inputs: on the command line, of commands and of Rust functions, in
//! sessions of one owner and of two.

use furlong_client::{
    Arguments, CallSpec, CommandExtras, CommandSpec, ErrorKind, TaskFailure, TaskState,
};
use furlong_tests::command::{Cluster, command, furlong};
use furlong_tests::work::Work;
use serde_json::Value;

/// A command whose output is kept whole.
fn whole(script: &str) -> CallSpec {
    let argv = ["sh", "-c", script].map(Into::into).into();
    let extras = CommandExtras { whole_output: true, ..CommandExtras::default() };
    CallSpec::command_with(CommandSpec { argv, extras, ..CommandSpec::default() }).stay(true)
}

fn submit(cluster: &Cluster, args: &[&str]) -> String {
    cluster.furlong(&[&["submit"], args].concat()).ok().trim().to_owned()
}

#[test]
fn a_pipeline_of_submits_goes_from_task_to_task() {
    let cluster = Cluster::start(2);
    let script = "sleep 0.3; i=$FURLONG_TASK; while [ $i -gt 0 ]; do echo $i; i=$((i - 1)); done";
    let parts = submit(&cluster, &["--stay", "--array", "1-3", "--", "sh", "-c", script]);
    // Before they have ended: it waits.
    let sorted = submit(&cluster, &["--stay", "--stdin-from", &parts, "--", "sort", "-n"]);
    let unique = ["submit", "--wait", "--stdin-from", &sorted, "--", "uniq", "-c"];
    let counted: Vec<String> = cluster
        .furlong(&unique)
        .ok()
        .lines()
        .map(|line| line.split_whitespace().collect::<Vec<_>>().join(" "))
        .collect();
    assert_eq!(counted, ["3 1", "2 2", "1 3"]);
    assert_eq!(cluster.furlong(&["result", &sorted]).ok(), "1\n1\n1\n2\n2\n3");
    // As files: each an argument of its own, and within one.
    let (one, all) =
        (format!("{{input:{}}}", parts.replace("1-3", "1")), format!("{{input:{parts}}}"));
    let heads = cluster.furlong(&["submit", "--wait", "--", "cat", &one, &all]).ok();
    assert_eq!(heads, "1\n1\n2\n1\n3\n2\n1");
    let script = format!("wc -l < '{one}'");
    assert_eq!(cluster.furlong(&["submit", "--wait", "--", "sh", "-c", &script]).ok().trim(), "1");
    // Two submits hold it on, whatever becomes of its own record.
    let later = submit(&cluster, &["--stdin-from", &sorted, "--", "sh", "-c", "sleep 0.5; wc -l"]);
    cluster.furlong(&["purge", &sorted]).ok();
    assert_eq!(cluster.furlong(&["result", "-f", &later]).ok().trim(), "6");
    cluster.furlong(&["submit", "--stdin-from", &sorted, "--", "sort"]).failed(1);
}

#[test]
fn an_output_of_many_mebibytes_is_an_input_whole() {
    let cluster = Cluster::start(1);
    let made = submit(&cluster, &["--stay", "--", "sh", "-c", "yes 123456 | head -c 20000000"]);
    let counted = cluster.furlong(&["submit", "--wait", "--stdin-from", &made, "--", "wc", "-c"]);
    assert_eq!(counted.ok().trim(), "20000000");
}

#[test]
fn an_input_that_fails_or_is_not_whole_is_the_cause() {
    let cluster = Cluster::start(1);
    let wrong = submit(&cluster, &["--stay", "--", "sh", "-c", "exit 4"]);
    let args = ["submit", "--wait", "--stdin-from", &wrong, "--", "sort"];
    let text = cluster.furlong(&args).failed(1);
    assert!(text.contains(&format!("dependency: {wrong} did not succeed")), "{text}");
    // The same sentence as that of a dependency.
    let after = cluster.furlong(&["submit", "--wait", "--after", &wrong, "--", "true"]).failed(1);
    let told = |text: &str| text.split_once("dependency: ").unwrap().1.to_owned();
    assert_eq!(told(&text), told(&after));
    let plain = submit(&cluster, &["--", "echo", "plain"]);
    let text =
        cluster.furlong(&["submit", "--wait", "--stdin-from", &plain, "--", "sort"]).failed(1);
    assert!(text.contains("not kept whole; submit that command with `--stay`"), "{text}");
}

#[test]
fn wrong_inputs_are_usage_errors_or_name_what_is_missing() {
    let cluster = Cluster::start(1);
    for args in [
        &["--stdin-from", "nobody", "--", "cat"][..],
        &["--stdin-from", "last", "--stdin", "/dev/null", "--", "cat"],
        &["--stay", "--wait", "--", "true"],
        &["--stay", "--durable", "--", "true"],
        &["--", "cat", "{input:}"],
        &["--", "cat", "{input:k3f9a2:1"],
        &["--", "{input:k3f9a2:1}"],
    ] {
        cluster.furlong(&[&["submit"], args].concat()).failed(2);
    }
    let unknown = cluster.furlong(&["submit", "--", "cat", "{input:k3f9a2:1}"]).failed(1);
    assert!(unknown.contains("k3f9a2:1"), "{unknown}");
}

#[test]
fn nobody_else_has_an_owners_results_as_inputs() {
    let cluster = Cluster::start(1);
    let made = submit(&cluster, &["--stay", "--", "echo", "mine"]);
    cluster.furlong(&["result", "-f", &made]).ok();
    let args = ["cap", "issue", "--json", "--role", "client", "--owner", "bob"];
    let other: Value = serde_json::from_str(&furlong(&args, cluster.home()).ok()).unwrap();
    let other = other["file"].as_str().unwrap().to_owned();
    let try_with = |capability: &str| {
        let mut submit = command(
            "furlong",
            &["submit", "--wait", "--stdin-from", &made, "--", "cat"],
            cluster.home(),
        );
        submit.env("FURLONG_CAP", capability).output().unwrap()
    };
    let refused = try_with(&other);
    let text = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(!refused.status.success() && text.contains("no task"), "{text}");
    assert_eq!(refused.stdout, b"");
}

#[test]
fn rust_functions_and_commands_read_values_of_all_codecs() {
    let mut work = Work::start(1);
    work.add_own_engine(env!("CARGO_BIN_EXE_own_engine"), 1);
    work.wait_for_processes(2);
    let json = CallSpec::native("echo").arguments(Arguments::JsonText("{\"a\": [1]}".into()));
    let raw =
        CallSpec::native("echo").arguments(Arguments::Raw(vec!["raw ".into(), "bytes".into()]));
    let msgpack = CallSpec::native("joined");
    let [json, raw, msgpack] = [json, raw, msgpack].map(|call| work.submit(&call.stay(true)));
    let text = work.submit(&whole("printf 'from a command'"));
    let joined = CallSpec::native("joined").inputs([&json, &raw, &msgpack, &text]);
    let joined = work.run(&joined).unwrap();
    assert_eq!(joined.msgpack::<String>().unwrap(), "{\"a\": [1]}|raw bytes||from a command");
    let joined = CallSpec::command(["cat", "-"]).stdin_from([&raw, &text]).input_argument(&json);
    let printed = work.run(&joined).unwrap().report.stdout;
    assert_eq!(printed.to_string(), "raw bytesfrom a command{\"a\": [1]}");
    // A session of its own has the same results; they go with their session.
    let other = work.connect();
    let again = CallSpec::command(["cat"]).stdin_from([&text]);
    let again = work.within(work.submit_by(&other, &again)).unwrap();
    assert_eq!(again.report.stdout.to_string(), "from a command");
}

#[test]
fn pending_inputs_of_another_session_are_waited_for_and_their_loss_is_told() {
    let work = Work::start(2);
    let other = work.connect();
    let held = work.hold("first").stay(true);
    let first = work.submit(&held);
    work.wait_for_lines("first.begun", 1);
    let reads = |task| CallSpec::command(["cat"]).stdin_from([task]);
    let second = work.submit_by(&other, &reads(first.id()));
    work.release("first.release");
    let value = work.within(second).unwrap().report.stdout.to_string();
    assert!(!value.is_empty());
    let lost = work.submit(&work.hold("never").stay(true));
    work.wait_for_lines("never.begun", 1);
    let waits = work.submit_by(&other, &reads(lost.id()));
    lost.cancel_with(true);
    let failure: TaskFailure = work.within(waits).unwrap_err();
    assert_eq!(
        (failure.state(), failure.kind()),
        (Some(TaskState::Cancelled), Some(ErrorKind::Dependency))
    );
}
