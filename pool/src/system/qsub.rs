//! The options of the other systems' commands that submit: those with which a pool would lose sight
//! of its jobs are refused, as are those of `sbatch`.

use super::{NAME, NO_JOB, PROGRAM, left_out, no_script};

/// An option with which a pool would lose sight of its jobs.
#[derive(Debug)]
struct Taken {
    /// The option, with its dash.
    option: &'static str,
    /// The placeholder that makes it the pool's own, in a template.
    ours: &'static str,
    why: &'static str,
}

/// The options of one system's command.
#[derive(Debug)]
pub struct Table {
    command: &'static str,
    /// The beginning of a directive in a script.
    directive: &'static str,
    taken: &'static [Taken],
    /// Options that no value follows.
    flags: &'static [&'static str],
    /// Options that a value follows; none where it follows all others. A word behind an option that
    /// is not known could be its value or a script.
    values: &'static [&'static str],
    /// Options that two values follow.
    pairs: &'static [&'static str],
    /// True if an option has one letter, which its value may follow at once.
    are_letters: bool,
}

const ARRAY: &str = "a pool chooses the number of its jobs";
const WAITS: &str = "a pool does not wait for its jobs, and talks to none of them";
const OUTPUT: &str = "a pool reads its jobs' logs where it has them written";

const fn taken(option: &'static str, why: &'static str) -> Taken {
    Taken { option, ours: "", why }
}

pub static SGE: Table = Table {
    command: "qsub",
    directive: "#$",
    taken: &[
        Taken { option: "-N", ours: "{{name}}", why: NAME },
        Taken { option: "-t", ours: "{{jobs}}", why: ARRAY },
        Taken { option: "-o", ours: "{{folder}}", why: OUTPUT },
        taken("-e", OUTPUT),
        taken("-terse", "a pool asks for ids itself"),
        taken("-sync", WAITS),
        taken("-now", WAITS),
        taken("-b", PROGRAM),
        taken("-C", PROGRAM),
        taken("-@", "write the options themselves: a file of them may hide jobs"),
        taken("-verify", NO_JOB),
        taken("-w", NO_JOB),
    ],
    flags: &["-cwd", "-h", "-hard", "-soft", "-notify", "-V", "-clear"],
    values: &[],
    pairs: &["-pe"],
    are_letters: false,
};

pub static PBS: Table = Table {
    command: "qsub",
    directive: "#PBS",
    taken: &[
        Taken { option: "-N", ours: "{{name}}", why: NAME },
        taken("-J", ARRAY),
        taken("-t", ARRAY),
        taken("-I", WAITS),
        taken("-X", WAITS),
        taken("-z", "a pool reads the ids of its jobs"),
        taken("-C", PROGRAM),
        taken("-x", PROGRAM),
    ],
    flags: &["-V", "-h", "-f"],
    values: &[],
    pairs: &[],
    are_letters: true,
};

pub static LSF: Table = Table {
    command: "bsub",
    directive: "#BSUB",
    taken: &[
        Taken { option: "-J", ours: "{{name}}", why: NAME },
        taken("-I", WAITS),
        taken("-K", WAITS),
        taken("-pack", PROGRAM),
        taken("-json", PROGRAM),
        taken("-yaml", PROGRAM),
        taken("-jsdl", PROGRAM),
        taken("-clusters", "a pool looks for its jobs on one cluster"),
    ],
    flags: &["-ar", "-B", "-H", "-hl", "-N", "-Ne", "-r", "-rn", "-ul", "-x"],
    values: &[
        "-a",
        "-app",
        "-b",
        "-c",
        "-C",
        "-cwd",
        "-D",
        "-data",
        "-e",
        "-E",
        "-Ep",
        "-eo",
        "-env",
        "-ext",
        "-f",
        "-F",
        "-g",
        "-G",
        "-gpu",
        "-hostfile",
        "-i",
        "-is",
        "-k",
        "-L",
        "-Lp",
        "-m",
        "-M",
        "-mig",
        "-n",
        "-network",
        "-o",
        "-oo",
        "-outdir",
        "-p",
        "-P",
        "-q",
        "-Q",
        "-R",
        "-S",
        "-sla",
        "-sp",
        "-T",
        "-u",
        "-U",
        "-v",
        "-w",
        "-W",
        "-wa",
        "-We",
        "-wt",
    ],
    pairs: &[],
    are_letters: false,
};

impl Table {
    /// Checks the arguments for the command.
    ///
    /// # Errors
    /// The word that is refused, and why.
    pub fn check_args(&self, args: &[String]) -> Result<(), String> {
        let mut values = 0;
        for arg in args {
            if values > 0 {
                values -= 1;
                self.check_value(arg)?;
                continue;
            }
            if let Some(it) = self.find(arg) {
                let place = format!("arguments for `{}`", self.command);
                return Err(left_out(it.option, &place, it.why));
            }
            if !arg.starts_with('-') || arg == "-" || arg == "--" {
                return Err(no_script(arg, self.command));
            }
            values = self.values_after(arg).ok_or_else(|| {
                let place = format!("arguments for `{}`", self.command);
                left_out(arg, &place, "a pool does not know it; a template may have it")
            })?;
        }
        Ok(())
    }

