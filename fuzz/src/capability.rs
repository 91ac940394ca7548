//! The files: capabilities, keys, what a task may know of its engine's broker, revoked tokens. What
//! is read is written in one way, which reads as the same again.

use furlong_wire::capability::{
    BrokerKey, Capability, Endpoint, IssuerKeyFile, Pass, Revocation, RevokedTokens,
};
use furlong_wire::ids::TokenId;
use furlong_wire::keys::{AtRestKey, IssuerKey, IssuerPublicKey, PublicKey, SecretKey};
use furlong_wire::token::Token;

use crate::memory;
use crate::vectors::{self, secrets};

/// The input is any of the files but the list of revoked tokens.
pub fn run(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    if let Ok(capability) = Capability::from_json(text) {
        let written = capability.to_json();
        let again = Capability::from_json(&written).expect("what is written is read");
        assert_eq!(*again.to_json(), *written);
    }
    if let Ok(key) = BrokerKey::from_json(text) {
        let written = key.to_json();
        let again = BrokerKey::from_json(&written).expect("what is written is read");
        assert_eq!(*again.to_json(), *written);
    }
    if let Ok(key) = IssuerKeyFile::from_json(text) {
        let written = key.to_json();
        let again = IssuerKeyFile::from_json(&written).expect("what is written is read");
        assert_eq!(*again.to_json(), *written);
    }
    let secret = || SecretKey::from_bytes(secrets::HOLDER);
    if let Ok(pass) = Pass::new(text, secret()) {
        let written = pass.door().to_json();
        let again = Pass::new(&written, secret()).expect("what is written is read");
        assert_eq!(again.door().to_json(), written);
    }
    if let Ok(endpoint) = text.parse::<Endpoint>() {
        assert_eq!(endpoint.to_string().parse::<Endpoint>(), Ok(endpoint));
    }
}

/// One file of each kind.
pub fn seeds() -> Vec<Vec<u8>> {
    let issuer = IssuerPublicKey::from_bytes(&vectors::array("issuer public key"))
        .expect("the vector is a key");
    let endpoints = ["tcp://192.0.2.1:7100", "tcp://[2001:db8::1]:7100", "tcp://a.example:1"];
    let endpoints: Vec<Endpoint> =
        endpoints.iter().map(|text| text.parse().expect("an endpoint is written so")).collect();
    let capability = Capability::new(
        "default".parse().expect("a cluster is called so"),
        endpoints.clone(),
        PublicKey(vectors::array("server public key")),
        issuer,
        Token::from_bytes(vectors::one("token")).expect("the vector is a token"),
        SecretKey::from_bytes(secrets::HOLDER),
    );
    let capability = capability.expect("the vectors belong together");
    let server_secret = SecretKey::from_bytes(secrets::SERVER);
    let broker = BrokerKey {
        server_secret,
        issuer_key: issuer,
        at_rest_key: AtRestKey::from_bytes([7; 32]),
    };
    let issuer = IssuerKeyFile { issuer: IssuerKey::from_seed(secrets::ISSUER_SEED) };
    let texts = [
        capability.to_json().to_string(),
        capability.door().to_json(),
        broker.to_json().to_string(),
        issuer.to_json().to_string(),
    ];
    texts
        .into_iter()
        .map(String::into_bytes)
        .chain(endpoints.iter().map(|it| it.to_string().into_bytes()))
        .collect()
}

/// The input is a list of revoked tokens.
pub fn revoked(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    // A token takes some 70 bytes of text at least, and less than 300 of memory.
    let read =
        memory::within(REVOKED_RESERVED + 32 * data.len(), || RevokedTokens::from_json(text));
    if let Ok(revoked) = read {
        assert_eq!(RevokedTokens::from_json(&revoked.to_json()).ok(), Some(revoked));
    }
}

const REVOKED_RESERVED: usize = 8 * 1024;

/// A list of two tokens, one with a reason.
pub fn revoked_seeds() -> Vec<Vec<u8>> {
    let mut revoked = RevokedTokens::default();
    let empty = revoked.to_json();
    for (id, reason) in [(7, Some("the \"old\" laptop".to_owned())), (8, None)] {
        let added =
            revoked.revoke(TokenId([id; 16]), Revocation { revoked_s: 1_700_000_000, reason });
        added.expect("there is room for two");
    }
    vec![empty.into_bytes(), revoked.to_json().into_bytes()]
}
