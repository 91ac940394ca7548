//! Requests to a gateway: read or refused in one line, within memory of about their own length, and
//! answered in their own format.

use furlong_gateway::answer::{Node, encode};
use furlong_gateway::request::{Format, Request, parse};

use crate::memory;

/// Memory that a request may take beside a multiple of its length: lists of 4096 elements have
/// their bound, and what is small in a request may be larger as a value.
const MEMORY_BYTES_MAX: usize = 1 << 20;

/// The input is a request.
pub fn run(data: &[u8]) {
    let request = memory::within(64 * data.len() + MEMORY_BYTES_MAX, || parse(data));
    let Request { format, id, work, .. } = request;
    let answer = match work {
        Ok(_) => Ok(Node::Null),
        Err(refusal) => {
            assert!(!refusal.message.is_empty() && refusal.message.len() < 400);
            Err(refusal)
        }
    };
    let kind = answer.as_ref().err().map(|refusal| refusal.kind);
    let bytes = encode(format, &id, answer);
    let read = parse(&bytes);
    assert_eq!(read.format, format, "an answer is in the format of its request");
    assert_eq!(read.id, id, "an answer names its request");
    if let (Format::Json, Some(kind)) = (format, kind) {
        let text = String::from_utf8(bytes).expect("JSON is UTF-8");
        assert!(text.contains(kind) && !text.contains('\n'), "{text}");
    }
}

/// A request of each kind, in both formats.
pub fn seeds() -> Vec<Vec<u8>> {
    let json: [&[u8]; 6] = [
        br#"{"v":1,"id":7,"token":"t","version":{}}"#,
        br#"{"v":1,"submit":{"function":"m:f","args":[1,"a"],"kwargs":{"b":null},"detach":true}}"#,
        br#"{"v":1,"submit":{"command":["cat"],"stdin":{"base64":"/wA="},"label":"l"}}"#,
        br#"{"v":1,"id":"x","map":{"function":"f","source":"def f(x): return x","items":[1,[2]]}}"#,
        br#"{"v":1,"execute":{"code":"1+1","engines":[0,1]}}"#,
        br#"{"v":1,"result":{"task":1,"wait_ms":1000}}"#,
    ];
    let msgpack: [&[u8]; 3] = [
        b"\x82\xa1v\x01\xa7engines\x80",
        b"\x83\xa1v\x01\xa2id\xcd\x01\x00\xa6submit\x82\xa8function\xa1f\xa4args\x92\xc4\x01\xff\xc0",
        b"\x82\xa1v\x01\xa6cancel\x81\xa4task\x01",
    ];
    json.into_iter().chain(msgpack).map(<[u8]>::to_vec).collect()
}
