//! Figures that engines tell of themselves and their machines to those who look.

use furlong_tests::command::Cluster;
use furlong_tests::program::Program;
use furlong_tests::wait::{SOON, eventually};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

/// Python that takes a processor and 50 MB until its cluster ends.
const WORKS: &str = "held = bytearray(50_000_000)\nwhile True: pass";

fn status(cluster: &Cluster) -> Value {
    let text = cluster.furlong(&["status", "--machines", "--json"]).ok();
    serde_json::from_str(&text).unwrap()
}

#[test]
fn a_busy_interpreter_and_its_machine_are_told_to_who_asks() {
    let cluster = Cluster::start(2);
    let _code = Program::start("furlong", &["execute", "--targets", "0", WORKS], cluster.home());
    let mut last = Value::Null;
    let is_told = eventually(SOON, || {
        last = status(&cluster);
        let busy = &last["loads"]["0"];
        busy["cpu_percent"].as_u64() > Some(10) && busy["resident_bytes"].as_u64() > Some(50 << 20)
    });
    assert!(is_told, "{:#}", last["loads"]);
    let (busy, idle) = (&last["loads"]["0"], &last["loads"]["1"]);
    assert!(idle["resident_bytes"].as_u64() < Some(50 << 20), "{idle}");
    assert!(busy["silent_us"].as_u64() < Some(5_000_000), "{busy}");
    let machine = &busy["machine"];
    assert!(machine["cores"].as_u64() > Some(0) && machine["cpu_percent"].is_u64(), "{machine}");
    assert!(machine["memory_bytes"].as_u64() > machine["memory_free_bytes"].as_u64(), "{machine}");
    assert!(machine["memory_free_bytes"].as_u64() > Some(0), "{machine}");

    let text = cluster.furlong(&["status", "--machines"]).ok();
    assert!(text.contains("host cpu") && !text.contains("has told no figures"), "{text}");
    let plain = cluster.furlong(&["status", "--json"]).ok();
    assert!(!plain.contains("resident_bytes"), "nobody has asked: {plain}");
    let metrics = cluster.furlong(&["metrics"]).ok();
    let figure = |name: &str| {
        let line = metrics.lines().find(|line| line.starts_with(&format!("{name}{{host=")));
        let line = line.unwrap_or_else(|| panic!("no {name} in\n{metrics}"));
        line.rsplit(' ').next().unwrap().parse::<f64>().unwrap()
    };
    assert!(figure("furlong_engine_resident_memory_bytes") > 5e7);
    assert!(figure("furlong_host_memory_bytes") > figure("furlong_host_memory_free_bytes"));
    assert!(figure("furlong_host_memory_free_bytes") > 0.0);
    assert!(figure("furlong_engine_silent_seconds") < 5.0);
    let seen = cluster.furlong(&["top", "--once", "--page", "engines"]).ok();
    assert!(seen.contains("SILENT") && seen.contains("MEM"), "{seen}");
}

#[test]
fn an_engine_process_that_stands_still_is_said_to_be_silent() {
    let cluster = Cluster::start(1);
    let pid = status(&cluster)["processes"][0]["pid"].as_i64().unwrap();
    let pid = Pid::from_raw(pid as i32).unwrap();
    let says_so = || {
        let notes = status(&cluster)["notes"].clone();
        notes.as_array().unwrap().iter().any(|note| note["note"] == "silent")
    };
    assert!(!says_so());
    kill_process(pid, Signal::STOP).unwrap();
    let is_said = eventually(SOON, says_so);
    kill_process(pid, Signal::CONT).unwrap();
    assert!(is_said, "it has not answered for 7 s");
    assert!(eventually(SOON, || !says_so()), "it answers again");
}
