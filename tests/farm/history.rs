//! `furlong history`: what is written down of ended tasks, what is said to be missing, and who may
//! see it.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use furlong_tests::command::{Cluster, Outcome, engine, furlong, wait_for_engines};
use furlong_tests::farm::Farm;
use furlong_tests::home::Home;
use furlong_tests::program::Program;
use furlong_tests::wait::{SOON, eventually};
use rusqlite::Connection;
use serde_json::Value;

/// A broker, an engine, and perhaps one who writes the history.
struct Recorded {
    recorder: Option<Program>,
    _engine: Program,
    farm: Farm,
}

impl Recorded {
    fn start() -> Self {
        let farm = Farm::start();
        let engine = engine(farm.home());
        wait_for_engines(1, farm.home());
        Self { recorder: None, _engine: engine, farm }
    }

    fn home(&self) -> &Home {
        self.farm.home()
    }

    fn file(&self) -> PathBuf {
        self.home().cluster().history()
    }

    fn furlong(&self, args: &[&str]) -> Outcome {
        furlong(args, self.home())
    }

    /// Starts to write, and has looked once when this returns.
    fn record(&mut self, flags: &[&str]) {
        let args = [&["history", "record"], flags].concat();
        let recorder = Program::start("furlong", &args, self.home());
        recorder.wait_for_line("history ", SOON);
        self.recorder = Some(recorder);
    }

    fn stop_recording(&mut self) {
        let mut recorder = self.recorder.take().unwrap();
        recorder.terminate();
        assert_eq!(recorder.wait_exit(SOON).code(), Some(0), "{}", recorder.stderr());
    }

    /// Runs so many tasks, of which the first fails.
    fn submit(&self, tasks: u32) {
        let array = format!("1-{tasks}");
        let script = "test $FURLONG_TASK -ne 1";
        self.furlong(&["submit", "--array", &array, "--wait", "--", "sh", "-c", script]).failed(1);
    }

    fn history(&self, flags: &[&str]) -> Value {
        let args = [&["history", "--json"], flags].concat();
        serde_json::from_str(&self.furlong(&args).ok()).unwrap()
    }

    #[track_caller]
    fn wait_for_tasks(&self, tasks: u64) {
        let are_there = || self.history(&["--limit", "1"])["matched"] == tasks;
        assert!(eventually(SOON, are_there), "{}", self.history(&[]));
    }
}

fn gaps(history: &Value) -> &Vec<Value> {
    history["record"]["gaps"].as_array().unwrap()
}

#[test]
fn a_history_has_what_ended_while_its_writer_was_away() {
    let mut farm = Recorded::start();
    farm.submit(3);
    farm.record(&[]);
    farm.wait_for_tasks(3);
    farm.stop_recording();
    farm.submit(4);
    assert_eq!(farm.history(&[])["matched"], 3);
    farm.record(&[]);
    farm.wait_for_tasks(7);
    let history = farm.history(&[]);
    assert!(gaps(&history).is_empty(), "{history}");
    assert_eq!((&history["shown"], &history["record"]["dropped"]), (&7.into(), &0.into()));
    let task = &history["tasks"][0];
    assert_eq!((&task["name"], &task["runtime"]), (&"sh".into(), &"command".into()), "{task}");
    let moments = ["submitted_unix_us", "ended_unix_us"].map(|name| task[name].as_u64().unwrap());
    let phases = task["phases"].as_object().unwrap().values();
    let all_us: u64 = phases.map(|phase| phase.as_u64().unwrap()).sum();
    assert_eq!(moments[0] + all_us, moments[1], "{task}");
    let mut ids: Vec<&str> =
        history["tasks"].as_array().unwrap().iter().map(|it| it["id"].as_str().unwrap()).collect();
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), 7, "each is there once");
}

