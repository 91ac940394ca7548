//! Engines in the jobs of a real Slurm, and what its signals and limits do to them.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use furlong_tests::command::{command, furlong, status, wait_for_engines};
use furlong_tests::farm::Farm;
use furlong_tests::program::{Program, binary};
use furlong_tests::slurm::Slurm;
use furlong_tests::wait::{SOON, eventually};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tempfile::TempDir;

/// A job that is told to end has 3 s, and as long again to be looked at.
const ENDS_WITHIN: Duration = Duration::from_secs(30);
/// A limit of a minute is looked at every half minute, and the machine may be busy.
const BEYOND_THE_LIMIT: Duration = Duration::from_secs(150);

/// The command of a batch script that is an engine of this farm.
fn engine(farm: &Farm, flags: &str) -> String {
    let cap = farm.home().cluster().security().join("engine.cap.json");
    let python = std::env::var("FURLONG_TEST_PYTHON").unwrap_or_else(|_| "python3".to_owned());
    let engine = binary("engine").display().to_string();
    format!("{engine} --cap {} --python {python} {flags}", cap.display())
}

/// Submits a program that nobody waits for, and returns its name.
fn submit(flags: &[&str], program: &[&str], farm: &Farm) -> String {
    let args = [&["submit"], flags, &["--"], program].concat();
    furlong(&args, farm.home()).ok().trim().to_owned()
}

/// Returns the record of a task, as JSON.
fn record(task: &str, farm: &Farm) -> Value {
    let asked = furlong(&["explain", "--json", task], farm.home()).ok();
    serde_json::from_str(&asked).expect("a record is a JSON document")
}

/// Waits until a task has come to a state.
fn wait_for(task: &str, state: &str, farm: &Farm, deadline: Duration) {
    let is_there = eventually(deadline, || record(task, farm)["state"] == state);
    assert!(is_there, "{task} is not {state}: {}", record(task, farm));
}

/// A program that runs for long the first time, and ends at once when it runs again.
struct Twice {
    folder: TempDir,
}

impl Twice {
    fn new() -> Self {
        Self { folder: tempfile::tempdir().expect("a temporary folder") }
    }

    fn marker(&self) -> String {
        self.folder.path().join("again").display().to_string()
    }

    /// As the arguments of a program.
    fn program(&self) -> [String; 3] {
        let marker = self.marker();
        let run = format!("if test -e {marker}; then exit 0; fi; echo $$ > {marker}; sleep 600");
        ["sh".to_owned(), "-c".to_owned(), run]
    }

    /// As a Python function.
    fn function(&self) -> String {
        let (file, marker) = (self.folder.path().join("work.py"), self.marker());
        let source = format!(
            "import os, time\n\n\ndef work(item):\n    if os.path.exists('{marker}'):\n        \
             return 'again'\n    open('{marker}', 'w').close()\n    time.sleep(600)\n"
        );
        std::fs::write(&file, source).expect("the folder is ours");
        format!("{}:work", file.display())
    }

    /// Waits until it runs the first time, and returns the program's id.
    fn wait_until_it_runs(&self) -> String {
        let read = || std::fs::read_to_string(self.marker());
        assert!(eventually(SOON, || read().is_ok_and(|text| text.ends_with('\n'))));
        read().expect("it was read a moment ago").trim().to_owned()
    }
}

#[test]
fn an_engine_in_a_job_works_and_its_job_completes() {
    let Some(slurm) = Slurm::start(2) else { return };
    let farm = Farm::start();
    let script = format!("exec {}", engine(&farm, ""));
    let job = slurm.submit(&script, &["--cpus-per-task=2", "--time=30"], farm.home());
    wait_for_engines(1, farm.home());
    let task = ["submit", "--wait", "--", "sh", "-c", "echo $SLURM_JOB_ID"];
    assert_eq!(furlong(&task, farm.home()).ok(), job);
    let process = status(farm.home())["processes"][0].clone();
    assert_eq!(process["job"], job.as_str());
    let left_s = process["ends_in_ms"].as_u64().unwrap() / 1_000;
    assert!((1_700..1_786).contains(&left_s), "30 min but for 15 s, and not {left_s} s");
    let text = furlong(&["status"], farm.home()).ok();
    assert!(text.contains(&format!("    job     {job}, ends in 29m")), "{text}");
    let logs: Vec<_> = std::fs::read_dir(farm.home().cluster().log()).unwrap().flatten().collect();
    let is_of_job = |name: &str| name.starts_with(&format!("engine-{job}@"));
    assert!(logs.iter().any(|it| is_of_job(&it.file_name().to_string_lossy())), "{logs:?}");
    furlong(&["shutdown", "all"], farm.home()).ok();
    slurm.wait_for_state(&job, "COMPLETED", SOON);
}

