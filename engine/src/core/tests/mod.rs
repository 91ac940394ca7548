//! Tests of the core: a process with virtual slots, to which the test speaks as the broker.

use furlong_wire::call::{Call, Codec, ReplyHeader};
use furlong_wire::ids::{AttemptId, BrokerStart};
use furlong_wire::limits::{ASKED_FOR_TRANSFER, OUTPUT_KEPT_BYTES, OUTPUT_MESSAGE_BYTES_MAX};
use furlong_wire::message::Work as AssignedWork;
use furlong_wire::message::{
    Adopt, CancelAttempts, Chunk, EngineCredit, EngineDefine, Forget, Secret,
};
use furlong_wire::payload::{
    InlineBytes, PayloadOpener, PayloadSealer, PayloadSecret, SealedPayload, unpack_inline,
};

use super::results::UNSENT_OUTPUT_MAX;
use super::*;
use crate::job::{AttemptEnd, AttemptOutcome, JobTimes, OutputStream};
use furlong_wire::call::{decode_reply, encode_header};
use furlong_wire::message::{AttemptFinished, AttemptOutput, ErrorKind, TaskState};
use furlong_wire::payload::Packed;

mod control;
mod held;
mod leave;
mod lending;
mod shares;
mod values;

const INSTANCE: InstanceId = InstanceId([1; 16]);
const SESSION: SessionId = SessionId([2; 16]);
const CREDIT: u64 = 10_000;
use Runtime::{Native, Python};

/// An engine process, and the client whose tasks it runs.
struct Process {
    core: Core,
    client: PayloadSealer,
    attempts: u64,
    transfers: u64,
}

/// The outputs of the core: jobs to start, messages to send, payloads to send, and the rest.
#[derive(Default)]
struct Done {
    started: Vec<(SlotIndex, Runtime, Job)>,
    sent: Vec<FromEngine>,
    transfers: Vec<SealedPayload>,
    rest: Vec<Output>,
}

impl Process {
    /// Connected, and knows the session.
    fn new(slots: u32) -> Self {
        let mut core = Core::new(INSTANCE, slots);
        core.handle_connected(START, 3 * CREDIT);
        core.handle_message(ToEngine::Secret(told()), None).unwrap();
        Self {
            core,
            client: secret().request_key(&SESSION).into_sealer(),
            attempts: 0,
            transfers: 0,
        }
    }

    fn done(&mut self) -> Done {
        let mut done = Done::default();
        while let Some(output) = self.core.poll_output() {
            match output {
                Output::Start(slot, runtime, job) => done.started.push((slot, runtime, job)),
                Output::Send(message) => done.sent.push(message),
                Output::Transfer(_, chunks) => done.transfers.extend(chunks.payload().cloned()),
                other => done.rest.push(other),
            }
        }
        done
    }

    fn tell(&mut self, message: ToEngine) {
        self.core.handle_message(message, None).unwrap();
    }

    /// Gives small work to a slot.
    fn assign(&mut self, slot: SlotIndex, runtime: Runtime) -> Attempt {
        self.assign_defined(slot, runtime, None)
    }

    fn assign_defined(
        &mut self,
        slot: SlotIndex,
        runtime: Runtime,
        define: Option<u32>,
    ) -> Attempt {
        let Packed::Inline(inline) = self.client.pack(call(b"small")).unwrap() else {
            panic!("it is small")
        };
        let (assign, attempt) = self.assignment(slot, runtime, define, Payload::Inline(inline));
        self.tell(ToEngine::Assign(assign));
        attempt
    }

    /// Announces large work for a slot. Its chunk is still to come.
    fn assign_large(&mut self, slot: SlotIndex, runtime: Runtime) -> (Attempt, u64, Bytes) {
        let (payload, transfer, chunk) = self.large(call(&[7; 5_000]));
        let (assign, attempt) = self.assignment(slot, runtime, None, payload);
        self.tell(ToEngine::Assign(assign));
        (attempt, transfer, chunk)
    }

    fn assignment(
        &mut self,
        slot: SlotIndex,
        runtime: Runtime,
        define: Option<u32>,
        payload: Payload,
    ) -> (Assign, Attempt) {
        self.attempts += 1;
        let attempt = Attempt { start: START, id: AttemptId(self.attempts) };
        let work =
            AtLeastOne::new(AssignedWork { slot, n: TaskSeq(self.attempts), attempt: attempt.id });
        (Assign { work, session: Some(SESSION), runtime, define, share: None, payload }, attempt)
    }

