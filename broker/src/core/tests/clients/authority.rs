//! Tokens that are revoked or expire while their holders are here, and what administrators do.

use std::time::Duration;

use furlong_wire::capability::{Revocation, RevokedTokens};
use furlong_wire::ids::{SessionId, TokenId};
use furlong_wire::limits::CLOCK_TOLERANCE_S;
use furlong_wire::message::{
    ErrorKind, FromClient, ReplyBody, Revoke, TaskState, ToClient, ToEngine,
};
use furlong_wire::token::Role;

use crate::core::tests::farm::peers::{Farm, direct, peer, shared};
use crate::core::turns::work::TASKS_PER_PART;
use crate::core::{ConnectionId, Output, Time, invariants};

fn revoked(holder: u8) -> RevokedTokens {
    let mut revoked = RevokedTokens::default();
    let revocation = Revocation { revoked_s: 1, reason: Some("lost".into()) };
    revoked.revoke(TokenId([holder; 16]), revocation).unwrap();
    revoked
}

/// Returns the core's outputs.
fn outputs(farm: &mut Farm) -> Vec<Output> {
    std::iter::from_fn(|| farm.core.poll_output()).collect()
}

#[test]
fn a_revoked_client_that_has_very_many_results_unread_loses_them_in_several_turns() {
    let mut farm = Farm::default();
    let (client, engine) = (farm.client(), farm.engine());
    for _ in 0..3 * TASKS_PER_PART {
        farm.submit(client, shared());
        farm.finish(engine);
    }
    farm.core.handle_revoked(farm.now, &revoked(farm.clients[client].holder));
    farm.pump();
    assert_eq!(farm.clients[client].connection, None);
    assert_eq!(farm.core.sessions.len(), 1, "it ends in later turns");
    (0..8).for_each(|_| farm.wait(Duration::from_millis(1)));
    assert_eq!(farm.core.sessions.len(), 0);
    invariants::hold(&farm.core);
}

#[test]
fn a_revoked_client_is_told_loses_its_session_and_nobody_else_does() {
    let mut farm = Farm::default();
    let (good, bad, engine) = (farm.client(), farm.client(), farm.engine());
    (0..3).for_each(|_| _ = farm.submit(bad, shared()));
    farm.submit(good, shared());
    farm.start(engine);
    farm.core.handle_revoked(farm.now, &revoked(farm.clients[bad].holder));
    farm.pump();
    let cancelled = Some((TaskState::Cancelled, Some(ErrorKind::Cancelled)));
    assert!((1..=3).all(|n| farm.end_of(bad, n) == cancelled), "the ends of its tasks reach it");
    assert!(
        (1..=3).all(|n| farm.error_of(bad, n).contains("revoked")),
        "with the reason: {}",
        farm.error_of(bad, 1)
    );
    let last = farm.clients[bad].received.last();
    assert!(
        matches!(last, Some(ToClient::Goodbye(it)) if it.reason.contains("(lost)")),
        "{last:?}"
    );
    assert_eq!(farm.clients[bad].connection, None);
    farm.finish(engine);
    farm.finish(engine);
    assert_eq!(farm.end_of(good, 1), Some((TaskState::Succeeded, None)));
    assert!(!farm.connect_client(bad).unwrap(), "its session is gone");
    invariants::hold(&farm.core);
}

#[test]
fn a_revoked_session_that_is_away_ends_too() {
    let mut farm = Farm::default();
    let (client, engine) = (farm.client(), farm.engine());
    farm.submit(client, direct(&[farm.id(engine)]));
    farm.start(engine);
    farm.disconnect_client(client);
    farm.core.handle_revoked(farm.now, &revoked(farm.clients[client].holder));
    farm.pump();
    let forget = farm.processes[engine]
        .received
        .iter()
        .any(|message| matches!(message, ToEngine::Forget(_)));
    assert!(forget && !farm.processes[engine].cancelled.is_empty(), "what it runs is cancelled");
    invariants::hold(&farm.core);
}

#[test]
fn a_revoked_engine_process_leaves_as_one_that_said_goodbye() {
    let mut farm = Farm::default();
    let (client, first, second) = (farm.client(), farm.engine(), farm.engine());
    let lost = farm.submit(client, direct(&[farm.id(first)]));
    let moved = farm.submit(client, shared());
    let revoked = revoked(farm.processes[first].slots[0].uuid.0[0]);
    farm.core.handle_revoked(farm.now, &revoked);
    farm.pump();
    assert!(
        farm.processes[first]
            .received
            .iter()
            .any(|message| matches!(message, ToEngine::Goodbye(_)))
    );
    assert_eq!(farm.processes[first].connection, None);
    assert_eq!(farm.end_of(client, lost), Some((TaskState::Lost, Some(ErrorKind::EngineLost))));
    assert_eq!(farm.core.engines_online(), 1);
    farm.finish(second);
    assert_eq!(farm.end_of(client, moved), Some((TaskState::Succeeded, None)));
    invariants::hold(&farm.core);
}

