//! `furlong cap`: capability files.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::Result;
use clap::Subcommand;
use furlong_link::home::{CapabilitySearch, Home, capability_from_env, load_capability};
use furlong_wire::capability::{Capability, ClusterName};
use furlong_wire::token::{Claims, Role};
use serde_json::json;

use crate::print;

/// What can be done with capability files.
#[derive(Debug, Subcommand)]
pub enum CapCommand {
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
}

/// Runs a `cap` command.
pub fn run(command: CapCommand) -> Result<ExitCode> {
    let CapCommand::Show { file, cluster, json } = command;
    let from_env = capability_from_env();
    let search = CapabilitySearch {
        explicit: file.as_deref(),
        from_env: from_env.as_deref(),
        cluster: Some(&cluster),
        roles: &[Role::Client, Role::Multiengine, Role::Task, Role::Observer, Role::Admin, Role::Engine],
    };
    let path = Home::from_env()?.find_capability(&search)?;
    let capability = load_capability(&path)?;
    if json {
        print::json(&as_json(&capability))?;
    } else {
        print_capability(&path.display().to_string(), &capability)?;
    }
    Ok(ExitCode::SUCCESS)
}

fn as_json(capability: &Capability) -> serde_json::Value {
    let claims = capability.claims();
    let expires = (claims.expires_s != Claims::NEVER).then_some(claims.expires_s);
    json!({
        "cluster": capability.cluster().as_str(),
        "cluster_id": capability.cluster_id().to_string(),
        "role": claims.role.as_str(),
        "endpoints": capability.endpoints().iter().map(ToString::to_string).collect::<Vec<_>>(),
        "server_public_key": capability.server_key().to_string(),
        "token_id": claims.token_id.to_string(),
        "holder_public_key": claims.holder.to_string(),
        "owner": claims.owner.to_string(),
        "scopes": claims.scopes,
        "unfinished_tasks_max": claims.limits.unfinished_tasks_max,
        "payload_bytes_max": claims.limits.payload_bytes_max,
        "not_before_unix_s": claims.not_before_s,
        "expires_unix_s": expires,
    })
}

fn print_capability(path: &str, capability: &Capability) -> Result<()> {
    let claims = capability.claims();
    let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs();
    let validity = match claims.expires_s {
        Claims::NEVER => "does not expire".to_owned(),
        expires if expires < now => format!("expired {} s ago", now - expires),
        expires => format!("expires in {} s", expires - now),
    };
    let endpoints: Vec<String> = capability.endpoints().iter().map(ToString::to_string).collect();
    print::line(format!("file      {path}"))?;
    print::line(format!("cluster   {} ({})", capability.cluster(), capability.cluster_id()))?;
    print::line(format!("role      {}", claims.role))?;
    print::line(format!("endpoint  {}", endpoints.join(" ")))?;
    print::line(format!("server    {}", capability.server_key()))?;
    print::line(format!("holder    {}", claims.holder))?;
    print::line(format!("token     {}, {validity}", claims.token_id))
}
