//! The folder of the programs' files: `$FURLONG_HOME`, by default `~/.furlong`, with one folder a
//! cluster.
//!
//! ```text
//! NAME/security/ROLE.cap.json     capabilities, one a role
//! NAME/security/broker.key.json   what the broker loads
//! NAME/security/issuer.key.json   what issues capabilities
//! NAME/security/revoked.json      what is revoked
//! NAME/run/broker.json            the running broker
//! NAME/run/cluster.json           what `cluster start` runs
//! NAME/run/roster.json            the cluster's engines
//! NAME/log/, NAME/journal.db
//! ```

use std::ffi::OsString;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use furlong_wire::capability::{
    BrokerKey, Capability, CapabilityError, ClusterName, IssuerKeyFile, JsonError,
};
use furlong_wire::limits::CAPABILITY_FILE_BYTES_MAX;
use furlong_wire::token::Role;
use thiserror::Error;

use crate::private_file::{PrivateFileError, read_private};

/// The folder of all clusters.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Home {
    root: PathBuf,
}

impl Home {
    /// The folder that the environment names: `FURLONG_HOME`, else `.furlong` in the user's home.
    pub fn from_env() -> Result<Self, HomeError> {
        Self::from_values(std::env::var_os("FURLONG_HOME"), std::env::home_dir())
    }

    /// The folder at a path.
    pub fn at(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    /// The folder itself; it need not exist.
    pub fn path(&self) -> &Path {
        &self.root
    }

    /// The folder of one cluster; it need not exist.
    pub fn cluster(&self, name: &ClusterName) -> ClusterDir {
        ClusterDir { name: name.clone(), path: self.root.join(name.as_str()) }
    }

    /// The clusters that are here, in the order of their names: each folder with a `security`
    /// folder in it.
    pub fn clusters(&self) -> Result<Vec<ClusterName>, HomeError> {
        let unreadable = |problem| HomeError::Unreadable { path: self.root.clone(), problem };
        let entries = match self.root.read_dir() {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(vec![]),
            entries => entries.map_err(unreadable)?,
        };
        let mut clusters = vec![];
        for entry in entries {
            let file_name = entry.map_err(unreadable)?.file_name();
            let name = file_name.to_str().and_then(|name| name.parse().ok());
            clusters.extend(name.filter(|name| self.cluster(name).security().is_dir()));
        }
        clusters.sort();
        Ok(clusters)
    }

    /// Finds the capability file to use. It reads nothing: [`load_capability`] does.
    ///
    /// A file that is named (by `explicit`, else by `from_env`) is the answer, whether it exists or
    /// not, so that a mistyped name is never answered with another file. Else it is the first that
    /// exists for the cluster, in the order of the roles.
    pub fn find_capability(
        &self,
        search: &CapabilitySearch<'_>,
    ) -> Result<PathBuf, CapabilityNotFound> {
        if let Some(named) = search.explicit.or(search.from_env) {
            return Ok(named.to_owned());
        }
        let cluster = self.cluster(&search.cluster.cloned().unwrap_or_default());
        let looked: Vec<PathBuf> =
            search.roles.iter().map(|role| cluster.capability(*role)).collect();
        // A link or a folder in its place counts as found: loading it then says what is wrong with
        // it.
        let is_missing = |error: io::Error| error.kind() == io::ErrorKind::NotFound;
        let is_there = |path: &&PathBuf| !path.symlink_metadata().is_err_and(is_missing);
        match looked.iter().find(is_there) {
            Some(found) => Ok(found.clone()),
            None => Err(CapabilityNotFound {
                looked,
                other_clusters: self
                    .clusters()
                    .unwrap_or_default()
                    .into_iter()
                    .filter(|name| *name != cluster.name)
                    .collect(),
            }),
        }
    }

    fn from_values(
        furlong_home: Option<OsString>,
        user_home: Option<PathBuf>,
    ) -> Result<Self, HomeError> {
        let named = furlong_home.filter(|path| !path.is_empty()).map(PathBuf::from);
        let user_home = user_home.filter(|path| !path.as_os_str().is_empty());
        let root = named.or_else(|| Some(user_home?.join(".furlong"))).ok_or(HomeError::NoHome)?;
        // Absolute, so that it stays the same folder for a daemon, which changes to another.
        std::path::absolute(&root)
            .map(Self::at)
            .map_err(|problem| HomeError::Unreadable { path: root, problem })
    }
}

/// The folder of one cluster. Its methods name files and folders, which need not exist.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ClusterDir {
    name: ClusterName,
    path: PathBuf,
}

impl ClusterDir {
    /// The cluster's name.
    pub fn name(&self) -> &ClusterName {
        &self.name
    }

