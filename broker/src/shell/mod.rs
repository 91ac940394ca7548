//! The broker's shell: sockets, timers, files, signals. It decides nothing; [`crate::core`] does.
//!
//! Everything runs on one thread. Measured with a bare relay on two cores: the latency is the same
//! as with a task and a channel for each connection, and the rate is higher, since nothing is
//! handed from thread to thread.

mod connection;
mod entrance;
mod keys;
mod listener;
mod pending;
mod port_holder;
mod rates;
mod revocations;
mod roster_file;
mod run_files;
mod settings;
mod spin;
mod way_in;

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};
use furlong_host::home::{ClusterDir, Home};
use furlong_host::stop::Stop;
use furlong_link::peer::GOODBYE_TIMEOUT;
use furlong_link::peer::outbox::Chunks;
use furlong_wire::ids::{BrokerStart, TokenId};
use tokio::sync::mpsc::Receiver;
use tokio::sync::{Notify, Semaphore};
use tokio::task::{JoinSet, LocalSet};

pub use run_files::{BrokerLock, BrokerState, read_state};
pub use settings::{BadPort, BrokerArgs, JournalArgs, JournalPlace, OwnPort};

use crate::budget::{Memory, OutQueues};
use crate::core::journal::{Entry, Restoring};
use crate::core::{Config, ConnectionId, Core, Output, Time};
use crate::journal::{Journal, JournalThread, Written};
use crate::peer::{ConnectedPeer, ConnectionEnd, TICK};
use connection::Connection;
use entrance::Address;
use keys::Identity;
use pending::{PendingPeers, PendingPlace};
use revocations::Revocations;
use roster_file::RosterFile;
use spin::SpinBeforeSleep;
use way_in::RejectedPeer;

/// Chunks that are freed in one turn.
const DISCARDED_PER_TURN: usize = 4;

/// The state that the tasks of the shell share.
#[derive(Debug)]
struct Shell {
    core: RefCell<Core>,
    connections: RefCell<BTreeMap<ConnectionId, Rc<Connection>>>,
    pending: Rc<PendingPeers>,
    identity: Identity,
    revocations: Revocations,
    dir: ClusterDir,
    began: Instant,
    connections_made: Cell<u64>,
    /// Those whose connections have ended leave one after the other: so very many that do so in one
    /// moment let others have their turn between them.
    departures: tokio::sync::Mutex<()>,
    /// The pending output for all clients together.
    out_queues: Rc<OutQueues>,
    /// Wakes the timer: the core wants to be called earlier than before.
    timer: Notify,
    timer_at: Cell<Option<Time>>,
    roster: RefCell<RosterFile>,
    /// Chunks that nobody needs any longer, and what wakes who frees them.
    discarded: RefCell<VecDeque<bytes::Bytes>>,
    sweep: Notify,
    /// The revocations that administrators want: whose request it is, and the tokens. The core
    /// bounds their number.
    to_revoke: RefCell<Vec<(ConnectionId, u64, Vec<TokenId>)>>,
    /// The reason that an administrator wants the broker to stop.
    to_stop: RefCell<Option<String>>,
    /// Wakes who looks after the two.
    administration: Notify,
    /// The thread that writes the journal, if there is one.
    journal: RefCell<Option<JournalThread>>,
    spin: SpinBeforeSleep,
    /// A permit for each memory file that is held.
    files: Arc<Semaphore>,
}

/// Runs a broker until SIGINT or SIGTERM, or until an administrator stops it.
///
/// # Errors
/// The problem that keeps it from starting: one line that says how to fix it.
pub fn run(args: &BrokerArgs) -> Result<()> {
    let dir = Home::from_env()?.cluster(&args.cluster);
    // In this order: a second broker of a cluster must not touch the first one's log and keys.
    keys::ensure_folders(&dir)?;
    let lock = BrokerLock::take(&dir)?;
    let (log, level) = (dir.log().join("broker.log"), args.log_level);
    furlong_host::log::start(Some(&log), Some(level), level, args.log_format)
        .with_context(|| format!("cannot write the log {}", log.display()))?;
    let identity = keys::load_or_create(&dir, args.fresh)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.context("cannot start the network thread")?;
    let outcome = LocalSet::new().block_on(&runtime, serve(args, dir, identity));
    drop(lock);
    outcome
}

