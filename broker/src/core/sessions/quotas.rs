//! The usage of the holders of limited tokens, summed over all sessions of a token.

use std::collections::BTreeMap;

use furlong_wire::ids::TokenId;
use furlong_wire::token::Claims;

/// The use of tokens that have limits; others are not counted.
#[derive(Debug, Default)]
pub struct Quotas {
    by_token: BTreeMap<TokenId, Use>,
}

#[derive(Debug, Default)]
struct Use {
    sessions: u64,
    tasks_max: u64,
    tasks: u64,
    bytes_max: u64,
    bytes: u64,
}

impl Quotas {
    /// A session with this token is there.
    pub fn enter(&mut self, claims: &Claims) {
        let limits = claims.limits;
        if limits.unfinished_tasks_max == 0 && limits.payload_bytes_max == 0 {
            return;
        }
        let limit = |limit: u64| if limit == 0 { u64::MAX } else { limit };
        let held = self.by_token.entry(claims.token_id).or_default();
        held.sessions += 1;
        (held.tasks_max, held.bytes_max) =
            (limit(limits.unfinished_tasks_max), limit(limits.payload_bytes_max));
    }

    /// A session with this token is gone, and so is all that it held but for its values.
    pub fn leave(&mut self, token: TokenId) {
        let Some(held) = self.by_token.get_mut(&token) else { return };
        assert!(held.sessions > 0, "more sessions of a token leave than came");
        held.sessions -= 1;
        self.forget_unused(token);
    }

    /// A value that tasks of others have may outlive the sessions of the token that is charged for
    /// it.
    fn forget_unused(&mut self, token: TokenId) {
        if self.by_token.get(&token).is_some_and(|held| held.sessions == 0 && held.bytes == 0) {
            self.by_token.remove(&token);
        }
    }

    /// Whether the token's limit allows so many tasks more.
    pub fn takes(&self, token: TokenId, tasks: u64) -> bool {
        self.by_token.get(&token).is_none_or(|held| held.tasks + tasks <= held.tasks_max)
    }

    /// Counts a task in.
    pub fn begin_task(&mut self, token: TokenId) {
        if let Some(held) = self.by_token.get_mut(&token) {
            held.tasks += 1;
        }
    }

    /// A task has ended.
    pub fn end_task(&mut self, token: TokenId) {
        if let Some(held) = self.by_token.get_mut(&token) {
            assert!(held.tasks > 0, "more tasks of a token end than began");
            held.tasks -= 1;
        }
    }

    /// Counts the bytes of a request in that must be held, whatever the limit.
    pub fn take(&mut self, token: TokenId, bytes: u64) {
        if let Some(held) = self.by_token.get_mut(&token) {
            held.bytes += bytes;
        }
    }

    /// Counts the bytes of a request in. False if that would be beyond the token's limit.
    pub fn reserve(&mut self, token: TokenId, bytes: u64) -> bool {
        let Some(held) = self.by_token.get_mut(&token) else { return true };
        let fits = held.bytes.checked_add(bytes).is_some_and(|bytes| bytes <= held.bytes_max);
        held.bytes += if fits { bytes } else { 0 };
        fits
    }

    /// Bytes of a request are free again.
    pub fn release(&mut self, token: TokenId, bytes: u64) {
        if let Some(held) = self.by_token.get_mut(&token) {
            assert!(bytes <= held.bytes, "{bytes} bytes are freed of {}", held.bytes);
            held.bytes -= bytes;
            self.forget_unused(token);
        }
    }

    /// Sessions, tasks and bytes of each token, for the tests.
    #[cfg(any(test, feature = "invariants"))]
    pub fn iter(&self) -> impl Iterator<Item = (TokenId, (u64, u64, u64))> {
        self.by_token.iter().map(|(token, held)| (*token, (held.sessions, held.tasks, held.bytes)))
    }

    /// Returns true if nothing is counted, for the tests.
    #[cfg(any(test, feature = "invariants"))]
    pub fn is_empty(&self) -> bool {
        self.by_token.values().all(|held| held.tasks == 0 && held.bytes == 0)
    }
}

#[cfg(test)]
mod tests {
    use furlong_wire::ids::{ClusterId, OwnerId};
    use furlong_wire::keys::PublicKey;
    use furlong_wire::token::{Role, TokenLimits};

    use super::*;

    fn claims(token: u8, tasks: u64, bytes: u64) -> Claims {
        Claims {
            cluster: ClusterId([0; 32]),
            token_id: TokenId([token; 16]),
            holder: PublicKey([0; 32]),
            owner: OwnerId([0; 16]),
            role: Role::Client,
            scopes: Vec::new(),
            limits: TokenLimits {
                unfinished_tasks_max: tasks,
                payload_bytes_max: bytes,
                no_nested: false,
            },
            not_before_s: 0,
            expires_s: Claims::NEVER,
        }
    }

    #[test]
    fn sessions_of_one_token_share_its_limits() {
        let mut quotas = Quotas::default();
        let (limited, free) = (claims(1, 2, 100), claims(2, 0, 0));
        for claims in [&limited, &limited, &free] {
            quotas.enter(claims);
        }
        let token = limited.token_id;
        assert!(quotas.takes(token, 2) && !quotas.takes(token, 3));
        quotas.begin_task(token);
        assert!(quotas.takes(token, 1) && !quotas.takes(token, 2));
        assert!(quotas.takes(free.token_id, 1 << 40) && quotas.reserve(free.token_id, 1 << 40));
        assert!(quotas.reserve(token, 60) && !quotas.reserve(token, 41));
        quotas.release(token, 60);
        quotas.end_task(token);
        assert!(quotas.reserve(token, 100));
        quotas.release(token, 100);
        assert!(quotas.is_empty());
        (0..2).for_each(|_| quotas.leave(token));
        assert!(quotas.by_token.is_empty());
    }
}
