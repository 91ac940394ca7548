//! The broker's core as a model. An input is a list of acts of a small farm: peers that come, go,
//! and say honest things, odd ones or any message at all, time that passes, a disk that is slow or
//! fails, a broker that is killed. After each act the core's own invariants hold, and what it wants
//! said can be sent. At the end all leave, and without a journal nothing is left.

mod client_acts;
mod engine_acts;
mod peers;
mod seeds;

use std::collections::VecDeque;
use std::time::Duration;

use furlong_broker::core::journal::{Entry, MemoryJournal, Restoring};
use furlong_broker::core::{
    Config, ConnectionId, Core, Output, PeerMisbehaved, Roster, Time, invariants,
};
use furlong_wire::capability::{Revocation, RevokedTokens};
use furlong_wire::ids::{BrokerStart, ClusterId, TokenId};
use furlong_wire::limits::MESSAGE_BYTES_MAX;
use furlong_wire::message::{Message, decode_batch, encode_message};

use crate::input::Input;
use peers::{CLIENTS, Client, ENGINES, Engine};
pub use seeds::seeds;

/// Acts of one input.
const ACTS_MAX: usize = 300;
const PAYLOAD_BYTES_MAX: u64 = 2 << 20;
const SESSION_TASKS_MAX: u64 = 50;
const JOURNAL_KEEP: Duration = Duration::from_hours(24);
/// Longer than anything is remembered without a journal.
const AT_LAST: Duration = Duration::from_hours(3);
/// Timers that fire in a wait. So many do not: a core that needs more never comes to rest.
const TIMERS_MAX: usize = 20_000;

/// See the module.
pub fn run(data: &[u8]) {
    let mut input = Input::new(data);
    let mut farm = Farm::new(input.flag());
    for _ in 0..ACTS_MAX {
        if input.is_empty() {
            break;
        }
        farm.acts(&mut input);
        invariants::hold(&farm.core);
    }
    farm.comes_to_rest();
}

/// The acts, by the byte that stands for each.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Act {
    ClientConnects,
    ClientLeaves,
    Submits,
    ClientSendsChunk,
    Acknowledges,
    EndsTasks,
    Fetches,
    Asks,
    Defines,
    ClientSaysAnything,
    EngineConnects,
    EngineLeaves,
    Starts,
    Finishes,
    GivesBack,
    Writes,
    EngineSendsChunk,
    IsNested,
    EngineSaysAnything,
    TimePasses,
    DiskWrites,
    BrokerRestarts,
    Revokes,
    Ticks,
}

impl Act {
    const ALL: [Self; 24] = [
        Self::ClientConnects,
        Self::ClientLeaves,
        Self::Submits,
        Self::ClientSendsChunk,
        Self::Acknowledges,
        Self::EndsTasks,
        Self::Fetches,
        Self::Asks,
        Self::Defines,
        Self::ClientSaysAnything,
        Self::EngineConnects,
        Self::EngineLeaves,
        Self::Starts,
        Self::Finishes,
        Self::GivesBack,
        Self::Writes,
        Self::EngineSendsChunk,
        Self::IsNested,
        Self::EngineSaysAnything,
        Self::TimePasses,
        Self::DiskWrites,
        Self::BrokerRestarts,
        Self::Revokes,
        Self::Ticks,
    ];
}

/// A core with its peers.
struct Farm {
    core: Core,
    config: Config,
    now: Time,
    clients: Vec<Client>,
    engines: Vec<Engine>,
    connections_made: u64,
    requests_made: u64,
    roster: Roster,
    revoked: RevokedTokens,
    journal: MemoryJournal,
    /// On the way to the journal.
    unwritten: VecDeque<(u64, Entry)>,
}

impl Farm {
    fn new(has_journal: bool) -> Self {
        let config = Config {
            start: BrokerStart(1_000_000),
            cluster: ClusterId([9; 32]),
            cluster_name: "fuzzed".into(),
            software: "fuzz".into(),
            pid: 1,
            payload_bytes_max: PAYLOAD_BYTES_MAX,
            memory_flag: "--memory",
            tasks_max: Config::tasks_for_sessions_of(SESSION_TASKS_MAX),
            kept_max: 100_000,
            journal_keep: has_journal.then_some(JOURNAL_KEEP),
        };
        Self {
            core: Core::new(config.clone(), &Roster::default()),
            config,
            now: Time(0),
            clients: (0..CLIENTS).map(Client::new).collect(),
            engines: (0..ENGINES).map(Engine::new).collect(),
            connections_made: 0,
            requests_made: 0,
            roster: Roster::default(),
            revoked: RevokedTokens::default(),
            journal: MemoryJournal::default(),
            unwritten: VecDeque::new(),
        }
    }

    fn acts(&mut self, input: &mut Input<'_>) {
        let act = Act::ALL[input.below(Act::ALL.len())];
        match act {
            Act::TimePasses => {
                let wait = Duration::from_millis(
                    [1, 100, 5_000, 20_000, 61_000, 700_000, 4_000_000][input.below(7)],
                );
                self.wait(wait);
            }
            Act::DiskWrites => {
                self.disk_writes(if input.flag() {
                    Err("no space left on device")
                } else {
                    Ok(())
                });
            }
            Act::BrokerRestarts => self.broker_restarts(),
            Act::Revokes => self.revokes(TokenId([input.below(8) as u8; 16])),
            Act::Ticks => self.core.handle_tick(),
            Act::ClientConnects
            | Act::ClientLeaves
            | Act::Submits
            | Act::ClientSendsChunk
            | Act::Acknowledges
            | Act::EndsTasks
            | Act::Fetches
            | Act::Asks
            | Act::Defines
            | Act::ClientSaysAnything => {
                let client = input.below(CLIENTS);
                self.client_acts(act, client, input);
            }
            Act::EngineConnects
            | Act::EngineLeaves
            | Act::Starts
            | Act::Finishes
            | Act::GivesBack
            | Act::Writes
            | Act::EngineSendsChunk
            | Act::IsNested
            | Act::EngineSaysAnything => {
                let engine = input.below(ENGINES);
                self.engine_acts(act, engine, input);
            }
        }
        self.pump();
    }

