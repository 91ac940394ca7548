//! Furlong's protocol: values to bytes and back, without I/O, clock or threads.
//!
//! A peer (an engine or a client) and the broker speak ZMTP 3.1 over a byte stream ([`zmtp`]). Inside it they run a
//! Noise handshake ([`handshake`]) in which the peer proves the key that its capability ([`capability`], [`token`])
//! names, and then exchange encrypted records ([`record`]), each a batch of messages ([`message`]) with the chunks of
//! large payloads ([`payload`]) beside it.
//!
//! Everything here is deterministic: random bytes and the time are arguments. `docs/PROTOCOL.md` has the same facts for
//! somebody who writes a peer in another language.
#![forbid(unsafe_code)]

pub mod aead;
mod at_least_one;
pub mod call;
pub mod capability;
pub mod handshake;
pub mod ids;
pub mod keys;
pub mod limits;
pub mod message;
pub mod numbers;
pub mod os_text;
pub mod payload;
pub mod record;
mod small;
pub mod token;
pub mod zmtp;

pub use at_least_one::AtLeastOne;
