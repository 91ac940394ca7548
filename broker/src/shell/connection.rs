//! One connection: from an unauthenticated peer to a peer, and its records until it ends.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use furlong_link::incoming::{Incoming, Messages, ReceiveError, Record};
use furlong_link::outgoing::{Chunks, Outgoing, Written};
use furlong_link::stream::{ReadHalf, WriteHalf};
use furlong_link::vigil::{Due, Vigil};
use furlong_wire::limits::{HANDSHAKE_TIMEOUT_MS, WRITE_TURN_BYTES};
use furlong_wire::message::{Direction, Greeting, ToClient, ToEngine};
use furlong_wire::token::Role;
use tokio::sync::Notify;
use tokio::time::timeout;

use super::entrance::Address;
use super::listener::Serves;
use super::way_in::{Proved, RejectedPeer, greet, refuse, shake_hands};
use super::{Shell, Stranding, TICK};
use crate::budget::{OUT_QUEUE_BYTES_MAX, OutQueues};
use crate::core::{ConnectionId, Core, PeerMisbehaved, Time, WORK_PER_TURN};

/// A connected peer, as the shell sees it.
#[derive(Debug)]
pub(super) struct Connection {
    pub(super) name: String,
    socket: WriteHalf,
    outgoing: RefCell<Lane>,
    /// True if something was queued since the last inline write.
    dirty: Cell<bool>,
    /// Wakes the writer task: there is more than an inline write takes.
    more: Notify,
    writer_busy: Cell<bool>,
    /// Wakes the reader: the connection shall end.
    ended: Notify,
    end: Cell<Option<End>>,
    /// The time, by the clock, at which something was last sent.
    sent: Cell<Instant>,
    vigil: Cell<Vigil>,
    /// True while nothing is read from it until it takes more of its pending output; then, the
    /// reader's wake-up signal.
    paused: Cell<bool>,
    taken: Notify,
    /// Of a client: what waits for all of them, and how much of that is this one's.
    out_queues: Option<Rc<OutQueues>>,
    counted_bytes: Cell<usize>,
}

/// The outgoing queue of a peer, by the peer's kind.
#[derive(Debug)]
pub(super) enum Lane {
    Client(Outgoing<ToClient>),
    Engine(Outgoing<ToEngine>),
}

