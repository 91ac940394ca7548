//! Printing that survives a reader who leaves, and text that is not ours.
//!
//! All that a command prints goes through here, and all of it is escaped: what a peer says cannot
//! move the cursor, and cannot begin a line. A task's own output alone passes as it is, by [`own`].

use std::fmt;
use std::io::{self, IsTerminal, Write};

use anyhow::Result;
use furlong_host::printable;
use furlong_wire::message::Stream;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// Prints a line to standard output. A newline in it is escaped.
pub fn line(text: impl AsRef<str>) -> Result<()> {
    own(Stream::Stdout, format!("{}\n", printable::line(text.as_ref())).as_bytes())
}

/// Prints text that may have several lines to standard output, with a newline at its end.
pub fn lines(text: impl AsRef<str>) -> Result<()> {
    own(Stream::Stdout, format!("{}\n", printable::lines(text.as_ref())).as_bytes())
}

/// Prints bytes as they are: what a task has written.
pub fn own(stream: Stream, bytes: &[u8]) -> Result<()> {
    if bytes.is_empty() {
        return Ok(());
    }
    let write = |out: &mut dyn Write| out.write_all(bytes).and_then(|()| out.flush());
    let written = match stream {
        Stream::Stdout => write(&mut io::stdout().lock()),
        Stream::Stderr => write(&mut io::stderr().lock()),
    };
    written.map_err(|error| match error.kind() {
        io::ErrorKind::BrokenPipe => ReaderGone.into(),
        _ => error.into(),
    })
}

/// The reader of our output has closed it. Any other pipe that breaks, to a child or a peer, is an
/// error like all others.
#[derive(Debug)]
pub struct ReaderGone;

impl fmt::Display for ReaderGone {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("the reader of the output has closed it")
    }
}

impl std::error::Error for ReaderGone {}

/// Prints what a task has written under a heading, with one newline at its end.
pub fn headed(stream: Stream, heading: &str, bytes: &[u8]) -> Result<()> {
    let end = bytes.iter().rposition(|byte| *byte != b'\n').map_or(0, |at| at + 1);
    own(stream, &[heading.as_bytes(), &bytes[..end], b"\n"].concat())
}

/// Prints to standard error, with a newline: [`to_stderr`].
macro_rules! note {
    ($($text:tt)*) => { $crate::print::to_stderr(&format!($($text)*)) };
}
pub(crate) use note;

/// Prints to standard error, with a newline. The first line alone begins at the left: nothing in
/// the text looks like another note. Who has closed standard error does not want to know.
pub fn to_stderr(text: &str) {
    let text = format!("{}\n", printable::lines(text).replace('\n', "\n  "));
    let _ = io::stderr().lock().write_all(text.as_bytes());
}

/// Prints a value as an indented JSON document.
pub fn json(value: &impl serde::Serialize) -> Result<()> {
    lines(serde_json::to_string_pretty(value)?)
}

/// Prints a value as a JSON document on one line: one of many. What came as JSON may have newlines
/// between its parts.
pub fn json_line(value: &impl serde::Serialize) -> Result<()> {
    line(serde_json::to_string(value)?.replace(['\n', '\r'], " "))
}

/// A duration for people: `1.23 s`, `45.6 ms`, `78.9 us`.
pub fn micros(us: f64) -> String {
    match us {
        us if us >= 1e6 => format!("{:.2} s", us / 1e6),
        us if us >= 1e3 => format!("{:.1} ms", us / 1e3),
        us => format!("{us:.1} us"),
    }
}

/// A rate or count for people, with thin groups: `1 234 567`.
pub fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut grouped = String::new();
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            grouped.push(' ');
        }
        grouped.push(digit);
    }
    grouped
}

/// A count with its noun: `1 task`, `2 tasks`.
pub fn counted(count: u64, noun: &str) -> String {
    format!("{} {noun}{}", grouped(count), if count == 1 { "" } else { "s" })
}

/// Bytes for people: `1.5 MiB`.
pub fn bytes(bytes: u64) -> String {
    let units = ["B", "KiB", "MiB", "GiB", "TiB"];
    let unit = (0..4).find(|unit| bytes < 1024 << (10 * unit)).unwrap_or(4);
    if unit == 0 {
        format!("{bytes} B")
    } else {
        format!("{:.1} {}", bytes as f64 / (1u64 << (10 * unit)) as f64, units[unit])
    }
}

/// A text of at most so many characters.
pub fn clipped(text: &str, characters_max: usize) -> String {
    match text.char_indices().nth(characters_max) {
        None => text.to_owned(),
        Some(_) => text.chars().take(characters_max - 3).chain("...".chars()).collect(),
    }
}

/// A progress bar on standard error, if it is wanted and that is a terminal: of so many steps, or
/// of any number.
pub fn progress(total: Option<u64>, is_wanted: bool) -> ProgressBar {
    let bar = ProgressBar::new(total.unwrap_or(0));
    if !is_wanted || !io::stderr().is_terminal() {
        bar.set_draw_target(ProgressDrawTarget::hidden());
    }
    let style = if total.is_some() {
        "{bar:40} {pos}/{len} {per_sec} {eta}"
    } else {
        "{spinner} {pos} {per_sec}"
    };
    bar.with_style(
        ProgressStyle::with_template(style).expect("the template is a constant and valid"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_document_that_is_escaped_says_the_same_as_before() {
        let text = "\u{9b}\u{7f}\u{202e}\u{2028}\n\x1b\"\\";
        let escaped = serde_json::to_string(text).unwrap();
        assert_eq!(serde_json::from_str::<String>(&printable::line(&escaped)).unwrap(), text);
    }

    #[test]
    fn a_pipe_of_ours_alone_is_the_readers() {
        let pipe = || anyhow::Error::from(io::Error::from(io::ErrorKind::BrokenPipe));
        assert!(!pipe().is::<ReaderGone>() && !pipe().context("a child").is::<ReaderGone>());
        assert!(anyhow::Error::from(ReaderGone).context("the list").is::<ReaderGone>());
    }

    #[test]
    fn figures_are_written_for_people() {
        assert_eq!(
            (micros(12.34), micros(12_345.0), micros(2_500_000.0)),
            ("12.3 us".into(), "12.3 ms".into(), "2.50 s".into())
        );
        assert_eq!((clipped("night", 5), clipped("nights", 5)), ("night".into(), "ni...".into()));
        assert_eq!(
            (grouped(1), grouped(1_000), grouped(1_234_567)),
            ("1".into(), "1 000".into(), "1 234 567".into())
        );
        assert_eq!(
            (bytes(10), bytes(1536), bytes(3 << 30)),
            ("10 B".into(), "1.5 KiB".into(), "3.0 GiB".into())
        );
    }
}
