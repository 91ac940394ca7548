//! Reading of msgpack, as the types say it.
//!
//! `rmp-serde` takes each value for what its marker says, and offers it to the type. For that it
//! has code for every marker in every type, which made a fifth of the program. Here the type
//! says what comes, and anything else is an error: a struct is an array, a number is a number.
//! [`from_bytes`] reads what `rmp_serde::to_vec` writes.

pub(crate) mod whole;

use serde::de::{
    DeserializeOwned, DeserializeSeed, Deserializer, EnumAccess, Error, MapAccess, SeqAccess,
    VariantAccess, Visitor,
};

use whole::value_bytes;

/// Reads one value, which is all of the bytes.
///
/// # Errors
/// [`Malformed`] if the bytes are not such a value, or go on after it.
pub fn from_bytes<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Malformed> {
    // Of what is whole: types reserve memory for as many elements as a list declares.
    if value_bytes(bytes) != Some(bytes.len()) {
        return Err(Malformed);
    }
    let mut reader = Reader { rest: bytes, depth: DEPTH_MAX };
    let value = T::deserialize(&mut reader)?;
    if reader.rest.is_empty() { Ok(value) } else { Err(Malformed) }
}

/// The bytes are not what the type says.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("malformed msgpack, or of another version")]
pub struct Malformed;

impl Error for Malformed {
    fn custom<T: std::fmt::Display>(_: T) -> Self {
        Self
    }
}

/// Lists and maps within each other. Our own types have six.
const DEPTH_MAX: u8 = 64;

struct Reader<'de> {
    rest: &'de [u8],
    depth: u8,
}

/// The first value, or the marker and length of it.
enum Value<'de> {
    Nil,
    Bool(bool),
    Unsigned(u64),
    Negative(i64),
    Float(f64),
    Text(&'de str),
    Bytes(&'de [u8]),
    Array(u32),
    Map(u32),
}

impl<'de> Reader<'de> {
    fn array<const N: usize>(&mut self) -> Result<[u8; N], Malformed> {
        let (bytes, rest) = self.rest.split_first_chunk().ok_or(Malformed)?;
        self.rest = rest;
        Ok(*bytes)
    }

    fn bytes(&mut self, len: u32) -> Result<&'de [u8], Malformed> {
        let (bytes, rest) = self.rest.split_at_checked(len as usize).ok_or(Malformed)?;
        self.rest = rest;
        Ok(bytes)
    }

    /// Reads an unsigned number of 1, 2 or 4 bytes: a length.
    fn length(&mut self, width_log2: u8) -> Result<u32, Malformed> {
        Ok(match width_log2 {
            0 => u32::from(self.array::<1>()?[0]),
            1 => u32::from(u16::from_be_bytes(self.array()?)),
            _ => u32::from_be_bytes(self.array()?),
        })
    }

    fn text(&mut self, len: u32) -> Result<Value<'de>, Malformed> {
        std::str::from_utf8(self.bytes(len)?).map(Value::Text).map_err(|_| Malformed)
    }

    fn signed(number: i64) -> Value<'de> {
        u64::try_from(number).map_or(Value::Negative(number), Value::Unsigned)
    }

    fn value(&mut self) -> Result<Value<'de>, Malformed> {
        let [marker] = self.array()?;
        Ok(match marker {
            0x00..=0x7f => Value::Unsigned(u64::from(marker)),
            0x80..=0x8f => Value::Map(u32::from(marker & 0x0f)),
            0x90..=0x9f => Value::Array(u32::from(marker & 0x0f)),
            0xa0..=0xbf => self.text(u32::from(marker & 0x1f))?,
            0xc0 => Value::Nil,
            0xc2 | 0xc3 => Value::Bool(marker == 0xc3),
            0xc4..=0xc6 => {
                let len = self.length(marker - 0xc4)?;
                Value::Bytes(self.bytes(len)?)
            }
            0xca => Value::Float(f64::from(f32::from_be_bytes(self.array()?))),
            0xcb => Value::Float(f64::from_be_bytes(self.array()?)),
            0xcc..=0xce => Value::Unsigned(u64::from(self.length(marker - 0xcc)?)),
            0xcf => Value::Unsigned(u64::from_be_bytes(self.array()?)),
            0xd0 => Self::signed(i64::from(i8::from_be_bytes(self.array()?))),
            0xd1 => Self::signed(i64::from(i16::from_be_bytes(self.array()?))),
            0xd2 => Self::signed(i64::from(i32::from_be_bytes(self.array()?))),
            0xd3 => Self::signed(i64::from_be_bytes(self.array()?)),
            0xd9..=0xdb => {
                let len = self.length(marker - 0xd9)?;
                self.text(len)?
            }
            0xdc | 0xdd => Value::Array(self.length(marker - 0xdb)?),
            0xde | 0xdf => Value::Map(self.length(marker - 0xdd)?),
            0xe0..=0xff => Value::Negative(i64::from(marker as i8)),
            // Extensions, and what msgpack never uses.
            _ => return Err(Malformed),
        })
    }

    fn unsigned(&mut self) -> Result<u64, Malformed> {
        match self.value()? {
            Value::Unsigned(number) => Ok(number),
            _ => Err(Malformed),
        }
    }

    fn integer(&mut self) -> Result<i64, Malformed> {
        match self.value()? {
            Value::Unsigned(number) => number.try_into().map_err(|_| Malformed),
            Value::Negative(number) => Ok(number),
            _ => Err(Malformed),
        }
    }

    fn float(&mut self) -> Result<f64, Malformed> {
        match self.value()? {
            Value::Float(number) => Ok(number),
            Value::Unsigned(number) => Ok(number as f64),
            Value::Negative(number) => Ok(number as f64),
            _ => Err(Malformed),
        }
    }

    fn str(&mut self) -> Result<&'de str, Malformed> {
        match self.value()? {
            Value::Text(text) => Ok(text),
            _ => Err(Malformed),
        }
    }

    fn array_length(&mut self) -> Result<u32, Malformed> {
        match self.value()? {
            Value::Array(length) => Ok(length),
            _ => Err(Malformed),
        }
    }

    /// Reads what is in a list or map; all of it has to be taken.
    fn within<T>(
        &mut self,
        left: u32,
        read: impl FnOnce(&mut Parts<'_, 'de>) -> Result<T, Malformed>,
    ) -> Result<T, Malformed> {
        self.depth = self.depth.checked_sub(1).ok_or(Malformed)?;
        let mut parts = Parts { reader: self, left };
        let value = read(&mut parts)?;
        if parts.left > 0 {
            return Err(Malformed);
        }
        self.depth += 1;
        Ok(value)
    }
}

