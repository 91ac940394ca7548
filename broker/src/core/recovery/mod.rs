//! Recovery: work that engines hold over a cut, or over a restart of the broker.

pub(in crate::core) mod orphans;
pub(in crate::core) mod reconcile;
pub(in crate::core) mod release;
