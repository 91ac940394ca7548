//! Functions that are called, cancelled, interrupted and recalled.

use super::*;
use crate::job::Input;
use crate::runtime::{EventReceiver, channel};
use furlong_wire::ids::SessionId;

fn slot() -> (NativeSlot, EventReceiver) {
    let (sender, events) = channel();
    (NativeSlot::new(0, functions(), sender).unwrap(), events)
}

fn functions() -> Arc<Functions> {
    let mut functions = Functions::new();
    let add = |a: i64, b: i64| a + b;
    functions.insert("add".into(), Box::new(move |codec, data| Callable::call(&add, codec, data)));
    let nothing = || 7u8;
    functions.insert(
        "nothing".into(),
        Box::new(move |codec, data| Callable::call(&nothing, codec, data)),
    );
    let reads = || {
        let bytes = input::inputs().into_iter().map(|input| input.bytes().unwrap());
        bytes.map(|bytes| String::from_utf8(bytes.to_vec()).unwrap()).collect::<Vec<_>>()
    };
    functions
        .insert("reads".into(), Box::new(move |codec, data| Callable::call(&reads, codec, data)));
    functions.insert("panics".into(), Box::new(|_, _| panic!("on purpose")));
    let stuck: NativeFunction = Box::new(|_, _| {
        loop {
            std::thread::park();
        }
    });
    functions.insert("stuck".into(), stuck);
    let publishes = || {
        (0..1000).for_each(|n| publish(&n).unwrap());
        engine_id()
    };
    functions.insert(
        "publishes".into(),
        Box::new(move |codec, data| Callable::call(&publishes, codec, data)),
    );
    functions.insert(
        "waits".into(),
        Box::new(|_, _| {
            while !is_cancelled() {
                std::thread::yield_now();
            }
            Err(FunctionError::new("Stopped", "asked to stop"))
        }),
    );
    Arc::new(functions)
}

fn job(attempt: u64, function: &str, codec: Codec, data: &[u8]) -> Job {
    let header = CallHeader { call: Call::Named { function: function.into() }, codec };
    Job {
        attempt: SlotJob(attempt),
        session: SessionId([1; 16]),
        header: header.into(),
        definition: None,
        data: vec![Bytes::copy_from_slice(data)],
        file: None,
        inputs: None,
    }
}

fn next_reply(events: &mut EventReceiver) -> AttemptEnd {
    match events.blocking_recv() {
        (_, Report::Event(SlotEvent::Finished { reply, .. })) => reply,
        other => panic!("not finished: {other:?}"),
    }
}

#[test]
fn functions_take_msgpack_and_json_and_answer_in_kind() {
    let (slot, mut events) = slot();
    slot.start([job(1, "add", Codec::Msgpack, &rmp_serde::to_vec(&(2, 3)).unwrap())]);
    assert_eq!(next_reply(&mut events).data, [rmp_serde::to_vec(&5).unwrap()]);
    slot.start([job(2, "add", Codec::Json, b"[[2, 3], {}]")]);
    assert_eq!(next_reply(&mut events).data, ["5"]);
    slot.start([job(3, "nothing", Codec::Msgpack, &[0x90])]);
    assert_eq!(next_reply(&mut events).data, [vec![7]]);
}

#[test]
fn a_function_reads_the_inputs_of_its_task_and_of_no_other() {
    let (slot, mut events) = slot();
    let input = |codec, bytes: &'static [u8]| {
        let header = ReplyHeader::Returned { codec };
        Input { key: None, header, data: vec![Bytes::from_static(bytes)], file: None }
    };
    let inputs = [input(Codec::Raw, b"raw"), input(Codec::Json, b"2")];
    let job = |attempt, inputs| Job { inputs, ..job(attempt, "reads", Codec::Json, b"[[], {}]") };
    slot.start([job(1, Some(inputs.into())), job(2, None)]);
    assert_eq!(next_reply(&mut events).data, ["[\"raw\",\"2\"]"]);
    assert_eq!(next_reply(&mut events).data, ["[]"]);
    assert!(input::inputs().is_empty());
}

