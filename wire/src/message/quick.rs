//! The messages of a task's way, without serde: the same bytes, for a quarter of the work.
//!
//! Every message can be written and read by serde alone, and what a peer may send is what serde
//! reads. But a no-op is eight messages to encode or decode, and serde with `rmp-serde` took a
//! fifth of all its instructions for them. So what such a task needs is written and read here as
//! well, field by field. [`Quick::take`] knows only the forms that [`Quick::put`] writes, of what
//! is frequent; whatever else comes is read again, by serde. The tests compare both.

use serde::Serialize;

use super::status::Event;
use super::task::{Outcome, Payload, RunTimes, Targets, TaskError, TaskOptions, TaskTimes};
use crate::ids::{Attempt, AttemptId, BrokerStart, EngineId, SessionId, TaskSeq};
use crate::limits::INLINE_PAYLOAD_BYTES_MAX;
use crate::small::InlineBytes;

const NIL: u8 = 0xc0;
const BIN8: u8 = 0xc4;
const BIN16: u8 = 0xc5;
const UINT8: u8 = 0xcc;
const UINT16: u8 = 0xcd;
const UINT32: u8 = 0xce;
const UINT64: u8 = 0xcf;
const ARRAY: u8 = 0x90;
const ARRAY16: u8 = 0xdc;
/// Parts of the longest array whose length is in its first byte.
pub(crate) const ARRAY_PARTS_MAX: usize = 15;

/// Something that is written, and perhaps read, without serde.
pub trait Quick: Serialize + Sized {
    /// Appends it, byte for byte as serde does.
    fn put(&self, out: &mut Vec<u8>) {
        put_by_serde(self, out);
    }

    /// Takes it from the front. None leaves it to serde, which may still read it.
    fn take(_input: &mut Input<'_>) -> Option<Self> {
        None
    }
}

/// The rest of a batch.
#[derive(Debug)]
pub struct Input<'a>(pub &'a [u8]);

impl<'a> Input<'a> {
    #[inline]
    pub fn byte(&mut self) -> Option<u8> {
        let (byte, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(*byte)
    }

    #[inline]
    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (bytes, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(*bytes)
    }

    #[inline]
    fn bytes(&mut self, len: usize) -> Option<&'a [u8]> {
        let (bytes, rest) = self.0.split_at_checked(len)?;
        self.0 = rest;
        Some(bytes)
    }

    /// Takes the first byte of an array, if it has that many parts.
    #[inline]
    pub fn parts(&mut self, count: u8) -> Option<()> {
        (self.byte()? == ARRAY | count).then_some(())
    }
}

/// Appends the first byte of an array of at most [`ARRAY_PARTS_MAX`] parts.
#[inline]
pub fn put_parts(count: u8, out: &mut Vec<u8>) {
    out.extend_from_slice(&[ARRAY | count]);
}

/// Appends a value as serde writes it.
pub fn put_by_serde<T: Serialize>(value: &T, out: &mut Vec<u8>) {
    value
        .serialize(&mut rmp_serde::Serializer::new(out))
        .expect("a message has no type that msgpack cannot hold");
}

impl Quick for u64 {
    #[inline]
    fn put(&self, out: &mut Vec<u8>) {
        // Most are small: those are stored where they are met.
        match *self {
            0..=0x7f => out.extend_from_slice(&[*self as u8]),
            _ => put_large_number(*self, out),
        }
    }

    #[inline]
    fn take(input: &mut Input<'_>) -> Option<Self> {
        match input.byte()? {
            small @ 0..=0x7f => Some(Self::from(small)),
            UINT8 => input.byte().map(Self::from),
            UINT16 => input.array().map(u16::from_be_bytes).map(Self::from),
            UINT32 => input.array().map(u32::from_be_bytes).map(Self::from),
            UINT64 => input.array().map(Self::from_be_bytes),
            _ => None,
        }
    }
}

