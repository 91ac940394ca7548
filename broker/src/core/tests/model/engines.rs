//! The engine processes' actions.

use std::time::Duration;

use furlong_wire::ids::Attempt;
use furlong_wire::message::{
    AttemptOutput, Draining, ErrorKind, FromEngine, Outcome, Payload, Runtime, Stream, TaskState,
};

use crate::core::attempts::Assignment;
use crate::core::tests::farm::peers::Job;
use crate::core::tests::model::events::{End, Lost};
use crate::core::tests::model::{Model, Name};

impl Model {
    pub fn engine_connects(&mut self, process: usize) {
        self.loses_touch(process);
        self.farm.connect_engine(process);
        // What it still runs may have run for too long meanwhile: the shell's timer is due at once.
        self.farm.wait(Duration::ZERO);
    }

    pub fn engine_disconnects(&mut self, process: usize, lost: Lost) {
        for _ in 0..lost.assignments {
            self.farm.processes[process].loses_assignment();
        }
        if lost.end && self.turns_to(process, 0) {
            // It has run, and the broker does not hear of it before the process is back. What may
            // go elsewhere goes there meanwhile, and that counts as no loss.
            let job = self.farm.processes[process].jobs[0];
            let name = (job.session, job.n);
            let task = &self.tasks[&name];
            let once = task.options.at_most_once || task.target.is_some();
            *self.runs.entry(name).or_default() += u32::from(once && !job.started);
            self.farm.finish_unheard(process, Payload::Inline(vec![0; 3].into()));
        }
        let waits_for_it = !self.processes[process].drains;
        self.loses_touch(process);
        let held = self.held_for_this_engine_alone(process);
        self.farm.disconnect_engine(process);
        let goes_on = |name: &Name| self.is_unfinished(*name);
        assert!(
            !waits_for_it || held.iter().all(goes_on),
            "what it holds goes on if it is back in time"
        );
    }

    /// Unfinished tasks of a process that no other engine may run.
    fn held_for_this_engine_alone(&self, process: usize) -> Vec<Name> {
        let names = self.farm.processes[process].jobs.iter().map(|job| (job.session, job.n));
        let is_bound = |name: &Name| {
            let task = &self.tasks[name];
            self.is_unfinished(*name) && (task.target.is_some() || task.options.at_most_once)
        };
        names.filter(is_bound).collect()
    }

    /// The connection of a process is gone, or will be: what it had given back was on the way.
    fn loses_touch(&mut self, process: usize) {
        self.farm.processes[process].jobs.retain(|job| !job.returns);
        self.processes[process].drains = false;
        self.processes[process].restarts.clear();
    }

    /// The process is gone with all that it holds; should one connect in its place, then without
    /// its work.
    pub fn engine_leaves(&mut self, process: usize) {
        self.farm.engine_goodbye(process);
        self.is_gone(process);
    }

    pub fn engine_is_revoked(&mut self, process: usize) {
        let token = self.farm.processes[process].slots[0].uuid.0[0];
        self.revokes(token);
        assert!(!self.engine_is_here(process), "who is revoked is closed");
        self.is_gone(process);
    }

    fn is_gone(&mut self, process: usize) {
        self.loses_touch(process);
        self.farm.processes[process].jobs.clear();
    }

    /// It finishes what runs and gives back the rest.
    pub fn engine_drains(&mut self, process: usize) {
        let first: Vec<Attempt> = self.first_jobs(process).map(|job| job.attempt).collect();
        for job in &mut self.farm.processes[process].jobs {
            job.returns |= !job.started && !first.contains(&job.attempt);
        }
        self.processes[process].drains = true;
        self.farm
            .report(process, FromEngine::Draining(Draining { reason: "SIGTERM".into() }))
            .unwrap();
    }

    fn first_jobs(&self, process: usize) -> impl Iterator<Item = &Job> {
        let jobs = &self.farm.processes[process].jobs;
        let runs = |job: &&Job| !job.returns;
        let slots = 0..self.farm.processes[process].slots.len() as u32;
        slots.filter_map(move |slot| jobs.iter().filter(runs).find(|job| job.slot == slot))
    }

