//! The verdict on a farm: what was seen of it, and whether it was as it must be.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::Path;

use furlong_tests::history::{Facts, History, Outcome, TaskName};
use furlong_wire::limits::INLINE_PAYLOAD_BYTES_MAX;

use crate::farm::ClientLog;
use crate::job::{How, Job, On, Runtime};
use crate::log::{End, What};
use crate::plan::{Fault, Hit};

/// A fault that has happened.
#[derive(Clone, Copy, Debug)]
pub struct Struck {
    /// From when.
    pub from_us: u64,
    /// Until when.
    pub until_us: u64,
    /// The target that it hit.
    pub hit: Hit,
    /// The kind of the fault.
    pub fault: Fault,
    /// The number of targets it hit: interpreters are killed together.
    pub count: usize,
}

impl Struck {
    fn is_kill_of_broker(&self) -> bool {
        (self.hit, self.fault) == (Hit::Broker, Fault::Kill)
    }
}

/// All that is known of one task.
#[derive(Debug)]
struct Task {
    job: Job,
    submitted_us: u64,
    cancelled: bool,
    /// As its client heard of them; of one that was killed, as another one did.
    ends: Vec<(u64, End)>,
    /// The ends that others were told when they asked.
    fetched: Vec<End>,
    /// The engines at which it began, in their order.
    begins: Vec<u32>,
}

/// All that was seen of a farm.
pub struct Account<'a> {
    tasks: BTreeMap<TaskName, Task>,
    /// The beginnings, in their order.
    begins: Vec<(TaskName, u32)>,
    /// For each client, the last task of which it knows that it was accepted.
    accepted: BTreeMap<u32, u64>,
    logs: &'a [ClientLog],
    struck: &'a [Struck],
    engine_pids: &'a [(u32, usize)],
}

/// A violation of what must hold.
#[derive(Clone, Debug)]
pub struct Violation {
    /// The name of what should hold.
    pub invariant: String,
    /// The task of which it does not, if it is one.
    pub task: Option<TaskName>,
    /// The description of the case.
    pub text: String,
}

/// The counts of what happened.
#[derive(Clone, Default, Debug)]
pub struct Tally {
    /// Faults by what they were and hit.
    pub faults: BTreeMap<String, usize>,
    /// Ends by state.
    pub ends: BTreeMap<String, usize>,
    /// Tasks that were submitted.
    pub tasks: usize,
    /// Runs that have begun.
    pub runs: usize,
    /// Sessions that have come back to the broker.
    pub returns: usize,
}

impl<'a> Account<'a> {
    /// Puts together what clients and tasks have written down.
    ///
    /// # Errors
    /// If a trace makes no sense.
    pub fn of(
        logs: &'a [ClientLog],
        trace: &Path,
        struck: &'a [Struck],
        engine_pids: &'a [(u32, usize)],
    ) -> anyhow::Result<Self> {
        let (tasks, begins, accepted) = (BTreeMap::new(), Vec::new(), BTreeMap::new());
        let mut account = Self { tasks, begins, accepted, logs, struck, engine_pids };
        for (client, log) in (0..).zip(logs) {
            log.entries.iter().for_each(|entry| account.take(client, entry.at_us, &entry.what));
        }
        for line in std::fs::read_to_string(trace).unwrap_or_default().lines() {
            let numbers: Vec<u64> = line.split(' ').map(str::parse).collect::<Result<_, _>>()?;
            let [client, n, engine] = numbers[..] else {
                anyhow::bail!("the trace has the line {line:?}")
            };
            let (name, engine) = (TaskName { client: client as u32, n }, engine as u32);
            if let Some(task) = account.tasks.get_mut(&name) {
                task.begins.push(engine);
                account.begins.push((name, engine));
            }
        }
        Ok(account)
    }

    fn take(&mut self, client: u32, at_us: u64, what: &What) {
        let task = |n| TaskName { client, n };
        match what {
            What::Submits(job) => {
                let job = (**job).clone();
                let (ends, fetched, begins) = (Vec::new(), Vec::new(), Vec::new());
                let seen =
                    Task { submitted_us: at_us, cancelled: false, ends, fetched, begins, job };
                self.tasks.insert(task(seen.job.n), seen);
            }
            What::Cancels(n) => {
                self.tasks.entry(task(*n)).and_modify(|task| task.cancelled = true);
            }
            // Those of a session that has ended with its connection are not known.
            What::Ended(end) if end.state.is_some() || !self.logs[client as usize].cancels => {
                self.tasks
                    .entry(task(end.n))
                    .and_modify(|task| task.ends.push((at_us, end.clone())));
            }
            What::Accepted(n) => _ = self.accepted.insert(client, *n),
            What::Fetched { of, end } => {
                self.tasks.entry(TaskName { client: *of, n: end.n }).and_modify(|task| {
                    task.fetched.push(end.clone());
                    if task.ends.is_empty() && end.state.is_some() {
                        task.ends.push((at_us, end.clone()));
                    }
                });
            }
            _ => {}
        }
    }

