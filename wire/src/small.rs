//! Small byte strings in one allocation, together with their count of references.

use bytes::Bytes;

/// Copies bytes that will be shared. `Bytes::copy_from_slice` makes a second allocation at the first clone, and inline
/// payloads are cloned nearly always: in slices, or to be kept while they are sent.
pub(crate) fn copy_small(bytes: &[u8]) -> Bytes {
    let len = bytes.len();
    if len == 0 || len > LONG {
        Bytes::copy_from_slice(bytes)
    } else if len > SHORT {
        Bytes::from_owner(Small::<LONG>::of(bytes))
    } else {
        Bytes::from_owner(Small::<SHORT>::of(bytes))
    }
}

/// With the length, and the two words that `Bytes` adds, these are sizes that allocators have: 64 and 128 bytes.
const SHORT: usize = 47;
const LONG: usize = 111;

struct Small<const N: usize> {
    len: u8,
    bytes: [u8; N],
}

impl<const N: usize> Small<N> {
    #[inline]
    fn of(bytes: &[u8]) -> Self {
        let mut small = Self { len: bytes.len() as u8, bytes: [0; N] };
        small.bytes[..bytes.len()].copy_from_slice(bytes);
        small
    }
}

impl<const N: usize> AsRef<[u8]> for Small<N> {
    #[inline]
    fn as_ref(&self) -> &[u8] {
        &self.bytes[..usize::from(self.len)]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_lengths_are_copied_whole() {
        for len in 0..300 {
            let bytes: Vec<u8> = (0..len).map(|i| i as u8).collect();
            let copy = copy_small(&bytes);
            assert_eq!((&copy[..], &copy.slice(len / 2..)[..]), (&bytes[..], &bytes[len / 2..]));
        }
    }
}
