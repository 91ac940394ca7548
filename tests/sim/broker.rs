//! The broker: its core, and what its shell does between core and connections.

use std::collections::BTreeSet;
use std::rc::Rc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use furlong_broker::budget::{OUT_QUEUE_BYTES_MAX, OutQueues};
use furlong_broker::core::{
    Config, ConnectionId, Core, Output, Peer as Proved, PeerMisbehaved, Roster, Serves, Time,
    invariants as of_broker,
};
use furlong_broker::peer::{ConnectedPeer, ConnectionEnd, TICK};
use furlong_link::file::FileContent;
use furlong_link::peer::inbox::{Messages, Record};
use furlong_tests::history::{Invariant, TaskName};
use furlong_wire::capability::{Revocation, RevokedTokens};
use furlong_wire::ids::{BrokerStart, ClusterId, SessionId, TaskSeq, TokenId};
use furlong_wire::message::{Direction, ErrorKind, FromClient, FromEngine, ToClient};

use crate::client::Submitted;
use crate::disk::{Disk, JOURNAL_KEEP_US};
use crate::network::{ConnectionNo, Peer, Side};
use crate::world::{Event, World};

/// The broker's process, in one life after the other.
#[derive(Default, Debug)]
pub struct Broker {
    pub core: Option<Core>,
    /// Counts the starts.
    pub life: u64,
    /// The time at which this life began.
    pub began: u64,
    /// The roster that the last life has written.
    roster: Roster,
    timer_at: Option<u64>,
    /// Tokens that are revoked.
    pub revoked: RevokedTokens,
    /// Its journal, if it has one.
    pub disk: Disk,
    /// What waits for all clients of this life.
    pub out_queues: Option<Rc<OutQueues>>,
    /// Tasks for which this life had no room.
    pub refused: BTreeSet<TaskName>,
    /// It reads nothing before that time.
    pub pauses_until: u64,
}

/// Microseconds since 1970 at the beginning of a history.
const BEGINNING_US: u64 = 1_800_000_000_000_000;

impl Broker {
    pub fn time(&self, now: u64) -> Time {
        Time(now - self.began)
    }
}

impl World {
    pub fn broker_starts(&mut self) {
        if self.broker.core.is_some() {
            return;
        }
        let broker = &mut self.broker;
        broker.life += 1;
        broker.began = self.now;
        broker.timer_at = None;
        let config = Config {
            start: BrokerStart(BEGINNING_US + self.now),
            cluster: ClusterId([9; 32]),
            cluster_name: "simulated".into(),
            software: "simulation".into(),
            pid: 1,
            payload_bytes_max: self.setup.payload_bytes_max,
            memory_flag: "--memory",
            tasks_max: Config::tasks_for_sessions_of(self.setup.session_tasks_max),
            kept_max: 100_000,
            journal_keep: self.setup.has_journal.then(|| Duration::from_micros(JOURNAL_KEEP_US)),
        };
        let mut core = Core::new(config, &broker.roster);
        if self.setup.has_journal {
            broker.disk.restore(&mut core, BEGINNING_US + self.now);
        }
        broker.core = Some(core);
        let asks_most = self.setup.slow_readers.asks_most;
        broker.out_queues = Some(Rc::new(OutQueues::asking(OUT_QUEUE_BYTES_MAX, asks_most)));
        let life = broker.life;
        self.note(|_| format!("the broker starts for the {life}. time"));
        self.after(1_000_000, Event::BrokerTick(life));
        self.broker_flush();
    }

    /// The process is killed. Peers notice at once, or by its silence.
    pub fn broker_dies(&mut self, down_us: u64, is_silent: bool) {
        let Some(core) = self.broker.core.take() else { return };
        self.note(|_| "the broker is killed".to_owned());
        let is_written = self.dice.one_in(2);
        self.broker.disk.loses_what_is_on_the_way(self.now, is_written);
        self.ends_are_lost(&core);
        self.everybody_is_hurt();
        self.history.broker_killed();
        let connections: Vec<ConnectionNo> = self.network.connections.keys().copied().collect();
        for no in connections {
            let Some(connection) = self.network.connections.get_mut(&no) else { continue };
            connection.from(Side::Peer).kill();
            connection.from(Side::Broker).kill();
            connection.at_broker = false;
            if connection.at_peer && !is_silent {
                let wait = self.dice.below(2_000);
                self.after(wait, Event::Notices(no, Side::Peer));
            }
            self.network.settle(no);
        }
        self.after(down_us, Event::BrokerStarts);
    }

