//! The slots of an engine process: what runs there, and how it is ended. They behave as the
//! runtimes of the engine do: a native function ends when it responds to a cancel, an interpreter
//! can be killed, a program is.

use std::collections::VecDeque;

use bytes::Bytes;
use furlong_engine::job::error;
use furlong_engine::runtime::{
    Ask, AttemptEnd, AttemptOutcome, Job, JobTimes, Latest, OutputStream, Published, SlotEvent,
    SlotJob, Unable,
};
use furlong_tests::history::{Invariant, TaskName};
use furlong_wire::call::{Codec, ReplyHeader};
use furlong_wire::ids::{EngineId, PassKey};
use furlong_wire::keys::SecretKey;
use furlong_wire::message::Runtime;

use crate::calls::{CallNo, filler};
use crate::dice::Dice;
use crate::plan::Ends;
use crate::process::{Lack, Link};
use crate::world::{Event, World};

/// A slot: what its runtime has been given, and what runs.
#[derive(Default, Debug)]
pub struct Slot {
    lane: VecDeque<(Runtime, Job)>,
    running: Option<Running>,
    begins: bool,
    /// True if there is an interpreter.
    has_python: bool,
}

#[derive(Debug)]
struct Running {
    /// Counts the runs; a run that is ended early gets another number.
    run: u64,
    job: SlotJob,
    runtime: Runtime,
    call: CallNo,
    task: TaskName,
    began: u64,
    ends: RunEnd,
    latest: Latest,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum RunEnd {
    Planned(Ends),
    Cancelled,
    Interrupted,
}

/// The time that code which ignores its interrupt lives on.
const KILL_GRACE: u64 = 1_000_000;

impl Slot {
    /// Returns true if nothing runs or waits here.
    pub fn is_empty(&self) -> bool {
        self.running.is_none() && self.lane.is_empty()
    }

    fn take_waiting(&mut self, job: SlotJob) -> Option<(Runtime, Job)> {
        let at = self.lane.iter().position(|(_, waiting)| waiting.attempt == job)?;
        self.lane.remove(at)
    }
}

impl World {
    fn slot(&mut self, place: usize, slot: usize) -> &mut Slot {
        &mut self.processes[place].slots[slot]
    }

    fn slot_reports(&mut self, place: usize, slot: usize, event: SlotEvent) {
        let process = &mut self.processes[place];
        process.published.give_event(&mut process.core, slot as u32, event);
    }

    pub fn slot_starts(&mut self, place: usize, slot: usize, runtime: Runtime, job: Job) {
        let it = self.slot(place, slot);
        it.lane.push_back((runtime, job));
        if it.running.is_none() && !std::mem::replace(&mut it.begins, true) {
            let wait = self.dice.below(60);
            self.after(wait, Event::SlotBegins(place, slot));
        }
    }

    pub fn slot_begins(&mut self, place: usize, slot: usize) {
        if !self.processes[place].is_alive {
            return;
        }
        self.begin_next(place, slot);
        self.engine_flush(place);
    }

    fn begin_next(&mut self, place: usize, slot: usize) {
        let it = self.slot(place, slot);
        it.begins = false;
        if it.running.is_some() {
            return;
        }
        let Some((runtime, job)) = it.lane.pop_front() else { return };
        let host = self.processes[place].host(slot);
        let engine = self.processes[place].engines[host];
        let had = &self.processes[place].had;
        let engines: Vec<EngineId> =
            had.iter().filter_map(|engines| engines.get(host).copied()).collect();
        let Some((call, task)) = self.job_is_sound(&job, &engines) else {
            let text = format!(
                "what engine {engine} was given to run is not what was submitted: {:?}",
                job.data
            );
            return self.violated(Invariant::PayloadsArriveIntact, None, text);
        };
        if let Some(unable) = self.lacks(place, runtime, call) {
            return self.does_not_begin(place, slot, (job.attempt, task), unable);
        }
        if runtime == Runtime::Python
            && !std::mem::replace(&mut self.slot(place, slot).has_python, true)
        {
            self.slot_reports(place, slot, SlotEvent::Up);
        }
        let named = self.clients[task.client as usize].tasks[task.n as usize - 1].target;
        self.may_begin(call, task);
        self.history.began(task, named.unwrap_or(engine).0);
        let runs = self.history.runs(task);
        self.note(|_| {
            format!("task {task:?} begins at engine {engine}, as run {runs} ({runtime:?})")
        });
        let plan = &self.calls[call].plan;
        let ends = if runs <= plan.fails_first { Ends::Raises } else { plan.ends };
        let (run_us, says) = (plan.run_us, plan.output_bytes + plan.published_bytes > 0);
        let mut dice = Dice::of(self.seed, &[6, call as u64, task.n, u64::from(runs)]);
        let run_us = run_us + dice.below(run_us / 4 + 1);
        let run = self.next_run();
        let (ends, latest) = (RunEnd::Planned(ends), Latest::default());
        let running =
            Running { run, job: job.attempt, runtime, call, task, began: self.now, ends, latest };
        self.slot(place, slot).running = Some(running);
        if says {
            self.after(run_us / 2, Event::RunWrites(place, slot, run));
        }
        if self.dice.one_in(6) {
            self.after(run_us / 4, Event::RunWaits(place, slot, run));
            self.after(run_us / 4 * 3, Event::RunGoesOn(place, slot, run));
        }
        self.after(run_us, Event::RunEnds(place, slot, run));
    }

