//! The session against a broker that the test plays.

mod handles;
mod resume;
mod stay;

use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Wake, Waker};

use bytes::Bytes;
use furlong_wire::call::{
    Call as HeaderCall, CallHeader, Codec, PickledCall, RemoteError, ReplyHeader, decode_header,
    encode_header, encode_reply,
};
use furlong_wire::capability::Endpoint;
use furlong_wire::ids::{ClusterId, EngineId, InstanceId};
use furlong_wire::message::{
    ErrorKind, Finished, Outcome, Query, Reply, ReplyBody, Request, Runtime, Stream, TaskState,
};

use super::definitions::{Definition, Instead};
use super::requests::Answer;
use super::*;
use crate::error::DisconnectCause;
use crate::outcome::{FailureKind, PayloadFailure, TaskOutcome};
use furlong_wire::ids::FunctionHash;

/// The core, with those who wait as the shell has them.
type Core = super::Core<Waker>;

const SESSION: SessionId = SessionId([7; 16]);
const INSTANCE: InstanceId = InstanceId([9; 16]);
const TASKS_MAX: u64 = 4;
const CREDIT_BYTES: u64 = 10_000;

fn secret() -> PayloadSecret {
    PayloadSecret::new([1; 32])
}

/// The welcome of that start of the broker, which knows no session.
fn welcome(start: u64, payload_credit_bytes: u64) -> Welcome {
    Welcome {
        connection: 1,
        start: BrokerStart(start),
        cluster_name: "default".into(),
        cluster: ClusterId([1; 32]),
        software: String::new(),
        heartbeat_idle_ms: 5_000,
        heartbeat_dead_ms: 15_000,
        unfinished_tasks_max: TASKS_MAX,
        payload_credit_bytes,
        resumed: false,
        memory_flag: "--memory".into(),
    }
}

fn core() -> Core {
    let mut core = Core::new(SESSION, secret(), false, true, false, &welcome(1, CREDIT_BYTES));
    assert!(matches!(core.poll_outbound(), Some(Outbound::Message(FromClient::Open(_)))));
    core
}

fn call(bytes: usize) -> Call {
    let content = Content::Buffers(Bytes::from(vec![5; bytes]), Vec::new());
    let (targets, runtime) = (Targets::Shared, Runtime::Native);
    Call { targets, runtime, class: 1, definition: None, options: None, content }
}

fn submit(core: &mut Core) -> Submitted {
    core.submit_shared(&mut call(8), Listener::Future(None)).unwrap()
}

fn query(core: &mut Core, query: Query) -> Result<u64, ClientError> {
    core.request(|request| FromClient::Query(Request { request, query }))
}

/// Everything that is to be sent, by name, with the numbers that matter.
fn sent(core: &mut Core) -> Vec<String> {
    let describe = |outbound| match outbound {
        Outbound::Message(FromClient::Submit(submit)) => {
            format!("submit {} {:?}", submit.n, submit.define)
        }
        Outbound::Message(FromClient::Define(define)) => format!("define {}", define.number),
        Outbound::Message(FromClient::Ack(ack)) => {
            let ranges = ack.ranges.0.iter().map(|(first, last)| (first.0, last.0));
            format!("ack {:?}", ranges.collect::<Vec<_>>())
        }
        Outbound::Message(message) => format!("message {}", message.name()),
        Outbound::Control(message) => format!("control {}", message.name()),
        Outbound::Transfer(number, _) => format!("transfer {number}"),
    };
    std::iter::from_fn(|| core.poll_outbound()).map(describe).collect()
}

fn finished(n: u64, payload: Option<Payload>) -> ToClient {
    let outcome = Outcome::SUCCEEDED;
    let engine = Some(EngineId(3));
    ToClient::Finished(Finished {
        n: TaskSeq(n),
        outcome,
        engine,
        attempts: 1,
        times: TaskTimes::default(),
        payload,
    })
}

fn sealed(value: &[u8]) -> Packed {
    let header = encode_reply(&ReplyHeader::Returned { codec: Codec::Raw });
    let mut sealer = secret().result_key(&SESSION, &INSTANCE).into_sealer();
    sealer.pack(vec![header, Bytes::copy_from_slice(value)]).unwrap()
}