    /// Slots run side by side, each in its order: moves what one of them runs to the front of all.
    /// Whether there is anything.
    fn turns_to(&mut self, process: usize, slot: usize) -> bool {
        let it = &mut self.farm.processes[process];
        let slot = (slot % it.slots.len()) as u32;
        let Some(place) = it.jobs.iter().position(|job| job.slot == slot && !job.returns) else {
            return false;
        };
        let job = it.jobs.remove(place);
        it.jobs.insert(0, job);
        true
    }

    pub fn starts(&mut self, process: usize, slot: usize) {
        if !self.turns_to(process, slot) || self.farm.processes[process].jobs[0].started {
            return;
        }
        let job = self.farm.processes[process].jobs[0];
        // One that nobody wants any longer may begin before it has heard so.
        let core = &self.farm.core;
        let wanted =
            |given: &Assignment| given.stopping.is_none() && core.tasks.get(given.task).is_some();
        let counts = core.attempts.get(job.attempt.id).is_some_and(wanted);
        *self.runs.entry((job.session, job.n)).or_default() += u32::from(counts);
        self.farm.start(process);
    }

    pub fn writes(&mut self, process: usize) {
        if let Some(job) =
            self.farm.processes[process].jobs.first().copied().filter(|job| !job.returns)
        {
            let output = AttemptOutput {
                attempt: job.attempt,
                stream: Stream::Stdout,
                offset: 0,
                bytes: b"text".to_vec(),
            };
            self.farm.report(process, FromEngine::Output(output)).unwrap();
        }
    }

    pub fn finishes(&mut self, process: usize, slot: usize, end: &End) {
        if !self.turns_to(process, slot) {
            return;
        }
        let it = &mut self.farm.processes[process];
        let is_large = end.payload_bytes > 0;
        let payload = if is_large {
            it.large_result(end.payload_bytes)
        } else {
            Payload::Inline(vec![0; 3].into())
        };
        let outcome = if it.cancelled.contains(&it.jobs[0].attempt) {
            Outcome::error(TaskState::Cancelled, ErrorKind::Cancelled, "")
        } else if end.fails {
            Outcome::error(TaskState::Failed, ErrorKind::Remote, "")
        } else {
            Outcome::SUCCEEDED
        };
        self.farm.finish_with(process, outcome, end.run_us, Some(payload));
    }

    /// Gives back what was asked for and has not begun, and what an interpreter had that is gone.
    pub fn gives_back(&mut self, process: usize) {
        let before = self.farm.processes[process].jobs.clone();
        // Notes first: what is given back may be given again at once.
        let recalls = self.farm.processes[process].recalls.clone();
        let first: Vec<Attempt> = self.first_jobs(process).map(|job| job.attempt).collect();
        let returns = |job: &&Job| {
            job.returns
                || (recalls.contains(&job.attempt) && !job.started && !first.contains(&job.attempt))
        };
        for job in before.iter().filter(returns) {
            self.given.remove(&(job.session, job.n));
            let is_direct = self.tasks[&(job.session, job.n)].target.is_some();
            let engine = self.farm.processes[process].ids[job.slot as usize];
            if let Some(last) = self.order.get_mut(&(engine, job.session)).filter(|_| is_direct) {
                *last = (*last).min(job.n - 1);
            }
        }
        let returned = self.farm.answer_recalls(process);
        assert_eq!(
            returned.len(),
            before.iter().filter(returns).count(),
            "what is expected is given back"
        );
    }

    /// The task that it ran ends with it; the others that were sent ahead come back, sooner or
    /// later.
    pub fn interpreter_dies(&mut self, process: usize, slot: usize) {
        let it = &mut self.farm.processes[process];
        if !it.runtimes.contains(&Runtime::Python) {
            return;
        }
        let slot = slot % it.slots.len();
        self.processes[process].restarts.remove(&(slot as u32));
        let runs_python = self.turns_to(process, slot)
            && self.farm.processes[process]
                .jobs
                .first()
                .is_some_and(|job| job.runtime == Runtime::Python);
        let jobs = &mut self.farm.processes[process].jobs;
        let others = jobs.iter_mut().skip(usize::from(runs_python));
        for job in others.filter(|job| job.slot == slot as u32 && job.runtime == Runtime::Python) {
            job.returns = true;
        }
        self.farm.slot_down(process, slot as u32);
        if runs_python {
            let lost = Outcome::error(TaskState::Lost, ErrorKind::EngineLost, "signal 9");
            self.farm.finish_with(process, lost, 1, None);
        }
    }
}
