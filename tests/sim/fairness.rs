//! The ends of tasks as their clients hear of them: with everything that was to come, and for a
//! reason that there was.

use furlong_client::core::results::Body;
use furlong_client::core::tasks::{Completion, CompletionKind};
use furlong_tests::history::{Invariant, Outcome as Ending, TaskName};
use furlong_wire::call::{ReplyHeader, decode_reply};
use furlong_wire::ids::{EngineId, TaskSeq};
use furlong_wire::message::{
    Dependency, ErrorKind, Outcome, Runtime, TaskPhase, TaskRecord, TaskState,
};
use furlong_wire::payload::unpack_inline_call;

use crate::calls::filler;
use crate::client::{Client, Submitted};
use crate::plan::CallPlan;
use crate::world::{Event, World};

/// An engine may be given up so long after it was last seen, in microseconds.
const GIVEN_UP_US: u64 = 35_000_000;
/// An engine that was cut off is waited for so long.
const GRACE_US: u64 = 15_000_000;
/// Arguments up to about this size travel in their message.
pub const INLINE_BYTES: usize = 900;
/// The number of times that a shared task is run again after a loss, if its submit does not say.
const RETRIES: u32 = 3;

/// What engines alone say.
const NOT_TOLD: Result<(), &str> = Err("clients are not told so");

impl World {
    /// A client's future resolves.
    pub fn is_delivered(&mut self, place: usize, ended: Completion) {
        let Completion { n, engine, attempts, stays, end, .. } = ended;
        let CompletionKind::Finished(outcome, body) = end else { return };
        let task = TaskName { client: place as u32, n: n.0 };
        self.note(|_| {
            format!("client {place} has task {n}: {outcome:?}, by {engine:?}, attempt {attempts}")
        });
        if let Err(why) = self.is_just(task, &outcome, engine) {
            let runs = self.history.runs(task);
            self.violated(
                Invariant::OutcomesAreJust,
                Some(task),
                format!("{why}: {outcome:?} after {runs} runs"),
            );
        }
        if outcome.state == TaskState::Lost {
            self.history.may_be_lost(task);
        }
        if matches!(outcome.state, TaskState::Cancelled | TaskState::TimedOut) {
            self.history.cancel_asked(task);
        }
        self.is_on_disk(task);
        if let Err(why) = self.is_intact(task, &outcome, &body) {
            self.violated(Invariant::PayloadsArriveIntact, Some(task), why);
        }
        let ending = ending(outcome.state);
        let seen = self.clients[place].tasks[n.0 as usize - 1].seen;
        if let Some((life, seen)) = seen
            && life == self.broker.life
            && seen != ending
        {
            let text = format!("others saw that it ended {seen:?}, and its client {ending:?}");
            self.violated(Invariant::OneTerminalStateEach, Some(task), text);
        }
        self.history.delivered(task, ending);
        if stays.is_some() {
            self.result_stays(place, n);
        }
    }

    /// A result stays at the broker: the program may look at it, and lets go of it some time.
    fn result_stays(&mut self, place: usize, n: TaskSeq) {
        if !self.calls[self.clients[place].tasks[n.0 as usize - 1].call].plan.stay {
            let task = TaskName { client: place as u32, n: n.0 };
            return self.violated(Invariant::PayloadsArriveIntact, Some(task), "it stays unasked");
        }
        if self.dice.one_in(3) {
            self.fetches_own(place, n);
        }
        let wait = self.dice.pick(&[0, 1_000, 100_000, 3_000_000, 20_000_000]);
        self.after(wait, Event::LetsGo(place, n));
    }

