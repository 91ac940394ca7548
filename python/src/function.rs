//! The functions to run.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use furlong_client::{
    CallSpec, Function as ClientFunction, OsText, PickleSupport, PickledFunction, Runtime,
};
use pyo3::prelude::*;

/// The text of the client's cloudpickle, for engines that have none.
#[pyclass(frozen, module = "furlong._furlong")]
#[derive(Debug)]
pub struct Support {
    support: PickleSupport,
}

#[pymethods]
impl Support {
    #[new]
    fn new(text: &[u8]) -> Self {
        Self { support: PickleSupport::new(text.to_vec()) }
    }
}

/// Something to run, made once for many calls.
#[pyclass(frozen, module = "furlong._furlong")]
#[derive(Debug)]
pub struct Function {
    call: CallSpec,
    /// For the second call and later ones.
    often: Option<CallSpec>,
    /// The pickle, if it is one.
    pickle: Option<Pickle>,
    was_called: AtomicBool,
}

/// A pickled function, and what else its call says.
#[derive(Debug)]
struct Pickle {
    function: PickledFunction,
    python: (u8, u8),
    has_code: bool,
    kept: bool,
}

/// A pickle that is longer is sent once a session from the second call on.
const SHORT_BYTES: usize = 128;

impl Function {
    /// A call of it, without arguments.
    pub fn call(&self) -> CallSpec {
        match &self.often {
            Some(often) if self.was_called.swap(true, Ordering::Relaxed) => often.clone(),
            _ => self.call.clone(),
        }
    }

    fn of(function: ClientFunction) -> Self {
        Self::once(CallSpec::new(Runtime::Python, function))
    }

    fn once(call: CallSpec) -> Self {
        Self { call, often: None, pickle: None, was_called: AtomicBool::new(false) }
    }
}

#[pymethods]
impl Function {
    /// Returns true if it is of this pickle. Cheaper than to make it anew, which hashes the pickle
    /// and copies it.
    fn is_of(&self, blob: &[u8]) -> bool {
        self.call.pickle().is_some_and(|pickle| pickle[..] == *blob)
    }

    /// A Python function as a pickle: its name for people, the pickle, the version of Python that
    /// made it, whether it holds code, and whether engines keep what they have loaded.
    #[staticmethod]
    #[pyo3(signature = (name, blob, python, has_code, support, kept=true))]
    fn pickled(
        name: String,
        blob: &[u8],
        python: (u8, u8),
        has_code: bool,
        support: &Support,
        kept: bool,
    ) -> Self {
        let function = PickledFunction::new(name, blob.to_vec(), python);
        let function = function.has_code(has_code).kept(kept).support(&support.support);
        let pickle = Pickle { function: function.clone(), python, has_code, kept };
        let often = (blob.len() > SHORT_BYTES && kept)
            .then(|| CallSpec::pickled(Arc::new(function.clone().defined())));
        Self { often, pickle: Some(pickle), ..Self::once(CallSpec::pickled(Arc::new(function))) }
    }

    /// The same pickled function with something behind its pickle and other support; none if it is
    /// no pickle.
    fn with_support(&self, mark: &[u8], support: &Support) -> Option<Self> {
        let Pickle { function, python, has_code, kept } = self.pickle.as_ref()?;
        let blob = [&function.blob()[..], mark].concat();
        Some(Self::pickled(function.name().to_owned(), &blob, *python, *has_code, support, *kept))
    }

    /// A Python function that the engine finds as `module:name`.
    #[staticmethod]
    fn named(name: String) -> Self {
        Self::once(CallSpec::python(name))
    }

    /// A Rust function that the engine has registered.
    #[staticmethod]
    fn native(name: String) -> Self {
        Self::once(CallSpec::native(name))
    }

    /// Code to execute in the namespace.
    #[staticmethod]
    fn code(source: String) -> Self {
        Self::of(ClientFunction::Code(source))
    }

    /// A script to run in the namespace; `file` is its name in tracebacks.
    #[staticmethod]
    fn script(file: String, source: Vec<u8>) -> Self {
        Self::of(ClientFunction::Script { file, source: OsText::from_bytes(source) })
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
        Self::once(CallSpec::command(argv))
    }
}
