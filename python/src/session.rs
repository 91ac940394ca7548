//! A session with a broker.

use std::sync::Arc;
use std::time::Duration;

use furlong_client::{
    Client, ClientBuilder, ClientError, ClusterName, EngineId, EngineTargets, HasTaskId,
    Inspectable, LinkEvent, Signal, TaskFuture, TaskQuery, TaskSeq, watch_json,
};
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use serde::Serialize;

use crate::buffer::release_returned;
use crate::call::Call;
use crate::engines::Engines;
use crate::errors::{client_error, connect_error};
use crate::options::{id_text, task_id};
use crate::outcome::Outcome;
use crate::pass::PassKey;
use crate::profile;
use crate::runtime::{Guarded, driver, limit_of, note_vain_look, run, wait};
use crate::submitted;
use crate::task::{Task, answer};
use crate::trace::{Trace, range, trace_error};

/// The time that the broker has for an answer, unless connecting to it may take longer.
const ANSWERS_WITHIN: Duration = Duration::from_secs(30);
/// The least time that it has for the first answer, which belongs to connecting.
const FIRST_ANSWER_WITHIN: Duration = Duration::from_secs(1);

/// A session with a broker, and the engines that are online.
#[pyclass(frozen, weakref, module = "furlong._furlong")]
pub struct Session {
    inner: Guarded<Inner>,
}

struct Inner {
    client: Client,
    engines: Arc<Engines>,
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.engines.leave();
    }
}

/// A client that hides names or does not, if somebody has said so.
fn hiding(builder: ClientBuilder, hide_names: Option<bool>) -> ClientBuilder {
    match hide_names {
        Some(hide) => builder.hide_names(hide),
        None => builder,
    }
}

#[pymethods]
impl Session {
    /// Connects: by the capability file, else as the client's builder finds one. Waits so many
    /// seconds for file and broker. `on_link` is not called from here: ask `cuts`.
    #[staticmethod]
    #[pyo3(signature = (capability=None, cluster=None, timeout=10.0, hide_names=None))]
    fn connect(
        py: Python<'_>,
        capability: Option<std::path::PathBuf>,
        cluster: Option<String>,
        timeout: f64,
        hide_names: Option<bool>,
    ) -> PyResult<Self> {
        let mut builder = hiding(Client::builder(), hide_names);
        if let Some(path) = capability {
            builder = builder.capability(path);
        }
        if let Some(name) = cluster {
            let name: ClusterName =
                name.parse().map_err(|error| PyValueError::new_err(format!("cluster: {error}")))?;
            builder = builder.cluster(name);
        }
        Self::open(py, builder, timeout)
    }

    /// Connects with the key of a running task's client, through the door that its engine has
    /// described.
    #[staticmethod]
    #[pyo3(signature = (key, door, timeout, hide_names=None))]
    fn connect_by_pass(
        py: Python<'_>,
        key: &PassKey,
        door: &str,
        timeout: f64,
        hide_names: Option<bool>,
    ) -> PyResult<Self> {
        Self::open(py, hiding(Client::builder().pass(key.pass(door)?), hide_names), timeout)
    }

    /// Returns the number of unfinished tasks.
    #[getter]
    fn unfinished_count(&self) -> PyResult<usize> {
        Ok(self.inner.get()?.client.unfinished_count())
    }

    /// The session's id.
    #[getter]
    fn id(&self) -> PyResult<String> {
        let session = u128::from_be_bytes(self.inner.get()?.client.session().0);
        Ok(format!("{session:032x}"))
    }

    /// The few characters by which people name the session.
    #[getter]
    fn short_id(&self) -> PyResult<String> {
        Ok(self.inner.get()?.client.session().prefix())
    }

    /// The number of tasks submitted.
    fn submitted(&self) -> PyResult<u64> {
        Ok(self.inner.get()?.client.submitted())
    }

    /// Cancels what the calling thread has submitted after the first `count` tasks, and waits for
    /// nothing.
    fn cancel_since(&self, count: u64) -> PyResult<()> {
        let client = &self.inner.get()?.client;
        client.cancel_numbers(&submitted::since(client.session(), TaskSeq(count)));
        Ok(())
    }

