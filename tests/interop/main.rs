//! Peers that share no code with Furlong's own below the messages: other ZeroMQ libraries, other
//! Noise libraries.

mod python;
mod zeromq_crate;
