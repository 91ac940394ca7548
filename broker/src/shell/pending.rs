//! Limits on the number of unauthenticated peers and on the rate at which they arrive.
//!
//! An unauthenticated peer is a connection that has not proved itself. First it is unknown; with
//! its first message it waits for its admission; if that message was right it is a caller: it holds
//! the broker's public key, which is in capability files alone. Each stage has places of its own,
//! so that a crowd costs only those who have come no further than it has.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;
use std::time::{Duration, Instant};

use furlong_wire::limits::{
    CALLERS_MAX, CALLERS_OF_ORIGIN_MAX, PENDING_MAX, PENDING_PER_ORIGIN_MAX, WAITING_MAX,
    WAITING_PER_ORIGIN_MAX,
};
use tokio::sync::Notify;

use super::entrance::Origin;
use super::rates::Rates;

/// The unauthenticated peers at the door.
#[derive(Debug)]
pub(super) struct PendingPeers {
    unknown: RefCell<Crowd>,
    waiting: RefCell<Crowd>,
    callers: RefCell<Crowd>,
    rates: RefCell<Rates>,
    logged: RefCell<BTreeMap<Origin, Instant>>,
}

/// An unauthenticated peer, counted until it is dropped.
#[derive(Debug)]
pub(super) struct PendingPlace {
    pending: Rc<PendingPeers>,
    origin: Origin,
    stage: Cell<Stage>,
    /// Its place in the crowd of its stage. None while it moves to the next one.
    number: Cell<Option<u64>>,
    evicted: Rc<Notify>,
}

/// How far an unauthenticated peer has come. Each stage has places of its own.
#[derive(Clone, Copy, Debug)]
enum Stage {
    /// It has sent nothing, or not enough.
    Unknown,
    /// Its first message is here and waits for its admission.
    Waiting,
    /// Its first message was right.
    Caller,
}

/// Unauthenticated peers who share places.
#[derive(Debug)]
struct Crowd {
    most: usize,
    most_of_origin: usize,
    /// The oldest first.
    order: VecDeque<Place>,
    of_origin: BTreeMap<Origin, usize>,
    next: u64,
}

/// An unauthenticated peer's place in its crowd.
#[derive(Debug)]
struct Place {
    number: u64,
    origin: Origin,
    evicted: Rc<Notify>,
}

impl Default for PendingPeers {
    fn default() -> Self {
        let crowd = |most, most_of_origin| RefCell::new(Crowd::new(most, most_of_origin));
        Self {
            unknown: crowd(PENDING_MAX, PENDING_PER_ORIGIN_MAX),
            waiting: crowd(WAITING_MAX, WAITING_PER_ORIGIN_MAX),
            callers: crowd(CALLERS_MAX, CALLERS_OF_ORIGIN_MAX),
            rates: RefCell::default(),
            logged: RefCell::default(),
        }
    }
}

impl PendingPeers {
    /// Takes an unauthenticated peer in. Another one goes if there is no place left.
    pub(super) fn admit(self: &Rc<Self>, origin: Origin) -> PendingPlace {
        let evicted = Rc::new(Notify::new());
        let number = self.unknown.borrow_mut().admit(origin, evicted.clone());
        PendingPlace {
            pending: self.clone(),
            origin,
            stage: Cell::new(Stage::Unknown),
            number: Cell::new(Some(number)),
            evicted,
        }
    }

    /// Returns true if a line about this origin may be logged: one a second.
    pub(super) fn may_log(&self, origin: Origin) -> bool {
        let mut logged = self.logged.borrow_mut();
        let now = Instant::now();
        logged.retain(|_, at| now.duration_since(*at).as_secs() < 1);
        let may = logged.len() < 16 && !logged.contains_key(&origin);
        if may {
            logged.insert(origin, now);
        }
        may
    }

    fn crowd(&self, stage: Stage) -> &RefCell<Crowd> {
        match stage {
            Stage::Unknown => &self.unknown,
            Stage::Waiting => &self.waiting,
            Stage::Caller => &self.callers,
        }
    }
}

impl Crowd {
    fn new(most: usize, most_of_origin: usize) -> Self {
        Self { most, most_of_origin, order: VecDeque::new(), of_origin: BTreeMap::new(), next: 0 }
    }

