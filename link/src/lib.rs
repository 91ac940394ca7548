//! The shell around [`furlong_wire`] that all three programs share: a tokio connection that carries
//! its messages, and the files of `$FURLONG_HOME`.
//!
//! A peer calls [`dial::dial`] with its capability and gets an [`incoming::Incoming`], and what an
//! [`outgoing::Outgoing`] needs. The broker makes a [`pending::PendingPeer`] of each accepted
//! socket, and the same two of it once the peer is proved. Neither decides anything: they turn
//! bytes into records and back.
//!
//! # Example
//!
//! A client asks who is online, with nothing but this crate and the protocol. (The crate
//! `furlong-client` does all of it, and comes back after cuts.)
//!
//! ```no_run
//! use furlong_link::dial::{dial, random_bytes};
//! use furlong_link::outgoing::Outgoing;
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
//!     payload_credit_bytes: 0,
//! };
//! let mut link = dial(capability.door(), &hello).await?;
//!
//! let mut outgoing = Outgoing::new(link.sealer);
//! outgoing.push(&FromClient::Query(Request { request: 1, query: Query::Status }));
//! outgoing.write_to(&link.socket, 64 * 1024)?;
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

pub mod backoff;
pub mod dial;
pub mod incoming;
pub mod local;
pub mod outgoing;
pub mod pending;
pub mod spin;
pub mod stream;
pub mod unsound;
pub mod vigil;
