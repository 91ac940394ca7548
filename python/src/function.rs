//! What to run.

use furlong_client::{CallSpec, Function as ClientFunction, Runtime};
use pyo3::prelude::*;

/// Something to run, made once for many calls.
#[pyclass(frozen, module = "furlong._furlong")]
#[derive(Debug)]
pub struct Function {
    call: CallSpec,
}

impl Function {
    /// A call of it, without arguments.
    pub fn call(&self) -> CallSpec {
        self.call.clone()
    }

    fn of(function: ClientFunction) -> Self {
        Self { call: CallSpec::new(Runtime::Python, function) }
    }
}

#[pymethods]
impl Function {
    /// A Python function that the engine finds as `module:name`.
    #[staticmethod]
    fn named(name: String) -> Self {
        Self { call: CallSpec::python(name) }
    }

    /// A Rust function that the engine has registered.
    #[staticmethod]
    fn native(name: String) -> Self {
        Self { call: CallSpec::native(name) }
    }

    /// Code to execute in the namespace.
    #[staticmethod]
    fn code(source: String) -> Self {
        Self::of(ClientFunction::Code(source))
    }

    /// A script to run in the namespace; `file` is its name in tracebacks.
    #[staticmethod]
    fn script(file: String, source: String) -> Self {
        Self::of(ClientFunction::Script { file, source })
    }

    /// Sets variables in the namespace.
    #[staticmethod]
    fn push() -> Self {
        Self::of(ClientFunction::Push)
    }

    /// Evaluates expressions in the namespace.
    #[staticmethod]
    fn pull(names: Vec<String>) -> Self {
        Self::of(ClientFunction::Pull(names))
    }

    /// The names in the namespace.
    #[staticmethod]
    fn keys() -> Self {
        Self::of(ClientFunction::Keys)
    }

    /// Empties the namespace.
    #[staticmethod]
    fn clear() -> Self {
        Self::of(ClientFunction::Clear)
    }

    /// A program to run, with its arguments.
    #[staticmethod]
    fn command(argv: Vec<String>) -> Self {
        Self { call: CallSpec::command(argv) }
    }
}
