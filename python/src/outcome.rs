//! The end of a task.

use std::sync::{Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use furlong_client::{
    Codec, Display, ErrorKind, FailureKind, Published, RemoteError, ReplyHeader, TaskFailure,
    TaskOutcome, TaskReport, TaskResult, TaskState,
};
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyList};

use crate::buffer::{hand_over, lend};
use crate::options::id_text;

/// A task's end: its result, or its failure, each with a report.
#[pyclass(frozen, module = "furlong._furlong")]
#[derive(Debug)]
pub struct Outcome {
    result: TaskOutcome,
    /// The value's buffers.
    data: Mutex<Data>,
    data_bytes: usize,
}

impl Outcome {
    /// Of a task that has ended.
    pub fn new(mut result: TaskOutcome) -> Self {
        let data =
            result.as_mut().map(|result| std::mem::take(&mut result.data)).unwrap_or_default();
        let data_bytes = data.iter().map(Bytes::len).sum();
        Self { result, data: Mutex::new(Data::Came(data)), data_bytes }
    }

    fn report(&self) -> &TaskReport {
        match &self.result {
            Ok(result) => &result.report,
            Err(failure) => &failure.report,
        }
    }

    fn lock(&self) -> MutexGuard<'_, Data> {
        self.data.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn failure(&self) -> Option<&TaskFailure> {
        self.result.as_ref().err()
    }
}

/// The buffers of a value.
#[derive(Debug)]
enum Data {
    /// As they came.
    Came(Vec<Bytes>),
    /// As somebody reads them, and whom a signal interrupts reads again.
    Read(Py<PyList>),
}

/// Something displayed: by type, what is said about it, and whether it is the last expression's
/// value.
type Shown<'py> = (Bound<'py, PyDict>, Bound<'py, PyDict>, bool);
/// An exception's type name, text, traceback, and its count of executions.
type RemoteParts = (String, String, String, Option<u64>);

#[pymethods]
impl Outcome {
    /// True if it succeeded.
    #[getter]
    fn ok(&self) -> bool {
        self.result.is_ok()
    }