async fn serve(args: &BrokerArgs, dir: ClusterDir, identity: Identity) -> Result<()> {
    let (permits, files) = listener::descriptor_permits();
    let revocations = Revocations::load(&dir)?;
    let listening = listener::bind(args, &dir, &identity.cluster).await?;
    let began = Instant::now();
    let unix =
        SystemTime::now().duration_since(UNIX_EPOCH).context("the clock is set before 1970")?;
    let security = keys::write_capabilities(
        &dir,
        &identity,
        |role| listening.endpoints(role),
        unix.as_secs(),
    )?;
    let (memory, start) = (Memory::of(args.memory.bytes()), BrokerStart(unix.as_micros() as u64));
    let config = config(args, &dir, &identity, (memory, start));
    let roster = RosterFile::of(&dir);
    let mut core = Core::new(config, &roster.read());
    let (journal, written) =
        open_journal(args, &dir, &identity, &mut core, (start, began))?.unzip();
    // Whoever reads that the broker is here may tell it to stop.
    let mut stop = Stop::new(args.stop_with_stdin);
    listening.write_state(&dir, start, false)?;
    let shell = Rc::new(Shell {
        core: RefCell::new(core),
        connections: RefCell::default(),
        pending: Rc::default(),
        identity,
        revocations,
        dir,
        began,
        connections_made: Cell::new(0),
        departures: tokio::sync::Mutex::default(),
        out_queues: Rc::new(OutQueues::new(memory.out_bytes_max)),
        timer: Notify::new(),
        timer_at: Cell::new(None),
        roster: RefCell::new(roster),
        discarded: RefCell::default(),
        sweep: Notify::new(),
        to_revoke: RefCell::default(),
        to_stop: RefCell::default(),
        administration: Notify::new(),
        journal: RefCell::new(journal),
        spin: SpinBeforeSleep::default(),
        files,
    });
    // What was restored may have ended at once, or want to be woken.
    shell.flush();
    log_start(&shell.dir, &listening, &security);
    let accepting = listener::open(&shell, &listening, &permits);
    let mut chores = shell.clone().begin_chores(written);
    let reason = tokio::select! {
        _ = chores.join_next() => "one of its chores ended".to_owned(),
        reason = shell.clone().administer() => reason,
        reason = stop.next() => reason.text().to_owned(),
    };
    drop(chores);
    drop(accepting);
    shell.say_goodbye(&reason).await;
    let journal = shell.journal.take();
    if let Some(it) = journal {
        JournalThread::finish(it);
    }
    listening.write_state(&shell.dir, start, true)?;
    shell.roster.borrow().remove();
    tracing::info!("broker has stopped: {reason}");
    Ok(())
}

/// Logs where the broker listens, and where its capability files are.
fn log_start(dir: &ClusterDir, listening: &listener::Listening, security: &std::path::Path) {
    for (serves, endpoints) in listening.describe() {
        tracing::info!("broker of cluster {} listens at {endpoints} for {serves}", dir.name());
    }
    tracing::info!("capability files are in {}", security.display());
}

/// Returns the core's configuration.
fn config(
    args: &BrokerArgs,
    dir: &ClusterDir,
    identity: &Identity,
    (memory, start): (Memory, BrokerStart),
) -> Config {
    Config {
        start,
        cluster: identity.cluster,
        cluster_name: dir.name().to_string(),
        software: concat!("furlong ", env!("CARGO_PKG_VERSION")).to_owned(),
        pid: std::process::id(),
        payload_bytes_max: memory.payload_bytes_max,
        memory_flag: args.memory_flag(),
        tasks_max: memory.tasks_max,
        kept_max: memory.kept_max,
        journal_keep: args.journal.journal.as_ref().map(|_| args.journal.journal_keep),
    }
}