    fn origin_has_its_share(&self, origin: Origin) -> bool {
        self.of_origin.get(&origin).is_some_and(|here| *here >= self.most_of_origin)
    }

    /// Returns true if nobody has to go for one more of this origin.
    fn has_room(&self, origin: Origin) -> bool {
        self.order.len() < self.most && !self.origin_has_its_share(origin)
    }

    /// Takes one in. When its origin has its share, the oldest of that goes, and when all places
    /// are taken, the oldest of all. So whoever comes has a moment to prove itself, whatever others
    /// do.
    fn admit(&mut self, origin: Origin, evicted: Rc<Notify>) -> u64 {
        if self.origin_has_its_share(origin) {
            self.evict(|place| place.origin == origin);
        } else if self.order.len() >= self.most {
            self.evict(|_| true);
        }
        *self.of_origin.entry(origin).or_default() += 1;
        let number = self.next;
        self.next += 1;
        self.order.push_back(Place { number, origin, evicted });
        number
    }

    /// The oldest one of such places goes, if there is one.
    fn evict(&mut self, is_such: impl Fn(&Place) -> bool) {
        if let Some(place) = self.order.iter().position(is_such).and_then(|at| self.take(at)) {
            place.evicted.notify_one();
        }
    }

    fn leave(&mut self, number: u64) {
        let place = self.order.binary_search_by_key(&number, |place| place.number);
        // An evicted one has left already.
        place.ok().and_then(|at| self.take(at));
    }

    fn take(&mut self, at: usize) -> Option<Place> {
        let place = self.order.remove(at)?;
        let count = self.of_origin.get_mut(&place.origin).expect("the origin of a place counts it");
        *count -= 1;
        if *count == 0 {
            self.of_origin.remove(&place.origin);
        }
        Some(place)
    }
}

impl PendingPlace {
    /// Returns the notification that this peer must go, because a newer one needs its place.
    pub(super) fn evicted(&self) -> Rc<Notify> {
        self.evicted.clone()
    }

    /// Waits for the admission to work on its first message. False if too many wait. Whoever leaves
    /// meanwhile, and drops this, takes none.
    pub(super) async fn admission(&self) -> bool {
        let Some(wait) = self.pending.rates.borrow_mut().of_origin(self.origin) else {
            return false;
        };
        let mut reserved = ReservedAdmission { pending: &self.pending, origin: Some(self.origin) };
        if !self.waits(wait).await {
            return false;
        }
        reserved.origin = None;
        // Only now, so that who comes in crowds from one place takes no more of what all share than
        // it can use.
        let Some(wait) = self.pending.rates.borrow_mut().of_all() else { return false };
        self.waits(wait).await
    }

    /// Waits in a place for that, if there is one. False if there is none: nobody who waits is
    /// pushed out by newer ones, as a crowd that comes back at once would push each other out for
    /// ever.
    async fn waits(&self, wait: Duration) -> bool {
        if wait.is_zero() {
            return true;
        }
        if !matches!(self.stage.get(), Stage::Waiting) {
            if !self.pending.waiting.borrow().has_room(self.origin) {
                return false;
            }
            self.advance(Stage::Waiting);
        }
        tokio::time::sleep(wait).await;
        true
    }

    /// Its first message was right.
    pub(super) fn handle_right_message(&self) {
        self.advance(Stage::Caller);
    }

    fn advance(&self, stage: Stage) {
        self.leave();
        self.stage.set(stage);
        let mut crowd = self.pending.crowd(stage).borrow_mut();
        self.number.set(Some(crowd.admit(self.origin, self.evicted.clone())));
    }

    fn leave(&self) {
        if let Some(number) = self.number.take() {
            self.pending.crowd(self.stage.get()).borrow_mut().leave(number);
        }
    }
}

/// An admission that somebody waits for; given back if it is dropped before that.
struct ReservedAdmission<'a> {
    pending: &'a PendingPeers,
    origin: Option<Origin>,
}

impl Drop for ReservedAdmission<'_> {
    fn drop(&mut self) {
        if let Some(origin) = self.origin {
            self.pending.rates.borrow_mut().give_back(origin);
        }
    }
}

