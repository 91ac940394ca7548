use super::*;
use crate::ids::{OwnerId, TokenId};
use crate::keys::IssuerKey;
use crate::token::TokenLimits;

fn issuer() -> IssuerKey {
    IssuerKey::from_seed([1; 32])
}

fn holder() -> SecretKey {
    SecretKey::from_bytes([2; 32])
}

fn claims() -> Claims {
    Claims {
        cluster: ClusterId::of(&issuer().public()),
        token_id: TokenId([3; 16]),
        holder: holder().public(),
        owner: OwnerId([4; 16]),
        role: Role::Client,
        scopes: vec!["gpu".to_owned()],
        limits: TokenLimits::default(),
        not_before_s: 1_000,
        expires_s: Claims::NEVER,
    }
}

fn endpoints() -> Vec<Endpoint> {
    vec![Endpoint::new("head.example.org", 7000).unwrap(), Endpoint::new("::1", 7000).unwrap()]
}

fn server_key() -> PublicKey {
    SecretKey::from_bytes([5; 32]).public()
}

fn assemble(
    endpoints: Vec<Endpoint>,
    server_key: PublicKey,
    token: Token,
) -> Result<Capability, CapabilityError> {
    Capability::new(
        "lab".parse().unwrap(),
        endpoints,
        server_key,
        issuer().public(),
        token,
        holder(),
    )
}

fn capability() -> Capability {
    assemble(endpoints(), server_key(), issuer().sign(&claims()).unwrap()).unwrap()
}

fn refusal(text: &str) -> String {
    Capability::from_json(text).unwrap_err().to_string()
}

#[test]
fn a_capability_reads_back_as_written() {
    let text = capability().to_json();
    let read = Capability::from_json(&text).unwrap();
    assert_eq!(read.cluster().as_str(), "lab");
    assert_eq!(read.cluster_id(), ClusterId::of(&issuer().public()));
    assert_eq!(read.role(), Role::Client);
    assert_eq!(read.endpoints(), endpoints());
    assert_eq!(read.server_key(), server_key());
    assert_eq!(read.issuer_key(), issuer().public());
    assert_eq!(read.claims(), &claims());
    assert_eq!(read.holder_secret().expose(), holder().expose());
    assert_eq!(read.to_json(), text);
}

#[test]
fn the_secret_does_not_print() {
    let secret = text::hex(holder().expose());
    assert!(capability().to_json().contains(&secret));
    let printed = format!("{:?}", capability());
    assert!(printed.contains("holder_secret: SecretKey(secret)") && !printed.contains(&secret));
}

#[test]
fn the_largest_capability_is_within_the_limit_of_the_file() {
    let largest_host = "h".repeat(253);
    let endpoints =
        (0..ENDPOINTS_MAX).map(|_| Endpoint::new(&largest_host, 65535).unwrap()).collect();
    let scopes = (0..5).map(|n| format!("{n}{}", "s".repeat(255))).collect();
    let token = issuer().sign(&Claims { scopes, ..claims() }).unwrap();
    let text = assemble(endpoints, server_key(), token).unwrap().to_json();
    Capability::from_json(&text).unwrap();
}

#[test]
fn a_text_that_is_not_exactly_a_capability_is_refused() {
    let text = capability().to_json();
    let replaced = |from: &str, to: &str| {
        assert!(text.contains(from), "{from}");
        text.replacen(from, to, 1)
    };
    let cases = [
        (String::new(), "EOF while parsing a value at line 1 column 0"),
        (text[..text.len() - 3].to_owned(), "EOF while parsing"),
        (format!("{}x", *text), "trailing characters"),
        (" ".repeat(65_537), "the file is longer than 65536 bytes"),
        (replaced("furlong capability", "recipe"), "this is not the file of a furlong capability"),
        (
            replaced("\"version\": 1", "\"version\": 2"),
            "the file has version 2, this program reads version 1",
        ),
        (replaced("\"version\": 1", "\"version\": 2, \"new\": 1"), "the file has version 2"),
        (replaced("\"version\": 1", "\"version\": 1, \"new\": 1"), "unknown field `new`"),
        (replaced("\"version\": 1", "\"version\": 1, \"version\": 1"), "duplicate field `version`"),
        (replaced("\"cluster\": \"lab\",", ""), "missing field `cluster`"),
        (replaced("\"lab\"", "\"../lab\""), "field \"cluster\": a cluster's name is"),
        (replaced("\"client\"", "\"king\""), "unknown variant `king`"),
        (replaced("tcp://head", "head"), "field \"endpoints\": an endpoint begins with tcp://"),
    ];
    for (text, expected) in cases {
        let refusal = refusal(&text);
        assert!(refusal.contains(expected) && !refusal.contains('\n'), "{expected:?}: {refusal:?}");
    }
}

#[test]
fn each_mismatch_within_the_file_has_its_own_refusal() {
    let text = capability().to_json();
    let other_issuer = IssuerKey::from_seed([9; 32]).public();
    let cases = [
        (
            text.replace("\"client\"", "\"admin\""),
            "field \"role\": it says admin, and the token says client",
        ),
        (
            text.replacen(&capability().cluster_id().to_string(), &"0".repeat(64), 1),
            "field \"cluster_id\": it is not the hash of \"issuer_key\"",
        ),
        (
            text.replace(&issuer().public().to_string(), &other_issuer.to_string()),
            "field \"token\": the token's signature is not the issuer's",
        ),
        (
            text.replace(&text::hex(holder().expose()), &"7".repeat(64)),
            "field \"token\": the token belongs to another key",
        ),
        (
            text.replace(&server_key().to_string(), &"0".repeat(64)),
            "field \"server_key\": it is a weak X25519 key",
        ),
        (
            text.replace(&server_key().to_string(), "00"),
            "field \"server_key\": it has not 64 hexadecimal digits",
        ),
        (
            text.replace(&text::hex(capability().token().as_bytes()), "00"),
            "field \"token\": the token is truncated",
        ),
    ];
    for (changed, expected) in cases {
        assert_ne!(changed, *text);
        assert_eq!(refusal(&changed), expected);
    }
}

#[test]
fn the_number_of_endpoints_is_bounded() {
    let token = issuer().sign(&claims()).unwrap();
    let none = assemble(vec![], server_key(), token.clone()).unwrap_err();
    assert!(matches!(none, CapabilityError::NoEndpoints), "{none}");
    let many = vec![endpoints().remove(0); ENDPOINTS_MAX + 1];
    let many = assemble(many, server_key(), token).unwrap_err();
    assert!(matches!(many, CapabilityError::TooManyEndpoints), "{many}");
}

#[test]
fn a_token_for_another_cluster_makes_no_capability() {
    let token = issuer().sign(&Claims { cluster: ClusterId([0; 32]), ..claims() }).unwrap();
    let error = assemble(endpoints(), server_key(), token).unwrap_err();
    assert!(matches!(error, CapabilityError::Token(TokenError::WrongCluster)), "{error}");
}
