//! The files that let somebody in: the capability of a peer, and the broker's own keys. Values to
//! JSON text and back; reading and writing the files is `furlong-link`'s.
//!
//! A [`Capability`] is all that a process needs to enter a cluster: where the broker listens, which
//! key it has, and a token with the secret that belongs to it. A value of it is consistent, because
//! there is no way to make another. Keys and tokens are written as lowercase hexadecimal.

mod cluster_name;
mod endpoint;
mod key_file;
mod pass;
mod revoked;
mod text;

pub use cluster_name::{BadClusterName, ClusterName};
pub use endpoint::{Endpoint, EndpointError};
pub use key_file::{BrokerKey, IssuerKeyFile};
pub use pass::Pass;
pub use revoked::{BadReason, Revocation, RevokedError, RevokedTokens, check_reason};
pub use text::{FieldProblem, JsonError};

use serde::{Deserialize, Serialize};
use thiserror::Error;
use zeroize::Zeroizing;

use crate::ids::{ClusterId, OwnerId, TokenId};
use crate::keys::{IssuerKey, IssuerPublicKey, PublicKey, SecretKey};
use crate::token::{Claims, HolderProved, Role, Token, TokenError, TokenLimits};

/// Endpoints in one capability.
pub const ENDPOINTS_MAX: usize = 64;

/// The data that a process needs to enter a cluster.
#[derive(Debug)]
pub struct Capability {
    cluster: ClusterName,
    endpoints: Vec<Endpoint>,
    server_key: PublicKey,
    issuer_key: IssuerPublicKey,
    token: Token,
    holder_secret: SecretKey,
    /// The claims of the token, proved with the two keys above.
    proved: HolderProved,
}

/// The address of a broker, the key that it has to prove, and the secret with which a peer enters.
#[derive(Clone, Copy, Debug)]
pub struct Door<'a> {
    /// The cluster.
    pub cluster: ClusterId,
    /// The endpoints on which the broker listens; at least one, to be tried in this order.
    pub endpoints: &'a [Endpoint],
    /// The key that the broker has to prove.
    pub server_key: PublicKey,
    /// The secret whose key the peer proves.
    pub secret: &'a SecretKey,
}

/// The rights that a new capability grants.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Grant {
    /// To whom the holder's tasks and results belong.
    pub owner: OwnerId,
    /// The role of the holder.
    pub role: Role,
    /// Labels of the engines that the holder may use, ascending, each once; none means all engines.
    pub scopes: Vec<String>,
    /// The limits on the part of the broker that the holder may occupy.
    pub limits: TokenLimits,
    /// The first second (of 1970) in which it is good.
    pub not_before_s: u64,
    /// The first second (of 1970) in which it is no longer good, or [`Claims::NEVER`].
    pub expires_s: u64,
}

impl Capability {
    /// Makes a new capability of a cluster. `token_id` and `holder_secret` are fresh random bytes.
    ///
    /// # Errors
    /// The errors of [`IssuerKey::sign`] and [`Capability::new`].
    pub fn issue(
        issuer: &IssuerKey,
        cluster: ClusterName,
        endpoints: Vec<Endpoint>,
        server_key: PublicKey,
        grant: Grant,
        token_id: TokenId,
        holder_secret: SecretKey,
    ) -> Result<Self, CapabilityError> {
        let Grant { owner, role, scopes, limits, not_before_s, expires_s } = grant;
        let (cluster_id, holder) = (ClusterId::of(&issuer.public()), holder_secret.public());
        let claims = Claims {
            cluster: cluster_id,
            token_id,
            holder,
            owner,
            role,
            scopes,
            limits,
            not_before_s,
            expires_s,
        };
        let token = issuer.sign(&claims).map_err(CapabilityError::Token)?;
        Self::new(cluster, endpoints, server_key, issuer.public(), token, holder_secret)
    }

    /// The same capability for a broker at other endpoints.
    ///
    /// # Errors
    /// No endpoint, or more than [`ENDPOINTS_MAX`].
    pub fn at(self, endpoints: Vec<Endpoint>) -> Result<Self, CapabilityError> {
        Self::new(
            self.cluster,
            endpoints,
            self.server_key,
            self.issuer_key,
            self.token,
            self.holder_secret,
        )
    }

    /// Puts a capability together.
    ///
    /// # Errors
    /// Parts that do not belong together: a token that this issuer did not sign for its own cluster
    /// and for this secret. No endpoint, or more than [`ENDPOINTS_MAX`]. A server key of small
    /// order, with which anybody could be the broker.
    pub fn new(
        cluster: ClusterName,
        endpoints: Vec<Endpoint>,
        server_key: PublicKey,
        issuer_key: IssuerPublicKey,
        token: Token,
        holder_secret: SecretKey,
    ) -> Result<Self, CapabilityError> {
        if endpoints.is_empty() {
            return Err(CapabilityError::NoEndpoints);
        }
        if endpoints.len() > ENDPOINTS_MAX {
            return Err(CapabilityError::TooManyEndpoints);
        }
        if !server_key.is_sound() {
            return Err(CapabilityError::WeakServerKey);
        }
        let verified = token.verify(&issuer_key, ClusterId::of(&issuer_key));
        let proved = verified
            .and_then(|token| token.prove_holder(&holder_secret.public().0))
            .map_err(CapabilityError::Token)?;
        Ok(Self { cluster, endpoints, server_key, issuer_key, token, holder_secret, proved })
    }

