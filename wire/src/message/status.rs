//! Questions about the cluster, their answers, and events.

use serde::{Deserialize, Serialize};

use super::task::Runtime;
use crate::ids::{BrokerStart, EngineId, EngineUuid};

/// What a client can ask.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Query {
    /// The integers of the engines that are online.
    Engines,
    /// The whole picture.
    Status,
}

/// An answer.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ReplyBody {
    /// To [`Query::Engines`]: sorted.
    Engines(Vec<EngineId>),
    /// To [`Query::Status`].
    Status(Box<ClusterStatus>),
    /// The request is refused: why and what to do, in one line.
    Refused(String),
}

/// What happened, for subscribers.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Event {
    /// An engine is here.
    EngineOnline(EngineId),
    /// An engine has left, or its connection is cut.
    EngineOffline(EngineId),
    /// An engine's interpreter ended, and its namespace with it: the cause.
    EngineRestarted(EngineId, String),
}

/// The cluster, as the broker sees it.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct ClusterStatus {
    /// The cluster's name.
    pub cluster_name: String,
    /// This start of the broker: microseconds since 1970.
    pub start: BrokerStart,
    /// How long the broker has run.
    pub uptime_ms: u64,
    /// The broker's process id.
    pub pid: u32,
    /// Its software.
    pub software: String,
    /// Clients that are connected.
    pub clients: u64,
    /// Tasks in the shared queue that no engine has.
    pub tasks_waiting: u64,
    /// Tasks that engines have.
    pub tasks_assigned: u64,
    /// Results that no client has acknowledged.
    pub results_held: u64,
    /// Tasks that have ended since the start.
    pub tasks_finished: u64,
    /// Payload bytes that the broker holds, and may hold.
    pub payload_bytes: (u64, u64),
    /// The engine processes that are connected.
    pub processes: Vec<ProcessStatus>,
    /// The engines, by integer.
    pub engines: Vec<EngineStatus>,
}

/// An engine process.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ProcessStatus {
    /// Its host's name.
    pub host: String,
    /// Its process id there.
    pub pid: u32,
    /// Where it runs.
    pub cwd: String,
    /// Its software.
    pub software: String,
    /// What it can run.
    pub runtimes: Vec<Runtime>,
    /// Its Python interpreter.
    pub python: Option<String>,
    /// Its labels.
    pub labels: Vec<String>,
    /// The address that it came from.
    pub address: String,
    /// Its engines.
    pub engines: Vec<EngineId>,
}

/// An engine.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct EngineStatus {
    /// Its integer.
    pub id: EngineId,
    /// Its uuid.
    pub uuid: EngineUuid,
    /// Whether it is connected.
    pub online: bool,
    /// Tasks that it has been given.
    pub tasks_assigned: u64,
    /// Tasks in its own queue at the broker.
    pub tasks_queued: u64,
    /// Tasks that it has ended.
    pub tasks_finished: u64,
    /// How long its code has run in all.
    pub busy_us: u64,
}
