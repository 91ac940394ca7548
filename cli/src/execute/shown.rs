//! The display of an execution, whether it failed or not.

use anyhow::Result;
use furlong_client::{Display, TaskOutcome};
use furlong_host::printable;
use furlong_wire::call::ReplyHeader;
use furlong_wire::message::Stream;
use serde_json::{Value, json};

use crate::ended::{self, Printed};
use crate::print;

struct Shown {
    engine: String,
    count: Option<u64>,
    stdout: Vec<u8>,
    stderr: Vec<u8>,
    value: Option<String>,
    displays: Vec<Display>,
    error: Option<String>,
}

impl Shown {
    fn of(end: &TaskOutcome) -> Self {
        let report = ended::report(end);
        let (count, value, displays, error) = match end {
            Ok(result) => match &result.header {
                ReplyHeader::Executed { count, repr, displays } => {
                    (Some(*count), repr.clone(), displays.clone(), None)
                }
                _ => (None, None, Vec::new(), None),
            },
            Err(failure) => match failure.remote() {
                Some(remote) if remote.traceback.is_empty() => {
                    (remote.execution, None, Vec::new(), Some(remote.to_string()))
                }
                Some(remote) => {
                    (remote.execution, None, Vec::new(), Some(remote.traceback.clone()))
                }
                None => (None, None, Vec::new(), Some(failure.to_string())),
            },
        };
        Self {
            engine: report.engine.map_or("?".to_owned(), |id| id.to_string()),
            count,
            stdout: report.stdout.bytes(),
            stderr: report.stderr.bytes(),
            value,
            displays,
            error,
        }
    }

    fn count(&self) -> String {
        self.count.map_or("?".to_owned(), |count| count.to_string())
    }

    /// Prints displays that are more than text: their text, if it is not the value's, their types
    /// and their sizes.
    fn print_displays(&self) -> Result<()> {
        for display in &self.displays {
            let rich: Vec<String> = display
                .data
                .iter()
                .filter(|(kind, _)| *kind != "text/plain")
                .map(|(kind, data)| format!("{kind}, {}", print::bytes(data.len() as u64)))
                .collect();
            let text = display.data.get("text/plain").filter(|_| !display.is_value);
            let text = text.map_or(String::new(), |text| text.trim_end_matches('\n').to_owned());
            let line = match (text.as_str(), rich.join("; ")) {
                ("", rich) if rich.is_empty() => continue,
                ("", rich) => format!("({rich})"),
                (text, rich) if rich.is_empty() => text.to_owned(),
                (text, rich) => format!("{text} ({rich})"),
            };
            print::lines(format!("[{}] Display[{}]: {line}", self.engine, self.count()))?;
        }
        Ok(())
    }

    /// Standard error as it was written, and the traceback.
    fn print_errors(&self, mut errors: Vec<u8>) -> Result<()> {
        if let Some(error) = &self.error {
            separate(&mut errors);
            errors.extend(printable::lines(error).bytes());
        }
        if errors.is_empty() {
            return Ok(());
        }
        self.print_under("Err", Stream::Stderr, &errors)
    }

    /// Prints text that is fit, or the task's own bytes, under a heading.
    fn print_under(&self, heading: &str, stream: Stream, text: &[u8]) -> Result<()> {
        print::headed(stream, &format!("[{}] {heading}[{}]: ", self.engine, self.count()), text)
    }
}

/// Prints all of it, in the format of the documents.
pub fn print(code: &str, end: &TaskOutcome) -> Result<()> {
    let shown = Shown::of(end);
    let (engine, count) = (&shown.engine, shown.count());
    print::lines(format!("[{engine}] In [{count}]: {}", code.trim_end_matches('\n')))?;
    let mut out = shown.stdout.clone();
    if let Some(value) = &shown.value {
        separate(&mut out);
        out.extend(printable::lines(value).bytes());
    }
    if !out.is_empty() {
        shown.print_under("Out", Stream::Stdout, &out)?;
    }
    shown.print_displays()?;
    shown.print_errors(shown.stderr.clone())
}

/// Prints what has not been printed while it ran.
pub fn print_after_live(end: &TaskOutcome, mut printed: Printed) -> Result<()> {
    let shown = Shown::of(end);
    printed.rest(&format!("engine {}", shown.engine), ended::report(end))?;
    printed.end_line()?;
    if let Some(value) = &shown.value {
        print::lines(format!("[{}] Out[{}]: {value}", shown.engine, shown.count()))?;
    }
    shown.print_displays()?;
    shown.print_errors(Vec::new())
}

/// Makes the following text begin on a line of its own.
fn separate(text: &mut Vec<u8>) {
    if !text.is_empty() && !text.ends_with(b"\n") {
        text.push(b'\n');
    }
}

/// The same for programs.
pub fn as_json(end: &TaskOutcome) -> Value {
    let shown = Shown::of(end);
    let report = ended::report(end);
    let mut document = json!({
        "engine": report.engine.map(|id| id.0),
        "task": report.id.to_string(),
        "ok": end.is_ok(),
        "count": shown.count,
        "stdout": report.stdout.text(),
        "stderr": report.stderr.text(),
        "left_out_bytes": ended::left_out_json(report),
        "value": shown.value,
        "displays": shown.displays.iter().map(|display| json!({
            "data": display.data, "is_value": display.is_value,
        })).collect::<Vec<_>>(),
        "error": end.as_ref().err().map(ended::error_json),
        "run_us": report.times.run.run_us,
    });
    if let Value::Object(document) = &mut document {
        ended::note_bytes_of_output(document, report);
    }
    document
}
