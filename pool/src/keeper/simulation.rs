//! Random histories of a keeper, a batch system and a broker: commands fail, hang and lie by
//! omission, answers are late, lost and doubled, jobs end in all ways, and the keeper is killed at
//! any moment.

use std::collections::BTreeMap;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use super::*;

/// A job as it really is.
#[derive(Clone, Debug)]
struct RealJob {
    engines: u32,
    state: JobState,
    starts_ms: u64,
    online_ms: u64,
    ends: (u64, End),
    is_told_to_leave: bool,
    /// Its node, once it has begun.
    node: String,
    /// The nodes that it leaves out.
    left_out: Vec<String>,
    /// Answers in a row that have left it out.
    omitted: u32,
}

/// A command on its way.
#[derive(Clone, Debug)]
enum Command {
    Submit(Submission, Vec<String>),
    Answer(Result<Vec<JobId>, Refusal>),
    Query(u64),
    Listing(u64, Result<Vec<Listed>, String>),
    CancelWaiting(Vec<JobId>),
    Cancel(Vec<JobId>),
    Drain(JobId),
}

/// The nodes as they really are: one may end each job at once, and is free at any time.
struct RealNodes {
    count: u32,
    bad: Option<String>,
}

struct World {
    rng: StdRng,
    now_ms: u64,
    shape: Shape,
    /// Chances out of a hundred: of a fault of any kind, and of a job that is broken.
    faults: u32,
    broken: u32,
    nodes: RealNodes,
    jobs: BTreeMap<JobId, RealJob>,
    next_id: u32,
    on_the_way: Vec<(u64, Command)>,
    keeper: Option<Keeper>,
    starts_ms: u64,
    saved: Saved,
    intent: Option<Submission>,
    submitted_ms: Option<u64>,
    submits: u32,
    broker_down_until_ms: u64,
}

impl RealNodes {
    /// Puts a job that begins on a node that it does not leave out: first of all the bad one.
    fn place(&self, job: &mut RealJob, rng: &mut StdRng) {
        let names = (1..=self.count).map(|number| format!("n{number}"));
        let free: Vec<String> = names.filter(|name| !job.left_out.contains(name)).collect();
        if let Some(bad) = self.bad.as_ref().filter(|bad| free.contains(bad)) {
            (job.node, job.online_ms) = (bad.clone(), u64::MAX);
            job.ends = (job.starts_ms + 2_000, End::Failed);
        } else if let Some(name) = free.get(rng.random_range(0..free.len().max(1))) {
            job.node.clone_from(name);
        }
    }
}

const START_MS: u64 = 1_000_000;

impl World {
    fn new(seed: u64) -> Self {
        let mut rng = StdRng::seed_from_u64(seed);
        let per_job = rng.random_range(1..5);
        let engines = rng.random_range(0..60);
        let limits = Limits {
            jobs_max: rng.random_range(1..60),
            pending_max: rng.random_range(1..10),
            array_max: rng.random_range(1..20),
        };
        let leaves_out = [LeavesOut::Never, LeavesOut::OnceProven, LeavesOut::Always];
        let leaves_out = leaves_out[rng.random_range(0..3)];
        let shape = Shape {
            wanted: Wanted::exactly(engines),
            per_job,
            limits,
            leaves_out,
            ends_now: false,
        };
        let count = rng.random_range(1..5);
        let bad = rng.random_bool(0.5).then(|| "n1".to_owned());
        let nodes = RealNodes { count, bad };
        let (faults, broken) = (rng.random_range(1..30), rng.random_range(0..15));
        Self {
            rng,
            now_ms: START_MS,
            shape,
            faults,
            broken,
            nodes,
            jobs: BTreeMap::new(),
            next_id: 1,
            on_the_way: Vec::new(),
            keeper: None,
            starts_ms: START_MS,
            saved: Saved::default(),
            intent: None,
            submitted_ms: None,
            submits: 0,
            broker_down_until_ms: 0,
        }
    }

