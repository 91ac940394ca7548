//! What has been run and goes to the broker: output, ends, results. It waits here for a connection and for credit.

use furlong_wire::call::{ReplyHeader, encode_reply};
use furlong_wire::ids::SessionId;
use furlong_wire::message::{
    AttemptFinished, AttemptOutput, ErrorKind, FromEngine, HeldWork, Outcome, Payload, Stream, TaskState,
};
use furlong_wire::payload::{Packed, SealedPayload};

use super::{Core, Output, Work, error};
use crate::runtime::{JobOutcome, OutputStream, Reply, SlotIndex};

/// A result that travels in chunks.
#[derive(Debug)]
pub(super) struct LargeResult {
    finished: AttemptFinished,
    payload: SealedPayload,
    session: SessionId,
    n: u64,
    slot: SlotIndex,
}

/// Attempts that a registration names: more do not fit a record. What it leaves out, the broker gives to others.
const HELD_MAX: usize = 8_000;
/// Output messages that wait for a connection; what comes beyond is lost, and the gap is said.
pub(super) const UNSENT_OUTPUT_MAX: usize = 4096;

impl Core {
    /// The attempts that the process holds: what its registration says.
    pub fn held(&self) -> Vec<HeldWork> {
        let running = self.work.values().map(|work| HeldWork {
            attempt: work.attempt,
            session: work.session,
            n: work.n,
            slot: work.slot,
            finished: false,
        });
        let large = self.large.iter().map(|large| HeldWork {
            attempt: large.finished.attempt,
            session: large.session,
            n: large.n,
            slot: large.slot,
            finished: true,
        });
        let ended = self.unsent.iter().filter_map(|message| match message {
            FromEngine::Finished(finished) => Some(finished.attempt),
            _ => None,
        });
        let (session, n, slot) = (SessionId::default(), 0, 0);
        let ended = ended.map(|attempt| HeldWork { attempt, session, n, slot, finished: true });
        running.chain(large).chain(ended).take(HELD_MAX).collect()
    }

    pub(super) fn output(&mut self, job: u64, stream: OutputStream, bytes: &[u8]) {
        let Some(work) = self.work.get_mut(&job) else { return };
        let attempt = work.attempt;
        let (kept, stream) = match stream {
            OutputStream::Stdout => (&mut work.stdout, Stream::Stdout),
            OutputStream::Stderr => (&mut work.stderr, Stream::Stderr),
        };
        let pieces = kept.handle_output(bytes);
        for (offset, bytes) in pieces {
            self.send(FromEngine::Output(AttemptOutput { attempt, stream, offset, bytes }));
        }
    }

    pub(super) fn finished(&mut self, slot: SlotIndex, job: u64, reply: Reply) {
        let Some(mut work) = self.forget(job) else { return };
        for (kept, stream) in [(&mut work.stdout, Stream::Stdout), (&mut work.stderr, Stream::Stderr)] {
            for (offset, bytes) in kept.take_end() {
                self.send(FromEngine::Output(AttemptOutput { attempt: work.attempt, stream, offset, bytes }));
            }
        }
        let Reply { outcome, header, data, run_us } = reply;
        let outcome = match outcome {
            JobOutcome::Succeeded => Outcome::SUCCEEDED,
            JobOutcome::Failed => Outcome::error(TaskState::Failed, ErrorKind::Remote, ""),
            JobOutcome::Exited(text) => Outcome::error(TaskState::Failed, ErrorKind::Exit, text),
            JobOutcome::Cancelled => {
                Outcome::error(TaskState::Cancelled, ErrorKind::Cancelled, "cancelled while it ran")
            }
            JobOutcome::Lost(cause) => Outcome::error(TaskState::Lost, ErrorKind::EngineLost, cause),
        };
        let with_payload = matches!(outcome.state, TaskState::Succeeded | TaskState::Failed);
        let mut finished = AttemptFinished { attempt: work.attempt, outcome, run_us, payload: None };
        if with_payload {
            let mut buffers = Vec::with_capacity(1 + data.len());
            buffers.push(encode_reply(&header));
            buffers.extend(data);
            match self.sessions.pack(work.session, buffers) {
                Ok(Packed::Inline(inline)) => {
                    finished.payload = Some(Payload::Inline(inline));
                    self.send(FromEngine::Finished(finished));
                }
                Ok(Packed::Chunked(sealed)) if sealed.bytes() > self.result_bytes_max => {
                    finished.outcome = too_large(sealed.bytes(), self.result_bytes_max);
                    self.send(FromEngine::Finished(finished));
                }
                Ok(Packed::Chunked(sealed)) => {
                    let Work { session, n, .. } = work;
                    self.large.push_back(LargeResult { finished, payload: sealed, session, n, slot });
                    self.send_unsent();
                }
                Err(text) => {
                    finished.outcome = Outcome::error(TaskState::Failed, ErrorKind::Payload, text);
                    self.send(FromEngine::Finished(finished));
                }
            }
        } else {
            self.send(FromEngine::Finished(finished));
        }
        self.advance(slot);
    }

    /// Sends a message, or keeps it until there is a connection.
    pub(super) fn send(&mut self, message: FromEngine) {
        if self.connected {
            return self.outputs.push_back(Output::Send(message));
        }
        if !matches!(message, FromEngine::Output(_)) || self.unsent.len() < UNSENT_OUTPUT_MAX {
            self.unsent.push_back(message);
        }
    }

    /// Sends what waited for a connection, then the large results in their order, as far as the credit goes.
    pub(super) fn send_unsent(&mut self) {
        if !self.connected {
            return;
        }
        self.outputs.extend(self.unsent.drain(..).map(Output::Send));
        while let Some(large) = self.large.front() {
            if self.announced.saturating_add(large.payload.bytes()) > self.credit {
                return;
            }
            let Some(LargeResult { finished, payload, .. }) = self.large.pop_front() else { return };
            self.send_large(finished, payload);
        }
    }

    fn send_large(&mut self, mut finished: AttemptFinished, sealed: SealedPayload) {
        self.announced += sealed.bytes();
        self.next_transfer += 1;
        let transfer = self.next_transfer;
        let (counter, bytes, instance) = (sealed.counter(), sealed.bytes(), Some(self.sessions.instance()));
        finished.payload = Some(Payload::Chunked { transfer, counter, bytes, instance });
        self.outputs.push_back(Output::Send(FromEngine::Finished(finished)));
        self.outputs.push_back(Output::Transfer(transfer, sealed));
    }
}

fn too_large(bytes: u64, bytes_max: u64) -> Outcome {
    let text = format!(
        "its result has {bytes} bytes, over the {bytes_max} that the broker takes from one engine; start it with more \
         `--memory`, or return it in parts"
    );
    Outcome::error(TaskState::Failed, ErrorKind::Payload, text)
}

/// The end of a job whose arguments cannot be read.
pub(super) fn unreadable(text: &str) -> Reply {
    let header = ReplyHeader::Raised(error("PayloadError", text));
    Reply { outcome: JobOutcome::Failed, header, data: Vec::new(), run_us: 0 }
}
