//! Each rule of a connection by itself, in a time that the test makes.

use std::io::IoSlice;

use furlong_wire::ids::{Attempt, AttemptId, BrokerStart, EngineId, TaskSeq};
use furlong_wire::limits::{HEARTBEAT_DEAD_MS, WRITE_STALL_MS};
use furlong_wire::message::{
    Attempts, FromClient, FromEngine, Goodbye, Output, Payload, Published, Stream, ToClient,
    ToEngine, decode_batch,
};
use furlong_wire::record::RecordKeys;

use super::outbox::SLICES_MAX;
use super::*;

const SECOND: Duration = Duration::from_secs(1);

fn peer<M: Placed>() -> Peer {
    let keys = RecordKeys { send: [1; 32].into(), receive: [1; 32].into() };
    Peer::new::<M>(keys.split().0, SECOND, Duration::ZERO)
}

/// Lets up to so many bytes go, and reticks how many have gone.
fn take(peer: &mut Peer, bytes_max: usize, now: Duration) -> usize {
    let mut slices = [IoSlice::new(&[]); SLICES_MAX];
    let count = peer.outbox().poll_slices(&mut slices, bytes_max);
    let bytes = slices[..count].iter().map(|slice| slice.len()).sum();
    peer.outbox().handle_written(bytes);
    peer.handle_written(now);
    bytes
}

fn goodbye() -> FromEngine {
    FromEngine::Goodbye(Goodbye { reason: "a reason".into() })
}

#[test]
fn a_heartbeat_is_due_after_five_quiet_seconds() {
    let mut peer = peer::<FromEngine>();
    let mut sent_at = Vec::new();
    for second in 1..=17 {
        let now = second * SECOND;
        peer.handle_read();
        if second == 7 {
            peer.push(&goodbye());
        }
        assert_eq!(peer.handle_tick(now), None);
        if take(&mut peer, usize::MAX, now) > 0 {
            sent_at.push(second);
        }
    }
    assert_eq!(sent_at, [5, 7, 12, 17], "five seconds after whatever was sent last");
}

#[test]
fn a_peer_that_is_not_heard_of_is_dead() {
    let mut peer = peer::<FromEngine>();
    let ticks = (HEARTBEAT_DEAD_MS / 1_000) as u32;
    let tick = |peer: &mut Peer, second: u32| {
        let dead = peer.handle_tick(second * SECOND);
        take(peer, usize::MAX, second * SECOND);
        dead
    };
    assert!((1..ticks).all(|second| tick(&mut peer, second).is_none()));
    peer.handle_read();
    assert!((ticks..2 * ticks - 1).all(|second| tick(&mut peer, second).is_none()));
    assert_eq!(tick(&mut peer, 2 * ticks), Some(Dead::Silent));
}

#[test]
fn a_peer_that_takes_nothing_is_stalled_and_one_that_takes_little_is_not() {
    let mut peer = peer::<ToClient>();
    peer.push(&ToClient::Goodbye(Goodbye { reason: "r".repeat(5_000) }));
    let ticks = (WRITE_STALL_MS / 1_000) as u32;
    let tick = |peer: &mut Peer, second: u32| {
        peer.handle_read();
        peer.handle_tick(second * SECOND)
    };
    for second in 1..=3 * ticks {
        assert_eq!(take(&mut peer, 100, second * SECOND), 100);
        assert_eq!(tick(&mut peer, second), None);
        assert!(!peer.answers_are_due(), "what was asked may be in what waits");
    }
    let last = 3 * ticks;
    assert!((1..ticks - 1).all(|more| tick(&mut peer, last + more).is_none()));
    assert!(peer.answers_are_due(), "the peer does not take it");
    assert_eq!(tick(&mut peer, last + ticks), Some(Dead::Stalled));
}

#[test]
fn a_peer_whose_stalls_are_borne_is_dead_by_silence_alone() {
    let mut peer = peer::<FromEngine>().bearing_stalls();
    peer.push(&goodbye());
    for second in 1..60 {
        peer.handle_read();
        assert_eq!(peer.handle_tick(second * SECOND), None);
    }
    let silent = (60..600).find(|second| peer.handle_tick(*second * SECOND) == Some(Dead::Silent));
    assert_eq!(silent, Some(73));
}

