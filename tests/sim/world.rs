//! The world: who is there, the events that are to come, and the clock that goes from one to the
//! next.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};

use bytes::Bytes;
use furlong_broker::core::Peer as Proved;
use furlong_engine::job::SlotJob;
use furlong_link::peer::inbox::ReceiveError;
use furlong_tests::history::{History, Invariant, TaskName, Violation};
use furlong_wire::ids::TaskSeq;
use furlong_wire::message::{RefusalKind, Welcome};

use crate::broker::Broker;
use crate::calls::CallRecord;
use crate::client::Client;
use crate::dice::Dice;
use crate::network::{ConnectionNo, Network, Peer, Side};
use crate::plan::{Planned, Setup};
use crate::process::Process;

/// Something that is to come.
#[derive(Debug)]
pub enum Event {
    /// A peer's turn to dial, if it is still that one.
    Dials(Peer, u64),
    /// A peer has waited long enough for the broker's greeting.
    HandshakeTimesOut(ConnectionNo),
    /// A peer's proof comes to the broker.
    Proves(ConnectionNo, Box<Proved>),
    /// The broker's first record comes to the peer.
    Greeted(ConnectionNo, Box<Result<Welcome, RefusalKind>>),
    /// Bytes that an end has sent come to the other.
    Arrives(ConnectionNo, Side, Bytes),
    /// A line takes more.
    LineIsFree(ConnectionNo, Side),
    /// An end finds that the connection is gone.
    Notices(ConnectionNo, Side),
    BrokerTimer(u64),
    BrokerTick(u64),
    BrokerStarts,
    /// A write to the journal comes to its end.
    DiskWrites(u64),
    /// The list of revoked tokens is written, for a client's request.
    IsRevoked(u64, ConnectionNo, u64),
    /// An engine process tells what has begun.
    Reports(usize),
    ProcessTick(usize),
    SlotBegins(usize, usize),
    RunWrites(usize, usize, u64),
    RunWaits(usize, usize, u64),
    RunGoesOn(usize, usize, u64),
    RunEnds(usize, usize, u64),
    RunIsKilled(usize, usize, u64),
    Recalls(usize, usize, SlotJob),
    ClientTick(usize),
    /// A program needs a result no longer that stays.
    LetsGo(usize, TaskSeq),
    /// A client has sought its broker for long enough.
    GivesUp(usize),
    /// A process or a client comes in the place of one that is gone.
    ProcessComes(usize),
    ClientComes(usize),
}

#[derive(Debug)]
struct Due {
    at: u64,
    order: u64,
    event: Event,
}

impl PartialEq for Due {
    fn eq(&self, other: &Self) -> bool {
        (self.at, self.order) == (other.at, other.order)
    }
}

impl Eq for Due {}

impl PartialOrd for Due {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Due {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.at, self.order).cmp(&(other.at, other.order))
    }
}

/// Everything.
pub struct World {
    pub seed: u64,
    pub setup: Setup,
    /// Microseconds since the beginning.
    pub now: u64,
    pub steps: u64,
    due: BinaryHeap<Reverse<Due>>,
    made: u64,
    pub dice: Dice,
    pub network: Network,
    pub broker: Broker,
    pub processes: Vec<Process>,
    pub clients: Vec<Client>,
    pub calls: Vec<CallRecord>,
    pub history: History,
    pub violation: Option<Violation>,
    /// The last time of something that happened to an engine and may cost it what it has.
    pub hurt: BTreeMap<u32, u64>,
    /// The last cut of the connection on which an engine had registered: that alone costs nothing,
    /// if it is back in time. Cuts of those on which it has tried to come back do not lengthen that
    /// time.
    pub cut_off: BTreeMap<u32, u64>,
    /// The last time that something happened to any engine.
    pub last_hurt: Option<u64>,
    /// True if a process was told to stop.
    pub some_have_stopped: bool,
    /// The number of times that processes could not begin tasks.
    pub refused: BTreeMap<TaskName, u32>,
    /// Nothing breaks any longer, and everybody comes back.
    pub rests: bool,
    /// At which step everything is looked at again.
    pub scan_at: u64,
    /// All that happened, in a number: the same for the same seed.
    pub digest: u64,
    /// The log of what happened, for people, if somebody wants to read it.
    pub log: Option<Vec<String>>,
}

