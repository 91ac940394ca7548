//! Attacks by peers with a valid capability, on the broker and on each other.

use furlong_tests::engine::{RawEngine, register};
use furlong_tests::farm::Farm;
use furlong_tests::raw::message;
use furlong_tests::session::{Answer, Credentials, RawSession, shake_hands};
use furlong_tests::wait::{SOON, eventually};
use furlong_wire::aead::TAG_BYTES;
use furlong_wire::ids::{Attempt, AttemptId, BrokerStart, EngineId, TaskSeq};
use furlong_wire::limits::CHUNK_BYTES_MAX;
use furlong_wire::message::{
    Ack, AttemptFinished, Cancel, Chunk, FromClient, FromEngine, KindName, Outcome, Payload, Query,
    Request, RunTimes, Runtime, Submit, Targets, ToClient,
};
use furlong_wire::token::Role;

use crate::records::submit;
use crate::{CLOSED, PENDING_GROWTH_BYTES_MAX};

/// The limit on the broker's memory growth when a peer with a capability does its worst: an
/// out-queue, which may hold 64 MiB, and what is on its way there.
const PEER_GROWTH_BYTES_MAX: u64 = 192 << 20;

fn inline(bytes: usize) -> Payload {
    Payload::Inline(vec![1; bytes].into())
}

/// A session's first tasks, one for each of these engines.
fn submit_to(targets: Targets) -> FromClient {
    let (runtime, payload) = (Runtime::Native, inline(4));
    FromClient::Submit(Submit {
        n: TaskSeq(1),
        targets,
        runtime,
        class: 0,
        define: None,
        options: None,
        payload,
    })
}

fn finished(attempt: Attempt) -> FromEngine {
    let payload = Some(inline(4));
    FromEngine::Finished(AttemptFinished {
        attempt,
        outcome: Outcome::SUCCEEDED,
        times: RunTimes::ran(1),
        payload,
    })
}

/// The first of the session's messages that is one of these.
fn wait_for<T>(session: &mut RawSession, wanted: impl Fn(ToClient) -> Option<T>) -> Option<T> {
    std::iter::from_fn(|| session.receive().ok()).flatten().find_map(wanted)
}

#[test]
fn an_engine_that_answers_for_another_is_closed_and_the_answer_is_dropped() {
    let mut farm = Farm::start();
    let mut honest = RawEngine::start(&farm, register(1, 1));
    let mut liar = RawEngine::say(&farm, register(2, 1));
    let targets = Targets::Engines(honest.ids.clone());
    let mut client = RawSession::client(farm.port(), &farm.capability(Role::Client));
    client.send(&[submit_to(targets)]);
    let attempt = honest.assigned();
    liar.send(&[finished(attempt)]);
    assert!(liar.peer.is_closed_within(CLOSED), "the engine that lied is not closed");
    // The honest one is believed, once.
    honest.session.send(&[finished(attempt), finished(attempt)]);
    let ended = wait_for(&mut client, |message| match message {
        ToClient::Finished(finished) => Some((finished.n, finished.engine)),
        _ => None,
    });
    assert_eq!(ended, Some((TaskSeq(1), Some(EngineId(0)))));
    farm.check_healthy(PENDING_GROWTH_BYTES_MAX);
}

fn kind(class: u32, name: String) -> FromClient {
    FromClient::Name(KindName { class, runtime: Runtime::Native, name })
}

#[test]
fn a_name_of_ten_megabytes_and_a_hundred_thousand_names_close_their_sender() {
    let mut farm = Farm::start();
    let capability = farm.capability(Role::Client);
    for bytes in [257, 100_000, 10 << 20] {
        let mut session = RawSession::client(farm.port(), &capability);
        session.send(&[kind(0, "n".repeat(bytes))]);
        assert!(session.peer.is_closed_within(CLOSED), "a name of {bytes} bytes is taken");
    }
    let mut session = RawSession::client(farm.port(), &capability);
    let all: Vec<u32> = (0..100_000).collect();
    let taken = all.chunks(100).take_while(|some| {
        let names: Vec<_> = some.iter().map(|class| kind(*class, "n".repeat(256))).collect();
        session.send(&names)
    });
    assert!(taken.count() < 1_000 || session.peer.is_closed_within(CLOSED), "all are taken");
    farm.check_healthy(PENDING_GROWTH_BYTES_MAX);
}

