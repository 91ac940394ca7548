//! The broker's decisions: a deterministic state machine, without I/O, clock or threads.
//!
//! The shell tells it what happened (`handle_*`) and then takes what is to be done
//! ([`Core::poll_output`]) until there is nothing left. It calls [`Core::handle_timeout`] at the
//! moment that [`Core::poll_timeout`] names, or later. In this order:
//!
//! 1. [`Core::handle_connected`] for a peer whose key and token are proved; the core lets it in or
//!    refuses it.
//! 2. [`Core::handle_from_client`] or [`Core::handle_from_engine`] for each of its messages,
//!    [`Core::handle_rest`] as long as something is left of one ([`Core::has_rest`]), and
//!    [`Core::dispatch`] once after each batch of them.
//! 3. [`Core::handle_disconnected`] when the connection is gone, whoever closed it.

mod admission;
mod attempts;
mod engines;
#[cfg(any(test, feature = "invariants"))]
pub mod invariants;
pub mod journal;
mod keys;
mod payloads;
mod recovery;
mod requests;
mod schedule;
mod seq_map;
mod sessions;
mod tasks;
#[cfg(test)]
mod tests;
mod time;
mod turns;
mod watch;

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use bytes::Bytes;
use furlong_link::peer::outbox::Chunks;
use furlong_wire::ids::{Attempt, BrokerStart, ClusterId, TokenId};
use furlong_wire::limits::{ENDS_REMEMBERED_MAX, LISTED_MAX};
use furlong_wire::message::{RefusalKind, ToClient, ToEngine};

pub use admission::Serves;
pub use engines::roster::{Change as RosterChange, Roster};
pub use payloads::budget::Budget;
pub(crate) use payloads::output::Piece;
pub use sessions::connect::Peer;
pub use time::Time;
pub use turns::work::WORK_PER_TURN;

use attempts::Attempts;
use engines::process::Process;
use engines::table::Engines;
use journal::{Entry, Journal};
pub use keys::AttemptId;
use keys::{ProcessKey, SessionKey};
use payloads::Memory;
use payloads::backlog::Backlog;
use payloads::values::Values;
use recovery::Recovery;
use recovery::orphans::Orphans;
use recovery::release::Releases;
use schedule::Schedule;
use sessions::Peers;
use sessions::connect::ENGINE_GRACE;
use sessions::expiries::Expiries;
use sessions::table::Sessions;
use tasks::retained::Retained;
use tasks::table::Tasks;
use tasks::{Tally, Waiting};
use turns::Turns;

/// Names a connection; the shell gives it, and gives none twice.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct ConnectionId(pub u64);

/// The core's configuration at its start.
#[derive(Clone, Debug)]
pub struct Config {
    /// This start of the broker.
    pub start: BrokerStart,
    /// The cluster.
    pub cluster: ClusterId,
    /// Its name.
    pub cluster_name: String,
    /// The broker's software and process id, for status.
    pub software: String,
    /// The broker's process id.
    pub pid: u32,
    /// Bytes of payload chunks that may be held.
    pub payload_bytes_max: u64,
    /// The flag that gives this broker more memory, for people.
    pub memory_flag: &'static str,
    /// Unfinished and unacknowledged tasks of all sessions. Each may have
    /// [`Self::session_tasks_max`] of them.
    pub tasks_max: u64,
    /// Ended tasks whose records are kept.
    pub kept_max: usize,
    /// The retention time of ended tasks in the journal; none if there is no journal.
    pub journal_keep: Option<Duration>,
}

impl Config {
    /// The tasks of all sessions where each may have so many.
    pub fn tasks_for_sessions_of(session_tasks_max: u64) -> u64 {
        SESSIONS_OF_ALL_TASKS * session_tasks_max
    }

    /// Unfinished and unacknowledged tasks that a session may have, as far as others leave room.
    pub fn session_tasks_max(&self) -> u64 {
        self.tasks_max / SESSIONS_OF_ALL_TASKS
    }

    /// Ends of tasks that a session may have remembered, where all have so many: very many, and few
    /// when all have as many as there may be tasks.
    fn ends_remembered_max(&self, of_all: usize) -> usize {
        let most = self.tasks_max.max(ENDS_REMEMBERED_MAX as u64);
        if of_all as u64 <= most { ENDS_REMEMBERED_MAX } else { ENDS_REMEMBERED_LEAST }
    }
}

/// Sessions that may have all tasks together: so that one leaves room for others.
const SESSIONS_OF_ALL_TASKS: u64 = 2;
/// Ends of tasks that are remembered of each session in any case.
const ENDS_REMEMBERED_LEAST: usize = 256;

/// An action for the shell.
#[derive(Debug)]
pub enum Output {
    /// Send a message to a client.
    ToClient(ConnectionId, ToClient),
    /// Send a message to an engine process.
    ToEngine(ConnectionId, ToEngine),
    /// Send the chunks of a payload that a message has announced under this number.
    Transfer(ConnectionId, u64, Chunks),
    /// Send what waits, and close.
    Close(ConnectionId, &'static str),
    /// Keep for a later start what has changed of the roster.
    SaveRoster(Vec<RosterChange>),
    /// Revoke tokens for good, for a client's request; what comes of it is for
    /// [`Core::handle_revocation`].
    Revoke(ConnectionId, u64, Vec<TokenId>),
    /// Free these chunks, a few at a time.
    Discard(Vec<Bytes>),
    /// Write this to the journal, under this number: [`Core::handle_journaled`] is told when it is
    /// on disk.
    Journal(u64, Entry),
    /// A graceful stop: why.
    Stop(String),
}

/// A peer's violation of the protocol. It is closed; the log says why.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum PeerMisbehaved {
    /// A transfer that is unknown, repeated, or of the wrong length.
    #[error("a payload transfer that is unknown, repeated or misshapen")]
    Transfer,
    /// More than its credit.
    #[error("more tasks or payload bytes than its credit allows")]
    Credit,
    /// Task numbers must be consecutive.
    #[error("a task number that is not the next one")]
    TaskNumber,
    /// A message before the one that must come first, or one that must come once.
    #[error("a message out of order")]
    Order,
    /// More than a limit of the protocol.
    #[error("a message beyond a limit of the protocol")]
    Limit,
    /// An engine that speaks of attempts that it was not given.
    #[error("an attempt that this engine was not given")]
    Attempt,
    /// A message that its role may not send.
    #[error("a message that its role may not send")]
    Role,
    /// Engines have used up all integers that there are.
    #[error("no integers are left for engines; start a cluster of another name")]
    UsedUp,
    /// A message that this version does not serve.
    #[error("a message that this version does not serve")]
    Unsupported,
}

