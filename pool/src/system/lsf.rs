//! LSF.

use serde::Deserialize;

use super::{CancelWaiting, Commands, HOUR_S, NamedJobs, System, Words, qsub};
use crate::keeper::{End, JobId, JobState, Listed};

/// LSF, from 10.1 with its second fix pack on: that is the first whose `bjobs` answers in JSON.
pub static LSF: System = System {
    name: "lsf",
    title: "LSF",
    commands: Commands {
        submit: &["bsub"],
        check: None,
        list_named: Some(&["bjobs", "-a", "-o", FIELDS, "-json", "-J"]),
        list_own: &["bjobs", "-o", FIELDS, "-json"],
        cancel_waiting: CancelWaiting::Asks(&["bkill"]),
        cancel: &["bkill"],
    },
    script: SCRIPT,
    doubled: None,
    job_variable: "${LSB_JOBID}[${LSB_JOBINDEX}]",
    words: Words {
        states: &[
            ("PEND", JobState::Pending),
            ("PSUSP", JobState::Pending),
            ("WAIT", JobState::Pending),
            ("DONE", JobState::Ended(End::Completed)),
            ("EXIT", JobState::Ended(End::Failed)),
            ("ZOMBI", JobState::Ended(End::NodeFailed)),
        ],
        none: &["No unfinished job found", "No job found", "> is not found"],
        // The command itself tries again, for a long time.
        full: &["Pending job threshold reached"],
        forbidden: &[],
        no_node: &[],
        remedies: &[
            ("No such queue", "`bqueues` lists the queues; name one with -- -q NAME"),
            ("cannot use the queue", "`bqueues -u $USER` lists yours; name one with -- -q NAME"),
            ("RUNLIMIT", "give a shorter --walltime"),
            ("resource requirements not satisfied", "ask for less, or for another queue"),
            ("suspended by the user while pending", "release it with `bresume JOB`"),
        ],
        prefaces: &[],
        variables: &["BSUB_", "LSB_BATCH", "LSB_BJOBS", "LSB_INTERACTIVE", "LSB_JOB", "LSB_SUB"],
    },
    check_args: |args| qsub::LSF.check_args(args),
    check_template: |text| qsub::LSF.check_template(text),
    leave_out: Some(leave_out),
    // MAX_JOB_ARRAY_SIZE is that where nobody has set it.
    array_max: 1_000,
    walltime_s: HOUR_S,
    is_of_pods: false,
    is_single: false,
    in_script: None,
    is_id: |id| id.chars().all(|char| char.is_ascii_digit() || "[]".contains(char)),
    read_ids,
    read,
};

const FIELDS: &str = "jobid jobindex stat exec_host job_name exit_reason pend_reason";

const SCRIPT: &str = r#"#!/bin/bash
#BSUB -J "{{name}}[1-{{jobs}}]"
#BSUB -o /dev/null
#BSUB -W {{minutes}}
#BSUB -n {{cpus}} -R "span[hosts=1]"
#BSUB -M {{memory_mb}}MB
exec >>{{logs}}/"${LSB_JOBID}[${LSB_JOBINDEX}].log" 2>&1
export FURLONG_HOME={{home}}
{{setup}}
exec {{engine}}
"#;

/// Several `-R` are all true of the hosts that LSF chooses.
fn leave_out(args: &[String], _template: &str, nodes: &[String]) -> Vec<String> {
    let hosts: Vec<String> = nodes.iter().map(|node| format!("hname!='{node}'")).collect();
    [args, &["-R".to_owned(), format!("select[{}]", hosts.join(" && "))]].concat()
}

/// The elements of an array, of which the command says `Job <7> is submitted to queue <normal>.`
fn read_ids(line: &str, jobs: u32) -> Option<Vec<String>> {
    let (id, rest) = line.strip_prefix("Job <")?.split_once('>')?;
    let is_ours = id.parse::<u64>().is_ok() && rest.starts_with(" is submitted to ");
    is_ours.then(|| (1..=jobs).map(|n| format!("{id}[{n}]")).collect())
}

/// An answer of `bjobs`.
#[derive(Deserialize)]
#[serde(rename_all = "UPPERCASE")]
struct Answer {
    records: Vec<Record>,
}

