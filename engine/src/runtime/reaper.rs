//! Kills what this process has started when this process dies, however it dies.
//!
//! A small shell loop reads the process groups that live from a pipe. The pipe's end of file is the engine's death,
//! which no signal handler could report: the loop then kills the groups and exits. It is a shell, not a second copy of
//! this binary, because a program that embeds the engine has its own `main`.

use std::collections::BTreeSet;
use std::io;
use std::process::Stdio;

use rustix::process::Pid;
use tokio::io::AsyncWriteExt;
use tokio::process::{Child, ChildStdin, Command};
use tokio::sync::Mutex;

/// The reaper of one engine process, started with the first group.
#[derive(Debug, Default)]
pub struct Reaper {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    groups: BTreeSet<i32>,
    shell: Option<(Child, ChildStdin)>,
}

impl Reaper {
    /// Registers a process group: it will not outlive this process.
    ///
    /// # Errors
    /// If `/bin/sh` cannot be started.
    pub async fn add(&self, group: Pid) -> io::Result<()> {
        let mut state = self.state.lock().await;
        state.groups.insert(group.as_raw_nonzero().get());
        if state.tell("add", group).await.is_ok() {
            return Ok(());
        }
        // None yet, or somebody has killed it.
        let (child, mut stdin) = start_shell()?;
        for group in &state.groups {
            stdin.write_all(format!("add {group}\n").as_bytes()).await?;
        }
        state.shell = Some((child, stdin));
        Ok(())
    }

    /// Forgets a group that has ended.
    pub async fn remove(&self, group: Pid) {
        let mut state = self.state.lock().await;
        if state.groups.remove(&group.as_raw_nonzero().get()) {
            // A reaper that is gone is replaced at the next `add`, without this group.
            let _ = state.tell("del", group).await;
        }
    }
}

impl State {
    async fn tell(&mut self, verb: &str, group: Pid) -> io::Result<()> {
        let (_, stdin) = self.shell.as_mut().ok_or(io::ErrorKind::NotConnected)?;
        stdin.write_all(format!("{verb} {}\n", group.as_raw_nonzero()).as_bytes()).await
    }
}

fn start_shell() -> io::Result<(Child, ChildStdin)> {
    let mut child = Command::new("/bin/sh")
        .args(["-c", LOOP])
        .current_dir("/")
        .process_group(0)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()?;
    let stdin = child.stdin.take().expect("its stdin was asked for as a pipe");
    Ok((child, stdin))
}

/// `-s KILL` and not `-KILL`: dash takes `--` only after the former.
const LOOP: &str = r#"trap '' INT TERM HUP QUIT
groups=' '
while read -r verb group; do
    case $verb in
    add) groups="$groups$group " ;;
    del) case $groups in *" $group "*) groups="${groups%% $group *} ${groups#* $group }" ;; esac ;;
    esac
done
for group in $groups; do kill -s KILL -- "-$group"; done
"#;

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt;
    use std::time::Duration;

    use super::*;

    fn sleeper() -> (Child, Pid) {
        let child = Command::new("sleep").arg("1000").process_group(0).kill_on_drop(true).spawn().unwrap();
        let pid = Pid::from_raw(child.id().unwrap().cast_signed()).unwrap();
        (child, pid)
    }

    #[tokio::test]
    async fn groups_die_with_the_reapers_owner_unless_they_were_removed() {
        let reaper = Reaper::default();
        let (mut dies, dies_group) = sleeper();
        let (mut lives, lives_group) = sleeper();
        let (mut dies_too, dies_too_group) = sleeper();
        for group in [dies_group, lives_group, dies_too_group] {
            reaper.add(group).await.unwrap();
        }
        reaper.remove(lives_group).await;
        drop(reaper);
        let deadline = Duration::from_secs(20);
        for child in [&mut dies, &mut dies_too] {
            let status = tokio::time::timeout(deadline, child.wait()).await.unwrap().unwrap();
            assert_eq!(status.signal(), Some(9));
        }
        assert!(lives.try_wait().unwrap().is_none());
    }

    #[tokio::test]
    async fn a_reaper_that_was_killed_is_replaced_and_knows_all_groups() {
        let reaper = Reaper::default();
        let (mut first, first_group) = sleeper();
        let (_second, second_group) = sleeper();
        reaper.add(first_group).await.unwrap();
        {
            let mut state = reaper.state.lock().await;
            let (shell, _) = state.shell.as_mut().unwrap();
            shell.kill().await.unwrap();
        }
        reaper.add(second_group).await.unwrap();
        drop(reaper);
        tokio::time::timeout(Duration::from_secs(20), first.wait()).await.unwrap().unwrap();
    }
}
