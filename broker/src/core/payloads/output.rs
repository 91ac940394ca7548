//! The output of tasks: counted for every task whose output passes through, retained for those that
//! ask for it.

use furlong_wire::limits::{OUTPUT_KEPT_BYTES, OUTPUT_MESSAGE_BYTES_MAX};
use furlong_wire::message::Stream;

/// The output of one task's present attempt.
#[derive(Debug, Default)]
pub struct KeptOutput {
    /// The attempt that wrote it; what an earlier one wrote is dropped.
    attempt: u32,
    /// Bytes of standard output so far, kept or not.
    pub stdout_bytes: u64,
    /// Bytes of standard error so far, kept or not.
    pub stderr_bytes: u64,
    /// Bytes of each that have come.
    came: [u32; 2],
    pieces: Vec<Piece>,
    /// The index of the last piece of each stream.
    last: [Option<usize>; 2],
    kept_bytes: u64,
}

/// A run of bytes of one stream.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Piece {
    /// The stream.
    pub stream: Stream,
    /// The number of bytes of the stream that came before.
    pub offset: u64,
    /// The bytes, as written.
    pub bytes: Vec<u8>,
}

/// Pieces grow up to this, so that a task that writes byte by byte costs no piece for each.
const PIECE_BYTES_MAX: usize = OUTPUT_MESSAGE_BYTES_MAX;
/// The overhead of a piece beside its bytes.
const PIECE_BYTES: u64 = 96;
/// Bytes of a stream that an engine may send of one attempt: its start and its end.
const CAME_BYTES_MAX: usize = 2 * OUTPUT_KEPT_BYTES;

impl KeptOutput {
    /// Restores the output of the last attempt from the journal.
    pub fn restored(
        attempt: u32,
        (stdout_bytes, stderr_bytes): (u64, u64),
        pieces: Vec<Piece>,
    ) -> Self {
        let kept_bytes = pieces.iter().map(|piece| piece.bytes.len() as u64 + PIECE_BYTES).sum();
        Self { attempt, stdout_bytes, stderr_bytes, pieces, kept_bytes, ..Self::default() }
    }

    /// Another attempt writes now. Gives the bytes that were kept of the one before.
    pub fn begin(&mut self, attempt: u32) -> u64 {
        assert!(attempt >= self.attempt, "attempt {attempt} follows {}", self.attempt);
        if attempt == self.attempt {
            return 0;
        }
        let freed = self.kept_bytes;
        *self = Self { attempt, ..Self::default() };
        freed
    }

    /// Counts a piece that came. False if an engine does not send so much, or so far.
    pub fn count(&mut self, stream: Stream, offset: u64, bytes: usize) -> bool {
        let came = &mut self.came[place(stream)];
        *came = came.saturating_add(u32::try_from(bytes).unwrap_or(u32::MAX));
        let is_within_limits = *came as usize <= CAME_BYTES_MAX;
        let Some(total) = offset.checked_add(bytes as u64).filter(|_| is_within_limits) else {
            return false;
        };
        match stream {
            Stream::Stdout => self.stdout_bytes = self.stdout_bytes.max(total),
            Stream::Stderr => self.stderr_bytes = self.stderr_bytes.max(total),
        }
        true
    }

    /// The last piece of the stream, if these bytes continue it.
    fn continued(&self, stream: Stream, offset: u64, bytes: usize) -> Option<usize> {
        let last = self.last[place(stream)]?;
        let piece = &self.pieces[last];
        let follows = piece.offset.saturating_add(piece.bytes.len() as u64) == offset;
        (follows && piece.bytes.len() + bytes <= PIECE_BYTES_MAX).then_some(last)
    }

    /// Bytes that count against the budget if a piece is kept.
    pub fn more_bytes(&self, stream: Stream, offset: u64, bytes: usize) -> u64 {
        let piece = if self.continued(stream, offset, bytes).is_some() { 0 } else { PIECE_BYTES };
        bytes as u64 + piece
    }

    /// Keeps a piece, whose bytes the budget has taken in.
    pub fn keep(&mut self, stream: Stream, offset: u64, bytes: &[u8]) {
        self.kept_bytes += self.more_bytes(stream, offset, bytes.len());
        if let Some(last) = self.continued(stream, offset, bytes.len()) {
            return self.pieces[last].bytes.extend_from_slice(bytes);
        }
        self.last[place(stream)] = Some(self.pieces.len());
        self.pieces.push(Piece { stream, offset, bytes: bytes.to_vec() });
    }

    /// Keeps nothing any longer. Gives the bytes that were kept.
    pub fn drop_pieces(&mut self) -> u64 {
        self.pieces = Vec::new();
        self.last = [None; 2];
        std::mem::take(&mut self.kept_bytes)
    }

    /// The attempt that wrote it, from 1.
    pub fn attempt(&self) -> u32 {
        self.attempt
    }

    /// Returns the retained pieces, in order of arrival.
    pub fn pieces(&self) -> &[Piece] {
        &self.pieces
    }

    /// Bytes that count against the budget.
    pub fn kept_bytes(&self) -> u64 {
        self.kept_bytes
    }
}

fn place(stream: Stream) -> usize {
    match stream {
        Stream::Stdout => 0,
        Stream::Stderr => 1,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_grow_and_gaps_stay() {
        let mut output = KeptOutput::default();
        assert_eq!(output.begin(1), 0);
        for (stream, offset, bytes) in [
            (Stream::Stdout, 0, "ab"),
            (Stream::Stderr, 0, "x"),
            (Stream::Stdout, 2, "cd"),
            (Stream::Stdout, 9, "z"),
        ] {
            output.count(stream, offset, bytes.len());
            output.keep(stream, offset, bytes.as_bytes());
        }
        let texts: Vec<_> =
            output.pieces().iter().map(|piece| (piece.offset, piece.bytes.as_slice())).collect();
        assert_eq!(texts, [(0, b"abcd".as_slice()), (0, b"x"), (9, b"z")]);
        let kept_bytes = 6 + 3 * PIECE_BYTES;
        assert_eq!(
            (output.stdout_bytes, output.stderr_bytes, output.kept_bytes()),
            (10, 1, kept_bytes)
        );
        assert_eq!(
            (output.begin(2), output.kept_bytes(), output.pieces().len()),
            (kept_bytes, 0, 0)
        );
    }

    #[test]
    fn start_and_end_of_a_stream_are_taken_and_no_more() {
        let mut output = KeptOutput::default();
        let end = 1 << 40;
        for bytes in (0..OUTPUT_KEPT_BYTES).step_by(OUTPUT_MESSAGE_BYTES_MAX).map(|at| at as u64) {
            assert!(output.count(Stream::Stdout, bytes, OUTPUT_MESSAGE_BYTES_MAX));
            assert!(output.count(Stream::Stdout, end + bytes, OUTPUT_MESSAGE_BYTES_MAX));
        }
        assert!(!output.count(Stream::Stdout, end, 1), "more than start and end");
        assert!(output.count(Stream::Stderr, 0, 1), "each stream counts for itself");
        output.begin(2);
        assert!(output.count(Stream::Stdout, 0, 1), "so does each attempt");
    }

    #[test]
    fn offsets_do_not_wrap() {
        let mut output = KeptOutput::default();
        assert!(!output.count(Stream::Stdout, u64::MAX, 1));
        assert!(output.count(Stream::Stdout, u64::MAX - 1, 1));
        output.keep(Stream::Stdout, u64::MAX - 1, b"a");
        output.keep(Stream::Stdout, 0, b"b");
        assert_eq!((output.stdout_bytes, output.pieces().len()), (u64::MAX, 2));
    }
}
