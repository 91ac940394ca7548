//! Results that stay at the broker, and the tasks whose inputs they are.

use furlong_wire::ids::TaskId;
use furlong_wire::message::TaskOptions;

use super::resume::{accepted, reconnected};
use super::*;

/// A call with a result that stays.
fn staying() -> Call {
    let options = TaskOptions { stay: true, ..TaskOptions::default() };
    Call { runtime: Runtime::Python, options: Some(Box::new(options)), ..call(8) }
}

/// A call whose inputs are the results of these tasks.
fn with_inputs(inputs: &[TaskSeq]) -> Call {
    let inputs = inputs.iter().map(|n| TaskId { session: SESSION, n: *n }).collect();
    let options = TaskOptions { inputs, ..TaskOptions::default() };
    Call { runtime: Runtime::Python, options: Some(Box::new(options)), ..call(8) }
}

/// A large call with the result of this task as an input.
fn large_with_input(n: TaskSeq) -> Call {
    Call { content: call(4_000).content, ..with_inputs(&[n]) }
}

/// The end of a task that was lost.
fn failed(n: TaskSeq) -> ToClient {
    let outcome = Outcome::error(TaskState::Failed, ErrorKind::EngineLost, "");
    let times = TaskTimes::default();
    ToClient::Finished(Finished { n, outcome, engine: None, attempts: 1, times, payload: None })
}

fn submit_call(core: &mut Core, mut call: Call) -> Result<Submitted, ClientError> {
    core.submit_shared(&mut call, Listener::Future(None))
}

/// The end of a task whose result, so large, is at the broker.
fn at_broker(n: TaskSeq, bytes: u64) -> ToClient {
    let payload = Payload::Chunked { transfer: 0, counter: 1, bytes, instance: Some(INSTANCE) };
    finished(n.0, Some(payload))
}

/// A core with a task that has ended, and whose result stays.
fn with_result() -> (Core, Submitted) {
    let mut core = core();
    let task = submit_call(&mut core, staying()).unwrap();
    core.handle_message(at_broker(task.n, 5_000), None);
    sent(&mut core);
    (core, task)
}

#[test]
fn the_broker_is_told_of_a_result_that_stays_when_it_is_let_go_and_not_before() {
    let (mut core, task) = with_result();
    let result = take(&mut core, task).unwrap().unwrap();
    assert_eq!((result.report.stays, result.data.len()), (Some(5_000), 0));
    assert_eq!(core.poll_ack(true), None, "the broker would let go of it");
    assert!(core.release(task.n));
    let ack = message::Ack { ranges: vec![(task.n, task.n)].into() };
    assert_eq!(core.poll_ack(true), Some(FromClient::Ack(ack)));
    assert!(!core.release(task.n), "once is enough");
}

#[test]
fn a_result_that_nobody_can_ask_for_does_not_stay() {
    let mut core = core();
    let task = submit_call(&mut core, staying()).unwrap();
    core.forget_task(task.key);
    core.handle_message(at_broker(task.n, 5_000), None);
    assert!(core.poll_ack(true).is_some());
}

#[test]
fn a_failure_does_not_stay() {
    let mut core = core();
    let task = submit_call(&mut core, staying()).unwrap();
    core.handle_message(failed(task.n), None);
    assert!(take(&mut core, task).unwrap().is_err());
    assert!(core.poll_ack(true).is_some() && !core.release(task.n));
}

#[test]
fn inputs_are_what_has_not_ended_or_stays() {
    let (mut core, stays) = with_result();
    let runs = submit(&mut core);
    submit_call(&mut core, with_inputs(&[stays.n, runs.n])).unwrap();
    // It has come here, and the broker may let go of it at any time.
    core.handle_message(returned(runs.n.0), None);
    let refused = submit_call(&mut core, with_inputs(&[stays.n, runs.n]));
    assert!(
        matches!(refused, Err(ClientError::InputTaken(TaskId { n, .. })) if n == runs.n),
        "{refused:?}"
    );
    core.release(stays.n);
    let refused = submit_call(&mut core, with_inputs(&[stays.n]));
    assert!(matches!(refused, Err(ClientError::InputTaken(_))), "{refused:?}");
}

#[test]
fn a_result_that_is_let_go_is_still_an_input_of_what_was_submitted_before() {
    let (mut core, stays) = with_result();
    submit_call(&mut core, with_inputs(&[stays.n])).unwrap();
    core.release(stays.n);
    core.poll_ack(true).into_iter().for_each(|ack| core.outbound.push_back(Outbound::Message(ack)));
    assert_eq!(sent(&mut core), ["submit 2 None", "ack [(1, 1)]"]);
}

#[test]
fn a_broker_that_has_lost_a_result_makes_it_again_before_what_needs_it() {
    let (mut core, stays) = with_result();
    submit_call(&mut core, with_inputs(&[stays.n])).unwrap();
    sent(&mut core);
    reconnected(&mut core);
    assert_eq!(accepted(&mut core, 0, &[], &[]), ["submit 1 None", "submit 2 None"]);
    // It ends a second time, and stays again; its owner has had its end.
    assert!(take(&mut core, stays).unwrap().is_ok());
    core.handle_message(at_broker(stays.n, 5_000), None);
    assert_eq!(core.poll_ack(true), None);
    assert!(core.release(stays.n));
}

