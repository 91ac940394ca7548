//! `furlong trace`: what ran when and where, for programs that draw it.

use std::io::{IsTerminal as _, stdout};
use std::path::{Path, PathBuf};

use anyhow::{Result, bail};
use clap::Subcommand;
use furlong_client::{Trace, TraceFormat, TraceMoment, TraceRange};
use furlong_host::durations;
use furlong_wire::message::Stream;
use jiff::ZonedDateTime;
use jiff::civil::{DateTime, Time};
use serde_json::{Value, json};

use crate::connect::{ConnectArgs, OBSERVERS};
use crate::exit::ExitCode;
use crate::print;
use crate::replaced::replace;

/// Commands for traces.
#[derive(Debug, Subcommand)]
pub enum TraceCommand {
    /// Write a trace of the tasks that have ended: for Perfetto, for Chrome, as a picture, or as a
    /// page
    #[command(after_help = "\
Without -o the trace goes to standard output. The file's ending says the format if --format does not:
.pftrace, .json, .svg or .html. Open .pftrace files at https://ui.perfetto.dev.

The broker remembers the times of the last 65 536 tasks that have ended.

Exit codes: 0 written; 1 an error; 2 wrong usage.

Examples:
  furlong trace export -o run.pftrace
  furlong trace export --last 10m --kind fit -o fit.html
  furlong trace export --from 14:05 --to 14:10 --format svg > five-minutes.svg")]
    Export(ExportArgs),
}

/// Flags of `trace export`.
#[derive(Debug, clap::Args)]
pub struct ExportArgs {
    /// Only tasks of the last time, as 90s, 10m or 2h
    #[arg(long, value_name = "TIME", value_parser = last, conflicts_with_all = ["from", "to"])]
    last: Option<TraceMoment>,
    /// Only tasks that ended after this: a clock time as 14:05, a day and time as
    /// 2026-12-31T14:05, or so long ago, as 10m
    #[arg(long, value_name = "WHEN", value_parser = moment)]
    from: Option<TraceMoment>,
    /// Only tasks that began before this
    #[arg(long, value_name = "WHEN", value_parser = moment)]
    to: Option<TraceMoment>,
    /// Only tasks of this function, named with its module or without, or program
    #[arg(long, value_name = "NAME")]
    kind: Option<String>,
    /// The file to write; one that is there is replaced
    #[arg(short = 'o', long = "output", value_name = "FILE")]
    output: Option<PathBuf>,
    /// The format: perfetto, chrome, svg or html; by default what the file's ending says, else
    /// perfetto
    #[arg(long, value_name = "FORMAT")]
    format: Option<TraceFormat>,
    /// Print a JSON document that says what was written
    #[arg(long, requires = "output")]
    json: bool,
    #[command(flatten)]
    connect: ConnectArgs,
}

/// Runs a `trace` command.
pub async fn run(command: TraceCommand) -> Result<ExitCode> {
    let TraceCommand::Export(args) = command;
    export(args).await
}