    /// Checks the directives of a template. A name and an array there are those of the pool.
    ///
    /// # Errors
    /// The option that is refused, and why.
    pub fn check_template(&self, template: &str) -> Result<(), String> {
        for line in template.lines().filter_map(|line| line.strip_prefix(self.directive)) {
            let taken = line.split_whitespace().filter_map(|word| self.find(word));
            let is_ours = |it: &Taken| !it.ours.is_empty() && line.contains(it.ours);
            if let Some(it) = taken.into_iter().find(|it| !is_ours(it)) {
                return Err(left_out(it.option, "template", it.why));
            }
        }
        Ok(())
    }

    /// Jobs on another server, and a command that waits, are values of options that are good.
    fn check_value(&self, value: &str) -> Result<(), String> {
        if self.are_letters && (value.contains('@') && !value.contains('=')) {
            return Err(format!("leave `{value}` out: a pool looks for its jobs on one server"));
        }
        if self.are_letters && value.to_ascii_lowercase().contains("block=") {
            return Err(format!("leave `{value}` out: {WAITS}"));
        }
        Ok(())
    }

    fn find(&self, word: &str) -> Option<&'static Taken> {
        // Where its other options are known, none of them begins like one of these.
        let is_joined = self.are_letters || !self.values.is_empty();
        let is_it = |it: &&Taken| word == it.option || (is_joined && word.starts_with(it.option));
        self.taken.iter().find(is_it)
    }

    /// The number of words after an option that are its values, if it is known.
    fn values_after(&self, option: &str) -> Option<usize> {
        if self.flags.contains(&option) || (self.are_letters && option.len() > 2) {
            return Some(0);
        }
        if self.pairs.contains(&option) {
            return Some(2);
        }
        (self.values.is_empty() || self.values.contains(&option)).then_some(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(table: &Table, args: &[&str]) -> Option<String> {
        let args: Vec<String> = args.iter().map(ToString::to_string).collect();
        table.check_args(&args).err()
    }

    #[test]
    fn args_that_hide_jobs_are_refused() {
        for (table, args) in [
            (&SGE, &["-N", "x"][..]),
            (&SGE, &["-q", "long", "-t", "1-3"]),
            (&SGE, &["-sync", "y"]),
            (&SGE, &["-pe", "smp", "4", "mine.sh"]),
            (&SGE, &["-V", "mine.sh"]),
            (&SGE, &["-@", "file"]),
            (&SGE, &["-w", "p"]),
            (&PBS, &["-Nx"]),
            (&PBS, &["-N", "x"]),
            (&PBS, &["-J1-3"]),
            (&PBS, &["-I"]),
            (&PBS, &["-W", "block=true"]),
            (&PBS, &["-q", "long@other"]),
            (&PBS, &["-l", "mem=1gb", "mine.sh"]),
            (&PBS, &["--", "/bin/true"]),
            (&LSF, &["-J", "x"]),
            (&LSF, &["-Jx"]),
            (&LSF, &["-q", "long", "-Is"]),
            (&LSF, &["-K"]),
            (&LSF, &["-pack", "file"]),
            (&LSF, &["-x", "mine.sh"]),
            (&LSF, &["-n4", "mine.sh"]),
            (&LSF, &["-q", "long", "mine.sh"]),
            (&LSF, &["-clusters", "other"]),
        ] {
            let said = refusal(table, args).unwrap_or_else(|| panic!("{args:?} is taken"));
            assert!(said.starts_with("leave `"), "{said}");
        }
        let said = refusal(&SGE, &["-N", "x"]).unwrap();
        assert_eq!(
            said,
            "leave `-N` out of the arguments for `qsub`: a pool finds its jobs by their name"
        );
    }

    #[test]
    fn other_args_go_to_the_system_as_they_are() {
        for (table, args) in [
            (&SGE, &[][..]),
            (&SGE, &["-q", "long", "-P", "project", "-l", "gpu=1"]),
            (&SGE, &["-pe", "smp", "4", "-V", "-notify"]),
            (&PBS, &["-q", "long", "-A", "account", "-l", "select=1:ngpus=1"]),
            (&LSF, &["-q", "long", "-P", "project", "-gpu", "num=1", "-x"]),
            (&LSF, &["-R", "rusage[mem=4GB]", "-H", "-n", "4", "-app", "x"]),
            (&PBS, &["-qlong", "-W", "group_list=g", "-M", "u=me@example.org"]),
        ] {
            assert_eq!(refusal(table, args), None, "{args:?}");
        }
    }

    #[test]
    fn a_template_names_its_jobs_as_the_pool_does() {
        for (table, name) in [(&SGE, "sge"), (&PBS, "pbs"), (&LSF, "lsf")] {
            let ours = super::super::by_name(name).unwrap().script;
            assert!(ours.contains(&format!("\n{}", table.directive)));
            table.check_template(ours).unwrap();
            let option = table.taken[0].option;
            let wrong = format!("{} {option} mine", table.directive);
            let said = table.check_template(&wrong).unwrap_err();
            assert!(said.starts_with(&format!("leave `{option}` out of the template: ")), "{said}");
        }
    }
}