#[test]
fn a_broker_that_has_it_is_not_asked_for_it_again() {
    let (mut core, stays) = with_result();
    reconnected(&mut core);
    assert_eq!(accepted(&mut core, stays.n.0, &[], &[]), [""; 0]);
    assert!(core.release(stays.n));
    assert!(core.poll_ack(true).is_some());
}

#[test]
fn what_could_not_be_made_again_is_no_input_any_longer() {
    let (mut core, stays) = with_result();
    reconnected(&mut core);
    accepted(&mut core, 0, &[], &[]);
    core.handle_message(failed(stays.n), None);
    assert!(core.poll_ack(true).is_some(), "nothing stays of it");
    let refused = submit_call(&mut core, with_inputs(&[stays.n]));
    assert!(matches!(refused, Err(ClientError::InputTaken(_))), "{refused:?}");
}

#[test]
fn inputs_of_what_is_said_again_stay_until_that_is_said() {
    let mut core = core();
    let first = submit_call(&mut core, call(4_000)).unwrap();
    submit_call(&mut core, large_with_input(first.n)).unwrap();
    sent(&mut core);
    core.handle_cut();
    // There is room for what needs it only later.
    assert!(core.handle_reconnected(&Welcome { resumed: true, ..welcome(1, 5_000) }));
    sent(&mut core);
    assert_eq!(accepted(&mut core, 0, &[], &[]), ["submit 1 None", "transfer 1"]);
    core.handle_message(returned(first.n.0), None);
    assert!(take(&mut core, first).unwrap().is_ok());
    assert_eq!(core.poll_ack(true), None, "what comes next needs it");
    core.handle_message(ToClient::Credit(message::Credit { payload_bytes_total: 10_000 }), None);
    assert_eq!(sent(&mut core), ["submit 2 None", "transfer 2", "ack [(1, 1)]"]);
}

#[test]
fn what_is_let_go_while_it_is_made_again_counts_until_that_has_ended() {
    let (mut core, stays) = with_result();
    let others: Vec<_> = (1..TASKS_MAX).map(|_| submit(&mut core)).collect();
    reconnected(&mut core);
    accepted(&mut core, 0, &[], &[]);
    assert!(core.release(stays.n) && !core.release(stays.n), "once is enough");
    assert_eq!(core.poll_ack(true), None, "the broker runs it");
    let refused = core.submit_shared(&mut call(8), Listener::Future(None));
    assert!(matches!(refused, Err(ClientError::Busy)), "it has a place there");
    core.handle_message(at_broker(stays.n, 5_000), None);
    let ack = message::Ack { ranges: vec![(stays.n, stays.n)].into() };
    assert_eq!(core.poll_ack(true), Some(FromClient::Ack(ack)));
    assert_eq!(submit(&mut core).n, others[0].n + TASKS_MAX - 1);
}

#[test]
fn what_is_let_go_before_what_needs_it_is_said_again_stays_until_then() {
    let (mut core, stays) = with_result();
    submit_call(&mut core, large_with_input(stays.n)).unwrap();
    sent(&mut core);
    core.handle_cut();
    // It has the result, and nothing else.
    assert!(core.handle_reconnected(&Welcome { resumed: true, ..welcome(1, 3_000) }));
    core.flow.take(0, 2_000, 0);
    sent(&mut core);
    assert_eq!(accepted(&mut core, stays.n.0, &[], &[]), [""; 0], "there is no room for it yet");
    assert!(core.release(stays.n));
    assert_eq!(core.poll_ack(true), None, "what comes next needs it");
    core.handle_message(ToClient::Credit(message::Credit { payload_bytes_total: 20_000 }), None);
    assert_eq!(sent(&mut core), ["submit 2 None", "transfer 1", "ack [(1, 1)]"]);
}

#[test]
fn what_stayed_for_what_is_said_again_does_not_stay_if_a_cut_comes_between() {
    let mut core = core();
    let first = submit_call(&mut core, call(4_000)).unwrap();
    submit_call(&mut core, large_with_input(first.n)).unwrap();
    sent(&mut core);
    core.handle_cut();
    assert!(core.handle_reconnected(&Welcome { resumed: true, ..welcome(1, 5_000) }));
    accepted(&mut core, 0, &[], &[]);
    core.handle_message(returned(first.n.0), None);
    assert!(take(&mut core, first).unwrap().is_ok());
    reconnected(&mut core);
    // Now there is room for all of it.
    core.handle_message(returned(first.n.0), None);
    assert_eq!(
        accepted(&mut core, first.n.0, &[], &[]),
        ["submit 2 None", "transfer 1", "ack [(1, 1)]"]
    );
}