impl Drop for PendingPlace {
    fn drop(&mut self) {
        self.leave();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn origin(host: u16) -> Origin {
        Origin::Network([10, 0, (host >> 8) as u8, host as u8].into())
    }

    #[test]
    fn an_origin_that_has_its_share_loses_its_oldest() {
        let pending = Rc::new(PendingPeers::default());
        let _other = pending.admit(origin(2));
        let places: Vec<_> =
            (0..PENDING_PER_ORIGIN_MAX + 2).map(|_| pending.admit(origin(1))).collect();
        assert_eq!(pending.unknown.borrow().of_origin[&origin(1)], PENDING_PER_ORIGIN_MAX);
        let oldest: Vec<u64> =
            pending.unknown.borrow().order.iter().map(|place| place.number).take(2).collect();
        assert_eq!(oldest, [0, 3], "the other origin keeps its place");
        drop(places);
        assert_eq!(pending.unknown.borrow().order.len(), 1);
    }

    #[test]
    fn when_all_places_are_taken_the_oldest_goes() {
        let pending = Rc::new(PendingPeers::default());
        let places: Vec<_> =
            (0..PENDING_MAX as u16 + 3).map(|host| pending.admit(origin(host))).collect();
        assert_eq!(pending.unknown.borrow().order.front().unwrap().number, 3);
        drop(places);
        assert!(
            pending.unknown.borrow().order.is_empty()
                && pending.unknown.borrow().of_origin.is_empty()
        );
    }

    #[tokio::test]
    async fn who_has_sent_a_right_first_message_loses_its_place_to_such_ones_alone() {
        let pending = Rc::new(PendingPeers::default());
        let caller = pending.admit(origin(1));
        caller.handle_right_message();
        let crowd = |host: u16| pending.admit(origin(1 + host % 300));
        let crowd: Vec<_> = (0..2 * PENDING_MAX as u16).map(crowd).collect();
        assert_eq!(pending.callers.borrow().order.len(), 1);
        let callers: Vec<_> =
            (0..CALLERS_OF_ORIGIN_MAX).map(|_| pending.admit(origin(1))).collect();
        callers.iter().for_each(PendingPlace::handle_right_message);
        caller.evicted().notified().await;
        drop((caller, callers, crowd));
        assert!(
            pending.callers.borrow().order.is_empty() && pending.unknown.borrow().order.is_empty()
        );
        assert!(
            pending.callers.borrow().of_origin.is_empty()
                && pending.unknown.borrow().of_origin.is_empty()
        );
    }

    #[tokio::test]
    async fn who_leaves_while_it_waits_takes_no_admission() {
        let pending = Rc::new(PendingPeers::default());
        let waits = |pending: &Rc<PendingPeers>| {
            pending.rates.borrow_mut().of_origin(origin(1)).is_some_and(|wait| !wait.is_zero())
        };
        while !waits(&pending) {}
        let mut left = 0;
        while left < 10 * WAITING_PER_ORIGIN_MAX {
            let peer = pending.admit(origin(1));
            let admission = peer.admission();
            tokio::select! {
                biased;
                taken = admission => assert!(taken, "{left} have left, with no admission"),
                () = std::future::ready(()) => left += 1,
            }
        }
    }

    #[tokio::test]
    async fn who_waits_for_its_admission_loses_its_place_to_nobody() {
        let pending = Rc::new(PendingPeers::default());
        let silent = pending.admit(origin(1));
        let waiting: Vec<_> =
            (0..WAITING_PER_ORIGIN_MAX).map(|_| pending.admit(origin(1))).collect();
        waiting.iter().for_each(|peer| peer.advance(Stage::Waiting));
        let late = pending.admit(origin(1));
        while pending.rates.borrow_mut().of_origin(origin(1)).is_some_and(|wait| wait.is_zero()) {}
        assert!(
            !late.admission().await,
            "all of its origin's places are taken by those who were first"
        );
        let crowd: Vec<_> =
            (0..PENDING_MAX as u16).map(|host| pending.admit(origin(2 + host))).collect();
        silent.evicted().notified().await;
        assert_eq!(pending.waiting.borrow().order.len(), WAITING_PER_ORIGIN_MAX);
        drop((silent, waiting, late, crowd));
        assert!(pending.waiting.borrow().order.is_empty());
        assert!(pending.waiting.borrow().of_origin.is_empty());
    }
}
