//! Programs as tasks: how they end, what they are given, what comes back, and that nothing of them
//! is left.

use std::fs;
use std::future::Future;
use std::time::{Duration, Instant};

use bytes::Bytes;
use furlong_client::{
    Arguments, CallSpec, Client, ErrorKind, Function, ReplyHeader, TaskFuture, TaskOutcome,
    TaskState,
};
use furlong_tests::command::{engine, furlong, processes_of, wait_for_engines};
use furlong_tests::farm::Farm;
use furlong_tests::home::Home;
use furlong_tests::measure::rss_peak_bytes;
use furlong_tests::program::Program;
use furlong_tests::wait::{SOON, eventually};
use furlong_wire::call::CommandSpec;
use furlong_wire::message::Runtime;
use furlong_wire::token::Role;

/// A broker, engines, and a client.
struct Commands {
    // The client leaves, and the engines end, before the farm's home is removed.
    client: Client,
    runtime: tokio::runtime::Runtime,
    engines: Vec<Program>,
    farm: Farm,
}

fn sh(script: &str) -> CommandSpec {
    CommandSpec { argv: ["sh", "-c", script].map(Into::into).into(), ..CommandSpec::default() }
}

fn call(spec: CommandSpec) -> CallSpec {
    CallSpec::new(Runtime::Command, Function::Command(Box::new(spec)))
}

impl Commands {
    fn start(engines: usize) -> Self {
        let farm = Farm::start();
        let engines: Vec<Program> = (0..engines).map(|_| engine(farm.home())).collect();
        wait_for_engines(engines.len(), farm.home());
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let capability = farm.home().cluster().capability(Role::Client);
        let client = runtime
            .block_on(Client::builder().capability(capability).wait(SOON).connect())
            .unwrap();
        Self { client, runtime, engines, farm }
    }

    fn within<T>(&self, future: impl Future<Output = T>) -> T {
        self.runtime
            .block_on(async { tokio::time::timeout(DEADLINE, future).await })
            .expect("it ends in time")
    }

    fn run_call(&self, call: &CallSpec) -> TaskOutcome {
        self.within(async { self.client.tasks().call(call).await.unwrap().await })
    }

    fn run(&self, spec: CommandSpec) -> TaskOutcome {
        self.run_call(&call(spec))
    }

    fn ok(&self, spec: CommandSpec) -> String {
        let result = self.run(spec).unwrap_or_else(|failure| panic!("{failure}"));
        assert_eq!(
            result.header,
            ReplyHeader::Exited { code: Some(0), signal: None, written: None }
        );
        result.report.stdout.text()
    }

    fn submit(&self, spec: CommandSpec) -> TaskFuture {
        self.within(async { self.client.tasks().call(&call(spec)).await }).unwrap()
    }

    /// Runs a program that does not succeed, and gives the kind and the text.
    fn fails(&self, spec: CommandSpec) -> (ErrorKind, String) {
        let failure = self.run(spec).unwrap_err();
        assert_eq!(failure.state(), Some(TaskState::Failed), "{failure}");
        (failure.kind().unwrap(), failure.to_string())
    }

    fn running(&self, begins: &str) -> usize {
        processes_of(self.farm.home().path())
            .iter()
            .filter(|(_, line)| line.starts_with(begins))
            .count()
    }

    fn path(&self, name: &str) -> String {
        self.farm.home().path().join(name).to_str().unwrap().to_owned()
    }

    #[track_caller]
    fn assert_none_is_left(&self, begins: &str) {
        let gone = eventually(SOON, || self.running(begins) == 0);
        assert!(gone, "{:?}", processes_of(self.farm.home().path()));
    }
}

const DEADLINE: Duration = Duration::from_secs(60);