/// The reason that a connection ends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum End {
    /// Graceful: pending messages are still written.
    InGoodOrder(&'static str),
    /// At once.
    AtOnce(&'static str),
}

impl Connection {
    fn new(name: String, socket: WriteHalf, lane: Lane, out_queues: &Rc<OutQueues>) -> Self {
        let out_queues = matches!(lane, Lane::Client(_)).then(|| out_queues.clone());
        Self {
            name,
            socket,
            outgoing: RefCell::new(lane),
            dirty: Cell::new(false),
            more: Notify::new(),
            writer_busy: Cell::new(false),
            ended: Notify::new(),
            end: Cell::new(None),
            sent: Cell::new(Instant::now()),
            vigil: Cell::new(Vigil::new(TICK)),
            paused: Cell::new(false),
            taken: Notify::new(),
            out_queues,
            counted_bytes: Cell::new(0),
        }
    }

    /// Changes what waits to be sent. Nothing is written here. True the first time since the last
    /// inline write.
    pub(super) fn queue(&self, change: impl FnOnce(&mut Lane)) -> bool {
        change(&mut self.outgoing.borrow_mut());
        self.count_waiting();
        !self.dirty.replace(true)
    }

    fn count_waiting(&self) {
        if let Some(out_queues) = &self.out_queues {
            let now = self.queued_bytes();
            out_queues.change(self.counted_bytes.replace(now), now);
        }
    }

    /// Bytes that may wait to be written: a peer for which more waits is closed.
    pub(super) fn waits_max(&self) -> usize {
        self.out_queues.as_ref().map_or(OUT_QUEUE_BYTES_MAX, |out_queues| out_queues.waits_max())
    }

    /// Returns true if so much is pending for a client that it is to take some before it asks for
    /// more.
    fn is_to_take(&self) -> bool {
        let asks_max = self.out_queues.as_ref().map(|out_queues| out_queues.asks_max());
        asks_max.is_some_and(|most| self.queued_bytes() > most)
    }

    /// Returns true if nothing is read from it at present.
    pub(super) fn is_paused(&self) -> bool {
        self.paused.get()
    }

    /// Waits until a client has taken so much of what waits for it that it may ask for more. One
    /// that takes nothing is closed as any peer is.
    async fn has_taken(&self) {
        while self.is_to_take() && self.end.get().is_none() {
            self.paused.set(true);
            self.taken.notified().await;
        }
        if self.paused.replace(false) {
            self.note(Vigil::heard);
        }
    }

    /// Writes what waits, as far as it goes at once; the writer task does the rest.
    pub(super) fn write_inline(&self) {
        self.dirty.set(false);
        if self.writer_busy.get() {
            return;
        }
        match self.write(WRITE_TURN_BYTES) {
            Ok(Written::All) => {}
            Ok(Written::Blocked | Written::Turn) => {
                self.writer_busy.set(true);
                self.more.notify_one();
            }
            Err(_) => self.end(End::AtOnce("the connection broke while writing")),
        }
    }

    /// Ends the connection; the first reason counts.
    pub(super) fn end(&self, end: End) {
        if self.end.get().is_none() {
            self.end.set(Some(end));
            self.ended.notify_one();
        }
    }

    /// Bytes that wait to be written.
    pub(super) fn queued_bytes(&self) -> usize {
        match &*self.outgoing.borrow() {
            Lane::Client(outgoing) => outgoing.queued_bytes(),
            Lane::Engine(outgoing) => outgoing.queued_bytes(),
        }
    }

    /// True if it takes what may be left out, which is output and intermediate data: up to so many
    /// bytes that wait. A slow reader gets a gap instead, and is not closed for what a task writes.
    pub(super) fn takes_extras(&self, bytes_max: usize) -> bool {
        let stored = match &*self.outgoing.borrow() {
            Lane::Client(outgoing) => outgoing.stored_bytes(),
            Lane::Engine(outgoing) => outgoing.stored_bytes(),
        };
        self.queued_bytes() + stored <= bytes_max
    }

    /// Another tick: sends a heartbeat, or ends the connection of a peer that is dead.
    pub(super) fn handle_tick(&self) {
        let mut vigil = self.vigil.get();
        if self.is_paused() {
            // Nothing is read from who does not take what it has asked for: it is stalled, if
            // anything.
            vigil.heard();
        }
        let due = vigil.pass_turn(self.writer_busy.get(), self.sent.get().elapsed());
        self.vigil.set(vigil);
        match due {
            Due::Silent => self.end(End::AtOnce("nothing was heard of it for 15 s")),
            Due::Stalled => self.end(End::AtOnce("it took nothing of what waits for it for 10 s")),
            Due::Heartbeat => {
                self.queue(Lane::heartbeat);
                self.write_inline();
            }
            Due::Nothing => {}
        }
    }

    fn note(&self, happened: impl FnOnce(&mut Vigil)) {
        let mut vigil = self.vigil.get();
        happened(&mut vigil);
        self.vigil.set(vigil);
    }

    fn write(&self, turn_bytes: usize) -> std::io::Result<Written> {
        let before = self.queued_bytes();
        let written = match &mut *self.outgoing.borrow_mut() {
            Lane::Client(outgoing) => outgoing.write_to(&self.socket, turn_bytes),
            Lane::Engine(outgoing) => outgoing.write_to(&self.socket, turn_bytes),
        };
        if written.as_ref().is_ok_and(|written| *written != Written::Blocked)
            || self.queued_bytes() < before
        {
            self.sent.set(Instant::now());
            self.note(Vigil::taken);
        }
        self.count_waiting();
        if self.paused.get() {
            self.taken.notify_one();
        }
        written
    }

    /// Writes what did not go inline, a turn at a time, until the connection ends.
    async fn write_rest(&self) {
        loop {
            self.more.notified().await;
            loop {
                match self.write(WRITE_TURN_BYTES) {
                    Ok(Written::All) => break,
                    Ok(Written::Turn) => tokio::task::yield_now().await,
                    Ok(Written::Blocked) => {
                        if self.socket.writable().await.is_err() {
                            return;
                        }
                    }
                    Err(_) => return self.end(End::AtOnce("the connection broke while writing")),
                }
            }
            self.writer_busy.set(false);
        }
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        if let Some(out_queues) = &self.out_queues {
            out_queues.change(self.counted_bytes.get(), 0);
        }
    }
}

impl Lane {
    /// Queues an empty record.
    fn heartbeat(&mut self) {
        match self {
            Self::Client(outgoing) => outgoing.push_heartbeat(),
            Self::Engine(outgoing) => outgoing.push_heartbeat(),
        }
    }

    /// Queues the chunks of a payload.
    pub(super) fn transfer(&mut self, number: u64, chunks: Vec<bytes::Bytes>) {
        match self {
            Self::Client(outgoing) => outgoing.push_transfer(number, Chunks::Stored(chunks)),
            Self::Engine(outgoing) => outgoing.push_transfer(number, Chunks::Stored(chunks)),
        }
    }

    fn codec_bytes(&mut self, bytes: bytes::Bytes) {
        match self {
            Self::Client(outgoing) => outgoing.push_codec_bytes(bytes),
            Self::Engine(outgoing) => outgoing.push_codec_bytes(bytes),
        }
    }
}

/// Serves an accepted socket of a port to its end. `stranding` counts it among the unauthenticated
/// peers until it is proved.
pub(super) async fn serve(
    shell: Rc<Shell>,
    serves: Serves,
    halves: (ReadHalf, WriteHalf),
    address: Address,
    stranding: Stranding,
) {
    let deadline = Duration::from_millis(HANDSHAKE_TIMEOUT_MS);
    let proved =
        match timeout(deadline, shake_hands(&shell, serves, halves, address, &stranding)).await {
            Ok(Ok(proved)) => proved,
            Ok(Err(error)) => return shell.log_rejected(address, &error),
            Err(_) => return shell.log_rejected(address, &RejectedPeer::Deadline),
        };
    drop(stranding);
    let Proved { peer, incoming, mut socket, mut sealer } = proved;
    let (role, token) = (peer.claims.role, peer.claims.token_id);
    let id = shell.next_connection();
    let welcome = shell.core.borrow_mut().handle_connected(id, peer);
    match welcome {
        Err(refusal) => refuse(&shell, address, &refusal, &mut socket, &mut sealer).await,
        Ok(welcome) => {
            let name = format!("{role} {address} (connection {}, token {token})", id.0);
            let greeted = greet(&Greeting::Welcome(welcome), &mut socket, &mut sealer).await;
            // Its token may have been revoked meanwhile, when the shell did not know it by its
            // number.
            if greeted.is_err() || !shell.core.borrow().is_served(id) {
                shell.core.borrow_mut().handle_disconnected(shell.now(), id);
                return shell.flush();
            }
            let lane = match role {
                Role::Engine => Lane::Engine(Outgoing::new(sealer)),
                _ => Lane::Client(Outgoing::new(sealer)),
            };
            let connection = Connection::new(name, socket, lane, &shell.out_queues);
            run(shell, id, connection, incoming).await;
        }
    }
}

/// Carries a peer's records until the connection ends.
async fn run(shell: Rc<Shell>, id: ConnectionId, connection: Connection, mut incoming: Incoming) {
    let connection = Rc::new(connection);
    shell.connections.borrow_mut().insert(id, connection.clone());
    tracing::info!("{} is here", connection.name);
    // The core may want to be called earlier than before: when this peer's token expires.
    shell.flush();
    let mut is_breach = false;
    let reason = tokio::select! {
        reason = read(&shell, id, &connection, &mut incoming, &mut is_breach) => reason,
        () = connection.write_rest() => "the connection broke while writing".to_owned(),
        () = connection.ended.notified() => match connection.end.get() {
            Some(End::InGoodOrder(reason)) => {
                let _ = timeout(Duration::from_secs(1), write_last(&connection)).await;
                reason.to_owned()
            }
            Some(End::AtOnce(reason)) => reason.to_owned(),
            None => String::new(),
        },
    };
    let _turn = shell.departures.lock().await;
    tracing::info!("{} has left: {reason}", connection.name);
    shell.connections.borrow_mut().remove(&id);
    if is_breach {
        shell.core.borrow_mut().handle_misbehaved(shell.now(), id);
    } else {
        shell.core.borrow_mut().handle_disconnected(shell.now(), id);
    }
    shell.flush();
    // The system is asked who has something to say only when a task yields, or after 61 of them.
    tokio::task::yield_now().await;
}

async fn write_last(connection: &Connection) {
    while let Ok(written) = connection.write(WRITE_TURN_BYTES) {
        if written == Written::All || connection.socket.writable().await.is_err() {
            return;
        }
    }
}

/// Reads, decides and writes, a bounded batch at a time. Returns why the connection ended, and says
/// whether what a record had in it was a breach of the protocol: that was said by whoever holds the
/// connection's key, and by nobody on the way.
async fn read(
    shell: &Shell,
    id: ConnectionId,
    connection: &Connection,
    incoming: &mut Incoming,
    is_breach: &mut bool,
) -> String {
    loop {
        match incoming.read().await {
            Ok(0) => return "the peer closed the connection".to_owned(),
            Ok(_) => connection.note(Vigil::heard),
            Err(error) => return format!("the connection broke: {error}"),
        }
        let mut turn = Turn::new(shell, id, connection);
        loop {
            let record = match incoming.poll_record() {
                Ok(Some(record)) => record,
                Ok(None) => break,
                Err(error) => return misbehaved(connection, &error.into()),
            };
            if let Err(error) = turn.handle(record).await {
                *is_breach = true;
                return misbehaved(connection, &error);
            }
            if let Some(End::AtOnce(reason)) = connection.end.get() {
                return reason.to_owned();
            }
            connection.has_taken().await;
        }
        while let Some(bytes) = incoming.poll_codec_output() {
            connection.queue(|lane| lane.codec_bytes(bytes));
            connection.write_inline();
        }
        incoming.shrink();
        shell.core.borrow_mut().dispatch(shell.now());
        shell.flush();
        shell.spin.note_turn();
        if turn.is_dear() {
            // Others may have something to say: that is seen when a task yields, or after 61 of
            // them.
            tokio::task::yield_now().await;
        }
    }
}

fn misbehaved(connection: &Connection, error: &BadPeer) -> String {
    tracing::warn!("{} broke the protocol: {error}", connection.name);
    format!("it broke the protocol: {error}")
}

/// A peer's turn: what its messages may cost before others are served. What comes of them is sent
/// at its end, so that one record with many questions makes no more answers than the peer takes.
struct Turn<'a> {
    shell: &'a Shell,
    id: ConnectionId,
    connection: &'a Connection,
    began: u64,
    now: Time,
}

