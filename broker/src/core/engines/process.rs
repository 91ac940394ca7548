//! A connected engine process.

use std::collections::{BTreeMap, BTreeSet};

use furlong_wire::ids::{Attempt, EngineId};
use furlong_wire::message::Register;

use super::measured::Measuring;
use crate::core::keys::{AttemptId, ClassId, SessionKey};
use crate::core::payloads::arriving::{Account, EngineWaiting};
use crate::core::payloads::budget::Lane;
use crate::core::payloads::stored::{Receiving, Stored};
use crate::core::{ConnectionId, Time};

/// A connected engine process.
#[derive(Debug)]
pub struct Process {
    /// Its connection.
    pub connection: ConnectionId,
    /// The address that it came from.
    pub address: String,
    /// Its software.
    pub software: String,
    /// Its registration; none before that has arrived.
    pub register: Option<Register>,
    /// When it stops what it runs and leaves, if it has said so.
    pub ends: Option<Time>,
    /// Its engines, by slot.
    pub engines: Vec<EngineId>,
    /// The class of its engines; none before it has registered, and when it leaves.
    pub class: Option<ClassId>,
    /// True if it leaves, and gets nothing new.
    pub leaving: bool,
    /// True if it has said that it leaves.
    pub is_draining: bool,
    /// What it has been told.
    pub told: Told,
    /// What it is sending.
    pub sending: Sending,
    /// Sessions of whose ended tasks it held results when it registered: it need not have been told
    /// of them on this connection.
    pub held_of: BTreeSet<SessionKey>,
    /// The figures of its machine and slots, while somebody looks.
    pub measuring: Measuring,
}

/// What an engine process has been told.
#[derive(Debug, Default)]
pub struct Told {
    /// The sessions whose secret it has been told, and what it may send unasked of each.
    pub lanes: BTreeMap<SessionKey, Lane>,
    /// The session of the last task that it was given.
    pub assigned_session: Option<SessionKey>,
    /// The definitions that it has.
    pub definitions: BTreeSet<(SessionKey, u32)>,
    /// Shared payloads that it has.
    pub shares: BTreeSet<u64>,
    /// The number of the next transfer towards it.
    pub next_transfer: u64,
}

/// What an engine process is sending.
#[derive(Debug, Default)]
pub struct Sending {
    /// The results that it was asked for: by the attempt, whose they are and how large.
    pub taken: BTreeMap<AttemptId, (SessionKey, u64)>,
    /// The transfers that it is sending.
    pub receiving: Receiving<EngineWaiting>,
    /// Of that, the transfers of intermediate data, by the attempts that have published them.
    pub publishing: BTreeSet<(Attempt, u64)>,
}

impl Process {
    /// Results that it was asked for, or that came in part, or whole with an end that cannot be
    /// told yet.
    pub fn arriving(&self) -> impl Iterator<Item = (Account, u64)> {
        let taken = self
            .sending
            .taken
            .values()
            .map(|(session, bytes)| (Account { session: *session, lane: None }, *bytes));
        let in_part =
            self.sending.receiving.waiting_with_bytes().filter_map(
                |(waiting, bytes)| match waiting {
                    EngineWaiting::Finished(_, account) => Some((*account, bytes)),
                    EngineWaiting::Published(.., end) => {
                        let end = end.as_ref()?;
                        Some((end.account, end.payload.as_ref().map_or(0, Stored::budget_bytes)))
                    }
                },
            );
        taken.chain(in_part)
    }

    /// Bytes of intermediate data that came in part.
    pub fn passing_bytes(&self) -> u64 {
        let passing = self.sending.receiving.waiting_with_bytes();
        let passing =
            passing.filter(|(waiting, _)| matches!(waiting, EngineWaiting::Published(..)));
        passing.map(|(_, bytes)| bytes).sum()
    }
}
