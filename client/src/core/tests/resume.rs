//! Cuts, and the connections after them.

use std::task::Poll;

use furlong_wire::ids::TaskId;
use furlong_wire::message::{
    Accepted, Dependency, Reply, ReplyBody, Restart, Stopped, TaskOptions,
};

use super::*;

/// The welcome of a broker that has the session.
fn resumed(credit_bytes: u64) -> Welcome {
    Welcome { resumed: true, ..welcome(1, credit_bytes) }
}

pub(super) fn reconnected(core: &mut Core) {
    core.handle_cut();
    assert_eq!(sent(core), [""; 0], "nothing is said without a connection");
    assert!(core.handle_reconnected(&resumed(CREDIT_BYTES)));
    assert_eq!(sent(core), ["message Open"]);
}

pub(super) fn accepted(
    core: &mut Core,
    n: u64,
    missing: &[(u64, u64)],
    definitions: &[u32],
) -> Vec<String> {
    let accepted = Accepted {
        n: TaskSeq(n),
        missing: missing.iter().map(|(first, last)| (TaskSeq(*first), TaskSeq(*last))).collect(),
        definitions: definitions.to_vec(),
    };
    core.handle_message(ToClient::Accepted(accepted), None);
    sent(core)
}

#[test]
fn only_what_the_broker_does_not_know_is_submitted_again() {
    let mut core = core();
    let tasks: Vec<Submitted> = (0..4).map(|_| submit(&mut core)).collect();
    core.handle_message(returned(2), None);
    sent(&mut core);
    reconnected(&mut core);
    assert_eq!(accepted(&mut core, 3, &[(1, 1)], &[]), ["submit 1 None", "submit 4 None"]);
    for n in [1, 3, 4] {
        core.handle_message(returned(n), None);
    }
    assert!(tasks.into_iter().all(|task| take(&mut core, task).unwrap().is_ok()));
}

#[test]
fn results_of_before_are_acknowledged_before_anything_is_submitted_again() {
    let mut core = core();
    let tasks: Vec<Submitted> = (0..2).map(|_| submit(&mut core)).collect();
    core.handle_message(returned(1), None);
    core.poll_ack(true).unwrap();
    sent(&mut core);
    // That was lost.
    reconnected(&mut core);
    core.handle_message(returned(1), None);
    assert_eq!(accepted(&mut core, 1, &[], &[]), ["ack [(1, 1)]", "submit 2 None"]);
    assert!(take(&mut core, tasks[0]).unwrap().is_ok());
}

#[test]
fn a_broker_that_knows_nothing_gets_definitions_and_tasks_again_and_so_does_the_next_one() {
    let mut core = core();
    let source =
        Arc::new(Definition::new(FunctionHash([1; 32]), Bytes::from_static(b"def f(): pass")));
    for definition in [None, Some(source)] {
        core.submit_shared(&mut Call { definition, ..call(8) }, Listener::Future(None)).unwrap();
    }
    sent(&mut core);
    reconnected(&mut core);
    assert_eq!(accepted(&mut core, 0, &[], &[]), ["define 1", "submit 1 None", "submit 2 Some(1)"]);
    // That they have arrived nobody has said.
    reconnected(&mut core);
    assert_eq!(accepted(&mut core, 2, &[], &[1]), ["submit 1 None", "submit 2 Some(1)"]);
}

#[test]
fn conditions_that_were_met_before_a_cut_are_not_asked_of_a_broker_that_knows_nothing() {
    let mut core = core();
    let [first, second] = [(); 2].map(|()| submit(&mut core).n);
    let on = |n| Dependency { task: TaskId { session: SESSION, n }, success: true, failure: false };
    let options = TaskOptions { after: vec![on(first), on(second)], ..TaskOptions::default() };
    let after =
        |options: &TaskOptions| Call { options: Some(Box::new(options.clone())), ..call(8) };
    let waits = core.submit_shared(&mut after(&options), Listener::Future(None)).unwrap().n;
    core.handle_message(returned(first.0), None);
    sent(&mut core);
    reconnected(&mut core);
    core.handle_message(
        ToClient::Accepted(Accepted { n: TaskSeq::MIN, missing: vec![], definitions: vec![] }),
        None,
    );
    core.submit_shared(&mut after(&options), Listener::Future(None)).unwrap();
    let submits =
        std::iter::from_fn(|| core.poll_outbound()).filter_map(|outbound| match outbound {
            Outbound::Message(FromClient::Submit(submit)) => {
                Some((submit.n, submit.options.unwrap().after))
            }
            _ => None,
        });
    let submits: Vec<_> = submits.collect();
    assert_eq!(
        submits,
        [(second, vec![]), (waits, vec![on(second)]), (waits + 1, vec![on(second)])]
    );
}