    /// The codec of the data: `json`, `pickle`, `msgpack`, `raw`; none if there is no value.
    #[getter]
    fn codec(&self) -> Option<&'static str> {
        self.result.as_ref().ok().and_then(|result| result.header.codec()).map(Codec::as_str)
    }

    /// Bytes of the value's buffers.
    #[getter]
    fn nbytes(&self) -> usize {
        self.data_bytes
    }

    /// Bytes of the value, if it stays at the cluster.
    #[getter]
    fn stays(&self) -> Option<u64> {
        self.report().stays
    }

    /// The value's buffers. The caller may write to those that come beside a pickle.
    fn data<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyList>> {
        let came = match &mut *self.lock() {
            Data::Read(buffers) => return Ok(buffers.bind(py).clone()),
            Data::Came(came) => std::mem::take(came),
        };
        // To make a list may collect garbage, and run code that comes here again: not with the
        // lock.
        let is_beside = |at| at > 0 && self.codec() == Some(Codec::Pickle.as_str());
        let convert =
            |(at, buffer)| if is_beside(at) { hand_over(py, buffer) } else { lend(py, &buffer) };
        let buffers = PyList::new(
            py,
            came.into_iter().enumerate().map(convert).collect::<PyResult<Vec<_>>>()?,
        )?;
        *self.lock() = Data::Read(buffers.clone().unbind());
        Ok(buffers)
    }

    /// Lets go of the value's buffers: the value is made.
    fn drop_data(&self) {
        let before = std::mem::replace(&mut *self.lock(), Data::Came(Vec::new()));
        drop(before);
    }

    /// Returns the outcome of an execution: its count, and the last expression's text.
    #[getter]
    fn executed(&self) -> Option<(u64, Option<String>)> {
        match &self.result.as_ref().ok()?.header {
            ReplyHeader::Executed { count, repr, .. } => Some((*count, repr.clone())),
            _ => None,
        }
    }

    /// Returns its displays: dictionaries by type, what is said of each, and whether it is the last
    /// expression's value.
    fn displays<'py>(&self, py: Python<'py>) -> PyResult<Vec<Shown<'py>>> {
        let shown = self.result.as_ref().map_or(&[][..], |result| result.header.displays());
        let convert = |display: &Display| {
            let (data, metadata) = (PyDict::new(py), PyDict::new(py));
            display.data.iter().try_for_each(|(kind, text)| data.set_item(kind, text))?;
            display.metadata.iter().try_for_each(|(kind, text)| metadata.set_item(kind, text))?;
            Ok((data, metadata, display.is_value))
        };
        shown.iter().map(convert).collect()
    }

    /// The kind of the failure, as [`ErrorKind`] has it, or `disconnected`, or `submit`.
    #[getter]
    fn kind(&self) -> Option<&'static str> {
        let failure = self.failure()?;
        Some(match &*failure.error {
            FailureKind::Disconnected(_) => "disconnected",
            FailureKind::Submit(_) => "submit",
            _ => failure.kind().map_or("remote", ErrorKind::as_str),
        })
    }

    /// Describes the failure, for people.
    #[getter]
    fn text(&self) -> Option<String> {
        self.failure().map(|failure| failure.error.to_string())
    }

    /// The exception that the code raised.
    #[getter]
    fn remote(&self) -> Option<RemoteParts> {
        self.failure().and_then(TaskFailure::remote).map(|error| {
            let RemoteError { type_name, message, traceback, execution } = error.clone();
            (type_name, message, traceback, execution)
        })
    }

    /// The engine's details of the exception beyond its texts.
    fn remote_details<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyList>> {
        let details = self.failure().map_or(&[][..], TaskFailure::remote_details);
        PyList::new(
            py,
            details.iter().map(|buffer| lend(py, buffer)).collect::<PyResult<Vec<_>>>()?,
        )
    }

    /// The exit code and the signal that a command ended with.
    #[getter]
    fn exited(&self) -> Option<(Option<i32>, Option<i32>)> {
        match &self.result {
            Ok(TaskResult { header: ReplyHeader::Exited { code, signal, .. }, .. }) => {
                Some((*code, *signal))
            }
            Ok(_) => None,
            Err(failure) => match &*failure.error {
                FailureKind::Exit { code, signal, .. } => Some((*code, *signal)),
                _ => None,
            },
        }
    }

    /// The terminal state; none if it is not known here.
    #[getter]
    fn state(&self) -> Option<&'static str> {
        match &self.result {
            Ok(_) => Some(TaskState::Succeeded.as_str()),
            Err(failure) => failure.state().map(TaskState::as_str),
        }
    }

    /// The task's name.
    #[getter]
    fn id(&self) -> String {
        id_text(self.report().id)
    }

    /// The engine that ran it.
    #[getter]
    fn engine(&self) -> Option<u32> {
        self.report().engine.map(|engine| engine.0)
    }

    /// The number of attempts.
    #[getter]
    fn attempts(&self) -> u32 {
        self.report().attempts
    }

    /// The time of its submit, in microseconds since 1970; then microseconds from there to its
    /// assignment and its end, and for how many it occupied its engine.
    #[getter]
    fn times(&self) -> (u64, Option<u64>, u64, u64) {
        let times = &self.report().times;
        let busy_us = times.run.busy_us();
        (times.submitted_unix_us, times.assigned_us, times.finished_us, busy_us)
    }

    /// The parts of its last attempt, in microseconds: until its engine began with it, loaded it,
    /// ran its code, and encoded its value.
    #[getter]
    fn parts(&self) -> (u64, u64, u64, u64) {
        let run = &self.report().times.run;
        (run.began_us, run.load_us, run.run_us, run.store_us)
    }

    /// Its standard output.
    #[getter]
    fn stdout(&self) -> String {
        self.report().stdout.text()
    }

    /// Its standard error.
    #[getter]
    fn stderr(&self) -> String {
        self.report().stderr.text()
    }

    /// The last of what it published: codec and buffers.
    fn published<'py>(&self, py: Python<'py>) -> PyResult<Option<PublishedParts<'py>>> {
        self.report()
            .published
            .as_deref()
            .map(|published| published_parts(py, published))
            .transpose()
    }
}

/// Codec and buffers of what a task published, and the publication's number.
pub type PublishedParts<'py> = (Option<&'static str>, Bound<'py, PyList>, u64);

/// Returns what a task published, for Python.
pub fn published_parts<'py>(
    py: Python<'py>,
    published: &Published,
) -> PyResult<PublishedParts<'py>> {
    let buffers =
        published.data.iter().map(|buffer| lend(py, buffer)).collect::<PyResult<Vec<_>>>()?;
    Ok((published.header.codec().map(Codec::as_str), PyList::new(py, buffers)?, published.number))
}
