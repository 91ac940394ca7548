//! Each message costs what it names, however many engines, sessions and tasks there are: counted in
//! steps.

use std::collections::BTreeMap;

use bytes::Bytes;
use furlong_wire::ids::{
    Attempt, EngineId, EngineUuid, InstanceId, OwnerId, PassKey, SessionId, TaskId, TaskSeq,
    TokenId,
};
use furlong_wire::limits::GRANTS_PER_ATTEMPT_MAX;
use furlong_wire::message::{
    Ack, AttemptFinished, AttemptOutput, AttemptPublished, Attempts, Cancel, CancelTasks, Chunk,
    Credit, Define, Draining, Fetch, FromClient, FromEngine, Goodbye, Grant, Lent, Look, Open,
    Outcome, Payload, Purge, Query, Register, Reply, ReplyBody, Request, Restart, Revoke, RunTimes,
    Runtime, Shutdown, Signal, Slot, SlotDown, Stream, Submit, Subscribe, TakeBack, Targets,
    TaskOptions, TaskQuery, TaskRange, ToClient, ToEngine, Undefine,
};
use furlong_wire::payload::PayloadSecret;
use furlong_wire::token::Role;

use crate::core::tests::farm::peers::{Farm, after, on_success, peer, shared, with};
use crate::core::turns::work::{TASKS_PER_PART, WORK_PER_CURVE_OPERATION, steps};
use crate::core::{ConnectionId, Core, Output, PeerMisbehaved, Time, WORK_PER_TURN};

/// A broker with so many engines and sessions, and ten times as many tasks of each sort.
pub(in crate::core::tests) struct World {
    pub(in crate::core::tests) core: Core,
    pub(in crate::core::tests) now: Time,
    connections: u64,
    /// Everything that was said since the last look.
    pub(in crate::core::tests) to_clients: Vec<(ConnectionId, ToClient)>,
    pub(in crate::core::tests) to_engines: Vec<(ConnectionId, ToEngine)>,
    pub(in crate::core::tests) submitted: BTreeMap<ConnectionId, u64>,
    pub(in crate::core::tests) sessions: BTreeMap<ConnectionId, SessionId>,
    /// A session with very many tasks.
    big: ConnectionId,
    tasks: u64,
}

const OWNER: OwnerId = OwnerId([7; 16]);

impl World {
    /// Without anybody.
    pub(in crate::core::tests) fn empty() -> Self {
        Self {
            core: Farm::with_limits(1 << 40, 100_000_000).core,
            now: Time(1),
            connections: 0,
            to_clients: Vec::new(),
            to_engines: Vec::new(),
            submitted: BTreeMap::new(),
            sessions: BTreeMap::new(),
            big: ConnectionId(0),
            tasks: 0,
        }
    }

    fn new(scale: u64) -> Self {
        let tasks = 10 * scale;
        let mut world = Self { tasks, ..Self::empty() };
        world.big = world.client(Role::Client);
        let waiting = TaskOptions { require: vec!["nowhere".into()], ..TaskOptions::default() };
        let kept = TaskOptions { keep: true, ..TaskOptions::default() };
        for _ in 0..tasks {
            world.submit(world.big, with(shared(), waiting.clone()));
        }
        // Ended at once: there is no such engine. A third is acknowledged, and kept; a third is
        // held.
        let nobody = Targets::Engines(vec![EngineId(u32::MAX)]);
        let ended = Submit { targets: nobody, ..with(shared(), kept) };
        let first = world.submit(world.big, ended.clone());
        for _ in 1..2 * tasks {
            world.submit(world.big, ended.clone());
        }
        let ranges = vec![(TaskSeq(first), TaskSeq(first + tasks - 1))].into();
        world.say(world.big, FromClient::Ack(Ack { ranges })).unwrap();
        for _ in 0..scale {
            let engine = world.engine();
            let (id, connection) = (world.last_registered(), engine);
            let client = world.client(Role::Client);
            // The first runs, the others wait behind it.
            let direct = Submit {
                targets: Targets::Engines(vec![id]),
                runtime: Runtime::Python,
                ..shared()
            };
            (0..10).for_each(|_| _ = world.submit(client, direct.clone()));
            assert!(world.assigned(connection).is_some());
        }
        world
    }

