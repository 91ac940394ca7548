//! Requests that are answered one by one: questions, controls, fetches.

pub(in crate::core) mod control;
pub(in crate::core) mod fetch;
pub(in crate::core) mod inspect;
pub(in crate::core) mod records;
pub(in crate::core) mod shutdown;
pub(in crate::core) mod status;
