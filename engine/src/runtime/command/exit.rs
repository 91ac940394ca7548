//! The end of a program, as a reply.

use std::io;
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;

use furlong_wire::call::ReplyHeader;

use crate::job::error;
use crate::runtime::ending::{exit_code, killed_by};
use crate::runtime::memory::MemoryAtEnd;
use crate::runtime::{AttemptEnd, AttemptOutcome, Unable};

/// The reply of a program that has ended. How long it ran is for the caller to say.
pub(super) fn ended(
    status: io::Result<ExitStatus>,
    cancelled: bool,
    memory: MemoryAtEnd,
    stderr_tail: &[u8],
) -> AttemptEnd {
    let status = match status {
        Ok(status) => status,
        // The system tells nobody if the engine was started with SIGCHLD ignored.
        Err(error) => return failed(&format!("how the program ended is not known: {error}")),
    };
    let outcome = match status.code() {
        _ if cancelled => AttemptOutcome::Cancelled,
        Some(0) => AttemptOutcome::Succeeded,
        _ => AttemptOutcome::Exited(describe(status, memory, stderr_tail)),
    };
    let header =
        ReplyHeader::Exited { code: status.code(), signal: status.signal(), written: None };
    let killed_by = status.signal().or_else(|| signal_of(status.code()?));
    AttemptEnd { killed_by, ..AttemptEnd::without_data(outcome, header) }
}

/// The signal that has ended what a program ran, if it says so as a shell does.
fn signal_of(code: i32) -> Option<i32> {
    (129..=192).contains(&code).then(|| code - 128)
}

/// The reply of a command that could not be run.
pub(super) fn failed(text: &str) -> AttemptEnd {
    let header = ReplyHeader::Raised(error("CommandError", text));
    AttemptEnd::without_data(AttemptOutcome::Failed, header)
}

/// The reply of a command that did not begin for want of something on this machine.
pub(super) fn not_begun(unable: Unable, text: &str) -> AttemptEnd {
    AttemptEnd { outcome: AttemptOutcome::NotBegun(unable), ..failed(text) }
}

/// Describes how it ended in one line, followed by the last lines of standard error.
fn describe(status: ExitStatus, memory: MemoryAtEnd, stderr_tail: &[u8]) -> String {
    let mut text = match (status.code(), status.signal()) {
        (Some(code), _) => exit_code(code, memory),
        (None, signal) => killed_by(signal.unwrap_or_default(), memory),
    };
    let lines = last_lines(stderr_tail);
    if !lines.is_empty() {
        text.push('\n');
        text.push_str(&lines);
    }
    text
}

/// The last whole lines of as many bytes as are shown; the end of the last one, if that alone is
/// longer.
fn last_lines(tail: &[u8]) -> String {
    let shown = &tail[tail.len().saturating_sub(STDERR_SHOWN_BYTES)..];
    let is_cut = shown.len() < tail.len();
    let text = String::from_utf8_lossy(shown);
    let text = text.trim_end();
    match text.split_once('\n') {
        Some((_, rest)) if is_cut => rest.trim().to_owned(),
        _ => text.trim_start_matches('\u{fffd}').trim().to_owned(),
    }
}

/// Bytes of standard error that an error's text quotes.
pub(super) const STDERR_SHOWN_BYTES: usize = 1024;

#[cfg(test)]
mod unit {
    use super::*;

    #[test]
    fn an_error_quotes_the_last_whole_lines_that_fit() {
        assert_eq!(last_lines(b""), "");
        assert_eq!(last_lines(b"one\ntwo\n"), "one\ntwo");
        let long = ["x".repeat(STDERR_SHOWN_BYTES), "the last line\n".to_owned()].join("\n");
        assert_eq!(last_lines(long.as_bytes()), "the last line");
        assert_eq!(last_lines("é".repeat(STDERR_SHOWN_BYTES).as_bytes()).len(), STDERR_SHOWN_BYTES);
        let odd = format!("{}x", "é".repeat(STDERR_SHOWN_BYTES));
        assert_eq!(last_lines(odd.as_bytes()).len(), STDERR_SHOWN_BYTES - 1, "no half of a letter");
    }

    #[test]
    fn an_end_is_a_line_and_then_the_last_ones_of_stderr() {
        let describe =
            |status, tail| describe(ExitStatus::from_raw(status), MemoryAtEnd::default(), tail);
        assert_eq!(describe(11, b""), "killed by SIGSEGV");
        assert_eq!(describe(3 << 8, b"no\n"), "exit code 3\nno");
    }
}
