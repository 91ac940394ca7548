//! The encoding of messages: each is a msgpack array `[tag, body]`; a batch is a sequence of
//! messages.

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::Passed;
use super::quick::{Input, Quick};
use crate::limits::MESSAGE_BYTES_MAX;
use crate::msgpack;
use crate::msgpack::whole::value_bytes;

/// An enum of messages.
pub trait Message: Serialize + DeserializeOwned + std::fmt::Debug + Send + Quick + 'static {}

/// A direction of the protocol after the greeting: one of the four enums of [`crate::message`].
pub trait Direction: Message {
    /// The message that says to which transfer the record's next chunk frame belongs.
    fn chunk(transfer: u64) -> Self;

    /// The transfer of the record's next chunk frame, if this is that message.
    fn chunk_transfer(&self) -> Option<u64>;

    /// The message that says which memory file a transfer's payload was passed in.
    fn passed(passed: Passed) -> Self;

    /// The payload that was passed in a memory file, if this is that message.
    fn as_passed(&self) -> Option<&Passed>;
}

/// Appends a message to a batch.
pub fn encode_message<M: Message>(message: &M, batch: &mut Vec<u8>) {
    message.put(batch);
}

/// The bytes that a message has in a batch.
pub fn encoded_bytes<M: Message>(message: &M) -> usize {
    let mut encoded = Vec::new();
    message.put(&mut encoded);
    encoded.len()
}

/// Returns true if no record can carry a message. For messages whose length depends on what
/// somebody else says.
pub fn is_too_long<M: Message>(message: &M) -> bool {
    encoded_bytes(message) > MESSAGE_BYTES_MAX
}

/// The messages of a batch, one after the other. After an error there is no further item.
pub fn decode_batch<M: Message>(batch: &[u8]) -> impl Iterator<Item = Result<M, MessageError>> {
    let mut rest = batch;
    std::iter::from_fn(move || decode_next(&mut rest))
}

/// Takes the first message off what is left of a batch; none at the end. After an error nothing is
/// left.
#[inline]
pub fn decode_next<M: Message>(batch: &mut &[u8]) -> Option<Result<M, MessageError>> {
    if batch.is_empty() {
        return None;
    }
    let mut input = Input(batch);
    if let Some(message) = M::take(&mut input) {
        *batch = input.0;
        return Some(Ok(message));
    }
    Some(decode_by_serde(batch))
}

/// The same without [`Quick`]: what may come is what this reads. Only of what is whole: serde
/// reserves memory for as many elements as a list declares.
#[cold]
pub(super) fn decode_by_serde<M: Message>(batch: &mut &[u8]) -> Result<M, MessageError> {
    let whole = std::mem::take(batch);
    let (first, rest) =
        value_bytes(whole).and_then(|bytes| whole.split_at_checked(bytes)).ok_or(MessageError)?;
    let message = msgpack::from_bytes(first).map_err(|_| MessageError)?;
    *batch = rest;
    Ok(message)
}

/// A batch has bytes that are no message of this direction: its sender is broken, or speaks another
/// version.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("a record holds a message that is unknown here, or malformed")]
pub struct MessageError;

/// Defines the messages of one direction: an enum whose variants hold a body each, serialised as
/// `[tag, body]`.
macro_rules! messages {
    (
        $(#[$doc:meta])*
        $name:ident { $($(#[$variant_doc:meta])* $tag:literal $variant:ident($body:ty),)+ }
    ) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Debug)]
        pub enum $name {
            $($(#[$variant_doc])* $variant($body),)+
        }

        impl $name {
            /// The message's name, for logs.
            pub fn name(&self) -> &'static str {
                match self { $(Self::$variant(_) => stringify!($variant),)+ }
            }
        }

        impl serde::Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                use serde::ser::SerializeTuple;
                let mut tuple = serializer.serialize_tuple(2)?;
                match self {
                    $(Self::$variant(body) => {
                        tuple.serialize_element(&($tag as u8))?;
                        tuple.serialize_element(body)?;
                    })+
                }
                tuple.end()
            }
        }

        impl<'de> serde::Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                struct Tagged;

                impl<'de> serde::de::Visitor<'de> for Tagged {
                    type Value = $name;

                    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                        f.write_str(concat!("a message of ", stringify!($name)))
                    }

                    fn visit_seq<A: serde::de::SeqAccess<'de>>(
                        self,
                        mut seq: A,
                    ) -> Result<$name, A::Error> {
                        use serde::de::Error;
                        let missing = || A::Error::custom("a message has a tag and a body");
                        match seq.next_element::<u8>()?.ok_or_else(missing)? {
                            $($tag => {
                                let body = seq.next_element()?;
                                body.map($name::$variant).ok_or_else(missing)
                            })+
                            _ => Err(A::Error::custom("unknown tag")),
                        }
                    }
                }

                deserializer.deserialize_tuple(2, Tagged)
            }
        }

        impl Quick for $name {
            #[inline]
            fn put(&self, out: &mut Vec<u8>) {
                quick::put_parts(2, out);
                match self {
                    $(Self::$variant(body) => {
                        u8::put(&$tag, out);
                        body.put(out);
                    })+
                }
            }

            #[inline]
            fn take(input: &mut quick::Input<'_>) -> Option<Self> {
                input.parts(2)?;
                match u8::take(input)? {
                    $($tag => Quick::take(input).map(Self::$variant),)+
                    _ => None,
                }
            }
        }

        impl $crate::message::Message for $name {}
    };
}

