//! Any sequence of events: the invariants hold after each, every task ends exactly once, nothing is
//! left at the end.
//!
//! The model knows what every task was submitted with. After each event it looks at what the core
//! has told the peers, and checks it against that: [`checks`]. At the end everybody comes back, and
//! everything must come to its end: [`rest`].

mod checks;
mod clients;
mod engines;
mod events;
mod fairness;
mod rest;

use std::collections::{BTreeMap, BTreeSet};

use furlong_wire::capability::{Revocation, RevokedTokens};
use furlong_wire::ids::{EngineId, OwnerId, SessionId, TokenId};
use furlong_wire::message::{Runtime, TaskOptions};
use furlong_wire::token::{Role, TokenLimits};
use proptest::prelude::*;

use crate::core::tasks::end::DependencyEnd;
use crate::core::tests::farm::peers::{Farm, direct, shared, with};
use crate::core::{Time, invariants};
use events::Event;

const CLIENTS: usize = 4;
/// The clients with a limited token, with scopes and an end at its disconnection, and of another
/// owner.
const LIMITED: usize = 1;
const GUEST: usize = 2;
const OUTSIDER: usize = 3;
const PROCESSES: usize = 3;
/// Nobody's.
const NO_ENGINE: EngineId = EngineId(900);

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 600,
        max_shrink_iters: 20_000,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn every_task_ends_exactly_once_and_nothing_is_left(
        events in prop::collection::vec(events::event(), 1..120),
    ) {
        let mut model = Model::new();
        for event in &events {
            let before = model.farm.core.turns.dispatches;
            model.happens(event);
            // An engine may have answered at once, or a disk: what goes first may be another task
            // by then.
            model.check(model.farm.core.turns.dispatches == before + 1);
        }
        model.comes_to_rest();
    }
}

/// Names a task: a client that leaves comes back with another session.
type Name = (SessionId, u64);

/// A farm, and what is expected of it.
struct Model {
    farm: Farm,
    tasks: BTreeMap<Name, Submitted>,
    /// The ends of tasks.
    ends: BTreeMap<Name, DependencyEnd>,
    /// Those that were turned away at their submit.
    refused: BTreeSet<Name>,
    acknowledged: BTreeMap<Name, Time>,
    purged: BTreeSet<Name>,
    /// Those that somebody wanted to end.
    cancelled: BTreeSet<Name>,
    /// Those of which a client was told that nothing of them runs.
    stopped: BTreeSet<Name>,
    /// The number of times each task was given to an engine and has not been given back.
    given: BTreeMap<Name, u32>,
    /// The number of times each task was reported as started.
    runs: BTreeMap<Name, u32>,
    /// The last task of each session that was given to each engine from its own queue.
    order: BTreeMap<(EngineId, SessionId), u64>,
    /// Engines that were given up, or have left.
    gone: BTreeSet<EngineId>,
    clients: [Heard; CLIENTS],
    processes: [Told; PROCESSES],
}

/// The data with which a task was submitted.
struct Submitted {
    owner: OwnerId,
    scopes: Vec<String>,
    runtime: Runtime,
    target: Option<EngineId>,
    options: TaskOptions,
    at: Time,
    /// True if it depends on a task that its owner cannot name.
    is_stray: bool,
}

/// The messages that a client has received.
#[derive(Default)]
struct Heard {
    /// The number of messages examined.
    messages: usize,
    /// The ends that were delivered on this connection.
    delivered: BTreeSet<u64>,
    /// Its unanswered requests.
    asked: BTreeMap<u64, Asked>,
}

/// The event that a request waits for.
#[derive(Debug)]
enum Asked {
    /// Nothing: it is answered at once.
    Nothing,
    Task(Name),
    Restart(EngineId),
}

/// The messages that an engine process was sent on its connection.
#[derive(Default)]
struct Told {
    /// The number of messages examined.
    messages: usize,
    sessions: BTreeSet<SessionId>,
    definitions: BTreeSet<(SessionId, u32)>,
    shares: BTreeSet<u64>,
    /// Slots that shall have a new interpreter.
    restarts: BTreeSet<u32>,
    /// True if it has said that it takes nothing new.
    drains: bool,
}