    /// The folder itself.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The folder of keys and capabilities: 0700.
    pub fn security(&self) -> PathBuf {
        self.path.join("security")
    }

    /// The capability of a role.
    pub fn capability(&self, role: Role) -> PathBuf {
        self.security().join(format!("{role}.cap.json"))
    }

    /// The keys that the broker loads.
    pub fn broker_key(&self) -> PathBuf {
        self.security().join("broker.key.json")
    }

    /// The key that issues capabilities.
    pub fn issuer_key(&self) -> PathBuf {
        self.security().join("issuer.key.json")
    }

    /// The file of revoked tokens.
    pub fn revoked(&self) -> PathBuf {
        self.security().join("revoked.json")
    }

    /// The folder of what is running.
    pub fn run(&self) -> PathBuf {
        self.path.join("run")
    }

    /// The running broker.
    pub fn broker_state(&self) -> PathBuf {
        self.run().join("broker.json")
    }

    /// The file that describes the cluster started by `furlong cluster start`.
    pub fn cluster_state(&self) -> PathBuf {
        self.run().join("cluster.json")
    }

    /// The cluster's engines and their numbers.
    pub fn roster(&self) -> PathBuf {
        self.run().join("roster.json")
    }

    /// The folder of log files.
    pub fn log(&self) -> PathBuf {
        self.path.join("log")
    }

    /// The journal of tasks and results.
    pub fn journal(&self) -> PathBuf {
        self.path.join("journal.db")
    }

    /// The record of ended tasks that `furlong history record` writes.
    pub fn history(&self) -> PathBuf {
        self.path.join("history.db")
    }
}

/// The settings that select the capability file, the strongest first.
#[derive(Clone, Copy, Debug, Default)]
pub struct CapabilitySearch<'a> {
    /// The file of `--cap`.
    pub explicit: Option<&'a Path>,
    /// The file of the environment: [`capability_from_env`].
    pub from_env: Option<&'a Path>,
    /// The cluster of `--cluster`; else the one with the name `default`.
    pub cluster: Option<&'a ClusterName>,
    /// Roles that serve, the preferred first.
    pub roles: &'a [Role],
}

/// Returns true if `FURLONG_HIDE_NAMES` says that the broker is told no names.
pub fn names_hidden_by_env() -> bool {
    std::env::var_os("FURLONG_HIDE_NAMES").is_some_and(|value| !value.is_empty())
}

/// The file that `FURLONG_CAP` names.
pub fn capability_from_env() -> Option<PathBuf> {
    std::env::var_os("FURLONG_CAP").filter(|path| !path.is_empty()).map(PathBuf::from)
}

/// Reads a capability file.
pub fn load_capability(path: &Path) -> Result<Capability, CapabilityFileError> {
    let text = read_private(path, CAPABILITY_FILE_BYTES_MAX)?;
    Capability::from_json(&text)
        .map_err(|problem| CapabilityFileError::Invalid { path: path.to_owned(), problem })
}

/// Reads a `broker.key.json`.
pub fn load_broker_key(path: &Path) -> Result<BrokerKey, KeyFileError> {
    let text = read_private(path, CAPABILITY_FILE_BYTES_MAX)?;
    BrokerKey::from_json(&text)
        .map_err(|problem| KeyFileError::Invalid { path: path.to_owned(), problem })
}

/// Reads an `issuer.key.json`.
pub fn load_issuer_key(path: &Path) -> Result<IssuerKeyFile, KeyFileError> {
    let text = read_private(path, CAPABILITY_FILE_BYTES_MAX)?;
    IssuerKeyFile::from_json(&text)
        .map_err(|problem| KeyFileError::Invalid { path: path.to_owned(), problem })
}

/// The reason that there is no [`Home`], or it cannot be listed.
#[derive(Debug, Error)]
pub enum HomeError {
    /// Neither variable is set.
    #[error(
        "neither FURLONG_HOME nor HOME is set; set FURLONG_HOME to the folder for Furlong's files"
    )]
    NoHome,
    /// The folder cannot be listed.
    #[error("{}: {problem}", path.display())]
    Unreadable {
        /// The folder.
        path: PathBuf,
        /// The system's error.
        problem: io::Error,
    },
}

/// No capability file where one was looked for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct CapabilityNotFound {
    /// The paths that were searched.
    pub looked: Vec<PathBuf>,
    /// Other clusters of this user.
    pub other_clusters: Vec<ClusterName>,
}

impl std::error::Error for CapabilityNotFound {}

