//! The keeper of a pool: decides what to submit and cancel so that the engines that were asked for
//! are there. A state machine without I/O.
//!
//! The shell hands in what the batch system and the broker say (`handle_*`), and carries out each
//! [`Action`] of [`Keeper::poll_action`]. The batch system is the truth for jobs, the broker for
//! engines; neither is trusted to answer. After a restart nothing is submitted before both have
//! been asked, so that whatever an earlier keeper has submitted is found.

mod demand;
mod job;
mod limits;
mod listing;
mod nodes;
mod questions;
#[cfg(test)]
mod simulation;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, VecDeque};

use serde::{Deserialize, Serialize};

use demand::Goal;
pub use demand::{ENGINES_MAX, Wanted};
pub use job::{End, EnginesOfJob, Job, JobId, JobState, Leaving, Listed};
pub use limits::{Gate, Limits, Refusal, SUBMIT_SPACING_MS};
pub use nodes::{BadNode, LeavesOut, Nodes};
use questions::Questions;

/// The keeper of one pool.
#[derive(Debug)]
pub struct Keeper {
    shape: Shape,
    goal: Goal,
    jobs: BTreeMap<JobId, Job>,
    /// Jobs that have ended, the last ones.
    ended: VecDeque<(JobId, Job)>,
    gate: Gate,
    /// True once an engine has come: before, one job at a time is tried.
    proven: bool,
    questions: Questions,
    /// Nodes that end jobs at once.
    nodes: Nodes,
    /// The words of the batch system's last answer that was none.
    blind: Option<String>,
    /// The submit that is being made.
    submission: Option<Submission>,
    /// The time after which the jobs must have been listed before the next submit, and the submit
    /// that may have given jobs then.
    unclear: Option<(u64, Option<Submission>)>,
    /// The last time at which the broker said which engines there are.
    broker_ms: Option<u64>,
}

/// The pool that is wanted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Shape {
    /// The engines.
    pub wanted: Wanted,
    /// Those of one job.
    pub per_job: u32,
    /// The bounds.
    pub limits: Limits,
    /// The jobs that can leave nodes out.
    pub leaves_out: LeavesOut,
    /// True if all jobs are cancelled, whatever they run.
    pub ends_now: bool,
}

/// A submit: an array of jobs of one kind.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Submission {
    /// The number of jobs.
    pub jobs: u32,
    /// The engines of each.
    pub engines: u32,
    /// True if they stay when they have nothing to do.
    pub lasting: bool,
}

/// An order to the shell.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Action {
    /// Submit jobs that leave out the nodes of [`Keeper::left_out`], then call
    /// [`Keeper::handle_submitted`].
    Submit(Submission),
    /// Cancel those of these jobs that wait, and let the others be.
    CancelWaiting(Vec<JobId>),
    /// Cancel jobs.
    Cancel(Vec<JobId>),
    /// Tell the engines of a job to finish what they run, and to leave.
    Drain(JobId),
    /// Ask the batch system for the pool's jobs, then call [`Keeper::handle_listed`] with this
    /// number.
    Query(u64),
}

/// The state that outlives a keeper.
#[derive(Clone, PartialEq, Eq, Default, Debug, Serialize, Deserialize)]
pub struct Saved {
    /// The jobs that have not ended.
    pub jobs: BTreeMap<JobId, Job>,
    /// The last ones that have.
    pub ended: VecDeque<(JobId, Job)>,
    /// The times at which the pool may submit.
    pub gate: Gate,
    /// True once one of its engines has come.
    pub proven: bool,
    /// Nodes that end jobs at once.
    #[serde(default)]
    pub nodes: Nodes,
}

/// Without word of the broker for so long, nothing is submitted: engines would find none.
const BROKER_MS: u64 = 30_000;
/// A job whose engines have left is cancelled after this time.
const EMPTY_MS: u64 = 60_000;
/// What was asked is asked again after this time.
const AGAIN_MS: u64 = 30_000;
/// Jobs that have ended are remembered up to this number.
const ENDED_MAX: usize = 20;

impl Keeper {
    /// A keeper that goes on from what an earlier one has saved. `unfinished` is a submit that it
    /// had begun, and of which nobody knows whether it was made.
    pub fn new(now_ms: u64, shape: Shape, saved: Saved, unfinished: Option<Submission>) -> Self {
        let Saved { jobs, ended, gate, proven, nodes } = saved;
        let (goal, questions) = (Goal::default(), Questions::new(now_ms));
        let unclear = Some((now_ms, unfinished));
        Self {
            shape,
            goal,
            jobs,
            ended,
            gate,
            proven,
            questions,
            nodes,
            blind: None,
            submission: None,
            unclear,
            broker_ms: None,
        }
    }

