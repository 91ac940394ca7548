//! Grid Engine: SGE and its descendants.

use roxmltree::{Document, Node};

use super::{CancelWaiting, Commands, HOUR_S, NamedJobs, System, Words, qsub};
use crate::keeper::{JobId, JobState, Listed};

/// Grid Engine, from 6.2 on.
pub static SGE: System = System {
    name: "sge",
    title: "Grid Engine",
    commands: Commands {
        submit: &["qsub", "-terse"],
        check: Some(&["qsub", "-w", "v"]),
        list_named: None,
        // Grid Engine itself puts the user's name there. `-g d` gives each element its own entry.
        list_own: &["qstat", "-u", "$user", "-g", "d", "-xml"],
        cancel_waiting: CancelWaiting::Asks(&["qdel"]),
        cancel: &["qdel"],
    },
    script: SCRIPT,
    doubled: None,
    job_variable: "${JOB_ID}.${SGE_TASK_ID}",
    words: Words {
        // Its states are letters that say several things at once.
        states: &[],
        none: &[],
        full: &["jobs are allowed per user", "(current job count:"],
        forbidden: &[],
        no_node: &[],
        remedies: &[
            ("unknown queue", "`qconf -sql` lists the queues; name one with -- -q NAME"),
            ("parallel environment", "`qconf -spl` lists them; name one with -- -pe NAME CORES"),
            ("no suitable queues", "ask for less, or for another queue with -- -q NAME"),
            ("unknown project", "name a project of yours with -- -P NAME"),
            ("unknown resource", "`qconf -sc` lists what may be asked for"),
        ],
        prefaces: &["Unable to run job: ", "Job was rejected because "],
        variables: &["SGE_TASK_", "SGE_O_", "SGE_STDOUT", "SGE_STDERR"],
    },
    check_args: |args| qsub::SGE.check_args(args),
    check_template: |text| qsub::SGE.check_template(text),
    leave_out: Some(leave_out),
    // The limit that it comes with is 75,000, and some sites have less.
    array_max: 1_000,
    walltime_s: HOUR_S,
    is_of_pods: false,
    is_single: false,
    in_script: None,
    is_id: |id| id.chars().all(|char| char.is_ascii_digit() || char == '.'),
    read_ids,
    read,
};

const SCRIPT: &str = r#"#!/bin/bash
#$ -S /bin/bash
#$ -N {{name}}
#$ -t 1-{{jobs}}
#$ -cwd
#$ -notify
#$ -j y
#$ -o "{{folder}}/$JOB_ID.$TASK_ID.log"
#$ -pe smp {{cpus}}
#$ -l mem_free={{memory_mb}}M
#$ -l h_rt={{seconds}}
export FURLONG_HOME={{home}}
{{setup}}
exec {{engine}}
"#;

/// A host that a user asks for stays so: two requests for hosts would be one.
fn leave_out(args: &[String], template: &str, nodes: &[String]) -> Vec<String> {
    let words = args.iter().flat_map(|arg| arg.split_whitespace());
    let words = words.chain(template.split_whitespace()).flat_map(|word| word.split(','));
    let asks = words.clone().any(|word| word.starts_with("h=") || word.starts_with("hostname="));
    let hosts = format!("h=!({})", nodes.join("|"));
    let more = if asks { Vec::new() } else { vec!["-l".to_owned(), hosts] };
    [args, &more].concat()
}

/// The elements of an array, of which the command says `4.1-6:1`.
fn read_ids(line: &str, jobs: u32) -> Option<Vec<String>> {
    let (id, range) = line.split_once('.')?;
    let (first, rest) = range.split_once('-')?;
    let (last, step) = rest.split_once(':')?;
    let is_number = |text: &str| text.parse::<u32>().is_ok();
    let is_ours = [id, first, last, step].into_iter().all(is_number) && last == jobs.to_string();
    is_ours.then(|| (1..=jobs).map(|n| format!("{id}.{n}")).collect())
}

fn read(system: &System, text: &str) -> Result<NamedJobs, String> {
    let first = text.lines().find(|line| !line.trim().is_empty()).unwrap_or("nothing");
    // A wrapper may say something before it.
    let xml = text.find("<?xml").map(|at| &text[at..]);
    let document = xml.and_then(|xml| Document::parse(xml.trim()).ok());
    let document = document.filter(|it| it.root_element().has_tag_name("job_info"));
    let document = document.ok_or_else(|| system.unknown(first))?;
    let jobs = document.descendants().filter(|node| node.has_tag_name("job_list"));
    jobs.map(|job| read_job(job).ok_or_else(|| system.unknown(job.text().unwrap_or("")))).collect()
}

fn read_job(job: Node<'_, '_>) -> Option<(Listed, String)> {
    let value = |name: &str| {
        let node = job.children().find(|node| node.has_tag_name(name))?;
        Some(node.text().unwrap_or_default().trim())
    };
    let (number, state) = (value("JB_job_number")?, value("state")?);
    let id = match value("tasks").filter(|task| !task.is_empty()) {
        Some(task) => format!("{number}.{task}"),
        None => number.to_owned(),
    };
    let node = value("queue_name").and_then(|queue| queue.split('@').nth(1)).unwrap_or_default();
    let (state, why) = meaning(state);
    let (node, why, left) = (node.to_owned(), why.to_owned(), String::new());
    Some((Listed { id: JobId(id), state, node, why, left }, value("JB_name")?.to_owned()))
}

