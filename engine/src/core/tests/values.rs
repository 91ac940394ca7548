//! Values that jobs have as inputs.

use furlong_wire::call::{ReplyHeader, encode_reply};
use furlong_wire::message::{Forget, Inputs, Unshare, Value};
use furlong_wire::payload::{PayloadKey, PayloadSecret};

use super::*;

impl Process {
    /// Announces a value of 5000 bytes, put at the broker by a client. Its chunk is still to come.
    fn value(&mut self, value: u64) -> (u64, Bytes) {
        let header = encode_reply(&ReplyHeader::Returned { codec: Codec::Pickle });
        let (payload, transfer, chunk) = self.large(vec![header, Bytes::from(vec![7; 5_000])]);
        self.tell(ToEngine::Value(Value { value, session: SESSION, secret: None, payload }));
        (transfer, chunk)
    }

    /// Gives a slot work with these inputs.
    fn work_with(&mut self, slot: SlotIndex, values: &[u64]) {
        let Packed::Inline(inline) = self.client.pack(call(b"small")).unwrap() else {
            panic!("it is small")
        };
        let (assign, _) = self.assignment(slot, Python, None, Payload::Inline(inline));
        let (attempt, values) = (assign.work.first.attempt, values.to_vec());
        self.tell(ToEngine::Inputs(Inputs { attempt, values }));
        self.tell(ToEngine::Assign(assign));
    }

    fn let_go(&mut self, value: u64) -> Result<(), BrokerMisbehaved> {
        self.core.handle_message(ToEngine::Unshare(Unshare { share: value }), None)
    }
}

fn keys(done: &Done) -> Vec<(SlotIndex, Vec<u64>)> {
    let key_of = |job: &Job| job.inputs.iter().flatten().filter_map(|input| input.key).collect();
    done.started.iter().map(|(slot, _, job)| (*slot, key_of(job))).collect()
}

fn forgotten(done: &Done) -> Vec<(SlotIndex, u64)> {
    let rest = done.rest.iter();
    rest.filter_map(|it| {
        if let Output::ForgetInput(slot, key) = it { Some((*slot, *key)) } else { None }
    })
    .collect()
}

#[test]
fn a_job_waits_for_its_inputs_and_nobody_overtakes_it_in_its_line() {
    let mut process = Process::new(2);
    let (transfer, chunk) = process.value(7);
    process.work_with(0, &[7, 7]);
    process.assign(0, Python);
    process.assign(1, Python);
    assert_eq!(keys(&process.done()), [(1, vec![])]);
    process.chunk(transfer, &chunk).unwrap();
    let done = process.done();
    assert_eq!(keys(&done), [(0, vec![1, 1]), (0, vec![])]);
    let inputs = done.started[0].2.inputs.as_deref().unwrap();
    assert_eq!(inputs[0].header, ReplyHeader::Returned { codec: Codec::Pickle });
    assert_eq!(inputs[0].data, [vec![7; 5_000]]);
    assert_eq!(inputs[0].data[0].as_ptr(), inputs[1].data[0].as_ptr(), "the same bytes");
    process.work_with(1, &[7]);
    assert_eq!(keys(&process.done()), [(1, vec![1])], "opened once");
    process.let_go(7).unwrap();
    assert!(process.core.values.is_empty());
    assert_eq!(forgotten(&process.done()), [(0, 1), (1, 1)]);
    assert_eq!(process.let_go(7), Err(BrokerMisbehaved::Share));
}

#[test]
fn a_value_that_is_let_go_while_it_comes_is_there_for_those_that_wait() {
    let mut process = Process::new(1);
    let (transfer, chunk) = process.value(3);
    process.work_with(0, &[3]);
    process.let_go(3).unwrap();
    process.chunk(transfer, &chunk).unwrap();
    let done = process.done();
    assert_eq!((keys(&done), forgotten(&done)), (vec![(0, vec![1])], vec![(0, 1)]));
    assert!(process.core.values.is_empty());
}

