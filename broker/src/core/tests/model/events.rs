//! The possible events and their frequencies.

use std::time::Duration;

use furlong_wire::message::Runtime;
use proptest::prelude::*;

use crate::core::tests::model::{CLIENTS, PROCESSES};

/// One event. Numbers choose among what is there, modulo how much of it there is.
#[derive(Clone, Debug)]
pub enum Event {
    ClientConnects(usize),
    ClientDisconnects(usize),
    ClientLeaves(usize),
    ClientIsRevoked(usize),
    EngineConnects(usize),
    EngineDisconnects(usize, Lost),
    EngineLeaves(usize),
    EngineDrains(usize),
    EngineIsRevoked(usize),
    Submits(usize, Task),
    SendsChunk(usize),
    Cancels(usize, Choice, Cancel),
    Acknowledges(usize, u64),
    Fetches(usize, Choice, bool),
    Purges(usize, Choice),
    Restarts(usize, usize),
    Starts(usize, usize),
    Writes(usize),
    Finishes(usize, usize, End),
    SendsResultChunk(usize),
    GivesBack(usize),
    InterpreterDies(usize, usize),
    TimePasses(Duration),
}

/// A number that names an engine which nobody knows.
pub const UNKNOWN: usize = 30;

/// A few tasks of a client's session, counted back from the next one that it will submit.
#[derive(Clone, Copy, Debug)]
pub struct Choice {
    pub of: usize,
    pub back: u64,
    pub more: u64,
}

/// The way in which tasks are cancelled.
#[derive(Clone, Copy, Debug)]
pub struct Cancel {
    pub force: bool,
    pub twice: bool,
}

/// The messages in flight when a connection breaks, which never arrive.
#[derive(Clone, Copy, Debug)]
pub struct Lost {
    /// The newest assignments.
    pub assignments: usize,
    /// The end of what runs.
    pub end: bool,
}

/// The content of a submit.
#[derive(Clone, Debug)]
pub struct Task {
    /// Engines whose own queue it is for; none for the shared one.
    pub targets: Vec<usize>,
    pub runtime: Runtime,
    pub class: u32,
    pub define: Option<u32>,
    pub payload_bytes: u64,
    pub priority: i32,
    pub require: Vec<&'static str>,
    pub flags: Flags,
    pub retries: Retries,
    pub limits: Limits,
    pub after: Group,
    pub follow: Group,
}

#[derive(Clone, Copy, Debug)]
pub struct Flags {
    pub at_most_once: bool,
    pub abort_on_error: bool,
    pub keep: bool,
    pub restart_safe: bool,
}

#[derive(Clone, Copy, Debug)]
pub struct Retries {
    pub losses: Option<u32>,
    pub errors: u32,
    pub backoff_ms: u64,
}

#[derive(Clone, Copy, Debug)]
pub struct Limits {
    pub queue_ms: Option<u64>,
    pub run_ms: Option<u64>,
}

/// A group of dependencies.
#[derive(Clone, Debug)]
pub struct Group {
    pub any: bool,
    pub demands: Vec<Demand>,
}

#[derive(Clone, Copy, Debug)]
pub struct Demand {
    /// The owner of the task: none for the submitter's own.
    pub of: Option<usize>,
    /// Counted back from beyond the last task: 0 and 1 were not submitted yet.
    pub back: u64,
    pub success: bool,
    pub failure: bool,
}

/// The way an engine ends an attempt.
#[derive(Clone, Debug)]
pub struct End {
    pub fails: bool,
    pub run_us: u64,
    pub payload_bytes: u64,
}

fn payload_bytes() -> impl Strategy<Value = u64> {
    prop_oneof![6 => Just(0), 2 => Just(2_000), 1 => Just(300_000)]
}

prop_compose! {
    fn demand()(
        of in prop_oneof![3 => Just(None), 1 => (0..CLIENTS).prop_map(Some)],
        back in prop_oneof![1 => 0u64..2, 25 => 2u64..6],
        (success, failure) in prop_oneof![
            6 => Just((true, false)),
            2 => Just((false, true)),
            4 => Just((true, true)),
            1 => Just((false, false)),
        ],
    ) -> Demand {
        Demand { of, back, success, failure }
    }
}

prop_compose! {
    fn group()(
        any in any::<bool>(),
        demands in prop_oneof![6 => Just(Vec::new()), 2 => prop::collection::vec(demand(), 1..4)],
    ) -> Group {
        Group { any, demands }
    }
}

prop_compose! {
    fn flags()(
        at_most_once in prop::bool::weighted(0.15),
        abort_on_error in prop::bool::weighted(0.2),
        keep in prop::bool::weighted(0.15),
        restart_safe in prop::bool::weighted(0.3),
    ) -> Flags {
        Flags { at_most_once, abort_on_error, keep, restart_safe }
    }
}

prop_compose! {
    fn retries()(
        losses in prop_oneof![4 => Just(None), 1 => (0u32..3).prop_map(Some)],
        errors in prop_oneof![4 => Just(0u32), 2 => 1u32..4],
        backoff_ms in prop_oneof![Just(0u64), Just(2), Just(40_000)],
    ) -> Retries {
        Retries { losses, errors, backoff_ms }
    }
}

