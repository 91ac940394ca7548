//! The scripts of jobs: a template with placeholders, and what is put in their place.

use crate::keeper::Submission;
use crate::spec::PoolSpec;
use crate::system::{System, kubernetes};

/// The placeholders that no script can do without.
const NEEDED: [&str; 2] = ["{{name}}", "{{engine}}"];
/// Jobs drain for a tenth of their time at their end, within these bounds in seconds.
const DRAIN_S: (u64, u64) = (30, 600);

/// Seconds that a pod has to finish what it runs when somebody deletes it, at most.
const GRACE_S: u64 = 3_600;
/// Seconds that a pod has for its image, which count as its own.
const START_S: u64 = 1_800;

/// Writes the script of a submit.
pub fn write(
    spec: &PoolSpec,
    system: &System,
    job_name: &str,
    folder: &str,
    it: Submission,
) -> String {
    let template = spec.job.template.as_deref().unwrap_or(system.script);
    let cpus = u64::from(spec.job.cpus) * u64::from(it.engines);
    let minutes = spec.job.walltime_s.div_ceil(60);
    let drain_s = (spec.job.walltime_s / 10).clamp(DRAIN_S.0, DRAIN_S.1);
    let memory_mb = spec.job.memory_mb.map(|mb| mb * u64::from(it.engines));
    let id = kubernetes::id_of_job(job_name, spec.name.as_str());
    let values = [
        ("{{name}}", job_name.to_owned()),
        ("{{jobs}}", it.jobs.to_string()),
        ("{{cpus}}", if cpus > 1 { cpus.to_string() } else { String::new() }),
        ("{{memory_mb}}", memory_mb.map_or_else(String::new, |mb| mb.to_string())),
        ("{{minutes}}", minutes.to_string()),
        ("{{drain_s}}", drain_s.to_string()),
        ("{{seconds}}", spec.job.walltime_s.to_string()),
        ("{{clock}}", clock(spec.job.walltime_s)),
        ("{{folder}}", doubled(folder, system.doubled)),
        ("{{logs}}", quoted(folder)),
        ("{{home}}", quoted(&spec.engine.home)),
        ("{{setup}}", spec.job.setup.join("\n")),
        ("{{engine}}", command(spec, system, it)),
        ("{{pod}}", kubernetes::pod_name(&id, spec.name.as_str())),
        ("{{id}}", id),
        ("{{image}}", serde_json::Value::from(spec.job.image.clone()).to_string()),
        ("{{cores}}", cpus.max(1).to_string()),
        ("{{grace_s}}", spec.job.walltime_s.min(GRACE_S).to_string()),
        ("{{deadline_s}}", (spec.job.walltime_s + START_S).to_string()),
    ];
    let mut lines = Vec::new();
    for line in template.lines() {
        let has = |(name, _): &&(&str, String)| line.contains(name);
        // What was not asked for is not said: sites forbid some directives.
        if values.iter().filter(has).any(|(_, value)| value.is_empty()) {
            continue;
        }
        lines.push(filled(line, &values));
    }
    lines.join("\n") + "\n"
}

/// A time as hours, minutes and seconds.
fn clock(seconds: u64) -> String {
    format!("{}:{:02}:{:02}", seconds / 3_600, seconds / 60 % 60, seconds % 60)
}

/// A name of a file in which this character stands for itself.
fn doubled(name: &str, char: Option<char>) -> String {
    char.map_or(name.to_owned(), |char| name.replace(char, &format!("{char}{char}")))
}

/// A line with the values of its placeholders. One in a value is text, whoever wrote it.
fn filled(line: &str, values: &[(&str, String)]) -> String {
    let first = values.iter().filter_map(|(name, value)| Some((line.find(name)?, name, value)));
    let Some((at, name, value)) = first.min_by_key(|(at, ..)| *at) else {
        return line.to_owned();
    };
    let (before, after) = (&line[..at], &line[at + name.len()..]);
    format!("{before}{value}{}", filled(after, values))
}