#[test]
fn a_cancelled_job_gives_its_tasks_back() {
    let Some(slurm) = Slurm::start(2) else { return };
    // As the batch script's own process, and as a step.
    for call in ["exec", "srun"] {
        let farm = Farm::start();
        let script = format!("{call} {}", engine(&farm, "-n 2"));
        let first = slurm.submit(&script, &["--time=60", "--cpus-per-task=2"], farm.home());
        wait_for_engines(2, farm.home());
        let (program, function) = (Twice::new(), Twice::new());
        let line = program.program();
        let line: Vec<&str> = line.iter().map(String::as_str).collect();
        let task = submit(&["--retries", "0"], &line, &farm);
        program.wait_until_it_runs();
        let map = ["map", "--no-progress", "--retries", "0", &function.function(), "item"];
        let mut map = Program::spawn("furlong", command("furlong", &map, farm.home()));
        assert!(eventually(SOON, || Path::new(&function.marker()).exists()), "{}", map.stderr());
        let script = format!("exec {}", engine(&farm, ""));
        let second = slurm.submit(&script, &["--time=60"], farm.home());
        wait_for_engines(3, farm.home());
        slurm.run("scancel", &[&first]).ok();
        wait_for(&task, "succeeded", &farm, ENDS_WITHIN);
        assert_eq!(map.wait_exit(ENDS_WITHIN).code(), Some(0), "{}", map.stderr());
        assert_eq!(map.stdout(), "\"again\"");
        let explained = furlong(&["explain", &task], farm.home()).ok();
        assert!(explained.contains("engine stopped by its job"), "{explained}");
        slurm.run("scancel", &[&second]).ok();
    }
}

#[test]
fn walltime_loses_nothing() {
    let Some(slurm) = Slurm::start(1) else { return };
    let farm = Farm::start();
    let script = format!("exec {}", engine(&farm, ""));
    let first = slurm.submit(&script, &["--time=1"], farm.home());
    wait_for_engines(1, farm.home());
    let short = submit(&["--array", "1-5", "--retries", "0"], &["sleep", "0.2"], &farm);
    let long = submit(&["--time-request", "200", "--retries", "0"], &["true"], &farm);
    let twice = Twice::new();
    let line = twice.program();
    let line: Vec<&str> = line.iter().map(String::as_str).collect();
    let cut = submit(&["--retries", "0"], &line, &farm);
    twice.wait_until_it_runs();
    let waits = record(&long, &farm)["why"].as_str().unwrap_or_default().to_owned();
    assert!(waits.starts_with("no engine has 200 s left"), "{waits}");
    // It leaves by itself: Slurm has not killed it.
    slurm.wait_for_state(&first, "COMPLETED", BEYOND_THE_LIMIT);
    let second = slurm.submit(&script, &["--time=10"], farm.home());
    for task in [&cut, &long] {
        wait_for(task, "succeeded", &farm, ENDS_WITHIN);
    }
    assert_eq!(record(&cut, &farm)["losses"], 0);
    // They take turns with the others, so some run before the end and some after it.
    let done = || {
        let all = furlong(&["queue", "--all", "--json", &short], farm.home()).ok();
        all.matches("\"state\":\"succeeded\"").count()
    };
    assert!(eventually(ENDS_WITHIN, || done() == 5), "{} of 5 have succeeded", done());
    slurm.run("scancel", &[&second]).ok();
}

/// An engine of this machine, started with these flags.
fn start_engine(farm: &Farm, flags: &str) -> Program {
    let mut shell = Command::new("sh");
    shell.args(["-c", &format!("exec {}", engine(farm, flags))]);
    shell.env("FURLONG_HOME", farm.home().path()).env_remove("FURLONG_CAP");
    Program::spawn("engine", shell)
}

fn send(signal: Signal, to: &str) {
    let pid = to.parse().ok().and_then(Pid::from_raw).expect("it is a process's id");
    kill_process(pid, signal).expect("the process is there");
}

/// A task that runs until a file is there, on the only engine.
fn until_released(farm: &Farm, folder: &Path) -> String {
    let (begun, go) = (folder.join("begun"), folder.join("go"));
    let run =
        format!("touch {}; until test -e {}; do sleep 0.05; done", begun.display(), go.display());
    let task = submit(&["--retries", "0"], &["sh", "-c", &run], farm);
    assert!(eventually(SOON, || begun.exists()), "it does not begin");
    task
}

