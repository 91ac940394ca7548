//! Tokens: what the cluster's issuer says about the holder of a key, signed.
//!
//! A token is not secret; it is useless without the holder's secret key. What it says can be had
//! only by the checks, in this order: [`Token::verify`] (signature over the exact bytes, then
//! cluster), [`VerifiedToken::prove_holder`] (the peer's key in the handshake is the token's),
//! [`HolderProved::check_validity`].
//!
//! ```
//! use furlong_wire::ids::{ClusterId, OwnerId, TokenId};
//! use furlong_wire::keys::{IssuerKey, SecretKey};
//! use furlong_wire::token::{Claims, Role, TokenLimits};
//!
//! let issuer = IssuerKey::from_seed([1; 32]);
//! let cluster = ClusterId::of(&issuer.public());
//! let holder = SecretKey::from_bytes([2; 32]).public();
//! let token = issuer.sign(&Claims {
//!     cluster,
//!     token_id: TokenId([3; 16]),
//!     holder,
//!     owner: OwnerId([4; 16]),
//!     role: Role::Client,
//!     scopes: vec![],
//!     limits: TokenLimits::default(),
//!     not_before_s: 1_800_000_000,
//!     expires_s: Claims::NEVER,
//! })?;
//! let proved = token.verify(&issuer.public(), cluster)?.prove_holder(&holder.0)?;
//! proved.check_validity(1_800_000_000)?;
//! assert!(proved.claims().role.may_submit_direct());
//! # Ok::<(), furlong_wire::token::TokenError>(())
//! ```
//!
//! Encoding, numbers little-endian; there is exactly one encoding of given claims:
//!
//! ```text
//! "furlong token v1\0" | format u8 | role u8 | cluster 32 | token id 16 | holder 32 | owner 16
//! | unfinished tasks u64 | payload bytes u64 | not before u64 | expires u64
//! | scopes u16 | for each: length u16, UTF-8 | Ed25519 signature 64, over all that is before it
//! ```
//!
//! The format is 1, or 2 if the holder's tasks may submit none themselves.

mod role;

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use thiserror::Error;

use crate::ids::{ClusterId, OwnerId, TokenId};
use crate::keys::{IssuerKey, IssuerPublicKey, PublicKey};
use crate::limits::{CLOCK_TOLERANCE_S, NAME_BYTES_MAX, TOKEN_BYTES_MAX};

pub use role::{Role, UnknownRoleName};

/// Scopes in one token. Their bytes are bounded by [`TOKEN_BYTES_MAX`] too.
pub const SCOPES_MAX: usize = 64;

/// The contents of a token.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Claims {
    /// The cluster for which the token is good.
    pub cluster: ClusterId,
    /// The token's own id, by which it can be revoked.
    pub token_id: TokenId,
    /// The key that the peer has to prove.
    pub holder: PublicKey,
    /// To whom the holder's tasks and results belong.
    pub owner: OwnerId,
    /// The role of the holder.
    pub role: Role,
    /// Labels of the engines that the holder may use, ascending, each once; none means all engines.
    pub scopes: Vec<String>,
    /// The limits on the part of the broker that the holder may occupy.
    pub limits: TokenLimits,
    /// The first second (of 1970) in which the token is good.
    pub not_before_s: u64,
    /// The first second (of 1970) in which it is no longer good, or [`Claims::NEVER`].
    pub expires_s: u64,
}

impl Claims {
    /// [`expires_s`](Self::expires_s) of a token that does not expire.
    pub const NEVER: u64 = u64::MAX;

    /// Checks what signing and decoding both require of claims, so that nothing is signed that is
    /// then refused.
    fn check(&self) -> Result<(), TokenError> {
        if self.scopes.len() > SCOPES_MAX {
            return Err(TokenError::TooManyScopes);
        }
        if !self.scopes.iter().all(|scope| is_label(scope)) {
            return Err(TokenError::BadScope);
        }
        if !self.scopes.is_sorted_by(|one, next| one < next) {
            return Err(TokenError::ScopesNotAscending);
        }
        if self.not_before_s >= self.expires_s {
            return Err(TokenError::NeverValid);
        }
        if self.holder.is_sound() { Ok(()) } else { Err(TokenError::WeakHolderKey) }
    }

