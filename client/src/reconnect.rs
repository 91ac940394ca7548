//! The search of a session for its broker, the first time and after each cut.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use furlong_host::home::load_capability;
use furlong_link::dial::{Dialed, dial};
use furlong_wire::capability::{Capability, Door, Pass};
use furlong_wire::handshake::HelloBody;
use furlong_wire::ids::SessionId;
use furlong_wire::token::Role;

use crate::client::SOFTWARE;
use crate::error::ConnectError;

/// The default time that a session seeks its broker after a cut: as long as the broker keeps it.
pub(crate) const RETURNS_WITHIN: Duration = Duration::from_mins(10);

/// The default time that the broker has for an answer: far more than it takes, also on a slow
/// machine.
pub(crate) const ANSWERS_WITHIN: Duration = Duration::from_secs(30);

/// An event in the life of a connection, for callers that want to tell people.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum LinkEvent {
    /// It was cut, for this reason, and is sought again.
    Cut(String),
    /// The session goes on.
    Back,
}

/// The listener for [`LinkEvent`]s.
#[derive(Clone)]
pub(crate) struct Told(Arc<dyn Fn(&LinkEvent) + Send + Sync>);

/// By what a session enters.
#[derive(Clone, Debug)]
pub(crate) enum Entry {
    /// A capability, with its token.
    Capability(Arc<Capability>),
    /// The pass of a running task, whose key the broker knows.
    Pass(Arc<Pass>),
}

impl Entry {
    fn door(&self) -> Door<'_> {
        match self {
            Self::Capability(capability) => capability.door(),
            Self::Pass(pass) => pass.door(),
        }
    }

    /// The role, and the token if there is one. What the holder of a pass may do is for the broker
    /// to say.
    fn credentials(&self) -> (Role, Vec<u8>) {
        match self {
            Self::Capability(capability) => {
                (capability.role(), capability.token().as_bytes().to_vec())
            }
            Self::Pass(_) => (Role::Client, Vec::new()),
        }
    }
}

/// The parameters for connecting a session, the first time and again.
#[derive(Clone, Debug)]
pub(crate) struct Reconnect {
    pub entry: Entry,
    /// The file that it came from: read anew after a cut, as the broker may have moved.
    pub path: Option<PathBuf>,
    pub software: String,
    pub cancel_on_disconnect: bool,
    pub hides_names: bool,
    pub returns_within: Duration,
    pub answers_within: Duration,
    pub told: Option<Told>,
}

impl Reconnect {
    /// With what a capability alone says.
    pub fn to(capability: Capability) -> Self {
        Self::through(Entry::Capability(Arc::new(capability)))
    }

    /// With the pass of a running task.
    pub fn by_pass(pass: Arc<Pass>) -> Self {
        Self::through(Entry::Pass(pass))
    }

    fn through(entry: Entry) -> Self {
        let (software, returns_within, answers_within) =
            (SOFTWARE.to_owned(), RETURNS_WITHIN, ANSWERS_WITHIN);
        Self {
            entry,
            path: None,
            software,
            cancel_on_disconnect: false,
            hides_names: false,
            returns_within,
            answers_within,
            told: None,
        }
    }

    /// By the capability of this file.
    pub fn by_file(path: PathBuf) -> Result<Self, ConnectError> {
        Ok(Self { path: Some(path.clone()), ..Self::to(load_capability(&path)?) })
    }

    /// Connects under this incarnation of the session.
    pub async fn dial(&self, session: SessionId, incarnation: u64) -> Result<Dialed, ConnectError> {
        let (role, token) = self.entry.credentials();
        if role == Role::Engine {
            return Err(ConnectError::EngineRole);
        }
        let hello = HelloBody {
            token,
            session,
            incarnation,
            role,
            software: self.software.clone(),
            abilities: 0,
        };
        Ok(dial(self.entry.door(), &hello).await?)
    }

    /// Reads the capability file as it is now.
    pub fn look_again(&mut self) -> Result<(), ConnectError> {
        if let Some(path) = &self.path {
            self.entry = Entry::Capability(Arc::new(load_capability(path)?));
        }
        Ok(())
    }

    /// Tells who wants to know.
    pub fn tell(&self, event: &LinkEvent) {
        if let Some(Told(tell)) = &self.told {
            tell(event);
        }
    }
}

impl Told {
    /// Calls this function.
    pub fn new(tell: impl Fn(&LinkEvent) + Send + Sync + 'static) -> Self {
        Self(Arc::new(tell))
    }
}

impl fmt::Debug for Told {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Told")
    }
}
