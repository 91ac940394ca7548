//! The tables of each page, made from a picture of the farm.

use furlong_client::{Picture, sentence};
use furlong_wire::message::{
    EngineLoad, EngineSeen, EngineState, KindSeen, MachineLoad, TaskPhase, TaskRecord, TaskState,
};

use super::cursor::Row;
use super::table::{Cell, Table};
use super::words::{bytes, count, duration, left};
use crate::record::{Spans, state, why};

/// What is shown of a farm.
#[derive(Clone, Debug, Default)]
pub struct Shown {
    /// What the broker tells of all.
    pub picture: Picture,
    /// Tasks that have not ended, if they are wanted: the first ones of many.
    pub queue: Vec<TaskRecord>,
}

/// An engine whose time for its tasks is that many per cent of the usual is marked.
const SLOW_PERCENT: u32 = 200;
/// An engine that has not answered for so long is marked: it is asked every 5 s.
const SILENT_US: u64 = 8_000_000;
/// A kind whose overhead has such a share of its time is marked, in per cent.
const OVERHEAD_PERCENT: u64 = 50;

fn counted(number: u64) -> Cell {
    Cell::number(count(number), number as f64)
}

fn time(us: u64) -> Cell {
    Cell::number(duration(us), us as f64)
}

/// Kinds of tasks: those with most to do first.
pub fn kinds(picture: &Picture) -> Table {
    let mut kinds: Vec<&KindSeen> = picture.kinds.values().collect();
    kinds.sort_by_key(|kind| {
        let is_open = kind.submitted > kind.ended;
        std::cmp::Reverse((is_open, kind.run.sum_us, kind.ended))
    });
    let rows = kinds.into_iter().map(|kind| kind_row(picture, kind)).collect();
    Table::new(
        &[
            "KIND", "WAIT", "RUN", "ENDED", "FAIL", "RUN P50", "P95", "OVER", "LEFT", "RETRY",
            "RESULTS",
        ],
        rows,
    )
}

fn kind_row(picture: &Picture, kind: &KindSeen) -> Vec<Cell> {
    let (run, overhead) = (kind.run.sum_us, kind.overhead.sum_us);
    let percent = 100 * overhead / (overhead + run).max(1);
    let has_run = kind.run.p95_us > 0 || kind.overhead.p95_us > 0;
    let of_runs = |us| if has_run { time(us) } else { Cell::number("-".to_owned(), 0.0) };
    let is_over = percent >= OVERHEAD_PERCENT && kind.ended >= 1_000;
    vec![
        Cell::text(&picture.kind_name(kind.id)),
        counted(Picture::waiting(kind)),
        counted(u64::from(kind.running)),
        counted(kind.ended),
        counted(kind.failed).marked(kind.failed > 0),
        of_runs(kind.run.p50_us),
        of_runs(kind.run.p95_us),
        Cell::number(format!("{percent}%{}", if is_over { "!" } else { "" }), percent as f64)
            .marked(is_over),
        Cell::number(left(kind.left_us), kind.left_us.map_or(0.0, |(_, most)| most as f64)),
        counted(kind.retries),
        Cell::number(bytes(kind.result_bytes), kind.result_bytes as f64),
    ]
}

/// Engines, by number.
pub fn engines(picture: &Picture) -> Table {
    let engines = picture.engines.values();
    let rows = engines.map(|it| (Row::Engine(it.id), engine_row(picture, it))).collect();
    Table::of_rows(
        &[
            "ENGINE", "HOST", "STATE", "NOW", "FOR", "HAS", "QUEUE", "ENDED", "FAIL", "PACE",
            "CPU", "MEM", "SILENT", "BUSY", "DIED", "HOST CPU", "LOAD", "FREE",
        ],
        rows,
    )
}