    /// The bytes that are signed.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(TOKEN_BYTES_MAX);
        bytes.extend_from_slice(PREFIX);
        let format = if self.limits.no_nested { FORMAT_WITHOUT_NESTING } else { FORMAT };
        bytes.extend_from_slice(&[format, self.role.code()]);
        bytes.extend_from_slice(&self.cluster.0);
        bytes.extend_from_slice(&self.token_id.0);
        bytes.extend_from_slice(&self.holder.0);
        bytes.extend_from_slice(&self.owner.0);
        let TokenLimits { unfinished_tasks_max, payload_bytes_max, .. } = self.limits;
        for number in [unfinished_tasks_max, payload_bytes_max, self.not_before_s, self.expires_s] {
            bytes.extend_from_slice(&number.to_le_bytes());
        }
        // Neither narrowing can lose anything after `check`: at most SCOPES_MAX scopes of
        // NAME_BYTES_MAX bytes.
        bytes.extend_from_slice(&(self.scopes.len() as u16).to_le_bytes());
        for scope in &self.scopes {
            bytes.extend_from_slice(&(scope.len() as u16).to_le_bytes());
            bytes.extend_from_slice(scope.as_bytes());
        }
        bytes
    }

    /// Reads what [`Claims::encode`] wrote. That it was signed is not looked at.
    pub fn decode(signed: &[u8]) -> Result<Self, TokenError> {
        let mut rest = Reader(signed.strip_prefix(PREFIX).ok_or(TokenError::NotAToken)?);
        let [format, role] = rest.array()?;
        let no_nested = format == FORMAT_WITHOUT_NESTING;
        if format != FORMAT && !no_nested {
            return Err(TokenError::UnknownFormat(format));
        }
        // Fields of a struct expression are evaluated in the order in which they are written.
        let claims = Self {
            role: Role::from_code(role).ok_or(TokenError::UnknownRole(role))?,
            cluster: ClusterId(rest.array()?),
            token_id: TokenId(rest.array()?),
            holder: PublicKey(rest.array()?),
            owner: OwnerId(rest.array()?),
            limits: TokenLimits {
                unfinished_tasks_max: rest.number()?,
                payload_bytes_max: rest.number()?,
                no_nested,
            },
            not_before_s: rest.number()?,
            expires_s: rest.number()?,
            scopes: rest.scopes()?,
        };
        if !rest.0.is_empty() {
            return Err(TokenError::TrailingBytes);
        }
        claims.check()?;
        Ok(claims)
    }
}

/// The part of the broker a token's holder may occupy; 0 leaves it to the broker's own limit. Also
/// what tasks may not.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct TokenLimits {
    /// Tasks that are not finished, at once.
    pub unfinished_tasks_max: u64,
    /// Bytes of payload held for the token, at once.
    pub payload_bytes_max: u64,
    /// True if the holder's tasks may submit none themselves: code on an engine gets no pass.
    pub no_nested: bool,
}

impl OwnerId {
    /// The owner with this name in a cluster: the first 16 bytes of SHA-256 of `"furlong owner
    /// v1\0"`, the cluster's id and the name. Whoever issues two capabilities for one name gives
    /// both to the same owner, with nothing kept.
    pub fn named(cluster: ClusterId, name: &str) -> Self {
        let digest = Sha256::new()
            .chain_update(OWNER_PREFIX)
            .chain_update(cluster.0)
            .chain_update(name)
            .finalize();
        let (id, _) = digest.split_first_chunk().expect("a SHA-256 has 32 bytes");
        Self(*id)
    }
}

/// Reads the 32 hexadecimal digits that an id prints as.
macro_rules! id_from_hex {
    ($($name:ident)*) => {$(
        impl FromStr for $name {
            type Err = NotAnId;

            fn from_str(text: &str) -> Result<Self, NotAnId> {
                hex_id(text).map(Self).ok_or(NotAnId)
            }
        }
    )*};
}

id_from_hex! { TokenId OwnerId }

/// A text that is not the id of a token or owner.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
#[error("an id has 32 digits of 0-9 and a-f")]
pub struct NotAnId;

fn hex_id(text: &str) -> Option<[u8; 16]> {
    let digits =
        text.len() == 32 && text.bytes().all(|digit| matches!(digit, b'0'..=b'9' | b'a'..=b'f'));
    digits.then(|| u128::from_str_radix(text, 16).ok().map(u128::to_be_bytes)).flatten()
}

impl ClusterId {
    /// The id of the cluster with this issuer: SHA-256 of the issuer's public key.
    pub fn of(issuer: &IssuerPublicKey) -> Self {
        Self(Sha256::digest(issuer.as_bytes()).into())
    }
}

impl IssuerKey {
    /// Signs claims.
    ///
    /// # Errors
    /// Claims that no broker would accept: scopes too many, too long or not ascending, a validity
    /// without a second in it, a holder key of small order.
    pub fn sign(&self, claims: &Claims) -> Result<Token, TokenError> {
        claims.check()?;
        let mut bytes = claims.encode();
        let signature = self.sign_bytes(&bytes);
        bytes.extend_from_slice(&signature);
        Token::from_bytes(bytes)
    }
}