    /// Reads the text of a `*.cap.json`. The caller erases `text` when it is done with it.
    ///
    /// # Errors
    /// Besides those of [`Capability::new`]: text that is no capability of this version, an unknown
    /// or missing field, a value that is malformed or not in the form that
    /// [`to_json`](Self::to_json) writes, a cluster id or role that is not the token's.
    pub fn from_json(text: &str) -> Result<Self, CapabilityError> {
        let file: CapabilityText = text::parse(KIND, text)?;
        let endpoints: Result<_, _> =
            file.endpoints.iter().map(|endpoint| endpoint.parse()).collect();
        let capability = Self::new(
            file.cluster.parse().map_err(CapabilityError::ClusterName)?,
            endpoints.map_err(CapabilityError::Endpoint)?,
            PublicKey(text::hex_array("server_key", &file.server_key)?),
            text::issuer_key(&file.issuer_key)?,
            Token::from_bytes(text::hex_bytes("token", &file.token)?)
                .map_err(CapabilityError::Token)?,
            SecretKey::from_bytes(*text::secret("holder_secret", &file.holder_secret)?),
        )?;
        if text::hex_array("cluster_id", &file.cluster_id)? != capability.cluster_id().0 {
            return Err(CapabilityError::ClusterIdMismatch);
        }
        let (file, token) = (file.role, capability.role());
        if file == token {
            Ok(capability)
        } else {
            Err(CapabilityError::RoleMismatch { file, token })
        }
    }

    /// The text of the file, which is erased from memory when it is dropped.
    pub fn to_json(&self) -> Zeroizing<String> {
        text::print(&CapabilityText {
            kind: KIND.to_owned(),
            version: text::VERSION,
            cluster: self.cluster.to_string(),
            cluster_id: self.cluster_id().to_string(),
            role: self.role(),
            endpoints: self.endpoints.iter().map(Endpoint::to_string).collect(),
            server_key: self.server_key.to_string(),
            issuer_key: self.issuer_key.to_string(),
            token: text::hex(self.token.as_bytes()),
            holder_secret: text::SecretText::of(self.holder_secret.expose()),
        })
    }

    /// The cluster's name, for people: what identifies the cluster is its id.
    pub fn cluster(&self) -> &ClusterName {
        &self.cluster
    }

    /// The cluster's id, the hash of the issuer's key.
    pub fn cluster_id(&self) -> ClusterId {
        self.claims().cluster
    }

    /// The role of the holder.
    pub fn role(&self) -> Role {
        self.claims().role
    }

    /// The endpoints on which the broker listens; at least one, to be tried in this order.
    pub fn endpoints(&self) -> &[Endpoint] {
        &self.endpoints
    }

    /// The key that the broker has to prove.
    pub fn server_key(&self) -> PublicKey {
        self.server_key
    }

    /// The key that signed the token.
    pub fn issuer_key(&self) -> IssuerPublicKey {
        self.issuer_key
    }

    /// Returns the broker's address, and the secret with which to enter.
    pub fn door(&self) -> Door<'_> {
        let Self { endpoints, server_key, holder_secret, .. } = self;
        Door {
            cluster: self.cluster_id(),
            endpoints,
            server_key: *server_key,
            secret: holder_secret,
        }
    }

    /// The token, to be shown to the broker.
    pub fn token(&self) -> &Token {
        &self.token
    }

    /// The secret that belongs to the token.
    pub fn holder_secret(&self) -> &SecretKey {
        &self.holder_secret
    }

    /// Returns the token's claims. Their present validity has not been checked.
    pub fn claims(&self) -> &Claims {
        self.proved.claims()
    }

    /// The token with its proof, for [`HolderProved::check_validity`].
    pub fn proved(&self) -> &HolderProved {
        &self.proved
    }
}

/// The reason that a text is no capability, or parts do not make one.
#[derive(Debug, Error)]
pub enum CapabilityError {
    /// The text itself.
    #[error(transparent)]
    Json(#[from] JsonError),
    /// The name of the cluster.
    #[error("field \"cluster\": {0}")]
    ClusterName(BadClusterName),
    /// One of the endpoints.
    #[error("field \"endpoints\": {0}")]
    Endpoint(EndpointError),
    /// Nowhere to go.
    #[error("field \"endpoints\": there is none")]
    NoEndpoints,
    /// More than [`ENDPOINTS_MAX`].
    #[error("field \"endpoints\": more than {ENDPOINTS_MAX}")]
    TooManyEndpoints,
    /// A server key of small order.
    #[error("field \"server_key\": it is a weak X25519 key")]
    WeakServerKey,
    /// The token, or its signature, or its holder.
    #[error("field \"token\": {0}")]
    Token(TokenError),
    /// The file names another cluster than its issuer key.
    #[error("field \"cluster_id\": it is not the hash of \"issuer_key\"")]
    ClusterIdMismatch,
    /// The file names another role than its token.
    #[error("field \"role\": it says {file}, and the token says {token}")]
    RoleMismatch {
        /// The role in the file.
        file: Role,
        /// The role in the token.
        token: Role,
    },
}

/// The file's fields, in their order.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct CapabilityText {
    kind: String,
    version: u32,
    cluster: String,
    cluster_id: String,
    role: Role,
    endpoints: Vec<String>,
    server_key: String,
    issuer_key: String,
    token: String,
    holder_secret: text::SecretText,
}

const KIND: &str = "furlong capability";

#[cfg(test)]
mod tests;
