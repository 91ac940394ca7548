//! Tests of traces: their layout, and what hostile names do in each format.

use std::collections::BTreeMap;

use furlong_wire::ids::{EngineId, SessionId, TaskId, TaskSeq};
use furlong_wire::message::{RunTimes, SeriesRow, TaskState};
use proptest::prelude::*;

use super::*;

fn task(n: u64, engine: u32, (assigned_us, ended_us): (u64, u64), run: RunTimes) -> TracedTask {
    TracedTask {
        id: TaskId { session: SessionId([7; 16]), n: TaskSeq(n) },
        kind: 0,
        engine: Some(EngineId(engine)),
        state: Some(TaskState::Succeeded),
        error: None,
        attempts: 1,
        bytes: (10, 20),
        times: TracedTimes {
            submitted_us: assigned_us.saturating_sub(5),
            queued_us: assigned_us.saturating_sub(5),
            assigned_us: Some(assigned_us),
            ended_us,
            run,
        },
    }
}

fn traced(tasks: Vec<TracedTask>, kinds: &[&str]) -> Trace {
    let kinds = kinds.iter().map(|&name| name.to_owned()).collect();
    let hosts = BTreeMap::from([(EngineId(0), "host".to_owned())]);
    let trace = Trace::new(tasks, kinds, &hosts);
    Trace { cluster: "lab".to_owned(), zero_unix_us: 1_000_000, ..trace }
}

fn check_lanes(trace: &Trace) {
    for engine in &trace.engines {
        for lane in &engine.lanes {
            let mut free_us = 0;
            for slice in lane {
                let Slice { start_us, loaded_us, ran_us, end_us, task } = *slice;
                let parts = [free_us, start_us, loaded_us, ran_us, end_us];
                assert!(parts.is_sorted(), "{slice:?} overlaps with what ended at {free_us}");
                assert!(end_us <= trace.tasks[task].times.ended_us.max(start_us), "{slice:?}");
                free_us = end_us;
            }
        }
    }
}

fn any_run() -> impl Strategy<Value = RunTimes> {
    let part = || prop_oneof![0..50_u64, 0..100_000_u64, Just(u64::MAX)];
    (part(), part(), part(), part()).prop_map(|(began_us, load_us, run_us, store_us)| RunTimes {
        began_us,
        load_us,
        run_us,
        store_us,
    })
}

fn any_task() -> impl Strategy<Value = TracedTask> {
    (0..3_u32, 0..200_000_u64, 0..100_000_u64, any_run(), 0..4_u8).prop_map(
        |(engine, assigned_us, took_us, run, state)| TracedTask {
            state: [
                Some(TaskState::Succeeded),
                Some(TaskState::Failed),
                Some(TaskState::Lost),
                None,
            ][usize::from(state)],
            ..task(1, engine, (assigned_us, assigned_us + took_us), run)
        },
    )
}

/// Runs one after the other: waits before them, ways there and back, parts, and by how much the
/// engine's clock is wrong.
fn any_sequence() -> impl Strategy<Value = Vec<(u64, u64, u64, RunTimes, u64)>> {
    let way = || 5..400_u64;
    let part = || 0..5_000_u64;
    let run = (part(), part(), part()).prop_map(|(load_us, run_us, store_us)| RunTimes {
        began_us: 0,
        load_us,
        run_us,
        store_us,
    });
    prop::collection::vec((0..1_000_u64, way(), way(), run, 0..3_u64), 1..60)
}

