//! The delay before the next attempt to connect.

use std::time::Duration;

use rand::RngExt;

/// Waits that grow from 50 ms to 500 ms in the first minute of trying, and then to 5 s, with jitter
/// so that a thousand engines do not come back in the same instant.
#[derive(Debug, Default)]
pub struct Backoff {
    tries: u32,
    waited: Duration,
}

impl Backoff {
    /// The next wait.
    pub fn next_wait(&mut self) -> Duration {
        let most = if self.waited < Duration::from_secs(60) { 500 } else { 5_000 };
        let ceiling = (50u64 << self.tries.min(10)).min(most);
        let wait = Duration::from_millis(rand::rng().random_range(ceiling / 2..=ceiling));
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
        let mut backoff = Backoff::default();
        let mut total = Duration::ZERO;
        let mut longest_early = Duration::ZERO;
        while total < Duration::from_secs(60) {
            let wait = backoff.next_wait();
            longest_early = longest_early.max(wait);
            total += wait;
        }
        assert!(longest_early <= Duration::from_millis(500));
        let late = (0..10).map(|_| backoff.next_wait()).max().unwrap();
        assert!(late > Duration::from_millis(2_000) && late <= Duration::from_secs(5));
        backoff.reset();
        assert!(backoff.next_wait() <= Duration::from_millis(50));
    }
}