/// A token as it came: its bytes, of bounded number, of which nothing is believed yet.
#[derive(Clone, PartialEq, Eq)]
pub struct Token(Vec<u8>);

impl Token {
    /// Takes bytes of a plausible length for a token.
    pub fn from_bytes(bytes: impl Into<Vec<u8>>) -> Result<Self, TokenError> {
        let bytes = bytes.into();
        Self::check_length(bytes.len()).map(|()| Self(bytes))
    }

    /// The bytes, as they travel.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// Checks the issuer's signature over the exact bytes, then what they say, then the cluster.
    pub fn verify(
        &self,
        issuer: &IssuerPublicKey,
        cluster: ClusterId,
    ) -> Result<VerifiedToken, TokenError> {
        let (signed, signature) = self.split()?;
        // Before a byte is parsed: the parser then reads only what the issuer wrote.
        if !issuer.has_signed(signed, signature) {
            return Err(TokenError::BadSignature);
        }
        let claims = Claims::decode(signed)?;
        if claims.cluster != cluster {
            return Err(TokenError::WrongCluster);
        }
        Ok(VerifiedToken(claims))
    }

    /// Returns the claims in the bytes, **with no signature checked**: to show to people, never to
    /// decide by.
    pub fn claims_unverified(&self) -> Result<Claims, TokenError> {
        Claims::decode(self.split()?.0)
    }

    fn split(&self) -> Result<(&[u8], &[u8; SIGNATURE_BYTES]), TokenError> {
        self.0.split_last_chunk().ok_or(TokenError::Truncated)
    }

    fn check_length(length: usize) -> Result<(), TokenError> {
        match length {
            0..TOKEN_BYTES_MIN => Err(TokenError::Truncated),
            TOKEN_BYTES_MIN..=TOKEN_BYTES_MAX => Ok(()),
            _ => Err(TokenError::TooLong),
        }
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Token({} bytes)", self.0.len())
    }
}

impl Serialize for Token {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(&self.0)
    }
}

impl<'de> Deserialize<'de> for Token {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_bytes(TokenVisitor)
    }
}

/// Copies a token's bytes only after their number has been checked.
struct TokenVisitor;

impl serde::de::Visitor<'_> for TokenVisitor {
    type Value = Token;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a token of {TOKEN_BYTES_MIN} to {TOKEN_BYTES_MAX} bytes")
    }

    fn visit_bytes<E: serde::de::Error>(self, bytes: &[u8]) -> Result<Token, E> {
        Token::check_length(bytes.len()).map_err(E::custom)?;
        Ok(Token(bytes.to_vec()))
    }
}

/// The issuer did sign it for this cluster. Whether the peer is the holder is open, so the claims
/// are not to be had yet.
#[derive(Debug)]
pub struct VerifiedToken(Claims);

impl VerifiedToken {
    /// Checks that the key which the peer proved in the handshake is the token's: a stolen token
    /// alone opens nothing.
    pub fn prove_holder(self, noise_static: &[u8; 32]) -> Result<HolderProved, TokenError> {
        // Both keys are public: nothing is learnt from the time that the comparison takes.
        if self.0.holder.0 == *noise_static {
            Ok(HolderProved(self.0))
        } else {
            Err(TokenError::HolderMismatch)
        }
    }
}

/// The issuer signed it, and the peer is its holder: from here on a refusal may say why.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct HolderProved(Claims);

impl HolderProved {
    /// Returns the issuer's claims about the holder.
    pub fn claims(&self) -> &Claims {
        &self.0
    }

    /// Checks that the token is good at `now_s` (seconds of 1970), with [`CLOCK_TOLERANCE_S`] at
    /// both ends.
    pub fn check_validity(&self, now_s: u64) -> Result<(), TokenError> {
        self.0.check_validity(now_s)
    }
}

impl Claims {
    /// Checks that they are good at `now_s` (seconds of 1970), with [`CLOCK_TOLERANCE_S`] at both
    /// ends.
    ///
    /// # Errors
    /// [`TokenError::NotYetValid`] and [`TokenError::Expired`].
    pub fn check_validity(&self, now_s: u64) -> Result<(), TokenError> {
        let Self { not_before_s, expires_s, .. } = *self;
        if now_s.saturating_add(CLOCK_TOLERANCE_S) < not_before_s {
            return Err(TokenError::NotYetValid { not_before_s, now_s });
        }
        if expires_s != Claims::NEVER && now_s >= expires_s.saturating_add(CLOCK_TOLERANCE_S) {
            return Err(TokenError::Expired { expires_s, now_s });
        }
        Ok(())
    }
}

