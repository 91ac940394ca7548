//! A map against a broker that the test plays: no socket, no time.

use std::cell::Cell;
use std::task::Waker;
use std::time::Duration;

use furlong_link::peer::Peer;
use furlong_wire::capability::Endpoint;
use furlong_wire::handshake::{ExpectReply, ExpectStart, Hello, HelloBody};
use furlong_wire::ids::{BrokerStart, ClusterId, SessionId, TaskSeq};
use furlong_wire::keys::SecretKey;
use furlong_wire::message::{
    ErrorKind, Finished, FromClient, Outcome, TaskState, TaskTimes, ToClient, Welcome,
};
use furlong_wire::payload::PayloadSecret;
use furlong_wire::record::RecordSealer;
use furlong_wire::token::Role;
use futures_util::StreamExt;

use super::*;
use crate::connection::TICK;
use crate::error::DisconnectCause;
use crate::outcome::FailureKind;
use crate::shared::{Core, Shared};

const SESSION: SessionId = SessionId([7; 16]);

/// The sealer of a connection, from a real handshake.
fn sealer() -> RecordSealer {
    let (cluster, broker_secret) = (ClusterId([1; 32]), [2; 32]);
    let public = SecretKey::from_bytes(broker_secret).public();
    let (first, peer) = ExpectReply::start(&cluster, &public.0, &[3; 32], [4; 32]).unwrap();
    let (second, _) =
        ExpectStart::new(&cluster, &broker_secret, [5; 32]).unwrap().handle_start(&first).unwrap();
    let hello = HelloBody {
        token: vec![],
        session: SESSION,
        incarnation: 1,
        role: Role::Client,
        software: String::new(),
        abilities: 0,
    };
    peer.handle_reply(&second, &Hello::new(hello)).unwrap().1.split().0
}

fn handle(tasks_max: u64) -> Arc<Handle> {
    let welcome = Welcome {
        connection: 1,
        start: BrokerStart(1),
        cluster_name: "default".into(),
        cluster: ClusterId([1; 32]),
        software: String::new(),
        heartbeat_idle_ms: 5_000,
        heartbeat_dead_ms: 15_000,
        unfinished_tasks_max: tasks_max,
        payload_credit_bytes: 10_000,
        resumed: false,
        memory_flag: String::new(),
    };
    let core = Core::new(SESSION, PayloadSecret::new([1; 32]), false, true, false, &welcome);
    let endpoint = Endpoint::new("head", 7000).unwrap();
    let peer = Peer::new::<FromClient>(sealer(), TICK, Duration::ZERO);
    let shared = Shared::new(core, (peer, None), welcome, endpoint, SESSION);
    Arc::new(Handle { shared })
}

fn builder<I: Iterator<Item = Arguments>>(handle: &Arc<Handle>, items: I) -> IterMapBuilder<I> {
    MapBuilder::new(Arc::clone(handle), Some(Function::Named("noop".into())), stream::iter(items))
}

/// The broker ends a task. It fails, so that the test needs no payload: the map does not care.
fn end(handle: &Handle, n: u64) {
    let outcome = Outcome::error(TaskState::Failed, ErrorKind::NoEngines, "as the test wants");
    let (engine, attempts, times) = (None, 1, TaskTimes::default());
    let finished = Finished { n: TaskSeq(n), outcome, engine, attempts, times, payload: None };
    handle.shared.with(|core| core.handle_message(ToClient::Finished(finished), None));
}

/// The places of the items that come without waiting; none at the end for a map that is over.
fn drain(map: &mut (impl Stream<Item = MapItem> + Unpin)) -> Vec<Option<usize>> {
    let mut context = Context::from_waker(Waker::noop());
    let mut places = Vec::new();
    while let Poll::Ready(item) = map.poll_next_unpin(&mut context) {
        places.push(item.map(|(place, _)| place));
        if places.ends_with(&[None]) {
            break;
        }
    }
    places
}

/// Endless items, which count how many were taken.
fn counted(taken: &Cell<u64>) -> impl Iterator<Item = Arguments> + '_ {
    std::iter::repeat_with(|| {
        taken.set(taken.get() + 1);
        Arguments::None
    })
}

#[test]
fn an_endless_iterator_is_taken_one_window_at_a_time() {
    let (handle, taken) = (handle(1_000), Cell::new(0));
    let mut map = builder(&handle, counted(&taken)).window(100).stream().unwrap();
    assert_eq!(taken.get(), 0, "nothing is taken before the first poll");
    assert_eq!(drain(&mut map), []);
    assert_eq!(taken.get(), 100);
    (1..=70).for_each(|n| end(&handle, n));
    assert_eq!(drain(&mut map).len(), 70);
    assert_eq!(taken.get(), 170);
    drop(map);
}

#[test]
fn results_come_as_they_finish_or_in_order() {
    let items = || std::iter::repeat_n(Arguments::None, 3);
    let handle = handle(1_000);
    let mut map = builder(&handle, items()).stream().unwrap();
    assert_eq!(drain(&mut map), []);
    for n in [3, 1, 2] {
        end(&handle, n);
    }
    assert_eq!(drain(&mut map), [Some(2), Some(0), Some(1), None]);

    let mut map = builder(&handle, items()).ordered(true).stream().unwrap();
    assert_eq!(drain(&mut map), []);
    for n in [6, 4] {
        end(&handle, n);
    }
    assert_eq!(drain(&mut map), [Some(0)]);
    end(&handle, 5);
    assert_eq!(drain(&mut map), [Some(1), Some(2), None]);
}

