//! Tokens. Claims have one encoding; what is signed verifies; no other bytes do.

use std::sync::LazyLock;

use furlong_wire::ids::ClusterId;
use furlong_wire::keys::IssuerKey;
use furlong_wire::token::{Claims, Token};

use crate::vectors::{self, secrets};

/// Bytes of the signature at a token's end.
const SIGNATURE_BYTES: usize = 64;

static KNOWN: LazyLock<Vec<u8>> = LazyLock::new(|| vectors::one("token"));

/// The input is a token, and the claims of one.
pub fn run(data: &[u8]) {
    let issuer = IssuerKey::from_seed(secrets::ISSUER_SEED);
    let cluster = ClusterId::of(&issuer.public());
    if let Ok(claims) = Claims::decode(data) {
        assert_eq!(claims.encode(), data, "claims have one encoding");
        let token = issuer.sign(&claims).expect("claims that are read can be signed");
        assert!(token.verify(&issuer.public(), claims.cluster).is_ok(), "what is signed verifies");
        assert_eq!(token.claims_unverified().as_ref(), Ok(&claims));
    }
    let Ok(token) = Token::from_bytes(data) else { return };
    assert!(
        token.verify(&issuer.public(), cluster).is_err() || data == *KNOWN,
        "a token that nobody has signed"
    );
    let _ = token.claims_unverified();
}

/// A token, and its claims alone.
pub fn seeds() -> Vec<Vec<u8>> {
    let token = KNOWN.clone();
    let claims = token[..token.len() - SIGNATURE_BYTES].to_vec();
    vec![token, claims]
}
