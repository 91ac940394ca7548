//! The delay before the next attempt to connect.

use std::time::Duration;

/// Waits that grow from 50 ms to 500 ms in the first minute of trying, and then to 5 s, with jitter
/// so that a thousand engines do not come back in the same instant.
#[derive(Debug, Default)]
pub struct Backoff {
    tries: u32,
    waited: Duration,
}

impl Backoff {
    /// The next wait. `random` is any number, a fresh one each time.
    pub fn next_wait(&mut self, random: u64) -> Duration {
        let most = if self.waited < Duration::from_mins(1) { 500 } else { 5_000 };
        let ceiling = (50u64 << self.tries.min(10)).min(most) * 1_000;
        let wait = Duration::from_micros(ceiling / 2 + random % (ceiling / 2 + 1));
        self.tries += 1;
        self.waited += wait;
        wait
    }

    /// Begins again: the last try succeeded.
    pub fn reset(&mut self) {
        *self = Self::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_to_half_a_second_in_the_first_minute_and_then_to_five() {
        for random in [0, 1 << 40, u64::MAX] {
            let mut backoff = Backoff::default();
            let mut total = Duration::ZERO;
            let mut longest_early = Duration::ZERO;
            while total < Duration::from_mins(1) {
                let wait = backoff.next_wait(random);
                longest_early = longest_early.max(wait);
                total += wait;
            }
            assert!((250..=500).contains(&longest_early.as_millis()), "{longest_early:?}");
            let late = (0..10).map(|_| backoff.next_wait(random)).max().unwrap();
            assert!((2_500..=5_000).contains(&late.as_millis()), "{late:?}");
            backoff.reset();
            assert!((25..=50).contains(&backoff.next_wait(random).as_millis()));
        }
    }

    #[test]
    fn two_who_begin_at_once_do_not_come_back_at_once() {
        let (mut one, mut other) = (Backoff::default(), Backoff::default());
        assert_ne!(one.next_wait(7), other.next_wait(7_000));
    }
}
