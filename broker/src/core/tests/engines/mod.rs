//! Tests of which task goes to which engine, and of cuts, losses and restarts.

mod begin;
mod direct_queue;
mod engines_lost;
mod given_back;
mod held;
mod orphans;
mod placement;
mod restarts;
mod shared_queue;
mod time_left;