/// The meaning of a state: of `qw` that it waits, of `hqw` that it is held, of `Eqw` that it could
/// not begin.
fn meaning(letters: &str) -> (JobState, &'static str) {
    let has = |letter: char| letters.contains(letter);
    if !has('w') {
        return (JobState::Running, "");
    }
    let why = if has('E') {
        "it could not begin: `qstat -j JOB` says why; `qmod -cj JOB` has it tried again"
    } else if has('h') {
        "it is held; release it with `qrls JOB`"
    } else {
        ""
    };
    (JobState::Pending, why)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::keeper::Refusal;

    /// A list as Grid Engine 8.1.9 prints it.
    fn list(jobs: &[(&str, &str, &str, &str)]) -> String {
        let job = |(number, task, state, queue): &(&str, &str, &str, &str)| {
            format!(
                "    <job_list state=\"running\">\n      <JB_job_number>{number}</JB_job_number>\n\
                 <JB_name>furlong-a&amp;b</JB_name>\n<JB_owner>u</JB_owner>\n\
                 <state>{state}</state>\n<queue_name>{queue}</queue_name>\n<slots>1</slots>\n\
                 <tasks>{task}</tasks>\n    </job_list>\n"
            )
        };
        let jobs: String = jobs.iter().map(job).collect();
        format!(
            "<?xml version='1.0'?>\n<job_info xmlns:xsd=\"http://x\">\n<queue_info>\n{jobs}\
                 </queue_info>\n<job_info>\n</job_info>\n</job_info>\n"
        )
    }

    #[test]
    fn lists_of_grid_engine_are_read() {
        let jobs = [("4", "1", "r", "all.q@n1"), ("4", "12", "qw", ""), ("5", "", "Eqw", "")];
        let read = SGE.read_list(&list(&jobs)).unwrap();
        let ids: Vec<&str> = read.iter().map(|(job, _)| job.id.0.as_str()).collect();
        assert_eq!(ids, ["4.1", "4.12", "5"]);
        let states: Vec<JobState> = read.iter().map(|(job, _)| job.state).collect();
        assert_eq!(states, [JobState::Running, JobState::Pending, JobState::Pending]);
        assert_eq!((read[0].0.node.as_str(), read[0].1.as_str()), ("n1", "furlong-a&b"));
        assert!(read[2].0.why.starts_with("it could not begin"), "{}", read[2].0.why);
        let greeted = format!("Welcome to the cluster!\n{}", list(&[]));
        assert_eq!(SGE.read_list(&greeted), Ok(Vec::new()));
    }

    #[test]
    fn what_is_no_list_is_none() {
        let whole = list(&[("4", "1", "r", "all.q@n1")]);
        let cut = &whole[..whole.len() - 20];
        let option = list(&[("-u", "1", "r", "")]);
        let path = list(&[("1/../../x", "1", "r", "")]);
        let range = list(&[("4", "2-5:1", "qw", "")]);
        for garbage in ["", "hello", cut, "<?xml version='1.0'?><a/>", &option, &path, &range] {
            let error = SGE.read_list(garbage).unwrap_err();
            assert!(error.starts_with("qstat answers what nobody understands"), "{error}");
        }
    }

    #[test]
    fn the_ids_of_a_submit_are_those_of_its_array() {
        let ids = |text: &str| SGE.read_submit(text, 3).map(|ids| ids[2].0.clone());
        assert_eq!(ids("4.1-3:1\n"), Ok("4.3".to_owned()));
        assert_eq!(ids("Welcome 2 all\n4.1-3:1\nTry our new queue 7.1!\n"), Ok("4.3".to_owned()));
        for garbage in ["", "4", "4.1-9:1", "-f.1-3:1", "Your job 4 is submitted"] {
            assert!(matches!(ids(garbage), Err(Refusal::Unclear(_))), "{garbage}");
        }
    }

    #[test]
    fn hosts_are_left_out_unless_the_user_names_hosts() {
        let left_out = |args: &[&str], template: &str| {
            let args: Vec<String> = args.iter().map(ToString::to_string).collect();
            let more = leave_out(&args, template, &["n1", "n2"].map(str::to_owned));
            more[args.len()..].join(" ")
        };
        assert_eq!(left_out(&["-q", "all.q"], SCRIPT), "-l h=!(n1|n2)");
        assert_eq!(left_out(&["-l", "gpu=1,h=n3"], ""), "");
        assert_eq!(left_out(&[], "#$ -l hostname=n3\n"), "");
    }

    #[test]
    fn refusals_are_told_from_a_full_queue() {
        let said = "Unable to run job: Job was rejected because job requests unknown queue \
                    \"nope\"\nExiting.\n";
        let text = "qsub refuses the job: job requests unknown queue \"nope\"; `qconf -sql` lists \
                    the queues; name one with -- -q NAME";
        assert_eq!(SGE.refusal(said), Refusal::Refused(text.to_owned()));
        let full = SGE.refusal(
            "job rejected: Only 5 jobs are allowed per user (current job \
                                count: 5)",
        );
        assert!(matches!(full, Refusal::Full(_)), "{full:?}");
    }
}
