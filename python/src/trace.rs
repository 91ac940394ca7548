//! Traces: tasks with their times, of the farm or of results that this process holds.

use std::collections::{BTreeMap, HashMap};

use furlong_client::{EngineId, Trace as Inner, TraceError, TraceRange, TracedTask, TracedTimes};
use furlong_wire::message::{RunTimes, TaskState};
use pyo3::exceptions::{PyKeyError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::PyBytes;
use serde_json::json;

use crate::errors::client_error;
use crate::options::{id_text, task_id};

/// A trace.
#[pyclass(frozen, module = "furlong._furlong")]
pub struct Trace {
    inner: Inner,
}

/// A task as Python knows it: id, name, engine, state, error, attempts, times, parts.
type Row = (
    String,
    String,
    Option<u32>,
    Option<String>,
    Option<String>,
    u32,
    (u64, Option<u64>, u64, u64),
    (u64, u64, u64, u64),
);

#[pymethods]
impl Trace {
    /// A trace of these tasks, whose times are as those of an outcome.
    #[staticmethod]
    fn of_tasks(cluster: String, rows: Vec<Row>) -> PyResult<Self> {
        let zero_unix_us = rows.iter().map(|row| row.6.0).min().unwrap_or(0);
        let mut kinds: Vec<String> = Vec::new();
        let mut places: HashMap<String, usize> = HashMap::new();
        let mut tasks = Vec::with_capacity(rows.len());
        for (id, name, engine, state, error, attempts, times, parts) in rows {
            let kind = *places.entry(name).or_insert_with_key(|name| {
                kinds.push(name.clone());
                kinds.len() - 1
            });
            let known =
                |text: String| TaskState::ALL.iter().find(|it| it.as_str() == text).copied();
            let state = state.and_then(known).unwrap_or(TaskState::Failed);
            let engine = engine.map(EngineId);
            let submitted_us = times.0.saturating_sub(zero_unix_us);
            let (began_us, load_us, run_us, store_us) = parts;
            let times = TracedTimes {
                submitted_us,
                queued_us: submitted_us,
                assigned_us: times.1.map(|us| submitted_us.saturating_add(us)),
                ended_us: submitted_us.saturating_add(times.2),
                run: RunTimes { began_us, load_us, run_us, store_us },
            };
            let (id, bytes) = (task_id("id", &id)?, (0, 0));
            let state = Some(state);
            tasks.push(TracedTask { id, kind, engine, state, error, attempts, bytes, times });
        }
        let trace = Inner::new(tasks, kinds, &BTreeMap::new());
        Ok(Self { inner: Inner { cluster, zero_unix_us, ..trace } })
    }

    /// The number of tasks.
    fn __len__(&self) -> usize {
        self.inner.tasks.len()
    }

    /// Says how many tasks it has, and of how many.
    #[getter]
    fn extent(&self) -> String {
        self.inner.extent()
    }

    /// The number of ended tasks whose times are forgotten.
    #[getter]
    fn forgotten(&self) -> u64 {
        self.inner.forgotten
    }

    /// The trace in the format that this name of a file means.
    fn written<'py>(&self, py: Python<'py>, file: &str) -> PyResult<Bound<'py, PyBytes>> {
        let format = furlong_client::TraceFormat::of_file(file).ok_or_else(|| {
            PyValueError::new_err(format!(
                "{file:?}: the ending says the format: .pftrace, .json, .svg or .html"
            ))
        })?;
        let written = py.detach(|| self.inner.written(format));
        Ok(PyBytes::new(py, &written))
    }

    /// The trace as a picture.
    fn svg(&self, py: Python<'_>) -> String {
        py.detach(|| self.inner.svg())
    }

    /// The tasks, as a JSON array. Times are in seconds since 1970, spans in seconds.
    fn spans(&self, py: Python<'_>) -> String {
        py.detach(|| {
            let mut runs = vec![None; self.inner.tasks.len()];
            let slices = self.inner.engines.iter().flat_map(|it| it.lanes.iter().flatten());
            slices.for_each(|slice| runs[slice.task] = Some((slice.start_us, slice.end_us)));
            let tasks = self.inner.tasks.iter().zip(runs);
            let spans = tasks.map(|(task, run)| self.span(task, run));
            serde_json::Value::Array(spans.collect()).to_string()
        })
    }
}

impl Trace {
    /// A trace of the farm.
    pub fn new(inner: Inner) -> Self {
        Self { inner }
    }

    fn span(&self, task: &TracedTask, ran: Option<(u64, u64)>) -> serde_json::Value {
        let at = |us: u64| (self.inner.zero_unix_us + us) as f64 / 1e6;
        let seconds = |us: u64| us as f64 / 1e6;
        let times = &task.times;
        let hosts = &self.inner.engines;
        let engine = hosts.iter().find(|it| Some(it.id) == task.engine);
        json!({
            "task": id_text(task.id), "name": self.inner.name(task),
            "engine": task.engine.map(|id| id.0),
            "host": engine.map(|it| it.host.as_str()).filter(|host| !host.is_empty()),
            "state": task.state_text(), "error": task.error, "attempts": task.attempts,
            "submitted": at(times.submitted_us), "queued": at(times.queued_us),
            "assigned": times.assigned_us.map(at), "started": ran.map(|(start, _)| at(start)),
            "stopped": ran.map(|(_, end)| at(end)), "ended": at(times.ended_us),
            "load_time": seconds(times.run.load_us), "run_time": seconds(times.run.run_us),
            "store_time": seconds(times.run.store_us),
        })
    }
}

/// The range of a trace, as Python names it.
///
/// # Errors
/// `ValueError` if the time is none.
pub fn range(last: Option<&str>, kind: Option<String>) -> PyResult<TraceRange> {
    let wrong = |error: String| PyValueError::new_err(format!("last: {error}"));
    let range = last.map(TraceRange::last).transpose().map_err(wrong)?.unwrap_or_default();
    Ok(TraceRange { kind, ..range })
}

/// The error of a trace that could not be made.
pub fn trace_error(py: Python<'_>, error: &TraceError) -> PyErr {
    match error {
        TraceError::Client(error) => client_error(py, error),
        TraceError::NoKind { .. } => PyKeyError::new_err(error.to_string()),
    }
}