fn put_large_number(number: u64, out: &mut Vec<u8>) {
    let [b8, b7, b6, b5, b4, b3, b2, b1] = number.to_be_bytes();
    match number {
        0..=0xff => out.extend_from_slice(&[UINT8, b1]),
        0x100..=0xffff => out.extend_from_slice(&[UINT16, b2, b1]),
        0x1_0000..=0xffff_ffff => out.extend_from_slice(&[UINT32, b4, b3, b2, b1]),
        _ => out.extend_from_slice(&[UINT64, b8, b7, b6, b5, b4, b3, b2, b1]),
    }
}

/// Numbers that travel like a `u64`.
macro_rules! quick_numbers {
    ($($number:ty)+) => {
        $(impl Quick for $number {
            #[inline]
            fn put(&self, out: &mut Vec<u8>) {
                u64::from(*self).put(out);
            }

            #[inline]
            fn take(input: &mut Input<'_>) -> Option<Self> {
                u64::take(input).and_then(|number| number.try_into().ok())
            }
        })+
    };
}

quick_numbers! { u8 u32 }

impl<T: Quick> Quick for Option<T> {
    #[inline]
    fn put(&self, out: &mut Vec<u8>) {
        match self {
            None => out.extend_from_slice(&[NIL]),
            Some(value) => value.put(out),
        }
    }

    #[inline]
    fn take(input: &mut Input<'_>) -> Option<Self> {
        if let Some((&NIL, rest)) = input.0.split_first() {
            input.0 = rest;
            return Some(None);
        }
        T::take(input).map(Some)
    }
}

impl<T: Quick> Quick for Box<T> {
    #[inline]
    fn put(&self, out: &mut Vec<u8>) {
        (**self).put(out);
    }

    #[inline]
    fn take(input: &mut Input<'_>) -> Option<Self> {
        T::take(input).map(Self::new)
    }
}

impl<T: Quick> Quick for Vec<T> {
    #[inline]
    fn put(&self, out: &mut Vec<u8>) {
        match u16::try_from(self.len()) {
            Ok(count) if usize::from(count) <= ARRAY_PARTS_MAX => put_parts(count as u8, out),
            Ok(count) => out.extend_from_slice(&[ARRAY16, (count >> 8) as u8, count as u8]),
            Err(_) => return put_by_serde(self, out),
        }
        self.iter().for_each(|part| part.put(out));
    }

    #[inline]
    fn take(input: &mut Input<'_>) -> Option<Self> {
        let count = match input.byte()? {
            ARRAY16 => input.array().map(u16::from_be_bytes).map(usize::from)?,
            first => first
                .checked_sub(ARRAY)
                .map(usize::from)
                .filter(|count| *count <= ARRAY_PARTS_MAX)?,
        };
        // A part has a byte at least: no memory is taken for more than came.
        let mut parts = Self::with_capacity(count.min(input.0.len()));
        for _ in 0..count {
            parts.push(T::take(input)?);
        }
        Some(parts)
    }
}

impl<A: Quick, B: Quick> Quick for (A, B) {
    #[inline]
    fn put(&self, out: &mut Vec<u8>) {
        put_parts(2, out);
        self.0.put(out);
        self.1.put(out);
    }

    #[inline]
    fn take(input: &mut Input<'_>) -> Option<Self> {
        input.parts(2)?;
        Some((A::take(input)?, B::take(input)?))
    }
}

impl Quick for SessionId {
    #[inline]
    fn put(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&[BIN8, self.0.len() as u8]);
        out.extend_from_slice(&self.0);
    }

    #[inline]
    fn take(input: &mut Input<'_>) -> Option<Self> {
        const LEN: u8 = size_of::<SessionId>() as u8;
        if input.array()? == [BIN8, LEN] { input.array().map(Self) } else { None }
    }
}

impl Quick for Payload {
    #[inline]
    fn put(&self, out: &mut Vec<u8>) {
        let Self::Inline(inline) = self else { return put_by_serde(self, out) };
        match u16::try_from(inline.len()) {
            Ok(len @ 0..=0xff) => out.extend_from_slice(&[BIN8, len as u8]),
            Ok(len) => out.extend_from_slice(&[BIN16, (len >> 8) as u8, len as u8]),
            Err(_) => return put_by_serde(self, out),
        }
        out.extend_from_slice(inline);
    }