    /// Seals buffers as the client does: their announcement, and their only chunk.
    fn large(&mut self, buffers: Vec<Bytes>) -> (Payload, u64, Bytes) {
        let Packed::Chunked(sealed) = self.client.pack(buffers).unwrap() else {
            panic!("it is large")
        };
        assert_eq!(sealed.chunk_count(), 1);
        self.transfers += 1;
        let (transfer, counter, bytes) = (self.transfers, sealed.counter(), sealed.bytes());
        (Payload::Chunked { transfer, counter, bytes, instance: None }, transfer, sealed.chunk(0))
    }

    fn chunk(&mut self, transfer: u64, chunk: &[u8]) -> Result<(), BrokerMisbehaved> {
        self.core.handle_message(ToEngine::Chunk(Chunk { transfer }), Some(chunk))
    }

    /// A job ends as it should, with a result of that many bytes.
    fn finish(&mut self, slot: SlotIndex, job: u64, result_bytes: usize) {
        self.end(slot, job, AttemptOutcome::Succeeded, vec![vec![3; result_bytes].into()]);
    }

    fn end(&mut self, slot: SlotIndex, job: u64, outcome: AttemptOutcome, data: Vec<Bytes>) {
        self.core.handle_slot_event(slot, ended(job, outcome, data));
    }

    /// The broker wants all that is held, as it is.
    /// A connection is there, and the broker has told of the session.
    fn connect(&mut self, credit: u64) {
        self.core.handle_connected(START, credit);
        self.tell(ToEngine::Secret(Secret { payload_credit_bytes: credit, ..told() }));
    }

    fn adopt_all(&mut self) {
        let attempts =
            self.core.held().work.into_iter().map(|held| (held.attempt, held.attempt)).collect();
        self.tell(ToEngine::Adopt(Adopt { attempts }));
    }

    fn writes(&mut self, slot: SlotIndex, job: u64, bytes: impl Into<Bytes>) {
        let event = SlotEvent::Output {
            attempt: SlotJob(job),
            stream: OutputStream::Stdout,
            bytes: bytes.into(),
        };
        self.core.handle_slot_event(slot, event);
    }
}

impl Done {
    fn jobs(&self) -> Vec<(SlotIndex, Runtime, u64)> {
        self.started.iter().map(|(slot, runtime, job)| (*slot, *runtime, job.attempt.0)).collect()
    }

    fn finished(&self) -> Vec<&AttemptFinished> {
        self.sent
            .iter()
            .filter_map(|it| if let FromEngine::Finished(it) = it { Some(it) } else { None })
            .collect()
    }

    fn outputs(&self) -> Vec<&AttemptOutput> {
        self.sent
            .iter()
            .filter_map(|it| if let FromEngine::Output(it) = it { Some(it) } else { None })
            .collect()
    }
}

/// The event of a job's end.
fn ended(job: u64, outcome: AttemptOutcome, data: Vec<Bytes>) -> SlotEvent {
    let header = ReplyHeader::Returned { codec: Codec::Raw };
    let times = JobTimes { run_us: 5, ..JobTimes::default() };
    SlotEvent::Finished {
        attempt: SlotJob(job),
        reply: AttemptEnd { data, times, ..AttemptEnd::without_data(outcome, header) },
    }
}

const START: BrokerStart = BrokerStart(1);

/// Returns the broker's message about the session.
fn told() -> Secret {
    Secret { session: SESSION, secret: secret(), payload_credit_bytes: CREDIT, hides_names: false }
}

fn secret() -> PayloadSecret {
    PayloadSecret::new([3; 32])
}

fn call(data: &[u8]) -> Vec<Bytes> {
    vec![encode_header(&header()).into(), Bytes::copy_from_slice(data)]
}

fn header() -> CallHeader {
    CallHeader { call: Call::Named { function: "f".into() }, codec: Codec::Raw }
}

fn failure(finished: &AttemptFinished) -> (TaskState, Option<ErrorKind>) {
    (finished.outcome.state, finished.outcome.error.as_ref().map(|error| error.kind))
}

fn recalled(attempt: Attempt) -> FromEngine {
    FromEngine::Recalled(Attempts { attempts: vec![attempt] })
}

