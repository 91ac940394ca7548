//! The end of an engine process: at once, or when it has finished what it runs and given away what
//! it holds. And the end of its job, which a batch system brings about by signals to all of its
//! processes: what dies of that is given back.

use std::time::Duration;

use furlong_wire::limits::HEARTBEAT_DEAD_MS;

use super::{Core, Output};
use crate::job::{AttemptEnd, AttemptOutcome, SlotIndex, SlotJob, error};
use furlong_wire::call::ReplyHeader;

/// The time limits of a process, each none if there is none.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Limits {
    /// How long a draining process may take to finish what it runs.
    pub drain: Option<Duration>,
    /// How long it stays without a broker when it has nothing to run.
    pub without_broker: Option<Duration>,
    /// How long it stays when it has nothing to run.
    pub idle: Option<Duration>,
    /// The end of its job, by the clock of [`Core::handle_tick`].
    pub end: Option<End>,
}

/// The end of a process's job.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct End {
    /// From when on it takes nothing new.
    pub drain_at: Duration,
    /// When it stops what it still runs.
    pub stop_at: Duration,
}

/// The wish that the process ends, if there is one.
#[derive(Debug, Default)]
pub(super) struct Leaving {
    /// The reason to end at once.
    at_once: Option<AtOnce>,
    drain: Option<Drain>,
    limits: Limits,
    /// Since when there is no broker, and since when there is nothing to run.
    without_broker: Option<Duration>,
    idle: Option<Duration>,
    killed: Vec<Killed>,
}

/// The reason to end at once.
#[derive(Debug)]
struct AtOnce {
    reason: String,
    /// True if what runs is given back: it is stopped by no fault of its own, nor of the engine.
    gives_back: bool,
}

/// A process that takes nothing new, finishes what it runs, and then leaves.
#[derive(Debug)]
struct Drain {
    reason: String,
    since: Option<Duration>,
    /// Since when it has results and nobody to give them to.
    alone: Option<Duration>,
}

/// A job that a signal has ended which nobody here has sent. If this process is to end as well,
/// that is why; until that is known, nothing is said of it.
#[derive(Debug)]
struct Killed {
    slot: SlotIndex,
    job: SlotJob,
    reply: AttemptEnd,
    since: Option<Duration>,
}

/// The signals that batch systems send to all processes of a job: SIGINT, SIGKILL, SIGUSR1,
/// SIGUSR2, SIGTERM and SIGXCPU.
const OF_A_JOBS_END: [i32; 6] = [2, 9, 10, 12, 15, 24];
/// How long a job's death is kept. With the interval of ticks it is a second at most.
const KILLED_KEPT: Duration = Duration::from_millis(750);

impl Leaving {
    /// The reason why it takes nothing new, if so.
    pub(super) fn draining(&self) -> Option<&str> {
        self.drain.as_ref().map(|drain| drain.reason.as_str())
    }

    /// Returns true if a slot's job was killed, and it is not known by whom.
    pub(super) fn has_killed(&self, slot: SlotIndex) -> bool {
        self.killed.iter().any(|killed| killed.slot == slot)
    }
}

impl Core {
    /// Sets the time limits; without them there are none.
    pub fn set_limits(&mut self, limits: Limits) {
        self.leaving.limits = limits;
    }

    /// Somebody asks the process to end when it has finished what it runs. The second time it ends
    /// at once: whoever repeats it does not want to wait.
    pub fn handle_stop(&mut self, reason: &str) {
        if self.leaving.drain.is_none() {
            self.drain(reason);
        } else {
            self.stop_running(reason.to_owned());
        }
    }

    /// The process is to end at once.
    pub fn leave(&mut self, reason: &str) {
        self.give_back_killed();
        self.leaving.at_once = Some(AtOnce { reason: reason.to_owned(), gives_back: false });
    }

    /// The process is to end at once, and gives back what it runs.
    fn stop_running(&mut self, reason: String) {
        self.leaving.at_once.get_or_insert(AtOnce { reason, gives_back: true });
    }

