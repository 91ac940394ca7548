//! Tests of the core (being written).