impl fmt::Display for CapabilityNotFound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("no capability file: there is no ")?;
        for (n, path) in self.looked.iter().enumerate() {
            let separator = if n == 0 { "" } else { ", no " };
            write!(f, "{separator}{}", path.display())?;
        }
        f.write_str(
            "; start a cluster with \"furlong cluster start\", or name a file with --cap FILE",
        )?;
        if !self.other_clusters.is_empty() {
            f.write_str(", or one of your clusters with --cluster:")?;
            self.other_clusters.iter().try_for_each(|name| write!(f, " {name}"))?;
        }
        Ok(())
    }
}

/// The reason that a capability file cannot be used.
#[derive(Debug, Error)]
pub enum CapabilityFileError {
    /// The file.
    #[error(transparent)]
    File(#[from] PrivateFileError),
    /// The contents are invalid.
    #[error(
        "{}: {problem}; copy the file again from the broker's `security` folder",
        path.display()
    )]
    Invalid {
        /// The file.
        path: PathBuf,
        /// The problem.
        problem: CapabilityError,
    },
}

/// The reason that a file of the broker's own keys cannot be used.
#[derive(Debug, Error)]
pub enum KeyFileError {
    /// The file.
    #[error(transparent)]
    File(#[from] PrivateFileError),
    /// The contents are invalid.
    #[error("{}: {problem}", path.display())]
    Invalid {
        /// The file.
        path: PathBuf,
        /// The problem.
        problem: JsonError,
    },
}

#[cfg(test)]
mod tests {
    use std::fs;

    use furlong_wire::capability::Endpoint;
    use furlong_wire::ids::{ClusterId, OwnerId, TokenId};
    use furlong_wire::keys::{AtRestKey, IssuerKey, SecretKey};
    use furlong_wire::token::{Claims, TokenLimits};

    use super::*;
    use crate::private_file::{ensure_private_dir, write_private};

    fn name(text: &str) -> ClusterName {
        text.parse().unwrap()
    }

    fn temporary_home() -> (tempfile::TempDir, Home) {
        let folder = tempfile::tempdir().unwrap();
        let home = Home::at(folder.path().join("home"));
        (folder, home)
    }

    fn capability(role: Role) -> Capability {
        let issuer = IssuerKey::from_seed([1; 32]);
        let holder = SecretKey::from_bytes([2; 32]);
        let claims = Claims {
            cluster: ClusterId::of(&issuer.public()),
            token_id: TokenId([3; 16]),
            holder: holder.public(),
            owner: OwnerId([4; 16]),
            role,
            scopes: vec![],
            limits: TokenLimits::default(),
            not_before_s: 0,
            expires_s: Claims::NEVER,
        };
        let token = issuer.sign(&claims).unwrap();
        let endpoints = vec![Endpoint::new("::1", 7000).unwrap()];
        let server_key = SecretKey::from_bytes([5; 32]).public();
        Capability::new(name("default"), endpoints, server_key, issuer.public(), token, holder)
            .unwrap()
    }

    fn save(home: &Home, cluster: &str, role: Role) -> PathBuf {
        let cluster = home.cluster(&name(cluster));
        ensure_private_dir(&cluster.security()).unwrap();
        write_private(&cluster.capability(role), capability(role).to_json().as_bytes()).unwrap();
        cluster.capability(role)
    }

    #[test]
    fn the_environment_says_where_home_is() {
        let home = |variable: Option<&str>, user: Option<&str>| {
            Home::from_values(variable.map(OsString::from), user.map(PathBuf::from))
                .map(|home| home.root)
        };
        assert_eq!(home(Some("/f"), Some("/h/a")).unwrap(), Path::new("/f"));
        assert_eq!(home(None, Some("/h/a")).unwrap(), Path::new("/h/a/.furlong"));
        assert_eq!(home(Some(""), Some("/h/a")).unwrap(), Path::new("/h/a/.furlong"));
        assert!(home(Some("relative"), None).unwrap().is_absolute());
        assert!(matches!(home(None, Some("")), Err(HomeError::NoHome)));
    }

    #[test]
    fn files_are_where_the_guide_says() {
        let cluster = Home::at("/h").cluster(&name("lab"));
        let expected = [
            (cluster.path().to_owned(), ""),
            (cluster.capability(Role::Engine), "security/engine.cap.json"),
            (cluster.broker_key(), "security/broker.key.json"),
            (cluster.issuer_key(), "security/issuer.key.json"),
            (cluster.revoked(), "security/revoked.json"),
            (cluster.broker_state(), "run/broker.json"),
            (cluster.cluster_state(), "run/cluster.json"),
            (cluster.roster(), "run/roster.json"),
            (cluster.log(), "log"),
            (cluster.journal(), "journal.db"),
            (cluster.history(), "history.db"),
        ];
        for (path, below) in expected {
            assert_eq!(path, Path::new("/h/lab").join(below));
        }
    }

