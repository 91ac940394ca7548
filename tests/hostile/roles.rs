//! Every role against every message: what its holder gets.

use std::collections::BTreeSet;
use std::path::Path;

use furlong_host::home::load_capability;
use furlong_tests::command::furlong;
use furlong_tests::engine::{RawEngine, register};
use furlong_tests::farm::Farm;
use furlong_tests::session::RawSession;
use furlong_tests::wait::SOON;
use furlong_wire::ids::{
    Attempt, AttemptId, BrokerStart, EngineId, SessionId, TaskId, TaskSeq, TokenId,
};
use furlong_wire::message::{
    Ack, AttemptFinished, AttemptOutput, AttemptPublished, Attempts, Cancel, CancelTasks, Chunk,
    Credit, Define, Direction, Draining, ErrorKind, Fetch, FromClient, FromEngine, Goodbye,
    Inspectable, Inspection, KindName, NeedBlob, Open, Outcome, Passed, Payload, Purge, Query,
    ReplyBody, Request, Restart, Revoke, RunTimes, Runtime, Shutdown, Signal, SlotDown, Stream,
    Submit, Subscribe, TakeBack, Targets, TaskOptions, TaskQuery, ToClient, ToEngine, Undefine,
};
use furlong_wire::payload::PayloadSecret;
use furlong_wire::token::Role;
use serde_json::Value;

use crate::PENDING_GROWTH_BYTES_MAX;

/// The fate of a message.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Fate {
    /// It is served.
    Served,
    /// It is answered with a refusal that names the role.
    Refused,
    /// Its task ends as failed and forbidden.
    Forbidden,
    /// The connection is closed.
    Closed,
}

use Fate::{Closed, Forbidden, Refused, Served};

/// The number of the request that is tried.
const REQUEST: u64 = 7;
/// The number of the question after it, whose answer says that it was served.
const PROBE: u64 = 8;

fn inline() -> Payload {
    Payload::Inline(b"call".into())
}

fn submit(targets: Targets) -> FromClient {
    let (runtime, payload) = (Runtime::Native, inline());
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

fn query(query: Query) -> FromClient {
    FromClient::Query(Request { request: REQUEST, query })
}

/// A look at an interpreter, at an engine that is not there.
fn inspection() -> Query {
    Query::Inspect(Inspection { of: Inspectable::Engine(EngineId(77)), sampling: None })
}

/// Each message of a client, with what becomes of it for multiengine, task, client, observer, admin
/// and auditor. None of them does anything to the farm.
fn from_client() -> Vec<(FromClient, [Fate; 6])> {
    let (everybody, nobody) = ([Served; 6], [Closed; 6]);
    let submitters = |otherwise| [Served, Served, Served, otherwise, Served, otherwise];
    let direct = |otherwise| [Served, otherwise, Served, otherwise, Served, otherwise];
    let admin = [Refused, Refused, Refused, Refused, Served, Refused];
    let (request, engines, session) = (REQUEST, Vec::new(), SessionId([9; 16]));
    vec![
        // Of a payload that was not announced, and the end of the session.
        (FromClient::Chunk(Chunk { transfer: 1 }), nobody),
        (FromClient::Passed(Passed { transfer: 1, device: 1, inode: 1 }), nobody),
        (FromClient::Goodbye(Goodbye { reason: "done".into() }), nobody),
        (FromClient::Credit(Credit { payload_bytes_total: 1 }), everybody),
        (
            // It comes once a connection, and has come.
            FromClient::Open(Open {
                secret: PayloadSecret::new([7; 32]),
                cancel_on_disconnect: false,
                submitted: TaskSeq::MIN,
                hides_names: false,
            }),
            nobody,
        ),
        (submit(Targets::Shared), [Forbidden, Served, Served, Forbidden, Served, Forbidden]),
        (submit(Targets::Engines(vec![EngineId(77)])), direct(Forbidden)),
        (FromClient::Define(Define { number: 1, payload: inline() }), submitters(Closed)),
        (FromClient::Name(kind_name()), everybody),
        // Of one that is not there.
        (FromClient::Undefine(Undefine { number: 9 }), everybody),
        (
            FromClient::Cancel(Cancel { ranges: vec![(TaskSeq(1), TaskSeq(9))], force: false }),
            submitters(Closed),
        ),
        (FromClient::Signal(Signal { request, engines: vec![], signal: 2 }), direct(Refused)),
        (FromClient::Restart(Restart { request, engines: vec![] }), direct(Refused)),
        (
            FromClient::CancelTasks(CancelTasks { request, tasks: vec![], force: false }),
            submitters(Refused),
        ),
        (query(Query::Engines), everybody),
        (query(Query::Status), everybody),
        (query(Query::Look(Box::default())), everybody),
        (query(inspection()), submitters(Refused)),
        (query(Query::Tasks(Box::new(TaskQuery { limit: 9, ..TaskQuery::default() }))), everybody),
        (FromClient::Subscribe(Subscribe { engines: true }), everybody),
        (
            FromClient::Fetch(Fetch {
                request,
                session,
                n: TaskSeq(1),
                wait: false,
                output: false,
            }),
            submitters(Refused),
        ),
        // Also for an observer: the ends of tasks that were forbidden are acknowledged.
        (FromClient::Ack(Ack { ranges: vec![(TaskSeq(1), TaskSeq(9))].into() }), everybody),
        (FromClient::Purge(Purge { request, tasks: vec![] }), submitters(Refused)),
        (FromClient::Revoke(Revoke { request, tokens: vec![TokenId([1; 16])] }), admin),
        (
            FromClient::Shutdown(Shutdown {
                request,
                engines: Some(engines),
                finish: true,
                broker: false,
            }),
            admin,
        ),
        (FromClient::TakeBack(TakeBack { request, tasks: vec![] }), submitters(Refused)),
    ]
}

fn kind_name() -> KindName {
    KindName { class: 0, runtime: Runtime::Native, name: "fit".into() }
}

/// Fails to compile when there is a new message: it belongs into the table above.
fn name(message: &FromClient) -> &'static str {
    match message {
        FromClient::Chunk(_) => "chunk",
        FromClient::Passed(_) => "passed",
        FromClient::Goodbye(_) => "goodbye",
        FromClient::Credit(_) => "credit",
        FromClient::Open(_) => "open",
        FromClient::Submit(_) => "submit",
        FromClient::Define(_) => "define",
        FromClient::Undefine(_) => "undefine",
        FromClient::Cancel(_) => "cancel",
        FromClient::Signal(_) => "signal",
        FromClient::Restart(_) => "restart",
        FromClient::CancelTasks(_) => "cancel tasks",
        FromClient::Query(_) => "query",
        FromClient::Subscribe(_) => "subscribe",
        FromClient::Fetch(_) => "fetch",
        FromClient::Ack(_) => "ack",
        FromClient::Purge(_) => "purge",
        FromClient::Revoke(_) => "revoke",
        FromClient::Shutdown(_) => "shutdown",
        FromClient::TakeBack(_) => "take back",
        FromClient::Name(_) => "name",
    }
}

