//! Output of which it is not yet known whose it is.

use bytes::Bytes;

use crate::runtime::{OutputStream, SlotJob};

/// Output that was read while the interpreter had several jobs, and the questions to the
/// interpreter about it.
///
/// Exact by design: with several jobs sent, the reader never takes a pipe's last byte. So the job
/// that wrote something finds it unread at its end, its reply says so, and no other job begins
/// before the pipe is empty: all that is held then is that job's. To show the output of a long job
/// sooner, the interpreter is asked which attempt runs. Its answer holds for what was held when the
/// question was put, because whoever wrote that cannot have ended since; and, for the same reason,
/// for all that comes until that attempt's end.
#[derive(Debug, Default)]
pub(super) struct HeldOutput {
    pieces: Vec<(OutputStream, Bytes)>,
    bytes: usize,
    owner: Option<SlotJob>,
    questions: u64,
    asked: Option<Asked>,
    /// A question was put since the last reply.
    has_asked: bool,
}

/// A question on its way.
#[derive(Clone, Copy, Debug)]
struct Asked {
    question: u64,
    /// Something was held when it was put, and still is.
    tells_owner: bool,
}

impl HeldOutput {
    /// Holds a piece.
    pub(super) fn push(&mut self, stream: OutputStream, bytes: Bytes) {
        self.bytes += bytes.len();
        self.pieces.push((stream, bytes));
    }

    /// The attempt that all of this belongs to, if that is known.
    pub(super) fn owner(&self) -> Option<SlotJob> {
        self.owner
    }

    /// Returns true if no more should be held.
    pub(super) fn is_too_much(&self) -> bool {
        self.bytes > HELD_BYTES_MAX
    }

    /// Takes everything out.
    pub(super) fn take(&mut self) -> Vec<(OutputStream, Bytes)> {
        self.bytes = 0;
        if let Some(asked) = &mut self.asked {
            asked.tells_owner = false;
        }
        std::mem::take(&mut self.pieces)
    }

    /// A job has ended: whoever writes now is another.
    pub(super) fn handle_end(&mut self) {
        self.owner = None;
        self.has_asked = false;
    }

    /// A question to put now, if one is needed: whose output this is, or, `stalled`, only to get
    /// the replies that wait in the interpreter behind a long job.
    pub(super) fn poll_question(&mut self, stalled: bool) -> Option<u64> {
        let tells_owner = self.owner.is_none() && !self.pieces.is_empty();
        if self.asked.is_some() || !(tells_owner || stalled && !self.has_asked) {
            return None;
        }
        self.questions += 1;
        self.has_asked = true;
        self.asked = Some(Asked { question: self.questions, tells_owner });
        Some(self.questions)
    }

    /// Takes the answer, and gives the owner of what is held if the answer tells it.
    pub(super) fn handle_answer(
        &mut self,
        question: u64,
        running: Option<SlotJob>,
    ) -> Option<SlotJob> {
        let asked = self.asked.take_if(|asked| asked.question == question)?;
        if asked.tells_owner {
            self.owner = running;
        }
        self.owner
    }
}

/// Beyond this the interpreter does not answer, because code holds its lock.
const HELD_BYTES_MAX: usize = 4 * 1024 * 1024;