#[test]
fn an_engine_that_answers_for_an_attempt_of_nobody_is_closed() {
    let mut farm = Farm::start();
    let mut liar = RawEngine::say(&farm, register(1, 1));
    let start = liar.welcome.start;
    // Of an earlier start of the broker: a late answer, which is dropped.
    liar.send(&[finished(Attempt { start: BrokerStart(start.0 - 1), id: AttemptId(1) })]);
    liar.send(&[finished(Attempt { start, id: AttemptId(1 << 40) })]);
    assert!(liar.peer.is_closed_within(CLOSED), "still open");
    farm.check_healthy(PENDING_GROWTH_BYTES_MAX);
}

#[test]
fn an_engine_that_registers_twice_or_as_nothing_is_closed() {
    let mut farm = Farm::start();
    for slots in [0, 1025] {
        let mut liar = RawEngine::say(&farm, register(1, 1));
        liar.send(&[FromEngine::Register(Box::new(register(2, slots)))]);
        assert!(liar.peer.is_closed_within(CLOSED), "still open after a second registration");
    }
    farm.check_healthy(PENDING_GROWTH_BYTES_MAX);
}

#[test]
fn an_engine_with_two_slots_of_one_uuid_leaves_no_engine_behind() {
    let mut farm = Farm::start();
    let mut twice = register(1, 2);
    twice.slots[1] = twice.slots[0].clone();
    let mut liar = RawEngine::say(&farm, twice);
    assert!(liar.peer.is_closed_within(CLOSED), "still open");
    drop(liar);
    let mut good = farm.good(Role::Client);
    let gone = eventually(SOON, || good.engines().is_ok_and(|engines| engines.is_empty()));
    assert!(gone, "an engine without a process is shown: {:?}", good.engines());
    farm.check_healthy(PENDING_GROWTH_BYTES_MAX);
}

#[test]
fn a_client_takes_no_part_that_its_role_does_not_have() {
    let mut farm = Farm::start();
    for role in [Role::Observer, Role::Multiengine] {
        let mut session = RawSession::client(farm.port(), &farm.capability(role));
        session.send(&[submit(1, inline(4))]);
        let kind = wait_for(&mut session, |message| match message {
            ToClient::Finished(finished) => finished.outcome.error.map(|error| error.kind.as_str()),
            _ => None,
        });
        assert_eq!(kind, Some("forbidden"), "{role}");
    }
    let mut engine =
        shake_hands(farm.port(), &Credentials::of(&farm.capability(Role::Engine))).session();
    engine.send(&[submit(1, inline(4))]);
    assert!(engine.peer.is_closed_within(CLOSED), "an engine submits");
    farm.check_healthy(PENDING_GROWTH_BYTES_MAX);
}

#[test]
fn task_numbers_and_credits_are_kept_to() {
    let mut farm = Farm::start();
    let capability = farm.capability(Role::Client);
    let cases = [
        ("a number left out", vec![submit(2, inline(4))]),
        ("the largest number", vec![submit(u64::MAX, inline(4))]),
        ("a submit to nobody", vec![submit_to(Targets::Engines(vec![]))]),
        ("an inline payload over its limit", vec![submit(1, inline(1025))]),
    ];
    for (what, batch) in cases {
        let mut session = RawSession::client(farm.port(), &capability);
        session.send(&batch);
        assert!(session.peer.is_closed_within(CLOSED), "still open after {what}");
    }
    let mut unopened = shake_hands(farm.port(), &Credentials::of(&capability)).session();
    unopened.send(&[submit(1, inline(4))]);
    assert!(unopened.peer.is_closed_within(CLOSED), "a submit before Open is taken");
    farm.check_healthy(PENDING_GROWTH_BYTES_MAX);
}

#[test]
fn a_session_belongs_to_the_key_that_made_it() {
    let mut farm = Farm::start();
    let victim = Credentials::of(&farm.capability(Role::Client));
    let mut session = shake_hands(farm.port(), &victim).session();
    let mut thief = Credentials::of(&farm.capability(Role::Admin));
    (thief.hello.session, thief.hello.incarnation) = (victim.hello.session, u64::MAX);
    assert!(
        shake_hands(farm.port(), &thief).refusal().is_some(),
        "another key takes a session over"
    );
    // The same key with an old incarnation: a delayed duplicate.
    assert!(
        matches!(shake_hands(farm.port(), &victim), Answer::Refused(_)),
        "an old incarnation takes over"
    );
    assert!(session.send(&[FromClient::Query(Request { request: 1, query: Query::Engines })]));
    assert!(session.receive::<ToClient>().is_ok(), "the victim's session has ended");
    farm.check_healthy(PENDING_GROWTH_BYTES_MAX);
}

/// Sends records that are answered with much, and reads nothing, until the broker closes.
fn ask_and_never_read(farm: &Farm, questions: u64) {
    let mut session = RawSession::client(farm.port(), &farm.capability(Role::Client));
    let asked: Vec<_> = (0..questions)
        .map(|request| FromClient::Query(Request { request, query: Query::Status }))
        .collect();
    while session.send(&asked) {}
}

