//! Records: replayed, skipped, cut, with other chunks. Each ends the session, and nothing of it is
//! delivered.

use furlong_tests::farm::Farm;
use furlong_tests::raw::message;
use furlong_tests::session::RawSession;
use furlong_wire::ids::TaskSeq;
use furlong_wire::message::{
    Chunk, FromClient, Payload, Query, ReplyBody, Request, Runtime, Submit, Targets,
};
use furlong_wire::token::Role;

use crate::{CLOSED, PENDING_GROWTH_BYTES_MAX};

/// A task for the shared queue, where it waits since there is no engine.
pub(crate) fn submit(n: u64, payload: Payload) -> FromClient {
    let (targets, runtime) = (Targets::Shared, Runtime::Native);
    FromClient::Submit(Submit {
        n: TaskSeq(n),
        targets,
        runtime,
        class: 0,
        define: None,
        options: None,
        payload,
    })
}

fn small(n: u64) -> FromClient {
    submit(n, Payload::Inline(b"call".into()))
}

fn chunked(n: u64) -> FromClient {
    submit(n, Payload::Chunked { transfer: n, counter: n, bytes: 2_000, instance: None })
}

/// Does something to a session of its own, and checks that the broker ends it and took no task from
/// it.
fn expect_refused(farm: &mut Farm, what: &str, attack: impl FnOnce(&mut RawSession)) {
    let mut session = RawSession::client(farm.port(), &farm.capability(Role::Client));
    attack(&mut session);
    assert!(session.peer.is_closed_within(CLOSED), "still open after {what}");
    assert_eq!(tasks_waiting(farm), 0, "a task was taken from {what}");
}

fn tasks_waiting(farm: &Farm) -> u64 {
    match farm.good(Role::Observer).ask(Query::Status) {
        Ok(ReplyBody::Status(status)) => status.tasks_waiting,
        other => panic!("no status: {other:?}"),
    }
}

#[test]
fn a_good_record_is_taken() {
    let farm = Farm::start();
    let mut session = RawSession::client(farm.port(), &farm.capability(Role::Client));
    // The reply says that what was before it has been done.
    session.send(&[small(1), FromClient::Query(Request { request: 1, query: Query::Engines })]);
    session.receive::<furlong_wire::message::ToClient>().expect("an answer");
    assert_eq!(tasks_waiting(&farm), 1);
}

#[test]
fn a_sequence_number_is_the_next_one_or_none() {
    let mut farm = Farm::start();
    expect_refused(&mut farm, "a record sent twice", |session| {
        let envelope =
            session.seal(&[FromClient::Query(Request { request: 1, query: Query::Engines })], &[]);
        session.peer.send(&message(&[&envelope]).repeat(2));
    });
    expect_refused(&mut farm, "a record left out", |session| {
        session.seal(&[small(1)], &[]);
        session.send(&[small(2)]);
    });
    expect_refused(&mut farm, "two records swapped", |session| {
        let (one, two) = (session.seal(&[small(1)], &[]), session.seal(&[small(2)], &[]));
        session.peer.send(&[message(&[&two]), message(&[&one])].concat());
    });
    for seq in [0, 2, u64::MAX - 1, u64::MAX] {
        expect_refused(&mut farm, &format!("a record numbered {seq}"), |session| {
            let mut envelope = session.seal(&[small(1)], &[]);
            envelope[..8].copy_from_slice(&u64::to_le_bytes(seq));
            session.peer.send(&message(&[&envelope]));
        });
    }
    farm.check_healthy(PENDING_GROWTH_BYTES_MAX);
}

#[test]
fn a_record_of_another_connection_or_direction_is_refused() {
    let mut farm = Farm::start();
    let mut other = RawSession::client(farm.port(), &farm.capability(Role::Client));
    let stolen = other.seal(&[small(1)], &[]);
    expect_refused(&mut farm, "a record of another connection", |session| {
        session.peer.send(&message(&[&stolen]));
    });
    // The broker's second record has the number that this side's second one needs.
    expect_refused(&mut farm, "the broker's own record", |session| {
        let reflected = session.peer.receive().expect("the session is accepted").envelope;
        session.peer.send(&message(&[&reflected]));
    });
    farm.check_healthy(PENDING_GROWTH_BYTES_MAX);
}

#[test]
fn a_cut_envelope_is_refused() {
    let mut farm = Farm::start();
    for cut in [0, 1, 7, 8, 9, 23, 24, 25] {
        expect_refused(&mut farm, &format!("an envelope cut to {cut} bytes"), |session| {
            let envelope = session.seal(&[small(1)], &[]);
            session.peer.send(&message(&[&envelope[..cut]]));
        });
    }
    expect_refused(&mut farm, "an envelope without the last byte of its tag", |session| {
        let envelope = session.seal(&[small(1)], &[]);
        session.peer.send(&message(&[&envelope[..envelope.len() - 1]]));
    });
    expect_refused(&mut farm, "a flipped bit", |session| {
        let mut envelope = session.seal(&[small(1)], &[]);
        envelope[12] ^= 4;
        session.peer.send(&message(&[&envelope]));
    });
    farm.check_healthy(PENDING_GROWTH_BYTES_MAX);
}

