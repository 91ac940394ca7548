//! Rows as bytes: msgpack arrays.

use furlong_wire::ids::{EngineId, InstanceId, TaskId};
use furlong_wire::message::{
    AttemptRecord, ErrorKind, Raised, Runtime, Stream, TaskOptions, TaskState,
};
use furlong_wire::msgpack::{self, Malformed};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

/// A payload's announcement: none for one that is inside its row.
pub(super) type PayloadHead = Option<(u64, u64, Option<InstanceId>)>;

/// A task, but for its options and arguments.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct TaskHead {
    pub target: Option<EngineId>,
    pub runtime: Runtime,
    pub class: u32,
    pub define: Option<u32>,
    pub submitted_unix_us: u64,
    pub payload: PayloadHead,
    pub met: Vec<MetBody>,
    /// The name of its kind. Since version 2.
    #[serde(default)]
    pub name: Option<String>,
}

/// A dependency that has ended.
pub(super) type MetBody = (TaskId, bool, Option<EngineId>);

/// A task's end, but for its result.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct EndHead {
    pub outcome: OutcomeBody,
    pub engine: Option<EngineId>,
    pub attempts: u32,
    pub losses: u32,
    pub errors: u32,
    pub assigned_us: Option<u64>,
    pub finished_us: u64,
    pub run_us: u64,
    pub request_bytes: u64,
    pub past: Vec<AttemptRecord>,
    /// True if there is a result.
    pub has_payload: bool,
    pub payload: PayloadHead,
    pub output: Vec<(Stream, u64, serde_bytes::ByteBuf)>,
    pub output_bytes: (u64, u64),
    /// What the user's code raised. Since version 2.
    #[serde(default)]
    pub raised: Option<Raised>,
    /// The parts of its time on the engine beside the run itself. Since version 2.
    #[serde(default)]
    pub began_us: u64,
    #[serde(default)]
    pub load_us: u64,
    #[serde(default)]
    pub store_us: u64,
}

/// An outcome, but for what was raised.
pub(super) type OutcomeBody = (TaskState, Option<(ErrorKind, String)>);

/// A row as bytes.
pub(super) fn encode(row: &impl Serialize) -> Vec<u8> {
    rmp_serde::to_vec(row).expect("rows are plain data")
}

/// A task's options from bytes. Those of before version 3 have no time request, which comes last.
pub(super) fn decode_options(bytes: &[u8]) -> Result<TaskOptions, Malformed> {
    match bytes.strip_prefix(ARRAY_OF_20) {
        Some(rest) => decode(&[ARRAY_OF_21, rest, NIL].concat()),
        None => decode(bytes),
    }
}

/// Parts of msgpack.
const ARRAY_OF_20: &[u8] = &[0xdc, 0, 20];
const ARRAY_OF_21: &[u8] = &[0xdc, 0, 21];
const NIL: &[u8] = &[0xc0];

/// A row from bytes.
pub(super) fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Malformed> {
    msgpack::from_bytes(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_of_before_the_time_request_are_read() {
        let options = TaskOptions { priority: 7, stay: true, ..TaskOptions::default() };
        let now = encode(&options);
        assert_eq!(decode_options(&now).unwrap(), options);
        let fields = now.strip_prefix(ARRAY_OF_21).unwrap().strip_suffix(NIL).unwrap();
        assert_eq!(decode_options(&[ARRAY_OF_20, fields].concat()).unwrap(), options);
        let timed = TaskOptions { time_request_ms: Some(60_000), ..options };
        assert_eq!(decode_options(&encode(&timed)).unwrap(), timed);
    }
}
