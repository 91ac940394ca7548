//! `furlong cap`: capability files.

mod issue;
mod revoke;
mod show;
pub mod words;

use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::Result;
use clap::Subcommand;
use furlong_host::home::{CapabilityFileError, ClusterDir, load_capability};
use furlong_wire::capability::{Capability, ClusterName};

use crate::exit::ExitCode;

/// Commands for capability files.
#[derive(Debug, Subcommand)]
pub enum CapCommand {
    /// Make a capability file for somebody: what may be done with it, for how long, and to whom the
    /// tasks belong
    #[command(after_help = "Examples:\n  \
            furlong cap issue --role client --owner alice --expires 30d -o alice.cap.json\n  \
            furlong cap issue --role task --labels gpu --limits tasks=1000,payload=1G\n\n\
            It needs issuer.key.json and no running broker. Two files for one owner see each \
            other's tasks.\n\
            What is good until a day is good to its end, by the clock on the wall.")]
    Issue(Box<issue::IssueArgs>),
    /// Show what a capability file allows; its secret is never shown
    #[command(after_help = "Example: furlong cap show ~/.furlong/default/security/client.cap.json")]
    Show {
        /// The file; by default the one that commands would use
        file: Option<PathBuf>,
        /// Name of the cluster
        #[arg(long, value_name = "NAME", default_value_t)]
        cluster: ClusterName,
        /// Print a JSON document
        #[arg(long)]
        json: bool,
    },
    /// List the capability files in a cluster's `security` folder
    #[command(after_help = "Example: furlong cap list --json")]
    List {
        /// Name of the cluster
        #[arg(long, value_name = "NAME", default_value_t)]
        cluster: ClusterName,
        /// Print a JSON array
        #[arg(long)]
        json: bool,
    },
    /// Make capabilities invalid: within a second the broker ends what their holders do, and lets
    /// them in no more
    #[command(
        after_help = "Examples:\n  furlong cap revoke alice.cap.json --reason 'laptop lost'\n  \
                            furlong cap revoke 0f3c9a51d2e84b7796a1c05e8d7f6b42"
    )]
    Revoke(revoke::RevokeArgs),
}

/// Runs a `cap` command.
pub fn run(command: CapCommand) -> Result<ExitCode> {
    match command {
        CapCommand::Issue(args) => issue::run(*args),
        CapCommand::Show { file, cluster, json } => show::show(file.as_deref(), &cluster, json),
        CapCommand::List { cluster, json } => show::list(&cluster, json),
        CapCommand::Revoke(args) => revoke::run(args),
    }
}

/// The capability files in a cluster's `security` folder, in the order of their names, each read.
fn in_security(dir: &ClusterDir) -> Vec<(PathBuf, Result<Capability, CapabilityFileError>)> {
    let entries =
        dir.security().read_dir().into_iter().flatten().flatten().map(|entry| entry.path());
    let mut paths: Vec<PathBuf> = entries.filter(|path| is_capability(path)).collect();
    paths.sort();
    let read = |path: PathBuf| {
        let capability = load_capability(&path);
        (path, capability)
    };
    paths.into_iter().map(read).collect()
}

fn is_capability(path: &Path) -> bool {
    path.file_name()
        .and_then(|name| name.to_str())
        .is_some_and(|name| name.ends_with(".cap.json") && name.len() > 9)
}

fn now_s() -> Result<u64> {
    Ok(SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs())
}
