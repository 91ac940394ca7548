//! The record of what a farm did, as its users see it, and what must be true of every such record.
//!
//! It knows nothing of how the farm is made: the simulation and the tests with real processes fill
//! it alike. Each event is checked as it is recorded, at the cost of a look-up; the first
//! [`Violation`] stays, and [`History::check`] tells it. What can be decided only when everything
//! is over is decided by [`History::check_end`].

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use Invariant::{
    AnswersCome, AtMostOnceNeverTwice, BothSidesAgree, BudgetsAndCreditAreConserved,
    HonestPeersAreServed, NoEligibleTaskWaits, NothingAcknowledgedIsLost, NothingFollowsAnError,
    NothingSucceedsUnrun, OnDiskBeforeItIsTold, OneDeliveryEach, OneTerminalStateEach,
    OrderInAnEnginesQueue, OutcomesAreJust, PayloadsArriveIntact, QuietAtTheEnd, SessionsGoOn,
};

/// A property that always holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Invariant {
    /// A task ends once, whoever is asked how. It may end once more for the next broker, if the
    /// disk had failed and did not have its end when the broker was killed: that was told all the
    /// same.
    OneTerminalStateEach,
    /// A client's future of a task resolves once.
    OneDeliveryEach,
    /// Accepted work ends, unless the loss is one of those that are promised.
    NothingAcknowledgedIsLost,
    /// A task that may run once does not begin twice: at-most-once tasks, and those of one engine.
    AtMostOnceNeverTwice,
    /// Work that one client sends to one engine begins in that order. A task that the broker had
    /// ended itself, and of whose end neither the disk nor its client knew when it was killed,
    /// begins after all: behind what has begun meanwhile.
    OrderInAnEnginesQueue,
    /// A result comes from a run.
    NothingSucceedsUnrun,
    /// A task that is aborted after an error does not begin where that happened.
    NothingFollowsAnError,
    /// Nobody hears of a durable task's end before that is on disk.
    OnDiskBeforeItIsTold,
    /// Nothing is cancelled unasked, and nothing else is lost than what may be.
    OutcomesAreJust,
    /// The submitted call is what runs, and its return value is what arrives.
    PayloadsArriveIntact,
    /// No task that could run waits while an engine that could run it idles, beyond one exchange.
    NoEligibleTaskWaits,
    /// An engine has been assigned what the broker thinks that it has.
    BothSidesAgree,
    /// Held data count against budgets and credit, and nothing else does.
    BudgetsAndCreditAreConserved,
    /// Peers that keep to the protocol are let in, and not closed.
    HonestPeersAreServed,
    /// A session that comes back in time goes on.
    SessionsGoOn,
    /// Whoever asks is answered.
    AnswersCome,
    /// Nothing is left anywhere when everything has ended.
    QuietAtTheEnd,
}

/// A task: its client's number, and its own among that client's tasks, in the order of the submits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct TaskName {
    /// The client.
    pub client: u32,
    /// Its number among that client's tasks.
    pub n: u64,
}

/// The facts known of a task from its submit.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Facts {
    /// It may run once only.
    pub at_most_once: bool,
    /// The engine that it names, if it names one.
    pub engine: Option<u32>,
    /// It may run in a new interpreter after the one that had it is gone. What is on its way to the
    /// engine at that moment runs before it.
    pub restart_safe: bool,
    /// True if what is accepted of it outlives its client and the broker.
    pub durable: bool,
}

/// The end of a task.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// With a result.
    Succeeded,
    /// With an error: its own, or a refusal.
    Failed,
    /// By a cancel, or as what it was bound to was over.
    Cancelled,
    /// By a limit of its time.
    TimedOut,
    /// With its engine, its interpreter, or a broker.
    Lost,
}

/// A violation of what must hold.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Violation {
    /// The invariant that should hold.
    pub invariant: Invariant,
    /// The task of which it does not, if it is one task.
    pub task: Option<TaskName>,
    /// The description of the case.
    pub text: String,
}

/// All that was seen.
#[derive(Default, Debug)]
pub struct History {
    tasks: BTreeMap<TaskName, Seen>,
    /// For each client and engine: the last of its direct tasks that has begun there, of those that
    /// are not durable and of those that are.
    last_begun: BTreeMap<(u32, u32), [u64; 2]>,
    /// Engines of which an interpreter is gone.
    restarted: BTreeSet<u32>,
    /// True if a broker was killed.
    broker_was_killed: bool,
    /// Clients that nobody waits for.
    gone: BTreeSet<u32>,
    violation: Option<Violation>,
}

