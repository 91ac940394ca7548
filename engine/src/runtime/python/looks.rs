//! Looks at an interpreter: its own answer, and where its threads are when it cannot give one.
//!
//! The interpreter is asked on its socket, and interrupted to read it. While code of C holds its
//! lock, it does not. Then it gets a signal at which Python's `faulthandler` writes the frames of
//! all threads behind the page, without the lock: nothing of them changes meanwhile. The signal is
//! sent only if the interpreter catches it, and to nobody else.

use std::fs;

use bytes::Bytes;
use furlong_wire::ids::SessionId;
use furlong_wire::limits::INSPECTED_BYTES_MAX;
use rustix::process::Signal;
use serde_json::{Value, json};
use tokio::time::{Duration, Instant};

use super::session::Session;
use crate::job::Look;
use crate::runtime::{SlotEvent, SlotJob};

/// Looks that wait for an interpreter.
const LOOKS_MAX: usize = 8;
/// An interpreter that has not answered for so long is in a call of C, most likely.
const ANSWER_AFTER: Duration = Duration::from_millis(500);
/// One that was sampled has so long for its answer, after the last sample.
const SAMPLED_AFTER: Duration = Duration::from_secs(2);
/// The signal is taken at once, unless the process is stopped.
const WRITTEN_AFTER: Duration = Duration::from_secs(1);
/// The pause between two looks for what the signal has brought about.
const WRITTEN_PAUSE: Duration = Duration::from_millis(5);
/// At this signal the interpreter writes where it is; the same as in `looks.py`.
const SIGNAL: Signal = Signal::STKFLT;
/// A flag of a look: whatever runs is shown.
const ALL: u8 = 1;
/// Files of the worker itself.
const WORKER: &str = "<furlong worker";

/// The looks that wait for an interpreter.
#[derive(Debug, Default)]
pub(super) struct Looks {
    waiting: Vec<Waiting>,
    /// The signal was sent: when it is looked for what it has brought about, and given up.
    written: Option<Written>,
}

#[derive(Debug)]
struct Waiting {
    look: Look,
    until: Instant,
}

#[derive(Debug)]
struct Written {
    next: Instant,
    until: Instant,
    /// Threads that had the signal blocked before it was sent: it is not they that handle it.
    blocking: Vec<String>,
}

impl Looks {
    /// The earlier one of that deadline and the time at which [`Session::handle_looks`] is to be
    /// called. Every turn asks: where nobody looks it costs next to nothing.
    pub(super) fn sooner(&self, deadline: Option<Instant>) -> Option<Instant> {
        if self.waiting.is_empty() {
            return deadline;
        }
        let written = self.written.as_ref().map(|written| written.next);
        let own = written.or_else(|| self.waiting.iter().map(|waiting| waiting.until).min());
        own.into_iter().chain(deadline).min()
    }

    fn take(&mut self, number: u64) -> Option<Look> {
        let at = self.waiting.iter().position(|waiting| waiting.look.number == number)?;
        Some(self.waiting.swap_remove(at).look)
    }
}