#[test]
fn each_part_of_a_submit_that_waits_for_itself_does_so_when_it_is_said_again() {
    let mut core = core();
    let on = |n| Dependency { task: TaskId { session: SESSION, n }, success: true, failure: true };
    let options = TaskOptions {
        after: vec![on(TaskSeq(1))],
        after_any: true,
        follow: vec![on(TaskSeq(2))],
        ..TaskOptions::default()
    };
    let targets = Targets::Engines([4, 6, 7].map(EngineId).to_vec());
    core.submit_direct(&mut Call { targets, options: Some(Box::new(options)), ..call(8) }).unwrap();
    // The broker has refused them all, and is killed when it has told that of one.
    core.handle_message(returned(1), None);
    sent(&mut core);
    reconnected(&mut core);
    core.handle_message(
        ToClient::Accepted(Accepted { n: TaskSeq::MIN, missing: vec![], definitions: vec![] }),
        None,
    );
    let waits_for_itself = |outbound| match outbound {
        Outbound::Message(FromClient::Submit(submit)) => {
            let TaskOptions { after, follow, .. } = *submit.options.unwrap();
            Some((
                submit.n,
                after.iter().chain(&follow).all(|on| on.task.n >= submit.n && !after.is_empty()),
            ))
        }
        _ => None,
    };
    let said: Vec<_> =
        std::iter::from_fn(|| core.poll_outbound()).filter_map(waits_for_itself).collect();
    assert_eq!(said, [(TaskSeq(2), true), (TaskSeq(3), true)]);
}

#[test]
fn what_is_submitted_again_says_so_and_is_the_same_payload() {
    let mut core = core();
    core.submit_direct(&mut Call {
        targets: Targets::Engines(vec![EngineId(4), EngineId(6)]),
        ..call(2_000)
    })
    .unwrap();
    let payloads = |core: &mut Core| {
        let all: Vec<Outbound> = std::iter::from_fn(|| core.poll_outbound()).collect();
        all.into_iter()
            .filter_map(|it| {
                if let Outbound::Transfer(_, sealed) = it { Some(sealed.chunk(0)) } else { None }
            })
            .collect::<Vec<_>>()
    };
    let first = payloads(&mut core);
    reconnected(&mut core);
    let nothing = Accepted { n: TaskSeq::MIN, missing: vec![], definitions: vec![] };
    core.handle_message(ToClient::Accepted(nothing), None);
    let Some(Outbound::Message(FromClient::Submit(submit))) = core.poll_outbound() else {
        panic!("a submit is first")
    };
    assert!(submit.options.unwrap().repeated);
    assert_eq!(submit.targets, Targets::Engines(vec![EngineId(4)]));
    assert_eq!(payloads(&mut core), [first[0].clone(), first[0].clone()]);
}

#[test]
fn large_payloads_are_sent_again_as_the_credit_goes() {
    let mut core = core();
    for _ in 0..2 {
        core.submit_shared(&mut call(4_000), Listener::Future(None)).unwrap();
    }
    sent(&mut core);
    core.handle_cut();
    assert!(core.handle_reconnected(&resumed(5_000)));
    sent(&mut core);
    assert_eq!(accepted(&mut core, 0, &[], &[]), ["submit 1 None", "transfer 1"]);
    assert!(
        matches!(core.submit_shared(&mut call(8), Listener::Future(None)), Err(ClientError::Busy)),
        "its turn is later"
    );
    core.handle_message(ToClient::Credit(message::Credit { payload_bytes_total: 10_000 }), None);
    assert_eq!(sent(&mut core), ["submit 2 None", "transfer 2"]);
    submit(&mut core);
}

#[test]
fn what_a_smaller_broker_cannot_take_ends_with_the_reason() {
    let mut core = core();
    let task = core.submit_shared(&mut call(4_000), Listener::Future(None)).unwrap();
    core.handle_cut();
    assert!(core.handle_reconnected(&resumed(1_000)));
    accepted(&mut core, 0, &[], &[]);
    let failure = take(&mut core, task).unwrap().unwrap_err();
    assert!(failure.to_string().contains("less memory"), "{failure}");
    submit(&mut core);
}

