//! The network: connections that deliver in order, slowly, and break.
//!
//! Messages from a peer wait in a [`Queue`], which makes records of them in `furlong_link`'s order
//! of queues: control before messages, and chunks round-robin. Records depart as the line is free,
//! and arrive after a while. What is on the way when a direction is dead never arrives.

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;
use furlong_wire::limits::RECORD_CHUNK_BYTES_MAX;
use furlong_wire::message::{Direction, FromClient, FromEngine, ToClient, ToEngine};
use furlong_wire::payload::SealedPayload;

use crate::dice::Dice;

/// Names a connection, for the network and for the broker.
pub type ConnectionNo = u64;

/// The peer whose connection it is, by its place in the world's list.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Peer {
    Client(usize),
    Process(usize),
}

/// Messages that travel together, each with its chunk if it is one.
pub type Messages<M> = Vec<(M, Option<Bytes>)>;

/// A record of some direction.
#[derive(Debug)]
pub enum Record {
    FromClient(Messages<FromClient>),
    ToClient(Messages<ToClient>),
    FromEngine(Messages<FromEngine>),
    ToEngine(Messages<ToEngine>),
}

/// A message that can be put into a [`Record`].
pub trait Travels: Direction {
    fn record(messages: Messages<Self>) -> Record;
}

impl Travels for FromClient {
    fn record(messages: Messages<Self>) -> Record {
        Record::FromClient(messages)
    }
}

impl Travels for ToClient {
    fn record(messages: Messages<Self>) -> Record {
        Record::ToClient(messages)
    }
}

impl Travels for FromEngine {
    fn record(messages: Messages<Self>) -> Record {
        Record::FromEngine(messages)
    }
}

impl Travels for ToEngine {
    fn record(messages: Messages<Self>) -> Record {
        Record::ToEngine(messages)
    }
}

/// The source of chunks.
#[derive(Debug)]
pub enum Chunks {
    Sealed(SealedPayload),
    Stored(Vec<Bytes>),
}

#[derive(Debug)]
struct Transfer {
    number: u64,
    chunks: Chunks,
    next: u32,
    announced_in: u64,
}

impl Transfer {
    fn count(&self) -> u32 {
        match &self.chunks {
            Chunks::Sealed(payload) => payload.chunk_count(),
            Chunks::Stored(chunks) => chunks.len() as u32,
        }
    }

    fn chunk(&self) -> Bytes {
        match &self.chunks {
            Chunks::Sealed(payload) => payload.chunk(self.next),
            Chunks::Stored(chunks) => chunks[self.next as usize].clone(),
        }
    }
}

/// The messages that wait to be sent in one direction.
#[derive(Debug)]
pub struct Queue<M> {
    control: Vec<M>,
    batches: VecDeque<Vec<M>>,
    batches_begun: u64,
    batches_sealed: u64,
    transfers: VecDeque<Transfer>,
    batch_messages: usize,
    chunks_apart: bool,
}

impl<M: Travels> Queue<M> {
    fn new(quality: Quality) -> Self {
        let (control, batches, transfers) = (Vec::new(), VecDeque::new(), VecDeque::new());
        let Quality { batch: batch_messages, chunks_apart, .. } = quality;
        Self {
            control,
            batches,
            batches_begun: 0,
            batches_sealed: 0,
            transfers,
            batch_messages,
            chunks_apart,
        }
    }

    pub fn push(&mut self, message: M) {
        if self.batches.back().is_none_or(|batch| batch.len() >= self.batch_messages) {
            self.batches.push_back(Vec::new());
            self.batches_begun += 1;
        }
        self.batches.back_mut().expect("a batch was just made if there was none").push(message);
    }

    pub fn push_control(&mut self, message: M) {
        self.control.push(message);
    }

    pub fn push_transfer(&mut self, number: u64, chunks: Chunks) {
        self.transfers.push_back(Transfer {
            number,
            chunks,
            next: 0,
            announced_in: self.batches_begun,
        });
    }

    pub fn is_empty(&self) -> bool {
        self.control.is_empty() && self.batches.is_empty() && self.transfers.is_empty()
    }

