//! The tasks of one peer: those that run, the ends that wait to be asked for, and the requests that
//! wait for an end.

use std::collections::BTreeMap;

use furlong_client::{Client, TaskFuture, TaskId, TaskOutcome};
use furlong_wire::ids::TaskSeq;
use futures_util::StreamExt;
use futures_util::future::{BoxFuture, FutureExt};
use futures_util::stream::FuturesUnordered;

use crate::answer::{Node, outcome, outcome_bytes};
use crate::limits::{ANSWER_BYTES_MAX, OUTSTANDING_MAX, RESULTS_BYTES_MAX, RESULTS_MAX};
use crate::request::{Format, Refusal};

/// The tasks of one peer, by the numbers that it knows them under.
pub(crate) struct Tasks {
    client: Client,
    next: u64,
    running: BTreeMap<u64, Running>,
    futures: FuturesUnordered<BoxFuture<'static, (u64, Vec<TaskOutcome>)>>,
    ended: BTreeMap<u64, Ended>,
    ended_bytes: usize,
}

/// Tasks under one number that have not all ended.
struct Running {
    ids: Vec<TaskId>,
    is_detached: bool,
    shape: Shape,
}

/// The ends of all tasks under one number.
#[derive(Debug)]
pub(crate) struct Ended {
    outcomes: Vec<TaskOutcome>,
    bytes: usize,
    shape: Shape,
}

/// The form of the answer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Shape {
    /// One task.
    One,
    /// A list of them.
    List,
}

/// The state of a number.
#[derive(Debug)]
pub(crate) enum Found {
    /// Not all its tasks have ended.
    Running,
    /// It has ended; this takes its result.
    Ended(Ended),
}

impl Tasks {
    pub(crate) fn new(client: Client) -> Self {
        Self {
            client,
            next: 1,
            running: BTreeMap::new(),
            futures: FuturesUnordered::new(),
            ended: BTreeMap::new(),
            ended_bytes: 0,
        }
    }

    /// Tasks that have not ended: counted as submitted.
    fn outstanding(&self) -> usize {
        self.running.values().map(|it| it.ids.len()).sum()
    }

    /// Numbers with tasks that run, and with results that wait.
    pub(crate) fn counts(&self) -> (usize, usize) {
        (self.running.len(), self.ended.len())
    }

    /// Refuses more tasks than a peer may have.
    pub(crate) fn check_room(&self, tasks: usize) -> Result<(), Refusal> {
        if self.outstanding() + tasks <= OUTSTANDING_MAX {
            return Ok(());
        }
        let message = format!(
            "{} tasks have not ended, and {tasks} more are over the {OUTSTANDING_MAX} of a \
             connection; take results first",
            self.outstanding()
        );
        Err(Refusal::new("TooMany", message))
    }

    /// Takes in what was submitted together, and returns its number and the tasks' ids.
    pub(crate) fn add(&mut self, tasks: Vec<TaskFuture>, shape: Shape, is_detached: bool) -> Node {
        let number = self.next;
        self.next += 1;
        let ids: Vec<TaskId> = tasks.iter().map(TaskFuture::id).collect();
        let names = ids.iter().map(|id| Node::Text(id.to_string())).collect();
        self.running.insert(number, Running { ids, is_detached, shape });
        let ends = async move {
            let mut ends = Vec::with_capacity(tasks.len());
            for task in tasks {
                ends.push(task.await);
            }
            (number, ends)
        };
        self.futures.push(ends.boxed());
        Node::Map(vec![("task", Node::Uint(number)), ("ids", Node::List(names))])
    }

    /// Waits for the next number whose tasks have all ended. Nothing is lost if it is dropped.
    pub(crate) async fn next_ended(&mut self) -> u64 {
        let Some((number, outcomes)) = self.futures.next().await else {
            return std::future::pending().await;
        };
        let running = self.running.remove(&number).expect("a number ends once");
        let bytes = outcomes.iter().map(outcome_bytes).sum();
        self.ended_bytes += bytes;
        self.ended.insert(number, Ended { outcomes, bytes, shape: running.shape });
        number
    }

    /// Lets the oldest results go that are over the bounds.
    pub(crate) fn let_go(&mut self) {
        while self.ended.len() > RESULTS_MAX || self.ended_bytes > RESULTS_BYTES_MAX {
            let Some((_, oldest)) = self.ended.pop_first() else { return };
            self.ended_bytes -= oldest.bytes;
        }
    }

    /// Finds a number, and takes its result if it has one.
    pub(crate) fn take(&mut self, number: u64) -> Result<Found, Refusal> {
        if let Some(ended) = self.ended.remove(&number) {
            self.ended_bytes -= ended.bytes;
            return Ok(Found::Ended(ended));
        }
        self.check(number).map(|_| Found::Running)
    }

    /// The state of a number, as text.
    pub(crate) fn check(&self, number: u64) -> Result<&'static str, Refusal> {
        if self.running.contains_key(&number) {
            return Ok("pending");
        }
        if self.ended.contains_key(&number) {
            return Ok("ended");
        }
        if (1..self.next).contains(&number) {
            let message = format!(
                "the result of task {number} is not kept any more: it was fetched, or it was let \
                 go as the oldest of more than {RESULTS_MAX} results or {} MiB",
                RESULTS_BYTES_MAX >> 20
            );
            return Err(Refusal::new("NotKept", message));
        }
        let message = format!("this connection has submitted no task {number}");
        Err(Refusal::new("NoSuchTask", message))
    }

    /// Cancels what runs under a number.
    pub(crate) fn cancel(&self, number: u64) -> Result<(), Refusal> {
        self.check(number)?;
        if let Some(running) = self.running.get(&number) {
            cancel(&self.client, &running.ids);
        }
        Ok(())
    }

    /// Cancels all that runs and is not detached, since its peer has gone.
    pub(crate) fn cancel_attached(&self) {
        for running in self.running.values().filter(|it| !it.is_detached) {
            cancel(&self.client, &running.ids);
        }
    }
}

impl Ended {
    /// The answer with the result.
    pub(crate) fn answer(&self, format: Format) -> Result<Node, Refusal> {
        // What is base64 in JSON grows by a third: the bound is for what the tasks gave.
        if self.bytes > ANSWER_BYTES_MAX {
            let message = format!(
                "the result has about {} bytes, and an answer {ANSWER_BYTES_MAX} at most; return \
                 less, or write it into a file",
                self.bytes
            );
            return Err(Refusal::new("TooLarge", message));
        }
        match (self.shape, &self.outcomes[..]) {
            (Shape::One, [only]) => Ok(outcome(format, only)),
            (_, outcomes) => {
                let is_done = outcomes.iter().all(Result::is_ok);
                let state = if is_done { "done" } else { "failed" };
                let results = outcomes.iter().map(|it| outcome(format, it)).collect();
                let state = Node::Text(state.to_owned());
                Ok(Node::Map(vec![("state", state), ("results", Node::List(results))]))
            }
        }
    }
}

fn cancel(client: &Client, ids: &[TaskId]) {
    client.cancel_numbers(&ranges(ids.iter().map(|id| id.n)));
}

/// Numbers as ranges: those of a map follow one another, unless another peer came between.
fn ranges(numbers: impl Iterator<Item = TaskSeq>) -> Vec<(TaskSeq, TaskSeq)> {
    let mut ranges: Vec<(TaskSeq, TaskSeq)> = Vec::new();
    for n in numbers {
        match ranges.last_mut() {
            Some((_, last)) if n.checked_sub(*last) == Some(1) => *last = n,
            _ => ranges.push((n, n)),
        }
    }
    ranges
}