/// Methods for which only one kind of value is right.
macro_rules! expect {
    ($($method:ident $read:ident $visit:ident)+) => {
        $(fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Malformed> {
            visitor.$visit(self.$read()?)
        })+
    };
}

impl<'de> Deserializer<'de> for &mut Reader<'de> {
    type Error = Malformed;

    expect! {
        deserialize_u8 unsigned visit_u64
        deserialize_u16 unsigned visit_u64
        deserialize_u32 unsigned visit_u64
        deserialize_u64 unsigned visit_u64
        deserialize_i8 integer visit_i64
        deserialize_i16 integer visit_i64
        deserialize_i32 integer visit_i64
        deserialize_i64 integer visit_i64
        deserialize_f32 float visit_f64
        deserialize_f64 float visit_f64
        deserialize_char str visit_borrowed_str
        deserialize_str str visit_borrowed_str
        deserialize_string str visit_borrowed_str
    }

    fn is_human_readable(&self) -> bool {
        false
    }

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Malformed> {
        match self.value()? {
            Value::Nil => visitor.visit_unit(),
            Value::Bool(value) => visitor.visit_bool(value),
            Value::Unsigned(value) => visitor.visit_u64(value),
            Value::Negative(value) => visitor.visit_i64(value),
            Value::Float(value) => visitor.visit_f64(value),
            Value::Text(value) => visitor.visit_borrowed_str(value),
            Value::Bytes(value) => visitor.visit_borrowed_bytes(value),
            Value::Array(left) => self.within(left, |parts| visitor.visit_seq(parts)),
            Value::Map(left) => self.within(left, |parts| visitor.visit_map(parts)),
        }
    }

    fn deserialize_bool<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Malformed> {
        match self.value()? {
            Value::Bool(value) => visitor.visit_bool(value),
            _ => Err(Malformed),
        }
    }

    fn deserialize_bytes<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Malformed> {
        match self.value()? {
            Value::Bytes(bytes) => visitor.visit_borrowed_bytes(bytes),
            _ => Err(Malformed),
        }
    }

    fn deserialize_byte_buf<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Malformed> {
        self.deserialize_bytes(visitor)
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Malformed> {
        match self.rest {
            [0xc0, rest @ ..] => {
                self.rest = rest;
                visitor.visit_none()
            }
            _ => visitor.visit_some(self),
        }
    }

    fn deserialize_unit<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Malformed> {
        match self.value()? {
            // A struct without fields is written as an empty array.
            Value::Nil | Value::Array(0) => visitor.visit_unit(),
            _ => Err(Malformed),
        }
    }

    fn deserialize_unit_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> Result<V::Value, Malformed> {
        self.deserialize_unit(visitor)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> Result<V::Value, Malformed> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Malformed> {
        let left = self.array_length()?;
        self.within(left, |parts| visitor.visit_seq(parts))
    }

    fn deserialize_tuple<V: Visitor<'de>>(
        self,
        _: usize,
        visitor: V,
    ) -> Result<V::Value, Malformed> {
        self.deserialize_seq(visitor)
    }

    fn deserialize_tuple_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: usize,
        visitor: V,
    ) -> Result<V::Value, Malformed> {
        self.deserialize_seq(visitor)
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Malformed> {
        self.deserialize_seq(visitor)
    }

    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Malformed> {
        match self.value()? {
            Value::Map(left) => self.within(left, |parts| visitor.visit_map(parts)),
            _ => Err(Malformed),
        }
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Malformed> {
        let before = self.rest;
        match self.value()? {
            Value::Map(1) => visitor.visit_enum(Variant { reader: self, has_content: true }),
            Value::Text(_) | Value::Unsigned(_) => {
                self.rest = before;
                visitor.visit_enum(Variant { reader: self, has_content: false })
            }
            _ => Err(Malformed),
        }
    }

    fn deserialize_identifier<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Malformed> {
        match self.value()? {
            Value::Text(name) => visitor.visit_borrowed_str(name),
            Value::Unsigned(number) => visitor.visit_u64(number),
            _ => Err(Malformed),
        }
    }

    fn deserialize_ignored_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Malformed> {
        let bytes = value_bytes(self.rest).ok_or(Malformed)?;
        self.rest = &self.rest[bytes..];
        visitor.visit_unit()
    }
}

/// The parts of a list or map that have not been read.
struct Parts<'a, 'de> {
    reader: &'a mut Reader<'de>,
    left: u32,
}

impl Parts<'_, '_> {
    /// Counts one that is read now; false at the end.
    fn next(&mut self) -> bool {
        let is_there = self.left > 0;
        self.left = self.left.saturating_sub(1);
        is_there
    }

    /// No more than have bytes that came.
    fn hint(&self) -> usize {
        self.reader.rest.len().min(self.left as usize)
    }
}

impl<'de> SeqAccess<'de> for &mut Parts<'_, 'de> {
    type Error = Malformed;

    fn next_element_seed<T: DeserializeSeed<'de>>(
        &mut self,
        seed: T,
    ) -> Result<Option<T::Value>, Malformed> {
        if self.next() { seed.deserialize(&mut *self.reader).map(Some) } else { Ok(None) }
    }

    fn size_hint(&self) -> Option<usize> {
        Some(self.hint())
    }
}

