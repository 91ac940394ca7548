//! Kills what this process has started when this process dies, however it dies.
//!
//! A small shell loop reads the process groups that live from a pipe. The pipe's end of file is the
//! engine's death, which no signal handler could report: the loop then kills the groups and exits.
//! It is a shell, not a second copy of this binary, because a program that embeds the engine has
//! its own `main`.
//!
//! To tell it of each program that lives for half a millisecond costs a tenth of their rate, and
//! leaves the moment between a program's start and the telling. So there is a second way: what is
//! started with a *mark* in its environment ([`Reaper::mark`]) is found by that, in `/proc`. It
//! needs no telling, but a program can drop the mark; who lives longer is therefore told of as
//! well.

use std::collections::BTreeSet;
use std::io::{self, Write};
use std::os::unix::process::CommandExt;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};

use rustix::io::ioctl_fionbio;
use rustix::process::Pid;

/// The reaper of one engine process, started with the first group, or by [`Reaper::start`].
#[derive(Debug)]
pub struct Reaper {
    state: Mutex<State>,
    mark: String,
}

/// The variable that holds the mark.
pub const MARK_VARIABLE: &str = "FURLONG_REAPER";

#[derive(Debug, Default)]
struct State {
    groups: BTreeSet<i32>,
    shell: Option<(Child, ChildStdin)>,
}

impl Default for Reaper {
    fn default() -> Self {
        let mark = format!("{}-{:016x}", std::process::id(), rand::random::<u64>());
        Self { state: Mutex::default(), mark }
    }
}

impl Reaper {
    /// The value of [`MARK_VARIABLE`] for a process that must not outlive this one. It has an
    /// effect from [`Reaper::start`] on, and until the process starts a session of its own.
    pub fn mark(&self) -> &str {
        &self.mark
    }

    /// Starts the reaper, if it does not run yet.
    ///
    /// # Errors
    /// If `/bin/sh` cannot be started.
    pub fn start(&self) -> io::Result<()> {
        let mut state = self.lock();
        if state.shell.is_none() {
            state.start(&self.mark)?;
        }
        Ok(())
    }

    /// Registers a process group: it will not outlive this process.
    ///
    /// # Errors
    /// If `/bin/sh` cannot be started.
    pub fn add(&self, group: Pid) -> io::Result<()> {
        let mut state = self.lock();
        state.groups.insert(group.as_raw_nonzero().get());
        if state.tell("add", group).is_ok() {
            return Ok(());
        }
        // None yet, or somebody has killed or stopped it.
        state.start(&self.mark)
    }

