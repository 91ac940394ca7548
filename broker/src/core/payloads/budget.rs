//! The bytes that the broker holds for its peers, and what each side may still send.

use furlong_wire::limits::OVERDRAFT_CREDITS;

use crate::core::PeerMisbehaved;

/// The bytes that the broker holds for its peers, and what each side may still send: chunks of
/// payloads, kept output, inline definitions, and what tasks have beyond the usual (`charges.rs`).
///
/// A quarter of it is for results that come unasked: the credits of all lanes together are never
/// more, so these always fit. The other three quarters are for requests, which take half of the
/// budget at most, and for results that the broker asks for when there is room. A single payload
/// beyond a quarter of the budget may take all three quarters: a large array passes where nobody
/// else needs the memory. A client may announce what its credit allows: at first a quarter of the
/// budget, and then what was freed of it; one payload at a time may overdraw it. The budget itself
/// is checked at each announcement, first come first served; a request that does not fit is read
/// past and its task fails. So the chunks held are never more than the budget, whatever the peers
/// do.
#[derive(Debug)]
pub struct Budget {
    total: u64,
    held: u64,
    /// Of these, bytes of requests and definitions.
    requests: u64,
    /// Bytes of results that are held for their clients, or are on their way here.
    results: u64,
    /// Of these, the ones that came unasked.
    unasked: u64,
    /// The first credits of all lanes.
    lent: u64,
    /// The bytes that came unasked and are held of lanes that are closed.
    stray: u64,
}

impl Budget {
    /// A budget of that many bytes.
    pub fn new(total: u64) -> Self {
        Self { total, held: 0, requests: 0, results: 0, unasked: 0, lent: 0, stray: 0 }
    }

    /// Takes bytes in, if they fit.
    pub fn reserve(&mut self, what: BytesOf, bytes: u64) -> bool {
        let fits = self.would_fit(what, bytes, 0);
        if fits {
            self.hold(what, bytes);
        }
        fits
    }

    /// Takes in what is here already, and must be held whether it fits or not.
    pub fn take(&mut self, what: BytesOf, bytes: u64) {
        self.hold(what, bytes);
    }

    /// True if bytes would fit when so many others had given way.
    pub fn would_fit(&self, what: BytesOf, bytes: u64, given_way: u64) -> bool {
        let is_within_half =
            || self.requests.checked_add(bytes).is_some_and(|bytes| bytes <= self.total / 2);
        match what {
            BytesOf::Restored => {
                bytes <= self.total.saturating_sub(self.held.saturating_sub(given_way))
            }
            BytesOf::Request if bytes <= self.peer_credit() && !is_within_half() => false,
            BytesOf::Request | BytesOf::Result | BytesOf::Other => bytes <= self.room(given_way),
        }
    }

    /// Bytes for which there is room when so many others have given way, but for what comes
    /// unasked.
    pub fn room(&self, given_way: u64) -> u64 {
        (self.total - self.peer_credit())
            .saturating_sub((self.held - self.unasked).saturating_sub(given_way))
    }

    fn hold(&mut self, what: BytesOf, bytes: u64) {
        self.held += bytes;
        match what {
            BytesOf::Request => self.requests += bytes,
            BytesOf::Result => self.results += bytes,
            BytesOf::Restored | BytesOf::Other => {}
        }
    }

    /// Bytes are free again.
    pub fn release(&mut self, what: BytesOf, bytes: u64) {
        assert!(bytes <= self.held, "{bytes} bytes are freed of {}", self.held);
        self.held -= bytes;
        match what {
            BytesOf::Request => {
                assert!(bytes <= self.requests, "{bytes} bytes of {} requests", self.requests);
                self.requests -= bytes;
            }
            BytesOf::Result => {
                assert!(bytes <= self.results, "{bytes} bytes of {} results", self.results);
                self.results -= bytes;
            }
            BytesOf::Restored | BytesOf::Other => {}
        }
    }

    /// Counts held bytes as those of a request of an earlier start.
    pub fn become_request(&mut self, bytes: u64) {
        self.requests += bytes;
        assert!(self.requests <= self.held, "{} bytes of requests are held", self.requests);
    }

    /// Counts held bytes as those of a result of an earlier start.
    pub fn become_result(&mut self, bytes: u64) {
        self.results += bytes;
        assert!(self.results <= self.held, "{} bytes of results are held", self.results);
    }

    /// A result is held for its client no longer. It is kept.
    pub fn keep_result(&mut self, bytes: u64) {
        assert!(bytes <= self.results, "{bytes} bytes of {} results are kept", self.results);
        self.results -= bytes;
    }

    /// A request is held for its task no longer. It is kept, as a value.
    pub fn keep_request(&mut self, bytes: u64) {
        assert!(bytes <= self.requests, "{bytes} bytes of {} requests are kept", self.requests);
        self.requests -= bytes;
    }