#[test]
fn slots_are_told_at_a_cut_that_no_later_job_has_an_input_of_before() {
    let mut process = Process::new(2);
    let (transfer, chunk) = process.value(3);
    process.chunk(transfer, &chunk).unwrap();
    process.work_with(1, &[3]);
    assert_eq!(keys(&process.done()), [(1, vec![1])]);
    process.core.handle_disconnected();
    assert_eq!(forgotten(&process.done()), [(1, 1)]);
}

#[test]
fn a_forged_value_fails_what_has_it_as_an_input() {
    let mut process = Process::new(1);
    let (transfer, chunk) = process.value(3);
    let mut forged = chunk.to_vec();
    forged[9] ^= 1;
    process.work_with(0, &[3]);
    process.chunk(transfer, &forged).unwrap();
    let done = process.done();
    assert!(done.started.is_empty());
    assert!(matches!(&done.sent[..], [FromEngine::Finished(_)]), "{:?}", done.sent);
}

#[test]
fn a_cut_takes_back_what_waits_for_values_and_numbers_begin_anew() {
    let mut process = Process::new(1);
    let (_, _) = process.value(3);
    process.work_with(0, &[3]);
    process.core.handle_disconnected();
    assert!(process.core.values.is_empty() && process.core.work.is_empty());
    process.core.handle_connected(START, 3 * CREDIT);
    let (transfer, chunk) = process.value(3);
    process.work_with(0, &[3]);
    process.chunk(transfer, &chunk).unwrap();
    assert_eq!(keys(&process.done()).len(), 1);
}

#[test]
fn a_value_of_another_session_comes_with_its_secret_and_outlives_the_sessions_end() {
    let mut process = Process::new(1);
    let (other, secret) = (SessionId([9; 16]), PayloadSecret::new([8; 32]));
    let header = encode_reply(&ReplyHeader::Returned { codec: Codec::Raw });
    let seal = |key: PayloadKey| {
        let buffers = vec![header.clone(), Bytes::from(vec![7; 5_000])];
        let Ok(Packed::Chunked(sealed)) = key.into_sealer().pack(buffers) else { panic!() };
        sealed
    };
    for (value, instance) in [(3, None), (4, Some(InstanceId([5; 16])))] {
        let key = instance.map_or_else(
            || secret.request_key(&other),
            |instance| secret.result_key(&other, &instance),
        );
        let sealed = seal(key);
        let (transfer, counter, bytes) = (value, sealed.counter(), sealed.bytes());
        let payload = Payload::Chunked { transfer, counter, bytes, instance };
        let secret = Some(secret.clone());
        process.tell(ToEngine::Value(Value { value, session: other, secret, payload }));
        process.tell(ToEngine::Forget(Forget { session: other }));
        process.chunk(transfer, &sealed.chunk(0)).unwrap();
    }
    process.work_with(0, &[3, 4]);
    let done = process.done();
    let inputs = done.started[0].2.inputs.as_deref().unwrap();
    assert!(inputs.iter().all(|input| input.data == [vec![7; 5_000]]));
}

#[test]
fn unknown_and_repeated_values_are_misbehaviour() {
    let mut process = Process::new(1);
    let inputs = |values| ToEngine::Inputs(Inputs { attempt: AttemptId(9), values });
    let unknown = process.core.handle_message(inputs(vec![1]), None);
    assert_eq!(unknown, Err(BrokerMisbehaved::Share));
    let payload = || Payload::Inline((&[2]).into());
    let value =
        |session| ToEngine::Value(Value { value: 1, session, secret: None, payload: payload() });
    process.tell(value(SESSION));
    for session in [SESSION, SessionId([9; 16])] {
        assert_eq!(process.core.handle_message(value(session), None), Err(BrokerMisbehaved::Share));
    }
    process.tell(inputs(vec![1]));
    let twice = process.core.handle_message(inputs(vec![1]), None);
    assert_eq!(twice, Err(BrokerMisbehaved::Share));
}
