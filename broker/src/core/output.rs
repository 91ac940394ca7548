//! What tasks have written: counted for all whose output comes by, kept for those that ask for it.

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
    pieces: Vec<Piece>,
    kept_bytes: u64,
}

/// A run of bytes of one stream.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Piece {
    /// Which stream.
    pub stream: Stream,
    /// How many bytes of the stream came before.
    pub offset: u64,
    /// The bytes, as written.
    pub bytes: Vec<u8>,
}

/// Pieces grow up to this, so that a task that writes byte by byte costs no piece for each.
const PIECE_BYTES_MAX: usize = furlong_wire::limits::OUTPUT_MESSAGE_BYTES_MAX;

impl KeptOutput {
    /// What the journal had of the last attempt.
    pub fn restored(attempt: u32, (stdout_bytes, stderr_bytes): (u64, u64), pieces: Vec<Piece>) -> Self {
        let kept_bytes = pieces.iter().map(|piece| piece.bytes.len() as u64).sum();
        Self { attempt, stdout_bytes, stderr_bytes, pieces, kept_bytes }
    }

    /// Another attempt writes now. Gives the bytes that were kept of the one before.
    pub fn begin(&mut self, attempt: u32) -> u64 {
        if attempt == self.attempt {
            return 0;
        }
        let freed = self.kept_bytes;
        *self = Self { attempt, ..Self::default() };
        freed
    }

    /// Counts a piece that came.
    pub fn count(&mut self, stream: Stream, offset: u64, bytes: usize) {
        let total = offset.saturating_add(bytes as u64);
        match stream {
            Stream::Stdout => self.stdout_bytes = self.stdout_bytes.max(total),
            Stream::Stderr => self.stderr_bytes = self.stderr_bytes.max(total),
        }
    }

    /// Keeps a piece, whose bytes the budget has taken in.
    pub fn keep(&mut self, stream: Stream, offset: u64, bytes: &[u8]) {
        self.kept_bytes += bytes.len() as u64;
        let last = self.pieces.iter_mut().rev().find(|piece| piece.stream == stream);
        if let Some(last) = last
            && last.offset + last.bytes.len() as u64 == offset
            && last.bytes.len() + bytes.len() <= PIECE_BYTES_MAX
        {
            return last.bytes.extend_from_slice(bytes);
        }
        self.pieces.push(Piece { stream, offset, bytes: bytes.to_vec() });
    }

    /// Keeps nothing any longer. Gives the bytes that were kept.
    pub fn drop_pieces(&mut self) -> u64 {
        self.pieces.clear();
        std::mem::take(&mut self.kept_bytes)
    }

    /// The attempt that wrote it, from 1.
    pub fn attempt(&self) -> u32 {
        self.attempt
    }

    /// What is kept, in the order in which it came.
    pub fn pieces(&self) -> &[Piece] {
        &self.pieces
    }

    /// Bytes that count against the budget.
    pub fn kept_bytes(&self) -> u64 {
        self.kept_bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_grow_and_gaps_stay() {
        let mut output = KeptOutput::default();
        assert_eq!(output.begin(1), 0);
        for (stream, offset, bytes) in
            [(Stream::Stdout, 0, "ab"), (Stream::Stderr, 0, "x"), (Stream::Stdout, 2, "cd"), (Stream::Stdout, 9, "z")]
        {
            output.count(stream, offset, bytes.len());
            output.keep(stream, offset, bytes.as_bytes());
        }
        let texts: Vec<_> = output.pieces().iter().map(|piece| (piece.offset, piece.bytes.as_slice())).collect();
        assert_eq!(texts, [(0, b"abcd".as_slice()), (0, b"x"), (9, b"z")]);
        assert_eq!((output.stdout_bytes, output.stderr_bytes, output.kept_bytes()), (10, 1, 6));
        assert_eq!((output.begin(2), output.kept_bytes(), output.pieces().len()), (6, 0, 0));
    }
}
