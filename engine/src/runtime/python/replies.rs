//! The replies of the worker, as replies of jobs.

use std::collections::BTreeMap;

use furlong_wire::call::{Codec, Display, RemoteError, ReplyHeader};

use super::protocol::{End, Ended};
use super::slot::cancelled_reply;
use crate::runtime::ending::bound;
use crate::runtime::{JobOutcome, Reply};

/// A job's end, as the engine knows it. The codec is that of its call. An error for want of memory
/// says what the interpreter may take of it.
pub(super) fn reply(ended: Ended, codec: Codec, memory_bytes: Option<u64>) -> Reply {
    let Ended { end, run_us, count, buffers, .. } = ended;
    let text = |at: usize| {
        buffers.get(at).map(|text| String::from_utf8_lossy(text).into_owned()).unwrap_or_default()
    };
    let raised = || {
        let execution = (count > 0).then_some(count);
        let (type_name, mut message) = (text(0), text(1));
        if let Some(bytes) = memory_bytes.filter(|_| type_name.ends_with("MemoryError")) {
            let separator = if message.is_empty() { "" } else { "; " };
            message = format!("{message}{separator}{}", bound(bytes));
        }
        ReplyHeader::Raised(RemoteError { type_name, message, traceback: text(2), execution })
    };
    match end {
        End::Returned => {
            let header = ReplyHeader::Returned { codec };
            Reply { outcome: JobOutcome::Succeeded, header, data: buffers, run_us }
        }
        End::Displayed => {
            let mut data = buffers.into_iter();
            let displays = displays(&data.next().unwrap_or_default());
            let header = ReplyHeader::Displayed { codec, displays };
            Reply { outcome: JobOutcome::Succeeded, header, data: data.collect(), run_us }
        }
        End::Executed => {
            let displays = buffers.get(1).map(|json| displays(json)).unwrap_or_default();
            // With displays, an empty text stands for none.
            let is_none = buffers.is_empty() || buffers.len() > 1 && buffers[0].is_empty();
            let header =
                ReplyHeader::Executed { count, repr: (!is_none).then(|| text(0)), displays };
            Reply { outcome: JobOutcome::Succeeded, header, data: Vec::new(), run_us }
        }
        // Behind the texts: what else there is to say of the exception, for the client.
        End::Raised => {
            let header = raised();
            Reply {
                outcome: JobOutcome::Failed,
                header,
                data: buffers.into_iter().skip(3).collect(),
                run_us,
            }
        }
        End::Cancelled if buffers.is_empty() => cancelled_reply("cancelled before it began"),
        End::Cancelled => {
            Reply { outcome: JobOutcome::Cancelled, header: raised(), data: Vec::new(), run_us }
        }
    }
}

/// Reads a job's displays: a JSON array of whether it is the value, the texts by their type, and
/// what is said of it.
fn displays(json: &[u8]) -> Vec<Display> {
    type Texts = BTreeMap<String, String>;
    let displays: Vec<(bool, Texts, Texts)> = serde_json::from_slice(json).unwrap_or_default();
    displays
        .into_iter()
        .map(|(is_value, data, metadata)| Display { data, is_value, metadata })
        .collect()
}
