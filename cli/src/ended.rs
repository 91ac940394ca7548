//! A task's end, for people and for programs: its output as it was written, its value, its exit
//! code.

use std::collections::BTreeSet;

use anyhow::Result;
use base64ct::{Base64, Encoding};
use furlong_client::{
    DecodeError, ErrorKind, OsText, Output, OutputPiece, TaskFailure, TaskOutcome, TaskReport,
    TaskResult,
};
use furlong_wire::call::{Codec, ReplyHeader};
use furlong_wire::message::Stream;
use serde::Serialize;
use serde_json::value::RawValue;
use serde_json::{Map, Value, json};

use crate::exit::ExitCode;
use crate::print;

/// The report of a task, however it ended.
pub fn report(end: &TaskOutcome) -> &TaskReport {
    match end {
        Ok(result) => &result.report,
        Err(failure) => &failure.report,
    }
}

/// The printed part of one task's output so far: of each stream, how many bytes.
#[derive(Debug, Default)]
pub struct Printed {
    attempt: u32,
    stdout: u64,
    stderr: u64,
    /// True if a piece is missing that the task's report may have: the rest is printed at its end.
    has_gap: bool,
    /// True if standard output is in the middle of a line.
    is_in_line: bool,
}

impl Printed {
    /// Prints a piece of a task's output as it was written.
    pub fn piece(&mut self, name: &str, piece: &OutputPiece) -> Result<()> {
        if self.attempt != 0 && self.attempt != piece.attempt && self.stdout + self.stderr > 0 {
            print::note!(
                "furlong: {name} begins again: what it wrote so far was of an attempt that came to nothing"
            );
            *self = Self::default();
        }
        self.attempt = piece.attempt;
        let printed = match piece.stream {
            Stream::Stdout => &mut self.stdout,
            Stream::Stderr => &mut self.stderr,
        };
        self.has_gap |= piece.offset > *printed;
        if self.has_gap {
            return Ok(());
        }
        let known = usize::try_from(*printed - piece.offset).unwrap_or(usize::MAX);
        let fresh = piece.bytes.get(known..).unwrap_or_default();
        *printed += fresh.len() as u64;
        self.write(piece.stream, fresh)
    }

    /// Ends the line that standard output is in.
    pub fn end_line(&mut self) -> Result<()> {
        if std::mem::take(&mut self.is_in_line) { print::line("") } else { Ok(()) }
    }

    fn write(&mut self, stream: Stream, bytes: &[u8]) -> Result<()> {
        if let Some(last) = bytes.last().filter(|_| stream == Stream::Stdout) {
            self.is_in_line = *last != b'\n';
        }
        print::own(stream, bytes)
    }

    /// Prints what has not been printed of a task that has ended.
    pub fn rest(&mut self, name: &str, report: &TaskReport) -> Result<()> {
        if self.attempt != 0 && self.attempt != report.attempts {
            *self = Self::default();
        }
        for (stream, output, from) in [
            (Stream::Stdout, &report.stdout, self.stdout),
            (Stream::Stderr, &report.stderr, self.stderr),
        ] {
            let (gap, parts) = after(output, from);
            self.write(stream, &parts[0])?;
            say_gap(name, gap);
            self.write(stream, &parts[1])?;
        }
        Ok(())
    }
}

fn say_gap(name: &str, gap: u64) {
    if gap > 0 {
        let gap = print::bytes(gap);
        print::note!(
            "furlong: {name}: {gap} of its output are left out, as 1 MiB is kept of each end; a program's whole output \
             goes to a file with `furlong submit --stdout FILE`"
        );
    }
}

/// Bytes of a task's output that were not kept.
pub fn left_out_bytes(end: &TaskOutcome) -> u64 {
    let report = report(end);
    report.stdout.left_out_bytes() + report.stderr.left_out_bytes()
}

/// Returns what comes after the first `from` bytes: how much is left out, and what is kept before
/// and after that.
fn after(output: &Output, from: u64) -> (u64, [Vec<u8>; 2]) {
    let skip = |bytes: &[u8], known: u64| {
        bytes.get(usize::try_from(known).unwrap_or(usize::MAX)..).unwrap_or_default().to_vec()
    };
    let end_at = output.total_bytes() - output.end().len() as u64;
    let start_bytes = output.start().len() as u64;
    let gap = end_at.saturating_sub(from.max(start_bytes));
    (gap, [skip(output.start(), from), skip(&output.end(), from.saturating_sub(end_at))])
}

