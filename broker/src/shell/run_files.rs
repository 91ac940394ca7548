//! The files that a running broker leaves under `run/`, which say where it is.

use std::fs::File;
use std::net::IpAddr;

use anyhow::{Context, Result, bail};
use furlong_host::home::ClusterDir;
use furlong_host::private_file::{open_own, open_own_if_there, read_private, write_private};
use furlong_wire::capability::Endpoint;
use serde::{Deserialize, Serialize};

/// `run/broker.json`: the broker that runs, or the last one that did.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct BrokerState {
    /// Its process id.
    pub pid: u32,
    /// The address that it listens on.
    pub bind: IpAddr,
    /// Its port for every role, if it has one. The next start takes all of its ports again.
    pub port: Option<u16>,
    /// Its port for engines alone, if it has one.
    #[serde(default)]
    pub engine_port: Option<u16>,
    /// Its port for everybody but engines, if it has one.
    #[serde(default)]
    pub client_port: Option<u16>,
    /// The endpoints for clients.
    pub endpoints: Vec<String>,
    /// The endpoints for engines.
    #[serde(default)]
    pub engine_endpoints: Vec<String>,
    /// Its start: microseconds since 1970.
    pub start_unix_us: u64,
    /// True if it has shut down gracefully.
    pub stopped: bool,
}

impl BrokerState {
    /// Its ports, that for clients first.
    pub fn ports(&self) -> Vec<u16> {
        [self.client_port, self.port, self.engine_port].into_iter().flatten().collect()
    }
}

/// The lock that says that a cluster has a broker; free when its process ends, however it ends.
#[derive(Debug)]
pub struct BrokerLock {
    _file: File,
}

const STATE_BYTES_MAX: u64 = 64 * 1024;

impl BrokerLock {
    /// Takes the lock.
    ///
    /// # Errors
    /// If another broker of this cluster runs.
    pub fn take(dir: &ClusterDir) -> Result<Self> {
        let file = open_own(&dir.run().join("broker.lock"))?;
        if file.try_lock().is_err() {
            let who = read_state(dir).map_or(String::new(), |state| {
                let port =
                    state.ports().first().map_or(String::new(), |port| format!(", port {port}"));
                format!(" (process {}{port})", state.pid)
            });
            bail!(
                "cluster {} already has a broker{who}; use it, stop it with `furlong cluster stop`, or choose another \
                 --cluster NAME",
                dir.name()
            );
        }
        Ok(Self { _file: file })
    }

    /// Returns true if a broker of this cluster runs.
    pub fn is_held(dir: &ClusterDir) -> bool {
        let file = open_own_if_there(&dir.run().join("broker.lock"));
        file.is_ok_and(|file| file.try_lock().is_err())
    }
}

/// The state that the running or the last broker of a cluster left.
pub fn read_state(dir: &ClusterDir) -> Option<BrokerState> {
    let text = read_private(&dir.broker_state(), STATE_BYTES_MAX).ok()?;
    serde_json::from_str(&text).ok()
}

/// Says where the broker is.
///
/// # Errors
/// If the file cannot be written.
pub fn write_state(dir: &ClusterDir, state: &BrokerState) -> Result<()> {
    let text = serde_json::to_vec_pretty(state).context("the state is plain data")?;
    Ok(write_private(&dir.broker_state(), &text)?)
}

/// The endpoints as text.
pub fn endpoint_texts(endpoints: &[Endpoint]) -> Vec<String> {
    endpoints.iter().map(ToString::to_string).collect()
}
