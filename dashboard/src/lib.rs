//! The page of the farm: a small HTTP server in a process of its own, which asks the broker as any
//! observer does, and the page that it serves.
//!
//! The broker speaks to nobody before a proof, and its one thread serves tasks: so HTTP is none of
//! its business. This process holds a capability that may look and nothing else, and the most that
//! a hole in it could give away is a look.
//!
//! [`guard`] says which requests are looked at, [`keys`] who is let in, `view` keeps what is known
//! of the farm, `watcher` asks for it while a page is open, and `routes` answers.

mod assets;
mod door;
mod ends;
pub mod guard;
pub mod keys;
mod profile;
mod routes;
mod server;
mod stalled;
mod timeline;
mod view;
mod watcher;

use std::pin::Pin;
use std::sync::Arc;

use furlong_client::{Client, LinkEvent};
use furlong_wire::message::TaskRecord;
use serde_json::Value;

pub use door::{Address, Door};
pub use server::Page;

/// Hears of cuts of the connection to the broker.
pub type Told = Arc<dyn Fn(&LinkEvent) + Send + Sync>;
/// A connection to the broker that comes, or the reason why it does not.
pub type Connecting = Pin<Box<dyn Future<Output = Result<Client, String>> + Send>>;

/// The way to the farm, for the page's server.
pub struct Farm {
    /// Makes a connection. It is called again when one has ended.
    pub connect: Box<dyn Fn(Told) -> Connecting + Send + Sync>,
    /// A task's record as JSON, as `furlong explain --json` prints it.
    pub record: fn(&TaskRecord) -> Value,
    /// True if the capability may look into interpreters: an observer's may not.
    pub may_profile: bool,
}
