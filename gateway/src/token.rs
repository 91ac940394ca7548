//! The token that a gateway on TCP demands in every request.

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

/// A token. It is compared in a time that does not tell where two differ.
#[derive(Clone)]
pub struct Token(Hmac<Sha256>);

impl Token {
    /// The token with this text.
    pub fn new(text: &str) -> Self {
        Self(keyed().chain_update(text))
    }

    /// Returns true if a text is this token.
    pub fn matches(&self, text: &str) -> bool {
        let given = keyed().chain_update(text).finalize().into_bytes();
        self.0.clone().verify_slice(&given).is_ok()
    }
}

impl std::fmt::Debug for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Token")
    }
}

fn keyed() -> Hmac<Sha256> {
    <Hmac<Sha256> as KeyInit>::new_from_slice(b"furlong gateway").expect("HMAC takes any key")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_matches_its_own_text_alone() {
        let token = Token::new("secret");
        assert!(token.matches("secret"));
        for wrong in ["", "secre", "secret ", "Secret"] {
            assert!(!token.matches(wrong), "{wrong}");
        }
        assert!(!format!("{token:?}").contains("secret"));
    }
}
