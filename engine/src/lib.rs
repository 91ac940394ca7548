//! Furlong's engine, and the library with which you build an engine of your own Rust functions.
//!
//! ```no_run
//! use furlong_engine::Engine;
//!
//! /// The area under x² from `a` to `b`, by `n` strips.
//! fn integrate(a: f64, b: f64, n: u32) -> f64 {
//!     let width = (b - a) / f64::from(n);
//!     (0..n).map(|i| a + (f64::from(i) + 0.5) * width).map(|x| x * x * width).sum()
//! }
//!
//! fn main() -> Result<(), furlong_engine::EngineError> {
//!     Engine::builder().function("integrate", integrate).run()
//! }
//! ```
//!
//! The engine finds its capability in `$FURLONG_HOME` (or `FURLONG_CAP`), waits for it and for the
//! broker, comes back after cuts, and runs tasks until it gets SIGINT, or SIGTERM, which lets it
//! finish what it runs. A function gets its arguments from msgpack or JSON; a panic is an error of
//! its task. A function cannot be killed: a long one looks at [`is_cancelled`] now and then. It can
//! [`publish`] how far it is, and ask which engine runs it ([`engine_id`]). Results of other tasks
//! can be its inputs ([`inputs`]).

mod batch;
pub mod clock;
pub mod core;
mod deadline;
pub mod job;
pub mod mailbox;
mod meter;
mod program;
pub mod runtime;
mod shell;
mod surroundings;

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use furlong_host::home::{CapabilitySearch, Home, HomeError, capability_from_env};
use furlong_wire::call::Codec;
use furlong_wire::capability::ClusterName;
use furlong_wire::limits::NAME_BYTES_MAX;
use furlong_wire::token::Role;

pub use job::Input;
pub use program::{EngineArgs, run};
pub use runtime::input::{InputError, inputs};
pub use runtime::native::{Callable, FunctionError, engine_id, is_cancelled, publish};

use crate::core::Limits;
use deadline::TimeLimit;
use runtime::command::CommandConfig;
use runtime::memory::{Hierarchy, Memory};
use runtime::native::Functions;
use runtime::python::{PythonConfig, PythonError, find_interpreter};
use shell::capability::Source;
use surroundings::{Rank, Variables};

/// An engine process.
#[derive(Debug)]
pub struct Engine;

impl Engine {
    /// Begins an engine: one slot, the functions `noop` and `echo`, Python if there is one.
    pub fn builder() -> EngineBuilder {
        let mut functions = Functions::new();
        let noop: runtime::native::NativeFunction = Box::new(|codec, _| {
            Ok((codec, if codec == Codec::Raw { Vec::new() } else { nothing(codec) }))
        });
        functions.insert("noop".to_owned(), noop);
        // What came goes back, as it came.
        functions.insert(
            "echo".to_owned(),
            Box::new(|codec, data: &[Bytes]| Ok((codec, data.to_vec()))),
        );
        EngineBuilder {
            functions,
            slots: 1,
            capability: None,
            cluster: ClusterName::default(),
            python: PythonChoice::IfFound,
            software: concat!("furlong ", env!("CARGO_PKG_VERSION")).to_owned(),
            stop_with_stdin: false,
            labels: Vec::new(),
            env: Vec::new(),
            working_dir: None,
            first_id: None,
            gpu_for_each_slot: false,
            memory_bytes: None,
            limits: Limits::default(),
            time_limit: TimeLimit::default(),
            job: None,
        }
    }
}

/// No value, in a codec.
fn nothing(codec: Codec) -> Vec<Bytes> {
    let nil: &'static [u8] = if codec == Codec::Json { b"null" } else { &[0xc0] };
    vec![Bytes::from_static(nil)]
}

