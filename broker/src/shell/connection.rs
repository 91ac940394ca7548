//! One connection: from a stranger to a peer, and its records until it ends.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use furlong_link::dial::random_bytes;
use furlong_link::incoming::{Incoming, Messages, ReceiveError, Record};
use furlong_link::outgoing::{Chunks, Outgoing, Written};
use furlong_link::stranger::{Stranger, StrangerError};
use furlong_link::stream::{ReadHalf, WriteHalf};
use furlong_link::vigil::{Due, Vigil};
use furlong_wire::handshake::{ExpectStart, FIRST_BYTES, HandshakeError, HelloBody};
use furlong_wire::limits::{GREETING_TIMEOUT_MS, HANDSHAKE_TIMEOUT_MS, PROTOCOL_VERSION, WRITE_TURN_BYTES};
use furlong_wire::message::{Direction, Greeting, RefusalKind, Refused, ToClient, ToEngine, encode_message};
use furlong_wire::record::{RecordSealer, SEQ_BYTES};
use furlong_wire::token::{Claims, Role, Token, TokenError};
use furlong_wire::zmtp::{self, FRAME_HEADER_BYTES_MAX, put_frame_header};
use tokio::io::AsyncWriteExt;
use tokio::sync::Notify;
use tokio::time::timeout;

use super::entrance::Address;
use super::listener::Serves;
use super::{Shell, Stranding, TICK};
use crate::budget::{OUT_QUEUE_BYTES_MAX, OutQueues};
use crate::core::{ConnectionId, Core, Peer, PeerMisbehaved, Refusal, Time, WORK_PER_TURN};

/// A connected peer, as the shell sees it.
#[derive(Debug)]
pub(super) struct Connection {
    pub(super) name: String,
    socket: WriteHalf,
    outgoing: RefCell<Lane>,
    /// Whether something was queued since the last inline write.
    dirty: Cell<bool>,
    /// Wakes the writer task: there is more than an inline write takes.
    more: Notify,
    writer_busy: Cell<bool>,
    /// Wakes the reader: the connection shall end.
    ended: Notify,
    end: Cell<Option<End>>,
    /// When something was last sent, by the clock.
    sent: Cell<Instant>,
    vigil: Cell<Vigil>,
    /// Whether nothing is read from it until it has taken more of what waits for it, and what wakes the reader then.
    paused: Cell<bool>,
    taken: Notify,
    /// Of a client: what waits for all of them, and how much of that is this one's.
    out_queues: Option<Rc<OutQueues>>,
    counted_bytes: Cell<usize>,
}

/// What goes to a peer, by what it is.
#[derive(Debug)]
pub(super) enum Lane {
    Client(Outgoing<ToClient>),
    Engine(Outgoing<ToEngine>),
}

/// Why a connection ends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum End {
    /// What waits is still written.
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

    /// Changes what waits to be sent. Nothing is written here. True the first time since the last inline write.
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

    /// Whether so much waits for a client that it is to take some before it asks for more.
    fn is_to_take(&self) -> bool {
        let asks_max = self.out_queues.as_ref().map(|out_queues| out_queues.asks_max());
        asks_max.is_some_and(|most| self.queued_bytes() > most)
    }

    /// Whether nothing is read from it at present.
    pub(super) fn is_paused(&self) -> bool {
        self.paused.get()
    }

    /// Waits until a client has taken so much of what waits for it that it may ask for more. One that takes nothing is
    /// closed as any peer is.
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

    /// True if it takes what may be left out, which is output and intermediate data: up to so many bytes that wait. A
    /// slow reader gets a gap instead, and is not closed for what a task writes.
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
            // Nothing is read from who does not take what it has asked for: it is stalled, if anything.
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
        if written.as_ref().is_ok_and(|written| *written != Written::Blocked) || self.queued_bytes() < before {
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

/// Serves an accepted socket of a port to its end. `stranding` counts it among the strangers until it is proved.
pub(super) async fn serve(
    shell: Rc<Shell>,
    serves: Serves,
    halves: (ReadHalf, WriteHalf),
    address: Address,
    stranding: Stranding,
) {
    let deadline = Duration::from_millis(HANDSHAKE_TIMEOUT_MS);
    let proved = match timeout(deadline, shake_hands(&shell, serves, halves, address, &stranding)).await {
        Ok(Ok(proved)) => proved,
        Ok(Err(error)) => return shell.log_stranger(address, &error),
        Err(_) => return shell.log_stranger(address, &BadStranger::Deadline),
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
            // Its token may have been revoked meanwhile, when the shell did not know it by its number.
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
    tracing::info!("{} has left: {reason}", connection.name);
    shell.connections.borrow_mut().remove(&id);
    if is_breach {
        shell.core.borrow_mut().handle_misbehaved(shell.now(), id);
    } else {
        shell.core.borrow_mut().handle_disconnected(shell.now(), id);
    }
    shell.flush();
}

async fn write_last(connection: &Connection) {
    while let Ok(written) = connection.write(WRITE_TURN_BYTES) {
        if written == Written::All || connection.socket.writable().await.is_err() {
            return;
        }
    }
}

/// Reads, decides and writes, a bounded batch at a time. Returns why the connection ended, and says whether what a
/// record had in it was a breach of the protocol: that was said by whoever holds the connection's key, and by nobody on
/// the way.
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
        shell.linger.note_turn();
    }
}

