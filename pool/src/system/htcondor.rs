//! `HTCondor`. Its submit description is no script: the shell's text is an argument in it.

use serde::Deserialize;

use super::{CancelWaiting, Commands, HOUR_S, NAME, NamedJobs, PROGRAM, System, Words, shortened};
use crate::keeper::{End, JobId, JobState, Listed};

/// `HTCondor`, from 8.6 on: that is the first whose `condor_q` answers in JSON.
pub static HTCONDOR: System = System {
    name: "htcondor",
    title: "HTCondor",
    commands: Commands {
        submit: &["condor_submit", "-terse", "-"],
        check: None,
        list_named: None,
        list_own: &["condor_q", "-nobatch", "-json", "-attributes", ATTRIBUTES],
        cancel_waiting: CancelWaiting::Asks(&["condor_rm"]),
        cancel: &["condor_rm"],
    },
    script: DESCRIPTION,
    doubled: None,
    job_variable: JOB,
    words: Words {
        states: &[
            ("1", JobState::Pending),
            ("3", JobState::Ended(End::Cancelled)),
            ("4", JobState::Ended(End::Completed)),
            ("5", JobState::Pending),
        ],
        none: &[],
        full: &["MAX_JOBS_PER_OWNER", "MAX_JOBS_SUBMITTED", "MAX_JOBS_PER_SUBMISSION"],
        forbidden: &[],
        no_node: &[],
        remedies: &[
            (HELD, "mend it, then release it with `condor_release JOB`"),
            ("Can't find address of local schedd", "name the way to it with --via 'ssh HOST'"),
            ("Failed to connect to local queue manager", "is its schedd running?"),
        ],
        prefaces: &["ERROR: "],
        variables: &["_CONDOR_"],
    },
    check_args,
    check_template,
    leave_out: None,
    array_max: 1_000,
    walltime_s: HOUR_S,
    is_of_pods: false,
    is_single: false,
    in_script: Some(in_description),
    is_id: |id| id.chars().all(|char| char.is_ascii_digit() || char == '.'),
    read_ids,
    read,
};

const ATTRIBUTES: &str = "ClusterId,ProcId,JobStatus,JobBatchName,RemoteHost,HoldReason";
/// The id of a job, which `condor_submit` fills in.
const JOB: &str = "$(ClusterId).$(ProcId)";
/// The beginning of the reason of a job that is held.
const HELD: &str = "held";

const DESCRIPTION: &str = r#"universe = vanilla
+JobBatchName = "{{name}}"
executable = /bin/bash
transfer_executable = false
should_transfer_files = NO
arguments = {{engine}}
output = {{folder}}/$(ClusterId).$(ProcId).log
error = {{folder}}/$(ClusterId).$(ProcId).log
request_cpus = {{cpus}}
request_memory = {{memory_mb}}MB
kill_sig = SIGTERM
job_max_vacate_time = {{drain_s}}
periodic_remove = JobStatus == 2 && time() - JobCurrentStartDate > {{seconds}}
queue {{jobs}}
"#;

/// A shell's text as arguments. `condor_submit` fills in what follows a dollar, two quotes of a
/// kind are one, and a line is all that there is.
fn in_description(text: &str) -> String {
    let text = text.replace('\n', "; ").replace('$', "$(DOLLAR)");
    let text = text.replace(&JOB.replace('$', "$(DOLLAR)"), JOB);
    format!("\"-c '{}'\"", text.replace('\'', "''").replace('"', "\"\""))
}

/// Commands of a description with which a pool would lose sight of its jobs, and why.
const TAKEN: [(&str, &str); 8] = [
    ("batch_name", NAME),
    ("+jobbatchname", NAME),
    ("my.jobbatchname", NAME),
    ("executable", PROGRAM),
    ("arguments", PROGRAM),
    ("queue", "a pool chooses the number of its jobs"),
    ("output", "a pool reads its jobs' logs where it has them written"),
    ("error", "a pool reads its jobs' logs where it has them written"),
];

/// Only `-append COMMAND` is taken: the other options lead to another queue, or to other files.
fn check_args(args: &[String]) -> Result<(), String> {
    let mut words = args.iter();
    while let Some(word) = words.next() {
        let command = words.next().filter(|_| matches!(word.as_str(), "-append" | "-a"));
        let Some(command) = command else {
            return Err(format!(
                "leave `{word}` out of the arguments for `condor_submit`: they are commands of a \
                 description, each as -append 'COMMAND = VALUE'"
            ));
        };
        let name = command.split(['=', ' ']).next().unwrap_or_default().to_lowercase();
        if let Some((_, why)) = TAKEN.iter().find(|(taken, _)| *taken == name) {
            return Err(super::left_out(&name, "arguments for `condor_submit`", why));
        }
    }
    Ok(())
}

