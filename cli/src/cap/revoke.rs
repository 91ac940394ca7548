//! `furlong cap revoke`: adds to `security/revoked.json`, which a running broker reads within a
//! second.

use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use furlong_broker::BrokerLock;
use furlong_host::home::{ClusterDir, Home, load_broker_key, load_capability};
use furlong_host::revoked::add_revoked;
use furlong_wire::capability::{ClusterName, Revocation};
use furlong_wire::ids::{ClusterId, TokenId};
use serde_json::json;

use super::words::reason;
use super::{in_security, now_s};
use crate::exit::ExitCode;
use crate::print;

/// Flags of `cap revoke`.
#[derive(Debug, clap::Args)]
pub struct RevokeArgs {
    /// Capability files, ids of tokens, or their first digits if the file is in the cluster's
    /// `security` folder
    #[arg(value_name = "TOKEN_ID|FILE", required = true)]
    tokens: Vec<String>,
    /// Reason, for the holder and the log
    #[arg(long, value_name = "TEXT", value_parser = reason)]
    reason: Option<String>,
    /// Name of the cluster
    #[arg(long, value_name = "NAME", default_value_t)]
    cluster: ClusterName,
    /// Print a JSON document
    #[arg(long)]
    json: bool,
}

/// Runs `cap revoke`.
pub fn run(args: RevokeArgs) -> Result<ExitCode> {
    let dir = Home::from_env()?.cluster(&args.cluster);
    // What is revoked elsewhere keeps nobody out: the list that counts is beside the broker's key.
    let key = load_broker_key(&dir.broker_key()).with_context(|| {
        format!(
            "a capability is revoked where the broker of its cluster has its files, {}",
            dir.name()
        )
    })?;
    let cluster = ClusterId::of(&key.issuer_key);
    let tokens = args
        .tokens
        .iter()
        .map(|text| find(text, &dir, cluster))
        .collect::<Result<Vec<TokenId>>>()?;
    let revocation = Revocation { revoked_s: now_s()?, reason: args.reason };
    let (_, new) = add_revoked(&dir, &tokens, &revocation)?;
    let running = BrokerLock::is_held(&dir);
    if args.json {
        let texts = |tokens: &[TokenId]| tokens.iter().map(ToString::to_string).collect::<Vec<_>>();
        print::json(&json!({
            "cluster": args.cluster.as_str(),
            "tokens": texts(&tokens),
            "new": texts(&new),
            "file": dir.revoked().display().to_string(),
            "running": running,
        }))?;
        return Ok(ExitCode::SUCCESS);
    }
    for token in tokens {
        let what = if new.contains(&token) { "is revoked" } else { "was revoked before" };
        print::line(format!("token {token} {what}"))?;
    }
    let when = if running { "within a second" } else { "from its next start: it does not run now" };
    print::line(format!("the broker of cluster {} obeys {when}", args.cluster))?;
    Ok(ExitCode::SUCCESS)
}

/// The token that is meant: by its id, by a file, or by the first digits of the id of a file in
/// `security`.
fn find(text: &str, dir: &ClusterDir, cluster: ClusterId) -> Result<TokenId> {
    if let Ok(id) = text.parse() {
        return Ok(id);
    }
    let digits = (4..32).contains(&text.len())
        && text.bytes().all(|digit| matches!(digit, b'0'..=b'9' | b'a'..=b'f'));
    if Path::new(text).exists() || !digits {
        ensure!(
            Path::new(text).exists(),
            "`{text}` is neither a file nor the id of a token, which has 32 hexadecimal digits; `furlong cap list` \
             shows them"
        );
        let capability = load_capability(Path::new(text))?;
        ensure!(
            capability.cluster_id() == cluster,
            "{text} is a capability of another cluster, named {}; say which of yours it is with --cluster",
            capability.cluster()
        );
        return Ok(capability.claims().token_id);
    }
    let files = in_security(dir)
        .into_iter()
        .filter_map(|(_, capability)| Some(capability.ok()?.claims().token_id));
    let mut found: Vec<TokenId> = files.filter(|id| id.to_string().starts_with(text)).collect();
    found.dedup();
    match found.as_slice() {
        [id] => Ok(*id),
        [] => bail!(
            "no token in {} begins with {text}; write its id in full",
            dir.security().display()
        ),
        _ => bail!("{} tokens begin with {text}; write more digits of it", found.len()),
    }
}
