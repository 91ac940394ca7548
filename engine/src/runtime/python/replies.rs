//! The replies of the worker, as replies of jobs.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;

use furlong_link::file::{PayloadFile, write_at};
use furlong_wire::call::{Codec, Display, RemoteError, ReplyHeader, encode_reply};
use furlong_wire::payload::{PayloadSource, Table};

use super::protocol::{EndFrame, EndKind};
use super::slot::cancelled_reply;
use crate::runtime::ending::bound;
use crate::runtime::{AttemptEnd, AttemptOutcome};

/// A job's end, as the engine knows it. The codec is that of its call. An error for want of memory
/// says what the interpreter may take of it.
pub(super) fn reply(ended: EndFrame, codec: Codec, memory_bytes: Option<u64>) -> AttemptEnd {
    let EndFrame { end, times, fingerprint, count, buffers, .. } = ended;
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
        EndKind::Returned => {
            let header = ReplyHeader::Returned { codec };
            AttemptEnd {
                data: buffers,
                times,
                ..AttemptEnd::without_data(AttemptOutcome::Succeeded, header)
            }
        }
        EndKind::Displayed => {
            let mut data = buffers.into_iter();
            let displays = displays(&data.next().unwrap_or_default());
            let header = ReplyHeader::Displayed { codec, displays };
            let data = data.collect();
            AttemptEnd {
                data,
                times,
                ..AttemptEnd::without_data(AttemptOutcome::Succeeded, header)
            }
        }
        EndKind::Executed => {
            let displays = buffers.get(1).map(|json| displays(json)).unwrap_or_default();
            // With displays, an empty text stands for none.
            let is_none = buffers.is_empty() || buffers.len() > 1 && buffers[0].is_empty();
            let header =
                ReplyHeader::Executed { count, repr: (!is_none).then(|| text(0)), displays };
            AttemptEnd { times, ..AttemptEnd::without_data(AttemptOutcome::Succeeded, header) }
        }
        // Behind the texts: what else there is to say of the exception, for the client.
        EndKind::Raised => {
            let header = raised();
            let data = buffers.into_iter().skip(3).collect();
            let reply = AttemptEnd::without_data(AttemptOutcome::Failed, header);
            AttemptEnd { data, times, fingerprint, ..reply }
        }
        EndKind::Cancelled if buffers.is_empty() => cancelled_reply("cancelled before it began"),
        EndKind::Cancelled => {
            AttemptEnd { times, ..AttemptEnd::without_data(AttemptOutcome::Cancelled, raised()) }
        }
    }
}

/// The end of a job whose value is in a memory file, as a whole payload.
pub(super) fn reply_in_file(ended: &EndFrame, codec: Codec, file: PayloadFile) -> AttemptEnd {
    let header = ReplyHeader::Returned { codec };
    let reply = AttemptEnd::without_data(AttemptOutcome::Succeeded, header);
    AttemptEnd { file: Some(file), times: ended.times, ..reply }
}

/// Makes a whole payload of a file in which the worker has laid out a value: writes what comes
/// before that, and seals it. None if it is not what the worker makes.
pub(super) fn finish_file(file: OwnedFd, sizes: &[u64], codec: Codec) -> Option<PayloadFile> {
    let header = encode_reply(&ReplyHeader::Returned { codec });
    let all: Vec<u64> = std::iter::once(header.len() as u64).chain(sizes.iter().copied()).collect();
    let table = Table::of(&all).ok()?;
    write_at(&file, 0, table.bytes()).ok()?;
    write_at(&file, table.places().next()?.start, &header).ok()?;
    let file = PayloadFile::seal(file).ok()?;
    (file.bytes() == table.total()).then_some(file)
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