fn limit_ms() -> impl Strategy<Value = Option<u64>> {
    prop_oneof![6 => Just(None), 1 => Just(Some(2u64)), 1 => Just(Some(10_000))]
}

prop_compose! {
    fn task()(
        targets in prop_oneof![
            3 => Just(Vec::new()),
            2 => prop::collection::vec(0usize..=UNKNOWN, 1..4),
        ],
        runtime in prop_oneof![
            6 => Just(Runtime::Native),
            4 => Just(Runtime::Python),
            1 => Just(Runtime::Command),
        ],
        class in 0u32..3,
        define in prop_oneof![20 => Just(None), 6 => (1u32..3).prop_map(Some), 1 => Just(Some(3))],
        payload_bytes in payload_bytes(),
        priority in prop_oneof![4 => Just(0), 1 => -1..2],
        require in prop_oneof![
            8 => Just(vec![]),
            1 => Just(vec!["gpu"]),
            1 => Just(vec!["big", "gpu"]),
        ],
        flags in flags(),
        retries in retries(),
        limits in (limit_ms(), limit_ms())
            .prop_map(|(queue_ms, run_ms)| Limits { queue_ms, run_ms }),
        (after, follow) in (group(), group()),
    ) -> Task {
        // What a broker refuses anyhow is not worth many of the histories.
        let contradicts = !targets.is_empty() || flags.at_most_once;
        let errors = if contradicts && priority == 0 { 0 } else { retries.errors };
        let retries = Retries { errors, ..retries };
        Task {
            targets,
            runtime,
            class,
            define,
            payload_bytes,
            priority,
            require,
            flags,
            retries,
            limits,
            after,
            follow,
        }
    }
}

prop_compose! {
    fn end()(
        fails in prop::bool::weighted(0.25),
        run_us in prop_oneof![Just(1), Just(300), Just(50_000)],
        payload_bytes in payload_bytes(),
    ) -> End {
        End { fails, run_us, payload_bytes }
    }
}

prop_compose! {
    fn choice()(of in 0..CLIENTS, back in 0u64..12, more in 0u64..3) -> Choice {
        Choice { of, back, more }
    }
}

prop_compose! {
    fn lost()(assignments in 0usize..3, end in prop::bool::weighted(0.3)) -> Lost {
        Lost { assignments, end }
    }
}

fn of_peers() -> impl Strategy<Value = Event> {
    let (client, process) = (|| 0..CLIENTS, || 0..PROCESSES);
    prop_oneof![
        6 => client().prop_map(Event::ClientConnects),
        2 => client().prop_map(Event::ClientDisconnects),
        1 => client().prop_map(Event::ClientLeaves),
        1 => client().prop_map(Event::ClientIsRevoked),
        10 => process().prop_map(Event::EngineConnects),
        5 => (process(), lost())
            .prop_map(|(process, lost)| Event::EngineDisconnects(process, lost)),
        1 => process().prop_map(Event::EngineLeaves),
        2 => process().prop_map(Event::EngineDrains),
        1 => process().prop_map(Event::EngineIsRevoked),
    ]
}

fn of_clients() -> impl Strategy<Value = Event> {
    let client = || prop_oneof![4 => Just(0), 2 => Just(1), 1 => 2..CLIENTS];
    let cancel = || any::<(bool, bool)>().prop_map(|(force, twice)| Cancel { force, twice });
    prop_oneof![
        24 => (client(), task()).prop_map(|(client, task)| Event::Submits(client, task)),
        8 => client().prop_map(Event::SendsChunk),
        4 => (client(), choice(), cancel())
            .prop_map(|(client, tasks, how)| Event::Cancels(client, tasks, how)),
        5 => (client(), 0u64..12).prop_map(|(client, back)| Event::Acknowledges(client, back)),
        3 => (client(), choice(), any::<bool>())
            .prop_map(|(client, task, wait)| Event::Fetches(client, task, wait)),
        1 => (client(), choice()).prop_map(|(client, tasks)| Event::Purges(client, tasks)),
        1 => (client(), 0usize..8).prop_map(|(client, engine)| Event::Restarts(client, engine)),
    ]
}

fn of_engines() -> impl Strategy<Value = Event> {
    let (process, slot) = (|| 0..PROCESSES, || 0usize..2);
    prop_oneof![
        8 => (process(), slot()).prop_map(|(process, slot)| Event::Starts(process, slot)),
        2 => process().prop_map(Event::Writes),
        16 => (process(), slot(), end())
            .prop_map(|(process, slot, end)| Event::Finishes(process, slot, end)),
        6 => process().prop_map(Event::SendsResultChunk),
        5 => process().prop_map(Event::GivesBack),
        2 => (process(), slot()).prop_map(|(process, slot)| Event::InterpreterDies(process, slot)),
    ]
}

pub fn event() -> impl Strategy<Value = Event> {
    let ms = prop_oneof![4 => Just(3u64), 2 => Just(5_000), 2 => Just(16_000), 1 => Just(700_000)];
    prop_oneof![
        2 => of_peers(),
        9 => of_clients(),
        11 => of_engines(),
        1 => ms.prop_map(|ms| Event::TimePasses(Duration::from_millis(ms))),
    ]
}