#[test]
fn work_goes_to_its_slot_in_order() {
    let mut process = Process::new(2);
    for slot in [0, 1, 0] {
        process.assign(slot, Native);
    }
    assert_eq!(process.done().jobs(), [(0, Native, 1), (1, Native, 2), (0, Native, 3)]);
}

#[test]
fn a_job_waits_until_the_other_runtimes_jobs_before_it_have_left_its_slot() {
    let mut process = Process::new(1);
    for runtime in [Native, Native, Python, Native] {
        process.assign(0, runtime);
    }
    assert_eq!(process.done().jobs(), [(0, Native, 1), (0, Native, 2)]);
    process.finish(0, 1, 3);
    assert!(process.done().started.is_empty());
    process.finish(0, 2, 3);
    assert_eq!(process.done().jobs(), [(0, Python, 3)], "the last one does not overtake it");
    process.finish(0, 3, 3);
    assert_eq!(process.done().jobs(), [(0, Native, 4)]);
}

#[test]
fn small_and_large_arguments_arrive() {
    let mut process = Process::new(1);
    process.assign(0, Native);
    let (_, transfer, chunk) = process.assign_large(0, Native);
    process.chunk(transfer, &chunk).unwrap();
    let jobs = process.done().started;
    assert_eq!(jobs[0].2.data, [&b"small"[..]]);
    assert_eq!(jobs[1].2.data, [vec![7; 5_000]]);
    assert!(jobs.iter().all(|(_, _, job)| *job.header == header() && job.definition.is_none()));
}

#[test]
fn a_forged_chunk_fails_only_its_task() {
    let mut process = Process::new(1);
    let (forged, transfer, chunk) = process.assign_large(0, Native);
    let (_, sound_transfer, sound) = process.assign_large(0, Native);
    let mut chunk = chunk.to_vec();
    chunk[100] ^= 1;
    process.chunk(transfer, &chunk).unwrap();
    process.chunk(sound_transfer, &sound).unwrap();
    let done = process.done();
    assert_eq!(done.finished()[0].attempt, forged);
    assert_eq!(failure(done.finished()[0]), (TaskState::Failed, Some(ErrorKind::Remote)));
    assert_eq!(done.started.len(), 1);
}

#[test]
fn a_call_that_cannot_be_read_fails_only_its_task() {
    let mut process = Process::new(1);
    for bytes in [&b""[..], b"\x01\x03\x00abc"] {
        let (assign, _) =
            process.assignment(0, Native, None, Payload::Inline(bytes.to_vec().into()));
        process.tell(ToEngine::Assign(assign));
    }
    process.assign(0, Native);
    let done = process.done();
    assert_eq!((done.finished().len(), done.started.len()), (2, 1));
}

#[test]
fn work_of_unknown_sessions_or_slots_is_the_brokers_misbehaviour() {
    let mut process = Process::new(1);
    let inline = || Payload::Inline(InlineBytes::new());
    let (unknown_slot, _) = process.assignment(2, Native, None, inline());
    let (assign, _) = process.assignment(0, Native, None, inline());
    let unknown_session = Assign { session: Some(SessionId([9; 16])), ..assign };
    for assign in [unknown_slot, unknown_session] {
        let result = process.core.handle_message(ToEngine::Assign(assign), None);
        assert_eq!(result, Err(BrokerMisbehaved::Assign));
    }
}

#[test]
fn unknown_and_repeated_transfers_are_the_brokers_misbehaviour() {
    let mut process = Process::new(1);
    assert_eq!(process.chunk(1, b"?"), Err(BrokerMisbehaved::Transfer));
    process.assign_large(0, Native);
    process.transfers -= 1;
    let (payload, ..) = process.large(call(&[7; 5_000]));
    let (assign, _) = process.assignment(0, Native, None, payload);
    let repeated = process.core.handle_message(ToEngine::Assign(assign), None);
    assert_eq!(repeated, Err(BrokerMisbehaved::Transfer));
}

#[test]
fn calls_get_the_definition_that_they_name() {
    let mut process = Process::new(1);
    let Packed::Inline(inline) = process.client.pack(vec![Bytes::from_static(b"def f")]).unwrap()
    else {
        panic!()
    };
    process.tell(ToEngine::Define(EngineDefine {
        session: SESSION,
        number: 1,
        payload: Payload::Inline(inline),
    }));
    let (payload, transfer, chunk) = process.large(vec![vec![8; 5_000].into()]);
    process.tell(ToEngine::Define(EngineDefine { session: SESSION, number: 2, payload }));
    process.chunk(transfer, &chunk).unwrap();
    for number in [1, 2] {
        process.assign_defined(0, Native, Some(number));
    }
    let done = process.done();
    let definitions: Vec<_> =
        done.started.iter().map(|(_, _, job)| job.definition.clone().unwrap()).collect();
    assert_eq!(definitions, [&b"def f"[..], &[8; 5_000]]);
}