#[test]
fn results_that_come_a_second_time_are_acknowledged_and_nothing_else() {
    let mut core = core();
    let task = submit(&mut core);
    let (announcement, piece) = announced(1, &[1; 2_000]);
    core.handle_message(announcement.clone(), None);
    reconnected(&mut core);
    accepted(&mut core, 1, &[], &[]);
    core.handle_message(announcement.clone(), None);
    core.handle_message(chunk(), Some(&piece));
    assert!(take(&mut core, task).unwrap().is_ok());
    assert!(core.poll_ack(true).is_some());
    reconnected(&mut core);
    accepted(&mut core, 1, &[], &[]);
    core.handle_message(announcement, None);
    core.handle_message(chunk(), Some(&piece));
    assert_eq!(
        core.poll_ack(true),
        Some(FromClient::Ack(message::Ack { ranges: vec![(TaskSeq(1), TaskSeq(1))].into() }))
    );
    (0..TASKS_MAX).for_each(|_| _ = submit(&mut core));
}

#[test]
fn cancels_are_said_again_until_the_task_has_ended() {
    let mut core = core();
    (0..3).for_each(|_| _ = submit(&mut core));
    sent(&mut core);
    core.handle_flushed();
    core.cancel(&[(TaskSeq(1), TaskSeq(1))], false);
    sent(&mut core);
    core.handle_cut();
    core.cancel(&[(TaskSeq(2), TaskSeq(3))], true);
    assert!(core.handle_reconnected(&resumed(CREDIT_BYTES)));
    sent(&mut core);
    let said = accepted(&mut core, 3, &[], &[]);
    assert_eq!(said, ["message Cancel", "message Cancel"]);
    core.handle_message(finished(1, None), None);
    reconnected(&mut core);
    assert_eq!(accepted(&mut core, 3, &[], &[]), ["message Cancel"]);
}

#[test]
fn questions_are_asked_again_and_what_must_not_be_done_twice_is_not() {
    let mut core = core();
    let question = query(&mut core, Query::Engines).unwrap();
    let restart =
        core.request(|request| FromClient::Restart(Restart { request, engines: vec![] })).unwrap();
    sent(&mut core);
    core.handle_cut();
    let answer = |core: &mut Core, request| core.poll_answer(request, Waker::noop(), &mut None);
    assert!(matches!(answer(&mut core, restart), Poll::Ready(Err(ClientError::Interrupted))));
    assert!(answer(&mut core, question).is_pending());
    assert!(core.handle_reconnected(&resumed(CREDIT_BYTES)));
    sent(&mut core);
    assert_eq!(accepted(&mut core, 0, &[], &[]), ["message Query"]);
    core.handle_message(ToClient::Reply(Reply { request: question, body: ReplyBody::Done }), None);
    assert!(matches!(answer(&mut core, question), Poll::Ready(Ok(Answer::Reply(ReplyBody::Done)))));
}

#[test]
fn whether_something_has_stopped_is_unknown_if_the_connection_was_cut_before_it_was_said() {
    let mut core = core();
    let (known, unknown) = (submit(&mut core), submit(&mut core));
    for task in [known, unknown] {
        core.watch_stop(task.n, Some(task.key));
        core.cancel(&[(task.n, task.n)], false);
        let outcome = Outcome::error(TaskState::Cancelled, ErrorKind::Cancelled, "");
        let times = TaskTimes { assigned_us: Some(1), ..TaskTimes::default() };
        let (n, engine, attempts, payload) = (task.n, None, 1, None);
        core.handle_message(
            ToClient::Finished(Finished { n, outcome, engine, attempts, times, payload }),
            None,
        );
    }
    core.handle_message(ToClient::Stopped(Stopped { n: known.n }), None);
    core.handle_cut();
    assert!(matches!(core.poll_stopped(known.n, Waker::noop()), Poll::Ready(Ok(()))));
    assert!(matches!(
        core.poll_stopped(unknown.n, Waker::noop()),
        Poll::Ready(Err(ClientError::Interrupted))
    ));
}

