//! Payloads: arguments and results, and the memory that they and other extras take.

pub(in crate::core) mod arriving;
pub(in crate::core) mod backlog;
pub(in crate::core) mod charges;
pub(in crate::core) mod published;
pub(in crate::core) mod stored;
