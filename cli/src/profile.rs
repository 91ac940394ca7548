//! `furlong profile`: where an interpreter is over a time.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Result;
use clap::ValueEnum;
use furlong_client::Inspected;
use furlong_wire::limits::SAMPLES_PER_S_MAX;

use crate::connect::ConnectArgs;
use crate::exit::ExitCode;
use crate::interrupt;
use crate::print;
use crate::replaced::replace;
use crate::selected::ASKING;
use crate::stack::{Target, heading, lines};

const AFTER_HELP: &str = "\
A thread in the interpreter looks at all others, so many times a second, and only for so long. It prints the
functions and lines in which the main thread was most, by the time that passed, waiting included. A call of C that
holds Python's lock counts for the line that has made it.

With --svg a flame graph is drawn: a picture for browsers and documents, in which a call is as wide as its time and
stands under the one that has made it. With --out the stacks are written: as JSON for https://www.speedscope.app, or,
if the file's name ends with .txt or .folded, as collapsed stacks for programs that draw; with .svg it is the picture.

Of an engine, all your tasks that run meanwhile are shown whose sessions have one there at the beginning; of a task,
that task until its end.

Exit codes: 0 printed; 1 nothing of yours ran there, or an error; 2 wrong usage.

Examples:
  furlong profile 3 --seconds 10
  furlong profile last:17 --svg fit.svg
  furlong profile k3f9a2:17 --seconds 30 --out fit.speedscope.json";

/// Functions and lines that are printed.
const SHOWN: usize = 10;

/// Flags of `profile`.
#[derive(Debug, clap::Args)]
#[command(after_long_help = AFTER_HELP, after_help = "`--help` says more, with examples.")]
pub struct ProfileArgs {
    /// The engine, as `3`, or the running task, as `k3f9a2:17` or `last:17`
    #[arg(value_name = "ENGINE|TASK")]
    of: Target,
    /// For so many seconds
    #[arg(long, value_name = "SECONDS", default_value = "10", value_parser = seconds)]
    seconds: Duration,
    /// Looks a second
    #[arg(long, value_name = "NUMBER", default_value_t = 100, value_parser = rate)]
    rate: u32,
    /// The file to write the stacks to; one that is there is replaced
    #[arg(short = 'o', long = "out", value_name = "FILE")]
    out: Option<PathBuf>,
    /// The file to write a flame graph to, as SVG; one that is there is replaced
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,
    /// The file's format; by default what its ending says
    #[arg(long, value_name = "FORMAT", requires = "out")]
    format: Option<Format>,
    #[command(flatten)]
    connect: ConnectArgs,
}

/// The formats of a file with stacks.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
enum Format {
    /// JSON for speedscope
    Speedscope,
    /// A line for each stack
    Collapsed,
    /// A flame graph
    Svg,
}

impl Format {
    /// The format that a file's ending stands for.
    fn of(path: &Path) -> Self {
        match path.extension().and_then(|ending| ending.to_str()) {
            Some("txt" | "folded" | "collapsed") => Self::Collapsed,
            Some("svg") => Self::Svg,
            _ => Self::Speedscope,
        }
    }

    fn written(self, profile: &Inspected) -> String {
        let seen = &profile.seen;
        match self {
            Self::Collapsed => seen.collapsed(),
            Self::Speedscope => seen.speedscope(&heading(profile)).to_string(),
            Self::Svg => seen.flame_graph(&heading(profile)),
        }
    }
}

/// Samples the interpreter, and prints where it was most.
pub async fn run(args: ProfileArgs) -> Result<ExitCode> {
    let client = args.connect.connect(ASKING).await?;
    let work = async {
        let of = args.of.find(&client).await?;
        let profile = client.profile(of, args.seconds, args.rate).await?;
        let seen = &profile.seen;
        if seen.samples == 0 {
            print::note!("furlong: {}; there is no sample", none(&profile));
            lines(&profile).into_iter().try_for_each(print::line)?;
            return Ok(ExitCode::FAILURE);
        }
        hottest(&profile).into_iter().try_for_each(print::line)?;
        if let Some(path) = &args.out {
            let written = args.format.unwrap_or_else(|| Format::of(path)).written(&profile);
            replace(path, written.as_bytes(), None)?;
            print::line(format!("{} has the stacks", path.display()))?;
        }
        if let Some(path) = &args.svg {
            replace(path, Format::Svg.written(&profile).as_bytes(), None)?;
            print::line(format!("{} has the flame graph", path.display()))?;
        }
        Ok(ExitCode::SUCCESS)
    };
    interrupt::or_leave(&client, work).await
}

/// Why there are no samples.
fn none(profile: &Inspected) -> String {
    if profile.seen.in_c {
        return format!("{} all the time", heading(profile));
    }
    format!("engine {}: no code of yours ran there", profile.engine)
}

/// The same as lines for a screen.
pub fn report(profile: &Inspected) -> Vec<String> {
    if profile.seen.samples > 0 {
        return hottest(profile);
    }
    let none = format!("{}; there is no sample", none(profile));
    std::iter::once(none).chain(lines(profile)).collect()
}

/// The screen.
fn hottest(profile: &Inspected) -> Vec<String> {
    let seen = &profile.seen;
    let all = seen.seen_us.max(1) as f64;
    let percent = |us: u64| 100.0 * us as f64 / all;
    let (samples, time) =
        (print::counted(seen.samples, "sample"), print::micros(seen.seen_us as f64));
    let mut shown = vec![format!("engine {}: {samples} of {time}", profile.engine)];
    shown.push("  self   total  function".to_owned());
    for (own, total, (name, file, line)) in seen.hottest().into_iter().take(SHOWN) {
        shown.push(format!(
            "{:5.1}%  {:5.1}%  {name} ({file}:{line})",
            percent(own),
            percent(total)
        ));
    }
    shown.push("  self  line".to_owned());
    for (us, file, line) in seen.lines.iter().take(SHOWN) {
        shown.push(format!("{:5.1}%  {file}:{line}", percent(*us)));
    }
    if seen.longest_us > LONG_US {
        let longest = print::micros(seen.longest_us as f64);
        shown.push(format!(
            "Python's lock was held for up to {longest}: the time counts for what followed"
        ));
    }
    if seen.others_us > 0 {
        let others = print::micros(seen.others_us as f64);
        shown.push(format!("{others} of all threads are in stacks that are left out"));
    }
    shown
}

/// Longer pauses between two samples are told of.
const LONG_US: u64 = 100_000;

fn rate(text: &str) -> Result<u32, String> {
    let rate = text.parse().ok().filter(|rate| (1..=SAMPLES_PER_S_MAX).contains(rate));
    rate.ok_or_else(|| format!("a number from 1 to {SAMPLES_PER_S_MAX}"))
}

fn seconds(text: &str) -> Result<Duration, String> {
    let seconds = text.parse::<f64>().ok().filter(|seconds| (0.1..=600.0).contains(seconds));
    seconds
        .map(Duration::from_secs_f64)
        .ok_or_else(|| "a number of seconds from 0.1 to 600".to_owned())
}
