//! Engines that Open MPI starts: their ids are their ranks, and user code talks MPI.

use std::path::Path;
use std::process::{Command, Stdio};

use furlong_tests::command::{furlong, processes_of, status, wait_for_engines};
use furlong_tests::farm::Farm;
use furlong_tests::program::{Program, binary};
use furlong_tests::wait::{SOON, eventually};
use rustix::process::{Pid, Signal, kill_process};

const RANKS: usize = 4;

/// `mpirun`, which puts each engine into a process group of its own: they are ended one by one.
struct Mpirun<'a> {
    program: Program,
    home: &'a Path,
}

impl Drop for Mpirun<'_> {
    fn drop(&mut self) {
        self.program.kill();
        let engines = || {
            let all = processes_of(self.home).into_iter();
            all.filter(|(_, line)| line.contains("engine.cap.json"))
                .map(|(pid, _)| pid)
                .collect::<Vec<_>>()
        };
        for pid in engines() {
            // One that has ended meanwhile is what is wanted.
            let _ = Pid::from_raw(pid.cast_signed()).map(|pid| kill_process(pid, Signal::KILL));
        }
        eventually(SOON, || engines().is_empty());
    }
}

fn succeeds(program: &Path, args: &[&str]) -> bool {
    let quiet = Command::new(program)
        .args(args)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    quiet.is_ok_and(|status| status.success())
}

#[test]
fn under_mpirun_ids_are_ranks_and_user_code_talks_mpi() {
    let python = std::env::var_os("FURLONG_TEST_PYTHON").unwrap_or_else(|| "python3".into());
    let has_all = succeeds(Path::new("mpirun"), &["--version"])
        && succeeds(Path::new(&python), &["-c", "import mpi4py"]);
    if !has_all {
        println!("left out: there is no `mpirun`, or no mpi4py in {}", python.display());
        return;
    }
    let farm = Farm::start();
    let cap = farm.home().cluster().security().join("engine.cap.json");
    let mut command = Command::new("mpirun");
    command
        .args(["--allow-run-as-root", "--oversubscribe", "-n", &RANKS.to_string()])
        .arg(binary("engine"));
    command.arg("--cap").arg(cap).arg("--python").arg(&python).args(["--label", "mpi"]);
    command.env("FURLONG_HOME", farm.home().path()).env_remove("FURLONG_CAP");
    let _mpirun = Mpirun { program: Program::spawn("mpirun", command), home: farm.home().path() };
    wait_for_engines(RANKS, farm.home());
    let code = "from mpi4py import MPI\nworld = MPI.COMM_WORLD\n\
                (engine_id, rank, world.Get_rank(), world.Get_size(), world.allreduce(rank))";
    let executed = furlong(&["execute", "--json", code], farm.home()).ok();
    let values: Vec<_> = executed
        .lines()
        .map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap())
        .collect();
    let expected: Vec<_> =
        (0..RANKS).map(|rank| format!("({rank}, {rank}, {rank}, {RANKS}, 6)")).collect();
    let reprs: Vec<_> = values.iter().filter_map(|value| value["value"].as_str()).collect();
    assert_eq!(reprs, expected, "{executed}");
    let status = status(farm.home());
    let processes = status["processes"].as_array().unwrap();
    assert!(processes.iter().all(|process| process["labels"][0] == "mpi"), "{status}");
}
