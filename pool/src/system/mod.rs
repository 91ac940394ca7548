//! Batch systems as data: their commands, the words of their answers, their script.

mod htcondor;
pub mod kubernetes;
mod lsf;
mod pbs;
mod qsub;
mod sbatch;
mod sge;
mod slurm;

use crate::keeper::{JobId, JobState, LeavesOut, Listed, Refusal};

/// Jobs in an answer of a batch system, each with its name.
pub type NamedJobs = Vec<(Listed, String)>;

/// A batch system.
#[derive(Debug)]
pub struct System {
    /// Its name in flags and files.
    pub name: &'static str,
    /// Its name for people.
    pub title: &'static str,
    /// Its commands.
    pub commands: Commands,
    /// The script, with placeholders.
    pub script: &'static str,
    /// A character that is doubled in the name of an output file, where it begins what the system
    /// fills in.
    pub doubled: Option<char>,
    /// The id of a job as its own shell knows it.
    pub job_variable: &'static str,
    /// The parts of its answers that mean something.
    pub words: Words,
    /// Checks a user's own words for the command that submits: those with which a pool would lose
    /// sight of its jobs are refused.
    pub check_args: fn(&[String]) -> Result<(), String>,
    /// The same of the directives in a user's own script.
    pub check_template: fn(&str) -> Result<(), String>,
    /// Adds to a user's own words that nodes are left out, beside those that the user leaves out,
    /// in words or in a script; none where the system has no such words.
    pub leave_out: Option<LeaveOut>,
    /// The most jobs of one submit.
    pub array_max: u32,
    /// Seconds that a job may take, if nobody says.
    pub walltime_s: u64,
    /// True if its jobs are pods: containers of an image, which a manifest describes. Arguments
    /// are then for each command, and say where the pods are.
    pub is_of_pods: bool,
    /// True if each run of the command that submits makes one job, not an array of them.
    pub is_single: bool,
    /// Makes a shell's text a part of its script, where this is no script of a shell.
    pub in_script: Option<fn(&str) -> String>,
    /// Returns true for an id of its shape: only such a one is put into a command line or a path.
    pub is_id: fn(&str) -> bool,
    /// Reads the ids of so many jobs from a line that the command which submits has printed.
    pub read_ids: fn(&str, u32) -> Option<Vec<String>>,
    /// Reads a list: the jobs, and their names.
    pub read: fn(&System, &str) -> Result<NamedJobs, String>,
}

/// Words for the command that submits, a script, nodes to leave out: the words with them.
pub type LeaveOut = fn(&[String], &str, &[String]) -> Vec<String>;

/// The commands of a batch system, each as words that others follow.
#[derive(Debug)]
pub struct Commands {
    /// Submits the script on standard input.
    pub submit: &'static [&'static str],
    /// Says whether it would take the script on standard input, and takes it not; none where
    /// nobody can ask that.
    pub check: Option<&'static [&'static str]>,
    /// Lists the jobs of the name that follows, also those that have ended; none where names
    /// select nothing.
    pub list_named: Option<&'static [&'static str]>,
    /// Lists all jobs of this user.
    pub list_own: &'static [&'static str],
    /// Cancels those of the jobs whose ids follow that still wait.
    pub cancel_waiting: CancelWaiting,
    /// Cancels the jobs whose ids follow.
    pub cancel: &'static [&'static str],
}

/// The way in which jobs are cancelled that still wait.
#[derive(Clone, Copy, Debug)]
pub enum CancelWaiting {
    /// This command leaves those alone that have begun.
    Selects(&'static [&'static str]),
    /// It cancels jobs in any state: the system is asked right before which of them wait.
    Asks(&'static [&'static str]),
}

/// The parts of a batch system's answers that mean something.
#[derive(Debug)]
pub struct Words {
    /// The words of states; a job in another state runs.
    pub states: &'static [(&'static str, JobState)],
    /// Parts of answers that mean that there are no jobs, where no list says so.
    pub none: &'static [&'static str],
    /// Parts of refusals that mean that the queue is full.
    pub full: &'static [&'static str],
    /// Parts of refusals that no later attempt is spared.
    pub forbidden: &'static [&'static str],
    /// Parts of refusals that mean that no node could run the job; none where such a job waits.
    pub no_node: &'static [&'static str],
    /// Reasons that a user can do something about, and what.
    pub remedies: &'static [(&'static str, &'static str)],
    /// Beginnings of refusals that say nothing.
    pub prefaces: &'static [&'static str],
    /// The beginnings of variables of a job that would shape the commands that are run in it.
    pub variables: &'static [&'static str],
}

/// All batch systems.
const SYSTEMS: [&System; 6] =
    [&slurm::SLURM, &pbs::PBS, &sge::SGE, &lsf::LSF, &htcondor::HTCONDOR, &kubernetes::KUBERNETES];
/// Other names of systems.
const ALIASES: [(&str, &str); 1] = [("kubernetes", "k8s")];
/// Seconds of an hour.
const HOUR_S: u64 = 3_600;
/// The most characters of an id.
const ID_MAX: usize = 64;

/// The batch system of this name, or of another name that it has.
pub fn by_name(name: &str) -> Option<&'static System> {
    let alias = ALIASES.iter().find(|(alias, _)| *alias == name);
    let name = alias.map_or(name, |(_, name)| name);
    SYSTEMS.into_iter().find(|system| system.name == name)
}

/// All batch systems.
pub fn all() -> impl Iterator<Item = &'static System> {
    SYSTEMS.into_iter()
}

