//! Work that does not want to end: it does, it is said how, the slot goes on, and no process is
//! left.

use std::time::Duration;

use furlong_client::{
    Arguments, CallSpec, EngineId, EngineTargets, ErrorKind, TaskFailure, TaskFuture, TaskState,
};
use furlong_tests::command::{processes_of, status};
use furlong_tests::program::{Program, binary};
use furlong_tests::wait::{SOON, eventually};
use furlong_tests::work::{Work, noop, python};
use furlong_wire::token::Role;
use rustix::process::{Pid, Signal, kill_process, test_kill_process};
use serde_json::json;

const LIMIT: Duration = Duration::from_millis(300);

/// The kinds of code that no interrupt ends, as `unending` in `work.py` calls them.
const UNENDING: [&str; 8] =
    ["sum", "lock", "masked", "ignored", "caught", "stopped", "system", "children"];

/// A cluster that has run a Python task, so that no interpreter has to start within a limit.
fn warm() -> Work {
    let work = Work::start(1);
    work.run(&python("square", [json!(1)])).unwrap();
    work
}

fn unending(work: &Work, how: &str) -> CallSpec {
    python("unending", [json!(work.path(how)), json!(how)])
}

/// The interpreter that runs `unending`, once it does.
fn interpreter_of(work: &Work, how: &str) -> i32 {
    work.wait_for_lines(how, 1);
    work.lines(how)[0].parse().unwrap()
}

fn lives(pid: i32) -> bool {
    test_kill_process(Pid::from_raw(pid).unwrap()).is_ok()
}

/// Waits until an engine has no such task any more, and checks that it goes on with another
/// interpreter.
#[track_caller]
fn assert_ended_by_force(work: &Work, how: &str, task: &TaskFuture) {
    let pid = interpreter_of(work, how);
    work.within(task.stopped()).unwrap();
    assert!(eventually(SOON, || !lives(pid)), "{how}: the interpreter lives");
    let (item, next) = work.run(&python("who", [json!(3)])).unwrap().json::<(u32, i32)>().unwrap();
    assert!(item == 3 && next != pid, "{how}");
    assert_nothing_sleeps(work, how);
}

#[track_caller]
fn assert_nothing_sleeps(work: &Work, how: &str) {
    let sleeps = || {
        processes_of(work.farm().home().path())
            .into_iter()
            .filter(|(_, line)| line.contains("sleep 63"))
    };
    assert!(
        eventually(SOON, || sleeps().count() == 0),
        "{how}: {:?}",
        sleeps().collect::<Vec<_>>()
    );
}

#[track_caller]
fn assert_end(failure: &TaskFailure, state: TaskState, kind: ErrorKind, text: &str) {
    assert_eq!((failure.state(), failure.kind()), (Some(state), Some(kind)), "{failure}");
    assert!(failure.to_string().contains(text), "{failure}");
}

#[test]
fn python_that_no_interrupt_ends_is_killed_at_its_run_timeout() {
    let work = warm();
    for how in UNENDING {
        let mut task = work.submit(&unending(&work, how).run_timeout(LIMIT));
        let failure = work.within(&mut task).unwrap_err();
        assert_end(
            &failure,
            TaskState::TimedOut,
            ErrorKind::RunTimeout,
            "longer than its `run_timeout` of 300 ms",
        );
        assert_ended_by_force(&work, how, &task);
    }
}

#[test]
fn python_that_no_interrupt_ends_is_killed_by_a_forced_cancel() {
    let work = warm();
    for how in UNENDING {
        let mut task = work.submit(&unending(&work, how));
        interpreter_of(&work, how);
        task.cancel_force();
        let failure = work.within(&mut task).unwrap_err();
        assert_end(
            &failure,
            TaskState::Cancelled,
            ErrorKind::Cancelled,
            "cancelled while an engine had it",
        );
        assert_ended_by_force(&work, how, &task);
    }
}

#[test]
fn a_regular_expression_without_end_obeys_a_plain_cancel() {
    let work = warm();
    let mut task = work.submit(&python("backtrack", [json!(work.path("regex"))]));
    let pid = interpreter_of(&work, "regex");
    task.cancel();
    work.within(&mut task).unwrap_err();
    work.within(task.stopped()).unwrap();
    assert_eq!(
        work.run(&python("who", [json!(3)])).unwrap().json::<(u32, i32)>().unwrap(),
        (3, pid)
    );
}