    /// The state to save.
    pub fn saved(&self) -> Saved {
        let (jobs, ended) = (self.jobs.clone(), self.ended.clone());
        let (gate, nodes) = (self.gate.clone(), self.nodes.clone());
        Saved { jobs, ended, gate, proven: self.proven, nodes }
    }

    /// The names of the nodes that new jobs leave out, since they end jobs at once.
    pub fn left_out(&self, now_ms: u64) -> Vec<String> {
        self.nodes.left_out(now_ms).map(|(name, _)| name.to_owned()).collect()
    }

    /// The jobs that have not ended.
    pub fn jobs(&self) -> &BTreeMap<JobId, Job> {
        &self.jobs
    }

    /// The reason for which the batch system's jobs are not known.
    pub fn blind(&self) -> Option<&str> {
        self.blind.as_deref()
    }

    /// The submit that may have given jobs of which nothing is known yet: to be given to the next
    /// keeper, should this one die.
    pub fn unfinished(&self) -> Option<Submission> {
        self.submission.or_else(|| self.unclear.and_then(|(_, submission)| submission))
    }

    /// The engines that are wanted now.
    pub fn target(&self) -> u32 {
        self.goal.engines(self.shape.wanted)
    }

    /// Something else is wanted.
    pub fn handle_shape(&mut self, shape: Shape) {
        self.shape = shape;
    }

    /// There are so many tasks that this pool's engines run or could run.
    pub fn handle_tasks(&mut self, now_ms: u64, tasks: u32) {
        self.goal.handle_tasks(now_ms, tasks, self.shape.wanted, self.shape.per_job);
    }

    /// Somebody has mended what paused the pool: it is tried again, with one job first.
    pub fn handle_resume(&mut self, now_ms: u64) {
        self.gate.resume();
        self.nodes.forgive();
        self.proven = self.jobs.values().any(|job| job.online > 0);
        self.questions.ask_soon(now_ms);
    }

    /// The submit that [`Action::Submit`] asked for has given these jobs, or none.
    pub fn handle_submitted(&mut self, now_ms: u64, given: Result<Vec<JobId>, Refusal>) {
        let submission = self.submission.take().expect("an answer follows an order to submit");
        match given {
            Ok(ids) => {
                self.gate.note_accepted();
                let new = ids.into_iter().filter(|id| !self.has_ended(id)).collect::<Vec<_>>();
                for id in new {
                    let Submission { engines, lasting, .. } = submission;
                    let new = Job::new(now_ms, engines, lasting);
                    // It may have been listed before the answer to its submit came.
                    let job = self.jobs.entry(id).or_insert(new);
                    (job.engines, job.lasting) = (engines, lasting);
                }
            }
            // Better a bad node than none: it is tried again with all.
            Err(Refusal::NoNode(_)) if self.nodes.take_back(now_ms) => {}
            Err(refusal) => {
                if matches!(refusal, Refusal::Unclear(_)) {
                    self.unclear = Some((now_ms, Some(submission)));
                }
                self.gate.note_refused(now_ms, refusal);
            }
        }
        // Of sound jobs the broker says when they are here, and sooner.
        if !self.proven || self.unclear.is_some() {
            self.questions.ask_often(now_ms);
        }
    }

    /// The broker's engines, by the job that they say has started them. Of a job that the batch
    /// system has not named as this pool's, an engine's word is not enough.
    pub fn handle_engines(&mut self, now_ms: u64, engines: &BTreeMap<JobId, EnginesOfJob>) {
        // Of the time before the broker or this keeper was away nobody knows who was there.
        let was_away = !self.knows_broker(now_ms);
        self.broker_ms = Some(now_ms);
        for (id, job) in &mut self.jobs {
            let of_job = engines.get(id).copied().unwrap_or_default();
            if of_job.online > 0 {
                if job.state == JobState::Pending {
                    (job.state, job.since_ms) = (JobState::Running, now_ms);
                    job.why.clear();
                }
                job.missing = 0;
                if !job.had_engine {
                    job.had_engine = true;
                    if !self.proven {
                        self.questions.ask_as_usual();
                    }
                    self.proven = true;
                    self.gate.note_engine();
                    self.nodes.note_proof();
                }
                self.nodes.note_engine(now_ms, &job.node, job.since_ms);
            } else if job.online > 0 {
                self.questions.ask_often(now_ms);
            }
            (job.online, job.busy) = (of_job.online, of_job.busy);
            if let Some(Leaving::Drains { empty_ms, .. }) = &mut job.leaving {
                let since_ms = empty_ms.filter(|_| !was_away).unwrap_or(now_ms);
                *empty_ms = (job.online == 0).then_some(since_ms);
            }
        }
    }

