//! The end of a session: the interpreter is killed, or dies, and what it had is accounted for.

use std::io;
use std::mem;
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;

use tokio::time::{Duration, Instant};

use super::protocol::{Control, Inbox, NoRoom, ProtocolBroken};
use super::session::{Fault, Session, SessionEnd};
use super::slot::cancelled_reply;
use crate::runtime::{AttemptOutcome, SlotEvent, SlotJob, Unable};

impl Session<'_> {
    /// A job that the interpreter has and has begun, as it says itself. It may just have ended.
    pub(super) fn begun(&self) -> Option<SlotJob> {
        Some(self.interpreter.page.last_begun()).filter(|attempt| self.is_sent(*attempt))
    }

    /// Some grace period is over.
    pub(super) fn handle_deadline(&mut self) {
        let now = Instant::now();
        if self.closing.is_some_and(|kill_at| kill_at <= now) {
            self.interpreter.kill();
            self.closing = Some(now + self.shared.config.kill_grace);
        }
        self.interrupts.handle_deadline(now);
        self.handle_looks(now);
        let begun = self.begun();
        for forced in &mut self.forced {
            if forced.kill_at > now {
                continue;
            }
            forced.kill_at = now + self.shared.config.kill_grace;
            // One that has not begun is answered when its turn comes: no reason to kill another.
            if begun == Some(forced.attempt) {
                self.fault = Some(Fault::KilledFor(forced.attempt));
                self.interpreter.kill();
            }
        }
    }

    /// Lets the interpreter end gracefully: what it runs is interrupted, nothing more begins, and
    /// what its code has asked for at its end is done. One that has not ended in time is killed.
    pub(super) fn end(&mut self, fault: Fault) {
        self.fault = Some(fault);
        if self.closing.is_some() {
            return;
        }
        self.outbox.push_control(Control::End);
        self.cut_short = self.begun();
        if self.cut_short.is_some() {
            self.interrupts.request_end();
        }
        self.is_ending = true;
        self.closing = Some(Instant::now() + END_GRACE);
    }

    /// Reports what the dead interpreter still had said, then its death, then the end of what it
    /// ran, and gives back what had not begun.
    pub(super) fn handle_exit(mut self, status: io::Result<ExitStatus>) -> SessionEnd {
        while let Ok(room) = self.inbox.room()
            && let Ok(1..) = self.interpreter.replies.try_read_buf(room)
            && self.handle_frames().is_ok()
        {}
        self.handle_unsent();
        self.refuse_looks();
        let running = self.begun();
        let items = self.interpreter.page.items();
        if let Some(attempt) = running {
            self.emit_held(attempt);
        }
        self.emit_unread(running);
        let killed_by = self.killed_by(&status);
        let cause = self.cause(status);
        let is_asked =
            matches!(self.fault, Some(Fault::KilledFor(_) | Fault::Restarted | Fault::EngineEnds));
        let died_unused = self.is_unused && running.is_none() && !is_asked && !self.sent.is_empty();
        self.context.note_lost(cause.lines().next().unwrap_or_default());
        let killed_for = self.fault == running.map(Fault::KilledFor);
        self.interpreter.bury(self.shared);
        self.context.emit(SlotEvent::Down { cause: cause.clone() });
        match running {
            Some(attempt) if killed_for => {
                let reply = cancelled_reply("cancelled, and its interpreter killed");
                self.context.emit(SlotEvent::Finished { attempt, reply });
            }
            Some(attempt) => {
                let cause =
                    items.map_or(cause.clone(), |(first, items)| with_items(&cause, first, items));
                self.context.emit_killed(attempt, cause, killed_by);
            }
            None => {}
        }
        if died_unused && self.is_last {
            let line = cause.lines().next().unwrap_or_default();
            let text = format!("the interpreter ends before a task can begin: {line}");
            let first = self.sent.pop_front().map(|sent| sent.attempt);
            let unable = AttemptOutcome::NotBegun(Unable::Runtime);
            if let Some(attempt) = first {
                self.context.emit_error(attempt, unable.clone(), text.clone());
            }
        }
        let sent = mem::take(&mut self.sent).into_iter().map(|sent| sent.attempt);
        let mut attempts: Vec<SlotJob> = sent.filter(|attempt| Some(*attempt) != running).collect();
        attempts.extend(self.context.queue().drain(..).map(|job| job.attempt));
        if !attempts.is_empty() {
            self.context.emit(SlotEvent::Recalled { attempts });
        }
        if died_unused { SessionEnd::DiedUnused } else { SessionEnd::InterpreterDown }
    }

    /// Takes the replies that the worker had kept to send them together. Some may have been sent
    /// already.
    fn handle_unsent(&mut self) {
        self.inbox = Inbox::of(&self.interpreter.page.unsent());
        self.is_dead = true;
        // Code that wrote into this memory has harmed only its own slot: the rest is given back.
        let _ = self.handle_frames();
    }

    /// The signal by which the interpreter has died, if nobody here has ended it.
    fn killed_by(&self, status: &io::Result<ExitStatus>) -> Option<i32> {
        let is_ours = !matches!(self.fault, None | Some(Fault::SocketClosed));
        status.as_ref().ok()?.signal().filter(|_| !is_ours)
    }

    fn cause(&mut self, status: io::Result<ExitStatus>) -> String {
        match (status, self.fault) {
            (_, Some(Fault::KilledFor(_))) => {
                "the interpreter was killed to cancel a task".to_owned()
            }
            (_, Some(Fault::Restarted)) => RESTARTED.to_owned(),
            (_, Some(Fault::EngineEnds)) => "the engine has ended".to_owned(),
            (Ok(_), Some(Fault::ProtocolBroken)) => ProtocolBroken.to_string(),
            (Ok(_), Some(Fault::NoRoom)) => NoRoom.to_string(),
            (Ok(status), Some(Fault::SocketClosed)) if status.success() => {
                "the code has closed all files, or become another program".to_owned()
            }
            (Ok(status), _) => self.interpreter.death_cause(status),
            (Err(error), _) => format!("the interpreter is gone: {error}"),
        }
    }
}

/// The time that an interpreter has to exit gracefully: to leave running code, to end its threads,
/// to do what that code has registered with `atexit`, and to write its files. Less than any starter
/// of engines waits for these.
pub(super) const END_GRACE: Duration = Duration::from_secs(3);

/// Adds which item of a map ran: clients read it, to lose no other (`ITEMS` in `map_subtasks.py`).
fn with_items(cause: &str, first: u64, items: u64) -> String {
    format!("{cause} [items {first}+{items} of its part of the map]")
}

/// The reason why a restarted interpreter is gone.
pub(crate) const RESTARTED: &str = "the interpreter was restarted on request";