/// A process with two slots; the first has work whose definition is arriving, and other work behind
/// it.
fn one_undefined() -> (Process, [Attempt; 2], u64, Bytes) {
    let mut process = Process::new(2);
    let (payload, transfer, chunk) = process.large(vec![vec![8; 5_000].into()]);
    process.tell(ToEngine::Define(EngineDefine { session: SESSION, number: 1, payload }));
    let attempts = [process.assign_defined(0, Native, Some(1)), process.assign(0, Native)];
    process.assign(1, Native);
    assert_eq!(process.done().jobs(), [(1, Native, 3)], "the other slot does not wait");
    (process, attempts, transfer, chunk)
}

#[test]
fn work_waits_for_a_definition_that_is_arriving() {
    let (mut process, _, transfer, chunk) = one_undefined();
    process.chunk(transfer, &chunk).unwrap();
    assert_eq!(process.done().jobs(), [(0, Native, 1), (0, Native, 2)]);
}

#[test]
fn a_forged_definition_fails_the_work_that_names_it() {
    let (mut process, attempts, transfer, chunk) = one_undefined();
    let mut chunk = chunk.to_vec();
    chunk[0] ^= 1;
    process.chunk(transfer, &chunk).unwrap();
    let later = process.assign_defined(0, Native, Some(1));
    let done = process.done();
    assert_eq!(
        done.finished().iter().map(|it| it.attempt).collect::<Vec<_>>(),
        [attempts[0], later]
    );
    assert_eq!(done.jobs(), [(0, Native, 2)]);
}

#[test]
fn work_that_a_cut_left_incomplete_is_not_held_and_not_in_the_way() {
    let (mut process, attempts, ..) = one_undefined();
    process.core.handle_disconnected();
    assert!(process.done().started.is_empty(), "nothing begins in its place");
    let held = process.core.held();
    assert!(held.work.len() == 1 && held.work.iter().all(|held| !attempts.contains(&held.attempt)));
    assert!(held.received < Some(attempts[0]), "it is as if they had never come");
    process.connect(CREDIT);
    process.assign(0, Native);
    assert_eq!(process.done().jobs(), [(0, Native, 4)]);
}

#[test]
fn nothing_is_kept_for_a_session_that_has_ended() {
    let (mut process, attempts, transfer, chunk) = one_undefined();
    process.tell(ToEngine::Cancel(CancelAttempts { attempts: attempts.to_vec(), force: false }));
    process.tell(ToEngine::Forget(Forget { session: SESSION }));
    process.chunk(transfer, &chunk).unwrap();
    assert!(process.core.undefined.is_empty());
}

#[test]
fn work_waits_for_the_payload_of_the_work_before_it() {
    let mut process = Process::new(2);
    let (first, transfer, chunk) = process.assign_large(0, Native);
    let second = process.assign(0, Native);
    process.assign(1, Native);
    assert_eq!(process.done().started.len(), 1, "the other slot does not wait");
    process.chunk(transfer, &chunk).unwrap();
    let jobs = process.done().jobs();
    let attempts: Vec<Attempt> =
        jobs.iter().map(|(_, _, job)| process.core.work[&SlotJob(*job)].attempt).collect();
    assert_eq!(attempts, [first, second]);
}

#[test]
fn small_results_go_inside_their_message_and_large_ones_sealed_for_the_client() {
    let mut process = Process::new(1);
    process.assign(0, Native);
    process.assign(0, Native);
    process.finish(0, 1, 3);
    process.finish(0, 2, 5_000);
    let done = process.done();
    assert!(matches!(done.finished()[0].payload, Some(Payload::Inline(_))));
    let Some(Payload::Chunked { transfer: 1, counter, bytes, instance: Some(INSTANCE) }) =
        done.finished()[1].payload
    else {
        panic!("{:?}", done.finished())
    };
    let mut opener =
        PayloadOpener::new(secret().result_key(&SESSION, &INSTANCE), counter, bytes).unwrap();
    opener.handle_chunk(&done.transfers[0].chunk(0)).unwrap();
    let buffers = opener.into_buffers().unwrap();
    assert_eq!(decode_reply(&buffers[0]), Ok(ReplyHeader::Returned { codec: Codec::Raw }));
    assert_eq!(buffers[1], vec![3; 5_000]);
}

