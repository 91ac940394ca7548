//! Sessions: the clients that are here or may come back, their rights and their limits.

pub(in crate::core) mod authority;
pub(in crate::core) mod connect;
pub(in crate::core) mod events;
pub(in crate::core) mod expiries;
pub(in crate::core) mod from_client;
pub(in crate::core) mod grants;
pub(in crate::core) mod quotas;
pub(in crate::core) mod refused;
pub(in crate::core) mod table;