    /// The counts of what happened.
    pub fn tally(&self) -> Tally {
        let mut tally =
            Tally { tasks: self.tasks.len(), runs: self.begins.len(), ..Tally::default() };
        for struck in self.struck {
            *tally
                .faults
                .entry(format!("{} {}", struck.fault.name(), struck.hit.name()))
                .or_default() += 1;
        }
        for (_, end) in self.tasks.values().flat_map(|task| &task.ends) {
            *tally
                .ends
                .entry(end.state.clone().unwrap_or_else(|| "unknown".to_owned()))
                .or_default() += 1;
        }
        let entries = self.logs.iter().flat_map(|log| &log.entries);
        tally.returns = entries.filter(|entry| matches!(entry.what, What::Back)).count();
        tally
    }

    /// Checks everything.
    ///
    /// # Errors
    /// The first violation.
    pub fn check(&self) -> Result<(), Violation> {
        self.submits_are_taken()?;
        for (name, task) in &self.tasks {
            if let [(_, end)] = &task.ends[..] {
                self.end_is_just(*name, task, end)?;
            }
            self.waited(*name, task)?;
        }
        self.what_was_accepted_is_there()?;
        self.inputs_are_read()?;
        self.interpreters_lose_one_task_each()?;
        self.history().check_end().map_err(|violation| Violation {
            invariant: violation.invariant.to_string(),
            task: violation.task,
            text: violation.text,
        })
    }

    fn history(&self) -> History {
        let mut history = History::default();
        for (name, task) in &self.tasks {
            let job = &task.job;
            // A loss with the namespace, of which nobody has heard, is forgotten by a broker that
            // is killed: the task runs after others that were behind it, though still once.
            let may_be_late =
                job.runtime == Runtime::Python && self.is_broken(task, Struck::is_kill_of_broker);
            let engine = job.target.map(|target| target.engine).filter(|_| !may_be_late);
            let at_most_once = job.at_most_once || job.target.is_some();
            let durable = job.durable;
            history.submitted(*name, Facts { at_most_once, engine, durable, ..Facts::default() });
            if !self.logs[name.client as usize].is_gone || self.was_accepted(*name, task) {
                history.accepted(*name);
            }
            if task.cancelled
                || job.after.is_some()
                || !job.reads.is_empty()
                || job.run_timeout_ms.is_some()
                || job.queue_timeout_ms.is_some()
            {
                history.cancel_asked(*name);
            }
            if self.may_be_lost(task) {
                history.may_be_lost(*name);
            }
        }
        let gone = (0..).zip(self.logs).filter(|(_, log)| log.is_gone);
        gone.for_each(|(client, _)| history.client_gone(client));
        if self.struck.iter().any(Struck::is_kill_of_broker)
            && self.tasks.values().any(|task| task.job.durable)
        {
            history.broker_killed();
        }
        self.begins.iter().for_each(|(name, engine)| history.began(*name, *engine));
        for (name, task) in &self.tasks {
            let outcomes = task.ends.iter().filter_map(|(_, end)| outcome(end));
            outcomes.for_each(|outcome| history.delivered(*name, outcome));
            let seen = task.fetched.iter().filter_map(outcome);
            seen.for_each(|outcome| history.ended(*name, outcome));
        }
        history
    }

    /// True if a task outlives its client and the broker: the client has had an answer that says
    /// so, and the disk was not full.
    fn was_accepted(&self, name: TaskName, task: &Task) -> bool {
        let is_within = self.accepted.get(&name.client).is_some_and(|last| name.n <= *last);
        task.job.durable && is_within && !self.is_broken(task, |struck| struck.hit == Hit::Disk)
    }

    /// Whoever comes for the result of a durable task finds it.
    fn what_was_accepted_is_there(&self) -> Result<(), Violation> {
        for (name, task) in &self.tasks {
            let missing = task.fetched.iter().find(|end| end.state.is_none());
            if let Some(end) = missing.filter(|_| self.was_accepted(*name, task)) {
                return violation("durable_results_are_there", Some(*name), end.text.clone());
            }
        }
        Ok(())
    }

    /// Where nothing is in the way of that, results are inputs of others.
    fn inputs_are_read(&self) -> Result<(), Violation> {
        let reading: Vec<_> =
            self.tasks.values().filter(|task| !task.job.reads.is_empty()).collect();
        let has_succeeded = |task: &&&Task| {
            task.ends.first().is_some_and(|(_, end)| end.state.as_deref() == Some("succeeded"))
        };
        let succeeded = reading.iter().filter(has_succeeded).count();
        if reading.len() < FEW || succeeded > 0 {
            return Ok(());
        }
        violation("inputs_are_read", None, format!("none of {} tasks with inputs", reading.len()))
    }

