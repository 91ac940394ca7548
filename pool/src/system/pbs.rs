//! PBS: `OpenPBS`, PBS Professional and Torque, by what they have in common.

use super::{CancelWaiting, Commands, HOUR_S, NamedJobs, System, Words, qsub};
use crate::keeper::{End, JobId, JobState, Listed};

/// PBS. Its arrays are written one way in PBS Professional and another way in Torque, so that each
/// job is submitted by itself; and a job is known by its number alone, as the name of its server
/// is not everywhere the same.
pub static PBS: System = System {
    name: "pbs",
    title: "PBS",
    commands: Commands {
        submit: &["qsub"],
        check: None,
        list_named: None,
        list_own: &["qstat", "-f"],
        cancel_waiting: CancelWaiting::Asks(&["qdel"]),
        cancel: &["qdel"],
    },
    script: SCRIPT,
    doubled: None,
    job_variable: "${PBS_JOBID%%.*}",
    words: Words {
        states: &[
            ("Q", JobState::Pending),
            ("H", JobState::Pending),
            ("W", JobState::Pending),
            ("T", JobState::Pending),
            ("M", JobState::Ended(End::Gone)),
            ("C", JobState::Ended(End::Completed)),
            ("F", JobState::Ended(End::Completed)),
            ("X", JobState::Ended(End::Completed)),
        ],
        none: &[],
        full: &[
            "would exceed",
            "Maximum number of jobs already in queue",
            "maximum number of jobs",
        ],
        forbidden: &[],
        no_node: &[],
        remedies: &[
            ("nknown queue", "`qstat -Q` lists the queues; name one with -- -q NAME"),
            ("nvalid account", "name an account of yours with -- -A NAME"),
            ("resource limits", "ask for less, or for another queue with -- -q NAME"),
            ("Insufficient amount of resource", "no node has that much free"),
        ],
        prefaces: &["qsub: "],
        variables: &["PBS_JOB", "PBS_O_", "PBS_NODEFILE", "PBS_ARRAY", "PBS_DPREFIX"],
    },
    check_args: |args| qsub::PBS.check_args(args),
    check_template: |text| qsub::PBS.check_template(text),
    leave_out: None,
    array_max: 8,
    walltime_s: HOUR_S,
    is_of_pods: false,
    is_single: true,
    in_script: None,
    is_id: |id| id.chars().all(|char| char.is_ascii_digit() || "[]".contains(char)),
    read_ids,
    read,
};

const SCRIPT: &str = r#"#!/bin/bash
#PBS -S /bin/bash
#PBS -N {{name}}
#PBS -j oe
#PBS -o /dev/null
#PBS -l walltime={{clock}}
#PBS -l nodes=1:ppn={{cpus}}
#PBS -l mem={{memory_mb}}mb
exec >>{{logs}}/${PBS_JOBID%%.*}.log 2>&1
cd "$PBS_O_WORKDIR" || exit
export FURLONG_HOME={{home}}
{{setup}}
exec {{engine}}
"#;

/// The job that a line is about which is nothing but its id: `12`, `12.server.example.org`.
fn read_ids(line: &str, _jobs: u32) -> Option<Vec<String>> {
    let (id, server) = line.split_once('.').unwrap_or((line, "server"));
    let is_server = |char: char| char.is_ascii_alphanumeric() || ".-_:".contains(char);
    let is_id = id.chars().all(|char| char.is_ascii_digit()) && !id.is_empty();
    (is_id && server.chars().all(is_server)).then(|| vec![id.to_owned()])
}

fn read(system: &System, text: &str) -> Result<NamedJobs, String> {
    let mut jobs: Vec<Record<'_>> = Vec::new();
    for line in text.lines().filter(|line| !line.trim().is_empty()) {
        if let Some(id) = line.strip_prefix("Job Id:") {
            jobs.push(Record { id: id.trim(), attributes: Vec::new(), is_indented: false });
            continue;
        }
        let job = jobs.last_mut().ok_or_else(|| system.unknown(line))?;
        job.read_line(line).ok_or_else(|| system.unknown(line))?;
    }
    let read = |job: &Record<'_>| job.listed(system).ok_or_else(|| system.unknown(job.id));
    jobs.iter().map(read).collect()
}

/// A job in a list.
struct Record<'a> {
    id: &'a str,
    attributes: Vec<(&'a str, String)>,
    /// True if attributes begin with spaces: a line that begins with a tab goes on with the one
    /// before.
    is_indented: bool,
}

impl<'a> Record<'a> {
    fn read_line(&mut self, line: &'a str) -> Option<()> {
        if line.starts_with('\t') && self.is_indented {
            self.attributes.last_mut()?.1.push_str(line.trim());
            return Some(());
        }
        self.is_indented = line.starts_with(' ');
        let is_within = line.starts_with([' ', '\t']);
        let (name, value) = line.trim().split_once(" =").filter(|_| is_within)?;
        self.attributes.push((name, value.trim().to_owned()));
        Some(())
    }

    fn value(&self, name: &str) -> Option<&str> {
        let found = self.attributes.iter().find(|(known, _)| *known == name);
        found.map(|(_, value)| value.as_str())
    }

