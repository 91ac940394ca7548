//! Engine processes: the core of each, and what its shell does between core, connection and slots.

use std::collections::BTreeSet;
use std::time::Duration;

use furlong_broker::core::{ConnectionId, Peer as Proved, invariants as of_broker};
use furlong_engine::core::{Core, Output};
use furlong_engine::job::SlotEvent;
use furlong_engine::mailbox::Mailbox;
use furlong_link::peer::inbox::Messages;
use furlong_link::peer::outbox::Chunks;
use furlong_link::peer::redial::Redial;
use furlong_tests::history::Invariant;
use furlong_wire::handshake::HelloBody;
use furlong_wire::ids::{Attempt, EngineId, EngineUuid, InstanceId, SessionId, TokenId};
use furlong_wire::message::{
    Adopt, FromEngine, Goodbye, MachineLoad, Measured, RefusalKind, Register, Runtime,
    Slot as SlotOf, SlotLoad, ToEngine, Welcome,
};
use furlong_wire::token::Role;

use crate::calls::claims;
use crate::dice::Dice;
use crate::network::{ConnectionNo, Peer, Side, TURN};
use crate::slots::Slot;
use crate::world::{Event, World};

/// One process, from its start to its end. Another one comes in its place.
#[derive(Debug)]
pub struct Process {
    pub spec: usize,
    pub core: Core,
    pub published: Mailbox,
    pub is_alive: bool,
    instance: InstanceId,
    session: SessionId,
    uuids: Vec<EngineUuid>,
    pub token: TokenId,
    pub link: Link,
    /// Counts its tries to connect: an older turn has passed.
    turn: u64,
    redial: Redial,
    incarnation: u64,
    pub engines: Vec<EngineId>,
    /// The engines that it was, for one after the other: one that was stopped and comes back is
    /// another.
    pub had: Vec<Vec<EngineId>>,
    /// The registered ones, and then those that stand in.
    pub slots: Vec<Slot>,
    /// For which slot each of those stands in.
    pub hosts: Vec<usize>,
    /// The work that it cannot begin for a while.
    pub lacks: Vec<Lack>,
    /// The attempts that it was told to stop, and those of them that it had then.
    told: BTreeSet<Attempt>,
    pub stopped: BTreeSet<Attempt>,
}

/// Work that a process cannot begin: all of a runtime, or one kind of task.
#[derive(Clone, Copy, Debug)]
pub struct Lack {
    pub runtime: Runtime,
    pub class: Option<u32>,
    pub until: u64,
}

/// The state of a peer's connection to the broker.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Link {
    /// It waits for its turn, or for the broker's greeting on that connection.
    Dialling(Option<ConnectionNo>),
    Up(ConnectionNo),
}

impl Process {
    /// The registered slot that a place is, or stands in for.
    pub fn host(&self, place: usize) -> usize {
        place.checked_sub(self.uuids.len()).map_or(place, |at| self.hosts[at])
    }
}

impl Link {
    pub fn connection(self) -> Option<ConnectionNo> {
        match self {
            Self::Dialling(no) => no,
            Self::Up(no) => Some(no),
        }
    }
}

impl World {
    pub fn process_comes(&mut self, spec: usize) {
        let place = self.processes.len();
        let mut dice = Dice::of(self.seed, &[5, place as u64]);
        let slots = self.setup.processes[spec].slots;
        let instance = InstanceId(dice.bytes());
        self.note(|world| {
            format!("process {place} starts with {slots} slots: {:?}", world.setup.processes[spec])
        });
        self.processes.push(Process {
            spec,
            core: Core::new(instance, slots),
            published: Mailbox::default(),
            is_alive: true,
            instance,
            session: SessionId(dice.bytes()),
            uuids: (0..slots).map(|_| EngineUuid(dice.bytes())).collect(),
            token: TokenId(dice.bytes()),
            link: Link::Dialling(None),
            turn: 0,
            redial: Redial::new(),
            incarnation: 1,
            engines: Vec::new(),
            had: Vec::new(),
            slots: (0..slots).map(|_| Slot::default()).collect(),
            hosts: Vec::new(),
            lacks: Vec::new(),
            told: BTreeSet::new(),
            stopped: BTreeSet::new(),
        });
        self.after(0, Event::Dials(Peer::Process(place), 0));
        self.after(TURN.as_micros() as u64, Event::ProcessTick(place));
    }

    /// Returns the process's proof of identity, if it is still its turn.
    pub fn process_dials(&mut self, place: usize, turn: u64) -> Option<Proved> {
        let process = &self.processes[place];
        if !process.is_alive || process.turn != turn || process.link != Link::Dialling(None) {
            return None;
        }
        let claims = claims(Role::Engine, process.token, 0);
        let hello = HelloBody {
            token: Vec::new(),
            session: process.session,
            incarnation: process.incarnation,
            role: Role::Engine,
            software: String::new(),
            abilities: 0,
        };
        Some(Proved { claims, hello, address: String::new(), pass: None })
    }

