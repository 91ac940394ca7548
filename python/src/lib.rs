//! The extension module `furlong._furlong`: connections, tasks and payloads for the package's
//! Python files.
//!
//! Network, cryptography and bookkeeping are `furlong-client`'s, on a thread that never takes the
//! interpreter's lock (`driver.rs`). Python threads come in with the lock and let go of it while
//! they wait. Memory crosses without a copy in both directions (`buffer.rs`). What only Python
//! needs, pickling above all, is in Python. The command `furlong` is here too (`command.rs`).

mod buffer;
mod call;
mod command;
mod completions;
mod driver;
mod engines;
mod errors;
mod function;
mod options;
mod outcome;
mod pass;
mod profile;
mod runtime;
mod session;
mod stream;
mod submitted;
mod task;
mod trace;

use pyo3::prelude::*;

/// The native module that the package's Python files build on.
#[pymodule]
mod _furlong {
    #[pymodule_export]
    use crate::call::Call;
    #[pymodule_export]
    use crate::command::run_command;
    #[pymodule_export]
    use crate::completions::Completions;
    #[pymodule_export]
    use crate::function::{Function, Support};
    #[pymodule_export]
    use crate::options::Options;
    #[pymodule_export]
    use crate::outcome::Outcome;
    #[pymodule_export]
    use crate::pass::PassKey;
    #[pymodule_export]
    use crate::runtime::after_fork;
    #[pymodule_export]
    use crate::runtime::vain_looks;
    #[pymodule_export]
    use crate::runtime::waiting;
    #[pymodule_export]
    use crate::session::Session;
    #[pymodule_export]
    use crate::stream::OutputReader;
    #[pymodule_export]
    use crate::task::Task;
    #[pymodule_export]
    use crate::trace::Trace;

    use pyo3::prelude::*;

    #[pymodule_init]
    fn init(module: &Bound<'_, PyModule>) -> PyResult<()> {
        module.add("__version__", env!("CARGO_PKG_VERSION"))
    }
}