#[derive(Default, Debug)]
struct Seen {
    facts: Facts,
    accepted: bool,
    runs: u32,
    cancel_asked: bool,
    may_be_lost: bool,
    outcome: Option<Outcome>,
    /// True if the broker was killed when it had ended the task, which was not on disk or not told,
    /// or was dead when an engine could not begin it.
    is_end_lost: bool,
    delivered: bool,
}

impl History {
    /// A client has submitted a task.
    pub fn submitted(&mut self, task: TaskName, facts: Facts) {
        self.tasks.insert(task, Seen { facts, ..Seen::default() });
    }

    /// The farm has the task: from here on it must end.
    pub fn accepted(&mut self, task: TaskName) {
        self.seen(task).accepted = true;
    }

    /// Somebody asked for the task's end, or does what ends it: a cancel, an abort after another's
    /// error, a limit of time, the end of its session.
    pub fn cancel_asked(&mut self, task: TaskName) {
        self.seen(task).cancel_asked = true;
    }

    /// Something was broken that may cost this task: its engine, its interpreter, a broker without
    /// a journal.
    pub fn may_be_lost(&mut self, task: TaskName) {
        self.seen(task).may_be_lost = true;
    }

    /// An engine's interpreter is gone.
    pub fn interpreter_gone(&mut self, engine: u32) {
        self.restarted.insert(engine);
    }

    /// A broker was killed: it does not tell the next one what was lost with an interpreter, and
    /// what it has in a journal goes on before clients are back with the rest.
    pub fn broker_killed(&mut self) {
        self.broker_was_killed = true;
    }

    /// A run of the task has begun at an engine.
    pub fn began(&mut self, task: TaskName, engine: u32) {
        let seen = self.seen(task);
        seen.runs += 1;
        let (facts, runs) = (seen.facts, seen.runs);
        self.at_most_once_never_twice(task, facts, runs);
        self.order_in_an_engines_queue(task, facts, engine, runs);
    }

    /// Somebody who asked was told of a task's end: its client, or another process of the owner, or
    /// in a record.
    pub fn ended(&mut self, task: TaskName, outcome: Outcome) {
        let before = self.seen(task).outcome.replace(outcome);
        self.one_terminal_state_each(task, before, outcome);
        if before.is_none() {
            self.nothing_succeeds_unrun(task, outcome);
            self.outcomes_are_just(task, outcome);
        }
    }

    /// The broker was killed when it had ended the task, and the disk did not have that, or its
    /// client had not heard of it: it goes on. So does what an engine could not begin
    /// after that.
    pub fn end_lost(&mut self, task: TaskName) {
        self.seen(task).is_end_lost = true;
    }

    /// A client's future of a task has resolved.
    pub fn delivered(&mut self, task: TaskName, outcome: Outcome) {
        let before = std::mem::replace(&mut self.seen(task).delivered, true);
        self.one_delivery_each(task, before);
        self.ended(task, outcome);
    }

    /// Nobody waits for a task's end any longer.
    pub fn forgotten(&mut self, task: TaskName) {
        self.seen(task).accepted = false;
    }

    /// A client is gone, killed or with a goodbye: what was not durable of it need not end.
    pub fn client_gone(&mut self, client: u32) {
        self.gone.insert(client);
    }

    /// The number of times that the task has begun.
    pub fn runs(&self, task: TaskName) -> u32 {
        self.tasks.get(&task).map_or(0, |seen| seen.runs)
    }

    /// Returns true if something was broken that may cost the task.
    pub fn is_excused(&self, task: TaskName) -> bool {
        self.tasks.get(&task).is_some_and(|seen| seen.may_be_lost)
    }

    /// The outcome of the task, if it has ended.
    pub fn outcome(&self, task: TaskName) -> Option<Outcome> {
        self.tasks.get(&task)?.outcome
    }

    /// Returns true if the client's future of the task has resolved.
    pub fn is_delivered(&self, task: TaskName) -> bool {
        self.tasks.get(&task).is_some_and(|seen| seen.delivered)
    }

    /// The tasks that were submitted.
    pub fn tasks(&self) -> impl Iterator<Item = TaskName> {
        self.tasks.keys().copied()
    }

    /// Returns true if everything has ended that must.
    pub fn is_over(&self) -> bool {
        self.open_task().is_none()
    }

