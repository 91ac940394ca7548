//! Requests: what programs ask a gateway, in JSON or msgpack.

use std::fmt;
use std::io::Cursor;
use std::marker::PhantomData;
use std::sync::Arc;

use bytes::Bytes;
use furlong_client::{Arguments, CallSpec, EngineId, EngineTargets, Runtime, SourceFunction};
use serde::Deserialize;
use serde::de::{DeserializeOwned, Deserializer, Error, SeqAccess, Visitor};
use serde_json::value::RawValue;

use crate::blob::Blob;
use crate::limits::{
    DEPTH_MAX, ENGINES_MAX, ID_BYTES_MAX, ITEMS_MAX, VERSION, WAIT_MS_MAX, WORDS_MAX,
};
use crate::msgpack::{RawMsgpack, put_array, to_json};

/// The format of a request, and of its answer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Format {
    /// JSON: the first byte is not that of a msgpack map.
    Json,
    /// Msgpack.
    Msgpack,
}

/// The name that a program gives its request; the answer has it too.
#[derive(Clone, PartialEq, Eq, Debug, Default, Deserialize)]
#[serde(untagged)]
pub enum Id {
    /// None.
    #[default]
    None,
    /// An integer.
    Int(i64),
    /// An integer beyond that.
    Uint(u64),
    /// Text.
    Text(String),
}

/// The reason why a request is not done.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Refusal {
    /// The kind, one word that programs can rely on.
    pub kind: &'static str,
    /// One line for people.
    pub message: String,
}

impl Refusal {
    /// A refusal.
    pub fn new(kind: &'static str, message: impl Into<String>) -> Self {
        Self { kind, message: message.into() }
    }
}

/// A request.
#[derive(Debug)]
pub struct Request {
    /// Its format.
    pub format: Format,
    /// Its name.
    pub id: Id,
    /// The token, where one is demanded.
    pub token: Option<String>,
    /// The work that is asked for, or why it is not understood.
    pub work: Result<Work, Refusal>,
}

/// The work that a request asks for.
#[derive(Debug)]
pub enum Work {
    /// The versions of gateway and protocol.
    Version,
    /// The ids of the engines.
    Engines,
    /// A call on whichever engine is free.
    Submit {
        /// The call.
        call: Box<CallSpec>,
        /// True if it goes on without its peer.
        detach: bool,
    },
    /// One call for each item.
    Map {
        /// The calls.
        calls: Vec<CallSpec>,
        /// True if they go on without their peer.
        detach: bool,
    },
    /// Python code on engines.
    Execute {
        /// The code.
        code: String,
        /// The engines.
        targets: EngineTargets,
    },
    /// The result of a task, waited for.
    Result {
        /// The task's number at this connection.
        task: u64,
        /// The time to wait, in milliseconds.
        wait_ms: u64,
    },
    /// The state of a task, or of the farm.
    Status {
        /// The task's number at this connection.
        task: Option<u64>,
    },
    /// The end of a task that is no longer wanted.
    Cancel {
        /// The task's number at this connection.
        task: u64,
    },
}

/// Reads a request. Any bytes are one, if only one that is refused.
pub fn parse(bytes: &[u8]) -> Request {
    match bytes.first() {
        Some(0x80..=0x8f | 0xde | 0xdf) => read::<RawMsgpack>(Format::Msgpack, bytes),
        _ => read::<Box<RawValue>>(Format::Json, bytes),
    }
}

fn read<V: Value>(format: Format, bytes: &[u8]) -> Request {
    let (id, token, work) = match V::decode::<Envelope<V>>(bytes) {
        Ok(mut envelope) => {
            let id = std::mem::take(&mut envelope.id);
            let token = envelope.token.take();
            (id, token, envelope.work())
        }
        // The name may be readable where the rest is not. The token is not looked for: it would
        // change nothing.
        Err(message) => {
            let head = V::decode::<Head>(bytes).unwrap_or_default();
            (head.id, head.token, Err(Refusal::new("BadRequest", shortened(message))))
        }
    };
    match id {
        Id::Text(text) if text.len() > ID_BYTES_MAX => {
            let message = format!("an id has at most {ID_BYTES_MAX} bytes");
            Request { format, id: Id::None, token, work: Err(Refusal::new("BadRequest", message)) }
        }
        id => Request { format, id, token, work },
    }
}

/// A message of a parser, which may quote what it has read.
fn shortened(mut message: String) -> String {
    const BYTES_MAX: usize = 300;
    if message.len() > BYTES_MAX {
        message.truncate(message.floor_char_boundary(BYTES_MAX));
        message.push_str("...");
    }
    message
}

