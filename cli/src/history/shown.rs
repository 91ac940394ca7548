//! What a history says, for people and as JSON.

use furlong_host::durations::short;
use jiff::Timestamp;
use jiff::tz::TimeZone;
use serde_json::{Value, json};

use super::query::{Ended, Extent, Gap};
use super::sums::{FailureSums, KindSums};
use crate::print;

/// Gaps that are printed.
const GAPS_TOLD_MAX: usize = 5;
/// A history whose last look is older is not being written.
const WRITTEN_WITHIN_US: u64 = 15_000_000;
/// Engines of a failure that are named.
const ENGINES_TOLD_MAX: usize = 8;

/// The heads of [`row`].
pub const HEAD: &str =
    "task           name             state     engine ended                  waited      ran  why";

/// A task in a table.
pub fn row(task: &Ended) -> String {
    let engine = task.engine.0.map_or("-".to_owned(), |id| id.to_string());
    let [held, queued, _, _, _, run, _] = task.phases_us;
    let why = task.error.as_ref().map(|(error, type_name, fingerprint)| {
        if type_name.is_empty() { error.clone() } else { format!("{type_name} ({fingerprint})") }
    });
    let what =
        format!("{:<14} {:<16} {:<9}", task.task, print::clipped(&task.name, 16), task.state);
    let when = format!("{engine:>6} {}", clock(task.moments_us.1));
    let row = format!(
        "{what} {when} {:>8} {:>8}  {}",
        short(held + queued),
        short(run),
        why.unwrap_or_default()
    );
    row.trim_end().to_owned()
}

/// A task for programs.
pub fn task_as_json(task: &Ended) -> Value {
    let [held, queue, way, began, load, run, store] = task.phases_us;
    let error = task.error.as_ref().map(|(error, type_name, fingerprint)| {
        json!({ "kind": error, "type": type_name, "fingerprint": fingerprint })
    });
    json!({
        "task": task.task, "id": task.id, "owner": task.owner, "runtime": task.runtime,
        "name": task.name, "state": task.state, "error": error, "engine": task.engine.0,
        "host": task.engine.1, "attempts": task.attempts,
        "submitted_unix_us": task.moments_us.0, "ended_unix_us": task.moments_us.1,
        "phases": { "held_us": held, "queue_us": queue, "way_us": way, "began_us": began,
                    "load_us": load, "run_us": run, "store_us": store },
        "bytes": { "request": task.bytes.0, "result": task.bytes.1 },
    })
}

/// Prints sums of kinds.
pub fn print_kinds(kinds: &[KindSums]) -> anyhow::Result<()> {
    if kinds.is_empty() {
        print::note!("furlong: no such task is in the history");
        return Ok(());
    }
    print::line(
        "name                 tasks   failed cancelled  retries   waited  run p50  run p95  run all  last",
    )?;
    for kind in kinds {
        let counts = [kind.tasks, kind.failed].map(|count| format!("{count:>8}")).join(" ");
        let spans = [
            kind.wait_us / kind.tasks.max(1),
            kind.percentile_us(50),
            kind.percentile_us(95),
            kind.run_us(),
        ];
        let spans = spans.map(|us| format!("{:>8}", short(us))).join(" ");
        let name = print::clipped(&kind.name, 16);
        let (cancelled, retries) = (kind.cancelled, kind.retries);
        let last = clock(kind.last_us);
        print::line(format!("{name:<16} {counts} {cancelled:>9} {retries:>8} {spans}  {last}"))?;
    }
    Ok(())
}

/// Sums of a kind for programs.
pub fn kind_as_json(kind: &KindSums) -> Value {
    json!({
        "name": kind.name, "owner": kind.owner, "runtime": kind.runtime, "tasks": kind.tasks,
        "failed": kind.failed, "cancelled": kind.cancelled, "retries": kind.retries,
        "wait_us": kind.wait_us, "run_us": kind.run_us(), "run_p50_us": kind.percentile_us(50),
        "run_p95_us": kind.percentile_us(95), "last_unix_us": kind.last_us,
    })
}

