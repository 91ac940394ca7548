//! `broker`, as its user sees it: its files, its port, its end, and what it says when it cannot
//! start.

use std::collections::BTreeMap;
use std::fs::{self, Permissions};
use std::net::TcpListener;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt, symlink};
use std::path::Path;
use std::process::Command;

use furlong_tests::command::furlong;
use furlong_tests::farm::Farm;
use furlong_tests::good::Good;
use furlong_tests::home::Home;
use furlong_tests::program::{Program, binary};
use furlong_tests::wait::SOON;
use furlong_wire::token::Role;
use rustix::fs::{CWD, FileType, Mode, mknodat};

/// The permissions of a file or folder.
fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o7777
}

/// The files of a cluster's `security` folder and what is in them.
fn security(home: &Home) -> BTreeMap<String, String> {
    let entries = fs::read_dir(home.cluster().security()).unwrap().map(Result::unwrap);
    entries
        .map(|it| (it.file_name().into_string().unwrap(), fs::read_to_string(it.path()).unwrap()))
        .collect()
}

/// Runs a broker that ends by itself: its exit code, and what it printed to stderr.
fn run(home: &Home, args: &[&str]) -> (Option<i32>, String) {
    let mut broker = Program::start("broker", args, home);
    let status = broker.wait_exit(SOON);
    (status.code(), broker.stderr())
}

/// Ends the farm's broker gracefully.
fn stop(farm: &mut Farm) {
    farm.broker().terminate();
    assert_eq!(farm.broker().wait_exit(SOON).code(), Some(0));
}

/// Starts a broker in a home that had one before, and waits until it can be reached.
fn start_again(home: &Home, args: &[&str]) -> Program {
    let args = [&["--bind", "127.0.0.1", "--stop-with-stdin"], args].concat();
    let broker = Program::start("broker", &args, home);
    broker.wait_for_line("listens at", SOON);
    broker
}

#[test]
fn the_first_start_makes_keys_and_a_capability_file_for_each_role() {
    let farm = Farm::start();
    let names: Vec<_> = security(farm.home()).into_keys().collect();
    let expected = [
        "admin.cap.json",
        "auditor.cap.json",
        "broker.key.json",
        "client.cap.json",
        "engine.cap.json",
        "issuer.key.json",
        "multiengine.cap.json",
        "observer.cap.json",
        "task.cap.json",
    ];
    assert_eq!(names, expected);
    let folder = farm.home().cluster().security();
    assert_eq!(mode(&folder), 0o700);
    for name in &names {
        assert_eq!(mode(&folder.join(name)), 0o600, "{name}");
    }
    let owners = Role::ALL.map(|role| farm.capability(role).claims().owner);
    assert!(owners.iter().all(|owner| *owner == owners[0]), "the files are of several owners");
}

#[test]
fn a_second_start_keeps_keys_port_and_files() {
    let mut farm = Farm::start();
    let (before, port) = (security(farm.home()), farm.port());
    stop(&mut farm);
    let _broker = start_again(farm.home(), &[]);
    assert_eq!(security(farm.home()), before);
    assert_eq!(farm.home().broker_state().unwrap().port, port);
    Good::connect(&farm.capability(Role::Client)).unwrap();
}

#[test]
fn fresh_makes_other_keys_and_the_old_files_open_nothing() {
    let mut farm = Farm::start();
    let (before, old) = (security(farm.home()), farm.capability(Role::Client));
    stop(&mut farm);
    let _broker = start_again(farm.home(), &["--fresh", "--port", &farm.port().to_string()]);
    let after = security(farm.home());
    assert!(before.keys().eq(after.keys()));
    assert!(before.iter().all(|(name, text)| after[name] != *text), "a file was kept");
    let error = Good::connect(&old).expect_err("an old file opens nothing");
    assert!(error.contains("`--fresh`"), "{error}");
    Good::connect(&farm.capability(Role::Client)).unwrap();
}

#[test]
fn a_busy_port_is_refused_with_the_name_of_who_holds_it() {
    let home = Home::new();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port().to_string();
    let (code, stderr) = run(&home, &["--bind", "127.0.0.1", "--port", &port]);
    assert_eq!(code, Some(1));
    let expected = format!("broker: port {port} is held by pid {} (", std::process::id());
    assert!(stderr.contains(&expected) && stderr.contains("--port N"), "{stderr}");
}

#[test]
fn a_second_broker_of_a_cluster_is_refused_with_where_the_first_is() {
    let farm = Farm::start();
    let (code, stderr) = run(farm.home(), &["--bind", "127.0.0.1"]);
    assert_eq!(code, Some(1));
    let expected = format!("already has a broker (process {}, port {})", farm.pid(), farm.port());
    assert!(stderr.contains(&expected), "{stderr}");
    // Nor does it take the first one's keys away.
    let (code, _) = run(farm.home(), &["--bind", "127.0.0.1", "--fresh"]);
    assert_eq!(code, Some(1));
    Good::connect(&farm.capability(Role::Client)).unwrap();
}

