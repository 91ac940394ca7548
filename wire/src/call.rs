//! The contents of a payload: the call header of a request and the reply header of a result.
//!
//! Only clients and engines read these; the broker passes them on. In both directions the header is
//! the payload's first buffer, and the data are the buffers after it, in the header's [`Codec`]:
//!
//! | codec | a request's data | a result's data |
//! |---|---|---|
//! | `json` | one buffer: a JSON array `[[args...], {kwargs...}]` | one buffer: the value |
//! | `pickle` | protocol-5 pickle of `(args, kwargs)`, out-of-band buffers | likewise the value |
//! | `msgpack` | one buffer: an array of the arguments | one buffer: the value |
//! | `raw` | buffers, as they are | buffers, as they are |

use std::collections::BTreeMap;

use bytes::Bytes;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_bytes::ByteBuf;

use crate::ids::FunctionHash;
use crate::message::catalogue::codes;
use crate::msgpack;
use crate::os_text::OsText;

codes! {
    /// The encoding of arguments and results.
    Codec {
        /// JSON, for what crosses languages and for people.
        1 "json" Json,
        /// Python's pickle, protocol 5, with out-of-band buffers.
        2 "pickle" Pickle,
        /// `MessagePack`, the codec of Rust functions.
        3 "msgpack" Msgpack,
        /// The buffers themselves.
        4 "raw" Raw,
    }
}

/// The first buffer of a request.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct CallHeader {
    /// The call to run.
    pub call: Call,
    /// The encoding of the data after this header; the result comes back the same way.
    pub codec: Codec,
}

impl CallHeader {
    /// Returns true if all output of a command is to come with its reply.
    pub fn wants_whole_output(&self) -> bool {
        matches!(&self.call, Call::Command(spec) if spec.extras.whole_output)
    }
}

/// The call to run.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Call {
    /// Runs source code in the engine's lasting namespace. There are no data; the reply is
    /// [`ReplyHeader::Executed`].
    Execute {
        /// The code.
        source: String,
    },
    /// Calls a function that the engine can find by name: `module:name` in Python, a registered
    /// name in Rust.
    Named {
        /// The function's name.
        function: String,
    },
    /// Calls a function that a source file defines. The engine keeps the loaded module by its hash.
    Source {
        /// The file's name, for tracebacks.
        file: String,
        /// SHA-256 of the source text.
        hash: FunctionHash,
        /// The source text; none if it is in the definition that the task's message names.
        source: Option<OsText>,
        /// The function's name in that file.
        function: String,
    },
    /// Calls a function that came as a pickle. A Python engine keeps what it has loaded of it by
    /// its hash.
    Pickled(PickledCall),
    /// Runs a whole script in the engine's lasting namespace. The reply is
    /// [`ReplyHeader::Executed`], without a value.
    Run {
        /// The script's name, for tracebacks.
        file: String,
        /// Its text, as it is in the file: Python looks for its encoding.
        source: OsText,
    },
    /// Sets variables in the namespace. The data are those of a call whose one argument is the
    /// dictionary, with the names as keys; the value is nothing.
    Push,
    /// Evaluates expressions, mostly names, in the namespace. The value is the list of theirs.
    /// There are no data.
    Pull {
        /// The expressions.
        names: Vec<String>,
    },
    /// The names in the namespace that a user has made. The value is their sorted list. There are
    /// no data.
    Keys,
    /// Empties the namespace. The value is nothing. There are no data.
    Clear,
    /// Runs a program. The data are its standard input, in the codec `raw`; the reply is
    /// [`ReplyHeader::Exited`].
    Command(Box<CommandSpec>),
}

