//! Pools of engines that a batch system starts: everything that can be decided without running a
//! command.
//!
//! - [`keeper::Keeper`] decides what to submit and cancel, from what the batch system and the
//!   broker say. Time is an argument.
//! - [`system::System`] is a batch system as data: its commands, its states, its script.
//! - [`definition`] reads the files in which pools are defined by name.
//! - [`spec::PoolSpec`] is a pool as it was asked for, and [`script`] writes its jobs' script.
//!
//! The command `furlong` runs the commands and keeps the files.

pub mod definition;
pub mod keeper;
pub mod script;
pub mod spec;
pub mod system;
