//! Ctrl-C in a command whose code does not respond to it, and what becomes of variables.

use furlong_client::{CallSpec, EngineTargets, ReplyHeader};
use furlong_tests::command::{command, furlong};
use furlong_tests::program::Program;
use furlong_tests::wait::SOON;
use furlong_tests::work::Work;

/// `furlong execute` with code that adds a line to a file for each interrupt, and returns when
/// there is another file. Wherever the interrupt comes, it is caught.
fn stubborn(work: &Work, name: &str) -> Program {
    let (begun, release) = (work.path(name), work.path(&format!("{name}.release")));
    let code = format!(
        "import os, time\ndef note(text): open({begun:?}, 'a').write(text + '\\n')\nis_over = False\nnote('begun')\n\
         while not is_over:\n    try:\n        while not is_over: is_over = os.path.exists({release:?}); time.sleep(0.002)\n    \
         except BaseException: note('interrupted')"
    );
    let program =
        Program::spawn("furlong", command("furlong", &["execute", &code], work.farm().home()));
    work.wait_for_lines(name, 1);
    program
}

const HINT: &str = "furlong: it has not stopped yet; press Ctrl-C again to end it by force: then \
                    the variables of its interpreter are lost";

#[test]
fn ctrl_c_leaves_the_variables_of_earlier_commands_and_a_second_one_ends_by_force() {
    let work = Work::start(1);
    let execute = |code: &str| furlong(&["execute", code], work.farm().home());
    execute("x = 5").ok();
    let mut program = stubborn(&work, "first");
    program.interrupt();
    program.wait_for_line(HINT, SOON);
    assert_eq!(work.lines("first"), ["begun", "interrupted"]);
    assert!(program.is_running());
    work.release("first.release");
    assert_eq!(program.wait_exit(SOON).code(), Some(130));
    assert_eq!(execute("x").ok(), "[0] In [3]: x\n[0] Out[3]: 5", "the interpreter is the same");

    let mut program = stubborn(&work, "second");
    program.interrupt();
    program.wait_for_line(HINT, SOON);
    program.interrupt();
    program.wait_for_line("furlong: ending it by force", SOON);
    assert_eq!(program.wait_exit(SOON).code(), Some(130));
    assert_eq!(execute("y = 6; y").ok(), "[0] In [1]: y = 6; y\n[0] Out[1]: 6");
    let failed = execute("x").failed(1);
    assert!(
        failed.contains("NameError: name 'x' is not defined; if it was set before: the variables"),
        "{failed}"
    );
    assert!(failed.contains("killed to cancel a task: "), "{failed}");
}

#[test]
fn ctrl_c_ends_by_itself_nothing_that_ignores_it() {
    let work = Work::start(1);
    let mut program = stubborn(&work, "alone");
    program.interrupt();
    program.wait_for_line(HINT, SOON);
    program.interrupt();
    assert_eq!(program.wait_exit(SOON).code(), Some(130));
    assert_eq!(furlong(&["execute", "1"], work.farm().home()).ok(), "[0] In [1]: 1\n[0] Out[1]: 1");
}

#[test]
fn sigterm_ends_a_command_at_once() {
    let work = Work::start(1);
    furlong(&["execute", "x = 5"], work.farm().home()).ok();
    let mut program = stubborn(&work, "first");
    program.terminate();
    assert_eq!(program.wait_exit(SOON).code(), Some(130));
    work.release("first.release");
}

#[test]
fn ctrl_c_waits_for_no_broker_that_does_not_answer() {
    let mut work = Work::start(1);
    let begun = work.path("begun");
    let submit = ["submit", "--wait", "--", "sh", "-c", &format!("echo begun > {begun}; sleep 60")];
    let mut program = Program::spawn("furlong", command("furlong", &submit, work.farm().home()));
    work.wait_for_lines("begun", 1);
    work.farm_mut().broker().suspend();
    program.interrupt();
    program.wait_for_line("furlong: the broker does not answer", SOON);
    assert_eq!(program.wait_exit(SOON).code(), Some(130));
}

#[test]
fn what_is_submitted_right_after_a_forced_cancel_runs_in_the_next_interpreter() {
    let work = Work::start(1);
    let view = work.client().multiengine(EngineTargets::All);
    let execute = |code: &str| work.within(view.execute(code)).unwrap().into_iter().next().unwrap();
    work.within(execute("x = 5")).unwrap();
    let loops = "while True:\n    try: sum(range(10**13))\n    except BaseException: pass";
    let mut runs =
        execute(&format!("open({:?}, 'w').write('begun\\n')\n{loops}", work.path("begun")));
    let before =
        work.within(view.call(&CallSpec::code("x = 6"))).unwrap().into_iter().next().unwrap();
    work.wait_for_lines("begun", 1);
    runs.cancel_force();
    work.within(&mut runs).unwrap_err();
    let after = execute("'x' in globals()");
    let result = work.within(after).unwrap();
    assert!(
        matches!(result.header, ReplyHeader::Executed { repr: Some(repr), .. } if repr == "False")
    );
    let failure = work.within(before).unwrap_err();
    assert!(
        failure.to_string().contains("the interpreter was killed to cancel a task"),
        "{failure}"
    );
    work.within(runs.stopped()).unwrap();
}