    /// The process has no connection, and tries again after a while.
    pub fn process_redials(&mut self, place: usize) {
        let process = &mut self.processes[place];
        process.turn += 1;
        process.link = Link::Dialling(None);
        let next = process.redial.next_try(self.dice.roll());
        process.incarnation = next.incarnation;
        let turn = process.turn;
        self.after(next.wait.as_micros() as u64, Event::Dials(Peer::Process(place), turn));
    }

    pub fn process_is_greeted(
        &mut self,
        place: usize,
        no: ConnectionNo,
        greeting: Result<Welcome, RefusalKind>,
    ) {
        if !self.processes[place].is_alive || self.processes[place].link != Link::Dialling(Some(no))
        {
            return;
        }
        let welcome = match greeting {
            Ok(welcome) => welcome,
            Err(RefusalKind::Busy) => return self.process_redials(place),
            Err(kind) => {
                if self.broker.revoked.get(self.processes[place].token).is_none() {
                    self.violated(
                        Invariant::HonestPeersAreServed,
                        None,
                        format!("process {place}: {kind:?}"),
                    );
                }
                return self.process_ends(place, "it is refused");
            }
        };
        let process = &mut self.processes[place];
        let spec = &self.setup.processes[process.spec];
        let held = process.core.held();
        let known = process.engines.iter().copied().map(Some).chain(std::iter::repeat(None));
        let slots = process
            .uuids
            .iter()
            .zip(known)
            .map(|(uuid, wanted)| SlotOf { uuid: *uuid, wanted })
            .collect();
        let register = Register {
            instance: process.instance,
            host: "host".into(),
            pid: place as u32,
            cwd: String::new(),
            slots,
            runtimes: spec.runtimes.clone(),
            python: None,
            environment: Vec::new(),
            labels: spec.labels.iter().map(|label| (*label).to_owned()).collect(),
            held: held.work,
            received: held.received,
            dropped: held.dropped,
            job: None,
            ends_in_ms: None,
        };
        process.link = Link::Up(no);
        process.redial.handle_connected(Duration::from_micros(self.now));
        let (start, credit) = (welcome.start, welcome.payload_credit_bytes);
        self.note(|_| {
            format!("process {place} is connected ({no}), and holds {:?}", register.held)
        });
        self.engine_sends(place, &FromEngine::Register(Box::new(register)));
        self.processes[place].core.handle_connected(start, credit);
        self.engine_flush(place);
    }

    pub fn engine_hears(&mut self, place: usize, no: ConnectionNo, messages: Messages<ToEngine>) {
        let process = &mut self.processes[place];
        if !process.is_alive || process.link != Link::Up(no) {
            return;
        }
        let now = self.now;
        self.processes[place].core.handle_time(now);
        for message in messages {
            let (message, chunk) = match message {
                Ok(message) => message,
                Err(error) => return self.finds_unsound(&error),
            };
            match &message {
                ToEngine::Cancel(cancel) => self.is_to_stop(place, &cancel.attempts),
                ToEngine::Adopt(adopt) => self.is_matched(place, adopt),
                ToEngine::Release(release) => self.lets_go(place, release),
                _ => {}
            }
            let core = &mut self.processes[place].core;
            let handled = match &message {
                ToEngine::Passed(passed) => {
                    let Some(connection) = self.network.connections.get_mut(&no) else { return };
                    let content = connection.files_down.take(passed);
                    core.handle_file(passed.transfer, Ok(content), None)
                }
                _ => core.handle_message(message, chunk.as_deref()),
            };
            if let Err(error) = handled {
                let text = format!("process {place} closes its connection: {error}");
                return self.violated(Invariant::HonestPeersAreServed, None, text);
            }
        }
        self.engine_flush(place);
    }

    /// Stops those of the attempts that are here; one that is not here yet is not told to stop.
    fn is_to_stop(&mut self, place: usize, attempts: &[Attempt]) {
        let process = &mut self.processes[place];
        let here: BTreeSet<Attempt> =
            process.core.held().work.iter().map(|work| work.attempt).collect();
        process.stopped.extend(attempts.iter().filter(|attempt| here.contains(attempt)));
        process.told.extend(attempts);
    }

    /// The word to stop may have come before the new name of what it is about.
    fn is_matched(&mut self, place: usize, adopt: &Adopt) {
        let process = &mut self.processes[place];
        let names = adopt.attempts.iter().map(|(_, adopted)| *adopted);
        process.stopped.extend(names.filter(|adopted| process.told.contains(adopted)));
    }

