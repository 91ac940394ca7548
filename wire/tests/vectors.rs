//! The test vectors of `docs/PROTOCOL.md`: computed here through the public API, compared with what
//! the document says.
//!
//! `FURLONG_PRINT_VECTORS=1 cargo test -p furlong-wire --test vectors -- --nocapture` prints the
//! block to paste there.

#[path = "vectors/looks.rs"]
mod looks;

use std::fmt::Write;

use bytes::{Bytes, BytesMut};
use furlong_wire::AtLeastOne;
use furlong_wire::aead::Key;
use furlong_wire::call::{
    Call, CallHeader, Codec, CommandExtras, CommandSpec, Display, InputPath, PickledCall,
    RemoteError, ReplyHeader, encode_header, encode_reply,
};
use furlong_wire::handshake::{ExpectReply, ExpectStart, Hello, HelloBody};
use furlong_wire::ids::{
    Attempt, AttemptId, BrokerStart, ClusterId, EngineId, EngineUuid, FunctionHash, InstanceId,
    OwnerId, PassKey, SessionId, TaskId, TaskSeq, TokenId,
};
use furlong_wire::keys::{IssuerKey, SecretKey};
use furlong_wire::message::{
    Accepted, Ack, Adopt, Assign, AttemptFinished, AttemptOutput, AttemptPublished, AttemptRecord,
    Attempts, Cancel, CancelAttempts, CancelTasks, Chunk, ClusterStatus, Credit, Define,
    Dependency, Draining, EndSeen, EngineCredit, EngineDefine, EngineLoad, EngineSeen,
    EngineShutdown, EngineState, EngineStatus, EngineUndefine, ErrorKind, Event, FailureSeen,
    FarmSeen, Fetch, Fetched, FetchedOutput, Finished, Forget, FromClient, FromEngine, Goodbye,
    Grant, Granted, Greeting, HeldWork, Inputs, Inspect, Inspected, KindName, KindSeen, Lent, Look,
    LookPlace, MachineLoad, Measure, Measured, Message, NeedBlob, Note, NoteCode, Open, Outcome,
    Output, OwnerSeen, Passed, Payload, PhaseTimes, ProcessStatus, Published, Purge, Query, Raised,
    RecordTimes, RefusalKind, Refused, Register, Registered, Release, Reply, ReplyBody, Request,
    Restart, Revoke, RunTimes, RunningSeen, Runtime, Secret, Seen, SeriesRow, SeriesStep, SetAside,
    Share, Shutdown, Signal, SignalAttempts, Slot, SlotDown, SlotLoad, Slots, SpanSeen,
    StatusPlace, Stopped, Stream, Submit, Subscribe, TakeBack, Targets, TaskOptions, TaskPhase,
    TaskQuery, TaskRange, TaskRecord, TaskState, TaskTimes, ToClient, ToEngine, Undefine, Unshare,
    Value, Welcome, Work, encode_message,
};
use furlong_wire::payload::{InlineBytes, Packed, PayloadSealer, PayloadSecret, SealedPayload};
use furlong_wire::record::{RecordSealer, SEQ_BYTES};
use furlong_wire::token::{Claims, Role, Token, TokenLimits};
use furlong_wire::zmtp::{self, put_frame_header};
use hkdf::Hkdf;
use sha2::{Digest, Sha256};

use looks::{MACHINE, SLOT_LOAD, look, look_for_loads, seen, seen_with_loads};

/// The document's fixed values: every secret is one byte repeated.
const ISSUER_SEED: [u8; 32] = [1; 32];
const SERVER_SECRET: [u8; 32] = [2; 32];
const HOLDER_SECRET: [u8; 32] = [3; 32];
const PEER_EPHEMERAL: [u8; 32] = [4; 32];
const BROKER_EPHEMERAL: [u8; 32] = [5; 32];
const PAYLOAD_SECRET: [u8; 32] = [6; 32];
const TOKEN_ID: TokenId = TokenId([7; 16]);
const OWNER: OwnerId = OwnerId([8; 16]);
const SESSION: SessionId = SessionId([9; 16]);
const PASSED: Passed = Passed { transfer: 1, device: 1, inode: 70_000 };
const INSTANCE: InstanceId = InstanceId([10; 16]);
const START: BrokerStart = BrokerStart(1_700_000_000_000_000);

