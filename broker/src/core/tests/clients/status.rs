//! Questions about the cluster whose answers are longer than a message.

use furlong_wire::ids::{EngineId, EngineUuid};
use furlong_wire::limits::{PAGE_BYTES_TARGET, SUBMIT_TARGETS_MAX};
use furlong_wire::message::{
    FromClient, Query, Reply, ReplyBody, Request, Restart, Shutdown, Signal, Slot, ToClient,
    ToEngine, encoded_bytes,
};
use furlong_wire::token::Role;

use crate::core::tests::farm::peers::{Farm, direct};

const PROCESSES: usize = 250;
const SLOTS: usize = 64;

/// A farm of 16,000 engines.
fn large() -> Farm {
    let mut farm = Farm::default();
    for process in 0..PROCESSES {
        farm.engine();
        farm.disconnect_engine(process);
        let uuid =
            |slot: usize| EngineUuid(((1 << 64) + (process * SLOTS + slot) as u128).to_be_bytes());
        let more = (1..SLOTS).map(|slot| Slot { uuid: uuid(slot), wanted: None });
        farm.processes[process].slots.extend(more);
        farm.connect_engine(process);
    }
    farm
}

/// The answer to a query, and the bytes of its message.
fn asks(farm: &mut Farm, client: usize, query: Query) -> (ReplyBody, usize) {
    let request = farm.ask(client, |request| FromClient::Query(Request { request, query }));
    let body = farm.reply(client, request).expect("a query is answered at once");
    let bytes = encoded_bytes(&ToClient::Reply(Reply { request, body: body.clone() }));
    (body, bytes)
}

#[test]
fn the_engines_of_a_large_farm_come_in_pages() {
    let mut farm = large();
    let client = farm.client();
    let (mut engines, mut pages, mut query) = (Vec::new(), 0, Query::Engines);
    loop {
        let (body, bytes) = asks(&mut farm, client, query);
        assert!(bytes <= PAGE_BYTES_TARGET + 64, "{bytes} bytes");
        pages += 1;
        match body {
            ReplyBody::SomeEngines(some) => engines.extend(some),
            ReplyBody::Engines(last) => {
                engines.extend(last);
                break;
            }
            other => panic!("{other:?}"),
        }
        query = Query::EnginesAfter(*engines.last().unwrap());
    }
    assert_eq!(engines, (0..(PROCESSES * SLOTS) as u32).map(EngineId).collect::<Vec<_>>());
    assert_eq!(pages, 2);
}

#[test]
fn the_status_of_a_large_farm_comes_in_pages() {
    let mut farm = large();
    let client = farm.client_as(Role::Observer);
    let (mut processes, mut engines, mut query) = (0, Vec::new(), Query::Status);
    loop {
        let (body, bytes) = asks(&mut farm, client, query);
        // The last item may go beyond; a process names its 64 engines.
        assert!(bytes <= PAGE_BYTES_TARGET + 1024, "{bytes} bytes");
        let ReplyBody::Status(page) = body else { panic!("{body:?}") };
        assert!(!page.processes.is_empty() || !page.engines.is_empty(), "a page without anything");
        processes += page.processes.len();
        engines.extend(page.engines.iter().map(|engine| engine.id));
        let Some(more) = page.more else { break };
        query = Query::StatusAfter(more);
    }
    assert_eq!(processes, PROCESSES);
    assert_eq!(engines, (0..(PROCESSES * SLOTS) as u32).map(EngineId).collect::<Vec<_>>());
}

#[test]
fn an_engine_that_is_named_again_and_again_is_met_once() {
    let mut farm = Farm::default();
    let (client, engine) = (farm.client_as(Role::Admin), farm.engine());
    let id = farm.id(engine);
    (0..3).for_each(|_| _ = farm.submit(client, direct(&[id])));
    let mut ask = |message: &dyn Fn(u64, Vec<EngineId>) -> FromClient, times| {
        let request = farm.ask(client, |request| message(request, vec![id; times]));
        let reply = farm.reply(client, request);
        let signals = farm.processes[engine]
            .received
            .iter()
            .filter(|it| matches!(it, ToEngine::Signal(_)))
            .count();
        (reply, signals)
    };
    let signal = |request, engines| FromClient::Signal(Signal { request, engines, signal: 2 });
    assert_eq!(ask(&signal, SUBMIT_TARGETS_MAX), (Some(ReplyBody::Done), 1));
    let restart = |request, engines| FromClient::Restart(Restart { request, engines });
    let stop = |request, engines| {
        FromClient::Shutdown(Shutdown {
            request,
            engines: Some(engines),
            finish: true,
            broker: false,
        })
    };
    let too_many: [&dyn Fn(u64, Vec<EngineId>) -> FromClient; 3] = [&signal, &restart, &stop];
    for message in too_many {
        let (reply, signals) = ask(message, SUBMIT_TARGETS_MAX + 1);
        assert!(
            matches!(&reply, Some(ReplyBody::Refused(text)) if text.contains("at most 16384")),
            "{reply:?}"
        );
        assert_eq!(signals, 1);
    }
}
