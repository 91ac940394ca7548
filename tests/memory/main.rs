//! The broker's core, filled by its peers with one thing after the other, never takes more memory
//! than it was given: measured where memory is allocated, whatever the budget says.

mod allocator;

use bytes::Bytes;
use furlong_broker::budget::{Memory, TASK_BYTES};
use furlong_broker::core::{Config, ConnectionId, Core, Output, Peer, Roster, Time};
use furlong_tests::engine::register;
use furlong_wire::handshake::HelloBody;
use furlong_wire::ids::{
    Attempt, AttemptId, BrokerStart, ClusterId, OwnerId, SessionId, TaskId, TaskSeq, TokenId,
};
use furlong_wire::keys::PublicKey;
use furlong_wire::message::{
    Ack, AttemptFinished, AttemptOutput, Chunk, Define, Dependency, ErrorKind, FromClient,
    FromEngine, Open, Outcome, Payload, Register, RunTimes, Runtime, Stream, Submit, Targets,
    TaskOptions, TaskState, ToEngine,
};
use furlong_wire::payload::PayloadSecret;
use furlong_wire::token::{Claims, Role, TokenLimits};

use allocator::counted;

/// The memory that the broker is given.
const MEMORY_BYTES: u64 = 64 << 20;
const START: BrokerStart = BrokerStart(1_000_000);

struct Filled {
    core: Core,
    connections: u64,
    /// Attempts that an engine has been given.
    assigned: Vec<AttemptId>,
    /// Tasks that it takes.
    tasks: u64,
}

impl Filled {
    fn new() -> Self {
        let memory = Memory::of(MEMORY_BYTES);
        let config = Config {
            start: START,
            cluster: ClusterId([9; 32]),
            cluster_name: "test".into(),
            software: "test".into(),
            pid: 1,
            payload_bytes_max: memory.payload_bytes_max,
            memory_flag: "--memory",
            // One session may have half: so it fills the room of all.
            tasks_max: Config::tasks_for_sessions_of(memory.tasks_max),
            kept_max: memory.kept_max,
            journal_keep: None,
        };
        let core = Core::new(config, &Roster::default());
        Self { core, connections: 0, assigned: Vec::new(), tasks: memory.tasks_max }
    }

    fn connect(&mut self, role: Role) -> ConnectionId {
        self.connections += 1;
        let id = [self.connections.to_le_bytes(); 2].concat();
        let id: [u8; 16] = id.try_into().expect("two of eight bytes");
        let claims = Claims {
            cluster: ClusterId([9; 32]),
            token_id: TokenId([1; 16]),
            holder: PublicKey([1; 32]),
            owner: OwnerId([7; 16]),
            role,
            scopes: Vec::new(),
            limits: TokenLimits::default(),
            not_before_s: 0,
            expires_s: Claims::NEVER,
        };
        let (session, software) = (SessionId(id), "test".to_owned());
        let hello =
            HelloBody { token: Vec::new(), session, incarnation: 1, role, software, abilities: 0 };
        let connection = ConnectionId(self.connections);
        let peer = Peer { claims, hello, address: "test".into(), pass: None };
        self.core.handle_connected(connection, peer).expect("it is let in");
        connection
    }

    fn client(&mut self) -> ConnectionId {
        let connection = self.connect(Role::Client);
        let (secret, cancel_on_disconnect) = (PayloadSecret::new([1; 32]), false);
        self.say(
            connection,
            FromClient::Open(Open {
                secret,
                cancel_on_disconnect,
                submitted: TaskSeq::MIN,
                hides_names: false,
            }),
        );
        connection
    }

    fn session(connection: ConnectionId) -> SessionId {
        let id = [connection.0.to_le_bytes(); 2].concat();
        SessionId(id.try_into().expect("two of eight bytes"))
    }

    fn engine(&mut self) -> ConnectionId {
        let connection = self.connect(Role::Engine);
        let register = Register { runtimes: Runtime::ALL.to_vec(), ..register(1, 1) };
        self.report(connection, FromEngine::Register(Box::new(register)));
        connection
    }

    fn say(&mut self, client: ConnectionId, message: FromClient) {
        self.core
            .handle_from_client(Time(1), client, message, None)
            .expect("it keeps to the protocol");
        self.settle();
    }