/// Prints the value of a function that returned, or of code that was executed; a command has none.
/// If it is not what its header says, that is said instead, and the answer is false.
pub fn print_value(result: &TaskResult) -> Result<bool> {
    let codec = result.codec();
    match &result.header {
        ReplyHeader::Exited { .. } | ReplyHeader::Raised(_) => {}
        ReplyHeader::Executed { repr, .. } => repr.as_ref().map_or(Ok(()), print::lines)?,
        ReplyHeader::Returned { .. } | ReplyHeader::Displayed { .. }
            if codec == Some(Codec::Pickle) =>
        {
            print::note!(
                "furlong: {}: its value is a pickle, which only Python can open",
                result.report.id
            );
        }
        ReplyHeader::Returned { .. } | ReplyHeader::Displayed { .. }
            if codec == Some(Codec::Raw) =>
        {
            result.data.iter().try_for_each(|buffer| print::own(Stream::Stdout, buffer))?;
        }
        ReplyHeader::Returned { .. } | ReplyHeader::Displayed { .. } => match value(result) {
            Ok(value) => print::json_line(&value)?,
            Err(error) => {
                print::note!("furlong: {}: its value cannot be read: {error}", result.report.id);
                return Ok(false);
            }
        },
    }
    Ok(true)
}

/// A result's value as JSON, with its numbers as the engine wrote them; null for what JSON has no
/// form for.
fn value(result: &TaskResult) -> Result<Box<RawValue>, DecodeError> {
    let value = match (&result.header, result.codec()) {
        (ReplyHeader::Executed { repr, .. }, _) => json!(repr),
        (_, Some(Codec::Json)) => return result.json(),
        (_, Some(Codec::Msgpack)) => result.msgpack()?,
        _ => Value::Null,
    };
    Ok(serde_json::value::to_raw_value(&value).expect("a value is JSON"))
}

/// A task's end as JSON. Its value stays the text that it is, which a [`Value`] would round.
#[derive(Debug, Serialize)]
pub struct Document {
    #[serde(flatten)]
    rest: Map<String, Value>,
    value: Box<RawValue>,
    /// The reason why the value cannot be read, if it cannot.
    #[serde(skip_serializing_if = "Option::is_none")]
    value_error: Option<String>,
}

impl Document {
    /// Adds what names the task.
    pub fn set(&mut self, name: &str, value: impl Into<Value>) {
        self.rest.insert(name.to_owned(), value.into());
    }

    /// The same for text of the system: what is not UTF-8 stands under `NAME_base64` as well.
    pub fn set_os_text(&mut self, name: &str, text: Option<&OsText>) {
        self.set(name, text.map(OsText::to_text));
        if let Some(text) = text.filter(|text| text.to_str().is_none()) {
            self.set(&format!("{name}_base64"), Base64::encode_string(text.as_bytes()));
        }
    }

    /// Returns true if the value is what its header says, or there is none.
    pub fn is_readable(&self) -> bool {
        self.value_error.is_none()
    }

    /// Prints it on a line.
    pub fn print(&self) -> Result<()> {
        print::json_line(self)
    }
}

/// Says on one line, and with the traceback if there is one, why a task did not succeed.
pub fn print_failure(name: &str, failure: &TaskFailure) {
    // A traceback of one line says only what the line before it has said.
    let traceback = failure.remote().map(|remote| remote.traceback.trim_end()).unwrap_or_default();
    let traceback = if traceback.contains('\n') { format!("\n{traceback}") } else { String::new() };
    let text = failure.to_string();
    // What a command wrote to standard error is printed as it was written.
    let line =
        if is_exit(failure) { text.lines().next().unwrap_or_default().to_owned() } else { text };
    let engine =
        failure.report.engine.filter(|_| is_exit(failure)).map(|id| format!(" (engine {id})"));
    let engine = engine.filter(|engine| !line.ends_with(engine)).unwrap_or_default();
    print::note!("furlong: {name}: {line}{engine}{traceback}");
}

/// Says once why the broker let a task for an engine not begin, or why the task failed there.
pub fn print_direct_failure(failure: &TaskFailure, refused: &mut BTreeSet<String>) {
    if !never_began(failure) {
        let name = failure.report.engine.map_or("engine ?".to_owned(), |id| format!("engine {id}"));
        return print_failure(&name, failure);
    }
    let text = failure.error.to_string();
    if !refused.contains(&text) {
        print::note!("furlong: {text}");
        refused.insert(text);
    }
}

