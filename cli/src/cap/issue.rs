//! `furlong cap issue`: a new capability, signed with `issuer.key.json`. No broker need run.

use std::path::PathBuf;

use anyhow::{Context, Result, bail, ensure};
use furlong_host::home::{ClusterDir, Home, load_capability, load_issuer_key};
use furlong_host::private_file::create_private;
use furlong_link::dial::random_bytes;
use furlong_wire::capability::{
    Capability, ClusterName, ENDPOINTS_MAX, Endpoint, EndpointError, Grant, RevokedTokens,
};
use furlong_wire::ids::TokenId;
use furlong_wire::keys::SecretKey;
use furlong_wire::token::{Claims, Role, TokenLimits};

use super::words::{OwnerArg, expiry, labels, limits, owner};
use super::{now_s, show};
use crate::exit::ExitCode;
use crate::print;

/// Flags of `cap issue`.
#[derive(Debug, clap::Args)]
pub struct IssueArgs {
    /// Role of the holder: engine, multiengine, task, client, observer, auditor or
    /// admin
    #[arg(long, value_name = "ROLE")]
    role: Role,
    /// To whom the holder's tasks belong: a name, an owner's id, or `new`; by default to the
    /// cluster's own files' owner
    #[arg(long, value_name = "OWNER", value_parser = owner)]
    owner: Option<OwnerArg>,
    /// Labels of the engines that the holder may use, with commas between them; by default all
    /// engines
    #[arg(long, value_name = "LABELS", value_parser = labels_arg)]
    labels: Option<Labels>,
    /// Time of expiry: after a span as `2h` or `30d`, at the end of a day as `2026-12-31`, or
    /// `never`
    #[arg(
        long,
        value_name = "WHEN",
        default_value = "never",
        value_parser = expiry,
        allow_hyphen_values = true
    )]
    expires: u64,
    /// Limits on simultaneous use, as `tasks=1000,payload=1G`; by default what the broker lets
    /// everybody
    #[arg(long, value_name = "LIMITS", value_parser = limits)]
    limits: Option<TokenLimits>,
    /// Forbid the holder's tasks to submit others: code on engines then gets no client of the farm
    #[arg(long)]
    no_nested: bool,
    /// Host name or address by which the holder reaches the broker, tried before those of the
    /// cluster's own files; with another port as HOST:PORT
    #[arg(long, value_name = "HOST")]
    location: Option<String>,
    /// The file to write, which must not be there; by default one in the cluster's `security`
    /// folder
    #[arg(short = 'o', long = "output", value_name = "FILE")]
    output: Option<PathBuf>,
    /// Name of the cluster
    #[arg(long, value_name = "NAME", default_value_t)]
    cluster: ClusterName,
    /// The key that signs; by default issuer.key.json of the cluster
    #[arg(long, value_name = "FILE")]
    issuer_key: Option<PathBuf>,
    /// Print a JSON document
    #[arg(long)]
    json: bool,
}

/// Several labels, which clap takes for one value.
#[derive(Clone, Debug)]
struct Labels(Vec<String>);

fn labels_arg(text: &str) -> Result<Labels, String> {
    labels(text).map(Labels)
}