/// A template has the pool's name as that of its jobs, and one queue.
fn check_template(template: &str) -> Result<(), String> {
    if template.is_empty() {
        return Ok(());
    }
    let lines = || template.lines().map(|line| line.trim().to_lowercase());
    if !lines().any(|line| line.starts_with("+jobbatchname") && line.contains("\"{{name}}\"")) {
        return Err("the template needs a line `+JobBatchName = \"{{name}}\"`".to_owned());
    }
    let queues: Vec<String> = lines().filter(|line| line.starts_with("queue")).collect();
    if queues != ["queue {{jobs}}"] {
        return Err("the template needs one line `queue {{jobs}}`, and no other queue".to_owned());
    }
    Ok(())
}

/// The jobs of a cluster, of which the command says `7.0 - 7.4`.
fn read_ids(line: &str, jobs: u32) -> Option<Vec<String>> {
    let (first, last) = line.split_once(" - ")?;
    let (cluster, number) = first.split_once('.')?;
    let is_ours = cluster.parse::<u64>().is_ok() && number == "0";
    let is_whole = last == format!("{cluster}.{}", jobs.checked_sub(1)?);
    (is_ours && is_whole).then(|| (0..jobs).map(|n| format!("{cluster}.{n}")).collect())
}

/// A job in an answer of `condor_q`.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Record {
    cluster_id: u64,
    proc_id: u64,
    job_status: u8,
    #[serde(default)]
    job_batch_name: String,
    #[serde(default)]
    remote_host: String,
    #[serde(default)]
    hold_reason: String,
}

fn read(system: &System, text: &str) -> Result<NamedJobs, String> {
    // Without jobs it says nothing at all.
    let Some(first) = text.lines().find(|line| !line.trim().is_empty()) else {
        return Ok(Vec::new());
    };
    // A wrapper may say something before it and behind it.
    let begins = if text.starts_with('[') { Some(0) } else { text.find("\n[").map(|at| at + 1) };
    let answer = begins.and_then(|at| {
        serde_json::Deserializer::from_str(&text[at..]).into_iter::<Vec<Record>>().next()?.ok()
    });
    let answer = answer.ok_or_else(|| system.unknown(first))?;
    Ok(answer.iter().map(|record| record.listed(system)).collect())
}

