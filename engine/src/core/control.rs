//! The broker's control of work that is here: to end it, to signal it, to give it back. And how a
//! process leaves.

use furlong_wire::ids::{Attempt, TaskId};
use furlong_wire::limits::LISTED_MAX;
use furlong_wire::message::{
    Attempts, Draining, FromEngine, Inspect, Inspected, Measured, Runtime, SlotDown,
};

use super::held::shorten;
use super::{Core, Early, Output};
use crate::job::{AttemptEnd, Look, SlotIndex, SlotJob};

/// Attempts that are not here and of which something is noted: mostly they have gone back. The
/// oldest are forgotten.
const EARLY_MAX: usize = 4096;

impl Core {
    pub(super) fn cancel(&mut self, attempt: Attempt, force: bool) {
        let Some((job, slot, runtime)) = self.find(attempt) else {
            return self.note_early(attempt, Early::Cancel(force));
        };
        // No runtime has it: nobody else would say that it has ended.
        if self.slots[slot as usize].waiting.contains(&job) {
            self.finished(slot, job, AttemptEnd::cancelled_before_it_began());
        } else {
            self.work.get_mut(&job).expect("it was found a moment ago").cancelled = true;
            self.outputs.push_back(Output::Cancel(slot, runtime, job, force));
        }
    }

    /// Passes a signal on to the job's runtime, which must say whether the job runs now.
    pub(super) fn signal(&mut self, attempt: Attempt, signal: i32) {
        // It has ended: a signal is for what runs now, and is not kept for later.
        let Some((job, slot, runtime)) = self.find(attempt) else { return };
        if !self.slots[slot as usize].waiting.contains(&job) {
            self.work.get_mut(&job).expect("it was found a moment ago").signalled = true;
            self.outputs.push_back(Output::Signal(slot, runtime, job, signal));
        }
    }

    /// Asks a slot's interpreter where it is, or says why not.
    pub(super) fn inspect(&mut self, inspect: Inspect) {
        let Inspect { number, slot, attempt, sessions, all, sampling } = inspect;
        let found = attempt.map(|attempt| self.find(attempt));
        let running = |slot: SlotIndex| {
            let running = self.slots.get(slot as usize)?.running.front()?;
            Some(self.work.get(running)?.runtime)
        };
        let (job, slot, runtime) = match found {
            Some(None) => {
                return self.inspected(number, None, Err("the task has just ended".into()));
            }
            Some(Some((job, slot, runtime))) => (Some(job), slot, Some(runtime)),
            None => (None, slot, running(slot)),
        };
        let has_no_frames = |runtime: &Runtime| *runtime != Runtime::Python;
        if let Some(runtime) = runtime.filter(has_no_frames) {
            let what = if runtime == Runtime::Command { "a program" } else { "a native function" };
            let why = format!("{what} runs there: only Python code has frames that can be shown");
            return self.inspected(number, None, Err(why));
        }
        if self.slots.len() <= slot as usize {
            return self.inspected(number, None, Err("there is no such slot".into()));
        }
        let look = Look { number, attempt: job, sessions, all, sampling };
        self.outputs.push_back(Output::Look(slot, look));
    }

    /// A slot's interpreter has said where it is. It shows what runs now: whose that is, is known
    /// only here.
    pub(super) fn looked(
        &mut self,
        look: &Look,
        job: Option<SlotJob>,
        seen: Result<Vec<u8>, String>,
    ) {
        let work = job.and_then(|job| self.work.get(&job));
        let attempt = work.map(|work| work.attempt);
        let is_own = work.is_some_and(|work| look.sessions.contains(&work.session));
        // Samples were taken only while that was so.
        let may_see = look.all || is_own || look.sampling.is_some();
        let is_wanted = look.attempt.is_none_or(|wanted| job == Some(wanted));
        let is_shown = may_see && (is_wanted || look.sampling.is_some());
        let seen = seen.and_then(|seen| {
            let over = || "what ran there has just ended; ask again".to_owned();
            is_shown.then_some(seen).ok_or_else(over)
        });
        self.inspected(look.number, attempt.filter(|_| look.all || is_own), seen);
    }

    fn inspected(&mut self, number: u64, attempt: Option<Attempt>, seen: Result<Vec<u8>, String>) {
        // A broker that is away has told its client that there is no answer.
        if !self.connected {
            return;
        }
        let (refusal, contents) = match seen {
            Ok(contents) => (None, contents),
            Err(why) => (Some(why), Vec::new()),
        };
        self.send(FromEngine::Inspected(Inspected { number, attempt, refusal, contents }));
    }

    /// Takes what was measured. It is of the moment: a broker that is away never asks for it.
    pub fn handle_measured(&mut self, mut measured: Measured) {
        if self.connected {
            measured.slots.truncate(self.registered_slots());
            self.send(FromEngine::Measured(measured));
        }
    }

    pub(super) fn restart(&mut self, slots: &[SlotIndex]) {
        let known: Vec<SlotIndex> =
            slots.iter().copied().filter(|slot| self.is_registered(*slot)).collect();
        self.outputs.extend(known.into_iter().map(Output::Restart));
    }

    pub(super) fn recall(&mut self, attempt: Attempt) {
        let Some((job, slot, runtime)) = self.find(attempt) else {
            return self.note_early(attempt, Early::Recall);
        };
        let place = &self.slots[slot as usize];
        if place.waiting.contains(&job) {
            self.handle_recalled(job);
        } else if place.running.front() != Some(&job) {
            // The first one runs. Of the others the runtime alone knows which it has begun.
            self.outputs.push_back(Output::Recall(slot, runtime, job));
        }
    }

