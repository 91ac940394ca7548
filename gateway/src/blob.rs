//! Bytes in a request: text, msgpack's `bin`, or in JSON `{"base64": "..."}`.

use std::fmt;

use base64ct::{Base64, Encoding};
use serde::de::{Deserialize, Deserializer, Error, MapAccess, Visitor};

/// Bytes.
#[derive(Debug)]
pub(crate) struct Blob(pub Vec<u8>);

impl<'de> Deserialize<'de> for Blob {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(BlobVisitor)
    }
}

struct BlobVisitor;

impl<'de> Visitor<'de> for BlobVisitor {
    type Value = Blob;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("text, bytes, or {\"base64\": \"...\"}")
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Blob, E> {
        Ok(Blob(text.as_bytes().to_vec()))
    }

    fn visit_bytes<E: Error>(self, bytes: &[u8]) -> Result<Blob, E> {
        Ok(Blob(bytes.to_vec()))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Blob, A::Error> {
        let entry = map.next_entry::<String, String>()?;
        let (_, text) = entry
            .filter(|(key, _)| key == "base64")
            .ok_or_else(|| A::Error::custom("bytes are {\"base64\": \"...\"}, and nothing else"))?;
        if map.next_key::<String>()?.is_some() {
            return Err(A::Error::custom("bytes are {\"base64\": \"...\"}, and nothing else"));
        }
        let bytes = Base64::decode_vec(&text);
        bytes.map(Blob).map_err(|_| A::Error::custom("this is not base64 with its padding"))
    }
}
