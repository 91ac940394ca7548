//! Furlong's protocol: values to bytes and back, without I/O, clock or threads.
//!
//! A peer (an engine or a client) and the broker speak ZMTP 3.1 over a byte stream ([`zmtp`]).
//! Inside it they run a Noise handshake ([`handshake`]) in which the peer proves the key that its
//! capability ([`capability`], [`token`]) names, and then exchange encrypted records ([`record`]),
//! each a batch of messages ([`message`]) with the chunks of large payloads ([`payload`]) beside
//! it.
//!
//! Everything here is deterministic: random bytes and the time are arguments. `docs/PROTOCOL.md`
//! has the same facts for somebody who writes a peer in another language.
//!
//! # Example
//!
//! A client and the broker agree on keys, and a message crosses. Three buffers go over the wire for
//! the handshake, and one for each record after it.
//!
//! ```
//! use furlong_wire::handshake::{ExpectReply, ExpectStart, Hello, HelloBody};
//! use furlong_wire::ids::{ClusterId, SessionId};
//! use furlong_wire::keys::SecretKey;
//! use furlong_wire::message::{FromClient, Purge, decode_batch, encode_message};
//! use furlong_wire::record::SEQ_BYTES;
//! use furlong_wire::token::Role;
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let cluster = ClusterId([1; 32]);
//! let (broker, holder) = (SecretKey::from_bytes([2; 32]), SecretKey::from_bytes([3; 32]));
//!
//! let (first, client) =
//!     ExpectReply::start(&cluster, &broker.public().0, holder.expose(), [4; 32])?;
//! let (second, broker) =
//!     ExpectStart::new(&cluster, broker.expose(), [5; 32])?.handle_start(&first)?;
//! let hello = Hello::new(HelloBody {
//!     token: b"the capability file has it".to_vec(),
//!     session: SessionId([6; 16]),
//!     incarnation: 1,
//!     role: Role::Client,
//!     software: "example/1".into(),
//!     abilities: 0,
//! });
//! let (third, keys) = client.handle_reply(&second, &hello)?;
//! let proof = broker.handle_proof(&third)?;
//! assert_eq!((proof.holder, proof.hello), (holder.public().0, hello));
//!
//! // A record: room for the sequence number, the batch, and the tag that sealing appends.
//! let (mut sealer, _) = keys.split();
//! let (_, mut opener) = proof.keys.split();
//! let message = FromClient::Purge(Purge { request: 1, tasks: vec![] });
//! let mut record = vec![0; SEQ_BYTES];
//! encode_message(&message, &mut record);
//! sealer.seal::<Vec<u8>>(&mut record, 0, &[]);
//!
//! let mut received = bytes::BytesMut::from(&record[..]);
//! opener.open::<Vec<u8>>(&mut received, &[])?;
//! assert_eq!(decode_batch::<FromClient>(&received).collect::<Result<Vec<_>, _>>()?, [message]);
//! # Ok(())
//! # }
//! ```
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
pub mod msgpack;
pub mod numbers;
pub mod os_text;
pub mod payload;
pub mod record;
mod small;
pub mod token;
pub mod zmtp;

pub use at_least_one::AtLeastOne;
