//! The `python` runtime: a child `CPython` for each slot.
//!
//! A [`PythonSlot`] has a queue and a task. The task (`slot`) starts an interpreter for the first
//! job (`process`), talks with its worker (`session`, in the frames of `protocol`; the worker is
//! the Python package `furlong_worker`), and when the interpreter dies, reports what was lost and
//! starts the next one for the next job.

mod asks;
mod death;
mod held;
mod inputs;
mod interpreter;
mod interrupts;
mod known;
mod looks;
mod outbox;
mod pace;
mod page;
mod process;
mod protocol;
mod replies;
mod requests;
mod session;
mod slot;
#[cfg(test)]
mod tests;

use std::ffi::OsString;
use std::io;
use std::path::PathBuf;
use std::thread::available_parallelism;
use std::time::Duration;

use tokio::sync::OnceCell;

use super::memory::Memory;
use super::reaper::Reaper;

pub(crate) use death::RESTARTED;
pub use interpreter::{ResolvedInterpreter, find_interpreter};
pub use slot::PythonSlot;

/// Variables of the environment.
pub type Variables = Vec<(OsString, OsString)>;

/// The common configuration of the interpreters of one engine process.
#[derive(Clone, Debug)]
pub struct PythonConfig {
    /// The interpreter, as [`find_interpreter`] gives it; it may be a shim.
    pub interpreter: PathBuf,
    /// Variables that the interpreters see beyond the engine's own.
    pub env: Variables,
    /// The engine's labels.
    pub labels: Vec<String>,
    /// Slots that share the machine's cores.
    pub slots_in_process: u32,
    /// The memory that interpreters, and what they start, may take.
    pub memory: Memory,
    /// The time that a forced cancel waits for the interrupt to work before it kills.
    pub kill_grace: Duration,
    /// The time limit for the start of an interpreter.
    pub start_timeout: Duration,
}

impl PythonConfig {
    /// The defaults for an interpreter: no variables, no labels, one slot, as much memory as there
    /// is, a grace of 1 s, 60 s to start.
    pub fn new(interpreter: PathBuf) -> Self {
        Self {
            interpreter,
            env: Vec::new(),
            labels: Vec::new(),
            slots_in_process: 1,
            memory: Memory::default(),
            kill_grace: Duration::from_secs(1),
            start_timeout: Duration::from_mins(1),
        }
    }
}

impl PythonConfig {
    /// One slot's share of the cores: [`thread_counts`] but for what this configuration sets.
    pub fn thread_counts(&self) -> Vec<(&'static str, String)> {
        let mut counts = thread_counts(self.slots_in_process);
        counts.retain(|(name, _)| !self.env.iter().any(|(set, _)| set == name));
        counts
    }
}

/// The share of the cores of each of so many interpreters, for the numerical libraries that would
/// otherwise each take all of them: the variables that the user has not set. A batch system may
/// give a job fewer cores than the machine lets it use.
pub fn thread_counts(interpreters: u32) -> Vec<(&'static str, String)> {
    let here = available_parallelism().map_or(1, usize::from);
    let cores =
        crate::batch::processors(&crate::batch::of_process).map_or(here, |cores| cores.min(here));
    let share = (cores / interpreters.max(1) as usize).max(1).to_string();
    let unset = THREAD_COUNT_VARIABLES.into_iter().filter(|name| std::env::var_os(name).is_none());
    unset.map(|name| (name, share.clone())).collect()
}

const THREAD_COUNT_VARIABLES: [&str; 4] =
    ["OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS"];

/// The state shared by all slots of an engine process. Nothing is run before the first job.
#[derive(Debug)]
pub struct PythonShared {
    config: PythonConfig,
    resolved: OnceCell<ResolvedInterpreter>,
    reaper: Reaper,
}

impl PythonShared {
    /// Makes it; nothing is run.
    pub fn new(config: PythonConfig) -> Self {
        Self { config, resolved: OnceCell::new(), reaper: Reaper::default() }
    }

    /// The configuration that they share.
    pub fn config(&self) -> &PythonConfig {
        &self.config
    }

    /// The real interpreter behind the configured one, found by running that once.
    ///
    /// # Errors
    /// [`PythonError::Unusable`]; the next call tries again.
    pub async fn resolve(&self) -> Result<&ResolvedInterpreter, PythonError> {
        let resolve = || ResolvedInterpreter::resolve(&self.config.interpreter, &self.config.env);
        self.resolved.get_or_try_init(resolve).await
    }

    /// The real interpreter, once it is known.
    pub fn resolved(&self) -> Option<&ResolvedInterpreter> {
        self.resolved.get()
    }
}

/// The reason why there is no interpreter. Each text is one line that says what to do.
#[derive(Debug, thiserror::Error)]
pub enum PythonError {
    /// No program of this name is in `PATH`.
    #[error(
        "there is no `{}` in PATH: install Python 3.8 or later, or name one with --python",
        name.display()
    )]
    NotFound {
        /// The name.
        name: PathBuf,
    },
    /// The path names nothing that can be run.
    #[error("{} is not an executable file: name another interpreter with --python", path.display())]
    NotExecutable {
        /// The path.
        path: PathBuf,
    },
    /// It runs, but is no Python that the worker can run in.
    #[error(
        "{} is of no use as an interpreter ({why}): name another with --python",
        path.display()
    )]
    Unusable {
        /// The path.
        path: PathBuf,
        /// A description of what it did instead.
        why: String,
    },
    /// The interpreter ended, or could not be run, before it took jobs.
    #[error("the interpreter {} did not start: {why}", path.display())]
    CannotStart {
        /// The path.
        path: PathBuf,
        /// The problem.
        why: String,
    },
    /// A signal ended the interpreter before it took jobs: another start may do better.
    #[error("the interpreter {} did not start: {why}", path.display())]
    KilledAtStart {
        /// The path.
        path: PathBuf,
        /// The problem.
        why: String,
    },
    /// The process that kills interpreters when the engine dies could not be started.
    #[error("cannot start /bin/sh, which ends the interpreters when the engine dies: {0}")]
    Reaper(#[source] io::Error),
}
