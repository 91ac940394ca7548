use super::catalogue::decode_by_serde;
use super::quick::{Input, put_by_serde};
use super::*;
use proptest::prelude::*;

use crate::AtLeastOne;
use crate::ids::{
    Attempt, AttemptId, BrokerStart, EngineId, EngineUuid, FunctionHash, InstanceId, SessionId,
    TaskId, TaskSeq, TokenId,
};
use crate::limits::{
    ERROR_TEXT_BYTES_MAX, ERROR_TYPE_BYTES_MAX, HELD_RESULTS_MAX, LENT_SESSIONS_MAX, LISTED_MAX,
    MESSAGE_BYTES_MAX, NAME_BYTES_MAX, OUTPUT_MESSAGE_BYTES_MAX, SLOTS_PER_PROCESS_MAX,
    SUBMIT_TARGETS_MAX,
};

/// Messages survive the round trip, and both ways to write and to read them agree.
fn crosses<M: Message + PartialEq + Clone>(messages: &[M]) {
    let (mut batch, mut by_serde) = (Vec::new(), Vec::new());
    for message in messages {
        encode_message(message, &mut batch);
        put_by_serde(message, &mut by_serde);
    }
    assert_eq!(batch, by_serde);
    let decoded: Vec<M> = decode_batch(&batch).collect::<Result<_, _>>().unwrap();
    assert_eq!(decoded, messages);
    reads_as_serde_does::<M>(&batch);
}

/// Asserts that serde agrees on a message that can be read without it at the front of some bytes;
/// false if none can be.
fn reads_as_serde_does<M: Message + PartialEq>(bytes: &[u8]) -> bool {
    let mut input = Input(bytes);
    let Some(message) = M::take(&mut input) else { return false };
    let mut rest = bytes;
    assert_eq!(decode_by_serde(&mut rest), Ok(message));
    assert_eq!(rest, input.0);
    true
}

fn any_payload() -> impl Strategy<Value = Payload> {
    prop_oneof![
        proptest::collection::vec(any::<u8>(), 0..200)
            .prop_map(|bytes| Payload::Inline(bytes.into())),
        any::<(u64, u64, u64, Option<[u8; 16]>)>().prop_map(
            |(transfer, counter, bytes, instance)| {
                Payload::Chunked { transfer, counter, bytes, instance: instance.map(InstanceId) }
            }
        ),
    ]
}

fn any_targets() -> impl Strategy<Value = Targets> {
    let engines = proptest::collection::vec(any::<u32>().prop_map(EngineId), 0..5);
    prop_oneof![Just(Targets::Shared), engines.prop_map(Targets::Engines)]
}

fn any_options() -> impl Strategy<Value = TaskOptions> {
    let parts = any::<(
        Option<String>,
        i32,
        Option<u32>,
        bool,
        Option<u64>,
        Vec<String>,
        [u8; 16],
        u64,
        bool,
    )>();
    parts.prop_map(
        |(
            label,
            priority,
            retries,
            at_most_once,
            queue_timeout_ms,
            require,
            session,
            n,
            success,
        )| {
            let dependency = Dependency {
                task: TaskId { session: SessionId(session), n: TaskSeq(n) },
                success,
                failure: !success,
            };
            TaskOptions {
                label,
                priority,
                retries,
                at_most_once,
                queue_timeout_ms,
                require,
                after: vec![dependency],
                ..TaskOptions::default()
            }
        },
    )
}

fn any_outcome() -> impl Strategy<Value = Outcome> {
    let state = proptest::sample::select(TaskState::ALL);
    let error = proptest::option::of((proptest::sample::select(ErrorKind::ALL), any::<String>()));
    (state, error).prop_map(|(state, error)| Outcome {
        state,
        error: error.map(|(kind, text)| {
            Box::new(TaskError { kind, raised: Some(Raised::new(&text, 7)), text })
        }),
    })
}

