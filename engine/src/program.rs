//! The `engine` program: its command line and its log.

use std::path::PathBuf;

use anyhow::{Context, Result};
use furlong_link::home::Home;
use furlong_link::log::{self, Format, Level};
use furlong_link::private_file::ensure_private_dir;
use furlong_wire::capability::ClusterName;

use crate::Engine;

/// Flags of `engine`.
#[derive(Clone, Debug, clap::Args)]
pub struct EngineArgs {
    /// Capability file; by default `FURLONG_CAP`, else engine.cap.json of the cluster. It may come later than the
    /// engine
    #[arg(long, value_name = "FILE")]
    pub cap: Option<PathBuf>,
    /// Name of the cluster whose capability file is used
    #[arg(long, value_name = "NAME", default_value_t)]
    pub cluster: ClusterName,
    /// Number of engines behind this process's one connection: each has its own id, queue and interpreter
    #[arg(short = 'n', value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1024))]
    pub slots: u32,
    /// Python interpreter; by default that of the active virtual environment, else python3. It needs no package of ours
    #[arg(long, value_name = "PATH")]
    pub python: Option<PathBuf>,
    /// How much is logged: error, warn, info, debug or trace
    #[arg(long, value_name = "LEVEL", default_value = "info")]
    pub log_level: Level,
    /// How log lines look: text or json
    #[arg(long, value_name = "FORMAT", default_value_t)]
    pub log_format: Format,
    /// Stop when standard input ends: for a program that starts engines and must not leave them behind
    #[arg(long, hide = true)]
    pub stop_with_stdin: bool,
}

/// Runs the stock engine.
///
/// # Errors
/// What makes it useless to go on: one line that says how to mend it.
pub fn run(args: EngineArgs) -> Result<()> {
    let dir = Home::from_env()?.cluster(&args.cluster);
    ensure_private_dir(dir.path())?;
    ensure_private_dir(&dir.log())?;
    let log = log::engine_log(&dir.log());
    log::start(Some(&log), Some(args.log_level), args.log_level, args.log_format)
        .with_context(|| format!("cannot write the log {}", log.display()))?;
    let mut engine = Engine::builder().slots(args.slots).cluster(args.cluster).stop_with_stdin(args.stop_with_stdin);
    if let Some(path) = args.cap {
        engine = engine.capability(path);
    }
    if let Some(python) = args.python {
        engine = engine.python(python);
    }
    Ok(engine.run()?)
}
