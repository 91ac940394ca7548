//! Answers: they come however long they are, and end if they do not come.

use std::collections::BTreeSet;

use furlong_client::CallSpec;
use furlong_tests::command::{self, furlong, status};
use furlong_tests::engine::{RawEngine, register};
use furlong_tests::impostor::{Answers, Impostor};
use furlong_tests::session::RawSession;
use furlong_tests::wait::{SOON, eventually};
use furlong_tests::work::Work;
use furlong_wire::ids::Attempt;
use furlong_wire::message::{
    AttemptFinished, FromEngine, Outcome, RunTimes, ToEngine, encoded_bytes,
};

/// An engine process of the tests' own with so many slots, registered.
fn engine(work: &Work, process: u32, slots: usize) -> RawSession {
    RawEngine::say(work.farm(), register(process, slots))
}

#[test]
fn the_status_of_sixteen_thousand_engines_reaches_its_asker() {
    let work = Work::start(0);
    let mut sessions = Vec::new();
    for process in 1..=250 {
        sessions.push(engine(&work, process, 64));
        // So that none of them is taken for dead meanwhile.
        sessions.iter_mut().for_each(|session| assert!(session.send::<FromEngine>(&[])));
    }
    let all: Vec<u32> = (0..16_000).collect();
    let ids =
        || work.within(work.client().engines()).unwrap().iter().map(|id| id.0).collect::<Vec<_>>();
    assert!(eventually(SOON, || ids().len() == all.len()), "{} engines are here", ids().len());
    assert_eq!(ids(), all);
    let seen = work.status();
    assert_eq!((seen.processes.len(), seen.engines.len(), seen.more), (250, 16_000, None));
    let json = status(work.farm().home());
    let of = |name: &str| {
        json[name].as_array().unwrap().iter().filter_map(|it| it["id"].as_u64()).collect::<Vec<_>>()
    };
    assert_eq!(of("engines").len(), 16_000);
    assert_eq!(json["processes"].as_array().unwrap().len(), 250);
    let ids = furlong(&["ids", "--json"], work.farm().home()).ok();
    assert_eq!(serde_json::from_str::<Vec<u32>>(&ids).unwrap(), all);
}

#[test]
fn a_cancel_of_very_many_tasks_leaves_the_engines_connection_alone() {
    let work = Work::start(0);
    let mut engine = engine(&work, 1, 1024);
    let registered = engine.receive::<ToEngine>().unwrap();
    assert!(matches!(registered[0], ToEngine::Registered(_)));
    let call = CallSpec::native("quick");
    let submit = |count: usize| {
        let calls: Vec<_> =
            (0..count).map(|_| work.within(work.client().tasks().call(&call)).unwrap()).collect();
        calls
    };
    // A kind of task that is quick: engines are given many of them ahead.
    let first = submit(300);
    let mut assigned = BTreeSet::new();
    let mut take = |engine: &mut RawSession, answers: bool| {
        for message in engine.receive::<ToEngine>().expect("the engine is connected") {
            assert!(encoded_bytes(&message) < 64 * 1024);
            let ToEngine::Assign(assign) = message else { continue };
            for given in assign.work.iter() {
                let attempt = Attempt { start: engine.welcome.start, id: given.attempt };
                assigned.insert(given.attempt);
                if answers {
                    let outcome = Outcome::SUCCEEDED;
                    engine.send(&[FromEngine::Finished(AttemptFinished {
                        attempt,
                        outcome,
                        times: RunTimes::ran(1),
                        payload: None,
                    })]);
                }
            }
        }
        assigned.len()
    };
    while take(&mut engine, true) < first.len() {}
    let more = submit(40_000);
    while take(&mut engine, false) < 300 + 32_000 {}
    work.client().cancel_all(false);
    let mut cancelled = 0;
    while cancelled < 32_000 {
        for message in
            engine.receive::<ToEngine>().expect("the cancels come in records that an engine takes")
        {
            if let ToEngine::Cancel(cancel) = message {
                cancelled += cancel.attempts.len();
            }
        }
    }
    assert!(engine.send::<FromEngine>(&[]), "its connection lives");
    drop((first, more));
}

#[test]
fn an_engine_gives_up_when_what_comes_is_unsound_once_and_again() {
    let impostor = Impostor::start(Answers::TooLong);
    let mut engine = command::engine(impostor.home());
    assert_eq!(engine.wait_exit(SOON).code(), Some(1), "{}", engine.stderr());
    let stderr = engine.stderr();
    let last = stderr.lines().last().unwrap_or_default();
    for part in [
        "what comes from the broker is unsound, on one connection after the other",
        "the same Furlong",
    ] {
        assert!(last.contains(part), "no {part:?} in: {stderr}");
    }
    assert_eq!(impostor.connections(), 2);
}

#[test]
fn a_broker_that_does_not_answer_ends_a_question_with_a_sentence() {
    let impostor = Impostor::start(Answers::None);
    for command in [&["ids"][..], &["status"], &["queue"], &["cancel", "last"]] {
        let stderr = furlong(&[command, &["--wait", "2"]].concat(), impostor.home()).failed(1);
        assert_eq!(stderr.lines().count(), 1, "{stderr}");
        for part in
            ["furlong: the broker at tcp://127.0.0.1:", "is connected and has not answered for 2 s"]
        {
            assert!(stderr.contains(part), "no {part:?} in: {stderr}");
        }
    }
    assert_eq!(impostor.connections(), 4, "each command has asked on one connection");
}

#[test]
fn an_answer_that_cannot_be_read_is_asked_for_twice_and_no_more() {
    let impostor = Impostor::start(Answers::TooLong);
    let stderr = furlong(&["status"], impostor.home()).failed(1);
    let last = stderr.lines().last().unwrap_or_default();
    for part in [
        "furlong: the broker's answer cannot be read",
        "1073741824 bytes",
        "the same Furlong on both sides",
    ] {
        assert!(last.contains(part), "no {part:?} in: {stderr}");
    }
    let connections = impostor.connections();
    assert!(
        (2..=3).contains(&connections),
        "{connections}: two that were cut, perhaps one to say goodbye on"
    );
}
