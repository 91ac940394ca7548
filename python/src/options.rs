//! The options of a task beyond the defaults.

use std::time::Duration;

use furlong_client::{
    CheckedOptions, ClientError, Dependency, SessionId, TaskId, TaskOptions, TaskSeq,
};
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;

use crate::errors::{client_error, raise};

/// Options of tasks, checked and made once for many.
#[pyclass(frozen, module = "furlong._furlong")]
#[derive(Debug)]
pub struct Options {
    checked: CheckedOptions,
    /// The same, for calls that have more.
    plain: TaskOptions,
}

impl Options {
    /// As the client takes them.
    pub fn get(&self) -> &CheckedOptions {
        &self.checked
    }

    /// These, or none, for a call that has the values of tasks among its arguments. Some may have
    /// failed already: the call fails because of them.
    ///
    /// # Errors
    /// `InvalidOption` for too many tasks, and for a failed one beside others of which one is
    /// enough.
    pub fn with_inputs(
        options: Option<&Self>,
        py: Python<'_>,
        inputs: Vec<String>,
        failed: Vec<String>,
    ) -> PyResult<CheckedOptions> {
        let mut plain = options.map_or_else(TaskOptions::default, |it| it.plain.clone());
        let ids = |ids: Vec<String>| ids.into_iter().map(|id| task_id("inputs", &id));
        plain.inputs = ids(inputs).collect::<PyResult<_>>()?;
        for task in ids(failed) {
            let task = task?;
            if plain.after_any && !plain.after.is_empty() {
                let text = format!("an argument is the result of {task}, which has failed");
                return Err(raise(py, "InvalidOption", text));
            }
            plain.after_any = false;
            plain.after.push(Dependency { task, success: true, failure: false });
        }
        let checked = CheckedOptions::new(plain).map_err(ClientError::Options);
        checked.map_err(|error| client_error(py, &error))
    }
}

/// Conditions on other tasks: their ids, whether one is enough, whether success and failure
/// satisfy.
type Depends = (Vec<String>, bool, bool, bool);

#[pymethods]
impl Options {
    #[new]
    #[pyo3(signature = (
        *, label=None, priority=0, retries=None, error_retries=0, backoff=0.0, at_most_once=false,
        queue_timeout=None, run_timeout=None, time_request=None, after=None, follow=None,
        require=Vec::new(), keep=false, abort_on_error=false, restart_safe=false, durable=false,
        stay=false,
    ))]
    #[expect(
        clippy::too_many_arguments,
        clippy::fn_params_excessive_bools,
        reason = "they are named arguments in Python"
    )]
    fn new(
        py: Python<'_>,
        label: Option<String>,
        priority: i32,
        retries: Option<u32>,
        error_retries: u32,
        backoff: f64,
        at_most_once: bool,
        queue_timeout: Option<f64>,
        run_timeout: Option<f64>,
        time_request: Option<f64>,
        after: Option<Depends>,
        follow: Option<Depends>,
        require: Vec<String>,
        keep: bool,
        abort_on_error: bool,
        restart_safe: bool,
        durable: bool,
        stay: bool,
    ) -> PyResult<Self> {
        let (after, after_any) = dependencies("after", after)?;
        let (follow, follow_any) = dependencies("follow", follow)?;
        let options = TaskOptions {
            label,
            priority,
            retries,
            error_retries,
            backoff_ms: whole_ms("backoff", backoff)?,
            at_most_once,
            queue_timeout_ms: queue_timeout
                .map(|limit| limit_ms("queue_timeout", limit))
                .transpose()?,
            run_timeout_ms: run_timeout.map(|limit| limit_ms("run_timeout", limit)).transpose()?,
            time_request_ms: time_request.map(|time| limit_ms("time_request", time)).transpose()?,
            after,
            after_any,
            follow,
            follow_any,
            require,
            keep,
            abort_on_error,
            restart_safe,
            durable,
            stay,
            ..TaskOptions::default()
        };
        let checked = CheckedOptions::new(options.clone()).map_err(ClientError::Options);
        let checked = checked.map_err(|error| client_error(py, &error))?;
        Ok(Self { checked, plain: options })
    }
}

fn dependencies(option: &str, depends: Option<Depends>) -> PyResult<(Vec<Dependency>, bool)> {
    let Some((tasks, is_any, success, failure)) = depends else { return Ok((Vec::new(), false)) };
    let on = |id: String| Ok(Dependency { task: task_id(option, &id)?, success, failure });
    Ok((tasks.into_iter().map(on).collect::<PyResult<_>>()?, is_any))
}

/// A task's name as Python has it: its session's whole id in hexadecimal, and its number there.
pub fn id_text(id: TaskId) -> String {
    let session = u128::from_be_bytes(id.session.0);
    format!("{session:032x}:{}", id.n)
}

/// The task that a text names.
///
/// # Errors
/// `ValueError` if it names none.
pub fn task_id(of: &str, text: &str) -> PyResult<TaskId> {
    let read = || {
        let (session, n) = text.split_once(':')?;
        let session = (session.len() == 32).then(|| u128::from_str_radix(session, 16).ok())??;
        Some(TaskId { session: SessionId(session.to_be_bytes()), n: TaskSeq(n.parse().ok()?) })
    };
    read().ok_or_else(|| {
        PyValueError::new_err(format!(
            "{of}: {text:?} is no task's id, which has 32 hexadecimal digits, a colon, a number"
        ))
    })
}

fn limit_ms(option: &str, seconds: f64) -> PyResult<u64> {
    let limit = whole_ms(option, seconds)?;
    if limit == 0 {
        return Err(PyValueError::new_err(format!(
            "{option}: no time at all; leave it out for no limit"
        )));
    }
    Ok(limit)
}

fn whole_ms(option: &str, seconds: f64) -> PyResult<u64> {
    let time = Duration::try_from_secs_f64(seconds)
        .map_err(|_| PyValueError::new_err(format!("{option}: {seconds} is no time in seconds")))?;
    Ok(u64::try_from(time.as_nanos().div_ceil(1_000_000)).unwrap_or(u64::MAX))
}