    /// An attempt is not here: it has ended or gone back, or its assignment is still on its way.
    fn note_early(&mut self, attempt: Attempt, what: Early) {
        // It has ended, or the broker of an earlier start speaks: no assignment of it will come.
        if self.results.holds(attempt) || attempt.start != self.start {
            return;
        }
        // The stronger command stays: by force, then a cancel, then a recall.
        match self.early.get(&attempt) {
            Some(Early::Cancel(true)) => {}
            Some(Early::Cancel(false)) if matches!(what, Early::Recall) => {}
            _ => _ = self.early.insert(attempt, what),
        }
        if self.early.len() > EARLY_MAX {
            self.early.pop_first();
        }
    }

    /// Carries out the commands that came before their attempts' assignments.
    pub(super) fn respond_early(&mut self, attempts: impl Iterator<Item = Attempt>) {
        if self.early.is_empty() {
            return;
        }
        for attempt in attempts {
            match self.early.remove(&attempt) {
                Some(Early::Cancel(force)) => self.cancel(attempt, force),
                Some(Early::Recall) => self.recall(attempt),
                None => {}
            }
        }
    }

    /// A job was taken back before it began.
    pub fn handle_recalled(&mut self, job: SlotJob) {
        self.give_back(&[job]);
    }

    /// Jobs have not begun, and will not: the broker may give them to another engine.
    pub(super) fn give_back(&mut self, jobs: &[SlotJob]) {
        // All are out of their lines before any slot goes on: one that is given back as well must
        // not begin in between.
        let given_back: Vec<_> = jobs.iter().filter_map(|job| self.forget(*job)).collect();
        given_back.iter().for_each(|work| self.results.note_given_back(work.attempt));
        for some in given_back.chunks(LISTED_MAX) {
            let attempts = some.iter().map(|work| work.attempt).collect();
            self.send(FromEngine::Recalled(Attempts { attempts }));
        }
        for work in given_back {
            self.advance(work.slot);
        }
    }

    /// An interpreter is gone. What waits for it here was meant for its namespace; what its runtime
    /// has, that gives back itself.
    pub(super) fn slot_down(&mut self, slot: SlotIndex, mut cause: String) {
        shorten(&mut cause);
        self.outputs
            .push_back(Output::Log(format!("the interpreter of slot {slot} has ended: {cause}")));
        self.outputs.push_back(Output::Lost(slot, self.how_lost(slot, &cause)));
        if self.is_registered(slot) {
            self.send(FromEngine::SlotDown(SlotDown { slot, cause }));
        }
        let waiting = self.slots[slot as usize].waiting.iter().copied();
        let is_python =
            |job: &SlotJob| self.work.get(job).is_some_and(|work| work.runtime == Runtime::Python);
        let jobs: Vec<SlotJob> = waiting.filter(is_python).collect();
        self.give_back(&jobs);
    }

    /// Says how an interpreter was lost, and with which task: its end is told after this.
    fn how_lost(&self, slot: SlotIndex, cause: &str) -> String {
        let how = cause.lines().next().unwrap_or_default();
        let running = self.slots[slot as usize].running.front().and_then(|job| self.work.get(job));
        let Some(work) = running.filter(|work| work.runtime == Runtime::Python) else {
            return how.to_owned();
        };
        let task = TaskId { session: work.session, n: work.n };
        if work.cancelled {
            format!("{how}: {task}, by a forced cancel or at its run_timeout")
        } else {
            format!("{how}; it ran task {task}")
        }
    }

    /// Tells the broker that nothing new is taken, and gives back what has not begun.
    pub(super) fn give_all_back(&mut self) {
        self.say_that_it_drains();
        let waiting: Vec<SlotJob> =
            self.slots.iter().flat_map(|slot| slot.waiting.iter().copied()).collect();
        self.give_back(&waiting);
        // The first ones too: one that was just handed over may not have begun.
        for (slot, place) in (0..).zip(&self.slots) {
            // Nothing has ever run there.
            let Some(runtime) = place.runtime else { continue };
            self.outputs
                .extend(place.running.iter().rev().map(|job| Output::Recall(slot, runtime, *job)));
        }
    }

    /// Returns true if a draining process has no more to do: no job but cancelled ones that do not
    /// respond, and nothing unsent, or sent before the connection was cut and neither adopted nor
    /// released since.
    pub fn is_drained(&self) -> bool {
        self.leaving.draining().is_some()
            && !self.has_work()
            && self.unsent.is_empty()
            && !self.results.has_unsettled()
    }

    /// Returns true if there is a job whose end somebody waits for.
    pub(super) fn has_work(&self) -> bool {
        self.work.values().any(|work| !work.cancelled)
    }

    /// Returns true if a job's end was not sent yet.
    pub fn has_results(&self) -> bool {
        self.results.has_unsent()
    }

    pub(super) fn say_that_it_drains(&mut self) {
        if let Some(reason) = self.leaving.draining().filter(|_| self.connected) {
            let reason = reason.to_owned();
            self.send(FromEngine::Draining(Draining { reason }));
        }
    }

    fn find(&self, attempt: Attempt) -> Option<(SlotJob, SlotIndex, Runtime)> {
        let job = *self.by_attempt.get(&attempt)?;
        let work = self.work.get(&job).expect("a job has a name while it is work");
        Some((job, work.slot, work.runtime))
    }
}
