use std::ops::{Add, Mul};

use ed25519_dalek::{Signature, SigningKey};
use proptest::prelude::*;
use sha2::Sha512;

use super::*;
use crate::keys::SecretKey;

const SEED: [u8; 32] = [1; 32];

fn issuer() -> IssuerKey {
    IssuerKey::from_seed(SEED)
}

fn cluster() -> ClusterId {
    ClusterId::of(&issuer().public())
}

fn holder() -> PublicKey {
    SecretKey::from_bytes([2; 32]).public()
}

fn claims() -> Claims {
    Claims {
        cluster: cluster(),
        token_id: TokenId([3; 16]),
        holder: holder(),
        owner: OwnerId([4; 16]),
        role: Role::Client,
        scopes: vec!["cpu".to_owned(), "gpu".to_owned()],
        limits: TokenLimits {
            unfinished_tasks_max: 1_000,
            payload_bytes_max: 1 << 30,
            no_nested: false,
        },
        not_before_s: 10_000,
        expires_s: 20_000,
    }
}

fn token() -> Token {
    issuer().sign(&claims()).unwrap()
}

fn verify(token: &Token) -> Result<VerifiedToken, TokenError> {
    token.verify(&issuer().public(), cluster())
}

/// Signs claims without the issuer's checks and verifies them: so the decoder's own refusals are
/// tested.
fn verify_signed(signed: Vec<u8>) -> Result<VerifiedToken, TokenError> {
    let signature = issuer().sign_bytes(&signed);
    verify(&Token::from_bytes([signed, signature.to_vec()].concat())?)
}

#[test]
fn the_encoding_is_the_documented_one() {
    let bytes = token().as_bytes().to_vec();
    let signed = [
        b"furlong token v1\0".as_slice(),
        &[1, 4],
        &cluster().0,
        &[3; 16],
        &holder().0,
        &[4; 16],
        &1_000u64.to_le_bytes(),
        &(1u64 << 30).to_le_bytes(),
        &10_000u64.to_le_bytes(),
        &20_000u64.to_le_bytes(),
        b"\x02\0\x03\0cpu\x03\0gpu",
    ]
    .concat();
    assert_eq!(bytes[..bytes.len() - 64], signed);
    assert_eq!(
        issuer().sign(&Claims { scopes: vec![], ..claims() }).unwrap().as_bytes().len(),
        TOKEN_BYTES_MIN
    );
}

#[test]
fn the_holder_of_a_good_token_is_let_in() {
    let proved = verify(&token()).unwrap().prove_holder(&holder().0).unwrap();
    assert_eq!(proved.claims(), &claims());
    assert_eq!(token().claims_unverified(), Ok(claims()));
}

#[test]
fn a_token_is_nothing_without_its_key_its_issuer_and_its_cluster() {
    let thief = SecretKey::from_bytes([8; 32]).public();
    assert_eq!(
        verify(&token()).unwrap().prove_holder(&thief.0).unwrap_err(),
        TokenError::HolderMismatch
    );
    let other = IssuerKey::from_seed([9; 32]).public();
    assert_eq!(token().verify(&other, cluster()).unwrap_err(), TokenError::BadSignature);
    assert_eq!(
        token().verify(&issuer().public(), ClusterId::of(&other)).unwrap_err(),
        TokenError::WrongCluster
    );
}

#[test]
fn validity_has_five_minutes_of_tolerance_at_both_ends() {
    let proved = verify(&token()).unwrap().prove_holder(&holder().0).unwrap();
    let not_yet = |now_s| Err(TokenError::NotYetValid { not_before_s: 10_000, now_s });
    let expired = |now_s| Err(TokenError::Expired { expires_s: 20_000, now_s });
    for (now_s, expected) in [
        (0, not_yet(0)),
        (9_699, not_yet(9_699)),
        (9_700, Ok(())),
        (15_000, Ok(())),
        (20_299, Ok(())),
        (20_300, expired(20_300)),
        (u64::MAX, expired(u64::MAX)),
    ] {
        assert_eq!(proved.check_validity(now_s), expected, "{now_s}");
    }
    let forever = HolderProved(Claims { expires_s: Claims::NEVER, ..claims() });
    assert_eq!(forever.check_validity(u64::MAX), Ok(()));
}

