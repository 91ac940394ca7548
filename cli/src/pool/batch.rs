//! A pool on a batch system: its keeper, and the commands that the keeper orders.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result};
use furlong_client::EngineId;
use furlong_pool::keeper::{
    Action, End, JobId, JobState, Keeper, Listed, Refusal, Saved, Submission,
};
use furlong_pool::script;
use furlong_pool::spec::PoolSpec;
use furlong_pool::system::kubernetes;
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::broker::Picture;
use super::command::Scheduler;
use super::files::{PoolDir, PoolState, UsedSystem, WrittenState};
use super::pods;

/// A pool that is kept.
#[derive(Debug)]
pub struct BatchPool {
    dir: PoolDir,
    spec: PoolSpec,
    job_name: String,
    scheduler: Scheduler,
    /// None while a submit of an earlier keeper is under way.
    keeper: Option<Keeper>,
    clock: Clock,
    /// The last state that was written.
    written: WrittenState,
    answers: mpsc::Sender<Answer>,
    /// Answers that have not come.
    submits_under_way: u32,
    /// The number of looks at the broker that it has been told of.
    looks: u64,
    tidied: Instant,
}

/// The answer to a command.
#[derive(Debug)]
pub enum Answer {
    /// To a submit.
    Submitted(Result<Vec<JobId>, Refusal>),
    /// To a question for jobs.
    Listed(u64, Result<Vec<Listed>, String>),
}

/// Time as the keeper knows it: milliseconds since 1970, which never go back.
#[derive(Clone, Copy, Debug)]
struct Clock {
    start: Instant,
    start_ms: u64,
}

/// A job that has been missing in so many answers is not just late.
const MISSING_OFTEN: u32 = 2;
/// The time between two looks for logs that are too many.
const TIDY: Duration = Duration::from_secs(600);

impl Clock {
    fn new() -> Self {
        Self { start: Instant::now(), start_ms: unix_ms() }
    }

    fn now_ms(&self) -> u64 {
        self.start_ms + u64::try_from(self.start.elapsed().as_millis()).unwrap_or(0)
    }
}

/// Milliseconds since 1970.
pub fn unix_ms() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(0)
}

impl BatchPool {
    /// The pool of this folder. Answers to its commands go through the channel.
    ///
    /// # Errors
    /// Its file is not good, or its system is not known.
    pub fn open(dir: PoolDir, job_prefix: &str, answers: mpsc::Sender<Answer>) -> Result<Self> {
        let spec = dir.spec()?;
        let scheduler = scheduler(&spec)?;
        let job_name = format!("{job_prefix}{}", spec.name);
        Ok(Self {
            dir,
            spec,
            job_name,
            scheduler,
            keeper: None,
            clock: Clock::new(),
            written: WrittenState::default(),
            answers,
            submits_under_way: 0,
            looks: 0,
            tidied: Instant::now(),
        })
    }

    /// Something else is wanted.
    pub fn set_spec(&mut self, spec: PoolSpec) {
        if let Some(keeper) = &mut self.keeper {
            keeper.handle_shape(spec.shape());
        }
        self.spec = spec;
    }

    /// The specification that it has.
    pub fn spec(&self) -> &PoolSpec {
        &self.spec
    }

    /// Returns true if it is to be removed, and nothing of it is left.
    pub fn is_over(&self) -> bool {
        let is_empty = |keeper: &Keeper| keeper.jobs().is_empty() && keeper.unfinished().is_none();
        self.spec.is_removed && self.keeper.as_ref().is_some_and(is_empty)
    }

    /// Returns true while a command makes jobs.
    pub fn submits(&self) -> bool {
        self.submits_under_way > 0
    }