/// The daemons that tests have started. They are the test's to end.
fn end_daemons(work: &Work, line: &str) -> usize {
    let found = processes_of(work.farm().home().path())
        .into_iter()
        .filter(|(_, found)| found.trim() == line);
    let pids = found.filter_map(|(pid, _)| Pid::from_raw(pid.cast_signed()));
    pids.filter(|pid| kill_process(*pid, Signal::KILL).is_ok()).count()
}

#[test]
fn a_process_with_a_session_of_its_own_outlives_its_task_and_keeps_nobody() {
    let work = warm();
    let mut task = work.submit(&unending(&work, "daemon").run_timeout(LIMIT));
    let failure = work.within(&mut task).unwrap_err();
    assert_end(&failure, TaskState::TimedOut, ErrorKind::RunTimeout, "was stopped");
    assert_ended_by_force(&work, "daemon", &task);
    assert_eq!(end_daemons(&work, "sleep 641"), 1);

    // It has the command's output pipes, and its task ends nevertheless.
    let begun = work.path("command.begun");
    let script = format!(
        "trap '' TERM; setsid sleep 642 & sleep 636 & echo said >&2; echo begun >{begun}; sleep 637"
    );
    let mut task = work.submit(&CallSpec::command(["sh", "-c", &script]));
    work.wait_for_lines("command.begun", 1);
    assert!(eventually(SOON, || processes_of(work.farm().home().path())
        .iter()
        .any(|(_, it)| it == "sleep 642 ")));
    task.cancel_force();
    let failure = work.within(&mut task).unwrap_err();
    assert_end(
        &failure,
        TaskState::Cancelled,
        ErrorKind::Cancelled,
        "cancelled while an engine had it",
    );
    work.within(task.stopped()).unwrap();
    assert_nothing_sleeps(&work, "command");
    assert_eq!(
        work.run(&CallSpec::command(["echo", "next"])).unwrap().report.stdout.text(),
        "next\n"
    );
    assert_eq!(end_daemons(&work, "sleep 642"), 1);
}

#[test]
fn a_rust_function_that_nothing_ends_is_over_for_its_client_and_keeps_its_slot_alone() {
    let mut work = Work::start(0);
    work.add_own_engine(env!("CARGO_BIN_EXE_own_engine"), 2);
    work.wait_for_processes(1);
    let files = ["held.begun", "held.release"].map(|name| json!(work.path(name)));
    let mut task = work.submit(&CallSpec::native("hold").arguments(Arguments::json(files.into())));
    work.wait_for_lines("held.begun", 1);
    task.cancel_force();
    let failure = work.within(&mut task).unwrap_err();
    assert_end(
        &failure,
        TaskState::Cancelled,
        ErrorKind::Cancelled,
        "cancelled while an engine had it",
    );
    let stuck = || work.status().engines.iter().map(|engine| engine.stuck).sum::<u64>();
    assert_eq!(stuck(), 1);
    work.run(&noop()).unwrap();
    work.release("held.release");
    work.within(task.stopped()).unwrap();
    assert_eq!(stuck(), 0);
}

#[test]
fn what_runs_out_of_memory_says_what_it_may_take_and_the_engine_goes_on() {
    let work = Work::start_with(&[], &[&["--memory", "256M"]]);
    let status = status(work.farm().home());
    let held_by = status["processes"][0]["environment"]["memory"].as_str().unwrap();
    assert!(held_by.starts_with("256 MiB for each"), "{held_by}");
    assert!(work.farm().home().engine_logs().contains("tasks may take 256 MiB for each"));

    let (_, pid) = work.run(&python("who", [json!(1)])).unwrap().json::<(u32, i32)>().unwrap();
    let failure = work.run(&CallSpec::code("bytearray(1 << 30)")).unwrap_err();
    let remote = failure.remote().unwrap();
    assert_eq!(
        (remote.type_name.as_str(), remote.message.as_str()),
        ("MemoryError", "it may take 256 MiB (`engine --memory`)")
    );
    let (_, next) = work.run(&python("who", [json!(1)])).unwrap().json::<(u32, i32)>().unwrap();
    assert_eq!(next, pid, "the interpreter goes on");

    let script = "echo no room >&2; kill -ABRT $$";
    let failure = work.run(&CallSpec::command(["sh", "-c", script])).unwrap_err();
    let text = "killed by SIGABRT; it may take 256 MiB (`engine --memory`)\nno room";
    assert_end(&failure, TaskState::Failed, ErrorKind::Exit, text);
}