    fn report(&mut self, engine: ConnectionId, message: FromEngine) {
        self.core
            .handle_from_engine(Time(1), engine, message, None)
            .expect("it keeps to the protocol");
        self.settle();
    }

    /// Sends everything: what waits for a peer counts elsewhere.
    fn settle(&mut self) {
        self.core.dispatch(Time(1));
        while let Some(output) = self.core.poll_output() {
            if let Output::ToEngine(_, ToEngine::Assign(assign)) = output {
                self.assigned.extend(assign.work.iter().map(|work| work.attempt));
            }
        }
    }

    fn submit(&mut self, client: ConnectionId, n: u64, options: Option<TaskOptions>, bytes: usize) {
        let (options, payload) = (options.map(Box::new), Payload::Inline(vec![1; bytes].into()));
        let (targets, runtime) = (Targets::Shared, Runtime::Native);
        self.say(
            client,
            FromClient::Submit(Submit {
                n: TaskSeq(n),
                targets,
                runtime,
                class: 0,
                define: None,
                options,
                payload,
            }),
        );
    }

    /// The next attempt that an engine has.
    fn attempt(&mut self) -> Attempt {
        Attempt { start: START, id: self.assigned.remove(0) }
    }
}

fn waiting() -> TaskOptions {
    TaskOptions { require: vec!["nowhere".into()], ..TaskOptions::default() }
}

fn kept() -> TaskOptions {
    TaskOptions { keep: true, ..TaskOptions::default() }
}

fn tasks_with_the_largest_inline_payload(filled: &mut Filled) {
    let client = filled.client();
    (1..=filled.tasks).for_each(|n| filled.submit(client, n, Some(waiting()), 1024));
}

fn results_with_the_largest_inline_payload(filled: &mut Filled) {
    let (client, engine) = (filled.client(), filled.engine());
    for n in 1..=filled.tasks {
        filled.submit(client, n, None, 1024);
        let (attempt, payload) = (filled.attempt(), Some(Payload::Inline(vec![1; 1024].into())));
        let finished = AttemptFinished {
            attempt,
            outcome: Outcome::SUCCEEDED,
            times: RunTimes::ran(1_000_000),
            payload,
        };
        filled.report(engine, FromEngine::Finished(finished));
    }
}

fn long_options(filled: &mut Filled) {
    let client = filled.client();
    let require: Vec<String> = (0..64).map(|n| format!("{n:0256}")).collect();
    let options = TaskOptions { label: Some("l".repeat(256)), require, ..TaskOptions::default() };
    (1..=filled.tasks).for_each(|n| filled.submit(client, n, Some(options.clone()), 4));
}

fn long_options_that_differ(filled: &mut Filled) {
    let client = filled.client();
    for n in 1..=4_000.min(filled.tasks) {
        let require = (0..64).map(|label| format!("{n} {label:0240}")).collect();
        filled.submit(client, n, Some(TaskOptions { require, ..TaskOptions::default() }), 4);
    }
}

fn dependencies(filled: &mut Filled) {
    let client = filled.client();
    let many = 3_000;
    (1..=many).for_each(|n| filled.submit(client, n, Some(waiting()), 4));
    let on = |n| Dependency {
        task: TaskId { session: Filled::session(client), n },
        success: true,
        failure: false,
    };
    let options = TaskOptions {
        after: TaskSeq(1).through(TaskSeq(many)).map(on).collect(),
        ..TaskOptions::default()
    };
    (many + 1..=many + 400).for_each(|n| filled.submit(client, n, Some(options.clone()), 4));
}

fn definitions(filled: &mut Filled) {
    for bytes in [0, 1024] {
        for _ in 0..20 {
            let client = filled.client();
            for number in 0..4096 {
                let payload = Payload::Inline(vec![1; bytes].into());
                filled.say(client, FromClient::Define(Define { number, payload }));
            }
        }
    }
}

