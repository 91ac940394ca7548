//! The handling of bad input: one clear line on stderr that says how to mend it, exit code 1 (2 for
//! usage), no hang.

use std::fs::{self, Permissions};
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use furlong_tests::command::{Cluster, command, engine, file, furlong, run, wait_for_engines};
use furlong_tests::farm::Farm;
use furlong_tests::home::Home;
use furlong_tests::program::Program;
use furlong_tests::wait::SOON;

/// Checks that it is one line, and has all of these in it.
#[track_caller]
fn assert_line(stderr: &str, parts: &[&str]) {
    assert_eq!(stderr.lines().count(), 1, "{stderr}");
    parts.iter().for_each(|part| assert!(stderr.contains(part), "no {part:?} in: {stderr}"));
}

/// The path of the default cluster's capability of a role.
fn capability(home: &Home, role: &str) -> String {
    home.cluster().security().join(format!("{role}.cap.json")).to_str().unwrap().to_owned()
}

#[test]
fn no_capability_names_the_places_and_the_remedy() {
    let stderr = furlong(&["ids", "--wait", "0"], &Home::new()).failed(1);
    assert_line(
        &stderr,
        &[
            "furlong: no capability file: ",
            "client.cap.json",
            "furlong cluster start",
            "--cap FILE",
        ],
    );
}

#[test]
fn a_capability_that_cannot_be_used_says_why() {
    let farm = Farm::start();
    let text = fs::read_to_string(capability(farm.home(), "client")).unwrap();
    let with_mode = |text: &str, mode| {
        let path = file(farm.home(), "copy.cap.json", text);
        fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
        let stderr = furlong(&["ids", "--cap", &path, "--wait", "0.2"], farm.home()).failed(1);
        assert_line(&stderr, &["furlong: ", &path]);
        stderr
    };
    let readable = with_mode(&text, 0o640);
    assert!(readable.contains("0640") && readable.contains("chmod 600"), "{readable}");
    with_mode("no JSON", 0o600);
    with_mode("{}", 0o600);
    let missing = farm.home().path().join("missing.cap.json");
    let missing = missing.to_str().unwrap();
    let stderr = furlong(&["ids", "--cap", missing, "--wait", "0"], farm.home()).failed(1);
    assert_line(&stderr, &["furlong: ", missing, "no such file"]);
    // Of another cluster: it is well formed, and opens nothing here.
    let other = Farm::start();
    let their = fs::read_to_string(capability(other.home(), "client")).unwrap();
    let theirs = format!("127.0.0.1:{}", other.port());
    assert!(their.contains(&theirs));
    let path = file(
        farm.home(),
        "other.cap.json",
        &their.replace(&theirs, &format!("127.0.0.1:{}", farm.port())),
    );
    fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
    let stderr = furlong(&["ids", "--cap", &path, "--wait", "0.2"], farm.home()).failed(1);
    assert_line(&stderr, &["furlong: "]);
}

#[test]
fn a_capability_that_its_user_cannot_read_says_so() {
    let home = Home::new();
    // A folder cannot be read as a file, not even by root.
    let path = home.path().join("client.cap.json");
    fs::create_dir(&path).unwrap();
    let path = path.to_str().unwrap();
    let stderr = furlong(&["ids", "--cap", path, "--wait", "0"], &home).failed(1);
    assert_line(&stderr, &["furlong: ", path]);
}

#[test]
fn a_role_that_may_not_is_told_what_to_ask_for() {
    let farm = Farm::start();
    let _engine = engine(farm.home());
    wait_for_engines(1, farm.home());
    let [task, observer] = ["task", "observer"].map(|role| capability(farm.home(), role));
    let execute = furlong(&["execute", "--cap", &task, "1"], farm.home()).failed(1);
    assert_line(&execute, &["forbidden", "role `task`", "ask for a `client` capability"]);
    let map = furlong(&["map", "--cap", &observer, "builtins:len", "a"], farm.home()).failed(1);
    assert!(
        map.contains("forbidden") && map.contains("role `observer`") && map.contains("`client`"),
        "{map}"
    );
    let wrong =
        run("engine", &["--cap", &capability(farm.home(), "client")], farm.home()).failed(1);
    assert_line(&wrong, &["role client", "an engine needs engine.cap.json"]);
    // What they may do works.
    assert_eq!(furlong(&["map", "--cap", &task, "builtins:len", "ab"], farm.home()).ok(), "2");
    assert_eq!(furlong(&["ids", "--cap", &observer], farm.home()).ok(), "[0]");
}

