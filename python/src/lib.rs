//! The extension module `furlong._furlong`.

mod command;

use pyo3::prelude::*;

/// What the package's Python files build on.
#[pymodule]
mod _furlong {
    #[pymodule_export]
    use crate::command::run_command;

    use pyo3::prelude::*;

    #[pymodule_init]
    fn init(module: &Bound<'_, PyModule>) -> PyResult<()> {
        module.add("__version__", env!("CARGO_PKG_VERSION"))
    }
}