#[test]
fn a_token_that_expires_ends_its_session_at_its_second_and_not_before() {
    let mut farm = Farm::default();
    let forever = farm.client();
    let connection = ConnectionId(1_000);
    let mut guest = peer(Role::Client, SessionId([99; 16]), 1, 99);
    guest.claims.expires_s = 50;
    farm.core.handle_connected(connection, guest).unwrap();
    // The broker started in second 1 of 1970.
    let left = Duration::from_secs(50 + CLOCK_TOLERANCE_S - 1);
    let due = farm.core.poll_timeout().expect("an expiry is waited for");
    assert_eq!(due, farm.now.after(left));
    farm.core.handle_timeout(Time(due.0 - 1));
    assert!(outputs(&mut farm).is_empty() && farm.core.is_served(connection));
    farm.core.handle_timeout(due);
    let outputs = outputs(&mut farm);
    let told =
        |it: &Output| matches!(it, Output::ToClient(to, ToClient::Goodbye(_)) if *to == connection);
    let closed =
        |it: &Output| matches!(it, Output::Close(it, "its token has expired") if *it == connection);
    assert!(outputs.iter().any(told) && closed(outputs.last().unwrap()), "{outputs:?}");
    assert!(!farm.core.is_served(connection) && farm.core.poll_timeout().is_none());
    farm.submit(forever, shared());
    invariants::hold(&farm.core);
}

#[test]
fn who_has_left_is_not_waited_for() {
    let mut farm = Farm::default();
    let mut guest = peer(Role::Engine, SessionId([99; 16]), 1, 99);
    guest.claims.expires_s = 50;
    farm.core.handle_connected(ConnectionId(1_000), guest).unwrap();
    farm.core.handle_disconnected(farm.now, ConnectionId(1_000));
    assert_eq!(farm.core.poll_timeout(), None);
}

#[test]
fn only_an_administrator_revokes_and_is_answered_when_it_is_done() {
    let mut farm = Farm::default();
    let (admin, client) = (farm.client_as(Role::Admin), farm.client());
    let tokens = vec![TokenId([farm.clients[client].holder; 16])];
    let ask = |request| FromClient::Revoke(Revoke { request, tokens: tokens.clone() });
    let last_reply = |farm: &Farm, client: usize| match farm.clients[client].received.last() {
        Some(ToClient::Reply(reply)) => Some((reply.request, reply.body.clone())),
        _ => None,
    };
    farm.say(client, ask(1)).unwrap();
    let Some((1, ReplyBody::Refused(text))) = last_reply(&farm, client) else {
        panic!("it is not refused")
    };
    assert_eq!(
        text,
        "the capability's role `client` may not revoke tokens; ask for one of role `admin`"
    );
    let connection = farm.clients[admin].connection.unwrap();
    farm.core.handle_from_client(farm.now, connection, ask(2), None).unwrap();
    let asked = farm.core.poll_output();
    assert!(
        matches!(&asked, Some(Output::Revoke(to, 2, of)) if *to == connection && *of == tokens),
        "{asked:?}"
    );
    assert_eq!(last_reply(&farm, admin), None);
    farm.core.handle_revocation(farm.now, connection, 2, Ok(&revoked(farm.clients[client].holder)));
    farm.pump();
    assert_eq!(last_reply(&farm, admin), Some((2, ReplyBody::Done)));
    assert_eq!(farm.clients[client].connection, None);
    // A list that cannot be written revokes nobody.
    farm.core.handle_from_client(farm.now, connection, ask(3), None).unwrap();
    assert!(matches!(farm.core.poll_output(), Some(Output::Revoke(_, 3, _))));
    farm.core.handle_revocation(farm.now, connection, 3, Err("no space".into()));
    farm.pump();
    let refused = ReplyBody::Refused("nothing is revoked: no space".into());
    assert_eq!(last_reply(&farm, admin), Some((3, refused)));
}

#[test]
fn revocations_on_their_way_are_bounded() {
    let mut farm = Farm::default();
    let admin = farm.client_as(Role::Admin);
    (0..50).for_each(|request| {
        farm.say(admin, FromClient::Revoke(Revoke { request, tokens: vec![] })).unwrap();
    });
    let refused =
        |message: &&ToClient| matches!(message, ToClient::Reply(it) if it.body != ReplyBody::Done);
    assert_eq!(farm.clients[admin].received.iter().filter(refused).count(), 50 - 16);
}
