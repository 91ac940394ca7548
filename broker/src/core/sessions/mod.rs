//! Sessions: the clients that are here or may come back, their rights and their limits.

pub(in crate::core) mod authority;
pub(in crate::core) mod connect;
pub(in crate::core) mod definitions;
pub(in crate::core) mod events;
pub(in crate::core) mod expiries;
pub(in crate::core) mod from_client;
pub(in crate::core) mod grants;
pub(in crate::core) mod names;
pub(in crate::core) mod quotas;
pub(in crate::core) mod refused;
pub(in crate::core) mod table;

use std::collections::BTreeMap;

use authority::Authority;
use events::Events;
use expiries::Expiries;
use grants::Grants;
use quotas::Quotas;

use crate::core::requests::control::Restarting;
use crate::core::requests::inspect::Inspections;
use crate::core::{Connected, ConnectionId};

/// The peers that are here or may come back, with their rights.
#[derive(Debug, Default)]
pub(in crate::core) struct Peers {
    /// The session or process behind each connection.
    pub(in crate::core) connections: BTreeMap<ConnectionId, Connected>,
    /// The tokens of those that are connected.
    pub(in crate::core) authority: Authority,
    /// The keys that running attempts let in.
    pub(in crate::core) grants: Grants,
    /// What the holders of limited tokens use.
    pub(in crate::core) quotas: Quotas,
    /// Sessions and engines that are away.
    pub(in crate::core) expiries: Expiries,
    /// What subscribers are to be told.
    pub(in crate::core) events: Events,
    /// Requests for new interpreters that are not answered yet.
    pub(in crate::core) restarting: Restarting,
    /// Looks at interpreters that are not answered yet.
    pub(in crate::core) inspections: Inspections,
}