#[test]
fn a_client_that_asks_and_never_reads_is_closed_and_costs_a_bounded_sum() {
    let mut farm = Farm::start();
    ask_and_never_read(&farm, 1_000);
    farm.check_healthy(PEER_GROWTH_BYTES_MAX);
}

#[test]
fn one_record_of_questions_about_many_engines_costs_a_bounded_sum() {
    let mut farm = Farm::start();
    let _engines = RawEngine::say(&farm, register(1, 200));
    ask_and_never_read(&farm, 5_000);
    farm.check_healthy(PEER_GROWTH_BYTES_MAX);
}

#[test]
fn a_cancel_of_the_same_range_again_and_again_costs_a_bounded_sum() {
    let mut farm = Farm::start();
    let mut session = RawSession::client(farm.port(), &farm.capability(Role::Client));
    for first in (1..=2_000).step_by(100) {
        let tasks: Vec<_> = (first..first + 100).map(|n| submit(n, inline(4))).collect();
        assert!(session.send(&tasks), "the tasks are taken");
    }
    session.send(&[FromClient::Cancel(Cancel {
        ranges: vec![(TaskSeq::MIN, TaskSeq(65_535)); 20_000],
        force: true,
    })]);
    farm.check_healthy(PEER_GROWTH_BYTES_MAX);
}

#[test]
fn acknowledging_the_same_range_again_and_again_stops_nobody() {
    let mut farm = Farm::start();
    let mut session = RawSession::client(farm.port(), &farm.capability(Role::Client));
    // To engines that there are not: ended at once, and unacknowledged.
    let targets = Targets::Engines(vec![EngineId(77); 5_000]);
    session.send(&[submit_to(targets)]);
    let mut good = farm.good(Role::Client);
    session.send(&[FromClient::Ack(Ack {
        ranges: vec![(TaskSeq::MIN, TaskSeq::MIN); 100_000].into(),
    })]);
    good.engines().expect("an honest peer is answered in time");
    farm.check_healthy(PEER_GROWTH_BYTES_MAX);
}

#[test]
fn the_tasks_of_all_sessions_together_keep_to_the_memory_that_was_given() {
    let mut farm = Farm::start_with(&["--memory", "64M"]);
    let capability = farm.capability(Role::Client);
    let tasks_max = farm.good(Role::Client).welcome().unfinished_tasks_max;
    for _ in 0..8 {
        let mut session = RawSession::client(farm.port(), &capability);
        for first in (1..=tasks_max).step_by(400) {
            let tasks: Vec<_> =
                (first..=tasks_max.min(first + 399)).map(|n| submit(n, inline(1_024))).collect();
            if !session.send(&tasks) {
                break;
            }
        }
        // The answer says that what was before it has been done, unless the broker has refused it.
        session.send(&[FromClient::Query(Request { request: 1, query: Query::Engines })]);
        wait_for(&mut session, |message| matches!(message, ToClient::Reply(_)).then_some(()));
    }
    farm.check_healthy(96 << 20);
}

#[test]
fn the_payloads_of_all_sessions_together_keep_to_the_memory_that_was_given() {
    let mut farm = Farm::start_with(&["--memory", "64M"]);
    let capability = farm.capability(Role::Client);
    let each = CHUNK_BYTES_MAX as u64;
    let chunk = vec![5; CHUNK_BYTES_MAX + TAG_BYTES];
    for _ in 0..6 {
        let mut session = RawSession::client(farm.port(), &capability);
        for n in 1..=session.welcome.payload_credit_bytes / each {
            let announced =
                Payload::Chunked { transfer: n, counter: n, bytes: each, instance: None };
            let batch = [submit(n, announced), FromClient::Chunk(Chunk { transfer: n })];
            let envelope = session.seal(&batch, std::slice::from_ref(&chunk));
            assert!(
                session.peer.send(&message(&[&envelope, &chunk])),
                "what the credit allows is read"
            );
        }
        session.send(&[FromClient::Query(Request { request: 1, query: Query::Engines })]);
        wait_for(&mut session, |message| matches!(message, ToClient::Reply(_)).then_some(()));
    }
    farm.check_healthy(96 << 20);
}

#[test]
fn sessions_that_nobody_comes_back_to_cost_little() {
    let mut farm = Farm::start();
    let capability = farm.capability(Role::Client);
    for _ in 0..400 {
        drop(RawSession::client(farm.port(), &capability));
    }
    farm.check_healthy(PENDING_GROWTH_BYTES_MAX);
}
