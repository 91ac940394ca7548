//! `furlong journal`: looks at a broker's journal.

use std::path::PathBuf;

use anyhow::Result;
use clap::Subcommand;
use furlong_host::home::{Home, load_broker_key};
use furlong_wire::capability::ClusterName;

use crate::exit::ExitCode;
use crate::print;

const AFTER_HELP: &str = "\
Exit codes: 0 the journal is whole; 1 it is not, or a broker has it open, or it is no journal; 2 wrong usage.

Example: furlong journal check";

/// Commands for a journal.
#[derive(Debug, Subcommand)]
pub enum JournalCommand {
    /// Read all of a journal that no broker has open, and say whether it is whole
    #[command(after_help = AFTER_HELP)]
    Check(CheckArgs),
}

/// Flags of `journal check`.
#[derive(Debug, clap::Args)]
pub struct CheckArgs {
    /// The journal; by default `journal.db` of the cluster's folder
    file: Option<PathBuf>,
    /// Name of the cluster whose key opens the secrets in it
    #[arg(long, value_name = "NAME", default_value_t)]
    cluster: ClusterName,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Runs a `journal` command.
pub fn run(command: JournalCommand) -> Result<ExitCode> {
    let JournalCommand::Check(args) = command;
    let dir = Home::from_env()?.cluster(&args.cluster);
    let path = args.file.unwrap_or_else(|| dir.journal());
    let key = dir.broker_key().exists().then(|| load_broker_key(&dir.broker_key())).transpose()?;
    let report = furlong_broker::journal::check(&path, key.as_ref().map(|key| &key.at_rest_key))?;
    if args.json {
        print::json(&report)?;
    } else {
        print::line(format!(
            "{}: version {}, {}, {} unfinished and {} ended, {}",
            path.display(),
            report.version,
            print::counted(report.sessions, "session"),
            print::counted(report.unfinished, "task"),
            report.ended,
            print::counted(report.bytes, "byte"),
        ))?;
        for problem in &report.problems {
            print::line(format!("wrong: {problem}"))?;
        }
        print::line(if report.problems.is_empty() { "it is whole" } else { "it is damaged" })?;
    }
    Ok(if report.problems.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