impl Session<'_> {
    /// Asks the interpreter.
    pub(super) fn look(&mut self, look: Look) {
        if self.closing.is_some() {
            return self.refuse_look(look, "the interpreter is ending");
        }
        if self.looks.waiting.len() >= LOOKS_MAX {
            return self.refuse_look(look, "too many others look there; try again");
        }
        let after = look.sampling.map_or(ANSWER_AFTER, |sampling| {
            Duration::from_millis(u64::from(sampling.length_ms)) + SAMPLED_AFTER
        });
        let flags = if look.all { ALL } else { 0 };
        self.outbox.push_frame(look.number, LOOK, flags, &body(&look));
        self.interrupts.request(true);
        self.looks.waiting.push(Waiting { look, until: Instant::now() + after });
    }

    /// The interpreter has answered.
    pub(super) fn handle_seen(&mut self, number: u64, attempt: Option<SlotJob>, json: &Bytes) {
        self.interrupts.handle_answer();
        // Code of the user's may have written this: it harms nobody but who asks for it.
        let Some(look) = self.looks.take(number) else { return };
        let is_over = json.len() > INSPECTED_BYTES_MAX;
        let refusal = json.starts_with(b"{\"refusal\": ").then(|| {
            let told: Option<Value> = serde_json::from_slice(json).ok();
            let text = told.and_then(|told| Some(told.get("refusal")?.as_str()?.to_owned()));
            text.unwrap_or_default()
        });
        let seen = match refusal {
            Some(why) => Err(why),
            None if is_over => Err("the interpreter has said too much".to_owned()),
            None => Ok(json.to_vec()),
        };
        self.context.emit(SlotEvent::Looked { look: Box::new(look), attempt, seen });
    }

    /// Some look may have waited too long for its answer.
    pub(super) fn handle_looks(&mut self, now: Instant) {
        if let Some(written) = &mut self.looks.written {
            if written.next > now {
                return;
            }
            written.next = now + WRITTEN_PAUSE;
            let text = self.interpreter.page.written(INSPECTED_BYTES_MAX);
            let is_done = !text.is_empty() && !is_handling(self.interpreter.pid(), written);
            if !is_done && now < written.until {
                return;
            }
            self.looks.written = None;
            return self.answer_written(now, &String::from_utf8_lossy(&text));
        }
        if !self.looks.waiting.iter().any(|waiting| waiting.until <= now) {
            return;
        }
        let pid = self.interpreter.pid();
        if !is_caught(pid) || self.interpreter.page.clear_written().is_err() {
            return self.refuse_due(
                now,
                "the interpreter does not answer: it is in a call of C, \
                                         and its code has put another handler in the place of ours",
            );
        }
        let (next, until) = (now + WRITTEN_PAUSE, now + WRITTEN_AFTER);
        let blocking = blocking_threads(pid);
        self.looks.written = Some(Written { next, until, blocking });
        self.interpreter.signal(SIGNAL);
    }

    /// Answers those that have waited too long with what the interpreter has written.
    fn answer_written(&mut self, now: Instant, text: &str) {
        let threads = threads_of(text);
        if threads.is_empty() {
            return self.refuse_due(
                now,
                "the interpreter responds to no signal: it is stopped, or \
                                         in a call of the system that does not end",
            );
        }
        let attempt = self.begun();
        for look in self.take_due(now) {
            let told = |thread: &&WrittenThread| look.all || thread.is_current;
            let shown: Vec<Value> =
                threads.iter().filter(told).map(WrittenThread::to_json).collect();
            let left_out = threads.len() - shown.len();
            let seen = json!({ "threads": shown, "left_out": left_out, "in_c": true });
            let seen = Ok(seen.to_string().into_bytes());
            // Nothing is said of samples: there are none.
            let look = Box::new(Look { sampling: None, ..look });
            self.context.emit(SlotEvent::Looked { look, attempt, seen });
        }
    }

    fn take_due(&mut self, now: Instant) -> Vec<Look> {
        let due = self.looks.waiting.extract_if(.., |waiting| waiting.until <= now);
        due.map(|waiting| waiting.look).collect()
    }

    fn refuse_due(&mut self, now: Instant, why: &str) {
        for look in self.take_due(now) {
            self.refuse_look(look, why);
        }
    }

    /// The interpreter has ended.
    pub(super) fn refuse_looks(&mut self) {
        for waiting in std::mem::take(&mut self.looks.waiting) {
            self.refuse_look(waiting.look, "the interpreter has ended meanwhile");
        }
    }

    fn refuse_look(&self, look: Look, why: &str) {
        self.context.emit(SlotEvent::Looked {
            look: Box::new(look),
            attempt: None,
            seen: Err(why.to_owned()),
        });
    }
}

/// What follows a look's header: `HEAD` in `looks.py`, and the sessions.
fn body(look: &Look) -> Vec<u8> {
    let attempt = look.attempt.map_or(u64::MAX, |attempt| attempt.0);
    let (length_ms, per_s) =
        look.sampling.map_or((0, 0), |sampling| (sampling.length_ms, sampling.per_s));
    let mut body = attempt.to_le_bytes().to_vec();
    body.extend(length_ms.to_le_bytes());
    body.extend(per_s.to_le_bytes());
    look.sessions.iter().for_each(|session| body.extend(number_of(*session).to_le_bytes()));
    body
}

/// A number that stands for a session in the interpreter: session ids are random.
pub(super) fn number_of(session: SessionId) -> u64 {
    let (head, _) = session.0.split_first_chunk().expect("an id has 16 bytes");
    u64::from_le_bytes(*head)
}

