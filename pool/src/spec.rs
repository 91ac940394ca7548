//! A pool as it was asked for: `pool.json`.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::keeper::{LeavesOut, Limits, Shape, Wanted};
use crate::system::{self, System};

/// The name of a pool: a part of the names of its jobs and of its folder.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct PoolName(String);

/// The most characters of a pool's name.
const NAME_MAX: usize = 32;

impl PoolName {
    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for PoolName {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let is_good = |byte: u8| byte.is_ascii_alphanumeric() || b"-_".contains(&byte);
        let is_name = (1..=NAME_MAX).contains(&text.len())
            && text.bytes().all(is_good)
            && text.as_bytes()[0].is_ascii_alphanumeric();
        if is_name {
            Ok(Self(text.to_owned()))
        } else {
            Err(format!(
                "a pool's name has up to {NAME_MAX} letters, digits, `-` and `_`, and begins with a \
                 letter or a digit"
            ))
        }
    }
}

impl TryFrom<String> for PoolName {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<PoolName> for String {
    fn from(name: PoolName) -> Self {
        name.0
    }
}

impl fmt::Display for PoolName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A pool as it was asked for.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct PoolSpec {
    /// Its name.
    pub name: PoolName,
    /// The name of its system: `slurm`, `ssh`.
    pub system: String,
    /// The engines that are wanted.
    pub wanted: Wanted,
    /// Engines of one job.
    pub per_job: u32,
    /// The bounds on its jobs.
    pub limits: Limits,
    /// The resources of its jobs.
    pub job: JobSpec,
    /// The engines that its jobs start.
    pub engine: EngineSpec,
    /// True once it is to be removed, when its jobs have ended.
    #[serde(default)]
    pub is_removed: bool,
    /// True if its jobs do not finish what they run then.
    #[serde(default)]
    pub ends_now: bool,
}

/// The resources of a pool's jobs.
#[derive(Clone, PartialEq, Eq, Default, Debug, Serialize, Deserialize)]
pub struct JobSpec {
    /// Seconds that a job may take.
    pub walltime_s: u64,
    /// Cores of one engine.
    pub cpus: u32,
    /// Memory of one engine in MiB, if it was asked for.
    pub memory_mb: Option<u64>,
    /// Shell commands before the engine.
    pub setup: Vec<String>,
    /// A script in place of the system's own, with the same placeholders.
    pub template: Option<String>,
    /// Words before each command of the system, as `ssh login`.
    pub via: Vec<String>,
    /// Words for the system's submit command, as they are.
    pub args: Vec<String>,
    /// The folder in which the submit command runs, and so the jobs.
    #[serde(default)]
    pub dir: String,
    /// The image of its pods.
    #[serde(default)]
    pub image: String,
    /// Hosts, for a system without jobs.
    #[serde(default)]
    pub hosts: Vec<Host>,
}

/// A host on which engines are started.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Host {
    /// Its name for the system's command: `node1`, `user@node2`.
    pub name: String,
    /// The port, if it is not the usual one.
    pub port: Option<u16>,
    /// The number of engines, if the file says so.
    pub engines: Option<u32>,
}

/// The engines that a pool's jobs start.
#[derive(Clone, PartialEq, Eq, Default, Debug, Serialize, Deserialize)]
pub struct EngineSpec {
    /// The words that start this program: its path, or an interpreter and the package.
    pub program: Vec<String>,
    /// The cluster's name, after which the folder of their logs is named.
    pub cluster: String,
    /// The capability file of engines.
    pub cap: String,
    /// `FURLONG_HOME` of the engines.
    pub home: String,
    /// The Python interpreter, if the engine is not to seek one.
    pub python: Option<String>,
    /// Further flags of the engine.
    pub flags: Vec<String>,
}

impl Host {
    /// What it is called among others: its name, with the port if it has one.
    pub fn id(&self) -> String {
        self.port.map_or_else(|| self.name.clone(), |port| format!("{}:{port}", self.name))
    }
}

