//! `furlong trace export`: files that say what a farm ran.

use std::fs;
use std::path::Path;

use furlong_tests::command::Cluster;
use serde_json::Value;

/// A cluster that has run forty tasks, one of which has failed.
fn cluster() -> Cluster {
    let cluster = Cluster::start(2);
    let script = "test $FURLONG_TASK -ne 7";
    cluster.furlong(&["submit", "--array", "1-40", "--wait", "--", "sh", "-c", script]).failed(1);
    cluster
}

fn read(path: &Path) -> Value {
    serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap()
}

fn paths(cluster: &Cluster, name: &str) -> (std::path::PathBuf, String) {
    let path = cluster.home().path().join(name);
    let text = path.to_str().unwrap().to_owned();
    (path, text)
}

#[test]
fn a_trace_has_every_task_once_and_slices_do_not_overlap() {
    let cluster = cluster();
    let (path, name) = paths(&cluster, "run.json");
    let summary = cluster.furlong(&["trace", "export", "-o", &name, "--json"]).ok();
    let summary: Value = serde_json::from_str(&summary).unwrap();
    assert_eq!((&summary["tasks"], &summary["failed"]), (&40.into(), &1.into()), "{summary}");
    assert_eq!((&summary["forgotten"], &summary["format"]), (&0.into(), &"chrome".into()));
    assert_eq!(summary["kinds"][0]["kind"], "sh", "{summary}");
    let trace = read(&path);
    assert_eq!(trace["otherData"]["tasks"], 40);
    let events = trace["traceEvents"].as_array().unwrap();
    let runs: Vec<&Value> = events.iter().filter(|it| it["name"] == "sh").collect();
    assert_eq!(runs.len(), 40);
    let mut tasks: Vec<&str> = runs.iter().map(|it| it["args"]["task"].as_str().unwrap()).collect();
    tasks.sort_unstable();
    tasks.dedup();
    assert_eq!(tasks.len(), 40, "each is another task");
    let mut free = std::collections::BTreeMap::new();
    for run in runs {
        let (start, lasts) = (run["ts"].as_u64().unwrap(), run["dur"].as_u64().unwrap());
        let free = free.entry(run["tid"].as_u64().unwrap()).or_insert(0);
        assert!(start >= *free, "{run} begins before {free}");
        assert!(start >= run["args"]["assigned_us"].as_u64().unwrap(), "{run}");
        *free = start + lasts;
        assert!(*free <= run["args"]["ended_us"].as_u64().unwrap(), "{run}");
    }
    assert_eq!(free.len(), 2, "both engines have run some");
    let failures = events.iter().filter(|it| it["cat"] == "failure");
    assert_eq!(failures.map(|it| &it["name"]).collect::<Vec<_>>(), ["failed: exit"]);
}

#[test]
fn the_files_ending_says_the_format_and_an_old_file_is_replaced() {
    let cluster = cluster();
    for (name, begins) in
        [("run.pftrace", "\n"), ("run.svg", "<svg "), ("run.html", "<!doctype html>")]
    {
        let (path, text) = paths(&cluster, name);
        fs::write(&path, "what was there before").unwrap();
        let said = cluster.furlong(&["trace", "export", "-o", &text]).ok();
        assert!(said.contains("40 tasks"), "{said}");
        assert!(fs::read(&path).unwrap().starts_with(begins.as_bytes()), "{name}");
    }
    let picture = cluster.furlong(&["trace", "export", "--format", "svg"]).ok();
    assert!(picture.starts_with("<svg ") && picture.ends_with("</svg>"), "{picture}");
    let (path, text) = paths(&cluster, "run.txt");
    let usage = cluster.furlong(&["trace", "export", "-o", &text]).failed(2);
    assert!(usage.contains("add --format") && !path.exists(), "{usage}");
    let (_, nowhere) = paths(&cluster, "none/run.svg");
    let error = cluster.furlong(&["trace", "export", "-o", &nowhere]).failed(1);
    assert!(error.starts_with("furlong: cannot write "), "{error}");
}

#[test]
fn a_trace_is_of_a_time_and_a_kind() {
    let cluster = cluster();
    cluster.furlong(&["submit", "--array", "1-3", "--wait", "--", "true"]).ok();
    let (path, name) = paths(&cluster, "run.json");
    let tasks = |flags: &[&str]| {
        let outcome = cluster.furlong(&[&["trace", "export", "-o", &name], flags].concat());
        let said = outcome.stderr.clone();
        outcome.ok();
        (read(&path)["otherData"]["tasks"].as_u64().unwrap(), said)
    };
    assert_eq!(tasks(&["--last", "1h"]).0, 43);
    assert_eq!(tasks(&["--kind", "true"]).0, 3);
    assert_eq!(tasks(&["--from", "2001-01-01T00:00Z"]).0, 43);
    let (none, said) = tasks(&["--from", "1d", "--to", "23h"]);
    // What is before the broker's start is at its start.
    assert_eq!(none, 0);
    assert!(said.contains("the trace is empty"), "{said}");
    let error = cluster.furlong(&["trace", "export", "--kind", "nothing"]).failed(1);
    assert_eq!(error, "furlong: there are no tasks of `nothing`; kinds are: sh, true");
    cluster.furlong(&["trace", "export", "--last", "10m", "--to", "5m"]).failed(2);
    cluster.furlong(&["trace", "export", "--from", "yesterday"]).failed(2);
}