proptest! {
    #[test]
    fn submits_survive_the_round_trip(
        n: u64, targets in any_targets(), class: u32, define: Option<u32>,
        options in proptest::option::of(any_options()), payload in any_payload(),
    ) {
        let options = options.map(Box::new);
        let runtime = Runtime::Python;
        let submit = Submit { n: TaskSeq(n), targets, runtime, class, define, options, payload };
        let chunk = FromClient::Chunk(Chunk { transfer: n });
        crosses(&[FromClient::Submit(submit.clone()), chunk, FromClient::Submit(submit)]);
    }

    #[test]
    fn work_and_results_survive_the_round_trip(
        count: u64, n: u64, slot: u32, payload in any_payload(), outcome in any_outcome(),
        bytes: Vec<u8>,
    ) {
        let attempt = Attempt { start: BrokerStart(n), id: AttemptId(count) };
        let session = (n % 2 == 0).then_some(SessionId([3; 16]));
        let work = AtLeastOne::new(Work { slot, n: TaskSeq(n), attempt: attempt.id });
        let (runtime, define, share) = (Runtime::Native, None, None);
        let assign = Assign { work, session, runtime, define, share, payload: payload.clone() };
        crosses(&[ToEngine::Assign(assign)]);
        let payload = Some(payload);
        let run = RunTimes { began_us: count, load_us: n, run_us: n, store_us: 0 };
        let finished = AttemptFinished { attempt, outcome: outcome.clone(), times: run, payload };
        let output = AttemptOutput { attempt, stream: Stream::Stderr, offset: n, bytes };
        crosses(&[FromEngine::Output(output), FromEngine::Finished(finished)]);
        let times = TaskTimes {
            submitted_unix_us: n,
            assigned_us: Some(count),
            finished_us: n,
            run,
        };
        let engine = Some(EngineId(slot));
        let (n, attempts) = (TaskSeq(n), 1);
        let finished = Finished { n, outcome, engine, attempts, times, payload: None };
        crosses(&[ToClient::Finished(finished)]);
    }

    #[test]
    fn any_bytes_are_read_or_refused_in_bounded_memory(
        bytes in proptest::collection::vec(any::<u8>(), 0..300),
    ) {
        let half = &bytes[..bytes.len() / 2];
        for _ in decode_batch::<FromClient>(&bytes).chain(decode_batch::<FromClient>(half)) {}
        for _ in decode_batch::<FromEngine>(&bytes) {}
        for _ in decode_batch::<ToClient>(&bytes) {}
        for _ in decode_batch::<ToEngine>(&bytes) {}
        for _ in decode_batch::<Greeting>(&bytes) {}
    }
}

/// A message of each kind that is read without serde, with small and large numbers.
fn hot_batches(number: u64, inline: usize, targets: Targets) -> [Vec<u8>; 4] {
    let payload = Payload::Inline(vec![7; inline].into());
    let attempt = Attempt { start: BrokerStart(u64::MAX - number), id: AttemptId(number) };
    let (session, define, small) =
        (Some(SessionId([0xc0; 16])), Some(number as u32), number as u32);
    let outcome = Outcome::SUCCEEDED;
    let run = RunTimes { began_us: number, load_us: 0, run_us: number, store_us: !number };
    let times = TaskTimes {
        submitted_unix_us: !number,
        assigned_us: Some(number),
        finished_us: number,
        run,
    };
    let part = Work { slot: small, n: TaskSeq(number), attempt: AttemptId(number) };
    let work = AtLeastOne { first: part.clone(), others: vec![part; number as usize % 20] };
    let (n, engine) = (TaskSeq(number), Some(EngineId(small)));
    let (runtime, class) = (Runtime::Native, small);
    let options = None;
    let encode = |put: &dyn Fn(&mut Vec<u8>)| {
        let mut batch = Vec::new();
        put(&mut batch);
        batch
    };
    let submit = FromClient::Submit(Submit {
        n,
        targets,
        runtime,
        class,
        define,
        options,
        payload: payload.clone(),
    });
    let assign = ToEngine::Assign(Assign {
        work,
        session,
        runtime,
        define,
        share: Some(number),
        payload: payload.clone(),
    });
    let result = Some(payload);
    let ended = FromEngine::Finished(AttemptFinished {
        attempt,
        outcome: outcome.clone(),
        times: run,
        payload: result.clone(),
    });
    let finished = ToClient::Finished(Finished {
        n,
        outcome,
        engine,
        attempts: small,
        times,
        payload: result,
    });
    [
        encode(&|batch| encode_message(&submit, batch)),
        encode(&|batch| encode_message(&assign, batch)),
        encode(&|batch| encode_message(&ended, batch)),
        encode(&|batch| encode_message(&finished, batch)),
    ]
}

fn reads_all_as_serde_does(batch: &[u8]) -> bool {
    let client = reads_as_serde_does::<FromClient>(batch) | reads_as_serde_does::<ToClient>(batch);
    client | reads_as_serde_does::<ToEngine>(batch) | reads_as_serde_does::<FromEngine>(batch)
}

