//! The same API for programs without async code: calls return when their work is done.
//!
//! ```no_run
//! use furlong_client::{Arguments, CallSpec, Function, blocking};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let client = blocking::Client::connect_with(furlong_client::Client::builder())?;
//! let mut task = client.tasks().call(&CallSpec::native("noop"))?;
//! println!("{:?}", task.wait()?.report.times);
//! let numbers = (1..=3).map(|n: i64| Arguments::json(vec![n.into()]));
//! for (place, result) in client.tasks().map(Function::Named("math:sqrt".into()), numbers).start()? {
//!     println!("{place}: {}", result?.json::<f64>()?);
//! }
//! # Ok(())
//! # }
//! ```
//!
//! One background thread serves the connection, so it stays alive whatever the calling threads do. All types can be
//! used from any thread. Inside a tokio runtime, calls are an error (`InsideAsync`), as they would stop it.

mod park;

use std::io;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use furlong_wire::capability::{Capability, Endpoint};
use furlong_wire::ids::{EngineId, SessionId, TaskId};
use furlong_wire::message::{ClusterStatus, Runtime, Welcome};
use futures_util::StreamExt;

use self::park::{block_on, block_on_for};
use crate::builder::ClientBuilder;
use crate::call::{Arguments, CallSpec, Function};
use crate::error::{ClientError, ConnectError};
use crate::map::MapItem;
use crate::multiengine::EngineTargets;
use crate::options::option_setters;
use crate::outcome::{TaskFailure, TaskResult};

/// A session with a broker. Clones are handles of the same session. See [`crate::Client`].
#[derive(Clone, Debug)]
pub struct Client {
    client: crate::Client,
}

impl Client {
    /// Connects once to the first endpoint of the capability that answers.
    pub fn connect(capability: Capability) -> Result<Self, ConnectError> {
        start(crate::Client::connect(capability))
    }

    /// Connects, and tries again for up to `wait` while there is hope.
    pub fn connect_within(capability: Capability, wait: Duration) -> Result<Self, ConnectError> {
        start(crate::Client::connect_within(capability, wait))
    }

    /// Connects as the builder says.
    pub fn connect_with(builder: ClientBuilder) -> Result<Self, ConnectError> {
        start(builder.connect())
    }

    /// What the broker said at first: its cluster, its limits.
    pub fn welcome(&self) -> &Welcome {
        self.client.welcome()
    }

    /// Where the broker is.
    pub fn endpoint(&self) -> &Endpoint {
        self.client.endpoint()
    }

    /// The session's id, fresh for this client.
    pub fn session(&self) -> SessionId {
        self.client.session()
    }

    /// The engines that are online, sorted.
    pub fn engines(&self) -> Result<Vec<EngineId>, ClientError> {
        check_outside()?;
        block_on(self.client.engines())
    }

    /// The cluster, as the broker sees it.
    pub fn status(&self) -> Result<ClusterStatus, ClientError> {
        check_outside()?;
        block_on(self.client.status())
    }

    /// The interface to engines chosen by their ids.
    pub fn multiengine(&self, targets: EngineTargets) -> Multiengine {
        Multiengine { multiengine: self.client.multiengine(targets) }
    }

    /// The interface to the shared queue.
    pub fn tasks(&self) -> Tasks {
        Tasks { tasks: self.client.tasks() }
    }

    /// Ends the session for all handles, and returns when the broker has heard, after 3 s at the latest.
    pub fn close(self) {
        block_on(self.client.close());
    }
}

/// Engines chosen by their ids. See [`crate::Multiengine`].
#[derive(Clone, Debug)]
pub struct Multiengine {
    multiengine: crate::Multiengine,
}

impl Multiengine {
    /// Executes Python code in the lasting namespace of each engine. One task an engine, in the order of the targets.
    pub fn execute(&self, source: &str) -> Result<Vec<Task>, ClientError> {
        check_outside()?;
        Ok(tasks(block_on(self.multiengine.execute(source))?))
    }

    /// Calls a function on each engine. One task an engine, in the order of the targets.
    pub fn call(&self, call: &CallSpec) -> Result<Vec<Task>, ClientError> {
        check_outside()?;
        Ok(tasks(block_on(self.multiengine.call(call))?))
    }

    /// The engines that a call would go to now.
    pub fn engines(&self) -> Result<Vec<EngineId>, ClientError> {
        check_outside()?;
        block_on(self.multiengine.engines())
    }
}

/// The shared queue. See [`crate::Tasks`].
#[derive(Clone, Debug)]
pub struct Tasks {
    tasks: crate::Tasks,
}

impl Tasks {
    /// Submits a call. Waits while the session's credit is used up.
    pub fn call(&self, call: &CallSpec) -> Result<Task, ClientError> {
        check_outside()?;
        Ok(Task { future: block_on(self.tasks.call(call))? })
    }

    /// Submits a call, or says [`ClientError::Busy`] where [`Tasks::call`] would wait.
    pub fn try_call(&self, call: &CallSpec) -> Result<Task, ClientError> {
        Ok(Task { future: self.tasks.try_call(call)? })
    }

    /// Calls one function with each of many arguments, a window of them at a time. The iterator may be endless.
    pub fn map<I>(&self, function: Function, items: I) -> MapBuilder<I>
    where
        I: Iterator<Item = Arguments>,
    {
        MapBuilder { builder: self.tasks.map(function, items) }
    }
}

/// A submitted task. Dropping it does not cancel it.
#[derive(Debug)]
#[must_use = "a task's result is lost with it; the task itself goes on"]
pub struct Task {
    future: crate::TaskFuture,
}

