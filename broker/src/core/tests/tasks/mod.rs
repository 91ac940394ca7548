//! Tests of what happens to a task from its submit to its end.

mod backlog;
mod bounds;
mod deadlines;
mod dependencies;
mod journal;
mod payloads;
mod retained;
mod retries;
mod values;
