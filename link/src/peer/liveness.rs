//! Liveness checks: a peer is declared dead or sent a heartbeat, as checked at each tick.
//!
//! Silence is counted in ticks of this process, not by the clock. A process that was starved or
//! stopped for a minute finds what its peers have sent meanwhile in its sockets, and reads it
//! before it has counted enough ticks to judge anybody.

use std::time::Duration;

use furlong_wire::limits::{HEARTBEAT_DEAD_MS, HEARTBEAT_IDLE_MS, WRITE_STALL_MS};

/// The action that a connection needs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Due {
    /// Nothing now.
    Nothing,
    /// An empty record: nothing was sent for a while.
    Heartbeat,
    /// The end: nothing was heard of the peer for so many ticks.
    Silent,
    /// The end: the peer took nothing of what waits for it for so many ticks.
    Stalled,
}

/// One connection's silence. [`Liveness::heard`] and [`Liveness::taken`] as things happen,
/// [`Liveness::handle_tick`] at each tick.
#[derive(Clone, Copy, Debug)]
pub struct Liveness {
    tick_ms: u64,
    ticks_silent: u64,
    ticks_stalled: u64,
}

impl Liveness {
    /// Begins. Two ticks are at least `tick` apart, and what has come is read between them.
    pub fn new(tick: Duration) -> Self {
        Self { tick_ms: tick.as_millis() as u64, ticks_silent: 0, ticks_stalled: 0 }
    }

    /// Bytes have come from the peer.
    pub fn heard(&mut self) {
        self.ticks_silent = 0;
    }

    /// The peer has taken bytes.
    pub fn taken(&mut self) {
        self.ticks_stalled = 0;
    }

    /// Another tick. `is_stalled` says whether something waits that the peer does not take,
    /// `sent_ago` when something was last sent, by the clock: a heartbeat is late if this process
    /// is.
    pub fn handle_tick(&mut self, is_stalled: bool, sent_ago: Duration) -> Due {
        self.ticks_silent += 1;
        self.ticks_stalled = if is_stalled { self.ticks_stalled + 1 } else { 0 };
        if self.ticks_silent * self.tick_ms >= HEARTBEAT_DEAD_MS {
            Due::Silent
        } else if self.ticks_stalled * self.tick_ms >= WRITE_STALL_MS {
            Due::Stalled
        } else if !is_stalled && sent_ago >= Duration::from_millis(HEARTBEAT_IDLE_MS) {
            Due::Heartbeat
        } else {
            Due::Nothing
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);
    const JUST_NOW: Duration = Duration::ZERO;

    #[test]
    fn a_peer_is_dead_after_fifteen_seconds_of_ticks_without_a_byte() {
        let mut liveness = Liveness::new(SECOND);
        for _ in 0..3 {
            assert!((0..14).all(|_| liveness.handle_tick(false, JUST_NOW) == Due::Nothing));
            liveness.heard();
        }
        assert!((0..14).all(|_| liveness.handle_tick(false, JUST_NOW) == Due::Nothing));
        assert_eq!(liveness.handle_tick(false, JUST_NOW), Due::Silent);
    }

    #[test]
    fn ticks_count_and_not_how_late_they_are() {
        // Whoever stood still for an hour has had one tick: the heartbeat is due, and nobody is
        // dead.
        let mut liveness = Liveness::new(Duration::from_millis(250));
        assert!((0..59).all(|_| liveness.handle_tick(false, 3600 * SECOND) == Due::Heartbeat));
        assert_eq!(liveness.handle_tick(false, JUST_NOW), Due::Silent);
    }

    #[test]
    fn a_peer_that_takes_nothing_ends_after_ten_seconds_of_ticks() {
        let mut liveness = Liveness::new(SECOND);
        assert!((0..9).all(|_| liveness.handle_tick(true, 60 * SECOND) == Due::Nothing));
        liveness.taken();
        liveness.heard();
        assert!((0..9).all(|_| liveness.handle_tick(true, JUST_NOW) == Due::Nothing));
        assert_eq!(liveness.handle_tick(true, JUST_NOW), Due::Stalled);
    }

    #[test]
    fn a_heartbeat_is_due_by_the_clock() {
        let mut liveness = Liveness::new(SECOND);
        assert_eq!(liveness.handle_tick(false, 4 * SECOND), Due::Nothing);
        assert_eq!(liveness.handle_tick(false, 5 * SECOND), Due::Heartbeat);
    }
}
