//! `furlong man`: the manual pages of the command and of all its subcommands.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context as _, Result};
use clap::Command;

use crate::exit::ExitCode;

/// Flags of `man`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Exit codes: 0 written; 1 the folder cannot be written to.

Examples:
  furlong man ~/.local/share/man/man1     # then: man furlong-map")]
pub struct ManArgs {
    /// The folder for the pages, one file for each command; created if it is not there
    #[arg(value_name = "FOLDER")]
    folder: PathBuf,
}

/// Writes the pages.
pub fn run(args: &ManArgs, command: Command) -> Result<ExitCode> {
    let why = || format!("cannot write manual pages to {}", args.folder.display());
    fs::create_dir_all(&args.folder).with_context(why)?;
    clap_mangen::generate_to(command, &args.folder).with_context(why)?;
    Ok(ExitCode::SUCCESS)
}