/// An engine process with two slots and so much address space, as batch systems bound it.
fn bounded(kib: u32) -> Work {
    let mut work = Work::start(0);
    let cap = work.farm().home().cluster().capability(Role::Engine);
    let mut engine = std::process::Command::new("sh");
    engine.args(["-c", &format!("ulimit -v {kib}; exec \"$@\""), "sh"]).arg(binary("engine"));
    engine
        .args(["--stop-with-stdin", "-n", "2", "--cap"])
        .arg(cap)
        .env("FURLONG_HOME", work.farm().home().path());
    work.engines().push(Program::spawn("engine", engine));
    work.wait_for_processes(1);
    work
}

/// Code on one of its engines.
fn execute(work: &Work, engine: u32, code: &str) -> TaskFuture {
    let view = work.client().multiengine(EngineTargets::Ids(vec![EngineId(engine)]));
    work.within(view.execute(code)).unwrap().into_iter().next().unwrap()
}

/// Writes the head of an answer of 16 GiB to whichever of the worker's sockets takes it.
const DECLARES: &str = "import os, select, struct\nfor fd in (100, 101):\n    \
                        os.write(fd, struct.pack('<QQQQIBBxx', 1 << 34, 1, 0, 0, 1, 2, 0))\n";

#[test]
fn code_that_declares_16_gib_to_its_engine_harms_no_other_slot() {
    let work = bounded(8 << 20);
    work.within(execute(&work, 0, "1")).unwrap();
    let begun = work.path("begun");
    let mut task = execute(&work, 0, &format!("{DECLARES}open({begun:?}, 'w').write('begun\\n')"));
    work.wait_for_lines("begun", 1);
    work.within(execute(&work, 1, "2")).unwrap();
    assert!(!task.is_finished(), "its end is taken for a part of what was declared");
    task.cancel_force();
    work.within(&mut task).unwrap_err();
    work.within(execute(&work, 0, "3")).unwrap();
    work.within(execute(&work, 1, "4")).unwrap();
}

#[test]
fn code_that_sends_its_engine_more_than_that_has_room_for_loses_its_interpreter_alone() {
    let work = bounded(1300 << 10);
    work.within(execute(&work, 1, "x = 1")).unwrap();
    let floods = "block = bytes(1 << 20)\n\
                  while True:\n    select.select([], [101], [])\n    os.write(101, block)";
    let failure = work.within(execute(&work, 0, &format!("{DECLARES}{floods}"))).unwrap_err();
    let text = "there was no memory in the engine for what the interpreter has sent";
    assert_end(&failure, TaskState::Lost, ErrorKind::EngineLost, text);
    work.within(execute(&work, 1, "x")).unwrap();
    work.within(execute(&work, 0, "2")).unwrap();
}

#[test]
fn a_dead_interpreter_says_how_it_died_and_what_it_wrote_last() {
    let work = warm();
    let last = "import os, sys\nprint('the last words', file=sys.stderr)\n";
    for (how, text) in [
        ("os._exit(7)", "the interpreter ended with exit code 7\nthe last words"),
        (
            "os.abort()",
            "the interpreter was killed by SIGABRT\nthe last words\nFatal Python error: Aborted",
        ),
        (
            "os.kill(os.getpid(), 11)",
            "the interpreter was killed by SIGSEGV\nthe last words\nFatal Python error: Segment",
        ),
        ("os.kill(os.getpid(), 9)", "the interpreter was killed by SIGKILL"),
    ] {
        let failure = work.run(&CallSpec::code(format!("{last}{how}"))).unwrap_err();
        assert_end(&failure, TaskState::Lost, ErrorKind::EngineLost, text);
        assert!(failure.to_string().contains("the last words"), "{failure}");
    }
    assert_eq!(work.run(&python("square", [json!(3)])).unwrap().json::<u32>().unwrap(), 9);
}
