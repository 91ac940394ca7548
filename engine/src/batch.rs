//! The job of a batch system in which a process runs: its name, its processors and its end, as far
//! as its variables and the system's commands say them.

use std::ffi::OsStr;
use std::io::Read;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// Looks a variable up.
type Variable<'a> = &'a dyn Fn(&str) -> Option<String>;

/// The time that a command of a batch system may take.
const COMMAND_TIMEOUT: Duration = Duration::from_secs(10);
/// How often it is looked whether it has ended.
const COMMAND_POLL: Duration = Duration::from_millis(10);
/// Bytes of its output that are read.
const OUTPUT_BYTES_MAX: u64 = 64 * 1024;
/// Bytes of the file in which `HTCondor` describes a job.
const AD_BYTES_MAX: u64 = 1024 * 1024;

/// The variables of this process.
pub(crate) fn of_process(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

/// The name of the job as its system's own commands show it: of Slurm (`17`, of an array `15_2`),
/// PBS (`17.server`), Grid Engine (`17`, of an array `15.2`), LSF (`17`, `15[2]`) or `HTCondor`
/// (`17.0`).
pub(crate) fn job(variable: Variable<'_>) -> Option<String> {
    let of_array = |id: &str, index: &str| Some((variable(id)?, variable(index)?));
    if let Some((array, index)) = of_array("SLURM_ARRAY_JOB_ID", "SLURM_ARRAY_TASK_ID") {
        return Some(format!("{array}_{index}"));
    }
    if let Some(job) = variable("SLURM_JOB_ID").or_else(|| variable("PBS_JOBID")) {
        return Some(job);
    }
    // Grid Engine sets the second one always; others may set the first.
    if let Some((job, index)) = of_array("JOB_ID", "SGE_TASK_ID") {
        let is_array = index != "undefined";
        return Some(if is_array { format!("{job}.{index}") } else { job });
    }
    if let Some(job) = variable("LSB_JOBID") {
        let index = variable("LSB_JOBINDEX").filter(|index| index != "0");
        return Some(index.map_or(job.clone(), |index| format!("{job}[{index}]")));
    }
    job_of_ad(&read_at_most(std::fs::File::open(variable("_CONDOR_JOB_AD")?).ok()?, AD_BYTES_MAX))
}

/// The job that `HTCondor`'s description names.
fn job_of_ad(ad: &str) -> Option<String> {
    let value = |name: &str| {
        let mut lines = ad.lines().filter_map(|line| line.split_once('='));
        let (_, value) = lines.find(|(known, _)| known.trim().eq_ignore_ascii_case(name))?;
        value.trim().parse::<u64>().ok()
    };
    Some(format!("{}.{}", value("ClusterId")?, value("ProcId")?))
}

/// The processors that the job has for this process, if its system says so.
pub(crate) fn processors(variable: Variable<'_>) -> Option<usize> {
    let number = |name: &&str| variable(name)?.parse().ok().filter(|number| *number > 0);
    PROCESSORS.iter().filter_map(number).min()
}

/// The variables with a number of processors: of Slurm, Grid Engine, PBS and LSF.
const PROCESSORS: [&str; 4] = ["SLURM_CPUS_PER_TASK", "NSLOTS", "PBS_NCPUS", "LSB_DJOB_NUMPROC"];

/// The time that the job has left, if its system says so. It may ask a command of that, which may
/// take a while: call it where nobody waits for long.
pub(crate) fn time_left(variable: Variable<'_>, now_unix: Duration) -> Option<Duration> {
    if let Some(end) = variable("SLURM_JOB_END_TIME").and_then(|end| end.parse().ok()) {
        return Some(Duration::from_secs(end).saturating_sub(now_unix));
    }
    if let Some(job) = variable("SLURM_JOB_ID") {
        return slurm_time(output_of("squeue", &["-h", "-j", &job, "-o", "%L"])?.trim());
    }
    let job = variable("PBS_JOBID")?;
    pbs_time_left(&output_of("qstat", &["-f", &job])?)
}

/// A time as Slurm writes it: `1-02:03:04`, `02:03:04`, `03:04`. None of `UNLIMITED` and the like.
fn slurm_time(text: &str) -> Option<Duration> {
    let (days, clock) = text.split_once('-').unwrap_or(("0", text));
    Some(Duration::from_secs(days.parse::<u64>().ok()? * 86_400) + clock_time(clock)?)
}

/// `H:M:S`, `M:S` or `S`.
fn clock_time(text: &str) -> Option<Duration> {
    let parts = text.split(':');
    let seconds = parts.map(|part| part.parse::<u64>().ok());
    let add = |sum: Option<u64>, part: Option<u64>| sum?.checked_mul(60)?.checked_add(part?);
    seconds.fold(Some(0), add).map(Duration::from_secs)
}

/// The time that is left by `qstat -f`: as Torque says it, else the limit without what was used.
fn pbs_time_left(text: &str) -> Option<Duration> {
    let value = |name: &str| {
        let mut lines = text.lines().filter_map(|line| line.split_once(" = "));
        lines.find(|(known, _)| known.trim() == name).map(|(_, value)| value.trim())
    };
    if let Some(left) = value("Walltime.Remaining") {
        return left.parse().ok().map(Duration::from_secs);
    }
    let limit = clock_time(value("Resource_List.walltime")?)?;
    let used = value("resources_used.walltime").and_then(clock_time).unwrap_or_default();
    Some(limit.saturating_sub(used))
}

/// What a command prints, if it succeeds in time.
fn output_of(program: impl AsRef<OsStr>, args: &[&str]) -> Option<String> {
    let mut command = Command::new(program);
    command.args(args).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut child = command.spawn().ok()?;
    let stdout = child.stdout.take()?;
    let reader = std::thread::spawn(move || read_at_most(stdout, OUTPUT_BYTES_MAX));
    let deadline = Instant::now() + COMMAND_TIMEOUT;
    let status = loop {
        match child.try_wait() {
            Ok(None) if Instant::now() < deadline => std::thread::sleep(COMMAND_POLL),
            Ok(Some(status)) => break status,
            Ok(None) | Err(_) => {
                let _ = child.kill();
                let _ = child.wait();
                return None;
            }
        }
    };
    status.success().then(|| reader.join().ok()).flatten()
}

fn read_at_most(file: impl Read, bytes: u64) -> String {
    let mut read = Vec::new();
    // What was read until an error is looked at as it is.
    let _ = file.take(bytes).read_to_end(&mut read);
    String::from_utf8_lossy(&read).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn find<T>(of: impl Fn(Variable<'_>) -> T, set: &[(&str, &str)]) -> T {
        of(&|name: &str| {
            set.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned())
        })
    }

    #[test]
    fn jobs_have_the_names_that_their_systems_show() {
        let name = |set: &[(&str, &str)]| find(job, set);
        let array = [("SLURM_JOB_ID", "17"), ("SLURM_ARRAY_JOB_ID", "15")];
        assert_eq!(name(&array).as_deref(), Some("17"));
        let array = [array[0], array[1], ("SLURM_ARRAY_TASK_ID", "2")];
        assert_eq!(name(&array).as_deref(), Some("15_2"));
        assert_eq!(name(&[("PBS_JOBID", "12[3].pbs")]).as_deref(), Some("12[3].pbs"));
        let sge = |index| name(&[("JOB_ID", "7"), ("SGE_TASK_ID", index)]);
        assert_eq!((sge("undefined").as_deref(), sge("4").as_deref()), (Some("7"), Some("7.4")));
        let lsf = |index| name(&[("LSB_JOBID", "7"), ("LSB_JOBINDEX", index)]);
        assert_eq!((lsf("0").as_deref(), lsf("4").as_deref()), (Some("7"), Some("7[4]")));
        assert_eq!(name(&[("JOB_ID", "7")]), None, "anybody may set that");
        let ad = "ProcId = 3\nCmd = \"x=1\"\nClusterId = 88\n";
        assert_eq!(job_of_ad(ad).as_deref(), Some("88.3"));
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("ad");
        std::fs::write(&file, ad).unwrap();
        let condor = name(&[("_CONDOR_JOB_AD", file.to_str().unwrap())]);
        assert_eq!(condor.as_deref(), Some("88.3"));
    }

    #[test]
    fn the_least_number_of_processors_counts() {
        let of = |set: &[(&str, &str)]| find(processors, set);
        assert_eq!(of(&[("SLURM_CPUS_PER_TASK", "2"), ("NSLOTS", "8")]), Some(2));
        assert_eq!((of(&[("NSLOTS", "0")]), of(&[("PBS_NCPUS", "many")])), (None, None));
    }

    #[test]
    fn times_are_read_as_batch_systems_write_them() {
        let seconds = |text| slurm_time(text).map(|time| time.as_secs());
        assert_eq!(seconds("1-02:03:04"), Some(93_784));
        assert_eq!(
            (seconds("02:03:04"), seconds("9:59"), seconds("0:07")),
            (Some(7_384), Some(599), Some(7))
        );
        for none in ["UNLIMITED", "INVALID", "NOT_SET", "", "-", "1:x", "99999999999999999999"] {
            assert_eq!(seconds(none), None, "{none}");
        }
        let now = Duration::from_secs(1_000);
        let left = |at: &str| find(|it| time_left(it, now), &[("SLURM_JOB_END_TIME", at)]);
        assert_eq!(
            (left("1060"), left("10")),
            (Some(Duration::from_mins(1)), Some(Duration::ZERO))
        );
        let pbs = "Job Id: 1\n    resources_used.walltime = 00:10:00\n    \
                   Resource_List.walltime = 01:00:00\n";
        assert_eq!(pbs_time_left(pbs), Some(Duration::from_mins(50)));
        assert_eq!(pbs_time_left("  Walltime.Remaining = 90\n"), Some(Duration::from_secs(90)));
        assert_eq!(pbs_time_left(""), None);
    }

    #[test]
    fn a_command_that_fails_or_is_not_there_says_nothing() {
        assert_eq!(output_of("/no/such/program", &[]), None);
        assert_eq!(output_of("sh", &["-c", "echo 5; exit 1"]), None);
        assert_eq!(output_of("sh", &["-c", "echo 5"]).as_deref(), Some("5\n"));
    }
}