#[test]
fn the_document_has_the_vectors_that_the_code_computes() {
    let mut vectors = Vectors::default();
    zmtp_opening(&mut vectors);
    let (mut to_broker, mut to_peer) = handshake(&mut vectors);
    records(&mut vectors, &mut to_broker, &mut to_peer);
    messages(&mut vectors);
    if std::env::var_os("FURLONG_PRINT_VECTORS").is_some() {
        println!("{}", vectors.text);
    }
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/PROTOCOL.md");
    let document = std::fs::read_to_string(path).unwrap();
    let block =
        document.split_once("```vectors\n").and_then(|(_, rest)| rest.split_once("```")).unwrap().0;
    for (number, (said, computed)) in block.lines().zip(vectors.text.lines()).enumerate() {
        assert_eq!(
            said,
            computed,
            "line {} of the block of vectors in docs/PROTOCOL.md is stale",
            number + 1
        );
    }
    assert_eq!(block, vectors.text, "the block of vectors in docs/PROTOCOL.md is stale");
}

/// The text of the block: a name, then its bytes in lines of 56.
#[derive(Default)]
struct Vectors {
    text: String,
}

impl Vectors {
    fn add(&mut self, name: &str, bytes: &[u8]) {
        self.text.push_str(name);
        self.text.push('\n');
        for line in bytes.chunks(56) {
            self.text.push_str("  ");
            for byte in line {
                write!(self.text, "{byte:02x}").unwrap();
            }
            self.text.push('\n');
        }
    }
}

fn zmtp_opening(vectors: &mut Vectors) {
    let (mut broker, mut peer) =
        (zmtp::Connection::new(zmtp::Role::Broker), zmtp::Connection::new(zmtp::Role::Peer));
    let mut greeting = BytesMut::from(&peer.poll_output().unwrap()[..]);
    vectors.add("zmtp greeting, both sides", &greeting);
    let mut of_broker = BytesMut::from(&broker.poll_output().unwrap()[..]);
    assert_eq!(greeting, of_broker);
    assert_eq!(peer.handle_input(&mut of_broker), Ok(None));
    let ready = peer.poll_output().unwrap();
    vectors.add("zmtp READY of the peer", &ready);
    greeting.extend_from_slice(&ready);
    assert_eq!(broker.handle_input(&mut greeting), Ok(Some(zmtp::Event::Ready)));
    vectors.add("zmtp READY of the broker", &broker.poll_output().unwrap());
    let mut header = BytesMut::new();
    put_frame_header(&mut header, 48, false);
    vectors.add("zmtp header of a last frame of 48 bytes", &header);
    header.clear();
    put_frame_header(&mut header, 300, true);
    vectors.add("zmtp header of a frame of 300 bytes, more follow", &header);
}

fn token() -> Token {
    let issuer = IssuerKey::from_seed(ISSUER_SEED);
    let claims = Claims {
        cluster: ClusterId::of(&issuer.public()),
        token_id: TOKEN_ID,
        holder: SecretKey::from_bytes(HOLDER_SECRET).public(),
        owner: OWNER,
        role: Role::Client,
        scopes: vec!["gpu".to_owned()],
        limits: TokenLimits { unfinished_tasks_max: 1_000, payload_bytes_max: 0, no_nested: false },
        not_before_s: 1_700_000_000,
        expires_s: Claims::NEVER,
    };
    issuer.sign(&claims).unwrap()
}

/// Gives the sealers of both directions: towards the broker, and towards the peer.
fn handshake(vectors: &mut Vectors) -> (RecordSealer, RecordSealer) {
    let issuer = IssuerKey::from_seed(ISSUER_SEED).public();
    let cluster = ClusterId::of(&issuer);
    let server = SecretKey::from_bytes(SERVER_SECRET).public();
    vectors.add("issuer public key", issuer.as_bytes());
    vectors.add("cluster id", &cluster.0);
    vectors.add("server public key", &server.0);
    vectors.add("holder public key", &SecretKey::from_bytes(HOLDER_SECRET).public().0);
    vectors.add("token", token().as_bytes());
    let hello = Hello::new(HelloBody {
        token: token().as_bytes().to_vec(),
        session: SESSION,
        incarnation: 1,
        role: Role::Client,
        software: "furlong 0.1.0".to_owned(),
        abilities: 0,
    });
    let (first, expect_reply) =
        ExpectReply::start(&cluster, &server.0, &HOLDER_SECRET, PEER_EPHEMERAL).unwrap();
    let expect_start = ExpectStart::new(&cluster, &SERVER_SECRET, BROKER_EPHEMERAL).unwrap();
    let (second, expect_proof) = expect_start.handle_start(&first).unwrap();
    let (third, peer_keys) = expect_reply.handle_reply(&second, &hello).unwrap();
    let proof = expect_proof.handle_proof(&third).unwrap();
    assert_eq!(proof.hello, hello);
    vectors.add("handshake message 1", &first);
    vectors.add("handshake message 2", &second);
    vectors.add("handshake message 3", &third);
    vectors.add("record key, peer to broker", &*peer_keys.send);
    vectors.add("record key, broker to peer", &*peer_keys.receive);
    (peer_keys.split().0, proof.keys.split().0)
}

