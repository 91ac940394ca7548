//! Work that has been run, on its way to the broker: output, ends, results.

use bytes::Bytes;
use furlong_link::file::PayloadFile;
use furlong_link::peer::outbox::Chunks;
use furlong_wire::call::ReplyHeader;
use furlong_wire::ids::SessionId;
use furlong_wire::limits::{BUFFER_ALIGNMENT, INLINE_PAYLOAD_BYTES_MAX, PUBLISHED_BYTES_MAX};
use furlong_wire::message::{
    AttemptOutput, AttemptPublished, ErrorKind, FromEngine, Outcome, Payload, Raised, Stream,
    TaskError, TaskState,
};
use furlong_wire::payload::{Packed, SealedPayload};

use super::held::{HeldEnd, ended};
use super::output::Kept;
use super::{Core, Output, Work};
use crate::job::error;
use crate::job::{
    AttemptEnd, AttemptOutcome, JobTimes, OutputStream, Published, SlotIndex, SlotJob, Unable,
};

/// Returns what the broker, which sees no results, may know of a failure: why a command could not
/// run, and why nothing could. What the user's own code says stays between its engine and its
/// client.
fn for_the_record(header: &ReplyHeader) -> &str {
    match header {
        ReplyHeader::Raised(error)
            if ["CommandError", "EngineError"].contains(&error.type_name.as_str()) =>
        {
            &error.message
        }
        _ => "",
    }
}

/// The fingerprint of errors whose line is not known: FNV-1a of their type.
fn fingerprint_of(type_name: &str) -> u32 {
    let step = |hash: u32, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193);
    type_name.bytes().fold(0x811c_9dc5, step)
}

/// Bytes of the reason why a job has not begun, which must fit its message.
const NOT_BEGUN_TEXT_BYTES_MAX: usize = 700;

/// Output messages that wait for a connection; what comes beyond is lost, and the gap is said.
pub(super) const UNSENT_OUTPUT_MAX: usize = 4096;

impl Core {
    pub(super) fn output(&mut self, job: SlotJob, stream: OutputStream, bytes: &[u8]) {
        // It has ended, or was given back: what it still writes is no task's output.
        let Some(work) = self.work.get_mut(&job) else { return };
        let attempt = work.attempt;
        let whole = work.has_whole_output;
        let [stdout, stderr] = &mut **work.output.get_or_insert_with(|| {
            Box::new(std::array::from_fn(|_| if whole { Kept::whole() } else { Kept::default() }))
        });
        let (kept, stream) = match stream {
            OutputStream::Stdout => (stdout, Stream::Stdout),
            OutputStream::Stderr => (stderr, Stream::Stderr),
        };
        let pieces = kept.handle_output(bytes);
        for (offset, bytes) in pieces {
            self.send(FromEngine::Output(AttemptOutput { attempt, stream, offset, bytes }));
        }
    }

