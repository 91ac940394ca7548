//! Sessions: they outlive connections, for a while.

use std::time::Duration;

use furlong_wire::ids::TaskSeq;
use furlong_wire::message::{
    Define, ErrorKind, FromClient, Open, Payload, RefusalKind, Submit, TaskOptions, TaskState,
    ToClient, ToEngine, Undefine,
};
use furlong_wire::payload::PayloadSecret;
use furlong_wire::token::{Role, TokenLimits};

use crate::core::tests::farm::peers::{Farm, direct, shared};
use crate::core::{PeerMisbehaved, invariants};

const SUCCEEDED: Option<(TaskState, Option<ErrorKind>)> = Some((TaskState::Succeeded, None));

#[test]
fn results_are_delivered_again_on_each_connection_until_acknowledged() {
    let mut farm = Farm::default();
    let (client, engine) = (farm.client(), farm.engine());
    (0..2).for_each(|_| _ = farm.submit(client, shared()));
    farm.finish(engine);
    farm.ack(client, 1, 1);
    farm.disconnect_client(client);
    farm.finish(engine);
    assert_eq!(farm.deliveries(client, 2), 0, "nobody is there to receive it");
    for deliveries in 1..=2 {
        assert!(farm.connect_client(client).unwrap(), "the session is resumed");
        assert_eq!((farm.deliveries(client, 1), farm.deliveries(client, 2)), (1, deliveries));
    }
    assert_eq!(farm.end_of(client, 2), SUCCEEDED);
}

#[test]
fn a_resuming_client_learns_which_submits_are_known() {
    let mut farm = Farm::default();
    let client = farm.client();
    (0..3).for_each(|_| _ = farm.submit(client, shared()));
    farm.disconnect_client(client);
    farm.connect_client(client).unwrap();
    assert_eq!((farm.accepted(client).n, farm.accepted(client).missing), (TaskSeq(3), vec![]));
}

#[test]
fn a_session_of_an_earlier_start_submits_again_what_it_waits_for() {
    let mut farm = Farm::default();
    let client = farm.client_that_had_submitted(10);
    assert_eq!((farm.accepted(client).n, farm.accepted(client).missing), (TaskSeq::MIN, vec![]));
    let engine = farm.engine();
    let repeated = |n| {
        let options = Some(Box::new(TaskOptions { repeated: true, ..TaskOptions::default() }));
        FromClient::Submit(Submit { n, options, ..shared() })
    };
    for n in [4, 9, 4] {
        farm.say(client, repeated(TaskSeq(n))).unwrap();
    }
    farm.say(client, FromClient::Submit(Submit { n: TaskSeq(5), ..shared() })).unwrap();
    assert_eq!(farm.submit(client, shared()), 11);
    assert_eq!([farm.finish(engine), farm.finish(engine), farm.finish(engine)], [4, 9, 11]);
    farm.say(client, repeated(TaskSeq(4))).unwrap();
    farm.ack(client, 1, 11);
    farm.say(client, repeated(TaskSeq(9))).unwrap();
    assert!(farm.assigned(engine).is_empty(), "what has run is not run again");
    assert_eq!(farm.say(client, repeated(TaskSeq(13))), Err(PeerMisbehaved::TaskNumber));
}

#[test]
fn tasks_go_on_without_their_client() {
    let mut farm = Farm::default();
    let (client, engine) = (farm.client(), farm.engine());
    (0..3).for_each(|_| _ = farm.submit(client, shared()));
    farm.disconnect_client(client);
    (0..3).for_each(|_| _ = farm.finish(engine));
    farm.connect_client(client).unwrap();
    assert!((1..=3).all(|n| farm.end_of(client, n) == SUCCEEDED));
}

#[test]
fn a_session_whose_client_stays_away_is_forgotten() {
    let mut farm = Farm::default();
    let (client, engine) = (farm.client(), farm.engine());
    (0..3).for_each(|_| _ = farm.submit(client, shared()));
    farm.finish(engine);
    farm.disconnect_client(client);
    farm.wait(Duration::from_secs(599));
    assert_eq!(farm.core.tally.results_held, 1);
    farm.wait(Duration::from_secs(1));
    assert_eq!(farm.processes[engine].cancelled.len(), 1, "what ran is cancelled");
    assert!(
        farm.processes[engine]
            .received
            .iter()
            .any(|message| matches!(message, ToEngine::Forget(_)))
    );
    farm.finish(engine);
    assert_eq!(farm.core.kept.len(), 1, "what was not fetched is kept for an hour");
    farm.wait(Duration::from_secs(3_600));
    invariants::is_quiet(&farm.core);
    assert!(!farm.connect_client(client).unwrap(), "it begins anew");
}

