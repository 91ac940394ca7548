//! The inputs of jobs, and which of them an interpreter holds.

use std::collections::VecDeque;

use furlong_link::pass::FilePasser;
use furlong_wire::call::{Codec, ReplyHeader};

use super::outbox::Outbox;
use super::protocol::{Control, Request, may_place};
use crate::job::{Input, SlotJob};

/// The inputs that one interpreter keeps, by their keys; the one that was used last is the last
/// one. It is the same list as `KnownInputs` in `inputs.py`: both sides change theirs in the order
/// of the frames.
#[derive(Debug, Default)]
pub(super) struct KnownInputs {
    keys: VecDeque<u64>,
}

/// What was sent of a job's inputs.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct SentInputs {
    /// Bytes of the frames' bodies.
    pub(super) bytes: usize,
    /// True if their job must be with the interpreter alone.
    pub(super) is_alone: bool,
}

impl KnownInputs {
    /// Bytes that must be sent of these at most.
    pub(super) fn bytes_at_most(&self, inputs: Option<&[Input]>) -> usize {
        let unknown = inputs.into_iter().flatten().filter(|input| !self.knows(input));
        unknown.map(|input| input.data.iter().map(|buffer| 8 + buffer.len()).sum::<usize>()).sum()
    }

    /// Sends the inputs of the job that follows, or says which of them are there.
    pub(super) fn send(
        &mut self,
        attempt: SlotJob,
        inputs: Box<[Input]>,
        files: &FilePasser,
        outbox: &mut Outbox,
    ) -> SentInputs {
        let mut sent = SentInputs::default();
        for input in inputs {
            let input = as_python_reads_it(input);
            if let Some(key) = input.key {
                let is_known = self.note(key);
                outbox.push_control(if is_known { Control::Known(key) } else { Control::Key(key) });
                if is_known {
                    continue;
                }
            }
            let file = input.file.as_deref().filter(|file| may_place(Some(file), 0));
            let is_passed = file.is_some_and(|it| files.send(attempt.0, it.file.descriptor()));
            let request = Request::of_input(attempt, input, is_passed);
            sent.bytes += request.body_bytes();
            sent.is_alone |= request.is_alone();
            outbox.push(request);
        }
        sent
    }

    /// Lets one go. Returns true if it was there, so that the interpreter must be told.
    pub(super) fn forget(&mut self, key: u64) -> bool {
        let before = self.keys.len();
        self.keys.retain(|known| *known != key);
        self.keys.len() < before
    }

    fn knows(&self, input: &Input) -> bool {
        input.key.is_some_and(|key| self.keys.contains(&key))
    }

    /// Notes the use of one. Returns true if it is there already.
    fn note(&mut self, key: u64) -> bool {
        let is_known = self.forget(key);
        self.keys.push_back(key);
        if self.keys.len() > KNOWN_MAX {
            self.keys.pop_front();
        }
        is_known
    }
}

/// What a command has written, if all of it was kept, is `bytes`. Everything else is read there.
fn as_python_reads_it(input: Input) -> Input {
    let ReplyHeader::Exited { .. } = input.header else { return input };
    let Ok(bytes) = input.bytes() else { return input };
    let header = ReplyHeader::Returned { codec: Codec::Raw };
    Input { header, data: vec![bytes], file: None, ..input }
}

/// The same number as `KNOWN_MAX` in `inputs.py`.
const KNOWN_MAX: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_inputs_that_were_not_used_for_longest_go() {
        let mut known = KnownInputs::default();
        assert!((0..KNOWN_MAX as u64).all(|key| !known.note(key)));
        assert!(known.note(0) && !known.note(100));
        assert!(known.note(0) && !known.note(1) && known.note(100));
        assert!(known.forget(100) && !known.forget(100));
        assert_eq!(known.keys.len(), KNOWN_MAX - 1);
    }
}
