//! Clients and engine processes in memory, for the tests.

pub(in crate::core::tests) mod disk;
pub(in crate::core) mod peers;
pub(in crate::core::tests) mod sending;
