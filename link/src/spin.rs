//! Adaptive spinning: polling for a moment before going to sleep, where it pays off.
//!
//! To wake a sleeping thread, and perhaps a processor with it, can cost more than all the rest of a
//! short task. To look without sleeping costs a processor's time, for nothing if nothing comes. So
//! one looks where that has paid lately.

use std::num::NonZero;

/// The benefit of the last spins.
#[derive(Clone, Copy, Debug)]
pub struct AdaptiveSpin {
    /// Looks that paid, less those that did not twice over, up to [`BALANCE_MAX`]; below, occasions
    /// that were let go.
    balance: i32,
    /// True if there is another processor: with one alone, spinning would keep those it waits for
    /// from working.
    has_another_processor: bool,
}

/// So many looks that do not pay, in half as many tries, end the looking.
const BALANCE_MAX: i32 = 8;
/// After so many occasions that were let go, one is tried again.
const LET_GO_MAX: i32 = 32;

impl AdaptiveSpin {
    /// Begins by looking.
    pub fn new() -> Self {
        let processors = std::thread::available_parallelism().map_or(1, NonZero::get);
        Self { balance: BALANCE_MAX, has_another_processor: processors > 1 }
    }

    /// Returns true if it pays to spin on this occasion.
    pub fn try_spin(&mut self) -> bool {
        if !self.has_another_processor {
            return false;
        }
        if self.balance > 0 {
            return true;
        }
        self.balance = if self.balance <= -LET_GO_MAX { 1 } else { self.balance - 1 };
        false
    }

    /// Records the success or failure of a spin.
    pub fn record(&mut self, has_paid: bool) {
        self.balance =
            if has_paid { (self.balance + 1).min(BALANCE_MAX) } else { self.balance - 2 };
    }
}

impl Default for AdaptiveSpin {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn looks_that_do_not_pay_end_soon_and_are_tried_again_seldom() {
        let mut spin = AdaptiveSpin { balance: BALANCE_MAX, has_another_processor: true };
        let mut looks = |occasions: u32, pays: bool| {
            let mut looked = 0;
            for _ in 0..occasions {
                if spin.try_spin() {
                    looked += 1;
                    spin.record(pays);
                }
            }
            looked
        };
        assert_eq!(looks(100, true), 100);
        assert_eq!(looks(4, false), 4);
        let seldom = looks(1000, false);
        assert!((25..=35).contains(&seldom), "{seldom}");
        assert!(looks(1000, true) > 960, "it comes back when it pays again");
    }

    #[test]
    fn on_one_processor_nobody_looks() {
        assert!(!AdaptiveSpin { balance: BALANCE_MAX, has_another_processor: false }.try_spin());
    }
}
