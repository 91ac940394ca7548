//! Tests of sessions, their rights and limits, and what they ask for.

mod authority;
mod control;
mod loads;
mod look;
mod names;
mod nested;
mod sessions;
mod shares;
mod status;