    /// Reports what was violated first, if anything was. It costs nothing.
    ///
    /// # Errors
    /// That.
    pub fn check(&self) -> Result<(), Violation> {
        self.violation.clone().map_or(Ok(()), Err)
    }

    /// The same when everything is over: all that could come has come.
    ///
    /// # Errors
    /// The first violation.
    pub fn check_end(&mut self) -> Result<(), Violation> {
        self.nothing_acknowledged_is_lost();
        self.check()
    }

    fn one_terminal_state_each(
        &mut self,
        task: TaskName,
        before: Option<Outcome>,
        outcome: Outcome,
    ) {
        if before.is_some_and(|before| before != outcome) && !self.tasks[&task].is_end_lost {
            self.violated(
                OneTerminalStateEach,
                task,
                format!("it ended {before:?}, and then {outcome:?}"),
            );
        }
    }

    fn one_delivery_each(&mut self, task: TaskName, delivered_before: bool) {
        if delivered_before {
            self.violated(OneDeliveryEach, task, "its end was delivered twice".to_owned());
        }
    }

    fn at_most_once_never_twice(&mut self, task: TaskName, facts: Facts, runs: u32) {
        let once = facts.at_most_once || facts.engine.is_some();
        if once && runs > 1 {
            self.violated(AtMostOnceNeverTwice, task, format!("it has begun {runs} times"));
        }
    }

    fn order_in_an_engines_queue(&mut self, task: TaskName, facts: Facts, engine: u32, runs: u32) {
        if facts.engine.is_none() || runs > 1 {
            return;
        }
        if facts.engine != Some(engine) {
            self.violated(
                OrderInAnEnginesQueue,
                task,
                format!("it is for {:?} and began at {engine}", facts.engine),
            );
            return;
        }
        let goes_on = self.tasks[&task].is_end_lost;
        if goes_on
            || (facts.restart_safe || self.broker_was_killed) && self.restarted.contains(&engine)
        {
            return;
        }
        let kind = usize::from(facts.durable);
        let last = self.last_begun.entry((task.client, engine)).or_default();
        let before = if self.broker_was_killed { last[kind] } else { last[0].max(last[1]) };
        last[kind] = task.n;
        if before > task.n {
            self.violated(
                OrderInAnEnginesQueue,
                task,
                format!("it began at {engine} after task {before}"),
            );
        }
    }

    fn nothing_succeeds_unrun(&mut self, task: TaskName, outcome: Outcome) {
        if outcome == Outcome::Succeeded && self.runs(task) == 0 {
            self.violated(NothingSucceedsUnrun, task, "it has a result and never began".to_owned());
        }
    }

    fn outcomes_are_just(&mut self, task: TaskName, outcome: Outcome) {
        let seen = &self.tasks[&task];
        let just = match outcome {
            Outcome::Succeeded | Outcome::Failed => true,
            Outcome::Cancelled | Outcome::TimedOut => {
                seen.cancel_asked || self.gone.contains(&task.client)
            }
            Outcome::Lost => seen.may_be_lost,
        };
        if !just {
            self.violated(
                OutcomesAreJust,
                task,
                format!("it ended {outcome:?}, for no reason that is known"),
            );
        }
    }

    fn nothing_acknowledged_is_lost(&mut self) {
        if let Some(task) = self.open_task() {
            self.violated(
                NothingAcknowledgedIsLost,
                task,
                "it was accepted and never ended".to_owned(),
            );
        }
    }

    /// A task that must end, and has not.
    /// A task that must end and has not.
    pub fn open_task(&self) -> Option<TaskName> {
        let must_end = |name: &TaskName, seen: &Seen| {
            seen.accepted
                && (seen.facts.durable || !self.gone.contains(&name.client))
                && seen.outcome.is_none()
        };
        self.tasks.iter().find(|(name, seen)| must_end(name, seen)).map(|(name, _)| *name)
    }

    fn violated(&mut self, invariant: Invariant, task: TaskName, text: String) {
        self.violation.get_or_insert(Violation { invariant, task: Some(task), text });
    }

    fn seen(&mut self, task: TaskName) -> &mut Seen {
        self.tasks.entry(task).or_default()
    }
}

