//! The async API: a session with a broker, and the two interfaces over it.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use furlong_link::dial::{Dialed, random_bytes};
use furlong_link::peer::Peer;
use furlong_wire::capability::{Capability, Endpoint};
use furlong_wire::ids::{EngineId, SessionId, TaskId, TaskSeq};
use furlong_wire::message::{ClusterStatus, FromClient, Targets, Welcome};
use furlong_wire::payload::PayloadSecret;
use futures_util::{Stream, stream};

use crate::builder::{ClientBuilder, retry};
use crate::call::{Arguments, CallSpec, Function};
use crate::connection::{Connection, TICK};
use crate::core::Call;
use crate::error::{ClientError, ConnectError};
use crate::map::{IterMapBuilder, MapBuilder};
use crate::multiengine::{EngineTargets, Multiengine};
use crate::prepared::PreparedCall;
use crate::reconnect::Reconnect;
use crate::request::{ask_for_disk, engines, status};
use crate::shared::{Core, Handle, Shared, submit, submit_shared};
use crate::task::TaskFuture;

/// The program that a broker is told, unless the user names another.
pub(crate) const SOFTWARE: &str = concat!("furlong-client ", env!("CARGO_PKG_VERSION"));

/// A session with a broker. Clones are handles of the same session.
///
/// If the connection is cut, or the broker starts again, the session comes back by itself within
/// ten minutes ([`ClientBuilder::returns_within`]): what the broker does not know is submitted
/// again, and futures resolve as if nothing had happened. Until then new submits wait.
///
/// The connection is served by a task of the tokio runtime in which the client was connected, so
/// code that blocks a current-thread runtime blocks the connection as well: use [`crate::blocking`]
/// then. When the last of clients, interfaces and task futures is dropped, the session says
/// goodbye, and the broker cancels what is unfinished.
#[derive(Clone, Debug)]
pub struct Client {
    pub(crate) handle: Arc<Handle>,
}

impl Client {
    /// Connects once to the first endpoint of the capability that answers.
    pub async fn connect(capability: Capability) -> Result<Self, ConnectError> {
        Self::connect_once(Reconnect::to(capability)).await
    }

    /// Connects, and tries again for up to `wait` while there is hope: the broker may be about to
    /// start.
    pub async fn connect_within(
        capability: Capability,
        wait: Duration,
    ) -> Result<Self, ConnectError> {
        let way = Reconnect::to(capability);
        retry(wait, || Self::connect_once(way.clone())).await
    }

    /// Finds the capability file as all of Furlong's programs do, and waits for the broker.
    pub fn builder() -> ClientBuilder {
        ClientBuilder::default()
    }

    pub(crate) async fn connect_once(way: Reconnect) -> Result<Self, ConnectError> {
        let session = SessionId(random_bytes());
        let dialed = way.dial(session, 1).await?;
        let mut core = Core::new(
            session,
            PayloadSecret::new(random_bytes()),
            way.cancel_on_disconnect,
            !way.returns_within.is_zero(),
            way.hides_names,
            &dialed.welcome,
        );
        core.set_answer_turns_max(crate::connection::turns_of(way.answers_within));
        let Dialed { incoming, socket, sealer, welcome, endpoint } = dialed;
        let peer = Peer::new::<FromClient>(sealer, TICK, Duration::ZERO);
        let files = socket.files().cloned();
        let shared = Shared::new(core, (peer, files), welcome, endpoint, session);
        tokio::spawn(Connection::new(Arc::clone(&shared), way, incoming, socket).run());
        Ok(Self { handle: Arc::new(Handle { shared }) })
    }

    /// The broker's first message: its cluster, its limits.
    pub fn welcome(&self) -> &Welcome {
        &self.handle.shared.welcome
    }

    /// The endpoint of the broker.
    pub fn endpoint(&self) -> &Endpoint {
        &self.handle.shared.endpoint
    }

    /// The session's id, fresh for this client.
    pub fn session(&self) -> SessionId {
        self.handle.shared.session
    }

    /// The number of tasks submitted in this session. They are numbered from 1, in this order.
    pub fn submitted(&self) -> u64 {
        self.handle.shared.with(|core| core.submitted()).0
    }

