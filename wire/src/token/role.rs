//! Roles: what the holder of a token may do.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// The role of a token's holder.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Runs tasks.
    Engine,
    /// Submits to engines chosen by their id.
    Multiengine,
    /// Submits to the shared queue.
    Task,
    /// Submits in both ways.
    Client,
    /// Sees the cluster's status and events.
    Observer,
    /// Does all that is not an engine's, revokes and shuts down.
    Admin,
    /// Sees names, times and records of all owners' tasks, and does nothing.
    Auditor,
}

impl Role {
    /// All roles, in the order of their codes.
    pub const ALL: [Self; 7] = [
        Self::Engine,
        Self::Multiengine,
        Self::Task,
        Self::Client,
        Self::Observer,
        Self::Admin,
        Self::Auditor,
    ];

    /// The role's byte in a token. Never reused for another role.
    pub fn code(self) -> u8 {
        match self {
            Self::Engine => 1,
            Self::Multiengine => 2,
            Self::Task => 3,
            Self::Client => 4,
            Self::Observer => 5,
            Self::Admin => 6,
            Self::Auditor => 7,
        }
    }

    /// The role with this byte.
    pub fn from_code(code: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|role| role.code() == code)
    }

    /// The role's name, as in files and on command lines.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Engine => "engine",
            Self::Multiengine => "multiengine",
            Self::Task => "task",
            Self::Client => "client",
            Self::Observer => "observer",
            Self::Admin => "admin",
            Self::Auditor => "auditor",
        }
    }

    /// Returns true if the holder may register engines.
    pub fn may_register_engines(self) -> bool {
        self == Self::Engine
    }

    /// Returns true if the holder may submit to engines chosen by their id.
    pub fn may_submit_direct(self) -> bool {
        matches!(self, Self::Multiengine | Self::Client | Self::Admin)
    }

    /// Returns true if the holder may submit to the shared queue.
    pub fn may_submit_shared(self) -> bool {
        matches!(self, Self::Task | Self::Client | Self::Admin)
    }

    /// Returns true if the holder may cancel its owner's tasks: whoever may submit.
    pub fn may_cancel(self) -> bool {
        self.may_submit_direct() || self.may_submit_shared()
    }

    /// Returns true if the holder may see the cluster's status and events.
    pub fn may_observe(self) -> bool {
        self != Self::Engine
    }

    /// Returns true if the holder's looks at the farm show names and tasks of all owners.
    pub fn may_look_at_all(self) -> bool {
        matches!(self, Self::Auditor | Self::Admin)
    }

    /// Returns true if the holder is told the records of all owners' tasks. An administrator is
    /// not: what it cancels by a record would be another's.
    pub fn may_read_all_records(self) -> bool {
        self == Self::Auditor
    }

    /// Returns true if the holder may revoke tokens and shut the cluster down.
    pub fn may_administer(self) -> bool {
        self == Self::Admin
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl FromStr for Role {
    type Err = UnknownRoleName;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        Self::ALL.into_iter().find(|role| role.as_str() == name).ok_or(UnknownRoleName)
    }
}

/// A word that names no [`Role`].
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
#[error("no such role; there are engine, multiengine, task, client, observer, admin and auditor")]
pub struct UnknownRoleName;