proptest! {
    #[test]
    fn changed_bytes_are_read_as_serde_reads_them(
        number: u64, bits in 0u32..64, inline in 0usize..1100, targets in any_targets(),
        at: prop::sample::Index, byte: u8,
    ) {
        for mut batch in hot_batches(number >> bits, inline, targets) {
            let many_parts = batch[1] == 50 && (number >> bits) % 20 > 0;
            prop_assert_eq!(reads_all_as_serde_does(&batch), inline <= 1024 && !many_parts);
            let at = at.index(batch.len().min(60));
            batch[at] = byte;
            reads_all_as_serde_does(&batch);
            reads_all_as_serde_does(&batch[..at]);
        }
    }

    #[test]
    fn acknowledgements_credits_and_lists_survive_the_round_trip(
        ranges: Vec<(u64, u64)>, total: u64, starts: Vec<(u64, u64)>,
    ) {
        let ranges: Vec<_> =
            ranges.into_iter().map(|(first, last)| (TaskSeq(first), TaskSeq(last))).collect();
        let ack = FromClient::Ack(Ack { ranges: ranges.into() });
        crosses(&[ack, FromClient::Credit(Credit { payload_bytes_total: total })]);
        let attempt = |(start, id)| Attempt { start: BrokerStart(start), id: AttemptId(id) };
        let attempts = starts.into_iter().map(attempt).collect();
        let chunk = FromEngine::Chunk(Chunk { transfer: total });
        crosses(&[FromEngine::Started(Attempts { attempts }), chunk]);
    }
}

#[test]
fn a_batch_cut_anywhere_ends_in_one_error() {
    let mut batch = Vec::new();
    encode_message(
        &FromClient::Ack(Ack { ranges: vec![(TaskSeq(1), TaskSeq(2))].into() }),
        &mut batch,
    );
    let first = batch.len();
    encode_message(&FromClient::Goodbye(Goodbye { reason: "done".into() }), &mut batch);
    for len in 1..batch.len() {
        let items: Vec<_> = decode_batch::<FromClient>(&batch[..len]).collect();
        assert_eq!(
            items.iter().filter(|item| item.is_err()).count(),
            usize::from(len != first),
            "{len} bytes"
        );
        assert_eq!(items.len(), if len <= first { 1 } else { 2 }, "{len} bytes");
    }
}

#[test]
fn an_unknown_tag_and_an_oversized_inline_payload_are_refused() {
    let mut batch = Vec::new();
    batch.extend_from_slice(&rmp_serde::to_vec(&(200u8, ())).unwrap());
    assert_eq!(decode_batch::<FromClient>(&batch).next(), Some(Err(MessageError)));
    let define = Define { number: 1, payload: Payload::Inline(vec![0; 1025].into()) };
    batch.clear();
    encode_message(&FromClient::Define(define), &mut batch);
    assert_eq!(decode_batch::<FromClient>(&batch).next(), Some(Err(MessageError)));
}

#[test]
fn a_declared_length_beyond_the_batch_takes_no_memory() {
    // [18, [1, bin32 of 2^32 - 1 bytes]]: refused at its end, not reserved.
    let huge = [0x92, 18, 0x92, 1, 0xc6, 0xff, 0xff, 0xff, 0xff, 0];
    assert_eq!(decode_batch::<FromClient>(&huge).next(), Some(Err(MessageError)));
    // [26, [array32 of 2^32 - 1 ranges]]
    let huge = [0x92, 26, 0x91, 0xdd, 0xff, 0xff, 0xff, 0xff];
    assert_eq!(decode_batch::<FromClient>(&huge).next(), Some(Err(MessageError)));
    // [66, [attempt, outcome, run, nil and one part too many]]: a body that goes on is none.
    let more = [0x92, 29, 0x95, 1, 0xc0, 0xc3, 0xc3, 0];
    assert_eq!(decode_batch::<FromClient>(&more).next(), Some(Err(MessageError)));
}

/// Every message that lists something, as long as its sender makes it at most.
/// Asserts that a message of the greatest length fits in a record.
fn fits<M: Message>(message: &M) {
    let bytes = encoded_bytes(message);
    assert!(bytes <= MESSAGE_BYTES_MAX, "{bytes} bytes");
}

const LAST_ATTEMPT: Attempt = Attempt { start: BrokerStart(u64::MAX), id: AttemptId::MAX };

#[test]
fn the_longest_message_of_each_kind_from_the_broker_fits_a_record() {
    let attempt = LAST_ATTEMPT;
    let attempts = vec![attempt; LISTED_MAX];
    let engines = vec![EngineId(u32::MAX); SLOTS_PER_PROCESS_MAX];
    fits(&ToEngine::Cancel(CancelAttempts { attempts: attempts.clone(), force: true }));
    fits(&ToEngine::Signal(SignalAttempts { attempts: attempts.clone(), signal: 64 }));
    fits(&ToEngine::Recall(Attempts { attempts: attempts.clone() }));
    fits(&ToEngine::Adopt(Adopt { attempts: vec![(attempt, attempt); LISTED_MAX] }));
    fits(&ToEngine::Release(Release {
        start: BrokerStart(u64::MAX),
        steps: vec![u64::MAX; LISTED_MAX],
    }));
    fits(&ToEngine::Registered(Registered { engines }));
    let accepted = Accepted {
        n: TaskSeq::MAX,
        missing: vec![(TaskSeq::MAX, TaskSeq::MAX); LISTED_MAX],
        definitions: vec![u32::MAX; LISTED_MAX],
    };
    fits(&ToClient::Accepted(accepted));
}