    #[test]
    fn clusters_are_the_folders_with_security_in_them() {
        let (_folder, home) = temporary_home();
        assert_eq!(home.clusters().unwrap(), []);
        for cluster in ["b", "a", ".hidden", "not a name"] {
            fs::create_dir_all(home.path().join(cluster).join("security")).unwrap();
        }
        fs::create_dir(home.path().join("empty")).unwrap();
        fs::write(home.path().join("file"), "").unwrap();
        assert_eq!(home.clusters().unwrap(), [name("a"), name("b")]);
    }

    #[test]
    fn a_named_file_wins_and_then_the_order_of_the_roles() {
        let (_folder, home) = temporary_home();
        let client = save(&home, "default", Role::Client);
        let admin = save(&home, "default", Role::Admin);
        let lab = name("lab");
        let lab_client = save(&home, "lab", Role::Client);
        let roles = [Role::Task, Role::Client, Role::Admin];
        let search = CapabilitySearch { roles: &roles, ..CapabilitySearch::default() };
        let find = |search| home.find_capability(&search).unwrap();
        assert_eq!(find(search), client);
        assert_eq!(find(CapabilitySearch { roles: &[Role::Admin, Role::Client], ..search }), admin);
        assert_eq!(find(CapabilitySearch { cluster: Some(&lab), ..search }), lab_client);
        let search =
            CapabilitySearch { from_env: Some(Path::new("/env")), cluster: Some(&lab), ..search };
        assert_eq!(find(search), Path::new("/env"));
        assert_eq!(
            find(CapabilitySearch { explicit: Some(Path::new("/cap")), ..search }),
            Path::new("/cap")
        );
    }

    #[test]
    fn no_capability_is_said_with_where_it_was_looked_for_and_what_to_do() {
        let home = Home::at("/nowhere");
        let search =
            CapabilitySearch { roles: &[Role::Client, Role::Admin], ..CapabilitySearch::default() };
        assert_eq!(
            home.find_capability(&search).unwrap_err().to_string(),
            "no capability file: there is no /nowhere/default/security/client.cap.json, no \
             /nowhere/default/security/admin.cap.json; start a cluster with \"furlong cluster start\", or name a file \
             with --cap FILE"
        );
        let (_folder, home) = temporary_home();
        save(&home, "lab", Role::Client);
        let error = home.find_capability(&search).unwrap_err().to_string();
        assert!(error.ends_with("or one of your clusters with --cluster: lab"), "{error}");
    }

    #[test]
    fn a_capability_loads_and_a_bad_one_is_refused_with_the_name_of_its_file() {
        let (_folder, home) = temporary_home();
        let path = save(&home, "default", Role::Client);
        assert_eq!(load_capability(&path).unwrap().role(), Role::Client);

        let text = capability(Role::Client).to_json().replace("\"client\"", "\"admin\"");
        write_private(&path, text.as_bytes()).unwrap();
        let wrong = "field \"role\": it says admin, and the token says client";
        let remedy = "copy the file again from the broker's `security` folder";
        let expected = format!("{}: {wrong}; {remedy}", path.display());
        assert_eq!(load_capability(&path).unwrap_err().to_string(), expected);

        fs::remove_file(&path).unwrap();
        let expected = format!("{}: there is no such file", path.display());
        assert_eq!(load_capability(&path).unwrap_err().to_string(), expected);
    }

    #[test]
    fn the_brokers_own_keys_load() {
        let (_folder, home) = temporary_home();
        let cluster = home.cluster(&ClusterName::default());
        ensure_private_dir(&cluster.security()).unwrap();
        let issuer = IssuerKeyFile { issuer: IssuerKey::from_seed([1; 32]) };
        let broker = BrokerKey {
            server_secret: SecretKey::from_bytes([2; 32]),
            issuer_key: issuer.issuer.public(),
            at_rest_key: AtRestKey::from_bytes([3; 32]),
        };
        write_private(&cluster.issuer_key(), issuer.to_json().as_bytes()).unwrap();
        write_private(&cluster.broker_key(), broker.to_json().as_bytes()).unwrap();
        let issuer_public = load_issuer_key(&cluster.issuer_key()).unwrap().issuer.public();
        assert_eq!(load_broker_key(&cluster.broker_key()).unwrap().issuer_key, issuer_public);
        let error = load_broker_key(&cluster.issuer_key()).unwrap_err();
        assert!(matches!(error, KeyFileError::Invalid { .. }), "{error}");
    }
}