    pub fn process_notices(&mut self, place: usize, no: ConnectionNo) {
        let process = &mut self.processes[place];
        if !process.is_alive || process.link.connection() != Some(no) {
            return;
        }
        if process.link == Link::Up(no) {
            process.redial.handle_cut(Duration::from_micros(self.now), None);
            process.core.handle_disconnected();
            self.note(|_| format!("process {place} finds its connection {no} gone"));
        }
        self.process_redials(place);
        self.engine_flush(place);
    }

    pub fn reports(&mut self, place: usize) {
        if self.processes[place].is_alive {
            self.processes[place].core.report_started();
            self.engine_flush(place);
        }
    }

    /// A look at the connection, and whether it is time to leave.
    pub fn process_tick(&mut self, place: usize) {
        if !self.processes[place].is_alive {
            return;
        }
        self.after(TURN.as_micros() as u64, Event::ProcessTick(place));
        let now = Duration::from_micros(self.now);
        if let Link::Up(no) = self.processes[place].link
            && let Some(connection) = self.network.connections.get_mut(&no)
            && let Some(dead) = connection.peer_end.peer.handle_tick(now)
        {
            self.note(|_| format!("process {place} gives connection {no} up: {dead:?}"));
            self.notes_cut_off(no);
            return self.peer_notices(no);
        }
        self.processes[place].core.handle_tick(now);
        self.engine_flush(place);
    }

    fn engine_sends(&mut self, place: usize, message: &FromEngine) {
        let Link::Up(no) = self.processes[place].link else { return };
        if let Some(connection) = self.network.connections.get_mut(&no) {
            connection.peer_end.peer.push(message);
        }
    }

    /// Returns true if nothing waits to be written, or there is nobody to whom it could be.
    fn has_sent(&self, place: usize) -> bool {
        let Link::Up(no) = self.processes[place].link else { return true };
        self.network.connections.get(&no).is_none_or(|it| it.peer_end.peer.is_empty())
    }

    /// Does what the core wants done, then writes once, and leaves if it is time.
    pub fn engine_flush(&mut self, place: usize) {
        if !self.processes[place].is_alive {
            return;
        }
        if matches!(self.processes[place].link, Link::Up(_)) && self.has_sent(place) {
            let process = &mut self.processes[place];
            process.published.give_all(&mut process.core);
        }
        self.engine_writes(place);
        if self.processes[place].core.holds_back() && self.has_sent(place) {
            self.processes[place].core.handle_sent();
            self.engine_writes(place);
        }
        if let Some(wait) = self.processes[place].core.poll_report() {
            self.after(wait.as_micros() as u64, Event::Reports(place));
        }
        self.leaves_if_it_is_time(place);
    }

    fn engine_writes(&mut self, place: usize) {
        while let Some(output) = self.processes[place].core.poll_output() {
            self.engine_does(place, output);
        }
        if let Link::Up(no) = self.processes[place].link {
            self.depart(no, Side::Peer, false);
        }
    }

    fn engine_does(&mut self, place: usize, output: Output) {
        match output {
            Output::Send(message) => self.engine_sends(place, &message),
            Output::Transfer(number, sealed) => {
                let Link::Up(no) = self.processes[place].link else { return };
                if let Some(connection) = self.network.connections.get_mut(&no) {
                    let files = &mut connection.files_up;
                    let pass = |chunks: &Chunks| files.pass(number, chunks);
                    connection.peer_end.peer.push_transfer::<FromEngine>(number, sealed, pass);
                }
            }
            Output::Start(slot, runtime, job) => {
                self.slot_starts(place, slot as usize, runtime, job);
            }
            Output::Cancel(slot, runtime, job, force) => {
                self.slot_cancels(place, slot as usize, runtime, job, force);
            }
            Output::Recall(slot, runtime, job) => {
                if self.slot_recalls(place, slot as usize, runtime, job) {
                    self.processes[place].core.handle_recalled(job);
                }
            }
            Output::Registered(engines) => {
                self.note(|_| format!("process {place} has engines {engines:?}"));
                if self.processes[place].engines != engines {
                    self.processes[place].had.push(engines.clone());
                }
                self.processes[place].engines = engines;
            }
            Output::Signal(slot, runtime, job, signal) => {
                self.slot_is_signalled(place, slot as usize, runtime, job, signal);
            }
            Output::Restart(slot) => {
                let engine = self.processes[place].engines.get(slot as usize).copied();
                engine.into_iter().for_each(|engine| {
                    self.engine_is_hurt(engine);
                    self.history.interpreter_gone(engine.0);
                });
                if !self.slot_restarts(place, slot as usize) {
                    let down = SlotEvent::Down { cause: "restarted".into() };
                    self.processes[place].core.handle_slot_event(slot, down);
                }
            }
            Output::Look(slot, look) => {
                let answer = SlotEvent::not_looked(look);
                self.processes[place].core.handle_slot_event(slot, answer);
            }
            Output::Measure(number) => {
                let slots = vec![SlotLoad::default(); self.processes[place].engines.len()];
                let measured = Measured { number, machine: MachineLoad::default(), slots };
                self.processes[place].core.handle_measured(measured);
            }
            Output::StandIn(at, host) => {
                self.note(|_| format!("process {place} has a stand-in for slot {host}"));
                let process = &mut self.processes[place];
                process.slots.push(Slot::default());
                process.hosts.push(host as usize);
                assert_eq!(process.slots.len(), at as usize + 1, "stand-ins come in their order");
            }
            Output::Draining(_) => self.process_is_told_to_stop(place),
            Output::Goodbye(_)
            | Output::Log(_)
            | Output::Lost(..)
            | Output::ForgetInput(..)
            | Output::Pass(..) => {}
        }
    }