impl Model {
    fn new() -> Self {
        let mut farm = Farm::with_limits(2 << 20, 50);
        (0..CLIENTS).for_each(|_| _ = farm.absent_client(Role::Client));
        farm.clients[LIMITED].limits =
            TokenLimits { unfinished_tasks_max: 12, payload_bytes_max: 400_000, no_nested: false };
        farm.clients[GUEST].scopes = vec!["gpu".into(), "attic".into()];
        farm.clients[GUEST].cancel_on_disconnect = true;
        farm.clients[OUTSIDER].owner = 8;
        let processes: [(usize, &[Runtime], &[&str]); PROCESSES] = [
            (2, Runtime::ALL, &["gpu", "big"]),
            (2, &[Runtime::Native], &[]),
            (1, &[Runtime::Python], &["gpu"]),
        ];
        for (slots, runtimes, labels) in processes {
            let process = farm.engine_labelled(slots, runtimes, labels);
            farm.disconnect_engine(process);
        }
        let mut model = Self {
            farm,
            tasks: BTreeMap::new(),
            ends: BTreeMap::new(),
            refused: BTreeSet::new(),
            acknowledged: BTreeMap::new(),
            purged: BTreeSet::new(),
            cancelled: BTreeSet::new(),
            stopped: BTreeSet::new(),
            given: BTreeMap::new(),
            runs: BTreeMap::new(),
            order: BTreeMap::new(),
            gone: BTreeSet::from([NO_ENGINE]),
            clients: Default::default(),
            processes: Default::default(),
        };
        (0..CLIENTS).for_each(|client| model.client_connects(client));
        (0..PROCESSES).for_each(|process| model.engine_connects(process));
        model
    }

    fn happens(&mut self, event: &Event) {
        match *event {
            Event::ClientConnects(client) => self.client_connects(client),
            Event::EngineConnects(process) => self.engine_connects(process),
            Event::TimePasses(time) => self.farm.wait(time),
            Event::ClientDisconnects(client)
            | Event::ClientLeaves(client)
            | Event::ClientIsRevoked(client)
            | Event::Submits(client, _)
            | Event::SendsChunk(client)
            | Event::Cancels(client, ..)
            | Event::Acknowledges(client, _)
            | Event::Fetches(client, ..)
            | Event::Purges(client, _)
            | Event::Restarts(client, _) => {
                if self.client_is_here(client) {
                    self.client_acts(client, event);
                }
            }
            Event::EngineDisconnects(process, _)
            | Event::EngineLeaves(process)
            | Event::EngineDrains(process)
            | Event::EngineIsRevoked(process)
            | Event::Starts(process, _)
            | Event::Writes(process)
            | Event::Finishes(process, ..)
            | Event::SendsResultChunk(process)
            | Event::GivesBack(process)
            | Event::InterpreterDies(process, _) => {
                if self.engine_is_here(process) {
                    self.engine_acts(process, event);
                }
            }
        }
    }

    fn client_acts(&mut self, client: usize, event: &Event) {
        match *event {
            Event::ClientDisconnects(_) => self.client_disconnects(client),
            Event::ClientLeaves(_) => self.client_leaves(client),
            Event::ClientIsRevoked(_) => self.client_is_revoked(client),
            Event::Submits(_, ref task) => self.submits(client, task),
            Event::SendsChunk(_) => _ = self.farm.send_chunk(client),
            Event::Cancels(_, tasks, how) => self.cancels(client, tasks, how),
            Event::Acknowledges(_, back) => self.acknowledges(client, back),
            Event::Fetches(_, task, wait) => self.fetches(client, task, wait),
            Event::Purges(_, tasks) => self.purges(client, tasks),
            Event::Restarts(_, engine) => self.restarts(client, engine),
            _ => unreachable!("{event:?} is no client's"),
        }
    }

    fn engine_acts(&mut self, process: usize, event: &Event) {
        match *event {
            Event::EngineDisconnects(_, lost) => self.engine_disconnects(process, lost),
            Event::EngineLeaves(_) => self.engine_leaves(process),
            Event::EngineDrains(_) => self.engine_drains(process),
            Event::EngineIsRevoked(_) => self.engine_is_revoked(process),
            Event::Starts(_, slot) => self.starts(process, slot),
            Event::Writes(_) => self.writes(process),
            Event::Finishes(_, slot, ref end) => self.finishes(process, slot, end),
            Event::SendsResultChunk(_) => _ = self.farm.send_result_chunk(process),
            Event::GivesBack(_) => self.gives_back(process),
            Event::InterpreterDies(_, slot) => self.interpreter_dies(process, slot),
            _ => unreachable!("{event:?} is no engine's"),
        }
    }

    fn client_is_here(&self, client: usize) -> bool {
        self.farm.clients[client].connection.is_some()
    }

    fn engine_is_here(&self, process: usize) -> bool {
        self.farm.processes[process].connection.is_some()
    }

    fn revokes(&mut self, token: u8) {
        let mut revoked = RevokedTokens::default();
        revoked.revoke(TokenId([token; 16]), Revocation { revoked_s: 1, reason: None }).unwrap();
        self.farm.core.handle_revoked(self.farm.now, &revoked);
        self.farm.pump();
    }
}
