//! The rules, by what they are about.

pub mod layers;
pub mod leftovers;
pub mod links;
pub mod manifests;
pub mod packages;
pub mod printing;
pub mod size;
pub mod structure;
pub mod text;
pub mod words;
