//! The broker's command line, and what becomes of it.

use std::convert::Infallible;
use std::ffi::OsString;
use std::net::IpAddr;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use furlong_host::durations::duration;
use furlong_host::home::ClusterDir;
use furlong_host::log::{Format, Level};
use furlong_host::memory_size::MemorySize;
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
    /// Port for every role; by default the one of the last start, else any free one. There is none
    /// if engines and clients have ports of their own, unless it is named
    #[arg(long, value_name = "N")]
    pub port: Option<u16>,
    /// Port for engines alone, or `none`; 0 takes any free one. By default as at the last start,
    /// else none
    #[arg(long, value_name = "N")]
    pub engine_port: Option<OwnPort>,
    /// Port for everybody but engines, or `none`; 0 takes any free one. By default as at the last
    /// start, else none
    #[arg(long, value_name = "N")]
    pub client_port: Option<OwnPort>,
    /// Host name or address by which others reach this machine, for the capability files; by
    /// default every address
    #[arg(long, value_name = "HOST")]
    pub location: Option<String>,
    /// Serve peers on this machine by TCP as well, not by pipes
    #[arg(long)]
    pub tcp_only: bool,
    /// Memory for tasks and payloads, as `4G`, `512M` or `25%` of the machine's
    #[arg(long, value_name = "SIZE", default_value = "25%")]
    pub memory: MemorySize,
    /// The journal, if there shall be one
    #[command(flatten)]
    pub journal: JournalArgs,
    /// Make new keys: capability files handed out before are no longer valid
    #[arg(long)]
    pub fresh: bool,
    /// Log level: error, warn, info, debug or trace
    #[arg(long, value_name = "LEVEL", default_value = "info")]
    pub log_level: Level,
    /// Format of log lines: text or json
    #[arg(long, value_name = "FORMAT", default_value_t)]
    pub log_format: Format,
    /// Started by a cluster: whoever wants to give it more memory cannot say it here
    #[arg(long, hide = true)]
    pub of_cluster: bool,
    /// Stop when standard input ends: for a program that starts a broker and must not leave it
    /// behind
    #[arg(long, hide = true)]
    pub stop_with_stdin: bool,
}

impl BrokerArgs {
    /// The flag that gives a broker which was started so more memory, for people.
    pub fn memory_flag(&self) -> &'static str {
        if self.of_cluster {
            "`furlong cluster start --broker-memory SIZE`, in Python `Cluster(broker_memory=SIZE)`"
        } else {
            "`furlong broker --memory SIZE`"
        }
    }
}

/// Flags of the journal, of everybody who starts a broker.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct JournalArgs {
    /// Keep tasks that are submitted as durable in this file, on a local disk, over restarts of the
    /// broker; without FILE, in `journal.db` of the cluster's folder
    #[arg(long, value_name = "FILE", num_args = 0..=1, default_missing_value = "")]
    pub journal: Option<JournalPlace>,
    /// Retention time of ended tasks and their results in the journal, as `12h` or `30d`
    #[arg(long, value_name = "TIME", value_parser = duration, default_value = "7d")]
    pub journal_keep: Duration,
}

impl JournalArgs {
    /// The journal's file; none if there shall be no journal.
    pub fn path(&self, dir: &ClusterDir) -> Option<PathBuf> {
        self.journal.as_ref().map(|place| match place {
            JournalPlace::OfCluster => dir.journal(),
            JournalPlace::File(path) => path.clone(),
        })
    }

    /// The flags that say the same to another program, which may run in another folder.
    pub fn flags(&self) -> Vec<OsString> {
        let Some(place) = &self.journal else { return Vec::new() };
        let keep = format!("--journal-keep={}ms", self.journal_keep.as_millis());
        let mut flags = vec![OsString::from("--journal"), OsString::from(keep)];
        if let JournalPlace::File(path) = place {
            flags.insert(1, std::path::absolute(path).unwrap_or_else(|_| path.clone()).into());
        }
        flags
    }
}

/// The location of a journal.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum JournalPlace {
    /// In the cluster's folder.
    OfCluster,
    /// In this file.
    File(PathBuf),
}

impl FromStr for JournalPlace {
    type Err = Infallible;

    fn from_str(text: &str) -> Result<Self, Infallible> {
        Ok(if text.is_empty() { Self::OfCluster } else { Self::File(text.into()) })
    }
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
        if text == "none" {
            Ok(Self::None)
        } else {
            text.parse().map(Self::Number).map_err(|_| BadPort)
        }
    }
}