#[test]
fn a_history_outlives_its_broker_and_says_what_may_be_missing() {
    let mut farm = Recorded::start();
    farm.record(&[]);
    farm.submit(3);
    farm.wait_for_tasks(3);
    farm.farm.restart_after_sigkill();
    wait_for_engines(1, farm.home());
    farm.submit(2);
    farm.wait_for_tasks(5);
    let history = farm.history(&[]);
    let [gap] = &**gaps(&history) else { panic!("{history}") };
    assert_eq!(gap["tasks"], Value::Null, "nobody knows how many");
    let [from, to] = ["from_unix_us", "to_unix_us"].map(|name| gap[name].as_u64().unwrap());
    let starts: Vec<u64> = {
        let database = Connection::open(farm.file()).unwrap();
        let mut starts = database.prepare("SELECT start_us FROM starts ORDER BY 1").unwrap();
        let starts = starts.query_map([], |row| row.get::<_, i64>(0)).unwrap();
        starts.map(|start| start.unwrap() as u64).collect()
    };
    assert!(starts.len() == 2 && from > starts[0] && to == starts[1], "{starts:?} {gap}");
    let told = farm.furlong(&["history"]);
    assert!(told.stderr.contains("tasks may be missing between"), "{told:?}");
    // Before the gap nothing is missing.
    let before = utc(from - 1);
    let told = farm.history(&["--to", &before]);
    assert!(gaps(&told).is_empty() && told["matched"] == 3, "{told}");
}