    fn chance(&mut self, percent: u32) -> bool {
        self.rng.random_range(0..100) < percent
    }

    fn live(&self) -> impl Iterator<Item = (&JobId, &RealJob)> {
        self.jobs.iter().filter(|(_, job)| !matches!(job.state, JobState::Ended(_)))
    }

    fn send(&mut self, command: Command, most_ms: u64) {
        let at = self.now_ms + self.rng.random_range(10..most_ms);
        self.on_the_way.push((at, command));
    }

    /// One step of a quarter of a second.
    fn step(&mut self) {
        self.now_ms += 250;
        self.jobs_go_on();
        self.on_the_way.sort_by_key(|(at, _)| *at);
        while self.on_the_way.first().is_some_and(|(at, _)| *at <= self.now_ms) {
            let (_, command) = self.on_the_way.remove(0);
            self.carry_out(command);
        }
        self.keeper_lives_or_dies();
        let engines = self.engines();
        let has_news = self.chance(25);
        let Some(keeper) = &mut self.keeper else { return };
        if has_news && self.now_ms >= self.broker_down_until_ms {
            keeper.handle_engines(self.now_ms, &engines);
        }
        for _ in 0..20 {
            let Some(keeper) = &mut self.keeper else { return };
            let Some(action) = keeper.poll_action(self.now_ms) else { break };
            self.begin(action);
        }
    }

    /// The keeper dies. All that it knew but not what it was about to do has been written.
    fn kill(&mut self) {
        let keeper = self.keeper.take().expect("a keeper lives");
        self.intent = keeper.unfinished();
        let saved = keeper.saved();
        let text = serde_json::to_string(&saved).unwrap();
        self.saved = serde_json::from_str(&text).unwrap();
    }

    fn begin(&mut self, action: Action) {
        let hangs = self.chance(self.faults / 3);
        let most_ms = if hangs { 25_000 } else { 800 };
        match action {
            Action::Submit(submission) => {
                self.check_submit(submission);
                let keeper = self.keeper.as_ref().unwrap();
                let left_out = keeper.left_out(self.now_ms);
                let is_never = self.shape.leaves_out == LeavesOut::Never;
                assert!(left_out.is_empty() || !is_never, "nothing can leave nodes out");
                assert!(left_out.len() <= 8, "{left_out:?}");
                self.send(Command::Submit(submission, left_out), most_ms);
            }
            Action::Query(number) => self.send(Command::Query(number), most_ms),
            Action::CancelWaiting(ids) => {
                ids.iter().for_each(|id| self.note_departure(id));
                self.send(Command::CancelWaiting(ids), most_ms);
            }
            Action::Cancel(ids) => {
                ids.iter().for_each(|id| self.check_cancel(id));
                ids.iter().for_each(|id| self.note_departure(id));
                self.send(Command::Cancel(ids), most_ms);
            }
            Action::Drain(id) => {
                self.note_departure(&id);
                self.send(Command::Drain(id), most_ms);
            }
        }
    }

    fn note_departure(&mut self, id: &JobId) {
        if let Some(job) = self.jobs.get_mut(id) {
            job.is_told_to_leave = true;
        }
    }

    /// A job whose engines are here may run tasks, whoever the keeper is. Of one that has begun a
    /// moment ago, or since the broker is away, nobody can know.
    fn check_cancel(&self, id: &JobId) {
        if self.shape.ends_now {
            return;
        }
        let is_here = self.engines().contains_key(id);
        let came_ms = self.jobs.get(id).map_or(0, |job| job.online_ms);
        let is_known = self.now_ms >= self.broker_down_until_ms.max(came_ms).saturating_add(10_000);
        let known = self.keeper.as_ref().and_then(|keeper| keeper.jobs.get(id));
        assert!(!(is_here && is_known), "{id} is at work and cancelled: {known:?}");
    }

