//! What peers hold of the things of which the broker has so many for all of them: places, memory,
//! the disk.

use furlong_tests::engine::RawEngine;
use furlong_tests::farm::Farm;
use furlong_wire::ids::TaskSeq;
use furlong_wire::limits::OUTPUT_MESSAGE_BYTES_MAX;
use furlong_wire::message::{
    Ack, AttemptFinished, AttemptOutput, Define, Fetch, FromClient, FromEngine, Outcome, RunTimes,
    Runtime, Stream, Submit, TaskOptions, ToClient,
};
use furlong_wire::token::Role;

use super::clients::{PATIENCE, for_takers, heard, of_takers, taker};
use super::{Taker, Window};
use crate::peer::{Peer, inline, submit, waiting};

pub(super) const TAKERS: &[Taker] = &[
    Taker { name: "places in the queue", messages: &[], takes: fills_the_queue },
    Taker { name: "sessions", messages: &["Open"], takes: opens_sessions },
    Taker { name: "connections", messages: &[], takes: holds_connections },
    Taker { name: "room for definitions", messages: &["Define"], takes: fills_with_definitions },
    Taker { name: "room for kept results", messages: &[], takes: keeps_results },
    Taker { name: "room for kept output", messages: &["Fetch"], takes: fetches_output },
    Taker { name: "tasks assigned that never end", messages: &[], takes: never_ends },
];

pub(super) const OF_THE_JOURNAL: &[Taker] = &[
    Taker { name: "durable tasks", messages: &[], takes: submits_durable },
    Taker { name: "answers that wait for the disk", messages: &[], takes: asks_after_durable },
];

/// Tasks of several sessions that nobody can run, as many as they get in.
fn fills_the_queue(farm: &Farm, window: &Window) {
    let mut peers: Vec<_> = (0..4).map(|_| taker(farm)).collect();
    for peer in &mut peers {
        let most = peer.session.welcome.unfinished_tasks_max;
        while window.goes_on() && peer.submitted + 200 <= most {
            let numbers = peer.submitted + 1..=peer.submitted + 200;
            peer.submitted += 200;
            if !peer.session.send(&numbers.map(|n| submit(n, &waiting())).collect::<Vec<_>>()) {
                break;
            }
        }
    }
    window.hold();
    for it in peers {
        Peer::leave(it);
    }
}

fn opens_sessions(farm: &Farm, window: &Window) {
    while window.goes_on() {
        drop(Peer::of(farm, Role::Client));
    }
}

fn holds_connections(farm: &Farm, window: &Window) {
    let mut peers = Vec::new();
    while window.goes_on() && peers.len() < 300 {
        peers.push(Peer::of(farm, Role::Client));
    }
    window.hold();
}

fn fills_with_definitions(farm: &Farm, window: &Window) {
    let mut peers = Vec::new();
    while window.goes_on() {
        let mut peer = taker(farm);
        let define = |number| FromClient::Define(Define { number, payload: inline(1_000) });
        for from in (0..4_096).step_by(256) {
            if !peer.session.send(&(from..from + 256).map(define).collect::<Vec<_>>()) {
                break;
            }
        }
        peers.push(peer);
    }
    for it in peers {
        Peer::leave(it);
    }
}

/// Ends tasks that are kept, and acknowledges them: their records stay.
fn keeps_results(farm: &Farm, window: &Window) {
    let mut engine = RawEngine::start(farm, of_takers(301, 64));
    engine.session.peer.give_up_after(PATIENCE);
    let mut peer = taker(farm);
    let options = for_takers(
        301,
        &TaskOptions { keep: true, label: Some("l".repeat(256)), ..TaskOptions::default() },
    );
    while window.goes_on() {
        let first = peer.submitted + 1;
        peer.submitted += 200;
        let task = |n| match submit(n, &options) {
            FromClient::Submit(task) => {
                FromClient::Submit(Submit { runtime: Runtime::Command, ..task })
            }
            other => other,
        };
        peer.session.send(&(first..=peer.submitted).map(task).collect::<Vec<_>>());
        for _ in 0..200 {
            let Some(attempt) = engine.next_assigned() else { return peer.leave() };
            let (outcome, payload) = (Outcome::SUCCEEDED, Some(inline(1_024)));
            engine.session.send(&[FromEngine::Finished(AttemptFinished {
                attempt,
                outcome,
                times: RunTimes::ran(1),
                payload,
            })]);
        }
        let mut left = 200;
        while left > 0 {
            let Some(message) = peer.receive() else { return peer.leave() };
            left -= u32::from(matches!(message, ToClient::Finished(_)));
        }
        peer.session.send(&[FromClient::Ack(Ack {
            ranges: vec![(TaskSeq(first), TaskSeq(peer.submitted))].into(),
        })]);
    }
}