impl World {
    /// The farm of a seed, where everybody is about to start.
    pub fn new(seed: u64, setup: Setup, is_logged: bool) -> Self {
        let mut world = Self {
            seed,
            now: 0,
            steps: 0,
            due: BinaryHeap::new(),
            made: 0,
            dice: Dice::of(seed, &[3]),
            network: Network::default(),
            broker: Broker::default(),
            processes: Vec::new(),
            clients: Vec::new(),
            calls: Vec::new(),
            history: History::default(),
            violation: None,
            hurt: BTreeMap::new(),
            cut_off: BTreeMap::new(),
            some_have_stopped: false,
            refused: BTreeMap::new(),
            last_hurt: None,
            rests: false,
            scan_at: 0,
            digest: seed,
            log: is_logged.then(Vec::new),
            setup,
        };
        let starts = world.dice.below(2_000);
        world.after(starts, Event::BrokerStarts);
        for spec in 0..world.setup.processes.len() {
            let starts = world.dice.below(3_000);
            world.after(starts, Event::ProcessComes(spec));
        }
        for spec in 0..world.setup.clients.len() {
            let starts = world.dice.below(3_000);
            world.after(starts, Event::ClientComes(spec));
        }
        world
    }

    /// Something is to happen so much later.
    pub fn after(&mut self, wait: u64, event: Event) {
        self.at(self.now + wait, event);
    }

    /// Something is to happen then.
    pub fn at(&mut self, at: u64, event: Event) {
        self.made += 1;
        self.due.push(Reverse(Due { at: at.max(self.now), order: self.made, event }));
    }

    /// The time of the next event.
    pub fn next_at(&self) -> Option<u64> {
        self.due.peek().map(|Reverse(due)| due.at)
    }

    /// Lets the next event happen.
    pub fn step(&mut self) {
        let Some(Reverse(Due { at, event, .. })) = self.due.pop() else { return };
        self.now = at;
        match self.client_of(&event).map(|client| self.clients[client].stops_until) {
            Some(until) if until > at => self.at(until, event),
            _ => self.happens(event),
        }
    }

    /// The client to which something happens, if it is one.
    fn client_of(&self, event: &Event) -> Option<usize> {
        let of_peer = |peer| if let Peer::Client(client) = peer { Some(client) } else { None };
        let of_connection = |no| of_peer(self.network.connections.get(no)?.peer);
        match event {
            Event::Dials(peer, _) => of_peer(*peer),
            Event::Arrives(no, Side::Broker, _)
            | Event::Greeted(no, _)
            | Event::HandshakeTimesOut(no)
            | Event::LineIsFree(no, Side::Peer)
            | Event::Notices(no, Side::Peer) => of_connection(no),
            Event::ClientTick(client) | Event::GivesUp(client) | Event::LetsGo(client, _) => {
                Some(*client)
            }
            _ => None,
        }
    }

    /// Lets everything happen up to that time, and then a planned act.
    pub fn acts(&mut self, planned: &Planned) {
        while self.violation.is_none() && self.next_at().is_some_and(|at| at <= planned.at) {
            self.step();
        }
        self.now = self.now.max(planned.at);
        if self.violation.is_none() {
            self.steps += 1;
            self.note(|_| format!("-- {:?}", planned.act));
            self.act(&planned.act);
            self.check();
        }
    }

