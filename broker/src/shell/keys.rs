//! The broker's keys and the capability files: made at the first start, kept over restarts.

use std::path::PathBuf;

use anyhow::{Context, Result};
use furlong_host::home::{ClusterDir, load_broker_key, load_capability, load_issuer_key};
use furlong_host::private_file::{ensure_private_dir, write_private};
use furlong_link::dial::random_bytes;
use furlong_wire::capability::{BrokerKey, Capability, Endpoint, Grant, IssuerKeyFile};
use furlong_wire::ids::{ClusterId, OwnerId, TokenId};
use furlong_wire::keys::{AtRestKey, IssuerKey, SecretKey};
use furlong_wire::token::{Claims, Role, TokenLimits};

/// The broker's identity towards its peers.
#[derive(Debug)]
pub struct Identity {
    /// Its keys.
    pub key: BrokerKey,
    /// The cluster.
    pub cluster: ClusterId,
}

/// Makes the folders of a cluster, private.
///
/// # Errors
/// A folder that others can write to, or that cannot be made.
pub fn ensure_folders(dir: &ClusterDir) -> Result<()> {
    for folder in [dir.path().to_owned(), dir.security(), dir.run(), dir.log()] {
        ensure_private_dir(&folder)?;
    }
    Ok(())
}

/// Loads the keys of a cluster, or makes them at its first start, or again with `fresh`.
///
/// # Errors
/// A file that is not private or cannot be read or written.
pub fn load_or_create(dir: &ClusterDir, fresh: bool) -> Result<Identity> {
    if fresh {
        remove_keys(dir)?;
    }
    if !dir.broker_key().exists() {
        create(dir)?;
    }
    let key = load_broker_key(&dir.broker_key())?;
    let cluster = ClusterId::of(&key.issuer_key);
    Ok(Identity { key, cluster })
}

/// Writes a capability file for each role, or brings the endpoints of the present ones up to date:
/// `endpoints` of a role. Returns their folder.
///
/// # Errors
/// A file that cannot be read or written.
pub fn write_capabilities<'a>(
    dir: &ClusterDir,
    identity: &Identity,
    endpoints: impl Fn(Role) -> &'a [Endpoint],
    now_s: u64,
) -> Result<PathBuf> {
    let issuer =
        dir.issuer_key().exists().then(|| load_issuer_key(&dir.issuer_key())).transpose()?;
    let present: Vec<(Role, Option<Capability>)> = Role::ALL
        .into_iter()
        .map(|role| Ok((role, present(dir, identity, role)?)))
        .collect::<Result<_>>()?;
    // All files of a cluster's first start are of one owner; so is one that is made again later.
    let owner = present.iter().find_map(|(_, it)| it.as_ref().map(|it| it.claims().owner));
    let owner = owner.unwrap_or_else(|| OwnerId(random_bytes()));
    for (role, present) in present {
        let endpoints = endpoints(role);
        let capability = match (present, &issuer) {
            (Some(capability), _) if capability.endpoints() == endpoints => continue,
            (Some(capability), _) => capability.at(endpoints.to_vec())?,
            (None, Some(issuer)) => {
                let grant = Grant {
                    owner,
                    role,
                    scopes: Vec::new(),
                    limits: TokenLimits::default(),
                    not_before_s: now_s,
                    expires_s: Claims::NEVER,
                };
                let server_key = identity.key.server_secret.public();
                let (token_id, secret) =
                    (TokenId(random_bytes()), SecretKey::from_bytes(random_bytes()));
                let (name, endpoints) = (dir.name().clone(), endpoints.to_vec());
                Capability::issue(
                    &issuer.issuer,
                    name,
                    endpoints,
                    server_key,
                    grant,
                    token_id,
                    secret,
                )?
            }
            (None, None) => {
                tracing::warn!(
                    "no capability file for role {role}: issuer.key.json, which signs them, is not here"
                );
                continue;
            }
        };
        write_private(&dir.capability(role), capability.to_json().as_bytes())?;
    }
    Ok(dir.security())
}

/// The capability file of a role, if it is there and of these keys.
fn present(dir: &ClusterDir, identity: &Identity, role: Role) -> Result<Option<Capability>> {
    let path = dir.capability(role);
    if !path.exists() {
        return Ok(None);
    }
    let capability = load_capability(&path)?;
    let ours = capability.cluster_id() == identity.cluster
        && capability.server_key() == identity.key.server_secret.public();
    anyhow::ensure!(
        ours,
        "{} is of other keys than broker.key.json beside it; remove it, or start with --fresh",
        path.display()
    );
    Ok(Some(capability))
}

fn create(dir: &ClusterDir) -> Result<()> {
    let issuer = IssuerKey::from_seed(random_bytes());
    let key = BrokerKey {
        server_secret: SecretKey::from_bytes(random_bytes()),
        issuer_key: issuer.public(),
        at_rest_key: AtRestKey::from_bytes(random_bytes()),
    };
    write_private(&dir.issuer_key(), IssuerKeyFile { issuer }.to_json().as_bytes())?;
    // Last, since its presence says that the keys are whole.
    write_private(&dir.broker_key(), key.to_json().as_bytes())?;
    tracing::info!("new keys in {}", dir.security().display());
    Ok(())
}

fn remove_keys(dir: &ClusterDir) -> Result<()> {
    let capabilities = Role::ALL.into_iter().map(|role| dir.capability(role));
    // The tokens of `revoked.json` are of no use either, signed as they are by the old key.
    let files =
        [dir.broker_key(), dir.issuer_key(), dir.revoked(), dir.broker_state(), dir.roster()];
    for path in files.into_iter().chain(capabilities) {
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(error).with_context(|| format!("cannot remove {}", path.display()));
            }
            _ => {}
        }
    }
    Ok(())
}