#[test]
fn a_program_ends_as_its_exit_code_or_signal_says() {
    let farm = Commands::start(1);
    assert_eq!(farm.ok(sh("echo out; echo err >&2")), "out\n");
    let (kind, text) = farm.fails(sh("echo why >&2; exit 3"));
    assert_eq!((kind, text.as_str()), (ErrorKind::Exit, "exit code 3\nwhy (engine 0)"));
    let (kind, text) = farm.fails(sh("kill -KILL $$"));
    assert_eq!((kind, text.as_str()), (ErrorKind::Exit, "killed by SIGKILL (engine 0)"));
    let argv = ["no-such-program"].map(Into::into).into();
    let (kind, text) = farm.fails(CommandSpec { argv, ..CommandSpec::default() });
    assert_eq!(kind, ErrorKind::Remote);
    assert!(
        text.starts_with(
            "CommandError: there is no program `no-such-program` in the engine's PATH"
        ),
        "{text}"
    );
    let (_, text) = farm.fails(CommandSpec { cwd: Some("/no/such/folder".into()), ..sh("") });
    assert!(text.contains("`/no/such/folder`") && text.contains("no such directory"), "{text}");
}

#[test]
fn a_program_gets_its_input_variables_directory_and_files() {
    let farm = Commands::start(1);
    let large: Vec<u8> = (0..1_500_000u32).map(|i| b'a' + (i % 26) as u8).collect();
    let with_input =
        call(sh("cksum; wc -c")).arguments(Arguments::Raw(vec![Bytes::from(large.clone())]));
    let printed = farm.run_call(&with_input).unwrap().report.stdout.text();
    let counts: Vec<&str> = printed.split_whitespace().collect();
    assert_eq!(&counts[1..], ["1500000", "0"], "all of it, and then its end");
    let folder = farm.farm.home().path().canonicalize().unwrap();
    let spec = CommandSpec {
        env: [("GREETING".into(), "hello world".into())].into(),
        cwd: Some(folder.as_os_str().into()),
        task: Some(7),
        item: Some("a b".into()),
        stderr: Some("err-{task}-{engine}".into()),
        ..sh("pwd; echo \"$GREETING,$FURLONG_TASK,$FURLONG_ITEM,$FURLONG_ENGINE\"; echo aside >&2")
    };
    assert_eq!(farm.ok(spec), format!("{}\nhello world,7,a b,0\n", folder.display()));
    assert_eq!(fs::read_to_string(farm.path("err-7-0")).unwrap(), "aside\n");
    let (_, text) =
        farm.fails(CommandSpec { stdout: Some(farm.path("none/out").into()), ..sh("") });
    assert!(text.contains("there is no folder") && text.contains("make it first"), "{text}");
}

#[test]
fn a_flood_of_output_costs_the_engine_no_memory_and_its_ends_come_back() {
    let mut farm = Commands::start(1);
    let pid = farm.engines[0].pid();
    let result = farm.run(sh("echo first; head -c 200000000 /dev/zero; echo last")).unwrap();
    let stdout = result.report.stdout;
    assert_eq!(stdout.total_bytes(), 200_000_011);
    assert!(stdout.start().starts_with(b"first\n") && stdout.end().ends_with(b"last\n"));
    assert_eq!((stdout.start().len(), stdout.end().len()), (1 << 20, 1 << 20));
    // One that writes for ever, until it is cancelled: the engine answers meanwhile.
    let endless = farm.submit(sh("exec yes"));
    assert!(eventually(SOON, || farm.running("yes") == 1));
    wait_for_engines(1, farm.farm.home());
    endless.cancel();
    assert_eq!(farm.within(endless).unwrap_err().state(), Some(TaskState::Cancelled));
    farm.assert_none_is_left("yes");
    assert!(rss_peak_bytes(pid) < 96 << 20, "{} MiB", rss_peak_bytes(pid) >> 20);
    assert!(farm.engines[0].is_running());
}

#[test]
fn a_thousand_commands_keep_their_numbers() {
    let farm = Commands::start(2);
    let submit = |task: u64| {
        farm.submit(CommandSpec { task: Some(task), ..sh("echo $((FURLONG_TASK * FURLONG_TASK))") })
    };
    let tasks: Vec<TaskFuture> = (1..=1_000).map(submit).collect();
    let mut engines = [0; 2];
    for (number, task) in (1u64..).zip(tasks) {
        let report = farm.within(task).unwrap().report;
        assert_eq!(report.stdout.text(), format!("{}\n", number * number));
        engines[report.engine.unwrap().0 as usize] += 1;
    }
    assert!(engines.iter().all(|count| *count > 100), "{engines:?}");
}

