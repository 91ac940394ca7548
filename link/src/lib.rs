//! What all three programs share on the outside of [`furlong_wire`]: a tokio connection that carries its messages, and
//! the files of `$FURLONG_HOME`.
//!
//! A peer calls [`dial::dial`] with its capability and gets an [`incoming::Incoming`], and what an
//! [`outgoing::Outgoing`] needs. The broker makes a [`stranger::Stranger`] of each accepted socket, and the same two of
//! it once the stranger is proved. Neither decides anything: they turn bytes into records and back.

pub mod backoff;
pub mod dial;
pub mod durations;
pub mod home;
pub mod incoming;
pub mod local;
pub mod log;
pub mod memory_size;
pub mod outgoing;
pub mod printable;
pub mod private_file;
pub mod revoked;
pub mod stop;
pub mod stranger;
pub mod stream;
pub mod unsound;
pub mod vigil;
pub mod worth;