    /// Everything that must be true of a submit.
    fn check_submit(&mut self, submission: Submission) {
        let keeper = self.keeper.as_ref().unwrap();
        assert_eq!(keeper.gate.paused, None, "a paused pool submits nothing");
        assert!(submission.jobs > 0 && submission.engines > 0);
        assert!(submission.engines <= self.shape.per_job);
        if let Some(before) = self.submitted_ms {
            assert!(self.now_ms >= before + SUBMIT_SPACING_MS, "submits are too close");
        }
        (self.submitted_ms, self.submits) = (Some(self.now_ms), self.submits + 1);
        let (limits, live) = (self.shape.limits, self.live().count() as u32);
        let waiting = self.live().filter(|(_, job)| job.state == JobState::Pending).count() as u32;
        assert!(live + submission.jobs <= limits.jobs_max, "too many jobs");
        assert!(submission.jobs <= limits.array_max);
        // Those that wait may have begun since the keeper looked; never the other way round, but
        // for a job that was requeued.
        assert!(waiting + submission.jobs <= limits.pending_max + 1, "too many wait");
        let engines: u32 =
            self.live().filter(|(_, job)| !job.is_told_to_leave).map(|(_, job)| job.engines).sum();
        let asked = submission.jobs * submission.engines;
        let all: Vec<_> = self.live().collect();
        assert!(
            engines + asked <= self.shape.wanted.max,
            "more engines than wanted: {submission:?} {all:?} {keeper:?}"
        );
        let is_proven = keeper.proven;
        assert!(is_proven || (submission.jobs == 1 && live == 0), "one job goes ahead");
    }

    fn carry_out(&mut self, command: Command) {
        let has_fault = self.chance(self.faults);
        match command {
            Command::Submit(_, left_out)
                if self.shape.leaves_out == LeavesOut::Always
                    && left_out.len() >= self.nodes.count as usize =>
            {
                let answer = Err(Refusal::NoNode("sbatch: error".to_owned()));
                self.send(Command::Answer(answer), 500);
            }
            Command::Submit(submission, left_out) => {
                let kind = self.rng.random_range(0..5);
                let text = || "sbatch: error".to_owned();
                let answer = match kind {
                    0 if has_fault => Err(Refusal::Full(text())),
                    1 if has_fault => Err(Refusal::Refused(text())),
                    2 if has_fault => Err(Refusal::Unclear(text())),
                    4 if has_fault => Err(Refusal::Forbidden(text())),
                    _ => Ok(self.accept(submission, &left_out)),
                };
                let is_unclear = kind == 3 && has_fault;
                let answer = if is_unclear { Err(Refusal::Unclear(text())) } else { answer };
                self.send(Command::Answer(answer), 500);
            }
            Command::Answer(answer) => {
                if let Some(keeper) = &mut self.keeper {
                    keeper.handle_submitted(self.now_ms, answer);
                }
            }
            Command::Query(number) => {
                let answer = self.listing(has_fault);
                self.send(Command::Listing(number, answer.clone()), 500);
                if has_fault && self.chance(20) {
                    self.send(Command::Listing(number, answer), 40_000);
                }
            }
            Command::Listing(number, answer) => {
                let is_lost = has_fault && self.chance(20);
                if let Some(keeper) = self.keeper.as_mut().filter(|_| !is_lost) {
                    keeper.handle_listed(self.now_ms, number, answer);
                }
            }
            Command::CancelWaiting(mut ids) => {
                let waits = |job: &RealJob| job.state == JobState::Pending;
                ids.retain(|id| self.jobs.get(id).is_some_and(waits));
                ids.iter().for_each(|id| self.end(id, End::Cancelled));
            }
            Command::Cancel(ids) => ids.iter().for_each(|id| self.end(id, End::Cancelled)),
            Command::Drain(id) if !has_fault => self.end(&id, End::Completed),
            Command::Drain(_) => {}
        }
    }

    fn end(&mut self, id: &JobId, end: End) {
        if let Some(job) = self.jobs.get_mut(id)
            && !matches!(job.state, JobState::Ended(_))
        {
            job.state = JobState::Ended(end);
        }
    }

