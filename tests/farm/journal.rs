//! Durable tasks: they outlive brokers and clients, and a disk that fails is said.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use furlong_tests::command::{Outcome, engine, furlong, run, wait_for_engines};
use furlong_tests::farm::Farm;
use furlong_tests::home::Home;
use furlong_tests::wait::{SOON, eventually};

fn submit(home: &Home, args: &[&str]) -> Outcome {
    furlong(&[&["submit", "--durable"], args].concat(), home)
}

fn sorted_lines(text: &str) -> Vec<&str> {
    let mut lines: Vec<&str> = text.lines().collect();
    lines.sort_unstable();
    lines
}

#[test]
fn what_was_accepted_as_durable_ends_though_the_broker_is_killed_and_its_client_is_gone() {
    let mut farm = Farm::start_with(&["--journal"]);
    let marker = farm.home().path().join("go");
    // They wait for the marker, so that they are there when the broker is killed, in every state.
    let script =
        format!("until [ -e {} ]; do sleep 0.02; done; echo $FURLONG_TASK", marker.display());
    let name =
        submit(farm.home(), &["--array", "1-6", "--label", "night", "--", "sh", "-c", &script])
            .ok();
    farm.restart_after_sigkill();
    let _engines = [engine(farm.home()), engine(farm.home())];
    wait_for_engines(2, farm.home());
    let running = || furlong(&["queue"], farm.home()).ok().matches("running").count() == 2;
    assert!(eventually(SOON, running), "{}", furlong(&["queue"], farm.home()).ok());
    farm.restart_after_sigkill();
    wait_for_engines(2, farm.home());
    fs::write(&marker, "").unwrap();
    let shown = furlong(&["result", "-f", &name], farm.home()).ok();
    assert_eq!(sorted_lines(&shown), ["1", "2", "3", "4", "5", "6"]);
    // Their ends are on disk, too, and none of them runs again.
    farm.restart_after_sigkill();
    assert_eq!(
        sorted_lines(&furlong(&["result", "--label", "night"], farm.home()).ok()),
        ["1", "2", "3", "4", "5", "6"]
    );
    let records = furlong(&["queue", "--all", "--json", "last"], farm.home()).ok();
    let attempts = records
        .lines()
        .map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap()["attempts"].clone());
    let attempts: Vec<_> = attempts.collect();
    assert_eq!(attempts, [1; 6]);
}

#[test]
fn a_task_that_is_waited_for_can_be_durable_and_leaves_nothing_behind() {
    let mut farm = Farm::start_with(&["--journal"]);
    let _engine = engine(farm.home());
    wait_for_engines(1, farm.home());
    assert_eq!(submit(farm.home(), &["--wait", "--", "echo", "here"]).ok(), "here");
    let busy = furlong(&["journal", "check"], farm.home()).failed(1);
    assert!(busy.contains("another broker has the journal"), "{busy}");
    farm.broker().close_stdin();
    farm.broker().wait_exit(SOON);
    let report = furlong(&["journal", "check", "--json"], farm.home()).ok();
    let report: serde_json::Value = serde_json::from_str(&report).unwrap();
    assert_eq!((&report["unfinished"], &report["ended"]), (&0.into(), &0.into()), "{report}");
}

#[test]
fn a_broker_without_a_journal_refuses_what_is_durable() {
    let farm = Farm::start();
    let _engine = engine(farm.home());
    wait_for_engines(1, farm.home());
    let refused = submit(farm.home(), &["--wait", "--", "true"]).failed(1);
    assert!(refused.contains("--journal FILE"), "{refused}");
}