/// Ends that were sent: of which attempt, and whether its result is to be asked for, or comes.
fn ends(done: &Done) -> Vec<(u64, Option<bool>)> {
    let comes = |payload: &Payload| match payload {
        Payload::Chunked { transfer, .. } => Some(*transfer != ASKED_FOR_TRANSFER),
        Payload::Inline(_) => None,
    };
    done.finished()
        .iter()
        .map(|it| (it.attempt.id.0, it.payload.as_ref().and_then(comes)))
        .collect()
}

fn grant(total: u64) -> ToEngine {
    ToEngine::Credit(EngineCredit { session: SESSION, payload_bytes_total: total })
}

#[test]
fn what_may_not_go_unasked_waits_to_be_asked_for_and_nothing_waits_behind_it() {
    let mut process = Process::new(1);
    let attempts: Vec<Attempt> = (0..5).map(|_| process.assign(0, Native)).collect();
    (1..=3).for_each(|job| process.finish(0, job, 6_000));
    process.finish(0, 4, 3);
    let done = process.done();
    assert_eq!(ends(&done), [(1, Some(true)), (2, Some(false)), (3, Some(false)), (4, None)]);
    assert_eq!((done.transfers.len(), done.started.len()), (1, 5), "the slot goes on");
    process.tell(ToEngine::Take(Attempts { attempts: vec![attempts[2]] }));
    let done = process.done();
    assert_eq!((ends(&done), done.transfers.len()), (vec![(3, Some(true))], 1));
    process.tell(ToEngine::Take(Attempts { attempts: vec![attempts[2], attempts[4]] }));
    assert!(process.done().sent.is_empty(), "it is sent once, and what has not ended not at all");
    process.tell(grant(3 * CREDIT));
    assert!(process.done().sent.is_empty(), "what waits is asked for");
    process.finish(0, 5, 6_000);
    assert_eq!(ends(&process.done()), [(5, Some(true))]);
}

#[test]
fn one_sessions_results_take_nothing_of_what_anothers_may() {
    let mut process = Process::new(2);
    let other = SessionId([9; 16]);
    process.tell(ToEngine::Secret(Secret { session: other, ..told() }));
    (0..2).for_each(|_| _ = process.assign(0, Native));
    (1..=2).for_each(|job| process.finish(0, job, 6_000));
    let Packed::Inline(inline) = process.client.pack(call(b"small")).unwrap() else {
        panic!("it is small")
    };
    let (assign, _) = process.assignment(1, Native, None, Payload::Inline(inline));
    process.tell(ToEngine::Assign(Assign { session: Some(other), ..assign }));
    process.finish(1, 3, 6_000);
    assert_eq!(ends(&process.done()), [(1, Some(true)), (2, Some(false)), (3, Some(true))]);
}

#[test]
fn on_a_new_connection_results_are_asked_for_until_the_session_is_told() {
    let mut process = Process::new(1);
    let attempt = process.assign(0, Native);
    process.finish(0, 1, 5_000);
    process.core.handle_disconnected();
    process.done();
    process.core.handle_connected(START, 3 * CREDIT);
    process.adopt_all();
    assert_eq!(ends(&process.done()), [(1, Some(false))]);
    process.tell(ToEngine::Take(Attempts { attempts: vec![attempt] }));
    assert_eq!(ends(&process.done()), [(1, Some(true))]);
    process.tell(ToEngine::Secret(told()));
    process.assign(0, Native);
    process.finish(0, 2, 5_000);
    assert_eq!(ends(&process.done()), [(2, Some(true))]);
}

#[test]
fn a_result_that_no_credit_will_ever_cover_fails_its_task() {
    let mut process = Process::new(1);
    process.assign(0, Native);
    process.finish(0, 1, 9 * CREDIT as usize + 1);
    assert_eq!(
        process.done().finished().first().map(|it| it.outcome.state),
        Some(TaskState::Failed)
    );
}

