//! The connection between a broker and its peers, which all three programs share: what decides
//! about it, and the tokio sockets that carry it.
//!
//! [`peer`] decides: which record goes next, when the other side is dead, when it is sought again.
//! It has no socket and no clock, so that the simulation runs it, too. The rest carries bytes. A
//! peer calls [`dial::dial`] with its capability and gets an [`incoming::Incoming`], and what a
//! [`peer::Peer`] needs. The broker makes a [`pending::PendingPeer`] of each accepted socket, and
//! the same two of it once the peer is proved.
//!
//! # Example
//!
//! A client asks who is online, with nothing but this crate and the protocol. (The crate
//! `furlong-client` does all of it, and comes back after cuts.)
//!
//! ```no_run
//! use furlong_link::dial::{dial, random_bytes};
//! use furlong_link::peer::outbox::Outbox;
//! use furlong_wire::capability::Capability;
//! use furlong_wire::handshake::HelloBody;
//! use furlong_wire::ids::SessionId;
//! use furlong_wire::message::{FromClient, Query, Request, ToClient};
//!
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! let capability = Capability::from_json(&std::fs::read_to_string("client.cap.json")?)?;
//! let hello = HelloBody {
//!     token: capability.token().as_bytes().to_vec(),
//!     session: SessionId(random_bytes()),
//!     incarnation: 1,
//!     role: capability.role(),
//!     software: "example/1".into(),
//!     abilities: 0,
//! };
//! let mut link = dial(capability.door(), &hello).await?;
//!
//! let mut outbox = Outbox::new::<FromClient>(link.sealer);
//! outbox.push(&FromClient::Query(Request { request: 1, query: Query::Status }));
//! link.socket.write_from(&mut outbox, 64 * 1024)?;
//!
//! while link.incoming.read().await? > 0 {
//!     while let Some(record) = link.incoming.poll_record()? {
//!         for message in record.into_messages::<ToClient>() {
//!             println!("{:?}", message?);
//!         }
//!     }
//! }
//! # Ok(())
//! # }
//! ```

pub mod dial;
pub mod file;
pub mod incoming;
pub mod local;
mod map;
pub mod outgoing;
pub mod pass;
pub mod peer;
pub mod pending;
pub mod spin;
pub mod stream;
