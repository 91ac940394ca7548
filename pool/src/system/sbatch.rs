//! The options of `sbatch` that a user adds: those with which a pool would lose sight of its jobs
//! are refused.

use super::{NAME, NO_JOB, PROGRAM, left_out, no_script};

/// An option of `sbatch` with which a pool would lose sight of its jobs.
struct Taken {
    long: &'static str,
    short: Option<char>,
    why: &'static str,
}

const TAKEN: [Taken; 8] = [
    Taken { long: "job-name", short: Some('J'), why: NAME },
    Taken {
        long: "clusters",
        short: Some('M'),
        why: "a pool looks for its jobs on one cluster; lead to another with --via 'ssh LOGIN'",
    },
    Taken { long: "array", short: Some('a'), why: "a pool chooses the size of its arrays" },
    Taken { long: "wrap", short: None, why: PROGRAM },
    Taken { long: "parsable", short: None, why: "a pool asks for ids itself" },
    Taken { long: "wait", short: Some('W'), why: "a pool does not wait for the end of its jobs" },
    Taken { long: "test-only", short: None, why: NO_JOB },
    Taken { long: "uid", short: None, why: "a pool looks for jobs of its own user" },
];

/// The short options of `sbatch` that no value follows.
const SHORT_FLAGS: &str = "HhkOQsuVv";
/// The long ones.
const LONG_FLAGS: [&str; 16] = [
    "contiguous",
    "exclusive",
    "get-user-env",
    "hold",
    "ignore-pbs",
    "nice",
    "no-kill",
    "no-requeue",
    "overcommit",
    "oversubscribe",
    "propagate",
    "quiet",
    "requeue",
    "spread-job",
    "use-min-nodes",
    "verbose",
];

/// Checks the arguments for `sbatch`. One of them that made jobs of another name, on another
/// cluster or of another script would leave these behind, and nobody would cancel them.
///
/// # Errors
/// The word that is refused, and why.
pub fn check_args(args: &[String]) -> Result<(), String> {
    let mut may_be_value = false;
    for arg in args {
        let (option, _) = arg.split_once('=').unwrap_or((arg, ""));
        if let Some(it) = taken(arg) {
            return Err(left_out(option, "arguments for `sbatch`", it.why));
        }
        let is_value = std::mem::replace(&mut may_be_value, takes_next(arg));
        let ends_options = arg == "--" || arg == ":";
        if ends_options || !(is_value || arg.starts_with('-')) {
            return Err(no_script(arg, "sbatch"));
        }
    }
    Ok(())
}

/// Checks the directives of a template. A name and an array there are those of the pool.
///
/// # Errors
/// The option that is refused, and why.
pub fn check_template(template: &str) -> Result<(), String> {
    template.lines().filter_map(|line| line.strip_prefix("#SBATCH")).try_for_each(check_directive)
}

fn check_directive(line: &str) -> Result<(), String> {
    let is_ours = |it: &Taken| match it.long {
        "job-name" => line.contains("{{name}}"),
        "array" => line.contains("{{jobs}}"),
        _ => false,
    };
    let words = line.split_whitespace().map(|word| word.trim_start_matches(['"', '\'']));
    let words = words.take_while(|word| !word.starts_with('#'));
    match words.filter_map(taken).find(|it| !is_ours(it)) {
        Some(it) => Err(left_out(&format!("--{}", it.long), "template", it.why)),
        None => Ok(()),
    }
}

/// Adds nodes to those that a user leaves out: of several such options the last is the only one,
/// and one of the command line goes before the script's. A file of nodes stays the only one.
pub fn leave_out(args: &[String], template: &str, nodes: &[String]) -> Vec<String> {
    let of_script = template.lines().filter_map(|line| line.strip_prefix("#SBATCH"));
    let of_script = of_script.flat_map(str::split_whitespace);
    let of_script = excluded(of_script.map(|word| word.trim_matches(['"', '\''])));
    let of_user = excluded(args.iter().map(String::as_str)).or(of_script);
    if of_user.as_ref().is_some_and(|list| list.contains('/')) {
        return args.to_vec();
    }
    let all: Vec<String> = of_user.into_iter().chain(nodes.iter().cloned()).collect();
    [args, &[format!("--exclude={}", all.join(","))]].concat()
}

/// The nodes that the last option of these words leaves out.
fn excluded<'a>(words: impl Iterator<Item = &'a str>) -> Option<String> {
    let (mut list, mut is_next) = (None, false);
    for word in words {
        if std::mem::take(&mut is_next) {
            list = Some(word.to_owned());
        } else if let Some(long) = word.strip_prefix("--") {
            let (name, value) = long.split_once('=').unwrap_or((long, ""));
            // Fewer letters would also be those of `--exclusive`.
            if name.len() >= EXCLUDE_MIN && "exclude".starts_with(name) {
                is_next = !long.contains('=');
                list = Some(value.to_owned()).filter(|_| !is_next).or(list);
            }
        } else if let Some((_, value)) = short_exclude(word) {
            is_next = value.is_empty();
            list = Some(value.to_owned()).filter(|_| !is_next).or(list);
        }
    }
    list
}

/// The least letters of `exclude` that are no other option's.
const EXCLUDE_MIN: usize = "exclud".len();