/// A function as a pickle, for [`Call::Pickled`].
///
/// The definition that the task's message may name is, where `blob` is there, the text of the
/// client's module `cloudpickle`, for engines whose Python has none. Otherwise it begins with the
/// pickle: see [`PickledDefinition`].
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct PickledCall {
    /// The function's name, for people.
    pub name: String,
    /// SHA-256 of the pickle; none if it means something else each time that it is loaded.
    pub hash: Option<FunctionHash>,
    /// The pickle; none if it is in the definition.
    pub blob: Option<ByteBuf>,
    /// The client's Python, major and minor.
    pub python: (u8, u8),
    /// True if the function or the arguments hold functions or classes by value. Only a Python of
    /// the same major and minor version can load such.
    pub has_code: bool,
}

/// A definition with a function too large for the header: the pickle's length (`u64`,
/// little-endian), the pickle, and the text of the client's module `cloudpickle`, which may be
/// empty.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PickledDefinition {
    /// The function's pickle.
    pub blob: Bytes,
    /// The module's text, as it is or compressed by zlib.
    pub support: Bytes,
}

impl PickledDefinition {
    /// One buffer of both.
    pub fn encode(&self) -> Bytes {
        let mut bytes = Vec::with_capacity(8 + self.blob.len() + self.support.len());
        bytes.extend_from_slice(&(self.blob.len() as u64).to_le_bytes());
        bytes.extend_from_slice(&self.blob);
        bytes.extend_from_slice(&self.support);
        bytes.into()
    }

    /// Takes them apart, without a copy.
    ///
    /// # Errors
    /// [`HeaderError`] if the pickle would be longer than what there is.
    pub fn decode(bytes: &Bytes) -> Result<Self, HeaderError> {
        let (length, _) = bytes.split_first_chunk().ok_or(HeaderError)?;
        let rest = bytes.slice(8..);
        let length = usize::try_from(u64::from_le_bytes(*length)).map_err(|_| HeaderError)?;
        if length > rest.len() {
            return Err(HeaderError);
        }
        Ok(Self { blob: rest.slice(..length), support: rest.slice(length..) })
    }
}

/// A program to run, as a process group of its own.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct CommandSpec {
    /// The program, found in `PATH` where it has no slash, and its arguments.
    pub argv: Vec<OsText>,
    /// Variables beyond the engine's own.
    pub env: BTreeMap<OsText, OsText>,
    /// The directory that it runs in; the engine's own if there is none.
    pub cwd: Option<OsText>,
    /// The task's number in its array: the variable `FURLONG_TASK`.
    pub task: Option<u64>,
    /// The task's item: the variable `FURLONG_ITEM`.
    pub item: Option<OsText>,
    /// The file that standard output goes to, on the engine's machine; otherwise it comes back as
    /// output. `{task}` and `{engine}` stand for the numbers.
    pub stdout: Option<OsText>,
    /// The same for standard error.
    pub stderr: Option<OsText>,
    /// The parts that few commands have.
    #[serde(default, skip_serializing_if = "CommandExtras::are_none")]
    pub extras: CommandExtras,
}

/// The parts of a [`CommandSpec`] that few commands have.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct CommandExtras {
    /// True if its output comes with the reply as well, where nothing is left out of it: see
    /// [`ReplyHeader::Exited`].
    pub whole_output: bool,
    /// The task's inputs that are its standard input, one after the other, by their places among
    /// them. Without any, standard input are the data.
    pub stdin: Vec<u32>,
    /// The inputs that it finds in files, whose paths are put into its arguments.
    pub paths: Vec<InputPath>,
}

impl CommandExtras {
    /// Returns true if there are none.
    pub fn are_none(&self) -> bool {
        *self == Self::default()
    }
}

/// The place in a command's arguments where the path of an input's file is put.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct InputPath {
    /// The argument, the program's name being the first one, 0.
    pub argument: u32,
    /// The byte of the argument before which the path goes; several of one argument ascend.
    pub offset: u64,
    /// The input, by its place among those of the task.
    pub input: u32,
}

