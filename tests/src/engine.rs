//! An engine process of a test's own: it says by hand what the test wants, and runs nothing.

use std::collections::VecDeque;

use furlong_wire::ids::{Attempt, EngineId, EngineUuid, InstanceId};
use furlong_wire::message::{FromEngine, Register, Runtime, Slot, ToEngine};
use furlong_wire::token::Role;

use crate::farm::Farm;
use crate::session::{Credentials, RawSession, shake_hands};

/// The first message of an engine process of native functions with so many slots. A test changes
/// what it is about.
pub fn register(process: u32, slots: usize) -> Register {
    let id = |place: usize| ((u128::from(process) << 32) | place as u128).to_be_bytes();
    Register {
        instance: InstanceId(id(0)),
        host: "host".to_owned(),
        pid: process,
        cwd: "/somewhere".to_owned(),
        slots: (1..=slots).map(|slot| Slot { uuid: EngineUuid(id(slot)), wanted: None }).collect(),
        runtimes: vec![Runtime::Native],
        python: None,
        environment: Vec::new(),
        labels: Vec::new(),
        held: Vec::new(),
        received: None,
        dropped: None,
        job: None,
        ends_in_ms: None,
    }
}

/// An engine process that is registered.
#[derive(Debug)]
pub struct RawEngine {
    /// Its connection.
    pub session: RawSession,
    /// The integers of its slots.
    pub ids: Vec<EngineId>,
    given: VecDeque<Attempt>,
}

impl RawEngine {
    /// Connects with the capability of engines, and says nothing.
    ///
    /// # Panics
    /// If it is not let in.
    pub fn connect(farm: &Farm) -> RawSession {
        shake_hands(farm.port(), &Credentials::of(&farm.capability(Role::Engine))).session()
    }

    /// Registers, and waits for no answer.
    ///
    /// # Panics
    /// If it is not let in.
    pub fn say(farm: &Farm, register: Register) -> RawSession {
        let mut session = Self::connect(farm);
        session.send(&[FromEngine::Register(Box::new(register))]);
        session
    }

    /// Registers.
    ///
    /// # Panics
    /// If the broker does not take it.
    pub fn start(farm: &Farm, register: Register) -> Self {
        let mut session = Self::say(farm, register);
        match session.receive().expect("the engine is registered").into_iter().next() {
            Some(ToEngine::Registered(registered)) => {
                Self { session, ids: registered.engines, given: VecDeque::new() }
            }
            other => panic!("not registered: {other:?}"),
        }
    }

    /// The next attempt that it is given.
    ///
    /// # Panics
    /// If none comes.
    pub fn assigned(&mut self) -> Attempt {
        self.next_assigned().expect("the engine gets its task")
    }

    /// The next attempt that it is given. None if the connection ends before.
    pub fn next_assigned(&mut self) -> Option<Attempt> {
        let start = self.session.welcome.start;
        while self.given.is_empty() {
            for message in self.session.receive::<ToEngine>().ok()? {
                if let ToEngine::Assign(assign) = message {
                    self.given
                        .extend(assign.work.iter().map(|work| Attempt { start, id: work.attempt }));
                }
            }
        }
        self.given.pop_front()
    }
}
