//! Furlong's client: submit work to the engines of a cluster, and take its results.
//!
//! A [`Client`] is a session with a broker. Over it there are two interfaces to the same engines, used at once:
//! [`Multiengine`] addresses engines by their ids, [`Tasks`] is one shared queue. Both make [`TaskFuture`]s, which
//! resolve to a [`TaskResult`] or a [`TaskFailure`]; [`Tasks::map`] makes a stream of them that needs constant memory.
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
//! for task in client.multiengine(EngineTargets::All).execute("import math; print(math.pi)").await? {
//!     print!("{}", task.await?.report.stdout);
//! }
//!
//! // Whichever engine is free.
//! let call = CallSpec::python("math:sqrt").arguments(Arguments::json(vec![2.into()]));
//! println!("{}", client.tasks().call(&call).await?.await?.json::<f64>()?);
//!
//! // One function over an endless iterator.
//! let numbers = (0_u64..).map(|n| Arguments::json(vec![n.into()]));
//! let mut roots = client.tasks().map(Function::Named("math:sqrt".into()), numbers).window(64).stream()?;
//! while let Some((n, root)) = roots.next().await {
//!     println!("{n}: {}", root?.json::<f64>()?);
//! }
//! client.close().await;
//! # Ok(())
//! # }
//! ```
//!
//! [`blocking`] has the same without async. What a connection's end means is in [`TaskFailure`]: every future resolves.

pub mod blocking;
mod builder;
mod call;
mod client;
mod connection;
mod control;
mod core;
mod error;
mod group;
mod live;
mod map;
mod multiengine;
mod options;
mod outcome;
mod owner;
mod request;
mod shared;
mod task;

pub use builder::ClientBuilder;
pub use call::{Arguments, CallSpec, Function, SourceFunction};
pub use client::{Client, Tasks};
pub use control::{Signal, SignalError};
pub use core::output::Output;
pub use error::{ClientError, ConnectError, DisconnectCause, Disconnected};
pub use group::{CompositeError, GroupError, MappedGroup, TaskGroup};
pub use live::{Events, EventsError, OutputPiece, OutputStream, PublishedStream};
pub use map::{IterMapBuilder, MapBuilder, MapInput, MapItem, MapStream};
pub use multiengine::{Distribution, EngineTargets, Multiengine};
pub use options::{Depends, HasTaskId, OptionError};
pub use outcome::{DecodeError, FailureKind, PayloadFailure, Published, TaskFailure, TaskReport, TaskResult};
pub use owner::{Cancelled, Fetched, Follow, TaskRecords};
pub use task::TaskFuture;

pub use furlong_wire::call::{Codec, CommandSpec, Display, RemoteError, ReplyHeader};
pub use furlong_wire::capability::{Capability, ClusterName, Endpoint};
pub use furlong_wire::ids::{EngineId, SessionId, TaskId, TokenId};
pub use furlong_wire::message::{
    AttemptRecord, ClusterStatus, Dependency, EngineStatus, ErrorKind, Event, Outcome, ProcessStatus, RecordTimes,
    Runtime, Stream, TaskError, TaskOptions, TaskPhase, TaskQuery, TaskRange, TaskRecord, TaskState, TaskTimes,
    Welcome,
};
pub use furlong_wire::token::Role;