/// Says what an engine is made of; [`EngineBuilder::run`] lets it run.
pub struct EngineBuilder {
    functions: Functions,
    slots: u32,
    capability: Option<PathBuf>,
    cluster: ClusterName,
    python: PythonChoice,
    software: String,
    stop_with_stdin: bool,
    labels: Vec<String>,
    env: Vec<(OsString, OsString)>,
    working_dir: Option<PathBuf>,
    first_id: Option<u32>,
    gpu_for_each_slot: bool,
    memory_bytes: Option<u64>,
    limits: Limits,
    time_limit: TimeLimit,
    job: Option<String>,
}

enum PythonChoice {
    No,
    IfFound,
    This(PathBuf),
}

impl EngineBuilder {
    /// Adds a function of up to six arguments. They come from msgpack or JSON, and so goes the
    /// value.
    #[must_use]
    pub fn function<A: 'static, R: 'static>(
        mut self,
        name: &str,
        function: impl Callable<A, R>,
    ) -> Self {
        let function = Arc::new(function);
        self.functions
            .insert(name.to_owned(), Box::new(move |codec, data| function.call(codec, data)));
        self
    }

    /// Adds a function of raw buffers: each begins at a multiple of 64 bytes.
    #[must_use]
    pub fn raw_function<F>(mut self, name: &str, function: F) -> Self
    where
        F: Fn(&[Bytes]) -> Result<Vec<Bytes>, FunctionError> + Send + Sync + 'static,
    {
        let raw = move |_: Codec, data: &[Bytes]| function(data).map(|value| (Codec::Raw, value));
        self.functions.insert(name.to_owned(), Box::new(raw));
        self
    }

    /// So many engines behind one connection: each has an id, a queue, a thread and an interpreter
    /// of its own.
    #[must_use]
    pub fn slots(mut self, slots: u32) -> Self {
        self.slots = slots;
        self
    }

    /// The capability file; otherwise `FURLONG_CAP`, else that of the cluster in `$FURLONG_HOME`.
    #[must_use]
    pub fn capability(mut self, path: impl Into<PathBuf>) -> Self {
        self.capability = Some(path.into());
        self
    }

    /// The cluster whose capability file is used; `default` otherwise.
    #[must_use]
    pub fn cluster(mut self, cluster: ClusterName) -> Self {
        self.cluster = cluster;
        self
    }

    /// The Python interpreter for Python tasks; otherwise that of the active virtual environment,
    /// else `python3`.
    #[must_use]
    pub fn python(mut self, interpreter: impl Into<PathBuf>) -> Self {
        self.python = PythonChoice::This(interpreter.into());
        self
    }

    /// Runs no Python tasks.
    #[must_use]
    pub fn without_python(mut self) -> Self {
        self.python = PythonChoice::No;
        self
    }

    /// The program's name and version, as `furlong status` shows it.
    #[must_use]
    pub fn software(mut self, software: impl Into<String>) -> Self {
        self.software = software.into();
        self
    }

    /// Stops when standard input ends: for a program that starts engines and must not leave them
    /// behind.
    #[must_use]
    pub fn stop_with_stdin(mut self, stop: bool) -> Self {
        self.stop_with_stdin = stop;
        self
    }

    /// A label that tasks can require.
    #[must_use]
    pub fn label(mut self, label: impl Into<String>) -> Self {
        self.labels.push(label.into());
        self
    }

    /// A variable for the interpreters and commands of tasks. It does not change this process's
    /// own.
    #[must_use]
    pub fn env(mut self, name: impl Into<OsString>, value: impl Into<OsString>) -> Self {
        self.env.push((name.into(), value.into()));
        self
    }

    /// The directory in which tasks run. It becomes this whole process's own.
    #[must_use]
    pub fn working_dir(mut self, path: impl Into<PathBuf>) -> Self {
        self.working_dir = Some(path.into());
        self
    }

    /// The integer that the first slot asks for, the others following; otherwise by the rank that
    /// MPI or Slurm gave the process, if it did. The broker gives it if nobody ever had it.
    #[must_use]
    pub fn first_id(mut self, id: u32) -> Self {
        self.first_id = Some(id);
        self
    }