    /// It opens a client of its own, and waits for tasks of others: its slot is lent.
    pub fn run_waits(&mut self, place: usize, slot: usize, run: u64) {
        let Some(job) = self.runs(place, slot, run).map(|running| running.job) else { return };
        let key = PassKey(SecretKey::from_bytes(self.dice.bytes()).public().0);
        self.slot_reports(place, slot, SlotEvent::Asked { attempt: job, ask: Ask::Pass(key) });
        let some = self.dice.below(self.clients.len() as u64 + 1) as usize;
        let sessions =
            self.clients.iter().skip(some).take(2).map(|client| client.session).collect();
        self.slot_reports(
            place,
            slot,
            SlotEvent::Asked { attempt: job, ask: Ask::Waits(sessions) },
        );
        self.engine_flush(place);
    }

    pub fn run_goes_on(&mut self, place: usize, slot: usize, run: u64) {
        let Some(job) = self.runs(place, slot, run).map(|running| running.job) else { return };
        self.slot_reports(place, slot, SlotEvent::Asked { attempt: job, ask: Ask::GoesOn });
        self.engine_flush(place);
    }

    /// Returns why a process cannot begin such work now, if so. When nothing breaks any more,
    /// everybody can begin all.
    fn lacks(&self, place: usize, runtime: Runtime, call: CallNo) -> Option<Unable> {
        let class = self.calls[call].plan.class;
        let is_meant = |lack: &&Lack| {
            lack.until > self.now
                && lack.runtime == runtime
                && lack.class.is_none_or(|it| it == class)
        };
        let lack = self.processes[place].lacks.iter().filter(|_| !self.rests).find(is_meant)?;
        Some(if lack.class.is_some() { Unable::Kind } else { Unable::Runtime })
    }

    fn does_not_begin(
        &mut self,
        place: usize,
        slot: usize,
        (attempt, task): (SlotJob, TaskName),
        unable: Unable,
    ) {
        self.note(|_| format!("task {task:?} does not begin at process {place}: {unable:?}"));
        *self.refused.entry(task).or_default() += 1;
        if self.history.runs(task) == 0 && self.is_given_by_a_dead_broker(place, task) {
            self.history.end_lost(task);
        }
        let header = ReplyHeader::Raised(error("EngineError", "it lacks what that needs"));
        let reply = AttemptEnd::without_data(AttemptOutcome::NotBegun(unable), header);
        self.slot_reports(place, slot, SlotEvent::Finished { attempt, reply });
        self.begin_next(place, slot);
    }

    /// The broker that gave a process this task was killed, and no other one hears the process yet.
    fn is_given_by_a_dead_broker(&self, place: usize, task: TaskName) -> bool {
        let submitted = &self.clients[task.client as usize].tasks[task.n as usize - 1];
        let is_cut = !matches!(self.processes[place].link, Link::Up(_));
        self.broker.core.is_none() || is_cut && submitted.life < self.broker.life
    }

    fn runs(&mut self, place: usize, slot: usize, run: u64) -> Option<&Running> {
        if !self.processes[place].is_alive {
            return None;
        }
        self.processes[place].slots[slot].running.as_ref().filter(|running| running.run == run)
    }

    pub fn run_writes(&mut self, place: usize, slot: usize, run: u64) {
        let Some(Running { job, call, latest, .. }) = self.runs(place, slot, run) else { return };
        let (job, call, latest) = (*job, *call, latest.clone());
        let plan = &self.calls[call].plan;
        let (output, published) = (plan.output_bytes, plan.published_bytes);
        if output > 0 {
            let bytes = filler(call, output);
            let event = SlotEvent::Output { attempt: job, stream: OutputStream::Stdout, bytes };
            self.slot_reports(place, slot, event);
        }
        if published > 0
            && latest.put(Published { codec: Codec::Raw, buffers: vec![filler(call, published)] })
        {
            self.processes[place].published.note(job, latest);
        }
        self.engine_flush(place);
    }

