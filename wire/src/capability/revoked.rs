//! `revoked.json`: which tokens are no longer good, and why.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::text::{self, FieldProblem, JsonError};
use crate::ids::TokenId;
use crate::limits::{NAME_BYTES_MAX, REVOKED_FILE_BYTES_MAX, REVOKED_TOKENS_MAX};

/// Tokens that are no longer good. The list is no secret, but whoever can change it decides who may
/// come in.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct RevokedTokens {
    tokens: BTreeMap<TokenId, Revocation>,
}

/// The time and reason of a token's revocation.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Revocation {
    /// The second of 1970.
    pub revoked_s: u64,
    /// The reason, for people: what [`check_reason`] accepts.
    pub reason: Option<String>,
}

impl RevokedTokens {
    /// Reads the text of a `revoked.json`.
    ///
    /// # Errors
    /// Text that is no such file of this version, or has more tokens than [`REVOKED_TOKENS_MAX`].
    pub fn from_json(text: &str) -> Result<Self, RevokedError> {
        let file: RevokedText = text::parse_within(REVOKED_FILE_BYTES_MAX, KIND, text)?;
        let mut revoked = Self::default();
        for token in file.tokens {
            let problem = JsonError::Field { field: "token_id", problem: FieldProblem::NotAnId };
            let id = token.token_id.parse().map_err(|_| problem)?;
            token.reason.as_deref().map_or(Ok(()), check_reason)?;
            revoked
                .revoke(id, Revocation { revoked_s: token.revoked_unix_s, reason: token.reason })?;
        }
        Ok(revoked)
    }

    /// The text of the file.
    pub fn to_json(&self) -> String {
        let token = |(id, revocation): (&TokenId, &Revocation)| TokenText {
            token_id: id.to_string(),
            revoked_unix_s: revocation.revoked_s,
            reason: revocation.reason.clone(),
        };
        let tokens = self.tokens.iter().map(token).collect();
        let file = RevokedText { kind: KIND.to_owned(), version: text::VERSION, tokens };
        serde_json::to_string_pretty(&file)
            .expect("strings and numbers in a struct always serialise")
            + "\n"
    }

    /// Adds a token. False if it was revoked before: then the older reason stays.
    ///
    /// # Errors
    /// If there are [`REVOKED_TOKENS_MAX`] already.
    pub fn revoke(&mut self, token: TokenId, revocation: Revocation) -> Result<bool, RevokedError> {
        if self.tokens.contains_key(&token) {
            return Ok(false);
        }
        if self.tokens.len() >= REVOKED_TOKENS_MAX {
            return Err(RevokedError::Full);
        }
        self.tokens.insert(token, revocation);
        Ok(true)
    }

    /// Returns the time and reason of a token's revocation, if it was revoked.
    pub fn get(&self, token: TokenId) -> Option<&Revocation> {
        self.tokens.get(&token)
    }

    /// Returns the message to the holder of a token, if it is revoked.
    pub fn refusal(&self, token: TokenId) -> Option<String> {
        let revocation = self.get(token)?;
        let reason =
            revocation.reason.as_ref().map_or(String::new(), |reason| format!(" ({reason})"));
        Some(format!(
            "the capability's token {token} is revoked{reason}; ask who runs the cluster for another"
        ))
    }

    /// Returns the number of elements.
    pub fn len(&self) -> usize {
        self.tokens.len()
    }

    /// Returns true if there are none.
    pub fn is_empty(&self) -> bool {
        self.tokens.is_empty()
    }
}

/// Checks the reason of a revocation, which goes into logs and to the holder: one line of bounded
/// length.
///
/// # Errors
/// Another text.
pub fn check_reason(reason: &str) -> Result<(), BadReason> {
    let good = (1..=NAME_BYTES_MAX).contains(&reason.len()) && !reason.contains(char::is_control);
    if good { Ok(()) } else { Err(BadReason) }
}

