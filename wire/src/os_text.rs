//! Text for a Unix system, which takes any bytes: arguments, paths, and the names and values of
//! variables.

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::ops::Deref;
use std::os::unix::ffi::{OsStrExt, OsStringExt};

use serde::de::{Error, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Bytes that are mostly UTF-8. On the wire a `str` where they are, and a `bin` otherwise.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct OsText(OsString);

impl OsText {
    /// The bytes as they are.
    pub fn as_bytes(&self) -> &[u8] {
        self.0.as_bytes()
    }

    /// Gives up the bytes.
    pub fn into_bytes(self) -> Vec<u8> {
        self.0.into_vec()
    }

    /// The text with what is not UTF-8 replaced.
    pub fn to_text(&self) -> String {
        self.0.to_string_lossy().into_owned()
    }

    /// Takes any bytes.
    pub fn from_bytes(bytes: Vec<u8>) -> Self {
        Self(OsString::from_vec(bytes))
    }
}

impl Deref for OsText {
    type Target = OsStr;

    fn deref(&self) -> &OsStr {
        &self.0
    }
}

impl AsRef<OsStr> for OsText {
    fn as_ref(&self) -> &OsStr {
        &self.0
    }
}

impl<T: Into<OsString>> From<T> for OsText {
    fn from(text: T) -> Self {
        Self(text.into())
    }
}

impl fmt::Debug for OsText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Display for OsText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.display().fmt(f)
    }
}

impl Serialize for OsText {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.0.to_str() {
            Some(text) => serializer.serialize_str(text),
            None => serializer.serialize_bytes(self.as_bytes()),
        }
    }
}

impl<'de> Deserialize<'de> for OsText {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(TextOrBytes)
    }
}

struct TextOrBytes;

impl Visitor<'_> for TextOrBytes {
    type Value = OsText;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a str or a bin")
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<OsText, E> {
        Ok(text.into())
    }

    fn visit_bytes<E: Error>(self, bytes: &[u8]) -> Result<OsText, E> {
        Ok(OsText::from_bytes(bytes.to_vec()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_travels_as_str_and_other_bytes_as_bin() {
        for (bytes, written) in
            [(&b"caf\xc3\xa9"[..], &b"\xa5caf\xc3\xa9"[..]), (b"caf\xe9", b"\xc4\x04caf\xe9")]
        {
            let text = OsText::from_bytes(bytes.to_vec());
            let encoded = rmp_serde::to_vec(&text).unwrap();
            assert_eq!(encoded, written);
            assert_eq!(rmp_serde::from_slice::<OsText>(&encoded).unwrap(), text);
        }
        assert!(rmp_serde::from_slice::<OsText>(&[7]).is_err());
    }
}