    /// A command has answered.
    pub fn handle_answer(&mut self, answer: Answer) {
        let now_ms = self.clock.now_ms();
        let Some(keeper) = &mut self.keeper else { return };
        match answer {
            Answer::Submitted(given) => {
                self.submits_under_way -= 1;
                match &given {
                    Ok(ids) => {
                        let first = ids.first().map_or("", |id| id.0.as_str());
                        tracing::info!("pool {}: {} jobs, {first}", self.spec.name, ids.len());
                    }
                    Err(refusal) => tracing::warn!("pool {}: {refusal:?}", self.spec.name),
                }
                keeper.handle_submitted(now_ms, given);
            }
            Answer::Listed(number, answer) => {
                let forgets = self.scheduler.system.commands.list_named.is_none();
                let answer = answer.map(|mut listed| {
                    if forgets {
                        add_ended(&mut listed, keeper, &self.dir);
                    }
                    with_last_lines(listed, keeper, &self.dir)
                });
                if let Err(why) = &answer {
                    tracing::warn!("pool {}: {why}", self.spec.name);
                }
                let before = keeper.left_out(now_ms);
                keeper.handle_listed(now_ms, number, answer);
                for node in keeper.left_out(now_ms).iter().filter(|node| !before.contains(node)) {
                    tracing::warn!("pool {}: node {node} is left out", self.spec.name);
                }
            }
        }
    }

    /// Goes on: tells the keeper of the broker's engines, and carries out what it orders. Gives the
    /// engines that are to leave when they have finished what they run.
    pub fn go_on(&mut self, picture: &Picture) -> Vec<EngineId> {
        if self.keeper.is_none() && !self.open_keeper() {
            return Vec::new();
        }
        let now_ms = self.clock.now_ms();
        let keeper = self.keeper.as_mut().expect("it is there by now");
        if self.dir.take_resume() {
            keeper.handle_resume(now_ms);
        }
        if picture.looks > self.looks {
            self.looks = picture.looks;
            let none = BTreeMap::new();
            let engines = picture.pools.get(self.spec.name.as_str()).unwrap_or(&none);
            keeper.handle_engines(now_ms, engines);
            keeper.handle_tasks(now_ms, picture.tasks);
        }
        let mut leaving = Vec::new();
        while let Some(action) = self.keeper.as_mut().and_then(|keeper| keeper.poll_action(now_ms))
        {
            self.carry_out(action, picture, &mut leaving);
        }
        self.save();
        if self.tidied.elapsed() > TIDY {
            self.tidied = Instant::now();
            self.dir.remove_old_logs();
        }
        leaving
    }

    /// Begins where an earlier keeper has ended, unless a command of its still makes jobs.
    fn open_keeper(&mut self) -> bool {
        if !self.dir.is_submit_over() {
            return false;
        }
        let state = self.dir.state().unwrap_or_default();
        let saved: Saved = state.saved;
        let (now_ms, intent) = (self.clock.now_ms(), self.dir.intent());
        self.keeper = Some(Keeper::new(now_ms, self.spec.shape(), saved, intent));
        true
    }

    fn carry_out(&mut self, action: Action, picture: &Picture, leaving: &mut Vec<EngineId>) {
        let (scheduler, answers) = (self.scheduler.clone(), self.answers.clone());
        match action {
            Action::Submit(submission) => self.submit(submission),
            Action::Query(number) => {
                let (name, dir) = (self.job_name.clone(), self.dir.clone());
                tokio::spawn(async move {
                    let listed = scheduler.list_named(&name).await;
                    if let Ok(listed) = &listed {
                        pods::collect(&scheduler, listed, &dir).await;
                    }
                    let _ = answers.send(Answer::Listed(number, listed)).await;
                });
            }
            Action::CancelWaiting(ids) => self.cancel(true, ids),
            Action::Cancel(ids) => self.cancel(false, ids),
            Action::Drain(id) => {
                tracing::info!("pool {}: job {id} finishes what it runs", self.spec.name);
                leaving.extend(picture.ids.get(&id).into_iter().flatten());
            }
        }
    }

    fn cancel(&self, waiting_only: bool, ids: Vec<JobId>) {
        let scheduler = self.scheduler.clone();
        let which = if waiting_only { "those that wait of " } else { "" };
        tracing::info!("pool {}: {which}{} are cancelled", self.spec.name, words(&ids));
        tokio::spawn(async move {
            let cancelled = if waiting_only {
                scheduler.cancel_waiting(&ids).await
            } else {
                scheduler.cancel(&ids).await
            };
            if let Err(error) = cancelled {
                tracing::warn!("jobs {} are not cancelled: {error}", words(&ids));
            }
        });
    }