impl PoolSpec {
    /// The part of it that the keeper knows.
    pub fn shape(&self) -> Shape {
        let wanted = if self.is_removed { Wanted::exactly(0) } else { self.wanted };
        let leaves_out = system::by_name(&self.system).map(System::leaves_out);
        let leaves_out = leaves_out.unwrap_or(LeavesOut::Never);
        let ends_now = self.is_removed && self.ends_now;
        Shape { wanted, per_job: self.per_job, limits: self.limits, leaves_out, ends_now }
    }
}

/// Reads a file of hosts: a line each, as `node1` or `user@node2:2222 8`, the number being that of
/// engines. Empty lines and what follows `#` are left out.
///
/// # Errors
/// The line that cannot be read.
pub fn hosts(text: &str) -> Result<Vec<Host>, String> {
    let lines = text.lines().enumerate().map(|(at, line)| {
        let line = line.split('#').next().unwrap_or_default().trim();
        (at + 1, line)
    });
    let mut hosts: Vec<Host> = Vec::new();
    let mut places = BTreeMap::new();
    for (at, line) in lines.filter(|(_, line)| !line.is_empty()) {
        let host = host(line).ok_or_else(|| format!("line {at}: write a host as {HOST}"))?;
        if let Some(before) = places.insert(host.id(), at) {
            return Err(format!(
                "line {at}: {} is on line {before} already; write how many engines it has behind \
                 its name, as `node1 8`",
                host.id()
            ));
        }
        hosts.push(host);
    }
    if hosts.is_empty() {
        return Err(format!("no host is in it; write a line each: {HOST}"));
    }
    Ok(hosts)
}

const HOST: &str = "`node1`, `user@node2`, `node3:2222 8`";

fn host(line: &str) -> Option<Host> {
    let mut words = line.split_whitespace();
    let (name, engines) = (words.next()?, words.next());
    let engines = engines.map(str::parse).transpose().ok()?.filter(|n| *n > 0);
    let (name, port) = match name.rsplit_once(':') {
        Some((name, port)) if !name.contains(':') => (name, Some(port.parse().ok()?)),
        _ => (name, None),
    };
    let is_good = |byte: u8| byte.is_ascii_alphanumeric() || b"-._@:%".contains(&byte);
    // A name that begins with `-` would be a flag of ssh.
    let is_name = !name.is_empty() && !name.starts_with('-') && name.bytes().all(is_good);
    let is_good = is_name && words.next().is_none();
    is_good.then(|| Host { name: name.to_owned(), port, engines })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_pools_are_fit_for_folders_and_jobs() {
        for good in ["slurm", "gpu-2", "a_b"] {
            assert!(good.parse::<PoolName>().is_ok(), "{good}");
        }
        for wrong in ["", "-a", "a/b", "a b", "..", "é"] {
            assert!(wrong.parse::<PoolName>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn hosts_have_users_ports_and_numbers_of_engines() {
        let read = hosts("# all\nnode1\n\nuser@node2:2222 8 # big\n").unwrap();
        let host = |name: &str, port, engines| Host { name: name.to_owned(), port, engines };
        assert_eq!(read, [host("node1", None, None), host("user@node2", Some(2222), Some(8))]);
        assert!(hosts("# none").unwrap_err().starts_with("no host is in it"));
        for wrong in
            ["-oProxyCommand=x", "node1 x", "node1 1 2", "node1:x", "no\u{1b}de", "a/b", "a;b"]
        {
            assert!(hosts(wrong).unwrap_err().starts_with("line 1: write a host as"), "{wrong}");
        }
        assert_eq!(hosts("a:1\na:2\na").unwrap().len(), 3);
        let twice = hosts("a 1\n\na 2").unwrap_err();
        assert!(twice.starts_with("line 3: a is on line 1 already"), "{twice}");
    }
}