/// A moment as a flag takes it, in UTC.
fn utc(unix_us: u64) -> String {
    let output = std::process::Command::new("date")
        .args(["-u", "-d", &format!("@{}", unix_us / 1_000_000), "+%Y-%m-%dT%H:%M:%SZ"])
        .output()
        .unwrap();
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

#[test]
fn a_cluster_writes_its_history_until_its_end() {
    let cluster = Cluster::start_with(&["-n", "1", "--history"]);
    cluster.furlong(&["submit", "--array", "1-5", "--wait", "--", "true"]).ok();
    cluster.furlong(&["cluster", "stop"]).ok();
    let history: Value =
        serde_json::from_str(&cluster.furlong(&["history", "--json"]).ok()).unwrap();
    assert_eq!(history["matched"], 5, "{history}");
    assert!(gaps(&history).is_empty(), "{history}");
}

#[test]
fn tasks_are_chosen_sorted_and_summed() {
    let mut farm = Recorded::start();
    farm.submit(20);
    farm.furlong(&["submit", "--wait", "--", "true"]).ok();
    farm.record(&[]);
    farm.wait_for_tasks(21);
    let matched = |flags: &[&str]| farm.history(flags)["matched"].as_u64().unwrap();
    assert_eq!(matched(&["--state", "failed"]), 1);
    assert_eq!(matched(&["--state", "not_ok"]), 1);
    assert_eq!(matched(&["--state", "succeeded,failed"]), 21);
    assert_eq!(matched(&["--kind", "sh"]), 20);
    assert_eq!(matched(&["--name", "t*e"]), 1);
    assert_eq!(matched(&["--kind", "t?ue"]), 0, "only `*` stands for others");
    assert_eq!(matched(&["--error", "exit"]), 1);
    assert_eq!(matched(&["--error", "ValueError"]), 0);
    assert_eq!(matched(&["--engine", "0"]), 21);
    assert_eq!(matched(&["--engine", "1-3"]), 0);
    assert_eq!(matched(&["--owner", "nobody"]), 0);
    assert_eq!(matched(&["--last", "1h"]), 21);
    assert_eq!(matched(&["--to", "1h"]), 0);
    assert_eq!(matched(&["last"]), 1, "the newest session");
    let sorted = farm.history(&["--sort", "run", "--limit", "0"]);
    let runs: Vec<u64> = sorted["tasks"].as_array().unwrap().iter().map(run_us).collect();
    assert!(runs.len() == 21 && runs.is_sorted_by(|a, b| a >= b), "{runs:?}");
    let least = format!("{}ms", runs[0] / 1000);
    assert!(matched(&["--longer", &least]) >= 1 && matched(&["--longer", "1h"]) == 0);
    let summary = farm.history(&["--summary"]);
    let kinds = summary["kinds"].as_array().unwrap();
    let sh = kinds.iter().find(|kind| kind["name"] == "sh").unwrap();
    assert_eq!((&sh["tasks"], &sh["failed"], &sh["cancelled"]), (&20.into(), &1.into(), &0.into()));
    let sum: u64 = kinds.iter().map(|kind| kind["run_us"].as_u64().unwrap()).sum();
    assert_eq!(sum, runs.iter().sum::<u64>(), "{summary}");
    let failures = farm.history(&["--failures"]);
    let failure = &failures["failures"][0];
    assert_eq!((&failure["error"], &failure["tasks"]), (&"exit".into(), &1.into()), "{failures}");
    let shown = farm.furlong(&["history", "--limit", "2"]);
    assert_eq!(shown.stdout.lines().count(), 3, "{shown:?}");
    assert!(shown.stderr.contains("the first 2 of 21 tasks; --limit 0 shows all"), "{shown:?}");
    for flags in [["history", "--summary"], ["history", "--failures"]] {
        assert!(farm.furlong(&flags).ok().contains("sh  "), "{flags:?}");
    }
}

fn run_us(task: &Value) -> u64 {
    task["phases"]["run_us"].as_u64().unwrap()
}

#[test]
fn one_who_writes_waits_for_a_lock_and_loses_nothing() {
    let mut farm = Recorded::start();
    farm.record(&[]);
    let other = Connection::open(farm.file()).unwrap();
    other.busy_timeout(Duration::from_secs(30)).unwrap();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    farm.submit(5);
    assert_eq!(farm.history(&[])["matched"], 0, "a reader does not wait");
    other.execute_batch("ROLLBACK").unwrap();
    farm.wait_for_tasks(5);
    assert!(gaps(&farm.history(&[])).is_empty());
}

#[test]
fn a_file_has_one_writer_and_is_its_users_own() {
    let mut farm = Recorded::start();
    let missing = farm.furlong(&["history"]).failed(1);
    assert!(missing.contains("there is no history ") && missing.contains("record"), "{missing}");
    farm.record(&[]);
    for name in ["history.db", "history.db-wal", "history.db.lock"] {
        let mode = fs::metadata(farm.home().cluster().path().join(name)).unwrap().permissions();
        assert_eq!(mode.mode() & 0o777, 0o600, "{name}");
    }
    let second = farm.furlong(&["history", "record"]).failed(1);
    assert!(second.contains("another process writes "), "{second}");
    farm.stop_recording();
    let told = farm.furlong(&["history"]);
    assert!(told.stderr.contains("no such task is in the history"), "{told:?}");
    fs::set_permissions(farm.file(), fs::Permissions::from_mode(0o644)).unwrap();
    for args in [&["history"][..], &["history", "record"]] {
        let refused = farm.furlong(args).failed(1);
        assert!(refused.contains("chmod 600 "), "{refused}");
    }
}

#[test]
fn what_is_no_history_of_this_cluster_is_refused() {
    let farm = Recorded::start();
    let named = |name: &str| farm.home().path().join(name);
    let text = |path: &Path| path.to_str().unwrap().to_owned();
    let journal = named("other.db");
    Connection::open(&journal).unwrap().execute_batch("CREATE TABLE a (b)").unwrap();
    fs::write(named("text.db"), "no database at all, though it is rather long\n".repeat(99))
        .unwrap();
    for (path, why) in
        [(journal, "it is a database of another program"), (named("text.db"), "is no history")]
    {
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        let before = fs::read(&path).unwrap();
        for args in [&["history"][..], &["history", "record"]] {
            let refused = farm.furlong(&[args, &["--file", &text(&path)]].concat()).failed(1);
            assert!(refused.contains(why) && refused.lines().count() == 1, "{refused}");
        }
        assert_eq!(fs::read(&path).unwrap(), before, "it is as it was");
    }
    let mut other = Recorded::start();
    other.record(&[]);
    other.stop_recording();
    let file = text(&other.file());
    let refused = farm.furlong(&["history", "record", "--file", &file]).failed(1);
    assert!(refused.contains("it is the history of another cluster"), "{refused}");
    for wrong in [
        &["history", "--state", "lazy"][..],
        &["history", "--summary", "--limit", "3"],
        &["history", "--from", "noon"],
        &["history", "record", "--max-size", "1M"],
        &["history", "record", "--keep", "0"],
    ] {
        farm.furlong(wrong).failed(2);
    }
}

#[test]
fn an_auditor_sees_the_tasks_of_all_owners_and_changes_none() {
    let mut farm = Recorded::start();
    let bob = text_of(&farm.home().path().join("bob.cap.json"));
    farm.furlong(&["cap", "issue", "--role", "client", "--owner", "bob", "-o", &bob]).ok();
    farm.furlong(&["submit", "--cap", &bob, "--label", "bobs", "--", "true"]).ok();
    farm.furlong(&["submit", "--cap", &bob, "--require", "nobody", "--", "false"]).ok();
    let security = farm.home().cluster().security();
    let of_role = |role: &str| text_of(&security.join(format!("{role}.cap.json")));
    let (auditor, observer) = (of_role("auditor"), of_role("observer"));
    let records = |cap: &str| {
        let told = farm.furlong(&["queue", "--all", "--json", "--cap", cap]).ok();
        told.lines().map(|line| serde_json::from_str(line).unwrap()).collect::<Vec<Value>>()
    };
    assert_eq!(records(&observer).len(), 0);
    let has_ended = || records(&auditor).iter().any(|it| it["state"] == "succeeded");
    assert!(eventually(SOON, has_ended), "{:?}", records(&auditor));
    let seen = records(&auditor);
    assert_eq!(seen.len(), 2, "{seen:?}");
    assert!(seen.iter().any(|it| it["label"] == "bobs" && it["name"] == "true"), "{seen:?}");
    let waits = seen.iter().find(|it| it["state"] == "queued").unwrap()["task"].as_str().unwrap();
    let ended = seen.iter().find(|it| it["label"] == "bobs").unwrap()["task"].as_str().unwrap();
    for words in [
        &["cancel", waits][..],
        &["purge", ended],
        &["result", ended],
        &["signal", "SIGINT", "0"],
        &["restart", "0"],
        &["shutdown", "0"],
        &["submit", "--", "true"],
        &["execute", "1"],
    ] {
        let end = if words.contains(&"--") { words.len() - 2 } else { words.len() };
        let args = [&words[..end], &["--cap", &auditor], &words[end..]].concat();
        let refused = farm.furlong(&args);
        assert_eq!(refused.code, Some(1), "{words:?}: {refused:?}");
        assert!(refused.stderr.contains("`auditor`"), "{words:?}: {refused:?}");
    }
    assert_eq!(records(&auditor).len(), 2, "nothing has changed");
    let explained = farm.furlong(&["explain", waits, "--cap", &auditor]).ok();
    assert!(explained.contains("nobody"), "{explained}");
    farm.record(&[]);
    farm.wait_for_tasks(1);
    assert_eq!(farm.history(&["--owner", "bob"])["matched"], 1);
    let own = text_of(&farm.home().path().join("own.db"));
    farm.stop_recording();
    farm.record(&["--cap", &observer, "--file", &own]);
    let told = farm.furlong(&["history", "--file", &own]);
    assert!(told.stderr.contains("tasks of other owners are not recorded"), "{told:?}");
    assert_eq!(farm.history(&["--file", &own])["matched"], 0);
}

fn text_of(path: &Path) -> String {
    path.to_str().unwrap().to_owned()
}
