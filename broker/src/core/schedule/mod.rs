//! The schedule: which task goes to which engine next, and what holds it up.

pub(in crate::core) mod aside;
pub(in crate::core) mod circles;
pub(in crate::core) mod direct;
pub(in crate::core) mod dispatch;
pub(in crate::core) mod lending;
pub(in crate::core) mod placement;
pub(in crate::core) mod prefetch;
pub(in crate::core) mod shared;
pub(in crate::core) mod sweep;
