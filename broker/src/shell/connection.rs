//! One connection: from an unauthenticated peer to a peer, and its records until it ends.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use furlong_link::file::{FileContent, FileId};
use furlong_link::incoming::Incoming;
use furlong_link::outgoing::Written;
use furlong_link::peer::GOODBYE_TIMEOUT;
use furlong_link::peer::inbox::{Messages, ReceiveError, Record};
use furlong_link::peer::outbox::Chunks;
use furlong_link::stream::{ReadHalf, WriteHalf};
use furlong_wire::limits::{HANDSHAKE_TIMEOUT_MS, WRITE_TURN_BYTES};
use furlong_wire::message::{Direction, Greeting, Passed};
use furlong_wire::payload::PayloadError;
use tokio::sync::{Notify, Semaphore};
use tokio::time::timeout;

use super::entrance::Address;
use super::way_in::{Proved, RejectedPeer, greet, refuse, shake_hands};
use super::{PendingPlace, Shell};
use crate::core::{ConnectionId, Core, PeerMisbehaved, Serves, Time, WORK_PER_TURN};
use crate::peer::{ConnectedPeer, ConnectionEnd};

/// A connected peer with its socket, and what wakes the tasks that read and write it.
#[derive(Debug)]
pub(super) struct Connection {
    pub(super) name: String,
    socket: WriteHalf,
    peer: RefCell<ConnectedPeer>,
    /// The moment since which the peer counts the time.
    began: Instant,
    /// True if something was queued since the last inline write.
    dirty: Cell<bool>,
    /// Wakes the writer task: there is more than an inline write takes.
    more: Notify,
    writer_busy: Cell<bool>,
    /// Wakes the reader: the connection shall end.
    wants_end: Notify,
    /// Wakes the reader: the peer has taken something of what waits for it.
    taken: Notify,
}

impl Connection {
    fn new(name: String, socket: WriteHalf, peer: ConnectedPeer, began: Instant) -> Self {
        Self {
            name,
            socket,
            peer: RefCell::new(peer),
            began,
            dirty: Cell::new(false),
            more: Notify::new(),
            writer_busy: Cell::new(false),
            wants_end: Notify::new(),
            taken: Notify::new(),
        }
    }

    /// Changes the peer's state, most of all what waits to be sent. Nothing is written here. True
    /// the first time since the last inline write.
    pub(super) fn change(&self, change: impl FnOnce(&mut ConnectedPeer)) -> bool {
        let mut peer = self.peer.borrow_mut();
        change(&mut peer);
        if peer.ended().is_some() {
            self.wants_end.notify_one();
        }
        !self.dirty.replace(true)
    }

    /// Waits until more may be read from the peer.
    async fn may_be_read(&self) {
        while !self.peer.borrow_mut().resume_reading() {
            self.taken.notified().await;
        }
    }

    /// Waits until the connection is to end.
    async fn ended(&self) -> ConnectionEnd {
        loop {
            self.wants_end.notified().await;
            if let Some(end) = self.peer.borrow().ended() {
                return end;
            }
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
            Err(_) => self.break_off(),
        }
    }

    fn break_off(&self) {
        self.change(|peer| peer.end(ConnectionEnd::AtOnce("the connection broke while writing")));
    }

    /// Passes a payload to the peer in a memory file, if that can be. Says in which.
    pub(super) fn pass(&self, transfer: u64, chunks: &Chunks) -> Option<FileId> {
        self.socket.pass(transfer, chunks)
    }

    /// Takes the file that a message has named. Where no descriptor is left for it, its content is
    /// copied.
    fn take_file(&self, passed: &Passed, permits: &Arc<Semaphore>) -> Result<FileContent, BadPeer> {
        let file = self.socket.take_file(passed)?;
        match Arc::clone(permits).try_acquire_owned() {
            Ok(permit) => Ok(FileContent::File(file.with_permit(permit))),
            Err(_) => Ok(FileContent::Copy(file.copy().map_err(BadPeer::Copy)?)),
        }
    }

    /// Another tick, at which a heartbeat may be due.
    pub(super) fn handle_tick(&self) {
        self.change(|peer| peer.handle_tick(self.began.elapsed()));
        self.write_inline();
    }

    fn handle_read(&self) {
        self.peer.borrow_mut().handle_read();
    }

    fn write(&self, turn_bytes: usize) -> std::io::Result<Written> {
        let mut peer = self.peer.borrow_mut();
        let written = self.socket.write_from(peer.outbox(), turn_bytes);
        peer.handle_written(self.began.elapsed());
        if peer.is_paused() {
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
                    Err(_) => return self.break_off(),
                }
            }
            self.writer_busy.set(false);
        }
    }
}

/// Serves an accepted socket of a port to its end. `place` counts it among the unauthenticated
/// peers until it is proved.
pub(super) async fn serve(
    shell: Rc<Shell>,
    serves: Serves,
    halves: (ReadHalf, WriteHalf),
    address: Address,
    place: PendingPlace,
) {
    let deadline = Duration::from_millis(HANDSHAKE_TIMEOUT_MS);
    let proved = match timeout(deadline, shake_hands(&shell, serves, halves, address, &place)).await
    {
        Ok(Ok(proved)) => proved,
        Ok(Err(error)) => return shell.log_rejected(address, &error),
        Err(_) => return shell.log_rejected(address, &RejectedPeer::Deadline),
    };
    drop(place);
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
            let now = shell.began.elapsed();
            let peer = ConnectedPeer::new(role, sealer, &shell.out_queues, now);
            let connection = Connection::new(name, socket, peer, shell.began);
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
        end = connection.ended() => match end {
            ConnectionEnd::Graceful(reason) => {
                let _ = timeout(GOODBYE_TIMEOUT, write_last(&connection)).await;
                reason.to_owned()
            }
            ConnectionEnd::AtOnce(reason) => reason.to_owned(),
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
            Ok(_) => connection.handle_read(),
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
            let end = connection.peer.borrow().ended();
            if let Some(ConnectionEnd::AtOnce(reason)) = end {
                return reason.to_owned();
            }
            connection.may_be_read().await;
        }
        while let Some(bytes) = incoming.poll_codec_output() {
            connection.change(|peer| peer.push_codec_bytes(bytes));
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
        let is_client = self.connection.peer.borrow().is_client();
        if is_client {
            self.handle_each(record.into_messages(), Core::handle_from_client).await
        } else {
            self.handle_each(record.into_messages(), Core::handle_from_engine).await
        }
    }

    async fn handle_each<M: Direction, H>(
        &mut self,
        mut messages: Messages<M>,
        handle: H,
    ) -> Result<(), BadPeer>
    where
        H: Fn(&mut Core, Time, ConnectionId, M, Option<Bytes>) -> Result<(), PeerMisbehaved>,
    {
        while let Some(message) = messages.next_message() {
            let message = message?;
            let is_over = {
                let mut core = self.shell.core.borrow_mut();
                if let Some(passed) = message.as_passed() {
                    let content = self.connection.take_file(passed, &self.shell.files)?;
                    core.handle_file(self.now, self.id, passed.transfer, content)?;
                } else {
                    let chunk = messages.chunk().map(BytesMut::freeze);
                    handle(&mut core, self.now, self.id, message, chunk)?;
                }
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
            self.connection.may_be_read().await;
            if self.connection.peer.borrow().ended().is_some() {
                return Ok(false);
            }
            self.now = self.shell.now();
            // Nothing is read meanwhile: it is not the peer that is silent.
            self.connection.handle_read();
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
    #[error("there is no memory for the payload that it has passed: {0}")]
    Copy(PayloadError),
}
