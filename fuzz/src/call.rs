//! Headers of calls and replies, and definitions of pickled functions: what is read is written in
//! one way, which reads as the same again.

use bytes::Bytes;
use furlong_wire::call::{
    CallHeader, PickledDefinition, decode_header, decode_reply, encode_header, encode_reply,
};

/// The first buffer of a request, and a definition.
pub fn call(data: &[u8]) {
    if let Ok(header) = decode_header::<CallHeader>(data) {
        let written = encode_header(&header);
        assert_eq!(decode_header(&written), Ok(header));
    }
    let data = Bytes::copy_from_slice(data);
    if let Ok(definition) = PickledDefinition::decode(&data) {
        assert_eq!(definition.encode(), data);
    }
}

/// The first buffer of a result.
pub fn reply(data: &[u8]) {
    if let Ok(header) = decode_reply(data) {
        let written = encode_reply(&header);
        assert_eq!(decode_reply(&written), Ok(header));
    }
}
