//! Tokens: stolen, forged, expired, of others.

use std::time::{SystemTime, UNIX_EPOCH};

use furlong_tests::farm::Farm;
use furlong_tests::session::{Answer, Credentials, shake_hands};
use furlong_wire::ids::{ClusterId, TokenId};
use furlong_wire::keys::{IssuerKey, SecretKey};
use furlong_wire::token::{Claims, Role};

use crate::PENDING_GROWTH_BYTES_MAX;

fn now_s() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}

/// Credentials with a token of these claims, which this issuer signs.
fn signed(good: &Credentials, issuer: &IssuerKey, claims: &Claims) -> Credentials {
    let mut credentials = good.clone();
    credentials.hello.token = issuer.sign(claims).unwrap().as_bytes().to_vec();
    credentials.hello.role = claims.role;
    credentials
}

#[test]
fn a_role_is_the_one_of_the_token() {
    let mut farm = Farm::start();
    for (token, claimed) in [
        (Role::Engine, Role::Client),
        (Role::Engine, Role::Admin),
        (Role::Client, Role::Engine),
        (Role::Client, Role::Admin),
        (Role::Observer, Role::Client),
        (Role::Task, Role::Multiengine),
    ] {
        let credentials = Credentials::of(&farm.capability(token)).with_role(claimed);
        let refusal =
            shake_hands(farm.port(), &credentials).refusal().expect("a proved peer is told why");
        assert_eq!(refusal, format!("the token is for role {token}, not {claimed}"));
    }
    farm.check_healthy(PENDING_GROWTH_BYTES_MAX);
}

#[test]
fn a_stolen_token_is_nothing_without_its_key() {
    let mut farm = Farm::start();
    let mut thief = Credentials::of(&farm.capability(Role::Client));
    thief.secret = [9; 32];
    assert!(matches!(shake_hands(farm.port(), &thief), Answer::Closed), "with a key of one's own");
    let mut climber = Credentials::of(&farm.capability(Role::Observer));
    climber.hello.token = Credentials::of(&farm.capability(Role::Admin)).hello.token;
    climber.hello.role = Role::Admin;
    assert!(
        matches!(shake_hands(farm.port(), &climber), Answer::Closed),
        "with the key of another token"
    );
    farm.check_healthy(PENDING_GROWTH_BYTES_MAX);
}

#[test]
fn validity_is_checked_with_five_minutes_of_tolerance() {
    let mut farm = Farm::start();
    let capability = farm.capability(Role::Client);
    let (good, issuer, now) = (Credentials::of(&capability), farm.home().issuer(), now_s());
    let with = |not_before_s, expires_s| {
        signed(&good, &issuer, &Claims { not_before_s, expires_s, ..capability.claims().clone() })
    };
    for (what, credentials) in
        [("expired", with(0, now - 400)), ("not yet valid", with(now + 400, Claims::NEVER))]
    {
        assert!(
            shake_hands(farm.port(), &credentials).refusal().is_some(),
            "a token that is {what} is not refused"
        );
    }
    for (incarnation, mut credentials) in
        [(1, with(0, now - 200)), (2, with(now + 200, Claims::NEVER))]
    {
        credentials.hello.incarnation = incarnation;
        shake_hands(farm.port(), &credentials).session();
    }
    farm.check_healthy(PENDING_GROWTH_BYTES_MAX);
}

#[test]
fn only_this_issuer_signs_for_this_cluster() {
    let mut farm = Farm::start();
    let capability = farm.capability(Role::Client);
    let (good, issuer) = (Credentials::of(&capability), farm.home().issuer());
    let claims = capability.claims().clone();
    let other_issuer = IssuerKey::from_seed([9; 32]);
    let cases = [
        ("another issuer", signed(&good, &other_issuer, &claims)),
        (
            "another issuer's cluster",
            signed(
                &good,
                &other_issuer,
                &Claims { cluster: ClusterId::of(&other_issuer.public()), ..claims.clone() },
            ),
        ),
        (
            "another cluster",
            signed(&good, &issuer, &Claims { cluster: ClusterId([9; 32]), ..claims.clone() }),
        ),
        (
            "another holder",
            signed(
                &good,
                &issuer,
                &Claims { holder: SecretKey::from_bytes([9; 32]).public(), ..claims.clone() },
            ),
        ),
    ];
    for (what, credentials) in cases {
        assert!(
            matches!(shake_hands(farm.port(), &credentials), Answer::Closed),
            "let in with a token of {what}"
        );
    }
    // Another id, for the same holder: nothing is wrong with it.
    shake_hands(
        farm.port(),
        &signed(&good, &issuer, &Claims { token_id: TokenId([9; 16]), ..claims }),
    )
    .session();
    farm.check_healthy(PENDING_GROWTH_BYTES_MAX);
}

#[test]
fn a_changed_token_is_refused() {
    let mut farm = Farm::start();
    let good = Credentials::of(&farm.capability(Role::Client));
    let token = good.hello.token.clone();
    let changed = |change: &dyn Fn(&mut Vec<u8>)| {
        let mut credentials = good.clone();
        change(&mut credentials.hello.token);
        credentials
    };
    let mut cases = vec![
        ("a byte less", changed(&|token| _ = token.pop())),
        ("a byte more", changed(&|token| token.push(0))),
        ("more than any token has", changed(&|token| token.resize(1537, 0))),
        ("a signature of S + L", changed(&|token| add_order(token))),
        (
            "a signature of zeros",
            changed(&|token| token.iter_mut().rev().take(64).for_each(|byte| *byte = 0)),
        ),
    ];
    for at in (0..token.len()).step_by(11) {
        cases.push(("a bit flipped", changed(&|token| token[at] ^= 1 << (at % 8))));
    }
    for (what, credentials) in cases {
        assert!(
            matches!(shake_hands(farm.port(), &credentials), Answer::Closed),
            "let in with a token with {what}"
        );
    }
    // Without a token it would be the client of a task, whose key an engine has named: nobody has
    // named this one.
    let answer = shake_hands(farm.port(), &changed(&|token| token.clear()));
    assert!(matches!(answer, Answer::Refused(_)), "let in without a token");
    farm.check_healthy(PENDING_GROWTH_BYTES_MAX);
}

/// Adds the group's order to S, the signature's last 32 bytes: a second signature for whoever does
/// not check that S is reduced (RFC 8032, section 5.1.7).
fn add_order(token: &mut [u8]) {
    let order = [
        0xed, 0xd3, 0xf5, 0x5c, 0x1a, 0x63, 0x12, 0x58, 0xd6, 0x9c, 0xf7, 0xa2, 0xde, 0xf9, 0xde,
        0x14, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x10,
    ];
    let from = token.len() - 32;
    let mut carry = 0;
    for (byte, add) in token[from..].iter_mut().zip(order) {
        let sum = u16::from(*byte) + add + carry;
        (*byte, carry) = ((sum & 0xff) as u8, sum >> 8);
    }
}