#[test]
fn a_grandchild_neither_keeps_a_task_nor_survives_it() {
    let farm = Commands::start(1);
    farm.ok(sh("sleep 601 & sleep 602 & echo started"));
    farm.assert_none_is_left("sleep");
    farm.fails(sh("sleep 601 & exit 1"));
    farm.assert_none_is_left("sleep");
}

#[test]
fn a_cancel_ends_all_of_a_command_and_the_next_one_runs() {
    let farm = Commands::start(1);
    let tasks = [
        sh("sleep 601 & sleep 602"),
        sh("exec sleep 603"),
        sh("trap '' TERM; sleep 604 & wait; sleep 605"),
    ];
    for (running, spec) in [2, 1, 1].into_iter().zip(tasks) {
        let task = farm.submit(spec);
        assert!(eventually(SOON, || farm.running("sleep") == running));
        task.cancel();
        let failure = farm.within(task).unwrap_err();
        assert_eq!(
            (failure.state(), failure.kind()),
            (Some(TaskState::Cancelled), Some(ErrorKind::Cancelled))
        );
        farm.assert_none_is_left("sleep");
        farm.assert_none_is_left("sh ");
    }
    assert_eq!(farm.ok(sh("echo alive")), "alive\n");
}

#[test]
fn nothing_of_a_command_survives_an_engine_that_is_killed() {
    let mut farm = Commands::start(1);
    let task = farm.submit(sh("sleep 601 & sleep 602"));
    assert!(eventually(SOON, || farm.running("sleep") == 2));
    farm.engines[0].kill();
    farm.assert_none_is_left("sleep");
    farm.assert_none_is_left("sh ");
    task.cancel();
    // The reaper itself has gone as well.
    farm.assert_none_is_left("/bin/sh");
}

#[test]
fn nothing_of_it_survives_even_in_the_first_moment() {
    let mut farm = Commands::start(0);
    for round in 0..8 {
        let mut engine = engine(farm.farm.home());
        wait_for_engines(1, farm.farm.home());
        let task = farm.submit(sh("exec sleep 601"));
        // The first child is the reaper, which is there just before the command begins; the command
        // itself is there before the reaper is told of it.
        let children = format!("/proc/{0}/task/{0}/children", engine.pid());
        let has_begun = || match round % 2 {
            0 => !fs::read_to_string(&children).unwrap_or_default().is_empty(),
            _ => farm.running("s") > 0,
        };
        let deadline = Instant::now() + SOON;
        while !has_begun() {
            assert!(Instant::now() < deadline, "it does not begin");
        }
        engine.kill();
        task.cancel();
        farm.assert_none_is_left("sleep");
        farm.assert_none_is_left("sh ");
        farm.engines.push(engine);
    }
}

#[test]
fn an_engine_that_leaves_takes_its_commands_along() {
    let mut farm = Commands::start(1);
    let task = farm.submit(sh("sleep 601 & sleep 602"));
    assert!(eventually(SOON, || farm.running("sleep") == 2));
    farm.engines[0].close_stdin();
    farm.engines[0].wait_exit(SOON);
    farm.assert_none_is_left("sleep");
    task.cancel();
}

#[test]
fn bench_compares_the_farm_with_a_bare_loop() {
    let home = Home::new();
    let printed =
        furlong(&["bench", "command", "--local", "1", "--count", "12", "--json"], &home).ok();
    let figures: serde_json::Value = serde_json::from_str(&printed).unwrap();
    assert_eq!(
        (&figures["count"], &figures["engines"], &figures["program"]),
        (&12.into(), &1.into(), &"true".into())
    );
    let [farm, bare, ratio] =
        ["farm_per_s", "bare_per_s", "ratio"].map(|field| figures[field].as_f64().unwrap());
    assert!(farm > 0.0 && bare > 0.0 && (farm / bare - ratio).abs() < 1e-6, "{figures}");
}
