//! Figures of engines' machines: asked for while somebody looks at them, and as often as is of use,
//! however many look and however often.
//!
//! Nothing runs for it: the looks themselves ask. So a farm at which nobody looks pays nothing. The
//! answer to one look is seen by the next.

use std::ops::Bound;

use furlong_wire::ids::EngineId;
use furlong_wire::message::{
    ANSWERS_MEASURE, EngineLoad, MachineLoad, Measure, Measured, SlotLoad, ToEngine,
};

use super::process::Process;
use crate::core::keys::ProcessKey;
use crate::core::{Core, PeerMisbehaved, Time};

/// Figures are asked for anew when they are so old.
const OLD_US: u64 = 5_000_000;
/// Looks ask once in this time, whoever they are of.
const ASKED_EVERY_US: u64 = 500_000;
/// Processes that one look asks.
const ASKED_MAX: usize = 512;
/// The time without a look after which figures from before are not of the present. A reader of
/// metrics looks once a minute.
const WATCHED_FOR_US: u64 = 90_000_000;
/// The time without an answer after which a process is said to be silent.
const SILENT_US: u64 = 7_000_000;

/// The figures of one process, and whether it is asked for them.
#[derive(Debug)]
pub struct Measuring {
    /// True if it answers.
    can: bool,
    /// The question that it has not answered: its number, and when it was asked.
    asked: Option<(u64, Time)>,
    last: Option<Box<Figures>>,
}

/// The answer of a process.
#[derive(Debug)]
struct Figures {
    at: Time,
    answer_us: u64,
    machine: MachineLoad,
    slots: Vec<SlotLoad>,
}

impl Measuring {
    /// Of a process that has said what it can be asked.
    pub fn of(abilities: u64) -> Self {
        Self { can: abilities & ANSWERS_MEASURE != 0, asked: None, last: None }
    }

    /// The figures of a slot, if they are no older than that.
    fn load(&self, slot: u32, since: Time) -> Option<EngineLoad> {
        let last = self.last.as_ref().filter(|last| last.at >= since)?;
        let slot = last.slots.get(slot as usize).copied()?;
        let Figures { at, answer_us, machine, .. } = **last;
        Some(EngineLoad { heard_us: at.0, answer_us, slot, machine })
    }

    /// The time for which it has not answered, if it is asked.
    fn silent_us(&self, now: Time) -> Option<u64> {
        let (_, asked) = self.asked?;
        let heard = self.last.as_ref().map(|last| last.at);
        // An answer of long before the question says nothing of the time between.
        let heard = heard.filter(|heard| asked.micros_since(*heard) <= 2 * OLD_US);
        Some(now.micros_since(heard.unwrap_or(asked)))
    }

    fn is_to_be_asked(&self, now: Time) -> bool {
        let is_old = |last: &Figures| now.micros_since(last.at) >= OLD_US;
        self.can && self.asked.is_none() && self.last.as_deref().is_none_or(is_old)
    }
}

/// The questions for figures, over all processes.
#[derive(Debug, Default)]
pub(in crate::core) struct Questions {
    /// When a look has asked last.
    asked: Option<Time>,
    /// Since when somebody looks without a long pause.
    since: Time,
    /// The process that was asked last.
    after: Option<ProcessKey>,
    made: u64,
}

impl Core {
    /// A viewer wants figures: those that are missing or old are asked for.
    pub(in crate::core) fn ask_for_loads(&mut self, now: Time) {
        let questions = &mut self.tally.watch.questions;
        let last = questions.asked;
        if last.is_some_and(|last| now.micros_since(last) < ASKED_EVERY_US) {
            return;
        }
        if last.is_none_or(|last| now.micros_since(last) >= WATCHED_FOR_US) {
            questions.since = now;
        }
        questions.asked = Some(now);
        let after = questions.after.map_or(Bound::Unbounded, Bound::Excluded);
        let until = questions.after.map(|key| (Bound::Unbounded, Bound::Included(key)));
        let behind = self.processes.range((after, Bound::Unbounded));
        let before = until.into_iter().flat_map(|range| self.processes.range(range));
        let mut asked = Vec::new();
        for (key, process) in behind.chain(before) {
            self.turns.work.add(1);
            if process.register.is_some() && process.measuring.is_to_be_asked(now) {
                asked.push(*key);
            }
            if asked.len() == ASKED_MAX {
                break;
            }
        }
        for key in asked {
            let questions = &mut self.tally.watch.questions;
            questions.made += 1;
            questions.after = Some(key);
            // No number of an earlier start: an answer to that may still come.
            let number = self.config.start.0.wrapping_add(questions.made);
            let process = self.processes.get_mut(&key).expect("it was found just now");
            process.measuring.asked = Some((number, now));
            let connection = process.connection;
            self.to_engine(connection, ToEngine::Measure(Measure { number }));
        }
    }

    /// A process has answered.
    pub(in crate::core) fn measured(
        &mut self,
        now: Time,
        key: ProcessKey,
        measured: Measured,
    ) -> Result<(), PeerMisbehaved> {
        let process = self.processes.get_mut(&key).ok_or(PeerMisbehaved::Order)?;
        // Of an earlier connection, or unasked.
        let Some((_, asked)) = process.measuring.asked.filter(|(it, _)| *it == measured.number)
        else {
            return Ok(());
        };
        if measured.slots.len() > process.engines.len() {
            return Err(PeerMisbehaved::Limit);
        }
        process.measuring.asked = None;
        let Measured { machine, mut slots, .. } = measured;
        slots.shrink_to_fit();
        let figures = Figures { at: now, answer_us: now.micros_since(asked), machine, slots };
        process.measuring.last = Some(Box::new(figures));
        let engines = process.engines.clone();
        self.turns.work.add(engines.len());
        for id in engines {
            if self.is_slot_of(id, key) {
                // It is told to those who look.
                self.engines.update(id, |_| ());
            }
        }
        Ok(())
    }

    /// The figures of an engine.
    pub(in crate::core) fn load_of(&self, process: &Process, slot: u32) -> Option<EngineLoad> {
        process.measuring.load(slot, self.tally.watch.questions.since)
    }

    /// Processes that do not answer: of each the first engine, and for how long.
    pub(in crate::core) fn silent(&self, now: Time) -> impl Iterator<Item = (EngineId, u64)> {
        self.turns.work.add(self.processes.len());
        let silent = self.processes.values().filter_map(move |process| {
            let silent_us = process.measuring.silent_us(now)?;
            Some((*process.engines.first()?, silent_us))
        });
        silent.filter(|(_, silent_us)| *silent_us >= SILENT_US)
    }
}
