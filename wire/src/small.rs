//! Small byte strings, where they are met.

use std::fmt;
use std::ops::{Deref, Range};

use bytes::Bytes;

/// The bytes of a payload that travels in its message: a few in place, so that a short call or
/// result is no allocation on its way; more with a count of references.
#[derive(Clone)]
pub struct InlineBytes(Form);

#[derive(Clone)]
enum Form {
    Short { len: u8, bytes: [u8; SHORT_MAX] },
    Long(Bytes),
}

/// As many as make it no larger than `Bytes` with a tag beside it: 40 bytes.
const SHORT_MAX: usize = 38;
/// With the length, and the two words that `Bytes` adds, an allocation of 128 bytes.
const MEDIUM_MAX: usize = 111;

/// Each byte, once: no arguments, nothing, a truth value and a small number are encoded as one
/// byte.
static SINGLE: [u8; 256] = {
    let mut single = [0; 256];
    let mut byte = 0;
    while byte < single.len() {
        single[byte] = byte as u8;
        byte += 1;
    }
    single
};

impl InlineBytes {
    /// No bytes.
    pub const fn new() -> Self {
        Self(Form::Short { len: 0, bytes: [0; SHORT_MAX] })
    }

    /// A copy.
    #[inline]
    pub fn copy_from_slice(bytes: &[u8]) -> Self {
        Self::filled(bytes.len(), |place| place.copy_from_slice(bytes))
    }

    /// That many bytes, which `fill` writes over zeros.
    #[inline]
    pub fn filled(len: usize, fill: impl FnOnce(&mut [u8])) -> Self {
        if len <= SHORT_MAX {
            let mut bytes = [0; SHORT_MAX];
            fill(&mut bytes[..len]);
            return Self(Form::Short { len: len as u8, bytes });
        }
        Self(Form::Long(filled_long(len, fill)))
    }

    /// A part, to be kept: of more than a few bytes it is a view.
    ///
    /// # Panics
    /// If it is beyond the end.
    pub fn slice(&self, range: Range<usize>) -> Bytes {
        match &self.0 {
            Form::Short { .. } => match self[range] {
                [byte] => Bytes::from_static(std::slice::from_ref(&SINGLE[usize::from(byte)])),
                ref bytes => Bytes::copy_from_slice(bytes),
            },
            Form::Long(bytes) => bytes.slice(range),
        }
    }
}

/// Bytes that will be shared. Those of a `Vec` make a second allocation at the first clone, and
/// payloads are cloned nearly always: in slices, or to be kept while they are sent.
fn filled_long(len: usize, fill: impl FnOnce(&mut [u8])) -> Bytes {
    if len <= MEDIUM_MAX {
        let mut medium = Medium { len: len as u8, bytes: [0; MEDIUM_MAX] };
        fill(&mut medium.bytes[..len]);
        return Bytes::from_owner(medium);
    }
    let mut long = vec![0; len];
    fill(&mut long);
    long.into()
}

struct Medium {
    len: u8,
    bytes: [u8; MEDIUM_MAX],
}

impl AsRef<[u8]> for Medium {
    #[inline]
    fn as_ref(&self) -> &[u8] {
        &self.bytes[..usize::from(self.len)]
    }
}

impl Default for InlineBytes {
    fn default() -> Self {
        Self::new()
    }
}

impl Deref for InlineBytes {
    type Target = [u8];

    #[inline]
    fn deref(&self) -> &[u8] {
        match &self.0 {
            Form::Short { len, bytes } => &bytes[..usize::from(*len)],
            Form::Long(bytes) => bytes,
        }
    }
}

impl From<Bytes> for InlineBytes {
    fn from(bytes: Bytes) -> Self {
        if bytes.len() <= SHORT_MAX {
            Self::copy_from_slice(&bytes)
        } else {
            Self(Form::Long(bytes))
        }
    }
}

impl From<Vec<u8>> for InlineBytes {
    fn from(bytes: Vec<u8>) -> Self {
        Bytes::from(bytes).into()
    }
}

impl<const N: usize> From<&[u8; N]> for InlineBytes {
    fn from(bytes: &[u8; N]) -> Self {
        Self::copy_from_slice(bytes)
    }
}

impl PartialEq for InlineBytes {
    fn eq(&self, other: &Self) -> bool {
        **self == **other
    }
}

impl Eq for InlineBytes {}

impl fmt::Debug for InlineBytes {
    /// Shows the size only: a payload is the user's, and logs are read by others.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes", self.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_lengths_are_copied_whole() {
        for len in 0..300 {
            let bytes: Vec<u8> = (0..len).map(|i| i as u8).collect();
            let copy = InlineBytes::copy_from_slice(&bytes);
            assert_eq!((&copy[..], &copy.slice(len / 2..len)[..]), (&bytes[..], &bytes[len / 2..]));
            assert_eq!(InlineBytes::from(bytes), copy.clone());
        }
    }

    #[test]
    fn it_is_no_larger_than_bytes_with_a_tag() {
        assert_eq!(size_of::<InlineBytes>(), size_of::<Bytes>() + 8);
    }
}
