//! The frames between the engine and its interpreter; `furlong_worker/channel.py` is the other side
//! and describes them.

use std::sync::Arc;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use furlong_wire::call::{Call, Codec, PickledCall};
use furlong_wire::ids::FunctionHash;
use furlong_wire::limits::{PAYLOAD_BUFFERS_MAX, PAYLOAD_BYTES_MAX};

use super::known::Unknown;
use crate::job::{DataFile, Input};
use crate::runtime::{Job, JobTimes, OutputStream, Published, SlotJob};

/// A request with a body of more than this is sent alone, with its buffers aligned and not copied.
pub(super) const SMALL_BODY_BYTES_MAX: usize = 64 * 1024;

/// Control messages to the interpreter.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Control {
    /// The attempt is to end; an interrupt follows.
    Cancel(SlotJob),
    /// The attempt's code is to see an interrupt; one follows.
    Interrupt(SlotJob),
    /// All output of the job whose reply said `drain` has been read.
    Drained,
    /// A question: which attempt runs? The answer repeats the number. An interrupt follows.
    Ask(u64),
    /// The engine's id, for the namespace.
    EngineId(u32),
    /// The attempt is wanted back, if it has not begun; an interrupt follows.
    Recall(SlotJob),
    /// The session of the jobs that follow, by a number that stands for it.
    Session(u64),
    /// The interpreter is to end gracefully; an interrupt follows if code runs.
    End,
    /// The key of the input that follows, which is to be kept for later jobs.
    Key(u64),
    /// The next input of the job that follows is the one that has come with this key.
    Known(u64),
    /// The input of this key is needed no more.
    Forget(u64),
}

impl Control {
    /// Appends the frame.
    pub(super) fn encode(self, out: &mut BytesMut) {
        let (kind, number) = match self {
            Control::Cancel(attempt) => (11, attempt.0),
            Control::Drained => (12, 0),
            Control::Ask(question) => (13, question),
            Control::EngineId(id) => (14, u64::from(id)),
            Control::Interrupt(attempt) => (15, attempt.0),
            Control::Recall(attempt) => (16, attempt.0),
            Control::Session(session) => (17, session),
            Control::End => (18, 0),
            Control::Key(key) => (19, key),
            Control::Known(key) => (20, key),
            Control::Forget(key) => (21, key),
        };
        put_request_header(out, 0, number, kind, 0, 0, 0);
    }
}

/// A job as a frame, not yet encoded.
#[derive(Debug)]
pub(super) struct Request {
    attempt: SlotJob,
    kind: u8,
    codec: u8,
    buffers: Vec<Bytes>,
    /// Where the data lie in the file that was passed, if one was.
    places: Option<Vec<(u64, u64)>>,
    body_bytes: usize,
}

impl Request {
    /// Lays a job out, with what must be said of its function. `is_passed` says that the file with
    /// its data was passed.
    pub(super) fn new(job: Job, unknown: Unknown, is_passed: bool) -> Self {
        let codec = codec_code(job.header.codec);
        let (kind, mut buffers) = match Arc::try_unwrap(job.header) {
            Ok(header) => frames(header.call, unknown),
            // A short header is kept for the next call, so most are shared: of the common calls
            // only what is sent is copied.
            Err(shared) => match &shared.call {
                Call::Named { function } => (2, vec![Bytes::copy_from_slice(function.as_bytes())]),
                Call::Pickled(PickledCall { hash, .. }) => pickled(hash.as_ref(), unknown),
                other => frames(other.clone(), unknown),
            },
        };
        let places = job.file.filter(|_| is_passed).map(|file| file.places);
        if places.is_none() {
            buffers.extend(job.data);
        }
        Self::laid_out(job.attempt, kind, codec, buffers, places)
    }

    /// Lays out an input of an attempt. `is_passed` says that the file with its data was passed.
    pub(super) fn of_input(attempt: SlotJob, input: Input, is_passed: bool) -> Self {
        let codec = input.header.codec().map_or(NO_VALUE, codec_code);
        let places = input.file.filter(|_| is_passed).map(|file| file.places);
        let buffers = if places.is_none() { input.data } else { Vec::new() };
        Self::laid_out(attempt, INPUT, codec, buffers, places)
    }