fn returned(n: u64) -> ToClient {
    let Packed::Inline(bytes) = sealed(b"value") else { panic!("five bytes go inline") };
    finished(n, Some(Payload::Inline(bytes)))
}

/// A large result: its announcement as transfer 1, and its chunk.
fn announced(n: u64, value: &[u8]) -> (ToClient, Bytes) {
    let Packed::Chunked(payload) = sealed(value) else { panic!("a large result goes in chunks") };
    let (counter, bytes) = (payload.counter(), payload.bytes());
    let announcement = Payload::Chunked { transfer: 1, counter, bytes, instance: Some(INSTANCE) };
    (finished(n, Some(announcement)), payload.chunk(0))
}

fn chunk() -> ToClient {
    ToClient::Chunk(message::Chunk { transfer: 1 })
}

fn take(core: &mut Core, task: Submitted) -> Option<TaskOutcome> {
    match core.poll_task(task.key, Waker::noop(), &mut None) {
        Poll::Ready(ended) => Some(ended.into_result(SESSION)),
        Poll::Pending => None,
    }
}

fn why() -> Arc<Disconnected> {
    let endpoint = Endpoint::new("head", 7000).unwrap();
    Arc::new(Disconnected { endpoint, cause: DisconnectCause::ClosedByBroker })
}

/// Counts how often it is woken.
#[derive(Default)]
struct Wakes(AtomicUsize);

