//! The network: streams of bytes that arrive in order, slowly, in parts, or not at all.
//!
//! Each end of a connection has what the programs have there: an outbox that seals records in its
//! order, an inbox that opens them, and the rules by which the other end is dead, stalled or too
//! slow. A [`Line`] between them takes bytes while those that nobody has read leave room, as a
//! socket does. What is on the way when it is dead never arrives.

use std::collections::{BTreeMap, VecDeque};
use std::io::IoSlice;
use std::rc::Rc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use furlong_broker::budget::OutQueues;
use furlong_broker::peer::ConnectedPeer;
use furlong_link::peer;
use furlong_link::peer::inbox::Inbox;
use furlong_link::peer::outbox::{Outbox, SLICES_MAX};
use furlong_link::peer::place::LeftOutAbove;
use furlong_wire::message::{FromClient, FromEngine};
use furlong_wire::record::{RecordKeys, RecordOpener, RecordSealer};
use furlong_wire::token::Role;
use furlong_wire::zmtp;

use crate::dice::Dice;
use crate::files::FileWay;

/// Names a connection, for the network and for the broker.
pub type ConnectionNo = u64;

/// The peer whose connection it is, by its place in the world's list.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Peer {
    Client(usize),
    Process(usize),
}

/// The interval at which clients and engine processes look after their connections.
pub const TURN: Duration = Duration::from_secs(1);

/// The quality of a line: times in microseconds.
#[derive(Clone, Copy, Debug)]
pub struct Quality {
    pub latency: u64,
    pub jitter: u64,
    /// Bytes in a microsecond.
    pub pace: u64,
    /// Bytes that may be on the way, or wait to be read.
    pub window: usize,
    /// True if what is sent at once may arrive in parts.
    pub is_cut_up: bool,
}

/// What may wait at the broker for clients that read slowly.
#[derive(Clone, Copy, Debug)]
pub struct SlowReaders {
    pub left_out_above: LeftOutAbove,
    /// Bytes that may wait for one that asks for more, at most.
    pub asks_most: usize,
}

/// One direction of a connection.
#[derive(Debug)]
pub struct Line {
    dice: Dice,
    quality: Quality,
    /// The time at which it has carried away what it has taken.
    free_at: u64,
    /// The time at which the last bytes that have departed arrive.
    last_arrival: u64,
    /// Parts on the way.
    travelling: u32,
    /// Bytes that it has taken and that were not read.
    unread_bytes: usize,
    /// Nothing arrives any longer.
    is_dead: bool,
    /// True if the end that sends waits for room.
    is_full: bool,
}

/// Parts that have departed, with the times of their arrivals.
pub type Departed = Vec<(u64, Bytes)>;

impl Line {
    fn new(quality: Quality, dice: Dice) -> Self {
        let (free_at, last_arrival, travelling, unread_bytes) = (0, 0, 0, 0);
        let (is_dead, is_full) = (false, false);
        Self { dice, quality, free_at, last_arrival, travelling, unread_bytes, is_dead, is_full }
    }

    /// Takes what there is room for; all of it if it is about to close.
    fn take(&mut self, outbox: &mut Outbox, now: u64, closes: bool) -> Departed {
        let mut departed = Vec::new();
        loop {
            let room = self.quality.window.saturating_sub(self.unread_bytes);
            let room = if closes { usize::MAX } else { room };
            if room == 0 {
                self.is_full = !outbox.is_empty();
                return departed;
            }
            let mut slices = [IoSlice::new(&[]); SLICES_MAX];
            let count = outbox.poll_slices(&mut slices, room);
            let bytes: Vec<u8> =
                slices[..count].iter().flat_map(|slice| slice.iter().copied()).collect();
            if bytes.is_empty() {
                return departed;
            }
            outbox.handle_written(bytes.len());
            self.carry(bytes.into(), now, &mut departed);
        }
    }

    fn carry(&mut self, mut bytes: Bytes, now: u64, departed: &mut Departed) {
        self.free_at = self.free_at.max(now) + bytes.len() as u64 / self.quality.pace;
        self.unread_bytes += bytes.len();
        if self.is_dead {
            return;
        }
        if self.quality.is_cut_up && self.dice.one_in(4) {
            let first = bytes.split_to(self.dice.below(bytes.len() as u64 + 1) as usize);
            departed.push((self.arrival(self.free_at), first));
            self.travelling += 1;
        }
        departed.push((self.arrival(self.free_at), bytes));
        self.travelling += 1;
    }

    /// Returns the time at which something that departs now arrives.
    pub fn arrival(&mut self, now: u64) -> u64 {
        let Quality { latency, jitter, .. } = self.quality;
        let arrival = now + latency + self.dice.below(jitter + 1);
        self.last_arrival = self.last_arrival.max(arrival);
        self.last_arrival
    }

    /// Nothing arrives before that time.
    pub fn stall(&mut self, until: u64) {
        self.last_arrival = self.last_arrival.max(until);
    }

    /// Nothing arrives any longer.
    pub fn kill(&mut self) {
        self.is_dead = true;
    }

    /// Returns true if nothing arrives any longer.
    pub fn is_dead(&self) -> bool {
        self.is_dead
    }

    /// A part has come to its end. Returns true if it arrives.
    pub fn land(&mut self) -> bool {
        self.travelling -= 1;
        !self.is_dead
    }

    /// Bytes were read at the other end. Returns true if somebody waits for that.
    pub fn read(&mut self, bytes: usize) -> bool {
        self.unread_bytes -= bytes;
        std::mem::take(&mut self.is_full)
    }
}