    fn laid_out(
        attempt: SlotJob,
        kind: u8,
        codec: u8,
        buffers: Vec<Bytes>,
        places: Option<Vec<(u64, u64)>>,
    ) -> Self {
        let body_bytes = 8 * buffers.len()
            + buffers.iter().map(Bytes::len).sum::<usize>()
            + PLACE_BYTES * places.as_ref().map_or(0, Vec::len);
        Self { attempt, kind, codec, buffers, places, body_bytes }
    }

    /// Returns true if the data of a job may be passed in their file: what is left fits a small
    /// request.
    pub(super) fn may_pass(job: &Job, unknown_bytes: usize) -> bool {
        may_place(job.file.as_deref(), unknown_bytes)
            // Its call has names or sources of its own, which may be long.
            && matches!(job.header.call, Call::Pickled(_) | Call::Named { .. } | Call::Push)
    }

    /// Bytes of the body that a job's request can have, `unknown_bytes` of them for its function.
    pub(super) fn bytes_at_most(job: &Job, unknown_bytes: usize) -> usize {
        let call = match &job.header.call {
            Call::Execute { source } => source.len(),
            Call::Named { function } => function.len(),
            Call::Source { file, function, .. } => 32 + file.len() + function.len(),
            Call::Pickled(_) => 32,
            Call::Run { file, source } => file.len() + source.len(),
            Call::Pull { names } => names.iter().map(|name| 8 + name.len()).sum(),
            Call::Push | Call::Keys | Call::Clear | Call::Command(_) => 0,
        };
        unknown_bytes
            + call
            + 8 * (4 + job.data.len())
            + job.data.iter().map(Bytes::len).sum::<usize>()
    }

    /// Bytes of the body, which count against what is sent ahead.
    pub(super) fn body_bytes(&self) -> usize {
        self.body_bytes
    }

    /// Returns true if its body is sent in pieces, as they are.
    pub(super) fn is_large(&self) -> bool {
        self.body_bytes > SMALL_BODY_BYTES_MAX
    }

    /// Returns true if it must be sent alone.
    pub(super) fn is_alone(&self) -> bool {
        self.places.is_some() || self.is_large()
    }

    /// Appends a small request.
    pub(super) fn encode_small(&self, out: &mut BytesMut) {
        out.reserve(REQUEST_HEADER_BYTES + self.body_bytes);
        let flags = if self.places.is_some() { FILE } else { 0 };
        self.put_head(out, self.body_bytes, flags);
        for buffer in &self.buffers {
            out.put_slice(buffer);
        }
        for (at, size) in self.places.iter().flatten() {
            out.put_u64_le(*at);
            out.put_u64_le(*size);
        }
    }

    /// The pieces of a large request, the buffers among them as they are.
    pub(super) fn into_pieces(self) -> Vec<Bytes> {
        const ZEROS: [u8; ALIGNMENT] = [0; ALIGNMENT];
        let sizes_bytes = 8 * self.buffers.len();
        let length = self
            .buffers
            .iter()
            .fold(sizes_bytes, |at, buffer| at.next_multiple_of(ALIGNMENT) + buffer.len());
        let mut head = BytesMut::with_capacity(REQUEST_HEADER_BYTES + sizes_bytes);
        self.put_head(&mut head, length, LARGE);
        let mut pieces = vec![head.freeze()];
        let mut at = sizes_bytes;
        for buffer in self.buffers {
            let begin = at.next_multiple_of(ALIGNMENT);
            pieces.push(Bytes::from_static(&ZEROS).slice(..begin - at));
            at = begin + buffer.len();
            pieces.push(buffer);
        }
        pieces.retain(|piece| !piece.is_empty());
        pieces
    }

    fn put_head(&self, out: &mut BytesMut, length: usize, flags: u8) {
        put_request_header(
            out,
            length,
            self.attempt.0,
            self.kind,
            self.codec,
            flags,
            self.buffers.len() as u32,
        );
        for buffer in &self.buffers {
            out.put_u64_le(buffer.len() as u64);
        }
    }
}

/// Returns true if the places in a file fit a small request beside so many bytes.
pub(super) fn may_place(file: Option<&DataFile>, other_bytes: usize) -> bool {
    let places = file.map(|file| PLACE_BYTES * file.places.len());
    places.is_some_and(|bytes| bytes + other_bytes < SMALL_BODY_BYTES_MAX / 2)
}

fn codec_code(codec: Codec) -> u8 {
    match codec {
        Codec::Json => 1,
        Codec::Pickle => 2,
        Codec::Msgpack => 3,
        Codec::Raw => 4,
    }
}

