//! Batch systems as data: their commands, the words of their answers, their script.

mod slurm;

use crate::keeper::{JobId, JobState, Listed, Refusal};

/// A batch system.
#[derive(Debug)]
pub struct System {
    /// Its name in flags and files.
    pub name: &'static str,
    /// Its name for people.
    pub title: &'static str,
    /// Submits the script on standard input.
    pub submit: &'static [&'static str],
    /// Says whether it would take the script on standard input, and takes it not.
    pub check: &'static [&'static str],
    /// Lists the jobs of the name that follows.
    pub list_named: &'static [&'static str],
    /// Lists all jobs of this user.
    pub list_own: &'static [&'static str],
    /// Cancels those of the jobs whose ids follow that still wait.
    pub cancel_waiting: &'static [&'static str],
    /// Cancels the jobs whose ids follow.
    pub cancel: &'static [&'static str],
    /// The script, with placeholders.
    pub script: &'static str,
    /// The id of a job as its own shell knows it.
    pub job_variable: &'static str,
    /// The words of states; a job in another state runs.
    pub states: &'static [(&'static str, JobState)],
    /// Parts of refusals that mean that the queue is full.
    pub full: &'static [&'static str],
    /// Reasons that a user can do something about, and what.
    pub remedies: &'static [(&'static str, &'static str)],
    /// The most jobs of one submit.
    pub array_max: u32,
    /// Reads a line of a list: the job, and its name.
    pub read_line: fn(&System, &str) -> Option<(Listed, String)>,
}

/// All batch systems.
const SYSTEMS: [&System; 1] = [&slurm::SLURM];

/// The batch system of this name.
pub fn by_name(name: &str) -> Option<&'static System> {
    SYSTEMS.into_iter().find(|system| system.name == name)
}

/// All batch systems.
pub fn all() -> impl Iterator<Item = &'static System> {
    SYSTEMS.into_iter()
}

impl System {
    /// Reads a list of jobs, each with its name.
    ///
    /// # Errors
    /// What is wrong with it: half an answer is none.
    pub fn read_list(&self, text: &str) -> Result<Vec<(Listed, String)>, String> {
        let lines = text.lines().filter(|line| !line.trim().is_empty());
        let read = lines.map(|line| {
            (self.read_line)(self, line).ok_or_else(|| {
                let said = line.trim().chars().take(100).collect::<String>();
                format!("{} answers what nobody understands: {said}", self.list_named[0])
            })
        });
        read.collect()
    }

    /// Reads the jobs that a submit of so many has given.
    ///
    /// # Errors
    /// The output has no id: jobs may have been made.
    pub fn read_submit(&self, text: &str, jobs: u32) -> Result<Vec<JobId>, Refusal> {
        let last = text.lines().rfind(|line| !line.trim().is_empty()).unwrap_or_default();
        let id = last.split(';').next().unwrap_or_default();
        let id = id.split(|char: char| !char.is_ascii_digit()).rfind(|word| !word.is_empty());
        let Some(id) = id else {
            let said = last.trim().chars().take(100).collect::<String>();
            let said = if said.is_empty() { "nothing".to_owned() } else { said };
            return Err(Refusal::Unclear(format!("{} says no job's id: {said}", self.submit[0])));
        };
        Ok((1..=jobs).map(|n| JobId(format!("{id}_{n}"))).collect())
    }

    /// The refusal in a submit's words.
    pub fn refusal(&self, said: &str) -> Refusal {
        let text = self.in_a_line(said);
        if self.full.iter().any(|full| said.contains(full)) {
            Refusal::Full(format!("the queue is full: {text}"))
        } else {
            Refusal::Refused(format!("{} refuses the job: {text}", self.submit[0]))
        }
    }

    /// The first thing that a command has said of what is wrong, with a remedy if there is one.
    pub fn in_a_line(&self, said: &str) -> String {
        let prefixes = [format!("{}: error: ", self.submit[0]), format!("{}: ", self.submit[0])];
        let lines = said.lines().map(str::trim).filter(|line| !line.is_empty());
        let line = lines.clone().next().unwrap_or("it says nothing");
        let line =
            prefixes.iter().fold(line, |line, prefix| line.trim_start_matches(prefix.as_str()));
        let remedy = self.remedies.iter().find(|(part, _)| said.contains(part));
        match remedy {
            Some((_, remedy)) => format!("{line}; {remedy}"),
            None => line.to_owned(),
        }
    }

    /// The state that a word means.
    fn state(&self, word: &str) -> JobState {
        let known = self.states.iter().find(|(known, _)| *known == word);
        known.map_or(JobState::Running, |(_, state)| *state)
    }

    /// A reason, with a remedy if there is one.
    fn reason(&self, reason: &str) -> String {
        match self.remedies.iter().find(|(part, _)| reason.contains(part)) {
            Some((_, remedy)) => format!("{reason}: {remedy}"),
            None => reason.to_owned(),
        }
    }
}