impl Task {
    /// The task's name: its session and its number there.
    pub fn id(&self) -> TaskId {
        self.future.id()
    }

    /// The engine that it was submitted to; none for the shared queue.
    pub fn engine(&self) -> Option<EngineId> {
        self.future.engine()
    }

    /// Whether the task has ended, so that [`Task::wait`] returns at once.
    pub fn is_finished(&self) -> bool {
        self.future.is_finished()
    }

    /// Cancels the task. [`Task::wait`] returns the broker's answer.
    pub fn cancel(&self) {
        self.future.cancel();
    }

    /// Cancels the task; with `force`, an interpreter that does not heed the interrupt is killed.
    pub fn cancel_with(&self, force: bool) {
        self.future.cancel_with(force);
    }

    /// Waits for the task's end, or the connection's.
    ///
    /// # Panics
    /// If it is called again after it returned.
    pub fn wait(&mut self) -> Result<TaskResult, TaskFailure> {
        block_on(&mut self.future)
    }

    /// Waits like [`Task::wait`], but not longer than `timeout`; none if the task has not ended by then.
    pub fn wait_timeout(&mut self, timeout: Duration) -> Option<Result<TaskResult, TaskFailure>> {
        block_on_for(&mut self.future, timeout)
    }
}

/// A map, before it begins. See [`crate::MapBuilder`].
#[derive(Debug)]
#[must_use = "nothing is submitted before the iterator is used"]
pub struct MapBuilder<I> {
    builder: crate::MapBuilder<I>,
}

impl<I: Iterator<Item = Arguments>> MapBuilder<I> {
    /// What runs the function, if that is not plain from its name.
    pub fn runtime(self, runtime: Runtime) -> Self {
        Self { builder: self.builder.runtime(runtime) }
    }

    /// How many items are under way at most.
    pub fn window(self, window: usize) -> Self {
        Self { builder: self.builder.window(window) }
    }

    /// Whether results come in the order of the items.
    pub fn ordered(self, ordered: bool) -> Self {
        Self { builder: self.builder.ordered(ordered) }
    }

    option_setters!(builder.settings);

    /// The results. Items are taken as there is room for them, while the results are taken.
    pub fn start(self) -> Result<MapIter<I>, ClientError> {
        check_outside()?;
        Ok(MapIter { stream: self.builder.stream()? })
    }
}

/// The results of a map. See [`crate::MapStream`].
#[derive(Debug)]
#[must_use = "nothing is submitted before the iterator is used"]
pub struct MapIter<I> {
    stream: crate::MapStream<I>,
}

impl<I> MapIter<I> {
    /// Cancels what is under way, and takes no more items. Their ends still come.
    pub fn cancel(&mut self) {
        self.stream.cancel();
    }

    /// Cancels; with `force`, an interpreter that does not heed the interrupt is killed.
    pub fn cancel_with(&mut self, force: bool) {
        self.stream.cancel_with(force);
    }
}

impl<I: Iterator<Item = Arguments>> MapIter<I> {
    /// The next result like [`Iterator::next`], but waits not longer than `timeout`; none if none has come by then.
    pub fn next_timeout(&mut self, timeout: Duration) -> Option<Option<MapItem>> {
        block_on_for(self.stream.next(), timeout)
    }
}

impl<I: Iterator<Item = Arguments>> Iterator for MapIter<I> {
    type Item = MapItem;

    fn next(&mut self) -> Option<MapItem> {
        block_on(self.stream.next())
    }
}

fn tasks(futures: crate::TaskGroup) -> Vec<Task> {
    futures.into_iter().map(|future| Task { future }).collect()
}

/// Connects on a thread of its own, which serves the connection until its end.
fn start(
    connect: impl Future<Output = Result<crate::Client, ConnectError>> + Send + 'static,
) -> Result<Client, ConnectError> {
    check_outside().map_err(|_| ConnectError::InsideAsync)?;
    let (connected, wait) = mpsc::sync_channel(1);
    let serve = move || match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime.block_on(serve(connect, &connected)),
        Err(error) => drop(connected.send(Err(ConnectError::Thread(error)))),
    };
    thread::Builder::new().name("furlong-client".into()).spawn(serve).map_err(ConnectError::Thread)?;
    let gone = |_| ConnectError::Thread(io::Error::other("it ended at once"));
    Ok(Client { client: wait.recv().map_err(gone)?? })
}

async fn serve(
    connect: impl Future<Output = Result<crate::Client, ConnectError>>,
    connected: &mpsc::SyncSender<Result<crate::Client, ConnectError>>,
) {
    let client = match connect.await {
        Ok(client) => client,
        Err(error) => return drop(connected.send(Err(error))),
    };
    // Only what is shared is kept here: a handle would keep the session open.
    let shared = std::sync::Arc::clone(&client.handle.shared);
    drop(connected.send(Ok(client)));
    std::future::poll_fn(|context| shared.poll_finished(context)).await;
}

/// A call that waits would stop the runtime that this thread serves.
fn check_outside() -> Result<(), ClientError> {
    if tokio::runtime::Handle::try_current().is_ok() { Err(ClientError::InsideAsync) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_blocking_call_inside_a_runtime_is_an_error() {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            assert!(matches!(check_outside(), Err(ClientError::InsideAsync)));
            let error = Client::connect_with(crate::Client::builder()).unwrap_err();
            assert!(matches!(error, ConnectError::InsideAsync), "{error}");
        });
        check_outside().unwrap();
    }
}
