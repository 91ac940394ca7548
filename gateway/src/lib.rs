//! The farm for programs of any language with a `ZeroMQ` library: a `ROUTER` that takes requests in
//! JSON or msgpack from `REQ`s and `DEALER`s, and answers each with one message.
//!
//! A gateway is a client of the farm that others speak through: whoever may open its [`Door`] has
//! the authority of its capability. docs/guide/gateway.md has all requests and answers.
//!
//! [`request`] and [`answer`] are the language, bytes to values and back, without I/O. [`serve`]
//! carries it: one task for each connection, each within [`limits`].
//!
//! ```
//! use furlong_gateway::request::{Work, parse};
//!
//! let request = parse(br#"{"v": 1, "id": 7, "submit": {"function": "math:sqrt", "args": [2]}}"#);
//! assert!(matches!(request.work, Ok(Work::Submit { .. })));
//! ```

pub mod answer;
mod blob;
mod door;
pub mod limits;
mod msgpack;
mod peer;
pub mod request;
mod server;
mod tasks;

pub use door::{Door, DoorError};
pub use server::serve;