/// Checks a template.
///
/// # Errors
/// The placeholder that it must have.
pub fn check_template(template: &str) -> Result<(), String> {
    match NEEDED.iter().find(|needed| !template.contains(**needed)) {
        Some(missing) => Err(format!(
            "the script has no {missing}; `furlong pool template` prints one that has all"
        )),
        None => Ok(()),
    }
}

/// The command of a job: that of its engines, or all of the text of its shell, as its script takes
/// it. In a pod the capability comes by standard input: its file is a link.
fn command(spec: &PoolSpec, system: &System, it: Submission) -> String {
    let Some(in_script) = system.in_script else { return engine(spec, system, it) };
    let mut lines = spec.job.setup.clone();
    let engine = engine(spec, system, it);
    if system.is_of_pods {
        lines.push(format!("exec {engine} < {}", kubernetes::CAPABILITY));
    } else {
        lines.insert(0, format!("export FURLONG_HOME={}", quoted(&spec.engine.home)));
        lines.push(format!("exec {engine}"));
    }
    in_script(&lines.join("\n"))
}

/// The command line that starts the engines of a job.
fn engine(spec: &PoolSpec, system: &System, it: Submission) -> String {
    let mut words: Vec<String> = spec.engine.program.iter().map(|word| quoted(word)).collect();
    words.extend(["engine".to_owned(), format!("--cluster={}", spec.engine.cluster)]);
    let cap = if system.is_of_pods { "-" } else { &spec.engine.cap };
    words.extend(["--cap".to_owned(), quoted(cap)]);
    words.extend(spec.engine.python.iter().flat_map(|it| ["--python".to_owned(), quoted(it)]));
    words.extend(["-n".to_owned(), it.engines.to_string()]);
    words.extend(spec.engine.flags.iter().map(|flag| quoted(flag)));
    words.extend(job_flags(spec, system, it));
    words.join(" ")
}

/// The flags by which an engine knows that it is a job's: all of them are here.
fn job_flags(spec: &PoolSpec, system: &System, it: Submission) -> Vec<String> {
    let mut flags = vec![format!("--label={POOL_LABEL}{}", spec.name)];
    // Filled in by the shell of the job, as is the time that its setup has taken.
    flags.push(format!("\"--job={}\"", system.job_variable));
    flags.push(format!("--time-limit=$(({} - SECONDS))", spec.job.walltime_s));
    flags.push(format!("--broker-timeout={BROKER_TIMEOUT}"));
    if !it.lasting {
        flags.push(format!("--idle-timeout={IDLE_TIMEOUT}"));
    }
    // Somebody may know better.
    let is_given = |flag: &String| {
        let name = flag.split('=').next().unwrap_or_default();
        spec.engine.flags.iter().any(|given| given.split('=').next() == Some(name))
    };
    flags.retain(|flag| flag.starts_with("--label") || !is_given(flag));
    flags
}

/// A job whose broker is gone for so long ends: it would be charged for nothing.
const BROKER_TIMEOUT: &str = "10m";
/// An engine above the least number of an elastic pool leaves when it has nothing to do for so
/// long.
const IDLE_TIMEOUT: &str = "5m";
/// The label that names an engine's pool.
pub const POOL_LABEL: &str = "pool=";

/// A word as a shell takes it.
pub fn quoted(word: &str) -> String {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_./=:,@%+".contains(&byte);
    if !word.is_empty() && word.bytes().all(is_plain) {
        return word.to_owned();
    }
    format!("'{}'", word.replace('\'', "'\\''"))
}