    /// About how many bytes of messages wait.
    pub fn message_bytes(&self) -> usize {
        64 * (self.control.len() + self.batches.iter().map(Vec::len).sum::<usize>())
    }

    /// The next record, and about how many bytes it has.
    fn next_record(&mut self) -> Option<(Messages<M>, u64)> {
        if self.is_empty() {
            return None;
        }
        let messages = if self.control.is_empty() {
            self.batches_sealed += u64::from(!self.batches.is_empty());
            self.batches.pop_front().unwrap_or_default()
        } else {
            std::mem::take(&mut self.control)
        };
        let mut record: Messages<M> = messages.into_iter().map(|message| (message, None)).collect();
        let mut bytes = 64 * record.len() as u64;
        let mut room = RECORD_CHUNK_BYTES_MAX;
        let mut passed_over = 0;
        while passed_over < self.transfers.len() && (!self.chunks_apart || record.is_empty()) {
            let mut transfer =
                self.transfers.pop_front().expect("the loop runs while there are transfers");
            let chunk = (transfer.announced_in <= self.batches_sealed).then(|| transfer.chunk());
            let Some(chunk) = chunk.filter(|chunk| chunk.len() <= room) else {
                self.transfers.push_back(transfer);
                passed_over += 1;
                continue;
            };
            room -= chunk.len();
            bytes += chunk.len() as u64;
            record.push((M::chunk(transfer.number), Some(chunk)));
            transfer.next += 1;
            passed_over = 0;
            if transfer.next < transfer.count() {
                self.transfers.push_back(transfer);
            }
        }
        Some((record, bytes))
    }
}

/// One direction of a connection.
#[derive(Debug)]
pub struct Way<M> {
    pub queue: Queue<M>,
    dice: Dice,
    quality: Quality,
    /// The time at which the line takes the next record.
    free_at: u64,
    /// The time at which the last record that has departed arrives.
    pub last_arrival: u64,
    /// Records on the way.
    pub travelling: u32,
    /// Nothing arrives any longer.
    pub is_dead: bool,
    /// True if somebody will say that the line is free.
    pub is_awaited: bool,
}

/// The quality of a line: times in microseconds.
#[derive(Clone, Copy, Debug)]
pub struct Quality {
    pub latency: u64,
    pub jitter: u64,
    /// Bytes in a microsecond.
    pub pace: u64,
    /// Messages in one record, at most.
    pub batch: usize,
    /// True if each chunk has a record of its own, as large ones have: payloads are long on their
    /// way.
    pub chunks_apart: bool,
}

/// Records that have departed, with the times of their arrivals, and when the line is free for
/// more.
pub type Departed = (Vec<(u64, Record)>, Option<u64>);

impl<M: Travels> Way<M> {
    fn new(quality: Quality, dice: Dice) -> Self {
        let queue = Queue::new(quality);
        Self {
            queue,
            dice,
            quality,
            free_at: 0,
            last_arrival: 0,
            travelling: 0,
            is_dead: false,
            is_awaited: false,
        }
    }
}

/// One direction of a connection, whatever travels in it.
pub trait Line {
    /// Lets go what the line takes now; all of it if it is about to close.
    fn depart(&mut self, now: u64, closes: bool) -> Departed;
    /// Returns the time at which something that departs now arrives.
    fn arrival(&mut self, now: u64) -> u64;
    /// Nothing arrives before that time.
    fn stall(&mut self, until: u64);
    /// Nothing arrives any longer.
    fn kill(&mut self);
    /// Returns true if nothing arrives any longer.
    fn is_dead(&self) -> bool;
    /// A record has come to its end. Whether it arrives.
    fn lands(&mut self) -> bool;
    /// The line takes the next record.
    fn becomes_free(&mut self);
    /// Returns true if nothing waits to depart.
    fn is_empty(&self) -> bool;
    /// Returns true if nothing waits and nothing is on the way, and what is sent arrives.
    fn is_quiet(&self) -> bool;
}