    /// Takes nothing new from now on, and gives back what has not begun. [`Core::poll_leave`] says
    /// when all is done.
    pub fn drain(&mut self, reason: &str) {
        self.give_back_killed();
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

    /// Looks at the time: call it a few times a second. A process whose job ends soon, that has had
    /// no broker or nothing to run for too long, begins to leave.
    pub fn handle_tick(&mut self, now: Duration) {
        self.settle_killed(now);
        let Limits { without_broker, idle, end, .. } = self.leaving.limits;
        if let Some(End { drain_at, stop_at }) = end {
            if now >= stop_at {
                self.stop_running("its time limit is near".to_owned());
            } else if now >= drain_at {
                self.drain("its time limit comes near");
            }
        }
        let has_work = self.has_work();
        let since = |since: &mut Option<Duration>, is_so: bool| {
            *since = is_so.then(|| since.unwrap_or(now));
            since.map(|since| now.saturating_sub(since))
        };
        let alone = since(&mut self.leaving.without_broker, !self.connected);
        let nothing_to_run = since(&mut self.leaving.idle, !has_work);
        if let Some(limit) = without_broker.filter(|limit| alone >= Some(*limit) && !has_work) {
            self.leave(&format!("there was no broker for {} s", limit.as_secs()));
        } else if let Some(limit) = idle.filter(|limit| nothing_to_run >= Some(*limit)) {
            self.drain(&format!("there was nothing to run for {} s", limit.as_secs()));
        }
    }

    /// Returns the reason to leave now, if there is one: the process does what is polled after
    /// that, says goodbye and ends. `has_sent` says that nothing waits to be written to the broker.
    pub fn poll_leave(&mut self, now: Duration, has_sent: bool) -> Option<String> {
        if let Some(AtOnce { reason, gives_back }) = self.leaving.at_once.take() {
            if gives_back {
                self.give_back_running();
            }
            return Some(reason);
        }
        let timeout = self.leaving.limits.drain;
        let drain = self.leaving.drain.as_mut()?;
        let since = *drain.since.get_or_insert(now);
        if timeout.is_some_and(|timeout| now.saturating_sub(since) >= timeout) {
            let reason = format!("{}; what runs has not finished in time", drain.reason);
            self.give_back_running();
            return Some(reason);
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

    /// A slot says that a job has ended. If it was killed as a batch system does, its end is kept
    /// until it is known if this process is to end as well.
    pub(super) fn slot_finished(&mut self, slot: SlotIndex, job: SlotJob, reply: AttemptEnd) {
        let is_of_job = reply.killed_by.is_some_and(|signal| OF_A_JOBS_END.contains(&signal));
        let is_asked_for = |work: &super::Work| work.cancelled || work.signalled;
        if !is_of_job || self.work.get(&job).is_none_or(is_asked_for) {
            return self.finished(slot, job, reply);
        }
        self.leaving.killed.push(Killed { slot, job, reply, since: None });
        if self.is_leaving() {
            self.give_back_killed();
        }
    }

    /// This process was not told to end for a while: jobs that were killed have ended so.
    fn settle_killed(&mut self, now: Duration) {
        if self.leaving.killed.is_empty() {
            return;
        }
        let is_over = |killed: &mut Killed| {
            now.saturating_sub(*killed.since.get_or_insert(now)) >= KILLED_KEPT
        };
        let over: Vec<Killed> = self.leaving.killed.extract_if(.., is_over).collect();
        for Killed { slot, job, reply, .. } in over {
            self.finished(slot, job, reply);
            self.advance(slot);
        }
    }

    /// This process ends as well, or seems to: jobs that were killed are given back.
    pub(super) fn give_back_killed(&mut self) {
        for Killed { slot, job, .. } in std::mem::take(&mut self.leaving.killed) {
            self.finished(slot, job, given_back());
            self.advance(slot);
        }
    }

    /// Gives back all that is here: what has begun ends here, and may run again elsewhere.
    fn give_back_running(&mut self) {
        self.give_back_killed();
        // First, so that nothing of it begins when what is before it has ended.
        let waiting: Vec<SlotJob> =
            self.slots.iter().flat_map(|slot| slot.waiting.iter().copied()).collect();
        self.give_back(&waiting);
        let running: Vec<(SlotIndex, SlotJob)> = (0..)
            .zip(&self.slots)
            .flat_map(|(slot, place)| place.running.iter().map(move |job| (slot, *job)))
            .collect();
        for (slot, job) in running {
            if self.work.get(&job).is_some_and(|work| !work.cancelled) {
                self.finished(slot, job, given_back());
            }
        }
    }
}

/// The end of a job that is stopped with the engine's own.
fn given_back() -> AttemptEnd {
    let header = ReplyHeader::Raised(error("EngineError", "the engine was stopped by its job"));
    AttemptEnd::without_data(AttemptOutcome::GivenBack, header)
}

#[cfg(test)]
mod tests {
    use rustix::process::Signal;

    use super::OF_A_JOBS_END;

    #[test]
    fn signals_of_a_jobs_end_are_what_they_are_called() {
        let named = [Signal::INT, Signal::KILL, Signal::USR1, Signal::USR2, Signal::TERM];
        let named = named.into_iter().chain([Signal::XCPU]).map(Signal::as_raw);
        assert_eq!(named.collect::<Vec<_>>(), OF_A_JOBS_END);
    }
}