proptest! {
    #[test]
    fn slices_of_an_engine_never_overlap(tasks in prop::collection::vec(any_task(), 0..60)) {
        let count = tasks.len();
        let trace = traced(tasks, &["fit"]);
        prop_assert_eq!(trace.tasks.len(), count);
        check_lanes(&trace);
        let mut drawn: Vec<usize> = trace
            .engines
            .iter()
            .flat_map(|engine| engine.lanes.iter().flatten().map(|slice| slice.task))
            .collect();
        drawn.sort_unstable();
        let ran = |task: &TracedTask| {
            let has_begun = task.state == Some(TaskState::Succeeded) || task.state.is_none();
            has_begun || task.times.run.busy_us() > 0
        };
        let ran: Vec<usize> =
            (0..count).filter(|place| ran(&trace.tasks[*place])).collect();
        prop_assert_eq!(drawn, ran, "each run is drawn once");
    }

    #[test]
    fn runs_one_after_the_other_are_one_lane(sequence in any_sequence()) {
        let mut free_us = 10_000;
        let mut tasks = Vec::new();
        for (n, (pause_us, there_us, back_us, run, wrong_us)) in (1..).zip(sequence) {
            let start_us = free_us + pause_us;
            free_us = start_us + run.busy_us();
            // It was given to the engine up to two milliseconds early, and waited there.
            let assigned_us = start_us.saturating_sub(there_us + 2_000);
            let began_us = start_us - assigned_us - there_us + wrong_us;
            let run = RunTimes { began_us, ..run };
            tasks.push(task(n, 0, (assigned_us, free_us + back_us), run));
        }
        let trace = traced(tasks, &["fit"]);
        check_lanes(&trace);
        prop_assert_eq!(trace.engines[0].lanes.len(), 1);
    }
}

#[test]
fn a_run_that_lends_its_slot_has_a_lane_of_its_own() {
    let parent = task(1, 0, (0, 100_000), RunTimes::ran(99_000));
    let child = |n, at| task(n, 0, (at, at + 10_200), RunTimes::ran(10_000));
    let trace = traced(vec![parent, child(2, 20_000), child(3, 40_000)], &["fit"]);
    let numbers = |lane: &[Slice]| -> Vec<u64> {
        lane.iter().map(|slice| trace.tasks[slice.task].id.n.0).collect()
    };
    let lanes: Vec<Vec<u64>> = trace.engines[0].lanes.iter().map(|lane| numbers(lane)).collect();
    assert_eq!(lanes, [vec![1], vec![2, 3]]);
}

#[test]
fn a_run_lies_between_its_assignment_and_its_end() {
    let run = RunTimes { began_us: 20, load_us: 30, run_us: 400, store_us: 50 };
    let trace = traced(vec![task(1, 0, (1_000, 1_600), run)], &["fit"]);
    let slice = trace.engines[0].lanes[0][0];
    // Of 100 us on the way, half were there.
    let expected =
        Slice { task: 0, start_us: 1_070, loaded_us: 1_100, ran_us: 1_500, end_us: 1_550 };
    assert_eq!(slice, expected);
    let parts: Vec<_> = slice.parts().collect();
    assert_eq!(parts, [("load", 1_070, 1_100), ("run", 1_100, 1_500), ("store", 1_500, 1_550)]);
}

const HOSTILE: [&str; 5] = [
    "</script><script>alert(1)</script>",
    "\"'&<>]]>--!>",
    "\x1b]0;x\x07\r\n\0\u{202e}\u{9b}",
    "\u{fffe}\u{ffff}\u{2028}",
    "{{}}\\u003c/script>",
];

/// A trace whose every text is hostile.
fn hostile() -> Trace {
    let long = "<&\"".repeat(1_400);
    let mut kinds = HOSTILE.to_vec();
    kinds.push(&long);
    let tasks = (0..kinds.len()).map(|kind| TracedTask {
        kind,
        state: Some(TaskState::Failed),
        error: Some(kinds[kind].to_owned()),
        ..task(kind as u64 + 1, kind as u32, (1_000, 9_000), RunTimes::ran(7_000))
    });
    let hosts = (0..kinds.len()).map(|id| (EngineId(id as u32), kinds[id].to_owned()));
    let owned = kinds.iter().map(|&name| name.to_owned()).collect();
    let trace = Trace::new(tasks.collect(), owned, &hosts.collect());
    Trace { cluster: shown(HOSTILE[0]), forgotten: 5, ..trace }
}