    /// Takes a result in that has come unasked, within its lane.
    pub fn hold_unasked(&mut self, bytes: u64) {
        self.hold(BytesOf::Result, bytes);
        self.unasked += bytes;
        // Nothing is asked before these are taken in, so this must be sure by itself.
        assert!(self.unasked <= self.peer_credit(), "lanes bring {} bytes", self.unasked);
    }

    /// Releases bytes that came unasked: they are gone, or retained. `is_open` tells whether their
    /// lane is still there.
    pub fn release_unasked(&mut self, bytes: u64, is_open: bool) {
        assert!(bytes <= self.unasked, "{bytes} bytes of {} that came unasked", self.unasked);
        self.unasked -= bytes;
        if !is_open {
            assert!(
                bytes <= self.stray,
                "{bytes} bytes of closed lanes, which have {}",
                self.stray
            );
            self.stray -= bytes;
        }
    }

    /// Opens a lane: what it may bring unasked. All together a quarter of the budget, and the more
    /// lanes there are the less for the next. What was restored beyond the other three quarters
    /// stands in their way.
    pub fn open_lane(&mut self) -> Lane {
        let beyond = (self.held - self.unasked).saturating_sub(self.total - self.peer_credit());
        let first = self.peer_credit().saturating_sub(self.lent + self.stray + beyond) / LANES;
        self.lent += first;
        assert!(self.lent + self.stray <= self.peer_credit(), "lanes may bring {}", self.lent);
        Lane { credit: Credit::new(first), held: 0 }
    }

    /// Closes a lane. What it has brought and is still held counts on.
    pub fn close_lane(&mut self, lane: &Lane) {
        assert!(lane.credit.first <= self.lent, "a lane is closed that was never opened");
        self.lent -= lane.credit.first;
        self.stray += lane.held;
    }

    /// Bytes held, and the most that can be.
    pub fn state(&self) -> (u64, u64) {
        (self.held, self.total)
    }

    /// Bytes of the largest payload.
    pub fn payload_bytes_max(&self) -> u64 {
        self.total - self.peer_credit()
    }

    /// Returns true if a client that reads would make room.
    pub fn has_results(&self) -> bool {
        self.results > 0
    }

    /// Returns the number of bytes that one peer may announce before any of them are freed.
    pub fn peer_credit(&self) -> u64 {
        self.total / 4
    }

    /// Bytes of requests, of results, of those that came unasked, and the credits of lanes, for the
    /// tests.
    #[cfg(any(test, feature = "invariants"))]
    pub fn parts(&self) -> [u64; 5] {
        [self.requests, self.results, self.unasked, self.lent, self.stray]
    }
}

/// The purpose for which bytes are held.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum BytesOf {
    /// A request, or a definition.
    Request,
    /// A result whose client has not acknowledged it.
    Result,
    /// What the journal brings back, and an engine or a client has still to read. It was within the
    /// budget before: three quarters, and results that had come unasked beside them. Which these
    /// were is not known any longer, so all of it may take the whole.
    Restored,
    /// Data that is retained, and data that only passes through.
    Other,
}

/// Into how many parts the rest of the credit for lanes is divided, of which a new lane gets one.
const LANES: u64 = 32;

/// The credit of a process for unasked results of one session: what is held of them uses up this
/// and nothing else.
#[derive(Debug)]
pub struct Lane {
    credit: Credit,
    /// Bytes of its results that are held.
    held: u64,
}

impl Lane {
    /// Returns the number of bytes it may bring at first.
    pub fn first(&self) -> u64 {
        self.credit.first
    }

    /// Counts a result, if it fits.
    pub fn announce(&mut self, bytes: u64) -> bool {
        let fits = self
            .credit
            .announced
            .checked_add(bytes)
            .is_some_and(|bytes| bytes <= self.credit.granted);
        if fits {
            self.credit.announced += bytes;
            self.held += bytes;
            assert!(self.held <= self.credit.first, "a lane holds {} bytes", self.held);
        }
        fits
    }

    /// Counts published data, which are held for nobody.
    ///
    /// # Errors
    /// If the process sends more of them than it may.
    pub fn publish(&mut self, bytes: u64) -> Result<(), PeerMisbehaved> {
        let Credit { first, granted, announced } = self.credit;
        // One value at a time may be larger than the credit: when all else has come back, or none
        // that is larger than the lane could ever be published.
        let may = announced.saturating_add(first) <= granted || bytes <= self.credit.left();
        self.credit.announced = announced.saturating_add(bytes);
        if may { Ok(()) } else { Err(PeerMisbehaved::Credit) }
    }

    /// A result is held no longer. Returns the new total of the credit.
    pub fn release(&mut self, bytes: u64) -> u64 {
        assert!(bytes <= self.held, "{bytes} bytes come back to a lane of {}", self.held);
        self.held -= bytes;
        self.credit.grant(bytes)
    }

    /// Published data have passed. Returns the new total of the credit.
    pub fn pass(&mut self, bytes: u64) -> u64 {
        self.credit.grant(bytes)
    }

