//! Events of engines, for the sessions that have subscribed to them.
//!
//! An event is kept once, however many subscribers it is for: each of them has its place in the
//! list. Few messages are sent at once, many in later turns. So ten thousand engines that come or
//! go cost what they are, and not as many messages for each subscriber in one turn.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use furlong_wire::message::{Event, ToClient};

use crate::core::keys::SessionKey;
use crate::core::turns::rest::Rest;
use crate::core::{ConnectionId, Core};

/// Messages that are sent at once.
pub(in crate::core) const TOLD_AT_ONCE: usize = 64;
/// Bytes of events that have not been told to everybody. An engine process that makes more is not
/// read from until some are.
const UNTOLD_BYTES_MAX: usize = 4 * 1024 * 1024;
/// Bytes that count for each event, beside its text.
const EVENT_BYTES: usize = 64;

/// What has happened and was not told to everybody.
#[derive(Debug, Default)]
pub struct Events {
    /// The events, the first of which has the number `first`.
    untold: VecDeque<Event>,
    first: u64,
    bytes: usize,
    /// Subscribers, each with the number of the next event that it is to be told.
    places: BTreeMap<SessionKey, u64>,
    /// The same, the one that is furthest behind first.
    in_order: BTreeSet<(u64, SessionKey)>,
}

impl Events {
    /// From now on a session is told.
    pub fn subscribe(&mut self, key: SessionKey) {
        if !self.places.contains_key(&key) {
            self.places.insert(key, self.end());
            self.in_order.insert((self.end(), key));
        }
    }

    /// From now on a session is not told any longer.
    pub fn unsubscribe(&mut self, key: SessionKey) {
        if let Some(place) = self.places.remove(&key) {
            let was_here = self.in_order.remove(&(place, key));
            assert!(was_here, "{key:?} is told of events, and has no place among them");
            // It may have been the one for which they were kept.
            self.forget_told();
        }
    }

    /// Whether there is nothing to tell.
    pub fn are_told(&self) -> bool {
        self.untold.is_empty()
    }

    /// Whether so much is to be told that no more should come.
    fn is_full(&self) -> bool {
        self.bytes > UNTOLD_BYTES_MAX
    }

    fn end(&self) -> u64 {
        self.first + self.untold.len() as u64
    }

    fn push(&mut self, event: Event) {
        // Nobody has asked: a list that nobody reads would only grow.
        if !self.places.is_empty() {
            self.bytes += bytes_of(&event);
            self.untold.push_back(event);
        }
    }

    /// Some of the events that the subscriber has not been told who is furthest behind.
    fn poll(&mut self, most: usize) -> Option<(SessionKey, Vec<Event>)> {
        if self.are_told() {
            return None;
        }
        let furthest_behind = self.in_order.pop_first();
        let (place, key) = furthest_behind.expect("what was not told waits for somebody");
        assert!(place >= self.first && place < self.end(), "{key:?} is behind all events");
        let events: Vec<Event> =
            self.untold.range((place - self.first) as usize..).take(most.max(1)).cloned().collect();
        let next = place + events.len() as u64;
        self.places.insert(key, next);
        self.in_order.insert((next, key));
        self.forget_told();
        Some((key, events))
    }

    fn forget_told(&mut self) {
        let told = self.in_order.first().map_or(self.end(), |(place, _)| *place);
        while self.first < told
            && let Some(event) = self.untold.pop_front()
        {
            self.first += 1;
            assert!(bytes_of(&event) <= self.bytes, "an event is counted while it is there");
            self.bytes -= bytes_of(&event);
        }
        if self.untold.is_empty() {
            self.untold.shrink_to(TOLD_AT_ONCE);
        }
    }
}

impl Core {
    /// Something has happened to an engine. Subscribers are told at the end of the turn, or later.
    pub(in crate::core) fn tell_subscribers(&mut self, event: Event) {
        self.turns.work.add(1);
        self.peers.events.push(event);
    }

    /// Tells subscribers what they have not been told, in so many messages at most.
    pub(in crate::core) fn tell_events(&mut self, most: usize) {
        let mut room = most;
        while room > 0
            && let Some((key, events)) = self.peers.events.poll(room)
        {
            room = room.saturating_sub(events.len());
            self.turns.work.add(events.len());
            // It asks how things are when it is back.
            let Some(connection) =
                self.sessions.get(key).and_then(|session| session.link.connection)
            else {
                continue;
            };
            for event in events {
                self.to_client(connection, ToClient::Event(event));
            }
        }
    }

    /// An engine process has made something happen. While very much is to be told, nothing more is
    /// taken from it.
    pub(in crate::core) fn wait_until_told(&mut self, connection: ConnectionId) {
        if self.peers.events.is_full() {
            self.turns.rests.insert(connection, Rest::Untold);
        }
    }
}

fn bytes_of(event: &Event) -> usize {
    let text = match event {
        Event::EngineRestarted(_, cause) => cause.len(),
        Event::EngineOnline(_) | Event::EngineOffline(_) => 0,
    };
    EVENT_BYTES + text
}

#[cfg(test)]
mod tests {
    use furlong_wire::ids::EngineId;

    use super::*;

    fn online(ids: std::ops::Range<u32>) -> Vec<Event> {
        ids.map(|id| Event::EngineOnline(EngineId(id))).collect()
    }

    #[test]
    fn each_subscriber_is_told_everything_once_from_its_subscription_on() {
        let mut events = Events::default();
        let (early, late) = (SessionKey(1), SessionKey(2));
        events.push(Event::EngineOnline(EngineId(99)));
        assert!(events.are_told(), "nobody wants to know");
        events.subscribe(early);
        for event in online(0..5) {
            events.push(event);
        }
        events.subscribe(late);
        events.subscribe(early);
        for event in online(5..8) {
            events.push(event);
        }
        let mut told: BTreeMap<SessionKey, Vec<Event>> = BTreeMap::new();
        while let Some((key, some)) = events.poll(2) {
            assert!(some.len() <= 2);
            told.entry(key).or_default().extend(some);
        }
        assert_eq!(told, BTreeMap::from([(early, online(0..8)), (late, online(5..8))]));
        assert!(events.are_told() && events.bytes == 0);
    }

    #[test]
    fn what_nobody_is_to_be_told_any_longer_is_forgotten() {
        let mut events = Events::default();
        let keys = [SessionKey(1), SessionKey(2)];
        for key in keys {
            events.subscribe(key);
        }
        events.push(Event::EngineRestarted(EngineId(1), "c".repeat(UNTOLD_BYTES_MAX)));
        assert!(events.is_full());
        assert_eq!(events.poll(9).map(|(key, some)| (key, some.len())), Some((keys[0], 1)));
        events.unsubscribe(keys[1]);
        assert!(events.are_told() && !events.is_full());
        for event in online(0..3) {
            events.push(event);
        }
        events.unsubscribe(keys[0]);
        assert!(events.are_told() && events.places.is_empty() && events.in_order.is_empty());
    }
}