#[test]
fn a_follower_of_fetched_output_sees_each_byte_once() {
    let mut core = core();
    let task = TaskId { session: SESSION, n: TaskSeq(1) };
    let (request, follower) = core.fetch(task, true, true).unwrap();
    let follower = follower.unwrap();
    let piece = |offset, bytes: &[u8]| {
        let (attempt, engine, stream) = (1, EngineId(0), Stream::Stdout);
        let bytes = bytes.to_vec();
        ToClient::FetchedOutput(message::FetchedOutput {
            request,
            attempt,
            engine,
            stream,
            offset,
            bytes,
        })
    };
    core.handle_message(piece(0, b"abc"), None);
    reconnected(&mut core);
    assert_eq!(accepted(&mut core, 0, &[], &[]), ["message Fetch"]);
    core.handle_message(piece(0, b"abcde"), None);
    let mut seen = Vec::new();
    while let Poll::Ready(bounded_queues::Fed::Item(piece)) =
        core.poll_output(follower, Waker::noop(), &mut None)
    {
        seen.extend_from_slice(&piece.bytes);
    }
    assert_eq!(seen, b"abcde");
}

#[test]
fn an_answer_that_does_not_come_in_its_turns_is_late() {
    let mut core = core();
    core.set_answer_turns_max(3);
    let (question, task) =
        (query(&mut core, Query::Engines).unwrap(), TaskId { session: SESSION, n: TaskSeq(1) });
    let (waits, _) = core.fetch(task, true, false).unwrap();
    let disk = query(&mut core, Query::Engines).unwrap();
    core.wait_for_disk(disk);
    let answer = |core: &mut Core, request| core.poll_answer(request, Waker::noop(), &mut None);
    assert!((0..3).all(|_| core.handle_turn()));
    assert!(answer(&mut core, question).is_pending());
    core.handle_turn();
    assert!(matches!(answer(&mut core, question), Poll::Ready(Ok(Answer::Late(3)))));
    (0..60).for_each(|_| _ = core.handle_turn());
    assert!(answer(&mut core, disk).is_pending(), "a disk may take longer");
    (0..60).for_each(|_| _ = core.handle_turn());
    assert!(matches!(answer(&mut core, disk), Poll::Ready(Ok(Answer::Late(_)))));
    assert!(answer(&mut core, waits).is_pending(), "a task may take as long as it takes");
}

#[test]
fn turns_without_a_connection_count_for_nobody() {
    let mut core = core();
    core.set_answer_turns_max(3);
    let question = query(&mut core, Query::Engines).unwrap();
    (0..3).for_each(|_| _ = core.handle_turn());
    reconnected(&mut core);
    assert!((0..3).all(|_| core.handle_turn()), "it may still say what it knows of the session");
    assert!(core.poll_answer(question, Waker::noop(), &mut None).is_pending());
    assert!(!core.handle_turn(), "now it had its time");
}

#[test]
fn what_was_asked_on_two_connections_that_were_cut_is_given_up() {
    let mut core = core();
    let (first, waits) = (
        query(&mut core, Query::Status).unwrap(),
        core.fetch(TaskId { session: SESSION, n: TaskSeq(1) }, true, false),
    );
    reconnected(&mut core);
    assert_eq!(accepted(&mut core, 0, &[], &[]), ["message Query", "message Fetch"]);
    let second = query(&mut core, Query::Engines).unwrap();
    sent(&mut core);
    core.handle_cut();
    assert!(core.give_up_requests("too long"));
    let answer = |core: &mut Core, request| core.poll_answer(request, Waker::noop(), &mut None);
    for request in [first, waits.unwrap().0] {
        let Poll::Ready(Ok(Answer::Unsound(why))) = answer(&mut core, request) else {
            panic!("it is asked again")
        };
        assert_eq!(&*why, "too long");
    }
    assert!(answer(&mut core, second).is_pending(), "it was asked once");
    assert!(core.handle_reconnected(&resumed(CREDIT_BYTES)));
    assert_eq!(sent(&mut core), ["message Open"]);
    assert_eq!(accepted(&mut core, 0, &[], &[]), ["message Query"]);
    core.handle_cut();
    core.forget_request(second);
    assert!(!core.give_up_requests("too long"), "nothing was asked");
}

#[test]
fn a_question_that_no_message_can_carry_is_refused_here() {
    let mut core = core();
    let label = Some("x".repeat(1 << 20));
    let refused = query(
        &mut core,
        Query::Tasks(Box::new(furlong_wire::message::TaskQuery { label, ..Default::default() })),
    );
    assert!(matches!(refused, Err(ClientError::TooLong { .. })), "{refused:?}");
    assert_eq!(sent(&mut core), [""; 0]);
}

