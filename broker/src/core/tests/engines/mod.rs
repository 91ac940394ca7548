//! Tests of which task goes to which engine, and of cuts, losses and restarts.

mod begin;
mod direct_queue;
mod engines_lost;
mod held;
mod orphans;
mod placement;
mod restarts;
mod shared_queue;