/// The number of names in the function above.
const NAMES: usize = 21;

/// Returns the fate of a message in an open session, from what the broker sends until it answers a
/// later question.
fn fate<M: Direction>(farm: &Farm, role: Role, message: M) -> Fate {
    let mut session = RawSession::client(farm.port(), &farm.capability(role));
    session.send(&[message]);
    session.send(&[FromClient::Query(Request { request: PROBE, query: Query::Engines })]);
    let named = format!("the capability's role `{role}` may not");
    let mut fate = Served;
    while let Ok(messages) = session.receive::<ToClient>() {
        for message in messages {
            match message {
                ToClient::Reply(reply) if reply.request == PROBE => return fate,
                ToClient::Reply(reply) => match reply.body {
                    ReplyBody::Refused(text) if text.starts_with(&named) => fate = Refused,
                    _ => {}
                },
                ToClient::Finished(finished) => {
                    let kind = finished.outcome.error.map(|error| error.kind);
                    fate = if kind == Some(ErrorKind::Forbidden) { Forbidden } else { fate };
                }
                _ => {}
            }
        }
    }
    Closed
}

#[test]
fn every_role_gets_for_every_message_what_the_table_says() {
    let mut farm = Farm::start();
    let roles =
        [Role::Multiengine, Role::Task, Role::Client, Role::Observer, Role::Admin, Role::Auditor];
    let mut names: Vec<&str> = from_client().iter().map(|(message, _)| name(message)).collect();
    names.dedup();
    assert_eq!(names.len(), NAMES, "a message is missing: {names:?}");
    for (message, expected) in from_client() {
        for (role, expected) in roles.into_iter().zip(expected) {
            assert_eq!(fate(&farm, role, message.clone()), expected, "{role}: {message:?}");
        }
    }
    farm.check_healthy(PENDING_GROWTH_BYTES_MAX);
}

#[test]
fn another_owners_results_cannot_be_inputs() {
    let mut farm = Farm::start();
    let (id, mut victim) = RawSession::client_with_id(farm.port(), &farm.capability(Role::Client));
    let options = |options: TaskOptions| Some(Box::new(options));
    let with = |n, taken: TaskOptions| {
        let FromClient::Submit(plain) = submit(Targets::Shared) else { unreachable!() };
        FromClient::Submit(Submit { n: TaskSeq(n), options: options(taken), ..plain })
    };
    let stays = TaskOptions { stay: true, keep: true, ..TaskOptions::default() };
    // A value, which has its result at once, and a task that waits for an engine.
    let FromClient::Submit(value) = with(1, TaskOptions { keep: true, ..TaskOptions::default() })
    else {
        unreachable!()
    };
    let value = FromClient::Submit(Submit { runtime: Runtime::Value, ..value });
    victim.send(&[value, with(2, stays)]);
    let args = ["cap", "issue", "--json", "--role", "client", "--owner", "somebody else"];
    let issued: Value = serde_json::from_str(&furlong(&args, farm.home()).ok()).unwrap();
    let other = load_capability(Path::new(issued["file"].as_str().unwrap())).unwrap();
    let mut attacker = RawSession::client(farm.port(), &other);
    // Known ones, and one that nobody has ever submitted: the same answer to all.
    let mut texts = BTreeSet::new();
    for (at, n) in [1, 2, 3].into_iter().enumerate() {
        let inputs = vec![TaskId { session: id, n: TaskSeq(n) }];
        let options = TaskOptions { inputs, ..TaskOptions::default() };
        attacker.send(&[with(at as u64 + 1, options)]);
        let finished = loop {
            let messages = attacker.receive::<ToClient>().unwrap();
            let mut finished = messages.into_iter().filter_map(|message| match message {
                ToClient::Finished(finished) => Some(finished),
                _ => None,
            });
            if let Some(finished) = finished.next() {
                break finished;
            }
        };
        let error = finished.outcome.error.unwrap();
        assert_eq!(error.kind, ErrorKind::Dependency);
        texts.insert(error.text.replace(&format!(":{n} "), ":N "));
    }
    assert_eq!(texts.len(), 1, "{texts:?}");
    farm.check_healthy(PENDING_GROWTH_BYTES_MAX);
}

