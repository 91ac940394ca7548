//! Real chaos: real programs, each behind a line of its own, are killed, stopped, cut off and left
//! without disk space under load, at moments that follow from a seed. Then everything heals, and
//! every task must have ended as it may.
//!
//! `cargo xtask chaos --minutes 10` lives through one history after another. The seed of a history
//! decides its faults and its tasks; the moments at which processes meet them are the machine's, so
//! a seed that fails once may pass another time. A history that fails leaves its logs in
//! `target/chaos/SEED`.

mod broker;
mod client;
mod disk;
mod engine;
mod farm;
mod heir;
mod job;
mod log;
mod plan;
mod storm;
mod verdict;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};

use anyhow::Context;
use clap::Parser;

use crate::disk::Disk;
use crate::farm::Setup;
use crate::verdict::Tally;

/// Breaks a farm in all ways at random, and looks whether its promises hold.
#[derive(Debug, Parser)]
struct Args {
    #[command(subcommand)]
    part: Option<Part>,
    #[command(flatten)]
    run: RunArgs,
}

/// The other roles of this program.
#[derive(Debug, clap::Subcommand)]
enum Part {
    /// A client of the farm.
    #[command(hide = true)]
    Client(client::ClientArgs),
    /// An engine of the farm.
    #[command(hide = true)]
    Engine(engine::EngineArgs),
}

/// The duration of the run, and its histories.
#[derive(Debug, clap::Args)]
struct RunArgs {
    /// For how many minutes new histories are begun
    #[arg(long, default_value_t = 1.0)]
    minutes: f64,
    /// The seed of the first history; the others follow. By default it is new
    #[arg(long)]
    seed: Option<u64>,
    /// `all` breaks everything, and with `--broker-arg=--journal` makes two in five tasks durable:
    /// who comes in a killed client's place fetches their results; `broker` kills the broker every
    /// 2 s under 10,000 tasks
    #[arg(long, value_enum, default_value_t = Scenario::All)]
    scenario: Scenario,
    /// For how many seconds things are broken in one history
    #[arg(long, default_value_t = 60.0)]
    history_seconds: f64,
    /// The longest that a fault lasts, in seconds
    #[arg(long, default_value_t = 20.0)]
    lasts_at_most: f64,
    /// The longest pause between two faults, in seconds
    #[arg(long, default_value_t = 2.5)]
    pauses_at_most: f64,
    /// The interpreter of the engines; by default the one that `FURLONG_TEST_PYTHON` names, else
    /// they run no Python
    #[arg(long)]
    python: Option<PathBuf>,
    /// Folder in which histories that fail leave their logs
    #[arg(long, default_value = "target/chaos")]
    folder: PathBuf,
    /// Keep the logs of histories that pass, too
    #[arg(long)]
    keep: bool,
    /// A further argument of the broker; repeat it for more
    #[arg(long = "broker-arg", allow_hyphen_values = true)]
    broker_args: Vec<String>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, clap::ValueEnum)]
enum Scenario {
    All,
    Broker,
}

fn main() -> ExitCode {
    let args = Args::parse();
    let ended = match args.part {
        Some(Part::Client(args)) => client::run(args).map(|()| true),
        Some(Part::Engine(args)) => engine::run(args).map(|()| true),
        None => alone(args.run),
    };
    match ended {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("chaos: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Runs in a namespace of mounts of its own where that may be, so that no mount is left behind,
/// whatever happens.
fn alone(args: RunArgs) -> anyhow::Result<bool> {
    if std::env::var_os(ALONE).is_none() && is_root() {
        let mut again = Command::new("unshare");
        again.args(["--mount", "--propagation", "private"]).arg(std::env::current_exe()?);
        if let Ok(status) = again.args(std::env::args_os().skip(1)).env(ALONE, "1").status() {
            return Ok(status.success());
        }
    }
    std::fs::create_dir_all(&args.folder)?;
    // What is under a home has its name in its environment.
    let python = args.python.or_else(|| std::env::var_os("FURLONG_TEST_PYTHON").map(PathBuf::from));
    let args = RunArgs { folder: args.folder.canonicalize()?, python, ..args };
    match args.scenario {
        Scenario::All => storms(&args),
        Scenario::Broker => broker::run(&args),
    }
}

/// One history after the other, until the time is over or one fails.
fn storms(args: &RunArgs) -> anyhow::Result<bool> {
    let begun = Instant::now();
    let lasts = Duration::from_secs_f64(args.minutes * 60.0);
    let first = args.seed.unwrap_or_else(|| u64::from(rand::random::<u32>()));
    let with_disk = std::env::var_os(ALONE).is_some() && may_mount(&args.folder);
    if !with_disk {
        eprintln!("no disk runs full: that needs root");
    }
    let (mut all, mut seed) = (Tally::default(), first);
    while seed == first || begun.elapsed() < lasts {
        eprintln!("history {seed}");
        let folder = args.folder.join(seed.to_string());
        // What an earlier run has left.
        let _ = std::fs::remove_dir_all(&folder);
        let setup = args.setup(seed, folder.clone(), with_disk);
        let history = Duration::from_secs_f64(args.history_seconds).min(lasts);
        match storm::run(setup, history).with_context(|| format!("history {seed}"))? {
            Ok(tally) => {
                all.add(tally);
                if !args.keep {
                    std::fs::remove_dir_all(&folder)?;
                }
            }
            Err(failure) => {
                let storm::Failure { violation, report } = *failure;
                std::fs::write(folder.join("report"), &report)?;
                println!("{report}");
                println!("{}: {}", violation.invariant, violation.text);
                println!("the seed is {seed}, the logs are in {}", folder.display());
                return Ok(false);
            }
        }
        seed += 1;
    }
    println!(
        "{} histories from seed {first} in {:.0} s",
        seed - first,
        begun.elapsed().as_secs_f64()
    );
    println!("{} tasks, {} runs, {} returns of sessions", all.tasks, all.runs, all.returns);
    print_counts("faults", &all.faults);
    print_counts("ends", &all.ends);
    Ok(true)
}

impl RunArgs {
    fn setup(&self, seed: u64, folder: PathBuf, with_disk: bool) -> Setup {
        Setup {
            folder,
            seed,
            engines: 4,
            clients: 4,
            window: 150,
            python: self.python.clone(),
            with_disk,
            short: false,
            faults_last_at_most: Duration::from_secs_f64(self.lasts_at_most),
            pauses_at_most: Duration::from_secs_f64(self.pauses_at_most),
            broker_args: self.broker_args.clone(),
        }
    }
}

impl Tally {
    fn add(&mut self, other: Self) {
        let Self { faults, ends, tasks, runs, returns } = other;
        for (name, count) in faults {
            *self.faults.entry(name).or_default() += count;
        }
        for (name, count) in ends {
            *self.ends.entry(name).or_default() += count;
        }
        self.tasks += tasks;
        self.runs += runs;
        self.returns += returns;
    }
}

fn print_counts(what: &str, counts: &BTreeMap<String, usize>) {
    let counts: Vec<String> =
        counts.iter().map(|(name, count)| format!("{count} {name}")).collect();
    println!("{what}: {}", counts.join(", "));
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

fn may_mount(folder: &Path) -> bool {
    let folder = folder.join("tried");
    let mounted = Disk::mount(&folder).is_ok();
    let _ = std::fs::remove_dir(folder);
    mounted
}

/// Set where the namespace of mounts is our own.
const ALONE: &str = "FURLONG_CHAOS_ALONE";
