//! The broker's command line, and what becomes of it.

use std::net::IpAddr;
use std::str::FromStr;

use furlong_link::log::{Format, Level};
use furlong_link::memory_size::MemorySize;
use furlong_wire::capability::ClusterName;

/// Flags of `broker`.
#[derive(Clone, Debug, clap::Args)]
pub struct BrokerArgs {
    /// Name of the cluster: several can live side by side
    #[arg(long, value_name = "NAME", default_value_t)]
    pub cluster: ClusterName,
    /// Address to listen on; all interfaces by default
    #[arg(long, value_name = "ADDR", default_value = "0.0.0.0")]
    pub bind: IpAddr,
    /// Port for every role; by default the one of the last start, else any free one. There is none if engines and
    /// clients have ports of their own, unless it is named
    #[arg(long, value_name = "N")]
    pub port: Option<u16>,
    /// Port for engines alone, or `none`; 0 takes any free one. By default as at the last start, else none
    #[arg(long, value_name = "N")]
    pub engine_port: Option<OwnPort>,
    /// Port for everybody but engines, or `none`; 0 takes any free one. By default as at the last start, else none
    #[arg(long, value_name = "N")]
    pub client_port: Option<OwnPort>,
    /// Host name or address by which others reach this machine, for the capability files; by default every address
    #[arg(long, value_name = "HOST")]
    pub location: Option<String>,
    /// Memory for tasks and payloads, as `4G`, `512M` or `25%` of the machine's
    #[arg(long, value_name = "SIZE", default_value = "25%")]
    pub memory: MemorySize,
    /// Make new keys: capability files handed out before are no longer valid
    #[arg(long)]
    pub fresh: bool,
    /// How much is logged: error, warn, info, debug or trace
    #[arg(long, value_name = "LEVEL", default_value = "info")]
    pub log_level: Level,
    /// How log lines look: text or json
    #[arg(long, value_name = "FORMAT", default_value_t)]
    pub log_format: Format,
    /// Stop when standard input ends: for a program that starts a broker and must not leave it behind
    #[arg(long, hide = true)]
    pub stop_with_stdin: bool,
}

/// A port for some roles alone.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum OwnPort {
    /// There shall be none.
    None,
    /// This one; 0 is any free one.
    Number(u16),
}

/// A text that is no [`OwnPort`].
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("a port is a number up to 65535, or `none`")]
pub struct BadPort;

impl FromStr for OwnPort {
    type Err = BadPort;

    fn from_str(text: &str) -> Result<Self, BadPort> {
        if text == "none" { Ok(Self::None) } else { text.parse().map(Self::Number).map_err(|_| BadPort) }
    }
}
