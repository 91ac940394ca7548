//! Admission: who may come in whose key and token are proved, in which role and by which port.

use std::fmt;

use furlong_wire::capability::RevokedTokens;
use furlong_wire::handshake::HelloBody;
use furlong_wire::message::RefusalKind;
use furlong_wire::token::{Claims, Role};

use super::{Core, Refusal, Time};

/// The roles that a port serves.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Serves {
    /// Every role.
    All,
    /// Engines alone.
    Engines,
    /// Everybody but engines.
    Clients,
}

impl Serves {
    /// Returns true if a role is served.
    pub fn takes(self, role: Role) -> bool {
        match self {
            Self::All => true,
            Self::Engines => role == Role::Engine,
            Self::Clients => role != Role::Engine,
        }
    }
}

impl fmt::Display for Serves {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::All => "all roles",
            Self::Engines => "engines",
            Self::Clients => "clients",
        })
    }
}

impl Core {
    /// Checks that a peer may come in whose token is genuine, or whose pass is known.
    ///
    /// # Errors
    /// The refusal that it is told.
    pub fn check_admission(
        &self,
        now: Time,
        serves: Serves,
        (claims, hello): (&Claims, &HelloBody),
        revoked: &RevokedTokens,
    ) -> Result<(), Refusal> {
        let unix_s = now.unix_us(self.config.start) / 1_000_000;
        // A task's client has no token: it does not know its owner's role, and comes to the port
        // that its engine knows.
        let of_token = if hello.token.is_empty() { None } else { mismatch(serves, claims, hello) };
        // The claims of a pass are those of its task's token: they expire and are revoked alike.
        let text = of_token
            .or_else(|| claims.check_validity(unix_s).err().map(|error| error.to_string()))
            .or_else(|| revoked.refusal(claims.token_id));
        text.map_or(Ok(()), |text| Err(Refusal { kind: RefusalKind::Unauthorized, text }))
    }
}

/// Says in which way a token is not for what its holder wants, if it is not.
fn mismatch(serves: Serves, claims: &Claims, hello: &HelloBody) -> Option<String> {
    let role = claims.role;
    if hello.role != role {
        return Some(format!("the token is for role {role}, not {}", hello.role));
    }
    let is_served = serves.takes(role);
    (!is_served).then(|| {
        format!(
            "this port is for {serves}, and the capability's role is {role}; take its present file \
             from the broker's `security` folder, which names the right port"
        )
    })
}

#[cfg(test)]
mod tests {
    use furlong_wire::capability::Revocation;
    use furlong_wire::ids::{BrokerStart, ClusterId, OwnerId, SessionId, TokenId};
    use furlong_wire::keys::PublicKey;
    use furlong_wire::token::TokenLimits;

    use super::*;
    use crate::core::{Config, Roster};

    /// 1000 s after 1970.
    const START: BrokerStart = BrokerStart(1_000_000_000);

    fn claims(role: Role) -> Claims {
        Claims {
            cluster: ClusterId([1; 32]),
            token_id: TokenId([2; 16]),
            holder: PublicKey([3; 32]),
            owner: OwnerId([4; 16]),
            role,
            scopes: Vec::new(),
            limits: TokenLimits::default(),
            not_before_s: 0,
            expires_s: Claims::NEVER,
        }
    }

    fn hello(role: Role, token: &[u8]) -> HelloBody {
        HelloBody {
            token: token.to_vec(),
            session: SessionId::default(),
            incarnation: 1,
            role,
            software: String::new(),
            abilities: 0,
        }
    }

    /// The text of the refusal at the broker's start, if there is one.
    fn refusal(serves: Serves, claims: &Claims, hello: &HelloBody) -> Option<String> {
        refusal_by(serves, claims, hello, &RevokedTokens::default())
    }

    fn refusal_by(
        serves: Serves,
        claims: &Claims,
        hello: &HelloBody,
        revoked: &RevokedTokens,
    ) -> Option<String> {
        let config = Config {
            start: START,
            cluster: ClusterId([1; 32]),
            cluster_name: "test".into(),
            software: "test".into(),
            pid: 1,
            payload_bytes_max: 1 << 20,
            memory_flag: "--memory",
            tasks_max: 1_000,
            kept_max: 1_000,
            journal_keep: None,
        };
        let core = Core::new(config, &Roster::default());
        let checked = core.check_admission(Time(0), serves, (claims, hello), revoked);
        checked.err().map(|refusal| refusal.text)
    }

    #[test]
    fn a_port_takes_its_roles_alone() {
        let takes = |serves: Serves| Role::ALL.map(|role| serves.takes(role));
        assert_eq!(takes(Serves::All), [true; 7]);
        assert_eq!(takes(Serves::Engines), [true, false, false, false, false, false, false]);
        assert_eq!(takes(Serves::Clients), [false, true, true, true, true, true, true]);
    }

    #[test]
    fn a_token_is_for_its_role_and_at_a_port_that_serves_it() {
        let (claims, token) = (claims(Role::Client), b"token".as_slice());
        assert_eq!(refusal(Serves::All, &claims, &hello(Role::Client, token)), None);
        let text = refusal(Serves::All, &claims, &hello(Role::Admin, token)).unwrap();
        assert!(text.contains("the token is for role client"), "{text}");
        let text = refusal(Serves::Engines, &claims, &hello(Role::Client, token)).unwrap();
        assert!(text.contains("this port is for engines"), "{text}");
    }

    #[test]
    fn a_pass_is_good_at_every_port_and_in_its_owners_role() {
        let claims = claims(Role::Task);
        assert_eq!(refusal(Serves::Engines, &claims, &hello(Role::Client, b"")), None);
    }

    #[test]
    fn a_token_that_has_expired_or_is_revoked_is_refused_with_a_pass_too() {
        for token in [b"token".as_slice(), b""] {
            let mut claims = claims(Role::Client);
            let hello = hello(Role::Client, token);
            let mut revoked = RevokedTokens::default();
            let revocation = Revocation { revoked_s: 1, reason: None };
            revoked.revoke(claims.token_id, revocation).unwrap();
            assert!(refusal_by(Serves::All, &claims, &hello, &revoked).is_some());
            claims.expires_s = 500;
            assert!(refusal(Serves::All, &claims, &hello).is_some());
        }
    }
}
