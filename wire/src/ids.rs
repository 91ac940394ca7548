//! Identities: who is who, in types that cannot be confused.

use std::fmt;
use std::ops::{Add, AddAssign, RangeInclusive, Sub};

use serde::{Deserialize, Serialize};

/// Defines a newtype over random bytes that prints as hexadecimal and travels as msgpack `bin`.
macro_rules! byte_id {
    ($(#[$doc:meta])* $name:ident, $len:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
        pub struct $name(pub [u8; $len]);

        impl Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_bytes(&self.0)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                serde_bytes::ByteArray::<$len>::deserialize(deserializer)
                    .map(|bytes| Self(bytes.into_array()))
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}({self})", stringify!($name))
            }
        }
    };
}

byte_id! {
    /// A cluster: SHA-256 of its issuer's public key.
    ClusterId, 32
}
byte_id! {
    /// Whom tasks and results belong to; all capability files of a first start have the same owner.
    OwnerId, 16
}
byte_id! {
    /// One token, for revocation.
    TokenId, 16
}
byte_id! {
    /// A session: made by the peer's process, it outlives connections.
    SessionId, 16
}
byte_id! {
    /// One engine process. Results are sealed under keys that it enters, so two processes never
    /// share one.
    InstanceId, 16
}
byte_id! {
    /// One engine, for as long as its process lives.
    EngineUuid, 16
}
byte_id! {
    /// The X25519 public key of a client that a task opens: it is let in with the task's authority,
    /// while that runs.
    PassKey, 32
}
byte_id! {
    /// SHA-256 of a function's definition.
    FunctionHash, 32
}

impl SessionId {
    /// The six characters by which people name a session, as in `k3f9a2:17`.
    pub fn prefix(&self) -> String {
        let bits = self.0[..4].iter().fold(0u32, |bits, byte| bits << 8 | u32::from(*byte));
        (0..6)
            .map(|digit| char::from(PREFIX_ALPHABET[(bits >> (27 - 5 * digit) & 31) as usize]))
            .collect()
    }

    /// All ids with such a prefix. None if no id has it.
    pub fn with_prefix(prefix: &str) -> Option<RangeInclusive<Self>> {
        let value = |character: u8| PREFIX_ALPHABET.iter().position(|known| *known == character);
        let digits: Option<Vec<usize>> = prefix.bytes().map(value).collect();
        let digits = digits.filter(|digits| digits.len() == 6)?;
        let bits = digits.into_iter().fold(0u32, |bits, digit| bits << 5 | digit as u32) << 2;
        let (mut first, mut last) = ([0; 16], [255; 16]);
        first[..4].copy_from_slice(&bits.to_be_bytes());
        last[..4].copy_from_slice(&(bits | 3).to_be_bytes());
        Some(Self(first)..=Self(last))
    }
}

const PREFIX_ALPHABET: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";

/// An engine's number in its cluster: 0, 1, 2, ... in the order of registration, never given to
/// another.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Serialize, Deserialize)]
#[serde(transparent)]
pub struct EngineId(pub u32);

impl fmt::Display for EngineId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A task's number in its session: 1, 2, 3, ... in the order of submission.
#[derive(
    Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Default, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct TaskSeq(pub u64);

impl TaskSeq {
    /// Below all others; names no task.
    pub const MIN: Self = Self(0);
    /// A session's first task.
    pub const FIRST: Self = Self(1);
    /// Not below any other.
    pub const MAX: Self = Self(u64::MAX);

    /// The number that many tasks later, if there is one.
    pub fn checked_add(self, tasks: u64) -> Option<Self> {
        self.0.checked_add(tasks).map(Self)
    }

    /// The number of tasks from an earlier one to this, if that is an earlier one.
    pub fn checked_sub(self, earlier: Self) -> Option<u64> {
        self.0.checked_sub(earlier.0)
    }

    /// The number that many tasks later, or the last one.
    pub fn saturating_add(self, tasks: u64) -> Self {
        Self(self.0.saturating_add(tasks))
    }

    /// The number that many tasks before, or [`TaskSeq::MIN`].
    pub fn saturating_sub(self, tasks: u64) -> Self {
        Self(self.0.saturating_sub(tasks))
    }

    /// This number, the one after it, and so on.
    pub fn onward(self) -> impl Iterator<Item = Self> {
        (self.0..).map(Self)
    }

    /// All numbers from this one to `last`, both included.
    pub fn through(self, last: Self) -> impl DoubleEndedIterator<Item = Self> + Clone {
        (self.0..=last.0).map(Self)
    }
}

impl Add<u64> for TaskSeq {
    type Output = Self;

    fn add(self, tasks: u64) -> Self {
        Self(self.0 + tasks)
    }
}

impl AddAssign<u64> for TaskSeq {
    fn add_assign(&mut self, tasks: u64) {
        self.0 += tasks;
    }
}

impl Sub<u64> for TaskSeq {
    type Output = Self;

    fn sub(self, tasks: u64) -> Self {
        Self(self.0 - tasks)
    }
}

impl Sub for TaskSeq {
    type Output = u64;

    fn sub(self, earlier: Self) -> u64 {
        self.0 - earlier.0
    }
}

impl fmt::Display for TaskSeq {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A task within its owner: the session that submitted it, and its number there (consecutive from
/// 1).
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Serialize, Deserialize)]
pub struct TaskId {
    /// The session that submitted the task.
    pub session: SessionId,
    /// The task's number in that session.
    pub n: TaskSeq,
}

impl fmt::Display for TaskId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.session.prefix(), self.n)
    }
}

/// One start of a broker: microseconds since 1970 when it began. Later starts have larger numbers.
#[derive(
    Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Default, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct BrokerStart(pub u64);

/// One attempt among those of a broker's start: 1, 2, 3, ... over all tasks, never given twice.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Serialize, Deserialize)]
#[serde(transparent)]
pub struct AttemptId(pub u64);

impl AttemptId {
    /// Below all others; names no attempt.
    pub const MIN: Self = Self(0);
    /// Not below any other.
    pub const MAX: Self = Self(u64::MAX);
}

impl fmt::Display for AttemptId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// One attempt at a task: which broker made it, and its id there.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Serialize, Deserialize)]
pub struct Attempt {
    /// The broker's start.
    pub start: BrokerStart,
    /// Its id among the attempts of that start.
    pub id: AttemptId,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_task_is_written_as_session_prefix_and_number() {
        let session = SessionId([0xff, 0, 0, 1, 9, 9, 9, 9, 0, 0, 0, 0, 0, 0, 0, 0]);
        let task = TaskId { session, n: TaskSeq(17) };
        assert_eq!(task.to_string(), "zw0000:17");
    }

    #[test]
    fn a_prefix_names_the_sessions_that_are_written_with_it() {
        for first in [0, 1, 3, 4, 0x7f, 0xff] {
            let session = SessionId([first, 7, 0xfe, first, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9]);
            let named = SessionId::with_prefix(&session.prefix()).unwrap();
            assert!(named.contains(&session));
            assert_eq!(
                (named.start().prefix(), named.end().prefix()),
                (session.prefix(), session.prefix())
            );
        }
        assert_eq!(SessionId::with_prefix("zw000"), None, "too short");
        assert_eq!(SessionId::with_prefix("zw0000l"), None, "too long");
        assert_eq!(SessionId::with_prefix("zw000l"), None, "an `l` is not written");
    }
}
