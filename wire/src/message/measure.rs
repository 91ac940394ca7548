//! Figures of the machines on which engines run: asked for only while somebody looks.

use serde::{Deserialize, Serialize};

use super::catalogue::{bodies, body};

/// The bit of [`HelloBody::abilities`](crate::handshake::HelloBody::abilities) by which an engine
/// process says that it answers [`Measure`].
pub const ANSWERS_MEASURE: u64 = 1;

/// A machine.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct MachineLoad {
    /// The number of its processors.
    pub cores: u32,
    /// The share of their time that was in use since the last measurement, in per cent; none if
    /// the system does not say.
    pub cpu_percent: Option<u32>,
    /// The mean number of processes that ran or waited for a processor in the last minute, in
    /// hundredths.
    pub load_hundredths: u32,
    /// Bytes of memory.
    pub memory_bytes: u64,
    /// Bytes of it that can be given to processes.
    pub memory_free_bytes: u64,
}

/// The processes of a slot: its interpreter, the program that it runs, and what those have started
/// in their process groups.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct SlotLoad {
    /// The time of processors that they took since the last measurement, in per cent of one; none
    /// if there are none.
    pub cpu_percent: Option<u32>,
    /// Bytes of memory that they have: what several share counts for each.
    pub resident_bytes: u64,
}

bodies! {
    /// A question for figures.
    Measure {
        /// The broker's number for it.
        number: u64,
    }

    /// The figures of an engine process and its machine.
    Measured {
        /// The broker's number for the question.
        number: u64,
        /// The machine.
        machine: MachineLoad,
        /// The slots, in order.
        slots: Vec<SlotLoad>,
    }
}
