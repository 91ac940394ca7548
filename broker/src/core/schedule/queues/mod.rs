//! The queues in which tasks wait for an engine: what order each keeps, and where a task comes to
//! stand.

pub(in crate::core) mod direct;
mod enqueue;
pub(in crate::core) mod shared;