#[test]
fn a_client_that_comes_back_in_time_is_not_forgotten_later() {
    let mut farm = Farm::default();
    let client = farm.client();
    farm.submit(client, shared());
    farm.disconnect_client(client);
    farm.wait(Duration::from_secs(500));
    farm.connect_client(client).unwrap();
    farm.wait(Duration::from_secs(5_000));
    assert!(
        farm.clients[client].connection.is_some()
            && farm.core.schedule.placements.tasks_waiting() == 1
    );
}

#[test]
fn a_client_that_is_back_hears_of_its_results_before_it_goes_on() {
    let mut farm = Farm::default();
    let (client, engine) = (farm.client(), farm.engine());
    farm.submit(client, shared());
    farm.disconnect_client(client);
    farm.finish(engine);
    let before = farm.clients[client].received.len();
    farm.connect_client(client).unwrap();
    let heard = &farm.clients[client].received[before..];
    assert!(matches!(heard, [ToClient::Finished(_), ToClient::Accepted(_)]), "{heard:?}");
}

#[test]
fn a_goodbye_ends_the_session_at_once() {
    let mut farm = Farm::default();
    let (client, engine) = (farm.client(), farm.engine());
    farm.submit(client, direct(&[farm.id(engine)]));
    farm.submit(client, shared());
    farm.goodbye(client);
    farm.finish(engine);
    invariants::is_quiet(&farm.core);
}

#[test]
fn a_newer_connection_supersedes_the_older_and_never_the_other_way_round() {
    let mut farm = Farm::default();
    let (client, engine) = (farm.client(), farm.engine());
    farm.submit(client, shared());
    let old = farm.clients[client].connection.unwrap();
    farm.connect_client(client).unwrap();
    let late = farm.core.handle_from_client(
        farm.now,
        old,
        FromClient::Submit(Submit { n: TaskSeq(2), ..shared() }),
        None,
    );
    assert_eq!(late, Err(PeerMisbehaved::Order), "the old connection is nobody's");
    farm.finish(engine);
    assert_eq!(farm.end_of(client, 1), SUCCEEDED);
    farm.clients[client].incarnation -= 2;
    assert_eq!(farm.connect_client(client).unwrap_err().kind, RefusalKind::Superseded);
}

#[test]
fn another_holder_of_the_same_owner_may_not_resume_a_session() {
    let mut farm = Farm::default();
    let client = farm.client();
    farm.disconnect_client(client);
    farm.clients[client].holder += 100;
    assert_eq!(farm.connect_client(client).unwrap_err().kind, RefusalKind::Unauthorized);
}

#[test]
fn a_session_keeps_its_secret() {
    let mut farm = Farm::default();
    let client = farm.client();
    let other = FromClient::Open(Open {
        secret: PayloadSecret::new([99; 32]),
        cancel_on_disconnect: false,
        submitted: TaskSeq::MIN,
        hides_names: false,
    });
    assert_eq!(farm.say(client, other), Err(PeerMisbehaved::Order));
}

#[test]
fn a_session_has_a_bounded_number_of_tasks_and_results() {
    let mut farm = Farm::with_limits(1 << 20, 3);
    let (client, engine) = (farm.client(), farm.engine());
    (0..3).for_each(|_| _ = farm.submit(client, shared()));
    farm.finish(engine);
    farm.ack(client, 1, 1);
    farm.submit(client, shared());
    let fifth = FromClient::Submit(Submit { n: TaskSeq(5), ..shared() });
    assert_eq!(
        farm.say(client, fifth),
        Err(PeerMisbehaved::Credit),
        "a result counts until it is acknowledged"
    );
}

#[test]
fn cancelled_tasks_leave_no_trace_in_a_queue() {
    let mut farm = Farm::default();
    let (client, engine) = (farm.client(), farm.engine());
    let id = farm.id(engine);
    for _ in 0..1_000 {
        let n = farm.submit(client, direct(&[id]));
        // The engine has the first one, and the second one waits: the others stand behind it.
        if n > 2 {
            farm.cancel(client, n, n);
            farm.ack(client, n, n);
        }
    }
    assert!(farm.core.engines.get(id).unwrap().queue.len() < 500);
}