type Change = fn(&mut Vec<Vec<u8>>);

#[test]
fn chunks_are_those_that_were_sealed_in_their_order() {
    let mut farm = Farm::start();
    let (one, two) = (vec![1; 2_016], vec![2; 2_016]);
    let changes: [(&str, Change); 7] = [
        ("swapped", |chunks| chunks.swap(0, 1)),
        ("the last one dropped", |chunks| _ = chunks.pop()),
        ("all dropped", Vec::clear),
        ("one twice", |chunks| chunks.push(chunks[0].clone())),
        ("one empty", |chunks| chunks[1].clear()),
        ("one shorter", |chunks| _ = chunks[1].remove(0)),
        ("a tag changed", |chunks| chunks[0][2_015] ^= 1),
    ];
    for (what, change) in changes {
        expect_refused(&mut farm, &format!("chunks, {what}"), |session| {
            let batch = [1, 2].map(|transfer| FromClient::Chunk(Chunk { transfer }));
            let batch: Vec<_> = [chunked(1), chunked(2)].into_iter().chain(batch).collect();
            let mut chunks = vec![one.clone(), two.clone()];
            let envelope = session.seal(&batch, &chunks);
            change(&mut chunks);
            let frames: Vec<&[u8]> =
                [&envelope].into_iter().chain(&chunks).map(Vec::as_slice).collect();
            session.peer.send(&message(&frames));
        });
    }
    farm.check_healthy(PENDING_GROWTH_BYTES_MAX);
}

#[test]
fn chunks_that_the_batch_does_not_announce_are_refused() {
    let mut farm = Farm::start();
    let chunk = vec![1; 2_016];
    let of = |transfer| FromClient::Chunk(Chunk { transfer });
    let cases = [
        ("a chunk of no transfer", vec![of(7)], vec![chunk.clone()]),
        ("a chunk without its frame", vec![of(7)], vec![]),
        ("a frame without its chunk", vec![], vec![chunk.clone()]),
        ("a chunk of another length", vec![chunked(1), of(1)], vec![vec![1; 2_017]]),
        ("a transfer announced twice", vec![chunked(1), submit(2, announced(1, 2_000))], vec![]),
        ("a payload of nothing", vec![submit(1, announced(1, 0))], vec![]),
        ("a payload beyond all credit", vec![submit(1, announced(1, u64::MAX))], vec![]),
    ];
    for (what, batch, chunks) in cases {
        expect_refused(&mut farm, what, |session| {
            let envelope = session.seal(&batch, &chunks);
            let frames: Vec<&[u8]> =
                [&envelope].into_iter().chain(&chunks).map(Vec::as_slice).collect();
            session.peer.send(&message(&frames));
        });
    }
    farm.check_healthy(PENDING_GROWTH_BYTES_MAX);
}

fn announced(transfer: u64, bytes: u64) -> Payload {
    Payload::Chunked { transfer, counter: 0, bytes, instance: None }
}

#[test]
fn a_stream_cut_within_a_record_delivers_nothing_of_it() {
    let mut farm = Farm::start();
    let capability = farm.capability(Role::Client);
    let mut at = 0;
    loop {
        let mut session = RawSession::client(farm.port(), &capability);
        let batch = [small(1), chunked(2), FromClient::Chunk(Chunk { transfer: 2 })];
        let chunk = vec![3; 2_016];
        let envelope = session.seal(&batch, std::slice::from_ref(&chunk));
        let record = message(&[&envelope, &chunk]);
        if at >= record.len() {
            break;
        }
        session.peer.send(&record[..at]);
        session.peer.shut_down_write();
        assert!(session.peer.is_closed_within(CLOSED), "still open after the end of the stream");
        // Each byte of the headers and the envelope's ends, then larger steps through the chunk.
        at += if at < 12 { 1 } else { 97 };
    }
    assert_eq!(tasks_waiting(&farm), 0, "a task was taken from a cut record");
    farm.check_healthy(PENDING_GROWTH_BYTES_MAX);
}

#[test]
fn bytes_that_are_no_messages_end_the_session() {
    let mut farm = Farm::start();
    expect_refused(&mut farm, "a welcome to the broker", |session| {
        session.send(&[furlong_wire::message::ToClient::Accepted(
            furlong_wire::message::Accepted { n: TaskSeq(1), missing: vec![], definitions: vec![] },
        )]);
    });
    expect_refused(&mut farm, "an engine's message from a client", |session| {
        let attempts = furlong_wire::message::Attempts { attempts: vec![] };
        session.send(&[furlong_wire::message::FromEngine::Started(attempts)]);
    });
    farm.check_healthy(PENDING_GROWTH_BYTES_MAX);
}