impl<'a> Turn<'a> {
    fn new(shell: &'a Shell, id: ConnectionId, connection: &'a Connection) -> Self {
        Self { shell, id, connection, began: shell.core.borrow().work_done(), now: shell.now() }
    }

    /// Whether it has cost so much that a few more such turns would be felt.
    fn is_dear(&self) -> bool {
        self.shell.core.borrow().work_done().wrapping_sub(self.began) >= WORK_PER_TURN / 16
    }

    /// Gives one record's messages to the core.
    async fn handle(&mut self, record: Record) -> Result<(), BadPeer> {
        let is_client = matches!(*self.connection.outgoing.borrow(), Lane::Client(_));
        if is_client {
            self.handle_each(record.into_messages(), Core::handle_from_client).await
        } else {
            self.handle_each(record.into_messages(), Core::handle_from_engine).await
        }
    }

    async fn handle_each<M: Direction, H>(
        &mut self,
        messages: Messages<M>,
        handle: H,
    ) -> Result<(), BadPeer>
    where
        H: Fn(&mut Core, Time, ConnectionId, M, Option<Bytes>) -> Result<(), PeerMisbehaved>,
    {
        for message in messages {
            let (message, chunk) = message?;
            let is_over = {
                let mut core = self.shell.core.borrow_mut();
                handle(&mut core, self.now, self.id, message, chunk.map(BytesMut::freeze))?;
                core.work_done().wrapping_sub(self.began) >= WORK_PER_TURN || core.has_rest(self.id)
            };
            if is_over && !self.next().await? {
                break;
            }
        }
        Ok(())
    }

    /// Lets others have their turn, and then does what is left of the last message, a part each
    /// turn. False if the connection is to end.
    async fn next(&mut self) -> Result<bool, BadPeer> {
        loop {
            self.shell.core.borrow_mut().dispatch(self.now);
            self.shell.flush();
            tokio::task::yield_now().await;
            self.connection.has_taken().await;
            if self.connection.end.get().is_some() {
                return Ok(false);
            }
            self.now = self.shell.now();
            // Nothing is read meanwhile: it is not the peer that is silent.
            self.connection.note(Vigil::heard);
            let mut core = self.shell.core.borrow_mut();
            self.began = core.work_done();
            if !core.has_rest(self.id) {
                return Ok(true);
            }
            core.handle_rest(self.now, self.id)?;
        }
    }
}

/// The reason that a peer is closed.
#[derive(Debug, thiserror::Error)]
enum BadPeer {
    #[error(transparent)]
    Receive(#[from] ReceiveError),
    #[error(transparent)]
    Misbehaved(#[from] PeerMisbehaved),
}
