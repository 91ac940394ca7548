//! `furlong demo`: it shows what it says, checks itself, and leaves nothing.

use std::fs;
use std::process::Command;
use std::time::Duration;

use furlong_tests::command::{processes_of, repository};
use furlong_tests::home::Home;
use furlong_tests::program::{Program, binary};
use furlong_tests::wait::{SOON, eventually};

#[test]
fn the_demo_greets_counts_checks_and_leaves_nothing() {
    let folder = Home::new();
    let [home, temporary] = ["home", "tmp"].map(|name| folder.path().join(name));
    fs::create_dir(&home).unwrap();
    fs::create_dir(&temporary).unwrap();
    let text = folder.path().join("text.txt");
    fs::write(&text, "a farm of engines and again engines\n".repeat(2_000)).unwrap();
    let mut command = Command::new(binary("furlong"));
    command.arg("demo").arg(&text).args(["-n", "2"]).env("HOME", &home).env("TMPDIR", &temporary);
    command.env_remove("FURLONG_HOME").env_remove("FURLONG_CAP").current_dir(&home);
    let mut demo = Program::spawn("furlong demo", command);
    let code = demo.wait_exit(DEMO).code();
    let (stdout, stderr) = (demo.stdout(), demo.stderr());
    assert_eq!((code, stderr.as_str()), (Some(0), ""), "{stdout}");
    for line in [
        "hello from engine 0: Python 3.",
        "hello from engine 1: Python 3.",
        "14 000 words in 1 document, counted ",
        "The counts are those of one engine alone",
        "4000 engines",
        "2000 farm",
        "engine 1: ",
        "a round trip through broker and engine: ",
        "no-ops through the shared queue: ",
    ] {
        assert!(stdout.contains(line), "no {line:?} in:\n{stdout}");
    }
    let left = |folder| {
        fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect::<Vec<_>>()
    };
    assert_eq!((left(&home), left(&temporary)), (vec![], vec![]));
    assert!(
        eventually(SOON, || processes_of(folder.path()).is_empty()),
        "{:?}",
        processes_of(folder.path())
    );
}

#[test]
fn a_text_without_words_is_refused_before_anything_is_started() {
    let home = Home::new();
    let empty = home.path().join("empty.txt");
    fs::write(&empty, "\n").unwrap();
    let missing = home.path().join("missing.txt");
    for (file, expected) in [(&empty, "has no words to count"), (&missing, "cannot read")] {
        let mut demo = Program::start("furlong", &["demo", file.to_str().unwrap()], &home);
        assert_eq!(demo.wait_exit(SOON).code(), Some(1));
        assert!(
            demo.stderr().starts_with("furlong: ") && demo.stderr().contains(expected),
            "{}",
            demo.stderr()
        );
        assert_eq!(demo.stdout(), "");
    }
}

/// Two seconds of work, the measurements, and a build without optimisation on a busy machine.
const DEMO: Duration = Duration::from_secs(120);

#[test]
fn cargo_run_means_the_furlong_command_though_there_are_three_programs() {
    let manifest = fs::read_to_string(repository().join("cli/Cargo.toml")).unwrap();
    assert!(
        manifest.contains("default-run = \"furlong\""),
        "`cargo run --release -- demo` would not know what to run"
    );
}