/// Opens the journal, if there shall be one, and gives the core what is in it.
fn open_journal(
    args: &BrokerArgs,
    dir: &ClusterDir,
    identity: &Identity,
    core: &mut Core,
    (start, began): (BrokerStart, Instant),
) -> Result<Option<(JournalThread, Receiver<Written>)>> {
    let Some(path) = args.journal.path(dir) else { return Ok(None) };
    let journal = Journal::open(&path, identity.cluster, &identity.key.at_rest_key)?;
    let mut restoring = Restoring::new(core);
    let restored = journal.restore(&mut restoring, args.journal.journal_keep, start.0)?;
    restoring.finish(Time(began.elapsed().as_micros() as u64));
    let crate::journal::Restored { sessions, unfinished, ended } = restored;
    tracing::info!(
        "journal {}: {unfinished} unfinished and {ended} ended tasks of {sessions} sessions are back",
        path.display()
    );
    journal.start().map(Some)
}

impl Shell {
    fn now(&self) -> Time {
        Time(self.began.elapsed().as_micros() as u64)
    }

    fn next_connection(&self) -> ConnectionId {
        self.connections_made.set(self.connections_made.get() + 1);
        ConnectionId(self.connections_made.get())
    }

    fn log_rejected(&self, address: Address, error: &RejectedPeer) {
        if self.pending.may_log(address.origin()) {
            tracing::warn!("{address} was not let in: {error}");
        }
    }

    /// Does what the core wants done: queues everything first, then writes to each peer once.
    fn flush(&self) {
        let connections = self.connections.borrow();
        let mut dirty = Vec::new();
        let mut entries: Vec<(u64, Entry)> = Vec::new();
        let mut core = self.core.borrow_mut();
        while let Some(output) = core.poll_output() {
            match output {
                Output::ToClient(id, message) => {
                    change(&connections, &mut dirty, id, |peer| peer.push(&message));
                }
                Output::ToEngine(id, message) => {
                    change(&connections, &mut dirty, id, |peer| peer.push(&message));
                }
                Output::Transfer(id, number, chunks) => {
                    let Some(connection) = connections.get(&id) else { continue };
                    let pass = |chunks: &Chunks| connection.pass(number, chunks);
                    change(&connections, &mut dirty, id, |peer| {
                        peer.push_transfer(number, chunks, pass);
                    });
                }
                Output::Close(id, reason) => {
                    change(&connections, &mut dirty, id, |peer| {
                        peer.end(ConnectionEnd::Graceful(reason));
                    });
                }
                Output::Discard(chunks) => {
                    self.discarded.borrow_mut().extend(chunks);
                    self.sweep.notify_one();
                }
                // Before an engine gets its first task: a later start must know whom to wait for.
                Output::SaveRoster(changes) => {
                    self.roster.borrow_mut().note(&changes, || core.roster());
                }
                Output::Journal(number, entry) => entries.push((number, entry)),
                Output::Revoke(connection, request, tokens) => {
                    self.to_revoke.borrow_mut().push((connection, request, tokens));
                    self.administration.notify_one();
                }
                Output::Stop(reason) => {
                    *self.to_stop.borrow_mut() = Some(reason);
                    self.administration.notify_one();
                }
            }
        }
        self.arm(core.poll_timeout());
        drop(core);
        if let Some(journal) = self.journal.borrow().as_ref().filter(|_| !entries.is_empty()) {
            journal.write(entries);
        }
        for it in dirty {
            Connection::write_inline(it);
        }
    }

    fn arm(&self, at: Option<Time>) {
        if at.is_some_and(|at| self.timer_at.get().is_none_or(|armed| at < armed)) {
            self.timer_at.set(at);
            self.timer.notify_one();
        }
    }

    /// Begins what is done as long as the broker is there. Each has a task of its own: what wakes
    /// one at every turn does not poll the others.
    fn begin_chores(self: Rc<Self>, written: Option<Receiver<Written>>) -> JoinSet<()> {
        let mut chores = JoinSet::new();
        chores.spawn_local(self.clone().watch());
        chores.spawn_local(self.clone().free_discarded());
        chores.spawn_local(self.clone().tick());
        chores.spawn_local(self.clone().linger());
        chores.spawn_local(self.follow_journal(written));
        chores
    }