    fn listed(&self, system: &System) -> Option<(Listed, String)> {
        let id = self.id.split('.').next()?.to_owned();
        let status = self.value("exit_status").or_else(|| self.value("Exit_status"));
        let state = match (system.state(self.value("job_state")?), status.map(str::parse::<i32>)) {
            (JobState::Ended(End::Completed), Some(Ok(0)) | None) => {
                JobState::Ended(End::Completed)
            }
            // 256 and the number of the signal that ended it; below 0, what the server did.
            (JobState::Ended(End::Completed), Some(Ok(271 | 265 | ..0))) => {
                JobState::Ended(End::Cancelled)
            }
            (JobState::Ended(End::Completed), Some(_)) => JobState::Ended(End::Failed),
            (state, _) => state,
        };
        let node = self.value("exec_host").unwrap_or_default();
        let node = node.split(['/', '+', ':']).next().unwrap_or_default().to_owned();
        let why = if state == JobState::Pending {
            system.reason(self.value("comment").unwrap_or_default())
        } else {
            String::new()
        };
        let listed = Listed { id: JobId(id), state, node, why, left: String::new() };
        Some((listed, self.value("Job_Name")?.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::keeper::Refusal;

    const PROFESSIONAL: &str = "Job Id: 12.pbs01\n    Job_Name = furlong-default-f0f733b3-pbs\n    \
        Job_Owner = u@login\n    resources_used.walltime = 00:00:10\n    job_state = R\n    \
        exec_host = n1/0*2\n    Submit_arguments = -l select=1 -N a\n    \
        Variable_List = PBS_O_HOME=/u,PBS_O_PATH=/usr/local/bin:/usr/bin:/bin:/a = b,\n\
        \tPBS_O_WORKDIR = /u\n    comment = Job run at Wed Dec 02\n\n\
        Job Id: 13[].pbs01\n    Job_Name = other\n    job_state = B\n\n\
        Job Id: 14.pbs01\n    Job_Name = furlong-default-f0f733b3-pbs\n    job_state = Q\n    \
        comment = Not Running: Insufficient amount of resource: ncpus\n";
    const TORQUE: &str = "Job Id: 15.server.example.org\n    Job_Name = a\n    job_state = C\n    \
        exit_status = 271\n\nJob Id: 16.server.example.org\n    Job_Name = a\n    job_state = C\n    \
        exit_status = 1\n";
    /// The Torque commands that come with Slurm.
    const OVER_SLURM: &str = "Job Id:\t17\n\tJob_Name = a\n\tJob_Owner = u@login\n\tjob_state = R\n\
        \texec_host = n1/1\n\n";

    #[test]
    fn lists_of_all_kinds_of_pbs_are_read() {
        let read = PBS.read_list(&format!("{PROFESSIONAL}{TORQUE}{OVER_SLURM}")).unwrap();
        let state = |at: usize| (read[at].0.id.0.as_str(), read[at].0.state);
        assert_eq!(state(0), ("12", JobState::Running));
        assert_eq!(read[0].0.node, "n1");
        assert_eq!(state(1), ("13[]", JobState::Running));
        assert_eq!(state(2), ("14", JobState::Pending));
        assert!(read[2].0.why.ends_with("ncpus: no node has that much free"), "{}", read[2].0.why);
        assert_eq!(state(3), ("15", JobState::Ended(End::Cancelled)));
        assert_eq!(state(4), ("16", JobState::Ended(End::Failed)));
        assert_eq!((state(5), read[5].0.node.as_str()), (("17", JobState::Running), "n1"));
        assert_eq!(PBS.read_list("\n"), Ok(Vec::new()));
    }

    #[test]
    fn what_is_no_list_is_none() {
        for garbage in [
            "Welcome!\n",
            "Job Id: 12.pbs01\n    Job_Name = a\n",
            "Job Id: -Wforce\n    Job_Name = a\n    job_state = R\n",
            "Job Id: ../../x\n    Job_Name = a\n    job_state = R\n",
            "Job Id: 12\n    Job_Name = a\n    job_state = R\nNow with 20 % off = today\n",
        ] {
            let error = PBS.read_list(garbage).unwrap_err();
            assert!(error.starts_with("qstat answers what nobody understands"), "{error}");
        }
    }

    #[test]
    fn the_id_of_a_submit_is_a_line_of_its_own() {
        let id = |text: &str| PBS.read_submit(text, 1).map(|ids| ids[0].0.clone());
        assert_eq!(id("12.pbs01\n"), Ok("12".to_owned()));
        assert_eq!(id("Welcome 2 all\n13.server.example.org\nThank you.\n"), Ok("13".to_owned()));
        for garbage in ["", "hello", "12[].pbs01", "-W12", "job 12 is made", "1;reboot"] {
            assert!(matches!(id(garbage), Err(Refusal::Unclear(_))), "{garbage}");
        }
    }

    #[test]
    fn refusals_are_told_from_a_full_queue() {
        let full = PBS.refusal("qsub: would exceed limit on number of jobs user u may queue");
        assert!(matches!(full, Refusal::Full(_)), "{full:?}");
        let text = "qsub refuses the job: Unknown queue; `qstat -Q` lists the queues; name one \
                    with -- -q NAME";
        assert_eq!(PBS.refusal("qsub: Unknown queue\n"), Refusal::Refused(text.to_owned()));
    }
}