    pub(in crate::core::tests) fn connect(&mut self, role: Role, id: u128) -> ConnectionId {
        self.connections += 1;
        let connection = ConnectionId(self.connections);
        let mut peer = peer(role, SessionId(id.to_le_bytes()), self.connections, 1);
        (peer.claims.owner, peer.claims.token_id) = (OWNER, TokenId(id.to_le_bytes()));
        self.core.handle_connected(connection, peer).unwrap();
        connection
    }

    pub(in crate::core::tests) fn client(&mut self, role: Role) -> ConnectionId {
        let id = 1_000 + u128::from(self.connections);
        let connection = self.connect(role, id);
        self.sessions.insert(connection, SessionId(id.to_le_bytes()));
        self.say(connection, open(0)).unwrap();
        connection
    }

    pub(in crate::core::tests) fn engine(&mut self) -> ConnectionId {
        let id = u128::from(self.connections + 1);
        self.process(id, 1)
    }

    /// An engine process of that name with so many engines.
    pub(in crate::core::tests) fn process(&mut self, id: u128, slots: u128) -> ConnectionId {
        let connection = self.connect(Role::Engine, 1 << 64);
        self.report(connection, FromEngine::Register(register(id, slots).into())).unwrap();
        connection
    }

    pub(in crate::core::tests) fn last_registered(&self) -> EngineId {
        let engines = self.to_engines.iter().rev().find_map(|(_, message)| match message {
            ToEngine::Registered(registered) => registered.engines.first().copied(),
            _ => None,
        });
        engines.expect("an engine has registered")
    }

    /// The last attempt that an engine was given.
    fn assigned(&self, engine: ConnectionId) -> Option<Attempt> {
        self.to_engines.iter().rev().find_map(|(to, message)| match message {
            ToEngine::Assign(assign) if *to == engine => {
                Some(self.core.attempt(assign.work.first.attempt))
            }
            _ => None,
        })
    }

    pub(in crate::core::tests) fn submit(&mut self, client: ConnectionId, submit: Submit) -> u64 {
        let submitted = self.submitted.entry(client).or_default();
        *submitted += 1;
        let n = *submitted;
        self.say(client, FromClient::Submit(Submit { n: TaskSeq(n), ..submit })).unwrap();
        n
    }

    pub(in crate::core::tests) fn say(
        &mut self,
        client: ConnectionId,
        message: FromClient,
    ) -> Result<(), PeerMisbehaved> {
        self.core.handle_from_client(self.now, client, message, None)?;
        while self.core.has_rest(client) {
            self.core.handle_rest(self.now, client)?;
        }
        self.settle();
        Ok(())
    }

    pub(in crate::core::tests) fn report(
        &mut self,
        engine: ConnectionId,
        message: FromEngine,
    ) -> Result<(), PeerMisbehaved> {
        self.core.handle_from_engine(self.now, engine, message, None)?;
        while self.core.has_rest(engine) {
            self.core.handle_rest(self.now, engine)?;
        }
        self.settle();
        Ok(())
    }

    pub(in crate::core::tests) fn settle(&mut self) {
        self.core.dispatch(self.now);
        while let Some(output) = self.core.poll_output() {
            match output {
                Output::ToClient(to, message) => self.to_clients.push((to, message)),
                Output::ToEngine(to, message) => self.to_engines.push((to, message)),
                _ => {}
            }
        }
    }

    /// A client with a task that an engine of its own runs.
    fn pair(&mut self) -> Pair {
        let (engine, client) = (self.engine(), self.client(Role::Client));
        let id = self.last_registered();
        let options = TaskOptions { keep: true, ..TaskOptions::default() };
        let direct = with(
            Submit { targets: Targets::Engines(vec![id]), runtime: Runtime::Python, ..shared() },
            options,
        );
        self.submit(client, direct.clone());
        self.submit(client, direct);
        let attempt = self.assigned(engine).expect("it was given the first one");
        Pair { client, engine, id, attempt, session: self.sessions[&client] }
    }

    fn range(&self, client: ConnectionId, first: u64, last: u64) -> Vec<TaskRange> {
        let session = self.sessions[&client];
        vec![TaskRange { session, first: TaskSeq(first), last: TaskSeq(last) }]
    }
}

