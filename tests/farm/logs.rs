//! The logs of broker, engines and `cluster start`.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use furlong_host::home::{load_broker_key, load_issuer_key};
use furlong_tests::command::{Cluster, command, status, wait_for_engines};
use furlong_tests::farm::Farm;
use furlong_tests::home::Home;
use furlong_tests::program::Program;
use furlong_tests::session::{Credentials, RawSession, shake_hands};
use furlong_tests::wait::{SOON, eventually};
use furlong_wire::token::Role;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

/// Every log of the default cluster, and what is in it.
fn logs(home: &Home) -> Vec<(String, String)> {
    let entries = fs::read_dir(home.cluster().log()).unwrap().map(|entry| entry.unwrap().path());
    let name = |path: &Path| path.file_name().unwrap().to_str().unwrap().to_owned();
    entries.map(|path| (name(&path), fs::read_to_string(&path).unwrap())).collect()
}

fn log(home: &Home, name: &str) -> String {
    fs::read_to_string(home.cluster().log().join(name)).unwrap_or_default()
}

/// An engine with these flags.
fn engine(home: &Home, flags: &[&str]) -> Program {
    let cap = home.cluster().capability(Role::Engine);
    let args = [&["--stop-with-stdin", "--cap", cap.to_str().unwrap()], flags].concat();
    Program::spawn("engine", command("engine", &args, home))
}

#[test]
fn broker_and_engine_say_in_json_who_comes_and_goes() {
    let farm = Farm::start_with(&["--log-format", "json"]);
    let engine = engine(farm.home(), &["--log-format", "json"]);
    wait_for_engines(1, farm.home());
    let mut files = vec![log(farm.home(), "broker.log"), farm.home().engine_logs()];
    files.push(engine.stderr());
    for text in &files {
        assert!(!text.is_empty());
        for line in text.lines() {
            let document: Value =
                serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
            assert!(
                document["fields"]["message"].is_string() && document["timestamp"].is_string(),
                "{line}"
            );
            assert_eq!(document["level"], "INFO", "{line}");
        }
    }
    let token = farm.capability(Role::Engine).claims().token_id;
    assert!(files[0].contains(&format!(", token {token}) is here")), "{}", files[0]);
}

#[test]
fn a_log_has_as_much_as_its_level_says() {
    let farm = Farm::start_with(&["--log-level", "error"]);
    assert!(farm.good(Role::Client).engines().is_ok());
    assert_eq!(log(farm.home(), "broker.log"), "");
    let mut engine = Program::start("engine", &["--log-level", "loud"], farm.home());
    assert_eq!(engine.wait_exit(SOON).code(), Some(2));
    let mut broker = Program::start("broker", &["--log-format", "xml"], farm.home());
    assert_eq!(broker.wait_exit(SOON).code(), Some(2));
    assert!(broker.stderr().contains("`text` or `json`"), "{}", broker.stderr());
}

#[test]
fn no_log_has_a_secret_in_it_at_any_level() {
    let farm = Farm::start_with(&["--log-level", "trace"]);
    let _engine = engine(farm.home(), &["--log-level", "trace"]);
    wait_for_engines(1, farm.home());
    let mut thief = Credentials::of(&farm.capability(Role::Admin));
    thief.secret = [9; 32];
    shake_hands(farm.port(), &thief);
    shake_hands(farm.port(), &Credentials::of(&farm.capability(Role::Task)).with_role(Role::Admin));
    let _session = RawSession::client(farm.port(), &farm.capability(Role::Client));
    let dir = farm.home().cluster();
    let hex =
        |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().concat();
    let mut secrets: Vec<[u8; 32]> =
        Role::ALL.map(|role| *farm.capability(role).holder_secret().expose()).to_vec();
    let key = load_broker_key(&dir.broker_key()).unwrap();
    secrets.extend([*key.server_secret.expose(), *key.at_rest_key.expose()]);
    secrets.push(*load_issuer_key(&dir.issuer_key()).unwrap().issuer.expose_seed());
    let mut texts: Vec<String> = secrets.iter().map(|secret| hex(secret)).collect();
    // As a list of numbers too, and the tokens, and the payload secret of the session above.
    texts.extend(secrets.iter().map(|secret| format!("{secret:?}")));
    texts.extend(Role::ALL.map(|role| hex(farm.capability(role).token().as_bytes())));
    texts.push(hex(&[7; 32]));
    for (name, text) in logs(farm.home()) {
        assert_eq!(
            fs::metadata(dir.log().join(&name)).unwrap().permissions().mode() & 0o7777,
            0o600,
            "{name}"
        );
        assert!(!text.is_empty(), "{name} is empty");
        assert!(texts.iter().all(|secret| !text.contains(secret)), "a secret is in {name}");
    }
}

#[test]
fn a_second_broker_leaves_the_log_of_the_first_alone() {
    let farm = Farm::start();
    let mut second = Program::start("broker", &["--bind", "127.0.0.1"], farm.home());
    assert_eq!(second.wait_exit(SOON).code(), Some(1));
    let text = log(farm.home(), "broker.log");
    assert!(
        text.matches("capability files are in").count() == 1 && !text.contains("already has"),
        "{text}"
    );
}

#[test]
fn what_becomes_of_a_clusters_processes_is_in_its_log() {
    let mut cluster = Cluster::start(1);
    let text = log(cluster.home(), "cluster.log");
    for part in [
        "the broker is started, process ",
        "an engine is started, process ",
        " stands: broker tcp://",
    ] {
        assert!(text.contains(part), "{part}: {text}");
    }
    let pid = status(cluster.home())["processes"][0]["pid"].as_i64().unwrap();
    kill_process(Pid::from_raw(pid as i32).unwrap(), Signal::KILL).unwrap();
    let ended = format!("an engine has ended, process {pid} (signal: 9 (SIGKILL))");
    assert!(eventually(SOON, || log(cluster.home(), "cluster.log").contains(&ended)));
    let again = || log(cluster.home(), "cluster.log").matches("an engine is started").count() == 2;
    assert!(eventually(SOON, again), "{}", log(cluster.home(), "cluster.log"));
    cluster.supervisor().terminate();
    assert_eq!(cluster.supervisor().wait_exit(SOON).code(), Some(0));
    assert!(log(cluster.home(), "cluster.log").contains("cluster default stops: terminated"));
}

#[test]
fn a_cluster_ends_with_a_broker_that_was_told_to_stop() {
    let mut cluster = Cluster::start(1);
    let broker = status(cluster.home())["broker"]["pid"].as_i64().unwrap();
    kill_process(Pid::from_raw(broker as i32).unwrap(), Signal::TERM).unwrap();
    assert_eq!(cluster.supervisor().wait_exit(SOON).code(), Some(0));
    let text = log(cluster.home(), "cluster.log");
    assert!(text.contains("cluster default stops: its broker was told to stop"), "{text}");
}