async fn export(args: ExportArgs) -> Result<ExitCode> {
    let format = format(&args)?;
    let range = TraceRange { from: args.last.or(args.from), to: args.to, kind: args.kind };
    let client = args.connect.connect(OBSERVERS).await?;
    let bar = print::progress(Some(0), true);
    let trace = client
        .trace(&range, |read, all| {
            bar.set_length(all.max(read));
            bar.set_position(read);
        })
        .await;
    bar.finish_and_clear();
    let trace = trace?;
    client.close().await;
    let written = trace.written(format);
    if trace.tasks.is_empty() {
        print::note!("furlong: no task has ended in that time: the trace is empty");
    } else if trace.forgotten > 0 {
        print::note!("furlong: the trace has {}", trace.extent());
    }
    match &args.output {
        None => print::own(Stream::Stdout, &written)?,
        Some(path) => {
            replace(path, &written, None)?;
            let bytes = written.len() as u64;
            if args.json {
                print::json(&summary(&trace, path, format, bytes))?;
            } else {
                let (file, size) = (path.display(), print::bytes(bytes));
                let count = print::counted(trace.tasks.len() as u64, "task");
                print::line(format!("{file} has {count}: {format}, {size}"))?;
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// The format that is asked for. A terminal is not sent what only a program can read.
fn format(args: &ExportArgs) -> Result<TraceFormat> {
    let ending = args.output.as_deref().and_then(Path::to_str).map(|name| {
        let file = name.rsplit('/').next().unwrap_or(name);
        TraceFormat::of_file(file)
    });
    let format = match (args.format, ending) {
        (Some(format), _) | (None, Some(Some(format))) => format,
        (None, None) => TraceFormat::Perfetto,
        (None, Some(None)) => {
            return Err(crate::usage_error(
                "the file's ending says no format (.pftrace, .json, .svg, .html): add --format",
            ));
        }
    };
    if args.output.is_none() && format == TraceFormat::Perfetto && stdout().is_terminal() {
        bail!("a trace of Perfetto is nothing for a terminal: name a file, as in `-o run.pftrace`");
    }
    Ok(format)
}

/// What was written, for programs.
fn summary(trace: &Trace, path: &Path, format: TraceFormat, bytes: u64) -> Value {
    let (from_us, to_us) = trace.span_us();
    let failed = trace.tasks.iter().filter(|task| task.has_failed()).count();
    let running = trace.tasks.iter().filter(|task| task.state.is_none()).count();
    let kind = |(place, name): (usize, &String)| {
        let of_kind = || trace.tasks.iter().filter(move |task| task.kind == place);
        json!({ "kind": name, "tasks": of_kind().count(),
                "failed": of_kind().filter(|task| task.has_failed()).count(),
                "run_us": of_kind().map(|task| task.times.run.run_us).sum::<u64>() })
    };
    json!({
        "file": path.to_string_lossy(), "format": format.as_str(), "bytes": bytes,
        "cluster": trace.cluster, "tasks": trace.tasks.len(), "failed": failed,
        "running": running, "forgotten": trace.forgotten,
        "engines": trace.engines.iter().filter(|it| !it.lanes.is_empty()).count(),
        "from_unix_us": trace.zero_unix_us + from_us, "to_unix_us": trace.zero_unix_us + to_us,
        "kinds": trace.kinds.iter().enumerate().map(kind).collect::<Vec<_>>(),
    })
}

fn last(text: &str) -> Result<TraceMoment, String> {
    durations::limit(text).map(TraceMoment::Ago)
}

/// Reads a moment: so long ago, a time of today, or a day and a time.
///
/// # Errors
/// The problem with it, for the usage message.
pub fn moment(text: &str) -> Result<TraceMoment, String> {
    moment_from(text, &ZonedDateTime::now())
}

/// Reads a moment: so long ago, a time of this day, or a day and a time.
fn moment_from(text: &str, now: &ZonedDateTime) -> Result<TraceMoment, String> {
    // A number alone could be of seconds, or an hour.
    let has_unit = text.ends_with(|last: char| last.is_ascii_alphabetic());
    if let Some(ago) = durations::duration(text).ok().filter(|_| has_unit) {
        return Ok(TraceMoment::Ago(ago));
    }
    let wrong = || {
        format!("`{text}` is no moment: write 10m for ten minutes ago, 14:05, or 2026-12-31T14:05")
    };
    let zone = || now.time_zone().clone();
    let timestamp = if let Ok(moment) = text.parse::<jiff::Timestamp>() {
        moment
    } else if let Some(time) = text.parse::<Time>().ok().filter(|_| text.contains(':'))
        && !text.contains('-')
    {
        let zoned = now.date().to_datetime(time).to_zoned_datetime(zone()).map_err(|_| wrong())?;
        zoned.timestamp()
    } else {
        let civil = text.parse::<DateTime>().map_err(|_| wrong())?;
        civil.to_zoned_datetime(zone()).map_err(|_| wrong())?.timestamp()
    };
    let us = u64::try_from(timestamp.as_microsecond()).map_err(|_| wrong())?;
    Ok(TraceMoment::Unix(us))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_moment_is_a_span_ago_a_time_of_today_or_a_day_and_a_time() {
        let now: ZonedDateTime = "2026-03-01T12:00:00+01:00[+01:00]".parse().unwrap();
        let of = |text: &str| moment_from(text, &now);
        let unix = |text: &str| {
            let at = text.parse::<jiff::Timestamp>().unwrap();
            Ok(TraceMoment::Unix(u64::try_from(at.as_microsecond()).unwrap()))
        };
        assert_eq!(of("10m"), Ok(TraceMoment::Ago(Duration::from_secs(600))));
        assert_eq!(of("90s"), Ok(TraceMoment::Ago(Duration::from_secs(90))));
        assert_eq!(of("11:30"), unix("2026-03-01T10:30:00Z"));
        assert_eq!(of("11:30:15"), unix("2026-03-01T10:30:15Z"));
        assert_eq!(of("2026-02-28T23:00"), unix("2026-02-28T22:00:00Z"));
        assert_eq!(of("2026-02-28T23:00Z"), unix("2026-02-28T23:00:00Z"));
        for wrong in ["", "14", "now", "25:00", "2026-02-30T10:00", "-5m", "1969-01-01T00:00Z"] {
            let error = of(wrong).unwrap_err();
            assert!(error.contains("is no moment") && error.lines().count() == 1, "{wrong}");
        }
    }
}