/// A value of the request's own format that is passed on as it is.
trait Value: DeserializeOwned {
    /// Reads the whole of the bytes.
    fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, String>;
    /// The arguments of a call, for a function in Python or in Rust.
    fn arguments(
        runtime: Runtime,
        args: Option<Self>,
        kwargs: Option<Self>,
    ) -> Result<Arguments, Refusal>;
    /// The one argument of a call for an item.
    fn item(runtime: Runtime, item: Self) -> Result<Arguments, Refusal>;
}

impl Value for Box<RawValue> {
    fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, String> {
        serde_json::from_slice(bytes).map_err(|error| format!("this is no request: {error}"))
    }

    fn arguments(
        _runtime: Runtime,
        args: Option<Self>,
        kwargs: Option<Self>,
    ) -> Result<Arguments, Refusal> {
        let args = args.as_deref().map_or("[]", RawValue::get);
        let kwargs = kwargs.as_deref().map_or("{}", RawValue::get);
        json_arguments(args, kwargs)
    }

    fn item(_runtime: Runtime, item: Self) -> Result<Arguments, Refusal> {
        Ok(json_item(item.get()))
    }
}

fn json_arguments(args: &str, kwargs: &str) -> Result<Arguments, Refusal> {
    if !args.starts_with('[') {
        return Err(Refusal::new("BadRequest", "`args` is a list of arguments"));
    }
    if !kwargs.starts_with('{') {
        return Err(Refusal::new("BadRequest", "`kwargs` is an object of named arguments"));
    }
    Ok(Arguments::JsonText(format!("[{args},{kwargs}]").into()))
}

fn json_item(item: &str) -> Arguments {
    Arguments::JsonText(format!("[[{item}],{{}}]").into())
}

/// The JSON of an argument in msgpack: Python functions do not take that.
fn as_json(value: &RawMsgpack) -> Result<String, Refusal> {
    to_json(&value.0).map_err(|error| Refusal::new("BadRequest", shortened(error)))
}

impl Value for RawMsgpack {
    fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, String> {
        let mut deserializer = rmp_serde::Deserializer::new(Cursor::new(bytes));
        deserializer.set_max_depth(DEPTH_MAX);
        let value = T::deserialize(&mut deserializer)
            .map_err(|error| format!("this is no request: {error}"))?;
        if deserializer.position() == bytes.len() as u64 {
            Ok(value)
        } else {
            Err("this is no request: bytes follow the msgpack map".to_owned())
        }
    }

    fn arguments(
        runtime: Runtime,
        args: Option<Self>,
        kwargs: Option<Self>,
    ) -> Result<Arguments, Refusal> {
        if runtime == Runtime::Python {
            let args = args.map_or_else(|| Ok("[]".to_owned()), |it| as_json(&it))?;
            let kwargs = kwargs.map_or_else(|| Ok("{}".to_owned()), |it| as_json(&it))?;
            return json_arguments(&args, &kwargs);
        }
        if kwargs.is_some() {
            let message = "a Rust function has positional arguments alone in msgpack, no `kwargs`";
            return Err(Refusal::new("BadRequest", message));
        }
        let args = args.map_or_else(|| vec![0x90], |args| args.0);
        if !matches!(args.first(), Some(0x90..=0x9f | 0xdc | 0xdd)) {
            return Err(Refusal::new("BadRequest", "`args` is a list of arguments"));
        }
        Ok(Arguments::Msgpack(args.into()))
    }

    fn item(runtime: Runtime, item: Self) -> Result<Arguments, Refusal> {
        if runtime == Runtime::Python {
            return Ok(json_item(&as_json(&item)?));
        }
        let mut args = Vec::with_capacity(1 + item.0.len());
        put_array(&mut args, 1);
        args.extend_from_slice(&item.0);
        Ok(Arguments::Msgpack(args.into()))
    }
}

/// The parts of a request that are looked for when it is not understood.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Head {
    id: Id,
    token: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, bound = "V: Value")]
struct Envelope<V> {
    v: u64,
    #[serde(default)]
    id: Id,
    token: Option<String>,
    version: Option<Nothing>,
    engines: Option<Nothing>,
    submit: Option<Call<V>>,
    map: Option<Map<V>>,
    execute: Option<Execute>,
    result: Option<Fetch>,
    status: Option<Status>,
    cancel: Option<Cancel>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Nothing {}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, bound = "V: Value")]