    fn happens(&mut self, event: Event) {
        // What goes by the clock alone is no step of a history, and no heartbeat is.
        let mut counts =
            !matches!(event, Event::BrokerTick(_) | Event::ClientTick(_) | Event::ProcessTick(_));
        self.digest =
            (self.digest ^ self.now).wrapping_mul(0x0100_0000_01b3).rotate_left(17) ^ self.made;
        match event {
            Event::Dials(peer, turn) => self.dials(peer, turn),
            Event::HandshakeTimesOut(no) => self.handshake_times_out(no),
            Event::Proves(no, peer) => self.handle_proof(no, *peer),
            Event::Greeted(no, greeting) => self.is_greeted(no, *greeting),
            Event::Arrives(no, sender, bytes) => counts = self.arrives(no, sender, bytes),
            Event::LineIsFree(no, side) => self.line_is_free(no, side),
            Event::Notices(no, Side::Broker) => self.broker_notices(no),
            Event::Notices(no, Side::Peer) => self.peer_notices(no),
            Event::BrokerTimer(life) => self.broker_timer(life),
            Event::BrokerTick(life) => self.broker_tick(life),
            Event::BrokerStarts => self.broker_starts(),
            Event::DiskWrites(life) => self.disk_writes(life),
            Event::IsRevoked(life, no, request) => self.is_revoked(life, no, request),
            Event::Reports(process) => self.reports(process),
            Event::ProcessTick(process) => self.process_tick(process),
            Event::SlotBegins(process, slot) => self.slot_begins(process, slot),
            Event::RunWrites(process, slot, run) => self.run_writes(process, slot, run),
            Event::RunWaits(process, slot, run) => self.run_waits(process, slot, run),
            Event::RunGoesOn(process, slot, run) => self.run_goes_on(process, slot, run),
            Event::RunEnds(process, slot, run) => self.run_ends(process, slot, run),
            Event::RunIsKilled(process, slot, run) => self.run_is_killed(process, slot, run),
            Event::Recalls(process, slot, job) => self.recalls(process, slot, job),
            Event::ClientTick(client) => self.client_tick(client),
            Event::LetsGo(client, n) => {
                self.client_does(client, |core| core.release(n));
            }
            Event::GivesUp(client) => self.client_gives_up(client),
            Event::ProcessComes(spec) => self.process_comes(spec),
            Event::ClientComes(spec) => self.client_comes(spec),
        }
        if counts {
            self.steps += 1;
            self.check();
        }
    }

    /// Writes a line of the log.
    pub fn note(&mut self, text: impl FnOnce(&Self) -> String) {
        let Some(mut log) = self.log.take() else { return };
        log.push(format!("{:>12.6}  {}", self.now as f64 / 1e6, text(self)));
        self.log = Some(log);
    }

    /// Something is not as it must be.
    pub fn violated(
        &mut self,
        invariant: Invariant,
        task: Option<TaskName>,
        text: impl Into<String>,
    ) {
        self.violation.get_or_insert(Violation { invariant, task, text: text.into() });
    }

    /// Returns true if there are messages in what has come.
    fn arrives(&mut self, no: ConnectionNo, sender: Side, bytes: Bytes) -> bool {
        let Some(connection) = self.network.connections.get_mut(&no) else { return false };
        if !connection.from(sender).land() {
            return false;
        }
        match (sender, connection.peer) {
            (Side::Peer, _) => {
                connection.broker_end.unread.push_back(bytes);
                self.broker_reads(no)
            }
            (Side::Broker, peer) => self.peer_reads(no, peer, &bytes),
        }
    }

    fn peer_reads(&mut self, no: ConnectionNo, peer: Peer, bytes: &[u8]) -> bool {
        let Some(connection) = self.network.connections.get_mut(&no) else { return false };
        let end = &mut connection.peer_end;
        end.peer.handle_read();
        end.inbox.room().extend_from_slice(bytes);
        if connection.down.read(bytes.len()) {
            self.after(0, Event::LineIsFree(no, Side::Broker));
        }
        let mut has_messages = false;
        while let Some(connection) = self.network.connections.get_mut(&no) {
            let record = match connection.peer_end.inbox.poll_record() {
                Ok(Some(record)) => record,
                Ok(None) => break,
                Err(error) => {
                    self.finds_unsound(&error);
                    break;
                }
            };
            has_messages |= !record.batch.is_empty();
            match peer {
                Peer::Client(client) => self.client_hears(client, no, record.into_messages()),
                Peer::Process(process) => self.engine_hears(process, no, record.into_messages()),
            }
        }
        has_messages
    }

    /// What one program has sent, another cannot read.
    pub fn finds_unsound(&mut self, error: &ReceiveError) {
        self.violated(Invariant::HonestPeersAreServed, None, format!("unsound: {error}"));
    }

    /// Lets go what one end of a connection has queued.
    pub fn depart(&mut self, no: ConnectionNo, side: Side, closes: bool) {
        let Some(connection) = self.network.connections.get_mut(&no) else { return };
        for (at, bytes) in connection.depart(side, self.now, closes) {
            self.at(at, Event::Arrives(no, side, bytes));
        }
    }

    fn line_is_free(&mut self, no: ConnectionNo, side: Side) {
        let Some(connection) = self.network.connections.get_mut(&no) else { return };
        match (side, connection.peer) {
            (Side::Broker, _) => {
                self.depart(no, side, false);
                // Who has taken its answers may ask again.
                self.broker_reads(no);
            }
            (Side::Peer, Peer::Client(client)) => self.client_writes(client),
            (Side::Peer, Peer::Process(process)) => self.engine_flush(process),
        }
    }
}
