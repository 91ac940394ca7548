//! The limits of a keeper: how much it submits, how often, and when it stops.

use serde::{Deserialize, Serialize};

/// A minute, in the keeper's unit of time.
const MINUTE_MS: u64 = 60_000;
/// The least time between two submits.
pub const SUBMIT_SPACING_MS: u64 = 2_000;
/// The waits after submits that failed one after the other.
const WAITS_MS: [u64; 5] = [0, MINUTE_MS, 5 * MINUTE_MS, 15 * MINUTE_MS, 60 * MINUTE_MS];
/// So many submits that failed one after the other pause a pool.
const REFUSED_MAX: u32 = 5;
/// So many jobs that ended without an engine, one after the other, pause a pool.
const VAIN_ENDS_MAX: u32 = 3;

/// The bounds that a pool was given.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Limits {
    /// Jobs that are pending or running.
    pub jobs_max: u32,
    /// Jobs that are pending.
    pub pending_max: u32,
    /// Jobs of one submit.
    pub array_max: u32,
}

/// The answer to a submit that gave no job.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Refusal {
    /// The queue takes no more for now, which is nobody's fault.
    Full(String),
    /// The system refused it.
    Refused(String),
    /// The system refuses all such jobs, whenever they come.
    Forbidden(String),
    /// The system has no node for it.
    NoNode(String),
    /// The command did not end in time, or made no sense: there may be jobs.
    Unclear(String),
}

impl Refusal {
    /// The sentence in it.
    pub fn text(&self) -> &str {
        match self {
            Self::Full(text)
            | Self::Refused(text)
            | Self::Forbidden(text)
            | Self::NoNode(text)
            | Self::Unclear(text) => text,
        }
    }
}

/// The times at which a pool may submit, and the reason why it may not at all.
#[derive(Clone, PartialEq, Eq, Default, Debug, Serialize, Deserialize)]
pub struct Gate {
    /// The reason of the pause, if it is paused.
    pub paused: Option<String>,
    /// The words of the last refusal, since which nothing was accepted.
    pub refusal: Option<String>,
    not_before_ms: u64,
    spaced_until_ms: u64,
    refused: u32,
    full: u32,
    vain_ends: u32,
}

impl Gate {
    /// Returns true if a submit may be made now.
    pub fn is_open(&self, now_ms: u64) -> bool {
        self.paused.is_none() && now_ms >= self.not_before_ms()
    }

    /// The time before which nothing is submitted.
    pub fn not_before_ms(&self) -> u64 {
        self.not_before_ms.max(self.spaced_until_ms)
    }

    /// A submit is made.
    pub fn note_submit(&mut self, now_ms: u64) {
        self.spaced_until_ms = now_ms + SUBMIT_SPACING_MS;
    }

    /// A submit has given jobs.
    pub fn note_accepted(&mut self) {
        (self.refused, self.full, self.refusal) = (0, 0, None);
    }

    /// A submit has given none.
    pub fn note_refused(&mut self, now_ms: u64, refusal: Refusal) {
        let (text, times) = match refusal {
            Refusal::Full(text) => {
                self.full += 1;
                // The first wait is for what may pass at once, and a full queue does not.
                (text, self.full + 1)
            }
            Refusal::Forbidden(text) => {
                self.pause(text.clone());
                (text, 1)
            }
            Refusal::Refused(text) | Refusal::NoNode(text) | Refusal::Unclear(text) => {
                self.refused += 1;
                (text, self.refused)
            }
        };
        if self.refused >= REFUSED_MAX {
            self.paused = Some(format!("{REFUSED_MAX} submits in a row failed: {text}"));
        }
        let at = (times as usize - 1).min(WAITS_MS.len() - 1);
        self.not_before_ms = now_ms + WAITS_MS[at];
        self.refusal = Some(text);
    }

    /// A job has ended without an engine, however long it took for that: one that never reaches the
    /// broker costs as much as one that fails at once, and more.
    pub fn note_vain_end(&mut self, why: &str) {
        self.vain_ends += 1;
        if self.vain_ends >= VAIN_ENDS_MAX {
            let why = if why.is_empty() { String::new() } else { format!(": {why}") };
            self.pause(format!("{VAIN_ENDS_MAX} jobs in a row ended without an engine{why}"));
        }
    }

    /// Nothing more is submitted, for this reason, or for an earlier one.
    pub fn pause(&mut self, why: String) {
        self.paused.get_or_insert(why);
    }

    /// An engine has come: the jobs' script is sound.
    pub fn note_engine(&mut self) {
        self.vain_ends = 0;
    }

    /// Somebody has mended what paused it.
    pub fn resume(&mut self) {
        *self = Self { spaced_until_ms: self.spaced_until_ms, ..Self::default() };
    }
}
