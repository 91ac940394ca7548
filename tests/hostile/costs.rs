//! Limits on what one admitted peer can make the broker do and hold: bounded work and answers,
//! everything charged for.

use furlong_tests::engine::{RawEngine, register};
use furlong_tests::farm::Farm;
use furlong_wire::ids::{EngineId, TaskId, TaskSeq};
use furlong_wire::limits::{OUTPUT_KEPT_BYTES, OUTPUT_MESSAGE_BYTES_MAX};
use furlong_wire::message::{
    Ack, AttemptOutput, Cancel, Define, Dependency, ErrorKind, Fetch, FromClient, FromEngine,
    Outcome, Purge, Query, ReplyBody, Request, Runtime, Stream, Submit, TakeBack, Targets,
    TaskOptions, TaskQuery, ToClient,
};
use furlong_wire::token::Role;

use crate::CLOSED;
use crate::peer::{Peer, inline, open, waiting};

/// The memory that the brokers of these tests are given, and how far theirs may grow by what peers
/// do.
const MEMORY: [&str; 2] = ["--memory", "64M"];
const GROWTH_BYTES_MAX: u64 = 96 << 20;

#[test]
fn requests_that_name_the_same_tasks_thousands_of_times_meet_each_once() {
    let mut farm = Farm::start();
    let mut peer = Peer::new(&farm);
    peer.submit(5_000, &waiting());
    let all = vec![peer.all(); 4096];
    peer.session.send(&[FromClient::Purge(Purge { request: 1, tasks: all.clone() })]);
    peer.session.send(&[FromClient::TakeBack(TakeBack { request: 2, tasks: all.clone() })]);
    peer.session.send(&[FromClient::TakeBack(TakeBack { request: 3, tasks: all })]);
    assert_eq!(peer.until_reply(1), ReplyBody::Done);
    assert_eq!(peer.until_reply(2), ReplyBody::Cancelled(5_000, 0));
    assert_eq!(peer.until_reply(3), ReplyBody::Cancelled(0, 5_000), "each end is counted once");
    farm.check_healthy(GROWTH_BYTES_MAX);
}

#[test]
fn others_are_served_between_the_questions_of_one_record() {
    let mut farm = Farm::start();
    let mut peer = Peer::new(&farm);
    peer.submit(2_000, &waiting());
    let mut good = farm.good(Role::Client);
    let query =
        TaskQuery { label: Some("nothing*like it".into()), limit: 200, ..TaskQuery::default() };
    let questions: Vec<_> = (1..=500)
        .map(|request| {
            FromClient::Query(Request { request, query: Query::Tasks(Box::new(query.clone())) })
        })
        .collect();
    peer.session.send(&questions);
    peer.until_reply(1);
    // Most of the others are not answered yet.
    good.engines().expect("an honest client is answered");
    peer.session.send(&[FromClient::Cancel(Cancel {
        ranges: vec![(TaskSeq(1), TaskSeq(2_000))],
        force: false,
    })]);
    peer.until_reply(500);
    farm.check_healthy(GROWTH_BYTES_MAX);
}

#[test]
fn a_session_is_opened_once_a_connection() {
    let mut farm = Farm::start();
    let mut peer = Peer::new(&farm);
    // Ended at once: there is no such engine.
    let targets = Targets::Engines(vec![EngineId(77); 5_000]);
    let (runtime, payload) = (Runtime::Native, inline(4));
    let ended =
        Submit { n: TaskSeq(1), targets, runtime, class: 0, define: None, options: None, payload };
    peer.session.send(&[FromClient::Submit(ended)]);
    let opens: Vec<_> = (0..500).map(|_| open(5_000)).collect();
    peer.session.send(&opens);
    assert!(peer.session.peer.is_closed_within(CLOSED), "still open");
    farm.check_healthy(GROWTH_BYTES_MAX);
}