    #[inline]
    fn take(input: &mut Input<'_>) -> Option<Self> {
        let len = match input.byte()? {
            BIN8 => input.byte().map(usize::from)?,
            BIN16 => input.array().map(u16::from_be_bytes).map(usize::from)?,
            _ => return None,
        };
        let inline = input.bytes(len).filter(|_| len <= INLINE_PAYLOAD_BYTES_MAX)?;
        Some(Self::Inline(InlineBytes::copy_from_slice(inline)))
    }
}

impl Quick for Targets {
    #[inline]
    fn put(&self, out: &mut Vec<u8>) {
        match self {
            Self::Shared => out.extend_from_slice(&[NIL]),
            Self::Engines(engines) => engines.put(out),
        }
    }

    #[inline]
    fn take(input: &mut Input<'_>) -> Option<Self> {
        <Option<_> as Quick>::take(input).map(|engines| engines.map_or(Self::Shared, Self::Engines))
    }
}

// Rare: written and read by serde.
impl Quick for Event {}
impl Quick for TaskOptions {}
impl Quick for TaskError {}

impl Quick for RunTimes {
    #[inline]
    fn put(&self, out: &mut Vec<u8>) {
        put_parts(4, out);
        self.began_us.put(out);
        let parts = [self.load_us, self.run_us, self.store_us];
        // Those of a short task, all at once: every task has these.
        if (parts[0] | parts[1] | parts[2]) < 0x80 {
            return out.extend_from_slice(&[parts[0] as u8, parts[1] as u8, parts[2] as u8]);
        }
        parts.iter().for_each(|part| part.put(out));
    }

    #[inline]
    fn take(input: &mut Input<'_>) -> Option<Self> {
        input.parts(4)?;
        let began_us = u64::take(input)?;
        if let [load @ 0..=0x7f, run @ 0..=0x7f, store @ 0..=0x7f, rest @ ..] = input.0 {
            input.0 = rest;
            let (load_us, run_us) = (u64::from(*load), u64::from(*run));
            return Some(Self { began_us, load_us, run_us, store_us: u64::from(*store) });
        }
        let (load_us, run_us) = (u64::take(input)?, u64::take(input)?);
        Some(Self { began_us, load_us, run_us, store_us: u64::take(input)? })
    }
}

/// Structs that travel as arrays of their fields, in this order.
macro_rules! quick_structs {
    ($($name:ident { $($field:ident)+ })+) => {
        $(impl $crate::message::quick::Quick for $name {
            #[inline]
            fn put(&self, out: &mut Vec<u8>) {
                $crate::message::quick::put_parts(
                    const { [$(stringify!($field)),+].len() as u8 },
                    out,
                );
                $($crate::message::quick::Quick::put(&self.$field, out);)+
            }

            #[inline]
            fn take(input: &mut $crate::message::quick::Input<'_>) -> Option<Self> {
                input.parts(const { [$(stringify!($field)),+].len() as u8 })?;
                Some(Self { $($field: $crate::message::quick::Quick::take(input)?,)+ })
            }
        })+
    };
}

/// Structs of one value, which travel as that value.
macro_rules! quick_newtypes {
    ($($name:ident)+) => {
        $(impl Quick for $name {
            #[inline]
            fn put(&self, out: &mut Vec<u8>) {
                self.0.put(out);
            }

            #[inline]
            fn take(input: &mut Input<'_>) -> Option<Self> {
                Quick::take(input).map(Self)
            }
        })+
    };
}

pub(super) use quick_structs;

quick_newtypes! { EngineId BrokerStart AttemptId TaskSeq }
quick_structs! {
    Attempt { start id }
    Outcome { state error }
    TaskTimes { submitted_unix_us assigned_us finished_us run }
}