    pub(super) fn finished(&mut self, slot: SlotIndex, job: SlotJob, reply: AttemptEnd) {
        let Some(mut work) = self.forget(job) else { return };
        let (mut wholes, mut written) = (Vec::new(), [0; 2]);
        for (kept, stream) in work
            .output
            .iter_mut()
            .flat_map(|kept| kept.iter_mut().zip([Stream::Stdout, Stream::Stderr]))
        {
            // Before the end itself, as all output of a task.
            for (offset, bytes) in kept.take_end() {
                self.send(FromEngine::Output(AttemptOutput {
                    attempt: work.attempt,
                    stream,
                    offset,
                    bytes,
                }));
            }
            wholes.push(kept.take_whole());
            written[usize::from(stream == Stream::Stderr)] = kept.total();
        }
        let AttemptEnd { outcome, mut header, mut data, file, times, fingerprint, .. } = reply;
        if let ReplyHeader::Exited { written: of_all, .. } = &mut header {
            *of_all = work.has_whole_output.then(|| written.into());
        }
        if self.has_room_for(&wholes) && matches!(header, ReplyHeader::Exited { .. }) {
            data = wholes;
        }
        if let AttemptOutcome::NotBegun(unable) = outcome {
            self.send_not_begun(&work, unable, &header);
            return self.advance(slot);
        }
        let outcome = match outcome {
            AttemptOutcome::Succeeded => Outcome::SUCCEEDED,
            AttemptOutcome::Failed => self.failed(work.session, &header, fingerprint),
            AttemptOutcome::Exited(text) => {
                Outcome::error(TaskState::Failed, ErrorKind::Exit, text)
            }
            AttemptOutcome::Cancelled => {
                Outcome::error(TaskState::Cancelled, ErrorKind::Cancelled, "cancelled while it ran")
            }
            AttemptOutcome::Lost(cause) => {
                Outcome::error(TaskState::Lost, ErrorKind::EngineLost, cause)
            }
            AttemptOutcome::GivenBack => {
                Outcome::error(TaskState::Lost, ErrorKind::GivenBack, "stopped with its job")
            }
            AttemptOutcome::NotBegun(_) => unreachable!("it was sent above"),
        };
        let with_payload = matches!(outcome.state, TaskState::Succeeded | TaskState::Failed);
        let mut ended = ended(&work, outcome, times);
        ended.written = written;
        if with_payload && let Err(text) = self.pack_result(&mut ended, &header, data, file) {
            let kind = ErrorKind::Payload;
            ended.finished.outcome = Outcome::error(TaskState::Failed, kind, text);
        }
        // Held before the slot goes on: whatever the next job does, this one has ended.
        self.hold(ended);
        self.advance(slot);
    }

    /// The outcome of a job that has failed. Its message stays between its engine and its client;
    /// the type goes to the broker, unless the session hides that.
    fn failed(
        &self,
        session: SessionId,
        header: &ReplyHeader,
        fingerprint: Option<u32>,
    ) -> Outcome {
        let (kind, text) = (ErrorKind::Remote, for_the_record(header).to_owned());
        let raised = match header {
            ReplyHeader::Raised(error) if !self.sessions.hides_names(session) => {
                let of_type = || fingerprint_of(&error.type_name);
                Some(Raised::new(&error.type_name, fingerprint.unwrap_or_else(of_type)))
            }
            _ => None,
        };
        let error = Some(Box::new(TaskError { kind, text, raised }));
        Outcome { state: TaskState::Failed, error }
    }

    /// Prepares a result for the wire. As an error, why it cannot be sent.
    fn pack_result(
        &mut self,
        ended: &mut HeldEnd,
        header: &ReplyHeader,
        data: Vec<Bytes>,
        file: Option<PayloadFile>,
    ) -> Result<(), String> {
        if let Some(file) = file {
            let filed = self.sessions.seal_file(ended.session, file)?;
            ended.payload = Some(Box::new(Chunks::Filed(Box::new(filed))));
            return Ok(());
        }
        match self.sessions.pack(ended.session, header, data)? {
            Packed::Inline(inline) => ended.finished.payload = Some(Payload::Inline(inline)),
            Packed::Chunked(sealed) => ended.payload = Some(Box::new(Chunks::from(sealed))),
        }
        Ok(())
    }

    /// Returns true if the broker takes a result with all that a command wrote: otherwise the
    /// result comes without it.
    fn has_room_for(&self, wholes: &[Bytes]) -> bool {
        let bytes: u64 = wholes.iter().map(|whole| whole.len() as u64).sum();
        bytes > 0 && bytes + INLINE_PAYLOAD_BYTES_MAX as u64 <= self.room.result_bytes_max
    }

    /// Says that a job has not begun. As with what is given back, nothing is held of it: that might
    /// be taken for a run by a broker that knows of no other attempt.
    fn send_not_begun(&mut self, work: &Work, unable: Unable, header: &ReplyHeader) {
        let times = JobTimes::default();
        let kind =
            if unable == Unable::Runtime { ErrorKind::NoRuntime } else { ErrorKind::NotBegun };
        let ReplyHeader::Raised(error) = header else {
            unreachable!("what does not begin says why")
        };
        let mut finished =
            ended(work, Outcome::error(TaskState::Failed, kind, error.message.as_str()), times)
                .finished;
        let mut short = error.clone();
        short.message.truncate(error.message.floor_char_boundary(NOT_BEGUN_TEXT_BYTES_MAX));
        if let Ok(Packed::Inline(inline)) =
            self.sessions.pack(work.session, &ReplyHeader::Raised(short), Vec::new())
        {
            finished.payload = Some(Payload::Inline(inline));
        }
        self.results.note_given_back(work.attempt);
        self.send(FromEngine::Finished(finished));
    }