#[test]
fn what_comes_before_it_is_known_what_is_missing_stays_until_then() {
    for was_here in [false, true] {
        let mut core = core();
        let first = submit(&mut core);
        let others: Vec<_> = (0..2).map(|_| submit(&mut core)).collect();
        submit_call(&mut core, with_inputs(&[first.n])).unwrap();
        sent(&mut core);
        if was_here {
            core.handle_message(returned(first.n.0), None);
        }
        core.handle_cut();
        assert!(core.handle_reconnected(&Welcome { resumed: true, ..welcome(1, CREDIT_BYTES) }));
        sent(&mut core);
        // It says what it has before it says what it has not: the last one.
        core.handle_message(returned(first.n.0), None);
        core.handle_message(returned(others[0].n.0), None);
        assert_eq!(
            accepted(&mut core, 3, &[], &[]),
            ["ack [(2, 2)]", "submit 4 None", "ack [(1, 1)]"]
        );
        assert!(take(&mut core, first).unwrap().is_ok());
    }
}

#[test]
fn nothing_stays_for_what_has_arrived() {
    let mut core = core();
    let first = submit(&mut core);
    submit_call(&mut core, with_inputs(&[first.n])).unwrap();
    sent(&mut core);
    core.handle_cut();
    assert!(core.handle_reconnected(&Welcome { resumed: true, ..welcome(1, CREDIT_BYTES) }));
    sent(&mut core);
    core.handle_message(returned(first.n.0), None);
    assert_eq!(accepted(&mut core, 2, &[], &[]), ["ack [(1, 1)]"]);
}

#[test]
fn a_large_result_that_has_found_no_room_to_stay_is_acknowledged_like_any_other() {
    let mut core = core();
    let task = submit_call(&mut core, staying()).unwrap();
    sent(&mut core);
    let (announcement, piece) = announced(task.n.0, &[1; 2_000]);
    core.handle_message(announcement, None);
    core.handle_message(chunk(), Some(&piece));
    assert!(core.poll_ack(true).is_some(), "it takes room that others need");
    let result = take(&mut core, task).unwrap().unwrap();
    assert_eq!((result.report.stays, result.data[0].len()), (None, 2_000));
    let refused = submit_call(&mut core, with_inputs(&[task.n]));
    assert!(matches!(refused, Err(ClientError::InputTaken(_))), "{refused:?}");
}

#[test]
fn what_is_let_go_before_its_end_does_not_stay() {
    let mut core = core();
    let task = submit_call(&mut core, staying()).unwrap();
    assert!(core.release(task.n) && !core.release(task.n), "once is enough");
    core.handle_message(at_broker(task.n, 5_000), None);
    assert!(take(&mut core, task).unwrap().is_ok());
    assert!(core.poll_ack(true).is_some());
}

#[test]
fn what_stays_for_a_task_that_is_said_again_has_no_place_of_a_later_one() {
    let mut core = core();
    let first = submit(&mut core);
    let others: Vec<_> =
        (1..TASKS_MAX).map(|_| submit_call(&mut core, with_inputs(&[first.n])).unwrap()).collect();
    core.handle_message(returned(first.n.0), None);
    // It has the place of the first, of which the broker does not hear that it has arrived.
    submit(&mut core);
    sent(&mut core);
    reconnected(&mut core);
    core.handle_message(returned(first.n.0), None);
    let missing = others[1].n.0;
    let said = accepted(&mut core, TASKS_MAX, &[(missing, missing)], &[]);
    assert_eq!(said, ["submit 3 None", "ack [(1, 1)]", "submit 5 None"]);
}

#[test]
fn what_has_ended_before_its_turn_to_be_said_again_is_not_made_again() {
    let mut core = core();
    submit_call(&mut core, call(4_000)).unwrap();
    let stays = submit_call(&mut core, Call { content: call(4_000).content, ..staying() }).unwrap();
    sent(&mut core);
    core.handle_cut();
    assert!(core.handle_reconnected(&Welcome { resumed: true, ..welcome(1, 5_000) }));
    sent(&mut core);
    assert_eq!(accepted(&mut core, 0, &[], &[]), ["submit 1 None", "transfer 1"]);
    // An engine has held its end.
    core.handle_message(at_broker(stays.n, 5_000), None);
    core.handle_message(ToClient::Credit(message::Credit { payload_bytes_total: 10_000 }), None);
    assert_eq!(sent(&mut core), [""; 0]);
    assert!(core.release(stays.n) && core.poll_ack(true).is_some());
}

#[test]
fn what_the_broker_says_it_has_is_not_made_again_though_it_names_none_of_them() {
    let (mut core, stays) = with_result();
    reconnected(&mut core);
    core.handle_message(at_broker(stays.n, 5_000), None);
    assert_eq!(accepted(&mut core, 0, &[], &[]), [""; 0]);
    // Without that it would be.
    reconnected(&mut core);
    assert_eq!(accepted(&mut core, 0, &[], &[]), ["submit 1 None"]);
}
