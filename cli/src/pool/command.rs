//! The commands of batch systems: each has a time limit, and what goes wrong is said in a line.

use std::fs::File;
use std::io::{Seek, Write};
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use furlong_pool::keeper::{JobId, JobState, Listed, Refusal};
use furlong_pool::script::{quoted, quoted_behind};
use furlong_pool::system::{CancelWaiting, System};
use rustix::process::{Pid, Signal, kill_process_group};
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::process::Command;
use tokio::time::Instant;

/// The time limit of a command.
const COMMAND_TIMEOUT: Duration = Duration::from_secs(30);
/// Systems that make one job a command make no more for one order after this time.
const SINGLE_TIMEOUT: Duration = Duration::from_secs(15);
/// The bytes that a pipe takes before anybody reads.
const PIPE_BYTES: usize = 64 * 1024;
/// The most bytes of a command's output that are read.
const OUTPUT_BYTES_MAX: u64 = 32 * 1024 * 1024;

/// A batch system on this machine, or behind words that lead to it.
#[derive(Clone, Debug)]
pub struct Scheduler {
    /// The system.
    pub system: &'static System,
    /// Words before each command.
    pub via: Vec<String>,
    /// Arguments of each command, behind its first word.
    pub place: Vec<String>,
    timeout: Duration,
}

/// The outcome of a command.
enum Ran {
    /// It has ended; its output, and its errors unless it succeeded.
    Ended(String, Option<String>),
    /// It is not there.
    Missing(String),
    /// It did not end in time, and had said this.
    Hung(String),
}

impl Scheduler {
    /// This system, whose commands are found behind these words, and all have these arguments.
    pub fn new(system: &'static System, via: Vec<String>, place: Vec<String>) -> Self {
        Self { system, via, place, timeout: COMMAND_TIMEOUT }
    }

    /// Submits a script.
    ///
    /// # Errors
    /// The reason that it gave no jobs, or that this is not known.
    pub async fn submit(
        &self,
        script: File,
        args: &[String],
        dir: &Path,
        jobs: u32,
    ) -> Result<Vec<JobId>, Refusal> {
        let words = self.system.commands.submit;
        let (runs, each) = if self.system.is_single { (jobs, 1) } else { (1, jobs) };
        let (mut given, deadline) = (Vec::new(), Instant::now() + SINGLE_TIMEOUT);
        for _ in 0..runs {
            let again = script.try_clone().and_then(|mut file| file.rewind().map(|()| file));
            let again = again.map_err(|error| Refusal::Refused(error.to_string()))?;
            let ran = self.run(words, args, Some(again), Some(dir)).await;
            match self.given(ran, each) {
                Ok(ids) => given.extend(ids),
                // What this one may have made is found with the others by its name.
                Err(unclear @ Refusal::Unclear(_)) => return Err(unclear),
                Err(_) if !given.is_empty() => break,
                Err(refusal) => return Err(refusal),
            }
            if Instant::now() >= deadline {
                break;
            }
        }
        Ok(given)
    }

    /// The jobs that a run of the command has given, of so many.
    fn given(&self, ran: Ran, jobs: u32) -> Result<Vec<JobId>, Refusal> {
        match ran {
            Ran::Ended(output, None) => self.system.read_submit(&output, jobs),
            Ran::Ended(_, Some(errors)) => Err(self.system.refusal(&errors)),
            Ran::Missing(text) => Err(Refusal::Refused(text)),
            Ran::Hung(said) => match self.system.refusal(&said) {
                full @ Refusal::Full(_) => Err(full),
                _ => Err(Refusal::Unclear(self.hung(self.system.commands.submit))),
            },
        }
    }

    /// Asks if a script would be taken: what the system says to it. Where nobody can ask that, only
    /// whether the system is there.
    ///
    /// # Errors
    /// The reason that it would not.
    pub async fn check(&self, script: File, args: &[String]) -> Result<String, String> {
        let title = self.system.title;
        let Some(words) = self.system.commands.check else {
            self.list_own().await?;
            return Ok(format!("{title} cannot be asked if it would take this"));
        };
        match self.run(words, args, Some(script), None).await {
            // The answer is on standard error, success or not.
            Ran::Ended(said, None) => Ok(said.trim().to_owned()),
            Ran::Ended(_, Some(errors)) => Err(self.system.refusal(&errors).text().to_owned()),
            Ran::Missing(text) => Err(text),
            Ran::Hung(_) => Err(self.hung(words)),
        }
    }