#[test]
fn two_brokers_do_not_share_a_journal_and_fresh_keys_need_a_fresh_one() {
    let farm = Farm::start_with(&["--journal"]);
    let path = farm.home().cluster().journal();
    let path = path.to_str().unwrap();
    let args = ["--bind", "127.0.0.1", "--cluster", "other", "--journal", path];
    let second = run("broker", &args, farm.home()).failed(1);
    assert!(second.contains("another broker has the journal"), "{second}");
    let mut farm = farm;
    farm.broker().kill();
    let fresh =
        run("broker", &["--bind", "127.0.0.1", "--fresh", "--journal"], farm.home()).failed(1);
    assert!(fresh.contains("another cluster") && fresh.contains("--fresh"), "{fresh}");
}

#[test]
fn a_journal_that_cannot_be_is_one_clear_line() {
    let home = Home::new();
    let refusal = |journal: &str| {
        run("broker", &["--bind", "127.0.0.1", "--journal", journal], &home).failed(1)
    };
    let missing = refusal("/nowhere/at/all/journal.db");
    assert!(missing.contains("no folder") && missing.contains("/nowhere/at/all"), "{missing}");
    let text = home.path().join("text");
    fs::write(&text, "not a database at all, and long enough to be looked at ".repeat(30)).unwrap();
    fs::set_permissions(&text, fs::Permissions::from_mode(0o600)).unwrap();
    let other = refusal(text.to_str().unwrap());
    assert!(other.contains("is no journal"), "{other}");
    let check = furlong(&["journal", "check", text.to_str().unwrap()], &home).failed(1);
    assert!(check.contains("is no journal"), "{check}");
    let nothing = furlong(&["journal", "check"], &home).failed(1);
    assert!(nothing.contains("there is no journal"), "{nothing}");
}

/// A file system of a few megabytes, if this process may mount one.
struct SmallDisk {
    folder: tempfile::TempDir,
}

impl SmallDisk {
    fn mount() -> Option<Self> {
        let folder = tempfile::tempdir().unwrap();
        let mut mount = Command::new("mount");
        let mounted = mount
            .args(["-t", "tmpfs", "-o", "size=3m", "furlong-test"])
            .arg(folder.path())
            .output();
        mounted.is_ok_and(|output| output.status.success()).then_some(Self { folder })
    }

    fn path(&self) -> &Path {
        self.folder.path()
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.folder.path()).status();
    }
}

#[test]
fn a_full_disk_refuses_durable_tasks_aloud_and_the_rest_goes_on() {
    let Some(disk) = SmallDisk::mount() else {
        return eprintln!("skipped: only root can mount a small disk");
    };
    let journal = disk.path().join("journal.db");
    let farm = Farm::start_with(&["--journal", journal.to_str().unwrap()]);
    let _engine = engine(farm.home());
    wait_for_engines(1, farm.home());
    assert_eq!(submit(farm.home(), &["--wait", "--", "echo", "before"]).ok(), "before");
    let filling = disk.path().join("filling");
    let mut block = vec![1_u8; 1 << 20];
    while !block.is_empty() {
        // Until not a page is left.
        let so_far = fs::read(&filling).unwrap_or_default();
        if fs::write(&filling, [so_far.as_slice(), &block].concat()).is_err() {
            fs::write(&filling, &so_far).unwrap();
            block.truncate(block.len() / 2);
        }
    }
    // The log has some room of its own: it is full soon.
    let large = farm.home().path().join("large");
    fs::write(&large, vec![7_u8; 300_000]).unwrap();
    let refused =
        submit(farm.home(), &["--wait", "--stdin", large.to_str().unwrap(), "--", "true"]);
    let refused = refused.failed(1);
    assert!(
        refused.contains("journal could not be written") && refused.contains("full"),
        "{refused}"
    );
    assert_eq!(furlong(&["submit", "--wait", "--", "echo", "memory"], farm.home()).ok(), "memory");
    assert!(farm.home().broker_log().contains("cannot be written"), "{}", farm.home().broker_log());
    fs::remove_file(&filling).unwrap();
    let written = || submit(farm.home(), &["--wait", "--", "echo", "after"]).code == Some(0);
    assert!(eventually(SOON, written), "{}", farm.home().broker_log());
    assert!(farm.home().broker_log().contains("can be written again"));
}
