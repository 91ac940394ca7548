//! Furlong's controller: engines and clients connect to it, each engine has a queue here, and there
//! is one shared queue.
//!
//! [`core`] decides, [`run`] lets it: sockets, timers, keys and files. [`budget`] adds up what it
//! can hold. The broker runs no user code and opens no payload.
//!
//! ```no_run
//! use clap::Parser;
//!
//! #[derive(Parser)]
//! struct Cli {
//!     #[command(flatten)]
//!     broker: furlong_broker::BrokerArgs,
//! }
//!
//! furlong_broker::run(&Cli::parse().broker).unwrap();
//! ```

pub mod budget;
pub mod core;
pub mod journal;
pub mod peer;
mod shell;

pub use shell::{
    BadPort, BrokerArgs, BrokerLock, BrokerState, JournalArgs, JournalPlace, OwnPort, read_state,
    run,
};