    /// Shows each slot's interpreter and commands one GPU (`CUDA_VISIBLE_DEVICES`): in turn those
    /// that the variable names for this process, else by the slot's number.
    #[must_use]
    pub fn gpu_for_each_slot(mut self, each: bool) -> Self {
        self.gpu_for_each_slot = each;
        self
    }

    /// Sets the memory limit of each process of a task, in bytes: its interpreter, or any process
    /// of a command. Beyond it the system gives no more, and Python raises `MemoryError`. Rust
    /// functions are not bounded by it.
    ///
    /// In a control group of its own that this process may divide, the limit is also what all
    /// processes of one slot may take together. This process then moves itself into a group below
    /// its own.
    #[must_use]
    pub fn memory(mut self, bytes: u64) -> Self {
        self.memory_bytes = Some(bytes);
        self
    }

    /// Sets how long the process may finish what it runs after SIGTERM; otherwise as long as that
    /// takes.
    #[must_use]
    pub fn drain_timeout(mut self, timeout: Duration) -> Self {
        self.limits.drain = Some(timeout);
        self
    }

    /// Sets the time that the process has, from its start on: 15 s before that has passed it gives
    /// back what it runs, and leaves. Otherwise as the batch system says in whose job it runs.
    #[must_use]
    pub fn time_limit(mut self, limit: Duration) -> Self {
        self.time_limit.limit = Some(limit);
        self
    }

    /// Sets how long before its end it takes nothing new, and leaves when it has finished what it
    /// runs; otherwise a tenth of its time, from 30 s to 10 min.
    #[must_use]
    pub fn drain_before(mut self, before: Duration) -> Self {
        self.time_limit.drain_before = Some(before);
        self
    }

    /// Sets how long the process stays without a broker when it has nothing to run; otherwise for
    /// ever.
    #[must_use]
    pub fn broker_timeout(mut self, timeout: Duration) -> Self {
        self.limits.without_broker = Some(timeout);
        self
    }

    /// Sets how long the process stays when it has nothing to run; otherwise for ever.
    #[must_use]
    pub fn idle_timeout(mut self, timeout: Duration) -> Self {
        self.limits.idle = Some(timeout);
        self
    }

    /// The name of the job of a batch system in which the process runs, for people; otherwise as
    /// that system says it.
    #[must_use]
    pub fn job(mut self, job: impl Into<String>) -> Self {
        self.job = Some(job.into());
        self
    }

    /// Runs on this thread, until SIGINT, or until SIGTERM and the end of what runs then.
    ///
    /// # Errors
    /// A fatal condition: a capability file that is refused, an interpreter or a directory that
    /// does not exist.
    pub fn run(self) -> Result<(), EngineError> {
        let setup = self.into_setup()?;
        let memory = setup.commands.memory.clone();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(EngineError::Runtime)?;
        let outcome = runtime.block_on(shell::run(setup));
        // A native function that does not return, or the reader of standard input, must not keep
        // the process.
        runtime.shutdown_background();
        memory.close();
        outcome
    }

