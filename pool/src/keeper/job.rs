//! Jobs as the keeper knows them.

use std::fmt;

use serde::{Deserialize, Serialize};

/// The id of a job, as the batch system writes it: `4711_3` for an array's element.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct JobId(pub String);

impl fmt::Display for JobId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The state of a job, whatever its system calls it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum JobState {
    /// It waits, or is being set up.
    Pending,
    /// It runs, or its end is not complete.
    Running,
    /// It has ended.
    Ended(End),
}

/// The kinds of ends.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum End {
    /// Its script ended with 0.
    Completed,
    /// Its script ended otherwise.
    Failed,
    /// Somebody cancelled it.
    Cancelled,
    /// Its time was over.
    TimeLimit,
    /// Another job took its place.
    Preempted,
    /// Its node broke.
    NodeFailed,
    /// The batch system has not known it for a while.
    Gone,
}

impl End {
    /// Returns true if such an end says nothing about the job's script.
    pub fn is_excused(self) -> bool {
        matches!(self, Self::TimeLimit | Self::Preempted | Self::NodeFailed)
    }

    /// The word for it in lists.
    pub fn word(self) -> &'static str {
        match self {
            Self::Completed => "completed",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
            Self::TimeLimit => "time over",
            Self::Preempted => "preempted",
            Self::NodeFailed => "node failed",
            Self::Gone => "gone",
        }
    }
}

/// A job in an answer of the batch system.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Listed {
    /// Its id.
    pub id: JobId,
    /// Its state.
    pub state: JobState,
    /// The nodes on which it runs; empty before.
    pub node: String,
    /// The system's reason for its state, with a remedy where there is one; empty if there is
    /// nothing to say.
    pub why: String,
    /// The time that is left to it, as the system writes it.
    pub left: String,
}

/// The engines of a job, as the broker knows them.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct EnginesOfJob {
    /// Those that are connected.
    pub online: u32,
    /// The tasks that they have.
    pub busy: u32,
}

/// A job as the keeper knows it, which is also how it is written down.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Job {
    /// The engines that it starts.
    pub engines: u32,
    /// Its state.
    pub state: JobState,
    /// True if its engines stay when they have nothing to do.
    pub lasting: bool,
    /// The time of its submit, or of its discovery.
    pub submitted_ms: u64,
    /// The time from which it has been running, or since which it has ended.
    pub since_ms: u64,
    /// True once one of its engines was online.
    pub had_engine: bool,
    /// Its engines that are online.
    #[serde(skip)]
    pub online: u32,
    /// The tasks that they have.
    #[serde(skip)]
    pub busy: u32,
    /// True once this keeper has submitted it, or has seen it listed: its state is not an earlier
    /// keeper's alone.
    #[serde(skip)]
    pub is_seen: bool,
    /// Answers in a row in which it was missing.
    #[serde(skip)]
    pub missing: u32,
    /// The node.
    pub node: String,
    /// The system's reason for its state.
    pub why: String,
    /// The time that is left to it.
    pub left: String,
    /// Its way out, once it is not wanted.
    pub leaving: Option<Leaving>,
}

/// The way out of a job that is not wanted.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Leaving {
    /// Its engines finish what they run.
    Drains {
        /// The last time at which they were told.
        told_ms: u64,
        /// The time since which none of them is online.
        empty_ms: Option<u64>,
    },
    /// It is cancelled if it still waits.
    Withdrawn {
        /// The last time at which that was asked.
        told_ms: u64,
    },
    /// It is cancelled.
    Cancelled {
        /// The last time at which that was asked.
        told_ms: u64,
    },
}

impl Job {
    /// A job of so many engines that was just submitted, or found.
    pub fn new(now_ms: u64, engines: u32, lasting: bool) -> Self {
        Self {
            engines,
            state: JobState::Pending,
            lasting,
            submitted_ms: now_ms,
            since_ms: now_ms,
            had_engine: false,
            online: 0,
            busy: 0,
            is_seen: true,
            missing: 0,
            node: String::new(),
            why: String::new(),
            left: String::new(),
            leaving: None,
        }
    }

    /// Returns true if it has not ended.
    pub fn is_live(&self) -> bool {
        !matches!(self.state, JobState::Ended(_))
    }

    /// Returns true if its engines are counted on.
    pub fn is_counted(&self) -> bool {
        self.is_live() && self.leaving.is_none()
    }

    /// Returns true if it waits for the batch system, as far as is known.
    pub fn is_waiting(&self) -> bool {
        self.state == JobState::Pending && self.online == 0
    }

    /// Returns true if it can be cancelled without a loss: it waits, and not only by what an
    /// earlier keeper knew.
    pub fn surely_waits(&self) -> bool {
        self.is_waiting() && self.is_seen
    }
}