/// Returns true if the broker refused a task: what it says is about the user, and the same for
/// every engine.
pub fn never_began(failure: &TaskFailure) -> bool {
    let kinds =
        [ErrorKind::Forbidden, ErrorKind::UnknownEngine, ErrorKind::Unsupported, ErrorKind::Busy];
    failure.kind().is_some_and(|kind| kinds.contains(&kind))
}

/// The code that Python code gave to `sys.exit`.
pub fn code_of_exit(failure: &TaskFailure) -> Option<ExitCode> {
    let remote = failure.remote().filter(|remote| remote.type_name == "SystemExit")?;
    // As the system has it: the lowest byte.
    let code = remote.message.parse::<i32>().ok()?.to_le_bytes()[0];
    (code != 0).then_some(ExitCode::from(code))
}

/// Returns true if a command ended with a code other than 0, or by a signal.
pub fn is_exit(failure: &TaskFailure) -> bool {
    failure.kind() == Some(ErrorKind::Exit)
}

/// The exit code of several tasks, of which so many did not succeed, and so many are without a part
/// of their output.
pub fn exit_code_of_all(failed: u64, incomplete: u64) -> ExitCode {
    match (failed, incomplete) {
        (0, 0) => ExitCode::SUCCESS,
        (0, _) => ExitCode::INCOMPLETE,
        _ => ExitCode::FAILURE,
    }
}

/// The exit code of a task, as a shell gives it: its own, 128 and the signal that ended it, else 1;
/// 3 if it succeeded and a part of its output is left out.
pub fn exit_code(end: &TaskOutcome) -> ExitCode {
    let Err(failure) = end else { return exit_code_of_all(0, left_out_bytes(end)) };
    let code = failure.exit_code().or_else(|| failure.signal().map(|signal| 128 + signal));
    code.and_then(|code| u8::try_from(code).ok())
        .filter(|code| *code != 0)
        .map_or(ExitCode::FAILURE, ExitCode::from)
}

/// A task's end as JSON, without what names the task.
pub fn as_json(end: &TaskOutcome) -> Document {
    let report = report(end);
    let (state, failure) = match end {
        Ok(_) => ("succeeded", None),
        Err(failure) => (failure.state().map_or("unknown", |state| state.as_str()), Some(failure)),
    };
    let code = failure.map_or_else(|| succeeded_code(end), TaskFailure::exit_code);
    let rest = json!({
        "task": report.id.to_string(),
        "ok": end.is_ok(),
        "state": state,
        "exit_code": code,
        "signal": failure.and_then(TaskFailure::signal),
        "engine": report.engine.map(|id| id.0),
        "attempts": report.attempts,
        "stdout": report.stdout.text(),
        "stderr": report.stderr.text(),
        "left_out_bytes": left_out_json(report),
        "error": failure.map(error_json),
        "run_us": report.times.run.run_us,
    });
    let Value::Object(mut rest) = rest else { unreachable!("it is written as an object") };
    note_bytes_of_output(&mut rest, report);
    let (value, value_error) = match end.as_ref().map(value) {
        Ok(Ok(value)) => (value, None),
        Ok(Err(error)) => (Box::default(), Some(error.to_string())),
        Err(_) => (Box::default(), None),
    };
    Document { rest, value, value_error }
}

/// Adds the bytes of what is no text, in base64: beside `stdout`, whose text shows `U+FFFD` for
/// them, `stdout_base64`.
pub fn note_bytes_of_output(document: &mut Map<String, Value>, report: &TaskReport) {
    for (name, output) in [("stdout", &report.stdout), ("stderr", &report.stderr)] {
        if !output.is_text() {
            document
                .insert(format!("{name}_base64"), Base64::encode_string(&output.bytes()).into());
        }
    }
}

/// Returns the number of bytes left out of each stream, as only its ends are kept.
pub fn left_out_json(report: &TaskReport) -> Value {
    json!({ "stdout": report.stdout.left_out_bytes(), "stderr": report.stderr.left_out_bytes() })
}

fn succeeded_code(end: &TaskOutcome) -> Option<i32> {
    match end {
        Ok(TaskResult { header: ReplyHeader::Exited { code, .. }, .. }) => *code,
        _ => None,
    }
}

/// Returns the reason why a task did not succeed, as JSON.
pub fn error_json(failure: &TaskFailure) -> Value {
    let remote = failure.remote();
    json!({
        "kind": failure.kind().map_or("disconnected", |kind| kind.as_str()),
        "type": remote.map(|remote| remote.type_name.clone()),
        "message": remote.map_or_else(|| failure.to_string(), |remote| remote.message.clone()),
        "traceback": remote.map(|remote| remote.traceback.clone()),
    })
}
