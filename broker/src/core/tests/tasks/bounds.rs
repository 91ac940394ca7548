//! Bounds on what peers make the broker keep or pass on: each costs what it is, and ends somewhere.

use std::time::Duration;

use furlong_wire::limits::{NAME_BYTES_MAX, OUTPUT_KEPT_BYTES, OUTPUT_MESSAGE_BYTES_MAX};
use furlong_wire::message::{
    AttemptOutput, Define, ErrorKind, Event, FromClient, FromEngine, Outcome, Payload, SlotDown,
    Stream, Submit, Subscribe, TaskOptions, TaskState, ToClient,
};
use furlong_wire::token::Role;

use crate::core::tests::farm::peers::{Farm, after, direct, shared, with};
use crate::core::{PeerMisbehaved, invariants};

fn held(farm: &Farm) -> u64 {
    farm.core.memory.budget.state().0
}

fn waiting() -> TaskOptions {
    TaskOptions { require: vec!["x".into()], ..TaskOptions::default() }
}

fn a_long_label(farm: &mut Farm, client: usize) {
    let options = TaskOptions { label: Some("l".repeat(NAME_BYTES_MAX)), ..waiting() };
    farm.submit(client, with(shared(), options));
}

fn labels_that_its_engine_needs(farm: &mut Farm, client: usize) {
    let require = (0..64).map(|n| format!("{n:0100}")).collect();
    farm.submit(client, with(shared(), TaskOptions { require, ..TaskOptions::default() }));
}

fn options_of_two_targets(farm: &mut Farm, client: usize) {
    let ids = [farm.id(0), farm.id(1)];
    let options = TaskOptions { label: Some("l".repeat(200)), ..TaskOptions::default() };
    farm.submit(client, with(direct(&ids), options));
}

fn dependencies(farm: &mut Farm, client: usize) {
    let first = farm.submit(client, with(shared(), waiting()));
    (1..100).for_each(|_| _ = farm.submit(client, with(shared(), waiting())));
    let tasks: Vec<_> = (first..first + 100).map(|n| farm.task(client, n)).collect();
    farm.submit(client, with(shared(), after(&tasks)));
}

fn a_definition(farm: &mut Farm, client: usize) {
    let payload = Payload::Inline(vec![1; 1_000].into());
    farm.say(client, FromClient::Define(Define { number: 1, payload })).unwrap();
}

fn empty_definitions(farm: &mut Farm, client: usize) {
    for number in 0..100 {
        let payload = Payload::Inline(Vec::new().into());
        farm.say(client, FromClient::Define(Define { number, payload })).unwrap();
    }
}

fn reasons_of_attempts(farm: &mut Farm, client: usize) {
    farm.submit(client, shared());
    let engine = usize::from(farm.assigned(0).is_empty());
    let cause = "c".repeat(1_000);
    let outcome = Outcome::error(TaskState::Failed, ErrorKind::NotBegun, cause);
    farm.finish_with(engine, outcome, 0, None);
}

fn the_text_of_an_error(farm: &mut Farm, client: usize) {
    farm.submit(client, direct(&[farm.id(0)]));
    let outcome = Outcome::error(TaskState::Failed, ErrorKind::Remote, "e".repeat(5_000));
    farm.finish_with(0, outcome, 1, None);
}

fn a_piece_of_kept_output(farm: &mut Farm, client: usize) {
    let options = TaskOptions { keep: true, ..TaskOptions::default() };
    farm.submit(client, with(direct(&[farm.id(0)]), options));
    let attempt = farm.start(0);
    let (stream, bytes) = (Stream::Stdout, vec![b'x'; 10_000]);
    let output = AttemptOutput { attempt, stream, offset: 0, bytes };
    farm.report(0, FromEngine::Output(output)).unwrap();
}

fn kept_output(farm: &mut Farm, client: usize) {
    let options = TaskOptions { keep: true, ..TaskOptions::default() };
    farm.submit(client, with(direct(&[farm.id(0)]), options));
    let attempt = farm.start(0);
    for offset in 0..100 {
        let (stream, bytes) = (Stream::Stdout, vec![b'x']);
        // With gaps, so that each byte is a piece of its own.
        let output = AttemptOutput { attempt, stream, offset: 2 * offset, bytes };
        farm.report(0, FromEngine::Output(output)).unwrap();
    }
}

/// Makes the broker keep something.
type Keep = fn(&mut Farm, usize);

