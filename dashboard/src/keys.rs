//! Keys that let a browser in once, and the cookies that it gets for them.
//!
//! Both are a moment and a random number with a MAC: the server need not remember what it has given
//! out, and `furlong dashboard url` makes keys without a word to the server, from the secret in a
//! file that only its user can read.

use std::collections::HashMap;

use base64ct::{Base64UrlUnpadded, Encoding};
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

/// Bytes of a secret.
const SECRET_BYTES: usize = 32;
/// Bytes of the number that makes two keys of one moment different.
const NONCE_BYTES: usize = 16;
/// Bytes of a MAC.
const MAC_BYTES: usize = 32;
const PASS_BYTES: usize = 8 + NONCE_BYTES + MAC_BYTES;
/// Characters that a pass has as text.
const PASS_CHARACTERS: usize = (PASS_BYTES * 4).div_ceil(3);

/// Seconds for which a key is good.
pub const KEY_S: u64 = 5 * 60;
/// Seconds for which a cookie is good: a week.
pub const COOKIE_S: u64 = 7 * 24 * 60 * 60;
/// Used keys that are remembered, until they would be too old anyway. Only who has the secret can
/// make more.
const USED_MAX: usize = 1_000;

/// The purpose of a pass: one for the one is not good for the other.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Purpose {
    Key,
    Cookie,
}

impl Purpose {
    fn label(self) -> &'static [u8] {
        match self {
            Self::Key => b"furlong dashboard key\0",
            Self::Cookie => b"furlong dashboard cookie\0",
        }
    }
}

/// The reason why a key lets nobody in.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum KeyError {
    /// It was not made with this secret.
    #[error(
        "this key is not of this page; `furlong dashboard url` prints an address with a new one"
    )]
    Wrong,
    /// It is too old.
    #[error(
        "this key is too old: it is good for 5 minutes; `furlong dashboard url` prints a new one"
    )]
    Expired,
    /// It has let somebody in.
    #[error("this key has been used: it is good once; `furlong dashboard url` prints a new one")]
    Used,
}

/// The secret from which keys are made. Who has it may look at the farm.
#[derive(Clone)]
pub struct Secret([u8; SECRET_BYTES]);

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secret")
    }
}

impl Secret {
    /// A new one.
    pub fn random() -> Self {
        Self(rand::random())
    }

    /// The secret as text, for a file that nobody else can read.
    pub fn to_text(&self) -> String {
        Base64UrlUnpadded::encode_string(&self.0)
    }

    /// The secret of such a text.
    pub fn from_text(text: &str) -> Option<Self> {
        let bytes = Base64UrlUnpadded::decode_vec(text).ok()?;
        bytes.try_into().ok().map(Self)
    }

    /// A key that is good once, for five minutes from now on, in seconds since 1970.
    pub fn new_key(&self, now_s: u64) -> String {
        self.new_pass(Purpose::Key, now_s + KEY_S)
    }

    fn new_pass(&self, purpose: Purpose, until_s: u64) -> String {
        let nonce: [u8; NONCE_BYTES] = rand::random();
        let mut pass = Vec::with_capacity(PASS_BYTES);
        pass.extend(until_s.to_be_bytes());
        pass.extend(nonce);
        let mac = self.mac(purpose, &pass).finalize().into_bytes();
        pass.extend(mac);
        Base64UrlUnpadded::encode_string(&pass)
    }

    /// The moment until which a pass is good, and its number; none if it is not of this secret. The
    /// comparison takes the same time wherever the difference is.
    fn open_pass(&self, purpose: Purpose, text: &str) -> Option<(u64, [u8; NONCE_BYTES])> {
        if text.len() != PASS_CHARACTERS {
            return None;
        }
        let bytes = Base64UrlUnpadded::decode_vec(text).ok()?;
        let (claim, mac) = bytes.split_at_checked(PASS_BYTES - MAC_BYTES)?;
        self.mac(purpose, claim).verify_slice(mac).ok()?;
        let (until, nonce) = claim.split_at_checked(8)?;
        Some((u64::from_be_bytes(until.try_into().ok()?), nonce.try_into().ok()?))
    }