    /// The ids of those that have not ended.
    fn unfinished(&self) -> PyResult<Vec<String>> {
        let unfinished = self.inner.get()?.client.unfinished();
        if !unfinished.is_empty() {
            note_vain_look();
        }
        Ok(unfinished.into_iter().map(id_text).collect())
    }

    /// The cluster's name.
    #[getter]
    fn cluster(&self) -> PyResult<String> {
        Ok(self.inner.get()?.client.welcome().cluster_name.clone())
    }

    /// The endpoint of the broker.
    #[getter]
    fn endpoint(&self) -> PyResult<String> {
        Ok(self.inner.get()?.client.endpoint().to_string())
    }

    /// The ids of the engines that are online, sorted, and a number that changes with them.
    fn engines(&self) -> PyResult<(Vec<u32>, u64)> {
        Ok(self.inner.get()?.engines.online())
    }

    /// Waits until the engines are others than at that number; whether they are, within the
    /// timeout.
    #[pyo3(signature = (version, timeout=None))]
    fn wait_engines(&self, py: Python<'_>, version: u64, timeout: Option<f64>) -> PyResult<bool> {
        let engines = &self.inner.get()?.engines;
        let change = std::future::poll_fn(|context| engines.poll_change(version, context));
        Ok(wait(py, change, limit_of(timeout)?)?.is_some())
    }

    /// Submits a call to the shared queue. Waits while the session's credit is used up.
    fn submit(&self, py: Python<'_>, call: &Call) -> PyResult<Task> {
        let tasks = self.inner.get()?.client.tasks();
        release_returned(py);
        match tasks.try_call_prepared(call.prepared()) {
            Err(ClientError::Busy) => answer(py, tasks.call_prepared(call.prepared())).map(noted),
            submitted => {
                let task = noted(submitted.map_err(|error| client_error(py, &error))?);
                write(py)?;
                Ok(task)
            }
        }
    }

    /// Submits a call to each of these engines, with one copy of its data. Waits while the
    /// session's credit is used up.
    fn submit_to(&self, py: Python<'_>, engines: Vec<u32>, call: &Call) -> PyResult<Vec<Task>> {
        let multiengine = self.inner.get()?.client.multiengine(targets(engines));
        release_returned(py);
        let group = answer(py, multiengine.call_prepared(call.prepared()))?;
        let tasks = group.into_iter().map(noted).collect();
        write(py)?;
        Ok(tasks)
    }

    /// The cluster as the broker sees it, as JSON.
    fn status(&self, py: Python<'_>) -> PyResult<String> {
        json(&answer(py, self.inner.get()?.client.status())?)
    }

    /// Records of the owner's tasks, as a JSON array: those that the query, as JSON, means.
    #[pyo3(signature = (session=None, label=None, ended=None, first=None, last=None, limit=0))]
    #[expect(clippy::too_many_arguments, reason = "they are named arguments in Python")]
    fn records(
        &self,
        py: Python<'_>,
        session: Option<String>,
        label: Option<String>,
        ended: Option<bool>,
        first: Option<u64>,
        last: Option<u64>,
        limit: u32,
    ) -> PyResult<String> {
        let (first, last) = (first.map(TaskSeq), last.map(TaskSeq));
        let query = TaskQuery { session, label, ended, first, last, limit, ..TaskQuery::default() };
        json(&answer(py, self.inner.get()?.client.query_tasks(query).all())?)
    }

    /// Where an engine's interpreter is, or the one that runs a task, as JSON.
    #[pyo3(signature = (engine=None, task=None))]
    fn stack(&self, py: Python<'_>, engine: Option<u32>, task: Option<&str>) -> PyResult<String> {
        let of = inspectable(engine, task)?;
        let stack = answer(py, self.inner.get()?.client.stack(of))?;
        let mut told = stack.to_json();
        told["task"] = stack.task.map(id_text).into();
        Ok(told.to_string())
    }