#[test]
fn wrong_arguments_unknown_names_and_panics_are_errors_of_their_task() {
    let (slot, mut events) = slot();
    for (function, codec, type_name) in [
        ("add", Codec::Json, "TypeError"),
        ("add", Codec::Pickle, "TypeError"),
        ("missing", Codec::Msgpack, "NameError"),
        ("panics", Codec::Msgpack, "panic"),
    ] {
        slot.start([job(1, function, codec, b"[[2], {}]")]);
        let reply = next_reply(&mut events);
        let is_missing = reply.outcome == AttemptOutcome::NotBegun(Unable::Kind);
        assert_eq!(is_missing, function == "missing", "another engine may have it");
        assert!(is_missing || reply.outcome == AttemptOutcome::Failed);
        assert!(
            matches!(&reply.header, ReplyHeader::Raised(error) if error.type_name == type_name),
            "{reply:?}"
        );
    }
}

fn begun(slot: &NativeSlot) {
    while slot.shared.lock().running.is_none() {
        std::thread::yield_now();
    }
}

#[test]
fn a_cancel_reaches_the_running_and_the_waiting_job_and_a_recall_the_waiting_one() {
    let (slot, mut events) = slot();
    slot.start([job(1, "waits", Codec::Msgpack, b"")]);
    slot.start([job(2, "nothing", Codec::Msgpack, &[0x90])]);
    begun(&slot);
    assert!(slot.recall(SlotJob(2)) && !slot.recall(SlotJob(1)));
    slot.start([job(4, "stuck", Codec::Msgpack, b"")]);
    slot.cancel(SlotJob(4));
    assert_eq!(next_reply(&mut events).outcome, AttemptOutcome::Cancelled);
    slot.cancel(SlotJob(2));
    slot.cancel(SlotJob(1));
    assert_eq!(next_reply(&mut events).outcome, AttemptOutcome::Cancelled);
    slot.start([job(3, "nothing", Codec::Msgpack, &[0x90])]);
    assert_eq!(next_reply(&mut events).outcome, AttemptOutcome::Succeeded);
}

#[test]
fn an_interrupt_reaches_the_running_job_alone_and_its_error_is_its_own() {
    let (slot, mut events) = slot();
    slot.start([job(1, "waits", Codec::Msgpack, b""), job(2, "waits", Codec::Msgpack, b"")]);
    begun(&slot);
    slot.interrupt(SlotJob(2));
    slot.interrupt(SlotJob(1));
    assert_eq!(next_reply(&mut events).outcome, AttemptOutcome::Failed);
    while slot.shared.lock().running != Some(SlotJob(2)) {
        std::thread::yield_now();
    }
    assert_eq!(slot.shared.lock().asked.load(Ordering::Relaxed), UNASKED);
    // In this order: what is interrupted may have ended before it is cancelled.
    slot.cancel(SlotJob(2));
    slot.interrupt(SlotJob(2));
    assert_eq!(next_reply(&mut events).outcome, AttemptOutcome::Cancelled);
}

#[test]
fn a_function_publishes_and_only_its_last_word_is_kept() {
    let (slot, mut events) = slot();
    slot.set_engine_id(12);
    slot.start([job(1, "publishes", Codec::Json, b"[[], {}]")]);
    let (0, Report::Published { attempt: SlotJob(1), latest }) = events.blocking_recv() else {
        panic!()
    };
    assert_eq!(next_reply(&mut events).data, ["12"]);
    let published = latest.take_if(|_| true).unwrap();
    assert_eq!(
        (published.codec, published.buffers),
        (Codec::Json, vec![Bytes::from_static(b"999")])
    );
    assert_eq!(latest.take_if(|_| true), None);
    assert_eq!(publish(&1).unwrap_err().type_name, "RuntimeError");
    assert_eq!(engine_id(), None);
}

#[test]
fn a_slot_whose_function_ignores_everything_is_in_nobodys_way() {
    let (stuck, mut events) = slot();
    stuck.start([job(1, "stuck", Codec::Msgpack, b""), job(2, "nothing", Codec::Msgpack, &[0x90])]);
    begun(&stuck);
    stuck.cancel(SlotJob(1));
    stuck.interrupt(SlotJob(1));
    assert!(stuck.recall(SlotJob(2)), "what waits behind it can go elsewhere");
    let (other, mut others) = slot();
    other.start([job(3, "nothing", Codec::Msgpack, &[0x90])]);
    assert_eq!(next_reply(&mut others).outcome, AttemptOutcome::Succeeded);
    assert!(events.poll().is_none());
    drop(stuck);
}
