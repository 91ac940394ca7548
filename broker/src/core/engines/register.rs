//! Registrations: a process says what it is and what it holds.

use std::collections::BTreeSet;
use std::time::Duration;

use furlong_wire::ids::EngineId;
use furlong_wire::limits::{NAME_BYTES_MAX, SLOTS_PER_PROCESS_MAX};
use furlong_wire::message::{Event, Register, Registered, Runtime, ToEngine};

use crate::core::keys::ProcessKey;
use crate::core::recovery::reconcile::Reconciling;
use crate::core::schedule::placement::Class;
use crate::core::sessions::expiries::Away;
use crate::core::turns::rest::Rest;
use crate::core::{Core, Output, PeerMisbehaved, Time};

impl Core {
    /// A process says what it is and has. If one of its engines is being lost, that is over first.
    pub(in crate::core) fn register(
        &mut self,
        now: Time,
        key: ProcessKey,
        mut register: Register,
    ) -> Result<(), PeerMisbehaved> {
        let process = self.processes.get_mut(&key).ok_or(PeerMisbehaved::Order)?;
        if process.register.is_some() || process.leaving {
            return Err(PeerMisbehaved::Order);
        }
        if !within_limits(&register) {
            return Err(PeerMisbehaved::Limit);
        }
        // All that can refuse it comes before any change: a registration that is refused leaves the
        // engines as they were, also those of an older connection.
        let foreign = |uuid| self.engines.belongs_to_another(uuid, register.instance);
        if register.slots.iter().any(|slot| foreign(slot.uuid)) {
            return Err(PeerMisbehaved::Attempt);
        }
        if !self.engines.has_integers(register.slots.len()) {
            return Err(PeerMisbehaved::UsedUp);
        }
        self.turns.work.add(register.slots.len());
        let connection = process.connection;
        let instance = register.instance;
        // First, so that an engine that was leaving on its old connection is gone before it is
        // admitted as another one.
        for slot in &register.slots {
            if let Some(old) = self.engines.find(slot.uuid).and_then(|engine| engine.process) {
                self.take_over(now, old);
            }
        }
        if let Some(id) = register.slots.iter().find_map(|slot| self.engines.being_lost(slot.uuid))
        {
            self.turns.rests.insert(connection, Rest::Register(id, register.into()));
            return Ok(());
        }
        let ends = register.ends_in_ms.map(|left| now.after(Duration::from_millis(left)));
        let mut ids = Vec::with_capacity(register.slots.len());
        for (slot, uuid, wanted) in
            (0..).zip(&register.slots).map(|(slot, it)| (slot, it.uuid, it.wanted))
        {
            let id = self.engines.admit(uuid, wanted);
            self.engines.update(id, |engine| {
                assert!(
                    engine.process.is_none() && engine.loss.is_none(),
                    "engine {id} is here already, or is being lost"
                );
                // Without a class: it takes nothing until all is compared that its process holds.
                (engine.process, engine.slot) = (Some(key), slot);
                (engine.instance, engine.ends) = (Some(instance), ends);
            });
            self.peers.expiries.cancel(Away::Engine(id));
            ids.push(id);
        }
        let reconciling = Reconciling::take(&mut register, ids.clone(), self.attempts.made());
        let process = self.processes.get_mut(&key).ok_or(PeerMisbehaved::Order)?;
        process.engines.clone_from(&ids);
        (process.register, process.ends) = (Some(register), ends);
        self.to_engine(connection, ToEngine::Registered(Registered { engines: ids }));
        self.reconcile(now, key, Box::new(reconciling));
        Ok(())
    }

    /// All that a process holds is known: from now on its engines are given work.
    pub(in crate::core) fn take_into_service(&mut self, key: ProcessKey, engines: Vec<EngineId>) {
        let process = self.processes.get_mut(&key).expect("a process that registers is here");
        let connection = process.connection;
        // It may have been told to leave meanwhile.
        let register = process.register.as_ref().filter(|_| !process.leaving);
        let class = register.map(|register| Class {
            runtimes: register.runtimes.iter().copied().collect(),
            labels: register.labels.iter().cloned().collect(),
            set_aside: BTreeSet::new(),
        });
        let class = class.map(|class| self.schedule.placements.enter_class(class));
        process.class = class;
        for id in engines {
            // It may have been stopped alone meanwhile.
            if self.is_slot_of(id, key) {
                self.engines.update(id, |engine| engine.class = class);
                self.schedule.direct_ready.insert(id);
                self.tell_subscribers(Event::EngineOnline(id));
            }
        }
        self.wait_until_told(connection);
    }

    /// An engine has come back on a new connection before the old one was found dead.
    fn take_over(&mut self, now: Time, old: ProcessKey) {
        let connection = self.processes.get(&old).expect("an engine's process is here").connection;
        self.outputs.push_back(Output::Close(connection, "the engine has a newer connection"));
        self.handle_disconnected(now, connection);
    }
}

fn within_limits(register: &Register) -> bool {
    let names = register.labels.iter().chain([&register.host]).chain(&register.job);
    let mut uuids: Vec<_> = register.slots.iter().map(|slot| slot.uuid).collect();
    uuids.sort_unstable();
    let distinct = uuids.windows(2).all(|pair| pair[0] != pair[1]);
    distinct
        && !register.slots.is_empty()
        && register.slots.len() <= SLOTS_PER_PROCESS_MAX
        && register.labels.len() <= 64
        && register.runtimes.len() <= Runtime::ALL.len()
        && register.cwd.len() <= 4096
        && register.environment.len() <= 64
        && register
            .environment
            .iter()
            .all(|(name, value)| name.len() <= NAME_BYTES_MAX && value.len() <= 4096)
        && register.python.as_ref().is_none_or(|python| python.len() <= 4096)
        && names.into_iter().all(|name| name.len() <= NAME_BYTES_MAX)
}
