//! The functions to run.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use furlong_client::{
    Function as ClientFunction, OsText, PickleSupport, PickledFunction, Prepared, Runtime,
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

/// Something to run, made ready once for many calls.
#[pyclass(frozen, module = "furlong._furlong")]
#[derive(Debug)]
pub struct Function {
    prepared: Prepared,
    /// For the second call and later ones, if it is then sent once a session.
    often: OnceLock<Prepared>,
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
    /// The function as its next call has it.
    pub fn prepared(&self) -> &Prepared {
        match &self.pickle {
            Some(pickle) if pickle.is_long() && self.was_called.swap(true, Ordering::Relaxed) => {
                self.often.get_or_init(|| prepare_pickled(pickle.function.clone().defined()))
            }
            _ => &self.prepared,
        }
    }

    fn python(function: ClientFunction) -> Self {
        Self::of(prepare(Runtime::Python, function))
    }

    fn of(prepared: Prepared) -> Self {
        let was_called = AtomicBool::new(false);
        Self { prepared, often: OnceLock::new(), pickle: None, was_called }
    }
}

impl Pickle {
    fn is_long(&self) -> bool {
        self.kept && self.function.blob().len() > SHORT_BYTES
    }
}

fn prepare_pickled(function: PickledFunction) -> Prepared {
    prepare(Runtime::Python, ClientFunction::Pickled(Arc::new(function)))
}

fn prepare(runtime: Runtime, function: ClientFunction) -> Prepared {
    Prepared::new(runtime, function).expect("it is no command, which could be empty")
}

#[pymethods]
impl Function {
    /// Returns true if it is of this pickle. Cheaper than to make it anew, which hashes the pickle
    /// and copies it.
    fn is_of(&self, blob: &[u8]) -> bool {
        self.pickle.as_ref().is_some_and(|pickle| pickle.function.blob()[..] == *blob)
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
        Self { pickle: Some(pickle), ..Self::of(prepare_pickled(function)) }
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
        Self::python(ClientFunction::Named(name))
    }

    /// A Rust function that the engine has registered.
    #[staticmethod]
    fn native(name: String) -> Self {
        Self::of(prepare(Runtime::Native, ClientFunction::Named(name)))
    }

    /// Code to execute in the namespace.
    #[staticmethod]
    fn code(source: String) -> Self {
        Self::python(ClientFunction::Code(source))
    }

    /// A script to run in the namespace; `file` is its name in tracebacks.
    #[staticmethod]
    fn script(file: String, source: Vec<u8>) -> Self {
        Self::python(ClientFunction::Script { file, source: OsText::from_bytes(source) })
    }

    /// Sets variables in the namespace.
    #[staticmethod]
    fn push() -> Self {
        Self::python(ClientFunction::Push)
    }

    /// Evaluates expressions in the namespace.
    #[staticmethod]
    fn pull(names: Vec<String>) -> Self {
        Self::python(ClientFunction::Pull(names))
    }

    /// The names in the namespace.
    #[staticmethod]
    fn keys() -> Self {
        Self::python(ClientFunction::Keys)
    }

    /// Empties the namespace.
    #[staticmethod]
    fn clear() -> Self {
        Self::python(ClientFunction::Clear)
    }

    /// Nothing to run: the arguments are a value for other tasks.
    #[staticmethod]
    fn value() -> Self {
        Self::of(prepare(Runtime::Value, ClientFunction::Value))
    }
}