impl fmt::Display for Invariant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            OneTerminalStateEach => "one_terminal_state_each",
            OneDeliveryEach => "one_delivery_each",
            NothingAcknowledgedIsLost => "nothing_acknowledged_is_lost",
            AtMostOnceNeverTwice => "at_most_once_never_twice",
            OrderInAnEnginesQueue => "order_in_an_engines_queue",
            NothingSucceedsUnrun => "nothing_succeeds_unrun",
            NothingFollowsAnError => "nothing_follows_an_error",
            OnDiskBeforeItIsTold => "on_disk_before_it_is_told",
            OutcomesAreJust => "outcomes_are_just",
            PayloadsArriveIntact => "payloads_arrive_intact",
            NoEligibleTaskWaits => "no_eligible_task_waits_while_an_eligible_engine_idles",
            BothSidesAgree => "both_sides_agree",
            BudgetsAndCreditAreConserved => "budgets_and_credit_are_conserved",
            HonestPeersAreServed => "honest_peers_are_served",
            SessionsGoOn => "sessions_go_on",
            AnswersCome => "answers_come",
            QuietAtTheEnd => "quiet_at_the_end",
        })
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.task {
            Some(TaskName { client, n }) => {
                write!(f, "{}: task {n} of client {client}: {}", self.invariant, self.text)
            }
            None => write!(f, "{}: {}", self.invariant, self.text),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Facts, History, Invariant, Outcome, TaskName};

    const TASK: TaskName = TaskName { client: 1, n: 2 };

    fn of(facts: Facts) -> History {
        let mut history = History::default();
        history.submitted(TASK, facts);
        history.submitted(TaskName { n: 1, ..TASK }, facts);
        history.accepted(TASK);
        history
    }

    fn violated(history: &mut History) -> Option<Invariant> {
        history.check_end().err().map(|violation| violation.invariant)
    }

    #[test]
    fn a_task_that_runs_and_ends_violates_nothing() {
        let mut history = of(Facts::default());
        history.began(TASK, 0);
        history.began(TASK, 1);
        history.delivered(TASK, Outcome::Succeeded);
        history.ended(TASK, Outcome::Succeeded);
        assert_eq!(history.check_end(), Ok(()));
    }

    #[test]
    fn an_end_that_the_disk_has_lost_may_be_another_one_later() {
        for is_lost in [false, true] {
            let mut history = of(Facts::default());
            history.delivered(TASK, Outcome::Failed);
            if is_lost {
                history.end_lost(TASK);
            }
            history.ended(TASK, Outcome::Succeeded);
            assert_eq!(history.check_end().is_ok(), is_lost);
        }
    }

    #[test]
    fn what_goes_on_as_its_end_was_lost_may_begin_behind_later_ones() {
        for is_lost in [false, true] {
            let mut history = of(Facts { engine: Some(3), ..Facts::default() });
            history.began(TASK, 3);
            if is_lost {
                history.end_lost(TaskName { n: 1, ..TASK });
            }
            history.began(TaskName { n: 1, ..TASK }, 3);
            assert_eq!(history.check().is_ok(), is_lost);
        }
    }

    #[test]
    fn each_invariant_is_seen_to_be_violated() {
        let mut twice = of(Facts { at_most_once: true, ..Facts::default() });
        (0..2).for_each(|engine| twice.began(TASK, engine));
        let mut order = of(Facts { engine: Some(3), ..Facts::default() });
        order.began(TASK, 3);
        order.began(TaskName { n: 1, ..TASK }, 3);
        let mut changed = of(Facts::default());
        changed.delivered(TASK, Outcome::Failed);
        changed.ended(TASK, Outcome::Succeeded);
        let mut delivered = of(Facts::default());
        (0..2).for_each(|_| delivered.delivered(TASK, Outcome::Failed));
        let mut unrun = of(Facts::default());
        unrun.delivered(TASK, Outcome::Succeeded);
        let mut unjust = of(Facts::default());
        unjust.delivered(TASK, Outcome::Lost);
        let histories = [twice, order, changed, delivered, unrun, unjust, of(Facts::default())];
        let expected = [
            Invariant::AtMostOnceNeverTwice,
            Invariant::OrderInAnEnginesQueue,
            Invariant::OneTerminalStateEach,
            Invariant::OneDeliveryEach,
            Invariant::NothingSucceedsUnrun,
            Invariant::OutcomesAreJust,
            Invariant::NothingAcknowledgedIsLost,
        ];
        for (mut history, invariant) in histories.into_iter().zip(expected) {
            assert_eq!(violated(&mut history), Some(invariant));
        }
    }
}
