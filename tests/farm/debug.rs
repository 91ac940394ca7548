//! `furlong debug`: the frames of a task that has failed, for who has its result alone.

use std::fs::File;

use bytes::Bytes;
use furlong_client::{Arguments, CallSpec, Client, DebugError, EngineId, EngineTargets, TaskId};
use furlong_tests::command::{Outcome, command, furlong};
use furlong_tests::work::{Work, python};
use serde_json::{Value, json};

/// A failed task whose result is kept; `name` is that of a file.
fn failed(work: &Work, name: &str) -> TaskId {
    let call = python("fail_first", [work.path(name).into(), json!(1)]);
    let task = work.submit(&call.keep(true));
    work.within(task).unwrap_err().report.id
}

fn debug(work: &Work, args: &[&str]) -> Outcome {
    furlong(&[&["debug"], args].concat(), work.farm().home())
}

/// A capability of this owner, and its file.
fn capability(work: &Work, role: &str, owner: &str) -> String {
    let path = work.path(&format!("{owner}.cap.json"));
    let args = ["cap", "issue", "--role", role, "--owner", owner, "-o", &path];
    furlong(&args, work.farm().home()).ok();
    path
}

#[test]
fn commands_are_run_in_the_frames_until_the_debugger_is_left() {
    let work = Work::start(1);
    let task = failed(&work, "ran").to_string();
    let shown = debug(&work, &[&task, "-c", "p runs + 41", "-c", "w"]).ok();
    assert!(shown.starts_with("42\n") && shown.contains("fail_first"), "{shown}");
    let file = work.path("commands");
    std::fs::write(&file, "l\nruns = 7\np runs\n").unwrap();
    let mut prompt = command("furlong", &["debug", &task], work.farm().home());
    let prompt = prompt.stdin(File::open(&file).unwrap()).output().unwrap();
    let shown = String::from_utf8_lossy(&prompt.stdout);
    assert!(prompt.status.success(), "{prompt:?}");
    assert!(shown.starts_with("ValueError: run 1\n> "), "{shown}");
    assert!(shown.contains("->") && shown.ends_with("\n7\n"), "{shown}");
    let gone = debug(&work, &[&task]).failed(1);
    assert!(gone.contains("are gone: its debugger was left"), "{gone}");
}

#[test]
fn other_work_ends_it_and_what_has_no_frames_is_said() {
    let work = Work::start(1);
    let first = failed(&work, "first").to_string();
    let second = failed(&work, "second").to_string();
    let gone = debug(&work, &[&first, "-c", "w"]).failed(1);
    assert!(gone.contains("begun other work since"), "{gone}");
    assert!(gone.contains("`--retries 0`") && gone.contains("engine 0 to itself"), "{gone}");
    // Of several the one is opened that has frames.
    let both = format!("{first},{second}");
    assert!(debug(&work, &[&both, "-c", "p path"]).ok().contains("second"));
    furlong(&["restart", "0"], work.farm().home()).ok();
    let gone = debug(&work, &[&second]).failed(1);
    assert!(gone.contains("or is another one now"), "{gone}");
    let well = work.submit(&python("square", [json!(3)]).keep(true));
    let well = work.within(well).unwrap().report.id.to_string();
    assert!(debug(&work, &[&well]).failed(1).contains("has succeeded"));
    let program = work.submit(&CallSpec::command(["false"]).keep(true));
    let program = work.within(program).unwrap_err().report.id.to_string();
    assert!(debug(&work, &[&program]).failed(1).contains("no frames are kept"));
    let holds = work.begin_hold("held");
    let why = debug(&work, &[&holds.id().to_string()]).failed(1);
    assert!(why.contains("has not ended; `furlong stack"), "{why}");
    work.release("held.release");
    work.within(holds).unwrap();
}

/// The engine's answer to a command with this token.
fn ask(work: &Work, client: &Client, token: &str) -> Value {
    let asked = json!({"token": token, "command": "p path", "sources": {}}).to_string();
    let call = CallSpec::python("furlong_worker:debug");
    let call = call.arguments(Arguments::Raw(vec![Bytes::from(asked)]));
    let group = client.multiengine(EngineTargets::Ids(vec![EngineId(0)]));
    let ends = work.within(async { group.call(&call).await.unwrap().wait_each().await });
    serde_json::from_slice(&ends.into_iter().next().unwrap().unwrap().data[0]).unwrap()
}

#[test]
fn code_that_fails_is_debugged_at_once_if_that_was_asked_for() {
    let work = Work::start(1);
    let file = work.path("commands");
    std::fs::write(&file, "p inner + 1\n").unwrap();
    let code = "def f(inner):\n    return inner / 0\nf(41)";
    let mut run = command("furlong", &["execute", "--debug", code], work.farm().home());
    let run = run.stdin(File::open(&file).unwrap()).output().unwrap();
    let shown = String::from_utf8_lossy(&run.stdout);
    assert_eq!(run.status.code(), Some(1), "{run:?}");
    assert!(shown.contains("-> return inner / 0") && shown.ends_with("\n42\n"), "{shown}");
    assert!(String::from_utf8_lossy(&run.stderr).contains("ZeroDivisionError"), "{run:?}");
}

#[test]
fn another_owner_gets_to_nothing_and_takes_nothing_away() {
    let work = Work::start(1);
    let task = failed(&work, "secret-name").to_string();
    for (role, owner) in [("client", "other"), ("admin", "root")] {
        let path = capability(&work, role, owner);
        let refused = debug(&work, &[&task, "-c", "p path", "--cap", &path]).failed(1);
        assert!(!refused.contains("secret-name"), "{refused}");
        let other = work.connect_with(path.as_ref());
        for token in ["", "0", &"0".repeat(32), &"f".repeat(200_000)] {
            let answer = ask(&work, &other, token);
            assert_eq!(answer["state"], "gone", "{answer}");
            assert!(!answer.to_string().contains("secret-name"), "{answer}");
        }
        work.within(other.close());
    }
    assert!(debug(&work, &[&task, "-c", "p path"]).ok().contains("secret-name"));
}

#[test]
fn the_debugger_of_the_library_answers_and_says_when_it_is_over() {
    let work = Work::start(1);
    let task = failed(&work, "ran");
    let fetched = work.fetch(task);
    let failure = fetched.result.unwrap().unwrap_err();
    let debugger = work.client().debugger(&failure).unwrap();
    assert!(work.within(debugger.place()).unwrap().text.starts_with("ValueError: run 1\n> "));
    let answer = work.within(debugger.run("p runs")).unwrap();
    assert_eq!((answer.text.as_str(), answer.is_open), ("1\n", true));
    let huge = work.within(debugger.run("p 'x' * 10_000_000")).unwrap();
    assert!(huge.text.len() < 100_000 && huge.text.contains("characters left out"));
    assert!(!work.within(debugger.run("q")).unwrap().is_open);
    let gone = work.within(debugger.run("p runs")).unwrap_err();
    assert!(matches!(gone, DebugError::Gone { engine: EngineId(0), .. }), "{gone}");
}
