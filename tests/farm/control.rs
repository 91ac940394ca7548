//! The control of a running engine: to finish, to interrupt, to start anew. And what it is started
//! with.

use std::path::Path;

use furlong_tests::command::{command, file, furlong, repository, status, wait_for_engines};
use furlong_tests::farm::Farm;
use furlong_tests::home::Home;
use furlong_tests::program::Program;
use furlong_tests::session::RawSession;
use furlong_tests::wait::{SOON, eventually};
use furlong_wire::ids::EngineId;
use furlong_wire::message::{FromClient, Reply, ReplyBody, Restart, Signal, ToClient};
use furlong_wire::token::Role;

/// An engine with further arguments.
fn engine(args: &[&str], home: &Home) -> Program {
    let cap = home.cluster().security().join("engine.cap.json");
    let args = [&["--cap", cap.to_str().unwrap()], args].concat();
    Program::spawn("engine", command("engine", &args, home))
}

/// Runs code on all engines, and waits until it has begun on these.
fn begin(code: &str, engines: &[u32], home: &Home) -> Program {
    let folder = tempfile::tempdir_in(home.path()).unwrap();
    let begun = folder.path();
    let code =
        format!("import time\nopen(f'{}/{{engine_id}}', 'w').close()\n{code}", begun.display());
    let executes = Program::spawn("furlong", command("furlong", &["execute", &code], home));
    let all = || engines.iter().all(|id| begun.join(id.to_string()).exists());
    assert!(eventually(SOON, all), "the code does not begin: {}", executes.stderr());
    executes
}

/// Asks the broker for something, and waits for its answer.
fn ask(request: FromClient, farm: &Farm) -> ReplyBody {
    let mut session = RawSession::client(farm.port(), &farm.capability(Role::Client));
    assert!(session.send(&[request]));
    loop {
        let messages = session.receive::<ToClient>().expect("the broker answers");
        let reply = messages.into_iter().find_map(|message| match message {
            ToClient::Reply(Reply { request: 1, body }) => Some(body),
            _ => None,
        });
        if let Some(body) = reply {
            return body;
        }
    }
}

#[test]
fn sigterm_lets_an_engine_finish_what_it_runs() {
    let farm = Farm::start();
    let mut engine = engine(&[], farm.home());
    wait_for_engines(1, farm.home());
    let release = farm.home().path().join("release");
    let code =
        format!("import os\nwhile not os.path.exists({release:?}): time.sleep(0.01)\n'finished'");
    let mut executes = begin(&code, &[0], farm.home());
    engine.terminate();
    engine.wait_for_line("finishing what runs", SOON);
    std::fs::write(release, "").unwrap();
    assert_eq!(executes.wait_exit(SOON).code(), Some(0), "{}", executes.stderr());
    assert!(executes.stdout().ends_with("Out[1]: 'finished'"), "{}", executes.stdout());
    assert_eq!(engine.wait_exit(SOON).code(), Some(0), "{}", engine.stderr());
    assert!(engine.stderr().contains("leaving: terminated"), "{}", engine.stderr());
}

#[test]
fn a_second_sigterm_or_the_time_that_was_set_ends_an_engine_at_once() {
    let farm = Farm::start();
    for (id, args) in [(0, &[][..]), (1, &["--drain-timeout", "0.2"])] {
        let mut engine = engine(args, farm.home());
        wait_for_engines(1, farm.home());
        let _executes = begin("time.sleep(600)", &[id], farm.home());
        engine.terminate();
        engine.wait_for_line("finishing what runs", SOON);
        // The first ones are the same as the one before; a later one is not.
        let ends = || {
            engine.terminate();
            !engine.is_running()
        };
        assert!(!args.is_empty() || eventually(SOON, ends), "{}", engine.stderr());
        assert_eq!(engine.wait_exit(SOON).code(), Some(0), "{}", engine.stderr());
        wait_for_engines(0, farm.home());
    }
}