#[test]
fn a_session_that_ends_with_its_connection_does_not_end_with_a_superseded_one() {
    let mut farm = Farm::default();
    let (client, engine) = (farm.absent_client(Role::Client), farm.engine());
    farm.clients[client].cancel_on_disconnect = true;
    farm.connect_client(client).unwrap();
    farm.submit(client, shared());
    assert!(farm.connect_client(client).unwrap(), "it is the same session");
    farm.finish(engine);
    assert_eq!(farm.end_of(client, 1), SUCCEEDED);
    farm.submit(client, shared());
    farm.disconnect_client(client);
    assert_eq!(farm.processes[engine].cancelled.len(), 1, "now it ends");
    farm.finish(engine);
    invariants::is_quiet(&farm.core);
}

/// Two sessions of one token, which allows 3 unfinished tasks and 5,000 bytes.
fn two_of_one_token(farm: &mut Farm) -> [usize; 2] {
    [0; 2].map(|_| {
        let client = farm.absent_client(Role::Client);
        farm.clients[client].token = 99;
        farm.clients[client].limits =
            TokenLimits { unfinished_tasks_max: 3, payload_bytes_max: 5_000, no_nested: false };
        farm.connect_client(client).unwrap();
        client
    })
}

#[test]
fn sessions_of_one_token_share_its_limits() {
    let mut farm = Farm::default();
    let [one, two] = two_of_one_token(&mut farm);
    (0..2).for_each(|_| _ = farm.submit(one, shared()));
    (0..2).for_each(|_| _ = farm.submit(two, shared()));
    let busy = Some((TaskState::Failed, Some(ErrorKind::Busy)));
    assert_eq!([farm.end_of(two, 1), farm.end_of(two, 2)], [None, busy]);
    farm.cancel(one, 1, 1);
    let n = farm.submit(two, shared());
    assert_eq!(farm.end_of(two, n), None);
}

#[test]
fn a_session_that_ends_gives_back_what_its_definitions_took_of_its_tokens_limit() {
    let mut farm = Farm::default();
    let [one, two] = two_of_one_token(&mut farm);
    for bytes in [3_000, 2_000] {
        let payload = farm.clients[one].sending.chunked(bytes);
        farm.say(one, FromClient::Define(Define { number: bytes as u32, payload })).unwrap();
    }
    farm.send_chunk(one);
    farm.goodbye(one);
    let payload = farm.clients[two].sending.chunked(5_000);
    let n = farm.submit(two, Submit { payload, ..shared() });
    assert_eq!(farm.end_of(two, n), None);
    farm.goodbye(two);
    invariants::is_quiet(&farm.core);
}

#[test]
fn a_definition_stays_counted_if_its_number_is_used_again() {
    let mut farm = Farm::default();
    let client = farm.client();
    let define = || {
        FromClient::Define(Define { number: 1, payload: Payload::Inline(b"def f".to_vec().into()) })
    };
    farm.say(client, define()).unwrap();
    assert_eq!(farm.say(client, define()), Err(PeerMisbehaved::Limit));
    invariants::hold(&farm.core);
    farm.wait(Duration::from_secs(3_600));
    invariants::is_quiet(&farm.core);
}

#[test]
fn definitions_of_a_session_are_bounded_and_one_that_goes_makes_room() {
    let mut farm = Farm::default();
    let (client, other) = (farm.client(), farm.client());
    let define =
        |number| FromClient::Define(Define { number, payload: Payload::Inline(Vec::new().into()) });
    (0..4_096).for_each(|number| farm.say(client, define(number)).unwrap());
    farm.say(client, FromClient::Undefine(Undefine { number: 7 })).unwrap();
    assert_eq!(farm.say(client, define(4_096)), Ok(()));
    assert_eq!(farm.say(client, define(4_097)), Err(PeerMisbehaved::Limit));
    assert_eq!(farm.say(other, define(4_097)), Ok(()));
    invariants::hold(&farm.core);
}

#[test]
fn a_session_that_is_resumed_with_another_token_stays_within_the_limits_of_the_first() {
    let mut farm = Farm::default();
    let [one, two] = two_of_one_token(&mut farm);
    (0..2).for_each(|_| _ = farm.submit(one, shared()));
    farm.clients[one].token = 98;
    farm.connect_client(one).unwrap();
    let engine = farm.engine();
    (0..2).for_each(|_| _ = farm.finish(engine));
    assert_eq!([farm.end_of(one, 1), farm.end_of(one, 2)], [SUCCEEDED, SUCCEEDED]);
    (0..3).for_each(|_| _ = farm.submit(two, shared()));
    assert!((1..=3).all(|n| farm.end_of(two, n).is_none()));
    for client in [one, two] {
        farm.goodbye(client);
    }
    farm.finish(engine);
    invariants::is_quiet(&farm.core);
}
