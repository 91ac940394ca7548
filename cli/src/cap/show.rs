//! `furlong cap show` and `furlong cap list`.

use std::path::Path;

use anyhow::{Result, bail};
use furlong_host::home::{CapabilitySearch, Home, capability_from_env, load_capability};
use furlong_host::revoked::load_revoked;
use furlong_wire::capability::{Capability, ClusterName, RevokedTokens};
use furlong_wire::token::{Claims, Role};
use serde_json::{Value, json};

use super::words::{limits_in_words, local, validity};
use super::{in_security, now_s};
use crate::exit::ExitCode;
use crate::print;

/// Shows one file.
pub fn show(file: Option<&Path>, cluster: &ClusterName, as_json: bool) -> Result<ExitCode> {
    let from_env = capability_from_env();
    let search = CapabilitySearch {
        explicit: file,
        from_env: from_env.as_deref(),
        cluster: Some(cluster),
        roles: &[
            Role::Client,
            Role::Multiengine,
            Role::Task,
            Role::Observer,
            Role::Auditor,
            Role::Admin,
            Role::Engine,
        ],
    };
    let home = Home::from_env()?;
    let path = home.find_capability(&search)?;
    let capability = load_capability(&path)?;
    let revoked = load_revoked(&home.cluster(capability.cluster())).unwrap_or_default();
    if as_json {
        print::json(&document(&path, &capability, &revoked))?;
    } else {
        print_capability(&path, &capability, &revoked)?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Lists the files of a cluster.
pub fn list(cluster: &ClusterName, as_json: bool) -> Result<ExitCode> {
    let dir = Home::from_env()?.cluster(cluster);
    let files = in_security(&dir);
    if files.is_empty() && !as_json {
        bail!(
            "no capability files in {}; the cluster's broker writes them at its first start",
            dir.security().display()
        );
    }
    let (revoked, now) = (load_revoked(&dir)?, now_s()?);
    let mut documents = Vec::new();
    let mut code = ExitCode::SUCCESS;
    for (path, capability) in &files {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        match capability {
            Ok(capability) if as_json => documents.push(document(path, capability, &revoked)),
            Ok(capability) => {
                let claims = capability.claims();
                let state = state(claims, &revoked, now);
                print::line(format!(
                    "{name:<28} {:<11}  token {}  {state}",
                    claims.role, claims.token_id
                ))?;
            }
            Err(error) => {
                code = ExitCode::FAILURE;
                print::note!("furlong: {error}");
            }
        }
    }
    if as_json {
        print::json(&documents)?;
    }
    Ok(code)
}

/// Returns what a file allows, for programs.
pub fn document(path: &Path, capability: &Capability, revoked: &RevokedTokens) -> Value {
    let claims = capability.claims();
    let expires = (claims.expires_s != Claims::NEVER).then_some(claims.expires_s);
    json!({
        "file": path.display().to_string(),
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
        "nested": !claims.limits.no_nested,
        "not_before_unix_s": claims.not_before_s,
        "expires_unix_s": expires,
        "revoked_unix_s": revoked.get(claims.token_id).map(|revocation| revocation.revoked_s),
    })
}

/// Prints what a file allows, for people.
pub fn print_capability(
    path: &Path,
    capability: &Capability,
    revoked: &RevokedTokens,
) -> Result<()> {
    let claims = capability.claims();
    let endpoints: Vec<String> = capability.endpoints().iter().map(ToString::to_string).collect();
    let engines = match claims.scopes.as_slice() {
        [] => "all".to_owned(),
        labels => format!("those with the label {}", labels.join(" or ")),
    };
    print::line(format!("file      {}", path.display()))?;
    print::line(format!("cluster   {} ({})", capability.cluster(), capability.cluster_id()))?;
    print::line(format!("role      {}", claims.role))?;
    print::line(format!("endpoint  {}", endpoints.join(" ")))?;
    print::line(format!("server    {}", capability.server_key()))?;
    print::line(format!("holder    {}", claims.holder))?;
    print::line(format!("owner     {}", claims.owner))?;
    if claims.role.may_submit_direct() || claims.role.may_submit_shared() {
        print::line(format!("engines   {engines}"))?;
        print::line(format!("limits    {}", limits_in_words(claims.limits)))?;
    }
    print::line(format!("token     {}, {}", claims.token_id, state(claims, revoked, now_s()?)))
}

/// Describes whether a token is good: revoked, expired, for how long.
fn state(claims: &Claims, revoked: &RevokedTokens, now_s: u64) -> String {
    let Some(revocation) = revoked.get(claims.token_id) else { return validity(claims, now_s) };
    let reason = revocation.reason.as_ref().map_or(String::new(), |reason| format!(": {reason}"));
    format!("revoked {}{reason}", local(revocation.revoked_s))
}