#[test]
fn a_signal_interrupts_what_runs_and_a_restart_ends_it_with_its_namespace() {
    let farm = Farm::start();
    let _engine = engine(&["-n", "2"], farm.home());
    wait_for_engines(2, farm.home());
    furlong(&["execute", "x = 5"], farm.home()).ok();
    let mut executes = begin("time.sleep(600)", &[0, 1], farm.home());
    let engines = vec![EngineId(0), EngineId(1)];
    let signal = Signal { request: 1, engines, signal: 2 };
    assert_eq!(ask(FromClient::Signal(signal), &farm), ReplyBody::Done);
    assert_eq!(executes.wait_exit(SOON).code(), Some(1));
    assert!(executes.stderr().contains("KeyboardInterrupt"), "{}", executes.stderr());
    assert!(
        furlong(&["execute", "x"], farm.home()).ok().contains("Out[3]: 5"),
        "the namespaces are still there"
    );

    let mut executes = begin("time.sleep(600)", &[0, 1], farm.home());
    let restart = Restart { request: 1, engines: vec![EngineId(0)] };
    assert_eq!(ask(FromClient::Restart(restart), &farm), ReplyBody::Done);
    let signal = Signal { request: 1, engines: vec![EngineId(1)], signal: 15 };
    assert_eq!(ask(FromClient::Signal(signal), &farm), ReplyBody::Done);
    assert_eq!(executes.wait_exit(SOON).code(), Some(1));
    let stderr = executes.stderr();
    assert!(
        stderr.contains("restarted on request") && stderr.contains("killed by SIGTERM"),
        "{stderr}"
    );
    let gone = furlong(&["execute", "x"], farm.home()).failed(1);
    assert_eq!(gone.matches("NameError").count(), 2, "{gone}");
    // An engine that has no interpreter answers too.
    let restart = Restart { request: 1, engines: vec![EngineId(0), EngineId(1)] };
    assert_eq!(ask(FromClient::Restart(restart), &farm), ReplyBody::Done);
}

#[test]
fn an_engine_shows_and_gives_its_tasks_what_it_was_started_with() {
    let farm = Farm::start();
    let folder = farm.home().path().join("work");
    std::fs::create_dir(&folder).unwrap();
    let folder = folder.canonicalize().unwrap();
    let args = [
        ["-n", "2"],
        ["--label", "gpu,big"],
        ["--label", "big"],
        ["--env", "GREETING=a=b"],
        ["--cwd", folder.to_str().unwrap()],
        ["--id", "7"],
    ];
    let mut program = command("engine", &[&args.concat()[..], &["--cuda"]].concat(), farm.home());
    program
        .env("CUDA_VISIBLE_DEVICES", "4,6")
        .env("SLURM_JOB_ID", "99")
        .env_remove("OMP_NUM_THREADS");
    let _engine = Program::spawn("engine", program);
    wait_for_engines(2, farm.home());
    assert_eq!(furlong(&["ids", "--json"], farm.home()).ok(), "[7, 8]".replace(' ', ""));
    let code = "import os\n(os.environ['GREETING'], os.environ['CUDA_VISIBLE_DEVICES'], \
                os.getcwd(), 'rank' in globals())";
    let executed = furlong(&["execute", code], farm.home()).ok();
    let folder = folder.display();
    for gpu in [4, 6] {
        assert!(executed.contains(&format!("('a=b', '{gpu}', '{folder}', False)")), "{executed}");
    }
    let process = status(farm.home())["processes"][0].clone();
    assert_eq!(process["labels"], serde_json::json!(["big", "gpu"]));
    assert_eq!(process["cwd"], folder.to_string());
}

#[test]
fn what_an_engine_cannot_do_with_its_flags_is_one_line() {
    let home = Home::new();
    let path = file(&home, "no-folder", "");
    for (args, says) in [
        (&["--cwd", path.as_str()][..], "name a directory that exists here with --cwd"),
        (&["--label", ""], "is no label"),
        (&["--python", "/no/such/python"], "is not an executable file"),
    ] {
        let mut program = Program::spawn("engine", command("engine", args, &home));
        assert_eq!(program.wait_exit(SOON).code(), Some(1));
        let stderr = program.stderr();
        assert!(stderr.lines().count() == 1 && stderr.contains(says), "{stderr}");
    }
    for args in [["--env", "NOTHING"], ["--env", "=x"], ["--drain-timeout", "-1"], ["--id", "x"]] {
        let mut program = Program::spawn("engine", command("engine", &args, &home));
        assert_eq!(program.wait_exit(SOON).code(), Some(2), "{args:?}");
    }
    assert!(Path::new(&path).exists() && repository().exists());
}