/// The messages of the next record, opened by the key that sealed it.
fn next_messages<M: Placed>(peer: &mut Peer) -> Vec<M> {
    let mut slices = [IoSlice::new(&[]); SLICES_MAX];
    let count = peer.outbox().poll_slices(&mut slices, usize::MAX);
    let bytes: Vec<u8> = slices[..count].iter().flat_map(|slice| slice.iter().copied()).collect();
    peer.outbox().handle_written(bytes.len());
    let header = if bytes[0] & 2 == 0 { 2 } else { 9 };
    let mut envelope = bytes::BytesMut::from(&bytes[header..]);
    let keys = RecordKeys { send: [1; 32].into(), receive: [1; 32].into() };
    keys.split().1.open::<&[u8]>(&mut envelope, &[]).unwrap();
    decode_batch(&envelope).collect::<Result<_, _>>().unwrap()
}

#[test]
fn cancels_signals_and_recalls_go_first() {
    let mut peer = peer::<ToEngine>();
    let attempts = vec![Attempt { start: BrokerStart(1), id: AttemptId(1) }];
    peer.push(&ToEngine::Goodbye(Goodbye { reason: String::new() }));
    let recall = ToEngine::Recall(Attempts { attempts });
    peer.push(&recall);
    assert_eq!(next_messages::<ToEngine>(&mut peer), [recall]);
    let goodbye = FromClient::Goodbye(Goodbye { reason: String::new() });
    assert_eq!(goodbye.place(), QueuePlace::InOrder);
}

fn output(bytes: usize) -> ToClient {
    let (engine, stream) = (EngineId(1), Stream::Stdout);
    ToClient::Output(Output {
        n: TaskSeq(1),
        attempt: 1,
        engine,
        stream,
        offset: 0,
        bytes: vec![0; bytes],
    })
}

fn published(transfer: u64) -> ToClient {
    let payload = Payload::Chunked { transfer, counter: 0, bytes: 5_000, instance: None };
    ToClient::Published(Published { n: TaskSeq(1), payload })
}

#[test]
fn a_slow_reader_gets_a_gap_in_what_it_can_do_without() {
    let limits = LeftOutAbove { extra_bytes: 1_000, fetched_bytes: 3_000 };
    let mut peer = peer::<ToClient>();
    peer.leave_out_above(limits);
    peer.push(&output(2_000));
    let full = peer.queued_bytes();
    assert!(full > 2_000, "there was room when it came");
    peer.push(&output(10));
    peer.push(&published(7));
    peer.push_transfer::<ToClient>(7, Chunks::Stored(vec![vec![0; 5_000].into()]), |_| None);
    assert_eq!((peer.queued_bytes(), peer.outbox().stored_bytes()), (full, 0));
    // How much there was is still said, and what comes under other numbers is another matter.
    peer.push(&output(0));
    peer.push_transfer::<ToClient>(8, Chunks::Stored(vec![vec![0; 5_000].into()]), |_| None);
    assert_eq!((peer.queued_bytes() > full, peer.outbox().stored_bytes()), (true, 5_000));
}

#[test]
fn stored_payloads_count_as_waiting_for_a_slow_reader() {
    let limits = LeftOutAbove { extra_bytes: 1_000, fetched_bytes: 3_000 };
    let mut peer = peer::<ToClient>();
    peer.leave_out_above(limits);
    peer.push(&published(1));
    peer.push_transfer::<ToClient>(1, Chunks::Stored(vec![vec![0; 5_000].into()]), |_| None);
    let before = peer.queued_bytes();
    peer.push(&published(2));
    peer.push_transfer::<ToClient>(2, Chunks::Stored(vec![vec![0; 5_000].into()]), |_| None);
    assert_eq!((peer.queued_bytes(), peer.outbox().stored_bytes()), (before, 5_000));
}

#[test]
fn a_file_does_not_overtake_the_chunks_of_an_earlier_payload() {
    let mut peer = peer::<ToClient>();
    let file = FileId { device: 1, inode: 2 };
    let chunks = || Chunks::Stored(vec![vec![0; 5_000].into()]);
    peer.push_transfer::<ToClient>(1, chunks(), |_| None);
    peer.push_transfer::<ToClient>(2, chunks(), |_| Some(file));
    assert_eq!(peer.outbox().stored_bytes(), 10_000, "both are sent");
    take(&mut peer, usize::MAX, Duration::ZERO);
    peer.push_transfer::<ToClient>(3, chunks(), |_| Some(file));
    assert_eq!(peer.outbox().stored_bytes(), 0, "this one is passed");
}