#[test]
fn an_unknown_engine_is_named() {
    let cluster = Cluster::start(1);
    let stderr = cluster.furlong(&["execute", "-t", "99", "1"]).failed(1);
    assert_line(&stderr, &["there is no engine 99", "furlong ids"]);
}

#[test]
fn without_engines_execute_fails_and_map_waits_and_says_so() {
    let farm = Farm::start();
    let stderr = furlong(&["execute", "1"], farm.home()).failed(1);
    assert_line(&stderr, &["no engines are connected", "start some with `engine`"]);
    let mut map =
        Program::spawn("furlong", command("furlong", &["map", "builtins:len", "abc"], farm.home()));
    map.wait_for_line("furlong: waiting: no engine is online", SOON);
    assert!(map.is_running());
    let _engine = engine(farm.home());
    assert_eq!(map.wait_exit(SOON).code(), Some(0), "{}", map.stderr());
    assert_eq!(map.stdout(), "3");
}

#[test]
fn no_broker_says_where_it_was_looked_for() {
    let mut farm = Farm::start();
    let port = farm.port();
    farm.broker().kill();
    for args in [
        &["ids", "--wait", "0.2"][..],
        &["execute", "--wait", "0.2", "1"],
        &["map", "--wait", "0.2", "a:b", "c"],
    ] {
        let stderr = furlong(args, farm.home()).failed(1);
        assert_line(
            &stderr,
            &["no broker answers at", &format!("127.0.0.1:{port}"), "furlong cluster start"],
        );
    }
    let stderr = furlong(&["cluster", "stop"], farm.home()).failed(1);
    assert_line(&stderr, &["does not run here", "furlong cluster list"]);
}

#[test]
fn a_busy_port_says_who_holds_it() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port().to_string();
    let held = format!("port {port} is held by pid {}", std::process::id());
    for more in [&[][..], &["--daemon"]] {
        let args = [&["cluster", "start", "-n", "1", "--port", &port], more].concat();
        assert_line(&furlong(&args, &Home::new()).failed(1), &["furlong: ", &held, "--port N"]);
    }
}

#[test]
fn a_python_that_does_not_exist_is_refused_at_the_start() {
    let farm = Farm::start();
    let cap = capability(farm.home(), "engine");
    let stderr = run("engine", &["--cap", &cap, "--python", "/nope/python"], farm.home()).failed(1);
    assert_line(&stderr, &["engine: /nope/python", "--python"]);
    let stderr =
        furlong(&["cluster", "start", "-n", "1", "--python", "/nope/python"], &Home::new())
            .failed(1);
    assert_line(&stderr, &["furlong: /nope/python", "--python"]);
}

#[test]
fn a_function_that_is_not_found_is_named_with_those_that_are() {
    let cluster = Cluster::start(1);
    let map = |function: &str| cluster.furlong(&["map", function, "a"]).failed(1);
    let path = file(cluster.home(), "task.py", "def work(item):\n    return item\n");
    let stderr = map(&format!("{path}:wrok"));
    assert!(stderr.contains("has no function 'wrok'; it defines work (engine 0)"), "{stderr}");
    assert!(map("math:nope").contains("nope"));
    assert!(map("no_such_module:f").contains("no_such_module"));
    assert_line(
        &map("/nowhere/task.py:work"),
        &["furlong: cannot read /nowhere/task.py", "No such file"],
    );
}