    /// Returns true if what a job has published can go now, or is of no use as the job has ended.
    pub fn may_publish(&self, job: SlotJob, published: &Published) -> bool {
        let Some(work) = self.work.get(&job) else { return true };
        let bytes = bytes_at_most(published);
        let lane = self.sessions.lane(work.session);
        bytes <= INLINE_PAYLOAD_BYTES_MAX as u64
            // It is dropped.
            || bytes > PUBLISHED_BYTES_MAX
            || lane.is_some_and(|lane| lane.may_publish(bytes))
    }

    /// Sends what a running job has published, if it may ([`Core::may_publish`]).
    pub fn publish(&mut self, job: SlotJob, Published { codec, buffers }: Published) {
        // It has ended: nothing may come after its end.
        let Some(work) = self.work.get(&job) else { return };
        let (attempt, session) = (work.attempt, work.session);
        match self.sessions.pack(session, &ReplyHeader::Returned { codec }, buffers) {
            Ok(Packed::Inline(inline)) => {
                let payload = Payload::Inline(inline);
                self.send(FromEngine::Published(AttemptPublished { attempt, payload }));
            }
            Ok(Packed::Chunked(sealed))
                if sealed.bytes() <= PUBLISHED_BYTES_MAX
                    && self.connected
                    && self.sessions.publish(session, sealed.bytes()) =>
            {
                let chunks = Chunks::from(sealed);
                let (transfer, payload) = self.announce(&chunks);
                self.send(FromEngine::Published(AttemptPublished { attempt, payload }));
                self.outputs.push_back(Output::Transfer(transfer, chunks));
            }
            // Too large, or nobody wants it any more.
            Ok(Packed::Chunked(_)) | Err(_) => {}
        }
    }

    /// Sends a message, or keeps it until there is a connection.
    pub(super) fn send(&mut self, message: FromEngine) {
        if self.connected {
            return self.outputs.push_back(Output::Send(message));
        }
        // Results that are held are not among these: the next registration names them.
        if !matches!(message, FromEngine::Output(_)) || self.unsent.len() < UNSENT_OUTPUT_MAX {
            self.unsent.push_back(message);
        }
    }

    /// Sends what waited for a connection.
    pub(super) fn send_unsent(&mut self) {
        if self.connected {
            self.outputs.extend(self.unsent.drain(..).map(Output::Send));
        }
    }

    pub(super) fn announce(&mut self, chunks: &Chunks) -> (u64, Payload) {
        let sealed = chunks.payload().expect("an engine's results are sealed here");
        self.next_transfer += 1;
        (self.next_transfer, self.announcement(sealed, self.next_transfer))
    }

    pub(super) fn announcement(&self, sealed: &SealedPayload, transfer: u64) -> Payload {
        let (counter, bytes, instance) =
            (sealed.counter(), sealed.bytes(), Some(self.sessions.instance()));
        Payload::Chunked { transfer, counter, bytes, instance }
    }
}

/// Bytes of a published value's payload, at most.
fn bytes_at_most(published: &Published) -> u64 {
    let fixed = 64 + BUFFER_ALIGNMENT;
    let buffers = published.buffers.iter().map(|buffer| buffer.len() + 8 + BUFFER_ALIGNMENT);
    (fixed + buffers.sum::<usize>()) as u64
}

pub(super) fn too_large(bytes: u64, bytes_max: u64, memory_flag: &str) -> Outcome {
    let text = format!(
        "its result has {bytes} bytes, over the {bytes_max} that the broker takes at once; start it with more memory \
         ({memory_flag}), or return it in parts"
    );
    Outcome::error(TaskState::Failed, ErrorKind::Payload, text)
}

/// The end of a job whose arguments cannot be read.
pub(crate) fn unreadable(text: &str) -> AttemptEnd {
    let header = ReplyHeader::Raised(error("PayloadError", text));
    AttemptEnd::without_data(AttemptOutcome::Failed, header)
}
