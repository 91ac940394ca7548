//! The common parts of the three kinds of file: JSON with a kind and a version, hexadecimal,
//! secrets that are erased.

use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use thiserror::Error;
use zeroize::Zeroizing;

use crate::keys::{IssuerKeyError, IssuerPublicKey};
use crate::limits::CAPABILITY_FILE_BYTES_MAX;

/// The version of all kinds of file.
pub(super) const VERSION: u32 = 1;

/// The reason that a text is not the JSON of the file that it should be.
#[derive(Debug, Error)]
pub enum JsonError {
    /// More bytes than such a file may have.
    #[error("the file is longer than {bytes_max} bytes")]
    TooLong {
        /// The limit.
        bytes_max: u64,
    },
    /// Not JSON, or not with these fields.
    #[error(transparent)]
    Json(#[from] serde_json::Error),
    /// A file of another kind.
    #[error("this is not the file of a {expected}: its field \"kind\" says something else")]
    Kind {
        /// The expected kind.
        expected: &'static str,
    },
    /// A file of another version.
    #[error("the file has version {found}, this program reads version {VERSION}")]
    Version {
        /// The file's version.
        found: u32,
    },
    /// The value of one field.
    #[error("field \"{field}\": {problem}")]
    Field {
        /// The field's name.
        field: &'static str,
        /// The problem with its value.
        problem: FieldProblem,
    },
}

/// A problem with the value of a field. It never quotes the value, which may be a secret.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
pub enum FieldProblem {
    /// Other characters than `0-9 a-f`, or an odd number of them.
    #[error("it is not lowercase hexadecimal")]
    NotHex,
    /// A key of another length than a key's.
    #[error("it has not 64 hexadecimal digits")]
    NotAKeyLength,
    /// A token id of another length.
    #[error("it has not 32 hexadecimal digits")]
    NotAnId,
    /// An issuer key that is none.
    #[error(transparent)]
    IssuerKey(#[from] IssuerKeyError),
}

/// Reads a file of one kind.
pub(super) fn parse<T: DeserializeOwned>(kind: &'static str, text: &str) -> Result<T, JsonError> {
    parse_within(CAPABILITY_FILE_BYTES_MAX, kind, text)
}

/// Reads a file of one kind with a limit of its own.
pub(super) fn parse_within<T: DeserializeOwned>(
    bytes_max: u64,
    kind: &'static str,
    text: &str,
) -> Result<T, JsonError> {
    if text.len() as u64 > bytes_max {
        return Err(JsonError::TooLong { bytes_max });
    }
    // Kind and version first: a later version's new field is not an unknown field of this one.
    let head: Head = serde_json::from_str(text)?;
    if head.kind != kind {
        return Err(JsonError::Kind { expected: kind });
    }
    if head.version != VERSION {
        return Err(JsonError::Version { found: head.version });
    }
    Ok(serde_json::from_str(text)?)
}

/// Writes a file, with each field on its own line.
pub(super) fn print<T: Serialize>(file: &T) -> Zeroizing<String> {
    // With room for the largest file, so that no reallocation leaves half a secret behind.
    let mut bytes = Zeroizing::new(Vec::with_capacity(CAPABILITY_FILE_BYTES_MAX as usize));
    serde_json::to_writer_pretty(&mut *bytes, file)
        .expect("strings and numbers in a struct always serialise");
    bytes.push(b'\n');
    Zeroizing::new(String::from_utf8(std::mem::take(&mut *bytes)).expect("serde_json writes UTF-8"))
}

#[derive(Deserialize)]
struct Head {
    kind: String,
    version: u32,
}

/// The text of a secret in a file.
pub(super) struct SecretText(Zeroizing<String>);

impl SecretText {
    pub(super) fn of(secret: &[u8; 32]) -> Self {
        Self(Zeroizing::new(hex(secret)))
    }
}

impl Serialize for SecretText {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for SecretText {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer).map(|text| Self(Zeroizing::new(text)))
    }
}

/// The secret in a field.
pub(super) fn secret(
    field: &'static str,
    text: &SecretText,
) -> Result<Zeroizing<[u8; 32]>, JsonError> {
    hex_array(field, &text.0).map(Zeroizing::new)
}

/// The issuer's public key in the field that every kind of file has for it.
pub(super) fn issuer_key(text: &str) -> Result<IssuerPublicKey, JsonError> {
    let field = "issuer_key";
    let bytes = hex_array(field, text)?;
    IssuerPublicKey::from_bytes(&bytes)
        .map_err(|error| JsonError::Field { field, problem: error.into() })
}

/// The 32 bytes of a key in a field.
pub(super) fn hex_array(field: &'static str, text: &str) -> Result<[u8; 32], JsonError> {
    let bytes = Zeroizing::new(hex_bytes(field, text)?);
    bytes
        .as_slice()
        .try_into()
        .map_err(|_| JsonError::Field { field, problem: FieldProblem::NotAKeyLength })
}

/// The bytes in a field. Only lowercase digits, so that each value has one spelling.
pub(super) fn hex_bytes(field: &'static str, text: &str) -> Result<Vec<u8>, JsonError> {
    let (pairs, rest) = text.as_bytes().as_chunks();
    let byte = |[high, low]: &[u8; 2]| Some(hex_digit(*high)? << 4 | hex_digit(*low)?);
    let mut bytes = Zeroizing::new(Vec::with_capacity(pairs.len()));
    for pair in pairs {
        bytes.push(byte(pair).ok_or(JsonError::Field { field, problem: FieldProblem::NotHex })?);
    }
    if rest.is_empty() {
        Ok(std::mem::take(&mut *bytes))
    } else {
        Err(JsonError::Field { field, problem: FieldProblem::NotHex })
    }
}

/// Lowercase hexadecimal.
pub(super) fn hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let mut text = String::with_capacity(2 * bytes.len());
    for byte in bytes {
        text.push(char::from(DIGITS[usize::from(byte >> 4)]));
        text.push(char::from(DIGITS[usize::from(byte & 15)]));
    }
    text
}

fn hex_digit(digit: u8) -> Option<u8> {
    match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hexadecimal_has_one_spelling() {
        assert_eq!(hex(&[0, 0x1f, 0xa0, 0xff]), "001fa0ff");
        assert_eq!(hex_bytes("token", "001fa0ff").unwrap(), [0, 0x1f, 0xa0, 0xff]);
        for bad in ["0", "0g", "AB", "0x", " 1", "é"] {
            let error = hex_bytes("token", bad).unwrap_err().to_string();
            assert_eq!(error, "field \"token\": it is not lowercase hexadecimal", "{bad:?}");
        }
        let error = hex_array("server_key", "00").unwrap_err().to_string();
        assert_eq!(error, "field \"server_key\": it has not 64 hexadecimal digits");
    }
}
