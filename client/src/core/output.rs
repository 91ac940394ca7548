//! The output of a task: its beginning and its end.

use std::collections::VecDeque;
use std::fmt;

use furlong_wire::limits::OUTPUT_KEPT_BYTES;

/// One stream of a task's output: its first 1 MiB and its last 1 MiB ([`OUTPUT_KEPT_BYTES`]), and
/// how much is missing between.
///
/// Nothing is missing of a command whose `whole_output` was asked for, unless that was more than
/// 256 MiB or than the broker takes.
///
/// Its `Display` is [`Output::text`].
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Output {
    /// None for the many tasks that write nothing.
    kept: Option<Box<Kept>>,
}

#[derive(Clone, PartialEq, Eq, Debug, Default)]
struct Kept {
    /// From the stream's first byte on, without a gap.
    start: Vec<u8>,
    /// Up to the stream's last byte, without a gap.
    end: VecDeque<u8>,
    /// Bytes that were written in all.
    total: u64,
}

impl Output {
    /// Returns true if nothing was written.
    pub fn is_empty(&self) -> bool {
        self.total_bytes() == 0
    }

    /// Bytes that the task wrote.
    pub fn total_bytes(&self) -> u64 {
        self.kept.as_ref().map_or(0, |kept| kept.total)
    }

    /// Bytes between [`Output::start`] and [`Output::end`] that were not kept.
    pub fn left_out_bytes(&self) -> u64 {
        self.total_bytes() - self.kept_bytes() as u64
    }

    /// The stream's beginning; all of it if nothing was left out.
    pub fn start(&self) -> &[u8] {
        self.kept.as_ref().map_or(&[], |kept| &kept.start)
    }

    /// The stream's end, as far as it is not in [`Output::start`].
    pub fn end(&self) -> Vec<u8> {
        self.kept.as_ref().map_or_else(Vec::new, |kept| kept.end.iter().copied().collect())
    }

    /// What was kept, with a line that says what was left out.
    pub fn bytes(&self) -> Vec<u8> {
        let mut kept = self.start().to_vec();
        let left_out = self.left_out_bytes();
        if left_out > 0 {
            // On a line of its own: where the gap is, a line may be cut.
            kept.extend(format!("\n[{left_out} bytes of output left out]\n").into_bytes());
        }
        kept.extend(self.end());
        kept
    }

    /// The same as text. Bytes that are not UTF-8 become `U+FFFD`.
    pub fn text(&self) -> String {
        String::from_utf8(self.bytes())
            .unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned())
    }

    /// Whether it was UTF-8, as far as it was kept: a character may be cut where something is left
    /// out.
    pub fn is_text(&self) -> bool {
        let is_cut = self.left_out_bytes() > 0;
        let end = self.end();
        if !is_cut {
            let whole = self.start().iter().chain(&end).copied().collect::<Vec<u8>>();
            return std::str::from_utf8(&whole).is_ok();
        }
        // A character has four bytes at most, so up to three of a cut one are left at the
        // beginning.
        let begin = end.iter().take(3).take_while(|byte| **byte & 0xC0 == 0x80).count();
        std::str::from_utf8(self.start()).map_or_else(|error| error.error_len().is_none(), |_| true)
            && std::str::from_utf8(&end[begin..]).is_ok()
    }

    /// Bytes that are held here.
    pub fn kept_bytes(&self) -> usize {
        self.kept.as_ref().map_or(0, |kept| kept.start.len() + kept.end.len())
    }

    /// Takes the next piece. What it repeats of earlier ones is skipped; a gap before it was not
    /// kept by the sender.
    pub fn handle_piece(&mut self, offset: u64, bytes: &[u8]) {
        let kept = self.kept.get_or_insert_default();
        let known = usize::try_from(kept.total.saturating_sub(offset)).unwrap_or(usize::MAX);
        let fresh = bytes.get(known..).unwrap_or_default();
        // An empty piece says only how much was written.
        if fresh.is_empty() && !bytes.is_empty() {
            return;
        }
        kept.skip_to(offset);
        kept.append(fresh);
    }

    /// Takes all of the stream at once; nothing is left out then.
    pub fn replace(&mut self, whole: &[u8]) {
        if whole.len() as u64 >= self.total_bytes() && !whole.is_empty() {
            let (start, total) = (whole.to_vec(), whole.len() as u64);
            self.kept = Some(Box::new(Kept { start, end: VecDeque::new(), total }));
        }
    }

    /// Takes notice of a piece that ends there, without keeping it.
    pub fn skip_to(&mut self, total: u64) {
        self.kept.get_or_insert_default().skip_to(total);
    }
}

impl fmt::Display for Output {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text())
    }
}

impl Kept {
    /// The bytes up to `total` are left out, as far as they have not come. An end before a gap is
    /// no end.
    fn skip_to(&mut self, total: u64) {
        if total > self.total {
            self.end = VecDeque::new();
            self.total = total;
        }
    }

