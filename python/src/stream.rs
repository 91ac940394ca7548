//! The output of a task, as it comes.

use std::pin::Pin;
use std::sync::{Mutex, PoisonError};

use furlong_client::OutputStream;
use futures_util::StreamExt;
use pyo3::prelude::*;
use pyo3::types::PyBytes;

use crate::runtime::{Guarded, limit_of, wait};

/// A piece of output: stream, attempt, offset, bytes that are missing before it, and the bytes.
type Piece<'py> = (&'static str, u32, u64, u64, Bound<'py, PyBytes>);

/// A reader of a task's output.
#[pyclass(frozen, module = "furlong._furlong")]
pub struct OutputReader {
    stream: Guarded<Mutex<OutputStream>>,
}

impl OutputReader {
    /// From what the client gives.
    pub fn new(stream: OutputStream) -> Self {
        Self { stream: Guarded::new(Mutex::new(stream)) }
    }
}

#[pymethods]
impl OutputReader {
    /// Waits for the next piece. None after the end; `TimeoutError` if none came in time. One
    /// thread reads at a time.
    #[pyo3(signature = (timeout=None))]
    fn next<'py>(&self, py: Python<'py>, timeout: Option<f64>) -> PyResult<Option<Piece<'py>>> {
        let stream = self.stream.get()?;
        let limit = limit_of(timeout)?;
        let next = std::future::poll_fn(|context| {
            let mut stream = stream.lock().unwrap_or_else(PoisonError::into_inner);
            Pin::new(&mut *stream).poll_next_unpin(context)
        });
        let Some(piece) = wait(py, next, limit)? else {
            return Err(pyo3::exceptions::PyTimeoutError::new_err("no output came in time"));
        };
        Ok(piece.map(|piece| {
            let bytes = PyBytes::new(py, &piece.bytes);
            (piece.stream.as_str(), piece.attempt, piece.offset, piece.left_out, bytes)
        }))
    }
}