#[test]
fn a_token_cut_or_extended_anywhere_is_refused() {
    let bytes = token().as_bytes().to_vec();
    for length in 0..bytes.len() {
        let refused =
            Token::from_bytes(&bytes[..length]).and_then(|token| verify(&token).map(drop));
        assert!(
            matches!(refused, Err(TokenError::Truncated | TokenError::BadSignature)),
            "{length}: {refused:?}"
        );
    }
    let longer = Token::from_bytes([bytes.as_slice(), &[0]].concat()).unwrap();
    assert_eq!(verify(&longer).unwrap_err(), TokenError::BadSignature);
    assert_eq!(Token::from_bytes(vec![0; TOKEN_BYTES_MAX + 1]), Err(TokenError::TooLong));
}

#[test]
fn signed_bytes_cut_or_extended_anywhere_are_refused() {
    let signed = claims().encode();
    for length in 0..signed.len() {
        let refused = verify_signed(signed[..length].to_vec()).unwrap_err();
        assert!(
            matches!(refused, TokenError::Truncated | TokenError::NotAToken),
            "{length}: {refused}"
        );
    }
    assert_eq!(verify_signed([signed, vec![0]].concat()).unwrap_err(), TokenError::TrailingBytes);
}

#[test]
fn bytes_that_break_the_format_are_refused_though_signed() {
    let changed = |offset: usize, bytes: &[u8]| {
        let mut signed = Claims { scopes: vec!["ab".to_owned()], ..claims() }.encode();
        signed[offset..offset + bytes.len()].copy_from_slice(bytes);
        verify_signed(signed).unwrap_err()
    };
    let scopes = TOKEN_BYTES_MIN - SIGNATURE_BYTES - 2;
    assert_eq!(changed(0, b"F"), TokenError::NotAToken);
    assert_eq!(changed(17, &[3]), TokenError::UnknownFormat(3));
    assert_eq!(changed(18, &[0]), TokenError::UnknownRole(0));
    assert_eq!(changed(18, &[8]), TokenError::UnknownRole(8));
    assert_eq!(changed(scopes, &[0xff, 0xff]), TokenError::TooManyScopes);
    assert_eq!(changed(scopes, &[2, 0]), TokenError::Truncated);
    assert_eq!(changed(scopes, &[0, 0]), TokenError::TrailingBytes);
    assert_eq!(changed(scopes + 2, &[1, 0]), TokenError::TrailingBytes);
    assert_eq!(changed(scopes + 2, &[0xff, 0xff]), TokenError::Truncated);
    assert_eq!(changed(scopes + 4, &[0xff]), TokenError::BadScope);
}

#[test]
fn claims_that_are_not_good_are_neither_signed_nor_accepted() {
    let scopes = |scopes: &[&str]| scopes.iter().map(|&scope| scope.to_owned()).collect::<Vec<_>>();
    let long = "s".repeat(NAME_BYTES_MAX + 1);
    let many: Vec<String> = (0..=SCOPES_MAX).map(|n| format!("{n:03}")).collect();
    let cases = [
        (Claims { scopes: scopes(&["gpu", "cpu"]), ..claims() }, TokenError::ScopesNotAscending),
        (Claims { scopes: scopes(&["gpu", "gpu"]), ..claims() }, TokenError::ScopesNotAscending),
        (Claims { scopes: scopes(&[""]), ..claims() }, TokenError::BadScope),
        (Claims { scopes: scopes(&["a\x1b[2J"]), ..claims() }, TokenError::BadScope),
        (Claims { scopes: scopes(&[&long]), ..claims() }, TokenError::BadScope),
        (Claims { scopes: many, ..claims() }, TokenError::TooManyScopes),
        (Claims { not_before_s: 20_000, ..claims() }, TokenError::NeverValid),
        (Claims { holder: PublicKey([0; 32]), ..claims() }, TokenError::WeakHolderKey),
    ];
    for (claims, expected) in cases {
        assert_eq!(issuer().sign(&claims), Err(expected));
        assert_eq!(verify_signed(claims.encode()).unwrap_err(), expected);
    }
    let too_long = (0..6).map(|n| format!("{n}{}", "s".repeat(255))).collect();
    assert_eq!(issuer().sign(&Claims { scopes: too_long, ..claims() }), Err(TokenError::TooLong));
}