/// The kind of a call's request, and its buffers before the data.
fn frames(call: Call, unknown: Unknown) -> (u8, Vec<Bytes>) {
    match call {
        Call::Execute { source } => (1, vec![Bytes::from(source)]),
        Call::Named { function } => (2, vec![Bytes::from(function)]),
        Call::Source { file, hash, function, .. } => {
            let source = unknown.function.unwrap_or_default();
            (
                3,
                vec![
                    Bytes::copy_from_slice(&hash.0),
                    Bytes::from(file),
                    source,
                    Bytes::from(function),
                ],
            )
        }
        Call::Run { file, source } => {
            (4, vec![Bytes::from(file), Bytes::from(source.into_bytes())])
        }
        Call::Push => (5, Vec::new()),
        Call::Pull { names } => (6, names.into_iter().map(Bytes::from).collect()),
        Call::Keys => (7, Vec::new()),
        Call::Clear => (8, Vec::new()),
        Call::Pickled(PickledCall { hash, .. }) => pickled(hash.as_ref(), unknown),
        Call::Command(_) => unreachable!("it is refused before: nothing is known of its function"),
    }
}

fn pickled(hash: Option<&FunctionHash>, unknown: Unknown) -> (u8, Vec<Bytes>) {
    let hash = hash.map_or_else(Bytes::new, |hash| Bytes::copy_from_slice(&hash.0));
    match unknown.function {
        None => (9, vec![hash]),
        Some(function) => (10, vec![hash, function, unknown.support]),
    }
}

pub(super) fn put_request_header(
    out: &mut BytesMut,
    length: usize,
    number: u64,
    kind: u8,
    codec: u8,
    flags: u8,
    buffers: u32,
) {
    out.put_u64_le(length as u64);
    out.put_u64_le(number);
    out.put_slice(&[kind, codec, flags, 0]);
    out.put_u32_le(buffers);
}

/// The reason why a job cannot be asked of an interpreter.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub(super) enum CannotAsk {
    /// A call by source came without the source, and the interpreter has none of this hash.
    #[error(
        "the call names a source by its hash, but neither the call nor a definition brought the source"
    )]
    SourceMissing,
    /// The same of a call of a pickled function.
    #[error(
        "the call names a function by its hash, but neither the call nor a definition brought the function"
    )]
    FunctionMissing,
    /// The call is for another runtime.
    #[error(
        "the call is a command, but its task was submitted for Python; submit it for the runtime `command`"
    )]
    Command,
}

/// A frame from the interpreter.
#[derive(Debug)]
pub(super) enum Incoming {
    /// It takes jobs. Its clock was at 0 at that time: nanoseconds since 1970.
    Ready { clock_zero_ns: u64 },
    /// A job has ended.
    Ended(EndFrame),
    /// The answer to [`Control::Ask`].
    Running {
        /// The question's number.
        question: u64,
        /// The attempt whose code runs, if any does.
        attempt: Option<SlotJob>,
    },
    /// A job that was asked for with [`Control::Recall`]: it has not begun, and will not.
    Recalled(SlotJob),
    /// The answer to a look: its number, and which attempt runs.
    Seen {
        /// The look's number.
        number: u64,
        /// The attempt whose code runs, if any does.
        attempt: Option<SlotJob>,
        /// What was seen.
        json: Bytes,
    },
    /// Output of a thread whose job has ended.
    Stray(OutputStream, Bytes),
    /// Data that a job has published.
    Published {
        /// The attempt.
        attempt: SlotJob,
        /// The details.
        published: Published,
    },
}

/// A job's end.
#[derive(Debug)]
pub(super) struct EndFrame {
    pub(super) attempt: SlotJob,
    pub(super) end: EndKind,
    /// True if output of this job is unread, and the interpreter waits until it has been read.
    pub(super) drain: bool,
    /// When it began, by the clock of the interpreter, and the other parts of its time.
    pub(super) begun_ns: u64,
    pub(super) times: JobTimes,
    pub(super) fingerprint: Option<u32>,
    /// The count of executions, if it was one.
    pub(super) count: u64,
    pub(super) buffers: Vec<Bytes>,
    /// The sizes of the buffers, if they are in a memory file that was passed.
    pub(super) in_file: Option<Vec<u64>>,
}

/// The outcome of a job.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum EndKind {
    Returned,
    /// The same, and what it displayed is the first buffer.
    Displayed,
    Executed,
    Raised,
    Cancelled,
}

/// Bytes from the interpreter, and the frames in them.
#[derive(Debug, Default)]
pub(super) struct Inbox {
    buffer: BytesMut,
}

