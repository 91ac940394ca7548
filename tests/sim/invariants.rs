//! The invariants that must hold after each step, of the cores as well as of what is seen from
//! outside.
//!
//! Outside, the [`History`](furlong_tests::history::History) decides, as things happen. Inside, the
//! broker's core is looked at as a whole now and then, by the same functions as in its own tests,
//! and compared with the engines' cores.

use std::collections::BTreeSet;

use furlong_broker::core::invariants as of_broker;
use furlong_tests::history::{Invariant, TaskName};
use furlong_wire::ids::{Attempt, TaskSeq};
use furlong_wire::message::{HeldWork, Release, ReplyBody, TaskRange};

use crate::calls::CallNo;
use crate::client::{Asked, Submitted};
use crate::fairness::INLINE_BYTES;
use crate::process::Link;
use crate::world::World;

/// Steps between two looks at everything, at least. With more to look at there are more.
const STEPS_PER_SCAN: u64 = 200;

impl World {
    /// After each step.
    pub fn check(&mut self) {
        if let Err(violation) = self.history.check() {
            self.violation.get_or_insert(violation);
        }
        if self.steps >= self.scan_at {
            self.scan();
            let size = self.processes.len() + self.calls.len() / 8;
            self.scan_at = self.steps + STEPS_PER_SCAN.max(size as u64);
        }
    }

    /// Looks at everything.
    pub fn scan(&mut self) {
        if let Some(core) = &self.broker.core {
            of_broker::hold(core);
        }
        self.both_sides_agree();
    }

    /// Of a process with which nothing is on the way, the broker thinks that it has been assigned
    /// what it has, and it was told to stop what nobody wants.
    fn both_sides_agree(&mut self) {
        let Some(core) = &self.broker.core else { return };
        let mut found = None;
        for (place, process) in
            self.processes.iter_mut().enumerate().filter(|(_, process)| process.is_alive)
        {
            let Link::Up(no) = process.link else { continue };
            let connection = self.network.connections.get_mut(&no);
            let is_quiet = connection.is_some_and(|it| it.at_broker && it.is_quiet());
            if !is_quiet || process.core.has_results() || process.engines.is_empty() {
                continue;
            }
            let held = process.core.held();
            let slots = process.engines.len() as u32;
            for (slot, engine) in (0..).zip(&process.engines) {
                // What a stand-in has, the engine has.
                let is_of = |work: &&HeldWork| work.slot % slots == slot;
                let has = held.work.iter().filter(is_of).filter(|work| !work.finished).count();
                // One that was stopped alone stays in its process, and is nobody's.
                let Some(given) = of_broker::assigned_to(core, *engine) else { continue };
                if has != given {
                    let jobs: Vec<_> = held.work.iter().filter(is_of).collect();
                    found = Some(format!(
                        "engine {engine} of process {place} has {has}, the broker says {given}: {jobs:?}"
                    ));
                }
                let is_overlooked = |attempt| {
                    of_broker::is_unwanted(core, attempt) && !process.stopped.contains(&attempt)
                };
                let runs = held.work.iter().filter(is_of).filter(|work| !work.finished);
                if let Some(work) = runs.into_iter().find(|work| is_overlooked(work.attempt)) {
                    found = Some(format!(
                        "engine {engine} runs what nobody wants, and was not told to stop: {work:?}"
                    ));
                }
                if has == 0 && !process.slots[slot as usize].is_empty() {
                    found = Some(format!(
                        "a slot of engine {engine} runs what its process does not know"
                    ));
                }
            }
        }
        if let Some(text) = found {
            self.violated(Invariant::BothSidesAgree, None, text);
        }
    }

    /// A durable task begins: it is on disk, and if it may run once only, that it may have begun is
    /// so, too.
    pub fn may_begin(&mut self, call: CallNo, task: TaskName) {
        let plan = &self.calls[call].plan;
        if !plan.durable {
            return;
        }
        let (disk, session) = (&self.broker.disk, self.clients[task.client as usize].session);
        let text = if !disk.has_accepted(session, task.n) {
            "it begins, and is not on disk"
        } else if plan.at_most_once && !disk.has_begun(session, task.n) {
            "it begins, may do so once, and the disk does not say so"
        } else {
            return;
        };
        self.violated(Invariant::OnDiskBeforeItIsTold, Some(task), text);
    }

