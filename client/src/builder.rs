//! From the user's environment to a client.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use furlong_host::home::{CapabilitySearch, Home, capability_from_env, names_hidden_by_env};
use furlong_link::dial::random_bytes;
use furlong_link::peer::backoff::Backoff;
use furlong_wire::capability::{ClusterName, Pass};
use furlong_wire::token::Role;
use tokio::time::{Instant, sleep};

use crate::client::{Client, SOFTWARE};
use crate::error::ConnectError;
use crate::reconnect::{ANSWERS_WITHIN, LinkEvent, RETURNS_WITHIN, Reconnect, Told};

/// The default time that a client waits for capability file and broker.
const WAIT: Duration = Duration::from_secs(5);
/// Roles of which a capability is looked for, unless it is told otherwise.
const ROLES: [Role; 4] = [Role::Client, Role::Admin, Role::Task, Role::Multiengine];

/// The settings for finding a cluster, and the time to wait for it. See [`Client::builder`].
#[derive(Clone, Debug)]
#[must_use = "nothing is connected before `connect`"]
pub struct ClientBuilder {
    capability: Option<PathBuf>,
    pass: Option<Arc<Pass>>,
    cluster: Option<ClusterName>,
    roles: Vec<Role>,
    wait: Duration,
    software: String,
    cancel_on_disconnect: bool,
    hides_names: bool,
    returns_within: Duration,
    answers_within: Duration,
    told: Option<Told>,
}

impl Default for ClientBuilder {
    fn default() -> Self {
        Self {
            capability: None,
            pass: None,
            cluster: None,
            roles: ROLES.to_vec(),
            wait: WAIT,
            software: SOFTWARE.to_owned(),
            cancel_on_disconnect: false,
            hides_names: names_hidden_by_env(),
            returns_within: RETURNS_WITHIN,
            answers_within: ANSWERS_WITHIN,
            told: None,
        }
    }
}

impl ClientBuilder {
    /// Takes this capability file. Else it is the one that `FURLONG_CAP` names, unless a cluster is
    /// named, else the cluster's.
    pub fn capability(mut self, path: impl AsRef<Path>) -> Self {
        self.capability = Some(path.as_ref().to_owned());
        self
    }

    /// Enters by the pass of a running task, and needs no capability file.
    pub fn pass(mut self, pass: Pass) -> Self {
        self.pass = Some(Arc::new(pass));
        self
    }

    /// Looks for the capability of this cluster; else of the one with the name `default`.
    pub fn cluster(mut self, name: ClusterName) -> Self {
        self.cluster = Some(name);
        self
    }

    /// Looks for a capability of one of these roles, the preferred first; else `client`, `admin`,
    /// `task`, `multiengine`.
    pub fn roles(mut self, roles: &[Role]) -> Self {
        self.roles = roles.to_vec();
        self
    }

    /// Waits that long for the file and the broker, 5 s if nothing is said; not at all if it is
    /// zero.
    pub fn wait(mut self, wait: Duration) -> Self {
        self.wait = wait;
        self
    }

    /// Names the program and its version, for people.
    pub fn software(mut self, software: impl Into<String>) -> Self {
        self.software = software.into();
        self
    }

    /// Sets if the session ends with its connection, however that ends: unfinished tasks are
    /// cancelled at once, but for those with the option [`keep`](crate::CallSpec::keep). Otherwise
    /// the broker waits for the session to come back.
    pub fn cancel_on_disconnect(mut self, cancel: bool) -> Self {
        self.cancel_on_disconnect = cancel;
        self
    }

    /// Sets if the broker is told neither the names of the functions and programs that the session
    /// runs nor the types of the errors that they raise: `furlong queue` then shows neither. If
    /// nothing is said, it is so if the variable `FURLONG_HIDE_NAMES` is set, and not empty.
    pub fn hide_names(mut self, hide: bool) -> Self {
        self.hides_names = hide;
        self
    }

    /// Sets how long the session seeks its broker after a cut, before everything unfinished ends as
    /// disconnected: ten minutes if nothing is said, as long as the broker keeps it. Not at all if
    /// it is zero; then nothing is kept to be submitted again.
    pub fn returns_within(mut self, limit: Duration) -> Self {
        self.returns_within = limit;
        self
    }

    /// Sets how long a connected broker has for an answer, before the question ends as
    /// [`ClientError::NoAnswer`]: 30 s if nothing is said, a second at least. What waits for a disk
    /// or for interpreters to end has two minutes at least, and what waits for a task's end has no
    /// limit.
    ///
    /// [`ClientError::NoAnswer`]: crate::ClientError::NoAnswer
    pub fn answers_within(mut self, limit: Duration) -> Self {
        self.answers_within = limit;
        self
    }

    /// Calls this function when the connection is cut, and when the session goes on. It must not
    /// block.
    pub fn on_link(mut self, tell: impl Fn(&LinkEvent) + Send + Sync + 'static) -> Self {
        self.told = Some(Told::new(tell));
        self
    }

    /// Connects.
    ///
    /// # Errors
    /// The last try's. What cannot change by waiting is an error at once.
    pub async fn connect(self) -> Result<Client, ConnectError> {
        retry(self.wait, || self.connect_once()).await
    }

    async fn connect_once(&self) -> Result<Client, ConnectError> {
        let way = match &self.pass {
            Some(pass) => Reconnect::by_pass(Arc::clone(pass)),
            None => Reconnect::by_file(self.find()?)?,
        };
        let Self { software, hides_names, returns_within, answers_within, told, .. } = self.clone();
        let cancel_on_disconnect = self.cancel_on_disconnect;
        Client::connect_once(Reconnect {
            software,
            cancel_on_disconnect,
            hides_names,
            returns_within,
            answers_within,
            told,
            ..way
        })
        .await
    }

    /// The capability file.
    fn find(&self) -> Result<PathBuf, ConnectError> {
        // A cluster that was named goes before the variable.
        let from_env = capability_from_env().filter(|_| self.cluster.is_none());
        let search = CapabilitySearch {
            explicit: self.capability.as_deref(),
            from_env: from_env.as_deref(),
            cluster: self.cluster.as_ref(),
            roles: &self.roles,
        };
        Ok(Home::from_env()?.find_capability(&search)?)
    }
}

/// Tries for up to `wait`, while the errors are such that time may mend them.
pub(crate) async fn retry<F>(
    wait: Duration,
    mut connect: impl FnMut() -> F,
) -> Result<Client, ConnectError>
where
    F: Future<Output = Result<Client, ConnectError>>,
{
    let deadline = Instant::now().checked_add(wait); // none for a wait without end
    let mut backoff = Backoff::default();
    loop {
        let error = match connect().await {
            Ok(client) => return Ok(client),
            Err(error) => error,
        };
        let pause = backoff.next_wait(u64::from_le_bytes(random_bytes()));
        if !error.is_transient()
            || deadline.is_some_and(|deadline| Instant::now() + pause > deadline)
        {
            return Err(error);
        }
        tracing::debug!(%error, ?pause, "not connected yet");
        sleep(pause).await;
    }
}