    pub fn run_ends(&mut self, place: usize, slot: usize, run: u64) {
        let Some(running) = self.runs(place, slot, run) else { return };
        let (ends, runtime) = (running.ends, running.runtime);
        if ends == RunEnd::Planned(Ends::KillsInterpreter) && runtime == Runtime::Python {
            self.slot_dies(place, slot, false);
        } else if let Some(running) = self.slot(place, slot).running.take() {
            let reply = self.reply(place, slot, &running);
            if reply.outcome != AttemptOutcome::Succeeded {
                self.nothing_follows(place, slot, &running);
            }
            self.slot_reports(place, slot, SlotEvent::Finished { attempt: running.job, reply });
            self.begin_next(place, slot);
        }
        self.engine_flush(place);
    }

    /// Checks that no job to be aborted with a failed run was sent ahead to begin behind it.
    fn nothing_follows(&mut self, place: usize, slot: usize, failed: &Running) {
        let aborts = |call: CallNo| {
            self.calls[call].plan.abort_on_error && !self.calls[call].plan.targets.is_empty()
        };
        let process = &self.processes[place];
        let host = process.host(slot);
        let engines: Vec<EngineId> =
            process.had.iter().filter_map(|engines| engines.get(host).copied()).collect();
        let behind =
            process.slots[slot].lane.iter().filter_map(|(_, job)| self.job_is_sound(job, &engines));
        let mut behind =
            behind.filter(|(call, task)| task.client == failed.task.client && aborts(*call));
        if let Some((_, task)) = behind.next().filter(|_| aborts(failed.call)) {
            let text = format!("it is about to begin where task {} has failed", failed.task.n);
            self.violated(Invariant::NothingFollowsAnError, Some(task), text);
        }
    }

    /// The times of a run that ends now.
    fn times(&self, running: &Running) -> JobTimes {
        let run_us = self.now - running.began;
        JobTimes { begun_at_us: Some(running.began), run_us, ..JobTimes::default() }
    }

    fn reply(&self, place: usize, slot: usize, running: &Running) -> AttemptEnd {
        let raised = || ReplyHeader::Raised(error("Simulated", "it raised"));
        let (outcome, header) = match (running.ends, running.runtime) {
            (RunEnd::Cancelled, _) => (AttemptOutcome::Cancelled, raised()),
            (RunEnd::Planned(Ends::Returns), Runtime::Command) => (
                AttemptOutcome::Succeeded,
                ReplyHeader::Exited { code: Some(0), signal: None, written: None },
            ),
            (RunEnd::Planned(Ends::Returns), _) => {
                (AttemptOutcome::Succeeded, ReplyHeader::Returned { codec: Codec::Raw })
            }
            (_, Runtime::Command) => {
                let header = ReplyHeader::Exited { code: Some(1), signal: None, written: None };
                (AttemptOutcome::Exited("exit code 1".into()), header)
            }
            _ => (AttemptOutcome::Failed, raised()),
        };
        let process = &self.processes[place];
        let engine = process.engines[process.host(slot)];
        let mut proof = (running.call as u64).to_le_bytes().to_vec();
        proof.extend_from_slice(&engine.0.to_le_bytes());
        let mut data = vec![Bytes::from(proof)];
        let plan = &self.calls[running.call].plan;
        if outcome == AttemptOutcome::Succeeded && plan.result_bytes > 0 {
            data.push(filler(running.call, plan.result_bytes));
        }
        let times = self.times(running);
        AttemptEnd { data, times, ..AttemptEnd::without_data(outcome, header) }
    }

    /// Makes the running job end early, and soon.
    fn end_soon(&mut self, place: usize, slot: usize, ends: RunEnd) {
        let run = self.next_run();
        let Some(running) = &mut self.slot(place, slot).running else { return };
        (running.run, running.ends) = (run, ends);
        let wait = self.dice.below(3_000);
        self.after(wait, Event::RunEnds(place, slot, run));
    }

    pub fn slot_cancels(
        &mut self,
        place: usize,
        slot: usize,
        runtime: Runtime,
        job: SlotJob,
        force: bool,
    ) {
        let Some(running) =
            self.slot(place, slot).running.as_ref().filter(|running| running.job == job)
        else {
            if runtime != Runtime::Native && self.slot(place, slot).take_waiting(job).is_some() {
                let header = ReplyHeader::Raised(error("Cancelled", "before it began"));
                let reply = AttemptEnd::without_data(AttemptOutcome::Cancelled, header);
                self.slot_reports(place, slot, SlotEvent::Finished { attempt: job, reply });
            }
            return;
        };
        let (call, run) = (running.call, running.run);
        match (self.calls[call].plan.responds, runtime) {
            (true, _) => self.end_soon(place, slot, RunEnd::Cancelled),
            (false, Runtime::Native) => {}
            (false, Runtime::Python) if !force => {}
            (false, _) => {
                let grace = if force && runtime == Runtime::Command { 0 } else { KILL_GRACE };
                self.after(grace, Event::RunIsKilled(place, slot, run));
            }
        }
    }

