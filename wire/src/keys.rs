//! Keys: X25519 for who a peer is, Ed25519 for who may say so, and the broker's key for what it
//! writes to disk.
//!
//! Secrets are zeroised when dropped and print as `(secret)`. Random bytes are arguments, as
//! everywhere in this crate:
//!
//! ```
//! use furlong_wire::keys::SecretKey;
//!
//! // 32 bytes of the system's generator in a real program.
//! let secret = SecretKey::from_bytes([7; 32]);
//! assert!(secret.public().is_sound());
//! assert_eq!(format!("{secret:?}"), "SecretKey(secret)");
//! ```

use std::fmt;

use ed25519_dalek::{Signature, Signer, SigningKey, VerifyingKey};
use thiserror::Error;
use x25519_dalek::StaticSecret;
use zeroize::{Zeroize, ZeroizeOnDrop};

/// An X25519 secret key: the broker's own, or that of a capability's holder.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub struct SecretKey([u8; 32]);

impl SecretKey {
    /// The key with these bytes; any 32 random bytes are one (RFC 7748, section 5, clamps them at
    /// use).
    pub fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The bytes, for the handshake and the file. Whoever copies them has to erase the copy.
    pub fn expose(&self) -> &[u8; 32] {
        &self.0
    }

    /// The public key that belongs to it.
    pub fn public(&self) -> PublicKey {
        PublicKey(x25519_dalek::PublicKey::from(&StaticSecret::from(self.0)).to_bytes())
    }
}

impl fmt::Debug for SecretKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SecretKey(secret)")
    }
}

/// An X25519 public key, by which a peer is known. Prints as hexadecimal.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PublicKey(pub [u8; 32]);

impl PublicKey {
    /// Returns true if the key is one canonical encoding of a point that is not of small order.
    ///
    /// With a point of small order every Diffie-Hellman result is zero (RFC 7748, section 6.1), so
    /// anybody could "prove" to hold its secret. Of two encodings of one point, one could escape
    /// the revocation of the other.
    pub fn is_sound(&self) -> bool {
        // Any scalar serves: clamped, it is a multiple of 8, which takes exactly the points of
        // small order to zero.
        let probe =
            StaticSecret::from([1; 32]).diffie_hellman(&x25519_dalek::PublicKey::from(self.0));
        is_reduced(&self.0) && probe.was_contributory()
    }
}

impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_hex(&self.0, f)
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PublicKey({self})")
    }
}

/// The Ed25519 secret key that signs a cluster's tokens.
///
/// Only issuing a capability needs it, so it may be kept on another machine than the broker's.
pub struct IssuerKey(SigningKey);

impl IssuerKey {
    /// The key of this seed (RFC 8032, section 5.1.5).
    pub fn from_seed(mut seed: [u8; 32]) -> Self {
        let key = Self(SigningKey::from_bytes(&seed));
        seed.zeroize();
        key
    }

    /// The seed, for the file. Whoever copies it has to erase the copy.
    pub fn expose_seed(&self) -> &[u8; 32] {
        self.0.as_bytes()
    }

    /// The public key, with which tokens are verified.
    pub fn public(&self) -> IssuerPublicKey {
        IssuerPublicKey(self.0.verifying_key())
    }

    /// The signature of `message`; `message` begins with a prefix that no other kind of message
    /// begins with.
    pub(crate) fn sign_bytes(&self, message: &[u8]) -> [u8; 64] {
        self.0.sign(message).to_bytes()
    }
}

impl fmt::Debug for IssuerKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("IssuerKey(secret)")
    }
}

/// The Ed25519 public key of a cluster's issuer: canonical, and not of small order. Prints as
/// hexadecimal.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct IssuerPublicKey(VerifyingKey);

impl IssuerPublicKey {
    /// Checks the 32 bytes of a key.
    ///
    /// # Errors
    /// A key of small order, for which a signature can be made that holds for almost any message; a
    /// second encoding of some key, whose cluster id would be another; bytes that are no point.
    pub fn from_bytes(bytes: &[u8; 32]) -> Result<Self, IssuerKeyError> {
        let mut y = *bytes;
        y[31] &= 0x7f; // the highest bit is the sign of x (RFC 8032, section 5.1.2)
        if !is_reduced(&y) {
            return Err(IssuerKeyError::NotCanonical);
        }
        // What is left of second encodings, x = 0 with the sign set, has y = 1 or -1: small order.
        let key = VerifyingKey::from_bytes(bytes).map_err(|_| IssuerKeyError::NotAPoint)?;
        if key.is_weak() { Err(IssuerKeyError::SmallOrder) } else { Ok(Self(key)) }
    }

    /// The key's encoding, of which the cluster id is the hash.
    pub fn as_bytes(&self) -> &[u8; 32] {
        self.0.as_bytes()
    }

    /// Returns true if `signature` is the one signature that the issuer made of `message`.
    ///
    /// Strict: neither S + L nor a point of small order as R passes, so nobody but the issuer can
    /// make two different signatures of one message.
    pub(crate) fn has_signed(&self, message: &[u8], signature: &[u8; 64]) -> bool {
        self.0.verify_strict(message, &Signature::from_bytes(signature)).is_ok()
    }
}

impl fmt::Display for IssuerPublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_hex(self.as_bytes(), f)
    }
}