/// S + L names the same scalar as S, so a lax verifier takes a second signature that nobody made.
#[test]
fn a_signature_with_s_plus_l_is_refused() {
    const L: [u8; 32] = [
        0xed, 0xd3, 0xf5, 0x5c, 0x1a, 0x63, 0x12, 0x58, 0xd6, 0x9c, 0xf7, 0xa2, 0xde, 0xf9, 0xde,
        0x14, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x10,
    ];
    let mut bytes = token().as_bytes().to_vec();
    let s = bytes.len() - 32;
    let mut carry = 0;
    for (byte, more) in bytes[s..].iter_mut().zip(L) {
        let sum = u16::from(*byte) + u16::from(more) + carry;
        *byte = (sum & 0xff) as u8;
        carry = sum >> 8;
    }
    assert_eq!(carry, 0);
    assert_eq!(verify(&Token::from_bytes(bytes).unwrap()).unwrap_err(), TokenError::BadSignature);
}

/// With R the neutral point, S = k a satisfies the equation of verification; R has two encodings.
#[test]
fn a_signature_with_r_of_small_order_or_not_canonical_is_refused() {
    let key = SigningKey::from_bytes(&SEED);
    let signed = claims().encode();
    let mut neutral = [0; 32];
    neutral[0] = 1;
    let mut neutral_not_canonical = [0xff; 32];
    (neutral_not_canonical[0], neutral_not_canonical[31]) = (0xee, 0x7f);
    for (r, lax_accepts) in [(neutral, true), (neutral_not_canonical, false)] {
        let k = Sha512::new()
            .chain_update(r)
            .chain_update(key.verifying_key())
            .chain_update(&signed)
            .finalize();
        let s = scalar_like(key.to_scalar(), &k) * key.to_scalar();
        let signature = [r, s.to_bytes()].concat();
        let lax = key.verify(&signed, &Signature::from_slice(&signature).unwrap());
        assert_eq!(lax.is_ok(), lax_accepts, "the forgery is a real one");
        let token = Token::from_bytes([signed.clone(), signature].concat()).unwrap();
        assert_eq!(verify(&token).unwrap_err(), TokenError::BadSignature);
    }
}

/// The scalar of a little-endian number, in the type of `_like`, which this crate has no name for.
fn scalar_like<S: From<u64> + Add<Output = S> + Mul<Output = S>>(_like: S, bytes: &[u8]) -> S {
    bytes.iter().rev().fold(S::from(0), |sum, byte| sum * S::from(256) + S::from(u64::from(*byte)))
}

#[test]
fn roles_may_do_what_the_protocol_says() {
    // register, direct, shared, cancel, observe, administer, look at all, read all records
    let table = [
        (Role::Engine, [true, false, false, false, false, false, false, false]),
        (Role::Multiengine, [false, true, false, true, true, false, false, false]),
        (Role::Task, [false, false, true, true, true, false, false, false]),
        (Role::Client, [false, true, true, true, true, false, false, false]),
        (Role::Observer, [false, false, false, false, true, false, false, false]),
        (Role::Admin, [false, true, true, true, true, true, true, false]),
        (Role::Auditor, [false, false, false, false, true, false, true, true]),
    ];
    for (role, expected) in table {
        let may = [
            role.may_register_engines(),
            role.may_submit_direct(),
            role.may_submit_shared(),
            role.may_cancel(),
            role.may_observe(),
            role.may_administer(),
            role.may_look_at_all(),
            role.may_read_all_records(),
        ];
        assert_eq!(may, expected, "{role}");
        assert_eq!(role.to_string().parse(), Ok(role));
        assert_eq!(serde_json::to_string(&role).unwrap(), format!("\"{role}\""));
        assert_eq!(Role::from_code(role.code()), Some(role));
    }
    assert_eq!("Admin".parse::<Role>(), Err(UnknownRoleName));
}

