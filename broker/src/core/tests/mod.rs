//! Tests of the core: examples named for what they show, and invariants under any sequence of events.

mod authority;
mod dependencies;
mod direct_queue;
mod engines_lost;
mod invariants;
mod model;
mod payloads;
mod peers;
mod sessions;
mod shared_queue;