#[test]
fn a_broker_that_is_told_to_end_ends_gracefully() {
    let mut farm = Farm::start();
    let mut client = farm.good(Role::Client);
    assert!(!farm.home().broker_state().unwrap().stopped);
    stop(&mut farm);
    assert!(farm.home().broker_state().unwrap().stopped);
    assert!(client.engines().is_err(), "a client is served by nobody");
}

#[test]
fn a_broker_ends_with_the_standard_input_that_it_was_told_to_watch() {
    let mut farm = Farm::start();
    farm.broker().close_stdin();
    assert_eq!(farm.broker().wait_exit(SOON).code(), Some(0));
    assert!(farm.home().broker_state().unwrap().stopped);
}

#[test]
fn a_key_file_that_others_can_read_is_refused_with_the_line_that_mends_it() {
    let mut farm = Farm::start();
    stop(&mut farm);
    let key = farm.home().cluster().broker_key();
    fs::set_permissions(&key, Permissions::from_mode(0o640)).unwrap();
    let (code, stderr) = run(farm.home(), &["--bind", "127.0.0.1"]);
    assert_eq!(code, Some(1));
    assert!(stderr.contains("chmod") && stderr.contains("broker.key.json"), "{stderr}");
}

#[test]
fn a_pipe_or_a_link_in_the_place_of_a_file_is_refused_and_not_waited_for() {
    let home = Home::new();
    for folder in [home.cluster().run(), home.cluster().log()] {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(&folder).unwrap();
    }
    let victim = home.path().join("victim");
    fs::write(&victim, "as it was").unwrap();
    for file in [home.cluster().run().join("broker.lock"), home.cluster().log().join("broker.log")]
    {
        mknodat(CWD, &file, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
        let (code, stderr) = run(&home, &["--bind", "127.0.0.1"]);
        assert_eq!(code, Some(1));
        assert!(
            stderr.contains(file.to_str().unwrap())
                && stderr.contains("it is a named pipe, not a file"),
            "{stderr}"
        );
        let list = furlong(&["cluster", "list"], &home);
        assert!(list.ok().contains("default          stopped"));
        fs::remove_file(&file).unwrap();
        symlink(&victim, &file).unwrap();
        let (code, stderr) = run(&home, &["--bind", "127.0.0.1"]);
        assert_eq!(code, Some(1));
        assert!(
            stderr.contains(file.to_str().unwrap()) && stderr.contains("it is a symbolic link"),
            "{stderr}"
        );
        fs::remove_file(&file).unwrap();
    }
    assert_eq!(fs::read_to_string(&victim).unwrap(), "as it was");
}

#[test]
fn all_files_are_private_whatever_the_umask() {
    let home = Home::new();
    let mut command = Command::new("sh");
    command.args(["-c", "umask 0; exec \"$0\" --bind 127.0.0.1 --journal"]).arg(binary("broker"));
    command.env("FURLONG_HOME", home.path()).env_remove("FURLONG_CAP");
    let broker = Program::spawn("broker", command);
    broker.wait_for_line("listens at", SOON);
    let mut folders = vec![home.cluster().path().to_owned()];
    let mut files = 0;
    while let Some(folder) = folders.pop() {
        assert_eq!(mode(&folder), 0o700, "{}", folder.display());
        for entry in fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()) {
            if entry.is_dir() {
                folders.push(entry);
            } else {
                files += 1;
                assert_eq!(mode(&entry), 0o600, "{}", entry.display());
            }
        }
    }
    assert!(files > 10, "there are {files}");
}

#[test]
fn a_wrong_argument_is_a_usage_error() {
    let home = Home::new();
    for args in [
        ["--memory", "1M"],
        ["--memory", "lots"],
        ["--memory", "99%"],
        ["--port", "70000"],
        ["--bind", "here"],
    ] {
        let (code, stderr) = run(&home, &args);
        assert_eq!(code, Some(2), "{args:?}");
        assert!(stderr.contains(args[0]) && stderr.contains(args[1]), "{stderr}");
    }
    assert_eq!(fs::read_dir(home.path()).unwrap().count(), 0, "a usage error leaves files");
}

#[test]
fn after_a_crash_port_and_files_are_still_good() {
    let mut farm = Farm::start();
    let (before, port) = (security(farm.home()), farm.port());
    let capability = farm.capability(Role::Client);
    farm.restart_after_sigkill();
    assert_eq!(farm.home().broker_state().unwrap().port, port);
    assert_eq!(security(farm.home()), before);
    Good::connect(&capability).unwrap().engines().unwrap();
}