impl Wake for Wakes {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

fn wake_all(core: &mut Core) {
    for it in core.take_wakes() {
        Waker::wake(it);
    }
}

#[test]
fn a_result_wakes_and_resolves_its_future() {
    let mut core = core();
    let task = submit(&mut core);
    assert_eq!(sent(&mut core), ["submit 1 None"]);
    let wakes = Arc::new(Wakes::default());
    assert!(core.poll_task(task.key, &Arc::clone(&wakes).into(), &mut None).is_pending());
    core.handle_message(returned(1), None);
    wake_all(&mut core);
    assert_eq!(wakes.0.load(Ordering::Relaxed), 1);
    let result = take(&mut core, task).unwrap().unwrap();
    assert_eq!((&result.data[0][..], result.report.id.n), (&b"value"[..], TaskSeq(1)));
    assert_eq!(result.report.engine, Some(EngineId(3)));
}

#[test]
fn numbers_are_consecutive_over_both_interfaces() {
    let mut core = core();
    submit(&mut core);
    let mut direct = Call { targets: Targets::Engines(vec![EngineId(0), EngineId(1)]), ..call(8) };
    let tasks = core.submit_direct(&mut direct).unwrap();
    assert_eq!(tasks.iter().map(|task| task.n.0).collect::<Vec<_>>(), [2, 3]);
    assert_eq!(submit(&mut core).n, TaskSeq(4));
    assert_eq!(sent(&mut core), ["submit 1 None", "submit 2 None", "submit 4 None"]);
}

#[test]
fn repeated_and_unknown_ends_are_ignored() {
    let mut core = core();
    let task = submit(&mut core);
    core.handle_message(returned(1), None);
    core.handle_message(finished(1, None), None);
    core.handle_message(returned(2), None);
    take(&mut core, task).unwrap().unwrap();
    core.handle_message(returned(1), None);
    let ack = message::Ack { ranges: vec![(TaskSeq(1), TaskSeq(1))].into() };
    assert_eq!(core.poll_ack(true), Some(FromClient::Ack(ack)));
    assert_eq!(core.poll_ack(true), None);
}

#[test]
fn a_task_that_nobody_waits_for_is_acknowledged() {
    let mut core = core();
    let task = submit(&mut core);
    core.forget_task(task.key);
    core.handle_message(returned(1), None);
    assert!(core.poll_ack(false).is_none(), "one result waits for company");
    assert!(core.poll_ack(true).is_some());
}

#[test]
fn the_bound_of_tasks_is_lifted_by_acknowledging_first() {
    let mut core = core();
    let tasks: Vec<_> = (0..TASKS_MAX).map(|_| submit(&mut core)).collect();
    sent(&mut core);
    let mut refused = call(8);
    let result = core.submit_shared(&mut refused, Listener::Future(None));
    assert!(matches!(result, Err(ClientError::Busy)));

    let wakes = Arc::new(Wakes::default());
    let mut ticket = None;
    core.wait_for_room(&mut ticket, &Arc::clone(&wakes).into());
    core.handle_message(returned(2), None);
    assert!(core.poll_ack(false).is_some(), "somebody waits for it");
    wake_all(&mut core);
    assert_eq!(wakes.0.load(Ordering::Relaxed), 1);

    assert_eq!(
        core.submit_shared(&mut refused, Listener::Future(None)).unwrap().n,
        TaskSeq(TASKS_MAX + 1)
    );
    core.handle_message(returned(1), None);
    submit(&mut core);
    assert_eq!(sent(&mut core), ["submit 5 None", "ack [(1, 1)]", "submit 6 None"]);
    take(&mut core, tasks[0]).unwrap().unwrap();
}

#[test]
fn chunked_payloads_wait_for_credit_and_keep_what_was_packed() {
    let mut core = core();
    core.submit_shared(&mut call(6_000), Listener::Nobody).unwrap();
    assert_eq!(sent(&mut core), ["submit 1 None", "transfer 1"]);
    let mut waiting = call(6_000);
    assert!(matches!(core.submit_shared(&mut waiting, Listener::Nobody), Err(ClientError::Busy)));
    submit(&mut core);
    core.handle_message(
        ToClient::Credit(message::Credit { payload_bytes_total: 2 * CREDIT_BYTES }),
        None,
    );
    core.submit_shared(&mut waiting, Listener::Nobody).unwrap();
    assert_eq!(sent(&mut core), ["submit 2 None", "submit 3 None", "transfer 2"]);
    let too_large = core.submit_shared(&mut call(3 * CREDIT_BYTES as usize), Listener::Nobody);
    assert!(matches!(too_large, Err(ClientError::PayloadTooLarge { bytes_max: 30_000, .. })));
}

#[test]
fn a_definition_is_sent_once_before_its_first_use() {
    let mut core = core();
    let definition = Arc::new(Definition::new(FunctionHash([1; 32]), vec![b'#'; 2_000].into()));
    let with =
        |definition: &Arc<Definition>| Call { definition: Some(Arc::clone(definition)), ..call(8) };
    core.submit_shared(&mut with(&definition), Listener::Nobody).unwrap();
    core.submit_shared(&mut with(&definition), Listener::Nobody).unwrap();
    let short = Arc::new(Definition::new(FunctionHash([2; 32]), vec![b'#'; 600].into()));
    core.submit_shared(&mut with(&short), Listener::Nobody).unwrap();
    let expected = [
        "define 1",
        "transfer 1",
        "submit 1 Some(1)",
        "submit 2 Some(1)",
        "define 2",
        "submit 3 Some(2)",
    ];
    assert_eq!(sent(&mut core), expected);
}

#[test]
fn a_function_beyond_all_definitions_goes_with_its_calls() {
    let mut core = core();
    for n in 1..=4000_u32 {
        let hash = [&n.to_le_bytes()[..], &[0; 28]].concat();
        core.definitions.insert(
            FunctionHash(hash.try_into().unwrap()),
            n,
            Packed::Inline((&[]).into()),
        );
    }
    let support = Arc::new(Definition::new(FunctionHash([1; 32]), b"text".as_slice().into()));
    let instead =
        Instead { function: b"pickle".as_slice().into(), definition: Some(Arc::clone(&support)) };
    let source = b"both".as_slice().into();
    let definition =
        Definition { instead: Some(instead), ..Definition::new(FunctionHash([2; 32]), source) };
    let pickled =
        PickledCall { name: "f".into(), hash: None, blob: None, python: (3, 12), has_code: false };
    let header = CallHeader { call: HeaderCall::Pickled(pickled), codec: Codec::Pickle };
    let content = Content::Buffers(encode_header(&header).into(), Vec::new());
    let mut call = Call { definition: Some(Arc::new(definition)), content, ..call(8) };
    core.do_without_definition(&mut call);
    let Content::Buffers(header, _) = &call.content else { panic!("not packed yet") };
    let header = decode_header::<CallHeader>(header).unwrap().call;
    let HeaderCall::Pickled(pickled) = header else { panic!("{header:?}") };
    assert_eq!(pickled.blob.unwrap(), b"pickle");
    core.submit_shared(&mut call, Listener::Nobody).unwrap();
    assert_eq!(sent(&mut core), ["message Name", "define 4001", "submit 1 Some(4001)"]);
}

#[test]
fn a_large_result_is_opened_when_it_is_whole() {
    let mut core = core();
    let task = submit(&mut core);
    let value = vec![4; 5_000];
    let (announcement, sealed) = announced(1, &value);
    core.handle_message(announcement, None);
    assert!(take(&mut core, task).is_none());
    assert!(core.poll_ack(true).is_none(), "it has not arrived");
    core.handle_message(chunk(), Some(&sealed));
    assert_eq!(take(&mut core, task).unwrap().unwrap().data, [Bytes::from(value)]);
    assert!(core.poll_ack(true).is_some());
}

#[test]
fn a_forged_chunk_fails_its_task_alone() {
    let mut core = core();
    let (task, other) = (submit(&mut core), submit(&mut core));
    let (announcement, sealed) = announced(1, &[4; 5_000]);
    core.handle_message(announcement, None);
    let mut forged = sealed.to_vec();
    forged[100] ^= 1;
    core.handle_message(chunk(), Some(&forged));
    core.handle_message(chunk(), Some(&sealed));
    let failure = take(&mut core, task).unwrap().unwrap_err();
    assert!(matches!(*failure.error, FailureKind::Payload(PayloadFailure::Open(_))), "{failure}");
    core.handle_message(returned(2), None);
    take(&mut core, other).unwrap().unwrap();
}

#[test]
fn an_exception_keeps_type_text_and_engine() {
    let mut core = core();
    let task = submit(&mut core);
    let error = RemoteError {
        type_name: "ValueError".into(),
        message: "no".into(),
        traceback: "Traceback\n".into(),
        execution: None,
    };
    let header = encode_reply(&ReplyHeader::Raised(error));
    let mut sealer = secret().result_key(&SESSION, &INSTANCE).into_sealer();
    let Packed::Inline(bytes) = sealer.pack(vec![header]).unwrap() else { panic!("it is short") };
    let ToClient::Finished(mut finished) = finished(1, Some(Payload::Inline(bytes))) else {
        panic!("made above")
    };
    finished.outcome = Outcome::error(TaskState::Failed, ErrorKind::Remote, "");
    core.handle_message(ToClient::Finished(finished), None);
    let failure = take(&mut core, task).unwrap().unwrap_err();
    assert_eq!(failure.to_string(), "ValueError: no (engine 3)");
    assert_eq!(
        (failure.kind(), failure.state()),
        (Some(ErrorKind::Remote), Some(TaskState::Failed))
    );
}

#[test]
fn output_comes_with_the_report_and_another_attempt_begins_anew() {
    let mut core = core();
    let task = submit(&mut core);
    let mut piece = |engine, stream, offset, bytes: &[u8]| {
        let output = message::Output {
            n: TaskSeq(1),
            attempt: engine + 1,
            engine: EngineId(engine),
            stream,
            offset,
            bytes: bytes.to_vec(),
        };
        core.handle_message(ToClient::Output(output), None);
    };
    piece(1, Stream::Stdout, 0, b"lost");
    piece(3, Stream::Stdout, 0, b"one ");
    piece(3, Stream::Stderr, 0, b"oh");
    piece(3, Stream::Stdout, 4, b"two");
    core.handle_message(returned(1), None);
    let report = take(&mut core, task).unwrap().unwrap().report;
    assert_eq!((report.stdout.text().as_str(), report.stderr.text().as_str()), ("one two", "oh"));
}

#[test]
fn a_cancel_overtakes_others_but_not_its_own_submit() {
    let mut core = core();
    submit(&mut core);
    core.cancel(&[(TaskSeq(1), TaskSeq(1))], false);
    assert_eq!(sent(&mut core), ["submit 1 None", "message Cancel"]);
    core.handle_flushed();
    submit(&mut core);
    core.cancel(&[(TaskSeq(1), TaskSeq(1))], true);
    core.cancel(&[(TaskSeq(2), TaskSeq(2))], true);
    assert_eq!(sent(&mut core), ["submit 2 None", "control Cancel", "message Cancel"]);
}

#[test]
fn a_stream_takes_ends_in_batches_and_knows_when_it_is_idle() {
    let mut core = core();
    let stream = core.open_stream();
    let mut into = VecDeque::new();
    assert!(matches!(core.poll_stream(stream, &mut into, Waker::noop()), Taken::Idle));
    (0..3).for_each(|index| core.submit_streamed(&mut call(8), stream, index).unwrap());
    assert!(matches!(core.poll_stream(stream, &mut into, Waker::noop()), Taken::Waiting(None)));
    core.handle_message(returned(3), None);
    core.handle_message(returned(1), None);
    assert!(matches!(core.poll_stream(stream, &mut into, Waker::noop()), Taken::Some));
    assert_eq!(into.drain(..).map(|(index, _)| index).collect::<Vec<_>>(), [2, 0]);
    core.cancel_stream(stream, false);
    core.forget_stream(stream);
    core.handle_message(returned(2), None);
    assert!(matches!(core.poll_stream(stream, &mut into, Waker::noop()), Taken::Idle));
    let cancel = std::iter::from_fn(|| core.poll_outbound()).last().unwrap();
    let Outbound::Message(FromClient::Cancel(cancel)) = cancel else { panic!("{cancel:?}") };
    assert_eq!(cancel.ranges, [(TaskSeq(2), TaskSeq(2))]);
}

#[test]
fn an_answer_resolves_its_query_and_a_forgotten_one_is_ignored() {
    let mut core = core();
    let request = query(&mut core, Query::Engines).unwrap();
    let forgotten = query(&mut core, Query::Engines).unwrap();
    assert!(core.poll_answer(request, Waker::noop(), &mut None).is_pending());
    core.forget_request(forgotten);
    for request in [forgotten, request] {
        let body = ReplyBody::Engines(vec![EngineId(0)]);
        core.handle_message(ToClient::Reply(Reply { request, body }), None);
    }
    let answer = core.poll_answer(request, Waker::noop(), &mut None);
    let Poll::Ready(Ok(Answer::Reply(ReplyBody::Engines(engines)))) = answer else {
        panic!("the answer has come")
    };
    assert_eq!(engines, [EngineId(0)]);
}

#[test]
fn the_end_of_the_connection_ends_everything_once() {
    let mut core = core();
    let (done, pending) = (submit(&mut core), submit(&mut core));
    let stream = core.open_stream();
    core.submit_streamed(&mut call(8), stream, 0).unwrap();
    let request = query(&mut core, Query::Status).unwrap();
    core.handle_message(returned(1), None);
    core.disconnect(&why());
    core.disconnect(&why());
    take(&mut core, done).unwrap().unwrap();
    let failure = take(&mut core, pending).unwrap().unwrap_err();
    assert!(matches!(*failure.error, FailureKind::Disconnected(_)));
    assert!(
        failure.to_string().starts_with("the connection to the broker at tcp://head:7000 was lost"),
        "{failure}"
    );
    assert!(matches!(core.poll_stream(stream, &mut VecDeque::new(), Waker::noop()), Taken::Some));
    let answer = core.poll_answer(request, Waker::noop(), &mut None);
    assert!(matches!(answer, Poll::Ready(Err(ClientError::Disconnected(_)))));
    let refused = core.submit_shared(&mut call(8), Listener::Nobody);
    assert!(matches!(refused, Err(ClientError::Disconnected(_))));
    core.handle_message(returned(2), None);
    assert!(core.poll_ack(true).is_none());
}

#[test]
fn closing_says_goodbye_after_what_was_submitted() {
    let mut core = core();
    submit(&mut core);
    core.close(&why());
    core.close(&why());
    assert_eq!(sent(&mut core), ["submit 1 None", "message Goodbye"]);
    assert!(core.poll_finished(Waker::noop()).is_pending());
    core.finish();
    assert!(core.poll_finished(Waker::noop()).is_ready());
}
