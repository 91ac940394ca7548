//! Furlong's client: submit work to the engines of a cluster, and take its results.
//!
//! A [`Client`] is a session with a broker. Over it there are two interfaces to the same engines,
//! used at once: [`Multiengine`] addresses engines by their ids, [`Tasks`] is one shared queue.
//! Both make [`TaskFuture`]s, which resolve to a [`TaskResult`] or a [`TaskFailure`];
//! [`Tasks::map`] makes a stream of them that needs constant memory.
//!
//! ```no_run
//! use furlong_client::{Arguments, CallSpec, Client, EngineTargets, Function};
//! use futures_util::StreamExt;
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! // The capability of the cluster `default`, as `furlong cluster start` leaves it.
//! let client = Client::builder().connect().await?;
//!
//! // Every engine, each with its own namespace.
//! let engines = client.multiengine(EngineTargets::All);
//! for task in engines.execute("import math; print(math.pi)").await? {
//!     print!("{}", task.await?.report.stdout);
//! }
//!
//! // Whichever engine is free.
//! let call = CallSpec::python("math:sqrt").arguments(Arguments::json(vec![2.into()]));
//! println!("{}", client.tasks().call(&call).await?.await?.json::<f64>()?);
//!
//! // One function over an endless iterator.
//! let numbers = (0_u64..).map(|n| Arguments::json(vec![n.into()]));
//! let roots = client.tasks().map(Function::Named("math:sqrt".into()), numbers);
//! let mut roots = roots.window(64).stream()?;
//! while let Some((n, root)) = roots.next().await {
//!     println!("{n}: {}", root?.json::<f64>()?);
//! }
//! client.close().await;
//! # Ok(())
//! # }
//! ```
//!
//! # Tasks with conditions
//!
//! A [`CallSpec`] says what to call, and by a method for each option how: limits, retries, labels,
//! which tasks must have ended before ([`Depends`]). A [`TaskFuture`] is more than a future: it
//! cancels, it tells when nothing of the task runs any longer, and it has what the task writes and
//! publishes while it runs.
//!
//! ```no_run
//! # async fn build(client: &furlong_client::Client) -> Result<(), Box<dyn std::error::Error>> {
//! use std::time::Duration;
//!
//! use furlong_client::{CallSpec, Depends};
//! use futures_util::StreamExt;
//!
//! let tasks = client.tasks();
//! let fetch = CallSpec::command(["git", "fetch"]);
//! let fetch = fetch.error_retries(3).backoff(Duration::from_secs(1));
//! let sources = tasks.call(&fetch).await?;
//! let build = CallSpec::command(["make"]).after(&sources).require("large");
//! let build = build.run_timeout(Duration::from_secs(3600));
//! let mut build = tasks.call(&build).await?;
//! let clean = CallSpec::command(["make", "clean"]).follow(Depends::on(&build).on_end());
//! let clean = tasks.call(&clean).await?;
//! let mut output = build.output();
//! while let Some(piece) = output.next().await {
//!     if piece.bytes.starts_with(b"fatal") {
//!         build.cancel();
//!         build.stopped().await?;
//!     }
//! }
//! match (&mut build).await {
//!     Ok(result) => println!("built in {} us", result.report.times.run.run_us),
//!     Err(failure) => println!("{failure}, exit code {:?}", failure.exit_code()),
//! }
//! clean.await?;
//! # Ok(())
//! # }
//! ```
//!
//! # Work that outlives its client
//!
//! Tasks with the option [`keep`](CallSpec::keep) go on when the session that submitted them
//! [detaches](Client::detach), and every process of the same owner can list them
//! ([`Client::query_tasks`]), [`Client::fetch`] their results, [`Client::follow`] what they write,
//! and end them ([`Client::cancel_tasks`]).
//!
//! ```no_run
//! # async fn night(client: furlong_client::Client) -> Result<(), Box<dyn std::error::Error>> {
//! use furlong_client::{CallSpec, Client};
//!
//! let night = CallSpec::python("night:run").keep(true).label("night");
//! let id = client.tasks().call(&night).await?.id();
//! client.detach().await?;
//!
//! // In the morning, in another process.
//! let client = Client::builder().connect().await?;
//! let fetched = client.wait_for(id).await?;
//! println!("{} attempts, {}", fetched.record.attempts, fetched.report.stdout);
//! # Ok(())
//! # }
//! ```
//!
//! # Errors
//!
//! Every wait ends. [`ConnectError`] says why there is no session, [`ClientError`] why a request
//! could not be made, [`TaskFailure`] why a task has no result, [`CompositeError`] which of several
//! engines failed. All are enums, or have one, and each text is one line that says what to do. A
//! future resolves also when the connection ends ([`FailureKind::Disconnected`]).
//!
//! [`blocking`] has the same without async.

pub mod blocking;
mod builder;
mod call;
mod client;
mod connection;
mod control;
#[doc(hidden)]
pub mod core;
mod debugger;
mod error;
mod files;
mod flame;
mod group;
mod inspect;
mod live;
mod map;
mod multiengine;
mod options;
mod outcome;
mod owner;
mod pickled;
mod prepared;
mod reconnect;
mod request;
mod shared;
mod task;
mod trace;
mod watch;

pub use builder::ClientBuilder;
pub use call::{Arguments, CallSpec, Function, SourceFunction};
pub use client::{Client, Tasks};
pub use control::{Signal, SignalError};
pub use core::output::Output;
pub use debugger::{DebugError, Debugged, Debugger};
pub use error::{ClientError, ConnectError, DisconnectCause, Disconnected};
pub use group::{CompositeError, GroupError, MappedGroup, TaskGroup};
pub use inspect::{Inspected, InterpreterSeen, ThreadSeen};
pub use live::{Events, EventsError, OutputPiece, OutputStream, PublishedStream};
pub use map::{IterMapBuilder, MapBuilder, MapInput, MapItem, MapStream};
pub use multiengine::{Distribution, EngineTargets, Multiengine};
pub use options::{CheckedOptions, Depends, HasTaskId, OptionError};
pub use outcome::{
    DecodeError, FailureKind, PayloadFailure, Published, TaskFailure, TaskOutcome, TaskReport,
    TaskResult,
};
pub use owner::{Cancelled, Fetched, Follow, TaskRecords};
pub use pickled::{PickleSupport, PickledFunction};
pub use prepared::{Prepared, PreparedCall};
pub use reconnect::LinkEvent;
pub use task::TaskFuture;
pub use trace::{
    Counter, EngineTrack, Slice, Trace, TraceError, TraceFormat, TraceMoment, TraceRange,
    TracedTask, TracedTimes,
};
pub use watch::{Picture, Wanted, json as watch_json, sentence};

pub use furlong_wire::call::{
    Codec, CommandExtras, CommandSpec, Display, InputPath, RemoteError, ReplyHeader,
};
pub use furlong_wire::capability::{Capability, ClusterName, Endpoint, Pass};
pub use furlong_wire::ids::{EngineId, FunctionHash, SessionId, TaskId, TaskSeq, TokenId};
pub use furlong_wire::message::{
    AttemptRecord, ClusterStatus, Dependency, EngineStatus, ErrorKind, Event, Inspectable, Outcome,
    ProcessStatus, RecordTimes, Runtime, Stream, TaskError, TaskOptions, TaskPhase, TaskQuery,
    TaskRange, TaskRecord, TaskState, TaskTimes, Welcome,
};
pub use furlong_wire::os_text::OsText;
pub use furlong_wire::token::Role;