    fn mac(&self, purpose: Purpose, claim: &[u8]) -> Hmac<Sha256> {
        let mut mac =
            Hmac::<Sha256>::new_from_slice(&self.0).expect("an HMAC takes a key of any length");
        mac.update(purpose.label());
        mac.update(claim);
        mac
    }
}

/// The door's memory: which keys have been used.
#[derive(Debug)]
pub struct Keys {
    secret: Secret,
    /// Of this process alone, so that no file makes cookies.
    cookies: Secret,
    used: HashMap<[u8; NONCE_BYTES], u64>,
}

impl Keys {
    /// Takes keys that were made with this secret.
    pub fn new(secret: Secret) -> Self {
        Self { secret, cookies: Secret::random(), used: HashMap::new() }
    }

    /// Uses a key up, and returns the cookie for it.
    pub fn take(&mut self, key: &str, now_s: u64) -> Result<String, KeyError> {
        let (until_s, nonce) = self.secret.open_pass(Purpose::Key, key).ok_or(KeyError::Wrong)?;
        if now_s >= until_s {
            return Err(KeyError::Expired);
        }
        self.used.retain(|_, until_s| *until_s > now_s);
        if self.used.contains_key(&nonce) || self.used.len() >= USED_MAX {
            return Err(KeyError::Used);
        }
        self.used.insert(nonce, until_s);
        Ok(self.cookies.new_pass(Purpose::Cookie, now_s + COOKIE_S))
    }

    /// Returns true if a cookie is one of ours, and not too old.
    pub fn is_good_cookie(&self, cookie: &str, now_s: u64) -> bool {
        let opened = self.cookies.open_pass(Purpose::Cookie, cookie);
        opened.is_some_and(|(until_s, _)| now_s < until_s)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_good_once_and_for_five_minutes() {
        let secret = Secret::random();
        let mut keys = Keys::new(secret.clone());
        let key = secret.new_key(1_000);
        assert_eq!(key.len(), PASS_CHARACTERS);
        let cookie = keys.take(&key, 1_010).unwrap();
        assert_eq!(keys.take(&key, 1_010), Err(KeyError::Used));
        assert!(keys.is_good_cookie(&cookie, 1_010));
        assert!(!keys.is_good_cookie(&cookie, 1_010 + COOKIE_S));
        let key = secret.new_key(1_000);
        assert_eq!(keys.take(&key, 1_000 + KEY_S), Err(KeyError::Expired));
        assert!(keys.take(&key, 999 + KEY_S).is_ok());
    }

    #[test]
    fn what_was_not_made_for_it_opens_nothing() {
        let secret = Secret::random();
        let mut keys = Keys::new(secret.clone());
        let good = secret.new_key(1_000);
        let mut wrong = vec![
            String::new(),
            "x".repeat(PASS_CHARACTERS),
            "x".repeat(100_000),
            Secret::random().new_key(1_000),
            format!("{good} "),
        ];
        for at in [0, 12, 40, 74] {
            let mut bytes = good.clone().into_bytes();
            bytes[at] = if bytes[at] == b'A' { b'B' } else { b'A' };
            wrong.push(String::from_utf8(bytes).unwrap());
        }
        for wrong in wrong {
            assert_eq!(keys.take(&wrong, 1_000), Err(KeyError::Wrong), "{wrong}");
            assert!(!keys.is_good_cookie(&wrong, 1_000));
        }
        assert!(!keys.is_good_cookie(&good, 1_000), "a key is no cookie");
        let cookie = keys.take(&good, 1_000).unwrap();
        assert_eq!(keys.take(&cookie, 1_000), Err(KeyError::Wrong), "a cookie is no key");
        assert!(!Keys::new(secret).is_good_cookie(&cookie, 1_000), "nor of another process");
    }

    #[test]
    fn a_secret_is_the_same_from_its_text() {
        let secret = Secret::random();
        let read = Secret::from_text(&secret.to_text()).unwrap();
        assert!(Keys::new(secret).take(&read.new_key(5), 5).is_ok());
        assert!(Secret::from_text("short").is_none() && Secret::from_text("??").is_none());
    }
}