/// Reasons for which options of several commands are refused.
const NAME: &str = "a pool finds its jobs by their name";
const PROGRAM: &str = "a pool has a script; give yours with --template";
const NO_JOB: &str = "no job would be made; use --dry-run";

/// The refusal of an option.
fn left_out(option: &str, place: &str, why: &str) -> String {
    format!("leave `{option}` out of the {place}: {why}")
}

/// The refusal of a word that is no option.
fn no_script(word: &str, command: &str) -> String {
    format!(
        "leave `{word}` out of the arguments for `{command}`: it would be taken for a script; a \
         pool has one, and takes yours with --template"
    )
}

impl System {
    /// Reads a list of jobs, each with its name.
    ///
    /// # Errors
    /// What is wrong with it: half an answer is none.
    pub fn read_list(&self, text: &str) -> Result<NamedJobs, String> {
        let read = (self.read)(self, text)?;
        match read.iter().find(|(job, _)| !self.is_id(&job.id)) {
            Some((job, _)) => Err(self.unknown(&job.id.0)),
            None => Ok(read),
        }
    }

    /// Returns true if the last line of an answer means that there are no jobs.
    pub fn says_none(&self, said: &str) -> bool {
        let last = said.lines().rfind(|line| !line.trim().is_empty()).unwrap_or_default();
        self.words.none.iter().any(|none| last.contains(none))
    }

    /// Reads the jobs that a submit of so many has given: the last line with ids says it.
    ///
    /// # Errors
    /// The output has no id: jobs may have been made.
    pub fn read_submit(&self, text: &str, jobs: u32) -> Result<Vec<JobId>, Refusal> {
        let mut lines = text.lines().rev().map(str::trim).filter(|line| !line.is_empty());
        let ids = lines.clone().find_map(|line| (self.read_ids)(line, jobs));
        let ids: Option<Vec<JobId>> = ids.map(|ids| ids.into_iter().map(JobId).collect());
        ids.filter(|ids| ids.iter().all(|id| self.is_id(id))).ok_or_else(|| {
            let said = lines.next().map_or("nothing".to_owned(), shortened);
            Refusal::Unclear(format!("{} says no job's id: {said}", self.commands.submit[0]))
        })
    }

    /// Returns true if this may be an id: nothing else goes into a command line or a path.
    pub fn is_id(&self, id: &JobId) -> bool {
        let begins = self.is_of_pods || id.0.starts_with(|char: char| char.is_ascii_digit());
        begins && id.0.len() <= ID_MAX && (self.is_id)(&id.0)
    }

    /// The jobs of it that can leave nodes out.
    pub fn leaves_out(&self) -> LeavesOut {
        match (self.leave_out, self.words.no_node.is_empty()) {
            (None, _) => LeavesOut::Never,
            (Some(_), true) => LeavesOut::OnceProven,
            (Some(_), false) => LeavesOut::Always,
        }
    }

    /// The sentence about an answer that is none.
    fn unknown(&self, said: &str) -> String {
        let name = self.commands.list_own[0];
        format!("{name} answers what nobody understands: {}", shortened(said))
    }

    /// The refusal in a submit's words.
    pub fn refusal(&self, said: &str) -> Refusal {
        let text = self.in_a_line(said);
        if self.words.full.iter().any(|full| said.contains(full)) {
            return Refusal::Full(format!("the queue is full: {text}"));
        }
        let does = if self.is_of_pods { "fails" } else { "refuses the job" };
        let text = format!("{} {does}: {text}", self.commands.submit[0]);
        if self.words.forbidden.iter().any(|forbidden| said.contains(forbidden)) {
            return Refusal::Forbidden(text);
        }
        if self.words.no_node.iter().any(|no_node| said.contains(no_node)) {
            Refusal::NoNode(text)
        } else {
            Refusal::Refused(text)
        }
    }

    /// The first thing that a command has said of what is wrong, with a remedy if there is one.
    pub fn in_a_line(&self, said: &str) -> String {
        let prefixes = [
            format!("{}: error: ", self.commands.submit[0]),
            format!("{}: ", self.commands.submit[0]),
        ];
        let lines = said.lines().map(str::trim).filter(|line| !line.is_empty());
        let line = lines.clone().next().unwrap_or("it says nothing");
        let line =
            prefixes.iter().fold(line, |line, prefix| line.trim_start_matches(prefix.as_str()));
        let prefaces = self.words.prefaces.iter();
        let line = prefaces.fold(line, |line, preface| line.trim_start_matches(*preface));
        let line = shortened(line);
        let remedy = self.words.remedies.iter().find(|(part, _)| said.contains(part));
        match remedy {
            Some((_, remedy)) => format!("{line}; {remedy}"),
            None => line,
        }
    }

    /// The state that a word means.
    fn state(&self, word: &str) -> JobState {
        let known = self.words.states.iter().find(|(known, _)| *known == word);
        known.map_or(JobState::Running, |(_, state)| *state)
    }

    /// A reason, with a remedy if there is one.
    fn reason(&self, reason: &str) -> String {
        match self.words.remedies.iter().find(|(part, _)| reason.contains(part)) {
            Some((_, remedy)) => format!("{reason}: {remedy}"),
            None => reason.to_owned(),
        }
    }
}

/// A line that is fit for a sentence.
fn shortened(line: &str) -> String {
    line.trim().chars().filter(|char| !char.is_control()).take(LINE_MAX).collect()
}

/// The most characters of a line in a sentence.
const LINE_MAX: usize = 160;