/// Prints failures.
pub fn print_failures(failures: &[FailureSums]) -> anyhow::Result<()> {
    if failures.is_empty() {
        print::note!("furlong: no such failure is in the history");
        return Ok(());
    }
    print::line(
        "   tasks  error                    place       name             first               last                sample         engines",
    )?;
    for failure in failures {
        let (error, type_name, fingerprint) = &failure.error;
        let error = print::clipped(if type_name.is_empty() { error } else { type_name }, 24);
        let place = if *fingerprint == 0 { "-".to_owned() } else { fingerprint.to_string() };
        let name = print::clipped(&failure.name, 16);
        let [first, last] = [failure.moments_us.0, failure.moments_us.1].map(clock);
        let engines: Vec<String> =
            failure.engines.iter().take(ENGINES_TOLD_MAX).map(ToString::to_string).collect();
        let more = failure.engines.len().saturating_sub(ENGINES_TOLD_MAX);
        let more = if more > 0 { format!(" and {more} more") } else { String::new() };
        print::line(format!(
            "{:>8}  {error:<24} {place:<11} {name:<16} {first} {last} {:<14} {}{more}",
            failure.tasks,
            failure.sample,
            engines.join(",")
        ))?;
    }
    Ok(())
}

/// A failure for programs.
pub fn failure_as_json(failure: &FailureSums) -> Value {
    let (error, type_name, fingerprint) = &failure.error;
    json!({
        "name": failure.name, "error": error, "type": type_name, "fingerprint": fingerprint,
        "tasks": failure.tasks, "engines": failure.engines, "sample": failure.sample,
        "first_unix_us": failure.moments_us.0, "last_unix_us": failure.moments_us.1,
    })
}

/// How far a history goes, for programs.
pub fn extent_as_json(extent: &Extent) -> Value {
    let gap = |gap: &Gap| {
        json!({ "from_unix_us": gap.from_us, "to_unix_us": gap.to_us, "tasks": gap.ends,
                "why": gap.why })
    };
    json!({
        "cluster": extent.cluster, "from_unix_us": extent.from_us, "to_unix_us": extent.to_us,
        "dropped": extent.dropped, "all_owners": extent.sees_all,
        "gaps": extent.gaps.iter().map(gap).collect::<Vec<_>>(),
    })
}

/// Says what is missing, or may be, of the time that was asked for.
pub fn note_extent(extent: &Extent, (from_us, to_us): (Option<u64>, Option<u64>), now_us: u64) {
    let (Some(first), Some(last)) = (extent.from_us, extent.to_us) else {
        print::note!("furlong: nothing has been recorded yet");
        return;
    };
    if from_us.is_some_and(|from| from < first) || (from_us.is_none() && extent.dropped > 0) {
        let dropped = match extent.dropped {
            0 => String::new(),
            dropped => format!("; {} before it deleted", print::counted(dropped, "task was"))
                .replace("task wass", "tasks were"),
        };
        print::note!("furlong: the history begins at {}{dropped}", clock(first));
    }
    for gap in extent.gaps.iter().take(GAPS_TOLD_MAX) {
        let missing = match gap.ends {
            Some(ends) => format!("{} missing", print::counted(ends, "task")),
            None => "tasks may be missing".to_owned(),
        };
        let (from, to) = (clock(gap.from_us), clock(gap.to_us));
        print::note!("furlong: {missing} between {from} and {to}: {}", gap.why);
    }
    if let Some(more) = extent.gaps.len().checked_sub(GAPS_TOLD_MAX).filter(|more| *more > 0) {
        print::note!("furlong: and {} (--json has them)", print::counted(more as u64, "more gap"));
    }
    if !extent.sees_all {
        print::note!(
            "furlong: tasks of other owners are not recorded: an observer does not see them"
        );
    }
    if now_us.min(to_us.unwrap_or(u64::MAX)) > last + WRITTEN_WITHIN_US {
        print::note!(
            "furlong: nothing is recorded since {}: `furlong history record` does not run",
            clock(last)
        );
    }
}

/// A moment on this machine's clock.
fn clock(unix_us: u64) -> String {
    let moment = i64::try_from(unix_us).ok().and_then(|us| Timestamp::from_microsecond(us).ok());
    let zoned = moment.map(|moment| moment.to_zoned_datetime(TimeZone::system()));
    zoned.map_or_else(
        || format!("second {} of 1970", unix_us / 1_000_000),
        |zoned| zoned.strftime("%Y-%m-%d %H:%M:%S").to_string(),
    )
}
