//! A `FURLONG_HOME` of a test's own.

use std::path::{Path, PathBuf};

use furlong_host::home::{ClusterDir, Home as Folders, load_capability, load_issuer_key};
use furlong_wire::capability::{Capability, ClusterName};
use furlong_wire::keys::IssuerKey;
use furlong_wire::token::Role;
use serde::Deserialize;
use tempfile::TempDir;

/// A folder that the programs get as `FURLONG_HOME`.
#[derive(Debug)]
pub struct Home {
    folder: PathBuf,
    /// Removes a temporary folder when it is dropped.
    _temporary: Option<TempDir>,
}

/// `run/broker.json`, as `docs/` describes it.
#[derive(Clone, PartialEq, Eq, Debug, Deserialize)]
pub struct BrokerState {
    /// The broker's process id.
    pub pid: u32,
    /// Its port.
    pub port: u16,
    /// True if it has shut down gracefully.
    pub stopped: bool,
}

impl Home {
    /// A new, empty home, which is removed when it is dropped.
    ///
    /// # Panics
    /// If there can be no temporary folder.
    #[expect(clippy::new_without_default, reason = "it makes a folder")]
    pub fn new() -> Self {
        let temporary =
            tempfile::Builder::new().prefix("furlong-test-").tempdir().expect("a temporary folder");
        Self { folder: temporary.path().to_owned(), _temporary: Some(temporary) }
    }

    /// A home in this folder, which stays.
    pub fn at(folder: impl Into<PathBuf>) -> Self {
        Self { folder: folder.into(), _temporary: None }
    }

    /// The folder.
    pub fn path(&self) -> &Path {
        &self.folder
    }

    /// Returns the location of the default cluster's files.
    pub fn cluster(&self) -> ClusterDir {
        Folders::at(self.path()).cluster(&ClusterName::default())
    }

    /// The file that stands for the one in which the machine's administrator defines pools.
    pub fn site_pools(&self) -> PathBuf {
        self.path().join("site").join("pools.toml")
    }

    /// The default cluster's capability of a role.
    ///
    /// # Panics
    /// If the file is not there or not good.
    pub fn capability(&self, role: Role) -> Capability {
        load_capability(&self.cluster().capability(role)).unwrap_or_else(|error| panic!("{error}"))
    }

    /// The key that signs the default cluster's tokens.
    ///
    /// # Panics
    /// If the file is not there or not good.
    pub fn issuer(&self) -> IssuerKey {
        load_issuer_key(&self.cluster().issuer_key())
            .unwrap_or_else(|error| panic!("{error}"))
            .issuer
    }

    /// Returns the content of the default cluster's `run/broker.json`, if it is there.
    pub fn broker_state(&self) -> Option<BrokerState> {
        serde_json::from_slice(&std::fs::read(self.cluster().broker_state()).ok()?).ok()
    }

    /// Returns what engines of the default cluster have logged.
    pub fn engine_logs(&self) -> String {
        let files = std::fs::read_dir(self.cluster().log()).into_iter().flatten().flatten();
        let of_engines =
            files.filter(|file| file.file_name().to_string_lossy().starts_with("engine"));
        of_engines.map(|file| std::fs::read_to_string(file.path()).unwrap_or_default()).collect()
    }

    /// Returns the log of the default cluster's broker.
    pub fn broker_log(&self) -> String {
        std::fs::read_to_string(self.cluster().log().join("broker.log")).unwrap_or_default()
    }
}
