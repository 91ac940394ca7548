//! Fuzz targets: functions of any bytes that panic where a property of the product does not hold.
//!
//! [`TARGETS`] lists them. Each has seeds, made from the test vectors of `docs/PROTOCOL.md` and
//! from short histories, and a folder `corpus/NAME` for inputs that once broke something or that
//! are hard to find again. `tests/corpus.rs` runs every target over both and over mutations of
//! them, with the other tests. `cargo xtask fuzz NAME --seconds N` fuzzes one with libFuzzer,
//! through the package in `libfuzzer/`.
//!
//! Each target's module documents what the target checks. Linking this crate replaces the global
//! allocator by one that counts ([`memory`]).

use std::path::{Path, PathBuf};

pub mod call;
pub mod capability;
pub mod core;
pub mod gateway;
pub mod handshake;
pub mod input;
pub mod memory;
pub mod messages;
pub mod payload;
pub mod record;
pub mod token;
pub mod vectors;
pub mod zmtp;

/// Something that takes any bytes.
pub struct Target {
    /// Its name: on the command line, and of its folder of the corpus.
    pub name: &'static str,
    /// Runs it over one input; panics where a property does not hold.
    pub run: fn(&[u8]),
    /// Inputs to begin with.
    pub seeds: fn() -> Vec<Vec<u8>>,
}

/// All targets.
pub const TARGETS: [Target; 16] = [
    Target { name: "zmtp", run: zmtp::run, seeds: zmtp::seeds },
    Target { name: "handshake", run: handshake::run, seeds: handshake::seeds },
    Target { name: "record", run: record::run, seeds: record::seeds },
    Target { name: "greeting", run: messages::greeting, seeds: || messages::seeds("Greeting ") },
    Target {
        name: "from-client",
        run: messages::from_client,
        seeds: || messages::seeds("FromClient "),
    },
    Target { name: "to-client", run: messages::to_client, seeds: || messages::seeds("ToClient ") },
    Target {
        name: "from-engine",
        run: messages::from_engine,
        seeds: || messages::seeds("FromEngine "),
    },
    Target { name: "to-engine", run: messages::to_engine, seeds: || messages::seeds("ToEngine ") },
    Target { name: "payload", run: payload::run, seeds: payload::seeds },
    Target { name: "call", run: call::call, seeds: || vectors::named("call header, ") },
    Target { name: "reply", run: call::reply, seeds: || vectors::named("reply header, ") },
    Target { name: "token", run: token::run, seeds: token::seeds },
    Target { name: "capability", run: capability::run, seeds: capability::seeds },
    Target { name: "revoked", run: capability::revoked, seeds: capability::revoked_seeds },
    Target { name: "gateway", run: gateway::run, seeds: gateway::seeds },
    Target { name: "core", run: core::run, seeds: core::seeds },
];

impl Target {
    /// The target of that name.
    pub fn named(name: &str) -> Option<&'static Self> {
        TARGETS.iter().find(|target| target.name == name)
    }

    /// Its folder of the corpus. There need not be one.
    pub fn corpus(&self) -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(self.name)
    }
}
