//! How many strangers there may be, and how fast they may come.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;
use std::time::Instant;

use furlong_wire::limits::{
    HANDSHAKES_IN_FLIGHT_MAX, HANDSHAKES_PER_SECOND_MAX, STRANGERS_MAX, STRANGERS_PER_ADDRESS_MAX,
};
use tokio::sync::Notify;

use super::entrance::Origin;

/// The strangers at the door: connections that have not proved themselves.
#[derive(Debug, Default)]
pub(super) struct Strangers {
    here: RefCell<Here>,
    handshakes: Cell<usize>,
    tokens: Cell<f64>,
    refilled: Cell<Option<Instant>>,
    logged: RefCell<BTreeMap<Origin, Instant>>,
}

#[derive(Debug, Default)]
struct Here {
    /// The oldest first.
    order: VecDeque<(u64, Origin, Rc<Notify>)>,
    by_address: BTreeMap<Origin, usize>,
    next: u64,
}

/// A place among the strangers; given up when it is dropped.
#[derive(Debug)]
pub(super) struct Stranding {
    strangers: Rc<Strangers>,
    number: u64,
    address: Origin,
    evicted: Rc<Notify>,
}

/// A handshake that is being worked on.
#[derive(Debug)]
pub(super) struct Handshake<'a>(&'a Strangers);

impl Strangers {
    /// Takes a stranger in. When all places are taken the oldest one goes; when its address has its share, the oldest
    /// of that address. So whoever comes has a moment to prove itself, whatever others do.
    pub(super) fn admit(self: &Rc<Self>, address: Origin) -> Stranding {
        let mut here = self.here.borrow_mut();
        if here.by_address.get(&address).is_some_and(|of_address| *of_address >= STRANGERS_PER_ADDRESS_MAX) {
            here.evict(|of| of == address);
        } else if here.order.len() >= STRANGERS_MAX {
            here.evict(|_| true);
        }
        *here.by_address.entry(address).or_default() += 1;
        let evicted = Rc::new(Notify::new());
        let number = here.next;
        here.next += 1;
        here.order.push_back((number, address, evicted.clone()));
        Stranding { strangers: self.clone(), number, address, evicted }
    }

    /// Begins the work on a handshake, if the rate allows it.
    pub(super) fn begin_handshake(&self) -> Option<Handshake<'_>> {
        let rate = f64::from(HANDSHAKES_PER_SECOND_MAX);
        let now = Instant::now();
        let since = self.refilled.replace(Some(now)).map_or(1.0, |refilled| now.duration_since(refilled).as_secs_f64());
        let tokens = (self.tokens.get() + since * rate).min(rate);
        let allowed = tokens >= 1.0 && self.handshakes.get() < HANDSHAKES_IN_FLIGHT_MAX;
        self.tokens.set(if allowed { tokens - 1.0 } else { tokens });
        allowed.then(|| {
            self.handshakes.set(self.handshakes.get() + 1);
            Handshake(self)
        })
    }

    /// Whether a line about this address may be logged: one a second.
    pub(super) fn may_log(&self, address: Origin) -> bool {
        let mut logged = self.logged.borrow_mut();
        let now = Instant::now();
        logged.retain(|_, at| now.duration_since(*at).as_secs() < 1);
        let may = logged.len() < 16 && !logged.contains_key(&address);
        if may {
            logged.insert(address, now);
        }
        may
    }
}

impl Here {
    /// The oldest stranger of these addresses goes.
    fn evict(&mut self, of: impl Fn(Origin) -> bool) {
        let place = self.order.iter().position(|(_, address, _)| of(*address));
        if let Some((_, address, evicted)) = place.and_then(|place| self.order.remove(place)) {
            self.leave(address);
            evicted.notify_one();
        }
    }

    fn leave(&mut self, address: Origin) {
        if let Some(count) = self.by_address.get_mut(&address) {
            *count -= 1;
            if *count == 0 {
                self.by_address.remove(&address);
            }
        }
    }
}

impl Stranding {
    /// What is notified when the stranger must go, because a newer one needs its place.
    pub(super) fn evicted(&self) -> Rc<Notify> {
        self.evicted.clone()
    }
}

impl Drop for Stranding {
    fn drop(&mut self) {
        let mut here = self.strangers.here.borrow_mut();
        if let Some(place) = here.order.iter().position(|(number, ..)| *number == self.number) {
            here.order.remove(place);
            here.leave(self.address);
        }
    }
}

impl Drop for Handshake<'_> {
    fn drop(&mut self) {
        self.0.handshakes.set(self.0.handshakes.get() - 1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(host: u16) -> Origin {
        Origin::Network([10, 0, (host >> 8) as u8, host as u8].into())
    }

    #[test]
    fn an_address_that_has_its_share_loses_its_oldest() {
        let strangers = Rc::new(Strangers::default());
        let _other = strangers.admit(address(2));
        let places: Vec<_> = (0..STRANGERS_PER_ADDRESS_MAX + 2).map(|_| strangers.admit(address(1))).collect();
        assert_eq!(strangers.here.borrow().by_address[&address(1)], STRANGERS_PER_ADDRESS_MAX);
        let oldest: Vec<u64> = strangers.here.borrow().order.iter().map(|(number, ..)| *number).take(2).collect();
        assert_eq!(oldest, [0, 3], "the other address keeps its place");
        drop(places);
        assert_eq!(strangers.here.borrow().order.len(), 1);
    }

    #[test]
    fn when_all_places_are_taken_the_oldest_goes() {
        let strangers = Rc::new(Strangers::default());
        let places: Vec<_> = (0..STRANGERS_MAX as u16 + 3).map(|host| strangers.admit(address(host))).collect();
        assert_eq!(strangers.here.borrow().order.front().unwrap().0, 3);
        drop(places);
        assert!(strangers.here.borrow().order.is_empty() && strangers.here.borrow().by_address.is_empty());
    }

    #[test]
    fn handshakes_in_flight_are_bounded() {
        let strangers = Strangers::default();
        let working: Vec<_> = (0..HANDSHAKES_IN_FLIGHT_MAX).map(|_| strangers.begin_handshake().unwrap()).collect();
        assert!(strangers.begin_handshake().is_none());
        drop(working);
        assert!(strangers.begin_handshake().is_some());
    }
}
