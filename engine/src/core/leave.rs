//! The end of an engine process: at once, or when it has finished what it runs and given away what
//! it holds.

use std::time::Duration;

use furlong_wire::limits::HEARTBEAT_DEAD_MS;

use super::{Core, Output};

/// The wish that the process ends, if there is one.
#[derive(Debug, Default)]
pub(super) struct Leaving {
    /// The reason to end at once.
    at_once: Option<String>,
    drain: Option<Drain>,
    drain_timeout: Option<Duration>,
}

/// A process that takes nothing new, finishes what it runs, and then leaves.
#[derive(Debug)]
struct Drain {
    reason: String,
    since: Option<Duration>,
    /// Since when it has results and nobody to give them to.
    alone: Option<Duration>,
}

impl Leaving {
    /// The reason why it takes nothing new, if so.
    pub(super) fn draining(&self) -> Option<&str> {
        self.drain.as_ref().map(|drain| drain.reason.as_str())
    }
}

impl Core {
    /// Sets how long a draining process may take to finish what it runs; without it, any time.
    pub fn set_drain_timeout(&mut self, timeout: Option<Duration>) {
        self.leaving.drain_timeout = timeout;
    }

    /// Somebody asks the process to end when it has finished what it runs. The second time it ends
    /// at once: whoever repeats it does not want to wait.
    pub fn handle_stop(&mut self, reason: &str) {
        if self.leaving.drain.is_none() {
            self.drain(reason);
        } else {
            self.leave(reason);
        }
    }

    /// The process is to end at once.
    pub fn leave(&mut self, reason: &str) {
        self.leaving.at_once = Some(reason.to_owned());
    }

    /// Takes nothing new from now on, and gives back what has not begun. [`Core::poll_leave`] says
    /// when all is done.
    pub fn drain(&mut self, reason: &str) {
        if self.leaving.drain.is_some() {
            return;
        }
        self.leaving.drain = Some(Drain { reason: reason.to_owned(), since: None, alone: None });
        self.outputs.push_back(Output::Draining(reason.to_owned()));
        self.give_all_back();
    }

    /// Returns true if somebody wants the process to end.
    pub fn is_leaving(&self) -> bool {
        self.leaving.at_once.is_some() || self.leaving.drain.is_some()
    }

    /// Returns the reason to leave now, if there is one: the process says goodbye and ends.
    /// `has_sent` says that nothing waits to be written to the broker.
    pub fn poll_leave(&mut self, now: Duration, has_sent: bool) -> Option<String> {
        if let Some(reason) = self.leaving.at_once.take() {
            return Some(reason);
        }
        let timeout = self.leaving.drain_timeout;
        let drain = self.leaving.drain.as_mut()?;
        let since = *drain.since.get_or_insert(now);
        if timeout.is_some_and(|timeout| now.saturating_sub(since) >= timeout) {
            return Some(format!("{}; what runs has not finished in time", drain.reason));
        }
        // Each time anew: a broker that comes back now and then may still take everything.
        if self.connected {
            drain.alone = None;
        }
        let is_done = if self.connected {
            has_sent && self.is_drained()
        } else if self.has_work() {
            // It goes on without a broker, which may come back for the result.
            false
        } else {
            !self.has_results() || self.wait_alone(now)
        };
        is_done.then(|| self.leaving.draining().unwrap_or_default().to_owned())
    }

    /// True if the process has had results, and no broker that takes them, for so long that an
    /// engine is given up: the broker may come back, but not for ever.
    fn wait_alone(&mut self, now: Duration) -> bool {
        let drain = self.leaving.drain.as_mut().expect("a process is alone while it drains");
        let since = *drain.alone.get_or_insert(now);
        now.saturating_sub(since) >= Duration::from_millis(HEARTBEAT_DEAD_MS)
    }
}
