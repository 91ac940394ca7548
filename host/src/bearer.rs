//! Bearer tokens: texts that a program on the same machine, or a scraper, offers to be let in.

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

/// A bearer token, as a MAC under a key of this process: a comparison takes the same time whatever
/// is offered.
#[derive(Clone)]
pub struct BearerToken {
    key: [u8; 32],
    mac: [u8; 32],
}

impl BearerToken {
    /// The token with this text.
    pub fn new(text: &str) -> Self {
        let key = rand::random();
        let mac = keyed(&key, text.as_bytes()).finalize().into_bytes().into();
        Self { key, mac }
    }

    /// Returns true if what is offered is this token.
    pub fn matches(&self, offered: &[u8]) -> bool {
        keyed(&self.key, offered).verify_slice(&self.mac).is_ok()
    }
}

impl std::fmt::Debug for BearerToken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("BearerToken")
    }
}

fn keyed(key: &[u8; 32], text: &[u8]) -> Hmac<Sha256> {
    let mac = <Hmac<Sha256> as KeyInit>::new_from_slice(key);
    mac.expect("HMAC takes keys of any length").chain_update(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_matches_its_own_text_alone() {
        let token = BearerToken::new("secret");
        assert!(token.matches(b"secret"));
        for wrong in ["", "secre", "secret ", "Secret"] {
            assert!(!token.matches(wrong.as_bytes()), "{wrong}");
        }
        assert!(!format!("{token:?}").contains("secret"));
    }
}