    /// Hands out the next order, if there is one now.
    pub fn poll_action(&mut self, now_ms: u64) -> Option<Action> {
        if let Some(number) = self.questions.poll(now_ms) {
            return Some(Action::Query(number));
        }
        if let Some(action) = self.poll_departure(now_ms) {
            return Some(action);
        }
        let submission = self.next_submission(now_ms)?;
        self.gate.note_submit(now_ms);
        self.submission = Some(submission);
        Some(Action::Submit(submission))
    }

    /// The pool's state in a few words: `ok`, or the reason why it has fewer engines than wanted.
    pub fn describe(&self) -> String {
        let gate = &self.gate;
        if let Some(reason) = &gate.paused {
            return format!("paused: {reason}");
        }
        if let Some(blind) = &self.blind {
            return blind.clone();
        }
        if let Some(refusal) = &gate.refusal {
            return refusal.clone();
        }
        let counted: u32 = self.counted().map(|job| job.engines).sum();
        let live = self.jobs.values().filter(|job| job.is_live()).count();
        if counted < self.target() && live >= self.shape.limits.jobs_max as usize {
            return format!("{live} jobs are as many as --max-jobs allows");
        }
        "ok".to_owned()
    }

    /// Jobs on whose engines the pool counts.
    fn counted(&self) -> impl Iterator<Item = &Job> {
        self.jobs.values().filter(|job| job.is_counted())
    }

    /// Returns true if this job is known to have ended.
    fn has_ended(&self, id: &JobId) -> bool {
        self.ended.iter().any(|(ended, _)| ended == id)
    }

    /// Returns true if the broker has said lately which engines there are.
    fn knows_broker(&self, now_ms: u64) -> bool {
        self.broker_ms.is_some_and(|ms| now_ms < ms + BROKER_MS)
    }

    /// The submit that brings the pool nearer to what is wanted, if one may be made now.
    fn next_submission(&self, now_ms: u64) -> Option<Submission> {
        let knows_jobs = self.questions.knows_since(0) && self.unclear.is_none();
        let is_idle = self.submission.is_none();
        let is_open = is_idle && self.gate.is_open(now_ms);
        if !(self.knows_broker(now_ms) && knows_jobs && is_open) {
            return None;
        }
        let Shape { wanted, per_job, limits, .. } = self.shape;
        let counted: u32 = self.counted().map(|job| job.engines).sum();
        let missing = self.target().saturating_sub(counted);
        let live = self.jobs.values().filter(|job| job.is_live());
        let waiting = live.clone().filter(|job| job.is_waiting()).count() as u32;
        let live = live.count() as u32;
        if missing == 0 || (!self.proven && live > 0) {
            return None;
        }
        let room = limits.jobs_max.saturating_sub(live);
        let room = room.min(limits.pending_max.saturating_sub(waiting)).min(limits.array_max);
        let lasting: u32 = self.counted().filter(|job| job.lasting).map(|job| job.engines).sum();
        // An elastic pool's least engines stay, the others leave when they have nothing to do.
        let short_of_least = wanted.min.saturating_sub(lasting);
        let (missing, lasting) =
            if short_of_least > 0 { (missing.min(short_of_least), true) } else { (missing, false) };
        let (jobs, engines) =
            if missing < per_job { (1, missing) } else { (missing / per_job, per_job) };
        let jobs = jobs.min(room).min(if self.proven { u32::MAX } else { 1 });
        (jobs > 0).then_some(Submission { jobs, engines, lasting })
    }

