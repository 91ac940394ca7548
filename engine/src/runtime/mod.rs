//! Runtimes: what runs a task's code. A runtime knows jobs and events, nothing of brokers and
//! sockets.

pub mod command;
mod ending;
pub mod input;
mod marks;
pub mod memory;
pub mod native;
pub mod python;
pub mod reaper;
mod reports;
mod slot;

use std::sync::{Arc, Mutex, PoisonError};

use furlong_wire::message::Measured;

pub use self::reports::{EventReceiver, EventSender, channel};
pub use self::slot::Slot;
pub use crate::job::{
    Ask, AttemptEnd, AttemptOutcome, Job, JobTimes, OutputStream, Published, SlotEvent, SlotIndex,
    SlotJob, Unable,
};

/// A report of a slot to the engine's shell.
#[derive(Debug)]
pub enum Report {
    /// Something for the core.
    Event(SlotEvent),
    /// The running job has published something, and nothing of it waited.
    Published {
        /// The attempt.
        attempt: SlotJob,
        /// The data; the last ones if there were several meanwhile.
        latest: Latest,
    },
    /// The machine and the slots were measured.
    Measured(Box<Measured>),
}

impl From<SlotEvent> for Report {
    fn from(event: SlotEvent) -> Self {
        Self::Event(event)
    }
}

/// The last thing that a job published and nobody took. Who publishes faster than it is taken
/// replaces it.
#[derive(Clone, Debug, Default)]
pub struct Latest(Arc<Mutex<Option<Published>>>);

impl Latest {
    /// Puts a value in. True if none waited, so that somebody must be told.
    pub fn put(&self, published: Published) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).replace(published).is_none()
    }

    /// Takes the value out, if it is one that can be sent now.
    pub fn take_if(&self, can_be_sent: impl Fn(&Published) -> bool) -> Option<Published> {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take_if(|published| can_be_sent(published))
    }
}