    /// The user's arguments for the command that submits, and those that leave nodes out.
    fn args(&self) -> Vec<String> {
        let now_ms = self.clock.now_ms();
        let nodes = self.keeper.as_ref().map_or_else(Vec::new, |it| it.left_out(now_ms));
        if self.scheduler.system.is_of_pods {
            // They are arguments of each command.
            return Vec::new();
        }
        let args = &self.spec.job.args;
        match self.scheduler.system.leave_out.filter(|_| !nodes.is_empty()) {
            Some(leave_out) => {
                leave_out(args, self.spec.job.template.as_deref().unwrap_or_default(), &nodes)
            }
            None => args.clone(),
        }
    }

    fn submit(&mut self, submission: Submission) {
        self.submits_under_way += 1;
        let folder = self.dir.path().to_string_lossy().into_owned();
        let system = self.scheduler.system;
        let text = script::write(&self.spec, system, &self.job_name, &folder, submission);
        let begun = self.dir.begin_submit(&text, submission);
        let (scheduler, answers) = (self.scheduler.clone(), self.answers.clone());
        let (args, cap) = (self.args(), PathBuf::from(&self.spec.engine.cap));
        let id = kubernetes::id_of_job(&self.job_name, self.spec.name.as_str());
        let dir = PathBuf::from(&self.spec.job.dir);
        tokio::spawn(async move {
            let given = match begun {
                Ok(file) => match pods::provide(&scheduler, &id, &cap).await {
                    Ok(()) => scheduler.submit(file, &args, &dir, submission.jobs).await,
                    Err(refusal) => Err(refusal),
                },
                Err(error) => Err(Refusal::Refused(format!("{error:#}"))),
            };
            let _ = answers.send(Answer::Submitted(given)).await;
        });
    }

    /// Writes down what has changed; the intent goes when its outcome is written.
    pub fn save(&mut self) {
        let Some(keeper) = &self.keeper else { return };
        let saved = keeper.saved();
        let engines: BTreeMap<JobId, u32> = saved
            .jobs
            .iter()
            .filter(|(_, job)| job.online > 0)
            .map(|(id, job)| (id.clone(), job.online))
            .collect();
        let state = PoolState {
            job_name: self.job_name.clone(),
            target: keeper.target(),
            online: engines.values().sum(),
            said: keeper.describe(),
            engines,
            saved,
        };
        let is_written = self.written.update(&self.dir, state);
        if is_written && keeper.unfinished().is_none() && self.dir.intent().is_some() {
            self.dir.end_submit();
        }
    }
}

/// The batch system of a pool.
///
/// # Errors
/// There is no such system.
pub fn scheduler(spec: &PoolSpec) -> Result<Scheduler> {
    let scheduler = UsedSystem::of(spec).scheduler();
    scheduler.with_context(|| format!("there is no system `{}`", spec.system))
}

/// Adds jobs that have ended by their own word to the list of a system that forgets such jobs: they
/// have begun, since they have a log, and are missing again and again.
fn add_ended(listed: &mut Vec<Listed>, keeper: &Keeper, dir: &PoolDir) {
    let is_listed = |id: &JobId| listed.iter().any(|job| job.id == *id);
    let missing = keeper.jobs().iter().filter(|(id, job)| {
        job.online == 0 && job.missing >= MISSING_OFTEN && !is_listed(id) && dir.log(id).is_file()
    });
    let ended: Vec<Listed> = missing
        .map(|(id, job)| Listed {
            id: id.clone(),
            state: JobState::Ended(End::Gone),
            node: job.node.clone(),
            why: String::new(),
            left: String::new(),
        })
        .collect();
    listed.extend(ended);
}

/// What a job has said last is a better reason for its end than its system has.
fn with_last_lines(mut listed: Vec<Listed>, keeper: &Keeper, dir: &PoolDir) -> Vec<Listed> {
    for job in &mut listed {
        let known = keeper.jobs().get(&job.id);
        let has_failed = matches!(
            job.state,
            JobState::Ended(End::Failed | End::Completed | End::Cancelled | End::Gone)
        );
        if has_failed
            && known.is_some_and(|known| !known.had_engine)
            && let Some(line) = dir.last_line(&job.id)
        {
            job.why = line;
        }
    }
    listed
}

/// The ids of jobs in a line.
pub fn words<'a>(ids: impl IntoIterator<Item = &'a JobId>) -> String {
    ids.into_iter().map(ToString::to_string).collect::<Vec<_>>().join(" ")
}
