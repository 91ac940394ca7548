//! Tokens that are no longer good.

use furlong_wire::message::{ReplyBody, Revoke};

use super::sessions::SessionKey;
use super::{Core, Time};

impl Core {
    pub(super) fn revoke(&mut self, _now: Time, _key: SessionKey, _revoke: &Revoke) -> ReplyBody {
        ReplyBody::Refused("not yet".to_owned())
    }
}