    /// Calls the core when it wants to be called.
    async fn watch(self: Rc<Self>) {
        loop {
            let at = self.core.borrow().poll_timeout();
            self.timer_at.set(at);
            let wait = at.map_or(Duration::from_secs(3600), |at| {
                Duration::from_micros(at.micros_since(self.now()))
            });
            tokio::select! {
                () = tokio::time::sleep(wait) => {
                    self.core.borrow_mut().handle_timeout(self.now());
                    self.flush();
                    // It may want to be called again at once, when others have had their turn.
                    tokio::task::yield_now().await;
                }
                () = self.timer.notified() => {}
            }
        }
    }

    /// Keeps the thread awake for a moment after each turn, unless the core is at work.
    async fn linger(self: Rc<Self>) {
        self.spin.run(|| self.core.borrow().is_at_work()).await;
    }

    /// Tells the core how far the journal is.
    async fn follow_journal(self: Rc<Self>, written: Option<Receiver<Written>>) {
        let Some(mut written) = written else { return std::future::pending().await };
        while let Some((through, result)) = written.recv().await {
            let result = result.as_ref().map_err(String::as_str).copied();
            self.core.borrow_mut().handle_journaled(self.now(), through, result);
            self.flush();
        }
    }

    /// Does what administrators want of the broker itself, until it shall stop: gives the reason.
    async fn administer(self: Rc<Self>) -> String {
        loop {
            self.administration.notified().await;
            let to_revoke = std::mem::take(&mut *self.to_revoke.borrow_mut());
            for (connection, request, tokens) in to_revoke {
                let added = self.revocations.add(tokens).await;
                let written = added.map(|()| self.revocations.tokens());
                let written = written.as_deref().map_err(Clone::clone);
                self.core.borrow_mut().handle_revocation(self.now(), connection, request, written);
                self.flush();
            }
            if let Some(reason) = self.to_stop.borrow_mut().take() {
                return reason;
            }
        }
    }

    /// Ends what holders of tokens do that have been revoked since the last look at the file.
    async fn obey_revocations(&self) {
        if self.revocations.look().await {
            self.core.borrow_mut().handle_revoked(self.now(), &self.revocations.tokens());
            self.flush();
        }
    }

    /// Frees what large payloads have left, a few chunks at a time: the system takes 50 ms to take
    /// back 256 MiB, in which nobody would be served.
    async fn free_discarded(self: Rc<Self>) {
        loop {
            self.sweep.notified().await;
            loop {
                let few: Vec<bytes::Bytes> = {
                    let mut discarded = self.discarded.borrow_mut();
                    let few = discarded.len().min(DISCARDED_PER_TURN);
                    discarded.drain(..few).collect()
                };
                if few.is_empty() {
                    break;
                }
                drop(few);
                tokio::task::yield_now().await;
            }
        }
    }

    /// Heartbeats, dead and stalled peers, what the core does, what is revoked, the roster: once a
    /// second for all.
    async fn tick(self: Rc<Self>) {
        let mut second = tokio::time::interval(TICK);
        second.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            second.tick().await;
            for connection in self.connections.borrow().values() {
                connection.handle_tick();
            }
            self.core.borrow_mut().handle_tick();
            self.flush();
            self.obey_revocations().await;
            self.roster.borrow_mut().sync();
        }
    }

    /// Tells everybody, and gives the last bytes a second to leave.
    async fn say_goodbye(&self, reason: &str) {
        let reason = format!("the broker stops: {reason}");
        for connection in self.connections.borrow().values() {
            connection.change(|peer| peer.say_goodbye(reason.clone()));
        }
        let deadline = Instant::now() + GOODBYE_TIMEOUT;
        while !self.connections.borrow().is_empty() && Instant::now() < deadline {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

/// Changes what a connection has to send, and remembers to write to it.
fn change<'a>(
    connections: &'a BTreeMap<ConnectionId, Rc<Connection>>,
    dirty: &mut Vec<&'a Connection>,
    id: ConnectionId,
    change: impl FnOnce(&mut ConnectedPeer),
) {
    let Some(connection) = connections.get(&id) else { return };
    if connection.change(change) {
        dirty.push(connection);
    }
}