/// The first buffer of a result: written by [`encode_reply`], read by [`decode_reply`].
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ReplyHeader {
    /// The function returned; the data hold its value. Nearly every result is one, so this header
    /// is the codec's number alone: see [`encode_reply`].
    #[serde(skip)]
    Returned {
        /// The encoding of the data.
        codec: Codec,
    },
    /// As [`ReplyHeader::Returned`], of a function that has displayed something.
    Displayed {
        /// The encoding of the data.
        codec: Codec,
        /// The displayed objects, in order.
        displays: Vec<Display>,
    },
    /// [`Call::Execute`] ended without an exception.
    Executed {
        /// The engine's count of executions, from 1.
        count: u64,
        /// The `repr` of the last expression; none if it was `None` or no expression.
        repr: Option<String>,
        /// The displayed objects, in order: the last one is that of the last expression, if it has
        /// more than a `repr`.
        displays: Vec<Display>,
    },
    /// A program ended. There are no data, unless [`CommandExtras::whole_output`] was asked for and
    /// it has written something: then two buffers, with all of standard output and of standard
    /// error. A buffer is empty if that stream is longer than
    /// [`OUTPUT_WHOLE_BYTES_MAX`](crate::limits::OUTPUT_WHOLE_BYTES_MAX).
    Exited {
        /// Its exit code; none if a signal ended it.
        code: Option<i32>,
        /// The signal that ended it.
        signal: Option<i32>,
        /// If all output was asked for: the bytes that it has written to standard output and to
        /// standard error. A buffer that is shorter does not hold them.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        written: Option<(u64, u64)>,
    },
    /// It ended with an exception.
    Raised(RemoteError),
}

/// Something shown richly: the same thing in several types.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Display {
    /// By type, as `text/html`. Types of text are UTF-8; the others are base64, as IPython has
    /// them.
    pub data: BTreeMap<String, String>,
    /// True if it is the value of the last expression, and not something that the code displayed.
    pub is_value: bool,
    /// Its metadata, mostly by type: a JSON value each, as `{"width": 10}` for `image/png`.
    pub metadata: BTreeMap<String, String>,
}

/// An exception on an engine.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct RemoteError {
    /// The exception's type, as `ValueError` or `numpy.linalg.LinAlgError`.
    pub type_name: String,
    /// Its text.
    pub message: String,
    /// The formatted traceback, ending in a newline; empty where the runtime has none.
    pub traceback: String,
    /// The engine's count of executions, if it was [`Call::Execute`] that failed.
    pub execution: Option<u64>,
}

impl std::fmt::Display for RemoteError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.message.is_empty() {
            f.write_str(&self.type_name)
        } else {
            write!(f, "{}: {}", self.type_name, self.message)
        }
    }
}

impl ReplyHeader {
    /// The codec of the value, if a function has returned one.
    pub fn codec(&self) -> Option<Codec> {
        match self {
            Self::Returned { codec } | Self::Displayed { codec, .. } => Some(*codec),
            Self::Executed { .. } | Self::Exited { .. } | Self::Raised(_) => None,
        }
    }

    /// Returns the displayed objects, in order.
    pub fn displays(&self) -> &[Display] {
        match self {
            Self::Displayed { displays, .. } | Self::Executed { displays, .. } => displays,
            Self::Returned { .. } | Self::Exited { .. } | Self::Raised(_) => &[],
        }
    }
}

/// Bytes of nearly every header: room that need not grow.
const HEADER_BYTES: usize = 64;

/// Encodes a header as the first buffer of a payload.
pub fn encode_header<H: Serialize>(header: &H) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(HEADER_BYTES);
    rmp_serde::encode::write(&mut bytes, header)
        .expect("a header has no type that msgpack cannot hold");
    bytes
}

/// Decodes the first buffer of a payload.
///
/// # Errors
/// [`HeaderError`] if the bytes are not this header, or go on after it.
pub fn decode_header<H: DeserializeOwned>(bytes: &[u8]) -> Result<H, HeaderError> {
    msgpack::from_bytes(bytes).map_err(|_| HeaderError)
}

