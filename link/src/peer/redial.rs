//! The search for a broker whose connection is gone: when it is tried again, as which incarnation,
//! and when it is given up because the broker's bytes are unsound.

use std::time::Duration;

use super::backoff::Backoff;
use super::unsound::Unsound;

/// One try to connect.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Try {
    /// The time to wait before it.
    pub wait: Duration,
    /// The incarnation to say in it: the broker ends connections of lower ones.
    pub incarnation: u64,
}

/// The tries of one engine process or client session, from its first connection on.
#[derive(Debug)]
pub struct Redial {
    /// The highest incarnation that was said.
    incarnation: u64,
    backoff: Backoff,
    unsound: Unsound,
    connected_at: Option<Duration>,
    /// When the connection was cut that is sought, and for how long it is.
    cut_at: Option<Duration>,
    within: Option<Duration>,
}

impl Redial {
    /// Begins with a first try under incarnation 1, which is made at once.
    pub fn new() -> Self {
        Self {
            incarnation: 1,
            backoff: Backoff::default(),
            unsound: Unsound::default(),
            connected_at: None,
            cut_at: None,
            within: None,
        }
    }

    /// The same, given up when a connection has been sought for so long.
    pub fn within(mut self, within: Duration) -> Self {
        self.within = Some(within);
        self
    }

    /// The next try. `random` is any number, a fresh one each time.
    pub fn next_try(&mut self, random: u64) -> Try {
        self.incarnation += 1;
        Try { wait: self.backoff.next_wait(random), incarnation: self.incarnation }
    }

    /// A try has succeeded.
    pub fn handle_connected(&mut self, now: Duration) {
        self.backoff.reset();
        self.connected_at = Some(now);
        self.cut_at = None;
    }

    /// The connection is gone; `unsound` says what was wrong with what came on it, if that was it.
    /// Returns true if the same came on the connection before, so that it would come on the next
    /// one, too.
    pub fn handle_cut(&mut self, now: Duration, unsound: Option<&str>) -> bool {
        self.cut_at = Some(now);
        let age = self.connected_at.take().map_or(Duration::ZERO, |at| now.saturating_sub(at));
        if unsound.is_none() {
            self.unsound.forget();
        }
        unsound.is_some_and(|why| self.unsound.note(why, age))
    }

    /// The time at which the search ends, if there is one and it ends.
    pub fn gives_up_at(&self) -> Option<Duration> {
        self.cut_at?.checked_add(self.within?)
    }
}

impl Default for Redial {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn incarnations_rise_and_waits_begin_again_after_a_success() {
        let mut redial = Redial::new();
        redial.handle_connected(SECOND);
        assert!(!redial.handle_cut(2 * SECOND, None));
        let waits: Vec<Try> = (0..6).map(|_| redial.next_try(u64::MAX)).collect();
        assert!(waits.is_sorted_by_key(|it| (it.incarnation, it.wait)));
        assert_eq!((waits[0].incarnation, waits[5].incarnation), (2, 7));
        redial.handle_connected(9 * SECOND);
        assert!(!redial.handle_cut(10 * SECOND, None));
        let again = redial.next_try(u64::MAX);
        assert_eq!((again.incarnation, again.wait), (8, waits[0].wait));
    }

    #[test]
    fn the_same_unsound_bytes_on_two_connections_are_told() {
        let mut redial = Redial::new();
        redial.handle_connected(SECOND);
        assert!(!redial.handle_cut(2 * SECOND, Some("forged")));
        redial.handle_connected(3 * SECOND);
        assert!(!redial.handle_cut(4 * SECOND, None), "not in a row");
        redial.handle_connected(5 * SECOND);
        assert!(!redial.handle_cut(6 * SECOND, Some("forged")));
        redial.handle_connected(7 * SECOND);
        assert!(redial.handle_cut(8 * SECOND, Some("forged")));
        redial.handle_connected(9 * SECOND);
        assert!(!redial.handle_cut(60 * SECOND, Some("forged")), "not soon");
    }

    #[test]
    fn the_search_ends_so_long_after_the_cut_however_often_it_is_tried() {
        let mut redial = Redial::new().within(60 * SECOND);
        redial.handle_connected(SECOND);
        assert_eq!(redial.gives_up_at(), None);
        redial.handle_cut(5 * SECOND, None);
        redial.next_try(0);
        assert_eq!(redial.gives_up_at(), Some(65 * SECOND));
        redial.handle_connected(9 * SECOND);
        assert_eq!(redial.gives_up_at(), None);
        let mut endless = Redial::new().within(Duration::MAX);
        endless.handle_cut(SECOND, None);
        assert_eq!((endless.gives_up_at(), Redial::new().gives_up_at()), (None, None));
    }
}