fn records(vectors: &mut Vectors, to_broker: &mut RecordSealer, to_peer: &mut RecordSealer) {
    let welcome = Greeting::Welcome(welcome());
    vectors.add("record 0 of the broker: Welcome, batch", &batch(&[&welcome]));
    vectors
        .add("record 0 of the broker: Welcome, envelope", &seal(to_peer, &batch(&[&welcome]), &[]));
    let secret = PayloadSecret::new(PAYLOAD_SECRET);
    let open = FromClient::Open(Open {
        secret: secret.clone(),
        cancel_on_disconnect: false,
        submitted: TaskSeq::MIN,
        hides_names: false,
    });
    let mut sealer = secret.request_key(&SESSION).into_sealer();
    let inline = inline_payload(&mut sealer);
    vectors.add("inline payload", &inline);
    let small = FromClient::Submit(submit(1, Targets::Shared, Payload::Inline(inline)));
    let first = batch(&[&open, &small]);
    vectors.add("record 0 of the peer: Open and Submit, batch", &first);
    vectors.add("record 0 of the peer: Open and Submit, envelope", &seal(to_broker, &first, &[]));
    let large_payload = chunked_payload(&mut sealer);
    let chunk = payload_vectors(vectors, &large_payload);
    let announced = Payload::Chunked {
        transfer: 1,
        counter: large_payload.counter(),
        bytes: large_payload.bytes(),
        instance: None,
    };
    let large = FromClient::Submit(submit(2, Targets::Shared, announced));
    let second = batch(&[&large, &FromClient::Chunk(Chunk { transfer: 1 })]);
    vectors.add("record 1 of the peer: Submit and Chunk, batch", &second);
    vectors.add(
        "record 1 of the peer: Submit and Chunk, envelope",
        &seal(to_broker, &second, &[&chunk]),
    );
    vectors.add("record 2 of the peer: heartbeat, envelope", &seal(to_broker, &[], &[]));
}

fn payload_vectors(vectors: &mut Vectors, sealed: &SealedPayload) -> Bytes {
    let request_key = expand(&[b"request", &SESSION.0]);
    vectors.add("request key of the session", &request_key);
    vectors.add(
        "result key of the session and instance",
        &expand(&[b"result", &SESSION.0, &INSTANCE.0]),
    );
    let chunk = sealed.chunk(0);
    assert_eq!((sealed.chunk_count(), sealed.bytes()), (1, 1_152));
    let mut opened = chunk.to_vec();
    let mut aad = vec![1];
    aad.extend_from_slice(&sealed.bytes().to_le_bytes());
    aad.push(1);
    vectors.add("chunk 0, associated data", &aad);
    let mut nonce = [0; 12];
    nonce[4..].copy_from_slice(&sealed.counter().to_le_bytes());
    Key::new(&request_key).open_in_place(nonce, &aad, &mut opened).unwrap();
    vectors.add("chunk 0 opened, first 136 of 1152 bytes", &opened[..136]);
    vectors.add("chunk 0 sealed, first 32 of 1168 bytes", &chunk[..32]);
    vectors.add("chunk 0 sealed, last 32 bytes", &chunk[chunk.len() - 32..]);
    vectors.add("chunk 0 sealed, its SHA-256", &Sha256::digest(&chunk));
    chunk
}

/// The key by the document's own words, not through the crate.
fn expand(info: &[&[u8]]) -> [u8; 32] {
    let mut key = [0; 32];
    Hkdf::<Sha256>::new(None, &PAYLOAD_SECRET).expand_multi_info(info, &mut key).unwrap();
    key
}

