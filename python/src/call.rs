//! Calls: a function with arguments and options, made ready once to be submitted once or again.

use bytes::Bytes;
use furlong_client::{Arguments, PreparedCall};
use pyo3::exceptions::PyTypeError;
use pyo3::prelude::*;
use pyo3::types::PySequence;

use crate::buffer::borrow;
use crate::errors::client_error;
use crate::function::Function;
use crate::options::Options;

/// A call of a function, ready to be submitted.
#[pyclass(frozen, module = "furlong._furlong")]
#[derive(Debug)]
pub struct Call {
    prepared: PreparedCall,
}

impl Call {
    /// As the client takes it.
    pub fn prepared(&self) -> &PreparedCall {
        &self.prepared
    }
}

#[pymethods]
impl Call {
    /// A call with these buffers in a codec, or with no arguments. `has_code` says that they hold
    /// functions or classes by value; `inputs` are the tasks whose values are among them, and of
    /// these `failed` have failed already.
    #[new]
    #[pyo3(signature = (
        function, codec, data, options=None, has_code=false, inputs=Vec::new(), failed=Vec::new(),
    ))]
    #[expect(clippy::too_many_arguments, reason = "they are named arguments in Python")]
    fn new(
        py: Python<'_>,
        function: &Function,
        codec: Option<&str>,
        data: &Bound<'_, PySequence>,
        options: Option<&Options>,
        has_code: bool,
        inputs: Vec<String>,
        failed: Vec<String>,
    ) -> PyResult<Self> {
        let buffers = || data.try_iter()?.map(|buffer| borrow(&buffer?)).collect::<PyResult<_>>();
        let arguments = match codec {
            Some("pickle") if has_code => Arguments::PickleOfCode(buffers()?),
            Some("pickle") => Arguments::Pickle(buffers()?),
            Some("msgpack") => Arguments::Msgpack(first(buffers()?)),
            Some("raw") => Arguments::Raw(buffers()?),
            None => Arguments::None,
            Some(other) => {
                return Err(PyTypeError::new_err(format!("there is no codec {other:?}")));
            }
        };
        let options = if inputs.is_empty() && failed.is_empty() {
            options.map(|options| options.get().clone())
        } else {
            Some(Options::with_inputs(options, py, inputs, failed)?)
        };
        let prepared = function.prepared().call(arguments, options);
        Ok(Self { prepared: prepared.map_err(|error| client_error(py, &error))? })
    }

    /// Bytes of its arguments.
    #[getter]
    fn nbytes(&self) -> usize {
        self.prepared.data_bytes()
    }
}

fn first(buffers: Vec<Bytes>) -> Bytes {
    buffers.into_iter().next().unwrap_or_default()
}
