//! What a slot asks of each of its runtimes, whatever runs there.

use rustix::process::Signal;

use super::command::CommandSlot;
use super::native::NativeSlot;
use super::python::PythonSlot;
use super::{Job, SlotJob};

/// One slot's part of a runtime: it runs the jobs that it is given, one after the other.
pub trait Slot {
    /// Tells it the engine's integer.
    fn set_engine_id(&mut self, id: u32);

    /// Takes a job, which begins after those that came before, by the next [`Slot::hand_over`] at
    /// the latest.
    fn start(&mut self, job: Job);

    /// Lets the jobs that it has taken begin.
    fn hand_over(&mut self) {}

    /// Ends a job: one that waits at once, one that runs as its runtime can, or by force.
    fn cancel(&mut self, job: SlotJob, force: bool);

    /// Takes a job back; false if it has begun, or is asked for elsewhere.
    fn recall(&mut self, job: SlotJob) -> bool;

    /// Sends a signal to a job, if it runs now.
    fn signal(&mut self, job: SlotJob, signal: Signal);
}

impl Slot for NativeSlot {
    fn set_engine_id(&mut self, id: u32) {
        Self::set_engine_id(self, id);
    }

    fn start(&mut self, job: Job) {
        self.gather(job);
    }

    fn hand_over(&mut self) {
        self.start_gathered();
    }

    fn cancel(&mut self, job: SlotJob, _force: bool) {
        Self::cancel(self, job);
    }

    fn recall(&mut self, job: SlotJob) -> bool {
        Self::recall(self, job)
    }

    fn signal(&mut self, job: SlotJob, signal: Signal) {
        if signal == Signal::INT {
            self.interrupt(job);
        } else {
            let slot = self.slot;
            tracing::warn!(
                "slot {slot}: a native function is no process, and gets no signal but SIGINT"
            );
        }
    }
}

impl Slot for PythonSlot {
    fn set_engine_id(&mut self, id: u32) {
        Self::set_engine_id(self, id);
    }

    fn start(&mut self, job: Job) {
        Self::start(self, job);
    }

    fn cancel(&mut self, job: SlotJob, force: bool) {
        Self::cancel(self, job, force);
    }

    fn recall(&mut self, job: SlotJob) -> bool {
        Self::recall(self, job)
    }

    fn signal(&mut self, job: SlotJob, signal: Signal) {
        Self::signal(self, job, signal);
    }
}

impl Slot for CommandSlot {
    fn set_engine_id(&mut self, id: u32) {
        Self::set_engine_id(self, id);
    }

    fn start(&mut self, job: Job) {
        Self::start(self, job);
    }

    fn cancel(&mut self, job: SlotJob, force: bool) {
        Self::cancel(self, job, force);
    }

    fn recall(&mut self, job: SlotJob) -> bool {
        Self::recall(self, job)
    }

    fn signal(&mut self, job: SlotJob, signal: Signal) {
        Self::signal(self, job, signal.as_raw());
    }
}
