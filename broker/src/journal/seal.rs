//! Secrets at rest: sealed with the key of `broker.key.json`, so that the journal alone opens no
//! payload.

use furlong_link::dial::random_bytes;
use furlong_wire::aead::{Key, Nonce, TAG_BYTES};
use furlong_wire::ids::SessionId;
use furlong_wire::keys::AtRestKey;
use furlong_wire::payload::PayloadSecret;

/// Seals sessions' secrets. A nonce is random: there are far fewer sessions than that could go
/// wrong with.
#[derive(Debug)]
pub(super) struct SecretSealer(Key);

const NONCE_BYTES: usize = size_of::<Nonce>();

impl SecretSealer {
    pub(super) fn new(key: &AtRestKey) -> Self {
        Self(Key::new(key.expose()))
    }

    /// nonce | ciphertext | tag. The session's id is authenticated with it.
    pub(super) fn seal(&self, session: &SessionId, secret: &PayloadSecret) -> Vec<u8> {
        let nonce: Nonce = random_bytes();
        let mut sealed = nonce.to_vec();
        sealed.extend_from_slice(secret.expose());
        let tag = self.0.seal_in_place(nonce, &session.0, &mut sealed[NONCE_BYTES..]);
        sealed.extend_from_slice(&tag);
        sealed
    }

    /// None if it was sealed with another key, or changed.
    pub(super) fn open(&self, session: &SessionId, sealed: &[u8]) -> Option<PayloadSecret> {
        let (nonce, sealed) = sealed.split_first_chunk::<NONCE_BYTES>()?;
        let mut opened = zeroize::Zeroizing::new(sealed.to_vec());
        self.0.open_in_place(*nonce, &session.0, &mut opened).ok()?;
        let secret = opened.get(..opened.len().checked_sub(TAG_BYTES)?)?;
        Some(PayloadSecret::new(secret.try_into().ok()?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_comes_back_with_its_key_and_its_session_alone() {
        let key = SecretSealer::new(&AtRestKey::from_bytes([1; 32]));
        let (session, secret) = (SessionId([2; 16]), PayloadSecret::new([3; 32]));
        let sealed = key.seal(&session, &secret);
        assert!(key.open(&session, &sealed).is_some_and(|opened| opened == secret));
        assert!(sealed.windows(8).all(|bytes| bytes != [3; 8]), "it is not there in clear");
        assert!(key.open(&SessionId([9; 16]), &sealed).is_none());
        assert!(
            SecretSealer::new(&AtRestKey::from_bytes([7; 32])).open(&session, &sealed).is_none()
        );
        for short in 0..sealed.len() {
            assert!(key.open(&session, &sealed[..short]).is_none());
        }
    }
}