fn call_header() -> Bytes {
    let header =
        CallHeader { call: Call::Named { function: "echo".to_owned() }, codec: Codec::Msgpack };
    encode_header(&header).into()
}

fn inline_payload(sealer: &mut PayloadSealer) -> InlineBytes {
    match sealer.pack(vec![call_header(), Bytes::from_static(&[0x91, 0x05])]).unwrap() {
        Packed::Inline(inline) => inline,
        Packed::Chunked(_) => unreachable!("a few bytes go inline"),
    }
}

fn chunked_payload(sealer: &mut PayloadSealer) -> SealedPayload {
    let data: Vec<u8> = (0..1_024_u32).map(|place| (place % 256) as u8).collect();
    match sealer.pack(vec![call_header(), data.into()]).unwrap() {
        Packed::Chunked(payload) => payload,
        Packed::Inline(_) => unreachable!("more than a kibibyte goes in chunks"),
    }
}

fn welcome() -> Welcome {
    Welcome {
        connection: 1,
        start: START,
        cluster_name: "default".to_owned(),
        cluster: ClusterId::of(&IssuerKey::from_seed(ISSUER_SEED).public()),
        software: "furlong 0.1.0".to_owned(),
        heartbeat_idle_ms: 5_000,
        heartbeat_dead_ms: 15_000,
        unfinished_tasks_max: 1_000,
        payload_credit_bytes: 1 << 26,
        resumed: false,
        memory_flag: "--memory".to_owned(),
    }
}

fn submit(n: u64, targets: Targets, payload: Payload) -> Submit {
    Submit {
        n: TaskSeq(n),
        targets,
        runtime: Runtime::Native,
        class: 7,
        define: None,
        options: None,
        payload,
    }
}

fn batch<M: Message>(messages: &[&M]) -> Vec<u8> {
    let mut batch = Vec::new();
    for message in messages {
        encode_message(*message, &mut batch);
    }
    batch
}

fn seal(sealer: &mut RecordSealer, batch: &[u8], chunks: &[&Bytes]) -> Vec<u8> {
    let mut envelope = vec![0; SEQ_BYTES];
    envelope.extend_from_slice(batch);
    sealer.seal(&mut envelope, 0, chunks);
    envelope
}

fn messages(vectors: &mut Vectors) {
    headers(vectors);
    greetings(vectors);
    from_client(vectors);
    to_client(vectors);
    to_engine(vectors);
    from_engine(vectors);
}

fn add_all<M: Message>(
    vectors: &mut Vectors,
    direction: &str,
    messages: &[M],
    name: impl Fn(&M) -> &'static str,
) {
    for message in messages {
        vectors.add(&format!("{direction} {}", name(message)), &batch(&[message]));
    }
}

/// A command, and one with inputs.
fn commands() -> (CommandSpec, CommandSpec) {
    let command =
        CommandSpec { argv: vec!["true".into()], task: Some(3), ..CommandSpec::default() };
    let paths = vec![InputPath { argument: 1, offset: 0, input: 1 }];
    let extras = CommandExtras { whole_output: true, stdin: vec![0], paths };
    let with_inputs = CommandSpec { extras, ..command.clone() };
    (command, with_inputs)
}