    /// Tasks that ended, but not on disk, go on. So does one that the broker had ended itself, if
    /// its client has not heard of that: it submits it again, to a broker that does not know of it.
    /// One that an engine could not begin is such a one: no engine holds an end of it.
    fn ends_are_lost(&mut self, core: &Core) {
        let refused = std::mem::take(&mut self.broker.refused);
        let untold: Vec<TaskName> = self
            .unheard()
            .filter(|(name, task)| {
                let did_not_begin =
                    self.refused.contains_key(name) && self.history.runs(*name) == 0;
                did_not_begin || is_ended_by_broker(core, *task) || refused.contains(name)
            })
            .map(|it| it.0)
            .collect();
        // What has stayed is submitted again, to be there again: that may fail.
        let stays = (0..).zip(&self.clients).flat_map(|(client, it)| {
            let stays = |(_, task): &(u64, &Submitted)| self.calls[task.call].plan.stay;
            (1..).zip(&it.tasks).filter(stays).map(move |(n, _)| TaskName { client, n })
        });
        let stays: Vec<TaskName> = stays.filter(|task| self.history.is_delivered(*task)).collect();
        for task in untold.into_iter().chain(stays) {
            self.history.end_lost(task);
        }
        let ended = self
            .broker
            .disk
            .open()
            .filter(|(session, n)| !of_broker::is_unfinished(core, *session, TaskSeq(*n)));
        for (session, n) in ended {
            if let Some(client) = self.clients.iter().position(|client| client.session == session) {
                self.history.end_lost(TaskName { client: client as u32, n });
            }
        }
    }

    /// Tasks of clients that are there and have not heard of their ends, with their sessions and
    /// numbers.
    fn unheard(&self) -> impl Iterator<Item = (TaskName, (SessionId, u64))> {
        let clients = (0..).zip(&self.clients).filter(|(_, client)| client.is_alive);
        let tasks = clients.flat_map(|(no, client)| {
            (1..)
                .zip(&client.tasks)
                .map(move |(n, _)| (TaskName { client: no, n }, (client.session, n)))
        });
        tasks.filter(|(task, _)| !self.history.is_delivered(*task))
    }

    /// A peer has proved itself.
    pub fn handle_proof(&mut self, no: ConnectionNo, peer: Proved) {
        let now = self.broker.time(self.now);
        let Some(connection) = self.network.connections.get_mut(&no) else { return };
        let (Some(core), true) = (&mut self.broker.core, connection.life == self.broker.life)
        else {
            return;
        };
        if connection.from(Side::Peer).is_dead() {
            return;
        }
        let proved = (&peer.claims, &peer.hello);
        let checked = core.check_admission(now, Serves::All, proved, &self.broker.revoked);
        let greeting = checked.and_then(|()| core.handle_connected(ConnectionId(no), peer));
        let greeting = greeting.map_err(|refusal| refusal.kind);
        connection.at_broker = greeting.is_ok();
        let at = connection.from(Side::Broker).arrival(self.now);
        self.at(at, Event::Greeted(no, Box::new(greeting)));
        self.broker_flush();
    }

    /// Reads what has come from a peer, as far as it may be read. Returns true if there are
    /// messages in it.
    pub fn broker_reads(&mut self, no: ConnectionNo) -> bool {
        let mut has_messages = false;
        loop {
            let connection = self.network.connections.get_mut(&no);
            let Some(connection) = connection.filter(|it| it.at_broker && !it.is_closing) else {
                return has_messages;
            };
            let end = &mut connection.broker_end;
            if !end.peer.resume_reading() {
                return has_messages;
            }
            match end.inbox.poll_record() {
                Ok(Some(record)) => {
                    has_messages |= !record.batch.is_empty();
                    self.broker_hears(no, record);
                }
                Ok(None) => {
                    let Some(bytes) = end.unread.pop_front() else { return has_messages };
                    end.peer.handle_read();
                    end.inbox.room().extend_from_slice(&bytes);
                    if connection.up.read(bytes.len()) {
                        self.after(0, Event::LineIsFree(no, Side::Peer));
                    }
                }
                Err(error) => {
                    self.finds_unsound(&error);
                    return has_messages;
                }
            }
        }
    }

