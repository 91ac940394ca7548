//! Tasks: their table, and what happens to each from its submit to its end.

pub(in crate::core) mod deadlines;
pub(in crate::core) mod dependencies;
pub(in crate::core) mod finish;
pub(in crate::core) mod output;
pub(in crate::core) mod refused;
pub(in crate::core) mod retained;
pub(in crate::core) mod submit;
pub(in crate::core) mod table;
