//! Values of a msgpack request that are passed on: their bytes, without a tree of them, so that a
//! request costs about its own length.

use std::fmt;

use serde::Serialize;
use serde::de::{Deserialize, DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};

/// One msgpack value.
#[derive(Debug)]
pub(crate) struct RawMsgpack(pub Vec<u8>);

impl<'de> Deserialize<'de> for RawMsgpack {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let mut out = Vec::new();
        Copy(&mut out).deserialize(deserializer)?;
        Ok(Self(out))
    }
}

/// Returns true if the bytes are one whole value.
pub(crate) fn is_whole(bytes: &[u8]) -> bool {
    let mut deserializer = rmp_serde::Deserializer::new(std::io::Cursor::new(bytes));
    deserializer.set_max_depth(crate::limits::DEPTH_MAX);
    serde::de::IgnoredAny::deserialize(&mut deserializer).is_ok()
        && deserializer.position() == bytes.len() as u64
}

/// Writes a value that is no container.
pub(crate) fn put(out: &mut Vec<u8>, value: &(impl Serialize + ?Sized)) {
    rmp_serde::encode::write_named(out, value).expect("a scalar can be written to memory");
}

/// Writes the head of an array.
pub(crate) fn put_array(out: &mut Vec<u8>, len: usize) {
    put_head(out, 0x90, 0xdc, len);
}

/// Writes the head of a map.
pub(crate) fn put_map(out: &mut Vec<u8>, len: usize) {
    put_head(out, 0x80, 0xde, len);
}

/// The head of a container: short, with 16 bits, or under the next code with 32.
fn put_head(out: &mut Vec<u8>, short: u8, long: u8, len: usize) {
    match (u8::try_from(len), u16::try_from(len)) {
        (Ok(len), _) if len < 16 => out.push(short | len),
        (_, Ok(len)) => {
            out.push(long);
            out.extend_from_slice(&len.to_be_bytes());
        }
        _ => {
            out.push(long + 1);
            // A request is far shorter than 4 GiB, and so is an answer.
            out.extend_from_slice(&(len as u32).to_be_bytes());
        }
    }
}

/// Copies a value as it is read.
struct Copy<'a>(&'a mut Vec<u8>);

impl<'de> DeserializeSeed<'de> for Copy<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Copy<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a msgpack value that is not an extension")
    }

    fn visit_unit<E: Error>(self) -> Result<(), E> {
        put(self.0, &());
        Ok(())
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<(), E> {
        put(self.0, &value);
        Ok(())
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<(), E> {
        put(self.0, &value);
        Ok(())
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<(), E> {
        put(self.0, &value);
        Ok(())
    }

    fn visit_f32<E: Error>(self, value: f32) -> Result<(), E> {
        put(self.0, &value);
        Ok(())
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<(), E> {
        put(self.0, &value);
        Ok(())
    }

    fn visit_str<E: Error>(self, value: &str) -> Result<(), E> {
        put(self.0, value);
        Ok(())
    }

    fn visit_bytes<E: Error>(self, value: &[u8]) -> Result<(), E> {
        put(self.0, serde_bytes::Bytes::new(value));
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<(), A::Error> {
        let len = seq.size_hint().ok_or_else(|| A::Error::custom("an array has a length"))?;
        put_array(self.0, len);
        while seq.next_element_seed(Copy(self.0))?.is_some() {}
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let len = map.size_hint().ok_or_else(|| A::Error::custom("a map has a length"))?;
        put_map(self.0, len);
        while map.next_key_seed(Copy(self.0))?.is_some() {
            map.next_value_seed(Copy(self.0))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_is_copied_byte_for_byte() {
        let value = (u64::MAX, i64::MIN, f64::NAN, "é", serde_bytes::Bytes::new(b"\xff"), [(); 20]);
        let bytes = rmp_serde::to_vec(&value).unwrap();
        let copy: RawMsgpack = rmp_serde::from_slice(&bytes).unwrap();
        assert_eq!(copy.0, bytes);
        assert!(is_whole(&bytes));
        assert!(!is_whole(&bytes[1..]) && !is_whole(&bytes[..bytes.len() - 1]));
    }
}
