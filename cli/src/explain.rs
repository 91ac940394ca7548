//! `furlong explain`: one task, and where its time went.

use std::time::{Duration, SystemTime};

use anyhow::{Result, ensure};
use furlong_wire::message::TaskRecord;

use crate::cluster;
use crate::connect::ConnectArgs;
use crate::exit::ExitCode;
use crate::print;
use crate::record::{Spans, as_json, state, why};
use crate::select::Selector;
use crate::selected::{READING, records};
use furlong_host::durations::short;

const AFTER_HELP: &str = "\
It says where the task is, why it waits or how it ended, what became of each attempt, and where the time went:
  held        before it could be queued: it waited for other tasks, or for its arguments
  queued      it waited for an engine
  on engine   with its engine, but not running: behind others there, or on the way there and back
  loading     its function and arguments were loaded, or its program was started, by the engine's clock
  running     its code ran
  storing     its result was encoded
  delivering  its result was on the way to the client

Exit codes: 0 the task is known; 1 it is not, or an error; 2 wrong usage.

Examples:
  furlong explain k3f9a2:17
  furlong explain 17 --json | jq .spans_us";

/// Flags of `explain`.
#[derive(Debug, clap::Args)]
#[command(after_long_help = AFTER_HELP, after_help = "`--help` says more, with examples.")]
pub struct ExplainArgs {
    /// The task: `k3f9a2:17`, or `17` of `last`
    #[arg(value_name = "TASK")]
    task: Selector,
    /// Print a JSON document
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    connect: ConnectArgs,
}

/// Prints what is known of the task.
pub async fn run(args: ExplainArgs) -> Result<ExitCode> {
    let client = args.connect.connect(READING).await?;
    let found = records(&client, &args.task, None, None).await?;
    let status = client.status().await.ok();
    client.close().await;
    let record = &found[0];
    let (task, count) = (&args.task, found.len());
    ensure!(
        count == 1,
        "`{task}` names {count} tasks, and `explain` tells of one: as `{}`; `furlong queue --all {task}` lists them",
        record.id
    );
    if args.json {
        print::json(&as_json(record))?;
    } else {
        lines(record).into_iter().try_for_each(print::line)?;
        // What it waits for may be on its way.
        let status = status.filter(|_| record.waits.is_some());
        let pools = status.map_or_else(Vec::new, |it| cluster::pools(&it.cluster_name, it.pid));
        for pool in pools {
            print::line(format!("{:<11} {}", "pool", pool.trim_start_matches("pool ")))?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// The screen.
fn lines(record: &TaskRecord) -> Vec<String> {
    let times = &record.times;
    let mut lines = Vec::new();
    let mut say = |name: &str, what: String| lines.push(format!("{name:<11} {what}"));
    say("task", record.id.to_string());
    if let Some(label) = &record.label {
        say("label", label.clone());
    }
    let place = record
        .target
        .map_or("the shared queue".to_owned(), |id| format!("the queue of engine {id}"));
    let priority = if record.priority == 0 {
        String::new()
    } else {
        format!(", priority {}", record.priority)
    };
    let name = record.name.as_ref().map_or(String::new(), |name| format!("`{name}`, "));
    say("what", format!("{name}a {} task of {place}{priority}", record.runtime));
    let on = record.engine.map_or(String::new(), |id| format!(", engine {id}"));
    say("state", format!("{}{on}", state(record)));
    if let Some(why) = why(record) {
        say("why", why);
    }
    say(
        "submitted",
        format!("{} ago", short(since(times.submitted_unix_us).unwrap_or(times.now_us))),
    );
    say("bytes", bytes(record));
    if record.outcome.is_some() {
        say(
            "result",
            if record.kept { "kept: `furlong result` shows it" } else { "not kept" }.to_owned(),
        );
    }
    for attempt in attempts(record) {
        say("attempt", attempt);
    }
    lines.extend(spans(record));
    lines
}

/// Returns the time since then by this machine's clock, if it agrees with the broker's that it is
/// past.
fn since(unix_us: u64) -> Option<u64> {
    let at = SystemTime::UNIX_EPOCH + Duration::from_micros(unix_us);
    SystemTime::now().duration_since(at).ok().map(|since| since.as_micros() as u64)
}

fn bytes(record: &TaskRecord) -> String {
    let [request, result, stdout, stderr] =
        [record.request_bytes, record.result_bytes, record.stdout_bytes, record.stderr_bytes]
            .map(print::bytes);
    format!(
        "{request} of call and arguments, {result} of result, {stdout} on stdout, {stderr} on stderr"
    )
}

/// Describes the outcome of each attempt, the last one last.
fn attempts(record: &TaskRecord) -> Vec<String> {
    let past = (1..).zip(&record.past).map(|(number, attempt)| {
        let (at, took) = (
            short(attempt.assigned_us),
            short(attempt.ended_us.saturating_sub(attempt.assigned_us)),
        );
        format!(
            "{number} on engine {}, given after {at}, {took} later: {}",
            attempt.engine, attempt.how
        )
    });
    let mut attempts: Vec<String> = past.collect();
    let is_given = record.attempts as usize > record.past.len();
    if let Some((engine, at)) = record.engine.zip(record.times.assigned_us).filter(|_| is_given) {
        let number = record.attempts;
        attempts.push(format!(
            "{number} on engine {engine}, given after {}: {}",
            short(at),
            state(record)
        ));
    }
    attempts
}

/// A bar for each part of the task's time.
fn spans(record: &TaskRecord) -> Vec<String> {
    let spans = Spans::of(record);
    let parts = [
        ("held", Some(spans.held).filter(|held| *held > 0)),
        ("queued", spans.queued),
        ("on engine", spans.on_engine),
        ("loading", spans.loading.filter(|loading| *loading > 0)),
        ("running", spans.running),
        ("storing", spans.storing.filter(|storing| *storing > 0)),
        ("delivering", spans.delivering),
    ];
    let row = |(name, us): (&str, Option<u64>)| {
        us.map(|us| {
            let bar = "#".repeat((us * BAR / spans.total.max(1)) as usize);
            format!("{name:<11} {:>8} {bar}", short(us)).trim_end().to_owned()
        })
    };
    let total = format!("{:<11} {:>8}", "in all", short(spans.total));
    parts.into_iter().filter_map(row).chain([total]).collect()
}

/// Characters of a bar that is all of a task's time.
const BAR: u64 = 40;

#[cfg(test)]
mod tests {
    use furlong_wire::ids::EngineId;
    use furlong_wire::message::AttemptRecord;

    use super::*;
    use crate::record::tests::ended;

    #[test]
    fn one_screen_says_what_there_is_to_say() {
        let how = "the engine was lost".to_owned();
        let past = AttemptRecord { engine: EngineId(1), assigned_us: 200, ended_us: 350, how };
        let record = TaskRecord { attempts: 2, past: vec![past], ..ended() };
        let lines = lines(&record);
        assert!(lines.len() < 24, "{lines:?}");
        for expected in [
            "task        000000:7",
            "label       night",
            "what        `render.py`, a command task of the shared queue",
            "state       succeeded, engine 2",
            "attempt     1 on engine 1, given after 200 us, 150 us later: the engine was lost",
            "attempt     2 on engine 2, given after 400 us: succeeded",
            "queued        300 us ###########",
            "in all          1 ms",
        ] {
            assert!(lines.iter().any(|line| line == expected), "no {expected:?} in {lines:#?}");
        }
    }
}