impl Inbox {
    /// Frames that did not come over the socket.
    pub(super) fn of(bytes: &[u8]) -> Self {
        Self { buffer: BytesMut::from(bytes) }
    }

    /// Returns the buffer to read into: at least 64 KiB, and of a begun frame's rest as much as its
    /// beginning is worth.
    ///
    /// Code can write to the socket what it likes: 56 bytes may declare 16 GiB. So what has come
    /// decides, not what is declared, and where the system has no memory for a frame, that is this
    /// interpreter's end and not the engine's.
    pub(super) fn room(&mut self) -> Result<&mut BytesMut, NoRoom> {
        let missing = self.begun_frame_bytes().unwrap_or(0).saturating_sub(self.buffer.len());
        let free = self.buffer.capacity() - self.buffer.len();
        if missing <= READ_BYTES {
            self.buffer.reserve(READ_BYTES);
        } else if free < missing && free < READ_BYTES {
            self.grow(missing.min((GROWTH * self.buffer.len()).max(FIRST_GROWTH_BYTES)))?;
        }
        Ok(&mut self.buffer)
    }

    pub(super) fn grow(&mut self, more: usize) -> Result<(), NoRoom> {
        let mut grown = Vec::new();
        grown.try_reserve_exact(self.buffer.len() + more).map_err(|_| NoRoom)?;
        grown.extend_from_slice(&self.buffer);
        self.buffer = BytesMut::from(Bytes::from(grown));
        Ok(())
    }

    /// Takes the next complete frame out.
    pub(super) fn poll_frame(&mut self) -> Result<Option<Incoming>, ProtocolBroken> {
        let Some(header) = self.header() else { return Ok(None) };
        let sizes_bytes = 8 * u64::from(header.buffers);
        if header.length > PAYLOAD_BYTES_MAX
            || sizes_bytes > header.length
            || header.buffers as usize > PAYLOAD_BUFFERS_MAX
        {
            return Err(ProtocolBroken);
        }
        let frame_bytes = REPLY_HEADER_BYTES + header.length as usize;
        if header.flags & IN_FILE != 0 && header.length != sizes_bytes {
            return Err(ProtocolBroken);
        }
        if self.buffer.len() < frame_bytes {
            return Ok(None);
        }
        let mut sizes = [0_u64; 4];
        let mut sizes_many = Vec::new();
        let sizes = if header.buffers <= 4 {
            &mut sizes[..header.buffers as usize]
        } else {
            sizes_many.resize(header.buffers as usize, 0);
            &mut sizes_many[..]
        };
        let mut at = &self.buffer[REPLY_HEADER_BYTES..];
        for size in sizes.iter_mut() {
            *size = at.get_u64_le();
        }
        if header.flags & IN_FILE != 0 {
            let sizes = sizes.to_vec();
            self.buffer.advance(frame_bytes);
            return header.into_incoming(Vec::new(), Some(sizes)).map(Some);
        }
        let total = sizes.iter().try_fold(sizes_bytes, |sum, size| sum.checked_add(*size));
        if total != Some(header.length) {
            return Err(ProtocolBroken);
        }
        let buffers = self.split_buffers(frame_bytes, sizes_bytes as usize, sizes);
        header.into_incoming(buffers, None).map(Some)
    }

    /// Small buffers are copied, so that they do not keep a whole read alive; large frames are
    /// shared.
    fn split_buffers(
        &mut self,
        frame_bytes: usize,
        sizes_bytes: usize,
        sizes: &[u64],
    ) -> Vec<Bytes> {
        let skip = REPLY_HEADER_BYTES + sizes_bytes;
        if frame_bytes < COPY_BYTES_MAX {
            let mut at = skip;
            let take = |size: &u64| {
                let begin = at;
                at += *size as usize;
                Bytes::copy_from_slice(&self.buffer[begin..at])
            };
            let buffers = sizes.iter().map(take).collect();
            self.buffer.advance(frame_bytes);
            return buffers;
        }
        let mut frame = self.buffer.split_to(frame_bytes).freeze();
        frame.advance(skip);
        sizes.iter().map(|size| frame.split_to(*size as usize)).collect()
    }

    fn begun_frame_bytes(&self) -> Option<usize> {
        self.header()
            .map(|header| REPLY_HEADER_BYTES + header.length.min(PAYLOAD_BYTES_MAX) as usize)
    }

