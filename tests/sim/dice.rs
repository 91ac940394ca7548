//! Random numbers that are the same on each machine and with each version of any library:
//! splitmix64.

/// A stream of random numbers. What belongs to one thing (a connection, a run) has a stream of its
/// own, so that the rest of a history changes little when a part of it is left out.
#[derive(Clone, Debug)]
pub struct Dice(u64);

impl Dice {
    /// The stream of this seed for the thing that these numbers name.
    pub fn of(seed: u64, name: &[u64]) -> Self {
        let mut dice = Self(seed);
        for part in name {
            dice = Self(dice.roll() ^ part.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        }
        dice.roll();
        dice
    }

    /// Any number.
    pub fn roll(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number below `end`, which is not 0.
    pub fn below(&mut self, end: u64) -> u64 {
        self.roll() % end
    }

    /// A number in this range, both ends included.
    pub fn between(&mut self, first: u64, last: u64) -> u64 {
        first + self.below(last - first + 1)
    }

    /// True once in so many times.
    pub fn one_in(&mut self, times: u64) -> bool {
        self.below(times) == 0
    }

    /// One of these.
    pub fn pick<T: Copy>(&mut self, among: &[T]) -> T {
        among[self.below(among.len() as u64) as usize]
    }

    /// One of these, by their weights.
    pub fn weigh<T: Copy>(&mut self, among: &[(u64, T)]) -> T {
        let mut left = self.below(among.iter().map(|(weight, _)| weight).sum());
        for (weight, what) in among {
            if left < *weight {
                return *what;
            }
            left -= weight;
        }
        unreachable!("the weights add up")
    }

    /// Random bytes, for ids and secrets.
    pub fn bytes<const N: usize>(&mut self) -> [u8; N] {
        let mut bytes = [0; N];
        for part in bytes.chunks_mut(8) {
            part.copy_from_slice(&self.roll().to_le_bytes()[..part.len()]);
        }
        bytes
    }
}