/// The reason that a peer is not let in.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Refusal {
    /// For programs.
    pub kind: RefusalKind,
    /// For people.
    pub text: String,
}

/// The broker's state.
#[derive(Debug)]
pub struct Core {
    config: Config,
    sessions: Sessions,
    processes: BTreeMap<ProcessKey, Process>,
    engines: Engines,
    tasks: Tasks,
    /// What engines have been given.
    attempts: Attempts,
    kept: Retained,
    peers: Peers,
    waiting: Waiting,
    tally: Tally,
    recovery: Recovery,
    schedule: Schedule,
    turns: Turns,
    memory: Memory,
    outputs: VecDeque<Output>,
}

/// The session or process behind a connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Connected {
    Client(SessionKey),
    Engine(ProcessKey),
}

impl Core {
    /// A broker without peers, with the roster of an earlier start if there was one.
    pub fn new(config: Config, roster: &Roster) -> Self {
        let engines = Engines::new(roster);
        Self {
            sessions: Sessions::default(),
            processes: BTreeMap::new(),
            tasks: Tasks::default(),
            attempts: Attempts::default(),
            kept: Retained::default(),
            peers: Peers {
                expiries: Expiries::new(&engines, Time::default().after(ENGINE_GRACE)),
                ..Peers::default()
            },
            waiting: Waiting::default(),
            tally: Tally::default(),
            recovery: Recovery {
                orphans: Orphans::new(roster.here.clone()),
                releases: Releases::default(),
                journal: Journal::new(config.journal_keep),
            },
            schedule: Schedule::default(),
            turns: Turns::default(),
            memory: Memory {
                budget: Budget::new(config.payload_bytes_max),
                backlog: Backlog::default(),
                values: Values::default(),
                shares_made: 0,
            },
            engines,
            config,
            outputs: VecDeque::new(),
        }
    }

    /// The next thing to do.
    pub fn poll_output(&mut self) -> Option<Output> {
        // Last is soon enough: the shell takes all outputs before it writes to a peer, so the
        // roster is written before an engine has its first task.
        self.outputs.pop_front().or_else(|| {
            let changes = self.engines.take_changes();
            (!changes.is_empty()).then_some(Output::SaveRoster(changes))
        })
    }

    /// The roster as it is now.
    pub fn roster(&self) -> Roster {
        self.engines.roster()
    }

    /// Returns the time at which [`Core::handle_timeout`] is to be called.
    pub fn poll_timeout(&self) -> Option<Time> {
        let due = [
            self.schedule.recall_at,
            self.schedule.circles_at,
            self.peers.expiries.first(),
            self.waiting.deadlines.first(),
            self.kept.expires(),
            self.next_token_expiry(),
            self.recovery.orphans.expires(),
            self.recovery.journal.reconciled(),
            self.schedule.set_aside.due(),
            self.next_chore(),
            self.schedule.dispatch_at,
        ];
        due.into_iter().flatten().min()
    }

    /// Does what is due.
    pub fn handle_timeout(&mut self, now: Time) {
        // Chores first: what an earlier turn has left undone goes before what is due only now.
        self.do_chores(now);
        self.expire_tokens(now);
        self.expire(now);
        self.handle_deadlines(now);
        self.end_circles(now);
        self.expire_kept(now);
        self.expire_orphans(now);
        self.recovery.journal.handle_timeout(now);
        self.retry_set_aside(now);
        self.dispatch(now);
    }

    /// Returns the cost of messages so far: others have their turn after [`WORK_PER_TURN`].
    pub fn work_done(&self) -> u64 {
        self.turns.work.done()
    }

    /// Whether this turn has cost so much that what can wait is left for later ones.
    fn is_turn_over(&self) -> bool {
        self.turns.work.done() - self.turns.work_before >= WORK_PER_TURN
    }

    /// Engines that are connected.
    pub fn engines_online(&self) -> usize {
        self.engines.online().count()
    }

    fn attempt(&self, id: AttemptId) -> Attempt {
        Attempt { start: self.config.start, id }
    }

    fn to_client(&mut self, connection: ConnectionId, message: ToClient) {
        self.outputs.push_back(Output::ToClient(connection, message));
    }

    fn to_engine(&mut self, connection: ConnectionId, message: ToEngine) {
        self.outputs.push_back(Output::ToEngine(connection, message));
    }

    /// Sends a list of any length, such as attempts, in messages that a record can carry.
    fn to_engine_in_parts<T: Clone>(
        &mut self,
        connection: ConnectionId,
        list: &[T],
        message: impl Fn(Vec<T>) -> ToEngine,
    ) {
        list.chunks(LISTED_MAX).for_each(|part| self.to_engine(connection, message(part.to_vec())));
    }
}
