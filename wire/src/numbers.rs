//! Maps by numbers that this side or a trusted one counts up: a hash of one multiplication.
//!
//! Not for keys that an unauthenticated peer chooses: it could choose ones that all fall together.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

/// A map by a counted number, or by a struct of such.
pub type NumberMap<K, V> = HashMap<K, V, BuildHasherDefault<NumberHasher>>;

/// See the module.
#[derive(Clone, Copy, Default, Debug)]
pub struct NumberHasher(u64);

impl NumberHasher {
    /// Odd, so that numbers in a row keep different low bits; its high bits depend on all of the
    /// number's.
    const FACTOR: u64 = 0x9e37_79b9_7f4a_7c15;
}

impl Hasher for NumberHasher {
    #[inline]
    fn write_u64(&mut self, number: u64) {
        self.0 = (self.0.rotate_left(5) ^ number).wrapping_mul(Self::FACTOR);
    }

    #[inline]
    fn write_u32(&mut self, number: u32) {
        self.write_u64(number.into());
    }

    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|byte| self.write_u64(u64::from(*byte)));
    }

    #[inline]
    fn finish(&self) -> u64 {
        self.0
    }
}
