//! Turns: long work is counted, and done in parts, so that others are served meanwhile.

pub(in crate::core) mod chores;
pub(in crate::core) mod rest;
pub(in crate::core) mod work;