    /// Lists the jobs of a name.
    ///
    /// # Errors
    /// The reason that there is no list.
    pub async fn list_named(&self, name: &str) -> Result<Vec<Listed>, String> {
        let all = match self.system.commands.list_named {
            Some(words) => self.list(words, &[name.to_owned()]).await?,
            None => self.list_own().await?,
        };
        // A name may be an option that this system does not know, and leaves aside.
        Ok(all.into_iter().filter(|(_, it)| it == name).map(|(job, _)| job).collect())
    }

    /// Lists all jobs of this user that have not ended, each with its name.
    ///
    /// # Errors
    /// The reason that there is no list.
    pub async fn list_own(&self) -> Result<Vec<(Listed, String)>, String> {
        self.list(self.system.commands.list_own, &[]).await
    }

    /// Cancels those of these jobs that still wait. Where no command leaves the others alone, it is
    /// asked right before which of them do.
    ///
    /// # Errors
    /// The command's words.
    pub async fn cancel_waiting(&self, ids: &[JobId]) -> Result<(), String> {
        let words = match self.system.commands.cancel_waiting {
            CancelWaiting::Selects(words) => return self.cancel_by(words, ids).await,
            CancelWaiting::Asks(words) => words,
        };
        if ids.is_empty() {
            return Ok(());
        }
        let listed = self.list_own().await?.into_iter().map(|(job, _)| job);
        let waiting = listed.filter(|job| job.state == JobState::Pending && ids.contains(&job.id));
        let waiting: Vec<JobId> = waiting.map(|job| job.id).collect();
        self.cancel_by(words, &waiting).await
    }

    /// Cancels jobs.
    ///
    /// # Errors
    /// The command's words.
    pub async fn cancel(&self, ids: &[JobId]) -> Result<(), String> {
        self.cancel_by(self.system.commands.cancel, ids).await
    }

