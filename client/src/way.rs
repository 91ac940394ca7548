//! How a session finds its broker, the first time and after each cut.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use furlong_link::dial::{Dialed, dial};
use furlong_link::home::load_capability;
use furlong_wire::capability::Capability;
use furlong_wire::handshake::HelloBody;
use furlong_wire::ids::SessionId;
use furlong_wire::token::Role;

use crate::client::SOFTWARE;
use crate::error::ConnectError;

/// How long a session seeks its broker after a cut, unless it is told otherwise: as long as the broker keeps it.
pub(crate) const RETURNS_WITHIN: Duration = Duration::from_mins(10);

/// What happens to a connection, for who wants to tell people.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum LinkEvent {
    /// It was cut, for this reason, and is sought again.
    Cut(String),
    /// The session goes on.
    Back,
}

/// Who is told of [`LinkEvent`]s.
#[derive(Clone)]
pub(crate) struct Told(Arc<dyn Fn(&LinkEvent) + Send + Sync>);

/// What is needed to connect a session, once and again.
#[derive(Clone, Debug)]
pub(crate) struct Way {
    pub capability: Arc<Capability>,
    /// The file that it came from: read anew after a cut, as the broker may have moved.
    pub path: Option<PathBuf>,
    pub software: String,
    pub cancel_on_disconnect: bool,
    pub returns_within: Duration,
    pub told: Option<Told>,
}

impl Way {
    /// With what a capability alone says.
    pub fn to(capability: Capability) -> Self {
        let (capability, software, returns_within) = (Arc::new(capability), SOFTWARE.to_owned(), RETURNS_WITHIN);
        Self { capability, path: None, software, cancel_on_disconnect: false, returns_within, told: None }
    }

    /// By the capability of this file.
    pub fn by_file(path: PathBuf) -> Result<Self, ConnectError> {
        Ok(Self { path: Some(path.clone()), ..Self::to(load_capability(&path)?) })
    }

    /// Connects under this incarnation of the session.
    pub async fn dial(&self, session: SessionId, incarnation: u64) -> Result<Dialed, ConnectError> {
        if self.capability.role() == Role::Engine {
            return Err(ConnectError::EngineRole);
        }
        let hello = HelloBody {
            token: self.capability.token().as_bytes().to_vec(),
            session,
            incarnation,
            role: self.capability.role(),
            software: self.software.clone(),
            payload_credit_bytes: 0,
        };
        Ok(dial(&self.capability, &hello).await?)
    }

    /// Reads the capability file as it is now.
    pub fn look_again(&mut self) -> Result<(), ConnectError> {
        if let Some(path) = &self.path {
            self.capability = Arc::new(load_capability(path)?);
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
