//! Many, slow and silent unauthenticated peers.

use std::time::{Duration, Instant};

use furlong_tests::farm::Farm;
use furlong_tests::measure::{cpu_seconds, open_fds, rss_bytes};
use furlong_tests::raw::{RawPeer, command, greeting, message, property, ready};
use furlong_tests::session::{Answer, Caller, Credentials, RawSession, shake_hands};
use furlong_tests::wait::{SOON, eventually};
use furlong_wire::limits::{
    CALLERS_OF_ORIGIN_MAX, GREETING_TIMEOUT_MS, HANDSHAKE_TIMEOUT_MS, PENDING_PER_ORIGIN_MAX,
};
use furlong_wire::message::{FromClient, Query, Reply, ReplyBody, Request, ToClient};
use furlong_wire::token::Role;

use crate::{CLOSED, PENDING_GROWTH_BYTES_MAX};

/// The time that timers and a busy machine may add to a deadline.
const SLACK: Duration = Duration::from_secs(3);

#[test]
fn who_stops_on_the_way_in_is_closed_at_the_deadline() {
    let mut farm = Farm::start();
    let capability = farm.capability(Role::Client);
    let mut earlier = RawSession::client(farm.port(), &capability);
    let began = Instant::now();
    let started = |bytes: &[u8]| {
        let mut peer = RawPeer::connect(farm.port());
        peer.send(bytes);
        peer
    };
    let whole = [&greeting()[..], &ready()].concat();
    let greetings =
        [0, 1, 10, 11, 63, 64, 66, whole.len() - 1].map(|count| (count, started(&whole[..count])));
    let (first, _) = Credentials::of(&capability).start();
    let messages =
        [whole.clone(), [&whole[..], &message(&[&first])].concat()].map(|bytes| started(&bytes));
    let deadline = Duration::from_millis(GREETING_TIMEOUT_MS);
    for (count, mut peer) in greetings {
        assert!(
            peer.is_closed_within(deadline + SLACK),
            "{count} bytes of a greeting keep a place"
        );
        assert!(
            began.elapsed() < deadline + SLACK,
            "{count} bytes of a greeting keep a place too long"
        );
        assert!(
            began.elapsed() > deadline / 2,
            "{count} bytes of a greeting: closed before the deadline"
        );
    }
    let deadline = Duration::from_millis(HANDSHAKE_TIMEOUT_MS);
    for mut peer in messages {
        assert!(
            peer.is_closed_within(deadline + SLACK) && began.elapsed() < deadline + SLACK,
            "a place is kept"
        );
    }
    // Whoever did this has the capability's key, or not: the session that it has is another's.
    earlier.send(&[FromClient::Query(Request { request: 1, query: Query::Engines })]);
    let replies: Vec<ToClient> =
        std::iter::from_fn(|| earlier.receive().ok()).take(2).flatten().collect();
    let answer = ToClient::Reply(Reply { request: 1, body: ReplyBody::Engines(vec![]) });
    assert!(replies.contains(&answer), "{replies:?}");
    farm.check_healthy(PENDING_GROWTH_BYTES_MAX);
}

#[test]
fn a_greeting_byte_by_byte_gets_no_more_time() {
    let mut farm = Farm::start();
    let mut peer = RawPeer::connect(farm.port());
    let began = Instant::now();
    let closed = greeting().iter().any(|byte| {
        peer.send(&[*byte]);
        peer.is_closed_within(Duration::from_millis(100))
    });
    assert!(closed, "64 bytes in 6.4 s were accepted");
    assert!(began.elapsed() < Duration::from_millis(GREETING_TIMEOUT_MS) + SLACK);
    farm.check_healthy(PENDING_GROWTH_BYTES_MAX);
}

#[test]
fn two_hundred_idle_connections_keep_nobody_out_for_longer_than_their_deadline() {
    let mut farm = Farm::start();
    let pending: Vec<_> = (0..200).map(|_| RawPeer::connect(farm.port())).collect();
    let began = Instant::now();
    farm.good(Role::Client);
    assert!(
        began.elapsed() < Duration::from_millis(GREETING_TIMEOUT_MS) + SLACK,
        "{:?}",
        began.elapsed()
    );
    drop(pending);
    farm.check_healthy(PENDING_GROWTH_BYTES_MAX);
}

#[test]
fn pending_peers_who_stop_after_the_first_message_keep_nobody_else_out() {
    let mut farm = Farm::start();
    let credentials = Credentials::of(&farm.capability(Role::Client));
    let mut stopped: Vec<_> = (0..CALLERS_OF_ORIGIN_MAX)
        .map(|_| {
            let mut peer = RawPeer::connect_from_elsewhere(farm.port());
            peer.send(&[&greeting()[..], &ready(), &message(&[&credentials.start().0])].concat());
            peer.receive_ready()
                .and_then(|()| peer.receive())
                .expect("the first message is answered");
            peer
        })
        .collect();
    farm.good(Role::Client);
    let is_open = |peer: &mut RawPeer| !peer.is_closed_within(Duration::from_millis(1));
    assert!(stopped.iter_mut().any(is_open), "it was kept out until the last of them had gone");
    drop(stopped);
    farm.check_healthy(PENDING_GROWTH_BYTES_MAX);
}