#[test]
fn two_sigterms_are_one_and_usr2_drains() {
    let twice = [Signal::TERM, Signal::TERM];
    let others = [[Signal::USR1; 2], [Signal::USR2; 2], [Signal::XCPU, Signal::TERM]];
    for signals in others.into_iter().chain([twice]) {
        let farm = Farm::start();
        let mut engine = start_engine(&farm, "");
        wait_for_engines(1, farm.home());
        let folder = tempfile::tempdir().unwrap();
        let task = until_released(&farm, folder.path());
        for signal in signals {
            send(signal, &engine.pid().to_string());
        }
        engine.wait_for_line("finishing what runs", SOON);
        std::fs::write(folder.path().join("go"), "").unwrap();
        wait_for(&task, "succeeded", &farm, SOON);
        assert_eq!(engine.wait_exit(SOON).code(), Some(0), "{}", engine.stderr());
    }
}

#[test]
fn what_is_killed_with_its_engine_is_given_back() {
    let farm = Farm::start();
    let mut first = start_engine(&farm, "");
    wait_for_engines(1, farm.home());
    let twice = Twice::new();
    let line = twice.program();
    let line: Vec<&str> = line.iter().map(String::as_str).collect();
    let task = submit(&["--retries", "0"], &line, &farm);
    let pid = twice.wait_until_it_runs();
    send(Signal::TERM, &pid);
    first.terminate();
    assert_eq!(first.wait_exit(SOON).code(), Some(0), "{}", first.stderr());
    let _second = start_engine(&farm, "");
    wait_for(&task, "succeeded", &farm, SOON);
    // Killed alone, it has failed.
    let alone = Twice::new();
    let line = alone.program();
    let line: Vec<&str> = line.iter().map(String::as_str).collect();
    let task = submit(&["--retries", "0"], &line, &farm);
    send(Signal::TERM, &alone.wait_until_it_runs());
    wait_for(&task, "failed", &farm, SOON);
}

#[test]
fn engines_leave_without_a_broker_or_without_work() {
    let mut farm = Farm::start();
    let mut idle = start_engine(&farm, "--idle-timeout 1");
    assert_eq!(idle.wait_exit(SOON).code(), Some(0), "{}", idle.stderr());
    assert!(idle.stderr().contains("there was nothing to run for 1 s"), "{}", idle.stderr());
    let mut alone = start_engine(&farm, "--broker-timeout 1");
    alone.wait_for_line("connected to", SOON);
    farm.broker().kill();
    assert_eq!(alone.wait_exit(SOON).code(), Some(0), "{}", alone.stderr());
    assert!(alone.stderr().contains("there was no broker for 1 s"), "{}", alone.stderr());
}

#[test]
fn a_capability_comes_on_standard_input_and_the_pipe_stays() {
    let farm = Farm::start();
    let cap = farm.home().cluster().security().join("engine.cap.json");
    let mut shell = Command::new("sh");
    let engine = binary("engine").display().to_string();
    let pipe =
        format!("(cat {}; cat) | {engine} --cap - --stop-with-stdin --job 7.pbs", cap.display());
    shell.args(["-c", &pipe]).env_remove("FURLONG_CAP");
    let home = tempfile::tempdir().unwrap();
    shell.env("FURLONG_HOME", home.path());
    let mut program = Program::spawn("engine", shell);
    wait_for_engines(1, farm.home());
    assert_eq!(status(farm.home())["processes"][0]["job"], "7.pbs");
    program.close_stdin();
    assert_eq!(program.wait_exit(SOON).code(), Some(0), "{}", program.stderr());
    let args = ["engine", "--cap", "-"];
    let mut command = command("furlong", &args, farm.home());
    command.stdin(std::process::Stdio::null());
    let mut nothing = Program::spawn("furlong", command);
    nothing.close_stdin();
    assert_eq!(nothing.wait_exit(SOON).code(), Some(1));
    assert!(nothing.stderr().contains("no whole JSON object"), "{}", nothing.stderr());
}

#[test]
fn an_address_that_swallows_everything_delays_nobody() {
    let farm = Farm::start();
    let swallows = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let cap = farm.home().cluster().security().join("engine.cap.json");
    let mut capability: Value =
        serde_json::from_str(&std::fs::read_to_string(&cap).unwrap()).unwrap();
    let first = format!("tcp://{}", swallows.local_addr().unwrap());
    capability["endpoints"].as_array_mut().unwrap().insert(0, first.into());
    std::fs::write(&cap, capability.to_string()).unwrap();
    let engine = start_engine(&farm, "");
    // Each address has 5 s.
    let line = engine.wait_for_line("connected to", Duration::from_secs(4));
    assert!(line.contains(&farm.port().to_string()), "{line}");
    // Nobody is at the only one, which is of this machine.
    let nowhere = format!("tcp://{}", swallows.local_addr().unwrap());
    drop(swallows);
    capability["endpoints"] = serde_json::json!([nowhere]);
    std::fs::write(&cap, capability.to_string()).unwrap();
    let engine = start_engine(&farm, "");
    engine.wait_for_line("a broker elsewhere has to be started with --location", SOON);
}
