//! Limits on the number of unauthenticated peers and on the rate at which they arrive.
//!
//! An unauthenticated peer is a connection that has not proved itself. One that has sent a right
//! first message is a caller: it holds the broker's public key, which is in capability files alone.
//! Callers have places of their own, so that a crowd that says nothing costs them none. An
//! unauthenticated peer that waits for its turn keeps its place against newer ones of its origin:
//! else a thousand engines that come back at once would push each other out of the line for ever.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;
use std::time::Instant;

use furlong_wire::limits::{
    CALLERS_MAX, CALLERS_OF_ORIGIN_MAX, PENDING_MAX, PENDING_PER_ORIGIN_MAX,
};
use tokio::sync::Notify;

use super::entrance::Origin;
use super::rates::Rates;

/// The unauthenticated peers at the door.
#[derive(Debug)]
pub(super) struct PendingPeers {
    unknown: RefCell<Crowd>,
    callers: RefCell<Crowd>,
    rates: RefCell<Rates>,
    logged: RefCell<BTreeMap<Origin, Instant>>,
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
    /// Whether it has sent its first message and waits for its turn.
    waits: bool,
}

/// A place among the unauthenticated peers; given up when it is dropped.
#[derive(Debug)]
pub(super) struct Stranding {
    pending: Rc<PendingPeers>,
    number: Cell<u64>,
    is_caller: Cell<bool>,
    origin: Origin,
    evicted: Rc<Notify>,
}

impl Default for PendingPeers {
    fn default() -> Self {
        Self {
            unknown: RefCell::new(Crowd::new(PENDING_MAX, PENDING_PER_ORIGIN_MAX)),
            callers: RefCell::new(Crowd::new(CALLERS_MAX, CALLERS_OF_ORIGIN_MAX)),
            rates: RefCell::default(),
            logged: RefCell::default(),
        }
    }
}

impl PendingPeers {
    /// Takes an unauthenticated peer in. None if as many of its origin as there may be wait for
    /// their turn.
    pub(super) fn admit(self: &Rc<Self>, origin: Origin) -> Option<Stranding> {
        let evicted = Rc::new(Notify::new());
        let number = self.unknown.borrow_mut().admit(origin, evicted.clone())?;
        let (number, is_caller) = (Cell::new(number), Cell::new(false));
        Some(Stranding { pending: self.clone(), number, is_caller, origin, evicted })
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
}

async fn pause(wait: std::time::Duration) {
    if !wait.is_zero() {
        tokio::time::sleep(wait).await;
    }
}

impl Crowd {
    fn new(most: usize, most_of_origin: usize) -> Self {
        Self { most, most_of_origin, order: VecDeque::new(), of_origin: BTreeMap::new(), next: 0 }
    }

    /// Takes one in. When all places are taken the oldest one goes; when its origin has its share,
    /// the oldest of that which does not wait for its turn, and if all of them do, the new one. So
    /// whoever comes has a moment to prove itself, whatever others do.
    fn admit(&mut self, origin: Origin, evicted: Rc<Notify>) -> Option<u64> {
        if self.of_origin.get(&origin).is_some_and(|here| *here >= self.most_of_origin) {
            self.evict(|place| place.origin == origin && !place.waits)?;
        } else if self.order.len() >= self.most {
            self.evict(|_| true);
        }
        *self.of_origin.entry(origin).or_default() += 1;
        let number = self.next;
        self.next += 1;
        self.order.push_back(Place { number, origin, evicted, waits: false });
        Some(number)
    }

    /// The oldest one of such places goes, if there is one.
    fn evict(&mut self, is_such: impl Fn(&Place) -> bool) -> Option<()> {
        let at = self.order.iter().position(is_such)?;
        let Place { origin, evicted, .. } = self.order.remove(at)?;
        self.count_one_less(origin);
        evicted.notify_one();
        Some(())
    }

    fn find(&self, number: u64) -> Option<usize> {
        self.order.binary_search_by_key(&number, |place| place.number).ok()
    }

