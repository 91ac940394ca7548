//! Tests of the core: examples named for what they show, and invariants under any sequence of events.

mod authority;
mod backlog;
mod begin;
mod control;
mod deadlines;
mod dependencies;
mod direct_queue;
mod disk;
mod engines_lost;
mod held;
mod journal;
mod kept;
mod model;
mod nested;
mod orphans;
mod payloads;
mod peers;
mod placement;
mod restarts;
mod retries;
mod sending;
mod sessions;
mod shared_queue;
mod shares;
mod status;
mod work;