    /// Samples of an engine's interpreter, or of the one that runs a task, as JSON.
    #[pyo3(signature = (engine, task, seconds, rate))]
    fn profile(
        &self,
        py: Python<'_>,
        engine: Option<u32>,
        task: Option<&str>,
        seconds: f64,
        rate: u32,
    ) -> PyResult<String> {
        let of = inspectable(engine, task)?;
        let length = Duration::try_from_secs_f64(seconds)
            .map_err(|_| PyValueError::new_err("seconds: a number of seconds from 0.1 to 600"))?;
        let profile = answer(py, self.inner.get()?.client.profile(of, length, rate))?;
        Ok(profile::told(&profile).to_string())
    }

    /// A trace of the tasks that have ended in the last time, of a kind or of all.
    #[pyo3(signature = (last=None, kind=None))]
    fn trace(&self, py: Python<'_>, last: Option<&str>, kind: Option<String>) -> PyResult<Trace> {
        let range = range(last, kind)?;
        let traced = wait(py, self.inner.get()?.client.trace(&range, |_, _| {}), None)?;
        let traced = traced.expect("there is no limit");
        traced.map(Trace::new).map_err(|error| trace_error(py, &error))
    }

    /// The farm as this client's owner sees it, as JSON.
    fn look(&self, py: Python<'_>) -> PyResult<String> {
        let picture = answer(py, self.inner.get()?.client.look_whole())?;
        Ok(watch_json::of_picture(&picture).to_string())
    }

    /// A task of any session of the owner: its record as JSON, and its end, if it is known and
    /// kept. With `wait`, waits for the end; none if it has not come within the timeout.
    #[pyo3(signature = (id, wait, timeout=None))]
    fn fetch(
        &self,
        py: Python<'_>,
        id: &str,
        wait: bool,
        timeout: Option<f64>,
    ) -> PyResult<Option<(String, Option<Outcome>)>> {
        let client = &self.inner.get()?.client;
        let id = task_id("id", id)?;
        let limit = limit_of(timeout)?;
        let fetched = if wait {
            crate::runtime::wait(py, client.wait_for(id), limit)?
        } else {
            crate::runtime::wait(py, client.fetch(id), limit)?
        };
        let Some(fetched) = fetched else { return Ok(None) };
        let fetched = fetched.map_err(|error| client_error(py, &error))?;
        Ok(Some((json(&fetched.record)?, fetched.result.map(Outcome::new))))
    }

    /// Cancels tasks of any session of the owner: how many are cancelled from now on, and how many
    /// had ended.
    #[pyo3(signature = (ids, force=false))]
    fn cancel(&self, py: Python<'_>, ids: Vec<String>, force: bool) -> PyResult<(u64, u64)> {
        let tasks = ranges(ids)?;
        let cancelled = answer(py, self.inner.get()?.client.cancel_tasks(&tasks, force))?;
        Ok((cancelled.cancelled, cancelled.finished))
    }

    /// Ends those tasks of any session of the owner that have not begun: how many are ended or
    /// asked back, and how many had ended.
    fn take_back(&self, py: Python<'_>, ids: Vec<String>) -> PyResult<(u64, u64)> {
        let cancelled = answer(py, self.inner.get()?.client.take_back(&ranges(ids)?))?;
        Ok((cancelled.cancelled, cancelled.finished))
    }

    /// Forgets kept results.
    fn purge(&self, py: Python<'_>, ids: Vec<String>) -> PyResult<()> {
        answer(py, self.inner.get()?.client.purge(&ranges(ids)?))
    }

    /// Sends a signal to what runs on these engines.
    fn signal(&self, py: Python<'_>, engines: Vec<u32>, signal: &str) -> PyResult<()> {
        let signal: Signal =
            signal.parse().map_err(|error| PyValueError::new_err(format!("{error}")))?;
        answer(py, self.inner.get()?.client.multiengine(targets(engines)).signal(signal))
    }

    /// Gives these engines new interpreters.
    fn restart(&self, py: Python<'_>, engines: Vec<u32>) -> PyResult<()> {
        answer(py, self.inner.get()?.client.multiengine(targets(engines)).restart())
    }