    fn leave(&mut self, number: u64) {
        if let Some(place) = self.find(number).and_then(|at| self.order.remove(at)) {
            self.count_one_less(place.origin);
        }
    }

    fn count_one_less(&mut self, origin: Origin) {
        if let Some(count) = self.of_origin.get_mut(&origin) {
            *count -= 1;
            if *count == 0 {
                self.of_origin.remove(&origin);
            }
        }
    }
}

impl Stranding {
    /// Returns the notification that the unauthenticated peer must go, because a newer one needs
    /// its place.
    pub(super) fn evicted(&self) -> Rc<Notify> {
        self.evicted.clone()
    }

    /// Waits for a turn to work on its first message. False if too many wait.
    pub(super) async fn turn(&self) -> bool {
        let Some(wait) = self.pending.rates.borrow_mut().of_origin(self.origin) else {
            return false;
        };
        {
            let mut unknown = self.pending.unknown.borrow_mut();
            let at = unknown.find(self.number.get());
            if let Some(at) = at {
                unknown.order[at].waits = true;
            }
        }
        pause(wait).await;
        // Only now, so that who comes in crowds from one place takes no more of what all share than
        // it can use.
        let Some(wait) = self.pending.rates.borrow_mut().of_all() else { return false };
        pause(wait).await;
        true
    }

    /// Its first message was right.
    pub(super) fn is_caller(&self) {
        if !self.is_caller.replace(true) {
            self.pending.unknown.borrow_mut().leave(self.number.get());
            let number = self.pending.callers.borrow_mut().admit(self.origin, self.evicted.clone());
            self.number
                .set(number.expect("a caller has had its turn, so there is one that can go"));
        }
    }
}

impl Drop for Stranding {
    fn drop(&mut self) {
        let crowd =
            if self.is_caller.get() { &self.pending.callers } else { &self.pending.unknown };
        crowd.borrow_mut().leave(self.number.get());
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
        let _other = pending.admit(origin(2)).unwrap();
        let places: Vec<_> =
            (0..PENDING_PER_ORIGIN_MAX + 2).map(|_| pending.admit(origin(1)).unwrap()).collect();
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
            (0..PENDING_MAX as u16 + 3).map(|host| pending.admit(origin(host)).unwrap()).collect();
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
        let caller = pending.admit(origin(1)).unwrap();
        caller.is_caller();
        let crowd = |host: u16| pending.admit(origin(1 + host % 300)).unwrap();
        let crowd: Vec<_> = (0..2 * PENDING_MAX as u16).map(crowd).collect();
        assert_eq!(pending.callers.borrow().order.len(), 1);
        let callers: Vec<_> =
            (0..CALLERS_OF_ORIGIN_MAX).map(|_| pending.admit(origin(1)).unwrap()).collect();
        callers.iter().for_each(Stranding::is_caller);
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
    async fn who_waits_for_its_turn_keeps_its_place_against_its_own_origin() {
        let pending = Rc::new(PendingPeers::default());
        let waiting: Vec<_> =
            (0..PENDING_PER_ORIGIN_MAX).map(|_| pending.admit(origin(1)).unwrap()).collect();
        for stranding in &waiting[1..] {
            assert!(stranding.turn().await);
        }
        let late = pending.admit(origin(1)).expect("the silent one makes room");
        waiting[0].evicted().notified().await;
        assert!(late.turn().await);
        assert!(pending.admit(origin(1)).is_none(), "all of its origin wait, and they were first");
        assert!(pending.admit(origin(2)).is_some());
        let crowd: Vec<_> =
            (0..PENDING_MAX as u16).map(|host| pending.admit(origin(3 + host)).unwrap()).collect();
        waiting[1].evicted().notified().await;
        drop((waiting, late, crowd));
        assert!(
            pending.unknown.borrow().order.is_empty()
                && pending.unknown.borrow().of_origin.is_empty()
        );
    }
}
