//! Recovery: work that engines hold over a cut, or over a restart of the broker.

pub(in crate::core) mod claims;
pub(in crate::core) mod orphans;
pub(in crate::core) mod reconcile;
pub(in crate::core) mod release;

use orphans::Orphans;
use release::Releases;

use crate::core::journal::Journal;

/// What outlives a cut or a restart of the broker.
#[derive(Debug)]
pub(in crate::core) struct Recovery {
    /// The attempts of an earlier start that engines hold.
    pub(in crate::core) orphans: Orphans,
    /// What engine processes need not hold any longer and were not told of yet.
    pub(in crate::core) releases: Releases,
    /// The journal, if there is one.
    pub(in crate::core) journal: Journal,
}
