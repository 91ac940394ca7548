//! Tasks that submit tasks: the clients that running jobs open, and the slots that are lent while
//! they wait.
//!
//! The broker decides what runs where. A slot that is lent has its interpreter in use, so another
//! one stands in for it: a place of its own beside the registered slots, with a line of its own.

use std::collections::BTreeMap;

use furlong_wire::ids::{Attempt, PassKey, SessionId};
use furlong_wire::limits::NESTING_MAX;
use furlong_wire::message::{Attempts, FromEngine, Grant, Granted, Lent};

use super::{BrokerMisbehaved, Core, Output, Slot};
use crate::job::{Ask, SlotIndex, SlotJob};

/// Stand-ins of one slot: one for each depth, and as many that have not ended when what they stood
/// in for goes on.
const STAND_INS_MAX: usize = 2 * NESTING_MAX as usize;

/// The clients that running jobs have opened, and the jobs that wait.
#[derive(Debug, Default)]
pub(super) struct Lending {
    /// For which slot each place beyond the registered ones stands in.
    hosts: Vec<SlotIndex>,
    /// Jobs that wait, and for which sessions.
    lent: BTreeMap<SlotJob, Vec<SessionId>>,
    /// The keys of jobs' clients.
    keys: Vec<(SlotJob, PassKey)>,
}

impl Core {
    /// Slots that are registered.
    pub(super) fn registered_slots(&self) -> usize {
        let (places, stand_ins) = (self.slots.len(), self.lending.hosts.len());
        assert!(stand_ins <= places, "who stands in, stands in for a slot");
        places - stand_ins
    }

    /// A place as the broker names it: a registered slot, or any stand-in of one.
    pub(super) fn named(&self, place: SlotIndex) -> SlotIndex {
        let registered = self.registered_slots();
        // All stand-ins of a slot have one name: which of them runs something is decided here.
        let stand_in =
            (place as usize).checked_sub(registered).and_then(|at| self.lending.hosts.get(at));
        stand_in.map_or(place, |host| host + registered as SlotIndex)
    }

    /// Returns true if a place has nothing to run.
    pub fn has_nothing(&self, place: SlotIndex) -> bool {
        self.slots
            .get(place as usize)
            .is_none_or(|slot| slot.running.is_empty() && slot.waiting.is_empty())
    }

    /// Returns true if a place is a registered slot.
    pub(super) fn is_registered(&self, place: SlotIndex) -> bool {
        (place as usize) < self.registered_slots()
    }

    /// The place that the broker means: of a slot's stand-ins one that has nothing, or a new one.
    pub(super) fn place_of(&mut self, named: SlotIndex) -> Result<SlotIndex, BrokerMisbehaved> {
        let registered = self.registered_slots();
        let Some(host) = (named as usize).checked_sub(registered) else { return Ok(named) };
        if host >= registered {
            return Err(BrokerMisbehaved::Assign);
        }
        let of_host = || {
            let hosts = self.lending.hosts.iter().enumerate();
            hosts.filter(|(_, of)| **of as usize == host).map(|(at, _)| registered + at)
        };
        let is_empty = |place: &usize| {
            self.slots[*place].running.is_empty() && self.slots[*place].waiting.is_empty()
        };
        // One that is idle, with the interpreter that it has: starting another takes a while.
        if let Some(place) = of_host().find(is_empty) {
            return Ok(place as SlotIndex);
        }
        // Each is an interpreter: a broker that loses count of them must not fill this machine.
        if of_host().count() >= STAND_INS_MAX {
            return Err(BrokerMisbehaved::Assign);
        }
        let place = self.slots.len() as SlotIndex;
        self.slots.push(Slot::default());
        self.lending.hosts.push(host as SlotIndex);
        assert!(!self.is_registered(place), "the broker never hears of this place by itself");
        self.outputs.push_back(Output::StandIn(place, host as SlotIndex));
        Ok(place)
    }

    /// A running job asks for something.
    pub(super) fn asked(&mut self, job: SlotJob, ask: Ask) {
        // It has ended since: its code may go on for a moment.
        let Some(attempt) = self.work.get(&job).map(|work| work.attempt) else { return };
        match ask {
            Ask::Pass(key) if !self.connected => {
                let why = "the engine is not connected to its broker at this moment; try again"
                    .to_owned();
                self.answer(job, key, Some(why));
            }
            Ask::Pass(key) => {
                // Remembered until the job ends: each broker that the engine comes to is told
                // again.
                if !self.lending.keys.contains(&(job, key)) {
                    self.lending.keys.push((job, key));
                }
                self.send(FromEngine::Grant(Grant { attempt, key }));
            }
            Ask::Waits(sessions) => {
                self.lending.lent.insert(job, sessions.clone());
                if self.connected {
                    self.send(FromEngine::Lent(Lent { attempt, sessions }));
                }
            }
            Ask::GoesOn => {
                if self.lending.lent.remove(&job).is_some() && self.connected {
                    self.send(FromEngine::Back(Attempts { attempts: vec![attempt] }));
                }
            }
        }
    }

    /// The broker lets a job's client in, or says why not.
    pub(super) fn granted(&mut self, granted: Granted) {
        let Granted { attempt, key, refusal } = granted;
        // It has ended while the broker was asked.
        let Some(job) = self.by_attempt.get(&attempt).copied() else { return };
        if refusal.is_some() {
            self.lending.keys.retain(|known| *known != (job, key));
        }
        self.answer(job, key, refusal);
    }

    fn answer(&mut self, job: SlotJob, key: PassKey, refusal: Option<String>) {
        if let Some(work) = self.work.get(&job) {
            self.outputs.push_back(Output::Pass(work.slot, job, key, refusal));
        }
    }

    /// Tells a broker that has just heard of these jobs what they have opened, and that they wait.
    pub(super) fn say_what_is_lent(&mut self, is_meant: impl Fn(Attempt) -> bool) {
        let attempt = |job: &SlotJob| {
            self.work.get(job).map(|work| work.attempt).filter(|attempt| is_meant(*attempt))
        };
        let keys = self.lending.keys.iter().filter_map(|(job, key)| Some((attempt(job)?, *key)));
        let grants = keys.map(|(attempt, key)| FromEngine::Grant(Grant { attempt, key }));
        let lent = self
            .lending
            .lent
            .iter()
            .filter_map(|(job, sessions)| Some((attempt(job)?, sessions.clone())));
        let lent = lent.map(|(attempt, sessions)| FromEngine::Lent(Lent { attempt, sessions }));
        let said: Vec<FromEngine> = grants.chain(lent).collect();
        for message in said {
            self.send(message);
        }
    }

    /// A job is no longer here.
    pub(super) fn forget_lent(&mut self, job: SlotJob) {
        self.lending.lent.remove(&job);
        self.lending.keys.retain(|(of, _)| *of != job);
    }
}
