//! Turns: long work is counted, and done in parts, so that others are served meanwhile.

pub(in crate::core) mod chores;
pub(in crate::core) mod rest;
pub(in crate::core) mod shares;
pub(in crate::core) mod work;

use std::collections::BTreeMap;

use chores::Chores;
use rest::Rest;
use work::Work;

use crate::core::ConnectionId;

/// Work that is counted, and what is left of it for later turns.
#[derive(Debug, Default)]
pub(in crate::core) struct Turns {
    /// The unprocessed rest of peers' last messages.
    pub(in crate::core) rests: BTreeMap<ConnectionId, Rest>,
    /// The chores left for later turns.
    pub(in crate::core) chores: Chores,
    /// The cost of messages.
    pub(in crate::core) work: Work,
    /// What they had cost at the end of the last turn.
    pub(in crate::core) work_before: u64,
    /// The number of times that engines were given what they can take.
    #[cfg(test)]
    pub(in crate::core) dispatches: u64,
}