fn engine_row(picture: &Picture, engine: &EngineSeen) -> Vec<Cell> {
    let is_slow = engine.pace_percent.is_some_and(|percent| percent >= SLOW_PERCENT);
    let is_odd = !matches!(engine.state, EngineState::Idle | EngineState::Busy);
    let id = format!("{}{}", engine.id, if is_slow || is_odd { "!" } else { "" });
    let (now, since) = match engine.running {
        Some(running) => (picture.kind_name(running.kind), time(running.for_us)),
        None => ("-".to_owned(), Cell::number("-".to_owned(), 0.0)),
    };
    let pace = engine.pace_percent.map_or("-".to_owned(), |percent| format!("{percent}%"));
    let mut row = vec![
        Cell::number(id, -f64::from(engine.id.0)).marked(is_slow || is_odd),
        Cell::text(&engine.host),
        Cell::text(engine.state.as_str()).marked(is_odd),
        Cell::text(&now),
        since,
        counted(u64::from(engine.assigned)),
        counted(u64::from(engine.queued)),
        counted(engine.ended),
        counted(engine.failed).marked(engine.failed > 0),
        Cell::number(pace, engine.pace_percent.map_or(0.0, f64::from)).marked(is_slow),
    ];
    let [cpu, memory, silent, of_machine @ ..] = load_cells(picture, engine);
    row.extend([cpu, memory, silent]);
    row.push(time(engine.busy_us));
    row.push(counted(u64::from(engine.deaths)).marked(engine.deaths > 0));
    row.extend(of_machine);
    row
}

/// The figures of an engine and its machine, if it has told them.
fn load_cells(picture: &Picture, engine: &EngineSeen) -> [Cell; 6] {
    let none = || Cell::number("-".to_owned(), -1.0);
    let Some(EngineLoad { slot, machine, .. }) = engine.load else {
        return std::array::from_fn(|_| none());
    };
    let percent = |percent: Option<u32>| {
        percent.map_or_else(none, |it| Cell::number(format!("{it}%"), f64::from(it)))
    };
    let silent_us = picture.silent_us(engine).unwrap_or_default();
    let load = f64::from(machine.load_hundredths) / 100.0;
    let amount = |number: u64| Cell::number(bytes(number), number as f64);
    [
        percent(slot.cpu_percent),
        if slot.resident_bytes == 0 { none() } else { amount(slot.resident_bytes) },
        time(silent_us).marked(silent_us >= SILENT_US),
        percent(machine.cpu_percent),
        Cell::number(format!("{load:.1}"), load),
        amount(machine.memory_free_bytes).marked(is_short(&machine)),
    ]
}

/// Returns true if a machine has less than a twentieth of its memory free.
fn is_short(machine: &MachineLoad) -> bool {
    machine.memory_free_bytes < machine.memory_bytes / 20
}

/// Tasks that have not ended, at most, that are shown: who has more cancels by `furlong cancel`.
pub const QUEUE_MAX: u32 = 1_000;

/// Tasks that have not ended: those that run first.
pub fn queue(records: &[TaskRecord]) -> Table {
    let mut records: Vec<&TaskRecord> = records.iter().collect();
    records.sort_by_key(|record| record.phase != TaskPhase::Running);
    let rows = records.into_iter().map(|record| {
        let spans = Spans::of(record);
        let engine = record.engine.or(record.target);
        let cells = vec![
            Cell::text(&record.id.to_string()),
            Cell::text(record.name.as_deref().unwrap_or("-")),
            Cell::text(state(record)),
            Cell::number(
                engine.map_or("-".to_owned(), |id| id.to_string()),
                engine.map_or(-1.0, |id| f64::from(id.0)),
            ),
            time(spans.waited()),
            spans.running.map_or_else(|| Cell::number("-".to_owned(), -1.0), time),
            Cell::text(record.label.as_deref().unwrap_or("-")),
            Cell::text(&why(record).unwrap_or_default()),
        ];
        (Row::Task(record.id), cells)
    });
    let columns = &["TASK", "NAME", "STATE", "ENGINE", "WAITED", "RAN", "LABEL", "WHY"];
    Table::of_rows(columns, rows.collect())
}