/// A thread as `faulthandler` has written it.
#[derive(Debug, PartialEq, Eq)]
struct WrittenThread {
    /// The one that the signal has reached: the main one, unless that has blocked it.
    is_current: bool,
    /// The innermost frame first: file, line, function.
    frames: Vec<(String, u64, String)>,
}

impl WrittenThread {
    fn to_json(&self) -> Value {
        let frames: Vec<Value> =
            self.frames.iter().map(|(file, line, name)| json!([file, line, name, ""])).collect();
        json!({ "name": if self.is_current { "MainThread" } else { "thread" }, "frames": frames })
    }
}

/// Reads what `faulthandler` has written.
fn threads_of(text: &str) -> Vec<WrittenThread> {
    let mut threads: Vec<WrittenThread> = Vec::new();
    for line in text.lines() {
        if line.starts_with("Current thread ") || line.starts_with("Thread ") {
            let is_current = line.starts_with("Current");
            threads.push(WrittenThread { is_current, frames: Vec::new() });
        } else if let (Some(thread), Some(frame)) = (threads.last_mut(), frame_of(line)) {
            thread.frames.push(frame);
        }
    }
    // The bootstrap that has begun the worker is the outermost one.
    for thread in &mut threads {
        thread.frames.retain(|(file, ..)| !file.starts_with(WORKER));
        if thread.is_current && thread.frames.last().is_some_and(|(file, ..)| file == "<string>") {
            thread.frames.pop();
        }
    }
    threads.sort_by_key(|thread| !thread.is_current);
    threads
}

/// A line as `  File "a.py", line 3 in f`.
fn frame_of(line: &str) -> Option<(String, u64, String)> {
    let (place, name) = line.trim_start().strip_prefix("File ")?.rsplit_once(" in ")?;
    let (file, number) = place.rsplit_once(", line ")?;
    let file = file.trim_matches('"').to_owned();
    Some((file, number.parse().unwrap_or(0), name.to_owned()))
}

/// Returns true if the process has a handler for the signal.
fn is_caught(pid: i32) -> bool {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    has_signal(&status, "SigCgt:")
}

/// The threads that have the signal blocked, by their numbers.
fn blocking_threads(pid: i32) -> Vec<String> {
    let Ok(threads) = fs::read_dir(format!("/proc/{pid}/task")) else { return Vec::new() };
    let names = threads.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned());
    let blocks = |thread: &String| {
        let status = fs::read_to_string(format!("/proc/{pid}/task/{thread}/status"));
        status.is_ok_and(|status| has_signal(&status, "SigBlk:") || has_signal(&status, "SigPnd:"))
    };
    names.filter(blocks).collect()
}

/// Returns true if the signal still waits, or a thread is in its handler: that blocks it.
fn is_handling(pid: i32, written: &Written) -> bool {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    has_signal(&status, "ShdPnd:")
        || blocking_threads(pid).iter().any(|thread| !written.blocking.contains(thread))
}

fn has_signal(status: &str, set: &str) -> bool {
    let mask = status.lines().find_map(|line| line.strip_prefix(set));
    let mask = mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    mask.is_some_and(|mask| mask >> (SIGNAL.as_raw() - 1) & 1 == 1)
}

/// The kind of a request that is a look.
const LOOK: u8 = 23;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_faulthandler_writes_is_read_without_the_workers_frames() {
        let text = "Thread 0x00007f01 (most recent call first):\n  \
            File \"/usr/lib/python3/threading.py\", line 355 in wait\n\n\
            Current thread 0x00007f02 (most recent call first):\n  \
            File \"a in b, line 3.py\", line 12 in work\n  \
            File \"<furlong worker furlong_worker.calls>\", line 3 in apply\n  \
            File \"<string>\", line 17 in <module>\n";
        let threads = threads_of(text);
        let work = ("a in b, line 3.py".to_owned(), 12, "work".to_owned());
        assert!(threads[0].is_current && threads.len() == 2);
        assert_eq!(threads[0].frames, [work]);
        assert_eq!(threads[1].frames[0].1, 355);
        assert!(threads_of("nothing\n  File ???\n").is_empty());
    }

    #[test]
    fn the_signal_is_found_in_a_set_of_the_systems() {
        assert!(has_signal("Name:\tx\nSigCgt:\t0000000000008002\n", "SigCgt:"));
        assert!(!has_signal("SigCgt:\t0000000000007fff\n", "SigCgt:"));
        assert!(!has_signal("SigBlk:\t0000000000008000\n", "SigCgt:"));
    }
}
