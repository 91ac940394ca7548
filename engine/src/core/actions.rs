//! What the core wants done, in its order; jobs of which the broker must know before they begin are
//! held back until it has been told.

use std::collections::VecDeque;

use furlong_link::peer::outbox::Chunks;
use furlong_wire::ids::{EngineId, PassKey};
use furlong_wire::message::{FromEngine, Runtime};

use crate::job::{Job, Look, SlotIndex, SlotJob};

/// An action for the shell.
#[derive(Debug)]
pub enum Output {
    /// Send a message.
    Send(FromEngine),
    /// Send the chunks of a payload that a message has announced under this number.
    Transfer(u64, Chunks),
    /// Let a slot run a job, after those that it was given before.
    Start(SlotIndex, Runtime, Job),
    /// End a job.
    Cancel(SlotIndex, Runtime, SlotJob, bool),
    /// Send a signal to a job, if it runs now.
    Signal(SlotIndex, Runtime, SlotJob, i32),
    /// Say where a slot's interpreter is, by [`SlotEvent::Looked`](crate::job::SlotEvent::Looked).
    Look(SlotIndex, Look),
    /// Replace a slot's interpreter. That the old one is gone is always said, also if there was
    /// none.
    Restart(SlotIndex),
    /// Take a job back if it has not begun, and say so to
    /// [`Core::handle_recalled`](super::Core::handle_recalled).
    Recall(SlotIndex, Runtime, SlotJob),
    /// From now on this place stands in for that slot: an interpreter of its own, with the slot's
    /// surroundings.
    StandIn(SlotIndex, SlotIndex),
    /// Tell a job that its client's key is let in, or why not.
    Pass(SlotIndex, SlotJob, PassKey, Option<String>),
    /// Tell the slots their integers.
    Registered(Vec<EngineId>),
    /// Tell people that the process finishes what it runs, and then leaves.
    Draining(String),
    /// The broker is leaving, or closes this connection gracefully.
    Goodbye(String),
    /// No later job of a slot has the input of this key.
    ForgetInput(SlotIndex, u64),
    /// Tell a slot's next interpreter what became of the one before.
    Lost(SlotIndex, String),
    /// Measure the machine and the slots, as the answer to this number of the broker's.
    Measure(u64),
    /// Something for the log.
    Log(String),
}

/// The actions that the shell has not taken.
#[derive(Debug, Default)]
pub(super) struct Actions {
    queue: VecDeque<Action>,
    /// Starts that wait until what was polled before them has left, and those behind them.
    held_back: Vec<(SlotIndex, Runtime, Job)>,
}

#[derive(Debug)]
enum Action {
    Now(Output),
    /// A start of which the broker is told in what is polled before it.
    StartWhenSent(SlotIndex, Runtime, Job),
}

impl Actions {
    pub(super) fn push_back(&mut self, output: Output) {
        self.queue.push_back(Action::Now(output));
    }

    pub(super) fn extend(&mut self, outputs: impl IntoIterator<Item = Output>) {
        self.queue.extend(outputs.into_iter().map(Action::Now));
    }

    /// Starts a job when what was said of it has left.
    pub(super) fn start_when_sent(&mut self, slot: SlotIndex, runtime: Runtime, job: Job) {
        self.queue.push_back(Action::StartWhenSent(slot, runtime, job));
    }

    /// The next one.
    pub(super) fn poll(&mut self) -> Option<Output> {
        loop {
            let output = match self.queue.pop_front()? {
                Action::StartWhenSent(slot, runtime, job) => {
                    self.held_back.push((slot, runtime, job));
                    continue;
                }
                Action::Now(output) if self.held_back.is_empty() => return Some(output),
                Action::Now(output) => output,
            };
            match output {
                // It must not overtake the one that waits, which may be of the same slot.
                Output::Start(slot, runtime, job) => self.held_back.push((slot, runtime, job)),
                Output::ForgetInput(slot, key) => {
                    let held_back = self.held_back.iter_mut();
                    held_back.for_each(|(_, _, job)| job.keep_no_input(key));
                    return Some(Output::ForgetInput(slot, key));
                }
                Output::Cancel(..)
                | Output::Recall(..)
                | Output::Signal(..)
                | Output::Restart(_) => {
                    // It may be about a job that waits: its slot must have that first.
                    self.queue.push_front(Action::Now(output));
                    self.handle_sent();
                }
                other => return Some(other),
            }
        }
    }

    pub(super) fn holds_back(&self) -> bool {
        !self.held_back.is_empty()
    }

    pub(super) fn handle_sent(&mut self) {
        // The last one first, each to the front: so they come out in the order in which they
        // waited.
        for (slot, runtime, job) in self.held_back.drain(..).rev() {
            self.queue.push_front(Action::Now(Output::Start(slot, runtime, job)));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use furlong_wire::call::{Call, CallHeader, Codec};
    use furlong_wire::ids::SessionId;

    use super::*;

    fn job(attempt: u64) -> Job {
        let call = Call::Named { function: "f".into() };
        let header = Arc::new(CallHeader { call, codec: Codec::Raw });
        let session = SessionId::default();
        Job {
            attempt: SlotJob(attempt),
            session,
            header,
            definition: None,
            data: Vec::new(),
            file: None,
            inputs: None,
        }
    }

    /// What is to be done now: the starts by their jobs, everything else as 0.
    fn poll_all(actions: &mut Actions) -> Vec<u64> {
        let outputs = std::iter::from_fn(|| actions.poll());
        outputs
            .map(|it| if let Output::Start(_, _, job) = it { job.attempt.0 } else { 0 })
            .collect()
    }

    #[test]
    fn a_start_is_held_back_and_those_behind_it_keep_their_order() {
        let mut actions = Actions::default();
        actions.push_back(Output::Start(0, Runtime::Native, job(1)));
        actions.start_when_sent(0, Runtime::Native, job(2));
        actions.push_back(Output::Start(1, Runtime::Native, job(3)));
        actions.push_back(Output::Log("a line".into()));
        assert_eq!(poll_all(&mut actions), [1, 0]);
        assert!(actions.holds_back());
        actions.push_back(Output::Start(0, Runtime::Native, job(4)));
        actions.handle_sent();
        assert_eq!(poll_all(&mut actions), [2, 3, 4]);
        assert!(!actions.holds_back());
    }

    #[test]
    fn a_command_for_a_slot_finds_there_what_was_held_back() {
        let mut actions = Actions::default();
        actions.start_when_sent(0, Runtime::Native, job(1));
        actions.push_back(Output::Cancel(0, Runtime::Native, SlotJob(1), false));
        actions.push_back(Output::Start(0, Runtime::Native, job(2)));
        assert_eq!(poll_all(&mut actions), [1, 0, 2]);
    }
}
