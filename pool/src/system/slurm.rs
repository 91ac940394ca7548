//! Slurm.

use super::{CancelWaiting, Commands, HOUR_S, NamedJobs, System, Words, sbatch};
use crate::keeper::{End, JobId, JobState, Listed};

/// Slurm, from 20.02 on.
pub static SLURM: System = System {
    name: "slurm",
    title: "Slurm",
    commands: Commands {
        submit: &["sbatch", "--parsable"],
        check: Some(&["sbatch", "--test-only"]),
        list_named: Some(&["squeue", "-h", "-r", "--me", "-t", "all", "-o", FORMAT, "-n"]),
        list_own: &["squeue", "-h", "-r", "--me", "-o", FORMAT],
        cancel_waiting: CancelWaiting::Selects(&["scancel", "--state=PENDING"]),
        cancel: &["scancel"],
    },
    script: SCRIPT,
    doubled: Some('%'),
    job_variable: "${SLURM_ARRAY_JOB_ID}_${SLURM_ARRAY_TASK_ID}",
    words: Words {
        states: &[
            ("PENDING", JobState::Pending),
            ("CONFIGURING", JobState::Pending),
            ("REQUEUED", JobState::Pending),
            ("REQUEUE_HOLD", JobState::Pending),
            ("REQUEUE_FED", JobState::Pending),
            ("RESV_DEL_HOLD", JobState::Pending),
            ("SPECIAL_EXIT", JobState::Pending),
            ("COMPLETED", JobState::Ended(End::Completed)),
            ("FAILED", JobState::Ended(End::Failed)),
            ("OUT_OF_MEMORY", JobState::Ended(End::Failed)),
            ("CANCELLED", JobState::Ended(End::Cancelled)),
            ("REVOKED", JobState::Ended(End::Cancelled)),
            ("TIMEOUT", JobState::Ended(End::TimeLimit)),
            ("DEADLINE", JobState::Ended(End::TimeLimit)),
            ("PREEMPTED", JobState::Ended(End::Preempted)),
            ("NODE_FAIL", JobState::Ended(End::NodeFailed)),
            ("BOOT_FAIL", JobState::Ended(End::NodeFailed)),
        ],
        none: &[],
        full: &[
            "AssocMaxSubmitJobLimit",
            "AssocGrpSubmitJobsLimit",
            "QOSMaxSubmitJobPerUserLimit",
            "MaxSubmitJobs",
            "temporarily unable to accept job",
            "Resource temporarily unavailable",
        ],
        // A name that is not known is that of a node which was taken away.
        forbidden: &[],
        no_node: &["node configuration is not available", "Invalid node name specified"],
        remedies: &[
            ("PartitionTimeLimit", "the partition allows less time; give a shorter --walltime"),
            ("Requested time limit is invalid", "give a shorter --walltime"),
            ("nvalid partition", "`sinfo` lists the partitions; name one with -- --partition=NAME"),
            ("nvalid account", "name an account of yours with -- --account=NAME"),
            ("nvalid qos", "name another with -- --qos=NAME"),
            (
                "BadConstraints",
                "no node has that much; ask for less with --per-job, --cpus or --memory",
            ),
            (
                "node configuration is not available",
                "no node has that much; ask for less with --per-job, --cpus or --memory",
            ),
            ("JobHeldUser", "it is held; release it with `scontrol release`"),
            ("JobHeldAdmin", "an administrator holds it"),
            ("PartitionDown", "the partition is down; name another with -- --partition=NAME"),
            ("JobLaunchFailure", "its node could not begin it; is the folder of logs there?"),
        ],
        prefaces: &[],
        variables: &["SLURM_", "SBATCH_", "SQUEUE_", "SCANCEL_"],
    },
    check_args: sbatch::check_args,
    check_template: sbatch::check_template,
    leave_out: Some(sbatch::leave_out),
    // MaxArraySize is 1001 where nobody has set it.
    array_max: 1_000,
    walltime_s: HOUR_S,
    is_of_pods: false,
    is_single: false,
    in_script: None,
    is_id: |id| id.chars().all(|char| char.is_ascii_alphanumeric() || "_[]-,%+".contains(char)),
    read_ids,
    read,
};

/// Id, state, nodes, time left, name, time of the start, reason. The reason is last, as it may have
/// any characters.
const FORMAT: &str = "%i|%T|%N|%L|%j|%S|%r";

const SCRIPT: &str = r#"#!/bin/bash
#SBATCH --job-name={{name}}
#SBATCH --array=1-{{jobs}}
#SBATCH --nodes=1
#SBATCH --ntasks=1
#SBATCH --cpus-per-task={{cpus}}
#SBATCH --mem={{memory_mb}}M
#SBATCH --time={{minutes}}
#SBATCH --signal=B:TERM@{{drain_s}}
#SBATCH --output="{{folder}}/%A_%a.log"
export FURLONG_HOME={{home}}
{{setup}}
exec {{engine}}
"#;

