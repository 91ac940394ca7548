//! Attacks on the real broker, over real sockets. `docs/SECURITY.md` names the test that tries each
//! threat.
//!
//! The conditions after every attack: the broker is alive, its memory has not grown beyond a bound,
//! an honest peer is let in and answered, and the attacker is closed.

mod abuse;
mod costs;
mod files;
mod gateway;
mod handshake;
mod neighbours;
mod page;
mod peer;
mod pending;
mod records;
mod roles;
mod texts;
mod tokens;
mod zmtp;

use std::time::Duration;

/// The limit on the broker's memory growth in an attack by an unauthenticated peer.
const PENDING_GROWTH_BYTES_MAX: u64 = 16 << 20;
/// In which time a misbehaving peer must be closed: the handshake's deadline, and what a busy
/// machine adds.
const CLOSED: Duration = Duration::from_secs(12);