impl fmt::Debug for IssuerPublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "IssuerPublicKey({self})")
    }
}

/// The reason that 32 bytes are not an issuer's public key.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
pub enum IssuerKeyError {
    /// The bytes are no point of the curve.
    #[error("it is no point of the Ed25519 curve")]
    NotAPoint,
    /// The bytes are another encoding of some point.
    #[error("it is not the canonical encoding of an Ed25519 key")]
    NotCanonical,
    /// The point is of small order.
    #[error("it is a weak Ed25519 key (of small order)")]
    SmallOrder,
}

/// The key under which the broker seals what it keeps on disk.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub struct AtRestKey([u8; 32]);

impl AtRestKey {
    /// The key with these bytes.
    pub fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The bytes, for the AEAD and the file. Whoever copies them has to erase the copy.
    pub fn expose(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Debug for AtRestKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("AtRestKey(secret)")
    }
}

/// Returns true if the little-endian number is below 2^255 - 19, as the canonical encoding of a
/// field element is.
fn is_reduced(bytes: &[u8; 32]) -> bool {
    let [lowest, middle @ .., highest] = bytes;
    *highest < 0x7f
        || (*highest == 0x7f && (*lowest < 0xed || middle.iter().any(|byte| *byte != 0xff)))
}

fn write_hex(bytes: &[u8], f: &mut fmt::Formatter<'_>) -> fmt::Result {
    bytes.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 2^255 - 19 + `more`, little-endian.
    fn prime_plus(more: i8) -> [u8; 32] {
        let mut bytes = [0xff; 32];
        bytes[0] = 0xed_u8.wrapping_add_signed(more);
        bytes[31] = 0x7f;
        bytes
    }

    #[test]
    fn the_public_key_is_that_of_rfc_7748() {
        // Section 6.1, Alice.
        let secret = [
            0x77, 0x07, 0x6d, 0x0a, 0x73, 0x18, 0xa5, 0x7d, 0x3c, 0x16, 0xc1, 0x72, 0x51, 0xb2,
            0x66, 0x45, 0xdf, 0x4c, 0x2f, 0x87, 0xeb, 0xc0, 0x99, 0x2a, 0xb1, 0x77, 0xfb, 0xa5,
            0x1d, 0xb9, 0x2c, 0x2a,
        ];
        let public = SecretKey::from_bytes(secret).public();
        assert_eq!(
            public.to_string(),
            "8520f0098930a754748b7ddcb43ef75a0dbf3a0d26381af4eba4a98eaa9b4e6a"
        );
    }

    #[test]
    fn points_of_small_order_and_second_encodings_are_unsound() {
        let mut one = [0; 32];
        one[0] = 1;
        let order_8 = [
            0xe0, 0xeb, 0x7a, 0x7c, 0x3b, 0x41, 0xb8, 0xae, 0x16, 0x56, 0xe3, 0xfa, 0xf1, 0x9f,
            0xc4, 0x6a, 0xda, 0x09, 0x8d, 0xeb, 0x9c, 0x32, 0xb1, 0xfd, 0x86, 0x62, 0x05, 0x16,
            0x5f, 0x49, 0xb8, 0x00,
        ];
        let mut high_bit = SecretKey::from_bytes([3; 32]).public().0;
        high_bit[31] |= 0x80;
        for weak in [
            [0; 32],
            one,
            order_8,
            prime_plus(-1),
            prime_plus(0),
            prime_plus(1),
            prime_plus(9),
            high_bit,
        ] {
            assert!(!PublicKey(weak).is_sound(), "{}", PublicKey(weak));
        }
        assert!(PublicKey(SecretKey::from_bytes([3; 32]).public().0).is_sound());
    }

    #[test]
    fn issuer_keys_that_could_cheat_are_refused() {
        let mut identity = [0; 32];
        identity[0] = 1;
        let mut identity_with_sign = identity;
        identity_with_sign[31] = 0x80;
        let mut no_point = [0; 32];
        no_point[0] = 2;
        let cases = [
            (identity, IssuerKeyError::SmallOrder),
            ([0; 32], IssuerKeyError::SmallOrder),
            (prime_plus(-1), IssuerKeyError::SmallOrder),
            (prime_plus(0), IssuerKeyError::NotCanonical),
            (prime_plus(1), IssuerKeyError::NotCanonical),
            (no_point, IssuerKeyError::NotAPoint),
        ];
        for (bytes, expected) in cases {
            assert_eq!(IssuerPublicKey::from_bytes(&bytes), Err(expected), "{bytes:02x?}");
        }
        // Refused by whichever check comes first; what counts is that it is.
        assert!(IssuerPublicKey::from_bytes(&identity_with_sign).is_err());
        let good = IssuerKey::from_seed([5; 32]).public();
        assert_eq!(IssuerPublicKey::from_bytes(good.as_bytes()), Ok(good));
    }

    #[test]
    fn secrets_do_not_print() {
        let printed = format!(
            "{:?} {:?} {:?}",
            SecretKey::from_bytes([0xab; 32]),
            IssuerKey::from_seed([0xab; 32]),
            AtRestKey::from_bytes([0xab; 32])
        );
        assert_eq!(printed, "SecretKey(secret) IssuerKey(secret) AtRestKey(secret)");
    }
}
