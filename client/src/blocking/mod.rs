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
//! let roots = client.tasks().map(Function::Named("math:sqrt".into()), numbers);
//! for (place, result) in roots.start()? {
//!     println!("{place}: {}", result?.json::<f64>()?);
//! }
//! # Ok(())
//! # }
//! ```
//!
//! One background thread serves the connection, so it stays alive whatever the calling threads do.
//! All types can be used from any thread. Inside a tokio runtime, calls are an error
//! (`InsideAsync`), as they would stop it.

mod group;
mod iter;
mod map;
mod multiengine;
mod park;
mod task;

use std::io;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use furlong_wire::capability::{Capability, Endpoint};
use furlong_wire::ids::{EngineId, SessionId, TokenId};
use furlong_wire::message::{ClusterStatus, TaskQuery, TaskRange, TaskRecord, Welcome};

use self::park::{block_on, block_on_for};
use crate::builder::ClientBuilder;
use crate::error::{ClientError, ConnectError};
use crate::live::Events;
use crate::multiengine::EngineTargets;
use crate::options::HasTaskId;
use crate::owner::{Cancelled, Fetched, TaskRecords};

pub use self::group::{MappedGroup, TaskGroup};
pub use self::iter::{Follow, Iter};
pub use self::map::{MapBuilder, MapIter};
pub use self::multiengine::Multiengine;
pub use self::task::{Task, Tasks};

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

    /// The broker's first message: its cluster, its limits.
    pub fn welcome(&self) -> &Welcome {
        self.client.welcome()
    }

    /// The endpoint of the broker.
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
        Multiengine::new(self.client.multiengine(targets))
    }

    /// The interface to the shared queue.
    pub fn tasks(&self) -> Tasks {
        Tasks::new(self.client.tasks())
    }

    /// The owner's tasks, of all its sessions. See [`crate::Client::query_tasks`].
    pub fn query_tasks(&self, query: TaskQuery) -> Result<Iter<TaskRecords>, ClientError> {
        check_outside()?;
        Ok(Iter::new(self.client.query_tasks(query)))
    }

    /// All tasks that a query means, at once.
    pub fn all_tasks(&self, query: TaskQuery) -> Result<Vec<TaskRecord>, ClientError> {
        check_outside()?;
        block_on(self.client.query_tasks(query).all())
    }

    /// A task as it is now. See [`crate::Client::fetch`].
    pub fn fetch(&self, task: impl HasTaskId) -> Result<Fetched, ClientError> {
        check_outside()?;
        block_on(self.client.fetch(task))
    }

    /// A task as it ended: waits until it does. See [`crate::Client::wait_for`].
    pub fn wait_for(&self, task: impl HasTaskId) -> Result<Fetched, ClientError> {
        check_outside()?;
        block_on(self.client.wait_for(task))
    }

    /// Waits like [`Client::wait_for`], but not longer than `timeout`; none if the task has not
    /// ended by then.
    pub fn wait_for_timeout(
        &self,
        task: impl HasTaskId,
        timeout: Duration,
    ) -> Result<Option<Fetched>, ClientError> {
        check_outside()?;
        block_on_for(self.client.wait_for(task), timeout).transpose()
    }

    /// A task's output, as much as is kept of it and then as it comes, and its end. See
    /// [`crate::Client::follow`].
    pub fn follow(&self, task: impl HasTaskId) -> Result<Follow, ClientError> {
        check_outside()?;
        Ok(Follow::new(block_on(self.client.follow(task))?))
    }

    /// Ends tasks of any session of the same owner. See [`crate::Client::cancel_tasks`].
    pub fn cancel_tasks(&self, tasks: &[TaskRange], force: bool) -> Result<Cancelled, ClientError> {
        check_outside()?;
        block_on(self.client.cancel_tasks(tasks, force))
    }

    /// Ends those tasks of any session of the same owner that have not begun. See
    /// [`crate::Client::take_back`].
    pub fn take_back(&self, tasks: &[TaskRange]) -> Result<Cancelled, ClientError> {
        check_outside()?;
        block_on(self.client.take_back(tasks))
    }

    /// Forgets kept results, of any session of the same owner.
    pub fn purge(&self, tasks: &[TaskRange]) -> Result<(), ClientError> {
        check_outside()?;
        block_on(self.client.purge(tasks))
    }

    /// Makes tokens invalid. For the role `admin`.
    pub fn revoke(&self, tokens: &[TokenId]) -> Result<(), ClientError> {
        check_outside()?;
        block_on(self.client.revoke(tokens))
    }

    /// Stops engines. For the role `admin`. See [`crate::Client::shutdown`].
    pub fn shutdown(&self, engines: EngineTargets, finish: bool) -> Result<(), ClientError> {
        check_outside()?;
        block_on(self.client.shutdown(engines, finish))
    }

    /// Stops all engines and the broker. For the role `admin`. See
    /// [`crate::Client::shutdown_cluster`].
    pub fn shutdown_cluster(&self, finish: bool) -> Result<(), ClientError> {
        check_outside()?;
        block_on(self.client.shutdown_cluster(finish))
    }

    /// Subscribes to the events of the cluster from now on. See [`crate::Client::subscribe`].
    pub fn subscribe(&self) -> Result<Iter<Events>, ClientError> {
        check_outside()?;
        Ok(Iter::new(self.client.subscribe()?))
    }

    /// Ends the session for all handles, and returns when the broker has heard, after 3 s at the
    /// latest.
    pub fn close(self) {
        block_on(self.client.close());
    }

    /// Waits until the broker has all that was submitted, and its journal what is durable of it.
    /// See [`crate::Client::flush`].
    pub fn flush(&self) -> Result<(), ClientError> {
        check_outside()?;
        block_on(self.client.flush())
    }

    /// Ends the session, and lets durable tasks and those with the option `keep` go on. See
    /// [`crate::Client::detach`].
    pub fn detach(self) -> Result<(), ClientError> {
        check_outside()?;
        block_on(self.client.detach())
    }

    /// Returns when the connection is over, however it ended.
    pub fn closed(&self) -> Result<(), ClientError> {
        check_outside()?;
        block_on(self.client.closed());
        Ok(())
    }
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
    thread::Builder::new()
        .name("furlong-client".into())
        .spawn(serve)
        .map_err(ConnectError::Thread)?;
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
    if tokio::runtime::Handle::try_current().is_ok() {
        Err(ClientError::InsideAsync)
    } else {
        Ok(())
    }
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