    /// Gives the core what has come, and lets it decide.
    fn broker_hears(&mut self, no: ConnectionNo, record: Record) {
        let (now, id) = (self.broker.time(self.now), ConnectionId(no));
        let Some(connection) = self.network.connections.get_mut(&no) else { return };
        let (peer, Some(core)) = (connection.peer, &mut self.broker.core) else { return };
        let files = &mut connection.files_up;
        let heard = match peer {
            Peer::Client(_) => hear(record.into_messages(), |message, chunk| {
                if let FromClient::Passed(passed) = &message {
                    let content = FileContent::Copy(files.take(passed));
                    return core.handle_file(now, id, passed.transfer, content);
                }
                let mut handled = core.handle_from_client(now, id, message, chunk);
                while handled.is_ok() && core.has_rest(id) {
                    handled = core.handle_rest(now, id);
                }
                handled
            }),
            Peer::Process(_) => hear(record.into_messages(), |message, chunk| {
                if let FromEngine::Passed(passed) = &message {
                    let content = FileContent::Copy(files.take(passed));
                    return core.handle_file(now, id, passed.transfer, content);
                }
                core.handle_from_engine(now, id, message, chunk)
            }),
        };
        // After a goodbye, or when the peer has a newer connection, nothing is heard any longer.
        let is_served = core.is_served(id);
        core.dispatch(now);
        if let Err(error) = heard
            && is_served
        {
            let text = format!("the broker closes {peer:?}: {error}");
            self.violated(Invariant::HonestPeersAreServed, None, text);
        }
        self.broker_flush();
    }

    /// The broker's end finds that a connection is gone.
    pub fn broker_notices(&mut self, no: ConnectionNo) {
        let now = self.broker.time(self.now);
        let Some(connection) = self.network.connections.get_mut(&no) else { return };
        if !std::mem::replace(&mut connection.at_broker, false) {
            return;
        }
        let peer = connection.peer;
        self.note(|_| format!("the broker finds connection {no} of {peer:?} gone"));
        self.notes_lost_with(peer, no);
        if let Some(core) = &mut self.broker.core {
            core.handle_disconnected(now, ConnectionId(no));
        }
        self.network.settle(no);
        self.broker_flush();
    }

    pub fn broker_timer(&mut self, life: u64) {
        let now = self.broker.time(self.now);
        if life != self.broker.life || self.broker.timer_at.is_none_or(|at| at > self.now) {
            return;
        }
        if self.broker.pauses_until > self.now {
            return self.at(self.broker.pauses_until, Event::BrokerTimer(life));
        }
        self.broker.timer_at = None;
        if let Some(core) = &mut self.broker.core {
            core.handle_timeout(now);
            self.broker_flush();
        }
    }

    pub fn broker_tick(&mut self, life: u64) {
        if life != self.broker.life {
            return;
        }
        if self.broker.pauses_until > self.now {
            return self.at(self.broker.pauses_until, Event::BrokerTick(life));
        }
        let Some(core) = &mut self.broker.core else { return };
        core.handle_tick();
        self.after(TICK.as_micros() as u64, Event::BrokerTick(life));
        self.broker_flush();
        let now = Duration::from_micros(self.now);
        let connections = self.network.connections.iter_mut();
        let checked: Vec<ConnectionNo> = connections
            .filter(|(_, it)| it.at_broker && !it.is_closing)
            .map(|(no, it)| {
                it.broker_end.peer.handle_tick(now);
                *no
            })
            .collect();
        for no in checked {
            self.broker_writes(no);
        }
    }

    /// Tokens are revoked by the file.
    pub fn revokes(&mut self, token: TokenId) {
        let now = self.broker.time(self.now);
        let revocation = Revocation { revoked_s: 1, reason: None };
        self.broker.revoked.revoke(token, revocation).expect("there is room for more");
        if let Some(core) = &mut self.broker.core {
            core.handle_revoked(now, &self.broker.revoked);
            self.broker_flush();
        }
    }

    /// Tokens that a client wanted revoked are.
    pub fn is_revoked(&mut self, life: u64, no: ConnectionNo, request: u64) {
        let now = self.broker.time(self.now);
        if life != self.broker.life {
            return;
        }
        if let Some(core) = &mut self.broker.core {
            core.handle_revocation(now, ConnectionId(no), request, Ok(&self.broker.revoked));
            self.broker_flush();
        }
    }

    /// Does what the core wants done: queues everything first, then lets it go.
    pub fn broker_flush(&mut self) {
        let mut dirty = Vec::new();
        loop {
            let Some(core) = &mut self.broker.core else { return };
            let Some(output) = core.poll_output() else { break };
            self.broker_does(output, &mut dirty);
        }
        let timer = self.broker.core.as_ref().and_then(Core::poll_timeout);
        if let Some(at) = timer.map(|at| at.0 + self.broker.began)
            && self.broker.timer_at.is_none_or(|armed| at < armed)
        {
            self.broker.timer_at = Some(at.max(self.now));
            self.at(at, Event::BrokerTimer(self.broker.life));
        }
        dirty.sort_unstable();
        dirty.dedup();
        for no in dirty {
            self.broker_writes(no);
        }
    }