    fn header(&self) -> Option<ReplyFrame> {
        let mut at = self.buffer.get(..REPLY_HEADER_BYTES)?;
        Some(ReplyFrame {
            length: at.get_u64_le(),
            attempt: SlotJob(at.get_u64_le()),
            begun_ns: at.get_u64_le(),
            run_us: at.get_u64_le(),
            count: at.get_u64_le(),
            load_us: at.get_u32_le(),
            last: at.get_u32_le(),
            buffers: at.get_u32_le(),
            kind: at.get_u8(),
            flags: at.get_u8(),
        })
    }
}

struct ReplyFrame {
    length: u64,
    attempt: SlotJob,
    begun_ns: u64,
    run_us: u64,
    count: u64,
    load_us: u32,
    /// Of what raised its fingerprint, else the time for which its value was encoded.
    last: u32,
    buffers: u32,
    kind: u8,
    flags: u8,
}

impl ReplyFrame {
    fn into_incoming(
        self,
        buffers: Vec<Bytes>,
        in_file: Option<Vec<u64>>,
    ) -> Result<Incoming, ProtocolBroken> {
        if in_file.is_some() && self.kind != 2 {
            return Err(ProtocolBroken);
        }
        let end = match self.kind {
            1 => return Ok(Incoming::Ready { clock_zero_ns: self.begun_ns }),
            2 => EndKind::Returned,
            10 => EndKind::Displayed,
            3 => EndKind::Executed,
            4 => EndKind::Raised,
            5 => EndKind::Cancelled,
            6 => {
                let attempt = (self.attempt.0 != u64::MAX).then_some(self.attempt);
                return Ok(Incoming::Running { question: self.count, attempt });
            }
            7 => {
                let stream =
                    if self.count == 1 { OutputStream::Stdout } else { OutputStream::Stderr };
                return Ok(Incoming::Stray(stream, buffers.into_iter().next().unwrap_or_default()));
            }
            9 => return Ok(Incoming::Recalled(self.attempt)),
            11 => {
                let attempt = (self.attempt.0 != u64::MAX).then_some(self.attempt);
                let json = buffers.into_iter().next().unwrap_or_default();
                return Ok(Incoming::Seen { number: self.count, attempt, json });
            }
            8 => {
                let codec = if self.count == 1 { Codec::Json } else { Codec::Pickle };
                return Ok(Incoming::Published {
                    attempt: self.attempt,
                    published: Published { codec, buffers },
                });
            }
            _ => return Err(ProtocolBroken),
        };
        let Self { attempt, begun_ns, run_us, count, load_us, last, .. } = self;
        let raised = end == EndKind::Raised;
        let times = JobTimes {
            begun_at_us: None,
            load_us: u64::from(load_us),
            run_us,
            store_us: if raised { 0 } else { u64::from(last) },
        };
        Ok(Incoming::Ended(EndFrame {
            attempt,
            end,
            begun_ns,
            drain: self.flags & 1 != 0,
            times,
            fingerprint: raised.then_some(last),
            count,
            buffers,
            in_file,
        }))
    }
}

/// A violation of our protocol by the interpreter: user code has written to the worker's socket.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("the interpreter's socket carried bytes that its worker did not send")]
pub(super) struct ProtocolBroken;

/// The system has no memory for what the interpreter sends.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("there was no memory in the engine for what the interpreter has sent")]
pub(super) struct NoRoom;

/// The kind of a request that is an input of the job that follows; its codec if it has no value.
const INPUT: u8 = 22;
const NO_VALUE: u8 = 0;
/// Flags of a request: its buffers are aligned, and are received apart; its data are in a file.
const LARGE: u8 = 1;
const FILE: u8 = 2;
/// A flag of a reply: its buffers are in a file.
const IN_FILE: u8 = 2;
/// The place of a buffer in a file: offset and size.
const PLACE_BYTES: usize = 16;
const REQUEST_HEADER_BYTES: usize = 24;
const REPLY_HEADER_BYTES: usize = 56;
const ALIGNMENT: usize = 64;
const READ_BYTES: usize = 64 * 1024;
/// Room for a large frame at first, and then as many times what has come of it: a frame is copied a
/// third of itself.
const FIRST_GROWTH_BYTES: usize = 1024 * 1024;
const GROWTH: usize = 3;
const COPY_BYTES_MAX: usize = 4 * 1024;

const _: () = assert!(ALIGNMENT == furlong_wire::limits::BUFFER_ALIGNMENT);