/// A job in it.
#[derive(Deserialize)]
#[serde(rename_all = "UPPERCASE")]
struct Record {
    jobid: String,
    jobindex: String,
    stat: String,
    exec_host: String,
    job_name: String,
    exit_reason: String,
    pend_reason: String,
}

fn read(system: &System, text: &str) -> Result<NamedJobs, String> {
    let first = text.lines().find(|line| !line.trim().is_empty()).unwrap_or("nothing");
    // A wrapper may say something before it and behind it.
    let begins = if text.starts_with('{') { Some(0) } else { text.find("\n{").map(|at| at + 1) };
    let answer = begins.and_then(|at| {
        serde_json::Deserializer::from_str(&text[at..]).into_iter::<Answer>().next()?.ok()
    });
    let answer = answer.ok_or_else(|| system.unknown(first))?;
    Ok(answer.records.iter().map(|record| record.listed(system)).collect())
}

impl Record {
    fn listed(&self, system: &System) -> (Listed, String) {
        // An element of an array is `7[2]`, or `7` with an index beside it, and so is its name.
        let before_index = |text: &str| text.split('[').next().unwrap_or_default().to_owned();
        let number = before_index(&self.jobid);
        let id = match self.jobindex.as_str() {
            "" | "0" => number,
            index => format!("{number}[{index}]"),
        };
        let state = match system.state(&self.stat) {
            JobState::Ended(End::Failed) => JobState::Ended(end(&self.exit_reason)),
            state => state,
        };
        let why = match state {
            JobState::Pending => system.reason(self.pend_reason.trim_end_matches(';')),
            JobState::Ended(_) => self.exit_reason.clone(),
            JobState::Running => String::new(),
        };
        // `4*n1:2*n2`, or `n1:n1`.
        let node = self.exec_host.split(':').next().unwrap_or_default();
        let node = node.rsplit('*').next().unwrap_or_default().to_owned();
        let listed = Listed { id: JobId(id), state, node, why, left: String::new() };
        (listed, before_index(&self.job_name))
    }
}