#[test]
fn an_end_that_is_no_result_has_no_payload() {
    let mut process = Process::new(1);
    process.assign(0, Python);
    process.assign(0, Python);
    process.end(0, 1, AttemptOutcome::Lost("signal 9".into()), Vec::new());
    process.end(0, 2, AttemptOutcome::Cancelled, Vec::new());
    process.core.handle_slot_event(0, SlotEvent::Down { cause: "signal 9".into() });
    let done = process.done();
    let ends: Vec<_> = done.finished().into_iter().map(failure).collect();
    let lost = (TaskState::Lost, Some(ErrorKind::EngineLost));
    assert_eq!(ends, [lost, (TaskState::Cancelled, Some(ErrorKind::Cancelled))]);
    assert!(done.finished().iter().all(|finished| finished.payload.is_none()));
    assert!(
        matches!(done.sent.last(), Some(FromEngine::SlotDown(down)) if down.cause == "signal 9")
    );
}

#[test]
fn a_result_of_a_session_that_has_ended_says_so() {
    let mut process = Process::new(1);
    process.assign(0, Native);
    process.tell(ToEngine::Forget(Forget { session: SESSION }));
    process.finish(0, 1, 3);
    assert_eq!(
        failure(process.done().finished()[0]),
        (TaskState::Failed, Some(ErrorKind::Payload))
    );
}

#[test]
fn output_goes_out_in_bounded_pieces_and_its_end_before_the_tasks_end() {
    let mut process = Process::new(1);
    process.assign(0, Native);
    process.writes(0, 1, vec![1; 2 * OUTPUT_KEPT_BYTES]);
    process.writes(0, 1, vec![2; OUTPUT_KEPT_BYTES]);
    let live = process.done();
    assert_eq!(live.outputs().iter().map(|it| it.bytes.len()).sum::<usize>(), OUTPUT_KEPT_BYTES);
    process.finish(0, 1, 3);
    let done = process.done();
    assert!(matches!(done.sent.last(), Some(FromEngine::Finished(_))));
    let last = done.outputs();
    assert!(
        last.iter().all(|it| it.bytes.len() <= OUTPUT_MESSAGE_BYTES_MAX
            && it.bytes.iter().all(|byte| *byte == 2))
    );
    assert_eq!(last[0].offset, 2 * OUTPUT_KEPT_BYTES as u64, "the gap can be seen");
    assert_eq!(last.iter().map(|it| it.bytes.len()).sum::<usize>(), OUTPUT_KEPT_BYTES);
}

#[test]
fn output_of_nobody_and_of_ended_jobs_goes_no_further_than_the_log() {
    let mut process = Process::new(1);
    process.assign(0, Native);
    process.finish(0, 1, 3);
    process.done();
    process.writes(0, 1, &b"late"[..]);
    let stray = SlotEvent::StrayOutput {
        stream: OutputStream::Stderr,
        bytes: Bytes::from_static(b"stray"),
    };
    process.core.handle_slot_event(0, stray);
    let done = process.done();
    assert!(
        done.sent.is_empty()
            && matches!(&done.rest[..], [Output::Log(text)] if text.contains("stray"))
    );
}

#[test]
fn a_running_job_is_reported_once_on_each_connection_and_an_ended_one_never() {
    let mut process = Process::new(2);
    let running = process.assign(0, Native);
    process.assign(0, Native);
    process.assign(1, Native);
    process.finish(1, 3, 3);
    process.done();
    for _ in 0..2 {
        assert!(process.core.has_unreported());
        process.core.report_started();
        assert_eq!(
            process.done().sent,
            [FromEngine::Started(Attempts { attempts: vec![running] })]
        );
        process.core.report_started();
        assert!(!process.core.has_unreported() && process.done().sent.is_empty());
        process.core.handle_disconnected();
        process.connect(CREDIT);
    }
}

#[test]
fn cancelled_work_that_waits_ends_at_once_and_running_work_is_interrupted() {
    let mut process = Process::new(1);
    let (running, waiting) = (process.assign(0, Native), process.assign(0, Python));
    process.assign(0, Native);
    process.done();
    let attempts = vec![waiting, running, Attempt { start: BrokerStart(0), id: AttemptId(1) }];
    process.tell(ToEngine::Cancel(CancelAttempts { attempts, force: true }));
    let done = process.done();
    assert_eq!(failure(done.finished()[0]), (TaskState::Cancelled, Some(ErrorKind::Cancelled)));
    assert_eq!((done.finished().len(), done.finished()[0].attempt), (1, waiting));
    assert!(matches!(&done.rest[..], [Output::Cancel(0, Native, SlotJob(1), true)]));
    assert_eq!(done.jobs(), [(0, Native, 3)], "nothing is in the way of the last one any more");
}