#[test]
fn results_that_wait_for_their_turn_count_as_under_way() {
    let (handle, taken) = (handle(1_000), Cell::new(0));
    let mut map = builder(&handle, counted(&taken)).window(10).ordered(true).stream().unwrap();
    assert_eq!(drain(&mut map), []);
    (2..=10).for_each(|n| end(&handle, n));
    assert_eq!(drain(&mut map), []);
    assert_eq!(taken.get(), 10);
    end(&handle, 1);
    assert_eq!(drain(&mut map).len(), 10);
    assert_eq!(taken.get(), 20);
}

#[test]
fn a_map_waits_for_the_sessions_credit_and_goes_on() {
    let handle = handle(4);
    let mut map = builder(&handle, std::iter::repeat_n(Arguments::None, 10)).stream().unwrap();
    let mut places = Vec::new();
    for n in 1..=10 {
        places.extend(drain(&mut map));
        end(&handle, n);
    }
    places.extend(drain(&mut map));
    assert_eq!(places, (0..10).map(Some).chain([None]).collect::<Vec<_>>());
}

#[test]
fn what_cannot_be_submitted_fails_alone() {
    let handle = handle(1_000);
    let items = [Arguments::None, Arguments::Raw(vec![vec![0; 40_000].into()]), Arguments::None];
    let mut map = builder(&handle, items.into_iter()).stream().unwrap();
    let mut context = Context::from_waker(Waker::noop());
    let Poll::Ready(Some((1, Err(failure)))) = map.poll_next_unpin(&mut context) else {
        panic!("it is too large")
    };
    assert!(
        matches!(*failure.error, FailureKind::Submit(ClientError::PayloadTooLarge { .. })),
        "{failure}"
    );
    assert_eq!(drain(&mut map), []);
    for n in [1, 2] {
        end(&handle, n);
    }
    assert_eq!(drain(&mut map), [Some(0), Some(2), None]);
}

#[test]
fn the_end_of_the_connection_ends_an_endless_map() {
    let (handle, taken) = (handle(1_000), Cell::new(0));
    let mut map = builder(&handle, counted(&taken)).window(10).stream().unwrap();
    assert_eq!(drain(&mut map), []);
    handle.shared.finish(DisconnectCause::ClosedByBroker);
    let places = drain(&mut map);
    assert_eq!(
        places,
        (0..11).map(Some).chain([None]).collect::<Vec<_>>(),
        "ten under way, and one that says why"
    );
    assert!(taken.get() <= 20);
}

#[test]
fn a_cancelled_map_takes_no_more_and_ends_with_what_was_under_way() {
    let (handle, taken) = (handle(1_000), Cell::new(0));
    let mut map = builder(&handle, counted(&taken)).window(10).stream().unwrap();
    assert_eq!(drain(&mut map), []);
    map.cancel();
    (1..=10).for_each(|n| end(&handle, n));
    assert_eq!(drain(&mut map).len(), 11);
    assert_eq!(taken.get(), 10);
}

#[test]
fn items_of_a_stream_are_submitted_as_they_come() {
    let (handle, there) = (handle(1_000), Cell::new(0));
    let items = stream::poll_fn(|_| match there.get() {
        0 => Poll::Pending,
        5 => Poll::Ready(None),
        left => {
            there.set(left - 1);
            Poll::Ready(Some(Arguments::None))
        }
    });
    let mut map = MapBuilder::new(Arc::clone(&handle), Some(Function::Named("noop".into())), items)
        .stream()
        .unwrap();
    assert_eq!(drain(&mut map), []);
    there.set(2);
    assert_eq!(drain(&mut map), []);
    end(&handle, 2);
    assert_eq!(drain(&mut map), [Some(1)], "a result comes though there are no items now");
    end(&handle, 1);
    assert_eq!(drain(&mut map), [Some(0)]);
    there.set(5);
    assert_eq!(drain(&mut map), [None]);
}

#[test]
fn whole_calls_bring_their_own_options_and_mistakes() {
    let handle = handle(1_000);
    let calls = [
        CallSpec::native("a"),
        CallSpec::native("b").label("l".repeat(1_000)),
        CallSpec::python("m:c"),
    ];
    let mut map = MapBuilder::new(Arc::clone(&handle), None, stream::iter(calls)).stream().unwrap();
    assert_eq!(drain(&mut map), [Some(1)]);
    for n in [1, 2] {
        end(&handle, n);
    }
    assert_eq!(drain(&mut map), [Some(0), Some(2), None]);
}

#[test]
fn a_dropped_map_cancels_what_is_under_way_if_it_shall() {
    for cancels in [false, true] {
        let handle = handle(1_000);
        let items = std::iter::repeat_n(Arguments::None, 5);
        let mut map = builder(&handle, items).cancel_on_drop(cancels).stream().unwrap();
        assert_eq!(drain(&mut map), []);
        end(&handle, 3);
        let queued = handle.shared.lock().peer.queued_bytes();
        drop(map);
        let more = handle.shared.lock().peer.queued_bytes() - queued;
        assert_eq!(more > 0, cancels, "{more} bytes more are queued");
    }
}