    fn submits_are_taken(&self) -> Result<(), Violation> {
        for (client, log) in (0..).zip(self.logs) {
            for entry in &log.entries {
                if let What::Refused { n, text } = &entry.what {
                    return violation(
                        "submits_are_taken",
                        Some(TaskName { client, n: *n }),
                        text.clone(),
                    );
                }
            }
        }
        Ok(())
    }

    /// Each end has a reason.
    fn end_is_just(&self, name: TaskName, task: &Task, end: &End) -> Result<(), Violation> {
        let (job, kind) = (&task.job, end.kind.as_deref().unwrap_or_default());
        if end.is_wrong {
            return violation("results_are_those_of_their_tasks", Some(name), end.text.clone());
        }
        let is_just = match end.state.as_deref() {
            Some("succeeded") => matches!(job.how, How::Return | How::Flaky),
            Some("failed") => match kind {
                "remote" | "exit" => {
                    matches!(job.how, How::Raise | How::Flaky) || self.is_disk_to_blame(task)
                }
                // It follows another one to an engine without our function.
                "unsupported" => job.after.as_ref().is_some_and(|after| after.follow),
                "journal" => job.durable && self.is_broken(task, |struck| struck.hit == Hit::Disk),
                "unknown_engine" => job.target.is_some() && self.is_engine_broken(task),
                _ => false,
            },
            Some("cancelled") => {
                task.cancelled || kind == "dependency" || self.may_have_timed_out_unheard(task)
            }
            Some("timed_out") => job.run_timeout_ms.is_some() || job.queue_timeout_ms.is_some(),
            Some("lost") => true,
            _ => false,
        };
        if is_just {
            Ok(())
        } else {
            violation(
                "ends_are_just",
                Some(name),
                format!("it ended {:?}: {}", end.state, end.text),
            )
        }
    }

    /// Checks that a task with dependencies runs when they have ended as required, and ends when
    /// they no longer can.
    fn waited(&self, name: TaskName, task: &Task) -> Result<(), Violation> {
        let Some(after) = &task.job.after else { return Ok(()) };
        let met = |n: &u64| {
            let ends = &self.tasks.get(&TaskName { n: *n, ..name })?.ends;
            let succeeded = ends.first()?.1.state.as_deref() == Some("succeeded");
            Some(match after.on {
                On::Success => succeeded,
                On::Failure => !succeeded,
                On::End => true,
            })
        };
        let mets: Vec<Option<bool>> = after.tasks.iter().map(met).collect();
        let can_be = |is_met: bool| mets.iter().any(|met| met.is_none_or(|met| met == is_met));
        // Of a client that was killed, some ends are not known.
        let may_run = if after.is_any { can_be(true) } else { !mets.contains(&Some(false)) };
        // A broker that is killed forgets what it has not told yet: what ran after a success that
        // nobody has heard of can see that other task end anew, and otherwise.
        let is_forgotten = || self.is_broken(task, Struck::is_kill_of_broker);
        if !task.begins.is_empty() && !may_run && !is_forgotten() {
            return violation(
                "nothing_runs_before_its_time",
                Some(name),
                format!("it ran; its conditions: {mets:?}"),
            );
        }
        let gave_up = task.ends.iter().any(|(_, end)| end.kind.as_deref() == Some("dependency"));
        // An input may be the cause, too.
        let may_give_up = after.follow
            || !task.job.reads.is_empty()
            || if after.is_any { !mets.contains(&Some(true)) } else { can_be(false) };
        if gave_up && !may_give_up {
            let text = &task.ends[0].1.text;
            return violation(
                "conditions_that_are_met_are_seen",
                Some(name),
                format!("{text}; conditions: {mets:?}"),
            );
        }
        Ok(())
    }

    /// An interpreter that is killed costs the one task that it ran, of those that any engine can
    /// run.
    fn interpreters_lose_one_task_each(&self) -> Result<(), Violation> {
        let is_loss = |task: &&Task| {
            let job = &task.job;
            let is_plain =
                job.runtime == Runtime::Python && job.target.is_none() && !job.at_most_once;
            is_plain
                && job.how != How::Die
                && matches!(&task.ends[..], [(_, end)] if end.state.as_deref() == Some("lost"))
        };
        let losses = self.tasks.values().filter(is_loss).count();
        let of_interpreters =
            self.struck.iter().filter(|struck| matches!(struck.hit, Hit::Interpreter(_)));
        let kills: usize = of_interpreters.map(|struck| struck.count).sum();
        if losses <= kills {
            return Ok(());
        }
        violation(
            "an_interpreter_takes_one_task_along",
            None,
            format!("{kills} were killed, and {losses} tasks lost"),
        )
    }