    /// Somebody has fetched a task.
    pub fn sees_record(&mut self, place: usize, record: &TaskRecord, body: &Body) {
        let Some(of) = self.clients.iter().position(|client| client.session == record.id.session)
        else {
            return;
        };
        let (TaskPhase::Ended, Some(outcome)) = (record.phase, &record.outcome) else { return };
        let task = TaskName { client: of as u32, n: record.id.n.0 };
        self.note(|_| format!("client {place} sees task {task:?}: {outcome:?}"));
        if self.setup.clients[self.clients[place].spec].owner
            != self.setup.clients[self.clients[of].spec].owner
        {
            self.violated(Invariant::OutcomesAreJust, Some(task), "somebody else has fetched it");
        }
        self.is_on_disk(task);
        let ending = ending(outcome.state);
        if self.history.is_delivered(task) {
            self.history.ended(task, ending);
        } else if let Some(submitted) = self.clients[of].tasks.get_mut(task.n as usize - 1) {
            submitted.seen = Some((self.broker.life, ending));
        }
        if matches!(body, Body::Failed(_)) {
            self.violated(
                Invariant::PayloadsArriveIntact,
                Some(task),
                format!("fetched: {body:?}"),
            );
        }
        if !matches!(body, Body::None | Body::Failed(_))
            && let Err(why) = self.is_intact(task, outcome, body)
        {
            self.violated(Invariant::PayloadsArriveIntact, Some(task), why);
        }
    }

    /// Somebody hears of a task's end, which is on disk then, unless a disk has failed.
    fn is_on_disk(&mut self, task: TaskName) {
        let client = &self.clients[task.client as usize];
        let is_durable = client
            .tasks
            .get(task.n as usize - 1)
            .is_some_and(|it| self.calls[it.call].plan.durable);
        let disk = &self.broker.disk;
        if is_durable && !disk.has_failed && disk.is_open(client.session, task.n) {
            let text = "somebody has heard of its end, which is not on disk";
            self.violated(Invariant::OnDiskBeforeItIsTold, Some(task), text);
        }
    }

