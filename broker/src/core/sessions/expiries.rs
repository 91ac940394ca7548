//! When sessions and engines that are away are given up.

use std::collections::{BTreeMap, BTreeSet};

use furlong_wire::ids::EngineId;

use crate::core::engines::table::Engines;
use crate::core::keys::SessionKey;
use crate::core::{Core, Time};

/// The word to a session's or engine's absence that has lasted too long.
const AWAY: &str = "its connection was cut, and it did not come back within 15 s";

/// Somebody who may come back, or something that may come.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Away {
    /// A session without a connection.
    Session(SessionKey),
    /// An engine whose process is not connected.
    Engine(EngineId),
    /// The answer to a look at an interpreter, by its number.
    Answer(u64),
}

/// All that are away and waited for, each with the moment when it is given up.
#[derive(Debug, Default)]
pub struct Expiries {
    until: BTreeMap<Away, Time>,
    in_order: BTreeSet<(Time, Away)>,
}

impl Expiries {
    /// The engines of an earlier start, which are waited for as if their connections had been cut
    /// when this one began.
    pub fn new(engines: &Engines, until: Time) -> Self {
        let mut expiries = Self::default();
        engines.iter().for_each(|(id, _)| expiries.set(Away::Engine(id), until));
        expiries
    }

    /// Somebody is waited for until then.
    pub fn set(&mut self, away: Away, until: Time) {
        self.cancel(away);
        self.until.insert(away, until);
        self.in_order.insert((until, away));
    }

    /// Somebody is back, or is not waited for any longer.
    pub fn cancel(&mut self, away: Away) {
        if let Some(until) = self.until.remove(&away) {
            let was_here = self.in_order.remove(&(until, away));
            assert!(was_here, "{away:?} is waited for, and not in the order of that");
        }
    }

    /// When the next one is given up.
    pub fn first(&self) -> Option<Time> {
        self.in_order.first().map(|(until, _)| *until)
    }

    /// Takes out the next one that is given up, if its time has come.
    fn poll(&mut self, now: Time) -> Option<Away> {
        let (_, away) = self.in_order.first().copied().filter(|(until, _)| *until <= now)?;
        self.cancel(away);
        Some(away)
    }

    /// Whether somebody is waited for, for the tests.
    #[cfg(any(test, feature = "invariants"))]
    pub fn contains(&self, away: Away) -> bool {
        self.until.contains_key(&away)
    }
}

impl Core {
    /// Gives up sessions and engines that stayed away too long. Of very many some go now, and the
    /// others in later turns.
    pub(in crate::core) fn expire(&mut self, now: Time) {
        while !self.is_turn_over()
            && let Some(away) = self.peers.expiries.poll(now)
        {
            self.turns.work.add(1);
            match away {
                // The client has not come back: what it has not fetched is kept for other processes
                // of its owner.
                Away::Session(key) => self.end_session_keeping_all(now, key),
                Away::Engine(id) => self.lose_engine(now, id, AWAY, false),
                Away::Answer(number) => self.refuse_inspection(number),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_away_longest_is_given_up_first_and_who_is_back_is_not() {
        let mut expiries = Expiries::default();
        let (session, one, other) =
            (Away::Session(SessionKey(1)), Away::Engine(EngineId(1)), Away::Engine(EngineId(2)));
        expiries.set(one, Time(9));
        expiries.set(session, Time(5));
        expiries.set(other, Time(7));
        expiries.set(one, Time(6));
        expiries.cancel(other);
        assert_eq!((expiries.first(), expiries.poll(Time(4))), (Some(Time(5)), None));
        assert_eq!([(); 3].map(|()| expiries.poll(Time(9))), [Some(session), Some(one), None]);
        assert!(expiries.first().is_none() && !expiries.contains(one));
    }
}