    fn accept(&mut self, submission: Submission, left_out: &[String]) -> Vec<JobId> {
        let array = self.next_id;
        self.next_id += 1;
        let ids: Vec<JobId> =
            (1..=submission.jobs).map(|n| JobId(format!("{array}_{n}"))).collect();
        for id in &ids {
            let is_broken = self.chance(self.broken);
            let starts_ms = self.now_ms + self.rng.random_range(100..40_000);
            let online_ms =
                if is_broken { u64::MAX } else { starts_ms + self.rng.random_range(100..3_000) };
            let lives_ms = match is_broken {
                true => 2_000,
                false if self.faults == 0 => 100_000_000,
                false => self.rng.random_range(20_000..900_000),
            };
            let ends = [End::TimeLimit, End::Preempted, End::NodeFailed, End::Completed];
            let end = ends[self.rng.random_range(0..ends.len())];
            let end = if is_broken { End::Failed } else { end };
            let job = RealJob {
                engines: submission.engines,
                state: JobState::Pending,
                starts_ms,
                online_ms,
                ends: (starts_ms + lives_ms, end),
                is_told_to_leave: false,
                node: String::new(),
                left_out: left_out.to_vec(),
                omitted: 0,
            };
            self.jobs.insert(id.clone(), job);
        }
        ids
    }

    fn listing(&mut self, has_fault: bool) -> Result<Vec<Listed>, String> {
        if has_fault && self.chance(50) {
            return Err("squeue: error".to_owned());
        }
        let mut listed = Vec::new();
        let (now_ms, rng) = (self.now_ms, &mut self.rng);
        let known = self.keeper.as_ref().map(Keeper::jobs);
        for (id, job) in &mut self.jobs {
            let is_forgotten =
                matches!(job.state, JobState::Ended(_)) && now_ms > job.ends.0 + 300_000;
            if is_forgotten {
                continue;
            }
            // One that was never listed nobody can know of.
            let is_known = known.is_some_and(|known| known.contains_key(id));
            if has_fault && is_known && job.omitted < 8 && rng.random_range(0..3) == 0 {
                job.omitted += 1;
                continue;
            }
            job.omitted = 0;
            listed.push(Listed {
                id: id.clone(),
                state: job.state,
                node: job.node.clone(),
                why: String::new(),
                left: String::new(),
            });
        }
        Ok(listed)
    }

    fn jobs_go_on(&mut self) {
        let (now_ms, nodes, rng) = (self.now_ms, &self.nodes, &mut self.rng);
        for job in self.jobs.values_mut() {
            match job.state {
                JobState::Pending if now_ms >= job.starts_ms => {
                    nodes.place(job, rng);
                    job.state = JobState::Running;
                }
                JobState::Running if now_ms >= job.ends.0 => {
                    job.state = JobState::Ended(job.ends.1);
                }
                _ => {}
            }
        }
        if self.chance(self.faults) && self.chance(2) {
            self.broker_down_until_ms = now_ms + self.rng.random_range(1_000..100_000);
        }
    }

    fn engines(&self) -> BTreeMap<JobId, EnginesOfJob> {
        let running = self
            .live()
            .filter(|(_, job)| job.state == JobState::Running && self.now_ms >= job.online_ms);
        running
            .map(|(id, job)| (id.clone(), EnginesOfJob { online: job.engines, busy: 0 }))
            .collect()
    }

