//! Engines in the jobs of a real Slurm, and what its signals and limits do to them.

use furlong_tests::command::{furlong, wait_for_engines};
use furlong_tests::farm::Farm;
use furlong_tests::program::binary;
use furlong_tests::slurm::Slurm;
use furlong_tests::wait::SOON;

/// The line of a batch script that becomes an engine of this farm.
fn engine(farm: &Farm, flags: &str) -> String {
    let cap = farm.home().cluster().security().join("engine.cap.json");
    format!("exec {} --cap {} {flags}", binary("engine").display(), cap.display())
}

#[test]
fn an_engine_in_a_job_works_and_its_job_completes() {
    let Some(slurm) = Slurm::start(2) else { return };
    let farm = Farm::start();
    let job = slurm.submit(&engine(&farm, ""), &["--cpus-per-task=2"], farm.home());
    wait_for_engines(1, farm.home());
    let said =
        furlong(&["submit", "--wait", "--", "sh", "-c", "echo $SLURM_JOB_ID"], farm.home()).ok();
    assert_eq!(said, job);
    furlong(&["shutdown", "all"], farm.home()).ok();
    slurm.wait_for_state(&job, "COMPLETED", SOON);
}
