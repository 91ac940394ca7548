//! The `command` runtime: programs, each as a process group of its own.
//!
//! A [`CommandSlot`] has a queue and a thread (`slot`). The thread starts a program (`launch`),
//! moves its bytes until it ends (`running`, with the pipes of `pipes`), kills what it left behind,
//! and says how it ended (`exit`).
//!
//! A thread and not a task of the engine's event loop: a start takes the kernel a third of a
//! millisecond, in which the loop would serve nobody. `true` without end on two cores, with pipes,
//! a second: 2 900 with a thread for each of two slots, 2 500 by `tokio::process` on one loop, and
//! 3 000 for the bare start and wait of the standard library.
//!
//! No program outlives the engine. One that has lived for a few milliseconds is registered with the
//! reaper. Until then the mark in its environment, by which the reaper finds it, must do: so the
//! many short ones cost nothing, and there is no moment between a program's start and its
//! registration. What gets away is a program that drops the mark in its first milliseconds, in
//! which the engine is killed too.

mod exit;
mod inputs;
mod launch;
mod pipes;
mod running;
mod slot;
#[cfg(test)]
mod tests;

use std::time::Duration;

use super::memory::Memory;
use super::reaper::Reaper;

pub use slot::CommandSlot;

/// The common configuration of the programs of one engine process.
#[derive(Clone, Debug)]
pub struct CommandConfig {
    /// The grace period of a cancelled program, between SIGTERM and its kill.
    pub kill_grace: Duration,
    /// The memory that programs may take.
    pub memory: Memory,
}

impl Default for CommandConfig {
    /// A grace of 1 s, and as much memory as there is.
    fn default() -> Self {
        Self { kill_grace: Duration::from_secs(1), memory: Memory::default() }
    }
}

/// The state shared by all slots of an engine process. Nothing is run before the first slot is
/// made.
#[derive(Debug, Default)]
pub struct CommandShared {
    config: CommandConfig,
    reaper: Reaper,
}

impl CommandShared {
    /// Makes it; nothing is run.
    pub fn new(config: CommandConfig) -> Self {
        Self { config, reaper: Reaper::default() }
    }
}