#[test]
fn what_is_kept_beyond_the_usual_is_charged_for() {
    // Each with the least that it takes wherever it is kept.
    let kinds: [(&str, Keep, u64); 10] = [
        ("a long label", a_long_label, NAME_BYTES_MAX as u64),
        ("labels", labels_that_its_engine_needs, 2 * 64 * 100),
        ("options of two targets", options_of_two_targets, 2 * 200),
        ("dependencies", dependencies, 100 * 100),
        ("a definition", a_definition, 1_000),
        ("empty definitions", empty_definitions, 100 * 64),
        ("reasons of attempts", reasons_of_attempts, 200),
        ("the text of an error", the_text_of_an_error, 3_800),
        ("a piece of kept output", a_piece_of_kept_output, 10_000),
        ("kept output", kept_output, 100 * 64),
    ];
    for (name, keep, bytes) in kinds {
        let mut farm = Farm::default();
        farm.engine();
        farm.engine();
        let client = farm.client();
        assert_eq!(held(&farm), 0);
        keep(&mut farm, client);
        assert!(held(&farm) >= bytes, "{name}: {} of {bytes} bytes", held(&farm));
        invariants::hold(&farm.core);
        farm.clients[client].cancel_on_disconnect = true;
        farm.goodbye(client);
        invariants::hold(&farm.core);
    }
}

#[test]
fn what_does_not_fit_is_refused_and_keeps_nothing() {
    let kinds: [(&str, Keep); 4] = [
        ("labels", labels_that_its_engine_needs),
        ("dependencies", dependencies),
        ("a definition", a_definition),
        ("the text of an error", the_text_of_an_error),
    ];
    for (name, keep) in kinds {
        let mut farm = Farm::with_limits(1_000, 10_000);
        farm.engine();
        farm.engine();
        let client = farm.client();
        keep(&mut farm, client);
        assert!(held(&farm) <= 750, "{name}: {} bytes", held(&farm));
        invariants::hold(&farm.core);
    }
}

fn output(farm: &mut Farm, offset: u64, bytes: usize) -> Result<(), PeerMisbehaved> {
    let attempt = farm.processes[0].jobs[0].attempt;
    let (stream, bytes) = (Stream::Stdout, vec![b'x'; bytes]);
    farm.report(0, FromEngine::Output(AttemptOutput { attempt, stream, offset, bytes }))
}

fn running(submit: Submit) -> Farm {
    let mut farm = Farm::default();
    let client = farm.client();
    farm.engine();
    farm.submit(client, submit);
    farm.start(0);
    farm
}

#[test]
fn an_engine_is_held_to_the_bounds_of_output() {
    let kept = TaskOptions { keep: true, ..TaskOptions::default() };
    for submit in [shared(), with(shared(), kept)] {
        let mut farm = running(submit.clone());
        let longer = OUTPUT_MESSAGE_BYTES_MAX + 1;
        assert_eq!(output(&mut farm, 0, longer), Err(PeerMisbehaved::Limit), "one message");
        let mut farm = running(submit);
        // Start and end of a stream are kept, and nothing else comes.
        let messages = 2 * OUTPUT_KEPT_BYTES / OUTPUT_MESSAGE_BYTES_MAX;
        for message in 0..messages {
            let offset = (message * OUTPUT_MESSAGE_BYTES_MAX) as u64;
            assert_eq!(output(&mut farm, offset, OUTPUT_MESSAGE_BYTES_MAX), Ok(()));
        }
        assert_eq!(output(&mut farm, 0, 1), Err(PeerMisbehaved::Limit), "one stream");
        assert!(farm.processes[0].connection.is_none(), "it is closed");
        invariants::hold(&farm.core);
    }
}

#[test]
fn the_cause_of_an_interpreters_end_is_cut_at_the_end_of_a_character() {
    let mut farm = Farm::default();
    let (client, engine) = (farm.client_as(Role::Observer), farm.engine());
    farm.say(client, FromClient::Subscribe(Subscribe { engines: true })).unwrap();
    let cause = format!("x{}", "é".repeat(3_000));
    farm.report(engine, FromEngine::SlotDown(SlotDown { slot: 0, cause: cause.clone() })).unwrap();
    farm.wait(Duration::ZERO);
    let told = farm.clients[client].received.iter().find_map(|message| match message {
        ToClient::Event(Event::EngineRestarted(_, cause)) => Some(cause.as_str()),
        _ => None,
    });
    let kept = farm.core.engines.get(farm.id(engine)).unwrap().down_cause.as_deref();
    assert_eq!((told, kept), (Some(&cause[..4_095]), Some(&cause[..4_095])));
}