/// Runs `cap issue`.
pub fn run(args: IssueArgs) -> Result<ExitCode> {
    let uses_engines = args.role.may_submit_direct() || args.role.may_submit_shared();
    ensure!(
        uses_engines || (args.labels.is_none() && args.limits.is_none() && !args.no_nested),
        "--labels, --limits and --no-nested are for who submits tasks, and role {} submits none",
        args.role
    );
    let dir = Home::from_env()?.cluster(&args.cluster);
    let key = args.issuer_key.clone().unwrap_or_else(|| dir.issuer_key());
    let issuer = load_issuer_key(&key).context(
        "a capability is signed with issuer.key.json, which a broker makes at its first start; issue it where that \
         file is, or name it with --issuer-key",
    )?;
    let own = own_capability(&dir, args.role)?;
    ensure!(
        own.issuer_key() == issuer.issuer.public(),
        "{} is not the key of cluster {}: its own files are signed with another",
        key.display(),
        args.cluster
    );
    let cluster = own.cluster_id();
    let owner =
        args.owner.as_ref().map_or(own.claims().owner, |owner| owner.id(cluster, random_bytes()));
    let now = now_s()?;
    let grant = Grant {
        owner,
        role: args.role,
        scopes: args.labels.map_or(vec![], |labels| labels.0),
        limits: TokenLimits { no_nested: args.no_nested, ..args.limits.unwrap_or_default() },
        not_before_s: now,
        expires_s: args.expires,
    };
    ensure!(args.expires == Claims::NEVER || args.expires > now, "it would expire at once");
    let endpoints = endpoints(args.location.as_deref(), own.endpoints())?;
    let token = TokenId(random_bytes());
    let secret = SecretKey::from_bytes(random_bytes());
    let name = own.cluster().clone();
    let capability =
        Capability::issue(&issuer.issuer, name, endpoints, own.server_key(), grant, token, secret)?;
    let path = args.output.unwrap_or_else(|| {
        let token = token.to_string();
        dir.security().join(format!("{}-{}.cap.json", args.role, &token[..8]))
    });
    create_private(&path, capability.to_json().as_bytes())?;
    if args.json {
        print::json(&show::document(&path, &capability, &RevokedTokens::default()))?;
    } else {
        show::print_capability(&path, &capability, &RevokedTokens::default())?;
    }
    Ok(ExitCode::SUCCESS)
}

/// A file that the broker wrote itself, for its name, its key and where it is reached: that of the
/// role, else one with the same port.
fn own_capability(dir: &ClusterDir, role: Role) -> Result<Capability> {
    let same_port = |other: &Role| (*other == Role::Engine) == (role == Role::Engine);
    let (near, far): (Vec<Role>, Vec<Role>) = Role::ALL.into_iter().partition(same_port);
    for other in [role].into_iter().chain(near).chain(far) {
        let path = dir.capability(other);
        if path.symlink_metadata().is_ok() {
            return Ok(load_capability(&path)?);
        }
    }
    bail!(
        "no capability file of cluster {} in {}, from which a new one takes where the broker is; start the broker once, \
         or copy one of its files there",
        dir.name(),
        dir.security().display()
    )
}

/// The location with the port of the cluster's own files, or its own; then where those say.
fn endpoints(location: Option<&str>, own: &[Endpoint]) -> Result<Vec<Endpoint>> {
    let Some(location) = location else { return Ok(own.to_vec()) };
    let port = own.first().map_or(0, Endpoint::port);
    let named: Result<Endpoint, EndpointError> =
        format!("tcp://{location}").parse().or_else(|_| Endpoint::new(location, port));
    let first = named.map_err(|_| {
        anyhow::anyhow!(
            "--location {location}: it is no host name, no address, and neither with a port, as \
             host:7077"
        )
    })?;
    let rest = own.iter().filter(|endpoint| **endpoint != first).cloned();
    Ok([first.clone()].into_iter().chain(rest).take(ENDPOINTS_MAX).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_location_goes_first_with_the_port_of_the_cluster_or_its_own() {
        let own: Vec<Endpoint> =
            ["tcp://10.0.0.1:7", "tcp://127.0.0.1:7"].map(|it| it.parse().unwrap()).to_vec();
        let texts = |location| {
            let endpoints = endpoints(location, &own)?;
            anyhow::Ok(endpoints.iter().map(ToString::to_string).collect::<Vec<_>>().join(" "))
        };
        let both = "tcp://10.0.0.1:7 tcp://127.0.0.1:7";
        assert_eq!(texts(None).unwrap(), both);
        assert_eq!(texts(Some("head")).unwrap(), format!("tcp://head:7 {both}"));
        assert_eq!(texts(Some("head:9")).unwrap(), format!("tcp://head:9 {both}"));
        assert_eq!(texts(Some("::1")).unwrap(), format!("tcp://[::1]:7 {both}"));
        assert_eq!(texts(Some("[::1]:9")).unwrap(), format!("tcp://[::1]:9 {both}"));
        assert_eq!(texts(Some("127.0.0.1")).unwrap(), "tcp://127.0.0.1:7 tcp://10.0.0.1:7");
        for wrong in ["", "a b", "head:0", "head:99999", "tcp://head", "a/b"] {
            assert!(texts(Some(wrong)).is_err(), "{wrong}");
        }
    }
}