/// Encodes a reply header as the first buffer of a result.
pub fn encode_reply(header: &ReplyHeader) -> Bytes {
    let ReplyHeader::Returned { codec } = header else { return encode_header(header).into() };
    Bytes::from_static(match codec {
        Codec::Json => const { &[Codec::Json.code()] },
        Codec::Pickle => const { &[Codec::Pickle.code()] },
        Codec::Msgpack => const { &[Codec::Msgpack.code()] },
        Codec::Raw => const { &[Codec::Raw.code()] },
    })
}

/// Decodes the first buffer of a result.
///
/// # Errors
/// As [`decode_header`].
pub fn decode_reply(bytes: &[u8]) -> Result<ReplyHeader, HeaderError> {
    match bytes {
        [code] => {
            Codec::of_code(*code).map(|codec| ReplyHeader::Returned { codec }).ok_or(HeaderError)
        }
        _ => decode_header(bytes),
    }
}

/// A payload's first buffer is no header of the expected kind.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("the payload's header cannot be read: its sender speaks another version, or is broken")]
pub struct HeaderError;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_survive_the_round_trip_and_nothing_may_follow_them() {
        let calls = [
            Call::Execute { source: "1 + 1".into() },
            Call::Named { function: "os.path:basename".into() },
            Call::Run { file: "s.py".into(), source: "x = 1".into() },
            Call::Push,
            Call::Pull { names: vec!["x".into()] },
            Call::Keys,
            Call::Clear,
            Call::Command(Box::new(CommandSpec {
                argv: vec!["true".into()],
                task: Some(3),
                ..CommandSpec::default()
            })),
            Call::Source {
                file: "f.py".into(),
                hash: FunctionHash([7; 32]),
                source: Some("x".into()),
                function: "f".into(),
            },
            Call::Pickled(PickledCall {
                name: "f".into(),
                hash: Some(FunctionHash([7; 32])),
                blob: Some(ByteBuf::from(b"pickle")),
                python: (3, 12),
                has_code: true,
            }),
        ];
        for call in calls {
            let header = CallHeader { call, codec: Codec::Pickle };
            let mut bytes = encode_header(&header);
            assert_eq!(decode_header::<CallHeader>(&bytes), Ok(header));
            bytes.push(0);
            assert_eq!(decode_header::<CallHeader>(&bytes), Err(HeaderError));
        }
        let codecs = [Codec::Json, Codec::Pickle, Codec::Msgpack, Codec::Raw];
        let returned = codecs.map(|codec| ReplyHeader::Returned { codec });
        let metadata = [("image/png".to_owned(), r#"{"width": 10}"#.to_owned())].into();
        let displays = vec![Display { metadata, ..Display::default() }];
        for reply in returned.into_iter().chain([
            ReplyHeader::Executed { count: 3, repr: None, displays: displays.clone() },
            ReplyHeader::Displayed { codec: Codec::Pickle, displays },
        ]) {
            assert_eq!(decode_reply(&encode_reply(&reply)), Ok(reply));
        }
        assert_eq!(decode_reply(&[0]), Err(HeaderError));
        assert_eq!(decode_reply(&[]), Err(HeaderError));
    }

    #[test]
    fn a_definition_is_taken_apart_as_it_was_put_together() {
        let definition =
            PickledDefinition { blob: Bytes::from("pickle"), support: Bytes::from("text") };
        let bytes = definition.encode();
        assert_eq!(PickledDefinition::decode(&bytes), Ok(definition));
        assert!(PickledDefinition::decode(&bytes.slice(..14)).unwrap().support.is_empty());
        for broken in [bytes.slice(..7), bytes.slice(..13), Bytes::from_static(&[0xff; 20])] {
            assert_eq!(PickledDefinition::decode(&broken), Err(HeaderError));
        }
    }
}