    /// Forgets a group that has ended. Call it before the group's leader is waited for: from then
    /// on its number may be another's.
    pub fn remove(&self, group: Pid) {
        let mut state = self.lock();
        if state.groups.remove(&group.as_raw_nonzero().get()) && state.tell("del", group).is_err() {
            // One that does not listen must not keep a number that may become another's. Without a
            // new one, the next `add` tries again.
            let _ = state.start(&self.mark);
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Each change of the state is one step, so that of a poisoned lock is whole.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// It never waits: a pipe that is full is that of a reaper which somebody has stopped.
    fn tell(&mut self, verb: &str, group: Pid) -> io::Result<()> {
        let (_, stdin) = self.shell.as_mut().ok_or(io::ErrorKind::NotConnected)?;
        stdin.write_all(format!("{verb} {}\n", group.as_raw_nonzero()).as_bytes())
    }

    fn start(&mut self, mark: &str) -> io::Result<()> {
        self.stop();
        let (child, mut stdin) = start_shell(mark)?;
        for group in &self.groups {
            stdin.write_all(format!("add {group}\n").as_bytes())?;
        }
        ioctl_fionbio(&stdin, true)?;
        self.shell = Some((child, stdin));
        Ok(())
    }

    fn stop(&mut self) {
        if let Some((mut child, _stdin)) = self.shell.take() {
            // An error says that it has ended.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

fn start_shell(mark: &str) -> io::Result<(Child, ChildStdin)> {
    let mut command = Command::new("/bin/sh");
    // Without the environment: it must not look like one of those that it kills, nor like one of
    // another engine's.
    command
        .args(["-c", LOOP, "furlong-reaper", mark])
        .env_clear()
        .current_dir("/")
        .process_group(0);
    if let Some(path) = std::env::var_os("PATH") {
        command.env("PATH", path);
    }
    let mut child =
        command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null()).spawn()?;
    let stdin = child.stdin.take().expect("its stdin was asked for as a pipe");
    Ok((child, stdin))
}

/// `-s KILL` and not `-KILL`: dash takes `--` only after the former.
///
/// A process that has only just been forked shows its mark when it has become its program, hence
/// the repetition. Only those of the engine's session are killed: a daemon that somebody has
/// started on purpose has a session of its own.
const LOOP: &str = r#"trap '' INT TERM HUP QUIT
groups=' '
while read -r verb group; do
    case $verb in
    add) groups="$groups$group " ;;
    del) case $groups in *" $group "*) groups="${groups%% $group *} ${groups#* $group }" ;; esac ;;
    esac
done
for group in $groups; do kill -s KILL -- "-$group"; done
mark="FURLONG_REAPER=$1"
stat_of() {
    read -r stat <"$1" || return 1
    stat=${stat##*') '}
}
session_of() { echo "$4"; }
group_of() { echo "$3"; }
stat_of "/proc/$$/stat" || exit 0
session=$(session_of $stat)
for round in 1 2 3 4 5; do
    for file in $(grep -lzxFe "$mark" /proc/[0-9]*/environ); do
        stat_of "${file%environ}stat" || continue
        [ "$(session_of $stat)" = "$session" ] && kill -s KILL -- "-$(group_of $stat)"
    done
    sleep 0.1
done
"#;

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt;
    use std::process::ExitStatus;
    use std::time::{Duration, Instant};

    use super::*;

    /// Killed when it is dropped.
    struct Sleeper(Child);

    impl Sleeper {
        fn new(mark: Option<&str>) -> Self {
            let mut command = Command::new("sleep");
            command.arg("1000").process_group(0).envs(mark.map(|mark| (MARK_VARIABLE, mark)));
            Self(command.spawn().unwrap())
        }

        fn group(&self) -> Pid {
            Pid::from_child(&self.0)
        }

        fn ends(&mut self) -> ExitStatus {
            let deadline = Instant::now() + Duration::from_secs(20);
            while Instant::now() < deadline {
                if let Some(status) = self.0.try_wait().unwrap() {
                    return status;
                }
                std::thread::yield_now();
            }
            panic!("it has not ended");
        }
    }

    impl Drop for Sleeper {
        fn drop(&mut self) {
            let _ = self.0.kill();
            let _ = self.0.wait();
        }
    }

    #[test]
    fn groups_die_with_the_reapers_owner_unless_they_were_removed() {
        let reaper = Reaper::default();
        let [mut dies, mut lives, mut dies_too] = [(); 3].map(|()| Sleeper::new(None));
        for sleeper in [&dies, &lives, &dies_too] {
            reaper.add(sleeper.group()).unwrap();
        }
        reaper.remove(lives.group());
        drop(reaper);
        for sleeper in [&mut dies, &mut dies_too] {
            assert_eq!(sleeper.ends().signal(), Some(9));
        }
        assert!(lives.0.try_wait().unwrap().is_none());
    }

    #[test]
    fn a_reaper_that_was_killed_is_replaced_and_knows_all_groups() {
        let reaper = Reaper::default();
        let [mut first, second] = [(); 2].map(|()| Sleeper::new(None));
        reaper.add(first.group()).unwrap();
        {
            let mut state = reaper.lock();
            let (shell, _) = state.shell.as_mut().unwrap();
            shell.kill().unwrap();
            shell.wait().unwrap();
        }
        reaper.add(second.group()).unwrap();
        drop(reaper);
        first.ends();
    }

    #[test]
    fn what_has_the_mark_dies_with_the_reapers_owner_untold() {
        let (reaper, other) = (Reaper::default(), Reaper::default());
        let mut marked = Sleeper::new(Some(reaper.mark()));
        let mut of_another = Sleeper::new(Some(other.mark()));
        reaper.start().unwrap();
        drop(reaper);
        assert_eq!(marked.ends().signal(), Some(9));
        assert!(of_another.0.try_wait().unwrap().is_none());
    }

    #[test]
    fn a_reaper_that_was_stopped_does_not_stop_its_owner() {
        let reaper = Reaper::default();
        reaper.start().unwrap();
        let stopped = Pid::from_child(&reaper.lock().shell.as_ref().unwrap().0);
        rustix::process::kill_process(stopped, rustix::process::Signal::STOP).unwrap();
        let mut sleeper = Sleeper::new(None);
        for _ in 0..20_000 {
            reaper.add(sleeper.group()).unwrap();
        }
        drop(reaper);
        sleeper.ends();
    }
}
