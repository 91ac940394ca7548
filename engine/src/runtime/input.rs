//! Inputs as commands and Rust functions read them: the bytes of another task's result, or its
//! value.

use std::cell::RefCell;
use std::fmt;

use bytes::Bytes;
use furlong_wire::call::{Codec, ReplyHeader};
use furlong_wire::limits::OUTPUT_WHOLE_BYTES_MAX;
use serde::de::DeserializeOwned;
use serde_bytes::ByteBuf;

use crate::job::Input;

/// The reason why an input is not what its task wants.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum InputError {
    /// A command whose output was not asked for.
    #[error(
        "it is a command's, whose output was not kept whole; submit that command with `--stay` \
         (`whole_output`)"
    )]
    NotWhole,
    /// A command that has written more than goes with its result.
    #[error(
        "it is a command's that has written {0} bytes, of which not all were kept: the limit is \
         {OUTPUT_WHOLE_BYTES_MAX} and the room for results; write them to a file"
    )]
    TooLong(u64),
    /// The end of executed code, which has no value.
    #[error("it is that of executed code, which has no value; call a function that returns it")]
    NoValue,
    /// A value that only Python can read.
    #[error(
        "it is a Python object that is neither bytes nor text; return bytes or a `str`, or make \
         the call with JSON"
    )]
    Python,
    /// A value of another shape.
    #[error("it cannot be read: {0}")]
    Other(String),
}

thread_local! {
    static INPUTS: RefCell<Vec<Input>> = const { RefCell::new(Vec::new()) };
}

/// The inputs of this thread's task: results of other tasks, and values that its client has put at
/// the broker, in the order in which its submit names them. Empty on other threads.
///
/// ```no_run
/// use furlong_engine::{Engine, inputs};
///
/// /// The number of lines in all inputs.
/// fn lines() -> usize {
///     let bytes = inputs().into_iter().map(|input| input.bytes().expect("bytes, or text"));
///     bytes.map(|bytes| bytes.iter().filter(|byte| **byte == b'\n').count()).sum()
/// }
///
/// /// The sum of values that other functions have returned.
/// fn sum() -> f64 {
///     inputs().iter().map(|input| input.value::<f64>().expect("a number")).sum()
/// }
///
/// fn main() -> Result<(), furlong_engine::EngineError> {
///     Engine::builder().function("lines", lines).function("sum", sum).run()
/// }
/// ```
pub fn inputs() -> Vec<Input> {
    INPUTS.with_borrow(Clone::clone)
}

/// The thread runs a task with these inputs from now on.
pub(super) fn replace(inputs: Vec<Input>) {
    INPUTS.set(inputs);
}

impl InputError {
    fn other(error: impl fmt::Display) -> Self {
        Self::Other(error.to_string())
    }
}

impl Input {
    /// The bytes of the result: what a command has written to its standard output, the buffers of a
    /// raw value one after the other, the text of a JSON value, and of a value in msgpack or a
    /// pickle its bytes or, in UTF-8, its text.
    ///
    /// # Errors
    /// [`InputError`] if it is something else, or if the output was not kept whole.
    pub fn bytes(&self) -> Result<Bytes, InputError> {
        let codec = match &self.header {
            ReplyHeader::Exited { written: None, .. } => return Err(InputError::NotWhole),
            ReplyHeader::Exited { written: Some((written, _)), .. } => {
                let stdout = self.data.first().cloned().unwrap_or_default();
                let is_whole = stdout.len() as u64 == *written;
                return is_whole.then_some(stdout).ok_or(InputError::TooLong(*written));
            }
            ReplyHeader::Executed { .. } | ReplyHeader::Raised(_) => {
                return Err(InputError::NoValue);
            }
            ReplyHeader::Returned { codec } | ReplyHeader::Displayed { codec, .. } => codec,
        };
        match (codec, &self.data[..]) {
            (Codec::Raw | Codec::Json, [one]) => Ok(one.clone()),
            (Codec::Raw | Codec::Json, buffers) => Ok(buffers.concat().into()),
            (Codec::Msgpack, buffers) => {
                let value = buffers.first().map_or(&[][..], |buffer| buffer);
                let bytes = rmp_serde::from_slice::<ByteBuf>(value).map_err(InputError::other)?;
                Ok(bytes.into_vec().into())
            }
            (Codec::Pickle, buffers) => pickled_bytes(buffers).ok_or(InputError::Python),
        }
    }

    /// The value of the result, from JSON or msgpack.
    ///
    /// # Errors
    /// [`InputError`] if it is in neither, or of another type.
    pub fn value<T: DeserializeOwned>(&self) -> Result<T, InputError> {
        let value = self.data.first().map_or(&[][..], |buffer| buffer);
        match self.header.codec() {
            Some(Codec::Json) => serde_json::from_slice(value).map_err(InputError::other),
            Some(Codec::Msgpack) => rmp_serde::from_slice(value).map_err(InputError::other),
            Some(Codec::Pickle) => Err(InputError::Python),
            Some(Codec::Raw) | None => {
                Err(InputError::Other("it has bytes and no value; read these".to_owned()))
            }
        }
    }
}