#[test]
fn a_session_that_its_broker_has_ended_does_not_go_on() {
    let mut core = core();
    core.handle_cut();
    assert!(!core.handle_reconnected(&welcome(1, CREDIT_BYTES)));
    assert!(core.handle_reconnected(&resumed(CREDIT_BYTES)));
    core.handle_cut();
    assert!(core.handle_reconnected(&welcome(2, CREDIT_BYTES)), "another start knows no session");
    core.handle_cut();
    assert!(!core.handle_reconnected(&welcome(2, CREDIT_BYTES)));
}

#[test]
fn an_opening_tells_what_another_start_may_have_had_and_not_what_this_one_has_not_read() {
    let said = |core: &mut Core, welcome: &Welcome| {
        core.handle_cut();
        assert!(core.handle_reconnected(welcome));
        let Some(Outbound::Message(FromClient::Open(open))) = core.poll_outbound() else {
            panic!("a connection begins with its opening")
        };
        open.submitted
    };
    let mut core = core();
    let tasks = [(); 3].map(|()| submit(&mut core).n);
    assert_eq!(said(&mut core, &resumed(CREDIT_BYTES)), TaskSeq::MIN);
    let another = Welcome { resumed: true, ..welcome(2, CREDIT_BYTES) };
    assert_eq!(said(&mut core, &welcome(2, CREDIT_BYTES)), tasks[2]);
    accepted(&mut core, 0, &[], &[]);
    submit(&mut core);
    assert_eq!(said(&mut core, &another), tasks[2]);
}

#[test]
fn a_goodbye_has_two_turns_to_be_taken() {
    let mut core = core();
    assert!((0..9).all(|_| !core.count_goodbye_turn()));
    let endpoint = Endpoint::new("head", 7000).unwrap();
    core.close(&Arc::new(Disconnected { endpoint, cause: DisconnectCause::Closed }));
    assert!(!core.count_goodbye_turn() && !core.count_goodbye_turn());
    assert!(core.count_goodbye_turn());
}

/// A call of a function, whose class is that number.
fn named(class: u32, function: &str) -> Call {
    let function = crate::Function::Named(function.to_owned());
    let header = function.header(Codec::Json, false);
    Call { class, content: Content::Buffers(header, Vec::new()), ..call(0) }
}

/// What is to be sent: names, and the numbers of tasks.
fn names_sent(core: &mut Core) -> Vec<String> {
    let describe = |outbound| match outbound {
        Outbound::Message(FromClient::Name(kind)) => Some(kind.name),
        Outbound::Message(FromClient::Submit(submit)) => Some(submit.n.to_string()),
        _ => None,
    };
    std::iter::from_fn(|| core.poll_outbound()).filter_map(describe).collect()
}

#[test]
fn the_name_of_a_kind_goes_before_its_first_task_and_again_on_each_connection() {
    let mut core = core();
    for (class, function) in [(1, "load:parquet"), (1, "load:parquet"), (2, "fit")] {
        core.submit_shared(&mut named(class, function), Listener::Future(None)).unwrap();
    }
    assert_eq!(names_sent(&mut core), ["load.parquet", "1", "2", "fit", "3"]);
    core.handle_cut();
    assert!(core.handle_reconnected(&resumed(CREDIT_BYTES)));
    assert_eq!(names_sent(&mut core), ["load.parquet", "fit"]);
    accepted(&mut core, 3, &[], &[]);
    core.submit_shared(&mut named(1, "load:parquet"), Listener::Future(None)).unwrap();
    assert_eq!(names_sent(&mut core), ["4"]);
}

#[test]
fn a_session_that_hides_names_says_none() {
    let mut core = Core::new(SESSION, secret(), false, true, true, &welcome(1, CREDIT_BYTES));
    let Some(Outbound::Message(FromClient::Open(open))) = core.poll_outbound() else {
        panic!("a session is opened first")
    };
    assert!(open.hides_names);
    core.submit_shared(&mut named(1, "fit"), Listener::Future(None)).unwrap();
    assert_eq!(names_sent(&mut core), ["1"]);
}

#[test]
fn names_are_cut_between_characters_and_bounded_in_number() {
    let mut core = core();
    let long = format!("{}é", "n".repeat(furlong_wire::limits::NAME_BYTES_MAX - 1));
    core.submit_shared(&mut named(1, &long), Listener::Future(None)).unwrap();
    assert_eq!(names_sent(&mut core)[0].len(), furlong_wire::limits::NAME_BYTES_MAX - 1);
    let mut names = crate::core::content::Names::default();
    let said = (0..5_000).filter(|class| names.name(&named(*class, "f")).is_some()).count();
    assert_eq!(said, furlong_wire::limits::KINDS_NAMED_MAX);
}