#[test]
fn an_error_in_the_code_comes_with_type_text_traceback_and_engine() {
    let cluster = Cluster::start(1);
    let syntax = cluster.furlong(&["execute", "x = ("]).failed(1);
    assert!(
        syntax.starts_with("[0] Err[1]: ") && syntax.contains("SyntaxError: '(' was never closed"),
        "{syntax}"
    );
    let path =
        file(cluster.home(), "task.py", "def work(item):\n    raise LookupError('no ' + item)\n");
    let raised = cluster.furlong(&["map", &format!("{path}:work"), "luck"]).failed(1);
    assert!(raised.starts_with("furlong: item 0: LookupError: no luck (engine 0)\n"), "{raised}");
    assert!(
        raised.contains("task.py\", line 2, in work") && raised.ends_with("furlong: 1 item failed"),
        "{raised}"
    );
    let path = file(cluster.home(), "task.py", "def work(item)\n    return 1\n");
    let unreadable = cluster.furlong(&["map", &format!("{path}:work"), "a"]).failed(1);
    assert!(
        unreadable.contains("SyntaxError") && unreadable.contains("task.py\", line 1"),
        "{unreadable}"
    );
}

#[test]
fn usage_errors_end_with_2() {
    let home = Home::new();
    for args in [
        &["nonsense"][..],
        &["execute"],
        &["map", "examples/wordcount.py:count"],
        &["ids", "--wait", "soon"],
        &["cluster", "start", "-n", "many"],
        &["cluster", "start", "--cluster", "../up"],
        &["bench", "latency", "--count", "0"],
    ] {
        let stderr = furlong(args, &home).failed(2);
        assert!(stderr.starts_with("error: "), "{args:?}: {stderr}");
    }
    let mut engine = Program::start("engine", &["-n", "0"], &home);
    assert_eq!(engine.wait_exit(Duration::from_secs(5)).code(), Some(2));
}

#[test]
fn arguments_that_cannot_be_read_are_usage_errors() {
    let home = Home::new();
    let stderr = furlong(&["execute", "-t", "3-1", "1"], &home).failed(2);
    assert!(stderr.contains("engines are `all`, `3`, `0,2` or `1-3`"), "{stderr}");
    let stderr = furlong(&["map", "work", "a"], &home).failed(2);
    assert!(stderr.contains("FILE.py:FUNCTION"), "{stderr}");
}

#[test]
fn a_refusal_that_is_about_the_user_is_said_once() {
    let cluster = Cluster::start(2);
    let task = capability(cluster.home(), "task");
    assert_line(
        &cluster.furlong(&["execute", "--cap", &task, "1"]).failed(1),
        &["forbidden", "role `task`"],
    );
}

#[test]
fn an_error_without_a_traceback_is_said_once() {
    let cluster = Cluster::start(1);
    let stderr = cluster.furlong(&["map", "math:sqrt", "a"]).failed(1);
    assert_eq!(stderr.matches("must be real number").count(), 1, "{stderr}");
}

#[test]
fn a_capability_for_engines_is_none_for_clients() {
    let farm = Farm::start();
    let stderr =
        furlong(&["ids", "--cap", &capability(farm.home(), "engine")], farm.home()).failed(1);
    assert_line(&stderr, &["the capability is for engines", "client.cap.json"]);
}

#[test]
fn a_cluster_that_is_named_goes_before_the_variable() {
    let farm = Farm::start();
    let mut command =
        command("furlong", &["ids", "--cluster", "other", "--wait", "0"], farm.home());
    command.env("FURLONG_CAP", capability(farm.home(), "client"));
    let output = command.output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert_line(
        std::str::from_utf8(&output.stderr).unwrap(),
        &["no capability file", "--cluster: default"],
    );
    assert!(
        furlong(&["ids", "--cluster", "a", "--cap", "b"], farm.home())
            .failed(2)
            .contains("cannot be used with")
    );
}

#[test]
fn input_that_cannot_be_read_is_no_end_of_it() {
    let cluster = Cluster::start(1);
    let mut command = command("furlong", &["map", "builtins:str", "-"], cluster.home());
    // A folder can be opened, and not be read.
    command.stdin(fs::File::open(cluster.home().path()).unwrap());
    let output = command.output().unwrap();
    assert_eq!((output.status.code(), output.stdout), (Some(1), Vec::new()));
    assert_line(
        std::str::from_utf8(&output.stderr).unwrap(),
        &["cannot read line 1 of the standard input"],
    );
}

#[test]
fn one_file_for_the_output_of_many_tasks_is_refused() {
    let home = Home::new();
    let stderr =
        furlong(&["submit", "--array", "1-3", "--stdout", "all", "--", "true"], &home).failed(2);
    assert!(stderr.contains("put {task} into its name"), "{stderr}");
}