/// Ended tasks, the latest first.
pub fn tasks(picture: &Picture) -> Table {
    let rows = picture.ends.iter().rev().map(|end| {
        let phases = &end.phases;
        let overhead = phases.way_us + phases.run.load_us + phases.run.store_us;
        let state = match (end.state, end.error) {
            (TaskState::Succeeded, _) => "ok".to_owned(),
            (state, None) => state.to_string(),
            (state, Some(error)) => format!("{state} {error}"),
        };
        let engine = end.engine.map_or("-".to_owned(), |id| id.to_string());
        vec![
            Cell::text(&end.task.to_string()),
            Cell::text(&picture.kind_name(end.kind)),
            Cell::text(&state).marked(!matches!(end.state, TaskState::Succeeded)),
            Cell::number(engine, end.engine.map_or(-1.0, |id| f64::from(id.0))),
            time(picture.at_us.saturating_sub(end.at_us)),
            time(phases.queue_us + phases.run.began_us),
            time(phases.run.run_us),
            time(overhead),
            counted(u64::from(end.attempts)),
            Cell::number(bytes(end.result_bytes), end.result_bytes as f64),
        ]
    });
    Table::new(
        &["TASK", "KIND", "STATE", "ENGINE", "AGO", "QUEUE", "RUN", "OVER", "TRIES", "RESULT"],
        rows.collect(),
    )
}

/// Failures by type and place, the latest first.
pub fn failures(picture: &Picture) -> Table {
    let rows = picture.failures.iter().map(|failure| {
        let what = if failure.type_name.is_empty() {
            failure.error.to_string()
        } else {
            failure.type_name.clone()
        };
        let engines: Vec<String> = failure.engines.iter().map(ToString::to_string).collect();
        let sample = failure.sample.map_or("-".to_owned(), |task| task.to_string());
        vec![
            Cell::text(&what),
            Cell::text(&picture.kind_name(failure.kind)),
            counted(failure.count),
            time(picture.at_us.saturating_sub(failure.first_us)),
            time(picture.at_us.saturating_sub(failure.last_us)),
            Cell::text(&engines.join(" ")),
            Cell::text(&sample),
        ]
    });
    let columns = &["ERROR", "KIND", "COUNT", "FIRST", "LAST", "ENGINES", "SAMPLE"];
    Table::new(columns, rows.collect())
}

/// Owners of tasks, those with most busy time first.
pub fn owners(picture: &Picture) -> Table {
    let total: u64 = picture.owners.iter().map(|owner| owner.busy_us).sum();
    let mut owners: Vec<_> = picture.owners.iter().collect();
    owners.sort_by_key(|owner| std::cmp::Reverse(owner.busy_us));
    let rows = owners.into_iter().map(|owner| {
        let name = owner.owner.map_or("others".to_owned(), |id| id.to_string()[..12].to_owned());
        let percent = 100 * owner.busy_us / total.max(1);
        vec![
            Cell::text(&name),
            counted(u64::from(owner.sessions)),
            counted(owner.submitted.saturating_sub(owner.ended)),
            counted(owner.ended),
            counted(owner.failed).marked(owner.failed > 0),
            time(owner.busy_us),
            Cell::number(format!("{percent}%"), percent as f64),
            Cell::number(bytes(owner.request_bytes), owner.request_bytes as f64),
            Cell::number(bytes(owner.result_bytes), owner.result_bytes as f64),
        ]
    });
    Table::new(
        &["OWNER", "SESSIONS", "OPEN", "ENDED", "FAIL", "BUSY", "SHARE", "CALLS", "RESULTS"],
        rows.collect(),
    )
}

/// What the rules have found.
pub fn notes(picture: &Picture) -> Table {
    let rows = picture
        .notes
        .iter()
        .map(|note| vec![Cell::text(note.code.as_str()), Cell::text(&sentence(note, picture))]);
    Table::new(&["NOTE", "WHAT IT SAYS"], rows.collect())
}