    fn into_setup(self) -> Result<shell::Setup, EngineError> {
        let slots = self.slots.max(1);
        let rank = Rank::find(|name| std::env::var(name).ok());
        let python = match &self.python {
            PythonChoice::No => None,
            PythonChoice::IfFound => find_interpreter(None).ok(),
            PythonChoice::This(path) => Some(find_interpreter(Some(path))?),
        };
        // Paths that were named are relative to where the process was started.
        let absolute = |path: PathBuf| std::path::absolute(&path).unwrap_or(path);
        let capability = if self.capability.as_deref() == Some(Path::new("-")) {
            Source::from_stdin()?
        } else {
            Source::File(absolute(self.capability_path()?))
        };
        let job = self.job.or_else(|| batch::job(&batch::of_process)).map(|mut job| {
            job.truncate(job.floor_char_boundary(NAME_BYTES_MAX));
            job
        });
        let memory = Memory::new(self.memory_bytes, &Hierarchy::of_system());
        let labels = checked(self.labels)?;
        let python = python.map(absolute).map(|interpreter| PythonConfig {
            env: self.env.clone(),
            labels: labels.clone(),
            slots_in_process: slots.saturating_mul(rank.map_or(1, |rank| rank.local_size)),
            memory: memory.clone(),
            ..PythonConfig::new(interpreter)
        });
        if let Some(path) = self.working_dir {
            std::env::set_current_dir(&path)
                .map_err(|source| EngineError::WorkingDir { path, source })?;
        }
        let mut variables = Variables { all: self.env, devices: Vec::new() };
        if self.gpu_for_each_slot {
            let visible = std::env::var(surroundings::CUDA).ok();
            let first = rank.map_or(0, |rank| rank.local.saturating_mul(slots));
            variables.devices = surroundings::devices(visible.as_deref(), first, slots);
        }
        Ok(shell::Setup {
            capability,
            slots,
            functions: self.functions,
            python,
            commands: CommandConfig { memory, ..CommandConfig::default() },
            variables,
            first_id: self.first_id.or(rank.map(|rank| rank.global.saturating_mul(slots))),
            labels,
            software: self.software,
            stop_with_stdin: self.stop_with_stdin,
            limits: self.limits,
            time_limit: self.time_limit,
            job,
        })
    }

    /// The file need not be there yet: the engine waits for it.
    fn capability_path(&self) -> Result<PathBuf, EngineError> {
        let from_env = capability_from_env();
        let search = CapabilitySearch {
            explicit: self.capability.as_deref(),
            from_env: from_env.as_deref(),
            cluster: Some(&self.cluster),
            roles: &[Role::Engine],
        };
        let home = Home::from_env()?;
        let expected: &Path = &home.cluster(&self.cluster).capability(Role::Engine);
        Ok(home.find_capability(&search).unwrap_or_else(|_| expected.to_owned()))
    }
}

/// Labels, each once.
fn checked(mut labels: Vec<String>) -> Result<Vec<String>, EngineError> {
    let is_name = |label: &String| !label.is_empty() && label.len() <= NAME_BYTES_MAX;
    if let Some(label) = labels.iter().find(|label| !is_name(label)) {
        return Err(EngineError::Label { label: label.clone() });
    }
    labels.sort_unstable();
    labels.dedup();
    if labels.len() > LABELS_MAX {
        return Err(EngineError::Labels { count: labels.len() });
    }
    Ok(labels)
}

/// Labels of one engine process.
const LABELS_MAX: usize = 64;

/// The reason why an engine does not run.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// `$FURLONG_HOME` cannot be found.
    #[error(transparent)]
    Home(#[from] HomeError),
    /// The interpreter that was asked for does not exist.
    #[error(transparent)]
    Python(#[from] PythonError),
    /// What came on standard input is no capability.
    #[error("`--cap -` reads a capability file from standard input, and what came is none: {0}")]
    GivenCapability(String),
    /// The directory that tasks shall run in cannot be entered.
    #[error(
        "cannot work in {}: {source}; name a directory that exists here with --cwd",
        path.display()
    )]
    WorkingDir {
        /// The directory.
        path: PathBuf,
        /// The system's error.
        source: std::io::Error,
    },
    /// A label that is none.
    #[error("`{label}` is no label: it has 1 to {NAME_BYTES_MAX} bytes")]
    Label {
        /// The label.
        label: String,
    },
    /// Too many labels.
    #[error("{count} labels are too many: an engine has at most {LABELS_MAX}")]
    Labels {
        /// Their number.
        count: usize,
    },
    /// The system gives no event loop.
    #[error("cannot start the network thread: {0}")]
    Runtime(std::io::Error),
    /// Another try would give the same answer.
    #[error("{0}")]
    NoConnection(String),
}