/// The end of a client or an engine process.
#[derive(Debug)]
pub struct PeerEnd {
    pub peer: peer::Peer,
    pub inbox: Inbox,
}

/// The broker's end.
#[derive(Debug)]
pub struct BrokerEnd {
    pub peer: ConnectedPeer,
    pub inbox: Inbox,
    /// What has arrived while nothing was read.
    pub unread: VecDeque<Bytes>,
}

/// A connection, from the dialling until both sides know that it is gone.
#[derive(Debug)]
pub struct Connection {
    pub peer: Peer,
    /// The broker's life to which it was made.
    pub life: u64,
    /// From the peer to the broker.
    pub up: Line,
    /// From the broker to the peer.
    pub down: Line,
    pub peer_end: PeerEnd,
    pub broker_end: BrokerEnd,
    /// The memory files that the peer passes, and those that the broker does.
    pub files_up: FileWay,
    pub files_down: FileWay,
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
    pub fn from(&mut self, side: Side) -> &mut Line {
        match side {
            Side::Peer => &mut self.up,
            Side::Broker => &mut self.down,
        }
    }

    /// Lets go what waits at one end, as far as the line takes it; all of it if that end is about
    /// to close.
    pub fn depart(&mut self, side: Side, now: u64, closes: bool) -> Departed {
        let at = Duration::from_micros(now);
        match side {
            Side::Peer => {
                let departed = self.up.take(self.peer_end.peer.outbox(), now, closes);
                self.peer_end.peer.handle_written(at);
                departed
            }
            Side::Broker => {
                let departed = self.down.take(self.broker_end.peer.outbox(), now, closes);
                self.broker_end.peer.handle_written(at);
                departed
            }
        }
    }

    /// Returns true if nothing waits and nothing is on the way in either direction, and what is
    /// sent arrives.
    pub fn is_quiet(&self) -> bool {
        let has_read = self.broker_end.unread.is_empty() && !self.broker_end.peer.is_paused();
        let has_sent = self.peer_end.peer.is_empty() && self.broker_end.peer.is_empty();
        let is_quiet = |line: &Line| line.travelling == 0 && !line.is_dead;
        has_read && has_sent && is_quiet(&self.up) && is_quiet(&self.down)
    }
}

/// All connections.
#[derive(Default, Debug)]
pub struct Network {
    pub connections: BTreeMap<ConnectionNo, Connection>,
    made: u64,
}

/// Who connects, to which life of the broker, and when.
#[derive(Clone, Copy, Debug)]
pub struct Connecting {
    pub peer: Peer,
    pub life: u64,
    pub now: u64,
}

impl Network {
    /// A new connection of some quality, on which both sides have proved themselves.
    pub fn connect(
        &mut self,
        seed: u64,
        Connecting { peer, life, now }: Connecting,
        quality: Quality,
        (out_queues, limits): (&Rc<OutQueues>, LeftOutAbove),
    ) -> ConnectionNo {
        self.made += 1;
        let no = self.made;
        let line = |way: u64| Line::new(quality, Dice::of(seed, &[7, no, way]));
        let (at_peer, at_broker) = codecs();
        let ((up_sealer, up_opener), (down_sealer, down_opener)) = (keys(no, 0), keys(no, 1));
        let now = Duration::from_micros(now);
        let (role, sending) = match peer {
            Peer::Client(_) => (Role::Client, peer::Peer::new::<FromClient>(up_sealer, TURN, now)),
            Peer::Process(_) => {
                let peer = peer::Peer::new::<FromEngine>(up_sealer, TURN, now);
                (Role::Engine, peer.bearing_stalls())
            }
        };
        let mut connected = ConnectedPeer::new(role, down_sealer, out_queues, now);
        connected.leave_out_above(limits);
        let connection = Connection {
            peer,
            life,
            up: line(0),
            down: line(1),
            peer_end: PeerEnd {
                peer: sending,
                inbox: Inbox::new(BytesMut::new(), at_peer, down_opener),
            },
            broker_end: BrokerEnd {
                peer: connected,
                inbox: Inbox::new(BytesMut::new(), at_broker, up_opener),
                unread: VecDeque::new(),
            },
            files_up: FileWay::new(seed, no, 0),
            files_down: FileWay::new(seed, no, 1),
            at_broker: false,
            at_peer: true,
            is_closing: false,
        };
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

/// The keys of one direction, as a handshake would make them: of this connection alone.
fn keys(no: ConnectionNo, way: u8) -> (RecordSealer, RecordOpener) {
    let mut key = [way; 32];
    key[..8].copy_from_slice(&no.to_le_bytes());
    RecordKeys { send: key.into(), receive: key.into() }.split()
}

/// Two ZMTP codecs that have greeted each other: the peer's, and the broker's.
fn codecs() -> (zmtp::Connection, zmtp::Connection) {
    let mut peer = zmtp::Connection::new(zmtp::Role::Peer);
    let mut broker = zmtp::Connection::new(zmtp::Role::Broker);
    let (mut to_peer, mut to_broker) = (BytesMut::new(), BytesMut::new());
    let mut ready = 0;
    while ready < 2 {
        while let Some(bytes) = peer.poll_output() {
            to_broker.extend_from_slice(&bytes);
        }
        ready += usize::from(broker.handle_input(&mut to_broker).expect("it is ours").is_some());
        while let Some(bytes) = broker.poll_output() {
            to_peer.extend_from_slice(&bytes);
        }
        ready += usize::from(peer.handle_input(&mut to_peer).expect("it is ours").is_some());
    }
    peer.peer_proved();
    broker.peer_proved();
    (peer, broker)
}