/// A text that is no reason.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
#[error("a reason is one line of 1 to {NAME_BYTES_MAX} bytes")]
pub struct BadReason;

/// The reason that a list of revoked tokens cannot be read or grow.
#[derive(Debug, Error)]
pub enum RevokedError {
    /// The text itself.
    #[error(transparent)]
    Json(#[from] JsonError),
    /// A reason.
    #[error("field \"reason\": {0}")]
    Reason(#[from] BadReason),
    /// As many as there can be.
    #[error(
        "{REVOKED_TOKENS_MAX} tokens are revoked, which is all that the list can hold; start the broker with --fresh"
    )]
    Full,
}

/// The file's fields, in their order.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct RevokedText {
    kind: String,
    version: u32,
    tokens: Vec<TokenText>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct TokenText {
    token_id: String,
    revoked_unix_s: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
}

const KIND: &str = "furlong revoked tokens";

#[cfg(test)]
mod tests {
    use super::*;

    fn revocation(reason: Option<&str>) -> Revocation {
        Revocation { revoked_s: 7, reason: reason.map(str::to_owned) }
    }

    #[test]
    fn a_list_reads_back_as_written() {
        let mut revoked = RevokedTokens::default();
        assert!(revoked.revoke(TokenId([1; 16]), revocation(Some("the \"old\" laptop"))).unwrap());
        assert!(revoked.revoke(TokenId([2; 16]), revocation(None)).unwrap());
        let text = revoked.to_json();
        assert_eq!(RevokedTokens::from_json(&text).unwrap(), revoked);
        let empty = RevokedTokens::default();
        assert_eq!(RevokedTokens::from_json(&empty.to_json()).unwrap(), empty);
    }

    #[test]
    fn the_first_reason_stays_and_is_told() {
        let (mut revoked, token) = (RevokedTokens::default(), TokenId([1; 16]));
        assert!(revoked.refusal(token).is_none());
        assert!(revoked.revoke(token, revocation(Some("lost"))).unwrap());
        assert!(!revoked.revoke(token, revocation(None)).unwrap());
        assert!(revoked.refusal(token).unwrap().contains("01010101 is revoked (lost)"));
    }

    #[test]
    fn what_is_not_exactly_such_a_file_is_refused() {
        let mut revoked = RevokedTokens::default();
        revoked.revoke(TokenId([0xab; 16]), revocation(Some("lost"))).unwrap();
        let text = revoked.to_json();
        let cases = [
            (String::new(), "EOF"),
            (
                text.replace("revoked tokens", "capability"),
                "this is not the file of a furlong revoked tokens",
            ),
            (text.replace("\"version\": 1", "\"version\": 2"), "the file has version 2"),
            (text.replace("\"reason\"", "\"raison\""), "unknown field `raison`"),
            (text.replace("abab", "ABAB"), "field \"token_id\": it has not 32 hexadecimal digits"),
            (text.replace("lost", &"x".repeat(257)), "field \"reason\": a reason is one line"),
            (text.replace("lost", r"lo\nst"), "field \"reason\": a reason is one line"),
        ];
        for (text, expected) in cases {
            let error = RevokedTokens::from_json(&text).unwrap_err().to_string();
            assert!(error.contains(expected), "{expected}: {error}");
        }
    }

    #[test]
    fn the_list_is_bounded_and_the_largest_one_reads_back() {
        let mut revoked = RevokedTokens::default();
        let reason = "\"".repeat(NAME_BYTES_MAX);
        for token in 0..REVOKED_TOKENS_MAX as u128 {
            revoked.revoke(TokenId(token.to_be_bytes()), revocation(Some(&reason))).unwrap();
        }
        let one_more = revoked.revoke(TokenId([0xff; 16]), revocation(None));
        assert!(matches!(one_more, Err(RevokedError::Full)), "{one_more:?}");
        assert_eq!(RevokedTokens::from_json(&revoked.to_json()).unwrap(), revoked);
    }
}
