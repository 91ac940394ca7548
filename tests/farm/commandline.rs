//! The command line: programs as tasks, results from elsewhere, variables, and what bad input gets.

use furlong_tests::command::{Cluster, command, file, furlong, processes_of, status};
use furlong_tests::home::Home;
use furlong_tests::program::{Program, binary};
use furlong_tests::wait::{SOON, eventually};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

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
    let printed =
        cluster.furlong(&["submit", "--array", "1-100", "--wait", "--", "sh", "-c", script]).ok();
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
    let ids = cluster
        .furlong(&["submit", "--label", "later", "--array", "1-3", "--", "sh", "-c", script])
        .ok();
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
    cluster
        .furlong(&[
            "submit",
            "--array",
            "1-3",
            "--wait",
            "--",
            "sh",
            "-c",
            "exit $((FURLONG_TASK - 1))",
        ])
        .failed(1);
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
    assert!(
        failed(&["submit", "--retries", "-1", "--", "true"], 2)
            .contains("invalid value '-1' for '--retries")
    );
    assert_line(&failed(&["submit", "--", ""], 1), &["the program has no name"]);
    let program = failed(&["submit", "--wait", "--", "no-such-program"], 1);
    assert!(program.contains("no-such-program"), "{program}");
    assert_line(&failed(&["restart", "99"], 1), &["there is no engine 99"]);
    assert_line(
        &failed(&["submit", "--each-line", "/no/such/file", "--wait", "--", "true"], 1),
        &["/no/such/file"],
    );
    assert_line(&failed(&["run", "/no/such/script.py"], 1), &["/no/such/script.py"]);
}

#[test]
fn map_shows_what_functions_print_beside_their_results() {
    let cluster = Cluster::start(1);
    let source = "import sys\ndef f(item):\n    print('about', item)\n    \
                  print('aside', file=sys.stderr)\n    return 1\n";
    let function = format!("{}:f", file(cluster.home(), "prints.py", source));
    let outcome = cluster.furlong(&["map", &function, "a", "b"]);
    assert_eq!(outcome.stdout, "1\n1");
    let expected =
        "[item 0] Out: about a\n[item 0] Err: aside\n[item 1] Out: about b\n[item 1] Err: aside";
    assert_eq!(outcome.stderr, expected);
}

#[test]
fn map_takes_the_options_of_a_task() {
    let cluster = Cluster::start_with(&["-n", "1", "--label", "big"]);
    let source =
        "import time\ndef f(item):\n    if item == 'slow': time.sleep(60)\n    return item\n";
    let function = format!("{}:f", file(cluster.home(), "sleeps.py", source));
    let options = [
        "--require",
        "big",
        "--priority",
        "3",
        "--retries",
        "1",
        "--run-timeout",
        "1s",
        "--label",
        "night",
    ];
    let outcome = cluster.furlong(&[&["map"][..], &options, &[&function, "fast", "slow"]].concat());
    assert_eq!((outcome.code, outcome.stdout.as_str()), (Some(1), "\"fast\""));
    assert!(outcome.stderr.contains("item 1: run_timeout"), "{outcome:?}");
}

#[test]
fn who_waits_for_an_engine_that_is_not_there_is_told_so() {
    let cluster = Cluster::start(1);
    let waits = |args: &[&str], text: &str| {
        let mut program = Program::spawn("furlong", command("furlong", args, cluster.home()));
        program.wait_for_line(&format!("furlong: waiting: no engine is online{text}"), SOON);
        program.interrupt();
        assert_eq!(program.wait_exit(SOON).code(), Some(130));
    };
    waits(
        &["submit", "--wait", "--require", "moon", "--", "true"],
        " that runs command and has the labels moon",
    );
    waits(
        &["map", "--require", "moon", "builtins:len", "x"],
        " that runs python and has the labels moon",
    );
    let cluster = Cluster::start(0);
    let mut program = Program::spawn(
        "furlong",
        command("furlong", &["submit", "--wait", "true"], cluster.home()),
    );
    program.wait_for_line("furlong: waiting: no engine is online; start one with `engine`", SOON);
    program.interrupt();
    assert_eq!(program.wait_exit(SOON).code(), Some(130));
}

#[test]
fn the_record_of_a_command_that_could_not_start_says_why() {
    let cluster = Cluster::start(1);
    cluster.furlong(&["submit", "--", "no-such-program"]).ok();
    cluster.furlong(&["result", "-f", "last"]).failed(1);
    for args in [&["queue", "--all", "last"][..], &["explain", "last"]] {
        let printed = cluster.furlong(args).ok();
        assert!(printed.contains("there is no program `no-such-program`"), "{printed}");
    }
}

