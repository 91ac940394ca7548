//! Payloads that are on their way from engine processes, and what waits for them.

use furlong_wire::message::{AttemptFinished, AttemptPublished};

use super::stored::Stored;
use crate::core::keys::{ProcessKey, SessionKey};

/// The recipient of a payload from an engine process.
#[derive(Debug)]
pub enum EngineWaiting {
    /// An attempt's end.
    Finished(AttemptFinished, Account),
    /// Intermediate data, the session by whose lane they come, and what follows them if it was
    /// faster. The attempt may be forgotten before they are here, so the lane is not looked up by
    /// that.
    Published(AttemptPublished, SessionKey, Option<Box<EarlyEnd>>),
}

impl EngineWaiting {
    /// The session whose client is to read the payload.
    pub fn session(&self) -> SessionKey {
        match self {
            Self::Finished(_, account) => account.session,
            Self::Published(_, session, _) => *session,
        }
    }
}

/// The end of an attempt that has come before what it has published, and is told after that.
#[derive(Debug)]
pub struct EarlyEnd {
    /// The end.
    pub finished: AttemptFinished,
    /// The result.
    pub payload: Option<Stored>,
    /// Against what it counts.
    pub account: Account,
}

/// Against what the bytes of a result count.
#[derive(Clone, Copy, Debug)]
pub struct Account {
    /// The session whose client is to read it.
    pub session: SessionKey,
    /// The process whose lane of that session it came by, if it came unasked.
    pub lane: Option<ProcessKey>,
}

impl Account {
    /// That of an end without such bytes.
    pub const NONE: Self = Self { session: SessionKey::NOBODY, lane: None };
}