    /// Makes jobs leave that are not wanted: those that wait first, then those with the fewest
    /// tasks. Nothing that runs a task is cancelled, unless all is to end now.
    fn poll_departure(&mut self, now_ms: u64) -> Option<Action> {
        let (knows_broker, ends_now) = (self.knows_broker(now_ms), self.shape.ends_now);
        if ends_now {
            self.give_up_jobs();
        } else {
            self.note_surplus(knows_broker);
            self.note_begun();
        }
        let is_due = |told_ms: u64| now_ms >= told_ms + AGAIN_MS;
        for (id, job) in self.jobs.iter_mut().filter(|(_, job)| job.is_live() && job.online > 0) {
            if let Some(Leaving::Drains { told_ms, .. }) = &mut job.leaving
                && is_due(*told_ms)
            {
                *told_ms = now_ms;
                return Some(Action::Drain(id.clone()));
            }
        }
        let withdrawn = self.mark(
            Leaving::Withdrawn { told_ms: now_ms },
            |leaving| matches!(leaving, Leaving::Withdrawn { told_ms } if is_due(told_ms)),
        );
        if !withdrawn.is_empty() {
            self.questions.ask_often(now_ms);
            return Some(Action::CancelWaiting(withdrawn));
        }
        // Only the broker can tell that nothing runs in a job that has begun, if that matters.
        let is_empty = |leaving| match leaving {
            Leaving::Drains { empty_ms, .. } => empty_ms.is_some_and(|ms| now_ms >= ms + EMPTY_MS),
            Leaving::Cancelled { told_ms } => is_due(told_ms),
            Leaving::Withdrawn { .. } => false,
        };
        let cancelled = self.mark(Leaving::Cancelled { told_ms: now_ms }, |leaving| {
            (knows_broker || ends_now) && is_empty(leaving)
        });
        (!cancelled.is_empty()).then(|| {
            self.questions.ask_often(now_ms);
            Action::Cancel(cancelled)
        })
    }

    /// Marks all jobs to be cancelled.
    fn give_up_jobs(&mut self) {
        for job in self.jobs.values_mut().filter(|job| job.is_live()) {
            if !matches!(job.leaving, Some(Leaving::Cancelled { .. })) {
                job.leaving = Some(Leaving::Cancelled { told_ms: 0 });
            }
        }
    }

    /// Lets jobs finish that were not to begin, or that have an engine again.
    fn note_begun(&mut self) {
        for job in self.jobs.values_mut() {
            let has_begun = match job.leaving {
                Some(Leaving::Withdrawn { .. }) => job.online > 0 || !job.is_waiting(),
                Some(Leaving::Cancelled { .. }) => job.online > 0,
                Some(Leaving::Drains { .. }) | None => false,
            };
            if has_begun {
                job.leaving = Some(Leaving::Drains { told_ms: 0, empty_ms: None });
            }
        }
    }

    /// Gives jobs that leave so another way to leave, and returns them.
    fn mark(&mut self, to: Leaving, leaves: impl Fn(Leaving) -> bool) -> Vec<JobId> {
        let live = self.jobs.iter_mut().filter(|(_, job)| job.is_live());
        let found = live.filter(|(_, job)| job.leaving.is_some_and(&leaves));
        let mark = |(id, job): (&JobId, &mut Job)| {
            job.leaving = Some(to);
            id.clone()
        };
        found.map(mark).collect()
    }

    /// Marks jobs that are not wanted. Each order is given by [`Keeper::poll_departure`], which
    /// takes it for one that was last given long ago. A keeper that has just been started knows
    /// neither which jobs wait nor which engines are at work, until it is told.
    fn note_surplus(&mut self, knows_broker: bool) {
        if !self.questions.knows_since(0) {
            return;
        }
        let wanted = self.shape.wanted;
        let counted: u32 = self.counted().map(|job| job.engines).sum();
        let mut surplus = counted.saturating_sub(wanted.max);
        if surplus == 0 {
            return;
        }
        let may_leave = |job: &Job| job.is_counted() && (job.surely_waits() || knows_broker);
        let mut jobs: Vec<_> = self.jobs.values_mut().filter(|job| may_leave(job)).collect();
        // The youngest of those that wait have waited least.
        jobs.sort_by_key(|job| {
            (!job.surely_waits(), job.busy, job.online, u64::MAX - job.submitted_ms)
        });
        for job in jobs {
            if job.engines > surplus {
                continue;
            }
            surplus -= job.engines;
            job.leaving = Some(if job.surely_waits() {
                Leaving::Withdrawn { told_ms: 0 }
            } else {
                Leaving::Drains { told_ms: 0, empty_ms: None }
            });
        }
    }
}
