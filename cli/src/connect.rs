//! The flags by which every command finds its cluster.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::Result;
use furlong_client::{Client, EngineTargets, LinkEvent};
use furlong_host::home::{CapabilitySearch, Home, capability_from_env, load_capability};
use furlong_wire::capability::{Capability, ClusterName};
use furlong_wire::ids::EngineId;
use furlong_wire::token::Role;

/// Roles whose capability lets one look, those with the least rights first.
pub const OBSERVERS: &[Role] =
    &[Role::Observer, Role::Auditor, Role::Client, Role::Multiengine, Role::Task, Role::Admin];

/// The options for finding the broker.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct ConnectArgs {
    /// Capability file; by default that of the cluster
    #[arg(long, value_name = "FILE", conflicts_with = "cluster")]
    pub cap: Option<PathBuf>,
    /// Name of the cluster; by default that of the file that `FURLONG_CAP` names, else `default`
    #[arg(long, value_name = "NAME")]
    pub cluster: Option<ClusterName>,
    /// Seconds to wait for the broker, and for each of its answers; 5 and 30 by default
    #[arg(long, value_name = "SECONDS", value_parser = seconds)]
    pub wait: Option<f64>,
}

/// The same for a command whose `--wait` is about something else.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct BrokerArgs {
    /// Capability file; by default that of the cluster
    #[arg(long, value_name = "FILE", conflicts_with = "cluster")]
    cap: Option<PathBuf>,
    /// Name of the cluster; by default that of the file that `FURLONG_CAP` names, else `default`
    #[arg(long, value_name = "NAME")]
    cluster: Option<ClusterName>,
    /// Seconds to wait for the broker, and for each of its answers; 5 and 30 by default
    #[arg(long, value_name = "SECONDS", value_parser = seconds)]
    broker_wait: Option<f64>,
}

impl From<BrokerArgs> for ConnectArgs {
    fn from(BrokerArgs { cap, cluster, broker_wait }: BrokerArgs) -> Self {
        Self { cap, cluster, wait: broker_wait }
    }
}

impl ConnectArgs {
    /// Reads the first of these roles' capability files that is there: the one to connect with.
    pub fn capability(&self, roles: &[Role]) -> Result<Capability> {
        // A cluster that was named goes before the variable.
        let from_env = capability_from_env().filter(|_| self.cluster.is_none());
        let search = CapabilitySearch {
            explicit: self.cap.as_deref(),
            from_env: from_env.as_deref(),
            cluster: self.cluster.as_ref(),
            roles,
        };
        Ok(load_capability(&Home::from_env()?.find_capability(&search)?)?)
    }

    /// Connects with the first of these roles' capability files that is there.
    pub async fn connect(&self, roles: &[Role]) -> Result<Client> {
        self.connect_telling(roles, tell).await
    }

    /// The same, for a command that says itself when the connection is cut.
    pub async fn connect_telling(
        &self,
        roles: &[Role],
        tell: impl Fn(&LinkEvent) + Send + Sync + 'static,
    ) -> Result<Client> {
        let mut builder = Client::builder()
            .roles(roles)
            .software(concat!("furlong ", env!("CARGO_PKG_VERSION")))
            .on_link(tell);
        if let Some(wait) = self.wait.map(Duration::from_secs_f64) {
            builder = builder.wait(wait).answers_within(wait);
        }
        if let Some(cluster) = &self.cluster {
            builder = builder.cluster(cluster.clone());
        }
        if let Some(path) = &self.cap {
            builder = builder.capability(path);
        }
        Ok(builder.connect().await?)
    }
}

/// Says that the command waits, and for what.
fn tell(event: &LinkEvent) {
    match event {
        LinkEvent::Cut(cause) => {
            crate::print::note!(
                "furlong: the connection to the broker {cause}; seeking it again, Ctrl-C ends"
            );
        }
        LinkEvent::Back => crate::print::note!("furlong: the session goes on"),
    }
}

fn seconds(text: &str) -> Result<f64, String> {
    let seconds = text.parse::<f64>().ok().filter(|seconds| (0.0..=86_400.0).contains(seconds));
    seconds.ok_or_else(|| "a number of seconds from 0 to 86400".to_owned())
}

/// The engines: `all`, or integers and ranges.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum TargetsArg {
    /// All that are online.
    All,
    /// These.
    Ids(Vec<EngineId>),
}

impl From<TargetsArg> for EngineTargets {
    fn from(targets: TargetsArg) -> Self {
        match targets {
            TargetsArg::All => Self::All,
            TargetsArg::Ids(ids) => Self::Ids(ids),
        }
    }
}

/// Reads `all`, `3`, `0,2` or `1-3,7`.
///
/// # Errors
/// The problem with it, for the usage message.
pub fn targets(text: &str) -> Result<TargetsArg, String> {
    if text == "all" {
        return Ok(TargetsArg::All);
    }
    let mut ids = Vec::new();
    for part in text.split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let number = |text: &str| text.trim().parse::<u32>().ok();
        let range = number(first)
            .zip(number(last))
            .filter(|(first, last)| first <= last && last - first < 65_536);
        let (first, last) =
            range.ok_or_else(|| format!("`{part}`: engines are `all`, `3`, `0,2` or `1-3`"))?;
        ids.extend((first..=last).map(EngineId));
    }
    Ok(TargetsArg::Ids(ids))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_are_all_integers_and_ranges() {
        let ids = |ids: &[u32]| TargetsArg::Ids(ids.iter().copied().map(EngineId).collect());
        assert_eq!(targets("all").unwrap(), TargetsArg::All);
        assert_eq!(targets("0,2-4").unwrap(), ids(&[0, 2, 3, 4]));
        for wrong in ["", "x", "3-1", "1-", "0-99999999"] {
            assert!(targets(wrong).is_err(), "{wrong}");
        }
    }
}