    async fn cancel_by(&self, words: &[&'static str], ids: &[JobId]) -> Result<(), String> {
        if ids.is_empty() {
            return Ok(());
        }
        if let Some(wrong) = ids.iter().find(|id| !self.system.is_id(id)) {
            return Err(format!("`{wrong}` is no job's id"));
        }
        let ids: Vec<String> = ids.iter().map(ToString::to_string).collect();
        match self.run(words, &ids, None, None).await {
            Ran::Ended(_, None) => Ok(()),
            Ran::Ended(_, Some(errors)) => Err(self.system.in_a_line(&errors)),
            Ran::Missing(text) => Err(text),
            Ran::Hung(_) => Err(self.hung(words)),
        }
    }

    /// The command line of a submit, as a person would write it.
    pub fn submit_line(&self, args: &[String], script: &str) -> String {
        let words = self.via.iter().map(String::as_str);
        let submit = self.system.commands.submit.iter().copied();
        let words = words.chain(submit.clone().take(1));
        let words = words.chain(self.place.iter().map(String::as_str)).chain(submit.skip(1));
        let words = words.chain(args.iter().map(String::as_str));
        words.map(quoted).collect::<Vec<_>>().join(" ") + " < " + script
    }

    /// Runs another command of the system with this text as its standard input, and gives what it
    /// prints.
    ///
    /// # Errors
    /// What the command says, as a submit would be refused.
    pub async fn tell(
        &self,
        words: &[&str],
        more: &[String],
        text: Option<&str>,
    ) -> Result<String, Refusal> {
        let input = text.map(as_input).transpose();
        let input = input.map_err(|error| Refusal::Refused(error.to_string()))?;
        match self.run(words, more, input, None).await {
            Ran::Ended(output, None) => Ok(output),
            Ran::Ended(_, Some(errors)) => Err(self.system.refusal(&errors)),
            Ran::Missing(text) => Err(Refusal::Refused(text)),
            Ran::Hung(_) => Err(Refusal::Refused(self.hung(words))),
        }
    }

    async fn list(&self, words: &[&str], more: &[String]) -> Result<Vec<(Listed, String)>, String> {
        match self.run(words, more, None, None).await {
            Ran::Ended(output, errors)
                if self.system.says_none(errors.as_deref().unwrap_or(&output)) =>
            {
                Ok(Vec::new())
            }
            // Half a list would say of the other half that it has ended.
            Ran::Ended(output, None) if output.len() as u64 >= OUTPUT_BYTES_MAX => {
                Err(format!("{} answers more than {OUTPUT_BYTES_MAX} bytes", words[0]))
            }
            Ran::Ended(output, None) => self.system.read_list(&output),
            Ran::Ended(_, Some(errors)) => {
                Err(format!("{} fails: {}", words[0], self.system.in_a_line(&errors)))
            }
            Ran::Missing(text) => Err(text),
            Ran::Hung(_) => Err(self.hung(words)),
        }
    }

    fn hung(&self, words: &[&str]) -> String {
        let (name, seconds) = (words[0], self.timeout.as_secs());
        format!("{name} does not answer within {seconds} s; try it by hand")
    }

    /// Runs a command. The script is its standard input, and locked for as long as it has it.
    async fn run(
        &self,
        words: &[&str],
        more: &[String],
        script: Option<File>,
        dir: Option<&Path>,
    ) -> Ran {
        let rest = words.iter().copied().skip(1).chain(more.iter().map(String::as_str));
        let words = words.iter().copied().take(1);
        let words = words.chain(self.place.iter().map(String::as_str)).chain(rest);
        let words = words.map(|word| quoted_behind(&self.via, word));
        let words: Vec<String> = self.via.iter().cloned().chain(words).collect();
        let mut command = Command::new(&words[0]);
        // A submit that is under way when this process ends goes on to its end.
        command.args(&words[1..]).kill_on_drop(script.is_none()).process_group(0);
        command.stdin(script.map_or_else(Stdio::null, Stdio::from));
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        dir.filter(|dir| dir.is_dir()).map(|dir| command.current_dir(dir));
        remove_job_variables(&mut command, self.system);
        let mut child = match command.spawn() {
            Ok(child) => child,
            Err(error) => return Ran::Missing(self.missing(&words[0], &error)),
        };
        drop(command);
        let (mut output, mut errors) = (Vec::new(), Vec::new());
        let ended = {
            let output = read(child.stdout.take(), &mut output);
            let errors = read(child.stderr.take(), &mut errors);
            let all = async { tokio::join!(output, errors, child.wait()).2 };
            tokio::time::timeout(self.timeout, all).await
        };
        let [output, errors] =
            [output, errors].map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
        match ended {
            Ok(Ok(status)) if status.success() => {
                // A check says all of it there.
                let said = if output.trim().is_empty() { errors } else { output };
                Ran::Ended(said, None)
            }
            Ok(_) => {
                let said = if errors.trim().is_empty() { output.clone() } else { errors };
                Ran::Ended(output, Some(said))
            }
            Err(_) => {
                // With what it has started: a wrapper is not all of it.
                let group = child.id().and_then(|pid| Pid::from_raw(pid.cast_signed()));
                let _ = group.map(|group| kill_process_group(group, Signal::KILL));
                let _ = child.kill().await;
                Ran::Hung(errors)
            }
        }
    }

    fn missing(&self, word: &str, error: &std::io::Error) -> String {
        let title = self.system.title;
        if error.kind() == std::io::ErrorKind::NotFound {
            return format!(
                "there is no `{word}` here; run this where {title}'s commands are, or name the way \
                 there with --via 'ssh HOST'"
            );
        }
        format!("`{word}` cannot be run: {error}")
    }
}

/// A text as the standard input of a command. It is on no disk.
fn as_input(text: &str) -> std::io::Result<File> {
    let (reader, mut writer) = std::io::pipe()?;
    if text.len() > PIPE_BYTES {
        return Err(std::io::Error::other("the text is too long for a pipe"));
    }
    writer.write_all(text.as_bytes())?;
    Ok(File::from(std::os::fd::OwnedFd::from(reader)))
}

async fn read(pipe: Option<impl AsyncRead + Unpin>, into: &mut Vec<u8>) {
    if let Some(pipe) = pipe {
        // What is read until it breaks is what there is.
        let _ = pipe.take(OUTPUT_BYTES_MAX).read_to_end(into).await;
    }
}

/// A keeper that itself runs in a job has that job's variables, which would shape others; and those
/// that stand for options of the commands can give jobs another name or cluster, or leave them out
/// of a list.
fn remove_job_variables(command: &mut Command, system: &System) {
    let names = std::env::vars_os().filter_map(|(name, _)| name.into_string().ok());
    for name in names.filter(|name| shapes_commands(name, system)) {
        command.env_remove(name);
    }
    command.env_remove("FURLONG_CAP");
}

/// Returns true if a variable of this name shapes what the system's commands do.
fn shapes_commands(name: &str, system: &System) -> bool {
    let prefixes = system.words.variables;
    name != "SLURM_CONF" && prefixes.iter().any(|prefix| name.starts_with(prefix))
}

#[cfg(test)]
mod tests {
    use furlong_pool::system::by_name;

    use super::*;