#[test]
fn a_detached_submit_that_is_refused_at_once_fails() {
    let cluster = Cluster::start(1);
    let refused = cluster.furlong(&["submit", "--targets", "0,7", "--array", "1-3", "--", "true"]);
    assert_eq!(refused.code, Some(1), "{refused:?}");
    assert!(refused.stdout.ends_with(":1-6"), "{refused:?}");
    assert!(refused.stderr.contains("furlong: 3 tasks: unknown_engine: "), "{refused:?}");
    assert!(refused.stderr.ends_with("furlong: 3 of 6 tasks failed at once"), "{refused:?}");
}

#[test]
fn engines_of_a_cluster_are_started_with_what_was_said() {
    let home = Home::new();
    let here = home.path().canonicalize().unwrap();
    let here = here.to_str().unwrap();
    let start = ["cluster", "start", "-n", "1", "--daemon"];
    let engine =
        ["--label", "big,red", "--env", "GREETING=hello world", "--cwd", here, "--memory", "512M"];
    furlong(&[&start[..], &engine].concat(), &home).ok();
    let status = status(&home);
    let process = &status["processes"][0];
    assert_eq!((&process["labels"], process["cwd"].as_str()), (&json!(["big", "red"]), Some(here)));
    assert!(process["environment"]["memory"].as_str().unwrap().starts_with("512 MiB"), "{process}");
    let script = "echo $GREETING; pwd";
    let printed =
        furlong(&["submit", "--wait", "--require", "red", "--", "sh", "-c", script], &home).ok();
    assert_eq!(printed, format!("hello world\n{here}"));
    furlong(&["cluster", "stop"], &home).ok();
}

#[test]
fn json_says_how_much_of_the_output_is_left_out() {
    let cluster = Cluster::start(1);
    let left_out = |args: &[&str]| {
        let outcome = cluster.furlong(args);
        let document: Value = serde_json::from_str(&outcome.stdout).unwrap();
        (document["left_out_bytes"].clone(), outcome.code)
    };
    let head = ["sh", "-c", "head -c 3145728 /dev/zero | tr '\\0' x; echo >&2"];
    let whole = json!({ "stdout": 0, "stderr": 0 });
    assert_eq!(
        left_out(&[&["submit", "--wait", "--json", "--"][..], &head].concat()),
        (whole, Some(0))
    );
    let cut = json!({ "stdout": 1 << 20, "stderr": 0 });
    let execute = ["execute", "--json", "import sys; _ = sys.stdout.write('x' * (3 << 20))"];
    assert_eq!(left_out(&execute), (cut, Some(3)));
}

#[test]
fn help_has_an_example_for_every_command() {
    let home = Home::new();
    for name in [
        "submit", "result", "queue", "explain", "cancel", "purge", "push", "pull", "restart",
        "signal", "run",
    ] {
        let help = furlong(&[name, "--help"], &home).ok();
        assert!(help.contains("Example"), "{name}: {help}");
    }
    assert!(furlong(&["completions", "bash"], &home).ok().contains("furlong"));
}

#[test]
fn a_cluster_goes_on_when_its_program_has_been_replaced() {
    let home = Home::new();
    let program = home.path().join("furlong-of-before");
    std::fs::copy(binary("furlong"), &program).unwrap();
    let mut start = std::process::Command::new(&program);
    start
        .args(["cluster", "start", "-n", "1"])
        .env("FURLONG_HOME", home.path())
        .env_remove("FURLONG_CAP");
    let mut supervisor = Program::spawn("furlong", start);
    supervisor.wait_for_line("try ", SOON);
    std::fs::remove_file(&program).unwrap();
    let is_engine = |(pid, line): (u32, String)| line.contains(" engine ").then_some(pid);
    let engine = processes_of(home.path()).into_iter().find_map(is_engine).expect("an engine runs");
    kill_process(Pid::from_raw(engine.cast_signed()).unwrap(), Signal::KILL).unwrap();
    let is_back = || furlong(&["execute", "--targets", "1", "6 * 7"], &home).code == Some(0);
    assert!(eventually(SOON, is_back), "{}", supervisor.stderr());
    supervisor.kill();
    assert!(eventually(SOON, || processes_of(home.path()).is_empty()));
}
