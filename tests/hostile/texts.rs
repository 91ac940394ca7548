//! Text of peers on people's terminals: what has an effect there is escaped.

use bytes::Bytes;
use furlong_host::printable;
use furlong_tests::command::{Outcome as Ran, furlong};
use furlong_tests::engine::{RawEngine, register};
use furlong_tests::farm::Farm;
use furlong_tests::session::RawSession;
use furlong_wire::call::{Codec, RemoteError, ReplyHeader, encode_reply};
use furlong_wire::ids::TaskSeq;
use furlong_wire::message::{
    AttemptFinished, ErrorKind, FromClient, FromEngine, KindName, Outcome, Payload, Raised,
    Register, RunTimes, Runtime, Submit, Targets, TaskError, TaskOptions, TaskState,
};
use furlong_wire::token::Role;
use serde_json::Value;

/// Renames the window, clears the screen, begins a line, turns the text round.
const EVIL: &str = "x\x1b]0;OWNED\x07\x1b[2J\r\nFAKE LINE\u{9b}31m\u{202e}y";

fn evil(text: &str) -> String {
    format!("{text}{EVIL}")
}

/// An engine that says it in every text of its registration.
fn engine(farm: &Farm) -> RawEngine {
    let register = Register {
        host: evil("host"),
        cwd: evil("/"),
        python: Some(evil("python")),
        environment: vec![(evil("name"), evil("value"))],
        labels: vec![evil("label")],
        ..register(1, 1)
    };
    RawEngine::start(farm, register)
}

/// A kept task that has such a label, and its end.
fn ends(farm: &Farm, engine: &mut RawEngine, outcome: Outcome, buffers: &[Bytes]) {
    let mut client = RawSession::client(farm.port(), &farm.capability(Role::Client));
    let options = TaskOptions { label: Some(evil("label")), keep: true, ..TaskOptions::default() };
    let (runtime, payload) = (Runtime::Native, inline(&[Bytes::from_static(b"call")]));
    let options = Some(Box::new(options));
    let name = KindName { class: 0, runtime, name: evil("name") };
    client.send(&[FromClient::Name(name)]);
    client.send(&[FromClient::Submit(Submit {
        n: TaskSeq(1),
        targets: Targets::Shared,
        runtime,
        class: 0,
        define: None,
        options,
        payload,
    })]);
    let attempt = engine.assigned();
    let payload = Some(inline(buffers));
    engine.session.send(&[FromEngine::Finished(AttemptFinished {
        attempt,
        outcome,
        times: RunTimes::ran(1),
        payload,
    })]);
    assert!(client.receive::<furlong_wire::message::ToClient>().is_ok());
}

fn inline(buffers: &[Bytes]) -> Payload {
    let sizes = buffers.iter().flat_map(|buffer| (buffer.len() as u16).to_le_bytes());
    let bytes =
        [buffers.len() as u8].into_iter().chain(sizes).chain(buffers.iter().flatten().copied());
    Payload::Inline(bytes.collect::<Vec<u8>>().into())
}

/// Nothing in what a command printed has an effect, and no text has begun a line.
#[track_caller]
fn check(ran: &Ran) {
    for text in [&ran.stdout, &ran.stderr] {
        assert_eq!(printable::lines(text), *text);
        assert!(!text.lines().any(|line| line.starts_with("FAKE LINE")), "{text}");
    }
}

#[test]
fn an_engines_texts_are_escaped_in_the_status() {
    let farm = Farm::start();
    let _engine = engine(&farm);
    let shown = furlong(&["status"], farm.home());
    check(&shown);
    assert!(
        shown.ok().contains(r"hostx\u001b]0;OWNED\u0007\u001b[2J\r\nFAKE LINE\u009b31m\u202ey")
    );
    let json = furlong(&["status", "--json"], farm.home());
    check(&json);
    let status: Value = serde_json::from_str(&json.ok()).unwrap();
    assert_eq!(status["processes"][0]["host"], evil("host"));
}

#[test]
fn labels_and_errors_are_escaped_wherever_tasks_are_shown() {
    let farm = Farm::start();
    let mut engine = engine(&farm);
    let raised = RemoteError {
        type_name: evil("Type"),
        message: evil("message"),
        traceback: evil("first line\n"),
        execution: None,
    };
    let raised_as = Raised { type_name: evil("Type"), fingerprint: 1 };
    let error = TaskError { kind: ErrorKind::Remote, text: evil("text"), raised: Some(raised_as) };
    let outcome = Outcome { state: TaskState::Failed, error: Some(Box::new(error)) };
    ends(&farm, &mut engine, outcome, &[encode_reply(&ReplyHeader::Raised(raised))]);
    for args in [["queue", "--all"], ["explain", "1"], ["result", "1"]] {
        let shown = furlong(&args, farm.home());
        check(&shown);
        assert!(
            format!("{}{}", shown.stdout, shown.stderr).contains(r"\u001b]0;OWNED\u0007"),
            "{args:?}: {shown:?}"
        );
        let json = furlong(&[args[0], args[1], "--json"], farm.home());
        check(&json);
        serde_json::from_str::<Value>(&json.stdout)
            .unwrap_or_else(|error| panic!("{error}: {json:?}"));
    }
}

#[test]
fn a_value_is_escaped_and_one_that_cannot_be_read_is_a_failure() {
    let farm = Farm::start();
    let mut engine = engine(&farm);
    let header = |codec| encode_reply(&ReplyHeader::Returned { codec });
    let value = "[\"a\u{9b}\u{202e}\",\n1.10]".as_bytes();
    ends(&farm, &mut engine, Outcome::SUCCEEDED, &[header(Codec::Json), Bytes::from_static(value)]);
    let shown = furlong(&["result", "1"], farm.home());
    check(&shown);
    assert_eq!(shown.ok(), r#"["a\u009b\u202e", 1.10]"#);

    // Deeper than anybody nests.
    let deep = Bytes::from([0x91].repeat(900));
    for (codec, data) in
        [(Codec::Msgpack, deep), (Codec::Msgpack, Bytes::new()), (Codec::Json, "{".into())]
    {
        ends(&farm, &mut engine, Outcome::SUCCEEDED, &[header(codec), data]);
        let shown = furlong(&["result", "1"], farm.home());
        assert_eq!((shown.code, shown.stdout.as_str()), (Some(1), ""), "{shown:?}");
        assert!(shown.stderr.contains(":1: its value cannot be read: "), "{}", shown.stderr);
        let json = furlong(&["result", "1", "--json"], farm.home());
        let document: Value = serde_json::from_str(&json.stdout).unwrap();
        assert_eq!((json.code, &document["value"]), (Some(1), &Value::Null));
        assert!(document["value_error"].is_string(), "{document}");
    }
}
