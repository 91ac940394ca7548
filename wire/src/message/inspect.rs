//! Inspections: where an interpreter is now, or where it was while it was sampled.

use serde::{Deserialize, Serialize};

use super::catalogue::{bodies, body};
use crate::ids::{Attempt, EngineId, SessionId, TaskId};

/// A question about the interpreter of an engine.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Inspection {
    /// The interpreter.
    pub of: Inspectable,
    /// How it is sampled. None for one look.
    pub sampling: Option<Sampling>,
}

/// The interpreters that can be inspected.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Inspectable {
    /// That of an engine, whatever it runs.
    Engine(EngineId),
    /// The one that runs a task, as long as it does.
    Task(TaskId),
}

/// A series of looks.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Sampling {
    /// Its duration.
    pub length_ms: u32,
    /// Looks a second.
    pub per_s: u32,
}

/// What was seen.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct InspectionSeen {
    /// The engine.
    pub engine: EngineId,
    /// The task that ran when the engine answered, if one did.
    pub task: Option<TaskId>,
    /// The frames, as JSON: the broker does not read it.
    #[serde(with = "serde_bytes")]
    pub contents: Vec<u8>,
}

bodies! {
    /// A look at the interpreter of a slot.
    Inspect {
        /// The broker's number for it.
        number: u64,
        /// The slot.
        slot: u32,
        /// The attempt that must run. None for whatever runs.
        attempt: Option<Attempt>,
        /// Sessions of the asker's owner: their tasks are shown with the lines of their source.
        sessions: Vec<SessionId>,
        /// True if tasks of other sessions, and an interpreter that runs none, are shown as well.
        all: bool,
        /// How it is sampled. None for one look.
        sampling: Option<Sampling>,
    }

    /// The answer to a look at an interpreter.
    Inspected {
        /// The broker's number for the look.
        number: u64,
        /// The attempt that ran, if one did.
        attempt: Option<Attempt>,
        /// The reason why nothing was seen, for people: one line.
        refusal: Option<String>,
        /// The frames, as JSON.
        #[serde(with = "serde_bytes")]
        contents: Vec<u8>,
    }
}
