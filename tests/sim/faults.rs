//! The things that break: connections, processes, interpreters, the broker.

use furlong_broker::core::{ConnectionId, invariants as of_broker};

use crate::network::{ConnectionNo, Peer, Side};
use crate::plan::{Act, Cut};
use crate::process::Lack;
use crate::world::{Event, World};

impl World {
    pub fn breaks(&mut self, act: &Act) {
        match *act {
            Act::Cut { peer, of_client, how } => {
                let connections = self.connections_of(of_client);
                if !connections.is_empty() {
                    self.cut(connections[(peer % connections.len() as u64) as usize], how);
                }
            }
            Act::CutAll { part, how } => {
                let all: Vec<ConnectionNo> = self
                    .network
                    .connections
                    .iter()
                    .filter(|(_, it)| it.at_peer)
                    .map(|(no, _)| *no)
                    .collect();
                all.into_iter().filter(|no| no % part == 0).for_each(|no| self.cut(no, how));
            }
            Act::ProcessDies { process, loses_sent, silent } => {
                self.on_process(process, |world, place| {
                    world.process_dies(place, loses_sent, silent);
                });
            }
            Act::ProcessDrains { process } => self.on_process(process, |world, place| {
                world.process_drains(place);
                world.engine_flush(place);
            }),
            Act::ProcessLeaves { process } => self.on_process(process, World::process_is_to_leave),
            Act::InterpreterDies { process, slot } => self.on_process(process, |world, place| {
                let slots = world.processes[place].slots.len() as u64;
                world.slot_dies(place, (slot % slots) as usize, false);
                world.engine_flush(place);
            }),
            Act::CannotBegin { process, runtime, class, us } => {
                self.on_process(process, |world, place| {
                    let until = world.now + us;
                    world.processes[place].lacks.push(Lack { runtime, class, until });
                });
            }
            Act::RevokeProcess { process } => self.on_process(process, |world, place| {
                world.process_is_hurt(place);
                world.some_have_stopped = true;
                let token = world.processes[place].token;
                world.revokes(token);
            }),
            Act::BrokerDies { down_us, silent } => self.broker_dies(down_us, silent),
            Act::DiskFails { us } => self.broker.disk.fails_until = self.now + us,
            Act::BrokerPauses { us } => self.broker_pauses(us),
            _ => unreachable!("{act:?} is no fault"),
        }
    }

    fn on_process(&mut self, process: u64, act: impl FnOnce(&mut Self, usize)) {
        let alive: Vec<usize> =
            (0..self.processes.len()).filter(|place| self.processes[*place].is_alive).collect();
        if !alive.is_empty() {
            act(self, alive[(process % alive.len() as u64) as usize]);
        }
    }

    /// The connections that peers of one kind have or seek.
    fn connections_of(&self, clients: bool) -> Vec<ConnectionNo> {
        let is_meant = |peer: Peer| matches!(peer, Peer::Client(_)) == clients;
        let connections =
            self.network.connections.iter().filter(|(_, it)| it.at_peer && is_meant(it.peer));
        connections.map(|(no, _)| *no).collect()
    }

    fn cut(&mut self, no: ConnectionNo, how: Cut) {
        let soon = self.dice.below(2_000);
        let Some(connection) = self.network.connections.get_mut(&no) else { return };
        // An end that is not told finds out by itself that nothing comes.
        let (broker, peer) = match how {
            Cut::Noticed { broker, peer } => (Some(broker), Some(peer)),
            Cut::HalfOpen { broker_notices: true } => (Some(soon), None),
            Cut::HalfOpen { broker_notices: false } => (None, Some(soon)),
            Cut::Silent => (None, None),
            Cut::Stall { us } => {
                let until = self.now + us;
                connection.up.stall(until);
                return connection.down.stall(until);
            }
        };
        connection.up.kill();
        connection.down.kill();
        self.note(|_| {
            format!("connection {no} is cut; broker and peer notice after {broker:?}, {peer:?} us")
        });
        self.notes_cut_off(no);
        if let Some(wait) = broker {
            self.after(wait, Event::Notices(no, Side::Broker));
        }
        if let Some(wait) = peer {
            self.after(wait, Event::Notices(no, Side::Peer));
        }
    }

    /// The engines of a connection are cut off. One that has not registered again is so since its
    /// last cut.
    pub fn notes_cut_off(&mut self, no: ConnectionNo) {
        if let Some(core) = &self.broker.core {
            let engines = of_broker::registered(core, ConnectionId(no)).iter();
            self.cut_off.extend(engines.map(|engine| (engine.0, self.now)));
        }
    }

    /// A process that is dead had these engines, also if it never heard their ids.
    pub fn notes_lost_with(&mut self, peer: Peer, no: ConnectionNo) {
        let Peer::Process(place) = peer else { return };
        if let Some(core) = self.broker.core.as_ref().filter(|_| !self.processes[place].is_alive) {
            let engines = of_broker::registered(core, ConnectionId(no)).iter();
            self.hurt.extend(engines.map(|engine| (engine.0, self.now)));
        }
    }

    /// Lets what a peer has sent be lost with it.
    pub fn loses_sent(&mut self, peer: Peer, loses_sent: bool) {
        let link = match peer {
            Peer::Client(place) => self.clients[place].link,
            Peer::Process(place) => self.processes[place].link,
        };
        if let Some(no) = link.connection().filter(|_| loses_sent)
            && let Some(connection) = self.network.connections.get_mut(&no)
        {
            connection.from(Side::Peer).kill();
            let soon = self.dice.below(2_000);
            self.after(soon, Event::Notices(no, Side::Broker));
        }
    }

    fn process_dies(&mut self, place: usize, loses_sent: bool, silent: bool) {
        if silent {
            // Its machine is gone with it: nobody closes the connection.
            if let Some(no) = self.processes[place].link.connection()
                && let Some(connection) = self.network.connections.get_mut(&no)
            {
                connection.up.kill();
            }
        } else {
            self.loses_sent(Peer::Process(place), loses_sent);
        }
        self.process_ends(place, "it is killed");
    }

    /// A client's process is stopped: what comes for it waits. The broker finds that it takes
    /// nothing, and that nothing comes from there.
    pub fn client_stops(&mut self, place: usize, us: u64) {
        self.clients[place].stops_until = self.now + us;
    }

    fn broker_pauses(&mut self, us: u64) {
        let until = self.now + us;
        self.broker.pauses_until = until;
        for connection in self.network.connections.values_mut() {
            connection.from(Side::Peer).stall(until);
        }
    }
}