#[test]
fn hostile_names_are_text_in_a_page() {
    let page = String::from_utf8(hostile().written(TraceFormat::Html)).unwrap();
    assert_eq!(page.matches("</script").count(), 2, "the data's and the script's own");
    assert_eq!(page.matches("<script").count(), 2);
    assert!(!page.contains("alert(1)</"), "no tag of a name is one");
    assert!(page.contains("default-src 'none'"));
    assert!(page.contains("\\u003c/script>\\u003cscript>alert(1)"));
    let data = page.split("application/json\">").nth(1).unwrap().split("</script").next();
    let data: serde_json::Value = serde_json::from_str(data.unwrap()).unwrap();
    assert_eq!(data["kinds"][0], HOSTILE[0]);
    for outside in ["http://", "https://", "@import", "url("] {
        assert!(!page.contains(outside), "nothing is asked for: {outside}");
    }
}

#[test]
fn hostile_names_are_text_in_a_picture() {
    let picture = hostile().svg();
    assert!(!picture.contains("<script") && !picture.contains("]]>"));
    assert!(picture.contains("&lt;/script&gt;"));
    assert!(!picture.chars().any(|it| it.is_control() && it != '\n'));
    assert!(!picture.contains(['\u{202e}', '\u{fffe}', '\u{ffff}']));
    assert!(picture.len() < 20_000, "names are cut");
}

#[test]
fn hostile_names_are_text_in_json() {
    let json = String::from_utf8(hostile().written(TraceFormat::Chrome)).unwrap();
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    let events = json["traceEvents"].as_array().unwrap();
    let names: Vec<&str> = events.iter().filter_map(|it| it["name"].as_str()).collect();
    assert!(names.contains(&HOSTILE[0]));
    assert!(names.iter().all(|name| name.chars().count() <= NAME_CHARACTERS_MAX + 20));
    for event in events {
        assert!(event["pid"].is_u64() && event["tid"].is_u64(), "{event}");
        assert!(event["ph"] == "M" || event["ts"].is_u64(), "{event}");
    }
}

#[test]
fn every_format_says_what_was_forgotten() {
    let trace = Trace { forgotten: 7, ..traced(vec![], &[]) };
    let words = "the last 0 of 7 tasks: the broker has forgotten the times of 7";
    for format in TraceFormat::ALL {
        let written = String::from_utf8_lossy(&trace.written(format)).into_owned();
        assert!(written.contains(words), "{format}: {written}");
    }
}

#[test]
fn a_picture_of_very_many_tasks_is_not_large() {
    let run = RunTimes::ran(80);
    let tasks = (0..65_536).map(|n| TracedTask {
        kind: n as usize % 2,
        ..task(n + 1, n as u32 % 4, (n * 25, n * 25 + 95), run)
    });
    let trace = traced(tasks.collect(), &["fit", "score"]);
    check_lanes(&trace);
    assert!(trace.svg().len() < 3_000_000, "{}", trace.svg().len());
}

#[test]
fn a_series_is_told_in_the_time_of_the_trace() {
    let mut trace =
        traced(vec![task(1, 0, (2_500_000, 4_500_000), RunTimes::ran(1_000_000))], &["fit"]);
    let row = |at_s: u64| SeriesRow { at_s, ended: 20.0, unfinished: 3.0, ..SeriesRow::default() };
    trace.add_series(&(0..10).map(row).collect::<Vec<_>>(), 1);
    let counter = |name: &str| trace.counters.iter().find(|it| it.name == name).unwrap();
    let moments: Vec<u64> = counter("ends per second").points.iter().map(|it| it.0).collect();
    assert_eq!(moments, [2_499_995, 3_000_000, 4_000_000]);
    assert!(counter("tasks unfinished").points.iter().all(|it| it.1.to_bits() == 3_f64.to_bits()));
}

#[test]
fn a_format_is_known_by_the_files_ending() {
    for (name, format) in [
        ("run.pftrace", Some(TraceFormat::Perfetto)),
        ("run.JSON", Some(TraceFormat::Chrome)),
        ("a.b.svg", Some(TraceFormat::Svg)),
        ("x.html", Some(TraceFormat::Html)),
        ("run.txt", None),
        ("run", None),
        (".svg", None),
    ] {
        assert_eq!(TraceFormat::of_file(name), format, "{name}");
    }
    assert_eq!("svg".parse(), Ok(TraceFormat::Svg));
    assert!("SVG".parse::<TraceFormat>().is_err());
}
