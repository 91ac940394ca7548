//! Answers: what a gateway says, in the format in which it was asked.

use base64ct::{Base64, Encoding};
use bytes::Bytes;
use furlong_client::{Codec, FailureKind, ReplyHeader, TaskFailure, TaskOutcome, TaskResult};
use serde_json::value::RawValue;

use crate::limits::VERSION;
use crate::msgpack::{self, put, put_array, put_map};
use crate::request::{Format, Id, Refusal};

/// A part of an answer.
#[derive(Debug)]
pub enum Node {
    /// Nothing.
    Null,
    /// A truth value.
    Bool(bool),
    /// An integer.
    Int(i64),
    /// An integer that is never negative.
    Uint(u64),
    /// Text.
    Text(String),
    /// Bytes: `bin` in msgpack, `{"base64": "..."}` in JSON.
    Bytes(Bytes),
    /// A value that is already in the answer's format, and was checked to be one.
    Encoded(Bytes),
    /// A list.
    List(Vec<Node>),
    /// A map.
    Map(Vec<(&'static str, Node)>),
}

/// The answer to a request, as the bytes of its frame.
pub fn encode(format: Format, id: &Id, answer: Result<Node, Refusal>) -> Vec<u8> {
    let id = match id {
        Id::None => Node::Null,
        Id::Int(id) => Node::Int(*id),
        Id::Uint(id) => Node::Uint(*id),
        Id::Text(id) => Node::Text(id.clone()),
    };
    let said = match answer {
        Ok(node) => ("ok", node),
        Err(Refusal { kind, message }) => {
            let kind = Node::Text(kind.to_owned());
            ("error", Node::Map(vec![("type", kind), ("message", Node::Text(message))]))
        }
    };
    let whole = Node::Map(vec![("v", Node::Uint(VERSION)), ("id", id), said]);
    let mut out = Vec::new();
    match format {
        Format::Json => whole.write_json(&mut out),
        Format::Msgpack => whole.write_msgpack(&mut out),
    }
    out
}

/// A task's end.
pub fn outcome(format: Format, outcome: &TaskOutcome) -> Node {
    let report = match outcome {
        Ok(result) => &result.report,
        Err(failure) => &*failure.report,
    };
    let state = if outcome.is_ok() { "done" } else { "failed" };
    let mut fields = vec![("state", Node::Text(state.to_owned()))];
    if let Some(engine) = report.engine {
        fields.push(("engine", Node::Uint(engine.0.into())));
    }
    match outcome {
        Ok(result) => put_result(format, result, &mut fields),
        Err(failure) => fields.push(("failure", failed(failure))),
    }
    for (name, left_out, output) in [
        ("stdout", "stdout_left_out_bytes", &report.stdout),
        ("stderr", "stderr_left_out_bytes", &report.stderr),
    ] {
        if !output.is_empty() {
            fields.push((name, text_or_bytes(output.bytes())));
        }
        if output.left_out_bytes() > 0 {
            fields.push((left_out, Node::Uint(output.left_out_bytes())));
        }
    }
    Node::Map(fields)
}

/// The bytes that a task's end takes.
pub fn outcome_bytes(outcome: &TaskOutcome) -> usize {
    const FIXED: usize = 512;
    let (report, data) = match outcome {
        Ok(result) => (&result.report, result.data.iter().map(Bytes::len).sum()),
        Err(failure) => (&*failure.report, failure.remote().map_or(0, |it| it.traceback.len())),
    };
    FIXED + data + report.stdout.kept_bytes() + report.stderr.kept_bytes()
}

fn put_result(format: Format, result: &TaskResult, fields: &mut Vec<(&'static str, Node)>) {
    match &result.header {
        ReplyHeader::Executed { repr, .. } => {
            fields.push(("repr", repr.clone().map_or(Node::Null, Node::Text)));
        }
        ReplyHeader::Exited { code, .. } => {
            fields.push(("exit_code", code.map_or(Node::Null, |code| Node::Int(code.into()))));
        }
        header => put_value(format, header.codec(), &result.data, fields),
    }
}

/// The value, or where it is in another codec than the answer, its bytes and that codec's name.
fn put_value(
    format: Format,
    codec: Option<Codec>,
    data: &[Bytes],
    fields: &mut Vec<(&'static str, Node)>,
) {
    let bytes = match data {
        [only] => only.clone(),
        several => several.concat().into(),
    };
    // Python functions of msgpack requests are called in JSON.
    let bytes = match (format, codec) {
        (Format::Msgpack, Some(Codec::Json)) => match msgpack::from_json(&bytes) {
            Some(value) => {
                fields.push(("value", Node::Encoded(value.into())));
                return;
            }
            None => bytes,
        },
        _ => bytes,
    };
    let is_same = match (format, codec) {
        (Format::Json, Some(Codec::Json)) => serde_json::from_slice::<&RawValue>(&bytes).is_ok(),
        (Format::Msgpack, Some(Codec::Msgpack)) => msgpack::is_whole(&bytes),
        _ => false,
    };
    if is_same {
        fields.push(("value", Node::Encoded(bytes)));
    } else {
        let codec = codec.map_or_else(|| "none".to_owned(), |it| format!("{it:?}").to_lowercase());
        fields.push(("value", Node::Bytes(bytes)));
        fields.push(("value_codec", Node::Text(codec)));
    }
}

fn failed(failure: &TaskFailure) -> Node {
    let kind = failure.kind().map_or_else(|| "disconnected".to_owned(), |kind| kind.to_string());
    let mut fields = vec![("kind", Node::Text(kind))];
    if let FailureKind::Remote(error, _) = &*failure.error {
        fields.push(("type", Node::Text(error.type_name.clone())));
        fields.push(("message", Node::Text(error.message.clone())));
        fields.push(("traceback", Node::Text(error.traceback.clone())));
    } else {
        fields.push(("message", Node::Text(failure.error.to_string())));
    }
    if let Some(code) = failure.exit_code() {
        fields.push(("exit_code", Node::Int(code.into())));
    }
    if let Some(signal) = failure.signal() {
        fields.push(("signal", Node::Int(signal.into())));
    }
    Node::Map(fields)
}

fn text_or_bytes(bytes: Vec<u8>) -> Node {
    match String::from_utf8(bytes) {
        Ok(text) => Node::Text(text),
        Err(error) => Node::Bytes(error.into_bytes().into()),
    }
}

impl Node {
    fn write_json(&self, out: &mut Vec<u8>) {
        match self {
            Self::Null => out.extend_from_slice(b"null"),
            Self::Bool(value) => out.extend_from_slice(value.to_string().as_bytes()),
            Self::Int(value) => out.extend_from_slice(value.to_string().as_bytes()),
            Self::Uint(value) => out.extend_from_slice(value.to_string().as_bytes()),
            Self::Text(text) => write_json_text(text, out),
            Self::Bytes(bytes) => {
                out.extend_from_slice(b"{\"base64\":\"");
                out.extend_from_slice(Base64::encode_string(bytes).as_bytes());
                out.extend_from_slice(b"\"}");
            }
            Self::Encoded(bytes) => out.extend_from_slice(bytes),
            Self::List(nodes) => {
                out.push(b'[');
                for (place, node) in nodes.iter().enumerate() {
                    if place > 0 {
                        out.push(b',');
                    }
                    node.write_json(out);
                }
                out.push(b']');
            }
            Self::Map(entries) => {
                out.push(b'{');
                for (place, (key, node)) in entries.iter().enumerate() {
                    if place > 0 {
                        out.push(b',');
                    }
                    write_json_text(key, out);
                    out.push(b':');
                    node.write_json(out);
                }
                out.push(b'}');
            }
        }
    }

    fn write_msgpack(&self, out: &mut Vec<u8>) {
        match self {
            Self::Null => put(out, &()),
            Self::Bool(value) => put(out, value),
            Self::Int(value) => put(out, value),
            Self::Uint(value) => put(out, value),
            Self::Text(text) => put(out, text),
            Self::Bytes(bytes) => put(out, serde_bytes::Bytes::new(bytes)),
            Self::Encoded(bytes) => out.extend_from_slice(bytes),
            Self::List(nodes) => {
                put_array(out, nodes.len());
                nodes.iter().for_each(|node| node.write_msgpack(out));
            }
            Self::Map(entries) => {
                put_map(out, entries.len());
                for (key, node) in entries {
                    put(out, *key);
                    node.write_msgpack(out);
                }
            }
        }
    }
}

fn write_json_text(text: &str, out: &mut Vec<u8>) {
    serde_json::to_writer(out, text).expect("text can be written to memory");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_says_the_same_in_both_formats() {
        let answer = || {
            Ok(Node::Map(vec![
                ("big", Node::Uint(u64::MAX)),
                ("list", Node::List(vec![Node::Null, Node::Bool(true), Node::Int(i64::MIN)])),
                ("text", Node::Text("a \"b\"\n".to_owned())),
            ]))
        };
        let json = encode(Format::Json, &Id::Int(-3), answer());
        let json: serde_json::Value = serde_json::from_slice(&json).unwrap();
        assert_eq!(json["ok"]["big"], u64::MAX);
        assert_eq!(json["ok"]["list"][2], i64::MIN);
        let msgpack = encode(Format::Msgpack, &Id::Int(-3), answer());
        assert_eq!(rmp_serde::from_slice::<serde_json::Value>(&msgpack).unwrap(), json);
    }

    #[test]
    fn bytes_are_base64_in_json_and_bin_in_msgpack() {
        let node = || Node::Bytes(Bytes::from_static(b"\xff\x00"));
        let json = encode(Format::Json, &Id::None, Ok(node()));
        assert!(String::from_utf8(json).unwrap().ends_with(r#""ok":{"base64":"/wA="}}"#));
        let msgpack = encode(Format::Msgpack, &Id::None, Ok(node()));
        assert!(msgpack.ends_with(b"\xc4\x02\xff\x00"));
    }

    #[test]
    fn a_value_that_is_no_json_comes_as_bytes() {
        let mut fields = Vec::new();
        let nan = [Bytes::from_static(b"NaN")];
        put_value(Format::Json, Some(Codec::Json), &nan, &mut fields);
        assert!(matches!(fields[0], ("value", Node::Bytes(_))), "{fields:?}");
        assert!(matches!(&fields[1], ("value_codec", Node::Text(codec)) if codec == "json"));
    }
}
