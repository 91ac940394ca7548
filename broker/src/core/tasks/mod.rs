//! Tasks: their table, and what happens to each from its submit to its end.

pub(in crate::core) mod deadlines;
pub(in crate::core) mod dependencies;
pub(in crate::core) mod done;
pub(in crate::core) mod ended;
pub(in crate::core) mod extras;
pub(in crate::core) mod finish;
pub(in crate::core) mod output;
pub(in crate::core) mod retained;
pub(in crate::core) mod submit;
pub(in crate::core) mod table;
pub(in crate::core) mod turned_away;
pub(in crate::core) mod waits;