    /// A client has an answer: the durable tasks that it had submitted before are on disk, and so
    /// are the ends of those that it has cancelled by that.
    pub fn what_was_answered_is_on_disk(
        &mut self,
        place: usize,
        asked: &Asked,
        answer: &ReplyBody,
    ) {
        let Some(core) = &self.broker.core else { return };
        let (client, disk) = (&self.clients[place], &self.broker.disk);
        let is_unfinished = |session, n| of_broker::is_unfinished(core, session, n);
        let is_missing = |(n, task): &(u64, &Submitted)| {
            self.is_on_disk_when_answered(task)
                && !disk.has_accepted(client.session, *n)
                && is_unfinished(client.session, TaskSeq(*n))
        };
        let mut before = (1..=asked.submitted).zip(&client.tasks);
        if let Some((n, _)) = before.find(is_missing) {
            let text = "its client has had an answer to a later request, and it is not on disk";
            let task = TaskName { client: place as u32, n };
            return self.violated(Invariant::OnDiskBeforeItIsTold, Some(task), text);
        }
        // If some had ended before, nobody knows which.
        let Some(&TaskRange { session, first, last }) = asked.cancels.as_ref() else { return };
        if disk.has_failed || *answer != ReplyBody::Cancelled(last + 1 - first, 0) {
            return;
        }
        let Some(of) = self.clients.iter().position(|client| client.session == session) else {
            return;
        };
        if let Some(n) = (first.0..=last.0)
            .find(|n| disk.is_open(session, *n) && !is_unfinished(session, TaskSeq(*n)))
        {
            let text = "that it was cancelled is answered, and not on disk";
            self.violated(
                Invariant::OnDiskBeforeItIsTold,
                Some(TaskName { client: of as u32, n }),
                text,
            );
        }
    }

    /// True if a task is on disk when a later request is answered. One whose arguments or
    /// definition travel in chunks may not be, nor what stands or waits behind such a task.
    fn is_on_disk_when_answered(&self, task: &Submitted) -> bool {
        let plan = &self.calls[task.call].plan;
        let travels_whole =
            plan.request_bytes <= INLINE_BYTES && plan.define.is_none_or(|number| number < 2);
        let waits = !plan.after.demands.is_empty() || !plan.follow.demands.is_empty();
        plan.durable && travels_whole && task.target.is_none() && !waits
    }

    /// An engine process need not hold results any longer: of what may run once only, its end is on
    /// disk by then, as nobody could say after a kill of the broker that it has run.
    pub fn lets_go(&mut self, place: usize, release: &Release) {
        let released: BTreeSet<Attempt> = release.attempts().collect();
        let held = self.processes[place].core.held().work;
        for work in
            held.into_iter().filter(|work| work.finished && released.contains(&work.attempt))
        {
            let client = self.clients.iter().position(|client| client.session == work.session);
            let Some((client, submitted)) = client.and_then(|client| {
                Some((client, self.clients[client].tasks.get(work.n.0 as usize - 1)?))
            }) else {
                continue;
            };
            let runs_once =
                submitted.target.is_some() || self.calls[submitted.call].plan.at_most_once;
            if runs_once && self.broker.disk.is_open(work.session, work.n.0) {
                let text = "its engine has let its result go, and its end is not on disk";
                self.violated(
                    Invariant::OnDiskBeforeItIsTold,
                    Some(TaskName { client: client as u32, n: work.n.0 }),
                    text,
                );
            }
        }
    }

    /// Checks that nothing is held anywhere when everybody has left.
    pub fn quiet_at_the_end(&mut self) {
        let Some(core) = &self.broker.core else { return };
        of_broker::is_quiet(core);
        let mut found = None;
        for (place, process) in
            self.processes.iter_mut().enumerate().filter(|(_, process)| process.is_alive)
        {
            let held = process.core.held();
            let Link::Up(no) = process.link else { continue };
            let connection = self.network.connections.get(&no);
            let has_sent = connection.is_some_and(|it| it.peer_end.peer.is_empty());
            if !held.work.is_empty()
                || !has_sent
                || process.slots.iter().any(|slot| !slot.is_empty())
            {
                found = Some(format!("process {place} still holds {:?}", held.work));
            }
        }
        if let Some(left) = self.broker.disk.left() {
            found = Some(left);
        }
        if let Some(text) = found {
            self.violated(Invariant::QuietAtTheEnd, None, text);
        }
        if let Err(violation) = self.history.check_end() {
            self.violation.get_or_insert(violation);
        }
    }
}
