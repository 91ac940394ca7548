//! Places that owners share.

use std::collections::HashMap;

use furlong_wire::ids::OwnerId;

/// Places of which each owner may have as many as it leaves free: one that takes all it can still
/// leaves half of them, and whoever comes then finds room.
#[derive(Debug, Default)]
pub struct Shares<const MAX: usize> {
    taken: usize,
    by_owner: HashMap<OwnerId, usize>,
}

impl<const MAX: usize> Shares<MAX> {
    /// Takes some places and returns true, if the owner then has at most as many as are still free.
    pub fn take(&mut self, owner: OwnerId, places: usize) -> bool {
        let has = self.by_owner.get(&owner).copied().unwrap_or_default();
        let is_fair = places.saturating_mul(2) + has <= MAX - self.taken;
        if is_fair && places > 0 {
            self.taken += places;
            self.by_owner.insert(owner, has + places);
        }
        is_fair
    }

    /// Some places are free again.
    pub fn give_back(&mut self, owner: OwnerId, places: usize) {
        let has = self.by_owner.get_mut(&owner).expect("who gives a place back has it");
        assert!(*has >= places && self.taken >= places, "{places} places are free twice");
        *has -= places;
        self.taken -= places;
        if *has == 0 {
            self.by_owner.remove(&owner);
        }
    }

    /// Returns true if all places are free, for the tests.
    #[cfg(any(test, feature = "invariants"))]
    pub fn are_free(&self) -> bool {
        self.taken == 0 && self.by_owner.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_owner_takes_half_at_most_and_leaves_room_for_others() {
        let mut shares = Shares::<256>::default();
        let owner = |n: u8| OwnerId([n; 16]);
        let fill =
            |shares: &mut Shares<256>, n: u8| (0..300).filter(|_| shares.take(owner(n), 1)).count();
        assert_eq!([1, 2, 3].map(|n| fill(&mut shares, n)), [128, 64, 32]);
        assert!(!shares.take(owner(4), 17) && shares.take(owner(4), 16));
        shares.give_back(owner(1), 128);
        assert_eq!(fill(&mut shares, 3), 56, "what is free again is shared anew");
        for (n, places) in [(2, 64), (3, 88), (4, 16)] {
            shares.give_back(owner(n), places);
        }
        assert!(shares.are_free());
    }
}