#[test]
fn an_acknowledgement_out_of_order_is_a_breach() {
    let mut farm = Farm::start();
    let mut peer = Peer::new(&farm);
    peer.session.send(&[FromClient::Ack(Ack {
        ranges: vec![(TaskSeq(1), TaskSeq(9)), (TaskSeq(5), TaskSeq(12))].into(),
    })]);
    assert!(peer.session.peer.is_closed_within(CLOSED), "still open");
    farm.check_healthy(GROWTH_BYTES_MAX);
}

#[test]
fn output_that_is_asked_for_a_thousand_times_comes_as_it_is_read() {
    let mut farm = Farm::start_with(&MEMORY);
    let mut engine = RawEngine::start(&farm, register(1, 1));
    let mut peer = Peer::new(&farm);
    let options = Some(Box::new(TaskOptions { keep: true, ..TaskOptions::default() }));
    let (targets, runtime, payload) =
        (Targets::Engines(engine.ids.clone()), Runtime::Native, inline(4));
    peer.session.send(&[FromClient::Submit(Submit {
        n: TaskSeq(1),
        targets,
        runtime,
        class: 0,
        define: None,
        options,
        payload,
    })]);
    let attempt = engine.assigned();
    let pieces = 64;
    for piece in 0..pieces {
        let (stream, bytes) = (Stream::Stdout, vec![7; OUTPUT_MESSAGE_BYTES_MAX]);
        let offset = (piece * OUTPUT_MESSAGE_BYTES_MAX) as u64;
        engine.session.send(&[FromEngine::Output(AttemptOutput {
            attempt,
            stream,
            offset,
            bytes,
        })]);
    }
    // The broker has all of it, as it has passed it on.
    let mut passed_on = 0;
    while passed_on < pieces {
        passed_on += usize::from(matches!(peer.next(), ToClient::Output(_)));
    }
    let fetch =
        |request| Fetch { request, session: peer.id, n: TaskSeq(1), wait: false, output: true };
    let fetches: Vec<_> = (1..=1_000).map(|request| FromClient::Fetch(fetch(request))).collect();
    peer.session.send(&fetches);
    // Nothing is read for a while, in which others are answered.
    let mut good = farm.good(Role::Client);
    (0..20).for_each(|_| _ = good.engines().expect("an honest client is answered"));
    assert!(farm.growth_bytes() < GROWTH_BYTES_MAX, "{} bytes", farm.growth_bytes());
    let (mut came, mut answered) = (0, 0);
    while answered < 40 {
        match peer.next() {
            ToClient::FetchedOutput(_) => came += 1,
            ToClient::Fetched(_) => answered += 1,
            _ => {}
        }
    }
    assert!(came >= 40 * pieces, "nothing is left out for who reads: {came} pieces");
    drop(peer);
    farm.check_healthy(GROWTH_BYTES_MAX);
}

#[test]
fn an_engine_that_writes_more_than_start_and_end_is_closed() {
    let mut farm = Farm::start_with(&MEMORY);
    for far in [false, true] {
        let mut engine = RawEngine::start(&farm, register(1 + u32::from(far), 1));
        let mut peer = Peer::new(&farm);
        let options = Some(Box::new(TaskOptions { keep: true, ..TaskOptions::default() }));
        let (targets, runtime, payload) =
            (Targets::Engines(engine.ids.clone()), Runtime::Native, inline(4));
        let task =
            Submit { n: TaskSeq(1), targets, runtime, class: 0, define: None, options, payload };
        peer.session.send(&[FromClient::Submit(task)]);
        let attempt = engine.assigned();
        let output = |offset, bytes| {
            FromEngine::Output(AttemptOutput {
                attempt,
                stream: Stream::Stderr,
                offset,
                bytes: vec![7; bytes],
            })
        };
        if far {
            engine.session.send(&[output(u64::MAX, 1)]);
        } else {
            let most = (2 * OUTPUT_KEPT_BYTES).div_ceil(OUTPUT_MESSAGE_BYTES_MAX);
            for piece in 0..=most as u64 {
                engine.session.send(&[output(piece << 20, OUTPUT_MESSAGE_BYTES_MAX)]);
            }
        }
        assert!(engine.session.peer.is_closed_within(CLOSED), "still open, far: {far}");
    }
    farm.check_healthy(GROWTH_BYTES_MAX);
}

