//! Engines that Open MPI starts: their ids are their ranks, and user code talks MPI. And pools of
//! them.

use std::path::Path;
use std::process::{Command, Stdio};

use furlong_tests::command::{furlong, processes_of, status, wait_for_engines};
use furlong_tests::farm::Farm;
use furlong_tests::program::{Program, binary};
use furlong_tests::site::{JOBS, Site};
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

fn has_mpirun() -> bool {
    let has = succeeds(Path::new("mpirun"), &["--version"]);
    if !has {
        println!("left out: there is no `mpirun`");
    }
    has
}

/// The variables by which Open MPI runs in a container, and on fewer cores than it has engines.
fn mpi_site() -> Site {
    let variables = [
        "OMPI_ALLOW_RUN_AS_ROOT",
        "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM",
        "OMPI_MCA_rmaps_base_oversubscribe",
    ];
    Site::on(variables.into_iter().map(|name| (name, "1".to_owned())).collect())
}

/// The processes of this name that belong to a home.
fn named(home: &Path, word: &str) -> Vec<u32> {
    let all = processes_of(home).into_iter();
    all.filter(|(_, line)| line.contains(word)).map(|(pid, _)| pid).collect()
}

#[test]
fn a_pool_of_mpirun_comes_back_when_a_rank_dies() {
    if !has_mpirun() {
        return;
    }
    let site = mpi_site();
    let mut cluster = site.start(&["mpi", "-n", "3", "--setup", "export SAID=hello"]);
    wait_for_engines(3, &site.home);
    let pool = site.wait_for("three engines", |pool| pool["engines"] == 3);
    assert_eq!(pool["jobs"][0]["job"], "mpirun");
    let said = site.run(&["submit", "--wait", "--", "sh", "-c", "echo $SAID"]).ok();
    assert_eq!(said, "hello");
    let refused = site.run(&["pool", "scale", "mpi", "2"]).failed(1);
    assert!(refused.contains("the engines of `mpirun` are one job"), "{refused}");
    let ranks = named(site.home.path(), "engine.cap.json");
    let rank = ranks.iter().copied().max().unwrap();
    kill_process(Pid::from_raw(rank.cast_signed()).unwrap(), Signal::KILL).unwrap();
    assert!(
        eventually(JOBS, || {
            let now = named(site.home.path(), "engine.cap.json");
            !now.is_empty() && now.iter().all(|pid| !ranks.contains(pid))
        }),
        "{}",
        site.keeper_log()
    );
    wait_for_engines(3, &site.home);
    cluster.terminate();
    cluster.wait_exit(JOBS);
    assert!(eventually(JOBS, || named(site.home.path(), "engine.cap.json").is_empty()));
}

#[test]
fn the_engines_of_mpirun_end_with_a_keeper_that_is_killed() {
    if !has_mpirun() {
        return;
    }
    let site = mpi_site();
    let mut cluster = site.start(&["mpi", "-n", "2"]);
    wait_for_engines(2, &site.home);
    let before = named(site.home.path(), "engine.cap.json");
    kill_process(site.keeper().unwrap(), Signal::KILL).unwrap();
    // The next keeper's engines take their place.
    assert!(eventually(JOBS, || {
        let now = named(site.home.path(), "engine.cap.json");
        !now.is_empty() && now.iter().all(|pid| !before.contains(pid))
    }));
    wait_for_engines(2, &site.home);
    cluster.terminate();
    cluster.wait_exit(JOBS);
    assert!(eventually(JOBS, || named(site.home.path(), "engine.cap.json").is_empty()));
}

#[test]
fn an_mpirun_that_fails_is_said_in_a_line() {
    let site = Site::on(Vec::new());
    site.fake("mpirun", "echo 'There are not enough slots' >&2; echo ------ >&2; exit 1");
    let wrong = ["cluster", "start", "--on", "mpi", "-n", "2", "--", "-np", "4"];
    let said = site.run(&wrong).failed(1);
    assert!(said.contains("leave `-np` out of the arguments for `mpirun`"), "{said}");
    let mut cluster = site.start(&["mpi", "-n", "2"]);
    site.wait_for("a reason", |pool| pool["state"] == "mpirun: There are not enough slots");
    cluster.terminate();
    cluster.wait_exit(JOBS);
}
