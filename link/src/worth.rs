//! Whether it pays to look for what comes next, for a moment, before going to sleep.
//!
//! To wake a sleeping thread, and perhaps a processor with it, can cost more than all the rest of a short task. To look
//! without sleeping costs a processor's time, for nothing if nothing comes. So one looks where that has paid lately.

use std::num::NonZero;

/// What the last looks were worth.
#[derive(Clone, Copy, Debug)]
pub struct Worth {
    /// Looks that paid, less those that did not twice over, up to [`WORTH_MAX`]; below, occasions that were let go.
    balance: i32,
    /// Whether there is another processor: with one alone, a look would keep from working whom it waits for.
    has_another_processor: bool,
}

/// So many looks that do not pay, in half as many tries, end the looking.
const WORTH_MAX: i32 = 8;
/// After so many occasions that were let go, one is tried again.
const LET_GO_MAX: i32 = 32;

impl Worth {
    /// Begins by looking.
    pub fn new() -> Self {
        let processors = std::thread::available_parallelism().map_or(1, NonZero::get);
        Self { balance: WORTH_MAX, has_another_processor: processors > 1 }
    }

    /// Whether to look on this occasion.
    pub fn is_worth_it(&mut self) -> bool {
        if !self.has_another_processor {
            return false;
        }
        if self.balance > 0 {
            return true;
        }
        self.balance = if self.balance <= -LET_GO_MAX { 1 } else { self.balance - 1 };
        false
    }

    /// Whether the look was worth it.
    pub fn note(&mut self, has_paid: bool) {
        self.balance = if has_paid { (self.balance + 1).min(WORTH_MAX) } else { self.balance - 2 };
    }
}

impl Default for Worth {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn looks_that_do_not_pay_end_soon_and_are_tried_again_seldom() {
        let mut worth = Worth { balance: WORTH_MAX, has_another_processor: true };
        let mut looks = |occasions: u32, pays: bool| {
            let mut looked = 0;
            for _ in 0..occasions {
                if worth.is_worth_it() {
                    looked += 1;
                    worth.note(pays);
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
        assert!(!Worth { balance: WORTH_MAX, has_another_processor: false }.is_worth_it());
    }
}