    /// Checks that there was a reason for a task to end so.
    fn is_just(
        &self,
        task: TaskName,
        outcome: &Outcome,
        engine: Option<EngineId>,
    ) -> Result<(), &'static str> {
        let client = &self.clients[task.client as usize];
        let Some(submitted) = client.tasks.get(task.n as usize - 1) else {
            return Err("it was never submitted");
        };
        let plan = &self.calls[submitted.call].plan;
        let runs = self.history.runs(task);
        let refusals = self.refused.get(&task).copied().unwrap_or_default();
        let direct = submitted.target.is_some();
        let may_be_bound = direct || !plan.follow.demands.is_empty();
        let has_run =
            |enough: u32| if runs >= enough { Ok(()) } else { Err("it has not run so often") };
        let so = |is_so: bool, why: &'static str| if is_so { Ok(()) } else { Err(why) };
        match outcome.error.as_ref().map(|error| error.kind) {
            None => has_run(1),
            // That all engines which could run it cannot begin it is an error of the task, too.
            Some(ErrorKind::Remote | ErrorKind::Exit) => has_run(
                if may_be_bound { 1 } else { plan.error_retries + 1 }.saturating_sub(refusals),
            ),
            Some(ErrorKind::NotBegun | ErrorKind::NoRuntime | ErrorKind::GivenBack) => NOT_TOLD,
            Some(ErrorKind::EngineLost) => self.may_be_lost((task, plan), outcome.state, engine),
            Some(ErrorKind::Cancelled) => {
                so(self.may_be_cancelled(client, submitted), "nobody has cancelled it")
            }
            Some(ErrorKind::Aborted) => {
                so(plan.abort_on_error && may_be_bound, "it did not say so")
            }
            Some(ErrorKind::Dependency) => {
                let is_so = !plan.follow.demands.is_empty() || !self.are_met(task, submitted);
                so(is_so || self.is_input_lost(submitted, outcome), "its conditions were met")
            }
            Some(ErrorKind::QueueTimeout) => {
                let waited_ms = (self.now - submitted.at) / 1_000;
                so(
                    plan.queue_timeout_ms.is_some_and(|limit| waited_ms >= limit),
                    "it has not waited so long",
                )
            }
            // The time counts from the report of the start, which an interpreter that finds what it
            // lacks has made as well.
            Some(ErrorKind::RunTimeout) => {
                so(plan.run_timeout_ms.is_some() && runs + refusals > 0, "it has not run so long")
            }
            Some(ErrorKind::Unsupported) => so(
                may_be_bound || plan.durable || plan.error_retries > 0 && plan.at_most_once,
                "its options do not contradict each other",
            ),
            Some(ErrorKind::Forbidden) => so(direct, "it names no engine"),
            Some(ErrorKind::UnknownEngine) => so(may_be_bound, "it names no engine"),
            Some(ErrorKind::Payload) => {
                so(plan.define.is_some() || plan.result_bytes > 1_000, "it has no payload")
            }
            Some(ErrorKind::Busy) => Ok(()),
            Some(ErrorKind::Journal) => {
                so(plan.durable && self.broker.disk.has_failed, "its disk has not failed")
            }
            Some(ErrorKind::NoEngines) => Err("nobody says so"),
        }
    }

    /// A task that an earlier start of the broker has ended for its time is cancelled where it ran;
    /// no more is known.
    fn may_be_cancelled(&self, client: &Client, submitted: &Submitted) -> bool {
        let has_run_timeout = self.calls[submitted.call].plan.run_timeout_ms.is_some();
        let is_revoked = self.broker.revoked.get(client.token).is_some();
        submitted.cancel_asked || is_revoked || has_run_timeout && self.broker.life > 1
    }

    /// A result that is an input is lost with its broker, and there may be no room for it.
    fn is_input_lost(&self, submitted: &Submitted, outcome: &Outcome) -> bool {
        let text = outcome.error.as_ref().map_or("", |error| &error.text);
        !submitted.inputs.is_empty()
            && (submitted.life < self.broker.life || text.contains("which is full"))
    }

    /// Returns true if a task's dependencies have ended as it demanded, as its client has heard:
    /// each was a task of the same session and submitted before. A condition that was met stays
    /// met, also through a restart of the broker; a disk that has failed may have lost that.
    fn are_met(&self, task: TaskName, submitted: &Submitted) -> bool {
        let (after, is_one_enough) = &submitted.after;
        let session = self.clients[task.client as usize].session;
        let first = self.calls[submitted.call].first;
        let is_own =
            |demand: &Dependency| demand.task.session == session && demand.task.n < TaskSeq(first);
        let is_met = |demand: &Dependency| {
            let ending = self.history.outcome(TaskName { n: demand.task.n.0, ..task });
            ending.is_some_and(|ending| {
                if ending == Ending::Succeeded { demand.success } else { demand.failure }
            })
        };
        let are_met =
            if *is_one_enough { after.iter().any(is_met) } else { after.iter().all(is_met) };
        are_met && after.iter().all(is_own) && !self.broker.disk.has_failed
    }

    /// True if a task may have been lost: with its interpreter, with the engine that had it, with
    /// all its engines.
    fn may_be_lost(
        &self,
        (task, plan): (TaskName, &CallPlan),
        state: TaskState,
        engine: Option<EngineId>,
    ) -> Result<(), &'static str> {
        let submitted = &self.clients[task.client as usize].tasks[task.n as usize - 1];
        if state != TaskState::Lost || self.history.is_excused(task) {
            return Ok(());
        }
        // Each start of the broker waits anew for engines that are away.
        let is_late = |at: &u64| (*at).max(self.broker.began) + GIVEN_UP_US >= submitted.at;
        // After a cut an engine may come back, and only what was on the way in chunks is not sent
        // twice.
        let is_chunked = plan.request_bytes > INLINE_BYTES;
        // One that needs a namespace may have reached its engine and been given back during a cut:
        // whether that namespace is still the one that it was to have, nobody can say.
        let is_of_namespace = plan.runtime == Runtime::Python && self.history.runs(task) == 0;
        let is_not_repeated = is_chunked || submitted.target.is_some() && is_of_namespace;
        let is_given_up = |at: &u64| is_late(at) && (is_not_repeated || *at + GRACE_US <= self.now);
        if let Some(engine) = engine.filter(|_| submitted.target.is_some() || plan.at_most_once) {
            // Who has been told to stop is not waited for, and may have come back as another
            // meanwhile.
            let is_stopped = self.some_have_stopped && self.last_hurt.as_ref().is_some_and(is_late);
            let is_hurt = is_stopped || self.hurt.get(&engine.0).is_some_and(is_late);
            let is_cut = |at: &u64| is_given_up(at) || self.some_have_stopped && is_late(at);
            let is_hurt = is_hurt || self.cut_off.get(&engine.0).is_some_and(is_cut);
            return if is_hurt { Ok(()) } else { Err("nothing has happened to its engine") };
        }
        // Said to a broker that was dead already: the next one cannot know that it has not run.
        let is_of_before = plan.at_most_once && submitted.life < self.broker.life;
        let is_hurt = self.last_hurt.as_ref().is_some_and(is_late)
            || self.cut_off.values().any(is_late)
            || is_of_before;
        if !is_hurt {
            return Err("nothing has happened to any engine");
        }
        let often = self.history.runs(task) > plan.retries.unwrap_or(RETRIES);
        if often || plan.at_most_once || !plan.follow.demands.is_empty() {
            Ok(())
        } else {
            Err("it is to be run again")
        }
    }

    /// Checks that a result is what a run of that task returned.
    fn is_intact(&self, task: TaskName, outcome: &Outcome, body: &Body) -> Result<(), String> {
        let submitted = &self.clients[task.client as usize].tasks[task.n as usize - 1];
        let (header, data) = match body {
            Body::None if outcome.state == TaskState::Succeeded => {
                return Err("it has no result".into());
            }
            Body::None => return Ok(()),
            Body::Failed(failure) => return Err(format!("its result cannot be read: {failure}")),
            Body::Elsewhere(_) if self.calls[submitted.call].plan.stay => return Ok(()),
            Body::Elsewhere(_) => return Err("it does not come".into()),
            Body::Inline(inline) => {
                let (header, data) =
                    unpack_inline_call(inline).map_err(|error| error.to_string())?;
                (decode_reply(header), data)
            }
            Body::Buffers(buffers) => {
                let (header, data) = buffers.split_first().ok_or("it has no header")?;
                (decode_reply(header), data.to_vec())
            }
        };
        let header = header.map_err(|error| error.to_string())?;
        if let ReplyHeader::Raised(error) = &header
            && error.type_name == "PayloadError"
        {
            return Err(error.message.clone());
        }
        if outcome.state != TaskState::Succeeded {
            return Ok(());
        }
        let plan = &self.calls[submitted.call].plan;
        let proof = data.first().ok_or("it has no data")?;
        let of_call =
            proof.get(..8).and_then(|bytes| bytes.try_into().ok()).map(u64::from_le_bytes);
        let is_whole = match data.get(1) {
            Some(bytes) => *bytes == filler(submitted.call, plan.result_bytes),
            None => plan.result_bytes == 0,
        };
        let of_engine =
            proof.get(8..12).and_then(|bytes| bytes.try_into().ok()).map(u32::from_le_bytes);
        let is_there = submitted.target.is_none_or(|engine| of_engine == Some(engine.0));
        if of_call == Some(submitted.call as u64) && is_whole && is_there {
            return Ok(());
        }
        Err(format!("its result is of call {of_call:?} at engine {of_engine:?}, whole: {is_whole}"))
    }
}

fn ending(state: TaskState) -> Ending {
    match state {
        TaskState::Succeeded => Ending::Succeeded,
        TaskState::Failed => Ending::Failed,
        TaskState::Cancelled => Ending::Cancelled,
        TaskState::TimedOut => Ending::TimedOut,
        TaskState::Lost => Ending::Lost,
    }
}