/// The option `-x` of this word, behind others without a value, and its value.
fn short_exclude(word: &str) -> Option<(&str, &str)> {
    let short = word.strip_prefix('-')?;
    short
        .trim_start_matches(|char| SHORT_FLAGS.contains(char))
        .split_at_checked(1)
        .filter(|it| it.0 == "x")
}

/// The option that this word sets, if a pool may not be given it: also one that is shortened, as
/// `--job=x`, or written together with others, as `-HJx`.
fn taken(word: &str) -> Option<&'static Taken> {
    if let Some(long) = word.strip_prefix("--") {
        let name = long.split('=').next().filter(|name| !name.is_empty())?;
        return TAKEN.iter().find(|it| it.long.starts_with(name));
    }
    let short = word.strip_prefix('-')?;
    let ends = short.find(|char| !SHORT_FLAGS.contains(char));
    let last = short[ends?..].chars().next();
    TAKEN.iter().find(|it| it.short.is_some() && it.short == last)
}

/// Returns true if the word after this one may be its value.
fn takes_next(word: &str) -> bool {
    if let Some(long) = word.strip_prefix("--") {
        return !long.contains('=') && !LONG_FLAGS.contains(&long);
    }
    let short = word.strip_prefix('-').unwrap_or_default();
    let mut rest = short.trim_start_matches(|char| SHORT_FLAGS.contains(char)).chars();
    rest.next().is_some() && rest.next().is_none()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(args: &[&str]) -> Option<String> {
        let args: Vec<String> = args.iter().map(ToString::to_string).collect();
        check_args(&args).err()
    }

    #[test]
    fn args_that_hide_jobs_are_refused_however_they_are_written() {
        for args in [
            &["--job-name=x"][..],
            &["--job-name", "x"],
            &["--job=x"],
            &["-Jx"],
            &["-J", "x"],
            &["-HJx"],
            &["-M", "other"],
            &["-Mother"],
            &["--clusters=other"],
            &["--cluster=other"],
            &["--array=1-3"],
            &["-a1-3"],
            &["-p", "main", "-a", "1"],
            &["--wrap=true"],
            &["--wrap", "true"],
            &["--parsable"],
            &["-W"],
            &["-QW"],
            &["--wait"],
            &["--test-only"],
            &["--uid=other"],
        ] {
            let said = refusal(args).unwrap_or_else(|| panic!("{args:?} is taken"));
            assert!(said.starts_with("leave `-"), "{said}");
            assert!(said.contains("out of the arguments for `sbatch`: "), "{said}");
        }
        assert_eq!(
            refusal(&["--job-name=x"]).unwrap(),
            "leave `--job-name` out of the arguments for `sbatch`: a pool finds its jobs by their \
             name"
        );
    }

    #[test]
    fn a_script_among_the_args_is_refused() {
        for args in [
            &["mine.sh"][..],
            &["-p", "main", "mine.sh"],
            &["--partition=main", "mine.sh"],
            &["-pmain", "mine.sh"],
            &["-H", "mine.sh"],
            &["--exclusive", "mine.sh"],
            &["--", "mine.sh"],
            &["-n1", ":", "-n2"],
            &[""],
        ] {
            let said = refusal(args).unwrap_or_else(|| panic!("{args:?} is taken"));
            assert!(said.contains("would be taken for a script"), "{said}");
        }
    }

    #[test]
    fn other_args_go_to_the_system_as_they_are() {
        for args in [
            &[][..],
            &["--partition=main", "--gres=gpu:1"],
            &["-p", "main", "-A", "account", "--qos", "high"],
            &["-pJohn", "-AMy", "-wn1"],
            &["--exclusive", "--nice=5", "-H", "--requeue"],
            &["--wait-all-nodes=1", "--account=a"],
            &["--comment", "two words"],
            &["--constraint=a&b"],
        ] {
            assert_eq!(refusal(args), None, "{args:?}");
        }
    }

    #[test]
    fn a_template_names_its_jobs_as_the_pool_does() {
        let ours = super::super::by_name("slurm").unwrap().script;
        assert!(ours.contains("\n#SBATCH"));
        check_template(ours).unwrap();
        check_directive(" -J {{name}} # --wait is not given").unwrap();
        for line in [" --job-name=mine", " -J mine", " -M other", " --array=1-9", " -p a \"-W\""] {
            let said = check_directive(line).unwrap_err();
            assert!(said.contains("out of the template: "), "{said}");
        }
    }

    #[test]
    fn nodes_are_left_out_beside_those_of_the_user() {
        let args = |args: &str| args.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
        let script = "#!/bin/bash\n#SBATCH --time=1 -x n7\n#SBATCH --exclusive\n";
        for (given, template, expected) in [
            ("", "", "--exclude=n1,n2"),
            ("--mem=1G", script, "--mem=1G --exclude=n7,n1,n2"),
            ("--exclude=n[3-4]", script, "--exclude=n[3-4] --exclude=n[3-4],n1,n2"),
            ("--exclude n3 -x n4", "", "--exclude n3 -x n4 --exclude=n4,n1,n2"),
            ("-Hxn3 --exclusive", "", "-Hxn3 --exclusive --exclude=n3,n1,n2"),
            ("--exclud=n3 -px", "", "--exclud=n3 -px --exclude=n3,n1,n2"),
            ("--exclude=./nodes", "", "--exclude=./nodes"),
        ] {
            let nodes = ["n1", "n2"].map(str::to_owned);
            assert_eq!(leave_out(&args(given), template, &nodes), args(expected));
        }
    }
}