    /// Stops these engines, or all; with `broker`, the broker too.
    #[pyo3(signature = (engines, finish=false, broker=false))]
    fn shutdown(
        &self,
        py: Python<'_>,
        engines: Option<Vec<u32>>,
        finish: bool,
        broker: bool,
    ) -> PyResult<()> {
        let client = &self.inner.get()?.client;
        if broker {
            return answer(py, client.shutdown_cluster(finish));
        }
        answer(py, client.shutdown(engines.map_or(EngineTargets::All, targets), finish))
    }

    /// Waits until the broker has all that was submitted, and its journal what is durable of it.
    fn flush(&self, py: Python<'_>) -> PyResult<()> {
        answer(py, self.inner.get()?.client.flush())
    }

    /// Ends the session: what is unfinished is cancelled, unless it is to be kept and `detach` is
    /// set.
    #[pyo3(signature = (detach=false))]
    fn close(&self, py: Python<'_>, detach: bool) -> PyResult<()> {
        let client = self.inner.get()?.client.clone();
        if detach {
            return answer(py, client.detach());
        }
        wait(py, client.close(), None).map(|_| ())
    }

    /// Returns true if the session is over.
    #[getter]
    fn closed(&self, py: Python<'_>) -> PyResult<bool> {
        let closed = self.inner.get()?.client.closed();
        Ok(wait(py, closed, Some(Duration::ZERO))?.is_some())
    }
}

impl Session {
    fn open(py: Python<'_>, builder: ClientBuilder, timeout: f64) -> PyResult<Self> {
        let wait = limit_of(Some(timeout))?.unwrap_or(Duration::MAX);
        let engines = Arc::new(Engines::default());
        let told = Arc::clone(&engines);
        let builder = builder
            .wait(wait)
            .software(concat!("furlong-python/", env!("CARGO_PKG_VERSION")))
            .on_link(move |event| {
                if matches!(event, LinkEvent::Back) {
                    told.handle_back();
                }
            });
        let builder = builder.answers_within(wait.max(ANSWERS_WITHIN));
        let client = run(py, builder.connect())?.map_err(|error| connect_error(py, &error))?;
        let (of, following) = (client.clone(), Arc::clone(&engines));
        let first = wait.max(FIRST_ANSWER_WITHIN);
        let followed =
            run(py, async move { tokio::time::timeout(first, following.follow(&of)).await })?;
        let (endpoint, seconds) = (client.endpoint().clone(), first.as_secs() as u32);
        let followed = followed.unwrap_or(Err(ClientError::NoAnswer { endpoint, seconds }));
        followed.map_err(|error| client_error(py, &error))?;
        Ok(Self { inner: Guarded::new(Inner { client, engines }) })
    }
}

/// A task of the calling thread.
fn noted(task: TaskFuture) -> Task {
    submitted::note(HasTaskId::task_id(&task));
    Task::new(task)
}

/// Writes what was submitted, unless the background thread does.
fn write(py: Python<'_>) -> PyResult<()> {
    let driver = driver(py)?;
    if driver.note_submit() {
        py.detach(|| driver.write());
    }
    Ok(())
}

/// An interpreter as Python names it: that of an engine, or the one that runs a task.
fn inspectable(engine: Option<u32>, task: Option<&str>) -> PyResult<Inspectable> {
    Ok(match task {
        Some(task) => Inspectable::Task(task_id("task", task)?),
        None => Inspectable::Engine(EngineId(engine.unwrap_or_default())),
    })
}

fn targets(engines: Vec<u32>) -> EngineTargets {
    EngineTargets::Ids(engines.into_iter().map(EngineId).collect())
}

fn ranges(ids: Vec<String>) -> PyResult<Vec<furlong_client::TaskRange>> {
    let range = |id: String| {
        let id = task_id("id", &id)?;
        Ok(furlong_client::TaskRange { session: id.session, first: id.n, last: id.n })
    };
    ids.into_iter().map(range).collect()
}

fn json(value: &impl Serialize) -> PyResult<String> {
    serde_json::to_string(value).map_err(|error| PyValueError::new_err(error.to_string()))
}