/// Each message of an engine.
fn from_engine() -> Vec<FromEngine> {
    let attempt = Attempt { start: BrokerStart(1), id: AttemptId(1) };
    let attempts = || Attempts { attempts: vec![attempt] };
    vec![
        FromEngine::Chunk(Chunk { transfer: 1 }),
        FromEngine::Goodbye(Goodbye { reason: "done".into() }),
        FromEngine::Credit(Credit { payload_bytes_total: 1 }),
        FromEngine::Register(Box::new(register(1, 1))),
        FromEngine::Started(attempts()),
        FromEngine::Finished(AttemptFinished {
            attempt,
            outcome: Outcome::SUCCEEDED,
            times: RunTimes::ran(1),
            payload: None,
        }),
        FromEngine::Output(AttemptOutput {
            attempt,
            stream: Stream::Stdout,
            offset: 0,
            bytes: b"x".to_vec(),
        }),
        FromEngine::Published(AttemptPublished { attempt, payload: inline() }),
        FromEngine::Recalled(attempts()),
        FromEngine::NeedBlob(NeedBlob { session: SessionId([9; 16]), number: 1 }),
        FromEngine::SlotDown(SlotDown { slot: 0, cause: "exit code 1".into() }),
        FromEngine::Draining(Draining { reason: "terminated".into() }),
    ]
}

/// Credit is one message for both, and does nothing here; a chunk of nothing and a goodbye close as
/// from an engine.
fn is_credit(message: &FromEngine) -> bool {
    matches!(message, FromEngine::Credit(_))
}

#[test]
fn a_client_that_speaks_as_an_engine_is_closed() {
    let mut farm = Farm::start();
    for role in Role::ALL.into_iter().filter(|role| *role != Role::Engine) {
        for message in from_engine() {
            let expected = if is_credit(&message) { Served } else { Closed };
            assert_eq!(fate(&farm, role, message.clone()), expected, "{role}: {message:?}");
        }
    }
    let mut good = farm.good(Role::Client);
    assert_eq!(good.engines(), Ok(vec![]), "a client has registered engines");
    farm.check_healthy(PENDING_GROWTH_BYTES_MAX);
}

#[test]
fn an_engine_that_speaks_as_a_client_is_closed() {
    let mut farm = Farm::start();
    for (message, _) in from_client() {
        let expected = if matches!(message, FromClient::Credit(_)) { Served } else { Closed };
        let mut engine = RawEngine::connect(&farm);
        engine.send(std::slice::from_ref(&message));
        // What comes with a goodbye may still be served before the connection closes.
        if !matches!(message, FromClient::Goodbye(_)) {
            engine.send(&[FromEngine::Register(Box::new(register(1, 1)))]);
        }
        let served = engine
            .receive::<ToEngine>()
            .is_ok_and(|it| matches!(it.first(), Some(ToEngine::Registered(_))));
        assert_eq!(if served { Served } else { Closed }, expected, "{message:?}");
    }
    farm.check_healthy(PENDING_GROWTH_BYTES_MAX);
}

#[test]
fn an_administrator_stops_the_broker_in_good_order_and_hears_of_it() {
    let mut farm = Farm::start();
    let mut session = RawSession::client(farm.port(), &farm.capability(Role::Admin));
    session.send(&[FromClient::Shutdown(Shutdown {
        request: REQUEST,
        engines: None,
        finish: true,
        broker: true,
    })]);
    let mut received = Vec::new();
    while let Ok(messages) = session.receive::<ToClient>() {
        received.extend(messages);
    }
    let done = |message: &ToClient| match message {
        ToClient::Reply(reply) => reply.body == ReplyBody::Done,
        _ => false,
    };
    assert!(received.iter().any(done), "{received:?}");
    assert!(matches!(received.last(), Some(ToClient::Goodbye(_))), "{received:?}");
    assert_eq!(farm.broker().wait_exit(SOON).code(), Some(0));
    assert!(farm.home().broker_state().unwrap().stopped);
}
