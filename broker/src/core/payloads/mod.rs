//! Payloads: arguments and results, and the memory that they and other extras take.

pub(in crate::core) mod arriving;
pub(in crate::core) mod backlog;
pub(in crate::core) mod budget;
pub(in crate::core) mod charges;
mod files;
pub(in crate::core) mod output;
pub(in crate::core) mod published;
pub(in crate::core) mod stored;
pub(in crate::core) mod values;

use backlog::Backlog;
use budget::Budget;
use values::Values;

/// The memory that payloads and extras take.
#[derive(Debug)]
pub(in crate::core) struct Memory {
    /// What is held, and what may still come.
    pub(in crate::core) budget: Budget,
    /// Results for which there is no room yet.
    pub(in crate::core) backlog: Backlog,
    /// What tasks have as inputs, and what stays.
    pub(in crate::core) values: Values,
    /// Payloads so far that several tasks share, and values.
    pub(in crate::core) shares_made: u64,
}
