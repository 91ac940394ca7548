//! The broker: its core, and what its shell does between core and connections.

use std::time::Duration;

use furlong_broker::core::{
    Config, ConnectionId, Core, Output, Peer as Proved, Roster, Time, invariants as of_broker,
};
use furlong_tests::history::{Invariant, TaskName};
use furlong_wire::capability::{Revocation, RevokedTokens};
use furlong_wire::ids::{BrokerStart, ClusterId, SessionId, TokenId};
use furlong_wire::message::{ErrorKind, FromClient, FromEngine, RefusalKind, ToEngine};

use crate::disk::{Disk, JOURNAL_KEEP_US};
use crate::network::{Chunks, ConnectionNo, Messages, Side, Ways};
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
    /// It reads nothing before that time.
    pub pauses_until: u64,
}

/// Microseconds since 1970 at the beginning of a history.
const BEGINNING_US: u64 = 1_800_000_000_000_000;

/// The range of times for which a silent connection seems alive: the last heartbeat came some
/// seconds before.
pub const SILENCE_US: (u64, u64) = (10_000_000, 15_250_000);

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
        let life = broker.life;
        self.note(|_| format!("the broker starts for the {life}. time"));
        self.after(1_000_000, Event::BrokerTick(life));
        self.broker_flush();
    }

    /// The process is killed. Peers notice at once, or when they have heard nothing for too long.
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
            if connection.at_peer {
                let wait = if is_silent {
                    self.dice.between(SILENCE_US.0, SILENCE_US.1)
                } else {
                    self.dice.below(2_000)
                };
                self.after(wait, Event::Notices(no, Side::Peer));
            }
            self.network.settle(no);
        }
        self.after(down_us, Event::BrokerStarts);
    }

    /// Tasks that ended, but not on disk, go on. So does one that the broker had ended itself, if
    /// its client has not heard of that: it submits it again, to a broker that does not know of it.
    fn ends_are_lost(&mut self, core: &Core) {
        let untold: Vec<TaskName> = self
            .unheard()
            .filter(|(_, task)| is_ended_by_broker(core, *task))
            .map(|it| it.0)
            .collect();
        for task in untold {
            self.history.end_lost(task);
        }
        let ended = self
            .broker
            .disk
            .open()
            .filter(|(session, n)| !of_broker::is_unfinished(core, *session, *n));
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
        let Some(connection) = self.network.connections.get_mut(&no) else { return };
        let (Some(core), true) = (&mut self.broker.core, connection.life == self.broker.life)
        else {
            return;
        };
        if connection.from(Side::Peer).is_dead() {
            return;
        }
        let revoked = self.broker.revoked.refusal(peer.claims.token_id).is_some();
        let greeting = if revoked {
            Err(RefusalKind::Unauthorized)
        } else {
            core.handle_connected(ConnectionId(no), peer).map_err(|refusal| refusal.kind)
        };
        connection.at_broker = greeting.is_ok();
        let at = connection.from(Side::Broker).arrival(self.now);
        self.at(at, Event::Greeted(no, Box::new(greeting)));
        self.broker_flush();
    }

    pub fn broker_hears_client(&mut self, no: ConnectionNo, messages: Messages<FromClient>) {
        self.broker_hears(no, |core, now| {
            messages.into_iter().try_for_each(|(message, chunk)| {
                let mut handled = core.handle_from_client(now, ConnectionId(no), message, chunk);
                while handled.is_ok() && core.has_rest(ConnectionId(no)) {
                    handled = core.handle_rest(now, ConnectionId(no));
                }
                handled.map_err(|error| error.to_string())
            })
        });
    }

    pub fn broker_hears_engine(&mut self, no: ConnectionNo, messages: Messages<FromEngine>) {
        self.broker_hears(no, |core, now| {
            messages.into_iter().try_for_each(|(message, chunk)| {
                core.handle_from_engine(now, ConnectionId(no), message, chunk)
                    .map_err(|error| error.to_string())
            })
        });
    }

    /// Gives the core what has come, and lets it decide.
    fn broker_hears(
        &mut self,
        no: ConnectionNo,
        hear: impl FnOnce(&mut Core, Time) -> Result<(), String>,
    ) {
        let now = self.broker.time(self.now);
        let Some(connection) =
            self.network.connections.get(&no).filter(|it| it.at_broker && !it.is_closing)
        else {
            return;
        };
        let peer = connection.peer;
        let Some(core) = &mut self.broker.core else { return };
        let heard = hear(core, now);
        // After a goodbye, or when the peer has a newer connection, nothing is heard any longer.
        let is_served = core.is_served(ConnectionId(no));
        core.dispatch(now);
        if let Err(error) = heard
            && is_served
        {
            self.violated(
                Invariant::HonestPeersAreServed,
                None,
                format!("the broker closes {peer:?}: {error}"),
            );
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
        if let Some(core) = &mut self.broker.core {
            core.handle_tick();
            self.after(1_000_000, Event::BrokerTick(life));
            self.broker_flush();
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
            self.depart(no, Side::Broker, false);
        }
    }

    fn broker_does(&mut self, output: Output, dirty: &mut Vec<ConnectionNo>) {
        match output {
            Output::ToClient(ConnectionId(no), message) => {
                if let Some(Ways::Client(_, down)) =
                    self.network.connections.get_mut(&no).map(|it| &mut it.ways)
                {
                    down.queue.push(message);
                    dirty.push(no);
                }
            }
            Output::ToEngine(ConnectionId(no), message) => {
                if let Some(Ways::Engine(_, down)) =
                    self.network.connections.get_mut(&no).map(|it| &mut it.ways)
                {
                    match message {
                        ToEngine::Cancel(_) | ToEngine::Signal(_) | ToEngine::Recall(_) => {
                            down.queue.push_control(message);
                        }
                        _ => down.queue.push(message),
                    }
                    dirty.push(no);
                }
            }
            Output::Transfer(ConnectionId(no), number, chunks) => {
                let chunks = Chunks::Stored(chunks);
                match self.network.connections.get_mut(&no).map(|it| &mut it.ways) {
                    Some(Ways::Client(_, down)) => down.queue.push_transfer(number, chunks),
                    Some(Ways::Engine(_, down)) => down.queue.push_transfer(number, chunks),
                    None => {}
                }
                dirty.push(no);
            }
            Output::Close(ConnectionId(no), reason) => self.broker_closes(no, reason),
            Output::SaveRoster(changes) => {
                changes.into_iter().for_each(|it| self.broker.roster.apply(it))
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

    /// Writes what still waits, and then closes the connection.
    fn broker_closes(&mut self, no: ConnectionNo, reason: &str) {
        self.note(|_| format!("the broker closes connection {no}: {reason}"));
        self.depart(no, Side::Broker, true);
        let Some(connection) = self.network.connections.get_mut(&no) else { return };
        if std::mem::replace(&mut connection.is_closing, true) {
            return;
        }
        let arrival = connection.from(Side::Broker).arrival(self.now);
        self.after(0, Event::Notices(no, Side::Broker));
        self.at(arrival, Event::Notices(no, Side::Peer));
    }
}

/// Returns true if the broker has ended a task for what happened to it, not for what it is.
fn is_ended_by_broker(core: &Core, (session, n): (SessionId, u64)) -> bool {
    let outcome = of_broker::outcome(core, session, n);
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