    /// Bytes that are held, and what may still come, for the tests.
    #[cfg(any(test, feature = "invariants"))]
    pub fn state(&self) -> (u64, u64) {
        (self.held, self.credit.left())
    }
}

/// The bytes that one peer may announce: totals since its connection began.
#[derive(Clone, Copy, Debug, Default)]
pub struct Credit {
    /// The first grant.
    first: u64,
    granted: u64,
    announced: u64,
}

impl Credit {
    /// The credit that a welcome grants.
    pub fn new(granted: u64) -> Self {
        Self { first: granted, granted, announced: 0 }
    }

    /// Counts an announcement. One payload may overdraw the credit: the budget says whether it
    /// fits.
    pub fn announce(&mut self, bytes: u64) -> Result<(), PeerMisbehaved> {
        let was_overdrawn = self.announced > self.granted;
        self.announced = self.announced.saturating_add(bytes);
        let is_overdrawn = bytes > 0 && self.announced > self.granted;
        let is_breach =
            is_overdrawn && (was_overdrawn || bytes > self.first.saturating_mul(OVERDRAFT_CREDITS));
        if is_breach { Err(PeerMisbehaved::Credit) } else { Ok(()) }
    }

    /// Returns the number of bytes that may still be announced.
    pub fn left(&self) -> u64 {
        self.granted.saturating_sub(self.announced)
    }

    /// Grants more. Returns the new total, which the peer must be told: it may be waiting for just
    /// that.
    pub fn grant(&mut self, bytes: u64) -> u64 {
        self.granted += bytes;
        self.granted
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credit_is_overdrawn_once_and_grows_with_each_grant() {
        let mut credit = Credit::new(100);
        credit.announce(100).unwrap();
        assert_eq!(credit.grant(25), 125);
        credit.announce(26).unwrap();
        assert_eq!(credit.announce(1), Err(PeerMisbehaved::Credit));
        let mut credit = Credit::new(100);
        assert_eq!(credit.announce(301), Err(PeerMisbehaved::Credit));
        let mut credit = Credit::new(100);
        credit.announce(150).unwrap();
        assert_eq!(credit.grant(150), 250);
        credit.announce(100).unwrap();
    }

    #[test]
    fn requests_take_half_and_one_payload_three_quarters() {
        let mut budget = Budget::new(100);
        assert!(!budget.reserve(BytesOf::Request, 76) && budget.reserve(BytesOf::Request, 75));
        assert!(!budget.reserve(BytesOf::Request, 1) && !budget.reserve(BytesOf::Result, 1));
        budget.release(BytesOf::Request, 75);
        assert!(
            (0..2).all(|_| budget.reserve(BytesOf::Request, 25))
                && !budget.reserve(BytesOf::Request, 1)
        );
        assert!(budget.reserve(BytesOf::Result, 25), "requests leave room for results");
        assert_eq!((budget.state(), budget.room(0), budget.room(10)), ((75, 100), 0, 10));
    }

    #[test]
    fn all_lanes_together_bring_a_quarter_at_most() {
        let mut budget = Budget::new(1 << 20);
        let mut lanes: Vec<Lane> = (0..200).map(|_| budget.open_lane()).collect();
        assert_eq!(lanes[0].first(), (1 << 18) / LANES);
        let all: u64 = lanes.iter().map(Lane::first).sum();
        assert!(all <= 1 << 18 && all > 1 << 17, "{all}");
        let first = lanes[0].first();
        assert!(lanes[0].announce(first) && !lanes[0].announce(1));
        budget.hold_unasked(first);
        assert_eq!(budget.room(0), 3 << 18, "they take nothing of what others have");
        budget.close_lane(&lanes[0]);
        assert_eq!(budget.parts(), [0, first, first, all - first, first]);
        budget.release(BytesOf::Result, first);
        budget.release_unasked(first, false);
        assert_eq!(budget.parts(), [0, 0, 0, all - first, 0]);
    }

    #[test]
    fn what_is_held_of_a_lane_uses_it_up_and_published_data_overdraw_it_once() {
        let mut budget = Budget::new(3_200 * 4);
        let mut lane = budget.open_lane();
        assert!(lane.announce(60) && !lane.announce(41));
        assert_eq!(lane.publish(41), Err(PeerMisbehaved::Credit));
        let mut lane = budget.open_lane();
        let first = lane.first();
        lane.publish(first + 50).unwrap();
        assert!(!lane.announce(1) && lane.publish(1).is_err());
        let mut lane = Lane { credit: Credit::new(0), held: 0 };
        lane.publish(50).unwrap();
        assert_eq!((lane.pass(50), lane.publish(1)), (50, Ok(())));
        assert!(
            lane.publish(1).is_err(),
            "one that lets nothing come unasked is overdrawn once, too"
        );
        let mut lane = budget.open_lane();
        let first = lane.first();
        assert!(lane.announce(first));
        assert_eq!((lane.release(first), lane.state()), (2 * first, (0, first)));
    }
}