impl<M: Travels> Line for Way<M> {
    fn depart(&mut self, now: u64, closes: bool) -> Departed {
        let mut records = Vec::new();
        while closes || self.free_at <= now {
            let Some((messages, bytes)) = self.queue.next_record() else { return (records, None) };
            self.free_at = self.free_at.max(now) + bytes / self.quality.pace;
            let arrival = self.arrival(now.max(self.free_at));
            if !self.is_dead {
                self.travelling += 1;
                records.push((arrival, M::record(messages)));
            }
        }
        let wait = !self.queue.is_empty() && !self.is_awaited;
        self.is_awaited |= wait;
        (records, wait.then_some(self.free_at))
    }

    fn arrival(&mut self, now: u64) -> u64 {
        let Quality { latency, jitter, .. } = self.quality;
        let arrival = now + latency + self.dice.below(jitter + 1);
        self.last_arrival = self.last_arrival.max(arrival);
        self.last_arrival
    }

    fn stall(&mut self, until: u64) {
        self.last_arrival = self.last_arrival.max(until);
    }

    fn kill(&mut self) {
        self.is_dead = true;
    }

    fn is_dead(&self) -> bool {
        self.is_dead
    }

    fn lands(&mut self) -> bool {
        self.travelling -= 1;
        !self.is_dead
    }

    fn becomes_free(&mut self) {
        self.is_awaited = false;
    }

    fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    fn is_quiet(&self) -> bool {
        self.queue.is_empty() && self.travelling == 0 && !self.is_dead
    }
}

/// The two directions of a connection: what the peer sends, and what the broker sends.
#[derive(Debug)]
pub enum Ways {
    Client(Way<FromClient>, Way<ToClient>),
    Engine(Way<FromEngine>, Way<ToEngine>),
}

/// A connection, from the dialling until both sides know that it is gone.
#[derive(Debug)]
pub struct Connection {
    pub peer: Peer,
    /// The broker's life to which it was made.
    pub life: u64,
    pub ways: Ways,
    /// True if the broker's core has it.
    pub at_broker: bool,
    /// True if the peer has it, greeted or dialling.
    pub at_peer: bool,
    /// True if the broker closes it: it reads nothing any longer.
    pub is_closing: bool,
}

/// One end of a connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Side {
    Broker,
    Peer,
}

impl Connection {
    /// The direction in which this end sends.
    pub fn from(&mut self, side: Side) -> &mut dyn Line {
        match (&mut self.ways, side) {
            (Ways::Client(up, _), Side::Peer) => up,
            (Ways::Client(_, down), Side::Broker) => down,
            (Ways::Engine(up, _), Side::Peer) => up,
            (Ways::Engine(_, down), Side::Broker) => down,
        }
    }

    /// Returns true if nothing waits and nothing is on the way in either direction, and neither is
    /// dead.
    pub fn is_quiet(&mut self) -> bool {
        self.from(Side::Peer).is_quiet() && self.from(Side::Broker).is_quiet()
    }
}

impl Record {
    /// Returns the end that has sent it.
    pub fn sender(&self) -> Side {
        match self {
            Self::FromClient(_) | Self::FromEngine(_) => Side::Peer,
            Self::ToClient(_) | Self::ToEngine(_) => Side::Broker,
        }
    }
}

/// All connections.
#[derive(Default, Debug)]
pub struct Network {
    pub connections: BTreeMap<ConnectionNo, Connection>,
    made: u64,
}

impl Network {
    /// A new connection of this peer, of some quality.
    pub fn connect(&mut self, seed: u64, peer: Peer, life: u64, quality: Quality) -> ConnectionNo {
        self.made += 1;
        let no = self.made;
        let dice = |way: u64| Dice::of(seed, &[7, no, way]);
        let ways = match peer {
            Peer::Client(_) => Ways::Client(Way::new(quality, dice(0)), Way::new(quality, dice(1))),
            Peer::Process(_) => {
                Ways::Engine(Way::new(quality, dice(0)), Way::new(quality, dice(1)))
            }
        };
        let connection =
            Connection { peer, life, ways, at_broker: false, at_peer: true, is_closing: false };
        self.connections.insert(no, connection);
        no
    }

    /// Forgets a connection that neither end has any longer.
    pub fn settle(&mut self, no: ConnectionNo) {
        if self.connections.get(&no).is_some_and(|it| !it.at_broker && !it.at_peer) {
            self.connections.remove(&no);
        }
    }
}