#[test]
fn a_token_travels_as_msgpack_bin_of_bounded_length() {
    let packed = rmp_serde::to_vec(&token()).unwrap();
    assert_eq!(packed[0], 0xc4, "bin 8");
    assert_eq!(rmp_serde::from_slice::<Token>(&packed).unwrap(), token());
    for length in [0, TOKEN_BYTES_MIN - 1, TOKEN_BYTES_MAX + 1] {
        let packed = rmp_serde::to_vec(serde_bytes::Bytes::new(&vec![0; length])).unwrap();
        assert!(rmp_serde::from_slice::<Token>(&packed).is_err(), "{length}");
    }
}

fn any_claims() -> impl Strategy<Value = Claims> {
    let ids = (any::<[u8; 32]>(), any::<[u8; 16]>(), any::<[u8; 32]>(), any::<[u8; 16]>());
    let scopes = prop::collection::btree_set("[a-zé0-9]{1,20}", 0..8);
    let times = (0..1_000_000u64, 1_000_000..=u64::MAX);
    (ids, 0..Role::ALL.len(), scopes, any::<([u64; 2], bool)>(), times).prop_map(
        |(ids, role, scopes, limits, times)| Claims {
            cluster: ClusterId(ids.0),
            token_id: TokenId(ids.1),
            holder: SecretKey::from_bytes(ids.2).public(),
            owner: OwnerId(ids.3),
            role: Role::ALL[role],
            scopes: scopes.into_iter().collect(),
            limits: TokenLimits {
                unfinished_tasks_max: limits.0[0],
                payload_bytes_max: limits.0[1],
                no_nested: limits.1,
            },
            not_before_s: times.0,
            expires_s: times.1,
        },
    )
}

proptest! {
    #[test]
    fn any_claims_come_back_from_their_token(claims in any_claims()) {
        let token = issuer().sign(&claims).unwrap();
        let verified = token.verify(&issuer().public(), claims.cluster).unwrap();
        let proved = verified.prove_holder(&claims.holder.0).unwrap();
        prop_assert_eq!(proved.claims(), &claims);
    }

    #[test]
    fn any_changed_byte_of_a_token_is_refused(
        index in any::<prop::sample::Index>(),
        flip in 1..=255u8,
    ) {
        let mut bytes = token().as_bytes().to_vec();
        let index = index.index(bytes.len());
        bytes[index] ^= flip;
        let refused = verify(&Token::from_bytes(bytes).unwrap()).unwrap_err();
        prop_assert_eq!(refused, TokenError::BadSignature);
    }

    #[test]
    fn what_decodes_has_no_other_encoding(
        index in any::<prop::sample::Index>(),
        flip in 1..=255u8,
    ) {
        let mut signed = claims().encode();
        let index = index.index(signed.len());
        signed[index] ^= flip;
        if let Ok(decoded) = Claims::decode(&signed) {
            prop_assert_eq!(decoded.encode(), signed);
        }
    }
}

#[test]
fn an_owner_of_a_name_is_the_same_in_its_cluster_and_another_elsewhere() {
    let (one, other) = (ClusterId([1; 32]), ClusterId([2; 32]));
    assert_eq!(OwnerId::named(one, "alice"), OwnerId::named(one, "alice"));
    assert_ne!(OwnerId::named(one, "alice"), OwnerId::named(one, "bob"));
    assert_ne!(OwnerId::named(one, "alice"), OwnerId::named(other, "alice"));
    // For ever: files that were issued for a name long ago are of the same owner as those of today.
    assert_eq!(OwnerId::named(one, "alice").to_string(), "86297500c13c2d8e4704c8299be88cb3");
}

#[test]
fn ids_read_as_they_print_and_in_no_other_spelling() {
    let id = TokenId([0x0a; 16]);
    assert_eq!(id.to_string().parse(), Ok(id));
    for wrong in [
        "",
        "0a",
        "0A0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a",
        "+a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a",
        &"0".repeat(33),
    ] {
        assert_eq!(wrong.parse::<TokenId>(), Err(NotAnId), "{wrong}");
    }
}