    /// The tasks of this session that have not ended, in the order of their submits.
    pub fn unfinished(&self) -> Vec<TaskId> {
        let session = self.session();
        let numbers = self.handle.shared.with(|core| core.unfinished());
        numbers.into_iter().map(|n| TaskId { session, n }).collect()
    }

    /// The number of tasks of this session that have not ended.
    pub fn unfinished_count(&self) -> usize {
        self.handle.shared.with(|core| core.unfinished_count())
    }

    /// Cancels tasks of this session by ranges of their numbers, each the first and the last, and
    /// waits for no answer.
    pub fn cancel_numbers(&self, ranges: &[(TaskSeq, TaskSeq)]) {
        if !ranges.is_empty() {
            self.handle.shared.with(|core| core.cancel(ranges, false));
        }
    }

    /// The engines that are online, sorted.
    pub async fn engines(&self) -> Result<Vec<EngineId>, ClientError> {
        engines(&self.handle).await
    }

    /// The cluster, as the broker sees it.
    pub async fn status(&self) -> Result<ClusterStatus, ClientError> {
        status(&self.handle).await
    }

    /// The interface to engines chosen by their ids.
    pub fn multiengine(&self, targets: EngineTargets) -> Multiengine {
        Multiengine::new(Arc::clone(&self.handle), targets)
    }

    /// The interface to the shared queue.
    pub fn tasks(&self) -> Tasks {
        Tasks { handle: Arc::clone(&self.handle) }
    }

    /// Cancels all tasks of this session that have not ended. With `force`, an interpreter that
    /// does not respond to the interrupt is killed; that may follow a plain cancel that was
    /// ignored. [`Client::all_stopped`] tells when nothing of them runs any longer.
    pub fn cancel_all(&self, force: bool) {
        self.handle.shared.with(|core| core.cancel_all(force));
    }

    /// Returns when nothing of what [`Client::cancel_all`] has cancelled runs any longer. Tasks
    /// whose futures are there are waited for as well, if they were cancelled.
    ///
    /// # Errors
    /// [`ClientError::Disconnected`] and [`ClientError::Interrupted`]: then nobody can tell.
    pub async fn all_stopped(&self) -> Result<(), ClientError> {
        std::future::poll_fn(|context| {
            self.handle.shared.with(|core| core.poll_all_stopped(context.waker()))
        })
        .await
    }

    /// Ends the session for all handles: unfinished tasks are cancelled, their futures resolve as
    /// disconnected. Returns when the broker has heard, after 3 s at the latest.
    pub async fn close(self) {
        self.handle.shared.close();
        self.closed().await;
    }

    /// Ends the session for all handles, and lets the tasks with the option
    /// [`keep`](CallSpec::keep), and durable ones, go on, to be [fetched](Client::fetch) later by
    /// any process of their owner. The others are cancelled. Returns when the broker has all that
    /// was submitted, and has heard.
    ///
    /// # Errors
    /// [`ClientError::Disconnected`] if the connection ends before the broker has everything.
    pub async fn detach(self) -> Result<(), ClientError> {
        self.flush().await?;
        self.close().await;
        Ok(())
    }

    /// Returns when the broker has all that was submitted so far, and its journal has what is
    /// [`durable`](CallSpec::durable) of it. A task that could not be accepted has ended by then.
    ///
    /// # Errors
    /// [`ClientError::Disconnected`] if the connection ends before.
    pub async fn flush(&self) -> Result<(), ClientError> {
        let shared = &self.handle.shared;
        std::future::poll_fn(|context| shared.with(|core| core.poll_flushed(context.waker())))
            .await?;
        // Any answer says that the broker has taken what went before the question.
        ask_for_disk(&self.handle).await
    }

    /// Returns when the connection is over, however it ended.
    pub async fn closed(&self) {
        let shared = &self.handle.shared;
        std::future::poll_fn(|context| shared.poll_finished(context)).await;
    }
}

/// The shared queue: each task runs on whichever engine is free.
#[derive(Clone, Debug)]
pub struct Tasks {
    handle: Arc<Handle>,
}