fn headers(vectors: &mut Vectors) {
    let source = Call::Source {
        file: "f.py".to_owned(),
        hash: FunctionHash([12; 32]),
        source: None,
        function: "f".to_owned(),
    };
    let execute = Call::Execute { source: "1 + 1".to_owned() };
    vectors.add("call header, named", &call_header());
    vectors.add(
        "call header, execute",
        &encode_header(&CallHeader { call: execute, codec: Codec::Json }),
    );
    let (command, with_inputs) = commands();
    for (name, call) in [
        ("run", Call::Run { file: "s.py".to_owned(), source: "x = 1".into() }),
        ("push", Call::Push),
        ("pull", Call::Pull { names: vec!["x".to_owned()] }),
        ("keys", Call::Keys),
        ("clear", Call::Clear),
        ("command with inputs", Call::Command(Box::new(with_inputs))),
        ("command", Call::Command(Box::new(command))),
    ] {
        vectors.add(
            &format!("call header, {name}"),
            &encode_header(&CallHeader { call, codec: Codec::Json }),
        );
    }
    vectors.add(
        "call header, source",
        &encode_header(&CallHeader { call: source, codec: Codec::Pickle }),
    );
    let pickled = PickledCall {
        name: "f".to_owned(),
        hash: Some(FunctionHash([12; 32])),
        blob: None,
        python: (3, 12),
        has_code: true,
    };
    vectors.add(
        "call header, pickled",
        &encode_header(&CallHeader { call: Call::Pickled(pickled), codec: Codec::Pickle }),
    );
    let error = RemoteError {
        type_name: "ValueError".to_owned(),
        message: "no".to_owned(),
        traceback: String::new(),
        execution: None,
    };
    vectors.add(
        "reply header, returned",
        &encode_reply(&ReplyHeader::Returned { codec: Codec::Msgpack }),
    );
    let executed = ReplyHeader::Executed { count: 1, repr: Some("2".to_owned()), displays: vec![] };
    vectors.add("reply header, executed", &encode_reply(&executed));
    let metadata = [("image/png".to_owned(), r#"{"width": 10}"#.to_owned())].into();
    let data = [("image/png".to_owned(), "cG5n".to_owned())].into();
    let displays = vec![Display { data, is_value: false, metadata }];
    vectors.add(
        "reply header, displayed",
        &encode_reply(&ReplyHeader::Displayed { codec: Codec::Pickle, displays }),
    );
    let exited = |written| ReplyHeader::Exited { code: Some(3), signal: None, written };
    vectors.add("reply header, exited", &encode_reply(&exited(None)));
    let whole = encode_reply(&exited(Some((5, 300))));
    vectors.add("reply header, exited with whole output", &whole);
    vectors.add("reply header, raised", &encode_reply(&ReplyHeader::Raised(error)));
}

fn greetings(vectors: &mut Vectors) {
    let refused = Refused { kind: RefusalKind::Unauthorized, text: "no".to_owned() };
    add_all(
        vectors,
        "Greeting",
        &[Greeting::Welcome(welcome()), Greeting::Refused(refused)],
        Greeting::name,
    );
}

fn from_client(vectors: &mut Vectors) {
    let inline = || Payload::Inline((&[0]).into());
    let tasks = || vec![TaskRange { session: SESSION, first: TaskSeq(1), last: TaskSeq(2) }];
    let query = TaskQuery { newest_session: true, limit: 200, ..TaskQuery::default() };
    let direct = Targets::Engines(vec![EngineId(0), EngineId(3)]);
    let options = Submit { options: Some(Box::new(options())), ..submit(3, direct, inline()) };
    let all = [
        FromClient::Chunk(Chunk { transfer: 1 }),
        FromClient::Goodbye(Goodbye { reason: "done".to_owned() }),
        FromClient::Credit(Credit { payload_bytes_total: 1_000 }),
        FromClient::Passed(PASSED),
        FromClient::Open(Open {
            secret: PayloadSecret::new(PAYLOAD_SECRET),
            cancel_on_disconnect: false,
            submitted: TaskSeq::MIN,
            hides_names: false,
        }),
        FromClient::Submit(submit(1, Targets::Shared, inline())),
        FromClient::Submit(options),
        FromClient::Define(Define { number: 1, payload: inline() }),
        FromClient::Cancel(Cancel {
            ranges: vec![(TaskSeq(1), TaskSeq(1)), (TaskSeq(5), TaskSeq(300))],
            force: false,
        }),
        FromClient::Signal(Signal { request: 1, engines: vec![EngineId(0)], signal: 2 }),
        FromClient::Restart(Restart { request: 1, engines: vec![EngineId(0), EngineId(3)] }),
        FromClient::CancelTasks(CancelTasks { request: 1, tasks: tasks(), force: false }),
        FromClient::Query(Request { request: 1, query: Query::Engines }),
        FromClient::Query(Request { request: 1, query: Query::EnginesAfter(EngineId(3)) }),
        FromClient::Query(Request { request: 2, query: Query::Status }),
        FromClient::Query(Request {
            request: 2,
            query: Query::StatusAfter(StatusPlace::Process(1)),
        }),
        FromClient::Query(Request {
            request: 2,
            query: Query::StatusAfter(StatusPlace::Engine(EngineId(3))),
        }),
        FromClient::Query(Request { request: 3, query: Query::Tasks(Box::new(query)) }),
        FromClient::Subscribe(Subscribe { engines: true }),
        FromClient::Fetch(Fetch {
            request: 4,
            session: SESSION,
            n: TaskSeq(1),
            wait: true,
            output: false,
        }),
        FromClient::Ack(Ack {
            ranges: vec![(TaskSeq(1), TaskSeq(2)), (TaskSeq(4), TaskSeq(4))].into(),
        }),
        FromClient::Purge(Purge { request: 5, tasks: tasks() }),
        FromClient::Revoke(Revoke { request: 6, tokens: vec![TOKEN_ID] }),
        FromClient::Shutdown(Shutdown { request: 7, engines: None, finish: true, broker: true }),
        FromClient::TakeBack(TakeBack { request: 8, tasks: tasks() }),
        FromClient::Undefine(Undefine { number: 1 }),
        FromClient::Query(Request { request: 4, query: Query::Look(Box::new(look())) }),
        FromClient::Query(Request { request: 4, query: Query::Look(look_for_loads().into()) }),
        FromClient::Name(KindName {
            class: 7,
            runtime: Runtime::Python,
            name: "load.parquet".to_owned(),
        }),
    ];
    add_all(vectors, "FromClient", &all, FromClient::name);
}

fn options() -> TaskOptions {
    let task = TaskId { session: SESSION, n: TaskSeq(1) };
    TaskOptions {
        label: Some("a".to_owned()),
        priority: -1,
        retries: Some(0),
        after: vec![Dependency { task, success: true, failure: false }],
        require: vec!["gpu".to_owned()],
        abort_on_error: true,
        ..TaskOptions::default()
    }
}

fn to_client(vectors: &mut Vectors) {
    let chunked =
        Payload::Chunked { transfer: 1, counter: 0, bytes: 2_000, instance: Some(INSTANCE) };
    let times =
        TaskTimes { submitted_unix_us: START.0, assigned_us: Some(40), finished_us: 120, run: RUN };
    let mut failed = Outcome::error(TaskState::Failed, ErrorKind::Remote, "");
    if let Some(error) = &mut failed.error {
        error.raised = Some(Raised::new("ValueError", 0x0102_0304));
    }
    let finished = |outcome, payload| Finished {
        n: TaskSeq(1),
        outcome,
        engine: Some(EngineId(0)),
        attempts: 1,
        times,
        payload,
    };
    let reply = |body| ToClient::Reply(Reply { request: 1, body });
    let all = [
        ToClient::Chunk(Chunk { transfer: 1 }),
        ToClient::Goodbye(Goodbye { reason: "done".to_owned() }),
        ToClient::Credit(Credit { payload_bytes_total: 1_000 }),
        ToClient::Passed(PASSED),
        ToClient::Accepted(Accepted {
            n: TaskSeq(2),
            missing: vec![(TaskSeq(1), TaskSeq(1))],
            definitions: vec![1],
        }),
        ToClient::Finished(finished(Outcome::SUCCEEDED, Some(chunked))),
        ToClient::Finished(finished(failed, None)),
        ToClient::Output(Output {
            n: TaskSeq(1),
            attempt: 1,
            engine: EngineId(0),
            stream: Stream::Stdout,
            offset: 0,
            bytes: b"Hello\n".to_vec(),
        }),
        ToClient::Published(Published { n: TaskSeq(1), payload: Payload::Inline((&[0]).into()) }),
        ToClient::Event(Event::EngineOnline(EngineId(3))),
        ToClient::Event(Event::EngineOffline(EngineId(3))),
        ToClient::Event(Event::EngineRestarted(EngineId(3), "exit code 1".to_owned())),
        reply(ReplyBody::Engines(vec![EngineId(0), EngineId(3)])),
        reply(ReplyBody::SomeEngines(vec![EngineId(0), EngineId(3)])),
        reply(ReplyBody::Status(Box::new(status()))),
        reply(ReplyBody::Refused("no".to_owned())),
        reply(ReplyBody::Done),
        reply(ReplyBody::Cancelled(1, 2)),
        reply(ReplyBody::Tasks(vec![record()], None)),
        reply(ReplyBody::Seen(Box::new(seen()))),
        reply(ReplyBody::Seen(Box::new(seen_with_loads()))),
        ToClient::Stopped(Stopped { n: TaskSeq(1) }),
        ToClient::Fetched(Fetched {
            request: 1,
            record: Box::new(record()),
            secret: None,
            payload: None,
        }),
        ToClient::FetchedOutput(FetchedOutput {
            request: 1,
            attempt: 1,
            engine: EngineId(0),
            stream: Stream::Stdout,
            offset: 0,
            bytes: b"Hello\n".to_vec(),
        }),
    ];
    add_all(vectors, "ToClient", &all, ToClient::name);
}

const RUN: RunTimes = RunTimes { began_us: 2, load_us: 1, run_us: 3, store_us: 0 };

const TASK: TaskId = TaskId { session: SESSION, n: TaskSeq(1) };

fn record() -> TaskRecord {
    let past =
        AttemptRecord { engine: EngineId(0), assigned_us: 1, ended_us: 2, how: "lost".to_owned() };
    TaskRecord {
        id: TaskId { session: SESSION, n: TaskSeq(1) },
        label: Some("a".to_owned()),
        name: Some("f".to_owned()),
        runtime: Runtime::Python,
        target: None,
        priority: 0,
        phase: TaskPhase::Ended,
        outcome: Some(Outcome::SUCCEEDED),
        waits: None,
        engine: Some(EngineId(0)),
        attempts: 2,
        losses: 1,
        errors: 0,
        request_bytes: 10,
        result_bytes: 20,
        stdout_bytes: 6,
        stderr_bytes: 0,
        kept: true,
        times: RecordTimes { submitted_unix_us: START.0, run: RUN, ..RecordTimes::default() },
        past: vec![past],
    }
}

fn status() -> ClusterStatus {
    let process = ProcessStatus {
        host: "w1".to_owned(),
        pid: 4_242,
        cwd: "/".to_owned(),
        software: "furlong 0.1.0".to_owned(),
        runtimes: vec![Runtime::Native, Runtime::Python],
        python: None,
        environment: vec![("CUDA_VISIBLE_DEVICES".to_owned(), "0".to_owned())],
        leaving: false,
        labels: vec![],
        address: "192.0.2.1:40000".to_owned(),
        engines: vec![EngineId(0)],
        job: Some("4711".to_owned()),
        ends_in_ms: Some(3_585_000),
    };
    let engine = EngineStatus {
        id: EngineId(0),
        uuid: EngineUuid([11; 16]),
        online: true,
        tasks_assigned: 1,
        tasks_queued: 2,
        tasks_finished: 3,
        busy_us: 4,
        stuck: 0,
        set_aside: vec![SetAside {
            runtime: Runtime::Command,
            is_whole_runtime: false,
            cause: "there is no program `x`".to_owned(),
            failures: 1,
            retry_in_ms: 1_000,
        }],
    };
    ClusterStatus {
        cluster_name: "default".to_owned(),
        start: START,
        uptime_ms: 1_500,
        pid: 4_141,
        software: "furlong 0.1.0".to_owned(),
        clients: 1,
        tasks_waiting: 0,
        tasks_held: 0,
        tasks_assigned: 1,
        results_held: 0,
        tasks_finished: 3,
        payload_bytes: (0, 1 << 29),
        processes: vec![process],
        engines: vec![engine],
        more: Some(StatusPlace::Engine(EngineId(3))),
    }
}

fn attempts() -> Attempts {
    Attempts { attempts: vec![attempt()] }
}

fn attempt() -> Attempt {
    Attempt { start: START, id: AttemptId(5) }
}

fn to_engine(vectors: &mut Vectors) {
    let inline = || Payload::Inline((&[0]).into());
    let all = [
        ToEngine::Chunk(Chunk { transfer: 1 }),
        ToEngine::Goodbye(Goodbye { reason: "done".to_owned() }),
        ToEngine::Credit(EngineCredit { session: SESSION, payload_bytes_total: 1_000 }),
        ToEngine::Passed(PASSED),
        ToEngine::Registered(Registered { engines: vec![EngineId(0), EngineId(1)] }),
        ToEngine::Secret(Secret {
            session: SESSION,
            secret: PayloadSecret::new(PAYLOAD_SECRET),
            payload_credit_bytes: 1_000,
            hides_names: false,
        }),
        ToEngine::Assign(Assign {
            work: AtLeastOne::new(Work { slot: 0, n: TaskSeq(1), attempt: AttemptId(5) }),
            session: Some(SESSION),
            runtime: Runtime::Native,
            define: Some(1),
            share: None,
            payload: inline(),
        }),
        ToEngine::Define(EngineDefine { session: SESSION, number: 1, payload: inline() }),
        ToEngine::Forget(Forget { session: SESSION }),
        ToEngine::Cancel(CancelAttempts { attempts: vec![attempt()], force: true }),
        ToEngine::Signal(SignalAttempts { attempts: vec![attempt()], signal: 2 }),
        ToEngine::Restart(Slots { slots: vec![0] }),
        ToEngine::Recall(attempts()),
        ToEngine::Release(Release::of(START, [5, 6, 9].map(AttemptId).to_vec())),
        ToEngine::Shutdown(EngineShutdown { reason: "done".to_owned(), finish: true }),
        ToEngine::Share(Share { share: 1, session: SESSION, payload: inline() }),
        ToEngine::Unshare(Unshare { share: 1 }),
        ToEngine::Adopt(Adopt { attempts: vec![(attempt(), attempt())] }),
        ToEngine::Undefine(EngineUndefine { session: SESSION, number: 1 }),
        ToEngine::Announce(attempts()),
        ToEngine::Granted(Granted { attempt: attempt(), key: PassKey([12; 32]), refusal: None }),
        ToEngine::Take(attempts()),
        ToEngine::Value(Value { value: 2, session: SESSION, secret: None, payload: inline() }),
        ToEngine::Value(Value {
            value: 2,
            session: SESSION,
            secret: Some(PayloadSecret::new(PAYLOAD_SECRET)),
            payload: inline(),
        }),
        ToEngine::Inputs(Inputs { attempt: AttemptId(5), values: vec![2] }),
        ToEngine::Inspect(Inspect {
            number: 7,
            slot: 1,
            attempt: Some(attempt()),
            sessions: vec![SESSION],
            all: false,
            sampling: None,
        }),
        ToEngine::Measure(Measure { number: 9 }),
    ];
    add_all(vectors, "ToEngine", &all, ToEngine::name);
}

fn from_engine(vectors: &mut Vectors) {
    let inline = || Payload::Inline((&[0]).into());
    let finished = AttemptFinished {
        attempt: attempt(),
        outcome: Outcome::SUCCEEDED,
        times: RUN,
        payload: Some(inline()),
    };
    let all = [
        FromEngine::Chunk(Chunk { transfer: 1 }),
        FromEngine::Goodbye(Goodbye { reason: "done".to_owned() }),
        FromEngine::Credit(Credit { payload_bytes_total: 1_000 }),
        FromEngine::Passed(PASSED),
        FromEngine::Register(register().into()),
        FromEngine::Started(attempts()),
        FromEngine::Finished(finished),
        FromEngine::Output(AttemptOutput {
            attempt: attempt(),
            stream: Stream::Stderr,
            offset: 6,
            bytes: b"Hello\n".to_vec(),
        }),
        FromEngine::Published(AttemptPublished { attempt: attempt(), payload: inline() }),
        FromEngine::Recalled(attempts()),
        FromEngine::NeedBlob(NeedBlob { session: SESSION, number: 1 }),
        FromEngine::SlotDown(SlotDown { slot: 0, cause: "exit code 1".to_owned() }),
        FromEngine::Draining(Draining { reason: "SIGTERM".to_owned() }),
        FromEngine::Grant(Grant { attempt: attempt(), key: PassKey([12; 32]) }),
        FromEngine::Lent(Lent { attempt: attempt(), sessions: vec![SESSION] }),
        FromEngine::Back(attempts()),
        FromEngine::Inspected(Inspected {
            number: 7,
            attempt: Some(attempt()),
            refusal: None,
            contents: b"{}".to_vec(),
        }),
        FromEngine::Measured(Measured { number: 9, machine: MACHINE, slots: vec![SLOT_LOAD] }),
    ];
    add_all(vectors, "FromEngine", &all, FromEngine::name);
}

fn register() -> Register {
    Register {
        instance: INSTANCE,
        host: "w1".to_owned(),
        pid: 4_242,
        cwd: "/".to_owned(),
        slots: vec![Slot { uuid: EngineUuid([11; 16]), wanted: None }],
        runtimes: vec![Runtime::Native, Runtime::Python],
        python: Some("/usr/bin/python3".to_owned()),
        environment: vec![("python".to_owned(), "3.11.2".to_owned())],
        labels: vec!["gpu".to_owned()],
        held: vec![HeldWork {
            attempt: attempt(),
            session: SESSION,
            n: TaskSeq(1),
            slot: 0,
            finished: false,
        }],
        received: Some(attempt()),
        dropped: None,
        job: Some("15_2".to_owned()),
        ends_in_ms: Some(3_585_000),
    }
}