/// The bytes of a pickle that is nothing but `bytes`, a `bytearray` or a `str`, which is read
/// without running anything. None of every other pickle.
fn pickled_bytes(buffers: &[Bytes]) -> Option<Bytes> {
    let (pickle, apart) = buffers.split_first()?;
    let (mut at, mut value) = (0, None);
    loop {
        let rest = &pickle[at..];
        let (length_bytes, is_value) = match rest.first()? {
            // PROTO, FRAME, MEMOIZE, READONLY_BUFFER
            0x80 => (1, false),
            0x95 => (8, false),
            0x94 | 0x98 => (0, false),
            // SHORT_BINBYTES and SHORT_BINUNICODE, BINBYTES and BINUNICODE, and those of 8 bytes
            b'C' | 0x8c => (1, true),
            b'B' | b'X' => (4, true),
            0x8e | 0x8d | 0x96 => (8, true),
            // NEXT_BUFFER
            0x97 if value.is_none() && apart.len() == 1 => {
                (value, at) = (Some(apart[0].clone()), at + 1);
                continue;
            }
            b'.' => return value.filter(|_| rest.len() == 1),
            _ => return None,
        };
        let number = rest.get(1..=length_bytes)?;
        at += 1 + length_bytes;
        if is_value {
            let mut length = [0; 8];
            length[..length_bytes].copy_from_slice(number);
            let length = usize::try_from(u64::from_le_bytes(length)).ok()?;
            let end = at.checked_add(length).filter(|end| *end <= pickle.len())?;
            if value.replace(pickle.slice(at..end)).is_some() {
                return None;
            }
            at = end;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn input(header: ReplyHeader, data: &[&[u8]]) -> Input {
        let data = data.iter().map(|buffer| Bytes::copy_from_slice(buffer)).collect();
        Input { key: None, header, data, file: None }
    }

    fn returned(codec: Codec, data: &[&[u8]]) -> Input {
        input(ReplyHeader::Returned { codec }, data)
    }

    fn exited(written: Option<(u64, u64)>, data: &[&[u8]]) -> Input {
        input(ReplyHeader::Exited { code: Some(0), signal: None, written }, data)
    }

    #[test]
    fn bytes_and_text_are_their_bytes_in_every_codec() {
        let of = |codec, data: &[&[u8]]| returned(codec, data).bytes().unwrap();
        assert_eq!(of(Codec::Raw, &[b"one ", b"two"]), "one two");
        assert_eq!(of(Codec::Raw, &[]), "");
        assert_eq!(of(Codec::Json, &[b"{\"a\": 1}"]), "{\"a\": 1}");
        assert_eq!(of(Codec::Msgpack, &[b"\xa2hi"]), "hi");
        assert_eq!(of(Codec::Msgpack, &[b"\xc4\x02\x00\xff"]), &[0, 255][..]);
        // pickle.dumps(b"ab", 5), of "ab", and of a bytearray
        assert_eq!(of(Codec::Pickle, &[b"\x80\x05\x95\x06\0\0\0\0\0\0\0C\x02ab\x94."]), "ab");
        assert_eq!(of(Codec::Pickle, &[b"\x80\x05\x95\x06\0\0\0\0\0\0\0\x8c\x02ab\x94."]), "ab");
        let array = b"\x80\x05\x95\x0c\0\0\0\0\0\0\0\x96\x02\0\0\0\0\0\0\0ab\x94.";
        assert_eq!(of(Codec::Pickle, &[array]), "ab");
        assert_eq!(of(Codec::Pickle, &[b"\x80\x05\x97\x98.", b"apart"]), "apart");
    }

    #[test]
    fn other_objects_and_broken_pickles_are_refused() {
        for pickle in [
            &b"\x80\x05K\x01."[..],
            b"\x80\x05C\x05ab.",
            b"\x80\x05C\x02ab.C\x01",
            b"\x80\x05C\x01aC\x01b.",
            b"\x80\x05\x97.",
            b"\x80\x05\x8e\xff\xff\xff\xff\xff\xff\xff\xff.",
            b"\x80\x05.",
            b"\x80",
            b"",
        ] {
            let bytes = returned(Codec::Pickle, &[pickle]).bytes();
            assert_eq!(bytes, Err(InputError::Python), "{pickle:?}");
        }
        assert!(returned(Codec::Msgpack, &[b"\x01"]).bytes().is_err());
        assert!(returned(Codec::Msgpack, &[]).bytes().is_err());
    }

    #[test]
    fn output_is_an_input_if_all_of_it_was_kept() {
        assert_eq!(exited(Some((3, 1)), &[b"out", b"e"]).bytes().unwrap(), "out");
        assert_eq!(exited(Some((0, 0)), &[]).bytes().unwrap(), "");
        assert_eq!(exited(Some((0, 1)), &[b"", b"e"]).bytes().unwrap(), "");
        assert_eq!(exited(Some((9, 0)), &[b"", b""]).bytes(), Err(InputError::TooLong(9)));
        assert_eq!(exited(None, &[]).bytes(), Err(InputError::NotWhole));
    }

    #[test]
    fn values_are_read_from_json_and_msgpack() {
        assert_eq!(returned(Codec::Json, &[b"[1, 2]"]).value(), Ok((1, 2)));
        assert_eq!(returned(Codec::Msgpack, &[b"\x92\x01\x02"]).value(), Ok((1, 2)));
        assert!(returned(Codec::Json, &[b"{}"]).value::<u8>().is_err());
        assert!(returned(Codec::Raw, &[b"1"]).value::<u8>().is_err());
        assert_eq!(returned(Codec::Pickle, &[]).value::<u8>(), Err(InputError::Python));
    }
}