    /// It gets a SIGTERM, or all of its job does: its interpreters die of that, before or after it
    /// hears of it.
    pub fn process_drains(&mut self, place: usize) {
        let (of_job, is_first) = (self.dice.pick(&[false, true]), self.dice.pick(&[false, true]));
        if of_job && is_first {
            self.interpreters_die(place);
        }
        self.processes[place].core.handle_stop("simulated");
        self.process_is_told_to_stop(place);
        if of_job && !is_first {
            self.interpreters_die(place);
        }
    }

    fn interpreters_die(&mut self, place: usize) {
        for slot in 0..self.processes[place].slots.len() {
            self.slot_dies(place, slot, false);
        }
    }

    fn process_is_told_to_stop(&mut self, place: usize) {
        self.note(|_| format!("process {place} is told to stop"));
        self.some_have_stopped = true;
        self.process_is_hurt(place);
    }

    /// It gets a SIGINT.
    pub fn process_is_to_leave(&mut self, place: usize) {
        self.processes[place].core.leave("simulated");
        self.some_have_stopped = true;
        self.engine_flush(place);
    }

    fn leaves_if_it_is_time(&mut self, place: usize) {
        let (now, has_sent) = (Duration::from_micros(self.now), self.has_sent(place));
        if let Some(reason) = self.processes[place].core.poll_leave(now, has_sent) {
            // What it ran is given back.
            self.engine_writes(place);
            self.process_leaves(place, &reason);
        }
    }

    /// It says goodbye, and ends when the last bytes have left.
    fn process_leaves(&mut self, place: usize, reason: &str) {
        self.engine_sends(place, &FromEngine::Goodbye(Goodbye { reason: reason.to_owned() }));
        if let Link::Up(no) = self.processes[place].link {
            self.depart(no, Side::Peer, true);
        }
        self.process_ends(place, &format!("it leaves: {reason}"));
    }

    /// The process is gone, and its connection closes when what it has sent has arrived.
    pub fn process_ends(&mut self, place: usize, why: &str) {
        self.note(|_| format!("process {place} ends: {why}"));
        self.process_is_hurt(place);
        let process = &mut self.processes[place];
        process.is_alive = false;
        let spec = process.spec;
        if let Some(no) = process.link.connection() {
            self.peer_is_gone(no);
        }
        if !self.rests {
            let wait = self.dice.pick(&[1_000, 200_000, 3_000_000]);
            self.after(wait, Event::ProcessComes(spec));
        }
    }

    /// The engines of a process may lose what they have, whatever comes.
    pub fn process_is_hurt(&mut self, place: usize) {
        self.last_hurt = Some(self.now);
        let process = &self.processes[place];
        // The broker may have given them work before the process has heard which ones they are.
        let connection = process.link.connection().zip(self.broker.core.as_ref());
        let registered =
            connection.map_or(&[][..], |(no, core)| of_broker::registered(core, ConnectionId(no)));
        self.hurt
            .extend(process.engines.iter().chain(registered).map(|engine| (engine.0, self.now)));
    }

    /// The same of one engine.
    pub fn engine_is_hurt(&mut self, engine: EngineId) {
        self.last_hurt = Some(self.now);
        self.hurt.insert(engine.0, self.now);
    }

    pub fn everybody_is_hurt(&mut self) {
        (0..self.processes.len())
            .filter(|place| self.processes[*place].is_alive)
            .collect::<Vec<_>>()
            .into_iter()
            .for_each(|place| self.process_is_hurt(place));
    }
}