    fn broker_does(&mut self, output: Output, dirty: &mut Vec<ConnectionNo>) {
        match output {
            Output::ToClient(id, message) => {
                self.notes_refusal(id, &message);
                self.broker_changes(id, dirty, |peer| peer.push(&message));
            }
            Output::ToEngine(id, message) => {
                self.broker_changes(id, dirty, |peer| peer.push(&message));
            }
            Output::Transfer(id, number, chunks) => {
                let ConnectionId(no) = id;
                let connection = self.network.connections.get_mut(&no);
                let mut files = connection.map(|it| std::mem::take(&mut it.files_down));
                self.broker_changes(id, dirty, |peer| {
                    peer.push_transfer(number, chunks, |chunks| {
                        files.as_mut()?.pass(number, chunks)
                    });
                });
                if let Some((connection, files)) = self.network.connections.get_mut(&no).zip(files)
                {
                    connection.files_down = files;
                }
            }
            Output::Close(id, reason) => {
                self.broker_changes(id, dirty, |peer| peer.end(ConnectionEnd::Graceful(reason)));
            }
            Output::SaveRoster(changes) => {
                changes.into_iter().for_each(|it| self.broker.roster.apply(it));
            }
            Output::Revoke(ConnectionId(no), request, tokens) => {
                for token in tokens {
                    let revocation = Revocation { revoked_s: 1, reason: None };
                    self.broker.revoked.revoke(token, revocation).expect("there is room for more");
                }
                let wait = self.dice.below(5_000);
                self.after(wait, Event::IsRevoked(self.broker.life, no, request));
            }
            Output::Journal(number, entry) => self.disk_takes(number, entry),
            Output::Discard(_) | Output::Stop(_) => {}
        }
    }

    /// A task that there was no room for has ended, which the broker does not remember as an end.
    fn notes_refusal(&mut self, ConnectionId(no): ConnectionId, message: &ToClient) {
        let ToClient::Finished(finished) = message else { return };
        let kind = finished.outcome.error.as_ref().map(|error| error.kind);
        let peer = self.network.connections.get(&no).map(|it| it.peer);
        if let (Some(ErrorKind::Busy), Some(Peer::Client(client))) = (kind, peer) {
            self.broker.refused.insert(TaskName { client: client as u32, n: finished.n.0 });
        }
    }

    fn broker_changes(
        &mut self,
        ConnectionId(no): ConnectionId,
        dirty: &mut Vec<ConnectionNo>,
        change: impl FnOnce(&mut ConnectedPeer),
    ) {
        if let Some(connection) = self.network.connections.get_mut(&no) {
            change(&mut connection.broker_end.peer);
            dirty.push(no);
        }
    }

    /// Writes what waits, and closes the connection if it is to end.
    fn broker_writes(&mut self, no: ConnectionNo) {
        self.depart(no, Side::Broker, false);
        let Some(connection) = self.network.connections.get_mut(&no) else { return };
        let Some(end) = connection.broker_end.peer.ended() else { return };
        if std::mem::replace(&mut connection.is_closing, true) {
            return;
        }
        self.note(|_| format!("the broker closes connection {no}: {end:?}"));
        if matches!(end, ConnectionEnd::Graceful(_)) {
            self.depart(no, Side::Broker, true);
        } else {
            self.notes_cut_off(no);
        }
        self.after(0, Event::Notices(no, Side::Broker));
        if let Some(down) = self.network.connections.get_mut(&no).map(|it| &mut it.down)
            && !down.is_dead()
        {
            let arrival = down.arrival(self.now);
            self.at(arrival, Event::Notices(no, Side::Peer));
        }
    }
}

/// Gives messages to a core, until one of them is a breach.
fn hear<M: Direction>(
    mut messages: Messages<M>,
    mut handle: impl FnMut(M, Option<Bytes>) -> Result<(), PeerMisbehaved>,
) -> Result<(), String> {
    messages.try_for_each(|message| {
        let (message, chunk) = message.map_err(|error| error.to_string())?;
        handle(message, chunk.map(BytesMut::freeze)).map_err(|error| error.to_string())
    })
}

/// Returns true if the broker has ended a task for what happened to it, not for what it is.
fn is_ended_by_broker(core: &Core, (session, n): (SessionId, u64)) -> bool {
    let outcome = of_broker::outcome(core, session, TaskSeq(n));
    let kind = outcome.and_then(|outcome| outcome.error.as_ref()).map(|error| error.kind);
    matches!(
        kind,
        Some(
            ErrorKind::EngineLost
                | ErrorKind::Cancelled
                | ErrorKind::Aborted
                | ErrorKind::QueueTimeout
                | ErrorKind::RunTimeout
        )
    )
}