    fn connection(&mut self) -> ConnectionId {
        self.connections_made += 1;
        ConnectionId(self.connections_made)
    }

    fn request(&mut self) -> u64 {
        self.requests_made += 1;
        self.requests_made
    }

    /// Does the shell's part after a message: closes those who misbehave, and lets the core decide.
    fn settle(&mut self, connection: ConnectionId, heard: Result<(), PeerMisbehaved>) {
        if heard.is_err() {
            self.close(connection);
        }
        self.core.dispatch(self.now);
        self.pump();
    }

    fn close(&mut self, connection: ConnectionId) {
        let clients = self.clients.iter_mut().map(|client| &mut client.connection);
        let all = clients.chain(self.engines.iter_mut().map(|engine| &mut engine.connection));
        all.filter(|of| **of == Some(connection)).for_each(|of| *of = None);
        self.core.handle_disconnected(self.now, connection);
    }

    /// Does what the core wants done.
    fn pump(&mut self) {
        while let Some(output) = self.core.poll_output() {
            match output {
                Output::ToClient(connection, message) => {
                    can_be_sent(&message);
                    let client =
                        self.clients.iter_mut().find(|it| it.connection == Some(connection));
                    if let Some(client) = client {
                        client.hears(&message);
                    }
                }
                Output::ToEngine(connection, message) => {
                    can_be_sent(&message);
                    let start = self.config.start;
                    let engine =
                        self.engines.iter_mut().find(|it| it.connection == Some(connection));
                    if let Some(engine) = engine {
                        engine.hears(start, &message);
                    }
                }
                Output::Close(connection, _) => self.close(connection),
                Output::SaveRoster(changes) => {
                    changes.into_iter().for_each(|it| self.roster.apply(it));
                }
                Output::Revoke(connection, request, tokens) => {
                    for token in tokens {
                        self.note_revoked(token);
                    }
                    self.core.handle_revocation(self.now, connection, request, Ok(&self.revoked));
                }
                Output::Journal(number, entry) => self.unwritten.push_back((number, entry)),
                Output::Transfer(..) | Output::Discard(_) | Output::Stop(_) => {}
            }
        }
    }

    /// Completes the writes on their way to the disk, or loses all but those that are not refused.
    fn disk_writes(&mut self, written: Result<(), &str>) {
        let Some(last) = self.unwritten.back().map(|(number, _)| *number) else { return };
        for (_, entry) in self.unwritten.drain(..) {
            if written.is_ok() || !matches!(entry, Entry::Task(_)) {
                self.journal.write(entry);
            }
        }
        self.core.handle_journaled(self.now, last, written);
    }

    /// Killed and started again: it knows who its engines were, and what the journal has.
    fn broker_restarts(&mut self) {
        self.unwritten.clear();
        self.config.start.0 += self.now.0 + 1;
        self.now = Time(0);
        self.core = Core::new(self.config.clone(), &self.roster);
        if self.config.journal_keep.is_some() {
            let ended_before = self.config.start.0.saturating_sub(JOURNAL_KEEP.as_micros() as u64);
            let mut restoring = Restoring::new(&mut self.core);
            self.journal
                .restore(&mut restoring, ended_before)
                .expect("what was held before fits again");
            restoring.finish(Time(0));
        }
        self.clients.iter_mut().for_each(|client| client.connection = None);
        self.engines.iter_mut().for_each(|engine| engine.connection = None);
    }

    fn revokes(&mut self, token: TokenId) {
        self.note_revoked(token);
        self.core.handle_revoked(self.now, &self.revoked);
    }

    fn note_revoked(&mut self, token: TokenId) {
        // The list is bounded, and so may be full.
        let _ = self.revoked.revoke(token, Revocation { revoked_s: 1, reason: None });
    }

    /// Lets time pass; what is due happens at its moment.
    fn wait(&mut self, time: Duration) {
        let end = self.now.after(time);
        for _ in 0..TIMERS_MAX {
            let Some(due) = self.core.poll_timeout().filter(|due| *due <= end) else {
                self.now = end;
                return;
            };
            self.now = self.now.max(due);
            self.core.handle_timeout(self.now);
            self.pump();
        }
        panic!("the core wants to be called at {:?} again and again", self.core.poll_timeout());
    }

    /// All end their tasks and leave. Then nothing is left, unless it is durable, or kept for
    /// somebody who may not come in any longer.
    fn comes_to_rest(mut self) {
        for client in 0..CLIENTS {
            self.client_ends_all(client);
        }
        for client in 0..CLIENTS {
            self.client_says_goodbye(client);
        }
        for engine in 0..ENGINES {
            self.engine_says_goodbye(engine);
        }
        self.disk_writes(Ok(()));
        self.pump();
        self.wait(AT_LAST);
        invariants::hold(&self.core);
        if self.config.journal_keep.is_none() && self.revoked.is_empty() {
            invariants::is_quiet(&self.core);
        }
    }
}

/// A message is one that its receiver takes.
fn can_be_sent<M: Message + PartialEq>(message: &M) {
    let mut batch = Vec::new();
    encode_message(message, &mut batch);
    assert!(batch.len() <= MESSAGE_BYTES_MAX, "a message of {} bytes", batch.len());
    let read: Vec<M> = decode_batch(&batch).flatten().collect();
    assert!(matches!(&read[..], [read] if read == message), "{message:?}");
}