struct Call<V> {
    function: Option<String>,
    source: Option<String>,
    args: Option<V>,
    kwargs: Option<V>,
    command: Option<Bounded<String, WORDS_MAX>>,
    stdin: Option<Blob>,
    label: Option<String>,
    #[serde(default)]
    detach: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, bound = "V: Value")]
struct Map<V> {
    function: String,
    source: Option<String>,
    items: Bounded<V, ITEMS_MAX>,
    label: Option<String>,
    #[serde(default)]
    detach: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Execute {
    code: String,
    engines: Option<Bounded<u32, ENGINES_MAX>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Fetch {
    task: u64,
    #[serde(default)]
    wait_ms: u64,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Status {
    task: Option<u64>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Cancel {
    task: u64,
}

impl<V: Value> Envelope<V> {
    fn work(self) -> Result<Work, Refusal> {
        if self.v != VERSION {
            let message = format!("version {} is not spoken here; this is {VERSION}", self.v);
            return Err(Refusal::new("BadVersion", message));
        }
        let asked = [
            self.version.map(|Nothing {}| Ok(Work::Version)),
            self.engines.map(|Nothing {}| Ok(Work::Engines)),
            self.submit.map(Call::work),
            self.map.map(Map::work),
            self.execute.map(|execute| Ok(execute.work())),
            self.result.map(|Fetch { task, wait_ms }| {
                Ok(Work::Result { task, wait_ms: wait_ms.min(WAIT_MS_MAX) })
            }),
            self.status.map(|Status { task }| Ok(Work::Status { task })),
            self.cancel.map(|Cancel { task }| Ok(Work::Cancel { task })),
        ];
        let mut asked = asked.into_iter().flatten();
        match (asked.next(), asked.next()) {
            (Some(work), None) => work,
            _ => Err(Refusal::new(
                "BadRequest",
                "a request asks for one thing: `version`, `engines`, `submit`, `map`, `execute`, \
                 `result`, `status` or `cancel`",
            )),
        }
    }
}

impl<V: Value> Call<V> {
    fn work(self) -> Result<Work, Refusal> {
        let call = match (self.function, self.command) {
            (Some(name), None) => {
                if self.stdin.is_some() {
                    return Err(Refusal::new("BadRequest", "`stdin` is for a `command`"));
                }
                let call = function(name, self.source);
                let arguments = V::arguments(call.runtime, self.args, self.kwargs)?;
                call.arguments(arguments)
            }
            (None, Some(command)) => {
                let has_arguments = self.args.is_some() || self.kwargs.is_some();
                if has_arguments || self.source.is_some() {
                    let message = "a `command` has its words and `stdin`; `args`, `kwargs` and \
                                   `source` are for a `function`";
                    return Err(Refusal::new("BadRequest", message));
                }
                let stdin = self.stdin.map(|Blob(bytes)| vec![Bytes::from(bytes)]);
                let call = CallSpec::command(command.0);
                stdin.map_or(call.clone(), |stdin| call.arguments(Arguments::Raw(stdin)))
            }
            _ => {
                let message = "`submit` has a `function` or a `command`, and not both";
                return Err(Refusal::new("BadRequest", message));
            }
        };
        let call = Box::new(labelled(call, self.label, self.detach));
        Ok(Work::Submit { call, detach: self.detach })
    }
}

impl<V: Value> Map<V> {
    fn work(self) -> Result<Work, Refusal> {
        let call = labelled(function(self.function, self.source), self.label, self.detach);
        let items = self.items.0.into_iter();
        let calls = items.map(|item| Ok(call.clone().arguments(V::item(call.runtime, item)?)));
        Ok(Work::Map { calls: calls.collect::<Result<_, _>>()?, detach: self.detach })
    }
}

impl Execute {
    fn work(self) -> Work {
        let targets = self.engines.map_or(EngineTargets::All, |engines| {
            EngineTargets::Ids(engines.0.into_iter().map(EngineId).collect())
        });
        Work::Execute { code: self.code, targets }
    }
}

/// A function of a source text, of a Python module (`module:name`), or of the engine's own in Rust.
fn function(name: String, source: Option<String>) -> CallSpec {
    match source {
        Some(source) => {
            CallSpec::source(Arc::new(SourceFunction::new("<gateway>", source.as_str(), name)))
        }
        None if name.contains(':') => CallSpec::python(name),
        None => CallSpec::native(name),
    }
}

fn labelled(call: CallSpec, label: Option<String>, keep: bool) -> CallSpec {
    let call = if keep { call.keep(true) } else { call };
    match label {
        Some(label) => call.label(label),
        None => call,
    }
}

/// A list that is refused as soon as it is too long: elements cost more in memory than in a
/// request.
struct Bounded<T, const MAX: usize>(Vec<T>);

impl<'de, T: Deserialize<'de>, const MAX: usize> Deserialize<'de> for Bounded<T, MAX> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_seq(BoundedVisitor(PhantomData))
    }
}

struct BoundedVisitor<T, const MAX: usize>(PhantomData<T>);

impl<'de, T: Deserialize<'de>, const MAX: usize> Visitor<'de> for BoundedVisitor<T, MAX> {
    type Value = Bounded<T, MAX>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a list of at most {MAX}")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
        let mut list = Vec::new();
        while let Some(element) = seq.next_element()? {
            if list.len() == MAX {
                return Err(A::Error::custom(format_args!("a list has more than {MAX} elements")));
            }
            list.push(element);
        }
        Ok(Bounded(list))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn refused(bytes: &[u8]) -> Refusal {
        parse(bytes).work.expect_err("it must be refused")
    }

    #[test]
    fn json_arguments_are_passed_as_their_text() {
        let text = br#"{"v":1,"submit":{"function":"m:f","args":[18446744073709551616,1e400]}}"#;
        let Ok(Work::Submit { call, detach: false }) = parse(text).work else { panic!() };
        let text = b"[[18446744073709551616,1e400],{}]";
        assert_eq!(call.arguments, Arguments::JsonText(Bytes::from_static(text)));
    }

    #[test]
    fn msgpack_arguments_are_passed_as_their_bytes() {
        let request = json!({"v": 1, "id": "a", "map": {"function": "f", "items": [7, [8]]}});
        let request = parse(&rmp_serde::to_vec_named(&request).unwrap());
        assert_eq!((request.format, request.id), (Format::Msgpack, Id::Text("a".to_owned())));
        let Ok(Work::Map { calls, .. }) = request.work else { panic!() };
        let expected = [&b"\x91\x07"[..], b"\x91\x91\x08"];
        let expected = expected.map(|it| Arguments::Msgpack(Bytes::from_static(it)));
        assert_eq!(calls.into_iter().map(|it| it.arguments).collect::<Vec<_>>(), expected);
    }

    #[test]
    fn a_request_that_is_not_understood_is_named_in_its_answer() {
        let request = parse(br#"{"v":1,"id":5,"submitt":{}}"#);
        assert_eq!(request.id, Id::Int(5));
        let refusal = request.work.unwrap_err();
        assert_eq!(refusal.kind, "BadRequest");
        assert!(refusal.message.contains("unknown field `submitt`"), "{refusal:?}");
    }

    #[test]
    fn every_wrong_request_gets_one_line() {
        for wrong in [
            &b""[..],
            b"\xff\xfe",
            b"{",
            b"[]",
            b"{}",
            br#"{"v":"1","version":{}}"#,
            br#"{"v":1}"#,
            br#"{"v":1,"version":{},"engines":{}}"#,
            br#"{"v":1,"version":{}} x"#,
            br#"{"v":1,"version":{"x":1}}"#,
            br#"{"v":1,"submit":{}}"#,
            br#"{"v":1,"submit":{"function":"f","command":["x"]}}"#,
            br#"{"v":1,"submit":{"function":"f","args":{}}}"#,
            br#"{"v":1,"submit":{"function":"f","kwargs":[]}}"#,
            br#"{"v":1,"submit":{"command":["x"],"stdin":{"base64":"?"}}}"#,
            br#"{"v":1,"submit":{"command":["x"],"args":[]}}"#,
            br#"{"v":1,"result":{"task":-1}}"#,
            b"\x80",
            b"\xdf\xff\xff\xff\xff",
            b"\x81\xa1v\x01\x00",
        ] {
            let refusal = refused(wrong);
            assert_eq!(refusal.kind, "BadRequest", "{}", wrong.escape_ascii());
            assert!(!refusal.message.contains('\n') && refusal.message.len() < 320);
        }
        assert_eq!(refused(br#"{"v":2,"version":{}}"#).kind, "BadVersion");
    }

    #[test]
    fn a_list_that_is_too_long_is_refused() {
        let items = vec![0; ITEMS_MAX + 1];
        let request = json!({"v": 1, "map": {"function": "f", "items": items}}).to_string();
        assert!(refused(request.as_bytes()).message.contains("more than 4096 elements"));
    }
}