    /// Slurm whose commands are this shell script.
    fn slurm(script: &str, timeout: Duration) -> Scheduler {
        let via = ["sh", "-c", script].map(str::to_owned).to_vec();
        Scheduler { timeout, ..Scheduler::new(by_name("slurm").unwrap(), via, Vec::new()) }
    }

    #[tokio::test]
    async fn a_command_that_hangs_is_ended_and_its_outcome_unclear() {
        let hangs = slurm("tail -f /dev/null", Duration::from_millis(200));
        let error = hangs.list_named("name").await.unwrap_err();
        assert_eq!(error, "squeue does not answer within 0 s; try it by hand");
        let script = tempfile::tempfile().unwrap();
        let given = hangs.submit(script, &[], Path::new("/"), 1).await;
        assert!(matches!(given, Err(Refusal::Unclear(_))), "{given:?}");
        let full = slurm(
            "echo 'sbatch: error: Slurm temporarily unable to accept job' >&2; tail -f /dev/null",
            Duration::from_secs(2),
        );
        let script = tempfile::tempfile().unwrap();
        let given = full.submit(script, &[], Path::new("/"), 1).await;
        assert!(matches!(given, Err(Refusal::Full(_))), "{given:?}");
    }

    #[tokio::test]
    async fn only_jobs_of_the_name_are_listed() {
        let line = "echo '1_1|RUNNING|n1|1:00|furlong-a-1-x|N/A|None'; \
                    echo '2|RUNNING|n1|1:00|other|N/A|None'";
        let slurm = slurm(line, COMMAND_TIMEOUT);
        assert_eq!(slurm.list_named("other").await.unwrap().len(), 1);
        assert_eq!(slurm.list_named("another").await, Ok(Vec::new()));
    }

    #[tokio::test]
    async fn waiting_jobs_are_asked_for_before_they_are_cancelled() {
        let folder = tempfile::tempdir().unwrap();
        let told = folder.path().join("told");
        let script = format!(
            "case $0 in qdel) echo \"$@\" >> {};; esac\n\
             for it in 1:Q 2:R 3:Q 4:Q; do printf 'Job Id: %s.s\\n    Job_Name = a\\n' ${{it%:*}}\n\
             echo \"    job_state = ${{it#*:}}\"; done",
            told.display()
        );
        let via = ["sh", "-c", &script].map(str::to_owned).to_vec();
        let pbs = Scheduler::new(by_name("pbs").unwrap(), via, Vec::new());
        let ids = |ids: &[&str]| ids.iter().map(|id| JobId((*id).to_owned())).collect::<Vec<_>>();
        pbs.cancel_waiting(&ids(&["1", "2", "3", "9"])).await.unwrap();
        assert_eq!(std::fs::read_to_string(&told).unwrap(), "1 3\n");
        let error = pbs.cancel(&ids(&["1", "-Wforce"])).await.unwrap_err();
        assert_eq!(error, "`-Wforce` is no job's id");
        assert_eq!(std::fs::read_to_string(&told).unwrap(), "1 3\n");
    }

    #[tokio::test]
    async fn jobs_of_single_submits_come_together_until_one_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().display().to_string();
        let script = format!(
            "cd {path}; grep -q whole || exit 9; echo x >> made; n=$(grep -c x made)\n\
             [ $n -le 3 ] || {{ echo 'qsub: would exceed limit on number of jobs' >&2; exit 1; }}\n\
             echo $n.server"
        );
        let via = ["sh", "-c", &script].map(str::to_owned).to_vec();
        let pbs = Scheduler::new(by_name("pbs").unwrap(), via, Vec::new());
        let file = folder.path().join("script");
        std::fs::write(&file, "the whole script\n").unwrap();
        let submit = || pbs.submit(File::open(&file).unwrap(), &[], Path::new("/"), 5);
        let ids = ["1", "2", "3"].map(|id| JobId(id.to_owned())).to_vec();
        assert_eq!(submit().await, Ok(ids));
        assert!(matches!(submit().await, Err(Refusal::Full(_))));
    }

    #[test]
    fn variables_that_stand_for_options_are_removed() {
        let slurm = by_name("slurm").unwrap();
        for name in ["SLURM_JOB_ID", "SBATCH_JOB_NAME", "SBATCH_ARRAY_INX", "SQUEUE_STATES"] {
            assert!(shapes_commands(name, slurm), "{name}");
        }
        assert!(shapes_commands("SCANCEL_INTERACTIVE", slurm));
        for name in ["SLURM_CONF", "PATH", "HOME", "MY_SBATCH_X"] {
            assert!(!shapes_commands(name, slurm), "{name}");
        }
    }
}