    fn may_be_lost(&self, task: &Task) -> bool {
        let job = &task.job;
        // On the engine to which it has followed another task it is as one that names that engine.
        let follows = job.after.as_ref().is_some_and(|after| after.follow);
        match (job.target, job.runtime) {
            _ if job.how == How::Die && job.runtime == Runtime::Python => true,
            // With its namespace, when somebody's cancel has killed the interpreter.
            (target, Runtime::Python) if target.is_some() || follows => true,
            (Some(_), _) => self.is_engine_broken(task),
            (None, runtime) => self.is_broken(task, |struck| match struck.hit {
                Hit::Engine(_) | Hit::Disk => job.at_most_once || follows,
                Hit::Broker => job.at_most_once || (follows && struck.fault != Fault::Kill),
                Hit::Interpreter(_) => runtime == Runtime::Python,
                Hit::Client(_) => false,
            }),
        }
    }

    /// True if the engine that a task names has had trouble, or what keeps its integer. A broker
    /// that is killed costs no task for an engine that lives, but the large payloads that were on
    /// their way.
    fn is_engine_broken(&self, task: &Task) -> bool {
        let place = task.job.target.and_then(|target| self.place_of(target.pid));
        self.is_broken(task, |struck| match struck.hit {
            Hit::Engine(engine) => Some(engine) == place,
            Hit::Disk => true,
            Hit::Broker => {
                struck.fault != Fault::Kill
                    || task.job.bytes as usize > INLINE_PAYLOAD_BYTES_MAX / 2
            }
            Hit::Interpreter(_) | Hit::Client(_) => false,
        })
    }

    /// Of what may run once, an engine holds that it was stopped, and a broker that was started
    /// again does not know why.
    fn may_have_timed_out_unheard(&self, task: &Task) -> bool {
        let is_once = task.job.at_most_once || task.job.target.is_some();
        is_once
            && task.job.run_timeout_ms.is_some()
            && self.is_broken(task, Struck::is_kill_of_broker)
    }

    fn is_disk_to_blame(&self, task: &Task) -> bool {
        task.job.to_file && self.is_broken(task, |struck| struck.hit == Hit::Disk)
    }

    /// Returns true if something like that was broken in the task's life, or shortly before.
    fn is_broken(&self, task: &Task, is_it: impl Fn(&Struck) -> bool) -> bool {
        let ended_us = task.ends.first().map_or(u64::MAX, |(at_us, _)| *at_us);
        self.struck.iter().any(|struck| {
            is_it(struck)
                && struck.from_us <= ended_us
                && task.submitted_us <= struck.until_us + AFTERMATH_US
        })
    }

    fn place_of(&self, pid: u32) -> Option<usize> {
        self.engine_pids.iter().rev().find(|(known, _)| *known == pid).map(|(_, place)| *place)
    }

    /// Describes what is known of a task, for people.
    pub fn tell(&self, name: TaskName, begun_us: u64) -> String {
        let Some(task) = self.tasks.get(&name) else {
            return format!("{name:?} was not submitted");
        };
        let seconds = |at_us: u64| at_us.saturating_sub(begun_us) as f64 / 1e6;
        let mut text = format!(
            "client {}, {:.3} s: {:?}\n",
            name.client,
            seconds(task.submitted_us),
            task.job
        );
        let place = task.job.target.and_then(|target| self.place_of(target.pid));
        let _ = writeln!(
            text,
            "its engine's place: {place:?}; it began at the engines {:?}",
            task.begins
        );
        for (at_us, end) in &task.ends {
            let _ = writeln!(text, "{:.3} s: {end:?}", seconds(*at_us));
        }
        for n in task.job.after.iter().flat_map(|after| &after.tasks) {
            let other = self.tasks.get(&TaskName { n: *n, ..name });
            let ends = other.map(|other| &other.ends);
            let _ = writeln!(text, "it waits for {n}, which ended: {ends:?}");
        }
        text
    }
}

fn violation(invariant: &str, task: Option<TaskName>, text: String) -> Result<(), Violation> {
    Err(Violation { invariant: invariant.to_owned(), task, text })
}

fn outcome(end: &End) -> Option<Outcome> {
    Some(match end.state.as_deref()? {
        "succeeded" => Outcome::Succeeded,
        "cancelled" => Outcome::Cancelled,
        "timed_out" => Outcome::TimedOut,
        "lost" => Outcome::Lost,
        _ => Outcome::Failed,
    })
}

/// Tasks with inputs that may all fail, each for a reason of its own.
const FEW: usize = 50;

/// The time after a fault in which it can end a task: peers are found to be gone after 15 s, and
/// their work waits for them as long again.
const AFTERMATH_US: u64 = 40_000_000;