/// The end of a job that did not exit with 0.
fn end(reason: &str) -> End {
    match reason.split(':').next().unwrap_or_default() {
        "TERM_RUNLIMIT" | "TERM_DEADLINE" => End::TimeLimit,
        "TERM_PREEMPT" | "TERM_REQUEUE_OWNER" | "TERM_REQUEUE_ADMIN" => End::Preempted,
        "TERM_OWNER" | "TERM_FORCE_OWNER" | "TERM_ADMIN" | "TERM_FORCE_ADMIN" => End::Cancelled,
        _ => End::Failed,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::keeper::Refusal;

    /// A list as LSF 10.1 prints it: jobs as id, index, state, host, reason.
    fn list(jobs: &[[&str; 5]]) -> String {
        let job = |[id, index, state, host, reason]: &[&str; 5]| {
            let (ended, waits) = if *state == "EXIT" { (*reason, "") } else { ("", *reason) };
            format!(
                "    {{\n      \"JOBID\":\"{id}\",\n      \"JOBINDEX\":\"{index}\",\n      \
                 \"STAT\":\"{state}\",\n      \"EXEC_HOST\":\"{host}\",\n      \
                 \"JOB_NAME\":\"furlong-a[{index}]\",\n      \"EXIT_REASON\":\"{ended}\",\n      \
                 \"PEND_REASON\":\"{waits}\"\n    }}"
            )
        };
        let records: Vec<String> = jobs.iter().map(job).collect();
        let (count, records) = (jobs.len(), records.join(",\n"));
        format!(
            "{{\n  \"COMMAND\":\"bjobs\",\n  \"JOBS\":{count},\n  \
             \"RECORDS\":[\n{records}\n  ]\n}}\n"
        )
    }

    #[test]
    fn lists_of_lsf_are_read() {
        let text = list(&[
            ["7", "1", "RUN", "4*n1:2*n2", ""],
            ["7[2]", "2", "PEND", "", "New job is waiting for scheduling;"],
            ["8", "0", "PSUSP", "", "The job was suspended by the user while pending;"],
            ["9", "1", "EXIT", "n1", "TERM_RUNLIMIT: job killed after reaching LSF run time limit"],
            ["9", "2", "EXIT", "n1:n1", "TERM_OWNER: job killed by owner"],
            ["9", "3", "EXIT", "n1", ""],
            ["9", "4", "UNKWN", "n1", ""],
        ]);
        let read = LSF.read_list(&text).unwrap();
        let ids: Vec<&str> = read.iter().map(|(job, _)| job.id.0.as_str()).collect();
        assert_eq!(ids, ["7[1]", "7[2]", "8", "9[1]", "9[2]", "9[3]", "9[4]"]);
        let states: Vec<JobState> = read.iter().map(|(job, _)| job.state).collect();
        let ended = JobState::Ended;
        assert_eq!(states[..3], [JobState::Running, JobState::Pending, JobState::Pending]);
        assert_eq!(
            states[3..],
            [ended(End::TimeLimit), ended(End::Cancelled), ended(End::Failed), JobState::Running]
        );
        assert_eq!((read[0].0.node.as_str(), read[0].1.as_str()), ("n1", "furlong-a"));
        assert_eq!(read[1].0.why, "New job is waiting for scheduling");
        assert!(read[2].0.why.ends_with("release it with `bresume JOB`"), "{}", read[2].0.why);
        let greeted = format!("Welcome to {{all}}!\n{}Try our new queue {{gpu}}!\n", list(&[]));
        assert_eq!(LSF.read_list(&greeted), Ok(Vec::new()));
    }

    #[test]
    fn no_jobs_are_said_in_words() {
        for none in [
            "No unfinished job found\n",
            "Cannot connect to LSF. Please wait ...\nNo job found",
            "Job <furlong-a> is not found\n",
        ] {
            assert!(LSF.says_none(none), "{none}");
        }
        for other in ["", "Cannot connect to LSF. Please wait ...\n", "lsf.conf is not found\n"] {
            assert!(!LSF.says_none(other), "{other}");
        }
    }

    #[test]
    fn what_is_no_list_is_none() {
        let whole = list(&[["7", "1", "RUN", "n1", ""]]);
        let cut = &whole[..whole.len() - 8];
        let option = list(&[["-u", "1", "RUN", "", ""]]);
        let path = list(&[["1/../../x", "1", "RUN", "", ""]]);
        let index = list(&[["7", "1]; reboot", "RUN", "", ""]]);
        let failed = "{\"COMMAND\":\"bjobs\",\"JOBS\":1,\"RECORDS\":[{\"JOBID\":\"7\",\
                      \"ERROR\":\"Job <7> is not found\"}]}";
        for garbage in ["", "hello", "{}", cut, &option, &path, &index, failed] {
            let error = LSF.read_list(garbage).unwrap_err();
            assert!(error.starts_with("bjobs answers what nobody understands"), "{error}");
        }
    }

    #[test]
    fn the_ids_of_a_submit_are_those_of_its_array() {
        let ids = |text: &str| LSF.read_submit(text, 3).map(|ids| ids[2].0.clone());
        assert_eq!(ids("Job <7> is submitted to default queue <normal>.\n"), Ok("7[3]".to_owned()));
        let greeted = "Job <5> of yesterday\nJob <7> is submitted to queue <gpu>.\nThanks 9!\n";
        assert_eq!(ids(greeted), Ok("7[3]".to_owned()));
        for garbage in ["", "7", "Job <-f> is submitted to queue <a>.", "Job <7", "Job <7> waits"] {
            assert!(matches!(ids(garbage), Err(Refusal::Unclear(_))), "{garbage}");
        }
    }

    #[test]
    fn refusals_are_told_from_a_full_queue() {
        let text = "bsub refuses the job: nope: No such queue. Job not submitted.; `bqueues` lists \
                    the queues; name one with -- -q NAME";
        let said = LSF.refusal("nope: No such queue. Job not submitted.\n");
        assert_eq!(said, Refusal::Refused(text.to_owned()));
        let full = LSF.refusal("Pending job threshold reached. Retrying in 60 seconds...\n");
        assert!(matches!(full, Refusal::Full(_)), "{full:?}");
    }

    #[test]
    fn hosts_are_left_out_beside_what_the_user_asks_of_them() {
        let args = ["-R", "select[mem>100]"].map(str::to_owned);
        let all = leave_out(&args, "", &["n1", "n2"].map(str::to_owned));
        let more = ["-R", "select[hname!='n1' && hname!='n2']"].map(str::to_owned);
        assert_eq!(all, [args, more].concat());
        assert_eq!((LSF.check_args)(&all), Ok(()));
    }
}