fn long_reasons(filled: &mut Filled) {
    let (client, engine) = (filled.client(), filled.engine());
    for n in 1..=filled.tasks {
        filled.submit(client, n, Some(kept()), 4);
        let outcome = Outcome::error(TaskState::Failed, ErrorKind::Remote, "r".repeat(9_000));
        let finished = AttemptFinished {
            attempt: filled.attempt(),
            outcome,
            times: RunTimes::ran(1_000_000),
            payload: None,
        };
        filled.report(engine, FromEngine::Finished(finished));
    }
}

fn kept_records(filled: &mut Filled) {
    let (client, engine) = (filled.client(), filled.engine());
    for n in 1..=2 * filled.tasks {
        filled.submit(client, n, Some(TaskOptions { label: Some("l".repeat(256)), ..kept() }), 4);
        let (attempt, payload) = (filled.attempt(), Some(Payload::Inline(vec![1; 1024].into())));
        let finished = AttemptFinished {
            attempt,
            outcome: Outcome::SUCCEEDED,
            times: RunTimes::ran(1_000_000),
            payload,
        };
        filled.report(engine, FromEngine::Finished(finished));
        filled.say(client, FromClient::Ack(Ack { ranges: vec![(TaskSeq(n), TaskSeq(n))].into() }));
    }
}

fn output_byte_by_byte(filled: &mut Filled) {
    let (client, engine) = (filled.client(), filled.engine());
    filled.submit(client, 1, Some(kept()), 4);
    let attempt = filled.attempt();
    for n in 0..500_000_u64 {
        let (stream, bytes) = (Stream::Stdout, vec![1]);
        filled.report(
            engine,
            FromEngine::Output(AttemptOutput { attempt, stream, offset: 2 * n, bytes }),
        );
    }
}

fn payloads_in_small_chunks(filled: &mut Filled) {
    let client = filled.client();
    // As many as its credit allows.
    for n in 1..=7_000.min(filled.tasks) {
        let payload = Payload::Chunked { transfer: n, counter: n, bytes: 1_025, instance: None };
        let (targets, runtime, options) = (Targets::Shared, Runtime::Native, None);
        filled.say(
            client,
            FromClient::Submit(Submit {
                n: TaskSeq(n),
                targets,
                runtime,
                class: 0,
                define: None,
                options,
                payload,
            }),
        );
        // The chunk is a part of a buffer with other things in it.
        let buffer = Bytes::from(vec![1; 16 * 1024]);
        let chunk = Some(buffer.slice(0..1_041));
        let said = FromClient::Chunk(Chunk { transfer: n });
        filled
            .core
            .handle_from_client(Time(1), client, said, chunk)
            .expect("it keeps to the protocol");
        filled.settle();
    }
}

fn sessions(filled: &mut Filled) {
    (0..16_000).for_each(|_| _ = filled.client());
}

/// Fills a core with one kind of thing, with as much as it takes and more.
type Fill = fn(&mut Filled);

#[test]
fn whatever_peers_fill_it_with_the_core_keeps_to_its_memory() {
    let kinds: [(&str, Fill); 12] = [
        ("tasks", tasks_with_the_largest_inline_payload),
        ("results", results_with_the_largest_inline_payload),
        ("long options", long_options),
        ("long options that differ", long_options_that_differ),
        ("dependencies", dependencies),
        ("definitions", definitions),
        ("long reasons", long_reasons),
        ("kept records", kept_records),
        ("output byte by byte", output_byte_by_byte),
        ("payloads in small chunks", payloads_in_small_chunks),
        ("sessions", sessions),
        ("nothing", |_| {}),
    ];
    let mut beyond = Vec::new();
    for (name, fill) in kinds {
        let (_filled, [held, peak]) = counted(|| {
            let mut filled = Filled::new();
            fill(&mut filled);
            filled
        });
        let [held_kib, peak_kib, most_kib] = [held, peak, MEMORY_BYTES].map(|bytes| bytes >> 10);
        eprintln!(
            "{name}: {held_kib} KiB, {peak_kib} at once, of {most_kib} KiB, tasks at {TASK_BYTES}"
        );
        if held > MEMORY_BYTES {
            beyond.push(format!("{name}: {} MiB", held >> 20));
        }
    }
    assert!(
        beyond.is_empty(),
        "more than the {} MiB that were given: {beyond:#?}",
        MEMORY_BYTES >> 20
    );
}