/// The elements of the array whose number is the last one of a line: a wrapper may say more.
fn read_ids(line: &str, jobs: u32) -> Option<Vec<String>> {
    let id = line.split(';').next().unwrap_or_default();
    let id = id.split(|char: char| !char.is_ascii_digit()).rfind(|word| !word.is_empty())?;
    Some((1..=jobs).map(|n| format!("{id}_{n}")).collect())
}

fn read(system: &System, text: &str) -> Result<NamedJobs, String> {
    let lines = text.lines().filter(|line| !line.trim().is_empty());
    lines.map(|line| read_line(system, line).ok_or_else(|| system.unknown(line))).collect()
}

fn read_line(system: &System, line: &str) -> Option<(Listed, String)> {
    let mut fields = line.trim().splitn(7, '|');
    let mut next = || fields.next();
    let (id, state, node, left) = (next()?, next()?, next()?, next()?);
    let (name, starts, reason) = (next()?, next()?, next()?);
    if !system.is_id(&JobId(id.to_owned())) || state.is_empty() {
        return None;
    }
    let state = system.state(state);
    let reason = if reason == "None" { "" } else { reason };
    let mut why = system.reason(reason);
    if state == JobState::Pending
        && let Some((day, time)) = starts.split_once('T')
    {
        let when = format!("starts about {day} {}", time.get(..5).unwrap_or(time));
        why = if why.is_empty() { when } else { format!("{why}; {when}") };
    }
    let left = if state == JobState::Running { left } else { "" };
    let (id, node, left) = (JobId(id.to_owned()), node.to_owned(), left.to_owned());
    Some((Listed { id, state, node, why, left }, name.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::keeper::Refusal;

    #[test]
    fn lists_of_slurm_are_read() {
        let text = "1_1|RUNNING|n1|59:59|furlong-a|2026-12-02T09:27:39|None\n\
                    1_2|PENDING||1:00:00|furlong-a|N/A|Resources\n\
                    1_3|PENDING||1:00:00|furlong-a|2026-12-02T14:10:00|PartitionTimeLimit\n\
                    3|FAILED|n1|1:00|b|2026-12-02T09:27:38|NonZeroExitCode\n\
                    4|SOMETHING_NEW|n1|1:00|b|N/A|a|b\n";
        let all = SLURM.read_list(text).unwrap();
        let states: Vec<JobState> = all.iter().map(|(job, _)| job.state).collect();
        let (running, pending) = (JobState::Running, JobState::Pending);
        let failed = JobState::Ended(End::Failed);
        assert_eq!(states, [running, pending, pending, failed, running]);
        assert_eq!((all[0].0.node.as_str(), all[0].0.left.as_str()), ("n1", "59:59"));
        assert_eq!((all[0].0.why.as_str(), all[1].0.why.as_str()), ("", "Resources"));
        let why = "PartitionTimeLimit: the partition allows less time; give a shorter --walltime; \
                   starts about 2026-12-02 14:10";
        assert_eq!(all[2].0.why, why);
        assert_eq!((all[4].0.why.as_str(), all[4].1.as_str()), ("a|b", "b"));
    }

    #[test]
    fn garbage_is_no_list() {
        assert_eq!(SLURM.read_list("\n"), Ok(Vec::new()));
        for garbage in ["hello", "1|RUNNING", "|RUNNING|n1|1|a|b|c", "Welcome|x|y|z|a|b|c"] {
            let error = SLURM.read_list(garbage).unwrap_err();
            assert!(error.starts_with("squeue answers what nobody understands: "), "{error}");
        }
    }

    #[test]
    fn the_id_of_a_submit_is_its_last_number() {
        let ids = |text: &str| SLURM.read_submit(text, 2).map(|ids| ids[1].0.clone());
        assert_eq!(ids("15\n"), Ok("15_2".to_owned()));
        assert_eq!(ids("15;cluster2\n"), Ok("15_2".to_owned()));
        assert_eq!(ids("Welcome 2 you\nSubmitted batch job 16\n"), Ok("16_2".to_owned()));
        assert!(matches!(ids("thanks"), Err(Refusal::Unclear(_))));
    }

    #[test]
    fn refusals_are_told_from_a_full_queue() {
        let full = SLURM.refusal("sbatch: error: QOSMaxSubmitJobPerUserLimit\nsbatch: error: no");
        assert_eq!(
            full,
            Refusal::Full("the queue is full: QOSMaxSubmitJobPerUserLimit".to_owned())
        );
        let none = SLURM.refusal("sbatch: error: Requested node configuration is not available");
        assert!(matches!(none, Refusal::NoNode(_)), "{none:?}");
        let refused = SLURM.refusal("sbatch: error: invalid partition specified: nope\nmore");
        let text = "sbatch refuses the job: invalid partition specified: nope; `sinfo` lists the \
                    partitions; name one with -- --partition=NAME";
        assert_eq!(refused, Refusal::Refused(text.to_owned()));
    }
}
