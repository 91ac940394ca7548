//! A peer whose bytes are unsound: once is an accident, the same again on the next connection is
//! how it is.

use std::time::Duration;

use furlong_wire::limits::HEARTBEAT_DEAD_MS;

/// The reason that the last connection was cut, if its input was unsound soon after it was made.
#[derive(Debug, Default)]
pub struct Unsound {
    last: Option<String>,
}

impl Unsound {
    /// A connection of that age was cut, as what came is unsound. True if the one before was cut
    /// for the same reason: then a third one would be, too.
    pub fn note(&mut self, why: &str, age: Duration) -> bool {
        let is_soon = age < Duration::from_millis(HEARTBEAT_DEAD_MS);
        let before = self.last.replace(why.to_owned());
        is_soon && before.is_some_and(|before| before == why)
    }

    /// A connection was cut for another reason.
    pub fn forget(&mut self) {
        self.last = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_twice_in_a_row_and_soon_is_enough() {
        let (soon, late) = (Duration::from_secs(1), Duration::from_secs(60));
        let mut unsound = Unsound::default();
        assert!(!unsound.note("too long", soon));
        assert!(!unsound.note("forged", soon), "for another reason");
        assert!(!unsound.note("forged", late), "much later");
        unsound.forget();
        assert!(!unsound.note("forged", soon), "not in a row");
        assert!(unsound.note("forged", soon));
    }
}