impl Record {
    fn listed(&self, system: &System) -> (Listed, String) {
        let id = JobId(format!("{}.{}", self.cluster_id, self.proc_id));
        let state = system.state(&self.job_status.to_string());
        let why = match self.job_status {
            5 => system.reason(&format!("{HELD}: {}", shortened(&self.hold_reason))),
            _ => String::new(),
        };
        // `slot1_1@n1`.
        let node = self.remote_host.rsplit('@').next().unwrap_or_default();
        let listed = Listed { id, state, node: shortened(node), why, left: String::new() };
        (listed, self.job_batch_name.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::keeper::Refusal;

    /// A list as `condor_q -json` prints it: jobs as cluster, number, state, and more.
    fn list(jobs: &[(u64, u64, u8, &str)]) -> String {
        let job = |(cluster, number, status, more): &(u64, u64, u8, &str)| {
            format!(
                "{{\n  \"ClusterId\": {cluster},\n  \"JobBatchName\": \"furlong-a\",\n  \
                 \"JobStatus\": {status},\n{more}  \"ProcId\": {number}\n}}\n"
            )
        };
        format!("[\n{}]\n", jobs.iter().map(job).collect::<Vec<_>>().join(",\n"))
    }

    #[test]
    fn lists_of_htcondor_are_read() {
        let text = list(&[
            (7, 0, 1, ""),
            (7, 1, 2, "  \"RemoteHost\": \"slot1_2@n1.example.org\",\n"),
            (8, 0, 5, "  \"HoldReason\": \"Error from n1: cannot open /logs/8.0.log\",\n"),
            (9, 0, 6, ""),
            (9, 1, 3, ""),
            (9, 2, 4, ""),
        ]);
        let read = HTCONDOR.read_list(&text).unwrap();
        let ids: Vec<&str> = read.iter().map(|(job, _)| job.id.0.as_str()).collect();
        assert_eq!(ids, ["7.0", "7.1", "8.0", "9.0", "9.1", "9.2"]);
        let states: Vec<JobState> = read.iter().map(|(job, _)| job.state).collect();
        let (pending, running) = (JobState::Pending, JobState::Running);
        let ended = JobState::Ended;
        assert_eq!(states[..4], [pending, running, pending, running]);
        assert_eq!(states[4..], [ended(End::Cancelled), ended(End::Completed)]);
        assert_eq!((read[1].0.node.as_str(), read[1].1.as_str()), ("n1.example.org", "furlong-a"));
        let why = "held: Error from n1: cannot open /logs/8.0.log: mend it, then release it with \
                   `condor_release JOB`";
        assert_eq!(read[2].0.why, why);
        let greeted = format!("[Welcome]\n{text}Bye\n");
        assert!(HTCONDOR.read_list(&greeted).is_err(), "the greeting looks like a list");
        assert_eq!(HTCONDOR.read_list(&format!("Hello\n{text}Bye\n")).unwrap().len(), 6);
        assert_eq!(HTCONDOR.read_list("\n"), Ok(Vec::new()));
        assert_eq!(HTCONDOR.read_list("[\n]\n"), Ok(Vec::new()));
    }

    #[test]
    fn what_is_no_list_is_none() {
        let whole = list(&[(7, 0, 2, "")]);
        let cut = &whole[..whole.len() - 4];
        let text = whole.replace("\"ClusterId\": 7", "\"ClusterId\": \"-all\"");
        let negative = whole.replace("\"ClusterId\": 7", "\"ClusterId\": -7");
        for garbage in ["hello", "{}", cut, &text, &negative, "[{\"ClusterId\": 7}]", "[7]"] {
            let error = HTCONDOR.read_list(garbage).unwrap_err();
            assert!(error.starts_with("condor_q answers what nobody understands"), "{error}");
        }
    }

    #[test]
    fn the_ids_of_a_submit_are_those_of_its_cluster() {
        let ids = |text: &str| HTCONDOR.read_submit(text, 3).map(|ids| ids[2].0.clone());
        assert_eq!(ids("Hello 5\n7.0 - 7.2\n"), Ok("7.2".to_owned()));
        for garbage in ["", "7", "7.0", "7.0 - 7.1", "7.0 - 8.2", "-7.0 - -7.2", "x.0 - x.2"] {
            assert!(matches!(ids(garbage), Err(Refusal::Unclear(_))), "{garbage}");
        }
    }

    #[test]
    fn refusals_are_told_from_a_full_queue() {
        let said = HTCONDOR.refusal("\nERROR: Can't find address of local schedd\n");
        let Refusal::Refused(text) = &said else { panic!("{said:?}") };
        assert!(text.ends_with("schedd; name the way to it with --via 'ssh HOST'"), "{text}");
        let full = "ERROR: Number of submitted jobs would exceed MAX_JOBS_PER_OWNER\n";
        assert!(matches!(HTCONDOR.refusal(full), Refusal::Full(_)));
    }

    #[test]
    fn a_shells_text_is_one_argument_of_a_description() {
        let text = "echo 'a b' $HOME\nexec x \"--job=$(ClusterId).$(ProcId)\" $((1 - SECONDS))";
        let expected = "\"-c 'echo ''a b'' $(DOLLAR)HOME; exec x \
                        \"\"--job=$(ClusterId).$(ProcId)\"\" $(DOLLAR)((1 - SECONDS))'\"";
        assert_eq!(in_description(text), expected);
    }

    #[test]
    fn what_hides_jobs_is_refused() {
        let check = |args: &[&str]| {
            check_args(&args.iter().map(|arg| (*arg).to_owned()).collect::<Vec<_>>())
        };
        assert_eq!(check(&["-append", "+ProjectName = \"x\"", "-a", "request_gpus = 1"]), Ok(()));
        for wrong in [
            &["-name", "other"][..],
            &["-spool"],
            &["mine.sub"],
            &["-append"],
            &["-append", "queue 100"],
            &["-append", "Batch_Name = x"],
            &["-a", "output=/dev/null"],
        ] {
            assert!(check(wrong).unwrap_err().starts_with("leave `"), "{wrong:?}");
        }
        assert_eq!(check_template(DESCRIPTION), Ok(()));
        for wrong in ["queue {{jobs}}", "+JobBatchName = \"{{name}}\"\nqueue 5"] {
            assert!(check_template(wrong).unwrap_err().starts_with("the template needs"));
        }
    }
}