/// Defines an enum that travels as one small number and has a stable name in `snake_case`.
macro_rules! codes {
    (
        $(#[$doc:meta])*
        $name:ident { $($(#[$variant_doc:meta])* $code:literal $text:literal $variant:ident,)+ }
    ) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
        pub enum $name {
            $($(#[$variant_doc])* $variant,)+
        }

        impl $name {
            /// Every value.
            pub const ALL: &[Self] = &[$(Self::$variant,)+];

            /// The number by which it travels.
            pub(crate) const fn code(self) -> u8 {
                match self { $(Self::$variant => $code,)+ }
            }

            pub(crate) const fn of_code(code: u8) -> Option<Self> {
                match code {
                    $($code => Some(Self::$variant),)+
                    _ => None,
                }
            }

            /// The stable name, as in JSON.
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $text,)+ }
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.pad(self.as_str())
            }
        }

        impl serde::Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_u8(self.code())
            }
        }

        impl<'de> serde::Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let unknown = || serde::de::Error::custom(concat!("unknown ", stringify!($name)));
                Self::of_code(u8::deserialize(deserializer)?).ok_or_else(unknown)
            }
        }

        impl $crate::message::quick::Quick for $name {
            #[inline]
            fn put(&self, out: &mut Vec<u8>) {
                self.code().put(out);
            }

            #[inline]
            fn take(input: &mut $crate::message::quick::Input<'_>) -> Option<Self> {
                u8::take(input).and_then(Self::of_code)
            }
        }
    };
}

/// Makes an enum of messages one that payloads can follow.
macro_rules! directions {
    ($($name:ident)+) => {
        $(impl $crate::message::Direction for $name {
            fn chunk(transfer: u64) -> Self {
                Self::Chunk(Chunk { transfer })
            }

            fn chunk_transfer(&self) -> Option<u64> {
                match self {
                    Self::Chunk(chunk) => Some(chunk.transfer),
                    _ => None,
                }
            }

            fn passed(passed: Passed) -> Self {
                Self::Passed(passed)
            }

            fn as_passed(&self) -> Option<&Passed> {
                match self {
                    Self::Passed(passed) => Some(passed),
                    _ => None,
                }
            }
        })+
    };
}

/// Defines message bodies: structs with public fields that travel as arrays. `hot_bodies` are those
/// of a task's way, which are written and read without serde.
macro_rules! bodies {
    ($($(#[$doc:meta])* $name:ident $fields:tt)+) => {
        $(body! { $(#[$doc])* $name $fields }
        impl $crate::message::quick::Quick for $name {})+
    };
}

/// See `bodies`.
macro_rules! hot_bodies {
    ($($(#[$doc:meta])* $name:ident { $($(#[$field_doc:meta])* $field:ident: $type:ty,)* })+) => {
        $(body! { $(#[$doc])* $name { $($(#[$field_doc])* $field: $type,)* } }
        $crate::message::quick::quick_structs! { $name { $($field)* } })+
    };
}

/// Defines one body.
macro_rules! body {
    ($(#[$doc:meta])* $name:ident { $($(#[$field_doc:meta])* $field:ident: $type:ty,)* }) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
        pub struct $name {
            $($(#[$field_doc])* pub $field: $type,)*
        }
    };
}

pub(crate) use codes;
pub(super) use {bodies, body, directions, hot_bodies, messages};