    /// Kills the keeper now and then, and starts it again once no submit of its is under way: the
    /// shell waits for that.
    fn keeper_lives_or_dies(&mut self) {
        if self.keeper.is_some() && self.chance(self.faults) && self.chance(3) {
            self.kill();
            self.starts_ms = self.now_ms + self.rng.random_range(250..20_000);
            // Killed before the command began, or after; its answer is for nobody.
            let never_began = self.chance(30);
            self.on_the_way.retain(|(_, command)| match command {
                Command::Submit(..) => !never_began,
                Command::Answer(_) | Command::Listing(..) => false,
                _ => true,
            });
        }
        let submits = |(_, command): &(u64, Command)| {
            matches!(command, Command::Submit(..) | Command::Answer(_))
        };
        let is_free = !self.on_the_way.iter().any(submits);
        if self.keeper.is_none() && self.now_ms >= self.starts_ms && is_free {
            let (saved, intent) = (self.saved.clone(), self.intent.take());
            self.keeper = Some(Keeper::new(self.now_ms, self.shape, saved, intent));
            // Numbers of another keeper's questions mean nothing to this one.
            self.on_the_way
                .retain(|(_, it)| !matches!(it, Command::Query(_) | Command::Listing(..)));
        }
    }

    /// From now on all goes well.
    fn calm(&mut self) {
        (self.faults, self.broken) = (0, 0);
        // A pool can do without a bad node only if there is another one, and it can leave it out
        // before its first engine has come.
        if self.nodes.count == 1 || self.shape.leaves_out != LeavesOut::Always {
            self.nodes.bad = None;
        }
        self.broker_down_until_ms = 0;
    }

    fn run_until(&mut self, seconds: u64, is_so: impl Fn(&Self) -> bool) -> bool {
        (0..seconds * 4).any(|_| {
            self.step();
            is_so(self)
        })
    }

    fn is_as_wanted(&self) -> bool {
        let Shape { wanted, per_job, limits, .. } = self.shape;
        let online: u32 = self.engines().values().map(|it| it.online).sum();
        // Jobs of fewer engines than the others may stand where the bound is on jobs.
        let least = if limits.jobs_max.saturating_mul(per_job) > wanted.max + per_job {
            wanted.max
        } else {
            0
        };
        online <= wanted.max && online >= least
    }
}

fn history(seed: u64) {
    let mut world = World::new(seed);
    for _ in 0..world.rng.random_range(1..5) {
        let seconds = world.rng.random_range(10..300);
        world.run_until(seconds, |_| false);
        if world.chance(50) {
            let engines = world.rng.random_range(0..60);
            world.shape.wanted = Wanted::exactly(engines);
            let shape = world.shape;
            world.keeper.iter_mut().for_each(|keeper| keeper.handle_shape(shape));
        }
        if world.chance(30) {
            let now_ms = world.now_ms;
            world.keeper.iter_mut().for_each(|keeper| keeper.handle_resume(now_ms));
        }
    }
    world.calm();
    // What was submitted while there were faults may still be broken.
    world.run_until(400, |_| false);
    let now_ms = world.now_ms;
    world.keeper.iter_mut().for_each(|keeper| keeper.handle_resume(now_ms));
    let reached = world.run_until(7_200, World::is_as_wanted);
    let keeper = world.keeper.as_ref().unwrap();
    let describe = keeper.describe();
    let (engines, jobs) = (world.engines(), &keeper.jobs);
    assert!(reached, "{engines:?} of {:?}: {describe}\n{jobs:?}", world.shape);
    for (id, _) in world.live() {
        let is_known = keeper.jobs.contains_key(id) || keeper.submission.is_some();
        assert!(is_known, "{id} is forgotten");
    }
    world.shape.ends_now = true;
    world.shape.wanted = Wanted::exactly(0);
    let shape = world.shape;
    world.keeper.iter_mut().for_each(|keeper| keeper.handle_shape(shape));
    let ended = world.run_until(120, |world| world.live().next().is_none());
    assert!(ended, "{:?} are left", world.live().collect::<Vec<_>>());
}

#[test]
fn histories_reach_what_is_wanted_and_keep_the_limits() {
    let count = std::env::var("FURLONG_POOL_HISTORIES").ok().and_then(|it| it.parse().ok());
    for seed in 0..count.unwrap_or(100) {
        let outcome = std::panic::catch_unwind(|| history(seed));
        assert!(outcome.is_ok(), "seed {seed}");
    }
}