impl Tasks {
    /// Submits a call. Waits while the session's credit is used up: unfinished tasks, payload
    /// bytes.
    pub async fn call(&self, call: &CallSpec) -> Result<TaskFuture, ClientError> {
        let task = submit(&self.handle, call.prepare(Targets::Shared)?, submit_shared).await?;
        Ok(TaskFuture::new(Arc::clone(&self.handle), task, None))
    }

    /// Submits a call that was prepared. Waits like [`Tasks::call`].
    pub async fn call_prepared(&self, call: &PreparedCall) -> Result<TaskFuture, ClientError> {
        let call = call.clone().into_call(Targets::Shared);
        let task = submit(&self.handle, call, submit_shared).await?;
        Ok(TaskFuture::new(Arc::clone(&self.handle), task, None))
    }

    /// Submits a call that was prepared, or says [`ClientError::Busy`] where
    /// [`Tasks::call_prepared`] would wait.
    pub fn try_call_prepared(&self, call: &PreparedCall) -> Result<TaskFuture, ClientError> {
        self.try_submit(call.clone().into_call(Targets::Shared))
    }

    /// Submits a call, or says [`ClientError::Busy`] where [`Tasks::call`] would wait.
    pub fn try_call(&self, call: &CallSpec) -> Result<TaskFuture, ClientError> {
        self.try_submit(call.prepare(Targets::Shared)?)
    }

    fn try_submit(&self, mut call: Call) -> Result<TaskFuture, ClientError> {
        let task = self.handle.shared.with(|core| submit_shared(core, &mut call))?;
        Ok(TaskFuture::new(Arc::clone(&self.handle), task, None))
    }

    /// Calls one function with each of many arguments, a window of them at a time. The iterator may
    /// be endless: it is asked for items as results are taken.
    pub fn map<I>(&self, function: Function, items: I) -> IterMapBuilder<I::IntoIter>
    where
        I: IntoIterator<Item = Arguments>,
    {
        MapBuilder::new(Arc::clone(&self.handle), Some(function), stream::iter(items))
    }

    /// Like [`Tasks::map`] over a [`Stream`]: items that come by and by are submitted as they come.
    pub fn map_stream<S>(&self, function: Function, items: S) -> MapBuilder<Pin<Box<S>>>
    where
        S: Stream<Item = Arguments>,
    {
        MapBuilder::new(Arc::clone(&self.handle), Some(function), Box::pin(items))
    }

    /// Submits many calls, each of which says all of it, a window of them at a time: the tasks of
    /// an array of commands, for instance. Options are those of each call.
    ///
    /// ```no_run
    /// # use furlong_client::Client;
    /// # async fn squares(client: &Client) -> Result<(), Box<dyn std::error::Error>> {
    /// use furlong_client::{CallSpec, CommandSpec};
    /// use futures_util::StreamExt;
    ///
    /// let argv = ["sh", "-c", "echo $((FURLONG_TASK * FURLONG_TASK))"].map(Into::into).to_vec();
    /// let command = CommandSpec { argv, ..CommandSpec::default() };
    /// let call = move |task| CommandSpec { task: Some(task), ..command.clone() };
    /// let calls = (1..=100).map(move |task| CallSpec::command_with(call(task)).error_retries(1));
    /// let mut squares = client.tasks().map_calls(calls).ordered(true).stream()?;
    /// while let Some((_, result)) = squares.next().await {
    ///     print!("{}", result?.report.stdout);
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub fn map_calls<I>(&self, calls: I) -> IterMapBuilder<I::IntoIter>
    where
        I: IntoIterator<Item = CallSpec>,
    {
        MapBuilder::new(Arc::clone(&self.handle), None, stream::iter(calls))
    }

    /// Like [`Tasks::map_calls`] over a [`Stream`].
    pub fn map_calls_stream<S>(&self, calls: S) -> MapBuilder<Pin<Box<S>>>
    where
        S: Stream<Item = CallSpec>,
    {
        MapBuilder::new(Arc::clone(&self.handle), None, Box::pin(calls))
    }
}
