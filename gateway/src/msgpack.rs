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

/// Writes the head of a container whose length is not known yet, and returns the length's place.
fn put_open(out: &mut Vec<u8>, code: u8) -> usize {
    out.extend_from_slice(&[code, 0, 0, 0, 0]);
    out.len() - 4
}

fn close(out: &mut [u8], place: usize, len: u32) {
    out[place..place + 4].copy_from_slice(&len.to_be_bytes());
}

/// The msgpack of a JSON text; none if the text is no JSON. Integers beyond 64 bits become
/// floating-point numbers.
pub(crate) fn from_json(text: &[u8]) -> Option<Vec<u8>> {
    let mut deserializer = serde_json::Deserializer::from_slice(text);
    let mut out = Vec::new();
    Copy(&mut out).deserialize(&mut deserializer).ok()?;
    deserializer.end().ok()?;
    Some(out)
}

/// The JSON of a msgpack value, for a Python function.
///
/// # Errors
/// JSON does not have such a value: bytes, NaN, or keys that are not text.
pub(crate) fn to_json(value: &[u8]) -> Result<String, String> {
    let mut deserializer = rmp_serde::Deserializer::new(std::io::Cursor::new(value));
    let mut out = String::new();
    ToJson(&mut out).deserialize(&mut deserializer).map_err(|error| error.to_string())?;
    Ok(out)
}

/// Writes a value as JSON as it is read.
struct ToJson<'a>(&'a mut String);

impl ToJson<'_> {
    fn put<E: Error>(self, value: &(impl Serialize + ?Sized)) -> Result<(), E> {
        self.0.push_str(&serde_json::to_string(value).map_err(E::custom)?);
        Ok(())
    }
}

impl<'de> DeserializeSeed<'de> for ToJson<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for ToJson<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value that JSON has too, for a Python function: bytes are none")
    }

    fn visit_unit<E: Error>(self) -> Result<(), E> {
        self.put(&())
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<(), E> {
        self.put(&value)
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<(), E> {
        self.put(&value)
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<(), E> {
        self.put(&value)
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<(), E> {
        if value.is_finite() {
            return self.put(&value);
        }
        Err(E::custom("NaN and infinities cannot be passed to a Python function"))
    }

    fn visit_str<E: Error>(self, value: &str) -> Result<(), E> {
        self.put(value)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<(), A::Error> {
        let mut before = '[';
        loop {
            let start = self.0.len();
            self.0.push(before);
            if seq.next_element_seed(ToJson(self.0))?.is_none() {
                self.0.truncate(start);
                break;
            }
            before = ',';
        }
        self.0.push_str(if before == '[' { "[]" } else { "]" });
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let mut before = '{';
        while let Some(key) = map.next_key::<String>()? {
            self.0.push(before);
            ToJson(self.0).put(&key)?;
            self.0.push(':');
            map.next_value_seed(ToJson(self.0))?;
            before = ',';
        }
        self.0.push_str(if before == '{' { "{}" } else { "}" });
        Ok(())
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
        let Some(len) = seq.size_hint() else {
            // From JSON, which does not say how many come.
            let (place, mut len) = (put_open(self.0, 0xdd), 0);
            while seq.next_element_seed(Copy(self.0))?.is_some() {
                len += 1;
            }
            close(self.0, place, len);
            return Ok(());
        };
        put_array(self.0, len);
        while seq.next_element_seed(Copy(self.0))?.is_some() {}
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let Some(len) = map.size_hint() else {
            let (place, mut len) = (put_open(self.0, 0xdf), 0);
            while map.next_key_seed(Copy(self.0))?.is_some() {
                map.next_value_seed(Copy(self.0))?;
                len += 1;
            }
            close(self.0, place, len);
            return Ok(());
        };
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
    fn what_json_has_too_goes_there_and_back() {
        let text =
            r#"[18446744073709551615,-9223372036854775808,0.5,"é\n",[],{},{"a":null,"b":[true]}]"#;
        let msgpack = from_json(text.as_bytes()).unwrap();
        assert!(is_whole(&msgpack));
        assert_eq!(to_json(&msgpack).unwrap(), text);
        for wrong in [&b"NaN"[..], b"1 2", b""] {
            assert_eq!(from_json(wrong), None);
        }
        for wrong in [&b"\xc4\x01\xff"[..], b"\xcb\x7f\xf8\0\0\0\0\0\0", b"\x81\x01\x02"] {
            assert!(to_json(wrong).is_err(), "{}", wrong.escape_ascii());
        }
    }

    #[test]
    fn a_value_is_copied_byte_for_byte() {
        let value = (u64::MAX, i64::MIN, f64::NAN, "é", serde_bytes::Bytes::new(b"\xff"), [(); 20]);
        let bytes = rmp_serde::to_vec(&value).unwrap();
        let copy: RawMsgpack = rmp_serde::from_slice(&bytes).unwrap();
        assert_eq!(copy.0, bytes);
        assert!(is_whole(&bytes));
        assert!(!is_whole(&bytes[..0]) && !is_whole(&bytes[..bytes.len() - 1]));
    }
}
