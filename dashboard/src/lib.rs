//! The page of the farm.