    fn append(&mut self, mut bytes: &[u8]) {
        // The beginning grows only while nothing is missing after it.
        if self.total == self.start.len() as u64 {
            let (start, rest) =
                bytes.split_at(bytes.len().min(OUTPUT_KEPT_BYTES.saturating_sub(self.start.len())));
            self.start.extend_from_slice(start);
            self.total += start.len() as u64;
            bytes = rest;
        }
        self.total += bytes.len() as u64;
        let last = &bytes[bytes.len().saturating_sub(OUTPUT_KEPT_BYTES)..];
        let room = OUTPUT_KEPT_BYTES - last.len();
        let surplus = self.end.len().saturating_sub(room);
        self.end.drain(..surplus);
        self.end.extend(last);
        let kept = (self.start.len() + self.end.len()) as u64;
        assert!(self.end.len() <= OUTPUT_KEPT_BYTES && kept <= self.total, "{kept} bytes are kept");
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn short_output_is_whole() {
        let mut output = Output::default();
        assert!(output.is_empty());
        output.handle_piece(0, b"one ");
        output.handle_piece(4, b"two");
        assert_eq!((output.text().as_str(), output.left_out_bytes()), ("one two", 0));
    }

    #[test]
    fn the_gap_is_said() {
        let mut output = Output::default();
        output.handle_piece(0, b"one");
        output.handle_piece(10, b"two");
        assert_eq!(output.to_string(), "one\n[7 bytes of output left out]\ntwo");
        assert_eq!(output.total_bytes(), 13);
    }

    #[test]
    fn the_whole_replaces_what_has_gaps_and_nothing_else_does() {
        let mut output = Output::default();
        output.handle_piece(0, b"one");
        output.handle_piece(8, b"three");
        output.replace(b"one");
        output.replace(b"");
        assert_eq!((output.left_out_bytes(), output.total_bytes()), (5, 13));
        output.replace(b"one two three");
        assert_eq!((output.text().as_str(), output.left_out_bytes()), ("one two three", 0));
    }

    #[test]
    fn an_empty_piece_at_the_end_shows_what_is_missing() {
        let mut output = Output::default();
        output.handle_piece(0, b"one");
        output.handle_piece(3, b"");
        assert_eq!(output.left_out_bytes(), 0);
        output.handle_piece(9, b"");
        assert_eq!((output.left_out_bytes(), output.start()), (6, &b"one"[..]));
    }

    #[test]
    fn what_is_repeated_is_skipped() {
        let mut output = Output::default();
        output.handle_piece(0, b"one two");
        output.handle_piece(4, b"two three");
        output.handle_piece(0, b"one");
        assert_eq!(output.text(), "one two three");
    }

    #[test]
    fn a_flood_keeps_its_beginning_and_its_end() {
        let mut output = Output::default();
        let piece = [b'x'; 4096];
        for n in 0..1024 {
            output.handle_piece(n * 4096, &piece);
        }
        output.handle_piece(1024 * 4096, b"end");
        assert_eq!(output.start().len(), OUTPUT_KEPT_BYTES);
        assert_eq!(output.end().len(), OUTPUT_KEPT_BYTES);
        assert!(output.end().ends_with(b"xend"));
        assert_eq!(output.left_out_bytes(), 1024 * 4096 + 3 - 2 * OUTPUT_KEPT_BYTES as u64);
    }

    proptest! {
        // Streams of megabytes are slow to make without optimisation.
        #![proptest_config(ProptestConfig::with_cases(32))]

        /// However a stream is cut into pieces, and whatever gaps it has, what is kept is a prefix
        /// and a suffix of it.
        #[test]
        fn kept_output_is_a_prefix_and_a_suffix(
            pieces in prop::collection::vec((0_usize..700_000, prop::bool::weighted(0.8)), 0..12),
        ) {
            let total: usize = pieces.iter().map(|(bytes, _)| bytes).sum();
            let stream: Vec<u8> = (0..total).map(|at| (at % 251) as u8).collect();
            let mut output = Output::default();
            let (mut at, mut seen, mut before_gap, mut after_gap) = (0, 0, None, 0);
            for (bytes, arrives) in pieces {
                if arrives && bytes > 0 {
                    if at > seen {
                        before_gap.get_or_insert(seen);
                        after_gap = at;
                    }
                    output.handle_piece(at as u64, &stream[at..at + bytes]);
                    seen = at + bytes;
                }
                at += bytes;
            }
            let start = output.start();
            let end = output.end();
            prop_assert_eq!(output.total_bytes(), seen as u64);
            prop_assert_eq!(start, &stream[..before_gap.unwrap_or(seen).min(OUTPUT_KEPT_BYTES)]);
            prop_assert_eq!(&end[..], &stream[seen - end.len()..seen]);
            let end_from = after_gap.max(start.len());
            prop_assert_eq!(end.len(), (seen - end_from).min(OUTPUT_KEPT_BYTES));
        }
    }
}