/// A word as it comes out of the shells behind these words: each `ssh` among them has one.
pub fn quoted_behind(via: &[String], word: &str) -> String {
    let shells = via.iter().filter(|it| it.rsplit('/').next() == Some("ssh"));
    shells.fold(word.to_owned(), |word, _| quoted(&word))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::keeper::{Limits, Wanted};
    use crate::spec::{EngineSpec, JobSpec};
    use crate::system;

    #[test]
    fn words_are_quoted_once_for_each_shell_that_reads_them() {
        let behind = |via: &str| {
            let via: Vec<String> = via.split_whitespace().map(str::to_owned).collect();
            quoted_behind(&via, "a b")
        };
        assert_eq!(behind(""), "a b");
        assert_eq!(behind("sudo -u me"), "a b");
        assert_eq!(behind("ssh login"), "'a b'");
        assert_eq!(behind("timeout 60 /usr/bin/ssh login"), "'a b'");
        assert_eq!(behind("ssh jump ssh login"), r"''\''a b'\'''");
    }

    fn spec() -> PoolSpec {
        PoolSpec {
            name: "slurm".parse().unwrap(),
            system: "slurm".to_owned(),
            wanted: Wanted::exactly(4),
            per_job: 2,
            limits: Limits { jobs_max: 100, pending_max: 8, array_max: 1_000 },
            job: JobSpec { walltime_s: 3_600, cpus: 1, ..JobSpec::default() },
            engine: EngineSpec {
                program: vec!["/opt/my programs/furlong".to_owned()],
                cluster: "default".to_owned(),
                cap: "/shared/u/.furlong/default/security/engine.cap.json".to_owned(),
                home: "/shared/u/.furlong".to_owned(),
                python: Some("/usr/bin/python3".to_owned()),
                flags: Vec::new(),
            },
            is_removed: false,
            ends_now: false,
        }
    }

    #[test]
    fn a_script_says_what_was_asked_for_and_no_more() {
        let slurm = system::by_name("slurm").unwrap();
        let it = Submission { jobs: 2, engines: 2, lasting: true };
        let script = write(&spec(), slurm, "furlong-default-f0f733b3-slurm", "/logs", it);
        let expected = "\
#!/bin/bash
#SBATCH --job-name=furlong-default-f0f733b3-slurm
#SBATCH --array=1-2
#SBATCH --nodes=1
#SBATCH --ntasks=1
#SBATCH --cpus-per-task=2
#SBATCH --time=60
#SBATCH --signal=B:TERM@360
#SBATCH --output=\"/logs/%A_%a.log\"
export FURLONG_HOME=/shared/u/.furlong
exec '/opt/my programs/furlong' engine --cluster=default \
--cap /shared/u/.furlong/default/security/engine.cap.json \
--python /usr/bin/python3 -n 2 --label=pool=slurm \
\"--job=${SLURM_ARRAY_JOB_ID}_${SLURM_ARRAY_TASK_ID}\" --time-limit=$((3600 - SECONDS)) \
--broker-timeout=10m
";
        assert_eq!(script, expected);
        let mut more = spec();
        more.job.setup = vec!["module load python".to_owned(), "ulimit -c 0".to_owned()];
        more.job.memory_mb = Some(500);
        let script = write(&more, slurm, "name", "/logs", it);
        assert!(script.contains("#SBATCH --mem=1000M\n"), "{script}");
        assert!(script.contains("\nmodule load python\nulimit -c 0\nexec "), "{script}");
    }

    #[test]
    fn a_template_must_start_the_engine_under_the_jobs_name() {
        assert_eq!(check_template(system::by_name("slurm").unwrap().script), Ok(()));
        assert!(check_template("#!/bin/sh\n{{engine}}").unwrap_err().contains("no {{name}}"));
    }

    #[test]
    fn a_placeholder_in_a_value_is_text() {
        let values = [("{{setup}}", "echo {{engine}}".to_owned()), ("{{engine}}", "e".to_owned())];
        assert_eq!(filled("a {{setup}} {{engine}} b", &values), "a echo {{engine}} e b");
    }

    #[test]
    fn words_are_quoted_for_the_shell() {
        assert_eq!((quoted("a-b"), quoted("a b")), ("a-b".to_owned(), "'a b'".to_owned()));
        assert_eq!(quoted("it's $HOME"), "'it'\\''s $HOME'");
        assert_eq!(quoted(""), "''");
    }
}
