//! Engines: those that are here or may come back, what they say, and what is lost with them.

pub(in crate::core) mod away;
pub(in crate::core) mod engine;
pub(in crate::core) mod from_engine;
pub(in crate::core) mod given_back;
pub(in crate::core) mod lost;
pub(in crate::core) mod process;
pub(in crate::core) mod register;
pub(in crate::core) mod roster;
pub(in crate::core) mod table;
