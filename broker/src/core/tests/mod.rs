//! Tests of the core: examples named for what they show, and invariants under any sequence of
//! events.

mod clients;
mod costs;
mod engines;
pub(in crate::core) mod farm;
mod model;
mod tasks;