#[test]
fn work_that_is_cancelled_while_its_payload_arrives_never_runs() {
    let mut process = Process::new(1);
    let (attempt, transfer, chunk) = process.assign_large(0, Native);
    process.tell(ToEngine::Cancel(CancelAttempts { attempts: vec![attempt], force: false }));
    process.chunk(transfer, &chunk).unwrap();
    let done = process.done();
    assert!(done.started.is_empty());
    assert_eq!(done.finished()[0].attempt, attempt);
}

#[test]
fn only_what_has_not_begun_is_given_back() {
    let mut process = Process::new(1);
    let attempts =
        [process.assign(0, Native), process.assign(0, Native), process.assign(0, Python)];
    process.done();
    process.tell(ToEngine::Recall(Attempts { attempts: attempts.to_vec() }));
    let done = process.done();
    assert_eq!(done.sent, [recalled(attempts[2])], "it waited here");
    assert!(
        matches!(&done.rest[..], [Output::Recall(0, Native, SlotJob(2))]),
        "its runtime must say whether it has begun"
    );
    process.core.handle_recalled(SlotJob(2));
    assert_eq!(process.done().sent, [recalled(attempts[1])]);
    assert_eq!(process.core.held().work.len(), 1);
    process.core.handle_recalled(SlotJob(2));
    assert!(process.done().sent.is_empty());
}

#[test]
fn work_goes_on_without_a_connection_and_is_reported_on_the_next() {
    let mut process = Process::new(1);
    let attempts = [(); 4].map(|()| process.assign(0, Native));
    let (_, transfer, chunk) = process.assign_large(0, Native);
    process.done();
    process.core.handle_disconnected();
    process.finish(0, 1, 3);
    process.finish(0, 2, 5_000);
    process.core.handle_recalled(SlotJob(3));
    process.writes(0, 4, &b"text"[..]);
    assert!(process.done().sent.is_empty() && !process.core.has_unreported());
    let mut held: Vec<_> =
        process.core.held().work.into_iter().map(|held| (held.attempt, held.finished)).collect();
    held.sort_unstable_by_key(|(attempt, _)| attempt.id);
    assert_eq!(
        held,
        [(attempts[0], true), (attempts[1], true), (attempts[3], false)],
        "not what never arrived whole"
    );
    process.connect(CREDIT);
    let done = process.done();
    assert_eq!(
        (done.finished().len(), done.outputs().len()),
        (0, 1),
        "results wait until they are asked for"
    );
    assert!(done.sent.contains(&recalled(attempts[2])));
    process.adopt_all();
    let done = process.done();
    assert_eq!((done.finished().len(), done.transfers.len()), (2, 1));
    assert_eq!(
        process.chunk(transfer, &chunk),
        Err(BrokerMisbehaved::Transfer),
        "transfers belong to a connection"
    );
}

#[test]
fn what_waited_for_a_connection_does_not_wait_for_room() {
    let mut process = Process::new(1);
    (0..2).for_each(|_| _ = process.assign(0, Native));
    process.core.handle_disconnected();
    process.finish(0, 1, 5_000);
    process.writes(0, 2, &b"earlier"[..]);
    process.connect(0);
    process.adopt_all();
    process.writes(0, 2, &b"later"[..]);
    process.finish(0, 2, 3);
    let done = process.done();
    assert_eq!(done.outputs().iter().map(|it| it.offset).collect::<Vec<_>>(), [0, 7, 12]);
}

#[test]
fn output_without_a_connection_is_bounded_and_ends_are_not_dropped_for_it() {
    let mut process = Process::new(1);
    process.assign(0, Native);
    process.core.handle_disconnected();
    (0..2 * UNSENT_OUTPUT_MAX).for_each(|_| process.writes(0, 1, &b"x"[..]));
    process.finish(0, 1, 3);
    process.connect(CREDIT);
    process.adopt_all();
    let done = process.done();
    assert_eq!((done.outputs().len(), done.finished().len()), (UNSENT_OUTPUT_MAX + 1, 1));
    let end = done.outputs().last().map(|it| (it.offset, it.bytes.len()));
    assert_eq!(end, Some((2 * UNSENT_OUTPUT_MAX as u64, 0)), "how much is missing is said");
}