impl<'de> MapAccess<'de> for &mut Parts<'_, 'de> {
    type Error = Malformed;

    fn next_key_seed<T: DeserializeSeed<'de>>(
        &mut self,
        seed: T,
    ) -> Result<Option<T::Value>, Malformed> {
        if self.next() { seed.deserialize(&mut *self.reader).map(Some) } else { Ok(None) }
    }

    fn next_value_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<T::Value, Malformed> {
        seed.deserialize(&mut *self.reader)
    }

    fn size_hint(&self) -> Option<usize> {
        Some(self.hint())
    }
}

/// A variant of an enum: its name alone, or a map of the name to its content.
struct Variant<'a, 'de> {
    reader: &'a mut Reader<'de>,
    has_content: bool,
}

impl<'de> EnumAccess<'de> for Variant<'_, 'de> {
    type Error = Malformed;
    type Variant = Self;

    fn variant_seed<T: DeserializeSeed<'de>>(self, seed: T) -> Result<(T::Value, Self), Malformed> {
        Ok((seed.deserialize(&mut *self.reader)?, self))
    }
}

impl<'a, 'de> Variant<'a, 'de> {
    fn content(self) -> Result<&'a mut Reader<'de>, Malformed> {
        if self.has_content { Ok(self.reader) } else { Err(Malformed) }
    }
}

impl<'de> VariantAccess<'de> for Variant<'_, 'de> {
    type Error = Malformed;

    fn unit_variant(self) -> Result<(), Malformed> {
        if self.has_content { serde::Deserialize::deserialize(self.reader) } else { Ok(()) }
    }

    fn newtype_variant_seed<T: DeserializeSeed<'de>>(self, seed: T) -> Result<T::Value, Malformed> {
        seed.deserialize(self.content()?)
    }

    fn tuple_variant<V: Visitor<'de>>(self, _: usize, visitor: V) -> Result<V::Value, Malformed> {
        self.content()?.deserialize_seq(visitor)
    }

    fn struct_variant<V: Visitor<'de>>(
        self,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Malformed> {
        self.content()?.deserialize_seq(visitor)
    }
}

#[cfg(test)]
mod tests;