fn misbehaved(connection: &Connection, error: &BadPeer) -> String {
    tracing::warn!("{} broke the protocol: {error}", connection.name);
    format!("it broke the protocol: {error}")
}

/// A peer's turn: what its messages may cost before others are served. What comes of them is sent at its end, so that
/// one record with many questions makes no more answers than the peer takes.
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

    /// Gives one record's messages to the core.
    async fn handle(&mut self, record: Record) -> Result<(), BadPeer> {
        let is_client = matches!(*self.connection.outgoing.borrow(), Lane::Client(_));
        if is_client {
            self.handle_each(record.into_messages(), Core::handle_from_client).await
        } else {
            self.handle_each(record.into_messages(), Core::handle_from_engine).await
        }
    }

    async fn handle_each<M: Direction>(
        &mut self,
        messages: Messages<M>,
        handle: impl Fn(&mut Core, Time, ConnectionId, M, Option<Bytes>) -> Result<(), PeerMisbehaved>,
    ) -> Result<(), BadPeer> {
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

    /// Lets others have their turn, and then does what is left of the last message, a part each turn. False if the
    /// connection is to end.
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

/// A stranger that has proved its key and whose token is sound.
struct Proved {
    peer: Peer,
    incoming: Incoming,
    socket: WriteHalf,
    sealer: RecordSealer,
}

async fn shake_hands(
    shell: &Shell,
    serves: Serves,
    halves: (ReadHalf, WriteHalf),
    address: Address,
    stranding: &Stranding,
) -> Result<Proved, BadStranger> {
    let mut stranger = Stranger::new(halves, zmtp::Role::Broker);
    let greeted = timeout(Duration::from_millis(GREETING_TIMEOUT_MS), stranger.ready()).await;
    greeted.map_err(|_| BadStranger::Deadline)??;
    let first = stranger.receive().await?;
    if first.len() != FIRST_BYTES {
        return Err(HandshakeError::Length { bytes: first.len() }.into());
    }
    // Before any curve operation: a flood of handshakes must not cost the farm its processor.
    if !shell.strangers.turn(address.origin()).await {
        return Err(BadStranger::Busy);
    }
    let key = &shell.identity.key;
    let expect = ExpectStart::new(&shell.identity.cluster, key.server_secret.expose(), random_bytes())?;
    let (second, expect) = expect.handle_start(&first)?;
    stranding.is_caller();
    stranger.send(&second).await?;
    let third = stranger.receive().await?;
    let proof = expect.handle_proof(&third)?;
    let (mut sealer, opener) = proof.keys.split();
    let (incoming, mut socket) = stranger.prove(opener);
    let Some(hello) = proof.hello.body else {
        // The token's form is unknown too, but the stranger holds the broker's public key: it may know why.
        let text = format!(
            "the broker speaks version {PROTOCOL_VERSION} of the protocol, this peer version {}; install the same \
             Furlong on both sides",
            proof.hello.version
        );
        let refusal = Refusal { kind: RefusalKind::Version, text };
        refuse(shell, address, &refusal, &mut socket, &mut sealer).await;
        return Err(BadStranger::Version { version: proof.hello.version });
    };
    // The client of a running task has no token.
    let is_pass = hello.token.is_empty();
    let holder = if is_pass {
        None
    } else {
        let token = Token::from_bytes(hello.token.clone())?;
        Some(token.verify(&key.issuer_key, shell.identity.cluster)?.prove_holder(&proof.holder)?)
    };
    // Also here, so that nobody comes in with a token that was revoked a moment ago.
    shell.obey_revocations().await;
    let admitted = match holder {
        Some(holder) => Ok((holder.claims().clone(), None)),
        None => shell.core.borrow().pass(shell.now(), proof.holder).map(|(claims, attempt)| (claims, Some(attempt))),
    };
    let checked = admitted.and_then(|(claims, pass)| match unauthorized(shell, serves, &claims, &hello) {
        Some(text) => Err(Refusal { kind: RefusalKind::Unauthorized, text }),
        None => Ok((claims, pass)),
    });
    let (claims, pass) = match checked {
        Ok(admitted) => admitted,
        Err(refusal) => {
            refuse(shell, address, &refusal, &mut socket, &mut sealer).await;
            return Err(BadStranger::Unauthorized);
        }
    };
    let peer = Peer { claims, hello, address: address.to_string(), pass };
    Ok(Proved { peer, incoming, socket, sealer })
}

/// Why a peer whose token is genuine, or whose pass is known, may not come in all the same, if so.
fn unauthorized(shell: &Shell, serves: Serves, claims: &Claims, hello: &HelloBody) -> Option<String> {
    let Claims { role, token_id, .. } = *claims;
    // A task's client does not know its owner's role, and comes to the port that its engine knows.
    let has_token = !hello.token.is_empty();
    if has_token && hello.role != role {
        return Some(format!("the token is for role {role}, not {}", hello.role));
    }
    if has_token && !serves.takes(role) {
        return Some(format!(
            "this port is for {serves}, and the capability's role is {role}; take its present file from the broker's \
             `security` folder, which names the right port"
        ));
    }
    let validity = claims.check_validity(shell.now().unix_us(shell.start) / 1_000_000);
    validity.err().map(|error| error.to_string()).or_else(|| shell.revocations.refusal(token_id))
}

async fn refuse(shell: &Shell, address: Address, refusal: &Refusal, socket: &mut WriteHalf, sealer: &mut RecordSealer) {
    shell.log_stranger(address, &BadStranger::Refused { text: refusal.text.clone() });
    let refused = Refused { kind: refusal.kind, text: refusal.text.clone() };
    let _ = timeout(Duration::from_secs(1), greet(&Greeting::Refused(refused), socket, sealer)).await;
}

/// Sends the first record.
async fn greet(greeting: &Greeting, socket: &mut WriteHalf, sealer: &mut RecordSealer) -> std::io::Result<()> {
    let mut envelope = vec![0; SEQ_BYTES];
    encode_message(greeting, &mut envelope);
    sealer.seal::<&[u8]>(&mut envelope, 0, &[]);
    let mut frame = BytesMut::with_capacity(envelope.len() + FRAME_HEADER_BYTES_MAX);
    put_frame_header(&mut frame, envelope.len(), false);
    frame.extend_from_slice(&envelope);
    timeout(Duration::from_secs(1), socket.write_all(&frame)).await?
}

/// Why a stranger is turned away. Only the log says so.
#[derive(Debug, thiserror::Error)]
pub(super) enum BadStranger {
    #[error("it did not finish the handshake in time")]
    Deadline,
    #[error("too many handshakes at once")]
    Busy,
    #[error("it cannot be given a connection: {0}")]
    Arrival(#[from] std::io::Error),
    #[error(transparent)]
    Stranger(#[from] StrangerError),
    #[error(transparent)]
    Handshake(#[from] HandshakeError),
    #[error(transparent)]
    Token(#[from] TokenError),
    #[error("it speaks version {version} of the protocol")]
    Version { version: u32 },
    #[error("its token does not allow what it wants")]
    Unauthorized,
    #[error("refused: {text}")]
    Refused { text: String },
}

/// Why a peer is closed.
#[derive(Debug, thiserror::Error)]
enum BadPeer {
    #[error(transparent)]
    Receive(#[from] ReceiveError),
    #[error(transparent)]
    Misbehaved(#[from] PeerMisbehaved),
}
