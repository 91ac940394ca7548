//! Limits on the rate of new handshakes: one for each origin and one for all.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use furlong_wire::limits::{HANDSHAKES_PER_SECOND_MAX, HANDSHAKES_PER_SECOND_OF_ORIGIN_MAX};

use super::entrance::Origin;

/// The admissions that were given.
#[derive(Debug)]
pub(super) struct Rates {
    all: Rate,
    /// Those that have had admissions lately.
    origins: BTreeMap<Origin, Rate>,
}

/// Admissions of which each takes a part of a second. After a quiet time half a second's worth are
/// there at once.
#[derive(Clone, Copy, Debug)]
struct Rate {
    per_second: u32,
    /// The time at which the admissions that were given will have been used up.
    used_until: Instant,
}

/// The maximum wait. A peer that would wait longer is turned away: it may come again.
const WAIT_MAX: Duration = Duration::from_millis(300);
/// The maximum burst.
const BURST: Duration = Duration::from_millis(500);
/// Origins that may have had admissions in the last moment.
const ORIGINS_MAX: usize = 16_384;

impl Default for Rates {
    fn default() -> Self {
        Self { all: Rate::new(HANDSHAKES_PER_SECOND_MAX, Instant::now()), origins: BTreeMap::new() }
    }
}

impl Rates {
    /// Takes an admission of an origin: how long to wait for it. None if too many wait.
    pub(super) fn of_origin(&mut self, origin: Origin) -> Option<Duration> {
        let now = Instant::now();
        if self.origins.len() >= ORIGINS_MAX {
            self.origins.retain(|_, rate| rate.used_until > now);
        }
        if self.origins.len() >= ORIGINS_MAX && !self.origins.contains_key(&origin) {
            return None;
        }
        let fresh = || Rate::new(HANDSHAKES_PER_SECOND_OF_ORIGIN_MAX, now);
        self.origins.entry(origin).or_insert_with(fresh).take(now)
    }

    /// Gives an admission of an origin back: whoever waited for it has left.
    pub(super) fn give_back(&mut self, origin: Origin) {
        if let Some(rate) = self.origins.get_mut(&origin) {
            rate.give_back();
        }
    }

    /// Takes one of those that all share.
    pub(super) fn of_all(&mut self) -> Option<Duration> {
        self.all.take(Instant::now())
    }
}

impl Rate {
    fn new(per_second: u32, now: Instant) -> Self {
        Self { per_second, used_until: now }
    }

    fn take(&mut self, now: Instant) -> Option<Duration> {
        let used_until = self.used_until.max(now);
        let wait = used_until.duration_since(now).saturating_sub(BURST);
        if wait > WAIT_MAX {
            return None;
        }
        self.used_until = used_until + self.share();
        Some(wait)
    }

    /// Whoever comes next waits for one admission less. Those who wait already keep their times: as
    /// many admissions as were given back may so come twice as fast.
    fn give_back(&mut self) {
        self.used_until -= self.share();
    }

    /// The time that an admission takes of it.
    fn share(&self) -> Duration {
        Duration::from_secs(1) / self.per_second
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns the fate of so many that come at once: the numbers let in at once, let in later, and
    /// turned away.
    fn outcome(rate: &mut Rate, now: Instant, count: u32) -> (u32, u32, u32) {
        let mut outcome = (0, 0, 0);
        for wait in (0..count).map(|_| rate.take(now)) {
            match wait {
                Some(Duration::ZERO) => outcome.0 += 1,
                Some(_) => outcome.1 += 1,
                None => outcome.2 += 1,
            }
        }
        outcome
    }

    #[test]
    fn half_a_seconds_worth_is_there_at_once_and_then_the_rate() {
        let now = Instant::now();
        let mut rate = Rate::new(500, now);
        assert_eq!(outcome(&mut rate, now, 1_000), (251, 150, 599));
        assert_eq!(
            outcome(&mut rate, now, 10),
            (0, 0, 10),
            "who was turned away has taken nothing"
        );
        assert_eq!(outcome(&mut rate, now + Duration::from_millis(100), 100), (0, 50, 50));
        let later = now + Duration::from_secs(10);
        assert_eq!(outcome(&mut rate, later, 1_000), (251, 150, 599), "no more gathers than that");
    }

    #[test]
    fn a_turn_that_is_given_back_is_there_for_the_next_one() {
        let now = Instant::now();
        let mut rate = Rate::new(500, now);
        assert_eq!(outcome(&mut rate, now, 1_000), (251, 150, 599));
        (0..10).for_each(|_| rate.give_back());
        assert_eq!(outcome(&mut rate, now, 1_000), (0, 10, 990));
    }

    #[test]
    fn an_origin_uses_up_its_own_turns() {
        let mut rates = Rates::default();
        let (one, other) = (Origin::Local, Origin::Network([10, 0, 0, 1].into()));
        while rates.of_origin(one).is_some() {}
        assert_eq!(rates.of_origin(other), Some(Duration::ZERO));
        assert_eq!(rates.of_all(), Some(Duration::ZERO));
    }

    #[test]
    fn origins_are_forgotten_and_bounded() {
        let mut rates = Rates::default();
        let host = |n: u32| Origin::Network(std::net::IpAddr::from(n.to_be_bytes()));
        let admitted =
            (0..2 * ORIGINS_MAX as u32).filter(|n| rates.of_origin(host(*n)).is_some()).count();
        assert!(rates.origins.len() <= ORIGINS_MAX && admitted >= ORIGINS_MAX, "{admitted}");
    }
}
