//! `furlong cluster run`: a cluster for the time of one command, in the job of a batch system.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;
use std::time::Duration;

use furlong_tests::command::{command, processes_of};
use furlong_tests::home::Home;
use furlong_tests::program::{Program, binary};
use furlong_tests::slurm::Slurm;
use furlong_tests::wait::{SOON, eventually};

/// The time limit for a cluster to come, to run something and to go.
const RUN: Duration = Duration::from_secs(60);

/// `furlong cluster run`, whose temporary files are in this home.
fn run(home: &Home, args: &[&str]) -> Command {
    let args = [&["cluster", "run"], args].concat();
    let mut command = command("furlong", &args, home);
    command.env("TMPDIR", home.path());
    for name in ["SLURM_JOB_ID", "PBS_NODEFILE", "PE_HOSTFILE", "LSB_HOSTS", "NSLOTS"] {
        command.env_remove(name);
    }
    command
}

/// A shell command that calls `furlong`.
fn furlong(args: &str) -> String {
    format!("'{}' {args}", binary("furlong").display())
}

fn is_clean(home: &Home) -> bool {
    let mut entries = fs::read_dir(home.path()).unwrap().flatten();
    let is_left = entries.any(|it| it.file_name().to_string_lossy().starts_with("furlong-run-"));
    !is_left && processes_of(home.path()).is_empty()
}

#[test]
fn cluster_run_gives_the_exit_code_of_its_command() {
    let home = Home::new();
    let script = format!("{} && exit 7", furlong("submit --array 1-3 --wait -- echo hello"));
    let mut program =
        Program::spawn("furlong", run(&home, &["-n", "2", "--", "sh", "-c", &script]));
    assert_eq!(program.wait_exit(RUN).code(), Some(7), "{}", program.stderr());
    assert_eq!(program.stdout(), "hello\nhello\nhello");
    assert!(is_clean(&home), "{:?}", processes_of(home.path()));
    let mut program = Program::spawn("furlong", run(&home, &["-n", "1", "--", "/no/such/command"]));
    assert_eq!(program.wait_exit(RUN).code(), Some(1));
    assert!(
        program.stderr().contains("`/no/such/command` cannot be run: "),
        "{}",
        program.stderr()
    );
    assert!(is_clean(&home), "{:?}", processes_of(home.path()));
}

#[test]
fn cluster_run_that_is_told_to_stop_ends_its_command() {
    let home = Home::new();
    let script = "trap 'exit 5' TERM; echo begun; while :; do sleep 0.1; done";
    let mut program = Program::spawn("furlong", run(&home, &["-n", "1", "--", "sh", "-c", script]));
    program.wait_for_line("begun", RUN);
    program.terminate();
    assert_eq!(program.wait_exit(RUN).code(), Some(5), "{}", program.stderr());
    assert!(is_clean(&home), "{:?}", processes_of(home.path()));
}

#[test]
fn cluster_run_reaches_all_machines_of_a_pbs_job() {
    let home = Home::new();
    let told = home.path().join("told");
    let ssh = home.path().join("ssh");
    let script = format!(
        "#!/bin/bash\necho \"$@\" >> '{}'\nwhile [ $# -gt 2 ]; do shift; done\n\
         [ \"$1\" != down ] || {{ echo 'no route to down' >&2; exit 255; }}\nexec sh -c \"$2\"\n",
        told.display()
    );
    fs::write(&ssh, script).unwrap();
    fs::set_permissions(&ssh, fs::Permissions::from_mode(0o755)).unwrap();
    let here = furlong_host::machine_name();
    let nodes = home.path().join("nodes");
    let with_nodes = |names: &str, args: &[&str]| {
        fs::write(&nodes, names).unwrap();
        let mut command = run(&home, args);
        let path = std::env::var("PATH").unwrap();
        command.env("PATH", format!("{}:{path}", home.path().display()));
        command.env("PBS_NODEFILE", &nodes);
        Program::spawn("furlong", command)
    };
    let ids = furlong("ids | wc -w");
    let names = format!("{here}\nnode2\nnode2\n");
    let mut program = with_nodes(&names, &["--", "sh", "-c", &ids]);
    assert_eq!(program.wait_exit(RUN).code(), Some(0), "{}", program.stderr());
    assert_eq!(program.stdout().trim(), "3");
    let said = fs::read_to_string(&told).unwrap();
    assert!(said.contains(" node2 ") && said.contains("engine --cap - --stop-with-stdin -n 2"));
    assert!(eventually(SOON, || is_clean(&home)), "{:?}", processes_of(home.path()));
    let mut program = with_nodes(&format!("{here}\ndown\n"), &["--", "true"]);
    assert_eq!(program.wait_exit(RUN).code(), Some(1), "{}", program.stderr());
    let said = program.stderr();
    assert!(said.contains("engines of another machine do not start: no route to down"), "{said}");
    let mut program = with_nodes(&format!("{here}\n-oProxyCommand=x\n"), &["--", "true"]);
    assert_eq!(program.wait_exit(RUN).code(), Some(1));
    assert!(program.stderr().contains("`-oProxyCommand=x` is no machine's name"));
}

#[test]
fn cluster_run_reaches_all_nodes_of_a_slurm_job() {
    let Some(slurm) = Slurm::start(2) else { return };
    let home = Home::new();
    let tasks = furlong("submit --array 1-4 --wait -- sh -c 'sleep 0.5; echo $SLURMD_NODENAME'");
    let work = home.path().join("work.sh");
    fs::write(&work, format!("{tasks}\nsrun -N1 -n1 --overlap echo nested\nexit 9\n")).unwrap();
    let script =
        format!("{} -n 2 -- sh {}\necho ended with $?", furlong("cluster run"), work.display());
    let job = slurm.submit(&script, &["-N2", "--time=5"], &home);
    slurm.wait_for_state(&job, "COMPLETED", RUN);
    let output = slurm.output(&job);
    for part in ["n1\n", "n2\n", "nested\n", "ended with 9\n"] {
        assert!(output.contains(part), "{part}: {output}");
    }
}
