//! Unix details of commands: names of any bytes, numbers as they are written, scripts, and a
//! shell's open files.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::process::Stdio;

use furlong_tests::command::{Cluster, command, file, furlong};
use furlong_tests::home::Home;
use furlong_tests::program::Program;
use furlong_tests::wait::SOON;
use rustix::fs::{FlockOperation, flock};

/// Runs `furlong` with these last arguments, which may be no UTF-8, in a folder.
fn furlong_os(
    args: &[&str],
    last: &[&OsStr],
    cluster: &Cluster,
    folder: &std::path::Path,
) -> Program {
    let mut program = command("furlong", args, cluster.home());
    program.args(last).current_dir(folder).stdout(Stdio::piped());
    Program::spawn("furlong", program)
}

#[test]
fn items_arguments_paths_and_output_are_bytes() {
    let cluster = Cluster::start(1);
    let folder = cluster.home().path().join(OsString::from_vec(b"f\xf6lder".to_vec()));
    fs::create_dir(&folder).unwrap();
    let odd = OsStr::from_bytes(b"caf\xe9.txt");
    fs::write(folder.join(odd), "four").unwrap();
    let list = file(cluster.home(), "list", "");
    fs::write(&list, b"caf\xe9.txt\n").unwrap();

    let by_item = [
        "submit",
        "--each-line",
        &list,
        "--cwd",
        ".",
        "--wait",
        "--",
        "sh",
        "-c",
        "cat \"$FURLONG_ITEM\"",
    ];
    let mut program = furlong_os(&by_item, &[], &cluster, &folder);
    assert_eq!(program.wait_exit(SOON).code(), Some(0), "{}", program.stderr());
    assert_eq!(program.stdout(), "four");

    let mut program =
        furlong_os(&["submit", "--cwd", ".", "--wait", "--", "cat"], &[odd], &cluster, &folder);
    assert_eq!(program.wait_exit(SOON).code(), Some(0), "{}", program.stderr());
    assert_eq!(program.stdout(), "four");

    let size = file(
        cluster.home(),
        "size.py",
        "import os\ndef size(name):\n    return [len(os.fsencode(name)), name]\n",
    );
    let mut program = furlong_os(&["map", &format!("{size}:size")], &[odd], &cluster, &folder);
    assert_eq!(program.wait_exit(SOON).code(), Some(0), "{}", program.stderr());
    assert_eq!(program.stdout(), r#"[8,"caf\udce9.txt"]"#);
}

#[test]
fn numbers_stay_as_they_are_written() {
    let cluster = Cluster::start(1);
    let items =
        file(cluster.home(), "items.json", "[12345678901234567890123, 1.10, 1e2, {\"x\": 2.50}]");
    let submit =
        ["submit", "--from-json", &items, "--wait", "--", "sh", "-c", "echo $FURLONG_ITEM"];
    assert_eq!(cluster.furlong(&submit).ok(), "12345678901234567890123\n1.10\n1e2\n{\"x\":2.50}");
    cluster.furlong(&["push", "n=12345678901234567890123", "x=[1.10]"]).ok();
    let pulled = cluster.furlong(&["pull", "n", "n + 1", "x"]).ok();
    assert!(pulled.contains(r#""n":12345678901234567890123"#), "{pulled}");
    assert!(pulled.contains(r#""n + 1":12345678901234567890124"#), "{pulled}");
    let power = file(cluster.home(), "power.py", "def power(n):\n    return 10 ** int(n)\n");
    assert_eq!(
        cluster.furlong(&["map", &format!("{power}:power"), "30"]).ok(),
        format!("1{}", "0".repeat(30))
    );
    cluster.furlong(&["submit", "--label", "kept", "--", "true"]).ok();
    let nan = file(
        cluster.home(),
        "nan.py",
        "def nan(n):\n    return {'at': n, 'value': float('nan')}\n",
    );
    let outcome = cluster.furlong(&["map", &format!("{nan}:nan"), "a"]);
    assert_eq!(outcome.stdout, r#"{"at":"a","value":"nan"}"#);
    assert!(
        outcome.stderr.contains("result['value'] is 'nan', which json cannot say"),
        "{}",
        outcome.stderr
    );
}

#[test]
fn a_script_ends_as_python_ends_it() {
    let cluster = Cluster::start(1);
    for (source, code) in
        [("import sys; sys.exit(0)", 0), ("raise SystemExit(3)", 3), ("raise SystemExit('no')", 1)]
    {
        let script = file(cluster.home(), "script.py", source);
        assert_eq!(cluster.furlong(&["run", &script]).code, Some(code), "{source}");
    }
    let script = file(cluster.home(), "latin.py", "");
    fs::write(&script, b"# coding: latin-1\nprint('caf\xe9')\n").unwrap();
    assert!(cluster.furlong(&["run", &script]).ok().ends_with("café"));
    assert!(
        cluster
            .furlong(&["execute", "import asyncio\nawait asyncio.sleep(0, 6)"])
            .ok()
            .ends_with("]: 6")
    );
}

#[test]
fn a_helper_that_was_edited_is_read_again() {
    let folder = tempfile::tempdir().unwrap();
    let cluster = Cluster::start_with(&["-n", "1", "--cwd", folder.path().to_str().unwrap()]);
    let helper = folder.path().join("helper_of_jobs.py");
    let job = file(
        cluster.home(),
        "job.py",
        "import helper_of_jobs\ndef f(x):\n    return helper_of_jobs.value()\n",
    );
    let script =
        file(cluster.home(), "script.py", "import helper_of_jobs\nprint(helper_of_jobs.value())\n");
    for value in 1..=3 {
        fs::write(&helper, format!("def value():\n    return {value}\n")).unwrap();
        assert_eq!(
            cluster.furlong(&["map", &format!("{job}:f"), "a", "b"]).ok(),
            format!("{value}\n{value}")
        );
        assert!(cluster.furlong(&["run", &script]).ok().ends_with(&value.to_string()));
    }
}

#[test]
fn a_daemon_keeps_no_file_of_the_shell_that_starts_it() {
    let home = Home::new();
    let lock = fs::File::create(home.path().join("lock")).unwrap();
    flock(&lock, FlockOperation::LockExclusive).unwrap();
    // A shell's descriptor 9 goes to its children.
    let mut shell = command("furlong", &[], &home);
    let furlong_path = shell.get_program().to_owned();
    shell = std::process::Command::new("sh");
    shell.args(["-c", "exec 9>&0; exec <&-; \"$0\" cluster start -n 1 --daemon"]).arg(furlong_path);
    shell.env("FURLONG_HOME", home.path()).env_remove("FURLONG_CAP").stdin(lock);
    let mut starts = Program::spawn("sh", shell);
    assert_eq!(starts.wait_exit(SOON).code(), Some(0), "{}", starts.stderr());
    let lock = fs::File::open(home.path().join("lock")).unwrap();
    let is_free = flock(&lock, FlockOperation::NonBlockingLockExclusive).is_ok();
    furlong(&["cluster", "stop"], &home).ok();
    assert!(is_free, "the daemon has the lock");
}