#[test]
fn answers_that_nobody_reads_share_what_there_is() {
    let mut farm = Farm::start_with(&MEMORY);
    let _engine = RawEngine::start(&farm, register(1, 1));
    let mut asking: Vec<Peer> = (0..48).map(|_| Peer::new(&farm)).collect();
    let record = TaskOptions { label: Some("l".repeat(256)), ..waiting() };
    asking[0].submit(300, &record);
    let query = TaskQuery { limit: 200, ..TaskQuery::default() };
    let questions: Vec<_> = (1..=60)
        .map(|request| {
            FromClient::Query(Request { request, query: Query::Tasks(Box::new(query.clone())) })
        })
        .collect();
    // Each answer has about 90 KB: 5 MB for each of them.
    asking.iter_mut().for_each(|peer| _ = peer.session.send(&questions));
    let mut good = farm.good(Role::Client);
    (0..10).for_each(|_| _ = good.engines().expect("an honest client is answered"));
    // Who reads is answered whole beside them.
    let mut reader = Peer::new(&farm);
    reader.session.send(&questions);
    reader.until_reply(60);
    assert!(farm.growth_bytes() < GROWTH_BYTES_MAX, "{} bytes", farm.growth_bytes());
    farm.check_healthy(GROWTH_BYTES_MAX);
}

/// Returns the number of a client's tasks that have ended because the broker has no room for them.
fn refused(peer: &mut Peer) -> usize {
    peer.session.send(&[FromClient::Query(Request { request: 1, query: Query::Engines })]);
    let is_busy = |outcome: &Outcome| {
        outcome.error.as_ref().is_some_and(|error| error.kind == ErrorKind::Busy)
    };
    peer.reply(1, |it| matches!(it, ToClient::Finished(finished) if is_busy(&finished.outcome))).1
}

#[test]
fn options_and_dependencies_are_charged_for_and_refused_tasks_keep_nothing() {
    // A session may have half of the tasks for which there is memory.
    let mut farm = Farm::start_with(&["--memory", "96M"]);
    let mut peer = Peer::new(&farm);
    let labels = (0..64).map(|n| format!("{n:0256}")).collect();
    peer.submit(3_000, &TaskOptions { require: labels, ..TaskOptions::default() });
    assert!(refused(&mut peer) > 1_000, "three kinds of copies of 48 MB do not fit");
    let mut other = Peer::new(&farm);
    other.submit(1, &waiting());
    let task = TaskId { session: other.id, n: TaskSeq(1) };
    let after = vec![Dependency { task, success: true, failure: false }; 4_000];
    other.submit(400, &TaskOptions { after, ..TaskOptions::default() });
    assert!(refused(&mut other) > 200, "400 lists of 4000 dependencies do not fit");
    farm.check_healthy(GROWTH_BYTES_MAX);
}

#[test]
fn inline_definitions_are_charged_for() {
    let mut farm = Farm::start_with(&MEMORY);
    for _ in 0..40 {
        let mut peer = Peer::new(&farm);
        for numbers in (0..4096_u32).collect::<Vec<_>>().chunks(256) {
            let define = |number: &u32| {
                FromClient::Define(Define { number: *number, payload: inline(1_000) })
            };
            assert!(
                peer.session.send(&numbers.iter().map(define).collect::<Vec<_>>()),
                "definitions are taken"
            );
        }
        peer.session.send(&[FromClient::Query(Request { request: 1, query: Query::Engines })]);
        peer.until_reply(1);
    }
    farm.check_healthy(GROWTH_BYTES_MAX);
}