/// A client, and an engine that runs a task of it.
struct Pair {
    client: ConnectionId,
    engine: ConnectionId,
    id: EngineId,
    attempt: Attempt,
    session: SessionId,
}

pub(in crate::core::tests) fn open(submitted: u64) -> FromClient {
    FromClient::Open(Open {
        secret: PayloadSecret::new([1; 32]),
        cancel_on_disconnect: false,
        submitted: TaskSeq(submitted),
        hides_names: false,
    })
}

pub(in crate::core::tests) fn register(id: u128, slots: u128) -> Register {
    let slot =
        |slot: u128| Slot { uuid: EngineUuid((id << 32 | slot).to_le_bytes()), wanted: None };
    Register {
        instance: InstanceId(id.to_le_bytes()),
        host: "host".into(),
        pid: 1,
        cwd: "/".into(),
        slots: (0..slots).map(slot).collect(),
        runtimes: Runtime::ALL.to_vec(),
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

/// A peer's message, by what it contains.
enum Said {
    Client(ConnectionId, FromClient),
    Engine(ConnectionId, FromEngine),
}

/// One message of each kind that names one thing, or a few.
fn messages(world: &mut World, kind: usize) -> Option<(&'static str, Said)> {
    let pair = world.pair();
    message_of_client(world, &pair, kind)
        .or_else(|| request_of_client(world, &pair, kind))
        .or_else(|| message_of_engine(world, &pair, kind))
}

fn payload() -> Payload {
    Payload::Inline(b"data".into())
}

fn chunked() -> Payload {
    Payload::Chunked { transfer: 9, counter: 0, bytes: 2_000, instance: None }
}

fn message_of_client(world: &mut World, pair: &Pair, kind: usize) -> Option<(&'static str, Said)> {
    let Pair { client, session, .. } = *pair;
    let by_client = |message| Said::Client(client, message);
    let big = TaskId { session: world.sessions[&world.big], n: TaskSeq(5) };
    let n = world.submitted[&client] + 1;
    let said = match kind {
        0 => ("Submit", by_client(FromClient::Submit(Submit { n: TaskSeq(n), ..shared() }))),
        1 => {
            let submit = Submit { n: TaskSeq(n), ..with(shared(), after(&[big])) };
            ("Submit after", by_client(FromClient::Submit(submit)))
        }
        2 => ("Define", by_client(FromClient::Define(Define { number: 1, payload: payload() }))),
        3 => {
            let define = Define { number: 1, payload: payload() };
            world.say(client, FromClient::Define(define)).unwrap();
            ("Undefine", by_client(FromClient::Undefine(Undefine { number: 1 })))
        }
        4 => {
            let cancel = Cancel { ranges: vec![(TaskSeq(1), TaskSeq(2))], force: true };
            ("Cancel", by_client(FromClient::Cancel(cancel)))
        }
        11 => ("Subscribe", by_client(FromClient::Subscribe(Subscribe { engines: true }))),
        14 => (
            "Ack",
            by_client(FromClient::Ack(Ack { ranges: vec![(TaskSeq(1), TaskSeq(2))].into() })),
        ),
        15 => ("Goodbye", by_client(FromClient::Goodbye(Goodbye { reason: String::new() }))),
        16 => {
            world.core.handle_disconnected(Time(1), client);
            let id = u128::from_le_bytes(session.0);
            let connection = world.connect(Role::Client, id);
            ("Open", Said::Client(connection, open(2)))
        }
        19 => ("Credit", by_client(FromClient::Credit(Credit { payload_bytes_total: 1 }))),
        20 => {
            let submit = Submit { n: TaskSeq(n), payload: chunked(), ..shared() };
            world.say(client, FromClient::Submit(submit)).unwrap();
            ("Chunk", by_client(FromClient::Chunk(Chunk { transfer: 9 })))
        }
        _ => return None,
    };
    Some(said)
}

fn request_of_client(world: &mut World, pair: &Pair, kind: usize) -> Option<(&'static str, Said)> {
    let Pair { client, id, session, .. } = *pair;
    let own = world.range(client, 1, 9);
    let of_big = world.range(world.big, 5, 7);
    let request = 1;
    let by_client = |message| Said::Client(client, message);
    let big = TaskId { session: world.sessions[&world.big], n: TaskSeq(5) };
    let said = match kind {
        5 => {
            let cancel = CancelTasks { request, tasks: of_big, force: true };
            ("CancelTasks", by_client(FromClient::CancelTasks(cancel)))
        }
        6 => ("TakeBack", by_client(FromClient::TakeBack(TakeBack { request, tasks: of_big }))),
        7 => ("Purge", by_client(FromClient::Purge(Purge { request, tasks: of_big }))),
        8 => {
            let signal = Signal { request, engines: vec![id], signal: 2 };
            ("Signal", by_client(FromClient::Signal(signal)))
        }
        9 => ("Restart", by_client(FromClient::Restart(Restart { request, engines: vec![id] }))),
        10 => {
            let asks =
                TaskQuery { session: Some(session.prefix()), limit: 9, ..TaskQuery::default() };
            let query = Query::Tasks(Box::new(asks));
            ("Query of a session", by_client(FromClient::Query(Request { request, query })))
        }
        12 => {
            let fetch = Fetch { request, session: big.session, n: big.n, wait: true, output: true };
            ("Fetch", by_client(FromClient::Fetch(fetch)))
        }
        13 => {
            let fetch = Fetch { request, session, n: TaskSeq(2), wait: false, output: false };
            ("Fetch of a record", by_client(FromClient::Fetch(fetch)))
        }
        17 => {
            let engines = Some(vec![id]);
            let shutdown = Shutdown { request, engines, finish: true, broker: false };
            let admin = world.client(Role::Admin);
            ("Shutdown", Said::Client(admin, FromClient::Shutdown(shutdown)))
        }
        18 => {
            let revoke = Revoke { request, tokens: vec![TokenId([9; 16])] };
            let admin = world.client(Role::Admin);
            ("Revoke", Said::Client(admin, FromClient::Revoke(revoke)))
        }
        35 => {
            let cancel = CancelTasks { request, tasks: own, force: false };
            ("Own tasks cancelled", by_client(FromClient::CancelTasks(cancel)))
        }
        _ => return None,
    };
    Some(said)
}

fn message_of_engine(world: &mut World, pair: &Pair, kind: usize) -> Option<(&'static str, Said)> {
    let Pair { engine, attempt, session, .. } = *pair;
    let by_engine = |message| Said::Engine(engine, message);
    let attempts = || Attempts { attempts: vec![attempt] };
    let said = match kind {
        21 => ("Started", by_engine(FromEngine::Started(attempts()))),
        22 => {
            let (outcome, payload) = (Outcome::SUCCEEDED, Some(payload()));
            (
                "Finished",
                by_engine(FromEngine::Finished(AttemptFinished {
                    attempt,
                    outcome,
                    times: RunTimes::ran(1),
                    payload,
                })),
            )
        }
        23 => {
            let (stream, bytes) = (Stream::Stdout, b"line".to_vec());
            (
                "Output",
                by_engine(FromEngine::Output(AttemptOutput { attempt, stream, offset: 0, bytes })),
            )
        }
        24 => (
            "Published",
            by_engine(FromEngine::Published(AttemptPublished { attempt, payload: payload() })),
        ),
        25 => ("Recalled", by_engine(FromEngine::Recalled(attempts()))),
        26 => (
            "SlotDown",
            by_engine(FromEngine::SlotDown(SlotDown { slot: 0, cause: "signal 9".into() })),
        ),
        27 => ("Draining", by_engine(FromEngine::Draining(Draining { reason: String::new() }))),
        28 => ("Grant", by_engine(FromEngine::Grant(Grant { attempt, key: PassKey([9; 32]) }))),
        29 => ("Lent", by_engine(FromEngine::Lent(Lent { attempt, sessions: vec![session] }))),
        30 => ("Back", by_engine(FromEngine::Back(attempts()))),
        31 => (
            "Goodbye of an engine",
            by_engine(FromEngine::Goodbye(Goodbye { reason: String::new() })),
        ),
        32 => {
            let connection = world.connect(Role::Engine, 1 << 64);
            let register = register(u128::from(connection.0), 4);
            ("Register", Said::Engine(connection, FromEngine::Register(register.into())))
        }
        33 => {
            let announced = Some(chunked());
            let finished = AttemptFinished {
                attempt,
                outcome: Outcome::SUCCEEDED,
                times: RunTimes::ran(1),
                payload: announced,
            };
            world.report(engine, FromEngine::Finished(finished)).unwrap();
            ("Chunk of an engine", by_engine(FromEngine::Chunk(Chunk { transfer: 9 })))
        }
        34 => (
            "Credit of an engine",
            by_engine(FromEngine::Credit(Credit { payload_bytes_total: 1 })),
        ),
        _ => return None,
    };
    Some(said)
}

/// The steps of one message of each kind.
fn steps_of_messages(scale: u64) -> BTreeMap<&'static str, u64> {
    let mut world = World::new(scale);
    let mut all = BTreeMap::new();
    for kind in 0.. {
        let Some((name, said)) = messages(&mut world, kind) else { break };
        let before = steps();
        match said {
            Said::Client(client, message) => {
                let chunk = message_chunk(matches!(message, FromClient::Chunk(_)));
                world.core.handle_from_client(Time(1), client, message, chunk).unwrap();
                assert!(!world.core.has_rest(client), "{name} names little");
            }
            Said::Engine(engine, message) => {
                let chunk = message_chunk(matches!(message, FromEngine::Chunk(_)));
                world.core.handle_from_engine(Time(1), engine, message, chunk).unwrap();
            }
        }
        world.core.dispatch(Time(1));
        all.insert(name, steps() - before);
        world.settle();
    }
    all
}

fn message_chunk(is_chunk: bool) -> Option<Bytes> {
    is_chunk.then(|| Bytes::from(vec![0; 2_016]))
}

#[test]
fn a_message_costs_what_it_names_however_much_there_is() {
    let (few, many) = (steps_of_messages(30), steps_of_messages(300));
    assert_eq!(few.len(), 36, "each message of the catalogue");
    let dear: Vec<String> = few
        .iter()
        .filter(|(name, few)| many[*name] > **few + **few / 2 + 100)
        .map(|(name, few)| {
            format!("{name}: {few} steps, and {} where there is ten times as much", many[name])
        })
        .collect();
    assert!(dear.is_empty(), "{dear:#?}");
    assert!(many.values().all(|steps| *steps < 2_000), "{many:#?}");
}

/// Messages that name everything, and what one turn of them may cost.
fn everything(world: &World) -> Vec<(&'static str, FromClient)> {
    let many = || (0..4096).flat_map(|_| world.range(world.big, 0, u64::MAX)).collect::<Vec<_>>();
    let all = (TaskSeq::MIN, TaskSeq::MAX);
    let query = |query: TaskQuery| Query::Tasks(Box::new(query));
    let nothing = TaskQuery { label: Some("nothing*like it".into()), ..TaskQuery::default() };
    vec![
        ("Query", FromClient::Query(Request { request: 1, query: query(nothing) })),
        (
            "Query of records",
            FromClient::Query(Request {
                request: 1,
                query: query(TaskQuery { limit: 200, ..TaskQuery::default() }),
            }),
        ),
        ("Purge", FromClient::Purge(Purge { request: 1, tasks: many() })),
        ("TakeBack", FromClient::TakeBack(TakeBack { request: 1, tasks: many() })),
        (
            "CancelTasks",
            FromClient::CancelTasks(CancelTasks { request: 1, tasks: many(), force: true }),
        ),
        ("Ack", FromClient::Ack(Ack { ranges: vec![all].into() })),
        ("Cancel", FromClient::Cancel(Cancel { ranges: vec![all], force: true })),
        ("Goodbye", FromClient::Goodbye(Goodbye { reason: String::new() })),
    ]
}

#[test]
fn a_message_that_names_everything_has_many_turns_and_meets_each_task_once() {
    let mut world = World::new(500);
    for (name, message) in everything(&world) {
        let (mut turns, began) = (1, steps());
        let (client, mut before) = (world.big, began);
        world.core.handle_from_client(Time(1), client, message, None).unwrap();
        let mut dearest = steps() - before;
        while world.core.has_rest(client) {
            before = steps();
            world.core.handle_rest(Time(1), client).unwrap();
            (turns, dearest) = (turns + 1, dearest.max(steps() - before));
        }
        // What is left of a session is ended in later turns, too.
        while world.core.poll_timeout().is_some_and(|at| at <= Time(1)) {
            before = steps();
            world.core.handle_timeout(Time(1));
            (turns, dearest) = (turns + 1, dearest.max(steps() - before));
        }
        let all = steps() - began;
        assert!(dearest <= 3 * WORK_PER_TURN, "{name}: {dearest} steps in one of {turns} turns");
        assert!(
            all <= 60 * world.tasks,
            "{name}: {all} steps for {} tasks of each sort",
            world.tasks
        );
        world.settle();
    }
    let left = world.core.tasks.len() as u64;
    assert!(left <= world.tasks, "what was cancelled is gone: {left}");
    assert!(world.tasks > 4 * TASKS_PER_PART as u64);
}

#[test]
fn an_open_session_is_opened_once_and_delivers_in_parts() {
    let mut world = World::new(300);
    let client = world.big;
    assert_eq!(
        world.say(client, open(0)),
        Err(PeerMisbehaved::Order),
        "a second time on a connection"
    );
    let (session, submitted) = (world.sessions[&client], world.submitted[&client]);
    world.core.handle_disconnected(Time(1), client);
    let again = world.connect(Role::Client, u128::from_le_bytes(session.0));
    world.settle();
    world.to_clients.clear();
    world.core.handle_from_client(Time(1), again, open(submitted), None).unwrap();
    let mut parts = 1;
    loop {
        let before = world.to_clients.len();
        world.settle();
        assert!(world.to_clients.len() - before <= 600, "messages of one turn");
        if !world.core.has_rest(again) {
            break;
        }
        world.core.handle_rest(Time(1), again).unwrap();
        parts += 1;
    }
    assert!(parts > 5, "{parts} parts");
    let finished = |message: &&(ConnectionId, ToClient)| matches!(message.1, ToClient::Finished(_));
    assert_eq!(
        world.to_clients.iter().filter(finished).count() as u64,
        world.tasks,
        "each is delivered once"
    );
    assert!(
        matches!(world.to_clients.last(), Some((_, ToClient::Accepted(_)))),
        "the answer is last"
    );
}

#[test]
fn what_ends_while_results_are_delivered_is_delivered_once() {
    let mut world = World::new(300);
    let client = world.big;
    // Their numbers are the last ones.
    let waiting = TaskOptions { require: vec!["nowhere".into()], ..TaskOptions::default() };
    let first = world.submit(client, with(shared(), waiting.clone()));
    let last = world.submit(client, with(shared(), waiting));
    let (session, submitted) = (world.sessions[&client], world.submitted[&client]);
    let other = world.client(Role::Client);
    world.core.handle_disconnected(Time(1), client);
    let again = world.connect(Role::Client, u128::from_le_bytes(session.0));
    world.settle();
    world.to_clients.clear();
    world.core.handle_from_client(Time(1), again, open(submitted), None).unwrap();
    assert!(world.core.has_rest(again));
    let range = |first, last| TaskRange { session, first: TaskSeq(first), last: TaskSeq(last) };
    let tasks = vec![range(1, 2), range(first, last)];
    world
        .say(other, FromClient::CancelTasks(CancelTasks { request: 1, tasks, force: false }))
        .unwrap();
    while world.core.has_rest(again) {
        world.core.handle_rest(Time(1), again).unwrap();
    }
    world.settle();
    let mut ends: BTreeMap<u64, u32> = BTreeMap::new();
    for (_, message) in &world.to_clients {
        if let ToClient::Finished(finished) = message {
            *ends.entry(finished.n.0).or_default() += 1;
        }
    }
    assert_eq!(ends.len() as u64, world.tasks + 4);
    assert!(ends.values().all(|times| *times == 1));
}

#[test]
fn a_task_on_which_very_many_wait_ends_in_many_turns() {
    let mut world = World::new(10);
    let client = world.client(Role::Client);
    let first = world.submit(client, shared());
    let session = world.sessions[&client];
    let options = TaskOptions {
        after: vec![on_success(TaskId { session, n: TaskSeq(first) })],
        ..TaskOptions::default()
    };
    let dependents = 10 * TASKS_PER_PART;
    (0..dependents).for_each(|_| _ = world.submit(client, with(shared(), options.clone())));
    let before = steps();
    let cancel = Cancel { ranges: vec![(TaskSeq(first), TaskSeq(first))], force: false };
    world.say(client, FromClient::Cancel(cancel)).unwrap();
    assert!(steps() - before < WORK_PER_TURN, "{} steps", steps() - before);
    let mut turns = 0;
    while world.core.poll_timeout().is_some_and(|at| at <= Time(1)) {
        world.core.handle_timeout(Time(1));
        turns += 1;
    }
    world.settle();
    assert!(turns >= dependents / TASKS_PER_PART, "{turns} turns");
    let of_client = |message: &&(ConnectionId, ToClient)| {
        message.0 == client && matches!(message.1, ToClient::Finished(_))
    };
    assert_eq!(
        world.to_clients.iter().filter(of_client).count(),
        dependents + 1,
        "all have ended with it"
    );
}

#[test]
fn an_answer_about_engines_costs_what_it_says() {
    let mut world = World::new(300);
    for query in [Query::Engines, Query::Status] {
        let before = world.core.work_done();
        world.say(world.big, FromClient::Query(Request { request: 1, query })).unwrap();
        let done = world.core.work_done() - before;
        assert!(done >= 300, "{done} for 300 engines");
    }
}

#[test]
fn very_many_engines_are_all_seen_in_a_few_looks_each_of_which_costs_one_round() {
    let mut world = World::new(3_000);
    let (mut told, mut since, mut looks) = (BTreeMap::new(), None, 0);
    loop {
        let before = (world.core.work_done(), world.to_clients.len());
        let query = Query::Look(Box::new(Look { since, ..Look::default() }));
        world.say(world.big, FromClient::Query(Request { request: 1, query })).unwrap();
        let done = world.core.work_done() - before.0;
        assert!((3_000..20_000).contains(&done), "a look goes through all engines once: {done}");
        let answers = world.to_clients.drain(before.1..);
        let seen = answers.into_iter().find_map(|(_, message)| match message {
            ToClient::Reply(Reply { body: ReplyBody::Seen(seen), .. }) => Some(*seen),
            _ => None,
        });
        let seen = seen.expect("the broker answers");
        assert!(seen.engines.len() < 1_000, "one answer has no more than a page");
        told.extend(seen.engines.iter().map(|engine| (engine.id, engine.state)));
        (since, looks) = (Some(seen.place), looks + 1);
        assert!(looks < 20);
        if !seen.has_more {
            break;
        }
    }
    assert!(looks > 2 && told.len() == 3_000, "{looks} looks, {} engines", told.len());
}

#[test]
fn keys_cost_a_curve_operation_each_as_far_as_they_are_looked_at() {
    let mut world = World::new(10);
    let Pair { engine, attempt, .. } = world.pair();
    let mut grant = |key: u128| {
        let before = steps();
        let key = PassKey([key.to_le_bytes(), [9; 16]].concat().try_into().unwrap());
        world.report(engine, FromEngine::Grant(Grant { attempt, key })).unwrap();
        (steps() - before) as usize
    };
    let cost = |grant: &mut dyn FnMut(u128) -> usize, keys: std::ops::Range<u128>| {
        keys.map(grant).sum::<usize>()
    };
    let limit = GRANTS_PER_ATTEMPT_MAX as u128;
    let taken = cost(&mut grant, 0..limit);
    assert!(taken >= GRANTS_PER_ATTEMPT_MAX * WORK_PER_CURVE_OPERATION, "{taken} steps");
    let beyond = cost(&mut grant, limit..2 * limit);
    assert!(beyond < GRANTS_PER_ATTEMPT_MAX * 16, "{beyond} steps for keys that are one too many");
}

#[test]
fn what_a_client_wanted_done_is_done_when_it_is_gone() {
    let mut world = World::new(300);
    let client = world.big;
    let cancel = Cancel { ranges: vec![(TaskSeq(1), TaskSeq(world.tasks))], force: false };
    world.core.handle_from_client(Time(1), client, FromClient::Cancel(cancel), None).unwrap();
    assert!(world.core.has_rest(client));
    world.core.handle_disconnected(Time(1), client);
    while world.core.poll_timeout().is_some_and(|at| at <= Time(1)) {
        world.core.handle_timeout(Time(1));
    }
    let session = world.core.sessions.find(OWNER, world.sessions[&client]).unwrap();
    assert!(world.core.sessions.get(session).unwrap().ledger.tasks.is_empty());
}