/// The reason that a token is refused, or claims are not signed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
pub enum TokenError {
    /// Fewer bytes than the fields need.
    #[error("the token is truncated")]
    Truncated,
    /// More than [`TOKEN_BYTES_MAX`] bytes.
    #[error("the token is longer than {TOKEN_BYTES_MAX} bytes")]
    TooLong,
    /// Bytes between the last scope and the signature.
    #[error("the token has bytes after its last field")]
    TrailingBytes,
    /// Another prefix than a token's.
    #[error("these bytes are no Furlong token")]
    NotAToken,
    /// A format that this version does not know.
    #[error("the token has format {0}, this program knows {FORMAT} and {FORMAT_WITHOUT_NESTING}")]
    UnknownFormat(u8),
    /// A role that this version does not know.
    #[error("the token has an unknown role, number {0}")]
    UnknownRole(u8),
    /// More than [`SCOPES_MAX`] scopes.
    #[error("the token has more than {SCOPES_MAX} scopes")]
    TooManyScopes,
    /// A scope that is no label: not UTF-8, empty, longer than [`NAME_BYTES_MAX`], or with control
    /// characters.
    #[error("a scope of the token is not UTF-8, is empty or too long, or has control characters")]
    BadScope,
    /// Scopes out of order, or one of them twice: the same claims would have two encodings.
    #[error("the token's scopes are not ascending, each once")]
    ScopesNotAscending,
    /// It expires before it begins.
    #[error("the token expires before it becomes valid")]
    NeverValid,
    /// The holder key is of small order or not canonical: see [`PublicKey::is_sound`].
    #[error("the token's holder key is weak")]
    WeakHolderKey,
    /// The issuer did not sign exactly these bytes.
    #[error("the token's signature is not the issuer's")]
    BadSignature,
    /// Signed for another cluster.
    #[error("the token is for another cluster")]
    WrongCluster,
    /// The peer proved another key than the token's.
    #[error("the token belongs to another key")]
    HolderMismatch,
    /// Not good yet.
    #[error(
        "the token is valid only from {not_before_s}, and here it is {now_s} (seconds of 1970)"
    )]
    NotYetValid {
        /// The time at which it becomes valid.
        not_before_s: u64,
        /// The time of the check.
        now_s: u64,
    },
    /// No longer good.
    #[error("the token expired at {expires_s}, and here it is {now_s} (seconds of 1970)")]
    Expired {
        /// The time at which it expired.
        expires_s: u64,
        /// The time of the check.
        now_s: u64,
    },
}

/// Takes fields off the front.
struct Reader<'a>(&'a [u8]);

impl Reader<'_> {
    fn array<const N: usize>(&mut self) -> Result<[u8; N], TokenError> {
        let (array, rest) = self.0.split_first_chunk().ok_or(TokenError::Truncated)?;
        self.0 = rest;
        Ok(*array)
    }

    fn number(&mut self) -> Result<u64, TokenError> {
        self.array().map(u64::from_le_bytes)
    }

    fn length(&mut self) -> Result<usize, TokenError> {
        self.array().map(|bytes| usize::from(u16::from_le_bytes(bytes)))
    }

    fn scopes(&mut self) -> Result<Vec<String>, TokenError> {
        let count = self.length()?;
        if count > SCOPES_MAX {
            return Err(TokenError::TooManyScopes);
        }
        (0..count).map(|_| self.scope()).collect()
    }

    fn scope(&mut self) -> Result<String, TokenError> {
        let length = self.length()?;
        let (scope, rest) = self.0.split_at_checked(length).ok_or(TokenError::Truncated)?;
        self.0 = rest;
        str::from_utf8(scope).map(str::to_owned).map_err(|_| TokenError::BadScope)
    }
}

/// Returns true if a scope can be a label. Control characters are kept out because people read
/// scopes on terminals.
fn is_label(scope: &str) -> bool {
    (1..=NAME_BYTES_MAX).contains(&scope.len()) && !scope.contains(char::is_control)
}

/// Begins everything that the issuer signs as a token, and nothing else that it may ever sign.
const PREFIX: &[u8] = b"furlong token v1\0";
/// Goes before what is hashed to a named owner's id.
const OWNER_PREFIX: &[u8] = b"furlong owner v1\0";
/// The format of a token whose holder's tasks may submit others.
const FORMAT: u8 = 1;
/// The format of one whose tasks may not. A broker that knows nothing of that refuses the token.
const FORMAT_WITHOUT_NESTING: u8 = 2;
const SIGNATURE_BYTES: usize = 64;
/// Bytes of a token without scopes.
const TOKEN_BYTES_MIN: usize = PREFIX.len() + 2 + 32 + 16 + 32 + 16 + 4 * 8 + 2 + SIGNATURE_BYTES;

#[cfg(test)]
mod tests;