#[test]
fn the_longest_message_of_each_kind_from_a_client_fits_a_record() {
    fits(&FromClient::Name(KindName {
        class: u32::MAX,
        runtime: Runtime::Command,
        name: "n".repeat(NAME_BYTES_MAX),
    }));
    let session = SessionId([0xff; 16]);
    let range = TaskRange { session, first: TaskSeq::MAX, last: TaskSeq::MAX };
    let engines = vec![EngineId(u32::MAX); SUBMIT_TARGETS_MAX];
    fits(&FromClient::Cancel(Cancel {
        ranges: vec![(TaskSeq::MAX, TaskSeq::MAX); LISTED_MAX],
        force: true,
    }));
    fits(&FromClient::Ack(Ack {
        ranges: (0..LISTED_MAX as u64)
            .map(|n| TaskSeq(n << 50))
            .map(|n| (n, n))
            .collect::<Vec<_>>()
            .into(),
    }));
    let (request, tasks) = (u64::MAX, vec![range; LISTED_MAX]);
    fits(&FromClient::CancelTasks(CancelTasks { request, tasks: tasks.clone(), force: true }));
    fits(&FromClient::TakeBack(TakeBack { request, tasks: tasks.clone() }));
    fits(&FromClient::Purge(Purge { request, tasks }));
    fits(&FromClient::Revoke(Revoke { request, tokens: vec![TokenId([0xff; 16]); LISTED_MAX] }));
    fits(&FromClient::Signal(Signal { request, engines: engines.clone(), signal: 64 }));
    fits(&FromClient::Restart(Restart { request, engines: engines.clone() }));
    fits(&FromClient::Shutdown(Shutdown {
        request,
        engines: Some(engines),
        finish: true,
        broker: true,
    }));
}

#[test]
fn the_longest_message_of_each_kind_from_an_engine_fits_a_record() {
    let (name, path) = ("n".repeat(NAME_BYTES_MAX), "p".repeat(4096));
    let (attempt, session) = (LAST_ATTEMPT, SessionId([0xff; 16]));
    let attempts = vec![attempt; LISTED_MAX];
    fits(&FromEngine::Recalled(Attempts { attempts: attempts.clone() }));
    fits(&FromEngine::Started(Attempts {
        attempts: attempts[..2 * SLOTS_PER_PROCESS_MAX].to_vec(),
    }));
    fits(&FromEngine::Lent(Lent { attempt, sessions: vec![session; LENT_SESSIONS_MAX] }));
    let text = "t".repeat(ERROR_TEXT_BYTES_MAX);
    fits(&FromEngine::SlotDown(SlotDown { slot: u32::MAX, cause: text }));
    let bytes = vec![0; OUTPUT_MESSAGE_BYTES_MAX];
    fits(&FromEngine::Output(AttemptOutput {
        attempt,
        stream: Stream::Stdout,
        offset: u64::MAX,
        bytes,
    }));
    let held = HeldWork { attempt, session, n: TaskSeq::MAX, slot: u32::MAX, finished: true };
    let slot = Slot { uuid: EngineUuid([0xff; 16]), wanted: Some(EngineId(u32::MAX)) };
    fits(&FromEngine::Register(Box::new(Register {
        instance: InstanceId([0xff; 16]),
        host: name.clone(),
        pid: u32::MAX,
        cwd: path.clone(),
        slots: vec![slot; SLOTS_PER_PROCESS_MAX],
        runtimes: Runtime::ALL.to_vec(),
        python: Some(path),
        environment: vec![(name[..32].to_owned(), name.clone()); 8],
        labels: vec![name; 64],
        held: vec![held; HELD_RESULTS_MAX],
        received: Some(attempt),
        dropped: Some(attempt),
        job: Some("j".repeat(NAME_BYTES_MAX)),
        ends_in_ms: Some(u64::MAX),
    })));
}

#[test]
fn the_name_of_a_type_is_cut_between_characters() {
    let raised = Raised::new(&format!("{}é", "E".repeat(ERROR_TYPE_BYTES_MAX - 1)), 1);
    assert_eq!(raised.type_name, "E".repeat(ERROR_TYPE_BYTES_MAX - 1));
    assert_eq!(Raised::new("ValueError", 1).type_name, "ValueError");
}

#[test]
fn debug_output_shows_no_secret_and_no_content() {
    let open = Open {
        secret: crate::payload::PayloadSecret::new([0x77; 32]),
        cancel_on_disconnect: false,
        submitted: TaskSeq::MIN,
        hides_names: false,
    };
    let payload = Payload::Inline(b"private".into());
    let shown = format!("{open:?} {payload:?} {:?}", FunctionHash([1; 32]));
    assert!(!shown.contains("119") && !shown.contains("private"), "{shown}");
}