#[test]
fn a_silent_crowd_of_the_same_address_takes_no_place_of_who_has_begun_well() {
    let mut farm = Farm::start();
    let capability = farm.capability(Role::Client);
    let credentials: Vec<_> =
        (0..CALLERS_OF_ORIGIN_MAX).map(|_| Credentials::of(&capability)).collect();
    let call = |credentials| {
        Caller::call(farm.port(), credentials).expect("the first message is answered")
    };
    let callers: Vec<Caller> = credentials.iter().map(call).collect();
    let crowd: Vec<_> =
        (0..2 * PENDING_PER_ORIGIN_MAX).map(|_| RawPeer::connect(farm.port())).collect();
    for (caller, credentials) in callers.into_iter().zip(&credentials) {
        let answer = caller.prove(&credentials.hello());
        assert!(
            matches!(answer, Ok(Answer::Welcome(_))),
            "a silent peer has taken its place: {answer:?}"
        );
    }
    drop(crowd);
    farm.check_healthy(PENDING_GROWTH_BYTES_MAX);
}

#[test]
fn pending_peers_with_a_full_frame_each_cost_a_bounded_sum() {
    let mut farm = Farm::start();
    // All but the last byte of the largest frame that an unauthenticated peer may send.
    let frame = message(&[&[0xA5; 4000]]);
    for _ in 0..1_000 {
        let mut peer = RawPeer::connect(farm.port());
        peer.send(&[&greeting()[..], &ready(), &frame[..frame.len() - 1]].concat());
    }
    farm.check_healthy(PENDING_GROWTH_BYTES_MAX);
}

#[test]
fn five_thousand_pending_peers_that_come_and_go_leave_nothing_behind() {
    let mut farm = Farm::start();
    let identity =
        [property(b"Socket-Type", b"DEALER"), property(b"Identity", &[b'i'; 255])].concat();
    let hello = [&greeting()[..], &command(b"READY", &identity)].concat();
    let come_and_go = |times: u32| {
        for _ in 0..times {
            let mut peer = RawPeer::connect(farm.port());
            peer.send(&hello);
            // Refused while too many before it are still being cleared away; that is one of the
            // things to try.
            let _ = peer.receive_ready();
        }
    };
    come_and_go(500);
    let (rss, fds) = (rss_bytes(farm.pid()), open_fds(farm.pid()));
    come_and_go(4_500);
    assert!(
        eventually(SOON, || open_fds(farm.pid()) <= fds),
        "{} descriptors, {fds} before",
        open_fds(farm.pid())
    );
    let growth = rss_bytes(farm.pid()).saturating_sub(rss);
    assert!(growth < 2 << 20, "{} KiB more than before", growth >> 10);
    farm.check_healthy(PENDING_GROWTH_BYTES_MAX);
}

#[test]
fn an_idle_broker_with_silent_peers_does_not_spin() {
    let farm = Farm::start();
    let capability = farm.capability(Role::Client);
    let _sessions: Vec<_> = (0..20).map(|_| RawSession::client(farm.port(), &capability)).collect();
    let _pending: Vec<_> = (0..40).map(|_| RawPeer::connect(farm.port())).collect();
    let mut silent = RawPeer::connect(farm.port());
    let (before, began) = (cpu_seconds(farm.pid()), Instant::now());
    // Until its deadline there is nothing to do.
    assert!(silent.is_closed_within(CLOSED));
    let share = (cpu_seconds(farm.pid()) - before) / began.elapsed().as_secs_f64();
    assert!(share < 0.05, "{:.0} % of a core for nothing", share * 100.0);
}

#[test]
fn a_flood_of_handshakes_keeps_neither_pending_peers_nor_peers_from_being_served() {
    let mut farm = Farm::start();
    let capability = farm.capability(Role::Client);
    let mut served = farm.good(Role::Client);
    let mut forged = Credentials::of(&capability);
    forged.hello.token[100] ^= 1;
    let port = farm.port();
    let end = Instant::now() + Duration::from_secs(2);
    let slowest = std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while Instant::now() < end {
                    shake_hands(port, &forged);
                }
            });
        }
        let mut slowest = Duration::ZERO;
        while Instant::now() < end {
            let asked = Instant::now();
            served.engines().expect("a peer that is in stays in");
            slowest = slowest.max(asked.elapsed());
        }
        farm.good(Role::Client);
        slowest
    });
    assert!(slowest < Duration::from_secs(1), "an answer took {slowest:?}");
    farm.check_healthy(PENDING_GROWTH_BYTES_MAX);
}
