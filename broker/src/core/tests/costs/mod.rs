//! Tests of costs, counted in steps.

pub(in crate::core::tests) mod parts;
pub(in crate::core::tests) mod turns;
pub(in crate::core::tests) mod work;