    pub fn run_is_killed(&mut self, place: usize, slot: usize, run: u64) {
        let Some(running) = self.runs(place, slot, run) else { return };
        if running.runtime == Runtime::Python {
            self.slot_dies(place, slot, true);
        } else {
            self.end_soon(place, slot, RunEnd::Cancelled);
        }
        self.engine_flush(place);
    }

    /// Returns true if the job was taken back at once. It may come back later.
    pub fn slot_recalls(
        &mut self,
        place: usize,
        slot: usize,
        runtime: Runtime,
        job: SlotJob,
    ) -> bool {
        if !self.slot(place, slot).lane.iter().any(|(_, waiting)| waiting.attempt == job) {
            return false;
        }
        if runtime == Runtime::Python && self.dice.one_in(2) {
            let wait = self.dice.below(500);
            self.after(wait, Event::Recalls(place, slot, job));
            return false;
        }
        self.slot(place, slot).take_waiting(job).is_some()
    }

    pub fn recalls(&mut self, place: usize, slot: usize, job: SlotJob) {
        if self.processes[place].is_alive && self.slot(place, slot).take_waiting(job).is_some() {
            self.slot_reports(place, slot, SlotEvent::Recalled { attempts: vec![job] });
            self.engine_flush(place);
        }
    }

    pub fn slot_is_signalled(
        &mut self,
        place: usize,
        slot: usize,
        runtime: Runtime,
        job: SlotJob,
        signal: i32,
    ) {
        let Some(running) =
            self.slot(place, slot).running.as_ref().filter(|running| running.job == job)
        else {
            return;
        };
        let (call, is_cancelled) = (running.call, running.ends == RunEnd::Cancelled);
        match (signal, runtime) {
            (9, Runtime::Python) => self.slot_dies(place, slot, false),
            (2, _) if self.calls[call].plan.responds && !is_cancelled => {
                self.end_soon(place, slot, RunEnd::Interrupted);
            }
            (9, Runtime::Command) => self.end_soon(place, slot, RunEnd::Interrupted),
            _ => {}
        }
    }

    /// Restarts the interpreter; returns true if there was one to end.
    pub fn slot_restarts(&mut self, place: usize, slot: usize) -> bool {
        if !self.slot(place, slot).has_python {
            return false;
        }
        self.slot_dies(place, slot, false);
        true
    }

    /// The interpreter is gone: it reports its death, then the end of what it ran, and gives back
    /// what had not begun.
    pub fn slot_dies(&mut self, place: usize, slot: usize, by_cancel: bool) {
        if !std::mem::replace(&mut self.slot(place, slot).has_python, false) {
            return;
        }
        self.last_hurt = Some(self.now);
        if let Some(engine) = self.processes[place].engines.get(slot).copied() {
            self.hurt.insert(engine.0, self.now);
            self.history.interpreter_gone(engine.0);
            self.note(|_| format!("the interpreter of engine {engine} is gone"));
        }
        self.slot_reports(place, slot, SlotEvent::Down { cause: "signal 9".into() });
        let of_python = |running: &mut Running| running.runtime == Runtime::Python;
        if let Some(running) = self.slot(place, slot).running.take_if(of_python) {
            let outcome = if by_cancel {
                AttemptOutcome::Cancelled
            } else {
                self.history.may_be_lost(running.task);
                AttemptOutcome::Lost("signal 9".into())
            };
            let header = ReplyHeader::Raised(error("Died", "signal 9"));
            let reply = AttemptEnd {
                times: self.times(&running),
                killed_by: (!by_cancel).then_some(9),
                ..AttemptEnd::without_data(outcome, header)
            };
            self.slot_reports(place, slot, SlotEvent::Finished { attempt: running.job, reply });
        }
        let lane = std::mem::take(&mut self.slot(place, slot).lane);
        let (python, others): (Vec<_>, Vec<_>) =
            lane.into_iter().partition(|(runtime, _)| *runtime == Runtime::Python);
        self.slot(place, slot).lane.extend(others);
        if !python.is_empty() {
            let attempts = python.into_iter().map(|(_, job)| job.attempt).collect();
            self.slot_reports(place, slot, SlotEvent::Recalled { attempts });
        }
        self.begin_next(place, slot);
    }
}