fn fetches_output(farm: &Farm, window: &Window) {
    let mut engine = RawEngine::start(farm, of_takers(302, 1));
    let mut peer = taker(farm);
    let FromClient::Submit(task) =
        submit(1, &for_takers(302, &TaskOptions { keep: true, ..TaskOptions::default() }))
    else {
        unreachable!()
    };
    peer.session.send(&[FromClient::Submit(Submit { runtime: Runtime::Command, ..task })]);
    let attempt = engine.assigned();
    for piece in 0..60 {
        let (stream, bytes) = (Stream::Stdout, vec![7; OUTPUT_MESSAGE_BYTES_MAX]);
        let offset = piece * OUTPUT_MESSAGE_BYTES_MAX as u64;
        engine.session.send(&[FromEngine::Output(AttemptOutput {
            attempt,
            stream,
            offset,
            bytes,
        })]);
    }
    let fetch =
        |request| Fetch { request, session: peer.id, n: TaskSeq(1), wait: false, output: true };
    let fetches: Vec<_> = (1..=1_000).map(fetch).map(FromClient::Fetch).collect();
    while window.goes_on() {
        peer.session.send(&fetches);
        // It takes some, and never all.
        for _ in 0..100 {
            let _ = peer.receive();
        }
    }
}

/// Takes all tasks that it gets, and ends none.
fn never_ends(farm: &Farm, window: &Window) {
    let _engine = RawEngine::start(farm, of_takers(310, 1_024));
    let options = for_takers(310, &TaskOptions::default());
    let mut peer = taker(farm);
    let most = peer.session.welcome.unfinished_tasks_max;
    while window.goes_on() && peer.submitted + 200 <= most {
        let numbers = peer.submitted + 1..=peer.submitted + 200;
        peer.submitted += 200;
        let task = |n| match submit(n, &options) {
            FromClient::Submit(task) => {
                FromClient::Submit(Submit { runtime: Runtime::Command, ..task })
            }
            other => other,
        };
        peer.session.send(&numbers.map(task).collect::<Vec<_>>());
    }
    window.hold();
    peer.leave();
}

fn durable() -> TaskOptions {
    TaskOptions { durable: true, ..waiting() }
}

fn submits_durable(farm: &Farm, window: &Window) {
    while window.goes_on() {
        let mut peer = taker(farm);
        let most = peer.session.welcome.unfinished_tasks_max;
        let batches = (1..=most).collect::<Vec<_>>();
        let mut batches = batches
            .chunks(400)
            .map(|numbers| numbers.iter().map(|n| submit(*n, &durable())).collect());
        let _ = batches.all(|batch: Vec<_>| window.goes_on() && peer.session.send(&batch));
        peer.leave();
    }
}

fn asks_after_durable(farm: &Farm, window: &Window) {
    let mut peer = taker(farm);
    let most = peer.session.welcome.unfinished_tasks_max;
    while window.goes_on() && peer.submitted < most {
        peer.submitted += 1;
        let task = submit(peer.submitted, &durable());
        let asked: Vec<_> = [task].into_iter().chain((1..=200).map(heard)).collect();
        if !peer.session.send(&asked) || peer.replied(200, |_| false).is_none() {
            break;
        }
    }
    window.hold();
}
